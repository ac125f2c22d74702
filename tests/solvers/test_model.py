"""The solver layer: bounds, scaling, and the traps it must not fall into."""

from __future__ import annotations

import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse
from scipy.optimize import linprog
from solvers.models import CASES, model_of, random_lp

from greenopt.errors import SolverError
from greenopt.model import StageObjective, dual_bound
from greenopt.solvers import Termination, highs, solve_model
from greenopt.solvers.scaling import scale
from greenopt.solvers.task import Line, Task


@given(st.integers(0, 10**6))
@settings(max_examples=150, deadline=None, derandomize=True)
def test_optimum_and_own_bound_against_scipy(seed: int) -> None:
    """The optimum equals that of scipy's own HiGHS, and our weak-duality bound closes on it."""
    model = random_lp(seed)
    raw = solve_model(model)
    rows = sparse.vstack([model.matrix, -model.matrix])
    sides = np.concatenate([model.row_upper, -model.row_lower])
    kept = np.isfinite(sides)
    result = linprog(
        model.stages[0].c,
        A_ub=rows.tocsr()[kept],
        b_ub=sides[kept],
        bounds=np.column_stack([model.column_lower, model.column_upper]),
    )
    assert raw.termination == Termination.OPTIMAL
    assert raw.x is not None
    assert raw.row_dual is not None
    value = model.stages[0].c @ raw.x
    size = max(1.0, float(np.abs(model.stages[0].c * raw.x).sum()))
    assert value == pytest.approx(result.fun, abs=1e-6 * size)
    assert dual_bound(model, model.stages[0].c, raw.row_dual) == pytest.approx(
        value, abs=1e-6 * size
    )


@given(st.integers(0, 10**6))
@settings(max_examples=150, deadline=None, derandomize=True)
def test_any_multipliers_give_a_bound(seed: int) -> None:
    """Weak duality holds for arbitrary multipliers, wrong signs included."""
    model = random_lp(seed)
    raw = solve_model(model)
    assert raw.x is not None
    dual = np.random.default_rng(seed).normal(size=len(model.row_lower)) * 10
    value = model.stages[0].c @ raw.x
    assert dual_bound(model, model.stages[0].c, dual) <= value + 1e-6 * max(1.0, abs(value))


def test_bound_of_a_column_without_end_is_minus_infinity() -> None:
    """A free direction that pays gives no bound."""
    model = model_of([1.0], [[0.0]], [-np.inf], [1.0], -np.inf, np.inf)
    assert dual_bound(model, model.stages[0].c, np.zeros(1)) == -np.inf


@given(st.integers(0, 10**6))
@settings(max_examples=50, deadline=None, derandomize=True)
def test_scaling_is_exact(seed: int) -> None:
    """Scaling by powers of two and back loses not one bit."""
    model = random_lp(seed)
    scaled = scale(model, model.stages[0].c)
    back = (
        sparse.diags_array(1 / scaled.row) @ scaled.matrix @ sparse.diags_array(1 / scaled.column)
    )
    assert (back.toarray() == model.matrix.toarray()).all()
    assert (scaled.c / scaled.objective / scaled.column == model.stages[0].c).all()
    assert (scaled.column_upper * scaled.column == model.column_upper).all()
    for factors in (scaled.row, scaled.column, np.array([scaled.objective])):
        assert (np.frexp(factors)[0] == 0.5).all()


@pytest.mark.parametrize("solver", ["highs", "highs-simplex", "highs-ipm"])
def test_infeasible_and_unbounded_are_told_apart(solver: str) -> None:
    """Statuses are results, and 'unbounded or infeasible' is resolved."""
    infeasible = model_of([1.0], [[1.0]], [2.0], [np.inf], 0.0, 1.0)
    unbounded = model_of([-1.0, 0.0], [[1.0, -1.0]], [-np.inf], [1.0], 0.0, np.inf)
    assert solve_model(infeasible, solver=solver).termination == Termination.INFEASIBLE
    assert solve_model(unbounded, solver=solver).termination == Termination.UNBOUNDED


def test_time_limit_is_per_run() -> None:
    """Many runs under one limit each get all of it (HiGHS counts over the life of an object)."""
    model = random_lp(1)
    for _ in range(5):
        assert solve_model(model, time_limit_s=2.0).termination == Termination.OPTIMAL


def test_old_highs_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """A HiGHS older than 1.15.1 is not used, since it returns wrong optima."""
    monkeypatch.setattr(highs, "MINIMUM_VERSION", (99, 0, 0))
    with pytest.raises(SolverError, match=r"greenopt needs 99\.0\.0"):
        highs.load_highspy()


def test_missing_highs_is_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    """When highspy cannot be loaded the message names the known clash and the way out."""
    import sys

    monkeypatch.setitem(sys.modules, "highspy", None)
    with pytest.raises(SolverError, match="ortools"):
        highs.load_highspy()


@pytest.mark.parametrize(("lower", "expected"), [(0.0, "optimal"), (1.0, "infeasible")])
def test_model_without_columns(lower: float, expected: str) -> None:
    """Without columns a model is feasible exactly if its rows hold at zero."""
    model = model_of([], np.zeros((1, 0)), [lower], [2.0], np.zeros(0), np.zeros(0))
    assert solve_model(model).termination == expected


@pytest.mark.parametrize("kind", ["mps", "lp"])
def test_written_quadratic_models_read_back(kind: str, tmp_path: Path) -> None:
    """A quadratic term survives the way through a file."""
    (case,) = [c for c in CASES if c.name == "quadratic with mixed terms"]
    path = tmp_path / f"model.{kind}"
    highs.write_model(case.model, path, kind)
    read = highs.load_highspy().Highs()
    read.silent()
    read.readModel(str(path))
    read.run()
    assert read.getInfo().objective_function_value == pytest.approx(case.objective, abs=1e-6)


def test_quadratic_scaling_changes_nothing() -> None:
    """A quadratic model in other units has the same optimum in these units."""
    (case,) = [c for c in CASES if c.name == "quadratic with mixed terms"]
    plain, stage = case.model, case.model.stages[0]
    unit = np.array([1e3, 1e-4])
    diagonal = sparse.diags_array(unit)
    other = replace(
        plain,
        matrix=sparse.csr_array(plain.matrix @ diagonal),
        column_lower=plain.column_lower / unit,
        column_upper=plain.column_upper / unit,
        stages=(StageObjective(stage.c * unit, 0.0, diagonal @ stage.q @ diagonal),),
    )
    raw = solve_model(other)
    assert raw.x is not None
    assert raw.x * unit == pytest.approx(case.x, rel=1e-5)
    assert other.stages[0].bound(other, raw.x, raw.row_dual) == pytest.approx(0.0, abs=1e-4)


@pytest.mark.parametrize("side", [0.0, 1e-17, -3e-16])
def test_sides_of_rounding_do_not_tighten_a_row(side: float) -> None:
    """A row with a side that is zero but for rounding is scaled like one with a zero."""
    model = model_of([1.0, 1.0], [[1 / 3, -2 / 3]], [side], [side], 0.0, 5.0, True)
    assert scale(model, model.stages[0].c).row == pytest.approx([2.0])
    assert solve_model(model).x == pytest.approx([0.0, 0.0])


def test_what_solvers_get_can_travel() -> None:
    """A task is plain data: what comes out of a pickle gives the same answer, bit for bit."""
    model = random_lp(4)
    task = Task(scale(model, model.stages[0].c), "choose")
    lines = Line(lambda _: None), Line(lambda _: None)
    here, there = (
        highs.solve(task, lines[0]),
        highs.solve(pickle.loads(pickle.dumps(task)), lines[1]),
    )
    assert here.x is not None
    assert (here.x == there.x).all()
