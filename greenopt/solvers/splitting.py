"""Mixed-integer models that fall into independent parts are searched part by part.

A branch-and-bound tree over many parts multiplies their trees; solved one after the other they add
up. Periods without starts, held instances or horizon-wide budgets are such parts.
"""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import replace

import numpy as np
from scipy import sparse
from scipy.sparse import csgraph

from greenopt.labelled import IntArray
from greenopt.solvers.registry import SolverInfo
from greenopt.solvers.running import execute
from greenopt.solvers.scaling import Scaled
from greenopt.solvers.task import Answer, Line, Task, Termination

LEAST_COLUMNS = 100
"""Smaller parts are put together: each run of a solver costs a few milliseconds."""

ROUNDING = 1e-9
"""Differences below this, relative or on the scaled objective, are rounding."""

LEAST_SHARE_S = 0.2
"""With less time a part, none might find a point; the model is then solved whole."""

SHARES = (0.5, 0.7, 1.0)
"""Share of the time left that the parts still open get together, pass by pass."""

_HOPELESS = (Termination.ERROR, Termination.INFEASIBLE)
"""Ends of a part that decide the whole."""

_WORST_FIRST = (
    *_HOPELESS,
    Termination.UNBOUNDED,
    Termination.INTERRUPTED,
    Termination.LIMIT,
    Termination.OPTIMAL,
)


def independent_parts(scaled: Scaled) -> list[tuple[IntArray, IntArray]]:
    """Columns and rows of parts that share none, small ones put together."""
    matrix = sparse.coo_array(scaled.matrix)
    n_rows, n_columns = matrix.shape
    edges = sparse.coo_array(
        (np.ones(matrix.nnz), (matrix.row + n_columns, matrix.col)),
        shape=(n_rows + n_columns,) * 2,
    )
    _, part = csgraph.connected_components(edges, directed=False)
    sizes = np.bincount(part[:n_columns], minlength=part.max(initial=-1) + 1)
    # Parts in order; one begins a new group when the group before it is large enough.
    before = np.concatenate([[0], np.cumsum(sizes)[:-1]])
    number = np.where(sizes > 0, before // LEAST_COLUMNS, 0)  # rows without columns come first
    group = number[part]
    columns, rows = group[:n_columns], group[n_columns:]
    return [(np.flatnonzero(columns == g), np.flatnonzero(rows == g)) for g in np.unique(group)]


def execute_in_parts(info: SolverInfo, task: Task, remote: bool, line: Line) -> Answer:
    """Run a solver on every independent part of a mixed-integer model, or on the whole."""
    whole = info.algorithm == "groups"  # it takes groups apart itself
    parts = independent_parts(task.scaled) if splits(task.scaled) and not whole else []
    if len(parts) < 2 or task.time_limit_s < LEAST_SHARE_S * len(parts):
        return execute(info, task, remote, line)
    return _InParts(info, task, remote, line, parts).answer()


class _InParts:
    """One solve, part by part."""

    def __init__(
        self,
        info: SolverInfo,
        task: Task,
        remote: bool,
        line: Line,
        parts: list[tuple[IntArray, IntArray]],
    ) -> None:
        self._info, self._task, self._remote, self._line = info, task, remote, line
        self._parts = parts
        self._until = time.perf_counter() + task.time_limit_s
        self._answers = [Answer(Termination.LIMIT, message="not begun in time") for _ in parts]

    def answer(self) -> Answer:
        """Run every part; what one leaves of its share of the time goes to those that need more."""
        for share in SHARES:
            gap = self._gap_of_parts()
            waiting = [n for n in range(len(self._parts)) if not self._closed(n, gap)]
            for position, n in enumerate(waiting):
                self._run(n, gap, share * self._left() / (len(waiting) - position))
                if self._answers[n].termination in _HOPELESS:
                    return self._together(self._answers[n : n + 1])
        return self._together(self._answers)

    def _gap_of_parts(self) -> float:
        """Relative gap of the parts that gives the whole the gap asked for.

        Parts of different sign cancel in the objective, but their gaps add up.
        """
        values = [self._value(n) for n in range(len(self._parts))]
        size = float(np.abs(values).sum())
        if np.isnan(size) or size == 0:
            return self._task.gap
        return self._task.gap * abs(sum(values)) / size

    def _value(self, n: int) -> float:
        """Objective of the best point of a part, not a number without one."""
        x = self._answers[n].x
        return np.nan if x is None else float(self._task.scaled.c[self._parts[n][0]] @ x)

    def _closed(self, n: int, gap: float) -> bool:
        """Whether a part has been searched to a relative gap, or as far as it goes."""
        own, value = self._answers[n], self._value(n)
        if own.termination == Termination.UNBOUNDED:
            return True
        room = max(gap, ROUNDING) * abs(value) + ROUNDING
        return own.termination == Termination.OPTIMAL and value - own.bound <= room

    def _left(self) -> float:
        return self._until - time.perf_counter()

    def _run(self, n: int, gap: float, time_limit_s: float) -> None:
        """Run a part once, from the best point known of it; both runs' knowledge is kept."""
        if self._left() <= 0:  # every run may overrun its limit a little: no more of them
            return
        columns, rows = self._parts[n]
        old, own = self._answers[n], Line(self._line.log)
        given = None if self._task.start is None else self._task.start[columns]
        task = replace(
            self._task,
            scaled=piece(self._task.scaled, columns, rows),
            time_limit_s=time_limit_s,
            gap=gap,
            start=given if old.x is None else old.x,
        )
        new = execute(self._info, task, self._remote, own)
        points = [x for x in (new.x, own.incumbent, old.x) if x is not None]
        x = min(points, key=lambda x: float(task.scaled.c @ x), default=None)
        bound = max(old.bound, new.bound)
        if not task.scaled.is_integer and new.termination == Termination.OPTIMAL and x is not None:
            bound = float(task.scaled.c @ x)  # no search, no search's bound: its optimum is one
        self._answers[n] = replace(
            new,
            x=x,
            bound=bound,
            runtime_s=old.runtime_s + new.runtime_s,
            counts=dict(Counter(old.counts) + Counter(new.counts)),
        )

    def _together(self, answers: list[Answer]) -> Answer:
        """One answer of many: the worst ending, the sum of bounds and of work."""
        worst = min(answers, key=lambda answer: _WORST_FIRST.index(answer.termination))
        whole = len(answers) == len(self._parts)
        x = np.full(len(self._task.scaled.c), np.nan)
        for (columns, _), own in zip(self._parts, answers, strict=False):
            if whole and own.x is not None:
                x[columns] = own.x
            elif whole and self._task.start is not None:
                x[columns] = self._task.start[columns]
        return replace(
            worst,
            x=None if np.isnan(x).any() else x,
            row_dual=None,
            bound=sum(own.bound for own in answers) if whole else -np.inf,
            message=f"{worst.message} (the worst of {len(self._parts)} independent parts)",
            runtime_s=sum(own.runtime_s for own in self._answers),
            counts=dict(sum((Counter(own.counts) for own in self._answers), Counter())),
        )


def splits(scaled: Scaled) -> bool:
    """Whether splitting is worth a look: a search, and no quadratic term that ties columns."""
    return scaled.is_integer and scaled.q is None


def piece(scaled: Scaled, columns: IntArray, rows: IntArray) -> Scaled:
    """One part of a model."""
    return replace(
        scaled,
        matrix=sparse.csc_array(scaled.matrix[:, columns][rows]),
        c=scaled.c[columns],
        column_lower=scaled.column_lower[columns],
        column_upper=scaled.column_upper[columns],
        row_lower=scaled.row_lower[rows],
        row_upper=scaled.row_upper[rows],
        column=scaled.column[columns],
        row=scaled.row[rows],
        integer=scaled.integer[columns],
    )
