"""Power boundaries and energy."""

from __future__ import annotations

from typing import Any, Literal

PowerBoundary = Literal["gpu", "server", "facility"]

J_PER_KWH = 3.6e6
S_PER_H = 3600.0


def it_and_facility_power_w(
    power_w: Any, boundary: PowerBoundary, pue: Any, host_adder_w: Any = None
) -> tuple[Any, Any]:
    """Bring a measured power to the two boundaries that water and carbon need.

    Parameters
    ----------
    power_w : float or array
        Measured power, W, at `boundary`.
    boundary : {"gpu", "server", "facility"}
        What the meter saw: accelerators only, the whole server, or the facility feed.
    pue : float or array
        Power usage effectiveness, facility power over IT (server) power.
    host_adder_w : float or array, optional
        Power of the rest of the server (CPU, memory, fans, NIC), W. Required for "gpu".

    Returns
    -------
    it_w, facility_w : float or array
        Server (IT) power and facility power, W. PUE multiplies server power only.

    Raises
    ------
    ValueError
        If a GPU-only power comes without a host adder, or the boundary is unknown.
    """
    if boundary == "gpu":
        if host_adder_w is None:
            raise ValueError("a gpu-boundary power needs host_adder_w, the rest of the server")
        it_w = power_w + host_adder_w
    elif boundary == "server":
        it_w = power_w
    elif boundary == "facility":
        return power_w / pue, power_w
    else:
        raise ValueError(f"unknown power boundary {boundary!r}")
    return it_w, it_w * pue


def energy_kwh(power_w: Any, duration_s: Any) -> Any:
    """Energy of a constant power over a time, kWh."""
    return power_w * duration_s / J_PER_KWH
