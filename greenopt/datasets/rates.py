"""Request rates of models and what their clients send, as ServeGen's tables give them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from greenopt.datasets._tables import (
    AnyPath,
    BoolArray,
    FloatArray,
    Table,
    read_table,
    refuse,
    refuse_ragged,
    report,
)
from greenopt.errors import Problem

OUTAGE_SHARE = 0.05
"""A window below this share of the model's median rate is an outage of the data (our rule)."""

LEAST_REQUESTS = 50
"""Requests in a median window from which on so low a window cannot be chance (our rule)."""

_DAY_S = 86400
_LISTED = 5


@dataclass(frozen=True, eq=False)
class RateTable:
    """Request rates of models over windows of one length.

    Attributes
    ----------
    source : str
        Path of the file.
    models : tuple of str
        Names of the models, in the order of the file.
    step_s : int
        Length of a window, s.
    t_s : dict of str to ndarray of float
        When each window of a model begins, s since midnight of its first day.
    req_per_s : dict of str to ndarray of float
        Requests per second in it, as in the file.
    outage : dict of str to ndarray of bool
        Windows near zero between windows of many requests: the data, not the demand, has a hole.
    notes : tuple of str
        What was found.
    """

    source: str
    models: tuple[str, ...]
    step_s: int
    t_s: Mapping[str, FloatArray]
    req_per_s: Mapping[str, FloatArray]
    outage: Mapping[str, BoolArray]
    notes: tuple[str, ...]

    def of(self, model: str) -> tuple[FloatArray, FloatArray]:
        """Windows of a model.

        Returns
        -------
        t_s, req_per_s : ndarray of float, shape (n_windows,)
            When each begins, and its rate; NaN in an outage.

        Raises
        ------
        InputError
            If there is no such model.
        """
        self._refuse_unknown(model)
        return self.t_s[model], np.where(self.outage[model], np.nan, self.req_per_s[model])

    def days(self, model: str) -> int:
        """Whole days that the table has of a model."""
        self._refuse_unknown(model)
        return len(self.t_s[model]) * self.step_s // _DAY_S

    def day(self, model: str, index: int, step_s: int) -> FloatArray:
        """Rates of one day.

        Rates are held over steps shorter than a window, and averaged over longer ones, there
        without outages. A step that is outage throughout is NaN.

        Parameters
        ----------
        model : str
            Name of the model.
        index : int
            The day, from 0.
        step_s : int
            Length of a step, s: a divisor or a multiple of the window that divides a day.

        Returns
        -------
        ndarray of float, shape (86400 / step_s,)
            Requests per second.

        Raises
        ------
        InputError
            For an unknown model, a day that is not there as a whole, or another length.
        """
        _, rates = self.of(model)
        days = self.days(model)
        if type(index) is not int or not 0 <= index < days:
            refuse(self.source, "index", f"is {index!r}; expected a day from 0 to {days - 1}")
        fits = type(step_s) is int and step_s > 0 and _DAY_S % step_s == 0
        if not fits or (step_s % self.step_s and self.step_s % step_s):
            what = f"is {step_s!r}; expected a divisor or a multiple of {self.step_s} s"
            refuse(self.source, "step_s", f"{what} that divides a day")
        windows = _DAY_S // self.step_s
        rates = rates[index * windows : (index + 1) * windows]
        if step_s <= self.step_s:
            return np.repeat(rates, self.step_s // step_s)
        blocks = rates.reshape(-1, step_s // self.step_s)
        known = ~np.isnan(blocks)
        means = np.full(len(blocks), np.nan)
        for i in np.flatnonzero(known.any(axis=1)):
            means[i] = blocks[i, known[i]].mean()
        return means

    def _refuse_unknown(self, model: str) -> None:
        if model not in self.models:
            what = f"is {model!r}; there are {', '.join(map(repr, self.models))}"
            refuse(self.source, "model", what)


@dataclass(frozen=True, eq=False)
class ModelTable:
    """Figures of models, several rows each.

    Attributes
    ----------
    source : str
        Path of the file.
    model : ndarray of str, shape (n_rows,)
        Model of each row.
    columns : dict of str to ndarray of float, shape (n_rows,)
        Figures by name.
    notes : tuple of str
        What was found.
    """

    source: str
    model: NDArray[np.str_]
    columns: Mapping[str, FloatArray]
    notes: tuple[str, ...]

    def of(self, model: str) -> dict[str, FloatArray]:
        """Figures of one model by name.

        Raises
        ------
        InputError
            If there is no such model.
        """
        mine = self.model == model
        if not mine.any():
            known = ", ".join(map(repr, dict.fromkeys(self.model.tolist())))
            refuse(self.source, "model", f"is {model!r}; there are {known}")
        return {name: values[mine] for name, values in self.columns.items()}


def read_servegen_rates(path: AnyPath) -> RateTable:
    """Rates aggregated from ServeGen: model, t_s, req_per_s, active_clients.

    Windows below 5 % of their model's median rate are outages of the data where the median window
    has 50 requests or more; they are stated and masked.

    Raises
    ------
    InputError
        Naming file, row, column, value and expectation: cells that are not numbers of at least 0,
        and windows that are missing, twice or out of order.
    """
    table = read_table(path)
    refuse_ragged(table)
    table.require(["model", "t_s", "req_per_s"])
    figures = _at_least_zero(table, ("t_s", "req_per_s"))
    rows = _by_model(table)
    step_s = _window(table, figures[:, 0], rows)
    t_s = {model: figures[at, 0] for model, at in rows.items()}
    rates = {model: figures[at, 1] for model, at in rows.items()}
    outage, notes = {}, []
    for model, rate in rates.items():
        middle = float(np.median(rate))
        judged = middle * step_s >= LEAST_REQUESTS
        outage[model] = (rate < OUTAGE_SHARE * middle) & judged
        if not judged:
            notes.append(f"{model!r}: too few requests to tell outages from quiet windows")
        elif outage[model].any():
            days = sorted({int(t // _DAY_S) for t in t_s[model][outage[model]]})
            notes.append(
                f"{model!r}: {int(outage[model].sum())} of {len(rate)} windows are below "
                f"{OUTAGE_SHARE:.0%} of the median {middle:g} req/s, on days "
                f"{', '.join(map(str, days))} (from 0); they are taken as outages"
            )
    return RateTable(
        source=str(path),
        models=tuple(rows),
        step_s=step_s,
        t_s=_frozen(t_s),
        req_per_s=_frozen(rates),
        outage=_frozen(outage),
        notes=tuple(notes),
    )


def read_servegen_clients(path: AnyPath) -> ModelTable:
    """Clients aggregated from ServeGen: rates and mean lengths of each client of each model.

    Columns are client, mean_req_per_s, peak_req_per_s, prompt_tokens_mean, output_tokens_mean;
    means are NaN for clients whose lengths the file leaves blank, which is stated.

    Raises
    ------
    InputError
        Naming file, row, column, value and expectation of cells that are not numbers of at least 0.
    """
    kept = {name: name for name in ("client", "mean_req_per_s", "peak_req_per_s")}
    return _model_table(path, kept)


def read_servegen_lengths(path: AnyPath) -> ModelTable:
    """Mean lengths aggregated from ServeGen, by model and window.

    Columns are t_s, requests, share_of_requests, prompt_tokens_mean, output_tokens_mean; means are
    NaN for windows whose lengths the file leaves blank, which is stated.

    Raises
    ------
    InputError
        Naming file, row, column, value and expectation of cells that are not numbers of at least 0.
    """
    kept = {
        "t_s": "t_s",
        "requests_with_length_data": "requests",
        "share_of_requests_covered": "share_of_requests",
    }
    return _model_table(path, kept)


def _model_table(path: AnyPath, kept: Mapping[str, str]) -> ModelTable:
    table = read_table(path)
    refuse_ragged(table)
    lengths = {
        "mean_input_tokens": "prompt_tokens_mean",
        "mean_output_tokens": "output_tokens_mean",
    }
    table.require(["model", *kept, *lengths])
    figures = _at_least_zero(table, tuple(kept))
    means = _at_least_zero(table, tuple(lengths), unknown=True)
    blank = int(np.isnan(means).any(axis=1).sum())
    notes = [f"{blank} of {len(means)} rows have no lengths"] if blank else []
    columns = dict(zip(kept.values(), figures.T, strict=True))
    columns |= dict(zip(lengths.values(), means.T, strict=True))
    return ModelTable(str(path), np.array(table.cells("model")), _frozen(columns), tuple(notes))


def _at_least_zero(table: Table, columns: tuple[str, ...], unknown: bool = False) -> FloatArray:
    figures = table.numbers(columns, unknown=unknown)
    report(
        table.path,
        [
            Problem(
                f"data row {i + 1}, column {columns[j]!r}",
                f"is {figures[i, j]:g}; expected a number of at least 0",
            )
            for i, j in np.argwhere(figures < 0)
        ],
    )
    return figures


def _by_model(table: Table) -> dict[str, NDArray[np.int64]]:
    """Rows of each model."""
    rows: dict[str, list[int]] = {}
    for i, model in enumerate(table.cells("model")):
        rows.setdefault(model, []).append(i)
    if "" in rows:
        where = f"data row {rows[''][0] + 1}, column 'model'"
        refuse(table.path, where, "is blank; expected the name of a model")
    return {model: np.array(at) for model, at in rows.items()}


def _window(table: Table, t_s: FloatArray, rows: Mapping[str, NDArray[np.int64]]) -> int:
    """Length of all windows, which follow each other without gaps."""
    steps = np.concatenate([np.diff(t_s[at]) for at in rows.values()])
    if not len(steps):
        refuse(table.path, "rows", "are one for each model; expected at least 2 windows")
    lengths, often = np.unique(steps, return_counts=True)
    step = lengths[np.argmax(often)]
    if step <= 0 or step != int(step) or _DAY_S % step:
        refuse(table.path, "column 't_s'", f"has steps of {step:g}; expected a divisor of a day, s")
    problems = []
    for model, at in rows.items():
        for k in np.flatnonzero(np.diff(t_s[at]) != step):
            what = f"is {t_s[at[k + 1]]:g} after {t_s[at[k]]:g} for {model!r}; expected "
            where = f"data row {at[k + 1] + 1}, column 't_s'"
            problems.append(Problem(where, f"{what}{t_s[at[k]] + step:g}"))
        if t_s[at[0]] % _DAY_S:
            what = f"is {t_s[at[0]]:g}, the first of {model!r}; expected midnight of a day"
            problems.append(Problem(f"data row {at[0] + 1}, column 't_s'", what))
    report(table.path, problems, _LISTED)
    return int(step)


def _frozen(arrays: Mapping[str, NDArray[Any]]) -> Mapping[str, NDArray[Any]]:
    for array in arrays.values():
        array.setflags(write=False)
    return MappingProxyType(dict(arrays))
