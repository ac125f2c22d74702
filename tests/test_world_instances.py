"""The committed instances of the size of the world: sizes, provenance, best known values."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT
from oracles.canonical import differences, of_arrays, of_pyomo

import greenopt as go
from greenopt.io import to_model
from greenopt.problems.placement.eligibility import services
from greenopt.problems.placement.formulation import formulate
from greenopt.problems.placement.instance import PlacementInstance

FOLDER = ROOT / "instances" / "placement-world"
KNOWN = json.loads((FOLDER / "best_known.json").read_text())
LICENCES = (ROOT / "instances" / "LICENSE.md").read_text()
SIZES = {
    "world-day": (96, 15, 129_600),
    "world-day-budgets": (96, 15, 129_600),
    "world-day-30-budgets": (96, 30, 259_200),
    "world-day-integer": (96, 15, 129_600),
    "world-day-deferrable": (96, 15, 129_600),
    "world-day-equity": (96, 15, 129_600),
    "world-week": (672, 30, 1_814_400),
    "world-week-budgets": (672, 30, 1_814_400),
}
"""Periods, origins and flow columns of the instances in which everyone may go everywhere."""
ALL = (*SIZES, "world-day-residency")
BUDGETS = ("carbon_kg", "water_l", "ttft_mean_s")


@cache
def world(name: str) -> PlacementInstance:
    """A committed instance."""
    return PlacementInstance.read(FOLDER / f"{name}.json.gz")


def test_every_file_is_listed() -> None:
    """The folder holds these instances, a best known value for each, and none above 1.5 MB."""
    files: dict[str, Path] = {p.name.removesuffix(".json.gz"): p for p in FOLDER.glob("*.json.gz")}
    assert set(files) == set(ALL) == set(KNOWN)
    assert max(path.stat().st_size for path in files.values()) < 1.5e6


@pytest.mark.parametrize("name", ALL)
def test_sources_licences_and_rules_are_stated(name: str) -> None:
    """Sources and licences stand in the licence file; the rules name what a reader must know."""
    provenance = world(name).provenance
    assert provenance.data_licence in LICENCES
    for source in provenance.sources:
        assert source.licence in LICENCES, source.licence
        assert source.name in LICENCES, source.name
    rules = " ".join(provenance.rules)
    for word in ("shares of the origins", "local time", "held over", "Utilisation is", "GPUs"):
        assert word in rules, word
    for word in ("Electricity Maps", "Azure's published medians", "London's and Frankfurt's"):
        assert word in rules, word


@pytest.mark.parametrize("name", SIZES)
def test_sizes_are_those_promised(name: str) -> None:
    """As many periods, origins and flow columns as the documentation says, all in one group."""
    instance = world(name)
    periods, origins, flows = SIZES[name]
    assert instance.demand_requests.shape == (periods, origins, 2)
    assert (len(instance.sites), len(instance.models), len(instance.modes)) == (15, 2, 3)
    for one in services(instance):
        assert one.eligible.all()
        assert one.n_groups == 1
    if periods == 96:
        assert formulate(instance).model.columns["flow"].size == flows
    else:
        assert np.prod((periods, origins, 2, 15, 3)) == flows


def test_residency_keeps_requests_in_their_jurisdiction() -> None:
    """Origins of a group reach its sites only, others all; the objective is world-day's."""
    instance, free = world("world-day-residency"), world("world-day")
    assert instance.reachable is not None
    reach = instance.reachable[0, :, 0, :, 0]
    allowed = {
        origin: {site for j, site in enumerate(instance.sites) if reach[i, j]}
        for i, origin in enumerate(instance.origins)
    }
    europe = {"London", "Paris", "Frankfurt"}
    assert all(allowed[origin] == europe for origin in europe)
    assert allowed["Mumbai"] == {"Mumbai"}
    assert allowed["Sydney"] == allowed["Melbourne"] == {"Sydney", "Melbourne"}
    assert allowed["Virginia"] == set(instance.sites)
    assert instance.objective == free.objective
    assert (instance.demand_requests == free.demand_requests).all()


def test_kinds_differ_in_what_they_are_named_after() -> None:
    """Whole instances with an idle level, a deferral limit, largest site totals, budgets."""
    whole = world("world-day-integer")
    assert (whole.instance_counts, whole.load_rule) == ("integer", "exact")
    assert whole.hold_periods == (4,) * 24
    for profile in whole.profiles:
        idle, lowest = profile.levels[:2]
        assert idle.requests_per_s == 0.0
        assert 0 < idle.power_w < lowest.power_w
    limits = {k.model: k.deferral_limit_s for k in world("world-day-deferrable").classes}
    assert limits == {"gemma-2-27b": None, "gemma-2-9b": 6 * 3600.0}
    terms = {t.metric: t.over_sites for t in world("world-day-equity").objective[0].terms}
    assert terms == {"cost_usd": "sum", "water_l": "max", "carbon_kg": "max"}
    for name in ALL:
        budgets = tuple(budget.metric for budget in world(name).budgets)
        assert budgets == (BUDGETS if name.endswith("budgets") else ())


@pytest.mark.parametrize("name", ALL)
def test_hourly_series_are_held_over_quarter_hours(name: str) -> None:
    """Four quarter-hours of an hour are alike; every figure has 6 significant digits at most."""
    instance = world(name)
    assert set(instance.periods.duration_s) == {900.0}
    for field in ("carbon_g_per_kwh", "price_usd_per_mwh", "wue_l_per_kwh"):
        values = getattr(instance, field)
        assert (values.reshape(-1, 4, 15) == values[::4, None]).all()
        assert len(np.unique(values)) > 100
        assert (values == [[float(f"{v:.6g}") for v in row] for row in values]).all()
    wet = dict(zip(instance.sites, instance.wue_l_per_kwh.mean(axis=0), strict=True))
    low, high = sorted((wet["London"], wet["Frankfurt"]))
    assert low < wet["Paris"] < high


def test_requests_of_a_profile_are_homogeneous_and_queue() -> None:
    """One class per model; its mean prefill is the service time, and no queue overflows."""
    instance = world("world-day")
    assert sorted(k.model for k in instance.classes) == sorted(n.name for n in instance.models)
    for profile in instance.profiles:
        (k,) = [k for k in instance.classes if k.model == profile.model]
        assert profile.queue is not None
        curve = np.interp(
            k.prompt_tokens.values, profile.prefill_tokens, profile.levels[0].prefill_s
        )
        own_s = profile.queue.service_s * k.work_per_request[profile.mode]
        assert own_s == pytest.approx(float(curve.mean()), rel=1e-5)
        assert profile.queue.service_cv2 == pytest.approx(curve.var() / curve.mean() ** 2, rel=1e-4)
        assert profile.levels[-1].requests_per_s * profile.queue.service_s < 1


@pytest.mark.parametrize("name", ["world-day", "world-day-residency", "world-day-budgets"])
def test_best_known_value_is_reached_and_proved(name: str) -> None:
    """The solver reaches the recorded optimum and certify proves it; every budget has a price."""
    instance, best = world(name), KNOWN[name]
    assert best["sha256"] == instance.sha256
    solution = go.solve(instance)
    assert solution.status == best["status"] == go.Status.OPTIMAL
    assert solution.objective == pytest.approx(best["objective"], rel=1e-7)
    assert go.check(instance, solution).ok
    assert go.certify(instance, solution).optimal
    for budget in instance.budgets:
        value = solution.metrics[budget.metric]
        assert value == pytest.approx(budget.limit.values.item(), rel=1e-6)
        assert float(solution.marginals[f"budget.{budget.name}"].dense()) < 0


@pytest.mark.parametrize("name", ALL)
def test_best_known_values_are_bounds(name: str) -> None:
    """Every recorded bound is below its optimum, by no more than the gap that is stated."""
    best = KNOWN[name]
    assert best["sha256"] == world(name).sha256
    gap = (best["objective"] - best["bound"]) / best["objective"]
    assert -1e-9 <= gap <= (5e-3 if name == "world-day-integer" else 1e-9)


def reduced(instance: PlacementInstance) -> PlacementInstance:
    """Four quarter-hours at noon, three origins and four sites of an instance."""
    t, o, s = np.arange(48, 52), [0, 5, 8], [0, 4, 6, 8]
    masked = instance.reachable is not None
    names = [instance.origins[i] for i in o] + [instance.sites[i] for i in s]
    by_site = ("carbon_g_per_kwh", "price_usd_per_mwh", "pue", "wue_l_per_kwh", "ewif_l_per_kwh")
    return instance.replace(
        periods={
            "start": [instance.periods.start[i] for i in t],
            "duration_s": [instance.periods.duration_s[i] for i in t],
        },
        origins=[instance.origins[i] for i in o],
        sites=[instance.sites[i] for i in s],
        demand_requests=instance.demand_requests[np.ix_(t, o)],
        gpus=instance.gpus[np.ix_(t, s)],
        cycles_of_concentration=instance.cycles_of_concentration[s],
        rtt_s=instance.rtt_s[np.ix_(o, s)],
        last_mile_s=instance.last_mile_s[o],
        egress_usd_per_gb=instance.egress_usd_per_gb[np.ix_(o, s)],
        reachable=instance.reachable[np.ix_(t, o)][:, :, :, s] if masked else None,
        hold_periods=None if instance.hold_periods is None else [4],
        locations={name: at for name, at in (instance.locations or {}).items() if name in names},
        **{field: getattr(instance, field)[np.ix_(t, s)] for field in by_site},
    )


@pytest.mark.parametrize("name", [name for name in ALL if "day" in name])
def test_pyomo_states_the_same_of_a_reduced_version(name: str) -> None:
    """Four periods, three origins and four sites: the same matrix as Pyomo's, and a proved plan."""
    small = reduced(world(name))
    assert differences(of_arrays(to_model(small), 0), of_pyomo(go.to_pyomo(small))) == []
    solution = go.solve(small, gap=5e-3 if name.endswith("integer") else 1e-6)
    assert solution.status == go.Status.OPTIMAL
    assert go.check(small, solution).ok
    assert go.certify(small, solution).ok
