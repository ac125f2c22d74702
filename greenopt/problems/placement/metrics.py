"""Names, units and meanings of placement's metrics: the one table."""

from __future__ import annotations

from typing import NamedTuple


class Metric(NamedTuple):
    """A metric of a plan.

    Attributes
    ----------
    name, unit, meaning : str
        As in results, docs and objectives.
    parts : tuple of str
        Metrics it is the sum of, when it is a sum.
    kind : str
        "additive" metrics may be weighed, budgeted and taken per site or period; "mean" is
        `ttft_mean_s`; "report" metrics are computed from a plan and cannot steer one.
    """

    name: str
    unit: str
    meaning: str
    parts: tuple[str, ...] = ()
    kind: str = "additive"


_TABLE = (
    Metric("energy_kwh", "kWh", "facility energy of running instances (IT energy times PUE)"),
    Metric("energy_it_kwh", "kWh", "server energy of running instances"),
    Metric("carbon_operational_kg", "kg CO2e", "facility energy times carbon intensity"),
    Metric(
        "carbon_embodied_running_kg",
        "kg CO2e",
        "embodied carbon charged to running GPUs (zero under embodied_charge installed)",
    ),
    Metric(
        "carbon_kg",
        "kg CO2e",
        "carbon that decisions change: operational plus embodied of running GPUs if so charged",
        ("carbon_operational_kg", "carbon_embodied_running_kg"),
    ),
    Metric(
        "carbon_embodied_kg",
        "kg CO2e",
        "embodied carbon of installed or of running GPUs, as embodied_charge says",
        kind="report",
    ),
    Metric(
        "carbon_total_kg",
        "kg CO2e",
        "operational plus embodied carbon, installed or running",
        kind="report",
    ),
    Metric("water_evaporation_l", "L", "on-site evaporation, make-up times (s-1)/s"),
    Metric("water_blowdown_l", "L", "on-site blowdown, make-up over s cycles"),
    Metric("water_grid_l", "L", "water of electricity generation: facility energy times EWIF"),
    Metric(
        "water_l",
        "L",
        "withdrawal on site (evaporation and blowdown) plus the water consumed by generation",
        ("water_evaporation_l", "water_blowdown_l", "water_grid_l"),
    ),
    Metric(
        "water_consumption_l",
        "L",
        "consumption: on-site evaporation plus grid water",
        ("water_evaporation_l", "water_grid_l"),
    ),
    Metric("cost_energy_usd", "USD", "facility energy at the wholesale price or tariff"),
    Metric("cost_gpu_usd", "USD", "GPU-hours at the GPU-hour price"),
    Metric("cost_egress_usd", "USD", "response bytes from site to origin at the egress price"),
    Metric("cost_demand_usd", "USD", "demand charge on each site's peak facility power"),
    Metric(
        "cost_usd",
        "USD",
        "sum of the four cost components",
        ("cost_energy_usd", "cost_gpu_usd", "cost_egress_usd", "cost_demand_usd"),
    ),
    Metric("requests", "requests", "requests served"),
    Metric("unmet_requests", "requests", "requests not served"),
    Metric("unmet_usd", "USD", "price of the requests not served; not part of cost_usd"),
    Metric(
        "ttft_warm_request_s",
        "request s",
        "round trip, last mile and prefill summed over served requests",
    ),
    Metric(
        "ttft_startup_request_s",
        "request s",
        "waiting for starting instances, summed over the requests assigned to a start",
    ),
    Metric(
        "ttft_queue_request_s",
        "request s",
        "waiting in the queues of busy instances, summed over served requests",
    ),
    Metric(
        "ttft_request_s",
        "request s",
        "time to first token summed over served requests",
        ("ttft_warm_request_s", "ttft_startup_request_s", "ttft_queue_request_s"),
    ),
    Metric("ttft_mean_s", "s", "time to first token, mean over served requests", kind="mean"),
    Metric(
        "ttft_p95_s",
        "s",
        "95th percentile of time to first token over served requests and prompt lengths",
        kind="report",
    ),
    Metric(
        "ttft_slo_attainment",
        "1",
        "share of served requests whose TTFT is within their class's limit (1 without a limit)",
        kind="report",
    ),
    Metric(
        "deferral_request_s",
        "request s",
        "time requests are held back until the period that serves them; not part of TTFT",
    ),
    Metric("gpu_h", "GPU h", "GPU-hours of running instances, those starting included"),
    Metric("starts", "starts", "instances started"),
)

METRICS: dict[str, Metric] = {metric.name: metric for metric in _TABLE}
"""Every built-in metric by name."""

SITELESS = frozenset({"unmet_requests", "unmet_usd", "deferral_request_s"})
"""Metrics that belong to no site: what is not served, or not yet, is served nowhere."""

PERIODLESS = frozenset({"cost_demand_usd", "cost_usd"})
"""Metrics with a part that belongs to no single period: the demand charge."""


def leaves(name: str) -> tuple[str, ...]:
    """The additive parts of a metric that are not sums themselves."""
    return METRICS[name].parts or (name,) if name in METRICS else (name,)
