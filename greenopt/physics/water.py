"""Water: cooling-tower make-up, its split, wet bulb, and the water in electricity."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np

L_PER_GAL = 3.785411784
"""Litres in a US gallon."""

LATENT_HEAT_MJ_PER_KG = 2.45
"""Latent heat of vaporisation near 20 °C."""

WATERWISE_EWIF_L_PER_KWH: Mapping[str, float] = {
    "nuclear": 2.6, "wind": 0.0, "hydro": 17.0, "geothermal": 5.8, "solar": 0.06,
    "biomass": 1.14, "gas": 1.02, "oil": 1.79, "coal": 1.51,
}  # fmt: skip
"""Water factor of each fuel, L/kWh (WaterWise, Apache-2.0, data/source_ci_ewif.json)."""

REN_EWIF_GAL_PER_MWH: Mapping[str, float] = {
    "nuclear": 600.0, "coal": 450.0, "gas": 300.0, "oil": 350.0, "hydro": 0.0, "wind": 0.0,
    "solar": 0.0, "other": 475.0,
}  # fmt: skip
"""Water factor of each fuel, US gal/MWh (Ren et al., MIT; Macknick consumption, hydro at 0)."""


def make_up_wue_l_per_kwh(
    wet_bulb: Any, *, unit: Literal["F", "C"], cycles_of_concentration: float, floor: float = 0.0
) -> Any:
    """Cooling-tower make-up water per IT kWh from wet-bulb temperature.

    ``s/(s-1) · (6e-5 T³ - 0.01 T² + 0.61 T - 10.4)`` with T in °F (eGLB, arXiv 2307.05494, and
    WaterWise, arXiv 2501.17944). The factor s/(s-1) already holds the blowdown.

    Parameters
    ----------
    wet_bulb : float or array
        Wet-bulb temperature in `unit`.
    unit : {"F", "C"}
        Fahrenheit or Celsius; there is no default because the wrong one gives plausible numbers.
    cycles_of_concentration : float
        s > 1; eGLB uses 6, WaterWise 3.
    floor : float
        Smallest value returned, L/kWh (eGLB 0.05, WaterWise 0).

    Returns
    -------
    float or array
        Make-up water, L per IT kWh.

    Raises
    ------
    ValueError
        For an unknown unit or cycles not above 1.
    """
    if unit not in ("F", "C"):
        raise ValueError(f"unit must be 'F' or 'C', got {unit!r}")
    if not cycles_of_concentration > 1:
        raise ValueError(f"cycles of concentration must exceed 1, got {cycles_of_concentration}")
    t = np.asarray(wet_bulb, dtype=float)
    t = t * 9 / 5 + 32 if unit == "C" else t
    s = cycles_of_concentration
    raw = s / (s - 1) * (6e-5 * t**3 - 0.01 * t**2 + 0.61 * t - 10.4)
    return np.maximum(raw, floor)


def evaporation_and_blowdown(make_up: Any, cycles_of_concentration: Any) -> tuple[Any, Any]:
    """Split make-up water: evaporation (s-1)/s, blowdown 1/s. They add up to the make-up."""
    blowdown = make_up / cycles_of_concentration
    return make_up - blowdown, blowdown


def blowdown_from_evaporation(evaporation: Any, cycles_of_concentration: Any) -> Any:
    """Blowdown that goes with an evaporation: evaporation / (s - 1), the tower's mass balance."""
    return evaporation / (cycles_of_concentration - 1)


def evaporation_l_per_kwh_of_heat() -> float:
    """Litres evaporated to reject one kWh of heat, 3.6 MJ over the latent heat."""
    return 3.6 / LATENT_HEAT_MJ_PER_KG


def wet_bulb_c(temperature_c: Any, relative_humidity_percent: Any) -> Any:
    """Wet-bulb temperature in °C (Stull 2011, J. Appl. Meteorol. Climatol. 50, eq. 1).

    Parameters
    ----------
    temperature_c : float or array
        Dry-bulb temperature, °C. The fit covers about -20 to 50 °C.
    relative_humidity_percent : float or array
        Relative humidity, %, 5 to 99 in the fit.
    """
    t, r = np.asarray(temperature_c, float), np.asarray(relative_humidity_percent, float)
    return (
        t * np.arctan(0.151977 * np.sqrt(r + 8.313659))
        + np.arctan(t + r)
        - np.arctan(r - 1.676331)
        + 0.00391838 * r**1.5 * np.arctan(0.023101 * r)
        - 4.686035
    )


def ewif_of_mix(shares: Mapping[str, float], factors: Mapping[str, float]) -> float:
    """Water factor of a generation mix: the share-weighted mean of its fuels' factors.

    Raises
    ------
    ValueError
        If a fuel has no factor or the shares do not add up to 1.
    """
    missing = sorted(set(shares) - set(factors))
    if missing:
        raise ValueError(f"no water factor for {', '.join(missing)}")
    if abs(sum(shares.values()) - 1) > 1e-6:
        raise ValueError(f"shares add up to {sum(shares.values())}, expected 1")
    return sum(share * factors[fuel] for fuel, share in shares.items())


def scale_to_mean(series_l_per_kwh: Any, mean_l_per_kwh: float) -> Any:
    """Scale a WUE series so that its mean is a sourced figure, keeping its shape.

    Raises
    ------
    ValueError
        If the series has no positive mean to scale.
    """
    series = np.asarray(series_l_per_kwh, dtype=float)
    mean = series.mean()
    if not mean > 0:
        raise ValueError("the series has no positive mean")
    return series * (mean_l_per_kwh / mean)
