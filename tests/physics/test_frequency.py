"""The clock of least energy: against bisection, a fine grid, closed forms, and its directions."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from greenopt.physics import frequency

EXACT = settings(max_examples=200, deadline=None, derandomize=True)
WATTS = st.floats(1.0, 1000.0)
CUBIC = st.floats(0.1, 500.0)
SECONDS = st.floats(0.0, 100.0)
WORK = st.floats(1e-3, 1000.0)
LAW = st.tuples(WATTS, CUBIC, SECONDS, WORK)
RANGE = (0.3, 2.0)


def bisected(p0: float, c: float, t0: float, kappa: float) -> float:
    """Root of 3 c T0 f⁴ + 2 c κ f³ = P0 κ, found by halving alone."""
    low, high = 0.0, 1.0
    while 3 * c * t0 * high**4 + 2 * c * kappa * high**3 < p0 * kappa:
        high *= 2
    for _ in range(200):
        middle = (low + high) / 2
        if 3 * c * t0 * middle**4 + 2 * c * kappa * middle**3 < p0 * kappa:
            low = middle
        else:
            high = middle
    return low


@given(LAW)
@EXACT
def test_root_is_that_of_bisection(law: tuple[float, float, float, float]) -> None:
    """To 1e-9, far better than the 1e-6 asked for."""
    assert frequency.energy_optimal_frequency_ghz(*law) == pytest.approx(bisected(*law), rel=1e-9)


@given(LAW, st.floats(0.2, 3.0))
@EXACT
def test_no_clock_is_better(law: tuple[float, float, float, float], factor: float) -> None:
    """Energy at the root is no higher than at any other clock."""
    root = frequency.energy_optimal_frequency_ghz(*law)
    best = frequency.energy_j(root, *law)
    assert best <= frequency.energy_j(root * factor, *law) * (1 + 1e-12)


def test_closed_form_and_ends() -> None:
    """(P0/2c)^(1/3) without fixed time; 0 without work, infinity without a cubic part."""
    optimal = frequency.energy_optimal_frequency_ghz
    assert optimal(54.0, 1.0, 0.0, 7.0) == pytest.approx(3.0, rel=1e-12)
    assert optimal(54.0, 1.0, 5.0, 0.0) == 0.0
    assert optimal(54.0, 0.0, 5.0, 7.0) == math.inf
    assert optimal(0.0, 1.0, 5.0, 7.0) == 0.0
    assert optimal(54.0, 1.0, 5.0, 7.0, idle_w=60.0) == 0.0
    assert optimal(54.0, 1.0, 1e300, 1e-300) == 0.0
    assert optimal(5.0, 1.0, 1.0, 1.0) == pytest.approx(1.0, rel=1e-12)  # 3 + 2 = 5


@given(LAW)
@EXACT
def test_fixed_time_lowers_the_root(law: tuple[float, float, float, float]) -> None:
    """The closed form without fixed time is an upper bound."""
    p0, c, _, _ = law
    bound = (p0 / (2 * c)) ** (1 / 3)
    assert frequency.energy_optimal_frequency_ghz(*law) <= bound * (1 + 1e-12)


@given(LAW, st.floats(0.01, 0.99))
@EXACT
def test_idle_power_lowers_the_root(law: tuple[float, float, float, float], share: float) -> None:
    """Power that is paid anyway makes racing gain less; it is as static power that is not there."""
    p0, c, t0, kappa = law
    idle = share * p0
    lowered = frequency.energy_optimal_frequency_ghz(p0, c, t0, kappa, idle_w=idle)
    assert lowered < frequency.energy_optimal_frequency_ghz(p0, c, t0, kappa)
    assert lowered == frequency.energy_optimal_frequency_ghz(p0 - idle, c, t0, kappa)


@given(LAW, st.floats(0.5, 5.0), st.floats(0.0, 50.0))
@EXACT
def test_best_in_a_range_is_that_of_a_fine_grid(
    law: tuple[float, float, float, float], slack: float, idle: float
) -> None:
    """Limit and range hold, and no clock of a grid of a thousand is better."""
    t0, kappa = law[2:]
    limit = slack * float(frequency.time_s(RANGE[1], t0, kappa))
    options: Any = {"limit_s": limit, "idle_w": idle}
    best = frequency.best_frequency_ghz(*law, range_ghz=RANGE, **options)
    grid = np.linspace(*RANGE, 1001)
    meeting = grid[frequency.time_s(grid, t0, kappa) <= limit]
    if best is None:
        assert not len(meeting)
        return
    assert RANGE[0] <= best <= RANGE[1]
    assert frequency.time_s(best, t0, kappa) <= limit * (1 + 1e-12)
    least = np.min(frequency.energy_j(meeting, *law, idle), initial=np.inf)
    mine = frequency.energy_j(best, *law, idle)
    assert mine <= least + 1e-9 * abs(least)


@given(LAW, st.floats(0.5, 3.0), st.lists(st.floats(*RANGE), min_size=1, max_size=12))
@EXACT
def test_best_of_a_list_is_a_neighbour_of_the_best(
    law: tuple[float, float, float, float], slack: float, clocks: list[float]
) -> None:
    """Comparing all clocks finds what the two neighbours of the continuous optimum would."""
    limit = slack * float(frequency.time_s(RANGE[1], *law[2:]))
    found = frequency.best_listed_frequency_ghz(*law, clocks_ghz=clocks, limit_s=limit)
    meeting = sorted(f for f in clocks if law[2] + law[3] / f <= limit)
    if not meeting:
        assert found is None
        return
    root = frequency.energy_optimal_frequency_ghz(*law)
    below, above = ([f for f in meeting if f <= root], [f for f in meeting if f >= root])
    neighbours = [*below[-1:], *above[:1]]
    least = min(float(frequency.energy_j(f, *law)) for f in neighbours)
    assert found in clocks
    assert float(frequency.energy_j(found, *law)) == pytest.approx(least, rel=1e-12)


@given(LAW, st.floats(1.0, 3.0), st.floats(0.1, 0.99))
@EXACT
def test_a_tighter_limit_saves_nothing(
    law: tuple[float, float, float, float], slack: float, tighter: float
) -> None:
    """Least energy never falls when the limit does."""
    limit = slack * float(frequency.time_s(RANGE[1], *law[2:]))
    wide = frequency.best_frequency_ghz(*law, range_ghz=RANGE, limit_s=limit)
    tight = frequency.best_frequency_ghz(*law, range_ghz=RANGE, limit_s=limit * tighter)
    assert wide is not None
    if tight is not None:
        least = frequency.energy_j(wide, *law)
        assert frequency.energy_j(tight, *law) >= least * (1 - 1e-12)


def test_limits_on_time() -> None:
    """κ/(limit - T0) by hand; infinity and 0 at the ends; None where no clock is fast enough."""
    needed = frequency.frequency_for_time_ghz
    assert needed(5.0, 1.0, 2.0) == 0.5
    assert needed(1.0, 1.0, 2.0) == math.inf
    assert needed(1.0, 1.0, 0.0) == 0.0
    assert needed(0.5, 1.0, 0.0) == math.inf
    assert frequency.best_frequency_ghz(54, 1, 1, 2, range_ghz=(0.3, 1), limit_s=2.9) is None
    assert frequency.best_frequency_ghz(54, 1, 1, 2, range_ghz=(0.3, 9), limit_s=1.25) == 8.0
    assert frequency.best_frequency_ghz(54, 0, 0, 2, range_ghz=(0.3, 9)) == 9


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: frequency.energy_optimal_frequency_ghz(-1, 1, 1, 1), "p0_w is -1"),
        (lambda: frequency.energy_optimal_frequency_ghz(1, math.nan, 1, 1), "c_w_per_ghz3 is nan"),
        (lambda: frequency.energy_optimal_frequency_ghz(1, 1, math.inf, 1), "t0_s is inf"),
        (lambda: frequency.frequency_for_time_ghz(math.nan, 1, 1), "limit_s is nan"),
        (lambda: frequency.best_frequency_ghz(1, 1, 1, 1, range_ghz=(2, 1)), "range_ghz is"),
        (lambda: frequency.best_listed_frequency_ghz(1, 1, 1, 1, clocks_ghz=[]), "clocks_ghz is"),
        (lambda: frequency.best_listed_frequency_ghz(1, 1, 1, 1, clocks_ghz=[0]), "clocks_ghz is"),
        (lambda: frequency.best_listed_frequency_ghz(1, -1, 1, 1, clocks_ghz=[1]), "c_w_per_ghz3"),
    ],
)
def test_arguments_without_meaning_are_refused(call: Any, message: str) -> None:
    """With their name and value."""
    with pytest.raises(ValueError, match=message):
        call()
