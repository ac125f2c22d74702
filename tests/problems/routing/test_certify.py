"""The certifier of routing: bounds from any multipliers, the relaxation's from the best ones."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles import routing as oracle
from oracles.routing import assigned, instances, limit, plain, small, term
from scipy.optimize import linprog

import greenopt as go
from greenopt.errors import InstanceError, SolutionError
from greenopt.labelled import LabelledArray
from greenopt.problems.routing.certify import lower_bound
from greenopt.problems.routing.check import evaluate
from greenopt.problems.routing.instance import RoutingInstance
from greenopt.results import StageResult, Status

Marginals = dict[str, LabelledArray]


def marginals(
    instance: RoutingInstance, limits: Any = (), floor: float = 0.0, stages: Any = ()
) -> Marginals:
    """Multipliers of limits in their order, of the accuracy floor, and of earlier stages."""
    names = tuple(one.name for one in instance.limits)
    codes = np.arange(len(names))[None, :]
    dense = np.zeros(len(names))
    dense[: len(limits)] = limits
    found = {"limit": LabelledArray("limit", "1", {"limit": names}, codes, dense)}
    single = {"accuracy_floor": floor} | {f"stage_{i}": value for i, value in enumerate(stages)}
    for name, value in single.items():
        found[name] = LabelledArray.from_dense(name, "1", {}, value)
    return found


def relaxation(
    instance: RoutingInstance, stage: int, earlier: list[float]
) -> tuple[float, Marginals] | None:
    """Optimum of the linear relaxation from the page's rows, and its multipliers; None if none."""
    cost, closed = oracle.objective(instance, stage), ~oracle.open_pairs(instance)
    rows: list[tuple[str, float, Any, float]] = []  # sign x values x <= sign x side
    for name, row in oracle.rows(instance).items():
        sides = [(1.0, row.upper), (-1.0, row.lower)]
        rows += [(name, sign, row.values, side) for sign, side in sides if np.isfinite(side)]
    for number, value in enumerate(earlier):
        most = value + instance.objective[number].tolerance * max(abs(value), 1.0)
        rows.append((f"stage_{number}", 1.0, oracle.objective(instance, number), most))
    kinds, places = cost.shape
    found = linprog(
        cost.ravel(),
        A_ub=np.array([sign * values.ravel() for _, sign, values, _ in rows]) if rows else None,
        b_ub=[sign * side for _, sign, _, side in rows] if rows else None,
        A_eq=np.kron(np.eye(kinds), np.ones(places)),
        b_eq=instance.count,
        bounds=[(0.0, 0.0 if flag else None) for flag in closed.ravel()],
    )
    if not found.success:
        return None
    duals: dict[str, float] = {}
    for (name, sign, _, _), dual in zip(rows, found.ineqlin.marginals, strict=True):
        duals[name] = duals.get(name, 0.0) + sign * dual
    return float(found.fun), marginals(
        instance,
        [duals[f"limit {one.name}"] for one in instance.limits],
        duals.get("accuracy_floor", 0.0),
        [duals[f"stage_{i}"] for i in range(len(earlier))],
    )


@given(instances(), st.integers(0, 10**6), st.sampled_from([1e-3, 1.0, 1e3, 1e9]))
@settings(max_examples=400, deadline=None, derandomize=True)
def test_no_multipliers_prove_more_than_the_optimum(
    instance: RoutingInstance, seed: int, spread: float
) -> None:
    """Weak duality against every plan there is: whatever comes in, what comes out is a bound."""
    best = oracle.optimum(instance)
    if best is None:
        return
    rng = np.random.default_rng(seed)
    for stage in range(len(best)):
        given_ = marginals(
            instance,
            spread * rng.standard_normal(len(instance.limits)),
            spread * rng.standard_normal(),
            spread * rng.standard_normal(stage),
        )
        for some in (given_, {}):
            bound, size = lower_bound(instance, stage, some, best[:stage])
            assert bound <= best[stage] + 1e-9 * max(size, 1.0)


@given(instances())
@settings(max_examples=300, deadline=None, derandomize=True)
def test_best_multipliers_prove_the_relaxation(instance: RoutingInstance) -> None:
    """The multipliers of the linear relaxation prove its optimum, in every stage."""
    best = oracle.optimum(instance)
    for stage in range(len(best or [])):
        assert best is not None
        earlier = best[:stage]
        solved = relaxation(instance, stage, earlier)
        assert solved is not None  # there is a plan
        bound, size = lower_bound(instance, stage, solved[1], earlier)
        assert bound == pytest.approx(solved[0], abs=1e-7 * max(size, 1.0))


@given(instances(limits=False, query_limits=True, floor=False, stages=False))
@settings(max_examples=150, deadline=None, derandomize=True)
def test_counts_alone_are_proved_to_the_optimum(instance: RoutingInstance) -> None:
    """Limits on queries of nested or disjoint sets: the relaxation's bound is the optimum itself.

    This is what the page says of such instances; limits whose sets cross are left out.
    """
    kept: list[Any] = []
    for one in instance.limits:
        own = set(one.deployments or instance.sets["deployment"])
        others = [set(o.deployments or instance.sets["deployment"]) for o in kept]
        if all(own <= other or other <= own or not own & other for other in others):
            kept.append(one)
    laminar = instance.replace(limits=[one.model_dump() for one in kept])
    best, solved = oracle.optimum(laminar), relaxation(laminar, 0, [])
    assert (best is None) == (solved is None)
    if best is not None and solved is not None:
        bound, size = lower_bound(laminar, 0, solved[1], [])
        assert bound == pytest.approx(best[0], abs=1e-7 * max(size, 1.0))


def test_small_instance_in_stages() -> None:
    """Both stages of the instance made by hand: relaxed bounds below the optimum, and proved."""
    instance = small()
    best = oracle.optimum(instance)
    assert best is not None
    for stage in range(2):
        solved = relaxation(instance, stage, best[:stage])
        assert solved is not None
        bound, _ = lower_bound(instance, stage, solved[1], best[:stage])
        assert bound == pytest.approx(solved[0], rel=1e-9)
        assert bound <= best[stage] + 1e-9
        assert bound > lower_bound(instance, stage, {}, best[:stage])[0] + 1e-3


def two(**changes: Any) -> RoutingInstance:
    """Ten queries of one kind; each takes 1 kWh on the first deployment and 3 on the second."""
    document = plain([(10.0, 20.0, 100.0)])
    deployments = [
        {k: v for k, v in d.items() if k != "energy"} for d in document["deployments"][:2]
    ]
    return RoutingInstance.parse(
        {
            **document,
            "deployments": deployments,
            "energy_j": [[3.6e6, 10.8e6]],
            "limits": [limit("second", "queries", ["llama-2-13b"], lower=2.5)],
            **changes,
        }
    )


def test_bound_by_hand() -> None:
    """Three of ten queries must go where they cost 3: a price of 2 each proves 16.

    At u = 2, queries cost 1 on either deployment: 10 x 1 + 2 x 3. Half the price proves half of
    what it adds, and a larger one less: at u = 3 queries cost 0 on the second, 10 x 0 + 3 x 3.
    """
    for price, bound in ((2.0, 16.0), (1.0, 13.0), (3.0, 9.0), (0.0, 10.0)):
        assert lower_bound(two(), 0, marginals(two(), [price]), [])[0] == pytest.approx(bound)


def test_size_is_that_of_all_terms() -> None:
    """The size adds up absolute values: 10 x |3 - 4| + 4 x 3 for a price of 4."""
    bound, size = lower_bound(two(), 0, marginals(two(), [4.0]), [])
    assert (bound, size) == pytest.approx((2.0, 22.0))


def test_sides_of_counts_are_whole() -> None:
    """A limit on queries with a fraction is rounded inwards; one whole up to rounding is not."""
    for lower, side in ((2.5, 3), (3.0, 3), (3 + 1e-12, 3), (3 - 1e-12, 3), (3.001, 4)):
        instance = two(limits=[limit("second", "queries", ["llama-2-13b"], lower=lower)])
        assert lower_bound(instance, 0, marginals(instance, [2.0]), [])[0] == pytest.approx(
            10 + 2 * side
        )
    for upper, side in ((7.5, 7), (7.0, 7), (7 + 1e-12, 7), (7 - 1e-12, 7), (6.999, 6)):
        instance = two(limits=[limit("first", "queries", ["llama-2-7b"], upper=upper)])
        assert lower_bound(instance, 0, marginals(instance, [-2.0]), [])[0] == pytest.approx(
            30 - 2 * side
        )
    other = limit("tokens", "tokens", ["llama-2-13b"], lower=300.5)
    instance = two(limits=[other])  # as it stands: rows of other metrics are not rounded
    bound, _ = lower_bound(instance, 0, marginals(instance, [2 / 120]), [])
    assert bound == pytest.approx(10 + 2 / 120 * 300.5)


def test_multipliers_that_lean_on_nothing() -> None:
    """A multiplier of a side that is not there, or of no floor, counts as zero."""
    nothing = lower_bound(two(), 0, {}, [])
    assert lower_bound(two(), 0, marginals(two(), [-5.0], floor=3.0), []) == nothing
    floored = two(accuracy_floor_percent=50.0)
    assert lower_bound(floored, 0, marginals(floored, [], floor=-3.0), []) == nothing
    lexicographic = two(objective=[{"terms": [term("runtime_s", 1.0)]}, *two().objective])
    stage = marginals(lexicographic, [], stages=[4.0])
    assert lower_bound(lexicographic, 1, stage, [1e9])[0] == nothing[0]


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_multipliers_that_are_no_numbers(value: float) -> None:
    """Not-a-number and infinity count as zero, each by itself."""
    limits = [*(one.model_dump() for one in two().limits), limit("all", "energy_kwh", lower=0.0)]
    instance = two(limits=limits, accuracy_floor_percent=50.0)
    sound = lower_bound(instance, 0, marginals(instance, [2.0, 0.0]), [])
    given_ = marginals(instance, [2.0, value], floor=value)
    assert lower_bound(instance, 0, given_, []) == sound


@pytest.mark.parametrize("value", [1e300, 1e308, -1e308])
def test_multipliers_that_overflow(value: float) -> None:
    """Overflow never proves more than the optimum, whichever side of the sum it is on."""
    limits = [
        limit("least", "accuracy_percent_tokens", lower=1e-300),
        limit("most", "accuracy_percent_tokens", upper=1e300),
    ]
    instance = two(limits=limits, accuracy_floor_percent=1.0)
    for prices in ([value, 0.0], [0.0, value], [value, -value]):
        bound, _ = lower_bound(instance, 0, marginals(instance, prices, floor=value), [])
        assert bound <= 10


@pytest.mark.parametrize("price", [-1e308, -1.7e308 / 6700])
def test_overflow_upwards_proves_nothing(price: float) -> None:
    """Prices that overflow, by themselves or times the ten queries, are no proof of anything."""
    tight = limit("most", "accuracy_percent_tokens", upper=1e-300)
    instance = two(limits=[tight])
    assert lower_bound(instance, 0, marginals(instance, [price]), [])[0] == -np.inf


def test_query_without_a_place() -> None:
    """A query that may go nowhere makes the bound infinite, but not a kind without queries."""
    kinds = plain([(1.0, 20.0, 100.0), (1.0, 20.0, 100.0)])
    closed = [[False] * 3, [True] * 3]
    assert lower_bound(RoutingInstance.parse({**kinds, "allowed": closed}), 0, {}, [])[0] == np.inf
    none = RoutingInstance.parse({**kinds, "allowed": closed, "count": [0.0, 1.0]})
    assert np.isfinite(lower_bound(none, 0, {}, [])[0])


def test_wrong_labels_are_an_error() -> None:
    """Multipliers over other limits or axes are refused with their place."""
    array = marginals(two(), [2.0])["limit"]
    for wrong in (
        replace(array, labels={"limit": ("other",)}),
        replace(array, labels={"l": ("second",)}),
    ):
        with pytest.raises(SolutionError, match=r"stages\[0\]\.marginals\.limit: is not over"):
            lower_bound(two(), 0, {"limit": wrong}, [])


def test_normalisation_by_nothing() -> None:
    """A term divided by 0 is an error that names the term; without a weight it is left out."""
    terms = [term("energy_kwh", 1.0), term("queries", 1.0, "range")]
    with pytest.raises(InstanceError, match=r"objective\[0\]\.terms\[1\]\.normalisation.*is 0"):
        lower_bound(two(objective=[{"terms": terms}]), 0, {}, [])
    terms[1]["weight"] = 0.0
    assert lower_bound(two(objective=[{"terms": terms}]), 0, {}, [])[0] == pytest.approx(10)


def solution(instance: RoutingInstance, plan: Any, price: float, bound: float) -> go.Solution:
    """A solution made by hand, with one multiplier and what it is said to prove."""
    found = evaluate(instance, assigned(instance, plan))
    stage = StageResult(found.stages[0], bound, "own-dual", marginals(instance, [price]))
    return go.Solution(
        problem="routing",
        instance=instance.name,
        instance_sha256=instance.sha256,
        method="by hand",
        solver="none",
        status=Status.OPTIMAL,
        stages=(stage,),
        decision=assigned(instance, plan),
        metrics=found.metrics,
        metrics_by=found.metrics_by,
        sets=dict(instance.sets),
        runtime_s={},
        seed=0,
        threads=1,
        versions={},
        report={},
    )


def test_certificate_of_a_solution(tmp_path: Any) -> None:
    """`greenopt.certify` proves a plan from a file optimal, and calls a better bound wrong."""
    instance = two()
    solution(instance, {(0, 0): 7, (0, 1): 3}, 2.0, 16.0).save(tmp_path / "solution.json")
    read = go.load_solution(tmp_path / "solution.json")
    assert go.check(instance, read).ok
    assert go.certify(instance, read).optimal
    claimed = solution(instance, {(0, 0): 6, (0, 1): 4}, 2.0, 18.0)
    certificate = go.certify(instance, claimed)
    assert not certificate.ok
    assert certificate.stages[0].kind == "wrong"
    below = replace(claimed, stages=(replace(claimed.stages[0], objective=15.0, bound=15.0),))
    assert go.certify(instance, below).stages[0].kind == "wrong"
