"""The checker of routing: metrics against hand calculation, and every corruption rejected."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles import routing as oracle
from oracles.routing import LLAMA, assigned, instances, law, limit, llama, plain, small, term

import greenopt as go
from greenopt.errors import InstanceError
from greenopt.labelled import LabelledArray
from greenopt.problems.routing.check import Evaluation, evaluate
from greenopt.problems.routing.instance import RoutingInstance
from greenopt.results import StageResult, Status

Decision = dict[str, LabelledArray]

GOOD = {
    (0, 0): 4,
    (0, 1): 1,
    (1, 0): 1,
    (1, 2): 1,
    (2, 1): 2,
    (2, 2): 1,
    (3, 1): 2,
    (4, 2): 1,
}
"""A plan of the small instance that meets every requirement."""


def judged(instance: RoutingInstance, plan: Any, tolerance: float = 1e-6) -> Evaluation:
    """What the checker says of numbers of queries by (query, deployment)."""
    return evaluate(instance, assigned(instance, plan), tolerance)


def lines(found: Evaluation) -> list[str]:
    """Violations as text."""
    return list(map(str, found.violations))


def by_hand(**changes: Any) -> RoutingInstance:
    """Two kinds of queries and two deployments with round numbers."""
    deployments = [
        {
            "name": "a",
            "model": "m",
            "gpu_type": "h100",
            "gpus": 2,
            "energy": law([1.0, 10.0, 0.1]),
            "runtime": law([0.0, 0.5, 0.0]),
            "accuracy_percent": 50.0,
            "host_w": 100.0,
            "pue": 1.5,
            "carbon_g_per_kwh": 400.0,
            "price_usd_per_kwh": 0.2,
            "gpu_usd_per_hour": 3.6,
        },
        {
            "name": "b",
            "model": "n",
            "gpu_type": "a100",
            "gpus": 1,
            "energy": law([0.0, 5.0, 0.0]),
            "runtime": law([0.0, 0.25, 0.0]),
            "accuracy_percent": 40.0,
            "host_w": 50.0,
            "pue": 1.2,
            "carbon_g_per_kwh": 100.0,
            "price_usd_per_kwh": 0.1,
        },
    ]
    terms = [
        term("energy_kwh", 0.5, "largest"),
        term("accuracy_percent_tokens", -0.5, "range", scale=2.0),
    ]
    document = {
        **plain([(3.0, 100.0, 20.0), (2.0, 10.0, 40.0)]),
        "deployments": deployments,
        "objective": [{"terms": terms}, {"terms": [term("runtime_s", 2.0)], "tolerance": 0.1}],
    }
    return RoutingInstance.parse({**document, **changes})


HAND_PLAN = {(0, 0): 2, (0, 1): 1, (1, 1): 2}

BY_HAND = {
    # metric: on a, on b
    "queries": (2, 3),
    "tokens_in": (200, 120),
    "tokens_out": (40, 100),
    "tokens": (240, 220),
    "energy_kwh": (1000 / 3.6e6, 500 / 3.6e6),
    "runtime_s": (20, 25),
    "gpu_h": (40 / 3600, 25 / 3600),
    "accuracy_percent_tokens": (12000, 8800),
    "energy_it_kwh": (3000 / 3.6e6, 1750 / 3.6e6),
    "energy_facility_kwh": (0.00125, 2100 / 3.6e6),
    "carbon_kg": (0.0005, 0.1 * 2100 / 3.6e6),
    "cost_energy_usd": (0.00025, 0.1 * 2100 / 3.6e6),
    "cost_gpu_usd": (0.04, 0),
    "cost_usd": (0.04025, 0.1 * 2100 / 3.6e6),
}


def test_metrics_by_hand() -> None:
    """Every metric, in total and by deployment, as calculated on paper."""
    instance = by_hand()
    found = judged(instance, HAND_PLAN)
    assert not found.violations
    assert tuple(found.metrics) == instance.metrics
    assert set(found.metrics_by["deployment"]) == set(instance.metrics)
    for metric, values in BY_HAND.items():
        assert found.metrics_by["deployment"][metric] == pytest.approx(values, rel=1e-12), metric
        assert found.metrics[metric] == pytest.approx(sum(values), rel=1e-12), metric
    assert found.metrics["accuracy_percent"] == pytest.approx(20800 / 460, rel=1e-12)
    assert found.metrics_by["deployment"]["accuracy_percent"] == pytest.approx([50, 40])
    assert found.metrics["runtime_mean_s"] == pytest.approx(9, rel=1e-12)
    assert found.metrics_by["deployment"]["runtime_mean_s"] == pytest.approx([10, 25 / 3])


def test_stages_by_hand() -> None:
    """Normalisations are over all pairs, used or not: largest energy 500 J, accuracies 2000-6000.

    0.5 x 1500/500 - 0.5 x (20800 - 5 x 2000)/4000/2 = 0.825, and 2 x 45 s.
    """
    found = judged(by_hand(), HAND_PLAN)
    assert found.stages == pytest.approx([0.825, 90.0], rel=1e-12)
    assert found.stage_tolerances == [1e-6, 0.1]


def test_server_boundary() -> None:
    """Energy measured at the server needs no power of the host, and gets none if it is there."""
    found = judged(by_hand(boundary="server"), HAND_PLAN)
    assert found.metrics["energy_it_kwh"] == pytest.approx(1500 / 3.6e6, rel=1e-12)
    assert found.metrics["energy_facility_kwh"] == pytest.approx(2100 / 3.6e6, rel=1e-12)


def test_tables_instead_of_laws() -> None:
    """Energy, run time and accuracy of pairs can be given; predictions are not clipped then."""
    bare = [
        {k: v for k, v in d.model_dump().items() if k not in {"energy", "runtime"}}
        for d in by_hand().deployments
    ]
    tables: dict[str, Any] = {
        "energy_j": [[7.2e6, 3.6e6], [0.0, -3.6e6]],
        "runtime_s": [[1.0, 2.0], [4.0, 8.0]],
        "accuracy_percent": [[10.0, 20.0], [30.0, 40.0]],
        "negative_predictions": "clip",
        "objective": [{"terms": [term("energy_kwh", 1.0)]}],
    }
    found = judged(
        by_hand(deployments=[{**d, "accuracy_percent": None} for d in bare], **tables), HAND_PLAN
    )
    assert found.metrics["energy_kwh"] == 2 * 2 + 1 - 2
    assert found.metrics["runtime_s"] == 2 * 1 + 2 + 2 * 8
    assert found.metrics["accuracy_percent_tokens"] == 2 * 10 * 120 + 20 * 120 + 2 * 40 * 50
    assert "negative_predictions" not in found.notes


def test_without_what_metrics_need() -> None:
    """Metrics that lack their data do not exist, and GPUs without a price cost nothing."""
    instance = RoutingInstance.parse(plain([(2.0, 20.0, 100.0)]))
    found = judged(instance, {(0, 1): 2})
    assert not found.violations
    assert "energy_it_kwh" not in found.metrics
    assert "cost_usd" not in found.metrics
    assert found.metrics["cost_gpu_usd"] == 0
    assert found.metrics_by["deployment"]["runtime_mean_s"][::2] == [None, None]


ALPACA = {"queries": 52_002, "in": 1_125_669, "out": 8_460_614, "product": 160_504_458}
"""Sums over the queries of the Alpaca workload (dossier, section 7)."""

PUBLISHED = {
    "llama-2-7b": (74.770, 74.7702, 13.7010, 50.97),
    "llama-2-13b": (132.753, 132.7531, 23.3968, 55.69),
    "llama-2-70b": (985.157, 985.1575, 115.3744, 64.52),
}
"""Energy in kWh (published, and to more digits), mean run time in s and accuracy in %, all queries
on one model (simulation_results.csv of the authors)."""


def alpaca() -> RoutingInstance:
    """Two kinds of queries with the sums of the Alpaca workload, which determine every total.

    Half have 10 input tokens more than the mean and the others 10 less; outputs lean the other way
    by what makes the sum of products right.
    """
    n = ALPACA["queries"]
    into, out, product = ALPACA["in"] / n, ALPACA["out"] / n, ALPACA["product"] / n
    lean = (into * out - product) / 10
    kinds = [(n / 2, into + 10, out - lean), (n / 2, into - 10, out + lean)]
    return RoutingInstance.parse(plain(kinds))


@pytest.mark.parametrize("name", LLAMA)
def test_published_totals(name: str) -> None:
    """One model answers all of Alpaca: the published energy, run time and accuracy."""
    instance = alpaca()
    sums = [
        (instance.count * tokens).sum()
        for tokens in (
            instance.tokens_in,
            instance.tokens_out[:, 0],
            instance.tokens_in * instance.tokens_out[:, 0],
        )
    ]
    assert sums == pytest.approx([ALPACA["in"], ALPACA["out"], ALPACA["product"]], rel=1e-12)
    k = instance.sets["deployment"].index(name)
    metrics = judged(instance, {(0, k): 26_001, (1, k): 26_001}).metrics
    published, energy, mean, accuracy = PUBLISHED[name]
    assert metrics["energy_kwh"] == pytest.approx(energy, abs=5.1e-5)
    assert metrics["energy_kwh"] == pytest.approx(published, abs=6e-4)
    assert metrics["runtime_mean_s"] == pytest.approx(mean, abs=5.1e-5)
    assert metrics["accuracy_percent"] == pytest.approx(accuracy, rel=1e-12)


def test_good_plan_is_accepted() -> None:
    """A plan that keeps to everything has no violation."""
    assert lines(judged(small(), GOOD)) == []


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        ({(0, 0): 5}, "demand at chat, 6 of 5 answered: off by 1"),
        ({(3, 1): 0}, "demand at label, 0 of 2 answered: off by 2"),
        ({(0, 0): 3.5, (0, 1): 1.5}, "whole queries at chat on llama-2-7b: off by 0.5"),
        ({(0, 0): 6, (0, 1): -1}, "non-negativity at chat on llama-2-13b: off by 1"),
        (
            {(0, 1): 0, (0, 2): 1},
            "slower than its limit (s) at chat on llama-2-70b: off by 60.7275",
        ),
        (
            {(2, 1): 1, (2, 0): 1},
            "less accurate than asked (%) at code on llama-2-7b: off by 1.03",
        ),
        (
            {(3, 1): 1, (3, 2): 1},
            "not allowed there (queries) at label on llama-2-70b: off by 1",
        ),
        (
            {(4, 2): 0, (4, 1): 1},
            "longer than the context (tokens) at document on llama-2-13b: off by 450",
        ),
        (
            {(4, 2): 0, (4, 0): 1},
            "outside the measured range (tokens) at document on llama-2-7b: off by 952",
        ),
    ],
)
def test_corruptions_are_named(edit: dict[tuple[int, int], float], message: str) -> None:
    """Each wrong number and each place where a query may not go is named with its size."""
    assert message in lines(judged(small(), {**GOOD, **edit}))


def corrupted(array: LabelledArray, **changes: Any) -> Decision:
    """A decision with fields of its array changed."""
    return {"assigned": replace(array, **changes)}


def with_value(array: LabelledArray, value: float) -> Decision:
    """A decision with its first number changed."""
    values = array.values.copy()
    values[0] = value
    return corrupted(array, values=values)


def with_code(array: LabelledArray, row: int, code: int) -> Decision:
    """A decision with one position of its first number changed."""
    codes = array.codes.copy()
    codes[row, 0] = code
    return corrupted(array, codes=codes)


CORRUPTIONS: dict[str, tuple[Callable[[LabelledArray], Decision], str]] = {
    "no array": (lambda a: {}, "array 'assigned' is missing"),
    "another array": (lambda a: {"assigned": a, "flow": a}, "array 'flow' is not part of a plan"),
    "not a number": (lambda a: with_value(a, np.nan), "no finite number"),
    "infinite": (lambda a: with_value(a, np.inf), "no finite number"),
    "position too large": (lambda a: with_code(a, 0, 5), "is not over"),
    "position negative": (lambda a: with_code(a, 1, -1), "is not over"),
    "positions not whole": (lambda a: corrupted(a, codes=a.codes + 0.0), "is not over"),
    "too few positions": (lambda a: corrupted(a, codes=a.codes[:, 1:]), "is not over"),
    "position twice": (lambda a: with_code(a, 1, 1), "chat on llama-2-13b stands there twice"),
    "axes swapped": (
        lambda a: corrupted(a, labels=dict(reversed(a.labels.items())), codes=a.codes[::-1]),
        "is not over",
    ),
    "other labels": (
        lambda a: corrupted(a, labels={**a.labels, "query": tuple("abcde")}),
        "is not over",
    ),
}


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_arrays_that_are_no_plan(name: str) -> None:
    """An array that cannot be read is one violation, not a traceback."""
    instance = small()
    corrupt, message = CORRUPTIONS[name]
    found = evaluate(instance, corrupt(assigned(instance, GOOD)["assigned"]))
    assert any(v.requirement == "decision" and message in v.where for v in found.violations)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"lower": 11.0}, "at least 11 queries at llama-2-7b, llama-2-13b"),
        ({"upper": 9.0}, "at most 9 queries at llama-2-7b, llama-2-13b"),
        ({"metric": "tokens", "upper": 7000.0}, "at most 7000 tokens at llama-2-7b, llama-2-13b"),
        ({"metric": "gpu_h", "lower": 1.0}, "at least 1 GPU h at llama-2-7b, llama-2-13b"),
        (
            {"metric": "carbon_kg", "deployments": None, "upper": 0.001},
            "at most 0.001 kg CO2e at llama-2-7b, llama-2-13b, llama-2-70b",
        ),
    ],
)
def test_limits(changes: dict[str, Any], message: str) -> None:
    """A plan beyond a limit is refused; numbers on the other deployments do not count."""
    one = limit("some", "queries", list(LLAMA)[:2]) | changes
    found = judged(small(limits=[one]), GOOD)
    assert len(found.violations) == 1
    assert f"limit 'some', {message}" in lines(found)[0]


def test_limit_is_relative_to_its_size() -> None:
    """A limit may be exceeded by the tolerance of its own size, and no more."""
    energy = judged(small(limits=[]), GOOD).metrics["energy_kwh"]
    assert energy is not None
    for factor, good in ((1 - 5e-7, True), (1 - 2e-6, False)):
        one = limit("most", "energy_kwh", upper=energy * factor)
        assert (not judged(small(limits=[one]), GOOD).violations) == good


def test_limit_at_zero() -> None:
    """A limit of 0 has no size; rounding of what is added up is none of its business."""
    one = limit("none", "carbon_kg", ["llama-2-7b"], upper=0.0)
    assert judged(small(limits=[one]), GOOD).violations
    moved = {**GOOD, (0, 0): 0, (0, 1): 5, (1, 0): 0, (1, 1): 1}
    assert not judged(small(limits=[one]), moved).violations


@pytest.mark.parametrize(
    ("sides", "good"),
    [
        ({"lower": 3.0}, True),
        ({"lower": 3 + 1e-12}, True),
        ({"lower": 3 + 1e-7}, False),
        ({"lower": 2.5}, True),
        ({"upper": 3.0}, True),
        ({"upper": 3 - 1e-12}, True),
        ({"upper": 3 - 1e-7}, False),
        ({"upper": 3.5}, True),
    ],
)
def test_limits_on_queries_are_whole(sides: dict[str, float], good: bool) -> None:
    """Three queries do not meet a limit that is more than rounding away from three."""
    one = limit("most", "queries", ["llama-2-7b"], **sides)
    instance = RoutingInstance.parse(plain([(5.0, 20.0, 100.0)], limits=[one]))
    assert (not judged(instance, {(0, 0): 3, (0, 1): 2}).violations) == good


def test_accuracy_floor() -> None:
    """Mean accuracy over tokens below the floor is refused, equal to it is not."""
    mean = judged(small(), GOOD).metrics["accuracy_percent"]
    assert mean is not None
    assert not judged(small(accuracy_floor_percent=mean), GOOD).violations
    found = judged(small(accuracy_floor_percent=mean + 0.001), GOOD)
    assert [v.requirement.split(",")[0] for v in found.violations] == ["accuracy floor"]


def test_whole_numbers_and_demand_are_absolute() -> None:
    """Of ten million queries not a millionth may be lost, which is ten."""
    instance = RoutingInstance.parse(
        plain([(1e7, 20.0, 100.0)], limits=[limit("7b", "queries", ["llama-2-7b"], lower=1e7)])
    )
    assert not judged(instance, {(0, 0): 1e7}).violations
    assert not judged(instance, {(0, 0): 1e7 - 5e-7}).violations
    assert len(judged(instance, {(0, 0): 1e7 - 1}).violations) == 2
    assert len(judged(instance, {(0, 0): 1e7 - 1, (0, 1): 1}).violations) == 1


def test_equality_counts() -> None:
    """Tokens at the context and the ends of ranges, run time and accuracy at their limits."""
    first = llama(
        "llama-2-7b",
        max_context_tokens=120,
        range_tokens_in=[20.0, 20.0],
        range_tokens_out=[100.0, 100.0],
    )
    changes = {
        "deployments": [first],
        "accuracy_min_percent": [50.97],
        "runtime_limit_s": [-0.010021 * 20 + 0.083515 * 100 + 0.000107 * 2000],
    }
    instance = RoutingInstance.parse(plain([(1.0, 20.0, 100.0)], **changes))
    assert not judged(instance, {(0, 0): 1}).violations
    for less, good in ((5e-10, True), (2e-9, False)):
        tighter = instance.replace(runtime_limit_s=instance.runtime_limit_s * (1 - less))
        assert (not judged(tighter, {(0, 0): 1}).violations) == good


@pytest.mark.parametrize(
    ("ends", "message"),
    [
        ({"range_tokens_in": [25.0, 30.0]}, "off by 5"),
        ({"range_tokens_in": [10.0, 18.0]}, "off by 2"),
        ({"range_tokens_out": [103.0, 200.0]}, "off by 3"),
        ({"range_tokens_out": [10.0, 60.0], "range_tokens_in": [10.0, 11.0]}, "off by 40"),
    ],
)
def test_both_ends_of_both_ranges(ends: dict[str, list[float]], message: str) -> None:
    """Too few and too many tokens, in and out; the largest difference is told."""
    first = llama("llama-2-7b", **ends)
    instance = RoutingInstance.parse(plain([(1.0, 20.0, 100.0)], deployments=[first]))
    where = "outside the measured range (tokens) at q0 on llama-2-7b"
    assert lines(judged(instance, {(0, 0): 1})) == [f"{where}: {message}"]


def test_many_violations_are_counted() -> None:
    """Five places are named for each requirement, the furthest off first; the rest are counted."""
    instance = RoutingInstance.parse(plain([(float(n), 20.0, 100.0) for n in range(1, 9)]))
    found = lines(judged(instance, {}))
    assert found[0] == "demand at q7, 0 of 8 answered: off by 8"
    assert found[-1] == "demand at 3 more kinds: off by 8"
    assert len(found) == 6
    closed = instance.replace(allowed=np.zeros((8, 3), dtype=bool))
    found = lines(judged(closed, {(n, 0): n + 1 for n in range(8)}))
    assert found[0] == "not allowed there (queries) at q7 on llama-2-7b: off by 8"
    assert found[-1] == "not allowed there (queries) at 3 more places: off by 8"


def test_means_of_nothing() -> None:
    """A plan without queries has no mean; it is refused."""
    found = judged(by_hand(), {})
    assert found.metrics["accuracy_percent"] is None
    assert found.metrics_by["deployment"]["runtime_mean_s"] == [None, None]
    assert len(found.violations) == 2


def test_negative_predictions() -> None:
    """Predictions below nothing are noted, and clipped or kept as the instance says."""
    clipped = judged(small(), GOOD)
    note = {"energy_queries": 2.0, "runtime_queries": 2.0, "handling": "clipped"}
    assert clipped.notes["negative_predictions"] == note
    kept = judged(small(negative_predictions="keep"), GOOD)
    assert kept.notes["negative_predictions"]["handling"] == "kept"
    joule = -6.794323 * 2000 + 56.008311 * 8 + 0.072861 * 16000
    difference = clipped.metrics["energy_kwh"] - kept.metrics["energy_kwh"]
    assert difference == pytest.approx(-2 * joule / 3.6e6, rel=1e-9)
    free = plain([(1.0, 20.0, 100.0)], deployments=[llama("llama-2-7b", energy=law([0.0] * 3))])
    assert "negative_predictions" not in judged(RoutingInstance.parse(free), {(0, 0): 1}).notes


def test_outside_the_range() -> None:
    """Laws used beyond what was measured are noted, where that is allowed."""
    plan = {**GOOD, (4, 2): 0, (4, 0): 1}
    found = judged(small(outside_range="extrapolate", accuracy_floor_percent=None), plan)
    assert not any("range" in text for text in lines(found))
    expected = {"queries": 1.0, "share": 1 / 13, "by_deployment": {"llama-2-7b": 1.0}}
    assert found.notes["outside_range"] == expected
    assert "outside_range" not in judged(small(), GOOD).notes
    json.dumps(found.notes)


def test_normalisation_by_nothing() -> None:
    """A term divided by 0 is an error that names the term; without a weight it is left out."""
    terms = [term("energy_kwh", 1.0), term("queries", 1.0, "range")]
    instance = by_hand(objective=[{"terms": terms}])
    with pytest.raises(InstanceError, match=r"objective\[0\]\.terms\[1\]\.normalisation.*is 0"):
        judged(instance, HAND_PLAN)
    terms[1]["weight"] = 0.0
    found = judged(by_hand(objective=[{"terms": terms}]), HAND_PLAN)
    assert found.stages == [found.metrics["energy_kwh"]]


def test_kinds_without_queries_do_not_normalise() -> None:
    """The largest energy is that of kinds with queries."""
    terms = [term("energy_kwh", 1.0, "largest")]
    instance = by_hand(count=[0.0, 2.0], objective=[{"terms": terms}])
    assert judged(instance, {(1, 0): 2}).stages == pytest.approx([2.0])


def test_order_of_entries_does_not_matter() -> None:
    """The same numbers stored in another order are the same plan."""
    instance = small()
    array = assigned(instance, GOOD)["assigned"]
    order = np.random.default_rng(0).permutation(len(array.values))
    shuffled = replace(array, codes=array.codes[:, order], values=array.values[order])
    one, other = (evaluate(instance, {"assigned": a}) for a in (array, shuffled))
    assert one.metrics == other.metrics
    assert one.stages == other.stages


@given(instances(), st.integers(0, 10**6))
@settings(max_examples=300, deadline=None, derandomize=True)
def test_agrees_with_the_page_pair_by_pair(instance: RoutingInstance, seed: int) -> None:
    """Random plans: the same metrics, stages and verdict as sums over pairs in plain loops."""
    rng = np.random.default_rng(seed)
    plan = np.zeros((len(instance.queries), len(instance.deployments)))
    allowed = oracle.open_pairs(instance)
    for q, n in enumerate(instance.count):
        places = np.flatnonzero(allowed[q]) if allowed[q].any() and rng.random() < 0.9 else None
        for _ in range(int(n)):
            plan[q, rng.choice(len(instance.deployments) if places is None else places)] += 1
    found = judged(instance, plan)
    for metric in oracle.additive(instance):
        values = oracle.table(instance, metric) * plan
        room = 1e-12 * max(np.abs(values).sum(), 1e-9)
        assert abs(found.metrics[metric] - values.sum()) <= room
        by = found.metrics_by["deployment"][metric]
        assert np.abs(by - values.sum(axis=0)).max() <= room
    for number, stage in enumerate(found.stages):
        values = oracle.objective(instance, number) * plan
        assert stage == pytest.approx(values.sum(), rel=1e-9, abs=1e-9)
    good = not plan[~allowed].any() and any(
        np.array_equal(plan, other) for other in oracle.feasible(instance)
    )
    assert (not found.violations) == good, lines(found)


def solution(instance: RoutingInstance, plan: Any) -> go.Solution:
    """A solution made by hand, with the metrics that the checker gives."""
    found = judged(instance, plan)
    return go.Solution(
        problem="routing",
        instance=instance.name,
        instance_sha256=instance.sha256,
        method="by hand",
        solver="none",
        status=Status.FEASIBLE,
        stages=tuple(StageResult(value, -np.inf, "none") for value in found.stages),
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


def test_check_of_a_solution(tmp_path: Any) -> None:
    """`greenopt.check` accepts a solution from a file and sees a metric that is not true."""
    instance = small()
    made = solution(instance, GOOD)
    made.save(tmp_path / "solution.json")
    read = go.load_solution(tmp_path / "solution.json")
    report = go.check(instance, read)
    assert report.ok, report.lines()
    wrong = replace(read, metrics={**read.metrics, "runtime_s": read.metrics["runtime_s"] * 1.01})
    assert go.check(instance, wrong).differences[0].startswith("metrics.runtime_s: reported")
