"""Names, units and meanings of routing's metrics: the one table."""

from __future__ import annotations

from typing import NamedTuple


class Metric(NamedTuple):
    """A metric of a plan.

    Attributes
    ----------
    name, unit, meaning : str
        As in results, docs and objectives.
    needs : tuple of str
        Fields that every deployment must have for the metric to exist.
    kind : str
        "additive" metrics are sums over queries and may be weighed and limited; "report" metrics
        are means, computed from a plan, and cannot steer one.
    """

    name: str
    unit: str
    meaning: str
    needs: tuple[str, ...] = ()
    kind: str = "additive"


_FACILITY = ("host_w", "pue")

_TABLE = (
    Metric("queries", "queries", "queries answered"),
    Metric("tokens_in", "tokens", "input tokens"),
    Metric("tokens_out", "tokens", "output tokens"),
    Metric("tokens", "tokens", "input and output tokens"),
    Metric("energy_kwh", "kWh", "energy at the boundary of the measurements"),
    Metric("runtime_s", "query s", "run time summed over queries"),
    Metric(
        "gpu_h", "GPU h", "run time times GPUs of an instance, over the queries it answers at once"
    ),
    Metric(
        "accuracy_percent_tokens",
        "% token",
        "accuracy times tokens, summed over queries (the published accuracy function)",
        ("accuracy_percent",),
    ),
    Metric("energy_it_kwh", "kWh", "server energy: with the rest of the server", ("host_w",)),
    Metric("energy_facility_kwh", "kWh", "server energy times PUE", _FACILITY),
    Metric(
        "carbon_kg",
        "kg CO2e",
        "operational carbon: facility energy times carbon intensity",
        (*_FACILITY, "carbon_g_per_kwh"),
    ),
    Metric(
        "cost_energy_usd",
        "USD",
        "facility energy at its price",
        (*_FACILITY, "price_usd_per_kwh"),
    ),
    Metric("cost_gpu_usd", "USD", "GPU-hours at the GPU-hour price; 0 where none is given"),
    Metric(
        "cost_usd",
        "USD",
        "sum of the two cost components",
        (*_FACILITY, "price_usd_per_kwh"),
    ),
    Metric(
        "accuracy_percent",
        "%",
        "accuracy, mean over tokens",
        ("accuracy_percent",),
        kind="report",
    ),
    Metric("runtime_mean_s", "s", "run time, mean over queries", kind="report"),
)

METRICS: dict[str, Metric] = {metric.name: metric for metric in _TABLE}
"""Every metric by name."""
