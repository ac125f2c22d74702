"""FREESH: whole instances for 30 minutes, least emissions, latency masks (arXiv 2511.00807)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from greenopt.datasets._tables import AnyPath, read_table
from greenopt.errors import InstanceError, Problem
from greenopt.files import read_json
from greenopt.problems.placement.builders import _parts
from greenopt.problems.placement.builders._parts import Argument
from greenopt.problems.placement.instance import PlacementInstance

FREESH_START = "2025-01-01T00:00Z"
"""Where slot 0 is put; the published series name no day."""

FREESH_CARBON_SIGNAL: Mapping[str, Any] = {
    "kind": "marginal",
    "scope": "direct",
    "basis": "production",
    "provider": "LLM_Serving_FREESH, e_instance.csv; inferred from its values, unit not stated",
    "year": 2025,
}
"""What the published emission rates probably are; the year is that of the paper."""

FREESH_SOURCE: Mapping[str, str] = {
    "name": "LLM_Serving_FREESH: pool MILP tables, request rates and emission rates",
    "licence": "MIT",
    "attribution": "He, Fang, Lian, Tsang, Zhang, Chen: FREESH: Fair, Resource- and Energy-"
    "Efficient Scheduling for LLM Serving on Heterogeneous GPUs (arXiv 2511.00807), data from "
    "AndrewFangZequan/LLM_Serving_FREESH",
    "url": "https://github.com/AndrewFangZequan/LLM_Serving_FREESH @a9adec648adc",
    "note": "PoolMILP: tables of partition [a], base_throughput_a.xlsx and e_instance.csv; values "
    "unchanged, demand divided by 2 as in the published runs (beta 2).",
}
"""Where the published FREESH data came from."""

TTFT_LIMITS_MS = (300.0, 300.0, 600.0, 600.0)
"""Published limits of the time to first token of SS, SL, LS and LL, ms."""

_RULES = (
    "Each class has a model of its own, because an instance serves one class.",
    "Requests of all origins are pooled and reach every site without a network, as published.",
    "Demand of a slot is its request rate x demand_scale x demand_margin x its seconds.",
    "One plan of whole instances holds for all slots of a window (hold_periods); an instance draws "
    "its power whatever it serves (load_rule at_most), also in modes that serve nothing.",
    "carbon_g_per_kwh holds the published emission rate e, whose unit is not stated (probably lb "
    "CO2/MWh): kilograms are not comparable, the objective is the published sum of e W s.",
    "Power is the published power of an instance, taken as facility power with PUE 1.",
    "Limits on time to first token and between tokens, and on the latency of a whole request "
    "(latency_factor x its mean over modes), forbid a mode to a class.",
    "Water, prices, embodied carbon and egress are not in the published problem and 0 here.",
)
_MASK_RULE = (
    "Forbidden modes have an instance limit of 0, since the published masks forbid instances, and "
    "at a negative emission rate an idle one would lower the objective."
)


def freesh(
    tables: Mapping[str, Any],
    demand_qps: ArrayLike,
    emission_rate: ArrayLike,
    *,
    windows: Sequence[int] = (0,),
    latency_factor: float = 5.0,
    sites: Sequence[str] | None = None,
    start: str = FREESH_START,
    name: str = "freesh",
    provenance: Mapping[str, Any] | None = None,
    carbon_signal: Mapping[str, Any] = FREESH_CARBON_SIGNAL,
) -> PlacementInstance:
    r"""Pool MILP of FREESH (arXiv 2511.00807) for one partition of requests into classes.

    For site :math:`n`, class :math:`r`, mode :math:`m` and slot :math:`t` of a window, with whole
    numbers :math:`x` of instances,

    .. math::

        \min\sum_{n,r,m,t}e_{nt}P_{rm}\Delta t\,x_{nrm}\quad\text{s.t.}\quad
        \sum_{n,m}L_{rm}x_{nrm}\ge 1.1\,\tilde L_{rt},\quad
        \sum_{r,m}G_{mc}x_{nrm}\le\bar G_{nc},

    and :math:`x_{nrm}=0` where time to first token, time between tokens or latency of mode
    :math:`m` are above their limits for class :math:`r`. Windows are independent of each other;
    an instance of several has the sum of their objectives. The objective is
    ``carbon_operational_kg`` x 3.6e9, the published unit: that of `emission_rate`, times W s.

    Parameters
    ----------
    tables : mapping
        ``classes`` and ``modes`` (names), ``mode_gpus`` and ``site_gpus`` (for each GPU type, GPUs
        of each mode and of each site), ``qps``, ``power_w`` (W), ``latency_s`` (s), ``tbt_ms`` and
        ``ttft_ms`` (ms; class x mode). Published values stand in where these are left out:
        ``slot_s`` (300), ``window_slots`` (6), ``demand_margin`` (1.1), ``demand_scale`` (0.5), and
        ``slo`` with ``ttft_ms`` (300, 300, 600, 600) and ``tbt_ms`` (150). Other keys are ignored.
    demand_qps : array of float, (slots, classes)
        Requests per second, before scale and margin.
    emission_rate : array of float, (slots, sites)
        Emission rate, read as g/kWh; may be negative.
    windows : sequence of int
        Windows to plan, in increasing order; window p uses slots 6p to 6p + 5.
    latency_factor : float
        Largest latency of a whole request, over its plain mean over modes.
    sites : sequence of str, optional
        Names of the sites, by default site1, site2, ...
    start : str
        Start of slot 0, ISO 8601 with a zone.
    name : str
        Name of the instance.
    provenance : mapping, optional
        Provenance of the data, by default that of the published data; rules are appended.
    carbon_signal : mapping
        What the emission rate means.

    Returns
    -------
    PlacementInstance
        With one origin, a class and a model for each request type, and a period for each slot.

    Raises
    ------
    InstanceError
        If tables lack a key, a mode is on no or on two GPU types, a window is not in the series, or
        an array does not fit.
    """
    classes, modes, gpu_types = _names(tables, name)
    slo = _limits(tables, len(classes), name)
    by_mode = {"class": len(classes), "mode": len(modes)}
    qps, power, latency, tbt, ttft, mode_gpus, site_gpus, demand, emission, limits = _parts.arrays(
        name,
        *(
            Argument(f"tables[{key!r}]", tables[key], by_mode, minimum=0)
            for key in ("qps", "power_w", "latency_s", "tbt_ms", "ttft_ms")
        ),
        _by_gpu_type(tables, "mode_gpus", "mode", len(modes)),
        _by_gpu_type(tables, "site_gpus", "site", None),
        Argument("demand_qps", demand_qps, {"slot": None, "class": len(classes)}, minimum=0),
        Argument("emission_rate", emission_rate, {"slot": None, "site": None}),
        Argument(
            "tables['slo']['ttft_ms']",
            slo["ttft_ms"],
            {"class": len(classes)},
            minimum=0,
        ),
    )
    site_names = sites or [f"site{i + 1}" for i in range(emission.shape[1])]
    length, seconds = int(tables.get("window_slots", 6)), float(tables.get("slot_s", 300.0))
    slots = _slots(windows, length, min(len(demand), len(emission)), name)
    scale = tables.get("demand_scale", 0.5) * tables.get("demand_margin", 1.1)
    tbt_limit = slo["tbt_ms"]
    reachable = _within(latency, latency_factor * latency.mean(axis=1, keepdims=True))
    allowed = reachable & _within(ttft, limits[:, None]) & _within(tbt, tbt_limit)
    types = [gpu_types[c] for c in _type_of_mode(mode_gpus, modes, name)]
    first = _parts.time_of(start, name)
    return PlacementInstance.parse(
        {
            **_parts.neutral(),
            "name": name,
            "provenance": _parts.provenance(
                _published() if provenance is None else provenance,
                _RULES if allowed.all() else (*_RULES, _MASK_RULE),
            ),
            "periods": {
                "start": tuple(_parts.stamp(first + timedelta(seconds=seconds * t)) for t in slots),
                "duration_s": (seconds,) * len(slots),
            },
            "origins": ("requests",),
            "sites": tuple(site_names),
            "modes": tuple(modes),
            "models": tuple(map(_parts.model, classes)),
            "gpu_types": tuple(map(_parts.gpu_type, gpu_types)),
            "profiles": tuple(
                _parts.profile(
                    k,
                    m,
                    types[j],
                    float(mode_gpus[:, j].max()),
                    requests_per_s=float(qps[i, j]),
                    power_w=float(power[i, j]),
                    ttft_s=float(ttft[i, j]) / 1000,
                    tbt_s=float(tbt[i, j]) / 1000,
                )
                for i, k in enumerate(classes)
                for j, m in enumerate(modes)
            ),
            "classes": tuple(
                _parts.request_class(
                    k,
                    k,
                    modes,
                    ttft_limit_s=float(limit) / 1000,
                    ttft_statistic="mean",
                    tbt_limit_s=tbt_limit / 1000,
                    tbt_statistic="mean",
                )
                for k, limit in zip(classes, limits, strict=True)
            ),
            "carbon_signal": dict(carbon_signal),
            "load_rule": "at_most",
            "instance_counts": "integer",
            "hold_periods": (length,) * len(windows),
            "demand_requests": {
                "axes": ["period", "class"],
                "values": demand[slots] * (scale * seconds),
            },
            "gpus": {"axes": ["site", "gpu_type"], "values": site_gpus.T},
            "carbon_g_per_kwh": emission[slots],
            "reachable": None
            if reachable.all()
            else {"axes": ["class", "mode"], "values": reachable},
            "instance_limits": _forbidden(allowed),
            "objective": ({"terms": ({"metric": "carbon_operational_kg", "weight": 3.6e9},)},),
        },
        name,
    )


def freesh_folder(folder: AnyPath, **options: Any) -> PlacementInstance:
    """Read FREESH's tables and series from a folder.

    Parameters
    ----------
    folder : path
        With ``tables.json`` (the `tables` of `freesh`), ``demand_qps_5min.csv`` (columns ``slot``
        and, for each class, its name in small letters and ``_qps``) and
        ``emission_rate_5min.csv`` (``slot`` and a column for each site). Slots count from 0.
    **options
        As in `freesh`.

    Returns
    -------
    PlacementInstance
        The instance.

    Raises
    ------
    InputError
        With file, row and column of what is missing or no number.
    """
    tables = read_json(Path(folder) / "tables.json", InstanceError)
    demand = read_table(Path(folder) / "demand_qps_5min.csv")
    emission = read_table(Path(folder) / "emission_rate_5min.csv")
    rates = ["slot", *(f"{k.lower()}_qps" for k in tables.get("classes", ()))]
    sites = [column for column in emission.columns if column != "slot"]
    by_site = emission.numbers(["slot", *sites], counted="slot")
    by_class = demand.numbers(rates, counted="slot")
    return freesh(tables, by_class[:, 1:], by_site[:, 1:], **{"sites": sites, **options})


def _limits(tables: Mapping[str, Any], n_classes: int, name: str) -> dict[str, Any]:
    """The limits given, completed by the published ones, which are for four classes."""
    slo = {"tbt_ms": 150.0, **tables.get("slo", {})}
    if "ttft_ms" not in slo and n_classes != len(TTFT_LIMITS_MS):
        text = f"has no ttft_ms; the published limits are for 4 classes, and there are {n_classes}"
        raise InstanceError(name, [Problem("tables['slo']", text)])
    number = slo["tbt_ms"]
    if isinstance(number, bool) or not isinstance(number, int | float) or not number > 0:
        text = f"is {number!r}; expected one number above 0, ms"
        raise InstanceError(name, [Problem("tables['slo']['tbt_ms']", text)])
    return {"ttft_ms": TTFT_LIMITS_MS, **slo}


def _names(tables: Mapping[str, Any], source: str) -> tuple[list[str], list[str], list[str]]:
    """Names of classes, modes and GPU types of tables that have every key."""
    needed = ("classes", "modes", "mode_gpus", "site_gpus", "qps", "power_w", "latency_s")
    missing = [key for key in (*needed, "tbt_ms", "ttft_ms") if key not in tables]
    problems = [Problem(f"tables[{key!r}]", "is missing") for key in missing]
    problems += [
        Problem(f"tables[{key!r}]", "is not a mapping by GPU type")
        for key in ("mode_gpus", "site_gpus")
        if key in tables and not isinstance(tables[key], Mapping)
    ]
    if problems:
        raise InstanceError(source, problems)
    return list(tables["classes"]), list(tables["modes"]), list(tables["mode_gpus"])


def _by_gpu_type(tables: Mapping[str, Any], key: str, axis: str, count: int | None) -> Argument:
    """GPUs by type, in the order of mode_gpus."""
    values = [tables[key].get(gpu_type) for gpu_type in tables["mode_gpus"]]
    return Argument(f"tables[{key!r}]", values, {"GPU type": len(values), axis: count}, minimum=0)


def _type_of_mode(mode_gpus: np.ndarray, modes: Sequence[str], source: str) -> list[int]:
    """Index of the one GPU type that each mode runs on."""
    on = mode_gpus > 0
    wrong = [m for m, count in zip(modes, on.sum(axis=0), strict=True) if count != 1]
    if wrong:
        text = f"puts {wrong} on no or on several GPU types, expected one"
        raise InstanceError(source, [Problem("tables['mode_gpus']", text)])
    return [int(c) for c in on.argmax(axis=0)]


def _slots(windows: Sequence[int], length: int, count: int, source: str) -> list[int]:
    """Slots of the windows, in order."""
    if list(windows) != sorted(set(windows)) or not windows:
        text = f"is {list(windows)}; expected increasing numbers"
        raise InstanceError(source, [Problem("windows", text)])
    if windows[0] < 0 or (windows[-1] + 1) * length > count:
        text = f"is {list(windows)}; the series have windows 0 to {count // length - 1}"
        raise InstanceError(source, [Problem("windows", text)])
    return [length * window + i for window in windows for i in range(length)]


def _within(values: np.ndarray, limit: Any) -> np.ndarray:
    """Limits are met with the specification's slack, so that equality in the data counts."""
    return np.asarray(values <= limit * (1 + 1e-9))


def _forbidden(allowed: np.ndarray) -> tuple[dict[str, Any], ...]:
    if allowed.all():
        return ()
    limit = [[None if may else 0.0 for may in row] for row in allowed]
    return ({"name": "latency masks", "limit": {"axes": ["model", "mode"], "values": limit}},)


def _published() -> dict[str, Any]:
    text = "Whole instances of four request classes in four modes at three sites for 30 minutes"
    return _parts.published(text, "freesh", FREESH_SOURCE)
