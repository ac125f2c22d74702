"""One table of small models with known answers, against every solver that fits."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from solvers.models import CASES, INF, Case, model_of

from greenopt.errors import SolverError
from greenopt.model import Model
from greenopt.solvers import SOLVERS, RawResult, SolverInfo, solve_model
from greenopt.solvers.registry import refuse_unfit

TOLERANCE = {"pdlp": 1e-4, "highs-pdlp": 1e-4}
"""First-order methods stop earlier; everybody else is exact to rounding."""


def fits(info: SolverInfo, model: Model) -> bool:
    """Whether a solver takes a model, by its entry in the table of solvers."""
    try:
        quadratic = model.stages[0].q is not None
        refuse_unfit(info, len(model.integer), int(model.integer.sum()), quadratic)
    except SolverError:
        return False
    return True


@pytest.mark.parametrize("name", SOLVERS)
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_known_answers(case: Case, name: str) -> None:
    """The right status, value, point and multipliers, or a refusal where the solver cannot."""
    info, model = SOLVERS[name], case.model
    if not fits(info, model):
        with pytest.raises(SolverError, match="use "):
            solve_model(model, solver=name)
        return
    if name == "cp-sat" and not np.isfinite(model.column_upper).all():
        with pytest.raises(SolverError, match="cp-sat needs a bound"):
            solve_model(model, solver=name)
        return
    raw = solve_model(model, solver=name, gap=0.0)
    if name == "pdlp" and case.status == "unbounded":  # it gives up, which is no wrong claim
        assert raw.termination in ("unbounded", "error")
        return
    assert raw.termination == case.status, raw.message
    if case.status != "optimal":
        assert raw.x is None
        return
    assert raw.x is not None
    tolerance = TOLERANCE.get(name, 1e-6)
    size = max(1.0, abs(case.objective))
    assert model.stages[0].value(raw.x) == pytest.approx(case.objective, abs=tolerance * size)
    if case.x is not None:
        assert raw.x == pytest.approx(case.x, rel=tolerance * 10, abs=tolerance * 10)
    if case.dual is not None and raw.row_dual is not None:
        assert raw.row_dual == pytest.approx(case.dual, abs=tolerance * 10)
    if model.is_integer:
        assert (raw.x[model.integer] == np.round(raw.x[model.integer])).all()
        assert raw.tree_bound == pytest.approx(case.objective, abs=1e-6 * size)
    elif info.duals:
        assert_kkt(model, raw, tolerance)
    assert raw.version
    assert raw.program == info.program


def assert_kkt(model: Model, raw: RawResult, tolerance: float) -> None:
    """Feasibility, signs and complementarity of multipliers, stationarity, and no gap in a box."""
    assert raw.x is not None
    assert raw.row_dual is not None
    stage, x, dual = model.stages[0], raw.x, raw.row_dual
    gradient = stage.c if stage.q is None else stage.c + stage.q @ x
    assert_leaning(dual, model.matrix @ x, model.row_lower, model.row_upper, tolerance)
    reduced = gradient - model.matrix.T @ dual
    assert_leaning(reduced, x, model.column_lower, model.column_upper, tolerance)
    if np.isfinite([model.column_lower, model.column_upper]).all():
        room = 100 * tolerance * max(1.0, stage.size(x))
        assert stage.bound(model, x, dual) >= stage.value(x) - room


def assert_leaning(multiplier: Any, value: Any, lower: Any, upper: Any, tolerance: float) -> None:
    """A positive multiplier leans on the lower bound, a negative one on the upper."""
    room = 10 * tolerance * np.maximum(1.0, np.abs(value))
    assert (value >= lower - room).all()
    assert (value <= upper + room).all()
    scale = 10 * tolerance * max(1.0, float(np.abs(multiplier).max(initial=0.0)))
    assert (value - lower <= room)[multiplier > scale].all()
    assert (upper - value <= room)[multiplier < -scale].all()


@pytest.mark.parametrize("name", [n for n, info in SOLVERS.items() if info.integer == "none"])
def test_integrality_is_never_dropped(name: str) -> None:
    """GLOP and PDLP would answer 2.5 for an integer: refused, with what to use; relaxed, solved."""
    model = model_of([-1.0], [[2.0]], [-INF], [5.0], 0.0, 9.0, True)
    with pytest.raises(SolverError, match=r"drops integrality.*use highs, scip or.*cp-sat"):
        solve_model(model, solver=name)
    raw = solve_model(model, solver=name, relax=True)
    assert raw.x == pytest.approx([2.5], rel=1e-5)


@pytest.mark.parametrize("name", SOLVERS)
def test_coefficients_that_are_not_finite_are_refused(name: str) -> None:
    """Not-a-numbers and infinities never reach a solver."""
    whole = SOLVERS[name].integer == "pure"
    bad = [
        model_of([np.nan], [[1.0]], [0], [1], 0.0, 1.0, whole),
        model_of([1.0], [[INF]], [0], [1], 0.0, 1.0, whole),
        model_of([1.0], [[1.0]], [np.nan], [1], 0.0, 1.0, whole),
        model_of([1.0], [[1.0]], [INF], [INF], 0.0, 1.0, whole),
    ]
    for model in bad:
        with pytest.raises(SolverError, match="the model has a"):
            solve_model(model, solver=name)


def test_crossed_bounds_are_infeasible_everywhere() -> None:
    """A lower bound above its upper bound is a result, not an error."""
    for name, info in SOLVERS.items():
        model = model_of([1.0], [[1.0]], [0], [9], 3.0, 2.0, info.integer == "pure")
        assert solve_model(model, solver=name).termination == "infeasible", name


def test_unknown_names_are_refused() -> None:
    """A misspelt solver or isolation names those that exist."""
    model = CASES[0].model
    with pytest.raises(SolverError, match=r"unknown solver 'cplex'; known are highs, .*scip-minlp"):
        solve_model(model, solver="cplex")
    with pytest.raises(SolverError, match="unknown isolation 'thread'"):
        solve_model(model, isolation="thread")


def test_runs_repeat_bit_for_bit() -> None:
    """One thread and a fixed seed give the same point twice, from every solver."""
    rng = np.random.default_rng(7)
    matrix, upper = rng.integers(1, 9, size=(4, 12)), rng.integers(20, 40, 4)
    for name, info in SOLVERS.items():
        whole = info.integer != "none"
        model = model_of(-rng.integers(1, 9, 12), matrix, [-INF] * 4, upper, 0.0, 5.0, whole)
        first, second = (solve_model(model, solver=name, seed=3) for _ in range(2))
        assert first.x is not None
        assert (first.x == second.x).all(), name
