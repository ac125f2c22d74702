"""The page on fits: recorded coefficients, and a law fitted to measurements in the repository."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from compared import recorded
from tables import table, write

import greenopt as go
from greenopt import fitting

MOST_PIECES = 3
"""Of the law of the example."""


def write_all(root: Path, out: Path) -> None:
    """Write every table and the figure."""
    text = (root / "benchmarks" / "results" / "fits.json").read_text(encoding="utf-8")
    record = json.loads(text)
    write(out / "fits_tokens.md", tokens_table(record["tokens"]))
    write(out / "fits_errors.md", errors_table(record["tokens"]))
    write(out / "fits_clocks.md", clocks_table(record["clocks"]))
    write(out / "fits_batches.md", batches_table(record["batches"]))
    write(out / "fits_recorded.md", recorded(record, "").lstrip())
    fit = prefill(root)
    write(out / "fits_prefill.txt", f"{fit}\n")
    fit.plot_residuals(out / "fits_prefill.png")


def prefill(root: Path) -> fitting.Fit:
    """Law of the prefill times that the quick instance holds: those of Splitwise, MIT."""
    inst = go.load(root / "instances" / "placement" / "quick.json")
    (profile,) = [p for p in inst.profiles if (p.model, p.mode) == ("llama-3.1-70b", "h100")]
    tokens, seconds = profile.prefill_tokens[1:], profile.levels[0].prefill_s[1:]
    return fitting.prefill_of_tokens(tokens, seconds, most_pieces=MOST_PIECES)


def tokens_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Coefficients of the law of tokens, as published."""
    head = ("model", "gives", "per token in", "per token out", "per product", "uncentred R²",
            "points")  # fmt: skip
    return table(head, [_tokens(row) for row in rows], right_from=2)


def _tokens(row: Mapping[str, Any]) -> list[str]:
    values = (_interval(found) for found in row["coefficients"].values())
    return [row["model"], f"{row['unit']}", *values, f"{row['r2']:.4f}", str(row["n"])]


def errors_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """What the uncentred R² does not say."""
    cells = [
        [row["model"], row["unit"], f"{row['mape_percent']:.0f} %", str(row["below_zero"]),
         f"{row['physical']['mape_percent']:.0f} %",
         *(_interval(found) for found in row["physical"]["coefficients"].values())]
        for row in rows
    ]  # fmt: skip
    head = ("model", "gives", "published law: mean error", "predictions below 0",
            "physical law: mean error", "per token in", "per token out", "per product")  # fmt: skip
    return table(head, cells, right_from=2)


def clocks_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Laws of clocks, and the best clocks."""
    cells = []
    for row in rows:
        found = [*row["power"]["coefficients"].values(), *row["time"]["coefficients"].values()]
        choices = (cell for how in ("measured", "law") for cell in _choice(row[how]))
        title = f"{row['requests']} x {row['workload']}"
        cells.append([title, *(f"{value:.4g}" for value, _, _ in found), *choices])
    head = ["requests", "P0, W", "c, W/GHz³", "T0, s", "κ, s·GHz"]
    head += [
        f"{how}: {what}" for how in ("measured", "law") for what in ("MHz", "saving", "slower")
    ]
    return table(head, cells, right_from=1)


def _choice(found: Mapping[str, float]) -> tuple[str, str, str]:
    return (
        f"{1000 * found['frequency_ghz']:.0f}", f"{found['saving']:.1%}",
        f"{found['slow_down']:.1%}",
    )  # fmt: skip


def batches_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Laws of batches of licence-clear measurements."""
    cells = []
    for row in rows:
        energy, itl = row["energy"], row["itl"]
        gpu = row["gpu"].removeprefix("NVIDIA ")[:4]  # A100 or H100
        cells.append([
            row["model"].split("/")[-1], gpu, str(row["gpus"]),
            *map(_interval, energy["coefficients"].values()),
            *(f"{1000 * found[0]:.3g}" for found in itl["coefficients"].values()),
            f"{energy['mape_percent']:.1f} %", f"{itl['r2']:.3f}",
            " to ".join(f"{end:.0f}" for end in energy["valid"]["batch"]),
        ])  # fmt: skip
    head = ("model", "GPU", "GPUs", "e∞, J", "c1, J", "α, ms", "β, ms", "error of e",
            "R² of ITL", "batches")  # fmt: skip
    return table(head, cells, right_from=2)


def _interval(found: Sequence[float]) -> str:
    """A value with its interval."""
    value, low, high = found
    return f"{value:.3g} ({low:.3g} to {high:.3g})"
