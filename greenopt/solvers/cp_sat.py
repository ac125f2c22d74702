"""CP-SAT through OR-Tools: integers only, so coefficients are made whole with care."""

from __future__ import annotations

import time
from dataclasses import dataclass
from importlib import metadata
from typing import Any

import numpy as np

from greenopt.errors import SolverError
from greenopt.labelled import FloatArray
from greenopt.solvers.claims import obvious
from greenopt.solvers.interrupting import beside
from greenopt.solvers.or_tools import load_helper, version
from greenopt.solvers.scaling import Scaled
from greenopt.solvers.task import PRIMAL_TOLERANCE, Answer, Line, Task, Termination

__all__ = ["solve", "version"]

LARGEST_BOUND = 2.0**31
"""Columns with bounds beyond are refused: with them, whole coefficients would lose their digits."""

LARGEST_SUM = 2.0**52
"""Sums of whole terms stay below, where both double precision and CP-SAT are exact."""

FACTORS = 10.0 ** np.arange(10)
"""Factors tried to make the coefficients of a row whole without rounding them."""

SLIGHT = 1e-9
"""Sides this close to a whole number are taken for it."""


def solve(task: Task, line: Line) -> Answer:
    """Solve one model once."""
    return obvious(task) or _run(task, line)


@dataclass(frozen=True, eq=False)
class Whole:
    """Rows with whole coefficients, each ``factor`` times the row it stands for, or nearly so.

    Attributes
    ----------
    coefficients : ndarray
        Whole numbers in the order of the matrix's own.
    factor : ndarray
        What each row was multiplied by.
    slack : ndarray
        Largest difference within the bounds of the columns that rounding makes to a row's sum.
    reach : ndarray
        Largest absolute value of a row's sum.
    exact : ndarray of bool
        Whether the coefficients became whole without rounding.
    """

    coefficients: Any
    factor: FloatArray
    slack: FloatArray
    reach: FloatArray
    exact: Any


def whole(matrix: Any, reach: FloatArray) -> Whole:
    """Multiply rows so that their coefficients become whole.

    Where a power of ten does it (counts, prices in cents) nothing is lost. Elsewhere the factor is
    the largest power of two that leaves room, and what rounding may cost is the slack.

    Parameters
    ----------
    matrix : scipy.sparse.csr_array
        Rows.
    reach : ndarray
        Largest absolute value of each column.
    """
    n_rows = matrix.shape[0]
    row = np.repeat(np.arange(n_rows), np.diff(matrix.indptr))
    size = np.bincount(row, np.abs(matrix.data) * np.maximum(reach[matrix.indices], 1), n_rows)
    largest = LARGEST_SUM / np.maximum(size, np.finfo(float).tiny)
    factor, exact = np.exp2(np.floor(np.log2(largest))), np.zeros(n_rows, dtype=bool)
    for power in FACTORS[::-1]:
        times = matrix.data * power
        broken = np.abs(times - np.round(times)) > 4e-16 * np.abs(times)
        does = (np.bincount(row, broken, n_rows) == 0) & (power <= largest)
        factor, exact = np.where(does, power, factor), exact | does
    times = matrix.data * factor[row]
    near = np.round(times)
    error = np.where(exact[row], 0.0, np.abs(times - near))
    columns = reach[matrix.indices]
    return Whole(
        near,
        factor,
        np.bincount(row, error * columns, n_rows).astype(float),
        np.bincount(row, np.abs(near) * columns, n_rows).astype(float),
        exact,
    )


def _run(task: Task, line: Line) -> Answer:
    load_helper()  # refuses what is missing or too old
    from ortools.sat.python import cp_model_helper as helper
    from scipy import sparse

    scaled = task.scaled
    lower, upper = np.ceil(scaled.column_lower - SLIGHT), np.floor(scaled.column_upper + SLIGHT)
    if (lower > upper).any():
        return Answer(Termination.INFEASIBLE, message="no whole number between two bounds")
    reach = np.maximum(np.abs(lower), np.abs(upper))
    if (reach > LARGEST_BOUND).any():
        raise SolverError(
            f"cp-sat needs a bound of at most {LARGEST_BOUND:g} on either side of every column, "
            f"and {int((reach > LARGEST_BOUND).sum())} columns have none or larger ones; use highs "
            "or scip"
        )
    # Unscaled rows have the round numbers that users write; integer columns were never scaled.
    rows = sparse.csr_array(sparse.diags_array(1 / scaled.row) @ scaled.matrix)
    model = helper.CpModelProto()
    for low, high in zip(lower.astype(int).tolist(), upper.astype(int).tolist(), strict=True):
        model.variables.add().domain.extend([low, high])
    if not _add_rows(model, rows, scaled, reach):
        return Answer(Termination.INFEASIBLE, message="no whole number between the sides of a row")
    costs = sparse.csr_array((scaled.c / scaled.objective).reshape(1, -1))
    objective = whole(costs, reach)
    if costs.nnz:
        model.objective.vars.extend(costs.indices.tolist())
        model.objective.coeffs.extend(objective.coefficients.astype(int).tolist())
    if task.start is not None:
        model.solution_hint.vars.extend(range(len(lower)))
        model.solution_hint.values.extend(np.round(task.start).astype(int).tolist())
    return _search(helper, model, objective, task, line)


def _add_rows(model: Any, rows: Any, scaled: Scaled, reach: FloatArray) -> bool:
    """Whole rows, their sides moved outwards by what rounding may cost; whether each can hold.

    Rows that had to be rounded hold within the tolerance that other solvers are given too.
    """
    made = whole(rows, reach)
    unit = made.factor / scaled.row
    room = np.where(made.exact, SLIGHT, made.slack + PRIMAL_TOLERANCE * unit)
    low, high = scaled.row_lower * unit, scaled.row_upper * unit
    low = np.ceil(low - room - 4e-16 * np.abs(low))
    high = np.floor(high + room + 4e-16 * np.abs(high))
    low, high = np.maximum(low, -made.reach - 1), np.minimum(high, made.reach + 1)
    if (low > high).any():
        return False
    domains = np.column_stack([low, high]).astype(int).tolist()
    columns, coefficients = rows.indices.tolist(), made.coefficients.astype(int).tolist()
    starts = rows.indptr.tolist()
    for i, domain in enumerate(domains):
        linear, part = model.constraints.add().linear, slice(starts[i], starts[i + 1])
        linear.vars.extend(columns[part])
        linear.coeffs.extend(coefficients[part])
        linear.domain.extend(domain)
    return True


def _search(helper: Any, model: Any, objective: Whole, task: Task, line: Line) -> Answer:
    class Told(helper.SolutionCallback):  # type: ignore[misc]
        def OnSolutionCallback(self) -> None:
            line.improve(np.array(self.Response().solution, dtype=float))

    parameters = helper.SatParameters()
    parameters.num_workers = task.threads
    parameters.random_seed = task.seed
    parameters.relative_gap_limit = task.gap
    parameters.catch_sigint_signal = False
    if np.isfinite(task.time_limit_s):
        parameters.max_time_in_seconds = task.time_limit_s
    solver = helper.SolveWrapper()
    if task.verbose:
        parameters.log_search_progress = True
        parameters.log_to_stdout = False
        solver.add_log_callback(line.log)
    solver.set_parameters(parameters)
    told = Told()
    solver.add_solution_callback(told)
    line.stop = solver.stop_search
    started = time.perf_counter()
    response = beside(lambda: solver.solve(model), line.stop)
    runtime_s = time.perf_counter() - started
    kinds = helper.CpSolverStatus
    termination = {
        kinds.OPTIMAL: Termination.OPTIMAL,
        kinds.INFEASIBLE: Termination.INFEASIBLE,
        kinds.FEASIBLE: Termination.LIMIT,
        kinds.UNKNOWN: Termination.LIMIT,
    }.get(response.status, Termination.ERROR)
    x = np.array(response.solution, dtype=float)
    return Answer(
        termination,
        x if len(x) else None,
        None,
        _bound(response, objective, task) if termination != Termination.INFEASIBLE else -np.inf,
        response.status.name,
        metadata.version("ortools"),
        runtime_s,
        {"branches": int(response.num_branches), "conflicts": int(response.num_conflicts)},
    )


def _bound(response: Any, objective: Whole, task: Task) -> float:
    """The bound on the scaled objective that follows from the one on the whole objective."""
    bound = response.best_objective_bound - objective.slack[0]
    return float(bound / objective.factor[0] * task.scaled.objective)
