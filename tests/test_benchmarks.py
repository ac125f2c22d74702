"""Benchmarks of placement: their pieces by hand, and what must hold of the recorded runs."""

from __future__ import annotations

import json
import math
import sys
from functools import cache
from itertools import permutations, product
from typing import Any

import numpy as np
import pytest
from conftest import ROOT, quick_path

import greenopt as go
from greenopt.labelled import LabelledArray
from greenopt.problems.placement.check import evaluate

sys.path.append(str(ROOT / "benchmarks"))
sys.path.append(str(ROOT / "docs" / "_ext"))

import aggregating
import placement_days
import placement_sensitivity

RESULTS = ROOT / "benchmarks" / "results"
TOLERANCE = 1e-6


@pytest.fixture(scope="module")
def quick() -> Any:
    """The quick instance."""
    return go.load(quick_path())


@pytest.fixture(scope="module")
def plan(quick: Any) -> go.Solution:
    """Its optimum."""
    return go.solve(quick)


@cache
def recorded(name: str) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """A record and its runs."""
    return aggregating.read(RESULTS / f"{name}.json")


@cache
def cells() -> dict[tuple[Any, ...], dict[str, Any]]:
    """Recorded days: runs by method of every instance."""
    found: dict[tuple[Any, ...], dict[str, Any]] = {}
    for run in recorded("placement_days")[1]:
        key = (run["date"], run["utilisation"], run["ewif"], run["step_min"])
        assert run["method"] not in found.setdefault(key, {})
        found[key][run["method"]] = run
    return found


# Pieces


def test_shapley_by_hand() -> None:
    """Two players: each has the mean of what it adds first and second."""
    worth = {frozenset(): 1.0, frozenset("a"): 2.0, frozenset("b"): 3.0, frozenset("ab"): 6.0}
    assert aggregating.shapley(worth) == {"a": 2.0, "b": 3.0}


def test_shapley_is_the_mean_over_orders() -> None:
    """The weights of sets are those of going through every order of the players."""
    rng = np.random.default_rng(0)
    sets = [frozenset(n for n, on in zip("abc", bits, strict=True) if on)
            for bits in product((False, True), repeat=3)]  # fmt: skip
    worth = {players: float(rng.normal()) for players in sets}
    expected = dict.fromkeys("abc", 0.0)
    for order in permutations("abc"):
        for i, player in enumerate(order):
            before = frozenset(order[:i])
            expected[player] += (worth[before | {player}] - worth[before]) / 6
    assert aggregating.shapley(worth) == pytest.approx(expected)


def test_spread_and_percent() -> None:
    """Mean, least, largest; a change against a reference."""
    assert aggregating.spread([3.0, 1.0, 2.0]) == (2.0, 1.0, 3.0)
    assert aggregating.percent(90.0, 120.0) == pytest.approx(-25.0)


def test_mixes_are_every_set_of_naive_choices() -> None:
    """With the optimum and the rule of that name, each of the eight plans is there once."""
    found = {frozenset(mix) for mix in placement_days.mixes()} - {frozenset(["full-load"])}
    found |= {frozenset(), frozenset(["nearest"])}
    parts = placement_days.PARTS
    assert len(found) == len(placement_days.mixes()) + 1 == 2 ** len(parts)
    assert set().union(*found) == set(parts)


def test_optima_weigh_what_they_say(quick: Any) -> None:
    """Weights of a leaning add up to one; the least of a metric comes before the balance."""
    every = placement_days.optima(quick)
    (leaning,) = every["mostly water"].objective
    assert {t.metric: t.weight for t in leaning.terms}["water_l"] == placement_days.MOSTLY
    assert sum(t.weight for t in leaning.terms) == pytest.approx(1.0)
    first, second = every["TTFT first"].objective
    assert [t.metric for t in first.terms] == ["ttft_mean_s"]
    assert second.terms == quick.objective[0].terms


def test_balanced_value_is_the_objective(quick: Any, plan: go.Solution) -> None:
    """Recomputed from metrics."""
    assert placement_days.balanced_value(quick, plan.metrics) == pytest.approx(plan.objective)


def test_record_has_a_line_for_each_run() -> None:
    """The text is JSON with the runs as given."""
    rows = [["a", 1.5, None], ["b", 2.0, True]]
    written = placement_days.text({"columns": ["x", "y", "z"]}, rows)
    assert json.loads(written) == {"columns": ["x", "y", "z"], "runs": rows}
    assert sum(line.lstrip().startswith('["') for line in written.splitlines()) == len(rows)


def test_carried_plan_scales_with_demand(quick: Any, plan: go.Solution) -> None:
    """A plan scaled to less demand, by origin, is feasible, and half of it is worth half."""
    placement = placement_sensitivity
    half = quick.replace(demand_requests=quick.demand_requests / 2)
    found = evaluate(half, placement.carried(plan, quick, half))
    assert not found.violations
    assert found.metrics["water_l"] == pytest.approx(plan.metrics["water_l"] / 2)
    assert found.metrics["ttft_mean_s"] == pytest.approx(plan.metrics["ttft_mean_s"])
    fewer = quick.demand_requests * np.linspace(0.0, 1.0, len(quick.origins))[:, None]
    thinned = quick.replace(demand_requests=fewer)
    assert not evaluate(thinned, placement.carried(plan, quick, thinned)).violations


def test_carried_plan_may_need_more_gpus_than_there_are(quick: Any, plan: go.Solution) -> None:
    """Ten times the demand does not fit, and nothing else is wrong."""
    more = quick.replace(demand_requests=10 * quick.demand_requests)
    found = evaluate(more, placement_sensitivity.carried(plan, quick, more))
    assert {violation.requirement for violation in found.violations} == {"GPUs"}


def flow(requests: Any) -> LabelledArray:
    """Requests by period, origin and site."""
    sizes = dict(zip(("period", "origin", "site"), np.shape(requests), strict=True))
    labels = {axis: tuple(map(str, range(n))) for axis, n in sizes.items()}
    return LabelledArray.from_dense("flow", "requests", labels, requests)


def test_moved_by_hand() -> None:
    """A quarter of three quarters of the requests and nothing of the rest, whatever the totals."""
    before, after = flow([[[30.0, 0.0], [10.0, 0.0]]]), flow([[[15.0, 5.0], [1.0, 0.0]]])
    assert placement_sensitivity.moved(before, after) == pytest.approx(0.75 * 0.25)
    assert placement_sensitivity.moved(before, before) == 0.0


def test_marginal_surrogate(quick: Any) -> None:
    """Coal stands where the mean is above the level, gas elsewhere."""
    level = float(np.median(quick.carbon_g_per_kwh.mean(axis=0)))
    made = quick.replace(**placement_sensitivity.marginal(quick, level))
    coal = quick.carbon_g_per_kwh.mean(axis=0) > level
    assert 0 < coal.sum() < len(coal)
    assert (made.carbon_g_per_kwh[:, coal] == placement_sensitivity.COAL_G_PER_KWH).all()
    assert (made.carbon_g_per_kwh[:, ~coal] == placement_sensitivity.GAS_G_PER_KWH).all()
    assert made.carbon_signal.kind == "marginal"


def test_changed_fleets_and_origins_keep_totals(quick: Any) -> None:
    """As many GPUs at each site; as many requests of each class, of each origin the same."""
    placement = placement_sensitivity
    fewer = quick.replace(**placement.with_h100(quick, 0.5))
    assert np.allclose(fewer.gpus.sum(axis=2), quick.gpus.sum(axis=2))
    assert np.allclose(fewer.gpus[:, :, 0], quick.gpus[:, :, 0] / 2)
    equal = quick.replace(**placement.with_equal_origins(quick)).demand_requests.sum(axis=0)
    assert np.allclose(equal.sum(axis=0), quick.demand_requests.sum(axis=(0, 1)))
    assert np.allclose(equal, equal[0])


def test_held_worths_know_the_demand(quick: Any, plan: go.Solution) -> None:
    """With half the requests, half the plan has the same objective; own scales too."""
    half = quick.replace(demand_requests=quick.demand_requests / 2)
    decision = placement_sensitivity.carried(plan, quick, half)
    for instance in placement_sensitivity.with_scales(half, quick).values():
        assert evaluate(instance, decision).stages[-1] == pytest.approx(plan.objective, rel=1e-5)


# Recorded runs


def test_days_are_the_whole_grid() -> None:
    """Ten dates or more, three utilisations, two sets of factors, every method; one day twice."""
    record, _ = recorded("placement_days")
    hourly = [key for key in cells() if key[3] == 60]
    dates, utilisations, ewifs = ({key[i] for key in hourly} for i in range(3))
    assert len(dates) >= 10
    assert (len(utilisations), len(ewifs)) == (3, 2)
    assert len(hourly) == len(dates) * 6
    methods = {*record["rules"], *record["optima"]}
    mixes = {", ".join(mix) for mix in placement_days.mixes()}
    assert all(set(cells()[key]) == methods | mixes for key in hourly)
    (fine,) = set(cells()) - set(hourly)
    assert set(cells()[fine]) == methods
    assert (*fine[:3], 60) in hourly
    assert record["rules"] == [*placement_days.RULES]


def test_days_are_checked_and_proved() -> None:
    """Every plan passed the check, optima are proved, and every rule has a proved gap."""
    record, runs = recorded("placement_days")
    assert all(run["checked"] for run in runs)
    for run in runs:
        if run["method"] in record["optima"]:
            assert run["status"] == "optimal"
            assert run["optimal_proved"]
        if run["method"] in record["rules"]:
            assert run["bound_proved"]
            expected = (run["objective"] - run["bound"]) / run["objective"]
            assert run["gap"] == pytest.approx(expected, abs=1e-8)
            assert run["gap"] >= 0


def test_no_day_beats_the_optimum() -> None:
    """The balanced optimum has the least objective, and the least of a metric is the least."""
    record, _ = recorded("placement_days")
    for found in cells().values():
        best = found["balanced"]
        assert best["balanced"] == pytest.approx(best["objective"])
        served = [run for name, run in found.items() if "held" not in name]  # these stand by
        for run in served:
            assert run["requests"] == pytest.approx(best["requests"])
            assert run["balanced"] >= best["bound"] * (1 - TOLERANCE)
            for metric, short in record["metrics"].items():
                assert run[metric] >= found[f"{short} first"][metric] * (1 - 2 * TOLERANCE)


def test_days_parts_add_up_to_the_saving() -> None:
    """Shapley values of placement, sizing and mode, of every day and metric."""
    record, _ = recorded("placement_days")
    naive = ", ".join(record["parts"])
    for found in (runs for key, runs in cells().items() if key[3] == 60):
        for quantity in (*record["metrics"], "balanced"):
            parts = aggregating.saved_by(found, record["parts"], quantity)
            assert set(parts) == {"placement", "sizing", "mode"}
            saving = found[naive][quantity] - found["balanced"][quantity]
            size = abs(found[naive][quantity])
            assert math.fsum(parts.values()) == pytest.approx(saving, abs=1e-9 * size)


def test_sensitivity_is_checked_and_proved() -> None:
    """Optima are proved on every day, and no plan of the base is better than they are."""
    record, runs = recorded("placement_sensitivity")
    assert len(record["dates"]) >= 3
    cases = {(r["assumption"], r["changed"], r["scales"]) for r in runs}
    assert len(runs) == len(cases) * len(record["dates"])
    for run in runs:
        assert run["checked"]
        assert run["optimal_proved"]
        if run["assumption"] == "base":
            continue
        assert 0 <= run["moved"] <= 1
        if run["kept_feasible"]:
            assert run["kept_objective"] >= run["objective"] * (1 - TOLERANCE)
        else:
            assert run["kept_violation"].startswith("GPUs at ")


def test_sensitivity_has_a_control() -> None:
    """Another algorithm finds the same objective, and moves fewer requests than any signal."""
    _, runs = recorded("placement_sensitivity")
    base = {run["date"]: run["objective"] for run in runs if run["assumption"] == "base"}
    control = [run for run in runs if run["assumption"].startswith("none")]
    assert all(run["objective"] == pytest.approx(base[run["date"]]) for run in control)
    signals = [run["moved"] for run in runs if run["assumption"] in ("EWIF set", "carbon signal")]
    assert max(run["moved"] for run in control) < min(signals) / 5


# Pages


def test_pages_say_what_was_recorded() -> None:
    """Means, extremes and changes of a table, computed another way."""
    pytest.importorskip("sphinx")
    import compared

    days = compared.Days(*recorded("placement_days"))
    text = compared.methods_table(days, 0.5, "waterwise")
    (row,) = [line for line in text.splitlines() if line.startswith("| optimum, balanced ")]
    found = [runs for key, runs in cells().items() if key[1:] == (0.5, "waterwise", 60)]
    carbon = np.array(
        [[day[name]["carbon_kg"] for name in ("balanced", "nearest")] for day in found]
    )
    change = 100 * (carbon[:, 0] - carbon[:, 1]) / carbon[:, 1]
    cell = row.split(" | ")[1]
    assert cell.startswith(f"{carbon[:, 0].mean():,.0f} ({carbon[:, 0].min():,.0f} to ")
    assert cell.endswith(f"{change.mean():+.1f}% ({change.min():+.1f} to {change.max():+.1f})")
