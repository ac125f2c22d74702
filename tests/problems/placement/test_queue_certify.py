"""Bounds of plans that wait: those of the true curve, whatever points the plan was made with."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles.plans import chat, judged, queued
from oracles.tiny import random_document
from scipy.optimize import brentq, minimize_scalar

import greenopt as go
from greenopt.labelled import LabelledArray
from greenopt.problems.placement.certify import lower_bound

LOAD = ("period", "site", "model", "mode", "level")
WORK_PER_S = 0.8
"""Reference requests per second of the small instance."""

USD = 4.0
"""Price of an instance in its hour."""


def multipliers(instance: go.PlacementInstance, **values: Any) -> dict[str, LabelledArray]:
    """Multipliers of rows by name: of load, GPUs and budgets."""
    axes = {"load": LOAD, "gpus": ("period", "site", "gpu_type")}
    found = {}
    for name, value in values.items():
        row = name.replace("budget_", "budget.")
        labels = {a: instance.sets[a] for a in axes.get(name, ())}
        shape = [len(labels[a]) for a in labels]
        found[row] = LabelledArray.from_dense(row, "", labels, np.broadcast_to(value, shape))
    return found


def bound(instance: go.PlacementInstance, **values: Any) -> float:
    """What multipliers prove."""
    return lower_bound(instance, 0, multipliers(instance, **values), [])[0]


def weighed(seconds: float, queue: dict[str, float] | None = None, **changes: Any) -> Any:
    """The small instance with a price on a request-second of waiting, USD."""
    terms = [
        {"metric": "cost_usd", "weight": 1.0},
        {"metric": "ttft_queue_request_s", "weight": seconds},
    ]
    return queued(queue, objective=[{"terms": terms}], **changes)


def value(instance: go.PlacementInstance, instances: float, seconds: float) -> float:
    """What one hour costs with so many instances at the last level, from the wait of each."""
    (queue,) = (p.queue for p in instance.profiles)
    assert queue is not None
    u = WORK_PER_S * queue.service_s / instances
    wait = 2 * queue.service_s * (queue.service_cv2 + queue.arrival_cv2) / 2 * u / (1 - u)
    return USD * instances + seconds * 1440 * wait


def price_of_work(instance: go.PlacementInstance, u: float, seconds: float) -> float:
    """Price of a reference request where instances at a utilisation pay for themselves.

    An instance and its waiting cost as much as the u x 3,600/s reference requests it serves earn.
    """
    (queue,) = (p.queue for p in instance.profiles)
    assert queue is not None
    gamma = (queue.service_cv2 + queue.arrival_cv2) / 2
    waiting = seconds * gamma * 3600 * u * u / (1 - u)
    return (USD + waiting) / (u * 3600 / queue.service_s)


def best(instance: go.PlacementInstance, seconds: float, most: float = 80.0) -> tuple[float, float]:
    """Best number of instances at the last level, and what the hour costs, by scipy."""
    low = WORK_PER_S / instance.profiles[0].levels[-1].requests_per_s
    found = minimize_scalar(
        lambda y: value(instance, y, seconds),
        bounds=(low, most),
        method="bounded",
        options={"xatol": 1e-10},
    )
    ends = [(value(instance, y, seconds), y) for y in (low, most)]
    cost, instances = min([(float(found.fun), float(found.x)), *ends])
    return instances, cost


QUEUES: dict[str, dict[str, float]] = {
    "M/M/1": {},
    "M/D/1": {"service_cv2": 0.0},
    "short": {"service_s": 0.3, "service_cv2": 2.0},
    "bursts": {"service_s": 1.05, "arrival_cv2": 3.0},
}


@pytest.mark.parametrize("seconds", [0.0, 1e-7, 1e-5, 1e-3, 1e-1])
@pytest.mark.parametrize("name", QUEUES)
def test_best_price_of_load_proves_the_true_optimum(name: str, seconds: float) -> None:
    """One multiplier, of load, proves what scipy finds for the curve: inside and at the full level.

    And the checker says that the plan is worth as much.
    """
    instance = weighed(seconds, QUEUES[name])
    instances, cost = best(instance, seconds)
    (queue,) = (p.queue for p in instance.profiles)
    assert queue is not None
    u = WORK_PER_S * queue.service_s / instances
    price = price_of_work(instance, u, seconds)
    # The lower level has the same price: its instances take part up to their own utilisation.
    proved = bound(instance, load=[-1e-9, -price])
    assert proved <= cost * (1 + 1e-9)
    both = bound(instance, load=[-price, -price])
    assert both == pytest.approx(cost, rel=1e-7)
    plan = {
        "flow": {(0, 0, 0, 0, 0, 1): 1440.0},
        "instances": {(0, 0, 0, 0, 1): instances},
    }
    found = judged(instance, plan)
    assert found.violations == []
    assert found.stages == pytest.approx([cost], rel=1e-7)


def test_full_gpus_are_priced() -> None:
    """With fewer GPUs than the best number, their multiplier makes up for it."""
    seconds, most = 1e-3, 1.2
    instance = weighed(seconds, levels=(0.9,), gpus={"axes": [], "values": most})
    instances, cost = best(instance, seconds, most)
    assert instances == pytest.approx(most)
    u = WORK_PER_S / most
    slope = (1 / (1 - u) ** 2 - 1) * seconds  # of the waiting of all, by reference requests
    rent = slope * 3600 * u - seconds * 3600 * u * u / (1 - u) - USD
    assert rent > 0
    assert bound(instance, load=-slope, gpus=-rent) == pytest.approx(cost, rel=1e-9)
    assert bound(instance, load=-slope) == pytest.approx(cost, rel=1e-9)  # y at its upper bound


@given(
    st.floats(-5, 1),
    st.sampled_from(sorted(QUEUES)),
    st.lists(st.floats(-0.05, 0.01), min_size=2, max_size=2),
    st.floats(-20, 5),
    st.floats(0.9, 3.0),
)
@settings(max_examples=300, deadline=None, derandomize=True)
def test_no_multipliers_prove_more(
    exponent: float, name: str, load: list[float], gpus: float, most: float
) -> None:
    """Whatever the multipliers of load and GPUs, the bound is not above the true optimum."""
    seconds = 10.0**exponent
    instance = weighed(seconds, QUEUES[name], gpus={"axes": [], "values": most})
    _, cost = best(instance, seconds, most)
    assert bound(instance, load=load, gpus=gpus) <= cost * (1 + 1e-9)


@given(st.floats(0.01, 0.899), st.floats(-5, 0), st.sampled_from(sorted(QUEUES)))
@settings(max_examples=200, deadline=None, derandomize=True)
def test_price_of_an_instance_is_the_lowest_tangent(
    slope: float, exponent: float, name: str
) -> None:
    """An instance is charged the smallest of its prices over a million utilisations.

    With all else at price zero, the bound of a load price falls short of what work earns by the
    80 instances that could serve it at a loss.
    """
    seconds = 10.0**exponent
    instance = weighed(seconds, QUEUES[name], levels=(0.9,))
    (queue,) = (p.queue for p in instance.profiles)
    assert queue is not None
    full = 0.9 * queue.service_s
    waiting = seconds * (queue.service_cv2 + queue.arrival_cv2) / 2 * 3600
    earns = waiting * (1 / (1 - slope) ** 2 - 1)  # an instance and full hour of work
    u = np.linspace(0.0, full, 1_000_001)
    cheapest = float((waiting * u * u / (1 - u) - earns * u).min())
    price = earns * queue.service_s / 3600
    expected = 2880 * price + 80 * min(USD + cheapest, 0.0)
    assert bound(instance, load=-price) == pytest.approx(expected, rel=1e-6, abs=1e-9)


def test_filled_rows_are_not_read() -> None:
    """What a file says of points of utilisation changes nothing."""
    instance = weighed(1e-3)
    labels = {**{a: instance.sets[a] for a in LOAD}, "point": ("0", "1")}
    filled = LabelledArray.from_dense("filled", "", labels, np.full((1, 1, 1, 1, 2, 2), 7.0))
    plain = multipliers(instance, load=-2e-3)
    assert lower_bound(instance, 0, plain, []) == lower_bound(
        instance, 0, {**plain, "filled": filled}, []
    )


@pytest.mark.parametrize("seconds", [0.0, 1e-4, 1e-2, -1e-4])
def test_exact_levels_are_linear(seconds: float) -> None:
    """At exact levels waiting is a price of instances, of either sign: the better level is best."""
    instance = weighed(seconds, load_rule="exact")
    costs = {u: 2880 / (3600 * u) * (USD + seconds * 3600 * u * u / (1 - u)) for u in (0.5, 0.9)}
    cheapest = min(costs.values())
    prices = -cheapest / 2880
    assert bound(instance, load=prices) == pytest.approx(cheapest, rel=1e-12)
    assert bound(instance, load=prices - 1e-5) <= cheapest * (1 + 1e-12)
    assert bound(instance, load=prices + 1e-5) < cheapest


STATISTICS = {"mean": 2.25, "p50": 0.25, "p95": 0.25 + 4 * np.log(10), "p99": 0.25 + 4 * np.log(50)}
"""The statistic of TTFT at a utilisation of 0.5, where who waits, waits 4 s."""


@pytest.mark.parametrize("rule", ["exact", "at_most"])
@pytest.mark.parametrize("statistic", STATISTICS)
def test_limit_closes_levels_by_their_full_load(statistic: str, rule: str) -> None:
    """At its limit the lower level may serve, and the higher one not; beyond it, none."""
    limit, cost = STATISTICS[statistic], 4 * 0.8 / 0.5
    for factor, expected in ((1.0, cost), (0.999, np.inf)):
        k = chat(ttft_limit_s=limit * factor, ttft_statistic=statistic)
        instance = queued(load_rule=rule, classes=[k])
        assert bound(instance, load=[-cost / 2880, 0.0]) == pytest.approx(expected)


@pytest.mark.parametrize("limit", [0.5, 1.0, 3.0, 8.0])
def test_budget_of_the_mean_prices_waiting(limit: float) -> None:
    """A budget of the mean TTFT leaves so much waiting; its multiplier and load's prove that.

    The mean wait is 2 u/(1-u) and the rest 0.25 s: the best plan is just at the limit.
    """
    budget = {"name": "cap", "metric": "ttft_mean_s", "limit": {"axes": [], "values": limit}}
    instance = queued(budgets=[budget])
    u = brentq(lambda u: 2 * u / (1 - u) - (limit - 0.25), 0.0, 0.9, xtol=1e-14)
    # An instance less saves 4 USD and adds 3,600 (u/(1-u))² request-seconds of waiting.
    seconds = USD / (3600 * (u / (1 - u)) ** 2)
    price = (1 / (1 - u) ** 2 - 1) * seconds
    proved = bound(instance, load=-price, budget_cap=-seconds)
    assert proved == pytest.approx(USD * 0.8 / u, rel=1e-9)
    for worse in (0.5, 2.0):
        assert bound(instance, load=-price * worse, budget_cap=-seconds) < proved
        assert bound(instance, load=-price, budget_cap=-seconds * worse) < proved


def test_earlier_stage_prices_waiting() -> None:
    """A stage that waiting was minimised in keeps its price in the next one, by its multiplier."""
    stages = [
        {"terms": [{"metric": "ttft_queue_request_s", "weight": 1.0}], "tolerance": 0.0},
        {"terms": [{"metric": "cost_usd", "weight": 1.0}]},
    ]
    instance = queued(objective=stages)
    u, waited = 0.4, 3600 * 2 * 0.4**2 / 0.6
    seconds = USD / (3600 * (u / (1 - u)) ** 2)
    price = (1 / (1 - u) ** 2 - 1) * seconds
    given = multipliers(instance, load=-price, stage_0=-seconds)
    proved, _ = lower_bound(instance, 1, given, [waited])
    assert proved == pytest.approx(USD * 2.0, rel=1e-9)


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("spread", [0.0, 0.1, 1.0])
def test_disturbed_multipliers_of_plans_prove_no_more(seed: int, spread: float) -> None:
    """Nor do those of random instances, with noise of any sign on every row."""
    rng = np.random.default_rng(seed)
    instance = go.PlacementInstance.parse(
        random_document(rng, at_most=True, queue=True, max_sites=True, power_cap=True)
    )
    solution = go.solve(instance)
    objective = solution.objective
    assert objective is not None

    def disturbed(array: LabelledArray) -> LabelledArray:
        size = np.abs(array.values).max(initial=0.0) or 1.0
        dense = array.dense() + spread * size * rng.standard_normal(array.shape)
        return LabelledArray.from_dense(array.name, array.unit, array.labels, dense)

    marginals = {name: disturbed(array) for name, array in solution.marginals.items()}
    proved, size = lower_bound(instance, 0, marginals, [])
    assert proved <= objective + 1e-9 * max(1.0, abs(objective), size if np.isfinite(size) else 0)
    if spread == 0:
        assert proved == pytest.approx(objective, rel=1e-5)
