"""Placement instances from published problems of other authors: eGLB."""

from __future__ import annotations

import csv
import math
import os
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike

from greenopt.errors import InputError, InstanceError, Problem
from greenopt.problems.placement.instance import PlacementInstance

EGLB_START = "2022-09-22T00:00Z"
"""First hour of the published eGLB series."""

EGLB_SERIES = ("price_usd_per_mwh", "carbon_kg_per_kwh", "water_l_per_kwh")
"""Series of each site in an eGLB table; a column is called ``Site|series``."""

EGLB_CARBON_SIGNAL: Mapping[str, Any] = {
    "kind": "average",
    "scope": "life-cycle",
    "basis": "production",
    "provider": "Environmentally-Equitable-AI: hourly fuel mix times a factor for each fuel",
    "year": 2022,
}
"""What the published carbon series is; its fuel factors are above zero for nuclear and wind."""

EGLB_SOURCE: Mapping[str, str] = {
    "name": "Environmentally-Equitable-AI (eGLB): price, carbon, water and load of ten sites",
    "licence": "MIT",
    "attribution": "Li, Yang, Wierman, Ren: Towards Environmentally Equitable AI via Geographical "
    "Load Balancing (arXiv 2307.05494), data from Ren-Research/Environmentally-Equitable-AI",
    "url": "https://github.com/Ren-Research/Environmentally-Equitable-AI @182da3600576",
    "note": "First 457 rows of data/price, data/carbon and data/water of ten sites, and "
    "data/AI_workload.csv over 2708 W as the load fraction of each gateway; values unchanged.",
}
"""Where the published eGLB data came from."""

_RULES = (
    "A request is 1 MWh of facility energy: one hour on the one instance of 1 MW that a site has.",
    "Power is facility power and PUE is 1, so IT energy and facility energy are the same.",
    "wue_l_per_kwh is the published total water (on site and in electricity); ewif is 0.",
    "Cycles of concentration (6, as in eGLB) split the water but do not change water_l.",
    "Latency, prefill, egress and embodied carbon are 0; the lifetime of one year has no effect.",
    "Weights per litre and kg are the published ones (USD/m3, USD/t) over 1000; the cost term is "
    "always the plain sum, over_sites of water and carbon is the published aggregate.",
)


def eglb(
    price_usd_per_mwh: ArrayLike,
    carbon_kg_per_kwh: ArrayLike,
    water_l_per_kwh: ArrayLike,
    load_fraction: ArrayLike,
    *,
    sites: Sequence[str],
    origins: Sequence[str],
    start: str,
    provenance: Mapping[str, Any],
    name: str,
    price: float = 1.0,
    water: float = 60.0,
    carbon: float = 1500.0,
    over_sites: Literal["max", "mean"] = "max",
    carbon_signal: Mapping[str, Any] = EGLB_CARBON_SIGNAL,
) -> PlacementInstance:
    """Geographical load balancing of eGLB (arXiv 2307.05494) as a placement instance.

    Each site has a capacity of 1 MW; the load of each gateway (origin) may go to any site. One
    request is 1 MWh of facility energy, so flows are the published variables x.

    Parameters
    ----------
    price_usd_per_mwh : array of float, (periods, sites)
        Electricity price, USD/MWh.
    carbon_kg_per_kwh : array of float, (periods, sites)
        Carbon intensity, kg CO2e/kWh.
    water_l_per_kwh : array of float, (periods, sites)
        Total water, on site and in electricity, L/kWh of facility energy.
    load_fraction : array of float, (periods,) or (periods, origins)
        Load of each gateway in units of one site's capacity, MW; one column serves all gateways.
    sites, origins : sequence of str
        Names of the sites and of the gateways.
    start : str
        Start of the first hour, ISO 8601 with a zone.
    provenance : mapping
        Provenance of the data, as in the instance format; the modelling rules are appended.
    name : str
        Name of the instance.
    price : float
        Weight of the plain sum of cost (published l0), 1.
    water : float
        Weight of water (published l1), USD/m3.
    carbon : float
        Weight of carbon (published l2), USD/t.
    over_sites : {"max", "mean"}
        The site with the largest total (equity) or the mean over sites, for water and carbon.
    carbon_signal : mapping
        What the carbon intensity means; by default that of the published data.

    Returns
    -------
    PlacementInstance
        With one model, mode, class, profile and level.

    Raises
    ------
    InstanceError
        If start is not a time, or a series does not fit the sets or holds a value out of range.
    """
    load = np.atleast_1d(np.asarray(load_fraction, dtype=float))
    signals = (price_usd_per_mwh, carbon_kg_per_kwh, water_l_per_kwh)
    usd, kg, litres = (np.asarray(series, dtype=float) for series in signals)
    return PlacementInstance.parse(
        {
            **_unit_service(),
            "problem": "placement",
            "schema_version": 1,
            "name": name,
            "provenance": {**provenance, "rules": (*provenance.get("rules", ()), *_RULES)},
            "periods": _hours(start, len(load)),
            "origins": tuple(origins),
            "sites": tuple(sites),
            "carbon_signal": dict(carbon_signal),
            "wue_basis": {"kind": "given", "note": "the published total: on site and electricity"},
            "ewif_set": "none: water of electricity is contained in wue_l_per_kwh",
            "price_basis": "wholesale",
            "demand_requests": {"axes": ["period", "origin"][: load.ndim], "values": load},
            "price_usd_per_mwh": usd,
            "carbon_g_per_kwh": kg * 1000,
            "wue_l_per_kwh": litres,
            "objective": (_stage(price, water, carbon, over_sites),),
        },
        name,
    )


def eglb_csv(
    path: str | os.PathLike[str],
    *,
    gateways: int = 10,
    start: str = EGLB_START,
    name: str = "eglb",
    provenance: Mapping[str, Any] | None = None,
    price: float = 1.0,
    water: float = 60.0,
    carbon: float = 1500.0,
    over_sites: Literal["max", "mean"] = "max",
    carbon_signal: Mapping[str, Any] = EGLB_CARBON_SIGNAL,
) -> PlacementInstance:
    """Read an eGLB problem from one wide CSV table.

    Parameters
    ----------
    path : path
        Table with the columns ``hour`` (0, 1, 2, ...), ``load_fraction`` (1, of each gateway) and
        for each site ``Site|price_usd_per_mwh``, ``Site|carbon_kg_per_kwh`` and
        ``Site|water_l_per_kwh``; other columns are ignored.
    gateways : int
        Number of gateways, all with the same load.
    start : str
        Start of hour 0, ISO 8601 with a zone.
    name : str
        Name of the instance.
    provenance : mapping, optional
        Provenance of the table; by default that of the published data.
    price, water, carbon, over_sites, carbon_signal
        As in `eglb`.

    Returns
    -------
    PlacementInstance
        The instance.

    Raises
    ------
    InputError
        With every missing column and every value that is not a number, by row and column.
    """
    columns, rows = _table(path)
    sites = _sites(columns)
    wanted = ["hour", "load_fraction", *(f"{s}|{series}" for s in sites for series in EGLB_SERIES)]
    missing = [Problem(f"column {c!r}", "is missing") for c in wanted if c not in columns]
    if not sites:
        shown = ", ".join(f"'Site|{series}'" for series in EGLB_SERIES)
        missing.append(Problem("header", f"names no site; expected columns {shown}"))
    if missing:
        raise InputError(str(path), missing)
    values = _numbers(path, columns, rows, wanted)
    series = values[:, 2:].reshape(len(rows), len(sites), len(EGLB_SERIES))
    usd, kg, litres = np.moveaxis(series, 2, 0)
    return eglb(
        usd,
        kg,
        litres,
        values[:, 1],
        sites=sites,
        origins=[f"gateway {i + 1}" for i in range(gateways)],
        start=start,
        provenance=provenance if provenance is not None else _published_provenance(),
        name=name,
        price=price,
        water=water,
        carbon=carbon,
        over_sites=over_sites,
        carbon_signal=carbon_signal,
    )


def _sites(columns: list[str]) -> list[str]:
    """Names of the sites that any column belongs to, in the table's order."""
    parts = (column.rpartition("|") for column in columns)
    return list(dict.fromkeys(site for site, _, series in parts if site and series in EGLB_SERIES))


def _unit_service() -> dict[str, Any]:
    """Everything of an instance in which one request is one MWh on one 1 MW instance."""
    zero: dict[str, Any] = {"axes": [], "values": 0.0}
    one: dict[str, Any] = {"axes": [], "values": 1.0}
    nothing = {"values": (0.0,), "probabilities": (1.0,)}
    level = {
        "requests_per_s": 1 / 3600,
        "power_w": 1e6,
        "itl_s": {"mean": 0.0},
        "prefill_s": (0.0, 0.0),
    }
    return {
        "modes": ("capacity",),
        "models": ({"name": "load", "weight_bytes": None, "kv_bytes_per_token": None},),
        "gpu_types": (
            {"name": "MW", "memory_bytes": None, "embodied_kg": 0.0, "lifetime_s": 31536000.0},
        ),
        "profiles": (
            {
                "model": "load",
                "mode": "capacity",
                "gpu_type": "MW",
                "gpus_per_instance": 1.0,
                "power_boundary": "facility",
                "prefill_tokens": (0.0, 1.0),
                "levels": (level,),
            },
        ),
        "classes": (
            {
                "name": "MWh",
                "model": "load",
                "prompt_tokens": nothing,
                "output_tokens": nothing,
                "work_per_request": {"capacity": 1.0},
                "egress_bytes_per_request": 0.0,
            },
        ),
        "gpus": one,
        "pue": one,
        "cycles_of_concentration": {"axes": [], "values": 6.0},
        "ewif_l_per_kwh": zero,
        "rtt_s": zero,
        "last_mile_s": zero,
        "egress_usd_per_gb": zero,
    }


def _stage(price: float, water: float, carbon: float, over_sites: str) -> dict[str, Any]:
    """Objective with the published weights (per USD, m3, t) on metrics in USD, L and kg."""
    return {
        "terms": (
            {"metric": "cost_usd", "weight": price, "over_sites": "sum"},
            {"metric": "water_l", "weight": water / 1000, "over_sites": over_sites},
            {"metric": "carbon_kg", "weight": carbon / 1000, "over_sites": over_sites},
        )
    }


def _hours(start: str, count: int) -> dict[str, Any]:
    try:
        first = datetime.fromisoformat(start)
    except ValueError:
        problem = Problem("start", f"{start!r} is not an ISO 8601 time")
        raise InstanceError("eglb", [problem]) from None
    stamps = ((first + timedelta(hours=i)).isoformat(timespec="minutes") for i in range(count))
    return {
        "start": tuple(stamp.replace("+00:00", "Z") for stamp in stamps),
        "duration_s": (3600.0,) * count,
    }


def _published_provenance() -> dict[str, Any]:
    return {
        "description": "Environmentally equitable geographical load balancing of ten data centres",
        "builder": "greenopt.problems.placement.builders.eglb_csv",
        "data_licence": "MIT",
        "sources": (dict(EGLB_SOURCE),),
    }


def _table(path: str | os.PathLike[str]) -> tuple[list[str], list[list[str]]]:
    """Header and rows of a CSV file; blank lines are dropped."""
    try:
        with Path(path).open(encoding="utf-8-sig", newline="") as stream:
            header, *rows = [row for row in csv.reader(stream) if row] or [[]]
    except OSError as error:
        problem = Problem("file", f"cannot be read: {error.strerror}")
        raise InputError(str(path), [problem]) from None
    except (UnicodeDecodeError, csv.Error) as error:
        problem = Problem("file", f"is not a CSV table in UTF-8: {error}")
        raise InputError(str(path), [problem]) from None
    columns = [column.strip() for column in header]
    twice = sorted({column for column in columns if columns.count(column) > 1})
    problems = [Problem(f"column {column!r}", "stands there more than once") for column in twice]
    if not rows:
        problems.append(Problem("file", "has no rows below its header"))
    if problems:
        raise InputError(str(path), problems)
    return columns, rows


def _numbers(
    path: str | os.PathLike[str], columns: list[str], rows: list[list[str]], wanted: list[str]
) -> np.ndarray:
    """Read the wanted columns as floats, or report every cell that is not what it should be."""
    problems: list[Problem] = []
    values = np.empty((len(rows), len(wanted)))
    at = [columns.index(column) for column in wanted]
    for i, row in enumerate(rows):
        for j, column in enumerate(wanted):
            cell = row[at[j]] if at[j] < len(row) else ""
            check = _is_hour(i) if column == "hour" else _is_finite
            values[i, j], expected = check(cell)
            if expected:
                where = f"data row {i + 1}, column {column!r}"
                problems.append(Problem(where, f"is {cell!r}; expected {expected}"))
    if problems:
        more = [Problem("file", f"and {len(problems) - 5} more cells like these")]
        raise InputError(str(path), problems[:5] + (more if len(problems) > 5 else []))
    return values


def _is_finite(cell: str) -> tuple[float, str]:
    """Value of a cell and, if it is not a finite number, what was expected."""
    try:
        value = float(cell)
    except ValueError:
        return 0.0, "a number"
    return value, "" if math.isfinite(value) else "a finite number"


def _is_hour(index: int) -> Callable[[str], tuple[float, str]]:
    def check(cell: str) -> tuple[float, str]:
        value, expected = _is_finite(cell)
        if expected or value == index:
            return value, expected
        return value, f"{index}: rows are consecutive hours counted from 0"

    return check
