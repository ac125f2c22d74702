"""What an instance holds: size, time, ranges of its series and of its model's coefficients."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from greenopt.instance import AxisArray, Instance, Quantity
from greenopt.model import Block, Model
from greenopt.problems import part
from greenopt.showing import showing
from greenopt.solvers.decomposing import LEAST_COLUMNS, parts_of
from greenopt.solvers.scaling import scale
from greenopt.validation import Part

WIDE = 1e8
"""Ratio of coefficients above which double precision leaves little of the smaller ones: tolerances
of solvers are 1e-7 to 1e-9."""

LARGE_COLUMNS = 100_000
"""Linear programs from this size on are solved faster part by part, if they have parts."""

REMEDIES = {
    "matrix": "choose units that bring them together, of a custom metric or of reference requests",
    "objective": "bring the terms together by weight and scale, or give each a stage of its own",
    "bounds": "look for a series in another unit than the file says, or a limit that never binds",
    "right-hand sides": "look for a series in another unit than the file says, or a limit that "
    "never binds",
}
"""What to do about a wide range."""


class Spread(NamedTuple):
    """Smallest and largest absolute value above 0 of some coefficients, and where they stand."""

    smallest: float
    largest: float
    smallest_in: str
    largest_in: str

    @property
    def ratio(self) -> float:
        """How many times the smallest the largest is."""
        return self.largest / self.smallest


def describe(instance: Instance) -> dict[str, Any]:
    """Size, ranges, model, structure and provenance of an instance, ready for JSON.

    Parameters
    ----------
    instance : Instance
        What to describe. Its model is built.

    Returns
    -------
    dict
        "instance", "problem", "sha256", "provenance", "sets" (sizes), what the problem tells of its
        data (of placement "time" and "demand_requests"), "series" (ranges by field), what it tells
        of its model (of placement the "groups" of levels), "model" (sizes), "coefficients"
        (ranges), "structure" and "warnings". Ranges without any value are null.
    """
    formulation = part(instance.problem, "formulation").formulate(instance)
    own = showing(instance.problem)
    spreads = coefficient_spreads(instance, formulation)
    document = instance.document()
    return {
        "instance": document["name"],
        "problem": instance.problem,
        "sha256": instance.sha256,
        "provenance": document["provenance"],
        "sets": {axis: len(members) for axis, members in instance.sets.items()},
        **{name: fact.of(instance) for name, fact in own.FACTS.items()},
        "series": dict(_series(instance)),
        **{name: fact.of(formulation) for name, fact in own.MODEL_FACTS.items()},
        "model": _model(formulation.model),
        "coefficients": {
            name: None if spread is None else {**spread._asdict(), "ratio": spread.ratio}
            for name, spread in spreads.items()
        },
        "structure": _structure(formulation.model),
        "warnings": [
            _warning(name, spread)
            for name, spread in spreads.items()
            if spread is not None and spread.ratio > WIDE
        ],
    }


# -- series --------------------------------------------------------------------------------------


def _series(instance: Instance) -> Iterator[tuple[str, dict[str, Any]]]:
    """Ranges of every array of numbers, those of metrics and limits included."""
    for name, field in type(instance).model_fields.items():
        value = getattr(instance, name)
        if isinstance(value, np.ndarray):
            yield name, _range(value, _quantity(field))
        if isinstance(value, tuple):
            for member in value:
                yield from _member_series(name, member)


def _member_series(name: str, member: Any) -> Iterator[tuple[str, dict[str, Any]]]:
    for inner, field in type(member).model_fields.items() if isinstance(member, Part) else ():
        own = getattr(member, inner)
        if isinstance(own, AxisArray):
            yield (
                f"{name}.{getattr(member, 'name', '')}.{inner}",
                _range(own.values, _quantity(field)),
            )


def _quantity(field: Any) -> Quantity:
    found: Quantity = next(m for m in field.metadata if isinstance(m, Quantity))
    return found


def _range(values: Any, quantity: Quantity) -> dict[str, Any]:
    """Range of the finite values; a mask counts as 0 and 1."""
    numbers = np.asarray(values, dtype=float)
    finite = numbers[np.isfinite(numbers)]
    low, middle, high = (
        (float(finite.min()), float(np.median(finite)), float(finite.max()))
        if finite.size
        else (None, None, None)
    )
    return {
        "unit": "1 if allowed" if quantity.boolean else quantity.unit,
        "min": low,
        "median": middle,
        "max": high,
        "entries": int(numbers.size),
        "negative": int((finite < 0).sum()),
        "null": int(numbers.size - finite.size),
    }


# -- model ---------------------------------------------------------------------------------------


def _model(model: Model) -> dict[str, Any]:
    return {
        "columns": model.matrix.shape[1],
        "rows": model.matrix.shape[0],
        "coefficients": int(model.matrix.nnz),
        "integer": int(model.integer.sum()),
        "column_blocks": {name: block.size for name, block in model.columns.items()},
        "row_blocks": {name: block.size for name, block in model.rows.items()},
    }


def coefficient_spreads(instance: Any, formulation: Any) -> dict[str, Spread | None]:
    """Ranges of matrix, objective by stage, bounds and right-hand sides; None if all are 0.

    Parameters
    ----------
    instance : Instance
        What is modelled.
    formulation
        Its formulation, with a `model` and, where the stages of the objective have terms,
        `term_vector(term)`: a term's coefficients over the model's columns. Without it, the range
        of an objective names blocks of columns.
    """
    model: Model = formulation.model
    row_of, column_of = _block_of(model.rows), _block_of(model.columns)
    entries = model.matrix.tocoo()
    names = [f"{row} x {column}" for row in model.rows for column in model.columns]
    pair = row_of[entries.row] * len(model.columns) + column_of[entries.col]
    found = {"matrix": _spread(entries.data, pair, names)}
    for number, stage in enumerate(model.stages):
        name = "objective" if len(model.stages) == 1 else f"objective, stage {number + 1}"
        found[name] = _spread(stage.c, column_of, list(model.columns))
        if hasattr(formulation, "term_vector"):
            terms = instance.objective[number].terms
            found[name] = _by_term(found[name], terms, formulation)
    for name, (lower, upper), blocks, which in (
        ("bounds", (model.column_lower, model.column_upper), model.columns, column_of),
        ("right-hand sides", (model.row_lower, model.row_upper), model.rows, row_of),
    ):
        both = np.concatenate([lower, upper])
        found[name] = _spread(both, np.concatenate([which, which]), list(blocks))
    return found


def _by_term(whole: Spread | None, terms: Sequence[Any], formulation: Any) -> Spread | None:
    """Range of a stage's coefficients, with the metrics whose terms are smallest and largest."""
    vectors = [formulation.term_vector(term) for term in terms]
    which = np.repeat(np.arange(len(terms)), [len(vector) for vector in vectors])
    parts = _spread(np.concatenate(vectors), which, [term.metric for term in terms])
    if whole is None or parts is None:
        return None
    return Spread(whole.smallest, whole.largest, parts.smallest_in, parts.largest_in)


def _block_of(blocks: Mapping[str, Block]) -> Any:
    """Number of the block of every column or row."""
    return np.repeat(np.arange(len(blocks)), [block.size for block in blocks.values()])


def _spread(values: Any, which: Any, names: list[str]) -> Spread | None:
    """Range of absolute values that are neither 0 nor infinite, with the name of each's place."""
    size = np.abs(np.asarray(values, dtype=float))
    used = np.flatnonzero((size > 0) & np.isfinite(size))
    if not used.size:
        return None
    low, high = used[np.argmin(size[used])], used[np.argmax(size[used])]
    return Spread(float(size[low]), float(size[high]), names[which[low]], names[which[high]])


def _warning(name: str, spread: Spread) -> str:
    remedy = REMEDIES[name.split(",")[0]]
    return (
        f"coefficients of {name} differ by a factor of {spread.ratio:.1e}, from "
        f"{spread.smallest:.2g} in {spread.smallest_in} to {spread.largest:.2g} in "
        f"{spread.largest_in}, more than {WIDE:.0e}; solvers' tolerances may hide the smaller "
        f"ones, though rows and columns are scaled: {remedy}"
    )


def _structure(model: Model) -> dict[str, Any]:
    """Independent parts once the dense rows are left out, and what solver suits them.

    Whole numbers are left aside: they do not hold parts together.
    """
    stage = model.stages[0]
    parts = parts_of(scale(model, stage.c, q=stage.q, relax=True))
    if parts is None:
        return {"parts": 1, "least_columns": LEAST_COLUMNS, "coupling": {}, "solver": None}
    row_of, names = _block_of(model.rows), list(model.rows)
    block, count = np.unique(row_of[parts.coupling], return_counts=True)
    suits = not model.is_integer and model.matrix.shape[1] >= LARGE_COLUMNS
    return {
        "parts": len(parts.columns),
        "least_columns": LEAST_COLUMNS,
        "coupling": {names[b]: int(n) for b, n in zip(block, count, strict=True)},
        "solver": "decomposition" if suits else None,
    }
