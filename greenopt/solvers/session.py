"""A model that stays in a solver, is changed in place and solved again from where it ended."""

from __future__ import annotations

import itertools
import time
import weakref
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
from scipy import sparse

from greenopt.errors import SolverError
from greenopt.labelled import FloatArray
from greenopt.model import Model
from greenopt.solvers import points
from greenopt.solvers.judging import judge
from greenopt.solvers.oneshot import refuse_senseless, refuse_unusable, repair_limit_s
from greenopt.solvers.registry import SolverInfo, find
from greenopt.solvers.remote import Worker, WorkerLost, pool
from greenopt.solvers.running import backend, log_line, lost_answer, runs_in_worker, verbose
from greenopt.solvers.scaling import Scaled, scale
from greenopt.solvers.task import DUAL_TOLERANCE, Basis, Change, Line, RawResult, Task

LOST = "the solver's process was lost; the model was built again"
"""Note of a result whose session had to start anew."""

_keys = itertools.count()


class Session:
    """A model inside HiGHS. Changes cost what they change; the last basis is where it goes on.

    Parameters
    ----------
    model : Model
        What to solve. Its scaling is kept whatever changes.
    stage : int
        Which objective.
    solver : str
        A solver whose `SolverInfo.session` is true.
    isolation : str
        As for `solve_model`.
    gap, relax, threads, seed, spread, dual_tolerance
        As for `solve_model`.

    Raises
    ------
    SolverError
        For an unusable solver, or a model it would not solve as it stands.
    """

    def __init__(
        self,
        model: Model,
        stage: int = 0,
        *,
        solver: str = "highs",
        isolation: str = "auto",
        gap: float = 1e-6,
        relax: bool = False,
        threads: int = 1,
        seed: int = 0,
        spread: float = 1e6,
        dual_tolerance: float = DUAL_TOLERANCE,
    ) -> None:
        info, objective = find(solver), model.stages[stage]
        if not info.session:
            raise SolverError(f"{solver} keeps no model between solves; use highs")
        refuse_unusable(model, stage, info, relax)
        runs_in_worker(info, isolation)  # refuses what cannot be
        self._model, self._stage, self._info, self._isolation = model, stage, info, isolation
        scaled = scale(model, objective.c, spread, objective.q, relax)
        self._task = Task(
            scaled,
            info.algorithm,
            gap=gap,
            dual_tolerance=dual_tolerance,
            threads=threads,
            seed=seed,
            verbose=verbose(),
        )
        self._host: _Host | None = None
        self._closed = False

    def change(
        self,
        *,
        c: FloatArray | None = None,
        matrix: Any = None,
        row_lower: FloatArray | None = None,
        row_upper: FloatArray | None = None,
        column_lower: FloatArray | None = None,
        column_upper: FloatArray | None = None,
        relax: bool | None = None,
        names: Model | None = None,
    ) -> None:
        """Change the model; only what differs goes to the solver.

        Parameters
        ----------
        c, row_lower, row_upper, column_lower, column_upper : ndarray, optional
            Whole arrays in the model's own units.
        matrix : scipy.sparse.csr_array, optional
            Other coefficients in the places of the old ones.
        relax : bool, optional
            Drop integrality, or demand it again.
        names : Model, optional
            A model of the same blocks whose labels stand in messages from now on.

        Raises
        ------
        SolverError
            For arrays of the wrong length or with entries that make no sense.
        """
        old = self._task.scaled
        given = {
            "c": (c, old.column * old.objective),
            "row_lower": (row_lower, old.row),
            "row_upper": (row_upper, old.row),
            "column_lower": (column_lower, 1 / old.column),
            "column_upper": (column_upper, 1 / old.column),
        }
        arrays: dict[str, Any] = {
            name: _scaled(name, values, factor)
            for name, (values, factor) in given.items()
            if values is not None
        }
        if relax is not None:
            arrays["integer"] = np.zeros_like(old.integer) if relax else self._model.integer
        if matrix is not None:
            arrays["matrix"] = _scaled_matrix(matrix, old)
        self._model = names or self._model
        new = replace(old, **arrays)
        refuse_senseless(
            new.matrix.data,
            new.c,
            (new.row_lower, new.row_upper),
            (new.column_lower, new.column_upper),
        )
        self._task = replace(self._task, scaled=new)
        if self._host is not None:
            self._host.pending.append(_difference(old, new))

    def solve(self, time_limit_s: float = float("inf")) -> RawResult:
        """Solve what the model is now.

        Parameters
        ----------
        time_limit_s : float
            Wall-clock limit of this run, s.
        """
        self._refuse_closed()
        until = time.perf_counter() + time_limit_s
        host, notes = self._ready(time_limit_s)
        line = log_line()
        try:
            answer = host.run(line, time_limit_s)
        except WorkerLost as lost:
            answer = lost_answer(lost, host.version)
        return judge(
            self._model,
            self._task.scaled,
            self._info,
            answer,
            incumbent=line.incumbent,
            repair=partial(self._repair, until),
            gap=self._task.gap,
            remote=host.remote,
            notes=notes,
        )

    def basis(self) -> Basis | None:
        """Where columns and rows stand after the last solve; None without a basis."""
        self._refuse_closed()
        if self._host is None or not self._host.alive:
            return None
        try:
            return self._host.basis()
        except WorkerLost:
            return None

    def close(self) -> None:
        """Let the solver's memory go."""
        self._closed = True
        if self._host is not None:
            self._host.close()
            self._host = None

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _refuse_closed(self) -> None:
        if self._closed:
            raise SolverError("this session is closed")

    def _ready(self, time_limit_s: float) -> tuple[_Host, tuple[str, ...]]:
        """The host with every change made, a new one if need be."""
        must_stop = self._task.scaled.is_integer and bool(np.isfinite(time_limit_s))
        remote = runs_in_worker(self._info, self._isolation, must_stop)
        host, notes = self._host, list[str]()
        if host is not None and host.alive and (host.remote or not remote):
            try:
                host.apply()
                return host, ()
            except WorkerLost:
                pass
        if host is not None:
            lost = host.remote
            notes.append(LOST if lost else "moved to a worker process, which can be stopped")
            host.close()
        self._host = _Remote(self._info, self._task) if remote else _Local(self._info, self._task)
        return self._host, tuple(notes)

    def _repair(self, until: float, whole: FloatArray) -> FloatArray | None:
        """The best continuous part to integers that rounding has moved, or None.

        Whatever happens on the way, the next solve is one of the model itself again.
        """
        kept = self._task.scaled
        fixed = points.held(kept, np.where(kept.integer, whole, np.nan))
        try:
            host, _ = self._ready(float("inf"))
            try:
                host.pending.append(_difference(kept, fixed))
                host.apply()
                x: FloatArray | None = host.run(log_line(), repair_limit_s(until)).x
            finally:
                host.pending.append(_difference(fixed, kept))
        except WorkerLost:
            return None
        return x


def _scaled(name: str, values: FloatArray, factor: FloatArray) -> FloatArray:
    array = np.asarray(values, dtype=float)
    if array.shape != factor.shape:
        raise SolverError(f"{name} has shape {array.shape}, expected {factor.shape}")
    return array * factor


def _scaled_matrix(matrix: Any, old: Scaled) -> Any:
    """The matrix as the model was scaled."""
    row, column = sparse.diags_array(old.row), sparse.diags_array(old.column)
    new = sparse.csc_array(row @ (matrix @ column))
    places = (new.indptr, old.matrix.indptr), (new.indices, old.matrix.indices)
    if not all(np.array_equal(a, b) for a, b in places):
        raise SolverError("the matrix has coefficients in other places; make a new session")
    return new


def _difference(old: Scaled, new: Scaled) -> Change:
    """What turns one model into another with coefficients in the same places."""
    if new.matrix is not old.matrix:
        return Change(whole=new)
    costs = _positions((old.c, new.c))
    columns = _positions((old.column_lower, new.column_lower), (old.column_upper, new.column_upper))
    rows = _positions((old.row_lower, new.row_lower), (old.row_upper, new.row_upper))
    return Change(
        (costs, new.c[costs]) if len(costs) else None,
        (columns, new.column_lower[columns], new.column_upper[columns]) if len(columns) else None,
        (rows, new.row_lower[rows], new.row_upper[rows]) if len(rows) else None,
        None if (old.integer == new.integer).all() else new.integer,
    )


def _positions(*pairs: tuple[FloatArray, FloatArray]) -> Any:
    differs = np.zeros(len(pairs[0][0]), dtype=bool)
    for old, new in pairs:
        differs |= old != new
    return np.flatnonzero(differs).astype(np.int32)


class _Host:
    """Where the model lives, and the changes it has not heard of yet."""

    remote = False
    alive = True
    version = ""

    def __init__(self) -> None:
        self.pending: list[Change] = []

    def apply(self) -> None:
        """Make the changes."""
        while self.pending:
            self.make(self.pending[0])
            self.pending.pop(0)

    def make(self, change: Change) -> None:
        raise NotImplementedError

    def run(self, line: Line, time_limit_s: float) -> Any:
        raise NotImplementedError

    def basis(self) -> Basis | None:
        raise NotImplementedError

    def close(self) -> None:
        raise NotImplementedError


class _Local(_Host):
    """In this process."""

    def __init__(self, info: SolverInfo, task: Task) -> None:
        super().__init__()
        self._program = backend(info).Program(task, log_line())

    def make(self, change: Change) -> None:
        self._program.change(change)

    def run(self, line: Line, time_limit_s: float) -> Any:
        return self._program.run(time_limit_s, line)

    def basis(self) -> Basis | None:
        found: Basis | None = self._program.basis()
        return found

    def close(self) -> None:
        self._program.close()


class _Remote(_Host):
    """In a worker that nobody else uses meanwhile."""

    remote = True

    def __init__(self, info: SolverInfo, task: Task) -> None:
        super().__init__()
        self._key = next(_keys)
        self._worker = pool.borrow(info.module)
        self.version = self._worker.version
        # A session that is forgotten, not closed, gives its worker back all the same.
        self._release = weakref.finalize(self, _give_back, self._worker, self._key)
        self._call("open", task)

    @property
    def alive(self) -> bool:  # type: ignore[override]
        """Whether the worker is still there."""
        return self._worker.alive

    def make(self, change: Change) -> None:
        self._call("change", change)

    def run(self, line: Line, time_limit_s: float) -> Any:
        return self._worker.call(line, time_limit_s, "run", self._key, time_limit_s)

    def basis(self) -> Basis | None:
        found: Basis | None = self._call("basis")
        return found

    def close(self) -> None:
        self._release()

    def _call(self, word: str, *arguments: Any) -> Any:
        return self._worker.call(log_line(), float("inf"), word, self._key, *arguments)


def _give_back(worker: Worker, key: int) -> None:
    """Drop the model from a worker and let others have it."""
    try:
        if worker.alive:
            worker.call(log_line(), 5.0, "close", key)
    except (WorkerLost, SolverError):
        pass
    pool.give_back(worker)
