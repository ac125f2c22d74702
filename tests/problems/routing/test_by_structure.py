"""What theory says of routing, where counts alone are limited: flows, vertices, prices, curves.

Costs are random whole joules, so that ties are frequent and optima are exact.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from itertools import pairwise, permutations
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from oracles.routing import (
    assigned,
    feasible,
    instances,
    limit,
    llama,
    objective,
    open_pairs,
    plain,
    table,
    term,
)
from scipy.optimize import Bounds, LinearConstraint, linear_sum_assignment, linprog, milp

import greenopt as go
from greenopt.certifying import certify
from greenopt.io import to_model
from greenopt.problems.routing.check import evaluate

NAMES = ["llama-2-7b", "llama-2-13b", "llama-2-70b"]
ZETAS = np.linspace(0, 1, 21)
JOULES = [{"terms": [term("energy_kwh", 1.0, scale=1 / 3.6e6)]}]
"""Energy in joules as the objective."""

Sides = dict[tuple[int, ...], tuple[float, float]]
"""Smallest and largest number of queries on sets of deployments."""

SETS = {"disjoint": [(0,), (1,), (2,)], "nested": [(0,), (0, 1), (2,), (0, 1, 2)]}

FLOWS = """
import json, sys
from ortools.graph.python.min_cost_flow import SimpleMinCostFlow

for nodes, arcs in json.load(sys.stdin):
    flow, supply = SimpleMinCostFlow(), [0] * nodes
    base = 0
    for tail, head, lower, upper, cost in arcs:
        flow.add_arc_with_capacity_and_unit_cost(tail, head, upper - lower, cost)
        supply[tail] -= lower
        supply[head] += lower
        base += lower * cost
    for node, number in enumerate(supply):
        flow.set_node_supply(node, number)
    done = flow.solve() == flow.OPTIMAL
    print(base + flow.optimal_cost() if done else "null")
"""
"""Cheapest flows that go round, with smallest flows of arcs: one line for each network."""

RELAXED = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=True
)


def counted(joules: Any, count: Sequence[int], sides: Sides, **changes: Any) -> go.RoutingInstance:
    """Kinds of queries with given energies on the three models, and limits on counts."""
    queries = [(n, 10 * (i + 1), 5) for i, n in enumerate(count)]
    return go.RoutingInstance.parse(
        plain(
            queries,
            **{
                "deployments": [llama(name, energy=None) for name in NAMES],
                "energy_j": np.asarray(joules, dtype=float),
                "limits": [
                    limit(f"l{members}", "queries", [NAMES[k] for k in members], low, high)
                    for members, (low, high) in sides.items()
                ],
                "objective": JOULES,
                **changes,
            },
        )
    )


def random_counts(
    seed: int, sets: str = "disjoint", kinds: int = 12
) -> tuple[np.ndarray, np.ndarray, Sides]:
    """Energies, counts and sides that some plan keeps to, closely."""
    rng = np.random.default_rng(seed)
    joules = rng.integers(0, 40, (kinds, 3))
    count = rng.integers(0, 6, kinds)
    count[0] += 1
    plan = np.array([rng.multinomial(n, [0.2, 0.3, 0.5]) for n in count]).sum(axis=0)
    sides = {}
    for members in SETS[sets]:
        total = int(plan[list(members)].sum())
        sides[members] = (max(0, total - rng.integers(0, 4)), total + rng.integers(0, 4))
    return joules, count, sides


def solved(instance: go.RoutingInstance) -> go.Solution:
    """An optimal plan, checked."""
    solution = go.solve(instance, gap=0)
    assert solution.status == go.Status.OPTIMAL, solution.report
    assert go.check(instance, solution).ok
    return solution


def plan_of(solution: go.Solution) -> np.ndarray:
    """Queries by kind and deployment."""
    return solution.array("assigned").dense()


def worth(instance: go.RoutingInstance, plan: np.ndarray) -> float:
    """Value of a plan from elsewhere, which the checker accepts."""
    found = evaluate(instance, assigned(instance, plan), 1e-6)
    assert not found.violations
    return float(found.stages[0])


# Flows


def by_assignment(joules: np.ndarray, count: np.ndarray, sides: Sides) -> float:
    """Optimum as an assignment of single queries to places of deployments.

    Places up to the lower side must be taken by queries, the rest may be taken by nobody.
    """
    place, needed = [], []
    for (k,), (lower, upper) in sides.items():
        place += [k] * int(upper)
        needed += [True] * int(lower) + [False] * int(upper - lower)
    costs = np.repeat(joules, count, axis=0)[:, place].astype(float)
    nobody = np.where(needed, 1e6, 0.0)
    every = np.vstack([costs, np.tile(nobody, (len(place) - len(costs), 1))])
    return float(every[linear_sum_assignment(every)].sum())


def network(joules: np.ndarray, count: np.ndarray, sides: Sides) -> tuple[int, list[list[int]]]:
    """Nodes and arcs (from, to, least, most, cost): queries, deployments, sets from small to large.

    From each deployment a way leads through the sets that it belongs to; all ways end where the
    queries come from.
    """
    source, kinds = 0, len(count)
    nodes = 1 + kinds + 3
    arcs = [[source, 1 + q, int(n), int(n), 0] for q, n in enumerate(count)]
    arcs += [
        [1 + q, 1 + kinds + k, 0, int(count[q]), int(joules[q, k])]
        for q in range(kinds)
        for k in range(3)
    ]
    ends = {(k,): 1 + kinds + k for k in range(3)}  # sets that have no way out yet
    for members in sorted(sides, key=len):
        inside = [own for own in ends if set(own) <= set(members)]
        arcs += [[ends.pop(own), nodes, 0, int(count.sum()), 0] for own in inside]
        arcs.append([nodes, nodes + 1, *map(int, sides[members]), 0])
        ends[members] = nodes + 1
        nodes += 2
    arcs += [[end, source, 0, int(count.sum()), 0] for end in ends.values()]
    return nodes, arcs


@pytest.mark.parametrize("seed", range(10))
def test_assignment_of_single_queries(seed: int) -> None:
    """Each query by itself, in a place of a deployment: the same energy by `scipy`."""
    joules, count, sides = random_counts(seed)
    solution = solved(counted(joules, count, sides))
    assert solution.objective == pytest.approx(by_assignment(joules, count, sides), abs=1e-6)


@pytest.mark.parametrize("sets", SETS)
def test_cheapest_flow(sets: str) -> None:
    """A flow through queries, deployments and sets of them: the same energy by OR-Tools.

    OR-Tools runs in a process of its own, because it cannot share one with HiGHS.
    """
    cases = [random_counts(seed, sets) for seed in range(20)]
    networks = [network(*case) for case in cases]
    command = [sys.executable, "-c", FLOWS]
    found = subprocess.run(
        command, input=json.dumps(networks), capture_output=True, text=True, check=True
    )
    expected = [json.loads(line) for line in found.stdout.splitlines()]
    values = [solved(counted(*case)).objective for case in cases]
    assert values == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("sets", SETS)
@pytest.mark.parametrize("seed", range(5))
def test_every_vertex_is_whole(sets: str, seed: int) -> None:
    """The linear program is enough: whatever the costs, a vertex has whole numbers of queries."""
    model = to_model(counted(*random_counts(seed, sets)))
    assert not model.is_integer
    rng = np.random.default_rng(seed)
    for costs in [model.stages[0].c, *rng.normal(size=(5, model.matrix.shape[1]))]:
        found = linprog(
            costs,
            A_ub=np.vstack([model.matrix.toarray(), -model.matrix.toarray()]),
            b_ub=np.concatenate([model.row_upper, -model.row_lower]),
            bounds=np.column_stack([model.column_lower, model.column_upper]),
            method="highs-ds",
        )
        assert found.status == 0
        assert np.abs(found.x - np.round(found.x)).max() < 1e-7


@pytest.mark.parametrize("sets", SETS)
@pytest.mark.parametrize("seed", range(5))
def test_whole_numbers_cost_nothing(sets: str, seed: int) -> None:
    """Property 4: the linear relaxation has the value of whole numbers, and is the bound."""
    instance = counted(*random_counts(seed, sets))
    model, solution = to_model(instance), solved(instance)
    sums = LinearConstraint(model.matrix, model.row_lower, model.row_upper)
    relaxed, whole = (
        milp(
            model.stages[0].c,
            integrality=np.full(model.matrix.shape[1], whole),
            bounds=Bounds(model.column_lower, model.column_upper),
            constraints=sums,
        ).fun
        for whole in (0, 1)
    )
    assert relaxed == pytest.approx(whole, abs=1e-6)
    assert solution.objective == pytest.approx(whole, abs=1e-6)
    assert solution.bound == pytest.approx(whole, abs=1e-6)
    assert certify(instance, solution).optimal


# Energy against accuracy


def traded(zeta: float, seed: int, **changes: Any) -> go.RoutingInstance:
    """Energy against accuracy, every model used, with Alpaca-like queries."""
    rng = np.random.default_rng(seed)
    queries = [
        (float(rng.integers(1, 4)), float(rng.integers(8, 60)), float(rng.integers(8, 600)))
        for _ in range(12)
    ]
    terms = [
        term("energy_kwh", zeta, "largest"),
        term("accuracy_percent_tokens", zeta - 1, "largest"),
    ]
    used = [limit(f"{name} is used", "queries", [name], lower=2.0) for name in NAMES]
    changes = {"limits": used, "objective": [{"terms": terms}], **changes}
    return go.RoutingInstance.parse(plain(queries, **changes))


def lines(seed: int) -> tuple[list[float], np.ndarray]:
    """Optimal values over zeta, and energy and accuracy of each plan as in the objective."""
    found = [solved(traded(zeta, seed)) for zeta in ZETAS]
    sums = [
        [float((plan_of(one) * objective(traded(zeta, seed), 0)).sum()) for zeta in (1.0, 0.0)]
        for one in found
    ]
    return [one.objective for one in found], np.array(sums) * [1, -1]


@pytest.mark.parametrize("seed", range(3))
def test_energy_and_accuracy_fall_with_zeta(seed: int) -> None:
    """Property 1: the more energy counts, the less of it is used, and the less accurate it is.

    This holds for any optimal plans at two different weights, also between ties.
    """
    _, sums = lines(seed)
    assert np.all(np.diff(sums, axis=0) <= 1e-9 * np.abs(sums).max(axis=0))
    assert np.all(sums[0] > sums[-1])


@pytest.mark.parametrize("seed", range(3))
def test_value_is_the_least_of_lines(seed: int) -> None:
    """Property 2: the value is concave in zeta, and each plan's line touches it from above."""
    values, sums = lines(seed)
    by_plan = np.outer(sums[:, 0], ZETAS) - np.outer(sums[:, 1], 1 - ZETAS)
    assert np.diagonal(by_plan) == pytest.approx(values, abs=1e-9)
    assert np.all(by_plan >= np.array(values) - 1e-9)
    assert np.all(np.diff(values, 2) <= 1e-9)


@given(instances(accuracy=True, floor=False, stages=False))
@RELAXED
def test_value_over_every_plan(instance: go.RoutingInstance) -> None:
    """Property 2 on tiny instances with any limits: the least of the lines of every plan."""
    every = feasible(instance)
    if not len(every):
        return
    energy, accuracy = (
        np.einsum("pqk,qk->p", every, table(instance, metric))
        for metric in ("energy_kwh", "accuracy_percent_tokens")
    )
    for zeta in (0.0, 0.3, 0.9):
        terms = [
            term("energy_kwh", zeta, scale=1e-4),
            term("accuracy_percent_tokens", zeta - 1, scale=1e4),
        ]
        solution = go.solve(instance.replace(objective=[{"terms": terms}]), gap=0)
        least = float((zeta * energy / 1e-4 - (1 - zeta) * accuracy / 1e4).min())
        assert solution.objective == pytest.approx(least, rel=1e-7, abs=1e-9)


def greedy(costs: np.ndarray, count: np.ndarray) -> np.ndarray:
    """Each query to its cheapest deployment, then the least regretted ones to those left idle."""
    plan = np.zeros_like(costs)
    plan[np.arange(len(count)), costs.argmin(axis=1)] = count
    for k in np.flatnonzero(plan.sum(axis=0) < 2):
        while plan[:, k].sum() < 2:
            spare = plan * (plan.sum(axis=0) > 2)
            regret = np.where(spare > 0, costs[:, [k]] - costs, np.inf)
            q, old = np.unravel_index(regret.argmin(), regret.shape)
            plan[q, old] -= 1
            plan[q, k] += 1
    return plan


def one_by_one(count: np.ndarray, to: Sequence[int]) -> np.ndarray:
    """Plan of single queries, in order, on the deployments named."""
    plan = np.zeros((len(count), 3))
    np.add.at(plan, (np.repeat(np.arange(len(count)), count.astype(int)), list(to)), 1)
    return plan


def baselines(instance: go.RoutingInstance, seed: int) -> dict[str, np.ndarray]:
    """Plans of rules that use every model."""
    rng, count = np.random.default_rng(seed), instance.count
    costs, n = objective(instance, 0), int(count.sum())
    # As published: what counts is chosen with sums over all queries for coefficients, so the
    # cheapest model gets all but the two queries that each of the others must have.
    cheapest = int((count @ costs).argmin())
    others = [k for k in range(3) if k != cheapest]
    return {
        "round robin": one_by_one(count, np.arange(n) % 3),
        "random": one_by_one(
            count, rng.permutation(np.append(np.arange(6) % 3, rng.integers(0, 3, n - 6)))
        ),
        "greedy": greedy(costs, count),
        "published": one_by_one(count, [*others, *others, *[cheapest] * (n - 4)]),
    }


@pytest.mark.parametrize("zeta", [0.0, 0.2, 0.5, 1.0])
@pytest.mark.parametrize("seed", range(3))
def test_never_above_a_baseline(zeta: float, seed: int) -> None:
    """Property 3: no rule has a better plan; all of them are feasible, and most are worse."""
    instance = traded(zeta, seed)
    best, above = solved(instance), []
    for plan in baselines(instance, seed).values():
        assert plan.sum(axis=1) == pytest.approx(instance.count)
        above.append(worth(instance, plan) - best.objective)
    assert min(above) >= -1e-9
    assert sum(more > 1e-6 for more in above) >= 3


# Prices


def prices(instance: go.RoutingInstance, solution: go.Solution) -> np.ndarray:
    """Costs of pairs after the prices of the limits that their deployments are in."""
    costs = np.where(open_pairs(instance), objective(instance, 0), np.inf)
    multipliers = solution.array("limit").dense()
    for one, price in zip(instance.limits, multipliers, strict=True):
        members = [name in (one.deployments or NAMES) for name in NAMES]
        costs = costs - price * np.array(members)
    return costs


@pytest.mark.parametrize("sets", SETS)
@pytest.mark.parametrize("seed", range(5))
def test_each_query_is_where_it_is_cheapest(sets: str, seed: int) -> None:
    """Property 5: at the prices of the limits, every query is at its cheapest deployment.

    Prices lean on sides that are met. The price of a query is what it costs there or, where no
    query of its kind is elsewhere, up to what it would cost at the second cheapest.
    """
    instance = counted(*random_counts(seed, sets))
    solution = solved(instance)
    plan, costs = plan_of(solution), prices(instance, solution)
    least = costs.min(axis=1)
    assert np.where(plan > 0, costs - least[:, None], 0.0).max() < 1e-6
    there = instance.count > 0  # what a query costs where there is none of its kind is open
    demand = solution.array("demand").dense()[there]
    first, second, _ = np.sort(costs[there], axis=1).T
    assert np.all((first - 1e-6 <= demand) & (demand <= second + 1e-6))
    for one, price in zip(instance.limits, solution.array("limit").dense(), strict=True):
        used = sum(plan[:, k].sum() for k in range(3) if NAMES[k] in one.deployments)
        assert price <= 1e-9 or used == one.lower
        assert price >= -1e-9 or used == one.upper


@pytest.mark.parametrize("seed", range(5))
def test_no_cycle_of_queries_is_cheaper(seed: int) -> None:
    """Property 5, without prices: no exchange between two or three deployments helps."""
    instance = counted(*random_counts(seed))
    plan, costs = plan_of(solved(instance)), objective(instance, 0)
    cheapest = np.full((3, 3), np.inf)  # cheapest move of a query from one to another
    for old, new in permutations(range(3), 2):
        there = plan[:, old] > 0
        cheapest[old, new] = (costs[:, new] - costs[:, old])[there].min(initial=np.inf)
    for ring in [*permutations(range(3), 2), *permutations(range(3), 3)]:
        assert sum(cheapest[a, b] for a, b in pairwise([*ring, ring[0]])) >= -1e-9


# Symmetry


@pytest.mark.parametrize("seed", range(5))
def test_order_does_not_matter(seed: int) -> None:
    """Property 6: queries in another order have the same plan in that order, where it is unique."""
    _, count, sides = random_counts(seed)
    rng = np.random.default_rng(seed)
    joules = rng.uniform(0, 40, (len(count), 3))
    order, turned = rng.permutation(len(count)), [2, 0, 1]
    first = solved(counted(joules, count, sides))
    second = solved(counted(joules[order], count[order], sides))
    assert second.objective == pytest.approx(first.objective, rel=1e-12)
    assert np.array_equal(plan_of(second), plan_of(first)[order])
    moved = {(turned.index(k),): side for (k,), side in sides.items()}
    third = solved(counted(joules[:, turned], count, moved))
    assert np.array_equal(plan_of(third), plan_of(first)[:, turned])


@pytest.mark.parametrize("seed", range(5))
def test_equal_queries_may_be_counted_or_listed(seed: int) -> None:
    """Property 6: equal queries one by one cost what their kind does, and change places freely."""
    joules, count, sides = random_counts(seed)
    listed = counted(np.repeat(joules, count, axis=0), [1] * int(count.sum()), sides)
    together, apart = solved(counted(joules, count, sides)), solved(listed)
    assert apart.objective == pytest.approx(together.objective, abs=1e-9)
    plan = plan_of(apart)
    kind = np.repeat(np.arange(len(count)), count)
    order = np.lexsort([np.random.default_rng(seed).random(len(kind)), kind])
    assert worth(listed, plan[order]) == pytest.approx(apart.objective, abs=1e-9)


@pytest.mark.parametrize("seed", range(5))
def test_limits_only_take_away(seed: int) -> None:
    """Property 7: without limits each query goes its own way; each further limit costs or not."""
    joules, count, sides = random_counts(seed, "nested")
    values = [
        solved(counted(joules, count, dict(list(sides.items())[:n]))).objective
        for n in range(len(sides) + 1)
    ]
    assert values[0] == pytest.approx(float(count @ joules.min(axis=1)), abs=1e-9)
    assert np.all(np.diff(values) >= -1e-9)
    assert values[-1] > values[0]


@pytest.mark.parametrize("sets", SETS)
def test_equal_models_are_all_the_same(sets: str) -> None:
    """Property 8: where models do not differ, every plan within the limits is optimal."""
    joules, count, sides = random_counts(1, sets)
    same = np.repeat(joules[:, :1], 3, axis=1)
    instance, expected = counted(same, count, sides), float(count @ joules[:, 0])
    assert solved(instance).objective == pytest.approx(expected, abs=1e-9)
    others = counted(np.random.default_rng(2).integers(0, 40, same.shape), count, sides)
    assert worth(instance, plan_of(solved(others))) == pytest.approx(expected, abs=1e-9)
