"""What sessions do with coefficients, and with costs and sides that change together."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse
from solvers.models import INF, model_of

from greenopt.errors import SolverError
from greenopt.model import Block, Model, StageObjective
from greenopt.solvers import RawResult, Session, Termination, solve_model

PROPERTY = settings(max_examples=150, deadline=None, derandomize=True)


def changed(model: Model, **parts: Any) -> Model:
    """A model with other arrays; `c` is that of its one stage."""
    if "c" in parts:
        parts["stages"] = (StageObjective(parts.pop("c"), 0.0),)
    return Model(**{**model.__dict__, **parts})


def tell(session: Session, model: Model, matrix: bool) -> RawResult:
    """Change everything of a session and solve."""
    session.change(
        c=model.stages[0].c,
        matrix=model.matrix if matrix else None,
        row_lower=model.row_lower,
        row_upper=model.row_upper,
        column_lower=model.column_lower,
        column_upper=model.column_upper,
    )
    return session.solve()


def random_model(rng: np.random.Generator, places: Any) -> Model:
    """A model with coefficients in given places; some have no plan, some no bound."""
    m, n = places.shape
    lower = np.where(rng.random(m) < 0.5, -INF, rng.uniform(-3, 2, m))
    upper = np.where(np.isinf(lower) | (rng.random(m) < 0.5), rng.uniform(2, 6, m), INF)
    high = np.where(rng.random(n) < 0.1, INF, rng.uniform(0, 4, n))
    values = np.where(places, rng.uniform(0.5, 2, (m, n)) * rng.choice([-1, 1], (m, n)), 0)
    return model_of(rng.uniform(-2, 3, n), values, lower, upper, 0.0, high)


@PROPERTY
@given(seed=st.integers(0, 100_000), matrix=st.booleans())
@pytest.mark.parametrize("solver", ["highs", "highs-simplex"])
@pytest.mark.parametrize("patience", [0, 1000])
def test_costs_sides_and_coefficients_together(
    patience: int, solver: str, seed: int, matrix: bool
) -> None:
    """Any sequence of changes ends as a fresh solve does, by the dual simplex and by the primal."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("greenopt.solvers.highs.LEAST_PATIENCE", patience)
        change_and_compare(solver, seed, matrix)


def change_and_compare(solver: str, seed: int, matrix: bool) -> None:
    """Draw a model and changes of it, and compare each solve with a fresh one."""
    rng = np.random.default_rng(seed)
    places = rng.random((int(rng.integers(1, 6)), int(rng.integers(1, 7)))) < 0.6
    model = random_model(rng, places)
    with Session(model, solver=solver) as session:
        session.solve()
        for _ in range(5):
            other = random_model(rng, places)
            parts = ["c"] * (rng.random() < 0.7) + ["sides"] * (rng.random() < 0.7)
            if "c" in parts:
                model = changed(model, c=other.stages[0].c)
            if "sides" in parts:
                model = changed(
                    model, row_lower=other.row_lower, row_upper=other.row_upper,
                    column_upper=other.column_upper,
                )  # fmt: skip
            if matrix and rng.random() < 0.5:
                model = changed(model, matrix=other.matrix)
            result, fresh = tell(session, model, matrix), solve_model(model)
            assert result.termination == fresh.termination
            if fresh.termination == Termination.OPTIMAL:
                assert result.x is not None
                assert fresh.x is not None
                stage = model.stages[0]
                assert stage.value(result.x) == pytest.approx(stage.value(fresh.x), abs=1e-6)
                assert result.row_dual is not None
                if np.isinf(model.column_upper).any():
                    continue  # where rounding of a reduced cost leaves no bound
                bound = stage.bound(model, result.x, result.row_dual)
                assert bound == pytest.approx(stage.value(fresh.x), abs=1e-6)


def transport(rng: np.random.Generator, n: int = 20) -> Model:
    """Many equal ways from sources to sinks, at random costs."""
    rows, columns = [], []
    for i in range(n):
        for j in range(n):
            rows += [i, n + j]
            columns += [n * i + j] * 2
    matrix = sparse.coo_array((np.ones(2 * n * n), (rows, columns))).toarray()
    upper = np.concatenate([rng.uniform(2, 3, n), rng.uniform(1, 2, n)])
    lower = np.concatenate([np.full(n, -INF), upper[n:]])
    return model_of(rng.uniform(1, 2, n * n), matrix, lower, upper, 0.0, 4.0)


def test_from_dual_to_primal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the dual simplex takes long after new costs, the primal takes over and stays."""
    monkeypatch.setattr("greenopt.solvers.highs.LEAST_PATIENCE", 1)
    monkeypatch.setattr("greenopt.solvers.highs.PATIENCE", 0.0)
    rng = np.random.default_rng(0)
    model = transport(rng)
    with Session(model) as session:
        session.solve()
        program = session._host._program  # type: ignore[union-attr]
        assert not program._by_primal
        for _ in range(3):
            near = 1 + 0.05 * rng.standard_normal(len(model.stages[0].c))
            model = changed(model, c=model.stages[0].c * near, row_upper=model.row_upper * 1.01)
            result, fresh = tell(session, model, False), solve_model(model)
            assert program._by_primal
            assert result.counts["simplex_iterations"] > 1
            assert result.x is not None
            assert fresh.x is not None
            stage = model.stages[0]
            assert stage.value(result.x) == pytest.approx(stage.value(fresh.x), rel=1e-9)
            np.testing.assert_array_equal(
                np.array(program._highs.getLp().col_cost_), session._task.scaled.c
            )


@pytest.mark.parametrize("isolation", ["in-process", "worker"])
@pytest.mark.parametrize("what", ["costs", "sides", "both", "coefficients"])
def test_changes_go_on_from_the_basis(what: str, isolation: str) -> None:
    """A small change takes far fewer iterations than a fresh solve."""
    rng = np.random.default_rng(0)
    model = transport(rng)
    near = 1 + 0.01 * rng.standard_normal(len(model.stages[0].c))
    with Session(model, isolation=isolation) as session:
        first = session.solve()
        if what in {"costs", "both"}:
            model = changed(model, c=model.stages[0].c * near)
        if what in {"sides", "both"}:
            model = changed(model, row_upper=model.row_upper * 1.001)
        if what == "coefficients":
            matrix = model.matrix.copy()
            matrix.data[: 20 * 20] *= 0.999
            model = changed(model, matrix=matrix)
        result = tell(session, model, what == "coefficients")
        fresh = solve_model(model)
        assert result.x is not None
        assert fresh.x is not None
        stage = model.stages[0]
        assert stage.value(result.x) == pytest.approx(stage.value(fresh.x), rel=1e-9)
        assert result.counts["simplex_iterations"] < 0.5 * first.counts["simplex_iterations"]


def test_coefficients_in_other_places_are_refused() -> None:
    """A session knows where its coefficients are."""
    model = model_of([-1, -1], [[1, 0], [1, 1]], [-INF, -INF], [1, 3], 0, 4.0)
    other = model_of([-1, -1], [[1, 1], [0, 1]], [-INF, -INF], [1, 3], 0, 4.0)
    with Session(model) as session:
        assert session.solve().x is not None
        with pytest.raises(SolverError, match="coefficients in other places; make a new session"):
            session.change(matrix=other.matrix)
        bad = model.matrix.copy()
        bad.data[0] = np.nan
        with pytest.raises(SolverError, match="not finite"):
            session.change(matrix=bad)
        assert session.solve().termination == Termination.OPTIMAL


def test_names_may_change() -> None:
    """Messages use the names of the model given last."""
    model = model_of([-1], [[1]], [-INF], [1], 0, 4.0)
    block = Block("other", model.columns["x"].codes, 0, 1)
    with Session(model) as session:
        session.change(names=changed(model, columns={"other": block}))
        assert session._model.columns["other"].size == 1
        assert session.solve().termination == Termination.OPTIMAL
