"""The placement problem with waiting the curve itself, neither chords nor tangents, by SCIP."""

from __future__ import annotations

import math
from typing import Any

from pyomo.contrib.solver.common.factory import SolverFactory
from pyomo.environ import ConcreteModel, Constraint, NonNegativeReals, Var, quicksum

import greenopt as go

FINENESS = 300.0
"""Units in the instances that all work keeps busy.

SCIP holds a cone with a tolerance of 1e-6 in these units: fewer are less exact. With many more, or
at its normal scaling, the LP solver in it now and then fails or does not end.
"""

AGGRESSIVE_SCALING = {"lp/scaling": 2}


def true_optimum(
    instance: go.PlacementInstance, gap: float = 1e-7, time_limit: float = 60.0
) -> tuple[float, float]:
    """Bracket the smallest value of the first stage, with waiting the convex curve it is.

    Parameters
    ----------
    instance : PlacementInstance
        A small instance.
    gap : float
        Relative gap to which SCIP solves.
    time_limit : float
        When SCIP stops, s.

    Returns
    -------
    bound, value : float
        SCIP's bound and best value; both infinite if there is no plan.
    """
    result = SolverFactory("scip_direct").solve(
        with_curves(instance),
        load_solutions=False,
        raise_exception_on_nonoptimal_result=False,
        rel_gap=gap,
        time_limit=time_limit,
        solver_options=AGGRESSIVE_SCALING,
    )
    if result.incumbent_objective is None:
        return math.inf, math.inf
    return float(result.objective_bound), float(result.incumbent_objective)


def with_curves(instance: go.PlacementInstance) -> ConcreteModel:
    """The Pyomo statement of the first stage, with curves for chords.

    With y instances at a level, b of them busy in the mean (b = u y), the curve is
    y u²/(1 - u) = b²/(y - b), a rotated second-order cone. What waits is put into the column of the
    level's last point, which counts it by what waits at one full instance. Waiting and work are all
    that the other columns did, so the rest of the statement stays as it is.
    """
    model = go.to_pyomo(instance)
    levels = list(model.filled_row)
    model.busy = Var(levels, domain=NonNegativeReals)
    model.spare = Var(levels, domain=NonNegativeReals)
    model.waiting = Var(levels, domain=NonNegativeReals)
    model.worked = Constraint(levels, rule=_worked)
    model.spared = Constraint(levels, rule=_spared)
    model.waited = Constraint(levels, rule=_waited)
    model.full = Constraint(levels, rule=_full)
    model.curve = Constraint(levels, rule=_curve)
    model.filled_row.deactivate()
    for t, s, n, m, ell in levels:
        model.load_row[t, s, n, m, _group(model, n, m, ell)].deactivate()
        for i in range(len(model.data.points(n, m, ell)) - 1):
            model.filled[t, s, n, m, ell, i].fix(0.0)
    return model


def _group(model: ConcreteModel, n: int, m: int, ell: int) -> int:
    """Number of the level's group, in which it is alone."""
    return int(model.data.groups[n, m].index([ell]))


def _unit(model: ConcreteModel, t: int, n: int, m: int) -> float:
    """Instances that count as one: a small share of those that all work of the model keeps busy."""
    data = model.data
    work = sum(
        data.work(k, m) * data.servable[t, o, k]
        for o in data.origins
        for k in data.classes
        if data.model_of[k] == n
    )
    return work * data.profiles[n, m].queue.service_s / data.delta[t] / FINENESS or 1.0


def _worked(model: ConcreteModel, t: int, s: int, n: int, m: int, ell: int) -> Any:
    """Mean number of busy instances: the time that the requests at the level take."""
    data, g = model.data, _group(model, n, m, ell)
    work = quicksum(
        data.work(k, m) * x
        for (t_, _, k, s_, m_, g_), x in model.flow.items()
        if (t_, s_, data.model_of[k], m_, g_) == (t, s, n, m, g)
    )
    share = data.profiles[n, m].queue.service_s / data.delta[t]
    return model.busy[t, s, n, m, ell] == share / _unit(model, t, n, m) * work


def _spared(model: ConcreteModel, t: int, s: int, n: int, m: int, ell: int) -> Any:
    serving = model.instances[t, s, n, m, ell] / _unit(model, t, n, m)
    return model.spare[t, s, n, m, ell] == serving - model.busy[t, s, n, m, ell]


def _waited(model: ConcreteModel, t: int, s: int, n: int, m: int, ell: int) -> Any:
    points = model.data.points(n, m, ell)
    full = points[-1] ** 2 / (1 - points[-1])
    column = model.filled[t, s, n, m, ell, len(points) - 1]
    return model.waiting[t, s, n, m, ell] == full / _unit(model, t, n, m) * column


def _full(model: ConcreteModel, t: int, s: int, n: int, m: int, ell: int) -> Any:
    serving = model.instances[t, s, n, m, ell] / _unit(model, t, n, m)
    return model.busy[t, s, n, m, ell] <= model.data.utilisation(n, m, ell) * serving


def _curve(model: ConcreteModel, *tsnml: int) -> Any:
    return model.waiting[tsnml] * model.spare[tsnml] >= model.busy[tsnml] ** 2
