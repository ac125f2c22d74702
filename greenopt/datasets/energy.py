"""Measured configurations of serving: energy, power, throughput and latency."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from itertools import pairwise
from types import MappingProxyType
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from greenopt.datasets._tables import (
    AnyPath,
    FloatArray,
    Table,
    read_table,
    refuse,
    refuse_ragged,
    report,
)
from greenopt.errors import Problem

TEXTS = ("model", "gpu", "task")
"""Columns of names."""

_SECONDS = {"s": 1.0, "ms": 1e-3}
_JOULES = {"J": 1.0, "kJ": 1e3, "Wh": 3600.0, "kWh": 3.6e6}
_WATTS = {"W": 1.0, "mW": 1e-3, "kW": 1e3}

NUMBERS: Mapping[str, Mapping[str, float]] = MappingProxyType(
    {
        "gpus": {},
        "batch": {},
        "batch_limit": {},
        "requests_per_s": {},
        "output_tokens_per_s": {},
        "output_tokens_mean": {},
        "energy_per_request_j": _JOULES,
        "power_w": _WATTS,
        "itl_mean_s": _SECONDS,
        "itl_p50_s": _SECONDS,
        "itl_p90_s": _SECONDS,
        "itl_p95_s": _SECONDS,
        "itl_p99_s": _SECONDS,
    }
)
"""Columns of numbers, each with the units it can be read in and what they are multiplied by."""

LARGEST_POWER_PER_GPU_W = 3000.0
"""No accelerator draws more; a file above is in mW (our rule)."""

LARGEST_ITL_S = 10.0
"""No one waits longer for a token; a file above is in ms (our rule)."""

Boundary = Literal["gpu", "server", "facility"]
Source = str | tuple[str, str]
_Layout = Mapping[str, Source]

_PERCENTILES = ("itl_p50_s", "itl_p90_s", "itl_p95_s", "itl_p99_s")
_AGREE = 0.05

_V2: _Layout = {
    "model": "Model",
    "gpu": "GPU",
    "task": "task",
    "batch": "Avg BS (reqs)",
    "batch_limit": "Max BS (reqs)",
    "output_tokens_per_s": "Token tput (tok/s)",
    "output_tokens_mean": "Avg Output Tokens",
    "energy_per_request_j": "Energy/req (J)",
    "itl_mean_s": "Avg TPOT (s)",
}
_V3: _Layout = {
    "model": "model_id",
    "gpu": "gpu_model",
    "task": "task",
    "gpus": "num_gpus",
    "batch": "avg_batch_size",
    "batch_limit": "max_num_seqs",
    "output_tokens_per_s": "output_throughput_tokens_per_sec",
    "output_tokens_mean": "avg_output_len",
    "energy_per_request_j": "energy_per_request_joules",
    "power_w": "avg_power_watts",
    "itl_p50_s": ("median_itl_ms", "ms"),
    "itl_p90_s": ("p90_itl_ms", "ms"),
    "itl_p95_s": ("p95_itl_ms", "ms"),
    "itl_p99_s": ("p99_itl_ms", "ms"),
}
_LAYOUTS = {"ML.ENERGY v2": (_V2, ("TP", "PP")), "ML.ENERGY v3": (_V3, ())}


@dataclass(frozen=True, eq=False)
class Measurements:
    """Measured configurations, one a row.

    Attributes
    ----------
    source : str
        Path of the file.
    layout : str
        "ML.ENERGY v2", "ML.ENERGY v3" or "own".
    boundary : {"gpu", "server", "facility"} or None
        Whose energy and power it is; None where a file of one's own does not say.
    columns : dict of str to ndarray, shape (n_rows,)
        Names (`TEXTS`): model, gpu, task. Numbers (`NUMBERS`): gpus, the GPUs of one instance;
        batch, the mean number of requests served together; batch_limit, the most that the server
        takes together; requests_per_s and output_tokens_per_s of the instance; output_tokens_mean
        of a request; energy_per_request_j, J; power_w of all its GPUs, W; itl_mean_s, itl_p50_s,
        itl_p90_s, itl_p95_s, itl_p99_s, the time between output tokens, s. What a layout lacks is
        NaN, or empty for names, and stands in the notes.
    notes : tuple of str
        What is derived, what is lacking, what was found.
    """

    source: str
    layout: str
    boundary: Boundary | None
    columns: Mapping[str, NDArray[Any]]
    notes: tuple[str, ...]

    def __len__(self) -> int:
        """Number of configurations."""
        return len(self.columns["model"])

    def __repr__(self) -> str:
        return (
            f"<measurements ({self.layout}): {len(self)} configurations, boundary {self.boundary}>"
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
        return replace(self, columns=_frozen({n: c[keep] for n, c in self.columns.items()}))


def read_energy_measurements(
    path: AnyPath,
    *,
    columns: Mapping[str, Source] | None = None,
    boundary: Boundary | None = None,
) -> Measurements:
    """Table of measured configurations.

    The layouts of the ML.ENERGY leaderboard, versions 2 and 3, are recognised by their header;
    their energy is that of the GPUs. What follows from other columns is derived and stated:
    requests per second from tokens per second and tokens of a request, and power and energy of a
    request from each other (which agree within 0.4 % in version 3, that gives both).

    Parameters
    ----------
    path : path
        CSV file with a header, plain or ``.gz``.
    columns : dict of str to str or (str, str), optional
        For another layout: the file's column for each of `Measurements.columns` that it has, or the
        column and its unit, as in ``{"power_w": ("power", "mW")}``. Energy can be in J, kJ, Wh or
        kWh, power in W, mW or kW, times in s or ms.
    boundary : {"gpu", "server", "facility"}, optional
        Whose energy and power another layout gives.

    Raises
    ------
    InputError
        Naming file, row, column, value and expectation: a header of neither layout, cells that are
        not numbers above 0, percentiles that are not in order, values that look like another unit.
    """
    table = read_table(path)
    refuse_ragged(table)
    if columns is not None:
        name, layout, product = "own", columns, tuple[str, ...]()
        _refuse_mapping(table, columns, boundary)
    else:
        name, layout, product = _recognised(table)
        if boundary not in (None, "gpu"):
            refuse(
                path, "boundary", f"is {boundary!r}; expected 'gpu', which is what {name} measures"
            )
        boundary = "gpu"
    found: dict[str, NDArray[Any]] = {}
    for column in TEXTS:
        if column in layout:
            found[column] = _names(table, str(layout[column]))
    for column, units in NUMBERS.items():
        if column in layout:
            found[column] = _positive(table, layout[column], units)
    notes = []
    if product:
        found["gpus"] = np.prod([_positive(table, factor, {}) for factor in product], axis=0)
        notes.append(f"gpus is {' times '.join(product)}")
    if name == "ML.ENERGY v2":
        notes.append("itl_mean_s is Avg TPOT (s)")
    _refuse_beyond_belief(table, layout, found)
    notes += _derive(found) + _disagreeing(found) + _repeated(found)
    lacking = [column for column in (*TEXTS, *NUMBERS) if column not in found]
    if lacking:
        notes.append(f"the file does not give {', '.join(lacking)}")
    if boundary is None:
        notes.append("whose energy and power this is (boundary) is not stated")
    rows = len(table.rows)
    every = {column: found.get(column, np.full(rows, "")) for column in TEXTS}
    every |= {column: found.get(column, np.full(rows, np.nan)) for column in NUMBERS}
    return Measurements(str(path), name, boundary, _frozen(every), tuple(notes))


def _recognised(table: Table) -> tuple[str, _Layout, tuple[str, ...]]:
    """The layout that the header has."""
    for name, (layout, product) in _LAYOUTS.items():
        wanted = [*map(_column, layout.values()), *product]
        if set(wanted) <= set(table.columns):
            return name, layout, product
    shown = ", ".join(map(repr, table.columns))
    what = f"is {shown}; expected that of {' or '.join(_LAYOUTS)}, or columns= for another"
    refuse(table.path, "header", what)


def _column(source: Source) -> str:
    return source if isinstance(source, str) else source[0]


def _refuse_mapping(table: Table, columns: Mapping[str, Source], boundary: str | None) -> None:
    problems = []
    for name, source in columns.items():
        units = NUMBERS.get(name, {})
        if name not in (*TEXTS, *NUMBERS):
            known = ", ".join(map(repr, (*TEXTS, *NUMBERS)))
            problems.append(Problem("columns", f"names {name!r}; expected some of {known}"))
        elif not isinstance(source, str) and (len(source) != 2 or source[1] not in units):
            known = " or ".join(map(repr, units)) or "no unit"
            problems.append(Problem(f"columns[{name!r}]", f"is {source!r}; expected {known}"))
    if boundary not in (None, "gpu", "server", "facility"):
        what = f"is {boundary!r}; expected 'gpu', 'server' or 'facility'"
        problems.append(Problem("boundary", what))
    if "model" not in columns:
        problems.append(Problem("columns", "has no 'model'; expected the column of models"))
    report(table.path, problems)
    table.require([_column(source) for source in columns.values()])


def _names(table: Table, column: str) -> NDArray[np.str_]:
    cells = table.cells(column)
    problems = [
        Problem(f"data row {i + 1}, column {column!r}", "is blank; expected a name")
        for i, cell in enumerate(cells)
        if not cell
    ]
    report(table.path, problems)
    return np.array(cells)


def _positive(table: Table, source: Source, units: Mapping[str, float]) -> FloatArray:
    column = _column(source)
    values = table.numbers([column])[:, 0]
    problems = [
        Problem(f"data row {i + 1}, column {column!r}", f"is {values[i]:g}; expected above 0")
        for i in np.flatnonzero(values <= 0)
    ]
    report(table.path, problems)
    return values if isinstance(source, str) else values * units[source[1]]


def _refuse_beyond_belief(table: Table, layout: _Layout, found: Mapping[str, NDArray[Any]]) -> None:
    """Refuse what looks like another unit, and percentiles out of order."""
    problems = []
    if "power_w" in found:
        each = found["power_w"] / found.get("gpus", 1)
        for i in np.flatnonzero(each > LARGEST_POWER_PER_GPU_W):
            what = (
                f"means {each[i]:g} W for each GPU; expected at most {LARGEST_POWER_PER_GPU_W:g} W"
            )
            where = f"data row {i + 1}, column {_column(layout['power_w'])!r}"
            problems.append(Problem(where, f"{what}; is it in mW?"))
    given = [name for name in ("itl_mean_s", *_PERCENTILES) if name in found]
    for name in given:
        for i in np.flatnonzero(found[name] > LARGEST_ITL_S):
            what = (
                f"means {found[name][i]:g} s between tokens; expected at most {LARGEST_ITL_S:g} s"
            )
            where = f"data row {i + 1}, column {_column(layout[name])!r}"
            problems.append(Problem(where, f"{what}; is it in ms?"))
    ordered = [name for name in _PERCENTILES if name in found]
    for low, high in pairwise(ordered):
        for i in np.flatnonzero(found[low] > found[high]):
            what = f"means {found[high][i]:g} s, below {found[low][i]:g} s of {low}"
            where = f"data row {i + 1}, column {_column(layout[high])!r}"
            problems.append(Problem(where, f"{what}; expected at least that"))
    report(table.path, problems)


def _derive(found: dict[str, NDArray[Any]]) -> list[str]:
    """Fill in what follows from other columns, and say so."""
    rules: list[tuple[str, str, str, Callable[[FloatArray, FloatArray], FloatArray]]] = [
        ("requests_per_s", "output_tokens_per_s", "output_tokens_mean", np.divide),
        ("power_w", "energy_per_request_j", "requests_per_s", np.multiply),
        ("energy_per_request_j", "power_w", "requests_per_s", np.divide),
    ]
    notes = []
    for name, first, second, rule in rules:
        if name not in found and first in found and second in found:
            found[name] = rule(found[first], found[second])
            word = "divided by" if rule is np.divide else "times"
            notes.append(f"{name} is derived: {first} {word} {second}")
    return notes


def _disagreeing(found: Mapping[str, NDArray[Any]]) -> list[str]:
    """Rows whose power is not their energy times their rate."""
    if not {"power_w", "energy_per_request_j", "requests_per_s"} <= set(found):
        return []
    ratio = found["energy_per_request_j"] * found["requests_per_s"] / found["power_w"]
    count = int(np.count_nonzero(np.abs(ratio - 1) > _AGREE))
    if not count:
        return []
    worst = ratio[np.argmax(np.abs(ratio - 1))]
    return [
        f"in {count} of {len(ratio)} rows energy per request times requests per second is more "
        f"than {_AGREE:.0%} off the power (at worst {worst:.3g} times it)"
    ]


def _repeated(found: Mapping[str, NDArray[Any]]) -> list[str]:
    names = [n for n in ("model", "gpu", "task", "gpus", "batch_limit") if n in found]
    keys = list(zip(*(found[name].tolist() for name in names), strict=True))
    count = len(keys) - len(set(keys))
    if not count:
        return []
    return [f"{count} rows repeat another in {', '.join(names)}; they differ in other columns"]


def _frozen(columns: Mapping[str, NDArray[Any]]) -> Mapping[str, NDArray[Any]]:
    for column in columns.values():
        column.setflags(write=False)
    return MappingProxyType(dict(columns))
