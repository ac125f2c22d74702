"""Which solvers there are, and what each can do: the one list that everything else reads."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from greenopt.errors import SolverError


@dataclass(frozen=True)
class SolverInfo:
    """What one solver is and can do.

    Attributes
    ----------
    name : str
        As users write it.
    program : str
        Whose version is reported: "highs", "ortools" or "scip".
    package : str
        Python package that brings it.
    module : str
        greenopt's backend.
    algorithm : str
        The backend's own name of the algorithm.
    continuous : bool
        Solves models without integer columns.
    integer : str
        "none", "pure" (all columns integer) or "mixed".
    quadratic : str
        Convex quadratic objectives: "none", "continuous" or "mixed" (with integer columns too).
    duals : bool
        Gives multipliers of rows of continuous models.
    start : bool
        Makes use of a starting point.
    incumbents : bool
        Tells better points while it runs.
    session : bool
        Can keep a model and solve it again after changes.
    home : str
        Where it runs unless the process forbids it: "in-process" or "worker".
    about : str
        One line.
    """

    name: str
    program: str
    package: str
    module: str
    algorithm: str
    continuous: bool
    integer: Literal["none", "pure", "mixed"]
    quadratic: Literal["none", "continuous", "mixed"]
    duals: bool
    start: bool
    incumbents: bool
    session: bool
    home: Literal["in-process", "worker"]
    about: str


def independent(one: str, other: str) -> bool:
    """Whether two solvers share no search: different programs, and not SCIP twice.

    Raises
    ------
    SolverError
        For an unknown solver.
    """
    engines = [
        info.program if info.program == "highs" else name.removesuffix("-minlp")
        for name, info in ((name, find(name)) for name in (one, other))
    ]
    return engines[0] != engines[1]


def _highs(name: str, algorithm: str, about: str, integer: bool = True) -> SolverInfo:
    return SolverInfo(
        name,
        program="highs",
        package="highspy",
        module="greenopt.solvers.highs",
        algorithm=algorithm,
        continuous=True,
        integer="mixed" if integer else "none",
        quadratic="continuous" if algorithm == "choose" else "none",
        duals=True,
        start=integer,
        incumbents=integer,
        session=True,
        home="in-process",
        about=about,
    )


def _ortools(name: str, about: str, integer: Literal["none", "pure", "mixed"]) -> SolverInfo:
    return SolverInfo(
        name,
        program="ortools",
        package="ortools",
        module="greenopt.solvers.cp_sat" if name == "cp-sat" else "greenopt.solvers.or_tools",
        algorithm=name,
        continuous=integer != "pure",
        integer=integer,
        quadratic="none",
        duals=integer == "none",
        start=integer != "none",
        incumbents=integer == "pure",
        session=False,
        home="worker",
        about=about,
    )


SOLVERS: dict[str, SolverInfo] = {
    info.name: info
    for info in (
        _highs("highs", "choose", "HiGHS, its own choice of algorithm"),
        _highs("highs-simplex", "simplex", "HiGHS, simplex"),
        _highs("highs-ipm", "ipm", "HiGHS, interior point with crossover"),
        _highs("highs-pdlp", "pdlp", "HiGHS, first-order", integer=False),
        SolverInfo(
            "decomposition",
            program="highs",
            package="highspy",
            module="greenopt.solvers.decomposing",
            algorithm="columns",
            continuous=True,
            integer="none",
            quadratic="none",
            duals=True,
            start=False,
            incumbents=False,
            session=False,
            home="in-process",
            about="column generation over the parts of a large linear program, each in HiGHS",
        ),
        SolverInfo(
            "sifting",
            program="highs",
            package="highspy",
            module="greenopt.solvers.sifting",
            algorithm="groups",
            continuous=True,
            integer="mixed",
            quadratic="none",
            duals=True,
            start=False,
            incumbents=True,
            session=False,
            home="in-process",
            about="transportation and generalised assignment by prices of their few coupling rows, "
            "the columns that matter in HiGHS",
        ),
        _ortools("glop", "OR-Tools, simplex", "none"),
        _ortools("pdlp", "OR-Tools, first-order", "none"),
        _ortools("cp-sat", "OR-Tools, constraint programming", "pure"),
        _ortools("scip", "SCIP inside OR-Tools, branch and cut", "mixed"),
        SolverInfo(
            "scip-minlp",
            program="scip",
            package="pyscipopt",
            module="greenopt.solvers.scip",
            algorithm="scip",
            continuous=True,
            integer="mixed",
            quadratic="mixed",
            duals=False,
            start=True,
            incumbents=True,
            session=False,
            home="worker",
            about="SCIP through PySCIPOpt, branch and cut, convex quadratic objectives",
        ),
    )
}
"""Every solver by name."""


def find(name: str) -> SolverInfo:
    """A solver by name.

    Raises
    ------
    SolverError
        Naming those that are known.
    """
    if name not in SOLVERS:
        raise SolverError(f"unknown solver {name!r}; known are {', '.join(SOLVERS)}")
    return SOLVERS[name]


def refuse_unfit(info: SolverInfo, n_columns: int, n_integer: int, quadratic: bool) -> None:
    """Refuse a model that a solver would not solve as it stands, naming the alternative.

    Parameters
    ----------
    info : SolverInfo
        The solver.
    n_columns, n_integer : int
        Columns of the model, and how many of them must be integer.
    quadratic : bool
        Whether the objective has a quadratic term.

    Raises
    ------
    SolverError
        With the reason and what to use instead.
    """
    pure = 0 < n_columns == n_integer
    if n_integer and info.integer == "none":
        raise SolverError(
            f"{info.name} drops integrality, and {n_integer} columns must be integer; use highs, "
            f"scip or, if all columns are integer, cp-sat"
        )
    if info.integer == "pure" and not pure:
        raise SolverError(
            f"{info.name} takes integer columns only, and {n_columns - n_integer} of {n_columns} "
            "are continuous; use highs or scip"
        )
    if quadratic and n_integer and info.quadratic != "mixed":
        raise SolverError(
            f"{info.name} does not solve quadratic objectives with integer columns; use scip-minlp"
        )
    if quadratic and info.quadratic == "none":
        raise SolverError(
            f"{info.name} solves linear objectives only, and this one is quadratic; use highs or "
            "scip-minlp"
        )
