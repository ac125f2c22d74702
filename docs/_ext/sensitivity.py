"""The page on sensitivity: recorded runs under changed assumptions, tabulated and drawn."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from aggregating import Run, Spread, percent, read, spread
from compared import REFERENCE, bullets, listed, proofs, recorded, share
from example import SHOWN, number
from matplotlib.figure import Figure
from tables import table, write

PER_REQUESTS = 1e6
"""Amounts are shown per so many requests."""

OF_THE_OPTIMUM = {
    "carbon_kg": "carbon per request",
    "water_l": "water per request",
    "cost_usd": "cost per request",
    "ttft_mean_s": "mean TTFT",
}
"""What is compared from one demand to another."""

NO_REGRET = 0.5
"""Regret below this is called none, %."""


def write_all(root: Path, out: Path) -> None:
    """Write every table and figure."""
    tested = Tested(*read(root / "benchmarks" / "results" / "placement_sensitivity.json"))
    write(out / "sensitivity_found.md", moves(tested))
    write(out / "sensitivity_plan.md", plan_table(tested))
    write(out / "sensitivity_optimum.md", optimum_table(tested))
    write(out / "sensitivity_regret.md", regret_table(tested))
    write(out / "sensitivity_marginal.md", marginal_sentence(tested.record["marginal"]))
    write(out / "sensitivity_recorded.md", recorded(tested.record, proofs(tested.runs)))
    tornado(tested, out / "sensitivity.png")


class Tested:
    """Recorded sensitivities by changed assumption."""

    def __init__(self, record: dict[str, Any], runs: list[Run]) -> None:
        self.record, self.runs = record, runs
        self.base = {run["date"]: run for run in runs if run["assumption"] == "base"}
        changed = [run for run in runs if run["assumption"] != "base"]
        self.cases = [*dict.fromkeys((run["assumption"], run["changed"]) for run in changed)]
        self._runs = changed
        self.control = next(case for case in self.cases if case[0].startswith("none"))

    def of(self, case: tuple[str, str], scales: str = "own") -> list[Run]:
        """Runs of one changed assumption, a day each."""
        return [
            run
            for run in self._runs
            if (run["assumption"], run["changed"]) == case and run["scales"] == scales
        ]

    def change(self, case: tuple[str, str], metric: str) -> Spread:
        """Change of the optimum's metric per request, %."""
        return spread(
            percent(per_request(run, metric), per_request(self.base[run["date"]], metric))
            for run in self.of(case)
        )

    def moved(self, case: tuple[str, str]) -> Spread:
        """Requests placed at another site, %."""
        return spread(100 * run["moved"] for run in self.of(case))

    def regret(self, case: tuple[str, str], scales: str = "own") -> Spread | None:
        """Objective of the base's plan over the optimum, %; None where it is not feasible."""
        runs = [run for run in self.of(case, scales) if run["kept_feasible"]]
        if len(runs) < len(self.base):
            return None
        return spread(max(percent(run["kept_objective"], run["objective"]), 0.0) for run in runs)

    def saving(self, runs: Iterable[Run]) -> Spread:
        """What the optimum's objective is below that of the reference rule, %."""
        return spread(-percent(run["objective"], run["nearest_objective"]) for run in runs)

    @property
    def by_moved(self) -> list[tuple[str, str]]:
        """Changed assumptions, those that move most first."""
        return sorted(self.cases, key=lambda case: -self.moved(case).mean)


def per_request(run: Run, metric: str, prefix: str = "") -> float:
    """A metric of a run per million requests; a mean stays one."""
    value: float = run[f"{prefix}{metric}"]
    return value if metric == "ttft_mean_s" else value / run["requests"] * PER_REQUESTS


def what(case: tuple[str, str]) -> str:
    """A changed assumption in a sentence."""
    return f"{case[0]} ({case[1]})"


def plain(part: Spread | None, digits: int = 1) -> str:
    """Percentages without signs over days."""
    if part is None:
        return "not feasible"
    return f"{part.mean:.{digits}f}% ({part.low:.{digits}f} to {part.high:.{digits}f})"


def moves(tested: Tested) -> str:
    """What the tables say, in sentences."""
    noise = tested.moved(tested.control).high
    real = [case for case in tested.by_moved if case != tested.control]
    regret = {case: tested.regret(case) for case in real}
    kept = {case: found for case, found in regret.items() if found is not None}
    order = sorted(kept, key=lambda case: -kept[case].mean)
    small = [case for case in order if kept[case].high < NO_REGRET]
    lost = [case for case in real if regret[case] is None]
    savings = {case: tested.saving(tested.of(case)) for case in real}
    low, high = (pick(real, key=lambda c: savings[c].mean) for pick in (min, max))
    base = tested.saving(tested.base.values())
    sentences = [
        "What moves most requests to another site: "
        + listed(f"{what(case)} {tested.moved(case).mean:.0f}%" for case in real[:4])
        + f". Two solvers' plans for the same day differ by up to {noise:.2g}%, so less than that "
        "is no difference.",
        "Where the base's plan can be kept, its regret is largest: "
        + listed(f"{what(case)} {kept[case].mean:.1f}%" for case in order[:3])
        + ".",
        f"Regret stays below {NO_REGRET:g}% on every day for " + listed(map(what, small)) + ".",
        "The base's plan cannot be kept, on some day at least, under "
        + listed(map(what, lost))
        + ": it needs GPUs that are not there.",
        f"The optimum's objective is {plain(base)} below that of `{REFERENCE}` in the base; "
        f"changed assumptions leave a mean between {savings[low].mean:.1f}% ({what(low)}) and "
        f"{savings[high].mean:.1f}% ({what(high)}).",
    ]
    for metric, name in OF_THE_OPTIMUM.items():
        changes = {case: tested.change(case, metric).mean for case in real}
        most = max(changes, key=lambda case: abs(changes[case]))
        sentences.append(
            f"The optimum's {name} changes most with {what(most)}: {changes[most]:+.1f}%."
        )
    return bullets(sentences)


def plan_table(tested: Tested) -> str:
    """What each changed assumption does to the plan."""
    rows = []
    for case in tested.by_moved:
        first = tested.of(case)[0]
        rows.append(
            [
                case[0],
                first["base"],
                case[1],
                plain(tested.moved(case)),
                plain(tested.regret(case), 2),
                plain(tested.regret(case, "held"), 2),
                plain(tested.saving(tested.of(case))),
            ]
        )
    base = ["base", "", "", "", "", "", plain(tested.saving(tested.base.values()))]
    head = ("assumption", "base", "changed to", "requests at another site", "regret",
            "regret, worths held", f"saving against `{REFERENCE}`")  # fmt: skip
    return table(head, [base, *rows], right_from=3)


def optimum_table(tested: Tested) -> str:
    """What each changed assumption does to the optimum's metrics."""
    rows = []
    for case in tested.by_moved:
        cells = []
        for metric in SHOWN:
            shown = number(spread(per_request(run, metric) for run in tested.of(case)).mean)
            cells.append(f"{shown}<br>{share(tested.change(case, metric))}")
        rows.append([what(case), *cells])
    base = [
        number(spread(per_request(run, metric) for run in tested.base.values()).mean)
        for metric in SHOWN
    ]
    return table(("assumption", *_units()), [["base", *base], *rows], right_from=1)


def regret_table(tested: Tested) -> str:
    """What the base's plan has more of than the optimum, in units."""
    rows = []
    for case in tested.by_moved:
        if tested.regret(case) is None:
            continue
        cells = []
        for metric in SHOWN:
            runs = tested.of(case)
            own, kept = ([per_request(r, metric, prefix) for r in runs] for prefix in ("", "kept_"))
            more = spread(k - o for k, o in zip(kept, own, strict=True)).mean
            change = spread(percent(k, o) for k, o in zip(kept, own, strict=True))
            cells.append(f"{more:+.3g}<br>{share(change)}")
        rows.append([what(case), *cells])
    return table(("assumption", *_units()), rows, right_from=1)


def _units() -> list[str]:
    return [
        name if metric == "ttft_mean_s" else f"{name} per million requests"
        for metric, name in SHOWN.items()
    ]


def marginal_sentence(figures: Mapping[str, float]) -> str:
    """Say what the surrogates of a marginal signal assume."""
    gas, coal, above = (figures[f"{name}_g_per_kwh"] for name in ("gas", "coal", "coal_above"))
    return (
        f"*Gas* has {gas:g} g CO2e/kWh at every site and hour. *Coal or gas* has {coal:g} g where "
        f"the day's mean of the average signal is above {above:g} g/kWh, and {gas:g} g elsewhere.\n"
    )


def tornado(tested: Tested, path: Path) -> None:
    """Draw changes of metrics, moved requests and regret of every changed assumption."""
    cases = tested.by_moved
    panels: dict[str, Callable[[tuple[str, str]], Spread | None]] = {
        "requests at another site, %": tested.moved,
        "regret of the base's plan, %": tested.regret,
        **{
            f"optimum's {name}, change in %": (
                lambda case, metric=metric: tested.change(case, metric)
            )
            for metric, name in OF_THE_OPTIMUM.items()
        },
    }
    drawn = Figure(figsize=(13, 10), layout="constrained")
    grid = drawn.subplots(2, 3, sharey=True)
    at = np.arange(len(cases))
    for ax, (name, value) in zip(grid.flat, panels.items(), strict=True):
        for i, case in enumerate(cases):
            part = value(case)
            if part is None:
                ax.text(0, i, " not feasible", va="center", fontsize=7, color="0.4")
                continue
            ax.barh(i, part.mean, color="tab:blue" if part.mean >= 0 else "tab:orange", height=0.6)
            ax.plot([part.low, part.high], [i, i], color="black", linewidth=1)
        ax.axvline(0.0, color="black", linewidth=0.6)
        ax.set_title(name, fontsize=9)
        ax.tick_params(labelsize=7)
        ax.margins(y=0.01)
    for row in grid:
        row[0].set_yticks(at, [f"{name}: {changed}" for name, changed in cases])
    grid[0][0].invert_yaxis()
    drawn.savefig(path, dpi=110, metadata={"Software": None})
