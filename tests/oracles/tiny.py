"""Small placement documents for tests: one by hand, and as many random ones as wanted.

Both return plain Python objects as in an instance file, ready for `PlacementInstance.parse`.
"""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np

Document = dict[str, Any]

FEATURES = (
    "budgets",
    "max_sites",
    "unmet",
    "even",
    "demand_charge",
    "power_cap",
    "mask",
    "custom",
    "lexicographic",
    "running",
    "unlimited",
)
"""Switches of `random_document`."""

STATISTICS = {"mean": 1.0, "p50": 0.95, "p90": 1.3, "p95": 1.5, "p99": 2.0, "max": 3.0}
"""Statistics of the inter-token latency of a level, relative to its mean."""

PREFILL_TOKENS = [16.0, 512.0, 4096.0]


def tiny(**overrides: Any) -> Document:
    """Two of everything: a 70B and an 8B model on H100 and A100 at two sites, three classes.

    Limits tell levels and sites apart: chat may not run at the highest level of the 70B model in
    either mode, summaries may; chat and assist from afar may not run at high thrifty levels. One
    inter-token latency equals its limit. GPUs in Sweden do not suffice for all.

    Parameters
    ----------
    **overrides
        Fields to replace in the document.

    Returns
    -------
    dict
        A valid placement document.
    """
    return {
        "problem": "placement",
        "schema_version": 1,
        "name": "tiny",
        "provenance": _provenance("tiny"),
        "periods": {
            "start": ["2023-07-18T00:00Z", "2023-07-18T01:00Z"],
            "duration_s": [3600.0, 1800.0],
        },
        "origins": ["us", "europe"],
        "sites": ["oregon", "sweden"],
        "modes": ["fast", "thrifty"],
        "models": [
            {"name": "70b", "weight_bytes": 140e9, "kv_bytes_per_token": 327680.0},
            {"name": "8b", "weight_bytes": None, "kv_bytes_per_token": None},
        ],
        "gpu_types": [_gpu_type("h100", 170.0), _gpu_type("a100", 150.0)],
        "profiles": _tiny_profiles(),
        "classes": _tiny_classes(),
        **_SIGNALS,
        "demand_requests": [
            [[24000.0, 9000.0, 90000.0], [20000.0, 6000.0, 60000.0]],
            [[9000.0, 4500.0, 40000.0], [15000.0, 5400.0, 50000.0]],
        ],
        "gpus": [[[24.0, 24.0], [24.0, 32.0]], [[24.0, 24.0], [16.0, 32.0]]],
        "carbon_g_per_kwh": [[310.0, 25.0], [340.0, 22.0]],
        "price_usd_per_mwh": [[38.0, 61.0], [35.0, 74.0]],
        "pue": [[1.12, 1.2], [1.1, 1.2]],
        "wue_l_per_kwh": [[1.1, 0.3], [1.2, 0.2]],
        "cycles_of_concentration": [5.0, 3.0],
        "ewif_l_per_kwh": [[2.4, 7.1], [2.2, 7.4]],
        "rtt_s": [[0.06, 0.12], [0.15, 0.03]],
        "last_mile_s": [0.02, 0.015],
        "egress_usd_per_gb": [[0.02, 0.05], [0.05, 0.02]],
        "gpu_usd_per_hour": [[2.5, 1.4], [2.8, 1.5]],
        "objective": [
            {
                "terms": [
                    {"metric": "cost_usd", "weight": 1.0, "scale": 200.0},
                    {"metric": "carbon_kg", "weight": 1.0, "scale": 2.0},
                    {"metric": "ttft_mean_s", "weight": 0.5, "scale": 0.5},
                ]
            }
        ],
        **overrides,
    }


def _tiny_profiles() -> list[Document]:
    return [
        # The first two levels differ in nothing that a limit or a prompt sees: one group.
        _profile("70b", "fast", "h100", 4.0, [
            _level(1.0, 1600.0, 0.020, [0.03, 0.15, 1.1]),
            _level(2.0, 2000.0, 0.026, [0.03, 0.15, 1.1]),
            _level(4.0, 2400.0, 0.045, [0.05, 0.22, 1.6]),
        ]),
        _profile("70b", "thrifty", "a100", 4.0, [
            _level(0.5, 1000.0, 0.030, [0.05, 0.25, 1.9]),
            _level(1.0, 1200.0, 0.036, [0.05, 0.25, 1.9]),
            _level(1.5, 1350.0, 0.044, [0.06, 0.30, 2.3]),
            _level(2.0, 1450.0, 0.060, [0.08, 0.40, 2.9]),
        ]),
        _profile("8b", "fast", "h100", 1.0, [
            _level(4.0, 480.0, 0.010, [0.01, 0.03, 0.2]),
            _level(10.0, 640.0, 0.016, [0.01, 0.04, 0.3]),
        ]),
        _profile("8b", "thrifty", "a100", 1.0, [
            _level(2.0, 260.0, 0.015, [0.01, 0.05, 0.4]),
            _level(6.0, 360.0, 0.024, [0.02, 0.07, 0.5]),
        ]),
    ]  # fmt: skip


def _tiny_classes() -> list[Document]:
    return [
        {
            "name": "chat",
            "model": "70b",
            "prompt_tokens": {"values": [64.0, 512.0, 1500.0], "probabilities": [0.5, 0.4, 0.1]},
            "output_tokens": {"values": [150.0, 400.0], "probabilities": [0.6, 0.4]},
            "work_per_request": {"fast": 1.0, "thrifty": 1.0},
            "egress_bytes_per_request": 4000.0,
            "ttft_limit_s": 0.9,
            "ttft_statistic": "p95",
            "tbt_limit_s": 0.066,
            "tbt_statistic": "p95",
        },
        {
            "name": "summary",
            "model": "70b",
            "prompt_tokens": {"values": [1000.0, 3000.0], "probabilities": [0.7, 0.3]},
            "output_tokens": {"values": [100.0, 300.0], "probabilities": [0.5, 0.5]},
            "work_per_request": {"fast": 1.6, "thrifty": 1.8},
            "egress_bytes_per_request": 3000.0,
            "ttft_limit_s": 5.0,
            "ttft_statistic": "p95",
        },
        {
            "name": "assist",
            "model": "8b",
            "prompt_tokens": {"values": [32.0, 256.0], "probabilities": [0.5, 0.5]},
            "output_tokens": {"values": [60.0, 200.0], "probabilities": [0.5, 0.5]},
            "work_per_request": {"fast": 1.0, "thrifty": 1.0},
            "egress_bytes_per_request": 2000.0,
            "ttft_limit_s": 0.19,
            "ttft_statistic": "mean",
            "tbt_limit_s": 0.05,
            "tbt_statistic": "p99",
        },
    ]


def random_document(
    rng: np.random.Generator,
    *,
    budgets: bool = False,
    max_sites: bool = False,
    unmet: bool = False,
    even: bool = False,
    demand_charge: bool = False,
    power_cap: bool = False,
    mask: bool = False,
    custom: bool = False,
    lexicographic: bool = False,
    running: bool = False,
    unlimited: bool = False,
    boundary: str = "server",
) -> Document:
    """Draw a small instance, feasible by construction unless budgets happen to clash.

    The first site ("home") can serve everything at every profile's lowest level that serves
    anything: limits, GPUs, power cap and mask leave that plan alone. Other sites, modes and levels
    are cut at random.

    Parameters
    ----------
    rng : numpy.random.Generator
        Source of all randomness; equal states give equal documents.
    budgets, max_sites, unmet, even, demand_charge, power_cap, mask, custom, lexicographic : bool
        Features to use.
    running : bool
        Charge embodied carbon to running GPUs.
    unlimited : bool
        Give some GPU types unlimited numbers at some sites (and no profile an idle level, which
        would leave the number of its instances without a bound).
    boundary : {"server", "gpu", "facility"}
        What power was measured.

    Returns
    -------
    dict
        A valid placement document.
    """
    document = _random_sets(rng, idle=not unlimited, boundary=boundary)
    document |= _random_signals(rng, document, running=running, even=even)
    _set_latency_limits(rng, document)
    _set_memory(rng, document)
    document["gpus"] = _random_gpus(rng, document, unlimited=unlimited)
    if unmet:
        _price_unmet(rng, document)
    if demand_charge:
        document["demand_charge_usd_per_kw"] = _draw(rng, 0.5, 8.0, _sizes(document, "sites"))
    if power_cap:
        document["facility_power_cap_w"] = _random_power_cap(rng, document)
    if mask:
        document["reachable"] = _random_mask(rng, document)
    if custom:
        document["custom_metrics"] = _random_custom_metrics(rng, document)
    document["objective"] = _random_objective(
        rng, document, stages=int(rng.integers(2, 4)) if lexicographic else 1, max_sites=max_sites
    )
    if budgets:
        document["budgets"] = _random_budgets(rng, document)
    return document


# The parts that both share


_SIGNALS: Document = {
    "carbon_signal": {
        "kind": "average",
        "scope": "direct",
        "basis": "production",
        "provider": "invented",
        "year": 2023,
    },
    "wue_basis": {"kind": "given", "note": "invented"},
    "ewif_set": "invented",
    "price_basis": "wholesale",
}


def _provenance(description: str) -> Document:
    return {
        "description": description,
        "builder": "tests/oracles/tiny.py",
        "data_licence": "CC0-1.0",
        "sources": [{"name": "none", "licence": "CC0-1.0", "attribution": "invented numbers"}],
    }


def _gpu_type(name: str, embodied_kg: float) -> Document:
    return {
        "name": name,
        "memory_bytes": 80e9,
        "usable_memory_fraction": 0.9,
        "embodied_kg": embodied_kg,
        "lifetime_s": 5 * 365 * 86400.0,
    }


def _profile(
    model: str,
    mode: str,
    gpu_type: str,
    gpus: float,
    levels: list[Document],
    boundary: str = "server",
) -> Document:
    adder = {"host_adder_w": 100.0 * gpus} if boundary == "gpu" else {}
    return {
        "model": model,
        "mode": mode,
        "gpu_type": gpu_type,
        "gpus_per_instance": gpus,
        "power_boundary": boundary,
        "prefill_tokens": PREFILL_TOKENS,
        "levels": levels,
        **adder,
    }


def _level(rate: float, watts: float, itl_s: float, prefill_s: list[float]) -> Document:
    return {
        "requests_per_s": rate,
        "power_w": watts,
        "itl_s": {name: itl_s * factor for name, factor in STATISTICS.items()},
        "prefill_s": prefill_s,
    }


# Random sets, profiles and classes


def _random_sets(rng: np.random.Generator, *, idle: bool, boundary: str) -> Document:
    periods, origins, modes, models, gpu_types = (int(n) for n in rng.integers(1, 3, 5))
    sites, extra_classes = int(rng.integers(2, 4)), int(rng.integers(0, 3))
    names = [f"model{i}" for i in range(models)]
    profiles = [
        _random_profile(rng, n, f"mode{m}", f"gpu{rng.integers(gpu_types)}", idle, boundary)
        for n, m in product(range(models), range(modes))
        # A model may lack a mode, not the first.
        if m == 0 or rng.random() < 0.8
    ]
    served = [*names, *(str(name) for name in rng.choice(names, extra_classes))]
    document = {
        "problem": "placement",
        "schema_version": 1,
        "name": "random",
        "provenance": _provenance("random"),
        "periods": {
            "start": [f"2023-07-18T{2 * i:02}:00Z" for i in range(periods)],
            "duration_s": [float(rng.choice([900.0, 3600.0, 7200.0])) for _ in range(periods)],
        },
        "origins": [f"origin{i}" for i in range(origins)],
        "sites": ["home", *(f"site{i}" for i in range(1, sites))],
        "modes": [f"mode{i}" for i in range(modes)],
        "models": [
            {"name": name, "weight_bytes": None, "kv_bytes_per_token": None} for name in names
        ],
        "gpu_types": [_gpu_type(f"gpu{i}", float(rng.uniform(100, 300))) for i in range(gpu_types)],
        "profiles": profiles,
    }
    document["classes"] = [
        _random_class(rng, i, name, [p["mode"] for p in profiles if p["model"] == name])
        for i, name in enumerate(served)
    ]
    return document


def _random_profile(
    rng: np.random.Generator, n: int, mode: str, gpu_type: str, idle: bool, boundary: str
) -> Document:
    gpus = float(rng.choice([1.0, 2.0, 4.0, 8.0]))
    count = int(rng.integers(2, 5))
    rates = np.cumsum(rng.uniform(0.3, 2.0, count))
    if idle and rng.random() < 0.3:
        rates[0] = 0.0
    base_w, slope_w = gpus * rng.uniform(150, 300), gpus * rng.uniform(50, 100)
    itl = rng.uniform(0.01, 0.03) * np.cumprod(rng.uniform(1.0, 1.6, count))
    prefill = rng.uniform(0.01, 0.1) * np.array([1.0, rng.uniform(2, 4), 12.0])
    # Equal curves let levels form groups; unequal ones tell every level apart.
    slower = np.cumprod(rng.uniform(1.0, 1.5, count) if rng.random() < 0.4 else np.ones(count))
    levels = [
        _level(
            float(rate),
            float(base_w + slope_w * rate**0.8),
            float(itl[i]),
            (prefill * slower[i]).tolist(),
        )
        for i, rate in enumerate(rates)
    ]
    return _profile(f"model{n}", mode, gpu_type, gpus, levels, boundary)


def _random_class(rng: np.random.Generator, i: int, model: str, modes: list[str]) -> Document:
    return {
        "name": f"class{i}",
        "model": model,
        "prompt_tokens": _random_lengths(rng, PREFILL_TOKENS[0], PREFILL_TOKENS[-1]),
        "output_tokens": _random_lengths(rng, 20.0, 500.0),
        "work_per_request": {mode: float(rng.uniform(0.5, 2.0)) for mode in modes},
        "egress_bytes_per_request": float(rng.uniform(1e3, 1e6)),
        "ttft_statistic": str(rng.choice(["mean", "p50", "p90", "p95", "p99", "max"])),
        "tbt_statistic": str(rng.choice(["mean", "p50", "p90", "p95", "p99", "max"])),
    }


def _random_lengths(rng: np.random.Generator, low: float, high: float) -> Document:
    count = int(rng.integers(1, 5))
    return {
        "values": np.sort(
            np.round(np.geomspace(low, high, 50)[rng.integers(0, 50, count)])
        ).tolist(),
        "probabilities": rng.dirichlet(np.ones(count)).tolist(),
    }


# Random signals


def _random_signals(
    rng: np.random.Generator, document: Document, *, running: bool, even: bool
) -> Document:
    by_site = _sizes(document, "periods", "sites")
    carbon, price = rng.uniform(20, 700, by_site), rng.uniform(10, 150, by_site)
    # Curtailed renewables: now and then power is worth less than nothing.
    carbon[rng.random(by_site) < 0.05] *= -0.5
    price[rng.random(by_site) < 0.1] *= -0.5
    gpu_price = _draw(rng, 0.2, 3.0, _sizes(document, "sites", "gpu_types"))
    return {
        **_SIGNALS,
        "embodied_charge": "running" if running else "installed",
        "balance": "even" if even else "packed",
        "demand_requests": _random_demand(rng, document),
        "carbon_g_per_kwh": carbon.tolist(),
        "price_usd_per_mwh": price.tolist(),
        "pue": {"axes": ["site"], "values": _draw(rng, 1.05, 1.6, by_site[1:])},
        "wue_l_per_kwh": _draw(rng, 0.0, 2.5, by_site),
        "cycles_of_concentration": _draw(rng, 2.0, 6.0, by_site[1:]),
        "ewif_l_per_kwh": _draw(rng, 0.5, 8.0, by_site),
        "rtt_s": _draw(rng, 0.005, 0.25, _sizes(document, "origins", "sites")),
        "last_mile_s": _draw(rng, 0.0, 0.05, _sizes(document, "origins")),
        "egress_usd_per_gb": _draw(rng, 0.01, 0.15, _sizes(document, "origins", "sites")),
        "gpu_usd_per_hour": gpu_price if rng.random() < 0.5 else None,
    }


def _random_demand(rng: np.random.Generator, document: Document) -> list[Any]:
    shape = _sizes(document, "periods", "origins", "classes")
    seconds = np.array(document["periods"]["duration_s"])[:, None, None]
    demand = rng.uniform(0.5, 12.0, shape) * seconds
    demand[rng.random(shape) < 0.1] = 0.0
    demand[0, 0, 0] = seconds[0, 0, 0]
    nested: list[Any] = np.round(demand).tolist()
    return nested


def _set_latency_limits(rng: np.random.Generator, document: Document) -> None:
    """Cut slow levels and far sites, but nothing from home at the lowest serving level."""
    for k in document["classes"]:
        slowest = max(
            _longest_prefill(level)
            for p in document["profiles"]
            if p["model"] == k["model"]
            for level in p["levels"][: _lowest(p) + 1]
        )
        far = max(
            rtt[0] + mile
            for rtt, mile in zip(document["rtt_s"], document["last_mile_s"], strict=True)
        )
        gaps = [
            p["levels"][_lowest(p)]["itl_s"][k["tbt_statistic"]]
            for p in document["profiles"]
            if p["model"] == k["model"]
        ]
        if rng.random() < 0.8:
            k["ttft_limit_s"] = (far + slowest) * float(rng.uniform(1.0, 1.2))
            k["ttft_statistic"] = "max" if rng.random() < 0.5 else k["ttft_statistic"]
        if rng.random() < 0.8:
            k["tbt_limit_s"] = max(gaps) * float(rng.uniform(1.0, 1.5))


def _longest_prefill(level: Document) -> float:
    return float(level["prefill_s"][-1])


def _set_memory(rng: np.random.Generator, document: Document) -> None:
    """Give some models a KV cache that the highest levels may overfill."""
    for model in document["models"]:
        if rng.random() < 0.5:
            continue
        profiles = [p for p in document["profiles"] if p["model"] == model["name"]]
        room = min(p["gpus_per_instance"] for p in profiles) * 80e9 * 0.9
        model["weight_bytes"] = room * float(rng.uniform(0.3, 0.8))
        tokens = max(
            _tokens_in_flight(k, p)
            for k in document["classes"]
            if k["model"] == model["name"]
            for p in profiles
        )
        share = float(rng.uniform(0.3, 1.0))
        model["kv_bytes_per_token"] = share * (room - model["weight_bytes"]) / tokens


def _tokens_in_flight(k: Document, p: Document) -> float:
    """Bound from above what one instance at the lowest serving level holds of one class."""
    level = p["levels"][_lowest(p)]
    prompt, output = (
        float(np.dot(k[field]["values"], k[field]["probabilities"]))
        for field in ("prompt_tokens", "output_tokens")
    )
    residence = _longest_prefill(level) + output * level["itl_s"]["mean"]
    served = level["requests_per_s"] / k["work_per_request"][p["mode"]]
    return float(served * residence * (prompt + output))


# Random capacity: home always has enough for the lowest serving levels


def _random_gpus(rng: np.random.Generator, document: Document, *, unlimited: bool) -> list[Any]:
    shape = _sizes(document, "periods", "sites", "gpu_types")
    needed = np.zeros(shape[2])
    for p in document["profiles"]:
        h = int(p["gpu_type"].removeprefix("gpu"))
        needed[h] += max(_home_instances(document, p)) * p["gpus_per_instance"]
    gpus = np.ceil(needed * rng.uniform(0.1, 0.8, shape))
    gpus[:, 0] = np.ceil(needed * rng.uniform(1.0, 1.2))
    gpus[rng.random(shape) < 0.1] = 0.0
    gpus[:, 1:][:, rng.random(shape[1:])[1:] < 0.15] = 0.0
    gpus[:, 0] = np.maximum(gpus[:, 0], np.ceil(needed))
    if unlimited:
        gpus[:, rng.random(shape[1:]) < 0.4] = np.inf
    boxed = gpus.astype(object)
    boxed[np.isinf(gpus)] = None
    nested: list[Any] = boxed.tolist()
    return nested


def _home_instances(document: Document, p: Document) -> list[float]:
    """Count instances that serve all the model's work in each period, at the lowest level."""
    rate = p["levels"][_lowest(p)]["requests_per_s"]
    return [
        sum(
            by_class[i] * k["work_per_request"][p["mode"]]
            for by_class in by_origin
            for i, k in enumerate(document["classes"])
            if k["model"] == p["model"]
        )
        / (rate * seconds)
        for by_origin, seconds in zip(
            document["demand_requests"], document["periods"]["duration_s"], strict=True
        )
    ]


def _home_power_w(document: Document, *, worst: bool = False) -> np.ndarray:
    """Power at home if it serves everything at the lowest levels, in first or worst modes."""
    total = np.zeros(len(document["periods"]["duration_s"]))
    for model in document["models"]:
        choices = []
        for p in document["profiles"]:
            if p["model"] == model["name"]:
                watts = p["levels"][_lowest(p)]["power_w"] + p.get("host_adder_w", 0.0)
                if p["power_boundary"] != "facility":
                    watts *= document["pue"]["values"][0]
                choices.append(watts * np.array(_home_instances(document, p)))
        total += np.max(choices, axis=0) if worst else choices[0]
    return total


def _random_power_cap(rng: np.random.Generator, document: Document) -> list[Any]:
    shape = _sizes(document, "periods", "sites")
    power = _home_power_w(document, worst=True)[:, None]
    cap = power * rng.uniform(0.1, 0.8, shape)
    cap[:, 0] = power[:, 0] * rng.uniform(1.0, 1.3, shape[0])
    boxed = cap.astype(object)
    boxed[rng.random(shape) < 0.2] = None
    nested: list[Any] = boxed.tolist()
    return nested


def _random_mask(rng: np.random.Generator, document: Document) -> Document:
    fields = {
        "period": "periods",
        "origin": "origins",
        "class": "classes",
        "site": "sites",
        "mode": "modes",
    }
    axes = [axis for axis in fields if axis == "site" or rng.random() < 0.5]
    allowed = rng.random(_sizes(document, *(fields[axis] for axis in axes))) < 0.7
    np.moveaxis(allowed, axes.index("site"), 0)[0] = True
    return {"axes": axes, "values": allowed.tolist()}


# Random wishes


def _price_unmet(rng: np.random.Generator, document: Document) -> None:
    """Price some classes around what serving a request costs; the first always."""
    for i, k in enumerate(document["classes"]):
        if i == 0 or rng.random() < 0.5:
            k["unmet_price_usd"] = float(10 ** rng.uniform(-5, -2))


def _random_custom_metrics(rng: np.random.Generator, document: Document) -> list[Document]:
    """Draw a metric with both coefficients, and one with only some and of either sign."""
    full: Document = {
        "name": "noise",
        "unit": "dB",
        "per_request": {
            "axes": ["class", "site"],
            "values": _draw(rng, 0.0, 1e-3, _sizes(document, "classes", "sites")),
        },
        "per_instance_s": {
            "axes": ["site", "model", "level"],
            "values": _draw(
                rng, 0.0, 1e-3, (*_sizes(document, "sites", "models"), _deepest(document))
            ),
        },
    }
    signed: Document = {"name": "goodwill", "unit": "points"}
    if rng.random() < 0.5:
        shape = _sizes(document, "periods", "origins", "classes", "sites", "modes")
        signed["per_request"] = {
            "axes": ["period", "origin", "class", "site", "mode"],
            "values": _draw(rng, -1e-3, 1e-3, shape),
        }
    else:
        signed["per_instance_s"] = {
            "axes": ["period", "mode"],
            "values": _draw(rng, -1e-4, 1e-3, _sizes(document, "periods", "modes")),
        }
    return [full, signed]


def _random_objective(
    rng: np.random.Generator, document: Document, *, stages: int, max_sites: bool
) -> list[Document]:
    unmet = any("unmet_price_usd" in k for k in document["classes"])
    requests = float(np.sum(document["demand_requests"]))
    ttft = ("ttft_request_s", requests * 0.3) if unmet else ("ttft_mean_s", 0.3)
    kwh = float(_home_energy_kwh(document).sum())
    scales = dict([
        ("cost_usd", 0.05 * kwh), ("carbon_kg", 0.3 * kwh), ("water_l", 5.0 * kwh), ttft,
        ("water_consumption_l", 4.0 * kwh), ("energy_kwh", kwh), ("gpu_h", 3.0 * kwh),
    ])  # fmt: skip
    if "custom_metrics" in document:
        scales |= {"noise": requests * 1e-3, "goodwill": requests * 1e-3}
    objective: list[Document] = []
    for _ in range(stages):
        picked = [str(name) for name in rng.choice(list(scales), 3, replace=False)]
        terms = [_random_term(rng, name, scales[name], max_sites) for name in picked]
        objective.append({"terms": terms, "tolerance": float(rng.choice([1e-6, 1e-3, 0.05]))})
    if unmet:
        objective[0]["terms"].append({"metric": "unmet_usd", "weight": 1.0, "scale": 0.05 * kwh})
    if max_sites and not any(
        term.get("over_sites") == "max" and term["weight"] > 0 for term in objective[0]["terms"]
    ):
        extra = {"metric": "requests", "weight": 0.5, "scale": requests, "over_sites": "max"}
        objective[0]["terms"].append(extra)
    return objective


def _random_term(rng: np.random.Generator, metric: str, scale: float, max_sites: bool) -> Document:
    term: Document = {"metric": metric, "weight": float(rng.uniform(0.1, 1.0)), "scale": scale}
    if metric != "ttft_mean_s":
        choices = ["sum", "mean", "max"] if max_sites else ["sum", "sum", "mean"]
        term["over_sites"] = str(rng.choice(choices))
    if rng.random() < 0.1:
        term["weight"] = 0.0
    return term


def _home_energy_kwh(document: Document) -> np.ndarray:
    """Energy in each period if home serves everything at the lowest levels, in first modes."""
    energy: np.ndarray = (
        _home_power_w(document) * np.array(document["periods"]["duration_s"]) / 3.6e6
    )
    return energy


def _random_budgets(rng: np.random.Generator, document: Document) -> list[Document]:
    """Draw budgets around the plan that serves everything at home at the lowest levels.

    Those on other sites leave that plan alone; the rest ask for a little less than it uses.
    """
    sites, periods = len(document["sites"]), len(document["periods"]["duration_s"])
    kwh = _home_energy_kwh(document)
    carbon = float(kwh @ np.array(document["carbon_g_per_kwh"])[:, 0] / 1000)
    elsewhere: list[Any] = [None]
    requests = float(np.sum(document["demand_requests"]))
    less = [float(u) for u in rng.uniform(0.75, 1.05, 4)]
    choices = [
        _budget("carbon_kg", [], carbon * less[0]),
        _budget("requests", ["site"], elsewhere + _draw(rng, 0.1, 0.4, (sites - 1,), requests)),
        _budget("energy_kwh", ["period"], (kwh * less[1]).tolist()),
        _budget("water_l", ["site", "period"],
                [[None] * periods, *_draw(rng, 0.5, 3.0, (sites - 1, periods), kwh.mean())]),
        _budget("ttft_mean_s", [], _home_ttft_s(document) * less[2]),
        _budget("ttft_mean_s", ["site"], elsewhere + _draw(rng, 0.1, 0.5, (sites - 1,))),
        _budget("gpu_h", ["site"], elsewhere + _draw(rng, 0.5, 3.0, (sites - 1,), kwh.mean())),
    ]  # fmt: skip
    if any("unmet_price_usd" in k for k in document["classes"]):
        choices.append(_budget("unmet_requests", [], requests * less[3] / 2))
    if "custom_metrics" in document:
        limits = elsewhere + _draw(rng, 0.1, 0.5, (sites - 1,), requests * 1e-3)
        choices.append(_budget("noise", ["site"], limits))
    picked = rng.choice(len(choices), int(rng.integers(1, 4)), replace=False)
    return [{"name": f"budget{i}", **choices[i]} for i in sorted(int(i) for i in picked)]


def _home_ttft_s(document: Document) -> float:
    """Bound from above the mean time to first token from home at the lowest serving levels."""
    far = max(
        rtt[0] + mile for rtt, mile in zip(document["rtt_s"], document["last_mile_s"], strict=True)
    )
    prefill = max(_longest_prefill(p["levels"][_lowest(p)]) for p in document["profiles"])
    return float(far + prefill)


def _budget(metric: str, axes: list[str], values: Any) -> Document:
    return {"metric": metric, "limit": {"axes": axes, "values": values}}


# Small things


def _lowest(profile: Document) -> int:
    """Position of the lowest level that serves anything."""
    return 0 if profile["levels"][0]["requests_per_s"] > 0 else 1


def _deepest(document: Document) -> int:
    return max(len(p["levels"]) for p in document["profiles"])


def _sizes(document: Document, *fields: str) -> tuple[int, ...]:
    periods = document["periods"]["start"]
    return tuple(len(periods if f == "periods" else document[f]) for f in fields)


def _draw(
    rng: np.random.Generator, low: float, high: float, shape: tuple[int, ...], scale: float = 1.0
) -> list[Any]:
    nested: list[Any] = (rng.uniform(low, high, shape) * scale).tolist()
    return nested
