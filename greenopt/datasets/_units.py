"""Units of series, and values that look like another unit than the one given."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from greenopt.datasets._tables import AnyPath, FloatArray, refuse
from greenopt.errors import Problem

KG_PER_LB = 0.45359237
"""Kilograms in a pound (exact by definition)."""


@dataclass(frozen=True)
class Quantity:
    """What a series is of, in which units it comes, and which values are believed.

    Attributes
    ----------
    name, unit : str
        Name, and the unit that values are converted to.
    units : dict of str to (float, float)
        For each unit that is read: what is added to a value first, and what it is multiplied by.
    median : (float, float)
        Smallest and largest believable median of a column, in `unit`.
    extreme : (float, float)
        Smallest and largest believable value.
    absolute : bool
        Whether the median is that of absolute values (prices and marginal signals go below 0).
    low : float
        Medians below are stated, though believed.
    """

    name: str
    unit: str
    units: Mapping[str, tuple[float, float]]
    median: tuple[float, float]
    extreme: tuple[float, float] = (-np.inf, np.inf)
    absolute: bool = True
    low: float = 0.0


CARBON = Quantity(
    "carbon intensity",
    "g/kWh",
    {"g/kWh": (0, 1), "kg/kWh": (0, 1000), "kg/MWh": (0, 1), "lb/MWh": (0, KG_PER_LB)},
    median=(2, 1500),
)
"""Grid carbon intensity. Nothing but lignite gives about 1200 g/kWh; no grid's median is higher."""

PRICE = Quantity(
    "electricity price",
    "USD/MWh",
    {"USD/MWh": (0, 1), "USD/kWh": (0, 1000), "cent/kWh": (0, 10)},
    median=(5, 1000),
    low=15,
)
"""Electricity price. Year medians of 23 zones in 2020 to 2024 lie between 9 and 270 USD/MWh."""

_TEMPERATURES = {"degC": (0.0, 1.0), "degF": (-32, 5 / 9), "K": (-273.15, 1)}

WET_BULB = Quantity(
    "wet-bulb temperature",
    "degC",
    _TEMPERATURES,
    median=(-70, 40),
    extreme=(-90, 40),
    absolute=False,
)
"""Wet-bulb temperature; the highest ever measured is near 36 °C (Raymond et al. 2020)."""

TEMPERATURE = Quantity(
    "air temperature",
    "degC",
    _TEMPERATURES,
    median=(-70, 40),
    extreme=(-90, 57),
    absolute=False,
)
"""Air temperature between the records of the WMO, -89.2 and 56.7 °C."""


def conversion(
    path: AnyPath, quantity: Quantity, unit: str, usd_per_unit: float | None = None
) -> tuple[float, float]:
    """What is added to values in a unit, and then what they are multiplied by.

    Raises
    ------
    InputError
        For a unit that is not known, and for another currency without its rate.
    """
    currency = re.fullmatch(r"([A-Z]{3})/(MWh|kWh)", unit) if isinstance(unit, str) else None
    if quantity is PRICE and currency and currency[1] != "USD":
        if usd_per_unit is None or not 0 < usd_per_unit < np.inf:
            refuse(
                path,
                "usd_per_unit",
                f"is {usd_per_unit!r}; expected USD per {currency[1]} above 0: prices in "
                f"{currency[1]} are not converted without a rate",
            )
        return 0.0, usd_per_unit * (1000 if currency[2] == "kWh" else 1)
    if usd_per_unit is not None and unit in quantity.units:
        refuse(path, "usd_per_unit", f"is {usd_per_unit!r}; expected none with unit={unit!r}")
    if unit not in quantity.units:
        known = ", ".join(map(repr, quantity.units))
        other = ", or another currency as in 'EUR/MWh'" if quantity is PRICE else ""
        refuse(path, "unit", f"is {unit!r}; expected one of {known}{other}")
    return quantity.units[unit]


def mistaken_unit(
    quantity: Quantity, unit: str, column: str, raw: FloatArray, converted: FloatArray
) -> Problem | None:
    """What a column looks like if its values cannot be believed in the unit given."""
    doubt = _doubt(quantity, converted)
    if not doubt:
        return None
    fitting = [
        other
        for other, (shift, factor) in quantity.units.items()
        if not _doubt(quantity, (raw + shift) * factor)
    ]
    if fitting:
        advice = f"looks like {' or '.join(fitting)}: pass unit={fitting[0]!r}"
    else:
        advice = "no unit known here fits"
    what = f"read as {unit}, {doubt}; {advice} (read_series takes any values)"
    return Problem(f"column {column!r}", what)


def low_median(quantity: Quantity, column: str, values: FloatArray) -> str | None:
    """What to state of a column that is low, though possible."""
    middle = _median(quantity, values)
    if not 0 < middle < quantity.low:
        return None
    return (
        f"column {column!r}: the median is {middle:g} {quantity.unit}, which is low; "
        "make sure that the file is not in cent/kWh"
    )


def _doubt(quantity: Quantity, values: FloatArray) -> str:
    """Why values are not believed, or nothing."""
    known = values[~np.isnan(values)]
    if not len(known):
        return ""
    least, most = quantity.extreme
    worst = known.max() if known.max() > most else known.min()
    if not least <= worst <= most:
        return f"holds {worst:g} {quantity.unit}; expected {least:g} to {most:g}"
    middle, (low, high) = _median(quantity, known), quantity.median
    if low <= middle <= high or (quantity.absolute and middle == 0):
        return ""
    return f"has the median {middle:g} {quantity.unit}; expected {low:g} to {high:g}"


def _median(quantity: Quantity, values: FloatArray) -> float:
    known = values[~np.isnan(values)]
    if not len(known):
        return 0.0
    return float(np.median(np.abs(known) if quantity.absolute else known))
