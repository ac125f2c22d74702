"""SCIP through PySCIPOpt: mixed-integer models, convex quadratic objectives included."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from greenopt.errors import SolverError
from greenopt.labelled import FloatArray
from greenopt.solvers.claims import obvious, told_apart
from greenopt.solvers.interrupting import beside
from greenopt.solvers.task import PRIMAL_TOLERANCE, Answer, Line, Task, Termination

INFINITE = 1e20
"""From here on, SCIP takes numbers for infinite."""


def load_pyscipopt() -> Any:
    """Import PySCIPOpt, or say how to get it.

    Raises
    ------
    SolverError
        If it is not installed.
    """
    try:
        import pyscipopt
    except ImportError as error:
        raise SolverError(
            f"scip-minlp needs PySCIPOpt ({error}); pip install 'greenopt[minlp]'"
        ) from error
    return pyscipopt


def version() -> str:
    """Load the solver and say which version it is."""
    pyscipopt = load_pyscipopt()
    model = pyscipopt.Model()
    numbers = (model.getMajorVersion(), model.getMinorVersion(), model.getTechVersion())
    return ".".join(map(str, numbers))


def solve(task: Task, line: Line) -> Answer:
    """Solve one model once."""
    return obvious(task) or told_apart(task, line, _run)


def _run(task: Task, line: Line) -> Answer:
    pyscipopt = load_pyscipopt()
    model, columns = _model(pyscipopt, task)
    line.stop = model.interruptSolve

    class Told(pyscipopt.Eventhdlr):  # type: ignore[misc,name-defined]
        def eventinit(self) -> None:
            self.model.catchEvent(pyscipopt.SCIP_EVENTTYPE.BESTSOLFOUND, self)

        def eventexit(self) -> None:
            self.model.dropEvent(pyscipopt.SCIP_EVENTTYPE.BESTSOLFOUND, self)

        def eventexec(self, event: Any) -> None:
            line.improve(_point(self.model, columns))

    model.includeEventhdlr(Told(), "told", "tells better points")
    with tempfile.TemporaryDirectory() as folder:
        written = Path(folder) / "log"
        if task.verbose:
            model.setLogfile(str(written))
        started = time.perf_counter()
        beside(model.optimizeNogil, line.stop)
        runtime_s = time.perf_counter() - started
        model.setLogfile(None)
        for text in written.read_text().splitlines() if written.exists() else []:
            line.log(text)
    return _answer(model, columns, task, runtime_s)


def _model(pyscipopt: Any, task: Task) -> tuple[Any, list[Any]]:
    scaled, model = task.scaled, pyscipopt.Model()
    model.hideOutput()
    model.setParam("misc/catchctrlc", False)
    model.setParam("limits/gap", task.gap)
    model.setParam("limits/time", min(task.time_limit_s, INFINITE))
    model.setParam("numerics/feastol", PRIMAL_TOLERANCE)
    model.setParam("randomization/randomseedshift", task.seed)
    model.setParam("parallel/maxnthreads", task.threads)
    columns = [
        model.addVar(vtype="I" if integer else "C", lb=low, ub=high, obj=cost)
        for integer, low, high, cost in zip(
            scaled.integer.tolist(),
            _ends(scaled.column_lower),
            _ends(scaled.column_upper),
            scaled.c.tolist(),
            strict=True,
        )
    ]
    rows = scaled.matrix.tocsr()
    for i, (low, high) in enumerate(
        zip(_ends(scaled.row_lower), _ends(scaled.row_upper), strict=True)
    ):
        part = slice(rows.indptr[i], rows.indptr[i + 1])
        terms = zip(rows.data[part].tolist(), rows.indices[part].tolist(), strict=True)
        body = pyscipopt.quicksum(value * columns[j] for value, j in terms)
        _add_row(model, body, low, high)
    if scaled.q is not None:
        _add_quadratic(pyscipopt, model, columns, scaled.q.tocoo())
    if task.start is not None:
        _add_start(model, columns, task)
    return model, columns


def _ends(bounds: FloatArray) -> list[float | None]:
    return [None if abs(bound) >= INFINITE else bound for bound in bounds.tolist()]


def _add_row(model: Any, body: Any, low: float | None, high: float | None) -> None:
    if low is not None and low == high:
        model.addCons(body == low)
        return
    if low is not None:
        model.addCons(body >= low)
    if high is not None:
        model.addCons(body <= high)


def _add_quadratic(pyscipopt: Any, model: Any, columns: list[Any], q: Any) -> None:
    """SCIP's objectives are linear: a column above the quadratic term stands for it."""
    above = model.addVar(lb=None, obj=1.0)
    terms = zip(q.data.tolist(), q.row.tolist(), q.col.tolist(), strict=True)
    body = pyscipopt.quicksum(0.5 * value * columns[i] * columns[j] for value, i, j in terms)
    model.addCons(body <= above)


def _add_start(model: Any, columns: list[Any], task: Task) -> None:
    assert task.start is not None
    partial = task.scaled.q is not None  # SCIP finds the value of the extra column
    solution = model.createPartialSol() if partial else model.createSol()
    for column, value in zip(columns, task.start.tolist(), strict=True):
        model.setSolVal(solution, column, value)
    model.addSol(solution)


def _point(model: Any, columns: list[Any]) -> FloatArray:
    best = model.getBestSol()
    return np.array([model.getSolVal(best, column) for column in columns])


def _answer(model: Any, columns: list[Any], task: Task, runtime_s: float) -> Answer:
    status = model.getStatus()
    termination = {
        "optimal": Termination.OPTIMAL,
        "gaplimit": Termination.OPTIMAL,
        "infeasible": Termination.INFEASIBLE,
        "unbounded": Termination.UNBOUNDED,
        "inforunbd": Termination.UNBOUNDED,  # told apart afterwards
        "timelimit": Termination.LIMIT,
        "memlimit": Termination.LIMIT,
        "userinterrupt": Termination.INTERRUPTED,
    }.get(status, Termination.ERROR)
    claims_point = termination not in (Termination.INFEASIBLE, Termination.UNBOUNDED)
    # Without a solution, SCIP's "best" one is all zeros.
    has_point = claims_point and model.getNSols() > 0
    bound = float(model.getDualbound())
    return Answer(
        termination,
        _point(model, columns) if has_point else None,
        None,
        bound if claims_point and abs(bound) < INFINITE else -np.inf,
        status,
        version(),
        runtime_s,
        {"nodes": int(model.getNTotalNodes())},
    )
