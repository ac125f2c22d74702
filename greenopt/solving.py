"""The one entry: solve an instance, prove a bound, check the plan."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np

from greenopt import arguments, explaining
from greenopt._version import __version__
from greenopt.checking import stage_differences
from greenopt.errors import ModelError
from greenopt.instance import Instance
from greenopt.labelled import FloatArray, LabelledArray
from greenopt.model import Model
from greenopt.problems import PROBLEMS, part
from greenopt.results import NUMERICAL_FLOOR, Solution, StageResult, Status, closes
from greenopt.solvers import RawResult, StartReport, Termination, find, solve_model

ATTEMPTS: tuple[dict[str, Any], ...] = (
    {},
    {"dual_tolerance": 1e-9},
    {"dual_tolerance": 1e-9, "spread": 1e9},
    {"spread": 1e3},
)
"""Settings of `solve_model` tried in turn while a continuous model's own bound leaves a gap."""

DECIDED = (
    Termination.INFEASIBLE,
    Termination.UNBOUNDED,
    Termination.LIMIT,
    Termination.INTERRUPTED,
)
"""Ends of a run that no other setting is tried on."""

WITHOUT_PLAN = {
    Termination.INFEASIBLE: Status.INFEASIBLE,
    Termination.UNBOUNDED: Status.UNBOUNDED,
    Termination.LIMIT: Status.LIMIT,
    Termination.INTERRUPTED: Status.LIMIT,
}
"""Status of a solve that ended without a plan."""

EXPLANATION_LIMIT_S = 60.0
"""Longest time for finding out why there is no plan, s; no more than the solve's own limit."""

REFINEMENTS, REFINED_SEARCHES = 12, 5
"""Solves with more pieces of curves, at most, and searches for whole numbers."""

BETWEEN = "pieces above the curves have no plan, and those below are not proved to have none"
"""What is known of an instance that sits between the two."""

CHECK_TOLERANCE = 1e-6
"""Largest relative violation the checker accepts."""


def solve(
    instance: Instance,
    method: str = "exact",
    *,
    solver: str = "highs",
    isolation: str = "auto",
    time_limit: float | None = None,
    gap: float = 1e-6,
    start: Solution | Mapping[str, LabelledArray] | None = None,
    bound: bool = True,
    explain: bool = True,
    seed: int = 0,
    threads: int = 1,
) -> Solution:
    """Solve an instance and return a plan with its proof.

    Parameters
    ----------
    instance : Instance
        What to solve, from `greenopt.load` or built in Python.
    method : str
        "exact", or a rule that `greenopt methods` lists. A rule's plan has the bound of the best
        plan, so its gap says how far from it the rule is at most.
    solver : str
        A name that ``greenopt solvers`` lists; "highs" makes its own choice of algorithm.
    isolation : str
        "in-process", "worker" (a process of the solver's own) or "auto": in the calling process
        where that can be, in a worker where it cannot or where a limit has to be enforced.
    time_limit : float, optional
        Wall-clock limit on solver time over all stages, s; the bound of a mixed-integer stage,
        timed apart, has as much again.
    gap : float
        Relative gap that counts as proved. 0 asks for all that double precision gives (1e-9).
    start : Solution, optional
        A plan to start from, whole or in part, of an instance with the same labels. The report
        says whether it was accepted and why not; the result is never worse than an accepted one.
    bound : bool
        Whether a mixed-integer solve is followed by a solve of its relaxation, whose multipliers
        `certify` can check (timed apart). A continuous solve has them anyway, unless the solver
        gives none.
    explain : bool
        Whether infeasibility is proved and explained, which takes longer than finding it (see
        `greenopt.explain`). Without it the status rests on the solver's word.
    seed, threads : int
        Given to the solver; the defaults repeat bit for bit on one machine.

    Returns
    -------
    Solution
        Infeasible, unbounded and limits are statuses, not exceptions.

    Raises
    ------
    ModelError
        For an unknown method.
    SolverError
        For an unknown or unusable solver.
    """
    refuse_others(instance)
    refuse_unknown(method, solver, [instance.problem])
    settings = Settings(solver, isolation, gap, bound, explain, seed, threads)
    if method != "exact":
        from greenopt.ruling import solve_by_rule

        return solve_by_rule(instance, method, settings, time_limit)
    return Run(instance, settings, time_limit, start).solution()


def refuse_others(instance: Any) -> None:
    """Refuse what is not an instance.

    Raises
    ------
    ModelError
        Saying what it is.
    """
    if not isinstance(instance, Instance):
        given = type(instance).__name__
        raise ModelError(f"expected an instance, got a {given}; greenopt.load reads a file")


def methods_of(problem: str) -> dict[str, str]:
    """Methods that solve a problem, and what they do."""
    return {"exact": "the proven optimum", **part(problem, "methods").RULES}


def refuse_unknown(method: str, solver: str, problems: Iterable[str] = PROBLEMS) -> None:
    """Refuse a method that none of some problems has, or an unknown solver, naming the known ones.

    Raises
    ------
    ModelError
        For an unknown method.
    SolverError
        For an unknown solver.
    """
    known = dict.fromkeys(name for problem in problems for name in methods_of(problem))
    if method not in known:
        raise ModelError(f"unknown method {method!r}; known are {', '.join(known)}")
    find(solver)


@dataclass(frozen=True)
class Settings:
    """How to solve, as the parameters of `solve` of the same names say.

    Raises
    ------
    ModelError
        For a gap, a seed or a number of threads that makes no sense.
    """

    solver: str = "highs"
    isolation: str = "auto"
    gap: float = 1e-6
    bound: bool = True
    explain: bool = True
    seed: int = 0
    threads: int = 1

    def __post_init__(self) -> None:
        arguments.relative_gap(self.gap)
        arguments.seed(self.seed)
        arguments.threads(self.threads)


class HandOver:
    """How models get to a solver: whole, every time. `preparing` has one that keeps them there."""

    def run(self, model: Model, stage: int, **how: Any) -> RawResult:
        """Solve a stage of a model; parameters as for `solve_model`."""
        return solve_model(model, stage, **how)

    def refresh(self, stage: int, relax: bool) -> bool:
        """Give up what is kept from earlier solves; whether there was anything."""
        return False


@dataclass
class Run:
    """One exact solve on its way from instance to solution.

    Attributes
    ----------
    instance : Instance
        What to solve.
    settings : Settings
        How.
    time_limit : float or None
        Wall-clock limit on solver time, s.
    start : Solution, mapping of str to LabelledArray, or None
        A plan to start from, or a part of one.
    hand_over : HandOver
        How models get to the solver.
    runtime_s, report, versions : dict
        Of the solution.

    Raises
    ------
    ModelError
        For a time limit that is not above 0 s, or what is no start.
    """

    instance: Any
    settings: Settings
    time_limit: float | None = None
    start: Solution | Mapping[str, LabelledArray] | None = None
    hand_over: HandOver = field(default_factory=HandOver)
    runtime_s: dict[str, float] = field(default_factory=dict)
    report: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    _prices: list[tuple[Model, int, FloatArray] | None] = field(default_factory=list)

    def __post_init__(self) -> None:
        limit = arguments.time_limit_s(self.time_limit)
        self.time_limit = limit if np.isfinite(limit) else None
        if not isinstance(self.start, Solution | Mapping | None):
            given = type(self.start).__name__
            raise ModelError(f"start is a {given}; expected a Solution, or arrays of one by name")

    def formulate(self) -> Any:
        """The model of the instance, with the way back."""
        with self.timed("build"):
            return part(self.instance.problem, "formulation").formulate(self.instance)

    def solution(self, formulation: Any = None) -> Solution:
        """Solve, check and prove.

        Parameters
        ----------
        formulation : optional
            What `formulate` returns, if it is there already.
        """
        formulation = formulation or self.formulate()
        self.choose_solver(formulation)
        self.report["gap_asked"] = self.settings.gap
        formulation, (raw, stages, x, scales) = self.refined(formulation)
        self.report["termination"], self.report["message"] = str(raw.termination), raw.message
        decision: dict[str, Any] = {}
        found = None
        if x is not None:
            with self.timed("decode"):
                decision = formulation.decode(x)
            with self.timed("check"):
                found = part(self.instance.problem, "check").evaluate(
                    self.instance, decision, CHECK_TOLERANCE
                )
        elif raw.termination == Termination.INFEASIBLE:
            with self.timed("explain"):
                self._explain(formulation.curved)
        if found is not None and formulation.curved:
            stages[-1] = _at_true_value(stages[-1], found.stages[len(stages) - 1])
        status = self._status(raw, stages, found, scales)
        if found is not None and stages:
            last = stages[-1]
            value = found.stages[len(stages) - 1]
            # A bound above the plan by rounding only is the plan's value.
            rounding = NUMERICAL_FLOOR * scales[-1]
            bound = value if 0 < last.bound - value <= rounding else last.bound
            stages[-1] = StageResult(value, bound, last.bound_source, last.marginals)
            self.report["notes"] = found.notes
        return self.packed("exact", status, stages, decision, found)

    def packed(
        self,
        method: str,
        status: Status,
        stages: Iterable[StageResult],
        decision: dict[str, LabelledArray],
        found: Any,
    ) -> Solution:
        """A solution with what this run knows.

        Parameters
        ----------
        method : str
            How it was found.
        status : Status
            How it ended.
        stages : iterable of StageResult
            Values and bounds.
        decision : dict of str to LabelledArray
            The plan, empty without one.
        found
            What the checker says of the plan; None without one.
        """
        return Solution(
            problem=self.instance.problem,
            instance=self.instance.name,
            instance_sha256=self.instance.sha256,
            method=method,
            solver=self.settings.solver,
            status=status,
            stages=tuple(stages),
            decision=decision,
            metrics=found.metrics if found else {},
            metrics_by=found.metrics_by if found else {},
            sets=dict(self.instance.sets),
            runtime_s=self.runtime_s,
            seed=self.settings.seed,
            threads=self.settings.threads,
            versions={
                "greenopt": __version__,
                "python": platform.python_version(),
                **self.versions,
            },
            report=self.report,
        )

    def choose_solver(self, formulation: Any) -> None:
        """Use the solver that suits the structure, where the default is left to choose."""
        own_choice = self.settings.solver == "highs" and type(self.hand_over) is HandOver
        if own_choice and formulation.suits is not None and self.start is None:
            self.settings = replace(self.settings, solver=formulation.suits)

    @contextmanager
    def timed(self, phase: str) -> Iterator[None]:
        """Count the time of what is done inside to a phase."""
        started = time.perf_counter()
        yield
        elapsed = time.perf_counter() - started
        self.runtime_s[phase] = self.runtime_s.get(phase, 0.0) + elapsed

    def refined(self, formulation: Any) -> tuple[Any, tuple[Any, ...]]:
        """Solve, with more pieces where curves leave a gap; the formulation and what came out."""
        result = self._stages(formulation)
        if formulation.below() is None:
            return formulation, result
        if result[0].termination == Termination.INFEASIBLE:
            formulation, result = self._fitting(formulation, result)
        whole = formulation.model.is_integer
        for _ in range(REFINED_SEARCHES if whole else REFINEMENTS):
            raw, stages, x, scales = result
            unproved = [
                number
                for number, (stage, scale) in enumerate(zip(stages, scales, strict=True))
                if not closes(stage.objective, stage.bound, self.settings.gap / 2, scale)
            ]
            if not unproved or raw.termination != Termination.OPTIMAL:
                break
            with self.timed("build"):
                prices = None if whole or not self._prices else self._prices[unproved[0]]
                finer = formulation.finer(x, *prices) if prices else formulation.around(x)
            better = self._stages(finer)
            if better[0].termination != Termination.OPTIMAL:
                break  # out of time: the coarser plan stays
            formulation, result = finer, better
        return formulation, result

    def _fitting(self, formulation: Any, result: tuple[Any, ...]) -> tuple[Any, tuple[Any, ...]]:
        """Chords wait longer than their curves: without a plan on them, ask those below the curves.

        If these have none either, there is none. Else they say where more points are needed.
        """
        raw = result[0]
        for _ in range(REFINEMENTS):
            below = formulation.below()
            relaxed = self.solve_stage(below.model, 0)
            if relaxed.x is None:
                if relaxed.termination != Termination.INFEASIBLE:
                    raw = replace(raw, termination=Termination.LIMIT, message=BETWEEN)
                return formulation, (raw, *result[1:])
            formulation = formulation.around(relaxed.x, below=True)
            result = self._stages(formulation)
            if result[0].termination != Termination.INFEASIBLE:
                return formulation, result
        raw = replace(result[0], termination=Termination.LIMIT, message=BETWEEN)
        return formulation, (raw, *result[1:])

    def _stages(
        self, formulation: Any
    ) -> tuple[RawResult, list[StageResult], FloatArray | None, list[float]]:
        """Solve stage after stage, each keeping the earlier ones within their tolerance."""
        model: Model = formulation.model
        if any(stage.q is not None for stage in model.stages[:-1]):
            raise ModelError("only the last stage can have a quadratic objective")
        results: list[StageResult] = []
        x: FloatArray | None = None
        start = self._encoded_start(formulation)
        scales: list[float] = []  # sum of the absolute terms of each stage's objective
        self._prices = []
        for number, stage in enumerate(model.stages):
            raw = self.solve_stage(model, number, start=start)
            if number == 0 and raw.start is not None:
                self.report["start"] = asdict(raw.start)
            if raw.x is None:
                if results:
                    self.report["stopped"] = (
                        f"stage {number + 1} of {len(model.stages)} ended: {raw.message}; "
                        "the plan is that of the stage before"
                    )
                break
            x = raw.x
            value = stage.value(x)
            scales.append(stage.size(x))
            results.append(self._stage_result(formulation, model, number, raw, value))
            if raw.termination != Termination.OPTIMAL:
                break
            if number + 1 < len(model.stages):
                limit = value + stage.tolerance * max(abs(value), 1.0)
                model = model.with_row(f"stage_{number}", stage.c, limit)
                start = x if model.is_integer else None
        self.report["counts"] = raw.counts
        self.report["where"] = raw.where
        return raw, results, x, scales

    def _encoded_start(self, formulation: Any) -> FloatArray | None:
        """The start as values of columns, not a number where it says nothing."""
        if self.start is None:
            return None
        given = self.start.decision if isinstance(self.start, Solution) else self.start
        reason = formulation.misfit(given) if given else "it has no plan"
        if reason:
            self.report["start"] = asdict(StartReport(False, None, reason))
            return None
        x: FloatArray = formulation.encode(given)
        return x

    def solve_stage(
        self, model: Model, stage: int, relax: bool = False, start: FloatArray | None = None
    ) -> RawResult:
        """Run the solver on one stage of a model, timed."""
        phase = "bound" if relax else "solve"
        solver = self._dual_solver if relax else self.settings.solver

        def run(options: dict[str, Any], again: bool) -> RawResult:
            with self.timed(phase):
                return self._run_once(model, stage, solver, relax, options, again, start)

        return self._best_attempt(model, stage, solver, relax, run, self._attempts(stage, relax))

    @property
    def _dual_solver(self) -> str:
        """Who solves the relaxation: the solver itself if it gives multipliers."""
        info = find(self.settings.solver)
        return info.name if info.continuous and info.duals else "highs"

    def _best_attempt(
        self,
        model: Model,
        stage: int,
        solver: str,
        relax: bool,
        run: Callable[[dict[str, Any], bool], RawResult],
        attempts: Iterable[dict[str, Any]] = ATTEMPTS,
    ) -> RawResult:
        """Run a continuous model again, set otherwise, while its own bound leaves a gap.

        Costs of very different size defeat any one scaling; the first run's own bound shows it.
        """
        searched = (model.is_integer and not relax) or not find(solver).duals
        best, best_gap = None, np.inf
        for attempt, options in enumerate(attempts):
            raw = run(options, attempt > 0)
            if searched or raw.termination in DECIDED:
                return best or raw
            gap, closed = self._proved(model, stage, raw)
            if best is None or gap < best_gap:
                best, best_gap = raw, gap
            if closed:
                break
        assert best is not None
        return best

    def _attempts(self, stage: int, relax: bool) -> Iterator[dict[str, Any]]:
        """Settings to try in turn; first of all again on a model scaled for today's data."""
        for options in ATTEMPTS:
            yield options
            if self.hand_over.refresh(stage, relax):
                yield options

    def _run_once(
        self,
        model: Model,
        stage: int,
        solver: str,
        relax: bool,
        options: dict[str, Any],
        again: bool,
        start: FloatArray | None,
    ) -> RawResult:
        spent = 0.0 if relax else self.runtime_s.get("solve", 0.0)
        left = float("inf") if self.time_limit is None else max(self.time_limit - spent, 1e-3)
        if again:  # a repair may take ten times the first run, not for ever
            left = min(left, 10 + 10 * self.runtime_s.get("solve", 0.0))
        raw = self.hand_over.run(
            model,
            stage,
            solver=solver,
            isolation=self._isolation_of(solver),
            time_limit_s=left,
            gap=max(self.settings.gap, NUMERICAL_FLOOR),
            relax=relax,
            **options,
            threads=self.settings.threads,
            seed=self.settings.seed,
            start=start,
        )
        if raw.version:
            self.versions[raw.program] = raw.version
        return raw

    def _isolation_of(self, solver: str) -> str:
        """What was asked for is about the solver that was asked for."""
        same = find(solver).package == find(self.settings.solver).package
        return self.settings.isolation if same else "auto"

    def _proved(self, model: Model, stage: int, raw: RawResult) -> tuple[float, bool]:
        """Distance between a point and its own weak-duality bound, and whether that suffices."""
        if raw.x is None or raw.row_dual is None:
            return np.inf, False
        objective = model.stages[stage]
        value, bound = objective.value(raw.x), objective.bound(model, raw.x, raw.row_dual)
        return value - bound, closes(value, bound, self.settings.gap, objective.size(raw.x))

    def _stage_result(
        self, formulation: Any, model: Model, number: int, raw: RawResult, value: float
    ) -> StageResult:
        """The proof of a stage: own weak-duality bound, and the tree's claim for integers."""
        relaxed = raw
        if model.is_integer or not find(self.settings.solver).duals:
            if not self.settings.bound:
                return StageResult(value, self._tree_bound(formulation, number, raw), "tree")
            relaxed = self.solve_stage(model, number, relax=True)
        bound, marginals = self._own_proof(formulation, model, number, relaxed)
        if not model.is_integer:
            return StageResult(
                value, bound, "own-dual" if np.isfinite(bound) else "none", marginals
            )
        tree_bound = self._tree_bound(formulation, number, raw)
        if tree_bound > bound:
            return StageResult(value, tree_bound, "tree", marginals)
        return StageResult(value, bound, "lp", marginals)

    def relaxed_bound(self, formulation: Any) -> StageResult:
        """The proof of the relaxed first stage, without a plan."""
        raw = self.solve_stage(formulation.model, 0, relax=True)
        bound, marginals = self._own_proof(formulation, formulation.model, 0, raw)
        return StageResult(np.inf, bound, "lp" if np.isfinite(bound) else "none", marginals)

    def _own_proof(
        self, formulation: Any, model: Model, number: int, raw: RawResult
    ) -> tuple[float, dict[str, LabelledArray]]:
        """Bound by weak duality from a continuous solve's multipliers, and these by name."""
        if raw.row_dual is None or raw.x is None:
            self._prices.append(None)
            return -np.inf, {}
        self._prices.append((model, number, raw.row_dual))
        dual = formulation.proving(model, number, raw.row_dual)
        bound = model.stages[number].bound(model, raw.x, dual)
        return bound, formulation.marginals_of(model, dual)

    def _tree_bound(self, formulation: Any, number: int, raw: RawResult) -> float:
        """What a search has proved; where curves are in pieces, one with pieces below them."""
        below = formulation.below()
        if below is None:
            return raw.tree_bound
        if number > 0:  # earlier stages are kept above their curves
            return -np.inf
        with self.timed("bound"):
            return self._run_once(
                below.model, number, self.settings.solver, False, {}, False, None
            ).tree_bound

    def _status(
        self, raw: RawResult, stages: list[StageResult], found: Any, scales: list[float]
    ) -> Status:
        if "contradiction" in self.report:
            return Status.ERROR
        if found is None:
            return WITHOUT_PLAN.get(raw.termination, Status.ERROR)
        recomputed, scale = found.stages[len(stages) - 1], scales[-1]
        against = [str(violation) for violation in found.violations[:10]]
        rooms = [CHECK_TOLERANCE * max(size, 1e-10) for size in scales]
        against += stage_differences(stages, found.stages, found.stage_tolerances, rooms)
        if against:
            self.report["contradiction"] = {"solver": raw.message, "checker": against}
            return Status.ERROR
        proved = closes(recomputed, stages[-1].bound, self.settings.gap, scale) and all(
            closes(stage.objective, stage.bound, self.settings.gap, size)
            for stage, size in zip(stages[:-1], scales, strict=False)
        )
        complete = len(stages) == len(self.instance.objective)
        return Status.OPTIMAL if proved and complete else Status.FEASIBLE

    def _explain(self, curved: bool) -> None:
        """Find the requirements that conflict; if there are none, that contradicts the solver.

        Unless curves are cut into pieces: a conflict may hide between those of either.
        """
        if not self.settings.explain:
            self.report["explanation"] = [
                "the solver says that there is no plan; an explanation was not asked for"
            ]
            return
        limit = EXPLANATION_LIMIT_S
        if self.time_limit is not None:
            limit = min(limit, self.time_limit)
        found = explaining.explain(
            self.instance,
            time_limit=limit,
            isolation=self._isolation_of("highs"),
            threads=self.settings.threads,
            seed=self.settings.seed,
        )
        self.report |= found.report()
        if found.infeasible is False and not curved:
            self.report["contradiction"] = {
                "solver": "infeasible",
                "checker": "all requirements can be met together, within their tolerances",
            }


def _at_true_value(stage: StageResult, value: float) -> StageResult:
    """A stage with what its plan is worth on its curves, if chords have said more."""
    return replace(stage, objective=min(stage.objective, value))
