"""Placement bounds proved from the instance and given multipliers, by weak duality, no solver.

Builds the rows of formulations/placement.md itself, in their plain form (flow carries the level),
shares no code with the formulation, and repairs the multipliers first: wrong signs are clipped,
those of maxima and peaks are scaled so that these columns price out exactly, and those of demand
and deadlines are not even read, because the best ones are known: the cheapest way to serve a
request, in any period it may wait for, at the prices of everything else. Nor are those that fill
instances to points of utilisation: waiting in queues is priced on its true curve, by the tangent
that the price of load asks for. Whatever comes in, what comes out is a bound.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from greenopt.errors import Problem, SolutionError
from greenopt.labelled import LabelledArray
from greenopt.physics import energy, latency, queueing, water
from greenopt.problems.placement.instance import PlacementInstance, Profile, RequestClass

Marginals = Mapping[str, LabelledArray]

_PARTS = {
    "carbon_kg": ("carbon_operational_kg", "carbon_embodied_running_kg"),
    "water_l": ("water_evaporation_l", "water_blowdown_l", "water_grid_l"),
    "water_consumption_l": ("water_evaporation_l", "water_grid_l"),
    "cost_usd": ("cost_energy_usd", "cost_gpu_usd", "cost_egress_usd", "cost_demand_usd"),
    "ttft_request_s": ("ttft_warm_request_s", "ttft_startup_request_s", "ttft_queue_request_s"),
}

_RUNNING = ("site", "model", "mode")


class _Counting(NamedTuple):
    """Prices that running, starting and waiting put on the columns of one profile.

    Attributes
    ----------
    serving : array
        On a serving instance, by (period, site).
    work, share : array
        On a unit of work served, by (period, site), and on a request, by (period, class, site).
    """

    serving: Any
    work: Any
    share: Any


def lower_bound(
    instance: PlacementInstance, stage: int, marginals: Marginals, earlier: Sequence[float]
) -> tuple[float, float]:
    """Prove a lower bound on one stage of the objective.

    Parameters
    ----------
    instance : PlacementInstance
        The problem; integrality is not used, so the bound is that of the linear relaxation.
    stage : int
        Which stage.
    marginals : mapping of str to LabelledArray
        Row multipliers by row name; missing ones count as zero.
    earlier : sequence of float
        Values of the earlier stages, which later ones may worsen by their tolerance.

    Returns
    -------
    bound : float
        The bound; minus infinity if a column without an upper bound has a negative price or the
        multipliers overflow, plus infinity if some demand has no site, mode and level within its
        limits.
    size : float
        Sum of the absolute terms of the bound, to which its rounding is relative.

    Raises
    ------
    SolutionError
        If a multiplier array is over other axes or labels than the instance's.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        return _Certifier(instance, stage, marginals, earlier).bound()


class _Certifier:
    def __init__(
        self, inst: PlacementInstance, stage: int, marginals: Marginals, earlier: Sequence[float]
    ) -> None:
        self.inst = inst
        self.duration = np.array(inst.periods.duration_s)
        self.moments = inst.periods.begin_s - inst.periods.begin_s[0]
        self.firsts = np.cumsum([0, *inst.blocks[:-1]])  # first period of each block
        self.sets = {**inst.sets, "block": tuple(inst.sets["period"][t] for t in self.firsts)}
        self.servable = self._servable()
        self.shape = (len(self.duration), len(inst.sites))
        self.given = marginals
        self.stage = stage
        self.row_terms: list[float] = []
        self.column_terms: list[float] = []
        # A stage's metrics count with its weight, earlier ones with the multiplier of their row.
        self.stages = [(inst.objective[stage], 1.0)]
        for i, value in enumerate(earlier):
            multiplier = float(np.minimum(self._multiplier(f"stage_{i}", ()), 0.0))
            tolerance = inst.objective[i].tolerance
            self.row_terms.append(multiplier * (value + tolerance * max(abs(value), 1.0)))
            self.stages.append((inst.objective[i], -multiplier))
        self.price: dict[str, Any] = {}  # price of one unit of a metric, by (period, site)

    def bound(self) -> tuple[float, float]:
        self._price_objective()
        self._price_budgets()
        self.cheapest = np.full(self.inst.demand_requests.shape, np.inf)
        gpus = np.minimum(self._multiplier("gpus", ("period", "site", "gpu_type")), 0.0)
        gpus = np.where(np.isfinite(self.inst.gpus), gpus, 0.0)
        finite = np.where(np.isfinite(self.inst.gpus), self.inst.gpus, 0.0)
        self.row_terms.append(float((gpus * finite).sum()))
        per_watt = self._price_of_a_watt()
        load = self._multiplier("load", ("period", "site", "model", "mode", "level"))
        if self.inst.load_rule == "at_most":
            load = np.minimum(load, 0.0)
        limits = self._price_limits()
        for profile in self.inst.profiles:
            self._profile(profile, gpus, per_watt, load, limits)
        self._unmet()
        self._defer()
        demand = self.inst.demand_requests
        some = demand > 0
        self.row_terms.append(float((self.cheapest[some] * demand[some]).sum()))
        terms = [*self.row_terms, *self.column_terms]
        bound, size = float(sum(terms)), float(sum(map(abs, terms)))
        if np.isnan(bound) or (np.isinf(size) and not np.isinf(self.cheapest[some]).any()):
            return -np.inf, size  # overflow proves nothing
        return bound, size

    def _multiplier(self, name: str, axes: tuple[str, ...]) -> Any:
        """A row's multipliers as a dense array, zero where none is given."""
        shape = tuple(len(self.sets[a]) for a in axes)
        array = self.given.get(name)
        if array is None:
            return np.zeros(shape)
        self._belongs(array, axes)
        return array.dense()

    def _belongs(self, array: LabelledArray, axes: tuple[str, ...]) -> None:
        """Refuse multipliers over other axes or labels than the instance's."""
        if array.axes == axes and all(
            array.labels[a] == self.sets.get(a, array.labels[a]) for a in axes
        ):
            return
        text = f"is not over {list(axes)} of this instance"
        path = f"$.stages[{self.stage}].marginals.{array.name}"
        raise SolutionError("solution", [Problem(path, text)])

    # -- prices of metrics -------------------------------------------------------------------------

    def _add_price(self, metric: str, price: Any) -> None:
        for name in _PARTS.get(metric, (metric,)):
            old = self.price.get(name, np.zeros(self.shape))
            self.price[name] = old + price

    def _price_objective(self) -> None:
        for number, (stage, factor) in enumerate(self.stages):
            own = self.stage if number == 0 else number - 1
            for j, term in enumerate(stage.terms):
                weight = factor * term.weight / term.scale
                if term.weight == 0:
                    continue
                if term.metric == "ttft_mean_s":
                    self._add_price("ttft_request_s", weight / self.inst.demand_requests.sum())
                elif term.over_sites == "max":
                    self._add_price(term.metric, self._split_over_sites(own, j, weight))
                elif term.over_sites == "mean":
                    self._add_price(term.metric, weight / self.shape[1])
                else:
                    self._add_price(term.metric, weight)

    def _split_over_sites(self, stage: int, term: int, weight: float) -> Any:
        """Weights on the sites under a maximum: non-negative and adding up to its weight."""
        array = self.given.get("site_max")
        share = np.zeros(self.shape[1])
        if array is not None:
            self._belongs(array, ("stage", "term", "site"))
            stages, terms, sites = array.codes
            here = (stages == stage) & (terms == term)
            share[sites[here]] = np.maximum(-array.values[here], 0.0)
        if not 0 < share.sum() < np.inf:
            share[:] = 1.0
        return weight * share / share.sum()

    def _price_budgets(self) -> None:
        for budget in self.inst.budgets:
            axes = tuple(a for a in ("period", "site") if a in budget.limit.axes)
            sizes = [
                n if a in axes else 1 for a, n in zip(("period", "site"), self.shape, strict=True)
            ]
            limit = budget.limit.over(("period", "site"), sizes)
            multiplier = np.minimum(self._multiplier(f"budget.{budget.name}", axes), 0.0)
            multiplier = np.where(np.isfinite(limit), multiplier.reshape(sizes), 0.0)
            limit = np.where(np.isfinite(limit), limit, 0.0)
            if budget.metric == "ttft_mean_s":
                self._add_price("ttft_request_s", -multiplier)
                self._add_price("requests", multiplier * limit)
            else:
                self._add_price(budget.metric, -multiplier)
                self.row_terms.append(float((multiplier * limit).sum()))

    def _price_of_a_watt(self) -> Any:
        """Multipliers of power cap and peak rows, per mean facility W of a period."""
        cap = self.inst.facility_power_cap_w
        price = np.zeros(self.shape)
        if cap is not None:
            multiplier = np.minimum(self._multiplier("power_cap", ("period", "site")), 0.0)
            multiplier = np.where(np.isfinite(cap), multiplier, 0.0)
            self.row_terms.append(float((multiplier * np.where(np.isfinite(cap), cap, 0.0)).sum()))
            price -= multiplier
        if self.inst.demand_charge_usd_per_kw is not None:
            # The peak column costs its charge less the multipliers that lean on it; those may add
            # up to the charge at most, else a larger peak would pay.
            charge = self.price.get("cost_demand_usd", np.zeros(self.shape))[0]
            worth = charge * self.inst.demand_charge_usd_per_kw
            multiplier = np.minimum(self._multiplier("peak", ("period", "site")), 0.0)
            total = -multiplier.sum(axis=0)
            worth = np.maximum(worth, 0.0)
            factor = np.where(total > worth, worth / np.where(total > 0, total, 1.0), 1.0)
            price -= multiplier * factor / 1000
        return price

    def _price_limits(self) -> Any:
        """Price of a running instance under the limits on their numbers, by block and where."""
        inst = self.inst
        total = np.zeros([len(self.sets[a]) for a in ("block", *_RUNNING)])
        for one in inst.instance_limits:
            axes = tuple(a for a in _RUNNING if a in one.limit.axes)
            sizes = [len(self.sets[a]) if a in axes else 1 for a in _RUNNING]
            limit = one.limit.over(("period", *_RUNNING), [len(self.duration), *sizes])
            limit = np.minimum.reduceat(limit, self.firsts, axis=0)
            multiplier = self._multiplier(f"instance_limit.{one.name}", ("block", *axes))
            multiplier = np.minimum(multiplier, 0.0).reshape(limit.shape)
            multiplier = np.where(np.isfinite(limit), multiplier, 0.0)
            limit = np.where(np.isfinite(limit), limit, 0.0)
            self.row_terms.append(float((multiplier * limit).sum()))
            total = total - multiplier
        return total

    # -- columns -----------------------------------------------------------------------------------

    def _last(self, k: RequestClass) -> Any:
        """Last period in which the requests of each period may be served."""
        limit = 0.0 if k.deferral_limit_s is None else k.deferral_limit_s * (1 + 1e-9)
        return np.searchsorted(self.moments, self.moments + limit, side="right") - 1

    def _servable(self) -> Any:
        """Requests that may be served in each period: its own, and those held back until then."""
        demand = self.inst.demand_requests
        so_far = np.concatenate([np.zeros_like(demand[:1]), np.cumsum(demand, axis=0)])
        most = demand.copy()
        for i, k in enumerate(self.inst.classes):
            if k.deferral_limit_s is not None:
                first = np.searchsorted(self._last(k), np.arange(len(demand)))
                most[:, :, i] = so_far[1:, :, i] - so_far[first, :, i]
        return most

    def _classes(self, profile: Profile) -> list[int]:
        return [i for i, k in enumerate(self.inst.classes) if k.model == profile.model]

    def _holds(self, profile: Profile) -> Any:
        h = self.sets["gpu_type"].index(profile.gpu_type)
        return (self.inst.gpus[:, :, h] > 0).any(axis=0)

    def _profile(self, profile: Profile, gpus: Any, per_watt: Any, load: Any, limits: Any) -> None:
        """Price out the flow and instances of one profile, level by level."""
        n = self.sets["model"].index(profile.model)
        m = self.sets["mode"].index(profile.mode)
        h = self.sets["gpu_type"].index(profile.gpu_type)
        even = self._even(profile, n, m)
        per_gpu = -profile.gpus_per_instance * gpus[:, :, h]
        if self.inst.counts_instances:
            counting = self._running(profile, per_gpu, per_watt, limits[:, :, n, m])
        else:
            counting = _Counting(per_gpu, 0.0, np.zeros((1, len(self.inst.classes), 1)))
        for index in range(len(profile.levels)):
            per_load = load[:, :, n, m, index]
            cost = self._cost_of_serving(profile, index)
            cost = cost + per_watt * self._watts(profile, index)[1] + counting.serving
            cost = cost + self._load_and_wait(profile, index, per_load) + even[:, :, index]
            most = self._most(profile, index)
            self._columns(np.where(self._holds(profile), cost, 0.0), most)
            for k in self._classes(profile):
                per_request = counting.share[:, k]
                self._flow(k, profile, index, per_load + counting.work, per_request, m)

    def _load_and_wait(self, profile: Profile, level: int, per_load: Any) -> Any:
        """Price of what one instance serves, and of the waiting in its queue."""
        rate, seconds = profile.levels[level].requests_per_s, self.duration[:, None]
        queue = profile.queue
        if queue is None:
            return per_load * seconds * rate
        each = self.price.get("ttft_queue_request_s", np.zeros(self.shape))
        waiting = each * seconds * queueing.variability(queue.service_cv2, queue.arrival_cv2)
        worth = -per_load * seconds / queue.service_s
        used = full = queue.service_s * rate
        if self.inst.load_rule == "at_most":
            # No waiting that is a curve has a negative price. Where it has none, instances are
            # best full; where load is worth nothing, empty.
            with np.errstate(divide="ignore"):
                slope = np.where(worth > 0, worth / waiting, 0.0)
            used = np.minimum(queueing.utilisation_of_slope(slope), full)
        return waiting * queueing.waiting_share(used) - worth * used

    def _running(self, profile: Profile, per_gpu: Any, per_watt: Any, limits: Any) -> _Counting:
        """Price out the running instances of one profile, and what comes with their starts."""
        inst, most = self.inst, self._most_running(profile)
        n, m = self.sets["model"].index(profile.model), self.sets["mode"].index(profile.mode)
        holds = self._holds(profile)
        serving = self._multiplier("running", ("period", *_RUNNING))[:, :, n, m]
        serving = np.where(holds, serving, 0.0)
        running = np.add.reduceat(per_gpu + serving, self.firsts, axis=0) + limits
        counting = _Counting(-serving, np.zeros(self.shape), self._no_share())
        if profile.starts:
            running, counting = self._starts(profile, running, serving, per_watt, most)
        low, high = np.zeros(running.shape), most
        if inst.fixed_instances is not None:
            fixed = inst.fixed_instances[self.firsts][:, :, n, m]
            low = np.where(np.isfinite(fixed), fixed, 0.0)
            high = np.where(np.isfinite(fixed), fixed, most)
        self._columns(np.where(holds, running, 0.0), high, low)
        return counting

    def _no_share(self) -> Any:
        return np.zeros((self.shape[0], len(self.inst.classes), self.shape[1]))

    def _starts(
        self, profile: Profile, running: Any, serving: Any, per_watt: Any, most: Any
    ) -> tuple[Any, _Counting]:
        """Price out the starts of one profile: prices of its running instances, and of the rest."""
        holds = self._holds(profile)
        n, m = self.sets["model"].index(profile.model), self.sets["mode"].index(profile.mode)

        def multiplier(name: str) -> Any:
            given = self._multiplier(name, ("block", *_RUNNING))[:, :, n, m]
            return np.where(holds, np.minimum(given, 0.0), 0.0)

        start, min_up = multiplier("start"), multiplier("min_up")
        assert self.inst.initial_instances is not None
        self.row_terms.append(float((start[0] * self.inst.initial_instances[:, n, m]).sum()))
        later = np.concatenate([start[1:], np.zeros_like(start[:1])])
        running = running - start + later + min_up
        starts = self._cost_of_a_start(profile, per_watt) + start
        starts = starts - np.einsum("ij,i...->j...", self._young(profile), min_up)
        seconds = profile.startup.time_s if profile.startup else 0.0
        part = (seconds / self.duration[self.firsts])[:, None]
        starts = starts - part * serving[self.firsts]
        work, share = np.zeros(self.shape), self._no_share()
        if seconds > 0:
            wait = multiplier("startup_wait")
            capacity = seconds * profile.levels[-1].requests_per_s * wait
            running, starts = running + capacity, starts - capacity
            work[self.firsts] = part * wait
            share[self.firsts] = part[:, None] * self._startup_waits(profile, wait)
        self._columns(np.where(holds, starts, 0.0), most)
        return running, _Counting(-serving, work, share)

    def _startup_waits(self, profile: Profile, wait: Any) -> Any:
        """Price out the requests that wait for starts: the price of those who arrive meanwhile."""
        axes = ("block", "class", "site", "mode")
        m, holds = self.sets["mode"].index(profile.mode), self._holds(profile)
        share = np.minimum(self._multiplier("startup_share", axes)[:, :, :, m], 0.0)
        share = np.where(holds, share, 0.0)
        zero = np.zeros(self.shape)
        assert profile.startup is not None
        each = self.price.get("ttft_startup_request_s", zero)[self.firsts] * profile.startup.time_s
        for k in self._classes(profile):
            price = each - share[:, k] + self.inst.classes[k].work_per_request[profile.mode] * wait
            most = self.servable[self.firsts, :, k].sum(axis=1)[:, None]
            self._columns(np.where(holds, price, 0.0), np.broadcast_to(most, price.shape))
        return share

    def _young(self, profile: Profile) -> Any:
        """Where a start of the second block is within its minimum up-time in the first."""
        begin = self.moments[self.firsts]
        age = begin[:, None] - begin[None, :]
        young = (age > 0) & (age < profile.min_up_s * (1 - 1e-9))
        return (young | np.eye(len(begin), dtype=bool)).astype(float)

    def _most_running(self, profile: Profile) -> Any:
        """Upper bound on running instances by block and site."""
        h = self.sets["gpu_type"].index(profile.gpu_type)
        most = self.inst.gpus[:, :, h] / profile.gpus_per_instance
        most = np.minimum.reduceat(most, self.firsts, axis=0)
        return np.floor(most * (1 + 1e-9)) if self.inst.instance_counts == "integer" else most

    def _columns(self, price: Any, most: Any, least: Any = None) -> None:
        """Columns between `least` (zero) and `most`: at the end where their price is lower."""
        negative = price < 0
        if not np.isfinite(price).all() or np.isinf(most[negative]).any():
            self.column_terms.append(-np.inf)
            return
        self.column_terms.append(float((price[negative] * most[negative]).sum()))
        if least is not None:
            self.column_terms.append(float((price[~negative] * least[~negative]).sum()))

    def _flow(
        self, k: int, profile: Profile, level: int, per_load: Any, per_request: Any, mode: int
    ) -> None:
        """Lower the price of serving a class to that of this level, site by site."""
        inst, c = self.inst, self.inst.classes[k]
        may = self._may(c, profile, level) & self._holds(profile)
        if not may.any():
            return
        zero = np.zeros(self.shape)
        network = inst.rtt_s + inst.last_mile_s[:, None]
        ttft = network + _mean_prefill(c, profile, level)
        price = (
            self.price.get("requests", zero)[:, None, :]
            + ttft * self.price.get("ttft_warm_request_s", zero)[:, None, :]
            + per_request[:, None, :]
        )
        egress = c.egress_bytes_per_request / 1e9 * inst.egress_usd_per_gb
        price = price + egress * self.price.get("cost_egress_usd", zero)[:, None, :]
        price = price + self._custom_per_request(k, mode)
        price = price - c.work_per_request[profile.mode] * per_load[:, None, :]
        allowed = np.broadcast_to(may, price.shape)
        if inst.reachable is not None:
            allowed = allowed & inst.reachable[:, :, k, :, mode]
        price = np.where(np.isfinite(price), price, -np.inf)  # overflow proves nothing
        best = np.where(allowed, price, np.inf).min(axis=2)
        self.cheapest[:, :, k] = np.minimum(self.cheapest[:, :, k], best)

    def _custom_per_request(self, k: int, mode: int) -> Any:
        total = np.zeros((self.shape[0], len(self.inst.origins), self.shape[1]))
        axes = ("period", "origin", "class", "site", "mode")
        sizes = [len(self.sets[a]) for a in axes]
        for custom in self.inst.custom_metrics:
            if custom.per_request is not None and custom.name in self.price:
                whole = custom.per_request.over(axes, sizes)[:, :, k, :, mode]
                total = total + whole * self.price[custom.name][:, None, :]
        return total

    def _may(self, k: RequestClass, profile: Profile, level: int) -> Any:
        """Origins and sites where a level serves a class within its limits (with 1e-9 slack)."""
        inst, measured = self.inst, profile.levels[level]
        grown = 1 + 1e-9
        may = np.ones((len(inst.origins), len(inst.sites)), dtype=bool)
        if k.tbt_limit_s is not None and measured.itl_s[k.tbt_statistic] > k.tbt_limit_s * grown:
            return may & False
        if k.ttft_limit_s is not None:
            if k.ttft_statistic == "mean":
                own = _mean_prefill(k, profile, level)
            else:
                q = 1.0 if k.ttft_statistic == "max" else int(k.ttft_statistic[1:]) / 100
                tokens = latency.quantile(k.prompt_tokens.values, k.prompt_tokens.probabilities, q)
                own = float(np.interp(tokens, profile.prefill_tokens, measured.prefill_s))
            own += _wait_when_full(k, profile, level)
            may &= inst.rtt_s + inst.last_mile_s[:, None] + own <= k.ttft_limit_s * grown
        model = self.inst.models[self.sets["model"].index(k.model)]
        gpu = self.inst.gpu_types[self.sets["gpu_type"].index(profile.gpu_type)]
        if (
            model.weight_bytes is None
            or model.kv_bytes_per_token is None
            or gpu.memory_bytes is None
        ):
            return may
        seconds = _mean_prefill(k, profile, level) + k.output_tokens.mean * measured.itl_s["mean"]
        held = measured.requests_per_s * seconds / k.work_per_request[profile.mode]
        held *= (k.prompt_tokens.mean + k.output_tokens.mean) * model.kv_bytes_per_token
        room = profile.gpus_per_instance * gpu.memory_bytes * gpu.usable_memory_fraction
        return may & bool(held <= (room - model.weight_bytes) * grown)

    def _watts(self, profile: Profile, level: int) -> tuple[Any, Any]:
        """IT and facility power of one instance, W, by period and site."""
        power = profile.levels[level].power_w
        it, facility = energy.it_and_facility_power_w(
            power, profile.power_boundary, self.inst.pue, profile.host_adder_w
        )
        return np.broadcast_to(it, self.shape), np.broadcast_to(facility, self.shape)

    def _cost_of_serving(self, profile: Profile, level: int) -> Any:
        """Price of one serving instance in each period and site."""
        hours = self.duration[:, None] / 3600
        it, facility = (w / 1000 * hours for w in self._watts(profile, level))
        total = self._cost(profile, it, facility, hours)
        axes = ("period", "site", "model", "mode", "level")
        sizes = [len(self.sets[a]) for a in axes]
        n, m = self.sets["model"].index(profile.model), self.sets["mode"].index(profile.mode)
        for custom in self.inst.custom_metrics:
            if custom.per_instance_s is not None and custom.name in self.price:
                each = custom.per_instance_s.over(axes, sizes)[:, :, n, m, level]
                total = total + self.price[custom.name] * each * self.duration[:, None]
        return total

    def _cost_of_a_start(self, profile: Profile, per_watt: Any) -> Any:
        """Price of one start in the first period of each block and site."""
        kwh = profile.startup.energy_kwh if profile.startup else 0.0
        hours = profile.startup.time_s / 3600 if profile.startup else 0.0
        it = np.full(self.shape, kwh)
        if profile.power_boundary == "gpu":
            it += (profile.host_adder_w or 0.0) / 1000 * hours
        elif profile.power_boundary == "facility":
            it /= self.inst.pue
        facility = it * self.inst.pue
        total = self._cost(profile, it, facility, hours)
        total = total + self.price.get("starts", np.zeros(self.shape))
        total = total + per_watt * facility * 1000 / (self.duration[:, None] / 3600)
        return total[self.firsts]

    def _cost(self, profile: Profile, it: Any, facility: Any, hours: Any) -> Any:
        """Price of the energies (kWh) and hours of one instance in each period and site."""
        inst, zero = self.inst, np.zeros(self.shape)
        gpu_h = profile.gpus_per_instance * np.broadcast_to(hours, self.shape)
        h = self.sets["gpu_type"].index(profile.gpu_type)
        gpu = inst.gpu_types[h]
        evaporation, blowdown = water.evaporation_and_blowdown(
            it * inst.wue_l_per_kwh, inst.cycles_of_concentration
        )
        amounts = {
            "energy_kwh": facility,
            "energy_it_kwh": it,
            "carbon_operational_kg": facility * inst.carbon_g_per_kwh / 1000,
            "water_evaporation_l": evaporation,
            "water_blowdown_l": blowdown,
            "water_grid_l": facility * inst.ewif_l_per_kwh,
            "cost_energy_usd": facility / 1000 * inst.price_usd_per_mwh,
            "gpu_h": gpu_h,
        }
        if inst.gpu_usd_per_hour is not None:
            amounts["cost_gpu_usd"] = gpu_h * inst.gpu_usd_per_hour[:, h]
        if inst.embodied_charge == "running":
            amounts["carbon_embodied_running_kg"] = gpu_h * 3600 * gpu.embodied_kg / gpu.lifetime_s
        return sum((self.price.get(n, zero) * a for n, a in amounts.items()), zero)

    def _most(self, profile: Profile, level: int) -> Any:
        """Upper bound on serving instances: GPUs, and what the model's demand can use."""
        h = self.sets["gpu_type"].index(profile.gpu_type)
        by_gpus = self.inst.gpus[:, :, h] / profile.gpus_per_instance
        rate = profile.levels[level].requests_per_s
        if rate == 0 or self.inst.load_rule == "at_most":
            return by_gpus
        work = np.zeros(self.shape[0])
        for k in self._classes(profile):
            per_request = self.inst.classes[k].work_per_request[profile.mode]
            work += per_request * self.servable[:, :, k].sum(axis=1)
        return np.minimum(by_gpus, (work / (self.duration * rate))[:, None])

    def _even(self, profile: Profile, n: int, m: int) -> Any:
        """What the relaxed rows of an even balance add to the price of running instances."""
        added = np.zeros((*self.shape, len(profile.levels)))
        if self.inst.balance != "even":
            return added
        holds = self._holds(profile)
        one = np.minimum(self._multiplier("one_level", ("period", "site", "model", "mode")), 0.0)
        one = np.where(holds, one[:, :, n, m], 0.0)
        self.row_terms.append(float(one.sum()))
        axes = ("period", "site", "model", "mode", "level")
        used = np.minimum(self._multiplier("level_used", axes), 0.0)[:, :, n, m]
        for level in range(len(profile.levels)):
            most = self._most(profile, level)
            tied = np.where(holds & np.isfinite(most), used[:, :, level], 0.0)
            added[:, :, level] = -tied
            switch = np.where(holds, -one + tied * np.where(np.isfinite(most), most, 0.0), 0.0)
            self._columns(switch, np.ones(self.shape))
        return added

    def _unmet(self) -> None:
        """Not serving a request is a way to deal with it, at its price."""
        zero = np.zeros(self.shape)
        each = self.price.get("unmet_requests", zero)[:, :1]
        usd = self.price.get("unmet_usd", zero)[:, :1]
        for i, k in enumerate(self.inst.classes):
            if k.unmet_price_usd is not None:
                price = each + usd * k.unmet_price_usd
                self.cheapest[:, :, i] = np.minimum(self.cheapest[:, :, i], price)

    def _defer(self) -> None:
        """Lower the price of a deferrable request to that of the cheapest period it may wait for.

        Stocks within their limits, first in, first out, are the same as requests that each choose
        a period, and cost the same; so these are the best multipliers of demand and deadlines.
        """
        held = self.price.get("deferral_request_s", np.zeros(self.shape))[:-1, 0]
        so_far = np.concatenate([[0.0], np.cumsum(held * np.diff(self.moments))])
        for i, k in enumerate(self.inst.classes):
            if k.deferral_limit_s is None:
                continue
            now = self.cheapest[:, :, i].copy()
            for t, last in enumerate(self._last(k)):
                later = now[t : last + 1] + (so_far[t : last + 1] - so_far[t])[:, None]
                self.cheapest[t, :, i] = np.where(np.isnan(later), -np.inf, later).min(axis=0)


def _mean_prefill(k: RequestClass, profile: Profile, level: int) -> float:
    times = np.interp(
        k.prompt_tokens.values, profile.prefill_tokens, profile.levels[level].prefill_s
    )
    return float(times @ np.array(k.prompt_tokens.probabilities))


def _wait_when_full(k: RequestClass, profile: Profile, level: int) -> float:
    """The class's statistic of the wait, s, where instances at a level serve all they can."""
    queue = profile.queue
    if queue is None:
        return 0.0
    service = k.work_per_request[profile.mode] * queue.service_s
    full = queue.service_s * profile.levels[level].requests_per_s
    times = (full, service, queue.service_cv2, queue.arrival_cv2)
    if k.ttft_statistic == "mean":
        return float(queueing.mean_wait_s(*times))
    return float(queueing.wait_quantile_s(*times, int(k.ttft_statistic[1:]) / 100))
