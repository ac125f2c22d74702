"""The fast formulation against its Pyomo statement, and every exact solution against its proof."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from oracles.canonical import differences, of_arrays, of_pyomo
from oracles.tiny import FEATURES, random_document, tiny
from pyomo.contrib.solver.common.factory import SolverFactory
from pyomo.environ import value

import greenopt as go
from greenopt.certifying import certify
from greenopt.formulations import placement as pyomo_placement
from greenopt.io import to_model
from greenopt.results import Status

SWITCHES = st.fixed_dictionaries({feature: st.booleans() for feature in FEATURES})
BOUNDARIES = st.sampled_from(["gpu", "server", "facility"])
RELAXED = settings(
    max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=True
)


def draw(seed: int, switches: dict[str, bool], boundary: str = "server") -> go.PlacementInstance:
    """Draw a random instance."""
    rng = np.random.default_rng(seed)
    return go.PlacementInstance.parse(random_document(rng, boundary=boundary, **switches))


def pyomo_values(instance: go.PlacementInstance) -> list[float] | None:
    """Optimal value of every stage by Pyomo and HiGHS; None if there is no plan."""
    fixed: list[float] = []
    for stage in range(len(instance.objective)):
        model = pyomo_placement.build(instance, stage, fixed)
        solver = SolverFactory("highs")
        options: dict[str, Any] = {
            "load_solutions": False,
            "raise_exception_on_nonoptimal_result": False,
            "rel_gap": 1e-9,
        }
        result = solver.solve(model, **options)
        if result.incumbent_objective is None:
            return None
        fixed.append(float(result.incumbent_objective))
    return fixed


@pytest.mark.parametrize("feature", [None, *FEATURES])
@pytest.mark.parametrize("seed", range(4))
def test_same_matrix_feature_by_feature(feature: str | None, seed: int) -> None:
    """With each feature alone switched on, both statements give the same columns and rows."""
    instance = draw(seed, {feature: True} if feature else {})
    for stage in range(len(instance.objective)):
        fixed = [1.0] * stage
        ours = of_arrays(to_model(instance), stage)
        theirs = of_pyomo(pyomo_placement.build(instance, stage, fixed))
        theirs = theirs._replace(rows={k: r for k, r in theirs.rows.items() if k[0] != "stage"})
        assert differences(ours, theirs) == []


def test_same_matrix_on_the_hand_made_instance() -> None:
    """The hand-made instance, whose limits tell levels and sites apart, agrees entry by entry."""
    instance = go.PlacementInstance.parse(tiny())
    assert differences(of_arrays(to_model(instance), 0), of_pyomo(go.to_pyomo(instance))) == []


@given(st.integers(0, 10**6), SWITCHES, BOUNDARIES)
@RELAXED
def test_same_matrix_on_random_instances(
    seed: int, switches: dict[str, bool], boundary: str
) -> None:
    """Any mix of features and any power boundary: the same matrix after canonical ordering."""
    if switches["even"]:
        switches["unlimited"] = False
    instance = draw(seed, switches, boundary)
    ours = of_arrays(to_model(instance), 0)
    assert differences(ours, of_pyomo(pyomo_placement.build(instance))) == []


@given(st.integers(0, 10**6), SWITCHES, BOUNDARIES)
@RELAXED
def test_solutions_are_optimal_checked_and_proved(
    seed: int, switches: dict[str, bool], boundary: str
) -> None:
    """Same optimum as Pyomo's, accepted by the checker, and its bound proved by the certifier."""
    if switches["even"]:
        switches["unlimited"] = False
    instance = draw(seed, switches, boundary)
    solution = go.solve(instance, gap=1e-7)
    theirs = pyomo_values(instance)
    if theirs is None:
        assert solution.status == Status.INFEASIBLE
        assert solution.report["explanation"]
        return
    assert solution.status == Status.OPTIMAL, solution.report
    assert [s.objective for s in solution.stages] == pytest.approx(theirs, rel=1e-5, abs=1e-6)
    report = go.check(instance, solution)
    assert report.ok, report.lines()
    certificate = certify(instance, solution)
    assert certificate.ok, certificate
    if instance.balance == "packed":
        assert certificate.optimal, certificate


@pytest.mark.parametrize("seed", [0, 1, 2, 4, 5, 6])
def test_pyomo_solution_passes_our_rows_and_ours_passes_pyomo(seed: int) -> None:
    """Each statement's solution is feasible in the other."""
    instance = draw(seed, {"budgets": True, "mask": True, "max_sites": True})
    model = pyomo_placement.build(instance)
    result = SolverFactory("highs").solve(
        model, raise_exception_on_nonoptimal_result=False, load_solutions=False
    )
    assert result.incumbent_objective is not None
    result.solution_loader.load_vars()
    ours = to_model(instance)
    canonical = of_arrays(ours, 0)
    x = {key: 0.0 for key in canonical.columns}
    for component in ("flow", "instances", "unmet", "peak_kw", "site_max"):
        for index, var in getattr(model, component).items():
            index = index if isinstance(index, tuple) else (index,)
            x[(component, *index)] = 0.0 if var.value is None else value(var)
    for low, high, coefficients in canonical.rows.values():
        body = sum(v * x[key] for key, v in coefficients.items())
        size = max(1.0, *(abs(b) for b in (low, high) if np.isfinite(b)))
        assert low - 1e-6 * size <= body <= high + 1e-6 * size
