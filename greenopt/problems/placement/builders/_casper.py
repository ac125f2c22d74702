"""CASPER: carbon-aware placement of web requests and servers, hour by hour (arXiv 2403.14792)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike

from greenopt.datasets._tables import AnyPath, Table, read_table
from greenopt.errors import InputError, InstanceError, Problem
from greenopt.problems.placement.builders import _parts
from greenopt.problems.placement.builders._parts import Argument
from greenopt.problems.placement.instance import PlacementInstance

CASPER_CARBON_SIGNAL: Mapping[str, Any] = {
    "kind": "average",
    "scope": "life-cycle",
    "basis": "consumption",
    "provider": "carbonfirst/casper, carbon_intensities.csv; its kind is not stated there",
    "year": 2022,
}
"""What the published carbon intensity probably is."""

CASPER_SOURCE: Mapping[str, str] = {
    "name": "casper: hourly Wikipedia requests, carbon intensity and latency of six regions",
    "licence": "Apache-2.0",
    "attribution": "CASPER: Carbon-Aware Scheduling and Provisioning for Distributed Web Services "
    "(arXiv 2403.14792), data from carbonfirst/casper",
    "url": "https://github.com/carbonfirst/casper @7b70ea5",
    "note": "CAP/dataset/wiki: offset.csv, latency.csv, requests.csv, carbon_intensities.csv.",
}
"""Where the published CASPER data came from."""

_RULES = (
    "Regions are origins and sites; a server is one instance on one GPU of type 'server'.",
    "A server serves up to server_capacity requests an hour (load_rule at_most); requests and "
    "servers are whole, and hours are independent of each other.",
    "carbon_index and latency_index are the published, normalised sums of each hour, server_index "
    "the published share of servers; request_carbon is the sum of carbon intensity x requests.",
    "The published problem has no power: power, energy and carbon of servers are 0, carbon counts "
    "by request in the custom metrics.",
    "A latency that is not known counts as unknown_latency_ms.",
    "Water, prices, PUE, embodied carbon and egress are not in the published problem.",
)

_HOUR_S = 3600.0


def casper(
    requests: ArrayLike,
    latency_ms: ArrayLike,
    carbon_g_per_kwh: ArrayLike,
    *,
    regions: Sequence[str],
    objective: Literal["carbon", "latency", "carbon_only"] = "carbon",
    alpha: float | None = None,
    server_capacity: float = 10.0,
    servers_per_region: ArrayLike = 100.0,
    max_servers: float | None = None,
    max_latency_ms: float = 500.0,
    unknown_latency_ms: float = 1e6,
    start: str = "2022-08-13T00:00Z",
    name: str = "casper",
    provenance: Mapping[str, Any] | None = None,
    carbon_signal: Mapping[str, Any] = CASPER_CARBON_SIGNAL,
) -> PlacementInstance:
    r"""Provisioning problem of CASPER (arXiv 2403.14792), one hour or several.

    Whole numbers :math:`x_{ij}` of requests from region :math:`i` served in region :math:`j`, and
    :math:`s_j` of servers, with :math:`\sum_jx_{ij}=r_i`, :math:`\sum_ix_{ij}\le cap\,s_j`,
    :math:`s_j\le100`, :math:`\sum_js_j\le S` and, by objective,

    .. math::

        \text{carbon:}\quad&\min\ \frac{\alpha\sum_{ij}CI_jx_{ij}}{\max_jCI_j\,\sum_ir_i}
        +\frac{(1-\alpha)\sum_js_j}{S},\quad \alpha=0.9,\quad x_{ij}=0\text{ where }l_{ij}>500\\
        \text{latency:}\quad&\min\ \frac{\alpha\sum_{ij}l_{ij}x_{ij}}{\sum_ir_i\max_jl_{ij}}
        +\frac{(1-\alpha)\sum_js_j}{S},\quad \alpha=0.5,\text{ no limit on latency}\\
        \text{carbon_only:}\quad&\min\ \sum_{ij}CI_jx_{ij},\quad x_{ij}=0\text{ where }l_{ij}>500

    The last is the first stage of the older, two-stage program; its second stage is the same with
    `servers_per_region` as found by the first. Several hours have the sum of their objectives.

    Carbon is a custom metric on requests, not power on servers: the published one counts requests
    alone, while a server at level "at most" would draw its power whatever it serves, and an exact
    split into an idle and a full level would add continuous variables. So all variables of the
    instance are whole numbers.

    Parameters
    ----------
    requests : array of int, (regions,) or (hours, regions)
        Requests of each region and hour.
    latency_ms : array of float, (regions, regions)
        Latency from origin (row) to destination (column), ms; NaN where it is not known.
    carbon_g_per_kwh : array of float, (regions,) or (hours, regions)
        Carbon intensity, g CO2e/kWh.
    regions : sequence of str
        Names of the regions, in the order of the arrays.
    objective : {"carbon", "latency", "carbon_only"}
        See above.
    alpha : float, optional
        Weight of carbon or latency; by default 0.9 for carbon and 0.5 for latency.
    server_capacity : float
        Requests that a server serves in an hour, 10.
    servers_per_region : float or array of float, (regions,)
        Most servers in each region, 100.
    max_servers : float, optional
        :math:`S`, most servers in all, by default the sum of `servers_per_region`.
    max_latency_ms : float
        Largest latency allowed, equality included, 500; not used by "latency".
    unknown_latency_ms : float
        Latency where it is NaN, 10^6.
    start : str
        Start of the first hour, ISO 8601 with a zone.
    name : str
        Name of the instance.
    provenance : mapping, optional
        Provenance of the data, by default that of the published data; rules are appended.
    carbon_signal : mapping
        What the carbon intensity means.

    Returns
    -------
    PlacementInstance
        With the custom metrics ``request_carbon`` and, by objective, ``carbon_index`` or
        ``latency_index``, and ``server_index``.

    Raises
    ------
    InstanceError
        If an array does not fit, or a normalisation is undefined: an hour without requests, or
        without any positive carbon intensity or latency.
    """
    n = len(regions)
    by_hour = {"hour": None, "region": n}
    r, ms, ci, servers = _parts.arrays(
        name,
        Argument("requests", _hourly(requests), by_hour, minimum=0),
        Argument("latency_ms", latency_ms, {"origin": n, "region": n}, minimum=0, unknown=True),
        Argument("carbon_g_per_kwh", _hourly(carbon_g_per_kwh), by_hour),
        Argument(
            "servers_per_region", _parts.each(servers_per_region, n), {"region": n}, minimum=0
        ),
    )
    if len(r) != len(ci):
        text = f"has {len(ci)} hours, expected {len(r)} as requests"
        raise InstanceError(name, [Problem("carbon_g_per_kwh", text)])
    ms = np.where(np.isnan(ms), unknown_latency_ms, ms)
    most = float(servers.sum()) if max_servers is None else float(max_servers)
    if not most > 0:
        raise InstanceError(name, [Problem("max_servers", f"is {most:g}; expected more than 0")])
    metrics, terms = _objective(objective, alpha, r, ms, ci, most, name)
    limits = {"ttft_limit_s": max_latency_ms / 1000, "ttft_statistic": "mean"}
    level = {"requests_per_s": server_capacity / _HOUR_S}
    total = {"name": "servers", "limit": {"axes": [], "values": most}}
    return PlacementInstance.parse(
        {
            **_parts.neutral(),
            **_parts.service(
                "web",
                "server",
                "server",
                "request",
                level,
                **({} if objective == "latency" else limits),
            ),
            "name": name,
            "provenance": _parts.provenance(
                _published() if provenance is None else provenance, _RULES
            ),
            "periods": _parts.periods(start, len(r), _HOUR_S, name),
            "origins": tuple(regions),
            "sites": tuple(regions),
            "carbon_signal": dict(carbon_signal),
            "load_rule": "at_most",
            "instance_counts": "integer",
            "request_counts": "integer",
            "demand_requests": {"axes": ["period", "origin"], "values": r},
            "gpus": {"axes": ["site"], "values": servers},
            "carbon_g_per_kwh": ci,
            "rtt_s": ms / 1000,
            "instance_limits": (total,) if most < servers.sum() else (),
            "custom_metrics": metrics,
            "objective": ({"terms": terms},),
        },
        name,
    )


def casper_folder(
    folder: AnyPath,
    *,
    date: str = "2022-08-13",
    hour: int = 0,
    hours: int = 1,
    match: Literal["timestamp", "position"] = "timestamp",
    **options: Any,
) -> PlacementInstance:
    """Read hours of CASPER's data as published in ``CAP/dataset/wiki``.

    Parameters
    ----------
    folder : path
        With ``offset.csv`` (its header names the regions in order; the offsets are not used),
        ``latency.csv`` (a column for each region, row k is origin k, ms; empty where not known),
        ``requests.csv`` and ``carbon_intensities.csv`` (``timestamp`` in seconds of the epoch and a
        column for each region; other columns are ignored, rows in any order).
    date : str
        Day, UTC, ISO 8601; the published start is 2022-08-13.
    hour : int
        First hour, counted from midnight.
    hours : int
        Number of hours.
    match : {"timestamp", "position"}
        How the two files are brought together: every hour by its timestamp, or as published, where
        the row of midnight is found by its timestamp in each file and hours are counted in rows
        from there, although rows are missing and out of order.
    **options
        As in `casper`, without start and regions.

    Returns
    -------
    PlacementInstance
        The instance.

    Raises
    ------
    InputError
        With file, row and column of what is missing or no number, or the hour that has no row.
    """
    here = Path(folder)
    regions = read_table(here / "offset.csv").columns
    latency = read_table(here / "latency.csv")
    if len(latency.rows) != len(regions):
        text = f"has {len(latency.rows)} rows, expected one for each of {len(regions)} regions"
        raise InputError(latency.path, [Problem("file", text)])
    midnight = _parts.time_of(f"{date}T00:00Z", "casper_folder")
    first = int(midnight.timestamp())
    requests, carbon = (
        _hours_of(read_table(here / file), regions, first, range(hour, hour + hours), match)
        for file in ("requests.csv", "carbon_intensities.csv")
    )
    return casper(
        requests,
        latency.numbers(regions, unknown=True),
        carbon,
        regions=regions,
        start=_parts.stamp(midnight + timedelta(hours=hour)),
        **options,
    )


def _hours_of(
    table: Table, regions: Sequence[str], midnight: int, hours: range, match: str
) -> np.ndarray:
    """Rows of the hours from midnight on."""
    stamps = table.numbers(["timestamp"])[:, 0]
    if match == "position":
        start = _row_at(table, stamps, midnight, regions)
        rows = [start + hour for hour in hours]
        if rows[-1] >= len(table.rows):
            text = f"ends {rows[-1] - len(table.rows) + 1} rows before the last hour asked for"
            raise InputError(table.path, [Problem("file", text)])
    else:
        rows = [_row_at(table, stamps, midnight + 3600 * hour, regions) for hour in hours]
    return table.numbers(regions, rows=rows)


def _row_at(table: Table, stamps: np.ndarray, moment: int, regions: Sequence[str]) -> int:
    """Row of a timestamp; rows may repeat each other, but not differ."""
    rows = [int(row) for row in np.flatnonzero(stamps == moment)]
    if not rows:
        raise InputError(table.path, [Problem("column 'timestamp'", f"does not hold {moment}")])
    if len(np.unique(table.numbers(regions, rows=rows), axis=0)) > 1:
        text = f"holds {moment} in rows that differ: {[row + 1 for row in rows]}"
        raise InputError(table.path, [Problem("column 'timestamp'", text)])
    return rows[0]


def _hourly(values: ArrayLike) -> Any:
    """One hour's values as a table of one hour."""
    return values if np.ndim(values) != 1 else [values]


def _objective(
    objective: str,
    alpha: float | None,
    r: np.ndarray,
    ms: np.ndarray,
    ci: np.ndarray,
    most: float,
    source: str,
) -> tuple[tuple[dict[str, Any], ...], tuple[dict[str, Any], ...]]:
    """Custom metrics, and the terms of the objective."""
    request_carbon = {
        "name": "request_carbon",
        "unit": "g CO2e/kWh x requests",
        "per_request": {"axes": ["period", "site"], "values": ci},
    }
    if objective == "carbon_only":
        return (request_carbon,), ({"metric": "request_carbon", "weight": 1.0},)
    if objective == "carbon":
        share = 0.9 if alpha is None else alpha
        index = ci / _norm(ci.max(axis=1) * r.sum(axis=1), "carbon intensity", source)[:, None]
        axes = ["period", "site"]
    elif objective == "latency":
        share = 0.5 if alpha is None else alpha
        index = ms / _norm(r @ ms.max(axis=1), "latency", source)[:, None, None]
        axes = ["period", "origin", "site"]
    else:
        text = f"is {objective!r}; expected 'carbon', 'latency' or 'carbon_only'"
        raise InstanceError(source, [Problem("objective", text)])
    first = {
        "name": f"{objective}_index",
        "unit": "1",
        "per_request": {"axes": axes, "values": index},
    }
    second = {
        "name": "server_index",
        "unit": "1",
        "per_instance_s": {"axes": [], "values": 1 / (_HOUR_S * most)},
    }
    return (request_carbon, first, second), (
        {"metric": first["name"], "weight": share},
        {"metric": "server_index", "weight": 1 - share},
    )


def _norm(values: np.ndarray, what: str, source: str) -> np.ndarray:
    """Denominators of the hours, if they are positive."""
    bad = np.flatnonzero(values <= 0)
    if len(bad):
        text = f"of hour {bad[0]} makes the objective undefined: no requests, or no positive {what}"
        raise InstanceError(source, [Problem("normalisation", text)])
    return values


def _published() -> dict[str, Any]:
    text = "Web requests of six regions to servers in the same regions"
    return _parts.published(text, "casper", CASPER_SOURCE)
