"""Certify: prove the bound of a solution from the instance and its marginals, without a solver."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from greenopt.checking import belongs
from greenopt.instance import Instance
from greenopt.problems import part
from greenopt.results import Solution, relative_gap


@dataclass(frozen=True)
class StageCertificate:
    """What was proved of one stage.

    Attributes
    ----------
    claimed_bound, proved_bound : float or None
        As in the solution, and as weak duality gives it here.
    proved_gap : float or None
        Relative gap between the stage's objective and the proved bound.
    kind : str
        "proved", "claimed (tree)" for a MILP search's bound above the proved one, or "wrong".
    """

    claimed_bound: float | None
    proved_bound: float | None
    proved_gap: float | None
    kind: str


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
    """

    ok: bool
    optimal: bool
    stages: tuple[StageCertificate, ...]


def certify(
    instance: Instance, solution: Solution, gap: float = 1e-6, tolerance: float = 1e-9
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
        Relative rounding allowed between a claimed bound and the proved one.

    Raises
    ------
    SolutionError
        If the solution belongs to another instance.
    """
    belongs(instance, solution)
    lower_bound = part(instance.problem, "certify").lower_bound
    stages = []
    earlier: list[float] = []
    for number, stage in enumerate(solution.stages):
        proved = lower_bound(instance, number, stage.marginals, earlier)
        room = tolerance * max(1.0, abs(stage.objective))
        claimed = stage.bound
        if number == len(solution.stages) - 1:  # the top of a file may claim more than its stages
            claimed = max(claimed, solution.claims.get("bound") or -np.inf)
        if claimed <= proved + room:
            kind = "proved"
        else:
            kind = "claimed (tree)" if stage.bound_source == "tree" else "wrong"
        stages.append(
            StageCertificate(
                _finite(claimed),
                _finite(proved),
                _gap(stage.objective, proved),
                kind,
            )
        )
        earlier.append(stage.objective)
    ok = bool(stages) and all(stage.kind != "wrong" for stage in stages)
    optimal = ok and all(
        stage.proved_gap is not None and stage.proved_gap <= max(gap, 1e-9) for stage in stages
    )
    return Certificate(ok, optimal, tuple(stages))


def _finite(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def _gap(objective: float, proved: float) -> float | None:
    """Relative gap; a sign change within rounding of zero is no gap."""
    if objective * proved < 0 and abs(objective - proved) <= 1e-12:
        return 0.0
    return relative_gap(objective, proved)
