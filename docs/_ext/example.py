"""The worked example: solves the quick instance and draws and tabulates what comes out."""

from __future__ import annotations

import contextlib
import io
import json
import runpy
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from tables import table, write

import greenopt as go
from greenopt import cli
from greenopt.problems.placement.metrics import METRICS

SHOWN = {
    "carbon_kg": "carbon, kg CO2e",
    "water_l": "water, L",
    "cost_usd": "cost, USD",
    "ttft_mean_s": "mean TTFT, s",
}

JSON_KEYS = {
    "instance": "name of the instance, as in its file",
    "problem": "problem the instance belongs to",
    "method": "method asked for",
    "solver": "solver asked for",
    "status": "how the solve ended, one of the [statuses](concepts.md#statuses)",
    "objective": "value of the last stage, recomputed from the plan; null without a plan",
    "bound": "proved lower bound on it; null if there is none",
    "bound_source": "where the bound comes from, see [gaps](concepts.md#gaps-and-bounds)",
    "gap": "relative gap between objective and bound; null without a bound, or if the two differ "
    "in sign",
    "gap_abs": "objective minus bound, in units of the objective",
    "metrics": "every metric in total, by [name](attributes/placement.md#metrics); a metric that "
    "has nothing to average is null",
    "runtime_s": "wall time of building, solving, decoding and checking, s; reading, writing and "
    "drawing are not in it",
    "bound_runtime_s": "wall time of the extra bound of integer models, s",
    "solution": "path of the solution file; null without `--out` or `--plot`",
}
"""Meaning of every key of a JSON line."""


def write_all(root: Path, out: Path) -> None:
    """Write every table and figure of the example."""
    quick = root / "instances" / "placement" / "quick.json"
    inst = go.load(quick)
    solution = first_command(quick, out)
    json_line(quick, out)
    runpy.run_path(str(root / "docs" / "placement" / "tiny.py"))
    write(out / "example_metrics.md", metrics_table(solution))
    write(out / "example_sites.md", sites_table(solution))
    write(out / "example_single.md", single_objectives(inst, solution))
    prices_figure(solution, out / "example_prices.png")


def first_command(quick: Path, out: Path) -> go.Solution:
    """Run the command of the start page as a user would, and keep what it leaves behind."""
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        write(out / "first_command.txt", _run(["solve", str(quick), "--plot", "--out", "results"]))
        shutil.copyfile("results/quick.png", out / "example_plan.png")
        solution = go.load_solution("results/quick.solution.json")
        command = [str(quick), "results/quick.solution.json"]
        proof = [f"$ greenopt {name} instances/placement/quick.json results/quick.solution.json\n"
                 f"{_run([name, *command])}" for name in ("check", "certify")]  # fmt: skip
    write(out / "check_and_certify.txt", "\n".join(proof))
    return solution


def json_line(quick: Path, out: Path) -> None:
    """Write a real JSON line, and the table of its keys."""
    record = json.loads(_run(["solve", str(quick), "--json"]))
    if set(record) != set(JSON_KEYS):
        raise ValueError(f"JSON_KEYS and the JSON line differ: {set(record) ^ set(JSON_KEYS)}")
    write(out / "json_line.json", json.dumps(record, indent=2) + "\n")
    write(out / "json_keys.md", table(("key", "value"), [(f"`{k}`", JSON_KEYS[k]) for k in record]))


def _run(arguments: list[str]) -> str:
    """Standard output of a command that has to succeed."""
    errors = io.StringIO()
    with contextlib.redirect_stdout(io.StringIO()) as printed, contextlib.redirect_stderr(errors):
        status = cli.main(arguments)
    if status != 0:
        raise RuntimeError(f"greenopt {arguments} ended with {status}: {errors.getvalue()}")
    return printed.getvalue()


def number(value: float | None) -> str:
    """Whole numbers from a thousand on, four digits below."""
    if value is None:
        return "none"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def metrics_table(solution: go.Solution) -> str:
    """Totals of the plan."""
    rows = [
        (f"`{name}`", number(value), METRICS[name].unit, METRICS[name].meaning)
        for name, value in solution.metrics.items()
    ]
    return table(("metric", "total", "unit", "meaning"), rows)


def sites_table(solution: go.Solution) -> str:
    """Requests and the four weighed metrics by site."""
    by_site = solution.metrics_by["site"]
    names = {"requests": "requests", "energy_kwh": "energy, kWh", **SHOWN}
    rows = [
        [site, *(number(by_site[name][i]) for name in names)]
        for i, site in enumerate(solution.sets["site"])
    ]
    return table(("site", *names.values()), rows, right_from=1)


def single_objectives(inst: Any, balanced: go.Solution) -> str:
    """Compare the balanced plan with the optimum of each metric alone."""
    plans = {"all four, as in the instance": (inst, balanced)}
    for metric, title in SHOWN.items():
        objective = [{"terms": [{"metric": metric, "weight": 1.0}]}]
        alone = inst.replace(name=f"{inst.name}-{metric}", objective=objective)
        plans[f"{title.split(',')[0]} alone"] = (alone, go.solve(alone))
    least = {name: min(plan.metrics[name] or 0.0 for _, plan in plans.values()) for name in SHOWN}
    rows = []
    for title, (instance, plan) in plans.items():
        proved = go.check(instance, plan).ok and go.certify(instance, plan).optimal
        cells = [
            f"{number(plan.metrics[name])} (+{(plan.metrics[name] or 0.0) / least[name] - 1:.0%})"
            for name in SHOWN
        ]
        rows.append([title, *cells, "yes" if proved else "no"])
    return table(("minimised", *SHOWN.values(), "checked and proved"), rows, right_from=1)


def prices_figure(solution: go.Solution, path: Path) -> None:
    """Draw the price of one more request by origin and hour, a panel a class."""
    price = solution.marginals["demand"]
    dense = price.dense() * 1e6
    hours = [start[11:16] for start in price.labels["period"]]
    figure = Figure(figsize=(12, 3.6), layout="constrained")
    panels = figure.subplots(1, dense.shape[2], sharey=True)
    for k, (ax, name) in enumerate(zip(panels, price.labels["class"], strict=True)):
        image = ax.imshow(
            dense[:, :, k].T, aspect="auto", cmap="viridis", vmin=0, vmax=np.max(dense)
        )
        ax.set_title(name, fontsize=10)
        ax.set_xticks(range(0, len(hours), 6), hours[::6], fontsize=8)
        ax.set_xlabel("hour, UTC", fontsize=8)
    origins = price.labels["origin"]
    panels[0].set_yticks(range(len(origins)), origins, fontsize=8)
    figure.colorbar(image, ax=panels, shrink=0.9, label="objective per million requests")
    figure.savefig(path, dpi=110, metadata={"Software": None})
