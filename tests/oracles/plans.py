"""Plans given entry by entry, and a small instance with a queue to try them on."""

from __future__ import annotations

from typing import Any

import numpy as np
from oracles.tiny import tiny

import greenopt as go
from greenopt.labelled import LabelledArray
from greenopt.problems.placement.check import ARRAYS, Evaluation, evaluate

Plan = dict[str, dict[tuple[int, ...], float]]
"""Values of each array of a decision by codes along its axes."""


def judged(instance: go.PlacementInstance, plan: Plan) -> Evaluation:
    """What the checker says of a plan."""
    decision = {}
    for name, entries in plan.items():
        axes = ARRAYS.get(name, ("period",))
        codes = np.array(list(entries), dtype=int).reshape(-1, len(axes)).T
        labels = {a: instance.sets[a] for a in axes}
        values = np.array(list(entries.values()), dtype=float)
        decision[name] = LabelledArray(name, "", labels, codes, values)
    return evaluate(instance, decision)


def queued(
    queue: dict[str, float] | None = None, levels: tuple[float, ...] = (0.5, 0.9), **changes: Any
) -> go.PlacementInstance:
    """One hour, origin, site, mode and class: 1,440 requests, each of 2 reference requests.

    A reference request takes 1 s of its instance, so one instance for all is at 0.8; two are at
    0.4. Network and prefill take 0.25 s. An instance draws 1 kW and costs 4 USD an hour besides.

    Parameters
    ----------
    queue : dict, optional
        Fields of the queue that differ from M/M/1.
    levels : tuple of float
        Reference requests per second at each level.
    **changes
        Fields of the instance to replace.
    """
    profile = {
        "model": "llm",
        "mode": "only",
        "gpu_type": "gpu",
        "gpus_per_instance": 1.0,
        "power_boundary": "facility",
        "prefill_tokens": [0.0, 1000.0],
        "levels": [
            {
                "requests_per_s": rate,
                "power_w": 1000.0,
                "itl_s": {"mean": 0.02},
                "prefill_s": [0.1, 0.3],
            }
            for rate in levels
        ],
        "queue": {"service_s": 1.0, "service_cv2": 1.0, "arrival_cv2": 1.0, **(queue or {})},
    }
    document = {
        **tiny(),
        "name": "queued",
        "periods": {"start": ["2023-01-01T00:00Z"], "duration_s": [3600.0]},
        "origins": ["here"],
        "sites": ["there"],
        "modes": ["only"],
        "models": [{"name": "llm", "weight_bytes": None, "kv_bytes_per_token": None}],
        "gpu_types": [
            {"name": "gpu", "memory_bytes": None, "embodied_kg": 0.0, "lifetime_s": 31536000.0}
        ],
        "profiles": [profile],
        "classes": [chat()],
        "load_rule": "at_most",
        "demand_requests": {"axes": [], "values": 1440.0},
        "gpus": {"axes": [], "values": 80.0},
        **{
            name: {"axes": [], "values": value}
            for name, value in (
                ("carbon_g_per_kwh", 400.0), ("price_usd_per_mwh", 0.0), ("pue", 1.25),
                ("wue_l_per_kwh", 1.5), ("ewif_l_per_kwh", 2.0), ("cycles_of_concentration", 3.0),
                ("rtt_s", 0.04), ("last_mile_s", 0.01), ("egress_usd_per_gb", 0.0),
                ("gpu_usd_per_hour", 4.0),
            )
        },
        "objective": [{"terms": [{"metric": "cost_usd", "weight": 1.0}]}],
        **changes,
    }  # fmt: skip
    return go.PlacementInstance.parse(document)


def chat(**changes: Any) -> dict[str, Any]:
    """The class of `queued`, with fields replaced."""
    return {
        "name": "chat",
        "model": "llm",
        "prompt_tokens": {"values": [500.0], "probabilities": [1.0]},
        "output_tokens": {"values": [100.0], "probabilities": [1.0]},
        "work_per_request": {"only": 2.0},
        "egress_bytes_per_request": 0.0,
        **changes,
    }
