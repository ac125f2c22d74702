"""Laws of energy, power and time, each fitted to arrays."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from math import comb
from typing import Any

import numpy as np

from greenopt import arguments
from greenopt.datasets._tables import report
from greenopt.datasets.measured import Boundary
from greenopt.errors import Problem
from greenopt.fitting._regress import (
    RELATIVE,
    About,
    Bootstrap,
    Points,
    between,
    bounded,
    checked,
    enough,
    least_squares,
    made,
    squared,
    weighting_of,
)
from greenopt.fitting.fit import LAWS, Fit, hats
from greenopt.labelled import FloatArray

QUANTITIES = {"J": "energy_j", "s": "runtime_s"}
"""What a law of tokens gives, by unit."""

STATISTICS = ("mean", "p50", "p90", "p95", "p99")
"""Statistics of the time between tokens."""

MOST_PIECES = 6
"""Most pieces of a prefill law."""

MOST_PLACEMENTS = 4000
"""Most placements of knots that are compared."""


def tokens(
    tokens_in: Any,
    tokens_out: Any,
    values: Any,
    *,
    unit: str,
    robust: bool = False,
    level: float = 0.95,
    label: str = "",
    boundary: Boundary | None = None,
    source: str = "",
) -> Fit:
    """Energy or run time of a request: a·in + b·out + c·in·out, without intercept.

    Ordinary least squares, as in Wilkins et al. (thesis, equations 5.1 and 5.2). R² is uncentred
    and F that of all three coefficients. Coefficients can be negative, and with them predictions:
    a note says at how many points; see `Fit.clipped` and `tokens_physical`.

    Parameters
    ----------
    tokens_in, tokens_out : array_like, shape (n,)
        Tokens of each request.
    values : array_like, shape (n,)
        Energy, J, or run time, s.
    unit : {"J", "s"}
        Which of the two.
    robust : bool
        Whether the intervals allow for errors that grow with the request (covariance HC3). The
        usual ones, of the published fits, do not: over several decades of tokens they are too
        narrow.
    level : float
        Level of the intervals.
    label : str
        How it was measured, to stand beside every figure.
    boundary : {"gpu", "server", "facility"}, optional
        Whose energy it is.
    source : str
        Where the measurements are from; stands in errors too.

    Raises
    ------
    InputError
        For fewer than 4 points, values that are not above 0 or missing, tokens that do not vary or
        leave the coefficients open, another unit.
    """
    points, about = _requests(tokens_in, tokens_out, values, unit, label, boundary, source)
    return least_squares(points, level, about, robust=robust)


def tokens_physical(
    tokens_in: Any,
    tokens_out: Any,
    values: Any,
    *,
    unit: str,
    relative: bool = False,
    level: float = 0.95,
    resamples: int = 1000,
    seed: int = 0,
    label: str = "",
    boundary: Boundary | None = None,
    source: str = "",
) -> Fit:
    """The law of `tokens` with coefficients of at least 0, so that no prediction is negative.

    Our variant: non-negative least squares (SciPy's nnls), with intervals by a seeded wild
    bootstrap. There is no F.

    Parameters
    ----------
    tokens_in, tokens_out, values, unit, level, label, boundary, source
        As in `tokens`.
    relative : bool
        Whether errors count relative to what was observed. If not, the largest requests decide. If
        so, a relative noise of σ pulls the law down by about 2σ², since the weights share it.
    resamples, seed : int
        Of the bootstrap, 100 to 100,000 samples.

    Raises
    ------
    InputError
        As in `tokens`.
    ModelError
        For a number of samples or a seed that is none.
    """
    points, about = _requests(tokens_in, tokens_out, values, unit, label, boundary, source)
    weighting = weighting_of(points.source, relative)
    bootstrap = Bootstrap(resamples, seed)
    design = LAWS["tokens"].features(points.columns, np.empty(0))
    best, draws = bounded(points, design, level, bootstrap, weighting)
    zero = [name for name, at in zip(LAWS["tokens"].coefficients, best, strict=True) if at == 0]
    notes = [f"{', '.join(zero)} is at its bound 0"] if zero else []
    return made(
        points, level, about, best, between(draws, level), str(bootstrap), design @ best,
        weighting=weighting, notes=notes,
    )  # fmt: skip


def power_of_frequency(
    frequency_ghz: Any,
    power_w: Any,
    *,
    level: float = 0.95,
    label: str = "",
    boundary: Boundary | None = None,
    source: str = "",
) -> Fit:
    """Mean power at a clock, P0 + c·f³, by ordinary least squares.

    Parameters
    ----------
    frequency_ghz, power_w : array_like, shape (n,)
        Clock, GHz, and mean power while work runs, W.
    level, label, boundary, source
        As in `tokens`.

    Raises
    ------
    InputError
        For fewer than 3 points, and values that are not above 0, missing, or all the same.
    """
    about = About(label, boundary, source)
    columns = {"frequency_ghz": frequency_ghz}
    points = checked("power of frequency", "power_w", "W", columns, power_w, about)
    return least_squares(points, level, about)


def time_of_frequency(
    frequency_ghz: Any, duration_s: Any, *, level: float = 0.95, label: str = "", source: str = ""
) -> Fit:
    """Time of a work at a clock, T0 + κ/f, by ordinary least squares.

    Parameters
    ----------
    frequency_ghz, duration_s : array_like, shape (n,)
        Clock, GHz, and time, s.
    level, label, source
        As in `tokens`.

    Raises
    ------
    InputError
        As in `power_of_frequency`.
    """
    about = About(label, None, source)
    columns = {"frequency_ghz": frequency_ghz}
    points = checked("time of frequency", "duration_s", "s", columns, duration_s, about)
    return least_squares(points, level, about)


def energy_of_batch(
    batch: Any,
    energy_per_token_j: Any,
    *,
    level: float = 0.95,
    label: str = "",
    boundary: Boundary | None = None,
    source: str = "",
) -> Fit:
    """Energy of an output token, e∞ + c1/b, with errors relative to the energy.

    Least squares weighted by 1/e²: the energy spans two orders of size, and without weights the
    smallest batch alone would decide. R² is that of the weighted squares. A relative noise of σ
    pulls the law down by about 2σ², since the weights share it.

    Parameters
    ----------
    batch, energy_per_token_j : array_like, shape (n,)
        Requests decoded together in the mean, and energy of an output token, J.
    level, label, boundary, source
        As in `tokens`.

    Raises
    ------
    InputError
        As in `power_of_frequency`.
    """
    about = About(label, boundary, source)
    columns = {"batch": batch}
    points = checked(
        "energy of batch", "energy_per_token_j", "J", columns, energy_per_token_j, about
    )
    return least_squares(points, level, about, weighting=RELATIVE)


def itl_of_batch(
    batch: Any,
    itl_s: Any,
    *,
    statistic: str = "mean",
    level: float = 0.95,
    label: str = "",
    source: str = "",
) -> Fit:
    """Time between output tokens, α + β·b, by ordinary least squares.

    Parameters
    ----------
    batch, itl_s : array_like, shape (n,)
        Requests decoded together in the mean, and time between tokens, s.
    statistic : {"mean", "p50", "p90", "p95", "p99"}
        What of the times was measured; a law of the median says nothing of a limit on p99.
    level, label, source
        As in `tokens`.

    Raises
    ------
    InputError
        As in `power_of_frequency`, and for another statistic.
    """
    about = About(label, None, source)
    if statistic not in STATISTICS:
        expected = ", ".join(map(repr, STATISTICS))
        what = f"is {statistic!r}; expected one of {expected}"
        report(source or "fit of itl_s", [Problem("statistic", what)])
    columns = {"batch": batch}
    points = checked("itl of batch", f"itl_{statistic}_s", "s", columns, itl_s, about)
    return least_squares(points, level, about)


def power_of_batch(
    batch: Any,
    power_w: Any,
    *,
    level: float = 0.95,
    label: str = "",
    boundary: Boundary | None = None,
    source: str = "",
) -> Fit:
    """Power of an instance, P0 + p·log2 b, by ordinary least squares.

    Parameters
    ----------
    batch, power_w : array_like, shape (n,)
        Requests decoded together in the mean, and power of all GPUs, W.
    level, label, boundary, source
        As in `tokens`.

    Raises
    ------
    InputError
        As in `power_of_frequency`.
    """
    about = About(label, boundary, source)
    points = checked("power of batch", "power_w", "W", {"batch": batch}, power_w, about)
    return least_squares(points, level, about)


def prefill_of_tokens(
    tokens: Any,
    prefill_s: Any,
    *,
    knots: Sequence[float] | None = None,
    most_pieces: int = 3,
    relative: bool = True,
    level: float = 0.95,
    resamples: int = 1000,
    seed: int = 0,
    label: str = "",
    source: str = "",
) -> Fit:
    """Time of the prefill in prompt tokens: continuous, linear in pieces, never falling.

    Non-negative least squares over the time at the first knot and the rises to the others. The
    coefficients are the times at the knots. Without knots given, they are measured numbers of
    tokens, chosen among all placements of up to `most_pieces` pieces by the Bayesian information
    criterion, to which a knot counts as a coefficient; with very many numbers of tokens, among an
    even choice of them. The intervals take the knots as given.

    Parameters
    ----------
    tokens, prefill_s : array_like, shape (n,)
        Prompt tokens, and time to the first token, s.
    knots : sequence of float, optional
        Tokens where pieces begin and end: the first at most the fewest tokens measured, the last at
        least the most.
    most_pieces : int
        Most pieces where knots are chosen, 1 to 6.
    relative : bool
        Whether errors count relative to what was observed.
    level, label, source
        As in `tokens`.
    resamples, seed : int
        Of the bootstrap, 100 to 100,000 samples.

    Raises
    ------
    InputError
        As in `power_of_frequency`, for knots that are not increasing or do not span the points,
        and pieces without points.
    ModelError
        For a number of pieces or samples, or a seed, that is none.
    """
    about = About(label, None, source)
    points = checked("prefill of tokens", "prefill_s", "s", {"tokens": tokens}, prefill_s, about)
    weighting = weighting_of(points.source, relative)
    arguments.whole("most_pieces", most_pieces, 1, MOST_PIECES)
    if knots is None:
        at, notes = _chosen_knots(points, most_pieces, weighting)
    else:
        at, notes = _given_knots(points, knots), []
    enough(points.source, len(points.values), len(at))
    bootstrap = Bootstrap(resamples, seed)
    rises, draws = bounded(points, _rises(points, at), level, bootstrap, weighting)
    return made(
        points, level, about, np.cumsum(rises), between(np.cumsum(draws, axis=1), level),
        str(bootstrap), hats(points.columns, at) @ np.cumsum(rises), weighting=weighting,
        names={f"at_{knot:g}_tokens": "s" for knot in at}, knots=at.tolist(), notes=notes,
    )  # fmt: skip


def _requests(
    tokens_in: Any,
    tokens_out: Any,
    values: Any,
    unit: str,
    label: str,
    boundary: Boundary | None,
    source: str,
) -> tuple[Points, About]:
    """Checked measurements of requests."""
    if unit not in QUANTITIES:
        what = f"is {unit!r}; expected 'J' for energies or 's' for run times"
        report(source or "fit of tokens", [Problem("unit", what)])
    about = About(label, boundary, source)
    columns = {"tokens_in": tokens_in, "tokens_out": tokens_out}
    return checked("tokens", QUANTITIES[unit], unit, columns, values, about), about


def _rises(points: Points, knots: FloatArray) -> FloatArray:
    """Columns of the time at the first knot and of the rise to each other one."""
    weights = hats(points.columns, knots)
    rises: FloatArray = np.cumsum(weights[:, ::-1], axis=1)[:, ::-1]
    return rises


def _given_knots(points: Points, knots: Sequence[float]) -> FloatArray:
    """The caller's knots, if they are in order, span the points and have points between."""
    at, tokens = np.asarray(knots, dtype=float), points.columns["tokens"]
    low, high = tokens.min(), tokens.max()
    if at.ndim != 1 or len(at) < 2 or not np.all(np.isfinite(at)) or np.any(np.diff(at) <= 0):
        what = f"is {knots!r}; expected at least two increasing numbers"
    elif at[0] > low or at[-1] < high:
        what = f"is {knots!r}; expected to span {low:g} to {high:g} tokens, which are measured"
    else:
        return at
    report(points.source, [Problem("knots", what)])
    raise AssertionError  # not reached: there is a problem to report


def _chosen_knots(points: Points, most_pieces: int, weighting: str) -> tuple[FloatArray, list[str]]:
    """Measured numbers of tokens that explain most for their number."""
    from scipy.optimize import nnls

    measured = np.unique(points.columns["tokens"])
    root = np.sqrt(squared(points.values, weighting))
    target, n = points.values * root, len(points.values)
    least = np.finfo(float).eps * float(target @ target)  # a perfect fit is no better than this
    best, found = np.inf, measured[[0, -1]]
    tried = 0
    for pieces in range(1, most_pieces + 1):
        inner = _inner(measured, pieces - 1)
        for places in combinations(inner, pieces - 1):
            knots = np.array([measured[0], *places, measured[-1]])
            if len(knots) >= n:
                continue
            _, norm = nnls(_rises(points, knots) * root[:, None], target)
            criterion = n * np.log(max(norm**2, least) / n) + (2 * pieces) * np.log(n)
            tried += 1
            if criterion < best:
                best, found = criterion, knots
    return found, [f"knots are the best of {tried} placements"]


def _inner(measured: FloatArray, number: int) -> FloatArray:
    """Where inner knots may be: all measured, or an even choice if there are too many ways."""
    inner = measured[1:-1]
    keep = len(inner)
    while comb(keep, number) > MOST_PLACEMENTS:
        keep -= 1
    even: FloatArray = inner[np.linspace(0, len(inner) - 1, keep).round().astype(int)]
    return even
