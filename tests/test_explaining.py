"""Explanations of infeasible instances: irreducible conflicts, least relaxations, words."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

import numpy as np
import pytest
from conftest import quick_path
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from oracles.tiny import FEATURES, random_document, tiny
from scipy.optimize import Bounds, LinearConstraint, milp

import greenopt as go
from greenopt.cli import main
from greenopt.explaining import Clock, Explanation, _Search, _Settings
from greenopt.io import to_model
from greenopt.problems.placement.requirements import KINDS, requirements

HOUR = 3600.0
START = [f"2025-01-01T0{t}:00Z" for t in range(3)]


# -- instances by hand: an instance on one GPU serves a request a second ---------------------------


def level(requests_per_s: float = 1.0, **changes: Any) -> dict[str, Any]:
    """A level of 1000 W, 50 ms between tokens and 200 ms of prefill."""
    return {
        "requests_per_s": requests_per_s,
        "power_w": 1000.0,
        "itl_s": {"mean": 0.05},
        "prefill_s": [0.2, 0.2],
        **changes,
    }


def small(
    demand: list[float], gpus: float, levels: list[dict[str, Any]] | None = None, **changes: Any
) -> dict[str, Any]:
    """One class from one origin, one mode at one site; load_rule at_most."""
    periods = len(demand)
    profile = {
        "model": "llm", "mode": "fast", "gpu_type": "h100", "gpus_per_instance": 1.0,
        "power_boundary": "facility", "prefill_tokens": [1.0, 100.0],
        "levels": levels or [level()],
    }  # fmt: skip
    request = {
        "name": "chat", "model": "llm", "work_per_request": {"fast": 1.0},
        "prompt_tokens": {"values": [10.0], "probabilities": [1.0]},
        "output_tokens": {"values": [10.0], "probabilities": [1.0]},
        "egress_bytes_per_request": 0.0,
    }  # fmt: skip
    document = {
        **{k: v for k, v in tiny().items() if k in {
            "problem", "schema_version", "provenance", "carbon_signal", "wue_basis", "ewif_set",
            "price_basis"}},
        "name": "small",
        "periods": {"start": START[:periods], "duration_s": [HOUR] * periods},
        "origins": ["tokyo"], "sites": ["oregon"], "modes": ["fast"],
        "models": [{"name": "llm", "weight_bytes": None, "kv_bytes_per_token": None}],
        "gpu_types": [{"name": "h100", "memory_bytes": None, "embodied_kg": 0.0,
                       "lifetime_s": 1e8}],
        "profiles": [{**profile, **changes.pop("profile", {})}],
        "classes": [{**request, **changes.pop("request", {})}],
        "load_rule": "at_most",
        "demand_requests": {"axes": ["period"], "values": demand},
        "gpus": {"axes": [], "values": gpus},
        "rtt_s": {"axes": [], "values": 0.1}, "last_mile_s": {"axes": [], "values": 0.0},
        "objective": [{"terms": [{"metric": "energy_kwh", "weight": 1.0}]}],
        **{name: {"axes": [], "values": value} for name, value in {
            "carbon_g_per_kwh": 100.0, "price_usd_per_mwh": 50.0, "pue": 1.0, "wue_l_per_kwh": 0.0,
            "cycles_of_concentration": 5.0, "ewif_l_per_kwh": 0.0, "egress_usd_per_gb": 0.0,
        }.items()},
    }  # fmt: skip
    return {**document, **changes}


def uniform(value: Any) -> dict[str, Any]:
    """An array without axes."""
    return {"axes": [], "values": value}


def fixed(*numbers: float | None) -> dict[str, Any]:
    """Given numbers of instances by period."""
    return {"axes": ["period"], "values": list(numbers)}


MEMORY = {
    "models": [{"name": "llm", "weight_bytes": 79e9, "kv_bytes_per_token": 1e9}],
    "gpu_types": [
        {
            "name": "h100", "memory_bytes": 80e9, "usable_memory_fraction": 1.0,
            "embodied_kg": 0.0, "lifetime_s": 1e8,
        }
    ],
}  # fmt: skip

LEVELS = [level(1.0), level(3.0)]
NO_DEMAND = {"demand_requests": uniform(0.0)}
TWO_SITES = {
    "sites": ["oregon", "sweden"],
    "request_counts": "integer",
}
EXACT = {"load_rule": "exact"}

# Document, then for every member of the conflict: what dropping it means in fields of the instance,
# and words that its sentence or relaxation must hold.
CASES: dict[str, tuple[dict[str, Any], dict[str, dict[str, Any]], list[str]]] = {
    "gpus": (
        small([7560.0], 2.0),
        {"gpus": {"gpus": uniform(3.0)}, "demand": NO_DEMAND},
        [
            "period 2025-01-01T00:00Z: 2.1/s (7,560 requests) of class chat from tokyo; the sites "
            "that reach it (oregon: 2 h100) hold 2/s (7,200 requests)",
            "enough alone: GPUs h100 at oregon in 2025-01-01T00:00Z: 2.1 instead of 2 GPUs",
            "enough alone: demand of class chat from tokyo in 2025-01-01T00:00Z: 360 requests "
            "fewer, of 7,560",
        ],
    ),
    "ttft": (
        small([3600.0], 2.0, request={"ttft_limit_s": 0.25, "ttft_statistic": "mean"}),
        {"ttft": {"ttft_limit_s": 0.3}, "demand": NO_DEMAND},
        [
            "within 0.25 s (TTFT mean of chat); its smallest TTFT mean from tokyo is 0.3 s, "
            "the limit 0.25 s",
            "enough alone: TTFT limit of chat: 0.3 s instead of 0.25 s",
        ],
    ),
    "tbt": (
        small([3600.0], 2.0, request={"tbt_limit_s": 0.04, "tbt_statistic": "mean"}),
        {"tbt": {"tbt_limit_s": 0.05}, "demand": NO_DEMAND},
        [
            "the smallest TBT mean is 0.05 s, the limit 0.04 s",
            "enough alone: TBT limit of chat: 0.05 s instead of 0.04 s",
        ],
    ),
    # 1/s x (0.2 s + 10 x 0.05 s) x 20 tokens x 1 GB = 14 GB, and 1 GB is free.
    "memory": (
        small([3600.0], 2.0, **MEMORY),
        {"memory": {"models": small([1.0], 1.0)["models"]}, "demand": NO_DEMAND},
        [
            "its KV cache does not fit beside the weights at any level",
            "enough alone: KV memory of llm: 13 GB more of memory on an instance",
        ],
    ),
    "reachable": (
        small([3600.0], 2.0, reachable=uniform(False)),
        {"reachable": {"reachable": None}, "demand": NO_DEMAND},
        ["enough alone: without the mask on chat it is feasible"],
    ),
    "deadline": (
        small([7200.0, 0.0], 1.0, request={"deferral_limit_s": 1800.0}),
        {
            "deadline": {"deferral_limit_s": HOUR},
            "gpus": {"gpus": {"axes": ["period"], "values": [2.0, 1.0]}},
            "demand": NO_DEMAND,
        },
        [
            "deadline of chat: held back for at most 1,800 s",
            "enough alone: deadline of chat: 3600 s instead of 1800 s",
        ],
    ),
    "power_cap": (
        small([3600.0], 2.0, facility_power_cap_w=uniform(900.0)),
        {"power_cap": {"facility_power_cap_w": None}, "demand": NO_DEMAND},
        ["power cap at oregon in 2025-01-01T00:00Z: 1,000 instead of 900 W"],
    ),
    "budget": (
        small([3600.0], 2.0, budgets=[{"name": "sun", "metric": "carbon_kg",
                                       "limit": uniform(0.08)}]),
        {"budget": {"budgets": ()}, "demand": NO_DEMAND},
        [
            "budget sun (in total): 0.1 instead of 0.08 kg CO2e of carbon_kg",
            "budget sun (in total) is exceeded by 0.02 kg CO2e",
        ],
    ),
    "mean": (
        small([3600.0], 2.0, budgets=[{"name": "quick", "metric": "ttft_mean_s",
                                       "limit": uniform(0.2)}]),
        {"budget": {"budgets": ()}, "demand": NO_DEMAND},
        ["budget quick (in total): 360 request s more, a mean of 0.3 s instead of 0.2 s"],
    ),
    "instance_limit": (
        small([7200.0], 5.0, instance_limits=[{"name": "few", "limit": uniform(1.0)}]),
        {"instance_limit": {"instance_limits": ()}, "demand": NO_DEMAND},
        ["instance limit few (2025-01-01T00:00Z): 2 instead of 1 instances"],
    ),
    "whole_instances": (
        small([1800.0], 1.0, **EXACT, instance_counts="integer"),
        {
            "whole_instances": {"instance_counts": "continuous"},
            "load_rule": {"load_rule": "at_most"},
            "demand": NO_DEMAND,
        },
        [
            "whole numbers of instances",
            "enough alone: without whole numbers of instances it is feasible",
            "enough alone: if llm in fast may serve less than the load of its levels",
        ],
    ),
    "whole_requests": (
        small([1.0], 1.0, [level(0.5 / HOUR)], **TWO_SITES),
        {
            "whole_requests": {"request_counts": "continuous"},
            "gpus": {"gpus": uniform(2.0)},
            "demand": NO_DEMAND,
        },
        ["enough alone: without whole numbers of requests it is feasible"],
    ),
    "hold": (
        small([3600.0, 7200.0], 2.0, **EXACT, hold_periods=[2]),
        {
            "hold": {"hold_periods": None},
            "load_rule": {"load_rule": "at_most"},
            "demand": {"demand_requests": {"axes": ["period"], "values": [3600.0, 3600.0]}},
        },
        ["with numbers of instances that may change in every period it is feasible"],
    ),
    "min_up": (
        small([0.0, 0.0], 2.0, profile={"min_up_s": 2 * HOUR}, initial_instances=uniform(0.0),
              fixed_instances=fixed(1.0, 0.0)),
        {
            "min_up": {"min_up_s": HOUR},
            "initial": {"initial_instances": uniform(1.0)},
            "fixed": {"fixed_instances": None},
        },
        ["minimum up-time of llm in fast at oregon: 7,200 s",
         "instances of llm in fast at oregon before the first period: 1 instead of 0 instances"],
    ),
    "fixed": (
        small([3600.0], 2.0, fixed_instances=fixed(3.0)),
        {"fixed": {"fixed_instances": None}, "gpus": {"gpus": uniform(3.0)}},
        ["fixed instances of llm in fast at oregon in 2025-01-01T00:00Z: 3 instances",
         "1 instances changed"],
    ),
    "balance": (
        small([4 * HOUR], 2.0, LEVELS, **EXACT, instance_counts="integer", balance="even"),
        {
            "balance": {"balance": "packed"},
            "whole_instances": {"instance_counts": "continuous"},
            "load_rule": {"load_rule": "at_most"},
            "gpus": {"gpus": uniform(4.0)},
            "demand": NO_DEMAND,
        },
        ["even balance", "without an even balance it is feasible"],
    ),
}  # fmt: skip

OF_CLASS = {"ttft_limit_s", "tbt_limit_s", "deferral_limit_s"}
OF_PROFILE = {"min_up_s"}


def changed(document: dict[str, Any], changes: dict[str, Any]) -> go.PlacementInstance:
    """A document with fields of the instance, its class or its profile changed."""
    document = json.loads(json.dumps(document))
    for name, value in changes.items():
        if name in OF_CLASS:
            document["classes"][0][name] = value
        elif name in OF_PROFILE:
            document["profiles"][0][name] = value
        else:
            document[name] = value
    return go.PlacementInstance.parse(document)


@pytest.mark.parametrize("case", CASES)
def test_kind_by_hand(case: str) -> None:
    """The conflict is the known one, each member dropped in the instance alone gives a plan."""
    document, members, words = CASES[case]
    instance = changed(document, {})
    found = go.explain(instance)
    assert found.infeasible
    assert found.irreducible
    assert {member.kind for member in found.conflict} == set(members)
    for kind, changes in members.items():
        assert go.solve(changed(document, changes)).status == go.Status.OPTIMAL, kind
    text = "\n".join(found.sentences)
    for word in words:
        assert word in text, text
    assert go.solve(instance).status == go.Status.INFEASIBLE


def test_every_kind_is_tested_by_hand() -> None:
    """Each kind of requirement appears in some conflict above."""
    assert {kind for _, members, _ in CASES.values() for kind in members} == set(KINDS)


def test_alone_is_enough_and_less_is_not() -> None:
    """The GPUs and the demand that are named give a plan; a thousandth less does not."""
    document, _, _ = CASES["gpus"]
    for gpus, ok in ((2.1, True), (2.0999, False)):
        solution = go.solve(changed(document, {"gpus": uniform(gpus)}))
        assert (solution.status == go.Status.OPTIMAL) == ok
    for fewer, ok in ((360.0, True), (359.0, False)):
        demand = uniform(7560.0 - fewer)
        solution = go.solve(changed(document, {"demand_requests": demand}))
        assert (solution.status == go.Status.OPTIMAL) == ok


def test_worst_period_is_told() -> None:
    """Two periods conflict, each for itself: the one that is short of more is told."""
    found = go.explain(changed(small([7560.0, 9000.0, 3600.0], 2.0), {}))
    assert {member.where["period"] for member in found.conflict} == {START[1]}
    assert found.proof["value"] == pytest.approx(360 / 7560 + 1800 / 9000, rel=1e-6)
    assert found.proof["bound"] == pytest.approx(found.proof["value"], rel=1e-5)


def test_budget_over_many_periods_is_told_over_all() -> None:
    """A budget of the whole horizon conflicts with the demand of the whole horizon."""
    quick = go.load(quick_path())
    low = {"name": "low", "metric": "carbon_kg", "limit": uniform(1000.0)}
    found = go.explain(quick.replace(budgets=[low]))
    assert found.irreducible
    assert all("period" not in member.where for member in found.conflict)
    (alone,) = [r for r in found.relaxations if r.alone and r.requirement == "budget[low]"]
    least = go.solve(quick.replace(objective=[{"terms": [{"metric": "carbon_kg", "weight": 1.0}]}]))
    assert least.objective is not None
    assert alone.amount == pytest.approx(least.objective - 1000.0, rel=1e-5)


def test_feasible_instance_says_so() -> None:
    """Nothing conflicts where a plan exists."""
    found = go.explain(go.PlacementInstance.parse(tiny()))
    assert found.infeasible is False
    assert found.conflict == ()
    assert found.sentences == ("a plan exists: nothing conflicts",)


def test_shortfall_within_tolerance_is_none() -> None:
    """Infeasible by a billionth is not infeasible."""
    found = go.explain(changed(small([7200.0 * (1 + 1e-9)], 2.0), {}))
    assert found.infeasible is False


def test_time_limit() -> None:
    """Stopped at once, nothing is claimed."""
    quick = go.load(quick_path())
    found = go.explain(quick.replace(gpus=quick.gpus * 0.3), time_limit=1e-3)
    assert not found.irreducible
    assert found.infeasible is not False
    assert "time ran out" in " ".join(found.sentences)


def test_wrong_arguments_are_refused() -> None:
    """No instance, no time."""
    with pytest.raises(go.ModelError, match="expected an instance"):
        go.explain("quick.json")  # type: ignore[arg-type]
    with pytest.raises(go.ModelError, match="time_limit"):
        go.explain(go.PlacementInstance.parse(tiny()), time_limit=0.0)


def test_report_and_document_are_json() -> None:
    """Solutions hold the same explanation, as JSON can."""
    instance = changed(CASES["gpus"][0], {})
    found, solution = go.explain(instance), go.solve(instance)
    assert isinstance(found, Explanation)
    assert solution.report["explanation"] == list(found.sentences)
    assert solution.report["conflict"] == [asdict(member) for member in found.conflict]
    assert solution.report["relaxations"] == json.loads(json.dumps(found.document()))["relaxations"]
    assert solution.report["least_relative_shortfall"]["bound_source"] == "own-dual"
    go.Solution.parse(json.loads(json.dumps(solution.document())))


def test_command_line(tmp_path: Any, capsys: pytest.CaptureFixture[str]) -> None:
    """``greenopt explain`` prints the sentences or one object, and exits 1 or, with a plan, 0."""
    bad, good = tmp_path / "bad.json", tmp_path / "good.json"
    changed(CASES["gpus"][0], {}).save(bad)
    changed(small([3600.0], 2.0), {}).save(good)
    assert main(["explain", str(bad)]) == 1
    assert "hold 2/s (7,200 requests)" in capsys.readouterr().out
    assert main(["explain", str(bad), "--json"]) == 1
    record = json.loads(capsys.readouterr().out)
    assert record["instance"] == "small"
    assert {member["kind"] for member in record["conflict"]} == {"demand", "gpus"}
    assert main(["explain", str(good), "--time-limit", "30"]) == 0
    assert "a plan exists" in capsys.readouterr().out


# -- random instances, with scipy's own HiGHS as the second solver --------------------------------


def feasible(matrix: Any, bounds: Any, column_lower: Any) -> bool:
    """Whether scipy finds a point; its build of HiGHS shares nothing with ours."""
    row_lower, row_upper, column_upper, integer = bounds
    result = milp(
        np.zeros(len(column_upper)),
        constraints=LinearConstraint(matrix, row_lower, row_upper),
        bounds=Bounds(column_lower, column_upper),
        integrality=integer.astype(int),
    )
    assert result.status in {0, 2}, result.message
    return bool(result.status == 0)


def draw(seed: int, switches: dict[str, bool], share: float) -> go.PlacementInstance:
    """A random instance with a share of its GPUs."""
    if any(on for name, on in switches.items() if name in FEATURES[3:]):
        switches["unlimited"] = False
    document = random_document(np.random.default_rng(seed), **switches)
    instance = go.PlacementInstance.parse(document)
    return instance.replace(gpus=np.ceil(instance.gpus * share))


@given(
    st.integers(0, 10**6),
    st.fixed_dictionaries({feature: st.sampled_from([True, False, False]) for feature in FEATURES}),
    st.sampled_from([0.05, 0.3, 0.6, 1.0]),
)
@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=True
)
def test_conflicts_of_random_instances(seed: int, switches: dict[str, bool], share: float) -> None:
    """Open model and plain one agree; a conflict is infeasible, and without any member feasible."""
    instance = draw(seed, switches, share)
    req, plain = requirements(instance), to_model(instance)
    matrix, lower = req.model.matrix, req.model.column_lower
    assert feasible(matrix, req.bounds(np.zeros(req.size, dtype=bool)), lower), "physics"
    there = feasible(
        plain.matrix,
        (plain.row_lower, plain.row_upper, plain.column_upper, plain.integer),
        plain.column_lower,
    )
    assert feasible(matrix, req.bounds(np.ones(req.size, dtype=bool)), lower) == there
    search = _Search(req, _Settings("highs", "in-process", 1, 0), Clock(60.0))
    assert search.begin() == (not there)
    if there:
        return
    members = search.run()
    assert search.irreducible
    standing = np.zeros(req.size, dtype=bool)
    standing[np.concatenate(members)] = True
    assert (standing == search.standing).all()
    assert not feasible(matrix, req.bounds(standing), lower)
    for member in members:
        fewer = standing.copy()
        fewer[member] = False
        assert feasible(matrix, req.bounds(fewer), lower), req.name(member)
    assert len(req.describe(members)) == len(members)
