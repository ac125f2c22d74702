"""Sparse arrays over named axes: decisions and prices in the problem's own terms."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

IntArray = NDArray[np.int64]
FloatArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]


def load_pandas() -> Any:
    """Import pandas, or say how to get it."""
    try:
        import pandas
    except ImportError as error:
        raise ImportError("frames need pandas: pip install 'greenopt[frames]'") from error
    return pandas


@dataclass(frozen=True, eq=False)
class LabelledArray:
    """Numbers over named axes, zero where nothing is stored.

    Attributes
    ----------
    name, unit : str
        What the numbers are; the unit is part of the column name in frames.
    labels : dict of str to tuple of str
        Labels of every axis, in axis order.
    codes : ndarray of int, shape (n_axes, n_stored)
        Position of each stored number along each axis; no position twice.
    values : ndarray of float, shape (n_stored,)
        The numbers.
    """

    name: str
    unit: str
    labels: Mapping[str, tuple[str, ...]]
    codes: IntArray
    values: FloatArray

    @property
    def axes(self) -> tuple[str, ...]:
        """Axis names in order."""
        return tuple(self.labels)

    @property
    def shape(self) -> tuple[int, ...]:
        """Length of each axis."""
        return tuple(len(members) for members in self.labels.values())

    def __repr__(self) -> str:
        over = " x ".join(f"{len(members)} {axis}" for axis, members in self.labels.items())
        return f"<{self.name} [{self.unit}]: {len(self.values)} numbers over {over or 'no axis'}>"

    def select(self, **where: str) -> LabelledArray:
        """Keep one label of each axis named, and drop these axes.

        Parameters
        ----------
        **where : str
            Label by axis, as in ``flow.select(period="2023-07-18T12:00Z", origin="London")``
            (an axis called "class" is given as ``**{"class": "chat"}``).

        Raises
        ------
        KeyError
            Naming the axes or labels there are.
        """
        keep = np.ones(len(self.values), dtype=bool)
        for axis, label in where.items():
            row = self._row(axis)
            if label not in self.labels[axis]:
                raise KeyError(f"{label!r} is not a {axis}; there are {list(self.labels[axis])}")
            keep &= self.codes[row] == self.labels[axis].index(label)
        rest = [i for i, axis in enumerate(self.axes) if axis not in where]
        labels = {self.axes[i]: self.labels[self.axes[i]] for i in rest}
        return LabelledArray(
            self.name, self.unit, labels, self.codes[rest][:, keep], self.values[keep]
        )

    def _row(self, axis: str) -> int:
        if axis not in self.labels:
            raise KeyError(f"{axis!r} is not an axis of {self.name}; it has {list(self.axes)}")
        return self.axes.index(axis)

    @classmethod
    def from_dense(
        cls, name: str, unit: str, labels: Mapping[str, tuple[str, ...]], dense: Any
    ) -> LabelledArray:
        """Keep the nonzero elements of a dense array."""
        array = np.asarray(dense, dtype=float)
        if array.ndim == 0:
            return cls(name, unit, {}, np.zeros((0, 1), dtype=np.int64), array.reshape(1))
        codes = np.array(np.nonzero(array), dtype=np.int64)
        return cls(name, unit, dict(labels), codes, array[tuple(codes)])

    def dense(self) -> FloatArray:
        """The whole array, zeros included."""
        if not self.labels:
            return np.asarray(self.values.sum())
        result = np.zeros(self.shape)
        result[tuple(self.codes)] = self.values
        return result

    def total_over(self, *kept: str) -> FloatArray:
        """Dense sums over every axis that is not kept, in the order given."""
        if not kept:
            return np.asarray(math.fsum(self.values), dtype=float)
        position = [self._row(axis) for axis in kept]
        shape = tuple(len(self.labels[axis]) for axis in kept)
        flat = np.ravel_multi_index(tuple(self.codes[position]), shape)
        return np.bincount(flat, self.values, math.prod(shape)).astype(float).reshape(shape)

    def to_frame(self) -> Any:
        """Long pandas frame: one row a stored number, a column an axis, then ``name [unit]``.

        Raises
        ------
        ImportError
            If pandas is not installed (``pip install greenopt[frames]``).
        """
        pd = load_pandas()
        columns: dict[str, Any] = {
            axis: np.array(members, dtype=object)[self.codes[i]]
            for i, (axis, members) in enumerate(self.labels.items())
        }
        return pd.DataFrame({**columns, f"{self.name} [{self.unit}]": self.values})

    def document(self, shared_labels: Mapping[str, Sequence[str]]) -> dict[str, Any]:
        """JSON form; labels that equal the file's shared ones are left to it."""
        own = {a: list(m) for a, m in self.labels.items() if tuple(shared_labels.get(a, ())) != m}
        return {
            "unit": self.unit,
            "axes": list(self.axes),
            **({"labels": own} if own else {}),
            "codes": {axis: self.codes[i].tolist() for i, axis in enumerate(self.axes)},
            "values": self.values.tolist(),
        }
