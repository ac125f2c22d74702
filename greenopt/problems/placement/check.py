"""Placement checked from the physics: every requirement and every metric, from the plan alone.

Shares no code with the formulation and never sees a Model. Everything is evaluated on the entries
of the plan: requests by (period, origin, class, site, mode, level), serving instances by (period,
site, model, mode, level) and, where numbers of instances are decisions of their own, running and
starting ones by (period, site, model, mode).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from greenopt.labelled import LabelledArray
from greenopt.physics import carbon, energy, latency, queueing, water
from greenopt.problems.placement.instance import PlacementInstance, Profile, RequestClass
from greenopt.problems.placement.metrics import METRICS

PER_REQUEST = ("energy_kwh", "carbon_kg", "water_l", "water_consumption_l", "cost_usd")
"""Metrics given by class per request and per 1,000 tokens (cost without the demand charge)."""


GRID = (
    "requests",
    "ttft_request_s",
    "ttft_startup_request_s",
    "ttft_queue_request_s",
    "energy_kwh",
    "carbon_kg",
    "water_l",
    "cost_usd",
    "gpu_h",
    "starts",
)
"""Metrics given by period and site (cost without the demand charge)."""

ARRAYS = {
    "flow": ("period", "origin", "class", "site", "mode", "level"),
    "instances": ("period", "site", "model", "mode", "level"),
    "unmet": ("period", "origin", "class"),
    "deferred": ("period", "origin", "class"),
    "running": ("period", "site", "model", "mode"),
    "starts": ("period", "site", "model", "mode"),
    "startup_waits": ("period", "class", "site", "mode"),
}
"""Axes of every array that a plan can have."""


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
        Totals.
    metrics_by : dict
        By "site", "period", "class" and "period,site".
    stages : list of float
        Value of each stage of the objective.
    stage_tolerances : list of float
        Relative worsening that later stages may cause.
    violations : list of Violation
        Requirements not met beyond the tolerance.
    notes : dict
        ``even_balance``: facility energy if the same requests were spread evenly over the same
        serving instances, and the difference to the plan, both without the energy of starts.
        ``batch``: requests in service on a serving instance at each level used.
        ``queues``: utilisation and waits at each level used of profiles that have a queue, over
        their requests; missing if none has one.
    """

    metrics: dict[str, float | None] = field(default_factory=dict)
    metrics_by: dict[str, dict[str, Any]] = field(default_factory=dict)
    stages: list[float] = field(default_factory=list)
    stage_tolerances: list[float] = field(default_factory=list)
    violations: list[Violation] = field(default_factory=list)
    notes: dict[str, Any] = field(default_factory=dict)


def evaluate(
    instance: PlacementInstance, decision: Mapping[str, LabelledArray], tolerance: float = 1e-6
) -> Evaluation:
    """Evaluate a plan against the instance.

    Parameters
    ----------
    instance : PlacementInstance
        The problem.
    decision : mapping of str to LabelledArray
        "flow", "instances" and, where the instance has them, "unmet", "deferred", "running",
        "starts" and "startup_waits".
    tolerance : float
        Largest violation accepted, relative to the size of the requirement; absolute for numbers
        that must be whole.

    Returns
    -------
    Evaluation
        Metrics are computed also for a plan with violations. Where waiting has no end, which is
        one, they count it as at the level's full load.
    """
    return _Checker(instance, decision, tolerance).run()


class _Checker:
    def __init__(
        self, inst: PlacementInstance, decision: Mapping[str, LabelledArray], tolerance: float
    ) -> None:
        self.inst, self.tolerance = inst, tolerance
        self.result = Evaluation()
        self.sets = inst.sets
        self.duration = np.array(inst.periods.duration_s)
        self.shape = (len(self.duration), len(inst.sites))
        self.profile_of = {(p.model, p.mode): i for i, p in enumerate(inst.profiles)}
        self.moments = inst.periods.begin_s - inst.periods.begin_s[0]
        self.block_start = np.repeat(np.cumsum([0, *inst.blocks[:-1]]), inst.blocks)
        self.startup_s = np.array([p.startup.time_s if p.startup else 0.0 for p in inst.profiles])
        self.work = np.array(
            [[k.work_per_request.get(p.mode, 0.0) for p in inst.profiles] for k in inst.classes]
        )
        queues = [p.queue for p in inst.profiles]
        self.service_s = np.array([q.service_s if q else 0.0 for q in queues])
        self.service_cv2 = np.array([q.service_cv2 if q else 0.0 for q in queues])
        self.arrival_cv2 = np.array([q.arrival_cv2 if q else 0.0 for q in queues])
        self.entries = {name: self._entries(decision, name) for name in ARRAYS}
        self.flow, self.run_ = self.entries["flow"], self.entries["instances"]
        self.unmet, self.starting = self.entries["unmet"], self.entries["starts"]
        self.waits = self.entries["startup_waits"]
        for name in set(decision) - set(self._arrays()):
            text = f"array {name!r} is not part of a plan of this instance"
            self._violated("decision", text, 1.0)

    def run(self) -> Evaluation:
        if not self._well_formed():
            return self.result
        self._powers()
        self._check_demand()
        self._check_load()
        self._measure_queues()
        self._check_eligibility()
        self._count_instances()
        self._check_capacity()
        self._check_even()
        self._check_whole()
        if self.inst.counts_instances:
            self._check_running()
            self._check_starts()
            self._check_startup_waits()
        self._metrics()
        self._check_budgets()
        self.result.stages = [self._stage(stage) for stage in self.inst.objective]
        self.result.stage_tolerances = [stage.tolerance for stage in self.inst.objective]
        self._even_balance_note()
        self._batch_note()
        if any(p.queue for p in self.inst.profiles):
            self._queues_note()
        return self.result

    # -- reading -------------------------------------------------------------------------------

    def _arrays(self) -> dict[str, bool]:
        """Arrays that a plan of this instance may have, and whether it must have them."""
        inst = self.inst
        arrays = {"flow": True, "instances": True, "unmet": False}
        if any(k.deferral_limit_s is not None for k in inst.classes):
            arrays["deferred"] = len(self.duration) > 1
        if inst.counts_instances:
            arrays["running"] = True
        if any(p.starts for p in inst.profiles):
            arrays["starts"] = True
        if self.startup_s.any():
            arrays["startup_waits"] = True
        return arrays

    def _entries(self, decision: Mapping[str, LabelledArray], name: str) -> dict[str, Any]:
        """Codes by axis and values of one array, after comparing its labels with the sets."""
        axes, array = ARRAYS[name], decision.get(name)
        if array is None:
            if self._arrays().get(name):
                self._violated("decision", f"array {name!r} is missing", 1.0)
            return {**{axis: np.zeros(0, dtype=int) for axis in axes}, "value": np.zeros(0)}
        if array.axes != axes or any(array.labels[a] != self.sets[a] for a in axes):
            self._violated("decision", f"array {name!r} is not over {axes} of this instance", 1.0)
            return {**{axis: np.zeros(0, dtype=int) for axis in axes}, "value": np.zeros(0)}
        return {**dict(zip(axes, array.codes, strict=True)), "value": array.values}

    def _well_formed(self) -> bool:
        """Signs, and that every entry names a profile and a level that exist."""
        for name, entries in self.entries.items():
            if not np.isfinite(entries["value"]).all():
                self._violated("decision", f"array {name!r} holds what is no finite number", 1.0)
            worst = entries["value"].min(initial=0.0)
            if worst < -self.tolerance * max(1.0, entries["value"].max(initial=0.0)):
                self._violated("non-negativity", name, -worst)
        models = np.array([self.sets["model"].index(k.model) for k in self.inst.classes])
        for name in ("flow", "startup_waits"):
            entries = self.entries[name]
            entries["profile"] = self._profiles(models[entries["class"]], entries)
        for name in ("instances", "running", "starts"):
            entries = self.entries[name]
            entries["profile"] = self._profiles(entries["model"], entries)
        self._only_where("starts", np.array([p.starts for p in self.inst.profiles]))
        self._only_where("startup_waits", self.startup_s > 0)
        return not any(v.requirement in {"decision", "profile"} for v in self.result.violations)

    def _profiles(self, models: Any, entries: Mapping[str, Any]) -> Any:
        table = np.full((len(self.sets["model"]), len(self.sets["mode"])), -1)
        for (model, mode), index in self.profile_of.items():
            table[self.sets["model"].index(model), self.sets["mode"].index(mode)] = index
        profile = table[models, entries["mode"]]
        depth = np.array([len(p.levels) for p in self.inst.profiles])
        level = entries.get("level", np.zeros(len(profile), dtype=int))
        bad = (profile < 0) | (level >= depth[profile])
        for i in np.flatnonzero(bad)[:5]:
            model = self.sets["model"][models[i]]
            where = f"{model} in {self.sets['mode'][entries['mode'][i]]} level {level[i]}"
            self._violated("profile", f"{where} does not exist", float(entries["value"][i]))
        return profile

    def _only_where(self, name: str, profiles: Any) -> None:
        """Refuse entries of profiles whose starts do not matter, or take no time."""
        entries = self.entries[name]
        for i in np.flatnonzero(~profiles[entries["profile"]])[:5]:
            profile = self.inst.profiles[entries["profile"][i]]
            text = f"{profile.model} in {profile.mode} has no {name}"
            self._violated("profile", text, float(entries["value"][i]))

    def _violated(self, requirement: str, where: str, amount: float) -> None:
        self.result.violations.append(Violation(requirement, where, float(amount)))

    def _compare(self, requirement: str, excess: Any, size: Any, axes: tuple[str, ...]) -> None:
        """Note the five largest elements of `excess` beyond the tolerance."""
        scaled = _scaled(excess, size)
        bad = np.argwhere(scaled > self.tolerance)
        worst = sorted(map(tuple, bad), key=lambda at: -scaled[at])[:5]
        for at in worst:
            names = ", ".join(
                self.sets[a][i] if a in self.sets else str(i) for a, i in zip(axes, at, strict=True)
            )
            self._violated(requirement, names or "total", float(np.asarray(excess)[at]))
        if len(bad) > len(worst):
            self._violated(requirement, f"{len(bad) - len(worst)} more places", float(scaled.max()))

    # -- physics of an instance ------------------------------------------------------------------

    def _of_level(self, entries: Mapping[str, Any], value: Any) -> Any:
        """A number of each entry's level."""
        deepest = len(self.sets["level"])
        table = np.zeros((len(self.inst.profiles), deepest))
        for p, profile in enumerate(self.inst.profiles):
            for i, level in enumerate(profile.levels):
                table[p, i] = value(profile, level)
        return table[entries["profile"], entries["level"]]

    def _of_profile(self, entries: Mapping[str, Any], value: Any) -> Any:
        """A number of each entry's profile."""
        return np.array([value(p) for p in self.inst.profiles])[entries["profile"]]

    def _powers(self) -> None:
        """Powers of serving instances, energies of starting ones, and what both lean on."""
        types = [h.name for h in self.inst.gpu_types]
        for entries in (self.run_, self.starting):
            entries["at"] = (entries["period"], entries["site"])
            gpus = self._of_profile(entries, lambda p: p.gpus_per_instance)
            entries["gpus"] = gpus * entries["value"]
            entries["gpu_type"] = self._of_profile(entries, lambda p: types.index(p.gpu_type))
        r = self.run_
        r["seconds"] = self.duration[r["period"]]
        r["rate"] = self._of_level(r, lambda _, level: level.requests_per_s)
        power = self._of_level(r, lambda _, level: level.power_w)
        adder = self._of_profile(r, lambda p: p.host_adder_w or 0.0)
        pue = self.inst.pue[r["at"]]
        boundary = self.inst.profiles[0].power_boundary
        it, facility = energy.it_and_facility_power_w(power, boundary, pue, adder)
        r["it_w"], r["facility_w"] = it * r["value"], facility * r["value"]
        r["it_kwh"] = energy.energy_kwh(r["it_w"], r["seconds"])
        r["facility_kwh"] = energy.energy_kwh(r["facility_w"], r["seconds"])
        self._energies_of_starts()

    def _energies_of_starts(self) -> None:
        """Energy of each start at the two boundaries; they stand to each other as powers do."""
        st = self.starting
        st["seconds"] = self.startup_s[st["profile"]]
        own = self._of_profile(st, lambda p: p.startup.energy_kwh if p.startup else 0.0)
        adder = self._of_profile(st, lambda p: p.host_adder_w or 0.0)
        it, facility = energy.it_and_facility_power_w(
            own,
            self.inst.profiles[0].power_boundary,
            self.inst.pue[st["at"]],
            energy.energy_kwh(adder, st["seconds"]),
        )
        st["it_kwh"], st["facility_kwh"] = it * st["value"], facility * st["value"]

    # -- requirements ----------------------------------------------------------------------------

    def _sum(self, entries: Mapping[str, Any], values: Any, axes: tuple[str, ...]) -> Any:
        shape = tuple(
            len(self.inst.profiles) if a == "profile" else len(self.sets[a]) for a in axes
        )
        out = np.zeros(shape)
        np.add.at(out, tuple(entries[a] for a in axes), values)
        return out

    def _check_demand(self) -> None:
        """What arrives, or was held back, is served, unmet or held back; no request too long."""
        axes = ("period", "origin", "class")
        served = self._sum(self.flow, self.flow["value"], axes)
        unmet = self._sum(self.unmet, self.unmet["value"], axes)
        stock = self._sum(self.entries["deferred"], self.entries["deferred"]["value"], axes)
        before = np.concatenate([np.zeros_like(stock[:1]), stock[:-1]])
        there = self.inst.demand_requests + before
        self._compare("demand", np.abs(served + unmet + stock - there), there, axes)
        for i, k in enumerate(self.inst.classes):
            if k.unmet_price_usd is None and unmet[:, :, i].max() > self.tolerance:
                self._violated("unmet demand is forbidden", k.name, unmet[:, :, i].sum())
            if k.deferral_limit_s is None and stock[:, :, i].max() > self.tolerance:
                self._violated("deferral is forbidden", k.name, stock[:, :, i].sum())
        self._follow_cohorts(served + unmet)
        until_next = np.append(np.diff(self.moments), 0.0)
        self.held_request_s = stock.sum(axis=1) * until_next[:, None]

    def _follow_cohorts(self, left: Any) -> None:
        """Let requests leave first in, first out, and see who waits too long.

        `left` are the requests served or given up in each period. A request still there at the end
        of a period must be allowed to wait until the next one begins; there is none after the last.
        """
        until = np.append(self.moments[1:], np.inf)
        late = np.zeros_like(self.inst.demand_requests)
        arrived, gone = np.cumsum(self.inst.demand_requests, axis=0), np.cumsum(left, axis=0)
        for i, k in enumerate(self.inst.classes):
            if k.deferral_limit_s is None:
                continue
            for t, moment in enumerate(until):
                # Of those that arrived together, the ones who have not left yet, by origin.
                ahead = np.maximum(arrived[: t + 1, :, i] - gone[t, :, i], 0.0)
                cohorts = np.minimum(ahead, self.inst.demand_requests[: t + 1, :, i])
                wait = moment - self.moments[: t + 1]
                late[t, :, i] = cohorts[wait > k.deferral_limit_s * (1 + 1e-9)].sum(axis=0)
        self._compare("deferral limit", late, arrived, ("period", "origin", "class"))

    def _check_load(self) -> None:
        """Work arriving at a level equals what its instances serve, or is at most that."""
        axes = ("period", "site", "profile", "level")
        f, r = self.flow, self.run_
        f["work"] = f["value"] * self.work[f["class"], f["profile"]]
        arriving = self._sum(f, f["work"], axes)
        serving = self._sum(r, r["value"] * r["rate"] * self.duration[r["period"]], axes)
        if self.inst.load_rule == "at_most":
            self._compare("load at most what instances serve", arriving - serving, serving, axes)
        else:
            excess = np.abs(arriving - serving)
            self._compare("load equals what instances serve", excess, serving, axes)
        self.arriving_work, self.full_work = arriving, serving

    def _measure_queues(self) -> None:
        """Utilisation of the instances at each level, and who waits without end.

        Work that keeps to the load of its level up to rounding leaves the instances at the level's
        own utilisation at most; under load_rule exact, just there.
        """
        axes, r = ("period", "site", "profile", "level"), self.run_
        arriving, serving, service = self.arriving_work, self.full_work, self.service_s[:, None]
        seconds = np.maximum(self._sum(r, r["value"] * self.duration[r["period"]], axes), 0.0)
        full = np.zeros(arriving.shape[2:])
        for p, profile in enumerate(self.inst.profiles):
            full[p, : len(profile.levels)] = [v.requests_per_s for v in profile.levels]
        full *= service
        busy = np.where(service > 0, np.maximum(arriving, 0.0), 0.0) * service
        with np.errstate(divide="ignore", invalid="ignore"):
            used = np.where(busy > 0, busy / seconds, 0.0)
        if self.inst.load_rule == "at_most":
            kept = _scaled(arriving - serving, serving) <= self.tolerance
            used = np.where(kept, np.minimum(used, full), used)
        else:
            kept = _scaled(np.abs(arriving - serving), serving) <= self.tolerance
            used = np.where(kept, full, used)
        endless = used >= 1
        excess = np.where(endless, arriving - serving, 0.0)
        self._compare("waiting in queues has an end", excess, serving, axes)
        self.utilisation = np.where(endless, full, used)
        f = self.flow
        f["utilisation"] = self.utilisation[tuple(f[a] for a in axes)]

    def _queue(self, k: Any, p: Any) -> tuple[Any, Any, Any]:
        """Service times of classes in profiles, and the variation of service and arrivals."""
        return self.work[k, p] * self.service_s[p], self.service_cv2[p], self.arrival_cv2[p]

    def _check_eligibility(self) -> None:
        f, inst = self.flow, self.inst
        live = f["value"] > self.tolerance
        if inst.reachable is not None:
            at = tuple(f[a][live] for a in ("period", "origin", "class", "site", "mode"))
            closed = ~inst.reachable[at]
            if closed.any():
                self._violated(
                    "reachability", f"{closed.sum()} flows", f["value"][live][closed].sum()
                )
        for at in self._busiest(live):
            self._check_limits(int(at))

    def _busiest(self, live: Any) -> Any:
        """Of each kind of flow, the one at the highest utilisation, and of these the earliest."""
        f, (kinds, _) = self.flow, self._kinds_of_flow()
        order = np.lexsort((-f["period"], f["utilisation"], kinds))
        order = order[live[order]]
        return order[np.diff(kinds[order], append=-1) != 0]

    def _kinds_of_flow(self) -> tuple[Any, tuple[int, ...]]:
        """Number of each flow's (origin, class, site, profile, level), and the grid of numbers."""
        axes = ("origin", "class", "site", "profile", "level")
        shape = tuple(
            len(self.inst.profiles) if a == "profile" else len(self.sets[a]) for a in axes
        )
        return np.ravel_multi_index(tuple(self.flow[a] for a in axes), shape), shape

    def _check_limits(self, at: int) -> None:
        """One flow, of one class from one origin at one site and level: TTFT, TBT, KV memory."""
        inst, f = self.inst, self.flow
        o, s, level = f["origin"][at], f["site"][at], f["level"][at]
        k, p = inst.classes[f["class"][at]], inst.profiles[f["profile"][at]]
        measured = p.levels[level]
        where = f"{k.name} from {inst.origins[o]} at {inst.sites[s]} in {p.mode} level {level}"
        prefill = np.interp(k.prompt_tokens.values, p.prefill_tokens, measured.prefill_s)
        mean_prefill = float(prefill @ np.array(k.prompt_tokens.probabilities))
        if k.ttft_limit_s is not None:
            ttft = inst.rtt_s[o, s] + inst.last_mile_s[o]
            if k.ttft_statistic == "mean":
                ttft += mean_prefill
            else:
                q = 1.0 if k.ttft_statistic == "max" else float(k.ttft_statistic[1:]) / 100
                ttft += latency.quantile(prefill, k.prompt_tokens.probabilities, q)
            self._check_ttft(at, k, p, where, ttft)
        if k.tbt_limit_s is not None:
            itl = measured.itl_s[k.tbt_statistic]
            self._limit(f"TBT {k.tbt_statistic}", where, itl, k.tbt_limit_s)
        model = next(m for m in inst.models if m.name == k.model)
        gpu = next(h for h in inst.gpu_types if h.name == p.gpu_type)
        if (
            model.weight_bytes is None
            or model.kv_bytes_per_token is None
            or gpu.memory_bytes is None
        ):
            return
        tokens_out = k.output_tokens.mean
        seconds = mean_prefill + tokens_out * measured.itl_s["mean"]
        batch = measured.requests_per_s / k.work_per_request[p.mode] * seconds
        held = batch * (k.prompt_tokens.mean + tokens_out) * model.kv_bytes_per_token
        memory = p.gpus_per_instance * gpu.memory_bytes * gpu.usable_memory_fraction
        self._limit("memory", where, held + model.weight_bytes, memory)

    def _check_ttft(self, at: int, k: RequestClass, p: Profile, where: str, warm_s: float) -> None:
        """TTFT of one flow where it is, and at the full load that opens its level to a class."""
        limit, requirement = k.ttft_limit_s or np.inf, f"TTFT {k.ttft_statistic}"
        if p.queue is None:
            self._limit(requirement, where, warm_s, limit)
            return
        f = self.flow
        full = p.levels[f["level"][at]].requests_per_s * p.queue.service_s
        period = f"{where}, period {self.sets['period'][f['period'][at]]}"
        ttft = warm_s + self._wait(at, k.ttft_statistic, f["utilisation"][at])
        self._limit(requirement, period, ttft, limit)
        if ttft <= limit * (1 + self.tolerance):
            ttft = warm_s + self._wait(at, k.ttft_statistic, full)
            self._limit(f"{requirement} at full load", where, ttft, limit)

    def _wait(self, at: int, statistic: str, utilisation: float) -> float:
        """Mean or percentile of the time that requests like those of one flow wait in a queue."""
        queue = self._queue(self.flow["class"][at], self.flow["profile"][at])
        if statistic == "mean":
            return float(queueing.mean_wait_s(utilisation, *queue))
        return float(queueing.wait_quantile_s(utilisation, *queue, float(statistic[1:]) / 100))

    def _limit(self, what: str, where: str, value: float, limit: float) -> None:
        if value > limit * (1 + self.tolerance):
            self._violated(what, where, value - limit)

    def _count_instances(self) -> None:
        """Serving, running and starting instances by (period, site, profile)."""
        axes = ("period", "site", "profile")
        self.serving, self.number, self.started = (
            self._sum(self.entries[name], self.entries[name]["value"], axes)
            for name in ("instances", "running", "starts")
        )

    def _check_capacity(self) -> None:
        inst, r = self.inst, self.run_
        axes = ("period", "site", "gpu_type")
        holding = self.number if inst.counts_instances else self.serving  # also while starting
        used = np.zeros(inst.gpus.shape)
        for p, profile in enumerate(inst.profiles):
            kind = self.sets["gpu_type"].index(profile.gpu_type)
            used[:, :, kind] += profile.gpus_per_instance * holding[:, :, p]
        finite = np.where(np.isfinite(inst.gpus), inst.gpus, np.inf)
        self._compare("GPUs", used - finite, np.nan_to_num(finite, posinf=0.0), axes)
        st = self.starting
        self.facility_w = self._sum(r, r["facility_w"], ("period", "site"))
        over = self._sum(st, st["facility_kwh"], ("period", "site"))  # a mean power of the period
        self.facility_w += over * energy.J_PER_KWH / self.duration[:, None]
        if inst.facility_power_cap_w is not None:
            cap = inst.facility_power_cap_w
            size = np.nan_to_num(cap, posinf=0.0)
            self._compare("facility power cap", self.facility_w - cap, size, ("period", "site"))

    def _check_even(self) -> None:
        if self.inst.balance != "even":
            return
        running = self._sum(
            self.run_, self.run_["value"] > self.tolerance, ("period", "site", "profile", "level")
        ).sum(axis=3)
        self._compare("one level per group", running - 1, 1.0, ("period", "site", "profile"))

    def _check_whole(self) -> None:
        """Numbers of instances, starts and requests that must be whole, to an absolute tolerance.

        Unmet and deferred requests follow from those served.
        """
        whole = []
        if self.inst.instance_counts == "integer":
            axes = ARRAYS["running"]
            whole = [("whole instances", "running", axes), ("whole starts", "starts", axes)]
        if self.inst.request_counts == "integer":
            whole.append(("whole requests", "flow", ARRAYS["flow"][:-1]))
        for requirement, name, axes in whole:
            entries = self.entries[name]
            number = self._sum(entries, entries["value"], axes)
            self._compare(requirement, np.abs(number - np.round(number)), np.ones(1), axes)

    def _check_running(self) -> None:
        """Running instances serve or start, are held over blocks, and keep to what is given."""
        inst, axes = self.inst, ("period", "site", "profile")
        size = np.maximum(self.number, 1.0)
        missing = self.started * self.startup_s / self.duration[:, None, None]
        excess = np.abs(self.serving + missing - self.number)
        self._compare("running instances serve or start", excess, size, axes)
        excess = np.abs(self.number - self.number[self.block_start])
        self._compare("instances held over blocks", excess, size, axes)
        if inst.fixed_instances is not None:
            fixed = self._by_profile(inst.fixed_instances)
            excess = np.where(np.isfinite(fixed), np.abs(self.number - fixed), 0.0)
            self._compare("fixed instances", excess, size, axes)
        running = self.entries["running"]
        for one in inst.instance_limits:
            kept = tuple(a for a in ARRAYS["running"] if a == "period" or a in one.limit.axes)
            total = self._sum(running, running["value"], kept)
            limit = one.limit.over(kept, total.shape)
            size = np.maximum(np.where(np.isfinite(limit), limit, 0.0), 1.0)
            self._compare(f"instance limit {one.name}", total - limit, size, kept)

    def _by_profile(self, given: Any) -> Any:
        """An array whose last axes are (model, mode), with one axis of profiles for the two."""
        models = [self.sets["model"].index(p.model) for p in self.inst.profiles]
        modes = [self.sets["mode"].index(p.mode) for p in self.inst.profiles]
        return given[..., models, modes]

    def _check_starts(self) -> None:
        """Starts begin blocks, make up every increase, and run for their minimum time."""
        inst, axes, st = self.inst, ("period", "site", "profile"), self.starting
        if inst.initial_instances is None:
            return
        amid = (self.block_start[st["period"]] != st["period"]) & (st["value"] > self.tolerance)
        if amid.any():
            self._violated("starts at the beginning of blocks", "starts", st["value"][amid].sum())
        initial = self._by_profile(inst.initial_instances)[None]
        before = np.concatenate([initial, self.number[:-1]])
        starts = np.array([p.starts for p in inst.profiles])
        excess = np.where(starts, self.number - before - self.started, 0.0)
        size = np.maximum(np.maximum(self.number, before), 1.0)
        self._compare("more instances need starts", excess, size, axes)
        excess = self.started - self.number
        self._compare("started instances run", excess, np.maximum(self.number, 1.0), axes)
        self._compare("minimum up-time", self._young() - self.number, size, axes)

    def _young(self) -> Any:
        """Instances started less than their minimum up-time before the beginning of each period."""
        so_far = np.concatenate([np.zeros_like(self.started[:1]), np.cumsum(self.started, axis=0)])
        young = np.zeros_like(self.started)
        for p, profile in enumerate(self.inst.profiles):
            # Old enough to stop are those started at or before the end of this window.
            old = self.moments - profile.min_up_s * (1 - 1e-9)
            first = np.searchsorted(self.moments, old, side="right")
            young[:, :, p] = so_far[1:, :, p] - np.take(so_far[:, :, p], first, axis=0)
        return np.where([p.min_up_s > 0 for p in self.inst.profiles], young, 0.0)

    def _check_startup_waits(self) -> None:
        """Whoever arrives while an instance starts and finds the others full waits for it."""
        z, axes = self.waits, ("period", "site", "profile")
        amid = (self.block_start[z["period"]] != z["period"]) & (z["value"] > self.tolerance)
        if amid.any():
            self._violated("waits at the beginning of blocks", "waits", z["value"][amid].sum())
        self._share_waits()
        assigned = self._sum(z, z["value"] * self.work[z["class"], z["profile"]], axes)
        part = self.startup_s / self.duration[:, None, None]
        arriving = part * self._sum(self.flow, self.flow["work"], axes)
        most = np.array([p.levels[-1].requests_per_s for p in self.inst.profiles])
        served = self.startup_s * most * (self.number - self.started)
        size = np.maximum(arriving, 1.0)
        self._compare("waits for starts", arriving - served - assigned, size, axes)

    def _share_waits(self) -> None:
        """Who waits arrives during the start; the share of each class's requests that wait."""
        axes = ("period", "class", "site", "mode")
        waiting = self._sum(self.waits, self.waits["value"], axes)
        here = self._sum(self.flow, self.flow["value"], axes)
        startup = np.zeros((len(self.inst.classes), len(self.inst.modes)))
        for k, c in enumerate(self.inst.classes):
            for m, mode in enumerate(self.inst.modes):
                if (c.model, mode) in self.profile_of:
                    startup[k, m] = self.startup_s[self.profile_of[c.model, mode]]
        most = here * startup[None, :, None, :] / self.duration[:, None, None, None]
        size = np.maximum(most, 1.0)
        self._compare("those who wait for a start arrive", waiting - most, size, axes)
        with np.errstate(divide="ignore", invalid="ignore"):
            self.wait_share = np.clip(np.where(here > 0, waiting / here, 0.0), 0.0, 1.0)

    # -- metrics ---------------------------------------------------------------------------------

    def _metrics(self) -> None:
        """Every metric by period and site, then along each axis and in total."""
        self.at = self._by_period_and_site()
        self.by_site = self._by_site()
        self.siteless = self._siteless()
        self.ttft = self._ttft_distributions()
        by_period = {n: grid.sum(axis=1) for n, grid in self.at.items()} | self.siteless
        by_period["carbon_embodied_kg"] = self._embodied_kg().sum(axis=1)
        self.result.metrics = self._totals()
        self.result.metrics_by = {
            "site": _with_mean(self.by_site),
            "period": _with_mean(by_period),
            "class": self._by_class(),
            "period,site": _with_mean({name: self.at[name] for name in GRID}),
        }

    def _by_site(self) -> dict[str, Any]:
        """Totals by site, with what belongs to no single period."""
        by_site = {name: grid.sum(axis=0) for name, grid in self.at.items()}
        charge = self.inst.demand_charge_usd_per_kw
        peak_kw = self.facility_w.max(axis=0) / 1000
        by_site["cost_demand_usd"] = peak_kw * (0.0 if charge is None else charge)
        by_site["cost_usd"] = by_site["cost_usd"] + by_site["cost_demand_usd"]
        embodied = self._embodied_kg().sum(axis=0)
        by_site["carbon_embodied_kg"] = embodied
        by_site["carbon_total_kg"] = by_site["carbon_operational_kg"] + embodied
        return by_site

    def _siteless(self) -> dict[str, Any]:
        """By period, what belongs to no site."""
        prices = np.array([k.unmet_price_usd or 0.0 for k in self.inst.classes])
        value = self.unmet["value"]
        return {
            "unmet_requests": self._sum(self.unmet, value, ("period",)),
            "unmet_usd": self._sum(self.unmet, value * prices[self.unmet["class"]], ("period",)),
            "deferral_request_s": self.held_request_s.sum(axis=1),
        }

    def _totals(self) -> dict[str, float | None]:
        found: dict[str, float | None] = {
            name: float(values.sum()) for name, values in {**self.by_site, **self.siteless}.items()
        }
        found |= self.ttft[0]
        requests = self.by_site["requests"].sum()
        found["ttft_mean_s"] = _ratio(self.by_site["ttft_request_s"].sum(), requests)
        order = (*METRICS, *(custom.name for custom in self.inst.custom_metrics))
        return {name: found[name] for name in order}

    def _by_period_and_site(self) -> dict[str, Any]:
        inst, st, f = self.inst, self.starting, self.flow
        self.running, starting = self._amounts(self.run_), self._amounts(st)
        sent_gb = np.array([k.egress_bytes_per_request for k in inst.classes])[f["class"]] / 1e9
        f["ttft_s"] = self._mean_ttft()
        queue = self._queue(f["class"], f["profile"])
        f["queue_s"] = queueing.mean_wait_s(f["utilisation"], *queue)
        served = {
            "requests": f["value"],
            "ttft_warm_request_s": f["value"] * f["ttft_s"],
            "ttft_queue_request_s": f["value"] * f["queue_s"],
            "cost_egress_usd": f["value"]
            * sent_gb
            * inst.egress_usd_per_gb[f["origin"], f["site"]],
        }
        self.served = served
        z = self.waits
        z["startup_request_s"] = z["value"] * self.startup_s[z["profile"]]
        axes = ("period", "site")
        at = {n: self._sum(self.run_, v, axes) for n, v in self.running.items()}
        at = {n: at[n] + self._sum(st, v, axes) for n, v in starting.items()}
        at |= {n: self._sum(f, v, axes) for n, v in served.items()}
        at["starts"] = self._sum(st, st["value"], axes)
        at["ttft_startup_request_s"] = self._sum(z, z["startup_request_s"], axes)
        at["ttft_request_s"] = (
            at["ttft_warm_request_s"] + at["ttft_startup_request_s"] + at["ttft_queue_request_s"]
        )
        for custom in inst.custom_metrics:
            at[custom.name] = self._custom(custom)
        at["carbon_kg"] = at["carbon_operational_kg"] + at["carbon_embodied_running_kg"]
        at["water_consumption_l"] = at["water_evaporation_l"] + at["water_grid_l"]
        at["water_l"] = at["water_consumption_l"] + at["water_blowdown_l"]
        at["cost_usd"] = at["cost_energy_usd"] + at["cost_gpu_usd"] + at["cost_egress_usd"]
        return at

    def _amounts(self, entries: Mapping[str, Any]) -> dict[str, Any]:
        """What each entry of serving or starting instances takes, from energy and GPU time."""
        inst, at, facility = self.inst, entries["at"], entries["facility_kwh"]
        evaporated, blown = water.evaporation_and_blowdown(
            entries["it_kwh"] * inst.wue_l_per_kwh[at],
            inst.cycles_of_concentration[entries["site"]],
        )
        gpu_h = entries["gpus"] * entries["seconds"] / 3600
        hourly = 0.0
        if inst.gpu_usd_per_hour is not None:
            hourly = inst.gpu_usd_per_hour[entries["site"], entries["gpu_type"]]
        return {
            "energy_kwh": facility,
            "energy_it_kwh": entries["it_kwh"],
            "carbon_operational_kg": carbon.operational_kg(facility, inst.carbon_g_per_kwh[at]),
            "carbon_embodied_running_kg": self._embodied_of_running(entries),
            "water_evaporation_l": evaporated,
            "water_blowdown_l": blown,
            "water_grid_l": facility * inst.ewif_l_per_kwh[at],
            "cost_energy_usd": facility * inst.price_usd_per_mwh[at] / 1000,
            "cost_gpu_usd": gpu_h * hourly,
            "gpu_h": gpu_h,
        }

    def _custom(self, custom: Any) -> Any:
        total = np.zeros(self.shape)
        for array, entries, factor in (
            (custom.per_request, self.flow, 1.0),
            (custom.per_instance_s, self.run_, self.duration[self.run_["period"]]),
        ):
            if array is not None:
                each = array.values[tuple(entries[a] for a in array.axes)]
                total += self._sum(entries, entries["value"] * factor * each, ("period", "site"))
        return total

    def _mean_ttft(self) -> Any:
        """Mean time to first token of each flow entry."""
        inst, f = self.inst, self.flow
        table = np.zeros((len(inst.classes), len(inst.profiles), len(self.sets["level"])))
        for k, c in enumerate(inst.classes):
            for p, profile in enumerate(inst.profiles):
                if profile.model == c.model:
                    for i, level in enumerate(profile.levels):
                        times = np.interp(
                            c.prompt_tokens.values, profile.prefill_tokens, level.prefill_s
                        )
                        table[k, p, i] = times @ np.array(c.prompt_tokens.probabilities)
        network = inst.rtt_s[f["origin"], f["site"]] + inst.last_mile_s[f["origin"]]
        return network + table[f["class"], f["profile"], f["level"]]

    def _ttft_distributions(self) -> tuple[dict[str, float | None], dict[str, list[Any]]]:
        """95th percentile and SLO attainment over requests, lengths and waits: total, by class."""
        of_class = self._delays()
        every = [one for delays in of_class for one in delays]
        limits = [np.inf if k.ttft_limit_s is None else k.ttft_limit_s for k in self.inst.classes]
        each = [_weight(delays) for delays in of_class]
        # A limit has its slack for equality in the data.
        kept = [
            weight - _late(delays, limit * (1 + 1e-9))
            for weight, delays, limit in zip(each, of_class, limits, strict=True)
        ]
        total = {
            "ttft_p95_s": _p95(every),
            "ttft_slo_attainment": _ratio(sum(kept), sum(each)),
        }
        by_class = {
            "ttft_p95_s": [_p95(delays) for delays in of_class],
            "ttft_slo_attainment": [_ratio(a, b) for a, b in zip(kept, each, strict=True)],
        }
        return total, by_class

    def _delays(self) -> list[list[_Delays]]:
        """Times to first token of each class, by profile and level.

        Of a class that waits for a start at a site and in a mode, every flow there has its share.
        """
        f = self.flow
        kinds, shape = self._kinds_of_flow()
        utilisations, which = np.unique(f["utilisation"], return_inverse=True)
        used, group = np.unique(kinds * len(utilisations) + which, return_inverse=True)
        at = tuple(f[a] for a in ("period", "class", "site", "mode"))
        late = f["value"] * (self.wait_share[at] if len(self.waits["value"]) else 0.0)
        kinds, which = np.divmod(used, max(len(utilisations), 1))
        o, k, s, p, level = np.unravel_index(kinds, shape)
        network = self.inst.rtt_s[o, s] + self.inst.last_mile_s[o]
        own = np.array([network, network + self.startup_s[p]])
        requests = np.array([np.bincount(group, f["value"] - late), np.bincount(group, late)])
        found: list[list[_Delays]] = [[] for _ in self.inst.classes]
        together = np.ravel_multi_index((k, p, level), (shape[1], *shape[3:]))
        order = np.argsort(together, kind="stable")
        for here in np.split(order, np.flatnonzero(np.diff(together[order])) + 1):
            some = requests[:, here] != 0
            if some.any():
                first = here[0]
                found[k[first]].append(
                    self._delays_at(
                        (k[first], p[first], level[first]),
                        own[:, here][some],
                        requests[:, here][some],
                        np.broadcast_to(utilisations[which[here]], some.shape)[some],
                    )
                )
        return found

    def _delays_at(
        self, where: tuple[int, int, int], own: Any, requests: Any, utilisation: Any
    ) -> _Delays:
        """Times to first token of one class in one profile and level."""
        k, p, level = where
        lengths, profile = self.inst.classes[k].prompt_tokens, self.inst.profiles[p]
        curve = profile.levels[level].prefill_s
        prefill = np.interp(lengths.values, profile.prefill_tokens, curve)
        shares = np.array(lengths.probabilities)
        delayed = queueing.delayed_wait_s(utilisation, *self._queue(k, p))
        return _Delays(prefill, shares, own, requests, utilisation, delayed)

    def _embodied_rate(self) -> Any:
        """Embodied carbon of one GPU and second by type, kg."""
        return np.array(
            [carbon.embodied_kg(h.embodied_kg, h.lifetime_s, 1, 1) for h in self.inst.gpu_types]
        )

    def _embodied_of_running(self, entries: Mapping[str, Any]) -> Any:
        if self.inst.embodied_charge == "installed":
            return np.zeros(len(entries["value"]))
        return self._embodied_rate()[entries["gpu_type"]] * entries["gpus"] * entries["seconds"]

    def _embodied_kg(self) -> Any:
        """Embodied carbon by period and site, of running or of installed GPUs.

        An unlimited fleet has no installed carbon to report; it is left out.
        """
        if self.inst.embodied_charge == "running":
            return self.at["carbon_embodied_running_kg"]
        installed = np.where(np.isfinite(self.inst.gpus), self.inst.gpus, 0.0)
        return (installed @ self._embodied_rate()) * self.duration[:, None]

    def _by_class(self) -> dict[str, Any]:
        """Class totals: shared instances are charged by share of work, egress directly.

        Instances that stand idle or start belong to no class, so classes may add up to less than
        the total.
        """
        inst, f, r, z = self.inst, self.flow, self.run_, self.waits
        at = tuple(f[a] for a in ("period", "site", "profile", "level"))
        with np.errstate(divide="ignore", invalid="ignore"):
            share = np.where(f["work"] > 0, f["work"] / self.arriving_work[at], 0.0)
        axes = ("period", "site", "profile", "level")
        grids = {n: self._sum(r, v, axes)[at] * share for n, v in self.running.items()}
        grids |= self.served
        total = {n: self._sum(f, v, ("class",)) for n, v in grids.items()}
        total["ttft_startup_request_s"] = self._sum(z, z["startup_request_s"], ("class",))
        total["ttft_request_s"] = (
            total["ttft_warm_request_s"]
            + total["ttft_startup_request_s"]
            + total["ttft_queue_request_s"]
        )
        total["deferral_request_s"] = self.held_request_s.sum(axis=0)
        total["carbon_kg"] = total["carbon_operational_kg"] + total["carbon_embodied_running_kg"]
        total["water_consumption_l"] = total["water_evaporation_l"] + total["water_grid_l"]
        total["water_l"] = total["water_consumption_l"] + total["water_blowdown_l"]
        total["cost_usd"] = (
            total["cost_energy_usd"] + total["cost_gpu_usd"] + total["cost_egress_usd"]
        )
        tokens = np.array([k.prompt_tokens.mean + k.output_tokens.mean for k in inst.classes])
        result = _with_mean(total) | self.ttft[1]
        for name in PER_REQUEST:
            each = [_ratio(a, b) for a, b in zip(total[name], total["requests"], strict=True)]
            result[f"{name}_per_request"] = each
            result[f"{name}_per_1000_tokens"] = [
                None if a is None or not n else a / n * 1000
                for a, n in zip(each, tokens, strict=True)
            ]
        return result

    # -- budgets, objective, balance ---------------------------------------------------------------

    def _check_budgets(self) -> None:
        for budget in self.inst.budgets:
            axes = budget.limit.axes
            mean = budget.metric == "ttft_mean_s"
            value = self._over(budget.metric if not mean else "ttft_request_s", axes)
            limit = budget.limit.over([a for a in ("period", "site") if a in axes], np.shape(value))
            named = tuple(a for a in ("period", "site") if a in axes)
            size = np.where(np.isfinite(limit), np.abs(limit), 0.0)
            if mean:  # in request-seconds, so that a stray request is no ratio
                requests = self._over("requests", axes)
                with np.errstate(invalid="ignore"):
                    limit = np.where(requests > 0, limit * requests, np.inf)
                # A stray request somewhere is rounding beside all the traffic there is.
                size = size * np.maximum(requests, 1e-3 * self.inst.demand_requests.sum())
            if not size.any():  # a limit of zero is judged by the size of what it adds up
                terms = self._over_absolute(budget.metric if not mean else "ttft_request_s")
                size = np.full_like(size, terms)
            self._compare(f"budget {budget.name}", value - limit, size, named)

    def _over_absolute(self, metric: str) -> float:
        grid = self.at.get(metric, self.siteless.get(metric, np.ones(1)))
        return float(np.abs(grid).sum())

    def _over(self, metric: str, axes: tuple[str, ...]) -> Any:
        """A metric over a subset of period and site."""
        if metric in self.siteless:
            by_period = self.siteless[metric]
            return by_period if "period" in axes else by_period.sum()
        if "period" not in axes:
            by_site = self.by_site[metric]
            return by_site if "site" in axes else by_site.sum()
        grid = self.at[metric]
        return grid if "site" in axes else grid.sum(axis=1)

    def _stage(self, stage: Any) -> float:
        total = 0.0
        for term in stage.terms:
            if term.weight == 0:
                continue
            if term.metric == "ttft_mean_s":
                value = self.by_site["ttft_request_s"].sum() / self.inst.demand_requests.sum()
            elif term.over_sites == "max":
                value = self.by_site[term.metric].max()
            else:
                value = self._over(term.metric, ())
                value = value / len(self.inst.sites) if term.over_sites == "mean" else value
            total += term.weight / term.scale * float(value)
        return total

    def _even_balance_note(self) -> None:
        """Facility energy if each group's instances shared its load evenly.

        Power is interpolated between measured levels; below the lowest one the lowest is charged.
        """
        running = self.serving
        work = self.arriving_work.sum(axis=3)
        t, s, p = np.nonzero(running)
        load = work[t, s, p] / (running[t, s, p] * self.duration[t])
        power = np.zeros(len(load))
        for index, profile in enumerate(self.inst.profiles):
            here = p == index
            rates = [level.requests_per_s for level in profile.levels]
            watts = [level.power_w for level in profile.levels]
            power[here] = np.interp(load[here], rates, watts)
        adder = np.array([q.host_adder_w or 0.0 for q in self.inst.profiles])[p]
        boundary = self.inst.profiles[0].power_boundary
        _, facility = energy.it_and_facility_power_w(power, boundary, self.inst.pue[t, s], adder)
        even = float(energy.energy_kwh(facility * running[t, s, p], self.duration[t]).sum())
        difference = even - float(self.running["energy_kwh"].sum())
        # Starts take what they take in both.
        self.result.notes["even_balance"] = {
            "energy_kwh": (self.result.metrics["energy_kwh"] or 0.0) + difference,
            "difference_kwh": difference,
        }

    def _batch_note(self) -> None:
        """Mean requests in service on a running instance, by Little's law, at each level used.

        Left out for levels without a mean inter-token latency.
        """
        f, r = self.flow, self.run_
        out = np.array([k.output_tokens.mean for k in self.inst.classes])[f["class"]]
        itl = self._of_level(f, lambda _, level: level.itl_s.get("mean", np.nan))
        network = self.inst.rtt_s[f["origin"], f["site"]] + self.inst.last_mile_s[f["origin"]]
        residence = f["ttft_s"] - network + out * itl
        held = self._sum(f, f["value"] * residence, ("profile", "level"))
        time = self._sum(r, r["value"] * self.duration[r["period"]], ("profile", "level"))
        self.result.notes["batch"] = [
            {
                "model": self.inst.profiles[p].model,
                "mode": self.inst.profiles[p].mode,
                "level": int(level),
                "mean_batch": float(held[p, level] / time[p, level]),
            }
            for p, level in np.argwhere((time > 0) & np.isfinite(held))
        ]

    def _queues_note(self) -> None:
        """Utilisation and waits, over requests, at each level used of profiles with a queue."""
        f = self.flow
        live = (f["value"] > self.tolerance) & (self.service_s[f["profile"]] > 0)
        levels, which = np.unique(
            np.stack([f["profile"][live], f["level"][live]]), axis=1, return_inverse=True
        )
        self.result.notes["queues"] = [
            self._queue_note(int(p), int(level), np.flatnonzero(live)[np.ravel(which) == i])
            for i, (p, level) in enumerate(levels.T)
        ]

    def _queue_note(self, p: int, level: int, at: Any) -> dict[str, Any]:
        f, profile = self.flow, self.inst.profiles[p]
        requests, utilisation = f["value"][at], f["utilisation"][at]
        delayed = queueing.delayed_wait_s(utilisation, *self._queue(f["class"][at], p))
        waits = _Delays(np.zeros(1), np.ones(1), 0.0 * requests, requests, utilisation, delayed)
        return {
            "model": profile.model,
            "mode": profile.mode,
            "level": level,
            "largest_utilisation": float(utilisation.max()),
            "mean_utilisation": float(np.average(utilisation, weights=requests)),
            "mean_wait_s": float(np.average(f["queue_s"][at], weights=requests)),
            "p95_wait_s": _p95([waits]),
        }


class _Delays:
    """Delays of many kinds of request, each the sum of three times.

    The first is the same for all requests of a kind, the second is drawn from one distribution for
    all kinds, and the third is the wait in a queue: none if the instance is idle, else exponential.

    Parameters
    ----------
    times, shares : array
        Values of the second time, s, in increasing order, and the share of requests with each.
    own, requests : array
        The first time of each kind, s, and how many requests are of the kind.
    utilisation, delayed : array
        Share of the requests of each kind that wait, and their mean wait, s.
    """

    def __init__(
        self, times: Any, shares: Any, own: Any, requests: Any, utilisation: Any, delayed: Any
    ) -> None:
        self.times, self.shares, self.own, self.requests = times, shares, own, requests
        self.waiting = np.where(delayed > 0, utilisation, 0.0)
        self.delayed = np.where(delayed > 0, delayed, 1.0)
        self.longer = np.append(np.cumsum(shares[::-1])[::-1], 0.0)
        # Of those who wait and whose second time is one of the first so many: the share that waits
        # still when the last of these times is over. Follows from one time to the next.
        different, self.row = np.unique(self.delayed, return_inverse=True)
        self.still = np.zeros((len(different), len(times) + 1))
        for i, gap in enumerate(np.diff(times, prepend=times[0])):
            self.still[:, i + 1] = shares[i] + self.still[:, i] * np.exp(-gap / different)

    def late(self, time: float) -> float:
        """Number of requests whose delay is longer than a time."""
        rest = time - self.own
        count = np.searchsorted(self.times, rest, side="right")
        since = np.maximum(rest - self.times[np.maximum(count - 1, 0)], 0.0)
        waiting = self.waiting * self.still[self.row, count] * np.exp(-since / self.delayed)
        return float((self.requests * (self.longer[count] + waiting)).sum())

    def without_waits(self) -> tuple[Any, Any]:
        """Every value of the first two times, and the number of requests with it."""
        values = self.own[:, None] + self.times
        return values.ravel(), (self.requests[:, None] * self.shares).ravel()

    def bounds(self, share: float) -> tuple[float, float]:
        """A time that no delay is below, and one that a share of each kind's is not above."""
        waits = self.delayed * np.log(np.maximum(self.waiting / (1 - share), 1.0))
        return (
            float(self.own.min() + self.times[0]),
            float((self.own + waits).max() + self.times[-1]),
        )


def _weight(delays: list[_Delays]) -> float:
    return float(sum(one.requests.sum() for one in delays))


def _late(delays: list[_Delays], time: float) -> float:
    return sum(one.late(time) for one in delays)


def _p95(delays: list[_Delays]) -> float | None:
    """95th percentile: exact without waits, else to a billionth of it from above."""
    share, weight = 0.95, _weight(delays)
    if weight <= 0:
        return None
    if not any(one.waiting.any() for one in delays):
        parts = [one.without_waits() for one in delays]
        values, weights = (np.concatenate(side) for side in zip(*parts, strict=True))
        return latency.quantile(values, weights, share)
    bounds = [one.bounds(share) for one in delays]
    low, high = min(b[0] for b in bounds), max(b[1] for b in bounds)
    most = weight * (1 - share * (1 - 1e-12))  # a share reached up to rounding counts as reached
    if _late(delays, low) <= most:
        return low
    while high - low > 1e-9 * high:
        middle = (low + high) / 2
        low, high = (middle, high) if _late(delays, middle) > most else (low, middle)
    return high


def _scaled(excess: Any, size: Any) -> Any:
    """An excess relative to the size of its requirement.

    An element is judged against its own size, and against a thousandth of the largest where its own
    is smaller still: a stray request beside millions is rounding.
    """
    sizes = np.abs(np.asarray(size, dtype=float))
    floor = max(1e-3 * float(sizes.max(initial=0.0)), 1e-12)
    return np.asarray(excess) / np.maximum(floor, sizes)


def _ratio(a: Any, b: Any) -> float | None:
    return float(a) / float(b) if b > 0 else None


def _with_mean(grids: Mapping[str, Any]) -> dict[str, Any]:
    """Plain lists, with the mean TTFT (None where nothing is served)."""
    result = {name: np.asarray(values).tolist() for name, values in grids.items()}
    requests, seconds = np.asarray(grids["requests"]), np.asarray(grids["ttft_request_s"])
    mean = np.where(requests > 0, seconds / np.where(requests > 0, requests, 1.0), np.nan)
    boxed = mean.astype(object)
    boxed[np.isnan(mean)] = None
    result["ttft_mean_s"] = boxed.tolist()
    return result
