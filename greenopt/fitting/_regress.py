"""Least squares with intervals: what all laws share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from greenopt import arguments
from greenopt.datasets._tables import report
from greenopt.datasets.measured import Boundary
from greenopt.errors import Problem
from greenopt.fitting.fit import LAWS, Fit, as_numbers, meaningless, quality
from greenopt.labelled import FloatArray
from greenopt.validation import FrozenDict

RELATIVE = "1/observed²"
"""Weighting of squares that makes errors count relative to what was observed."""

DEPENDENT = 1e-8
"""Columns of a design, scaled to length 1, are dependent below this singular value."""


class About(NamedTuple):
    """What is said of measurements, not computed from them."""

    label: str = ""
    boundary: Boundary | None = None
    source: str = ""


class Bootstrap(NamedTuple):
    """How often and from which seed residuals are drawn anew."""

    resamples: int
    seed: int

    def __str__(self) -> str:
        return f"wild bootstrap of {self.resamples} samples, seed {self.seed}"


class Points(NamedTuple):
    """Checked measurements of one law."""

    law: str
    quantity: str
    unit: str
    columns: dict[str, FloatArray]
    values: FloatArray
    source: str


def checked(
    law: str, quantity: str, unit: str, columns: Mapping[str, Any], values: Any, about: About
) -> Points:
    """Measurements that the law can be fitted to, or everything that is wrong with them."""
    source = about.source or f"fit of {quantity}"
    _check_boundary(source, about.boundary)
    if any(np.ndim(given) != 1 for given in (*columns.values(), values)):
        names = ", ".join((*columns, quantity))
        report(source, [Problem(names, "are not lists; expected one number for each point")])
    arrays = {name: as_numbers(source, name, given) for name, given in columns.items()}
    observed = as_numbers(source, quantity, values)
    if len({len(observed), *map(len, arrays.values())}) > 1:
        sizes = ", ".join(f"{len(a)} {n}" for n, a in (*arrays.items(), (quantity, observed)))
        report(source, [Problem("points", f"are {sizes}; expected as many of each")])
    problems = []
    for name, column in arrays.items():
        problems += meaningless(name, column, from_zero=LAWS[law].from_zero)
    problems += meaningless(quantity, observed, from_zero=False)
    report(source, problems)
    if len(observed):
        constant = [name for name, column in arrays.items() if np.ptp(column) == 0]
        if LAWS[law].intercept and np.ptp(observed) == 0:
            constant.append(quantity)
        every = {**arrays, quantity: observed}
        problems = [
            Problem(name, f"is {every[name][0]:g} in every point; expected values that differ")
            for name in constant
        ]
    enough(source, len(observed), len(LAWS[law].coefficients))
    report(source, problems)
    return Points(law, quantity, unit, arrays, observed, source)


def enough(source: str, points: int, coefficients: int) -> None:
    """Refuse so few points that nothing is left to judge the fit by."""
    if points <= coefficients:
        what = f"are {points}; expected at least {coefficients + 1} for {coefficients} coefficients"
        report(source, [Problem("points", f"{what} and their intervals")])


def least_squares(
    points: Points,
    level: float,
    about: About,
    *,
    weighting: str = "none",
    robust: bool = False,
) -> Fit:
    """Ordinary or weighted least squares with the intervals of Student's t.

    With `robust` they rest on the covariance HC3, for which errors need not be equal.
    """
    linear_model = load_statsmodels()
    alpha = 1 - _level(points.source, level)
    law = LAWS[points.law]
    design = law.features(points.columns, np.empty(0))
    _refuse_dependent(points, design)
    weights = squared(points.values, weighting)
    with np.errstate(divide="ignore"):  # F of a perfect fit
        result = linear_model.WLS(
            points.values, design, weights=weights, hasconst=law.intercept
        ).fit()
        f, p = float(result.fvalue), float(result.f_pvalue)
    kind = f"Student's t, {result.df_resid:g} degrees of freedom"
    judged = result.get_robustcov_results("HC3", use_t=True) if robust else result
    kind += ", covariance HC3" if robust else ""
    return made(
        points, level, about, result.params, judged.conf_int(alpha), kind,
        design @ result.params, weighting=weighting, f=f, p=p,
    )  # fmt: skip


def bounded(
    points: Points,
    design: FloatArray,
    level: float,
    bootstrap: Bootstrap,
    weighting: str,
) -> tuple[FloatArray, FloatArray]:
    """Least squares with coefficients of at least 0, and how they vary.

    The intervals are quantiles of a wild bootstrap: each residual, divided by 1 less its leverage
    as in HC3, keeps or changes its sign at random, and the fit is made again. It asks neither for
    equal variances nor for a normal distribution. A coefficient at 0 has an interval from 0, for
    which no bootstrap is consistent (Andrews 2000): read it as an order of size.

    Returns
    -------
    coefficients, draws : ndarray, shapes (k,) and (resamples, k)
    """
    from scipy.optimize import nnls

    arguments.whole("resamples", bootstrap.resamples, 100, 100_000)
    arguments.seed(bootstrap.seed)
    _level(points.source, level)
    _refuse_dependent(points, design)
    root = np.sqrt(squared(points.values, weighting))
    scale = np.linalg.norm(design * root[:, None], axis=0)
    scaled = design * root[:, None] / scale
    target = points.values * root
    best, _ = nnls(scaled, target)
    q, _ = np.linalg.qr(scaled[:, best > 0])
    spare = 1 - np.sum(q**2, axis=1)
    alone = spare < DEPENDENT  # points that a coefficient meets exactly
    moved = np.where(alone, 0.0, (target - scaled @ best) / np.where(alone, 1.0, spare))
    signs = np.random.default_rng(bootstrap.seed).choice(
        [-1.0, 1.0], size=(bootstrap.resamples, len(target))
    )
    draws = np.array([nnls(scaled, scaled @ best + sign * moved)[0] for sign in signs])
    return best / scale, draws / scale


def between(draws: FloatArray, level: float) -> FloatArray:
    """Quantiles that hold a share of the draws, shape (k, 2)."""
    tail = (1 - level) / 2
    return np.quantile(draws, [tail, 1 - tail], axis=0).T


def made(
    points: Points,
    level: float,
    about: About,
    coefficients: Sequence[float] | FloatArray,
    intervals: FloatArray,
    interval_kind: str,
    predicted: FloatArray,
    *,
    weighting: str = "none",
    f: float | None = None,
    p: float | None = None,
    names: Mapping[str, str] | None = None,
    knots: Sequence[float] = (),
    notes: Sequence[str] = (),
) -> Fit:
    """The fit with its quality and its range."""
    law = LAWS[points.law]
    units = {name: unit.format(unit=points.unit) for name, unit in law.coefficients.items()}
    units = dict(names or units)
    return Fit(
        law=points.law,
        formula=law.formula,
        quantity=points.quantity,
        unit=points.unit,
        coefficients=_by_name(units, (float(value) for value in coefficients)),
        units=FrozenDict(units),
        intervals=_by_name(units, ((float(low), float(high)) for low, high in intervals)),
        level=level,
        interval_kind=interval_kind,
        weighting=weighting,
        f=f,
        p=p,
        valid=FrozenDict(
            {name: (float(c.min()), float(c.max())) for name, c in points.columns.items()}
        ),
        variables=FrozenDict({name: _fixed(c) for name, c in points.columns.items()}),
        observed=_fixed(points.values),
        predicted=_fixed(predicted),
        knots=tuple(float(knot) for knot in knots),
        label=about.label,
        boundary=about.boundary,
        source=about.source,
        notes=(*notes, *_below_zero(predicted)),
        **quality(law, points.values, predicted, len(units), weighting),
    )


def squared(values: FloatArray, weighting: str) -> FloatArray:
    """Weights of the squares."""
    return values**-2.0 if weighting == RELATIVE else np.ones_like(values)


def weighting_of(source: str, relative: bool) -> str:
    """Name of the weighting that a caller chose."""
    if not isinstance(relative, bool):
        report(source, [Problem("relative", f"is {relative!r}; expected True or False")])
    return RELATIVE if relative else "none"


def load_statsmodels() -> Any:
    """Import the linear models of statsmodels, or say how to get them."""
    try:
        from statsmodels.regression import linear_model
    except ImportError as error:
        raise ImportError("fits need statsmodels: pip install 'greenopt[fit]'") from error
    return linear_model


def _level(source: str, level: Any) -> float:
    if isinstance(level, bool) or not isinstance(level, int | float) or not 0 < level < 1:
        report(source, [Problem("level", f"is {level!r}; expected a number between 0 and 1")])
    return float(level)


def _check_boundary(source: str, boundary: Any) -> None:
    if boundary not in (None, "gpu", "server", "facility"):
        what = f"is {boundary!r}; expected 'gpu', 'server' or 'facility'"
        report(source, [Problem("boundary", what)])


def _refuse_dependent(points: Points, design: FloatArray) -> None:
    """Refuse points that leave the coefficients open."""
    lengths = np.linalg.norm(design, axis=0)
    least = 0.0 if not lengths.all() else np.linalg.svd(design / lengths, compute_uv=False)[-1]
    if least < DEPENDENT:
        what = (
            f"leave the {design.shape[1]} coefficients of the law open; expected other combinations"
        )
        report(points.source, [Problem(", ".join(points.columns), what)])


def _below_zero(predicted: FloatArray) -> tuple[str, ...]:
    below = int(np.count_nonzero(predicted < 0))
    if not below:
        return ()
    return (
        f"{below} of {len(predicted)} predictions at the measured points are below 0, the lowest "
        f"{predicted.min():.4g}",
    )


def _by_name(names: Mapping[str, Any], values: Any) -> Mapping[str, Any]:
    return FrozenDict(dict(zip(names, values, strict=True)))


def _fixed(values: FloatArray) -> FloatArray:
    copy = np.array(values, dtype=float)
    copy.setflags(write=False)
    return copy
