"""Points, looked at by greenopt itself: no solver's word is trusted."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from greenopt.labelled import FloatArray
from greenopt.model import Block, Model
from greenopt.solvers.scaling import Scaled

FEASIBILITY = 1e-6
"""Violation allowed on the scaled model, relative to the bound where that is more than one."""

ROUNDING = 1e-9
"""Violation allowed besides, relative to the sum of the absolute terms of a row."""

WHOLE = 1e-6
"""Distance from a whole number that is taken for rounding."""


def value(scaled: Scaled, x: FloatArray) -> tuple[float, float]:
    """The scaled objective at a point, and the sum of its absolute terms."""
    terms = scaled.c * x
    total, size = float(terms.sum()), float(np.abs(terms).sum())
    if scaled.q is None:
        return total, size
    return total + 0.5 * float(x @ (scaled.q @ x)), size + 0.5 * float(
        np.abs(x) @ (abs(scaled.q) @ np.abs(x))
    )


def fault(
    model: Model, scaled: Scaled, x: FloatArray, feasibility: float = FEASIBILITY
) -> str | None:
    """What is most wrong with a point of the scaled model, in the model's names and units."""
    if len(x) != len(scaled.c) or not np.isfinite(x).all():
        return "it has entries that are not finite numbers"
    activity = scaled.matrix @ x
    rounding = ROUNDING * (abs(scaled.matrix) @ np.abs(x))
    columns = _excess(x, scaled.column_lower, scaled.column_upper, feasibility, 0.0)
    rows = _excess(activity, scaled.row_lower, scaled.row_upper, feasibility, rounding)
    parts = np.abs(x - np.round(x)) * scaled.integer / WHOLE
    worst = max(excess.max(initial=0.0) for excess in (columns, rows, parts))
    if worst <= 1.0:
        return None
    if parts.max(initial=0.0) == worst:
        j = int(parts.argmax())
        return f"column {column_name(model, j)} = {x[j]:.9g} is not whole"
    if columns.max(initial=0.0) == worst:
        j, unit = int(columns.argmax()), 1 / scaled.column
        sides, name = (scaled.column_lower[j], scaled.column_upper[j]), column_name(model, j)
        return f"column {name} {_off(x[j], sides, unit[j])}"
    i = int(rows.argmax())
    sides, name = (scaled.row_lower[i], scaled.row_upper[i]), row_name(model, i)
    return f"row {name} {_off(activity[i], sides, scaled.row[i])}"


def _off(value: float, sides: tuple[float, float], unit: float) -> str:
    side = sides[0] if value < sides[0] else sides[1]
    return (
        f"is off by {abs(value - side) / unit:.3g} ({value / unit:.9g} beyond its bound "
        f"{side / unit:.9g})"
    )


def rounded(scaled: Scaled, x: FloatArray) -> FloatArray:
    """The point with whole numbers where it is within rounding of them."""
    known = np.where(np.isfinite(x), x, 0.5)
    near = np.round(known)
    return np.where(scaled.integer & (np.abs(known - near) <= WHOLE), near, x)


def held(scaled: Scaled, x: FloatArray) -> Scaled:
    """The model with columns fixed where a value is given, not where it is not a number."""
    free = np.isnan(x)
    return replace(
        scaled,
        column_lower=np.where(free, scaled.column_lower, x),
        column_upper=np.where(free, scaled.column_upper, x),
        integer=scaled.integer & free,
    )


def column_name(model: Model, position: int) -> str:
    """``flow[period=..., site=...]`` of a column."""
    return _name(model.columns, model.labels, position)


def row_name(model: Model, position: int) -> str:
    """``demand[period=..., class=...]`` of a row."""
    return _name(model.rows, model.labels, position)


def _excess(
    values: FloatArray,
    lower: FloatArray,
    upper: FloatArray,
    feasibility: float,
    rounding: FloatArray | float,
) -> FloatArray:
    """Violation of bounds over what is allowed; above one is too much."""
    short, over = lower - values, values - upper
    side = np.where(short > over, lower, upper)
    size = np.maximum(1.0, np.abs(np.where(np.isfinite(side), side, 0.0)))
    room = feasibility * size + rounding
    return np.asarray(np.maximum(short, over) / room)


def _name(blocks: Mapping[str, Block], labels: Mapping[str, tuple[str, ...]], position: int) -> str:
    for block in blocks.values():
        inside = position - block.start
        if 0 <= inside < block.size:
            break
    else:
        return f"number {position}"
    parts = []
    for axis, codes in block.codes.items():
        code = int(codes[inside])
        known = labels.get(axis, ())
        parts.append(f"{axis}={known[code] if code < len(known) else code}")
    return f"{block.name}[{', '.join(parts)}]" if parts else block.name
