"""Plots of solutions, with matplotlib."""

from __future__ import annotations

import os
from datetime import datetime
from typing import Any

import numpy as np

from greenopt.errors import ModelError
from greenopt.files import write_bytes_atomically
from greenopt.instance import Instance
from greenopt.results import Solution

PANELS = (
    ("carbon_kg", "Carbon, kg CO2e per period", "Greys"),
    ("water_l", "Water withdrawal, L per period", "Blues"),
    ("cost_usd", "Cost, USD per period", "Oranges"),
    ("ttft_mean_s", "Mean time to first token, s", "Purples"),
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

    from matplotlib import rc_context
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    if "flow" not in solution.decision:
        raise ModelError(f"{solution.instance}: status {solution.status}, there is no plan to draw")
    buffer = io.BytesIO()
    with rc_context({"text.parse_math": False}):  # names may hold dollar signs
        figure = Figure(figsize=(13, 8.5), layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.subplots(2, 3)
        for ax, panel in zip(axes[:, :2].ravel(), PANELS, strict=True):
            _draw_grid(figure, ax, solution, *panel)
        _draw_requests(axes[0, 2], solution)
        _draw_flows(axes[1, 2], solution)
        figure.suptitle(_headline(solution), fontsize=11)
        kind = os.path.splitext(os.fspath(path))[1].lstrip(".") or "png"
        metadata = {"Software": None} if kind == "png" else None
        figure.savefig(buffer, format=kind, dpi=110, metadata=metadata)
    write_bytes_atomically(path, buffer.getvalue())


def _headline(solution: Solution) -> str:
    m = solution.metrics
    proof = "no bound" if solution.gap is None else f"within {solution.gap:.1e} of its proved bound"
    return (
        f"{solution.instance}: {solution.status}, {proof}   "
        f"{m['carbon_kg']:,.0f} kg CO2e   {m['water_l']:,.0f} L   {m['cost_usd']:,.0f} USD   "
        f"TTFT {m['ttft_mean_s'] or 0:.3f} s"
    )


def _draw_grid(
    figure: Any, ax: Any, solution: Solution, metric: str, title: str, colours: str
) -> None:
    """One metric by site and period; hatched where nothing is served."""
    sites = solution.sets["site"]
    grid = np.array(solution.metrics_by["period,site"][metric], dtype=float).T
    served = np.array(solution.metrics_by["period,site"]["requests"], dtype=float).T > 0
    shown = np.where(served, grid, np.nan)
    ax.patch.set(hatch="////", edgecolor="lightgrey")
    low = min(0.0, np.nanmin(shown, initial=0.0))
    high = np.nanmax(shown, initial=0.0)
    image = ax.imshow(
        shown,
        aspect="auto",
        cmap=colours,
        interpolation="nearest",
        vmin=low,
        vmax=high if high > low else low + 1.0,
    )
    ax.set_title(title, fontsize=10)
    ax.set_yticks(range(len(sites)), sites, fontsize=8)
    _label_periods(ax, solution.sets["period"])
    figure.colorbar(image, ax=ax, shrink=0.9).ax.tick_params(labelsize=8)


def _label_periods(ax: Any, starts: tuple[str, ...]) -> None:
    """Label some periods: hours of one day, days of several."""
    moments = [datetime.fromisoformat(start) for start in starts]
    one_day = (moments[-1] - moments[0]).days < 2
    step = max(1, len(starts) // 6)
    form = "%H:%M" if one_day else "%d %b"
    ax.set_xticks(
        range(0, len(starts), step), [m.strftime(form) for m in moments[::step]], fontsize=8
    )
    zone = moments[0].tzname() or ""
    day = f"{moments[0]:%d %B %Y}, " if one_day else f"{moments[0]:%Y}, "
    ax.set_xlabel(f"{day}{zone}", fontsize=8)


def _draw_requests(ax: Any, solution: Solution) -> None:
    """Requests served by site over time, stacked."""
    served = np.array(solution.metrics_by["period,site"]["requests"], dtype=float)
    most = served.sum(axis=1).max()
    unit, name = (1e6, "millions of requests") if most >= 1e6 else (1.0, "requests")
    edges = np.arange(len(served) + 1) - 0.5
    steps = np.vstack([served, served[-1:]]) / unit
    ax.stackplot(edges, steps.T, step="post", labels=solution.sets["site"])
    ax.set_xlim(edges[0], edges[-1])
    ax.set_title(f"Served by site, {name} per period", fontsize=10)
    _label_periods(ax, solution.sets["period"])
    ax.tick_params(axis="y", labelsize=8)
    ax.set_ylim(0, 1.45 * most / unit or 1.0)  # head room for the legend
    handles, names = ax.get_legend_handles_labels()
    ax.legend(handles[::-1], names[::-1], fontsize=7, ncols=3, loc="upper left")


def _draw_flows(ax: Any, solution: Solution) -> None:
    """Share of each origin's requests served at each site."""
    flow = solution.array("flow").total_over("origin", "site")
    share = flow / np.maximum(flow.sum(axis=1, keepdims=True), 1e-300)
    ax.imshow(share, cmap="Greens", vmin=0, vmax=1, aspect="auto")
    ax.set_title("Share of an origin's requests by site", fontsize=10)
    ax.set_ylabel("origin", fontsize=8)
    ax.set_xlabel("site", fontsize=8)
    ax.set_yticks(range(len(solution.sets["origin"])), solution.sets["origin"], fontsize=8)
    sites = solution.sets["site"]
    ax.set_xticks(range(len(sites)), sites, fontsize=8, rotation=45, ha="right")
    for o, s in zip(*np.nonzero(share > 0.005), strict=True):
        colour = "white" if share[o, s] > 0.6 else "black"
        ax.text(s, o, f"{share[o, s]:.0%}", ha="center", va="center", fontsize=7, color=colour)
