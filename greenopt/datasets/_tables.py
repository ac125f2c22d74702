"""Reading data files as their authors publish them, with errors that name file, row and column."""

from __future__ import annotations

import csv
import gzip
import io
import json
import math
import os
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple, NoReturn

import numpy as np
from numpy.typing import NDArray

from greenopt.errors import InputError, Problem

AnyPath = str | os.PathLike[str]
FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
BoolArray = NDArray[np.bool_]

_SHOWN = 5
_BLANK = frozenset({"", "nan", "na", "n/a", "null", "none"})


class Table(NamedTuple):
    """Header and rows of a CSV file."""

    path: str
    columns: list[str]
    rows: list[list[str]]

    def cells(self, column: str, rows: Sequence[int] | None = None) -> list[str]:
        """Cells of a column as text, stripped; a row that ends early has a blank cell there."""
        self.require([column])
        at = self.columns.index(column)
        picked = self.rows if rows is None else [self.rows[row] for row in rows]
        return [row[at].strip() if at < len(row) else "" for row in picked]

    def require(self, wanted: Sequence[str]) -> None:
        """Refuse a table that lacks one of these columns."""
        report(
            self.path,
            [Problem(f"column {c!r}", "is missing") for c in wanted if c not in self.columns],
        )

    def numbers(
        self,
        wanted: Sequence[str],
        *,
        rows: Sequence[int] | None = None,
        counted: str | None = None,
        unknown: bool = False,
        advice: str = "",
    ) -> FloatArray:
        """Columns as floats, or every cell that is not what it should be.

        Parameters
        ----------
        wanted : sequence of str
            Names of the columns.
        rows : sequence of int, optional
            Rows to read, by default all.
        counted : str, optional
            The column that has to count the rows from 0.
        unknown : bool
            Whether a blank cell or NaN is allowed; it becomes NaN.
        advice : str
            What else to say about a cell that is not a number.
        """
        self.require(wanted)
        picked = range(len(self.rows)) if rows is None else rows
        values = np.empty((len(picked), len(wanted)))
        problems: dict[tuple[int, int], Problem] = {}
        for j, column in enumerate(wanted):
            cells = self.cells(column, rows)
            fast = _floats(cells, unknown)
            if fast is not None and column != counted:
                values[:, j] = fast
                continue
            if len(cells) > 1 and not any(_is_number(cell) for cell in cells):
                where = f"data row {picked[0] + 1}, column {column!r}"
                what = f"is {cells[0]!r}, and no cell of the column is a number; expected numbers"
                problems[0, j] = Problem(where, what + advice)
                continue
            for i, (row, cell) in enumerate(zip(picked, cells, strict=True)):
                values[i, j], expected = _number(cell, unknown)
                if column == counted and not expected and values[i, j] != row:
                    expected = f"{row}: rows are consecutive {column}s counted from 0"
                if expected:
                    where = f"data row {row + 1}, column {column!r}"
                    problems[i, j] = Problem(where, f"is {cell!r}; expected {expected}{advice}")
        report(self.path, [problems[at] for at in sorted(problems)])
        return values


def read_table(path: AnyPath) -> Table:
    """Read a CSV file with a header, plain or gzip-compressed; blank lines are dropped."""
    header, *rows = _rows(path) or [[]]
    columns = [column.strip() for column in header]
    twice = sorted({column for column in columns if columns.count(column) > 1})
    problems = [Problem(f"column {column!r}", "stands there more than once") for column in twice]
    if len(columns) == 1 and (mark := next((m for m in ";\t" if m in columns[0]), None)):
        problems.append(Problem("header", f"is separated by {mark!r}; expected commas"))
    if not rows:
        problems.append(Problem("file", "has no rows below its header"))
    report(path, problems)
    return Table(str(path), columns, rows)


def refuse_ragged(table: Table) -> None:
    """Refuse rows with more or fewer cells than the header."""
    width = len(table.columns)
    problems = [
        Problem(f"data row {i + 1}", f"has {len(row)} cells; expected {width} as in the header")
        for i, row in enumerate(table.rows)
        if len(row) != width
    ]
    report(table.path, problems)


def read_column(path: AnyPath) -> FloatArray:
    """Read a file of one number a line, without header; blank lines are dropped."""
    rows = _rows(path)
    if not rows:
        refuse(path, "file", "has no numbers")
    cells = [",".join(row) for row in rows]
    found = [_number(cell, False) for cell in cells]
    problems = [
        Problem(f"row {i + 1}", f"is {cells[i]!r}; expected {expected}")
        for i, (_, expected) in enumerate(found)
        if expected
    ]
    report(path, problems)
    return np.array([value for value, _ in found])


def read_list(path: AnyPath) -> FloatArray:
    """Read a JSON list of numbers."""
    data = read_any_json(path)
    if not isinstance(data, list) or not data:
        refuse(path, "$", "is not a list of numbers")
    bad = [i for i, value in enumerate(data) if not is_finite(value)]
    report(path, [Problem(f"$[{i}]", f"is {data[i]!r}; expected a number") for i in bad])
    return np.array(data, dtype=float)


def read_any_json(path: AnyPath) -> Any:
    """Read JSON of any kind."""
    try:
        return json.loads(read_text(path))
    except json.JSONDecodeError as error:
        where = f"at line {error.lineno}, column {error.colno}"
        problem = Problem("$", f"is not valid JSON: {error.msg} {where}")
        raise InputError(str(path), [problem]) from None


def read_text(path: AnyPath) -> str:
    """Text of a file in UTF-8, plain or gzip-compressed."""
    try:
        data = Path(path).read_bytes()
        if data[:2] == b"\x1f\x8b":
            data = gzip.decompress(data)
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        problem = Problem("file", f"is not text in UTF-8: {error}")
    except (OSError, EOFError, zlib.error) as error:
        problem = Problem("file", f"cannot be read: {getattr(error, 'strerror', None) or error}")
    raise InputError(str(path), [problem]) from None


def is_finite(value: Any) -> bool:
    """Whether a value from JSON is a finite number."""
    return type(value) in (int, float) and math.isfinite(value)


def report(path: AnyPath, problems: Sequence[Problem], shown: int = _SHOWN) -> None:
    """Raise an error with the first problems, if there are any."""
    if problems:
        hidden = len(problems) - shown
        more = [Problem("file", f"and {hidden} more like these")] if hidden > 0 else []
        raise InputError(str(path), [*problems[:shown], *more])


def refuse(path: AnyPath, where: str, what: str) -> NoReturn:
    """Raise an error with one problem."""
    raise InputError(str(path), [Problem(where, what)])


def frozen(columns: Mapping[str, NDArray[Any]]) -> Mapping[str, NDArray[Any]]:
    """Columns that cannot be changed."""
    for column in columns.values():
        column.setflags(write=False)
    return MappingProxyType(dict(columns))


def _rows(path: AnyPath) -> list[list[str]]:
    try:
        return [row for row in csv.reader(io.StringIO(read_text(path), newline="")) if row]
    except csv.Error as error:
        raise InputError(str(path), [Problem("file", f"is not a CSV table: {error}")]) from None


def _floats(cells: list[str], unknown: bool) -> FloatArray | None:
    """All cells at once, or None where one of them needs a closer look."""
    if unknown:
        cells = ["nan" if cell.lower() in _BLANK else cell for cell in cells]
    try:
        values = np.array(cells, dtype=float)
    except ValueError:
        return None
    return values if np.all(np.isfinite(values) | (unknown & np.isnan(values))) else None


def _is_number(cell: str) -> bool:
    return not _number(cell, False)[1]


def _number(cell: str, unknown: bool) -> tuple[float, str]:
    """Value of a cell and, if it is not a finite number, what was expected."""
    if unknown and cell.lower() in _BLANK:
        return math.nan, ""
    try:
        value = float(cell)
    except ValueError:
        return 0.0, "a number"
    return value, "" if math.isfinite(value) else "a finite number"
