"""Times of rows: ISO 8601 stamps to UTC, and what daylight saving does to local ones."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any, NamedTuple
from zoneinfo import ZoneInfo

import numpy as np

from greenopt.datasets._tables import AnyPath, BoolArray, IntArray, Table, refuse, report
from greenopt.errors import Problem

EXAMPLE = "2024-01-31T05:00Z"
_DAY_S = 86400
_US = 1_000_000


class Stamps(NamedTuple):
    """Times of the rows of a table.

    Attributes
    ----------
    utc_s : ndarray of int, shape (n_rows,)
        Seconds since 1970 in UTC.
    notes : tuple of str
        What was converted.
    repeated : dict of int to str
        For an hour that the clocks repeat and the file has once: the UTC time at which the second
        pass begins, and what to say if it is missing.
    """

    utc_s: IntArray
    notes: tuple[str, ...]
    repeated: dict[int, str]


def shown(utc_s: int) -> str:
    """A UTC time as it stands in messages."""
    text = str(np.datetime64(int(utc_s), "s"))
    return f"{text.removesuffix(':00')}Z"


def instant_s(path: AnyPath, name: str, value: Any) -> int:
    """Seconds since 1970 of a time that a caller gives, with its zone.

    Raises
    ------
    InputError
        For anything but an ISO 8601 text or a `datetime` with a zone and whole seconds.
    """
    try:
        time = datetime.fromisoformat(value) if isinstance(value, str) else value
        aware = isinstance(time, datetime) and time.utcoffset() is not None
    except ValueError:
        aware = False
    if not aware:
        refuse(path, name, f"is {value!r}; expected a time with its zone, such as {EXAMPLE!r}")
    seconds = time.timestamp()
    if seconds != int(seconds):
        refuse(path, name, f"is {value!r}; expected whole seconds")
    return int(seconds)


def parse(table: Table, column: str) -> tuple[list[datetime], IntArray, list[timedelta | None]]:
    """Stamps of a column, their clock readings in microseconds, and their offsets from UTC.

    Raises
    ------
    InputError
        Naming the rows whose cell is not an ISO 8601 time.
    """
    cells = table.cells(column)
    times, problems = [], []
    for i, cell in enumerate(cells):
        try:
            times.append(datetime.fromisoformat(cell))
        except ValueError:
            what = f"is {cell!r}; expected an ISO 8601 time such as {EXAMPLE}"
            problems.append(Problem(f"data row {i + 1}, column {column!r}", what))
    report(table.path, problems)
    clock = np.array([time.replace(tzinfo=None) for time in times], dtype="datetime64[us]")
    return times, clock.astype(np.int64), [time.utcoffset() for time in times]


def read_stamps(table: Table, column: str, zone: str | None) -> Stamps:
    """Times of the rows in UTC.

    Parameters
    ----------
    table : Table
        The table.
    column : str
        Its column of times.
    zone : str or None
        IANA name of the zone of stamps that have none.

    Raises
    ------
    InputError
        For cells that are not times, for stamps without a zone where none is given, with a zone
        where one is given, and for local times that do not exist.
    """
    times, clock_us, offsets = parse(table, column)
    where = f"column {column!r}"
    fractions = np.flatnonzero(clock_us % _US)
    report(
        table.path,
        [
            Problem(
                f"data row {i + 1}, {where}",
                f"is {table.cells(column, [int(i)])[0]!r}; expected whole seconds",
            )
            for i in fractions
        ],
    )
    clock_s = clock_us // _US
    _refuse_zones(table, column, np.array([offset is None for offset in offsets]), zone)
    if zone is not None:
        return _from_local(table, where, times, clock_s, zone)
    seconds = np.array([offset.total_seconds() for offset in offsets if offset is not None])
    notes = ("stamps with an offset were converted to UTC",) if seconds.any() else ()
    return Stamps(clock_s - seconds.astype(np.int64), notes, {})


def _refuse_zones(table: Table, column: str, bare: BoolArray, zone: str | None) -> None:
    """Refuse stamps without a zone where none is given, and with one where one is."""
    wrong = np.flatnonzero(bare if zone is None else ~bare)
    if not len(wrong):
        return
    i = int(wrong[0])
    cell = table.cells(column, [i])[0]
    these = f"like {len(wrong)} of {len(bare)} stamps"
    if zone is None:
        guess = "UTC" if "utc" in column.lower() else "Europe/Berlin"
        what = (
            f"is {cell!r}, without a zone, {these}; expected one, as in {EXAMPLE}, or the "
            f"zone of all stamps as an argument, such as zone={guess!r}"
        )
    else:
        what = (
            f"is {cell!r}, with a zone of its own, {these}; expected none with "
            f"zone={zone!r}: leave that argument out"
        )
    refuse(table.path, f"data row {i + 1}, column {column!r}", what)


def _from_local(
    table: Table, where: str, times: list[datetime], clock_s: IntArray, name: str
) -> Stamps:
    zone = _zone(table.path, name)
    first = _offsets(times, zone, 0)
    second = _offsets(times, zone, 1)
    _refuse_skipped(table, where, clock_s, first, second, name)
    notes = [f"stamps are local times of {name}, converted to UTC"]
    offset, repeated = _choose_passes(clock_s, first, second)
    changes = np.flatnonzero(np.diff(offset)) + 1
    if len(changes):
        days = ", ".join(dict.fromkeys(_date(clock_s[i]) for i in changes))
        notes.append(f"clocks of {name} change on {days}, which the conversion follows")
    said = {}
    for i in repeated:
        day = _date(clock_s[i])
        count = int(np.count_nonzero(clock_s // _DAY_S == clock_s[i] // _DAY_S))
        said[int(clock_s[i] - second[i])] = (
            f"on {day} clocks of {name} go back and repeat {_time(clock_s[i])}, "
            f"but the file has it once ({count} stamps on that day)"
        )
    return Stamps(clock_s - offset, tuple(notes), said)


def _zone(path: str, name: str) -> ZoneInfo:
    try:
        return ZoneInfo(name)
    except (KeyError, ValueError, TypeError, OSError):
        what = (
            f"is {name!r}; expected an IANA name that this system knows, such as 'Europe/Berlin' "
            "or 'UTC' (where it has no time zones, install tzdata)"
        )
        refuse(path, "zone", what)


def _offsets(times: list[datetime], zone: ZoneInfo, fold: int) -> IntArray:
    """Offset from UTC, s, of each local time; `fold` chooses between both of a repeated hour."""
    found = (time.replace(tzinfo=zone, fold=fold).utcoffset() for time in times)
    return np.array([offset.total_seconds() for offset in found if offset is not None]).astype(
        np.int64
    )


def _refuse_skipped(
    table: Table, where: str, clock_s: IntArray, before: IntArray, after: IntArray, name: str
) -> None:
    """Refuse local times that the clocks jump over in spring."""
    problems = []
    for i in np.flatnonzero(after > before):
        day = clock_s[i] // _DAY_S
        count = int(np.count_nonzero(clock_s // _DAY_S == day))
        hours = -before[i] / 3600
        fixed = f"zone='Etc/GMT{hours:+.0f}'" if hours == int(hours) else "its fixed offset"
        what = (
            f"is {_date(clock_s[i])} {_time(clock_s[i])}, which does not exist in {name}: clocks "
            f"go forward over it. The file has {count} stamps on that day; if it keeps standard "
            f"time all year, give {fixed}"
        )
        problems.append(Problem(f"data row {i + 1}, {where}", what))
    report(table.path, problems)


def _choose_passes(
    clock_s: IntArray, first: IntArray, second: IntArray
) -> tuple[IntArray, list[int]]:
    """Offsets with the pass of each repeated hour decided, and first rows of first passes alone.

    A second pass begins where the clock reading does not increase within the hour. A pass alone is
    the first, unless only the second fits the usual step from the row before (or, at the beginning
    of the file, to the row after).
    """
    offset, once = first.copy(), []
    step = _usual(np.diff(clock_s))
    repeated = np.flatnonzero(first > second)
    apart = (np.diff(repeated) > 1) | (np.diff(clock_s[repeated]) > _DAY_S)
    for run in np.split(repeated, np.flatnonzero(apart) + 1) if len(repeated) else []:
        i, after = run[0], run[-1] + 1
        back = np.flatnonzero(np.diff(clock_s[run]) <= 0)
        if len(back):
            later = run[back[0] + 1 :]
            offset[later] = second[later]
            continue
        begins = clock_s[i] - np.array([first[i], second[i]])
        if i > 0:
            fits = begins - (clock_s[i - 1] - offset[i - 1]) == step
        elif after < len(clock_s):
            ends = clock_s[run[-1]] - np.array([first[run[-1]], second[run[-1]]])
            fits = clock_s[after] - first[after] - ends == step
        else:
            fits = np.array([True, False])
        if fits[1] and not fits[0]:
            offset[run] = second[run]
        else:
            once.append(int(i))
    return offset, once


def _usual(lengths: IntArray) -> int:
    """The most common length of a step."""
    found, often = np.unique(lengths, return_counts=True)
    return int(found[np.argmax(often)]) if len(found) else 0


def _date(clock_s: int) -> str:
    return str(np.datetime64(int(clock_s), "s"))[:10]


def _time(clock_s: int) -> str:
    return str(np.datetime64(int(clock_s), "s"))[11:16]
