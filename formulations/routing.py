"""The routing problem in Pyomo, stated in the order and the symbols of `routing.md`.

Written to be read, checked against and extended, not to be fast, and on purpose without a line in
common with the package's own formulation: each is the other's check. Positions stand for names:
``model.assigned[q, k]`` is the number of queries of kind ``q`` that deployment ``k`` answers, both
counted from 0.

Numbers of queries are whole here always, also where the linear program would do.

Examples
--------
A side constraint: deployments 1 and 2 may not use more than half of deployment 0's energy.

>>> model = build(RoutingInstance.read("instance.json"))  # doctest: +SKIP
>>> large = metric_expression(model, "energy_kwh", k=0)  # doctest: +SKIP
>>> small = sum(metric_expression(model, "energy_kwh", k=k) for k in (1, 2))  # doctest: +SKIP
>>> model.small_share = pyo.Constraint(expr=small <= 0.5 * large)  # doctest: +SKIP
>>> SolverFactory("highs").solve(model)  # doctest: +SKIP
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from itertools import product
from typing import Any

import pyomo.environ as pyo

from greenopt.problems.routing.instance import Limit, RoutingInstance, Term, TokenLaw

SLACK = 1e-9
"""Relative slack of comparisons with data: equality counts."""

J_PER_KWH = 3.6e6
S_PER_H = 3600.0


def build(
    instance: RoutingInstance, stage: int = 0, fixed: Sequence[float] = ()
) -> pyo.ConcreteModel:
    """State one stage of the routing problem as a Pyomo model.

    Parameters
    ----------
    instance : RoutingInstance
        The instance.
    stage : int
        Position of the stage of ``instance.objective`` to minimise.
    fixed : sequence of float
        Values :math:`f_i` that the earlier stages reached, one for each.

    Returns
    -------
    pyomo.environ.ConcreteModel
        Variables ``assigned``, rows ``demand``, ``limit``, ``accuracy_floor`` and ``stage``, and
        ``objective``. ``model.data`` holds sets and coefficients (`Data`). A component the instance
        does not ask for is there and empty.

    Raises
    ------
    ValueError
        If `stage` is no stage, `fixed` has not one value for each earlier stage, or a normalisation
        divides by nothing.

    Notes
    -----
    Pyomo refuses rows without variables. Such a row is left out where it holds; where it does not
    hold (queries that no deployment may answer), it gets the variable ``nothing``, which is fixed
    at zero, so that the model can be built and is infeasible.
    """
    if not 0 <= stage < len(instance.objective):
        raise ValueError(f"stage {stage} is not one of the {len(instance.objective)} stages")
    if len(fixed) != stage:
        raise ValueError(f"stage {stage} needs {stage} fixed values, got {len(fixed)}")
    model = pyo.ConcreteModel()
    model.data = Data(instance)
    _add_variables(model)
    _add_rows(model)
    _add_objective(model, stage, [float(value) for value in fixed])
    return model


def metric_expression(
    model: pyo.ConcreteModel, name: str, q: int | None = None, k: int | None = None
) -> Any:
    """Value of a metric as an expression in the model's variables.

    Parameters
    ----------
    model : pyomo.environ.ConcreteModel
        Made by `build`.
    name : str
        A metric of ``model.data.metrics``.
    q, k : int, optional
        Restrict to one kind of queries, to one deployment, or both. By default the total.

    Returns
    -------
    pyomo expression
        Linear; the number 0 if no variable enters.

    Raises
    ------
    ValueError
        If the instance has no such metric, or it is a mean.
    """
    data = model.data
    if name not in data.metrics:
        raise ValueError(f"{name!r} is not one of the instance's metrics {data.metrics}")
    kinds = data.queries if q is None else [q]
    deployments = data.deployments if k is None else [k]
    return _total(model, kinds, deployments, lambda *qk: data.v[qk][name])


class Data:
    """Sets, eligibility and coefficients of one instance, as `routing.md` defines them.

    Parameters
    ----------
    instance : RoutingInstance
        The instance.
    """

    # Sets

    def __init__(self, instance: RoutingInstance) -> None:
        self.instance = instance
        self.queries = list(range(len(instance.queries)))
        self.deployments = list(range(len(instance.deployments)))
        self.limits = list(range(len(instance.limits)))
        # Native floats: NumPy scalars and Pyomo expressions do not mix well.
        self.n: Any = instance.count.tolist()
        self.tau_in: Any = instance.tokens_in.tolist()
        self.tau_out: Any = instance.tokens_out.tolist()
        self.allowed: Any = _optional_list(instance.allowed)
        self.runtime_limit_s: Any = _optional_list(instance.runtime_limit_s)
        self.accuracy_min: Any = _optional_list(instance.accuracy_min_percent)
        self.energy_j: Any = _optional_list(instance.energy_j)
        self.runtime_s: Any = _optional_list(instance.runtime_s)
        self.accuracy_percent: Any = _optional_list(instance.accuracy_percent)

    def members(self, limit: Limit) -> list[int]:
        """Deployments D of a limit."""
        if limit.deployments is None:
            return self.deployments
        names = [deployment.name for deployment in self.instance.deployments]
        return [names.index(name) for name in limit.deployments]

    # What a query is on a deployment

    def tokens(self, q: int, k: int) -> float:
        """Input and output tokens τ of a query."""
        return float(self.tau_in[q] + self.tau_out[q][k])

    def e(self, q: int, k: int) -> float:
        """Energy of a query at the instance's boundary, J."""
        if self.energy_j is not None:
            return float(self.energy_j[q][k])
        return self.predicted(self.instance.deployments[k].energy, q, k)

    def r(self, q: int, k: int) -> float:
        """Run time of a query, s."""
        if self.runtime_s is not None:
            return float(self.runtime_s[q][k])
        return self.predicted(self.instance.deployments[k].runtime, q, k)

    def predicted(self, law: TokenLaw | None, q: int, k: int) -> float:
        """Value of a deployment's law: a term of input, one of output and one of their product."""
        assert law is not None
        i, o = self.tau_in[q], self.tau_out[q][k]
        value = law.per_token_in * i + law.per_token_out * o + law.per_product * i * o
        if self.instance.negative_predictions == "clip":
            value = max(value, 0.0)
        return float(value)

    def accuracy(self, q: int, k: int) -> float | None:
        """Accuracy A of the answer, %; None if nobody knows."""
        if self.accuracy_percent is not None:
            return float(self.accuracy_percent[q][k])
        return self.instance.deployments[k].accuracy_percent

    def eligible(self, q: int, k: int) -> bool:
        """Whether all five conditions hold."""
        return (
            self.is_allowed(q, k)
            and self.fits_context(q, k)
            and self.is_fast(q, k)
            and self.is_accurate(q, k)
            and self.is_measured(q, k)
        )

    def is_allowed(self, q: int, k: int) -> bool:
        """Condition 1: nothing forbids the pair."""
        return self.allowed is None or bool(self.allowed[q][k])

    def fits_context(self, q: int, k: int) -> bool:
        """Condition 2: input and output fit the context together."""
        most = self.instance.deployments[k].max_context_tokens
        return most is None or self.tokens(q, k) <= most * (1 + SLACK)

    def is_fast(self, q: int, k: int) -> bool:
        """Condition 3: the answer is there in time."""
        if self.runtime_limit_s is None:
            return True
        return self.r(q, k) <= float(self.runtime_limit_s[q]) * (1 + SLACK)

    def is_accurate(self, q: int, k: int) -> bool:
        """Condition 4: the answer is as accurate as the query asks for."""
        if self.accuracy_min is None:
            return True
        accuracy = self.accuracy(q, k)
        assert accuracy is not None
        return accuracy >= float(self.accuracy_min[q]) * (1 - SLACK)

    def is_measured(self, q: int, k: int) -> bool:
        """Condition 5: the query lies within the measured ranges, where that matters."""
        deployment = self.instance.deployments[k]
        return self.instance.outside_range == "extrapolate" or (
            _within(self.tau_in[q], deployment.range_tokens_in)
            and _within(self.tau_out[q][k], deployment.range_tokens_out)
        )

    # Metrics

    @cached_property
    def v(self) -> dict[tuple[int, int], dict[str, float]]:
        """Coefficients of every pair, eligible or not, by metric."""
        return {
            qk: {
                **self.basic(*qk),
                **self.accuracy_metric(*qk),
                **self.facility_metrics(*qk),
            }
            for qk in product(self.queries, self.deployments)
        }

    @cached_property
    def metrics(self) -> list[str]:
        """Metrics that exist: those that every pair has."""
        return [name for name in self.v[0, 0] if all(name in values for values in self.v.values())]

    def basic(self, q: int, k: int) -> dict[str, float]:
        """Metrics that need nothing but energy and run time."""
        return {
            "queries": 1.0,
            "tokens_in": float(self.tau_in[q]),
            "tokens_out": float(self.tau_out[q][k]),
            "tokens": self.tokens(q, k),
            "energy_kwh": self.e(q, k) / J_PER_KWH,
            "runtime_s": self.r(q, k),
            "gpu_h": self.gpu_h(q, k),
            "cost_gpu_usd": self.cost_gpu_usd(q, k),
        }

    def share_s(self, q: int, k: int) -> float:
        """Run time over the m queries that an instance answers at once."""
        return self.r(q, k) / self.instance.deployments[k].concurrency

    def gpu_h(self, q: int, k: int) -> float:
        """GPUs g of an instance times a query's share of its time."""
        return self.instance.deployments[k].gpus * self.share_s(q, k) / S_PER_H

    def cost_gpu_usd(self, q: int, k: int) -> float:
        """GPU hours at their price, 0 where none is given."""
        price = self.instance.deployments[k].gpu_usd_per_hour
        return self.gpu_h(q, k) * (0.0 if price is None else price)

    def accuracy_metric(self, q: int, k: int) -> dict[str, float]:
        """The published accuracy function a, which weighs accuracy with tokens."""
        accuracy = self.accuracy(q, k)
        if accuracy is None:
            return {}
        return {"accuracy_percent_tokens": accuracy * self.tokens(q, k)}

    def facility_metrics(self, q: int, k: int) -> dict[str, float]:
        """Energy E^IT of the server, and what follows from it as far as the deployment knows."""
        deployment = self.instance.deployments[k]
        e_it = self.e(q, k) / J_PER_KWH
        if self.instance.boundary == "gpu":
            if deployment.host_w is None:
                return {}
            e_it = (self.e(q, k) + deployment.host_w * self.share_s(q, k)) / J_PER_KWH
        if deployment.pue is None:
            return {"energy_it_kwh": e_it}
        kwh = deployment.pue * e_it
        found = {"energy_it_kwh": e_it, "energy_facility_kwh": kwh}
        if deployment.carbon_g_per_kwh is not None:
            found["carbon_kg"] = kwh * deployment.carbon_g_per_kwh / 1000
        if deployment.price_usd_per_kwh is not None:
            cost_energy = kwh * deployment.price_usd_per_kwh
            found["cost_energy_usd"] = cost_energy
            found["cost_usd"] = cost_energy + self.cost_gpu_usd(q, k)
        return found

    # Objective

    def shift_and_size(self, term: Term) -> tuple[float, float]:
        """The normalisation (s, z) of a term, over all pairs of kinds that have queries."""
        values = [self.v[q, k][term.metric] for q, k in self.v if self.n[q] > 0]
        shift, size = {
            "none": (0.0, 1.0),
            "largest": (0.0, max(values)),
            "range": (min(values), max(values) - min(values)),
        }[term.normalisation]
        if not size > 0:
            text = f"divides {term.metric} by {size:g}; expected a number above 0"
            raise ValueError(f"the normalisation {term.normalisation!r} {text}")
        return shift, size

    def costs(self, stage: int) -> dict[tuple[int, int], float]:
        """Objective coefficients of a stage; terms of weight 0 are no part of it."""
        costs = dict.fromkeys(self.v, 0.0)
        for term in self.instance.objective[stage].terms:
            if term.weight == 0:
                continue
            shift, size = self.shift_and_size(term)
            for qk, values in self.v.items():
                costs[qk] += term.weight * (values[term.metric] - shift) / (size * term.scale)
        return costs


# Variables


def _add_variables(model: pyo.ConcreteModel) -> None:
    """Add x: how many queries of each kind each deployment answers."""
    data = model.data
    model.assigned = pyo.Var(
        [(q, k) for q, k in product(data.queries, data.deployments) if data.eligible(q, k)],
        domain=pyo.Integers,
        bounds=lambda model, q, k: (0.0, data.n[q]),
    )


# Rows


def _add_rows(model: pyo.ConcreteModel) -> None:
    """Add the rows on queries, on limits and on the mean accuracy."""
    model.demand = pyo.Constraint(model.data.queries, rule=_demand_row)
    model.limit = pyo.Constraint(model.data.limits, rule=_limit_row)
    model.accuracy_floor = pyo.Constraint(rule=_accuracy_floor_row)


def _demand_row(model: pyo.ConcreteModel, q: int) -> Any:
    data = model.data
    answered = _total(model, [q], data.deployments, lambda *qk: 1.0)
    return _between(model, data.n[q], answered, data.n[q])


def _limit_row(model: pyo.ConcreteModel, ell: int) -> Any:
    data = model.data
    limit = data.instance.limits[ell]
    used = _total(model, data.queries, data.members(limit), lambda *qk: data.v[qk][limit.metric])
    return _between(model, limit.lower, used, limit.upper)


def _accuracy_floor_row(model: pyo.ConcreteModel) -> Any:
    data = model.data
    floor = data.instance.accuracy_floor_percent
    if floor is None:
        return pyo.Constraint.Skip

    def above(q: int, k: int) -> float:
        a = data.v[q, k]["accuracy_percent_tokens"]
        return float(a - floor * data.tokens(q, k))

    return _between(model, 0.0, _total(model, data.queries, data.deployments, above), None)


def _total(
    model: pyo.ConcreteModel,
    kinds: Sequence[int],
    deployments: Sequence[int],
    coefficient: Callable[[int, int], float],
) -> Any:
    """Sum over eligible pairs of a coefficient times x."""
    pairs = [qk for qk in product(kinds, deployments) if qk in model.assigned]
    terms = [(coefficient(*qk), model.assigned[qk]) for qk in pairs]
    return pyo.quicksum(v * x for v, x in terms if v != 0)


def _between(model: pyo.ConcreteModel, lower: float | None, body: Any, upper: float | None) -> Any:
    """Row lower <= body <= upper, either side open for None, also without a variable."""
    if not isinstance(body, int | float):
        return (lower, body, upper)
    if (lower is None or lower <= body) and (upper is None or body <= upper):
        return pyo.Constraint.Skip
    if model.component("nothing") is None:
        model.nothing = pyo.Var(bounds=(0.0, 0.0))
    return (lower, model.nothing + body, upper)


# Objective


def _add_objective(model: pyo.ConcreteModel, stage: int, fixed: Sequence[float]) -> None:
    """Add the stage to minimise and the rows that keep the stages before it."""

    def keep(model: pyo.ConcreteModel, i: int) -> Any:
        tolerance = model.data.instance.objective[i].tolerance
        most = fixed[i] + tolerance * max(abs(fixed[i]), 1.0)
        return _between(model, None, _stage_value(model, i), most)

    model.stage = pyo.Constraint(list(range(stage)), rule=keep)
    model.objective = pyo.Objective(expr=_stage_value(model, stage), sense=pyo.minimize)


def _stage_value(model: pyo.ConcreteModel, i: int) -> Any:
    """Weighted and normalised sum of a stage."""
    data, costs = model.data, model.data.costs(i)
    return _total(model, data.queries, data.deployments, lambda *qk: costs[qk])


# Small mathematics


def _within(value: float, ends: tuple[float, float] | None) -> bool:
    """Whether a number lies between two, where they are given."""
    return ends is None or ends[0] * (1 - SLACK) <= value <= ends[1] * (1 + SLACK)


def _optional_list(array: Any) -> Any:
    """Nested lists of an array that may be missing."""
    return None if array is None else array.tolist()
