"""Clock of an accelerator: power, time, energy and the clock of least energy.

The laws are P(f) = P0 + c f³ for the power while work runs and T(f) = T0 + κ/f for its time (our
model). Energy E = P T falls and then rises in f, so that its lowest point is the one root of
3 c T0 f⁴ + 2 c κ f³ = P0 κ. Clocks are in GHz. A table of measured clocks is better than the laws
where there is one: time flattens at high clocks, which the law does not know.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from greenopt.physics._refusing import refuse_negative


def power_w(frequency_ghz: Any, p0_w: Any, c_w_per_ghz3: Any) -> Any:
    """Mean power at a clock, W: P0 + c f³."""
    return p0_w + c_w_per_ghz3 * np.asarray(frequency_ghz, dtype=float) ** 3


def time_s(frequency_ghz: Any, t0_s: Any, kappa_s_ghz: Any) -> Any:
    """Time of the work at a clock above 0, s: T0 + κ/f."""
    return t0_s + kappa_s_ghz / np.asarray(frequency_ghz, dtype=float)


def energy_j(
    frequency_ghz: Any,
    p0_w: Any,
    c_w_per_ghz3: Any,
    t0_s: Any,
    kappa_s_ghz: Any,
    idle_w: Any = 0.0,
) -> Any:
    """Energy of the work at a clock above 0, J.

    With `idle_w`, the power that the accelerator draws anyway over a fixed window, it is the energy
    above that of idling: (P - Pidle) T.
    """
    time = time_s(frequency_ghz, t0_s, kappa_s_ghz)
    return (power_w(frequency_ghz, p0_w, c_w_per_ghz3) - idle_w) * time


def energy_optimal_frequency_ghz(
    p0_w: float, c_w_per_ghz3: float, t0_s: float, kappa_s_ghz: float, idle_w: float = 0.0
) -> float:
    """Clock of least energy without limits, GHz: the root of 3 c T0 f⁴ + 2 c κ f³ = P0 κ.

    Parameters
    ----------
    p0_w, c_w_per_ghz3 : float
        Static power, W, and cubic coefficient, W/GHz³; at least 0.
    t0_s, kappa_s_ghz : float
        Time that no clock shortens, s, and work that the clock speeds up, s GHz; at least 0.
    idle_w : float
        Power paid anyway over a fixed window, W: it takes the place of as much static power, and
        lowers the clock.

    Returns
    -------
    float
        (P0/2c)^(1/3) for T0 = 0, which is above every other root. 0 where the lowest clock is best:
        no work that the clock speeds up (κ = 0), or no static power left above idle. Infinity where
        the highest clock is best: power that does not rise (c = 0).

    Raises
    ------
    ValueError
        For an argument that is negative, infinite or NaN.
    """
    from scipy.optimize import brentq

    refuse_negative(
        p0_w=p0_w, c_w_per_ghz3=c_w_per_ghz3, t0_s=t0_s, kappa_s_ghz=kappa_s_ghz, idle_w=idle_w
    )
    static_w = p0_w - idle_w
    if kappa_s_ghz == 0 or static_w <= 0:
        return 0.0
    highest = static_w / (2 * c_w_per_ghz3) if c_w_per_ghz3 > 0 else math.inf
    highest = math.cbrt(highest)
    ratio = 1.5 * t0_s * highest / kappa_s_ghz if t0_s > 0 else 0.0
    if ratio == 0 or math.isinf(highest):
        return highest
    if math.isinf(ratio):  # so little work that the quotient overflows
        return 0.0
    # With f = x highest the root is that of ratio x⁴ + x³ = 1. Since x⁴ <= x³ <= 1, it lies
    # between (1 + ratio)^(-1/3) and (1 + ratio)^(-1/4).
    low, high = (1 + ratio) ** (-1 / 3) * (1 - 1e-9), (1 + ratio) ** (-1 / 4) * (1 + 1e-9)
    root = brentq(lambda x: ratio * x**4 + x**3 - 1, low, high, xtol=1e-15 * low, maxiter=500)
    return float(root) * highest


def frequency_for_time_ghz(limit_s: float, t0_s: float, kappa_s_ghz: float) -> float:
    """Lowest clock at which the work takes at most a time, GHz: κ / (limit - T0).

    0 where every clock does, infinity where none does.

    Raises
    ------
    ValueError
        For a limit that is NaN, and times that are negative, infinite or NaN.
    """
    if math.isnan(limit_s):
        raise ValueError("limit_s is nan; expected a number")
    refuse_negative(t0_s=t0_s, kappa_s_ghz=kappa_s_ghz)
    spare_s = limit_s - t0_s
    if kappa_s_ghz == 0:
        return 0.0 if spare_s >= 0 else math.inf
    return kappa_s_ghz / spare_s if spare_s > 0 else math.inf


def best_frequency_ghz(
    p0_w: float,
    c_w_per_ghz3: float,
    t0_s: float,
    kappa_s_ghz: float,
    *,
    range_ghz: tuple[float, float],
    limit_s: float = math.inf,
    idle_w: float = 0.0,
) -> float | None:
    """Clock of least energy within a range and a limit on time, GHz.

    The root of `energy_optimal_frequency_ghz`, raised to what the limit needs and brought into the
    range: energy falls before the root and rises after it, so that the nearest clock is the best.

    Parameters
    ----------
    p0_w, c_w_per_ghz3, t0_s, kappa_s_ghz, idle_w : float
        As in `energy_optimal_frequency_ghz`.
    range_ghz : (float, float)
        Lowest and highest clock, GHz, above 0.
    limit_s : float
        Longest time of the work, s.

    Returns
    -------
    float or None
        None where no clock of the range meets the limit.

    Raises
    ------
    ValueError
        For a range that is none, and as in `energy_optimal_frequency_ghz`.
    """
    low, high = range_ghz
    if not 0 < low <= high < math.inf:
        raise ValueError(f"range_ghz is {range_ghz!r}; expected two clocks above 0, in order")
    needed = frequency_for_time_ghz(limit_s, t0_s, kappa_s_ghz)
    if time_s(high, t0_s, kappa_s_ghz) > limit_s:
        return None
    root = energy_optimal_frequency_ghz(p0_w, c_w_per_ghz3, t0_s, kappa_s_ghz, idle_w)
    return min(max(root, needed, low), high)


def best_listed_frequency_ghz(
    p0_w: float,
    c_w_per_ghz3: float,
    t0_s: float,
    kappa_s_ghz: float,
    *,
    clocks_ghz: Sequence[float],
    limit_s: float = math.inf,
    idle_w: float = 0.0,
) -> float | None:
    """Clock of least energy among the clocks that an accelerator has, GHz.

    Exact: the energy of every clock that meets the limit is compared; the lowest of equals is
    taken.

    Parameters
    ----------
    p0_w, c_w_per_ghz3, t0_s, kappa_s_ghz, idle_w, limit_s : float
        As in `best_frequency_ghz`.
    clocks_ghz : sequence of float
        The clocks, GHz, above 0.

    Returns
    -------
    float or None
        None where no clock meets the limit.

    Raises
    ------
    ValueError
        For clocks that are not above 0, and as in `energy_optimal_frequency_ghz`.
    """
    clocks = np.sort(np.asarray(clocks_ghz, dtype=float))
    if not len(clocks) or not np.all((clocks > 0) & np.isfinite(clocks)):
        raise ValueError(f"clocks_ghz is {clocks_ghz!r}; expected clocks above 0")
    refuse_negative(
        p0_w=p0_w, c_w_per_ghz3=c_w_per_ghz3, t0_s=t0_s, kappa_s_ghz=kappa_s_ghz, idle_w=idle_w
    )
    meeting = clocks[time_s(clocks, t0_s, kappa_s_ghz) <= limit_s]
    if not len(meeting):
        return None
    energies = energy_j(meeting, p0_w, c_w_per_ghz3, t0_s, kappa_s_ghz, idle_w)
    return float(meeting[np.argmin(energies)])
