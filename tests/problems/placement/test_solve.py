"""Statuses, explanations and variants of placement, against reasoning and brute force."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles.tiny import random_document, tiny
from scipy.optimize import linprog

import greenopt as go
from greenopt.io import to_model
from greenopt.results import Status
from greenopt.solvers import HIGHS_SOLVERS


def instance_of(**changes: Any) -> go.PlacementInstance:
    """The hand-made instance with changes."""
    return go.PlacementInstance.parse(tiny(**changes))


def weighing(**weights: float) -> list[dict[str, Any]]:
    """A one-stage objective."""
    return [{"terms": [{"metric": name, "weight": weight} for name, weight in weights.items()]}]


@pytest.mark.parametrize("seed", range(10))
def test_second_solver_agrees(seed: int) -> None:
    """A second solver, scipy's separately compiled HiGHS, finds the same optimum."""
    rng = np.random.default_rng(seed)
    instance = go.PlacementInstance.parse(random_document(rng, max_sites=True, mask=True))
    model = to_model(instance)
    free = model.row_upper == model.row_lower
    result = linprog(
        model.stages[0].c,
        A_ub=model.matrix[~free],
        b_ub=model.row_upper[~free],
        A_eq=model.matrix[free],
        b_eq=model.row_upper[free],
        bounds=np.column_stack([model.column_lower, model.column_upper]),
        method="highs-ds",
    )
    solution = go.solve(instance)
    assert result.status == 0
    assert solution.objective == pytest.approx(result.fun, rel=1e-7, abs=1e-9)


@pytest.mark.parametrize("solver", ["highs", "highs-simplex", "highs-ipm"])
def test_every_algorithm_proves_the_same_optimum(solver: str) -> None:
    """Simplex and interior point agree, and each is certified from its own multipliers."""
    assert solver in HIGHS_SOLVERS
    instance = instance_of()
    solution = go.solve(instance, solver=solver)
    assert solution.status == Status.OPTIMAL
    assert solution.objective == pytest.approx(go.solve(instance).objective, rel=1e-8)
    assert go.certify(instance, solution).optimal


def test_first_order_solver_is_reported_with_its_own_gap() -> None:
    """PDLP may stop short: then the status is not optimal, and the proved bound still holds."""
    instance = instance_of()
    best = go.solve(instance).objective
    solution = go.solve(instance, solver="highs-pdlp")
    if solution.stages:
        assert solution.stages[-1].bound <= best + 1e-6 * abs(best)
        assert go.certify(instance, solution).ok
    if solution.status == Status.OPTIMAL:
        assert solution.objective == pytest.approx(best, rel=2e-6)


def test_infeasible_demand_is_named_with_its_amount() -> None:
    """Ten times the GPUs' worth of demand: the explanation names period, class, origin, amount."""
    plain = instance_of()
    instance = plain.replace(demand_requests=plain.demand_requests * 1e4)
    solution = go.solve(instance)
    assert solution.status == Status.INFEASIBLE
    assert solution.objective is None
    text = "\n".join(solution.report["explanation"])
    assert instance.periods.start[0] in text
    assert "class summary from" in text
    assert "hold no more" in text
    assert solution.report["least_relative_shortfall"]["bound"] > 0
    assert not go.check(instance, solution).ok


def test_infeasible_budget_is_named() -> None:
    """A carbon budget of a gram cannot hold, and the explanation names it."""
    budget = {"name": "tiny-carbon", "metric": "carbon_kg", "limit": {"axes": [], "values": 1e-3}}
    solution = go.solve(instance_of(budgets=[budget]))
    assert solution.status == Status.INFEASIBLE
    text = "\n".join(solution.report["explanation"])
    assert "budget tiny-carbon (in total) is exceeded by" in text
    assert text.endswith("kg CO2e")
    assert "budget" in {member["kind"] for member in solution.report["conflict"]}


def test_smallest_shortfall_is_right() -> None:
    """With half of one origin masked off, exactly that demand is reported as not servable."""
    plain = instance_of()
    mask = {"axes": ["origin", "class"], "values": [[False, True, True], [True, True, True]]}
    solution = go.solve(plain.replace(reachable=mask))
    assert solution.status == Status.INFEASIBLE
    lost = plain.demand_requests[:, 0, 0]
    (line,) = (r["text"] for r in solution.report["relaxations"] if not r["alone"])
    assert line.startswith(f"class chat from us: {lost.sum():,.6g} requests cannot be served in 2")
    assert plain.periods.start[int(lost.argmax())] in line
    assert line.endswith("no site and level is within all its limits and reachable")
    assert {member["kind"] for member in solution.report["conflict"]} == {"demand", "reachable"}


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"ttft_limit_s": 0.01}, "its smallest TTFT p95 from"),
        ({"tbt_limit_s": 1e-4}, "the smallest TBT p95 is"),
    ],
)
def test_limit_that_nobody_meets_is_named(change: dict[str, float], reason: str) -> None:
    """The explanation names the limit that no site and level meets, with the best value."""
    document = tiny()
    document["classes"][0] |= change
    solution = go.solve(go.PlacementInstance.parse(document))
    assert solution.status == Status.INFEASIBLE
    lines = [r["text"] for r in solution.report["relaxations"] if not r["alone"]]
    assert len(lines) == 2  # one line for each origin
    for line in lines:
        assert line.startswith("class chat from")
        assert reason in line
    assert reason in solution.report["explanation"][0]


def unbounded_document(price: float) -> dict[str, Any]:
    """Unlimited GPUs with an idle level: a negative price pays for standing by."""
    document = tiny(objective=weighing(cost_energy_usd=1.0))
    for profile in document["profiles"]:
        first = dict(profile["levels"][0])
        if first["requests_per_s"] > 0:
            first |= {"requests_per_s": 0.0, "power_w": 100.0}
            profile["levels"] = [first, *profile["levels"]]
    shape = np.shape(document["price_usd_per_mwh"])
    document["price_usd_per_mwh"] = np.full(shape, price).tolist()
    gpus = np.array(document["gpus"], dtype=object)
    gpus[...] = None
    document["gpus"] = gpus.tolist()
    return document


def test_negative_price_without_capacity_is_unbounded() -> None:
    """Standing by at a negative price without a GPU limit has no optimum."""
    solution = go.solve(go.PlacementInstance.parse(unbounded_document(-10.0)))
    assert solution.status == Status.UNBOUNDED
    assert solution.objective is None


def test_negative_price_is_bounded_by_capacity() -> None:
    """With a GPU limit the same prices are optimal, and the negative objective is proved."""
    document = unbounded_document(-10.0) | {"gpus": tiny()["gpus"]}
    instance = go.PlacementInstance.parse(document)
    solution = go.solve(instance)
    assert solution.status == Status.OPTIMAL
    assert solution.objective is not None
    assert solution.objective < 0
    assert go.check(instance, solution).ok
    assert go.certify(instance, solution).optimal


def test_positive_price_needs_no_capacity() -> None:
    """Unlimited GPUs alone are no trouble: idle instances cost, so none run, and that is proved."""
    instance = go.PlacementInstance.parse(unbounded_document(10.0))
    solution = go.solve(instance)
    assert solution.status == Status.OPTIMAL
    assert go.certify(instance, solution).optimal


def test_time_limit_never_says_optimal() -> None:
    """Stopped at once, a solve reports a limit or a feasible plan, never optimal without proof."""
    from conftest import quick_path

    solution = go.solve(go.load(quick_path()), time_limit=1e-6)
    assert solution.status in {Status.LIMIT, Status.FEASIBLE}
    assert solution.report["termination"] == "limit"


def test_wrong_arguments_are_refused() -> None:
    """Unknown methods and solvers and senseless limits are errors that name the choice."""
    instance = instance_of()
    with pytest.raises(go.ModelError, match="unknown method 'best'"):
        go.solve(instance, "best")
    with pytest.raises(go.SolverError, match="unknown solver 'cplex'"):
        go.solve(instance, solver="cplex")
    with pytest.raises(go.ModelError, match="gap"):
        go.solve(instance, gap=-1.0)


def test_runs_repeat_bit_for_bit() -> None:
    """Two solves of one instance give the same document, times apart."""
    instance = instance_of()
    first, second = (go.solve(instance).document() for _ in range(2))
    for document in (first, second):
        document.pop("runtime_s")
    assert first == second


@pytest.mark.parametrize("seed", range(8))
def test_even_balance_costs_at_least_packing(seed: int) -> None:
    """All instances of a group at one level is a restriction: never better than free levels."""
    document = random_document(np.random.default_rng(seed), even=True)
    even = go.PlacementInstance.parse(document)
    packed = even.replace(balance="packed")
    a, b = go.solve(packed, gap=1e-9), go.solve(even, gap=1e-9)
    assert a.objective is not None
    assert b.objective is not None
    assert b.objective >= a.objective - 1e-9 * max(1.0, abs(a.objective))
    assert go.check(even, b).ok
    running = b.decision["instances"]
    groups = running.codes[:4, running.values > 1e-6]
    assert len(np.unique(groups, axis=1).T) == groups.shape[1]


@given(st.integers(0, 10**6), st.floats(0.2, 5.0))
@settings(max_examples=25, deadline=None, derandomize=True)
def test_scaling_the_objective_scales_the_optimum(seed: int, factor: float) -> None:
    """Metamorphic: all weights times a factor gives the optimum times the factor."""
    document = random_document(np.random.default_rng(seed), max_sites=True)
    plain = go.solve(go.PlacementInstance.parse(document)).objective
    for term in document["objective"][0]["terms"]:
        term["weight"] *= factor
    scaled = go.solve(go.PlacementInstance.parse(document)).objective
    assert plain is not None
    assert scaled == pytest.approx(factor * plain, rel=1e-7, abs=1e-9)


@given(st.integers(0, 10**6), st.floats(1.0, 3.0))
@settings(max_examples=25, deadline=None, derandomize=True)
def test_more_gpus_never_hurt(seed: int, factor: float) -> None:
    """Metamorphic: relaxing capacity cannot worsen the optimum."""
    document = random_document(np.random.default_rng(seed))
    instance = go.PlacementInstance.parse(document)
    more = instance.replace(gpus=instance.gpus * factor)
    a, b = go.solve(instance).objective, go.solve(more).objective
    assert a is not None
    assert b is not None
    assert b <= a + 1e-8 * max(1.0, abs(a))


@given(st.integers(0, 10**6))
@settings(max_examples=25, deadline=None, derandomize=True)
def test_renaming_and_reordering_sites_changes_nothing(seed: int) -> None:
    """Metamorphic: the optimum does not depend on the order of sites."""
    instance = go.PlacementInstance.parse(random_document(np.random.default_rng(seed)))
    order = np.random.default_rng(seed).permutation(len(instance.sites))
    by_site = {
        "gpus": 1, "carbon_g_per_kwh": 1, "price_usd_per_mwh": 1, "pue": 1, "wue_l_per_kwh": 1,
        "ewif_l_per_kwh": 1, "cycles_of_concentration": 0, "rtt_s": 1, "egress_usd_per_gb": 1,
    }  # fmt: skip
    changes: dict[str, Any] = {
        name: np.take(getattr(instance, name), order, axis=axis) for name, axis in by_site.items()
    }
    if instance.gpu_usd_per_hour is not None:
        changes["gpu_usd_per_hour"] = instance.gpu_usd_per_hour[order]
    shuffled = instance.replace(sites=[instance.sites[i] for i in order], **changes)
    assert go.solve(shuffled).objective == pytest.approx(
        go.solve(instance).objective, rel=1e-7, abs=1e-9
    )


def test_level_index_only_where_latency_tells_levels_apart() -> None:
    """Without limits and with equal prefill curves, each profile has a single level group."""
    document = tiny()
    for k in document["classes"]:
        k["ttft_limit_s"] = k["tbt_limit_s"] = None
    for model in document["models"]:
        model["weight_bytes"] = model["kv_bytes_per_token"] = None
    for profile in document["profiles"]:
        for level in profile["levels"]:
            level["prefill_s"] = profile["levels"][0]["prefill_s"]
    free = to_model(go.PlacementInstance.parse(document))
    assert set(free.columns["flow"].codes["group"].tolist()) == {0}
    limited = to_model(instance_of())
    assert len(set(limited.columns["flow"].codes["group"].tolist())) > 1


def test_memory_limits_the_batch() -> None:
    """A GPU too small for a level's batch bars that level; the checker agrees."""
    document = tiny()
    generous = go.PlacementInstance.parse(document)
    plan = go.solve(generous)
    for gpu in document["gpu_types"]:
        gpu["memory_bytes"] = 39e9  # 4 x 39e9 x 0.9 leaves 0.4e9 beside 140e9 of weights
    tight = go.PlacementInstance.parse(document)
    few = to_model(tight).columns["flow"].size
    assert few < to_model(generous).columns["flow"].size
    report = go.check(tight, replace(plan, instance_sha256=tight.sha256))
    assert any(line.startswith("memory") for line in report.lines())


def test_unmet_demand_at_a_price() -> None:
    """A price below the cost of serving leaves demand unmet; a high one serves everything."""
    for price, unmet in ((1e-9, True), (1e6, False)):
        document = tiny(objective=weighing(cost_usd=1.0, unmet_usd=1.0))
        for k in document["classes"]:
            k["unmet_price_usd"] = price
        instance = go.PlacementInstance.parse(document)
        solution = go.solve(instance)
        assert go.check(instance, solution).ok
        assert go.certify(instance, solution).optimal
        total = float(instance.demand_requests.sum())
        expected = total if unmet else 0.0
        assert solution.metrics["unmet_requests"] == pytest.approx(expected, abs=1e-4)
        assert solution.metrics["unmet_usd"] == pytest.approx(expected * price, abs=1e-3)
        assert (solution.metrics["ttft_mean_s"] is None) == unmet


def test_mean_ttft_budget_by_site_holds() -> None:
    """A mean-TTFT budget per site binds as a ratio, at every site that serves anything."""
    instance = instance_of(objective=weighing(cost_usd=1.0))
    free = go.solve(instance)
    worst = max(v for v in free.metrics_by["site"]["ttft_mean_s"] if v is not None)
    limit = 0.98 * worst
    budget = {
        "name": "ttft",
        "metric": "ttft_mean_s",
        "limit": {"axes": ["site"], "values": [limit] * len(instance.sites)},
    }
    held = instance.replace(budgets=[budget])
    solution = go.solve(held)
    assert solution.status == Status.OPTIMAL
    served = [v for v in solution.metrics_by["site"]["ttft_mean_s"] if v is not None]
    assert max(served) <= limit * (1 + 1e-6)
    assert solution.objective >= free.objective - 1e-9
    assert go.certify(held, solution).optimal


def test_stage_without_end_leaves_the_plan_of_the_one_before() -> None:
    """A second stage that is unbounded is reported; the first stage's plan stands and checks."""
    document = unbounded_document(-10.0)
    document["objective"] = [*weighing(ttft_mean_s=1.0), *weighing(cost_energy_usd=1.0)]
    instance = go.PlacementInstance.parse(document)
    solution = go.solve(instance)
    assert solution.status == Status.FEASIBLE
    assert solution.report["stopped"].startswith("stage 2 of 2 ended: Unbounded")
    assert len(solution.stages) == 1
    report = go.check(instance, solution)
    assert report.ok, report.lines()
    assert go.certify(instance, solution).ok


def test_infeasible_without_explanation() -> None:
    """Explanations can be done without: the status stays, and the report says whose word it is."""
    instance = go.PlacementInstance.parse(tiny(gpus={"axes": [], "values": 1.0}))
    solution = go.solve(instance, explain=False)
    assert solution.status == go.Status.INFEASIBLE
    assert solution.report["explanation"][0].endswith("not asked for")
    assert "conflict" not in solution.report
