"""Plots of solutions, with matplotlib."""

from __future__ import annotations

import os
from typing import Any

import numpy as np

from greenopt.errors import ModelError
from greenopt.files import write_bytes_atomically
from greenopt.instance import Instance
from greenopt.results import Solution

PANELS = (
    ("carbon_kg", "Carbon (kg CO2e)", "Greys"),
    ("water_l", "Water withdrawal (L)", "Blues"),
    ("cost_usd", "Cost (USD)", "Oranges"),
    ("ttft_mean_s", "Mean time to first token (s)", "Purples"),
)


def plot(instance: Instance, solution: Solution, path: str | os.PathLike[str]) -> None:
    """Draw carbon, water, cost and TTFT by site and period, and who serves whom.

    Parameters
    ----------
    instance, solution : Instance, Solution
        A solved placement.
    path : path-like
        Image file; the ending chooses the format (png, pdf, svg).

    Raises
    ------
    ModelError
        If the solution has no plan to draw.
    """
    import io

    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    if "flow" not in solution.decision:
        raise ModelError(f"{solution.instance}: status {solution.status}, there is no plan to draw")
    figure = Figure(figsize=(13, 8.5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(2, 3)
    sites = solution.sets["site"]
    hours = [start[11:16] or start for start in solution.sets["period"]]
    table = solution.metrics_by["period,site"]
    for ax, (metric, title, colours) in zip(axes[:, :2].ravel(), PANELS, strict=True):
        grid = np.array(table[metric], dtype=float).T
        image = ax.imshow(grid, aspect="auto", cmap=colours, interpolation="nearest")
        ax.set_title(title, fontsize=10)
        ax.set_yticks(range(len(sites)), sites, fontsize=8)
        step = max(1, len(hours) // 6)
        ax.set_xticks(range(0, len(hours), step), hours[::step], fontsize=8)
        figure.colorbar(image, ax=ax, shrink=0.85)
    _draw_requests(axes[0, 2], solution, hours)
    _draw_flows(axes[1, 2], solution)
    figure.suptitle(_headline(solution), fontsize=11)
    buffer = io.BytesIO()
    kind = os.path.splitext(os.fspath(path))[1].lstrip(".") or "png"
    figure.savefig(
        buffer, format=kind, dpi=110, metadata={"Software": None} if kind == "png" else None
    )
    write_bytes_atomically(path, buffer.getvalue())


def _headline(solution: Solution) -> str:
    m = solution.metrics
    gap = "no bound" if solution.gap is None else f"gap {solution.gap:.1e}"
    return (
        f"{solution.instance}: {solution.status} ({gap}, {solution.bound_source})   "
        f"{m['carbon_kg']:,.0f} kg CO2e   {m['water_l']:,.0f} L   {m['cost_usd']:,.0f} USD   "
        f"TTFT {m['ttft_mean_s'] or 0:.3f} s"
    )


def _draw_requests(ax: Any, solution: Solution, hours: list[str]) -> None:
    """Requests served by site over time, stacked."""
    served = np.array(solution.metrics_by["period,site"]["requests"], dtype=float) / 1e6
    ax.stackplot(range(len(hours)), served.T, labels=solution.sets["site"])
    ax.set_title("Requests served by site (millions)", fontsize=10)
    step = max(1, len(hours) // 6)
    ax.set_xticks(range(0, len(hours), step), hours[::step], fontsize=8)
    ax.set_ylim(0, 1.45 * served.sum(axis=1).max() or 1.0)  # head room for the legend
    ax.legend(fontsize=7, ncols=3, loc="upper left")


def _draw_flows(ax: Any, solution: Solution) -> None:
    """Share of each origin's requests served at each site."""
    flow = solution.array("flow").total_over("origin", "site")
    share = flow / np.maximum(flow.sum(axis=1, keepdims=True), 1e-300)
    ax.imshow(share, cmap="Greens", vmin=0, vmax=1, aspect="auto")
    ax.set_title("Share of an origin's requests by site", fontsize=10)
    ax.set_yticks(range(len(solution.sets["origin"])), solution.sets["origin"], fontsize=8)
    ax.set_xticks(
        range(len(solution.sets["site"])),
        solution.sets["site"],
        fontsize=8,
        rotation=45,
        ha="right",
    )
    for o, s in zip(*np.nonzero(share > 0.005), strict=True):
        colour = "white" if share[o, s] > 0.6 else "black"
        ax.text(s, o, f"{share[o, s]:.0%}", ha="center", va="center", fontsize=7, color=colour)
