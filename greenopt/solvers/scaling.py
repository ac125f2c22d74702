"""Equilibration by powers of two, exact in floating point.

Requests come in millions and their costs in micro-dollars, so a solver's absolute tolerances would
mean nothing. Columns are scaled by their upper bound, rows by their largest entry, the objective by
its median entry unless its largest one would then be too large. Rows with a side of their own are
scaled by it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import sparse

from greenopt.labelled import FloatArray
from greenopt.model import Model

NOISE = 1e-12
"""Sides of rows below this share of the row's largest entry are taken for zero by the scaling."""


def _power_of_two(values: Any) -> FloatArray:
    """Nearest power of two of each positive finite value, 1 elsewhere."""
    good = np.isfinite(values) & (values > 0)
    exponent = np.round(np.log2(np.where(good, values, 1.0)))
    return np.exp2(exponent)


@dataclass(frozen=True, eq=False)
class Scaled:
    """A scaled copy of a model's arrays and the way back.

    Attributes
    ----------
    matrix : scipy.sparse.csc_array
        ``R A C``.
    c, column_lower, column_upper, row_lower, row_upper : ndarray
        Scaled objective and bounds.
    column, row : ndarray
        Diagonals of C and R.
    objective : float
        Factor on the objective.
    integer : ndarray of bool
        Integrality of columns.
    q : scipy.sparse.csc_array or None
        Scaled quadratic term.
    """

    matrix: Any
    c: FloatArray
    column_lower: FloatArray
    column_upper: FloatArray
    row_lower: FloatArray
    row_upper: FloatArray
    column: FloatArray
    row: FloatArray
    objective: float
    integer: Any
    q: Any = None

    @property
    def is_integer(self) -> bool:
        """Whether any column must be integer."""
        return bool(self.integer.any())

    def x(self, scaled: FloatArray) -> FloatArray:
        """Solution of the model from that of the scaled one."""
        return scaled * self.column

    def row_dual(self, scaled: FloatArray) -> FloatArray:
        """Row multipliers of the model from those of the scaled one."""
        return scaled * self.row / self.objective


def scale(
    model: Model, c: FloatArray, spread: float = 1e6, q: Any = None, relax: bool = False
) -> Scaled:
    """Scale a model and one objective; integer columns keep their unit.

    Parameters
    ----------
    model : Model
        What to scale.
    c : ndarray
        The objective.
    spread : float
        Largest scaled cost allowed where the median is scaled to one. Costs far below the largest
        (a penalty, say) drown in a solver's tolerance if it is small, and the solver's arithmetic
        suffers if it is large.
    q : sparse array, optional
        Quadratic term of the objective.
    relax : bool
        Drop integrality. The scaling stays that of the integer model.
    """
    bound = np.maximum(np.abs(model.column_upper), np.abs(model.column_lower))
    column = np.where(model.integer, 1.0, _power_of_two(bound))
    matrix = model.matrix @ sparse.diags_array(column)
    row: FloatArray = np.ones(matrix.shape[0])
    if matrix.nnz:
        largest = abs(matrix).max(axis=1).toarray().ravel()
        # A tolerance is relative to the side of a row where it has one, not to an entry that is
        # huge beside it (a penalty in the row that keeps an earlier stage).
        side = np.abs(np.where(np.isfinite(model.row_upper), model.row_upper, model.row_lower))
        # A side that is a zero but for rounding says nothing about the size of its row.
        unit = np.where(side > NOISE * largest, np.clip(side, largest / 1e8, largest), largest)
        row = np.reciprocal(_power_of_two(np.where(np.isfinite(side), unit, largest)))
    matrix = sparse.csc_array(sparse.diags_array(row) @ matrix) if matrix.nnz else matrix.tocsc()
    scaled_c = c * column
    diagonal = sparse.diags_array(column)
    scaled_q = None if q is None else sparse.csc_array(diagonal @ q @ diagonal)
    costs = np.abs(scaled_c if scaled_q is None else np.append(scaled_c, scaled_q.data))
    costs = costs[costs != 0]
    typical = float(max(np.median(costs), costs.max() / spread)) if costs.size else 1.0
    factor = float(1.0 / _power_of_two(np.array([typical]))[0])
    return Scaled(
        matrix,
        scaled_c * factor,
        model.column_lower / column,
        model.column_upper / column,
        model.row_lower * row,
        model.row_upper * row,
        column,
        row,
        factor,
        np.zeros_like(model.integer) if relax else model.integer,
        None if scaled_q is None else scaled_q * factor,
    )


def unscaled(model: Model, c: FloatArray, q: Any = None) -> Scaled:
    """The model's own arrays in the same form, for export."""
    n_rows, n_columns = model.matrix.shape
    return Scaled(
        sparse.csc_array(model.matrix),
        c,
        model.column_lower,
        model.column_upper,
        model.row_lower,
        model.row_upper,
        np.ones(n_columns),
        np.ones(n_rows),
        1.0,
        model.integer,
        None if q is None else sparse.csc_array(q),
    )
