"""Measured power and latency of serving by batch and prompt, where no energy is given."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from greenopt.datasets._measured import (
    SECONDS,
    WATTS,
    Columns,
    Layout,
    beyond_belief,
    chosen,
    finished,
    read_columns,
    too_long_between_tokens,
    too_much_power,
)
from greenopt.datasets._tables import AnyPath, Table, read_table, refuse, refuse_ragged, report
from greenopt.datasets.measured import Boundary, Measurements

TEXTS = ("model", "gpu", "framework")
"""Columns of names."""

NUMBERS: Mapping[str, Mapping[str, float]] = MappingProxyType(
    {
        "gpus": {},
        "batch": {},
        "tokens_in": {},
        "tokens_out": {},
        "runtime_s": SECONDS,
        "prefill_s": SECONDS,
        "itl_mean_s": SECONDS,
        "power_w": WATTS,
        "power_share": {},
        "output_tokens_per_s": {},
        "energy_per_request_j": {},
    }
)
"""Columns of numbers, each with the units it can be read in and what they are multiplied by.

tokens_in and tokens_out are those of each request of the batch; runtime_s is the time of the whole
batch, prefill_s that to its first tokens, itl_mean_s that between the others; power_w is the mean
power of all GPUs; power_share the mean power as a share of what the GPUs are designed for.
"""

MOST_SHARE = 1.5
"""No accelerator draws more than its design power in the mean; above, it is in % (our rule)."""

_KNOWN = Columns(TEXTS, NUMBERS, ("model", "batch"), frozenset({"power_w", "power_share"}))
_BENCH: Layout = {
    "model": "Model",
    "gpu": "Hardware",
    "framework": "Framework",
    "gpus": "Num of Hardware",
    "batch": "Batch Size",
    "tokens_in": "Input Output Length",
    "tokens_out": "Input Output Length",
    "runtime_s": "Latency",
    "power_w": ("avg_power", "mW"),
}
_SPLITWISE: Layout = {
    "model": "model",
    "gpu": "hardware",
    "gpus": "tensor_parallel",
    "batch": "batch_size",
    "tokens_in": "prompt_size",
    "tokens_out": "token_size",
    "runtime_s": ("e2e_time", "ms"),
    "prefill_s": ("prompt_time", "ms"),
    "itl_mean_s": ("token_time", "ms"),
    "power_share": "average_power",
}
_LAYOUTS: dict[str, tuple[Layout, tuple[str, ...]]] = {
    "LLM-Inference-Bench": (_BENCH, ()),
    "splitwise": (_SPLITWISE, ()),
}
_CAPPED = "-pcap"
_AGREE = 0.05


def read_power_measurements(
    path: AnyPath,
    *,
    columns: Layout | None = None,
    boundary: Boundary | None = None,
    tdp_w: Mapping[str, float] | None = None,
    label: str = "",
) -> Measurements:
    """Table of measured batches: power, run time, prefill and time between tokens.

    Two layouts are recognised by their header, both of the power of the GPUs: LLM-Inference-Bench,
    whose powers are in mW, and the performance model of splitwise-sim, whose powers are shares of
    the design power and 0 where none was measured. A power of 0 or blank is missing, never free: it
    becomes NaN, which is stated, and which fits refuse. Output tokens per second and energy of a
    request are derived where they can be.

    Of the performance model of splitwise-sim, three things are stated and become NaN: run times of
    rows made from others, output tokens of rows that stopped early, and times to and between tokens
    that do not add up to the run time.

    Parameters
    ----------
    path : path
        CSV file with a header, plain or ``.gz``.
    columns : dict of str to str or (str, str), optional
        For another layout: the file's column for each of `TEXTS` and `NUMBERS` that it has, or the
        column and its unit, as in ``{"power_w": ("power", "mW")}``. Needs the model and the batch.
        Power can be in W, mW or kW, times in s or ms.
    boundary : {"gpu", "server", "facility"}, optional
        Whose power another layout gives.
    tdp_w : dict of str to float, optional
        Design power of one accelerator by its name, W, which turns shares into watts.
    label : str
        How it was measured, to stand beside every figure made of it.

    Raises
    ------
    InputError
        Naming file, row, column, value and expectation: another header, cells that are not numbers
        above 0, powers and times that look like another unit.
    """
    table = read_table(path)
    refuse_ragged(table)
    name, layout, _, boundary = chosen(table, _KNOWN, _LAYOUTS, columns, boundary)
    found, notes = read_columns(table, layout, _KNOWN)
    notes += _watts(table, found, tdp_w)
    _refuse_beyond_belief(table, layout, found)
    if name == "LLM-Inference-Bench":
        notes.append("Throughput is not read: it counts input and output tokens together")
    if name == "splitwise":
        notes += _synthetic(found) + _inconsistent(found)
    notes += _derive(found)
    return finished(table, name, boundary, found, _KNOWN, notes, label)


def _watts(
    table: Table, found: dict[str, NDArray[Any]], tdp_w: Mapping[str, float] | None
) -> list[str]:
    """Turn shares of the design power into watts, where the caller gives it."""
    if "power_share" not in found or "power_w" in found:
        if tdp_w is not None:
            refuse(table.path, "tdp_w", "is given; expected none: the table has no power_share")
        return []
    if tdp_w is None:
        return ["power_w is NaN: tdp_w= turns power_share into watts"]
    for needed in ("gpu", "gpus"):
        if needed not in found:
            refuse(table.path, "tdp_w", f"is given; expected a table with {needed!r} as well")
    for name, value in tdp_w.items():
        if name not in found["gpu"]:
            known = ", ".join(map(repr, np.unique(found["gpu"]).tolist()))
            refuse(table.path, "tdp_w", f"names {name!r}; there are {known}")
        if not 0 < value < np.inf:
            refuse(table.path, f"tdp_w[{name!r}]", f"is {value!r}; expected W above 0")
    each_w = np.array([tdp_w.get(name, np.nan) for name in found["gpu"].tolist()])
    found["power_w"] = found["power_share"] * each_w * found["gpus"]
    shown = ", ".join(f"{name} {value:g} W" for name, value in tdp_w.items())
    return [f"power_w is derived: power_share times gpus times the design power given ({shown})"]


def _refuse_beyond_belief(table: Table, layout: Layout, found: Mapping[str, NDArray[Any]]) -> None:
    """Refuse what looks like another unit."""
    problems = []
    if "power_w" in layout:
        problems += too_much_power(layout, "power_w", found["power_w"] / found.get("gpus", 1))
    if "power_share" in found:
        share, advice = found["power_share"], f"expected at most {MOST_SHARE:g}; is it in %?"
        what = "{:g} of the design power"
        problems += beyond_belief(layout, "power_share", share, 0, MOST_SHARE, what, advice)
    if "itl_mean_s" in found:
        problems += too_long_between_tokens(layout, "itl_mean_s", found["itl_mean_s"])
    report(table.path, problems)


def _derive(found: dict[str, NDArray[Any]]) -> list[str]:
    """Fill in what follows from other columns, and say so."""
    notes = []
    if "output_tokens_per_s" not in found and {"tokens_out", "runtime_s"} <= set(found):
        found["output_tokens_per_s"] = found["batch"] * found["tokens_out"] / found["runtime_s"]
        notes.append("output_tokens_per_s is derived: batch times tokens_out over runtime_s")
    if "energy_per_request_j" not in found and {"power_w", "runtime_s"} <= set(found):
        found["energy_per_request_j"] = found["power_w"] * found["runtime_s"] / found["batch"]
        notes.append("energy_per_request_j is derived: power_w times runtime_s over batch")
    return notes


def _synthetic(found: dict[str, NDArray[Any]]) -> list[str]:
    """Rows that splitwise-sim made from others; their run times are those of the others."""
    made = np.char.endswith(found["gpu"].astype(str), _CAPPED)
    if not made.any():
        return []
    found["runtime_s"] = np.where(made, np.nan, found["runtime_s"])
    name = str(found["gpu"][made][0])
    return [
        f"{int(made.sum())} rows of {name!r} are not measured but made from "
        f"{name.removesuffix(_CAPPED)!r}: prompt times longer by a factor, token times the same; "
        "their runtime_s is NaN, since the file repeats that of the others"
    ]


def _inconsistent(found: dict[str, NDArray[Any]]) -> list[str]:
    """Rows whose parts do not add up to their whole: what is not to be trusted becomes NaN."""
    prefill, itl, tokens = found["prefill_s"], found["itl_mean_s"], found["tokens_out"]
    with np.errstate(invalid="ignore"):
        ratio = found["runtime_s"] / (prefill + (tokens - 1) * itl)
        short, long = ratio < 1 - _AGREE, ratio > 1 + _AGREE
    notes = []
    if short.any():
        found["tokens_out"] = np.where(short, np.nan, tokens)
        notes.append(
            f"tokens_out is NaN in {int(short.sum())} of {len(short)} rows, whose run time is more "
            f"than {_AGREE:.0%} too short for it: generation stopped before the length asked for"
        )
    if long.any():
        found["prefill_s"] = np.where(long, np.nan, prefill)
        found["itl_mean_s"] = np.where(long, np.nan, itl)
        shown = ("model", "gpu", "gpus", "batch", "tokens_in")
        rows = zip(*(found[name][long].tolist() for name in shown), strict=True)
        each = sorted({", ".join(v if isinstance(v, str) else f"{v:g}" for v in r) for r in rows})
        notes.append(
            f"prefill_s and itl_mean_s are NaN in {int(long.sum())} of {len(long)} rows, whose run "
            f"time is more than {_AGREE:.0%} longer than they explain ({'; '.join(each)})"
        )
    return notes
