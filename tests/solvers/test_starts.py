"""Starts: checked, completed, used, and never made worse."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from conftest import quick_path
from solvers.models import INF, KNAPSACK, ROOM, big_lp, market_split, model_of

import greenopt as go
from greenopt.solvers import SOLVERS, Session, solve_model

CHARGE = model_of([1, 10], [[1, -5], [1, 0]], [-INF, 3], [0, INF], 0, [9.0, 1.0], [False, True])
"""A continuous flow of at least three, for which a fixed charge has to be paid."""

SEARCHERS = [n for n, info in SOLVERS.items() if info.integer != "none"]
MIXED = [n for n in SEARCHERS if SOLVERS[n].integer == "mixed"]


@pytest.mark.parametrize("name", SEARCHERS)
def test_feasible_start_is_accepted(name: str) -> None:
    """A start that holds is accepted with its value, and the optimum is found all the same."""
    raw = solve_model(KNAPSACK, solver=name, start=np.array([1.0, 0.0, 1.0]))
    assert raw.termination == "optimal"
    assert raw.x == pytest.approx([0, 1, 1])
    assert raw.start is not None
    assert raw.start.accepted
    assert raw.start.objective == pytest.approx(-17)
    assert raw.start.reason.startswith("feasible as given")
    assert ("makes no use" in raw.start.reason) == (not SOLVERS[name].start)


@pytest.mark.parametrize(
    ("start", "words"),
    [
        ([1, 1, 1], "row row[i=0] is off by 3 (9 beyond its bound 6)"),
        ([0, 2, 0], "column x[j=1] is off by 1"),
        ([0.5, 0, 0], "column x[j=0] = 0.5 is not whole"),
        ([1, 1, np.nan], "the given part cannot be completed"),
        ([2, np.nan, np.nan], "the given part cannot be completed: column x[j=0] is off by 1"),
        ([0.5, np.nan, 0], "the given part cannot be completed: column x[j=0] = 0.5 is not whole"),
        ([np.inf, 0, 0], "not finite"),
        ([0, 0], "has 2 values for 3 columns"),
    ],
)
def test_start_is_rejected_with_its_reason(start: Any, words: str) -> None:
    """What is wrong is said in the model's own names; the solve goes on without it."""
    raw = solve_model(KNAPSACK, start=np.array(start, dtype=float))
    assert raw.start is not None
    assert not raw.start.accepted
    assert raw.start.objective is None
    assert words in raw.start.reason
    assert raw.termination == "optimal"
    assert raw.x == pytest.approx([0, 1, 1])


@pytest.mark.parametrize("name", MIXED)
@pytest.mark.parametrize("given", [[np.nan, 1.0], [4.0, np.nan], [np.nan, np.nan]])
def test_partial_start_is_completed(given: list[float], name: str) -> None:
    """What is given is kept, the rest is found; the report has the value of the whole."""
    raw = solve_model(CHARGE, solver=name, start=np.array(given))
    assert raw.start is not None
    assert raw.start.accepted
    assert raw.start.reason.startswith("completed")
    assert ("makes no use" in raw.start.reason) == (not SOLVERS[name].start)
    assert raw.start.objective == pytest.approx(14 if given[0] == 4.0 else 13)
    assert raw.x == pytest.approx([3, 1])


def test_start_within_rounding_is_accepted() -> None:
    """A plan that went through a file is not refused for its last digits."""
    raw = solve_model(CHARGE, start=np.array([3.0 - 1e-8, 1.0 + 1e-8]))
    assert raw.start is not None
    assert raw.start.accepted


def test_continuous_start_is_kept_to_fall_back_on() -> None:
    """Linear programs make no use of a start, but a limit does not lose it."""
    model = big_lp(3, 6000)
    x = solve_model(model).x
    assert x is not None
    raw = solve_model(model, time_limit_s=1e-6, start=x)
    assert raw.termination == "limit"
    assert raw.x == pytest.approx(x)
    assert raw.start is not None
    assert "fall back" in raw.start.reason
    assert "the start is the result" in raw.message


@pytest.mark.parametrize("name", SEARCHERS)
def test_start_survives_a_limit(name: str) -> None:
    """Where a search finds nothing in time, the accepted start is the result."""
    model = market_split(4)
    rng = np.random.default_rng(0)
    x = rng.integers(0, 2, len(model.integer)).astype(float)
    side = model.matrix @ x  # move the sides to where a solution is known
    model = replace(model, row_lower=side, row_upper=side)
    raw = solve_model(model, solver=name, start=x, time_limit_s=0.3)
    assert raw.start is not None
    assert raw.start.accepted
    assert raw.x is not None
    assert model.stages[0].value(raw.x) <= x.sum()
    assert raw.tree_bound <= model.stages[0].value(raw.x) + 1e-6


@pytest.mark.parametrize(
    ("steps", "termination", "words"),
    [
        ("nothing", "limit", "the start is the result"),
        ("exit", "error", "the start is the result"),
        ("1", "error", "the start is better than its point"),
        ("infeasible", "error", "the start is feasible"),
        ("7", "error", "column x[j=0] is off by 5"),
    ],
)
def test_nothing_worse_than_the_start(fake: Any, steps: str, termination: str, words: str) -> None:
    """A solver that ends with less, dies or lies does not lose an accepted start."""
    raw = solve_model(ROOM, solver=fake(steps), start=np.array([2.0, 2.0]))
    assert raw.termination == termination
    assert raw.x == pytest.approx([2, 2])
    assert words in raw.message


def test_rejected_start_changes_nothing() -> None:
    """The run after a rejected start is the run without one, bit for bit."""
    plain = solve_model(KNAPSACK)
    again = solve_model(KNAPSACK, start=np.ones(3))
    assert (plain.x == again.x).all()
    assert plain.message == again.message
    assert plain.start is None


def test_sessions_report_no_start() -> None:
    """A session goes on from its own basis."""
    with Session(KNAPSACK) as session:
        assert session.solve().start is None


def test_solution_as_a_start() -> None:
    """A plan goes in as it came out; the report says what became of it."""
    instance = go.load(quick_path())
    best = go.solve(instance)
    again = go.solve(instance, start=best)
    assert again.report["start"]["accepted"]
    assert again.report["start"]["objective"] == pytest.approx(best.objective)
    stopped = go.solve(instance, start=best, time_limit=1e-6)
    assert stopped.status == "feasible"
    assert stopped.objective == pytest.approx(best.objective)


def test_solution_of_something_else_as_a_start() -> None:
    """A start without a plan, or with other labels, is refused in the report, not by a crash."""
    instance = go.load(quick_path())
    best = go.solve(instance)
    empty = go.solve(instance, time_limit=1e-6)
    assert empty.status == "limit"
    flow = best.array("flow")
    other = {"flow": replace(flow, labels={**flow.labels, "site": flow.labels["site"][::-1]})}
    for start, words in ((empty, "it has no plan"), (other, "other labels")):
        solution = go.solve(instance, start=start)
        assert solution.status == "optimal"
        assert not solution.report["start"]["accepted"]
        assert words in solution.report["start"]["reason"]


def test_part_of_a_plan_as_a_start() -> None:
    """Some arrays of a plan are a start in part, which is completed."""
    instance = go.load(quick_path()).replace(hold_periods=[12, 12])
    best = go.solve(instance)
    again = go.solve(instance, start={"running": best.array("running")})
    assert again.report["start"]["accepted"]
    assert again.report["start"]["reason"].startswith("completed")
    assert again.report["start"]["objective"] == pytest.approx(best.objective)
