"""Yearly means of zones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from greenopt.datasets import read_yearly_carbon
from greenopt.errors import InputError

GOOD = "zone,2021,2022\nAT,190.5,212\nPL,700,690\n"


def write(folder: Path, text: str) -> Path:
    """A file of this text."""
    path = folder / "means.csv"
    path.write_text(text)
    return path


def test_reads_zones_and_years(tmp_path: Path) -> None:
    """Values by zone and year; unknown ones are listed."""
    means = read_yearly_carbon(write(tmp_path, GOOD))
    assert (means.zones, means.years, means.notes) == (("AT", "PL"), (2021, 2022), ())
    assert means.of("PL", 2022) == 690
    with pytest.raises(InputError, match="zone: is 'FR'; there are 'AT', 'PL'"):
        means.of("FR", 2022)
    with pytest.raises(InputError, match="year: is 2023; there are 2021, 2022"):
        means.of("AT", 2023)


def test_converts_and_allows_blanks(tmp_path: Path) -> None:
    """Both are stated."""
    path = write(tmp_path, "zone,2021,2022\nAT,0.1905,\nPL,0.7,0.69\n")
    means = read_yearly_carbon(path, unit="kg/kWh", missing="allow")
    assert means.of("AT", 2021) == pytest.approx(190.5)
    assert np.isnan(means.of("AT", 2022))
    assert means.notes == (
        "converted from kg/kWh to g/kWh",
        "1 of 4 cells are blank (NaN in the values)",
    )


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        ("zone,2021\nAT,0.19\nPL,0.7\n", {}, "column '2021': read as g/kWh, has the median 0.445"),
        ("zone,2021\nAT,\nPL,700\n", {}, "data row 1, column '2021': is ''; expected a number"),
        ("zone,mean\nAT,190\n", {}, "column 'mean': is not a year such as 2024"),
        ("zone,2021\nAT,190\nAT,200\n", {}, "data row 2: is 'AT' again"),
        ("zone,2021\n,190\n", {}, "data row 1: has no name of a zone"),
        (GOOD, {"missing": "interpolate"}, "missing: is 'interpolate'; expected 'refuse' or"),
        (GOOD, {"unit": "g"}, "unit: is 'g'; expected one of 'g/kWh'"),
    ],
)
def test_mistakes_are_refused(tmp_path: Path, text: str, options: Any, message: str) -> None:
    """Each with its place, its value and what was expected."""
    path = write(tmp_path, text)
    with pytest.raises(InputError) as caught:
        read_yearly_carbon(path, **options)
    assert f"{path}: {message}" in str(caught.value)
