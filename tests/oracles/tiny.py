"""Small placement documents for tests: one by hand, and as many random ones as wanted.

Both return plain Python objects as in an instance file, ready for `PlacementInstance.parse`.
"""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np

Document = dict[str, Any]

CORE_FEATURES = (
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
"""Switches of `random_document` that neither count instances nor requests, nor defer these."""

COUNTING = (
    "whole_instances",
    "startup",
    "min_up",
    "blocks",
    "fixed",
    "instance_limits",
)
"""Switches of `random_document` that count running instances."""

FEATURES = (*CORE_FEATURES, "at_most", *COUNTING, "whole_requests", "deferral", "queue")
"""Switches of `random_document`."""

LONG = ("startup", "min_up", "blocks", "fixed", "deferral")
"""Switches that need several periods to matter."""

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
    **counting: bool,
) -> Document:
    """Draw a small instance, feasible by construction unless budgets happen to clash.

    The first site ("home") can serve everything at every profile's lowest level that serves
    anything: limits, GPUs, power cap and mask leave that plan alone. Other sites, modes and levels
    are cut at random.

    Where instances are counted, home has GPUs for as many as its busiest period needs, starts
    included, and most documents have what keeps them from more load than there is: idle levels, or
    loads below the level's. Some have neither, and then often no plan.

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
        would leave the number of its instances without a bound). No effect together with "even",
        "at_most" or counted instances, which need limits.
    boundary : {"server", "gpu", "facility"}
        What power was measured.
    **counting : bool
        "at_most", those of `COUNTING`, "whole_requests", "deferral" and "queue": features to use.
        The ones in `LONG` make three or four periods of them. With "queue", classes of a model are
        of equal work in each mode that has one, and none limits the maximum of a time that has
        none; the waiting is a curve together with "at_most".

    Returns
    -------
    dict
        A valid placement document.
    """
    unknown = set(counting) - set(FEATURES)
    assert not unknown, f"no features: {unknown}"
    on = {name for name, used in counting.items() if used}
    if on & set(COUNTING) and even and rng.random() < 0.8:
        on.add("at_most")  # counted instances at one level rarely meet loads exactly
    unlimited &= not even and not on & {"at_most", *COUNTING}
    document = _random_sets(rng, idle=not unlimited, boundary=boundary, on=on)
    _count(rng, document, on)
    document |= _random_signals(rng, document, running=running, even=even)
    _set_latency_limits(rng, document)
    _set_memory(rng, document)
    document["gpus"] = _random_gpus(rng, document, unlimited=unlimited)
    _set_numbers(rng, document, on)
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


def _random_sets(rng: np.random.Generator, *, idle: bool, boundary: str, on: set[str]) -> Document:
    periods, origins, modes, models, gpu_types = (int(n) for n in rng.integers(1, 3, 5))
    sites, extra_classes = int(rng.integers(2, 4)), int(rng.integers(0, 3))
    if on & set(LONG):
        periods, sites, extra_classes = int(rng.integers(3, 5)), 2, min(extra_classes, 1)
    if "whole_requests" in on:  # the hard ones to prove
        periods, sites, extra_classes = min(periods, 3), 2, min(extra_classes, 1)
        origins, models = (1, 1) if on & {"whole_instances", "deferral"} else (origins, models)
    counted = bool(on & set(COUNTING))
    # Counted instances meet loads exactly where they can stand by for a part of the period.
    idle_share = 1.0 if counted and "at_most" not in on and rng.random() < 0.8 else 0.3
    idle_share = idle_share if idle else 0.0
    names = [f"model{i}" for i in range(models)]
    profiles = [
        _random_profile(rng, n, f"mode{m}", f"gpu{rng.integers(gpu_types)}", idle_share, boundary)
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
    rng: np.random.Generator, n: int, mode: str, gpu_type: str, idle_share: float, boundary: str
) -> Document:
    gpus = float(rng.choice([1.0, 2.0, 4.0, 8.0]))
    count = int(rng.integers(2, 5))
    rates = np.cumsum(rng.uniform(0.3, 2.0, count))
    if idle_share > 0 and rng.random() < idle_share:
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


# Random counts, starts and deferral


def _count(rng: np.random.Generator, document: Document, on: set[str]) -> None:
    """Set what counts instances and requests, and what starting and waiting mean."""
    if "at_most" in on:
        document["load_rule"] = "at_most"
    if "whole_instances" in on:
        document["instance_counts"] = "integer"
        _drop_levels(rng, document, everywhere="at_most" in on)
    if "whole_requests" in on:
        document["request_counts"] = "integer"
        for level in (level for p in document["profiles"] for level in p["levels"]):
            level["requests_per_s"] /= SLOWER
    if "blocks" in on:
        document["hold_periods"] = _random_blocks(rng, len(document["periods"]["start"]))
    for i, p in enumerate(document["profiles"]):
        if "queue" in on and (i == 0 or rng.random() < 0.7):
            _set_queue(rng, document, p)
        if "startup" in on and (i == 0 or rng.random() < 0.7):
            p["startup"] = _random_startup(rng, document, p)
        if "min_up" in on and (i == 0 or rng.random() < 0.7):
            p["min_up_s"] = float(rng.choice([900.0, 7200.0, 7201.0, 14400.0, 1e6]))
    for i, k in enumerate(document["classes"]):
        if "deferral" in on and (i == 0 or rng.random() < 0.6):
            k["deferral_limit_s"] = float(rng.choice([3600.0, 7200.0, 7200.0, 14400.0, 1e6]))


def _set_queue(rng: np.random.Generator, document: Document, p: Document) -> None:
    """Give a profile a queue that is anything from short to long at its last level."""
    p["queue"] = {
        "service_s": float(rng.uniform(0.2, 0.97)) / p["levels"][-1]["requests_per_s"],
        "service_cv2": float(rng.choice([0.0, 0.5, 1.0, 3.0])),
        "arrival_cv2": float(rng.choice([0.0, 1.0, 1.0, 2.0])),
    }
    works = [k["work_per_request"] for k in document["classes"] if k["model"] == p["model"]]
    for work in works:
        work[p["mode"]] = works[0][p["mode"]]


SLOWER = 900.0
"""How much less is asked of, and served by, everything when requests are whole: a few requests."""


def _drop_levels(rng: np.random.Generator, document: Document, *, everywhere: bool) -> None:
    """Leave some profiles a single level, whose instances are whole; never an idle one.

    First modes keep theirs unless instances may serve less than a level's load everywhere.
    """
    for p in document["profiles"]:
        if rng.random() < 0.4 and (everywhere or p["mode"] != "mode0"):
            p["levels"] = [p["levels"][_lowest(p)]]


def _random_blocks(rng: np.random.Generator, periods: int) -> list[int]:
    """Cut the periods into blocks, at least one of them longer than one period."""
    lengths = []
    while sum(lengths) < periods:
        lengths.append(int(rng.integers(1, periods - sum(lengths) + 1)))
    return lengths if max(lengths) > 1 else [2, *lengths[2:]]


def _random_startup(rng: np.random.Generator, document: Document, p: Document) -> Document:
    """Draw time and energy of a start; now and then it takes only one of them."""
    seconds = min(document["periods"]["duration_s"]) * float(rng.uniform(0.05, 0.5))
    kwh = p["levels"][-1]["power_w"] * seconds / 3.6e6 * float(rng.uniform(0.3, 3.0))
    neither = rng.random()
    return {
        "time_s": 0.0 if neither < 0.15 else seconds,
        "energy_kwh": 0.0 if neither > 0.85 else kwh,
    }


def _set_numbers(rng: np.random.Generator, document: Document, on: set[str]) -> None:
    """Set what runs before the first period, what must run, and how much may."""
    if on & {"startup", "min_up"}:
        document["initial_instances"] = _random_initial(rng, document)
    if "fixed" in on:
        document["fixed_instances"] = _random_fixed(rng, document)
    if "instance_limits" in on:
        document["instance_limits"] = _random_instance_limits(rng, document)


def _random_initial(rng: np.random.Generator, document: Document) -> list[Any]:
    initial = np.zeros(_sizes(document, "sites", "models", "modes"))
    for p in document["profiles"]:
        n, m = _place(p)
        for s in range(len(initial)):
            share = float(rng.choice([0.0, rng.uniform(0, 1), 1.0]))
            initial[s, n, m] = _whole(document, share * _fair_share(document, p, s))
    nested: list[Any] = initial.tolist()
    return nested


def _random_fixed(rng: np.random.Generator, document: Document) -> list[Any]:
    """Fix some numbers over all periods or by block: home's to what home needs."""
    blocks = document.get("hold_periods", [1] * len(document["periods"]["start"]))
    fixed = np.full(_sizes(document, "periods", "sites", "models", "modes"), None, dtype=object)
    first = True
    for p in document["profiles"]:
        n, m = _place(p)
        for s in range(fixed.shape[1]):
            if not first and rng.random() < 0.5:
                continue
            first = False
            most = max(_home_count(document, p)) if s == 0 else _fair_share(document, p, s)
            steady = rng.random() < 0.7
            shares = np.repeat(rng.uniform(0, 1, len(blocks)), blocks)
            numbers = [most if s == 0 else most * (shares[0] if steady else u) for u in shares]
            given = steady | (np.repeat(rng.random(len(blocks)), blocks) < 0.5)
            for t in np.flatnonzero(given):
                fixed[t, s, n, m] = _whole(document, float(numbers[t]))
    nested: list[Any] = fixed.tolist()
    return nested


def _random_instance_limits(rng: np.random.Generator, document: Document) -> list[Document]:
    """Draw limits around what home needs in all, and on other sites alone."""
    sites, periods, modes = _sizes(document, "sites", "periods", "modes")
    home = sum(max(_home_count(document, p)) for p in document["profiles"])
    choices: list[tuple[list[str], Any]] = [
        ([], home * float(rng.uniform(0.4, 1.1))),
        (["period"], _draw(rng, 0.4, 1.3, (periods,), home)),
        (["site"], [None, *_draw(rng, 0.0, 0.4, (sites - 1,), home)]),
        (["mode"], [None, *_draw(rng, 0.0, 0.5, (modes - 1,), home)]),
        (["model", "site"], [
            [None, *_draw(rng, 0.0, 0.3, (sites - 1,), home)] for _ in document["models"]
        ]),
        (["period", "site", "mode"], [
            [[None] * modes, *_draw(rng, 0.0, 0.4, (sites - 1, modes), home)]
            for _ in range(periods)
        ]),
    ]  # fmt: skip
    picked = rng.choice(len(choices), int(rng.integers(1, 4)), replace=False)
    return [
        {"name": f"limit{i}", "limit": {"axes": choices[i][0], "values": choices[i][1]}}
        for i in sorted(int(i) for i in picked)
    ]


def _place(p: Document) -> tuple[int, int]:
    return int(p["model"].removeprefix("model")), int(p["mode"].removeprefix("mode"))


def _fair_share(document: Document, p: Document, s: int) -> float:
    """Count instances for which a site always has GPUs, shared evenly by profiles of the type."""
    h = int(p["gpu_type"].removeprefix("gpu"))
    sharing = sum(other["gpu_type"] == p["gpu_type"] for other in document["profiles"])
    gpus = min(by_site[s][h] for by_site in document["gpus"])
    return float(gpus / sharing / p["gpus_per_instance"])


def _whole(document: Document, number: float) -> float:
    """Round a number down where instances are whole."""
    return float(np.floor(number)) if document.get("instance_counts") == "integer" else number


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
    if document.get("request_counts") == "integer":
        demand /= SLOWER
    nested: list[Any] = np.round(demand).tolist()
    return nested


def _set_latency_limits(rng: np.random.Generator, document: Document) -> None:
    """Cut slow levels and far sites, but nothing from home at the lowest serving level."""
    for k in document["classes"]:
        queues = any("queue" in p for p in document["profiles"] if p["model"] == k["model"])
        if queues and k["ttft_statistic"] == "max":
            k["ttft_statistic"] = "p99"
        slowest = max(
            _longest_prefill(level) + _wait_s(k, p, level)
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
            k["ttft_statistic"] = (
                "max" if rng.random() < 0.5 and not queues else k["ttft_statistic"]
            )
        if rng.random() < 0.8:
            k["tbt_limit_s"] = max(gaps) * float(rng.uniform(1.0, 1.5))


def _longest_prefill(level: Document) -> float:
    return float(level["prefill_s"][-1])


def _wait_s(k: Document, p: Document, level: Document, statistic: str | None = None) -> float:
    """Wait at a full level, s: for its mean, or the percentile that the class limits."""
    if "queue" not in p or level["requests_per_s"] == 0:
        return 0.0
    queue, statistic = p["queue"], statistic or k["ttft_statistic"]
    u = level["requests_per_s"] * queue["service_s"]
    variability = (queue["service_cv2"] + queue["arrival_cv2"]) / 2
    mean = k["work_per_request"][p["mode"]] * queue["service_s"] * variability * u / (1 - u)
    if statistic == "mean":
        return float(mean)
    later = 1 - float(statistic.removeprefix("p")) / 100
    return float(mean / u * max(0.0, np.log(u / later)))


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
        needed[h] += max(_home_count(document, p)) * p["gpus_per_instance"]
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


def _home_count(document: Document, p: Document) -> list[float]:
    """Count what has to run at home in each period: rounded up if whole, starts included."""
    serving = _home_instances(document, p)
    seconds = p.get("startup", {"time_s": 0.0})["time_s"]
    running = [
        count / (1 - seconds / length)
        for count, length in zip(serving, document["periods"]["duration_s"], strict=True)
    ]
    whole = document.get("instance_counts") == "integer"
    return [float(np.ceil(count)) for count in running] if whole else running


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
                choices.append(watts * np.array(_home_count(document, p)))
        total += np.max(choices, axis=0) if worst else choices[0]
    return total


def _random_power_cap(rng: np.random.Generator, document: Document) -> list[Any]:
    shape = _sizes(document, "periods", "sites")
    power = _home_power_w(document, worst=True)[:, None]
    cap = power * rng.uniform(0.1, 0.8, shape)
    cap[:, 0] = power[:, 0] * rng.uniform(1.0, 1.3, shape[0])
    # Counted instances stand by where there is less load, and start.
    if "hold_periods" in document or "initial_instances" in document:
        cap[:, 0] = cap[:, 0].max() * 1.5
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
            if document.get("request_counts") == "integer":
                k["unmet_price_usd"] *= SLOWER
                _add_a_half(rng, document, i)


def _add_a_half(rng: np.random.Generator, document: Document, k: int) -> None:
    """Make some demand of a class fractional, of which whole requests leave a part."""
    for by_class in (
        by_class for by_origin in document["demand_requests"] for by_class in by_origin
    ):
        by_class[k] += float(rng.choice([0.0, 0.0, 0.5]))


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
    waiting = _waiting_metrics(document, requests)
    objective: list[Document] = []
    for _ in range(stages):
        picked = [str(name) for name in rng.choice(list(scales), 3, replace=False)]
        terms = [_random_term(rng, name, scales[name], max_sites) for name in picked]
        objective.append({"terms": terms, "tolerance": float(rng.choice([1e-6, 1e-3, 0.05]))})
    for metric, scale in waiting.items():
        weight = float(rng.choice([0.0, 0.1, 1.0]) * rng.uniform(0.1, 1.0))
        objective[0]["terms"].append({"metric": metric, "weight": weight, "scale": scale})
    if unmet:
        objective[0]["terms"].append({"metric": "unmet_usd", "weight": 1.0, "scale": 0.05 * kwh})
    if max_sites and not any(
        term.get("over_sites") == "max" and term["weight"] > 0 for term in objective[0]["terms"]
    ):
        extra = {"metric": "requests", "weight": 0.5, "scale": requests, "over_sites": "max"}
        objective[0]["terms"].append(extra)
    return objective


def _waiting_metrics(document: Document, requests: float) -> dict[str, float]:
    """Metrics of starts, deferral and queues where there are any, each with its scale."""
    scales: dict[str, float] = {}
    if "initial_instances" in document:
        scales["starts"] = 1.0 + sum(max(_home_count(document, p)) for p in document["profiles"])
    if any("startup" in p for p in document["profiles"]):
        scales["ttft_startup_request_s"] = 100.0 * requests
    if any("deferral_limit_s" in k for k in document["classes"]):
        scales["deferral_request_s"] = 1e4 * requests
    if any("queue" in p for p in document["profiles"]):
        scales["ttft_queue_request_s"] = (0.01 + _home_wait_s(document)) * requests
    return scales


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
    for metric, scale in _waiting_metrics(document, requests).items():
        axes, shape = ([], ()) if rng.random() < 0.5 else (["period"], (periods,))
        choices.append(_budget(metric, axes, _draw(rng, 0.0, 1.0, shape, scale)))
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
    return float(far + prefill + _home_wait_s(document))


def _home_wait_s(document: Document) -> float:
    """Longest mean wait in any queue at the lowest serving levels."""
    return max(
        _wait_s(k, p, p["levels"][_lowest(p)], "mean")
        for k, p in product(document["classes"], document["profiles"])
        if k["model"] == p["model"]
    )


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
