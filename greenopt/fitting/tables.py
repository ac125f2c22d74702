"""Laws of every model of a table of measurements."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, TypeVar

import numpy as np

from greenopt.datasets._tables import refuse, report
from greenopt.datasets.measured import Measurements
from greenopt.errors import Problem
from greenopt.fitting import laws
from greenopt.fitting.fit import Fit
from greenopt.labelled import FloatArray
from greenopt.physics import batching, frequency

LEAST_POINTS = 6
"""Fewest batches of one model that are fitted."""

FULL = 0.9
"""A server that takes a batch of b is full if it decodes more than this share of b in the mean."""

K = TypeVar("K")
V = TypeVar("V")


class Served(NamedTuple):
    """A model on so many GPUs of a kind; what a table does not give is empty or 0."""

    model: str
    gpu: str
    gpus: int


class Fits(dict[K, V]):
    """Fits by key, with notes on what was left out.

    Parameters
    ----------
    fits : dict
        The fits.
    notes : sequence of str
        Keys that have no fit, and why.
    """

    def __init__(self, fits: Mapping[K, V], notes: Sequence[str] = ()) -> None:
        super().__init__(fits)
        self.notes = tuple(notes)


class ClockChoice(NamedTuple):
    """A clock, compared with the highest that was measured.

    Parameters
    ----------
    frequency_ghz : float
        The clock, GHz.
    saving : float
        Share of the energy that is saved.
    slow_down : float
        Time that is lost, as a share.
    """

    frequency_ghz: float
    saving: float
    slow_down: float


@dataclass(frozen=True, eq=False)
class FrequencyLaws:
    """Power and time of one workload over the clock.

    Attributes
    ----------
    power, time : Fit
        P0 + c·f³, W, and T0 + κ/f, s.
    energy_j : ndarray, shape (n,)
        Measured energy at the clocks of the fits, J.
    """

    power: Fit
    time: Fit
    energy_j: FloatArray

    def measured_best(self) -> ClockChoice:
        """The measured clock of least measured energy: to be preferred to the law's."""
        clocks, times = self.time.variables["frequency_ghz"], self.time.observed
        least, top = int(np.argmin(self.energy_j)), int(np.argmax(clocks))
        return _choice(clocks[least], self.energy_j[[least, top]], times[[least, top]])

    def law_best(self, *, limit_s: float = math.inf, idle_w: float = 0.0) -> ClockChoice | None:
        """The clock of least energy by the laws, within the measured range.

        Parameters
        ----------
        limit_s : float
            Longest time of the workload, s.
        idle_w : float
            Power paid anyway, W.

        Returns
        -------
        ClockChoice or None
            None where no clock of the range meets the limit.

        Raises
        ------
        InputError
            If a coefficient is negative, for which the formula has no meaning.
        """
        found = [*self.power.coefficients.items(), *self.time.coefficients.items()]
        problems = [
            Problem(name, f"is {value:.4g}; expected at least 0 for a clock of least energy")
            for name, value in found
            if value < 0
        ]
        report(self.power.source or "fits of power and time", problems)
        p0, c, t0, kappa = (value for _, value in found)
        best = frequency.best_frequency_ghz(
            p0, c, t0, kappa, range_ghz=self.power.valid["frequency_ghz"], limit_s=limit_s,
            idle_w=idle_w,
        )  # fmt: skip
        if best is None:
            return None
        clocks = np.array([best, self.power.valid["frequency_ghz"][1]])
        energy = frequency.energy_j(clocks, p0, c, t0, kappa, idle_w)
        return _choice(best, energy, frequency.time_s(clocks, t0, kappa))


@dataclass(frozen=True, eq=False)
class BatchLaws:
    """Energy, power and times between tokens of one instance over the batch.

    Attributes
    ----------
    energy, power : Fit
        e∞ + c1/b, J per output token, and P0 + p·log2 b, W.
    itl : dict of str to Fit
        α + β·b, s, by statistic: "mean", "p50", "p90", "p95", "p99", those that were measured.
    """

    energy: Fit
    power: Fit
    itl: Mapping[str, Fit]

    def largest_batch(self, limit_s: float, statistic: str) -> float:
        """Most requests together within a limit on a statistic of the time between tokens.

        0 where not even one is; perhaps more than was measured, which `Fit.predict` then refuses.

        Raises
        ------
        InputError
            For a statistic without a law, and a law with a negative coefficient.
        """
        source = self.energy.source or "fits of batches"
        if statistic not in self.itl:
            known = ", ".join(map(repr, self.itl)) or "none"
            report(source, [Problem("statistic", f"is {statistic!r}; there are {known}")])
        found = self.itl[statistic].coefficients
        problems = [
            Problem(f"itl_{statistic}_s, {name}", f"is {value:.4g}; expected at least 0")
            for name, value in found.items()
            if value < 0
        ]
        report(source, problems)
        return batching.largest_batch(limit_s, found["alpha"], found["beta"])


def tokens_by_model(
    measurements: Measurements,
    quantity: Literal["energy_j", "runtime_s"] = "energy_j",
    *,
    physical: bool = False,
    level: float = 0.95,
    **options: Any,
) -> Fits[Served, Fit]:
    """The law of tokens of every model, of its energy or its run time.

    Parameters
    ----------
    measurements : Measurements
        As from `read_token_measurements`; or from `read_power_measurements`, for run times at one
        batch.
    quantity : {"energy_j", "runtime_s"}
        What is fitted.
    physical : bool
        Whether coefficients are at least 0 (`tokens_physical`), instead of as published (`tokens`).
    level : float
        Level of the intervals.
    **options
        Of `tokens`: robust; of `tokens_physical`: relative, resamples, seed.

    Returns
    -------
    dict of (model, gpu, gpus) to Fit

    Raises
    ------
    InputError
        As in `tokens`, naming the model; for several batches in one table; for missing values.
    """
    units = {"energy_j": "J", "runtime_s": "s"}
    if quantity not in units:
        expected = " or ".join(map(repr, units))
        refuse(measurements.source, "quantity", f"is {quantity!r}; expected {expected}")
    law = laws.tokens_physical if physical else laws.tokens
    _refuse_missing(measurements, ("tokens_in", "tokens_out", quantity))
    _refuse_several(measurements, "batch")
    boundary = measurements.boundary if quantity == "energy_j" else None
    fits = {
        served: law(
            part.column("tokens_in"),
            part.column("tokens_out"),
            part.column(quantity),
            unit=units[quantity],
            level=level,
            label=part.label,
            boundary=boundary,
            source=_source(part, served),
            **options,
        )
        for served, part in _parts(measurements)
    }
    return Fits(fits)


def frequency_laws(measurements: Measurements, *, level: float = 0.95) -> Fits[str, FrequencyLaws]:
    """Power and time over the clock, of every workload.

    Parameters
    ----------
    measurements : Measurements
        As from `read_frequency_measurements`.
    level : float
        Level of the intervals.

    Returns
    -------
    dict of workload to FrequencyLaws

    Raises
    ------
    InputError
        As in `power_of_frequency`, naming the workload; for missing values; for several models.
    """
    _refuse_missing(measurements, ("frequency_ghz", "duration_s", "power_w", "energy_j"))
    for name in ("model", "gpu"):
        _refuse_several(measurements, name)
    fits = {}
    for workload in np.unique(measurements.column("workload")).tolist():
        part = measurements.select(workload=workload)
        source = f"{part.source}, workload {workload!r}"
        clocks = part.column("frequency_ghz")
        fits[workload] = FrequencyLaws(
            laws.power_of_frequency(
                clocks, part.column("power_w"), level=level, label=part.label,
                boundary=part.boundary, source=source,
            ),
            laws.time_of_frequency(
                clocks, part.column("duration_s"), level=level, label=part.label, source=source
            ),
            part.column("energy_j"),
        )  # fmt: skip
    return Fits(fits)


def batch_laws(
    measurements: Measurements,
    *,
    least_points: int = LEAST_POINTS,
    full: float = FULL,
    level: float = 0.95,
) -> Fits[Served, BatchLaws]:
    """Energy, power and times between tokens over the batch, of every model, GPU and their number.

    Only rows in which the server was full count: those whose mean batch is above a share of the
    largest it takes. The rest measure the arrivals, not the server. Energy of an output token is
    power over output tokens per second.

    Parameters
    ----------
    measurements : Measurements
        As from `read_energy_measurements` or `read_power_measurements`, of one task.
    least_points : int
        Fewest rows of a group that is fitted; the others stand in `notes`.
    full : float
        That share.
    level : float
        Level of the intervals.

    Returns
    -------
    dict of (model, gpu, gpus) to BatchLaws

    Raises
    ------
    InputError
        As in `energy_of_batch`, naming the group; for missing powers, several tasks or lengths, and
        if no group has enough rows.
    """
    _refuse_missing(measurements, ("batch", "power_w", "output_tokens_per_s"))
    for name in ("task", "framework", "tokens_in", "tokens_out"):
        _refuse_several(measurements, name)
    batch, notes = measurements.column("batch"), []
    limit = measurements.columns.get("batch_limit", np.full(len(batch), np.nan))
    filled = np.isnan(limit) | (batch > full * limit)
    if not filled.all():
        notes.append(
            f"{int((~filled).sum())} of {len(batch)} rows are left out: their mean batch is at "
            f"most {full:.0%} of the largest"
        )
    fits, few = {}, []
    for served, part in _parts(measurements.rows(filled)):
        if len(part) < least_points:
            few.append(f"{', '.join(map(str, served))} ({len(part)})")
        else:
            fits[served] = _batch_laws(part, _source(part, served), level)
    if few:
        notes.append(f"{len(few)} groups have fewer than {least_points} rows: {'; '.join(few)}")
    if not fits:
        what = f"are fewer than {least_points} in every group; expected more, or least_points="
        refuse(measurements.source, "rows of a full server", what)
    return Fits(fits, notes)


def prefill_laws(
    measurements: Measurements, *, level: float = 0.95, **options: Any
) -> Fits[Served, Fit]:
    """Prefill time in prompt tokens, of every model, GPU and their number.

    Rows of batches above 1 are left out, since attention makes one long prompt dearer than several
    short ones of as many tokens.

    Parameters
    ----------
    measurements : Measurements
        As from `read_power_measurements`.
    level : float
        Level of the intervals.
    **options
        Of `prefill_of_tokens`: knots, most_pieces, relative, resamples, seed.

    Returns
    -------
    dict of (model, gpu, gpus) to Fit

    Raises
    ------
    InputError
        As in `prefill_of_tokens`, naming the group; for missing values; if there is no batch of 1.
    """
    alone = measurements.select(batch=1)
    _refuse_missing(alone, ("tokens_in", "prefill_s"))
    left = len(measurements) - len(alone)
    notes = [f"{left} of {len(measurements)} rows are left out: batches above 1"] if left else []
    fits = {
        served: laws.prefill_of_tokens(
            part.column("tokens_in"),
            part.column("prefill_s"),
            level=level,
            label=part.label,
            source=_source(part, served),
            **options,
        )
        for served, part in _parts(alone)
    }
    return Fits(fits, notes)


def _batch_laws(part: Measurements, source: str, level: float) -> BatchLaws:
    batch, power_w = part.column("batch"), part.column("power_w")
    energy = laws.energy_of_batch(
        batch, power_w / part.column("output_tokens_per_s"), level=level, label=part.label,
        boundary=part.boundary, source=source,
    )  # fmt: skip
    power = laws.power_of_batch(
        batch, power_w, level=level, label=part.label, boundary=part.boundary, source=source
    )
    itl = {
        statistic: laws.itl_of_batch(
            batch, times, statistic=statistic, level=level, label=part.label, source=source
        )
        for statistic in laws.STATISTICS
        if not np.isnan(times := part.columns.get(f"itl_{statistic}_s", np.array(np.nan))).any()
    }
    return BatchLaws(energy, power, itl)


def _choice(clock: float, energy: FloatArray, time: FloatArray) -> ClockChoice:
    """A clock whose energy and time come first, those of the highest second."""
    return ClockChoice(float(clock), 1 - float(energy[0] / energy[1]), float(time[0] / time[1]) - 1)


def _parts(measurements: Measurements) -> Iterator[tuple[Served, Measurements]]:
    """Rows of each model, GPU and number of GPUs, in order."""
    columns = (measurements.column(name).tolist() for name in ("model", "gpu", "gpus"))
    keys = [
        Served(model, gpu, 0 if math.isnan(gpus) else int(gpus))
        for model, gpu, gpus in zip(*columns, strict=True)
    ]
    rows: dict[Served, list[int]] = {}
    for row, key in enumerate(keys):
        rows.setdefault(key, []).append(row)
    for key in sorted(rows):
        yield key, measurements.rows(np.array(rows[key]))


def _source(part: Measurements, served: Served) -> str:
    said = (served.model, served.gpu, f"{served.gpus} GPUs" if served.gpus else "")
    return f"{part.source}, {', '.join(filter(None, said))}"


def _refuse_missing(measurements: Measurements, names: Sequence[str]) -> None:
    """Refuse rows in which something is missing, which is not 0."""
    problems = []
    for name in names:
        count = int(np.isnan(measurements.column(name)).sum())
        if count:
            what = f"is missing (NaN) in {count} of {len(measurements)} rows; expected numbers: "
            problems.append(Problem(name, f"{what}.known({name!r}) leaves these rows out"))
    report(measurements.source, problems)


def _refuse_several(measurements: Measurements, name: str) -> None:
    """Refuse rows of several kinds, which one law does not describe."""
    column = measurements.columns.get(name, np.array([]))
    kinds = np.unique(column if column.dtype.kind == "U" else column[~np.isnan(column)])
    if len(kinds) > 1:
        shown = ", ".join(map(repr, kinds[:6].tolist()))
        what = f"is {shown} in one table; expected one: .select({name}=...)"
        refuse(measurements.source, name, what)
