"""The fast statement against the readable one in Pyomo, and both against every plan there is."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from oracles.canonical import Canonical, differences, of_arrays, of_pyomo
from oracles.routing import (
    FEATURES,
    additive,
    assigned,
    coefficient,
    instances,
    limit,
    llama,
    open_pairs,
    optimum,
    plain,
    random_instance,
    small,
    term,
)
from pyomo.contrib.solver.common.factory import SolverFactory
from pyomo.environ import Constraint, value

import greenopt as go
from greenopt.certifying import certify
from greenopt.formulations import routing as pyomo_routing
from greenopt.formulations.routing import metric_expression
from greenopt.io import to_model
from greenopt.problems.routing.formulation import formulate

TIGHT = {
    "mip_abs_gap": 0.0,
    "dual_feasibility_tolerance": 1e-10,
    "primal_feasibility_tolerance": 1e-10,
    "mip_feasibility_tolerance": 1e-10,
}
"""Options of HiGHS: kWh and USD of a few queries are small beside its usual tolerances."""

RELAXED = settings(
    max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=True
)
COUNTS_ONLY = {"limits": False, "floor": False, "stages": False, "query_limits": True}


def draw(seed: int, *features: str) -> go.RoutingInstance:
    """Draw a random instance with some features."""
    return random_instance(np.random.default_rng(seed), **dict.fromkeys(features, True))


def matrix_differences(instance: go.RoutingInstance) -> list[str]:
    """Where columns, rows or objective of any stage differ between the two statements."""
    found, model = [], to_model(instance)
    for stage in range(len(instance.objective)):
        theirs = of_pyomo(pyomo_routing.build(instance, stage, [1.0] * stage))
        ours = of_arrays(model, stage)
        if not model.is_integer:  # a network, whose vertices are whole by themselves
            ours = ours._replace(columns={k: (*v[:2], True) for k, v in ours.columns.items()})
        found += differences(with_whole_sides(ours), with_whole_sides(theirs))
    return found


def with_whole_sides(form: Canonical) -> Canonical:
    """Limits that count queries between whole numbers; no rows that the other has not.

    The fast statement gets the rows that keep earlier stages when they are solved, and Pyomo's has
    a variable where a row has none.
    """
    columns = {key: bounds for key, bounds in form.columns.items() if key != ("nothing",)}
    rows = {}
    for key, (lower, upper, values) in form.rows.items():
        if key[0] == "stage" or set(values) == {("nothing",)}:
            continue
        if key[0] == "limit" and set(values.values()) == {1.0}:
            lower, upper = float(np.ceil(lower - 1e-9)), float(np.floor(upper + 1e-9))
        rows[key] = (lower, upper, values)
    return form._replace(columns=columns, rows=rows)


def solved(model: Any) -> Any:
    """Result of the Pyomo statement by HiGHS."""
    return SolverFactory("highs").solve(
        model,
        load_solutions=False,
        raise_exception_on_nonoptimal_result=False,
        rel_gap=0.0,
        solver_options=TIGHT,
    )


def by_pyomo(instance: go.RoutingInstance) -> tuple[list[float], Any] | None:
    """Optimal value of every stage and the last stage's model; None if there is no plan."""
    reached: list[float] = []
    for stage in range(len(instance.objective)):
        fixed = [known + 1e-11 * max(1.0, abs(known)) for known in reached]  # room for rounding
        model = pyomo_routing.build(instance, stage, fixed)
        result = solved(model)
        if result.incumbent_objective is None:
            return None
        result.solution_loader.load_vars()
        for x in model.assigned.values():
            x.set_value(round(x.value))
        reached.append(float(value(model.objective)))
    return reached, model


def agree(instance: go.RoutingInstance) -> go.Solution:
    """Solve three ways, with the same values of all stages or no plan in any."""
    solution = go.solve(instance, gap=1e-9, explain=False)
    theirs, every = by_pyomo(instance), optimum(instance)
    if every is None:
        assert theirs is None
        assert solution.status == go.Status.INFEASIBLE
        return solution
    assert solution.status == go.Status.OPTIMAL, solution.report
    assert theirs is not None
    assert theirs[0] == pytest.approx(every, rel=1e-7, abs=1e-9)
    assert [s.objective for s in solution.stages] == pytest.approx(every, rel=1e-7, abs=1e-9)
    in_ours(instance, theirs[1], theirs[0][-1])
    in_theirs(solution, theirs[1])
    return solution


def in_ours(instance: go.RoutingInstance, model: Any, objective: float) -> None:
    """Pyomo's plan fits our columns and rows and costs the same there."""
    plan = {key: x.value for key, x in model.assigned.items()}
    formulation = formulate(instance)
    x, own = formulation.encode(assigned(instance, plan)), formulation.model
    assert np.all((own.column_lower <= x) & (x <= own.column_upper))
    body = own.matrix @ x
    room = 1e-9 * np.maximum(abs(own.matrix) @ np.abs(x), 1.0)
    assert np.all((own.row_lower - room <= body) & (body <= own.row_upper + room))
    assert own.stages[-1].value(x) == pytest.approx(objective, rel=1e-9, abs=1e-12)


def in_theirs(solution: go.Solution, model: Any) -> None:
    """Our plan fits Pyomo's variables and rows and costs the same there."""
    plan = solution.array("assigned").dense()
    assert plan.sum() == sum(plan[key] for key in model.assigned)
    for key, x in model.assigned.items():
        x.set_value(int(plan[key]))  # Pyomo refuses what is out of bounds
        assert plan[key] == x.value
    for row in model.component_data_objects(Constraint, active=True):
        body, sides = value(row.body), (value(row.lower), value(row.upper))
        room = 1e-9 * max(1.0, abs(body), *(abs(side) for side in sides if side is not None))
        assert sides[0] is None or body >= sides[0] - room, row.name
        assert sides[1] is None or body <= sides[1] + room, row.name
    assert value(model.objective) == pytest.approx(solution.objective, rel=1e-7, abs=1e-9)


def test_same_matrix_on_the_hand_made_instance() -> None:
    """The hand-made instance, with every optional field but tables, agrees entry by entry."""
    assert matrix_differences(small()) == []


@pytest.mark.parametrize("feature", [None, *FEATURES])
@pytest.mark.parametrize("seed", range(6))
def test_same_matrix_feature_by_feature(feature: str | None, seed: int) -> None:
    """With each feature alone switched on, both statements give the same columns and rows."""
    assert matrix_differences(draw(seed, *([feature] if feature else []), "accuracy")) == []


@given(instances())
@RELAXED
def test_same_matrix_on_random_instances(instance: go.RoutingInstance) -> None:
    """Any mix of features: the same matrix after canonical ordering."""
    assert matrix_differences(instance) == []


def test_same_optimum_on_the_hand_made_instance() -> None:
    """Two stages with all kinds of rows: three ways to the same values, checked and proved."""
    instance = small()
    solution = agree(instance)
    assert solution.status == go.Status.OPTIMAL
    assert go.check(instance, solution).ok
    assert certify(instance, solution).ok


@given(instances())
@RELAXED
def test_same_optimum_on_random_instances(instance: go.RoutingInstance) -> None:
    """Any mix of features: three ways to the same values; each one's plan fits the other."""
    agree(instance)


@given(instances(stages=True, limits=True, accuracy=True))
@RELAXED
def test_same_optimum_in_stages(instance: go.RoutingInstance) -> None:
    """Several stages, each keeping those before it within their tolerance."""
    agree(instance)


@given(instances(**COUNTS_ONLY))
@RELAXED
def test_limits_on_counts(instance: go.RoutingInstance) -> None:
    """Where the fast statement is a linear program, its plans are those of whole numbers."""
    solution = agree(instance)
    if solution.status == go.Status.OPTIMAL and not to_model(instance).is_integer:
        assert certify(instance, solution).optimal


@pytest.mark.parametrize(
    ("limits", "floor", "stages", "integer"),
    [
        ([], None, 1, False),
        ([("queries", [0]), ("queries", [1])], None, 1, False),
        ([("queries", [0]), ("queries", [0, 1]), ("queries", None)], None, 1, False),
        ([("queries", [0, 1]), ("queries", [1, 2])], None, 1, True),
        ([("tokens", [0])], None, 1, True),
        ([], 55.0, 1, True),
        ([], None, 2, True),
    ],
)
def test_when_the_linear_program_is_enough(
    limits: list[tuple[str, list[int] | None]], floor: float | None, stages: int, integer: bool
) -> None:
    """Whole numbers are asked for unless sets of counted deployments are nested or disjoint."""
    names = ["llama-2-7b", "llama-2-13b", "llama-2-70b"]
    instance = go.RoutingInstance.parse(
        plain(
            [(5, 10, 100), (3, 200, 50), (4, 20, 300)],
            limits=[
                limit(f"l{i}", metric, only and [names[k] for k in only], upper=1000.7)
                for i, (metric, only) in enumerate(limits)
            ],
            accuracy_floor_percent=floor,
            objective=[{"terms": [term("energy_kwh", 1.0)]}] * stages,
        )
    )
    assert to_model(instance).is_integer is integer
    assert matrix_differences(instance) == []
    agree(instance)


@pytest.mark.parametrize(
    ("lower", "upper", "counts"),
    [
        (2.4, None, 3),
        (None, 2.6, 2),
        (2.4, 2.6, None),
        (3.0, 3.0, 3),
        (0.1 * 3 * 10, None, 3),
        (3.0000001, None, 4),
        (None, 2.9999999, 2),
    ],
)
def test_counts_between_whole_numbers(
    lower: float | None, upper: float | None, counts: int | None
) -> None:
    """Sides of counts between whole numbers are met by whole numbers, or by none.

    A side within rounding (0.1 * 3 * 10 is above 3) is that whole number.
    """
    sense = -1.0 if upper is not None else 1.0
    instance = go.RoutingInstance.parse(
        plain(
            [(5, 10, 100)],
            limits=[limit("l", "queries", ["llama-2-70b"], lower, upper)],
            objective=[{"terms": [term("energy_kwh", sense)]}],
        )
    )
    solution = agree(instance)
    if counts is None:
        assert solution.status == go.Status.INFEASIBLE
        return
    assert solution.array("assigned").total_over("deployment")[2] == counts
    assert certify(instance, solution).optimal


@pytest.mark.parametrize("shift", [0.0, 1e-12, -1e-12, 1e-6, -1e-6])
@pytest.mark.parametrize(
    "field", ["runtime_limit_s", "accuracy_min_percent", "range_tokens_in", "range_tokens_out"]
)
def test_equality_counts(field: str, shift: float) -> None:
    """A query that meets its limits to the last digits may go; a millionth beyond, it may not."""
    own: dict[str, Any] = {"runtime": {"per_token_in": 0, "per_token_out": 0.1, "per_product": 0}}
    changes: dict[str, Any] = {"runtime_limit_s": [10 * (1 + shift)]}
    beyond = shift == -1e-6
    if field == "accuracy_min_percent":
        own, changes = {}, {field: [50.97 * (1 + shift)]}
        beyond = shift == 1e-6
    if field.startswith("range"):
        value = {"range_tokens_in": 40, "range_tokens_out": 100}[field]
        own, changes = {field: [value * (1 + shift), value * max(1.0, 1 + shift)]}, {}
        beyond = shift == 1e-6
        if shift < 0:
            own, beyond = {field: [0, value * (1 + shift)]}, shift == -1e-6
    deployments = [llama("llama-2-7b", **own), llama("llama-2-70b")]
    instance = go.RoutingInstance.parse(plain([(1, 40, 100)], deployments=deployments, **changes))
    there = (0, 0) in pyomo_routing.build(instance).assigned
    assert there is not beyond
    assert there is bool(formulate(instance).pairs.eligible()[0, 0])


# The door for extensions


@given(instances(), st.integers(0, 10**6))
@RELAXED
def test_metric_expressions(instance: go.RoutingInstance, seed: int) -> None:
    """Metrics of a plan, in total and by query and deployment, are sums over pairs."""
    model, open_to = pyomo_routing.build(instance), open_pairs(instance)
    assert set(model.data.metrics) == set(additive(instance))
    plan = np.random.default_rng(seed).integers(0, 5, open_to.shape) * open_to
    for key, x in model.assigned.items():
        x.set_value(int(plan[key]), skip_validation=True)
    for name in additive(instance):
        parts = np.array(
            [
                [coefficient(instance, name, q, k) * plan[q, k] for k in range(plan.shape[1])]
                for q in range(plan.shape[0])
            ]
        )
        room = {"rel": 1e-9, "abs": 1e-12 * max(1.0, np.abs(parts).sum())}
        assert value(metric_expression(model, name)) == pytest.approx(parts.sum(), **room)
        for q, k in np.ndindex(parts.shape):
            by_query = value(metric_expression(model, name, q=q))
            by_deployment = value(metric_expression(model, name, k=k))
            of_both = value(metric_expression(model, name, q, k))
            assert by_query == pytest.approx(parts[q].sum(), **room)
            assert by_deployment == pytest.approx(parts[:, k].sum(), **room)
            assert of_both == pytest.approx(parts[q, k], **room)


def test_side_constraint() -> None:
    """A row of the user's own, through `to_pyomo`: one model may not use more than another."""
    instance = go.RoutingInstance.parse(plain([(5, 10, 100), (3, 200, 50), (4, 20, 300)]))
    model = go.to_pyomo(instance)
    large = metric_expression(model, "energy_kwh", k=2)
    small_ones = sum(metric_expression(model, "energy_kwh", k=k) for k in (0, 1))
    model.small_share = Constraint(expr=small_ones <= 0.5 * large)
    solved(model).solution_loader.load_vars()
    assert value(small_ones) <= 0.5 * value(large) + 1e-12
    assert value(model.objective) > go.solve(instance).objective
    assert sum(x.value for x in model.assigned.values()) == pytest.approx(12)


def test_metrics_that_are_not_there() -> None:
    """Means, and metrics that a deployment lacks the data for, are refused by name."""
    model = pyomo_routing.build(go.RoutingInstance.parse(plain([(1, 10, 100)])))
    for name in ("carbon_kg", "accuracy_percent", "carrots"):
        with pytest.raises(ValueError, match=f"{name}.*energy_kwh"):
            metric_expression(model, name)


def test_stages_that_are_not_there() -> None:
    """A stage needs to be one, and a value of each stage before it."""
    with pytest.raises(ValueError, match="stage 2 is not one of the 2"):
        pyomo_routing.build(small(), 2, [0.0, 0.0])
    with pytest.raises(ValueError, match="stage 1 needs 1 fixed values, got 0"):
        pyomo_routing.build(small(), 1)


@pytest.mark.parametrize(("normalisation", "tokens"), [("largest", 0), ("range", 100)])
def test_normalisation_by_nothing(normalisation: str, tokens: int) -> None:
    """Values that are all alike have no range, and zeros no largest: both statements refuse."""
    terms = [term("tokens_out", 1.0, normalisation)]
    instance = go.RoutingInstance.parse(plain([(1, 10, tokens)], objective=[{"terms": terms}]))
    with pytest.raises(ValueError, match="tokens_out by 0"):
        pyomo_routing.build(instance)
    with pytest.raises(go.InstanceError, match=r"objective\[0\].terms\[0\].normalisation"):
        formulate(instance)
