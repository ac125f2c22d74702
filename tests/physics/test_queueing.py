"""Waits in front of an instance: by hand, against each other, and against simulated queues."""

from __future__ import annotations

from math import log

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import quad

from greenopt.physics import queueing

EXACT = settings(max_examples=120, deadline=None, derandomize=True)
BELOW_ONE = st.floats(0.0, 0.999)
TIMES = st.floats(1e-3, 1e3)
VARIATIONS = st.floats(0.0, 4.0)


def test_single_server_by_hand() -> None:
    """At 4 requests in 5 s and 1 s each, M/M/1 waits 4 s in the mean, M/D/1 half of it.

    The wait of M/M/1 is longer than t with the probability 0.8 exp(-0.2 t).
    """
    assert queueing.mean_wait_s(0.8, 1.0, 1.0, 1.0) == pytest.approx(4.0)
    assert queueing.mean_wait_s(0.8, 1.0, 0.0, 1.0) == pytest.approx(2.0)
    assert queueing.delayed_wait_s(0.8, 1.0, 1.0, 1.0) == pytest.approx(5.0)
    assert queueing.wait_quantile_s(0.8, 1.0, 1.0, 1.0, 0.95) == pytest.approx(log(16) / 0.2)
    assert queueing.wait_quantile_s(0.8, 1.0, 0.0, 1.0, 0.95) == pytest.approx(log(16) / 0.4)
    assert queueing.wait_survival(5.0, 0.8, 1.0, 1.0, 1.0) == pytest.approx(0.8 / np.e)


def test_rare_waits_are_no_percentile() -> None:
    """Where 1 request in 25 finds the instance busy, 95 of 100 do not wait at all; 99 do."""
    assert queueing.wait_quantile_s(0.04, 1.0, 1.0, 1.0, 0.95) == 0.0
    assert queueing.wait_quantile_s(0.05, 1.0, 1.0, 1.0, 0.95) == 0.0
    assert queueing.wait_quantile_s(0.04, 1.0, 1.0, 1.0, 0.99) == pytest.approx(log(4) / 0.96)
    assert queueing.wait_quantile_s(0.0, 1.0, 1.0, 1.0, 0.99) == 0.0


def test_nothing_varies_nobody_waits() -> None:
    """With fixed times of service and between arrivals there is no wait of any statistic."""
    assert queueing.mean_wait_s(0.9, 1.0, 0.0, 0.0) == 0.0
    assert queueing.wait_quantile_s(0.9, 1.0, 0.0, 0.0, 0.99) == 0.0
    assert queueing.wait_survival([0.0, 1.0], 0.9, 1.0, 0.0, 0.0).tolist() == [0.0, 0.0]
    assert queueing.wait_survival(-1.0, 0.9, 1.0, 0.0, 0.0) == 1.0


@given(BELOW_ONE, TIMES, VARIATIONS, VARIATIONS)
@EXACT
def test_waiting_requests_by_littles_law(
    u: float, service: float, own: float, arrival: float
) -> None:
    """Requests waiting are those that arrive in a second times the wait of each."""
    waiting = u / service * queueing.mean_wait_s(u, service, own, arrival)
    share = queueing.waiting_share(u) * queueing.variability(own, arrival)
    assert waiting == pytest.approx(share, rel=1e-9, abs=1e-300)


@given(BELOW_ONE, TIMES, VARIATIONS, VARIATIONS, st.floats(0.01, 0.999))
@EXACT
def test_quantile_and_survival_agree(
    u: float, service: float, own: float, arrival: float, share: float
) -> None:
    """Longer than the quantile wait as many as are left over, or fewer where it is zero."""
    quantile = queueing.wait_quantile_s(u, service, own, arrival, share)
    late = queueing.wait_survival(quantile, u, service, own, arrival)
    if quantile > 0:
        assert late == pytest.approx(1 - share, rel=1e-9)
    else:
        assert quantile == 0
        assert late <= 1 - share + 1e-12


@pytest.mark.parametrize("u", [0.1, 0.6, 0.95])
def test_mean_is_the_area_below_the_survival(u: float) -> None:
    """The distribution has the mean that is charged."""
    times = (u, 0.3, 0.7, 1.6)
    area, _ = quad(lambda t: float(queueing.wait_survival(t, *times)), 0.0, np.inf)
    assert area == pytest.approx(queueing.mean_wait_s(*times), rel=1e-7)


@given(st.floats(0.0, 0.99))
@EXACT
def test_utilisation_of_a_slope(u: float) -> None:
    """The slope of u²/(1-u) is 1/(1-u)² - 1, and leads back to the utilisation."""
    step = 1e-6 * (1 - u)
    rise = queueing.waiting_share(u + step) - queueing.waiting_share(u)
    slope = 1 / (1 - u) ** 2 - 1
    assert rise / step == pytest.approx(slope, rel=1e-4, abs=1e-4)
    assert queueing.utilisation_of_slope(slope) == pytest.approx(u, abs=1e-9)


def test_ends_of_the_slope() -> None:
    """Waiting that costs nothing fills an instance, load that is worth nothing empties it."""
    assert queueing.utilisation_of_slope([0.0, np.inf]).tolist() == [0.0, 1.0]


# Queues simulated request by request


REQUESTS = 2_000_000


def simulated(
    rng: np.random.Generator, u: float, service_cv2: float, arrival_cv2: float
) -> np.ndarray:
    """Waits in front of one instance of 1 s a request, by Lindley's recursion.

    Each request waits for what is left of the work before it: the free walk of service less time
    between arrivals, above its lowest point so far. Times are gamma, of which 1 is exponential.
    """
    service = _gamma(rng, 1.0, service_cv2)
    between = _gamma(rng, 1.0 / u, arrival_cv2)
    walk = np.concatenate([[0.0], np.cumsum(service[:-1] - between[1:])])
    waits: np.ndarray = walk - np.minimum.accumulate(walk)
    return waits


def _gamma(rng: np.random.Generator, mean: float, cv2: float) -> np.ndarray:
    return np.full(REQUESTS, mean) if cv2 == 0 else rng.gamma(1 / cv2, mean * cv2, REQUESTS)


@pytest.mark.parametrize("service_cv2", [0.0, 0.5, 1.0, 2.0])
@pytest.mark.parametrize("u", [0.3, 0.7, 0.85])
def test_poisson_arrivals_wait_as_long_as_charged(u: float, service_cv2: float) -> None:
    """Pollaczek and Khinchine's mean is what two million requests wait, to 3 %."""
    waits = simulated(np.random.default_rng(11), u, service_cv2, 1.0)
    assert queueing.mean_wait_s(u, 1.0, service_cv2, 1.0) == pytest.approx(waits.mean(), rel=0.03)


@pytest.mark.parametrize("u", [0.5, 0.8])
@pytest.mark.parametrize("share", [0.5, 0.9, 0.95, 0.99])
def test_exponential_service_waits_within_its_percentiles(u: float, share: float) -> None:
    """So are the percentiles of M/M/1, to 3 %."""
    waits = simulated(np.random.default_rng(12), u, 1.0, 1.0)
    charged = queueing.wait_quantile_s(u, 1.0, 1.0, 1.0, share)
    assert charged == pytest.approx(np.quantile(waits, share), rel=0.03, abs=1e-3)


@pytest.mark.parametrize("arrival_cv2", [0.25, 0.5])
@pytest.mark.parametrize("service_cv2", [0.5, 1.0])
def test_kingman_is_not_below(service_cv2: float, arrival_cv2: float) -> None:
    """Arrivals that are no Poisson process wait no longer than charged, and not far less."""
    waits = simulated(np.random.default_rng(13), 0.85, service_cv2, arrival_cv2)
    charged = queueing.mean_wait_s(0.85, 1.0, service_cv2, arrival_cv2)
    assert 0.75 * charged < waits.mean() <= charged
