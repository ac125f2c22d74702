"""Operational and embodied carbon, in kg CO2e."""

from __future__ import annotations

from typing import Any


def operational_kg(facility_energy_kwh: Any, carbon_g_per_kwh: Any) -> Any:
    """Carbon of drawn electricity, kg CO2e (the intensity may be negative when marginal)."""
    return facility_energy_kwh * carbon_g_per_kwh / 1000.0


def embodied_kg(embodied_kg_per_unit: Any, lifetime_s: Any, units: Any, duration_s: Any) -> Any:
    """Straight-line share of manufacturing carbon for `units` devices over `duration_s`, kg CO2e.

    The form of WaterWise (arXiv 2501.17944): total over lifetime, times the time charged.
    """
    return embodied_kg_per_unit / lifetime_s * units * duration_s
