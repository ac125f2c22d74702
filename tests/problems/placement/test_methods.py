"""Rules that place requests: what they minimise, what they keep to, and how far off they are."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from conftest import ROOT
from oracles.plans import chat, queued
from oracles.tiny import CORE_FEATURES, random_document

import greenopt as go
from greenopt import ruling
from greenopt.errors import ModelError
from greenopt.problems.placement.methods import RULES, Ruled
from greenopt.results import Status
from greenopt.ruling import follow
from greenopt.solvers import Termination
from greenopt.solving import Settings, methods_of

CUSTOM = "what the rule minimises"


def two_sites(**changes: Any) -> go.PlacementInstance:
    """Two origins, each at home at one of two sites, and room for three quarters of all at each.

    Every request takes 10 s of one of the GPUs there, of which each site has 15: they serve 5,400
    requests an hour. Power is dear in the first site, dirty in the second.
    """
    fields = {
        "origins": ["a", "b"],
        "sites": ["A", "B"],
        "load_rule": "exact",
        "demand_requests": {"axes": ["origin"], "values": [6000.0, 2000.0]},
        "gpus": {"axes": [], "values": 15.0},
        "carbon_g_per_kwh": {"axes": ["site"], "values": [100.0, 600.0]},
        "price_usd_per_mwh": {"axes": ["site"], "values": [200.0, 50.0]},
        "rtt_s": [[0.01, 0.2], [0.2, 0.01]],
        "objective": [{"terms": [{"metric": "carbon_kg", "weight": 1.0}]}],
    }
    instance = queued(levels=(0.2,), **{**fields, **changes})  # two reference requests each
    return instance.replace(profiles=[instance.profiles[0].model_dump() | {"queue": None}])


def shares(solution: go.Solution) -> np.ndarray:
    """Requests by origin and site."""
    return solution.array("flow").total_over("origin", "site")


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        # 5,400 fit at home, 600 spill; B's own 2,000 stay.
        ("nearest", [[5400, 600], [0, 2000]]),
        # B is full with 5,400 of any origin; carbon does not care which.
        ("cheapest", 5400),
        ("greenest", 2600),
        ("round-robin", [[3000, 3000], [1000, 1000]]),
    ],
)
def test_rules_by_hand(rule: str, expected: Any) -> None:
    """What fits goes where the rule says, the rest to the next best."""
    solution = go.solve(two_sites(), rule)
    flow = shares(solution)
    if isinstance(expected, int):
        assert flow[:, 1].sum() == pytest.approx(expected, rel=1e-6)
    else:
        assert flow == pytest.approx(np.array(expected, dtype=float), rel=1e-6, abs=1e-3)
    # The best plan sends 5,400 to A: 10 s of 1 kW each, at a PUE that the power includes.
    assert solution.bound == pytest.approx((5400 * 100 + 2600 * 600) / 360 / 1000)
    assert solution.method == rule


def test_round_robin_spills_the_least() -> None:
    """Where equal shares do not fit, as few requests as can be are above their share."""
    small = two_sites(gpus={"axes": ["site"], "values": [5.0, 30.0]})
    flow = shares(go.solve(small, "round-robin"))
    assert flow.sum(axis=0) == pytest.approx([1800, 6200], rel=1e-6)
    assert (flow <= np.array([[3000, 6000], [1000, 2000]]) + 1e-3).all()


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("seed", range(8))
def test_any_instance(rule: str, seed: int) -> None:
    """A rule's plan passes its check, and lies above the optimum by the gap it is given."""
    rng = np.random.default_rng(seed)
    features = [f for f in CORE_FEATURES if f != "lexicographic" and rng.random() < 0.3]
    document = random_document(rng, **dict.fromkeys(features, True))
    instance = go.PlacementInstance.parse(document)
    best, solution = go.solve(instance), go.solve(instance, rule)
    assert (solution.status == Status.INFEASIBLE) == (best.status == Status.INFEASIBLE)
    if best.status == Status.INFEASIBLE:
        return
    assert solution.status in {Status.FEASIBLE, Status.OPTIMAL}
    assert go.check(instance, solution).ok
    assert go.certify(instance, solution).ok
    room = 1e-6 * max(1.0, abs(best.objective or 0.0))
    assert solution.objective >= best.objective - room
    assert solution.bound <= best.objective + room
    if solution.status == Status.OPTIMAL:
        assert solution.objective == pytest.approx(best.objective, rel=1e-5, abs=1e-6)


def test_first_comes_the_rule() -> None:
    """No plan has shorter round trips than the nearest one, and of those none is better."""
    instance = go.PlacementInstance.parse(random_document(np.random.default_rng(5)))
    trips = {
        "name": CUSTOM,
        "unit": "s",
        "per_request": {"axes": ["origin", "site"], "values": instance.rtt_s.tolist()},
    }
    stages = [
        {"terms": [{"metric": CUSTOM, "weight": 1.0}], "tolerance": 1e-9},
        *[stage.model_dump() for stage in instance.objective],
    ]
    both = go.solve(instance.replace(custom_metrics=[trips], objective=stages))
    nearest = go.solve(instance, "nearest")
    assert nearest.objective == pytest.approx(both.objective, rel=1e-5)
    flow = nearest.array("flow").total_over("origin", "site")
    assert (flow * instance.rtt_s).sum() == pytest.approx(both.stages[0].objective, rel=1e-5)


def test_without_a_bound() -> None:
    """The bound can be skipped; then there is no gap to tell."""
    solution = go.solve(two_sites(), "nearest", bound=False)
    assert solution.bound is None
    assert solution.gap is None
    assert solution.status == Status.FEASIBLE


def test_several_wishes_in_order() -> None:
    """Full load keeps instances off lower levels; the first mode is filled first."""
    instance = go.PlacementInstance.parse(random_document(np.random.default_rng(3)))
    wishes = ("nearest", "first-mode", "full-load")
    solution = follow(instance, Ruled(instance, *wishes), "naive", Settings())
    if solution.status == Status.INFEASIBLE:
        pytest.fail("this instance has a plan at full load")
    assert solution.method == "naive"
    used = solution.array("instances")
    for code, value in zip(used.codes.T, used.values, strict=True):
        if value > 1e-6:
            model, mode, level = (
                used.labels["model"][code[2]],
                used.labels["mode"][code[3]],
                code[4],
            )
            (profile,) = [p for p in instance.profiles if (p.model, p.mode) == (model, mode)]
            assert level == len(profile.levels) - 1
    assert solution.objective >= go.solve(instance, "nearest").objective - 1e-6


@pytest.mark.parametrize("rule", RULES)
def test_nobody_is_left_to_save(rule: str) -> None:
    """Where requests may go unserved at a price, rules serve all there is room for."""
    k = chat(unmet_price_usd=10.0)
    terms = [{"metric": "cost_usd", "weight": 1.0}, {"metric": "unmet_usd", "weight": 1.0}]
    for gpus, unmet in ((15.0, 0.0), (10.0, 800.0)):
        instance = two_sites(
            classes=[k], gpus={"axes": [], "values": gpus}, objective=[{"terms": terms}]
        )
        solution = go.solve(instance, rule)
        assert solution.metrics["unmet_requests"] == pytest.approx(unmet, abs=1.0)


def test_round_robin_of_those_who_wait() -> None:
    """Requests that may wait are shared out over the horizon, not twice as often as they come."""
    instance = two_sites(
        periods={"start": ["2023-01-01T00:00Z", "2023-01-01T01:00Z"], "duration_s": [3600.0] * 2},
        demand_requests={"axes": ["period", "origin"], "values": [[3000.0, 0.0], [1000.0, 0.0]]},
        classes=[chat(deferral_limit_s=3600.0)],
        carbon_g_per_kwh=[[500.0, 500.0], [100.0, 100.0]],
    )
    assert shares(go.solve(instance, "round-robin"))[0] == pytest.approx([2000, 2000], rel=1e-5)


def test_rules_without_a_plan() -> None:
    """What only the rule rules out is not blamed on the instance."""
    instance = go.load(ROOT / "instances" / "placement" / "quick.json")
    wishes = ("nearest", "full-load")
    solution = follow(instance, Ruled(instance, *wishes), "naive", Settings())
    assert solution.status == Status.INFEASIBLE
    assert solution.report["explanation"] == [
        "the instance has plans, but none by the rules of naive"
    ]
    none = two_sites(gpus={"axes": [], "values": 1.0})
    solution = go.solve(none, "nearest")
    assert solution.status == Status.INFEASIBLE
    assert any("GPUs" in line for line in solution.report["explanation"])


def test_a_rule_that_runs_out_of_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the least that the rule asks for there is no plan under its name."""
    minimise = ruling._minimise

    def stopped(*given: Any) -> Any:
        return replace(minimise(*given), termination=Termination.LIMIT, message="out of time")

    monkeypatch.setattr(ruling, "_minimise", stopped)
    solution = go.solve(two_sites(), "nearest")
    assert solution.status == Status.LIMIT
    assert not solution.decision
    assert "not followed to its end: out of time" in solution.report["message"]


def test_unknown_methods_are_refused() -> None:
    """The message lists what there is."""
    with pytest.raises(ModelError, match="unknown method 'random'; known are exact, nearest"):
        go.solve(two_sites(), "random")
    assert list(methods_of("placement")) == ["exact", *RULES]
