"""Linear programs whose columns fall into groups under a few coupling rows, by combining plans.

Given prices of the coupling rows each group is on its own: all of it goes to its cheapest column.
A small program finds the best convex combination of such plans, and better prices (Dantzig and
Wolfe). Groups are taken together in blocks, each of which is combined by itself.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from functools import cached_property
from types import TracebackType
from typing import Any, Self

import numpy as np
from scipy import sparse
from scipy.optimize import linprog

from greenopt.labelled import FloatArray, IntArray
from greenopt.model import Block, Model, StageObjective
from greenopt.solvers.session import Session
from greenopt.solvers.task import RawResult, Termination

LONGEST, SHARE = 100, 0.002
"""A row with more columns than both, the latter of all columns, couples groups."""

MOST_COUPLING = 60
"""With more coupling rows combinations are many."""

BLOCKS = 100
"""Parts of the groups that are combined each by itself."""

CLOSED = 1e-7
"""Relative gap at which a combination is good enough."""

MOST_ROUNDS = 200

MOVED = 1e-3
"""Share of a column of no group that a search may take off."""

ROUNDING = 1e-6
"""Distance from 0, or from a whole number, that is rounding."""


@dataclass(frozen=True, eq=False)
class Groups:
    """How a program is made of groups.

    Attributes
    ----------
    row : ndarray of int, shape (n_groups,)
        The row that says how much of each group there is.
    columns : ndarray of int
        Columns of the groups, group by group.
    start : ndarray of int, shape (n_groups,)
        Where each group begins among these.
    coupling : ndarray of int
        The other rows.
    free : ndarray of int
        Columns of no group.
    """

    row: IntArray
    columns: IntArray
    start: IntArray
    coupling: IntArray
    free: IntArray

    @cached_property
    def group(self) -> IntArray:
        """Group of each of `columns`."""
        sizes = np.diff([*self.start, len(self.columns)])
        return np.repeat(np.arange(len(self.row)), sizes)


def groups_of(model: Model) -> Groups | None:
    """The groups of a program (whole numbers aside); None if it is not made of them."""
    matrix = sparse.csr_array(model.matrix)
    n_rows, n_columns = matrix.shape
    if (model.column_lower != 0).any():
        return None
    length, entries = np.diff(matrix.indptr), matrix.tocoo()
    ones = np.bincount(entries.row[entries.data == 1.0], minlength=n_rows)
    choice = (ones == length) & (length > 0) & (length <= max(LONGEST, SHARE * n_columns))
    choice &= (model.row_lower >= 0) & np.isfinite(model.row_upper)
    rows, coupling = np.flatnonzero(choice), np.flatnonzero(~choice)
    own = sparse.csc_array(matrix[rows])
    members = np.diff(own.indptr)
    if len(coupling) > MOST_COUPLING or (members > 1).any() or not len(rows):
        return None
    free = np.flatnonzero(members == 0)
    if len(free) > 2 * MOST_COUPLING:
        return None
    grouped = own.tocsr()
    columns, start = (at.astype(np.int64) for at in (grouped.indices, grouped.indptr[:-1]))
    return Groups(rows, columns, start, coupling, free)


@dataclass(frozen=True, eq=False)
class Core:
    """A program over the columns that are worth a search, the others as a point has them.

    Attributes
    ----------
    model : Model
        The program, what is held taken off its sides.
    columns : ndarray of int
        Its columns in the whole program.
    held : ndarray
        What of the whole program's point is held: all in other columns, most in those of no group.
    """

    model: Model
    columns: IntArray
    held: FloatArray

    def whole(self, x: FloatArray) -> FloatArray:
        """A point of the whole program, its whole numbers without rounding."""
        point = self.held.copy()
        point[self.columns] += np.where(self.model.integer, np.round(x), x)
        return point


def core(model: Model, groups: Groups, x: FloatArray, row_dual: FloatArray, count: int) -> Core:
    """The columns that an optimum of the relaxation uses, and those nearest to their price.

    Parameters
    ----------
    model : Model
        With whole numbers.
    groups : Groups
        Of the model.
    x, row_dual : ndarray
        Optimum of its relaxation.
    count : int
        Number of columns beside those that are used.
    """
    grouped = np.zeros(len(x), dtype=bool)
    grouped[groups.columns] = True
    unused = grouped & (x <= ROUNDING)
    far = np.where(unused, np.abs(model.stages[0].c - model.matrix.T @ row_dual), np.inf)
    unused[np.argsort(far, kind="stable")[:count]] = False
    group = np.full(len(x), -1)
    group[groups.columns] = groups.group
    open_columns = np.bincount(group[grouped & ~unused], minlength=len(groups.row))
    whole = np.where(model.integer, np.round(x), x)
    settled = grouped & (open_columns[group] == 1) & (np.abs(x - whole) <= ROUNDING)
    held = np.where(settled & ~unused, whole, 0.0)
    # A search has absolute tolerances: of columns of any size only what may change is left to it.
    held[groups.free] = (1 - MOVED) * x[groups.free]
    columns = np.flatnonzero(~unused & ~settled)
    part = sparse.csr_array(sparse.csc_array(model.matrix)[:, columns])
    rows = np.flatnonzero(np.diff(part.indptr))
    rest = (model.matrix @ held)[rows]
    n, upper = len(columns), model.column_upper - np.where(grouped, 0.0, held)
    coupling = abs(sparse.csc_array(sparse.csr_array(model.matrix)[groups.coupling]))
    if len(groups.free):
        largest = coupling.max(axis=1).toarray().ravel() @ (coupling[:, groups.free] > 0)
        few = 2 * MOVED * x[groups.free] + 10 * largest
        upper[groups.free] = np.minimum(upper[groups.free], few)
    return Core(
        Model(
            model.name, {}, {"column": Block("column", {}, 0, n)},
            {"row": Block("row", {}, 0, len(rows))},
            part[rows], model.row_lower[rows] - rest, model.row_upper[rows] - rest,
            model.column_lower[columns], upper[columns], model.integer[columns],
            (StageObjective(model.stages[0].c[columns], 0.0),),
        ),
        columns,
        held,
    )  # fmt: skip


class Combining:
    """A program of groups that is changed and solved again, as a `Session` is.

    Parameters
    ----------
    model : Model
        What to solve; its first stage.
    groups : Groups
        As `groups_of` finds them.
    """

    def __init__(self, model: Model, groups: Groups) -> None:
        self._model, self._groups = model, groups
        coupling = sparse.csc_array(sparse.csr_array(model.matrix)[groups.coupling])
        self._coupling = coupling[:, groups.columns].toarray().T
        self._free = coupling[:, groups.free].toarray()
        self._size = np.maximum(np.abs(self._coupling).max(axis=0, initial=0.0), 1e-300)
        self.price = np.zeros(len(groups.coupling))
        n = len(groups.start)
        self._block = np.unique(np.linspace(0, n, min(BLOCKS, n), endpoint=False).astype(int))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Nothing to let go."""

    def change(
        self, *, row_lower: FloatArray, row_upper: FloatArray, column_upper: FloatArray
    ) -> None:
        """Change sides of rows and columns: whole arrays."""
        self._model = replace(
            self._model, row_lower=row_lower, row_upper=row_upper, column_upper=column_upper
        )

    def solve(self, time_limit_s: float) -> RawResult:
        """Solve; the point and multipliers are as good as `CLOSED` says."""
        until = time.perf_counter() + time_limit_s
        if self._open_ended():
            raw = _Solve(self, time_limit_s).run()
            if raw.termination != Termination.LIMIT or time.perf_counter() >= until:
                return raw
        with Session(self._model) as session:
            return session.solve(max(until - time.perf_counter(), 1e-3))

    def _open_ended(self) -> bool:
        """Whether each column that is open can be all of its group."""
        groups, upper = self._groups, self._model.column_upper
        most = self._model.row_upper[groups.row][groups.group]
        own = upper[groups.columns]
        return bool(((own <= 0) | (own >= most)).all() and np.isfinite(upper[groups.free]).all())


class _Solve:
    """One solve."""

    def __init__(self, own: Combining, time_limit_s: float) -> None:
        self._until, self._started = time.perf_counter() + time_limit_s, time.perf_counter()
        model, groups = own._model, own._groups
        self._own, self._model, self._groups = own, model, groups
        self._least, self._most = model.row_lower[groups.row], model.row_upper[groups.row]
        self._lower = model.row_lower[groups.coupling]
        self._upper = model.row_upper[groups.coupling]
        self._closed = model.column_upper[groups.columns] <= 0
        self._c = model.stages[0].c
        self._bound, self._dual = -np.inf, np.zeros(len(model.row_lower))
        self._plans: list[tuple[IntArray, FloatArray]] = []  # column and amount of each group
        self._loads: list[FloatArray] = []  # of each block on the coupling rows
        self._costs: list[FloatArray] = []  # of each block

    def run(self) -> RawResult:
        """First as little excess over coupling rows as possible, then the objective."""
        every = np.add.reduceat(~self._closed, self._groups.start) > 0
        if (self._least[~every] > 0).any():
            return self._result(Termination.INFEASIBLE)
        found = self._minimised(phase=1)
        if found is None:
            return self._result(Termination.LIMIT)
        if found[0] > 1e-9:
            proved = self._bound > 1e-9
            return self._result(Termination.INFEASIBLE if proved else Termination.LIMIT)
        self._bound = -np.inf
        found = self._minimised(phase=2)
        if found is None:
            return self._result(Termination.LIMIT)
        return self._result(Termination.OPTIMAL, found[1], self._dual)

    def _minimised(self, phase: int) -> tuple[float, FloatArray] | None:
        """Value and point of the best combination; None if time ran out or it went nowhere."""
        price = np.zeros(len(self._groups.coupling))
        self._bound = -np.inf
        if phase == 2:
            self._propose(self._own.price, phase)  # where the last solve ended
        for _ in range(MOST_ROUNDS):
            self._propose(price, phase)
            found = self._combined(phase)
            if found is None or time.perf_counter() >= self._until:
                return None
            value, x, price = found
            if phase == 1 and (value <= 1e-9 or self._bound > 1e-9):
                return value, x
            if value - self._bound <= CLOSED * abs(value) + 1e-12:
                self._own.price = self._dual[self._groups.coupling]
                return value, x
        return None

    def _propose(self, price: FloatArray, phase: int) -> None:
        """The best plan at these prices, and the bound that it proves."""
        groups, own = self._groups, self._own
        c = self._c[groups.columns] * (phase == 2)
        reduced = c - own._coupling @ price
        reduced[self._closed] = np.inf
        cheapest = np.minimum.reduceat(reduced, groups.start)
        at = np.flatnonzero(reduced == cheapest[groups.group])
        best = at[np.searchsorted(groups.group[at], np.arange(len(cheapest)))]
        amount = np.where(cheapest < 0, self._most, self._least)
        amount[np.isinf(cheapest)] = 0.0
        side = np.where(price > 0, self._lower, self._upper)
        bound = float(np.where(np.isinf(cheapest), 0.0, cheapest) @ amount)
        bound += float((price[price != 0] * side[price != 0]).sum())
        free = self._c[groups.free] * (phase == 2) - own._free.T @ price
        room = self._model.column_upper[groups.free]
        bound += float(np.minimum(free * room, 0.0)[free < 0].sum())
        if bound > self._bound:
            self._bound = bound
            self._dual = np.zeros(self._model.matrix.shape[0])
            self._dual[groups.coupling] = price
            self._dual[groups.row] = np.where(np.isinf(cheapest), 0.0, cheapest)
        self._plans.append((best, amount))
        loads = own._coupling[best] * amount[:, None]
        self._loads.append(np.add.reduceat(loads, own._block, axis=0))
        self._costs.append(np.add.reduceat(self._c[groups.columns][best] * amount, own._block))

    def _combined(self, phase: int) -> tuple[float, FloatArray, FloatArray] | None:
        """Value, point and prices of the best combination of the plans that there are."""
        own, groups = self._own, self._groups
        size, n_blocks, n = own._size, len(own._block), len(self._plans)
        loads = np.concatenate(self._loads).T / size[:, None]
        free = own._free / size[:, None]
        eye = np.eye(len(size)) if phase == 1 else np.zeros((len(size), 0))
        rows = np.hstack([loads, free, eye, -eye])
        c = np.concatenate([np.concatenate(self._costs), self._c[groups.free]]) * (phase == 2)
        c = np.concatenate([c, np.ones(2 * eye.shape[1])])
        low, high = np.isfinite(self._lower), np.isfinite(self._upper)
        slack = 1e-9 * (phase == 2)  # what the first phase leaves
        rest = np.zeros((n_blocks, len(c) - n * n_blocks))
        sums = np.hstack([np.tile(np.eye(n_blocks), n), rest])
        room = self._model.column_upper[groups.free]
        upper = np.concatenate([np.ones(n * n_blocks), room, np.full(2 * eye.shape[1], np.inf)])
        found: Any = linprog(
            c,
            np.vstack([rows[high], -rows[low]]),
            np.concatenate([(self._upper / size)[high], -(self._lower / size)[low]]) + slack,
            sums,
            np.ones(n_blocks),
            [(0.0, most) for most in upper],
            method="highs-ds",
            options={"primal_feasibility_tolerance": 1e-10, "dual_feasibility_tolerance": 1e-10},
        )
        if found.x is None:
            return None
        price = np.zeros(len(size))
        price[high] += found.ineqlin.marginals[: high.sum()]
        price[low] -= found.ineqlin.marginals[high.sum() :]
        return float(found.fun), self._point(found.x), price / size

    def _point(self, shares: FloatArray) -> FloatArray:
        """The point of the program that a combination stands for."""
        own, groups, n_blocks = self._own, self._groups, len(self._own._block)
        inside = np.zeros(len(groups.columns))
        sizes = np.diff([*own._block, len(groups.start)])
        for number, (best, amount) in enumerate(self._plans):
            share = shares[number * n_blocks : (number + 1) * n_blocks]
            if share.any():
                inside[best] += np.repeat(share, sizes) * amount
        x = np.zeros(self._model.matrix.shape[1])
        x[groups.columns] = inside
        x[groups.free] = shares[len(self._plans) * n_blocks :][: len(groups.free)]
        return x

    def _result(
        self, ended: Termination, x: FloatArray | None = None, dual: FloatArray | None = None
    ) -> RawResult:
        spent = time.perf_counter() - self._started
        return RawResult(
            ended, x, dual, self._bound, spent, f"{ended}, {len(self._plans)} plans", ""
        )
