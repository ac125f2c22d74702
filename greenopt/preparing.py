"""Solving one instance again and again while its data changes, from where the last solve ended."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from greenopt.errors import InstanceError, Problem, SolverError
from greenopt.instance import Instance
from greenopt.model import Block, Model
from greenopt.results import Solution, Status
from greenopt.solvers import RawResult, Session, Termination, find
from greenopt.solving import HandOver, Run, Settings, refuse_others, refuse_unknown

FIRST = "this is the first solve"
BROKEN_OFF = "the last solve broke off"
NO_PROOF = "the model kept in the solver did not lead to a proof"

UNPROVED = (Status.ERROR, Status.FEASIBLE)
"""Ends that a model kept for long may be to blame for."""


def prepare(
    instance: Instance,
    *,
    solver: str = "highs",
    isolation: str = "auto",
    gap: float = 1e-6,
    bound: bool = True,
    explain: bool = True,
    seed: int = 0,
    threads: int = 1,
) -> Prepared:
    """Get ready to solve an instance repeatedly while its data changes.

    Parameters
    ----------
    instance : Instance
        What to solve first.
    solver, isolation, gap, bound, explain, seed, threads
        As for `solve`.

    Returns
    -------
    Prepared
        To be updated and solved as often as wanted, then closed.

    Raises
    ------
    ModelError
        For something that is not an instance, or a negative gap.
    SolverError
        For an unknown solver.
    """
    refuse_others(instance)
    refuse_unknown("exact", solver)
    return Prepared(instance, Settings(solver, isolation, gap, bound, explain, seed, threads))


class Prepared:
    """An instance whose model stays in the solver from one solve to the next.

    Made by `prepare`. It may be used from several threads; they take turns.

    Parameters
    ----------
    instance : Instance
        What to solve first.
    settings : Settings
        How.
    """

    def __init__(self, instance: Instance, settings: Settings) -> None:
        self._instance, self._settings = instance, settings
        self._lock = threading.RLock()
        self._sessions = _Sessions()
        self._formulation: Any = None
        self._last: Solution | None = None
        self._closed = False

    @property
    def instance(self) -> Any:
        """The instance as it stands now."""
        return self._instance

    def update(self, **changes: Any) -> None:
        """Change fields of the instance; the next solve is of the changed one.

        Parameters
        ----------
        **changes : object
            New values by field, in every form that `Instance.replace` takes: NumPy arrays over all
            axes, ``{"axes": ..., "values": ...}`` over some, frames, lists. ``demand`` is short for
            ``demand_requests``.

        Raises
        ------
        InstanceError
            With every problem found; nothing is changed then.
        SolverError
            If it is closed.
        """
        with self._lock:
            self._refuse_closed()
            changes = self._by_field(changes)
            try:
                instance = self._instance.replace(**changes)
            except InstanceError as error:
                raise InstanceError("update", error.problems) from None
            self._instance, self._formulation = instance, None
            self._sessions.note(changes)

    def solve(self, time_limit: float | None = None) -> Solution:
        """Solve the instance as it stands now.

        Parameters
        ----------
        time_limit : float, optional
            Wall-clock limit on solver time of this solve, s.

        Returns
        -------
        Solution
            Checked and proved like that of `greenopt.solve`. Its report says in ``in_place``
            whether the solver went on with the model it had, and if not, why in
            ``rebuild_reason``.

        Raises
        ------
        ModelError
            For a time limit that is not above 0 s.
        SolverError
            For an unusable solver, or if it is closed.
        """
        with self._lock:
            self._refuse_closed()
            run = self._run(time_limit)
            try:
                self._formulation = self._formulation or run.formulate()
                solution = self._solution(run)
            except BaseException:  # what the solver holds now, nobody knows
                self._sessions.drop(BROKEN_OFF)
                raise
            self._last = solution
            return solution

    def close(self) -> None:
        """Let the solver's memory go."""
        with self._lock:
            self._closed = True
            self._sessions.drop(FIRST)
            self._formulation = self._last = None

    def __enter__(self) -> Prepared:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Prepared {self._instance!r}{', closed' if self._closed else ''}>"

    def _refuse_closed(self) -> None:
        if self._closed:
            raise SolverError("this prepared instance is closed")

    def _by_field(self, changes: Mapping[str, Any]) -> dict[str, Any]:
        """Changes by the full names of their fields."""
        short = self._instance.short_names
        twice = [name for name in changes if short.get(name) in changes]
        if twice:
            text = f"is short for {short[twice[0]]}, which is given too"
            raise InstanceError("update", [Problem(f"$.{twice[0]}", text)])
        return {short.get(name, name): value for name, value in changes.items()}

    def _run(self, time_limit: float | None) -> Run:
        return Run(self._instance, self._settings, time_limit, hand_over=self._sessions)

    def _solution(self, run: Run) -> Solution:
        """Solve; if a model changed in place leaves it unproved, once more from scratch."""
        self._sessions.reasons.clear()
        run.start = self._plan()
        solution = run.solution(self._formulation)
        if not self._sessions.reasons and _unproved(solution):
            self._sessions.drop(NO_PROOF)
            again = self._run(run.time_limit)
            again.runtime_s = run.runtime_s  # counts against the limit
            solution = again.solution(self._formulation)
        reasons = self._sessions.reasons
        solution.report["in_place"] = not reasons
        solution.report["rebuild_reason"] = reasons[0] if reasons else None
        return solution

    def _plan(self) -> Solution | None:
        """The last plan, where a search for whole numbers can start from it."""
        last = self._last
        if last is None or not last.decision or not self._formulation.model.is_integer:
            return None
        return last if last.sets == self._instance.sets else None


def _unproved(solution: Solution) -> bool:
    stopped = {str(Termination.LIMIT), str(Termination.INTERRUPTED)}
    return solution.status in UNPROVED and solution.report["termination"] not in stopped


@dataclass
class _Kept:
    """A model in the solver.

    Attributes
    ----------
    session : Session
        Where it is.
    model : Model
        The model as the session has it.
    unheard : list of str
        Fields of the instance changed since.
    changed : bool
        Whether it was ever changed; its scaling is that of its beginning.
    """

    session: Session
    model: Model
    unheard: list[str] = field(default_factory=list)
    changed: bool = False


class _Sessions(HandOver):
    """Keeps the model of every stage in the solver and tells it what changed.

    Attributes
    ----------
    reasons : list of str
        Why models were handed over whole since the list was last cleared.
    """

    def __init__(self) -> None:
        self.reasons: list[str] = []
        self._kept: dict[tuple[int, frozenset[Any]], _Kept] = {}
        self._why_none = FIRST
        self._why_gone: dict[int, str] = {}  # by stage

    def run(self, model: Model, stage: int, **how: Any) -> RawResult:
        """Solve a stage of a model, in place if what is kept of it can be made into it."""
        info = find(how["solver"])
        if model.is_integer and not how["relax"]:
            self.reasons.append("whole numbers are searched for anew, starting from the last plan")
            return super().run(model, stage, **how)
        if not info.session:
            self.reasons.append(f"{info.name} keeps no model between solves")
            return super().run(model, stage, **how)
        time_limit_s = how.pop("time_limit_s")
        how.pop("start")  # a basis is a better one
        key = (stage, frozenset(how.items()))
        reason = self._renew(key, model)
        if reason is not None:
            self.reasons.append(reason)
            self._forget(key)
            self._kept[key] = _Kept(Session(model, stage, **how), model)
        kept = self._kept[key]
        raw = kept.session.solve(time_limit_s)
        self.reasons += raw.notes
        return raw

    def refresh(self, stage: int, relax: bool) -> bool:
        """Give up models of a stage that were changed in place; whether there were any."""
        old = [
            key
            for key, kept in self._kept.items()
            if kept.changed and key[0] == stage and ("relax", relax) in key[1]
        ]
        for key in old:
            self._forget(key)
        if old:
            self._why_gone[stage] = NO_PROOF
        return bool(old)

    def note(self, fields: Iterable[str]) -> None:
        """Remember which fields the models in the solver have not heard of yet."""
        for kept in self._kept.values():
            kept.unheard += [name for name in fields if name not in kept.unheard]

    def drop(self, why: str) -> None:
        """Give up every model."""
        for key in list(self._kept):
            self._forget(key)
        self._why_none = why

    def _forget(self, key: tuple[int, frozenset[Any]]) -> None:
        if key in self._kept:
            self._kept.pop(key).session.close()

    def _renew(self, key: tuple[int, frozenset[Any]], model: Model) -> str | None:
        """Make the kept model into another one in place, or say why that cannot be."""
        kept, stage = self._kept.get(key), key[0]
        if kept is None:
            return self._why_missing(stage)
        if difference := structural_difference(kept.model, model, stage):
            return f"{_listed(kept.unheard) or 'an earlier stage'} changed {difference}"
        same = kept.model is model or np.array_equal(kept.model.matrix.data, model.matrix.data)
        kept.session.change(
            c=model.stages[stage].c,
            matrix=None if same else model.matrix,
            row_lower=model.row_lower,
            row_upper=model.row_upper,
            column_lower=model.column_lower,
            column_upper=model.column_upper,
            names=model,
        )
        kept.changed |= kept.model is not model
        kept.model, kept.unheard = model, []
        return None

    def _why_missing(self, stage: int) -> str:
        """Why there is no model of a stage yet."""
        if stage in self._why_gone:
            return self._why_gone.pop(stage)
        if any(number == stage for number, _ in self._kept):
            return "the bound left a gap, which other settings may close"
        return f"stage {stage + 1} is solved for the first time" if self._kept else self._why_none


def structural_difference(old: Model, new: Model, stage: int = 0) -> str | None:
    """What tells two models apart that no change of numbers can bridge, or None.

    Parameters
    ----------
    old, new : Model
        The models.
    stage : int
        Whose objective matters.
    """
    if old is new:
        return None
    for what in ("columns", "rows"):
        if name := _other_block(getattr(old, what), getattr(new, what)):
            return f"which {name} {what} there are"
    if not np.array_equal(old.integer, new.integer):
        return "which columns are whole"
    if not _same_places(old.matrix, new.matrix):
        return f"which coefficients {_listed(_other_rows(old, new))} rows have"
    if not _same_quadratic(old.stages[stage].q, new.stages[stage].q):
        return "the quadratic objective"
    return None


def _other_block(old: Mapping[str, Block], new: Mapping[str, Block]) -> str | None:
    """Name of the first block that two models do not have in common."""
    for a, b in zip(old.values(), new.values(), strict=False):
        if a.name != b.name or a.codes.keys() != b.codes.keys() or a.size != b.size:
            return b.name
        if not all(np.array_equal(a.codes[axis], b.codes[axis]) for axis in a.codes):
            return b.name
    longer = max(old, new, key=len)
    return None if len(old) == len(new) else list(longer)[min(len(old), len(new))]


def _same_places(a: Any, b: Any) -> bool:
    return np.array_equal(a.indptr, b.indptr) and np.array_equal(a.indices, b.indices)


def _other_rows(old: Model, new: Model) -> list[str]:
    """Names of the blocks of rows whose coefficients stand in other places."""
    return [
        name
        for name, block in new.rows.items()
        if not _same_places(old.matrix[block.slice], new.matrix[block.slice])
    ]


def _same_quadratic(a: Any, b: Any) -> bool:
    if a is None or b is None:
        return a is b
    return bool(a.shape == b.shape and (a != b).nnz == 0)


def _listed(names: Iterable[str]) -> str:
    """``a``, ``a and b``, ``a, b and c``."""
    *most, last = [*names] or [""]
    return f"{', '.join(most)} and {last}" if most else last
