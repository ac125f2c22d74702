"""Fits: by hand, against another solver, with known laws, and what they refuse."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy import stats

from greenopt import fitting
from greenopt.errors import InputError, ModelError

EXACT = settings(max_examples=60, deadline=None, derandomize=True)
GRID_IN, GRID_OUT = (column.ravel() for column in np.meshgrid([8, 64, 512, 2048.0], [8, 128, 1024]))
CLOCKS = np.array([0.75, 0.9, 1.05, 1.2, 1.3])
BATCHES = np.array([8.0, 16, 64, 256, 512])


def noise(seed: int, size: int, spread: float) -> Any:
    """Factors around 1."""
    return 1 + spread * np.random.default_rng(seed).standard_normal(size)


def design(tokens_in: Any, tokens_out: Any) -> Any:
    """Columns of the law of tokens."""
    return np.column_stack([tokens_in, tokens_out, tokens_in * tokens_out])


# By hand and against numpy


def test_power_of_frequency_by_hand() -> None:
    """A line through (1, 10), (8, 20), (27, 60) in f³, by the sums of the textbook.

    Means 12 and 30; slope (11·20 + 4·10 + 15·30)/(121 + 16 + 225) = 710/362.
    """
    fit = fitting.power_of_frequency([1, 2, 3], [10, 20, 60])
    slope = 710 / 362
    assert fit.coefficients == pytest.approx({"P0": 30 - 12 * slope, "c": slope})
    explained = slope * 710 / 1400
    assert fit.r2 == pytest.approx(explained)
    assert fit.r2_kind == "centred"
    assert fit.f == pytest.approx(explained / (1 - explained))
    assert fit.residual_sd == pytest.approx(np.sqrt(1400 * (1 - explained)))
    half = stats.t.ppf(0.975, 1) * fit.residual_sd / np.sqrt(362)
    assert fit.intervals["c"] == pytest.approx((slope - half, slope + half))
    assert fit.units == {"P0": "W", "c": "W/GHz³"}
    assert fit.valid == {"frequency_ghz": (1, 3)}


def test_tokens_against_numpy() -> None:
    """Coefficients, uncentred R², F, p, residuals and intervals by the normal equations."""
    values = (design(GRID_IN, GRID_OUT) @ [2.0, 30.0, 0.05]) * noise(1, len(GRID_IN), 0.2)
    fit = fitting.tokens(GRID_IN, GRID_OUT, values, unit="J", level=0.9, boundary="gpu")
    x = design(GRID_IN, GRID_OUT)
    best, (squares,), rank, _ = np.linalg.lstsq(x, values, rcond=None)
    assert rank == 3
    np.testing.assert_allclose([*fit.coefficients.values()], best, rtol=1e-9)
    n = len(values)
    assert fit.r2_kind == "uncentred"
    assert fit.r2 == pytest.approx(1 - squares / (values @ values))
    f = (fit.r2 / 3) / ((1 - fit.r2) / (n - 3))
    assert fit.f == pytest.approx(f)
    assert fit.p == pytest.approx(stats.f.sf(f, 3, n - 3))
    assert fit.residual_sd == pytest.approx(np.sqrt(squares / (n - 3)))
    np.testing.assert_allclose(fit.residuals, values - x @ best, rtol=1e-6, atol=1e-6)
    assert fit.mape_percent == pytest.approx(100 * np.mean(np.abs(1 - x @ best / values)))
    spread = fit.residual_sd * np.sqrt(np.diag(np.linalg.inv(x.T @ x)))
    low, high = np.array([*fit.intervals.values()]).T
    np.testing.assert_allclose(high - low, 2 * stats.t.ppf(0.95, n - 3) * spread, rtol=1e-9)
    assert (fit.n, fit.level, fit.boundary, fit.quantity) == (n, 0.9, "gpu", "energy_j")


def test_uncentred_stays_uncentred() -> None:
    """Even where tokens add up to a constant, as if there were an intercept."""
    tokens_in = np.array([100.0, 200, 300, 400, 500])
    tokens_out = 1000 - tokens_in
    values = np.array([5.0, 7, 4, 9, 6])
    fit = fitting.tokens(tokens_in, tokens_out, values, unit="s")
    residual = fit.residuals @ fit.residuals
    assert fit.r2 == pytest.approx(1 - residual / (values @ values))


def test_energy_of_batch_weighs_relative_errors() -> None:
    """The same as least squares of e/e = 1 over (1/e, 1/(b e))."""
    energy = (0.07 + 3.2 / BATCHES) * noise(2, 5, 0.1)
    fit = fitting.energy_of_batch(BATCHES, energy)
    scaled = np.column_stack([np.ones(5), 1 / BATCHES]) / energy[:, None]
    best, *_ = np.linalg.lstsq(scaled, np.ones(5), rcond=None)
    np.testing.assert_allclose([*fit.coefficients.values()], best, rtol=1e-9)
    assert fit.weighting == "1/observed²"
    weights = energy**-2
    centre = np.average(energy, weights=weights)
    share = weights @ fit.residuals**2 / (weights @ (energy - centre) ** 2)
    assert fit.r2 == pytest.approx(1 - share)


LAWS: list[tuple[Callable[..., Any], Any, Any]] = [
    (fitting.power_of_frequency, CLOCKS, lambda f: 70 + 30 * f**3),
    (fitting.time_of_frequency, CLOCKS, lambda f: 5 + 8 / f),
    (fitting.energy_of_batch, BATCHES, lambda b: 0.07 + 3.2 / b),
    (fitting.itl_of_batch, BATCHES, lambda b: 0.006 + 8e-5 * b),
    (fitting.power_of_batch, BATCHES, lambda b: 370 + 38 * np.log2(b)),
]


@pytest.mark.parametrize(("fit", "points", "law"), LAWS)
def test_exact_laws_are_found(fit: Any, points: Any, law: Any) -> None:
    """Without noise coefficients and predictions are exact, between the points too."""
    found = fit(points, law(points))
    middle = (points[1:] + points[:-1]) / 2
    (name,) = found.variables
    np.testing.assert_allclose(found.predict(**{name: middle}), law(middle), rtol=1e-9)
    assert found.r2 == pytest.approx(1)
    assert found.n == len(points)
    for (low, high), value in zip(
        found.intervals.values(), found.coefficients.values(), strict=True
    ):
        assert low <= value + 1e-9 * abs(value)
        assert value - 1e-9 * abs(value) <= high


@pytest.mark.parametrize("statistic", ["mean", "p50", "p99"])
def test_quantity_names_the_statistic(statistic: str) -> None:
    """A law of the median is not one of the 99th percentile."""
    fit = fitting.itl_of_batch(BATCHES, 0.006 + 8e-5 * BATCHES**1.01, statistic=statistic)
    assert fit.quantity == f"itl_{statistic}_s"


@given(
    st.tuples(st.floats(0.1, 10), st.floats(1, 100), st.floats(1e-3, 1)),
    st.floats(0.001, 1000),
    st.integers(0, 1000),
)
@EXACT
def test_scaling_values_scales_the_fit(law: Any, factor: float, seed: int) -> None:
    """Another unit of energy changes coefficients and residuals alike, and no R²."""
    values = design(GRID_IN, GRID_OUT) @ np.array(law) * np.abs(noise(seed, len(GRID_IN), 0.1))
    assume(np.all(values > 0))
    one = fitting.tokens(GRID_IN, GRID_OUT, values, unit="J")
    other = fitting.tokens(GRID_IN, GRID_OUT, factor * values, unit="J")
    np.testing.assert_allclose(
        [*other.coefficients.values()], factor * np.array([*one.coefficients.values()]), rtol=1e-6
    )
    assert other.r2 == pytest.approx(one.r2)
    assert other.f == pytest.approx(one.f, rel=1e-6)


def test_intervals_hold_the_truth_as_often_as_they_say() -> None:
    """Of 300 fits with normal errors, 90 % intervals hold the slope in 240 to 297."""
    held = 0
    for seed in range(300):
        power = 70 + 30 * CLOCKS**3 + np.random.default_rng(seed).standard_normal(5)
        low, high = fitting.power_of_frequency(CLOCKS, power, level=0.9).intervals["c"]
        held += low <= 30 <= high
    assert 240 <= held <= 297  # 270 expected, standard deviation 5.2


# Without negative coefficients


def dipping(seed: int = 0) -> Any:
    """Energies to which ordinary least squares gives a negative coefficient."""
    factors = noise(seed, len(GRID_IN), 0.05)
    return (3 * GRID_OUT**1.4 + 0.02 * GRID_IN * GRID_OUT + 0.01 * GRID_IN) * factors


def test_physical_is_the_best_of_all_faces() -> None:
    """Non-negative least squares against trying every set of coefficients that are 0."""
    values = dipping()
    published = fitting.tokens(GRID_IN, GRID_OUT, values, unit="J")
    assert min(published.coefficients.values()) < 0
    assert "predictions at the measured points are below 0" in published.notes[0]
    physical = fitting.tokens_physical(GRID_IN, GRID_OUT, values, unit="J", resamples=100)
    x, best = design(GRID_IN, GRID_OUT), np.inf
    for mask in range(1, 8):
        some = [i for i in range(3) if mask >> i & 1]
        found, *_ = np.linalg.lstsq(x[:, some], values, rcond=None)
        if found.min() >= 0:
            best = min(best, float(np.sum((values - x[:, some] @ found) ** 2)))
    assert physical.residuals @ physical.residuals == pytest.approx(best, rel=1e-9)
    assert (physical.f, physical.p) == (None, None)
    assert physical.notes == ("per_token_in is at its bound 0",)


@given(st.integers(0, 100), st.floats(0.0, 1e5), st.floats(0.0, 1e5))
@EXACT
def test_physical_is_never_negative(seed: int, tokens_in: float, tokens_out: float) -> None:
    """Nowhere at all, and not below what fewer tokens cost."""
    fit = fitting.tokens_physical(GRID_IN, GRID_OUT, dipping(seed), unit="J", resamples=100)
    here = fit.predict(tokens_in=tokens_in, tokens_out=tokens_out, extrapolate=True)
    assert 0 <= here
    assert here <= fit.predict(tokens_in=tokens_in + 1, tokens_out=tokens_out, extrapolate=True)


def test_physical_intervals_are_seeded_and_hold_the_truth() -> None:
    """The same seed gives the same; nine of ten intervals hold what made the data.

    Errors grow with the energy here. Intervals of Student's t, which take them for equal, do not:
    those of HC3 do.
    """
    truth = {"per_token_in": 2.0, "per_token_out": 30.0, "per_product": 0.05}
    many = (np.tile(GRID_IN, 4), np.tile(GRID_OUT, 4))
    options: Any = {"unit": "J", "resamples": 200}
    exact = design(*many) @ [*truth.values()]
    held = dict.fromkeys(("wild", "equal", "robust"), 0)
    for seed in range(60):
        values = exact * noise(seed, len(exact), 0.1)
        fit = fitting.tokens_physical(*many, values, **options)
        fits = {
            "wild": fit,
            "equal": fitting.tokens(*many, values, unit="J"),
            "robust": fitting.tokens(*many, values, unit="J", robust=True),
        }
        for kind, one in fits.items():
            low, high = one.intervals["per_product"]
            held[kind] += low <= 0.05 <= high
    assert held["wild"] >= 0.85 * 60
    assert held["robust"] >= 0.85 * 60
    assert held["equal"] < 0.75 * 60
    assert fits["robust"].f == fits["equal"].f
    assert fits["robust"].coefficients == fits["equal"].coefficients
    again = fitting.tokens_physical(*many, values, **options)
    assert again.intervals == fit.intervals
    other = fitting.tokens_physical(*many, values, seed=1, **options)
    assert other.intervals != fit.intervals
    assert other.coefficients == fit.coefficients


# Prefill


def test_prefill_finds_its_knots() -> None:
    """Two pieces that meet at 512 of measured 128 to 8192 tokens."""
    tokens = np.repeat(2.0 ** np.arange(7, 14), 3)
    seconds = np.interp(tokens, [128, 512, 8192], [0.05, 0.06, 1.5]) * noise(5, 21, 1e-3)
    fit = fitting.prefill_of_tokens(tokens, seconds, resamples=100)
    assert fit.knots == (128, 512, 8192)
    np.testing.assert_allclose([*fit.coefficients.values()], [0.05, 0.06, 1.5], rtol=3e-3)
    assert [*fit.coefficients] == ["at_128_tokens", "at_512_tokens", "at_8192_tokens"]
    assert fit.predict(tokens=320) == pytest.approx(0.055, rel=3e-3)
    beyond = fit.predict(tokens=16384, extrapolate=True)
    assert beyond == pytest.approx(1.5 + 1.44 / 7680 * 8192, rel=3e-3)
    assert fit.notes[0] == "knots are the best of 16 placements"  # 1 + 5 + 10


@given(st.integers(0, 1000), st.integers(1, 4))
@EXACT
def test_prefill_never_falls(seed: int, pieces: int) -> None:
    """Whatever was measured."""
    rng = np.random.default_rng(seed)
    tokens, seconds = np.arange(1.0, 13) * 100, rng.uniform(0.01, 1.0, 12)
    knots = np.linspace(100, 1200, pieces + 1)
    fit = fitting.prefill_of_tokens(tokens, seconds, knots=knots, resamples=100)
    curve = fit.predict(tokens=np.linspace(100, 1200, 200))
    assert np.all(np.diff(curve) >= -1e-12)
    assert curve[0] >= 0
    for (low, high), value in zip(fit.intervals.values(), fit.coefficients.values(), strict=True):
        assert low <= high
        assert value >= 0


def test_prefill_with_given_knots_against_numpy() -> None:
    """Hats at 0, 500 and 1000, where the bounds do not bind."""
    tokens = np.array([50.0, 200, 400, 600, 800, 950])
    seconds = np.array([0.05, 0.09, 0.16, 0.4, 0.7, 0.95])
    fit = fitting.prefill_of_tokens(
        tokens, seconds, knots=[0, 500, 1000], relative=False, resamples=100
    )
    hats = np.column_stack([np.interp(tokens, [0, 500, 1000], row) for row in np.eye(3)])
    best, *_ = np.linalg.lstsq(hats, seconds, rcond=None)
    np.testing.assert_allclose([*fit.coefficients.values()], best, rtol=1e-9)
    assert fit.valid == {"tokens": (50, 950)}
    assert fit.weighting == "none"


# What is refused


TOKENS: Any = {"tokens_in": [8.0, 8, 64, 64], "tokens_out": [8.0, 64, 8, 64],
               "values": [1.0, 2, 3, 4], "unit": "J"}  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"unit": "kWh"}, "unit: is 'kWh'; expected 'J' for energies or 's' for run times"),
        ({"values": [1, 2, np.nan, 4]}, r"energy_j\[2\]: is nan, which is missing; expected a"),
        ({"values": [1, 0, 3, 4]}, r"energy_j\[1\]: is 0; expected a finite number above 0"),
        ({"values": [1, np.inf, 3, 4]}, r"energy_j\[1\]: is inf; expected a finite number above"),
        ({"tokens_in": [8, -8, 64, 64]}, r"tokens_in\[1\]: is -8; .* number of at least 0"),
        ({"tokens_in": [8, 8, 8, 8]}, "tokens_in: is 8 in every point; expected values that diff"),
        ({"tokens_in": [8, 64]}, "points: are 2 tokens_in, 4 tokens_out, 4 energy_j; expected as"),
        ({"tokens_in": [[8, 64]]}, "are not lists; expected one number for each point"),
        ({"tokens_in": ["a", "b", "c", "d"]}, r"tokens_in: is \['a', .*\]; expected numbers"),
        ({"level": 95}, "level: is 95; expected a number between 0 and 1"),
        ({"boundary": "rack"}, "boundary: is 'rack'; expected 'gpu', 'server' or 'facility'"),
        ({"source": "mine.csv", "values": [1, 2, 3, -4]}, r"mine.csv: energy_j\[3\]: is -4"),
        (
            {"tokens_in": [8, 8, 64, 8], "tokens_out": [8, 64, 0, 128]},
            "tokens_in, tokens_out: leave the 3 coefficients of the law open; expected other comb",
        ),
    ],
)
def test_bad_requests_are_refused(changes: Any, message: str) -> None:
    """Each with its field, its value and what was expected, by both laws."""
    for law in (fitting.tokens, fitting.tokens_physical):
        with pytest.raises(InputError, match=message):
            law(**{**TOKENS, **changes})


@pytest.mark.parametrize("size", [0, 1, 2, 3])
def test_too_few_requests_are_refused(size: int) -> None:
    """Three coefficients and their intervals need four."""
    few = {name: v[:size] if isinstance(v, list) else v for name, v in TOKENS.items()}
    with pytest.raises(InputError, match=f"points: are {size}; expected at least 4 for 3 coeff"):
        fitting.tokens(**few)


def test_constant_values_are_refused() -> None:
    """A centred R² of them is undefined."""
    with pytest.raises(InputError, match="power_w: is 70 in every point; expected values that"):
        fitting.power_of_frequency(CLOCKS, np.full(5, 70.0))


def test_clocks_of_zero_are_refused() -> None:
    """They have no time."""
    with pytest.raises(InputError, match=r"frequency_ghz\[0\]: is 0; .* number above 0"):
        fitting.time_of_frequency([0, 1, 2], [3, 2, 1])


def test_unknown_statistics_are_refused() -> None:
    """With those that are known."""
    with pytest.raises(InputError, match="statistic: is 'median'; expected one of 'mean', 'p50'"):
        fitting.itl_of_batch(BATCHES, BATCHES, statistic="median")


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"knots": [512, 128]}, InputError, "expected at least two increasing numbers"),
        ({"knots": [200, 8192]}, InputError, "expected to span 128 to 8192 tokens"),
        ({"knots": [128, 130, 140, 8192]}, InputError, "leave the 4 coefficients of the law open"),
        ({"knots": np.linspace(128, 8192, 7)}, InputError, "are 7; expected at least 8 for 7"),
        ({"most_pieces": 0}, ModelError, "most_pieces is 0; expected a whole number from 1 to 6"),
        ({"resamples": 5}, ModelError, "resamples is 5; expected a whole number from 100 to"),
        ({"seed": -1}, ModelError, "seed is -1"),
        ({"relative": 1}, InputError, "relative: is 1; expected True or False"),
    ],
)
def test_wrong_options_of_prefill_are_refused(options: Any, error: Any, message: str) -> None:
    """Each with what was expected."""
    tokens = 2.0 ** np.arange(7, 14)
    with pytest.raises(error, match=message):
        fitting.prefill_of_tokens(tokens, tokens / 1000, **options)


def test_many_numbers_of_tokens_are_thinned() -> None:
    """Not every placement among hundreds is tried, and the law is found all the same."""
    tokens = np.arange(1.0, 401) * 10
    seconds = np.interp(tokens, [10, 1500, 4000], [0.05, 0.1, 1.0])
    fit = fitting.prefill_of_tokens(tokens, seconds, most_pieces=2, resamples=100)
    assert fit.knots == (10, 1500, 4000)
    three = fitting.prefill_of_tokens(tokens * (1 + 1e-9), seconds, resamples=100)
    np.testing.assert_allclose(three.predict(tokens=tokens[5:-5]), seconds[5:-5], rtol=0.05)
