"""Whole instances, starts, blocks, whole requests and deferral: small cases reckoned by hand.

Each is solved twice: the Pyomo statement by HiGHS, and by the library, which also checks its plan.
Unless a case says otherwise there is one of everything, a period is an hour, PUE is 1, an instance
takes one GPU, serves 1 request/s at 1000 W (3600 requests and 1 kWh an hour) or stands by at 100 W,
and energy is minimised. A request's time to first token is 0.1 s where nothing starts.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
from oracles.tiny import Document, tiny
from pyomo.contrib.solver.common.factory import SolverFactory
from pyomo.environ import value

import greenopt as go
from greenopt.formulations.placement import metric_expression

Metrics = Callable[[str], float]
Solve = Callable[[Document], Metrics | None]

IDLE, FULL = (0.0, 100.0), (1.0, 1000.0)
HOURLY = 3600.0
"""Requests that a full instance serves in an hour."""


def by_statement(document: Document) -> Metrics | None:
    """Metrics of the optimum of the Pyomo statement; None without a plan."""
    model = go.to_pyomo(go.PlacementInstance.parse(document))
    result = SolverFactory("highs").solve(
        model, load_solutions=False, raise_exception_on_nonoptimal_result=False, rel_gap=0.0
    )
    if result.incumbent_objective is None:
        return None
    result.solution_loader.load_vars()
    return lambda name: float(value(metric_expression(model, name)))


def by_library(document: Document) -> Metrics | None:
    """Metrics of the library's optimum, which the checker accepts; None without a plan."""
    instance = go.PlacementInstance.parse(document)
    solution = go.solve(instance, gap=0.0)
    if solution.status == go.Status.INFEASIBLE:
        return None
    assert solution.status == go.Status.OPTIMAL, solution.report
    report = go.check(instance, solution)
    assert report.ok, report.lines()
    return lambda name: float(solution.metrics[name])


@pytest.fixture(params=[by_statement, by_library])
def solve(request: pytest.FixtureRequest) -> Solve:
    """One of the two ways to the optimum."""
    way: Solve = request.param
    return way


def document(
    served: Sequence[float],
    levels: Sequence[tuple[float, float]] = (IDLE, FULL),
    hours: Sequence[float] | None = None,
    minimise: dict[str, float] | None = None,
    profile: Document | None = None,
    request: Document | None = None,
    **overrides: Any,
) -> Document:
    """Make one of everything.

    Parameters
    ----------
    served : sequence of float
        Demand of each period, in what a full instance serves in an hour.
    levels : sequence of (float, float)
        Load, requests/s, and power, W, of each level.
    hours : sequence of float, optional
        Lengths of the periods, which follow each other; an hour each by default.
    minimise : dict of str to float, optional
        Metrics with their weights; energy by default.
    profile, request : dict, optional
        Fields of the profile and of the class.
    **overrides
        Fields of the document.
    """
    hours = [1.0] * len(served) if hours is None else hours
    minutes = [round(60 * sum(hours[:t])) for t in range(len(hours))]
    return tiny(
        **{
            "periods": {
                "start": [f"2023-07-18T{at // 60:02}:{at % 60:02}Z" for at in minutes],
                "duration_s": [3600.0 * h for h in hours],
            },
            "origins": ["here"],
            "sites": ["site"],
            "modes": ["mode"],
            "models": [{"name": "model", "weight_bytes": None, "kv_bytes_per_token": None}],
            "gpu_types": [
                {"name": "gpu", "memory_bytes": None, "embodied_kg": 100.0, "lifetime_s": 1e8}
            ],
            "profiles": [
                {
                    "model": "model",
                    "mode": "mode",
                    "gpu_type": "gpu",
                    "gpus_per_instance": 1.0,
                    "power_boundary": "server",
                    "prefill_tokens": [1.0, 1000.0],
                    "levels": [
                        {
                            "requests_per_s": load,
                            "power_w": watts,
                            "itl_s": {"mean": 0.02},
                            "prefill_s": [0.1, 0.1],
                        }
                        for load, watts in levels
                    ],
                    **(profile or {}),
                }
            ],
            "classes": [
                {
                    "name": "class",
                    "model": "model",
                    "prompt_tokens": {"values": [100.0], "probabilities": [1.0]},
                    "output_tokens": {"values": [100.0], "probabilities": [1.0]},
                    "work_per_request": {"mode": 1.0},
                    "egress_bytes_per_request": 0.0,
                    **(request or {}),
                }
            ],
            "demand_requests": over("period", [3600.0 * h for h in served]),
            "gpus": over(None, 10.0),
            "carbon_g_per_kwh": over(None, 400.0),
            "price_usd_per_mwh": over(None, 50.0),
            "pue": over(None, 1.0),
            "wue_l_per_kwh": over(None, 1.0),
            "cycles_of_concentration": over(None, 4.0),
            "ewif_l_per_kwh": over(None, 2.0),
            "rtt_s": over(None, 0.0),
            "last_mile_s": over(None, 0.0),
            "egress_usd_per_gb": over(None, 0.0),
            "gpu_usd_per_hour": over(None, 2.0),
            "objective": [
                {
                    "terms": [
                        {"metric": metric, "weight": weight}
                        for metric, weight in (minimise or {"energy_kwh": 1.0}).items()
                    ]
                }
            ],
            **overrides,
        }
    )


def over(axis: str | None, values: Any) -> Document:
    """Array over one axis or none."""
    return {"axes": [] if axis is None else [axis], "values": values}


def startup(seconds: float, kwh: float) -> Document:
    """Fields of a profile whose instances take time and energy to start."""
    return {"startup": {"time_s": seconds, "energy_kwh": kwh}}


def test_whole_instances_stand_by(solve: Solve) -> None:
    """Load for 1.5 instances needs 2: 1.5 * 1 kWh + 0.5 * 0.1 kWh = 1.55 kWh; 1.5 otherwise."""
    metrics = solve(document([1.5], instance_counts="integer"))
    assert metrics is not None
    assert metrics("energy_kwh") == pytest.approx(1.55)
    assert metrics("gpu_h") == pytest.approx(2.0)
    metrics = solve(document([1.5]))
    assert metrics is not None
    assert metrics("energy_kwh") == pytest.approx(1.5)


def test_whole_instances_at_one_level_serve_at_most_its_load(solve: Solve) -> None:
    """Load for 1.2 instances of one level: 2 run, at 1 kWh each; "exact" has no plan."""
    metrics = solve(document([1.2], [FULL], instance_counts="integer", load_rule="at_most"))
    assert metrics is not None
    assert metrics("energy_kwh") == pytest.approx(2.0)
    assert solve(document([1.2], [FULL], instance_counts="integer")) is None


def test_whole_instances_mix_levels(solve: Solve) -> None:
    """Half load takes 700 W. Of 2 instances, 1.6 at half and 0.4 at full load serve 1.2: 1.52 kWh.

    At 1.6 * 0.7 + 0.4 * 1 = 1.52 kWh the power is interpolated; 1.2 full ones would take 1.2 kWh.
    """
    levels = [(0.5, 700.0), FULL]
    metrics = solve(document([1.2], levels, instance_counts="integer"))
    assert metrics is not None
    assert metrics("energy_kwh") == pytest.approx(1.52)
    metrics = solve(document([1.2], levels))
    assert metrics is not None
    assert metrics("energy_kwh") == pytest.approx(1.2)


def test_start_takes_time_energy_and_patience(solve: Solve) -> None:
    """600 s and 0.5 kWh a start, 3000 requests: one instance starts and serves for 3000 s.

    Energy 3000/3600 + 0.5 = 1.333 kWh, GPUs held for the whole hour at 2 USD. The 3000/6 = 500
    requests of the first 600 s wait 600 s each: 300000 s, besides 3000 * 0.1 s = 300 s.
    Water: 1.333 kWh * (1 L on site + 2 L at the plant) = 4 L. Carbon: 1.333 * 0.4 = 0.533 kg.
    """
    metrics = solve(
        document(
            [3000 / HOURLY], [FULL], profile=startup(600.0, 0.5), initial_instances=over(None, 0.0)
        )
    )
    assert metrics is not None
    expected = {
        "energy_kwh": 4 / 3,
        "energy_it_kwh": 4 / 3,
        "gpu_h": 1.0,
        "cost_gpu_usd": 2.0,
        "cost_energy_usd": 4 / 3 * 0.05,
        "water_l": 4.0,
        "carbon_kg": 4 / 3 * 0.4,
        "starts": 1.0,
        "ttft_warm_request_s": 300.0,
        "ttft_startup_request_s": 300000.0,
        "ttft_request_s": 300300.0,
    }
    assert {name: metrics(name) for name in expected} == pytest.approx(expected)


def test_only_what_running_instances_cannot_take_waits(solve: Solve) -> None:
    """One runs, one starts for 600 s: 2 - 1/6 instances serve 6600 requests in the hour.

    Of the 1100 that arrive in the first 600 s, the running one takes 600; 500 wait 600 s each.
    """
    metrics = solve(
        document(
            [6600 / HOURLY],
            [FULL],
            minimise={"energy_kwh": 1.0, "ttft_request_s": 1e-6},
            profile=startup(600.0, 0.5),
            initial_instances=over(None, 1.0),
        )
    )
    assert metrics is not None
    assert metrics("starts") == pytest.approx(1.0)
    assert metrics("ttft_startup_request_s") == pytest.approx(500 * 600.0)
    assert metrics("energy_kwh") == pytest.approx(11 / 6 + 0.5)


@pytest.mark.parametrize(
    ("boundary", "it", "facility"),
    [
        ("server", 1.0 + 0.5, 1.5 * (1.0 + 0.5)),
        (
            "gpu",
            1.0 + 0.12 * 3000 / HOURLY + 0.5 + 0.02,
            1.5 * (1.0 + 0.12 * 3000 / HOURLY + 0.5 + 0.02),
        ),
        ("facility", (1.0 + 0.5) / 1.5, 1.0 + 0.5),
    ],
)
def test_energy_of_a_start_by_boundary(
    solve: Solve, boundary: str, it: float, facility: float
) -> None:
    """3000 s at 1200 W are 1 kWh, a start of 600 s takes 0.5 kWh; PUE 1.5.

    A GPU boundary adds a host of 120 W: 0.1 kWh while serving, 0.02 kWh while starting.
    """
    adder = {"host_adder_w": 120.0} if boundary == "gpu" else {}
    metrics = solve(
        document(
            [3000 / HOURLY],
            [(1.0, 1200.0)],
            profile={**startup(600.0, 0.5), "power_boundary": boundary, **adder},
            pue=over(None, 1.5),
            initial_instances=over(None, 0.0),
        )
    )
    assert metrics is not None
    assert metrics("energy_it_kwh") == pytest.approx(it)
    assert metrics("energy_kwh") == pytest.approx(facility)


def test_starts_count_in_peak_and_cap(solve: Solve) -> None:
    """5/6 kW of serving and 0.5 kWh of a start in the hour: a peak of 4/3 kW, 4 USD at 3 USD/kW.

    A cap of 4/3 kW is met, one of 1.3 kW is not.
    """
    given = document(
        [3000 / HOURLY],
        [FULL],
        minimise={"cost_demand_usd": 1.0},
        profile=startup(600.0, 0.5),
        initial_instances=over(None, 0.0),
        demand_charge_usd_per_kw=over(None, 3.0),
    )
    metrics = solve({**given, "facility_power_cap_w": over(None, 4000 / 3 + 1e-6)})
    assert metrics is not None
    assert metrics("cost_demand_usd") == pytest.approx(4.0)
    assert solve({**given, "facility_power_cap_w": over(None, 1300.0)}) is None


@pytest.mark.parametrize(("kwh", "energy", "starts"), [(0.5, 2.1, 0.0), (0.05, 2.05, 1.0)])
def test_standing_by_or_starting_again(
    solve: Solve, kwh: float, energy: float, starts: float
) -> None:
    """Work in hours 0 and 2: an idle hour takes 0.1 kWh, so a start pays off below that."""
    metrics = solve(
        document([1.0, 0.0, 1.0], profile=startup(0.0, kwh), initial_instances=over(None, 1.0))
    )
    assert metrics is not None
    assert metrics("energy_kwh") == pytest.approx(energy)
    assert metrics("starts") == pytest.approx(starts)


@pytest.mark.parametrize(
    ("seconds", "running", "energy"),
    [
        (3600.0, 0.0, 1.0),
        (3601.0, 0.0, 1.05),
        (5400.0, 0.0, 1.05),
        (5401.0, 0.0, 1.15),
        (5401.0, 1.0, 1.0),
    ],
)
def test_min_up_time(solve: Solve, seconds: float, running: float, energy: float) -> None:
    """Work in the first of 3600, 1800 and 3600 s; 0.05 and 0.1 kWh to stand by in the others.

    After 3600 s the second period needs no instance, after 5400 s the third. One that runs from
    before is not started and may stop at once.
    """
    metrics = solve(
        document(
            [1.0, 0.0, 0.0],
            hours=[1.0, 0.5, 1.0],
            profile={"min_up_s": seconds},
            initial_instances=over(None, running),
        )
    )
    assert metrics is not None
    assert metrics("energy_kwh") == pytest.approx(energy)


def test_blocks_hold_numbers(solve: Solve) -> None:
    """Loads of 1, 0 and 2 instances with the first two hours in one block: 1 + 0.1 + 2 = 3.1 kWh.

    With all in one block, 2 instances run for three hours: 3 + 3 * 0.1 = 3.3 kWh, 6 GPU hours.
    """
    metrics = solve(document([1.0, 0.0, 2.0], hold_periods=[2, 1]))
    assert metrics is not None
    assert metrics("energy_kwh") == pytest.approx(3.1)
    metrics = solve(document([1.0, 0.0, 2.0], hold_periods=[3]))
    assert metrics is not None
    assert metrics("energy_kwh") == pytest.approx(3.3)
    assert metrics("gpu_h") == pytest.approx(6.0)


def test_start_falls_into_the_first_period_of_its_block(solve: Solve) -> None:
    """Blocks of 2 hours; a start takes 1800 s. Loads 0.5 and 1: 0.5 + 1 kWh and a start of 0.2 kWh.

    Its instance serves half of hour 0 (1800 requests, of which the 900 of the first half wait) and
    all of hour 1. The second block, with load 1 and 0, keeps it and stands by: 1 + 0.1 kWh.
    """
    metrics = solve(
        document(
            [0.5, 1.0, 1.0, 0.0],
            minimise={"energy_kwh": 1.0, "ttft_request_s": 1e-9},
            profile=startup(1800.0, 0.2),
            hold_periods=[2, 2],
            initial_instances=over(None, 0.0),
        )
    )
    assert metrics is not None
    assert metrics("energy_kwh") == pytest.approx(0.5 + 1.0 + 0.2 + 1.0 + 0.1)
    assert metrics("starts") == pytest.approx(1.0)
    assert metrics("ttft_startup_request_s") == pytest.approx(900 * 1800.0)


def test_fixed_and_limited_numbers(solve: Solve) -> None:
    """Two instances given, load for 1: one stands by, 1.1 kWh. A limit of 1 allows none of 1.5."""
    fixed = {"axes": ["period", "site", "model", "mode"], "values": [[[[2.0]]]]}
    metrics = solve(document([1.0], fixed_instances=fixed))
    assert metrics is not None
    assert metrics("energy_kwh") == pytest.approx(1.1)
    limit = [{"name": "limit", "limit": over(None, 1.0)}]
    assert solve(document([1.0], instance_limits=limit)) is not None
    assert solve(document([1.5], instance_limits=limit)) is None


@pytest.mark.parametrize(
    ("limit_s", "gpus", "carbon", "deferred_h"),
    [
        (None, 10.0, 0.9, 0.0),
        (1800.0, 10.0, 0.9, 0.0),
        (3600.0, 10.0, 0.5, 1.0),
        (3600.0, 1.5, 0.6, 1.5),
        (3600.0, 1.1, 0.84, 0.3),
    ],
)
def test_deferral(
    solve: Solve, limit_s: float | None, gpus: float, carbon: float, deferred_h: float
) -> None:
    """One instance's load each hour at 500, 100 and 300 g/kWh; held back for an hour at most.

    None or half an hour: 0.5 + 0.1 + 0.3 = 0.9 kg. One hour: all of hour 0 is served in hour 1,
    2 * 0.1 + 0.3 = 0.5 kg, each request an hour late. With GPUs for 1.5 instances, half an hour's
    load moves on from hour 1 to 2: 1.5 * 0.1 + 1.5 * 0.3 = 0.6 kg, 1.5 loads held back. With 1.1:
    1.1 in hours 1 and 2, 0.8 in hour 0: 0.4 + 0.11 + 0.33 = 0.84 kg, 0.2 + 0.1 held back.
    """
    request = {} if limit_s is None else {"deferral_limit_s": limit_s}
    metrics = solve(
        document(
            [1.0, 1.0, 1.0],
            [FULL],
            minimise={"carbon_kg": 1.0, "deferral_request_s": 1e-12},
            request=request,
            carbon_g_per_kwh=over("period", [500.0, 100.0, 300.0]),
            gpus=over(None, gpus),
        )
    )
    assert metrics is not None
    assert metrics("carbon_kg") == pytest.approx(carbon)
    assert metrics("deferral_request_s") == pytest.approx(deferred_h * 3600 * 3600)


def test_deferral_counts_from_start_to_start(solve: Solve) -> None:
    """Periods of 1, 2 and 1 h at 500, 300 and 100 g/kWh; the second begins after 1, the third 3 h.

    A limit of 2 h lets hour 0 into the second (1 h) and the second into the third (2 h), but not
    hour 0 into the third (3 h): 1 * 0.3 + 2 * 0.1 = 0.5 kg for loads 1, 1 and 1 with all deferred.
    The waits are 1 h for 3600 requests and 2 h for 3600. With 3 h everything is served last:
    3 * 0.1 = 0.3 kg, waits 3 h and 2 h.
    """
    given = {
        "hours": [1.0, 2.0, 1.0],
        "minimise": {"carbon_kg": 1.0, "deferral_request_s": 1e-12},
        "carbon_g_per_kwh": over("period", [500.0, 300.0, 100.0]),
    }
    for hours, carbon, waits in [(2.0, 0.5, 1 + 2), (3.0, 0.3, 3 + 2)]:
        request = {"deferral_limit_s": 3600.0 * hours}
        metrics = solve(document([1.0, 1.0, 1.0], [FULL], request=request, **given))
        assert metrics is not None
        assert metrics("carbon_kg") == pytest.approx(carbon)
        assert metrics("deferral_request_s") == pytest.approx(waits * 3600 * 3600)


@pytest.mark.parametrize(("counts", "green"), [("integer", 3.0), ("continuous", 3.6)])
@pytest.mark.parametrize("groups", [1, 2])
def test_whole_requests(solve: Solve, counts: str, green: float, groups: int) -> None:
    """A green site's one GPU serves 3.6 slow requests an hour, so 3 whole ones of 5.

    Carbon is 100 g/kWh there and 500 elsewhere, a request takes 1/3.6 kWh: (3 * 100 + 2 * 500)
    / 3600 = 0.361 kg, and (3.6 * 100 + 1.4 * 500) / 3600 = 0.294 kg with parts of requests. With
    another level of half the load and power, of slower prefill, only sums over levels are whole.
    """
    given = document(
        [5 / HOURLY],
        [(5e-4, 500.0), (1e-3, 1000.0)][-groups:],
        minimise={"carbon_kg": 1.0},
        sites=["green", "grey"],
        gpus=[[[1.0], [10.0]]],
        carbon_g_per_kwh=over("site", [100.0, 500.0]),
        request_counts=counts,
    )
    given["profiles"][0]["levels"][0]["prefill_s"] = [0.2, 0.2]
    metrics = solve(given)
    assert metrics is not None
    assert metrics("carbon_kg") == pytest.approx((green * 100 + (5 - green) * 500) / 3600)


def test_whole_requests_divide_over_levels(solve: Solve) -> None:
    """3 whole requests on one whole instance: 0.6 at the low level, 2.4 at the high one.

    With y at the low level (1.8 an hour, 0.1 s prefill) and 1 - y at the high one (3.6, 0.3 s),
    1.8 y + 3.6 (1 - y) = 3 gives y = 1/3: 0.6 * 0.1 + 2.4 * 0.3 = 0.78 request seconds.
    """
    given = document(
        [3 / HOURLY],
        [(5e-4, 800.0), (1e-3, 1000.0)],
        request_counts="integer",
        instance_counts="integer",
    )
    given["profiles"][0]["levels"][1]["prefill_s"] = [0.3, 0.3]
    metrics = solve(given)
    assert metrics is not None
    assert metrics("ttft_request_s") == pytest.approx(0.78)
    assert metrics("energy_kwh") == pytest.approx(0.8 / 3 + 2 / 3)
