"""From what a solver says to what greenopt returns."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from greenopt.labelled import FloatArray
from greenopt.model import Model
from greenopt.solvers import points
from greenopt.solvers.registry import SolverInfo
from greenopt.solvers.scaling import Scaled
from greenopt.solvers.task import Answer, RawResult, StartReport, Termination

CLAIM = 1e-6
"""How far a claim about the objective may be from what it contradicts, relative to its terms."""

POLISH = 1e-8
"""Violation on the scaled model above which the continuous part of a point is found anew."""

Repair = Callable[[FloatArray], FloatArray | None]
"""Finds the continuous part to integers that are given."""


@dataclass(frozen=True, eq=False)
class Start:
    """An accepted start: a feasible point of the scaled model."""

    x: FloatArray
    report: StartReport


def judge(
    model: Model,
    scaled: Scaled,
    info: SolverInfo,
    answer: Answer,
    *,
    incumbent: FloatArray | None,
    repair: Repair,
    gap: float,
    remote: bool,
    start: Start | None = None,
    start_report: StartReport | None = None,
    notes: tuple[str, ...] = (),
) -> RawResult:
    """Check a solver's point and claims, and put them into the model's own terms.

    Parameters
    ----------
    model, scaled : Model, Scaled
        What was solved.
    info, answer : SolverInfo, Answer
        Who says what.
    incumbent : ndarray or None
        The last better point it told while it ran.
    repair : callable
        Finds the continuous part to whole numbers that rounding has moved.
    gap : float
        Relative gap that was asked for.
    remote : bool
        Whether it ran in a worker.
    start : Start or None
        An accepted start, which the result is never worse than.
    start_report : StartReport or None
        What became of the start, accepted or not.
    notes : tuple of str
        Passed on.
    """
    verdict = _Verdict(model, scaled, answer.termination, answer.message or info.name)
    verdict.take_point(answer.x, repair)
    if verdict.x is None and answer.termination not in _DECIDED and incumbent is not None:
        verdict.take_point(incumbent, repair)
    bound = answer.bound
    if verdict.x is not None and bound > verdict.value + verdict.room:
        verdict.contradict(
            f"its bound {bound / scaled.objective:.9g} is above its own point's value"
        )
        bound = -float("inf")
    if start is not None:
        verdict.compare_with(start.x, gap)
    return RawResult(
        verdict.termination,
        None if verdict.x is None else scaled.x(verdict.x),
        None if answer.row_dual is None else scaled.row_dual(answer.row_dual),
        bound / scaled.objective,
        answer.runtime_s,
        verdict.message,
        answer.version,
        answer.counts,
        program=info.program,
        where="worker" if remote else "in-process",
        start=start_report,
        notes=notes,
    )


_DECIDED = (Termination.INFEASIBLE, Termination.UNBOUNDED)


class _Verdict:
    """What is left of a solver's claims."""

    def __init__(
        self, model: Model, scaled: Scaled, termination: Termination, message: str
    ) -> None:
        self._model, self._scaled = model, scaled
        self.termination, self.message = termination, message
        self.x: FloatArray | None = None

    @property
    def value(self) -> float:
        """Scaled objective of the point."""
        assert self.x is not None
        return points.value(self._scaled, self.x)[0]

    @property
    def room(self) -> float:
        """How far the objective may be from what a claim says."""
        assert self.x is not None
        return CLAIM * max(1.0, points.value(self._scaled, self.x)[1])

    def take_point(self, x: FloatArray | None, repair: Repair) -> None:
        """Keep a point if it holds; a claim of optimality stands or falls with it."""
        optimal = self.termination == Termination.OPTIMAL
        if x is None:
            if optimal:
                self.contradict("it has no point")
            return
        whole = self._polished(points.rounded(self._scaled, x), repair)
        fault = points.fault(self._model, self._scaled, whole)
        if not fault:
            self.x = whole
        elif optimal:
            self.contradict(fault)
        elif fault not in self.message:  # its last better point is often the same
            self.message += f"; its point is dropped: {fault}"

    def _polished(self, x: FloatArray, repair: Repair) -> FloatArray:
        """The point with its continuous part found anew, where rows hold only roughly.

        Searches are less exact than linear programs, and rounding integers moves rows.
        """
        integer = self._scaled.integer
        whole = np.isfinite(x).all() and (x == np.round(x))[integer].all()
        if not whole or not 0 < integer.sum() < len(x):
            return x
        if not points.fault(self._model, self._scaled, x, POLISH):
            return x
        repaired = repair(x)
        if repaired is None or points.fault(self._model, self._scaled, repaired, POLISH):
            return x
        return repaired

    def contradict(self, story: str) -> None:
        """Tell both stories."""
        self.message = f"claims {self.message!r}, but {story}"
        self.termination = Termination.ERROR

    def compare_with(self, start: FloatArray, gap: float) -> None:
        """Never return anything worse than an accepted start."""
        started = points.value(self._scaled, start)[0]
        if self.x is None:
            if self.termination == Termination.UNBOUNDED:
                return
            if self.termination == Termination.INFEASIBLE:
                self.contradict("the start is feasible")
        elif started >= self.value:
            return
        elif self.termination == Termination.OPTIMAL:
            if started < self.value - gap * abs(self.value) - self.room:
                self.contradict("the start is better than its point")
        self.x = start
        self.message += "; the start is the result, the solver found nothing better"
