"""Price decomposition of linear programs that fall into parts but for a few dense rows.

Column generation (Dantzig and Wolfe): a master program mixes points of the parts so that the
coupling rows hold; its prices on these rows make every part a program of its own, whose best point
is a new column. Each round gives a lower bound too. Parts stay in HiGHS with their bases.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from scipy import sparse
from scipy.sparse import csgraph

from greenopt.labelled import FloatArray, IntArray
from greenopt.solvers import highs
from greenopt.solvers.highs import load_highspy, version
from greenopt.solvers.scaling import Scaled
from greenopt.solvers.splitting import piece
from greenopt.solvers.task import Answer, Line, Task, Termination

__all__ = ["solve", "version"]

DENSE, LEAST_DENSE = 0.002, 100
"""A row with entries in more than this share of the columns, and in so many, may couple parts."""

MOST_COUPLING = 500
"""With more coupling rows, column generation takes too many rounds."""

LEAST_COLUMNS = 2000
"""Smaller parts are put together: each run of a solver costs a millisecond."""

LARGEST_SHARE = 0.5
"""If one part has more of the columns, nothing is won."""

ROUNDING = 1e-9
"""Least relative gap, and infeasibility of coupling rows, that means anything."""

PENALTY, RAISES = 100.0, 3
"""Price of breaking a coupling row, in optima of the parts alone, and how often it may be
raised hundredfold before the whole model is handed to HiGHS for a verdict."""

STALLED = 3
"""Rounds that change neither the mixture's value nor the bound, after which it ends."""

PRIMAL = 4
"""The primal simplex, as value of HiGHS's simplex_strategy: costs change, bases stay feasible."""


@dataclass(frozen=True, eq=False)
class Parts:
    """How a model falls apart.

    Attributes
    ----------
    coupling : ndarray of int
        Rows that hold the parts together.
    columns, rows : list of ndarray of int
        Of each part.
    """

    coupling: IntArray
    columns: list[IntArray]
    rows: list[IntArray]


def parts_of(scaled: Scaled) -> Parts | None:
    """Parts of a model without its dense rows; None if it does not fall apart."""
    n_columns = scaled.matrix.shape[1]
    if scaled.is_integer or scaled.q is not None or not n_columns:
        return None
    by_row = scaled.matrix.tocsr()
    dense = np.diff(by_row.indptr) > max(DENSE * n_columns, LEAST_DENSE)
    coupling, own = np.flatnonzero(dense), np.flatnonzero(~dense)
    if len(coupling) > MOST_COUPLING:
        return None
    held = by_row[own]
    rows = np.repeat(np.arange(len(own)), np.diff(held.indptr))
    edges = sparse.coo_array(
        (np.ones(held.nnz, dtype=np.int8), (rows + n_columns, held.indices)),
        shape=(n_columns + len(own),) * 2,
    )
    _, part = csgraph.connected_components(edges, directed=False)
    sizes = np.bincount(part[:n_columns], minlength=part.max(initial=-1) + 1)
    if sizes.max(initial=0) > LARGEST_SHARE * n_columns:
        return None
    before = np.concatenate([[0], np.cumsum(sizes)[:-1]])
    group = np.unique(np.where(sizes > 0, before // LEAST_COLUMNS, 0), return_inverse=True)[1][part]
    columns, others = _members(group[:n_columns]), _members(group[n_columns:])
    if len(columns) < 2:
        return None
    empty = np.zeros(0, dtype=np.int64)
    return Parts(
        coupling,
        list(columns.values()),
        [own[others[number]] if number in others else empty for number in columns],
    )


def _members(group: IntArray) -> dict[int, IntArray]:
    """Positions of the members of each group."""
    order = np.argsort(group, kind="stable")
    numbers, first = np.unique(group[order], return_index=True)
    ends = np.append(first, len(order))[1:]
    return {int(n): order[a:b] for n, a, b in zip(numbers, first, ends, strict=True)}


def solve(task: Task, line: Line) -> Answer:
    """Solve one linear program, by parts if it has any."""
    started = time.perf_counter()
    parts = parts_of(task.scaled)
    if parts is None:
        return _whole(task, line, "it does not fall into parts")
    generation = _Generation(task, line, parts, started)
    try:
        return generation.answer()
    finally:
        generation.close()


def _whole(task: Task, line: Line, why: str, spent_s: float = 0.0) -> Answer:
    left = max(task.time_limit_s - spent_s, 1e-3)
    answer = highs.solve(replace(task, algorithm="choose", time_limit_s=left), line)
    return replace(answer, message=f"{answer.message} (solved whole: {why})")


class _Block:
    """One part inside HiGHS, solved again and again with other costs."""

    def __init__(self, highspy: Any, task: Task, columns: IntArray, piece: Scaled, pull: Any):
        self.columns, self._c, self._pull = columns, piece.c, pull
        self._highspy = highspy
        self._every = np.arange(len(columns), dtype=np.int32)
        self._highs = highs.loaded(highspy, piece, task)

    def best(self, price: FloatArray, time_limit_s: float) -> bool:
        """Find the best point when coupling rows have prices; whether there is one."""
        costs = self._c - self._pull.T @ price
        self._highs.changeColsCost(len(costs), self._every, costs)
        self._highs.setOptionValue("time_limit", time_limit_s + self._highs.getRunTime())
        self._highs.run()
        self.status = self._highs.getModelStatus()
        if self.status != self._highspy.HighsModelStatus.kOptimal:
            return False
        self._highs.setOptionValue("simplex_strategy", PRIMAL)
        solution = self._highs.getSolution()
        self.x, self.row_dual = np.array(solution.col_value), np.array(solution.row_dual)
        self.value = float(costs @ self.x)
        self.cost, self.activity = float(self._c @ self.x), self._pull @ self.x
        return True

    @property
    def iterations(self) -> int:
        """Simplex iterations of the last run."""
        return max(int(self._highs.getInfo().simplex_iteration_count), 0)

    def close(self) -> None:
        """Free the memory."""
        self._highs.clear()


class _Master:
    """Mixes points of the parts at least cost, coupling rows broken at a penalty."""

    def __init__(self, highspy: Any, task: Task, coupling: IntArray, n_parts: int) -> None:
        scaled = task.scaled
        self._highspy, self._n = highspy, len(coupling)
        self.lower, self.upper = scaled.row_lower[coupling], scaled.row_upper[coupling]
        self._highs = highspy.Highs()
        self._highs.silent()
        for name, value in (("threads", 1), ("primal_feasibility_tolerance", ROUNDING),
                            ("dual_feasibility_tolerance", ROUNDING),
                            ("simplex_strategy", PRIMAL)):  # fmt: skip
            self._highs.setOptionValue(name, value)
        none: Any = np.zeros(0)
        lower = np.concatenate([self.lower, np.ones(n_parts)])
        upper = np.concatenate([self.upper, np.ones(n_parts)])
        start = np.zeros(len(lower), dtype=np.int32)
        index = np.zeros(0, dtype=np.int32)
        self._highs.addRows(len(lower), lower, upper, 0, start, index, none)
        for row in range(self._n):
            for sign in (1.0, -1.0):
                self._highs.addCol(0.0, 0.0, np.inf, 1, np.array([row], np.int32), np.array([sign]))
        self._points: list[tuple[int, IntArray, FloatArray]] = []
        self.unit = 1.0

    def penalise(self, penalty: float) -> None:
        """Set the price of breaking a coupling row by one, in units of the master's objective."""
        for column in range(2 * self._n):
            self._highs.changeColCost(column, penalty)

    def take(self, number: int, block: _Block) -> None:
        """Add the point that a part has found."""
        rows = np.append(np.flatnonzero(block.activity), self._n + number).astype(np.int32)
        values = np.append(block.activity[block.activity != 0], 1.0)
        self._highs.addCol(block.cost / self.unit, 0.0, np.inf, len(rows), rows, values)
        used = np.flatnonzero(block.x)
        self._points.append((number, block.columns[used], block.x[used]))

    def solve(self) -> bool:
        """Mix; whether it went well."""
        self._highs.run()
        if self._highs.getModelStatus() != self._highspy.HighsModelStatus.kOptimal:
            return False
        solution = self._highs.getSolution()
        dual, value = self.unit * np.array(solution.row_dual), np.array(solution.col_value)
        # Multipliers lean on a side that is there.
        price = np.where(np.isfinite(self.lower), dual[: self._n], np.minimum(dual[: self._n], 0))
        self.price = np.where(np.isfinite(self.upper), price, np.maximum(price, 0.0))
        self.of_part = dual[self._n :]
        self.value = self.unit * float(self._highs.getInfo().objective_function_value)
        self.broken = float(value[: 2 * self._n].sum())
        self.weights = value[2 * self._n :]
        return True

    def rows_term(self) -> float:
        """What the coupling rows give to the lower bound at the prices."""
        side = np.where(self.price > 0, self.lower, self.upper)
        return float(np.where(self.price != 0, self.price * side, 0.0).sum())

    def mixed(self, n_columns: int) -> FloatArray:
        """The mixture."""
        x = np.zeros(n_columns)
        for weight, (_, columns, values) in zip(self.weights, self._points, strict=True):
            if weight > 0:
                x[columns] += weight * values
        return x

    def close(self) -> None:
        """Free the memory."""
        self._highs.clear()


class _Generation:
    """One solve by column generation."""

    def __init__(self, task: Task, line: Line, parts: Parts, started: float) -> None:
        self._task, self._line, self._parts = task, line, parts
        self._started, self._until = started, started + task.time_limit_s
        self._highspy = load_highspy()
        self._blocks = self._loaded()
        self._master = _Master(self._highspy, task, parts.coupling, len(self._blocks))
        self._dual = np.zeros(len(task.scaled.row_lower))
        self._bound, self._rounds, self._iterations, self._new = -np.inf, 0, 0, 0

    def _loaded(self) -> list[_Block]:
        scaled, parts = self._task.scaled, self._parts
        pull = scaled.matrix.tocsr()[parts.coupling].tocsc()
        blocks = []
        for columns, rows in zip(parts.columns, parts.rows, strict=True):
            own = sparse.csr_array(pull[:, columns])
            part = piece(scaled, columns, rows)
            blocks.append(_Block(self._highspy, self._task, columns, part, own))
        return blocks

    def close(self) -> None:
        """Free the memory."""
        for block in self._blocks:
            block.close()
        self._master.close()
        self._highspy.Highs.resetGlobalScheduler(True)

    def answer(self) -> Answer:
        """Generate columns until the gap is closed."""
        price = np.zeros(len(self._parts.coupling))
        failed = self._price_out(price)
        if failed is not None:
            return failed
        penalty, raises, before = PENALTY * len(self._blocks), 0, (np.inf, -np.inf, 0)
        self._master.penalise(penalty)
        while True:
            if not self._master.solve():
                return self._whole("the master program failed")
            now = (self._master.value, self._bound)
            stalled = before[2] + 1 if now == before[:2] else 0
            before = (*now, stalled)
            # Nothing but rounding is left where no point is new, or none makes a difference.
            if self._closed() or not self._new or stalled == STALLED:
                if self._master.broken <= ROUNDING * 10:
                    return self._ended(Termination.OPTIMAL, "Optimal")
                if raises == RAISES:
                    return self._whole("coupling rows cannot be kept")
                raises, penalty = raises + 1, penalty * 100
                self._master.penalise(penalty)
                self._new = 1
                continue
            failed = self._price_out(self._master.price)
            if failed is not None:
                return failed

    def _closed(self) -> bool:
        """Whether the mixture is as good as the bound says anything can be."""
        room = max(self._task.gap / 2, ROUNDING) * max(abs(self._master.value), 1e-10)
        return self._master.value - self._bound <= room

    def _price_out(self, price: FloatArray) -> Answer | None:
        """Solve every part at prices, add columns, and better the bound."""
        first = self._rounds == 0
        self._rounds += 1
        values = []
        for block in self._blocks:
            left = self._until - time.perf_counter()
            if left <= 0:
                return self._ended(Termination.LIMIT, "Time limit reached")
            if not block.best(price, min(left, 1e20)):
                return self._without(block)
            self._iterations += block.iterations
            values.append(block.value)
        if first:
            self._master.unit = 1.0 + float(np.abs(values).mean())  # tolerances are relative to it
        self._new = 0
        for number, block in enumerate(self._blocks):
            if first or block.value < self._master.of_part[number] - 1e-12 * abs(block.value):
                self._master.take(number, block)
                self._new += 1
        bound = sum(values) + (0.0 if first else self._master.rows_term())
        self._line.log(f"round {self._rounds}: bound {bound:.12g}, best {self._bound:.12g}")
        if bound > self._bound:
            self._bound = bound
            self._dual[self._parts.coupling] = price
            for rows, block in zip(self._parts.rows, self._blocks, strict=True):
                self._dual[rows] = block.row_dual
        return None

    def _without(self, block: _Block) -> Answer:
        """A part has no best point: it is out of time, or the model has none."""
        kinds = self._highspy.HighsModelStatus
        if block.status == kinds.kTimeLimit:
            return self._ended(Termination.LIMIT, "Time limit reached")
        if block.status == kinds.kInfeasible:
            return self._ended(Termination.INFEASIBLE, "Infeasible")
        return self._whole("a part has no best point")

    def _whole(self, why: str) -> Answer:
        return _whole(self._task, self._line, why, time.perf_counter() - self._started)

    def _ended(self, termination: Termination, message: str) -> Answer:
        mixed = getattr(self._master, "weights", None)
        whole = mixed is not None and self._master.broken <= ROUNDING * 10
        keeps = whole and termination in {Termination.OPTIMAL, Termination.LIMIT}
        coupled = f"{len(self._blocks)} parts, {len(self._parts.coupling)} coupling rows"
        return Answer(
            termination,
            self._master.mixed(len(self._task.scaled.c)) if keeps else None,
            self._dual if np.isfinite(self._bound) else None,
            message=f"{message} ({coupled}, {self._rounds} rounds)",
            version=version(),
            runtime_s=time.perf_counter() - self._started,
            counts={"simplex_iterations": self._iterations, "rounds": self._rounds},
        )
