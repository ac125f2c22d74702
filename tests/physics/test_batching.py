"""Batches: the largest within a limit against counting, Little's law, and directions."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from greenopt.physics import batching

EXACT = settings(max_examples=300, deadline=None, derandomize=True)
ALPHA = st.floats(0.0, 0.1)
BETA = st.floats(1e-5, 1e-2)


@given(ALPHA, BETA, st.floats(0.0, 0.5))
@EXACT
def test_largest_batch_is_that_of_counting(alpha: float, beta: float, limit: float) -> None:
    """Of all batches within the limit, counted one by one."""
    many = np.arange(1, int(0.5 / beta) + 3)
    within = many[alpha + beta * many <= limit]
    assert batching.largest_batch(limit, alpha, beta) == (within[-1] if len(within) else 0)


@given(st.integers(1, 2000), st.integers(0, 100), st.integers(1, 100))
@EXACT
def test_a_limit_met_exactly_is_met(batch: int, alpha_us: int, beta_us: int) -> None:
    """Rounding of the quotient takes no request away."""
    alpha, beta = alpha_us * 1e-6, beta_us * 1e-6
    limit = float(batching.itl_s(batch, alpha, beta))
    assert batching.largest_batch(limit, alpha, beta) >= batch


def test_ends_of_the_largest_batch() -> None:
    """No request at all, or no limit at all."""
    assert batching.largest_batch(0.05, 0.049, 0.002) == 0
    assert batching.largest_batch(0.05, 0.05, 0.0) == math.inf
    assert batching.largest_batch(0.05, 0.06, 0.0) == 0
    assert batching.largest_batch(math.inf, 0.01, 0.001) == math.inf
    assert batching.largest_batch(0.050, 0.006337, 8.02e-5) == 544


@given(st.floats(0.01, 5.0), st.floats(1.0, 500.0), ALPHA, BETA)
@EXACT
def test_batch_of_demand_obeys_littles_law(
    rate: float, output: float, alpha: float, beta: float
) -> None:
    """Requests together are tokens that come in a second times the time of each."""
    batch = batching.batch_of_demand(rate, output, alpha, beta)
    if rate * output * beta >= 1:
        assert batch == math.inf
    else:
        expected = rate * output * float(batching.itl_s(batch, alpha, beta))
        assert batch == pytest.approx(expected, rel=1e-6)


@given(ALPHA.filter(lambda a: a > 0), BETA)
@EXACT
def test_throughput_approaches_its_limit(alpha: float, beta: float) -> None:
    """Output tokens per second rise in the batch and stay below 1/β."""
    rates = batching.output_tokens_per_s([1.0, 8.0, 64.0, 1e9], alpha, beta)
    assert np.all(np.diff(rates) >= -1e-12 * rates[-1])
    assert rates[-1] <= 1 / beta * (1 + 1e-12)
    assert rates[-1] == pytest.approx(1 / beta, rel=0.02)


def test_laws_by_hand() -> None:
    """Energy falls to its limit, power rises by a step a doubling."""
    assert batching.energy_per_token_j([1, 4], 0.5, 2.0).tolist() == [2.5, 1.0]
    assert batching.power_w([1, 8], 300.0, 40.0).tolist() == [300.0, 420.0]
    assert batching.itl_s(10, 0.005, 0.001) == pytest.approx(0.015)


def test_arguments_without_meaning_are_refused() -> None:
    """With their name and value."""
    with pytest.raises(ValueError, match=r"alpha_s is -0\.1"):
        batching.largest_batch(1.0, -0.1, 0.1)
    with pytest.raises(ValueError, match="limit_s is nan"):
        batching.largest_batch(math.nan, 0.1, 0.1)
    with pytest.raises(ValueError, match="requests_per_s is inf"):
        batching.batch_of_demand(math.inf, 1, 0.1, 0.1)
