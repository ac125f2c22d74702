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
_FEW_ROWS = 4
_MOST_MISSING = 10
_ALWAYS_FILLED = 1000


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
    inside, after = _asked(rows, start_s, end_s)
    inside, notes = _ordered(inside, missing != "refuse")
    step, differs = _step(rows, inside, after)
    first, count = _grid(rows, inside, step, start_s, end_s)
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
        notes += _allowed(found)
    return Steps(first, step, values, differs + notes)


def _asked(rows: Rows, start_s: int | None, end_s: int | None) -> tuple[Rows, int | None]:
    """Rows in the time asked for, and the time of the first row after it."""
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
    after = rows.utc_s[rows.utc_s >= high]
    return rows.pick(inside), int(after.min()) if len(after) else None


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


def _step(rows: Rows, inside: Rows, after: int | None) -> tuple[int, list[str]]:
    """Length of the steps, and what to state of it.

    It is the most common one in the time asked for, up to the row after. Too few rows cannot tell a
    gap from a step: for them it is not longer than the most common one in the file.
    """
    everywhere = np.unique(rows.utc_s)
    if len(everywhere) < 2:
        refuse(rows.path, "rows", "are of one time only; expected at least 2 steps")
    usual = _most_common(np.diff(everywhere))
    times = inside.utc_s if after is None else np.append(inside.utc_s, after)
    lengths = np.diff(times)
    few = len(inside.utc_s) < _FEW_ROWS
    step = min(usual, _most_common(np.append(lengths, usual))) if few else _most_common(lengths)
    problems = []
    for length in np.unique(lengths[lengths != step]):
        at = np.flatnonzero(lengths == length)
        longest_run = max(map(len, _runs(lengths == length)))
        if length % step == 0 and (few or longest_run < _RUN_OF_ANOTHER_STEP):
            continue  # a gap
        i = int(at[0]) + 1
        number = inside.number[i] if i < len(inside.number) else inside.number[-1] + 1
        what = (
            f"is of {shown(times[i])}, {length} s after the row above, like {len(at)} of "
            f"{len(lengths)} rows, where most come after {step} s; expected steps of one length "
            "(start= and end= read a part of the file, at_step changes the length)"
        )
        problems.append((i, Problem(f"data row {number}", what)))
    report(rows.path, [problem for _, problem in sorted(problems)])
    said = f"steps are {step} s in the time asked for, and {usual} s in most of the file"
    return step, [said] if step != usual else []


def _most_common(lengths: IntArray) -> int:
    found, often = np.unique(lengths, return_counts=True)
    return int(found[np.argmax(often)])


def _grid(
    rows: Rows, inside: Rows, step: int, start_s: int | None, end_s: int | None
) -> tuple[int, int]:
    """First time and number of steps."""
    first, last = int(inside.utc_s[0]), int(inside.utc_s[-1])
    if start_s is not None:
        first = _edge(rows, "start", start_s, first, step)
    if end_s is not None:
        last = _edge(rows, "end", end_s, last + step, step) - step
    count, known = (last - first) // step + 1, len(inside.utc_s)
    if count > _MOST_MISSING * known + _ALWAYS_FILLED:
        what = f"are {known}, for {count} steps from {shown(first)} to {shown(last)}"
        refuse(rows.path, "rows", f"{what}; expected most of them: is a stamp mistyped?")
    return first, count


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


def _allowed(found: list[Problem]) -> list[str]:
    """Notes of what became NaN."""
    notes = [f"{p.path}: {p.message.split('; expected')[0]}" for p in found[:_LISTED]]
    if len(found) > _LISTED:
        notes.append(f"and {len(found) - _LISTED} more like these")
    return [f"{note} (NaN in the values)" for note in notes]


def _runs(flags: BoolArray) -> list[IntArray]:
    """Positions of each run of true values."""
    at = np.flatnonzero(flags)
    return np.split(at, np.flatnonzero(np.diff(at) > 1) + 1) if len(at) else []
