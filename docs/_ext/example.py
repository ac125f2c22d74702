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
    marginals_page(quick, inst, out)


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


def marginals_page(quick: Path, inst: Any, out: Path) -> None:
    """Write what the page on marginals includes: a command, two tables and a figure."""
    command = ["--of", "gpus_always", "--metric", "carbon_kg", "--metric", "cost_usd", "--top", "4"]
    write(out / "marginals_command.txt", _run(["marginals", str(quick), *command]))
    found = go.marginals(inst)
    write(out / "marginals_requests.md", marginal_requests(found["demand"]))
    write(out / "marginals_gpus.md", marginal_gpus(found["gpus_always"]))
    marginals_figure(found, out / "marginals.png")


def marginal_requests(own: go.Marginal) -> str:
    """A thousand more requests of each class at noon, where the objective rises least and most."""
    units = {"carbon_kg": "g CO2e", "cost_usd": "USD", "water_l": "L", "ttft_request_s": "s waited"}
    factor = {"carbon_kg": 1e6}
    noon = next(i for i, t in enumerate(own.labels["period"]) if t[11:13] == "12")
    rows = []
    for k, name in enumerate(own.labels["class"]):
        objective = own.rates["objective"][noon, :, k]
        for o in (int(np.argmin(objective)), int(np.argmax(objective))):
            place = noon, o, k
            rates = [own.rates[m][place] * factor.get(m, 1e3) for m in units]
            reach = number(float(own.valid_up_to[place]))
            rows.append((name, own.labels["origin"][o], *map(number, rates), reach))
    head = ("class", "origin", *units.values(), "valid up to, requests")
    return table(head, rows, right_from=2)


def marginal_gpus(own: go.Marginal) -> str:
    """One more GPU all day at each site and of each type, where it changes anything."""
    units = {"carbon_kg": "carbon, kg", "cost_usd": "cost, USD", "water_l": "water, L"}
    rows = [
        [
            row["site"],
            row["gpu_type"],
            *(number(row[m]) for m in units),
            number(row["ttft_mean_s"] * 1e3),
            number(row["valid_up_to"]),
        ]
        for row in sorted(own.rows(), key=lambda row: row["objective"])
        if row["objective"] != 0
    ]
    head = ("site", "GPU type", *units.values(), "mean TTFT, ms", "valid up to, GPUs")
    return table(head, rows, right_from=2)


def marginals_figure(found: go.Marginals, path: Path) -> None:
    """Draw carbon of a request by origin and hour, and of a GPU by site and hour."""
    request, gpu = found["demand"], found["gpus"]
    h = int(np.argmax(np.abs(gpu.rates["carbon_kg"]).sum(axis=(0, 1))))
    chat, gpu_type = request.labels["class"][0], gpu.labels["gpu_type"][h]
    panels = (
        (f"g CO2e of one more {chat} request", request.labels["origin"],
         request.rates["carbon_kg"][:, :, 0] * 1e3, "viridis"),
        (f"kg CO2e saved by one more {gpu_type} for an hour", gpu.labels["site"],
         -gpu.rates["carbon_kg"][:, :, h], "magma"),
    )  # fmt: skip
    hours = [start[11:16] for start in request.labels["period"]]
    figure = Figure(figsize=(12, 3.6), layout="constrained")
    for ax, (title, labels, values, colours) in zip(figure.subplots(1, 2), panels, strict=True):
        image = ax.imshow(values.T, aspect="auto", cmap=colours)
        ax.set_title(title, fontsize=10)
        ax.set_xticks(range(0, len(hours), 6), hours[::6], fontsize=8)
        ax.set_xlabel("hour, UTC", fontsize=8)
        ax.set_yticks(range(len(labels)), labels, fontsize=8)
        figure.colorbar(image, ax=ax, shrink=0.9)
    figure.savefig(path, dpi=110, metadata={"Software": None})
