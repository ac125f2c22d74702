"""Measured power, time and energy of a workload over clocks of the accelerator."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from numpy.typing import NDArray

from greenopt.datasets._measured import (
    GIGAHERTZ,
    JOULES,
    SECONDS,
    WATTS,
    Columns,
    Layout,
    beyond_belief,
    chosen,
    disagreeing,
    finished,
    read_columns,
    too_much_power,
)
from greenopt.datasets._tables import AnyPath, read_table, refuse_ragged, report
from greenopt.datasets.measured import Boundary, Measurements

TEXTS = ("workload", "model", "gpu")
"""Columns of names."""

NUMBERS: Mapping[str, Mapping[str, float]] = MappingProxyType(
    {
        "gpus": {},
        "frequency_ghz": GIGAHERTZ,
        "duration_s": SECONDS,
        "power_w": WATTS,
        "energy_j": JOULES,
        "ttft_s": SECONDS,
        "tpot_s": SECONDS,
        "tokens_in": {},
        "tokens_out": {},
    }
)
"""Columns of numbers, each with the units it can be read in and what they are multiplied by.

duration_s, power_w (mean), energy_j, tokens_in and tokens_out are those of the whole workload on
all GPUs; ttft_s and tpot_s are times to the first token and between the others.
"""

FREQUENCIES_GHZ = (0.05, 10.0)
"""No accelerator's clock is outside; a file outside is in another unit (our rule)."""

_KNOWN = Columns(TEXTS, NUMBERS, ("workload", "frequency_ghz"), frozenset({"power_w", "energy_j"}))
_SWEEP: Layout = {
    "workload": "workload",
    "frequency_ghz": ("frequency_mhz", "MHz"),
    "duration_s": "duration_s",
    "power_w": "avg_power_w",
    "energy_j": "total_energy_j",
    "ttft_s": "ttft_s",
    "tpot_s": "tpot_s",
    "tokens_in": "input_tokens_actual",
    "tokens_out": "output_tokens_actual",
}
_LAYOUTS: dict[str, tuple[Layout, tuple[str, ...]]] = {"clock sweep": (_SWEEP, ())}


def read_frequency_measurements(
    path: AnyPath,
    *,
    columns: Layout | None = None,
    boundary: Boundary | None = None,
    label: str = "",
) -> Measurements:
    """Table of measured workloads at several clocks.

    The layout of the V100 sweeps (``workload``, ``frequency_mhz``, ``duration_s``,
    ``avg_power_w``, ``total_energy_j`` and more) is recognised by its header. Its power is taken
    for that of the GPU, which the source does not say and its size suggests.

    Parameters
    ----------
    path : path
        CSV file with a header, plain or ``.gz``.
    columns : dict of str to str or (str, str), optional
        For another layout: the file's column for each of `TEXTS` and `NUMBERS` that it has, or the
        column and its unit, as in ``{"frequency_ghz": ("clock", "MHz")}``. Needs the workload and
        the frequency. Frequencies can be in GHz or MHz, power in W, mW or kW, energy in J, mJ, kJ,
        Wh or kWh, times in s or ms. Energy that is not given is power times time. A power or
        energy of 0 or blank is missing: it becomes NaN, which is stated, and which fits refuse.
    boundary : {"gpu", "server", "facility"}, optional
        Whose power and energy another layout gives.
    label : str
        How it was measured, to stand beside every figure made of it.

    Raises
    ------
    InputError
        Naming file, row, column, value and expectation: another header, cells that are not numbers
        above 0, clocks and powers that look like another unit.
    """
    table = read_table(path)
    refuse_ragged(table)
    name, layout, _, boundary = chosen(table, _KNOWN, _LAYOUTS, columns, boundary)
    found, notes = read_columns(table, layout, _KNOWN)
    low, high = FREQUENCIES_GHZ
    advice = f"expected {low:g} to {high:g} GHz; is it in another unit?"
    values = found["frequency_ghz"]
    problems = beyond_belief(layout, "frequency_ghz", values, low, high, "{:g} GHz", advice)
    if "power_w" in found:
        problems += too_much_power(layout, "power_w", found["power_w"] / found.get("gpus", 1))
    report(table.path, problems)
    if name == "clock sweep":
        notes.append("that the power is that of the GPU is our reading; the source does not say")
    notes += _derive(found) + _disagreeing(found)
    return finished(table, name, boundary, found, _KNOWN, notes, label)


def _derive(found: dict[str, NDArray[Any]]) -> list[str]:
    """The energy where the file gives power and time instead, and say so."""
    if "energy_j" in found or not {"power_w", "duration_s"} <= set(found):
        return []
    found["energy_j"] = found["power_w"] * found["duration_s"]
    return ["energy_j is derived: power_w times duration_s"]


def _disagreeing(found: Mapping[str, NDArray[Any]]) -> list[str]:
    """Rows whose energy is not their power times their time."""
    if not {"power_w", "energy_j", "duration_s"} <= set(found):
        return []
    product = found["power_w"] * found["duration_s"]
    return disagreeing(product, found["energy_j"], ("power times duration", "the energy"))
