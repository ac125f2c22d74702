"""Levels added where latency limits cap the utilisation of queues."""

from __future__ import annotations

from math import log
from typing import Any

import numpy as np
import pytest
from oracles.plans import chat, queued

import greenopt as go
from greenopt.problems.placement.capping import utilisation_cap, with_levels_at_caps


def limited(wait_s: float, statistic: str = "mean", **changes: Any) -> go.PlacementInstance:
    """Levels at 0.5 and 0.9 and a TTFT limit that allows a wait (network and prefill: 0.25 s)."""
    return queued(classes=[chat(ttft_limit_s=0.25 + wait_s, ttft_statistic=statistic)], **changes)


@pytest.mark.parametrize(
    ("statistic", "wait_s", "cap"),
    [
        ("mean", 8.0, 0.8),  # 2 s x 0.8/0.2
        ("mean", 0.0, 0.0),
        ("p95", 10 * log(16.0), 0.8),  # 2 s/0.2 ln(0.8/0.05)
        ("p95", 0.0, 0.05),  # nineteen of twenty find it idle
    ],
)
def test_caps_by_hand(statistic: str, wait_s: float, cap: float) -> None:
    """Utilisation at which an M/M/1 queue waits as long as it may."""
    instance = limited(1.0, statistic)
    found = utilisation_cap(instance.classes[0], instance.profiles[0], [wait_s, -1.0])
    assert found == pytest.approx([cap, 0.0], abs=1e-12)


@pytest.mark.parametrize(("rule", "power_w"), [("at_most", 1000.0), ("exact", 700.0)])
def test_level_at_the_cap(rule: str, power_w: float) -> None:
    """The new level carries the cap; its power is that of the level above, or in between."""
    base = limited(8.0, load_rule=rule)
    low, high = (level.model_dump() for level in base.profiles[0].levels)
    profile = base.profiles[0].model_dump() | {"levels": [low | {"power_w": 100.0 if rule == "exact"
                                                                 else 1000.0}, high]}  # fmt: skip
    levels = with_levels_at_caps(base.replace(profiles=[profile])).profiles[0].levels
    assert [level.requests_per_s for level in levels] == pytest.approx([0.5, 0.8, 0.9])
    expected = 100 + 900 * 0.75 if rule == "exact" else power_w
    assert levels[1].power_w == pytest.approx(expected)
    assert levels[1].prefill_s == levels[2].prefill_s


def test_nothing_to_add() -> None:
    """Limits that hold at every level or at none, and profiles without a queue, add nothing."""
    for instance in (limited(100.0), limited(0.0, levels=(0.5, 0.9)), queued()):
        same = with_levels_at_caps(instance)
        assert same.sha256 == instance.sha256


def test_no_more_than_asked() -> None:
    """Many pairs of origin and site have many caps; the ends are kept."""
    sites = [f"s{i}" for i in range(9)]
    rtt = (0.04 + 0.5 * np.arange(9)).tolist()
    instance = limited(8.0, sites=sites, rtt_s={"axes": ["site"], "values": rtt})
    every = [v.requests_per_s for v in with_levels_at_caps(instance, 20).profiles[0].levels]
    few = [v.requests_per_s for v in with_levels_at_caps(instance, 3).profiles[0].levels]
    assert len(every) == 2 + 9
    assert len(few) == 2 + 3
    assert set(few) <= set(every)
    assert few[1] == every[1]
    assert few[-2] == every[-2]


def test_caps_cost_nothing_and_may_help() -> None:
    """With the level, one instance at 0.8 serves all; without it, 1.6 at 0.5 are needed."""
    instance = limited(8.0)
    coarse, fine = go.solve(instance), go.solve(with_levels_at_caps(instance))
    assert coarse.metrics["gpu_h"] == pytest.approx(1.6)
    assert fine.metrics["gpu_h"] == pytest.approx(1.0)
    assert go.check(with_levels_at_caps(instance), fine).ok
    assert fine.metrics["ttft_queue_request_s"] == pytest.approx(1440 * 8.0)
