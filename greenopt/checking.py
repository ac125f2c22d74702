"""Check whether a plan is feasible and its metrics and objective are what it says."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from greenopt.errors import ModelError, Problem, SolutionError
from greenopt.instance import Instance
from greenopt.problems import part
from greenopt.results import Solution, StageResult, Status, closes

WITHOUT_PLAN = (Status.INFEASIBLE, Status.UNBOUNDED, Status.LIMIT, Status.ERROR)


@dataclass(frozen=True, eq=False)
class CheckReport:
    """Outcome of a check.

    Attributes
    ----------
    ok : bool
        No violation, no difference. False for a solution without a plan: nothing was checked.
    violations : list
        Requirements of the instance that the plan does not meet.
    differences : list of str
        Reported numbers that differ from the recomputed ones.
    metrics : dict
        Recomputed metrics.
    objective : float or None
        Recomputed objective of the last stage.
    notes : dict
        Further findings, such as the energy of an even balance.
    """

    ok: bool
    violations: list[Any] = field(default_factory=list)
    differences: list[str] = field(default_factory=list)
    metrics: dict[str, float | None] = field(default_factory=dict)
    objective: float | None = None
    notes: dict[str, Any] = field(default_factory=dict)

    def lines(self) -> list[str]:
        """Every finding as one line of text."""
        return [*map(str, self.violations), *self.differences]


def check(instance: Instance, solution: Solution, tolerance: float = 1e-6) -> CheckReport:
    """Recompute feasibility and every metric from the instance and the plan.

    Parameters
    ----------
    instance : Instance
        The problem.
    solution : Solution
        From anyone: greenopt, another program, a file.
    tolerance : float
        Largest relative violation or difference accepted.

    Raises
    ------
    SolutionError
        If the solution belongs to another instance.
    """
    belongs(instance, solution)
    if not solution.decision:
        kind = str(solution.status)
        return CheckReport(ok=False, differences=[f"status {kind}: there is no plan to check"])
    found = part(instance.problem, "check").evaluate(instance, solution.decision, tolerance)
    differences = list(_compare_metrics(solution, found, tolerance))
    differences += _compare_claims(solution)
    differences += _compare_proof(solution, found.stages, found.stage_tolerances, tolerance)
    return CheckReport(
        ok=not found.violations and not differences,
        violations=found.violations,
        differences=differences,
        metrics=found.metrics,
        objective=found.stages[-1] if found.stages else None,
        notes=found.notes,
    )


def belongs(instance: Instance, solution: Solution) -> None:
    """Refuse a solution of another instance, or what is neither."""
    if not isinstance(instance, Instance) or not isinstance(solution, Solution):
        given = f"{type(instance).__name__} and {type(solution).__name__}"
        raise ModelError(f"expected an instance and a solution, got {given}")
    if solution.instance_sha256 != instance.sha256:
        text = f"is of another instance ({solution.instance!r}, another digest)"
        raise SolutionError("solution", [Problem("$.instance_sha256", text)])


def _compare_metrics(solution: Solution, found: Any, tolerance: float) -> list[str]:
    lines = _compare_table("metrics", solution.metrics, found.metrics, tolerance)
    for axis, table in found.metrics_by.items():
        reported = solution.metrics_by.get(axis, {})
        lines += _compare_table(f"metrics_by.{axis}", reported, table, tolerance)
    return lines


def _compare_table(
    where: str, reported: Mapping[str, Any], computed: Mapping[str, Any], tolerance: float
) -> list[str]:
    lines = []
    for name in sorted(set(reported) | set(computed)):
        if name not in computed or name not in reported:
            side = "reported" if name in reported else "computed"
            lines.append(f"{where}.{name}: only {side}")
            continue
        try:
            a, b = (np.array(side[name], dtype=float) for side in (reported, computed))
        except (TypeError, ValueError):
            lines.append(f"{where}.{name}: is not numeric")
            continue
        if a.shape != b.shape:
            lines.append(f"{where}.{name}: has shape {a.shape}, expected {b.shape}")
            continue
        scale = np.abs(np.nan_to_num(b)).max(initial=1e-6)
        same = (np.isnan(a) & np.isnan(b)) | (np.abs(a - b) <= tolerance * scale)
        if not same.all():
            at = np.unravel_index(int(np.argmin(same)), a.shape)
            lines.append(f"{where}.{name}: reported {a[at]:.9g}, computed {b[at]:.9g}")
    return lines


def _compare_claims(solution: Solution) -> list[str]:
    """Compare the top of a file with what its stages say."""
    lines = []
    for name, claim in solution.claims.items():
        own = getattr(solution, name)
        numbers = isinstance(claim, int | float) and isinstance(own, int | float)
        if not (np.isclose(claim, own, rtol=1e-12, atol=0.0) if numbers else claim == own):
            lines.append(f"{name}: the file says {claim!r}, its last stage gives {own!r}")
    return lines


def _compare_proof(
    solution: Solution, values: list[float], slack: list[float], tolerance: float
) -> list[str]:
    """Compare status, objectives and bounds with the recomputed values."""
    missing = len(values) - len(solution.stages)
    if not solution.stages or missing < 0 or (missing and solution.status == Status.OPTIMAL):
        return [f"stages: {len(solution.stages)} reported, {len(values)} in the instance"]
    rooms = [tolerance * max(1e-6, abs(value)) for value in values]
    lines = stage_differences(solution.stages, values, slack, rooms)
    if solution.status in WITHOUT_PLAN:
        lines.append(f"status: {solution.status} although there is a plan")
    if solution.status == Status.OPTIMAL:
        bound, asked = solution.stages[-1].bound, solution.report.get("gap_asked", 0.0)
        near = bound >= values[-1] - rooms[-1]
        if not near and not (isinstance(asked, int | float) and closes(values[-1], bound, asked)):
            lines.append(f"status: optimal, but the bound {solution.bound} leaves a gap")
    return lines


def stage_differences(
    stages: Sequence[StageResult],
    values: Sequence[float],
    slack: Sequence[float],
    rooms: Sequence[float],
) -> list[str]:
    """Say where the stages that were solved contradict what their plan is worth.

    Parameters
    ----------
    stages : sequence of StageResult
        As reported; fewer than there are where a solve stopped early.
    values : sequence of float
        Objective of every stage, recomputed from the plan.
    slack : sequence of float
        Relative worsening of each stage that later ones may cause.
    rooms : sequence of float
        Absolute difference of each stage that is rounding.
    """
    lines = []
    for i, (stage, value, room) in enumerate(zip(stages, values, rooms, strict=False)):
        last = i == len(stages) - 1
        worst = stage.objective + (0.0 if last else slack[i] * max(abs(stage.objective), 1.0))
        if value > worst + room or (last and value < stage.objective - room):
            lines.append(f"stages[{i}].objective: reported {stage.objective!r}, computed {value!r}")
        if stage.bound > value + max(room, 1e-9):
            lines.append(f"stages[{i}].bound: {stage.bound!r} lies above the plan's {value!r}")
    return lines
