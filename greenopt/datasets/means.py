"""Yearly means of zones."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from greenopt.datasets._tables import (
    AnyPath,
    FloatArray,
    read_table,
    refuse,
    refuse_ragged,
    report,
)
from greenopt.datasets._units import CARBON, conversion, mistaken_unit
from greenopt.errors import Problem


@dataclass(frozen=True, eq=False)
class YearlyMeans:
    """Mean carbon intensity of zones in years.

    Attributes
    ----------
    source : str
        Path of the file.
    zones : tuple of str
        Names of the rows.
    years : tuple of int
        Years of the columns.
    values : ndarray of float, shape (n_zones, n_years)
        Means, g CO2e/kWh; NaN only where the reader was asked to allow it.
    notes : tuple of str
        What was found and converted.
    """

    source: str
    zones: tuple[str, ...]
    years: tuple[int, ...]
    values: FloatArray
    notes: tuple[str, ...]

    def __post_init__(self) -> None:
        self.values.setflags(write=False)

    def of(self, zone: str, year: int) -> float:
        """Mean of a zone in a year, g CO2e/kWh.

        Raises
        ------
        InputError
            If there is no such zone or year.
        """
        for name, value, known in (("zone", zone, self.zones), ("year", year, self.years)):
            if value not in known:
                refuse(self.source, name, f"is {value!r}; there are {', '.join(map(repr, known))}")
        return float(self.values[self.zones.index(zone), self.years.index(year)])


def read_yearly_carbon(
    path: AnyPath, *, unit: str = "g/kWh", missing: Literal["refuse", "allow"] = "refuse"
) -> YearlyMeans:
    """Yearly means of grid carbon intensity, g CO2e/kWh.

    Parameters
    ----------
    path : path
        CSV file with a header, plain or ``.gz``: zones in the first column, a column for each year.
    unit : {"g/kWh", "kg/kWh", "kg/MWh", "lb/MWh"}
        Unit in the file; years whose median is not between 2 and 1500 g/kWh are refused.
    missing : {"refuse", "allow"}
        Whether blank cells are an error or NaN.

    Raises
    ------
    InputError
        Naming file, row, column, value and expectation of what is wrong.
    """
    if missing not in ("refuse", "allow"):
        refuse(path, "missing", f"is {missing!r}; expected 'refuse' or 'allow'")
    shift, factor = conversion(path, CARBON, unit)
    table = read_table(path)
    refuse_ragged(table)
    zones, years = table.cells(table.columns[0]), table.columns[1:]
    problems = [
        Problem(f"column {year!r}", "is not a year such as 2024")
        for year in years
        if not (year.isascii() and year.isdigit() and len(year) == 4)
    ]
    problems += [
        Problem(f"data row {i + 1}", f"is {zone!r} again" if zone else "has no name of a zone")
        for i, zone in enumerate(zones)
        if not zone or zone in zones[:i]
    ]
    report(path, problems)
    raw = table.numbers(years, unknown=missing == "allow")
    values = (raw + shift) * factor
    doubts = [
        mistaken_unit(CARBON, unit, year, raw[:, j], values[:, j]) for j, year in enumerate(years)
    ]
    report(path, [doubt for doubt in doubts if doubt])
    notes = [] if unit == CARBON.unit else [f"converted from {unit} to {CARBON.unit}"]
    if blank := int(np.isnan(values).sum()):
        notes.append(f"{blank} of {values.size} cells are blank (NaN in the values)")
    return YearlyMeans(str(path), tuple(zones), tuple(map(int, years)), values, tuple(notes))
