"""Rules on the quick instance, beside its optimum."""

from __future__ import annotations

import contextlib
import io
from pathlib import Path

from example import SHOWN, number
from tables import table, write

import greenopt as go
from greenopt import cli
from greenopt.solving import methods_of


def write_all(root: Path, out: Path) -> None:
    """Write what `greenopt methods` prints, and a table of plans."""
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        cli.main(["methods"])
    write(out / "ruled_methods.txt", f"$ greenopt methods\n{printed.getvalue()}")
    write(out / "ruled_quick.md", plans(root / "instances" / "placement" / "quick.json"))


def plans(path: Path) -> str:
    """Every method's plan of one instance, checked and with its bound proved."""
    inst = go.load(path)
    rows = []
    for method in methods_of(inst.problem):
        plan = go.solve(inst, method=method)
        if not (go.check(inst, plan).ok and go.certify(inst, plan).ok):
            raise RuntimeError(f"{method}: not checked or not proved")
        shown = [number(plan.metrics[name]) for name in SHOWN]
        gap = f"{plan.gap:.1%}"
        rows.append([f"`{method}`", f"{plan.objective:.4f}", f"{plan.bound:.4f}", gap, *shown])
    head = ("method", "objective", "bound", "gap", *SHOWN.values())
    return table(head, rows, right_from=1)
