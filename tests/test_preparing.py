"""Solving again after updates: always what a fresh solve gives, in place where that can be."""

from __future__ import annotations

import copy
import gc
import os
import resource
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from oracles import tiny as oracle
from oracles.tiny import CORE_FEATURES, FEATURES, random_document

import greenopt as go
from greenopt.errors import InputError, ModelError, SolverError
from greenopt.io import to_model
from greenopt.model import Block, Model
from greenopt.preparing import structural_difference

QUICK = Path(__file__).parent.parent / "instances" / "placement" / "quick.json"
MIXES = st.sets(st.sampled_from(FEATURES), max_size=6)
PROPERTY = settings(
    max_examples=60, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow]
)
FIRST = "this is the first solve"
WHOLE = "whole numbers are searched for anew, starting from the last plan"
WEIGHED = [
    {"terms": [{"metric": "cost_usd", "weight": 1.0}, {"metric": "carbon_kg", "weight": 5.0}]}
]


@pytest.fixture(scope="module")
def quick() -> Any:
    """The quick instance."""
    return go.load(QUICK)


def tiny(**overrides: Any) -> Any:
    """The hand-made instance."""
    return go.PlacementInstance.parse(copy.deepcopy(oracle.tiny(**overrides)))


def agree(prepared: Any, solution: go.Solution) -> None:
    """Assert that a solution checks, and is what a fresh solve of its instance gives."""
    fresh = go.solve(prepared.instance)
    assert solution.status == fresh.status
    assert solution.instance_sha256 == prepared.instance.sha256
    if fresh.objective is None:
        assert solution.objective is None
        return
    assert solution.objective == pytest.approx(fresh.objective, rel=1e-5, abs=1e-7)
    assert len(solution.stages) == len(fresh.stages)
    for ours, theirs in zip(solution.stages, fresh.stages, strict=True):
        claimed = {ours.bound_source, theirs.bound_source} == {"tree", "lp"}  # a tie in a search
        assert claimed or ours.bound_source == theirs.bound_source
        if np.isfinite(theirs.bound):
            assert ours.bound == pytest.approx(theirs.bound, rel=1e-5, abs=1e-7)
    report = go.check(prepared.instance, solution)
    assert report.ok, report.lines()


def holds_the_model(prepared: Any, stage: int = 0) -> bool:
    """Whether what HiGHS has of a stage is, to the last bit, the model of the instance now."""
    model: Model = to_model(prepared.instance)
    found = 0
    for (number, how), kept in prepared._sessions._kept.items():
        if number != stage or ("relax", False) not in how or ("spread", 1e9) in how:
            continue
        scaled, host = kept.session._task.scaled, kept.session._host
        assert host is not None
        assert not host.pending
        lp = host._program._highs.getLp()
        pairs = [
            (lp.col_cost_, model.stages[stage].c * scaled.column * scaled.objective),
            (lp.col_lower_, model.column_lower / scaled.column),
            (lp.col_upper_, model.column_upper / scaled.column),
            (lp.row_lower_, model.row_lower * scaled.row),
            (lp.row_upper_, model.row_upper * scaled.row),
        ]
        for theirs, ours in pairs:
            np.testing.assert_array_equal(np.array(theirs), ours)
        matrix = model.matrix.tocsc()
        matrix.sort_indices()
        theirs = scaled.matrix.copy()
        theirs.sort_indices()
        columns = np.repeat(np.arange(matrix.shape[1]), np.diff(matrix.indptr))
        np.testing.assert_array_equal(
            theirs.data, matrix.data * scaled.row[matrix.indices] * scaled.column[columns]
        )
        np.testing.assert_array_equal(np.array(lp.a_matrix_.value_), scaled.matrix.data)
        found += 1
    return found > 0


# In place


def grown(factor: float, *fields: str) -> Callable[[Any], dict[str, Any]]:
    """Make an update that multiplies fields, a little differently from place to place."""

    def changes(instance: Any) -> dict[str, Any]:
        rng = np.random.default_rng(0)
        return {
            name: getattr(instance, name)
            * (1 + (factor - 1) * rng.uniform(0.5, 1.0, getattr(instance, name).shape))
            for name in fields
        }

    return changes


def given_(**changes: Any) -> Callable[[Any], dict[str, Any]]:
    """Make an update of given values."""
    return lambda _: changes


IN_PLACE: dict[str, tuple[dict[str, Any], Callable[[Any], dict[str, Any]]]] = {
    "demand": ({}, lambda i: {"demand": i.demand_requests * 0.9}),
    "more demand": ({}, grown(1.05, "demand_requests")),
    "gpus": ({}, grown(0.97, "gpus")),
    "carbon": ({}, grown(2.0, "carbon_g_per_kwh")),
    "price": ({}, grown(3.0, "price_usd_per_mwh")),
    "negative price": ({}, lambda i: {"price_usd_per_mwh": -i.price_usd_per_mwh}),
    "wue": ({"objective": [{"terms": [{"metric": "water_l", "weight": 1.0}]}]},
            grown(0.5, "wue_l_per_kwh", "cycles_of_concentration")),
    "cycles": ({"objective": [{"terms": [{"metric": "water_consumption_l", "weight": 1.0}]}]},
               lambda i: {"cycles_of_concentration": i.cycles_of_concentration + 1}),
    "ewif": ({}, grown(0.5, "ewif_l_per_kwh")),
    "egress": ({}, grown(5.0, "egress_usd_per_gb")),
    "GPU price": ({}, grown(2.0, "gpu_usd_per_hour")),
    "no GPU price": ({}, given_(gpu_usd_per_hour=None)),
    "PUE without limits on power": ({}, grown(1.1, "pue")),
    "demand charge": ({"demand_charge_usd_per_kw": [3.0, 4.0]},
                      given_(demand_charge_usd_per_kw=[5.0, 1.0])),
    "PUE in the rows of a demand charge": ({"demand_charge_usd_per_kw": [3.0, 4.0]},
                                           grown(1.1, "pue")),
    "power caps": ({"facility_power_cap_w": {"axes": ["site"], "values": [25e3, 30e3]}},
                   given_(facility_power_cap_w={"axes": ["site"], "values": [23e3, 29e3]})),
    "PUE in the rows of power caps": (
        {"facility_power_cap_w": {"axes": ["site"], "values": [25e3, 30e3]}}, grown(1.05, "pue")),
    "limit of a budget": (
        {"budgets": [{"name": "b", "metric": "cost_usd", "limit": {"axes": [], "values": 1e4}}]},
        given_(budgets=[
            {"name": "b", "metric": "cost_usd", "limit": {"axes": [], "values": 9e3}}])),
    "carbon in the rows of a budget": (
        {"budgets": [{"name": "b", "metric": "carbon_kg", "limit": {"axes": [], "values": 90.0}}],
         "objective": [{"terms": [{"metric": "cost_usd", "weight": 1.0}]}]},
        grown(1.05, "carbon_g_per_kwh")),
    "limit of a mean": (
        {"budgets": [{"name": "b", "metric": "ttft_mean_s", "limit": {"axes": [], "values": 0.9}}]},
        given_(budgets=[
            {"name": "b", "metric": "ttft_mean_s", "limit": {"axes": [], "values": 0.7}}])),
    "weights": ({}, given_(objective=WEIGHED)),
    "site maximum": (
        {"objective": [{"terms": [{"metric": "carbon_kg", "weight": 1.0, "over_sites": "max"}]}]},
        grown(1.3, "carbon_g_per_kwh")),
    "name": ({}, given_(name="another")),
    "times": ({}, given_(periods={"start": ["2024-01-01T00:00Z", "2024-01-01T01:00Z"],
                                  "duration_s": [3600.0, 1800.0]})),
    "labels": ({}, given_(sites=["one", "two"])),
    "nothing": ({}, given_()),
}  # fmt: skip
"""Overrides of the hand-made document, and an update that leaves structure alone."""


@pytest.mark.parametrize("kind", IN_PLACE)
def test_numbers_change_in_place(kind: str) -> None:
    """Costs, sides, bounds and coefficients go to the solver's model, to the last bit."""
    overrides, change = IN_PLACE[kind]
    with go.prepare(tiny(**overrides)) as prepared:
        first = prepared.solve()
        assert first.report["in_place"] is False
        assert first.report["rebuild_reason"] == FIRST
        agree(prepared, first)
        prepared.update(**change(prepared.instance))
        second = prepared.solve()
        assert second.report["in_place"] is True, second.report["rebuild_reason"]
        assert second.report["rebuild_reason"] is None
        agree(prepared, second)
        assert holds_the_model(prepared)
        before = tiny(**overrides)
        prepared.update(**{name: getattr(before, name) for name in before.model_fields_set})
        third = prepared.solve()
        assert third.objective == pytest.approx(first.objective, rel=1e-7)


@pytest.mark.parametrize("fields", [("demand_requests",), ("carbon_g_per_kwh",), ("gpus",),
                                    ("demand_requests", "price_usd_per_mwh")])  # fmt: skip
def test_quick_in_place(quick: Any, fields: tuple[str, ...]) -> None:
    """The quick instance, updated three times in a row."""
    rng = np.random.default_rng(1)
    with go.prepare(quick) as prepared:
        prepared.solve()
        for _ in range(3):
            prepared.update(
                **{n: (a := getattr(quick, n)) * rng.uniform(0.97, 1.0, a.shape) for n in fields}
            )
            solution = prepared.solve()
            assert solution.report["in_place"] is True
            agree(prepared, solution)
            assert holds_the_model(prepared)
            assert go.certify(prepared.instance, solution).ok


@pytest.mark.parametrize(("feature", "field"), [("fixed", "fixed_instances"),
                                               ("startup", "initial_instances"),
                                               ("min_up", "initial_instances"),
                                               ("instance_limits", "instance_limits"),
                                               ("deferral", "demand_requests")])  # fmt: skip
def test_numbers_of_instances_in_place(feature: str, field: str) -> None:
    """Given numbers of instances, limits on them, and demand that may wait."""
    updated = 0
    for seed in range(12):
        document = random_document(np.random.default_rng(seed), **{feature: True})
        instance = go.PlacementInstance.parse(document)
        if to_model(instance).is_integer:
            continue
        with go.prepare(instance) as prepared:
            if prepared.solve().status != "optimal":
                continue
            if field == "instance_limits":
                changed = [
                    {"name": one.name, "limit": {"axes": list(one.limit.axes),
                                                 "values": _with_nulls(one.limit.values * 1.5)}}
                    for one in instance.instance_limits
                ]  # fmt: skip
                prepared.update(instance_limits=changed)
            else:
                prepared.update(**{field: getattr(instance, field) * 0.75})
            solution = prepared.solve()
            assert solution.report["in_place"] is True, solution.report["rebuild_reason"]
            agree(prepared, solution)
            assert holds_the_model(prepared)
            updated += 1
    assert updated >= 3


def _with_nulls(array: Any) -> Any:
    boxed = np.array(array, dtype=object)
    boxed[np.isinf(array)] = None
    return boxed.tolist()


def test_zero_demand_becomes_positive() -> None:
    """A column without demand is there already."""
    instance = tiny()
    demand = instance.demand_requests.copy()
    none = demand.copy()
    none[0, 1] = none[:, :, 2] = 0.0
    with go.prepare(instance.replace(demand_requests=none)) as prepared:
        agree(prepared, prepared.solve())
        prepared.update(demand=demand)
        solution = prepared.solve()
        assert solution.report["in_place"] is True
        agree(prepared, solution)
        prepared.update(demand=none)
        agree(prepared, prepared.solve())


def test_forms_of_updates() -> None:
    """NumPy arrays, lists, subsets of axes, and frames."""
    instance = tiny()
    sites = list(instance.sites)
    frame = pd.DataFrame({"site": sites, "carbon_g_per_kwh": [100.0, 200.0]})
    forms: list[Any] = [
        np.array([[100.0, 200.0], [100.0, 200.0]]),
        np.array([[100, 200], [100, 200]]),
        [[100.0, 200.0], [100.0, 200.0]],
        {"axes": ["site"], "values": [100.0, 200.0]},
        {"axes": ["site"], "values": np.array([100.0, 200.0])},
        np.broadcast_to([100.0, 200.0], (2, 2)),
        frame,
    ]
    with go.prepare(instance) as prepared:
        prepared.solve()
        values = []
        for form in forms:
            prepared.update(carbon_g_per_kwh=form)
            np.testing.assert_array_equal(
                prepared.instance.carbon_g_per_kwh, [[100.0, 200.0], [100.0, 200.0]]
            )
            values.append(prepared.solve().objective)
        assert np.ptp(values) <= 1e-9 * values[0]


def test_updates_copy_arrays() -> None:
    """What happens to an array after the update does not happen to the instance."""
    demand = tiny().demand_requests.copy()
    with go.prepare(tiny()) as prepared:
        prepared.update(demand=demand)
        demand[:] = -1.0
        assert prepared.instance.demand_requests.min() > 0
        assert not prepared.instance.demand_requests.flags.writeable


def test_several_updates_before_a_solve() -> None:
    """Updates add up."""
    with go.prepare(tiny()) as prepared:
        prepared.solve()
        prepared.update(demand=prepared.instance.demand_requests * 0.8)
        prepared.update(carbon_g_per_kwh=prepared.instance.carbon_g_per_kwh * 2)
        solution = prepared.solve()
        assert solution.report["in_place"] is True
        assert prepared.instance == tiny().replace(
            demand_requests=tiny().demand_requests * 0.8,
            carbon_g_per_kwh=tiny().carbon_g_per_kwh * 2,
        )
        agree(prepared, solution)


# Rebuilt


REBUILT: dict[str, tuple[dict[str, Any], Callable[[Any], dict[str, Any]], str]] = {
    "mask": ({}, given_(
        reachable={"axes": ["origin", "site"], "values": [[True, True], [True, False]]}),
             "reachable changed which flow columns there are"),
    "limit of a class": (
        {}, lambda i: {"classes": [{**k, "tbt_limit_s": 0.05} if k["tbt_limit_s"] else k
                                   for k in i.document()["classes"]]},
        "classes changed which flow columns there are"),
    "a type that was not there": (
        {"gpus": [[[24.0, 24.0], [24.0, 0.0]], [[24.0, 24.0], [24.0, 0.0]]]},
        lambda i: {"gpus": tiny().gpus}, "gpus changed which flow columns there are"),
    "unlimited GPUs": (
        {}, given_(gpus=[[[24.0, 24.0], [None, 32.0]], [[24.0, 24.0], [16.0, 32.0]]]),
        "gpus changed which gpus rows there are"),
    "a first budget": (
        {}, given_(budgets=[
            {"name": "b", "metric": "cost_usd", "limit": {"axes": [], "values": 1e4}}]),
        "budgets changed which budget rows there are"),
    "a maximum in the objective": (
        {}, given_(objective=[
            {"terms": [{"metric": "carbon_kg", "weight": 1.0, "over_sites": "max"}]}]),
        "objective changed which site_max columns there are"),
    "a demand charge": (
        {}, given_(demand_charge_usd_per_kw=[3.0, 4.0]),
        "demand_charge_usd_per_kw changed which peak_kw columns there are"),
    "no carbon in a budget": (
        {"budgets": [{"name": "b", "metric": "carbon_kg", "limit": {"axes": [], "values": 90.0}}]},
        lambda i: {"demand": i.demand_requests * 0.99,
                   "carbon_g_per_kwh": i.carbon_g_per_kwh * [[1.0, 0.0]]},
        "demand_requests and carbon_g_per_kwh changed which coefficients budget rows have"),
    "one period": (
        {}, lambda i: {
            "periods": {"start": ["2023-07-18T00:00Z"], "duration_s": [3600.0]},
            **{name: getattr(i, name)[:1] for name in (
                "demand_requests", "gpus", "carbon_g_per_kwh", "price_usd_per_mwh", "pue",
                "wue_l_per_kwh", "ewif_l_per_kwh")}},
        "periods, demand_requests, gpus, carbon_g_per_kwh, price_usd_per_mwh, pue, wue_l_per_kwh "
        "and ewif_l_per_kwh changed which flow columns there are"),
}  # fmt: skip
"""Overrides of the hand-made document, an update that changes structure, and the reason given."""


@pytest.mark.parametrize("kind", REBUILT)
def test_structure_is_built_anew(kind: str) -> None:
    """The reason names the fields and what they changed, and the next update is in place again."""
    overrides, change, reason = REBUILT[kind]
    with go.prepare(tiny(**overrides)) as prepared:
        prepared.solve()
        prepared.update(**change(prepared.instance))
        solution = prepared.solve()
        assert solution.report["in_place"] is False
        assert solution.report["rebuild_reason"] == reason
        agree(prepared, solution)
        assert holds_the_model(prepared)
        prepared.update(demand=prepared.instance.demand_requests * 0.99)
        solution = prepared.solve()
        assert solution.report["in_place"] is True
        agree(prepared, solution)


def model_with(**changes: Any) -> Model:
    """The hand-made model, with some parts replaced."""
    model = to_model(tiny())
    return Model(**{**model.__dict__, **changes})


def test_structural_differences() -> None:
    """Each kind of difference is told apart, and numbers are none."""
    model = to_model(tiny())
    assert structural_difference(model, model) is None
    assert structural_difference(model, to_model(tiny())) is None
    numbers = model_with(row_upper=model.row_upper * 2, column_lower=model.column_lower - 1)
    assert structural_difference(model, numbers) is None
    doubled = model_with(matrix=model.matrix * 2.0)
    assert structural_difference(model, doubled) is None
    whole = model_with(integer=~model.integer)
    assert structural_difference(model, whole) == "which columns are whole"
    more = model_with(rows={**model.rows, "x": Block("x", {}, len(model.row_lower), 1)})
    assert structural_difference(model, more) == "which x rows there are"
    assert structural_difference(more, model) == "which x rows there are"
    fewer = model.matrix.copy()
    fewer.data[0] = 0.0
    fewer.eliminate_zeros()
    found = structural_difference(model, model_with(matrix=fewer))
    assert found == "which coefficients demand rows have"


# Any sequence


def _random_update(rng: np.random.Generator, instance: Any) -> dict[str, Any]:
    """Draw an update of one to three fields; some change structure, some are refused."""

    def scaled(name: str, low: float = 0.7, high: float = 1.05) -> dict[str, Any]:
        array = getattr(instance, name)
        return {} if array is None else {name: array * rng.uniform(low, high, array.shape)}

    def reweighted() -> dict[str, Any]:
        stages = instance.document()["objective"]
        for stage in stages:
            for term in stage["terms"]:
                term["weight"] *= float(rng.choice([0.5, 1.0, 2.0]))
        return {"objective": stages}

    def budgets() -> dict[str, Any]:
        found = instance.document()["budgets"]
        for one in found:
            values = np.array(one["limit"]["values"], dtype=float) * rng.uniform(0.9, 1.5)
            one["limit"]["values"] = _with_nulls(np.where(np.isnan(values), np.inf, values))
        return {"budgets": found}

    def switched() -> dict[str, Any]:
        gpus = instance.gpus.copy()
        gpus[:, rng.integers(gpus.shape[1]), rng.integers(gpus.shape[2])] = rng.choice([0.0, 50.0])
        return {"gpus": gpus}

    def emptied() -> dict[str, Any]:
        demand = instance.demand_requests.copy()
        demand[rng.random(demand.shape) < 0.3] = 0.0
        return {"demand_requests": demand}

    kinds: list[Callable[[], dict[str, Any]]] = [
        lambda: scaled("demand_requests"),
        lambda: scaled("gpus", 0.9, 1.2),
        lambda: scaled("carbon_g_per_kwh", -0.2, 2.0),
        lambda: scaled("price_usd_per_mwh", -0.2, 2.0),
        lambda: {"pue": 1 + (instance.pue - 1) * rng.uniform(0.5, 1.5, instance.pue.shape)},
        lambda: scaled("rtt_s", 0.5, 1.2),
        lambda: scaled("gpu_usd_per_hour", 0.5, 2.0),
        lambda: scaled("demand_charge_usd_per_kw", 0.5, 2.0),
        lambda: scaled("facility_power_cap_w", 0.95, 1.2),
        lambda: scaled("initial_instances", 0.5, 1.5),
        reweighted, budgets, switched, emptied,
    ]  # fmt: skip
    result: dict[str, Any] = {}
    for _ in range(int(rng.integers(1, 4))):
        result |= kinds[int(rng.integers(len(kinds)))]()
    return result


@PROPERTY
@given(seed=st.integers(0, 10_000), features=MIXES)
def test_any_sequence_of_updates(seed: int, features: set[str]) -> None:
    """After any update: what a fresh solve gives, from exactly the model of the instance."""
    rng = np.random.default_rng(seed)
    document = random_document(rng, **dict.fromkeys(sorted(features), True))
    with go.prepare(go.PlacementInstance.parse(document)) as prepared:
        agree(prepared, prepared.solve())
        for _ in range(4):
            before = prepared.instance
            changes = _random_update(rng, before)
            try:
                prepared.update(**changes)
            except InputError:
                assert prepared.instance is before
            solution = prepared.solve()
            agree(prepared, solution)
            assert solution.report["in_place"] == (solution.report["rebuild_reason"] is None)
            if solution.report["in_place"]:
                assert holds_the_model(prepared)


@pytest.mark.parametrize("feature", [None, *CORE_FEATURES])
def test_costs_are_in_place_whatever_the_features(feature: str | None) -> None:
    """Prices of energy change costs and coefficients only, in every continuous model."""
    for seed in range(4):
        switches = {feature: True} if feature else {}
        instance = go.PlacementInstance.parse(
            random_document(np.random.default_rng(seed), **switches)
        )
        with go.prepare(instance) as prepared:
            prepared.solve()
            prepared.update(price_usd_per_mwh=instance.price_usd_per_mwh * 1.1)
            solution = prepared.solve()
            whole = to_model(instance).is_integer
            assert solution.report["rebuild_reason"] == (WHOLE if whole else None)
            agree(prepared, solution)


# Refused


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"demand": [[[1.0]]]}, "$.demand_requests: has 1 entries along period, expected 2"),
        ({"demand": np.full((2, 2, 3), np.nan)}, "$.demand_requests[0][0][0]: is nan; expected a"),
        ({"demand_requests": np.full((2, 2, 3), -1.0)}, "$.demand_requests[0][0][0]: is -1.0;"),
        ({"gpus": np.full((2, 2, 2), -np.inf)}, "$.gpus[0][0][0]: is -inf; expected a finite"),
        ({"pue": {"axes": ["site"], "values": [0.5, 1.0]}}, "$.pue.values[0]: is 0.5; expected"),
        ({"pue": np.broadcast_to(0.5, (2, 2))}, "$.pue[0][0]: is 0.5; expected"),
        ({"pue": np.array([["1", "2"], ["3", "4"]])}, "$.pue[0][0]: is '1'; expected a finite"),
        ({"pue": np.ones((2, 2), dtype=bool)}, "$.pue[0][0]: is True; expected a finite"),
        ({"reachable": np.ones((2, 2, 3, 2, 2))}, "$.reachable[0][0][0][0][0]: is 1.0; expected"),
        ({"carbon": 3.0}, "$.carbon: is not a field of this format"),
        ({"demand": 1.0, "demand_requests": 1.0}, "$.demand: is short for demand_requests, which"),
        ({"budgets": [{"name": "b", "metric": "cosst_usd", "limit": {"axes": [], "values": 1}}]},
         "$.budgets[0].metric: 'cosst_usd' is not a metric; did you mean 'cost_usd'?"),
        ({"demand": np.zeros((2, 2, 3))}, "there is no demand to take a mean over"),
        ({"sites": ["only one"]}, "has 2 entries along site, expected 1"),
    ],
)  # fmt: skip
def test_refused_updates_change_nothing(changes: dict[str, Any], text: str) -> None:
    """A mistake is named with its field, and the old instance stands."""
    with go.prepare(tiny()) as prepared:
        first = prepared.solve()
        before = prepared.instance
        with pytest.raises(InputError) as refused:
            prepared.update(**changes)
        assert text in str(refused.value)
        assert str(refused.value).startswith("update: $.")
        assert prepared.instance is before
        again = prepared.solve()
        assert again.report["in_place"] is True
        assert again.objective == first.objective


def test_infinite_gpus_in_arrays() -> None:
    """Infinity in a NumPy array is the null of a file, where there is one."""
    gpus = tiny().gpus.copy()
    gpus[0, 0, 0] = np.inf
    with go.prepare(tiny()) as prepared:
        prepared.update(gpus=gpus)
        assert prepared.instance == tiny().replace(gpus=[
            [[None, 24.0], [24.0, 32.0]], [[24.0, 24.0], [16.0, 32.0]]])  # fmt: skip
        agree(prepared, prepared.solve())


def test_refused_use() -> None:
    """Not an instance, unknown solvers, senseless limits, after closing."""
    with pytest.raises(ModelError, match="expected an instance, got a dict"):
        go.prepare({})  # type: ignore[arg-type]
    with pytest.raises(SolverError, match="unknown solver 'nobody'"):
        go.prepare(tiny(), solver="nobody")
    with pytest.raises(ModelError, match="gap is -"):
        go.prepare(tiny(), gap=-1.0)
    prepared = go.prepare(tiny())
    first = prepared.solve()
    with pytest.raises(ModelError, match="time_limit is"):
        prepared.solve(time_limit=0.0)
    again = prepared.solve()
    assert again.report["in_place"] is True
    assert again.objective == first.objective
    assert repr(prepared) == f"<Prepared {prepared.instance!r}>"
    prepared.close()
    prepared.close()
    assert "closed" in repr(prepared)
    for act in (prepared.solve, prepared.update):
        with pytest.raises(SolverError, match="this prepared instance is closed"):
            act()


# Ends of solves


def test_infeasible_and_back() -> None:
    """Too much demand is explained, as by a fresh solve, and less of it is solved in place."""
    with go.prepare(tiny()) as prepared:
        first = prepared.solve()
        prepared.update(demand=tiny().demand_requests * 10)
        solution = prepared.solve()
        fresh = go.solve(prepared.instance)
        assert solution.status == fresh.status == "infeasible"
        assert solution.report["explanation"] == fresh.report["explanation"]
        assert solution.report["in_place"] is True
        prepared.update(demand=tiny().demand_requests)
        back = prepared.solve()
        assert back.report["in_place"] is True
        assert back.objective == pytest.approx(first.objective, rel=1e-9)
        agree(prepared, back)


def test_infeasible_at_first() -> None:
    """An instance that begins without a plan."""
    with go.prepare(tiny().replace(demand_requests=tiny().demand_requests * 10)) as prepared:
        assert prepared.solve().status == "infeasible"
        prepared.update(demand=tiny().demand_requests)
        solution = prepared.solve()
        assert solution.report["in_place"] is True
        agree(prepared, solution)


def test_unbounded_and_back() -> None:
    """Paid to burn energy without end; then not."""
    one = {"axes": [], "values": None}
    price = tiny().price_usd_per_mwh
    document = oracle.tiny(gpus=one, gpu_usd_per_hour=None, objective=[
        {"terms": [{"metric": "cost_energy_usd", "weight": 1.0}]}])  # fmt: skip
    document = copy.deepcopy(document)
    for profile in document["profiles"]:
        profile["levels"].insert(0, {**copy.deepcopy(profile["levels"][0]), "requests_per_s": 0.0})
    instance = go.PlacementInstance.parse(document)
    with go.prepare(instance) as prepared:
        agree(prepared, prepared.solve())
        prepared.update(price_usd_per_mwh=-price)
        assert prepared.solve().status == "unbounded"
        prepared.update(price_usd_per_mwh=price)
        solution = prepared.solve()
        assert solution.status == "optimal"
        agree(prepared, solution)


def test_time_limits_do_not_add_up(quick: Any) -> None:
    """Each solve has its own limit, though HiGHS counts over all runs of a model."""
    with go.prepare(quick) as prepared:
        spent = prepared.solve().runtime_s["solve"]
        rounds = 0
        while spent < 2.0 or rounds < 5:
            factor = 0.9 + 0.02 * (rounds % 5)
            prepared.update(
                demand=quick.demand_requests * factor,
                carbon_g_per_kwh=quick.carbon_g_per_kwh[:, :: 1 if rounds % 2 else -1],
            )
            solution = prepared.solve(time_limit=1.5)
            assert solution.status == "optimal", solution.report
            spent += solution.runtime_s["solve"]
            rounds += 1


def test_time_limit_reached(quick: Any) -> None:
    """A limit that is too short is a status, and the next solve goes on from there."""
    with go.prepare(quick) as prepared:
        assert prepared.solve(time_limit=1e-6).status == "limit"
        solution = prepared.solve()
        assert solution.report["in_place"] is True
        agree(prepared, solution)


def lexicographic() -> Any:
    """The hand-made instance, carbon first, then cost, then latency."""
    return tiny(objective=[
        {"terms": [{"metric": "carbon_kg", "weight": 1.0}], "tolerance": 0.05},
        {"terms": [{"metric": "cost_usd", "weight": 1.0}], "tolerance": 0.01},
        {"terms": [{"metric": "ttft_request_s", "weight": 1.0, "scale": 1e4}]},
    ])  # fmt: skip


@pytest.mark.parametrize("field", ["demand_requests", "carbon_g_per_kwh", "price_usd_per_mwh"])
def test_stages_in_place(field: str) -> None:
    """Each stage keeps its model; costs of one stage are coefficients of a row of the next."""
    with go.prepare(lexicographic()) as prepared:
        agree(prepared, prepared.solve())
        for factor in (0.9, 0.95, 0.85):
            array = getattr(lexicographic(), field)
            prepared.update(
                **{field: array * np.linspace(factor, 1.0, array.size).reshape(array.shape)}
            )
            solution = prepared.solve()
            assert len(solution.stages) == 3
            assert solution.report["in_place"] is True, solution.report["rebuild_reason"]
            agree(prepared, solution)
            assert holds_the_model(prepared)


def test_numbers_of_stages_change() -> None:
    """A stage more is solved for the first time; one fewer is in place."""
    one = [{"terms": [{"metric": "carbon_kg", "weight": 1.0}], "tolerance": 0.05}]
    with go.prepare(tiny(objective=one)) as prepared:
        prepared.solve()
        prepared.update(objective=lexicographic().document()["objective"])
        solution = prepared.solve()
        assert solution.report["rebuild_reason"] == "stage 2 is solved for the first time"
        agree(prepared, solution)
        prepared.update(objective=one)
        solution = prepared.solve()
        assert solution.report["in_place"] is True
        agree(prepared, solution)


def test_whole_numbers_start_from_the_last_plan() -> None:
    """A search begins anew, but not from nothing; the relaxation behind its bound is kept."""
    instance = go.PlacementInstance.parse(random_document(np.random.default_rng(2), even=True))
    with go.prepare(instance) as prepared:
        first = prepared.solve()
        assert first.report["rebuild_reason"] == WHOLE
        prepared.update(carbon_g_per_kwh=instance.carbon_g_per_kwh * 1.05)
        solution = prepared.solve()
        assert solution.report["rebuild_reason"] == WHOLE
        assert solution.report["start"]["accepted"] is True
        agree(prepared, solution)
        assert [("relax", True) in how for _, how in prepared._sessions._kept] == [True]
        prepared.update(sites=[f"{site} renamed" for site in instance.sites])
        assert "start" not in prepared.solve().report


@pytest.mark.parametrize("solver", ["highs-simplex", "highs-ipm", "glop"])
def test_other_solvers(solver: str) -> None:
    """Those that keep models do, others are handed the whole, and say so."""
    with go.prepare(tiny(), solver=solver) as prepared:
        prepared.solve()
        prepared.update(demand=tiny().demand_requests * 0.9)
        solution = prepared.solve()
        kept = solver.startswith("highs")
        reason = None if kept else "glop keeps no model between solves"
        assert solution.report["rebuild_reason"] == reason
        assert solution.solver == solver
        fresh = go.solve(prepared.instance)
        assert solution.objective == pytest.approx(fresh.objective, rel=1e-6)


# Processes and threads


def test_worker_and_its_loss() -> None:
    """The model may live in a worker; when that is lost, it is built again, and said so."""
    with go.prepare(tiny(), isolation="worker") as prepared:
        first = prepared.solve()
        assert first.report["where"] == "worker"
        prepared.update(demand=tiny().demand_requests * 0.9, pue=tiny().pue * 1.01)
        second = prepared.solve()
        assert second.report["in_place"] is True
        agree(prepared, second)
        (kept,) = prepared._sessions._kept.values()
        os.kill(kept.session._host._worker._process.pid, signal.SIGKILL)
        time.sleep(0.2)
        prepared.update(demand=tiny().demand_requests)
        third = prepared.solve()
        assert third.report["in_place"] is False
        assert "lost" in third.report["rebuild_reason"]
        agree(prepared, third)
        prepared.update(pue=tiny().pue)
        fourth = prepared.solve()
        assert fourth.report["in_place"] is True
        assert fourth.objective == pytest.approx(first.objective, rel=1e-9)


def test_beside_ortools() -> None:
    """A scheduler that has loaded OR-Tools gets a worker, and its model stays there."""
    code = f"""
    from ortools.linear_solver import pywraplp
    import greenopt as go
    inst = go.load({str(QUICK)!r})
    with go.prepare(inst) as prepared:
        reports = [prepared.solve().report]
        prepared.update(demand=inst.demand_requests * 0.99)
        reports.append(prepared.solve().report)
    print([(r["where"], r["in_place"]) for r in reports])
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.stdout.strip() == "[('worker', False), ('worker', True)]", done.stderr


def test_a_solve_that_breaks_off(monkeypatch: pytest.MonkeyPatch) -> None:
    """After an interruption nothing that was kept is trusted."""
    from greenopt.solvers import Session

    with go.prepare(tiny()) as prepared:
        first = prepared.solve()
        with monkeypatch.context() as patch:

            def interrupted(*_: Any) -> None:
                raise KeyboardInterrupt

            patch.setattr(Session, "solve", interrupted)
            with pytest.raises(KeyboardInterrupt):
                prepared.solve()
        again = prepared.solve()
        assert again.report["rebuild_reason"] == "the last solve broke off"
        assert again.objective == first.objective


@pytest.mark.parametrize("ending", ["infeasible", "error"])
def test_a_kept_model_that_misleads(ending: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A claim, or a failure, of a model changed in place is looked into from scratch."""
    from greenopt.solvers import Session
    from greenopt.solvers.task import RawResult, Termination

    real = Session.solve
    with go.prepare(tiny()) as prepared:
        prepared.solve()
        prepared.update(demand=tiny().demand_requests * 0.9)
        kept = next(iter(prepared._sessions._kept.values())).session

        def misleads(session: Any, time_limit_s: float = float("inf")) -> RawResult:
            if session is kept:
                return RawResult(Termination(ending), None, None, -np.inf, 0.0, "no", "1")
            return real(session, time_limit_s)

        monkeypatch.setattr(Session, "solve", misleads)
        solution = prepared.solve()
        assert solution.status == "optimal"
        assert solution.report["in_place"] is False
        reason = "the model kept in the solver did not lead to a proof"
        assert solution.report["rebuild_reason"] == reason
        assert len(prepared._sessions._kept) == 1
        agree(prepared, solution)


def test_threads_take_turns() -> None:
    """Several threads update and solve; every solution is of one whole update."""
    with go.prepare(tiny()) as prepared:
        prepared.solve()
        seen: list[go.Solution] = []

        def work(number: int) -> None:
            for i in range(5):
                prepared.update(demand=tiny().demand_requests * (0.9 + 0.01 * number), name=f"{i}")
                seen.append(prepared.solve())

        threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        expected = {
            round(
                go.solve(tiny(demand_requests=tiny().demand_requests * (0.9 + 0.01 * n))).objective,
                6,
            )
            for n in range(4)
        }
        assert len(seen) == 20
        assert {round(solution.objective, 6) for solution in seen} <= expected
        assert all(solution.status == "optimal" for solution in seen)


def test_memory_does_not_grow(quick: Any) -> None:
    """Many solves take no more memory than a few."""
    with go.prepare(quick) as prepared:

        def solve(count: int) -> int:
            for i in range(count):
                prepared.update(demand=quick.demand_requests * (0.9 + 0.001 * (i % 7)))
                prepared.solve()
            gc.collect()
            return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # KiB

        early = solve(15)
        assert solve(60) - early < 30_000
