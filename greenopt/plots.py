"""Plots of solutions, with matplotlib: each problem draws its own kinds.

The kinds and their lines stand in each problem's module `showing`, the drawing in its `plots`.
"""

from __future__ import annotations

import os
from typing import Any

from greenopt import arguments
from greenopt.checking import belongs
from greenopt.errors import ModelError
from greenopt.files import write_bytes_atomically
from greenopt.instance import Instance
from greenopt.problems import part
from greenopt.results import Solution
from greenopt.showing import showing

FORMATS: dict[str, dict[str, None]] = {
    "png": {"Software": None},
    "svg": {"Date": None},
    "pdf": {"CreationDate": None},
}
"""Formats of files by ending, and what is left out of them: versions and dates."""


def plot(
    instance: Instance,
    solution: Solution,
    path: str | os.PathLike[str],
    kind: str = "overview",
    *,
    time_limit: float = 60.0,
) -> None:
    """Draw a plan into a file, whole or not at all.

    Parameters
    ----------
    instance, solution : Instance, Solution
        A solved instance.
    path : path-like
        Image file; the ending chooses the format (png, pdf, svg).
    kind : str
        What to draw. Every problem has an "overview"; ``greenopt plot --help`` lists all kinds, and
        an error names those of the problem. Of placement: "flows", "sources", "utilisation",
        "marginal_carbon".
    time_limit : float
        Time for what a kind has to solve first (placement's "marginal_carbon"), s.

    Raises
    ------
    ModelError
        If the solution has no plan to draw, for an unknown kind or ending, or if the instance
        lacks what the kind needs.
    SolutionError
        If the solution belongs to another instance.
    NoOptimumError
        If a kind has to solve something, and no optimum was found in time.
    """
    import io

    from matplotlib import rc_context

    form = os.path.splitext(os.fspath(path))[1].lstrip(".").lower() or "png"
    if form not in FORMATS:
        endings = ", ".join(f".{name}" for name in FORMATS)
        raise ModelError(f"{os.fspath(path)}: a picture's name ends in one of {endings}")
    buffer = io.BytesIO()
    with rc_context({"text.parse_math": False, "svg.hashsalt": "greenopt"}):
        drawn = figure(instance, solution, kind, time_limit=time_limit)
        drawn.savefig(buffer, format=form, dpi=110, metadata=FORMATS[form])
    write_bytes_atomically(path, buffer.getvalue())


def figure(
    instance: Instance, solution: Solution, kind: str = "overview", *, time_limit: float = 60.0
) -> Any:
    """The matplotlib figure that `plot` saves, with the same parameters and errors."""
    from matplotlib import rc_context
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    belongs(instance, solution)
    arguments.time_limit_s(time_limit)
    kinds = showing(instance.problem).PLOTS
    if kind not in kinds:
        raise ModelError(f"unknown kind {kind!r} of plot; known are {', '.join(kinds)}")
    if not solution.decision:
        raise ModelError(f"{solution.instance}: status {solution.status}, there is no plan to draw")
    with rc_context({"text.parse_math": False}):  # names may hold dollar signs
        new = Figure(figsize=(13, 8.5), layout="constrained")
        FigureCanvasAgg(new)
        draw = part(instance.problem, "plots").draw
        draw(new, instance, solution, kind, time_limit=time_limit)
    return new
