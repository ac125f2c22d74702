"""Plots of routing plans, with matplotlib: see `greenopt.plots`, which calls `draw`.

Deployments have colours of Okabe and Ito's palette, the same ones in all kinds: the largest by
queries come first, and those beyond its seven colours are grey together.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from greenopt.drawing import BLUE, GREEN, PALETTE, VERMILION, proof, short
from greenopt.errors import ModelError, NoOptimumError
from greenopt.labelled import FloatArray, IntArray
from greenopt.problems.routing.formulation import Pairs
from greenopt.problems.routing.instance import PAIR, RoutingInstance, Term
from greenopt.problems.routing.metrics import METRICS
from greenopt.results import Solution

GREY = "0.6"

FEW = 20
"""With more deployments, only those that answer something are drawn."""

LONGEST_NAME = 44
"""Longer names of deployments are cut."""

BINS = 24
"""Ranges of tokens whose queries are counted together."""

SHARES = (
    ("queries", "Queries", ""),
    ("tokens", "Tokens", ""),
    ("energy_kwh", "Energy", " kWh"),
    ("carbon_kg", "Carbon", " kg CO2e"),
    ("cost_usd", "Cost", " USD"),
)
"""Metrics of the overview, what they are called and their units."""

ONE = {"queries": "query", "tokens": "token"}
"""One of what a unit counts."""

ZETAS = tuple(n / 20 for n in range(21))
"""Trade-offs that are solved and drawn, before those between them."""

MOST_OPTIMA, FAR, LEAST_STEP = 41, 0.06, 1e-3
"""Most optima that are drawn; neighbours further apart than this share of the whole get another one
between them, down to this step of zeta."""

DRAWN_GAP = 1e-4
"""Gap to which the optima that are drawn are proved; nobody sees less."""

AGAINST = {"accuracy_percent_tokens": "accuracy_percent", "runtime_s": "runtime_mean_s"}
"""What energy is traded against, and the mean of it that is drawn."""

TITLES = {
    "energy_kwh": "energy, kWh",
    "accuracy_percent": "accuracy, %, mean over tokens",
    "runtime_mean_s": "run time, s, mean over queries",
}

BEYOND = 1.0
"""A single deployment further off the optima than this times their span is told, not drawn."""


def draw(
    figure: Any, instance: RoutingInstance, solution: Solution, kind: str, *,
    time_limit: float = 60.0,
) -> None:  # fmt: skip
    """Draw a plan into an empty figure, which may get another size.

    Parameters
    ----------
    figure : matplotlib.figure.Figure
        Where to draw.
    instance, solution : RoutingInstance, Solution
        A plan of the instance.
    kind : str
        A key of `greenopt.problems.routing.showing.PLOTS`.
    time_limit : float
        Time for all optima of "zeta" together, s.

    Raises
    ------
    ModelError
        If the solution or the instance lacks what the kind needs.
    NoOptimumError
        If an optimum of "zeta" was not found in time.
    """
    _refuse_others(instance, solution)
    draws: dict[str, Callable[[], None]] = {
        "overview": lambda: _draw_overview(figure, instance, solution),
        "partition": lambda: _draw_partition(figure, instance, solution),
        "zeta": lambda: _draw_zeta(figure, instance, solution, time_limit),
        "utilisation": lambda: _draw_utilisation(figure, instance, solution),
    }
    draws[kind]()


def _refuse_others(instance: RoutingInstance, solution: Solution) -> None:
    """Refuse a solution, perhaps written by hand, without the plan or the metrics of it."""
    array = solution.decision.get("assigned")
    if array is None or list(array.labels.items()) != [(a, instance.sets[a]) for a in PAIR]:
        has = "lacks" if array is None else "has other axes or labels of"
        raise ModelError(f"{solution.instance}: the plan {has} 'assigned', over {', '.join(PAIR)}")
    lacking = [name for name in instance.metrics if name not in solution.metrics]
    lacking += [
        f"{name} by deployment"
        for name in instance.metrics
        if np.shape(solution.metrics_by.get("deployment", {}).get(name, ()))
        != (len(instance.deployments),)
    ]
    if lacking:
        raise ModelError(f"{solution.instance}: the solution lacks {', '.join(lacking)}")


def _headline(instance: RoutingInstance, solution: Solution) -> str:
    """What is proved, what it is worth, and how the figures were measured."""
    values = [
        f"{short(value)}{unit}"
        for metric, _, unit in SHARES[2:]
        if (value := solution.metrics.get(metric)) is not None
    ]
    if (accuracy := solution.metrics.get("accuracy_percent")) is not None:
        values.append(f"accuracy {accuracy:.2f} %")
    if (mean := solution.metrics.get("runtime_mean_s")) is not None:
        values.append(f"{short(mean)} s a query")
    label = f"\nmeasurements: {instance.label}" if instance.label else ""
    return f"{proof(solution)}   {'   '.join(values)}{label}"


def _by_deployment(solution: Solution, metric: str) -> FloatArray:
    return np.array(solution.metrics_by["deployment"][metric], dtype=float)


def _brief(name: str) -> str:
    return name if len(name) <= LONGEST_NAME else f"{name[: LONGEST_NAME - 1]}…"


def colours(solution: Solution) -> list[str]:
    """Colour of every deployment: the palette for the largest by queries, grey for the others."""
    order = np.argsort(-_by_deployment(solution, "queries"), kind="stable")
    found = [GREY] * len(order)
    for at, colour in zip(order, PALETTE, strict=False):
        found[at] = colour
    return found


# -- overview ------------------------------------------------------------------------------------


def _draw_overview(figure: Any, instance: RoutingInstance, solution: Solution) -> None:
    queries = _by_deployment(solution, "queries")
    shown = np.arange(len(queries)) if len(queries) <= FEW else np.flatnonzero(queries > 0)
    panels = [panel for panel in SHARES if panel[0] in instance.metrics]
    figure.set_size_inches(13, 1.9 + 0.32 * len(shown))
    axes = figure.subplots(1, len(panels), sharey=True, sharex=True)
    for ax, (metric, title, unit) in zip(axes, panels, strict=True):
        values = _by_deployment(solution, metric)
        total = solution.metrics[metric] or 0.0
        _draw_share(ax, values[shown], total, [colours(solution)[k] for k in shown])
        ax.set_title(f"{title}: {short(total)}{unit}", fontsize=10)
        ax.set_xlabel(f"share of {title.lower()}, %", fontsize=8)
    names = [_brief(instance.deployments[k].name) for k in shown]
    axes[0].set_yticks(range(len(names)), names, fontsize=8)
    axes[0].invert_yaxis()
    idle = len(queries) - len(shown)
    note = f"\n{idle} more deployments answer nothing" if idle else ""
    figure.suptitle(_headline(instance, solution) + note, fontsize=11)


def _draw_share(ax: Any, values: FloatArray, total: float, colour: Sequence[str]) -> None:
    """Bars of shares, the amounts written at their ends; no bars where nothing adds up."""
    share = 100 * values / total if total > 0 else np.full(len(values), np.nan)
    ax.barh(np.arange(len(values)), share, color=colour, height=0.75)
    for at, (value, percent) in enumerate(zip(values, share, strict=True)):
        ax.annotate(
            short(float(value)), (max(np.nan_to_num(percent), 0.0), at), (3, 0),
            textcoords="offset points", va="center", fontsize=8,
        )  # fmt: skip
    low = min(np.nan_to_num(share).min(initial=0.0) * 1.1, ax.get_xlim()[0], 0.0)
    ax.set_xlim(low, 125)
    ax.set_xticks(range(0, 101, 25))
    ax.axvline(0, color="black", linewidth=0.6)
    ax.tick_params(axis="x", labelsize=8)
    ax.grid(axis="x", color="0.9", linewidth=0.6)
    ax.set_axisbelow(True)


# -- partition -----------------------------------------------------------------------------------


class Answered(NamedTuple):
    """Queries of one kind that one deployment answers, by entry of the plan."""

    tokens_in: FloatArray
    tokens_out: FloatArray
    deployment: IntArray
    number: FloatArray


def answered(instance: RoutingInstance, solution: Solution) -> Answered:
    """Every entry of the plan with its tokens, those with most queries first."""
    array = solution.array("assigned")
    some = np.flatnonzero(array.values > 0)
    order = some[np.argsort(-array.values[some], kind="stable")]
    query, deployment = array.codes[:, order]
    return Answered(
        instance.tokens_in[query],
        instance.tokens_out[query, deployment],
        deployment,
        array.values[order],
    )


def _draw_partition(figure: Any, instance: RoutingInstance, solution: Solution) -> None:
    """A dot for each entry of the plan, and shares by either number of tokens beside it.

    Where all queries have the same input or output tokens there is no plane, but a line.
    """
    plan = answered(instance, solution)
    groups = _groups(instance, solution)
    axes = {"input": plan.tokens_in, "output": plan.tokens_out}
    vary = [way for way, tokens in axes.items() if np.ptp(tokens) > 0]
    if len(vary) == 2:
        figure.set_size_inches(13, 9.5)
        grid = figure.add_gridspec(2, 2, width_ratios=(4, 1), height_ratios=(1, 4))
        main = figure.add_subplot(grid[1, 0])
        _draw_dots(main, plan, groups)
        top = figure.add_subplot(grid[0, 0], sharex=main)
        side = figure.add_subplot(grid[1, 1], sharey=main)
        _draw_bins(top, plan.tokens_in, plan, groups)
        _draw_bins(side, plan.tokens_out, plan, groups, upright=False)
        top.tick_params(labelbottom=False)
        side.tick_params(labelleft=False)
    else:
        (way,) = vary or ["output"]
        figure.set_size_inches(13, 6.5)
        _draw_counts(figure.subplots(), axes[way], plan, groups)
        figure.axes[0].set_xlabel(f"{way} tokens of a query", fontsize=9)
    _explain_groups(figure, groups, plan)
    figure.suptitle(_headline(instance, solution), fontsize=11)


class Group(NamedTuple):
    """Deployments of one colour."""

    name: str
    colour: str
    members: tuple[int, ...]


def _groups(instance: RoutingInstance, solution: Solution) -> list[Group]:
    """Deployments that answer something, the largest first, those without a colour together."""
    queries = _by_deployment(solution, "queries")
    order = [int(k) for k in np.argsort(-queries, kind="stable") if queries[k] > 0]
    colour = colours(solution)
    own = [k for k in order if colour[k] != GREY]
    rest = tuple(k for k in order if colour[k] == GREY)
    found = [Group(_brief(instance.deployments[k].name), colour[k], (k,)) for k in own]
    return found + ([Group(f"{len(rest)} others", GREY, rest)] if rest else [])


def _draw_dots(ax: Any, plan: Answered, groups: Sequence[Group]) -> None:
    """Areas are as the queries, with a least size; small dots lie over large ones."""
    each = min(np.clip(9000 / len(plan.number), 3, 30), 150 / plan.number.max())
    area = np.maximum(each * plan.number, 3.0)
    colour = np.full(len(plan.number), GREY, dtype=object)
    for group in groups:
        colour[np.isin(plan.deployment, group.members)] = group.colour
    ax.scatter(
        plan.tokens_in, plan.tokens_out, s=area, c=list(colour), alpha=0.75, linewidths=0,
        rasterized=True, gid="queries",
    )  # fmt: skip
    _scale(ax, "x", plan.tokens_in)
    _scale(ax, "y", plan.tokens_out)
    ax.set_xlabel("input tokens of a query", fontsize=9)
    ax.set_ylabel("output tokens of a query", fontsize=9)
    ax.grid(color="0.92", linewidth=0.6)
    ax.set_axisbelow(True)


def _scale(ax: Any, which: str, tokens: FloatArray) -> None:
    """A logarithmic axis with ticks at 1, 2 and 5, linear below 1 where there are zeros."""
    from matplotlib.ticker import FixedLocator, NullFormatter, NullLocator

    low, high = float(tokens.min()), float(tokens.max())
    set_scale = getattr(ax, f"set_{which}scale")
    if low >= 1:
        set_scale("log")
    else:
        set_scale("symlog", linthresh=1.0)
    axis = getattr(ax, f"{which}axis")
    decades = 10.0 ** np.arange(0, 8)
    ticks = np.sort(np.concatenate([[0.0], decades, 2 * decades, 5 * decades]))
    near = (ticks >= low / 2) & (ticks <= 2 * high)
    axis.set_major_locator(FixedLocator(ticks[near].tolist()))
    axis.set_minor_locator(NullLocator())
    axis.set_minor_formatter(NullFormatter())
    axis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    ax.tick_params(axis=which, labelsize=8)
    margin = (max(high, 1.0) / max(low, 1.0)) ** 0.03 * 1.02
    getattr(ax, f"set_{which}lim")(low / margin if low >= 1 else -0.3, high * margin)


def edges(tokens: FloatArray) -> FloatArray:
    """Ends of ranges of tokens, evenly spread over their logarithms; below 1 there is one range."""
    low, high = float(tokens.min()), float(tokens.max())
    if low == high:
        return np.array([low - 0.5, high + 0.5])
    least = max(low, 1.0)
    ends = np.geomspace(least, max(high, 2 * least), BINS + 1)
    ends[-1] *= 1 + 1e-9
    return ends if low >= 1 else np.concatenate([[0.0], ends])


def counts(
    tokens: FloatArray, plan: Answered, groups: Sequence[Group], ends: FloatArray
) -> FloatArray:
    """Queries by (group, range of tokens)."""
    found = [
        np.histogram(tokens[own], ends, weights=plan.number[own])[0]
        for own in (np.isin(plan.deployment, group.members) for group in groups)
    ]
    return np.array(found)


def _draw_bins(
    ax: Any, tokens: FloatArray, plan: Answered, groups: Sequence[Group], upright: bool = True
) -> None:
    """Shares of the groups in every range of tokens; blank where there are no queries."""
    ends = edges(tokens)
    number = counts(tokens, plan, groups, ends)
    total = number.sum(axis=0)
    share = 100 * np.divide(number, total, out=np.zeros(number.shape), where=total > 0)
    _stack(ax, ends, share, groups, upright)
    text = "share of queries, %"
    if upright:
        ax.set_ylabel(text, fontsize=8)
        ax.set_ylim(0, 100)
    else:
        ax.set_xlabel(text, fontsize=8)
        ax.set_xlim(0, 100)
    ax.tick_params(labelsize=8)


def _draw_counts(ax: Any, tokens: FloatArray, plan: Answered, groups: Sequence[Group]) -> None:
    """Queries of the groups in every range of tokens."""
    ends = edges(tokens)
    _stack(ax, ends, counts(tokens, plan, groups, ends), groups, True)
    if np.ptp(tokens) > 0:
        _scale(ax, "x", tokens)
    ax.set_ylabel("queries", fontsize=9)
    ax.yaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    ax.tick_params(labelsize=8)


def _stack(
    ax: Any, ends: FloatArray, values: FloatArray, groups: Sequence[Group], upright: bool
) -> None:
    """Bars over ranges, the groups on each other."""
    start = np.zeros(len(ends) - 1)
    for group, own in zip(groups, values, strict=True):
        bar = {"color": group.colour, "align": "edge", "linewidth": 0}
        if upright:
            ax.bar(ends[:-1], own, np.diff(ends), bottom=start, **bar)
        else:
            ax.barh(ends[:-1], own, np.diff(ends), left=start, **bar)
        start = start + own


def _explain_groups(figure: Any, groups: Sequence[Group], plan: Answered) -> None:
    from matplotlib.lines import Line2D

    total = plan.number.sum()
    handles = []
    for group in groups:
        own = float(plan.number[np.isin(plan.deployment, group.members)].sum())
        text = f"{group.name}: {short(own)} queries ({own / total:.1%})"
        handles.append(
            Line2D([], [], color=group.colour, label=text, marker="o", markersize=7, linestyle="")
        )
    figure.legend(
        handles=handles, loc="outside lower center", ncols=min(len(handles), 3), fontsize=9,
        frameon=False,
    )  # fmt: skip


# -- zeta ----------------------------------------------------------------------------------------


def zeta_of(instance: RoutingInstance) -> float:
    """The zeta of an objective that weighs energy by it and accuracy or run time by the rest.

    ``zeta x energy - (1 - zeta) x accuracy x tokens`` (arXiv 2407.04014, eq. 3.5) or ``zeta x
    energy + (1 - zeta) x run time`` (arXiv 2407.00010), each term normalised or not.

    Raises
    ------
    ModelError
        If the objective is another one.
    """
    return _zeta_terms(instance)[0].weight


def _zeta_terms(instance: RoutingInstance) -> tuple[Term, Term]:
    """The term of energy, and that of what it is traded against."""
    stages = instance.objective
    terms = stages[0].terms if len(stages) == 1 else ()
    energies = [term for term in terms if term.metric == "energy_kwh"]
    others = [term for term in terms if term.metric in AGAINST]
    if len(terms) == 2 and len(energies) == len(others) == 1:
        (energy,), (other,) = energies, others
        rest = (1 - energy.weight) * _sign(other)
        if 0 <= energy.weight <= 1 and abs(other.weight - rest) <= 1e-9:
            return energy, other
    raise ModelError(
        f"{instance.name}: the objective has no zeta; expected one stage of the terms energy_kwh "
        f"x zeta and accuracy_percent_tokens x -(1 - zeta), or runtime_s x (1 - zeta)"
    )


def _sign(term: Term) -> float:
    return -1.0 if term.metric == "accuracy_percent_tokens" else 1.0


def with_zeta(instance: RoutingInstance, zeta: float) -> RoutingInstance:
    """The instance with another zeta in its objective.

    Raises
    ------
    ModelError
        If its objective has no zeta, or this one is not between 0 and 1.
    """
    energy, other = _zeta_terms(instance)
    if not 0 <= zeta <= 1:
        raise ModelError(f"zeta is {zeta!r}; expected a number from 0 to 1")
    weights = {energy.metric: zeta, other.metric: (1 - zeta) * _sign(other)}
    (stage,) = instance.objective
    terms = [{**term.model_dump(), "weight": weights[term.metric]} for term in stage.terms]
    objective = [{"terms": terms, "tolerance": stage.tolerance}]
    return instance.replace(name=f"{instance.name}, zeta {zeta:g}", objective=objective)


def sweep(
    instance: RoutingInstance,
    zetas: Sequence[float] = ZETAS,
    time_limit: float = 60.0,
    gap: float = 1e-6,
) -> list[Solution]:
    """The optimum at every zeta, under the instance's limits.

    Parameters
    ----------
    instance : RoutingInstance
        An instance whose objective has a zeta.
    zetas : sequence of float
        Which, from 0 to 1.
    time_limit : float
        For all of them together, s.
    gap : float
        Relative gap to which each is proved.

    Returns
    -------
    list of Solution
        Proved optimal, in the order of `zetas`.

    Raises
    ------
    ModelError
        If the objective has no zeta, or one asked for is not between 0 and 1.
    NoOptimumError
        If an optimum was not found in time.
    """
    optimum = _Optima(instance, time_limit, gap)
    return [optimum(zeta) for zeta in zetas]


class _Optima:
    """The optimum at any zeta, as long as there is time."""

    def __init__(self, instance: RoutingInstance, time_limit: float, gap: float) -> None:
        self.instance, self.time_limit, self.gap = instance, time_limit, gap
        self.end, self.found = time.monotonic() + time_limit, 0

    def __call__(self, zeta: float) -> Solution:
        from greenopt.solving import solve

        instance, left = with_zeta(self.instance, zeta), self.end - time.monotonic()
        if left <= 0:
            raise self._late(zeta, "looked for")
        plan = solve(instance, time_limit=left, gap=self.gap, explain=False)
        if plan.status != "optimal":
            raise self._late(zeta, f"proved (status {plan.status})")
        self.found += 1
        return plan

    def _late(self, zeta: float, what: str) -> NoOptimumError:
        return NoOptimumError(
            f"{self.instance.name}: no optimum was {what} at zeta {zeta:g} within "
            f"{self.time_limit:g} s, only {self.found} at others (--time-limit gives more time)"
        )


def alone(instance: RoutingInstance) -> dict[str, dict[str, float]]:
    """What each deployment would give if it answered all queries, whatever the limits.

    Returns
    -------
    dict of str to dict
        Energy and the means of the instance by metric, of deployments that may answer every query.
    """
    pairs, count = Pairs(instance), instance.count
    may = np.all(pairs.eligible() | (count == 0)[:, None], axis=0).tolist()
    totals = {"energy_kwh": count @ pairs.metric("energy_kwh")}
    totals["runtime_mean_s"] = count @ pairs.runtime_s / count.sum()
    if instance.has_metric("accuracy_percent"):
        tokens = count @ pairs.tokens
        worth = count @ pairs.metric("accuracy_percent_tokens")
        totals["accuracy_percent"] = np.divide(
            worth, tokens, out=np.full(len(tokens), np.nan), where=tokens > 0
        )
    return {
        d.name: {metric: float(values[k]) for metric, values in totals.items()}
        for k, d in enumerate(instance.deployments)
        if may[k]
    }


class Front(NamedTuple):
    """Optima by rising zeta: energy, what it is traded against, and the largest gap."""

    zeta: FloatArray
    energy_kwh: FloatArray
    other: FloatArray
    gap: float


def _front(instance: RoutingInstance, metric: str, time_limit: float) -> Front:
    """Optima at evenly spread zeta, and between those that are furthest apart."""
    optimum = _Optima(instance, time_limit, DRAWN_GAP)
    found = {zeta: optimum(zeta) for zeta in ZETAS}
    while True:
        zeta = np.array(sorted(found))
        plans = [found[z] for z in zeta]
        energy, other = (
            np.array([plan.metrics[name] for plan in plans], dtype=float)
            for name in ("energy_kwh", metric)
        )
        step = sum(np.abs(np.diff(v)) / (np.ptp(v) or 1.0) for v in (energy, other))
        step = np.where(np.diff(zeta) > LEAST_STEP, step, 0.0)
        at = int(np.argmax(step))
        if step[at] <= FAR or len(found) >= MOST_OPTIMA:
            return Front(zeta, energy, other, max(plan.gap or 0.0 for plan in plans))
        between = float(zeta[at : at + 2].mean())
        found[between] = optimum(between)


def _draw_zeta(
    figure: Any, instance: RoutingInstance, solution: Solution, time_limit: float
) -> None:
    """Energy against what it is traded for, and both over zeta."""
    metric = AGAINST[_zeta_terms(instance)[1].metric]
    front = _front(instance, metric, time_limit)
    figure.set_size_inches(13, 6.5)
    grid = figure.add_gridspec(2, 2, width_ratios=(3, 2))
    _draw_front(figure, figure.add_subplot(grid[:, 0]), instance, solution, metric, front)
    word = TITLES[metric].split(",")[0]
    for row, (name, values) in enumerate((("energy_kwh", front.energy_kwh), (metric, front.other))):
        ax = figure.add_subplot(grid[row, 1])
        ax.plot(front.zeta, values, color=BLUE, linewidth=1.2, marker="o", markersize=3.5)
        ax.axvline(zeta_of(instance), color="black", linewidth=0.8, linestyle=(0, (4, 2)))
        ax.set_ylabel(TITLES[name], fontsize=8)
        ax.tick_params(labelsize=8)
        ax.grid(color="0.92", linewidth=0.6)
        ax.set_xlabel(f"zeta, from {word} alone to energy alone; dashed: this plan's", fontsize=8)
    text = f"\noptima at {len(front.zeta)} zeta under the instance's limits, each proved"
    text += f" within {max(front.gap, 1e-9):.0e}"
    figure.suptitle(_headline(instance, solution) + text, fontsize=11)


def _draw_front(
    figure: Any, ax: Any, instance: RoutingInstance, solution: Solution, metric: str, front: Front
) -> None:
    ax.plot(front.energy_kwh, front.other, color="0.7", linewidth=1.0, zorder=1)
    dots = ax.scatter(
        front.energy_kwh, front.other, c=front.zeta, cmap="viridis", vmin=0, vmax=1, s=32,
        zorder=3, gid="optima", label="optimum at a zeta",
    )  # fmt: skip
    bar = figure.colorbar(dots, ax=ax, location="bottom", shrink=0.6, aspect=40, pad=0.02)
    bar.set_label("zeta", fontsize=8)
    bar.ax.tick_params(labelsize=8)
    this = solution.metrics["energy_kwh"], solution.metrics[metric]
    ax.scatter(*this, marker="*", s=190, color=VERMILION, edgecolors="white", linewidths=0.8,
               zorder=4, label="this plan", gid="this")  # fmt: skip
    _draw_singles(ax, instance, solution, metric, front)
    ax.set_xlabel(TITLES["energy_kwh"], fontsize=9)
    ax.set_ylabel(TITLES[metric], fontsize=9)
    ax.tick_params(labelsize=8)
    ax.grid(color="0.92", linewidth=0.6)
    ax.set_axisbelow(True)
    about = "diamonds: one deployment for all queries, limits aside"
    ax.legend(fontsize=8, loc="best", title=about, title_fontsize=8)


def _draw_singles(
    ax: Any, instance: RoutingInstance, solution: Solution, metric: str, front: Front
) -> None:
    """Each deployment alone: a mark, or words in the legend where it is far off or may not be."""
    found, colour = alone(instance), colours(solution)
    near = [_around(values) for values in (front.energy_kwh, front.other)]
    unit = TITLES[metric].split(", ")[1]
    for k, deployment in enumerate(instance.deployments):
        name = _brief(deployment.name)
        if deployment.name not in found:
            ax.plot([], [], " ", label=f"{name}: may not answer all")
            continue
        at = tuple(found[deployment.name][m] for m in ("energy_kwh", metric))
        far = any(not low <= value <= high for value, (low, high) in zip(at, near, strict=True))
        text = f"{name}: {short(at[0])} kWh, {short(at[1])} {unit}" + (", off the plot" * far)
        ax.scatter(
            *(([], []) if far else at), marker="D", s=46, zorder=2, linewidths=1.6,
            facecolors="none", edgecolors=colour[k], label=text,
        )  # fmt: skip


def _around(values: FloatArray) -> tuple[float, float]:
    room = BEYOND * (float(np.ptp(values)) or abs(float(values[0])))
    return float(values.min()) - room, float(values.max()) + room


# -- utilisation ---------------------------------------------------------------------------------


class Side(NamedTuple):
    """One side of a limit, or the accuracy floor.

    Attributes
    ----------
    name : str
        What it says.
    value, side : float
        What the plan has, and what is allowed.
    upper : bool
        Whether the side is the largest value allowed.
    price : float or None
        What one more unit of the side changes the objective by; None if there are no prices.
    unit : str
        One unit.
    """

    name: str
    value: float
    side: float
    upper: bool
    price: float | None
    unit: str

    @property
    def used(self) -> float:
        """Share of the side that is used, 1 where it binds; NaN where no share has a meaning."""
        above, below = (self.value, self.side) if self.upper else (self.side, self.value)
        return above / below if below > 0 and above >= 0 else float("nan")

    @property
    def gain(self) -> float | None:
        """What the objective falls by if the side gives way by a hundredth, by its price."""
        if self.price is None:
            return None
        return (-self.price if self.upper else self.price) * abs(self.side) / 100


def sides(instance: RoutingInstance, solution: Solution) -> list[Side]:
    """Every side of the limits, and the accuracy floor, with use and price.

    Prices are the multipliers of the last stage, those of the linear relaxation where the plan was
    found by search.
    """
    given = solution.marginals.get("limit")
    prices = None if given is None else given.dense()
    found = []
    for at, limit in enumerate(instance.limits):
        chosen = [limit.deployments is None or d.name in limit.deployments
                  for d in instance.deployments]  # fmt: skip
        value = float(_by_deployment(solution, limit.metric)[chosen].sum())
        unit = METRICS[limit.metric].unit
        for words, side, better in (("at least", limit.lower, max), ("at most", limit.upper, min)):
            if side is not None:
                price = None if prices is None else float(better(prices[at], 0.0))
                name = f"{limit.name}\n{words} {short(side)} {unit}"
                one = ONE.get(unit, unit)
                found.append(Side(name, value, side, better is min, price, one))
    if instance.accuracy_floor_percent is not None:
        found.append(_floor(instance.accuracy_floor_percent, solution))
    return found


def _floor(percent: float, solution: Solution) -> Side:
    """The accuracy floor as a side: its row is a sum over tokens, its price that of a per cent."""
    accuracy, tokens = (float(solution.metrics[m] or 0.0) for m in ("accuracy_percent", "tokens"))
    given = solution.marginals.get("accuracy_floor")
    price = None if given is None else max(float(given.dense()), 0.0) * tokens
    return Side(f"accuracy\nat least {percent:g} %", accuracy, percent, False, price, "%")


def _draw_utilisation(figure: Any, instance: RoutingInstance, solution: Solution) -> None:
    """A bar a side: how much of it is used, and what a hundredth more of it would gain."""
    found = sides(instance, solution)
    if not found:
        raise ModelError(
            f"{instance.name}: there are no limits and no accuracy floor, so nothing to use"
        )
    gains = [side.gain for side in found]
    priced = not any(gain is None for gain in gains)
    figure.set_size_inches(13, 2.2 + 0.42 * len(found))
    axes = figure.subplots(1, 1 + priced, sharey=True, squeeze=False)[0]
    used = np.array([side.used for side in found])
    _bars(axes[0], 100 * used, [_use(side) for side in found],
          [VERMILION if side.price else BLUE for side in found])  # fmt: skip
    axes[0].axvline(100, color="black", linewidth=0.8, linestyle=(0, (4, 2)))
    title = "Use of each limit" + (" (red: it has a price)" if priced else "")
    axes[0].set_title(title, fontsize=10)
    axes[0].set_xlabel("plan over largest value, or least value over plan, %", fontsize=8)
    axes[0].set_yticks(range(len(found)), [side.name for side in found], fontsize=8)
    axes[0].set_xlim(0, 160)
    axes[0].set_xticks(range(0, 101, 20))
    axes[0].invert_yaxis()
    if priced:
        values = np.array(gains, dtype=float)
        _bars(axes[1], values, [_price(side) for side in found], [GREEN] * len(found))
        axes[1].set_title("What a limit that gives way by 1 % would gain", fontsize=10)
        axes[1].set_xlabel("fall of the objective, by the limit's price", fontsize=8)
        axes[1].set_xlim(0, 1.7 * (values.max(initial=0.0) or 1.0))
        axes[1].xaxis.set_major_formatter(lambda value, _: f"{value:.3g}")
    figure.suptitle(_headline(instance, solution) + _about_prices(solution, priced), fontsize=11)


def _about_prices(solution: Solution, priced: bool) -> str:
    """Where the prices come from."""
    if not priced:
        return "\nno prices: the solution has no multipliers of the limits"
    relaxed = solution.stages[-1].bound_source in ("tree", "lp")
    return "\nprices are those of the linear relaxation" if relaxed else ""


def _use(side: Side) -> str:
    share = "" if np.isnan(side.used) else f" ({side.used:.1%})"
    return f"{short(side.value)}{share}"


def _price(side: Side) -> str:
    return f"{side.price:+.3g} per {side.unit}" if side.price else "0"


def _bars(ax: Any, values: FloatArray, texts: Sequence[str], colour: Sequence[str]) -> None:
    """Horizontal bars with a text at each end."""
    ax.barh(np.arange(len(values)), values, color=colour, height=0.6)
    for at, (value, text) in enumerate(zip(values, texts, strict=True)):
        ax.annotate(
            text, (np.nan_to_num(value), at), (4, 0), textcoords="offset points", va="center",
            fontsize=8,
        )  # fmt: skip
    ax.tick_params(axis="x", labelsize=8)
    ax.grid(axis="x", color="0.9", linewidth=0.6)
    ax.set_axisbelow(True)
