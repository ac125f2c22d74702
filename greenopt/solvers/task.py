"""What goes to a solver and what comes back: plain data that can cross into another process."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

import numpy as np

from greenopt.labelled import FloatArray
from greenopt.solvers.scaling import Scaled

PRIMAL_TOLERANCE = 1e-9
"""Feasibility asked of solvers on the scaled model."""

DUAL_TOLERANCE = 1e-7
"""Dual feasibility asked for at first; with 1e-8 or less HiGHS 1.15.1 can overrun its heap."""

LEAST_GRACE_S = 1.0
RELATIVE_GRACE = 0.1
"""A run may take this much longer than its limit (the larger of the two), no more: half of it to
end by itself, half of it after having been asked to stop. Then its process is killed."""


def grace_s(time_limit_s: float) -> float:
    """How long a run may overrun its limit, s."""
    return max(LEAST_GRACE_S, RELATIVE_GRACE * time_limit_s)


class Termination(StrEnum):
    """Why a solver stopped; how good its point is, the checker says."""

    OPTIMAL = "optimal"
    INFEASIBLE = "infeasible"
    UNBOUNDED = "unbounded"
    LIMIT = "limit"
    INTERRUPTED = "interrupted"
    ERROR = "error"


@dataclass(frozen=True)
class StartReport:
    """What became of a start.

    Attributes
    ----------
    accepted : bool
        Whether it is a feasible point of the model (after completion, if parts were missing).
    objective : float or None
        Its value if accepted.
    reason : str
        Why not, in the model's row and column names; else what was done with it.
    """

    accepted: bool
    objective: float | None
    reason: str


@dataclass(frozen=True, eq=False)
class RawResult:
    """What a solver said, in the model's own columns and rows, after greenopt checked its point.

    Attributes
    ----------
    termination : Termination
        Why it stopped.
    x : ndarray or None
        Its point, if it has one that holds.
    row_dual : ndarray or None
        Multipliers of rows (continuous models only).
    tree_bound : float
        Bound a MILP search claims; minus infinity without one.
    runtime_s : float
        Wall time inside the solver.
    message, version : str
        Its status in its own words and what greenopt adds, and which version it is.
    counts : dict of str to int
        Work done: iterations of the algorithms, nodes of a search.
    program : str
        What the version is of: "highs", "ortools" or "scip".
    where : str
        "in-process" or "worker".
    start : StartReport or None
        What became of the start, if one was given.
    notes : tuple of str
        Things worth knowing that change nothing, such as a session that was rebuilt.
    """

    termination: Termination
    x: FloatArray | None
    row_dual: FloatArray | None
    tree_bound: float
    runtime_s: float
    message: str
    version: str
    counts: dict[str, int] = field(default_factory=dict)
    program: str = "highs"
    where: str = "in-process"
    start: StartReport | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class Task:
    """One scaled model and how to solve it.

    Attributes
    ----------
    scaled : Scaled
        The arrays.
    algorithm : str
        The backend's own name of the algorithm.
    time_limit_s : float
        Wall-clock limit of the run, s.
    gap : float
        Relative gap at which a search may stop.
    dual_tolerance : float
        Dual feasibility on the scaled model.
    threads, seed : int
        Fixed, so that runs repeat.
    start : ndarray or None
        A feasible point of the scaled model.
    verbose : bool
        Whether the solver's log is wanted.
    presolve : bool
        Whether a solver may reduce the model first (HiGHS only).
    """

    scaled: Scaled
    algorithm: str
    time_limit_s: float = float("inf")
    gap: float = 1e-6
    dual_tolerance: float = DUAL_TOLERANCE
    threads: int = 1
    seed: int = 0
    start: FloatArray | None = None
    verbose: bool = False
    presolve: bool = True


@dataclass(frozen=True, eq=False)
class Answer:
    """What a backend says about a task, in the scaled model's terms and unchecked.

    Attributes
    ----------
    termination : Termination
        Why it stopped, as it says.
    x, row_dual : ndarray or None
        Its point and multipliers.
    bound : float
        Its lower bound (searches only).
    message, version : str
        Its own words.
    runtime_s : float
        Wall time inside the solver, s.
    counts : dict of str to int
        Work done.
    """

    termination: Termination
    x: FloatArray | None = None
    row_dual: FloatArray | None = None
    bound: float = -np.inf
    message: str = ""
    version: str = ""
    runtime_s: float = 0.0
    counts: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Change:
    """Differences between two scaled models of one matrix; None where nothing changes.

    Attributes
    ----------
    costs : tuple of (positions, values) or None
        New objective coefficients.
    columns, rows : tuple of (positions, lower, upper) or None
        New bounds.
    integer : ndarray of bool or None
        New integrality of all columns.
    whole : Scaled or None
        The whole new model where coefficients of its matrix change, not their places.
    """

    costs: tuple[Any, Any] | None = None
    columns: tuple[Any, Any, Any] | None = None
    rows: tuple[Any, Any, Any] | None = None
    integer: Any = None
    whole: Scaled | None = None


@dataclass(frozen=True, eq=False)
class Basis:
    """A simplex basis: where each column and row stands.

    Attributes
    ----------
    column, row : ndarray of int8
        0 at the lower bound, 1 basic, 2 at the upper bound, 3 free at zero, 4 nonbasic.
    """

    column: Any
    row: Any

    LOWER, BASIC, UPPER, ZERO, NONBASIC = range(5)


class Line:
    """The line between a running solver and whoever waits for it.

    A backend tells incumbents and log lines, and leaves a way to stop it.
    """

    owns_output = False
    """Whether standard output belongs to the solver alone, so that its log can be caught there."""

    def __init__(self, on_log: Callable[[str], None]) -> None:
        self.incumbent: FloatArray | None = None
        self.log = on_log
        self.stop: Callable[[], Any] = lambda: None

    def improve(self, x: FloatArray) -> None:
        """Hear of a better point of the scaled model."""
        self.incumbent = x
