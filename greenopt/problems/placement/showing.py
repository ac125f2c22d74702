"""What is shown of placement: columns of tables, facts of instances, names of plots and marginals.

Nothing heavy is loaded here, see `greenopt.showing`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime, timedelta
from typing import Any

from greenopt.showing import Column, Fact, amount

COLUMNS: tuple[Column, ...] = (
    ("energy_kwh", "energy kWh", ",.0f"),
    ("carbon_kg", "carbon kg", ",.0f"),
    ("water_l", "water L", ",.0f"),
    ("cost_usd", "cost USD", ",.2f"),
    ("ttft_mean_s", "TTFT s", ".3f"),
)
"""Metrics of the table that `greenopt solve` prints."""

BREAKDOWN: tuple[str, tuple[Column, ...]] = (
    "site",
    (("requests", "requests", ",.0f"), *COLUMNS),
)
"""The table by site."""

DIRECTIONS = {
    "demand": "one more request",
    "gpus": "one more GPU",
    "gpus_always": "one more GPU in every period",
}
"""What marginals are of."""

PLOTS = {
    "overview": "carbon, water, cost and TTFT by site and period, and who serves whom",
    "flows": "maps of who serves whom at six moments; needs the instance's `locations`",
    "sources": "what carbon, water and cost of each site consist of",
    "utilisation": "share of GPUs held, and of queues' time busy, by site and period",
    "marginal_carbon": "carbon of one more request by period and class, beside the mean",
}
"""Kinds of plots, drawn in `greenopt.problems.placement.plots`."""

TERM_SUFFIX = "over_sites"
"""``greenopt reweight --term water_l=60/1000:max`` takes the largest of the sites."""


def _time(instance: Any) -> dict[str, Any]:
    start, duration = instance.periods.start, instance.periods.duration_s
    end = datetime.fromisoformat(start[-1]) + timedelta(seconds=duration[-1])
    return {
        "begin": start[0],
        "end": end.isoformat().replace("+00:00", "Z"),
        "periods": len(start),
        "shortest_s": min(duration),
        "longest_s": max(duration),
    }


def _time_text(when: Mapping[str, Any]) -> str:
    step = f"{when['shortest_s']:g}"
    if when["longest_s"] != when["shortest_s"]:
        step += f" to {when['longest_s']:g}"
    return f"time: {when['begin']} to {when['end']}, {when['periods']} periods of {step} s"


def _demand(instance: Any) -> dict[str, Any]:
    by_class = instance.demand_requests.sum(axis=(0, 1))
    names = instance.sets["class"]
    return {
        "total": float(by_class.sum()),
        "by_class": dict(zip(names, by_class.tolist(), strict=True)),
    }


def _demand_text(demand: Mapping[str, Any]) -> str:
    by_class = ", ".join(f"{name} {amount(own)}" for name, own in demand["by_class"].items())
    return f"demand: {amount(demand['total'])} requests ({by_class})"


def _groups(formulation: Any) -> list[dict[str, Any]]:
    return [
        {
            "model": service.profile.model,
            "mode": service.profile.mode,
            "levels": len(service.group),
            "groups": service.n_groups,
        }
        for service in formulation.services
    ]


def _groups_text(groups: list[dict[str, Any]]) -> str:
    each = (f"{g['model']} in {g['mode']} {g['levels']} in {g['groups']}" for g in groups)
    return f"levels in groups that latency tells apart: {', '.join(each)}"


FACTS = {"time": Fact(_time, _time_text), "demand_requests": Fact(_demand, _demand_text)}
"""What `describe` tells of the data."""

MODEL_FACTS = {"groups": Fact(_groups, _groups_text)}
"""What it tells of the model."""


def objective(instance: Any) -> Iterator[str]:
    """Lines that tell stages, their terms, and budgets."""
    for number, stage in enumerate(instance.objective, start=1):
        terms = [
            f"{term.weight:g} x {term.metric}/{term.scale:g}"
            + ("" if term.over_sites == "sum" else f" ({term.over_sites} over sites)")
            for term in stage.terms
        ]
        yield f"objective, stage {number}: minimise {' + '.join(terms)}"
    for budget in instance.budgets:
        over = " and ".join(budget.limit.axes) or "total"
        yield f"budget {budget.name}: {budget.metric} by {over}"


def notes(notes: Mapping[str, Any]) -> Iterator[str]:
    """Lines that tell what an even balance would have used."""
    if balance := notes.get("even_balance"):
        yield (
            "for comparison, if every running instance of a model, mode, site and period took the "
            "same load"
        )
        yield (
            f"(whatever that does to latency): {balance['energy_kwh']:,.1f} kWh "
            f"({balance['difference_kwh']:+,.1f})"
        )
