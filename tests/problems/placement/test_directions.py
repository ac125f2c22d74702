"""Directions in which right-hand sides may grow: which rows one more request changes."""

from __future__ import annotations

import copy
import tracemalloc

import numpy as np
import pytest
from oracles import tiny as oracle
from oracles.tiny import random_document

import greenopt as go
from greenopt.problems.placement.eligibility import SLACK
from greenopt.problems.placement.marginals import formulate


@pytest.mark.parametrize("seed", range(10))
def test_requests_raise_demand_and_deadlines(seed: int) -> None:
    """A request changes its demand row and every limit until whose end it may wait, by one."""
    document = random_document(np.random.default_rng(seed), deferral=True)
    document["classes"][0]["deferral_limit_s"] = 86400.0  # from the first to the last period
    instance = go.PlacementInstance.parse(document)
    growing = formulate(instance)
    found = growing.directions()["demand"]
    rows = {
        name: {
            code: block.start + at
            for at, code in enumerate(zip(*(c.tolist() for c in block.codes.values()), strict=True))
        }
        for name, block in growing.model.rows.items()
        if name in ("demand", "deadline")
    }
    begin = instance.periods.begin_s
    waits = 0
    for column, (t, o, k) in enumerate(found.codes.T.tolist()):
        expected = {rows["demand"][t, o, k]}
        limit = instance.classes[k].deferral_limit_s
        for end in range(t, len(begin) - 1):
            if limit is not None and begin[end + 1] - begin[t] <= limit * (1 + SLACK):
                expected.add(rows["deadline"][end, o, k])
                waits += 1
        own = found.rows[:, [column]].tocoo()
        assert set(own.row.tolist()) == expected
        assert own.data.tolist() == [1.0] * len(expected)
    assert waits > 0


def test_many_deferrable_requests_take_little_memory() -> None:
    """Three hundred periods and twenty origins: megabytes, not a table of all pairs of rows."""
    n, places = 300, 20
    origins = [f"o{i}" for i in range(places)]
    begin = np.datetime64("2023-07-18T00:00")
    starts = [f"{begin + np.timedelta64(15 * t, 'm')}Z" for t in range(n)]
    document = copy.deepcopy(oracle.tiny())
    for name in ("carbon_g_per_kwh", "price_usd_per_mwh", "pue", "wue_l_per_kwh", "ewif_l_per_kwh"):
        document[name] = {"axes": ["site"], "values": document[name][0]}
    document |= {
        "periods": {"start": starts, "duration_s": [900.0] * n},
        "origins": origins,
        "gpus": {"axes": [], "values": 50.0},
        "demand_requests": {"axes": ["class"], "values": [100.0, 50.0, 300.0]},
        "rtt_s": {"axes": [], "values": 0.05},
        "last_mile_s": {"axes": [], "values": 0.01},
        "egress_usd_per_gb": {"axes": [], "values": 0.02},
    }
    document["classes"][1]["deferral_limit_s"] = 3600.0
    growing = formulate(go.PlacementInstance.parse(document))
    tracemalloc.start()
    found = growing.directions()["demand"]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    # Four quarters of an hour may be waited for, fewer before the end; one row each for demand.
    waits = sum(min(4, n - 1 - t) for t in range(n))
    assert found.rows.nnz == places * (3 * n + waits)
    assert peak < 30e6
