"""CASPER instances against the published program, stated independently."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from oracles.peers import casper_optimum

import greenopt as go
from greenopt.errors import InputError, InstanceError
from greenopt.problems.placement.builders import casper, casper_folder

REGIONS = ["ap", "eu", "us", "sa"]
ALPHA = {"carbon": 0.9, "latency": 0.5, "carbon_only": 0.0}
# Apache-2.0, carbonfirst/casper, CAP/dataset/wiki: latency.csv, and requests.csv and
# carbon_intensities.csv at 1660348800.
PUBLISHED_LATENCY_MS = [
    [3.42, 248.24, 279.53, 198.31, 188.03, 139.67],
    [248.32, 3.32, 11.65, 92.04, 101.64, 151.48],
    [279.63, 12.25, 3.63, 83.03, 92.86, 143.28],
    [198.66, 91.88, 82.79, 4.76, 12.92, 62.22],
    [188.15, 101.58, 93.42, 16.1, 1.39, 52.25],
    [138.71, 151.43, 142.68, 62.15, 51.6, 3.9],
]
PUBLISHED_HOUR = np.array([[86.0, 476, 225, 223, 57, 51], [724, 376, 92, 403, 429, 305]])
MIDNIGHT = 1660348800
"""2022-08-13T00:00Z."""


def data(seed: int, hours: int = 1) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Random requests, latencies (some over 500 ms, some unknown) and carbon intensities."""
    random, n = np.random.default_rng(seed), len(REGIONS)
    latency = random.uniform(1, 650, (n, n))
    latency[random.random((n, n)) < 0.1] = np.nan
    np.fill_diagonal(latency, 3.0)
    requests = random.integers(0, 1500, (hours, n)).astype(float)
    return requests, latency, random.uniform(20, 750, (hours, n))


@pytest.mark.parametrize("objective", ALPHA)
@pytest.mark.parametrize("seed", range(8))
def test_hours_have_the_optimum_of_the_published_program(seed: int, objective: Any) -> None:
    """One hour, and three hours in one instance as the sum of their objectives."""
    requests, latency, carbon = data(seed, 3)
    hourly = [
        casper_optimum(objective, r, latency, c, alpha=ALPHA[objective])
        for r, c in zip(requests, carbon, strict=True)
    ]
    one = casper(requests[0], latency, carbon[0], regions=REGIONS, objective=objective)
    for instance, parts in (
        (one, hourly[:1]),
        (casper(requests, latency, carbon, regions=REGIONS, objective=objective), hourly),
    ):
        solution = go.solve(instance, gap=0.0)
        known = [part for part in parts if part is not None]
        if len(known) < len(parts):
            assert solution.status == go.Status.INFEASIBLE
        else:
            assert solution.objective == pytest.approx(sum(known), rel=1e-9)
            assert go.check(instance, solution).ok


@pytest.mark.parametrize("solver", ["highs", "scip", "cp-sat"])
@pytest.mark.parametrize("objective", ALPHA)
def test_published_hour_has_one_optimum_for_all_solvers(solver: str, objective: Any) -> None:
    """The first hour of the published start; all variables are whole, so CP-SAT solves it too."""
    pytest.importorskip({"highs": "highspy", "scip": "pyscipopt", "cp-sat": "ortools"}[solver])
    requests, carbon = PUBLISHED_HOUR
    latency = np.array(PUBLISHED_LATENCY_MS)
    best = casper_optimum(objective, requests, latency, carbon, alpha=ALPHA[objective])
    instance = casper(requests, latency, carbon, regions=list("abcdef"), objective=objective)
    assert go.solve(instance, solver=solver, gap=1e-9).objective == pytest.approx(best, rel=1e-9)


def test_two_stages_of_the_older_program() -> None:
    """Carbon alone with few servers in all; then the servers found are the limit."""
    requests, latency, carbon = np.array([200.0, 310, 45, 80]), data(0)[1], data(0)[2][0]
    expected = casper_optimum("carbon_only", requests, latency, carbon, alpha=0, max_servers=70)
    first = casper(
        requests, latency, carbon, regions=REGIONS, objective="carbon_only", max_servers=70
    )
    solution = go.solve(first, gap=0.0)
    assert solution.objective == pytest.approx(expected, rel=1e-9)
    servers = solution.decision["running"].total_over("site")
    assert servers.sum() <= 70 + 1e-6
    second = casper(
        requests,
        latency,
        carbon,
        regions=REGIONS,
        objective="carbon_only",
        servers_per_region=np.round(servers),
    )
    assert go.solve(second, gap=0.0).objective == pytest.approx(expected, rel=1e-9)


def test_arguments_change_what_they_should() -> None:
    """Capacity, servers and alpha reach the program."""
    requests, latency, carbon = data(5)
    changes = {"capacity": 7.0, "per_region": 300.0, "alpha": 0.3}
    expected = casper_optimum("carbon", requests[0], latency, carbon[0], **changes)
    instance = casper(
        requests,
        latency,
        carbon,
        regions=REGIONS,
        alpha=0.3,
        server_capacity=7,
        servers_per_region=300,
    )
    assert expected is not None
    assert go.solve(instance, gap=0.0).objective == pytest.approx(expected, rel=1e-9)


def test_latency_of_the_limit_is_allowed_and_unknown_is_not() -> None:
    """500 ms may serve, 500.1 and NaN may not; the latency objective has no limit."""
    latency = np.array([[900.0, 500.0, 500.1], [1, 1, 1], [1, np.nan, 900]])
    arguments = ([5.0, 0, 0], latency, [1.0, 9.0, 2.0])
    solution = go.solve(casper(*arguments, regions=["a", "b", "c"]))
    served = solution.decision["flow"].total_over("origin", "site")
    assert np.round(served).tolist() == [[0, 5, 0], [0, 0, 0], [0, 0, 0]]
    free = go.solve(casper(*arguments, regions=["a", "b", "c"], objective="latency"))
    assert free.status == go.Status.OPTIMAL
    only = casper([0.0, 0, 5], latency, [9.0, 1.0, 9.0], regions=["a", "b", "c"])
    assert go.solve(only).decision["flow"].total_over("site")[1] == 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"requests": [0.0] * 4}, "normalisation: of hour 0 makes the objective undefined"),
        ({"requests": [[1.0] * 4, [0.0] * 4]}, "carbon_g_per_kwh: has 1 hours, expected 2"),
        ({"requests": [1.0, 2.0]}, "requests: has the shape (1, 2), expected (hour, 4 regions)"),
        ({"requests": [1.5, 1, 1, 1]}, "is 1.5; whole requests need whole demand"),
        ({"requests": [-1.0, 1, 1, 1]}, "requests: is -1 at hour 0, region 0; expected a finite"),
        ({"carbon_g_per_kwh": [np.nan, 1, 1, 1]}, "carbon_g_per_kwh: is nan at hour 0, region 0"),
        ({"carbon_g_per_kwh": [-1.0, 0, 0, 0]}, "no positive carbon intensity"),
        ({"latency_ms": [["x"] * 4] * 4}, "latency_ms: does not hold numbers over origin, region"),
        ({"max_servers": 0}, "max_servers: is 0; expected more than 0"),
        ({"servers_per_region": [1, 2]}, "servers_per_region: has the shape (2,)"),
        ({"objective": "water"}, "objective: is 'water'; expected 'carbon'"),
        ({"start": "noon"}, "start: 'noon' is not an ISO 8601 time"),
        ({"requests": 3.0}, "requests: has the shape (), expected (hour, 4 regions)"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(change: dict[str, Any], message: str) -> None:
    """Each mistake is named by argument and place."""
    requests, latency, carbon = data(0)
    given: dict[str, Any] = {
        "requests": requests,
        "latency_ms": latency,
        "carbon_g_per_kwh": carbon,
        "regions": REGIONS,
    }
    with pytest.raises(InstanceError) as caught:
        casper(**{**given, **change})
    assert message in str(caught.value)


def written(folder: Path, *, hours: range = range(-3, 9), missing: int | None = None) -> Path:
    """The published form, with the carbon file out of order, a gap and an unused region."""
    random, n = np.random.default_rng(7), len(REGIONS)
    (folder / "offset.csv").write_text(",".join(REGIONS) + "\n10,2,-5,-3\n")
    latency = np.round(random.uniform(1, 280, (n, n)), 2).astype(str)
    latency[3, 1] = ""
    rows = [",".join(row) for row in latency]
    (folder / "latency.csv").write_text("\n".join([",".join(REGIONS), *rows]) + "\n")
    requests = [
        f"{MIDNIGHT + 3600 * h},13-08-2022,{h + 100},{h + 200},{h + 300},{h + 400}" for h in hours
    ]
    header = "timestamp,datetime," + ",".join(REGIONS)
    (folder / "requests.csv").write_text("\n".join([header, *requests]) + "\n")
    carbon = [
        f"{i},{MIDNIGHT + 3600 * h},{h + 10},{h + 20},1.5,{h + 30},{h + 40}"
        for i, h in enumerate(hours)
        if h != missing
    ]
    carbon = [*carbon[5:], *carbon[:5]] if missing is None else carbon
    header = ",timestamp,ap,eu,unused,us,sa"
    (folder / "carbon_intensities.csv").write_text("\n".join([header, *carbon]) + "\n")
    return folder


def test_folder_joins_hours_by_timestamp(tmp_path: Path) -> None:
    """Rows may stand in any order; columns are found by name; an empty latency is unknown."""
    instance = casper_folder(written(tmp_path), hour=1, hours=3)
    assert instance.periods.start[0] == "2022-08-13T01:00Z"
    assert instance.demand_requests[:, :, 0].tolist() == [
        [h + 100, h + 200, h + 300, h + 400] for h in (1, 2, 3)
    ]
    assert instance.carbon_g_per_kwh.tolist() == [
        [h + 10, h + 20, h + 30, h + 40] for h in (1, 2, 3)
    ]
    assert instance.rtt_s[3, 1] == 1000
    assert instance.origins == tuple(REGIONS)


def test_folder_by_position_is_off_where_rows_are_missing(tmp_path: Path) -> None:
    """As published, hours are rows counted from midnight; by timestamp the gap is an error."""
    folder = written(tmp_path, missing=2)
    instance = casper_folder(folder, hour=1, hours=3, match="position")
    assert instance.carbon_g_per_kwh[:, 0].tolist() == [11, 13, 14]
    assert instance.demand_requests[:, 0, 0].tolist() == [101, 102, 103]
    with pytest.raises(InputError, match=r"carbon_intensities\.csv: column 'timestamp': does not"):
        casper_folder(folder, hour=1, hours=3)
    with pytest.raises(
        InputError, match=r"requests\.csv: file: ends 2 rows before the last hour asked for"
    ):
        casper_folder(folder, hour=8, hours=3, match="position")


def test_folder_refuses_rows_of_one_hour_that_differ(tmp_path: Path) -> None:
    """A repeated row is one; two values for an hour are a mistake."""
    path = written(tmp_path) / "requests.csv"
    last = f"{MIDNIGHT},13-08-2022,100,200,300,400\n"
    path.write_text(path.read_text() + last)
    casper_folder(tmp_path)
    path.write_text(path.read_text().removesuffix(last) + last.replace("400", "401"))
    with pytest.raises(InputError, match=r"in rows that differ: \[4, 13\]"):
        casper_folder(tmp_path)


@pytest.mark.parametrize(
    ("file", "old", "new", "message"),
    [
        ("requests.csv", "ap", "xx", "requests.csv: column 'ap': is missing"),
        ("requests.csv", "timestamp", "t", "requests.csv: column 'timestamp': is missing"),
        ("requests.csv", ",100,", ",1OO,", "requests.csv: data row 4, column 'ap': is '1OO'"),
        ("carbon_intensities.csv", ",10,", ",,", "data row 11, column 'ap': is ''; expected a nu"),
        ("latency.csv", "\n", "\nx", "latency.csv: data row 1, column 'ap': is 'x"),
        ("latency.csv", "\n", "\n1,1,1,1\n", "has 5 rows, expected one for each of 4 regions"),
    ],
)
def test_folder_errors_name_their_place(
    tmp_path: Path, file: str, old: str, new: str, message: str
) -> None:
    """File, row and column of a mistake."""
    path = written(tmp_path) / file
    path.write_text(path.read_text().replace(old, new, 1))
    with pytest.raises(InputError) as caught:
        casper_folder(tmp_path)
    assert message in str(caught.value)


def test_folder_without_files_is_refused(tmp_path: Path) -> None:
    """The missing file is named; so is a day that is none."""
    with pytest.raises(InputError, match=r"offset\.csv: file: cannot be read"):
        casper_folder(tmp_path)
    with pytest.raises(InputError, match="is not an ISO 8601 time"):
        casper_folder(written(tmp_path), date="yesterday")
