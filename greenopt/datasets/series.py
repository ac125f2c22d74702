"""Series over time: grid carbon intensity, prices, weather, and any other table of hours."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from greenopt.datasets._stamps import instant_s, read_stamps, shown
from greenopt.datasets._steps import Rows, regular
from greenopt.datasets._tables import (
    AnyPath,
    FloatArray,
    Table,
    read_table,
    refuse,
    refuse_ragged,
    report,
)
from greenopt.datasets._units import (
    CARBON,
    PRICE,
    TEMPERATURE,
    WET_BULB,
    Quantity,
    conversion,
    low_median,
    mistaken_unit,
)
from greenopt.errors import Problem

Missing = Literal["refuse", "allow", "interpolate"]
Time = str | datetime


@dataclass(frozen=True, eq=False)
class TimeSeries:
    """Values of named columns over consecutive UTC steps of one length.

    Attributes
    ----------
    source : str
        Path of the file.
    quantity : str
        What the values are, such as "carbon intensity".
    unit : str
        Unit of the values.
    begin : ndarray of datetime64[s], shape (n_steps,)
        When each step begins, UTC.
    step_s : int
        Length of every step, s.
    columns : tuple of str
        Names of the columns.
    values : ndarray of float, shape (n_steps, n_columns)
        The values; NaN only where the reader was asked to allow it.
    notes : tuple of str
        What was found and done: conversions, gaps, negative values.
    """

    source: str
    quantity: str
    unit: str
    begin: NDArray[np.datetime64]
    step_s: int
    columns: tuple[str, ...]
    values: FloatArray
    notes: tuple[str, ...]

    def __post_init__(self) -> None:
        self.begin.setflags(write=False)
        self.values.setflags(write=False)

    def __len__(self) -> int:
        """Number of steps."""
        return len(self.begin)

    def __repr__(self) -> str:
        first, last = (int(time.astype(np.int64)) for time in (self.begin[0], self.begin[-1]))
        return (
            f"<{self.quantity} [{self.unit}]: {len(self.columns)} columns over {len(self)} steps "
            f"of {self.step_s} s, {shown(first)} to {shown(last + self.step_s)}, "
            f"{len(self.notes)} notes>"
        )

    def column(self, name: str) -> FloatArray:
        """Values of one column, shape (n_steps,).

        Raises
        ------
        InputError
            If there is no such column.
        """
        return self.values[:, self._at([name])[0]]

    def select(self, columns: Sequence[str]) -> TimeSeries:
        """Keep some columns, in the order given.

        Raises
        ------
        InputError
            If one does not exist.
        """
        names = _names(columns)
        return replace(self, columns=tuple(names), values=self.values[:, self._at(names)])

    def between(self, start: Time, end: Time) -> TimeSeries:
        """Keep the steps from `start` to before `end`.

        Parameters
        ----------
        start, end : str or datetime
            ISO 8601 texts with a zone, or `datetime` objects that have one.

        Raises
        ------
        InputError
            If a time has no zone, is not where a step begins, or is not covered.
        """
        first = int(self.begin[0].astype(np.int64))
        stop = first + len(self) * self.step_s
        at = []
        for name, value in (("start", start), ("end", end)):
            asked = instant_s(self.source, name, value)
            if not first <= asked <= stop:
                what = f"is {shown(asked)}; expected a time from {shown(first)} to {shown(stop)}"
                refuse(self.source, name, what)
            if (asked - first) % self.step_s:
                what = f"is {shown(asked)}; expected the beginning of a step of {self.step_s} s"
                refuse(self.source, name, f"{what} from {shown(first)} on")
            at.append((asked - first) // self.step_s)
        if at[0] >= at[1]:
            refuse(self.source, "end", f"is {end!r}; expected a time after the start {start!r}")
        part = slice(*at)
        return replace(self, begin=self.begin[part], values=self.values[part])

    def at_step(self, seconds: int) -> TimeSeries:
        """The same over steps of another length.

        Values are held over shorter steps and averaged over longer ones. A mean over a NaN is NaN.

        Parameters
        ----------
        seconds : int
            The new length, s: a divisor or a multiple of `step_s`.

        Raises
        ------
        InputError
            For any other length, and if the steps do not fill the last longer one.
        """
        if type(seconds) is not int or seconds < 1:
            refuse(self.source, "at_step", f"is {seconds!r}; expected whole seconds above 0")
        if self.step_s % seconds == 0:
            values = np.repeat(self.values, self.step_s // seconds, axis=0)
            done = "held"
        elif seconds % self.step_s == 0:
            block = seconds // self.step_s
            if len(self) % block:
                what = f"is {seconds} s; expected a length that {len(self)} steps of "
                refuse(self.source, "at_step", f"{what}{self.step_s} s fill without a rest")
            values = self.values.reshape(-1, block, len(self.columns)).mean(axis=1)
            done = "averaged"
        else:
            what = f"is {seconds} s; expected a divisor or a multiple of {self.step_s} s"
            refuse(self.source, "at_step", what)
        note = f"steps of {self.step_s} s were {done} to {seconds} s"
        return replace(
            self,
            begin=_times(int(self.begin[0].astype(np.int64)), seconds, len(values)),
            step_s=seconds,
            values=values,
            notes=(*self.notes, note) if seconds != self.step_s else self.notes,
        )

    def _at(self, names: Sequence[str]) -> list[int]:
        unknown = [name for name in names if name not in self.columns]
        if unknown:
            what = f"has no {unknown[0]!r}; there are {', '.join(map(repr, self.columns))}"
            refuse(self.source, "columns", what)
        return [self.columns.index(name) for name in names]


def read_carbon(
    path: AnyPath,
    *,
    columns: Sequence[str] | None = None,
    unit: str = "g/kWh",
    zone: str | None = None,
    missing: Missing = "refuse",
    start: Time | None = None,
    end: Time | None = None,
    time: str | None = None,
) -> TimeSeries:
    """Grid carbon intensity, g CO2e/kWh.

    Columns whose median (of absolute values) is not between 2 and 1500 g/kWh are refused, with the
    unit that they look like. Negative values, which marginal signals have, are stated.

    Parameters
    ----------
    path : path
        CSV file with a header, plain or ``.gz``: a column of times, a column for each zone.
    columns : sequence of str, optional
        Columns to read, in this order; by default all but that of times.
    unit : {"g/kWh", "kg/kWh", "kg/MWh", "lb/MWh"}
        Unit in the file.
    zone : str, optional
        IANA name of the zone of the stamps, such as "Europe/Berlin", if they have none themselves.
    missing : {"refuse", "allow", "interpolate"}
        What to do about hours without a row and blank cells: an error, NaN, or linear
        interpolation of at most 3 steps in a row. With the latter two a row that repeats an hour
        with equal values is dropped. All of it is stated in the notes.
    start, end : str or datetime, optional
        Read the steps from `start` to before `end`; only there gaps matter.
    time : str, optional
        Column of times, at which steps begin; by default the first.

    Raises
    ------
    InputError
        Naming file, row, column, value and expectation of what is wrong.
    """
    return _read(path, CARBON, columns, unit, zone, missing, start, end, time)


def read_prices(
    path: AnyPath,
    *,
    columns: Sequence[str] | None = None,
    unit: str = "USD/MWh",
    zone: str | None = None,
    missing: Missing = "refuse",
    start: Time | None = None,
    end: Time | None = None,
    time: str | None = None,
    usd_per_unit: float | None = None,
) -> TimeSeries:
    """Electricity prices, USD/MWh.

    Columns whose median (of absolute values) is not between 5 and 1000 USD/MWh are refused, with
    the unit that they look like; medians below 15 are stated. Negative prices are stated. The
    currency of a file cannot be told from its numbers.

    Parameters
    ----------
    path, columns, zone, missing, start, end, time
        As in `read_carbon`.
    unit : str
        Unit in the file: "USD/MWh", "USD/kWh", "cent/kWh" (of a USD), or another currency by its
        three letters, as in "EUR/MWh" or "EUR/kWh".
    usd_per_unit : float, optional
        USD for one unit of another currency; needed with one, refused otherwise.

    Raises
    ------
    InputError
        Naming file, row, column, value and expectation of what is wrong.
    """
    return _read(path, PRICE, columns, unit, zone, missing, start, end, time, usd_per_unit)


def read_wet_bulb(
    path: AnyPath,
    *,
    columns: Sequence[str] | None = None,
    unit: str = "degC",
    zone: str | None = None,
    missing: Missing = "refuse",
    start: Time | None = None,
    end: Time | None = None,
    time: str | None = None,
) -> TimeSeries:
    """Wet-bulb temperature, °C.

    Columns with values or a median above 40 °C, or values below -90 °C, are refused, with the unit
    that they look like. A cold place in °F cannot be told from a warm one in °C.

    Parameters
    ----------
    path, columns, zone, missing, start, end, time
        As in `read_carbon`.
    unit : {"degC", "degF", "K"}
        Unit in the file.

    Raises
    ------
    InputError
        Naming file, row, column, value and expectation of what is wrong.
    """
    return _read(path, WET_BULB, columns, unit, zone, missing, start, end, time)


def read_temperature(
    path: AnyPath,
    *,
    columns: Sequence[str] | None = None,
    unit: str = "degC",
    zone: str | None = None,
    missing: Missing = "refuse",
    start: Time | None = None,
    end: Time | None = None,
    time: str | None = None,
) -> TimeSeries:
    """Air temperature (dry bulb), °C.

    Columns with a median above 40 °C, or values above 57 or below -90 °C, are refused, with the
    unit that they look like. A cold place in °F cannot be told from a warm one in °C.

    Parameters
    ----------
    path, columns, zone, missing, start, end, time
        As in `read_carbon`.
    unit : {"degC", "degF", "K"}
        Unit in the file.

    Raises
    ------
    InputError
        Naming file, row, column, value and expectation of what is wrong.
    """
    return _read(path, TEMPERATURE, columns, unit, zone, missing, start, end, time)


def read_series(
    path: AnyPath,
    *,
    quantity: str,
    unit: str,
    columns: Sequence[str] | None = None,
    zone: str | None = None,
    missing: Missing = "refuse",
    start: Time | None = None,
    end: Time | None = None,
    time: str | None = None,
) -> TimeSeries:
    """Any other table over time, such as water intensities, in its own unit.

    No rule says which values are believed; negative ones are stated.

    Parameters
    ----------
    path, columns, zone, missing, start, end, time
        As in `read_carbon`.
    quantity, unit : str
        What the values are, and their unit.

    Raises
    ------
    InputError
        Naming file, row, column, value and expectation of what is wrong.
    """
    anything = Quantity(quantity, unit, {unit: (0, 1)}, median=(-np.inf, np.inf))
    return _read(path, anything, columns, unit, zone, missing, start, end, time)


def _read(
    path: AnyPath,
    quantity: Quantity,
    columns: Sequence[str] | None,
    unit: str,
    zone: str | None,
    missing: str,
    start: Time | None,
    end: Time | None,
    time: str | None,
    usd_per_unit: float | None = None,
) -> TimeSeries:
    shift, factor = conversion(path, quantity, unit, usd_per_unit)
    start_s = None if start is None else instant_s(path, "start", start)
    end_s = None if end is None else instant_s(path, "end", end)
    table = read_table(path)
    refuse_ragged(table)
    clock = table.columns[0] if time is None else time
    table.require([clock])
    names = _wanted(table, columns, clock)
    stamps = read_stamps(table, clock, zone)
    advice = "" if columns is not None else " (columns= reads some columns only)"
    raw = table.numbers(names, unknown=True, advice=advice)
    values = (raw + shift) * factor
    doubts = [
        mistaken_unit(quantity, unit, name, raw[:, j], values[:, j]) for j, name in enumerate(names)
    ]
    report(path, [doubt for doubt in doubts if doubt])
    number = np.arange(1, len(table.rows) + 1)
    rows = Rows(path, tuple(names), number, stamps.utc_s, values)
    steps = regular(rows, missing, start_s, end_s, stamps.repeated)
    notes = [*stamps.notes, *steps.notes]
    if unit != quantity.unit:
        rate = "" if usd_per_unit is None else f" at {usd_per_unit:g} USD per {unit[:3]}"
        notes.insert(0, f"converted from {unit} to {quantity.unit}{rate}")
    for j, name in enumerate(names):
        notes += _stated(quantity, name, steps.values[:, j])
        if low := low_median(quantity, name, values[:, j]):
            notes.append(low)
    return TimeSeries(
        source=str(path),
        quantity=quantity.name,
        unit=quantity.unit,
        begin=_times(steps.first_s, steps.step_s, len(steps.values)),
        step_s=steps.step_s,
        columns=tuple(names),
        values=steps.values,
        notes=tuple(notes),
    )


def _wanted(table: Table, columns: Sequence[str] | None, clock: str) -> list[str]:
    """Names of the columns to read."""
    names = [c for c in table.columns if c != clock] if columns is None else _names(columns)
    problems = [
        Problem(f"column {name!r}", f"is missing; there are {', '.join(map(repr, table.columns))}")
        for name in names
        if name not in table.columns
    ]
    problems += [
        Problem(f"column {name!r}", "is asked for twice")
        for name in dict.fromkeys(names)
        if names.count(name) > 1
    ]
    if clock in names:
        problems.append(Problem(f"column {clock!r}", "is that of the times; expected others"))
    if not names:
        problems.append(Problem("columns", "are none beside that of times; expected at least one"))
    report(table.path, problems)
    return names


def _names(columns: Sequence[str]) -> list[str]:
    return [columns] if isinstance(columns, str) else list(columns)


def _stated(quantity: Quantity, name: str, values: FloatArray) -> list[str]:
    """What is possible, but should be known: negative values, and columns that never change."""
    known: Any = values[~np.isnan(values)]
    notes = []
    if quantity.absolute and len(known) and known.min() < 0:
        count = int(np.count_nonzero(known < 0))
        notes.append(f"column {name!r}: {count} negative values, lowest {known.min():g}")
    if len(known) > 1 and known.min() == known.max():
        notes.append(f"column {name!r}: every value is {known[0]:g}")
    return notes


def _times(first_s: int, step_s: int, count: int) -> NDArray[np.datetime64]:
    return (first_s + step_s * np.arange(count)).astype("datetime64[s]")
