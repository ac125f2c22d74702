"""Matrices of round-trip times."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from greenopt.datasets import read_rtt
from greenopt.errors import InputError

GOOD = "from,A,B,C\nA,2,100,200\nB,110,3,50\nC,200,52,1\n"


def write(folder: Path, text: str) -> Path:
    """A file of this text."""
    path = folder / "rtt.csv"
    path.write_text(text)
    return path


def refused(path: Path, **options: Any) -> str:
    """Message of the error, which names the file."""
    with pytest.raises(InputError) as caught:
        read_rtt(path, **options)
    assert str(caught.value).startswith(f"{path}: ")
    return str(caught.value).replace(f"{path}: ", "")


def test_reads_milliseconds_and_seconds(tmp_path: Path) -> None:
    """The same matrix in both units."""
    matrix = read_rtt(write(tmp_path, GOOD))
    assert matrix.origins == matrix.sites == ("A", "B", "C")
    np.testing.assert_allclose(matrix.seconds[1], [0.11, 0.003, 0.05])
    assert matrix.notes == ()
    assert repr(matrix) == "<round-trip times [s]: 3 origins x 3 sites>"
    seconds = "from,A,B\nA,0.002,0.1\nB,0.11,0.003\n"
    np.testing.assert_allclose(
        read_rtt(write(tmp_path, seconds), unit="s").seconds, matrix.seconds[:2, :2]
    )


def test_selects_in_the_order_asked_for(tmp_path: Path) -> None:
    """Origins and sites are chosen apart; unknown ones are named."""
    matrix = read_rtt(write(tmp_path, GOOD))
    part = matrix.select(["C", "A"], ["B"])
    assert (part.origins, part.sites) == (("C", "A"), ("B",))
    np.testing.assert_allclose(part.seconds, [[0.052], [0.1]])
    with pytest.raises(InputError, match="origins: has no 'D'; there are 'A', 'B', 'C'"):
        matrix.select(["D"], ["A"])
    with pytest.raises(InputError, match="sites: has no 'E'"):
        matrix.select(["A"], ["E"])


def test_matrix_cannot_be_changed(tmp_path: Path) -> None:
    """A matrix is immutable."""
    with pytest.raises(ValueError, match="read-only"):
        read_rtt(write(tmp_path, GOOD)).seconds[0, 0] = 1


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        (GOOD, {"unit": "us"}, "unit: is 'us'; expected 'ms' or 's'"),
        (GOOD, {"missing": "interpolate"}, "missing: is 'interpolate'; expected 'refuse' or"),
        (
            GOOD,
            {"unit": "s"},
            "unit: is 's', in which the longest round trip is 200 s; expected at most 20 s; looks "
            "like milliseconds: pass unit='ms'",
        ),
        (
            "from,A,B\nA,0.001,0.2\nB,0.2,0.001\n",
            {},
            "unit: is 'ms', in which the longest round trip is 0.2 ms; expected at least 5 ms "
            "between some places; looks like seconds: pass unit='s'",
        ),
        ("from,A,B\nA,1,30000\nB,30000,1\n", {}, "30000 ms; expected at most 20 s"),
        (
            "from,A,B\nA,1,100\nB,201,1\n",
            {},
            "data row 1 ('A'), column 'B': is 100 ms, and 201 ms in the other direction; expected "
            "both within a factor of 2",
        ),
        ("from,A,B\nA,1,-5\nB,9,1\n", {}, "data row 1 ('A'), column 'B': is -5; expected a round-"),
        ("from,A,B\nA,1,0\nB,9,1\n", {}, "data row 1 ('A'), column 'B': is 0; expected a round-"),
        ("from,A,B\nA,1,x\nB,9,1\n", {}, "data row 1, column 'B': is 'x'; expected a number"),
        ("from,A,B\nA,1,inf\nB,9,1\n", {}, "column 'B': is 'inf'; expected a finite number"),
        ("from,A,B\nA,1,9\nA,9,1\n", {}, "data row 2: is 'A' again"),
        ("from,A,B\n,1,9\nB,9,1\n", {}, "data row 1: has no name of an origin"),
        ("from,A,A\nA,1,9\nB,9,1\n", {}, "column 'A': stands there more than once"),
        ("from,A,\nA,1,9\nB,9,1\n", {}, "header: has a column without the name of a site"),
        ("from\nA\nB\n", {}, "header: has no sites after its first column"),
        ("from,A,B\nA,1\nB,9,1\n", {}, "data row 1: has 2 cells; expected 3"),
    ],
)
def test_mistakes_are_refused(tmp_path: Path, text: str, options: Any, message: str) -> None:
    """Each with its place, its value and what was expected."""
    assert message in refused(write(tmp_path, text), **options)


def test_short_paths_may_differ(tmp_path: Path) -> None:
    """A factor of three, but by less than 10 ms."""
    matrix = read_rtt(write(tmp_path, "from,A,B,C\nA,0,3,90\nB,9,0,90\nC,90,90,0\n"))
    assert matrix.seconds[0, 0] == 0


def test_blank_cells_are_refused_or_stated(tmp_path: Path) -> None:
    """The diagonal, an empty column, and a single cell each have their own line."""
    text = "from,A,B,C,D\nA,,10,,10\nB,10,,,\nC,10,10,,10\nE,10,10,,\n"
    path = write(tmp_path, text)
    advice = "; expected round-trip times (missing='allow' gives NaN)"
    assert refused(path).split("\n") == [
        f"diagonal: is blank for 3 of 3 places{advice}",
        f"column 'C': is blank for 3 of 4 origins{advice}",
        f"data row 2 ('B'), column 'D': is blank{advice}",
        f"data row 4 ('E'), column 'D': is blank{advice}",
    ]
    matrix = read_rtt(path, missing="allow")
    assert int(np.isnan(matrix.seconds).sum()) == 8
    assert matrix.notes == (
        "diagonal is blank for 3 of 3 places",
        "column 'C' is blank for 3 of 4 origins",
        "data row 2 ('B'), column 'D' is blank",
        "data row 4 ('E'), column 'D' is blank",
        "origins that are no sites: E",
        "sites that are no origins: D",
    )


def test_rows_and_columns_may_be_of_different_kinds(tmp_path: Path) -> None:
    """Cities to regions: no diagonal, nothing to compare, nothing to state."""
    matrix = read_rtt(write(tmp_path, "city,east,west\nParis,90,150\nOslo,100,160\n"))
    assert matrix.origins == ("Paris", "Oslo")
    assert matrix.notes == ()


def test_a_blank_row_is_one_line(tmp_path: Path) -> None:
    """An origin without any round trip."""
    path = write(tmp_path, "city,east,west,north\nParis,90,150,9\nOslo,,,\nRome,90,80,70\n")
    assert refused(path).startswith("data row 2 ('Oslo'): is blank for 3 of 3 sites; expected")


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(values=st.lists(st.floats(6, 1e4), min_size=3, max_size=3))
def test_units_are_inverse(tmp_path: Path, values: list[float]) -> None:
    """A symmetric matrix written in ms and in s is the same."""
    a, b, c = values
    found = []
    for unit, factor in (("ms", 1.0), ("s", 1e-3)):
        rows = ((1, a, b), (a, 1, c), (b, c, 1))
        lines = [
            f"{n}," + ",".join(repr(v * factor) for v in r)
            for n, r in zip("ABC", rows, strict=True)
        ]
        path = write(tmp_path, "from,A,B,C\n" + "\n".join(lines) + "\n")
        found.append(read_rtt(path, unit=unit).seconds)
    np.testing.assert_allclose(found[0], found[1], rtol=1e-12)
