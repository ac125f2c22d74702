"""What is left of the limits while queries arrive, and where the next one may still go.

A deployment is open for a query if its use fits under every upper limit, and if lower limits can
still be met by the queries that are to come. For limits on numbers of queries over nested or
disjoint sets of deployments the second is exact: there are numbers of queries for all deployments
that meet every limit if and only if, from the smallest set to the largest, the least a set needs
is no more than the most it can take. For other lower limits it is an estimate: every query to come
adds as much as queries of this workload can add in the mean.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from greenopt.labelled import BoolArray, FloatArray, IntArray
from greenopt.problems.routing.formulation import Formulation, Pairs
from greenopt.problems.routing.instance import RoutingInstance

SLACK = 1e-9
"""Rounding that is no violation, relative to a side."""

FLOOR = "accuracy_floor"
"""Name of the row of the accuracy floor."""


class Rows:
    """Limits and the accuracy floor of an instance, as rows over deployments.

    Parameters
    ----------
    formulation : Formulation
        Of the instance.

    Attributes
    ----------
    names : tuple of str
        Limits in the order of the instance, then "accuracy_floor" if there is one.
    lower, upper : ndarray, shape (n_rows,)
        Sides, infinite where absent; those of numbers of queries are whole.
    """

    def __init__(self, formulation: Formulation) -> None:
        inst, model = formulation.instance, formulation.model
        self._limits, self._floor = inst.limits, inst.accuracy_floor_percent
        self._members = [_members(inst, limit.deployments) for limit in inst.limits]
        self.names = (
            *(limit.name for limit in inst.limits),
            *([FLOOR] * (self._floor is not None)),
        )
        self.at: IntArray = np.arange(len(inst.queries), model.matrix.shape[0])
        self.lower, self.upper = model.row_lower[self.at], model.row_upper[self.at]

    def use(self, pairs: Pairs) -> FloatArray:
        """What a query adds to each row, shape (n_queries, n_rows, n_deployments)."""
        result = np.zeros((pairs.shape[0], len(self.names), pairs.shape[1]))
        for i, (limit, members) in enumerate(zip(self._limits, self._members, strict=True)):
            result[:, i, members] = pairs.metric(limit.metric)[:, members]
        if self._floor is not None:
            result[:, -1, :] = (pairs.accuracy_percent - self._floor) * pairs.tokens
        return result

    @property
    def counted(self) -> list[Counted]:
        """Limits on numbers of queries."""
        return [
            Counted(frozenset(np.flatnonzero(members).tolist()), *sides)
            for limit, members, *sides in zip(
                self._limits, self._members, self.lower, self.upper, strict=False
            )
            if limit.metric == "queries"
        ]


def _members(inst: RoutingInstance, deployments: Sequence[str] | None) -> BoolArray:
    """Which deployments a limit is on."""
    every = inst.sets["deployment"]
    return np.isin(every, every if deployments is None else deployments)


class Counted(NamedTuple):
    """Limits on the number of queries of some deployments together."""

    deployments: frozenset[int]
    lower: float
    upper: float


class Counts:
    """Whether numbers of queries can still be completed within limits on them.

    Parameters
    ----------
    limits : sequence of Counted
        Those that cross an earlier one are left out.
    n_deployments : int
        How many deployments there are.
    """

    def __init__(self, limits: Sequence[Counted], n_deployments: int) -> None:
        every = frozenset(range(n_deployments))
        sides = {every: (0.0, math.inf)}
        for own, lower, upper in limits:
            if all(own <= other or other <= own or not own & other for other in sides):
                least, most = sides.get(own, (0.0, math.inf))
                sides[own] = max(least, lower), min(most, upper)
        sets = sorted(sides, key=len)  # everything comes last
        self._sides = [sides[own] for own in sets]
        self._used = [0] * len(sets)
        self._of = [[i for i, own in enumerate(sets) if k in own] for k in range(n_deployments)]
        self._inner: list[list[int]] = []
        self._covered: list[bool] = []
        for i, own in enumerate(sets):
            inside = [j for j in range(i) if sets[j] < own]
            inner = [j for j in inside if not any(sets[j] < sets[o] for o in inside)]
            self._inner.append(inner)
            self._covered.append(frozenset().union(*(sets[j] for j in inner)) == own)

    def slack(self, left: int) -> float:
        """Queries, of those left, that may go anywhere at all; negative if there is no way."""
        least: list[float] = []
        most: list[float] = []
        slack = math.inf
        for (lower, upper), used, inner, covered in zip(
            self._sides, self._used, self._inner, self._covered, strict=True
        ):
            needed = max(lower - used, sum(least[j] for j in inner), 0.0)
            room = min(upper - used, sum(most[j] for j in inner) if covered else math.inf)
            least.append(needed)
            most.append(room)
            slack = min(slack, room - needed)
        if most[-1] < left:
            return -math.inf
        return min(slack, left - least[-1])

    def take(self, k: int, queries: int = 1) -> None:
        """Send queries to a deployment."""
        for i in self._of[k]:
            self._used[i] += queries

    def fits(self, k: int, left: int) -> bool:
        """Whether one of those left may go to a deployment."""
        self.take(k)
        fits = self.slack(left - 1) >= 0
        self.take(k, -1)
        return fits


class Room:
    """What is left of every limit, updated query by query.

    Parameters
    ----------
    rows : Rows
        The limits.
    use : ndarray, shape (n_kinds, n_rows, n_deployments)
        What a query of each kind adds to each row.
    eligible : ndarray of bool, shape (n_kinds, n_deployments)
        Where it may go.
    count : ndarray, shape (n_kinds,)
        Queries of each kind.

    Attributes
    ----------
    used : ndarray, shape (n_rows,)
        Sum over the queries so far.
    left : int
        Queries to come, the next one included.
    """

    def __init__(self, rows: Rows, use: FloatArray, eligible: BoolArray, count: FloatArray) -> None:
        self.used, self.left = np.zeros(len(rows.names)), int(count.sum())
        self._counts, self._free = Counts(rows.counted, eligible.shape[1]), 0
        below = np.flatnonzero(np.isfinite(rows.upper))
        self._below, self._upper = below, (rows.upper + SLACK * np.abs(rows.upper))[below]
        above = np.flatnonzero(np.isfinite(rows.lower))
        self._above, self._lower = above, (rows.lower - SLACK * np.abs(rows.lower))[above]
        most = np.where(eligible[:, None, :], use[:, above], -np.inf).max(axis=2)
        most[~eligible.any(axis=1)] = 0.0
        self._best = count @ most / self.left

    def open(self, eligible: IntArray, use: FloatArray) -> IntArray:
        """Where a query may go so that limits can still be met.

        If there is nowhere, where it breaks no upper limit; if there is nowhere either, where it
        is eligible.

        Parameters
        ----------
        eligible : ndarray of int
            Deployments it may go to, as far as it is concerned.
        use : ndarray, shape (n_rows, n_deployments)
            What it is thought to add to each row.
        """
        found = self._within(eligible, use)
        kept = self._leading(self._completing(found), use)
        return kept if len(kept) else found if len(found) else eligible

    def _within(self, at: IntArray, use: FloatArray) -> IntArray:
        if not len(self._below):
            return at
        own = use[self._below][:, at]
        fits = own + self.used[self._below, None] <= self._upper[:, None]
        found: IntArray = at[(fits | (own <= 0)).all(axis=0)]
        return found

    def _completing(self, at: IntArray) -> IntArray:
        if self._free <= 0:  # one query uses up one of the slack at most
            slack = self._counts.slack(self.left)
            self._free = int(min(slack, self.left)) if slack >= 1 else 0
        if self._free > 0:
            return at
        return np.array([k for k in at if self._counts.fits(int(k), self.left)], dtype=at.dtype)

    def _leading(self, at: IntArray, use: FloatArray) -> IntArray:
        """Deployments at which a query does what lower limits need of it, or the most it can."""
        needed = self._lower - self.used[self._above] - self._best * (self.left - 1)
        for i in np.flatnonzero(needed > use[self._above].min(axis=1)):
            row, least = self._above[i], needed[i]
            if len(at) > 1:
                own = use[row, at]
                at = at[own >= min(least, own.max())]
        return at

    def take(self, k: int, use: FloatArray) -> None:
        """Send a query, which adds this to the rows of its deployment, there."""
        self.used += use
        self._counts.take(k)
        self.left -= 1
        self._free -= 1
