"""What a router and an autoscaler take from a plan: shares of requests, and whole instances."""

from __future__ import annotations

from typing import Literal

import numpy as np

from greenopt.errors import ModelError
from greenopt.labelled import LabelledArray
from greenopt.results import Solution


def routing_weights(solution: Solution) -> LabelledArray:
    """For each period, origin and class: the share of served requests by site, mode, level.

    Raises
    ------
    KeyError
        If the solution has no plan.
    """
    flow = solution.array("flow")
    kept = ("period", "origin", "class")
    total = flow.total_over(*kept)
    position = [flow.axes.index(axis) for axis in kept]
    share = flow.values / total[tuple(flow.codes[position])]
    return LabelledArray("weight", "1", flow.labels, flow.codes, share)


def replicas(
    solution: Solution, rounding: Literal["up", "nearest", "down"] = "up"
) -> LabelledArray:
    """Whole instances by period, site, model and mode.

    Where the plan counts instances (it has a `running` array), these are its own, those that are
    starting included. With `instance_counts` "integer" they are whole, and nothing is rounded.
    Otherwise the plan has fractions of instances, and it is the plan that is proved: rounded up,
    every request finds its capacity, but at a full site each model and mode may need up to one
    instance more than there are GPUs; rounded down, GPUs suffice, but up to one instance's load a
    model and mode is left over.

    Parameters
    ----------
    solution : Solution
        With a plan.
    rounding : str
        "up", "nearest" or "down".

    Raises
    ------
    KeyError
        If the solution has no plan.
    ModelError
        For an unknown rounding.
    """
    run = solution.decision.get("running") or solution.array("instances")
    kept = ("period", "site", "model", "mode")
    mean = run.total_over(*kept)
    shifts = {"up": 1 - 1e-6, "nearest": 0.5, "down": 1e-6}
    if rounding not in shifts:
        raise ModelError(f"rounding is {rounding!r}; expected one of {list(shifts)}")
    whole = np.floor(mean + shifts[rounding])
    labels = {axis: run.labels[axis] for axis in kept}
    return LabelledArray.from_dense("replicas", "instances", labels, whole)
