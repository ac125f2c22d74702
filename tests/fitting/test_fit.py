"""What a fit can do: predict within its range, be clipped, drawn, written and read."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from greenopt import fitting
from greenopt.errors import InputError, ModelError

IN = np.array([8.0, 8, 8, 512, 512, 512, 2048, 2048])
OUT = np.array([8.0, 512, 2048, 8, 512, 2048, 8, 2048])


@pytest.fixture
def dipping() -> Any:
    """A law with a negative coefficient and two predictions below 0."""
    energy = np.array([30.0, 2e4, 9e4, 40, 3e4, 1.4e5, 60, 3e5])
    return fitting.tokens(
        IN, OUT, energy, unit="J", boundary="gpu", label="batch 1, no KV cache", source="x.csv"
    )


@pytest.fixture
def power() -> Any:
    """A law of one variable."""
    return fitting.power_of_frequency([0.8, 1.0, 1.2, 1.4], [90, 101, 121, 156])


def test_predicts_the_law(dipping: Any) -> None:
    """A number for numbers, an array for arrays, which broadcast."""
    a, b, c = dipping.coefficients.values()
    one = dipping.predict(tokens_in=100, tokens_out=200)
    assert isinstance(one, float)
    assert one == pytest.approx(100 * a + 200 * b + 20_000 * c)
    many = dipping.predict(tokens_in=[[100], [200]], tokens_out=[8, 16, 32])
    assert many.shape == (2, 3)
    assert many[1, 2] == pytest.approx(200 * a + 32 * b + 6400 * c)
    np.testing.assert_allclose(
        dipping.predict(tokens_in=IN, tokens_out=OUT), dipping.predicted, rtol=1e-12
    )


def test_does_not_predict_outside_of_what_was_measured(dipping: Any) -> None:
    """Unless asked for."""
    with pytest.raises(InputError) as caught:
        dipping.predict(tokens_in=[100, 4096], tokens_out=[7, 200])
    assert str(caught.value) == (
        "fit of energy_j: tokens_in[1]: is 4096; expected 8 to 2048, the range measured "
        "(extrapolate=True goes beyond)\n"
        "fit of energy_j: tokens_out[0]: is 7; expected 8 to 2048, the range measured "
        "(extrapolate=True goes beyond)"
    )
    a, b, c = dipping.coefficients.values()
    beyond = dipping.predict(tokens_in=4096, tokens_out=0, extrapolate=True)
    assert beyond == pytest.approx(4096 * a)
    assert dipping.predict(tokens_in=8, tokens_out=2048) == pytest.approx(
        8 * a + 2048 * b + 16384 * c
    )


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"tokens_in": 9}, "tokens_out: is missing"),
        ({"tokens_in": 9, "tokens_out": 9, "batch": 1}, "batch: is no variable of the law; expe"),
        ({"tokens_in": -9, "tokens_out": 9}, "tokens_in: is -9; expected a finite number of at l"),
        ({"tokens_in": np.nan, "tokens_out": 9}, "tokens_in: is nan, which is missing"),
        ({"tokens_in": "many", "tokens_out": 9}, "tokens_in: is 'many'; expected numbers"),
        ({"tokens_in": [9, 9], "tokens_out": [9, 9, 9]}, r"are \(2,\) and \(3,\); expected shapes"),
    ],
)
def test_refuses_variables_without_meaning(dipping: Any, variables: Any, message: str) -> None:
    """Beyond the range too."""
    with pytest.raises(InputError, match=message):
        dipping.predict(extrapolate=True, **variables)


def test_clips_and_counts(dipping: Any) -> None:
    """The published coefficients with predictions of at least 0, at points and for requests."""
    below = int(np.sum(dipping.predicted < 0))
    assert below > 0
    assert f"{below} of 8 predictions at the measured points are below 0" in dipping.notes[0]
    clipped = dipping.clipped()
    assert clipped.coefficients == dipping.coefficients
    assert clipped.notes == (f"{below} of 8 predictions at the measured points are clipped to 0",)
    assert clipped.formula.startswith("max(0, ")
    assert (clipped.f, clipped.p) == (None, None)
    assert clipped.predicted.min() == 0
    assert clipped.r2 >= dipping.r2
    expected = 1 - np.sum(clipped.residuals**2) / np.sum(clipped.observed**2)
    assert clipped.r2 == pytest.approx(expected)
    queries: Any = {"tokens_in": [8, 2048, 2048], "tokens_out": [2048, 8, 2048]}
    assert clipped.below_zero(**queries).tolist() == [False, True, False]
    assert dipping.below_zero(**queries).tolist() == [False, True, False]
    assert dipping.predict(tokens_in=2048, tokens_out=8) < 0
    assert clipped.predict(tokens_in=2048, tokens_out=8) == 0
    assert clipped.predict(**queries)[2] == dipping.predict(**queries)[2]


def test_says_what_it_is(dipping: Any) -> None:
    """In a line, and in full with units, label, boundary and source."""
    assert repr(dipping).startswith("<fit energy_j [J] = per_token_in·tokens_in + ")
    assert repr(dipping).endswith("uncentred R² " + f"{dipping.r2:.4f}, batch 1, no KV cache>")
    text = str(dipping)
    for part in (
        "J/token²", "intervals: 95%, Student's t, 5 degrees of freedom", "8 points, uncentred R²",
        "valid for tokens_in 8 to 2048, tokens_out 8 to 2048",
        "batch 1, no KV cache; boundary gpu; x.csv", "note: ",
    ):  # fmt: skip
        assert part in text


def test_document_is_json_with_everything(dipping: Any, power: Any) -> None:
    """Coefficients with units and intervals, points, residuals."""
    for fit in (dipping, dipping.clipped(), power):
        document = json.loads(json.dumps(fit.document(), allow_nan=False))
        assert document["n"] == fit.n
        found = {c["name"]: (c["value"], c["unit"]) for c in document["coefficients"]}
        assert found == {name: (v, fit.units[name]) for name, v in fit.coefficients.items()}
        assert [(c["low"], c["high"]) for c in document["coefficients"]] == [
            *fit.intervals.values()
        ]
        np.testing.assert_array_equal(document["residuals"], fit.residuals)
        assert document["r2_kind"] in ("uncentred", "centred")
        assert document["valid"] == {name: list(ends) for name, ends in fit.valid.items()}


def test_perfect_fit_is_json_too() -> None:
    """Its F may be infinite, which JSON has no word for."""
    fit = fitting.itl_of_batch([1, 2, 3, 4], [2, 4, 6, 8])
    assert json.dumps(fit.document(), allow_nan=False)


def test_cannot_be_changed_and_can_be_sent(dipping: Any) -> None:
    """Frozen throughout, and pickled whole."""
    with pytest.raises(TypeError):
        dipping.coefficients["per_token_in"] = 1
    with pytest.raises(ValueError, match="read-only"):
        dipping.observed[0] = 1
    copy = pickle.loads(pickle.dumps(dipping))
    assert copy.document() == dipping.document()


@pytest.mark.parametrize("ending", ["png", "svg", "pdf"])
def test_draws_residuals_the_same_every_time(dipping: Any, tmp_path: Path, ending: str) -> None:
    """A picture in each format, equal byte for byte."""
    paths = [tmp_path / f"{name}.{ending}" for name in ("one", "two")]
    for path in paths:
        dipping.plot_residuals(path)
    assert paths[0].read_bytes() == paths[1].read_bytes()
    assert paths[0].stat().st_size > 5000


def test_draws_every_point_in_every_panel(dipping: Any, power: Any) -> None:
    """The law, residuals in units, residuals in %."""
    from greenopt.fitting.residuals import figure

    for fit in (dipping, power, dipping.clipped()):
        axes = figure(fit).axes
        expected = [fit.predicted, fit.residuals, 100 * fit.residuals / fit.observed]
        for ax, values in zip(axes, expected, strict=True):
            np.testing.assert_allclose(ax.lines[0].get_xdata(), fit.observed)
            np.testing.assert_allclose(ax.lines[0].get_ydata(), values)
        assert (axes[0].get_xscale() == "log") == (fit.observed.max() > 50 * fit.observed.min())


def test_leaves_no_half_picture(dipping: Any, tmp_path: Path) -> None:
    """Neither for a wrong ending nor for a folder that is not there."""
    with pytest.raises(ModelError, match=r"a picture's name ends in one of \.png, \.svg, \.pdf"):
        dipping.plot_residuals(tmp_path / "x.jpg")
    with pytest.raises(FileNotFoundError):
        dipping.plot_residuals(tmp_path / "none" / "x.png")
    assert os.listdir(tmp_path) == []


def test_loading_the_room_loads_no_statistics() -> None:
    """`go.fitting` is there when asked for; SciPy and statsmodels come with the first fit."""
    code = (
        "import sys, greenopt as go; assert 'greenopt.fitting' not in sys.modules; "
        "go.fitting.tokens; print([n for n in ('scipy', 'statsmodels', 'pandas', 'matplotlib') "
        "if n in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout == "[]\n"


def test_says_how_to_get_statsmodels(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where it is not installed."""
    monkeypatch.setitem(sys.modules, "statsmodels.regression", None)
    with pytest.raises(ImportError, match=r"fits need statsmodels: pip install 'greenopt\[fit\]'"):
        fitting.itl_of_batch([1, 2, 3], [1, 2, 4])
