"""Model: a linear or mixed-integer program as sparse arrays with named, indexed blocks.

Nothing here knows about carbon. Minimisation everywhere.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from scipy import sparse

from greenopt.labelled import FloatArray, IntArray, LabelledArray


@dataclass(frozen=True, eq=False)
class Block:
    """Consecutive columns or rows of one name, each with a position on named axes.

    Attributes
    ----------
    name : str
        As on the formulation page.
    codes : dict of str to ndarray of int
        Position of every member along each axis.
    start, size : int
        Place in the model's columns or rows.
    """

    name: str
    codes: Mapping[str, IntArray]
    start: int
    size: int

    @property
    def slice(self) -> slice:
        """Where the block stands."""
        return slice(self.start, self.start + self.size)

    @property
    def positions(self) -> IntArray:
        """Position of every member among the model's columns or rows."""
        return np.arange(self.start, self.start + self.size)


@dataclass(frozen=True, eq=False)
class StageObjective:
    """One stage of a lexicographic objective, ``c·x + 1/2 x·Qx``.

    Attributes
    ----------
    c : ndarray
        Linear coefficients.
    tolerance : float
        Worsening that later stages may use.
    q : sparse array, shape (n, n), or None
        Symmetric and positive semidefinite quadratic coefficients, if there are any.
    """

    c: FloatArray
    tolerance: float
    q: Any = None

    def value(self, x: FloatArray) -> float:
        """The objective at a point."""
        return float(self.c @ x) + (0.0 if self.q is None else 0.5 * float(x @ (self.q @ x)))

    def size(self, x: FloatArray) -> float:
        """Sum of the absolute terms at a point, which no rounding can undo."""
        linear = float(np.abs(self.c * x).sum())
        return linear if self.q is None else linear + 0.5 * float(np.abs(x) @ abs(self.q @ x))

    def bound(self, model: Model, x: FloatArray, row_dual: FloatArray) -> float:
        """Weak-duality bound of row multipliers; a convex quadratic lies above its tangent at x."""
        if self.q is None:
            return dual_bound(model, self.c, row_dual)
        gradient = self.c + self.q @ x
        return dual_bound(model, gradient, row_dual) - 0.5 * float(x @ (self.q @ x))


@dataclass(frozen=True, eq=False)
class Directions:
    """Ways to change right-hand sides, one unit of each.

    Attributes
    ----------
    unit : str
        What one unit is: "request", "GPU".
    labels : dict of str to tuple of str
        Axes and labels of the directions.
    codes : ndarray of int, shape (n_axes, n)
        Position of each direction.
    rows : scipy.sparse.csc_array, shape (n_rows, n)
        Change of each row's bounds.
    count : ndarray, shape (n,)
        Change of what means are divided by.
    """

    unit: str
    labels: Mapping[str, tuple[str, ...]]
    codes: IntArray
    rows: Any
    count: FloatArray


@dataclass(frozen=True, eq=False)
class Model:
    """``min c·x`` subject to row and column bounds, integrality flags, labels.

    Attributes
    ----------
    name : str
        Name of the instance.
    labels : dict of str to tuple of str
        Labels of every axis used by the blocks.
    columns, rows : dict of str to Block
        Blocks in order.
    matrix : scipy.sparse.csr_array, shape (n_rows, n_columns)
        Coefficients.
    row_lower, row_upper, column_lower, column_upper : ndarray
        Bounds; infinite where absent.
    integer : ndarray of bool
        Integrality of columns.
    stages : tuple of StageObjective
        Objectives minimised in order.
    """

    name: str
    labels: Mapping[str, tuple[str, ...]]
    columns: Mapping[str, Block]
    rows: Mapping[str, Block]
    matrix: Any
    row_lower: FloatArray
    row_upper: FloatArray
    column_lower: FloatArray
    column_upper: FloatArray
    integer: Any
    stages: tuple[StageObjective, ...]

    @property
    def is_integer(self) -> bool:
        """Whether any column must be integer."""
        return bool(self.integer.any())

    @cached_property
    def column_names(self) -> list[str]:
        """A name a column, ``flow_period3_origin0_...``: valid in MPS and LP files."""
        return _names(self.columns)

    @cached_property
    def row_names(self) -> list[str]:
        """A name a row."""
        return _names(self.rows)

    def pick(self, block: Block, unit: str, values: Any, name: str | None = None) -> LabelledArray:
        """Nonzero values of one block (of columns or rows) as a labelled array."""
        part = np.asarray(values)[block.slice]
        kept = np.flatnonzero(part)
        codes = np.array([c[kept] for c in block.codes.values()], dtype=np.int64)
        labels = {axis: self.labels[axis] for axis in block.codes}
        return LabelledArray(
            name or block.name, unit, labels, codes.reshape(len(labels), len(kept)), part[kept]
        )

    def with_row(self, name: str, coefficients: FloatArray, upper: float) -> Model:
        """The same model with one more row ``coefficients·x <= upper``."""
        row = sparse.csr_array(coefficients.reshape(1, -1))
        block = Block(name, {}, self.matrix.shape[0], 1)
        return Model(
            **{
                **self.__dict__,
                "rows": {**self.rows, name: block},
                "matrix": sparse.vstack([self.matrix, row], format="csr"),
                "row_lower": np.append(self.row_lower, -np.inf),
                "row_upper": np.append(self.row_upper, upper),
            }
        )


def dual_bound(model: Model, c: FloatArray, row_dual: FloatArray) -> float:
    """Weak-duality bound of any row multipliers, after clipping those of the wrong sign.

    Rows ``lower <= Ax <= upper`` and columns between their bounds; a multiplier on a row without
    the bound it leans on is set to zero, so that the result is a bound whatever came in. Minus
    infinity if an unbounded column has a nonzero reduced cost.
    """
    dual = clipped(model, row_dual)
    side = np.where(dual > 0, model.row_lower, model.row_upper)
    rows = np.where(dual != 0, dual * np.where(dual != 0, side, 0.0), 0.0)
    reduced = c - model.matrix.T @ dual
    bound = np.where(reduced > 0, model.column_lower, model.column_upper)
    columns = np.where(reduced != 0, reduced * np.where(reduced != 0, bound, 0.0), 0.0)
    return float(rows.sum() + columns.sum())


def clipped(model: Model, row_dual: FloatArray) -> FloatArray:
    """Row multipliers with those of the wrong sign, leaning on a bound that is not there, at 0."""
    dual = np.where(np.isfinite(model.row_lower), row_dual, np.minimum(row_dual, 0.0))
    return np.where(np.isfinite(model.row_upper), dual, np.maximum(dual, 0.0))


def _names(blocks: Mapping[str, Block]) -> list[str]:
    names: list[str] = []
    for block in blocks.values():
        parts = [np.char.add(f"_{axis}", codes.astype(str)) for axis, codes in block.codes.items()]
        whole = np.full(block.size, block.name, dtype=object)
        for part in parts:
            whole = whole + part.astype(object)
        names.extend(whole.tolist())
    return names


@dataclass
class Builder:
    """Collects blocks of columns and rows and their coefficients, then makes a `Model`."""

    name: str
    labels: Mapping[str, tuple[str, ...]]
    columns: dict[str, Block] = field(default_factory=dict)
    rows: dict[str, Block] = field(default_factory=dict)
    _column_bounds: list[tuple[Any, Any, Any]] = field(default_factory=list)
    _row_bounds: list[tuple[Any, Any]] = field(default_factory=list)
    _entries: list[tuple[IntArray, IntArray, FloatArray]] = field(default_factory=list)

    def add_columns(
        self,
        name: str,
        codes: Mapping[str, IntArray],
        lower: Any,
        upper: Any,
        integer: Any = False,
    ) -> Block:
        """Append a block of columns."""
        block = self._block(self.columns, name, codes)
        shape = (block.size,)
        self._column_bounds.append(
            (
                np.broadcast_to(np.asarray(lower, float), shape),
                np.broadcast_to(np.asarray(upper, float), shape),
                np.broadcast_to(np.asarray(integer, dtype=bool), shape),
            )
        )
        return block

    def add_rows(self, name: str, codes: Mapping[str, IntArray], lower: Any, upper: Any) -> Block:
        """Append a block of rows."""
        block = self._block(self.rows, name, codes)
        shape = (block.size,)
        self._row_bounds.append(
            (
                np.broadcast_to(np.asarray(lower, float), shape),
                np.broadcast_to(np.asarray(upper, float), shape),
            )
        )
        return block

    def add_entries(self, rows: Any, columns: Any, values: Any) -> None:
        """Add coefficients; positions are global, arrays broadcast, zeros are dropped."""
        r, c, v = np.broadcast_arrays(rows, columns, np.asarray(values, dtype=float))
        kept = v.ravel() != 0
        self._entries.append((r.ravel()[kept], c.ravel()[kept], v.ravel()[kept]))

    @property
    def n_columns(self) -> int:
        """Columns so far."""
        return sum(block.size for block in self.columns.values())

    @property
    def column_upper(self) -> FloatArray:
        """Upper bounds of the columns so far."""
        return np.concatenate([upper for _, upper, _ in self._column_bounds])

    def build(self, stages: Sequence[StageObjective]) -> Model:
        """Assemble the model."""
        n_rows = sum(block.size for block in self.rows.values())
        r, c, v = (_joined([e[i] for e in self._entries]) for i in range(3))
        coo = sparse.coo_array(
            (v.astype(float), (r.astype(np.int32), c.astype(np.int32))),
            shape=(n_rows, self.n_columns),
        )
        lower, upper, integer = (_joined([b[i] for b in self._column_bounds]) for i in range(3))
        row_lower, row_upper = (_joined([b[i] for b in self._row_bounds]) for i in range(2))
        return Model(
            self.name, self.labels, self.columns, self.rows, coo.tocsr(), row_lower, row_upper,
            lower, upper, integer.astype(bool), tuple(stages),
        )  # fmt: skip

    def _block(self, blocks: dict[str, Block], name: str, codes: Mapping[str, IntArray]) -> Block:
        start = sum(block.size for block in blocks.values())
        size = len(next(iter(codes.values()))) if codes else 1
        blocks[name] = Block(name, dict(codes), start, size)
        return blocks[name]


def _joined(parts: list[Any]) -> Any:
    return np.concatenate(parts) if parts else np.zeros(0)
