"""Levels at which the latency limits of classes cap the utilisation of queues; our model."""

from __future__ import annotations

from typing import Any

import numpy as np

from greenopt.errors import ModelError
from greenopt.labelled import FloatArray
from greenopt.physics import queueing
from greenopt.problems.placement.eligibility import prefill_statistic, wait_statistic
from greenopt.problems.placement.instance import PlacementInstance, Profile, RequestClass

HALVINGS = 60
"""Of the interval in which a cap lies: to the last digit of double precision."""


def utilisation_cap(k: RequestClass, profile: Profile, wait_s: Any) -> FloatArray:
    """Largest utilisation at which the wait of a class, at its TTFT statistic, is within a time.

    Parameters
    ----------
    k : RequestClass
        With a TTFT limit.
    profile : Profile
        With a queue.
    wait_s : array_like
        Times a request may wait, s.

    Returns
    -------
    ndarray
        Below 1; 0 where even an idle instance is too slow.
    """
    queue = profile.queue
    if queue is None:
        raise ValueError(f"{profile.model} in {profile.mode} has no queue")
    law = (k.work_per_request[profile.mode] * queue.service_s, queue.service_cv2, queue.arrival_cv2)
    allowed = np.asarray(wait_s, dtype=float)
    low, high = np.zeros(allowed.shape), np.ones(allowed.shape)
    for _ in range(HALVINGS):
        middle = np.minimum((low + high) / 2, 1 - 1e-15)
        if k.ttft_statistic == "mean":
            wait = queueing.mean_wait_s(middle, *law)
        else:
            share = float(k.ttft_statistic[1:]) / 100
            wait = queueing.wait_quantile_s(middle, *law, share=share)
        fits = wait <= allowed
        low, high = np.where(fits, middle, low), np.where(fits, high, middle)
    return np.where(allowed >= 0, low, 0.0)


def with_levels_at_caps(instance: PlacementInstance, most: int = 4) -> PlacementInstance:
    """The instance with further levels where TTFT limits cap the utilisation between measured ones.

    A class may use a level when its limit holds at the level's full load; without these, the cap is
    rounded down to a measured level. A new level has the latencies of the measured one above it. By
    `load_rule` "at_most" it draws that one's power too, by "exact" the power in between (and none
    is added below the lowest measured level, where nothing is known of it).

    Parameters
    ----------
    instance : PlacementInstance
        With queues; profiles without one are kept as they are.
    most : int
        New levels between two measured ones, at most. Caps differ between pairs of origin and
        site; of more than this, some are taken at even distance in their order, ends included.

    Raises
    ------
    ModelError
        For what is not a placement instance, or no number of levels.
    InstanceError
        If something of the instance goes by levels, such as a custom metric.
    """
    if not isinstance(instance, PlacementInstance):
        raise ModelError(f"expected a PlacementInstance, got a {type(instance).__name__}")
    if isinstance(most, bool) or not isinstance(most, int) or most < 1:
        raise ModelError(f"most is {most!r}; expected a whole number of at least 1")
    profiles = [_capped(instance, profile, most) for profile in instance.profiles]
    return instance.replace(profiles=[profile.model_dump() for profile in profiles])


def _capped(inst: PlacementInstance, profile: Profile, most: int) -> Profile:
    if profile.queue is None:
        return profile
    levels = []
    for index, level in enumerate(profile.levels):
        below = profile.levels[index - 1] if index else None
        for rate in _rates(inst, profile, index, most):
            power = level.power_w
            if inst.load_rule == "exact" and below is not None:
                share = (rate - below.requests_per_s) / (
                    level.requests_per_s - below.requests_per_s
                )
                power = below.power_w + share * (level.power_w - below.power_w)
            levels.append(level.model_copy(update={"requests_per_s": rate, "power_w": power}))
        levels.append(level)
    return profile.model_copy(update={"levels": tuple(levels)})


def _rates(inst: PlacementInstance, profile: Profile, index: int, most: int) -> list[float]:
    """Loads at caps between a level and the one below it, increasing."""
    assert profile.queue is not None
    if index == 0 and inst.load_rule == "exact":
        return []
    top = profile.levels[index].requests_per_s
    bottom = profile.levels[index - 1].requests_per_s if index else 0.0
    found: list[FloatArray] = []
    for k in inst.classes:
        if k.model != profile.model or k.ttft_limit_s is None:
            continue
        network = inst.rtt_s + inst.last_mile_s[:, None]
        rest = k.ttft_limit_s - network - prefill_statistic(k, profile, index, k.ttft_statistic)
        closed = rest < wait_statistic(k, profile, index, k.ttft_statistic)
        found.append(utilisation_cap(k, profile, rest[closed]) / profile.queue.service_s)
    rates = np.unique(np.concatenate([np.zeros(0), *found]))
    # A cap at a level itself, but for rounding, is that level.
    rates = rates[(rates > bottom * (1 + 1e-9)) & (rates < top * (1 - 1e-9)) & (rates > 0)]
    if len(rates) > most:
        rates = rates[np.unique(np.linspace(0, len(rates) - 1, most).round().astype(int))]
    return [float(rate) for rate in rates]
