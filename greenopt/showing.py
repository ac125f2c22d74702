"""What is shown of instances and plans: what every problem's `showing` module says, and tables.

The command line reads these modules for the names it accepts, before anything is computed. So
neither this module nor they may load anything heavy: NumPy, models and matplotlib stay outside.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from greenopt.problems import PROBLEMS, part

Column = tuple[str, str, str]
"""A column of a table of metrics: the metric, its title, and its format."""


class Fact(NamedTuple):
    """An entry of `describe` that only one problem has.

    Attributes
    ----------
    of : callable
        From the instance (or its formulation) to what JSON can hold.
    text : callable
        From that to a line of text, or several.
    """

    of: Callable[[Any], Any]
    text: Callable[[Any], str]


class Showing(Protocol):
    """What a problem's module `showing` says.

    Attributes
    ----------
    COLUMNS : tuple of Column
        Metrics of the table that `greenopt solve` prints, a row an instance.
    BREAKDOWN : tuple of str and tuple of Column, or None
        An axis of `metrics_by` and the metrics of the table along it; None for no such table.
    FACTS : dict of str to Fact
        What `describe` tells of the data, from the instance.
    MODEL_FACTS : dict of str to Fact
        What it tells of the model, from the formulation.
    DIRECTIONS : dict of str to str
        What `marginals` may be of, and what one more of it is; empty if there are no marginals.
    PLOTS : dict of str to str
        Kinds of plots, and what each shows in one line; "overview" is drawn by default.
    TERM_SUFFIX : str or None
        Field of a term of the objective that takes what stands behind the colon of
        ``greenopt reweight --term METRIC=WEIGHT:WORD``; None if there is no such field.
    """

    COLUMNS: tuple[Column, ...]
    BREAKDOWN: tuple[str, tuple[Column, ...]] | None
    FACTS: Mapping[str, Fact]
    MODEL_FACTS: Mapping[str, Fact]
    DIRECTIONS: Mapping[str, str]
    PLOTS: Mapping[str, str]
    TERM_SUFFIX: str | None

    def objective(self, instance: Any) -> Iterator[str]:
        """Lines that tell the objective and the limits on metrics."""
        ...

    def notes(self, notes: Mapping[str, Any]) -> Iterator[str]:
        """Lines that tell the notes of a `CheckReport`."""
        ...


def showing(problem: str) -> Showing:
    """What a problem's module `showing` says."""
    module: Any = part(problem, "showing")
    found: Showing = module
    return found


def union(name: str) -> dict[str, str]:
    """DIRECTIONS or PLOTS of all problems; of one name, what the first problem says."""
    found: dict[str, str] = {}
    for problem in PROBLEMS:
        own = getattr(showing(problem), name)
        found |= {key: text for key, text in own.items() if key not in found}
    return found


# -- tables --------------------------------------------------------------------------------------


def number(value: float | None, form: str) -> str:
    """A number in a format, a hyphen if there is none."""
    return "-" if value is None else format(value, form)


def amount(value: float | None) -> str:
    """Whole numbers from ten thousand on, four digits below."""
    return number(value, ".4g" if value is None or abs(value) < 1e4 else ",.0f")


def table(
    head: Sequence[str], rows: Sequence[Sequence[str]], left: Sequence[str] = ("status",)
) -> Iterator[str]:
    """Lines of an aligned table; the first column and those of the titles in `left` to the left."""
    widths = [max(len(line[i]) for line in [head, *rows]) for i in range(len(head))]
    for line in [head, *rows]:
        cells = [
            cell.ljust(width) if i == 0 or head[i] in left else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(line, widths, strict=True))
        ]
        yield "  ".join(cells).rstrip()
