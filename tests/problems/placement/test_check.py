"""The checker accepts exact plans and rejects corruptions; metrics against hand calculation."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from oracles.plans import Plan, judged
from oracles.tiny import FEATURES, random_document, tiny

import greenopt as go
from greenopt.labelled import LabelledArray
from greenopt.problems.placement.check import ARRAYS, evaluate

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
        "ttft_warm_request_s": 7200 * 0.2,
        "ttft_startup_request_s": 0.0,
        "ttft_queue_request_s": 0.0,
        "ttft_request_s": 7200 * 0.2,
        "ttft_mean_s": 0.2,
        "ttft_p95_s": 0.35,
        "ttft_slo_attainment": 0.75,
        "deferral_request_s": 0.0,
        "gpu_h": 8.0,
        "starts": 0.0,
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


# Starts, waits, whole numbers and deferral: a plan made by hand


def started(**changes: Any) -> go.PlacementInstance:
    """Four hours in two blocks, with a gap of an hour between them; chat, and batch that may wait.

    An instance starts in 900 s with 0.5 kWh at the GPUs and 500 W of host. Powers of the levels lie
    on a line.
    """
    base = by_hand()
    profile = base.profiles[0].model_dump() | {
        "levels": [
            {"requests_per_s": r, "power_w": w, "itl_s": {"mean": 0.02}, "prefill_s": [0.1, 0.3]}
            for r, w in ((0.0, 300.0), (1.0, 900.0), (2.0, 1500.0))
        ],
        "startup": {"time_s": 900.0, "energy_kwh": 0.5},
        "min_up_s": 12000.0,
    }
    chat = base.classes[0].model_dump() | {
        "work_per_request": {"only": 1.0},
        "unmet_price_usd": 0.01,
    }
    batch = {
        "name": "batch",
        "model": "llm",
        "prompt_tokens": {"values": [1000.0], "probabilities": [1.0]},
        "output_tokens": {"values": [100.0], "probabilities": [1.0]},
        "work_per_request": {"only": 2.0},
        "egress_bytes_per_request": 0.0,
        "deferral_limit_s": 7200.0,
    }
    return by_hand(
        **{
            "periods": {
                "start": [f"2023-01-01T0{h}:00Z" for h in (0, 1, 3, 4)],
                "duration_s": [3600.0] * 4,
            },
            "profiles": [profile],
            "classes": [chat, batch],
            "embodied_charge": "running",
            "instance_counts": "integer",
            "request_counts": "integer",
            "hold_periods": [2, 2],
            "demand_requests": [
                [[5400.0, 3600.0]], [[3600.0, 900.0]], [[7200.0, 1800.0]], [[2700.5, 0.0]]
            ],
            "gpus": {"axes": [], "values": 12.0},
            "carbon_g_per_kwh": [[400.0], [300.0], [200.0], [100.0]],
            **{
                name: {"axes": [], "values": value}
                for name, value in (
                    ("price_usd_per_mwh", 50.0), ("pue", 1.25), ("wue_l_per_kwh", 1.5),
                    ("ewif_l_per_kwh", 2.0), ("initial_instances", 1.0),
                    ("facility_power_cap_w", 6156.25),
                )
            },
            "fixed_instances": {"axes": ["period"], "values": [2.0, 2.0, None, None]},
            "instance_limits": [
                {"name": "few", "limit": {"axes": ["site"], "values": [3.0]}},
                {"name": "none", "limit": {"axes": ["period"], "values": [2.0, 2.0, None, None]}},
            ],
            "objective": [{"terms": [{"metric": "unmet_usd", "weight": 1.0}]}],
            **changes,
        }
    )  # fmt: skip


def plan() -> Plan:
    """Two starts, 350 requests that wait for the first, 1,800 and 900 held back for a period.

    First hour: work 5,400 + 2 x 1,800 = 9,000, so 1.25 instances at the highest level; of two, one
    starts for a quarter of the hour, and half a one idles. A quarter of the work, 2,250, arrives
    during the start, of which the other instance takes 1,800: 450 wait, 250 + 2 x 100.
    """
    return {
        "flow": {
            (0, 0, 0, 0, 0, 2): 5400.0,
            (0, 0, 1, 0, 0, 2): 1800.0,
            (1, 0, 0, 0, 0, 2): 3600.0,
            (1, 0, 1, 0, 0, 2): 1800.0,
            (2, 0, 0, 0, 0, 2): 7200.0,
            (2, 0, 1, 0, 0, 2): 2700.0,
            (3, 0, 0, 0, 0, 1): 2700.0,
        },
        "instances": {
            (0, 0, 0, 0, 2): 1.25,
            (0, 0, 0, 0, 0): 0.5,
            (1, 0, 0, 0, 2): 1.0,
            (1, 0, 0, 0, 0): 1.0,
            (2, 0, 0, 0, 2): 1.75,
            (2, 0, 0, 0, 0): 1.0,
            (3, 0, 0, 0, 1): 0.75,
            (3, 0, 0, 0, 0): 2.25,
        },
        "unmet": {(3, 0, 0): 0.5},
        "deferred": {(0, 0, 1): 1800.0, (1, 0, 1): 900.0},
        "running": {(0, 0, 0, 0): 2.0, (1, 0, 0, 0): 2.0, (2, 0, 0, 0): 3.0, (3, 0, 0, 0): 3.0},
        "starts": {(0, 0, 0, 0): 1.0, (2, 0, 0, 0): 1.0},
        "startup_waits": {(0, 0, 0, 0): 250.0, (0, 1, 0, 0): 100.0},
    }


def edited(**entries: dict[tuple[int, ...], float] | None) -> Plan:
    """The plan with some entries set, or whole arrays taken away."""
    new = plan()
    for name, changes in entries.items():
        if changes is None:
            del new[name]
        else:
            new[name] = {**new.get(name, {}), **changes}
    return new


def test_plan_with_starts_by_hand() -> None:
    """Every metric of starts, waits and deferral against arithmetic on paper.

    Servers draw 2,000 W at the highest level, 1,400 at the middle one, 800 idle: 2.9, 2.8, 4.3 and
    2.85 kWh in the four hours. A start takes 0.5 kWh and 0.125 of its host.
    """
    found = judged(started(), plan())
    assert found.violations == []
    embodied = 40 * 315.36 / 8760  # forty GPU-hours: ten instance-hours, starting ones included
    expected = {
        "energy_it_kwh": 14.1,
        "energy_kwh": 17.625,
        "carbon_operational_kg": 4.4,  # 4.40625, 3.5, 6.15625 and 3.5625 kWh at falling intensity
        "carbon_embodied_running_kg": embodied,
        "carbon_kg": 4.4 + embodied,
        "carbon_embodied_kg": embodied,
        "carbon_total_kg": 4.4 + embodied,
        "water_evaporation_l": 14.1,
        "water_blowdown_l": 7.05,
        "water_grid_l": 35.25,
        "water_l": 56.4,
        "water_consumption_l": 49.35,
        "cost_energy_usd": 0.88125,
        "cost_gpu_usd": 100.0,
        "cost_egress_usd": 1.89,
        "cost_demand_usd": 61.5625,  # the third hour, with its start
        "cost_usd": 164.33375,
        "requests": 25200.0,
        "unmet_requests": 0.5,
        "unmet_usd": 0.005,
        "ttft_warm_request_s": 18900 * 0.2 + 6300 * 0.35,
        "ttft_startup_request_s": 350 * 900.0,
        "ttft_queue_request_s": 0.0,
        "ttft_request_s": 320985.0,
        "ttft_mean_s": 320985 / 25200,
        "ttft_p95_s": 0.35,
        "ttft_slo_attainment": (0.75 * (18900 - 250) + 6300) / 25200,
        "deferral_request_s": 1800 * 3600.0 + 900 * 7200.0,
        "gpu_h": 40.0,
        "starts": 2.0,
    }
    assert found.metrics == pytest.approx(expected, rel=1e-9)
    by = found.metrics_by
    assert by["site"]["starts"] == [2.0]
    assert by["site"]["ttft_startup_request_s"] == [315000.0]
    assert "deferral_request_s" not in by["site"]
    assert by["period"]["starts"] == [1.0, 0.0, 1.0, 0.0]
    assert by["period"]["energy_kwh"] == pytest.approx([4.40625, 3.5, 6.15625, 3.5625])
    assert by["period"]["gpu_h"] == pytest.approx([8.0, 8.0, 12.0, 12.0])
    assert by["period"]["ttft_startup_request_s"] == [315000.0, 0.0, 0.0, 0.0]
    assert by["period"]["deferral_request_s"] == [6.48e6, 6.48e6, 0.0, 0.0]
    assert by["period,site"]["starts"] == [[1.0], [0.0], [1.0], [0.0]]
    assert by["class"]["ttft_startup_request_s"] == [225000.0, 90000.0]
    assert by["class"]["ttft_mean_s"] == pytest.approx([0.2 + 225000 / 18900, 0.35 + 90000 / 6300])
    assert by["class"]["deferral_request_s"] == [0.0, 12.96e6]
    assert by["class"]["ttft_slo_attainment"] == pytest.approx([0.75 * 18650 / 18900, 1.0])
    # Idle and starting instances belong to no class.
    serving = 1.25 * (1.25 * 2000 + 2000 + 1.75 * 2000 + 0.75 * 1400) / 1000
    assert sum(by["class"]["energy_kwh"]) == pytest.approx(serving)
    # Powers lie on a line, so an even spread over the serving instances changes nothing.
    # The two starts take the same in both.
    assert found.notes["even_balance"]["energy_kwh"] == pytest.approx((12.85 + 2 * 0.625) * 1.25)
    assert found.notes["even_balance"]["difference_kwh"] == pytest.approx(0.0, abs=1e-9)


def test_waits_reach_the_95th_percentile() -> None:
    """Where a fourteenth of the requests waits, the 95th percentile is that of one that waits."""
    found = judged(started(), edited(startup_waits={(0, 0, 0, 0): 1350.0, (0, 1, 0, 0): 450.0}))
    assert found.violations == []
    # 23,400 of 25,200 do not wait; of the others, 1,012.5 of chat have a wait and the short prompt.
    assert found.metrics["ttft_p95_s"] == pytest.approx(900.15)


AT_MOST = {"load_rule": "at_most"}
REJECTED: dict[str, tuple[str, Plan, Document]] = {
    "half a request": (
        "whole requests",
        edited(flow={(3, 0, 0, 0, 0, 1): 2699.5}, unmet={(3, 0, 0): 1.0}),
        AT_MOST,
    ),
    "halves of one request at two levels are no fault, thirds are": (
        "whole requests",
        edited(
            flow={(3, 0, 0, 0, 0, 1): 2699.0 + 1 / 3, (3, 0, 0, 0, 0, 2): 1 / 3},
            unmet={(3, 0, 0): 0.5 + 1 / 3},
        ),
        AT_MOST,
    ),
    "half an instance": (
        "whole instances",
        edited(running={(2, 0, 0, 0): 2.5, (3, 0, 0, 0): 2.5}),
        {},
    ),
    "half a start": (
        "whole starts",
        edited(starts={(2, 0, 0, 0): 1.5}, instances={(2, 0, 0, 0, 0): 0.875}),
        {},
    ),
    "an instance stopped amid a block": (
        "instances held over blocks",
        edited(running={(3, 0, 0, 0): 2.0}, instances={(3, 0, 0, 0, 0): 1.25}),
        {},
    ),
    "another number than given": (
        "fixed instances",
        plan(),
        {"fixed_instances": {"axes": ["period"], "values": [1.0, 1.0, None, None]}},
    ),
    "a given number of none": (
        "fixed instances",
        plan(),
        {"fixed_instances": {"axes": ["period"], "values": [None, None, 0.0, 0.0]}},
    ),
    "more than a limit": (
        "instance limit few",
        plan(),
        {"instance_limits": [{"name": "few", "limit": {"axes": ["site"], "values": [2.0]}}]},
    ),
    "more than a limit of one period": (
        "instance limit few",
        plan(),
        {
            "instance_limits": [
                {"name": "few", "limit": {"axes": ["period"], "values": [None, None, None, 2.0]}}
            ]
        },
    ),
    "more than a limit in all": (
        "instance limit few",
        plan(),
        {"instance_limits": [{"name": "few", "limit": {"axes": [], "values": 2.0}}]},
    ),
    "more GPUs than there are while one starts": (
        "GPUs",
        plan(),
        {"gpus": {"axes": ["period"], "values": [12.0, 12.0, 11.0, 12.0]}},
    ),
    "an instance that does nothing": (
        "running instances serve or start",
        edited(instances={(1, 0, 0, 0, 0): 0.0}),
        {},
    ),
    "service during the start": (
        "running instances serve or start",
        edited(instances={(0, 0, 0, 0, 0): 0.75}),
        {},
    ),
    "no start for one more": (
        "more instances need starts",
        edited(starts={(2, 0, 0, 0): 0.0}, instances={(2, 0, 0, 0, 0): 1.25}),
        {},
    ),
    "no start for the first": (
        "more instances need starts",
        edited(starts={(0, 0, 0, 0): 0.0}, instances={(0, 0, 0, 0, 0): 0.75}),
        {},
    ),
    "more starts than run": (
        "started instances run",
        edited(starts={(2, 0, 0, 0): 4.0}, instances={(2, 0, 0, 0, 0): 0.25}),
        {},
    ),
    "a start amid a block": (
        "starts at the beginning of blocks",
        edited(starts={(3, 0, 0, 0): 1.0}, instances={(3, 0, 0, 0, 0): 2.0}),
        {},
    ),
    "stopped too early": (
        "minimum up-time",
        edited(
            starts={(0, 0, 0, 0): 2.0, (2, 0, 0, 0): 0.0},
            running={(2, 0, 0, 0): 1.0, (3, 0, 0, 0): 1.0},
        ),
        {},
    ),
    "too few wait": ("waits for starts", edited(startup_waits={(0, 0, 0, 0): 249.0}), {}),
    "more wait than arrive": (
        "those who wait for a start arrive",
        edited(startup_waits={(0, 0, 0, 0): 1351.0}),
        {},
    ),
    "waits amid a block": (
        "waits at the beginning of blocks",
        edited(startup_waits={(1, 0, 0, 0): 1.0}),
        {},
    ),
    "power of a start above the cap": (
        "facility power cap",
        plan(),
        {"facility_power_cap_w": {"axes": [], "values": 6156.0}},
    ),
    "a wait beyond its limit": (
        "deferral limit",
        plan(),
        {"classes": [k.model_dump() for k in started().classes[:1]]
         + [started().classes[1].model_dump() | {"deferral_limit_s": 7199.0}]},
    ),
    "an earlier request passed by": (
        "deferral limit",
        edited(
            flow={(1, 0, 1, 0, 0, 2): 1799.0, (2, 0, 1, 0, 0, 2): 2701.0},
            deferred={(1, 0, 1): 901.0},
        ),
        {},
    ),
    "a request never served": (
        "deferral limit",
        edited(flow={(2, 0, 1, 0, 0, 2): 2699.0}, deferred={(2, 0, 1): 1.0, (3, 0, 1): 1.0}),
        {},
    ),
    "a request served before it arrives": (
        "demand",
        edited(
            flow={(0, 0, 1, 0, 0, 2): 3601.0, (1, 0, 1, 0, 0, 2): 0.0, (2, 0, 1, 0, 0, 2): 2699.0},
            deferred={(0, 0, 1): 0.0},
        ),
        {},
    ),
    "a stock that is not what is held back": ("demand", edited(deferred={(0, 0, 1): 1700.0}), {}),
    "a request that may not wait": (
        "deferral is forbidden",
        edited(flow={(0, 0, 0, 0, 0, 2): 5399.0, (1, 0, 0, 0, 0, 2): 3601.0},
               deferred={(0, 0, 0): 1.0}),
        {},
    ),
    "less work than the level serves": (
        "load equals what instances serve",
        edited(flow={(3, 0, 0, 0, 0, 1): 2699.0}, unmet={(3, 0, 0): 1.5}),
        {},
    ),
    "more work than the level serves": (
        "load at most what instances serve",
        edited(instances={(3, 0, 0, 0, 1): 0.5, (3, 0, 0, 0, 0): 2.5}),
        AT_MOST,
    ),
    "fewer than none running": ("non-negativity", edited(running={(0, 0, 0, 0): -2.0}), {}),
    "negative waits": ("non-negativity", edited(startup_waits={(2, 0, 0, 0): -5.0}), {}),
    "no finite number": ("decision", edited(starts={(0, 0, 0, 0): float("nan")}), {}),
    "running missing": ("decision", edited(running=None), {}),
    "starts missing": ("decision", edited(starts=None), {}),
    "waits missing": ("decision", edited(startup_waits=None), {}),
    "stocks missing": ("decision", edited(deferred=None), {}),
    "an unknown array": ("decision", edited(magic={(0,): 1.0}), {}),
    "a budget of starts": (
        "budget cap",
        plan(),
        {"budgets": [{"name": "cap", "metric": "starts", "limit": {"axes": [], "values": 1.0}}]},
    ),
    "a budget of deferral": (
        "budget cap",
        plan(),
        {
            "budgets": [
                {
                    "name": "cap",
                    "metric": "deferral_request_s",
                    "limit": {"axes": ["period"], "values": [None, 6.4e6, None, None]},
                }
            ]
        },
    ),
    "a budget of the mean TTFT, with waits": (
        "budget cap",
        plan(),
        {
            "budgets": [
                {
                    "name": "cap",
                    "metric": "ttft_mean_s",
                    "limit": {"axes": ["period"], "values": [43.0, None, None, None]},
                }
            ]
        },
    ),
}  # fmt: skip
"""Faults of the hand-made plan: the requirement that each must break, plan, change of instance."""


@pytest.mark.parametrize("name", REJECTED)
def test_fault_of_starts_or_deferral_is_rejected(name: str) -> None:
    """Every fault is found, by the requirement that it breaks."""
    requirement, faulty, changes = REJECTED[name]
    found = judged(started(**changes), faulty)
    assert requirement in {v.requirement for v in found.violations}, found.violations


def test_the_plan_behind_the_faults_is_good() -> None:
    """Without a fault the plan passes, also where loads may be lower and where limits just hold."""
    assert judged(started(**AT_MOST), plan()).violations == []
    assert judged(started(**AT_MOST), edited(flow={(3, 0, 0, 0, 0, 1): 2699.0},
                                             unmet={(3, 0, 0): 1.5})).violations == []  # fmt: skip
    two = edited(flow={(3, 0, 0, 0, 0, 1): 2698.5, (3, 0, 0, 0, 0, 2): 0.5}, unmet={(3, 0, 0): 1.5})
    two["instances"][(3, 0, 0, 0, 2)] = two["instances"][(3, 0, 0, 0, 1)] / 2
    two["instances"][(3, 0, 0, 0, 1)] /= 2
    assert {v.requirement for v in judged(started(**AT_MOST), two).violations} <= {
        "load at most what instances serve"
    }
    mean = {"name": "cap", "metric": "ttft_mean_s", "limit": {"axes": [], "values": 12.7375}}
    assert judged(started(budgets=[mean]), plan()).violations == []


@pytest.mark.parametrize("name", ["deferred", "running", "starts", "startup_waits"])
def test_array_of_another_kind_of_instance_is_rejected(name: str) -> None:
    """A plan may not hold what its instance does not decide."""
    instance = by_hand()
    entries: Plan = {
        "flow": {(0, 0, 0, 0, 0, 0): 7200.0},
        "instances": {(0, 0, 0, 0, 0): 2.0},
        name: {(0,) * len(ARRAYS[name]): 1.0},
    }
    violations = judged(instance, entries).violations
    assert str(violations[0]).startswith(f"decision at array '{name}' is not part of a plan")


def test_starts_of_a_profile_that_has_none_are_rejected() -> None:
    """Where another profile starts, entries of one whose starts do not matter are refused."""
    base = started()
    plain = base.profiles[0].model_dump() | {"mode": "plain", "startup": None, "min_up_s": 0.0}
    slow = base.profiles[0].model_dump()
    classes = [
        k.model_dump() | {"work_per_request": {**k.work_per_request, "plain": 1.0}}
        for k in base.classes
    ]
    instance = started(modes=["only", "plain"], profiles=[slow, plain], classes=classes,
                       fixed_instances=None)  # fmt: skip
    assert judged(instance, plan()).violations == []
    for name, at in (("starts", (0, 0, 0, 1)), ("startup_waits", (0, 0, 0, 1))):
        (violation,) = judged(instance, edited(**{name: {at: 1.0}})).violations
        assert str(violation).startswith(f"profile at llm in plain has no {name}")


@pytest.mark.parametrize("shift", [0.0, 100.0])
def test_first_in_first_out(shift: float) -> None:
    """Requests leave in the order they came, whoever else is served meanwhile.

    Of 3,600 and 900 that arrive, 1,800 are left over after the first hour and 900 + `shift` after
    the second: the shift are requests of the first hour, which no later hour may serve. As many of
    the third hour are never served.
    """
    found = judged(
        started(**AT_MOST),
        edited(
            flow={(1, 0, 1, 0, 0, 2): 1800.0 - shift, (2, 0, 1, 0, 0, 2): 2700.0},
            deferred={(1, 0, 1): 900.0 + shift, (2, 0, 1): shift, (3, 0, 1): 0.0},
            unmet={},
        ),
    )
    late = [v for v in found.violations if v.requirement == "deferral limit"]
    assert [v.amount for v in late] == ([] if shift == 0 else pytest.approx([shift, shift]))


COUNTS = [f for f in FEATURES if f not in {"even", "unlimited", "lexicographic"}]


@pytest.mark.parametrize("seed", range(16))
def test_metrics_equal_the_optimised_expressions_with_starts(seed: int) -> None:
    """So do those of starts, waits and deferral; every plan passes.

    Where waiting in queues is a curve, its chords say more than the checker.
    """
    from greenopt.problems.placement.formulation import formulate
    from greenopt.problems.placement.metrics import METRICS
    from greenopt.solvers import solve_model

    rng = np.random.default_rng(seed)
    switches = {f: bool(rng.random() < 0.5) for f in COUNTS} | {"budgets": False}
    instance = go.PlacementInstance.parse(random_document(rng, **switches))
    formulation = formulate(instance)
    raw = solve_model(formulation.model)
    if raw.x is None:
        return
    found = evaluate(instance, formulation.decode(raw.x))
    assert found.violations == []
    names = [m.name for m in METRICS.values() if m.kind == "additive"]
    above = {"cost_usd", "cost_demand_usd"}  # the peak column may exceed the peak
    above |= {"ttft_queue_request_s", "ttft_request_s"} if instance.waiting_is_curved else set()
    for name in names:
        vector = formulation._vector(name)
        size = max(float(np.abs(vector * raw.x).sum()), 1.0)
        if name in above:
            assert vector @ raw.x >= (found.metrics[name] or 0.0) - 1e-6 * size
        else:
            assert vector @ raw.x == pytest.approx(found.metrics[name], abs=1e-6 * size)


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
