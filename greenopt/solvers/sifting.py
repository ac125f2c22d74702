"""Sifting of models in which every column is one way to meet one of many choice rows.

Many groups of columns, each with a row that says how much of it there is, and a few coupling rows:
a transportation or generalised assignment problem. Prices of the coupling rows say what each column
is worth, so that only a few columns a group are worth a look: a small linear program over these
gives better prices, and pricing all columns proves its optimum (Bixby and others' sifting; our
statement). In a search, every column whose reduced cost is above the gap between a known point
and that bound is in no better point, so what is left is small, and nothing is lost.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from scipy import sparse

from greenopt.labelled import BoolArray, FloatArray, IntArray
from greenopt.solvers import highs
from greenopt.solvers.highs import version
from greenopt.solvers.scaling import Scaled
from greenopt.solvers.task import Answer, Line, Task, Termination

__all__ = ["solve", "version"]

MOST_COUPLING = 200
"""With more coupling rows their prices are no longer the easy part."""

DENSE, LEAST_DENSE = 0.002, 100
"""A row with entries in more than this share of the columns, and in so many, couples groups."""

SAMPLE = 2000
"""Groups whose linear program gives the first prices."""

FIRST_SHARE, LEAST_EXTRA, MOST_EXTRA = 0.1, 4000, 80_000
"""Columns beyond the cheapest one of each group in the linear programs."""

ROUNDING = 1e-9
"""Relative gap that is rounding."""

ROOM = 1e-7
"""Violation of a coupling row that is rounding, relative to its side where that is above one."""

NOISE = 1e-12
"""Share of the terms of a bound that may be rounding."""

PENALTY = 100.0
"""Price of breaking a coupling row in the sample, in mean costs of a group."""

LEAST_BOX = 1e-3
"""How far prices may always move at first; a linear program does not feel much less."""

MOST_ROUNDS = 60

SEARCHES = ((300, 5.0), (2000, 10.0), (10_000, 30.0))
"""Columns beyond the cheapest ones in the searches, one after the other, and seconds for each."""


class Choices(NamedTuple):
    """How a model is made of groups.

    Attributes
    ----------
    row : ndarray of int, shape (n_groups,)
        Choice row of each group.
    order : ndarray of int, shape (n_columns,)
        Columns, group by group.
    start : ndarray of int, shape (n_groups,)
        Where each group begins in that order.
    group : ndarray of int, shape (n_columns,)
        Of each column.
    entry : ndarray, shape (n_columns,)
        Coefficient of each column in its choice row.
    coupling : ndarray of int
        The other rows.
    """

    row: IntArray
    order: IntArray
    start: IntArray
    group: IntArray
    entry: FloatArray
    coupling: IntArray


def choices_of(scaled: Scaled) -> Choices | None:
    """The groups of a model; None if it is not made of them."""
    n_rows, n_columns = scaled.matrix.shape
    if scaled.q is not None or not n_columns or (scaled.column_lower != 0).any():
        return None
    by_row = scaled.matrix.tocsr()
    length = np.diff(by_row.indptr)
    equal = (scaled.row_lower == scaled.row_upper) & np.isfinite(scaled.row_lower)
    choice = equal & (scaled.row_lower >= 0) & (length <= max(DENSE * n_columns, LEAST_DENSE))
    choice &= length > 0
    if n_rows - choice.sum() > MOST_COUPLING:
        return None
    rows = np.flatnonzero(choice)
    own = sparse.csc_array(by_row[rows])
    if (np.diff(own.indptr) != 1).any() or (own.data <= 0).any():
        return None
    group, entry = own.indices.astype(np.int64), own.data
    most = scaled.row_lower[rows][group] / entry
    if (scaled.column_upper < most * (1 - ROUNDING)).any():
        return None
    order = np.argsort(group, kind="stable")
    start = np.searchsorted(group[order], np.arange(len(rows)))
    if scaled.is_integer:  # the column that takes what others leave must stay whole
        equal_entries = (entry == entry[order[start]][group]).all()
        whole = (np.abs(most - np.round(most)) <= ROUNDING).all()
        if not (scaled.integer.all() and equal_entries and whole):
            return None
    return Choices(rows, order, start, group, entry, np.flatnonzero(~choice))


def solve(task: Task, line: Line) -> Answer:
    """Solve one model, by sifting if it is made of groups."""
    started = time.perf_counter()
    choices = choices_of(task.scaled)
    if choices is None:
        return _whole(task, line, "its columns do not fall into groups", started)
    return _Sifting(task, line, choices, started).answer()


def _whole(task: Task, line: Line, why: str, started: float) -> Answer:
    left = max(task.time_limit_s - (time.perf_counter() - started), 1e-3)
    answer = highs.solve(replace(task, algorithm="choose", time_limit_s=left), line)
    spent = time.perf_counter() - started
    message = f"{answer.message} (solved whole: {why})"
    return replace(answer, message=message, runtime_s=spent)


@dataclass
class _Point:
    """A point of the model and what it costs."""

    x: FloatArray
    value: float


@dataclass(frozen=True, eq=False)
class _Part:
    """The model over some columns beside the base column of each group.

    Attributes
    ----------
    columns, group : ndarray of int
        The columns, and their groups.
    base : ndarray of int
        Base column of every group.
    share : ndarray
        How much of its base column one of each column replaces.
    x : ndarray
        The point at which base columns do everything.
    scaled : Scaled
        The program, what `x` does taken off its sides.
    """

    columns: IntArray
    group: IntArray
    base: IntArray
    share: FloatArray
    x: FloatArray
    scaled: Scaled


class _Sifting:
    """One solve."""

    def __init__(self, task: Task, line: Line, choices: Choices, started: float) -> None:
        self._task, self._line, self._choices = task, line, choices
        self._started, self._until = started, started + task.time_limit_s
        scaled = task.scaled
        self._amount = scaled.row_lower[choices.row]
        self._coupling = sparse.csc_array(scaled.matrix.tocsr()[choices.coupling])
        self._lower = scaled.row_lower[choices.coupling]
        self._upper = scaled.row_upper[choices.coupling]
        self._counts = {"simplex_iterations": 0, "rounds": 0, "columns_looked_at": 0}
        self._known: _Point | None = None
        self._bound, self._noise = -np.inf, 0.0
        self._price: FloatArray = np.zeros(len(choices.coupling))
        typical = float(np.abs(scaled.c).mean()) * float(self._amount.mean())
        self._penalty = PENALTY * max(typical, 1.0)

    # -- pricing -----------------------------------------------------------------------------------

    def _look(self, price: FloatArray) -> tuple[FloatArray, IntArray]:
        """Price all columns, and keep the best bound that comes of it.

        Returns
        -------
        excess : ndarray, shape (n_columns,)
            Reduced cost of each column, 0 for the cheapest of its group.
        base : ndarray of int, shape (n_groups,)
            A cheapest column of each group.
        """
        choices, scaled = self._choices, self._task.scaled
        price = np.where(np.isfinite(self._lower), price, np.minimum(price, 0.0))
        price = np.where(np.isfinite(self._upper), price, np.maximum(price, 0.0))
        reduced = scaled.c - self._coupling.T @ price
        each = (reduced / choices.entry)[choices.order]
        cheapest = np.minimum.reduceat(each, choices.start)
        at_least = np.flatnonzero(each == cheapest[choices.group[choices.order]])
        groups = choices.group[choices.order[at_least]]
        base = choices.order[at_least[np.searchsorted(groups, np.arange(len(cheapest)))]]
        side = np.where(price > 0, self._lower, self._upper)
        of_rows = price * np.where(price != 0, side, 0.0)
        bound = float(cheapest @ self._amount) + float(of_rows.sum())
        if bound > self._bound:
            self._bound, self._price, self._cheapest = bound, price, cheapest
            size = float(np.abs(cheapest) @ self._amount) + float(np.abs(of_rows).sum())
            self._noise = NOISE * size
        return reduced - cheapest[choices.group] * choices.entry, base

    # -- linear program ----------------------------------------------------------------------------

    def answer(self) -> Answer:
        """Sift, and search if columns must be whole."""
        point = self._sift()
        if isinstance(point, Answer):
            return point
        if not self._task.scaled.is_integer:
            return self._ended(Termination.OPTIMAL, "Optimal", point)
        if _is_whole(point.x, self._task.scaled.integer):
            return self._ended(Termination.OPTIMAL, "Optimal, its relaxation is whole", point)
        return self._search(point)

    def _sift(self) -> _Point | Answer:
        """Solve the linear relaxation; a point, or how it ended without one.

        Prices move in a box around those with the best bound: a few columns know what prices are
        worth near by, not far away.
        """
        extra = int(np.clip(FIRST_SHARE * len(self._choices.group), LEAST_EXTRA, MOST_EXTRA))
        self._look(self._first_price())
        center, box = self._price, None  # a sample's prices may be worse than none
        excess, base = self._look(center)
        for _ in range(MOST_ROUNDS):
            if time.perf_counter() >= self._until:
                return self._ended(Termination.LIMIT, "Time limit reached", self._known)
            columns = _least(excess, extra)
            part = self._part(columns, base, self._amount, elastic=True)
            if box is None:
                box = self._first_box(part, excess)
            found = self._restricted(part, center - box, center + box)
            if isinstance(found, Answer):
                return found
            point, price, broken = found
            before = self._bound
            looked = self._look(price)
            self._line.log(f"sifting: value {point.value:.12g}, bound {self._bound:.12g}")
            if not broken.any():
                if not self._holds(point):
                    return self._whole("its coefficients are too far apart")
                if not self._task.scaled.is_integer:
                    self._known = self._better(self._known, point)
                if self._proves(point):
                    return point
            if self._bound - self._noise > self._most:
                return self._ended(Termination.INFEASIBLE, "Infeasible", None)
            if self._bound > before:  # at the box's sides there may be more to gain
                (excess, base), center = looked, self._price
                box = np.where(broken, 2 * box, box)
            elif broken.any():
                box = box / 4
            else:
                extra, box = 2 * extra, box / 2
        return self._whole("prices did not settle")

    def _holds(self, point: _Point) -> bool:
        """Whether a point keeps the coupling rows, but for rounding."""
        activity = self._coupling @ point.x
        off = np.maximum(self._lower - activity, activity - self._upper)
        side = np.minimum(np.abs(self._lower), np.abs(self._upper))
        room = ROOM * np.maximum(side, 1.0) + ROUNDING * (abs(self._coupling) @ point.x)
        return bool((off <= room).all())

    def _proves(self, point: _Point) -> bool:
        """Whether the bound is as good as a point, but for rounding."""
        room = ROUNDING * float(np.abs(self._task.scaled.c) @ point.x)
        return point.value - self._bound <= max(room, 1e-12)

    @cached_property
    def _most(self) -> float:
        """What no point costs more than: a bound above it proves that there is none."""
        choices, c = self._choices, self._task.scaled.c
        each = (c / choices.entry)[choices.order]
        dearest = float(np.maximum.reduceat(each, choices.start) @ self._amount)
        size = float(np.maximum.reduceat(np.abs(each), choices.start) @ self._amount)
        return dearest + 1e-6 * max(size, 1.0)

    def _first_price(self) -> FloatArray:
        """Prices of the coupling rows in a sample of the groups that stands for all of them."""
        choices = self._choices
        n_groups = len(choices.row)
        base = self._look(self._price)[1]
        if n_groups <= SAMPLE or not self._amount.any():
            return self._price
        largest_first = np.argsort(-self._amount, kind="stable")
        taken = np.zeros(n_groups, dtype=bool)
        taken[largest_first[:: n_groups // SAMPLE]] = True
        amount = np.where(taken, self._amount, 0.0)
        amount *= self._amount.sum() / amount.sum()
        part = self._part(taken[choices.group], base, amount, elastic=True)
        wide = np.full(len(choices.coupling), self._penalty)
        found = self._restricted(part, -wide, wide)
        return self._price if isinstance(found, Answer) else found[1]

    def _first_box(self, part: _Part, excess: FloatArray) -> FloatArray:
        """How far prices may move at first: until the columns left out would be wanted."""
        known = float(excess[part.columns].max(initial=0.0))
        n = len(part.columns)
        own = abs(part.scaled.matrix[: len(self._choices.coupling), :n])
        used = np.maximum(np.diff(own.tocsr().indptr), 1)
        typical = np.asarray(own.sum(axis=1)).ravel() / used
        far = np.where(typical > 0, known / np.where(typical > 0, typical, 1.0), 0.0)
        return np.maximum(far, LEAST_BOX)

    def _restricted(
        self, part: _Part, lowest: FloatArray, highest: FloatArray
    ) -> tuple[_Point, FloatArray, BoolArray] | Answer:
        """A program over some columns: point, prices of coupling rows, and which are broken.

        Parameters
        ----------
        part : _Part
            With columns that break coupling rows.
        lowest, highest : ndarray
            Between which the prices stay: what it costs to break a row.
        """
        n, n_rows = len(part.columns), len(self._choices.coupling)
        c = part.scaled.c.copy()
        c[n : n + n_rows], c[n + n_rows :] = highest, -lowest
        left = max(self._until - time.perf_counter(), 1e-3)
        answer = highs.solve(
            replace(
                self._task,
                scaled=replace(part.scaled, c=c),
                algorithm="simplex",
                time_limit_s=left,
                start=None,
                presolve=False,  # which takes minutes on dense rows of many columns
            ),
            Line(self._line.log),
        )
        self._counts["simplex_iterations"] += answer.counts.get("simplex_iterations", 0)
        self._counts["rounds"] += 1
        self._counts["columns_looked_at"] = n
        if answer.termination != Termination.OPTIMAL:
            return self._failed(answer)
        assert answer.x is not None
        assert answer.row_dual is not None
        x = self._filled(part, answer.x)
        slack = answer.x[n : n + n_rows] + answer.x[n + n_rows :]
        point = _Point(x, float(self._task.scaled.c @ x))
        return point, answer.row_dual[:n_rows], slack > 10 * ROUNDING

    def _part(
        self,
        columns: BoolArray,
        base: IntArray,
        amount: FloatArray,
        *,
        elastic: bool,
    ) -> _Part:
        """The model over some columns, each group's base column put in terms of its others.

        A group with a single other column needs no row: its amount is the column's upper bound.
        """
        choices, scaled = self._choices, self._task.scaled
        others = columns.copy()
        others[base] = False
        rest = np.flatnonzero(others)
        own = choices.group[rest]
        x = np.zeros(len(choices.group))
        x[base] = amount / choices.entry[base]
        share = choices.entry[rest] / choices.entry[base[own]]
        coupling = self._coupling[:, rest] - self._coupling[:, base[own]] @ sparse.diags_array(
            share, shape=(len(rest), len(rest))
        )
        many = np.flatnonzero(np.bincount(own, minlength=len(base)) > 1)
        number = np.full(len(base), -1)
        number[many] = np.arange(len(many))
        in_row = np.flatnonzero(number[own] >= 0)
        rows = sparse.csr_array(
            (choices.entry[rest[in_row]], (number[own[in_row]], in_row)),
            shape=(len(many), len(rest)),
        )
        n_slack = 2 * len(choices.coupling) if elastic else 0
        eye = sparse.eye_array(len(choices.coupling), n_slack // 2)
        empty = sparse.csr_array((len(many), n_slack // 2))
        blocks: list[list[Any]] = [[coupling, eye, -eye], [rows, empty, empty]]
        moved = self._coupling @ x
        whole = np.zeros(len(rest), dtype=bool) if elastic else scaled.integer[rest]
        return _Part(
            rest,
            own,
            base,
            share,
            x,
            replace(
                scaled,
                matrix=sparse.csc_array(sparse.block_array(blocks)),
                c=np.append(scaled.c[rest] - share * scaled.c[base[own]], np.zeros(n_slack)),
                column_lower=np.zeros(len(rest) + n_slack),
                column_upper=np.append(amount[own] / choices.entry[rest], np.full(n_slack, np.inf)),
                row_lower=np.append(self._lower - moved, np.full(len(many), -np.inf)),
                row_upper=np.append(self._upper - moved, amount[many]),
                column=np.ones(len(rest) + n_slack),
                row=np.ones(len(choices.coupling) + len(many)),
                integer=np.append(whole, np.zeros(n_slack, dtype=bool)),
            ),
        )

    @staticmethod
    def _filled(part: _Part, values: FloatArray) -> FloatArray:
        """The point of the model that a point of a part stands for."""
        x, own = part.x.copy(), np.maximum(values[: len(part.columns)], 0.0)
        x[part.columns] = own
        taken = np.bincount(part.group, part.share * own, len(part.base))
        x[part.base] = np.maximum(x[part.base] - taken, 0.0)
        return x

    # -- search ------------------------------------------------------------------------------------

    def _search(self, relaxed: _Point) -> Answer:
        """Whole numbers, among more and more columns, at last among all that can matter."""
        excess, base = self._look(self._price)
        best: _Point | None = None
        for extra, seconds in SEARCHES:
            if extra >= len(excess):
                break
            columns = _least(excess, extra)
            columns[relaxed.x > 0] = True
            best = self._better(best, self._searched(columns, base, seconds)[0])
            if best is None:
                continue
            self._line.improve(best.x)
            if self._closed(best):
                return self._ended(Termination.OPTIMAL, "Optimal", best)
        # No better point than the best one has a column whose reduced cost is above the gap.
        most = np.inf if best is None else best.value - self._bound + self._room(best)
        columns = (excess <= most) | (relaxed.x > 0)
        found, answer = self._searched(columns, base, np.inf)
        best = self._better(best, found)
        if best is None:
            return self._failed(answer)
        ending = (
            Termination.LIMIT if answer.termination != Termination.OPTIMAL else Termination.OPTIMAL
        )
        return self._ended(ending, answer.message, best, answer.bound)

    def _searched(
        self, columns: BoolArray, base: IntArray, seconds: float
    ) -> tuple[_Point | None, Answer]:
        """The best point over some columns that a search finds in a time, and what it says."""
        part = self._part(columns, base, self._amount, elastic=False)
        left = max(min(self._until - time.perf_counter(), seconds), 1e-3)
        line = Line(self._line.log)
        task = replace(
            self._task,
            scaled=_with_constant(part.scaled, float(self._task.scaled.c @ part.x)),
            algorithm="choose",
            time_limit_s=left,
            gap=max(self._task.gap / 2, ROUNDING),
            start=None,
        )
        answer = highs.solve(task, line)
        self._counts["columns_looked_at"] = len(part.columns)
        values = line.incumbent if answer.x is None else answer.x
        if values is None:
            return None, answer
        x = self._filled(part, np.round(values))
        return _Point(x, float(self._task.scaled.c @ x)), answer

    @staticmethod
    def _better(one: _Point | None, other: _Point | None) -> _Point | None:
        both = [point for point in (one, other) if point is not None]
        return min(both, key=lambda point: point.value, default=None)

    def _room(self, point: _Point) -> float:
        """Gap that is as good as none."""
        return max(self._task.gap, ROUNDING) * max(abs(point.value), 1e-10)

    def _closed(self, point: _Point) -> bool:
        return point.value - self._bound <= self._room(point)

    # -- endings -----------------------------------------------------------------------------------

    def _failed(self, answer: Answer) -> Answer:
        """What it means that a program over some columns had no optimum."""
        if answer.termination in {Termination.LIMIT, Termination.INTERRUPTED}:
            return self._ended(answer.termination, answer.message, self._known)
        return self._whole(f"a part ended with {answer.message!r}")

    def _whole(self, why: str) -> Answer:
        return _whole(self._task, self._line, why, self._started)

    def _ended(
        self,
        termination: Termination,
        message: str,
        point: _Point | None,
        tree: float = -np.inf,
    ) -> Answer:
        choices = self._choices
        dual = np.zeros(len(self._task.scaled.row_lower))
        dual[choices.coupling] = self._price
        if np.isfinite(self._bound):
            dual[choices.row] = self._cheapest
        bound = self._bound
        if point is not None and np.isfinite(tree):
            bound = max(bound, min(tree, point.value))
        n = len(choices.group)
        return Answer(
            termination,
            None if point is None else point.x,
            dual if np.isfinite(self._bound) and not self._task.scaled.is_integer else None,
            bound=bound if self._task.scaled.is_integer else -np.inf,
            message=f"{message} (sifting, {n} columns in {len(choices.row)} groups, "
            f"{len(choices.coupling)} coupling rows)",
            version=version(),
            runtime_s=time.perf_counter() - self._started,
            counts=self._counts,
        )


def _least(excess: FloatArray, extra: int) -> BoolArray:
    """Columns at the least price of their group, and the next `extra` ones."""
    above = excess[excess > 0]
    if extra >= len(above):
        return np.ones(len(excess), dtype=bool)
    limit = np.partition(above, extra)[extra]
    return np.asarray(excess <= limit)


def _with_constant(scaled: Scaled, constant: float) -> Scaled:
    """A program with a constant in its objective, to which a search's gap is relative."""
    n_rows = len(scaled.row_lower)
    return replace(
        scaled,
        matrix=sparse.csc_array(sparse.hstack([scaled.matrix, sparse.csc_array((n_rows, 1))])),
        c=np.append(scaled.c, constant),
        column_lower=np.append(scaled.column_lower, 1.0),
        column_upper=np.append(scaled.column_upper, 1.0),
        column=np.append(scaled.column, 1.0),
        integer=np.append(scaled.integer, False),
    )


def _is_whole(x: FloatArray, integer: BoolArray) -> bool:
    return bool((np.abs(x - np.round(x))[integer] <= 1e-9).all())
