"""Laws of whole tables: which rows count, how they are grouped, what is refused."""

from __future__ import annotations

from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pytest

from greenopt import datasets, fitting
from greenopt.errors import InputError
from greenopt.physics import batching, frequency

CLOCKS = np.array([0.8, 0.9, 1.0, 1.1, 1.2, 1.3])
BATCHES = np.array([8.0, 16, 32, 64, 128, 256])


def table(label: str = "", boundary: Any = "gpu", **columns: Any) -> datasets.Measurements:
    """Measurements of these columns."""
    arrays = {name: np.asarray(column) for name, column in columns.items()}
    return datasets.Measurements("t.csv", "own", boundary, MappingProxyType(arrays), (), label)


def served(n: int = 6, **columns: Any) -> dict[str, Any]:
    """Names of one model on two H100."""
    names: dict[str, Any] = {"model": ["m"] * n, "gpu": ["H100"] * n, "gpus": [2.0] * n}
    return {**names, **columns}


def batches(**changes: Any) -> dict[str, Any]:
    """A server that follows the laws of batches."""
    itl = 0.006 + 8e-5 * BATCHES
    columns = {
        "task": ["chat"] * 6, "batch": BATCHES, "batch_limit": BATCHES,
        "power_w": (0.07 + 3.2 / BATCHES) * BATCHES / itl, "output_tokens_per_s": BATCHES / itl,
        "itl_p50_s": itl, "itl_p99_s": 2 * itl, "itl_mean_s": np.full(6, np.nan),
    }  # fmt: skip
    return served(**{**columns, **changes})


# Requests


def test_every_model_is_fitted_alone() -> None:
    """Two models in mixed rows, with the exact laws of each."""
    tokens_in, tokens_out = np.array([8.0, 8, 64, 64, 8]), np.array([8.0, 64, 8, 64, 128])
    rows = [(model, i, o) for i, o in zip(tokens_in, tokens_out, strict=True) for model in "ba"]
    law = {"a": (1, 2, 0.1), "b": (3, 5, 0.2)}
    columns = {
        "model": [r[0] for r in rows], "gpu": ["V100"] * 10, "gpus": [np.nan] * 10,
        "tokens_in": [r[1] for r in rows], "tokens_out": [r[2] for r in rows],
    }  # fmt: skip
    columns["energy_j"] = [np.dot(law[m], (i, o, i * o)) for m, i, o in rows]
    columns["runtime_s"] = [np.dot(law[m], (i, o, i * o)) / 100 for m, i, o in rows]
    measured = table("batch 1, no KV cache", **columns)
    fits = fitting.tokens_by_model(measured, robust=True)
    assert list(fits) == [("a", "V100", 0), ("b", "V100", 0)]
    for (model, _, _), fit in fits.items():
        np.testing.assert_allclose([*fit.coefficients.values()], law[model], rtol=1e-9)
        assert (fit.label, fit.boundary) == ("batch 1, no KV cache", "gpu")
        assert fit.source == f"t.csv, {model}, V100"
    times = fitting.tokens_by_model(measured, "runtime_s", physical=True, resamples=100)
    assert times["a", "V100", 0].coefficients["per_token_out"] == pytest.approx(0.02)
    assert times["a", "V100", 0].boundary is None
    with pytest.raises(InputError, match="quantity: is 'power_w'; expected 'energy_j' or 'runti"):
        fitting.tokens_by_model(measured, "power_w")  # type: ignore[arg-type]


def test_missing_values_are_refused_with_the_remedy() -> None:
    """A missing energy is not 0."""
    columns = served(
        4, tokens_in=[8.0, 8, 64, 64], tokens_out=[8.0, 64, 8, 64], energy_j=[1, 2, np.nan, 4]
    )
    with pytest.raises(InputError) as caught:
        fitting.tokens_by_model(table(**columns))
    assert str(caught.value) == (
        "t.csv: energy_j: is missing (NaN) in 1 of 4 rows; expected numbers: .known('energy_j') "
        "leaves these rows out"
    )
    with pytest.raises(InputError, match=r"t\.csv, m, H100, 2 GPUs: points: are 3; expected at le"):
        fitting.tokens_by_model(table(**columns).known("energy_j"))


def test_several_batches_are_refused() -> None:
    """One law of tokens does not describe them."""
    columns = served(
        4, tokens_in=[8, 8, 64, 64], tokens_out=[8, 64, 8, 64], runtime_s=[1, 2, 3, 4.0],
        batch=[1.0, 1, 1, 2],
    )  # fmt: skip
    columns = {name: np.asarray(c, dtype=None) for name, c in columns.items()}
    columns["tokens_in"], columns["tokens_out"] = np.array([[8.0, 8, 64, 64], [8.0, 64, 8, 64]])
    with pytest.raises(InputError, match=r"batch: is 1\.0, 2\.0 in one table; .*\.select\(batch"):
        fitting.tokens_by_model(table(**columns), "runtime_s")


# Clocks


def sweep(**changes: Any) -> dict[str, Any]:
    """A workload that follows the laws of clocks."""
    power, time = 70 + 30 * CLOCKS**3, 5 + 8 / CLOCKS
    columns = {
        "frequency_ghz": CLOCKS, "power_w": power, "duration_s": time, "energy_j": power * time,
    }  # fmt: skip
    return {**served(workload=["LL"] * 6), **columns, **changes}


def test_clock_of_least_energy() -> None:
    """By the laws it is the root of the physics, by the table the least of its rows."""
    laws = fitting.frequency_laws(table(**sweep()))["LL"]
    root = frequency.energy_optimal_frequency_ghz(70, 30, 5, 8)
    best = laws.law_best()
    assert best is not None
    assert best.frequency_ghz == pytest.approx(root, rel=1e-9)
    energy = frequency.energy_j([root, 1.3], 70, 30, 5, 8)
    time = frequency.time_s([root, 1.3], 5, 8)
    assert best.saving == pytest.approx(1 - energy[0] / energy[1])
    assert best.slow_down == pytest.approx(time[0] / time[1] - 1)
    assert laws.measured_best().frequency_ghz == 0.9
    limited = laws.law_best(limit_s=5 + 8 / 1.15)
    assert limited is not None
    assert limited.frequency_ghz == pytest.approx(1.15, rel=1e-9)
    assert laws.law_best(limit_s=5) is None
    idle = laws.law_best(idle_w=40)
    assert idle is not None
    assert idle.frequency_ghz < best.frequency_ghz


def test_measured_energies_decide_in_the_table() -> None:
    """Not the law's."""
    energy = np.array([9.0, 8, 7, 2, 8, 10])
    laws = fitting.frequency_laws(table(**sweep(energy_j=energy)))["LL"]
    found = laws.measured_best()
    assert found.frequency_ghz == 1.1
    assert found.saving == pytest.approx(0.8)
    assert found.slow_down == pytest.approx((5 + 8 / 1.1) / (5 + 8 / 1.3) - 1)


def test_clocks_of_laws_without_meaning_are_refused() -> None:
    """A negative coefficient has no clock of least energy."""
    laws = fitting.frequency_laws(table(**sweep(duration_s=8 / CLOCKS - 2)))["LL"]
    with pytest.raises(InputError, match="T0: is -2; expected at least 0 for a clock of least"):
        laws.law_best()
    with pytest.raises(InputError, match="model: is 'a', 'b' in one table"):
        fitting.frequency_laws(table(**sweep(model=["a"] * 3 + ["b"] * 3)))


# Batches


def test_batch_laws_of_a_server() -> None:
    """Energy of a token from power and tokens per second; statistics that were measured only."""
    laws = fitting.batch_laws(table(**batches()))["m", "H100", 2]
    assert laws.energy.coefficients == pytest.approx({"e_inf": 0.07, "c1": 3.2})
    assert list(laws.itl) == ["p50", "p99"]
    assert laws.itl["p99"].coefficients == pytest.approx({"alpha": 0.012, "beta": 1.6e-4})
    assert laws.power.r2 > 0.8
    assert laws.power.boundary == laws.energy.boundary == "gpu"
    assert laws.largest_batch(0.0501, "p50") == batching.largest_batch(0.0501, 0.006, 8e-5) == 551
    with pytest.raises(InputError, match="batch: is 551; expected 8 to 256, the range measured"):
        laws.energy.predict(batch=laws.largest_batch(0.0501, "p50"))
    with pytest.raises(InputError, match="statistic: is 'p90'; there are 'p50', 'p99'"):
        laws.largest_batch(0.05, "p90")


def test_rows_of_a_server_that_was_not_full_are_left_out() -> None:
    """And groups with few rows; both are said."""
    both = {
        name: np.concatenate([column, column[:3]])
        for name, column in ((n, np.asarray(c)) for n, c in batches().items())
    }
    both["gpus"] = np.array([2.0] * 6 + [1.0] * 3)
    both["batch_limit"] = np.concatenate([BATCHES, [16, 16, 32]])
    fits = fitting.batch_laws(table(**both))
    assert list(fits) == [("m", "H100", 2)]
    assert fits.notes == (
        "1 of 9 rows are left out: their mean batch is at most 90% of the largest",
        "1 groups have fewer than 6 rows: m, H100, 1 (2)",
    )
    with pytest.raises(InputError, match="rows of a full server: are fewer than 7 in every group"):
        fitting.batch_laws(table(**both), least_points=7)


def test_batch_laws_refuse_what_one_law_does_not_describe() -> None:
    """Several tasks; missing powers; times that fall with the batch have no largest batch."""
    with pytest.raises(InputError, match=r"task: is 'chat', 'code' in one table; .*select\(task="):
        fitting.batch_laws(table(**batches(task=["chat"] * 5 + ["code"])))
    power = np.array([np.nan, 1, 2, 3, 4, 5])
    with pytest.raises(InputError, match=r"power_w: is missing \(NaN\) in 1 of 6 rows"):
        fitting.batch_laws(table(**batches(power_w=power)))
    falling = fitting.batch_laws(table(**batches(itl_p50_s=1 / BATCHES)))["m", "H100", 2]
    with pytest.raises(InputError, match=r"itl_p50_s, beta: is -.*; expected at least 0"):
        falling.largest_batch(0.05, "p50")


# Prefill


def test_prefill_of_single_prompts() -> None:
    """Batches above 1 are left out and counted."""
    tokens = np.array([128.0, 256, 512, 1024, 2048, 512])
    columns = served(tokens_in=tokens, prefill_s=tokens / 1e4, batch=[1.0] * 5 + [4.0])
    fits = fitting.prefill_laws(table(**columns), resamples=100)
    assert fits.notes == ("1 of 6 rows are left out: batches above 1",)
    fit = fits["m", "H100", 2]
    assert fit.knots == (128, 2048)
    assert fit.predict(tokens=1000) == pytest.approx(0.1)


# Reading and fitting


def test_one_table_from_file_to_figures(tmp_path: Path) -> None:
    """A file of one's own, with a column of other units, to a fit that says where it is from."""
    path = tmp_path / "mine.csv"
    lines = ["name,clock,watts,ms,load"]
    lines += [f"x,{f * 1000:.0f},{70 + 30 * f**3:.6f},{5000 + 8000 / f:.6f},chat" for f in CLOCKS]
    path.write_text("\n".join(lines))
    measured = datasets.read_frequency_measurements(
        path,
        columns={
            "model": "name", "frequency_ghz": ("clock", "MHz"), "power_w": "watts",
            "duration_s": ("ms", "ms"), "workload": "load",
        },
        boundary="server",
    )  # fmt: skip
    assert "energy_j is derived: power_w times duration_s" in measured.notes
    laws = fitting.frequency_laws(measured)["chat"]
    assert laws.power.coefficients == pytest.approx({"P0": 70, "c": 30}, rel=1e-6)
    assert laws.time.coefficients == pytest.approx({"T0": 5, "kappa": 8}, rel=1e-6)
    assert laws.power.boundary == "server"
    assert laws.power.source == f"{path}, workload 'chat'"
    assert laws.measured_best().frequency_ghz == pytest.approx(0.9)
