"""Measured energy and run time of single requests over input and output tokens."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from greenopt.datasets._measured import (
    JOULES,
    SECONDS,
    Columns,
    Layout,
    beyond_belief,
    chosen,
    finished,
    read_columns,
)
from greenopt.datasets._tables import AnyPath, read_table, refuse_ragged, report
from greenopt.datasets.measured import LARGEST_POWER_PER_GPU_W, Boundary, Measurements

TEXTS = ("model", "gpu")
"""Columns of names."""

NUMBERS: Mapping[str, Mapping[str, float]] = MappingProxyType(
    {"gpus": {}, "tokens_in": {}, "tokens_out": {}, "runtime_s": SECONDS, "energy_j": JOULES}
)
"""Columns of numbers, each with the units it can be read in and what they are multiplied by.

tokens_in and tokens_out are those of the request; runtime_s is from start to end; energy_j is that
of all GPUs together.
"""

LEAST_POWER_PER_GPU_W = 1.0
"""A busy accelerator draws more; energy that means less is in kJ or Wh (our rule)."""

BATCH_1 = "batch 1, no KV cache"
"""How the measurements of Wilkins et al. were made; their figures are not those of serving."""

_KNOWN = Columns(
    TEXTS, NUMBERS, ("model", "tokens_in", "tokens_out"), frozenset({"energy_j", "runtime_s"})
)
_WILKINS: Layout = {
    "model": "model",
    "gpus": "gpus",
    "tokens_in": "tokens_in",
    "tokens_out": "tokens_out",
    "runtime_s": "runtime_s",
    "energy_j": "gpu_energy_j",
}
_LAYOUTS: dict[str, tuple[Layout, tuple[str, ...]]] = {"Wilkins": (_WILKINS, ())}


def read_token_measurements(
    path: AnyPath,
    *,
    columns: Layout | None = None,
    boundary: Boundary | None = None,
    gpu: str = "",
    label: str | None = None,
) -> Measurements:
    """Table of measured requests: energy and run time by input and output tokens.

    A header of ``model,gpus,tokens_in,tokens_out,runtime_s,gpu_energy_j`` is recognised as the
    measurements of Wilkins et al. (arXiv 2407.04014): energy of the GPUs, labelled "batch 1, no KV
    cache".

    Parameters
    ----------
    path : path
        CSV file with a header, plain or ``.gz``.
    columns : dict of str to str or (str, str), optional
        For another layout: the file's column for each of `TEXTS` and `NUMBERS` that it has, or the
        column and its unit, as in ``{"energy_j": ("energy", "mJ")}``. Needs the model, tokens_in
        and tokens_out. Energy can be in J, mJ, kJ, Wh or kWh, times in s or ms. An energy or time
        of 0 or blank is missing: it becomes NaN, which is stated, and which fits refuse.
    boundary : {"gpu", "server", "facility"}, optional
        Whose energy another layout gives.
    gpu : str
        Name of the accelerator, for a table without a column of it.
    label : str, optional
        How it was measured, to stand beside every figure made of it.

    Raises
    ------
    InputError
        Naming file, row, column, value and expectation: another header, cells that are not numbers
        above 0, energies that look like another unit.
    """
    table = read_table(path)
    refuse_ragged(table)
    name, layout, _, boundary = chosen(table, _KNOWN, _LAYOUTS, columns, boundary)
    found, notes = read_columns(table, layout, _KNOWN)
    if "gpu" not in found and gpu:
        found["gpu"] = np.full(len(table.rows), gpu)
        notes.append(f"gpu is {gpu!r}, as the caller says")
    report(table.path, _beyond_belief(layout, found))
    if label is None:
        label = BATCH_1 if name == "Wilkins" else ""
    return finished(table, name, boundary, found, _KNOWN, notes, label)


def _beyond_belief(layout: Layout, found: Mapping[str, NDArray[Any]]) -> list[Any]:
    """Energies that look like another unit."""
    if not {"energy_j", "runtime_s"} <= set(found):
        return []
    each_w = found["energy_j"] / found["runtime_s"] / found.get("gpus", 1)
    low, high = LEAST_POWER_PER_GPU_W, LARGEST_POWER_PER_GPU_W
    advice = f"expected {low:g} to {high:g} W; is the energy or the time in another unit?"
    return beyond_belief(layout, "energy_j", each_w, low, high, "{:g} W for each GPU", advice)
