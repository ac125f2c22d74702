"""What the plots of all problems share: colours, short numbers, what a plan has proved, bars.

Categories have colours of Okabe and Ito's palette, which the colour-blind can tell apart.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import cycle
from typing import Any

import numpy as np

from greenopt.labelled import FloatArray
from greenopt.results import Solution

BLUE, ORANGE, GREEN, PURPLE = "#0072B2", "#E69F00", "#009E73", "#CC79A7"
SKY, VERMILION, YELLOW = "#56B4E9", "#D55E00", "#F0E442"
PALETTE = (BLUE, ORANGE, GREEN, PURPLE, SKY, VERMILION, YELLOW)
"""Colours of categories, in order."""


def proof(solution: Solution) -> str:
    """What was solved, how it ended and how near to the best it is proved to be."""
    gap = "no bound" if solution.gap is None else f"within {solution.gap:.1e} of its proved bound"
    return f"{solution.instance}: {solution.status}, {gap}"


def short(value: float) -> str:
    """A number in three digits, with separators from a thousand on."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def stacks(ax: Any, title: str, parts: Mapping[str, FloatArray]) -> None:
    """Horizontal bars of parts laid end to end, negative ones to the left of zero.

    Parameters
    ----------
    ax : matplotlib.axes.Axes
        Where to draw; the bars stand at 0, 1 and so on.
    title : str
        Drawn with the sum of everything.
    parts : dict of str to ndarray, each of shape (bars,)
        Lengths by name.
    """
    right, left = (np.zeros(len(next(iter(parts.values())))) for _ in range(2))
    for (name, values), colour in zip(parts.items(), cycle(PALETTE), strict=False):
        start = np.where(values < 0, left, right)
        label = f"{name} {short(float(values.sum()))}"
        ax.barh(np.arange(len(values)), values, left=start, color=colour, label=label, height=0.75)
        right, left = right + np.maximum(values, 0), left + np.minimum(values, 0)
    total = np.sum(list(parts.values()), axis=0)
    for at, (value, end) in enumerate(zip(total, right, strict=True)):
        ax.annotate(
            short(float(value)), (end, at), (3, 0), textcoords="offset points",
            va="center", fontsize=7,
        )  # fmt: skip
    low, high = left.min(initial=0.0), right.max(initial=0.0)
    span = (high - low) or 1.0
    ax.set_xlim(low - (0.03 * span if low < 0 else 0.0), high + 0.2 * span)
    ax.axvline(0, color="black", linewidth=0.6)
    ax.set_title(f"{title}: {short(float(total.sum()))}", fontsize=10)
    ax.tick_params(axis="x", labelsize=8)
    ax.xaxis.set_major_formatter(lambda x, _: f"{x:,.6g}")
    ax.xaxis.set_major_locator(_few_ticks())
    ax.grid(axis="x", color="0.9", linewidth=0.6)
    ax.set_axisbelow(True)
    below = -0.3 / (1.0 + 0.3 * len(total))  # what the labels of the axis take
    ax.legend(fontsize=8, loc="upper center", bbox_to_anchor=(0.5, below), ncols=2, frameon=False)


def _few_ticks() -> Any:
    from matplotlib.ticker import MaxNLocator

    return MaxNLocator(5)
