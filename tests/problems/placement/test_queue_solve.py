"""Waiting in queues: small cases reckoned by hand, the true curve by SCIP, and the library between.

By hand there is one of everything, a period is an hour, PUE is 1, an instance takes one GPU and 1 s
for a request, and draws 1000 W. Demand is given in busy instances (3600 requests an hour each), and
arrivals and service are Poisson and exponential (M/M/1) unless a case says otherwise. With B
instances busy of y, the utilisation is u = B/y and a request waits u/(1-u) s in the mean.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import numpy as np
import pytest
from oracles.canonical import differences, of_arrays, of_pyomo
from oracles.tiny import Document, random_document, tiny
from oracles.waiting import true_optimum
from pyomo.contrib.solver.common.factory import SolverFactory
from pyomo.environ import value

import greenopt as go
from greenopt.certifying import certify
from greenopt.formulations import placement as pyomo_placement
from greenopt.formulations.placement import metric_expression
from greenopt.io import to_model

MM1 = {"service_s": 1.0, "service_cv2": 1.0, "arrival_cv2": 1.0}
HOURLY = 3600.0
MIXED = ("budgets", "max_sites", "unmet", "demand_charge", "power_cap", "mask", "custom",
         "running", "startup", "min_up", "deferral", "instance_limits")  # fmt: skip
WHOLE = ("whole_instances", "whole_requests", "even")


def hall(
    busy: float,
    loads: Iterable[float] = (0.9,),
    minimise: dict[str, float] | None = None,
    queue: Document | None = None,
    request: Document | None = None,
    **overrides: Any,
) -> go.PlacementInstance:
    """One of everything.

    Parameters
    ----------
    busy : float
        Demand, in busy instances.
    loads : iterable of float
        Load of each level, requests/s.
    minimise : dict of str to float, optional
        Metrics with their weights; energy by default.
    queue, request : dict, optional
        Fields of the queue and of the class.
    **overrides
        Fields of the document.
    """
    levels = [
        {
            "requests_per_s": load,
            "power_w": 1000.0,
            "itl_s": {"mean": 0.02},
            "prefill_s": [0.1, 0.1],
        }
        for load in loads
    ]
    request = {"work_per_request": {"mode": 1.0}, **(request or {})}
    terms = [{"metric": m, "weight": w} for m, w in (minimise or {"energy_kwh": 1.0}).items()]
    requests = busy * HOURLY / request["work_per_request"]["mode"]
    same = {field: over(1.0) for field in ("pue", "wue_l_per_kwh", "ewif_l_per_kwh")}
    none = {field: over(0.0) for field in ("rtt_s", "last_mile_s", "egress_usd_per_gb")}
    return go.PlacementInstance.parse(tiny(**{
        "periods": {"start": ["2023-07-18T00:00Z"], "duration_s": [HOURLY]},
        "origins": ["here"],
        "sites": ["site"],
        "modes": ["mode"],
        "models": [{"name": "model", "weight_bytes": None, "kv_bytes_per_token": None}],
        "gpu_types": [
            {"name": "gpu", "memory_bytes": None, "embodied_kg": 100.0, "lifetime_s": 1e8}
        ],
        "profiles": [{
            "model": "model",
            "mode": "mode",
            "gpu_type": "gpu",
            "gpus_per_instance": 1.0,
            "power_boundary": "server",
            "prefill_tokens": [1.0, 1000.0],
            "levels": levels,
            "queue": {**MM1, **(queue or {})},
        }],
        "classes": [{
            "name": "class",
            "model": "model",
            "prompt_tokens": {"values": [100.0], "probabilities": [1.0]},
            "output_tokens": {"values": [100.0], "probabilities": [1.0]},
            "egress_bytes_per_request": 0.0,
            **request,
        }],
        **same,
        **none,
        "cycles_of_concentration": over(4.0),
        "carbon_g_per_kwh": over(400.0),
        "price_usd_per_mwh": over(50.0),
        "gpu_usd_per_hour": over(2.0),
        "demand_requests": over(requests),
        "gpus": over(10.0),
        "objective": [{"terms": terms}],
        **overrides,
    }))  # fmt: skip


def over(number: float) -> Document:
    """The same number everywhere."""
    return {"axes": [], "values": number}


def by_statement(instance: go.PlacementInstance) -> tuple[float, Any]:
    """Optimum of the Pyomo statement by HiGHS, infinite without a plan, and the solved model."""
    model = go.to_pyomo(instance)
    result = SolverFactory("highs").solve(
        model,
        load_solutions=False,
        raise_exception_on_nonoptimal_result=False,
        rel_gap=1e-9,
        solver_options={"dual_feasibility_tolerance": 1e-10},
    )
    if result.incumbent_objective is None:
        return math.inf, model
    result.solution_loader.load_vars()
    return float(result.incumbent_objective), model


def draw(seed: int, *features: str, among: Iterable[str] = ()) -> go.PlacementInstance:
    """Draw an instance with queues, some other features, and a weight on waiting."""
    rng = np.random.default_rng([seed, 45])
    chosen = {name for name in among if rng.random() < 0.15} | {"queue", *features}
    document = random_document(rng, **dict.fromkeys(sorted(chosen), True))
    for term in document["objective"][0]["terms"]:
        if term["metric"] == "ttft_queue_request_s":
            term["weight"] = float(rng.uniform(0.1, 1.0))
    return go.PlacementInstance.parse(document)


# -- the curve by hand ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("service_cv2", "arrival_cv2", "mean_wait_s"),
    [(1.0, 1.0, 9.0), (0.0, 1.0, 4.5), (0.0, 0.0, 0.0), (3.0, 1.0, 18.0), (1.0, 2.0, 13.5)],
)
def test_exact_waits_at_the_level(
    service_cv2: float, arrival_cv2: float, mean_wait_s: float
) -> None:
    """At u = 0.9 a request waits 9 s for M/M/1, half of it for M/D/1, by their formulas."""
    queue = {"service_cv2": service_cv2, "arrival_cv2": arrival_cv2}
    _, model = by_statement(hall(2.7, (0.0, 0.9), queue=queue))
    requests = 2.7 * HOURLY
    waiting = value(metric_expression(model, "ttft_queue_request_s"))
    assert waiting == pytest.approx(mean_wait_s * requests)
    total = value(metric_expression(model, "ttft_mean_s"))
    assert total == pytest.approx(0.1 + mean_wait_s)
    assert len(model.filled) == 0


@pytest.mark.parametrize(
    ("weight", "instances", "cost"),
    [
        (0.25, 1.5, 2.0),  # u = 2/3, which leaves y - B = B/2: cost (1.5 + 0.25/0.5) B
        (1.0, 2.0, 3.0),
        (1e-4, 1 / 0.9, 1 / 0.9 + 9e-4),  # no more than the level's load
        (25.0, 4.0, 4.0 + 25 / 3),  # no more than ten GPUs
    ],
)
def test_square_root_rule(weight: float, instances: float, cost: float) -> None:
    """Cost y + c B²/(y - B) is least at y = B (1 + √c), the level's load and GPUs permitting."""
    busy = 2.5
    instance = hall(
        busy,
        minimise={"energy_kwh": 1.0, "ttft_queue_request_s": weight / HOURLY},
        load_rule="at_most",
    )
    low, best = true_optimum(instance)
    assert [low, best] == pytest.approx([cost * busy] * 2, rel=1e-6)
    chords, model = by_statement(instance)
    assert cost * busy * (1 - 1e-9) <= chords <= cost * busy * 1.002
    (serving,) = (v.value for v in model.instances.values())
    assert serving == pytest.approx(instances * busy, rel=0.1)


def test_square_root_rule_of_whole_instances() -> None:
    """B = 1.5 at c = 1/4 wants 2.25 instances: two cost 2 + 0.5625/0.5 = 3.125, three 3.375."""
    instance = hall(
        1.5,
        minimise={"energy_kwh": 1.0, "ttft_queue_request_s": 0.25 / HOURLY},
        load_rule="at_most",
        instance_counts="integer",
    )
    assert true_optimum(instance) == pytest.approx((3.125, 3.125), rel=1e-6)
    chords, _ = by_statement(instance)
    assert 3.125 * (1 - 1e-9) <= chords <= 3.125 * 1.005


@pytest.mark.parametrize("axes", [[], ["site"], ["period", "site"]])
def test_budget_on_the_mean(axes: list[str]) -> None:
    """To wait 1 s in the mean beside 0.1 s of prefill takes u = 1/2, so twice what is busy."""
    limit = {"axes": axes, "values": np.full((1,) * len(axes), 1.1).tolist()}
    budget = {"name": "prompt", "metric": "ttft_mean_s", "limit": limit}
    instance = hall(2.5, load_rule="at_most", budgets=[budget])
    assert true_optimum(instance) == pytest.approx((5.0, 5.0), rel=1e-6)
    chords, _ = by_statement(instance)
    assert 5.0 * (1 - 1e-9) <= chords <= 5.0 * 1.01


@pytest.mark.parametrize(
    ("statistic", "load", "work", "queue", "wait_s"),
    [
        ("mean", 0.5, 1.0, {}, 1.0),
        ("mean", 0.9, 1.0, {}, 9.0),
        ("mean", 0.9, 2.0, {}, 18.0),
        ("mean", 0.45, 1.0, {"service_s": 2.0}, 18.0),
        ("mean", 0.9, 1.0, {"service_cv2": 0.0}, 4.5),
        ("p95", 0.5, 1.0, {}, 2 * math.log(10)),
        ("p95", 0.9, 0.5, {}, 5 * math.log(18)),
        ("p50", 0.4, 1.0, {}, 0.0),  # more than half of the requests wait for nobody
        ("p99", 0.0, 1.0, {}, 0.0),
    ],
)
@pytest.mark.parametrize("rule", ["exact", "at_most"])
def test_limit_on_ttft_counts_the_wait(
    rule: str, statistic: str, load: float, work: float, queue: Document, wait_s: float
) -> None:
    """A level is open to a class whose limit is the wait at its full load, closed just below."""
    found = []
    for limit in (0.1 + wait_s, (0.1 + wait_s) * (1 - 1e-6)):
        request = {
            "work_per_request": {"mode": work},
            "ttft_limit_s": limit,
            "ttft_statistic": statistic,
            "unmet_price_usd": 1.0,
        }
        costs = {"energy_kwh": 1.0, "unmet_usd": 1.0}
        instance = hall(1.0, (load,), costs, queue, request, load_rule=rule)
        model = go.to_pyomo(instance)
        found.append(len(model.flow))
        assert differences(of_arrays(to_model(instance), 0), of_pyomo(model)) == []
    assert found == [1, 0]


def test_levels_and_points_of_the_statement() -> None:
    """Seventeen points from idle to full on each level that serves, which is a group by itself."""
    model = go.to_pyomo(hall(1.0, (0.0, 0.5, 0.9), load_rule="at_most"))
    assert model.data.groups[0, 0] == [[0], [1], [2]]
    assert sorted({key[4] for key in model.filled}) == [1, 2]
    for level, load in ((1, 0.5), (2, 0.9)):
        points = model.data.points(0, 0, level)
        assert len(points) == 17
        assert points[::16] == pytest.approx([0.0, load])
        ratios = np.divide(1 - np.array(points[1:]), 1 - np.array(points[:-1]))
        assert ratios == pytest.approx((1 - load) ** (1 / 16))
    together = go.to_pyomo(hall(1.0, (0.0, 0.5, 0.9)))
    assert together.data.groups[0, 0] == [[0, 1, 2]]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"loads": (0.5, 1.0)}, "levels[1].requests_per_s"),
        ({"request": {"ttft_limit_s": 9.0, "ttft_statistic": "max"}}, "ttft_statistic"),
        (
            {"minimise": {"energy_kwh": 1.0, "ttft_request_s": -1e-9}, "load_rule": "at_most"},
            "not convex",
        ),
    ],
)
def test_refused(change: dict[str, Any], words: str) -> None:
    """A full queue, a limit on the longest wait and a bonus for waiting are no instances."""
    with pytest.raises(go.InstanceError) as error:
        hall(1.0, **change)
    assert words in str(error.value)


def test_unequal_work_is_refused() -> None:
    """Classes whose requests take different times may not wait in one queue."""
    document = tiny()
    document["profiles"][0]["queue"] = {**MM1, "service_s": 0.1}
    with pytest.raises(go.InstanceError, match="equal work"):
        go.PlacementInstance.parse(document)
    document["classes"][1]["work_per_request"]["fast"] = 1.0
    assert go.PlacementInstance.parse(document).profiles[0].queue is not None


# -- the curve by SCIP ---------------------------------------------------------------------------


@pytest.mark.parametrize("whole", [(), WHOLE])
@pytest.mark.parametrize("seed", [1, 2, 4, 5, 6, 9])
def test_chords_lie_above_the_curve_and_close_in(
    seed: int, whole: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The statement costs no less than the truth, and the same with hundreds of points."""
    instance = draw(seed, "at_most", among=(*MIXED, *whole))
    low, best = true_optimum(instance)
    coarse, _ = by_statement(instance)
    if coarse == math.inf:
        assert best == math.inf or instance.budgets
        return
    room = 1e-6 * max(1.0, abs(best))
    assert low - room <= coarse <= best + 0.02 * max(1.0, abs(best))
    monkeypatch.setattr(pyomo_placement, "PIECES", 400)
    fine, _ = by_statement(instance)
    assert low - room <= fine <= best + 5e-6 * max(1.0, abs(best))
    assert fine <= coarse + room


# -- the library ---------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(16))
def test_truth_lies_between_bound_and_plan(seed: int) -> None:
    """The proved bound is no more than the true optimum, the plan's true cost no less."""
    instance = draw(seed, "at_most", among=MIXED)
    between(instance, gap=1e-5)


@pytest.mark.parametrize("seed", range(8))
def test_truth_lies_between_for_whole_numbers(seed: int) -> None:
    """The same with whole instances, whole requests and even levels, at a wider gap."""
    rng = np.random.default_rng([seed, 46])
    instance = draw(seed, "at_most", str(rng.choice(WHOLE)), among=(*MIXED, *WHOLE))
    between(instance, gap=1e-2)


def between(instance: go.PlacementInstance, gap: float) -> None:
    """Assert that the truth lies between bound and plan, and these within the gap."""
    low, best = true_optimum(instance)
    solution = go.solve(instance, gap=1e-6)
    if best == math.inf:
        assert solution.status == go.Status.INFEASIBLE
        return
    assert solution.decision, (solution.status, best)
    report = go.check(instance, solution)
    assert report.ok, report.lines()
    certificate = certify(instance, solution)
    assert certificate.ok, certificate
    room = 1e-6 * max(1.0, abs(best))
    assert solution.bound is not None
    assert solution.objective is not None
    assert solution.bound <= best + room
    assert low - room <= solution.objective
    assert solution.objective - solution.bound <= gap * max(1.0, abs(best))


@pytest.mark.parametrize("seed", range(30))
def test_exact_loads_wait_linearly(seed: int) -> None:
    """Where instances serve exactly their level's load, both statements have one optimum."""
    instance = draw(seed, among=MIXED)
    assert len(to_model(instance).columns.get("filled", ())) == 0
    theirs, _ = by_statement(instance)
    solution = go.solve(instance, gap=1e-7)
    if theirs == math.inf:
        assert solution.status == go.Status.INFEASIBLE
        return
    assert solution.status == go.Status.OPTIMAL, solution.report
    assert solution.objective == pytest.approx(theirs, rel=1e-5, abs=1e-6)
    assert go.check(instance, solution).ok
    assert certify(instance, solution).ok


@pytest.mark.parametrize("weight", [0.25, 1.0, 1e-4, 25.0])
def test_library_follows_the_square_root_rule(weight: float) -> None:
    """The plan's instances are B (1 + √c), within the level's load and ten GPUs."""
    instance = hall(
        2.5,
        minimise={"energy_kwh": 1.0, "ttft_queue_request_s": weight / HOURLY},
        load_rule="at_most",
    )
    solution = go.solve(instance, gap=1e-8)
    serving = min(max(2.5 * (1 + math.sqrt(weight)), 2.5 / 0.9), 10.0)
    assert solution.metrics["gpu_h"] == pytest.approx(serving, rel=1e-3)
    cost = serving + weight * 2.5**2 / (serving - 2.5)
    assert solution.objective == pytest.approx(cost, rel=1e-7)
    assert solution.bound == pytest.approx(cost, rel=1e-7)


@pytest.mark.parametrize("whole", [(), WHOLE])
@pytest.mark.parametrize("seed", range(20))
def test_same_matrix(seed: int, whole: tuple[str, ...]) -> None:
    """Both statements have the same columns, rows and coefficients, the points' among them."""
    instance = draw(seed, "at_most", among=(*MIXED, "blocks", "fixed", *whole))
    ours = of_arrays(to_model(instance), 0)
    assert "filled" in {key[0] for key in ours.columns} & {key[0] for key in ours.rows}
    assert differences(ours, of_pyomo(go.to_pyomo(instance))) == []
