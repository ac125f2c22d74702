"""The model of a routing instance, and the way back from its columns and rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cached_property
from typing import NamedTuple, Self

import numpy as np
from scipy import optimize, sparse

from greenopt.errors import InstanceError, Problem
from greenopt.labelled import BoolArray, FloatArray, IntArray, LabelledArray
from greenopt.model import Block, Builder, Model, StageObjective
from greenopt.physics.energy import J_PER_KWH, S_PER_H
from greenopt.problems.routing.instance import Limit, RoutingInstance, Stage, Term, TokenLaw
from greenopt.problems.routing.metrics import METRICS

SLACK = 1e-9
"""Relative slack of comparisons with data: equality counts."""

MANY_COLUMNS = 20_000
"""From this size on a workload is solved by sifting: prices of the few limits say which of its
columns matter."""

WHOLE = 1e-6
"""Distance from a whole number that is a solver's rounding."""


class Pairs:
    """What every query is on every deployment, in arrays over (query, deployment).

    Parameters
    ----------
    instance : RoutingInstance
        Whose.
    """

    def __init__(self, instance: RoutingInstance) -> None:
        self.instance = instance
        self.shape = (len(instance.queries), len(instance.deployments))

    @cached_property
    def energy_j(self) -> FloatArray:
        """Energy at the boundary."""
        return self._of_law(self.instance.energy_j, lambda d: d.energy)

    @cached_property
    def runtime_s(self) -> FloatArray:
        """Run time."""
        return self._of_law(self.instance.runtime_s, lambda d: d.runtime)

    @cached_property
    def tokens(self) -> FloatArray:
        """Input and output tokens."""
        return self.instance.tokens_in[:, None] + self.instance.tokens_out

    @cached_property
    def accuracy_percent(self) -> FloatArray:
        """Accuracy."""
        given = self.instance.accuracy_percent
        return self._of_each("accuracy_percent") if given is None else given

    def _of_law(self, given: FloatArray | None, law_of: Callable[..., TokenLaw]) -> FloatArray:
        """A table, or the laws of the deployments on the tokens of the queries."""
        if given is not None:
            return given
        a, b, c = (
            np.array([getattr(law_of(d), name) for d in self.instance.deployments])
            for name in ("per_token_in", "per_token_out", "per_product")
        )
        tokens_in, tokens_out = self.instance.tokens_in[:, None], self.instance.tokens_out
        value = (b + c * tokens_in) * tokens_out + a * tokens_in
        clipped = self.instance.negative_predictions == "clip"
        return np.maximum(value, 0.0) if clipped else value

    def _of_each(self, field: str) -> FloatArray:
        """A number of each deployment, 0 where it is null, over all pairs."""
        values = [getattr(d, field) or 0.0 for d in self.instance.deployments]
        return np.broadcast_to(np.array(values, dtype=float), self.shape)

    def metric(self, name: str) -> FloatArray:
        """Coefficients of an additive metric.

        Raises
        ------
        KeyError
            If it is no additive metric of the instance.
        """
        if not self.instance.has_metric(name) or METRICS[name].kind != "additive":
            raise KeyError(name)
        value = np.broadcast_to(_COEFFICIENTS[name](self), self.shape)
        return np.asarray(value, dtype=float)

    @cached_property
    def instance_s(self) -> FloatArray:
        """Run time over the queries that an instance answers at the same time."""
        return self.runtime_s / self._of_each("concurrency")

    @cached_property
    def it_kwh(self) -> FloatArray:
        """Energy of the whole server."""
        energy = self.energy_j
        if self.instance.boundary == "gpu":
            energy = energy + self._of_each("host_w") * self.instance_s
        return energy / J_PER_KWH

    @cached_property
    def facility_kwh(self) -> FloatArray:
        """Energy of the facility."""
        return self._of_each("pue") * self.it_kwh

    @cached_property
    def gpu_h(self) -> FloatArray:
        """Run time times GPUs."""
        return self._of_each("gpus") * self.instance_s / S_PER_H

    def eligible(self) -> BoolArray:
        """Which pairs may be used."""
        inst = self.instance
        may = np.ones(self.shape, dtype=bool) if inst.allowed is None else inst.allowed.copy()
        if any(d.max_context_tokens is not None for d in inst.deployments):
            longest = [d.max_context_tokens or np.inf for d in inst.deployments]
            may &= self.tokens <= np.array(longest) * (1 + SLACK)
        if inst.runtime_limit_s is not None:
            limit = inst.runtime_limit_s[:, None]
            may &= self.runtime_s <= limit + SLACK * np.where(np.isfinite(limit), limit, 0.0)
        if inst.accuracy_min_percent is not None:
            may &= self.accuracy_percent >= inst.accuracy_min_percent[:, None] * (1 - SLACK)
        if inst.outside_range == "forbid":
            for k, deployment in enumerate(inst.deployments):
                may[:, k] &= _inside(inst.tokens_in, deployment.range_tokens_in)
                may[:, k] &= _inside(inst.tokens_out[:, k], deployment.range_tokens_out)
        return may


def _floor(side: float) -> float:
    """The largest whole number up to a side; one that is whole but for rounding counts."""
    if not np.isfinite(side):
        return side
    near = float(np.round(side))
    return near if abs(side - near) <= SLACK * max(abs(side), 1.0) else float(np.floor(side))


def _inside(tokens: FloatArray, ends: tuple[float, float] | None) -> BoolArray:
    if ends is None:
        return np.ones(len(tokens), dtype=bool)
    lower, upper = ends
    return np.asarray((tokens >= lower * (1 - SLACK)) & (tokens <= upper * (1 + SLACK)))


_COEFFICIENTS: dict[str, Callable[[Pairs], FloatArray]] = {
    "queries": lambda p: np.ones(1),
    "tokens_in": lambda p: p.instance.tokens_in[:, None],
    "tokens_out": lambda p: p.instance.tokens_out,
    "tokens": lambda p: p.tokens,
    "energy_kwh": lambda p: p.energy_j / J_PER_KWH,
    "runtime_s": lambda p: p.runtime_s,
    "gpu_h": lambda p: p.gpu_h,
    "accuracy_percent_tokens": lambda p: p.accuracy_percent * p.tokens,
    "energy_it_kwh": lambda p: p.it_kwh,
    "energy_facility_kwh": lambda p: p.facility_kwh,
    "carbon_kg": lambda p: p.facility_kwh * p._of_each("carbon_g_per_kwh") / 1000,
    "cost_energy_usd": lambda p: p.facility_kwh * p._of_each("price_usd_per_kwh"),
    "cost_gpu_usd": lambda p: p.gpu_h * p._of_each("gpu_usd_per_hour"),
    "cost_usd": lambda p: (
        p.facility_kwh * p._of_each("price_usd_per_kwh") + p.gpu_h * p._of_each("gpu_usd_per_hour")
    ),
}
"""Coefficients of every additive metric, to be broadcast over the pairs."""


class Row(NamedTuple):
    """A limit as a row: its coefficients over the columns (0 outside it) and sides."""

    coefficients: FloatArray
    lower: float
    upper: float


class Formulation:
    """The model of one instance, with plans and prices read from it and written to it.

    Parameters
    ----------
    instance : RoutingInstance
        What to formulate.

    Attributes
    ----------
    model : Model
        Columns `assigned`; rows `demand`, `limit`, `accuracy_floor`.
    is_network : bool
        Whether the matrix is totally unimodular, so that vertices of the linear program are whole.
    query_of_column, deployment_of_column : ndarray of int, shape (n_columns,)
        Positions of the pairs that columns stand for, in order of the queries.
    """

    curved = False

    def __init__(self, instance: RoutingInstance) -> None:
        self.instance, self.pairs = instance, Pairs(instance)
        self.query_of_column, self.deployment_of_column = np.nonzero(self.pairs.eligible())
        self._rows = [self._row(limit) for limit in instance.limits]
        self.is_network = self._is_network()
        self.model = self._build()

    # -- building ----------------------------------------------------------------------------------

    def _build(self) -> Model:
        inst = self.instance
        labels = {**inst.sets, "limit": tuple(limit.name for limit in inst.limits)}
        build = Builder(inst.name, labels)
        codes = {"query": self.query_of_column, "deployment": self.deployment_of_column}
        most = inst.count[self.query_of_column]
        columns = build.add_columns("assigned", codes, 0.0, most, integer=not self.is_network)
        kinds = np.arange(len(inst.queries))
        demand = build.add_rows("demand", {"query": kinds}, inst.count, inst.count)
        build.add_entries(demand.start + self.query_of_column, columns.positions, 1.0)
        if inst.limits:
            sides = np.array([(row.lower, row.upper) for row in self._rows])
            numbers = np.arange(len(self._rows))
            limit = build.add_rows("limit", {"limit": numbers}, sides[:, 0], sides[:, 1])
            for number, row in enumerate(self._rows):
                used = np.flatnonzero(row.coefficients)
                build.add_entries(limit.start + number, used, row.coefficients[used])
        if inst.accuracy_floor_percent is not None:
            floor = build.add_rows("accuracy_floor", {}, 0.0, np.inf)
            above = self.pairs.accuracy_percent - inst.accuracy_floor_percent
            values = (above * self.pairs.tokens)[self.query_of_column, self.deployment_of_column]
            build.add_entries(floor.start, columns.positions, values)
        return build.build([self._stage(s, stage) for s, stage in enumerate(inst.objective)])

    def _row(self, limit: Limit) -> Row:
        """A limit over the columns; one that counts queries gets whole sides."""
        inst = self.instance
        coefficients = self._vector(limit.metric)
        if limit.deployments is not None:
            named = np.isin(inst.sets["deployment"], limit.deployments)
            coefficients = np.where(named[self.deployment_of_column], coefficients, 0.0)
        lower = -np.inf if limit.lower is None else limit.lower
        upper = np.inf if limit.upper is None else limit.upper
        if limit.metric != "queries":
            return Row(coefficients, lower, upper)
        return Row(coefficients, -_floor(-lower), _floor(upper))

    def _is_network(self) -> bool:
        """Whether all limits count queries over nested or disjoint sets of deployments."""
        inst = self.instance
        if len(inst.objective) > 1 or inst.accuracy_floor_percent is not None:
            return False
        if any(limit.metric != "queries" for limit in inst.limits):
            return False
        every = frozenset(inst.sets["deployment"])
        sets = {every if own.deployments is None else frozenset(own.deployments)
                for own in inst.limits}  # fmt: skip
        return all(a <= b or b <= a or not a & b for a in sets for b in sets)

    def _vector(self, name: str) -> FloatArray:
        return self.pairs.metric(name)[self.query_of_column, self.deployment_of_column]

    def _stage(self, number: int, stage: Stage) -> StageObjective:
        c = np.zeros(len(self.query_of_column))
        for t, term in enumerate(stage.terms):
            if term.weight == 0:
                continue
            shift, size = self._normaliser(term)
            if not size > 0:
                text = f"{term.metric} is nowhere above its smallest value; it cannot be normalised"
                if term.normalisation == "largest":
                    text = f"{term.metric} is nowhere above 0; it cannot be divided by its largest"
                path = f"$.objective[{number}].terms[{t}].normalisation"
                raise InstanceError(self.instance.name, [Problem(path, text)])
            c += term.weight / (size * term.scale) * (self._vector(term.metric) - shift)
        return StageObjective(c, stage.tolerance)

    def _normaliser(self, term: Term) -> tuple[float, float]:
        """Shift and size of a term, over the pairs of queries that there are."""
        if term.normalisation == "none":
            return 0.0, 1.0
        values = self.pairs.metric(term.metric)[self.instance.count > 0]
        if term.normalisation == "largest":
            return 0.0, float(values.max())
        return float(values.min()), float(values.max() - values.min())

    # -- what a solve asks -------------------------------------------------------------------------

    @property
    def suits(self) -> str | None:
        """The solver that suits the model, where the default is left to choose."""
        few = len(self.model.stages) == 1
        return "sifting" if few and self.model.matrix.shape[1] >= MANY_COLUMNS else None

    def below(self) -> Self | None:
        """None: nothing here is a curve."""
        return None

    def proving(self, model: Model, stage: int, row_dual: FloatArray) -> FloatArray:
        """Row multipliers that prove a bound: those of the solver."""
        return row_dual

    def metric_vector(self, name: str) -> FloatArray:
        """Coefficients of a metric over the model's columns.

        Raises
        ------
        KeyError
            If it is no additive metric of the instance.
        """
        return self._vector(name)

    def term_vector(self, term: Term) -> FloatArray:
        """Coefficients of a term of the objective over the model's columns, without its shift."""
        if term.weight == 0:
            return np.zeros(len(self.query_of_column))
        return term.weight / (self._normaliser(term)[1] * term.scale) * self._vector(term.metric)

    # -- there and back ----------------------------------------------------------------------------

    def decode(self, x: FloatArray) -> dict[str, LabelledArray]:
        """The decision: how many queries of each kind go to each deployment."""
        whole = self._whole(x)
        return {"assigned": self.model.pick(self.model.columns["assigned"], "queries", whole)}

    def _whole(self, x: FloatArray) -> FloatArray:
        """Whole numbers of queries: those of the point, or of a vertex beside it.

        A solver that stops between vertices of a network (interior point, first order) leaves
        fractions. The whole points of the box around its point have a vertex at no more cost.
        """
        near = np.round(x)
        if np.abs(x - near).max(initial=0.0) <= WHOLE:
            return np.maximum(near, 0.0)
        lower, upper = np.floor(x + WHOLE), np.ceil(x - WHOLE)
        free = np.flatnonzero(upper > lower)
        model, fixed = self.model, np.where(upper > lower, 0.0, lower)
        part = model.matrix[:, free]
        rows = np.flatnonzero(np.diff(sparse.csr_array(part).indptr))
        rest = model.matrix[rows] @ fixed
        found = optimize.milp(
            model.stages[0].c[free],
            bounds=optimize.Bounds(lower[free], upper[free]),
            constraints=optimize.LinearConstraint(
                part[rows], model.row_lower[rows] - rest, model.row_upper[rows] - rest
            ),
            integrality=np.ones(len(free), dtype=np.int8),
        )
        if found.x is None:
            return near
        result: FloatArray = fixed
        result[free] = np.round(found.x)
        return result

    def misfit(self, decision: Mapping[str, LabelledArray]) -> str:
        """Say why arrays are no plan of this instance, nor a part of one; nothing if they are."""
        if "assigned" not in decision:
            return f"none of its arrays {sorted(decision)} belongs to this plan"
        labels = getattr(decision["assigned"], "labels", None)
        own = {axis: self.instance.sets[axis] for axis in ("query", "deployment")}
        if labels is None or tuple(labels) != tuple(own):
            return f"array 'assigned' is not over {list(own)}"
        if any(labels[axis] != members for axis, members in own.items()):
            return "array 'assigned' has other labels than this instance"
        return ""

    def encode(self, decision: Mapping[str, LabelledArray]) -> FloatArray:
        """Columns of a plan, the inverse of `decode`."""
        return decision["assigned"].dense()[self.query_of_column, self.deployment_of_column]

    def marginals_of(self, model: Model, row_dual: FloatArray) -> dict[str, LabelledArray]:
        """Row multipliers by name: of queries, limits, the accuracy floor and earlier stages."""
        result = {}
        for name, block in model.rows.items():
            if name == "demand":
                result[name] = self.model.pick(block, "objective per query", row_dual)
            elif name == "limit":
                result[name] = self.model.pick(block, "objective per unit of the limit", row_dual)
            else:
                result[name] = _single(name, block, row_dual)
        return result


def _single(name: str, block: Block, row_dual: FloatArray) -> LabelledArray:
    """The multiplier of a row that has no axes."""
    codes: IntArray = np.zeros((0, 1), dtype=np.int64)
    unit = "objective per % token" if name == "accuracy_floor" else "objective per unit of stage"
    return LabelledArray(name, unit, {}, codes, row_dual[block.slice])


def formulate(instance: RoutingInstance) -> Formulation:
    """Build the model of an instance."""
    return Formulation(instance)
