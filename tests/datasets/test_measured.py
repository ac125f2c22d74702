"""Tables of measured requests, clocks and powers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from greenopt.datasets import (
    Measurements,
    read_frequency_measurements,
    read_power_measurements,
    read_token_measurements,
)
from greenopt.errors import InputError

WILKINS = "model,gpus,tokens_in,tokens_out,runtime_s,gpu_energy_j"
SWEEP = (
    "workload,frequency_mhz,duration_s,ttft_s,tpot_s,avg_power_w,total_energy_j,"
    "input_tokens_actual,output_tokens_actual"
)
SWEEP_ROW = ["LL", 750, 18.3, 0.55, 0.0347, 84.8, 1550, 1025, 512]
BENCH = (
    "Hardware,Num of Hardware,Framework,Model,Input Output Length,Batch Size,Latency,Throughput,"
    "avg_power"
)
SPLITWISE = (
    "model,hardware,prompt_size,batch_size,token_size,peak_power,average_power,prompt_time,"
    "token_time,e2e_time,tensor_parallel"
)


def write(folder: Path, header: str, *rows: list[Any]) -> Path:
    """A file of these rows."""
    path = folder / "measured.csv"
    path.write_text("\n".join([header, *(",".join(map(str, row)) for row in rows)]) + "\n")
    return path


def refused(read: Callable[..., Measurements], path: Path, **options: Any) -> str:
    """Message of the error, which names the file."""
    with pytest.raises(InputError) as caught:
        read(path, **options)
    assert str(caught.value).startswith(f"{path}: ")
    return str(caught.value).removeprefix(f"{path}: ")


# Requests


def test_reads_wilkins(tmp_path: Path) -> None:
    """Recognised, labelled, of GPUs; the accelerator is said by the caller."""
    path = write(tmp_path, WILKINS, ["falcon-7b", 1, 8, 16, 0.5, 70.3])
    read = read_token_measurements(path, gpu="A100 40GB")
    assert (read.layout, read.boundary, read.label) == ("Wilkins", "gpu", "batch 1, no KV cache")
    expected = {"gpus": 1, "tokens_in": 8, "tokens_out": 16, "runtime_s": 0.5, "energy_j": 70.3}
    assert {name: read.column(name)[0] for name in expected} == expected
    assert read.column("gpu").tolist() == ["A100 40GB"]
    assert read.notes == ("gpu is 'A100 40GB', as the caller says",)
    assert repr(read) == (
        "<measurements (Wilkins): 1 configurations, boundary gpu, batch 1, no KV cache>"
    )
    assert read_token_measurements(path, label="with cache").label == "with cache"


def test_own_requests_in_other_units(tmp_path: Path) -> None:
    """Millijoules and milliseconds; nothing is said of how they were measured."""
    path = write(tmp_path, "m,i,o,t,e", ["x", 8, 16, 500, 70_300])
    columns = {
        "model": "m", "tokens_in": "i", "tokens_out": "o", "runtime_s": ("t", "ms"),
        "energy_j": ("e", "mJ"),
    }  # fmt: skip
    read = read_token_measurements(path, columns=columns, boundary="server")
    assert (read.layout, read.boundary, read.label) == ("own", "server", "")
    assert read.column("runtime_s")[0] == 0.5
    assert read.column("energy_j")[0] == pytest.approx(70.3)
    assert "the file does not give gpu, gpus" in read.notes


def test_missing_energy_is_nan_not_free(tmp_path: Path) -> None:
    """Zero and blank alike, stated; rows without are left out on request."""
    rows = [["a", 1, 8, 8, 1, 0], ["a", 1, 8, 16, 1, ""], ["a", 1, 8, 32, 1, 90]]
    read = read_token_measurements(write(tmp_path, WILKINS, *rows))
    assert np.isnan(read.column("energy_j")).tolist() == [True, True, False]
    assert read.notes[0] == (
        "energy_j is NaN in 2 of 3 rows, where 'gpu_energy_j' is 0 or blank: missing, not free"
    )
    assert read.known("energy_j").column("tokens_out").tolist() == [32]
    none = read_token_measurements(write(tmp_path, WILKINS, *rows[:2]))
    with pytest.raises(InputError, match="energy_j: is missing in every row that is left"):
        none.known("energy_j")


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (["a", 1, 8, 8, 1, -5], "data row 1, column 'gpu_energy_j': is -5; expected above 0"),
        (["a", 1, 0, 8, 1, 50], "data row 1, column 'tokens_in': is 0; expected above 0"),
        (["a", 1, 8, "x", 1, 50], "column 'tokens_out': is 'x'; expected a number"),
        (["", 1, 8, 8, 1, 50], "data row 1, column 'model': is blank; expected a name"),
        (
            ["a", 1, 8, 8, 1, 50_000],
            "column 'gpu_energy_j': means 50000 W for each GPU; expected 1 to 3000 W; is the "
            "energy or the time in another unit?",
        ),
        (["a", 1, 8, 8, 1, 0.05], "means 0.05 W for each GPU; expected 1 to 3000 W"),
    ],
)
def test_mistakes_in_requests_are_refused(tmp_path: Path, row: list[Any], message: str) -> None:
    """Each with its row, its column, its value and what was expected."""
    assert message in refused(read_token_measurements, write(tmp_path, WILKINS, row))


def test_mappings_of_requests_need_tokens(tmp_path: Path) -> None:
    """Another header is shown; a mapping without tokens says what it lacks."""
    path = write(tmp_path, "m,i,o", ["x", 1, 2])
    assert "expected that of Wilkins, or columns= for another" in refused(
        read_token_measurements, path
    )
    message = refused(read_token_measurements, path, columns={"model": "m", "tokens_in": "i"})
    assert message == "columns: has no 'tokens_out'; expected the column of tokens_out"
    columns = {"model": "m", "tokens_in": "i", "tokens_out": "o", "energy_j": ("o", "cal")}
    assert "columns['energy_j']: is ('o', 'cal'); expected 'J' or 'mJ' or 'kJ'" in refused(
        read_token_measurements, path, columns=columns
    )


# Clocks


def test_reads_a_clock_sweep(tmp_path: Path) -> None:
    """Megahertz become gigahertz; whose power it is, is stated as our reading."""
    read = read_frequency_measurements(write(tmp_path, SWEEP, SWEEP_ROW))
    assert (read.layout, read.boundary) == ("clock sweep", "gpu")
    assert read.column("frequency_ghz").tolist() == [0.75]
    assert read.column("workload").tolist() == ["LL"]
    names = ("duration_s", "power_w", "energy_j", "tokens_in", "tokens_out", "ttft_s", "tpot_s")
    values = [read.column(name)[0] for name in names]
    assert values == [18.3, 84.8, 1550, 1025, 512, 0.55, 0.0347]
    assert read.notes[0].startswith("that the power is that of the GPU is our reading")
    assert not any("power times duration" in note for note in read.notes)  # within 0.2 %


def test_energy_that_is_not_power_by_time_is_stated(tmp_path: Path) -> None:
    """Twice the energy, half the product."""
    path = write(tmp_path, SWEEP, [*SWEEP_ROW[:6], 3103.68, *SWEEP_ROW[7:]])
    assert (
        "in 1 of 1 rows power times duration is more than 5% off the energy (at worst 0.5 times it)"
    ) in read_frequency_measurements(path).notes


@pytest.mark.parametrize(
    ("at", "cell", "message"),
    [
        (1, 0.75, "'frequency_mhz': means 0.00075 GHz; expected 0.05 to 10 GHz; is it in another"),
        (1, -750, "column 'frequency_mhz': is -750; expected above 0"),
        (5, 84_800, "means 84800 W for each GPU; expected at most 3000 W; is it in mW?"),
        (2, 0, "data row 1, column 'duration_s': is 0; expected above 0"),
    ],
)
def test_mistakes_in_clocks_are_refused(tmp_path: Path, at: int, cell: Any, message: str) -> None:
    """Each with its column, its value and what was expected."""
    row = [cell if i == at else value for i, value in enumerate(SWEEP_ROW)]
    assert message in refused(read_frequency_measurements, write(tmp_path, SWEEP, row))


def test_own_clocks(tmp_path: Path) -> None:
    """In gigahertz, with a label; the workload is needed."""
    path = write(tmp_path, "w,f,p", ["chat", 1.2, 300])
    columns = {"workload": "w", "frequency_ghz": "f", "power_w": ("p", "W")}
    read = read_frequency_measurements(path, columns=columns, boundary="server", label="bs 8")
    assert (read.boundary, read.label, read.column("frequency_ghz")[0]) == ("server", "bs 8", 1.2)
    message = refused(read_frequency_measurements, path, columns={"frequency_ghz": "f"})
    assert "columns: has no 'workload'; expected the column of workloads" in message


# Powers


def test_reads_llm_inference_bench(tmp_path: Path) -> None:
    """Milliwatts, and what follows: tokens per second and energy of a request, by hand."""
    row = ["A100", 1, "vLLM", "m", 1024, 16, 25.6, 1280, 300_000]
    read = read_power_measurements(write(tmp_path, BENCH, row))
    assert (read.layout, read.boundary) == ("LLM-Inference-Bench", "gpu")
    expected = {
        "gpus": 1, "batch": 16, "tokens_in": 1024, "tokens_out": 1024, "runtime_s": 25.6,
        "power_w": 300, "output_tokens_per_s": 640, "energy_per_request_j": 480,
    }  # fmt: skip
    assert {name: read.column(name)[0] for name in expected} == expected
    assert read.column("framework").tolist() == ["vLLM"]
    assert np.isnan(read.column("prefill_s")).all()


def splitwise(gpu: str = "a100", batch: int = 1, tokens: int = 101, **cells: float) -> list[Any]:
    """A row whose parts add up: 100 ms of prefill and 50 ms a token."""
    share, runtime = cells.get("share", 0.5), cells.get("runtime", 100 + (tokens - 1) * 50)
    return ["m", gpu, 512, batch, tokens, 1.0, share, 100, 50, runtime, 4]


def test_reads_splitwise(tmp_path: Path) -> None:
    """Shares become watts with a design power, and a share of 0 is missing."""
    path = write(tmp_path, SPLITWISE, splitwise(), splitwise(share=0))
    read = read_power_measurements(path, tdp_w={"a100": 400})
    assert (read.layout, read.boundary) == ("splitwise", "gpu")
    np.testing.assert_array_equal(read.column("power_share"), [0.5, np.nan])
    np.testing.assert_array_equal(read.column("power_w"), [800, np.nan])
    np.testing.assert_allclose(read.column("energy_per_request_j"), [800 * 5.1, np.nan])
    assert read.column("prefill_s").tolist() == [0.1, 0.1]
    assert read.column("itl_mean_s").tolist() == [0.05, 0.05]
    assert read.column("tokens_out").tolist() == [101, 101]
    assert read.notes[0].startswith("power_share is NaN in 1 of 2 rows")
    shares = read_power_measurements(path)
    assert np.isnan(shares.column("power_w")).all()
    assert "power_w is NaN: tdp_w= turns power_share into watts" in shares.notes


def test_rows_of_splitwise_that_cannot_be_are_nan(tmp_path: Path) -> None:
    """Stopped early, too long for their parts, and made from others."""
    rows = [splitwise(), splitwise(runtime=2600), splitwise(batch=64, runtime=60_000),
            splitwise("a100-pcap")]  # fmt: skip
    read = read_power_measurements(write(tmp_path, SPLITWISE, *rows))

    def known(name: str) -> list[bool]:
        return (~np.isnan(read.column(name))).tolist()

    assert known("tokens_out") == [True, False, True, True]
    assert known("prefill_s") == known("itl_mean_s") == [True, True, False, True]
    assert known("runtime_s") == [True, True, True, False]
    assert known("output_tokens_per_s") == [True, False, True, False]
    text = "\n".join(read.notes)
    assert "tokens_out is NaN in 1 of 4 rows" in text
    assert "(m, a100, 4, 64, 512)" in text
    assert "1 rows of 'a100-pcap' are not measured but made from 'a100'" in text


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tdp_w": {"h100": 700}}, "tdp_w: names 'h100'; there are 'a100'"),
        ({"tdp_w": {"a100": 0}}, "tdp_w['a100']: is 0; expected W above 0"),
        ({"boundary": "server"}, "boundary: is 'server'; expected 'gpu', which is what splitwise"),
    ],
)
def test_wrong_options_of_powers_are_refused(tmp_path: Path, options: Any, message: str) -> None:
    """Each with what was expected."""
    assert message in refused(
        read_power_measurements, write(tmp_path, SPLITWISE, splitwise()), **options
    )


def test_units_of_powers_are_looked_at(tmp_path: Path) -> None:
    """A share in percent, watts read as milliwatts times a thousand, a design power for nothing."""
    path = write(tmp_path, SPLITWISE, splitwise(share=73))
    message = refused(read_power_measurements, path)
    assert "means 73 of the design power; expected at most 1.5; is it in %?" in message
    path = write(tmp_path, "m,b,p", ["x", 1, 300_000])
    columns = {"model": "m", "batch": "b", "power_w": ("p", "W")}
    message = refused(read_power_measurements, path, columns=columns)
    assert "300000 W for each GPU; expected at most 3000 W; is it in mW?" in message
    path = write(tmp_path, "m,b,p", ["x", 1, 300])
    message = refused(read_power_measurements, path, columns=columns, tdp_w={"x": 1.0})
    assert message == "tdp_w: is given; expected none: the table has no power_share"
