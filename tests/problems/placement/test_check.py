"""The checker accepts exact plans and rejects corruptions; metrics against hand calculation."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from oracles.tiny import random_document, tiny

import greenopt as go
from greenopt.labelled import LabelledArray

Document = dict[str, Any]


def changed(
    solution: go.Solution, name: str, edit: Callable[[LabelledArray], LabelledArray]
) -> go.Solution:
    """The solution with one decision array edited."""
    return replace(solution, decision={**solution.decision, name: edit(solution.decision[name])})


def with_values(array: LabelledArray, values: Any) -> LabelledArray:
    """The array with other values."""
    return replace(array, values=np.asarray(values, dtype=float))


def biggest(array: LabelledArray) -> int:
    """Position of the largest stored value."""
    return int(np.argmax(array.values))


def moved(array: LabelledArray, axis: str) -> LabelledArray:
    """The array with its largest entry shifted to the next label of an axis."""
    codes = array.codes.copy()
    row = array.axes.index(axis)
    at = biggest(array)
    codes[row, at] = (codes[row, at] + 1) % array.shape[row]
    return replace(array, codes=codes)


def scaled(array: LabelledArray, factor: float) -> LabelledArray:
    """The array with its largest entry multiplied."""
    values = array.values.copy()
    values[biggest(array)] *= factor
    return with_values(array, values)


def without(array: LabelledArray) -> LabelledArray:
    """The array with its largest entry dropped."""
    kept = np.arange(len(array.values)) != biggest(array)
    return replace(array, codes=array.codes[:, kept], values=array.values[kept])


@pytest.fixture(scope="module")
def solved() -> tuple[go.PlacementInstance, go.Solution]:
    """The hand-made instance with a binding budget, solved."""
    plain = go.PlacementInstance.parse(tiny())
    most = go.solve(plain).metrics["water_l"]
    assert most is not None
    budget = {"name": "water", "metric": "water_l", "limit": {"axes": [], "values": 0.999 * most}}
    instance = plain.replace(budgets=[budget])
    return instance, go.solve(instance)


CORRUPTIONS: dict[str, Callable[[go.Solution], go.Solution]] = {
    "flow moved to another site": lambda s: changed(s, "flow", lambda a: moved(a, "site")),
    "flow moved to another period": lambda s: changed(s, "flow", lambda a: moved(a, "period")),
    "flow moved to another origin": lambda s: changed(s, "flow", lambda a: moved(a, "origin")),
    "flow moved to another level": lambda s: changed(s, "flow", lambda a: moved(a, "level")),
    "flow moved to another mode": lambda s: changed(s, "flow", lambda a: moved(a, "mode")),
    "flow a little larger": lambda s: changed(s, "flow", lambda a: scaled(a, 1.0001)),
    "demand dropped": lambda s: changed(s, "flow", without),
    "negative flow": lambda s: changed(s, "flow", lambda a: scaled(a, -1.0)),
    "an instance group dropped": lambda s: changed(s, "instances", without),
    "more instances": lambda s: changed(s, "instances", lambda a: scaled(a, 1.01)),
    "instances at another site": lambda s: changed(s, "instances", lambda a: moved(a, "site")),
    "too many GPUs": lambda s: changed(s, "instances", lambda a: scaled(a, 1e4)),
    "unmet demand that is forbidden": lambda s: replace(
        s,
        decision={
            **s.decision,
            "unmet": LabelledArray(
                "unmet",
                "requests",
                {a: s.sets[a] for a in ("period", "origin", "class")},
                np.array([[0], [0], [0]]),
                np.array([5.0]),
            ),
        },
    ),
    "an array of no meaning": lambda s: replace(
        s, decision={**s.decision, "magic": s.decision["flow"]}
    ),
    "flow missing": lambda s: replace(s, decision={"instances": s.decision["instances"]}),
    "a wrong total": lambda s: replace(
        s, metrics={**s.metrics, "carbon_kg": (s.metrics["carbon_kg"] or 0.0) * 0.999}
    ),
    "a wrong p95": lambda s: replace(s, metrics={**s.metrics, "ttft_p95_s": 0.01}),
    "a metric left out": lambda s: replace(
        s, metrics={k: v for k, v in s.metrics.items() if k != "water_l"}
    ),
    "a wrong site value": lambda s: replace(s, metrics_by=_edited(s, "site", "cost_usd")),
    "a wrong period value": lambda s: replace(s, metrics_by=_edited(s, "period", "energy_kwh")),
    "a wrong class value": lambda s: replace(s, metrics_by=_edited(s, "class", "requests")),
    "a lower objective": lambda s: replace(
        s, stages=(replace(s.stages[-1], objective=0.99 * s.stages[-1].objective),)
    ),
    "a bound above the objective": lambda s: replace(
        s, stages=(replace(s.stages[-1], bound=1.01 * s.stages[-1].objective),)
    ),
    "optimal with a wide gap": lambda s: replace(
        s, stages=(replace(s.stages[-1], bound=0.9 * s.stages[-1].objective),)
    ),
    "infeasible with a plan": lambda s: replace(s, status=go.Status.INFEASIBLE),
}


def _edited(solution: go.Solution, axis: str, metric: str) -> dict[str, dict[str, Any]]:
    table = copy.deepcopy(solution.metrics_by)
    table[axis][metric][0] = table[axis][metric][0] * 1.01 + 1.0
    return table


def test_exact_plan_is_accepted(solved: tuple[go.PlacementInstance, go.Solution]) -> None:
    """The uncorrupted plan passes, and its budget binds."""
    instance, solution = solved
    assert go.check(instance, solution).ok
    assert solution.metrics["water_l"] == pytest.approx(
        float(instance.budgets[0].limit.values), rel=1e-6
    )


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_corruption_is_rejected(
    name: str, solved: tuple[go.PlacementInstance, go.Solution]
) -> None:
    """Every corruption of plan, metrics or proof is found and named."""
    instance, solution = solved
    report = go.check(instance, CORRUPTIONS[name](solution))
    assert not report.ok
    assert report.lines()


def test_broken_budget_is_rejected(solved: tuple[go.PlacementInstance, go.Solution]) -> None:
    """A plan made without the budget violates it, and the report names the budget."""
    instance, _ = solved
    free = instance.replace(budgets=[])
    plan = replace(go.solve(free), instance_sha256=instance.sha256)
    report = go.check(instance, plan)
    assert any("budget water" in line for line in report.lines())


def test_limit_breaking_level_is_rejected() -> None:
    """A plan whose level misses a TBT limit that came later is rejected by name."""
    instance = go.PlacementInstance.parse(tiny())
    solution = go.solve(instance)
    classes = [k.model_dump() for k in instance.classes]
    classes[0]["tbt_limit_s"] = 1e-3
    strict = instance.replace(classes=classes)
    report = go.check(strict, replace(solution, instance_sha256=strict.sha256))
    assert any(line.startswith("TBT") for line in report.lines())


def test_solution_of_another_instance_is_refused() -> None:
    """A solution belongs to the instance with the same digest only."""
    instance = go.PlacementInstance.parse(tiny())
    solution = go.solve(instance)
    with pytest.raises(go.SolutionError, match="another instance"):
        go.check(instance.replace(name="other"), solution)


def by_hand(**changes: Any) -> go.PlacementInstance:
    """One period, origin, site, mode and class: 7,200 requests on two instances."""
    document: Document = {
        **tiny(),
        "name": "by-hand",
        "periods": {"start": ["2023-01-01T00:00Z"], "duration_s": [3600.0]},
        "origins": ["here"],
        "sites": ["there"],
        "modes": ["only"],
        "models": [{"name": "llm", "weight_bytes": None, "kv_bytes_per_token": None}],
        "gpu_types": [
            {"name": "gpu", "memory_bytes": None, "embodied_kg": 315.36, "lifetime_s": 31536000.0}
        ],
        "profiles": [
            {
                "model": "llm",
                "mode": "only",
                "gpu_type": "gpu",
                "gpus_per_instance": 4.0,
                "power_boundary": "gpu",
                "host_adder_w": 500.0,
                "prefill_tokens": [0.0, 1000.0],
                "levels": [
                    {
                        "requests_per_s": 2.0,
                        "power_w": 1500.0,
                        "itl_s": {"mean": 0.02},
                        "prefill_s": [0.1, 0.3],
                    }
                ],
            }
        ],
        "classes": [
            {
                "name": "chat",
                "model": "llm",
                "prompt_tokens": {"values": [0.0, 1000.0], "probabilities": [0.75, 0.25]},
                "output_tokens": {"values": [100.0], "probabilities": [1.0]},
                "work_per_request": {"only": 2.0},
                "egress_bytes_per_request": 1e6,
                "ttft_limit_s": 0.2,
                "ttft_statistic": "p50",
            }
        ],
        "demand_requests": [[[7200.0]]],
        "gpus": [[[80.0]]],
        "carbon_g_per_kwh": [[400.0]],
        "price_usd_per_mwh": [[50.0]],
        "pue": [[1.25]],
        "wue_l_per_kwh": [[1.5]],
        "cycles_of_concentration": [3.0],
        "ewif_l_per_kwh": [[2.0]],
        "rtt_s": [[0.04]],
        "last_mile_s": [0.01],
        "egress_usd_per_gb": [[0.1]],
        "gpu_usd_per_hour": [[2.5]],
        "demand_charge_usd_per_kw": [10.0],
        "objective": [{"terms": [{"metric": "cost_usd", "weight": 1.0}]}],
        **changes,
    }
    return go.PlacementInstance.parse(document)


def test_metrics_by_hand() -> None:
    """Every metric of a one-site plan against arithmetic on paper.

    7,200 requests of work 2 in an hour are 4 reference requests/s: two instances. Each draws
    1,500 + 500 W, so 4 kWh at the server and 5 at the meter (PUE 1.25).
    """
    solution = go.solve(by_hand())
    assert solution.status == go.Status.OPTIMAL
    expected = {
        "energy_it_kwh": 4.0,
        "energy_kwh": 5.0,
        "carbon_operational_kg": 2.0,
        "carbon_embodied_running_kg": 0.0,
        "carbon_kg": 2.0,
        "carbon_embodied_kg": 80 * 315.36 / 8760,  # one kg is 31,536,000 s; an hour of 80 GPUs
        "carbon_total_kg": 2.0 + 80 * 315.36 / 8760,
        "water_evaporation_l": 4.0,
        "water_blowdown_l": 2.0,
        "water_grid_l": 10.0,
        "water_l": 16.0,
        "water_consumption_l": 14.0,
        "cost_energy_usd": 0.25,
        "cost_gpu_usd": 20.0,
        "cost_egress_usd": 0.72,
        "cost_demand_usd": 50.0,
        "cost_usd": 70.97,
        "requests": 7200.0,
        "unmet_requests": 0.0,
        "unmet_usd": 0.0,
        "ttft_request_s": 7200 * 0.2,
        "ttft_mean_s": 0.2,
        "ttft_p95_s": 0.35,
        "ttft_slo_attainment": 0.75,
        "gpu_h": 8.0,
    }
    assert solution.metrics == pytest.approx(expected, rel=1e-9)
    assert set(expected) == set(solution.metrics)
    chat = solution.metrics_by["class"]
    assert chat["energy_kwh_per_request"][0] == pytest.approx(5 / 7200)
    assert chat["carbon_kg_per_1000_tokens"][0] == pytest.approx(2 / 7200 / 350 * 1000)
    assert chat["cost_usd_per_request"][0] == pytest.approx(20.97 / 7200)
    assert chat["ttft_p95_s"] == [pytest.approx(0.35)]
    assert chat["ttft_slo_attainment"] == [pytest.approx(0.75)]
    assert solution.objective == pytest.approx(70.97)
    # One request/s an instance, in service for 0.15 s of prefill and 100 tokens of 0.02 s.
    (batch,) = solution.report["notes"]["batch"]
    assert batch == {"model": "llm", "mode": "only", "level": 0, "mean_batch": pytest.approx(2.15)}


def test_embodied_charge_to_running_gpus_steers() -> None:
    """Charged to running GPUs, embodied carbon is that of 8 GPU-hours and enters carbon_kg."""
    solution = go.solve(by_hand(embodied_charge="running"))
    per_gpu_h = 315.36 / 8760
    assert solution.metrics["carbon_embodied_kg"] == pytest.approx(8 * per_gpu_h)
    assert solution.metrics["carbon_kg"] == pytest.approx(2 + 8 * per_gpu_h)


def test_even_balance_note_by_hand() -> None:
    """Evenly spread, instances at two levels draw the interpolated power; the note says so."""
    levels = [
        {"requests_per_s": r, "power_w": w, "itl_s": {"mean": 0.02}, "prefill_s": [0.1, 0.3]}
        for r, w in ((0.0, 300.0), (1.0, 900.0), (2.0, 1500.0))
    ]
    base = by_hand()
    profile = base.profiles[0].model_dump() | {"levels": levels}
    instance = base.replace(profiles=[profile])
    solution = go.solve(instance)
    run = solution.decision["instances"]
    # Replace two instances at level 2 by one at level 2 and two at level 1: the same work.
    codes = np.array([[0, 0], [0, 0], [0, 0], [0, 0], [1, 2]])
    flow = solution.decision["flow"]
    split = np.repeat(flow.codes, 2, axis=1)
    split[-1] = [1, 2]
    plan = {
        "instances": replace(run, codes=codes, values=np.array([2.0, 1.0])),
        "flow": replace(flow, codes=split, values=np.array([3600.0, 3600.0])),
    }
    report = go.check(instance, replace(solution, decision=plan))
    assert not report.violations
    # Load 4/3 per instance: 900 + 600/3 = 1,100 W GPU, 1,600 W server, 3 instances, PUE 1.25.
    assert report.notes["even_balance"]["energy_kwh"] == pytest.approx(3 * 1.6 * 1.25)
    # The power curve is linear between the levels, so packing changes nothing here.
    assert report.notes["even_balance"]["difference_kwh"] == pytest.approx(0.0, abs=1e-9)


@pytest.mark.parametrize("seed", range(12))
def test_metrics_equal_the_optimised_expressions(seed: int) -> None:
    """Each metric's linear expression in the model equals the checker's value, sites and all."""
    from greenopt.problems.placement.formulation import formulate
    from greenopt.problems.placement.metrics import METRICS
    from greenopt.solvers import solve_model

    rng = np.random.default_rng(seed)
    instance = go.PlacementInstance.parse(
        random_document(
            rng, unmet=True, custom=True, demand_charge=True, running=bool(seed % 2), mask=True
        )
    )
    formulation = formulate(instance)
    raw = solve_model(formulation.model)
    assert raw.x is not None
    solution = go.solve(instance)
    names = [m.name for m in METRICS.values() if m.kind == "additive"]
    for name in [*names, *(c.name for c in instance.custom_metrics)]:
        vector = formulation._vector(name)
        size = max(float(np.abs(vector * raw.x).sum()), 1.0)
        if (
            name != "cost_demand_usd"
            and "cost_demand_usd" not in METRICS.get(name, METRICS["requests"]).parts
        ):
            assert vector @ raw.x == pytest.approx(solution.metrics[name], abs=1e-7 * size)
        else:  # the peak column may exceed the peak where the charge has no weight
            assert vector @ raw.x >= (solution.metrics[name] or 0.0) - 1e-7 * size
