"""The readers on the real files beside the repository."""

from __future__ import annotations

import csv
import gzip
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import shared

from greenopt.datasets import (
    TimeSeries,
    read_azure_trace,
    read_carbon,
    read_energy_measurements,
    read_mooncake_trace,
    read_prices,
    read_rtt,
    read_series,
    read_servegen_clients,
    read_servegen_lengths,
    read_servegen_rates,
    read_temperature,
    read_trace,
    read_wet_bulb,
    read_yearly_carbon,
)
from greenopt.errors import InputError

EM_SHAPES = {2021: (8760, 19), 2022: (8760, 25), 2023: (8760, 21), 2024: (8784, 16)}
PRICE_SHAPES = {
    2020: (8784, 22), 2021: (8760, 22), 2022: (8760, 23), 2023: (8760, 23), 2024: (8784, 22),
}  # fmt: skip


def data(name: str) -> Path:
    """A file of the real data."""
    return shared("data") / name


def agrees(series: TimeSeries, path: Path) -> None:
    """Compare with the cells of the file, read here cell by cell."""
    with gzip.open(path, "rt") as stream:
        header, *rows = csv.reader(stream)
    assert series.columns == tuple(header[1:])
    assert len(series) == len(rows)
    assert str(series.begin[0])[:13] == rows[0][0][:13].replace(" ", "T")
    assert str(series.begin[-1])[:13] == rows[-1][0][:13].replace(" ", "T")
    expected = [[float(cell or "nan") for cell in row[1:]] for row in rows]
    np.testing.assert_array_equal(series.values, expected)


@pytest.mark.parametrize(("year", "shape"), EM_SHAPES.items())
def test_electricity_maps(year: int, shape: tuple[int, int]) -> None:
    """Whole years without a hole and without a note."""
    path = data(f"carbon/em_ci_lca_g_per_kwh_{year}.csv.gz")
    series = read_carbon(path)
    assert series.values.shape == shape
    assert series.begin[0] == np.datetime64(f"{year}-01-01")
    assert series.notes == ()
    agrees(series, path)


def test_yearly_means() -> None:
    """123 zones, near the mean of the hours where both are there (of another vintage)."""
    means = read_yearly_carbon(data("carbon/em_annual_mean_ci_123zones_2020_2022.csv"))
    assert means.values.shape == (123, 3)
    assert means.years == (2020, 2021, 2022)
    assert means.of("AT", 2020) == pytest.approx(190.853065, abs=1e-6)
    hours = read_carbon(data("carbon/em_ci_lca_g_per_kwh_2022.csv.gz"))
    for zone in ("ES", "KR", "ZA"):
        assert means.of(zone, 2022) == pytest.approx(hours.column(zone).mean(), rel=0.1)


def test_carboncast() -> None:
    """Zones of years of their own: each can be read alone, the whole only with NaN."""
    path = data("carbon/carboncast_ci_lifecycle_2019_2022.csv.gz")
    agrees(read_carbon(path, missing="allow"), path)
    assert not np.isnan(read_carbon(path, columns=["CISO", "ERCO"]).values).any()
    german = read_carbon(path, columns=["DE"], start="2020-01-01T00:00Z", end="2022-01-01T00:00Z")
    assert len(german) == 731 * 24
    with pytest.raises(InputError, match="data rows 1 to 8760, column 'DE': blank at 2019-01-01"):
        read_carbon(path, columns=["DE"])


def test_lets_wait_awhile() -> None:
    """One blank cell, at the very end."""
    path = data("carbon/letswaitawhile_ci_lca_2020_hourly.csv.gz")
    agrees(read_carbon(path, missing="allow"), path)
    with pytest.raises(InputError, match="data row 9288, column 'FR': blank at 2021-01-09T23:00Z"):
        read_carbon(path)


@pytest.mark.parametrize(("year", "shape"), PRICE_SHAPES.items())
def test_prices(year: int, shape: tuple[int, int]) -> None:
    """Every year is believed as USD/MWh; negative prices are stated with their counts."""
    path = data(f"prices/price_usd_per_mwh_{year}.csv.gz")
    series = read_prices(path, missing="allow")
    assert series.values.shape == shape
    agrees(series, path)
    count = int((series.column("DE-LU") < 0).sum())
    lowest = np.nanmin(series.column("DE-LU"))
    assert f"column 'DE-LU': {count} negative values, lowest {lowest:g}" in series.notes


def test_negative_german_hours_of_2023_are_as_published() -> None:
    """The Federal Network Agency counts 301 hours below zero in 2023, in local time (SMARD)."""
    begin = np.datetime64("2022-12-31T23:00")
    below = 0
    for year in (2022, 2023):
        path = data(f"prices/price_usd_per_mwh_{year}.csv.gz")
        series = read_prices(path, columns=["DE-LU"], missing="allow")
        local = (begin <= series.begin) & (series.begin < begin + np.timedelta64(365, "D"))
        below += int((series.column("DE-LU")[local] < 0).sum())
    assert below == 301


@pytest.mark.parametrize(
    ("name", "read", "options"),
    [
        ("wetbulb_c_openmeteo_16zones_2021_2024", read_wet_bulb, {}),
        ("wetbulb_c_gfs_5euzones_2019_2021", read_wet_bulb, {}),
        ("temp_c_openmeteo_16zones_2021_2024", read_temperature, {}),
        ("wue_l_per_kwh_openmeteo_16zones_2021_2024", read_series, {"unit": "L/kWh"}),
        ("wue_l_per_kwh_gfs_5euzones_2019_2021", read_series, {"unit": "L/kWh"}),
        ("ewif_hourly_waterwise_factors_2019_2022", read_series, {"unit": "L/kWh"}),
        ("ewif_hourly_ren_noHydro_factors_2019_2022", read_series, {"unit": "L/kWh"}),
    ],
)
def test_weather_and_water(name: str, read: Any, options: dict[str, str]) -> None:
    """Each with the reader made for it."""
    path = data(f"water/{name}.csv.gz")
    more = {"quantity": "water intensity", **options} if options else {}
    agrees(read(path, missing="allow", **more), path)


def test_temperatures_in_fahrenheit_are_noticed(tmp_path: Path) -> None:
    """A year of any of the places in °F is refused as °C, and read as °F."""
    year = {"start": "2023-01-01T00:00Z", "end": "2024-01-01T00:00Z"}
    path = data("water/temp_c_openmeteo_16zones_2021_2024.csv.gz")
    celsius = read_temperature(path, missing="allow", **year)
    lines = [
        ",".join([f"{begin}Z", *(f"{value * 1.8 + 32:.6f}" for value in row)])
        for begin, row in zip(celsius.begin, celsius.values, strict=True)
    ]
    written = tmp_path / "f.csv"
    written.write_text("\n".join([",".join(["t", *celsius.columns]), *lines]))
    for name in celsius.columns:
        with pytest.raises(InputError, match=f"column '{name}': read as degC, .* pass unit='degF'"):
            read_temperature(written, columns=[name])
    fahrenheit = read_temperature(written, unit="degF")
    np.testing.assert_allclose(fahrenheit.values, celsius.values, atol=1e-5)


def test_aws_latency() -> None:
    """Complete, with round trips within a region."""
    matrix = read_rtt(data("latency/aws_p50_rtt_ms_matrix_2025-05.csv"))
    assert matrix.seconds.shape == (32, 32)
    assert matrix.notes == ()
    assert matrix.select(["ap-east-1"], ["af-south-1"]).seconds[0, 0] == pytest.approx(0.3592)


def test_gcp_latency() -> None:
    """Complete but for the diagonal."""
    path = data("latency/gcp_rtt_ms_matrix.csv")
    with pytest.raises(InputError, match="diagonal: is blank for 34 of 34 places"):
        read_rtt(path)
    matrix = read_rtt(path, missing="allow")
    assert matrix.notes == ("diagonal is blank for 34 of 34 places",)


def test_azure_latency() -> None:
    """150 blank cells, a row without a column, a column without a row."""
    matrix = read_rtt(data("latency/azure_p50_rtt_ms_matrix.csv"), missing="allow")
    assert matrix.seconds.shape == (50, 50)
    assert int(np.isnan(matrix.seconds).sum()) == 150
    assert "origins that are no sites: Indonesia Central" in matrix.notes
    assert "sites that are no origins: West India" in matrix.notes
    assert "column 'Jio India West' is blank for 46 of 50 origins" in matrix.notes


@pytest.mark.parametrize(("kind", "requests"), [("code", 8819), ("conv", 19366)])
def test_azure_traces(kind: str, requests: int) -> None:
    """Nearly an hour of requests each, as published."""
    trace = read_azure_trace(data(f"traces/AzureLLMInferenceTrace_{kind}_2023.csv.gz"))
    assert len(trace) == requests
    assert 3400 < trace.arrival_s[-1] < 3600
    assert trace.start is None
    begin_s, counts = trace.rate(600)
    assert counts.sum() == requests
    assert len(begin_s) == 6


@pytest.mark.parametrize(("kind", "requests"), [("conversation", 12031), ("synthetic", 3993)])
def test_mooncake_traces(kind: str, requests: int) -> None:
    """Numbers of requests of the paper's table, and a block for every 512 tokens."""
    trace = read_mooncake_trace(data(f"traces/mooncake_{kind}_trace.jsonl.gz"))
    assert len(trace) == requests
    assert trace.block_hashes is not None
    blocks = np.array([len(hashes) for hashes in trace.block_hashes])
    np.testing.assert_array_equal(blocks, np.ceil(trace.prompt_tokens / 512))


def test_vidur_lengths() -> None:
    """Lengths without times."""
    trace = read_trace(
        data("traces/vidur_arxiv_summarization_lengths.csv.gz"),
        time=None,
        prompt_tokens="num_prefill_tokens",
        output_tokens="num_decode_tokens",
    )
    assert len(trace) == 28257
    assert (trace.prompt_tokens[0], trace.output_tokens[0]) == (3772, 54)


def test_servegen() -> None:
    """The outages that SOURCES.md counts, rates, clients and lengths."""
    rates = read_servegen_rates(data("traces/servegen_rate_10min.csv.gz"))
    outages = {model: int(mask.sum()) for model, mask in rates.outage.items()}
    assert outages == {
        "language/m-large": 0,
        "language/m-mid": 102,
        "language/m-small": 37,
        "multimodal/mm-image": 0,
        "reason/deepseek-r1": 0,
    }
    assert [rates.days(model) for model in rates.models] == [14, 14, 14, 1, 1]
    assert not np.isnan(rates.day("language/m-large", 13, 3600)).any()
    assert len(read_servegen_clients(data("traces/servegen_clients.csv")).model) == 422
    lengths = read_servegen_lengths(data("traces/servegen_token_means_by_window.csv"))
    assert lengths.of("reason/deepseek-r1")["share_of_requests"].tolist() == [1, 1, 1, 1]


def test_server_power_of_bloom() -> None:
    """Stamps that are whole hours without a zone, which the header gives."""
    path = data("traces/eglb_ai_workload_bloom_power_w.csv")
    with pytest.raises(InputError, match=r"is '2022-09-22 00', without a zone.*zone='UTC'"):
        read_series(path, quantity="server power", unit="W")
    series = read_series(path, quantity="server power", unit="W", zone="UTC")
    assert (len(series), series.step_s) == (457, 3600)


def test_ml_energy() -> None:
    """Both layouts; in version 3, which gives both, energy and power agree within 0.4 %."""
    old = read_energy_measurements(data("power/mlenergy_v2_llm.csv"))
    assert (old.layout, len(old)) == ("ML.ENERGY v2", 356)
    new = read_energy_measurements(data("power/mlenergy_v3_llm.csv"))
    assert (new.layout, len(new)) == ("ML.ENERGY v3", 565)
    derived = new.column("energy_per_request_j") * new.column("requests_per_s")
    np.testing.assert_allclose(derived, new.column("power_w"), rtol=4e-3)
    limits_w = {"NVIDIA A100-SXM4-40GB": 400, "NVIDIA H100 80GB HBM3": 700}
    for gpu, limit_w in limits_w.items():
        mine = old.select(gpu=gpu)
        assert (mine.column("power_w") / mine.column("gpus")).max() < limit_w
