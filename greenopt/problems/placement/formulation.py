"""Placement as sparse arrays: the fast statement of formulations/placement.md.

Vectorised over periods, origins and sites; the only Python loops run over classes, profiles, level
groups, objective terms and budgets.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from greenopt.labelled import FloatArray, IntArray, LabelledArray
from greenopt.model import Block, Builder, Model, StageObjective
from greenopt.physics import carbon, energy, kv_cache, latency, water
from greenopt.problems.placement.instance import (
    FLOW_AXES,
    PlacementInstance,
    Profile,
    RequestClass,
    Statistic,
    Term,
)
from greenopt.problems.placement.metrics import METRICS, SITELESS, leaves

SLACK = 1e-9
"""Relative slack of latency and memory limits, so that equality in the data counts."""

ROW_UNITS = {
    "demand": "request",
    "gpus": "GPU",
    "power_cap": "W",
    "peak": "kW",
    "site_max": "unit of the metric",
    "one_level": "group",
    "level_used": "instance",
}
"""What one unit of each row's right-hand side is."""

Coefficients = dict[str, FloatArray]
"""Coefficients of a metric by column block."""


def prefill_statistic(k: RequestClass, profile: Profile, level: int, name: Statistic) -> float:
    """Prefill time of a class at a level: its mean, or at a statistic of the prompt length."""
    grid, curve = profile.prefill_tokens, profile.levels[level].prefill_s
    if name == "mean":
        times = latency.prefill_s(k.prompt_tokens.values, grid, curve)
        return float(np.dot(times, k.prompt_tokens.probabilities))
    return float(latency.prefill_s(k.prompt_tokens.statistic(name), grid, curve))


@dataclass(frozen=True, eq=False)
class Service:
    """Which class may run at which level of one profile, and its level groups.

    Attributes
    ----------
    index : int
        Position in `instance.profiles`.
    profile : Profile
        The profile.
    holds : ndarray of bool, shape (sites,)
        Sites with GPUs of the profile's type.
    classes : ndarray of int
        Positions of the classes of the profile's model.
    eligible : ndarray of bool, shape (classes, levels, origins, sites)
        By latency and KV memory (reachability apart).
    group : ndarray of int, shape (levels,)
        Level group of each level.
    """

    index: int
    profile: Profile
    holds: Any
    classes: IntArray
    eligible: Any
    group: IntArray

    @property
    def n_groups(self) -> int:
        """Number of level groups."""
        return int(self.group.max()) + 1

    def first_level(self, group: int) -> int:
        """Lowest level of a group; it stands for all of them where latency is asked for."""
        return int(np.flatnonzero(self.group == group)[0])


def services(inst: PlacementInstance) -> list[Service]:
    """Eligibility and level groups of every profile."""
    gpu_type = {name: i for i, name in enumerate(inst.sets["gpu_type"])}
    mode = {name: i for i, name in enumerate(inst.modes)}
    result = []
    for index, profile in enumerate(inst.profiles):
        holds = inst.gpus[:, :, gpu_type[profile.gpu_type]].max(axis=0) > 0
        classes = np.array([i for i, k in enumerate(inst.classes) if k.model == profile.model], int)
        eligible = np.array(
            [
                [_eligible(inst, inst.classes[k], profile, level) for level in range(_n(profile))]
                for k in classes
            ],
            dtype=bool,
        ).reshape(len(classes), _n(profile), len(inst.origins), len(inst.sites))
        offered = eligible & holds
        if inst.reachable is not None:
            reach: Any = inst.reachable[:, :, :, :, mode[profile.mode]].any(axis=0)
            offered &= np.moveaxis(reach[:, classes], 0, 1)[:, None]
        result.append(Service(index, profile, holds, classes, eligible, _groups(profile, offered)))
    return result


def _n(profile: Profile) -> int:
    return len(profile.levels)


def _eligible(inst: PlacementInstance, k: RequestClass, profile: Profile, level: int) -> Any:
    """Whether the level serves the class within its limits, by origin and site."""
    allowed = np.ones((len(inst.origins), len(inst.sites)), dtype=bool)
    measured = profile.levels[level]
    if k.ttft_limit_s is not None:
        prefill = prefill_statistic(k, profile, level, k.ttft_statistic)
        ttft = inst.rtt_s + inst.last_mile_s[:, None] + prefill
        allowed &= ttft <= k.ttft_limit_s * (1 + SLACK)
    if k.tbt_limit_s is not None:
        allowed &= measured.itl_s[k.tbt_statistic] <= k.tbt_limit_s * (1 + SLACK)
    return allowed & _fits_memory(inst, k, profile, level)


def _fits_memory(inst: PlacementInstance, k: RequestClass, profile: Profile, level: int) -> bool:
    """Whether the batch that Little's law implies fits beside the weights."""
    model = next(n for n in inst.models if n.name == k.model)
    gpu = next(h for h in inst.gpu_types if h.name == profile.gpu_type)
    if model.weight_bytes is None or model.kv_bytes_per_token is None or gpu.memory_bytes is None:
        return True
    measured = profile.levels[level]
    tokens_out = k.output_tokens.mean
    residence = prefill_statistic(k, profile, level, "mean") + tokens_out * measured.itl_s["mean"]
    rate = measured.requests_per_s / k.work_per_request[profile.mode]
    batch = kv_cache.batch_by_littles_law(rate, residence)
    room = kv_cache.kv_capacity_bytes(
        profile.gpus_per_instance, gpu.memory_bytes, gpu.usable_memory_fraction, model.weight_bytes
    )
    need = batch * (k.prompt_tokens.mean + tokens_out) * model.kv_bytes_per_token
    return bool(need <= room * (1 + SLACK))


def _groups(profile: Profile, offered: Any) -> IntArray:
    """Number the groups of levels that latency does not tell apart, by their lowest level."""
    known: dict[tuple[bytes, tuple[float, ...]], int] = {}
    keys = [
        (offered[:, level].tobytes(), measured.prefill_s)
        for level, measured in enumerate(profile.levels)
    ]
    return np.array([known.setdefault(key, len(known)) for key in keys], dtype=np.int64)


class Formulation:
    """The model of one instance, with what is needed to read its solution back.

    When infeasibility is explained, the rows in the first entry of `elastic_rows` that suffices may
    give way: budgets are questioned before demand is.

    Parameters
    ----------
    instance : PlacementInstance
        What to formulate.

    Attributes
    ----------
    model : greenopt.model.Model
        Sparse arrays with named blocks.
    """

    elastic_rows = (("budget",), ("demand", "budget"))

    def __init__(self, instance: PlacementInstance) -> None:
        self.instance = instance
        self.services = services(instance)
        self.duration_s = np.array(instance.periods.duration_s)
        labels = dict(instance.sets)
        labels["group"] = tuple(str(g) for g in range(max(s.n_groups for s in self.services)))
        labels["stage"] = tuple(str(i) for i in range(len(instance.objective)))
        labels["term"] = tuple(
            str(j) for j in range(max(len(stage.terms) for stage in instance.objective))
        )
        labels["budget"] = tuple(budget.name for budget in instance.budgets)
        self._builder = Builder(instance.name, labels)
        self._flow, self._flow_service = self._add_flow()
        self._run, self._run_service, self._run_upper = self._add_instances()
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
        return self._builder.add_columns("flow", codes, 0, 2 * inst.demand_requests[t, o, k]), p

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
                    np.arange(len(self.duration_s)), sites, np.arange(_n(profile)), indexing="ij"
                )
            )
            fixed = (sets["model"].index(profile.model), sets["mode"].index(profile.mode))
            n, m, p = (np.full(len(t), v) for v in (*fixed, service.index))
            parts.append([t, s, n, m, level, p, self._most_instances(service, t, s, level)])
        joined: list[Any] = [np.concatenate(c) for c in zip(*parts, strict=True)]
        order = np.argsort(joined[0], kind="stable")
        t, s, n, m, level, p, upper = (column[order] for column in joined)
        codes = {"period": t, "site": s, "model": n, "mode": m, "level": level}
        return self._builder.add_columns("instances", codes, 0, 2 * upper), p, upper

    def _most_instances(self, service: Service, t: Any, s: Any, level: Any) -> Any:
        """GPUs allow so many, and demand needs no more."""
        inst, profile = self.instance, service.profile
        h = inst.sets["gpu_type"].index(profile.gpu_type)
        work = np.array([inst.classes[k].work_per_request[profile.mode] for k in service.classes])
        needed = inst.demand_requests[:, :, service.classes].sum(axis=1) @ work
        served = self.duration_s[t] * self._rate(service)[level]
        with np.errstate(divide="ignore", invalid="ignore"):
            by_demand = np.where(served > 0, needed[t] / served, np.inf)
        return np.minimum(inst.gpus[t, s, h] / profile.gpus_per_instance, by_demand)

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
        self._builder.add_columns("unmet", codes, 0, 2 * inst.demand_requests[t, o, k])

    def _add_peak(self) -> None:
        if self.instance.demand_charge_usd_per_kw is None:
            return
        n_sites = len(self.instance.sites)
        t, s = self._run.codes["period"], self._run.codes["site"]
        watts = self._facility_w
        drawn = np.multiply(watts, self._run_upper, out=np.zeros(len(watts)), where=watts > 0)
        by_period = np.bincount(t * n_sites + s, drawn / 1000, len(self.duration_s) * n_sites)
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

        def codes(axis: str) -> IntArray:
            parts = [
                block.codes.get(axis, np.full(block.size, -1))
                for block in self._builder.columns.values()
            ]
            return np.concatenate(parts)

        return codes("site"), codes("period")

    # -- physics per column --------------------------------------------------------------------

    def _rate(self, service: Service) -> FloatArray:
        return np.array([level.requests_per_s for level in service.profile.levels])

    def _per_run(self, of_profile: Any) -> FloatArray:
        """A value a profile, for every instances column."""
        return np.array([of_profile(service) for service in self.services])[self._run_service]

    def _per_level(self, of_level: Any) -> FloatArray:
        """A value a profile and level, for every instances column."""
        deepest = max(_n(service.profile) for service in self.services)
        table = np.zeros((len(self.services), deepest))
        for service in self.services:
            table[service.index, : _n(service.profile)] = [
                of_level(service.profile, level) for level in service.profile.levels
            ]
        return table[self._run_service, self._run.codes["level"]]

    @cached_property
    def _it_and_facility_w(self) -> tuple[Any, Any]:
        boundary = self.instance.profiles[0].power_boundary
        power = self._per_level(lambda _, level: level.power_w)
        adder = self._per_run(lambda service: service.profile.host_adder_w or 0.0)
        pue = self.instance.pue[self._run.codes["period"], self._run.codes["site"]]
        return energy.it_and_facility_power_w(power, boundary, pue, adder)

    @property
    def _facility_w(self) -> Any:
        return self._it_and_facility_w[1]

    @cached_property
    def _run_duration_s(self) -> FloatArray:
        return self.duration_s[self._run.codes["period"]]

    @cached_property
    def _served_per_run(self) -> FloatArray:
        """Reference requests that an instance serves in a period."""
        return self._run_duration_s * self._per_level(lambda _, level: level.requests_per_s)

    @cached_property
    def _run_gpus(self) -> FloatArray:
        return self._per_run(lambda service: service.profile.gpus_per_instance)

    def _leaf(self, name: str) -> Coefficients:
        """Coefficients of an additive metric that is no sum."""
        inst = self.instance
        custom = {metric.name: metric for metric in inst.custom_metrics}
        if name in custom:
            return self._custom(custom[name])
        if name in {"ttft_request_s", "ttft_mean_s"}:
            whole = 1.0 if name == "ttft_request_s" else 1.0 / inst.demand_requests.sum()
            return {"flow": self._ttft_s * whole}
        if name == "cost_egress_usd":
            sent = np.array([k.egress_bytes_per_request for k in inst.classes]) / 1e9
            f = self._flow.codes
            return {"flow": sent[f["class"]] * inst.egress_usd_per_gb[f["origin"], f["site"]]}
        if name == "requests":
            return {"flow": np.ones(self._flow.size)}
        if name in SITELESS:
            return self._unmet_coefficients(name)
        if name == "cost_demand_usd":
            charge = inst.demand_charge_usd_per_kw
            return {} if charge is None else {"peak_kw": np.asarray(charge)}
        return {"instances": self._per_instance(name)}

    def _per_instance(self, name: str) -> Any:
        """Coefficient of one running instance in a period."""
        inst = self.instance
        t, s = self._run.codes["period"], self._run.codes["site"]
        if name == "gpu_h":
            return self._run_gpus * self._run_duration_s / energy.S_PER_H
        if name == "cost_gpu_usd":
            if inst.gpu_usd_per_hour is None:
                return np.zeros(self._run.size)
            return self._per_instance("gpu_h") * inst.gpu_usd_per_hour[s, self._run_gpu_type]
        if name == "carbon_embodied_running_kg":
            return self._embodied_kg()
        it, facility = (energy.energy_kwh(w, self._run_duration_s) for w in self._it_and_facility_w)
        if name == "energy_kwh":
            return facility
        if name == "energy_it_kwh":
            return it
        if name == "carbon_operational_kg":
            return carbon.operational_kg(facility, inst.carbon_g_per_kwh[t, s])
        if name == "cost_energy_usd":
            return facility * inst.price_usd_per_mwh[t, s] / 1000
        if name == "water_grid_l":
            return facility * inst.ewif_l_per_kwh[t, s]
        evaporation, blowdown = water.evaporation_and_blowdown(
            it * inst.wue_l_per_kwh[t, s], inst.cycles_of_concentration[s]
        )
        return {"water_evaporation_l": evaporation, "water_blowdown_l": blowdown}[name]

    @cached_property
    def _run_gpu_type(self) -> IntArray:
        types = self.instance.sets["gpu_type"]
        return np.array([types.index(s.profile.gpu_type) for s in self.services])[self._run_service]

    def _embodied_kg(self) -> Any:
        if self.instance.embodied_charge == "installed":
            return np.zeros(self._run.size)
        kg = np.array([gpu.embodied_kg for gpu in self.instance.gpu_types])[self._run_gpu_type]
        life = np.array([gpu.lifetime_s for gpu in self.instance.gpu_types])[self._run_gpu_type]
        return carbon.embodied_kg(kg, life, self._run_gpus, self._run_duration_s)

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
        vector = np.zeros(self._builder.n_columns)
        for leaf in leaves(metric):
            for name, values in self._leaf(leaf).items():
                vector[self._builder.columns[name].slice] += values
        return vector

    # -- rows ----------------------------------------------------------------------------------

    def _add_rows(self) -> None:
        self._add_demand()
        self._add_load()
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
        for name in ("flow", "unmet"):
            if block := self._builder.columns.get(name):
                c = block.codes
                at = np.ravel_multi_index((c["period"], c["origin"], c["class"]), demand.shape)
                self._builder.add_entries(rows.start + at, _positions(block), 1.0)

    def _add_load(self) -> None:
        """Work of the flow of a group equals what its running instances serve."""
        inst, run, flow = self.instance, self._run, self._flow
        deepest = max(_n(service.profile) for service in self.services)
        group = np.zeros((len(self.services), deepest), dtype=np.int64)
        for service in self.services:
            group[service.index, : _n(service.profile)] = service.group
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
        rows = self._builder.add_rows("load", codes, 0, 0)
        flow_key = np.ravel_multi_index(
            (flow.codes["period"], flow.codes["site"], self._flow_service, flow.codes["group"]),
            sets,
        )
        work = np.array(
            [[k.work_per_request.get(q.mode, 0.0) for q in inst.profiles] for k in inst.classes]
        )
        self._builder.add_entries(
            rows.start + np.searchsorted(keys, flow_key),
            _positions(flow),
            work[flow.codes["class"], self._flow_service],
        )
        self._builder.add_entries(rows.start + run_row, _positions(run), -self._served_per_run)
        self._load_row_of_run = run_row

    def _add_gpus(self) -> None:
        used = np.unique(self._run_gpu_type)
        limited = np.isfinite(self.instance.gpus)
        limited[:, :, np.setdiff1d(np.arange(limited.shape[2]), used)] = False
        cells = np.nonzero(limited)
        codes = dict(zip(("period", "site", "gpu_type"), cells, strict=True))
        rows = self._builder.add_rows("gpus", codes, -np.inf, self.instance.gpus[cells])
        number = np.full(limited.shape, -1)
        number[cells] = np.arange(rows.size)
        c = self._run.codes
        row = number[c["period"], c["site"], self._run_gpu_type]
        kept = row >= 0
        self._builder.add_entries(
            rows.start + row[kept], _positions(self._run)[kept], self._run_gpus[kept]
        )

    def _add_power(self) -> None:
        inst, c = self.instance, self._run.codes
        shape = (len(self.duration_s), len(inst.sites))
        if inst.facility_power_cap_w is not None:
            cells = np.nonzero(np.isfinite(inst.facility_power_cap_w))
            rows = self._builder.add_rows(
                "power_cap",
                {"period": cells[0], "site": cells[1]},
                -np.inf,
                inst.facility_power_cap_w[cells],
            )
            number = np.full(shape, -1)
            number[cells] = np.arange(rows.size)
            row = number[c["period"], c["site"]]
            kept = row >= 0
            self._builder.add_entries(
                rows.start + row[kept], _positions(self._run)[kept], self._facility_w[kept]
            )
        if peak := self._builder.columns.get("peak_kw"):
            t, s = np.indices(shape).reshape(2, -1)
            rows = self._builder.add_rows("peak", {"period": t, "site": s}, -np.inf, 0)
            row = rows.start + c["period"] * shape[1] + c["site"]
            self._builder.add_entries(row, _positions(self._run), self._facility_w / 1000)
            self._builder.add_entries(_positions(rows), peak.start + s, -1.0)

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
        self._budget_sizes = np.concatenate([e[7] for e in entries])
        start = rows.start
        for _, limit, _, _, row, columns, values, _ in entries:
            self._builder.add_entries(start + row, columns, values)
            start += len(limit)

    def _budget_entries(self, shape: tuple[int, int]) -> Iterator[tuple[Any, ...]]:
        """For each budget: its rows (limit, period, site; -1 for a whole axis), coefficients, size.

        The size is what a shortfall is measured against: the limit, or for a mean the limit times
        all the requests there are.
        """
        demand = self.instance.demand_requests.sum(axis=(1, 2))
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
            columns = _positions(self._flow) if mean else np.flatnonzero(vector)
            t = self._period[columns] if "period" in axes else np.zeros_like(columns)
            s = self._site[columns] if "site" in axes else np.zeros_like(columns)
            row = number[t, s]
            columns, row, t, s = (a[row >= 0] for a in (columns, row, t, s))
            values = vector[columns] - (limit[t, s] if mean else 0.0)
            named = [
                c if axis in axes else np.full_like(c, -1)
                for axis, c in zip(("period", "site"), cells, strict=True)
            ]
            right = np.zeros(len(cells[0])) if mean else limit[cells]
            there = demand[cells[0]] if "period" in axes else demand.sum()
            size = np.maximum(np.abs(limit[cells]) * (there if mean else 1.0), 1e-300)
            yield b, right, *named, row, columns, values, size

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
        self._builder.add_entries(_positions(rows), np.repeat(_positions(z), n_sites), -1.0)
        for number, (_, _, term) in enumerate(self._maxima):
            vector = self._vector(term.metric)
            columns = np.flatnonzero(vector)
            at = rows.start + number * n_sites + self._site[columns]
            self._builder.add_entries(at, columns, vector[columns])

    def _add_even_balance(self) -> None:
        run, c = self._run, self._run.codes
        shape = (len(self.duration_s), len(self.instance.sites), len(self.services))
        key = np.ravel_multi_index((c["period"], c["site"], self._run_service), shape)
        _, first, row = np.unique(key, return_index=True, return_inverse=True)
        codes = {axis: c[axis][first] for axis in ("period", "site", "model", "mode")}
        rows = self._builder.add_rows("one_level", codes, -np.inf, 1)
        self._builder.add_entries(rows.start + row, _positions(self._used), 1.0)
        rows = self._builder.add_rows("level_used", c, -np.inf, 0)
        self._builder.add_entries(_positions(rows), _positions(run), 1.0)
        self._builder.add_entries(_positions(rows), _positions(self._used), -self._run_upper)

    def _stage(self, index: int) -> StageObjective:
        stage = self.instance.objective[index]
        c = np.zeros(self._builder.n_columns)
        for j, term in enumerate(stage.terms):
            factor = term.weight / term.scale
            if term.over_sites == "max":
                for number, (i, jj, _) in enumerate(self._maxima):
                    if (i, jj) == (index, j):
                        c[self._builder.columns["site_max"].start + number] += factor
            else:
                share = len(self.instance.sites) if term.over_sites == "mean" else 1
                c += factor / share * self._vector(term.metric)
        return StageObjective(c, stage.tolerance)

    # -- back ----------------------------------------------------------------------------------

    def decode(self, x: FloatArray) -> dict[str, LabelledArray]:
        """The decision in the problem's own terms: flow by level, running instances, unmet.

        The flow of a group is spread over its levels in proportion to the load they serve, the
        same for every class: latency does not tell the levels of a group apart.
        """
        x = np.maximum(x, 0.0)
        result = {
            "flow": self._flow_by_level(x),
            "instances": self.model.pick(self._run, "instances", x),
        }
        if unmet := self.model.columns.get("unmet"):
            result["unmet"] = self.model.pick(unmet, "requests", x)
        return result

    def _flow_by_level(self, x: FloatArray) -> LabelledArray:
        f, sets = self._flow.codes, self.instance.sets
        value, share = x[self._flow.slice], self._share_of_group(x)
        codes, amounts = [], []
        for service in self.services:
            for level, group in enumerate(service.group):
                here = np.flatnonzero(
                    (self._flow_service == service.index) & (f["group"] == group) & (value > 0)
                )
                part = value[here] * share[f["period"][here], f["site"][here], service.index, level]
                kept = here[part > 0]
                codes.append(
                    np.array([*(f[a][kept] for a in FLOW_AXES), np.full(len(kept), level)])
                )
                amounts.append(part[part > 0])
        axes = (*FLOW_AXES, "level")
        every, total = np.concatenate(codes, axis=1), np.concatenate(amounts)
        order = np.lexsort(every[::-1])
        labels = {axis: sets[axis] for axis in axes}
        return LabelledArray("flow", "requests", labels, every[:, order], total[order])

    def _share_of_group(self, x: FloatArray) -> FloatArray:
        """Share of its group's load that each level serves, by period, site, profile, level."""
        c = self._run.codes
        served = x[self._run.slice] * self._served_per_run
        by_group = np.bincount(self._load_row_of_run, served)[self._load_row_of_run]
        sets = self.instance.sets
        shape = (len(sets["period"]), len(sets["site"]), len(self.services), len(sets["level"]))
        table = np.zeros(shape)
        table[c["period"], c["site"], self._run_service, c["level"]] = np.divide(
            served, by_group, out=np.zeros_like(served), where=served > 0
        )
        return table

    def marginals_of(self, model: Model, row_dual: FloatArray) -> dict[str, LabelledArray]:
        """Row multipliers by name; those of `load` rows by level, as the plain statement has them.

        Parameters
        ----------
        model : Model
            This formulation's model, perhaps with rows that keep earlier stages.
        row_dual : ndarray, shape (n_rows,)
            Multipliers of its rows.
        """
        result: dict[str, LabelledArray] = {}
        for name, block in model.rows.items():
            if name == "budget":
                result |= self._by_budget(row_dual, "objective per {}")
            elif not block.codes:  # the row that keeps an earlier stage
                codes = np.zeros((0, 1), dtype=np.int64)
                unit = "objective per unit of the stage"
                result[name] = LabelledArray(name, unit, {}, codes, row_dual[block.slice])
            elif name != "load":
                result[name] = self.model.pick(block, f"objective per {ROW_UNITS[name]}", row_dual)
        load = row_dual[self.model.rows["load"].slice][self._load_row_of_run]
        by_run = np.zeros(self.model.matrix.shape[1])
        by_run[self._run.slice] = load
        result["load"] = self.model.pick(
            self._run, "objective per reference request", by_run, name="load"
        )
        return result

    def _by_budget(self, row_values: FloatArray, unit: str) -> dict[str, LabelledArray]:
        """Values on budget rows, one array a budget over the axes its limit has.

        A mean-TTFT budget is a row in request-seconds, so its values are too.
        """
        block = self.model.rows["budget"]
        values, sets = row_values[block.slice], self.instance.sets
        result = {}
        for b, budget in enumerate(self.instance.budgets):
            rows = np.flatnonzero((block.codes["budget"] == b) & (values != 0))
            axes = [str(a) for a in ("period", "site") if a in budget.limit.axes]
            codes = np.array([block.codes[axis][rows] for axis in axes], dtype=np.int64)
            name = f"budget.{budget.name}"
            labels = {axis: sets[axis] for axis in axes}
            own = unit.format(self._budget_unit(budget.metric))
            result[name] = LabelledArray(
                name, own, labels, codes.reshape(len(axes), len(rows)), values[rows]
            )
        return result

    def explain(self, shortfall: FloatArray) -> list[str]:
        """Say in the problem's words what the elastic model could not meet.

        Parameters
        ----------
        shortfall : ndarray, shape (n_rows,)
            By how much each row had to be relaxed.
        """
        demand = self.model.pick(self.model.rows["demand"], "requests", shortfall)
        sentences = self._explain_demand(demand.dense())
        if "budget" in self.model.rows:
            for name, array in self._by_budget(shortfall, "{}").items():
                sentences += [
                    f"{name.replace('.', ' ', 1)} ({', '.join(at) or 'in total'}) is exceeded by "
                    f"{amount:,.6g} {array.unit}"
                    for at, amount in _entries(array)
                ]
        return sentences

    @cached_property
    def row_sizes(self) -> FloatArray:
        """What a row's shortfall is measured against: its side, or for a mean its limit in sum."""
        model = self.model
        side = np.where(np.isfinite(model.row_upper), model.row_upper, model.row_lower)
        sizes = np.maximum(np.abs(np.where(np.isfinite(side), side, 0.0)), 1.0)
        if block := model.rows.get("budget"):
            sizes[block.slice] = self._budget_sizes
        return sizes

    def _budget_unit(self, metric: str) -> str:
        if metric == "ttft_mean_s":
            return "request s"
        custom = {own.name: own.unit for own in self.instance.custom_metrics}
        return custom[metric] if metric in custom else METRICS[metric].unit

    def _explain_demand(self, short: FloatArray) -> list[str]:
        """One sentence a class and origin: how much cannot be served, and why."""
        inst, sets = self.instance, self.instance.sets
        flow = self._flow.codes
        reached = np.zeros(short.shape, dtype=bool)
        reached[flow["period"], flow["origin"], flow["class"]] = True
        sentences = []
        for o, k in np.argwhere(short.any(axis=0)):
            missing = short[:, o, k]
            worst = int(missing.argmax())
            head = (
                f"class {sets['class'][k]} from {sets['origin'][o]}: {missing.sum():,.6g} requests "
                f"cannot be served in {np.count_nonzero(missing)} of {len(missing)} periods "
                f"(most in {sets['period'][worst]}: {missing[worst]:,.6g} of "
                f"{inst.demand_requests[worst, o, k]:,.6g}); "
            )
            if reached[missing > 0, o, k].all():
                sentences.append(head + "the sites and levels within its limits hold no more")
            else:
                sentences.append(head + self._why_nowhere(int(o), int(k)))
        return sentences

    def _why_nowhere(self, o: int, k: int) -> str:
        """Which limit leaves a class from an origin without any site and level."""
        inst, c = self.instance, self.instance.classes[k]
        offers = [
            (service.profile, level, service.holds)
            for service in self.services
            if k in service.classes and service.holds.any()
            for level in range(_n(service.profile))
        ]
        if not offers:
            return f"no site has GPUs for {c.model}"
        if c.ttft_limit_s is not None:
            network = inst.rtt_s[o] + inst.last_mile_s[o]
            best = min(
                float(network[holds].min()) + prefill_statistic(c, p, level, c.ttft_statistic)
                for p, level, holds in offers
            )
            if best > c.ttft_limit_s * (1 + SLACK):
                what = f"its smallest TTFT {c.ttft_statistic}"
                return f"{what} is {best:.4g} s, the limit {c.ttft_limit_s:g} s"
        if c.tbt_limit_s is not None:
            best = min(p.levels[level].itl_s[c.tbt_statistic] for p, level, _ in offers)
            if best > c.tbt_limit_s * (1 + SLACK):
                what = f"the smallest TBT {c.tbt_statistic}"
                return f"{what} is {best:.4g} s, the limit {c.tbt_limit_s:g} s"
        if not any(_fits_memory(inst, c, p, level) for p, level, _ in offers):
            return "its KV cache does not fit beside the weights at any level"
        return "no site and level is within all its limits and reachable"


def _entries(array: LabelledArray) -> Iterator[tuple[list[str], float]]:
    """Labels and value of each stored number."""
    for code, value in zip(array.codes.T, array.values, strict=True):
        yield [array.labels[a][i] for a, i in zip(array.axes, code, strict=True)], float(value)


def _positions(block: Block) -> IntArray:
    return np.arange(block.start, block.start + block.size)


def formulate(instance: PlacementInstance) -> Formulation:
    """Build the model of an instance."""
    return Formulation(instance)
