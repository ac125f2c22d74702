"""The worked example of queues: energy against waiting, limits as caps, the error of pieces."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from example import number
from matplotlib.figure import Figure
from tables import table, write

import greenopt as go
from greenopt.problems.placement.capping import with_levels_at_caps

WEIGHTS = (0.0, 1.0, 3.0, 10.0, 30.0, 100.0)
"""Energy that an hour waited by one request counts as, kWh."""

LIMITS_S = (1.0, 0.9, 0.87, 0.8)
"""TTFT limits of chat at the 95th percentile."""

WEIGHT = 10.0
"""That of the tables of pieces and of levels, kWh per request and hour."""

RULES = ("exact", "at_most")

CURVE_GAP = 1e-3
"""Gap asked for points of the curve."""

GAPS = (1e-2, 1e-6)
"""Gaps asked for in the table of pieces."""

WHOLE_GAP, WHOLE_LIMIT_S = 0.005, 10.0
"""Gap and time limit of its row of whole instances."""


def write_all(root: Path, out: Path) -> None:
    """Write the tables and the figure."""
    inst = shown(root / "docs" / "placement" / "queues.md")
    curves = {rule: [solved(weighted(inst, w, rule)) for w in WEIGHTS] for rule in RULES}
    caps = {rule: [capped(inst, limit, rule) for limit in LIMITS_S] for rule in RULES}
    write(out / "waiting_loads.md", loads_table(inst))
    write(out / "waiting_weights.md", weights_table(curves))
    write(out / "waiting_limits.md", limits_table(caps))
    pieces, levels = pieces_tables(inst)
    write(out / "waiting_pieces.md", pieces)
    write(out / "waiting_levels.md", levels)
    figure(curves, caps, out / "waiting.png")


def shown(page: Path) -> Any:
    """The instance that the first block of the page makes."""
    found = re.search(r"^```python\n(.*?)^```", page.read_text(encoding="utf-8"), re.M | re.S)
    assert found is not None
    names: dict[str, Any] = {}
    exec(found[1], names)
    return names["inst"]


def weighted(inst: Any, weight: float, rule: str, **changes: Any) -> Any:
    """Energy plus a price of waiting."""
    waiting = {"metric": "ttft_queue_request_s", "weight": weight / 3600}
    terms = [{"metric": "energy_kwh", "weight": 1.0}, waiting]
    return inst.replace(load_rule=rule, objective=[{"terms": terms}], **changes)


def solved(instance: Any) -> go.Solution:
    """A plan that has passed its check, with its bound proved to the gap of the curve."""
    plan = go.solve(instance, gap=CURVE_GAP)
    if not (go.check(instance, plan).ok and go.certify(instance, plan, gap=CURVE_GAP).optimal):
        raise RuntimeError(f"{instance.name}: {plan.status}, not proved")
    return plan


def capped(inst: Any, limit_s: float, rule: str) -> tuple[float | None, float | None]:
    """Least energy under a limit on chat's TTFT, with measured levels and with those at caps."""
    classes = [
        {**k.model_dump(), "ttft_limit_s": limit_s if k.name == "chat" else k.ttft_limit_s}
        for k in inst.classes
    ]
    instance = weighted(inst, 0.0, rule, classes=classes)
    plans = (go.solve(one, explain=False) for one in (instance, with_levels_at_caps(instance)))
    measured, further = (plan.metrics.get("energy_kwh") for plan in plans)
    return measured, further


def wait_s(plan: go.Solution) -> float:
    """Mean wait of a request."""
    waited, requests = plan.metrics["ttft_queue_request_s"], plan.metrics["requests"]
    assert waited is not None
    assert requests
    return waited / requests


def loads_table(inst: Any) -> str:
    """Queues of the profiles, and the utilisation at the full load of each level."""
    rows = []
    for p in inst.profiles:
        full = ", ".join(f"{v.requests_per_s * p.queue.service_s:.2f}" for v in p.levels)
        rows.append((p.model, p.mode, number(p.queue.service_s), number(p.queue.service_cv2), full))
    head = ("model", "mode", "`service_s`", "`service_cv2`", "utilisation at full load, by level")
    return table(head, rows, right_from=2)


def weights_table(curves: dict[str, list[go.Solution]]) -> str:
    """Energy and mean wait by weight and load rule."""
    rows = [
        [f"{w:g}", *(cell for plan in plans for cell in _point(plan))]
        for w, *plans in zip(WEIGHTS, *curves.values(), strict=True)
    ]
    head = ["weight, kWh per request h"]
    head += [f"{rule}: {what}" for rule in RULES for what in ("energy, kWh", "mean wait, ms")]
    return table(head, rows, right_from=0)


def _point(plan: go.Solution) -> tuple[str, str]:
    return number(plan.metrics["energy_kwh"]), f"{wait_s(plan) * 1e3:.1f}"


def limits_table(caps: dict[str, list[tuple[float | None, float | None]]]) -> str:
    """Least energy by TTFT limit, with and without levels at caps."""
    rows = [
        [f"{limit:g}", *(_or_none(value) for pair in pairs for value in pair)]
        for limit, *pairs in zip(LIMITS_S, *caps.values(), strict=True)
    ]
    head = ["limit, s"]
    head += [f"{rule}: {what}" for rule in RULES for what in ("measured levels", "levels at caps")]
    return table(head, rows, right_from=0)


def _or_none(value: float | None) -> str:
    return "no plan" if value is None else number(value)


def pieces_tables(inst: Any) -> tuple[str, str]:
    """What gaps are left by those asked for; and what a plan says of its queues."""
    fractions = weighted(inst, WEIGHT, "at_most")
    whole = fractions.replace(instance_counts="integer")
    rows = []
    for gap in GAPS:
        plan = go.solve(fractions, gap=gap)
        rows.append(_proof("fractions", fractions, gap, plan))
    counted = go.solve(whole, gap=WHOLE_GAP, time_limit=WHOLE_LIMIT_S)
    rows.append(_proof("whole", whole, WHOLE_GAP, counted))
    head = ("instances", "gap asked", "status", "objective", "bound", "gap", "bound source",
            "bound proved by `certify`", "time, s")  # fmt: skip
    return table(head, rows, right_from=1), levels_table(plan)


def _proof(title: str, instance: Any, gap: float, plan: go.Solution) -> Sequence[str]:
    proved = go.certify(instance, plan, gap=gap).stages[-1].proved_bound
    seconds = plan.runtime_s["solve"] + plan.runtime_s.get("bound", 0.0)
    return (
        title, f"{gap:g}", str(plan.status), f"{plan.objective:.2f}", f"{plan.bound:.2f}",
        f"{plan.gap:.1e}", f"`{plan.bound_source}`", f"{proved:.2f}", f"{seconds:.1f}",
    )  # fmt: skip


def levels_table(plan: go.Solution) -> str:
    """Utilisation and waits at each level used."""
    rows = [
        (
            q["model"], q["mode"], str(q["level"]), f"{q['mean_utilisation']:.3f}",
            f"{q['largest_utilisation']:.3f}", f"{q['mean_wait_s'] * 1e3:.1f}",
            f"{q['p95_wait_s'] * 1e3:.0f}",
        )
        for q in plan.report["notes"]["queues"]
    ]  # fmt: skip
    head = ("model", "mode", "level", "mean utilisation", "largest", "mean wait, ms", "p95, ms")
    return table(head, rows, right_from=2)


def figure(
    curves: dict[str, list[go.Solution]],
    caps: dict[str, list[tuple[float | None, float | None]]],
    path: Path,
) -> None:
    """Draw energy against the mean wait, and against the limit."""
    drawn = Figure(figsize=(12, 3.8), layout="constrained")
    left, right = drawn.subplots(1, 2)
    for (rule, plans), colour in zip(curves.items(), ("#0072B2", "#D55E00"), strict=True):
        wait_ms = [wait_s(plan) * 1e3 for plan in plans]
        energy = [(plan.metrics["energy_kwh"] or 0.0) / 1e3 for plan in plans]
        left.plot(wait_ms, energy, "o-", color=colour, label=rule, markersize=5)
        for which, (style, marker) in enumerate((("--", "s"), ("-", "o"))):
            points = [
                (limit, pair[which] / 1e3)
                for limit, pair in zip(LIMITS_S, caps[rule], strict=True)
                if pair[which] is not None
            ]
            label = f"{rule}, {('measured levels', 'levels at caps')[which]}"
            hollow = "none" if which == 0 else colour
            right.plot(*zip(*points, strict=True), marker, linestyle=style, color=colour,
                       markerfacecolor=hollow, markersize=9 - 4 * which, label=label)  # fmt: skip
    left.set_xlabel("mean wait of a request, ms")
    right.set_xlabel("TTFT limit of chat at the 95th percentile, s")
    for ax in (left, right):
        ax.set_ylabel("energy, MWh")
        ax.legend(fontsize=8)
    drawn.savefig(path, dpi=110, metadata={"Software": None})
