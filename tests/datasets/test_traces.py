"""Traces of requests."""

from __future__ import annotations

import gzip
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from greenopt.datasets import Trace, read_azure_trace, read_mooncake_trace, read_trace
from greenopt.errors import InputError
from greenopt.problems.placement.instance import Distribution

HEADER = "timestamp,prompt_tokens,output_tokens\n"
AZURE = "TIMESTAMP,ContextTokens,GeneratedTokens\n"


def write(folder: Path, text: str, name: str = "trace.csv") -> Path:
    """A file of this text."""
    path = folder / name
    path.write_text(text)
    return path


def refused(read: Any, path: Path, **options: Any) -> str:
    """Message of the error, which names the file."""
    with pytest.raises(InputError) as caught:
        read(path, **options)
    assert str(caught.value).startswith(f"{path}: ")
    return str(caught.value).removeprefix(f"{path}: ")


def trace(arrival_s: Any, prompt: Any = None, output: Any = None) -> Trace:
    """A trace from its arrays."""
    arrival = np.array(arrival_s, dtype=float)
    ones = np.ones(len(arrival), dtype=np.int64)
    tokens = [ones.copy() if a is None else np.array(a, dtype=np.int64) for a in (prompt, output)]
    return Trace("here", arrival, tokens[0], tokens[1], None, None, ())


def block(**changed: Any) -> str:
    """A line of a Mooncake trace."""
    line = {"timestamp": 0, "input_length": 600, "output_length": 5, "hash_ids": [0, 1]}
    return json.dumps({k: v for k, v in (line | changed).items() if v is not None}) + "\n"


@pytest.mark.parametrize(("unit", "factor"), [("s", 1), ("ms", 1e3), ("us", 1e6), ("ns", 1e9)])
def test_reads_numbers_of_every_unit(tmp_path: Path, unit: str, factor: float) -> None:
    """Arrivals are seconds after the first."""
    rows = "".join(f"{1.5 * factor * i + 7 * factor:.0f},{10 + i},{i}\n" for i in range(0, 9, 2))
    read = read_trace(write(tmp_path, HEADER + rows), time_unit=unit)
    np.testing.assert_allclose(read.arrival_s, [0, 3, 6, 9, 12])
    assert read.prompt_tokens.tolist() == [10, 12, 14, 16, 18]
    assert read.output_tokens.tolist() == [0, 2, 4, 6, 8]
    assert read.prompt_tokens.dtype == np.int64
    assert read.start is None
    assert read.notes == ("1 of 5 requests have no output tokens",)
    assert repr(read) == "<trace: 5 requests over 12 s, 1 notes>"


def test_reads_azure_stamps(tmp_path: Path) -> None:
    """Without a zone, as in 2023, the time of day is unknown; with one, as in 2024, it is."""
    rows = "2023-11-16 18:17:03.9799600,4808,10\n2023-11-16 18:17:04.0319600,3180,8\n"
    old = read_azure_trace(write(tmp_path, AZURE + rows))
    np.testing.assert_allclose(old.arrival_s, [0, 0.052], atol=1e-6)
    assert old.start is None
    assert old.notes == ("stamps have no zone: the time of the first arrival is not known",)
    rows = "2024-05-10 02:00:00.009930+02:00,100,10\n2024-05-10 00:00:01.009930+00:00,90,8\n"
    new = read_azure_trace(write(tmp_path, AZURE + rows))
    assert new.start == np.datetime64("2024-05-10T00:00:00.009930")
    np.testing.assert_allclose(new.arrival_s, [0, 1])
    assert new.notes == ()


def test_reads_lengths_without_times(tmp_path: Path) -> None:
    """What needs times says that there are none."""
    read = read_trace(write(tmp_path, "prompt_tokens,output_tokens\n5,6\n7,8\n"), time=None)
    assert np.isnan(read.arrival_s).all()
    assert read.notes == ("the file has no times of arrival",)
    assert repr(read) == "<trace: 2 requests, without times, 1 notes>"
    assert read.length_bins(2) == ((5, 7), (0.5, 0.5))
    for call in (lambda: read.rate(60), read.interarrival_cv2):
        with pytest.raises(
            InputError, match="arrival_s: is not known; expected a trace with times"
        ):
            call()


@pytest.mark.parametrize(
    ("rows", "options", "message"),
    [
        ("0,5,6\n", {"time_unit": "h"}, "time_unit: is 'h'; expected one of 's', 'ms', 'us', 'ns'"),
        ("0,5,6\n", {"time": "at"}, "column 'at': is missing"),
        (
            "0,5,6\n1,5.5,6\n",
            {},
            "data row 2, column 'prompt_tokens': is 5.5; expected a whole num",
        ),
        (
            "0,5,-6\n",
            {},
            "data row 1, column 'output_tokens': is -6; expected a whole number of at",
        ),
        ("0,5,\n", {}, "data row 1, column 'output_tokens': is ''; expected a number"),
        ("0,5\n", {}, "data row 1: has 2 cells; expected 3"),
        (
            "0,5,6\n9,5,6\n8.5,5,6\n",
            {},
            "data row 3, column 'timestamp': is 0.5 s before the request above; expected requests "
            "in order of arrival",
        ),
        ("0,5,6\n", {"time_unit": "iso"}, "column 'timestamp': is '0'; expected an ISO 8601 time"),
        (
            "2024-01-01T00:00Z,5,6\n2024-01-01T00:01,5,6\n",
            {"time_unit": "iso"},
            "data row 2, column 'timestamp': is '2024-01-01T00:01'; expected a zone in all stamps",
        ),
        ("", {}, "file: has no rows below its header"),
    ],
)
def test_mistakes_are_refused(tmp_path: Path, rows: str, options: Any, message: str) -> None:
    """Each with its row, its column, its value and what was expected."""
    assert message in refused(read_trace, write(tmp_path, HEADER + rows), **options)


def test_reads_mooncake_blocks(tmp_path: Path) -> None:
    """Lengths, block identities, and arrivals that were rounded, also compressed."""
    text = (
        block()
        + block(hash_ids=[0, 2])
        + "\n"
        + block(timestamp=3000, input_length=5, hash_ids=[3])
    )
    packed = tmp_path / "trace.jsonl.gz"
    packed.write_bytes(gzip.compress(text.encode()))
    for path in (write(tmp_path, text, "trace.jsonl"), packed):
        read = read_mooncake_trace(path)
        assert read.block_hashes == ((0, 1), (0, 2), (3,))
        assert read.arrival_s.tolist() == [0, 0, 3]
        assert read.prompt_tokens.tolist() == [600, 600, 5]
        assert read.notes == (
            "1 of 3 requests arrive at the time of the one before: arrivals are batched or "
            "rounded, which raises interarrival_cv2",
        )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("\n", "file: has no requests"),
        (block() + "{]\n", "line 2: is not valid JSON: Expecting property name enclosed in double"),
        (block() + "[1]\n", "line 2: is a list; expected a JSON object"),
        (block(input_length=None), "line 1, field 'input_length': is missing"),
        (
            block(input_length=-1),
            "field 'input_length': is -1; expected a whole number of at least",
        ),
        (block(timestamp=0.5), "field 'timestamp': is 0.5; expected a whole number of at least 0"),
        (block(output_length=True), "field 'output_length': is True; expected a whole number"),
        (block(hash_ids=None), "line 1, field 'hash_ids': is missing"),
        (block(hash_ids=[0, "1"]), "field 'hash_ids': is not a list of whole numbers"),
        (
            block(hash_ids=[0]),
            "line 1, field 'hash_ids': has 1 blocks; expected 2 for 600 tokens in blocks of 512",
        ),
        (
            block(timestamp=9) + "\n" + block(timestamp=5),
            "line 3, field 'timestamp': is 0.004 s before the request above; expected requests in",
        ),
    ],
)
def test_broken_mooncake_lines_are_refused(tmp_path: Path, text: str, message: str) -> None:
    """Each with its line and its field."""
    assert message in refused(read_mooncake_trace, write(tmp_path, text))


def test_rate_counts_arrivals() -> None:
    """Each request is in the step in which it arrives."""
    begin_s, requests = trace([0, 1, 59.9, 60, 200]).rate(60)
    assert begin_s.tolist() == [0, 60, 120, 180]
    assert requests.tolist() == [3, 1, 0, 1]
    with pytest.raises(InputError, match="step_s: is 0; expected a number above 0"):
        trace([0, 1]).rate(0)


def test_variation_of_arrivals() -> None:
    """Even arrivals have none, and two lengths of gap have what a calculation by hand gives."""
    assert trace([0, 2, 4, 6]).interarrival_cv2() == 0
    assert trace([0, 1, 4, 5, 8]).interarrival_cv2() == pytest.approx(1 / 4)
    poisson = np.cumsum(np.random.default_rng(7).exponential(size=100_000))
    assert trace(poisson).interarrival_cv2() == pytest.approx(1, abs=0.03)


@pytest.mark.parametrize("arrivals", [[0], [0, 1], [0, 0, 0]])
def test_variation_needs_three_requests_over_time(arrivals: list[float]) -> None:
    """Fewer say nothing."""
    with pytest.raises(InputError, match="expected 3 or more over time"):
        trace(arrivals).interarrival_cv2()


@settings(deadline=None)
@given(
    lengths=st.lists(st.integers(0, 10_000), min_size=1, max_size=200),
    share=st.floats(0, 1),
    which=st.sampled_from(["prompt", "output"]),
)
def test_bins_are_a_distribution_with_the_mean(
    lengths: list[int], share: float, which: Any
) -> None:
    """Bins are accepted by an instance, keep the mean, and are as even as they can be."""
    n = 1 + int(share * (len(lengths) - 1))
    given_lengths = {which: lengths}
    read = trace(np.arange(len(lengths)), **given_lengths)
    values, probabilities = read.length_bins(n, which)
    distribution = Distribution(values=values, probabilities=probabilities)
    assert distribution.mean == pytest.approx(np.mean(lengths), rel=1e-9, abs=1e-9)
    assert len(values) <= n
    assert len(set(values)) == len(values)
    assert min(probabilities) >= (len(lengths) // n) / len(lengths) - 1e-12


@pytest.mark.parametrize(
    ("n", "which", "message"),
    [
        (0, "prompt", "n: is 0; expected a whole number from 1 to 3"),
        (4, "prompt", "n: is 4; expected a whole number from 1 to 3"),
        (2.0, "prompt", "n: is 2.0; expected"),
        (2, "both", "which: is 'both'; expected 'prompt' or 'output'"),
    ],
)
def test_wrong_bins_are_refused(n: Any, which: Any, message: str) -> None:
    """More bins than requests, or of nothing."""
    with pytest.raises(InputError, match=message):
        trace([0, 1, 2]).length_bins(n, which)


def test_a_million_requests_take_seconds(tmp_path: Path) -> None:
    """Reading stays fast enough for the traces that are published."""
    n = 1_000_000
    rows = "\n".join(f"{i},{i % 4096},{i % 512}" for i in range(n))
    path = write(tmp_path, HEADER + rows + "\n")
    begin = time.process_time()
    read = read_trace(path, time_unit="ms")
    assert time.process_time() - begin < 20
    assert len(read) == n
    assert read.arrival_s[-1] == pytest.approx((n - 1) / 1000)


def test_milliseconds_are_not_taken_for_seconds(tmp_path: Path) -> None:
    """Epoch stamps in ms, read as s, would make rates a thousand times too low."""
    path = tmp_path / "trace.csv"
    path.write_text("timestamp,prompt_tokens,output_tokens\n1700000000000,1,2\n1700000001000,3,4\n")
    with pytest.raises(InputError, match=r"data row 1, column 'timestamp': .* pass time_unit='ms'"):
        read_trace(path)
    assert read_trace(path, time_unit="ms").arrival_s.tolist() == [0.0, 1.0]
