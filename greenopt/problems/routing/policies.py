"""Policies that send queries to deployments one by one, as they arrive.

A policy is told what a query is thought to cost and to use on each deployment, and where it may go
so that the limits can still be met; it chooses one of these. See `greenopt.problems.routing.online`
for the simulation.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, Protocol

import numpy as np

from greenopt import arguments
from greenopt.errors import ModelError, NoOptimumError
from greenopt.labelled import FloatArray, IntArray
from greenopt.model import Model
from greenopt.problems.routing.formulation import Formulation, Pairs
from greenopt.problems.routing.instance import RoutingInstance
from greenopt.problems.routing.room import FLOOR, Rows
from greenopt.results import Solution
from greenopt.solvers import solve_model

QUEUE_WEIGHT = 0.1
"""What a waiting query counts in Algorithm 2 of the thesis."""

FIRST_SHARE = 0.01
"""Share of the queries after which prices are learned for the first time."""


class Query(NamedTuple):
    """A query as it arrives.

    Attributes
    ----------
    time_s : float
        When.
    cost : ndarray, shape (n_deployments,)
        Its part of the objective on each deployment, at the predicted length.
    use : ndarray, shape (n_rows, n_deployments)
        What it adds to each limit, and to the accuracy floor if there is one, at the predicted
        length.
    """

    time_s: float
    cost: FloatArray
    use: FloatArray


class State(Protocol):
    """What is known when a query arrives."""

    @property
    def open(self) -> IntArray:
        """Deployments to choose from, in order; at least one."""
        ...

    @property
    def seen(self) -> IntArray:
        """Kinds of the queries before this one: their lengths are known by now."""
        ...

    @property
    def left(self) -> int:
        """Queries to come, this one included."""
        ...

    @property
    def used(self) -> FloatArray:
        """What the queries before have added to each row, shape (n_rows,)."""
        ...

    def waiting(self) -> IntArray:
        """Queries that wait for an instance of each deployment."""
        ...


class Known(NamedTuple):
    """What is known before the first query.

    Attributes
    ----------
    deployments : tuple of str
        Names.
    rows : Rows
        Limits and their sides.
    queries, kinds : int
        How many there will be, and of how many kinds.
    learner : Learner
        Finds prices of queries that have been seen.
    """

    deployments: tuple[str, ...]
    rows: Rows
    queries: int
    kinds: int
    learner: Learner


class Policy(Protocol):
    """Chooses a deployment for each query."""

    @property
    def name(self) -> str:
        """Name of the mechanism, in results."""
        ...

    def settings(self) -> dict[str, Any]:
        """What it was made with, as in a file."""
        ...

    def begin(self, known: Known) -> None:
        """Forget everything: a stream begins."""
        ...

    def choose(self, query: Query, state: State) -> int:
        """Position of the deployment for a query, one of ``state.open``."""
        ...


# Costs and prices


class Weight(NamedTuple):
    """A term of the objective as it stands: factor times (metric minus shift)."""

    metric: str
    factor: float
    shift: float


def weights_of(formulation: Formulation) -> tuple[Weight, ...]:
    """Terms of the one stage of an instance, its normalisations worked out.

    Raises
    ------
    ModelError
        If there is more than one stage.
    """
    inst = formulation.instance
    if len(inst.objective) > 1:
        raise ModelError(
            f"{inst.name}: its objective has {len(inst.objective)} stages; an arriving query is "
            "weighed by one: expected one stage (instance.replace(objective=[...]))"
        )
    found = []
    for term in inst.objective[0].terms:
        if term.weight != 0:
            values = formulation.pairs.metric(term.metric)[inst.count > 0]
            shift = float(values.min()) if term.normalisation == "range" else 0.0
            size = 1.0 if term.normalisation == "none" else float(values.max()) - shift
            found.append(Weight(term.metric, term.weight / (size * term.scale), shift))
    return tuple(found)


def cost_of(pairs: Pairs, weights: tuple[Weight, ...]) -> FloatArray:
    """Part of the objective of each query on each deployment."""
    total = np.zeros(pairs.shape)
    for own in weights:
        total += own.factor * (pairs.metric(own.metric) - own.shift)
    return total


class Learner:
    """Prices of limits at the offline optimum of some queries, by the linear relaxation.

    Parameters
    ----------
    formulation : Formulation
        Of the instance; of its queries only the kinds matter, not how many there are.
    cost : ndarray, shape (n_kinds, n_deployments)
        Part of the objective of a query of each kind.
    """

    def __init__(self, formulation: Formulation, cost: FloatArray) -> None:
        model = formulation.model
        codes = model.columns["assigned"].codes
        self._query = codes["query"]
        stage = replace(model.stages[0], c=cost[self._query, codes["deployment"]])
        self._model: Model = replace(
            model, stages=(stage,), integer=np.zeros(len(self._query), dtype=bool)
        )
        self._solver = formulation.suits or "highs"

    def prices(self, count: FloatArray, lower: FloatArray, upper: FloatArray) -> FloatArray | None:
        """Multipliers of the rows, shape (n_rows,); None if the queries have no plan.

        Parameters
        ----------
        count : ndarray, shape (n_kinds,)
            Queries of each kind.
        lower, upper : ndarray, shape (n_rows,)
            Sides of the rows.
        """
        model = replace(
            self._model,
            column_upper=count[self._query],
            row_lower=np.concatenate([count, lower]),
            row_upper=np.concatenate([count, upper]),
        )
        found = solve_model(model, solver=self._solver).row_dual
        return None if found is None else found[len(count) :] + 0.0  # no -0.0


def prices_of(solution: Solution) -> dict[str, float]:
    """Prices of limits, and of the accuracy floor, in an offline solution, by name.

    Raises
    ------
    NoOptimumError
        If it has none.
    """
    if not solution.marginals:
        raise NoOptimumError(
            f"{solution.instance}: the solution has no prices (status {solution.status}); expected "
            "one of the method 'exact' with its bound"
        )
    found: dict[str, float] = {}
    if "limit" in solution.marginals:
        array = solution.marginals["limit"]
        found = dict(zip(array.labels["limit"], array.dense().tolist(), strict=True))
    if FLOOR in solution.marginals:
        found[FLOOR] = float(solution.marginals[FLOOR].dense())
    return found


def another_day(instance: RoutingInstance, seed: int = 0) -> RoutingInstance:
    """As many queries, drawn with replacement from those of an instance, under the same limits.

    A stand-in for the workload of another day: of the same distribution, and not the same.
    """
    queries = int(instance.count.sum())
    rng = np.random.default_rng([arguments.seed(seed), 3])
    count = rng.multinomial(queries, instance.count / queries).astype(float)
    return instance.replace(name=f"{instance.name}, another day {seed}", count=count)


def history_prices(instance: RoutingInstance, seed: int = 0) -> dict[str, float]:
    """Prices of limits at the offline optimum of another day (see `another_day`), by name.

    Values are normalised as in the instance itself, so that its prices are in the same units.

    Raises
    ------
    NoOptimumError
        If the other day has no plan under these limits.
    """
    formulation = Formulation(instance)
    rows, day = Rows(formulation), another_day(instance, seed)
    cost = cost_of(formulation.pairs, weights_of(formulation))
    found = Learner(formulation, cost).prices(day.count, rows.lower, rows.upper)
    if found is None:
        raise NoOptimumError(
            f"{day.name}: has no plan within the limits, so no prices; expected limits that "
            "another day can meet, or a policy without its prices"
        )
    return dict(zip(rows.names, found.tolist(), strict=True))


# Policies


@dataclass
class Cheapest:
    """Where the query's own part of the objective is least (Algorithm 1 of the thesis).

    Ties go to the deployment that comes first.
    """

    name = "cheapest"

    def settings(self) -> dict[str, Any]:
        """Nothing."""
        return {}

    def begin(self, known: Known) -> None:
        """Nothing to forget."""

    def choose(self, query: Query, state: State) -> int:
        """The cheapest one."""
        return int(state.open[query.cost[state.open].argmin()])


@dataclass
class CheapestShortQueue:
    """Least cost plus a weight times the queries that wait there (Algorithm 2 of the thesis).

    Parameters
    ----------
    weight : float
        What a waiting query counts; the published one is 0.1.
    """

    weight: float = QUEUE_WEIGHT
    name = "cheapest-short-queue"

    def __post_init__(self) -> None:
        self.weight = _number("weight", self.weight)

    def settings(self) -> dict[str, Any]:
        """The weight."""
        return {"weight": self.weight}

    def begin(self, known: Known) -> None:
        """Nothing to forget."""

    def choose(self, query: Query, state: State) -> int:
        """The cheapest one, queues included."""
        total = query.cost + self.weight * state.waiting()
        return int(state.open[total[state.open].argmin()])


@dataclass
class DualPrice:
    """Where cost less what limits pay for it is least: argmin over k of c_k - sum_l u_l v_lk.

    With the optimal prices u of the day's own limits this is the offline optimum, but for ties.
    They are learned while queries arrive, by linear programs over those that were seen, at times
    that are geometric from the beginning (Agrawal, Wang, Ye: A Dynamic Near-Optimal Algorithm for
    Online Linear Programming, Operations Research 2014, arXiv 0911.2974) and towards the end
    (Li, Wang, Zhang: Infrequent Resolving Algorithm for Online Linear Programming, arXiv
    2408.00465, have times at both ends). What is shared out is what is left of each limit, per
    query to come (Li, Ye: Online Linear Programming: Dual Convergence, New Algorithms, and Regret
    Bounds, Operations Research 2022, arXiv 1909.05499), without a safety margin: the simulation
    keeps the limits.

    Parameters
    ----------
    prices : mapping of str to float, optional
        Prices to begin with, by limit ("accuracy_floor" for the floor); missing ones are 0.
    first : float or None
        Share of the queries after which prices are learned for the first time; None learns
        nothing, so that the given prices stay.
    name : str
        In results.
    """

    prices: Mapping[str, float] | None = None
    first: float | None = FIRST_SHARE
    name: str = "dual-price"

    def __post_init__(self) -> None:
        if self.first is not None and not 0 < _number("first", self.first) < 0.5:
            raise ModelError(f"first is {self.first!r}; expected a share above 0 and below 0.5")
        for limit, price in (self.prices or {}).items():
            _number(f"the price of {limit!r}", price, -math.inf)

    def settings(self) -> dict[str, Any]:
        """The prices it began with, and when it learned first."""
        return {"prices": dict(self.prices or {}), "first": self.first}

    def begin(self, known: Known) -> None:
        """Take the prices to begin with."""
        given = self.prices or {}
        if unknown := [limit for limit in given if limit not in known.rows.names]:
            raise ModelError(
                f"prices are given for {unknown[0]!r}; expected limits {list(known.rows.names)}"
            )
        self._known = known
        self._now = np.array([float(given.get(name, 0.0)) for name in known.rows.names])
        self._times = frozenset(self._learning_times(known.queries))

    def _learning_times(self, queries: int) -> list[int]:
        if self.first is None or not len(self._now):
            return []
        doubling = int(math.log2(0.5 / self.first))
        early = {math.ceil(self.first * queries * 2**j) for j in range(doubling + 1)}
        return [seen for seen in early | {queries - seen for seen in early} if seen > 0]

    def choose(self, query: Query, state: State) -> int:
        """The one at which cost less what limits pay is least."""
        if len(state.seen) in self._times:
            self._learn(state)
        worth = query.cost - self._now @ query.use
        return int(state.open[worth[state.open].argmin()])

    def _learn(self, state: State) -> None:
        rows, seen = self._known.rows, len(state.seen)
        share = seen / state.left
        count = np.bincount(state.seen, minlength=self._known.kinds).astype(float)
        room = np.maximum(rows.upper - state.used, np.minimum(rows.upper, 0.0))
        lower = (rows.lower - state.used) * share
        found = self._known.learner.prices(count, lower, room * share)
        if found is not None:  # else what is left cannot be shared out evenly: keep the old ones
            self._now = found


@dataclass
class RoundRobin:
    """One deployment after the other, without those that are not open."""

    name = "round-robin"

    def settings(self) -> dict[str, Any]:
        """Nothing."""
        return {}

    def begin(self, known: Known) -> None:
        """Start with the first deployment."""
        self._n, self._next = len(known.deployments), 0

    def choose(self, query: Query, state: State) -> int:
        """The next one that is open."""
        chosen = int(state.open[((state.open - self._next) % self._n).argmin()])
        self._next = chosen + 1
        return chosen


@dataclass
class Random:
    """Any open deployment, all equally likely.

    Parameters
    ----------
    seed : int
        Of the draws.
    """

    seed: int = 0
    name = "random"

    def __post_init__(self) -> None:
        arguments.seed(self.seed)

    def settings(self) -> dict[str, Any]:
        """The seed."""
        return {"seed": self.seed}

    def begin(self, known: Known) -> None:
        """Start the draws anew."""
        self._draws = np.random.default_rng([self.seed, 2]).random(known.queries)

    def choose(self, query: Query, state: State) -> int:
        """Any."""
        return int(state.open[int(self._draws[len(state.seen)] * len(state.open))])


def _number(name: str, value: Any, least: float = 0.0) -> float:
    """A finite number of at least some other."""
    try:
        fits = not isinstance(value, bool) and least <= float(value) < math.inf
    except (TypeError, ValueError):
        fits = False
    if not fits:
        side = "" if least == -math.inf else f" of at least {least:g}"
        raise ModelError(f"{name} is {value!r}; expected a finite number{side}")
    return float(value)


POLICIES: Mapping[str, Callable[[RoutingInstance, int], Policy]] = {
    "cheapest": lambda instance, seed: Cheapest(),
    "cheapest-short-queue": lambda instance, seed: CheapestShortQueue(),
    "dual-price": lambda instance, seed: DualPrice(),
    "dual-price-history": lambda instance, seed: DualPrice(
        history_prices(instance, seed), None, "dual-price-history"
    ),
    "round-robin": lambda instance, seed: RoundRobin(),
    "random": lambda instance, seed: Random(seed),
}
"""Policies by name, made for an instance with a seed."""


def policy_named(name: str, instance: RoutingInstance, seed: int = 0) -> Policy:
    """A policy by its name, with the settings it has there.

    Raises
    ------
    ModelError
        For an unknown name.
    """
    if name not in POLICIES:
        raise ModelError(f"unknown policy {name!r}; known are {', '.join(POLICIES)}")
    return POLICIES[name](instance, seed)
