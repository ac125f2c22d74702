"""Waiting in queues as the checker sees it: on the true curve, from the plan alone."""

from __future__ import annotations

from dataclasses import replace
from math import exp, log
from typing import Any

import numpy as np
import pytest
from oracles.plans import Plan, chat, judged, queued
from oracles.tiny import random_document

import greenopt as go
from greenopt.problems.placement.check import Evaluation, evaluate

NO_QUEUE = {"service_s": 1.0, "service_cv2": 0.0, "arrival_cv2": 0.0}


def on(instances: float, level: int = 1, requests: float = 1440.0) -> Plan:
    """All requests on so many instances at one level."""
    return {
        "flow": {(0, 0, 0, 0, 0, level): requests},
        "instances": {(0, 0, 0, 0, level): instances},
    }


def faults(found: Evaluation) -> list[str]:
    """Violations as text."""
    return [str(v) for v in found.violations]


@pytest.mark.parametrize(
    ("queue", "mean", "scale"),
    [
        ({}, 8.0, 10.0),  # M/M/1: 2 s x 0.8/0.2; who waits, waits 2 s/0.2
        ({"service_cv2": 0.0}, 4.0, 5.0),  # M/D/1: half of it
        ({"service_cv2": 2.0, "arrival_cv2": 0.5}, 10.0, 12.5),  # G/G/1: 5/4
    ],
)
def test_waits_by_hand(queue: dict[str, float], mean: float, scale: float) -> None:
    """One instance at 0.8 of what it can do: mean, percentile, attainment and every total."""
    k = chat(ttft_limit_s=40.0, ttft_statistic="p95")
    instance = queued(queue, levels=(0.5, 0.8), classes=[k])
    found = judged(instance, on(1.0))
    assert faults(found) == []
    percentile = scale * log(0.8 / 0.05)
    assert found.metrics["ttft_queue_request_s"] == pytest.approx(1440 * mean)
    assert found.metrics["ttft_warm_request_s"] == pytest.approx(1440 * 0.25)
    assert found.metrics["ttft_request_s"] == pytest.approx(1440 * (mean + 0.25))
    assert found.metrics["ttft_mean_s"] == pytest.approx(mean + 0.25)
    assert found.metrics["ttft_p95_s"] == pytest.approx(0.25 + percentile, rel=2e-9)
    kept = 1 - 0.8 * exp(-39.75 / scale)
    assert found.metrics["ttft_slo_attainment"] == pytest.approx(kept)
    by = found.metrics_by
    for axis in ("site", "period", "class"):
        assert by[axis]["ttft_queue_request_s"] == pytest.approx([1440 * mean])
        assert by[axis]["ttft_mean_s"] == pytest.approx([mean + 0.25])
    assert by["period,site"]["ttft_queue_request_s"] == [[pytest.approx(1440 * mean)]]
    assert by["class"]["ttft_p95_s"] == pytest.approx([0.25 + percentile], rel=2e-9)
    assert by["class"]["ttft_slo_attainment"] == pytest.approx([kept])
    (note,) = found.notes["queues"]
    assert note == {
        "model": "llm",
        "mode": "only",
        "level": 1,
        "largest_utilisation": pytest.approx(0.8),
        "mean_utilisation": pytest.approx(0.8),
        "mean_wait_s": pytest.approx(mean),
        "p95_wait_s": pytest.approx(percentile, rel=2e-9),
    }


def test_level_tells_nothing_of_the_wait_below_it() -> None:
    """Two instances at the same level are at 0.4, and wait 2 s x 0.4/0.6."""
    found = judged(queued(), on(2.0))
    assert found.metrics["ttft_queue_request_s"] == pytest.approx(1440 * 4 / 3)


def test_exact_levels_wait_at_their_own_utilisation() -> None:
    """Half of the requests at 0.5, half at 0.9; the note weighs them by requests.

    1,800 reference requests an hour are one instance at 0.5; 1,080 are a third of one at 0.9.
    """
    plan: Plan = {
        "flow": {(0, 0, 0, 0, 0, 0): 900.0, (0, 0, 0, 0, 0, 1): 540.0},
        "instances": {(0, 0, 0, 0, 0): 1.0, (0, 0, 0, 0, 1): 1 / 3},
    }
    found = judged(queued(load_rule="exact"), plan)
    assert faults(found) == []
    assert found.metrics["ttft_queue_request_s"] == pytest.approx(900 * 2 * 1 + 540 * 2 * 9)
    low, high = found.notes["queues"]
    assert (low["mean_utilisation"], high["mean_utilisation"]) == (0.5, 0.9)
    # 0.05 of all are late: 900 x 0.5 exp(-t/4) + 540 x 0.9 exp(-t/20) = 72.
    t = (found.metrics["ttft_p95_s"] or 0.0) - 0.25
    assert 450 * exp(-t / 4) + 486 * exp(-t / 20) == pytest.approx(72.0, rel=1e-7)


def test_note_weighs_periods_by_requests() -> None:
    """1,440 requests at 0.8 and 720 at 0.4, of the same level: 8 s and 4/3 s of wait."""
    instance = queued(
        periods={"start": ["2023-01-01T00:00Z", "2023-01-01T01:00Z"], "duration_s": [3600.0] * 2},
        demand_requests={"axes": ["period"], "values": [1440.0, 720.0]},
    )
    plan: Plan = {
        "flow": {(0, 0, 0, 0, 0, 1): 1440.0, (1, 0, 0, 0, 0, 1): 720.0},
        "instances": {(0, 0, 0, 0, 1): 1.0, (1, 0, 0, 0, 1): 1.0},
    }
    found = judged(instance, plan)
    assert faults(found) == []
    (note,) = found.notes["queues"]
    assert note["largest_utilisation"] == pytest.approx(0.8)
    assert note["mean_utilisation"] == pytest.approx(2 / 3)
    assert note["mean_wait_s"] == pytest.approx((2 * 8 + 4 / 3) / 3)
    # 0.05 of 2,160 are late: 1,152 wait 10 s if at all, 288 wait 10/3 s.
    t = note["p95_wait_s"]
    assert 1152 * exp(-t / 10) + 288 * exp(-0.3 * t) == pytest.approx(108.0, rel=1e-7)


def test_no_queue_changes_nothing() -> None:
    """Without a queue, and with one in which nothing varies, the same metrics and no wait."""
    base = queued(NO_QUEUE)
    profile = base.profiles[0].model_dump() | {"queue": None}
    with_none, without = judged(base, on(1.0)), judged(base.replace(profiles=[profile]), on(1.0))
    assert with_none.metrics == without.metrics
    assert without.metrics["ttft_p95_s"] == 0.25
    assert without.metrics["ttft_queue_request_s"] == 0.0
    assert "queues" not in without.notes


def limited(limit: float, statistic: str, queue: dict[str, float] | None = None) -> Any:
    """The instance with a limit on TTFT."""
    k = chat(ttft_limit_s=limit, ttft_statistic=statistic)
    return queued(queue, levels=(0.5, 0.8), classes=[k])


CAPS = {"mean": 8.25, "p50": 0.25 + 10 * log(1.6), "p95": 0.25 + 10 * log(16.0)}
"""The statistic of TTFT on one instance at 0.8."""


@pytest.mark.parametrize("statistic", CAPS)
def test_limit_caps_utilisation(statistic: str) -> None:
    """At the cap a plan is good; a ten-thousandth less rejects it, and names all there is to it."""
    cap = CAPS[statistic]
    assert faults(judged(limited(cap, statistic), on(1.0))) == []
    strict = limited(cap * (1 - 1e-4), statistic)
    (fault,) = faults(judged(strict, on(1.0)))
    where = "chat from here at there in only level 1, period 2023-01-01T00:00Z"
    assert fault.startswith(f"TTFT {statistic} at {where}: off by")
    # A little emptier, the level would do, but at its full load it is closed to the class.
    (fault,) = faults(judged(strict, on(1.01)))
    assert fault.startswith(f"TTFT {statistic} at full load at chat from here at there in only")
    assert faults(judged(limited(0.26, statistic, NO_QUEUE), on(1.0))) == []


@pytest.mark.parametrize("rule", ["at_most", "exact"])
def test_load_beyond_its_level_by_rounding_is_that_of_the_level(rule: str) -> None:
    """Near 1 a rounded load would wait far longer; where the load passes, the wait does.

    Half a millionth above 0.999 is a wait longer by a two-thousandth, which the limit would see.
    """
    wait = 2 * 0.999 / 0.001
    k = chat(ttft_limit_s=0.25 + wait, ttft_statistic="mean")
    instance = queued(levels=(0.999,), load_rule=rule, classes=[k])
    found = judged(instance, on(0.8 / 0.999 * (1 - 5e-7), level=0))
    assert faults(found) == []
    assert found.metrics["ttft_queue_request_s"] == pytest.approx(1440 * wait, rel=1e-9)


def test_worst_period_is_named() -> None:
    """Of a flow at several utilisations, the highest is judged, in its period."""
    hours = [f"2023-01-01T0{h}:00Z" for h in range(3)]
    instance = queued(
        levels=(0.5, 5 / 6),
        periods={"start": hours, "duration_s": [3600.0] * 3},
        demand_requests={"axes": ["period"], "values": [720.0, 1500.0, 1440.0]},
        classes=[chat(ttft_limit_s=9.0, ttft_statistic="mean")],
    )
    plan: Plan = {
        "flow": {(t, 0, 0, 0, 0, 1): n for t, n in enumerate((720.0, 1500.0, 1440.0))},
        "instances": {(t, 0, 0, 0, 1): 1.0 for t in range(3)},
    }
    (fault,) = faults(judged(instance, plan))
    assert "period 2023-01-01T01:00Z" in fault
    # 2 s x 5/6 over 1/6 is 10 s; with 0.25 s of network and prefill, 1.25 s too many.
    assert fault.endswith("off by 1.25")


@pytest.mark.parametrize("rule", ["at_most", "exact"])
@pytest.mark.parametrize("instances", [0.0, 0.4, 0.8])
def test_waiting_without_end_is_rejected(instances: float, rule: str) -> None:
    """Work at or above what instances can do in time is called by its name, and counted finite."""
    found = judged(queued(load_rule=rule), on(instances))
    assert any(f.startswith("waiting in queues has an end at") for f in faults(found))
    # As at the level's full load: 2 s x 0.9/0.1.
    assert found.metrics["ttft_queue_request_s"] == pytest.approx(1440 * 18.0)
    assert all(np.isfinite(value) for value in found.metrics.values() if value is not None)


def test_overload_that_ends_is_measured() -> None:
    """Above its level, but below 1, work is a fault of the load alone, and waits as it is."""
    found = judged(queued(), on(0.8 / 0.95))
    (fault,) = faults(found)
    assert fault.startswith("load at most what instances serve")
    assert found.metrics["ttft_queue_request_s"] == pytest.approx(1440 * 2 * 19)


@pytest.mark.parametrize("rule", ["at_most", "exact"])
def test_stray_requests_do_not_wait_for_ever(rule: str) -> None:
    """A billionth of a request on no instance is rounding, here and in every metric."""
    plan = on(1440 * 2 / 0.9 / 3600)
    plan["flow"][(0, 0, 0, 0, 0, 0)] = 1e-9
    plan["instances"][(0, 0, 0, 0, 0)] = 0.0
    found = judged(queued(load_rule=rule), plan)
    assert faults(found) == []
    assert found.metrics["ttft_queue_request_s"] == pytest.approx(1440 * 18)
    assert found.metrics["ttft_p95_s"] == pytest.approx(0.25 + 20 * log(18))


@pytest.mark.parametrize(
    ("metric", "value"),
    [
        ("ttft_queue_request_s", 1440 * 8.0),
        ("ttft_request_s", 1440 * 8.25),
        ("ttft_mean_s", 8.25),
    ],
)
@pytest.mark.parametrize("axes", [[], ["period"], ["site"], ["period", "site"]])
def test_budgets_count_waiting(metric: str, value: float, axes: list[str]) -> None:
    """A budget of what the plan waits holds it; one of a thousandth less rejects it."""
    for factor, ok in ((1.0, True), (0.999, False)):
        values = np.full((1,) * len(axes), value * factor).tolist()
        budget = {"name": "cap", "metric": metric, "limit": {"axes": axes, "values": values}}
        found = judged(queued(budgets=[budget]), on(1.0))
        assert [v.requirement for v in found.violations] == ([] if ok else ["budget cap"])


@pytest.mark.parametrize("over", ["sum", "mean", "max"])
def test_objective_counts_waiting(over: str) -> None:
    """Stages weigh the true waiting, also in the mean TTFT."""
    terms = [
        {"metric": "ttft_queue_request_s", "weight": 0.5, "over_sites": over},
        {"metric": "ttft_mean_s", "weight": 2.0},
    ]
    found = judged(queued(objective=[{"terms": terms}]), on(1.0))
    assert found.stages == pytest.approx([0.5 * 1440 * 8 + 2 * 8.25])


def test_waits_for_a_start_and_in_the_queue_add_up() -> None:
    """Who waits for a start waits in the queue as well: 0.3 of the requests, 1,800 s later.

    A sixth of them are the latest twentieth of all: 0.8 exp(-t/10) of them wait longer than t.
    """
    base = queued()
    profile = base.profiles[0].model_dump() | {"startup": {"time_s": 1800.0, "energy_kwh": 0.0}}
    instance = base.replace(
        profiles=[profile],
        initial_instances=[[[0.0]]],
        classes=[chat(ttft_limit_s=100.0, ttft_statistic="p95")],
    )
    # Two instances, of which both start for half of the hour: one serves in the mean.
    plan = on(1.0) | {
        "running": {(0, 0, 0, 0): 2.0},
        "starts": {(0, 0, 0, 0): 2.0},
        "startup_waits": {(0, 0, 0, 0): 432.0},
    }
    found = judged(instance, plan)
    assert faults(found) == ["waits for starts at 2023-01-01T00:00Z, there, 0: off by 576"]
    assert found.metrics["ttft_p95_s"] == pytest.approx(1800.25 + 10 * log(0.8 * 6))
    assert found.metrics["ttft_slo_attainment"] == pytest.approx(0.7 * (1 - 0.8 * exp(-9.975)))
    assert found.metrics["ttft_request_s"] == pytest.approx(1440 * 8.25 + 432 * 1800)


# Percentile and attainment of a whole plan against requests drawn one by one


def drawn(
    rng: np.random.Generator, instance: go.PlacementInstance, decision: Any, count: int
) -> tuple[np.ndarray, np.ndarray]:
    """Delays of requests drawn from a plan, and the limits of their classes, s.

    Picks entries of the flow by their requests, then a prompt, a start and a queue for each.
    """
    flow, run = decision["flow"], decision["instances"]
    t, o, k, s, m, level = flow.codes[:, rng.choice(len(flow.values), count, p=_shares(flow))]
    share = np.zeros(tuple(np.delete(flow.shape, [1, 5])))
    if "startup_waits" in decision:
        waits, there = decision["startup_waits"].dense(), flow.dense().sum(axis=(1, 5))
        share = np.divide(waits, there, where=there > 0, out=share)
    work = _work(instance, flow)
    ttft, limit = np.zeros(count), np.zeros(count)
    for i, c in enumerate(instance.classes):
        n = instance.sets["model"].index(c.model)
        for p in (p for p in instance.profiles if p.model == c.model):
            mode = instance.sets["mode"].index(p.mode)
            for depth, measured in enumerate(p.levels):
                at = np.flatnonzero((k == i) & (m == mode) & (level == depth))
                prompts = rng.choice(
                    c.prompt_tokens.values, len(at), p=c.prompt_tokens.probabilities
                )
                ttft[at] = instance.rtt_s[o[at], s[at]] + instance.last_mile_s[o[at]]
                ttft[at] += np.interp(prompts, p.prefill_tokens, measured.prefill_s)
                limit[at] = c.ttft_limit_s or np.inf
                if p.startup:
                    late = rng.random(len(at)) < share[t[at], i, s[at], mode]
                    ttft[at] += late * p.startup.time_s
                if p.queue and len(at):
                    busy = work[t[at], s[at], n, mode, depth] * p.queue.service_s
                    busy /= run.dense()[t[at], s[at], n, mode, depth]
                    busy /= np.array(instance.periods.duration_s)[t[at]]
                    own = c.work_per_request[p.mode] * p.queue.service_s
                    own *= (p.queue.service_cv2 + p.queue.arrival_cv2) / 2
                    who = rng.random(len(at)) < busy
                    ttft[at] += who * rng.exponential(1.0, len(at)) * own / (1 - busy)
    return ttft, limit


def _shares(flow: Any) -> Any:
    return np.maximum(flow.values, 0) / np.maximum(flow.values, 0).sum()


def _work(instance: go.PlacementInstance, flow: Any) -> np.ndarray:
    """Reference requests by (period, site, model, mode, level)."""
    sets = instance.sets
    total = np.zeros([len(sets[a]) for a in ("period", "site", "model", "mode", "level")])
    for (t, _, k, s, m, level), value in zip(flow.codes.T, flow.values, strict=True):
        c = instance.classes[k]
        n = sets["model"].index(c.model)
        total[t, s, n, m, level] += value * c.work_per_request[sets["mode"][m]]
    return total


@pytest.mark.parametrize("rule", ["at_most", "exact"])
@pytest.mark.parametrize("seed", range(6))
def test_percentile_and_attainment_of_drawn_requests(seed: int, rule: str) -> None:
    """Of 400,000 requests drawn, 95 % are within the percentile and the attainment within limits.

    Shares are right to 0.0015: four standard deviations of the draw. Plans are those of the solver,
    with starts, so that mixtures are of many periods, sites, modes and levels.
    """
    rng = np.random.default_rng(seed)
    switches = {"at_most": rule == "at_most", "startup": seed % 2 == 1, "queue": True}
    instance = go.PlacementInstance.parse(random_document(rng, **switches))
    solution = go.solve(instance)
    found = evaluate(instance, solution.decision)
    assert faults(found) == []
    ttft, limit = drawn(rng, instance, solution.decision, 400_000)
    percentile, kept = found.metrics["ttft_p95_s"], found.metrics["ttft_slo_attainment"]
    assert percentile is not None
    assert kept == pytest.approx((ttft <= limit * (1 + 1e-9)).mean(), abs=1.5e-3)
    assert (ttft <= percentile * (1 + 1e-9)).mean() >= 0.95 - 1.5e-3
    assert (ttft < percentile * (1 - 1e-6)).mean() <= 0.95 + 1.5e-3


def test_waits_follow_instances_not_the_level() -> None:
    """A plan whose file forgets that waits fell with more instances is found out."""
    terms = [{"metric": "cost_usd", "weight": 1.0}, {"metric": "ttft_mean_s", "weight": 1.0}]
    instance = queued(objective=[{"terms": terms}])
    solution = go.solve(instance)
    assert go.check(instance, solution).ok
    run = solution.decision["instances"]
    more = {**solution.decision, "instances": replace(run, values=run.values * 1.01)}
    lines = go.check(instance, replace(solution, decision=more)).lines()
    assert any(line.startswith("metrics.ttft_queue_request_s") for line in lines)
