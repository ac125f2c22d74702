"""Tables of measured configurations."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from greenopt.datasets import read_energy_measurements
from greenopt.datasets.energy import NUMBERS, TEXTS
from greenopt.errors import InputError

V2 = (
    "Model,GPU,TP,PP,Energy/req (J),Avg TPOT (s),Token tput (tok/s),Avg Output Tokens,"
    "Avg BS (reqs),Max BS (reqs),task,path"
)
V2_ROW = ["g/27b", "A100", 4, 2, 200, 0.1, 1000, 400, 127.5, 128, "chat", "x.json"]
V3 = (
    "task,avg_batch_size,avg_output_len,avg_power_watts,energy_per_request_joules,gpu_model,"
    "max_num_seqs,median_itl_ms,model_id,num_gpus,output_throughput_tokens_per_sec,p90_itl_ms,"
    "p95_itl_ms,p99_itl_ms"
)
V3_ROW = ["gpqa", 7.9, 500, 320, 160, "B200", 8, 33, "q/14b", 1, 1000, 51, 57, 68]
OWN = {"model": "name", "power_w": "power", "requests_per_s": "rate"}


def write(folder: Path, header: str, *rows: list[Any]) -> Path:
    """A file of these rows."""
    path = folder / "energy.csv"
    path.write_text("\n".join([header, *(",".join(map(str, row)) for row in rows)]) + "\n")
    return path


def refused(path: Path, **options: Any) -> str:
    """Message of the error, which names the file."""
    with pytest.raises(InputError) as caught:
        read_energy_measurements(path, **options)
    assert str(caught.value).startswith(f"{path}: ")
    return str(caught.value).removeprefix(f"{path}: ")


def changed(row: list[Any], header: str, **cells: Any) -> list[Any]:
    """A row with other cells, by column."""
    return [cells.get(name, cell) for name, cell in zip(header.split(","), row, strict=True)]


def test_reads_version_2(tmp_path: Path) -> None:
    """Figures given, figures derived by hand, and what is lacking."""
    read = read_energy_measurements(write(tmp_path, V2, V2_ROW))
    assert (read.layout, read.boundary, len(read)) == ("ML.ENERGY v2", "gpu", 1)
    expected = {
        "gpus": 8, "batch": 127.5, "batch_limit": 128, "requests_per_s": 2.5,
        "output_tokens_per_s": 1000, "output_tokens_mean": 400, "energy_per_request_j": 200,
        "power_w": 500, "itl_mean_s": 0.1,
    }  # fmt: skip
    for name in NUMBERS:
        if name in expected:
            assert read.column(name).tolist() == [expected[name]]
        else:
            assert np.isnan(read.column(name)).all()
    assert [str(read.column(name)[0]) for name in TEXTS] == ["g/27b", "A100", "chat"]
    assert read.notes == (
        "gpus is TP times PP",
        "itl_mean_s is Avg TPOT (s)",
        "requests_per_s is derived: output_tokens_per_s divided by output_tokens_mean",
        "power_w is derived: energy_per_request_j times requests_per_s",
        "the file does not give itl_p50_s, itl_p90_s, itl_p95_s, itl_p99_s",
    )
    assert repr(read) == "<measurements (ML.ENERGY v2): 1 configurations, boundary gpu>"


def test_reads_version_3(tmp_path: Path) -> None:
    """Milliseconds become seconds, and power is as given."""
    read = read_energy_measurements(write(tmp_path, V3, V3_ROW))
    assert (read.layout, read.boundary) == ("ML.ENERGY v3", "gpu")
    assert read.column("power_w").tolist() == [320]
    assert read.column("requests_per_s").tolist() == [2]
    itl = [read.column(f"itl_p{q}_s")[0] for q in (50, 90, 95, 99)]
    np.testing.assert_allclose(itl, [0.033, 0.051, 0.057, 0.068])
    assert read.notes == (
        "requests_per_s is derived: output_tokens_per_s divided by output_tokens_mean",
        "the file does not give itl_mean_s",
    )


def test_energy_that_is_not_power_by_rate_is_stated(tmp_path: Path) -> None:
    """One of two rows is off by a fifth."""
    path = write(tmp_path, V3, V3_ROW, changed(V3_ROW, V3, avg_power_watts=400, max_num_seqs=16))
    notes = read_energy_measurements(path).notes
    assert (
        "in 1 of 2 rows energy per request times requests per second is more than 5% off the power "
        "(at worst 0.8 times it)"
    ) in notes


def test_repeated_configurations_are_stated(tmp_path: Path) -> None:
    """Rows that differ only in figures."""
    path = write(tmp_path, V3, V3_ROW, changed(V3_ROW, V3, median_itl_ms=34))
    assert any(
        note.startswith("1 rows repeat another in model, gpu, task, gpus, batch_limit")
        for note in read_energy_measurements(path).notes
    )


def test_own_layout(tmp_path: Path) -> None:
    """A mapping with units; what follows is derived, what is lacking is stated."""
    path = write(tmp_path, "name,power,rate,itl", ["m", 400_000, 2, 30])
    columns = {**OWN, "power_w": ("power", "mW"), "itl_mean_s": ("itl", "ms")}
    read = read_energy_measurements(path, columns=columns, boundary="server")
    assert (read.layout, read.boundary) == ("own", "server")
    assert read.column("power_w").tolist() == [400]
    assert read.column("energy_per_request_j").tolist() == [200]
    assert read.column("itl_mean_s").tolist() == [0.03]
    assert read.column("gpu").tolist() == [""]
    assert "energy_per_request_j is derived: power_w divided by requests_per_s" in read.notes
    assert any(note.startswith("the file does not give gpu, task, gpus") for note in read.notes)
    silent = read_energy_measurements(path, columns=columns)
    assert silent.boundary is None
    assert silent.notes[-1] == "whose energy and power this is (boundary) is not stated"


@pytest.mark.parametrize(("unit", "joules"), [("J", 1), ("kJ", 1e3), ("Wh", 3600), ("kWh", 3.6e6)])
def test_units_of_energy(tmp_path: Path, unit: str, joules: float) -> None:
    """The same energy in every unit."""
    path = write(tmp_path, "name,e", ["m", repr(7200 / joules)])
    columns = {"model": "name", "energy_per_request_j": ("e", unit)}
    read = read_energy_measurements(path, columns=columns)
    assert read.column("energy_per_request_j")[0] == pytest.approx(7200, rel=1e-12)


def test_selects_rows(tmp_path: Path) -> None:
    """By names and numbers; what is not there is listed."""
    rows = [V3_ROW, changed(V3_ROW, V3, gpu_model="H100"), changed(V3_ROW, V3, max_num_seqs=16)]
    read = read_energy_measurements(write(tmp_path, V3, *rows))
    assert len(read.select(gpu="B200")) == 2
    assert len(read.select(gpu="B200", batch_limit=16)) == 1
    assert read.select(gpu="H100").column("gpu").tolist() == ["H100"]
    with pytest.raises(InputError, match="gpu: is 'A100' in no row; there are 'B200', 'H100'"):
        read.select(gpu="A100")
    with pytest.raises(InputError, match=r"batch_limit: is 16 in no row; there are 8\.0"):
        read.select(gpu="H100", batch_limit=16)
    with pytest.raises(InputError, match="columns: has no 'colour'; there are 'model', 'gpu'"):
        read.select(colour="red")


@pytest.mark.parametrize(
    ("cells", "message"),
    [
        ({"avg_power_watts": 0}, "data row 1, column 'avg_power_watts': is 0; expected above 0"),
        ({"avg_power_watts": -5}, "data row 1, column 'avg_power_watts': is -5; expected above 0"),
        ({"avg_power_watts": ""}, "column 'avg_power_watts': is ''; expected a number"),
        (
            {"avg_power_watts": 320_000},
            "320000 W for each GPU; expected at most 3000 W; is it in mW",
        ),
        (
            {"p99_itl_ms": 68_000},
            "column 'p99_itl_ms': means 68 s between tokens; expected at most",
        ),
        (
            {"p90_itl_ms": 30},
            "column 'p90_itl_ms': means 0.03 s, below 0.033 s of itl_p50_s; expec",
        ),
        ({"gpu_model": ""}, "data row 1, column 'gpu_model': is blank; expected a name"),
    ],
)
def test_mistakes_are_refused(tmp_path: Path, cells: dict[str, Any], message: str) -> None:
    """Each with its row, its column, its value and what was expected."""
    assert message in refused(write(tmp_path, V3, changed(V3_ROW, V3, **cells)))


def test_a_header_of_neither_layout_is_refused(tmp_path: Path) -> None:
    """It is shown, with what was expected."""
    assert refused(write(tmp_path, "name,power", ["m", 5])) == (
        "header: is 'name', 'power'; expected that of ML.ENERGY v2 or ML.ENERGY v3, or columns= "
        "for another"
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"columns": {**OWN, "power": "power"}},
            "columns: names 'power'; expected some of 'model'",
        ),
        ({"columns": {**OWN, "power_w": ("power", "MW")}}, "expected 'W' or 'mW' or 'kW'"),
        (
            {"columns": {**OWN, "gpus": ("rate", "s")}},
            "columns['gpus']: is ('rate', 's'); expected no",
        ),
        ({"columns": {**OWN, "power_w": "watts"}}, "column 'watts': is missing"),
        ({"columns": {"power_w": "power"}}, "columns: has no 'model'"),
        ({"columns": OWN, "boundary": "rack"}, "boundary: is 'rack'; expected 'gpu', 'server' or"),
    ],
)
def test_wrong_mappings_are_refused(tmp_path: Path, options: Any, message: str) -> None:
    """Each with what was expected."""
    assert message in refused(write(tmp_path, "name,power,rate", ["m", 5, 6]), **options)


def test_a_boundary_that_is_not_measured_is_refused(tmp_path: Path) -> None:
    """ML.ENERGY measures GPUs."""
    message = refused(write(tmp_path, V3, V3_ROW), boundary="facility")
    assert "boundary: is 'facility'; expected 'gpu', which is what ML.ENERGY v3 measures" in message
