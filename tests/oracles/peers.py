"""FREESH, CASPER and WaterWise as published, stated for scipy.optimize.milp from plain arrays."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from scipy.optimize import Bounds, LinearConstraint, milp


def optimum(
    cost: np.ndarray,
    rows: list[LinearConstraint],
    upper: np.ndarray,
    *,
    whole: bool = True,
) -> float | None:
    """Least cost of whole (or any) x from 0 to upper, None where there is none."""
    unit = max(float(np.abs(cost).max()), 1e-300) / 1e4  # HiGHS takes 1e-7 for nothing
    found = milp(
        cost / unit,
        integrality=np.full(cost.size, int(whole)),
        bounds=Bounds(0, upper),
        constraints=rows,
        options={"mip_rel_gap": 0.0},
    )
    assert found.status in (0, 2), found.message
    return float(cost @ (np.round(found.x) if whole else found.x)) if found.status == 0 else None


def freesh_optimum(
    tables: Mapping[str, Any], demand_qps: np.ndarray, emission_rate: np.ndarray
) -> float | None:
    """Optimum of one FREESH window: x[n, r, m] instances at site n for class r in mode m."""
    qps, power, latency, tbt, ttft = (
        np.array(tables[key], dtype=float)
        for key in ("qps", "power_w", "latency_s", "tbt_ms", "ttft_ms")
    )
    types = list(tables["mode_gpus"])
    needs = np.array([tables["mode_gpus"][c] for c in types])
    room = np.array([tables["site_gpus"][c] for c in types])
    n, (r, m) = room.shape[1], qps.shape
    forbidden = (
        (latency > 5 * latency.mean(axis=1, keepdims=True))
        | (tbt > tables["slo"]["tbt_ms"])
        | (ttft > np.array(tables["slo"]["ttft_ms"])[:, None])
    )
    cost = np.einsum("n,rm->nrm", emission_rate.sum(axis=0), power * tables["slot_s"])
    serve = np.zeros((r, n, r, m))
    for k in range(r):
        serve[k, :, k, :] = qps[k]
    asked = demand_qps.max(axis=0) * tables["demand_scale"] * tables["demand_margin"]
    use = np.zeros((n, len(types), n, r, m))
    for s in range(n):
        use[s, :, s] = needs[:, None, :]
    rows = [
        LinearConstraint(serve.reshape(r, -1), lb=asked),
        LinearConstraint(use.reshape(n * len(types), -1), ub=room.T.ravel()),
    ]
    most = np.where(forbidden, 0.0, room.sum())
    return optimum(cost.ravel(), rows, np.broadcast_to(most, (n, r, m)).ravel())


def casper_optimum(
    objective: str,
    requests: np.ndarray,
    latency_ms: np.ndarray,
    carbon: np.ndarray,
    *,
    alpha: float,
    capacity: float = 10,
    per_region: float = 100,
    max_servers: float | None = None,
) -> float | None:
    """Optimum of one CASPER hour: x[i, j] requests, then s[j] servers."""
    n = len(requests)
    most = per_region * n if max_servers is None else max_servers
    ms = np.where(np.isnan(latency_ms), 1e6, latency_ms)
    i, j = np.indices((n, n)).reshape(2, -1)
    origin, site = (i == np.arange(n)[:, None]) * 1.0, (j == np.arange(n)[:, None]) * 1.0
    by_request, per_server = carbon[j], 0.0
    if objective == "carbon":
        by_request = alpha * carbon[j] / (carbon.max() * requests.sum())
        per_server = (1 - alpha) / most
    elif objective == "latency":
        by_request = alpha * ms.ravel() / (requests * ms.max(axis=1)).sum()
        per_server = (1 - alpha) / most
    open_ = (ms.ravel() <= 500) | (objective == "latency")
    rows = [
        LinearConstraint(np.hstack([origin, np.zeros((n, n))]), requests, requests),
        LinearConstraint(np.hstack([site, -capacity * np.eye(n)]), ub=np.zeros(n)),
        LinearConstraint(np.concatenate([np.zeros(n * n), np.ones(n)]), ub=most),
    ]
    upper = np.concatenate([np.where(open_, requests[i], 0.0), np.full(n, float(per_region))])
    return optimum(np.concatenate([by_request, np.full(n, per_server)]), rows, upper)


def waterwise_score(
    energy: np.ndarray,
    seconds: np.ndarray,
    carbon: np.ndarray,
    water: np.ndarray,
    history: np.ndarray | None = None,
) -> np.ndarray:
    """Score of each job in each region, with the published weights and embodied rates."""
    per_s = 1633982 / 4 / 365 / 24 / 60 / 60
    c = energy[:, None] * carbon[None, :] + per_s * seconds[:, None]
    w = energy[:, None] * water[None, :] + 2 * per_s / 747 * seconds[:, None]
    score = 0.5 * c / c.max(axis=1)[:, None] + 0.5 * w / w.max(axis=1)[:, None]
    return score if history is None else score + 0.1 * np.where(np.isnan(history), 0, history)


def waterwise_optimum(
    score: np.ndarray,
    ratio: np.ndarray,
    free: np.ndarray,
    rule: str,
    *,
    tolerance: float = 0.5,
    whole: bool = True,
) -> float | None:
    """Optimum of one WaterWise minute: x[m, n], with the published slacks where "dropped"."""
    m, n = score.shape
    excess = np.maximum(0, ratio - tolerance)
    cost = score + (10 * excess if rule == "penalised" else 0)
    late = (ratio >= tolerance) & (rule == "hard")
    rows = [
        LinearConstraint(np.kron(np.eye(m), np.ones(n)), 1, 1),
        LinearConstraint(np.kron(np.ones(m), np.eye(n)), ub=free),
    ]
    found = optimum(cost.ravel(), rows, np.where(late, 0.0, 1.0).ravel(), whole=whole)
    return found + 10 * excess.sum() if found is not None and rule == "dropped" else found
