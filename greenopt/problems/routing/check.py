"""Routing checked from the page: every requirement and every metric, from the plan alone.

Shares no code with the formulation and never sees a Model. A plan is evaluated deployment by
deployment on its own entries; only normalisations look at pairs that no query is sent to.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from greenopt.errors import InstanceError, Problem
from greenopt.labelled import LabelledArray
from greenopt.physics.energy import J_PER_KWH, S_PER_H
from greenopt.problems.routing.instance import PAIR, RoutingInstance, Stage, TokenLaw
from greenopt.problems.routing.metrics import METRICS

SLACK = 1e-9
"""Relative slack of comparisons of data with data: equality counts."""

SHOWN = 5
"""Violations of one requirement that are named; the rest are counted."""


class Violation(NamedTuple):
    """One requirement a plan does not meet."""

    requirement: str
    where: str
    amount: float

    def __str__(self) -> str:
        return f"{self.requirement} at {self.where}: off by {self.amount:.6g}"


@dataclass
class Evaluation:
    """What a plan is worth and what it violates.

    Attributes
    ----------
    metrics : dict of str to float or None
        Totals of the metrics that exist in the instance; None where a mean has nothing to average.
    metrics_by : dict
        By "deployment".
    stages : list of float
        Value of each stage of the objective.
    stage_tolerances : list of float
        Relative worsening that later stages may cause.
    violations : list of Violation
        Requirements not met beyond the tolerance.
    notes : dict
        ``outside_range``: queries sent to where their tokens lie outside the measured ranges, their
        share of all, and their number by deployment; missing if there are none.
        ``negative_predictions``: queries for which the law of energy or run time says less than
        nothing, and whether that is kept or clipped; missing if there are none.
    """

    metrics: dict[str, float | None] = field(default_factory=dict)
    metrics_by: dict[str, dict[str, Any]] = field(default_factory=dict)
    stages: list[float] = field(default_factory=list)
    stage_tolerances: list[float] = field(default_factory=list)
    violations: list[Violation] = field(default_factory=list)
    notes: dict[str, Any] = field(default_factory=dict)


def evaluate(
    instance: RoutingInstance, decision: Mapping[str, LabelledArray], tolerance: float = 1e-6
) -> Evaluation:
    """Evaluate a plan against the instance.

    Parameters
    ----------
    instance : RoutingInstance
        The problem.
    decision : mapping of str to LabelledArray
        "assigned", queries by (query, deployment).
    tolerance : float
        Largest violation accepted: of a limit relative to its size, of a number of queries
        absolute. Who may go where is a matter of data, and compared with a slack of 1e-9.

    Returns
    -------
    Evaluation
        Metrics are computed also for a plan with violations, if its array can be read.

    Raises
    ------
    InstanceError
        If a term of the objective is normalised by a number that is not above 0.
    """
    return _Checker(instance, decision, tolerance).run()


class _Queries:
    """What some kinds of queries are on one deployment; each number is computed when asked for.

    Parameters
    ----------
    inst : RoutingInstance
        The problem.
    k : int
        Position of the deployment.
    at : array or slice
        Which kinds of queries.
    """

    def __init__(self, inst: RoutingInstance, k: int, at: Any) -> None:
        self.inst, self.k, self.at = inst, k, at
        self.deployment: Any = inst.deployments[k]
        self.tokens_in = inst.tokens_in[at]
        self.tokens_out = inst.tokens_out[at, k]

    def value(self, metric: str) -> Any:
        """What one query of each kind adds to a metric."""
        return _VALUES[metric](self)

    def predicted(self, law: TokenLaw) -> Any:
        """What a law says, J or s."""
        each = law.per_token_out + law.per_product * self.tokens_in
        return law.per_token_in * self.tokens_in + each * self.tokens_out

    def _known(self, table: Any, law: TokenLaw) -> Any:
        if table is not None:
            return table[self.at, self.k]
        said = self.predicted(law)
        return np.maximum(said, 0.0) if self.inst.negative_predictions == "clip" else said

    @cached_property
    def energy_j(self) -> Any:
        return self._known(self.inst.energy_j, self.deployment.energy)

    @cached_property
    def runtime_s(self) -> Any:
        return self._known(self.inst.runtime_s, self.deployment.runtime)

    @property
    def tokens(self) -> Any:
        return self.tokens_in + self.tokens_out

    @property
    def instance_s(self) -> Any:
        """Time of an instance that a query takes: its share of those that run at once."""
        return self.runtime_s / self.deployment.concurrency

    @property
    def gpu_h(self) -> Any:
        return self.deployment.gpus * self.instance_s / S_PER_H

    @property
    def accuracy_percent(self) -> Any:
        if self.inst.accuracy_percent is not None:
            return self.inst.accuracy_percent[self.at, self.k]
        return np.full(len(self.tokens_in), self.deployment.accuracy_percent)

    @property
    def it_kwh(self) -> Any:
        """Energy of the server: measured, or that of its GPUs and of what stands around them."""
        if self.inst.boundary == "server":
            return self.energy_j / J_PER_KWH
        return (self.energy_j + self.deployment.host_w * self.instance_s) / J_PER_KWH

    @property
    def facility_kwh(self) -> Any:
        return self.deployment.pue * self.it_kwh

    @property
    def cost_energy_usd(self) -> Any:
        return self.deployment.price_usd_per_kwh * self.facility_kwh

    @property
    def cost_gpu_usd(self) -> Any:
        return (self.deployment.gpu_usd_per_hour or 0.0) * self.gpu_h

    def outside(self) -> Any:
        """Largest number of tokens by which each query lies outside the measured ranges."""
        worst = np.zeros(len(self.tokens_in))
        d = self.deployment
        for tokens, ends in (
            (self.tokens_in, d.range_tokens_in),
            (self.tokens_out, d.range_tokens_out),
        ):
            if ends is not None:
                worst = np.maximum(worst, _above(tokens, ends[1]))
                worst = np.maximum(worst, _below(tokens, ends[0]))
        return worst


_VALUES: dict[str, Callable[[_Queries], Any]] = {
    "queries": lambda q: np.ones(len(q.tokens_in)),
    "tokens_in": lambda q: q.tokens_in,
    "tokens_out": lambda q: q.tokens_out,
    "tokens": lambda q: q.tokens,
    "energy_kwh": lambda q: q.energy_j / J_PER_KWH,
    "runtime_s": lambda q: q.runtime_s,
    "gpu_h": lambda q: q.gpu_h,
    "accuracy_percent_tokens": lambda q: q.accuracy_percent * q.tokens,
    "energy_it_kwh": lambda q: q.it_kwh,
    "energy_facility_kwh": lambda q: q.facility_kwh,
    "carbon_kg": lambda q: q.facility_kwh * q.deployment.carbon_g_per_kwh / 1000,
    "cost_energy_usd": lambda q: q.cost_energy_usd,
    "cost_gpu_usd": lambda q: q.cost_gpu_usd,
    "cost_usd": lambda q: q.cost_energy_usd + q.cost_gpu_usd,
}
"""What one query adds to each metric."""

_MEANS = {
    "accuracy_percent": ("accuracy_percent_tokens", "tokens"),
    "runtime_mean_s": ("runtime_s", "queries"),
}
"""Means as ratios of metrics."""


class _Checker:
    def __init__(
        self, inst: RoutingInstance, decision: Mapping[str, LabelledArray], tolerance: float
    ) -> None:
        self.inst, self.tolerance = inst, tolerance
        self.decision = decision
        self.result = Evaluation()
        self.names = [d.name for d in inst.deployments]
        self.shape = (len(inst.queries), len(inst.deployments))

    def run(self) -> Evaluation:
        if not self._read():
            return self.result
        self._check_numbers()
        self._check_demand()
        self._check_eligibility()
        self._measure()
        self._check_limits()
        self._check_floor()
        self._stages()
        self._outside_note()
        self._negative_note()
        return self.result

    def _violated(self, requirement: str, where: str, amount: float) -> None:
        self.result.violations.append(Violation(requirement, where, float(amount)))

    def _violated_by_pairs(self, requirement: str, query: Any, k: Any, amount: Any) -> None:
        """Name the pairs that are furthest off, and count the rest."""
        for i in np.argsort(-amount, kind="stable")[:SHOWN]:
            where = f"{self.inst.queries[query[i]]} on {self.names[k[i]]}"
            self._violated(requirement, where, amount[i])
        if len(amount) > SHOWN:
            self._violated(requirement, f"{len(amount) - SHOWN} more places", amount.max())

    # -- reading -------------------------------------------------------------------------------

    def _read(self) -> bool:
        """Take the entries of each deployment out of the array, if that can be read."""
        for name in self.decision:
            if name != "assigned":
                self._violated("decision", f"array {name!r} is not part of a plan", 1.0)
        array = self.decision.get("assigned")
        if array is None:
            self._violated("decision", "array 'assigned' is missing", 1.0)
            return False
        if not self._is_of_instance(array):
            text = f"array 'assigned' is not over {PAIR} of this instance"
            self._violated("decision", text, 1.0)
            return False
        if not np.isfinite(array.values).all():
            text = "array 'assigned' holds what is no finite number"
            self._violated("decision", text, 1.0)
            return False
        query, k = array.codes
        order = np.lexsort((query, k))
        query, k, number = query[order], k[order], array.values[order]
        twice = np.flatnonzero((np.diff(query) == 0) & (np.diff(k) == 0))
        if len(twice):
            at = twice[0]
            where = f"{self.inst.queries[query[at]]} on {self.names[k[at]]} stands there twice"
            self._violated("decision", where, len(twice))
            return False
        ends = np.searchsorted(k, np.arange(1, self.shape[1]))
        self.query, self.number = np.split(query, ends), np.split(number, ends)
        return True

    def _is_of_instance(self, array: LabelledArray) -> bool:
        """Whether axes, labels and positions are those of the instance."""
        if array.axes != PAIR or any(array.labels[a] != self.inst.sets[a] for a in PAIR):
            return False
        codes, sizes = np.asarray(array.codes), np.reshape(self.shape, (2, 1))
        if codes.shape != (2, len(array.values)) or codes.dtype.kind not in "iu":
            return False
        return bool(((codes >= 0) & (codes < sizes)).all())

    # -- requirements ----------------------------------------------------------------------------

    def _check_numbers(self) -> None:
        """Numbers of queries are whole and not negative, to an absolute tolerance."""
        self._check_pairs("non-negativity", lambda number: -number)
        self._check_pairs("whole queries", lambda number: np.abs(number - np.rint(number)))

    def _check_pairs(self, requirement: str, excess: Callable[[Any], Any]) -> None:
        found = []
        for k, (query, number) in enumerate(zip(self.query, self.number, strict=True)):
            amount = excess(number)
            bad = amount > self.tolerance
            found.append((query[bad], np.full(np.count_nonzero(bad), k), amount[bad]))
        self._violated_by_pairs(requirement, *map(np.concatenate, zip(*found, strict=True)))

    def _check_demand(self) -> None:
        """Every query of a kind is answered once; they are whole, so the tolerance is absolute."""
        answered = np.zeros(self.shape[0])
        for query, number in zip(self.query, self.number, strict=True):
            answered[query] += number  # no position stands twice
        off = np.abs(answered - self.inst.count)
        bad = np.flatnonzero(off > self.tolerance)
        for q in bad[np.argsort(-off[bad], kind="stable")][:SHOWN]:
            text = f"{self.inst.queries[q]}, {answered[q]:g} of {self.inst.count[q]:g} answered"
            self._violated("demand", text, off[q])
        if len(bad) > SHOWN:
            self._violated("demand", f"{len(bad) - SHOWN} more kinds", off.max())

    def _check_eligibility(self) -> None:
        """Queries are where they may be, by each of the page's reasons."""
        found: dict[str, list[Any]] = {}
        for k, (query, number) in enumerate(zip(self.query, self.number, strict=True)):
            live = number > self.tolerance
            here = _Queries(self.inst, k, query[live])
            for reason, amount in self._excesses(here, number[live]):
                bad = amount > 0
                where = np.full(np.count_nonzero(bad), k)
                found.setdefault(reason, []).append((query[live][bad], where, amount[bad]))
        for reason, parts in found.items():
            self._violated_by_pairs(reason, *map(np.concatenate, zip(*parts, strict=True)))

    def _excesses(self, here: _Queries, number: Any) -> list[tuple[str, Any]]:
        """By how much queries miss what makes their deployment eligible, 0 where they do not."""
        inst, d = self.inst, here.deployment
        found = []
        if inst.allowed is not None:
            forbidden = ~inst.allowed[here.at, here.k]
            found.append(("not allowed there (queries)", np.where(forbidden, number, 0.0)))
        if d.max_context_tokens is not None:
            found.append(
                ("longer than the context (tokens)", _above(here.tokens, d.max_context_tokens))
            )
        if inst.runtime_limit_s is not None:
            limit = inst.runtime_limit_s[here.at]
            found.append(("slower than its limit (s)", _above(here.runtime_s, limit)))
        if inst.accuracy_min_percent is not None:
            least = inst.accuracy_min_percent[here.at]
            found.append(("less accurate than asked (%)", _below(here.accuracy_percent, least)))
        if inst.outside_range == "forbid":
            found.append(("outside the measured range (tokens)", here.outside()))
        return found

    def _check_limits(self) -> None:
        """Limits, each relative to its own size.

        Where a thousandth of what is added up is larger, it is relative to that: less than a
        billionth of the terms is rounding. Numbers of queries are whole, and limits on them
        are so too: the next whole number inwards, by which one query too many is a violation.
        """
        for limit in self.inst.limits:
            chosen = limit.deployments or self.names
            at = [k for k, name in enumerate(self.names) if name in chosen]
            value = math.fsum(self.totals[limit.metric][k] for k in at)
            terms = math.fsum(self.sizes[limit.metric][k] for k in at)
            where, unit = ", ".join(chosen), METRICS[limit.metric].unit
            for words, side, sign in (("at least", limit.lower, -1), ("at most", limit.upper, 1)):
                if side is None:
                    continue
                size = max(abs(side), 1e-3 * terms, 1e-12)
                if limit.metric == "queries":
                    size, side = 1.0, _inwards(side, sign)
                if sign * (value - side) > self.tolerance * size:
                    text = f"limit {limit.name!r}, {words} {side:g} {unit}"
                    self._violated(text, where, sign * (value - side))

    def _check_floor(self) -> None:
        floor = self.inst.accuracy_floor_percent
        if floor is None:
            return
        asked = floor * math.fsum(self.totals["tokens"])
        missing = asked - math.fsum(self.totals["accuracy_percent_tokens"])
        if missing > self.tolerance * asked:
            text = f"accuracy floor, {floor:g} % (% token)"
            self._violated(text, "all deployments", missing)

    # -- metrics ---------------------------------------------------------------------------------

    def _here(self, k: int) -> _Queries:
        return _Queries(self.inst, k, self.query[k])

    def _measure(self) -> None:
        """Every metric by deployment and in total, and the sizes of what is added up."""
        additive = [m for m in self.inst.metrics if METRICS[m].kind == "additive"]
        self.totals: dict[str, list[float]] = {m: [] for m in additive}
        self.sizes: dict[str, list[float]] = {m: [] for m in additive}
        for k, number in enumerate(self.number):
            here = self._here(k)
            for metric in additive:
                added = here.value(metric) * number
                self.totals[metric].append(float(added.sum()))
                self.sizes[metric].append(float(np.abs(added).sum()))
        sums = {metric: math.fsum(values) for metric, values in self.totals.items()}
        by: dict[str, Any] = dict(self.totals)
        for mean in (m for m in self.inst.metrics if m not in additive):
            above, below = _MEANS[mean]
            by[mean] = list(map(_ratio, self.totals[above], self.totals[below]))
            self.result.metrics[mean] = _ratio(sums[above], sums[below])
        self.result.metrics = {**sums, **self.result.metrics}
        self.result.metrics_by = {"deployment": by}

    def _stages(self) -> None:
        normal = self._normalisations()
        self.result.stages = [self._stage(s, normal) for s in self.inst.objective]
        self.result.stage_tolerances = [stage.tolerance for stage in self.inst.objective]

    def _stage(self, stage: Stage, normal: Mapping[tuple[str, str], tuple[float, float]]) -> float:
        parts = []
        for k, number in enumerate(self.number):
            here = self._here(k)
            for term in stage.terms:
                if term.weight == 0:
                    continue
                shift, size = normal[term.metric, term.normalisation]
                worth = float(((here.value(term.metric) - shift) * number).sum())
                parts.append(term.weight * worth / size / term.scale)
        return math.fsum(parts)

    def _normalisations(self) -> dict[tuple[str, str], tuple[float, float]]:
        """Shift and size of every term that has a weight, by metric and normalisation."""
        found: dict[tuple[str, str], tuple[float, float]] = {}
        problems = []
        extremes = self._extremes()
        for s, stage in enumerate(self.inst.objective):
            for t, term in enumerate(stage.terms):
                if term.weight == 0:
                    continue
                shift, size = 0.0, 1.0
                if term.normalisation != "none":
                    least, most = extremes[term.metric]
                    shift = least if term.normalisation == "range" else 0.0
                    size = most - shift
                found[term.metric, term.normalisation] = shift, size
                if not size > 0:
                    text = f"{term.normalisation!r} of {term.metric} is {size:g}; expected above 0"
                    problems.append(Problem(f"$.objective[{s}].terms[{t}].normalisation", text))
        if problems:
            raise InstanceError(self.inst.name, problems)
        return found

    def _extremes(self) -> dict[str, tuple[float, float]]:
        """Least and largest value of each metric to normalise, over all pairs of kinds there are.

        One deployment at a time, so that no table of all pairs is needed.
        """
        terms = [t for stage in self.inst.objective for t in stage.terms if t.weight != 0]
        metrics = {t.metric for t in terms if t.normalisation != "none"}
        kinds = self.inst.count > 0
        every = slice(None) if kinds.all() else np.flatnonzero(kinds)
        found = dict.fromkeys(metrics, (np.inf, -np.inf))
        for k in range(self.shape[1] if metrics else 0):
            here = _Queries(self.inst, k, every)
            for metric in metrics:
                value, (least, most) = here.value(metric), found[metric]
                found[metric] = min(least, float(value.min())), max(most, float(value.max()))
        return found

    # -- notes -----------------------------------------------------------------------------------

    def _outside_note(self) -> None:
        """Queries whose tokens lie outside the measured ranges of where they are answered."""
        by = {}
        for k, number in enumerate(self.number):
            if outside := float(number[self._here(k).outside() > 0].sum()):
                by[self.names[k]] = outside
        if by:
            queries = math.fsum(by.values())
            share = queries / float(self.inst.count.sum())
            note = {"queries": queries, "share": share, "by_deployment": by}
            self.result.notes["outside_range"] = note

    def _negative_note(self) -> None:
        """Queries for which a law says less than nothing."""
        below = {"energy": 0.0, "runtime": 0.0}
        for k, number in enumerate(self.number):
            here = self._here(k)
            for what in below:
                if (law := getattr(here.deployment, what)) is not None:
                    below[what] += float(number[here.predicted(law) < 0].sum())
        if any(below.values()):
            kept = {"keep": "kept", "clip": "clipped"}[self.inst.negative_predictions]
            note = {f"{what}_queries": queries for what, queries in below.items()}
            self.result.notes["negative_predictions"] = {**note, "handling": kept}


def _above(value: Any, limit: Any) -> Any:
    """Excess over a limit, 0 up to the slack."""
    return np.where(value > limit * (1 + SLACK), value - limit, 0.0)


def _below(value: Any, limit: Any) -> Any:
    """What lacks of a limit, 0 up to the slack."""
    return np.where(value < limit * (1 - SLACK), limit - value, 0.0)


def _inwards(side: float, sign: int) -> float:
    """The next whole number below an upper limit or above a lower one, itself up to the slack."""
    if abs(side - round(side)) <= SLACK * max(abs(side), 1.0):
        return float(round(side))
    return float(sign * math.floor(sign * side))


def _ratio(above: float, below: float) -> float | None:
    return above / below if below > 0 else None
