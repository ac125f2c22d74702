"""Placement as sparse arrays: the fast statement of formulations/placement.md.

Vectorised over periods, origins and sites; the only Python loops run over classes, profiles, level
groups, objective terms and budgets.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from greenopt.labelled import FloatArray, IntArray
from greenopt.model import Block, Builder, Model, StageObjective
from greenopt.physics import carbon, energy, water
from greenopt.physics.queueing import variability, waiting_share
from greenopt.problems.placement.eligibility import (
    LevelKeys,
    Service,
    prefill_statistic,
    services,
    stock_limits,
)
from greenopt.problems.placement.instance import (
    FLOW_AXES,
    RUNNING_AXES,
    InstanceLimit,
    PlacementInstance,
    Term,
)
from greenopt.problems.placement.metrics import leaves
from greenopt.problems.placement.queueing import Pieces, chords

Coefficients = dict[str, FloatArray]
"""Coefficients of a metric by column block."""


@dataclass(frozen=True, eq=False)
class _Use:
    """What one unit of each column of a block uses.

    Attributes
    ----------
    block : Block
        The columns.
    period, site, service : ndarray of int
        Of each column.
    it_kwh, facility_kwh : ndarray
        Energies.
    held_s : ndarray
        Time an instance's GPUs are held for.
    """

    block: Block
    period: IntArray
    site: IntArray
    service: IntArray
    it_kwh: Any
    facility_kwh: Any
    held_s: Any


class Statement:
    """Columns, rows and objective of one instance.

    Parameters
    ----------
    instance : PlacementInstance
        What to formulate.
    everywhere : bool
        Give every site the columns of every profile, also where it has no GPUs.
    apart : sequence of sequence of hashable, optional
        A key for each level of each profile; levels of different keys are in different groups.
    pieces : callable
        From the largest utilisation of each curve of waiting to its pieces.

    Attributes
    ----------
    model : greenopt.model.Model
        Sparse arrays with named blocks.
    """

    def __init__(
        self,
        instance: PlacementInstance,
        everywhere: bool = False,
        apart: LevelKeys | None = None,
        pieces: Callable[[FloatArray], Pieces] = chords,
    ) -> None:
        self.instance = instance
        self.curved = instance.waiting_is_curved
        self._everywhere, self._apart = everywhere, apart
        self.services = services(instance, everywhere, apart)
        self.duration_s = np.array(instance.periods.duration_s)
        self._block_begin = np.cumsum([0, *instance.blocks[:-1]])  # first period of each block
        self._block = np.repeat(np.arange(len(instance.blocks)), instance.blocks)
        self._stock_limit = stock_limits(instance)
        carried = np.concatenate([np.zeros_like(self._stock_limit[:1]), self._stock_limit[:-1]])
        self._servable = instance.demand_requests + carried  # requests a period may serve
        labels = dict(instance.sets)
        labels["block"] = tuple(instance.sets["period"][t] for t in self._block_begin)
        labels["limit"] = tuple(limit.name for limit in instance.instance_limits)
        labels["group"] = tuple(str(g) for g in range(max(s.n_groups for s in self.services)))
        labels["stage"] = tuple(str(i) for i in range(len(instance.objective)))
        labels["term"] = tuple(
            str(j) for j in range(max(len(stage.terms) for stage in instance.objective))
        )
        labels["budget"] = tuple(budget.name for budget in instance.budgets)
        self._builder = Builder(instance.name, labels)
        self._flow, self._flow_service = self._add_flow()
        self._run, self._run_service, self._run_upper = self._add_instances()
        if self.curved:
            self._add_filled(pieces)
        if instance.counts_instances:
            self._add_running()
            self._add_starts()
        self._add_deferred()
        self._add_whole_flow()
        self._add_unmet()
        self._add_peak()
        self._maxima = self._add_site_max()
        if instance.balance == "even":
            self._used = self._builder.add_columns("used", self._run.codes, 0, 1, integer=True)
        self._site, self._period = self._scopes()
        self._add_rows()
        self.model: Model = self._builder.build(
            [self._stage(i) for i in range(len(labels["stage"]))]
        )

    # -- columns -------------------------------------------------------------------------------

    def _add_flow(self) -> tuple[Block, IntArray]:
        inst = self.instance
        modes = {name: i for i, name in enumerate(inst.modes)}
        n_periods = len(self.duration_s)
        parts: list[list[IntArray]] = []
        for service in self.services:
            mode = modes[service.profile.mode]
            for k, allowed in zip(service.classes, service.eligible, strict=True):
                for group in range(service.n_groups):
                    mask = allowed[service.first_level(group)] & service.holds
                    whole = np.broadcast_to(mask, (n_periods, *mask.shape))
                    if inst.reachable is not None:
                        whole = whole & inst.reachable[:, :, k, :, mode]
                    t, o, s = np.nonzero(whole)
                    fixed = (np.full(len(t), v) for v in (k, mode, group, service.index))
                    kk, mm, gg, pp = fixed
                    parts.append([t, o, kk, s, mm, gg, pp])
        t, o, k, s, m, g, p = (np.concatenate(column) for column in zip(*parts, strict=True))
        order = np.argsort(t, kind="stable")
        t, o, k, s, m, g, p = (column[order] for column in (t, o, k, s, m, g, p))
        codes = {"period": t, "origin": o, "class": k, "site": s, "mode": m, "group": g}
        single = np.array([service.n_groups == 1 for service in self.services])
        whole = (inst.request_counts == "integer") & single[p]
        return self._builder.add_columns("flow", codes, 0, 2 * self._servable[t, o, k], whole), p

    def _add_instances(self) -> tuple[Block, IntArray, FloatArray]:
        inst = self.instance
        sets = inst.sets
        parts: list[list[Any]] = []
        for service in self.services:
            profile = service.profile
            sites = np.flatnonzero(service.holds)
            t, s, level = (
                axis.ravel()
                for axis in np.meshgrid(
                    np.arange(len(self.duration_s)),
                    sites,
                    np.arange(len(profile.levels)),
                    indexing="ij",
                )
            )
            fixed = (sets["model"].index(profile.model), sets["mode"].index(profile.mode))
            n, m, p = (np.full(len(t), v) for v in (*fixed, service.index))
            parts.append([t, s, n, m, level, p, self._most_instances(service, t, s, level)])
        t, s, n, m, level, p, upper = _joined_in_order(parts)
        codes = {"period": t, "site": s, "model": n, "mode": m, "level": level}
        single = np.array([len(service.profile.levels) == 1 for service in self.services])
        whole = (inst.instance_counts == "integer") & single[p] & (self._startup_s[p] == 0)
        return self._builder.add_columns("instances", codes, 0, 2 * upper, whole), p, upper

    def _most_instances(self, service: Service, t: Any, s: Any, level: Any) -> Any:
        """GPUs allow so many, and demand needs no more."""
        inst, profile = self.instance, service.profile
        h = inst.sets["gpu_type"].index(profile.gpu_type)
        by_gpus = inst.gpus[t, s, h] / profile.gpus_per_instance
        if inst.load_rule == "at_most":
            return by_gpus
        work = np.array([inst.classes[k].work_per_request[profile.mode] for k in service.classes])
        needed = self._servable[:, :, service.classes].sum(axis=1) @ work
        served = self.duration_s[t] * self._rate(service)[level]
        with np.errstate(divide="ignore", invalid="ignore"):
            by_demand = np.where(served > 0, needed[t] / served, np.inf)
        return np.minimum(by_gpus, by_demand)

    def _add_filled(self, pieces: Callable[[FloatArray], Pieces]) -> None:
        """Instances by utilisation, where they wait along a curve."""
        here = (self._service_s[self._run_service] > 0) & (self._rates > 0)
        self._curve_run = np.flatnonzero(here)  # position of the instances column of each curve
        self.pieces = pieces(self._full[self._curve_run])
        at, number = self._curve_run[self.pieces.curve], self.pieces.number
        codes = {**{axis: c[at] for axis, c in self._run.codes.items()}, "point": number}
        points = tuple(str(i) for i in range(number.max(initial=-1) + 1))
        self._builder.labels = {**self._builder.labels, "point": points}
        self._filled = self._builder.add_columns("filled", codes, 0, 2 * self._run_upper[at])
        self._filled_run = at

    def _add_running(self) -> None:
        """Number of running instances, held over blocks of periods."""
        inst, sets = self.instance, self.instance.sets
        parts: list[list[Any]] = []
        for service in self.services:
            profile = service.profile
            h = sets["gpu_type"].index(profile.gpu_type)
            fewest = np.minimum.reduceat(inst.gpus[:, :, h], self._block_begin, axis=0)
            b, s = (
                axis.ravel()
                for axis in np.meshgrid(
                    np.arange(len(fewest)), np.flatnonzero(service.holds), indexing="ij"
                )
            )
            fixed = (sets["model"].index(profile.model), sets["mode"].index(profile.mode))
            n, m, p = (np.full(len(b), v) for v in (*fixed, service.index))
            parts.append([b, s, n, m, p, fewest[b, s] / profile.gpus_per_instance])
        b, s, n, m, p, most = _joined_in_order(parts)
        whole = inst.instance_counts == "integer"
        self._running_most = most
        lower, upper = np.zeros(len(b)), 2 * (np.floor(most) if whole else most)
        if inst.fixed_instances is not None:
            given = inst.fixed_instances[self._block_begin[b], s, n, m]
            self._running_given = np.isfinite(given)
            lower = np.where(self._running_given, given, lower)
            upper = np.where(self._running_given, given, upper)
        codes = {"block": b, "site": s, "model": n, "mode": m}
        self._running = self._builder.add_columns("running", codes, lower, upper, whole)
        self._running_service = p
        self._running_at = np.full((len(inst.blocks), len(inst.sites), len(self.services)), -1)
        self._running_at[b, s, p] = np.arange(len(b))

    def _add_starts(self) -> None:
        """Instances started in each block, and requests that wait for them."""
        inst, r = self.instance, self._running
        starting = np.array([service.profile.starts for service in self.services])
        here = np.flatnonzero(starting[self._running_service])
        if not here.size:
            return
        codes = {axis: c[here] for axis, c in r.codes.items()}
        whole = inst.instance_counts == "integer"
        most = np.floor(self._running_most[here]) if whole else self._running_most[here]
        self._starts = self._builder.add_columns("starts", codes, 0, 2 * most, whole)
        self._start_running = here  # position of the running column of each start
        self._start_service = self._running_service[here]
        self._starts_at = np.full(self._running_at.shape, -1)
        self._starts_at[codes["block"], codes["site"], self._start_service] = np.arange(len(here))
        self._add_startup_waits()

    def _add_startup_waits(self) -> None:
        modes = {name: i for i, name in enumerate(self.instance.modes)}
        parts: list[list[Any]] = []
        for service in self.services:
            if self._startup_s[service.index]:
                grid = np.meshgrid(
                    np.arange(len(self._block_begin)), service.classes,
                    np.flatnonzero(service.holds), indexing="ij",
                )  # fmt: skip
                b, k, s = (axis.ravel() for axis in grid)
                m, p = (np.full(len(b), v) for v in (modes[service.profile.mode], service.index))
                parts.append([b, k, s, m, p])
        if not parts:
            return
        b, k, s, m, self._wait_service = _joined_in_order(parts)
        upper = 2 * self._servable.sum(axis=1)[self._block_begin[b], k]
        codes = {"block": b, "class": k, "site": s, "mode": m}
        self._waits = self._builder.add_columns("startup_waits", codes, 0, upper)

    def _add_deferred(self) -> None:
        """Stock of requests held back at the end of each period but the last."""
        inst = self.instance
        classes = [i for i, k in enumerate(inst.classes) if k.deferral_limit_s is not None]
        periods = np.arange(len(self.duration_s) - 1)
        if not classes or not periods.size:
            return
        grid = np.meshgrid(periods, np.arange(len(inst.origins)), classes, indexing="ij")
        t, o, k = (axis.ravel() for axis in grid)
        codes = {"period": t, "origin": o, "class": k}
        self._builder.add_columns("deferred", codes, 0, 2 * self._stock_limit[t, o, k])

    def _add_whole_flow(self) -> None:
        """A whole number for flows that are spread over several level groups."""
        if self.instance.request_counts != "integer":
            return
        several = np.array([service.n_groups > 1 for service in self.services])
        self._spread = np.flatnonzero(several[self._flow_service])
        if not self._spread.size:
            return
        c = [self._flow.codes[axis][self._spread] for axis in FLOW_AXES]
        sets = [len(self._builder.labels[axis]) for axis in FLOW_AXES]
        keys, self._whole_of_spread = np.unique(np.ravel_multi_index(c, sets), return_inverse=True)
        codes = dict(zip(FLOW_AXES, np.unravel_index(keys, sets), strict=True))
        upper = 2 * self._servable[codes["period"], codes["origin"], codes["class"]]
        self._builder.add_columns("whole_flow", codes, 0, upper, integer=True)

    def _add_unmet(self) -> None:
        inst = self.instance
        classes = [i for i, k in enumerate(inst.classes) if k.unmet_price_usd is not None]
        if not classes:
            return
        grid = np.meshgrid(
            np.arange(len(self.duration_s)), np.arange(len(inst.origins)), classes, indexing="ij"
        )
        t, o, k = (axis.ravel() for axis in grid)
        codes = {"period": t, "origin": o, "class": k}
        self._builder.add_columns("unmet", codes, 0, 2 * self._servable[t, o, k])

    def _add_peak(self) -> None:
        if self.instance.demand_charge_usd_per_kw is None:
            return
        n_sites = len(self.instance.sites)
        t, s = self._run.codes["period"], self._run.codes["site"]
        watts = self._facility_w
        drawn = np.multiply(watts, self._run_upper, out=np.zeros(len(watts)), where=watts > 0)
        by_period = np.bincount(t * n_sites + s, drawn / 1000, len(self.duration_s) * n_sites)
        if "starts" in self._builder.columns:
            use = self._start_use
            most = self._running_most[self._start_running]
            cell = use.period * n_sites + use.site
            by_period += np.bincount(cell, self._start_w * most / 1000, len(by_period))
        upper = by_period.reshape(-1, n_sites).max(axis=0)
        self._builder.add_columns("peak_kw", {"site": np.arange(n_sites)}, 0, 2 * upper)

    def _add_site_max(self) -> list[tuple[int, int, Term]]:
        """A column for each term that is a maximum over sites."""
        found = [
            (i, j, term)
            for i, stage in enumerate(self.instance.objective)
            for j, term in enumerate(stage.terms)
            if term.over_sites == "max" and term.weight != 0
        ]
        if not found:
            return found
        site, _ = self._scopes()
        upper = self._builder.column_upper
        reach = []
        for _, _, term in found:
            weight = np.abs(self._vector(term.metric))
            size = np.multiply(weight, upper, out=np.zeros(len(weight)), where=weight > 0)
            reach.append(np.bincount(site[site >= 0], size[site >= 0]).max(initial=0.0))
        codes = {
            "stage": np.array([i for i, _, _ in found]),
            "term": np.array([j for _, j, _ in found]),
        }
        self._builder.add_columns("site_max", codes, -np.array(reach), np.array(reach))
        return found

    def _scopes(self) -> tuple[IntArray, IntArray]:
        """Site and period of every column, -1 where it has none."""
        blocks = self._builder.columns.values()
        site = [b.codes.get("site", np.full(b.size, -1)) for b in blocks]
        period = [
            self._block_begin[b.codes["block"]]
            if "block" in b.codes
            else b.codes.get("period", np.full(b.size, -1))
            for b in blocks
        ]
        return np.concatenate(site), np.concatenate(period)

    # -- physics per column --------------------------------------------------------------------

    def _rate(self, service: Service) -> FloatArray:
        return np.array([level.requests_per_s for level in service.profile.levels])

    def _per_run(self, of_profile: Any) -> FloatArray:
        """A value a profile, for every instances column."""
        return np.array([of_profile(service) for service in self.services])[self._run_service]

    def _per_level(self, of_level: Any) -> FloatArray:
        """A value a profile and level, for every instances column."""
        deepest = max(len(service.profile.levels) for service in self.services)
        table = np.zeros((len(self.services), deepest))
        for service in self.services:
            table[service.index, : len(service.profile.levels)] = [
                of_level(service.profile, level) for level in service.profile.levels
            ]
        return table[self._run_service, self._run.codes["level"]]

    @cached_property
    def _run_use(self) -> _Use:
        """What an instance at a level uses in its period."""
        boundary = self.instance.profiles[0].power_boundary
        power = self._per_level(lambda _, level: level.power_w)
        adder = self._per_run(lambda service: service.profile.host_adder_w or 0.0)
        t, s = self._run.codes["period"], self._run.codes["site"]
        watts = energy.it_and_facility_power_w(power, boundary, self.instance.pue[t, s], adder)
        it, facility = (energy.energy_kwh(w, self._run_duration_s) for w in watts)
        return _Use(self._run, t, s, self._run_service, it, facility, self._run_duration_s)

    @cached_property
    def _start_use(self) -> _Use:
        """What a start uses, in the first period of its block."""
        p, boundary = self._start_service, self.instance.profiles[0].power_boundary
        startups = [service.profile.startup for service in self.services]
        kwh = np.array([startup.energy_kwh if startup else 0.0 for startup in startups])[p]
        seconds = self._startup_s[p]
        hosts = np.array([service.profile.host_adder_w or 0.0 for service in self.services])[p]
        t, s = self._block_begin[self._starts.codes["block"]], self._starts.codes["site"]
        it, facility = energy.it_and_facility_power_w(
            kwh, boundary, self.instance.pue[t, s], energy.energy_kwh(hosts, seconds)
        )  # energies convert as powers do
        return _Use(self._starts, t, s, p, it, facility, seconds)

    @property
    def _uses(self) -> list[_Use]:
        """Every block of columns that uses energy and GPUs."""
        return [self._run_use, *([self._start_use] if "starts" in self._builder.columns else [])]

    @cached_property
    def _facility_w(self) -> Any:
        """Facility power of an instance at a level."""
        return self._run_use.facility_kwh * energy.J_PER_KWH / self._run_duration_s

    @cached_property
    def _start_w(self) -> Any:
        """Facility power of a start, as a mean over its period."""
        use = self._start_use
        return use.facility_kwh * energy.J_PER_KWH / self.duration_s[use.period]

    @cached_property
    def _run_duration_s(self) -> FloatArray:
        return self.duration_s[self._run.codes["period"]]

    @cached_property
    def _rates(self) -> FloatArray:
        """Reference requests per second that an instance serves."""
        return self._per_level(lambda _, level: level.requests_per_s)

    @cached_property
    def _served_per_run(self) -> FloatArray:
        """Reference requests that an instance serves in a period."""
        return self._run_duration_s * self._rates

    @cached_property
    def _service_s(self) -> FloatArray:
        """Time a reference request occupies an instance of each service, 0 without a queue."""
        queues = [service.profile.queue for service in self.services]
        return np.array([queue.service_s if queue else 0.0 for queue in queues])

    @cached_property
    def _full(self) -> FloatArray:
        """Utilisation of an instance at the full load of its level, 0 without a queue."""
        return self._service_s[self._run_service] * self._rates

    @cached_property
    def _waiting_s(self) -> FloatArray:
        """Request-seconds waited on an instance, by requests waiting at a variability of 1."""
        queues = [service.profile.queue for service in self.services]
        law = [variability(q.service_cv2, q.arrival_cv2) if q else 0.0 for q in queues]
        return np.array(law)[self._run_service] * self._run_duration_s

    @cached_property
    def _gpu_type(self) -> IntArray:
        """Position of each service's GPU type."""
        types = self.instance.sets["gpu_type"]
        return np.array([types.index(service.profile.gpu_type) for service in self.services])

    @cached_property
    def _gpus(self) -> FloatArray:
        """GPUs of an instance of each service."""
        return np.array([service.profile.gpus_per_instance for service in self.services])

    @cached_property
    def _startup_s(self) -> FloatArray:
        """Time an instance of each service takes to start, 0 without a startup."""
        startups = [service.profile.startup for service in self.services]
        return np.array([startup.time_s if startup else 0.0 for startup in startups])

    def _leaf(self, name: str) -> Coefficients:
        """Coefficients of an additive metric that is no sum."""
        inst = self.instance
        custom = {metric.name: metric for metric in inst.custom_metrics}
        if name in custom:
            return self._custom(custom[name])
        if name == "ttft_warm_request_s":
            return {"flow": self._ttft_s}
        if name == "ttft_startup_request_s":
            if not self._has("startup_waits"):
                return {}
            return {"startup_waits": self._startup_s[self._wait_service]}
        if name == "ttft_queue_request_s":
            if self.curved:
                return {"filled": self._waiting_s[self._filled_run] * self.pieces.waiting}
            return {"instances": self._waiting_s * waiting_share(self._full)}
        if name == "deferral_request_s":
            begin = inst.periods.begin_s
            stock = self._builder.columns.get("deferred")
            return {"deferred": np.diff(begin)[stock.codes["period"]]} if stock else {}
        if name == "starts":
            return {"starts": np.ones(self._starts.size)} if self._has("starts") else {}
        if name == "cost_egress_usd":
            sent = np.array([k.egress_bytes_per_request for k in inst.classes]) / 1e9
            f = self._flow.codes
            return {"flow": sent[f["class"]] * inst.egress_usd_per_gb[f["origin"], f["site"]]}
        if name == "requests":
            return {"flow": np.ones(self._flow.size)}
        if name in {"unmet_requests", "unmet_usd"}:
            return self._unmet_coefficients(name)
        if name == "cost_demand_usd":
            charge = inst.demand_charge_usd_per_kw
            return {} if charge is None else {"peak_kw": np.asarray(charge)}
        return {use.block.name: self._of_use(name, use) for use in self._uses}

    def _has(self, block: str) -> bool:
        return block in self._builder.columns

    def _of_use(self, name: str, use: _Use) -> Any:
        """Coefficient of a metric of energy or GPU time for each column of a use."""
        inst, t, s = self.instance, use.period, use.site
        gpus, h = self._gpus[use.service], self._gpu_type[use.service]
        if name == "energy_kwh":
            return use.facility_kwh
        if name == "energy_it_kwh":
            return use.it_kwh
        if name == "carbon_operational_kg":
            return carbon.operational_kg(use.facility_kwh, inst.carbon_g_per_kwh[t, s])
        if name == "cost_energy_usd":
            return use.facility_kwh * inst.price_usd_per_mwh[t, s] / 1000
        if name == "water_grid_l":
            return use.facility_kwh * inst.ewif_l_per_kwh[t, s]
        if name == "gpu_h":
            return gpus * use.held_s / energy.S_PER_H
        if name == "cost_gpu_usd":
            hourly = inst.gpu_usd_per_hour
            return gpus * use.held_s / energy.S_PER_H * (0.0 if hourly is None else hourly[s, h])
        if name == "carbon_embodied_running_kg":
            kg, life = (
                np.array([getattr(gpu, field) for gpu in inst.gpu_types])[h]
                for field in ("embodied_kg", "lifetime_s")
            )
            charged = inst.embodied_charge == "running"
            return charged * carbon.embodied_kg(kg, life, gpus, use.held_s)
        evaporation, blowdown = water.evaporation_and_blowdown(
            use.it_kwh * inst.wue_l_per_kwh[t, s], inst.cycles_of_concentration[s]
        )
        return {"water_evaporation_l": evaporation, "water_blowdown_l": blowdown}[name]

    def _unmet_coefficients(self, name: str) -> Coefficients:
        if "unmet" not in self._builder.columns:
            return {}
        prices = np.array([k.unmet_price_usd or 0.0 for k in self.instance.classes])
        codes = self._builder.columns["unmet"].codes["class"]
        return {"unmet": prices[codes] if name == "unmet_usd" else np.ones(len(codes))}

    @cached_property
    def _ttft_s(self) -> FloatArray:
        """Mean time to first token of each flow column."""
        inst, f = self.instance, self._flow.codes
        n_groups = len(self._builder.labels["group"])
        prefill = np.zeros((len(self.services), n_groups, len(inst.classes)))
        for service in self.services:
            for group in range(service.n_groups):
                level = service.first_level(group)
                prefill[service.index, group, service.classes] = [
                    prefill_statistic(inst.classes[k], service.profile, level, "mean")
                    for k in service.classes
                ]
        network = inst.rtt_s[f["origin"], f["site"]] + inst.last_mile_s[f["origin"]]
        return network + prefill[self._flow_service, f["group"], f["class"]]

    def _custom(self, metric: Any) -> Coefficients:
        result: Coefficients = {}
        for block, array, extra in (
            (self._flow, metric.per_request, 1.0),
            (self._run, metric.per_instance_s, self._run_duration_s),
        ):
            if array is not None:
                values = array.values[tuple(block.codes[axis] for axis in array.axes)]
                result[block.name] = np.broadcast_to(values * extra, (block.size,))
        return result

    def _vector(self, metric: str) -> FloatArray:
        """Coefficients of a metric over every column so far."""
        if metric == "ttft_mean_s":
            mean: FloatArray = self._vector("ttft_request_s") / self.instance.demand_requests.sum()
            return mean
        vector: FloatArray = np.zeros(self._builder.n_columns)
        for leaf in leaves(metric):
            for name, values in self._leaf(leaf).items():
                vector[self._builder.columns[name].slice] += values
        return vector

    # -- rows ----------------------------------------------------------------------------------

    def _add_rows(self) -> None:
        self._add_demand()
        self._add_load()
        self._add_whole()
        if self.instance.counts_instances:
            self._add_running_rows()
            self._add_instance_limits()
        if self._has("starts"):
            self._add_start_rows()
        self._add_gpus()
        self._add_power()
        self._add_budgets()
        self._add_site_max_rows()
        if self.instance.balance == "even":
            self._add_even_balance()

    def _add_demand(self) -> None:
        demand = self.instance.demand_requests
        codes = dict(
            zip(("period", "origin", "class"), np.indices(demand.shape).reshape(3, -1), strict=True)
        )
        rows = self._builder.add_rows("demand", codes, demand.ravel(), demand.ravel())
        for name in ("flow", "unmet", "deferred"):
            if block := self._builder.columns.get(name):
                c = block.codes
                at = np.ravel_multi_index((c["period"], c["origin"], c["class"]), demand.shape)
                self._builder.add_entries(rows.start + at, block.positions, 1.0)
        if stock := self._builder.columns.get("deferred"):  # what is held back arrives later
            c = stock.codes
            at = np.ravel_multi_index((c["period"] + 1, c["origin"], c["class"]), demand.shape)
            self._builder.add_entries(rows.start + at, stock.positions, -1.0)
            limit = self._stock_limit[c["period"], c["origin"], c["class"]]
            rows = self._builder.add_rows("deadline", c, -np.inf, limit)
            self._builder.add_entries(rows.positions, stock.positions, 1.0)

    def _add_whole(self) -> None:
        if whole := self._builder.columns.get("whole_flow"):
            rows = self._builder.add_rows("whole", whole.codes, 0, 0)
            at = rows.start + self._whole_of_spread
            self._builder.add_entries(at, self._flow.start + self._spread, 1.0)
            self._builder.add_entries(rows.positions, whole.positions, -1.0)

    def _add_load(self) -> None:
        """Work of the flow of a group equals what its running instances serve."""
        inst, run, flow = self.instance, self._run, self._flow
        deepest = max(len(service.profile.levels) for service in self.services)
        group = np.zeros((len(self.services), deepest), dtype=np.int64)
        for service in self.services:
            group[service.index, : len(service.profile.levels)] = service.group
        sets = (len(self.duration_s), len(inst.sites), len(self.services), deepest)
        run_key = np.ravel_multi_index(
            (
                run.codes["period"],
                run.codes["site"],
                self._run_service,
                group[self._run_service, run.codes["level"]],
            ),
            sets,
        )
        keys, run_row = np.unique(run_key, return_inverse=True)
        t, s, p, g = np.unravel_index(keys, sets)
        models, modes = inst.sets["model"], inst.sets["mode"]
        n = np.array([models.index(profile.model) for profile in inst.profiles])[p]
        m = np.array([modes.index(profile.mode) for profile in inst.profiles])[p]
        codes = {"period": t, "site": s, "model": n, "mode": m, "group": g}
        least = 0 if inst.load_rule == "exact" else -np.inf
        rows = self._builder.add_rows("load", codes, least, 0)
        flow_key = np.ravel_multi_index(
            (flow.codes["period"], flow.codes["site"], self._flow_service, flow.codes["group"]),
            sets,
        )
        self._builder.add_entries(
            rows.start + np.searchsorted(keys, flow_key),
            flow.positions,
            self._work[flow.codes["class"], self._flow_service],
        )
        served, self._load_row_of_run = self._served_per_run, run_row
        if self._has("filled"):
            served = served.copy()
            served[self._curve_run] = 0.0  # their utilisation tells
            self._add_filled_rows(rows.start + run_row)
        self._builder.add_entries(rows.start + run_row, run.positions, -served)

    def _add_filled_rows(self, load_row: IntArray) -> None:
        """Instances have some utilisation each, and serve accordingly."""
        filled, at = self._filled, self._filled_run
        rate = self.pieces.utilisation / self._service_s[self._run_service[at]]
        served = self._run_duration_s[at] * rate
        self._builder.add_entries(load_row[at], filled.positions, -served)
        own = {axis: c[self._curve_run] for axis, c in self._run.codes.items()}
        rows = self._builder.add_rows("filled", own, 0, 0)
        self._builder.add_entries(rows.start + self.pieces.curve, filled.positions, 1.0)
        self._builder.add_entries(rows.positions, self._run.start + self._curve_run, -1.0)

    def _cells(self) -> tuple[Any, IntArray, IntArray]:
        """Codes of each (period, site, profile), its position in a grid, and that of every run."""
        c = self._run.codes
        shape = (len(self.duration_s), len(self.instance.sites), len(self.services))
        key = np.ravel_multi_index((c["period"], c["site"], self._run_service), shape)
        keys, first, row = np.unique(key, return_index=True, return_inverse=True)
        return {axis: c[axis][first] for axis in RUNNING_AXES}, keys, row

    def _add_running_rows(self) -> None:
        """Instances serving at levels, and those that start, are those that run."""
        codes, keys, row = self._cells()
        rows = self._builder.add_rows("running", codes, 0, 0)
        self._builder.add_entries(rows.start + row, self._run.positions, 1.0)
        shape = (len(self.duration_s), len(self.instance.sites), len(self.services))
        t, s, p = np.unravel_index(keys, shape)
        held = self._running.start + self._running_at[self._block[t], s, p]
        self._builder.add_entries(rows.positions, held, -1.0)
        if self._has("starts"):
            at = self._starts_at[self._block[t], s, p]
            begins = (self._block_begin[self._block[t]] == t) & (at >= 0)
            missing = self._start_use.held_s[at] / self.duration_s[t]
            self._builder.add_entries(
                rows.positions[begins], self._starts.start + at[begins], missing[begins]
            )

    def _add_instance_limits(self) -> None:
        entries = [
            (i, *self._limit_rows(own)) for i, own in enumerate(self.instance.instance_limits)
        ]
        if not entries:
            return
        codes = {
            "limit": np.concatenate([np.full(len(e[1]), e[0]) for e in entries]),
            "block": np.concatenate([e[2] for e in entries]),
            **{
                axis: np.concatenate([e[3][axis] for e in entries])
                for axis in ("site", "model", "mode")
            },
        }
        upper = np.concatenate([e[1] for e in entries])
        rows = self._builder.add_rows("instance_limit", codes, -np.inf, upper)
        start = rows.start
        for _, limit, _, _, row in entries:
            kept = row >= 0
            self._builder.add_entries(start + row[kept], self._running.positions[kept], 1.0)
            start += len(limit)

    def _limit_rows(self, own: InstanceLimit) -> tuple[Any, ...]:
        """Right-hand sides, blocks and places of a limit's rows, and the row of each `running`."""
        sets, c = self.instance.sets, self._running.codes
        named = [axis for axis in ("site", "model", "mode") if axis in own.limit.axes]
        n_periods = len(self.duration_s) if "period" in own.limit.axes else 1
        grid = own.limit.over(("period", *named), (n_periods, *(len(sets[a]) for a in named)))
        grid = np.broadcast_to(grid, (len(self.duration_s), *grid.shape[1:]))
        grid = np.minimum.reduceat(grid, self._block_begin, axis=0)
        place = np.ravel_multi_index((c["block"], *(c[a] for a in named)), grid.shape)
        limited = np.isfinite(grid.ravel()[place])
        cells, inverse = np.unique(place[limited], return_inverse=True)
        row = np.full(len(place), -1)
        row[limited] = inverse
        block, *at = np.unravel_index(cells, grid.shape)
        everywhere = np.full(len(cells), -1)
        places = {a: everywhere for a in ("site", "model", "mode")}
        places |= dict(zip(named, at, strict=True))
        return grid.ravel()[cells], block, places, row

    def _add_start_rows(self) -> None:
        """Starts cover the increase, and stay up for a time."""
        inst, starts, c = self.instance, self._starts, self._starts.codes
        running = self._running.start + self._start_running
        first = c["block"] == 0
        initial = np.asarray(inst.initial_instances)[c["site"], c["model"], c["mode"]]
        rows = self._builder.add_rows("start", c, -np.inf, np.where(first, initial, 0.0))
        self._builder.add_entries(rows.positions, running, 1.0)
        self._builder.add_entries(rows.positions, starts.positions, -1.0)
        before = self._running_at[c["block"] - 1, c["site"], self._start_service]
        self._builder.add_entries(
            rows.positions[~first], self._running.start + before[~first], -1.0
        )
        rows = self._builder.add_rows("min_up", c, -np.inf, 0)
        self._builder.add_entries(rows.positions, running, -1.0)
        begin = inst.periods.begin_s[self._block_begin]
        elapsed = begin[:, None] - begin[None, :]  # by block and the block of the start
        for service in self.services:
            own = np.flatnonzero(self._start_service == service.index)
            recent = (elapsed >= 0) & (elapsed < service.profile.min_up_s) | (elapsed == 0)
            at, number = np.nonzero(recent[c["block"][own]])
            column = self._starts_at[number, c["site"][own[at]], service.index]
            self._builder.add_entries(rows.start + own[at], starts.start + column, 1.0)
        if self._has("startup_waits"):
            self._add_startup_rows()

    def _add_startup_rows(self) -> None:
        """Requests that find the instances that are up full wait for those that start."""
        inst, f, w = self.instance, self._flow.codes, self._waits.codes
        seconds = self._startup_s
        share = seconds[self._flow_service] / self.duration_s[f["period"]]
        block = self._block[f["period"]]
        during = np.flatnonzero((self._block_begin[block] == f["period"]) & (share > 0))
        block, site, p = block[during], f["site"][during], self._flow_service[during]
        k, columns, share = f["class"][during], self._flow.start + during, share[during]

        rows = self._builder.add_rows("startup_share", w, -np.inf, 0)
        self._builder.add_entries(rows.positions, self._waits.positions, 1.0)
        sets = (len(self._block_begin), len(inst.classes), len(inst.sites), len(self.services))
        number = np.full(sets, -1)
        number[w["block"], w["class"], w["site"], self._wait_service] = np.arange(rows.size)
        self._builder.add_entries(rows.start + number[block, k, site, p], columns, -share)

        slow = np.flatnonzero(seconds[self._start_service] > 0)
        codes = {axis: c[slow] for axis, c in self._starts.codes.items()}
        rows = self._builder.add_rows("startup_wait", codes, -np.inf, 0)
        number = np.full(self._starts_at.shape, -1)
        number[codes["block"], codes["site"], self._start_service[slow]] = np.arange(rows.size)
        work = self._work
        self._builder.add_entries(rows.start + number[block, site, p], columns, share * work[k, p])
        self._builder.add_entries(
            rows.start + number[w["block"], w["site"], self._wait_service],
            self._waits.positions,
            -work[w["class"], self._wait_service],
        )
        full = np.array([self._rate(service)[-1] for service in self.services]) * seconds
        capacity = full[self._start_service[slow]]
        running = self._running.start + self._start_running[slow]
        self._builder.add_entries(rows.positions, running, -capacity)
        self._builder.add_entries(rows.positions, self._starts.start + slow, capacity)

    @cached_property
    def _work(self) -> FloatArray:
        """Reference requests of a request, by class and profile."""
        profiles = self.instance.profiles
        return np.array(
            [[k.work_per_request.get(q.mode, 0.0) for q in profiles] for k in self.instance.classes]
        )

    def _add_gpus(self) -> None:
        used = np.unique(self._gpu_type[self._run_service])
        limited = np.isfinite(self.instance.gpus)
        limited[:, :, np.setdiff1d(np.arange(limited.shape[2]), used)] = False
        cells = np.nonzero(limited)
        codes = dict(zip(("period", "site", "gpu_type"), cells, strict=True))
        rows = self._builder.add_rows("gpus", codes, -np.inf, self.instance.gpus[cells])
        number = np.full(limited.shape, -1)
        number[cells] = np.arange(rows.size)
        if self.instance.counts_instances:  # those that start hold their GPUs too
            c, service = self._running.codes, self._running_service
            at, t = np.nonzero(c["block"][:, None] == self._block)
            columns, site, service = self._running.start + at, c["site"][at], service[at]
        else:
            t, site, service = self._run.codes["period"], self._run.codes["site"], self._run_service
            columns = self._run.positions
        row = number[t, site, self._gpu_type[service]]
        kept = row >= 0
        self._builder.add_entries(rows.start + row[kept], columns[kept], self._gpus[service[kept]])

    def _add_power(self) -> None:
        inst = self.instance
        shape = (len(self.duration_s), len(inst.sites))
        drawn = [(self._run_use, self._facility_w)]
        if self._has("starts"):
            drawn.append((self._start_use, self._start_w))
        if inst.facility_power_cap_w is not None:
            cells = np.nonzero(np.isfinite(inst.facility_power_cap_w))
            codes = dict(zip(("period", "site"), cells, strict=True))
            limits = inst.facility_power_cap_w[cells]
            rows = self._builder.add_rows("power_cap", codes, -np.inf, limits)
            number = np.full(shape, -1)
            number[cells] = np.arange(rows.size)
            for use, watts in drawn:
                row = number[use.period, use.site]
                kept = row >= 0
                self._builder.add_entries(
                    rows.start + row[kept], use.block.positions[kept], watts[kept]
                )
        if peak := self._builder.columns.get("peak_kw"):
            t, s = np.indices(shape).reshape(2, -1)
            rows = self._builder.add_rows("peak", {"period": t, "site": s}, -np.inf, 0)
            for use, watts in drawn:
                row = rows.start + use.period * shape[1] + use.site
                self._builder.add_entries(row, use.block.positions, watts / 1000)
            self._builder.add_entries(rows.positions, peak.start + s, -1.0)

    def _add_budgets(self) -> None:
        shape = (len(self.duration_s), len(self.instance.sites))
        entries = list(self._budget_entries(shape))
        if not entries:
            return
        codes = {
            "budget": np.concatenate([np.full(len(e[1]), e[0]) for e in entries]),
            "period": np.concatenate([e[2] for e in entries]),
            "site": np.concatenate([e[3] for e in entries]),
        }
        rows = self._builder.add_rows(
            "budget", codes, -np.inf, np.concatenate([e[1] for e in entries])
        )
        start = rows.start
        for _, limit, _, _, row, columns, values in entries:
            self._builder.add_entries(start + row, columns, values)
            start += len(limit)

    def _budget_entries(self, shape: tuple[int, int]) -> Iterator[tuple[Any, ...]]:
        """For each budget: its rows (limit, period, site; -1 for a whole axis), coefficients."""
        for b, budget in enumerate(self.instance.budgets):
            axes = budget.limit.axes
            sizes = [
                n if axis in axes else 1 for axis, n in zip(("period", "site"), shape, strict=True)
            ]
            limit = budget.limit.over(("period", "site"), sizes)
            cells = np.nonzero(np.isfinite(limit))
            number = np.full(limit.shape, -1)
            number[cells] = np.arange(len(cells[0]))
            mean = budget.metric == "ttft_mean_s"
            vector = self._vector("ttft_request_s" if mean else budget.metric)
            served = np.zeros(len(vector))
            served[self._flow.slice] = mean
            columns = np.flatnonzero((vector != 0) | (served > 0))
            t = self._period[columns] if "period" in axes else np.zeros_like(columns)
            s = self._site[columns] if "site" in axes else np.zeros_like(columns)
            row = number[t, s]
            columns, row, t, s = (a[row >= 0] for a in (columns, row, t, s))
            values = vector[columns] - (limit[t, s] * served[columns] if mean else 0.0)
            named = [
                c if axis in axes else np.full_like(c, -1)
                for axis, c in zip(("period", "site"), cells, strict=True)
            ]
            right = np.zeros(len(cells[0])) if mean else limit[cells]
            yield b, right, *named, row, columns, values

    def _add_site_max_rows(self) -> None:
        if not self._maxima:
            return
        n_sites = len(self.instance.sites)
        z = self._builder.columns["site_max"]
        codes = {
            "stage": np.repeat(z.codes["stage"], n_sites),
            "term": np.repeat(z.codes["term"], n_sites),
            "site": np.tile(np.arange(n_sites), z.size),
        }
        rows = self._builder.add_rows("site_max", codes, -np.inf, 0)
        self._builder.add_entries(rows.positions, np.repeat(z.positions, n_sites), -1.0)
        for number, (_, _, term) in enumerate(self._maxima):
            vector = self._vector(term.metric)
            columns = np.flatnonzero(vector)
            at = rows.start + number * n_sites + self._site[columns]
            self._builder.add_entries(at, columns, vector[columns])

    def _add_even_balance(self) -> None:
        run, c = self._run, self._run.codes
        codes, _, row = self._cells()
        rows = self._builder.add_rows("one_level", codes, -np.inf, 1)
        self._builder.add_entries(rows.start + row, self._used.positions, 1.0)
        rows = self._builder.add_rows("level_used", c, -np.inf, 0)
        self._builder.add_entries(rows.positions, run.positions, 1.0)
        self._builder.add_entries(rows.positions, self._used.positions, -self._run_upper)

    def term_vector(self, term: Term) -> FloatArray:
        """Coefficients of a term of the objective over the columns, its weight included."""
        factor = term.weight / term.scale
        if term.over_sites == "max":
            vector = np.zeros(self._builder.n_columns)
            for number, (_, _, own) in enumerate(self._maxima):
                if own is term:
                    vector[self._builder.columns["site_max"].start + number] = factor
            return vector
        share = len(self.instance.sites) if term.over_sites == "mean" else 1
        return np.asarray(factor / share * self._vector(term.metric))

    def _stage(self, index: int) -> StageObjective:
        stage = self.instance.objective[index]
        c = np.zeros(self._builder.n_columns)
        for j, term in enumerate(stage.terms):
            if term.over_sites != "max":
                c += self.term_vector(term)
                continue
            for number, (i, jj, _) in enumerate(self._maxima):
                if (i, jj) == (index, j):
                    column = self._builder.columns["site_max"].start + number
                    c[column] += term.weight / term.scale
        return StageObjective(c, stage.tolerance)


def _joined_in_order(parts: list[list[Any]]) -> list[Any]:
    """Columns of several parts, one after the other, in stable order of the first column."""
    joined: list[Any] = [np.concatenate(column) for column in zip(*parts, strict=True)]
    order = np.argsort(joined[0], kind="stable")
    return [column[order] for column in joined]
