"""Marginals: what one unit more on a right-hand side does to every metric, along the optimal basis.

A basis says which columns and rows of a linear program sit at a bound. While it stays optimal, the
others follow linearly from the right-hand sides, and so does every metric: one linear system with
the basis matrix gives the rates of all directions, another how far each direction goes before the
basis changes (Dantzig's sensitivity analysis; one-sided, since the two sides of a degenerate vertex
differ). A direction that the basis of a degenerate vertex cannot follow has another optimal basis
of the same vertex: the linear program over the moves that its bounds allow finds it.
"""

from __future__ import annotations

import csv
import io
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Protocol

import numpy as np
from scipy import sparse
from scipy.sparse import csgraph, linalg

from greenopt import arguments
from greenopt.checking import belongs
from greenopt.errors import ModelError, NoOptimumError, Problem, SolutionError, SolverError
from greenopt.files import write_bytes_atomically, write_json
from greenopt.instance import Instance
from greenopt.labelled import BoolArray, FloatArray, load_pandas
from greenopt.model import Directions, Model
from greenopt.problems import part
from greenopt.results import SCHEMA_VERSION, Solution
from greenopt.showing import showing
from greenopt.solvers import Basis, Session, Termination

AT_BOUND = 1e-9
"""A basic column or row this near its bound, relative to the bound's size, is at it; a reduced cost
this near zero, relative to the sizes it is the difference of, is zero."""

ATTEMPTS: tuple[dict[str, Any], ...] = (
    {},
    {"dual_tolerance": 1e-9},
    {"dual_tolerance": 1e-9, "spread": 1e9},
    {"spread": 1e3},
)
"""Settings of the session tried in turn until its basis is optimal."""

SUBOPTIMAL = 1e-9
"""What a basis may leave to be gained, relative to the sum of absolute terms of the objective, or
to the largest term that could be."""

NOISE = 1e-4
"""Rounding of a reduced cost is relative to at least this share of the largest coefficient."""

LEAST = 1e-2
"""Least size of a column, in its own unit, that rounding is relative to."""

CHUNK = 64
"""Dense right-hand sides solved for at once."""


class Growing(Protocol):
    """A model whose right-hand sides may grow: what a problem's `marginals.formulate` returns.

    Attributes
    ----------
    instance, model : Instance, Model
        Of what, and the model that `solve` has.
    metrics : tuple of str
        Those whose marginals are given by default.
    sums : dict of str to str
        Metrics that are means, and what each is a mean of.
    count : str
        The metric that means are divided by.

    A problem that relaxes whole numbers instead of holding them has a model without any, and an
    attribute `relaxed` that is true.
    """

    instance: Any
    model: Model
    metrics: tuple[str, ...]
    sums: Mapping[str, str]
    count: str

    def metric_vector(self, name: str) -> FloatArray:
        """Coefficients of a metric over the model's columns; KeyError if it is not linear."""
        ...

    def mean_in(self, stage: int) -> FloatArray:
        """The part of a stage's objective that is a mean, whose denominator directions change."""
        ...

    def directions(self) -> dict[str, Directions]:
        """What may grow, by name."""
        ...

    def for_marginals(self, x: FloatArray | None = None) -> Model:
        """The linear program whose right-hand sides may grow, whole numbers held at a plan's."""
        ...

    def encode(self, decision: Any) -> FloatArray:
        """Columns of a plan; NaN for what it does not say."""
        ...


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
        exists with any more; NaN where a degenerate vertex was not resolved in time, or a mean has
        nothing to average.
    valid_up_to : ndarray
        Increase, in units, up to which the rates hold: infinite where nothing ever changes, zero
        where no plan exists with any more, NaN where nothing is known. A mean whose denominator
        grows bends within the range all the same.
    degenerate : ndarray of bool
        Whether the first basis found says nothing about an increase, because the plan sits on more
        bounds than it needs; the rates are then those of another basis of the same plan.
    tied : tuple of str
        Names of rates that other optimal plans may not share, since a change of the plan that
        costs nothing would change the metric.
    """

    unit: str
    labels: Mapping[str, tuple[str, ...]]
    rates: Mapping[str, FloatArray]
    valid_up_to: FloatArray
    degenerate: BoolArray
    tied: tuple[str, ...] = ()

    def __repr__(self) -> str:
        over = " x ".join(f"{len(members)} {axis}" for axis, members in self.labels.items())
        return f"<Marginal per {self.unit} over {over}: {', '.join(self.rates)}>"

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
        for axis, members in self.labels.items():
            if where[axis] not in members:
                raise KeyError(f"{where[axis]!r} is not a {axis}; there are {list(members)}")
        place = tuple(members.index(where[axis]) for axis, members in self.labels.items())
        values: dict[str, float | bool] = {n: float(r[place]) for n, r in self.rates.items()}
        return values | {
            "valid_up_to": float(self.valid_up_to[place]),
            "degenerate": bool(self.degenerate[place]),
        }

    def rows(self) -> Iterator[dict[str, Any]]:
        """A row a direction: its labels, rates, range and flag."""
        for place in np.ndindex(self.valid_up_to.shape):
            at = zip(self.labels.items(), place, strict=True)
            where = {axis: members[i] for (axis, members), i in at}
            yield where | self.at(**where)

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
        """JSON form; null is a rate that is infinite or unknown, and a range that is.

        With a rate of null, a range of 0 says that there is no plan, null that nothing is known.
        """
        return {
            "unit": self.unit,
            "axes": list(self.labels),
            "rates": {name: _nulls(rate) for name, rate in self.rates.items()},
            "valid_up_to": _nulls(self.valid_up_to),
            "degenerate": self.degenerate.tolist(),
            "tied": list(self.tied),
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
        Whether whole numbers were held at the plan's. Rates and objective are then those of the
        best plan with these numbers: starting or stopping an instance could gain more.
    of : dict of str to Marginal
        By direction. Of placement, "demand" over period, origin, class; "gpus" over period, site,
        gpu_type; "gpus_always" over site, gpu_type: one more GPU in every period. Of routing,
        "demand" over query; "limits" over limit: one more unit of both its sides.
    integers_relaxed : bool
        Whether whole numbers were relaxed. Rates and objective are then those of the linear
        program, which no plan may reach.
    """

    instance: str
    instance_sha256: str
    objective: float
    integers_fixed: bool
    of: Mapping[str, Marginal]
    integers_relaxed: bool = False

    def __repr__(self) -> str:
        sizes = ", ".join(f"{own.valid_up_to.size} of {name}" for name, own in self.of.items())
        whole = ", whole numbers held" if self.integers_fixed else ""
        whole += ", whole numbers relaxed" if self.integers_relaxed else ""
        return f"<Marginals of {self.instance!r}: {sizes}{whole}>"

    def __getitem__(self, name: str) -> Marginal:
        if name not in self.of:
            raise KeyError(f"{name!r} is not here; there are {sorted(self.of)}")
        return self.of[name]

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a file, whole or not at all: a table if its name ends in ``.csv``, else JSON."""
        if str(path).endswith(".csv"):
            write_bytes_atomically(path, self._table().encode())
            return
        write_json(path, self.document())

    def document(self) -> dict[str, Any]:
        """JSON form."""
        sets = {axis: list(m) for own in self.of.values() for axis, m in own.labels.items()}
        return {
            "kind": "marginals",
            "schema_version": SCHEMA_VERSION,
            "instance": self.instance,
            "instance_sha256": self.instance_sha256,
            "objective": self.objective,
            "integers_fixed": self.integers_fixed,
            "integers_relaxed": self.integers_relaxed,
            "sets": sets,
            "of": {name: own.document() for name, own in self.of.items()},
        }

    def _table(self) -> str:
        """Comma-separated values: a row a direction, nothing in the axes that it has not."""
        axes = dict.fromkeys(axis for own in self.of.values() for axis in own.labels)
        rates = dict.fromkeys(name for own in self.of.values() for name in own.rates)
        integers = {
            "integers_fixed": self.integers_fixed,
            "integers_relaxed": self.integers_relaxed,
        }
        head = ["of", "unit", *axes, *rates, "valid_up_to", "degenerate", "tied", *integers]
        text = io.StringIO()
        writer = csv.DictWriter(text, head, restval="", lineterminator="\n")
        writer.writeheader()
        for name, own in self.of.items():
            whole = {"of": name, "unit": own.unit, "tied": " ".join(own.tied)}
            writer.writerows(whole | row | integers for row in own.rows())
        return text.getvalue()


def marginals(
    instance: Instance,
    solution: Solution | None = None,
    *,
    of: str | Sequence[str] | None = None,
    metrics: str | Sequence[str] | None = None,
    time_limit: float = 60.0,
    seed: int = 0,
) -> Marginals:
    """Change of every metric per unit more of every direction at the optimum.

    Parameters
    ----------
    instance : Instance
        The problem.
    solution : Solution, optional
        A plan whose whole numbers are held fixed; an instance with whole numbers is solved first
        without one. Continuous instances are solved anew, since a plan alone has no basis.
    of : str or sequence of str, optional
        Directions that the problem has, of placement some of "demand", "gpus", "gpus_always", of
        routing of "demand", "limits"; all by default.
    metrics : str or sequence of str, optional
        Additive metrics, custom metrics and means; by default those that most ask for.
    time_limit : float
        Time for everything, s. Whole numbers found in half of it are held, also if not proved
        best; degenerate vertices not resolved by then have NaN rates.
    seed : int
        Given to the solver.

    Raises
    ------
    NoOptimumError
        If no plan exists or was found in time.
    ModelError
        For an unknown name, a problem without marginals, or what is no instance.
    SolutionError
        If the solution belongs to another instance, or lacks some of the whole numbers.
    """
    from greenopt.solving import refuse_others

    refuse_others(instance)
    if not showing(instance.problem).DIRECTIONS:
        raise ModelError(f"{instance.problem} has no marginals")
    if solution is not None:
        belongs(instance, solution)
    until = time.perf_counter() + arguments.time_limit_s(time_limit)
    arguments.seed(seed)
    formulation: Growing = part(instance.problem, "marginals").formulate(instance)
    directions = formulation.directions()
    wanted = list(directions) if of is None else _names(of)
    if unknown := [name for name in wanted if name not in directions]:
        raise ModelError(f"no marginals of {unknown}; known are {list(directions)}")
    vectors = _vectors(formulation, _names(formulation.metrics if metrics is None else metrics))
    held = formulation.model.is_integer
    whole = _plan(formulation, solution, until, seed) if held else None
    with _Optimum(formulation, whole, seed, until) as optimum:
        found = {name: optimum.marginal(directions[name], vectors) for name in wanted}
        relaxed = bool(getattr(formulation, "relaxed", False))
        name, value = formulation.model.name, optimum.value
        return Marginals(name, instance.sha256, value, held, found, relaxed)


def _names(names: str | Sequence[str]) -> list[str]:
    return [names] if isinstance(names, str) else list(dict.fromkeys(names))


def _vectors(formulation: Growing, metrics: Sequence[str]) -> dict[str, FloatArray]:
    """Coefficients of metrics; of a mean, those of its sum."""
    vectors = {}
    for name in metrics:
        try:
            vectors[name] = formulation.metric_vector(formulation.sums.get(name, name))
        except KeyError:
            raise ModelError(f"{name!r} is not an additive metric of this instance") from None
    return vectors


def _plan(formulation: Growing, solution: Solution | None, until: float, seed: int) -> FloatArray:
    """Columns of the plan whose whole numbers are held."""
    from greenopt.solving import solve

    instance = formulation.instance
    if solution is None:
        left = max(_left(until), 1e-3)
        solution = solve(instance, bound=False, time_limit=left / 2, seed=seed)
    if not solution.decision:
        text = f"{instance.name}: status {solution.status}, there is no plan to start at"
        raise NoOptimumError(text)
    x = formulation.encode(solution.decision)
    if np.isnan(x[formulation.model.integer]).any():
        problem = Problem("$.decision", "does not say every whole number of the plan")
        raise SolutionError("solution", [problem])
    return x


class _Optimum:
    """The optimal vertex of every stage, in order.

    Columns are measured in units of their bounds in the instance, which the model for marginals no
    longer has: solvers' tolerances are absolute.
    """

    def __init__(
        self, formulation: Growing, whole: FloatArray | None, seed: int, until: float
    ) -> None:
        self._means, self._until = formulation.sums.keys(), until
        self._unit = _unit_of(formulation.model.column_upper)
        self._count = self._unit * formulation.metric_vector(formulation.count)
        model = _measured_in(formulation.for_marginals(whole), self._unit)
        self._stages: list[_Stage] = []
        try:
            for number, objective in enumerate(model.stages):
                mean = self._unit * formulation.mean_in(number)
                stage = _Stage(model, number, mean, self._count, seed, until)
                self._stages.append(stage)
                keep = objective.tolerance * max(abs(stage.value), 1.0)
                model = model.with_row(f"stage_{number}", objective.c, stage.value + keep)
        except (ModelError, SolverError) as error:
            self.close()
            fixed = "" if whole is None else " with the plan's whole numbers"
            text = f"{formulation.model.name}: no marginals{fixed}: {error}"
            raise type(error)(text) from None

    def __enter__(self) -> _Optimum:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let the solver's memory go."""
        for stage in self._stages:
            stage.session.close()

    @property
    def value(self) -> float:
        """Objective of the last stage."""
        return self._stages[-1].value

    @property
    def x(self) -> FloatArray:
        """The plan, in the formulation's columns."""
        return self._unit * self._stages[-1].vertex.x

    def marginal(self, directions: Directions, vectors: Mapping[str, FloatArray]) -> Marginal:
        """Rates, ranges and flags of one kind of direction."""
        found = _Found.nothing(directions.rows.shape[1])
        kept: list[FloatArray] = []
        for stage in self._stages:
            rows = self._with_stage_rows(directions, stage, kept)
            own = self._vectors_at(stage.vertex.x, vectors) if stage is self._stages[-1] else {}
            found = stage.follow(rows, own, directions.count, self._until).after(found)
            rate = np.nan_to_num(found.rates["objective"], posinf=0.0)
            kept.append(stage.growth * rate)
            if stage is not self._stages[-1]:
                found.reach = np.minimum(found.reach, stage.reach_of_growth(rate))
        shape = tuple(len(members) for members in directions.labels.values())

        def grid(values: Any, outside: Any) -> Any:
            full = np.full(shape, outside)
            full[tuple(directions.codes)] = values
            return full

        return Marginal(
            directions.unit,
            directions.labels,
            {name: grid(rate, 0.0) for name, rate in found.rates.items()},
            grid(found.reach, np.inf),
            grid(found.degenerate, False),
            tuple(name for name in found.rates if name in found.tied),
        )

    def _with_stage_rows(
        self, directions: Directions, stage: _Stage, kept: Sequence[FloatArray]
    ) -> Any:
        """The directions over a stage's rows, those that keep the earlier stages included.

        What keeps an earlier stage moves with that stage's optimum. A mean in it has what grows in
        its denominator, so its row gets easier, to first order by what the mean is here.
        """
        rows = [directions.rows]
        for earlier, rate in zip(self._stages, kept, strict=False):
            easier = earlier.dilution(stage.vertex.x) * directions.count
            rows.append(sparse.csr_array((rate + easier)[None]))
        return sparse.csc_array(sparse.vstack(rows))

    def _vectors_at(
        self, x: FloatArray, vectors: Mapping[str, FloatArray]
    ) -> dict[str, FloatArray]:
        """Coefficients of metrics; of a mean, its derivative at a plan."""
        own = {name: vector * self._unit for name, vector in vectors.items()}
        for name in own.keys() & self._means:
            count = float(self._count @ x)
            mean = float(own[name] @ x) / count if count > 0 else np.nan
            own[name] = (own[name] - mean * self._count) / (count if count > 0 else np.nan)
        return own


@dataclass(eq=False)
class _Found:
    """What is known of directions: rates by name, ranges, flags; names of rates that are tied."""

    rates: dict[str, FloatArray]
    reach: FloatArray
    degenerate: BoolArray
    tied: set[str]

    @classmethod
    def nothing(cls, count: int) -> _Found:
        """Of so many directions, before the first stage."""
        still = {"objective": np.zeros(count)}
        return cls(still, np.full(count, np.inf), np.zeros(count, dtype=bool), set())

    def after(self, earlier: _Found) -> _Found:
        """Together with what the stage before says; a direction that ended there has ended."""
        end = earlier.rates["objective"]
        rates = {n: np.where(np.isfinite(end), rate, end) for n, rate in self.rates.items()}
        reach = np.minimum(self.reach, earlier.reach)  # NaN where one of the two is
        return _Found(rates, reach, self.degenerate | earlier.degenerate, self.tied)

    def take(self, other: _Found, at: Any, these: BoolArray) -> None:
        """Take over some rates and ranges of another basis, and what is tied there."""
        for name, rate in other.rates.items():
            self.rates[name][at[these]] = rate[these]
        self.reach[at[these]] = other.reach[these]
        self.tied |= other.tied

    def stop(self, at: int, no_plan: bool) -> None:
        """Say that there is no plan in a direction, or that nothing is known."""
        for rate in self.rates.values():
            rate[at] = np.inf if no_plan else np.nan
        self.reach[at] = 0.0 if no_plan else np.nan


class _Stage:
    """The optimal vertex of one stage, and the session that finds its other bases.

    Parameters
    ----------
    model : Model
        With the rows that keep earlier stages.
    number : int
        Of the stage.
    mean, count : ndarray
        Coefficients of the mean in the objective (zero without one), and of its denominator.
    seed : int
        Given to the solver.
    until : float
        When to give up, on the clock of `time.perf_counter`.
    """

    def __init__(
        self,
        model: Model,
        number: int,
        mean: FloatArray,
        count: FloatArray,
        seed: int,
        until: float,
    ) -> None:
        objective = model.stages[number]
        self._c, self._mean, self._count = objective.c, mean, count
        for attempt in ATTEMPTS:
            self.session = Session(model, number, solver="highs-simplex", seed=seed, **attempt)
            try:
                self.vertex = self._solve(model, until)
            except BaseException:
                self.session.close()
                raise
            if self.vertex.is_optimal:
                break
            self.session.close()
        else:
            raise SolverError("the solver's basis is not optimal in exact terms")
        self.value = float(objective.c @ self.vertex.x)
        grows = np.sign(self.value) * (abs(self.value) > 1)
        self.growth = float(1 + objective.tolerance * grows)

    def reach_of_growth(self, rate: FloatArray) -> FloatArray:
        """How far until the tolerance, relative to the larger of |value| and 1, is another one."""
        with np.errstate(divide="ignore", invalid="ignore"):
            far = np.array([(side - self.value) / rate for side in (-1.0, 1.0)])
        reach: FloatArray = np.where(far > 0, far, np.inf).min(axis=0)
        return reach

    def _solve(self, model: Model, until: float) -> _Vertex:
        if _left(until) <= 0:
            raise NoOptimumError("no time left")
        raw = self.session.solve(_left(until))
        if raw.termination != Termination.OPTIMAL:
            raise NoOptimumError(f"there is no optimum to start at ({raw.message})")
        return _Vertex(model, self._c, _basis(self.session))

    def dilution(self, x: FloatArray) -> float:
        """Fall of the mean in the objective at a plan, per unit more in its denominator."""
        if not self._mean.any():
            return 0.0
        return float(self._mean @ x) / float(self._count @ x)

    def follow(
        self, rows: Any, vectors: Mapping[str, FloatArray], count: FloatArray, until: float
    ) -> _Found:
        """Rates and ranges of directions over the model's rows.

        Parameters
        ----------
        rows : sparse array
            Change of the right-hand sides, a column a direction.
        vectors : dict of str to ndarray
            Metrics besides the objective.
        count : ndarray
            Change of what means are divided by.
        until : float
            When to give up.
        """
        diluted = self._c - self.dilution(self.vertex.x) * self._count
        vectors = {"objective": diluted, **vectors}
        found = self._along(self.vertex, rows, vectors, count)
        found.degenerate = found.reach <= 0
        todo = np.flatnonzero(found.degenerate)
        while todo.size:
            end = self._basis_for(rows[:, todo[:1]].toarray().ravel(), until)
            if isinstance(end, Basis):
                other = _Vertex(self.vertex.model, self._c, end, self.vertex.x)
                more = self._along(other, rows[:, todo], vectors, count[todo])
                goes = more.reach > 0  # often the same basis serves several
                if goes[0]:
                    found.take(more, todo, goes)
                    todo = todo[~goes]
                    continue
            found.stop(int(todo[0]), end == Termination.INFEASIBLE)
            todo = todo[1:]
        return found

    def _along(
        self, vertex: _Vertex, rows: Any, vectors: Mapping[str, FloatArray], count: FloatArray
    ) -> _Found:
        """What one basis says."""
        rates = {name: vertex.price(vector) @ rows for name, vector in vectors.items()}
        reach = np.minimum(vertex.reach(rows), self._cost_reach(vertex, count))
        # A change of the plan at no cost changes the objective all the same where it changes a
        # mean, once the mean's denominator grows.
        tied = vertex.tied({**vectors, "objective": self._mean})
        return _Found(rates, reach, np.zeros(len(reach), dtype=bool), tied)

    def _cost_reach(self, vertex: _Vertex, count: FloatArray) -> FloatArray:
        """How far a mean's denominator may grow until its smaller weight changes the basis."""
        far = np.full(len(count), np.inf)
        if not self._mean.any() or not count.any():
            return far
        share = vertex.cost_reach(self._mean)
        if share >= 1:
            return far
        now = float(self._count @ vertex.x)
        return np.where(count > 0, now * share / (1 - share), np.inf)

    def _basis_for(self, row: FloatArray, until: float) -> Basis | Termination | None:
        """An optimal basis of the vertex that a direction can follow; how it ended without one.

        The cheapest of the moves that bounds allow. They form a cone, so that the direction may
        have any length: one that is large beside the solver's tolerance.
        """
        if _left(until) <= 0:
            return None
        cone = self.vertex.cone
        self.session.change(column_lower=cone.column_lower, column_upper=cone.column_upper)
        step = row / np.max(np.abs(row) / self.vertex.row_size)
        self.session.change(
            row_lower=np.where(np.isfinite(cone.row_lower), step, -np.inf),
            row_upper=np.where(np.isfinite(cone.row_upper), step, np.inf),
        )
        raw = self.session.solve(_left(until))
        return _basis(self.session) if raw.termination == Termination.OPTIMAL else raw.termination


def _left(until: float) -> float:
    return until - time.perf_counter()


def _basis(session: Session) -> Basis:
    basis = session.basis()
    if basis is None:
        raise SolverError("the solver gives no basis")
    return basis


def _unit_of(upper: FloatArray) -> FloatArray:
    """The power of two next to each bound, which changes no digit; 1 without a bound."""
    bounded = np.isfinite(upper) & (upper > 0)
    unit: FloatArray = np.exp2(np.round(np.log2(np.where(bounded, upper, 1.0))))
    return unit


def _measured_in(model: Model, unit: FloatArray) -> Model:
    """The same model with columns in other units."""
    return replace(
        model,
        matrix=sparse.csr_array(model.matrix @ sparse.diags_array(unit)),
        column_lower=model.column_lower / unit,
        column_upper=model.column_upper / unit,
        stages=tuple(replace(stage, c=stage.c * unit) for stage in model.stages),
    )


class _Vertex:
    """A basis, the point it belongs to, and how that moves with the right-hand sides.

    Parameters
    ----------
    model : Model
        The linear program.
    c : ndarray
        Objective of which the basis is optimal.
    basis : Basis
        From a solver.
    x : ndarray, optional
        The point, if another basis has given it already.
    """

    def __init__(
        self, model: Model, c: FloatArray, basis: Basis, x: FloatArray | None = None
    ) -> None:
        self.model, self.c, self._basis = model, c, basis
        self._matrix = sparse.csr_array(model.matrix)
        self._basic = np.flatnonzero(basis.column == Basis.BASIC)
        self._active = np.flatnonzero(basis.row != Basis.BASIC)
        self._loose = np.flatnonzero(basis.row == Basis.BASIC)
        basic = sparse.csr_array(sparse.csc_array(self._matrix)[:, self._basic])
        self._loose_rows = basic[self._loose]
        try:
            self._inverse = _Inverse(sparse.csc_array(basic[self._active]))
        except (RuntimeError, ValueError) as error:
            raise SolverError(f"the solver's basis is none: {error}") from None
        self.x = self._point() if x is None else x

    def _point(self) -> FloatArray:
        m, at_upper = self.model, self._basis.column == Basis.UPPER
        side = np.where(at_upper, m.column_upper, m.column_lower)
        x = np.where(np.isfinite(side), side, 0.0)
        x[self._basic] = 0.0
        row_side = np.where(self._row_at_upper, m.row_upper, m.row_lower)
        x[self._basic] = self._inverse.solve((row_side - self._matrix @ x)[self._active])
        return x

    @cached_property
    def _row_at_upper(self) -> BoolArray:
        upper: BoolArray = self._basis.row == Basis.UPPER
        return upper | ~np.isfinite(self.model.row_lower)

    def price(self, vector: FloatArray) -> FloatArray:
        """Rate of ``vector·x`` per unit of each row's side, zero for rows that are loose."""
        price = np.zeros(len(self.model.row_lower))
        price[self._active] = self._inverse.solve(vector[self._basic], "T")
        return price

    @cached_property
    def row_size(self) -> FloatArray:
        """Largest coefficient of each row, 1 without any."""
        if not self._matrix.nnz:
            return np.ones(self._matrix.shape[0])
        largest: FloatArray = abs(self._matrix).max(axis=1).toarray().ravel()
        return np.where(largest > 0, largest, 1.0)

    @cached_property
    def _room(self) -> tuple[FloatArray, FloatArray, FloatArray, FloatArray]:
        """Of columns and rows below and above; what is at its bound has none."""
        m, x, status = self.model, self.x, self._basis
        size = np.maximum(np.abs(x), LEAST)
        level, row_size = self._matrix @ x, abs(self._matrix) @ size
        return (
            *_rooms(x, m.column_lower, m.column_upper, size, status.column),
            *_rooms(level, m.row_lower, m.row_upper, row_size, status.row),
        )

    @cached_property
    def cone(self) -> Model:
        """The moves from this point that keep every bound it is at, for right-hand sides of 0."""
        sides = [np.where(room <= 0, 0.0, np.inf) for room in self._room]
        return replace(
            self.model,
            column_lower=-sides[0],
            column_upper=sides[1],
            row_lower=-sides[2],
            row_upper=sides[3],
        )

    def reach(self, rows: Any) -> FloatArray:
        """How far each direction goes until a column or row leaves its bounds."""
        low, high, row_low, row_high = self._room
        directions = sparse.csc_array(rows)
        active = sparse.csc_array(directions[self._active])
        loose = sparse.csc_array(directions[self._loose])
        reach = np.full(directions.shape[1], np.inf)
        for some, move in self._inverse.solve_sparse(active):
            moved = sparse.csc_array(self._loose_rows @ move - loose[:, some])
            largest = abs(move).max(axis=0).toarray().ravel() if move.nnz else np.zeros(len(some))
            sides = low[self._basic], high[self._basic]
            row_sides = row_low[self._loose], row_high[self._loose]
            reach[some] = np.minimum(
                _nearest(move, *sides, np.ones(len(self._basic)), largest),
                _nearest(moved, *row_sides, self.row_size[self._loose], largest),
            )
        return reach

    @cached_property
    def _at_upper(self) -> BoolArray:
        upper: BoolArray = self._basis.column == Basis.UPPER
        return np.concatenate([upper, self._row_at_upper])

    @cached_property
    def _can_enter(self) -> BoolArray:
        """Columns and rows at one of two different bounds."""
        m, status = self.model, np.concatenate([self._basis.column, self._basis.row])
        fixed = np.concatenate([m.column_lower == m.column_upper, m.row_lower == m.row_upper])
        can: BoolArray = (status != Basis.BASIC) & ~fixed
        return can

    def _reduced(self, vector: FloatArray) -> tuple[FloatArray, BoolArray]:
        """Change of ``vector·x`` per unit of each column, and of each row's side; where it is 0."""
        price = self.price(vector)
        least = NOISE * np.abs(vector).max(initial=0.0)
        size = np.maximum(np.abs(vector) + abs(self._matrix).T @ np.abs(price), least)
        inverse = np.divide(1.0, size, out=np.zeros_like(size), where=size > 0)
        beside = (abs(self._matrix) @ sparse.diags_array(inverse)).max(axis=1).toarray().ravel()
        columns = vector - self._matrix.T @ price
        zero = [np.abs(columns) <= AT_BOUND * size, np.abs(price) * beside <= AT_BOUND]
        return np.concatenate([columns, price]), np.concatenate(zero)

    @cached_property
    def _reduced_costs(self) -> tuple[FloatArray, BoolArray]:
        return self._reduced(self.c)

    @property
    def is_optimal(self) -> bool:
        """Whether reduced costs of the wrong sign could gain no more than solvers promise."""
        size = np.concatenate([np.ones(len(self.x)), abs(self._matrix) @ np.abs(self.x)])
        reduced, zero = self._reduced_costs
        gain = np.where(self._at_upper, 1.0, -1.0) * reduced * size
        could = float(gain[self._can_enter & ~zero & (gain > 0)].sum())
        terms = np.abs(self.c * self.x).sum(), np.abs(self.c).max(initial=0.0)
        return could <= SUBOPTIMAL * float(max(terms))

    def tied(self, vectors: Mapping[str, FloatArray]) -> set[str]:
        """Which of the metrics a change of the plan that costs nothing would change."""
        free = self._can_enter & self._reduced_costs[1]
        if not free.any():
            return set()
        return {name for name, v in vectors.items() if not self._reduced(v)[1][free].all()}

    def cost_reach(self, vector: FloatArray) -> float:
        """How much of a cost vector may be taken off before a reduced cost changes sign."""
        (now, zero), (less, _) = self._reduced_costs, self._reduced(vector)
        sign = np.where(self._at_upper, -1.0, 1.0)
        now, less = sign * now, sign * less
        falls = self._can_enter & ~zero & (now > 0) & (less > 0)
        return float((now[falls] / less[falls]).min(initial=np.inf))


class _Inverse:
    """A sparse factored matrix, whose independent blocks take their right-hand sides at once."""

    def __init__(self, matrix: Any) -> None:
        n = matrix.shape[0]
        self._factors: Any = linalg.splu(matrix) if n else None
        both = sparse.block_array([[None, matrix], [matrix.T, None]]) if n else matrix
        self._n_blocks, label = csgraph.connected_components(both, directed=False)
        self._block_of_row, self._block = label[:n], label[n:]

    def solve(self, right: FloatArray, form: str = "N") -> FloatArray:
        """Solve with the matrix, or its transpose ("T")."""
        if self._factors is None:
            return right
        found: FloatArray = self._factors.solve(right, form)
        return found

    def solve_sparse(self, right: Any) -> Iterator[tuple[Any, Any]]:
        """Solve for the columns of a sparse matrix: positions of some, and their solutions.

        Columns that touch different blocks share one dense right-hand side, a slot.
        """
        n, count = right.shape
        entries = sparse.coo_array(right)
        touched = self._block_of_row[entries.row].astype(np.int64)
        slot = _slots(touched, entries.col, self._n_blocks, count)
        n_slots = int(slot.max(initial=0)) + 1
        keys, first = np.unique(touched * n_slots + slot[entries.col], return_index=True)
        owner = entries.col[first]
        for start in range(0, n_slots, CHUNK):
            some = np.flatnonzero((slot >= start) & (slot < start + CHUNK))
            own = (slot[entries.col] >= start) & (slot[entries.col] < start + CHUNK)
            dense = np.zeros((n, min(CHUNK, n_slots - start)))
            dense[entries.row[own], slot[entries.col[own]] - start] = entries.data[own]
            dense = self.solve(dense)
            at, where = np.nonzero(dense)
            key = self._block[at].astype(np.int64) * n_slots + start + where
            column = np.searchsorted(some, owner[np.searchsorted(keys, key)])
            yield (
                some,
                sparse.csc_array((dense[at, where], (at, column)), shape=(n, len(some))),
            )


def _slots(block: Any, column: Any, n_blocks: int, count: int) -> Any:
    """The least number for each column that no column before it has in a block of both."""
    slot, free = np.zeros(count, dtype=np.int64), np.zeros(n_blocks, dtype=np.int64)
    ends = np.searchsorted(column, np.arange(count + 1))
    for j in range(count):
        own = block[ends[j] : ends[j + 1]]
        slot[j] = free[own].max(initial=0)
        free[own] = slot[j] + 1
    return slot


def _rooms(
    value: FloatArray, lower: FloatArray, upper: FloatArray, size: FloatArray, status: Any
) -> tuple[FloatArray, FloatArray]:
    """Distance to both bounds; within rounding of one it is zero, and where the basis says so."""
    fixed = (lower == upper) & (status != Basis.BASIC)

    def room(distance: FloatArray, bound: FloatArray, at: int) -> FloatArray:
        scale = np.maximum(size, np.abs(np.where(np.isfinite(bound), bound, 0.0)))
        none = (np.abs(distance) <= AT_BOUND * scale) | (status == at) | fixed
        return np.where(none & np.isfinite(bound), 0.0, distance)

    return room(value - lower, lower, Basis.LOWER), room(upper - value, upper, Basis.UPPER)


def _nearest(
    moves: Any, low: FloatArray, high: FloatArray, size: FloatArray, largest: FloatArray
) -> FloatArray:
    """How far each column of sparse moves goes until the room on one side is used up.

    What is rounding, beside the size of its row and the column's largest move, uses none.
    """
    reach = np.full(moves.shape[1], np.inf)
    column = np.repeat(np.arange(moves.shape[1]), np.diff(moves.indptr))
    uses = np.abs(moves.data) > 1e-11 * size[moves.indices] * largest[column]
    at, rate = moves.indices[uses], moves.data[uses]
    room = np.maximum(np.where(rate > 0, high[at], low[at]), 0.0)
    np.minimum.at(reach, column[uses], room / np.abs(rate))
    return reach


def _nulls(values: FloatArray) -> Any:
    boxed = np.array(values, dtype=object)
    boxed[~np.isfinite(values)] = None
    return boxed.tolist()
