"""Measured configurations of serving: energy, power, throughput and latency."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import pairwise
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from greenopt.datasets._measured import (
    JOULES,
    SECONDS,
    WATTS,
    Columns,
    Layout,
    chosen,
    column_of,
    disagreeing,
    finished,
    positive,
    read_columns,
    too_long_between_tokens,
    too_much_power,
)
from greenopt.datasets._tables import (
    AnyPath,
    FloatArray,
    Table,
    read_table,
    refuse_ragged,
    report,
)
from greenopt.datasets.measured import Boundary, Measurements
from greenopt.errors import Problem

TEXTS = ("model", "gpu", "task")
"""Columns of names."""

NUMBERS: Mapping[str, Mapping[str, float]] = MappingProxyType(
    {
        "gpus": {},
        "batch": {},
        "batch_limit": {},
        "requests_per_s": {},
        "output_tokens_per_s": {},
        "output_tokens_mean": {},
        "energy_per_request_j": JOULES,
        "power_w": WATTS,
        "itl_mean_s": SECONDS,
        "itl_p50_s": SECONDS,
        "itl_p90_s": SECONDS,
        "itl_p95_s": SECONDS,
        "itl_p99_s": SECONDS,
    }
)
"""Columns of numbers, each with the units it can be read in and what they are multiplied by.

gpus are those of one instance; batch is the mean number of requests served together; batch_limit
the most that the server takes together; requests_per_s and output_tokens_per_s are those of the
instance; output_tokens_mean is that of a request; power_w that of all GPUs of the instance; itl is
the time between output tokens.
"""

_KNOWN = Columns(TEXTS, NUMBERS)
_PERCENTILES = ("itl_p50_s", "itl_p90_s", "itl_p95_s", "itl_p99_s")

_V2: Layout = {
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
_V3: Layout = {
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


def read_energy_measurements(
    path: AnyPath,
    *,
    columns: Layout | None = None,
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
        For another layout: the file's column for each of `TEXTS` and `NUMBERS` that it has, or the
        column and its unit, as in ``{"power_w": ("power", "mW")}``. Energy can be in J, mJ, kJ, Wh
        or kWh, power in W, mW or kW, times in s or ms.
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
    name, layout, product, boundary = chosen(table, _KNOWN, _LAYOUTS, columns, boundary)
    found, notes = read_columns(table, layout, _KNOWN)
    if product:
        found["gpus"] = np.prod([positive(table, factor, {}) for factor in product], axis=0)
        notes.append(f"gpus is {' times '.join(product)}")
    if name == "ML.ENERGY v2":
        notes.append("itl_mean_s is Avg TPOT (s)")
    _refuse_beyond_belief(table, layout, found)
    notes += _derive(found) + _disagreeing(found) + _repeated(found)
    return finished(table, name, boundary, found, _KNOWN, notes)


def _refuse_beyond_belief(table: Table, layout: Layout, found: Mapping[str, NDArray[Any]]) -> None:
    """Refuse what looks like another unit, and percentiles out of order."""
    problems = []
    if "power_w" in found:
        problems += too_much_power(layout, "power_w", found["power_w"] / found.get("gpus", 1))
    for name in ("itl_mean_s", *_PERCENTILES):
        if name in found:
            problems += too_long_between_tokens(layout, name, found[name])
    ordered = [name for name in _PERCENTILES if name in found]
    for low, high in pairwise(ordered):
        for i in np.flatnonzero(found[low] > found[high]):
            what = f"means {found[high][i]:g} s, below {found[low][i]:g} s of {low}"
            where = f"data row {i + 1}, column {column_of(layout[high])!r}"
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
    product = found["energy_per_request_j"] * found["requests_per_s"]
    words = ("energy per request times requests per second", "the power")
    return disagreeing(product, found["power_w"], words)


def _repeated(found: Mapping[str, NDArray[Any]]) -> list[str]:
    names = [n for n in ("model", "gpu", "task", "gpus", "batch_limit") if n in found]
    keys = list(zip(*(found[name].tolist() for name in names), strict=True))
    count = len(keys) - len(set(keys))
    if not count:
        return []
    return [f"{count} rows repeat another in {', '.join(names)}; they differ in other columns"]
