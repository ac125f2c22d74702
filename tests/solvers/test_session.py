"""Sessions: in-place changes give what a fresh solve gives, only sooner."""

from __future__ import annotations

import os
import signal
import threading
import time
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from solvers.models import CASES, INF, big_lp, market_split, model_of, random_lp

from greenopt.errors import SolverError
from greenopt.model import Model, StageObjective
from greenopt.solvers import SOLVERS, Basis, Session, solve_model
from greenopt.solvers.session import LOST

ISOLATIONS = ("in-process", "worker")


def changed(model: Model, c: Any, lower: Any, upper: Any, low: Any, high: Any) -> Model:
    """The model that a session stands for after changes."""
    return replace(
        model, stages=(StageObjective(c, 0.0),), row_lower=lower, row_upper=upper,
        column_lower=low, column_upper=high,
    )  # fmt: skip


@pytest.mark.parametrize("isolation", ISOLATIONS)
@pytest.mark.parametrize("seed", range(15))
def test_changes_against_fresh_solves(seed: int, isolation: str) -> None:
    """Random sequences of changes: the same ends and values as solving each model anew."""
    rng, model = np.random.default_rng(seed), random_lp(seed)
    n, m = len(model.integer), len(model.row_lower)
    c, lower, upper = model.stages[0].c, model.row_lower, model.row_upper
    low, high = model.column_lower, model.column_upper
    with Session(model, isolation=isolation) as session:
        for _ in range(8):
            kind = rng.integers(0, 3)
            if kind == 0:
                c = c * rng.uniform(0.5, 2, n)
                session.change(c=c)
            elif kind == 1:
                shift = rng.normal(0, 0.1, m) * np.where(np.isfinite(lower), np.abs(lower), 1.0)
                lower, upper = lower + shift, upper + shift
                session.change(row_lower=lower, row_upper=upper)
            else:
                high = high * rng.uniform(0.8, 1.2, n)
                low = np.minimum(low, high)
                session.change(column_lower=low, column_upper=high)
            raw = session.solve()
            fresh = solve_model(changed(model, c, lower, upper, low, high))
            assert raw.termination == fresh.termination
            if fresh.x is not None:
                assert raw.x is not None
                size = max(1.0, float(np.abs(c * fresh.x).sum()))
                assert c @ raw.x == pytest.approx(c @ fresh.x, abs=1e-6 * size)


@pytest.mark.parametrize("isolation", ISOLATIONS)
@pytest.mark.parametrize("case", [c for c in CASES if c.model.integer.any()], ids=lambda c: c.name)
def test_relaxing_and_back(case: Any, isolation: str) -> None:
    """Integrality dropped and demanded again gives the relaxation and the integer program."""
    model = case.model
    if model.stages[0].q is not None:
        with pytest.raises(SolverError, match="scip-minlp"):
            Session(model, isolation=isolation)
        return
    relaxed = solve_model(model, relax=True)
    with Session(model, isolation=isolation, gap=0.0) as session:
        for _ in range(2):
            whole = session.solve()
            assert whole.termination == case.status
            if case.status == "optimal":
                assert model.stages[0].value(whole.x) == pytest.approx(case.objective)
                assert whole.tree_bound == pytest.approx(case.objective)
                assert whole.row_dual is None
            session.change(relax=True)
            loose = session.solve()
            assert loose.termination == relaxed.termination
            if relaxed.x is not None:
                value = model.stages[0].value(relaxed.x)
                assert model.stages[0].value(loose.x) == pytest.approx(value)
                assert loose.row_dual is not None
            session.change(relax=False)


@pytest.mark.parametrize("isolation", ISOLATIONS)
def test_goes_on_from_the_last_basis(isolation: str) -> None:
    """Solved again, nothing is left to do; after a small change, little."""
    model = big_lp(5)
    with Session(model, isolation=isolation) as session:
        first = session.solve()
        assert session.solve().counts["simplex_iterations"] == 0
        c = model.stages[0].c.copy()
        c[:5] *= 1.5
        session.change(c=c)
        again = session.solve()
        assert again.counts["simplex_iterations"] < first.counts["simplex_iterations"] / 4
        assert again.where == isolation


@pytest.mark.parametrize("isolation", ISOLATIONS)
def test_basis_is_that_of_the_optimum(isolation: str) -> None:
    """Basic columns and rows make a nonsingular square; the rest is at the bounds it says."""
    model = random_lp(11)
    with Session(model, isolation=isolation) as session:
        assert session.basis() is None
        raw = session.solve()
        basis = session.basis()
    assert raw.x is not None
    assert isinstance(basis, Basis)
    assert basis.column.dtype == basis.row.dtype == np.int8
    n, m = len(model.integer), len(model.row_lower)
    assert (basis.column == Basis.BASIC).sum() + (basis.row == Basis.BASIC).sum() == m
    square = np.hstack([model.matrix.toarray(), -np.eye(m)])
    chosen = np.concatenate([basis.column, basis.row]) == Basis.BASIC
    assert np.linalg.matrix_rank(square[:, chosen]) == m
    at_lower, at_upper = basis.column == Basis.LOWER, basis.column == Basis.UPPER
    assert raw.x[at_lower] == pytest.approx(model.column_lower[at_lower])
    assert raw.x[at_upper] == pytest.approx(model.column_upper[at_upper])
    assert len(basis.column) == n


def test_lost_worker_is_replaced() -> None:
    """The next call builds the model again, with every change, and says so."""
    model = big_lp(6)
    with Session(model, isolation="worker") as session:
        session.solve()
        kill(session)
        assert session.basis() is None
        raw = session.solve()
        assert raw.termination == "optimal"
        assert raw.notes == (LOST,)
        c = model.stages[0].c[::-1].copy()
        session.change(c=c)
        kill(session)
        raw = session.solve()
        assert raw.notes == (LOST,)
        best = solve_model(replace(model, stages=(StageObjective(c, 0.0),))).x
        assert raw.x is not None
        assert best is not None
        assert c @ raw.x == pytest.approx(c @ best)
        assert session.solve().notes == ()


def kill(session: Session) -> None:
    """End a session's worker from outside."""
    process = session._host._worker._process  # type: ignore[union-attr]
    os.kill(process.pid, signal.SIGKILL)
    process.wait()


def test_worker_killed_during_a_solve() -> None:
    """A session whose worker is killed under it reports an error, then recovers."""
    model = market_split(3)
    with Session(model, isolation="worker") as session:
        session.change(relax=True)
        session.solve()
        session.change(relax=False)
        threading.Timer(0.4, lambda: kill(session)).start()
        raw = session.solve()
        assert raw.termination == "error"
        assert "SIGKILL" in raw.message
        session.change(relax=True)
        raw = session.solve()
        assert raw.termination == "optimal"
        assert raw.notes == (LOST,)


def test_integer_session_with_a_limit_can_be_killed() -> None:
    """A limit on an integer program moves the session into a worker, once, and says so."""
    with Session(market_split(5)) as session:
        session.change(relax=True)
        assert session.solve(5.0).where == "in-process"
        session.change(relax=False)
        started = time.perf_counter()
        raw = session.solve(0.3)
        assert raw.termination == "limit"
        assert raw.where == "worker"
        assert raw.notes
        assert time.perf_counter() - started < 5.0


def test_arrays_must_fit() -> None:
    """Wrong lengths and senseless numbers are refused and change nothing."""
    model = model_of([1.0, 2.0], [[1.0, 1.0]], [1.0], [INF], 0.0, 5.0)
    with Session(model) as session:
        for change in (
            {"c": np.zeros(3)},
            {"row_lower": np.zeros(2)},
            {"column_upper": np.array([1.0, np.nan])},
            {"c": np.array([1.0, INF])},
        ):
            with pytest.raises(SolverError):
                session.change(**change)
        assert session.solve().x == pytest.approx([1.0, 0.0])


def test_only_solvers_that_keep_models() -> None:
    """Others are refused, and a closed session is closed."""
    model = CASES[0].model
    for name, info in SOLVERS.items():
        if info.session:
            with Session(model, solver=name) as session:
                assert session.solve().termination == "optimal"
            with pytest.raises(SolverError, match="closed"):
                session.solve()
        else:
            with pytest.raises(SolverError, match=r"use highs|continuous"):
                Session(model, solver=name)


def test_forgotten_session_gives_its_worker_back() -> None:
    """A session that is dropped without being closed leaves no worker behind."""
    import gc

    from greenopt.solvers.remote import pool

    session = Session(CASES[0].model, isolation="worker")
    session.solve()
    worker = session._host._worker  # type: ignore[union-attr]
    del session
    gc.collect()
    assert worker in pool._idle["greenopt.solvers.highs"] or not worker.alive


@pytest.mark.parametrize("error", [SolverError("refused"), KeyboardInterrupt()])
@pytest.mark.parametrize("isolation", ISOLATIONS)
def test_a_repair_that_fails_leaves_the_model_as_it_was(
    isolation: str, error: BaseException, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whole numbers are held for a repair only, however it ends."""
    (model,) = (case.model for case in CASES if case.name == "fixed charge")

    def fail(*_: Any) -> Any:
        raise error

    with Session(model, isolation=isolation) as session:
        assert session.solve().x == pytest.approx([3, 1])
        with monkeypatch.context() as patch:
            patch.setattr(session._host, "run", fail)
            with pytest.raises(type(error)):
                session._repair(INF, np.zeros(2))
        assert session.solve().x == pytest.approx([3, 1])
        assert session._repair(INF, np.zeros(2)) is None
        assert session.solve().x == pytest.approx([3, 1])


def test_a_repair_keeps_to_the_time_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """It has what is left of the limit, at least a second."""
    (model,) = (case.model for case in CASES if case.name == "fixed charge")
    limits: list[float] = []
    with Session(model) as session:
        session.solve()
        host = session._host
        assert host is not None
        run = host.run
        monkeypatch.setattr(host, "run", lambda line, s: limits.append(s) or run(line, s))
        for left in (0.0, 7.0, INF):
            assert session._repair(time.perf_counter() + left, np.array([0.0, 1.0])) is not None
    assert limits == pytest.approx([1.0, 7.0, 60.0], rel=0.05)
