"""HiGHS through highspy, in the calling process."""

from __future__ import annotations

import logging
import os
import tempfile
import threading
import time
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

import numpy as np

from greenopt.errors import SolverError
from greenopt.files import write_bytes_atomically
from greenopt.labelled import FloatArray
from greenopt.model import Model
from greenopt.solvers.scaling import scale, unscaled

MINIMUM_VERSION = (1, 15, 1)
"""Older HiGHS return wrong MILP optima: 1.14.0 in 52 of 1500 random small ones."""

HIGHS_SOLVERS = {
    "highs": "choose",
    "highs-simplex": "simplex",
    "highs-ipm": "ipm",
    "highs-pdlp": "pdlp",
}
"""Solver names and HiGHS's own name of the algorithm."""

PRIMAL_TOLERANCE = 1e-9
"""Feasibility asked of HiGHS on the scaled model."""

DUAL_TOLERANCE = 1e-7
"""Dual feasibility asked of HiGHS at first; with 1e-8 or less HiGHS 1.15.1 can overrun its heap."""

log = logging.getLogger("greenopt.solver")


class Termination(StrEnum):
    """Why a solver stopped; how good its point is, the checker says."""

    OPTIMAL = "optimal"
    INFEASIBLE = "infeasible"
    UNBOUNDED = "unbounded"
    LIMIT = "limit"
    INTERRUPTED = "interrupted"
    ERROR = "error"


@dataclass(frozen=True, eq=False)
class RawResult:
    """What a solver said, in the model's own columns and rows.

    Attributes
    ----------
    termination : Termination
        Why it stopped.
    x : ndarray or None
        Its point, if it has one.
    row_dual : ndarray or None
        Multipliers of rows (continuous models only).
    tree_bound : float
        Bound a MILP search claims; minus infinity without one.
    runtime_s : float
        Wall time inside the solver.
    message, version : str
        Its status in its own words, and which version it is.
    counts : dict of str to int
        Work done: iterations of the algorithms, nodes of a search.
    """

    termination: Termination
    x: FloatArray | None
    row_dual: FloatArray | None
    tree_bound: float
    runtime_s: float
    message: str
    version: str
    counts: dict[str, int] = field(default_factory=dict)


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
            f"HiGHS cannot be loaded: {error}. If this process imported ortools first, import "
            "greenopt's solver before it or run greenopt in another process: highspy 1.15 and "
            "ortools 9.12 or newer ship clashing copies of libhighs"
        ) from error
    text = highspy.Highs().version()  # type: ignore[no-untyped-call]
    version = tuple(int(part) for part in text.split(".")[:3])
    if version < MINIMUM_VERSION:
        found, need = (".".join(map(str, v)) for v in (version, MINIMUM_VERSION))
        raise SolverError(
            f"HiGHS {found} is loaded, greenopt needs {need}: older ones err on MILPs"
        )
    return highspy


def solve_model(
    model: Model,
    stage: int = 0,
    *,
    solver: str = "highs",
    time_limit_s: float = float("inf"),
    gap: float = 1e-6,
    relax: bool = False,
    spread: float = 1e6,
    dual_tolerance: float = DUAL_TOLERANCE,
    threads: int = 1,
    seed: int = 0,
) -> RawResult:
    """Minimise one stage of a model.

    Parameters
    ----------
    model : Model
        Arrays; handed over scaled by powers of two.
    stage : int
        Which objective.
    solver : str
        A key of `HIGHS_SOLVERS`.
    time_limit_s : float
        Wall-clock limit of this run, s.
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

    Returns
    -------
    RawResult
        Never an exception for infeasible, unbounded or a limit: those are results.

    Raises
    ------
    SolverError
        For an unknown solver name or an unusable HiGHS.
    """
    if solver not in HIGHS_SOLVERS:
        raise SolverError(f"unknown solver {solver!r}; known are {', '.join(HIGHS_SOLVERS)}")
    highspy = load_highspy()
    integer = model.is_integer and not relax
    scaled = scale(model, model.stages[stage].c, spread)
    highs = highspy.Highs()
    highs.silent()
    options: dict[str, Any] = {
        "threads": threads,
        "random_seed": seed,
        "mip_rel_gap": gap,
        "mip_abs_gap": 0.0,
        "mip_feasibility_tolerance": PRIMAL_TOLERANCE,
        "primal_feasibility_tolerance": PRIMAL_TOLERANCE,
        "dual_feasibility_tolerance": dual_tolerance,
        "small_matrix_value": 1e-12,
        "solver": HIGHS_SOLVERS[solver] if not integer else "choose",
        "time_limit": min(time_limit_s, 1e20) + highs.getRunTime(),
    }
    for name, value in options.items():
        if highs.setOptionValue(name, value) == highspy.HighsStatus.kError:
            raise SolverError(f"HiGHS refuses option {name} = {value!r}")
    _pass(highspy, highs, scaled, model.integer if integer else None)
    started = time.perf_counter()
    _run(highs)
    if highs.getModelStatus() == highspy.HighsModelStatus.kUnboundedOrInfeasible:
        highs.setOptionValue("presolve", "off")
        _run(highs)
    runtime_s = time.perf_counter() - started
    log.debug("%s: %s in %.3f s", model.name, highs.getModelStatus(), runtime_s)
    return _result(highspy, highs, scaled, runtime_s, integer)


def _run(highs: Any) -> None:
    """Run HiGHS beside the main thread, so that Ctrl-C is heard at once and passed on."""
    if threading.current_thread() is not threading.main_thread():
        highs.run()
        return
    highs.HandleUserInterrupt = True
    highs.startSolve()
    try:
        while not highs.wait(0.1)[0]:
            pass
    except KeyboardInterrupt:
        highs.cancelSolve()
        highs.wait()
        raise


def _pass(highspy: Any, highs: Any, scaled: Any, integer: Any) -> None:
    lp = highspy.HighsLp()
    lp.num_row_, lp.num_col_ = scaled.matrix.shape
    lp.col_cost_, lp.col_lower_, lp.col_upper_ = scaled.c, scaled.column_lower, scaled.column_upper
    lp.row_lower_, lp.row_upper_ = scaled.row_lower, scaled.row_upper
    lp.a_matrix_.format_ = highspy.MatrixFormat.kColwise
    lp.a_matrix_.start_ = scaled.matrix.indptr
    lp.a_matrix_.index_ = scaled.matrix.indices
    lp.a_matrix_.value_ = scaled.matrix.data
    if integer is not None:
        kinds = (highspy.HighsVarType.kContinuous, highspy.HighsVarType.kInteger)
        lp.integrality_ = [kinds[int(flag)] for flag in integer]
    if highs.passModel(lp) == highspy.HighsStatus.kError:
        raise SolverError("HiGHS refuses the model (a coefficient is not finite or too large)")


def _result(highspy: Any, highs: Any, scaled: Any, runtime_s: float, integer: bool) -> RawResult:
    status, info = highs.getModelStatus(), highs.getInfo()
    kinds = highspy.HighsModelStatus
    termination = {
        kinds.kOptimal: Termination.OPTIMAL,
        kinds.kInfeasible: Termination.INFEASIBLE,
        kinds.kUnbounded: Termination.UNBOUNDED,
        kinds.kTimeLimit: Termination.LIMIT,
        kinds.kIterationLimit: Termination.LIMIT,
        kinds.kSolutionLimit: Termination.LIMIT,
        kinds.kInterrupt: Termination.INTERRUPTED,
    }.get(status, Termination.ERROR)
    if status == kinds.kModelEmpty:  # no columns: the rows hold at zero or not at all
        holds = (scaled.row_lower <= 0).all() and (scaled.row_upper >= 0).all()
        termination = Termination.OPTIMAL if holds else Termination.INFEASIBLE
    solution = highs.getSolution()
    has_point = info.primal_solution_status == highspy.SolutionStatus.kSolutionStatusFeasible
    worth = termination in {Termination.LIMIT, Termination.INTERRUPTED} and has_point
    keeps = worth or termination == Termination.OPTIMAL
    x = scaled.x(np.array(solution.col_value)) if keeps else None
    dual = None
    if status == kinds.kModelEmpty:
        dual = np.zeros(len(scaled.row))
    elif not integer and solution.dual_valid:
        dual = scaled.row_dual(np.array(solution.row_dual))
    bound = info.mip_dual_bound / scaled.objective if integer else -np.inf
    return RawResult(
        termination,
        x,
        dual,
        bound,
        runtime_s,
        highs.modelStatusToString(status),
        highs.version(),
        {
            "simplex_iterations": int(info.simplex_iteration_count),
            "ipm_iterations": int(info.ipm_iteration_count),
            "nodes": int(info.mip_node_count),
        },
    )


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
    _pass(
        highspy,
        highs,
        unscaled(model, model.stages[0].c),
        model.integer if model.is_integer else None,
    )
    for number, name in enumerate(model.column_names):
        highs.passColName(number, name)
    for number, name in enumerate(model.row_names):
        highs.passRowName(number, name)
    with tempfile.TemporaryDirectory() as folder:
        written = Path(folder) / f"model.{kind}"
        if highs.writeModel(str(written)) == highspy.HighsStatus.kError or not written.exists():
            raise SolverError(f"HiGHS cannot write {kind} files of this model")
        write_bytes_atomically(path, written.read_bytes())
