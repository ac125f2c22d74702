"""Integer models that fall into independent parts."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import sparse
from solvers.models import INF, model_of
from solvers.test_enumeration import optimum, random_program

from greenopt.model import Model
from greenopt.solvers import Termination, solve_model, splitting
from greenopt.solvers.scaling import scale


@pytest.fixture(autouse=True)
def _every_part_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small models are split too."""
    monkeypatch.setattr(splitting, "LEAST_COLUMNS", 1)


def side_by_side(models: list[Model], rng: np.random.Generator) -> Model:
    """One model of several that share nothing, columns and rows shuffled."""
    matrix = sparse.block_diag([m.matrix for m in models]).toarray()
    rows, columns = (rng.permutation(n) for n in matrix.shape)

    def joined(name: str, order: np.ndarray) -> np.ndarray:
        return np.concatenate([getattr(m, name) for m in models])[order]

    c = np.concatenate([m.stages[0].c for m in models])[columns]
    return model_of(
        c, matrix[np.ix_(rows, columns)], joined("row_lower", rows), joined("row_upper", rows),
        joined("column_lower", columns), joined("column_upper", columns),
        joined("integer", columns),
    )  # fmt: skip


@pytest.mark.parametrize("solver", ["highs", "cp-sat", "scip", "scip-minlp"])
@pytest.mark.parametrize("seed", range(12))
def test_parts_add_up(solver: str, seed: int) -> None:
    """The optimum of a shuffled union is the sum of the enumerated optima, and so is the bound."""
    rng = np.random.default_rng(seed)
    models = [random_program(1000 * seed + i, mixed=False) for i in range(5)]
    best = [optimum(m) for m in models]
    raw = solve_model(side_by_side(models, rng), solver=solver, gap=0.0)
    if np.isinf(sum(best)):
        assert raw.termination == Termination.INFEASIBLE
        assert raw.x is None
        return
    assert raw.termination == Termination.OPTIMAL
    model = side_by_side(models, np.random.default_rng(seed))
    assert model.stages[0].c @ raw.x == pytest.approx(sum(best), abs=1e-6)
    assert raw.tree_bound == pytest.approx(sum(best), abs=1e-5)
    assert "independent parts" in raw.message


def test_parts_are_found() -> None:
    """Columns without rows and rows without columns belong to some part, and nothing is lost."""
    matrix = np.zeros((5, 6))
    matrix[0, [0, 3]] = matrix[1, [3, 4]] = matrix[2, 1] = 1.0
    model = model_of(np.ones(6), matrix, [0] * 5, [9] * 5, 0, 3.0, True)
    parts = splitting.independent_parts(scale(model, model.stages[0].c))
    columns = sorted(tuple(int(j) for j in c) for c, _ in parts)
    assert (0, 3, 4) in columns
    assert sorted(j for c in columns for j in c) == list(range(6))
    assert sorted(int(i) for _, rows in parts for i in rows) == list(range(5))


def test_an_empty_row_that_cannot_hold() -> None:
    """A row without columns that asks for something makes the whole infeasible."""
    model = model_of([1, 1], [[1, 0], [0, 1], [0, 0]], [1, 1, 1], [INF] * 3, 0, 3.0, True)
    assert solve_model(model).termination == Termination.INFEASIBLE


def test_start_is_cut_to_the_parts() -> None:
    """A start of the whole is accepted, and the result is the optimum."""
    model = model_of(
        [-1, -2, -3], [[2, 0, 0], [0, 3, 0], [0, 0, 4]], [-INF] * 3, [5, 7, 9], 0, 9.0, True
    )
    raw = solve_model(model, start=np.array([1.0, 1.0, 1.0]), gap=0.0)
    assert raw.start is not None
    assert raw.start.accepted
    assert raw.x.tolist() == [2, 2, 2]


def test_one_part_stays_whole() -> None:
    """A model that hangs together is solved as it is."""
    model = model_of([-1, -1], [[1, 1]], [-INF], [3.5], 0, 9.0, True)
    assert "independent parts" not in solve_model(model).message


def test_parts_without_integers_have_a_bound_too() -> None:
    """One part is a linear program; the bound of the whole is the optimum all the same."""
    model = model_of(
        [-1, -1, -1], [[2, 0, 0], [0, 3, 1]], [-INF] * 2, [5, 7], 0, 9.0, [True, False, False]
    )
    raw = solve_model(model, gap=0.0)
    assert raw.termination == Termination.OPTIMAL
    assert raw.tree_bound == pytest.approx(-9.0)


def test_parts_that_cancel_still_close_the_gap_asked_for() -> None:
    """Gains and losses that nearly cancel are searched further than each gap says."""
    rng = np.random.default_rng(3)
    models = []
    for part in range(8):
        weights = rng.integers(20, 60, 14).astype(float)
        c = weights * rng.uniform(0.9, 1.1, 14)
        room = 0.45 * weights.sum()
        gain = part % 2 == 0
        bounds = ([-INF], [room]) if gain else ([room], [INF])
        models.append(model_of(-c if gain else c, weights[None], *bounds, 0, 1.0, True))
    model = side_by_side(models, rng)
    raw = solve_model(model, gap=1e-2)
    value = float(model.stages[0].c @ raw.x)
    assert raw.termination == Termination.OPTIMAL
    assert value - raw.tree_bound <= 1e-2 * abs(value) + 1e-6


@pytest.mark.parametrize("solver", ["highs", "scip", "scip-minlp"])
@pytest.mark.parametrize("first", ["unbounded", "infeasible"])
def test_infeasible_is_infeasible_in_any_order(solver: str, first: str) -> None:
    """A part without a point decides, also after a part without a bound."""
    free = model_of([-1], [[1]], [0], [INF], 0, INF, True)
    none = model_of([1], [[2]], [1], [1], 0, 9.0, True)
    models = [free, none] if first == "unbounded" else [none, free]
    matrix = sparse.block_diag([m.matrix for m in models]).toarray()
    joined = {
        name: np.concatenate([getattr(m, name) for m in models])
        for name in ("row_lower", "row_upper", "column_lower", "column_upper")
    }
    c = np.concatenate([m.stages[0].c for m in models])
    model = model_of(
        c, matrix, joined["row_lower"], joined["row_upper"],
        joined["column_lower"], joined["column_upper"], True,
    )  # fmt: skip
    assert solve_model(model, solver=solver).termination == Termination.INFEASIBLE


def test_too_little_time_for_parts_is_spent_on_the_whole() -> None:
    """With less than a share a part, the model is not split."""
    models = [random_program(i, mixed=False) for i in (2, 4, 5)]
    raw = solve_model(side_by_side(models, np.random.default_rng(0)), time_limit_s=0.5)
    assert "independent parts" not in raw.message
