"""Traces of requests: when they arrive, and how long they are."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from greenopt.datasets._stamps import parse
from greenopt.datasets._tables import (
    AnyPath,
    FloatArray,
    IntArray,
    Table,
    read_table,
    read_text,
    refuse,
    refuse_ragged,
    report,
)
from greenopt.errors import Problem

LATEST_S = 1e11
"""Times of arrival beyond this are no seconds: it is after the year 5000."""

SECONDS = {"s": 1.0, "ms": 1e-3, "us": 1e-6, "ns": 1e-9}
"""Length of each unit of time that is read."""

MOONCAKE_BLOCK_TOKENS = 512
"""Tokens of one hashed block in the Mooncake traces."""


@dataclass(frozen=True, eq=False)
class Trace:
    """Requests in order of arrival.

    Attributes
    ----------
    source : str
        Path of the file.
    arrival_s : ndarray of float, shape (n_requests,)
        Arrival of each request, s after the first; NaN where the file has no times.
    prompt_tokens, output_tokens : ndarray of int, shape (n_requests,)
        Its tokens.
    start : datetime64[us] or None
        Arrival of the first request, UTC; None where the file does not say it with a zone.
    block_hashes : tuple of tuple of int, or None
        Identities of the blocks of each prompt, in order, where the file has them. A block's
        identity stands for all blocks up to it, so that equal ones can share their cache.
    notes : tuple of str
        What was found.
    """

    source: str
    arrival_s: FloatArray
    prompt_tokens: IntArray
    output_tokens: IntArray
    start: np.datetime64 | None
    block_hashes: tuple[tuple[int, ...], ...] | None
    notes: tuple[str, ...]

    def __post_init__(self) -> None:
        for array in (self.arrival_s, self.prompt_tokens, self.output_tokens):
            array.setflags(write=False)

    def __len__(self) -> int:
        """Number of requests."""
        return len(self.arrival_s)

    def __repr__(self) -> str:
        timed = not np.isnan(self.arrival_s[-1])
        over = f" over {self.arrival_s[-1]:g} s" if timed else ", without times"
        return f"<trace: {len(self)} requests{over}, {len(self.notes)} notes>"

    def rate(self, step_s: float) -> tuple[FloatArray, IntArray]:
        """Requests in each step since the first one.

        The last step may go on after the last request; its count is then low.

        Parameters
        ----------
        step_s : float
            Length of a step, s.

        Returns
        -------
        begin_s : ndarray of float, shape (n_steps,)
            When each step begins, s after the first request.
        requests : ndarray of int, shape (n_steps,)
            Requests that arrive in it.

        Raises
        ------
        InputError
            If the trace has no times, or the step is not above 0.
        """
        if not 0 < step_s < np.inf:
            refuse(self.source, "step_s", f"is {step_s!r}; expected a number above 0")
        counts = np.bincount((self._times() // step_s).astype(np.int64)).astype(np.int64)
        return np.arange(len(counts), dtype=np.float64) * step_s, counts

    def interarrival_cv2(self) -> float:
        """Squared coefficient of variation of the times between arrivals (1 for a Poisson process).

        Raises
        ------
        InputError
            If the trace has no times, fewer than three requests, or one time for all.
        """
        gaps = np.diff(self._times())
        if len(gaps) < 2 or not gaps.any():
            what = f"are {len(self)} over {self.arrival_s[-1]:g} s; expected 3 or more over time"
            refuse(self.source, "requests", what)
        return float(gaps.var() / gaps.mean() ** 2)

    def length_bins(
        self, n: int, which: Literal["prompt", "output"] = "prompt"
    ) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Lengths as a discrete distribution: means of `n` equally probable parts, in order.

        The mean over all requests is kept. Parts of the same mean become one.

        Parameters
        ----------
        n : int
            Number of parts, at most that of requests.
        which : {"prompt", "output"}
            Whose tokens.

        Returns
        -------
        values, probabilities : tuple of float
            As a `Distribution` of a placement instance takes them.

        Raises
        ------
        InputError
            For other arguments.
        """
        if which not in ("prompt", "output"):
            refuse(self.source, "which", f"is {which!r}; expected 'prompt' or 'output'")
        if type(n) is not int or not 1 <= n <= len(self):
            refuse(self.source, "n", f"is {n!r}; expected a whole number from 1 to {len(self)}")
        tokens = np.sort(self.prompt_tokens if which == "prompt" else self.output_tokens)
        parts = np.array_split(tokens, n)
        means = [float(part.mean()) for part in parts]
        values = tuple(dict.fromkeys(means))
        counts = dict.fromkeys(values, 0)
        for mean, part in zip(means, parts, strict=True):
            counts[mean] += len(part)
        return values, tuple(count / len(self) for count in counts.values())

    def _times(self) -> FloatArray:
        if np.isnan(self.arrival_s).any():
            refuse(self.source, "arrival_s", "is not known; expected a trace with times")
        return self.arrival_s


def read_trace(
    path: AnyPath,
    *,
    time: str | None = "timestamp",
    time_unit: str = "s",
    prompt_tokens: str = "prompt_tokens",
    output_tokens: str = "output_tokens",
) -> Trace:
    """Trace in a CSV file with a header, a row a request, plain or ``.gz``.

    Parameters
    ----------
    path : path
        The file.
    time : str or None
        Column of arrivals; None for a file of lengths without times.
    time_unit : {"s", "ms", "us", "ns", "iso"}
        Unit of the arrivals, or "iso" for ISO 8601 stamps, with or without a zone.
    prompt_tokens, output_tokens : str
        Columns of tokens.

    Raises
    ------
    InputError
        Naming file, row, column, value and expectation: columns that are missing, blank cells,
        tokens that are not whole numbers of at least 0, arrivals that are not in order.
    """
    if time_unit not in (*SECONDS, "iso"):
        known = ", ".join(map(repr, (*SECONDS, "iso")))
        refuse(path, "time_unit", f"is {time_unit!r}; expected one of {known}")
    table = read_table(path)
    refuse_ragged(table)
    table.require([*([] if time is None else [time]), prompt_tokens, output_tokens])
    names = (prompt_tokens, output_tokens)
    tokens = table.numbers(names)
    fractions = (tokens < 0) | (tokens != np.floor(tokens))
    report(
        path,
        [
            Problem(
                f"data row {i + 1}, column {names[j]!r}",
                f"is {tokens[i, j]:g}; expected a whole number of at least 0",
            )
            for i, j in np.argwhere(fractions)
        ],
    )
    arrival_s, start, notes = _arrivals(table, time, time_unit)
    counts = tokens.astype(np.int64)
    return Trace(
        source=str(path),
        arrival_s=arrival_s,
        prompt_tokens=counts[:, 0].copy(),
        output_tokens=counts[:, 1].copy(),
        start=start,
        block_hashes=None,
        notes=(*notes, *_unusual(arrival_s, counts[:, 0], counts[:, 1])),
    )


def read_azure_trace(path: AnyPath) -> Trace:
    """Azure LLM inference trace (2023 and 2024): TIMESTAMP, ContextTokens, GeneratedTokens.

    The stamps of 2023 have no zone, so that `start` is None.

    Raises
    ------
    InputError
        As `read_trace` does.
    """
    return read_trace(
        path,
        time="TIMESTAMP",
        time_unit="iso",
        prompt_tokens="ContextTokens",
        output_tokens="GeneratedTokens",
    )


def read_mooncake_trace(path: AnyPath) -> Trace:
    """Mooncake trace: a JSON object a line with timestamp (ms), lengths, and hashes of blocks.

    Raises
    ------
    InputError
        Naming file, line, field, value and expectation: lines that are not such objects, arrivals
        that are not in order, numbers of blocks that do not fit the length of the prompt.
    """
    lines = [(i, line) for i, line in enumerate(read_text(path).splitlines(), 1) if line.strip()]
    if not lines:
        refuse(path, "file", "has no requests")
    problems: list[Problem] = []
    records = []
    for number, line in lines:
        record, wrong = _mooncake(line)
        problems += [Problem(f"line {number}{where}", what) for where, what in wrong]
        records.append(record)
    report(path, problems)
    arrival_s = np.array([record["timestamp"] for record in records]) * SECONDS["ms"]
    _refuse_disorder(path, arrival_s, lambda i: f"line {lines[i][0]}, field 'timestamp'")
    prompt, output = (
        np.array([record[name] for record in records], dtype=np.int64)
        for name in ("input_length", "output_length")
    )
    arrival_s -= arrival_s[0]
    return Trace(
        source=str(path),
        arrival_s=arrival_s,
        prompt_tokens=prompt,
        output_tokens=output,
        start=None,
        block_hashes=tuple(tuple(record["hash_ids"]) for record in records),
        notes=tuple(_unusual(arrival_s, prompt, output)),
    )


def _mooncake(line: str) -> tuple[dict[str, Any], list[tuple[str, str]]]:
    """One request, and what is wrong with it."""
    try:
        record = json.loads(line)
    except json.JSONDecodeError as error:
        return {}, [("", f"is not valid JSON: {error.msg} at column {error.colno}")]
    if not isinstance(record, dict):
        return {}, [("", f"is a {type(record).__name__}; expected a JSON object")]
    wrong = []
    for name in ("timestamp", "input_length", "output_length"):
        value = record.get(name)
        if type(value) is not int or value < 0:
            what = f"is {value!r}; expected a whole number of at least 0"
            wrong.append((f", field {name!r}", what if name in record else "is missing"))
    hashes = record.get("hash_ids")
    if not isinstance(hashes, list) or any(type(value) is not int for value in hashes):
        what = "is missing" if hashes is None else "is not a list of whole numbers"
        wrong.append((", field 'hash_ids'", what))
    elif not wrong and len(hashes) != -(-record["input_length"] // MOONCAKE_BLOCK_TOKENS):
        expected = -(-record["input_length"] // MOONCAKE_BLOCK_TOKENS)
        what = f"has {len(hashes)} blocks; expected {expected} for {record['input_length']} tokens"
        wrong.append((", field 'hash_ids'", f"{what} in blocks of {MOONCAKE_BLOCK_TOKENS}"))
    return record, wrong


def _arrivals(
    table: Table, column: str | None, unit: str
) -> tuple[FloatArray, np.datetime64 | None, list[str]]:
    """Seconds since the first arrival, its time if known, and notes."""
    if column is None:
        return np.full(len(table.rows), np.nan), None, ["the file has no times of arrival"]
    where = f"column {column!r}"
    start, notes = None, []
    if unit == "iso":
        _, clock_us, offsets = parse(table, column)
        bare = np.array([offset is None for offset in offsets])
        if bare.any() and not bare.all():
            i = int(np.flatnonzero(bare != bare[0])[0])
            what = f"is {table.cells(column, [i])[0]!r}; expected a zone in all stamps or in none"
            refuse(table.path, f"data row {i + 1}, {where}", what)
        if bare.all():
            notes.append("stamps have no zone: the time of the first arrival is not known")
        else:
            shift_us = [offset.total_seconds() * 1e6 for offset in offsets if offset is not None]
            clock_us = clock_us - np.array(shift_us).astype(np.int64)
            start = clock_us[0].astype("datetime64[us]")
        arrival_s = (clock_us - clock_us[0]) * SECONDS["us"]
    else:
        given = table.numbers([column])[:, 0]
        if unit == "s" and given[0] > LATEST_S:
            what = f"is {given[0]:.0f}, in s a time after the year 5000; it looks like ms: pass "
            refuse(table.path, f"data row 1, {where}", what + "time_unit='ms'")
        arrival_s = (given - given[0]) * SECONDS[unit]
    _refuse_disorder(table.path, arrival_s, lambda i: f"data row {i + 1}, {where}")
    return arrival_s, start, notes


def _refuse_disorder(path: AnyPath, arrival_s: FloatArray, where: Callable[[int], str]) -> None:
    steps = np.diff(arrival_s)
    problems = [
        Problem(
            where(int(i) + 1),
            f"is {-steps[i]:g} s before the request above; expected requests in order of arrival",
        )
        for i in np.flatnonzero(steps < 0)
    ]
    report(path, problems)


def _unusual(arrival_s: FloatArray, prompt: IntArray, output: IntArray) -> list[str]:
    """What is possible, but should be known."""
    notes = []
    together = int(np.count_nonzero(np.diff(arrival_s) == 0))
    if together:
        notes.append(
            f"{together} of {len(prompt)} requests arrive at the time of the one before: arrivals "
            "are batched or rounded, which raises interarrival_cv2"
        )
    for name, tokens in (("prompt", prompt), ("output", output)):
        if none := int(np.count_nonzero(tokens == 0)):
            notes.append(f"{none} of {len(prompt)} requests have no {name} tokens")
    return notes
