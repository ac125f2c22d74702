"""Request rates of models."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from greenopt.datasets import (
    RateTable,
    read_servegen_clients,
    read_servegen_lengths,
    read_servegen_rates,
)
from greenopt.errors import InputError

DAY_S = 86400


def write(
    folder: Path, lines: list[Any], header: str = "model,t_s,req_per_s,active_clients"
) -> Path:
    """A file of these rows."""
    path = folder / "rates.csv"
    path.write_text("\n".join([header, *(",".join(map(str, line)) for line in lines)]) + "\n")
    return path


def table(folder: Path, rates: Any, step_s: int = 600) -> RateTable:
    """A table with one model."""
    return read_servegen_rates(
        write(folder, [["m", i * step_s, rate, 3] for i, rate in enumerate(rates)])
    )


def refused(read: Any, path: Path) -> str:
    """Message of the error, which names the file."""
    with pytest.raises(InputError) as caught:
        read(path)
    assert str(caught.value).startswith(f"{path}: ")
    return str(caught.value).removeprefix(f"{path}: ")


def test_reads_each_model(tmp_path: Path) -> None:
    """Models keep the order of the file, whatever the order of their rows."""
    lines = [["b", 0, 1, 1], ["a", 0, 5, 1], ["b", 600, 2, 1], ["a", 600, 6, 1]]
    read = read_servegen_rates(write(tmp_path, lines))
    assert read.models == ("b", "a")
    assert read.step_s == 600
    t_s, rates = read.of("a")
    assert t_s.tolist() == [0, 600]
    assert rates.tolist() == [5, 6]
    with pytest.raises(InputError, match="model: is 'c'; there are 'b', 'a'"):
        read.of("c")


def test_outages_are_stated_and_masked(tmp_path: Path) -> None:
    """A window below 5 % of the median is a hole in the data; the file's value stays readable."""
    rates = [10.0] * 288
    rates[200:203] = [0, 0.49, 0.51]
    read = table(tmp_path, rates)
    assert np.flatnonzero(np.isnan(read.of("m")[1])).tolist() == [200, 201]
    assert np.flatnonzero(read.outage["m"]).tolist() == [200, 201]
    assert read.req_per_s["m"][201] == 0.49
    assert read.notes == (
        "'m': 2 of 288 windows are below 5% of the median 10 req/s, on days 1 (from 0); they are "
        "taken as outages",
    )


def test_quiet_models_have_no_outages(tmp_path: Path) -> None:
    """Where a window has few requests, none is nothing unusual."""
    read = table(tmp_path, [0.05, 0, 0.05, 0.05])
    assert not read.outage["m"].any()
    assert read.notes == ("'m': too few requests to tell outages from quiet windows",)


def test_days_at_any_step(tmp_path: Path) -> None:
    """Held over shorter steps, averaged over longer ones without outages."""
    rates = np.arange(300.0) + 100
    rates[144:150] = 0
    rates[150] = 0
    read = table(tmp_path, rates)
    assert read.days("m") == 2
    np.testing.assert_allclose(read.day("m", 0, 600), rates[:144])
    np.testing.assert_allclose(read.day("m", 0, 300), np.repeat(rates[:144], 2))
    np.testing.assert_allclose(read.day("m", 0, 3600), rates[:144].reshape(24, 6).mean(axis=1))
    second = read.day("m", 1, 3600)
    assert np.isnan(second[0])
    assert second[1] == pytest.approx(rates[151:156].mean())
    assert read.day("m", 0, DAY_S).tolist() == [pytest.approx(rates[:144].mean())]


@pytest.mark.parametrize(
    ("index", "step_s", "message"),
    [
        (1, 600, "index: is 1; expected a day from 0 to 0"),
        (-1, 600, "index: is -1; expected a day"),
        (0, 700, "step_s: is 700; expected a divisor or a multiple of 600 s that divides a day"),
        (0, 900, "step_s: is 900; expected a divisor or a multiple of 600 s that divides a day"),
        (0, 7 * 600, "step_s: is 4200; expected a divisor or a multiple of 600 s that divides"),
    ],
)
def test_wrong_days_are_refused(tmp_path: Path, index: int, step_s: int, message: str) -> None:
    """Days and steps that are not there."""
    with pytest.raises(InputError, match=message):
        table(tmp_path, [10.0] * 150).day("m", index, step_s)


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([["m", 0, 5, 1]], "rows: are one for each model; expected at least 2 windows"),
        (
            [["m", 0, -5, 1]],
            "data row 1, column 'req_per_s': is -5; expected a number of at least 0",
        ),
        ([["m", 0, "", 1]], "data row 1, column 'req_per_s': is ''; expected a number"),
        ([["", 0, 5, 1]], "data row 1, column 'model': is blank; expected the name of a model"),
        (
            [["m", 0, 5, 1], ["m", 600, 5, 1], ["m", 1200, 5, 1], ["m", 2400, 5, 1]],
            "data row 4, column 't_s': is 2400 after 1200 for 'm'; expected 1800",
        ),
        (
            [["m", 0, 5, 1], ["m", 600, 5, 1], ["m", 1200, 5, 1], ["m", 1200, 5, 1]],
            "data row 4, column 't_s': is 1200 after 1200 for 'm'; expected 1800",
        ),
        ([["m", 7, 5, 1], ["m", 607, 5, 1]], "is 7, the first of 'm'; expected midnight of a day"),
        ([["m", 0, 5, 1], ["m", 700, 5, 1]], "has steps of 700; expected a divisor of a day, s"),
    ],
)
def test_mistakes_are_refused(tmp_path: Path, lines: list[Any], message: str) -> None:
    """Each with its row, its column, its value and what was expected."""
    assert message in refused(read_servegen_rates, write(tmp_path, lines))


def test_missing_columns_are_refused(tmp_path: Path) -> None:
    """A file of another kind."""
    path = write(tmp_path, [[1, 2]], "model,rate")
    assert "column 't_s': is missing" in refused(read_servegen_rates, path)
    assert "column 'client': is missing" in refused(read_servegen_clients, path)


def test_clients_and_lengths(tmp_path: Path) -> None:
    """Rows of a model by name; lengths that are blank are NaN and stated."""
    header = "model,client,mean_req_per_s,peak_req_per_s,mean_input_tokens,mean_output_tokens"
    path = write(tmp_path, [["m", 0, 0.5, 4, 322, 108], ["n", 1, 0.2, 8, "", ""]], header)
    clients = read_servegen_clients(path)
    assert clients.notes == ("1 of 2 rows have no lengths",)
    assert clients.of("m")["prompt_tokens_mean"].tolist() == [322]
    assert np.isnan(clients.of("n")["output_tokens_mean"]).all()
    with pytest.raises(InputError, match="model: is 'x'; there are 'm', 'n'"):
        clients.of("x")
    header = (
        "model,t_s,requests_with_length_data,share_of_requests_covered,mean_input_tokens,"
        "mean_output_tokens"
    )
    lengths = read_servegen_lengths(write(tmp_path, [["m", 0, 50, 0.8, 300, 100]], header))
    assert {name: values[0] for name, values in lengths.of("m").items()} == {
        "t_s": 0,
        "requests": 50,
        "share_of_requests": 0.8,
        "prompt_tokens_mean": 300,
        "output_tokens_mean": 100,
    }
    broken = write(tmp_path, [["m", 0, 50, 0.8, -300, 100]], header)
    message = refused(read_servegen_lengths, broken)
    assert "data row 1, column 'mean_input_tokens': is -300; expected" in message
