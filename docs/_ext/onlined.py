"""The page on routing on-line: recorded runs, aggregated, tabulated and drawn."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from aggregating import Run, Spread, read, spread
from compared import bullets, recorded
from example import number
from matplotlib.figure import Figure
from tables import table, write

from greenopt.problems.routing import online

RULES = {
    "cheapest": online.Cheapest,
    "cheapest-short-queue": online.CheapestShortQueue,
    "dual-price": online.DualPrice,
    "round-robin": online.RoundRobin,
    "random": online.Random,
}
COLOURS = {
    "cheapest": ("#0072B2", "o", "-"),
    "cheapest-short-queue": ("#56B4E9", "s", "--"),
    "dual-price": ("#D55E00", "o", "-"),
    "dual-price-history": ("#E69F00", "s", "--"),
    "round-robin": ("0.45", "^", "-"),
    "random": ("0.65", "v", "--"),
}
BEST = "dual-price"


def write_all(root: Path, out: Path) -> None:
    """Write every table and figure."""
    tried = Tried(*read(root / "benchmarks" / "results" / "routing_online.json"))
    write(out / "online_policies.md", policies())
    write(out / "online_found.md", found(tried))
    for number_, name in enumerate(tried.instances):
        write(out / f"online_gaps_{number_}.md", gaps_table(tried, name))
    write(out / "online_published.md", published_table(tried.record))
    write(out / "online_ours.md", ours_table(tried))
    write(out / "online_queues.md", queues_table(tried))
    write(out / "online_waits.md", waits_table(tried))
    write(out / "online_recorded.md", recorded(tried.record, proofs(tried.runs)))
    gaps_figure(tried, out / "online_gaps.png")


class Tried:
    """Recorded runs by study."""

    def __init__(self, record: dict[str, Any], runs: list[Run]) -> None:
        self.record, self.runs = record, runs
        errors = self.study("errors")
        self.instances = [*dict.fromkeys(run["instance"] for run in errors)]
        self.errors = sorted({run["prediction_error"] for run in errors})
        self.policies: list[str] = record["policies"]

    def study(self, name: str) -> list[Run]:
        """Runs of one study."""
        return [run for run in self.runs if run["study"] == name]

    def at(self, instance: str, policy: str, error: float) -> list[Run]:
        """Runs of one policy at one prediction error, one a seed."""
        wanted = (instance, policy, error)
        return [
            run
            for run in self.study("errors")
            if (run["instance"], run["policy"], run["prediction_error"]) == wanted
        ]

    def gap(self, instance: str, policy: str, error: float) -> Spread:
        """Gap over seeds, %."""
        return spread(100 * run["gap"] for run in self.at(instance, policy, error))


def proofs(runs: Iterable[Run]) -> str:
    """Count what was checked and proved."""
    every = [*runs]
    clean = sum(run["checked"] for run in every)
    proved = sum(run["bound_proved"] for run in every)
    return (
        f"{clean:,} of {len(every):,} runs' plans passed `go.check`; the others violate limits and "
        f"are counted as such. The offline bound was proved by `go.certify` for {proved:,}."
    )


def policies() -> str:
    """Names and first lines."""
    rows = [(f"`{n}`", (c.__doc__ or "").strip().split("\n")[0]) for n, c in RULES.items()]
    at = 1 + [name for name in RULES].index("dual-price")
    history = "the same with prices of another day, which stay as they are"
    rows.insert(at, ("`dual-price-history`", history))
    return table(("policy", "sends a query"), rows)


def gap_text(part: Spread) -> str:
    """A gap with its least and largest."""
    return f"{part.mean:.2g}% ({part.low:.2g} to {part.high:.2g})"


def gaps_table(tried: Tried, instance: str) -> str:
    """Gaps by policy and prediction error."""
    rows = []
    for policy in tried.policies:
        cells = []
        for error in tried.errors:
            runs = tried.at(instance, policy, error)
            broken = sum(run["violations"] > 0 for run in runs)
            note = f"<br>{broken} of {len(runs)} over a limit" if broken else ""
            cells.append(gap_text(tried.gap(instance, policy, error)) + note)
        rows.append([f"`{policy}`", *cells])
    head = ("policy", *(f"error {error:g}" for error in tried.errors))
    return table(head, rows, right_from=1)


def found(tried: Tried) -> str:
    """What the tables say, in sentences."""
    sentences = []
    worst = tried.errors[-1]
    for name in tried.instances:
        greedy, best = (tried.gap(name, policy, 0.0) for policy in ("cheapest", BEST))
        late = {policy: tried.gap(name, policy, worst).mean for policy in ("cheapest", BEST)}
        sentences.append(
            f"`{name}`: with exact lengths `cheapest` is {greedy.mean:.2g}% from the offline "
            f"optimum, `{BEST}` {best.mean:.2g}%. With errors of {worst:g} they are "
            f"{late['cheapest']:.2g}% and {late[BEST]:.2g}% from it."
        )
    history = [
        name
        for name in tried.instances
        if tried.gap(name, "dual-price-history", worst).mean > tried.gap(name, BEST, worst).mean
    ]
    if history:
        sentences.append(
            f"Prices that stay are worse than learned ones at errors of {worst:g} on "
            + " and ".join(f"`{name}`" for name in history)
            + ": they were made for true lengths, and nothing corrects them."
        )
    for name in tried.instances:
        waits = {
            policy: spread(run["wait_s"] for run in tried.at(name, policy, 0.0)).mean
            for policy in ("cheapest", "cheapest-short-queue", BEST)
        }
        longest = max(waits.values())
        sentences.append(
            f"`{name}`: nobody waits with so many instances, so that both greedy rules are one."
            if longest == 0
            else f"`{name}`: instances are few, and queries wait "
            + ", ".join(f"{number(wait)} s by `{policy}`" for policy, wait in waits.items())
            + " in the mean. No policy but `cheapest-short-queue` looks at that."
        )
    return bullets(sentences)


def counts_text(queries: Iterable[int]) -> str:
    """Numbers of queries by deployment."""
    return ", ".join(f"{n:,}" for n in queries)


def published_table(record: dict[str, Any]) -> str:
    """The published simulation, figures cited."""
    rows = []
    for policy, kwh, accuracy, queries, wait in record["published"]["rows"]:
        waited = "" if wait is None else f"{wait:,.1f}"
        rows.append([policy, f"{kwh:.3f}", f"{accuracy:.3f}", counts_text(queries), waited])
    head = ("published", "energy, kWh", "accuracy, %", "queries to 7B, 13B, 70B", "mean wait, s")
    return table(head, rows, right_from=1)


def ours_table(tried: Tried) -> str:
    """Our runs of the same settings; the rule with queues where it differs."""
    rows = []
    greedy = {run["zeta"]: run for run in tried.study("zeta") if run["policy"] == "cheapest"}
    for run in sorted(tried.study("zeta"), key=lambda run: (run["zeta"] is not None, run["zeta"])):
        many = len(run["queries"]) > 1
        if run["policy"] == "cheapest-short-queue" and same(run, greedy[run["zeta"]]):
            continue
        steered = many and run["policy"].startswith("cheapest")
        wait = run["wait_md1_s"]
        rows.append(
            [
                f"`{run['policy']}`" * many
                + (f", zeta {run['zeta']:g}" if steered else "" if many else run["policy"]),
                f"{run['energy_kwh']:.3f}",
                f"{run['accuracy_percent']:.3f}",
                counts_text(run["queries"]) if many else "all to one",
                "infinite" if wait is None else f"{wait:.2f}",
                f"{run['wait_s']:.2f}",
            ]
        )
    head = ("ours", "energy, kWh", "accuracy, %", "queries to 7B, 13B, 70B",
            "M/D/1 wait, s", "simulated wait, s")  # fmt: skip
    alike = all(
        same(run, greedy[run["zeta"]])
        for run in tried.study("zeta")
        if run["policy"] == "cheapest-short-queue"
    )
    said = "\n`cheapest-short-queue` did the same as `cheapest` at every zeta.\n" if alike else ""
    return table(head, rows, right_from=1) + said


def same(run: Run, other: Run) -> bool:
    """Whether two runs sent queries to the same places, as far as their sums tell."""
    return all(run[name] == other[name] for name in ("queries", "energy_kwh", "wait_s"))


def queues_table(tried: Tried) -> str:
    """Weights of queues where instances are few."""
    rows = []
    for run in tried.study("queues"):
        weight = "" if run["weight"] is None else f"{run['weight']:g}"
        rows.append(
            [
                f"`{run['policy']}`",
                weight,
                f"{100 * run['gap']:.3g}%",
                counts_text(run["queries"]),
                number(run["wait_s"]),
                number(run["wait_p95_s"]),
                ", ".join(run["overloaded"]) or "none",
            ]
        )
    servers = counts_text(tried.study("queues")[0]["servers"])
    head = ("policy", "weight", "gap", "queries to 7B, 13B, 70B", "mean wait, s",
            "95% wait at most, s", "overloaded")  # fmt: skip
    return f"Instances of 7B, 13B, 70B: {servers}.\n\n" + table(head, rows, right_from=1)


def waits_table(tried: Tried) -> str:
    """The formula beside simulations of one and of many instances."""
    by_load: dict[float, dict[int, Run]] = {}
    for run in tried.study("waits"):
        by_load.setdefault(round(run["utilisation"], 2), {})[run["servers"][0]] = run
    pools = sorted(next(iter(by_load.values())))
    rows = []
    for load, runs in by_load.items():
        formulas = [runs[1][name] for name in ("wait_md1_s", "wait_mg1_s")]
        shown = ["infinite" if wait is None else number(wait) for wait in formulas]
        rows.append([f"{load:g}", *shown, *(number(runs[pool]["wait_s"]) for pool in pools)])
    head = ("utilisation", "M/D/1, s", "with the run times' variation, s",
            *(f"simulated, {pool} in one queue, s" for pool in pools))  # fmt: skip
    return table(head, rows, right_from=1)


def gaps_figure(tried: Tried, path: Path) -> None:
    """Draw gaps over prediction errors."""
    drawn = Figure(figsize=(10, 4.2), layout="constrained")
    for ax, name in zip(drawn.subplots(1, len(tried.instances)), tried.instances, strict=True):
        for policy in tried.policies:
            colour, marker, style = COLOURS[policy]
            parts = [tried.gap(name, policy, error) for error in tried.errors]
            ax.plot(tried.errors, [part.mean for part in parts], style, marker=marker,
                    color=colour, label=policy, markersize=5)  # fmt: skip
            ax.fill_between(tried.errors, [part.low for part in parts],
                            [part.high for part in parts], color=colour, alpha=0.15)  # fmt: skip
        ax.set_yscale("log")
        ax.set_title(name, fontsize=10)
        ax.set_xlabel("relative standard deviation of predicted lengths")
        ax.set_ylabel("gap to the offline optimum, %")
    ax.legend(fontsize=8)
    drawn.savefig(path, dpi=110, metadata={"Software": None})
