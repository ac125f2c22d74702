"""GLOP, PDLP and SCIP through OR-Tools, which takes whole sparse arrays at once."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import metadata
from typing import Any

import numpy as np

from greenopt.errors import SolverError
from greenopt.solvers.claims import obvious, told_apart
from greenopt.solvers.interrupting import beside
from greenopt.solvers.task import PRIMAL_TOLERANCE, Answer, Line, Task, Termination

MINIMUM_VERSION = (9, 15)
"""The oldest that the tests run against."""

PDLP_TOLERANCE = 1e-8
"""Relative and absolute; a first-order method takes very long for more."""


def load_helper() -> Any:
    """Import the part of OR-Tools that is used, or say why it cannot be.

    Raises
    ------
    SolverError
        If it is missing, too old, or cannot share the process with HiGHS.
    """
    try:
        from ortools.linear_solver.python import model_builder_helper
    except ImportError as error:
        raise SolverError(f"OR-Tools cannot be loaded: {error}") from error
    text = metadata.version("ortools")
    if tuple(int(part) for part in text.split(".")[:2]) < MINIMUM_VERSION:
        need = ".".join(map(str, MINIMUM_VERSION))
        raise SolverError(f"OR-Tools {text} is installed, greenopt needs {need} or newer")
    return model_builder_helper


def version() -> str:
    """Load the solvers and say which version they are."""
    load_helper()
    return metadata.version("ortools")


def solve(task: Task, line: Line) -> Answer:
    """Solve one model once."""
    return obvious(task) or told_apart(task, line, _run)


def _run(task: Task, line: Line) -> Answer:
    helper = load_helper()
    model = _model(helper, task)
    solver = helper.ModelSolverHelper(task.algorithm)
    if not solver.solver_is_supported():
        raise SolverError(f"this OR-Tools was built without {task.algorithm}")
    solver.set_solver_specific_parameters(_PARAMETERS[task.algorithm](task))
    if np.isfinite(task.time_limit_s):
        solver.set_time_limit_in_seconds(task.time_limit_s)
    line.stop = solver.interrupt_solve  # which SCIP does not heed
    started = time.perf_counter()
    if task.verbose and line.owns_output:
        solver.enable_output(True)
        with _caught_output(line):
            solver.solve(model)
    else:
        beside(lambda: solver.solve(model), None if task.algorithm == "scip" else line.stop)
    return _answer(helper, solver, task, time.perf_counter() - started)


@contextmanager
def _caught_output(line: Line) -> Iterator[None]:
    """Make log lines of what goes to standard output: OR-Tools' own way does not work in Python."""
    with tempfile.TemporaryFile() as caught:
        output = os.dup(1)
        os.dup2(caught.fileno(), 1)
        try:
            yield
        finally:
            os.dup2(output, 1)
            os.close(output)
            caught.seek(0)
            for text in caught.read().decode(errors="replace").splitlines():
                line.log(text)


def _model(helper: Any, task: Task) -> Any:
    from scipy import sparse

    scaled, model = task.scaled, helper.ModelBuilderHelper()
    model.fill_model_from_sparse_data(
        scaled.column_lower,
        scaled.column_upper,
        scaled.c,
        scaled.row_lower,
        scaled.row_upper,
        sparse.csr_matrix(scaled.matrix),
    )
    for column in np.flatnonzero(scaled.integer).tolist():
        model.set_var_integrality(column, True)
    if task.start is not None:
        for column, value in enumerate(task.start.tolist()):
            model.add_hint(column, value)
    return model


def _answer(helper: Any, solver: Any, task: Task, runtime_s: float) -> Answer:
    status, kinds = solver.status(), helper.SolveStatus
    termination = {
        kinds.OPTIMAL: Termination.OPTIMAL,
        kinds.INFEASIBLE: Termination.INFEASIBLE,
        kinds.UNBOUNDED: Termination.UNBOUNDED,
        kinds.FEASIBLE: Termination.LIMIT,
        kinds.CANCELLED_BY_USER: Termination.INTERRUPTED,
    }.get(status, Termination.ERROR)
    if status == kinds.NOT_SOLVED and runtime_s >= 0.9 * task.time_limit_s:
        termination = Termination.LIMIT
    has_point, search = solver.has_solution(), task.algorithm == "scip"
    keeps_dual = has_point and not search
    known = search and solver.has_response() and (has_point or termination == Termination.LIMIT)
    words = solver.status_string() if solver.has_response() else ""
    return Answer(
        termination,
        np.array(solver.variable_values()) if has_point else None,
        np.array(solver.dual_values()) if keeps_dual else None,
        float(solver.best_objective_bound()) if known else -np.inf,
        f"{status.name}{f': {words}' if words else ''}",
        metadata.version("ortools"),
        runtime_s,
    )


def _glop(task: Task) -> str:
    return (
        f"primal_feasibility_tolerance: {PRIMAL_TOLERANCE} "
        f"dual_feasibility_tolerance: {task.dual_tolerance} random_seed: {task.seed}"
    )


def _pdlp(task: Task) -> str:
    return (
        f"termination_criteria {{ simple_optimality_criteria {{ "
        f"eps_optimal_absolute: {PDLP_TOLERANCE} eps_optimal_relative: {PDLP_TOLERANCE} }} }} "
        f"num_threads: {task.threads}"
    )


def _scip(task: Task) -> str:
    return (
        f"limits/gap = {task.gap!r}\nnumerics/feastol = {PRIMAL_TOLERANCE!r}\n"
        f"randomization/randomseedshift = {task.seed}\nparallel/maxnthreads = {task.threads}\n"
        "misc/catchctrlc = FALSE\n"
    )


_PARAMETERS = {"glop": _glop, "pdlp": _pdlp, "scip": _scip}
