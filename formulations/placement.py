"""The placement problem in Pyomo, stated in the order and the symbols of `placement.md`.

Written to be read, checked against and extended, not to be fast, and on purpose without a line in
common with the package's own formulation: each is the other's check. Positions stand for names:
``model.flow[t, o, k, s, m, g]`` is the flow of period ``t``, origin ``o``, class ``k`` to site
``s`` in mode ``m`` on level group ``g``, all counted from 0. A load level is called ``ell``.

Examples
--------
>>> model = build(PlacementInstance.read("instance.json"))  # doctest: +SKIP
>>> model.cap = pyo.Constraint(expr=metric_expression(model, "water_l", s=0) <= 1e6)
... # doctest: +SKIP
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from functools import cached_property
from itertools import accumulate, pairwise, product
from typing import Any

import numpy as np
import pyomo.environ as pyo

from greenopt.problems.placement.instance import (
    FLOW_AXES,
    INSTANCE_AXES,
    RUNNING_AXES,
    Distribution,
    Level,
    PlacementInstance,
    Profile,
)

SLACK = 1e-9
"""Relative slack of limits on latency, memory and deferral: equality in the data counts."""

PIECES = 16
"""Chords that stand for the waiting at a level from an idle queue to the level's full load."""

J_PER_KWH = 3.6e6
S_PER_H = 3600.0
Place = Callable[..., tuple[int | None, int | None]]
"""Period and site of a variable by its index; None where it belongs to no single one."""

SITELESS = ("unmet_requests", "unmet_usd", "deferral_request_s")
METRICS = (
    "energy_kwh",
    "energy_it_kwh",
    "carbon_operational_kg",
    "carbon_embodied_running_kg",
    "carbon_kg",
    "water_evaporation_l",
    "water_blowdown_l",
    "water_grid_l",
    "water_l",
    "water_consumption_l",
    "cost_energy_usd",
    "cost_gpu_usd",
    "cost_egress_usd",
    "cost_demand_usd",
    "cost_usd",
    "ttft_warm_request_s",
    "ttft_startup_request_s",
    "ttft_queue_request_s",
    "ttft_request_s",
    "ttft_mean_s",
    "deferral_request_s",
    "starts",
    "requests",
    "unmet_requests",
    "unmet_usd",
    "gpu_h",
)
"""Built-in metrics that are linear in the decisions."""


def build(
    instance: PlacementInstance, stage: int = 0, fixed: Sequence[float] = ()
) -> pyo.ConcreteModel:
    """State one stage of the placement problem as a Pyomo model.

    Parameters
    ----------
    instance : PlacementInstance
        The instance.
    stage : int
        Position of the stage of ``instance.objective`` to minimise.
    fixed : sequence of float
        Values :math:`f_i` that the earlier stages reached, one for each.

    Returns
    -------
    pyomo.environ.ConcreteModel
        Variables ``flow``, ``instances``, ``filled``, ``running``, ``starts``, ``startup_waits``,
        ``deferred``, ``whole_flow``, ``unmet``, ``peak_kw``, ``site_max`` and ``used``, rows
        ``demand``, ``deadline``, ``load_row``, ``filled_row``, ``whole``, ``running_row``,
        ``start``, ``min_up``, ``startup_share``, ``startup_wait``, ``instance_limit``, ``gpus``,
        ``power_cap``, ``peak``, ``budget``, ``site_max_row``, ``one_level``, ``level_used`` and
        ``stage``, and ``objective``. ``model.data`` holds sets and coefficients (`Data`). A
        component the instance does not ask for is there and empty.

    Raises
    ------
    ValueError
        If `stage` is no stage, `fixed` has not one value for each earlier stage, or the instance
        leaves something undefined that the statement needs.

    Notes
    -----
    Four rows have longer names than in `placement.md`: ``filled_row``, ``running_row`` and
    ``site_max_row``, because variables are called ``filled``, ``running`` and ``site_max``, and
    ``load_row``, because Pyomo reserves ``load``.

    Where waiting in queues is a curve (``load_rule`` "at_most"), the model charges its chords, a
    little more than the curve.

    Pyomo refuses rows without variables. Such a row is left out where it holds; where it does not
    hold (demand that no site may serve), it gets the variable ``nothing``, which is fixed at zero,
    so that the model can be built and is infeasible.
    """
    if not 0 <= stage < len(instance.objective):
        raise ValueError(f"stage {stage} is not one of the {len(instance.objective)} stages")
    if len(fixed) != stage:
        raise ValueError(f"stage {stage} needs {stage} fixed values, got {len(fixed)}")
    model = pyo.ConcreteModel()
    model.data = Data(instance)
    _add_flows_and_instances(model)
    _add_running_and_starts(model)
    _add_other_requests(model)
    _add_peak_and_site_max(model)
    _add_service_rows(model)
    _add_running_rows(model)
    _add_gpus_rows(model)
    _add_power_rows(model)
    _add_metric_rows(model)
    _add_balance(model)
    _add_objective(model, stage, [float(value) for value in fixed])
    return model


def metric_expression(
    model: pyo.ConcreteModel, name: str, t: int | None = None, s: int | None = None
) -> Any:
    """Value of a metric as an expression in the model's variables.

    Parameters
    ----------
    model : pyomo.environ.ConcreteModel
        Made by `build`.
    name : str
        A metric of `METRICS` or a custom metric of the instance.
    t, s : int, optional
        Restrict to one period, to one site, or both. By default the total.

    Returns
    -------
    pyomo expression
        Linear; the number 0 if no variable enters.

    Raises
    ------
    ValueError
        If the metric is unknown, or is not linear or not defined for one period or one site.
    """
    return pyo.quicksum(c * v for c, v in _columns(model, name, t, s))


# Sets


class Data:
    """Sets, eligibility and coefficients of one instance, as `placement.md` defines them.

    Parameters
    ----------
    instance : PlacementInstance
        The instance.
    """

    def __init__(self, instance: PlacementInstance) -> None:
        self.instance = instance
        self.delta: list[float] = [float(seconds) for seconds in instance.periods.duration_s]
        self.periods = list(range(len(self.delta)))
        self.origins = list(range(len(instance.origins)))
        self.classes = list(range(len(instance.classes)))
        self.sites = list(range(len(instance.sites)))
        self.modes = list(range(len(instance.modes)))
        self.models = list(range(len(instance.models)))
        self.gpu_types = list(range(len(instance.gpu_types)))
        # Native floats: NumPy scalars and Pyomo expressions do not mix well.
        self.d: Any = instance.demand_requests.tolist()
        self.gpus: Any = instance.gpus.tolist()
        self.carbon: Any = instance.carbon_g_per_kwh.tolist()
        self.price: Any = instance.price_usd_per_mwh.tolist()
        self.pue: Any = instance.pue.tolist()
        self.wue: Any = instance.wue_l_per_kwh.tolist()
        self.cycles: Any = instance.cycles_of_concentration.tolist()
        self.ewif: Any = instance.ewif_l_per_kwh.tolist()
        self.rtt: Any = instance.rtt_s.tolist()
        self.last_mile: Any = instance.last_mile_s.tolist()
        self.egress_price: Any = instance.egress_usd_per_gb.tolist()
        self.gpu_price: Any = _optional_list(instance.gpu_usd_per_hour)
        self.demand_charge: Any = _optional_list(instance.demand_charge_usd_per_kw)
        self.power_cap: Any = _optional_list(instance.facility_power_cap_w)
        self.reachable: Any = _optional_list(instance.reachable)
        self.initial: Any = _optional_list(instance.initial_instances)
        self.fixed: Any = _optional_list(instance.fixed_instances)

    @cached_property
    def model_of(self) -> list[int]:
        """The model n(k) that serves class k."""
        names = [model.name for model in self.instance.models]
        return [names.index(k.model) for k in self.instance.classes]

    @cached_property
    def profiles(self) -> dict[tuple[int, int], Profile]:
        """Profiles p by model and mode (n, m), in order."""
        models = [model.name for model in self.instance.models]
        modes = list(self.instance.modes)
        found = {(models.index(p.model), modes.index(p.mode)): p for p in self.instance.profiles}
        return dict(sorted(found.items()))

    @cached_property
    def gpu_type(self) -> dict[tuple[int, int], int]:
        """GPU type h(p) of each profile."""
        names = [h.name for h in self.instance.gpu_types]
        return {nm: names.index(p.gpu_type) for nm, p in self.profiles.items()}

    def level(self, n: int, m: int, ell: int) -> Level:
        """Level l of profile (n, m)."""
        return self.profiles[n, m].levels[ell]

    def levels(self, n: int, m: int) -> range:
        """Positions of the levels of profile (n, m)."""
        return range(len(self.profiles[n, m].levels))

    @cached_property
    def held(self) -> list[tuple[int, int, int]]:
        """Triples (s, n, m): the site has GPUs of the profile's type in at least one period."""
        return [
            (s, n, m)
            for s, (n, m) in product(self.sites, self.profiles)
            if any(self.gpus[t][s][self.gpu_type[n, m]] > 0 for t in self.periods)
        ]

    # Blocks, starts and deferral

    @cached_property
    def theta(self) -> list[float]:
        """Moment at which each period begins, s after the first one begins."""
        moments = [datetime.fromisoformat(text) for text in self.instance.periods.start]
        return [(moment - moments[0]).total_seconds() for moment in moments]

    @cached_property
    def blocks(self) -> list[list[int]]:
        """Periods of each block b."""
        lengths = self.instance.hold_periods or [1] * len(self.periods)
        ends = accumulate(lengths)
        return [list(range(end - n, end)) for n, end in zip(lengths, ends, strict=True)]

    @cached_property
    def block(self) -> list[int]:
        """Block b(t) of each period."""
        return [b for b, periods in enumerate(self.blocks) for _ in periods]

    def first(self, b: int) -> int:
        """First period f(b) of a block."""
        return self.blocks[b][0]

    def startup_s(self, n: int, m: int) -> float:
        """Time τ_p that starting an instance takes."""
        startup = self.profiles[n, m].startup
        return startup.time_s if startup else 0.0

    def startup_kwh(self, n: int, m: int) -> float:
        """Energy e_p of one start at the profile's power boundary."""
        startup = self.profiles[n, m].startup
        return startup.energy_kwh if startup else 0.0

    def starts(self, n: int, m: int) -> bool:
        """Whether it matters when instances of the profile are started."""
        return self.profiles[n, m].startup is not None or self.profiles[n, m].min_up_s > 0

    @cached_property
    def counts_instances(self) -> bool:
        """Whether the instance counts instances."""
        return (
            self.whole_instances
            or self.instance.hold_periods is not None
            or self.instance.fixed_instances is not None
            or len(self.instance.instance_limits) > 0
            or any(self.starts(n, m) for n, m in self.profiles)
        )

    @property
    def whole_instances(self) -> bool:
        """Whether numbers of running instances are integer."""
        return self.instance.instance_counts == "integer"

    @property
    def whole_requests(self) -> bool:
        """Whether numbers of requests are integer."""
        return self.instance.request_counts == "integer"

    @cached_property
    def most_deferred(self) -> dict[tuple[int, int, int], float]:
        """Requests Q̄_tok that may still be held back after each period."""
        return {
            tok: self._most_deferred(*tok)
            for tok in product(self.periods, self.origins, self.classes)
        }

    def _most_deferred(self, t: int, o: int, k: int) -> float:
        limit = self.instance.classes[k].deferral_limit_s
        if limit is None or t == self.periods[-1]:
            return 0.0
        return sum(
            float(self.d[arrival][o][k])
            for arrival in self.periods[: t + 1]
            if self.theta[t + 1] - self.theta[arrival] <= limit * (1 + SLACK)
        )

    @cached_property
    def servable(self) -> dict[tuple[int, int, int], float]:
        """Requests D_tok that can be served in each period: its own and those held back."""
        return {
            (t, o, k): self.d[t][o][k] + (self.most_deferred[t - 1, o, k] if t > 0 else 0.0)
            for t, o, k in self.most_deferred
        }

    # Waiting in a queue

    def utilisation(self, n: int, m: int, ell: int) -> float:
        """Utilisation u_pl of an instance at the level's full load; 0 without a queue."""
        queue = self.profiles[n, m].queue
        return queue.service_s * self.level(n, m, ell).requests_per_s if queue else 0.0

    def variability(self, n: int, m: int) -> float:
        """Variability γ_p of arrivals and service; 0 without a queue."""
        queue = self.profiles[n, m].queue
        return (queue.arrival_cv2 + queue.service_cv2) / 2 if queue else 0.0

    def wait(self, k: int, m: int, ell: int, statistic: str) -> float:
        """Wait t_p of class k at the level's full load, by its statistic; 0 without a queue."""
        n = self.model_of[k]
        queue, u = self.profiles[n, m].queue, self.utilisation(n, m, ell)
        if queue is None or u == 0:
            return 0.0
        if_busy = self.work(k, m) * queue.service_s * self.variability(n, m) / (1 - u)
        if statistic == "mean":
            return if_busy * u
        return max(0.0, if_busy * math.log(u / (1 - _share(statistic))))

    def waiting_request_s(self, t: int, n: int, m: int, u: float) -> float:
        """Waiting γ_p Δ_t ψ(u) at one instance in a period, request-seconds."""
        return self.variability(n, m) * self.delta[t] * u * u / (1 - u)

    def waiting_is_curved(self, n: int, m: int) -> bool:
        """Whether instances of a profile that queues may be at less than their level's load."""
        return self.profiles[n, m].queue is not None and self.instance.load_rule == "at_most"

    def points(self, n: int, m: int, ell: int) -> list[float]:
        """Utilisations ν_pli between which chords stand for the curve; none where it is none."""
        if not self.waiting_is_curved(n, m) or self.level(n, m, ell).requests_per_s == 0:
            return []
        idle = 1 - self.utilisation(n, m, ell)
        return [1 - idle ** (i / PIECES) for i in range(PIECES + 1)]

    # Who may run where

    def work(self, k: int, m: int) -> float:
        """Work w_kp of one request of class k in mode m, in reference requests."""
        return float(self.instance.classes[k].work_per_request[self.instance.modes[m]])

    def prefill(self, k: int, m: int, ell: int, statistic: str) -> float:
        """Prefill time π_kpl at a statistic of the prompt length; for "mean", its mean."""
        profile = self.profiles[self.model_of[k], m]
        tokens, curve = profile.prefill_tokens, profile.levels[ell].prefill_s
        prompt = self.instance.classes[k].prompt_tokens
        if statistic != "mean":
            return _interpolate(_percentile(prompt, statistic), tokens, curve)
        return sum(
            share * _interpolate(value, tokens, curve)
            for value, share in zip(prompt.values, prompt.probabilities, strict=True)
        )

    def allowed(self, t: int, o: int, k: int, s: int, m: int) -> bool:
        """Condition 1: the site holds the profile and nothing forbids the way there."""
        holds = (s, self.model_of[k], m) in self.held
        return holds and (self.reachable is None or self.reachable[t][o][k][s][m])

    def starts_in_time(self, o: int, k: int, s: int, m: int, ell: int) -> bool:
        """Condition 2: the time to first token is within the limit."""
        request = self.instance.classes[k]
        if request.ttft_limit_s is None:
            return True
        first = self.rtt[o][s] + self.last_mile[o]
        first += self.prefill(k, m, ell, request.ttft_statistic)
        first += self.wait(k, m, ell, request.ttft_statistic)
        return bool(first <= request.ttft_limit_s * (1 + SLACK))

    def goes_on_in_time(self, k: int, m: int, ell: int) -> bool:
        """Condition 3: the time between tokens is within the limit."""
        request = self.instance.classes[k]
        if request.tbt_limit_s is None:
            return True
        itl = self.level(self.model_of[k], m, ell).itl_s[request.tbt_statistic]
        return itl <= request.tbt_limit_s * (1 + SLACK)

    def fits_memory(self, k: int, m: int, ell: int) -> bool:
        """Condition 4: an instance at the level, serving only class k, has room for its tokens."""
        n = self.model_of[k]
        model = self.instance.models[n]
        gpu = self.instance.gpu_types[self.gpu_type[n, m]]
        if None in (model.weight_bytes, model.kv_bytes_per_token, gpu.memory_bytes):
            return True
        assert model.weight_bytes is not None
        assert model.kv_bytes_per_token is not None
        assert gpu.memory_bytes is not None
        tokens_in, tokens_out = self.mean_tokens(k)
        held_bytes = self.batch(k, m, ell) * (tokens_in + tokens_out) * model.kv_bytes_per_token
        room = self.profiles[n, m].gpus_per_instance * gpu.memory_bytes * gpu.usable_memory_fraction
        return held_bytes <= (room - model.weight_bytes) * (1 + SLACK)

    def batch(self, k: int, m: int, ell: int) -> float:
        """Batch b of an instance that serves only class k, by Little's law."""
        level = self.level(self.model_of[k], m, ell)
        if "mean" not in level.itl_s:
            profile = f"{self.instance.classes[k].model} in {self.instance.modes[m]}"
            raise ValueError(f"the KV memory of {profile} needs itl_s.mean at level {ell}")
        _, tokens_out = self.mean_tokens(k)
        residence = self.prefill(k, m, ell, "mean") + tokens_out * level.itl_s["mean"]
        return level.requests_per_s / self.work(k, m) * residence

    def mean_tokens(self, k: int) -> tuple[float, float]:
        """Mean prompt and output length of class k."""
        request = self.instance.classes[k]
        return _mean(request.prompt_tokens), _mean(request.output_tokens)

    @cached_property
    def eligible(self) -> dict[tuple[int, int, int], set[tuple[int, int, int, int]]]:
        """The (t, o, k, s) with L_toksml = 1, for every level (n, m, l)."""
        found: dict[tuple[int, int, int], set[tuple[int, int, int, int]]] = {}
        for n, m in self.profiles:
            for ell in self.levels(n, m):
                found[n, m, ell] = {
                    (t, o, k, s)
                    for k in self.classes
                    if self.model_of[k] == n
                    if self.goes_on_in_time(k, m, ell) and self.fits_memory(k, m, ell)
                    for o, s in product(self.origins, self.sites)
                    if self.starts_in_time(o, k, s, m, ell)
                    for t in self.periods
                    if self.allowed(t, o, k, s, m)
                }
        return found

    @cached_property
    def groups(self) -> dict[tuple[int, int], list[list[int]]]:
        """Levels of each group g of each profile: alike in eligibility and prefill curve.

        Where waiting is a curve, each level by itself.
        """
        return {(n, m): self._groups_of(n, m) for n, m in self.profiles}

    def _groups_of(self, n: int, m: int) -> list[list[int]]:
        alike: dict[Any, list[int]] = {}
        for ell in self.levels(n, m):
            itself = ell if self.waiting_is_curved(n, m) else None
            prefill = self.level(n, m, ell).prefill_s
            signature = frozenset(self.eligible[n, m, ell]), prefill, itself
            alike.setdefault(signature, []).append(ell)
        return list(alike.values())

    # Variables

    @cached_property
    def flow_index(self) -> list[tuple[int, ...]]:
        """Every (t, o, k, s, m, g) that is eligible."""
        return sorted(
            (*toks, m, g)
            for (n, m), groups in self.groups.items()
            for g, group in enumerate(groups)
            for toks in self.eligible[n, m, group[0]]
        )

    @cached_property
    def instance_index(self) -> list[tuple[int, ...]]:
        """Every (t, s, n, m, l) whose site holds the profile."""
        return [
            (t, s, n, m, ell)
            for t in self.periods
            for s, n, m in self.held
            for ell in self.levels(n, m)
        ]

    @cached_property
    def filled_index(self) -> list[tuple[int, ...]]:
        """Every (t, s, n, m, l, i) whose waiting is a curve, with the numbers of its points."""
        return [
            (t, s, n, m, ell, i)
            for t, s, n, m, ell in self.instance_index
            for i in range(len(self.points(n, m, ell)))
        ]

    @cached_property
    def running_index(self) -> list[tuple[int, int, int, int]]:
        """Every (b, s, n, m) whose instances are counted."""
        if not self.counts_instances:
            return []
        return [(b, *snm) for b, snm in product(range(len(self.blocks)), self.held)]

    @cached_property
    def starts_index(self) -> list[tuple[int, int, int, int]]:
        """Every (b, s, n, m) whose starts matter."""
        return [(b, s, n, m) for b, s, n, m in self.running_index if self.starts(n, m)]

    @cached_property
    def startup_waits_index(self) -> list[tuple[int, int, int, int]]:
        """Every (b, k, s, m) in which requests may wait for a start."""
        return [
            (b, k, s, m)
            for b, k, s, m in product(range(len(self.blocks)), self.classes, self.sites, self.modes)
            if (s, self.model_of[k], m) in self.held and self.startup_s(self.model_of[k], m) > 0
        ]

    @cached_property
    def deferred_index(self) -> list[tuple[int, int, int]]:
        """Every (t, o, k) after which requests may be held back."""
        deferrable = [
            k for k in self.classes if self.instance.classes[k].deferral_limit_s is not None
        ]
        return list(product(self.periods[:-1], self.origins, deferrable))

    @cached_property
    def whole_flow_index(self) -> list[tuple[int, ...]]:
        """Every (t, o, k, s, m) whose flows of several groups add up to a whole number."""
        if not self.whole_requests:
            return []
        return sorted(
            {(t, o, k, s, m) for t, o, k, s, m, _ in self.flow_index if not self.one_group(k, m)}
        )

    def one_group(self, k: int, m: int) -> bool:
        """Whether the profile that serves class k in mode m has one group of levels."""
        return len(self.groups[self.model_of[k], m]) == 1

    def whole_serving(self, n: int, m: int) -> bool:
        """Whether numbers of instances serving are integer: of profiles with one level only."""
        return self.whole_instances and len(self.levels(n, m)) == 1 and self.startup_s(n, m) == 0

    def most_running(self, b: int, s: int, n: int, m: int) -> float:
        """Upper bound N̄: what GPUs allow in every period of the block."""
        gpus = min(self.gpus[t][s][self.gpu_type[n, m]] for t in self.blocks[b])
        return float(gpus / self.profiles[n, m].gpus_per_instance)

    def largest_count(self, b: int, s: int, n: int, m: int) -> float:
        """Bound of N and S: twice N̄, which is rounded down for whole instances."""
        most = self.most_running(b, s, n, m)
        return 2.0 * (math.floor(most) if self.whole_instances else most)

    def running_bounds(self, b: int, s: int, n: int, m: int) -> tuple[float, float]:
        """Bounds of N; both the given number where one is given."""
        if self.fixed is not None:
            given = self.fixed[self.first(b)][s][n][m]
            if math.isfinite(given):
                return given, given
        return 0.0, self.largest_count(b, s, n, m)

    def most_instances(self, t: int, s: int, n: int, m: int, ell: int) -> float:
        """Upper bound ȳ: what GPUs allow, and what all the model's work needs."""
        gpus = self.gpus[t][s][self.gpu_type[n, m]]
        rate = self.level(n, m, ell).requests_per_s
        most = float(gpus / self.profiles[n, m].gpus_per_instance)
        if rate == 0 or self.instance.load_rule == "at_most":
            return most
        work = sum(
            self.work(k, m) * self.servable[t, o, k]
            for o, k in product(self.origins, self.classes)
            if self.model_of[k] == n
        )
        return float(min(most, work / (self.delta[t] * rate)))

    def highest_peak_kw(self, s: int) -> float:
        """Upper bound q̄ of the site's peak power."""
        return max(self._highest_kw(t, s) for t in self.periods)

    def _highest_kw(self, t: int, s: int) -> float:
        serving = sum(
            _times(self.power(t, s, n, m, ell)[1], self.most_instances(t, s, n, m, ell))
            for site, n, m in self.held
            if site == s
            for ell in self.levels(n, m)
        )
        starting = sum(
            _times(self.startup_power(*bsnm), self.most_running(*bsnm))
            for bsnm in self.starts_index
            if self.first(bsnm[0]) == t and bsnm[1] == s
        )
        return (serving + starting) / 1000

    @cached_property
    def site_max_index(self) -> list[tuple[int, int]]:
        """Every term j of a stage i whose largest site total counts."""
        return [
            (i, j)
            for i, stage in enumerate(self.instance.objective)
            for j, term in enumerate(stage.terms)
            if term.over_sites == "max" and term.weight != 0
        ]

    # Coefficients

    def power(self, t: int, s: int, n: int, m: int, ell: int) -> tuple[float, float]:
        """Power of one instance, W: I of the server (IT) and F of the facility."""
        profile = self.profiles[n, m]
        watts, pue = profile.levels[ell].power_w, self.pue[t][s]
        if profile.power_boundary == "facility":
            return watts / pue, watts
        if profile.power_boundary == "gpu":
            assert profile.host_adder_w is not None
            watts += profile.host_adder_w
        return watts, watts * pue

    def startup_energy(self, b: int, s: int, n: int, m: int) -> tuple[float, float]:
        """Energies of one start, kWh: E^{S,IT} of the server and E^S of the facility."""
        profile = self.profiles[n, m]
        kwh, pue = self.startup_kwh(n, m), self.pue[self.first(b)][s]
        if profile.power_boundary == "facility":
            return kwh / pue, kwh
        if profile.power_boundary == "gpu":
            assert profile.host_adder_w is not None
            kwh += profile.host_adder_w * self.startup_s(n, m) / J_PER_KWH
        return kwh, kwh * pue

    def startup_power(self, b: int, s: int, n: int, m: int) -> float:
        """Mean facility power F^S of one start over the first period of the block, W."""
        return self.startup_energy(b, s, n, m)[1] * J_PER_KWH / self.delta[self.first(b)]

    def per_instance(self, t: int, s: int, n: int, m: int, ell: int) -> dict[str, float]:
        """Metrics of one instance that runs at the level through the period."""
        it_power, facility_power = self.power(t, s, n, m, ell)
        e_it = it_power * self.delta[t] / J_PER_KWH
        e = facility_power * self.delta[t] / J_PER_KWH
        waiting = self.waiting_request_s(t, n, m, self.utilisation(n, m, ell))
        if self.waiting_is_curved(n, m):
            waiting = 0.0
        return {
            **self._per_use(t, s, n, m, e_it, e, self.delta[t]),
            "ttft_queue_request_s": waiting,
            "ttft_request_s": waiting,
            **{
                name: coefficient[t][s][n][m][ell] * self.delta[t]
                for name, coefficient in self.custom_per_instance_s.items()
            },
        }

    def per_filled(self, t: int, s: int, n: int, m: int, ell: int, i: int) -> dict[str, float]:
        """Metrics of one instance at the utilisation of a point through the period."""
        waiting = self.waiting_request_s(t, n, m, self.points(n, m, ell)[i])
        return {"ttft_queue_request_s": waiting, "ttft_request_s": waiting}

    def per_start(self, b: int, s: int, n: int, m: int) -> dict[str, float]:
        """Metrics of one start at the beginning of the block."""
        e_it, e = self.startup_energy(b, s, n, m)
        return {
            **self._per_use(self.first(b), s, n, m, e_it, e, self.startup_s(n, m)),
            "starts": 1.0,
        }

    def _per_use(
        self, t: int, s: int, n: int, m: int, e_it: float, e: float, seconds: float
    ) -> dict[str, float]:
        """Metrics of one instance's energies and of holding its GPUs."""
        gpu_seconds = self.profiles[n, m].gpus_per_instance * seconds
        h = self.gpu_type[n, m]

        carbon_operational = e * self.carbon[t][s] / 1000
        carbon_embodied = gpu_seconds * self.embodied_kg_per_s(h)
        evaporation = e_it * self.wue[t][s] * (self.cycles[s] - 1) / self.cycles[s]
        blowdown = e_it * self.wue[t][s] / self.cycles[s]
        water_grid = e * self.ewif[t][s]
        cost_energy = e * self.price[t][s] / 1000
        cost_gpu = gpu_seconds / S_PER_H * (self.gpu_price[s][h] if self.gpu_price else 0.0)
        return {
            "energy_kwh": e,
            "energy_it_kwh": e_it,
            "carbon_operational_kg": carbon_operational,
            "carbon_embodied_running_kg": carbon_embodied,
            "carbon_kg": carbon_operational + carbon_embodied,
            "water_evaporation_l": evaporation,
            "water_blowdown_l": blowdown,
            "water_grid_l": water_grid,
            "water_l": evaporation + blowdown + water_grid,
            "water_consumption_l": evaporation + water_grid,
            "cost_energy_usd": cost_energy,
            "cost_gpu_usd": cost_gpu,
            "cost_usd": cost_energy + cost_gpu,
            "gpu_h": gpu_seconds / S_PER_H,
        }

    def embodied_kg_per_s(self, h: int) -> float:
        """Embodied carbon that one running GPU is charged per second."""
        if self.instance.embodied_charge != "running":
            return 0.0
        gpu = self.instance.gpu_types[h]
        return gpu.embodied_kg / gpu.lifetime_s

    def per_request(self, t: int, o: int, k: int, s: int, m: int, g: int) -> dict[str, float]:
        """Metrics of one served request."""
        gigabytes = self.instance.classes[k].egress_bytes_per_request / 1e9
        cost_egress = gigabytes * self.egress_price[o][s]
        ttft = self.ttft(o, k, s, m, g)
        return {
            "cost_egress_usd": cost_egress,
            "cost_usd": cost_egress,
            "ttft_warm_request_s": ttft,
            "ttft_request_s": ttft,
            "requests": 1.0,
            **{
                name: coefficient[t][o][k][s][m]
                for name, coefficient in self.custom_per_request.items()
            },
        }

    def ttft(self, o: int, k: int, s: int, m: int, g: int) -> float:
        """Mean time to first token of a request, s."""
        first_level = self.groups[self.model_of[k], m][g][0]
        prefill = self.prefill(k, m, first_level, "mean")
        return float(self.rtt[o][s] + self.last_mile[o] + prefill)

    def per_startup_wait(self, b: int, k: int, s: int, m: int) -> dict[str, float]:
        """Metrics of one request that waits for a starting instance."""
        wait = self.startup_s(self.model_of[k], m)
        return {"ttft_startup_request_s": wait, "ttft_request_s": wait}

    def per_deferred(self, t: int, o: int, k: int) -> dict[str, float]:
        """Metrics of one request that is held back at the end of a period."""
        return {"deferral_request_s": self.theta[t + 1] - self.theta[t]}

    def per_unmet(self, t: int, o: int, k: int) -> dict[str, float]:
        """Metrics of one request that is not served."""
        price = self.instance.classes[k].unmet_price_usd
        assert price is not None
        return {"unmet_requests": 1.0, "unmet_usd": price}

    def per_peak_kw(self, s: int) -> dict[str, float]:
        """Metrics of one kW of peak power."""
        return {"cost_demand_usd": self.demand_charge[s], "cost_usd": self.demand_charge[s]}

    @cached_property
    def custom_per_request(self) -> dict[str, Any]:
        """Coefficients of custom metrics over (t, o, k, s, m), nested lists."""
        return self._custom("per_request", FLOW_AXES)

    @cached_property
    def custom_per_instance_s(self) -> dict[str, Any]:
        """Coefficients of custom metrics over (t, s, n, m, l), nested lists."""
        return self._custom("per_instance_s", INSTANCE_AXES)

    def _custom(self, field: str, axes: Sequence[str]) -> dict[str, Any]:
        sizes = [len(self.instance.sets[axis]) for axis in axes]
        given = {metric.name: getattr(metric, field) for metric in self.instance.custom_metrics}
        return {
            name: array.over(axes, sizes).tolist()
            for name, array in given.items()
            if array is not None
        }

    @cached_property
    def budget_limits(self) -> dict[tuple[int, int, int], float]:
        """Finite limit of every budget entry (i, t, s); -1 where the limit has no such axis."""
        found: dict[tuple[int, int, int], float] = {}
        for i, budget in enumerate(self.instance.budgets):
            axes, values = budget.limit.axes, budget.limit.values
            for entry in np.ndindex(values.shape):
                at = dict(zip(axes, entry, strict=True))
                if math.isfinite(values[entry]):
                    found[i, at.get("period", -1), at.get("site", -1)] = float(values[entry])
        return dict(sorted(found.items()))

    @cached_property
    def instance_limits(self) -> dict[tuple[int, int, int, int, int], float]:
        """Finite limit of every entry (i, b, s, n, m); -1 where the limit has no such axis."""
        found: dict[tuple[int, int, int, int, int], float] = {}
        for i, one in enumerate(self.instance.instance_limits):
            for entry in np.ndindex(one.limit.values.shape):
                at = dict(zip(one.limit.axes, entry, strict=True))
                snm = [at.get(axis, -1) for axis in RUNNING_AXES[1:]]
                for b, periods in enumerate(self.blocks):
                    if "period" in at and at["period"] not in periods:
                        continue
                    key = (i, b, snm[0], snm[1], snm[2])
                    limit = float(one.limit.values[entry])
                    found[key] = min(limit, found.get(key, math.inf))
        return {key: limit for key, limit in sorted(found.items()) if math.isfinite(limit)}


# Variables


def _add_flows_and_instances(model: pyo.ConcreteModel) -> None:
    """Add x, y and η."""
    data = model.data
    model.flow = pyo.Var(
        data.flow_index,
        domain=lambda _, t, o, k, s, m, g: _domain(data.whole_requests and data.one_group(k, m)),
        bounds=lambda _, t, o, k, s, m, g: (0.0, 2 * data.servable[t, o, k]),
    )
    model.instances = pyo.Var(
        data.instance_index,
        domain=lambda _, t, s, n, m, ell: _domain(data.whole_serving(n, m)),
        bounds=lambda _, *tsnml: (0.0, _finite(2 * data.most_instances(*tsnml))),
    )
    model.filled = pyo.Var(
        data.filled_index,
        bounds=lambda _, *tsnmli: (0.0, 2 * data.most_instances(*tsnmli[:5])),
    )


def _add_running_and_starts(model: pyo.ConcreteModel) -> None:
    """Add N, S and Z."""
    data = model.data
    model.running = pyo.Var(
        data.running_index,
        domain=_domain(data.whole_instances),
        bounds=lambda _, *bsnm: data.running_bounds(*bsnm),
    )
    model.starts = pyo.Var(
        data.starts_index,
        domain=_domain(data.whole_instances),
        bounds=lambda _, *bsnm: (0.0, data.largest_count(*bsnm)),
    )
    model.startup_waits = pyo.Var(
        data.startup_waits_index,
        bounds=lambda _, b, k, s, m: (
            0.0,
            2 * sum(data.servable[data.first(b), o, k] for o in data.origins),
        ),
    )


def _add_other_requests(model: pyo.ConcreteModel) -> None:
    """Add Q, X and u."""
    data = model.data
    model.deferred = pyo.Var(
        data.deferred_index, bounds=lambda _, *tok: (0.0, 2 * data.most_deferred[tok])
    )
    model.whole_flow = pyo.Var(
        data.whole_flow_index,
        domain=pyo.Integers,
        bounds=lambda _, t, o, k, s, m: (0.0, 2 * data.servable[t, o, k]),
    )
    priced = [k for k in data.classes if data.instance.classes[k].unmet_price_usd is not None]
    model.unmet = pyo.Var(
        list(product(data.periods, data.origins, priced)),
        bounds=lambda _, *tok: (0.0, 2 * data.servable[tok]),
    )


def _add_peak_and_site_max(model: pyo.ConcreteModel) -> None:
    """Add q and z."""
    data = model.data
    model.peak_kw = pyo.Var(
        data.sites if data.demand_charge else [],
        bounds=lambda _, s: (0.0, _finite(2 * data.highest_peak_kw(s))),
    )
    largest = {ij: _largest_site_total(model, *ij) for ij in data.site_max_index}
    model.site_max = pyo.Var(
        data.site_max_index,
        bounds=lambda _, *ij: (_finite(-largest[ij]), _finite(largest[ij])),
    )


def _largest_site_total(model: pyo.ConcreteModel, i: int, j: int) -> float:
    """Return R: no site's total in the term can be larger in absolute value."""
    metric = model.data.instance.objective[i].terms[j].metric
    return max(
        sum(abs(c) * (math.inf if v.ub is None else v.ub) for c, v in _columns(model, metric, s=s))
        for s in model.data.sites
    )


# Coefficients


def _columns(
    model: pyo.ConcreteModel, name: str, t: int | None = None, s: int | None = None
) -> list[tuple[float, Any]]:
    """Nonzero coefficients of a metric with their variables, over the scope."""
    _check_scope(model.data, name, t, s)
    if name == "ttft_mean_s":
        return _ttft_mean_columns(model)
    found = [
        (coefficients(*index).get(name, 0.0), variable)
        for variables, place, coefficients in _kinds(model)
        for index, variable in _in_scope(variables, t, s, place)
    ]
    return [(c, v) for c, v in found if c != 0]


def _kinds(model: pyo.ConcreteModel) -> list[tuple[Any, Place, Callable[..., dict[str, float]]]]:
    """Variables that enter metrics: period and site they belong to, and coefficients, by index."""
    data = model.data
    return [
        (model.flow, lambda t, o, k, s, m, g: (t, s), data.per_request),
        (model.instances, lambda t, s, n, m, ell: (t, s), data.per_instance),
        (model.filled, lambda t, s, n, m, ell, i: (t, s), data.per_filled),
        (model.starts, lambda b, s, n, m: (data.first(b), s), data.per_start),
        (model.startup_waits, lambda b, k, s, m: (data.first(b), s), data.per_startup_wait),
        (model.deferred, lambda t, o, k: (t, None), data.per_deferred),
        (model.unmet, lambda t, o, k: (t, None), data.per_unmet),
        (model.peak_kw, lambda s: (None, s), data.per_peak_kw),
    ]


def _ttft_mean_columns(model: pyo.ConcreteModel) -> list[tuple[float, Any]]:
    """Spread the time to first token over all demand, which is all served."""
    demand = sum(sum(map(sum, by_origin)) for by_origin in model.data.d)
    if demand == 0:
        return []
    return [(c / demand, v) for c, v in _columns(model, "ttft_request_s")]


def _in_scope(
    variables: Any, t: int | None, s: int | None, place: Place
) -> Iterable[tuple[tuple[int, ...], Any]]:
    """Variables of one period and one site, given where these stand in the index."""
    for key, variable in variables.items():
        index = key if isinstance(key, tuple) else (key,)
        period, site = place(*index)
        if t in (None, period) and s in (None, site):
            yield index, variable


def _check_scope(data: Data, name: str, t: int | None, s: int | None) -> None:
    """Refuse what is no linear metric of the scope."""
    if name not in METRICS and name not in [c.name for c in data.instance.custom_metrics]:
        raise ValueError(f"{name!r} is not a metric that is linear in the decisions")
    if s is not None and name in SITELESS:
        raise ValueError(f"{name} belongs to no site")
    if t is not None and data.demand_charge and name in ("cost_usd", "cost_demand_usd"):
        raise ValueError(f"{name} has the demand charge, which belongs to no single period")
    if name == "ttft_mean_s" and not (t is s is None and not data.instance.unmet_allowed):
        raise ValueError("ttft_mean_s is linear only in total and when all demand is met")


# Rows


def _add_service_rows(model: pyo.ConcreteModel) -> None:
    """Add the rows that serve demand, in time, on instances, in whole numbers."""
    data = model.data
    model.demand = pyo.Constraint(
        list(product(data.periods, data.origins, data.classes)), rule=_demand_row
    )
    model.deadline = pyo.Constraint(
        data.deferred_index,
        rule=lambda model, *tok: model.deferred[tok] <= data.most_deferred[tok],
    )
    # Pyomo keeps the name `load` for itself.
    model.load_row = pyo.Constraint(
        [
            (t, s, n, m, g)
            for t in data.periods
            for s, n, m in data.held
            for g in range(len(data.groups[n, m]))
        ],
        rule=_load_row,
    )
    model.filled_row = pyo.Constraint(
        sorted({tsnmli[:5] for tsnmli in data.filled_index}), rule=_filled_row
    )
    model.whole = pyo.Constraint(data.whole_flow_index, rule=_whole_row)


def _demand_row(model: pyo.ConcreteModel, t: int, o: int, k: int) -> Any:
    data, n = model.data, model.data.model_of[k]
    columns = [
        (t, o, k, s, m, g)
        for s, (model_, m) in product(data.sites, data.profiles)
        if model_ == n
        for g in range(len(data.groups[n, m]))
    ]
    served = pyo.quicksum(model.flow[index] for index in columns if index in model.flow)
    unmet = model.unmet[t, o, k] if (t, o, k) in model.unmet else 0.0
    later = model.deferred[t, o, k] if (t, o, k) in model.deferred else 0.0
    earlier = model.deferred[t - 1, o, k] if (t - 1, o, k) in model.deferred else 0.0
    return _equal(model, served + unmet + later - earlier, data.d[t][o][k])


def _load_row(model: pyo.ConcreteModel, t: int, s: int, n: int, m: int, g: int) -> Any:
    data = model.data
    work = pyo.quicksum(
        data.work(k, m) * model.flow[t, o, k, s, m, g]
        for o, k in product(data.origins, data.classes)
        if data.model_of[k] == n and (t, o, k, s, m, g) in model.flow
    )
    served = pyo.quicksum(
        data.delta[t] * rate * instances
        for ell in data.groups[n, m][g]
        for rate, instances in _rates(model, t, s, n, m, ell)
        if rate != 0
    )
    if data.instance.load_rule == "at_most":
        return _at_most(model, work - served, 0.0)
    return _equal(model, work - served, 0.0)


def _rates(
    model: pyo.ConcreteModel, t: int, s: int, n: int, m: int, ell: int
) -> list[tuple[float, Any]]:
    """Reference requests per second and instance at a level: by point where waiting is a curve."""
    data = model.data
    points = data.points(n, m, ell)
    if not points:
        return [(data.level(n, m, ell).requests_per_s, model.instances[t, s, n, m, ell])]
    service_s = data.profiles[n, m].queue.service_s
    return [(u / service_s, model.filled[t, s, n, m, ell, i]) for i, u in enumerate(points)]


def _filled_row(model: pyo.ConcreteModel, t: int, s: int, n: int, m: int, ell: int) -> Any:
    points = range(len(model.data.points(n, m, ell)))
    filled = pyo.quicksum(model.filled[t, s, n, m, ell, i] for i in points)
    return filled - model.instances[t, s, n, m, ell] == 0.0


def _whole_row(model: pyo.ConcreteModel, t: int, o: int, k: int, s: int, m: int) -> Any:
    data = model.data
    columns = [(t, o, k, s, m, g) for g in range(len(data.groups[data.model_of[k], m]))]
    served = pyo.quicksum(model.flow[index] for index in columns if index in model.flow)
    return served - model.whole_flow[t, o, k, s, m] == 0.0


def _add_running_rows(model: pyo.ConcreteModel) -> None:
    """Add the rows on numbers of running instances, and on who waits for their starts."""
    data = model.data
    counted = data.held if data.counts_instances else []
    waited = [(b, s, n, m) for b, s, n, m in data.starts_index if data.startup_s(n, m) > 0]
    model.running_row = pyo.Constraint(
        [(t, *snm) for t, snm in product(data.periods, counted)], rule=_running_row
    )
    model.start = pyo.Constraint(data.starts_index, rule=_start_row)
    model.min_up = pyo.Constraint(data.starts_index, rule=_min_up_row)
    model.startup_share = pyo.Constraint(data.startup_waits_index, rule=_startup_share_row)
    model.startup_wait = pyo.Constraint(waited, rule=_startup_wait_row)
    model.instance_limit = pyo.Constraint(list(data.instance_limits), rule=_instance_limit_row)


def _running_row(model: pyo.ConcreteModel, t: int, s: int, n: int, m: int) -> Any:
    data, b = model.data, model.data.block[t]
    serving = pyo.quicksum(model.instances[t, s, n, m, ell] for ell in data.levels(n, m))
    starting = 0.0
    if t == data.first(b) and data.startup_s(n, m) > 0:
        starting = data.startup_s(n, m) / data.delta[t] * model.starts[b, s, n, m]
    return serving + starting - model.running[b, s, n, m] == 0.0


def _start_row(model: pyo.ConcreteModel, b: int, s: int, n: int, m: int) -> Any:
    more = model.running[b, s, n, m] - model.starts[b, s, n, m]
    if b == 0:
        return more <= model.data.initial[s][n][m]
    return more - model.running[b - 1, s, n, m] <= 0.0


def _min_up_row(model: pyo.ConcreteModel, b: int, s: int, n: int, m: int) -> Any:
    data = model.data
    begun = [data.theta[data.first(block)] for block in range(b + 1)]
    young = [
        model.starts[block, s, n, m]
        for block in range(b + 1)
        if block == b or begun[b] - begun[block] < data.profiles[n, m].min_up_s
    ]
    return pyo.quicksum(young) - model.running[b, s, n, m] <= 0.0


def _startup_share_row(model: pyo.ConcreteModel, b: int, k: int, s: int, m: int) -> Any:
    data, n = model.data, model.data.model_of[k]
    share = data.startup_s(n, m) / data.delta[data.first(b)]
    arrived = pyo.quicksum(x for _, x in _served_in_first_period(model, b, s, n, m, (k,)))
    return model.startup_waits[b, k, s, m] - share * arrived <= 0.0


def _startup_wait_row(model: pyo.ConcreteModel, b: int, s: int, n: int, m: int) -> Any:
    data = model.data
    tau = data.startup_s(n, m)
    classes = [k for k in data.classes if data.model_of[k] == n]
    arrived = pyo.quicksum(
        data.work(k, m) * x for k, x in _served_in_first_period(model, b, s, n, m, classes)
    )
    waiting = pyo.quicksum(data.work(k, m) * model.startup_waits[b, k, s, m] for k in classes)
    full = data.profiles[n, m].levels[-1].requests_per_s
    ready = model.running[b, s, n, m] - model.starts[b, s, n, m]
    return tau / data.delta[data.first(b)] * arrived - waiting - tau * full * ready <= 0.0


def _served_in_first_period(
    model: pyo.ConcreteModel, b: int, s: int, n: int, m: int, classes: Sequence[int]
) -> list[tuple[int, Any]]:
    """Class and flow variable of what a profile serves at a site in a block's first period."""
    data, t = model.data, model.data.first(b)
    groups = range(len(data.groups[n, m]))
    return [
        (k, model.flow[t, o, k, s, m, g])
        for o, k, g in product(data.origins, classes, groups)
        if (t, o, k, s, m, g) in model.flow
    ]


def _instance_limit_row(model: pyo.ConcreteModel, i: int, b: int, s: int, n: int, m: int) -> Any:
    inside = [
        running
        for (block, *snm), running in model.running.items()
        if block == b
        if all(wanted in (-1, at) for wanted, at in zip((s, n, m), snm, strict=True))
    ]
    if not inside:
        return pyo.Constraint.Skip
    return pyo.quicksum(inside) <= model.data.instance_limits[i, b, s, n, m]


def _add_gpus_rows(model: pyo.ConcreteModel) -> None:
    """Add the rows that put instances on GPUs."""
    data = model.data
    model.gpus = pyo.Constraint(
        [
            (t, s, h)
            for t, s, h in product(data.periods, data.sites, data.gpu_types)
            if math.isfinite(data.gpus[t][s][h]) and h in data.gpu_type.values()
        ],
        rule=_gpus_row,
    )


def _gpus_row(model: pyo.ConcreteModel, t: int, s: int, h: int) -> Any:
    data = model.data
    taken = pyo.quicksum(
        data.profiles[n, m].gpus_per_instance * _number(model, t, s, n, m)
        for site, n, m in data.held
        if site == s and data.gpu_type[n, m] == h
    )
    return _at_most(model, taken, data.gpus[t][s][h])


def _number(model: pyo.ConcreteModel, t: int, s: int, n: int, m: int) -> Any:
    """Instances that hold GPUs: those running where they are counted, else those serving."""
    data = model.data
    if data.counts_instances:
        return model.running[data.block[t], s, n, m]
    return pyo.quicksum(model.instances[t, s, n, m, ell] for ell in data.levels(n, m))


def _add_power_rows(model: pyo.ConcreteModel) -> None:
    """Add the rows on facility power: the cap, and the peak that is charged."""
    data = model.data
    everywhere = list(product(data.periods, data.sites))
    capped = data.power_cap is not None
    model.power_cap = pyo.Constraint(
        [(t, s) for t, s in everywhere if capped and math.isfinite(data.power_cap[t][s])],
        rule=lambda model, t, s: _at_most(
            model, _facility_power(model, t, s), data.power_cap[t][s]
        ),
    )
    model.peak = pyo.Constraint(
        everywhere if data.demand_charge else [],
        rule=lambda model, t, s: _facility_power(model, t, s) / 1000 - model.peak_kw[s] <= 0.0,
    )


def _facility_power(model: pyo.ConcreteModel, t: int, s: int) -> Any:
    """Facility power of the instances running and starting at a site in a period, W."""
    data, b = model.data, model.data.block[t]
    serving = [
        (data.power(t, s, n, m, ell)[1], model.instances[t, s, n, m, ell])
        for site, n, m in data.held
        if site == s
        for ell in data.levels(n, m)
    ]
    starting = [
        (data.startup_power(*bsnm), model.starts[bsnm])
        for bsnm in data.starts_index
        if bsnm[:2] == (b, s) and t == data.first(b)
    ]
    return pyo.quicksum(watts * v for watts, v in serving + starting if watts != 0)


def _add_metric_rows(model: pyo.ConcreteModel) -> None:
    """Add the rows on metrics: budgets, and largest site totals."""
    data = model.data
    model.budget = pyo.Constraint(list(data.budget_limits), rule=_budget_row)
    model.site_max_row = pyo.Constraint(
        [(i, j, s) for (i, j), s in product(data.site_max_index, data.sites)],
        rule=_site_max_row,
    )


def _budget_row(model: pyo.ConcreteModel, i: int, t: int, s: int) -> Any:
    metric = model.data.instance.budgets[i].metric
    limit = model.data.budget_limits[i, t, s]
    period, site = None if t == -1 else t, None if s == -1 else s
    if metric != "ttft_mean_s":
        return _at_most(model, metric_expression(model, metric, period, site), limit)
    excess = [
        (model.data.per_request(*index)["ttft_warm_request_s"] - limit, x)
        for index, x in _in_scope(model.flow, period, site, lambda t, o, k, s, m, g: (t, s))
    ]
    excess += _columns(model, "ttft_startup_request_s", period, site)
    excess += _columns(model, "ttft_queue_request_s", period, site)
    return _at_most(model, pyo.quicksum(c * v for c, v in excess if c != 0), 0.0)


def _site_max_row(model: pyo.ConcreteModel, i: int, j: int, s: int) -> Any:
    metric = model.data.instance.objective[i].terms[j].metric
    return metric_expression(model, metric, s=s) - model.site_max[i, j] <= 0.0


def _add_balance(model: pyo.ConcreteModel) -> None:
    """Add v and its rows: all instances of a model and mode at a site at one level."""
    data = model.data
    even = data.instance.balance == "even"
    if even and any(math.isinf(data.most_instances(*tsnml)) for tsnml in data.instance_index):
        raise ValueError('balance "even" needs finite GPUs where a profile has an idle level')
    held = [(t, *snm) for t, snm in product(data.periods, data.held)]
    model.used = pyo.Var(data.instance_index if even else [], domain=pyo.Binary)
    model.one_level = pyo.Constraint(
        held if even else [],
        rule=lambda model, t, s, n, m: (
            pyo.quicksum(model.used[t, s, n, m, ell] for ell in data.levels(n, m)) <= 1.0
        ),
    )
    model.level_used = pyo.Constraint(data.instance_index if even else [], rule=_level_used_row)


def _level_used_row(model: pyo.ConcreteModel, *tsnml: int) -> Any:
    most = model.data.most_instances(*tsnml)
    return model.instances[tsnml] - most * model.used[tsnml] <= 0.0


def _equal(model: pyo.ConcreteModel, body: Any, value: float) -> Any:
    """Row body = value, also when the body has no variable."""
    return _row(model, body, lambda left: left == value)


def _at_most(model: pyo.ConcreteModel, body: Any, value: float) -> Any:
    """Row body <= value, also when the body has no variable."""
    return _row(model, body, lambda left: left <= value)


def _row(model: pyo.ConcreteModel, body: Any, relation: Callable[[Any], Any]) -> Any:
    if not isinstance(body, int | float):
        return relation(body)
    if relation(body):
        return pyo.Constraint.Skip
    if model.component("nothing") is None:
        model.nothing = pyo.Var(bounds=(0.0, 0.0))
    return relation(model.nothing + body)


# Objective


def _add_objective(model: pyo.ConcreteModel, stage: int, fixed: Sequence[float]) -> None:
    """Add the stage to minimise and the rows that keep the stages before it."""

    def keep(model: pyo.ConcreteModel, i: int) -> Any:
        tolerance = model.data.instance.objective[i].tolerance
        return _at_most(model, _stage_value(model, i), fixed[i] + tolerance * max(abs(fixed[i]), 1))

    model.stage = pyo.Constraint(list(range(stage)), rule=keep)
    model.objective = pyo.Objective(expr=_stage_value(model, stage), sense=pyo.minimize)


def _stage_value(model: pyo.ConcreteModel, i: int) -> Any:
    """Weighted sum of a stage: weight / scale times φ of every term."""
    value = []
    for j, term in enumerate(model.data.instance.objective[i].terms):
        if term.weight == 0:
            continue
        factor = term.weight / term.scale
        if term.over_sites == "max":
            value.append((factor, model.site_max[i, j]))
            continue
        if term.over_sites == "mean":
            factor /= len(model.data.sites)
        value += [(factor * c, v) for c, v in _columns(model, term.metric)]
    return pyo.quicksum(c * v for c, v in value)


# Small mathematics


def _mean(lengths: Distribution) -> float:
    return sum(x * share for x, share in zip(lengths.values, lengths.probabilities, strict=True))


def _percentile(lengths: Distribution, statistic: str) -> float:
    """Smallest length whose cumulated probability reaches the statistic's share."""
    share = _share(statistic)
    cumulated, total = 0.0, sum(lengths.probabilities)
    for value, probability in zip(lengths.values, lengths.probabilities, strict=True):
        cumulated += probability
        # Probabilities of 0.9 and 0.05 reach 95 %, whatever their floating-point sum.
        if cumulated >= share * total * (1 - 1e-12):
            return value
    return lengths.values[-1]


def _share(statistic: str) -> float:
    """Share of a percentile or, for "max", of all."""
    return 1.0 if statistic == "max" else float(statistic.removeprefix("p")) / 100


def _interpolate(x: float, xs: Sequence[float], ys: Sequence[float]) -> float:
    """Piecewise linear curve through (xs, ys) at x, which lies within."""
    for (x0, y0), (x1, y1) in pairwise(zip(xs, ys, strict=True)):
        if x0 <= x <= x1:
            return y0 + (y1 - y0) / (x1 - x0) * (x - x0)
    raise ValueError(f"{x:g} lies outside the curve, {xs[0]:g} to {xs[-1]:g}")


def _domain(whole: bool) -> Any:
    """Domain of a variable: whole numbers or any."""
    return pyo.Integers if whole else pyo.Reals


def _times(a: float, b: float) -> float:
    """Product in which nothing times infinity is nothing."""
    return 0.0 if 0.0 in (a, b) else a * b


def _finite(bound: float) -> float | None:
    """Bound as Pyomo wants it: None for no bound."""
    return bound if math.isfinite(bound) else None


def _optional_list(array: Any) -> Any:
    return None if array is None else array.tolist()
