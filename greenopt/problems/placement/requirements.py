"""What a placement instance requires, named: for explaining why it has no plan.

The model is that of formulations/placement.md with every limit open: that of an instance like the
given one, but without limits on latency and memory, masks, given numbers of instances and blocks,
and with more GPUs than are needed everywhere. The requirements put back what was there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
from scipy import sparse

from greenopt.explaining import Bounds, Member, Relaxation, Requirements
from greenopt.explaining import rounded_up as _up
from greenopt.labelled import FloatArray, IntArray
from greenopt.model import Block, Model, StageObjective
from greenopt.problems.placement.eligibility import (
    SLACK,
    kv_need_and_room_bytes,
    serving_statistic,
    stock_limits,
)
from greenopt.problems.placement.formulation import Formulation
from greenopt.problems.placement.instance import PlacementInstance, Profile
from greenopt.problems.placement.metrics import METRICS, leaves
from greenopt.problems.placement.queueing import fine_tangents

KINDS = (
    "balance",
    "whole_requests",
    "load_rule",
    "hold",
    "min_up",
    "initial",
    "instance_limit",
    "budget",
    "deadline",
    "memory",
    "reachable",
    "tbt",
    "power_cap",
    "fixed",
    "whole_instances",
    "ttft",
    "gpus",
    "demand",
)
"""Kinds of requirements; the first are given up first where several conflicts could be told."""

TIERS = (("budget",), ("demand", "budget"), tuple(k for k in KINDS if k != "load_rule"), KINDS)
"""What may give way in the least change in all: budgets are questioned before demand is."""

AXES = ("class", "budget", "limit", "model", "mode", "gpu_type", "site", "origin")
"""Axes along which the members of a conflict are told apart, in order."""

MANY = {"site": 8, "origin": 4}
"""Of more sites and origins than this, all are told together."""

_SNM = ("site", "model", "mode")


def requirements(instance: PlacementInstance) -> PlacementRequirements:
    """The requirements of an instance."""
    return _Maker(instance).made()


# -- the open model ------------------------------------------------------------------------------


def opened(instance: PlacementInstance, more: float = 0.0) -> PlacementInstance:
    """The instance without the limits that close columns, with GPUs enough everywhere.

    Parameters
    ----------
    instance : PlacementInstance
        Whose limits to open.
    more : float
        Instances that GPUs are to be enough for beside those that demand asks for.
    """
    horizon = float(np.ptp(instance.periods.begin_s)) or 1.0
    classes = [
        {
            **k.model_dump(),
            "ttft_limit_s": None,
            "tbt_limit_s": None,
            "deferral_limit_s": None if k.deferral_limit_s is None else horizon,
        }
        for k in instance.classes
    ]
    metric, weight = ("unmet_usd", 1.0) if instance.unmet_allowed else ("requests", 0.0)
    charged = any("cost_demand_usd" in leaves(budget.metric) for budget in instance.budgets)
    nothing: dict[str, Any] = {"axes": [], "values": None}
    return instance.replace(
        classes=classes,
        models=[{**n.model_dump(), "weight_bytes": None} for n in instance.models],
        reachable=None,
        hold_periods=None,
        fixed_instances=nothing if instance.counts_instances else None,  # still counted
        gpus=_enough_gpus(instance, more),
        load_rule="at_most",
        objective=[{"terms": [{"metric": metric, "weight": weight}]}],
        demand_charge_usd_per_kw=instance.demand_charge_usd_per_kw if charged else None,
    )


def _enough_gpus(inst: PlacementInstance, more: float) -> FloatArray:
    """GPUs of which no plan needs more, with any requirements given up, by period.

    Every site has enough for all there is to serve in a period, or in the busiest one: from there
    instances may be held, or have to stay up, or be kept so that none has to start.
    """
    carried = bool(inst.hold_periods) or any(profile.starts for profile in inst.profiles)
    duration = np.array(inst.periods.duration_s)
    demand = inst.demand_requests.sum(axis=1)
    late = np.array([k.deferral_limit_s is not None for k in inst.classes])
    demand = np.where(late, np.cumsum(demand, axis=0), demand)
    enough = np.where(np.isfinite(inst.gpus), inst.gpus, 0.0)
    types = inst.sets["gpu_type"]
    for profile in inst.profiles:
        work = np.array(
            [k.work_per_request[profile.mode] if k.model == profile.model else 0.0
             for k in inst.classes]
        )  # fmt: skip
        rates = [level.requests_per_s for level in profile.levels if level.requests_per_s > 0]
        starting = profile.startup.time_s if profile.startup else 0.0
        up = np.maximum(1 - starting / duration, 1e-3)  # all of them may have to start
        needed = demand @ work / (duration * rates[0] * up) if rates else np.zeros(len(duration))
        if carried:
            needed[:] = needed.max()
        most = needed[:, None] + _most_given(inst, profile) + 2.0 + more
        enough[:, :, types.index(profile.gpu_type)] += most * profile.gpus_per_instance
    return enough


def _more_for_budgets(model: Model) -> float:
    """Instances that run only to meet budgets: where running one takes off, at prices below 0."""
    budgets = model.rows.get("budget")
    if budgets is None:
        return 0.0
    matrix, most = model.matrix[budgets.slice].tocsc(), 0.0
    running = [matrix[:, b.slice] for n, b in model.columns.items() if n in {"instances", "starts"}]
    taken = -sparse.hstack(running, format="csr").minimum(0)
    worst = matrix.maximum(0) @ model.column_upper - model.row_upper[budgets.slice]
    for row in np.flatnonzero(worst > 0):
        own = taken.data[taken.indptr[row] : taken.indptr[row + 1]]
        if len(own):
            most = max(most, worst[row] / own[own >= 1e-3 * own.max()].min())
    return most


def _most_given(inst: PlacementInstance, profile: Profile) -> FloatArray:
    """Instances fixed or running before, by site."""
    n, m = inst.sets["model"].index(profile.model), inst.sets["mode"].index(profile.mode)
    most = np.zeros(len(inst.sites))
    if inst.fixed_instances is not None:
        fixed = inst.fixed_instances[:, :, n, m]
        most = np.maximum(most, np.where(np.isfinite(fixed), fixed, 0.0).max(axis=0))
    if inst.initial_instances is not None:
        most = np.maximum(most, inst.initial_instances[:, n, m])
    return most


def _level_keys(inst: PlacementInstance) -> list[list[tuple[float, ...]]]:
    """What of TBT and memory is beyond a limit at each level of each profile, by class."""
    keys = []
    for profile in inst.profiles:
        own = [k for k in inst.classes if k.model == profile.model]
        levels = []
        for number, level in enumerate(profile.levels):
            key: list[float] = []
            for k in own:
                beyond = k.tbt_limit_s is not None and (
                    level.itl_s[k.tbt_statistic] > k.tbt_limit_s * (1 + SLACK)
                )
                need, room = kv_need_and_room_bytes(inst, k, profile, number)
                key.append(level.itl_s[k.tbt_statistic] if beyond else 0.0)
                key.append(need - room if need > room * (1 + SLACK) else 0.0)
            levels.append(tuple(key))
        keys.append(levels)
    return keys


def _with_rows(
    model: Model, name: str, codes: Mapping[str, IntArray], matrix: Any, lower: Any, upper: Any
) -> Model:
    """The model with a block of rows more."""
    count = matrix.shape[0]
    return replace(
        model,
        rows={**model.rows, name: Block(name, codes, model.matrix.shape[0], count)},
        matrix=sparse.vstack([model.matrix, matrix], format="csr"),
        row_lower=np.concatenate([model.row_lower, np.broadcast_to(lower, count)]),
        row_upper=np.concatenate([model.row_upper, np.broadcast_to(upper, count)]),
    )


class _Maker:
    """Builds the requirements of an instance."""

    def __init__(self, instance: PlacementInstance) -> None:
        self.instance = instance
        formulation = self._formulation()
        self.services = formulation.services
        stage = StageObjective(np.zeros(formulation.model.matrix.shape[1]), 0.0)
        self.model = replace(formulation.model, stages=(stage,))
        self._add_rows()
        rows, columns = self.model.matrix.shape
        self.lower, self.upper = (np.full(rows, -1) for _ in range(2))
        self.whole = np.full(columns, -1)
        self.freed_lower = np.full(rows, -np.inf)
        self.families: dict[str, Block] = {}
        self.closed: list[tuple[IntArray, IntArray, FloatArray]] = []

    def _formulation(self) -> Formulation:
        """The open model, with GPUs that no requirement comes up against."""
        # Tangents: what has no plan below the curves of waiting has none.
        keys = _level_keys(self.instance)
        found = Formulation(opened(self.instance), True, keys, fine_tangents)
        if more := _more_for_budgets(found.model):
            return Formulation(opened(self.instance, more), True, keys, fine_tangents)
        return found

    def made(self) -> PlacementRequirements:
        """Everything together."""
        for kind in KINDS:
            getattr(self, f"_{kind}")()
        columns, count = self.model.matrix.shape[1], sum(f.size for f in self.families.values())
        parts = list(zip(*self.closed, strict=True)) or [()] * 3
        column, leaf, value = (np.concatenate(part) if part else np.zeros(0) for part in parts)
        closing = sparse.csc_array(
            (value, (column.astype(np.int64), leaf.astype(np.int64))), shape=(columns, count)
        )
        return PlacementRequirements(
            self.model, self.families, self.lower, self.upper, self.freed_lower, closing,
            self.whole, self.instance,
        )  # fmt: skip

    # -- rows that the formulation has as bounds, or not at all --

    def _add_rows(self) -> None:
        running, starts = (self.model.columns.get(name) for name in ("running", "starts"))
        if running is None:
            return
        inst, c = self.instance, running.codes
        eye = sparse.csr_array(
            (np.ones(running.size), (np.arange(running.size), running.positions)),
            shape=(running.size, self.model.matrix.shape[1]),
        )
        axes = {axis: c[axis] for axis in _SNM}
        if inst.fixed_instances is not None:
            given = inst.fixed_instances[c["block"], c["site"], c["model"], c["mode"]]
            here = np.flatnonzero(np.isfinite(given))
            codes = {"period": c["block"][here], **{a: v[here] for a, v in axes.items()}}
            self._append("fixed", codes, eye[here], given[here], given[here])
        if inst.hold_periods:
            number = np.full([len(self.model.labels[axis]) for axis in c], -1)
            number[tuple(c.values())] = np.arange(running.size)
            here = np.flatnonzero(~self._begins[c["block"]])
            before = number[(c["block"][here] - 1, *(c[axis][here] for axis in _SNM))]
            codes = {"period": c["block"][here], **{a: v[here] for a, v in axes.items()}}
            self._append("held", codes, eye[here] - eye[before], 0.0, 0.0)
        if starts is not None:  # those that start are among those that run
            number = np.full([len(self.model.labels[axis]) for axis in c], -1)
            number[tuple(c.values())] = np.arange(running.size)
            own = sparse.csr_array(
                (np.ones(starts.size), (np.arange(starts.size), starts.positions)),
                shape=(starts.size, self.model.matrix.shape[1]),
            )
            at = number[tuple(starts.codes[axis] for axis in c)]
            self._append("started", starts.codes, own - eye[at], -np.inf, 0.0)

    def _append(self, name: str, codes: Any, matrix: Any, lower: Any, upper: Any) -> None:
        self.model = _with_rows(self.model, name, codes, matrix.tocsr(), lower, upper)

    @cached_property
    def _begins(self) -> Any:
        """Whether a block of periods begins with each period."""
        begins = np.zeros(len(self.instance.periods.start), dtype=bool)
        begins[np.cumsum([0, *self.instance.blocks[:-1]])] = True
        return begins

    # -- families --

    def _family(self, kind: str, **codes: Any) -> IntArray:
        """Number the requirements of a kind."""
        start = sum(family.size for family in self.families.values())
        size = len(next(iter(codes.values()))) if codes else 1
        held = {axis: np.asarray(code, dtype=np.int64) for axis, code in codes.items()}
        if size:
            self.families[kind] = Block(kind, held, start, size)
        return np.arange(start, start + size)

    def _rows(self, name: str) -> tuple[IntArray, Mapping[str, IntArray]]:
        block = self.model.rows.get(name)
        if block is None:
            return np.zeros(0, dtype=np.int64), {}
        return block.positions, block.codes

    def _flow(self) -> tuple[IntArray, Mapping[str, IntArray]]:
        block = self.model.columns["flow"]
        return block.positions, block.codes

    def _set_upper(self, rows: IntArray, values: Any) -> None:
        self.model.row_upper[rows] = values

    def _balance(self) -> None:
        if self.instance.balance == "even":
            (leaf,) = self._family("balance")
            self.upper[self._rows("one_level")[0]] = leaf
            self.whole[self.model.columns["used"].positions] = leaf

    def _whole_requests(self) -> None:
        if self.instance.request_counts == "integer":
            (leaf,) = self._family("whole_requests")
            self._whole(leaf, ("flow", "whole_flow"))

    def _whole_instances(self) -> None:
        if self.instance.instance_counts == "integer":
            (leaf,) = self._family("whole_instances")
            self._whole(leaf, ("instances", "running", "starts"))

    def _whole(self, leaf: int, names: Sequence[str]) -> None:
        for name in names:
            if block := self.model.columns.get(name):
                at = block.positions
                self.whole[at[self.model.integer[at]]] = leaf

    def _load_rule(self) -> None:
        if self.instance.load_rule != "exact":
            return
        rows, c = self._rows("load")
        self.model.row_lower[rows] = 0.0
        self.lower[rows] = self._grouped("load_rule", c, ("model", "mode"))
        if filled := self.model.columns.get("filled"):  # exact loads leave no utilisation but full
            leaf = np.full([len(self.model.labels[axis]) for axis in ("model", "mode")], -1)
            leaf[c["model"], c["mode"]] = self.lower[rows]
            f = filled.codes
            last = np.append(np.diff(f["point"]) < 0, True)
            own = leaf[f["model"], f["mode"]][~last]
            self._close(filled.positions[~last], own, np.full(len(own), np.inf))

    def _grouped(self, kind: str, codes: Mapping[str, IntArray], axes: Sequence[str]) -> IntArray:
        """A requirement for each combination of some axes that occurs, and that of each row."""
        if not codes or not len(next(iter(codes.values()))):
            return np.zeros(0, dtype=np.int64)
        key = np.array([codes[axis] for axis in axes])
        unique, inverse = np.unique(key, axis=1, return_inverse=True)
        return self._family(kind, **dict(zip(axes, unique, strict=True)))[inverse.ravel()]

    def _hold(self) -> None:
        if not self.instance.hold_periods:
            return
        (leaf,) = self._family("hold")
        rows, _ = self._rows("held")
        self.lower[rows] = self.upper[rows] = leaf
        if starts := self.model.columns.get("starts"):
            inside = starts.positions[~self._begins[starts.codes["block"]]]
            self._close(inside, np.full(len(inside), leaf), np.full(len(inside), np.inf))

    def _close(self, columns: IntArray, leaf: IntArray, value: Any) -> None:
        self.closed.append((columns, leaf, np.asarray(value, dtype=float)))

    def _min_up(self) -> None:
        rows, c = self._rows("min_up")
        if not len(rows):
            return
        seconds = np.array([[q.min_up_s for q in self.instance.profiles]])[0]
        here = seconds[self._profile_at[c["model"], c["mode"]]] > 0
        codes = {axis: c[axis][here] for axis in _SNM}
        self.upper[rows[here]] = self._grouped("min_up", codes, _SNM)

    @cached_property
    def _profile_at(self) -> IntArray:
        """Profile of each model and mode."""
        sets = self.instance.sets
        at = np.full((len(sets["model"]), len(sets["mode"])), -1)
        for i, q in enumerate(self.instance.profiles):
            at[sets["model"].index(q.model), sets["mode"].index(q.mode)] = i
        return at

    def _initial(self) -> None:
        rows, c = self._rows("start")
        if len(rows):
            here = np.flatnonzero(c["block"] == 0)
            codes = {axis: c[axis][here] for axis in _SNM}
            self.upper[rows[here]] = self._family("initial", **codes)

    def _instance_limit(self) -> None:
        rows, c = self._rows("instance_limit")
        if len(rows):
            held = {axis: c[axis] for axis in ("limit", *_SNM)}
            self.upper[rows] = self._family("instance_limit", period=c["block"], **held)

    def _budget(self) -> None:
        rows, c = self._rows("budget")
        if len(rows):
            self.upper[rows] = self._family("budget", **c)

    def _deadline(self) -> None:
        rows, c = self._rows("deadline")
        if len(rows):
            limits = stock_limits(self.instance)
            self._set_upper(rows, limits[c["period"], c["origin"], c["class"]])
            self.upper[rows] = self._grouped("deadline", c, ("class",))

    def _memory(self) -> None:
        inst = self.instance
        table = self._level_table(
            lambda k, q, level: np.subtract(*kv_need_and_room_bytes(inst, k, q, level)),
            lambda k, q, level: (
                (both := kv_need_and_room_bytes(inst, k, q, level))[0] > both[1] * (1 + SLACK)
            ),
        )
        models = np.array([inst.sets["model"].index(k.model) for k in inst.classes])
        self._close_levels("memory", table, "model", models)

    def _tbt(self) -> None:
        inst = self.instance
        table = self._level_table(
            lambda k, q, level: q.levels[level].itl_s[k.tbt_statistic],
            lambda k, q, level: (
                k.tbt_limit_s is not None
                and q.levels[level].itl_s[k.tbt_statistic] > k.tbt_limit_s * (1 + SLACK)
            ),
        )
        self._close_levels("tbt", table, "class", np.arange(len(inst.classes)))

    def _level_table(self, value: Any, beyond: Any) -> FloatArray:
        """Value beyond a limit, by class, profile and group of levels; NaN where within it."""
        groups = max(service.n_groups for service in self.services)
        shape = (len(self.instance.classes), len(self.services), groups)
        table = np.full(shape, np.nan)
        for service in self.services:
            for group in range(service.n_groups):
                level = service.first_level(group)
                for k in service.classes:
                    one, q = self.instance.classes[k], self.instance.profiles[service.index]
                    if beyond(one, q, level):
                        table[k, service.index, group] = value(one, q, level)
        return table

    def _close_levels(self, kind: str, table: FloatArray, axis: str, of_class: IntArray) -> None:
        columns, c = self._flow()
        value = table[c["class"], self._flow_profile, c["group"]]
        here = np.flatnonzero(~np.isnan(value))
        if len(here):
            leaf = self._grouped(kind, {axis: of_class[c["class"][here]]}, (axis,))
            self._close(columns[here], leaf, value[here])

    @cached_property
    def _flow_profile(self) -> IntArray:
        c, inst = self.model.columns["flow"].codes, self.instance
        models = np.array([inst.sets["model"].index(k.model) for k in inst.classes])
        return np.asarray(self._profile_at[models[c["class"]], c["mode"]])

    def _ttft(self) -> None:
        inst, (columns, c) = self.instance, self._flow()
        prefill = self._level_table(
            serving_statistic,
            lambda k, q, level: k.ttft_limit_s is not None,
        )[c["class"], self._flow_profile, c["group"]]
        ttft = inst.rtt_s[c["origin"], c["site"]] + inst.last_mile_s[c["origin"]] + prefill
        limits = np.array([np.inf if (v := k.ttft_limit_s) is None else v for k in inst.classes])
        here = np.flatnonzero(ttft > limits[c["class"]] * (1 + SLACK))  # NaN is within
        if len(here):
            leaf = self._grouped("ttft", {"class": c["class"][here]}, ("class",))
            self._close(columns[here], leaf, ttft[here])

    def _reachable(self) -> None:
        if self.instance.reachable is None:
            return
        columns, c = self._flow()
        at = tuple(c[axis] for axis in ("period", "origin", "class", "site", "mode"))
        here = np.flatnonzero(~self.instance.reachable[at])
        if len(here):
            leaf = self._grouped("reachable", {"class": c["class"][here]}, ("class",))
            self._close(columns[here], leaf, np.full(len(here), np.inf))

    def _power_cap(self) -> None:
        rows, c = self._rows("power_cap")
        if len(rows):
            self.upper[rows] = self._family("power_cap", **c)

    def _fixed(self) -> None:
        rows, c = self._rows("fixed")
        if len(rows):
            self.lower[rows] = self.upper[rows] = self._family("fixed", **c)

    def _gpus(self) -> None:
        rows, c = self._rows("gpus")
        limits = self.instance.gpus[c["period"], c["site"], c["gpu_type"]]
        self._set_upper(rows, limits)
        here = np.isfinite(limits)
        self.upper[rows[here]] = self._family("gpus", **{a: v[here] for a, v in c.items()})

    def _demand(self) -> None:
        rows, c = self._rows("demand")
        here = self.model.row_lower[rows] > 0
        self.lower[rows[here]] = self._family("demand", **{a: v[here] for a, v in c.items()})
        self.model.row_lower[rows[~here]] = 0.0
        self.freed_lower[rows] = 0.0  # what was held back is still to be served


# -- words ---------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class PlacementRequirements(Requirements):
    """The requirements of a placement instance, with words for them."""

    instance: PlacementInstance

    wanted: ClassVar[str] = "demand"
    tiers: ClassVar[tuple[tuple[str, ...], ...]] = TIERS
    axes: ClassVar[tuple[str, ...]] = AXES
    many: ClassVar[Mapping[str, int]] = MANY

    def text(self, member: Member) -> str:
        """One member in words, with what it asks for."""
        value = self._value(member)
        return self._subject(member) + (f": {value}" if value else "")

    def summary(self, members: Sequence[Member]) -> list[str]:
        """Members in few words: more than four of one kind in one period are told as one."""
        groups: dict[tuple[str, str], list[Member]] = {}
        for member in members:
            groups.setdefault((self.kind(member), self.where(member).get("period", "")), []).append(
                member
            )
        found: list[str] = []
        for (kind, _), own in groups.items():
            told = [np.concatenate(own)] if len(own) > 4 and kind != "budget" else own
            found += [self.text(member) for member in told]
        return found

    # -- what a requirement is called --

    def _subject(self, member: Member) -> str:
        kind, where = self.kind(member), self._place(member)
        of: dict[str, Callable[[], str]] = {
            "balance": lambda: "even balance: all instances of a kind at one level",
            "whole_requests": lambda: "whole numbers of requests",
            "whole_instances": lambda: "whole numbers of instances",
            "load_rule": lambda: (
                f"{where('model', 'models')} in {where('mode', 'modes')} "
                "serves exactly the load of its levels (load_rule exact)"
            ),
            "hold": lambda: "numbers of instances held over blocks of periods",
            "min_up": lambda: f"minimum up-time of {self._served(where)} at {where('site')}",
            "initial": lambda: (
                f"instances of {self._served(where)} at {where('site')} before the first period"
            ),
            "instance_limit": lambda: f"instance limit {where('limit')}{self._scope(member)}",
            "budget": lambda: f"budget {where('budget')}{self._scope(member)}",
            "deadline": lambda: f"deadline of {where('class', 'classes')}",
            "memory": lambda: f"KV memory of {where('model')}",
            "reachable": lambda: f"reachability of {where('class', 'classes')}",
            "tbt": lambda: f"TBT limit of {where('class', 'classes')}",
            "ttft": lambda: f"TTFT limit of {where('class', 'classes')}",
            "power_cap": lambda: f"power cap at {where('site')} in {where('period')}",
            "fixed": lambda: (
                f"fixed instances of {self._served(where)} at {where('site')} in {where('period')}"
            ),
            "gpus": lambda: (
                f"GPUs {where('gpu_type', 'types')} at {where('site')} in {where('period')}"
            ),
            "demand": lambda: (
                f"demand of class {where('class', 'classes')} from {where('origin')} "
                f"in {where('period')}"
            ),
        }
        return of[kind]()

    def _place(self, member: Member) -> Callable[..., str]:
        """A function that says which label, or how many of them, a member has on an axis."""
        codes, labels = self.codes_of(member), self.model.labels

        def place(axis: str, many: str = "") -> str:
            different = np.unique(codes[axis])
            if len(different) == 1:
                return str(labels[axis][different[0]])
            if len(different) <= 3 and axis != "period":
                return " and ".join(labels[axis][i] for i in different)
            if axis == "period" and len(different) == len(labels[axis]):
                return "every period"
            return f"{len(different)} {many or axis + 's'}"

        return place

    @staticmethod
    def _served(where: Callable[..., str]) -> str:
        return f"{where('model', 'models')} in {where('mode', 'modes')}"

    def _scope(self, member: Member) -> str:
        """Where a budget or limit holds, in brackets."""
        codes, place = self.codes_of(member), self._place(member)
        parts = [
            place(a) for a in ("period", *_SNM) if a in codes and not self._spans_all(codes, a)
        ]
        return f" ({', '.join(parts) or 'in total'})"

    def _spans_all(self, codes: Mapping[str, IntArray], axis: str) -> bool:
        n = len(np.unique(codes[axis]))
        return n > 1 and n == len(self.model.labels[axis])

    # -- what it asks for --

    def _value(self, member: Member) -> str:
        inst, kind, codes = self.instance, self.kind(member), self.codes_of(member)
        if kind in {"ttft", "tbt", "deadline"}:
            k = [inst.classes[i] for i in np.unique(codes["class"])]
            if len(k) > 1:
                return ""
            if kind == "deadline":
                return f"held back for at most {k[0].deferral_limit_s:,.6g} s"
            limit, statistic = (getattr(k[0], f"{kind}_{w}") for w in ("limit_s", "statistic"))
            return f"{limit:g} s ({statistic})"
        if kind == "min_up":
            place = zip(codes["model"], codes["mode"], strict=True)
            seconds = {self._profile(n, m).min_up_s for n, m in place}
            return f"{seconds.pop():,.6g} s" if len(seconds) == 1 else ""
        if kind not in _UNITS:
            return ""
        asked = self._asked(member)
        if kind in _HELD_EVERY_PERIOD and "period" in codes:
            return f"{self._by_period(member)}{self._unit(member)}"
        total = float(asked.sum())
        return f"{total:,.6g}{self._unit(member)}{self._rate(member, total)}"

    def _by_period(self, member: Member) -> str:
        """What is there in a period, the least and the most where periods differ."""
        _, period = np.unique(self.codes_of(member)["period"], return_inverse=True)
        there = np.bincount(period, self._asked(member))
        low, high = f"{there.min():,.6g}", f"{there.max():,.6g}"
        return low if low == high else f"{low} to {high}"

    def _profile(self, n: int, m: int) -> Profile:
        sets = self.instance.sets
        served = sets["model"][n], sets["mode"][m]
        return next(q for q in self.instance.profiles if (q.model, q.mode) == served)

    def _asked(self, member: Member) -> FloatArray:
        """Sides of a member's rows."""
        rows = np.flatnonzero(np.isin(self.lower, member))
        if len(rows):
            return self.model.row_lower[rows]
        rows = np.flatnonzero(np.isin(self.upper, member))
        kind = self.kind(member)
        if kind == "budget" and self._is_mean(member):
            return self._budget_limits[member - self.families["budget"].start]
        return self.model.row_upper[rows]

    @cached_property
    def _budget_limits(self) -> FloatArray:
        """Limit of each budget's requirement in the metric's own unit."""
        c = self.families["budget"].codes
        found = np.zeros(self.families["budget"].size)
        for b, budget in enumerate(self.instance.budgets):
            here = np.flatnonzero(c["budget"] == b)
            axes = budget.limit.axes
            found[here] = np.broadcast_to(
                budget.limit.values[tuple(c[axis][here] for axis in axes)], len(here)
            )
        return found

    def _budget_of(self, member: Member) -> Any:
        return self.instance.budgets[int(self.codes_of(member)["budget"][0])]

    def _is_mean(self, member: Member) -> bool:
        return bool(self._budget_of(member).metric == "ttft_mean_s")

    def _unit(self, member: Member) -> str:
        kind = self.kind(member)
        if kind != "budget":
            return _UNITS[kind]
        metric = self._budget_of(member).metric
        custom = {own.name: own.unit for own in self.instance.custom_metrics}
        return f" {custom[metric] if metric in custom else METRICS[metric].unit} of {metric}"

    def _rate(self, member: Member, requests: float) -> str:
        """Requests per second, of demand in one period."""
        codes = self.codes_of(member)
        if self.kind(member) != "demand" or len(np.unique(codes["period"])) > 1:
            return ""
        return f" ({_per_s(requests / self.instance.periods.duration_s[int(codes['period'][0])])})"

    # -- headlines --

    def headlines(self, members: Sequence[Member], missing: Mapping[int, float]) -> list[str]:
        """What is asked for in a period, within which limits, and how much of it can be had."""
        wanted = [m for m in members if self.kind(m) == "demand"]
        periods = {int(t) for m in wanted for t in self.codes_of(m)["period"]}
        plain = {"demand", "gpus", "ttft", "tbt", "memory", "reachable", "power_cap",
                 "whole_instances", "instance_limit", "fixed"}  # fmt: skip
        if len(periods) != 1 or not {self.kind(m) for m in members} <= plain:
            return []
        (t,) = periods
        seconds = self.instance.periods.duration_s[t]
        asked = sum(float(self._asked(m).sum()) for m in wanted)
        had = max(asked - sum(missing.values()), 0.0)
        who = self._wanted_texts(wanted, seconds)
        limits = [self._limit_text(m) for m in members if self.kind(m) in {"ttft", "tbt"}]
        within = f" within {' and '.join(limits)}" if limits else ""
        places = [m for m in members if self.kind(m) in {"gpus", "power_cap", "instance_limit"}]
        where = self._hold_texts(places)
        reach = f"the sites that reach {'it' if sum(map(len, wanted)) == 1 else 'them'}"
        kept = f"{reach} ({where})" if where else reach
        if any(self.kind(m) == "whole_instances" for m in members):
            within += " by whole instances"
        start = f"period {self.instance.sets['period'][t]}: {who}{within}; "
        if had <= 1e-6 * asked and not places:
            return [start + reason for reason in self._why_nowhere(wanted)]
        return [start + f"{kept} hold {_per_s(had / seconds)} ({had:,.6g} requests)"]

    def _limit_text(self, member: Member) -> str:
        """``0.4 s (TTFT p95 of chat)``."""
        kind, k = self.kind(member), self.instance.classes[int(self.codes_of(member)["class"][0])]
        limit, statistic = (getattr(k, f"{kind}_{what}") for what in ("limit_s", "statistic"))
        return f"{limit:g} s ({kind.upper()} {statistic} of {k.name})"

    def _wanted_texts(self, wanted: Sequence[Member], seconds: float) -> str:
        """What is asked for, class by class where that would be long."""
        if len(wanted) > 3:
            every = np.concatenate(wanted)
            classes = self.codes_of(every)["class"]
            wanted = [every[classes == k] for k in np.unique(classes)]
        return " and ".join(self._wanted_text(member, seconds) for member in wanted)

    def _hold_texts(self, places: Sequence[Member]) -> str:
        """What limits what the sites hold, type by type where that would be long."""
        gpus = [m for m in places if self.kind(m) == "gpus"]
        others = [m for m in places if self.kind(m) != "gpus"]
        if len(gpus) > 4:
            every = np.concatenate(gpus)
            types = self.codes_of(every)["gpu_type"]
            gpus = [every[types == h] for h in np.unique(types)]
        return "; ".join(self._holds(m) for m in [*gpus, *others])

    def _wanted_text(self, member: Member, seconds: float) -> str:
        place, total = self._place(member), float(self._asked(member).sum())
        return (
            f"{_per_s(total / seconds)} ({total:,.6g} requests) of class "
            f"{place('class', 'classes')} from {place('origin')}"
        )

    def _holds(self, member: Member) -> str:
        where = {**self.where(member)}
        if self.kind(member) == "gpus":
            place = self._place(member)
            return f"{place('site')}: {self._by_period(member)} {place('gpu_type', 'types of GPU')}"
        return self.text(member).replace(f" in {where.get('period', '')}", "")

    def _why_nowhere(self, wanted: Sequence[Member]) -> Iterator[str]:
        """Which limit leaves a class from an origin without any site and level."""
        pairs = {
            (int(o), int(k))
            for member in wanted
            for o, k in zip(*(self.codes_of(member)[a] for a in ("origin", "class")), strict=True)
        }
        for o, k in sorted(pairs):
            yield self.why_nowhere(o, k)

    def why_nowhere(self, o: int, k: int) -> str:
        """Which limit leaves a class from an origin without any site and level.

        Parameters
        ----------
        o, k : int
            Positions of the origin and the class.
        """
        inst, c = self.instance, self.instance.classes[k]
        types = inst.sets["gpu_type"]
        offers = [
            (q, level, holds)
            for q in inst.profiles
            if q.model == c.model
            and (holds := inst.gpus[:, :, types.index(q.gpu_type)].max(axis=0) > 0).any()
            for level in range(len(q.levels))
        ]
        if not offers:
            return f"no site has GPUs for {c.model}"
        if c.ttft_limit_s is not None:
            network = inst.rtt_s[o] + inst.last_mile_s[o]
            best = min(
                float(network[holds].min()) + serving_statistic(c, q, level)
                for q, level, holds in offers
            )
            if best > c.ttft_limit_s * (1 + SLACK):
                what = f"its smallest TTFT {c.ttft_statistic} from {inst.origins[o]}"
                return f"{what} is {best:.4g} s, the limit {c.ttft_limit_s:g} s"
        if c.tbt_limit_s is not None:
            best = min(q.levels[level].itl_s[c.tbt_statistic] for q, level, _ in offers)
            if best > c.tbt_limit_s * (1 + SLACK):
                what = f"the smallest TBT {c.tbt_statistic}"
                return f"{what} is {best:.4g} s, the limit {c.tbt_limit_s:g} s"
        needs = (kv_need_and_room_bytes(inst, c, q, level) for q, level, _ in offers)
        if all(need > room * (1 + SLACK) for need, room in needs):
            return "its KV cache does not fit beside the weights at any level"
        return "no site and level is within all its limits and reachable"

    # -- relaxations --

    def widened(self, member: Member) -> Member:
        """GPUs, power caps and instance limits change in every period together."""
        kind = self.kind(member)
        if kind not in {"gpus", "power_cap", "instance_limit"}:
            return member
        family = self.families[kind]
        inside = member - family.start
        same = np.ones(family.size, dtype=bool)
        for axis, code in family.codes.items():
            same &= (axis == "period") | np.isin(code, code[inside])
        return family.start + np.flatnonzero(same)

    def slack_rows(self, member: Member) -> bool:
        """Whether a member can give way by an amount on its rows."""
        return self.kind(member) in _UNITS

    def row_sizes(self) -> FloatArray:
        """What a row's shortfall is measured against: its side, or for a mean its limit in sum."""
        return self._row_sizes

    @cached_property
    def _row_sizes(self) -> FloatArray:
        model = self.model
        side = np.where(self.lower >= 0, model.row_lower, model.row_upper)
        sizes = np.maximum(np.abs(np.where(np.isfinite(side), side, 0.0)), 1.0)
        if family := self.families.get("budget"):
            rows, c = model.rows["budget"].positions, family.codes
            demand = self.instance.demand_requests.sum(axis=(1, 2))
            mean = np.array([b.metric == "ttft_mean_s" for b in self.instance.budgets])[c["budget"]]
            there = np.where(c["period"] >= 0, demand[c["period"]], demand.sum())
            limits = np.abs(self._budget_limits)
            sizes[rows] = np.maximum(limits * np.where(mean, there, 1.0), 1e-300)
        return sizes

    def relaxation(self, member: Member, amount: float | None, smallest: bool) -> Relaxation:
        """A member relaxed alone."""
        kind, subject = self.kind(member), self._subject(member)
        sure = "" if smallest else " (perhaps less)"
        unit = ""
        if amount is None:
            text = self._without(member)
        elif kind in {"ttft", "tbt", "deadline"}:
            unit, k = "s", self.instance.classes[int(self.codes_of(member)["class"][0])]
            field = "deferral_limit_s" if kind == "deadline" else f"{kind}_limit_s"
            asked = getattr(k, field)
            text = f"{subject}: {_up(amount)} s instead of {asked:,g} s{sure}"
            amount -= asked
        elif kind == "memory":
            unit = "byte"
            text = f"{subject}: {_up(amount / 1e9)} GB more of memory on an instance{sure}"
        else:
            unit, text = self._amount_text(member, amount, sure)
        return Relaxation(self.name(member), amount, unit, True, smallest, text)

    def _without(self, member: Member) -> str:
        """What to say where a requirement can only be dropped."""
        kind, place = self.kind(member), self._place(member)
        if kind in _WITHOUT:
            return _WITHOUT[kind]
        if kind == "load_rule":
            which = f"{place('model', 'models')} in {place('mode', 'modes')}"
            return f"if {which} may serve less than the load of its levels it is feasible"
        if kind == "reachable":
            return f"without the mask on {place('class', 'classes')} it is feasible"
        return f"without the {self._subject(member)} it is feasible"

    def _amount_text(self, member: Member, amount: float, sure: str) -> tuple[str, str]:
        kind, subject, unit = self.kind(member), self._subject(member), self._unit(member).strip()
        if kind == "demand":
            total = float(self._asked(member).sum())
            return unit, f"{subject}: {_up(amount)} requests fewer, of {total:,.6g}{sure}"
        if kind == "budget" and self._is_mean(member):
            more = f"{_up(amount)} request s more{self._new_mean(member, amount)}"
            return "request s", f"{subject}: {more}{sure}"
        different = np.unique(self._asked(member))
        together = len(member) == 1 or self._uniform(member)
        if len(different) > 1 or kind == "fixed" or not together:
            change = "changed" if kind == "fixed" else "more"
            return unit, f"{subject}: {_up(amount)} {unit} {change}{sure}"
        asked = float(different[0])
        return unit, f"{subject}: {_up(asked + amount)} instead of {asked:,.6g} {unit}{sure}"

    def _uniform(self, member: Member) -> bool:
        """Whether a member's requirements differ in the period only, and are changed together."""
        return self.kind(member) in _HELD_EVERY_PERIOD and all(
            axis == "period" or (code == code[0]).all()
            for axis, code in self.codes_of(member).items()
        )

    def _new_mean(self, member: Member, amount: float) -> str:
        """The mean TTFT that an excess in request-seconds comes to, where all is served."""
        codes = self.codes_of(member)
        if self.instance.unmet_allowed or "site" in codes or "period" in codes:
            return ""
        limit, requests = float(self._asked(member).sum()), self.instance.demand_requests.sum()
        return f", a mean of {_up(limit + amount / requests)} s instead of {limit:g} s"

    def steps(self, member: Member) -> FloatArray | None:
        """Values that a limit could be raised to."""
        kind = self.kind(member)
        if kind == "deadline":
            begin = self.instance.periods.begin_s
            waits = np.unique((begin[None, :] - begin[:, None]).ravel())
            k = self.instance.classes[int(self.codes_of(member)["class"][0])]
            return np.asarray(waits[waits > (k.deferral_limit_s or 0.0) * (1 + SLACK)])
        if kind not in {"ttft", "tbt", "memory"}:
            return None
        return np.unique(self.closing[:, member].data)

    def eased(self, member: Member, value: float) -> Bounds:
        """Sides while everything stands and a limit has another value."""
        every = np.ones(self.size, dtype=bool)
        if self.kind(member) != "deadline":
            closing = self.closing.copy()
            for leaf in member:
                inside = slice(closing.indptr[leaf], closing.indptr[leaf + 1])
                closing.data[inside] *= closing.data[inside] > value
            return replace(self, closing=closing).bounds(every)
        late = {self.instance.sets["class"][k] for k in self.codes_of(member)["class"]}
        classes = [
            {**k.model_dump(), **({"deferral_limit_s": value} if k.name in late else {})}
            for k in self.instance.classes
        ]
        limits = stock_limits(self.instance.replace(classes=classes))
        block = self.model.rows["deadline"]
        c, bounds = block.codes, self.bounds(every)
        bounds.row_upper[block.slice] = limits[c["period"], c["origin"], c["class"]]
        return bounds

    # -- the least change in all --

    def least(self, amounts: Mapping[int, float], smallest: bool) -> list[Relaxation]:
        """One line a class and origin for demand, one a requirement for the rest."""
        found: list[Relaxation] = []
        short = {n: v for n, v in amounts.items() if self.kind(np.array([n])) == "demand"}
        found += self._least_demand(short, smallest)
        for number, amount in amounts.items():
            if number in short:
                continue
            member = np.array([number])
            if self.kind(member) not in _UNITS:
                text = self._without(member).removesuffix(" it is feasible")
                found.append(Relaxation(self.name(member), None, "", False, smallest, text))
                continue
            unit, text = self._least_text(member, amount)
            found.append(Relaxation(self.name(member), amount, unit, False, smallest, text))
        return found

    def _least_text(self, member: Member, amount: float) -> tuple[str, str]:
        if self.kind(member) != "budget":
            return self._amount_text(member, amount, "")
        if self._is_mean(member):
            unit, more = "request s", self._new_mean(member, amount)
        else:
            unit, more = self._unit(member).strip().partition(" of ")[0], ""
        return unit, f"{self._subject(member)} is exceeded by {amount:,.6g} {unit}{more}"

    def _least_demand(self, short: Mapping[int, float], smallest: bool) -> list[Relaxation]:
        inst, sets, demand = self.instance, self.instance.sets, self.families.get("demand")
        if demand is None or not short:
            return []
        missing = np.zeros(inst.demand_requests.shape)
        at = np.array(list(short)) - demand.start
        place = tuple(demand.codes[axis][at] for axis in ("period", "origin", "class"))
        missing[place] = list(short.values())
        reached = self._reached()
        found = []
        for o, k in np.argwhere(missing.any(axis=0)):
            own = missing[:, o, k]
            worst = int(own.argmax())
            text = (
                f"class {sets['class'][k]} from {sets['origin'][o]}: {own.sum():,.6g} requests "
                f"cannot be served in {np.count_nonzero(own)} of {len(own)} periods "
                f"(most in {sets['period'][worst]}: {own[worst]:,.6g} of "
                f"{inst.demand_requests[worst, o, k]:,.6g}); "
            )
            if reached[own > 0, o, k].all():
                text += "the sites and levels within its limits hold no more"
            else:
                text += self.why_nowhere(int(o), int(k))
            name = f"demand[{sets['origin'][o]}, {sets['class'][k]}]"
            found.append(Relaxation(name, float(own.sum()), "request", False, smallest, text))
        return found

    def _reached(self) -> Any:
        """Whether any site and level is within the limits of a class, by period and origin."""
        inst = self.instance
        bounds = self.bounds(np.ones(self.size, dtype=bool))
        block = self.model.columns["flow"]
        c, open_ = block.codes, bounds.column_upper[block.slice] > 0
        models = np.array([inst.sets["model"].index(k.model) for k in inst.classes])
        types = {(q.model, q.mode): inst.sets["gpu_type"].index(q.gpu_type) for q in inst.profiles}
        sets = inst.sets
        table = np.array([[types.get((n, m), 0) for m in sets["mode"]] for n in sets["model"]])
        h = table[models[c["class"]], c["mode"]]
        open_ &= inst.gpus.max(axis=0)[c["site"], h] > 0
        reached = np.zeros(inst.demand_requests.shape, dtype=bool)
        reached[c["period"][open_], c["origin"][open_], c["class"][open_]] = True
        return reached


_HELD_EVERY_PERIOD = frozenset({"gpus", "power_cap", "instance_limit"})
"""Kinds whose sides hold in each period and add up to nothing over periods."""

_UNITS = {
    "initial": " instances",
    "instance_limit": " instances",
    "budget": "",
    "power_cap": " W",
    "fixed": " instances",
    "gpus": " GPUs",
    "demand": " requests",
}
"""Kinds whose rows can give way by an amount, and its unit."""

_WITHOUT = {
    "balance": "without an even balance it is feasible",
    "whole_requests": "without whole numbers of requests it is feasible",
    "whole_instances": "without whole numbers of instances it is feasible",
    "hold": "with numbers of instances that may change in every period it is feasible",
}
"""What to say where a requirement can only be dropped."""


def _per_s(rate: float) -> str:
    return f"{rate:,.4g}/s"
