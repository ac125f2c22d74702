"""Plots of placement plans, with matplotlib: see `greenopt.plots`, which calls `draw`.

Colours of all kinds but the overview can be told apart by the colour-blind: categories are from
Okabe and Ito's palette, amounts from matplotlib's perceptually uniform maps.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from itertools import product
from typing import Any, NamedTuple

import numpy as np

from greenopt.drawing import BLUE, VERMILION, proof, short, stacks
from greenopt.errors import ModelError
from greenopt.labelled import BoolArray, FloatArray, LabelledArray
from greenopt.physics import carbon, energy
from greenopt.results import Solution

PANELS = (
    ("carbon_kg", "Carbon, kg CO2e per period", "Greys"),
    ("water_l", "Water withdrawal, L per period", "Blues"),
    ("cost_usd", "Cost, USD per period", "Oranges"),
    ("ttft_mean_s", "Mean time to first token, s", "Purples"),
)

SOURCES = {
    "Carbon, kg CO2e": {
        "carbon_operational_kg": "operational",
        "carbon_embodied_kg": "embodied, {charge} GPUs",
    },
    "Water, L": {
        "water_evaporation_l": "evaporation",
        "water_blowdown_l": "blowdown",
        "water_grid_l": "electricity generation",
    },
    "Cost, USD": {
        "cost_energy_usd": "energy",
        "cost_gpu_usd": "GPUs",
        "cost_egress_usd": "egress",
        "cost_demand_usd": "demand charge",
    },
}
"""Metrics that are stacked, by panel, and what they are called."""

MOMENTS = 6
"""Periods of which the flows are drawn, evenly spread."""

LARGEST_CIRCLE_PT, WIDEST_ARC_PT = 26.0, 5.0
"""Diameter of the largest circle and width of the widest arc of a map, points."""

FEW = 10
"""Sites that have a colour of the usual cycle each, and room for figures."""

LONG = 120
"""With more periods, a panel is as wide as the figure."""

UNSEEN = 1e-9
"""Flows below this share of the largest are rounding."""

FLOW_AXES = ("period", "origin", "class", "site", "mode", "level")
SERVING_AXES = ("period", "site", "model", "mode", "level")
RUNNING_AXES = ("period", "site", "model", "mode")


def draw(
    figure: Any, instance: Any, solution: Solution, kind: str, *, time_limit: float = 60.0
) -> None:
    """Draw a plan into an empty figure, which may get another size.

    Parameters
    ----------
    figure : matplotlib.figure.Figure
        Where to draw.
    instance, solution : PlacementInstance, Solution
        A plan of the instance.
    kind : str
        A key of `greenopt.problems.placement.showing.PLOTS`.
    time_limit : float
        Time for the marginals of "marginal_carbon", s.

    Raises
    ------
    ModelError
        If the solution or the instance lacks what the kind needs.
    NoOptimumError
        If marginals are asked for and no optimum was found in time.
    """
    if "flow" not in solution.decision:
        raise ModelError(f"{solution.instance}: the plan lacks 'flow', over {', '.join(FLOW_AXES)}")
    _refuse_unmeasured(solution)
    draws: dict[str, Callable[[], None]] = {
        "overview": lambda: _draw_overview(figure, solution),
        "flows": lambda: _draw_maps(figure, instance, solution),
        "sources": lambda: _draw_sources(figure, instance, solution),
        "utilisation": lambda: _draw_utilisation(figure, instance, solution),
        "marginal_carbon": lambda: _draw_marginal_carbon(figure, instance, solution, time_limit),
    }
    draws[kind]()


def _array(instance: Any, solution: Solution, name: str, axes: tuple[str, ...]) -> LabelledArray:
    """An array of the plan, over the axes and with the labels that the instance's plans have."""
    array = solution.decision.get(name)
    labels = {axis: instance.sets[axis] for axis in axes}
    if array is None or list(array.labels.items()) != list(labels.items()):
        has = "lacks" if array is None else "has other axes or labels of"
        raise ModelError(f"{solution.instance}: the plan {has} {name!r}, over {', '.join(axes)}")
    return array


def _refuse_unmeasured(solution: Solution) -> None:
    """Refuse a solution, perhaps written by hand, without the metrics that are drawn."""
    drawn = [name for name, *_ in PANELS]
    shape = tuple(len(solution.sets[axis]) for axis in ("period", "site"))
    grids = solution.metrics_by.get("period,site", {})
    lacking = [name for name in drawn[:3] if solution.metrics.get(name) is None]
    lacking += [name for name in drawn[3:] if name not in solution.metrics]
    lacking += [
        f"{name} by period and site"
        for name in (*drawn, "requests")
        if np.shape(grids.get(name, ())) != shape
    ]
    if lacking:
        raise ModelError(f"{solution.instance}: the solution lacks {', '.join(lacking)}")


def _headline(solution: Solution) -> str:
    m = solution.metrics
    return (
        f"{proof(solution)}   "
        f"{m['carbon_kg']:,.0f} kg CO2e   {m['water_l']:,.0f} L   {m['cost_usd']:,.0f} USD   "
        f"TTFT {m['ttft_mean_s'] or 0:.3f} s"
    )


# -- overview ------------------------------------------------------------------------------------


def _draw_overview(figure: Any, solution: Solution) -> None:
    axes = figure.subplots(2, 3)
    for ax, panel in zip(axes[:, :2].ravel(), PANELS, strict=True):
        _draw_grid(figure, ax, solution, *panel)
    _draw_requests(axes[0, 2], solution)
    _draw_flows(axes[1, 2], solution)
    figure.suptitle(_headline(solution), fontsize=11)


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
    from matplotlib import colormaps

    served = np.array(solution.metrics_by["period,site"]["requests"], dtype=float)
    most = served.sum(axis=1).max()
    unit, name = (1e6, "millions of requests") if most >= 1e6 else (1.0, "requests")
    edges = np.arange(len(served) + 1) - 0.5
    steps = np.vstack([served, served[-1:]]) / unit
    sites = solution.sets["site"]
    many = len(sites) > FEW
    colours = colormaps["tab20"](np.arange(20)) if many else None
    ax.stackplot(edges, steps.T, step="post", labels=sites, colors=colours)
    ax.set_xlim(edges[0], edges[-1])
    ax.set_title(f"{name.capitalize()} by site", fontsize=10)
    _label_periods(ax, solution.sets["period"])
    ax.tick_params(axis="y", labelsize=8)
    ax.set_ylim(0, 1.45 * most / unit or 1.0)  # head room for the legend
    handles, names = ax.get_legend_handles_labels()
    small = (
        {"fontsize": 5.5, "columnspacing": 0.8, "handlelength": 1.0} if many else {"fontsize": 7}
    )
    ax.legend(handles[::-1], names[::-1], ncols=3, loc="upper left", **small)


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
    if len(sites) > FEW:  # no room for figures
        return
    for o, s in zip(*np.nonzero(share > 0.005), strict=True):
        colour = "white" if share[o, s] > 0.6 else "black"
        ax.text(s, o, f"{share[o, s]:.0%}", ha="center", va="center", fontsize=7, color=colour)


# -- time ----------------------------------------------------------------------------------------


def _label_time(ax: Any, starts: tuple[str, ...]) -> None:
    """Label hours of one day, midnights of several."""
    moments = [datetime.fromisoformat(start) for start in starts]
    days = [at for at, m in enumerate(moments) if at == 0 or m.date() != moments[at - 1].date()]
    if (moments[-1] - moments[0]).days < 2:
        _label_periods(ax, starts)
        return
    shown = days[:: math.ceil(len(days) / 8)]
    ax.set_xticks(shown, [f"{moments[at]:%d %b}" for at in shown], fontsize=8)
    ax.set_xlabel(f"{moments[0]:%Y}, {moments[0].tzname() or ''}", fontsize=8)


# -- flows ---------------------------------------------------------------------------------------


Box = tuple[float, float, float, float]
"""Left, low, right and high edge."""


class Arc(NamedTuple):
    """Requests that go from an origin to a site in a period."""

    origin: int
    site: int
    requests_per_s: float


def moments(n_periods: int) -> list[int]:
    """Positions of the periods whose flows are drawn."""
    return sorted({i * n_periods // MOMENTS for i in range(MOMENTS)})


def served_per_s(instance: Any, solution: Solution) -> FloatArray:
    """Requests served per second, mean over each period, by (period, origin, site)."""
    flow = _array(instance, solution, "flow", FLOW_AXES).total_over("period", "origin", "site")
    rate: FloatArray = flow / np.array(instance.periods.duration_s)[:, None, None]
    return rate


def arcs(served: FloatArray) -> list[Arc]:
    """Every flow of one period above rounding, the largest last.

    Parameters
    ----------
    served : ndarray, shape (origins, sites)
        Requests per second.
    """
    pairs = np.argwhere(served > UNSEEN * served.max(initial=0.0))
    found = [Arc(int(o), int(s), float(served[o, s])) for o, s in pairs]
    return sorted(found, key=lambda arc: arc.requests_per_s)


class _Map:
    """Where places stand, and how large what is drawn of them is.

    Parameters
    ----------
    instance, solution : PlacementInstance, Solution
        A plan of an instance with `locations`.
    """

    def __init__(self, instance: Any, solution: Solution) -> None:
        self.instance = instance
        self.origins, self.sites = (self._degrees(n) for n in (instance.origins, instance.sites))
        self.periods = moments(len(instance.periods.start))
        self.served = served_per_s(instance, solution)[self.periods]
        duration = np.array(instance.periods.duration_s)[:, None]
        self.demand = (instance.demand_requests.sum(axis=2) / duration)[self.periods]
        most = max(self.served.sum(axis=1).max(initial=0.0), self.demand.max(initial=0.0))
        self.most_per_s = float(most) or 1.0
        away = np.where(self._is_here, 0.0, self.served)
        self.most_on_arc_per_s = float(away.max(initial=0.0)) or 1.0
        intensity = instance.carbon_g_per_kwh[self.periods]
        self.least_g, self.most_g = float(intensity.min()), float(intensity.max())

    def _degrees(self, names: Sequence[str]) -> FloatArray:
        """Longitude and latitude of places, shape (places, 2)."""
        at = [self.instance.locations[name] for name in names]
        return np.array([(place.longitude_deg, place.latitude_deg) for place in at])

    @property
    def _is_here(self) -> BoolArray:
        """Whether site and origin are at one place, by (origin, site)."""
        here: BoolArray = (self.origins[:, None] == self.sites).all(axis=2)
        return here

    def ways(self, number: int) -> list[Arc]:
        """Flows of one of the periods between different places."""
        return arcs(np.where(self._is_here, 0.0, self.served[number]))

    def diameter_pt(self, requests_per_s: Any) -> Any:
        """Diameters of circles whose areas are as the requests."""
        share = np.maximum(np.asarray(requests_per_s), 0.0) / self.most_per_s
        return LARGEST_CIRCLE_PT * np.sqrt(share)

    def width_pt(self, requests_per_s: float) -> float:
        """Width of an arc at its site; hairlines stay visible."""
        return max(WIDEST_ARC_PT * requests_per_s / self.most_on_arc_per_s, 0.3)

    def path(self, origin: int, site: int) -> FloatArray:
        """An arc by the shorter way round the globe, bent to the left, shape (25, 2), degrees."""
        a, b = self.origins[origin], self.sites[site]
        way = np.array([(b[0] - a[0] + 180) % 360 - 180, b[1] - a[1]])
        bend = a + way / 2 + 0.15 * np.array([-way[1], way[0]])
        t = np.linspace(0, 1, 25)[:, None]
        return np.asarray((1 - t) ** 2 * a + 2 * t * (1 - t) * bend + t**2 * (a + way))

    @property
    def window(self) -> tuple[tuple[float, float], tuple[float, float]]:
        """Limits of longitude and latitude around all that is drawn."""
        pairs = {arc[:2] for number in range(len(self.periods)) for arc in self.ways(number)}
        ways = [self.path(*pair) for pair in sorted(pairs)]
        points = np.concatenate([self.origins, self.sites, *ways])
        low, high = points.min(axis=0), points.max(axis=0)
        margin = np.maximum(0.08 * (high - low), max(0.045 * (high - low)[0], 3.0))
        low, high = low - margin, high + margin
        if low[0] < -180 or high[0] > 180:
            low[0], high[0] = -180.0, 180.0
        return (low[0], high[0]), (max(low[1], -90.0), min(high[1], 90.0))


def _draw_maps(figure: Any, instance: Any, solution: Solution) -> None:
    from matplotlib.colors import LinearSegmentedColormap, Normalize

    if instance.locations is None:
        raise ModelError(
            f"{instance.name}: $.locations is missing; a map of flows needs the latitude and "
            f"longitude of every origin and site"
        )
    where = _Map(instance, solution)
    dark = LinearSegmentedColormap.from_list("dark", _plasma(np.linspace(0, 0.85, 64)))
    high = where.most_g if where.most_g > where.least_g else where.least_g + 1.0
    norm = Normalize(where.least_g, high)
    columns = min(len(where.periods), 2)
    rows = math.ceil(len(where.periods) / columns)
    (west, east), (south, north) = where.window
    stretch = 1 / max(np.cos(np.radians((south + north) / 2)), 0.5)
    height = 13 / columns * (north - south) * stretch / (east - west)
    figure.set_size_inches(13, min(rows * (height + 0.35), 24.0) + 1.6)
    axes = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True).ravel()
    for ax in axes[len(where.periods) :]:
        ax.set_visible(False)
    used = axes[: len(where.periods)]
    for ax in used:
        ax.set(xlim=(west, east), ylim=(south, north))
        ax.set_aspect(stretch, adjustable="box")
    for number, ax in enumerate(used):
        _draw_map(ax, where, number, dark, norm)
    from matplotlib.cm import ScalarMappable

    bar = figure.colorbar(
        ScalarMappable(norm, dark),
        ax=list(used),
        location="bottom",
        shrink=0.5,
        aspect=45,
        pad=0.01,
    )
    bar.set_label("carbon intensity of the site's electricity, g CO2e/kWh", fontsize=8)
    bar.ax.tick_params(labelsize=8)
    _explain_map(figure, where)
    figure.suptitle(_headline(solution), fontsize=11)
    _name_places(figure, used, where)


def _plasma(share: FloatArray) -> Any:
    from matplotlib import colormaps

    return colormaps["plasma"](share)


def _draw_map(ax: Any, where: _Map, number: int, colours: Any, norm: Any) -> None:
    """One moment: arcs that widen towards the site, circles of what is served and what arises."""
    from matplotlib.collections import LineCollection

    period = where.periods[number]
    intensity = where.instance.carbon_g_per_kwh[period]
    for arc in where.ways(number):
        way = where.path(arc.origin, arc.site)
        widths = where.width_pt(arc.requests_per_s) * np.linspace(0.2, 1.0, len(way) - 1)
        for shift in (0.0, -360.0, 360.0):  # a way over the edge of the map comes in on the other
            moved = way + np.array([shift, 0.0])
            ax.add_collection(
                LineCollection(
                    list(np.stack([moved[:-1], moved[1:]], axis=1)), linewidths=widths,
                    color=colours(norm(intensity[arc.site])), capstyle="round", zorder=2,
                    gid=f"{arc.origin}-{arc.site}",
                ),
                autolim=False,
            )  # fmt: skip
    served = where.served[number].sum(axis=0)
    idle = served <= UNSEEN * where.most_per_s
    ax.scatter(
        *where.sites.T, s=np.where(idle, 0.0, where.diameter_pt(served)) ** 2, c=intensity,
        cmap=colours, norm=norm, edgecolors="white", linewidths=0.5, zorder=3, gid="served",
    )  # fmt: skip
    ax.scatter(*where.sites[idle].T, s=14, marker="x", c="black", linewidths=0.7, zorder=3)
    ax.scatter(
        *where.origins.T, s=where.diameter_pt(where.demand[number]) ** 2, facecolors="none",
        edgecolors="black", linewidths=0.7, zorder=4, gid="demand",
    )  # fmt: skip
    moment = datetime.fromisoformat(where.instance.periods.start[period])
    total = float(served.sum())
    ax.set_title(
        f"{moment:%d %B %Y, %H:%M} {moment.tzname() or ''}: {short(total)} requests/s",
        fontsize=9,
    )
    ax.grid(color="0.9", linewidth=0.6)
    ax.set_axisbelow(True)
    ax.tick_params(labelsize=7, length=2)
    ax.xaxis.set_major_formatter(
        lambda x, _: f"{abs(x):g}°{'E' if x > 0 else 'W' if x < 0 else ''}"
    )
    ax.yaxis.set_major_formatter(
        lambda y, _: f"{abs(y):g}°{'N' if y > 0 else 'S' if y < 0 else ''}"
    )


def _explain_map(figure: Any, where: _Map) -> None:
    from matplotlib.lines import Line2D

    half = where.most_per_s / 2
    size = float(where.diameter_pt(half))
    none: dict[str, Any] = {"linestyle": "none"}
    handles = [
        Line2D([], [], marker="o", markersize=size, color="0.55", **none,
               label=f"served at the site (here {short(half)} requests/s)"),
        Line2D([], [], marker="o", markersize=size, markerfacecolor="none", color="black",
               markeredgewidth=0.7, **none, label="arising there (the same)"),
        Line2D([], [], color="0.55", linewidth=WIDEST_ARC_PT,
               label=f"sent, wider towards the site (here {short(where.most_on_arc_per_s)} "
               f"requests/s)"),
        Line2D([], [], marker="x", markersize=4, color="black", **none, label="serves nothing"),
    ]  # fmt: skip
    figure.legend(
        handles=handles, loc="outside lower center", ncols=4, fontsize=8, frameon=False,
        columnspacing=2.5, handletextpad=1.0, borderpad=0.8,
    )  # fmt: skip


def _name_places(figure: Any, axes: Iterable[Any], where: _Map) -> None:
    """Write names beside their circles, at the same place in every panel, none over another."""
    from matplotlib.patheffects import withStroke

    at: dict[tuple[float, float], list[str]] = {}
    radius: dict[tuple[float, float], float] = {}
    for names, degrees, amounts in (
        (where.instance.sites, where.sites, where.served.sum(axis=1)),
        (where.instance.origins, where.origins, where.demand),
    ):
        for name, place, amount in zip(names, degrees, amounts.T, strict=True):
            spot = (float(place[0]), float(place[1]))
            called = at.setdefault(spot, [])
            called += [] if name in called else [name]
            size = float(where.diameter_pt(amount).max()) / 2
            radius[spot] = max(radius.get(spot, 2.0), size)
    figure.draw_without_rendering()
    first, *_ = axes
    renderer, pt = figure.canvas.get_renderer(), figure.dpi / 72
    places = [tuple(first.transData.transform(place) / pt) for place in at]
    texts = [" / ".join(names) for names in at.values()]
    sizes = []
    for text in texts:
        box = first.text(0, 0, text, fontsize=7)
        extent = box.get_window_extent(renderer)
        sizes.append((extent.width / pt, extent.height / pt))
        box.remove()
    frame = first.get_window_extent(renderer)
    inside = (frame.x0 / pt, frame.y0 / pt, frame.x1 / pt, frame.y1 / pt)
    halo = [withStroke(linewidth=1.5, foreground="white")]
    offsets = _spread(places, [radius[place] for place in at], sizes, inside)
    for ax in axes:
        for place, text, (dx, dy, away) in zip(at, texts, offsets, strict=True):
            line = {"arrowstyle": "-", "color": "0.4", "linewidth": 0.5} if away > 4 else None
            ax.annotate(
                text, place, (dx, dy), textcoords="offset points", fontsize=7, ha="center",
                va="center", zorder=5, annotation_clip=False, path_effects=halo, arrowprops=line,
            )  # fmt: skip


def _spread(
    places: Sequence[tuple[float, float]],
    radii: Sequence[float],
    sizes: Sequence[tuple[float, float]],
    inside: Box,
) -> list[tuple[float, float, float]]:
    """Offsets of labels' centres, and how far off their circles they are, all in points.

    One label after the other takes the nearest place that covers no circle, no other label and
    nothing beyond the edge, or the place that covers least.
    """
    taken = [(x - r, y - r, x + r, y + r) for (x, y), r in zip(places, radii, strict=True)]
    found = []
    for (x, y), r, (width, height) in zip(places, radii, sizes, strict=True):
        choices = []
        for away, turn in product((2.0, 8.0, 16.0, 26.0, 38.0), range(16)):
            dx = (r + away + width / 2) * math.cos(turn * math.pi / 8)
            dy = (r + away + height / 2) * math.sin(turn * math.pi / 8)
            left, low = x + dx - width / 2, y + dy - height / 2
            box = (left, low, left + width, low + height)
            covered = width * height - _overlap(box, inside)
            covered += sum(_overlap(box, other) for other in taken)
            choices.append((round(covered, 3), away, turn, (dx, dy, away), box))
        *_, offset, box = min(choices)
        taken.append(box)
        found.append(offset)
    return found


def _overlap(a: Box, b: Box) -> float:
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    return max(width, 0.0) * max(height, 0.0)


# -- sources -------------------------------------------------------------------------------------


def _draw_sources(figure: Any, instance: Any, solution: Solution) -> None:
    """Stacked bars by site: what carbon, water and cost consist of."""
    sites = solution.sets["site"]
    figure.set_size_inches(13, 2.2 + 0.3 * len(sites))
    axes = figure.subplots(1, 3, sharey=True)
    for ax, (title, parts) in zip(axes, SOURCES.items(), strict=True):
        charged = {n: text.format(charge=instance.embodied_charge) for n, text in parts.items()}
        stacks(ax, title, {text: _by_site(solution, n) for n, text in charged.items()})
    axes[0].set_yticks(range(len(sites)), sites, fontsize=8)
    axes[0].set_ylim(len(sites) - 0.4, -0.6)
    figure.suptitle(_headline(solution), fontsize=11)


def _by_site(solution: Solution, metric: str) -> FloatArray:
    values = solution.metrics_by.get("site", {}).get(metric)
    if values is None or np.shape(values) != (len(solution.sets["site"]),):
        raise ModelError(f"{solution.instance}: the solution lacks {metric!r} by site")
    return np.array(values, dtype=float)


# -- utilisation ---------------------------------------------------------------------------------


def gpu_share(instance: Any, solution: Solution) -> FloatArray:
    """Share of GPUs held by running instances, by (period, site, gpu_type).

    NaN where there are no GPUs, or as many as anyone wants. Instances that start hold theirs too.
    """
    counted = instance.counts_instances
    name, axes = ("running", RUNNING_AXES) if counted else ("instances", SERVING_AXES)
    held = _array(instance, solution, name, axes).total_over(*RUNNING_AXES)
    sets = instance.sets
    gpus = np.zeros(instance.gpus.shape)
    for p in instance.profiles:
        own = held[:, :, sets["model"].index(p.model), sets["mode"].index(p.mode)]
        gpus[:, :, sets["gpu_type"].index(p.gpu_type)] += p.gpus_per_instance * own
    there = (instance.gpus > 0) & np.isfinite(instance.gpus)
    nothing = np.full(gpus.shape, np.nan)
    share: FloatArray = np.divide(gpus, instance.gpus, out=nothing, where=there)
    return share


def queue_utilisation(instance: Any, solution: Solution) -> dict[int, FloatArray]:
    """Utilisation of each profile's queues, by (period, site), NaN where nothing serves.

    The time that the profile's requests occupy instances, over the time of the instances that
    stand at levels which serve (formulations/placement.md): a mean over levels.

    Returns
    -------
    dict of int to ndarray
        By position in `instance.profiles`, for those that queue.
    """
    flow = _array(instance, solution, "flow", FLOW_AXES)
    by_class = flow.total_over("period", "site", "class", "mode", "level")
    count = _array(instance, solution, "instances", SERVING_AXES).total_over(*SERVING_AXES)
    duration = np.array(instance.periods.duration_s)[:, None]
    sets, found = instance.sets, {}
    for number, p in enumerate(instance.profiles):
        if p.queue is None:
            continue
        mode = sets["mode"].index(p.mode)
        work = np.array([k.work_per_request.get(p.mode, 0.0) * (k.model == p.model)
                         for k in instance.classes])  # fmt: skip
        busy_s = p.queue.service_s * (by_class[:, :, :, mode].sum(axis=3) @ work)
        serve = [at for at, level in enumerate(p.levels) if level.requests_per_s > 0]
        own = count[:, :, sets["model"].index(p.model), mode]
        there_s = duration * own[:, :, serve].sum(axis=2)
        where = there_s > UNSEEN * max(there_s.max(initial=0.0), 1e-300)
        found[number] = np.divide(busy_s, there_s, out=np.full(there_s.shape, np.nan), where=where)
    return found


def _draw_utilisation(figure: Any, instance: Any, solution: Solution) -> None:
    """Heat maps by site and period: GPUs held by type, and queues by profile that serves."""
    share = gpu_share(instance, solution)
    duration_s = np.array(instance.periods.duration_s)[:, None]
    gpu_s = np.where(np.isnan(share), 0.0, instance.gpus * duration_s[:, :, None])
    panels, unused = [], []
    for h, name in enumerate(instance.sets["gpu_type"]):
        there = gpu_s[:, :, h].sum()
        held = (np.nan_to_num(share[:, :, h]) * gpu_s[:, :, h]).sum()
        text = f"{held / there:.0%} of the horizon's GPU-hours" if there else "none, or unlimited"
        panels.append((f"{name}, share of GPUs held: {text}", share[:, :, h]))
    for number, grid in queue_utilisation(instance, solution).items():
        profile = instance.profiles[number]
        name = f"{profile.model} in {profile.mode}"
        if np.isnan(grid).all():
            unused.append(name)
            continue
        panels.append((f"{name}, utilisation of queues: up to {np.nanmax(grid):.2f}", grid))
    _draw_shares(figure, panels, solution)
    note = f"\nqueues not used: {', '.join(unused)}" if unused else ""
    figure.suptitle(_headline(solution) + note, fontsize=11)


def _draw_shares(figure: Any, panels: Sequence[tuple[str, FloatArray]], solution: Solution) -> None:
    sites, starts = solution.sets["site"], solution.sets["period"]
    columns = 1 if len(starts) > LONG else min(len(panels), 2)
    rows = math.ceil(len(panels) / columns)
    figure.set_size_inches(13, 0.9 + rows * (0.75 + 0.155 * max(len(sites), 6)))
    axes = figure.subplots(rows, columns, squeeze=False)
    for ax in axes.ravel()[len(panels) :]:
        ax.set_visible(False)
    for number, (title, grid) in enumerate(panels):
        ax = axes.ravel()[number]
        ax.patch.set(hatch="////", edgecolor="lightgrey")
        image = ax.imshow(
            grid.T, aspect="auto", cmap="viridis", vmin=0, vmax=1, interpolation="nearest"
        )
        ax.set_title(title, fontsize=9)
        names = sites if number % columns == 0 else [""] * len(sites)
        ax.set_yticks(range(len(sites)), names, fontsize=7)
        _label_time(ax, starts)
        if number < len(panels) - columns:
            ax.set_xlabel("")
    bar = figure.colorbar(image, ax=axes, aspect=40, fraction=0.03, pad=0.01, shrink=0.7)
    bar.set_label("share; hatched: nothing there", fontsize=8)
    bar.ax.tick_params(labelsize=8)


# -- marginal carbon -----------------------------------------------------------------------------


def mean_carbon_g(instance: Any, solution: Solution) -> FloatArray:
    """Carbon of a served request, mean by (period, class), g CO2e; NaN where none is served.

    Instances are charged to the classes they serve by share of work, as in a solution's metrics by
    class; what stands idle or starts belongs to none.
    """
    served, charged = _served_and_charged_kg(instance, solution)
    nothing = np.full(served.shape, np.nan)
    mean: FloatArray = np.divide(1e3 * charged, served, out=nothing, where=served > 0)
    return mean


def _served_and_charged_kg(instance: Any, solution: Solution) -> tuple[FloatArray, FloatArray]:
    """Requests, and carbon of their instances, both by (period, class)."""
    sets, duration = instance.sets, np.array(instance.periods.duration_s)[:, None]
    flow = _array(instance, solution, "flow", FLOW_AXES)
    by_class = flow.total_over("period", "site", "class", "mode", "level")
    count = _array(instance, solution, "instances", SERVING_AXES).total_over(*SERVING_AXES)
    charged = np.zeros((len(duration), len(instance.classes)))
    for p in instance.profiles:
        mode, h = sets["mode"].index(p.mode), sets["gpu_type"].index(p.gpu_type)
        gpu = instance.gpu_types[h]
        own = count[:, :, sets["model"].index(p.model), mode]
        work = np.array([k.work_per_request.get(p.mode, 0.0) * (k.model == p.model)
                         for k in instance.classes])  # fmt: skip
        for at, level in enumerate(p.levels):
            _, facility_w = energy.it_and_facility_power_w(
                level.power_w, p.power_boundary, instance.pue, p.host_adder_w
            )
            kwh = energy.energy_kwh(facility_w, duration)
            kg = carbon.operational_kg(kwh, instance.carbon_g_per_kwh)
            if instance.embodied_charge == "running":
                kg = kg + carbon.embodied_kg(
                    gpu.embodied_kg, gpu.lifetime_s, p.gpus_per_instance, duration
                )
            done = by_class[:, :, :, mode, at] * work
            total = done.sum(axis=2, keepdims=True)
            share = np.divide(done, total, out=np.zeros(done.shape), where=total > 0)
            charged += ((kg * own[:, :, at])[:, :, None] * share).sum(axis=1)
    return flow.total_over("period", "class"), charged


def _draw_marginal_carbon(
    figure: Any, instance: Any, solution: Solution, time_limit: float
) -> None:
    """A panel a class: median and range over origins of one more request's carbon, and the mean."""
    from greenopt.ranging import marginals

    found = marginals(
        instance, solution, of="demand", metrics="carbon_kg", time_limit=time_limit,
        seed=solution.seed,
    )  # fmt: skip
    rate = 1e3 * found["demand"].rates["carbon_kg"]
    mean = mean_carbon_g(instance, solution)
    classes = solution.sets["class"]
    columns = 1 if len(mean) > LONG else min(len(classes), 2)
    rows = math.ceil(len(classes) / columns)
    figure.set_size_inches(13, 1.2 + 3.6 * rows)
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for ax in axes[len(classes) :]:
        ax.set_visible(False)
    for k, (ax, name) in enumerate(zip(axes, classes, strict=False)):
        _draw_range(ax, rate[:, :, k], mean[:, k])
        ax.set_title(name, fontsize=10)
        ax.set_ylabel("g CO2e per request", fontsize=8)
        _label_time(ax, solution.sets["period"])
    figure.suptitle(_headline(solution) + _caveats(found, instance, solution), fontsize=11)


def _caveats(found: Any, instance: Any, solution: Solution) -> str:
    """What a reader of marginals must know, on lines of their own."""
    own, notes = found["demand"], []
    for budget in instance.budgets:
        price = solution.marginals.get(f"budget.{budget.name}")
        if budget.metric.startswith("carbon") and price is not None and price.values.any():
            notes.append(
                f"budget {budget.name} holds the carbon: one more request pushes other carbon out"
            )
    if found.integers_fixed:
        notes.append("whole numbers held at the plan's")
    elif solution.objective is not None:
        off = abs(found.objective - solution.objective) / max(abs(found.objective), 1e-10)
        if off > 1e-3:
            notes.append(
                f"marginals of the optimum, {found.objective:.6g}; the plan has "
                f"{solution.objective:.6g}"
            )
    if own.tied:
        notes.append("other optimal plans may have other rates")
    return "".join(f"\n{note}" for note in notes)


def _draw_range(ax: Any, rate: FloatArray, mean: FloatArray) -> None:
    """Rates by (period, origin): their median and range; marks where some are not finite."""
    n, finite = len(rate), np.isfinite(rate)
    low, middle, high = (np.full(n, np.nan) for _ in range(3))
    for t in range(n):
        known = np.sort(rate[t][~np.isnan(rate[t])])  # no plan is an infinite rate, and counts
        if finite[t].any():
            low[t], high[t] = rate[t][finite[t]].min(), rate[t][finite[t]].max()
        if len(known) and np.isfinite(known[len(known) // 2]):
            middle[t] = np.median(known)
    edges = np.repeat(np.arange(n + 1) - 0.5, 2)[1:-1]
    ax.fill_between(
        edges, np.repeat(low, 2), np.repeat(high, 2), color=BLUE, alpha=0.25, linewidth=0,
        label="one more request: range over origins",
    )  # fmt: skip
    ax.plot(edges, np.repeat(middle, 2), color=BLUE, linewidth=1.6, label="median of origins")
    ax.plot(
        edges, np.repeat(mean, 2), color="black", linewidth=1.2, linestyle=(0, (4, 2)),
        label="all requests served: mean",
    )  # fmt: skip
    for bad, marker, text in (
        (np.isposinf(rate), "x", "no plan with one more, of some origin"),
        (np.isnan(rate), "2", "not known in time, of some origin"),
    ):
        at = np.flatnonzero(bad.any(axis=1))
        if at.size:
            ax.plot(
                at, np.full(at.size, 0.02), linestyle="none", marker=marker, color=VERMILION,
                markersize=5, transform=ax.get_xaxis_transform(), label=text,
            )  # fmt: skip
    drawn = np.concatenate([low, high, mean])
    drawn = drawn[np.isfinite(drawn)]
    least, most = min(drawn.min(initial=0.0), 0.0), drawn.max(initial=0.0)
    span = (most - least) or 1.0
    ax.set_ylim(least - (0.05 * span if least < 0 else 0.0), most + 0.3 * span)
    ax.set_xlim(edges[0], edges[-1])
    ax.axhline(0, color="black", linewidth=0.6)
    ax.grid(axis="y", color="0.9", linewidth=0.6)
    ax.set_axisbelow(True)
    ax.tick_params(axis="y", labelsize=8)
    ax.legend(fontsize=8, loc="upper left", ncols=2, frameon=False)
