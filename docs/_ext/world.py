"""The committed instances of the size of the world: sizes, best known values, prices of two."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from example import number
from tables import table, write

import greenopt as go


def write_all(root: Path, out: Path) -> None:
    """Write the table of kinds, the sources of one, and prices of budgets and of a mask."""
    folder = root / "instances" / "placement-world"
    known = json.loads((folder / "best_known.json").read_text(encoding="utf-8"))
    instances = {path.name: go.load(path) for path in sorted(folder.glob("*.json.gz"))}
    write(out / "world_kinds.md", kinds(list(instances.values()), known))
    write(out / "world_sources.md", sources(instances["world-day.json.gz"]))
    write(out / "world_budgets.md", budget_prices(instances["world-day-budgets.json.gz"]))
    resident, free = (instances[f"world-day{kind}.json.gz"] for kind in ("-residency", ""))
    write(out / "world_residency.md", mask_prices(resident, free))


def kinds(instances: list[Any], known: dict[str, Any]) -> str:
    """One row an instance."""
    rows = []
    for inst in instances:
        rows.append(
            [
                f"`{inst.name}`",
                inst.provenance.description.split("; ")[-1],
                str(len(inst.sets["period"])),
                str(len(inst.sets["origin"])),
                number(inst.demand_requests.sum() / 1e6),
                f"{flows(inst):,}",
                *best_known(inst, known.get(inst.name, {})),
            ]
        )
    head = ("instance", "objective and more", "periods", "origins", "million requests",
            "flow columns", "best known", "gap to its bound")  # fmt: skip
    return table(head, rows, right_from=2)


def best_known(inst: Any, best: dict[str, Any]) -> tuple[str, str]:
    """Optimum and gap to its bound, of this very instance."""
    if best.get("sha256") != inst.sha256:
        return "none of this version", ""
    gap = (best["objective"] - best["bound"]) / best["objective"]
    return f"{best['objective']:.8g}", f"{gap:.0e}" if gap > 1e-9 else "below 1e-9"


def flows(inst: Any) -> int:
    """Flow columns where every class may use every level that the mask leaves."""
    shape = [len(inst.sets[axis]) for axis in ("period", "origin", "class", "site", "mode")]
    return int(np.prod(shape) if inst.reachable is None else inst.reachable.sum())


def budget_prices(inst: Any) -> str:
    """What one more unit of each budget would save."""
    plan = proved(inst, solver="decomposition")
    rows = [
        (
            f"`{budget.name}`",
            number(float(budget.limit.values)),
            number(-float(plan.marginals[f"budget.{budget.name}"].dense())),
            plan.marginals[f"budget.{budget.name}"].unit,
        )
        for budget in inst.budgets
    ]
    return table(("budget", "limit", "saved by one more", "unit"), rows, right_from=1)


def mask_prices(resident: Any, free: Any) -> str:
    """What a mask costs in all and at the margin, by origin that it binds."""
    kept, open_to_all = proved(resident), proved(free)
    assert kept.objective is not None
    assert open_to_all.objective is not None
    price = kept.marginals["reachable"].dense() * 1e6
    names = resident.sets["class"]
    rows = [
        (origin, *(number(float(price[:, o, k].max())) for k in range(len(names))))
        for o, origin in enumerate(resident.sets["origin"])
        if price[:, o].any()
    ]
    more = kept.objective / open_to_all.objective - 1
    text = f"The mask raises the objective by {more:.2%}. The largest price of the day by origin "
    text += "and class, objective per million requests:\n\n"
    return text + table(("origin", *names), rows, right_from=1)


def proved(inst: Any, **how: Any) -> go.Solution:
    """A plan that has passed its check, with its bound proved."""
    plan = go.solve(inst, **how)
    if not (go.check(inst, plan).ok and go.certify(inst, plan).optimal):
        raise RuntimeError(f"{inst.name}: {plan.status}, not proved")
    return plan


def sources(inst: Any) -> str:
    """Where the figures come from."""
    rows = [
        (source.name, source.licence, str(source.url or ""), source.note or "")
        for source in inst.provenance.sources
    ]
    return table(("source", "licence", "from", "what of it"), rows)
