"""FREESH instances against the published program, stated independently."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import shared
from oracles.peers import freesh_optimum

import greenopt as go
from greenopt.errors import InputError, InstanceError
from greenopt.problems.placement.builders import freesh, freesh_folder

SLOTS, SITES, CLASSES, MODES = 12, 3, 3, 4
PARTITION_B_TTFT_MS = [
    [225.1779768, 127.50, 144.49, 59.45],
    [107.3190549, 72.0319532, 125.89, 58.72],
    [168.3436671, 616.3113967, 140.69, 71.73],
    [140.3118727, 82.90107076, 77.89, 63.70],
]
"""Published times to first token of partition [b], ms: LS in mode 2 is above its 600."""


def tables(seed: int = 0) -> dict[str, Any]:
    """Random tables in which some latency masks bind and some modes serve nothing."""
    random = np.random.default_rng(seed)
    shape = (CLASSES, MODES)
    return {
        "classes": ["S", "M", "L"],
        "modes": ["2xA", "4xA", "8xA", "4xB"],
        "mode_gpus": {"A": [2, 4, 8, 0], "B": [0, 0, 0, 4]},
        "site_gpus": {"A": [12, 16, 8], "B": [4, 8, 0]},
        "slot_s": 300,
        "window_slots": 6,
        "demand_margin": 1.1,
        "demand_scale": 0.5,
        "qps": (random.uniform(0, 12, shape) * (random.random(shape) < 0.85)).tolist(),
        "power_w": random.uniform(700, 2700, shape).tolist(),
        "latency_s": random.choice([2.0, 5.0, 9.0, 90.0], shape, p=[0.3, 0.3, 0.3, 0.1]).tolist(),
        "tbt_ms": random.uniform(2, 160, shape).tolist(),
        "ttft_ms": random.uniform(50, 330, shape).tolist(),
        "slo": {"ttft_ms": [300, 300, 600], "tbt_ms": 150},
    }


def series(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Random demand and emission rates, some of them negative."""
    random = np.random.default_rng(1000 + seed)
    demand = random.uniform(0, 14, (SLOTS, CLASSES))
    return demand, random.uniform(-1500, 3000, (SLOTS, SITES))


@pytest.mark.parametrize("seed", range(20))
def test_random_windows_have_the_optimum_of_the_published_program(seed: int) -> None:
    """Masks, negative emission rates and modes that serve nothing; or no plan in both."""
    (demand, emission), given = series(seed), tables(seed)
    for window in (0, 1):
        slots = slice(6 * window, 6 * window + 6)
        expected = freesh_optimum(given, demand[slots], emission[slots])
        solution = go.solve(freesh(given, demand, emission, windows=[window]), gap=0.0)
        if expected is None:
            assert solution.status == go.Status.INFEASIBLE
        else:
            assert solution.objective == pytest.approx(expected, rel=1e-8, abs=1)


def test_random_windows_differ_in_what_they_show() -> None:
    """The random cases hold plans and none, and masks that matter at negative rates."""
    found, masks_matter = set(), 0
    for seed in range(20):
        (demand, emission), given = series(seed), tables(seed)
        best = freesh_optimum(given, demand[:6], emission[:6])
        found.add(best is None)
        loose = {**given, "slo": {"ttft_ms": [1e9] * 3, "tbt_ms": 1e9}}
        masks_matter += best != freesh_optimum(loose, demand[:6], emission[:6])
    assert found == {True, False}
    assert masks_matter >= 5


@pytest.mark.parametrize("window", [1, 6, 17, 40])
def test_real_windows_have_the_optimum_of_the_published_program(window: int) -> None:
    """The oracle and the builder agree on real data too, also with partition [b]'s mask."""
    folder = shared("data/peers/freesh")
    given = json.loads((folder / "tables.json").read_text())
    demand, emission = (
        np.loadtxt(folder / f"{name}.csv", delimiter=",", skiprows=1)[:, 1:]
        for name in ("demand_qps_5min", "emission_rate_5min")
    )
    slots = slice(6 * window, 6 * window + 6)
    for changed in ({}, {"ttft_ms": PARTITION_B_TTFT_MS}):
        now = {**given, **changed}
        expected = freesh_optimum(now, demand[slots], emission[slots])
        solution = go.solve(freesh(now, demand, emission, windows=[window]), gap=0.0)
        assert expected is not None
        assert solution.objective == pytest.approx(expected, rel=1e-9)


def test_masks_forbid_instances_where_they_bind() -> None:
    """In partition [b] one mode is closed to LS; in partition [a] none is."""
    folder = shared("data/peers/freesh")
    assert freesh_folder(folder).instance_limits == ()
    assert freesh_folder(folder).reachable is None
    given = json.loads((folder / "tables.json").read_text())
    given["ttft_ms"] = PARTITION_B_TTFT_MS
    demand = np.ones((6, 4))
    (limit,) = freesh(given, demand, np.ones((6, 3))).instance_limits
    closed = np.argwhere(limit.limit.values == 0)
    assert closed.tolist() == [[2, 1]]


def test_defaults_are_the_published_values() -> None:
    """Scale, margin, slots and limits may be left out of the tables."""
    given = tables()
    given["classes"] += ["XL"]
    for key in ("qps", "power_w", "latency_s", "tbt_ms", "ttft_ms"):
        given[key] = [*given[key], given[key][0]]
    full = {**given, "slo": {"ttft_ms": [300, 300, 600, 600], "tbt_ms": 150}}
    defaults = ("slot_s", "window_slots", "demand_margin", "demand_scale", "slo")
    short = {key: value for key, value in full.items() if key not in defaults}
    arrays = np.ones((6, 4)), np.ones((6, 3))
    assert freesh(short, *arrays).sha256 == freesh(full, *arrays).sha256


def test_units_and_names_land_where_they_belong() -> None:
    """Requests in a slot, seconds, g/kWh as published, one model for each class, one block."""
    demand, emission = series()
    instance = freesh(tables(), demand, emission, windows=[1])
    assert instance.demand_requests[:, 0] == pytest.approx(demand[6:] * 0.5 * 1.1 * 300)
    assert instance.carbon_g_per_kwh.tolist() == emission[6:].tolist()
    assert instance.periods.start[0] == "2025-01-01T00:30Z"
    assert [k.model for k in instance.classes] == [n.name for n in instance.models]
    assert instance.hold_periods == (6,)
    assert instance.sites == ("site1", "site2", "site3")
    assert go.PlacementInstance.parse(instance.document()) == instance


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"qps": None}, "tables['qps']: is missing"),
        ({"site_gpus": [1]}, "tables['site_gpus']: is not a mapping by GPU type"),
        ({"power_w": [[1.0] * 4] * 2}, "tables['power_w']: has the shape (2, 4), expected (3 clas"),
        ({"tbt_ms": [["x"] * 4] * 3}, "tables['tbt_ms']: does not hold numbers over class, mode"),
        ({"latency_s": [[-1.0] * 4] * 3}, "tables['latency_s']: is -1 at class 0, mode 0"),
        ({"mode_gpus": {"A": [2, 4, 8, 1], "B": [0, 0, 0, 4]}}, "puts ['4xB'] on no or on several"),
        ({"site_gpus": {"A": [1, 2, 3]}}, "tables['site_gpus']: does not hold numbers"),
    ],
)
def test_tables_that_do_not_fit_are_refused(change: dict[str, Any], message: str) -> None:
    """Each mistake is named by its key and place."""
    given = {k: v for k, v in {**tables(), **change}.items() if v is not None}
    with pytest.raises(InstanceError) as caught:
        freesh(given, *series())
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("windows", "message"),
    [([2], "the series have windows 0 to 1"), ([1, 0], "expected incr"), ([], "expected incr")],
)
def test_windows_that_are_not_there_are_refused(windows: list[int], message: str) -> None:
    """Windows have to lie in the series, in order."""
    with pytest.raises(InstanceError) as caught:
        freesh(tables(), *series(), windows=windows)
    assert message in str(caught.value)


def test_several_arguments_are_reported_at_once() -> None:
    """Demand and emission rate are both named."""
    with pytest.raises(InstanceError) as caught:
        freesh(tables(), [[-1.0] * 3], [[np.nan] * 3])
    assert "demand_qps: is -1 at slot 0, class 0; expected a finite number of" in str(caught.value)
    assert "emission_rate: is nan at slot 0, site 0" in str(caught.value)


def written(folder: Path) -> Path:
    """The published form: tables and two series."""
    given, (demand, emission) = tables(), series()
    (folder / "tables.json").write_text(json.dumps(given))
    for name, columns, values in (
        ("demand_qps_5min", "s_qps,m_qps,l_qps", demand),
        ("emission_rate_5min", "east,west,north", emission),
    ):
        rows = [f"{t}," + ",".join(map(repr, row)) for t, row in enumerate(values.tolist())]
        (folder / f"{name}.csv").write_text("\n".join([f"slot,{columns}", *rows]) + "\n")
    return folder


def test_folder_is_read_as_arrays_are(tmp_path: Path) -> None:
    """Reading files gives the instance of their arrays, with the sites' names."""
    read = freesh_folder(written(tmp_path), windows=[0, 1])
    built = freesh(tables(), *series(), windows=[0, 1], sites=["east", "west", "north"])
    assert read.sha256 == built.sha256


@pytest.mark.parametrize(
    ("file", "old", "new", "message"),
    [
        (
            "demand_qps_5min.csv",
            "m_qps",
            "x_qps",
            "demand_qps_5min.csv: column 'm_qps': is missing",
        ),
        ("demand_qps_5min.csv", "\n3,", "\n4,", "data row 4, column 'slot': is '4'; expected 3"),
        ("emission_rate_5min.csv", "\n0,", "\n0,x", "data row 1, column 'east': is 'x"),
        ("tables.json", '"classes"', "classes", "tables.json: $: is not valid JSON"),
    ],
)
def test_folder_errors_name_their_place(
    tmp_path: Path, file: str, old: str, new: str, message: str
) -> None:
    """File, row and column of a mistake."""
    path = written(tmp_path) / file
    path.write_text(path.read_text().replace(old, new, 1))
    with pytest.raises(InputError) as caught:
        freesh_folder(tmp_path)
    assert message in str(caught.value)


def test_builder_leaves_its_arguments_alone() -> None:
    """Tables given by the user are not changed."""
    given = tables()
    before = copy.deepcopy(given)
    freesh(given, *series())
    assert given == before
