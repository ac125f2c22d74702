"""The worked example of routing: a workload over three models, the sweep of zeta, rules, plots."""

from __future__ import annotations

import contextlib
import tempfile
from pathlib import Path
from typing import Any

from example import _run, number
from tables import table, write

import greenopt as go
from greenopt.problems.routing.plots import alone, sweep
from greenopt.problems.routing.showing import PLOTS

TENTHS = tuple(n / 10 for n in range(11))
"""The zeta that the publications show."""

SHARES = {"Llama-2 7B": 0.05, "Llama-2 13B": 0.2, "Llama-2 70B": 0.75}
"""Shares of the accelerators in the publications' code."""

METHODS = ("exact", "own-best", "round-robin", "random", "one-coefficient")
"""The optimum and rules that are compared with it."""


def write_all(root: Path, out: Path) -> None:
    """Write every table and figure of the example."""
    folder = root / "instances" / "routing"
    path = folder / "alpaca-500.json"
    inst = go.load(path)
    commands(path, out)
    large = go.load(folder / "alpaca-52k.json.gz")
    write(out / "routed_sweep.md", sweep_table(inst) + label(inst))
    write(out / "routed_alone.md", alone_table(large) + label(large))
    plan = go.solve(inst)
    for kind in PLOTS:
        go.plot(inst, plan, out / f"routed_{kind}.png", kind)
    tight = with_shares(inst)
    write(out / "routed_rules.md", rules_table(inst, tight) + label(inst))
    best = go.solve(tight)
    for kind in ("partition", "utilisation"):
        go.plot(tight, best, out / f"routed_shares_{kind}.png", kind)


def commands(path: Path, out: Path) -> None:
    """Run the commands of the page as a user would."""
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        solved = _run(["solve", str(path), "--out", "results"])
        plan = "results/alpaca-500.solution.json"
        proof = [f"$ greenopt {name} instances/routing/alpaca-500.json {plan}\n"
                 f"{_run([name, str(path), plan])}" for name in ("check", "certify")]  # fmt: skip
    write(out / "routed_solve.txt", solved)
    write(out / "routed_proof.txt", "\n".join(proof))
    lines = _run(["info", str(path)]).splitlines(keepends=True)
    shown = [line for line in lines if not line.startswith(("  rule: ", "  source: "))]
    write(out / "routed_info.txt", "".join(shown))


def label(inst: Any) -> str:
    """How the figures of a table were measured, to stand below it."""
    return f"\nMeasurements: {inst.label}.\n"


def sweep_table(inst: Any) -> str:
    """The optimum at every tenth of zeta."""
    names = inst.sets["deployment"]
    head = ("zeta", "objective", *(f"{name}, queries" for name in names), "energy, kWh",
            "accuracy, %", "gap proved")  # fmt: skip
    rows = []
    for zeta, plan in zip(TENTHS, sweep(inst, TENTHS), strict=True):
        metrics = plan.metrics
        rows.append(
            [
                f"{zeta:.1f}",
                f"{plan.objective:.6f}",
                *(f"{value:,.0f}" for value in plan.metrics_by["deployment"]["queries"]),
                f"{metrics['energy_kwh']:.4f}",
                f"{metrics['accuracy_percent']:.3f}",
                f"{plan.gap:.0e}",
            ]
        )
    return table(head, rows, right_from=1)


def alone_table(inst: Any) -> str:
    """What each model gives if it answers all queries."""
    rows = [
        [name, f"{own['energy_kwh']:.3f}", f"{own['runtime_mean_s']:.3f}",
         f"{own['accuracy_percent']:.2f}"]
        for name, own in alone(inst).items()
    ]  # fmt: skip
    return table(("model", "energy, kWh", "mean run time, s", "accuracy, %"), rows, right_from=1)


def with_shares(inst: Any) -> Any:
    """The instance with a largest number of queries for every model, by its share."""
    total = float(inst.count.sum())
    limits = [
        {"name": f"share of {name}", "metric": "queries", "deployments": [name],
         "upper": share * total}
        for name, share in SHARES.items()
    ]  # fmt: skip
    return inst.replace(name=f"{inst.name}-shares", limits=limits)


def rules_table(*instances: Any) -> str:
    """The optimum and the rules, under the limits of each instance."""
    rows = []
    for inst in instances:
        for method in METHODS:
            plan = go.solve(inst, method)
            rows.append(
                [
                    inst.name,
                    method,
                    f"{plan.objective:.3f}",
                    " / ".join(f"{q:,.0f}" for q in plan.metrics_by["deployment"]["queries"]),
                    number(plan.metrics["energy_kwh"]),
                    f"{plan.metrics['accuracy_percent']:.2f}",
                ]
            )
    head = ("instance", "method", "objective", "queries of 7B / 13B / 70B", "energy, kWh",
            "accuracy, %")  # fmt: skip
    return table(head, rows, right_from=2)
