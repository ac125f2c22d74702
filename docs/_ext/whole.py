"""The worked example of whole instances: a day of quick with whole numbers, starts, deferral."""

from __future__ import annotations

import contextlib
import io
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from example import number
from matplotlib.figure import Figure
from tables import table, write

import greenopt as go
from greenopt import cli

GAP = 0.005
"""Relative gap asked of the mixed-integer models."""

LIMIT_S = 15.0
"""Time limit of each."""

WEIGHTS_GB = {"llama-3.1-70b": 140.0, "llama-3.1-8b": 16.0}
"""Weights at two bytes a parameter."""

LOAD_GB_PER_S = 140.0 / 120.0
"""Assumed speed of loading them."""

HELD_CLASS, HELD_HOURS = "summarise", 4
"""The class that may be held back, and for how long."""

WAIT_WEIGHT = 0.01
"""What holding back every request of that class by an hour counts in the objective."""


class Case(NamedTuple):
    """One row of the table."""

    title: str
    instance: Any
    solution: go.Solution


def write_all(root: Path, out: Path) -> None:
    """Write the tables, the figure and the second opinion."""
    cases = solve_all(go.load(root / "instances" / "placement" / "quick.json"))
    write(out / "whole_proofs.md", proofs(cases))
    asked = f"Asked for was a gap of {GAP:g}, within {LIMIT_S:g} s a model with whole numbers."
    write(out / "whole_asked.md", asked + "\n")
    write(out / "whole_metrics.md", metrics(cases))
    write(out / "whole_starts.md", starts_table(cases[2].instance))
    figure(cases, out / "whole.png")
    write(out / "reproved.txt", second_opinion(root / "instances" / "placement-freesh"))


def solve_all(quick: Any) -> list[Case]:
    """Solve the day four times, with one more thing each time."""

    def solve(title: str, instance: Any) -> Case:
        return Case(title, instance, go.solve(instance, gap=GAP, time_limit=LIMIT_S))

    whole = quick.replace(name="quick-whole", instance_counts="integer", load_rule="at_most")
    cases = [Case("fractions", quick, go.solve(quick)), solve("whole", whole)]
    profiles = [{**p, "startup": startup(p)} for p in quick.document()["profiles"]]
    initial = cases[1].solution.replicas().dense()[0]
    starting = whole.replace(name="quick-starts", profiles=profiles, initial_instances=initial)
    cases.append(solve("whole, with starts", starting))
    cases.append(solve(f"{HELD_CLASS} deferrable as well", deferrable(starting)))
    return cases


def startup(profile: dict[str, Any]) -> dict[str, float]:
    """Loading the weights at the power of the lowest level."""
    time_s = WEIGHTS_GB[profile["model"]] / LOAD_GB_PER_S
    return {"time_s": time_s, "energy_kwh": profile["levels"][0]["power_w"] * time_s / 3.6e6}


def deferrable(instance: Any) -> Any:
    """The instance with one class that may wait, at a small price."""
    document = instance.document()
    for k in document["classes"]:
        if k["name"] == HELD_CLASS:
            k["deferral_limit_s"] = HELD_HOURS * 3600.0
    requests = instance.demand_requests[..., instance.sets["class"].index(HELD_CLASS)].sum()
    wait = {
        "metric": "deferral_request_s",
        "weight": WAIT_WEIGHT,
        "scale": float(requests) * 3600.0,
    }
    terms = [*document["objective"][0]["terms"], wait]
    return instance.replace(
        name="quick-deferrable", classes=document["classes"], objective=[{"terms": terms}]
    )


def proofs(cases: list[Case]) -> str:
    """How each solve ended, and what is proved without a solver."""
    rows = []
    for title, instance, plan in cases:
        certificate = go.certify(instance, plan).stages[-1]
        assert plan.objective is not None
        assert plan.bound is not None
        rows.append(
            [
                title,
                str(plan.status),
                f"{plan.objective:.4f}",
                f"{plan.bound:.4f}",
                f"{plan.gap:.1e}",
                f"`{plan.bound_source}`",
                f"{certificate.proved_bound:.4f}",
                "yes" if go.check(instance, plan).ok else "no",
                f"{plan.summary()['runtime_s']:.1f}",
            ]
        )
    head = ("instances", "status", "objective", "bound", "gap", "bound source",
            "bound proved by `certify`", "checked", "time, s")  # fmt: skip
    return table(head, rows, right_from=2)


def metrics(cases: list[Case]) -> str:
    """What each plan does."""
    rows = []
    for title, instance, plan in cases:
        hours = np.array(instance.periods.duration_s) / 3600
        shown = {name: value or 0.0 for name, value in plan.metrics.items()}
        rows.append(
            [
                title,
                number(shown["carbon_kg"]),
                number(shown["cost_usd"]),
                number(shown["water_l"]),
                number(shown["ttft_mean_s"]),
                number(float(running(plan) @ hours)),
                number(shown["starts"]),
                number(shown["ttft_startup_request_s"] / 3600),
                number(shown["deferral_request_s"] / 3600),
            ]
        )
    head = ("instances", "carbon, kg CO2e", "cost, USD", "water, L", "mean TTFT, s",
            "instance-hours", "starts", "waits for starts, request h",
            "held back, request h")  # fmt: skip
    return table(head, rows, right_from=1)


def running(plan: go.Solution) -> Any:
    """Running instances in each period."""
    counted = "running" if "running" in plan.decision else "instances"
    return plan.array(counted).total_over("period")


def starts_table(instance: Any) -> str:
    """What a start takes."""
    rows = [
        (p.model, p.mode, number(p.startup.time_s), number(p.startup.energy_kwh))
        for p in instance.profiles
    ]
    return table(("model", "mode", "time, s", "energy at the GPUs, kWh"), rows, right_from=2)


def figure(cases: list[Case], path: Path) -> None:
    """Draw running instances, and the stock that is held back, over the day."""
    hours = [start[11:16] for start in cases[0].solution.sets["period"]]
    edges = np.arange(len(hours) + 1)
    drawn = Figure(figsize=(12, 3.6), layout="constrained")
    left, right = drawn.subplots(1, 2)
    styles = (("0.6", "-"), ("tab:blue", ":"), ("tab:orange", "-"), ("tab:green", "-"))
    for (title, _, plan), (colour, line) in zip(cases, styles, strict=True):
        counts = running(plan)
        left.step(
            edges, [*counts, counts[-1]], where="post", color=colour, linestyle=line, label=title
        )
    left.set_title("running instances, all sites", fontsize=10)
    left.legend(fontsize=8)
    last = cases[-1]
    k = last.instance.sets["class"].index(HELD_CLASS)
    demand = last.instance.demand_requests[..., k].sum(axis=1) / 1e6
    served = last.solution.array("flow").total_over("period", "class")[:, k] / 1e6
    right.step(edges, [*demand, demand[-1]], where="post", color="0.6", label="arrive")
    right.step(edges, [*served, served[-1]], where="post", color="tab:green", label="are served")
    stock = last.solution.array("deferred").total_over("period") / 1e6
    right.bar(edges[1:], stock, width=0.3, color="tab:purple", label="held back at the hour's end")
    right.set_title(f"{HELD_CLASS}, million requests", fontsize=10)
    right.legend(fontsize=8)
    for ax in (left, right):
        ax.set_xticks(range(0, len(hours), 3), hours[::3], fontsize=8)
        ax.set_xlabel("hour, UTC", fontsize=8)
        ax.set_ylim(bottom=0)
    drawn.savefig(path, dpi=110, metadata={"Software": None})


def second_opinion(folder: Path) -> str:
    """What `certify` says of a search tree's bound, alone and with a second solver."""
    instance = str(folder / "freesh-12.json")
    with tempfile.TemporaryDirectory() as out:
        quietly(["solve", instance, "--out", out, "--gap", "0"])
        solved = str(Path(out) / "freesh-12.solution.json")
        shown = "instances/placement-freesh/freesh-12.json freesh-12.solution.json"
        return "\n".join(
            f"$ greenopt certify {shown}{''.join(f' {word}' for word in more)}\n"
            f"{quietly(['certify', instance, solved, *more], status)}"
            for more, status in (([], 1), (["--reprove", "scip"], 0))
        )


def quietly(arguments: list[str], expected: int = 0) -> str:
    """Standard output of a command that has to end with an exit status."""
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        with contextlib.redirect_stderr(io.StringIO()) as errors:
            status = cli.main(arguments)
    if status != expected:
        raise RuntimeError(f"greenopt {arguments} ended with {status}: {errors.getvalue()}")
    return printed.getvalue()
