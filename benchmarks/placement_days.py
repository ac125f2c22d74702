"""Rules that place requests against the optimum, on days of real series at 15 sites.

Writes results/placement_days.json, every single run, which docs/placement/results.md aggregates.
Run it as

    python benchmarks/placement_days.py

It needs the real data in ../shared and takes about half an hour. All instances come from
instances/placement-world/build_world.py, in periods of an hour; one day is run in periods of a
quarter as well. Rules get the same step of instance sizing as the optimum: instances, levels and
modes follow the instance's own objective. Mixes of naive choices say which part of a saving comes
from where.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import sys
from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from build_vs_solve import HERE, solver

import greenopt as go
from greenopt.problems.placement.methods import RULES, Ruled
from greenopt.ruling import follow
from greenopt.solving import Settings

sys.path.append(str(HERE.parent / "instances" / "placement-world"))

import build_world as world

METRICS = {
    "carbon_kg": "carbon",
    "water_l": "water",
    "cost_usd": "cost",
    "ttft_mean_s": "TTFT",
}
"""What the objective weighs, and short names."""

MOSTLY = 0.7
"""Weight of the one metric in a weighting that leans on it; the others share the rest."""

PARTS = {"nearest": "placement", "first-mode": "mode", "held": "sizing"}
"""Naive choices in order of precedence, and the decision that each takes away."""

HOURS = 24
"""Periods of a day for which mixes are solved: in quarters they take minutes."""

EWIFS = ("waterwise", "ren")
"""Factor sets of the water in electricity."""

COLUMNS = (
    "date",
    "utilisation",
    "ewif",
    "step_min",
    "method",
    "status",
    "checked",
    "bound_proved",
    "optimal_proved",
    "objective",
    "bound",
    "gap",
    "balanced",
    *METRICS,
    "energy_kwh",
    "gpu_h",
    "requests",
    "runtime_s",
    "bound_runtime_s",
)


def cases(smoke: bool) -> list[Any]:
    """Choices of every instance; the day in quarters of an hour comes last.

    Parameters
    ----------
    smoke : bool
        Only one, in hours.
    """
    fine = world.DEFAULT._replace(ewif=EWIFS[0], step_min=15)
    if smoke:
        return [fine._replace(step_min=60)]
    hourly = [
        fine._replace(step_min=60, date=date, ewif=ewif, utilisation=utilisation)
        for date in world.FAMILY_DATES
        for ewif in EWIFS
        for utilisation in world.FAMILY_UTILISATIONS
    ]
    return [*hourly, fine]


def build(choices: Any) -> Any:
    """Build an instance of the benchmark."""
    return world.build("world-day", **choices._asdict())


def optima(instance: Any) -> dict[str, Any]:
    """Instances with other objectives, by name: equal weights, leaning, and one metric first."""
    (balanced,) = instance.document()["objective"]
    found = {"balanced": instance}
    others = (1 - MOSTLY) / (len(METRICS) - 1)
    for own in balanced["terms"]:
        name = METRICS[own["metric"]]
        leaning = [{**t, "weight": MOSTLY if t is own else others} for t in balanced["terms"]]
        stages = {f"mostly {name}": [{"terms": leaning}], f"{name} first": [{"terms": [own]}]}
        stages[f"{name} first"].append(balanced)
        for title, objective in stages.items():
            found[title] = instance.replace(name=f"{instance.name}, {title}", objective=objective)
    return found


def held(instance: Any) -> Any:
    """Instance whose instances run all day; those that are not needed stand by."""
    return instance.replace(
        name=f"{instance.name}, held",
        profiles=[world.with_idle_level(p) for p in instance.document()["profiles"]],
        hold_periods=[len(instance.periods.start)],
    )


def mixes() -> list[tuple[str, ...]]:
    """Sets of naive choices that are no method of their own, and full load alone."""
    sets = [chosen for n in range(1, len(PARTS) + 1) for chosen in combinations(PARTS, n)]
    return [("full-load",), *(chosen for chosen in sets if chosen != ("nearest",))]


def solve_mix(instance: Any, wanted: Sequence[str]) -> tuple[Any, Any]:
    """Solve with naive choices: the instance that has them, and its plan."""
    own = held(instance) if "held" in wanted else instance
    rules = [name for name in wanted if name != "held"]
    return own, follow(own, Ruled(own, *rules), "mix", Settings(bound=False))


def runs(instance: Any) -> Iterator[tuple[str, Any, Any]]:
    """Solve one instance by every method: name, instance with its objective, plan."""
    for name, own in optima(instance).items():
        yield name, own, go.solve(own)
    for name in RULES:
        yield name, instance, go.solve(instance, name)
    for wanted in mixes() if len(instance.periods.start) == HOURS else ():
        yield ", ".join(wanted), *solve_mix(instance, wanted)


def balanced_value(instance: Any, metrics: Mapping[str, Any]) -> float:
    """Objective of the instance, from metrics."""
    (stage,) = instance.objective
    return float(sum(t.weight * metrics[t.metric] / t.scale for t in stage.terms))


def measure(choices: Any) -> list[list[Any]]:
    """Rows of one instance."""
    instance = build(choices)
    rows = []
    for name, own, plan in runs(instance):
        summary = plan.summary()
        proof = go.certify(own, plan) if plan.bound is not None else None
        found = {
            **choices._asdict(),
            **summary,
            **{metric: plan.metrics[metric] for metric in (*METRICS, "energy_kwh", "gpu_h")},
            "method": name,
            "requests": plan.metrics["requests"],
            "checked": go.check(own, plan).ok,
            "bound_proved": proof and proof.ok,
            "optimal_proved": proof and proof.optimal,
            "balanced": balanced_value(instance, plan.metrics),
        }
        rows.append([short(found[column]) for column in COLUMNS])
        print(instance.name, name, plan.status, f"{summary['runtime_s']:.1f} s", file=sys.stderr)
    return rows


def short(value: Any) -> Any:
    """Numbers to nine digits."""
    return float(f"{value:.9g}") if isinstance(value, float) else value


def machine() -> dict[str, Any]:
    """What the figures were made on and with."""
    return {
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "numpy": np.__version__,
        "highs": solver(),
        "greenopt": go.__version__,
    }


def text(record: Mapping[str, Any], rows: Sequence[Sequence[Any]]) -> str:
    """A record as JSON, one line a run."""
    head = json.dumps({**record, "runs": []}, indent=1)
    lines = ",\n".join(f"  {json.dumps(row)}" for row in rows)
    return head.replace('"runs": []', f'"runs": [\n{lines}\n ]') + "\n"


def write(name: str, record: Mapping[str, Any], rows: Sequence[Sequence[Any]], smoke: bool) -> None:
    """Write a results file; a smoke run only prints it."""
    script = f"python benchmarks/{name}.py"
    whole = {
        "benchmark": name,
        **record,
        "command": script + (" --smoke" if smoke else ""),
        "date": datetime.date.today().isoformat(),
        "machine": machine(),
    }
    written = text(whole, rows)
    if smoke:
        print(written)
    else:
        Path(HERE / "results" / f"{name}.json").write_text(written, encoding="utf-8")


def smoke_asked(description: str | None) -> bool:
    """Read the command line: whether it is only about running at all."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--smoke", action="store_true", help="one instance, nothing written")
    return bool(parser.parse_args().smoke)


def main() -> None:
    """Measure and write the results file."""
    smoke = smoke_asked(__doc__)
    rows = [row for case in cases(smoke) for row in measure(case)]
    base = build(cases(smoke)[-1])
    record = {
        "what": "Carbon, water, cost and time to first token of days placed by rules and by the "
        "optimum under several weightings, every run",
        "page": "placement/results.md",
        "metrics": METRICS,
        "rules": [*RULES],
        "optima": [*optima(base)],
        "parts": PARTS,
        "mostly": MOSTLY,
        "assumptions": base.provenance.rules,
        "attribution": [source.attribution for source in base.provenance.sources],
        "columns": COLUMNS,
    }
    write("placement_days", record, rows, smoke)


if __name__ == "__main__":
    main()
