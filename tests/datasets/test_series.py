"""Series over time: what is read, what is refused, what is stated."""

from __future__ import annotations

import gzip
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import greenopt as go
from greenopt.datasets import (
    TimeSeries,
    read_carbon,
    read_prices,
    read_series,
    read_temperature,
    read_wet_bulb,
)
from greenopt.errors import InputError

NEW_YEAR = datetime(2024, 1, 1, tzinfo=UTC)
DAY = [f"2024-01-01T{hour:02}:00Z" for hour in range(24)]
FLAT = [100.0 + hour for hour in range(24)]
PROPERTY = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def write(
    folder: Path, rows: list[Any], header: str = "datetime_utc,DE", name: str = "a.csv"
) -> Path:
    """A CSV file; rows are lists of cells."""
    path = folder / name
    lines = [header, *(",".join(map(str, row)) for row in rows)]
    path.write_text("\n".join(lines) + "\n")
    return path


def day(
    folder: Path, values: list[Any] = FLAT, stamps: list[str] = DAY, header: str = "t,DE"
) -> Path:
    """A file with one column."""
    return write(folder, list(zip(stamps, values, strict=True)), header)


def refused(read: Any, path: Path, **options: Any) -> str:
    """Message of the error, which names the file."""
    with pytest.raises(InputError) as caught:
        read(path, **options)
    assert str(caught.value).startswith(f"{path}: ")
    return str(caught.value).removeprefix(f"{path}: ")


def hourly(values: Any, columns: tuple[str, ...] = ("A",), step_s: int = 3600) -> TimeSeries:
    """A series from New Year's on."""
    array = np.array(values, dtype=float).reshape(-1, len(columns))
    first = int(NEW_YEAR.timestamp())
    begin = (first + step_s * np.arange(len(array))).astype("datetime64[s]")
    return TimeSeries("here", "q", "u", begin, step_s, columns, array, ())


def local(zone: str, first: datetime, count: int, step_s: int = 3600) -> list[str]:
    """Clock readings of consecutive steps in a zone."""
    at = [first + timedelta(seconds=step_s * i) for i in range(count)]
    return [time.astimezone(ZoneInfo(zone)).strftime("%Y-%m-%d %H:%M") for time in at]


def test_reads_what_is_there(tmp_path: Path) -> None:
    """Times, columns and values of a small file."""
    rows = [["2024-01-01T00:00Z", 300, 50.5], ["2024-01-01T01:00Z", 310, 49]]
    series = read_carbon(write(tmp_path, rows, "datetime_utc,DE,FR"))
    assert series.columns == ("DE", "FR")
    assert series.values.tolist() == [[300, 50.5], [310, 49]]
    assert series.begin.tolist() == [datetime(2024, 1, 1, 0), datetime(2024, 1, 1, 1)]
    assert (series.step_s, series.unit, series.quantity) == (3600, "g/kWh", "carbon intensity")
    assert series.notes == ()
    assert len(series) == 2
    assert repr(series) == (
        "<carbon intensity [g/kWh]: 2 columns over 2 steps of 3600 s, 2024-01-01T00:00Z to "
        "2024-01-01T02:00Z, 0 notes>"
    )


def test_reached_from_the_package() -> None:
    """`greenopt.datasets` needs no import of its own."""
    assert go.datasets.read_carbon is read_carbon


def test_reads_gzip_and_byte_order_mark(tmp_path: Path) -> None:
    """A compressed file with a byte order mark is the same file."""
    plain = day(tmp_path)
    packed = tmp_path / "a.csv.gz"
    packed.write_bytes(gzip.compress(b"\xef\xbb\xbf" + plain.read_bytes()))
    np.testing.assert_array_equal(read_carbon(packed).values, read_carbon(plain).values)


def test_broken_gzip_is_refused(tmp_path: Path) -> None:
    """Half a compressed file is not read."""
    packed = tmp_path / "a.csv.gz"
    packed.write_bytes(gzip.compress(day(tmp_path).read_bytes())[:-20])
    assert "file: cannot be read" in refused(read_carbon, packed)


def test_arrays_cannot_be_changed(tmp_path: Path) -> None:
    """A series is immutable."""
    series = read_carbon(day(tmp_path))
    for array in (series.values, series.begin):
        with pytest.raises(ValueError, match="read-only"):
            array[0] = array[1]


def test_extra_columns_are_ignored_only_when_asked(tmp_path: Path) -> None:
    """A column of names is an error, unless columns= leaves it out."""
    rows = [[DAY[0], "Germany", 300], [DAY[1], "Germany", 310]]
    path = write(tmp_path, rows, "t,country,DE")
    message = refused(read_carbon, path)
    assert message == (
        "data row 1, column 'country': is 'Germany', and no cell of the column is a number; "
        "expected numbers (columns= reads some columns only)"
    )
    assert read_carbon(path, columns=["DE"]).columns == ("DE",)
    assert read_carbon(path, columns="DE").columns == ("DE",)


def test_columns_keep_the_order_asked_for(tmp_path: Path) -> None:
    """columns= orders, and time= names the column of times."""
    path = write(tmp_path, [[0, 1e2, 2e2, DAY[0]], [1, 1e2, 2e2, DAY[1]]], ",A,B,when")
    series = read_carbon(path, columns=["B", "A"], time="when")
    assert series.values.tolist() == [[200, 100], [200, 100]]


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (["FR"], "column 'FR': is missing; there are 't', 'DE'"),
        (["DE", "DE"], "column 'DE': is asked for twice"),
        (["t"], "column 't': is that of the times; expected others"),
        ([], "columns: are none beside that of times"),
    ],
)
def test_wrong_columns_are_refused(tmp_path: Path, columns: list[str], message: str) -> None:
    """Columns that do not exist, stand twice, or are the times."""
    assert message in refused(read_carbon, day(tmp_path), columns=columns)


@pytest.mark.parametrize(
    ("rows", "header", "message"),
    [
        ([], "t,DE", "file: has no rows below its header"),
        ([[DAY[0], 1, 2]], "t,DE,DE", "column 'DE': stands there more than once"),
        ([[DAY[0] + ";1"]], "t;DE", "header: is separated by ';'; expected commas"),
        ([[DAY[0], 300], [DAY[1]]], "t,DE", "data row 2: has 1 cells; expected 2 as in the header"),
        ([[DAY[0], 300, 1]], "t,DE", "data row 1: has 3 cells; expected 2 as in the header"),
        ([[DAY[0], 300]], "t,DE", "rows: are of one time only; expected at least 2 steps"),
        ([["01.01.2024", 3]], "t,DE", "data row 1, column 't': is '01.01.2024'; expected an ISO"),
        ([[DAY[0].replace("Z", ":00.5Z"), 3]], "t,DE", "expected whole seconds"),
        (
            [[DAY[0], 300], [DAY[1], "3OO"]],
            "t,DE",
            "data row 2, column 'DE': is '3OO'; expected a n",
        ),
        (
            [[DAY[0], 300], [DAY[1], "inf"]],
            "t,DE",
            "data row 2, column 'DE': is 'inf'; expected a f",
        ),
    ],
)
def test_broken_tables_are_refused(
    tmp_path: Path, rows: list[Any], header: str, message: str
) -> None:
    """Files that are not tables of numbers over time."""
    assert message in refused(read_carbon, write(tmp_path, rows, header))


def test_missing_file_is_refused(tmp_path: Path) -> None:
    """A path that leads nowhere."""
    assert "file: cannot be read: No such file" in refused(read_carbon, tmp_path / "none.csv")


def test_missing_hours_are_listed(tmp_path: Path) -> None:
    """Each gap with its place and its stamps."""
    kept = [i for i in range(24) if i not in (5, 6, 20)]
    path = day(tmp_path, [FLAT[i] for i in kept], [DAY[i] for i in kept])
    assert refused(read_carbon, path).replace(f"{path}: ", "").split("\n") == [
        "after data row 5: no row for 2024-01-01T05:00Z to 2024-01-01T06:00Z (2 steps); expected a "
        "row every 3600 s (missing='allow' gives NaN, 'interpolate' fills up to 3 steps)",
        "after data row 18: no row for 2024-01-01T20:00Z; expected a row every 3600 s "
        "(missing='allow' gives NaN, 'interpolate' fills up to 3 steps)",
    ]
    allowed = read_carbon(path, missing="allow")
    assert np.flatnonzero(np.isnan(allowed.column("DE"))).tolist() == [5, 6, 20]
    assert allowed.notes == (
        "after data row 5: no row for 2024-01-01T05:00Z to 2024-01-01T06:00Z (2 steps) "
        "(NaN in the values)",
        "after data row 18: no row for 2024-01-01T20:00Z (NaN in the values)",
    )
    filled = read_carbon(path, missing="interpolate")
    np.testing.assert_allclose(filled.column("DE"), FLAT)
    assert filled.notes == (
        "column 'DE': interpolated 3 values, at 2024-01-01T05:00Z to 2024-01-01T06:00Z (2 steps), "
        "2024-01-01T20:00Z",
    )


def test_long_gaps_are_not_interpolated(tmp_path: Path) -> None:
    """Three steps are filled, four are not."""
    for length in (3, 4):
        kept = [i for i in range(24) if not 5 <= i < 5 + length]
        path = day(tmp_path, [FLAT[i] for i in kept], [DAY[i] for i in kept])
        if length == 3:
            np.testing.assert_allclose(read_carbon(path, missing="interpolate").column("DE"), FLAT)
        else:
            assert refused(read_carbon, path, missing="interpolate") == (
                "column 'DE': nothing at 2024-01-01T05:00Z to 2024-01-01T08:00Z (4 steps); "
                "expected at most 3 steps to interpolate"
            )


@pytest.mark.parametrize("cell", ["", " ", "nan", "NaN", "NA", "null"])
def test_blank_cells(tmp_path: Path, cell: str) -> None:
    """Blank in every usual spelling: refused, NaN, or filled."""
    path = day(tmp_path, [*FLAT[:7], cell, *FLAT[8:]])
    assert refused(read_carbon, path).startswith(
        "data row 8, column 'DE': blank at 2024-01-01T07:00Z; expected numbers"
    )
    allowed = read_carbon(path, missing="allow")
    assert np.flatnonzero(np.isnan(allowed.column("DE"))).tolist() == [7]
    assert "data row 8, column 'DE': blank at 2024-01-01T07:00Z" in allowed.notes[0]
    assert read_carbon(path, missing="interpolate").column("DE")[7] == pytest.approx(107)


def test_gaps_at_the_ends_are_not_interpolated(tmp_path: Path) -> None:
    """There is nothing to interpolate from."""
    path = day(tmp_path, ["", *FLAT[1:]])
    message = refused(read_carbon, path, missing="interpolate")
    assert "nothing at 2024-01-01T00:00Z; expected values at both ends to interpolate" in message


def test_only_gaps_in_the_time_asked_for_matter(tmp_path: Path) -> None:
    """start= and end= leave a blank outside alone, and keep a gap at their edge."""
    path = day(tmp_path, ["", *FLAT[1:]])
    part = read_carbon(path, start=DAY[1], end=DAY[5])
    assert part.column("DE").tolist() == FLAT[1:5]
    gap = day(tmp_path, FLAT[:5] + FLAT[6:], DAY[:5] + DAY[6:])
    part = read_carbon(gap, start=DAY[5], end=DAY[8], missing="allow")
    np.testing.assert_array_equal(part.column("DE"), [np.nan, *FLAT[6:8]])
    assert "file: no row for 2024-01-01T05:00Z" in refused(read_carbon, gap, start=DAY[5])


def test_single_steps_can_be_asked_for(tmp_path: Path) -> None:
    """The row after tells the length of a step, or the row before the last."""
    path = day(tmp_path)
    assert read_carbon(path, start=DAY[3], end=DAY[4]).values.tolist() == [[103]]
    assert read_carbon(path, start=DAY[23]).values.tolist() == [[123]]


def test_a_gap_is_never_taken_for_a_step(tmp_path: Path) -> None:
    """A part with hardly any rows has the step of the file; other steps are stated."""
    kept = [*range(6), 8, 11, 14, *range(17, 24)]
    path = day(tmp_path, [FLAT[i] for i in kept], [DAY[i] for i in kept])
    for start, end in ((5, 8), (5, 11), (5, 14), (14, 17)):
        part = {"start": DAY[start], "end": DAY[end]}
        assert "no row for 2024-01-01T" in refused(read_carbon, path, **part)
        series = read_carbon(path, missing="allow", **part)
        assert (series.step_s, len(series)) == (3600, end - start)
    quarters = [f"2024-01-02T{h:02}:{m:02}Z" for h in range(2) for m in (0, 15, 30, 45)]
    path = day(tmp_path, [100 + i for i in range(32)], DAY + quarters)
    assert read_carbon(path, start="2024-01-02T00:00Z").notes == (
        "steps are 900 s in the time asked for, and 3600 s in most of the file",
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"start": "2024-01-01T05:00"}, "start: is '2024-01-01T05:00'; expected a time with its z"),
        ({"start": datetime(2024, 1, 1)}, "expected a time with its zone"),
        ({"end": 5}, "end: is 5; expected a time with its zone"),
        ({"start": "2024-01-01T05:00:00.5Z"}, "expected whole seconds"),
        ({"start": DAY[5], "end": DAY[5]}, "end: is 2024-01-01T05:00Z; expected a time after"),
        ({"start": "2023-12-31T00:00Z"}, "file covers, 2024-01-01T00:00Z to 2024-01-02T00:00Z"),
        ({"end": "2024-01-03T00:00Z"}, "end: is 2024-01-03T00:00Z; expected a time that the file"),
        ({"start": "2024-01-02T00:00Z"}, "start: is 2024-01-02T00:00Z, which leaves no row"),
        ({"end": "2024-01-01T00:00Z"}, "end: is 2024-01-01T00:00Z, which leaves no row"),
        ({"start": "2024-01-01T05:30Z"}, "expected the beginning of a step of 3600 s, such as"),
        ({"missing": "drop"}, "missing: is 'drop'; expected one of 'refuse', 'allow', 'interpol"),
        ({"unit": "g"}, "unit: is 'g'; expected one of 'g/kWh', 'kg/kWh', 'kg/MWh', 'lb/MWh'"),
        ({"time": "when"}, "column 'when': is missing"),
    ],
)
def test_wrong_arguments_are_refused(tmp_path: Path, options: Any, message: str) -> None:
    """Each with its name, its value and what was expected."""
    assert message in refused(read_carbon, day(tmp_path), **options)


def test_repeated_hours_are_told_apart(tmp_path: Path) -> None:
    """The same values can be dropped on request; other values never."""
    stamps = DAY[:6] + DAY[5:]
    same = day(tmp_path, [*FLAT[:6], FLAT[5], *FLAT[6:]], stamps)
    assert refused(read_carbon, same) == (
        "data row 7: repeats 2024-01-01T05:00Z of data row 6 with the same values; expected each "
        "time once"
    )
    series = read_carbon(same, missing="allow")
    assert series.column("DE").tolist() == FLAT
    assert series.notes == (
        "data row 7 repeats 2024-01-01T05:00Z of data row 6 with the same values and was dropped",
    )
    other = day(tmp_path, [*FLAT[:6], 7, *FLAT[6:]], stamps)
    for missing in ("refuse", "allow", "interpolate"):
        assert refused(read_carbon, other, missing=missing) == (
            "data row 7: repeats 2024-01-01T05:00Z of data row 6 with other values: column 'DE' is "
            "105 and 7; expected each time once"
        )


def test_rows_out_of_order_are_refused(tmp_path: Path) -> None:
    """Two rows that changed places."""
    path = day(tmp_path, FLAT, [*DAY[:3], DAY[4], DAY[3], *DAY[5:]])
    assert refused(read_carbon, path) == (
        "data row 5: is of 2024-01-01T03:00Z, after 2024-01-01T04:00Z in the row above; expected "
        "rows in order of time"
    )


def test_mixed_steps_are_refused(tmp_path: Path) -> None:
    """Hours, then quarter-hours; each part can be read."""
    quarters = [f"2024-01-02T{h:02}:{m:02}Z" for h in range(12) for m in (0, 15, 30, 45)]
    path = day(tmp_path, [100 + i for i in range(72)], DAY + quarters)
    message = refused(read_carbon, path)
    assert message.startswith(
        "data row 2: is of 2024-01-01T01:00Z, 3600 s after the row above, like 24 of 71 rows, "
        "where most come after 900 s; expected steps of one length"
    )
    midnight = "2024-01-02T00:00Z"
    assert read_carbon(path, end=midnight).step_s == 3600
    assert read_carbon(path, start=midnight).step_s == 900


def test_a_stamp_off_the_grid_is_refused(tmp_path: Path) -> None:
    """One stamp that is late by ten minutes."""
    late = "2024-01-01T05:10Z"
    path = day(tmp_path, FLAT, [*DAY[:5], late, *DAY[6:]])
    for part in ({}, {"start": DAY[4], "end": DAY[7]}, {"start": DAY[5], "end": DAY[6]}):
        message = refused(read_carbon, path, **part)
        assert "2024-01-01T05:10Z" in message
        assert "expected" in message
    message = refused(read_carbon, path)
    assert "data row 6: is of 2024-01-01T05:10Z, 4200 s after the row above" in message


def test_a_mistyped_year_is_refused(tmp_path: Path) -> None:
    """A file is not filled with years of NaN."""
    path = day(tmp_path, FLAT, [*DAY[:-1], "2042-01-01T00:00Z"])
    message = refused(read_carbon, path, missing="allow")
    assert "rows: are 24, for 157801 steps" in message
    assert "is a stamp mistyped?" in message


def test_stamps_without_a_zone_are_refused(tmp_path: Path) -> None:
    """All of them, or one; the message says what to give."""
    bare = [stamp.removesuffix("Z") for stamp in DAY]
    assert refused(read_carbon, day(tmp_path, FLAT, bare)) == (
        "data row 1, column 't': is '2024-01-01T00:00', without a zone, like 24 of 24 stamps; "
        "expected one, as in 2024-01-31T05:00Z, or the zone of all stamps as an argument, such as "
        "zone='Europe/Berlin'"
    )
    path = day(tmp_path, FLAT, bare, "datetime_utc,DE")
    assert "such as zone='UTC'" in refused(read_carbon, path)
    np.testing.assert_array_equal(
        read_carbon(path, zone="UTC").begin, read_carbon(day(tmp_path)).begin
    )
    mixed = day(tmp_path, FLAT, [*DAY[:3], bare[3], *DAY[4:]])
    assert "data row 4, column 't': is '2024-01-01T03:00', without" in refused(read_carbon, mixed)


def test_a_zone_for_stamps_that_have_one_is_refused(tmp_path: Path) -> None:
    """Two zones cannot both hold."""
    message = refused(read_carbon, day(tmp_path), zone="Europe/Berlin")
    assert "data row 1, column 't': is '2024-01-01T00:00Z', with a zone of its own" in message
    assert "expected none with zone='Europe/Berlin'" in message


@pytest.mark.parametrize("zone", ["Berlin", "../etc/passwd", "Europe", ""])
def test_unknown_zones_are_refused(tmp_path: Path, zone: str) -> None:
    """What is no IANA name."""
    path = day(tmp_path, FLAT, [stamp.removesuffix("Z") for stamp in DAY])
    message = refused(read_carbon, path, zone=zone)
    assert message.startswith(f"zone: is {zone!r}; expected an IANA name")


def test_offsets_are_converted(tmp_path: Path) -> None:
    """Stamps with offsets, even two of them, become UTC."""
    stamps = ["2024-03-31T00:00+01:00", "2024-03-31T01:00+01:00", "2024-03-31T03:00+02:00"]
    series = read_carbon(day(tmp_path, [3e2] * 3, stamps))
    assert series.begin.tolist() == [datetime(2024, 3, 31) + timedelta(hours=h) for h in (-1, 0, 1)]
    assert "stamps with an offset were converted to UTC" in series.notes


CHANGES = [
    ("Europe/Berlin", datetime(2024, 3, 30, 23, tzinfo=UTC), 23, "2024-03-31"),
    ("Europe/Berlin", datetime(2024, 10, 26, 22, tzinfo=UTC), 25, "2024-10-27"),
    ("America/New_York", datetime(2024, 3, 10, 5, tzinfo=UTC), 23, "2024-03-10"),
    ("America/New_York", datetime(2024, 11, 3, 4, tzinfo=UTC), 25, "2024-11-03"),
    ("Australia/Sydney", datetime(2024, 10, 5, 14, tzinfo=UTC), 23, "2024-10-06"),
    ("Australia/Sydney", datetime(2024, 4, 6, 13, tzinfo=UTC), 25, "2024-04-07"),
]


@pytest.mark.parametrize(("zone", "first", "hours", "date"), CHANGES)
@pytest.mark.parametrize("step_s", [3600, 900])
def test_days_of_change_are_neither_short_nor_double(
    tmp_path: Path, zone: str, first: datetime, hours: int, date: str, step_s: int
) -> None:
    """A local day of 23 or 25 hours is whole, and converted to consecutive UTC steps."""
    count = hours * 3600 // step_s
    stamps = local(zone, first, count, step_s)
    assert {stamp[:10] for stamp in stamps} == {date}
    series = read_carbon(day(tmp_path, [100 + i for i in range(count)], stamps), zone=zone)
    assert len(series) == count
    assert series.begin[0] == np.datetime64(first.replace(tzinfo=None), "s")
    assert series.notes == (
        f"stamps are local times of {zone}, converted to UTC",
        f"clocks of {zone} change on {date}, which the conversion follows",
    )


@pytest.mark.parametrize(
    ("zone", "date", "row", "fixed"),
    [
        ("Europe/Berlin", "2024-03-31", 3, "Etc/GMT-1"),
        ("America/New_York", "2024-03-10", 3, "Etc/GMT+5"),
        ("Australia/Sydney", "2024-10-06", 3, "Etc/GMT-10"),
    ],
)
def test_24_stamps_in_spring_are_said(
    tmp_path: Path, zone: str, date: str, row: int, fixed: str
) -> None:
    """An hour that does not exist is refused, and the fixed zone proposed reads the file."""
    path = day(tmp_path, FLAT, [f"{date} {hour:02}:00" for hour in range(24)])
    for missing in ("refuse", "allow", "interpolate"):
        assert refused(read_carbon, path, zone=zone, missing=missing) == (
            f"data row {row}, column 't': is {date} 02:00, which does not exist in {zone}: clocks "
            "go forward over it. The file has 24 stamps on that day; if it keeps standard time all "
            f"year, give zone='{fixed}'"
        )
    assert len(read_carbon(path, zone=fixed)) == 24


@pytest.mark.parametrize(
    ("zone", "date", "hour", "utc"),
    [
        ("Europe/Berlin", "2024-10-27", 2, "2024-10-27T01:00Z"),
        ("America/New_York", "2024-11-03", 1, "2024-11-03T06:00Z"),
        ("Australia/Sydney", "2024-04-07", 2, "2024-04-06T16:00Z"),
    ],
)
def test_24_stamps_in_autumn_are_said(
    tmp_path: Path, zone: str, date: str, hour: int, utc: str
) -> None:
    """The repeated hour that stands once is missing, with its reason; NaN or filled on request."""
    path = day(tmp_path, FLAT, [f"{date} {hour:02}:00" for hour in range(24)])
    cause = (
        f"on {date} clocks of {zone} go back and repeat 0{hour}:00, but the file has it once "
        "(24 stamps on that day)"
    )
    message = refused(read_carbon, path, zone=zone)
    assert message.startswith(f"after data row {hour + 1}: no row for {utc}: {cause}; expected")
    allowed = read_carbon(path, zone=zone, missing="allow")
    assert np.flatnonzero(np.isnan(allowed.column("DE"))).tolist() == [hour + 1]
    assert any(cause in note for note in allowed.notes)
    filled = read_carbon(path, zone=zone, missing="interpolate")
    assert filled.column("DE")[hour + 1] == pytest.approx(100 + hour + 0.5)
    assert cause in filled.notes


def test_a_real_gap_on_a_day_of_change_stays_one(tmp_path: Path) -> None:
    """Daylight saving excuses its own hour only."""
    stamps = local("Europe/Berlin", datetime(2024, 10, 26, 22, tzinfo=UTC), 25)
    path = day(tmp_path, [100 + i for i in range(24)], stamps[:10] + stamps[11:])
    message = refused(read_carbon, path, zone="Europe/Berlin")
    assert "after data row 10: no row for 2024-10-27T08:00Z; expected" in message


def test_a_file_may_begin_in_the_second_pass(tmp_path: Path) -> None:
    """The row after tells which pass it is; the note says so."""
    stamps = [f"2024-10-27 {hour:02}:00" for hour in range(2, 24)]
    series = read_carbon(day(tmp_path, [1e2] * 22, stamps), zone="Europe/Berlin")
    assert series.begin[0] == np.datetime64("2024-10-27T01:00:00")


def changes(zone: str) -> list[int]:
    """Hours of 2024 in which the clocks of a zone change."""
    times = [NEW_YEAR + timedelta(hours=i) for i in range(366 * 24 + 1)]
    offsets = [time.astimezone(ZoneInfo(zone)).utcoffset() for time in times]
    return [i for i, (a, b) in enumerate(pairwise(offsets)) if a != b]


ZONES = {
    zone: changes(zone)
    for zone in ("Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "America/Santiago")
}


def test_every_zone_of_the_property_changes_twice() -> None:
    """The property below meets clocks that go forward and back."""
    assert [len(hours) for hours in ZONES.values()] == [2, 2, 2, 2]


@PROPERTY
@given(
    near=st.sampled_from([(zone, hour) for zone, hours in ZONES.items() for hour in hours]),
    before=st.integers(-2, 30),
    count=st.integers(33, 90),
    step_s=st.sampled_from([900, 1800, 3600]),
)
def test_local_stamps_of_any_day_become_utc(
    tmp_path: Path, near: tuple[str, int], before: int, count: int, step_s: int
) -> None:
    """Writing consecutive UTC steps as local times and reading them gives them back."""
    zone, hour = near
    first = NEW_YEAR + timedelta(hours=hour - before)
    stamps = local(zone, first, count, step_s)
    series = read_series(
        day(tmp_path, list(range(count)), stamps), quantity="q", unit="u", zone=zone
    )
    assert series.begin[0] == np.datetime64(first.replace(tzinfo=None), "s")
    assert series.column("DE").tolist() == list(range(count))


@pytest.mark.parametrize(
    ("read", "unit", "value", "doubt", "looks"),
    [
        (read_carbon, "g/kWh", 0.4, "the median 0.4 g/kWh; expected 2 to 1500", "kg/kWh"),
        (read_carbon, "kg/kWh", 400, "the median 400000 g/kWh", "g/kWh"),
        (read_prices, "USD/MWh", 0.08, "the median 0.08 USD/MWh; expected 5 to 1000", "USD/kWh"),
        (read_prices, "USD/MWh", 4.5, "the median 4.5 USD/MWh", "cent/kWh"),
        (read_prices, "USD/kWh", 80, "the median 80000 USD/MWh", "USD/MWh"),
        (read_wet_bulb, "degC", 60, "holds 60 degC; expected -90 to 40", "degF"),
        (read_wet_bulb, "degC", 290, "holds 290 degC", "K"),
        (read_temperature, "degC", 70, "holds 70 degC; expected -90 to 57", "degF"),
        (read_temperature, "degC", 48, "has the median 48 degC; expected -70 to 40", "degF"),
        (read_temperature, "K", 15, "holds -258.15 degC", "degC"),
    ],
)
def test_units_that_cannot_be_are_refused(
    tmp_path: Path, read: Any, unit: str, value: float, doubt: str, looks: str
) -> None:
    """The message says what it looks like, and the unit that it proposes is accepted."""
    path = day(tmp_path, [value * (1 + 1e-3 * i) for i in range(-12, 12)])
    message = refused(read, day(tmp_path, [value] * 24), unit=unit)
    assert message.startswith(f"column 'DE': read as {unit}, ")
    assert doubt in message
    assert f"pass unit='{looks}'" in message
    assert read(path, unit=looks).unit in ("g/kWh", "USD/MWh", "degC")


def test_each_column_is_judged_alone(tmp_path: Path) -> None:
    """One column in kg/kWh among others in g/kWh."""
    rows = [[stamp, 300, 0.3, ""] for stamp in DAY]
    path = write(tmp_path, rows, "t,DE,FR,PL")
    message = refused(read_carbon, path, missing="allow")
    assert message.startswith("column 'FR': read as g/kWh, has the median 0.3 g/kWh")
    assert "'DE'" not in message
    assert "'PL'" not in message


def test_nothing_fits_is_said(tmp_path: Path) -> None:
    """A median of millions is no unit known here; read_series takes it."""
    path = day(tmp_path, [5e9] * 24)
    assert "no unit known here fits" in refused(read_carbon, path)
    series = read_series(path, quantity="carbon", unit="odd")
    assert (series.unit, series.quantity, series.values[0, 0]) == ("odd", "carbon", 5e9)


def test_negative_prices_and_marginal_signals_are_stated(tmp_path: Path) -> None:
    """They are accepted, with count and lowest."""
    values = [-20.5, -500.25, *[80.0] * 22]
    for read in (read_prices, read_carbon):
        series = read(day(tmp_path, values))
        assert series.notes == ("column 'DE': 2 negative values, lowest -500.25",)
    frost = read_temperature(day(tmp_path, [*[-5.0] * 12, *[5.0] * 12]))
    assert frost.notes == ()


def test_low_prices_and_constant_columns_are_stated(tmp_path: Path) -> None:
    """Possible, and worth a look."""
    assert read_prices(day(tmp_path, [9.0] * 24)).notes == (
        "column 'DE': every value is 9",
        "column 'DE': the median is 9 USD/MWh, which is low; make sure that the file is not in "
        "cent/kWh",
    )


def test_other_currencies_need_a_rate(tmp_path: Path) -> None:
    """Nothing is converted without one, and nothing takes one that needs none."""
    path = day(tmp_path, [80.0 + i for i in range(24)])
    assert refused(read_prices, path, unit="EUR/MWh") == (
        "usd_per_unit: is None; expected USD per EUR above 0: prices in EUR are not converted "
        "without a rate"
    )
    series = read_prices(path, unit="EUR/MWh", usd_per_unit=1.25)
    assert series.values[0, 0] == pytest.approx(100)
    assert series.notes == ("converted from EUR/MWh to USD/MWh at 1.25 USD per EUR",)
    cheap = day(tmp_path, [0.08] * 24)
    assert read_prices(cheap, unit="EUR/kWh", usd_per_unit=1.25).values[0, 0] == pytest.approx(100)
    message = refused(read_prices, path, usd_per_unit=1.1)
    assert "usd_per_unit: is 1.1; expected none with unit='USD/MWh'" in message
    assert "expected USD per EUR above 0" in refused(
        read_prices, path, unit="EUR/MWh", usd_per_unit=-1
    )
    assert "or another currency as in 'EUR/MWh'" in refused(read_prices, path, unit="eur")


UNITS = [
    (read_carbon, "g/kWh", 1.0, 0.0),
    (read_carbon, "kg/kWh", 1e-3, 0.0),
    (read_carbon, "kg/MWh", 1.0, 0.0),
    (read_carbon, "lb/MWh", 1 / 0.45359237, 0.0),
    (read_prices, "USD/MWh", 1.0, 0.0),
    (read_prices, "USD/kWh", 1e-3, 0.0),
    (read_prices, "cent/kWh", 0.1, 0.0),
    (read_wet_bulb, "degC", 1.0, 0.0),
    (read_wet_bulb, "degF", 1.8, 32.0),
    (read_wet_bulb, "K", 1.0, 273.15),
    (read_temperature, "degF", 1.8, 32.0),
]


@PROPERTY
@given(which=st.sampled_from(UNITS), values=st.lists(st.floats(16, 30), min_size=2, max_size=24))
def test_conversions_are_the_inverse_of_writing(
    tmp_path: Path, which: Any, values: list[float]
) -> None:
    """What is written in a unit, by its definition, is read back in the unit of the series."""
    read, unit, factor, shift = which
    written = [repr(value * factor + shift) for value in values]
    series = read(day(tmp_path, written, DAY[: len(values)]), unit=unit)
    np.testing.assert_allclose(series.column("DE"), values, rtol=1e-12)
    said = any(note.startswith(f"converted from {unit} to ") for note in series.notes)
    assert said == (unit != series.unit)


def test_columns_and_selections() -> None:
    """One column, some columns, and names that are not there."""
    series = hourly([[1, 2, 3], [4, 5, 6]], ("A", "B", "C"))
    assert series.column("B").tolist() == [2, 5]
    assert series.select(["C", "A"]).values.tolist() == [[3, 1], [6, 4]]
    assert series.select("C").columns == ("C",)
    for call in (lambda: series.column("D"), lambda: series.select(["A", "D"])):
        with pytest.raises(InputError, match=r"here: columns: has no 'D'; there are 'A', 'B', 'C'"):
            call()


def test_between_takes_texts_and_datetimes() -> None:
    """The start belongs to the part, the end does not; any zone will do."""
    series = hourly(range(24))
    part = series.between("2024-01-01T05:00Z", NEW_YEAR + timedelta(hours=8))
    assert part.column("A").tolist() == [5, 6, 7]
    assert series.between("2024-01-01T06:00+01:00", DAY[6]).column("A").tolist() == [5]
    assert len(series.between(DAY[0], "2024-01-02T00:00Z")) == 24


@pytest.mark.parametrize(
    ("start", "end", "message"),
    [
        ("2024-01-01T05:00", DAY[6], "start: is '2024-01-01T05:00'; expected a time with its zone"),
        (
            DAY[0],
            "2024-01-02T01:00Z",
            "end: is 2024-01-02T01:00Z; expected a time from 2024-01-01T",
        ),
        ("2023-12-31T23:00Z", DAY[6], "start: is 2023-12-31T23:00Z; expected a time from"),
        ("2024-01-01T00:30Z", DAY[6], "expected the beginning of a step of 3600 s"),
        (DAY[6], DAY[6], "end: is '2024-01-01T06:00Z'; expected a time after the start"),
    ],
)
def test_between_refuses_what_is_not_covered(start: str, end: str, message: str) -> None:
    """Times without a zone, outside, within a step, or in the wrong order."""
    with pytest.raises(InputError, match=message.replace("(", r"\(")):
        hourly(range(24)).between(start, end)


@PROPERTY
@given(cuts=st.sets(st.integers(1, 47), max_size=5))
def test_parts_between_make_up_the_whole(cuts: set[int]) -> None:
    """Cutting anywhere and joining the parts loses and adds nothing."""
    series = hourly(np.arange(96.0).reshape(48, 2), ("A", "B"))
    edges = [NEW_YEAR + timedelta(hours=cut) for cut in [0, *sorted(cuts), 48]]
    parts = [series.between(a, b) for a, b in pairwise(edges)]
    np.testing.assert_array_equal(np.concatenate([p.values for p in parts]), series.values)
    np.testing.assert_array_equal(np.concatenate([p.begin for p in parts]), series.begin)


@PROPERTY
@given(
    values=st.lists(st.floats(-1e3, 1e3), min_size=24, max_size=24),
    finer=st.sampled_from([1, 2, 4, 12, 60]),
    coarser=st.sampled_from([1, 2, 3, 6, 24]),
)
def test_other_steps_keep_values_and_mean(values: list[float], finer: int, coarser: int) -> None:
    """Held values are the values, averaging them gives them back, and no mean changes."""
    series = hourly(values)
    held = series.at_step(3600 // finer)
    np.testing.assert_array_equal(held.column("A")[::finer], values)
    np.testing.assert_array_equal(held.column("A")[finer - 1 :: finer], values)
    np.testing.assert_allclose(held.at_step(3600).values, series.values, rtol=1e-12, atol=1e-12)
    np.testing.assert_array_equal(held.at_step(3600).begin, series.begin)
    averaged = series.at_step(3600 * coarser)
    assert len(averaged) == 24 // coarser
    assert averaged.values.mean() == pytest.approx(np.mean(values), abs=1e-9)
    assert averaged.column("A")[0] == pytest.approx(np.mean(values[:coarser]), abs=1e-9)
    assert held.begin[-1] + np.timedelta64(held.step_s, "s") == np.datetime64("2024-01-02")


def test_other_steps_are_stated_and_keep_nan() -> None:
    """The note says what was done; a mean over an unknown value is unknown."""
    series = hourly([1, np.nan, 3, 5])
    averaged = series.at_step(7200)
    np.testing.assert_array_equal(averaged.column("A"), [np.nan, 4])
    assert averaged.notes == ("steps of 3600 s were averaged to 7200 s",)
    assert series.at_step(1800).notes == ("steps of 3600 s were held to 1800 s",)
    assert series.at_step(3600).notes == ()


@pytest.mark.parametrize(
    ("seconds", "message"),
    [
        (0, "at_step: is 0; expected whole seconds above 0"),
        (1800.0, "at_step: is 1800.0; expected whole seconds above 0"),
        (5400, "at_step: is 5400 s; expected a divisor or a multiple of 3600 s"),
        (5 * 3600, "expected a length that 24 steps of 3600 s fill without a rest"),
    ],
)
def test_steps_that_do_not_fit_are_refused(seconds: Any, message: str) -> None:
    """Neither divisor nor multiple, or a rest at the end."""
    with pytest.raises(InputError, match=message):
        hourly(range(24)).at_step(seconds)
