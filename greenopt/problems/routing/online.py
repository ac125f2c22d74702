"""Routing on-line: queries arrive one by one, and a policy sends each to a deployment at once.

The problem is that of the offline instance; what is new is that a query has to be sent before the
later ones are known, and by a predicted length of its answer. A run is measured against the proved
bound of the offline optimum of the same queries, so its gap is what not knowing the future costs.
The on-line version is that of G. Wilkins' thesis (Cambridge, 2024), section 3 and figures 5.6 ff.;
lower and upper limits, the policies by prices, and predicted lengths are our model:

- Who may go where is known when a query arrives, and how many queries there will be.
- A policy sees costs and uses at the predicted length of the answer; what queries before it took is
  known exactly, as if all of them had finished.
- Sizes that a normalisation divides by are those of the whole workload.
"""

from __future__ import annotations

import heapq
import math
import os
import time
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, NamedTuple

import numpy as np
from pydantic import Field, ValidationError, model_validator

from greenopt import arguments
from greenopt._version import __version__
from greenopt.errors import InputError, ModelError, Problem, SolutionError
from greenopt.files import read_json, write_json
from greenopt.labelled import FloatArray, IntArray, LabelledArray
from greenopt.physics.queueing import mean_wait_s
from greenopt.problems.routing.check import evaluate
from greenopt.problems.routing.formulation import Formulation, Pairs
from greenopt.problems.routing.instance import PAIR, RoutingInstance
from greenopt.problems.routing.policies import (
    POLICIES,
    Cheapest,
    CheapestShortQueue,
    DualPrice,
    Known,
    Learner,
    Policy,
    Query,
    Random,
    RoundRobin,
    State,
    another_day,
    cost_of,
    history_prices,
    policy_named,
    prices_of,
    weights_of,
)
from greenopt.problems.routing.room import Room, Rows
from greenopt.results import Solution, StageResult, Status, closes
from greenopt.solving import CHECK_TOLERANCE, Settings, solve
from greenopt.validation import (
    NonNegative,
    NotBoolean,
    Number,
    Part,
    Positive,
    Text,
    Whole,
    WholePositive,
    line_errors,
    problems_of,
)

__all__ = [
    "POLICIES",
    "Cheapest",
    "CheapestShortQueue",
    "DualPrice",
    "OnlineRun",
    "Policy",
    "Query",
    "Random",
    "RoundRobin",
    "State",
    "Stream",
    "Wait",
    "another_day",
    "history_prices",
    "policy_named",
    "prices_of",
    "simulate",
    "stream",
    "sweep",
]

SCHEMA_VERSION = 1

ERRORS = (0.0, 0.1, 0.2, 0.4, 0.8)
"""Relative standard deviations of predicted lengths that `sweep` goes through."""


# Streams


@dataclass(frozen=True, eq=False)
class Stream:
    """Queries of one instance in the order and at the times in which they arrive.

    Attributes
    ----------
    instance, instance_sha256 : str
        Whose queries.
    horizon_s : float
        Time over which they arrive, s: rates are queries over this.
    seed : int
        Of order, times and predictions.
    prediction_error : float
        Relative standard deviation of predicted over true output tokens.
    instances : dict of str to int
        Instances of every deployment.
    time_s : ndarray, shape (n,)
        Arrivals from the start, s, none before the one ahead of it.
    kind : ndarray of int, shape (n,)
        Position of each query's kind in the instance.
    factor : ndarray, shape (n,)
        Predicted over true output tokens, on every deployment the same.
    """

    instance: str
    instance_sha256: str
    horizon_s: float
    seed: int
    prediction_error: float
    instances: Mapping[str, int]
    time_s: FloatArray
    kind: IntArray
    factor: FloatArray

    def __len__(self) -> int:
        return len(self.kind)

    def __repr__(self) -> str:
        return (
            f"<Stream of {self.instance!r}: {len(self)} queries in {self.horizon_s:g} s, "
            f"prediction error {self.prediction_error:g}, seed {self.seed}>"
        )

    def document(self) -> dict[str, Any]:
        """The content of its part of a file."""
        return {
            "instance": self.instance,
            "instance_sha256": self.instance_sha256,
            "horizon_s": self.horizon_s,
            "seed": self.seed,
            "prediction_error": self.prediction_error,
            "instances": dict(self.instances),
            "time_s": self.time_s.tolist(),
            "kind": self.kind.tolist(),
            "factor": self.factor.tolist(),
        }


def stream(
    instance: RoutingInstance,
    *,
    horizon_s: float,
    instances: Mapping[str, int],
    seed: int = 0,
    prediction_error: float = 0.0,
    time_s: Any = None,
    kind: Any = None,
) -> Stream:
    """Let the queries of an instance arrive in time.

    Arrivals are Poisson with the rate queries over horizon, in any order of the queries, all
    equally likely. A prediction is the true number of output tokens times a lognormal number with
    mean 1. With one seed, streams of different prediction errors have the same arrivals, and
    errors that are larger but not others.

    Parameters
    ----------
    instance : RoutingInstance
        Whose queries; all of them arrive.
    horizon_s : float
        Time over which they arrive in the mean, s.
    instances : mapping of str to int
        Instances of every deployment; each answers as many queries at once as its `concurrency`.
    seed : int
        Of everything that is drawn.
    prediction_error : float
        Relative standard deviation of predicted over true output tokens; 0 predicts exactly.
    time_s : array of shape (n,), optional
        Times of the arrivals instead of drawn ones, s, in order.
    kind : array of int of shape (n,), optional
        Position in the instance of each query's kind, instead of a drawn order.

    Raises
    ------
    InputError
        With everything that is wrong.
    ModelError
        For a seed that is none.
    """
    count = instance.count.astype(np.int64)
    n = int(count.sum())
    found = [
        *_positive("horizon_s", horizon_s),
        *_not_negative("prediction_error", prediction_error),
        *_servers(instances, instance.sets["deployment"]),
        *([] if time_s is None else _arrivals(time_s, n)),
        *([] if kind is None else _order(kind, instance)),
    ]
    if found:
        raise InputError("stream", found)
    orders, times, errors = np.random.default_rng([arguments.seed(seed), 0]).spawn(3)
    if kind is None:
        kind = orders.permutation(np.repeat(np.arange(len(count)), count))
    if time_s is None:
        time_s = np.cumsum(times.exponential(horizon_s / n, n))
    spread = math.log1p(prediction_error**2)
    factor = np.exp(math.sqrt(spread) * errors.standard_normal(n) - spread / 2)
    return Stream(
        instance.name,
        instance.sha256,
        float(horizon_s),
        int(seed),
        float(prediction_error),
        {name: int(instances[name]) for name in instance.sets["deployment"]},
        np.asarray(time_s, dtype=float),
        np.asarray(kind, dtype=np.int64),
        factor,
    )


def _positive(name: str, value: Any) -> list[Problem]:
    fits = _is_number(value) and 0 < value < math.inf
    return [] if fits else [Problem(f"$.{name}", f"is {value!r}; expected a number above 0")]


def _not_negative(name: str, value: Any) -> list[Problem]:
    fits = _is_number(value) and 0 <= value < math.inf
    return [] if fits else [Problem(f"$.{name}", f"is {value!r}; expected a number of at least 0")]


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float | np.number) and not isinstance(value, bool)


def _servers(instances: Any, names: Sequence[str]) -> list[Problem]:
    if not isinstance(instances, Mapping):
        text = f"is {instances!r}; expected a number for each of {list(names)}"
        return [Problem("$.instances", text)]
    found = [
        Problem("$.instances", f"{name!r} is not one of the deployments {list(names)}")
        for name in instances
        if name not in names
    ]
    for name in names:
        value = instances.get(name)
        if value is None:
            found.append(Problem("$.instances", f"has no number for {name!r}"))
        elif not isinstance(value, int | np.integer) or isinstance(value, bool) or value < 1:
            text = f"is {value!r} for {name!r}; expected a whole number of at least 1"
            found.append(Problem("$.instances", text))
    return found


def _numbers(name: str, values: Any, n: int) -> tuple[FloatArray, list[Problem]]:
    try:
        array = np.asarray(values, dtype=float)
    except (TypeError, ValueError):
        return np.zeros(0), [Problem(f"$.{name}", "is not a list of numbers")]
    if array.shape != (n,):
        text = f"has the shape {array.shape}; expected ({n},), a number for each query"
        return array, [Problem(f"$.{name}", text)]
    return array, []


def _arrivals(values: Any, n: int) -> list[Problem]:
    array, found = _numbers("time_s", values, n)
    if found:
        return found
    falls = np.flatnonzero(~(np.diff(array, prepend=0.0) >= 0) | ~np.isfinite(array))
    if len(falls):
        i = int(falls[0])
        text = f"is {float(array[i])!r}; expected a time not before the one ahead of it, nor 0"
        return [Problem(f"$.time_s[{i}]", text)]
    return []


def _order(values: Any, instance: RoutingInstance) -> list[Problem]:
    count = instance.count.astype(np.int64)
    array, found = _numbers("kind", values, int(count.sum()))
    if found:
        return found
    bad = np.flatnonzero(~np.isin(array, np.arange(len(count))))
    if len(bad):
        i = int(bad[0])
        text = f"is {float(array[i]):g}; expected a whole number from 0 to {len(count) - 1}"
        return [Problem(f"$.kind[{i}]", text)]
    given = np.bincount(array.astype(np.int64), minlength=len(count))
    off = np.flatnonzero(given != count)
    if len(off):
        q = int(off[0])
        text = f"has {instance.queries[q]!r} {given[q]} times; the instance has it {count[q]} times"
        return [Problem("$.kind", text)]
    return []


# Runs


class Wait(NamedTuple):
    """Waiting in front of one deployment.

    Attributes
    ----------
    deployment : str
        Whose.
    queries, slots : int
        Queries sent to it, and how many it answers at once: instances times concurrency, rounded
        down (one at least).
    rate_per_s : float
        Arrivals at one slot, if they are dealt out evenly: queries over horizon and slots.
    service_s, service_cv2 : float or None
        Mean run time, and squared coefficient of variation; None without queries (or at 0 s).
    utilisation : float or None
        Rate times service time.
    md1_s, mg1_s : float or None
        Mean wait at one slot by itself for Poisson arrivals: with all run times equal to the
        mean (M/D/1), and with the run times' own variation (Pollaczek and Khinchine). None without
        queries, and at a utilisation of 1 or more, where it is infinite.
    simulated_s, simulated_p95_s, simulated_max_s : float or None
        Mean, 95th percentile and maximum of the waits of this very stream in one queue, first come
        first served, for all slots of the deployment.
    """

    deployment: str
    queries: int
    slots: int
    rate_per_s: float
    service_s: float | None
    service_cv2: float | None
    utilisation: float | None
    md1_s: float | None
    mg1_s: float | None
    simulated_s: float | None
    simulated_p95_s: float | None
    simulated_max_s: float | None

    @property
    def overloaded(self) -> bool:
        """Whether more arrives than can be worked off, so that the formulas have no finite wait."""
        return self.utilisation is not None and self.utilisation >= 1


@dataclass(frozen=True, eq=False)
class OnlineRun:
    """What became of a stream under a policy.

    Attributes
    ----------
    policy : str
        Name of the policy.
    settings : dict
        What it was made with.
    stream : Stream
        What arrived.
    plan : Solution
        The queries by kind and deployment as a plan of the offline instance: metrics, objective,
        and the bound (with its prices) of the offline optimum. Its status is "optimal" or
        "feasible", or "error" if the plan violates something.
    deployment : ndarray of int, shape (n,)
        Position of the deployment each query went to.
    cost : ndarray, shape (n,)
        Its part of the objective there, at its true length; they add up to the objective.
    wait_s : ndarray, shape (n,)
        How long it waited for an instance, s.
    waits : tuple of Wait
        By deployment.
    violations : tuple of str
        What of the instance the plan violates: nothing, as a rule.
    optimum : dict
        Of the offline solve: status, objective, bound, bound_source, runtime_s.
    runtime_s : float
        Wall time of the simulation without the offline solve, s.
    """

    policy: str
    settings: Mapping[str, Any]
    stream: Stream
    plan: Solution
    deployment: IntArray
    cost: FloatArray
    wait_s: FloatArray
    waits: tuple[Wait, ...]
    violations: tuple[str, ...]
    optimum: Mapping[str, Any]
    runtime_s: float

    @property
    def objective(self) -> float:
        """Objective of the instance, recomputed from the plan by its checker."""
        return self.plan.stages[-1].objective

    @property
    def bound(self) -> float | None:
        """Proved bound of the offline optimum; None if there is none."""
        return self.plan.bound

    @property
    def gap_abs(self) -> float | None:
        """Objective minus bound; below 0 only if the plan violates something."""
        return None if self.bound is None else self.objective - self.bound

    @property
    def gap(self) -> float | None:
        """``(objective - bound) / |objective|``; None where the two differ in sign."""
        if self.gap_abs is None or self.objective * (self.bound or 0.0) < 0:
            return None
        return self.gap_abs / max(abs(self.objective), 1e-10)

    @property
    def metrics(self) -> dict[str, float | None]:
        """Totals, as of an offline solution."""
        return self.plan.metrics

    @property
    def metrics_by(self) -> dict[str, dict[str, Any]]:
        """Metrics by deployment, as of an offline solution."""
        return self.plan.metrics_by

    @property
    def overloaded(self) -> tuple[str, ...]:
        """Deployments at which more arrives than their instances can work off."""
        return tuple(wait.deployment for wait in self.waits if wait.overloaded)

    @property
    def wait_md1_s(self) -> float | None:
        """Mean wait of a query by the M/D/1 formula, s; None if a deployment is overloaded."""
        if self.overloaded:
            return None
        total = math.fsum(wait.queries * (wait.md1_s or 0.0) for wait in self.waits)
        return total / len(self.stream)

    @property
    def wait_simulated_s(self) -> float:
        """Mean wait of a query in the simulation, s."""
        return float(self.wait_s.mean())

    def __repr__(self) -> str:
        gap = "" if self.gap is None else f", gap {self.gap:.2e}"
        broken = f", {len(self.violations)} violations" if self.violations else ""
        return (
            f"<OnlineRun of {self.stream.instance!r} by {self.policy}: "
            f"objective {self.objective:.9g}{gap}{broken}>"
        )

    def document(self) -> dict[str, Any]:
        """The content of the file."""
        return {
            "kind": "online-run",
            "schema_version": SCHEMA_VERSION,
            "policy": self.policy,
            "settings": dict(self.settings),
            "objective": self.objective,
            "bound": self.bound,
            "gap": self.gap,
            "gap_abs": self.gap_abs,
            "wait_md1_s": self.wait_md1_s,
            "wait_simulated_s": self.wait_simulated_s,
            "overloaded": list(self.overloaded),
            "violations": list(self.violations),
            "optimum": dict(self.optimum),
            "runtime_s": self.runtime_s,
            "waits": [wait._asdict() for wait in self.waits],
            "stream": self.stream.document(),
            "deployment": self.deployment.tolist(),
            "cost": self.cost.tolist(),
            "wait_s": self.wait_s.tolist(),
            "plan": self.plan.document(),
        }

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the file, whole or not at all; ``.gz`` compresses."""
        write_json(path, self.document())

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> OnlineRun:
        """Read a file.

        Raises
        ------
        SolutionError
            With every problem found, each with its JSON path.
        """
        return cls.parse(read_json(path, SolutionError), str(path))

    @classmethod
    def parse(cls, document: Mapping[str, Any], source: str = "run") -> OnlineRun:
        """Build a run from the content of its file.

        Raises
        ------
        SolutionError
            With every problem found, each with its JSON path.
        """
        try:
            read = _RunFile.model_validate(dict(document))
        except ValidationError as error:
            raise SolutionError(source, list(problems_of(error))) from None
        return cls(
            read.policy,
            read.settings,
            read.stream.stream(),
            Solution.parse(read.plan, f"{source}: plan"),
            np.array(read.deployment, dtype=np.int64),
            np.array(read.cost),
            np.array(read.wait_s),
            tuple(Wait(**wait.model_dump()) for wait in read.waits),
            read.violations,
            read.optimum.model_dump(),
            read.runtime_s,
        )


Position = Annotated[int, Field(strict=True, ge=0, lt=2**63)]


class _StreamFile(Part):
    """A stream as it stands in a file."""

    instance: Text
    instance_sha256: Text
    horizon_s: Positive
    seed: Whole
    prediction_error: NonNegative
    instances: dict[Text, WholePositive]
    time_s: list[NonNegative]
    kind: list[Position]
    factor: list[NonNegative]

    @model_validator(mode="after")
    def _as_long(self) -> _StreamFile:
        _refuse_lengths(self, len(self.kind), "kind", ("time_s", "factor"))
        return self

    def stream(self) -> Stream:
        arrays = {
            "time_s": np.array(self.time_s),
            "kind": np.array(self.kind, dtype=np.int64),
            "factor": np.array(self.factor),
        }
        return Stream(**{**dict(self), **arrays})


class _WaitFile(Part):
    """Waiting at a deployment as it stands in a file."""

    deployment: Text
    queries: Whole
    slots: WholePositive
    rate_per_s: NonNegative
    service_s: NonNegative | None
    service_cv2: NonNegative | None
    utilisation: NonNegative | None
    md1_s: NonNegative | None
    mg1_s: NonNegative | None
    simulated_s: NonNegative | None
    simulated_p95_s: NonNegative | None
    simulated_max_s: NonNegative | None


class _OptimumFile(Part):
    """The offline solve as it stands in a file."""

    status: Text
    objective: Number | None
    bound: Number | None
    bound_source: Text
    runtime_s: NonNegative


class _RunFile(Part):
    """A run as it stands in a file: strict types, and arrays of one length."""

    kind: Literal["online-run"]
    schema_version: Annotated[Literal[1], NotBoolean]
    policy: Text
    settings: dict[Text, Any]
    objective: Number
    bound: Number | None
    gap: Number | None
    gap_abs: Number | None
    wait_md1_s: Number | None
    wait_simulated_s: Number
    overloaded: list[Text]
    violations: tuple[Text, ...]
    optimum: _OptimumFile
    runtime_s: NonNegative
    waits: list[_WaitFile]
    stream: _StreamFile
    deployment: list[Position]
    cost: list[Number]
    wait_s: list[NonNegative]
    plan: dict[Text, Any]

    @model_validator(mode="after")
    def _as_long(self) -> _RunFile:
        _refuse_lengths(self, len(self.stream.kind), "stream", ("deployment", "cost", "wait_s"))
        if (last := len(self.stream.instances) - 1) < max(self.deployment, default=0):
            text = f"{max(self.deployment)} is beyond the last deployment, {last}"
            raise line_errors([(("deployment",), text)])
        return self


def _refuse_lengths(part: Part, n: int, of: str, fields: Iterable[str]) -> None:
    """Refuse lists that have not an entry for each query."""
    found: list[tuple[tuple[int | str, ...], str]] = [
        ((name,), f"has {len(values)} entries, expected {n} as in {of}")
        for name in fields
        if len(values := getattr(part, name)) != n
    ]
    if found:
        raise line_errors(found)


# The simulation


class _Servers:
    """Slots of every deployment at work, first come first served.

    Parameters
    ----------
    slots : sequence of int
        Queries that each deployment answers at once.
    """

    def __init__(self, slots: Sequence[int]) -> None:
        self._slots = slots
        self._ends: list[list[float]] = [[] for _ in slots]
        self._starts: list[deque[float]] = [deque() for _ in slots]

    def enter(self, k: int, time_s: float, service_s: float) -> float:
        """Send a query to a deployment; how long it will wait."""
        ends, start = self._ends[k], time_s
        if len(ends) < self._slots[k]:
            heapq.heappush(ends, time_s + service_s)
        else:
            start = max(time_s, ends[0])
            heapq.heapreplace(ends, start + service_s)
        if start > time_s:
            self._starts[k].append(start)
        return start - time_s

    def waiting(self, time_s: float) -> IntArray:
        """Queries that wait at each deployment."""
        for starts in self._starts:
            while starts and starts[0] <= time_s:
                starts.popleft()
        return np.array([len(starts) for starts in self._starts])


class _Now:
    """The state of a stream, as policies see it."""

    def __init__(self, kind: IntArray, room: Room, servers: _Servers) -> None:
        self._kind, self._room, self._servers = kind, room, servers
        self.open: IntArray = np.zeros(0, dtype=np.int64)
        self.time_s = 0.0
        self.number = 0

    @property
    def seen(self) -> IntArray:
        return self._kind[: self.number]

    @property
    def left(self) -> int:
        return self._room.left

    @property
    def used(self) -> FloatArray:
        return self._room.used.copy()

    def waiting(self) -> IntArray:
        return self._servers.waiting(self.time_s)


class _Simulation:
    """One instance, ready for streams."""

    def __init__(self, instance: RoutingInstance) -> None:
        self.inst = instance
        formulation = Formulation(instance)
        self.weights = weights_of(formulation)
        self.pairs, self.rows = formulation.pairs, Rows(formulation)
        self.cost, self.use = cost_of(self.pairs, self.weights), self.rows.use(self.pairs)
        self.service_s = np.maximum(self.pairs.runtime_s, 0.0)
        self.may = self.pairs.eligible()
        self.learner = Learner(formulation, self.cost)
        nowhere = np.flatnonzero(~self.may.any(axis=1) & (instance.count > 0))
        if len(nowhere):
            raise ModelError(
                f"{instance.name}: {instance.queries[nowhere[0]]!r} may go to no deployment; "
                "greenopt.explain says why"
            )

    def run(self, stream: Stream, policy: Policy) -> tuple[IntArray, FloatArray]:
        """Where each query went, and how long it waited."""
        inst, n = self.inst, len(stream)
        room = Room(self.rows, self.use, self.may, inst.count)
        names = inst.sets["deployment"]
        servers = _Servers(self.slots(stream))
        now = _Now(stream.kind, room, servers)
        cost, use, row = self._predicted(stream)
        may = [np.flatnonzero(own) for own in self.may]
        chosen, wait_s = np.zeros(n, dtype=np.int64), np.zeros(n)
        policy.begin(Known(names, self.rows, n, len(inst.queries), self.learner))
        for i, (q, at, time_s) in enumerate(
            zip(stream.kind.tolist(), row.tolist(), stream.time_s.tolist(), strict=True)
        ):
            now.number, now.time_s, now.open = i, time_s, room.open(may[q], use[at])
            k = policy.choose(Query(time_s, cost[at], use[at]), now)
            if not isinstance(k, int | np.integer) or k not in now.open:
                raise ModelError(f"{policy.name} chose {k!r}; expected one of {now.open.tolist()}")
            chosen[i], wait_s[i] = k, servers.enter(k, time_s, float(self.service_s[q, k]))
            room.take(k, self.use[q, :, k])
        return chosen, wait_s

    def _predicted(self, stream: Stream) -> tuple[FloatArray, FloatArray, IntArray]:
        """Costs and uses at predicted lengths, and which row of them is each query's."""
        if (stream.factor == 1).all():
            return self.cost, self.use, stream.kind
        pairs = Pairs(_predicted(self.inst, stream.kind, stream.factor))
        return cost_of(pairs, self.weights), self.rows.use(pairs), np.arange(len(stream))

    def slots(self, stream: Stream) -> list[int]:
        """Queries that every deployment answers at once."""
        return [
            max(int(stream.instances[d.name] * d.concurrency + 1e-9), 1)
            for d in self.inst.deployments
        ]

    def waits(self, stream: Stream, chosen: IntArray, wait_s: FloatArray) -> tuple[Wait, ...]:
        """Waiting by deployment."""
        names, slots = self.inst.sets["deployment"], self.slots(stream)
        found = []
        for k, name in enumerate(names):
            at = np.flatnonzero(chosen == k)
            service_s = self.service_s[stream.kind[at], k]
            found.append(_wait(name, slots[k], stream.horizon_s, service_s, wait_s[at]))
        return tuple(found)

    def assigned(self, stream: Stream, chosen: IntArray) -> dict[str, LabelledArray]:
        """The queries as a decision of the offline instance."""
        number = np.zeros(self.pairs.shape)
        np.add.at(number, (stream.kind, chosen), 1.0)
        labels = {axis: self.inst.sets[axis] for axis in PAIR}
        return {"assigned": LabelledArray.from_dense("assigned", "queries", labels, number)}


def _predicted(inst: RoutingInstance, kind: IntArray, factor: FloatArray) -> RoutingInstance:
    """An instance with a kind for each query, at predicted lengths.

    Tables of energy and run time say nothing about other lengths: their numbers are taken to
    be proportional to the output.
    """

    def table(values: FloatArray | None, factor: FloatArray) -> FloatArray | None:
        return None if values is None else values[kind] * factor

    times = factor[:, None]
    return inst.replace(
        queries=[str(i) for i in range(len(kind))],
        count=np.ones(len(kind)),
        tokens_in=inst.tokens_in[kind],
        tokens_out=inst.tokens_out[kind] * times,
        energy_j=table(inst.energy_j, times),
        runtime_s=table(inst.runtime_s, times),
        accuracy_percent=table(inst.accuracy_percent, np.ones_like(times)),
        allowed=None,
        runtime_limit_s=None,
        accuracy_min_percent=None,
    )


def _wait(name: str, slots: int, horizon_s: float, service: FloatArray, wait: FloatArray) -> Wait:
    """Waiting at one deployment."""
    queries = len(service)
    rate = queries / horizon_s / slots
    if queries == 0:
        return Wait(name, 0, slots, 0.0, *[None] * 8)
    mean = float(service.mean())
    cv2 = float(service.var()) / mean**2 if mean > 0 else 0.0
    utilisation = rate * mean
    md1, mg1 = (
        float(mean_wait_s(utilisation, mean, own, 1.0)) if utilisation < 1 else None
        for own in (0.0, cv2)
    )
    simulated = (float(wait.mean()), float(np.quantile(wait, 0.95)), float(wait.max()))
    return Wait(name, queries, slots, rate, mean, cv2, utilisation, md1, mg1, *simulated)


def simulate(
    instance: RoutingInstance,
    stream: Stream,
    policy: Policy | str,
    *,
    optimum: Solution | None = None,
    time_limit: float | None = None,
) -> OnlineRun:
    """Let a policy send the queries of a stream, and measure it against the offline optimum.

    Parameters
    ----------
    instance : RoutingInstance
        The problem, with one stage of its objective.
    stream : Stream
        Of this instance.
    policy : Policy or str
        Who chooses, or a name of `POLICIES`, made with the stream's seed.
    optimum : Solution, optional
        Of `greenopt.solve` for this instance, if it is there already.
    time_limit : float, optional
        Of the offline solve, s. Without a proved optimum in that time its bound is used.

    Raises
    ------
    ModelError
        For an objective of several stages, a query that may go nowhere, an unknown policy, or one
        that chooses a deployment that is not open.
    InputError
        If stream or optimum belongs to another instance.
    """
    return _simulate(_Simulation(instance), stream, policy, optimum, time_limit)


def _simulate(
    simulation: _Simulation,
    stream: Stream,
    policy: Policy | str,
    optimum: Solution | None,
    time_limit: float | None = None,
) -> OnlineRun:
    inst = simulation.inst
    for given, what in ((stream, "stream"), (optimum, "optimum")):
        if given is not None and given.instance_sha256 != inst.sha256:
            text = f"is of another instance ({given.instance!r}, another digest)"
            raise InputError(what, [Problem("$.instance_sha256", text)])
    own = policy_named(policy, inst, stream.seed) if isinstance(policy, str) else policy
    best = solve(inst, time_limit=time_limit, explain=False) if optimum is None else optimum
    started = time.perf_counter()
    chosen, wait_s = simulation.run(stream, own)
    elapsed = time.perf_counter() - started
    decision = simulation.assigned(stream, chosen)
    plan, violations = _plan(inst, decision, own.name, best, stream.seed, elapsed)
    return OnlineRun(
        own.name,
        own.settings(),
        stream,
        plan,
        chosen,
        simulation.cost[stream.kind, chosen],
        wait_s,
        simulation.waits(stream, chosen, wait_s),
        violations,
        {
            "status": str(best.status),
            "objective": best.objective,
            "bound": best.bound,
            "bound_source": best.bound_source,
            "runtime_s": sum(best.runtime_s.values()),
        },
        elapsed,
    )


def _plan(
    inst: RoutingInstance,
    decision: dict[str, LabelledArray],
    policy: str,
    best: Solution,
    seed: int,
    runtime_s: float,
) -> tuple[Solution, tuple[str, ...]]:
    """A plan with the bound of the best one, and what it violates."""
    found = evaluate(inst, decision, CHECK_TOLERANCE)
    violations = tuple(map(str, found.violations))
    value = found.stages[0]
    bound = -math.inf if best.bound is None else best.bound
    proved = closes(value, bound, Settings().gap)
    status = Status.ERROR if violations else Status.OPTIMAL if proved else Status.FEASIBLE
    solution = Solution(
        problem=inst.problem,
        instance=inst.name,
        instance_sha256=inst.sha256,
        method=f"online, {policy}",
        solver=best.solver,
        status=status,
        stages=(StageResult(value, bound, best.bound_source, best.marginals),),
        decision=decision,
        metrics=found.metrics,
        metrics_by=found.metrics_by,
        sets=dict(inst.sets),
        runtime_s={"solve": runtime_s},
        seed=seed,
        threads=1,
        versions={**best.versions, "greenopt": __version__},
        report={"violations": list(violations), "notes": found.notes},
    )
    return solution, violations


def sweep(
    instance: RoutingInstance,
    *,
    horizon_s: float,
    instances: Mapping[str, int],
    errors: Sequence[float] = ERRORS,
    policies: Sequence[Policy | str] = tuple(POLICIES),
    seeds: Sequence[int] = (0,),
    optimum: Solution | None = None,
    time_limit: float | None = None,
) -> list[dict[str, Any]]:
    """Run policies over streams whose lengths are predicted worse and worse.

    Parameters
    ----------
    instance : RoutingInstance
        The problem; it is solved once.
    horizon_s, instances
        As for `stream`.
    errors : sequence of float
        Prediction errors.
    policies : sequence of Policy or str
        Who chooses; names are made anew with every seed.
    seeds : sequence of int
        A stream each.
    optimum, time_limit
        As for `simulate`.

    Returns
    -------
    list of dict
        One for each error, seed and policy: ``prediction_error``, ``seed``, ``policy``,
        ``objective``, ``bound``, ``gap``, ``gap_abs``, ``violations`` (how many),
        ``wait_md1_s``, ``wait_simulated_s``, ``runtime_s``.
    """
    simulation = _Simulation(instance)
    best = solve(instance, time_limit=time_limit, explain=False) if optimum is None else optimum
    rows = []
    for error in errors:
        for seed in seeds:
            arriving = stream(
                instance,
                horizon_s=horizon_s,
                instances=instances,
                seed=seed,
                prediction_error=error,
            )
            for policy in policies:
                run = _simulate(simulation, arriving, policy, best)
                rows.append(
                    {
                        "prediction_error": float(error),
                        "seed": seed,
                        "policy": run.policy,
                        "objective": run.objective,
                        "bound": run.bound,
                        "gap": run.gap,
                        "gap_abs": run.gap_abs,
                        "violations": len(run.violations),
                        "wait_md1_s": run.wait_md1_s,
                        "wait_simulated_s": run.wait_simulated_s,
                        "runtime_s": run.runtime_s,
                    }
                )
    return rows
