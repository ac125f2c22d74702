"""A fitted law: coefficients, intervals, quality, where it is valid, and what it was fitted to."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

from greenopt.datasets._tables import report
from greenopt.datasets.measured import Boundary
from greenopt.errors import Problem
from greenopt.labelled import BoolArray, FloatArray

Columns = Mapping[str, FloatArray]


class Law(NamedTuple):
    """A law that is linear in its coefficients.

    Parameters
    ----------
    formula : str
        Right side in words of the coefficients and variables.
    variables : tuple of str
        What it depends on.
    coefficients : dict of str to str
        Unit by coefficient; ``{unit}`` stands for that of the quantity. Empty where they depend on
        knots.
    features : callable
        From columns of variables and knots to an array, shape (n, n_coefficients), whose product
        with the coefficients is the quantity.
    intercept : bool
        Whether a coefficient stands alone; R² is centred then, otherwise not.
    from_zero : bool
        Whether a variable may be 0.
    """

    formula: str
    variables: tuple[str, ...]
    coefficients: Mapping[str, str]
    features: Callable[[Columns, FloatArray], FloatArray]
    intercept: bool = True
    from_zero: bool = False


def _one_and(name: str, of: Callable[[FloatArray], FloatArray]) -> Any:
    def features(columns: Columns, knots: FloatArray) -> FloatArray:
        values = columns[name]
        return np.column_stack([np.ones_like(values), of(values)])

    return features


def _tokens(columns: Columns, knots: FloatArray) -> FloatArray:
    tokens_in, tokens_out = columns["tokens_in"], columns["tokens_out"]
    return np.column_stack([tokens_in, tokens_out, tokens_in * tokens_out])


def hats(columns: Columns, knots: FloatArray) -> FloatArray:
    """Weights of the values at the knots; beyond the ends the last piece goes on."""
    tokens = columns["tokens"]
    piece = np.clip(np.searchsorted(knots, tokens, side="right") - 1, 0, len(knots) - 2)
    share = (tokens - knots[piece]) / (knots[piece + 1] - knots[piece])
    weights = np.zeros((len(tokens), len(knots)))
    rows = np.arange(len(tokens))
    weights[rows, piece], weights[rows, piece + 1] = 1 - share, share
    return weights


LAWS: Mapping[str, Law] = MappingProxyType(
    {
        "tokens": Law(
            "per_token_in·tokens_in + per_token_out·tokens_out + per_product·tokens_in·tokens_out",
            ("tokens_in", "tokens_out"),
            {
                "per_token_in": "{unit}/token",
                "per_token_out": "{unit}/token",
                "per_product": "{unit}/token²",
            },
            _tokens,
            intercept=False,
            from_zero=True,
        ),
        "power of frequency": Law(
            "P0 + c·frequency_ghz³",
            ("frequency_ghz",),
            {"P0": "{unit}", "c": "{unit}/GHz³"},
            _one_and("frequency_ghz", lambda f: f**3),
        ),
        "time of frequency": Law(
            "T0 + kappa/frequency_ghz",
            ("frequency_ghz",),
            {"T0": "{unit}", "kappa": "{unit}·GHz"},
            _one_and("frequency_ghz", lambda f: 1 / f),
        ),
        "energy of batch": Law(
            "e_inf + c1/batch",
            ("batch",),
            {"e_inf": "{unit}", "c1": "{unit}"},
            _one_and("batch", lambda b: 1 / b),
        ),
        "itl of batch": Law(
            "alpha + beta·batch",
            ("batch",),
            {"alpha": "{unit}", "beta": "{unit}"},
            _one_and("batch", lambda b: b),
        ),
        "power of batch": Law(
            "P0 + p·log2(batch)",
            ("batch",),
            {"P0": "{unit}", "p": "{unit}"},
            _one_and("batch", np.log2),
        ),
        "prefill of tokens": Law(
            "linear in tokens between the knots", ("tokens",), {}, hats, from_zero=True
        ),
    }
)
"""Laws by name."""


@dataclass(frozen=True, eq=False, repr=False)
class Fit:
    """A law fitted to measurements.

    Attributes
    ----------
    law, formula : str
        Name in `LAWS`, and the law in words.
    quantity, unit : str
        What it gives, and in which unit.
    coefficients : dict of str to float
        Values.
    units : dict of str to str
        Unit of each coefficient.
    intervals : dict of str to (float, float)
        Interval of each coefficient at `level`.
    level : float
        Confidence level, such as 0.95.
    interval_kind : str
        How the intervals were made.
    r2, r2_kind : float, {"uncentred", "centred"}
        Share explained, of the sum of squares (uncentred: the law has no intercept) or of the
        variance (centred). With `weighting`, of the weighted sums.
    weighting : str
        "none", or what the squares were divided by.
    f, p : float or None
        F statistic of the whole fit and its p; None where the fit is no least squares without
        bounds.
    residual_sd : float
        Standard deviation of the residuals, unweighted, in `unit`; n less the number of
        coefficients in the denominator.
    mape_percent : float
        Mean absolute error relative to what was observed, %.
    valid : dict of str to (float, float)
        Smallest and largest measured value of each variable.
    variables : dict of str to ndarray, shape (n,)
        Measured points.
    observed, predicted : ndarray, shape (n,)
        What was measured and what the law says there.
    knots : tuple of float
        Where pieces meet, for laws that have some.
    floor : float or None
        Predictions are not below; None is no floor.
    label : str
        How it was measured, to stand beside every figure made of it.
    boundary : {"gpu", "server", "facility"} or None
        Whose energy or power it is; None for times.
    source : str
        Where the measurements are from.
    notes : tuple of str
        What is unusual.
    """

    law: str
    formula: str
    quantity: str
    unit: str
    coefficients: Mapping[str, float]
    units: Mapping[str, str]
    intervals: Mapping[str, tuple[float, float]]
    level: float
    interval_kind: str
    r2: float
    r2_kind: str
    weighting: str
    f: float | None
    p: float | None
    residual_sd: float
    mape_percent: float
    valid: Mapping[str, tuple[float, float]]
    variables: Columns
    observed: FloatArray
    predicted: FloatArray
    knots: tuple[float, ...] = ()
    floor: float | None = None
    label: str = ""
    boundary: Boundary | None = None
    source: str = ""
    notes: tuple[str, ...] = ()

    @property
    def n(self) -> int:
        """Number of measured points."""
        return len(self.observed)

    @property
    def residuals(self) -> FloatArray:
        """What was measured less what the law says, shape (n,)."""
        return self.observed - self.predicted

    def predict(self, *, extrapolate: bool = False, **variables: Any) -> Any:
        """The quantity for other values of the variables.

        Parameters
        ----------
        extrapolate : bool
            Whether values outside of the measured range are allowed.
        **variables : float or array
            Value of each variable; arrays broadcast.

        Returns
        -------
        float or ndarray
            In `unit`, of the common shape.

        Raises
        ------
        InputError
            For variables that the law does not have or lacks, values it has no meaning for, and
            values outside of the measured range.
        """
        found = self._raw(variables, extrapolate)
        if self.floor is not None:
            found = np.maximum(found, self.floor)
        return float(found) if found.ndim == 0 else found

    def below_zero(self, *, extrapolate: bool = False, **variables: Any) -> BoolArray:
        """Where the law, without a floor, is below 0; parameters and errors of `predict`."""
        return np.asarray(self._raw(variables, extrapolate) < 0)

    def clipped(self) -> Fit:
        """The same coefficients with predictions of at least 0.

        F and p no longer belong to it; R², residuals and errors are those of the clipped
        predictions, and a note says how many of the measured points were clipped.
        """
        below = int(np.count_nonzero(self.predicted < 0))
        predicted = np.maximum(self.predicted, 0.0)
        note = f"{below} of {self.n} predictions at the measured points are clipped to 0"
        return replace(
            self,
            formula=f"max(0, {self.formula})",
            predicted=predicted,
            floor=0.0,
            f=None,
            p=None,
            notes=(note,),
            **quality(LAWS[self.law], self.observed, predicted, len(self.coefficients),
                      self.weighting),
        )  # fmt: skip

    def plot_residuals(self, path: str | os.PathLike[str]) -> None:
        """Draw the residuals, in units and in %, into a whole file or none.

        Parameters
        ----------
        path : path-like
            Image file; the ending chooses the format (png, pdf, svg).

        Raises
        ------
        ModelError
            For an unknown ending.
        """
        from greenopt.fitting.residuals import draw

        draw(self, path)

    def document(self) -> dict[str, Any]:
        """Everything, ready for JSON; an F that is infinite becomes null."""
        plain = (
            "law", "formula", "quantity", "unit", "level", "interval_kind", "r2", "r2_kind",
            "weighting", "p", "residual_sd", "mape_percent", "floor", "label", "boundary", "source",
        )  # fmt: skip
        found: dict[str, Any] = {name: getattr(self, name) for name in plain}
        found["f"] = None if self.f is None or math.isinf(self.f) else self.f
        found["n"] = self.n
        found["coefficients"] = [
            {"name": name, "value": value, "unit": self.units[name],
             "low": self.intervals[name][0], "high": self.intervals[name][1]}
            for name, value in self.coefficients.items()
        ]  # fmt: skip
        found["valid"] = {name: list(ends) for name, ends in self.valid.items()}
        found["variables"] = {name: column.tolist() for name, column in self.variables.items()}
        found["observed"] = self.observed.tolist()
        found["residuals"] = self.residuals.tolist()
        found["knots"], found["notes"] = list(self.knots), list(self.notes)
        return found

    def __repr__(self) -> str:
        values = ", ".join(f"{name} {value:.4g}" for name, value in self.coefficients.items())
        label = f", {self.label}" if self.label else ""
        return (
            f"<fit {self.quantity} [{self.unit}] = {self.formula}: {values}; {self.n} points, "
            f"{self.r2_kind} R² {self.r2:.4f}{label}>"
        )

    def __str__(self) -> str:
        lines = [f"{self.quantity} [{self.unit}] = {self.formula}"]
        wide = max(map(len, self.coefficients))
        for name, value in self.coefficients.items():
            low, high = self.intervals[name]
            interval = f"[{low:.4g}, {high:.4g}]"
            lines.append(f"  {name:<{wide}}  {value:>10.4g}  {interval:<22} {self.units[name]}")
        lines.append(f"  intervals: {self.level:.0%}, {self.interval_kind}")
        tested = "" if self.f is None else f", F {self.f:.4g}, p {self.p:.3g}"
        weighted = "" if self.weighting == "none" else f" (weights: {self.weighting})"
        lines.append(f"  {self.n} points, {self.r2_kind} R² {self.r2:.4f}{weighted}{tested}")
        lines.append(
            f"  residuals: {self.residual_sd:.4g} {self.unit}, {self.mape_percent:.3g} % in the "
            "mean"
        )
        ranges = (f"{name} {low:g} to {high:g}" for name, (low, high) in self.valid.items())
        lines.append(f"  valid for {', '.join(ranges)}")
        said = [self.label, f"boundary {self.boundary}" if self.boundary else "", self.source]
        if any(said):
            lines.append(f"  {'; '.join(filter(None, said))}")
        return "\n".join([*lines, *(f"  note: {note}" for note in self.notes)])

    def _raw(self, variables: Mapping[str, Any], extrapolate: bool) -> FloatArray:
        """The law without its floor, of the common shape of the variables."""
        law = LAWS[self.law]
        problems = [
            Problem(name, f"is no variable of the law; expected {', '.join(law.variables)}")
            for name in variables
            if name not in law.variables
        ]
        problems += [Problem(name, "is missing") for name in law.variables if name not in variables]
        report(self._name, problems)
        arrays = {name: as_numbers(self._name, name, variables[name]) for name in law.variables}
        try:
            columns = dict(zip(arrays, np.broadcast_arrays(*arrays.values()), strict=True))
        except ValueError:
            shapes = " and ".join(str(array.shape) for array in arrays.values())
            where = ", ".join(arrays)
            report(self._name, [Problem(where, f"are {shapes}; expected shapes that broadcast")])
        flat = {name: column.ravel() for name, column in columns.items()}
        for name, column in flat.items():
            report(self._name, meaningless(name, column, from_zero=law.from_zero))
        if not extrapolate:
            report(self._name, self._outside(flat))
        features = law.features(flat, np.array(self.knots))
        values: FloatArray = features @ np.array([*self.coefficients.values()])
        return values.reshape(columns[law.variables[0]].shape)

    def _outside(self, columns: Columns) -> list[Problem]:
        return [
            Problem(
                place(name, i, len(column)),
                f"is {column[i]:g}; expected {self.valid[name][0]:g} to {self.valid[name][1]:g}, "
                "the range measured (extrapolate=True goes beyond)",
            )
            for name, column in columns.items()
            for i in np.flatnonzero((column < self.valid[name][0]) | (column > self.valid[name][1]))
        ]

    @property
    def _name(self) -> str:
        return f"fit of {self.quantity}"


def quality(
    law: Law, observed: FloatArray, predicted: FloatArray, coefficients: int, weighting: str
) -> dict[str, Any]:
    """R², standard deviation of the residuals and mean relative error."""
    weights = observed**-2.0 if weighting != "none" else np.ones_like(observed)
    residuals = observed - predicted
    centre = np.average(observed, weights=weights) if law.intercept else 0.0
    spread = float(weights @ (observed - centre) ** 2)
    return {
        "r2": 1 - float(weights @ residuals**2) / spread,
        "r2_kind": "centred" if law.intercept else "uncentred",
        "residual_sd": math.sqrt(float(residuals @ residuals) / (len(observed) - coefficients)),
        "mape_percent": 100 * float(np.mean(np.abs(residuals) / observed)),
    }


def as_numbers(source: str, name: str, values: Any) -> FloatArray:
    """Numbers as floats, or an error."""
    try:
        return np.asarray(values, dtype=float)
    except (TypeError, ValueError):
        shown = repr(values)
        shown = shown if len(shown) <= 60 else f"{shown[:57]}..."
        report(source, [Problem(name, f"is {shown}; expected numbers")])
        raise  # not reached: there is a problem to report


def meaningless(name: str, column: FloatArray, *, from_zero: bool) -> list[Problem]:
    """Values that are no finite numbers above 0, or of at least 0."""
    bad = ~np.isfinite(column) | ((column < 0) if from_zero else (column <= 0))
    expected = "of at least 0" if from_zero else "above 0"
    return [
        Problem(
            place(name, i, len(column)),
            "is nan, which is missing; expected a number: leave the point out"
            if math.isnan(column[i])
            else f"is {column[i]:g}; expected a finite number {expected}",
        )
        for i in np.flatnonzero(bad)
    ]


def place(name: str, index: Any, length: int) -> str:
    """Name of a value, with its number where there are several."""
    return name if length == 1 else f"{name}[{index}]"
