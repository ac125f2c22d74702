"""From rows with times to consecutive steps: order, repetitions, steps of two lengths, gaps."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from greenopt.datasets._stamps import shown
from greenopt.datasets._tables import AnyPath, BoolArray, FloatArray, IntArray, refuse, report
from greenopt.errors import Problem

MISSING = ("refuse", "allow", "interpolate")
LONGEST_FILLED = 3
_LISTED = 20
_RUN_OF_ANOTHER_STEP = 3
_MOST_MISSING = 10


class Rows(NamedTuple):
    """Rows of a series before they are known to be regular.

    Attributes
    ----------
    path : str
        The file.
    columns : tuple of str
        Names of the columns of `values`.
    number : ndarray of int, shape (n_rows,)
        Number of each row in the file, from 1.
    utc_s : ndarray of int, shape (n_rows,)
        Its time.
    values : ndarray of float, shape (n_rows, n_columns)
        Its values, NaN where blank.
    """

    path: AnyPath
    columns: tuple[str, ...]
    number: IntArray
    utc_s: IntArray
    values: FloatArray

    def pick(self, which: IntArray | BoolArray) -> Rows:
        """Some of the rows."""
        return self._replace(
            number=self.number[which], utc_s=self.utc_s[which], values=self.values[which]
        )


class Steps(NamedTuple):
    """Consecutive steps: first time, length, values, and what was found."""

    first_s: int
    step_s: int
    values: FloatArray
    notes: list[str]


def regular(
    rows: Rows,
    missing: str,
    start_s: int | None,
    end_s: int | None,
    repeated: Mapping[int, str],
) -> Steps:
    """Rows from `start_s` to before `end_s` as consecutive steps of one length.

    Raises
    ------
    InputError
        For rows out of order, times that stand twice (unless with equal values, where gaps are
        allowed), steps of two lengths, a file that does not cover the time asked for, and gaps and
        blank cells that `missing` does not allow.
    """
    path = rows.path
    if missing not in MISSING:
        refuse(path, "missing", f"is {missing!r}; expected one of {', '.join(map(repr, MISSING))}")
    inside, neighbour = _asked(rows, start_s, end_s)
    inside, notes = _ordered(inside, missing != "refuse")
    step = _step(inside, neighbour)
    first, last = int(inside.utc_s[0]), int(inside.utc_s[-1])
    if start_s is not None:
        first = _edge(rows, "start", start_s, first, step)
    if end_s is not None:
        last = _edge(rows, "end", end_s, last + step, step) - step
    count = (last - first) // step + 1
    if count > _MOST_MISSING * len(inside.utc_s):
        what = f"are {len(inside.utc_s)}, for {count} steps from {shown(first)} to {shown(last)}"
        refuse(path, "rows", f"{what}; expected most of them: is a stamp mistyped?")
    at = (inside.utc_s - first) // step
    values = np.full((count, len(rows.columns)), np.nan)
    values[at] = inside.values
    absent = np.ones(count, dtype=bool)
    absent[at] = False
    holes = _Holes(inside, first, step, at, absent, repeated)
    if missing == "interpolate":
        notes += _interpolate(holes, values)
    else:
        found = holes.all(values)
        if missing == "refuse":
            report(path, found, _LISTED)
        notes += _counted(found, "NaN in the values")
    return Steps(first, step, values, notes)


def _asked(rows: Rows, start_s: int | None, end_s: int | None) -> tuple[Rows, int | None]:
    """Rows in the time asked for, and the time of the row after them, or before a single one."""
    first, last = int(rows.utc_s.min()), int(rows.utc_s.max())
    if start_s is not None and end_s is not None and start_s >= end_s:
        what = f"is {shown(end_s)}; expected a time after the start {shown(start_s)}"
        refuse(rows.path, "end", what)
    low = first if start_s is None else start_s
    high = last + 1 if end_s is None else end_s
    inside = (low <= rows.utc_s) & (rows.utc_s < high)
    if not inside.any():
        name, asked = ("start", low) if low > last else ("end", high)
        what = f"is {shown(asked)}, which leaves no row; the file has rows from {shown(first)}"
        refuse(rows.path, name, f"{what} to {shown(last)}")
    after, before = rows.utc_s[rows.utc_s >= high], rows.utc_s[rows.utc_s < low]
    if len(after):
        return rows.pick(inside), int(after.min())
    return rows.pick(inside), int(before.max()) if len(before) and inside.sum() == 1 else None


def _ordered(rows: Rows, drop_equal: bool) -> tuple[Rows, list[str]]:
    """Refuse rows out of order and times that stand twice."""
    times, number = rows.utc_s, rows.number
    problems = []
    for i in np.flatnonzero(np.diff(times) < 0) + 1:
        what = f"is of {shown(times[i])}, after {shown(times[i - 1])} in the row above"
        problems.append(Problem(f"data row {number[i]}", f"{what}; expected rows in order of time"))
    order = np.argsort(times, kind="stable")
    notes, dropped = [], []
    for i, j in pairwise(order):
        if times[i] != times[j]:
            continue
        a, b = rows.values[i], rows.values[j]
        differ = np.flatnonzero(~((a == b) | (np.isnan(a) & np.isnan(b))))
        what = f"repeats {shown(times[j])} of data row {number[i]}"
        if len(differ):
            k = differ[0]
            what += f" with other values: column {rows.columns[k]!r} is {a[k]:g} and {b[k]:g}"
        elif drop_equal:
            notes.append(f"data row {number[j]} {what} with the same values and was dropped")
            dropped.append(j)
            continue
        else:
            what += " with the same values"
        problems.append(Problem(f"data row {number[j]}", f"{what}; expected each time once"))
    report(rows.path, problems, _LISTED)
    keep = np.ones(len(times), dtype=bool)
    keep[dropped] = False
    return rows.pick(keep), notes


def _step(rows: Rows, neighbour: int | None) -> int:
    """Length of the steps, from the rows and the time of the next one."""
    times = rows.utc_s if neighbour is None else np.append(rows.utc_s, neighbour)
    if len(times) < 2:
        refuse(rows.path, "rows", "are of one time only; expected at least 2 steps")
    lengths = np.abs(np.diff(times))
    found, often = np.unique(lengths, return_counts=True)
    step = int(found[np.argmax(often)])
    problems = []
    for length in found[found != step]:
        at = np.flatnonzero(lengths == length)
        runs = np.split(at, np.flatnonzero(np.diff(at) > 1) + 1)
        if length % step == 0 and max(map(len, runs)) < _RUN_OF_ANOTHER_STEP:
            continue  # a gap
        i = at[0] + 1
        number = rows.number[i] if i < len(rows.number) else rows.number[-1] + 1
        what = (
            f"is of {shown(times[i])}, {length} s after the row above, like {len(at)} of "
            f"{len(lengths)} rows, where most come after {step} s; expected steps of one length "
            "(start= and end= read a part of the file, at_step changes the length)"
        )
        problems.append(Problem(f"data row {number}", what))
    report(rows.path, sorted(problems, key=lambda p: int(p.path.split()[-1])))
    return step


def _edge(rows: Rows, name: str, asked: int, nearest: int, step: int) -> int:
    """A time asked for, if the file reaches it and a step begins there."""
    first, last = int(rows.utc_s.min()), int(rows.utc_s.max())
    if not first <= asked <= last + step:
        covered = f"{shown(first)} to {shown(last + step)}"
        refuse(
            rows.path, name, f"is {shown(asked)}; expected a time that the file covers, {covered}"
        )
    if (nearest - asked) % step:
        what = f"is {shown(asked)}; expected the beginning of a step of {step} s"
        refuse(rows.path, name, f"{what}, such as {shown(nearest)}")
    return asked


class _Holes(NamedTuple):
    """Where steps have no row, and how to name places."""

    rows: Rows
    first_s: int
    step_s: int
    at: IntArray
    absent: BoolArray
    repeated: Mapping[int, str]

    def when(self, run: IntArray) -> str:
        """Times of a run of steps."""
        begin, end = (shown(self.first_s + int(i) * self.step_s) for i in (run[0], run[-1]))
        return begin if len(run) == 1 else f"{begin} to {end} ({len(run)} steps)"

    def all(self, values: FloatArray) -> list[Problem]:
        """Every missing time and blank cell, in runs."""
        found = [self._absent(run) for run in _runs(self.absent)]
        number = np.zeros(len(values), dtype=np.int64)
        number[self.at] = self.rows.number
        for j, column in enumerate(self.rows.columns):
            for run in _runs(np.isnan(values[:, j]) & ~self.absent):
                a, b = number[run[0]], number[run[-1]]
                where = f"data row {a}" if a == b else f"data rows {a} to {b}"
                what = f"blank at {self.when(run)}; expected numbers{_ADVICE}"
                found.append(Problem(f"{where}, column {column!r}", what))
        return found

    def _absent(self, run: IntArray) -> Problem:
        """Steps without a row."""
        cause = self.repeated.get(self.first_s + int(run[0]) * self.step_s, "")
        before = np.flatnonzero(self.at < run[0])
        where = "file" if not len(before) else f"after data row {self.rows.number[before[-1]]}"
        what = f"no row for {self.when(run)}{cause and ': '}{cause}"
        return Problem(where, f"{what}; expected a row every {self.step_s} s{_ADVICE}")


_ADVICE = f" (missing='allow' gives NaN, 'interpolate' fills up to {LONGEST_FILLED} steps)"


def _interpolate(holes: _Holes, values: FloatArray) -> list[str]:
    """Fill short gaps in place, linearly in time, and say which; refuse long ones."""
    problems, notes = [], []
    for run in _runs(holes.absent):
        if cause := holes.repeated.get(holes.first_s + int(run[0]) * holes.step_s):
            notes.append(cause)
    for j, column in enumerate(holes.rows.columns):
        runs = _runs(np.isnan(values[:, j]))
        for run in runs:
            inner = run[0] > 0 and run[-1] < len(values) - 1
            if len(run) > LONGEST_FILLED or not inner:
                what = f"nothing at {holes.when(run)}; expected "
                what += f"at most {LONGEST_FILLED} steps" if inner else "values at both ends"
                problems.append(Problem(f"column {column!r}", f"{what} to interpolate"))
                continue
            before, after = values[run[0] - 1, j], values[run[-1] + 1, j]
            share = np.arange(1, len(run) + 1) / (len(run) + 1)
            values[run, j] = before + share * (after - before)
        if runs:
            total, places = sum(map(len, runs)), ", ".join(holes.when(r) for r in runs[:_LISTED])
            more = ", ..." if len(runs) > _LISTED else ""
            notes.append(f"column {column!r}: interpolated {total} values, at {places}{more}")
    report(holes.rows.path, problems, _LISTED)
    return notes


def _counted(found: list[Problem], what: str) -> list[str]:
    """Notes of what was allowed."""
    notes = [f"{p.path}: {p.message.split('; expected')[0]}" for p in found[:_LISTED]]
    if len(found) > _LISTED:
        notes.append(f"and {len(found) - _LISTED} more like these")
    return [f"{note} ({what})" for note in notes]


def _runs(flags: BoolArray) -> list[IntArray]:
    """Positions of each run of true values."""
    at = np.flatnonzero(flags)
    return np.split(at, np.flatnonzero(np.diff(at) > 1) + 1) if len(at) else []
