"""Certify: prove the bound of a solution from the instance and its marginals, without a solver."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from greenopt.checking import belongs
from greenopt.errors import ModelError
from greenopt.instance import Instance
from greenopt.model import Model
from greenopt.problems import part
from greenopt.results import Solution, closes, relative_gap
from greenopt.solvers import Termination, solve_model
from greenopt.solvers.registry import SOLVERS, find, independent

ACHIEVABLE = 1e-7
"""A plan within a solver's feasibility tolerance may lie this much below the true optimum."""


@dataclass(frozen=True)
class StageCertificate:
    """What was proved of one stage.

    Attributes
    ----------
    claimed_bound, proved_bound : float or None
        As in the solution, and as weak duality gives it here.
    proved_gap : float or None
        Relative gap between the stage's objective and the proved bound; 0 where the two are equal
        up to rounding around zero.
    kind : str
        "proved"; "claimed (tree)" for a MILP search's bound above the proved one, "claimed (tree),
        also by SOLVER" where a second solver reproved it; or "wrong".
    second_opinion : str
        What a second solver said, if one was asked for.
    """

    claimed_bound: float | None
    proved_bound: float | None
    proved_gap: float | None
    kind: str
    second_opinion: str = ""


@dataclass(frozen=True)
class Certificate:
    """Outcome of a certification.

    Attributes
    ----------
    ok : bool
        Every claimed bound is proved, or is a tree bound labelled as a claim.
    optimal : bool
        Every stage's objective is proved optimal to the gap given.
    stages : tuple of StageCertificate
        Stage by stage.
    confirmed : bool
        Optimal to the gap by the claims of two solvers' searches, where weak duality cannot say.
    """

    ok: bool
    optimal: bool
    stages: tuple[StageCertificate, ...]
    confirmed: bool = False


def certify(
    instance: Instance,
    solution: Solution,
    gap: float = 1e-6,
    tolerance: float = 1e-9,
    *,
    reprove: str | None = None,
    time_limit: float | None = None,
) -> Certificate:
    """Prove the solution's bounds by weak duality, evaluated without a solver.

    The objective is taken from the solution: run `check` to know that the plan attains it.

    Parameters
    ----------
    instance : Instance
        The problem.
    solution : Solution
        With its marginals.
    gap : float
        Relative gap below which a stage counts as proved optimal.
    tolerance : float
        Rounding allowed between a claimed bound and the proved one, relative to the sum of the
        absolute terms of the bound.
    reprove : str, optional
        Name of a second solver to ask for the last stage's bound where a MILP search of another
        one only claims it.
    time_limit : float, optional
        Limit of the second solver, s.

    Raises
    ------
    SolutionError
        If the solution belongs to another instance.
    ModelError
        If the second solver is the one that made the claim.
    """
    belongs(instance, solution)
    if reprove is not None:
        find(reprove)  # refuses an unknown one before anything is computed
        if solution.solver in SOLVERS and not independent(reprove, solution.solver):
            raise ModelError(f"{reprove} and {solution.solver} are one program; ask another one")
    lower_bound = part(instance.problem, "certify").lower_bound
    stages = []
    earlier: list[float] = []
    for number, stage in enumerate(solution.stages):
        proved, size = lower_bound(instance, number, stage.marginals, earlier)
        room = max(tolerance * max(abs(stage.objective), size if np.isfinite(size) else 0.0), 1e-12)
        claimed = stage.bound
        if number == len(solution.stages) - 1:  # the top of a file may claim more than its stages
            claimed = max(claimed, solution.claims.get("bound") or -np.inf)
        if stage.objective < proved - max(room, ACHIEVABLE * abs(stage.objective)):
            kind = "wrong"  # nothing can be below what is proved
        elif claimed <= proved + room:
            kind = "proved"
        else:
            kind = "claimed (tree)" if stage.bound_source == "tree" else "wrong"
        near = abs(stage.objective - proved) <= room
        around_zero = stage.objective * proved <= 0
        stages.append(
            StageCertificate(
                _finite(claimed),
                _finite(proved),
                0.0 if near and around_zero else relative_gap(stage.objective, proved),
                kind,
            )
        )
        earlier.append(max(stage.objective, proved))
    confirmed = False
    if reprove is not None and stages:
        if stages[-1].kind == "claimed (tree)":
            kind, words = _second_opinion(instance, solution, stages[-1], gap, reprove, time_limit)
            confirmed = kind.endswith(reprove) and _close(solution, stages, gap)
        else:
            kind, words = stages[-1].kind, f"{reprove} was not asked: the bound is no claim"
        stages[-1] = replace(stages[-1], kind=kind, second_opinion=words)
    ok = bool(stages) and all(stage.kind != "wrong" for stage in stages)
    optimal = ok and all(
        stage.proved_gap is not None and stage.proved_gap <= max(gap, 1e-9) for stage in stages
    )
    return Certificate(ok, optimal, tuple(stages), ok and confirmed)


def _second_opinion(
    instance: Instance,
    solution: Solution,
    stage: StageCertificate,
    gap: float,
    solver: str,
    time_limit: float | None,
) -> tuple[str, str]:
    """Kind of a claimed bound after another solver's search, and what that said."""
    assert stage.claimed_bound is not None
    assert solution.objective is not None
    formulation = part(instance.problem, "formulation").formulate(instance)
    if formulation.curved:  # below the curves of waiting, close to them at the plan
        formulation = formulation.around(formulation.encode(solution.decision)).below()
    model: Model = formulation.model
    for number, earlier in enumerate(solution.stages[:-1]):  # at what the solution reached
        own = model.stages[number]
        limit = earlier.objective + own.tolerance * max(abs(earlier.objective), 1.0)
        model = model.with_row(f"stage_{number}", own.c, limit)
    last = len(solution.stages) - 1
    limit_s = np.inf if time_limit is None else time_limit
    other = solve_model(model, last, solver=solver, gap=max(gap, 1e-9), time_limit_s=limit_s)
    room = max(gap, 1e-9) * max(abs(solution.objective), abs(stage.claimed_bound))
    if other.termination == Termination.INFEASIBLE:
        return "wrong", f"{solver} says that there is no plan, though here is one"
    lower = other.x is not None and model.stages[last].c @ other.x < stage.claimed_bound - room
    if lower and not formulation.curved:
        return "wrong", f"{solver} has a plan below the bound"
    words = f"{solver} ended with {other.message!r} at the bound {other.tree_bound:.12g}"
    if other.tree_bound >= stage.claimed_bound - room:
        return f"claimed (tree), also by {solver}", words
    return stage.kind, f"{words}, which does not confirm the claim"


def _close(solution: Solution, stages: list[StageCertificate], gap: float) -> bool:
    """Whether the claims close the gap: the last stage's, and what is proved of earlier ones."""
    near = all(
        own.objective is not None and closes(own.objective, own.bound, gap)
        for own in solution.stages
    )
    return near and all(stage.kind != "wrong" for stage in stages)


def _finite(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
