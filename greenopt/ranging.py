"""Marginals: what one more request or GPU does to every metric, along the optimal basis.

A basis says which columns and rows of a linear program sit at a bound. While it stays optimal, the
others follow linearly from the right-hand sides, and so does every metric: one linear system with
the basis matrix gives the rates of all directions, another how far each direction goes before the
basis changes (Dantzig's sensitivity analysis; one-sided, since the two sides of a degenerate vertex
differ).
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from scipy import sparse
from scipy.sparse import linalg

from greenopt.checking import belongs
from greenopt.errors import ModelError, Problem, SolutionError, SolverError
from greenopt.files import write_json
from greenopt.instance import Instance
from greenopt.labelled import FloatArray, load_pandas
from greenopt.model import Directions, Model
from greenopt.problems import part
from greenopt.results import Solution
from greenopt.solvers import Basis, RawResult, Session, Termination

METRICS = ("carbon_kg", "cost_usd", "water_l", "ttft_request_s", "ttft_mean_s")
"""Metrics whose marginals are given by default."""

BASIC, AT_LOWER, AT_UPPER = 1, 0, 2
AT_BOUND = 1e-9
"""A basic column or row this near its bound, relative to the bound's size, is at it."""

CHUNK = 256
"""Directions solved for at once."""

STEPS = (1.0, 1e-2, 1e-4)
"""Steps tried, in units of the direction, to find the basis beyond a degenerate vertex."""


@dataclass(frozen=True, eq=False)
class Marginal:
    """Rates of change per unit of each direction, one-sided, for an increase.

    Attributes
    ----------
    unit : str
        What one unit is.
    labels : dict of str to tuple of str
        Axes of the arrays below.
    rates : dict of str to ndarray
        By metric and for "objective" (of the last stage): change per unit. Infinite where no plan
        exists with any more; NaN where a degenerate vertex was not resolved.
    valid_up_to : ndarray
        Increase, in units, up to which the rates hold; infinite where nothing ever changes.
    degenerate : ndarray of bool
        Whether the first basis found says nothing about an increase, because the plan sits on more
        bounds than it needs; the rates are then those of the basis found beyond it.
    """

    unit: str
    labels: Mapping[str, tuple[str, ...]]
    rates: Mapping[str, FloatArray]
    valid_up_to: FloatArray
    degenerate: Any

    def at(self, **where: str) -> dict[str, float | bool]:
        """Every rate, the range and the flag at one place.

        Parameters
        ----------
        **where : str
            A label for every axis.

        Raises
        ------
        KeyError
            For an axis or a label that does not exist.
        """
        if set(where) != set(self.labels):
            raise KeyError(f"expected a label for each of {list(self.labels)}")
        try:
            place = tuple(members.index(where[axis]) for axis, members in self.labels.items())
        except ValueError as error:
            raise KeyError(str(error)) from None
        values: dict[str, float | bool] = {n: float(r[place]) for n, r in self.rates.items()}
        return values | {
            "valid_up_to": float(self.valid_up_to[place]),
            "degenerate": bool(self.degenerate[place]),
        }

    def to_frame(self) -> Any:
        """A long pandas frame: a row a direction, a column an axis, a metric, range and flag."""
        pd = load_pandas()
        grid = np.indices(self.valid_up_to.shape).reshape(len(self.labels), -1)
        axes = {
            axis: np.array(members, dtype=object)[code]
            for (axis, members), code in zip(self.labels.items(), grid, strict=True)
        }
        rates = {f"{name} per {self.unit}": rate.ravel() for name, rate in self.rates.items()}
        tail = {"valid_up_to": self.valid_up_to.ravel(), "degenerate": self.degenerate.ravel()}
        return pd.DataFrame({**axes, **rates, **tail})

    def document(self) -> dict[str, Any]:
        """JSON form; null stands for an infinite range, a rate of no plan or none known."""
        return {
            "unit": self.unit,
            "axes": list(self.labels),
            "rates": {name: _nulls(rate) for name, rate in self.rates.items()},
            "valid_up_to": _nulls(self.valid_up_to),
            "degenerate": self.degenerate.tolist(),
        }


@dataclass(frozen=True, eq=False)
class Marginals:
    """Marginals of an instance at its optimum.

    Attributes
    ----------
    instance, instance_sha256 : str
        Of what.
    objective : float
        Value of the last stage at the basis.
    integers_fixed : bool
        Whether whole numbers were held at the plan's, which understates what could be gained.
    of : dict of str to Marginal
        "demand" over period, origin, class; "gpus" over period, site, gpu_type; "gpus_always" over
        site, gpu_type: one more GPU in every period.
    """

    instance: str
    instance_sha256: str
    objective: float
    integers_fixed: bool
    of: Mapping[str, Marginal]

    def __getitem__(self, name: str) -> Marginal:
        if name not in self.of:
            raise KeyError(f"{name!r} is not here; there are {sorted(self.of)}")
        return self.of[name]

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a JSON file, whole or not at all."""
        sets = {axis: list(m) for own in self.of.values() for axis, m in own.labels.items()}
        write_json(
            path,
            {
                "kind": "marginals",
                "instance": self.instance,
                "instance_sha256": self.instance_sha256,
                "objective": self.objective,
                "integers_fixed": self.integers_fixed,
                "sets": sets,
                "of": {name: own.document() for name, own in self.of.items()},
            },
        )


def marginals(
    instance: Instance,
    solution: Solution | None = None,
    *,
    of: Sequence[str] | None = None,
    metrics: Sequence[str] = METRICS,
    time_limit: float = 60.0,
    seed: int = 0,
) -> Marginals:
    """Change of every metric per additional request and GPU at the optimum.

    Parameters
    ----------
    instance : Instance
        The problem.
    solution : Solution, optional
        A plan whose whole numbers are held fixed; an instance with whole numbers is solved first
        without one. Continuous instances are solved anew, since a plan alone has no basis.
    of : sequence of str, optional
        Some of "demand", "gpus", "gpus_always"; all by default.
    metrics : sequence of str
        Additive metrics, custom metrics and "ttft_mean_s".
    time_limit : float
        Time for resolving degenerate vertices, s; those left have NaN rates.
    seed : int
        Given to the solver.

    Raises
    ------
    ModelError
        If there is no optimal plan, or for an unknown name.
    SolutionError
        If the solution belongs to another instance or has no plan.
    """
    formulation = part(instance.problem, "formulation").formulate(instance, everywhere=True)
    directions: dict[str, Directions] = formulation.directions()
    wanted = list(directions) if of is None else list(of)
    if unknown := [name for name in wanted if name not in directions]:
        raise ModelError(f"no marginals of {unknown}; known are {list(directions)}")
    whole = _plan(formulation, solution) if formulation.model.is_integer else None
    model: Model = formulation.for_marginals(whole)
    with _Optimum(formulation, model, seed, time.perf_counter() + time_limit) as optimum:
        found = {name: optimum.marginal(directions[name], metrics) for name in wanted}
        return Marginals(
            formulation.model.name,
            instance.sha256,
            optimum.value,
            formulation.model.is_integer,
            found,
        )


def _plan(formulation: Any, solution: Solution | None) -> FloatArray:
    """Columns of the plan whose whole numbers are held."""
    from greenopt.solving import solve

    instance = formulation.instance
    if solution is None:
        solution = solve(instance, bound=False)
    belongs(instance, solution)
    if not solution.decision:
        raise ModelError(f"{instance.name}: status {solution.status}, there is no plan to start at")
    x: FloatArray = formulation.encode(solution.decision)
    if np.isnan(x[formulation.model.integer]).any():
        problem = Problem("$.decision", "does not say every whole number of the plan")
        raise SolutionError("solution", [problem])
    return x


class _Optimum:
    """The optimal basis of every stage, the last one's session kept to look beyond vertices."""

    def __init__(self, formulation: Any, model: Model, seed: int, until: float) -> None:
        self.formulation, self.until = formulation, until
        self.demand = float(formulation.instance.demand_requests.sum())
        self.earlier: list[tuple[_Vertex, float]] = []  # and the growth of the row that keeps it
        last = len(model.stages) - 1
        for number, stage in enumerate(model.stages):
            self.session = Session(model, number, solver="highs-simplex", seed=seed)
            try:
                self.vertex = _Vertex(model, stage.c, _optimal_basis(self.session))
                self.value = self.vertex.value
                if number < last:
                    keep = stage.tolerance * max(abs(self.value), 1.0)
                    slope = stage.tolerance * np.sign(self.value) * (abs(self.value) > 1)
                    self.earlier.append((self.vertex, 1 + slope))
                    model = model.with_row(f"stage_{number}", stage.c, self.value + keep)
            finally:
                if number < last:
                    self.session.close()

    def __enter__(self) -> _Optimum:
        return self

    def __exit__(self, *_: object) -> None:
        self.session.close()

    def marginal(self, directions: Directions, metrics: Sequence[str]) -> Marginal:
        """Rates, ranges and flags of one kind of direction."""
        rows, reach = self._through_stages(directions)
        vectors = {name: self._metric(name) for name in metrics}
        rates = self._rates(self.vertex, vectors, rows, directions.requests)
        reach = np.minimum(reach, self.vertex.reach(rows))
        reach = np.minimum(reach, self._cost_reach(directions.requests))
        degenerate = reach <= 0
        for j in np.flatnonzero(degenerate):
            self._look_beyond(int(j), rows[:, [j]], directions.requests[[j]], vectors, rates, reach)
        shape = tuple(len(members) for members in directions.labels.values())

        def grid(values: Any, outside: Any) -> Any:
            full = np.full(shape, outside)
            full[tuple(directions.codes)] = values
            return full

        return Marginal(
            directions.unit,
            directions.labels,
            {name: grid(rate, 0.0) for name, rate in rates.items()},
            grid(reach, np.inf),
            grid(degenerate, False),
        )

    def _metric(self, name: str) -> FloatArray:
        try:
            vector: FloatArray = self.formulation.metric_vector(name)
        except KeyError:
            raise ModelError(f"{name!r} is not an additive metric of this instance") from None
        return vector

    def _mean_weight(self, stage: int) -> float:
        """Weight of the mean TTFT in a stage: its denominator is the demand, which changes."""
        terms = self.formulation.instance.objective[stage].terms
        return float(sum(t.weight / t.scale for t in terms if t.metric == "ttft_mean_s"))

    def _through_stages(self, directions: Directions) -> tuple[Any, FloatArray]:
        """The directions over the last stage's rows, and how far the earlier bases hold.

        What keeps an earlier stage moves with that stage's optimum.
        """
        requests = directions.requests
        kept: list[FloatArray] = []
        reach: FloatArray = np.full(len(requests), np.inf)
        for number, (vertex, slope) in enumerate(self.earlier):
            rows = self._over_stage_rows(vertex, directions, kept)
            reach = np.minimum(reach, vertex.reach(rows))
            kept.append(slope * self._objective_rate(vertex, number, rows, requests))
        return self._over_stage_rows(self.vertex, directions, kept), reach

    def _over_stage_rows(
        self, vertex: _Vertex, directions: Directions, kept: Sequence[FloatArray]
    ) -> Any:
        """The directions with a row for each earlier stage.

        A mean in an earlier stage has the demand in its denominator, so its row gets easier, to
        first order by what the mean is at this vertex.
        """
        rows = directions.rows
        for number, rate in enumerate(kept):
            easier = self._mean_rate(vertex, number) * directions.requests
            rows = sparse.vstack([rows, sparse.csr_array((rate + easier)[None])], format="csc")
        return rows

    def _mean_rate(self, vertex: _Vertex, stage: int) -> float:
        """Fall of a stage's weighted mean TTFT per request more in its denominator."""
        if not (weight := self._mean_weight(stage)):
            return 0.0
        return (
            weight * float(self.formulation.metric_vector("ttft_mean_s") @ vertex.x) / self.demand
        )

    def _objective_rate(
        self, vertex: _Vertex, stage: int, rows: Any, requests: FloatArray
    ) -> FloatArray:
        rate: FloatArray = vertex.price(vertex.c) @ rows
        return rate - self._mean_rate(vertex, stage) * requests

    def _rates(
        self, vertex: _Vertex, vectors: Mapping[str, FloatArray], rows: Any, requests: FloatArray
    ) -> dict[str, FloatArray]:
        last = len(self.earlier)
        rates = {"objective": self._objective_rate(vertex, last, rows, requests)}
        for name, vector in vectors.items():
            if name == "ttft_mean_s":  # of the requests served
                served = self.formulation.metric_vector("requests")
                seconds = self.formulation.metric_vector("ttft_request_s")
                total, count = seconds @ vertex.x, served @ vertex.x
                more = vertex.price(seconds) @ rows, vertex.price(served) @ rows
                rates[name] = (more[0] - total / count * more[1]) / count
            else:
                rates[name] = vertex.price(vector) @ rows
        return rates

    def _cost_reach(self, requests: FloatArray) -> FloatArray:
        """How far total demand may grow until a mean's weight per request changes the basis."""
        weight = self._mean_weight(len(self.earlier))
        far = np.full(len(requests), np.inf)
        if weight == 0 or not requests.any():
            return far
        share = self.vertex.cost_reach(self.formulation.metric_vector("ttft_mean_s"))
        if share >= abs(weight):
            return far
        return np.where(requests > 0, self.demand * share / (abs(weight) - share), np.inf)

    def _look_beyond(
        self,
        j: int,
        row: Any,
        requests: FloatArray,
        vectors: Mapping[str, FloatArray],
        rates: dict[str, FloatArray],
        reach: FloatArray,
    ) -> None:
        """Replace what a degenerate vertex says of one direction by what holds beyond it."""
        outcome = None if self.earlier else self._basis_beyond(row.toarray().ravel())
        if outcome is None:
            found = dict.fromkeys(rates, np.array([np.nan]))
        elif outcome == Termination.INFEASIBLE:
            found = dict.fromkeys(rates, np.array([np.inf]))
        else:
            assert isinstance(outcome, _Vertex)
            found = self._rates(outcome, vectors, row, requests)
            reach[j] = outcome.reach(row)[0]
        for name, rate in found.items():
            rates[name][j] = rate[0]

    def _basis_beyond(self, row: FloatArray) -> _Vertex | Termination | None:
        """A basis that is optimal from here on in a direction; None if none was found in time."""
        model, end = self.vertex.model, None
        try:
            for step in STEPS:
                left = self.until - time.perf_counter()
                if left <= 0:
                    return None
                self.session.change(
                    row_lower=model.row_lower + step * row, row_upper=model.row_upper + step * row
                )
                raw = self.session.solve(left)
                end = raw.termination
                basis = self.session.basis()
                if end == Termination.OPTIMAL and basis is not None:
                    vertex = _Vertex(model, self.vertex.c, basis)
                    if vertex.is_feasible():
                        return vertex
            return end if end == Termination.INFEASIBLE else None
        finally:
            self.session.change(row_lower=model.row_lower, row_upper=model.row_upper)


def _optimal_basis(session: Session) -> Basis:
    raw: RawResult = session.solve()
    if raw.termination != Termination.OPTIMAL:
        raise ModelError(f"no optimal plan, so no marginals: {raw.message}")
    basis = session.basis()
    if basis is None:
        raise SolverError("the solver gives no basis")
    return basis


class _Vertex:
    """The point of a basis, and how it moves with the right-hand sides."""

    def __init__(self, model: Model, c: FloatArray, basis: Basis) -> None:
        self.model, self.c = model, c
        self.basic = np.flatnonzero(basis.column == BASIC)
        self.active = np.flatnonzero(basis.row != BASIC)
        self.loose = np.flatnonzero(basis.row == BASIC)
        matrix = sparse.csr_array(model.matrix)
        columns = sparse.csc_array(matrix)[:, self.basic]
        self._rows_of_basic = sparse.csr_array(columns)
        self._loose_rows = self._rows_of_basic[self.loose]
        self._solver: Any = linalg.splu(sparse.csc_array(self._rows_of_basic[self.active]))
        upper_column = basis.column == AT_UPPER
        self.column_side = np.where(upper_column, model.column_upper, model.column_lower)
        self.column_side = np.where(np.isfinite(self.column_side), self.column_side, 0.0)
        self.column_status, self.row_status = basis.column, basis.row
        x = np.where(basis.column == BASIC, 0.0, self.column_side)
        upper_row = (basis.row == AT_UPPER) | ~np.isfinite(model.row_lower)
        side = np.where(upper_row, model.row_upper, model.row_lower)
        x[self.basic] = self._solver.solve((side - matrix @ x)[self.active])
        self.x: FloatArray = x
        self.value = float(c @ x)
        self._matrix = matrix

    def price(self, vector: FloatArray) -> FloatArray:
        """Rate of ``vector·x`` per unit of each row's side, zero for rows that are loose."""
        price = np.zeros(len(self.model.row_lower))
        price[self.active] = self._solver.solve(vector[self.basic], "T")
        return price

    @cached_property
    def _slacks(self) -> tuple[FloatArray, FloatArray, FloatArray, FloatArray]:
        """Room of basic columns and loose rows above and below; what is at its bound has none."""
        m, x = self.model, self.x
        level = self._matrix @ x
        size = abs(self._matrix) @ np.abs(x)
        rows = _room(level, m.row_lower, m.row_upper, size)
        columns = _room(x, m.column_lower, m.column_upper, np.abs(x))
        low, high = (side[self.basic] for side in columns)
        loose_low, loose_high = (side[self.loose] for side in rows)
        return low, high, loose_low, loose_high

    def is_feasible(self) -> bool:
        """Whether the point keeps every bound, up to rounding."""
        return all(bool((side >= 0).all()) for side in self._slacks)

    def reach(self, rows: Any) -> FloatArray:
        """How far each direction goes until a column or row leaves its bounds."""
        directions = sparse.csc_array(rows)
        reach = np.empty(directions.shape[1])
        for start in range(0, len(reach), CHUNK):
            part_ = directions[:, start : start + CHUNK].toarray()
            move = self._solver.solve(part_[self.active])
            loose = self._loose_rows @ move - part_[self.loose]
            reach[start : start + CHUNK] = self._limit(move, loose)
        return reach

    def _limit(self, move: FloatArray, loose: FloatArray) -> FloatArray:
        low, high, loose_low, loose_high = (side[:, None] for side in self._slacks)
        limits = [_ratio(high, move), _ratio(low, -move)]
        limits += [_ratio(loose_high, loose), _ratio(loose_low, -loose)]
        nearest = [limit.min(axis=0, initial=np.inf) for limit in limits]
        reach: FloatArray = np.min(nearest, axis=0)
        return reach

    def cost_reach(self, vector: FloatArray) -> float:
        """How much of a cost vector may be taken off before a reduced cost changes sign."""
        now, less = (
            np.concatenate([v - self._matrix.T @ y, y])
            for v, y in ((self.c, self.price(self.c)), (vector, self.price(vector)))
        )
        m = self.model
        fixed = np.concatenate([m.column_lower == m.column_upper, m.row_lower == m.row_upper])
        status = np.concatenate([self.column_status, self.row_status])
        row_at_upper = ~np.isfinite(m.row_lower) | (self.row_status == AT_UPPER)
        at_upper = np.concatenate([self.column_status == AT_UPPER, row_at_upper])
        sign = np.where(at_upper, -1.0, 1.0)
        now, less = sign * now, sign * less
        scale = np.abs(self.c).max(initial=0.0)
        falls = (status != BASIC) & ~fixed & (less > 0) & (now > AT_BOUND * scale)
        return float((now[falls] / less[falls]).min(initial=np.inf))


def _room(value: FloatArray, lower: FloatArray, upper: FloatArray, size: FloatArray) -> Any:
    """Distance to both bounds; within rounding of one it is zero."""
    sides = []
    for room, bound in ((value - lower, lower), (upper - value, upper)):
        scale = np.maximum(size, np.abs(np.where(np.isfinite(bound), bound, 0.0)))
        near = np.abs(room) <= AT_BOUND * np.maximum(scale, 1e-3)
        sides.append(np.where(near, 0.0, room))
    return sides


def _ratio(room: FloatArray, rate: FloatArray) -> FloatArray:
    """Units until the room is used up; infinite where it is not, nor by rounding."""
    largest = np.abs(rate).max(axis=0, initial=0.0)
    uses = rate > 1e-11 * np.maximum(largest, 1e-300)
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.maximum(room, 0.0) / np.where(uses, rate, 1.0)
    units: FloatArray = np.where(uses, ratio, np.inf)
    return units


def _nulls(values: FloatArray) -> Any:
    boxed = np.array(values, dtype=object)
    boxed[~np.isfinite(values)] = None
    return boxed.tolist()
