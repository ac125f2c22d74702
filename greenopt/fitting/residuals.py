"""Pictures of residuals, with matplotlib."""

from __future__ import annotations

import io
import os
from typing import Any

import numpy as np

from greenopt.errors import ModelError
from greenopt.files import write_bytes_atomically
from greenopt.fitting.fit import Fit

BLUE = "#0072B2"
"""Of Okabe and Ito's palette, like the other plots."""

WIDE = 50.0
"""Observations that span a larger factor are drawn on a logarithmic axis."""


def draw(fit: Fit, path: str | os.PathLike[str]) -> None:
    """Save the figure, as `Fit.plot_residuals` says."""
    from matplotlib import rc_context

    from greenopt.plots import FORMATS

    form = os.path.splitext(os.fspath(path))[1].lstrip(".").lower() or "png"
    if form not in FORMATS:
        endings = ", ".join(f".{name}" for name in FORMATS)
        raise ModelError(f"{os.fspath(path)}: a picture's name ends in one of {endings}")
    buffer = io.BytesIO()
    with rc_context({"text.parse_math": False, "svg.hashsalt": "greenopt"}):
        figure(fit).savefig(buffer, format=form, dpi=110, metadata=FORMATS[form])
    write_bytes_atomically(path, buffer.getvalue())


def figure(fit: Fit) -> Any:
    """The matplotlib figure: the law beside what was observed, residuals in units and in %."""
    from matplotlib import rc_context
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with rc_context({"text.parse_math": False}):  # names may hold dollar signs
        new = Figure(figsize=(13, 4.2), layout="constrained")
        FigureCanvasAgg(new)
        _draw(fit, new)
    return new


def _draw(fit: Fit, new: Any) -> None:
    observed, unit = fit.observed, fit.unit
    wide = observed.max() / observed.min() > WIDE
    panels = (
        (f"law, {unit}", fit.predicted),
        (f"residual, {unit}", fit.residuals),
        ("residual, % of what was observed", 100 * fit.residuals / observed),
    )
    axes = new.subplots(1, 3)
    for ax, (title, values) in zip(axes, panels, strict=True):
        ax.plot(observed, values, "o", color=BLUE, markersize=4, alpha=0.7)
        ax.set_xlabel(f"observed {fit.quantity}, {unit}")
        ax.set_ylabel(title)
        if wide:
            ax.set_xscale("log")
            _plain(ax.xaxis)
    ends = np.array([observed.min(), observed.max()])
    axes[0].plot(ends, ends, color="0.4", linewidth=1)
    for ax in axes[1:]:
        ax.axhline(0, color="0.4", linewidth=1)
    if wide:
        axes[0].set_yscale("symlog", linthresh=float(observed.min()))
        _plain(axes[0].yaxis)
    label = f" ({fit.label})" if fit.label else ""
    said = f"{fit.n} points, {fit.r2_kind} R² {fit.r2:.4f}"
    new.suptitle(f"{fit.quantity} = {fit.formula}{label}\n{said}", fontsize=11)


def _plain(axis: Any) -> None:
    """Powers of ten in digits: the usual labels are formulas, which are not parsed here."""
    from matplotlib.ticker import NullFormatter

    axis.set_major_formatter(lambda value, _: f"{value:g}")
    axis.set_minor_formatter(NullFormatter())
