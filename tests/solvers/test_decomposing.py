"""Linear programs that fall into parts but for a few rows, solved by column generation."""

from __future__ import annotations

import numpy as np
import pytest
from solvers.models import INF, model_of
from solvers.test_conformance import assert_kkt

from greenopt.model import Model
from greenopt.solvers import Termination, decomposing, solve_model
from greenopt.solvers.scaling import scale


@pytest.fixture(autouse=True)
def _small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small models fall apart too, and two entries in five columns make a row dense."""
    monkeypatch.setattr(decomposing, "LEAST_COLUMNS", 1)
    monkeypatch.setattr(decomposing, "DENSE", 0.4)
    monkeypatch.setattr(decomposing, "LEAST_DENSE", 1)


def blocks(seed: int, coupling: int = 2, tight: float = 0.5) -> Model:
    """Five boxes with a few rows each, held together by dense rows that bind somewhat."""
    rng = np.random.default_rng(seed)
    n_blocks, n, m = 5, 4, 2
    matrix = np.zeros((n_blocks * m, n_blocks * n))
    for b in range(n_blocks):
        matrix[b * m : (b + 1) * m, b * n : (b + 1) * n] = rng.integers(1, 6, (m, n))
    inside = rng.uniform(0.2, 0.8, n_blocks * n)
    lower = matrix @ inside * 0.9
    dense = rng.uniform(0.5, 2.0, (coupling, n_blocks * n))
    c = rng.uniform(0.5, 3.0, n_blocks * n)
    alone = solve_model(model_of(c, matrix, lower, np.full(len(lower), INF), 0, 1), solver="highs")
    assert alone.x is not None
    free, kept = dense @ alone.x, dense @ inside
    limit = kept + tight * np.maximum(free - kept, 0) + 1e-3
    return model_of(
        c,
        np.vstack([matrix, dense]),
        np.append(lower, np.full(coupling, -INF)),
        np.append(np.full(len(lower), INF), limit),
        0,
        1,
    )


@pytest.mark.parametrize("seed", range(30))
def test_same_optimum_as_the_simplex_method(seed: int) -> None:
    """The optimum of the whole model, a feasible point and multipliers that prove it."""
    model = blocks(seed, coupling=1 + seed % 4)
    raw = solve_model(model, solver="decomposition", gap=1e-9)
    whole = solve_model(model, solver="highs-simplex")
    assert raw.termination == Termination.OPTIMAL
    assert "coupling rows" in raw.message
    assert raw.x is not None
    assert raw.row_dual is not None
    stage = model.stages[0]
    assert stage.value(raw.x) == pytest.approx(stage.value(whole.x), rel=1e-8)
    assert stage.bound(model, raw.x, raw.row_dual) == pytest.approx(stage.value(raw.x), rel=1e-8)
    assert_kkt(model, raw, 1e-6)


@pytest.mark.parametrize("seed", range(10))
def test_equal_and_two_sided_coupling_rows(seed: int) -> None:
    """Coupling rows may be equations or have two sides."""
    model = blocks(seed)
    middle = model.matrix[-2:] @ np.full(20, 0.6)
    lower, upper = model.row_lower.copy(), model.row_upper.copy()
    room = np.array([0.0, 0.1])
    lower[-2:], upper[-2:] = middle - room, middle + room
    both = Model(**{**model.__dict__, "row_lower": lower, "row_upper": upper})
    raw, whole = (solve_model(both, solver=name) for name in ("decomposition", "highs"))
    assert raw.termination == whole.termination
    if whole.x is not None:
        assert raw.x is not None
        value = both.stages[0].value
        assert value(raw.x) == pytest.approx(value(whole.x), rel=1e-6)


def test_no_point_keeps_the_coupling_rows() -> None:
    """Coupling rows that no mixture keeps make the whole model infeasible, as HiGHS says too."""
    model = blocks(1)
    upper = model.row_upper.copy()
    upper[-1] = 0.01
    raw = solve_model(Model(**{**model.__dict__, "row_upper": upper}), solver="decomposition")
    assert raw.termination == Termination.INFEASIBLE
    assert raw.x is None


def test_a_part_without_points() -> None:
    """A part that has no feasible point makes the model infeasible at once."""
    model = blocks(2)
    lower = model.row_lower.copy()
    lower[0] = 1e3
    raw = solve_model(Model(**{**model.__dict__, "row_lower": lower}), solver="decomposition")
    assert raw.termination == Termination.INFEASIBLE
    assert "coupling rows" in raw.message


def test_unbounded_parts_are_left_to_highs() -> None:
    """A part whose price alone leaves it unbounded is solved with the whole model."""
    model = blocks(3)
    upper = model.column_upper.copy()
    upper[0] = INF
    c = model.stages[0].c.copy()
    c[0] = -1.0
    free = model_of(
        c, model.matrix.toarray(), model.row_lower, model.row_upper, model.column_lower, upper
    )
    raw, whole = (solve_model(free, solver=name) for name in ("decomposition", "highs"))
    assert raw.termination == whole.termination == Termination.OPTIMAL
    assert "solved whole" in raw.message
    assert free.stages[0].value(raw.x) == pytest.approx(free.stages[0].value(whole.x))


def test_out_of_time() -> None:
    """A limit that is over before the first round is an honest limit."""
    raw = solve_model(blocks(4), solver="decomposition", time_limit_s=1e-9)
    assert raw.termination == Termination.LIMIT
    assert raw.x is None


def test_parts_are_found() -> None:
    """Every column and every row that holds no parts together is in exactly one part."""
    scaled = scale(blocks(5), blocks(5).stages[0].c)
    parts = decomposing.parts_of(scaled)
    assert parts is not None
    assert parts.coupling.tolist() == [10, 11]
    assert sorted(np.concatenate(parts.columns)) == list(range(20))
    assert sorted(np.concatenate(parts.rows)) == list(range(10))
    assert len(parts.columns) == 5


def test_models_that_do_not_fall_apart() -> None:
    """One part is no part: HiGHS solves the model, and the message says so."""
    matrix = np.eye(6) + np.eye(6, k=1)
    model = model_of(np.ones(6), matrix, np.ones(6), np.full(6, INF), 0, 2)
    assert decomposing.parts_of(scale(model, model.stages[0].c)) is None
    raw = solve_model(model, solver="decomposition")
    assert raw.termination == Termination.OPTIMAL
    assert "solved whole" in raw.message
