"""Solutions as files, frames, weights, replicas; gaps by hand; labelled arrays by brute force."""

from __future__ import annotations

import copy
import json
import math
import re
from collections import defaultdict
from collections.abc import Callable, Iterator
from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles import tiny as oracle
from oracles.tiny import Document, random_document

import greenopt as go
from greenopt.labelled import LabelledArray
from greenopt.results import StageResult, closes, relative_gap

PROPERTY = settings(max_examples=120, deadline=None, derandomize=True)
FLOW_AXES = ["period", "origin", "class", "site", "mode", "level"]
RUN_AXES = ["period", "site", "model", "mode", "level"]
MARGINAL = "objective per request"


def tiny(**overrides: Any) -> Document:
    """The hand-made document, sharing nothing with any other."""
    return copy.deepcopy(oracle.tiny(**overrides))


def solved(document: Document) -> tuple[go.PlacementInstance, go.Solution]:
    """Solve a document."""
    instance = go.PlacementInstance.parse(document)
    return instance, go.solve(instance)


def scarce() -> Document:
    """The hand-made document with too few GPUs for all chats, and a price on those turned away."""
    cost = {"metric": "cost_usd", "weight": 1.0}
    turned_away = {"metric": "unmet_usd", "weight": 1.0}
    document = tiny(
        gpus={"axes": ["gpu_type"], "values": [8.0, 12.0]},
        objective=[{"terms": [cost, turned_away]}],
    )
    document["classes"][0]["unmet_price_usd"] = 0.01
    document["classes"][1]["unmet_price_usd"] = 0.02
    return document


CASES: dict[str, Callable[[], Document]] = {
    "tiny": tiny,
    "unmet": scarce,
    "even": lambda: random_document(np.random.default_rng(2), even=True),
    "lexicographic": lambda: random_document(np.random.default_rng(3), lexicographic=True),
    "charges": lambda: random_document(
        np.random.default_rng(4), demand_charge=True, max_sites=True, running=True
    ),
    "budget": lambda: tiny(
        budgets=[{"name": "sun", "metric": "carbon_kg", "limit": {"axes": [], "values": 5.0}}]
    ),
    "infeasible": lambda: tiny(gpus={"axes": ["gpu_type"], "values": [8.0, 8.0]}),
}


@pytest.fixture(scope="module")
def solutions() -> dict[str, tuple[go.PlacementInstance, go.Solution]]:
    """Every case, solved once."""
    return {name: solved(make()) for name, make in CASES.items()}


@pytest.fixture(scope="module")
def plan() -> tuple[go.PlacementInstance, go.Solution]:
    """The hand-made instance, solved."""
    return solved(tiny())


# There and back


@pytest.mark.parametrize("suffix", [".json", ".json.gz"])
@pytest.mark.parametrize("case", CASES)
def test_round_trip(case: str, suffix: str, solutions: Any, tmp_path: Path) -> None:
    """Reading a saved solution gives the same document, and the same answers from it."""
    instance, solution = solutions[case]
    path = tmp_path / f"a{suffix}"
    solution.save(path)
    for again in (go.Solution.load(path), go.load_solution(path)):
        assert json.loads(json.dumps(again.document(), allow_nan=False)) == json.loads(
            json.dumps(solution.document(), allow_nan=False)
        )
        assert again.summary() == solution.summary()
        assert again.status == solution.status
        assert again.sets == solution.sets == instance.sets
    again.save(tmp_path / f"b{suffix}")
    assert (tmp_path / f"b{suffix}").read_bytes() == path.read_bytes()
    assert go.check(instance, again).lines() == go.check(instance, solution).lines()
    assert go.certify(instance, again) == go.certify(instance, solution)


def test_cases_are_what_they_should_be(solutions: Any) -> None:
    """The round trip above covers plans, tree bounds, stages, budgets, and no plan at all."""
    status = {case: str(solution.status) for case, (_, solution) in solutions.items()}
    assert status == {case: "infeasible" if case == "infeasible" else "optimal" for case in CASES}
    assert "unmet" in solutions["unmet"][1].decision
    assert len(solutions["lexicographic"][1].stages) > 1
    assert "budget.sun" in solutions["budget"][1].marginals


def test_solution_without_a_plan(solutions: Any) -> None:
    """Infeasible: no objective, no bound, no gap, no arrays, and an explanation."""
    _, solution = solutions["infeasible"]
    assert solution.objective is None
    assert solution.bound is None
    assert (solution.gap, solution.gap_abs) == (None, None)
    assert solution.bound_source == "none"
    assert solution.decision == {}
    assert solution.metrics == {}
    assert solution.report["explanation"]
    with pytest.raises(KeyError, match="'flow' is not in this solution"):
        solution.array("flow")


def test_summary_of_a_plan(plan: Any) -> None:
    """The record repeats the solution, and splits the time of the bound from the rest."""
    _, solution = plan
    summary = solution.summary()
    assert summary["objective"] == solution.stages[-1].objective
    assert summary["bound"] == solution.stages[-1].bound
    assert summary["gap_abs"] == pytest.approx(summary["objective"] - summary["bound"], abs=1e-15)
    assert summary["metrics"] is solution.metrics
    spent = math.fsum(v for phase, v in solution.runtime_s.items() if phase != "bound")
    assert summary["runtime_s"] == pytest.approx(spent, rel=1e-9)
    assert summary["bound_runtime_s"] == solution.runtime_s.get("bound", 0.0)


# Corrupted files


def document_of(solution: go.Solution) -> Document:
    """What stands in the solution's file."""
    document: Document = json.loads(json.dumps(solution.document()))
    return document


def without_derived(document: Document) -> Document:
    """A solution document without what repeats its last stage."""
    derived = {"objective", "bound", "bound_source", "gap", "gap_abs"}
    return {key: value for key, value in document.items() if key not in derived}


def at(document: Any, path: tuple[str | int, ...]) -> Any:
    """What stands at a path."""
    for part in path:
        document = document[part]
    return document


FLOW, STAGE = ("decision", "flow"), ("stages", 0)
HUGE = 10**400
CORRUPT: dict[str, tuple[tuple[str | int, ...], Any, str]] = {
    "another kind": (("kind",), "instance", "$.kind"),
    "another version": (("schema_version",), 2, "$.schema_version"),
    "version true": (("schema_version",), True, "$.schema_version"),
    "unknown status": (("status",), "fine", "$.status"),
    "status a number": (("status",), 1, "$.status"),
    "problem a list": (("problem",), [], "$.problem"),
    "digest a number": (("instance_sha256",), 1, "$.instance_sha256"),
    "seed as text": (("seed",), "0", "$.seed"),
    "seed true": (("seed",), True, "$.seed"),
    "metrics a list": (("metrics",), [], "$.metrics"),
    "metric as text": (("metrics", "carbon_kg"), "1.0", "$.metrics.carbon_kg"),
    "metric NaN": (("metrics", "carbon_kg"), float("nan"), "$.metrics.carbon_kg"),
    "metrics by site a number": (("metrics_by", "site"), 5, "$.metrics_by.site"),
    "metric by site NaN": (
        ("metrics_by", "site", "carbon_kg", 0),
        float("nan"),
        "$.metrics_by.site.carbon_kg",
    ),
    "runtime as text": (("runtime_s", "build"), "0.1", "$.runtime_s.build"),
    "runtime null": (("runtime_s", "build"), None, "$.runtime_s.build"),
    "sets a list": (("sets",), [], "$.sets"),
    "a set of numbers": (("sets", "site"), [1, 2], "$.sets.site"),
    "a set as text": (("sets", "site"), "oregon", "$.sets.site"),
    "decision a list": (("decision",), [], "$.decision"),
    "array a list": (FLOW, [], "$.decision.flow"),
    "array null": (FLOW, None, "$.decision.flow"),
    "array with more": ((*FLOW, "colour"), "green", "$.decision.flow"),
    "unit a number": ((*FLOW, "unit"), 1, "$.decision.flow.unit"),
    "unknown axis": ((*FLOW, "axes", 3), "place", "$.decision.flow.axes"),
    "axis twice": ((*FLOW, "axes", 3), "period", "$.decision.flow"),
    "axis a list": ((*FLOW, "axes", 3), ["site"], "$.decision.flow.axes"),
    "axes as text": ((*FLOW, "axes"), "site", "$.decision.flow.axes"),
    "labels a number": ((*FLOW, "labels"), 5, "$.decision.flow.labels"),
    "labels of numbers": ((*FLOW, "labels"), {"site": [1, "b"]}, "$.decision.flow.labels"),
    "labels no list": ((*FLOW, "labels"), {"site": 2}, "$.decision.flow.labels"),
    "position out of range": ((*FLOW, "codes", "site", 0), 2, "$.decision.flow.codes.site"),
    "position negative": ((*FLOW, "codes", "site", 0), -1, "$.decision.flow.codes.site"),
    "position fractional": ((*FLOW, "codes", "site", 0), 0.5, "$.decision.flow.codes.site"),
    "position true": ((*FLOW, "codes", "site", 0), True, "$.decision.flow.codes.site"),
    "position huge": ((*FLOW, "codes", "site", 0), HUGE, "$.decision.flow.codes.site"),
    "positions too few": ((*FLOW, "codes", "site"), [0], "$.decision.flow.codes.site"),
    "positions a list": ((*FLOW, "codes"), [], "$.decision.flow.codes"),
    "value NaN": ((*FLOW, "values", 0), float("nan"), "$.decision.flow.values"),
    "value infinite": ((*FLOW, "values", 0), float("inf"), "$.decision.flow.values"),
    "value null": ((*FLOW, "values", 0), None, "$.decision.flow.values"),
    "value as text": ((*FLOW, "values", 0), "1.0", "$.decision.flow.values"),
    "value true": ((*FLOW, "values", 0), True, "$.decision.flow.values"),
    "value huge": ((*FLOW, "values", 0), HUGE, "$.decision.flow.values"),
    "value a list": ((*FLOW, "values", 0), [1.0], "$.decision.flow.values"),
    "values a number": ((*FLOW, "values"), 1.0, "$.decision.flow.values"),
    "stages an object": (("stages",), {}, "$.stages"),
    "stage a list": (STAGE, [], "$.stages[0]"),
    "objective NaN": ((*STAGE, "objective"), float("nan"), "$.stages[0].objective"),
    "objective null": ((*STAGE, "objective"), None, "$.stages[0].objective"),
    "objective as text": ((*STAGE, "objective"), "1.0", "$.stages[0].objective"),
    "objective huge": ((*STAGE, "objective"), HUGE, "$.stages[0].objective"),
    "bound infinite": ((*STAGE, "bound"), float("inf"), "$.stages[0].bound"),
    "bound true": ((*STAGE, "bound"), True, "$.stages[0].bound"),
    "bound huge": ((*STAGE, "bound"), HUGE, "$.stages[0].bound"),
    "bound source a number": ((*STAGE, "bound_source"), 1, "$.stages[0].bound_source"),
    "marginals a list": ((*STAGE, "marginals"), [], "$.stages[0].marginals"),
    "marginal as text": (
        (*STAGE, "marginals", "demand", "values", 0),
        "x",
        "$.stages[0].marginals.demand.values",
    ),
    "marginal out of range": (
        (*STAGE, "marginals", "gpus", "codes", "gpu_type", 0),
        2,
        "$.stages[0].marginals.gpus.codes.gpu_type",
    ),
}


@pytest.mark.parametrize("case", CORRUPT)
def test_corrupted_value(case: str, plan: Any, tmp_path: Path) -> None:
    """A file with one wrong value is refused at that value, in one line."""
    path, value, place = CORRUPT[case]
    document = document_of(plan[1])
    at(document, path[:-1])[path[-1]] = value
    file = tmp_path / "bad.json"
    file.write_text(json.dumps(document))
    with pytest.raises(go.SolutionError) as caught:
        go.load_solution(file)
    lines = str(caught.value).splitlines()
    assert lines[0].startswith(f"{file}: {place}"), lines
    assert len(lines) == 1 or path[0] == "sets", lines  # without its labels no array can be read
    for line in lines:
        assert re.match(r"[\w.\[\]]*: \S", line.removeprefix(f"{file}: $")), line


@pytest.mark.parametrize("name", ["objective", "bound", "bound_source", "gap", "gap_abs"])
def test_what_repeats_the_last_stage_must_agree(name: str, plan: Any) -> None:
    """The top of the file may leave its last stage's values out, not contradict them."""
    document = document_of(plan[1])
    again = go.Solution.parse(without_derived(document))
    assert document_of(again) == document
    document[name] = "tree" if name == "bound_source" else 7.0
    try:
        report = go.check(plan[0], go.Solution.parse(document))
    except go.SolutionError as error:
        found = str(error)
    else:
        found = "" if report.ok else "\n".join(report.lines())
    assert name in found


REQUIRED = (
    "kind", "schema_version", "problem", "instance", "instance_sha256", "method", "solver",
    "status", "metrics", "metrics_by", "runtime_s", "seed", "threads", "versions", "report",
    "sets", "decision", "stages",
)  # fmt: skip


@pytest.mark.parametrize("name", REQUIRED)
def test_missing_field(name: str, plan: Any) -> None:
    """Every stored field is needed, and its absence is named."""
    document = document_of(plan[1])
    del document[name]
    with pytest.raises(go.SolutionError) as caught:
        go.Solution.parse(document, "a file")
    assert f"a file: $.{name}: is missing" in str(caught.value).splitlines()


@pytest.mark.parametrize("name", ["unit", "axes", "codes", "values"])
def test_missing_part_of_an_array(name: str, plan: Any) -> None:
    """An array needs its unit, axes, codes and values."""
    document = document_of(plan[1])
    del document["decision"]["flow"][name]
    with pytest.raises(go.SolutionError, match=r"\$\.decision\.flow"):
        go.Solution.parse(document)


def test_all_problems_at_once(plan: Any) -> None:
    """Five wrong values give five lines."""
    document = document_of(plan[1])
    for case in ("unknown status", "seed as text", "value NaN", "objective null", "a set as text"):
        path, value, _ = CORRUPT[case]
        at(document, path[:-1])[path[-1]] = value
    with pytest.raises(go.SolutionError) as caught:
        go.Solution.parse(document, "a file")
    found = {problem.path for problem in caught.value.problems}
    assert {"$.status", "$.seed", "$.stages[0].objective", "$.sets.site"} <= found


def test_position_named_twice(plan: Any) -> None:
    """An array that names one position twice is ambiguous and refused."""
    document = document_of(plan[1])
    flow = document["decision"]["flow"]
    for codes in flow["codes"].values():
        codes.append(codes[0])
    flow["values"].append(1.0)
    with pytest.raises(go.SolutionError, match=r"\$\.decision\.flow\.codes: .*twice"):
        go.Solution.parse(document)


@pytest.mark.parametrize(
    "content", [b"", b"[]", b"null", b"{", b'{"kind": 1, "kind": 2}', b"\xff", b"\x1f\x8b\x08"]
)
def test_unreadable_solution(content: bytes, tmp_path: Path) -> None:
    """A file that is no JSON object is refused as a whole."""
    file = tmp_path / "bad.json"
    file.write_bytes(content)
    with pytest.raises(go.SolutionError) as caught:
        go.load_solution(file)
    assert str(caught.value).startswith(f"{file}: $")


@pytest.mark.parametrize("kept", [0.1, 0.5, 0.99])
def test_truncated_solution(kept: float, plan: Any, tmp_path: Path) -> None:
    """Half a file is no solution, compressed or not."""
    for name in ("a.json", "a.json.gz"):
        plan[1].save(tmp_path / name)
        data = (tmp_path / name).read_bytes()
        (tmp_path / name).write_bytes(data[: int(len(data) * kept)])
        with pytest.raises(go.SolutionError, match=r"a\.json(\.gz)?: \$: "):
            go.load_solution(tmp_path / name)


def places(inner: Any, path: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    """Path of every value inside a document, of long lists only the first two."""
    keys = list(inner) if isinstance(inner, dict) else range(min(len(inner), 2))
    for key in keys:
        yield (*path, key)
        if isinstance(inner[key], dict | list):
            yield from places(inner[key], (*path, key))


INSTANCE, SOLUTION = solved(CASES["budget"]())
DOCUMENT = document_of(SOLUTION)
PLACES = list(places(DOCUMENT))
VALUES = (
    None, True, -1, 0, 5, HUGE, 1.5, -3.5, 1e308, float("nan"), float("inf"), "x", "", "a\nb",
    [], {}, [1], [[1]], ["a"], {"a": 1}, {"site": 5}, [None],
)  # fmt: skip


@given(st.sampled_from(PLACES), st.sampled_from(VALUES))
@settings(PROPERTY, max_examples=500)
def test_any_replacement(path: tuple[str | int, ...], value: Any) -> None:
    """Anything in place of anything: refused at a path, or read, checked and saved again."""
    document = copy.deepcopy(DOCUMENT)
    at(document, path[:-1])[path[-1]] = copy.deepcopy(value)
    try:
        solution = go.Solution.parse(document, "a file")
        lines = go.check(INSTANCE, solution).lines()
        go.certify(INSTANCE, solution)
    except go.SolutionError as error:
        lines = str(error).splitlines()
        matches = [re.match(r"(a file|solution): \$.*: \S", line) for line in lines]
    else:
        matches = []
        json.dumps(solution.document(), allow_nan=False)
        json.dumps(solution.summary(), allow_nan=False)
    assert all(matches), lines
    assert all(len(line.splitlines()) == 1 for line in lines), lines


# Frames


def test_flow_frame(plan: Any) -> None:
    """Requests in a long frame with labels: by period, origin and class they are the demand."""
    instance, solution = plan
    frame = solution.to_frame("flow")
    assert list(frame.columns) == [*FLOW_AXES, "flow [requests]"]
    assert (frame["flow [requests]"] > 0).all()
    served = frame.groupby(["period", "origin", "class"])["flow [requests]"].sum()
    for (t, o, k), requests in np.ndenumerate(instance.demand_requests):
        label = (instance.periods.start[t], instance.origins[o], instance.classes[k].name)
        assert served[label] == pytest.approx(requests, rel=1e-9)
    assert set(frame["level"]) <= {"0", "1", "2", "3"}
    assert set(frame["mode"]) <= set(instance.modes)


def test_instances_frame(plan: Any) -> None:
    """Running instances in a long frame: their GPUs fit, their load is the work of the flow."""
    instance, solution = plan
    frame = solution.to_frame("instances")
    assert list(frame.columns) == [*RUN_AXES, "instances [instances]"]
    profiles = {(p.model, p.mode): p for p in instance.profiles}
    used: dict[tuple[str, str, str], float] = defaultdict(float)
    load: dict[tuple[str, str], float] = defaultdict(float)
    for t, s, n, m, level, y in frame.itertuples(index=False):
        profile = profiles[n, m]
        seconds = instance.periods.duration_s[instance.periods.start.index(t)]
        used[t, s, profile.gpu_type] += profile.gpus_per_instance * y
        load[n, m] += profile.levels[int(level)].requests_per_s * seconds * y
    for (t, s, h), gpus in used.items():
        at_most = instance.gpus[
            instance.periods.start.index(t),
            instance.sites.index(s),
            [g.name for g in instance.gpu_types].index(h),
        ]
        assert gpus <= at_most * (1 + 1e-9)
    work: dict[tuple[str, str], float] = defaultdict(float)
    classes = {k.name: k for k in instance.classes}
    for row in solution.to_frame("flow").itertuples(index=False):
        k, m, requests = row[2], row[4], row[6]
        work[classes[k].model, m] += classes[k].work_per_request[m] * requests
    assert dict(load) == pytest.approx(dict(work), rel=1e-9)


def test_unmet_frame(solutions: Any) -> None:
    """Unserved requests have a frame of their own."""
    instance, solution = solutions["unmet"]
    frame = solution.to_frame("unmet")
    assert list(frame.columns) == ["period", "origin", "class", "unmet [requests]"]
    total = frame["unmet [requests]"].sum()
    assert total == pytest.approx(solution.metrics["unmet_requests"], rel=1e-9)
    assert total > 0
    served = solution.to_frame("flow")["flow [requests]"].sum()
    assert served + total == pytest.approx(instance.demand_requests.sum(), rel=1e-9)


@pytest.mark.parametrize("axis", ["site", "period", "class"])
def test_metric_frame(axis: str, plan: Any) -> None:
    """Metrics along one axis: a row a member in order, a column a metric, adding up to totals."""
    instance, solution = plan
    frame = solution.to_frame(axis)
    assert list(frame[axis]) == list(instance.sets[axis])
    assert list(frame.columns) == [axis, *solution.metrics_by[axis]]
    for metric in ("energy_kwh", "carbon_kg", "water_l", "requests", "ttft_request_s", "gpu_h"):
        assert frame[metric].sum() == pytest.approx(solution.metrics[metric], rel=1e-9)
    mean = frame["ttft_request_s"] / frame["requests"]
    assert frame["ttft_mean_s"].to_numpy() == pytest.approx(mean.to_numpy(), rel=1e-12)


def test_period_and_site_frame(plan: Any) -> None:
    """Two axes: a row a pair, in row-major order, consistent with each axis alone."""
    instance, solution = plan
    frame = solution.to_frame("period,site")
    pairs = [(t, s) for t in instance.periods.start for s in instance.sites]
    assert list(zip(frame["period"], frame["site"], strict=True)) == pairs
    for axis in ("period", "site"):
        alone = solution.to_frame(axis).set_index(axis)
        for metric in ("energy_kwh", "carbon_kg", "water_l", "cost_usd", "requests", "gpu_h"):
            summed = frame.groupby(axis)[metric].sum()
            for label in instance.sets[axis]:
                assert summed[label] == pytest.approx(alone[metric][label], rel=1e-9, abs=1e-12)


def test_metric_frame_where_nothing_is_served() -> None:
    """A site without requests has no mean TTFT: missing in the frame, null in the file."""
    gpus = {"axes": ["site", "gpu_type"], "values": [[24.0, 64.0], [0.0, 0.0]]}
    rtt = [[0.01, 0.1], [0.02, 0.1]]
    _, solution = solved(tiny(gpus=gpus, rtt_s=rtt))
    assert solution.status == "optimal"
    frame = solution.to_frame("site").set_index("site")
    assert frame["requests"]["sweden"] == 0
    assert math.isnan(frame["ttft_mean_s"]["sweden"])
    assert solution.metrics_by["site"]["ttft_mean_s"][1] is None


def test_demand_marginals_are_prices_of_a_request() -> None:
    """A marginal of demand is what one more request costs, by solving again with one more."""
    cost = [{"terms": [{"metric": "cost_usd", "weight": 1.0}]}]
    instance, solution = solved(tiny(objective=cost))
    frame = solution.to_frame("demand")
    assert list(frame.columns) == ["period", "origin", "class", f"demand [{MARGINAL}]"]
    assert len(frame) == instance.demand_requests.size
    starts, classes = instance.periods.start, [k.name for k in instance.classes]
    for t, o, k, price in frame.itertuples(index=False):
        more = instance.demand_requests.copy()
        more[starts.index(t), instance.origins.index(o), classes.index(k)] += 1.0
        dearer = go.solve(instance.replace(demand_requests=more))
        assert dearer.objective is not None
        assert solution.objective is not None
        assert dearer.objective - solution.objective == pytest.approx(price, rel=1e-4)


def test_budget_marginal_is_the_price_of_a_unit() -> None:
    """A carbon budget that binds has the price in the objective of one kg less, negated."""
    cost = [{"terms": [{"metric": "cost_usd", "weight": 1.0}]}]
    _, free = solved(tiny(objective=cost))
    carbon = free.metrics["carbon_kg"]
    assert carbon is not None

    def capped(limit: float) -> go.Solution:
        cap = {"name": "cap", "metric": "carbon_kg", "limit": {"axes": [], "values": limit}}
        return solved(tiny(objective=cost, budgets=[cap]))[1]

    tight = capped(0.8 * carbon)
    frame = tight.to_frame("budget.cap")
    assert list(frame.columns) == ["budget.cap [objective per kg CO2e]"]
    (price,) = frame.iloc[:, 0]
    step = 1e-4 * carbon
    assert tight.objective is not None
    slope = (capped(0.8 * carbon + step).objective - tight.objective) / step
    assert price < 0
    assert price == pytest.approx(slope, rel=1e-4)


def test_unknown_frame_names_what_there_is(plan: Any) -> None:
    """A misspelt name is answered with the names that exist."""
    with pytest.raises(KeyError, match=r"'flows' is not in this solution; it has .*'flow'"):
        plan[1].to_frame("flows")


# Weights and replicas


@pytest.mark.parametrize("case", [case for case in CASES if case != "infeasible"])
def test_routing_weights(case: str, solutions: Any) -> None:
    """Shares of each (period, origin, class) add up to 1, and are shares of the flow."""
    instance, solution = solutions[case]
    weights = solution.routing_weights()
    frame = weights.to_frame()
    assert list(frame.columns) == [*FLOW_AXES, "weight [1]"]
    assert frame["weight [1]"].between(0, 1 + 1e-12).all()
    keys = ["period", "origin", "class"]
    total = frame.groupby(keys)["weight [1]"].sum()
    assert total.to_numpy() == pytest.approx(np.ones(len(total)), rel=1e-12)
    flow = solution.to_frame("flow")
    served = flow.groupby(keys)["flow [requests]"].transform("sum")
    assert frame["weight [1]"].to_numpy() == pytest.approx(
        (flow["flow [requests]"] / served).to_numpy(), rel=1e-12
    )
    if case != "unmet":
        demanded = [
            (instance.periods.start[t], instance.origins[o], instance.classes[k].name)
            for t, o, k in np.argwhere(instance.demand_requests > 0)
        ]
        assert sorted(total.index) == sorted(demanded)


@pytest.mark.parametrize("case", [case for case in CASES if case != "infeasible"])
def test_replicas(case: str, solutions: Any) -> None:
    """Whole instances, at least the plan's mean and less than one more, over all levels."""
    _, solution = solutions[case]
    replicas = solution.replicas()
    assert replicas.axes == ("period", "site", "model", "mode")
    mean: dict[tuple[int, ...], float] = defaultdict(float)
    run = solution.array("instances")
    for *at_, _level, value in zip(*run.codes.tolist(), run.values.tolist(), strict=True):
        mean[tuple(at_)] += value
    dense = replicas.dense()
    assert (dense == np.round(dense)).all()
    for index, whole in np.ndenumerate(dense):
        assert whole >= mean.get(index, 0.0) - 1e-6
        assert whole < mean.get(index, 0.0) + 1
    assert dense.sum() >= sum(mean.values()) - 1e-6


def counted(**overrides: Any) -> Document:
    """The hand-made document, its instances whole, started for a price, and loaded at will."""
    document = tiny(
        load_rule="at_most",
        instance_counts="integer",
        initial_instances={"axes": [], "values": 0.0},
        **overrides,
    )
    for profile in document["profiles"]:
        profile["startup"] = {"time_s": 600.0, "energy_kwh": 0.5}
    return document


@pytest.mark.parametrize("rounding", ["up", "nearest", "down"])
def test_replicas_of_whole_instances_are_the_plan(rounding: Any) -> None:
    """Whole instances need no rounding; those that start count although they serve less long."""
    _, solution = solved(counted())
    assert solution.status == go.Status.OPTIMAL
    running = solution.array("running").dense()
    assert (solution.replicas(rounding).dense() == running).all()
    serving = solution.array("instances").total_over("period", "site", "model", "mode")
    assert (running[0] > serving[0] + 0.1).any()


def test_replicas_of_held_fractions_are_rounded() -> None:
    """Held but not whole: numbers of running instances are rounded, alike in every period."""
    _, solution = solved(tiny(hold_periods=[2], load_rule="at_most"))
    running = solution.array("running").dense()
    assert (running != np.round(running)).any()
    assert (solution.replicas("up").dense() == np.ceil(running - 1e-6)).all()
    assert (solution.replicas("down").dense() == np.floor(running + 1e-6)).all()
    assert (running[0] == running[1]).all()


# Gaps


@pytest.mark.parametrize(
    ("objective", "bound", "gap"),
    [
        (100.0, 99.0, 0.01),
        (100.0, 100.0, 0.0),
        (100.0, 101.0, 0.01),
        (-100.0, -101.0, 0.01),
        (100.0, 0.0, 1.0),
        (0.0, 0.0, 0.0),
        (0.0, -1e-10, 1.0),
        (1e-12, 0.0, 0.01),
        (5.0, -5.0, None),
        (-5.0, 5.0, None),
        (None, 1.0, None),
        (1.0, None, None),
        (1.0, -math.inf, None),
        (1.0, math.nan, None),
    ],
)
def test_relative_gap(objective: float | None, bound: float | None, gap: float | None) -> None:
    """|objective - bound| / max(|objective|, 1e-10), and none where the two differ in sign."""
    found = relative_gap(objective, bound)
    assert found == (gap if gap is None else pytest.approx(gap, rel=1e-12))


@pytest.mark.parametrize(
    ("objective", "bound", "gap", "size", "proved"),
    [
        (100.0, 99.0, 0.01, 0.0, True),
        (100.0, 98.9, 0.01, 0.0, False),
        (100.0, 100.5, 0.0, 0.0, True),  # a bound above the plan: the check says so elsewhere
        (-100.0, -101.0, 0.01, 0.0, True),
        (-100.0, -101.1, 0.01, 0.0, False),
        (100.0, 100.0 - 9e-8, 0.0, 0.0, True),  # gap 0 asks for 1e-9
        (100.0, 100.0 - 2e-7, 0.0, 0.0, False),
        (0.0, -1e-13, 0.0, 0.0, True),
        (0.0, -1e-6, 1e-3, 0.0, False),
        (0.0, -1e-6, 0.0, 1e4, True),  # terms of 1e4 cancel: their rounding is 1e-5
        (0.0, -2e-5, 0.0, 1e4, False),
        (1.0, -math.inf, 1.0, 0.0, False),
        (5.0, -5.0, 0.01, 0.0, False),
    ],
)
def test_closes(objective: float, bound: float, gap: float, size: float, proved: bool) -> None:
    """A bound proves an objective to a gap, or to what rounding allows."""
    assert closes(objective, bound, gap, size) is proved


@given(st.floats(-1e6, 1e6), st.floats(-1e6, 1e6), st.floats(1e-8, 1))
@PROPERTY
def test_closes_agrees_with_the_gap(objective: float, bound: float, gap: float) -> None:
    """Where a relative gap exists and is clearly below or above what is asked, both agree."""
    found = relative_gap(objective, bound)
    if found is None or bound > objective or abs(objective) < 1e-3:
        return
    if found < gap * (1 - 1e-9):
        assert closes(objective, bound, gap)
    if found > gap * (1 + 1e-9):
        assert not closes(objective, bound, gap)


def test_gap_of_a_solution_is_that_of_its_last_stage(solutions: Any) -> None:
    """Objective, bound and source are the last stage's."""
    _, solution = solutions["lexicographic"]
    last = solution.stages[-1]
    assert (solution.objective, solution.bound) == (last.objective, last.bound)
    assert solution.bound_source == last.bound_source
    assert solution.gap == relative_gap(last.objective, last.bound)
    assert solution.marginals is last.marginals


def test_a_stage_without_a_bound_has_none_in_the_file(plan: Any) -> None:
    """Minus infinity in memory is null in the file and no bound to the reader."""
    document = without_derived(document_of(plan[1]))
    document["stages"][0]["bound"] = None
    solution = go.Solution.parse(document)
    assert solution.stages[0].bound == -math.inf
    assert (solution.bound, solution.gap, solution.gap_abs) == (None, None, None)
    assert document_of(solution)["stages"][0]["bound"] is None
    assert isinstance(solution.stages[0], StageResult)


# Labelled arrays


@st.composite
def dense_arrays(draw: st.DrawFn) -> np.ndarray:
    """Arrays of none to four axes with many zeros; sums of their elements are exact."""
    shape = tuple(draw(st.lists(st.integers(1, 3), max_size=4)))
    size = math.prod(shape)
    values = st.one_of(st.just(0), st.integers(-8, 8))
    flat = draw(st.lists(values, min_size=size, max_size=size))
    return np.array(flat, dtype=float).reshape(shape)


def labelled(dense: np.ndarray) -> LabelledArray:
    """A labelled array over axes a, b, c, d with labels a0, a1, ... built by hand."""
    labels = {
        axis: tuple(f"{axis}{i}" for i in range(n))
        for axis, n in zip("abcd", dense.shape, strict=False)
    }
    stored = [at_ for at_ in np.ndindex(dense.shape) if dense[at_] != 0]
    codes = np.array(stored, dtype=np.int64).reshape(len(stored), dense.ndim).T
    values = np.array([dense[at_] for at_ in stored], dtype=float)
    return LabelledArray("x", "u", labels, codes, values)


@given(dense_arrays())
@PROPERTY
def test_dense_is_the_whole_array(dense: np.ndarray) -> None:
    """Zeros come back, in the right place and shape."""
    array = labelled(dense)
    assert array.shape == dense.shape
    assert array.axes == tuple("abcd"[: dense.ndim])
    assert array.dense().shape == dense.shape
    assert np.array_equal(array.dense(), dense)


@given(dense_arrays())
@PROPERTY
def test_from_dense_keeps_the_nonzeros(dense: np.ndarray) -> None:
    """Building from a dense array, also from a single number, is the way back."""
    expected = labelled(dense)
    array = LabelledArray.from_dense("x", "u", expected.labels, dense)
    assert array.dense().shape == dense.shape
    assert np.array_equal(array.dense(), dense)
    assert array.codes.shape == (dense.ndim, len(array.values))
    if dense.ndim:
        assert len(array.values) == np.count_nonzero(dense)


@given(dense_arrays())
@PROPERTY
def test_total_over_by_brute_force(dense: np.ndarray) -> None:
    """Sums over all other axes, for any choice of axes in any order."""
    array = labelled(dense)
    for count in range(dense.ndim + 1):
        for kept in permutations(range(dense.ndim), count):
            expected = np.zeros([dense.shape[i] for i in kept])
            for at_, value in np.ndenumerate(dense):
                expected[tuple(at_[i] for i in kept)] += value
            found = array.total_over(*("abcd"[i] for i in kept))
            assert found.shape == expected.shape
            assert np.array_equal(found, expected)


BARE = document_of(solved(CASES["infeasible"]())[1])


def through_a_file(array: LabelledArray, around: dict[str, tuple[str, ...]]) -> LabelledArray:
    """An array written into a solution document with some shared labels, and read again."""
    document = {**BARE, "sets": {axis: list(members) for axis, members in around.items()}}
    document["decision"] = {array.name: array.document(around)}
    return go.Solution.parse(json.loads(json.dumps(document))).decision[array.name]


@given(dense_arrays(), st.booleans())
@PROPERTY
def test_file_form_of_an_array(dense: np.ndarray, shared: bool) -> None:
    """What is written is read again, with labels of its own or shared with the file."""
    array = labelled(dense)
    around = dict(array.labels) if shared else {"a": ("other",), "z": ()}
    assert ("labels" in array.document(around)) == (not shared and dense.ndim > 0)
    again = through_a_file(array, around)
    assert (again.name, again.unit, again.labels) == ("x", "u", array.labels)
    assert np.array_equal(again.dense(), dense)


@given(dense_arrays())
@PROPERTY
def test_frame_of_an_array(dense: np.ndarray) -> None:
    """One row a stored number with its labels; the unit is in the column's name."""
    array = labelled(dense)
    frame = array.to_frame()
    assert isinstance(frame, pd.DataFrame)
    assert list(frame.columns) == [*"abcd"[: dense.ndim], "x [u]"]
    rows = {tuple(row[:-1]): row[-1] for row in frame.itertuples(index=False)}
    assert rows == {
        tuple(f"{axis}{i}" for axis, i in zip("abcd", at_, strict=False)): value
        for at_, value in np.ndenumerate(dense)
        if value != 0
    }


def test_array_without_axes() -> None:
    """One number: its total, its dense form, its frame and its file are that number."""
    array = LabelledArray("z", "kg", {}, np.zeros((0, 1), dtype=np.int64), np.array([3.5]))
    assert array.axes == ()
    assert array.shape == ()
    assert array.dense().shape == ()
    assert float(array.dense()) == 3.5
    assert float(array.total_over()) == 3.5
    assert array.to_frame().to_dict("list") == {"z [kg]": [3.5]}
    assert float(through_a_file(array, {}).dense()) == 3.5


def test_array_without_axes_holds_one_number() -> None:
    """Two numbers at the one position there is are one too many."""
    two = {"unit": "kg", "axes": [], "codes": {}, "values": [1.0, 2.0]}
    with pytest.raises(go.SolutionError) as caught:
        go.Solution.parse({**BARE, "decision": {"z": two}})
    (problem,) = caught.value.problems
    assert problem.path.startswith("$.decision.z")


def test_empty_array() -> None:
    """Nothing stored: all zeros, no rows, and the file form survives."""
    labels = {"a": ("a0", "a1"), "b": ("b0",)}
    array = LabelledArray("x", "u", labels, np.zeros((2, 0), dtype=np.int64), np.zeros(0))
    assert array.dense().tolist() == [[0.0], [0.0]]
    assert array.total_over("b", "a").tolist() == [[0.0, 0.0]]
    assert array.total_over().tolist() == 0.0
    assert len(array.to_frame()) == 0
    again = through_a_file(array, labels)
    assert again.codes.shape == (2, 0)
    assert again.dense().tolist() == [[0.0], [0.0]]


def test_unknown_axis() -> None:
    """A total over an axis that does not exist is an error, not a guess."""
    with pytest.raises((KeyError, ValueError)):
        labelled(np.ones((2, 2))).total_over("z")
