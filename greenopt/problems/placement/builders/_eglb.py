"""eGLB: environmentally equitable geographical load balancing (arXiv 2307.05494)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike

from greenopt.datasets._tables import AnyPath, read_table
from greenopt.errors import InputError, Problem
from greenopt.problems.placement.builders import _parts
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
    level = {"requests_per_s": 1 / 3600, "power_w": 1e6}
    return PlacementInstance.parse(
        {
            **_parts.neutral(),
            **_parts.service("load", "capacity", "MW", "MWh", level),
            "name": name,
            "provenance": _parts.provenance(provenance, _RULES),
            "periods": _parts.periods(start, len(load), 3600, "eglb"),
            "origins": tuple(origins),
            "sites": tuple(sites),
            "carbon_signal": dict(carbon_signal),
            "wue_basis": {"kind": "given", "note": "the published total: on site and electricity"},
            "ewif_set": "none: water of electricity is contained in wue_l_per_kwh",
            "demand_requests": {"axes": ["period", "origin"][: load.ndim], "values": load},
            "gpus": _parts.ONE,
            "price_usd_per_mwh": usd,
            "carbon_g_per_kwh": kg * 1000,
            "wue_l_per_kwh": litres,
            "objective": (_stage(price, water, carbon, over_sites),),
        },
        name,
    )


def eglb_csv(
    path: AnyPath,
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
    table = read_table(path)
    sites = _sites(table.columns)
    if not sites:
        shown = ", ".join(f"'Site|{series}'" for series in EGLB_SERIES)
        text = f"names no site; expected columns {shown}"
        raise InputError(str(path), [Problem("header", text)])
    wanted = ["hour", "load_fraction", *(f"{s}|{series}" for s in sites for series in EGLB_SERIES)]
    values = table.numbers(wanted, counted="hour")
    series = values[:, 2:].reshape(len(values), len(sites), len(EGLB_SERIES))
    usd, kg, litres = np.moveaxis(series, 2, 0)
    return eglb(
        usd,
        kg,
        litres,
        values[:, 1],
        sites=sites,
        origins=[f"gateway {i + 1}" for i in range(gateways)],
        start=start,
        provenance=_published() if provenance is None else provenance,
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


def _stage(price: float, water: float, carbon: float, over_sites: str) -> dict[str, Any]:
    """Objective with the published weights (per USD, m3, t) on metrics in USD, L and kg."""
    return {
        "terms": (
            {"metric": "cost_usd", "weight": price, "over_sites": "sum"},
            {"metric": "water_l", "weight": water / 1000, "over_sites": over_sites},
            {"metric": "carbon_kg", "weight": carbon / 1000, "over_sites": over_sites},
        )
    }


def _published() -> dict[str, Any]:
    text = "Environmentally equitable geographical load balancing of ten data centres"
    return _parts.published(text, "eglb_csv", EGLB_SOURCE)
