"""Reading data files as their authors publish them, with errors that name file, row and column."""

from __future__ import annotations

import csv
import io
import json
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from greenopt.errors import InputError, Problem

AnyPath = str | os.PathLike[str]
_SHOWN = 5


class Table(NamedTuple):
    """Header and rows of a CSV file."""

    path: str
    columns: list[str]
    rows: list[list[str]]

    def numbers(
        self,
        wanted: Sequence[str],
        *,
        rows: Sequence[int] | None = None,
        counted: str | None = None,
        unknown: bool = False,
    ) -> np.ndarray:
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
            Whether an empty cell or NaN is allowed; it becomes NaN.
        """
        missing = [Problem(f"column {c!r}", "is missing") for c in wanted if c not in self.columns]
        if missing:
            raise InputError(self.path, missing)
        at = [self.columns.index(column) for column in wanted]
        picked = range(len(self.rows)) if rows is None else rows
        values = np.empty((len(picked), len(wanted)))
        problems: list[Problem] = []
        for i, row in enumerate(picked):
            cells = self.rows[row]
            for j, column in enumerate(wanted):
                cell = cells[at[j]] if at[j] < len(cells) else ""
                values[i, j], expected = _number(cell, unknown)
                if column == counted and not expected and values[i, j] != row:
                    expected = f"{row}: rows are consecutive {column}s counted from 0"
                if expected:
                    where = f"data row {row + 1}, column {column!r}"
                    problems.append(Problem(where, f"is {cell!r}; expected {expected}"))
        _report(self.path, problems)
        return values


def read_table(path: AnyPath) -> Table:
    """Read a CSV file with a header; blank lines are dropped."""
    header, *rows = _rows(path) or [[]]
    columns = [column.strip() for column in header]
    twice = sorted({column for column in columns if columns.count(column) > 1})
    problems = [Problem(f"column {column!r}", "stands there more than once") for column in twice]
    if not rows:
        problems.append(Problem("file", "has no rows below its header"))
    _report(path, problems)
    return Table(str(path), columns, rows)


def read_column(path: AnyPath) -> np.ndarray:
    """Read a file of one number a line, without header; blank lines are dropped."""
    rows = _rows(path)
    if not rows:
        raise InputError(str(path), [Problem("file", "has no numbers")])
    cells = [",".join(row) for row in rows]
    found = [_number(cell, False) for cell in cells]
    problems = [
        Problem(f"row {i + 1}", f"is {cells[i]!r}; expected {expected}")
        for i, (_, expected) in enumerate(found)
        if expected
    ]
    _report(path, problems)
    return np.array([value for value, _ in found])


def read_list(path: AnyPath) -> np.ndarray:
    """Read a JSON list of numbers."""
    data = read_any_json(path)
    if not isinstance(data, list) or not data:
        raise InputError(str(path), [Problem("$", "is not a list of numbers")])
    bad = [i for i, value in enumerate(data) if not is_finite(value)]
    _report(path, [Problem(f"$[{i}]", f"is {data[i]!r}; expected a number") for i in bad])
    return np.array(data, dtype=float)


def read_any_json(path: AnyPath) -> Any:
    """Read JSON of any kind."""
    try:
        return json.loads(_text(path))
    except json.JSONDecodeError as error:
        where = f"at line {error.lineno}, column {error.colno}"
        problem = Problem("$", f"is not valid JSON: {error.msg} {where}")
        raise InputError(str(path), [problem]) from None


def is_finite(value: Any) -> bool:
    """Whether a value from JSON is a finite number."""
    return type(value) in (int, float) and math.isfinite(value)


def _rows(path: AnyPath) -> list[list[str]]:
    try:
        return [row for row in csv.reader(io.StringIO(_text(path), newline="")) if row]
    except csv.Error as error:
        raise InputError(str(path), [Problem("file", f"is not a CSV table: {error}")]) from None


def _text(path: AnyPath) -> str:
    try:
        return Path(path).read_text(encoding="utf-8-sig")
    except OSError as error:
        problem = Problem("file", f"cannot be read: {error.strerror}")
    except UnicodeDecodeError as error:
        problem = Problem("file", f"is not text in UTF-8: {error}")
    raise InputError(str(path), [problem]) from None


def _number(cell: str, unknown: bool) -> tuple[float, str]:
    """Value of a cell and, if it is not a finite number, what was expected."""
    try:
        value = float(cell) if cell.strip() or not unknown else math.nan
    except ValueError:
        return 0.0, "a number"
    allowed = math.isfinite(value) or (unknown and math.isnan(value))
    return value, "" if allowed else "a finite number"


def _report(path: AnyPath, problems: list[Problem]) -> None:
    if problems:
        hidden = len(problems) - _SHOWN
        more = [Problem("file", f"and {hidden} more like these")] if hidden > 0 else []
        raise InputError(str(path), problems[:_SHOWN] + more)
