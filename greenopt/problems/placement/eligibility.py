"""Which class may run where and at which level, and how long it may be held back."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from greenopt.labelled import FloatArray, IntArray
from greenopt.physics import kv_cache, latency, queueing
from greenopt.problems.placement.instance import (
    PlacementInstance,
    Profile,
    RequestClass,
    Statistic,
)

SLACK = 1e-9
"""Relative slack of latency and memory limits, so that equality in the data counts."""
LevelKeys = Sequence[Sequence[Hashable]]
"""A key for each level of each profile."""


def prefill_statistic(k: RequestClass, profile: Profile, level: int, name: Statistic) -> float:
    """Prefill time of a class at a level: its mean, or at a statistic of the prompt length."""
    grid, curve = profile.prefill_tokens, profile.levels[level].prefill_s
    if name == "mean":
        times = latency.prefill_s(k.prompt_tokens.values, grid, curve)
        return float(np.dot(times, k.prompt_tokens.probabilities))
    return float(latency.prefill_s(k.prompt_tokens.statistic(name), grid, curve))


def wait_statistic(k: RequestClass, profile: Profile, level: int, name: Statistic) -> float:
    """Time a class waits in the queue of an instance at the full load of a level, s."""
    queue = profile.queue
    if queue is None:
        return 0.0
    full = profile.levels[level].requests_per_s * queue.service_s
    service_s = k.work_per_request[profile.mode] * queue.service_s
    law = (full, service_s, queue.service_cv2, queue.arrival_cv2)
    if name == "mean":
        return float(queueing.mean_wait_s(*law))
    return float(queueing.wait_quantile_s(*law, share=float(name[1:]) / 100))


def serving_statistic(k: RequestClass, profile: Profile, level: int) -> float:
    """Wait and prefill of a class at a level, at the statistic of its TTFT limit, s."""
    name = k.ttft_statistic
    return prefill_statistic(k, profile, level, name) + wait_statistic(k, profile, level, name)


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


def services(
    inst: PlacementInstance, everywhere: bool = False, apart: LevelKeys | None = None
) -> list[Service]:
    """Eligibility and level groups of every profile.

    Parameters
    ----------
    inst : PlacementInstance
        Whose.
    everywhere : bool
        As if no site were without GPUs.
    apart : sequence of sequence of hashable, optional
        A key for each level of each profile; levels of different keys are in different groups.
    """
    gpu_type = {name: i for i, name in enumerate(inst.sets["gpu_type"])}
    mode = {name: i for i, name in enumerate(inst.modes)}
    result = []
    for index, profile in enumerate(inst.profiles):
        holds = everywhere | (inst.gpus[:, :, gpu_type[profile.gpu_type]].max(axis=0) > 0)
        classes = np.array([i for i, k in enumerate(inst.classes) if k.model == profile.model], int)
        eligible = np.array(
            [
                [
                    _eligible(inst, inst.classes[k], profile, level)
                    for level in range(len(profile.levels))
                ]
                for k in classes
            ],
            dtype=bool,
        ).reshape(len(classes), len(profile.levels), len(inst.origins), len(inst.sites))
        offered = eligible & holds
        if inst.reachable is not None:
            reach: Any = inst.reachable[:, :, :, :, mode[profile.mode]].any(axis=0)
            offered &= np.moveaxis(reach[:, classes], 0, 1)[:, None]
        keys: Sequence[Hashable] | None = apart[index] if apart else None
        if profile.queue and inst.load_rule == "at_most":  # each level has a queue of its own
            keys = range(len(profile.levels))
        group = _groups(profile, offered, keys)
        result.append(Service(index, profile, holds, classes, eligible, group))
    return result


def _eligible(inst: PlacementInstance, k: RequestClass, profile: Profile, level: int) -> Any:
    """Whether the level serves the class within its limits, by origin and site."""
    allowed = np.ones((len(inst.origins), len(inst.sites)), dtype=bool)
    measured = profile.levels[level]
    if k.ttft_limit_s is not None:
        ttft = inst.rtt_s + inst.last_mile_s[:, None] + serving_statistic(k, profile, level)
        allowed &= ttft <= k.ttft_limit_s * (1 + SLACK)
    if k.tbt_limit_s is not None:
        allowed &= measured.itl_s[k.tbt_statistic] <= k.tbt_limit_s * (1 + SLACK)
    return allowed & _fits_memory(inst, k, profile, level)


def _fits_memory(inst: PlacementInstance, k: RequestClass, profile: Profile, level: int) -> bool:
    """Whether the batch that Little's law implies fits beside the weights."""
    need, room = kv_need_and_room_bytes(inst, k, profile, level)
    return need <= room * (1 + SLACK)


def kv_need_and_room_bytes(
    inst: PlacementInstance, k: RequestClass, profile: Profile, level: int
) -> tuple[float, float]:
    """KV cache of an instance that serves a class alone, and what fits (not modelled: 0, inf)."""
    model = next(n for n in inst.models if n.name == k.model)
    gpu = next(h for h in inst.gpu_types if h.name == profile.gpu_type)
    if model.weight_bytes is None or model.kv_bytes_per_token is None or gpu.memory_bytes is None:
        return 0.0, np.inf
    measured = profile.levels[level]
    tokens_out = k.output_tokens.mean
    residence = prefill_statistic(k, profile, level, "mean") + tokens_out * measured.itl_s["mean"]
    rate = measured.requests_per_s / k.work_per_request[profile.mode]
    batch = kv_cache.batch_by_littles_law(rate, residence)
    room = kv_cache.kv_capacity_bytes(
        profile.gpus_per_instance, gpu.memory_bytes, gpu.usable_memory_fraction, model.weight_bytes
    )
    return batch * (k.prompt_tokens.mean + tokens_out) * model.kv_bytes_per_token, room


def _groups(profile: Profile, offered: Any, apart: Sequence[Hashable] | None = None) -> IntArray:
    """Number the groups of levels that latency does not tell apart, by their lowest level."""
    known: dict[tuple[Hashable, ...], int] = {}
    keys = [
        (offered[:, level].tobytes(), measured.prefill_s, apart[level] if apart else None)
        for level, measured in enumerate(profile.levels)
    ]
    return np.array([known.setdefault(key, len(known)) for key in keys], dtype=np.int64)


def stock_limits(inst: PlacementInstance) -> FloatArray:
    """Requests that may still be held back after each period, by (period, origin, class)."""
    begin = inst.periods.begin_s
    limits = np.zeros(inst.demand_requests.shape)
    for index, k in enumerate(inst.classes):
        if k.deferral_limit_s is not None:
            wait = begin[1:, None] - begin[None, :-1]  # until the next period, by period of arrival
            may = (wait >= 0) & (wait <= k.deferral_limit_s * (1 + SLACK))
            arrived = np.tril(np.ones_like(wait, dtype=bool))
            limits[:-1, :, index] = (may & arrived) @ inst.demand_requests[:-1, :, index]
    return limits
