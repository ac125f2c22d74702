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

_WORST_FIRST = (
    Termination.ERROR,
    Termination.INFEASIBLE,
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
    parts = independent_parts(task.scaled) if splits(task.scaled) else []
    if len(parts) < 2:
        return execute(info, task, remote, line)
    until = time.perf_counter() + task.time_limit_s
    x = np.full(len(task.scaled.c), np.nan)
    answers: list[Answer] = []
    for number, (columns, rows) in enumerate(parts):
        left = max(until - time.perf_counter(), 1e-3)
        piece = replace(
            task,
            scaled=_piece(task.scaled, columns, rows),
            time_limit_s=left / (len(parts) - number),
            start=None if task.start is None else task.start[columns],
        )
        own = Line(line.log)
        answer = execute(info, piece, remote, own)
        found = own.incumbent if answer.x is None else answer.x
        if found is not None:
            x[columns] = found
        answers.append(_with_bound(piece.scaled, answer))
        if answer.termination in _WORST_FIRST[:4]:
            break
    return _together(answers, None if np.isnan(x).any() else x, len(parts))


def splits(scaled: Scaled) -> bool:
    """Whether splitting is worth a look: a search, and no quadratic term that ties columns."""
    return scaled.is_integer and scaled.q is None


def _piece(scaled: Scaled, columns: IntArray, rows: IntArray) -> Scaled:
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


def _with_bound(scaled: Scaled, answer: Answer) -> Answer:
    """A part without integers has no search and no search's bound: its optimum is one."""
    if scaled.is_integer or answer.x is None or answer.termination != Termination.OPTIMAL:
        return answer
    return replace(answer, bound=float(scaled.c @ answer.x))


def _together(answers: list[Answer], x: np.ndarray | None, n_parts: int) -> Answer:
    """One answer of many: the worst ending, the sum of bounds and of work."""
    worst = min(answers, key=lambda answer: _WORST_FIRST.index(answer.termination))
    whole = len(answers) == n_parts
    return replace(
        worst,
        x=x,
        row_dual=None,
        bound=sum(answer.bound for answer in answers) if whole else -np.inf,
        message=f"{worst.message} (the worst of {n_parts} independent parts)",
        runtime_s=sum(answer.runtime_s for answer in answers),
        counts=dict(sum((Counter(answer.counts) for answer in answers), Counter())),
    )
