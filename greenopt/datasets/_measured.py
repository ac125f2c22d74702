"""What readers of measurements share: units, columns of one's own, what is missing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from greenopt.datasets._tables import FloatArray, Table, frozen, refuse, report
from greenopt.datasets.measured import (
    LARGEST_ITL_S,
    LARGEST_POWER_PER_GPU_W,
    Boundary,
    Measurements,
)
from greenopt.errors import Problem

SECONDS = {"s": 1.0, "ms": 1e-3}
JOULES = {"J": 1.0, "mJ": 1e-3, "kJ": 1e3, "Wh": 3600.0, "kWh": 3.6e6}
WATTS = {"W": 1.0, "mW": 1e-3, "kW": 1e3}
GIGAHERTZ = {"GHz": 1.0, "MHz": 1e-3}

Source = str | tuple[str, str]
Layout = Mapping[str, Source]

_AGREE = 0.05


class Columns(NamedTuple):
    """What a reader reads.

    Parameters
    ----------
    texts : tuple of str
        Columns of names.
    numbers : dict of str to dict
        Columns of numbers, each with the units it can be read in and what they are multiplied by.
    needed : tuple of str
        Those without which a table says nothing.
    missing : frozenset of str
        Numbers of which 0 or a blank means that nothing was measured; they become NaN.
    """

    texts: tuple[str, ...]
    numbers: Mapping[str, Mapping[str, float]]
    needed: tuple[str, ...] = ("model",)
    missing: frozenset[str] = frozenset()


def recognised(
    table: Table, layouts: Mapping[str, tuple[Layout, tuple[str, ...]]]
) -> tuple[str, Layout, tuple[str, ...]]:
    """The layout that the header has, with columns to multiply into the number of GPUs."""
    for name, (layout, product) in layouts.items():
        wanted = [*map(column_of, layout.values()), *product]
        if set(wanted) <= set(table.columns):
            return name, layout, product
    shown = ", ".join(map(repr, table.columns))
    what = f"is {shown}; expected that of {' or '.join(layouts)}, or columns= for another"
    refuse(table.path, "header", what)


def chosen(
    table: Table,
    known: Columns,
    layouts: Mapping[str, tuple[Layout, tuple[str, ...]]],
    columns: Layout | None,
    boundary: str | None,
) -> tuple[str, Layout, tuple[str, ...], Boundary | None]:
    """The caller's layout, or the one that the header has, which is of GPUs."""
    if columns is not None:
        refuse_mapping(table, columns, boundary, known)
        return "own", columns, (), boundary  # type: ignore[return-value]
    name, layout, product = recognised(table, layouts)
    if boundary not in (None, "gpu"):
        what = f"is {boundary!r}; expected 'gpu', which is what {name} measures"
        refuse(table.path, "boundary", what)
    return name, layout, product, "gpu"


def column_of(source: Source) -> str:
    """Name of the file's column."""
    return source if isinstance(source, str) else source[0]


def refuse_mapping(table: Table, columns: Layout, boundary: str | None, known: Columns) -> None:
    """Refuse a mapping that names what there is not, or lacks what is needed."""
    every = (*known.texts, *known.numbers)
    problems = []
    for name, source in columns.items():
        units = known.numbers.get(name, {})
        if name not in every:
            expected = ", ".join(map(repr, every))
            problems.append(Problem("columns", f"names {name!r}; expected some of {expected}"))
        elif not isinstance(source, str) and (len(source) != 2 or source[1] not in units):
            expected = " or ".join(map(repr, units)) or "no unit"
            problems.append(Problem(f"columns[{name!r}]", f"is {source!r}; expected {expected}"))
    if boundary not in (None, "gpu", "server", "facility"):
        what = f"is {boundary!r}; expected 'gpu', 'server' or 'facility'"
        problems.append(Problem("boundary", what))
    for name in known.needed:
        if name not in columns:
            what = f"has no {name!r}; expected the column of {_PLURAL.get(name, name)}"
            problems.append(Problem("columns", what))
    report(table.path, problems)
    table.require([column_of(source) for source in columns.values()])


_PLURAL = {"model": "models", "workload": "workloads"}


def read_columns(
    table: Table, layout: Layout, known: Columns
) -> tuple[dict[str, NDArray[Any]], list[str]]:
    """Columns that a layout has, in the units of this library, and what is missing in them."""
    found: dict[str, NDArray[Any]] = {}
    notes = []
    for column in known.texts:
        if column in layout:
            found[column] = names(table, column_of(layout[column]))
    for column, units in known.numbers.items():
        if column in layout:
            missing = column in known.missing
            found[column] = positive(table, layout[column], units, missing=missing)
            if count := int(np.isnan(found[column]).sum()):
                notes.append(
                    f"{column} is NaN in {count} of {len(table.rows)} rows, where "
                    f"{column_of(layout[column])!r} is 0 or blank: missing, not free"
                )
    return found, notes


def finished(
    table: Table,
    name: str,
    boundary: Boundary | None,
    found: Mapping[str, NDArray[Any]],
    known: Columns,
    notes: Sequence[str],
    label: str = "",
) -> Measurements:
    """Measurements with every column of the reader, and notes on what the file lacks."""
    lacking = [column for column in (*known.texts, *known.numbers) if column not in found]
    notes = list(notes)
    if lacking:
        notes.append(f"the file does not give {', '.join(lacking)}")
    if boundary is None:
        notes.append("whose energy and power this is (boundary) is not stated")
    rows = len(table.rows)
    every = {column: found.get(column, np.full(rows, "")) for column in known.texts}
    every |= {column: found.get(column, np.full(rows, np.nan)) for column in known.numbers}
    return Measurements(table.path, name, boundary, frozen(every), tuple(notes), label)


def names(table: Table, column: str) -> NDArray[np.str_]:
    """A column of names, none blank."""
    cells = table.cells(column)
    problems = [
        Problem(f"data row {i + 1}, column {column!r}", "is blank; expected a name")
        for i, cell in enumerate(cells)
        if not cell
    ]
    report(table.path, problems)
    return np.array(cells)


def positive(
    table: Table, source: Source, units: Mapping[str, float], *, missing: bool = False
) -> FloatArray:
    """A column of numbers above 0; with `missing`, 0 and blanks become NaN."""
    column = column_of(source)
    values = table.numbers([column], unknown=missing)[:, 0]
    if missing:
        values = np.where(values == 0, np.nan, values)
    problems = [
        Problem(f"data row {i + 1}, column {column!r}", f"is {values[i]:g}; expected above 0")
        for i in np.flatnonzero(values <= 0)
    ]
    report(table.path, problems)
    return values if isinstance(source, str) else values * units[source[1]]


def beyond_belief(
    layout: Layout, column: str, values: FloatArray, low: float, high: float, what: str, advice: str
) -> list[Problem]:
    """Rows whose values look like another unit; `what` has a place for the value."""
    where = repr(column_of(layout[column]))
    return [
        Problem(f"data row {i + 1}, column {where}", f"means {what.format(values[i])}; {advice}")
        for i in np.flatnonzero((values < low) | (values > high))
    ]


def too_much_power(layout: Layout, column: str, each_w: FloatArray) -> list[Problem]:
    """Rows of more power for each GPU than there is."""
    advice = f"expected at most {LARGEST_POWER_PER_GPU_W:g} W; is it in mW?"
    what = "{:g} W for each GPU"
    return beyond_belief(layout, column, each_w, 0, LARGEST_POWER_PER_GPU_W, what, advice)


def too_long_between_tokens(layout: Layout, column: str, found: FloatArray) -> list[Problem]:
    """Rows with more time between tokens than anyone waits."""
    advice = f"expected at most {LARGEST_ITL_S:g} s; is it in ms?"
    return beyond_belief(layout, column, found, 0, LARGEST_ITL_S, "{:g} s between tokens", advice)


def disagreeing(first: FloatArray, second: FloatArray, words: tuple[str, str]) -> list[str]:
    """A note on the rows where two ways to one figure are apart."""
    with np.errstate(invalid="ignore"):
        ratio = first / second
        apart = np.abs(ratio - 1)
    count = int(np.count_nonzero(apart > _AGREE))
    if not count:
        return []
    return [
        f"in {count} of {len(ratio)} rows {words[0]} is more than {_AGREE:.0%} off {words[1]} "
        f"(at worst {ratio[np.nanargmax(apart)]:.3g} times it)"
    ]
