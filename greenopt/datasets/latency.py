"""Round-trip times between places."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from greenopt.datasets._tables import (
    AnyPath,
    BoolArray,
    FloatArray,
    read_table,
    refuse,
    refuse_ragged,
    report,
)
from greenopt.errors import Problem

SECONDS = {"ms": 1e-3, "s": 1.0}
"""Length of each unit that is read."""

LARGEST_RTT_S = 20.0
"""No round trip takes longer; a file above is in milliseconds (our rule)."""

SMALLEST_LARGEST_RTT_S = 0.005
"""A matrix of regions whose longest round trip is shorter is in seconds (our rule)."""

ASYMMETRY = 2.0
"""A round trip and its reverse take the same way; beyond this ratio one is mistaken (our rule)."""

ASYMMETRY_FLOOR_S = 0.010
"""Differences up to this are not judged: short paths vary by as much (our rule)."""

_LISTED = 20


@dataclass(frozen=True, eq=False)
class RttMatrix:
    """Round-trip times from origins to sites.

    Attributes
    ----------
    source : str
        Path of the file.
    origins, sites : tuple of str
        Names of the rows and of the columns; the two may differ.
    seconds : ndarray of float, shape (n_origins, n_sites)
        Round-trip times, s; NaN where the file is blank and the reader was asked to allow it.
    notes : tuple of str
        What was found.
    """

    source: str
    origins: tuple[str, ...]
    sites: tuple[str, ...]
    seconds: FloatArray
    notes: tuple[str, ...]

    def __post_init__(self) -> None:
        self.seconds.setflags(write=False)

    def __repr__(self) -> str:
        return f"<round-trip times [s]: {len(self.origins)} origins x {len(self.sites)} sites>"

    def select(self, origins: Sequence[str], sites: Sequence[str]) -> RttMatrix:
        """Some origins and sites, in the order given.

        Raises
        ------
        InputError
            If one does not exist.
        """
        problems = [
            Problem(kind, f"has no {name!r}; there are {', '.join(map(repr, known))}")
            for kind, names, known in (
                ("origins", origins, self.origins),
                ("sites", sites, self.sites),
            )
            for name in names
            if name not in known
        ]
        report(self.source, problems)
        rows = [self.origins.index(name) for name in origins]
        columns = [self.sites.index(name) for name in sites]
        return replace(
            self,
            origins=tuple(origins),
            sites=tuple(sites),
            seconds=self.seconds[np.ix_(rows, columns)],
        )


def read_rtt(
    path: AnyPath, *, unit: str = "ms", missing: Literal["refuse", "allow"] = "refuse"
) -> RttMatrix:
    """Matrix of round-trip times.

    Refused are a round trip and its reverse that differ by more than 10 ms and a factor of 2, round
    trips between two places that are not above 0, and a unit that does not fit: a largest round
    trip below 5 ms looks like seconds, one above 20 s like milliseconds.

    Parameters
    ----------
    path : path
        CSV file with a header, plain or ``.gz``: origins in the first column, a column for each
        site.
    unit : {"ms", "s"}
        Unit in the file.
    missing : {"refuse", "allow"}
        Whether blank cells are an error or NaN. Many matrices leave the diagonal blank, the round
        trip within a place.

    Raises
    ------
    InputError
        Naming file, row, column, value and expectation of what is wrong.
    """
    if unit not in SECONDS:
        refuse(path, "unit", f"is {unit!r}; expected 'ms' or 's'")
    if missing not in ("refuse", "allow"):
        refuse(path, "missing", f"is {missing!r}; expected 'refuse' or 'allow'")
    table = read_table(path)
    refuse_ragged(table)
    origins = table.cells(table.columns[0])
    sites = table.columns[1:]
    _refuse_names(table.path, origins, sites)
    raw = table.numbers(sites, unknown=True)
    same = np.array([[origin == site for site in sites] for origin in origins])
    _refuse_unit(table.path, unit, raw[~same])
    seconds = raw * SECONDS[unit]
    problems = _impossible(origins, sites, raw, same) + _asymmetric(origins, sites, raw, unit)
    report(path, problems, _LISTED)
    blank, notes = _blank(origins, sites, raw, same)
    if missing == "refuse":
        report(path, blank, _LISTED)
    return RttMatrix(str(path), tuple(origins), tuple(sites), seconds, tuple(notes))


def _refuse_names(path: str, origins: Sequence[str], sites: Sequence[str]) -> None:
    problems = [
        Problem(f"data row {i + 1}", f"is {name!r} again" if name else "has no name of an origin")
        for i, name in enumerate(origins)
        if not name or name in origins[:i]
    ]
    problems += [
        Problem("header", "has a column without the name of a site") for s in sites if not s
    ]
    if not sites:
        problems.append(Problem("header", "has no sites after its first column"))
    report(path, problems)


def _refuse_unit(path: str, unit: str, raw: FloatArray) -> None:
    """Refuse a matrix whose longest round trip does not fit its unit."""
    known = raw[~np.isnan(raw)]
    if not len(known):
        return
    most = known.max()
    longest_s = most * SECONDS[unit]
    if 0 < longest_s < SMALLEST_LARGEST_RTT_S and unit == "ms":
        what = "expected at least 5 ms between some places; looks like seconds: pass unit='s'"
    elif longest_s > LARGEST_RTT_S:
        what = f"expected at most {LARGEST_RTT_S:g} s"
        if unit == "s":
            what += "; looks like milliseconds: pass unit='ms'"
    else:
        return
    refuse(path, "unit", f"is {unit!r}, in which the longest round trip is {most:g} {unit}; {what}")


def _impossible(
    origins: Sequence[str], sites: Sequence[str], raw: FloatArray, same: BoolArray
) -> list[Problem]:
    bad = (raw < 0) | ((raw == 0) & ~same)
    return [
        Problem(
            f"data row {i + 1} ({origins[i]!r}), column {sites[j]!r}",
            f"is {raw[i, j]:g}; expected a round-trip time above 0",
        )
        for i, j in np.argwhere(bad)
    ]


def _asymmetric(
    origins: Sequence[str], sites: Sequence[str], raw: FloatArray, unit: str
) -> list[Problem]:
    """Pairs whose two directions cannot both be right."""
    both = [name for name in origins if name in sites]
    rows = [origins.index(name) for name in both]
    there = raw[np.ix_(rows, [sites.index(name) for name in both])]
    larger, smaller = np.fmax(there, there.T), np.fmin(there, there.T)
    given = ~np.isnan(there + there.T)
    apart = (larger - smaller) * SECONDS[unit] > ASYMMETRY_FLOOR_S
    wrong = np.triu(np.asarray(given & apart & (larger > ASYMMETRY * smaller)), 1)
    return [
        Problem(
            f"data row {rows[i] + 1} ({both[i]!r}), column {both[j]!r}",
            f"is {there[i, j]:g} {unit}, and {there[j, i]:g} {unit} in the other direction; "
            f"expected both within a factor of {ASYMMETRY:g}",
        )
        for i, j in np.argwhere(wrong).tolist()
    ]


def _blank(
    origins: Sequence[str], sites: Sequence[str], raw: FloatArray, same: BoolArray
) -> tuple[list[Problem], list[str]]:
    """Blank cells as problems, and as notes with the names that stand on one side only."""
    blank = np.isnan(raw)
    found = []
    if diagonal := int((blank & same).sum()):
        found.append(("diagonal", f"is blank for {diagonal} of {int(same.sum())} places"))
    rest = blank & ~same
    for j in np.flatnonzero(rest.sum(axis=0) > len(origins) / 2).tolist():
        what = f"is blank for {int(rest[:, j].sum())} of {len(origins)} origins"
        found.append((f"column {sites[j]!r}", what))
        rest[:, j] = False
    for i in np.flatnonzero(rest.sum(axis=1) > len(sites) / 2).tolist():
        what = f"is blank for {int(rest[i].sum())} of {len(sites)} sites"
        found.append((f"data row {i + 1} ({origins[i]!r})", what))
        rest[i] = False
    for i, j in np.argwhere(rest).tolist():
        found.append((f"data row {i + 1} ({origins[i]!r}), column {sites[j]!r}", "is blank"))
    advice = "expected round-trip times (missing='allow' gives NaN)"
    problems = [Problem(where, f"{what}; {advice}") for where, what in found]
    notes = [f"{where} {what}" for where, what in found]
    if same.any():
        for names, others, kinds in ((origins, sites, "site"), (sites, origins, "origin")):
            if lone := [name for name in names if name not in others]:
                kind = "origins" if names is origins else "sites"
                notes.append(f"{kind} that are no {kinds}s: {', '.join(lone)}")
    return problems, notes
