"""What backends share: models with nothing to solve, and claims that mean one of two things."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from greenopt.solvers.scaling import Scaled
from greenopt.solvers.task import Answer, Line, Task, Termination


def obvious(task: Task) -> Answer | None:
    """The answer where no solver is needed: crossed bounds, or rows without coefficients.

    Some solvers take such models amiss.
    """
    scaled = task.scaled
    crossed = (scaled.column_lower > scaled.column_upper).any() or (
        scaled.row_lower > scaled.row_upper
    ).any()
    if crossed:
        return Answer(Termination.INFEASIBLE, message="a lower bound is above its upper bound")
    if scaled.matrix.nnz or scaled.q is not None:
        return None
    if (scaled.row_lower > 0).any() or (scaled.row_upper < 0).any():
        return Answer(Termination.INFEASIBLE, message="a row without coefficients excludes zero")
    lower = np.where(scaled.integer, np.ceil(scaled.column_lower), scaled.column_lower)
    upper = np.where(scaled.integer, np.floor(scaled.column_upper), scaled.column_upper)
    if (lower > upper).any():
        return Answer(Termination.INFEASIBLE, message="no whole number between two bounds")
    if can_fall(scaled):
        return Answer(Termination.UNBOUNDED, message="a column that pays has no bound")
    at_rest = np.clip(0.0, lower, upper)
    x = np.where(scaled.c > 0, lower, np.where(scaled.c < 0, upper, at_rest))
    duals = None if scaled.is_integer else np.zeros(len(scaled.row))
    return Answer(Termination.OPTIMAL, x, duals, float(scaled.c @ x), "each column at its best")


def can_fall(scaled: Scaled) -> bool:
    """Whether any column may go without end where its cost falls."""
    down = (scaled.c > 0) & np.isneginf(scaled.column_lower)
    up = (scaled.c < 0) & np.isposinf(scaled.column_upper)
    return bool((down | up).any())


def told_apart(task: Task, line: Line, run: Callable[[Task, Line], Answer]) -> Answer:
    """Run, and run again without an objective where a claim could mean two things.

    GLOP calls unbounded models infeasible, and presolvers say "infeasible or unbounded".
    """
    answer = run(task, line)
    if answer.termination not in (Termination.INFEASIBLE, Termination.UNBOUNDED):
        return answer
    if not task.scaled.c.any() and task.scaled.q is None:
        return answer
    if answer.termination == Termination.INFEASIBLE and not can_fall(task.scaled):
        return answer
    aimless = replace(task.scaled, c=np.zeros_like(task.scaled.c), q=None)
    left = max(task.time_limit_s - answer.runtime_s, 1e-3)
    again = run(replace(task, scaled=aimless, time_limit_s=left), line)
    line.incumbent = None  # the best without an objective is no incumbent
    runtime_s = answer.runtime_s + again.runtime_s
    ending, message = again.termination, f"{answer.message}; without objective {again.message}"
    if ending == Termination.OPTIMAL:
        ending = Termination.UNBOUNDED
    return replace(answer, termination=ending, message=message, runtime_s=runtime_s)
