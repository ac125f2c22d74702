"""Measured configurations, as every reader of measurements returns them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from greenopt.datasets._tables import frozen, refuse

LARGEST_POWER_PER_GPU_W = 3000.0
"""No accelerator draws more; a file above is in mW (our rule)."""

LARGEST_ITL_S = 10.0
"""No one waits longer for a token; a file above is in ms (our rule)."""

Boundary = Literal["gpu", "server", "facility"]


@dataclass(frozen=True, eq=False)
class Measurements:
    """Measured configurations, one a row.

    Attributes
    ----------
    source : str
        Path of the file.
    layout : str
        Name of the layout, such as "ML.ENERGY v2", or "own".
    boundary : {"gpu", "server", "facility"} or None
        Whose energy and power it is; None where a file of one's own does not say.
    columns : dict of str to ndarray, shape (n_rows,)
        Names and numbers, in the units that their names end in; the reader's module lists them in
        `TEXTS` and `NUMBERS`. What a layout lacks is NaN, or empty for names, and stands in the
        notes.
    notes : tuple of str
        What is derived, what is lacking, what was found.
    label : str
        How it was measured, in words to stand beside every figure made of it, such as "batch 1, no
        KV cache"; may be empty.
    """

    source: str
    layout: str
    boundary: Boundary | None
    columns: Mapping[str, NDArray[Any]]
    notes: tuple[str, ...]
    label: str = ""

    def __len__(self) -> int:
        """Number of configurations."""
        return len(next(iter(self.columns.values())))

    def __repr__(self) -> str:
        label = f", {self.label}" if self.label else ""
        return (
            f"<measurements ({self.layout}): {len(self)} configurations, "
            f"boundary {self.boundary}{label}>"
        )

    def column(self, name: str) -> NDArray[Any]:
        """One column, shape (n_rows,).

        Raises
        ------
        InputError
            If there is no such column.
        """
        if name not in self.columns:
            what = f"has no {name!r}; there are {', '.join(map(repr, self.columns))}"
            refuse(self.source, "columns", what)
        return self.columns[name]

    def select(self, **where: str | float) -> Measurements:
        """Keep the rows that have these values.

        Parameters
        ----------
        **where : str or float
            Value by column, as in ``select(model="Qwen/Qwen3-14B", gpu="H100")``.

        Raises
        ------
        InputError
            If a column does not exist, or no row is left, with the values there are.
        """
        keep = np.ones(len(self), dtype=bool)
        for name, value in where.items():
            column = self.column(name)
            left = keep & (column == value)
            if not left.any():
                known = ", ".join(map(repr, np.unique(column[keep]).tolist()))
                refuse(self.source, name, f"is {value!r} in no row; there are {known}")
            keep = left
        return self.rows(keep)

    def rows(self, keep: NDArray[Any]) -> Measurements:
        """Keep some rows, by a mask or by their numbers."""
        return replace(self, columns=frozen({n: c[keep] for n, c in self.columns.items()}))

    def known(self, *names: str) -> Measurements:
        """Keep the rows in which none of these columns is missing.

        Raises
        ------
        InputError
            If a column does not exist, or is missing in every row that is left.
        """
        keep = np.ones(len(self), dtype=bool)
        for name in names:
            column = self.column(name)
            keep &= column != "" if column.dtype.kind == "U" else ~np.isnan(column)
            if not keep.any():
                refuse(self.source, name, "is missing in every row that is left; expected some")
        return self.rows(keep)
