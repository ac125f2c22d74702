"""Queues together with everything else that looks at an instance: explain, marginals, rules..."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from oracles.plans import queued

import greenopt as go
from greenopt.results import Status


def two(**changes: Any) -> go.PlacementInstance:
    """A near site at 4 USD an hour and GPU, and a far one at 1, with waiting as a curve."""
    fields = {
        "sites": ["near", "far"],
        "rtt_s": [[0.04, 0.3]],
        "gpu_usd_per_hour": {"axes": ["site"], "values": [4.0, 1.0]},
        "gpus": {"axes": [], "values": 10.0},
    }
    return queued(**{**fields, **changes})


def weighing(seconds: float = 1e-3) -> list[dict[str, Any]]:
    """Cost and waiting."""
    terms = [
        {"metric": "cost_usd", "weight": 1.0},
        {"metric": "ttft_request_s", "weight": seconds},
    ]
    return [{"terms": terms}]


def tight(factor: float, **changes: Any) -> go.PlacementInstance:
    """A budget of waiting that chords do not keep, a little above the least that can be waited.

    Ten instances at each of two sites wait least when they share the work: each is at 0.04.
    """
    least = 1440 * 2 * 0.04 / 0.96
    limit = {"axes": [], "values": least * factor}
    budget = {"name": "wait", "metric": "ttft_queue_request_s", "limit": limit}
    return two(budgets=[budget], **changes)


def test_budgets_between_chord_and_curve() -> None:
    """Chords have no plan, the curve has: it is found, and nothing is explained away."""
    instance = tight(1.001)
    solution = go.solve(instance)
    assert solution.status == Status.OPTIMAL
    assert go.check(instance, solution).ok
    assert go.certify(instance, solution).optimal
    assert go.explain(instance).infeasible is False


def test_no_plan_on_the_curve_either() -> None:
    """Less than the least wait is infeasible, and the budget is what conflicts."""
    instance = tight(0.95)
    solution = go.solve(instance)
    assert solution.status == Status.INFEASIBLE
    found = go.explain(instance)
    assert found.infeasible
    assert any("budget wait" in sentence for sentence in found.sentences)


@pytest.mark.parametrize(
    "changes",
    [
        {"levels": (0.9,), "budgets": [{"name": "w", "metric": "ttft_queue_request_s",
                                        "limit": {"axes": [], "values": 5000.0}}]},
        {"levels": (0.9,), "instance_counts": "integer"},
    ],
)  # fmt: skip
def test_full_levels_that_cannot_be_filled(changes: dict[str, Any]) -> None:
    """Where instances serve exactly their load, infeasibility is explained as without a curve."""
    instance = queued(load_rule="exact", **changes)
    solution = go.solve(instance)
    assert solution.status == Status.INFEASIBLE, solution.report
    assert "contradiction" not in solution.report
    assert go.explain(instance).infeasible


def test_marginals_are_those_of_the_curve() -> None:
    """One more request costs what re-solving says, and so does one GPU less."""
    instance = two(objective=weighing(), gpus={"axes": [], "values": 1.2})
    solution, found = go.solve(instance, gap=1e-8), go.marginals(instance)
    assert found.objective == pytest.approx(solution.objective, rel=1e-5)
    demand = instance.demand_requests
    more, less = (
        go.solve(instance.replace(demand_requests=demand + step), gap=1e-9) for step in (1.0, -1.0)
    )
    slope = (more.objective - less.objective) / 2
    (rate,) = solution.marginals["demand"].values
    assert rate == pytest.approx(slope, rel=2e-3)
    assert found["demand"].rates["objective"].ravel() == pytest.approx([slope], rel=2e-2)


@pytest.mark.parametrize("bound", [True, False])
def test_solvers_without_multipliers(bound: bool) -> None:
    """SCIP's plans are on the curve too, with a bound or without."""
    instance = two(objective=weighing())
    best, solution = go.solve(instance), go.solve(instance, solver="scip", bound=bound)
    assert solution.objective == pytest.approx(best.objective, rel=1e-4)
    assert go.check(instance, solution).ok


def test_second_opinion_is_of_the_curve() -> None:
    """A second solver is asked below the curve: it confirms what holds, and calls nothing wrong."""
    one_each = 720 * 2 * 0.4 / 0.6  # who waits where one instance serves half of all
    budget = {"name": "wait", "metric": "ttft_queue_request_s"}
    instance = two(
        instance_counts="integer",
        gpus={"axes": ["site"], "values": [1.0, 1.0]},
        levels=(0.95,),
        budgets=[budget | {"limit": {"axes": [], "values": 2 * one_each * 1.0005}}],
        objective=weighing(1.0),
    )
    solution = go.solve(instance, gap=1e-3)
    assert go.check(instance, solution).ok
    solution = replace(
        solution, stages=(replace(solution.stages[0], bound_source="tree", marginals={}),)
    )
    certificate = go.certify(instance, solution, gap=1e-3, reprove="scip")
    assert certificate.ok
    assert "wrong" not in certificate.stages[-1].kind
    last = replace(solution.stages[-1], bound=solution.objective * 1.01)
    forged = replace(solution, stages=(*solution.stages[:-1], last))
    kind = go.certify(instance, forged, gap=1e-3, reprove="scip").stages[-1].kind
    assert not kind.endswith("scip")


def test_rules_are_followed_on_the_curve() -> None:
    """The nearest plan goes to the near site also where chords had no plan, and stays there."""
    least = 1440 * 2 * 0.08 / 0.92  # on all ten instances there
    for factor in (1.5, 1.01):
        limit = {"axes": [], "values": factor * least}
        budget = {"name": "wait", "metric": "ttft_queue_request_s", "limit": limit}
        instance = two(budgets=[budget])
        solution = go.solve(instance, "nearest")
        assert solution.method == "nearest"
        served = solution.array("flow").total_over("site")
        assert served == pytest.approx([1440, 0], abs=1.0)
        assert go.check(instance, solution).ok


def test_one_site_leaves_a_rule_nothing_to_decide() -> None:
    """The rule's plan is the optimum, without a gap of pieces."""
    instance = queued(objective=weighing(1e-2))
    best, solution = go.solve(instance), go.solve(instance, "nearest")
    assert solution.objective == pytest.approx(best.objective, rel=1e-5)
    assert solution.gap < 1e-5


def test_prepared_instances_with_queues() -> None:
    """Updates give what a fresh solve gives."""
    with go.prepare(two(objective=weighing())) as prepared:
        prepared.solve()
        for factor in (1.1, 0.7):
            prepared.update(demand=np.full((1, 1, 1), 1440.0 * factor))
            again, fresh = prepared.solve(), go.solve(prepared.instance)
            assert again.status == Status.OPTIMAL
            assert again.objective == pytest.approx(fresh.objective, rel=2e-6)


@pytest.mark.parametrize("price", [1.0, 3.9, 4.1, 100.0])
@pytest.mark.parametrize("queue", [True, False])
def test_price_of_a_mask(price: float, queue: bool) -> None:
    """What a request would save at the forbidden site, and nothing where that is dearer."""
    instance = two(
        gpu_usd_per_hour={"axes": ["site"], "values": [4.0, price]},
        reachable={"axes": ["site"], "values": [True, False]},
    )
    if not queue:
        profile = instance.profiles[0].model_dump() | {"queue": None}
        instance = instance.replace(profiles=[profile])
    found = go.solve(instance).marginals["reachable"].dense()
    # A request is 2 s of an instance that may be at 0.9.
    assert found == pytest.approx(np.array([[[max(4 - price, 0) * 2 / 0.9 / 3600]]]), abs=1e-12)


def test_price_of_a_mask_on_whole_requests() -> None:
    """Whole requests have further rows, and the mask a price all the same."""
    instance = two(
        reachable={"axes": ["site"], "values": [True, False]},
        request_counts="integer",
    )
    assert go.solve(instance).marginals["reachable"].dense().shape == (1, 1, 1)
