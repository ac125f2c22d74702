"""What a routing instance requires, named: for explaining why it has no plan.

The model is that of formulations/routing.md with every pair open and every side of a limit a row of
its own. That a query is answered at most once is physics; everything else can be given up.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
from scipy import sparse

from greenopt.explaining import (
    Bounds,
    Member,
    Relaxation,
    Requirements,
    rounded_down,
    rounded_up,
)
from greenopt.labelled import BoolArray, FloatArray, IntArray
from greenopt.model import Block, Builder, Model, StageObjective
from greenopt.problems.routing.formulation import SLACK, Pairs
from greenopt.problems.routing.instance import Deployment, Limit, RoutingInstance
from greenopt.problems.routing.metrics import METRICS

KINDS = (
    "whole_queries",
    "accuracy_floor",
    "limit_lower",
    "limit_upper",
    "outside_range",
    "accuracy_min_percent",
    "runtime_limit_s",
    "max_context_tokens",
    "allowed",
    "demand",
)
"""Kinds of requirements; the first are given up first where several conflicts could be told."""

_SHARED = ("limit_lower", "limit_upper", "accuracy_floor")

TIERS = (_SHARED, ("demand", *_SHARED))
"""What may give way in the least change in all: limits are questioned before queries are."""

AXES = ("limit", "deployment", "group", "query")
"""Axes along which the members of a conflict are told apart. Kinds of queries that may go to the
same deployments are a group, which has no label."""

MANY = {"group": 8, "query": 8}
"""Of more groups and kinds than this, all are told together."""

NAMED = 3
"""Labels of a member that are named; of more, their number is told."""

SHOWN = 8
"""Deployments of which it is said why a query may not go there."""

COUNTED = 1e3
"""Size of a large number of queries, of which even one is not rounding."""

CLOSE = 1e-6
"""Distance between a floor that can be kept and one that cannot, relative to the one asked for,
at which the search for the highest ends."""


def requirements(instance: RoutingInstance) -> RoutingRequirements:
    """The requirements of an instance."""
    return _Maker(instance).made()


# -- the open model ------------------------------------------------------------------------------


def closed_pairs(instance: RoutingInstance, pairs: Pairs) -> dict[str, tuple[BoolArray, Any]]:
    """Pairs that each rule forbids, and what would open them.

    Returns
    -------
    dict of str to tuple of ndarray, shape (query, deployment)
        By the rule's field: where it forbids, and by how much its number misses what would allow
        the pair (tokens, s, %), infinite where no number would.
    """
    inst, shape = instance, pairs.shape
    found: dict[str, tuple[BoolArray, Any]] = {}
    if inst.outside_range == "forbid":
        inside = [_inside(inst, k, own) for k, own in enumerate(inst.deployments)]
        found["outside_range"] = ~np.stack(inside, axis=1), np.full(shape, np.inf)
    if (asked := inst.accuracy_min_percent) is not None:
        least = asked[:, None]
        missing = least - pairs.accuracy_percent
        found["accuracy_min_percent"] = pairs.accuracy_percent < least * (1 - SLACK), missing
    if (limits := inst.runtime_limit_s) is not None:
        longest = limits[:, None]
        room = SLACK * np.where(np.isfinite(longest), longest, 0.0)
        beyond = pairs.runtime_s - longest
        found["runtime_limit_s"] = beyond > room, beyond
    contexts = np.array([d.max_context_tokens or np.inf for d in inst.deployments])
    found["max_context_tokens"] = pairs.tokens > contexts * (1 + SLACK), pairs.tokens - contexts
    if inst.allowed is not None:
        found["allowed"] = ~inst.allowed, np.full(shape, np.inf)
    return found


def _inside(inst: RoutingInstance, k: int, own: Deployment) -> BoolArray:
    """Whether each query's tokens lie in the measured ranges of a deployment."""
    inside = np.ones(len(inst.queries), dtype=bool)
    for tokens, ends in (
        (inst.tokens_in, own.range_tokens_in),
        (inst.tokens_out[:, k], own.range_tokens_out),
    ):
        if ends is not None:
            inside &= (tokens >= ends[0] * (1 - SLACK)) & (tokens <= ends[1] * (1 + SLACK))
    return inside


def _is_network(inst: RoutingInstance) -> bool:
    """Whether plans are flows of whole numbers, so that none has to be asked for.

    As in the formulation, for any objective; and all sides have to be whole already.
    """
    sides = [side for own in inst.limits for side in (own.lower, own.upper) if side is not None]
    counts = all(own.metric == "queries" for own in inst.limits)
    whole = all(side == round(side) for side in sides)
    every = frozenset(inst.sets["deployment"])
    sets = {every if own.deployments is None else frozenset(own.deployments)
            for own in inst.limits}  # fmt: skip
    nested = all(a <= b or b <= a or not a & b for a in sets for b in sets)
    return inst.accuracy_floor_percent is None and counts and whole and nested


class _Maker:
    """Builds the requirements of an instance."""

    def __init__(self, instance: RoutingInstance) -> None:
        self.instance, self.pairs = instance, Pairs(instance)
        self.kinds = np.flatnonzero(instance.count > 0)
        shape = (len(self.kinds), len(instance.deployments))
        self.row, self.deployment = (at.ravel() for at in np.indices(shape))
        self.query = self.kinds[self.row]
        self.sizes: list[FloatArray] = []
        self.model = self._model()
        rows, columns = self.model.matrix.shape
        self.lower, self.upper = (np.full(rows, -1) for _ in range(2))
        self.whole = np.full(columns, -1)
        self.families: dict[str, Block] = {}
        self.closed: list[tuple[IntArray, IntArray, FloatArray]] = []

    def _of_pairs(self, table: Any) -> Any:
        """A table over the columns."""
        return table[self.query, self.deployment]

    # -- rows --

    def _model(self) -> Model:
        inst = self.instance
        names = tuple(limit.name for limit in inst.limits)
        build = Builder(inst.name, {**inst.sets, "limit": names})
        codes, whole = {"query": self.query, "deployment": self.deployment}, not _is_network(inst)
        columns = build.add_columns("assigned", codes, 0.0, inst.count[self.query], integer=whole)
        asked = inst.count[self.kinds]
        build.add_rows("demand", {"query": self.kinds}, asked, asked)
        build.add_entries(self.row, columns.positions, 1.0)
        self.sizes.append(np.minimum(asked, COUNTED))
        self._add_limits(build, "lower")
        self._add_limits(build, "upper")
        if (floor := inst.accuracy_floor_percent) is not None:
            row = build.add_rows("accuracy_floor", {}, 0.0, np.inf)
            tokens, accuracy = map(self._of_pairs, (self.pairs.tokens, self.pairs.accuracy_percent))
            build.add_entries(row.start, columns.positions, (accuracy - floor) * tokens)
            most = float(inst.count @ self.pairs.tokens.max(axis=1))
            self.sizes.append(np.array([floor * most or 1.0]))
        return build.build([StageObjective(np.zeros(columns.size), 0.0)])

    def _add_limits(self, build: Builder, side: str) -> None:
        """A row for each limit that has this side."""
        asked = [getattr(limit, side) for limit in self.instance.limits]
        own = np.array([n for n, value in enumerate(asked) if value is not None], dtype=np.int64)
        if not len(own):
            return
        sides = {"lower": -np.inf, "upper": np.inf, side: [asked[n] for n in own]}
        rows = build.add_rows(f"limit_{side}", {"limit": own}, **sides)
        for row, n in zip(rows.positions, own, strict=True):
            values = self._of_limit(self.instance.limits[n])
            build.add_entries(row, np.arange(len(values)), values)
            self.sizes.append(np.array([_size(self.instance.limits[n], asked[n], values)]))

    def _of_limit(self, limit: Limit) -> FloatArray:
        """Coefficients of a limit over the columns."""
        values: FloatArray = self._of_pairs(self.pairs.metric(limit.metric))
        if limit.deployments is None:
            return values
        named = np.isin(self.instance.sets["deployment"], limit.deployments)
        return np.where(named[self.deployment], values, 0.0)

    # -- families --

    def made(self) -> RoutingRequirements:
        """Everything together."""
        closed = closed_pairs(self.instance, self.pairs)
        eligible = ~np.any([where for where, _ in closed.values()], axis=0)
        _, group = np.unique(eligible, axis=0, return_inverse=True)
        self.group, rows = group.ravel(), self.model.rows
        if self.model.is_integer:
            self.whole[:] = self._family("whole_queries")
        for kind, owner in zip(_SHARED, (self.lower, self.upper, self.lower), strict=True):
            if block := rows.get(kind):
                owner[block.slice] = self._family(kind, **block.codes)
        for kind, (where, value) in closed.items():
            self._close(kind, where, value)
        demand, freed = rows["demand"].slice, np.full(len(self.lower), -np.inf)
        self.lower[demand] = self._family("demand", query=self.kinds, group=self.group[self.kinds])
        freed[demand] = 0.0
        return RoutingRequirements(
            self.model, self.families, self.lower, self.upper, freed, self._closing(), self.whole,
            self.instance, self.pairs, eligible, np.concatenate(self.sizes),
            self.instance.accuracy_floor_percent or 0.0,
        )  # fmt: skip

    def _family(self, kind: str, **codes: IntArray) -> IntArray:
        """Number the requirements of a kind."""
        start = sum(family.size for family in self.families.values())
        size = len(next(iter(codes.values()))) if codes else 1
        self.families[kind] = Block(kind, codes, start, size)
        return np.arange(start, start + size)

    def _close(self, kind: str, where: BoolArray, value: FloatArray) -> None:
        """A requirement for each query, or deployment, that has the number behind a rule."""
        here = np.flatnonzero(self._of_pairs(where))
        if not len(here):
            return
        by = self.deployment if kind in _OF_DEPLOYMENT else self.query
        own, at = np.unique(by[here], return_inverse=True)
        codes = (
            {"query": own, "group": self.group[own]} if by is self.query else {"deployment": own}
        )
        leaf = self._family(kind, **codes)
        self.closed.append((here, leaf[at.ravel()], self._of_pairs(value)[here]))

    def _closing(self) -> Any:
        shape = (len(self.query), sum(family.size for family in self.families.values()))
        parts = list(zip(*self.closed, strict=True)) or [()] * 3
        column, leaf, value = (np.concatenate(part) if part else np.zeros(0) for part in parts)
        at = (column.astype(np.int64), leaf.astype(np.int64))
        return sparse.csc_array((value, at), shape=shape)


def _size(limit: Limit, side: float, values: FloatArray) -> float:
    """What a limit's shortfall is measured against, like the checker's, but for no plan."""
    if limit.metric == "queries":
        return min(max(abs(side), 1.0), COUNTED)
    return max(abs(side), 1e-3 * float(np.abs(values).max(initial=0.0))) or 1.0


# -- words ---------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class RoutingRequirements(Requirements):
    """The requirements of a routing instance, with words for them.

    Attributes
    ----------
    instance : RoutingInstance
        Whose.
    pairs : Pairs
        What every query is on every deployment.
    eligible : ndarray of bool, shape (query, deployment)
        Where queries may go.
    sizes : ndarray, shape (n_rows,)
        What the shortfall of a row is measured against.
    floor_percent : float
        The accuracy floor that the model asks for.
    reached_percent, beyond_percent : float
        A floor that is known to be possible, and one that is known not to be.
    asks : bool
        Whether the floor is one to ask about between these two.
    """

    instance: RoutingInstance
    pairs: Pairs
    eligible: BoolArray
    sizes: FloatArray
    floor_percent: float
    reached_percent: float = 0.0
    beyond_percent: float = np.inf
    asks: bool = False

    wanted: ClassVar[str] = "demand"
    tiers: ClassVar[tuple[tuple[str, ...], ...]] = TIERS
    axes: ClassVar[tuple[str, ...]] = AXES
    many: ClassVar[Mapping[str, int]] = MANY

    def text(self, member: Member) -> str:
        """One member in words, with what it asks for."""
        value = self._value(member)
        return self._subject(member) + (f": {value}" if value else "")

    def summary(self, members: Sequence[Member]) -> list[str]:
        """Members in few words: more than four of one kind are told as one, but for limits."""
        groups: dict[str, list[Member]] = {}
        for member in members:
            groups.setdefault(self.kind(member), []).append(member)
        found: list[str] = []
        for kind, own in groups.items():
            told = [np.concatenate(own)] if len(own) > 4 and kind not in _SHARED else own
            found += [self.text(member) for member in told]
        return found

    # -- what a requirement is called --

    def _subject(self, member: Member) -> str:
        what, place = _SUBJECTS[self.kind(member)]
        return what if place is None else f"{what} {place(self, member)}"

    def _limit(self, member: Member) -> Limit:
        return self.instance.limits[int(self.codes_of(member)["limit"][0])]

    def _limit_text(self, member: Member) -> str:
        """``a100 (gpu_h of a and b)``."""
        limit = self._limit(member)
        of = "" if limit.deployments is None else f" of {_named(limit.deployments, 'deployments')}"
        return f"{limit.name} ({limit.metric}{of})"

    def _deployments(self, member: Member) -> str:
        own = self.codes_of(member)["deployment"]
        return _named([self._names[k] for k in own], "deployments")

    def _queries(self, member: Member) -> str:
        """Kinds of queries by name or number, and where they may go if they share that."""
        kinds, names = np.unique(self.codes_of(member)["query"]), self.instance.sets["query"]
        if len(kinds) <= NAMED:
            return " and ".join(names[q] for q in kinds)
        every = "all " if len(kinds) == np.count_nonzero(self.instance.count) else ""
        return f"{every}{len(kinds):,} kinds of queries{self._only(kinds)}"

    def _only(self, kinds: IntArray) -> str:
        """Where kinds may go, if all of them may go to the same deployments but not to all."""
        may = self.eligible[kinds]
        if (may != may[0]).any() or may[0].all():
            return ""
        if not may[0].any():
            return " that may go nowhere"
        there = [self._names[k] for k in np.flatnonzero(may[0])]
        return f" that may only go to {_named(there, 'deployments')}"

    @property
    def _names(self) -> tuple[str, ...]:
        return self.instance.sets["deployment"]

    # -- what it asks for --

    def _value(self, member: Member) -> str:
        kind = self.kind(member)
        if kind == "accuracy_floor":
            return f"at least {self.instance.accuracy_floor_percent:,.6g} %, mean over tokens"
        if kind in _SHARED:
            words = "at least" if kind == "limit_lower" else "at most"
            return f"{words} {_number(self._asked(member))} {self._unit(member)}"
        if kind == "demand":
            return _count(self._asked(member))
        if kind in _UNITS:
            given = self._given(member)
            span = f"{given.min():,.6g}"
            span += f" to {given.max():,.6g}" if given.max() > given.min() else ""
            return f"{span} {_UNITS[kind]}"
        if kind == "outside_range":
            own = self.codes_of(member)["deployment"]
            return _ranges(self.instance.deployments[own[0]]) if len(own) == 1 else ""
        return ""

    def _given(self, member: Member) -> FloatArray:
        """The numbers of the instance behind a member that closes pairs."""
        kind, codes, inst = self.kind(member), self.codes_of(member), self.instance
        if kind in _OF_DEPLOYMENT:
            own = [inst.deployments[k].max_context_tokens for k in codes["deployment"]]
            return np.array(own, dtype=float)
        return np.asarray(getattr(inst, kind)[codes["query"]])

    def _asked(self, member: Member) -> float:
        """What the rows of a member ask for in all."""
        rows = np.isin(self.lower, member)
        if rows.any():
            return float(self.model.row_lower[rows].sum())
        return float(self.model.row_upper[np.isin(self.upper, member)].sum())

    def _unit(self, member: Member) -> str:
        return METRICS[self._limit(member).metric].unit

    # -- headlines --

    def short_of(self, members: Sequence[Member]) -> Member:
        """What is told as falling short: the floor, the only limit, or else queries."""
        shared = self._shared(members)
        floor = [m for m in shared if self.kind(m) == "accuracy_floor"]
        wanted = super().short_of(members)
        if floor or len(shared) == 1 or (shared and not len(wanted)):
            return [*shared, *floor][-1]
        return wanted

    def _shared(self, members: Sequence[Member]) -> list[Member]:
        return [member for member in members if self.kind(member) in _SHARED]

    def headlines(self, members: Sequence[Member], missing: Mapping[int, float]) -> list[str]:
        """What is asked for and what there is."""
        short, shared = self.short_of(members), self._shared(members)
        wanted, amount = super().short_of(members), sum(missing.values())
        if not len(short):
            return []
        kind = self.kind(short)
        if kind == "demand" and not shared:
            kinds = self.codes_of(short)["query"]
            return [self._nowhere(int(q)) for q in kinds] if len(kinds) <= NAMED else []
        who = f"{_count(self._asked(wanted))} of {self._queries(wanted)}" if len(wanted) else ""
        within = self._within([m for m in shared if not self._alike(m, short)])
        if kind == "accuracy_floor":
            most = _number(self.floor_asked - amount / self._most_tokens(wanted))
            reach = f"{who or 'queries'} reach at most {most} %, mean over tokens{within}"
            return [f"{reach}; {self.floor_asked:,.6g} % are asked for"]
        asked = self._asked(short)
        if kind == "demand":
            return [f"{who}: at most {_number(max(asked - amount, 0.0))} can be answered{within}"]
        subject, unit = self._subject(short), self._unit(short)
        by = f" for {who}" if who else ""
        if kind == "limit_upper":
            needed = f"{_number(asked + amount)} {unit} are needed at least{by}{within}"
            return [f"{subject}: {needed}; {_number(asked)} are there"]
        most = f"at most {_number(asked - amount)} {unit} are possible{by}{within}"
        return [f"{subject}: {most}; {_number(asked)} are asked for"]

    def _alike(self, one: Member, other: Member) -> bool:
        """Whether two members are sides of the same limit."""
        return self.codes_of(one).get("limit") == self.codes_of(other).get("limit")

    def _within(self, shared: Sequence[Member]) -> str:
        return f" within {' and '.join(self._subject(m) for m in shared)}" if shared else ""

    def _most_tokens(self, wanted: Member) -> float:
        """Tokens of the queries of some demand, of all without any, where they have most."""
        tokens = self.instance.count * self.pairs.tokens.max(axis=1)
        return float((tokens[self.codes_of(wanted)["query"]] if len(wanted) else tokens).sum())

    def _nowhere(self, q: int) -> str:
        """Why no deployment may answer a kind of queries."""
        inst = self.instance
        told = [
            f"{name}: {' and '.join(self._reasons(q, k))}" for k, name in enumerate(self._names)
        ]
        if len(told) > SHOWN:
            told = [*told[:SHOWN], f"and {len(told) - SHOWN} more deployments"]
        return f"{_count(float(inst.count[q]))} of {inst.queries[q]}: {'; '.join(told)}"

    def _reasons(self, q: int, k: int) -> Iterator[str]:
        """Why a kind of queries may not go to a deployment."""
        inst, pairs, closed = self.instance, self.pairs, self._closed
        own, here = inst.deployments[k], [kind for kind in closed if closed[kind][0][q, k]]
        if "allowed" in here:
            yield "not allowed"
        if "max_context_tokens" in here:
            yield f"{pairs.tokens[q, k]:,.6g} tokens, its context is {own.max_context_tokens:,}"
        if "runtime_limit_s" in here and inst.runtime_limit_s is not None:
            limit = inst.runtime_limit_s[q]
            yield f"run time {pairs.runtime_s[q, k]:,.6g} s, the limit is {limit:,.6g} s"
        if "accuracy_min_percent" in here and inst.accuracy_min_percent is not None:
            least = inst.accuracy_min_percent[q]
            yield f"accuracy {pairs.accuracy_percent[q, k]:,.6g} %, {least:,.6g} % are asked for"
        if "outside_range" in here:
            tokens = f"{inst.tokens_in[q]:,.6g} tokens in and {inst.tokens_out[q, k]:,.6g} out"
            yield f"{tokens}, measured were {_ranges(own)}"

    @cached_property
    def _closed(self) -> dict[str, tuple[BoolArray, Any]]:
        return closed_pairs(self.instance, self.pairs)

    # -- relaxations --

    def widened(self, member: Member) -> Member:
        """A member: each has a number of its own."""
        return member

    def slack_rows(self, member: Member) -> bool:
        """Whether a member can give way by an amount on its rows."""
        return self.kind(member) in TIERS[-1]

    def row_sizes(self) -> FloatArray:
        """What a row's shortfall is measured against."""
        return self.sizes

    def relaxation(self, member: Member, amount: float | None, smallest: bool) -> Relaxation:
        """A member relaxed alone."""
        kind = self.kind(member)
        if kind == "accuracy_floor":
            amount = self.floor_asked - self.reached_percent
            smallest = bool(self.beyond_percent - self.reached_percent <= 2 * self._close)
        sure = "" if smallest else " (perhaps less)"
        unit, text = self._relaxed(member, amount)
        return Relaxation(self.name(member), amount, unit, True, smallest, f"{text}{sure}")

    @property
    def floor_asked(self) -> float:
        """The instance's accuracy floor, %."""
        return self.instance.accuracy_floor_percent or 0.0

    def _relaxed(self, member: Member, amount: float | None) -> tuple[str, str]:
        """Unit and words of a change."""
        kind, subject = self.kind(member), self._subject(member)
        if amount is None:
            the = "" if kind == "whole_queries" else "the "
            return "", f"without {the}{subject} it is feasible"
        if kind == "demand":
            total = _number(self._asked(member))
            return "queries", f"{subject}: {_count(amount)} fewer, of {total}"
        if kind == "accuracy_floor":
            now = f"{rounded_down(self.floor_asked - amount)} instead of {self.floor_asked:,.6g} %"
            return "%", f"{subject}: {now}"
        if kind in _SHARED:
            asked, unit = self._asked(member), self._unit(member)
            lower = kind == "limit_lower"
            now = rounded_down(asked - amount) if lower else rounded_up(asked + amount)
            return unit, f"{subject}: {now} instead of {_number(asked)} {unit}"
        given, unit = self._given(member), _UNITS[kind]
        less = kind == "accuracy_min_percent"
        if given.min() < given.max():
            return unit, f"{subject}: {rounded_up(amount)} {unit} {'less' if less else 'more'} each"
        own = float(given[0])
        now = rounded_down(own - amount) if less else rounded_up(own + amount)
        return unit, f"{subject}: {now} instead of {own:,.6g} {unit}"

    def steps(self, member: Member) -> FloatArray | None:
        """Amounts by which a limit could be eased: what opens its pairs, one after the other."""
        return np.unique(self.closing[:, member].data) if self.kind(member) in _UNITS else None

    def eased(self, member: Member, value: float) -> Bounds:
        """Sides while everything stands and a limit is eased by an amount."""
        closing = self.closing.copy()
        for leaf in member:
            inside = slice(closing.indptr[leaf], closing.indptr[leaf + 1])
            closing.data[inside] *= closing.data[inside] > value
        return replace(self, closing=closing).bounds(np.ones(self.size, dtype=bool))

    def closer(
        self, member: Member, amount: float, x: FloatArray, smallest: bool
    ) -> RoutingRequirements:
        """The next accuracy floor to ask about: how much it is missed by depends on the tokens.

        A plan that misses a floor by the least reaches a floor of its own (Dinkelbach's step), and
        no plan reaches one that is missed by more than all its tokens can make up for. What is
        asked next is a little above the former, or after success half-way.
        """
        if self.kind(member) != "accuracy_floor":
            return self
        c = self.model.columns["assigned"].codes
        tokens = self.pairs.tokens[c["query"], c["deployment"]]
        accuracy = self.pairs.accuracy_percent[c["query"], c["deployment"]]
        reached = max(self.reached_percent, float(accuracy * tokens @ x) / float(tokens @ x))
        most = np.where(self.eligible, self.pairs.tokens, 0.0).max(axis=1) @ self.instance.count
        beyond, missed = self.beyond_percent, amount > 0
        if missed and smallest:
            beyond = min(beyond, self.floor_percent - amount / most)
        found = replace(self, reached_percent=reached, beyond_percent=beyond, asks=False)
        if (missed and not smallest) or beyond - reached <= self._close:
            return found
        floor = reached + self._close if missed else (reached + beyond) / 2
        row = sparse.csr_array(((accuracy - floor) * tokens)[None])
        matrix = sparse.vstack([self.model.matrix[:-1], row], format="csr")
        return replace(
            found, model=replace(self.model, matrix=matrix), floor_percent=floor, asks=True
        )

    @property
    def unsettled(self) -> bool:
        """Whether there is another accuracy floor to ask about."""
        return self.asks

    @property
    def _close(self) -> float:
        """Distance between floors at which the search for the highest ends, %."""
        return CLOSE * self.floor_asked

    # -- the least change in all --

    def least(self, amounts: Mapping[int, float], smallest: bool) -> list[Relaxation]:
        """One line a limit, and one for the queries that may go to the same deployments."""
        families = self.family_of()
        numbers = np.array(list(amounts), dtype=np.int64)
        wanted = families[numbers] == list(self.families).index("demand")
        short = {int(n): amounts[n] for n in numbers[wanted]}
        found = self._least_demand(short, smallest)
        sure = "" if smallest else " (perhaps less)"
        for number in numbers[~wanted]:
            member, amount = np.array([number]), amounts[int(number)]
            if self.kind(member) == "accuracy_floor":
                unit, text = self._least_floor(member, amount, short)
            else:
                unit, text = self._relaxed(member, amount)
            found.append(Relaxation(self.name(member), amount, unit, False, smallest, text + sure))
        return found

    def _least_floor(
        self, member: Member, amount: float, short: Mapping[int, float]
    ) -> tuple[str, str]:
        """A floor that is kept for sure by a plan that misses the one asked for by % tokens."""
        family, unit = self.families["demand"], METRICS["accuracy_percent_tokens"].unit
        left = self.instance.count.copy()
        for number, fewer in short.items():
            left[family.codes["query"][number - family.start]] -= fewer
        tokens = np.where(self.eligible, self.pairs.tokens, np.inf).min(axis=1)
        fewest = float(left[left > 0] @ np.where(np.isfinite(tokens), tokens, 0.0)[left > 0])
        text = f"accuracy floor is missed by {rounded_up(amount)} {unit}"
        if fewest <= 0:
            return unit, text
        mean = rounded_down(max(self.floor_asked - amount / fewest, 0.0))
        return unit, f"{text}, a mean of at least {mean} instead of {self.floor_asked:,.6g} %"

    def _least_demand(self, short: Mapping[int, float], smallest: bool) -> list[Relaxation]:
        """Queries that are not answered: kind by kind where they are few, else by group."""
        if not short:
            return []
        family, numbers = self.families["demand"], np.array(list(short))
        group = family.codes["group"][numbers - family.start]
        found = []
        for own in np.unique(group):
            members = numbers[group == own]
            told = members[:, None] if len(members) <= NAMED else [members]
            for member in told:
                kinds, amount = self.codes_of(member)["query"], sum(short[int(n)] for n in member)
                text = (
                    f"{rounded_up(amount)} of {_count(self._asked(member))} of "
                    f"{self._queries(member)} cannot be answered"
                )
                if not self.eligible[kinds].any():
                    text += ": no deployment may"
                name = self.name(member)
                found.append(Relaxation(name, amount, "queries", False, smallest, text))
        return found


_UNITS = {"accuracy_min_percent": "%", "runtime_limit_s": "s", "max_context_tokens": "tokens"}
"""Kinds that forbid pairs by a number of their own, and its unit."""

_OF_DEPLOYMENT = frozenset({"outside_range", "max_context_tokens"})
"""Kinds that forbid pairs by what the deployment is; the others by what is asked of a query."""

_Place = Callable[[RoutingRequirements, Member], str]

_SUBJECTS: dict[str, tuple[str, _Place | None]] = {
    "whole_queries": ("whole numbers of queries", None),
    "accuracy_floor": ("accuracy floor", None),
    "limit_lower": ("limit", RoutingRequirements._limit_text),
    "limit_upper": ("limit", RoutingRequirements._limit_text),
    "outside_range": ("measured range of", RoutingRequirements._deployments),
    "accuracy_min_percent": ("least accuracy of", RoutingRequirements._queries),
    "runtime_limit_s": ("run time limit of", RoutingRequirements._queries),
    "max_context_tokens": ("context of", RoutingRequirements._deployments),
    "allowed": ("mask of", RoutingRequirements._queries),
    "demand": ("demand of", RoutingRequirements._queries),
}
"""What each kind is called, and where."""


def _named(names: Sequence[str], what: str) -> str:
    """Names, or how many there are."""
    return " and ".join(names) if len(names) <= NAMED else f"{len(names)} {what}"


def _ranges(own: Deployment) -> str:
    """``8 to 2,048 tokens in``, and out."""
    ends = {"in": own.range_tokens_in, "out": own.range_tokens_out}
    told = [f"{low:,.6g} to {high:,.6g} {way}" for way, e in ends.items() if e for low, high in [e]]
    return " and ".join(told)


def _count(queries: float) -> str:
    """``1 query``."""
    return f"{_number(queries)} {'query' if queries == 1 else 'queries'}"


def _number(value: float) -> str:
    """Whole numbers as they are, others to six digits."""
    return f"{value:,.0f}" if value == round(value) and abs(value) < 1e12 else f"{value:,.6g}"
