"""Independent solvers agree on one instance, and instances that ask for less cost no more."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from importlib.util import find_spec
from itertools import product
from typing import Any

import numpy as np
import pytest
from conftest import ROOT
from oracles.tiny import Document, random_document

import greenopt as go
from greenopt.io import to_model
from greenopt.problems.placement.builders import casper, waterwise
from greenopt.results import NUMERICAL_FLOOR
from greenopt.solvers import solve_model

MINLP = ("scip-minlp",) if find_spec("pyscipopt") else ()
MIXED = ("highs", "scip", *MINLP)
WHOLE = (*MIXED, "cp-sat")

ROUNDING = 1e-7
"""Room for tolerances of solvers, relative to an objective of at least 1 (each term is scaled)."""

DECIDED = {go.Status.OPTIMAL, go.Status.INFEASIBLE, go.Status.UNBOUNDED}


def solved(instance: go.PlacementInstance, solver: str = "highs", **how: Any) -> go.Solution:
    """What one solver says by itself: its own bound, infeasibility on its own word."""
    solution = go.solve(instance, solver=solver, bound=False, explain=False, **how)
    assert solution.status != go.Status.ERROR, (solver, solution.report)
    return solution


def room(solution: go.Solution) -> float:
    """By how much rounding may move an objective."""
    return ROUNDING * max(1.0, abs(solution.objective or 0.0))


def agree(
    instance: go.PlacementInstance, solvers: Sequence[str], gap: float, time_limit: float
) -> bool:
    """Assert that solvers agree within their gaps; whether each of them got to its end."""
    found = {s: solved(instance, s, gap=gap, time_limit=time_limit) for s in solvers}
    statuses = {s: solution.status for s, solution in found.items()}
    planned = {s: solution for s, solution in found.items() if solution.decision}
    assert len(DECIDED & set(statuses.values())) <= 1, statuses
    assert not planned or go.Status.INFEASIBLE not in statuses.values(), statuses
    for (one, a), (other, b) in product(planned.items(), repeat=2):
        assert a.objective is not None
        assert b.objective is not None
        assert a.stages[-1].bound <= b.objective + room(b), (one, other, a, b)
        if DECIDED >= {a.status, b.status}:
            gaps = 2 * max(gap, NUMERICAL_FLOOR) * abs(b.objective)
            assert a.objective == pytest.approx(b.objective, rel=0, abs=gaps + room(b))
    return set(statuses.values()) <= DECIDED


# -- solvers -----------------------------------------------------------------------------------


@pytest.mark.parametrize("window", range(0, 48, 2))
def test_freesh_windows(window: int) -> None:
    """Every committed window; CP-SAT refuses them, since their flows are not whole."""
    instance = go.load(ROOT / "instances" / "placement-freesh" / f"freesh-{window:02d}.json")
    assert agree(instance, MIXED, gap=0.0, time_limit=20.0)
    with pytest.raises(go.SolverError, match=r"integer columns only, and \d+ of \d+ are cont"):
        solved(instance, "cp-sat")


INTEGER = ("whole_instances", "whole_requests", "even")
OTHER = ("startup", "blocks", "min_up", "instance_limits", "at_most", "fixed", "budgets",
         "power_cap", "unmet", "deferral", "max_sites", "demand_charge")  # fmt: skip


def drawn(seed: int, *features: str, among: Sequence[str] = (), share: float = 0.3) -> Document:
    """A random document with some features, and each of others with some probability."""
    rng = np.random.default_rng([seed, 44])
    chosen = {name for name in among if rng.random() < share} | set(features)
    return random_document(rng, **dict.fromkeys(sorted(chosen), True))


@pytest.mark.parametrize("first", INTEGER)
@pytest.mark.parametrize("seed", range(14))
def test_random_documents(seed: int, first: str) -> None:
    """One thing that is whole, and any others."""
    document = drawn(seed, first, among=(*INTEGER, *OTHER))
    agree(go.PlacementInstance.parse(document), MIXED, gap=1e-6, time_limit=2.0)


@pytest.mark.parametrize("objective", ["carbon", "latency", "carbon_only"])
@pytest.mark.parametrize("seed", range(4))
def test_casper_hours(seed: int, objective: Any) -> None:
    """All whole: CP-SAT too. Some hours have regions that nobody reaches in time."""
    rng = np.random.default_rng(seed)
    latency = rng.uniform(1.0, 650.0, (4, 4))
    np.fill_diagonal(latency, 3.0)
    requests, carbon = rng.integers(1, 400, (2, 4)), rng.uniform(20, 750, (2, 4))
    instance = casper(requests, latency, carbon, regions=list("abcd"), objective=objective)
    assert agree(instance, WHOLE, gap=1e-6, time_limit=20.0)


@pytest.mark.parametrize("rule", ["hard", "dropped", "penalised"])
@pytest.mark.parametrize("seed", range(4))
def test_waterwise_minutes(seed: int, rule: Any) -> None:
    """All whole: CP-SAT too. Some minutes have jobs that may go nowhere."""
    rng = np.random.default_rng(seed)
    instance = waterwise(
        energy_kwh=rng.uniform(0.0005, 0.01, 12),
        run_time_s=rng.uniform(20, 250, 12),
        transfer_s=rng.uniform(0, 60, (12, 5)),
        carbon_g_per_kwh=rng.uniform(20, 700, 5),
        water_l_per_kwh=rng.uniform(2, 25, 5),
        free_nodes=rng.integers(2, 6, 5).astype(float),
        tolerance_rule=rule,
    )
    assert agree(instance, WHOLE, gap=1e-9, time_limit=20.0)


# -- asking for less costs no more -------------------------------------------------------------

Change = Callable[[Document], None]


def without_latency_limits(document: Document) -> None:
    """Every level and site will do."""
    for k in document["classes"]:
        k |= {"ttft_limit_s": None, "tbt_limit_s": None}


def with_deferral(document: Document) -> None:
    """Every class may wait for two hours at least."""
    for k in document["classes"]:
        k["deferral_limit_s"] = max(k.get("deferral_limit_s", 0.0), 7200.0)


def setting(**fields: Any) -> Change:
    """Set fields of the document."""

    def change(document: Document) -> None:
        document |= fields

    return change


def without_min_up(document: Document) -> None:
    """Instances may stop whenever they like."""
    for profile in document["profiles"]:
        profile["min_up_s"] = 0.0
    if not any("startup" in profile for profile in document["profiles"]):
        document["initial_instances"] = None


def without_startups(document: Document) -> None:
    """Starting takes nothing.

    What starts for a part of a period need not exist in that part, so numbers are no longer whole.
    """
    for profile in document["profiles"]:
        profile.pop("startup", None)
    document |= {"initial_instances": None, "instance_counts": "continuous"}


def with_gpus(document: Document) -> None:
    """Half as many GPUs again."""
    document["gpus"] = [
        [[None if n is None else 1.5 * n for n in at_site] for at_site in at] for at in
        document["gpus"]
    ]  # fmt: skip


def priced(document: Document) -> None:
    """Nothing is worth less than nothing."""
    for name in ("carbon_g_per_kwh", "price_usd_per_mwh"):
        document[name] = np.abs(document[name]).tolist()


RELAXATIONS: dict[str, tuple[tuple[str, ...], Change]] = {
    "packed": (("even",), setting(balance="packed")),
    "parts of instances": (("whole_instances",), setting(instance_counts="continuous")),
    "parts of requests": (("whole_requests",), setting(request_counts="continuous")),
    "free over blocks": (("blocks",), setting(hold_periods=None)),
    "no least time up": (("min_up",), without_min_up),
    "at most": ((), setting(load_rule="at_most")),
    "no fixed numbers": (("fixed",), setting(fixed_instances=None)),
    "no instance limits": (("instance_limits",), setting(instance_limits=[])),
    "no budgets": (("budgets",), setting(budgets=[])),
    "no power cap": (("power_cap",), setting(facility_power_cap_w=None)),
    "everything reachable": (("mask",), setting(reachable=None)),
    "no latency limits": ((), without_latency_limits),
    "more GPUs": ((), with_gpus),
    "deferral": ((), with_deferral),
}
"""Changes after which every plan there was is one still, at no higher cost; and what they need."""

AMONG = ("whole_instances", "whole_requests", "even", *OTHER, "mask")


def bounded(document: Document) -> go.Solution:
    """Solve a document for its objective and its bound."""
    return solved(go.PlacementInstance.parse(document), gap=1e-6, time_limit=2.0)


def is_less(restricted: go.Solution, relaxed: go.Solution) -> bool:
    """Assert that asking for less costs no more; whether it costs less, for certain."""
    if not restricted.decision:
        return bool(relaxed.decision)
    assert relaxed.status != go.Status.INFEASIBLE
    if not relaxed.decision:
        return False
    assert restricted.objective is not None
    assert relaxed.stages[-1].bound <= restricted.objective + room(restricted)
    assert relaxed.objective is not None
    return relaxed.objective < restricted.stages[-1].bound - room(restricted)


def pairs(
    features: Sequence[str], change: Change, seeds: int, without: Sequence[str] = ()
) -> Iterator[tuple[Document, Document]]:
    """Random documents with features, before and after a change."""
    others = [name for name in AMONG if name not in without]
    for seed in range(seeds):
        before = drawn(seed, *features, among=others, share=0.2)
        after = copy.deepcopy(before)
        change(after)
        yield before, after


@pytest.mark.parametrize("name", RELAXATIONS)
def test_asking_for_less_costs_no_more(name: str) -> None:
    """The bound of the one is never above the plan of the other; now and then it costs less."""
    features, change = RELAXATIONS[name]
    less = [is_less(bounded(a), bounded(b)) for a, b in pairs(features, change, 12)]
    assert any(less)


def test_without_startups() -> None:
    """Where energy costs something, a start is never worth having."""
    less = []
    without = ("min_up", "blocks", "fixed")
    for before, after in pairs(("startup",), without_startups, 12, without):
        priced(before)
        priced(after)
        less.append(is_less(bounded(before), bounded(after)))
    assert any(less)


def with_idle_levels(document: Document) -> None:
    """Every instance may stand by, at less power than at any level that serves."""
    for profile in document["profiles"]:
        first = profile["levels"][0]
        if first["requests_per_s"] > 0:
            idle = copy.deepcopy(first) | {"requests_per_s": 0.0, "power_w": 0.5 * first["power_w"]}
            profile["levels"].insert(0, idle)


def test_at_most_is_exact_where_instances_may_stand_by() -> None:
    """An instance that serves half of its level's load could stand by for half of the time.

    That takes no more energy, so where energy costs something the two rules have one optimum.
    """
    both = 0
    for before, after in pairs((), setting(load_rule="at_most"), 16, ("at_most", "even")):
        for document in (before, after):
            priced(document)
            with_idle_levels(document)
        exact, at_most = bounded(before), bounded(after)
        assert not is_less(exact, at_most)
        assert not is_less(at_most, exact)
        both += bool(exact.decision)
    assert both > 8


def test_relaxations_are_below() -> None:
    """The linear relaxation has no worse optimum, and a plan wherever whole numbers have one."""
    below = 0
    for seed in range(16):
        document = drawn(seed, INTEGER[seed % 3], among=AMONG, share=0.2)
        whole, model = bounded(document), to_model(go.PlacementInstance.parse(document))
        relaxed = solve_model(model, relax=True, dual_tolerance=1e-9)
        if whole.objective is None:
            continue
        assert relaxed.x is not None
        value = float(model.stages[0].c @ relaxed.x)
        assert value <= whole.objective + room(whole)
        below += value < whole.stages[-1].bound - room(whole)
    assert below > 3
