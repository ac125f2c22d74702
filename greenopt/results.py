"""Results: what every method returns, saved and read as self-describing files."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import AfterValidator, Field, ValidationError, ValidationInfo, field_validator

from greenopt.errors import ModelError, Problem, SolutionError
from greenopt.files import read_json, write_json
from greenopt.labelled import LabelledArray, load_pandas
from greenopt.problems import part
from greenopt.validation import (
    NonNegative,
    NotBoolean,
    Number,
    Part,
    Text,
    Whole,
    line_errors,
    problems_of,
)

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
        By axis, or axes joined by commas, then by metric: ``metrics_by["site"]["carbon_kg"]`` is a
        list along the sites, under "period,site" it is one of lists. Which there are is the
        problem's; placement has site, period, class and "period,site".
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
    claims : dict
        Objective, bound and gaps as the top of a file states them, if it came from one.
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
    claims: dict[str, Any] = field(default_factory=dict)

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
            has = f"it has {sorted(every)}" if every else f"its status is {self.status}, no plan"
            raise KeyError(f"{name!r} is not in this solution; {has}")
        return every[name]

    def to_frame(self, name: str) -> Any:
        """A long labelled pandas frame, the unit in the value's column name.

        Parameters
        ----------
        name : str
            A key of `metrics_by` ("site", "period,site", ...) for the metrics along its axes, or of
            `decision` or `marginals`. Of placement these are "flow", "instances", "running",
            "deferred" and others, and "demand", "gpus" and others.

        Raises
        ------
        KeyError
            Naming what there is.
        ImportError
            If pandas is not installed.
        """
        if name in self.metrics_by:
            pd = load_pandas()
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
        """Of placement, for each period, origin and class: shares by site, mode and level.

        See `greenopt.problems.placement.rollout.routing_weights`.

        Raises
        ------
        ModelError
            For a solution of another problem.
        """
        weights: LabelledArray = self._of_placement("routing_weights")(self)
        return weights

    def replicas(self, rounding: Literal["up", "nearest", "down"] = "up") -> LabelledArray:
        """Of placement, whole instances by period, site, model and mode.

        See `greenopt.problems.placement.rollout.replicas`.

        Parameters
        ----------
        rounding : str
            "up", "nearest" or "down".

        Raises
        ------
        ModelError
            For a solution of another problem, or an unknown rounding.
        """
        whole: LabelledArray = self._of_placement("replicas")(self, rounding)
        return whole

    def _of_placement(self, name: str) -> Any:
        """A function of placement's, for its solutions only."""
        if self.problem != "placement":
            own = f"this one is of {self.problem} and has what it decides in `decision`"
            raise ModelError(f"{self.instance}: {name} is for plans of placement; {own}")
        return getattr(part("placement", "rollout"), name)

    def __repr__(self) -> str:
        gap = "" if self.gap is None else f", gap {self.gap:.1e} ({self.bound_source})"
        value = "" if self.objective is None else f", objective {self.objective:.9g}{gap}"
        return f"<Solution of {self.instance!r}: {self.status}{value}>"

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
        """Build a solution from the content of its file.

        Objective, bound and gaps at the top of the file repeat what its last stage says. They are
        kept as `claims`, for `check` and `certify` to compare.

        Raises
        ------
        SolutionError
            With every problem found, each with its JSON path.
        """
        if "kind" not in document and "provenance" in document:
            raise SolutionError(source, [Problem("$", "is an instance file, expected a solution")])
        try:
            read = _SolutionFile.model_validate(dict(document))
        except ValidationError as error:
            raise SolutionError(source, list(problems_of(error))) from None
        return cls(
            **{name: getattr(read, name) for name in _PLAIN},
            status=Status(read.status),
            sets=dict(read.sets),
            decision={n: a.array(n, read.sets) for n, a in read.decision.items()},
            stages=tuple(stage.result(read.sets) for stage in read.stages),
            claims={name: document[name] for name in DERIVED if name in document},
        )


DERIVED = ("objective", "bound", "bound_source", "gap", "gap_abs")
"""Fields at the top of a file that follow from its stages."""

_PLAIN = (
    "problem",
    "instance",
    "instance_sha256",
    "method",
    "solver",
    "metrics",
    "metrics_by",
    "runtime_s",
    "seed",
    "threads",
    "versions",
    "report",
)

Labels = tuple[Text, ...]


def _bad_numbers(tree: Any, at: tuple[int | str, ...] = ()) -> Iterator[tuple[int | str, ...]]:
    """Places of numbers that are not finite, in nested lists and objects."""
    number = isinstance(tree, int | float)
    if number and not abs(tree) <= sys.float_info.max:
        yield at
    inside = tree if isinstance(tree, dict | list) else []
    for key, member in inside.items() if isinstance(inside, dict) else enumerate(inside):
        yield from _bad_numbers(member, (*at, key))


def _all_finite(tree: Any) -> Any:
    if bad := list(_bad_numbers(tree)):
        raise line_errors([(at, "is not a finite number") for at in bad[:5]])
    return tree


Finite = Annotated[Any, AfterValidator(_all_finite)]


def _all_numbers(tree: Any, at: tuple[int | str, ...] = ()) -> Any:
    """Nested lists of finite numbers or nulls, nothing else."""
    for i, member in enumerate(tree):
        if isinstance(member, list):
            _all_numbers(member, (*at, i))
        elif member is not None and (
            isinstance(member, bool) or not isinstance(member, int | float)
        ):
            raise line_errors([((*at, i), "is not a number")])
    return _all_finite(tree) if not at else tree


Grid = Annotated[list[Any], AfterValidator(_all_numbers)]
Position = Annotated[int, Field(strict=True, ge=0, lt=2**63)]


class _ArrayFile(Part):
    """A labelled array as it stands in a file."""

    unit: Text
    axes: Labels
    labels: dict[Text, Labels] = Field(default_factory=dict)
    codes: dict[Text, list[Position]]
    values: list[Number]

    def array(self, name: str, shared: Mapping[str, Labels]) -> LabelledArray:
        every = {**shared, **self.labels}
        codes = np.array([self.codes[axis] for axis in self.axes], dtype=np.int64)
        return LabelledArray(
            name,
            self.unit,
            {axis: every[axis] for axis in self.axes},
            codes.reshape(len(self.axes), len(self.values)),
            np.array(self.values, dtype=float),
        )

    def problems(self, shared: Mapping[str, Labels]) -> list[tuple[str, str]]:
        """What does not fit together, by field."""
        every = {**shared, **self.labels}
        if len(set(self.axes)) != len(self.axes):
            return [("axes", f"names an axis twice in {list(self.axes)}")]
        if unknown := [axis for axis in self.axes if axis not in every]:
            return [("axes", f"{axis!r} has no labels") for axis in unknown]
        if set(self.codes) != set(self.axes):
            return [("codes", f"names {sorted(self.codes)}, expected each of {list(self.axes)}")]
        found: list[tuple[str, str]] = []
        for axis, codes in self.codes.items():
            if len(codes) != len(self.values):
                text = f"has {len(codes)} entries, expected {len(self.values)} as in values"
                found.append((f"codes.{axis}", text))
            if codes and max(codes) >= (size := len(every[axis])):
                found.append(
                    (f"codes.{axis}", f"{max(codes)} is beyond the last label, {size - 1}")
                )
        if not self.axes and len(self.values) > 1:
            found.append(("values", "an array without axes holds one number"))
        places = list(zip(*self.codes.values(), strict=False))
        if not found and self.axes and len(set(places)) != len(places):
            found.append(("codes", "names one position twice"))
        return found


class _StageFile(Part):
    """A stage as it stands in a file."""

    objective: Number
    bound: Number | None
    bound_source: Literal["own-dual", "tree", "lp", "exact", "none"]
    marginals: dict[Text, _ArrayFile] = Field(default_factory=dict)

    def result(self, shared: Mapping[str, Labels]) -> StageResult:
        bound = -np.inf if self.bound is None else self.bound
        marginals = {n: a.array(n, shared) for n, a in self.marginals.items()}
        return StageResult(self.objective, bound, self.bound_source, marginals)


class _SolutionFile(Part):
    """A solution file: strict types, and arrays that fit its sets."""

    kind: Literal["solution"]
    schema_version: Annotated[Literal[1], NotBoolean]
    problem: Text
    instance: Text
    instance_sha256: Text
    method: Text
    solver: Text
    status: Literal["optimal", "feasible", "infeasible", "unbounded", "limit", "error"]
    objective: Number | None = None
    bound: Number | None = None
    bound_source: Text = "none"
    gap: Number | None = None
    gap_abs: Number | None = None
    metrics: dict[Text, Number | None]
    metrics_by: dict[Text, dict[Text, Grid]]
    runtime_s: dict[Text, NonNegative]
    seed: Whole
    threads: Whole
    versions: dict[Text, Text]
    report: dict[Text, Finite]
    sets: dict[Text, Labels]
    decision: dict[Text, _ArrayFile]
    stages: tuple[_StageFile, ...]

    @field_validator("decision")
    @classmethod
    def _decision_fits(cls, value: dict[str, _ArrayFile], info: ValidationInfo) -> Any:
        _refuse_misfits([((), value)], info.data.get("sets"))
        return value

    @field_validator("stages")
    @classmethod
    def _marginals_fit(cls, value: tuple[_StageFile, ...], info: ValidationInfo) -> Any:
        places = [((i, "marginals"), stage.marginals) for i, stage in enumerate(value)]
        _refuse_misfits(places, info.data.get("sets"))
        return value


def _refuse_misfits(
    places: Sequence[tuple[tuple[int | str, ...], Mapping[str, _ArrayFile]]],
    sets: Mapping[str, Labels] | None,
) -> None:
    if sets is None:  # already reported
        return
    found = [
        ((*at, name, field), text)
        for at, arrays in places
        for name, array in arrays.items()
        for field, text in array.problems(sets)
    ]
    if found:
        raise line_errors(found)
