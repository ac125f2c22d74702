"""Plans that follow a rule, measured against the bound of the best plan."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from scipy import sparse

from greenopt.instance import Instance
from greenopt.labelled import FloatArray, IntArray
from greenopt.model import Block, Model, StageObjective
from greenopt.problems import part
from greenopt.results import Solution, StageResult, Status, closes
from greenopt.solvers import Termination
from greenopt.solving import CHECK_TOLERANCE, REFINEMENTS, Run, Settings

SLACK = 1e-7
"""Part of what a rule has reached that the steps after it may use up, against rounding."""


@dataclass(frozen=True, eq=False)
class Rule:
    """What a rule minimises before anything else is looked at.

    Attributes
    ----------
    cost : ndarray, shape (n_columns,)
        Of each column to the rule.
    group : ndarray of int, shape (n_columns,)
        Columns of one group keep what the rule has reached together; -1 is in none.
    """

    cost: FloatArray
    group: IntArray


def solve_by_rule(
    instance: Instance, method: str, settings: Settings, time_limit: float | None
) -> Solution:
    """Follow a rule, decide the rest by the objective, and prove how far from the best that is.

    Parameters
    ----------
    instance : Instance
        What to solve.
    method : str
        A rule of the problem.
    settings : Settings
        How.
    time_limit : float or None
        Wall-clock limit on solver time, s; the bound, timed apart, has as much again.
    """
    methods = part(instance.problem, "methods")
    if hasattr(methods, "decide"):
        return _decided(instance, methods.decide, method, settings, time_limit)
    formulation = methods.formulate(instance, method)
    return follow(instance, formulation, method, settings, time_limit)


def _decided(
    instance: Instance,
    decide: Callable[[Any, str, Run], FloatArray | None],
    method: str,
    settings: Settings,
    time_limit: float | None,
) -> Solution:
    """The plan that a rule decides on by itself, checked, with the bound of the best plan."""
    run = Run(instance, settings, time_limit)
    formulation = run.formulate()
    run.choose_solver(formulation)
    with run.timed("rule"):
        x = decide(formulation, method, run)
    run.report["gap_asked"] = settings.gap
    if x is None:
        return _without_plan(run, method, "it found no room for some query")
    decision = formulation.decode(x)
    with run.timed("check"):
        found = part(instance.problem, "check").evaluate(instance, decision, CHECK_TOLERANCE)
    if found.violations:
        return _without_plan(run, method, f"its plan breaks {found.violations[0]}")
    run.report["notes"] = found.notes
    stages = [StageResult(value, -np.inf, "none", {}) for value in found.stages]
    if settings.bound:
        stages[0] = replace(run.relaxed_bound(formulation), objective=found.stages[0])
    proved = len(stages) == 1 and closes(stages[0].objective, stages[0].bound, settings.gap)
    status = Status.OPTIMAL if proved else Status.FEASIBLE
    return run.packed(method, status, stages, decision, found)


def _without_plan(run: Run, method: str, why: str) -> Solution:
    """A rule found no plan, which says nothing about the instance."""
    run.report["message"] = f"{method} has no plan here: {why}"
    return run.packed(method, Status.LIMIT, (), {}, None)


def follow(
    instance: Instance,
    formulation: Any,
    method: str,
    settings: Settings,
    time_limit: float | None = None,
) -> Solution:
    """Minimise rules one after the other, then the objective; parameters as for `solve_by_rule`.

    Parameters
    ----------
    formulation
        Of the instance, with `rules`.
    """
    best = Run(instance, settings, time_limit)
    exact = best.formulate()
    if formulation.curved:  # pieces that the best plan needs, at least
        exact = best.refined(exact)[0]
        formulation = formulation.with_pieces(exact.pieces)
    run = Run(instance, replace(settings, bound=False, explain=False), time_limit)
    solution = _followed(run, formulation)
    if solution.status == Status.INFEASIBLE:
        return _explained(replace(solution, method=method), instance, settings, time_limit)
    for _ in range(REFINEMENTS if formulation.curved else 0):
        if not solution.decision or _is_fine(formulation, solution, settings.gap):
            break
        formulation = formulation.around(formulation.encode(solution.decision))
        finer = _followed(run, formulation)
        if not finer.decision:
            break
        solution = finer
    solution = replace(solution, method=method)
    if not solution.stages:
        return solution
    return _measured(
        solution, settings, best.relaxed_bound(exact) if settings.bound else None, best
    )


def _followed(run: Run, formulation: Any) -> Solution:
    """Minimise the rules one after the other, then the objective."""
    for number, rule in enumerate(formulation.rules):
        raw = _minimise(run, formulation.model, rule)
        if raw.termination != Termination.OPTIMAL:
            return _unruled(run.solution(formulation), raw.message)
        formulation.model = _kept(formulation.model, rule, raw.x, f"rule_{number}")
    return run.solution(formulation)


def _unruled(solution: Solution, message: str) -> Solution:
    """What the model without a rule's rows says is the matter, but no plan: it would not follow."""
    if not solution.decision:
        return solution
    solution.report["message"] = f"a rule was not followed to its end: {message}"
    return replace(solution, status=Status.LIMIT, stages=(), decision={}, metrics={}, metrics_by={})


def _explained(
    solution: Solution, instance: Instance, settings: Settings, time_limit: float | None
) -> Solution:
    """No plan, and whether that is the instance's fault or the rule's."""
    if settings.explain:
        best = Run(instance, replace(settings, bound=False), time_limit).solution()
        text = f"the instance has plans, but none by the rules of {solution.method}"
        solution.report["explanation"] = (
            [text] if best.decision else best.report.get("explanation", [])
        )
    return solution


def _is_fine(formulation: Any, solution: Solution, gap: float) -> bool:
    """Whether the pieces of curves cost a plan no more than the gap."""
    x = formulation.encode(solution.decision)
    last = len(solution.stages) - 1
    said, true = formulation.model.stages[last].value(x), solution.stages[last].objective
    return closes(said, true, gap, formulation.model.stages[last].size(x))


def _minimise(run: Run, model: Model, rule: Rule) -> Any:
    ruled = replace(model, stages=(StageObjective(rule.cost, 0.0),))
    return run.solve_stage(ruled, 0)


def _kept(model: Model, rule: Rule, x: FloatArray, name: str) -> Model:
    """A model in which every group keeps what the rule has reached."""
    columns = np.flatnonzero((rule.cost != 0) & (rule.group >= 0))
    groups, row = np.unique(rule.group[columns], return_inverse=True)
    cost = rule.cost[columns]
    shape = (len(groups), model.matrix.shape[1])
    rows = sparse.csr_array((cost, (row, columns)), shape=shape)
    size = np.bincount(row, np.abs(cost * x[columns]), minlength=len(groups))
    upper = rows @ x + SLACK * np.maximum(size, np.abs(cost).max(initial=1.0))
    block = Block(name, {"group": groups}, model.matrix.shape[0], len(groups))
    labels = {**model.labels, "group": tuple(map(str, range(int(groups.max(initial=0)) + 1)))}
    return replace(
        model,
        labels=labels,
        rows={**model.rows, name: block},
        matrix=sparse.vstack([model.matrix, rows], format="csr"),
        row_lower=np.append(model.row_lower, np.full(len(groups), -np.inf)),
        row_upper=np.append(model.row_upper, upper),
    )


def _measured(
    solution: Solution, settings: Settings, proof: StageResult | None, best: Run
) -> Solution:
    """The plan with the bound of the best plan's first stage in place of its own."""
    none = StageResult(np.inf, -np.inf, "none", {})
    first = replace(proof or none, objective=solution.stages[0].objective)
    runtime = dict(solution.runtime_s)
    runtime["bound"] = runtime.get("bound", 0.0) + sum(best.runtime_s.values())
    later = [StageResult(s.objective, -np.inf, "none", {}) for s in solution.stages[1:]]
    status = solution.status
    if status in {Status.OPTIMAL, Status.FEASIBLE}:
        proved = not later and closes(first.objective, first.bound, settings.gap)
        status = Status.OPTIMAL if proved else Status.FEASIBLE
    return replace(solution, status=status, stages=(first, *later), runtime_s=runtime)
