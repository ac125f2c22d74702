"""The fast formulation against its Pyomo statement, and every exact solution against its proof."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import highspy
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from oracles.canonical import Canonical, Key, differences, of_arrays, of_pyomo
from oracles.tiny import CORE_FEATURES, FEATURES, random_document, tiny
from pyomo.contrib.solver.common.factory import SolverFactory
from pyomo.environ import Var

import greenopt as go
from greenopt.certifying import certify
from greenopt.formulations import placement as pyomo_placement
from greenopt.io import to_model
from greenopt.results import Status

MIXES = st.sets(st.sampled_from(FEATURES), max_size=8)
BLOCKS = {
    "whole_instances": {"running"},
    "startup": {"running", "starts", "startup_waits", "start", "startup_share", "startup_wait"},
    "min_up": {"running", "starts", "start", "min_up"},
    "blocks": {"running"},
    "fixed": {"running"},
    "instance_limits": {"running", "instance_limit"},
    "whole_requests": {"whole_flow", "whole"},
    "deferral": {"deferred", "deadline"},
    "queue": {"filled"},
}
TOGETHER = {"queue": ["at_most"]}
"""Features without which another one brings no block of its own."""

WHOLE = {
    "whole_instances": {"instances", "running"},
    "whole_requests": {"flow", "whole_flow"},
}
BOUNDARIES = st.sampled_from(["gpu", "server", "facility"])
RELAXED = settings(
    max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=True
)


def draw(seed: int, features: Iterable[str], boundary: str = "server") -> go.PlacementInstance:
    """Draw a random instance."""
    rng = np.random.default_rng(seed)
    switches = dict.fromkeys(features, True)
    return go.PlacementInstance.parse(random_document(rng, boundary=boundary, **switches))


def matrix_differences(instance: go.PlacementInstance) -> list[str]:
    """Where columns, rows or objective of any stage differ between the two statements."""
    found, model = [], to_model(instance)
    for stage in range(len(instance.objective)):
        theirs = of_pyomo(pyomo_placement.build(instance, stage, [1.0] * stage))
        # The fast formulation gets the rows that keep earlier stages when they are solved.
        rows = {key: row for key, row in theirs.rows.items() if key[0] != "stage"}
        found += differences(of_arrays(model, stage), theirs._replace(rows=rows))
    return found


def solved(model: Any) -> Any:
    """Result of the Pyomo statement by HiGHS.

    Costs of one request are small beside those of everything: prices that are off by HiGHS's usual
    1e-7 may leave thousands of requests at the wrong place.
    """
    return SolverFactory("highs").solve(
        model,
        load_solutions=False,
        raise_exception_on_nonoptimal_result=False,
        rel_gap=1e-9,
        solver_options={"dual_feasibility_tolerance": 1e-10},
    )


def pyomo_values(instance: go.PlacementInstance) -> list[float] | None:
    """Optimal value of every stage by Pyomo and HiGHS; None if there is no plan."""
    fixed: list[float] = []
    for stage in range(len(instance.objective)):
        result = solved(pyomo_placement.build(instance, stage, fixed))
        if result.incumbent_objective is None:
            return None
        fixed.append(float(result.incumbent_objective))
    return fixed


@pytest.mark.parametrize("feature", [None, *FEATURES])
@pytest.mark.parametrize("seed", range(4))
def test_same_matrix_feature_by_feature(feature: str | None, seed: int) -> None:
    """With each feature alone switched on, both statements give the same columns and rows."""
    assert matrix_differences(draw(seed, [feature] if feature else [])) == []


@pytest.mark.parametrize("feature", FEATURES[len(CORE_FEATURES) :])
def test_new_columns_and_rows_are_there(feature: str) -> None:
    """Each feature that counts or defers brings the blocks it is about, and whole numbers."""
    instances = [draw(seed, [feature, *TOGETHER.get(feature, [])]) for seed in range(6)]
    found = [of_arrays(to_model(instance), 0) for instance in instances]
    names = {key[0] for one in found for key in (*one.columns, *one.rows)}
    assert BLOCKS.get(feature, set()) <= names
    whole = {key[0] for one in found for key, bounds in one.columns.items() if bounds[2]}
    assert whole == WHOLE.get(feature, set())


def test_same_matrix_on_the_hand_made_instance() -> None:
    """The hand-made instance, whose limits tell levels and sites apart, agrees entry by entry."""
    assert matrix_differences(go.PlacementInstance.parse(tiny())) == []


@given(st.integers(0, 10**6), MIXES, BOUNDARIES)
@RELAXED
def test_same_matrix_on_random_instances(seed: int, features: set[str], boundary: str) -> None:
    """Any mix of features and any power boundary: the same matrix after canonical ordering."""
    assert matrix_differences(draw(seed, sorted(features), boundary)) == []


@given(st.integers(0, 10**6), MIXES, BOUNDARIES)
@RELAXED
def test_solutions_are_optimal_checked_and_proved(
    seed: int, features: set[str], boundary: str
) -> None:
    """Same optimum as Pyomo's, accepted by the checker, and its bound proved by the certifier."""
    instance = draw(seed, sorted(features), boundary)
    solution = go.solve(instance, gap=1e-7)
    theirs = pyomo_values(instance)
    if theirs is None and not instance.waiting_is_curved:
        assert solution.status == Status.INFEASIBLE
        assert solution.report["explanation"]
    if theirs is None or not solution.decision:
        assert theirs is None
        return
    report = go.check(instance, solution)
    assert report.ok, report.lines()
    certificate = certify(instance, solution)
    assert certificate.ok, certificate
    if instance.waiting_is_curved:  # theirs has coarse chords; see test_queue_solve
        assert solution.stages[0].bound <= theirs[0] + 1e-6 * max(1.0, abs(theirs[0]))
        return
    assert solution.status == Status.OPTIMAL, solution.report
    assert [s.objective for s in solution.stages] == pytest.approx(theirs, rel=1e-5, abs=1e-6)
    if not to_model(instance).is_integer:
        assert certificate.optimal, certificate


@pytest.mark.parametrize(
    "features",
    [
        ["budgets", "mask", "max_sites"],
        ["queue", "at_most", "budgets"],
        ["whole_instances", "startup", "min_up", "at_most"],
        ["whole_requests", "deferral", "blocks"],
    ],
)
@pytest.mark.parametrize("seed", [1, 2, 4, 5, 6, 7])
def test_pyomo_solution_passes_our_rows_and_ours_passes_pyomo(
    seed: int, features: list[str]
) -> None:
    """Each statement's solution is feasible in the other, and costs there the same."""
    instance = draw(seed, features)
    model = pyomo_placement.build(instance)
    result = solved(model)
    assert result.incumbent_objective is not None
    result.solution_loader.load_vars()
    ours, theirs = of_arrays(to_model(instance), 0), of_pyomo(model)
    x = pyomo_point(model)
    assert violations(ours, x) == []
    assert cost(ours, x) == pytest.approx(result.incumbent_objective, rel=1e-6, abs=1e-9)
    y = our_point(instance)
    assert violations(theirs, y) == []
    assert cost(theirs, y) == pytest.approx(result.incumbent_objective, rel=1e-6, abs=1e-9)


def pyomo_point(model: Any) -> dict[Key, float]:
    """Values of the Pyomo model's variables; those it never used are at 0."""
    return {
        (var.parent_component().name, *key_of(var.index())): float(var.value or 0.0)
        for var in model.component_data_objects(Var)
    }


def key_of(index: Any) -> tuple[int, ...]:
    """Index of a Pyomo component as a tuple."""
    return index if isinstance(index, tuple) else (index,)


def our_point(instance: go.PlacementInstance) -> dict[Key, float]:
    """Optimal values of the fast formulation's columns, by a plain run of HiGHS."""
    model = to_model(instance)
    lp = highspy.HighsLp()
    lp.num_row_, lp.num_col_ = model.matrix.shape
    lp.col_cost_, lp.col_lower_, lp.col_upper_ = (
        model.stages[0].c,
        model.column_lower,
        model.column_upper,
    )
    lp.row_lower_, lp.row_upper_ = model.row_lower, model.row_upper
    lp.a_matrix_.format_ = highspy.MatrixFormat.kRowwise
    lp.a_matrix_.start_ = model.matrix.indptr
    lp.a_matrix_.index_ = model.matrix.indices
    lp.a_matrix_.value_ = model.matrix.data
    kinds = (highspy.HighsVarType.kContinuous, highspy.HighsVarType.kInteger)
    lp.integrality_ = [kinds[int(whole)] for whole in model.integer]
    highs = highspy.Highs()
    highs.silent()
    highs.setOptionValue("mip_rel_gap", 1e-9)
    highs.setOptionValue("dual_feasibility_tolerance", 1e-10)
    assert highs.passModel(lp) == highspy.HighsStatus.kOk
    highs.run()
    assert highs.getModelStatus() == highspy.HighsModelStatus.kOptimal
    values = highs.getSolution().col_value
    return dict(zip(of_arrays(model, 0).columns, map(float, values), strict=True))


def violations(model: Canonical, x: dict[Key, float]) -> list[str]:
    """Rows, bounds and whole numbers that a point breaks."""
    found = []
    for key, (low, high, whole) in model.columns.items():
        size = max(1.0, abs(x[key]))
        if not low - 1e-6 * size <= x[key] <= high + 1e-6 * size:
            found.append(f"{key} is {x[key]}, not in {low, high}")
        if whole and abs(x[key] - round(x[key])) > 1e-5:
            found.append(f"{key} is {x[key]}, not whole")
    for key, (low, high, coefficients) in model.rows.items():
        body = sum(v * x[column] for column, v in coefficients.items())
        size = max(1.0, *(abs(b) for b in (low, high) if np.isfinite(b)))
        if not low - 1e-6 * size <= body <= high + 1e-6 * size:
            found.append(f"row {key} is {body}, not in {low, high}")
    return found


def cost(model: Canonical, x: dict[Key, float]) -> float:
    """Objective of a point."""
    return sum(c * x[key] for key, c in model.objective.items())
