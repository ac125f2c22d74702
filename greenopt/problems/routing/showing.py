"""What is shown of routing: columns of tables, facts of instances, names of plots and marginals.

Nothing heavy is loaded here, see `greenopt.showing`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from greenopt.showing import Column, Fact, amount, number, table

COLUMNS: tuple[Column, ...] = (
    ("energy_kwh", "energy kWh", ",.4f"),
    ("carbon_kg", "carbon kg", ",.4f"),
    ("cost_usd", "cost USD", ",.3f"),
    ("accuracy_percent", "accuracy %", ".2f"),
    ("runtime_mean_s", "run time s", ".2f"),
)
"""Metrics of the table that `greenopt solve` prints; the run time is the mean over queries."""

BREAKDOWN: tuple[str, tuple[Column, ...]] = (
    "deployment",
    (("queries", "queries", ",.0f"), *COLUMNS),
)
"""The table by deployment."""

DIRECTIONS = {"demand": "one more query", "limits": "one more unit of each limit"}
"""What marginals are of."""

PLOTS = {
    "overview": "share of queries, tokens, energy, carbon and cost by deployment",
    "partition": "which queries go where, by input and output tokens",
    "zeta": "energy against accuracy (or run time) as zeta runs from 0 to 1; of objectives with it",
    "utilisation": "how much of each limit is used, and what it costs the objective",
}
"""Kinds of plots, drawn in `greenopt.problems.routing.plots`."""

TERM_SUFFIX = "normalisation"
"""``greenopt reweight --term energy_kwh=0.5:largest`` divides by the largest value."""

NAMED = 3
"""Deployments of a limit that are named; of more, their number is told."""

_DEPLOYMENT = {
    "concurrency": "at once",
    "accuracy_percent": "accuracy %",
    "max_context_tokens": "context",
    "host_w": "host W",
    "pue": "PUE",
    "carbon_g_per_kwh": "g CO2e/kWh",
    "price_usd_per_kwh": "USD/kWh",
    "gpu_usd_per_hour": "USD/GPU h",
}
"""Numbers of a deployment and their titles; those that no deployment has are not shown."""


# -- facts ---------------------------------------------------------------------------------------


def _measurements(instance: Any) -> dict[str, str]:
    return {"label": instance.label, "boundary": instance.boundary}


def _measurements_text(own: Mapping[str, str]) -> str:
    label = own["label"] or "no label says how they were made"
    covers = {"gpu": "GPUs only", "server": "whole servers"}[own["boundary"]]
    return f"measurements: {label}; energy of {covers}"


def _queries(instance: Any) -> dict[str, float]:
    return {"total": float(instance.count.sum()), "kinds": int((instance.count > 0).sum())}


def _queries_text(own: Mapping[str, float]) -> str:
    return f"queries: {own['total']:,.0f} of {own['kinds']:,} kinds"


def _tokens(instance: Any) -> dict[str, Any]:
    """Tokens of the kinds there are, those out by deployment, as if all queries went to it."""
    there = instance.count > 0
    count, into = instance.count[there], instance.tokens_in[there]
    each = zip(instance.deployments, instance.tokens_out[there].T, strict=True)
    return {"in": _range(count, into), "out": {d.name: _range(count, out) for d, out in each}}


def _range(count: Any, tokens: Any) -> dict[str, float]:
    total = float((count * tokens).sum())
    return {"total": total, "min": float(tokens.min()), "max": float(tokens.max())}


def _tokens_text(own: Mapping[str, Any]) -> str:
    out = list(own["out"].values())
    totals = [f"{choose(o['total'] for o in out):,.0f}" for choose in (min, max)]
    whole = {"min": min(o["min"] for o in out), "max": max(o["max"] for o in out)}
    spread = " to ".join(dict.fromkeys(totals))
    of = " by deployment" if len(set(totals)) > 1 else ""
    return (
        f"tokens: {own['in']['total']:,.0f} in ({_span(own['in'])} a query), "
        f"{spread} out{of} ({_span(whole)} a query)"
    )


def _span(own: Mapping[str, float]) -> str:
    return f"{own['min']:g} to {own['max']:g}"


def _deployments(instance: Any) -> list[dict[str, Any]]:
    names = ("name", "model", "gpu_type", "gpus", "range_tokens_in", "range_tokens_out")
    return [
        {name: getattr(d, name) for name in (*names, *_DEPLOYMENT)} for d in instance.deployments
    ]


def _deployments_text(own: Sequence[Mapping[str, Any]]) -> str:
    shown = [name for name in _DEPLOYMENT if any(d[name] is not None for d in own)]
    head = ["deployments", "model", "GPUs", "measured in", "measured out"]
    rows = [
        [
            f"  {d['name']}",
            d["model"],
            f"{d['gpus']} {d['gpu_type']}",
            *("-" if (ends := d[f"range_tokens_{way}"]) is None else f"{ends[0]:g} to {ends[1]:g}"
              for way in ("in", "out")),
            *(number(d[name], "g") for name in shown),
        ]
        for d in own
    ]  # fmt: skip
    titles = [_DEPLOYMENT[name] for name in shown]
    return "\n".join(table([*head, *titles], rows, left=("model", "GPUs")))


def _limits(instance: Any) -> list[dict[str, Any]]:
    names = ("name", "metric", "deployments", "lower", "upper")
    return [{name: getattr(limit, name) for name in names} for limit in instance.limits]


def _limits_text(own: Sequence[Mapping[str, Any]]) -> str:
    return "\n".join(map(_limit_text, own))


def _limit_text(limit: Mapping[str, Any]) -> str:
    sides = (("at least", limit["lower"]), ("at most", limit["upper"]))
    said = " and ".join(f"{words} {amount(side)}" for words, side in sides if side is not None)
    return f"limit {limit['name']!r}: {limit['metric']} of {_of(limit['deployments'])} {said}"


def _of(deployments: Sequence[str] | None) -> str:
    if deployments is None:
        return "all deployments"
    few = len(deployments) <= NAMED
    return " and ".join(deployments) if few else f"{len(deployments)} deployments"


FACTS = {
    "measurements": Fact(_measurements, _measurements_text),
    "queries": Fact(_queries, _queries_text),
    "tokens": Fact(_tokens, _tokens_text),
    "deployments": Fact(_deployments, _deployments_text),
    "limits": Fact(_limits, _limits_text),
    "accuracy_floor_percent": Fact(
        lambda instance: instance.accuracy_floor_percent,
        lambda floor: "" if floor is None else f"accuracy: at least {floor:g} %, mean over tokens",
    ),
}
"""What `describe` tells of the data."""

MODEL_FACTS = {
    "whole": Fact(
        lambda formulation: "vertices" if formulation.is_network else "search",
        lambda how: {
            "vertices": "whole numbers of queries: every vertex of the linear program has them",
            "search": "whole numbers of queries: by search",
        }[how],
    )
}
"""What it tells of the model."""


# -- objective, notes ----------------------------------------------------------------------------


def objective(instance: Any) -> Iterator[str]:
    """Lines that tell stages and their terms."""
    for place, stage in enumerate(instance.objective, start=1):
        terms = " + ".join(map(_term, stage.terms)).replace("+ -", "- ")
        yield f"objective, stage {place}: minimise {terms}"


def _term(term: Any) -> str:
    """Weight x metric/size, where the size may be the largest value or the range."""
    metric = f"({term.metric} - smallest)" if term.normalisation == "range" else term.metric
    size = [] if term.normalisation == "none" else [term.normalisation]
    if term.scale != 1 or not size:
        size.append(f"{term.scale:g}")
    return f"{term.weight:g} x {metric}/{'/'.join(size)}"


def notes(notes: Mapping[str, Any]) -> Iterator[str]:
    """Lines that tell what rests on laws beyond what was measured, or says less than nothing."""
    if outside := notes.get("outside_range"):
        by = ", ".join(f"{name} {own:,.0f}" for name, own in outside["by_deployment"].items())
        yield (
            f"tokens of {outside['queries']:,.0f} queries ({outside['share']:.1%}) lie outside the "
            f"measured ranges: {by}"
        )
    if negative := notes.get("negative_predictions"):
        yield (
            f"laws say less than nothing, which is {negative['handling']}: of the energy of "
            f"{negative['energy_queries']:,.0f} queries, of the run time of "
            f"{negative['runtime_queries']:,.0f}"
        )
