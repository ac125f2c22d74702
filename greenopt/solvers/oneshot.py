"""One model, one run."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

import numpy as np

from greenopt.errors import SolverError
from greenopt.labelled import FloatArray
from greenopt.model import Model
from greenopt.solvers import points
from greenopt.solvers.convexity import refuse_nonconvex
from greenopt.solvers.judging import Start, judge
from greenopt.solvers.registry import SOLVERS, SolverInfo, find, refuse_unfit
from greenopt.solvers.running import execute, log, log_line, runs_in_worker, verbose
from greenopt.solvers.scaling import Scaled, scale
from greenopt.solvers.splitting import execute_in_parts
from greenopt.solvers.task import DUAL_TOLERANCE, RawResult, StartReport, Task

COMPLETION_SHARE = 0.25
"""Share of the time limit that the completion of a partial start may take."""

COMPLETION_GAP = 1e-2
"""A completion need not be the best one."""

REPAIR_LIMIT_S = 60.0
LEAST_REPAIR_S = 1.0
"""Limits of the linear program that follows the rounding of integers: what the run has left, within
these two."""


def solve_model(
    model: Model,
    stage: int = 0,
    *,
    solver: str = "highs",
    isolation: str = "auto",
    time_limit_s: float = float("inf"),
    gap: float = 1e-6,
    relax: bool = False,
    spread: float = 1e6,
    dual_tolerance: float = DUAL_TOLERANCE,
    threads: int = 1,
    seed: int = 0,
    start: FloatArray | None = None,
) -> RawResult:
    """Minimise one stage of a model.

    Parameters
    ----------
    model : Model
        Arrays; handed over scaled by powers of two.
    stage : int
        Which objective.
    solver : str
        A key of `SOLVERS`.
    isolation : str
        "in-process", "worker", or "auto": HiGHS in the calling process, unless that has loaded
        OR-Tools or a mixed-integer model has a time limit (so that the run can be killed);
        everything else in a worker.
    time_limit_s : float
        Wall-clock limit of this run, s. A run in a worker is killed when it overruns by more than
        `grace_s`.
    gap : float
        Relative gap at which a MILP search may stop.
    relax : bool
        Drop integrality.
    spread : float
        Largest scaled cost relative to the median one (see `scaling.scale`).
    dual_tolerance : float
        Dual feasibility asked for on the scaled model.
    threads, seed : int
        Fixed, so that runs repeat.
    start : ndarray, optional
        A value for each column, NaN where not known. It is checked, completed if it has gaps, and
        given to solvers that use one; the result is never worse.

    Returns
    -------
    RawResult
        Never an exception for infeasible, unbounded, a limit or a solver that dies: those are
        results. The point holds, whoever found it.

    Raises
    ------
    SolverError
        For an unknown or unusable solver, or a model it would not solve as it stands.
    """
    info, objective = find(solver), model.stages[stage]
    refuse_unusable(model, stage, info, relax)
    scaled = scale(model, objective.c, spread, objective.q, relax)
    task = Task(
        scaled,
        info.algorithm,
        time_limit_s,
        gap=gap,
        dual_tolerance=dual_tolerance,
        threads=threads,
        seed=seed,
        verbose=verbose(),
    )
    return _Run(model, info, task, isolation).result(start)


def refuse_unusable(model: Model, stage: int, info: SolverInfo, relax: bool) -> None:
    """Refuse what no solver, or not this one, would solve as it stands.

    Raises
    ------
    SolverError
        With the reason and the alternative.
    """
    objective = model.stages[stage]
    refuse_senseless(
        model.matrix.data,
        objective.c,
        (model.row_lower, model.row_upper),
        (model.column_lower, model.column_upper),
    )
    n_integer = 0 if relax else int(model.integer.sum())
    refuse_unfit(info, len(objective.c), n_integer, objective.q is not None)
    if objective.q is not None:
        refuse_nonconvex(objective.q)


def refuse_senseless(values: Any, c: FloatArray, *bounds: tuple[FloatArray, FloatArray]) -> None:
    """Refuse coefficients that are not finite, and bounds that nothing can satisfy.

    Raises
    ------
    SolverError
        Saying which.
    """
    if not (np.isfinite(values).all() and np.isfinite(c).all()):
        raise SolverError("the model has a coefficient that is not finite")
    for lower, upper in bounds:
        if np.isnan(lower).any() or np.isnan(upper).any():
            raise SolverError("the model has a bound that is not a number")
        if (lower == np.inf).any() or (upper == -np.inf).any():
            raise SolverError("the model has a lower bound of +inf or an upper bound of -inf")


def repair_limit_s(until: float) -> float:
    """Time for the linear program that follows rounding, in a run that ends at some time, s."""
    return min(max(until - time.perf_counter(), LEAST_REPAIR_S), REPAIR_LIMIT_S)


class _Run:
    """One solve, with the solves of parts that it may need."""

    def __init__(self, model: Model, info: SolverInfo, task: Task, isolation: str) -> None:
        self.model, self.info, self.task, self.isolation = model, info, task, isolation
        self._until = time.perf_counter() + task.time_limit_s
        must_stop = task.scaled.is_integer and np.isfinite(task.time_limit_s)
        self.remote = runs_in_worker(info, isolation, bool(must_stop))

    def result(self, given: FloatArray | None) -> RawResult:
        start, report = (None, None) if given is None else self._accept(given)
        left = max(self._until - time.perf_counter(), 1e-3)
        task = replace(self.task, time_limit_s=left)
        if start is not None and self.info.start and task.scaled.is_integer:
            task = replace(task, start=start.x)
        line = log_line()
        answer = execute_in_parts(self.info, task, self.remote, line)
        log.debug("%s: %s says %s", self.model.name, self.info.name, answer.message)
        return judge(
            self.model,
            task.scaled,
            self.info,
            answer,
            incumbent=line.incumbent,
            repair=self._repair,
            gap=task.gap,
            remote=self.remote,
            start=start,
            start_report=report,
        )

    def _accept(self, given: FloatArray) -> tuple[Start | None, StartReport]:
        """Check a start and complete it."""
        scaled = self.task.scaled
        if given.shape != scaled.c.shape:
            text = f"has {given.size} values for {scaled.c.size} columns"
            return None, StartReport(False, None, text)
        if np.isinf(given).any():
            return None, StartReport(False, None, "it has entries that are not finite numbers")
        x = points.rounded(scaled, given / scaled.column)
        missing = np.isnan(x)
        if missing.any():
            given_part = _without_rows(scaled, missing)
            if fault := points.fault(self.model, given_part, np.where(missing, 0.0, x)):
                return None, StartReport(
                    False, None, f"the given part cannot be completed: {fault}"
                )
            limit_s = COMPLETION_SHARE * self.task.time_limit_s
            completed, message = self._solve_part(points.held(scaled, x), limit_s, COMPLETION_GAP)
            if completed is None:
                text = f"the given part cannot be completed: {message}"
                return None, StartReport(False, None, text)
            x = completed
        if fault := points.fault(self.model, scaled, x):
            return None, StartReport(False, None, fault)
        text = "completed" if missing.any() else "feasible as given"
        if not (self.info.start and scaled.is_integer):
            text += "; kept to fall back on, this solver makes no use of a start"
        value = points.value(scaled, x)[0] / scaled.objective
        report = StartReport(True, value, text)
        return Start(x, report), report

    def _repair(self, whole: FloatArray) -> FloatArray | None:
        """The best continuous part to integers that rounding has moved, or None."""
        scaled = self.task.scaled
        part = points.held(scaled, np.where(scaled.integer, whole, np.nan))
        return self._solve_part(part, repair_limit_s(self._until), self.task.gap)[0]

    def _solve_part(
        self, fixed: Scaled, limit_s: float, gap: float
    ) -> tuple[FloatArray | None, str]:
        """A point of a model with fixed columns, and what the solver says."""
        hard = fixed.q is not None and fixed.is_integer
        info = SOLVERS["scip-minlp" if hard else "highs"]
        isolation = self.isolation if info.package == self.info.package else "auto"
        must_stop = bool(fixed.is_integer and np.isfinite(limit_s))
        remote = runs_in_worker(info, isolation, must_stop)
        task = replace(
            self.task, scaled=fixed, algorithm=info.algorithm, time_limit_s=limit_s, gap=gap
        )
        line = log_line()
        answer = execute(info, task, remote, line)
        return line.incumbent if answer.x is None else answer.x, answer.message


def _without_rows(scaled: Scaled, missing: Any) -> Scaled:
    """Only the bounds and integrality of the given part, for a first look at it."""
    return replace(
        scaled,
        matrix=scaled.matrix[:0],
        row_lower=scaled.row_lower[:0],
        row_upper=scaled.row_upper[:0],
        column_lower=np.where(missing, -np.inf, scaled.column_lower),
        column_upper=np.where(missing, np.inf, scaled.column_upper),
    )
