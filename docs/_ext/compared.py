"""The page on rules against the optimum: recorded days, aggregated, tabulated and drawn."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from aggregating import Run, Spread, percent, read, saved_by, spread
from example import SHOWN, number
from matplotlib import colormaps
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from tables import table, write

from greenopt.problems.placement.methods import RULES

MAIN = 0.5, "waterwise"
"""Utilisation and EWIF set of the first table and figure."""

REFERENCE, NAIVE = "nearest", "naive plan"
FACTORS = {"waterwise": "WaterWise factors", "ren": "Ren factors"}
FOUR = {"carbon_kg": "kg CO2e", "water_l": "L", "cost_usd": "USD", "ttft_mean_s": "s"}
OBJECTIVE = {"balanced": "objective, balanced"}
PARTS = ("placement", "sizing", "mode")


def write_all(root: Path, out: Path) -> None:
    """Write every table and figure."""
    days = Days(*read(root / "benchmarks" / "results" / "placement_days.json"))
    write(out / "results_found.md", found(days))
    write(out / "results_scope.md", scope(days))
    write(out / "results_setting.md", f"Utilisation {MAIN[0]}, {FACTORS[MAIN[1]]}.\n")
    write(out / "results_rules.md", rules())
    write(out / "results_main.md", methods_table(days, *MAIN))
    write(out / "results_others.md", other_tables(days))
    write(out / "results_split.md", split_table(days))
    write(out / "results_quarters.md", quarters(days))
    write(out / "results_gaps.md", gaps(days))
    write(out / "results_assumptions.md", bullets(days.record["assumptions"]))
    write(out / "results_attribution.md", bullets(days.record["attribution"]))
    write(out / "results_recorded.md", recorded(days.record, proofs(days.runs)))
    savings_figure(days, out / "results_savings.png")
    split_figure(days, out / "results_split.png")


def recorded(record: Mapping[str, Any], proved: str) -> str:
    """Say when and how runs were recorded, and what was proved of them."""
    machine = "; ".join(f"{key}: {value}" for key, value in record["machine"].items())
    command = f"Recorded {record['date']} by `{record['command']}` on: {machine}."
    return f"{proved} {command}\n"


def proofs(runs: Sequence[Run]) -> str:
    """Count what was checked and proved."""
    checked = sum(run["checked"] for run in runs)
    proved = sum(bool(run["optimal_proved"]) for run in runs)
    asked = sum(run["status"] == "optimal" for run in runs)
    return (
        f"{checked:,} of {len(runs):,} plans passed `go.check`; {proved:,} of {asked:,} that were "
        "called optimal were proved so by `go.certify`, without a solver."
    )


def share(part: Spread, digits: int = 1) -> str:
    """Percentages over days."""
    mean, low, high = (f"{round(value, digits) + 0.0:+.{digits}f}" for value in part)  # no -0.0
    return f"{mean}% ({low} to {high})"


def amount(part: Spread) -> str:
    """An amount over days."""
    return f"{number(part.mean)} ({number(part.low)} to {number(part.high)})"


def listed(words: Iterable[str]) -> str:
    """Words as a list in a sentence."""
    *first, last = words
    return f"{', '.join(first)} and {last}" if first else last


def bullets(lines: Iterable[str]) -> str:
    """Format lines as a list."""
    return "".join(f"- {line}\n" for line in lines)


# Rules against the optimum


class Days:
    """Recorded days by utilisation and EWIF set."""

    def __init__(self, record: dict[str, Any], runs: list[Run]) -> None:
        self.record, self.runs = record, runs
        self.parts: dict[str, str] = record["parts"]
        self.cells: dict[tuple[Any, ...], dict[str, Run]] = {}
        for run in runs:
            key = tuple(run[name] for name in ("utilisation", "ewif", "step_min", "date"))
            self.cells.setdefault(key, {})[run["method"]] = run
        hourly = [key for key in self.cells if key[2] == 60]
        self.settings = sorted({key[:2] for key in hourly}, key=lambda key: (key[1] == "ren", key))
        self.methods = [*record["rules"], *record["optima"]]

    def days(self, utilisation: float, ewif: str) -> list[dict[str, Run]]:
        """Runs by method of every day in hours."""
        return [runs for key, runs in self.cells.items() if key[:3] == (utilisation, ewif, 60)]

    def value(self, method: str, quantity: str, *setting: Any) -> Spread:
        """A quantity over days."""
        return spread(day[method][quantity] for day in self.days(*setting))

    def change(self, method: str, quantity: str, *setting: Any) -> Spread:
        """Change of a quantity against the reference rule over days, %."""
        return spread(
            percent(day[method][quantity], day[REFERENCE][quantity]) for day in self.days(*setting)
        )

    def parts_of_saving(self, quantity: str, *setting: Any) -> tuple[list[dict[str, float]], Any]:
        """Parts of the saving of every day, and the naive plan's values."""
        days = self.days(*setting)
        naive = [day[", ".join(self.parts)][quantity] for day in days]
        return [saved_by(day, self.parts, quantity) for day in days], naive


def title(method: str, days: Days) -> str:
    """Name of a method in tables."""
    return f"optimum, {method}" if method in days.record["optima"] else f"`{method}`"


def scope(days: Days) -> str:
    """Say what days there are, and how one metric leads a weighting."""
    dates = sorted({run["date"] for run in days.runs})
    utilisations = listed(f"{u:g}" for u in sorted({u for u, _ in days.settings}))
    most = days.record["mostly"]
    others = (1 - most) / (len(days.record["metrics"]) - 1)
    return (
        f"{len(dates)} days ({listed(dates)}), each at utilisations {utilisations} of the busiest "
        "hour and with two sets of water factors of electricity (EWIF), which disagree on hydro "
        f"power: {len(dates) * len(days.settings)} instances in periods of an hour. In a weighting "
        f"that leans on one metric, it weighs {most:g} and the others {others:.2g} each.\n"
    )


def rules() -> str:
    """What each rule does."""
    return table(("rule", "sends"), [(f"`{name}`", what) for name, what in RULES.items()])


def methods_table(days: Days, *setting: Any) -> str:
    """Amounts of every method, and changes against the reference."""
    rows = []
    for method in days.methods:
        cells = []
        for quantity in (*SHOWN, *OBJECTIVE):
            shown = amount(days.value(method, quantity, *setting))
            against = share(days.change(method, quantity, *setting))
            cells.append(shown if method == REFERENCE else f"{shown}<br>{against}")
        rows.append([title(method, days), *cells])
    return table(("method", *SHOWN.values(), *OBJECTIVE.values()), rows, right_from=1)


def other_tables(days: Days) -> str:
    """The same for every other utilisation and EWIF set."""
    return "\n".join(
        f"### Utilisation {setting[0]}, {FACTORS[setting[1]]}\n\n{methods_table(days, *setting)}"
        for setting in days.settings
        if setting != MAIN
    )


def split_table(days: Days) -> str:
    """Parts of the saving of the balanced optimum against the naive plan."""
    rows = []
    for setting in days.settings:
        for quantity, name in {**SHOWN, **OBJECTIVE}.items():
            found, naive = days.parts_of_saving(quantity, *setting)
            saved = [sum(parts.values()) for parts in found]
            columns = [[parts[part] for parts in found] for part in PARTS]
            cells = [
                f"{number(spread(column).mean)}<br>{share(_of(column, naive))}"
                for column in (*columns, saved)
            ]
            utilisation, ewif = setting
            rows.append([str(utilisation), FACTORS[ewif], name, number(spread(naive).mean), *cells])
    head = ("utilisation", "EWIF", "metric", NAIVE, *PARTS, "whole saving")
    return table(head, rows, right_from=3)


def _of(parts: Sequence[float], wholes: Sequence[float]) -> Spread:
    return spread(100 * part / whole for part, whole in zip(parts, wholes, strict=True))


def quarters(days: Days) -> str:
    """Changes against the reference in quarters of an hour and in hours."""
    (fine,) = (key for key in days.cells if key[2] != 60)
    utilisation, ewif, step_min, date = fine
    both = days.cells[fine], days.cells[utilisation, ewif, 60, date]
    rows, worst = [], 0.0
    for method in days.methods:
        if method == REFERENCE:
            continue
        cells = []
        for quantity in SHOWN:
            short, long = (percent(d[method][quantity], d[REFERENCE][quantity]) for d in both)
            worst = max(worst, abs(short - long))
            cells.append(f"{short:+.2f}% and {long:+.2f}%")
        rows.append([title(method, days), *cells])
    said = (
        f"{date}, utilisation {utilisation}, {FACTORS[ewif]}: changes against `{REFERENCE}` in "
        f"periods of {step_min} min and of 60 min. They differ by {worst:.2f} points at most.\n\n"
    )
    return said + table(("method", *SHOWN.values()), rows, right_from=1)


def gaps(days: Days) -> str:
    """Gap of every rule by utilisation and EWIF set."""
    rows = []
    for method in days.record["rules"]:
        cells = []
        for setting in days.settings:
            gap = spread(100 * day[method]["gap"] for day in days.days(*setting))
            cells.append(f"{gap.mean:.1f}% ({gap.low:.1f} to {gap.high:.1f})")
        rows.append([f"`{method}`", *cells])
    head = [f"{utilisation}, {FACTORS[ewif]}" for utilisation, ewif in days.settings]
    return table(("rule", *head), rows, right_from=1)


def found(days: Days) -> str:
    """What the tables say, in sentences."""
    sentences = (
        _balanced(days),
        _closest(days),
        *(_single(rule, metric, days) for rule, metric in _SINGLE.items()),
        _fastest(days),
        _parts(days),
        _full_load(days),
    )
    return bullets(sentences)


_SINGLE = {"cheapest": "cost_usd", "greenest": "carbon_kg", "least-water": "water_l"}
"""Rules that look at one metric."""


def _signed(change: float, quantity: str = "") -> str:
    """A change in words."""
    words = ("shorter", "longer") if quantity == "ttft_mean_s" else ("less", "more")
    return f"{abs(change):.1f}% {words[change > 0]}"


def _balanced(days: Days) -> str:
    changes = []
    for metric, short in days.record["metrics"].items():
        value = days.value("balanced", metric, *MAIN)
        changes.append(
            f"{_signed(days.change('balanced', metric, *MAIN).mean, metric)} {short} "
            f"({number(value.mean)} {FOUR[metric]}, {number(value.low)} to {number(value.high)})"
        )
    utilisation, ewif = MAIN
    return (
        f"At utilisation {utilisation} with {FACTORS[ewif]}, mean of {len(days.days(*MAIN))} days, "
        f"the balanced optimum has {listed(changes)} than `{REFERENCE}`."
    )


def _closest(days: Days) -> str:
    gap = {
        rule: [100 * day[rule]["gap"] for setting in days.settings for day in days.days(*setting)]
        for rule in days.record["rules"]
    }
    order = sorted(gap, key=lambda rule: spread(gap[rule]).mean)
    first, second = (spread(gap[rule]) for rule in order[:2])
    least = min(spread(found).low for found in gap.values())
    return (
        "Over all days, utilisations and EWIF sets, the rule closest to the balanced optimum is "
        f"`{order[0]}`, with a gap of {first.mean:.1f}% ({first.low:.1f} to {first.high:.1f}), "
        f"then `{order[1]}` with {second.mean:.1f}% ({second.low:.1f} to {second.high:.1f}). No "
        f"rule came nearer than {least:.2g}% on any day."
    )


def _single(rule: str, metric: str, days: Days) -> str:
    short = days.record["metrics"][metric]
    reached = days.change(rule, metric, *MAIN).mean
    possible = days.change(f"{short} first", metric, *MAIN).mean
    rest = listed(
        f"{_signed(days.change(rule, other, *MAIN).mean, other)} {name}"
        for other, name in days.record["metrics"].items()
        if other != metric
    )
    return (
        f"`{rule}` has {_signed(reached)} {short} than `{REFERENCE}`, where {_signed(possible)} is "
        f"possible, and {rest}."
    )


def _fastest(days: Days) -> str:
    metric = "ttft_mean_s"
    first = days.change("TTFT first", metric, *MAIN).mean
    nearest = days.value(REFERENCE, metric, *MAIN).mean
    carbon = days.change("TTFT first", "carbon_kg", *MAIN).mean
    return (
        f"The least mean TTFT is {_signed(first, metric)} than that of `{REFERENCE}` "
        f"({1000 * nearest:.0f} ms), with {_signed(carbon)} carbon."
    )


def _parts(days: Days) -> str:
    parts, naive = days.parts_of_saving("balanced", *MAIN)
    words = [f"{_of([p[part] for p in parts], naive).mean:.1f} by {part}" for part in PARTS]
    whole = _of([sum(p.values()) for p in parts], naive)
    return (
        f"Against the naive plan, the balanced objective falls by {whole.mean:.1f}% "
        f"({whole.low:.1f} to {whole.high:.1f}), of which {listed(words)}."
    )


def _full_load(days: Days) -> str:
    worse = max(
        percent(day["full-load"]["balanced"], day["balanced"]["balanced"])
        for setting in days.settings
        for day in days.days(*setting)
    )
    return (
        "Running instances at their highest level only raises the balanced objective by "
        f"{max(worse, 0.0):.3f}% at most on any day: what sizing saves is in how many run, not in "
        "their load levels."
    )


def savings_figure(days: Days, path: Path) -> None:
    """Draw every method by metric: mean, days, change against the reference."""
    drawn = Figure(figsize=(13, 6), layout="constrained")
    panels = drawn.subplots(1, len(SHOWN), sharey=True)
    colours = ["0.6" if m in days.record["rules"] else "tab:green" for m in days.methods]
    at = np.arange(len(days.methods))
    for ax, (quantity, name) in zip(panels, SHOWN.items(), strict=True):
        means = [days.value(method, quantity, *MAIN).mean for method in days.methods]
        ax.barh(at, means, color=colours, height=0.7)
        for i, method in enumerate(days.methods):
            points = [day[method][quantity] for day in days.days(*MAIN)]
            ax.plot(points, [i] * len(points), ".", color="black", markersize=3, alpha=0.6)
            change = days.change(method, quantity, *MAIN).mean
            text = "" if method == REFERENCE else f" {change:+.0f}%"
            ax.text(max(points), i, text, va="center", fontsize=7)
        ax.axvline(means[days.methods.index(REFERENCE)], color="0.3", linewidth=0.8, linestyle=":")
        ax.set_title(f"{name}, a day" if quantity != "ttft_mean_s" else name, fontsize=9)
        ax.tick_params(labelsize=7)
        ax.margins(x=0.2, y=0.01)
        ax.locator_params(axis="x", nbins=5)
    panels[0].set_yticks(at, [title(method, days).strip("`") for method in days.methods])
    panels[0].invert_yaxis()
    drawn.savefig(path, dpi=110, metadata={"Software": None})


def split_figure(days: Days, path: Path) -> None:
    """Draw the parts of the saving by metric, utilisation and EWIF set."""
    ewifs = [*dict.fromkeys(ewif for _, ewif in days.settings)]
    drawn = Figure(figsize=(13, 6), layout="constrained")
    grid = drawn.subplots(len(ewifs), len(SHOWN), squeeze=False)
    colours = dict(zip(PARTS, colormaps["Set2"].colors, strict=False))
    for row, ewif in zip(grid, ewifs, strict=True):
        settings = [setting for setting in days.settings if setting[1] == ewif]
        for ax, (quantity, name) in zip(row, SHOWN.items(), strict=True):
            for i, setting in enumerate(settings):
                _stack(ax, i, *days.parts_of_saving(quantity, *setting), colours)
            ax.axhline(0.0, color="black", linewidth=0.6)
            ax.set_xticks(range(len(settings)), [f"{u:g}" for u, _ in settings], fontsize=8)
            ax.set_xlabel(f"utilisation, {FACTORS[ewif]}", fontsize=8)
            ax.set_title(f"saved: {name}", fontsize=9)
            ax.tick_params(labelsize=7)
            ax.margins(y=0.12)
    handles = [Patch(color=colour, label=part) for part, colour in colours.items()]
    drawn.legend(handles=handles, loc="outside upper center", ncols=3, fontsize=8)
    drawn.savefig(path, dpi=110, metadata={"Software": None})


def _stack(
    ax: Any, at: int, found: list[dict[str, float]], naive: list[float], colours: dict[str, Any]
) -> None:
    """Draw one bar of parts, means over days, and the days' whole savings."""
    above = below = 0.0
    for part, colour in colours.items():
        mean = spread(parts[part] for parts in found).mean
        ax.bar(at, mean, bottom=above if mean > 0 else below, color=colour, width=0.6)
        above, below = above + max(mean, 0.0), below + min(mean, 0.0)
    saved = [sum(parts.values()) for parts in found]
    ax.plot([at] * len(saved), saved, ".", color="black", markersize=3, alpha=0.6)
    ax.text(
        at, max(above, *saved), f"{_of(saved, naive).mean:.0f}%", ha="center", va="bottom",
        fontsize=7,
    )  # fmt: skip
