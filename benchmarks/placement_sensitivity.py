"""Which assumptions move the best placement, and by how much: one changed at a time.

Writes results/placement_sensitivity.json, every single run, which docs/placement/sensitivity.md
aggregates. Run it as

    python benchmarks/placement_sensitivity.py

It needs the real data in ../shared and takes a few minutes. Base are world-days of
instances/placement-world/build_world.py in periods of an hour. For each changed assumption there is
the optimum under it, the share of requests that it places elsewhere, and what the plan made under
the base assumptions is worth there.
"""

from __future__ import annotations

import csv
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
from placement_days import METRICS, build, short, smoke_asked, world, write

# isort: split
from composing import home_plan_metrics, weighted

import greenopt as go
from greenopt.labelled import LabelledArray
from greenopt.problems.placement.check import evaluate

DATES = ("2022-02-15", "2023-04-18", "2023-07-18", "2022-10-18")
GAS_G_PER_KWH, COAL_G_PER_KWH = 490.0, 820.0
"""Life cycle of combined-cycle gas and pulverised coal, medians: IPCC (2014), table A.III.2."""
COAL_ABOVE_G_PER_KWH = 500.0
"""Sites whose mean average intensity is above have coal at the margin (ours)."""
LAST_MILE_S = 0.05
ARRIVAL_FACTOR = 2.0


class Assumption(NamedTuple):
    """One changed assumption.

    Attributes
    ----------
    name : str
        What is assumed.
    base : callable
        From choices and instance, what the base assumes.
    changed : str
        What is assumed instead.
    change : callable
        From choices and instance of the base, the instance under the changed assumption, but for
        its objective.
    solver : str
        Who solves it.
    """

    name: str
    base: Callable[[Any, Any], str]
    changed: str
    change: Callable[[Any, Any], Any]
    solver: str = "highs"


def rebuilt(
    name: str, choice: str, value: Any, base: str = "{}", changed: str = "{}"
) -> Assumption:
    """An assumption that is a choice of the builder."""
    return Assumption(
        name,
        lambda choices, _: base.format(getattr(choices, choice)),
        changed.format(value),
        lambda choices, _: build(choices._replace(**{choice: value})),
    )


def altered(
    name: str, base: Callable[[Any], str], changed: str, fields: Callable[[Any], Mapping[str, Any]]
) -> Assumption:
    """An assumption that is in fields of the instance."""
    return Assumption(
        name,
        lambda _, instance: base(instance),
        changed,
        lambda _, instance: instance.replace(
            name=f"{instance.name}, {name}: {changed}", **fields(instance)
        ),
    )


def marginal(instance: Any, coal_above: float) -> dict[str, Any]:
    """Carbon of an assumed marginal plant: coal where the day's mean is above a level, else gas."""
    coal = instance.carbon_g_per_kwh.mean(axis=0) > coal_above
    intensity = np.where(coal, COAL_G_PER_KWH, GAS_G_PER_KWH)
    signal = {
        "kind": "marginal",
        "scope": "life-cycle",
        "basis": "production",
        "provider": "surrogate of ours: an assumed marginal plant",
        "year": instance.carbon_signal.year,
    }
    return {
        "carbon_signal": signal,
        "carbon_g_per_kwh": np.broadcast_to(intensity, instance.carbon_g_per_kwh.shape),
    }


def with_arrivals(instance: Any, cv2: Callable[[float], float]) -> dict[str, Any]:
    """Profiles with another variability of arrivals at an instance."""
    profiles = instance.document()["profiles"]
    return {
        "profiles": [
            {**p, "queue": {**p["queue"], "arrival_cv2": cv2(p["queue"]["arrival_cv2"])}}
            for p in profiles
        ]
    }


def with_h100(instance: Any, factor: float) -> dict[str, Any]:
    """Another share of the first GPU type at every site, as many GPUs in all."""
    h100, a100 = np.moveaxis(instance.gpus, 2, 0)
    return {"gpus": np.stack([h100 * factor, a100 + h100 * (1 - factor)], axis=2)}


def with_equal_origins(instance: Any) -> dict[str, Any]:
    """Every origin the same share of each class's requests, its course as before."""
    by_origin = instance.demand_requests.sum(axis=0, keepdims=True)
    return {"demand_requests": instance.demand_requests * by_origin.mean(axis=1) / by_origin}


def pues() -> list[float]:
    """Smallest and largest PUE of the providers in EcoLogits's table."""
    with open(world.DATA / "water" / "ecologits_provider_pue_wue.csv", newline="") as file:
        found = [
            float(row[name]) for row in csv.DictReader(file) for name in ("pue_min", "pue_max")
        ]
    return [min(found), max(found)]


def fleet(instance: Any) -> str:
    """GPUs by type."""
    count = instance.gpus[0].sum(axis=0)
    return ", ".join(f"{n:,.0f} {g.name}" for n, g in zip(count, instance.gpu_types, strict=True))


def pue_text(instance: Any) -> str:
    """The PUE of all sites."""
    return f"{instance.pue.mean():g}"


def assumptions() -> list[Assumption]:
    """Every changed assumption."""
    average = "average, life cycle"
    regional = "by region, ours"
    return [
        rebuilt("utilisation of the busiest hour", "utilisation", 0.3),
        rebuilt("utilisation of the busiest hour", "utilisation", 0.7),
        rebuilt("on-site water", "wue", "raw", "{} wet-bulb curve", "{} wet-bulb curve"),
        rebuilt("EWIF set", "ewif", "ren"),
        rebuilt("embodied carbon", "embodied", "running", "of {} GPUs", "of {} GPUs"),
        altered(
            "carbon signal",
            lambda _: average,
            "marginal surrogate, gas",
            lambda instance: marginal(instance, np.inf),
        ),
        altered(
            "carbon signal",
            lambda _: average,
            "marginal surrogate, coal or gas",
            lambda instance: marginal(instance, COAL_ABOVE_G_PER_KWH),
        ),
        *(
            altered(
                "PUE", pue_text, f"{pue:g}", lambda _, pue=pue: {"pue": {"axes": [], "values": pue}}
            )
            for pue in pues()
        ),
        altered(
            "last mile",
            lambda instance: f"{instance.last_mile_s.mean():g} s",
            f"{LAST_MILE_S:g} s",
            lambda _: {"last_mile_s": {"axes": [], "values": LAST_MILE_S}},
        ),
        altered(
            "variability of arrivals",
            lambda instance: f"{instance.profiles[0].queue.arrival_cv2:.2f}, of the trace",
            "1, Poisson",
            lambda instance: with_arrivals(instance, lambda _: 1.0),
        ),
        altered(
            "variability of arrivals",
            lambda instance: f"{instance.profiles[0].queue.arrival_cv2:.2f}, of the trace",
            f"{ARRIVAL_FACTOR:g} times that",
            lambda instance: with_arrivals(instance, lambda cv2: ARRIVAL_FACTOR * cv2),
        ),
        altered("fleet", fleet, "half of the H100s", lambda i: with_h100(i, 0.5)),
        altered("fleet", fleet, "twice the H100s", lambda i: with_h100(i, 2.0)),
        altered(
            "GPUs by site",
            lambda _: regional,
            "the same everywhere",
            lambda i: {"gpus": np.broadcast_to(i.gpus.mean(axis=1, keepdims=True), i.gpus.shape)},
        ),
        altered("requests by origin", lambda _: regional, "the same", with_equal_origins),
        altered(
            "price",
            lambda instance: f"{instance.price_basis}, hourly",
            "flat at the day's mean of each site",
            lambda i: {
                "price_usd_per_mwh": np.broadcast_to(
                    i.price_usd_per_mwh.mean(axis=0), i.price_usd_per_mwh.shape
                )
            },
        ),
        Assumption(
            "none: another algorithm",
            lambda *_: "simplex",
            "interior point",
            lambda _, instance: instance,
            "highs-ipm",
        ),
    ]


def with_scales(instance: Any, base: Any) -> dict[str, Any]:
    """The instance under two readings of equal weights.

    "own": each metric counts over what the reference plan has of it under the same assumptions, as
    in the base. "held": a kilogram, a litre, a dollar and a second keep their worth to each other.
    """
    own = weighted(home_plan_metrics(instance, "h100"))
    requests = instance.demand_requests.sum() / base.demand_requests.sum()
    (stage,) = base.document()["objective"]
    terms = [
        {**t, "scale": t["scale"] * (1.0 if t["metric"] == "ttft_mean_s" else requests)}
        for t in stage["terms"]
    ]
    return {
        "own": instance.replace(objective=own),
        "held": instance.replace(objective=[{"terms": terms}]),
    }


def carried(plan: go.Solution, base: Any, changed: Any) -> dict[str, LabelledArray]:
    """A plan's decision with its requests and instances scaled to another demand."""
    flow, run = plan.array("flow"), plan.array("instances")
    demand = base.demand_requests
    growth = np.divide(changed.demand_requests, demand, np.ones(demand.shape), where=demand > 0)
    values = flow.values * growth[tuple(flow.codes[:3])]
    models = [m.name for m in base.models]
    work = np.array(
        [[k.work_per_request.get(mode, 0.0) for mode in base.modes] for k in base.classes]
    )
    model = np.array([models.index(k.model) for k in base.classes])
    period, _, k, site, mode, level = flow.codes
    before, after = (np.zeros(run.shape) for _ in range(2))
    for total, requests in ((before, flow.values), (after, values)):
        np.add.at(total, (period, site, model[k], mode, level), requests * work[k, mode])
    more = np.divide(after, before, np.ones(run.shape), where=before > 0)[tuple(run.codes)]
    return {
        "flow": replace(flow, values=values),
        "instances": replace(run, values=run.values * more),
    }


def moved(before: LabelledArray, after: LabelledArray) -> float:
    """Share of requests that another plan serves at another site.

    Half the sum of differences between the sites' shares, by period and origin, weighted by the
    requests before.
    """
    flows = [flow.total_over("period", "origin", "site") for flow in (before, after)]
    requests = flows[0].sum(axis=2)
    shares = [flow / np.maximum(flow.sum(axis=2, keepdims=True), 1e-300) for flow in flows]
    return float((requests * np.abs(shares[0] - shares[1]).sum(axis=2)).sum() / requests.sum() / 2)


def four(metrics: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """The metrics of the objective."""
    return {f"{prefix}{name}": metrics[name] for name in METRICS}


def outcome(instance: Any, plan: go.Solution) -> dict[str, Any]:
    """How an optimum was reached and what it is worth, beside the rule that needs no signal."""
    return {
        "status": str(plan.status),
        "checked": go.check(instance, plan).ok,
        "optimal_proved": go.certify(instance, plan).optimal,
        "objective": plan.objective,
        "bound": plan.bound,
        "gap": plan.gap,
        **four(plan.metrics),
        "requests": plan.metrics["requests"],
    }


def nearest(instance: Any) -> dict[str, Any]:
    """What the nearest sites would be worth."""
    plan = go.solve(instance, "nearest")
    return {"nearest_objective": plan.objective, **four(plan.metrics, "nearest_")}


def measure(choices: Any) -> list[dict[str, Any]]:
    """Every run of one day."""
    base = build(choices)
    plan = go.solve(base)
    day = {"date": choices.date}
    rows = [{**day, "assumption": "base", **outcome(base, plan), **nearest(base)}]
    for one in assumptions():
        changed = one.change(choices, base)
        decision = carried(plan, base, changed)
        for scales, instance in with_scales(changed, base).items():
            best = go.solve(instance, solver=one.solver)
            kept = evaluate(instance, decision)
            worth = {"kept_objective": kept.stages[-1], **four(kept.metrics, "kept_")}
            rows.append(
                {
                    **day,
                    "assumption": one.name,
                    "base": one.base(choices, base),
                    "changed": one.changed,
                    "scales": scales,
                    **outcome(instance, best),
                    "moved": moved(plan.array("flow"), best.array("flow")),
                    "kept_feasible": not kept.violations,
                    "kept_violation": next(map(str, kept.violations), None),
                    **({} if kept.violations else worth),
                    **(nearest(instance) if scales == "own" else {}),
                }
            )
        print(choices.date, one.name, one.changed, file=sys.stderr)
    return rows


def main() -> None:
    """Measure and write the results file."""
    smoke = smoke_asked(__doc__)
    start = world.DEFAULT._replace(step_min=60)
    dates = (start.date,) if smoke else DATES
    found = [row for date in dates for row in measure(start._replace(date=date))]
    columns = [*dict.fromkeys(name for row in found for name in row)]
    record = {
        "what": "Optimum, placement and worth of the base's plan under one changed assumption at a "
        "time, every run",
        "page": "placement/sensitivity.md",
        "metrics": METRICS,
        "dates": dates,
        "marginal": {
            "gas_g_per_kwh": GAS_G_PER_KWH,
            "coal_g_per_kwh": COAL_G_PER_KWH,
            "coal_above_g_per_kwh": COAL_ABOVE_G_PER_KWH,
        },
        "columns": columns,
    }
    rows = [[short(row.get(name)) for name in columns] for row in found]
    write("placement_sensitivity", record, rows, smoke)


if __name__ == "__main__":
    main()
