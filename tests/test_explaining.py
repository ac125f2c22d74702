"""Explanations of infeasible instances: irreducible conflicts, least relaxations, words."""

from __future__ import annotations

import json
from dataclasses import asdict
from itertools import product
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
from greenopt.explaining import Clock, Explanation, _Deletion, _Settings, _tidy
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
            "enough alone: deadline of chat: 3,600 s instead of 1,800 s",
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


def test_gpus_of_quiet_periods_are_told() -> None:
    """Blocks, up-times and starts need GPUs in a period in which little is asked for."""
    up: dict[str, Any] = {"profile": {"min_up_s": 2 * HOUR}, "initial_instances": uniform(0.0)}
    waits: dict[str, Any] = {
        "profile": {"startup": {"time_s": 60.0, "energy_kwh": 0.0}},
        "initial_instances": uniform(0.0),
        "budgets": [{"name": "no", "metric": "ttft_startup_request_s", "limit": uniform(1.0)}],
    }
    cases: list[tuple[dict[str, Any], int]] = [({"hold_periods": [2]}, 1), (up, 1), (waits, 0)]
    for (changes, quiet), counts in product(cases, ("integer", "continuous")):
        demand, gpus = [100 * HOUR, 100 * HOUR], [200.0, 200.0]
        demand[quiet], gpus[quiet] = 0.0, 1.0
        document = {**small(demand, 0.0, **changes), "instance_counts": counts}
        instance = changed(document, {"gpus": {"axes": ["period"], "values": gpus}})
        found = go.explain(instance)
        where = {m.kind: m.where.get("period") for m in found.conflict}
        assert found.irreducible
        assert where["gpus"] == START[quiet]
        assert where["demand"] == START[1 - quiet]
        enough = instance.replace(gpus=np.maximum(instance.gpus, 100.0))
        assert go.solve(enough).status == go.Status.OPTIMAL


def test_gpus_that_budgets_ask_for_are_told() -> None:
    """At a price below 0 a budget can ask for more instances than demand does."""
    earn = [{"name": "earn", "metric": "cost_usd", "limit": uniform(-1.0)}]
    document = small([HOUR], 2.0, budgets=earn, price_usd_per_mwh=uniform(-50.0))
    found = go.explain(changed(document, {}))
    assert {member.kind for member in found.conflict} == {"budget", "gpus"}
    assert go.solve(changed(document, {"gpus": uniform(20.0)})).status == go.Status.OPTIMAL


def test_points_that_break_what_always_holds_prove_nothing() -> None:
    """More held back than there was breaks no requirement that could be given up for it."""
    document = small([HOUR, 0.0, HOUR], 1.0, request={"deferral_limit_s": 2 * HOUR})
    req = requirements(changed(document, {}))
    x = np.zeros(req.model.matrix.shape[1])
    assert req.missed(x)[-1] == 0.0
    assert req.missed(x).sum() == pytest.approx(2.0)  # both demands
    x[req.model.columns["deferred"].start] = 2 * HOUR
    assert req.missed(x)[-1] > 0.5


def test_whole_amounts_have_no_tails() -> None:
    """GPUs that are whole but for rounding are whole."""
    assert _tidy(2.0000000000000018) == 2.0
    assert _tidy(2.001) == 2.001
    assert _tidy(1e-12) == 1e-12


def test_first_question_has_all_the_time() -> None:
    """What the search may use is a share of the time, but not for whether anything conflicts."""
    given = []

    class Asked(_Deletion):
        def begin(self) -> bool | None:
            given.append(self.clock.left_s)
            return None

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("greenopt.explaining._Deletion", Asked)
        found = go.explain(changed(CASES["gpus"][0], {}), time_limit=100.0)
    assert found.infeasible is None
    assert given[0] > 95.0


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


def kept(req: Any, standing: Any, kind: str) -> tuple[Any, dict[str, Any]]:
    """How many requirements of a kind there are, and where those that stand are."""
    if kind not in req.families:
        return 0, {}
    family = req.families[kind]
    here = standing[family.slice]
    return family.size, {axis: code[here] for axis, code in family.codes.items()}


def put(values: Any, codes: dict[str, Any], axes: tuple[str, ...], open_: Any) -> Any:
    """Values where requirements stand, something open everywhere else."""
    found = np.full(values.shape, open_, dtype=float)
    if codes:
        at = tuple(codes[axis] for axis in axes)
        found[at] = values[at]
    return found


def limited(
    entries: Any, kind: str, codes: dict[str, Any], periods: int = 0
) -> list[dict[str, Any]]:
    """Budgets or instance limits with only those entries that stand, if asked for by period."""
    found = []
    for number, entry in enumerate(entries):
        own = {a: c[codes[kind] == number] for a, c in codes.items()}
        values, axes = entry.limit.values, entry.limit.axes
        if periods and "period" not in axes:
            values, axes = np.broadcast_to(values, (periods, *values.shape)), ("period", *axes)
        left = np.asarray(put(values, own, axes, np.inf) if axes else values)
        if codes and len(own[kind]):
            given: Any = np.where(np.isfinite(left), left, None)  # type: ignore[call-overload]
            limit = {"axes": axes, "values": given.tolist()}
            found.append({**entry.model_dump(), "limit": limit})
    return found


NO_LIMIT: dict[str, dict[str, Any]] = {
    "balance": {"balance": "packed"},
    "hold": {"hold_periods": None},
    "whole_requests": {"request_counts": "continuous"},
    "whole_instances": {"instance_counts": "continuous"},
    "load_rule": {"load_rule": "at_most"},
}
"""Fields of an instance once a requirement on it as a whole is given up."""

ARRAYS: dict[str, tuple[str, tuple[str, ...], float]] = {
    "gpus": ("gpus", ("period", "site", "gpu_type"), 1e5),
    "power_cap": ("facility_power_cap_w", ("period", "site"), np.inf),
    "fixed": ("fixed_instances", ("period", "site", "model", "mode"), np.inf),
}
"""Fields that hold requirements entry by entry, their axes, and what they hold where none is."""


def only(instance: go.PlacementInstance, req: Any, standing: Any) -> go.PlacementInstance | None:
    """The instance with other limits: only those of requirements that stand.

    Nothing for what an instance cannot say: one minimum up-time or load rule but not another. (That
    demand need not be served is for the caller.)
    """
    sizes, stands = {}, {}
    for kind in KINDS:
        sizes[kind], stands[kind] = kept(req, standing, kind)
    any_ = {k: bool(sizes[k]) and standing[req.families[k].slice].any() for k in KINDS}
    for kind in ("min_up", "load_rule"):
        if any_[kind] and len(stands[kind]["mode"]) < sizes[kind]:
            return None
    changes: dict[str, Any] = {
        **open_classes(instance, stands),
        **open_initial(instance, stands["initial"], bool(any_["min_up"])),
        "instance_limits": limited(
            instance.instance_limits,
            "limit",
            stands["instance_limit"],
            len(instance.sets["period"]),
        ),
        "budgets": limited(instance.budgets, "budget", stands["budget"]),
    }
    for kind, change in NO_LIMIT.items():
        changes |= {} if any_[kind] else change
    for kind, (name, axes, open_) in ARRAYS.items():
        if (values := getattr(instance, name)) is not None:
            changes[name] = put(values, stands[kind], axes, open_)
    if any_["hold"] and "fixed_instances" in changes:  # one period of a block stands for all of it
        blocks = instance.blocks
        begins = np.cumsum([0, *blocks[:-1]])
        least = np.minimum.reduceat(changes["fixed_instances"], begins)
        changes["fixed_instances"] = np.repeat(least, blocks, axis=0)
    return instance.replace(**changes)


def open_classes(instance: go.PlacementInstance, stands: dict[str, Any]) -> dict[str, Any]:
    """Limits of classes and memory of models without those that were given up."""
    there = {kind: set(stands[kind].get("class", ())) for kind in stands}
    classes = [k.model_dump() for k in instance.classes]
    for number, record in enumerate(classes):
        for kind in ("ttft", "tbt"):
            record[f"{kind}_limit_s"] = record[f"{kind}_limit_s"] if number in there[kind] else None
        if record["deferral_limit_s"] is not None and number not in there["deadline"]:
            record["deferral_limit_s"] = 1e9
    models = [n.model_dump() for n in instance.models]
    for number, record in enumerate(models):
        if number not in stands["memory"].get("model", ()):
            record["weight_bytes"] = None
    if instance.reachable is None:
        return {"classes": classes, "models": models}
    free = np.array([k not in there["reachable"] for k in range(len(classes))])
    reachable = instance.reachable | free[None, None, :, None, None]
    return {"classes": classes, "models": models, "reachable": reachable}


def open_initial(
    instance: go.PlacementInstance, codes: dict[str, Any], min_up: bool
) -> dict[str, Any]:
    """Instances before the first period and minimum up-times without those given up."""
    if instance.initial_instances is None:
        return {}
    sets = instance.sets
    initial = put(instance.initial_instances, codes, ("site", "model", "mode"), 1e5)
    there = np.zeros(initial.shape[1:], dtype=bool)
    for q in instance.profiles:
        there[sets["model"].index(q.model), sets["mode"].index(q.mode)] = True
    short = {} if min_up else {"min_up_s": 1e-3}
    profiles = [{**q.model_dump(), **(short if q.min_up_s > 0 else {})} for q in instance.profiles]
    return {"initial_instances": np.where(there, initial, 0.0), "profiles": profiles}


def holds_alone(instance: go.PlacementInstance, req: Any, standing: Any) -> bool | None:
    """Whether requirements can hold together, by the plain model of an instance with only them."""
    other = only(instance, req, standing)
    if other is None:
        return None
    plain = to_model(other)
    demand = plain.rows["demand"]
    stands = np.zeros(instance.demand_requests.shape, dtype=bool)
    _, codes = kept(req, standing, "demand")
    axes = ("period", "origin", "class")
    if codes:
        stands[tuple(codes[axis] for axis in axes)] = True
    lower = plain.row_lower.copy()
    lower[demand.slice] *= stands[tuple(demand.codes[axis] for axis in axes)]
    bounds = lower, plain.row_upper, plain.column_upper, plain.integer
    return feasible(plain.matrix, bounds, plain.column_lower)


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
    """What is found for drawn instances is a conflict and irreducible."""
    verify(draw(seed, switches, share))


@pytest.mark.parametrize("seed", [44, 77, 199, 467, *range(600, 630)])
def test_conflicts_of_short_instances(seed: int) -> None:
    """Short of GPUs in some periods, sites and types; the first ones were once told wrongly."""
    if (instance := draw_short(seed)) is not None:
        verify(instance)


def draw_short(seed: int) -> go.PlacementInstance | None:
    """A random instance with a share of its GPUs that differs; none if it would not be valid."""
    rng = np.random.default_rng(seed)
    switches = {feature: bool(rng.random() < 0.3) for feature in FEATURES}
    switches["unmet"] = switches["lexicographic"] = False
    document = random_document(rng, boundary="server", **switches)
    whole = document.get("instance_counts") == "integer"

    def share(number: float | None) -> float | None:
        scaled = None if number is None else number * float(rng.choice([0.1, 0.3, 1.0]))
        return float(np.round(scaled)) if whole and scaled is not None else scaled

    document["gpus"] = [[[share(n) for n in row] for row in rows] for rows in document["gpus"]]
    try:
        return go.PlacementInstance.parse(document)
    except go.ModelError:
        return None


def verify(instance: go.PlacementInstance) -> None:
    """Open model and plain one agree; a conflict is infeasible, and without any member feasible."""
    req, plain = requirements(instance), to_model(instance)
    matrix, lower = req.model.matrix, req.model.column_lower
    assert feasible(matrix, req.bounds(np.zeros(req.size, dtype=bool)), lower), "physics"
    there = feasible(
        plain.matrix,
        (plain.row_lower, plain.row_upper, plain.column_upper, plain.integer),
        plain.column_lower,
    )
    assert feasible(matrix, req.bounds(np.ones(req.size, dtype=bool)), lower) == there
    search = _Deletion(req, _Settings("highs", "in-process", 1, 0), Clock(60.0))
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
        assert holds_alone(instance, req, fewer) in {True, None}, req.name(member)
    assert holds_alone(instance, req, standing) in {False, None}
    assert len(req.describe(members)) == len(members)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (5565.0812, "5,565.09"), (2.0, "2"), (2.0000000000000018, "2"), (0.5925412, "0.592542"),
        (1_234_567.1, "1.23457e+06"), (0.0, "0"),
    ],
)  # fmt: skip
def test_amounts_that_are_enough_are_rounded_up(value: float, text: str) -> None:
    """What is printed as enough is enough, and a whole number stays one."""
    from greenopt.problems.placement.requirements import _up

    assert _up(value) == text
    assert float(text.replace(",", "")) >= value * (1 - 1e-9)


def test_gpus_of_several_periods_are_not_added_up() -> None:
    """A requirement told over all periods names the GPUs there are in one, least and most."""
    instance = go.PlacementInstance.parse(tiny())
    asked = requirements(instance)
    family, sets = asked.families["gpus"], instance.sets
    site, gpu_type = sets["site"].index("sweden"), sets["gpu_type"].index("h100")
    here = (family.codes["site"] == site) & (family.codes["gpu_type"] == gpu_type)
    member = family.start + np.flatnonzero(here)
    assert instance.gpus[:, site, gpu_type].tolist() == [24, 16]
    assert asked.text(member) == "GPUs h100 at sweden in every period: 16 to 24 GPUs"
    constant = requirements(instance.replace(gpus={"axes": [], "values": 24.0}))
    assert constant.text(member) == "GPUs h100 at sweden in every period: 24 GPUs"
