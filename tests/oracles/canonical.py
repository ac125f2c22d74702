"""Two statements of one model brought to one form: dictionaries keyed by names and positions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from pyomo.environ import Constraint, Var, value
from pyomo.repn import generate_standard_repn

from greenopt.model import Model

PYOMO_NAMES = {f"{name}_row": name for name in ("load", "filled", "running", "site_max")}

Key = tuple[Any, ...]


class Canonical(NamedTuple):
    """Columns with bounds and integrality, rows with bounds and coefficients, the objective."""

    columns: dict[Key, tuple[float, float, bool]]
    rows: dict[Key, tuple[float, float, dict[Key, float]]]
    objective: dict[Key, float]


def of_arrays(model: Model, stage: int) -> Canonical:
    """Canonical form of the fast formulation; rows without coefficients are left out."""
    keys = [key for block in model.columns.values() for key in _keys(block.name, block.codes)]
    row_keys = [key for block in model.rows.values() for key in _keys(block.name, block.codes)]
    columns = {
        key: (float(low), float(high), bool(integer))
        for key, low, high, integer in zip(
            keys, model.column_lower, model.column_upper, model.integer, strict=True
        )
    }
    rows = {}
    matrix = model.matrix
    for i, key in enumerate(row_keys):
        inside = slice(matrix.indptr[i], matrix.indptr[i + 1])
        coefficients = {
            keys[j]: float(v)
            for j, v in zip(matrix.indices[inside], matrix.data[inside], strict=True)
        }
        if coefficients:
            rows[key] = (float(model.row_lower[i]), float(model.row_upper[i]), coefficients)
    c = model.stages[stage].c
    return Canonical(columns, rows, {keys[j]: float(c[j]) for j in np.flatnonzero(c)})


def _keys(name: str, codes: Mapping[str, Any]) -> list[Key]:
    if not codes:
        return [(name,)]
    return [(name, *map(int, key)) for key in zip(*codes.values(), strict=True)]


def of_pyomo(model: Any) -> Canonical:
    """Canonical form of the Pyomo statement; constants move to the right-hand side."""
    columns = {}
    for var in model.component_data_objects(Var):
        low = -np.inf if var.lb is None else float(var.lb)
        high = np.inf if var.ub is None else float(var.ub)
        columns[_pyomo_key(var)] = (low, high, var.is_integer() or var.is_binary())
    rows = {}
    for con in model.component_data_objects(Constraint, active=True):
        repn = generate_standard_repn(con.body)
        low = -np.inf if con.lower is None else value(con.lower) - repn.constant
        high = np.inf if con.upper is None else value(con.upper) - repn.constant
        rows[_pyomo_key(con)] = (low, high, _coefficients(repn))
    return Canonical(columns, rows, _coefficients(generate_standard_repn(model.objective.expr)))


def _coefficients(repn: Any) -> dict[Key, float]:
    assert repn.is_linear()
    found: dict[Key, float] = {}
    for coefficient, var in zip(repn.linear_coefs, repn.linear_vars, strict=True):
        key = _pyomo_key(var)
        found[key] = found.get(key, 0.0) + float(coefficient)
    return {key: number for key, number in found.items() if number != 0}


def _pyomo_key(component: Any) -> Key:
    name = component.parent_component().name
    index = component.index()
    index = () if index is None else index if isinstance(index, tuple) else (index,)
    return (PYOMO_NAMES.get(name, name), *index)


def differences(a: Canonical, b: Canonical, tolerance: float = 1e-9) -> list[str]:
    """Every place where two canonical forms differ beyond relative rounding."""
    found = [f"column {key} only in one" for key in sorted(set(a.columns) ^ set(b.columns))]
    for key in set(a.columns) & set(b.columns):
        same = all(
            _close(x, y, tolerance) for x, y in zip(a.columns[key], b.columns[key], strict=True)
        )
        if not same:
            found.append(f"column {key}: {a.columns[key]} and {b.columns[key]}")
    found += [f"row {key} only in one" for key in sorted(set(a.rows) ^ set(b.rows), key=str)]
    for key in set(a.rows) & set(b.rows):
        (low, high, mine), (low2, high2, theirs) = a.rows[key], b.rows[key]
        size = max(map(abs, mine.values()), default=1.0)
        if not (_close(low, low2, tolerance) and _close(high, high2, tolerance)):
            found.append(f"row {key}: bounds {low, high} and {low2, high2}")
        found += _coefficient_differences(f"row {key}", mine, theirs, tolerance * size)
    size = max(map(abs, a.objective.values()), default=1.0)
    found += _coefficient_differences("objective", a.objective, b.objective, tolerance * size)
    return found


def _coefficient_differences(
    where: str, a: dict[Key, float], b: dict[Key, float], tolerance: float
) -> list[str]:
    return [
        f"{where} at {key}: {a.get(key, 0.0)} and {b.get(key, 0.0)}"
        for key in set(a) | set(b)
        if abs(a.get(key, 0.0) - b.get(key, 0.0)) > tolerance
    ]


def _close(a: float, b: float, tolerance: float) -> bool:
    return a == b or abs(a - b) <= tolerance * max(1.0, abs(a), abs(b))
