"""Waiting of requests in front of an instance that works on one at a time.

A request takes `service_s` with the squared coefficient of variation `service_cv2`; the times
between arrivals have `arrival_cv2` (1 is Poisson). The mean is that of Pollaczek and Khinchine for
Poisson arrivals, else Kingman's upper estimate; the tail is exponential, exact for M/M/1.
"""

from __future__ import annotations

from typing import Any

import numpy as np


def waiting_share(utilisation: Any) -> Any:
    """Requests waiting on an instance in the mean, u²/(1-u), for a variability of 1."""
    u = np.asarray(utilisation, dtype=float)
    return u * u / (1 - u)


def utilisation_of_slope(slope: Any) -> Any:
    """Utilisation at which `waiting_share` rises with a slope of 0 or more."""
    return 1 - 1 / np.sqrt(1 + np.asarray(slope, dtype=float))


def variability(service_cv2: Any, arrival_cv2: Any) -> Any:
    """Mean of the squared coefficients of variation of arrivals and of service."""
    return (np.asarray(service_cv2, dtype=float) + arrival_cv2) / 2


def mean_wait_s(utilisation: Any, service_s: Any, service_cv2: Any, arrival_cv2: Any) -> Any:
    """Mean time a request waits, s, at a utilisation below 1."""
    u = np.asarray(utilisation, dtype=float)
    return service_s * variability(service_cv2, arrival_cv2) * u / (1 - u)


def delayed_wait_s(utilisation: Any, service_s: Any, service_cv2: Any, arrival_cv2: Any) -> Any:
    """Mean wait of the requests that find the instance busy, s, at a utilisation below 1.

    A request finds it busy with the utilisation as probability, and then waits exponentially, so
    that the mean of all is `mean_wait_s`.
    """
    u = np.asarray(utilisation, dtype=float)
    return service_s * variability(service_cv2, arrival_cv2) / (1 - u)


def wait_quantile_s(
    utilisation: Any, service_s: Any, service_cv2: Any, arrival_cv2: Any, share: float
) -> Any:
    """Time within which a share of the requests has waited, s, at a utilisation below 1."""
    u = np.asarray(utilisation, dtype=float)
    scale = delayed_wait_s(u, service_s, service_cv2, arrival_cv2)
    return scale * np.log(np.maximum(u, 1 - share) / (1 - share))


def wait_survival(
    wait_s: Any, utilisation: Any, service_s: Any, service_cv2: Any, arrival_cv2: Any
) -> Any:
    """Share of the requests that wait longer than a time, at a utilisation below 1."""
    u, time = np.asarray(utilisation, dtype=float), np.asarray(wait_s, dtype=float)
    scale = delayed_wait_s(u, service_s, service_cv2, arrival_cv2)
    with np.errstate(divide="ignore", invalid="ignore"):
        decay = np.where(scale > 0, np.exp(-np.maximum(time, 0.0) / scale), 0.0)
    return np.where(time < 0, 1.0, u * decay)
