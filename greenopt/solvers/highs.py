"""HiGHS through highspy."""

from __future__ import annotations

import contextlib
import os
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np

from greenopt.errors import SolverError
from greenopt.files import write_bytes_atomically
from greenopt.model import Model
from greenopt.solvers.scaling import Scaled, unscaled
from greenopt.solvers.task import (
    DUAL_TOLERANCE,
    PRIMAL_TOLERANCE,
    Answer,
    Basis,
    Change,
    Line,
    Task,
    Termination,
    grace_s,
)

__all__ = ["DUAL_TOLERANCE", "MINIMUM_VERSION", "PRIMAL_TOLERANCE", "Program", "load_highspy"]

MINIMUM_VERSION = (1, 15, 1)
"""Older HiGHS return wrong MILP optima: 1.14.0 in 52 of 1500 random small ones."""

SEARCH_TOLERANCE = 1e-7
"""Feasibility asked of MILP searches; integers are rounded and the rest solved again to 1e-9.

With 1e-9, and coefficients down to 1e-12 kept, HiGHS 1.15.1 proves wrong optima: 47 times in 150
seeds on one published instance of CASPER, never with either of the two at its usual value.
"""

DUAL, PRIMAL = 1, 4
"""Values of the option simplex_strategy; the dual is what HiGHS chooses."""

PATIENCE = 0.15
"""Share of the iterations from scratch that the dual simplex may take after new costs."""

LEAST_PATIENCE = 1000
"""Iterations that are always worth a try."""

NO_LIMIT = 2**31 - 1
"""HiGHS's default of simplex_iteration_limit."""


def load_highspy() -> Any:
    """Import highspy, or say why it cannot be used here.

    Raises
    ------
    SolverError
        If it is missing, older than 1.15.1, or cannot share the process with OR-Tools.
    """
    try:
        import highspy
    except ImportError as error:
        raise SolverError(
            f"HiGHS cannot be loaded: {error}. If this process has loaded ortools, use "
            "isolation='worker': highspy 1.15 and ortools 9.12 or newer ship clashing copies of "
            "libhighs"
        ) from error
    text = highspy.Highs().version()  # type: ignore[no-untyped-call]
    version = tuple(int(part) for part in text.split(".")[:3])
    if version < MINIMUM_VERSION:
        found, need = (".".join(map(str, v)) for v in (version, MINIMUM_VERSION))
        raise SolverError(
            f"HiGHS {found} is loaded, greenopt needs {need}: older ones err on MILPs"
        )
    return highspy


def version() -> str:
    """Load the solver and say which version it is."""
    return str(load_highspy().Highs().version())


def solve(task: Task, line: Line) -> Answer:
    """Solve one model once."""
    program = Program(task, line)
    try:
        return program.run(task.time_limit_s, line, task.start)
    finally:
        program.close()


class Program:
    """A model inside HiGHS, which can be changed and solved again from where it ended.

    Parameters
    ----------
    task : Task
        The model and how to solve it.
    line : Line
        Who hears of log lines.
    """

    def __init__(self, task: Task, line: Line) -> None:
        self._highspy = load_highspy()
        self._task, self._line = task, line
        self._integer = task.scaled.integer
        self._c = task.scaled.c.copy()
        self._costs: list[tuple[Any, Any]] = []  # changes still to be made
        self._by_primal, self._from_scratch = False, 0
        self._highs = self._highspy.Highs()
        self._set("output_flag", False)
        self._set_options()
        _pass(self._highspy, self._highs, task.scaled)
        self._stopping = False
        self._highs.cbSimplexInterrupt += self._heed
        self._highs.cbIpmInterrupt += self._heed
        self._highs.cbMipInterrupt += self._heed
        self._highs.cbMipImprovingSolution += self._improve
        if task.verbose and task.algorithm != "pdlp":  # which would print, whatever it is told
            self._set("log_to_console", False)
            self._set("output_flag", True)
            self._highs.cbLogging += lambda event: self._line.log(event.message.rstrip())

    def change(self, change: Change) -> None:
        """Change costs, bounds, integrality or coefficients; the basis is kept."""
        highs = self._highs
        if change.whole is not None:
            basis = highs.getBasis()
            _pass(self._highspy, highs, change.whole)
            if basis.valid:
                self._must(highs.setBasis(basis))
            self._integer = change.whole.integer
            self._costs.clear()
            self._c = change.whole.c.copy()
            self._set_options()
        if change.costs is not None:
            self._costs.append(change.costs)
        if change.columns is not None:
            where, lower, upper = change.columns
            self._must(highs.changeColsBounds(len(where), where, lower, upper))
        if change.rows is not None:
            where, lower, upper = change.rows
            self._must(highs.changeRowsBounds(len(where), where, lower, upper))
        if change.integer is not None:
            self._integer = change.integer
            kinds = change.integer.astype(np.uint8)
            where = np.arange(len(kinds), dtype=np.int32)
            self._must(highs.changeColsIntegrality(len(kinds), where, kinds))
            self._set_options()

    def run(self, time_limit_s: float, line: Line, start: Any = None) -> Answer:
        """Solve from the last basis, or from a start."""
        self._line = line
        line.stop = self._stop
        highs, kinds = self._highs, self._highspy.HighsModelStatus
        # HiGHS counts its limit over all runs of an object.
        self._set("time_limit", min(time_limit_s, 1e20) + highs.getRunTime())
        if start is not None:
            solution = self._highspy.HighsSolution()
            solution.col_value = start.tolist()
            highs.setSolution(solution)
        started = time.perf_counter()
        cold = not self._keeps_basis
        earlier = self._solve(time_limit_s)
        if cold:
            self._from_scratch = self._iterations
        if highs.getModelStatus() == kinds.kUnboundedOrInfeasible:
            self._set("presolve", "off")
            self._run(time_limit_s)
            self._set("presolve", "choose" if self._task.presolve else "off")
        return self._answer(time.perf_counter() - started, earlier)

    def _solve(self, time_limit_s: float) -> int:
        """Run, by the way that suits what changed.

        A basis stays dual feasible when bounds change and primal feasible when costs do. After new
        costs the dual simplex often finds back soon, and sometimes all but starts anew. Then the
        primal is better, from a basis that is optimal for the old costs: so from then on the model
        is solved with those first, by the dual, and with the new ones after that, by the primal.

        Returns
        -------
        int
            Iterations of earlier runs on the way.
        """
        if not (self._costs and self._keeps_basis):
            self._change_costs()
            self._go_on(time_limit_s)
            return 0
        spent = 0 if self._by_primal else self._try_dual(time_limit_s)
        if not self._by_primal:
            return 0
        highs, optimal = self._highs, self._highspy.HighsModelStatus.kOptimal
        if highs.getModelStatus() != optimal:
            self._go_on(time_limit_s)
            spent += self._iterations
        if highs.getModelStatus() == optimal:
            self._set("simplex_strategy", PRIMAL)
        self._change_costs()
        self._go_on(time_limit_s)
        self._set("simplex_strategy", DUAL)
        return spent

    def _try_dual(self, time_limit_s: float) -> int:
        """Run with new costs by the dual simplex; if that takes long, undo it, for the primal.

        Returns
        -------
        int
            Iterations spent.
        """
        highs, basis, old = self._highs, self._highs.getBasis(), self._c.copy()
        self._change_costs()
        self._set("simplex_iteration_limit", self._patience)
        self._go_on(time_limit_s)
        self._set("simplex_iteration_limit", NO_LIMIT)
        iterations = self._iterations
        if highs.getModelStatus() == self._highspy.HighsModelStatus.kIterationLimit:
            self._by_primal = True
            every = np.arange(len(old), dtype=np.int32)
            self._must(highs.changeColsCost(len(old), every, old))
            self._must(highs.setBasis(basis))
            self._costs.append((every, self._c.copy()))
        return iterations

    @property
    def _patience(self) -> int:
        """Iterations after which the dual simplex is given up."""
        return max(LEAST_PATIENCE, int(PATIENCE * self._from_scratch))

    def _change_costs(self) -> None:
        """Make the changes of costs that were put off."""
        for where, values in self._costs:
            self._must(self._highs.changeColsCost(len(where), where, values))
            self._c[where] = values
        self._costs.clear()

    @property
    def _iterations(self) -> int:
        """Simplex iterations of the last run."""
        return max(int(self._highs.getInfo().simplex_iteration_count), 0)

    def _go_on(self, time_limit_s: float) -> None:
        """Run from the last basis; where that ends in doubt, once more without it."""
        highs, kinds, warm = self._highs, self._highspy.HighsModelStatus, self._keeps_basis
        self._run(time_limit_s)
        if warm and highs.getModelStatus() in {kinds.kUnknown, kinds.kSolveError}:
            highs.clearSolver()
            self._set("simplex_strategy", DUAL)
            self._run(time_limit_s)

    @property
    def _keeps_basis(self) -> bool:
        """Whether the next run is one of the simplex method, from the last basis."""
        simplex = self._task.algorithm in {"choose", "simplex"} and self._task.scaled.q is None
        return simplex and not self._integer.any() and bool(self._highs.getBasis().valid)

    def basis(self) -> Basis | None:
        """Where columns and rows stand; None without a valid basis."""
        basis = self._highs.getBasis()
        if not basis.valid:
            return None
        return Basis(
            np.fromiter(map(int, basis.col_status), np.int8),
            np.fromiter(map(int, basis.row_status), np.int8),
        )

    def close(self) -> None:
        """Free the memory now, not when Python finds the time."""
        self._highs.clear()

    def _set_options(self) -> None:
        task, integer = self._task, self._integer.any()
        self._set("threads", task.threads)
        self._set("random_seed", task.seed)
        self._set("mip_rel_gap", task.gap)
        self._set("mip_abs_gap", 0.0)
        self._set("mip_feasibility_tolerance", SEARCH_TOLERANCE)
        self._set("primal_feasibility_tolerance", PRIMAL_TOLERANCE)
        self._set("dual_feasibility_tolerance", task.dual_tolerance)
        self._set("small_matrix_value", 1e-9 if integer else 1e-12)
        self._set("solver", "choose" if integer else task.algorithm)
        self._set("presolve", "choose" if task.presolve else "off")

    def _set(self, name: str, value: Any) -> None:
        if self._highs.setOptionValue(name, value) == self._highspy.HighsStatus.kError:
            raise SolverError(f"HiGHS refuses option {name} = {value!r}")

    def _must(self, status: Any) -> None:
        if status == self._highspy.HighsStatus.kError:
            raise SolverError("HiGHS refuses a change of the model")

    def _run(self, time_limit_s: float) -> None:
        """Run HiGHS in a thread of its own, so that Ctrl-C is heard at once and passed on.

        Its scheduler belongs to the thread that runs it and is made for one number of threads, so
        it ends with that thread. highspy's own way of doing this runs one model at a time.
        """
        self._stopping, overdue = False, time_limit_s + grace_s(time_limit_s) / 2
        # Not Thread.join: interrupted, it takes a thread that still runs for one that has ended.
        ended = threading.Event()
        thread = threading.Thread(target=self._run_here, args=(ended,), daemon=True)
        try:
            thread.start()  # also while it begins: what it runs must not be cleared under it
            self._stopping = not ended.wait(min(overdue, threading.TIMEOUT_MAX))
            ended.wait()
        except KeyboardInterrupt:
            self._stop()
            while thread.is_alive() and not ended.is_set():
                with contextlib.suppress(KeyboardInterrupt):
                    ended.wait(0.1)
            raise

    def _run_here(self, ended: threading.Event) -> None:
        try:
            self._highs.run()
            self._highs.resetGlobalScheduler(False)
        finally:
            ended.set()

    def _stop(self) -> None:
        self._stopping = True

    def _heed(self, event: Any) -> None:
        if self._stopping:
            event.interrupt()

    def _improve(self, event: Any) -> None:
        self._line.improve(np.array(event.data_out.mip_solution))

    def _answer(self, runtime_s: float, earlier: int = 0) -> Answer:
        highs, integer = self._highs, bool(self._integer.any())
        status, info = highs.getModelStatus(), highs.getInfo()
        kinds = self._highspy.HighsModelStatus
        termination = {
            kinds.kOptimal: Termination.OPTIMAL,
            kinds.kInfeasible: Termination.INFEASIBLE,
            kinds.kUnbounded: Termination.UNBOUNDED,
            kinds.kTimeLimit: Termination.LIMIT,
            kinds.kIterationLimit: Termination.LIMIT,
            kinds.kSolutionLimit: Termination.LIMIT,
            kinds.kMemoryLimit: Termination.LIMIT,
            kinds.kInterrupt: Termination.INTERRUPTED,
        }.get(status, Termination.ERROR)
        empty = status == kinds.kModelEmpty
        if empty:  # no columns: the rows hold at zero or not at all
            scaled = self._task.scaled
            holds = (scaled.row_lower <= 0).all() and (scaled.row_upper >= 0).all()
            termination = Termination.OPTIMAL if holds else Termination.INFEASIBLE
        solution = highs.getSolution()
        feasible = self._highspy.SolutionStatus.kSolutionStatusFeasible
        stopped = termination in {Termination.LIMIT, Termination.INTERRUPTED}
        has_point = info.primal_solution_status == feasible and stopped
        keeps = has_point or termination == Termination.OPTIMAL
        dual = None
        if empty:
            dual = np.zeros(len(self._task.scaled.row))
        elif not integer and solution.dual_valid:
            dual = np.array(solution.row_dual)
        return Answer(
            termination,
            np.array(solution.col_value) if keeps else None,
            dual,
            float(info.mip_dual_bound) if integer else -np.inf,
            str(highs.modelStatusToString(status)),
            str(highs.version()),
            runtime_s,
            {
                "simplex_iterations": int(info.simplex_iteration_count) + earlier,
                "ipm_iterations": int(info.ipm_iteration_count),
                "nodes": int(info.mip_node_count),
            },
        )


def loaded(highspy: Any, scaled: Scaled, task: Task) -> Any:
    """A HiGHS object with a linear program in it, silent and set as for a task."""
    program = highspy.Highs()
    program.silent()
    for name, value in (
        ("threads", 1),
        ("random_seed", task.seed),
        ("primal_feasibility_tolerance", PRIMAL_TOLERANCE),
        ("dual_feasibility_tolerance", task.dual_tolerance),
        ("small_matrix_value", 1e-12),
        ("solver", "simplex"),
    ):
        program.setOptionValue(name, value)
    _pass(highspy, program, scaled)
    return program


def _pass(highspy: Any, highs: Any, scaled: Scaled) -> None:
    lp = highspy.HighsLp()
    lp.num_row_, lp.num_col_ = scaled.matrix.shape
    lp.col_cost_, lp.col_lower_, lp.col_upper_ = scaled.c, scaled.column_lower, scaled.column_upper
    lp.row_lower_, lp.row_upper_ = scaled.row_lower, scaled.row_upper
    lp.a_matrix_.format_ = highspy.MatrixFormat.kColwise
    lp.a_matrix_.start_ = scaled.matrix.indptr
    lp.a_matrix_.index_ = scaled.matrix.indices
    lp.a_matrix_.value_ = scaled.matrix.data
    if scaled.is_integer:
        kinds = (highspy.HighsVarType.kContinuous, highspy.HighsVarType.kInteger)
        lp.integrality_ = [kinds[int(flag)] for flag in scaled.integer]
    if highs.passModel(lp) == highspy.HighsStatus.kError:
        raise SolverError("HiGHS refuses the model (a coefficient is not finite or too large)")
    if scaled.q is not None:
        _pass_quadratic(highspy, highs, scaled.q)


def _pass_quadratic(highspy: Any, highs: Any, q: Any) -> None:
    from scipy import sparse

    lower = sparse.csc_array(sparse.tril(q))
    hessian = highspy.HighsHessian()
    hessian.dim_ = q.shape[0]
    hessian.format_ = highspy.HessianFormat.kTriangular
    hessian.start_, hessian.index_, hessian.value_ = lower.indptr, lower.indices, lower.data
    if highs.passHessian(hessian) == highspy.HighsStatus.kError:
        raise SolverError("HiGHS refuses the quadratic term")


def write_model(model: Model, path: str | os.PathLike[str], kind: str) -> None:
    """Write a model's first stage as an MPS or LP file with readable names, unscaled.

    Raises
    ------
    SolverError
        If HiGHS cannot write it.
    """
    highspy = load_highspy()
    highs = highspy.Highs()
    highs.silent()
    stage = model.stages[0]
    _pass(highspy, highs, unscaled(model, stage.c, stage.q))
    for number, name in enumerate(model.column_names):
        highs.passColName(number, name)
    for number, name in enumerate(model.row_names):
        highs.passRowName(number, name)
    with tempfile.TemporaryDirectory() as folder:
        written = Path(folder) / f"model.{kind}"
        if highs.writeModel(str(written)) == highspy.HighsStatus.kError or not written.exists():
            raise SolverError(f"HiGHS cannot write {kind} files of this model")
        write_bytes_atomically(path, written.read_bytes())
