"""Models of groups under a few coupling rows, solved by sifting."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from oracles.routing import FEATURES, LLAMA, limit, plain, random_instance, term
from solvers.test_conformance import assert_kkt

import greenopt as go
from greenopt.model import Builder, Model, StageObjective
from greenopt.problems.routing import formulation
from greenopt.solvers import SOLVERS, RawResult, Termination, sifting, solve_model
from greenopt.solvers.scaling import scale
from greenopt.solvers.task import Line, Task

INF = np.inf
WIDEST = 6
"""Columns of the largest groups here."""

SETTINGS = {
    "SAMPLE": 5,
    "LEAST_EXTRA": 2,
    "MOST_EXTRA": 30,
    "SEARCHES": ((4, 5.0), (15, 5.0)),
    "LEAST_DENSE": WIDEST,
    "DENSE": 0.0,
}
"""Of the solver, so that small models need samples, several rounds and several searches."""

KINDS = ("plain", "zero amounts", "equalities", "any sign", "far apart", "one group", "no coupling",
         "huge amounts", "unequal entries", "tight")  # fmt: skip


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows of more than six columns couple, and few columns are looked at."""
    for name, value in SETTINGS.items():
        monkeypatch.setattr(sifting, name, value)


def grouped(
    amount: Any, group: Any, cost: Any, rows: Sequence[Any], whole: bool = False, entry: Any = 1.0
) -> Model:
    """A model from amounts of groups, the group of each column, and rows (values, lower, upper)."""
    build = Builder("groups", {})
    entry = np.broadcast_to(entry, len(group))
    most = amount[group] / entry
    column = build.add_columns("x", {"j": np.arange(len(group))}, 0.0, most, integer=whole)
    choice = build.add_rows("choice", {"g": np.arange(len(amount))}, amount, amount)
    build.add_entries(choice.start + group, column.positions, entry)
    for number, (values, lower, upper) in enumerate(rows):
        row = build.add_rows(f"coupling{number}", {"r": np.zeros(1, dtype=int)}, lower, upper)
        build.add_entries(row.start, column.positions, values)
    return build.build([StageObjective(np.asarray(cost, dtype=float), 0.0)])


def random_model(seed: int, kind: str, whole: bool) -> Model:
    """A random model of groups; some have no point."""
    rng = np.random.default_rng(seed)
    n = 1 if kind == "one group" else int(rng.integers(2, 40))
    width = int(rng.integers(2, WIDEST + 1))
    at = np.arange(n * width) // width
    group = at[(rng.random(n * width) < 0.9) | (np.arange(n * width) % width == 0)]
    amount = rng.integers(0 if kind == "zero amounts" else 1, 5, n).astype(float)
    if kind == "huge amounts":
        amount = np.round(amount * 10.0 ** rng.integers(3, 7))
    entry = rng.uniform(0.1, 9.0, len(group)) if kind == "unequal entries" and not whole else 1.0
    spread = np.bincount(group, minlength=n)[group]
    somewhere = amount[group] / entry / spread  # a point, if a fractional one
    rows = []
    for _ in range(0 if kind == "no coupling" else int(rng.integers(1, 5))):
        values = rng.integers(1, 6, len(group)) * (rng.random(len(group)) < 0.7)
        if kind == "any sign":
            values = rng.normal(0.5, 1.0, len(group))
        if kind == "far apart":
            values = values * 10.0 ** rng.uniform(-6, 6)
        rows.append((values, *_sides(float(values @ somewhere), rng, kind)))
    cost = rng.normal(size=len(group)) * 10.0 ** rng.uniform(-3, 3)
    return grouped(amount, group, cost, rows, whole, entry)


def _sides(value: float, rng: np.random.Generator, kind: str) -> tuple[float, float]:
    """Sides of a row near its value at a point."""
    if kind == "equalities" and rng.random() < 0.5:
        return (np.round(value),) * 2
    low, high = sorted(value * rng.uniform([0.6, 0.9], [1.0, 1.3]))
    if kind == "tight":
        low, high = sorted(value * rng.uniform(0.3, 0.7, 2))
    return ((-INF, high), (low, INF), (low, high))[int(rng.choice(3, p=[0.5, 0.3, 0.2]))]


def assert_same(model: Model, raw: RawResult, **how: Any) -> RawResult:
    """The ending, value and proofs of HiGHS, which is returned."""
    stage = model.stages[0]
    other = solve_model(model, gap=1e-9, **how)
    assert raw.termination == other.termination, raw.message
    if other.x is None:
        assert raw.x is None
        return other
    assert raw.x is not None
    value, best, size = stage.value(raw.x), stage.value(other.x), stage.size(other.x)
    assert value == pytest.approx(best, rel=1e-7, abs=1e-7 * size)
    if model.is_integer and not how.get("relax"):
        assert (raw.x == np.round(raw.x)).all()
        assert raw.tree_bound <= best + 1e-7 * size
        assert raw.tree_bound >= value - 1e-7 * size
    else:
        assert raw.row_dual is not None
        bound = stage.bound(model, raw.x, raw.row_dual)
        assert bound <= best + 1e-9 * size
        assert bound >= value - 1.01e-9 * max(size, 1e-9)
    return other


# -- agreement with HiGHS --------------------------------------------------------------------------


@pytest.mark.parametrize("whole", [False, True], ids=["continuous", "whole"])
@pytest.mark.parametrize("kind", KINDS)
def test_same_optimum_as_highs(kind: str, whole: bool) -> None:
    """The ending, the optimum and its proof, in random models of every kind."""
    sifted, endings = 0, set()
    for seed in range(12):
        model = random_model(seed, kind, whole)
        raw = solve_model(model, solver="sifting", gap=1e-9)
        assert_same(model, raw)
        assert "did not settle" not in raw.message or kind == "equalities"
        sifted += "solved whole" not in raw.message
        endings.add(raw.termination)
    assert sifted >= (6 if kind == "one group" else 10)
    assert Termination.OPTIMAL in endings
    assert (Termination.INFEASIBLE in endings) or kind != "tight"


@pytest.mark.parametrize("kind", ["plain", "equalities", "tight"])
def test_relaxation_of_whole_numbers(kind: str) -> None:
    """Without integrality the linear program is solved, and its multipliers prove it."""
    for seed in range(10):
        model = random_model(seed, kind, whole=True)
        raw = solve_model(model, solver="sifting", gap=1e-9, relax=True)
        assert_same(model, raw, relax=True)
        if raw.x is not None:
            assert_kkt(model, raw, 1e-6)


@pytest.mark.parametrize("gap", [0.1, 1e-2, 1e-4])
def test_gap_is_that_of_the_whole_objective(gap: float) -> None:
    """What is called optimal is so to the gap, also where few columns decide little of it."""
    wide = 0
    for seed in range(20):
        model = random_model(seed, "plain", whole=True)
        best = solve_model(model, gap=1e-9)
        raw = solve_model(model, solver="sifting", gap=gap)
        assert raw.termination == best.termination == Termination.OPTIMAL
        stage = model.stages[0]
        value, optimum = stage.value(raw.x), stage.value(best.x)
        assert value - raw.tree_bound <= gap * abs(value) * (1 + 1e-9)
        assert raw.tree_bound <= optimum + 1e-9 * stage.size(best.x)
        wide += value > optimum + 1e-9 * stage.size(best.x)
    assert wide or gap < 1e-3  # a wide gap is made use of


def test_gap_where_the_searched_part_is_worth_nothing() -> None:
    """The best whole point is found where the relaxation is worth what its base columns are."""
    for seed in range(20):
        rng = np.random.default_rng(seed)
        cost = np.stack([rng.integers(0, 3, 30), rng.integers(0, 3, 30)]).T.ravel()
        weight = np.stack([rng.integers(1, 9, 30), rng.integers(1, 9, 30)]).T.ravel()
        least = float(np.minimum(weight[::2], weight[1::2]).sum())
        room = [(weight, -INF, least + 7.5)]
        model = grouped(np.ones(30), np.arange(60) // 2, cost - 1.0, room, whole=True)
        raw = solve_model(model, solver="sifting", gap=1e-9)
        assert_same(model, raw)


def test_no_cost_at_all() -> None:
    """A point is found where nothing costs anything."""
    for whole in (False, True):
        model = grouped(np.full(20, 2.0), np.arange(40) // 2, np.zeros(40),
                        [(np.tile([1.0, 0.3], 20), -INF, 32.0)], whole)  # fmt: skip
        raw = solve_model(model, solver="sifting")
        assert_same(model, raw)
        assert "solved whole" not in raw.message


def test_sample_of_amounts_that_are_mostly_zero() -> None:
    """The first prices come from groups that there is something of."""
    amount = np.zeros(41)
    amount[-1] = 1e10
    cost = np.random.default_rng(0).random(123)
    rows = [(np.tile([1.0, 0.0, 0.0], 41), -INF, 4e9), (np.tile([0.0, 1.0, 0.0], 41), 3e9, INF)]
    for whole in (False, True):
        for given in (amount, np.zeros(41)):
            limits = rows if given.any() else [(np.ones(123), -INF, 5.0)]
            model = grouped(given, np.arange(123) // 3, cost, limits, whole)
            assert_same(model, solve_model(model, solver="sifting", gap=1e-9))


def test_coefficients_too_far_apart() -> None:
    """A point that rounding takes beyond a row is not kept: HiGHS solves the model instead."""
    for seed in range(20):
        cost = np.random.default_rng(seed).random(100)
        values = np.tile([1e6, 1e-6], 50)
        model = grouped(np.full(50, 2.0), np.arange(100) // 2, cost, [(values, -INF, 1e-4)])
        assert_same(model, solve_model(model, solver="sifting", gap=1e-9))


# -- no point --------------------------------------------------------------------------------------


def test_no_fractional_point() -> None:
    """A bound above what any point can cost proves that there is none, without HiGHS."""
    for whole in (False, True):
        few = [(np.ones(20), -INF, 19.0)]
        model = grouped(np.full(10, 2.0), np.arange(20) // 2, np.arange(20.0), few, whole)
        raw = solve_model(model, solver="sifting")
        assert raw.termination == Termination.INFEASIBLE
        assert raw.x is None
        assert "10 groups" in raw.message


def test_no_whole_point() -> None:
    """Half a query more would do: no search has a point, and HiGHS has the last word."""
    half = [(np.tile([2.0, 0.0], 10), 15.0, 15.0)]
    model = grouped(np.ones(10), np.arange(20) // 2, np.arange(20.0), half, whole=True)
    assert solve_model(model, solver="sifting", relax=True).termination == Termination.OPTIMAL
    raw = solve_model(model, solver="sifting")
    assert raw.termination == Termination.INFEASIBLE
    assert "solved whole: a part ended with 'Infeasible'" in raw.message


# -- why it is right -------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(10))
def test_reduced_costs_say_what_a_column_costs(seed: int) -> None:
    """At any prices every point costs the bound and the reduced costs of its columns, or more.

    So a whole point that is better than another has no column whose reduced cost is above the
    distance of that other one from the bound.
    """
    rng = np.random.default_rng(seed)
    amount, group = rng.integers(0, 3, 6).astype(float), np.arange(18) // 3
    values, cost = rng.normal(size=(2, 18)), rng.normal(size=18)
    rows = [(values[0], -INF, 3.0), (values[1], -2.0, 4.0)]
    model = grouped(amount, group, cost, rows, whole=True)
    scaled = scale(model, cost)
    choices = sifting.choices_of(scaled)
    assert choices is not None
    solver = sifting._Sifting(Task(scaled, "groups"), Line(str), choices, 0.0)
    best = -INF
    for price in rng.normal(size=(5, 2)) * 10.0 ** rng.uniform(-2, 1, (5, 1)):
        excess, base = solver._look(price)
        own = min(solver._bound, INF)
        assert own >= best  # the best bound is kept
        best = own
        assert excess.min() >= -1e-12
        assert np.abs(excess[base]).max() <= 1e-12
    excess, base = solver._look(solver._price)
    seen = 0
    for x in _whole_points(rng, amount, 3, 2000):
        if ((scaled.matrix @ x)[-2:] <= scaled.row_upper[-2:]).all() and (
            (scaled.matrix @ x)[-2:] >= scaled.row_lower[-2:]
        ).all():
            seen += 1
            assert scaled.c @ x >= best + excess @ x - 1e-9
    assert seen


def _whole_points(rng: np.random.Generator, amount: Any, width: int, number: int) -> Any:
    """Random ways to give all of each group to its columns."""
    for _ in range(number):
        yield np.concatenate([rng.multinomial(int(n), np.ones(width) / width) for n in amount])


@pytest.mark.parametrize("whole", [False, True], ids=["continuous", "whole"])
def test_runs_repeat_bit_for_bit(whole: bool) -> None:
    """The same point and bound twice, with any seed, and in a worker."""
    model = random_model(3, "any sign", whole)
    for seed in (0, 7):
        first, *others = (
            solve_model(model, solver="sifting", seed=seed, isolation=isolation)
            for isolation in ("auto", "in-process")
        )
        assert first.x is not None
        for raw in others:
            assert (raw.x == first.x).all()
            assert raw.tree_bound == first.tree_bound


def test_in_a_worker() -> None:
    """The same optimum from a process of its own, where constants are as they ship."""
    for whole in (False, True):
        model = random_model(5, "plain", whole)
        raw = solve_model(model, solver="sifting", gap=1e-9, isolation="worker")
        assert raw.where == "worker"
        assert "groups" in raw.message
        assert_same(model, raw)


# -- time ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("whole", [False, True], ids=["continuous", "whole"])
@pytest.mark.parametrize("limit_s", [1e-9, 1e-3])
def test_out_of_time(whole: bool, limit_s: float) -> None:
    """Hardly any time is an honest limit, or time enough."""
    for seed in range(5):
        model = random_model(seed, "plain", whole)
        raw = solve_model(
            model, solver="sifting", gap=1e-9, time_limit_s=limit_s, isolation="in-process"
        )
        assert raw.termination in {Termination.LIMIT, Termination.OPTIMAL}
        if raw.termination == Termination.OPTIMAL:
            assert_same(model, raw)
        elif limit_s < 1e-6:
            assert raw.x is None


class Clock:
    """A clock on which looking takes a second."""

    def __init__(self) -> None:
        self.now = 0.0

    def perf_counter(self) -> float:
        """Tell the time."""
        self.now += 1.0
        return self.now


def test_limit_between_rounds_keeps_the_best_point(monkeypatch: pytest.MonkeyPatch) -> None:
    """A continuous plan that is not proved yet is better than none, and its bound holds."""
    model = random_model(1, "plain", whole=False)  # which takes a few rounds
    best = solve_model(model)
    stage, kept = model.stages[0], 0
    for limit_s in range(1, 10):
        monkeypatch.setattr(sifting, "time", Clock())
        raw = solve_model(model, solver="sifting", time_limit_s=limit_s)
        if raw.termination == Termination.OPTIMAL or raw.x is None:
            continue
        kept += 1
        assert raw.termination == Termination.LIMIT
        assert raw.row_dual is not None
        assert stage.bound(model, raw.x, raw.row_dual) <= stage.value(best.x) + 1e-9
        assert stage.value(raw.x) >= stage.value(best.x) - 1e-9
    assert kept


# -- structure -------------------------------------------------------------------------------------


def changed(model: Model, **changes: Any) -> Model:
    """A model with some arrays changed."""
    return replace(model, **changes)


def test_groups_are_found() -> None:
    """Every column is in one group; rows that are no equations, or long ones, couple."""
    long = (np.arange(1.0, 31.0), 200.0, 200.0)
    short = (np.where(np.arange(30) < 2, 1.0, 0.0), -INF, 3.0)
    group = np.random.default_rng(0).permutation(np.arange(30) // 3)
    entry = np.random.default_rng(1).uniform(1, 9, 30)
    model = grouped(np.arange(1.0, 11.0), group, np.ones(30), [long, short], entry=entry)
    choices = sifting.choices_of(scale(model, np.ones(30)))
    assert choices is not None
    assert choices.row.tolist() == list(range(10))
    assert choices.coupling.tolist() == [10, 11]
    assert (choices.group == group).all()
    assert (np.diff(choices.group[choices.order]) >= 0).all()
    assert (
        choices.order[choices.start] == [np.flatnonzero(group == g)[0] for g in range(10)]
    ).all()
    assert len(set(choices.order)) == 30


BASE = grouped(np.full(4, 2.0), np.arange(8) // 2, np.ones(8), [(np.arange(8.0), -INF, 30.0)])
WHOLE = replace(BASE, integer=np.ones(8, dtype=bool))
UNEQUAL = grouped(np.full(4, 2.0), np.arange(8) // 2, np.ones(8), [], True, np.tile([1.0, 2.0], 4))
HALVES = grouped(np.full(4, 1.5), np.arange(8) // 2, np.ones(8), [], whole=True)
TWO_ROWS = grouped(np.full(4, 2.0), np.arange(8) // 2, np.ones(8),
                   [(np.where(np.arange(8) < 3, 1.0, 0.0), 1.0, 1.0)])  # fmt: skip


@pytest.mark.parametrize(
    "model",
    [
        replace(BASE, column_lower=np.full(8, 0.1)),
        replace(BASE, column_upper=np.full(8, 1.9)),
        replace(BASE, row_lower=np.append(np.full(3, 2.0), [1.0, -INF])),
        replace(BASE, matrix=-BASE.matrix, row_lower=-BASE.row_upper, row_upper=-BASE.row_lower),
        replace(BASE, integer=np.arange(8) < 4),
        UNEQUAL,
        HALVES,
        TWO_ROWS,
    ],
    ids=[
        "a least value",
        "an upper bound below the amount",
        "a row that is no equation",
        "negative entries",
        "some whole",
        "whole with unequal entries",
        "halves of whole",
        "a column in two short equations",
    ],
)
def test_models_that_are_not_made_of_groups(model: Model) -> None:
    """HiGHS solves them, and the message says so."""
    assert sifting.choices_of(scale(model, model.stages[0].c)) is None
    raw = solve_model(model, solver="sifting", gap=1e-9)
    assert "solved whole: its columns do not fall into groups" in raw.message
    if raw.x is None:
        assert raw.termination == solve_model(model).termination == Termination.INFEASIBLE
    else:
        assert_same(model, raw)


def test_many_coupling_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """With too many coupling rows a model is solved whole."""
    for model in (BASE, WHOLE):
        assert sifting.choices_of(scale(model, np.ones(8))) is not None
    monkeypatch.setattr(sifting, "MOST_COUPLING", 0)
    assert sifting.choices_of(scale(BASE, np.ones(8))) is None


def test_quadratic_costs_do_not_fall_into_groups() -> None:
    """A quadratic term is never dropped."""
    assert sifting.choices_of(scale(BASE, np.ones(8), q=np.eye(8))) is None
    assert SOLVERS["sifting"].quadratic == "none"


def test_prices_that_do_not_settle(monkeypatch: pytest.MonkeyPatch) -> None:
    """After too many rounds HiGHS solves the model."""
    monkeypatch.setattr(sifting, "MOST_ROUNDS", 0)
    for whole in (False, True):
        model = random_model(2, "plain", whole)
        raw = solve_model(model, solver="sifting", gap=1e-9)
        assert "solved whole: prices did not settle" in raw.message
        assert_same(model, raw)


# -- routing ---------------------------------------------------------------------------------------


def routing(seed: int, limited: str, **changes: Any) -> go.RoutingInstance:
    """Forty kinds of queries over three models, of which two may not do everything."""
    rng = np.random.default_rng(seed)
    queries = [
        (float(rng.integers(0, 5)), float(rng.integers(8, 300)), float(rng.integers(8, 600)))
        for _ in range(40)
    ]
    free = go.RoutingInstance.parse(plain(queries, negative_predictions="clip"))
    most = go.solve(free, solver="highs-simplex").metrics_by["deployment"][limited][0]
    dearer = 0.0 if limited == "queries" else 1e-6 * most
    limits = [
        limit("7b at most", limited, ["llama-2-7b"], upper=0.31 * most + dearer),
        limit("70b is used", "queries", ["llama-2-70b"], lower=3.0),
    ]
    terms = [term("energy_kwh", 0.7, "largest"), term("accuracy_percent_tokens", -0.3, "largest")]
    return free.replace(**{"limits": limits, "objective": [{"terms": terms}], **changes})


@pytest.mark.parametrize("limited", ["queries", "gpu_h"])
def test_routing_chooses_sifting(monkeypatch: pytest.MonkeyPatch, limited: str) -> None:
    """Large workloads are sifted unless another solver, a start or stages ask for more."""
    inst = routing(0, limited)
    assert "groups" not in go.solve(inst).report["message"]
    monkeypatch.setattr(formulation, "MANY_COLUMNS", 100)
    sifted = go.solve(inst)
    assert sifted.solver == "sifting"
    assert "groups" in sifted.report["message"]
    assert go.solve(inst, solver="highs-simplex").solver == "highs-simplex"
    assert go.solve(inst, start=sifted).solver == "highs"
    two = inst.replace(objective=[*inst.document()["objective"], {"terms": [term("runtime_s", 1)]}])
    assert go.solve(two).solver == "highs"


@pytest.mark.parametrize("isolation", ["auto", "worker"])
@pytest.mark.parametrize("limited", ["queries", "gpu_h", "tokens"])
def test_routing_by_sifting(limited: str, isolation: str) -> None:
    """The plan is worth that of HiGHS, passes its check, and its bound is proved or claimed."""
    for seed in range(4):
        inst = routing(seed, limited)
        best = go.solve(inst, solver="highs-simplex", gap=1e-9)
        plan = go.solve(inst, solver="sifting", gap=1e-9, isolation=isolation)
        assert plan.status == best.status == "optimal"
        assert plan.objective == pytest.approx(best.objective, rel=1e-8, abs=1e-10)
        assert plan.report["where"] == ("worker" if isolation == "worker" else "in-process")
        assert go.check(inst, plan).ok
        proof = go.certify(inst, plan, gap=1e-9)
        assert proof.ok
        assert proof.optimal or limited != "queries"


def test_routing_with_every_feature() -> None:
    """Random tiny instances with fields of every kind, some without a plan."""
    endings = set()
    for seed in range(40):
        rng = np.random.default_rng(seed)
        on = {name: bool(rng.random() < 0.5) for name in FEATURES}
        inst = random_instance(rng, **{**on, "stages": False})
        best = go.solve(inst, solver="highs-simplex", gap=1e-9, explain=False)
        plan = go.solve(inst, solver="sifting", gap=1e-9, explain=False)
        assert plan.status == best.status
        endings.add(plan.status)
        if best.objective is not None:
            room = 1e-7 * max(1e-6, abs(best.objective))
            assert plan.objective == pytest.approx(best.objective, abs=room)
            assert go.check(inst, plan).ok
            assert go.certify(inst, plan).ok
    assert {"optimal", "infeasible"} <= endings


def test_limits_without_a_plan_are_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    """An infeasible workload that is sifted names the limits that conflict."""
    monkeypatch.setattr(formulation, "MANY_COLUMNS", 100)
    limits = [limit(f"{name} at most", "queries", [name], upper=5.0) for name in LLAMA]
    plan = go.solve(routing(1, "queries", limits=limits))
    assert plan.solver == "sifting"
    assert plan.status == "infeasible"
    assert any("at most" in line for line in plan.report["explanation"])
