"""Results: what every method returns, saved and read as self-describing files."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

import numpy as np

from greenopt.errors import Problem, SolutionError
from greenopt.files import read_json, write_json
from greenopt.labelled import LabelledArray

SCHEMA_VERSION = 1

NUMERICAL_FLOOR = 1e-9
"""Relative gaps below this are rounding: no double-precision solver can promise less."""


class Status(StrEnum):
    """How a solve ended."""

    OPTIMAL = "optimal"
    """Proved to the gap asked for."""
    FEASIBLE = "feasible"
    """Has a plan and a bound, but the gap is wider than asked (a limit was reached)."""
    INFEASIBLE = "infeasible"
    """Proved to have no plan; the report names conflicting requirements."""
    UNBOUNDED = "unbounded"
    """The objective falls without end: some quantity that pays has no capacity."""
    LIMIT = "limit"
    """Nothing found in time."""
    ERROR = "error"
    """The solver failed, or its point did not survive the check; the report tells both stories."""


def relative_gap(objective: float | None, bound: float | None) -> float | None:
    """``|objective - bound| / max(|objective|, 1e-10)``; None where the two differ in sign."""
    if objective is None or bound is None or not np.isfinite(bound) or objective * bound < 0:
        return None
    return abs(objective - bound) / max(abs(objective), 1e-10)


def closes(objective: float, bound: float, gap: float, size: float = 0.0) -> bool:
    """Whether a bound proves an objective to a relative gap.

    Parameters
    ----------
    objective, bound : float
        The two sides.
    gap : float
        Relative gap asked for; anything below 1e-9 asks for all that double precision gives.
    size : float
        Sum of the absolute terms of the objective, whose rounding no solver can undo.
    """
    floor = max(NUMERICAL_FLOOR * size, 1e-12)
    return objective - bound <= max(max(gap, NUMERICAL_FLOOR) * abs(objective), floor)


@dataclass(frozen=True, eq=False)
class StageResult:
    """One stage of a lexicographic objective (most instances have one).

    Attributes
    ----------
    objective : float
        Value of the stage's weighted sum, recomputed from the plan by the checker.
    bound : float
        Proved lower bound, minus infinity without one.
    bound_source : str
        "own-dual" (weak duality evaluated by greenopt), "tree" (a MILP search's claim), "lp"
        (own-dual of the relaxation), "exact" or "none".
    marginals : dict of str to LabelledArray
        Row multipliers of the (relaxed) stage: the price of every constraint.
    """

    objective: float
    bound: float
    bound_source: str
    marginals: dict[str, LabelledArray] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Solution:
    """A plan for one instance with its proof: status, objective, bound, metrics, prices.

    Attributes
    ----------
    problem, instance, instance_sha256 : str
        What was solved.
    method, solver : str
        How.
    status : Status
        How it ended.
    stages : tuple of StageResult
        One for each stage solved; empty without a plan.
    decision : dict of str to LabelledArray
        The plan in the problem's own terms.
    metrics : dict of str to float or None
        Totals; None where a mean has nothing to average.
    metrics_by : dict
        ``metrics_by["site"]["carbon_kg"]`` is a list along the sites; likewise period, class and
        "period,site".
    sets : dict of str to tuple of str
        Labels of the instance's axes.
    runtime_s : dict of str to float
        Wall time by phase: build, solve, bound, decode, check.
    seed, threads : int
        As given to the solver.
    versions : dict of str to str
        greenopt, solver and Python.
    report : dict
        Termination, messages, gap asked for, explanation of infeasibility, counters.
    """

    problem: str
    instance: str
    instance_sha256: str
    method: str
    solver: str
    status: Status
    stages: tuple[StageResult, ...]
    decision: dict[str, LabelledArray]
    metrics: dict[str, float | None]
    metrics_by: dict[str, dict[str, Any]]
    sets: dict[str, tuple[str, ...]]
    runtime_s: dict[str, float]
    seed: int
    threads: int
    versions: dict[str, str]
    report: dict[str, Any]

    @property
    def objective(self) -> float | None:
        """Objective of the last stage; None without a plan."""
        return self.stages[-1].objective if self.stages else None

    @property
    def bound(self) -> float | None:
        """Lower bound on the last stage; None without one."""
        bound = self.stages[-1].bound if self.stages else None
        return bound if bound is not None and np.isfinite(bound) else None

    @property
    def bound_source(self) -> str:
        """Where the bound comes from."""
        return self.stages[-1].bound_source if self.stages else "none"

    @property
    def gap_abs(self) -> float | None:
        """Objective minus bound."""
        if self.objective is None or self.bound is None:
            return None
        return self.objective - self.bound

    @property
    def gap(self) -> float | None:
        """Relative gap, None where objective and bound differ in sign."""
        return relative_gap(self.objective, self.bound)

    @property
    def marginals(self) -> dict[str, LabelledArray]:
        """Row multipliers of the last stage."""
        return self.stages[-1].marginals if self.stages else {}

    def array(self, name: str) -> LabelledArray:
        """A decision array or a marginal by name.

        Raises
        ------
        KeyError
            Naming what there is.
        """
        every = {**self.marginals, **self.decision}
        if name not in every:
            raise KeyError(f"{name!r} is not in this solution; it has {sorted(every)}")
        return every[name]

    def to_frame(self, name: str) -> Any:
        """A long labelled pandas frame, the unit in the value's column name.

        Parameters
        ----------
        name : str
            A decision ("flow", "instances", "unmet"), a marginal ("demand", "gpus", ...), or
            "site", "period", "class" for the metrics along that axis.
        """
        if name in self.metrics_by:
            import pandas as pd

            axes = name.split(",")
            grid = np.indices([len(self.sets[a]) for a in axes]).reshape(len(axes), -1)
            members = {
                axis: np.array(self.sets[axis], dtype=object)[grid[i]]
                for i, axis in enumerate(axes)
            }
            values = {
                metric: np.ravel(np.array(v, dtype=float))
                for metric, v in self.metrics_by[name].items()
            }
            return pd.DataFrame({**members, **values})
        return self.array(name).to_frame()

    def routing_weights(self) -> LabelledArray:
        """For each period, origin and class: the share of served requests by site, mode, level."""
        flow = self.array("flow")
        kept = ("period", "origin", "class")
        total = flow.total_over(*kept)
        position = [flow.axes.index(axis) for axis in kept]
        share = flow.values / total[tuple(flow.codes[position])]
        return LabelledArray("weight", "1", flow.labels, flow.codes, share)

    def replicas(self) -> LabelledArray:
        """Whole instances to run by period, site, model and mode: the plan's mean, rounded up."""
        run = self.array("instances")
        kept = ("period", "site", "model", "mode")
        mean = run.total_over(*kept)
        whole = np.ceil(mean - 1e-6)
        labels = {axis: run.labels[axis] for axis in kept}
        return LabelledArray.from_dense("replicas", "instances", labels, whole)

    def summary(self) -> dict[str, Any]:
        """The one-line JSON record of the command line (without the solution's path)."""
        return {
            "instance": self.instance,
            "problem": self.problem,
            "method": self.method,
            "solver": self.solver,
            "status": str(self.status),
            "objective": self.objective,
            "bound": self.bound,
            "bound_source": self.bound_source,
            "gap": self.gap,
            "gap_abs": self.gap_abs,
            "metrics": self.metrics,
            "runtime_s": sum(self.runtime_s.values()) - self.runtime_s.get("bound", 0.0),
            "bound_runtime_s": self.runtime_s.get("bound", 0.0),
        }

    def document(self) -> dict[str, Any]:
        """The content of the solution file."""
        return {
            "kind": "solution",
            "schema_version": SCHEMA_VERSION,
            "problem": self.problem,
            "instance": self.instance,
            "instance_sha256": self.instance_sha256,
            "method": self.method,
            "solver": self.solver,
            "status": str(self.status),
            "objective": self.objective,
            "bound": self.bound,
            "bound_source": self.bound_source,
            "gap": self.gap,
            "gap_abs": self.gap_abs,
            "metrics": self.metrics,
            "metrics_by": self.metrics_by,
            "runtime_s": self.runtime_s,
            "seed": self.seed,
            "threads": self.threads,
            "versions": self.versions,
            "report": self.report,
            "sets": {axis: list(members) for axis, members in self.sets.items()},
            "decision": {n: a.document(self.sets) for n, a in self.decision.items()},
            "stages": [
                {
                    "objective": stage.objective,
                    "bound": stage.bound if np.isfinite(stage.bound) else None,
                    "bound_source": stage.bound_source,
                    "marginals": {n: a.document(self.sets) for n, a in stage.marginals.items()},
                }
                for stage in self.stages
            ],
        }

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the solution file, whole or not at all; ``.gz`` compresses."""
        write_json(path, self.document())

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Solution:
        """Read a solution file.

        Raises
        ------
        SolutionError
            With every problem found, each with its JSON path.
        """
        return cls.parse(read_json(path, SolutionError), str(path))

    @classmethod
    def parse(cls, document: Mapping[str, Any], source: str = "solution") -> Solution:
        """Build a solution from the content of its file; derived fields are recomputed."""
        problems: list[Problem] = []
        get = _Getter(document, problems)
        sets = {
            axis: tuple(members)
            for axis, members in get("sets", dict).items()
            if _is_list_of_text(members, f"$.sets.{axis}", problems)
        }
        status = get("status", str)
        if status not in list(Status):
            problems.append(Problem("$.status", f"is {status!r}, expected one of {list(Status)}"))
        if get("kind", str) != "solution" or get("schema_version", int) != SCHEMA_VERSION:
            text = f"expected kind 'solution' and schema_version {SCHEMA_VERSION}"
            problems.append(Problem("$.schema_version", text))
        decision = _arrays(get("decision", dict), sets, "$.decision", problems)
        stages = tuple(
            _stage(stage, sets, f"$.stages[{i}]", problems)
            for i, stage in enumerate(get("stages", list))
        )
        rest = {
            name: get(name, kind)
            for name, kind in (
                ("problem", str), ("instance", str), ("instance_sha256", str), ("method", str),
                ("solver", str), ("metrics", dict), ("metrics_by", dict), ("runtime_s", dict),
                ("seed", int), ("threads", int), ("versions", dict), ("report", dict),
            )
        }  # fmt: skip
        _check_metrics(rest["metrics"], rest["metrics_by"], problems)
        if problems:
            raise SolutionError(source, problems)
        return cls(**rest, status=Status(status), sets=sets, decision=decision, stages=stages)


class _Getter:
    """Takes fields out of a document, noting what is missing or of another type."""

    def __init__(self, document: Mapping[str, Any], problems: list[Problem]) -> None:
        self.document, self.problems = document, problems

    def __call__(self, name: str, kind: type) -> Any:
        value = self.document.get(name)
        if name not in self.document:
            self.problems.append(Problem(f"$.{name}", "is missing"))
        elif not isinstance(value, kind) or isinstance(value, bool):
            shown = json.dumps(value, default=str)[:60]
            self.problems.append(Problem(f"$.{name}", f"is {shown}, expected {kind.__name__}"))
        else:
            return value
        return kind()


def _check_metrics(
    totals: Mapping[str, Any], tables: Mapping[str, Any], problems: list[Problem]
) -> None:
    for name, value in totals.items():
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if value is not None and not (number and np.isfinite(value)):
            text = f"is {value!r}, expected a finite number or null"
            problems.append(Problem(f"$.metrics.{name}", text))
    for axis, table in tables.items():
        if not isinstance(table, dict):
            problems.append(Problem(f"$.metrics_by.{axis}", "expected an object of lists"))


def _is_list_of_text(given: Any, path: str, problems: list[Problem]) -> bool:
    good = isinstance(given, list) and all(isinstance(member, str) for member in given)
    if not good:
        problems.append(Problem(path, "expected a list of labels"))
    return good


def _arrays(
    given: Any, sets: Mapping[str, tuple[str, ...]], path: str, problems: list[Problem]
) -> dict[str, LabelledArray]:
    if not isinstance(given, dict):
        problems.append(Problem(path, "expected an object of arrays"))
        return {}
    read = {
        name: LabelledArray.parse(name, array, sets, f"{path}.{name}", problems)
        for name, array in given.items()
    }
    return {name: array for name, array in read.items() if array is not None}


def _stage(
    given: Any, sets: Mapping[str, tuple[str, ...]], path: str, problems: list[Problem]
) -> StageResult:
    if not isinstance(given, dict):
        problems.append(Problem(path, "expected an object"))
        return StageResult(np.nan, -np.inf, "none")
    values = {}
    for name in ("objective", "bound"):
        value = given.get(name)
        if value is None and name == "bound":
            value = -np.inf
        elif (
            isinstance(value, bool) or not isinstance(value, int | float) or not np.isfinite(value)
        ):
            problems.append(Problem(f"{path}.{name}", f"is {value!r}, expected a finite number"))
            value = np.nan
        values[name] = float(value)
    marginals = _arrays(given.get("marginals", {}), sets, f"{path}.marginals", problems)
    return StageResult(
        values["objective"], values["bound"], str(given.get("bound_source", "none")), marginals
    )
