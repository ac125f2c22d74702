"""Bad files give one clear line for each problem; good files survive every way in and out."""

from __future__ import annotations

import copy
import gzip
import json
import os
import re
from collections.abc import Callable, Iterator
from itertools import product
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pandas as pd
import pydantic
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from oracles import tiny as oracle
from oracles.tiny import FEATURES, Document, random_document

import greenopt as go
from greenopt.cli import main
from greenopt.instance import AXIS_FIELDS, Quantity

INSTANCES = Path(__file__).resolve().parents[1] / "instances" / "placement"
PROPERTY = settings(
    max_examples=1000,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow],
)

Change = Callable[[Document], object]
Expected = list[tuple[str, str]]


# Helpers


def tiny(**overrides: Any) -> Document:
    """The hand-made document, sharing nothing with any other."""
    return copy.deepcopy(oracle.tiny(**overrides))


def counted(**overrides: Any) -> Document:
    """The hand-made document with everything that counts instances and requests, or defers them."""
    given: list[Any] = np.full((2, 2, 2, 2), None).tolist()
    given[0][1][0][0] = given[1][1][0][0] = 2.0
    document = tiny(
        load_rule="at_most",
        instance_counts="integer",
        request_counts="integer",
        hold_periods=[2],
        initial_instances=[[[1.0, 0.0], [0.0, 2.0]], [[0.0, 0.0], [3.0, 0.0]]],
        fixed_instances=given,
        instance_limits=[{"name": "few", "limit": {"axes": ["site"], "values": [9.0, None]}}],
    )
    document["profiles"][0] |= {"startup": {"time_s": 300.0, "energy_kwh": 0.5}}
    document["profiles"][2] |= {"min_up_s": 7200.0}
    document["classes"][1] |= {"deferral_limit_s": 3600.0}
    document.update(overrides)
    return document


def written(folder: Path, document: Any, name: str = "bad.json") -> Path:
    """Write a document as it is: NaN and Infinity become the tokens of those names."""
    path = folder / name
    path.write_text(json.dumps(document))
    return path


def refused(path: Path, capsys: pytest.CaptureFixture[str]) -> list[tuple[str, str]]:
    """Problems (JSON path, message) of a file, the same from `load` and from the command line.

    Asserts what holds for every bad file: one line each, with file name and path, status 2.
    """
    with pytest.raises(go.InstanceError) as caught:
        go.load(path)
    lines = str(caught.value).split("\n")
    assert len(lines) == len(caught.value.problems)
    capsys.readouterr()
    assert main(["solve", str(path)]) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.splitlines() == [f"greenopt: {line}" for line in lines]
    assert "Traceback" not in shown.err
    found = []
    for line in lines:
        match = re.fullmatch(re.escape(str(path)) + r": (\$\S*): (\S.*)", line)
        assert match, line
        found.append((match[1], match[2]))
    assert len(set(found)) == len(found)
    return found


def assert_problems(found: list[tuple[str, str]], expected: Expected) -> None:
    """Exactly the expected places, each with a message that holds the expected words."""
    assert sorted(path for path, _ in found) == sorted(path for path, _ in expected), found
    for path, words in expected:
        assert any(p == path and words in message for p, message in found), (path, words, found)


def budget(metric: str, **limit: Any) -> Document:
    """One budget, on the total if nothing else is said."""
    return {"name": "cap", "metric": metric, "limit": {"axes": [], "values": 1.0, **limit}}


def term(metric: str, **fields: Any) -> list[Document]:
    """An objective of one stage and one term."""
    return [{"terms": [{"metric": metric, "weight": 1.0, **fields}]}]


def put(*path: str | int, value: Any) -> Change:
    """A change that sets what stands at a path."""

    def change(document: Document) -> None:
        inner: Any = document
        for part in path[:-1]:
            inner = inner[part]
        inner[path[-1]] = value

    return change


def take(*path: str | int) -> Change:
    """A change that takes away what stands at a path."""

    def change(document: Document) -> None:
        inner: Any = document
        for part in path[:-1]:
            inner = inner[part]
        del inner[path[-1]]

    return change


def every(*changes: Change) -> Change:
    """Several changes as one."""

    def change(document: Document) -> None:
        for one in changes:
            one(document)

    return change


def gpu_boundaries(document: Document) -> None:
    """Power of all profiles measured at the GPUs, with a host adder in all but the third."""
    for i, profile in enumerate(document["profiles"]):
        profile["power_boundary"] = "gpu"
        if i != 2:
            profile["host_adder_w"] = 300.0


# Files that cannot be read


UNREADABLE: dict[str, tuple[bytes | None, str]] = {
    "missing": (None, "cannot be read: No such file"),
    "empty": (b"", "is not valid JSON"),
    "blank": (b" \n\t ", "is not valid JSON"),
    "truncated": (json.dumps(tiny()).encode()[:-40], "is not valid JSON"),
    "truncated early": (b'{"problem": "placement", ', "line 1, column"),
    "trailing": (json.dumps(tiny()).encode() + b" {}", "is not valid JSON"),
    "a list": (b"[1, 2]", "expected a JSON object"),
    "a string": (b'"placement"', "expected a JSON object"),
    "a number": (b"1", "expected a JSON object"),
    "null": (b"null", "expected a JSON object"),
    "not JSON": (b"problem: placement\n", "is not valid JSON"),
    "not UTF-8": (b'{"name": "\xe9t\xe9"}', "is not UTF-8 text (byte 10)"),
    "too deep": (b"[" * 100_000, "is nested too deeply"),
    "too many digits": (b'{"problem": ' + b"9" * 5000 + b"}", "digits"),
    "duplicate": (b'{"problem": "placement", "name": "a", "name": "b"}', "names 'name' twice"),
    "duplicate inside": (
        json.dumps(tiny()).replace('"us"', "1").replace('"builder"', '"description"').encode(),
        "names 'description' twice",
    ),
}


@pytest.mark.parametrize("case", UNREADABLE)
def test_unreadable_file(case: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A file that is no JSON object has one problem, that of the whole document."""
    content, words = UNREADABLE[case]
    path = tmp_path / "bad.json"
    if content is not None:
        path.write_bytes(content)
    assert_problems(refused(path, capsys), [("$", words)])


def test_folder_is_not_a_file(tmp_path: Path) -> None:
    """`load` of a folder says so."""
    with pytest.raises(go.InstanceError, match="cannot be read: Is a directory"):
        go.load(tmp_path)


def test_unreadable_permissions(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A file the user may not read is one line as well."""
    path = written(tmp_path, tiny())
    path.chmod(0)
    if os.access(path, os.R_OK):
        pytest.skip("this user may read everything")
    assert_problems(refused(path, capsys), [("$", "Permission denied")])


def damaged(data: bytes) -> dict[str, bytes]:
    """Several ways in which a gzip file breaks."""
    middle = len(data) // 2
    flipped = bytearray(data)
    flipped[middle : middle + 20] = bytes(b ^ 0xFF for b in data[middle : middle + 20])
    return {
        "truncated": data[:middle],
        "only the header": data[:10],
        "only the magic": data[:2],
        "flipped": bytes(flipped),
        "wrong checksum": data[:-8] + bytes(b ^ 0xFF for b in data[-8:-4]) + data[-4:],
        "wrong length": data[:-4] + b"\0\0\0\0",
        "rubbish after": data + b"rubbish",
        "bad method": data[:2] + b"\x07" + data[3:],
    }


BAD_GZIP = damaged(gzip.compress(json.dumps(tiny()).encode()))


@pytest.mark.parametrize("case", BAD_GZIP)
def test_bad_gzip(case: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A damaged gzip file is one problem of the whole document."""
    path = tmp_path / "bad.json.gz"
    path.write_bytes(BAD_GZIP[case])
    assert_problems(refused(path, capsys), [("$", "")])


def test_gzip_holds_what_the_plain_file_holds(tmp_path: Path) -> None:
    """Compressed or not, the same instance; compressing twice gives the same bytes."""
    instance = go.PlacementInstance.parse(tiny())
    plain, packed, again = (tmp_path / n for n in ("a.json", "a.json.gz", "b.json.gz"))
    for path in (plain, packed, again):
        instance.save(path)
    assert go.load(plain) == go.load(packed) == instance
    assert gzip.decompress(packed.read_bytes()) == plain.read_bytes()
    assert packed.read_bytes() == again.read_bytes()
    assert packed.read_bytes()[4:8] == bytes(4)  # no time stamp


def test_gzip_with_a_fault_inside(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A problem in a compressed file is found at its place like in a plain one."""
    path = tmp_path / "bad.json.gz"
    path.write_bytes(gzip.compress(json.dumps(tiny(pue=[[1.1, 1.2], [0.9, 1.1]])).encode()))
    assert_problems(refused(path, capsys), [("$.pue[1][0]", "is 0.9; expected")])


# Documents with one fault


FAULTS: dict[str, tuple[Change, Expected]] = {
    # what kind of file
    "no problem": (take("problem"), [("$.problem", "one of ['placement', 'routing']")]),
    "unknown problem": (put("problem", value="knapsack"), [("$.problem", "is 'knapsack'")]),
    "problem a list": (put("problem", value=[]), [("$.problem", "is []")]),
    "problem an object": (put("problem", value={}), [("$.problem", "is {}")]),
    "version 2": (put("schema_version", value=2), [("$.schema_version", "is 2; expected 1")]),
    "version as text": (put("schema_version", value="1"), [("$.schema_version", "is '1'")]),
    "version true": (put("schema_version", value=True), [("$.schema_version", "is True")]),
    "no version": (take("schema_version"), [("$.schema_version", "is missing")]),
    # fields
    "unknown field": (put("wuee", value=1), [("$.wuee", "is not a field")]),
    "unknown field in a class": (
        put("classes", 1, "ttft", value=1.0),
        [("$.classes[1].ttft", "is not a field")],
    ),
    "unknown field in a level": (
        put("profiles", 2, "levels", 1, "power_kw", value=1.0),
        [("$.profiles[2].levels[1].power_kw", "is not a field")],
    ),
    "unknown field in a source": (
        put("provenance", "sources", 0, "license", value="MIT"),
        [("$.provenance.sources[0].license", "is not a field")],
    ),
    "unknown field in a term": (
        put("objective", 0, "terms", 1, "wieght", value=1.0),
        [("$.objective[0].terms[1].wieght", "is not a field")],
    ),
    "missing field": (take("rtt_s"), [("$.rtt_s", "is missing")]),
    "missing nested field": (
        take("classes", 0, "egress_bytes_per_request"),
        [("$.classes[0].egress_bytes_per_request", "is missing")],
    ),
    "missing provenance": (take("provenance"), [("$.provenance", "is missing")]),
    "missing wue_basis": (take("wue_basis"), [("$.wue_basis", "is missing")]),
    "missing ewif_set": (take("ewif_set"), [("$.ewif_set", "is missing")]),
    "missing licence": (
        take("provenance", "data_licence"),
        [("$.provenance.data_licence", "is missing")],
    ),
    "empty name": (put("name", value=""), [("$.name", "is ''")]),
    "no objective": (put("objective", value=[]), [("$.objective", "is []")]),
    "no sites": (put("sites", value=[]), [("$.sites", "is []")]),
    "a site twice": (put("sites", value=["oregon"] * 2), [("$.sites", "['oregon'] more than")]),
    "a class twice": (
        put("classes", 1, "name", value="chat"),
        [("$.classes", "['chat'] more than once")],
    ),
    # lengths
    "demand of one period": (
        take("demand_requests", 1),
        [("$.demand_requests", "1 entries along period, expected 2 (see $.periods)")],
    ),
    "demand of one origin": (
        put("demand_requests", value=[[[1.0, 1.0, 1.0]]] * 2),
        [("$.demand_requests", "1 entries along origin, expected 2 (see $.origins)")],
    ),
    "ragged demand": (
        take("demand_requests", 0, 1, 2),
        [("$.demand_requests", "equally long")],
    ),
    "flat demand": (
        put("demand_requests", value=[1.0] * 12),
        [("$.demand_requests", "over period, origin, class")],
    ),
    "series too long": (
        put("carbon_g_per_kwh", value=[[300.0, 25.0]] * 3),
        [("$.carbon_g_per_kwh", "3 entries along period, expected 2")],
    ),
    "series too short in a subset": (
        put("pue", value={"axes": ["site"], "values": [1.2]}),
        [("$.pue.values", "1 entries along site, expected 2 (see $.sites)")],
    ),
    "durations too short": (
        put("periods", "duration_s", value=[3600.0]),
        [("$.periods.duration_s", "has 1 entries, expected 2")],
    ),
    "prefill too long": (
        put("profiles", 0, "levels", 2, "prefill_s", value=[0.1, 0.2, 0.3, 0.4]),
        [("$.profiles[0].levels[2].prefill_s", "has 4 entries, expected 3")],
    ),
    "probabilities too short": (
        put("classes", 0, "prompt_tokens", "probabilities", value=[1.0]),
        [("$.classes[0].prompt_tokens.probabilities", "has 1 entries, expected 3")],
    ),
    # numbers
    "NaN in a series": (
        put("price_usd_per_mwh", 0, 1, value=float("nan")),
        [("$.price_usd_per_mwh[0][1]", "is nan; expected a finite number")],
    ),
    "Infinity in a series": (
        put("carbon_g_per_kwh", 1, 1, value=float("inf")),
        [("$.carbon_g_per_kwh[1][1]", "is inf; expected a finite number")],
    ),
    "-Infinity in a series": (
        put("carbon_g_per_kwh", 1, 0, value=float("-inf")),
        [("$.carbon_g_per_kwh[1][0]", "is -inf; expected a finite number")],
    ),
    "Infinity of GPUs": (
        put("gpus", 0, 0, 0, value=float("inf")),
        [("$.gpus[0][0][0]", "is inf; expected a finite number")],
    ),
    "NaN alone": (
        put("gpu_types", 0, "embodied_kg", value=float("nan")),
        [("$.gpu_types[0].embodied_kg", "is nan")],
    ),
    "Infinity alone": (
        put("classes", 0, "ttft_limit_s", value=float("inf")),
        [("$.classes[0].ttft_limit_s", "is inf")],
    ),
    "NaN in a limit": (
        put("budgets", value=[budget("carbon_kg", values=float("nan"))]),
        [("$.budgets[0].limit.values", "is nan")],
    ),
    "an integer beyond floats": (
        put("pue", 0, 0, value=10**400),
        [("$.pue[0][0]", "expected a finite number")],
    ),
    "an integer beyond floats alone": (
        put("gpu_types", 0, "embodied_kg", value=10**400),
        [("$.gpu_types[0].embodied_kg", "expected")],
    ),
    "text for a number": (
        put("price_usd_per_mwh", 1, 0, value="35"),
        [("$.price_usd_per_mwh[1][0]", "is '35'; expected a finite number")],
    ),
    "text for a number alone": (
        put("classes", 2, "tbt_limit_s", value="0.05"),
        [("$.classes[2].tbt_limit_s", "is '0.05'")],
    ),
    "text for a year": (
        put("carbon_signal", "year", value="2023"),
        [("$.carbon_signal.year", "is '2023'")],
    ),
    "true for a number": (
        put("rtt_s", 0, 0, value=True),
        [("$.rtt_s[0][0]", "is True; expected a finite number")],
    ),
    "true for a number alone": (
        put("profiles", 1, "gpus_per_instance", value=True),
        [("$.profiles[1].gpus_per_instance", "is True")],
    ),
    "false for a weight": (
        put("objective", 0, "terms", 0, "weight", value=False),
        [("$.objective[0].terms[0].weight", "is False")],
    ),
    "true for a year": (
        put("carbon_signal", "year", value=True),
        [("$.carbon_signal.year", "is True")],
    ),
    "one for true": (
        put("reachable", value={"axes": ["site"], "values": [1, True]}),
        [("$.reachable.values[0]", "is 1; expected true or false")],
    ),
    "null in a series": (
        put("pue", 0, 1, value=None),
        [("$.pue[0][1]", "is None; expected a finite number")],
    ),
    "null for a series": (put("pue", value=None), [("$.pue", "over period, site")]),
    "an object for a series": (put("pue", value={}), [("$.pue", '"axes"')]),
    "text for a series": (put("pue", value="1.2"), [("$.pue", "over period, site")]),
    # ranges
    "negative demand": (
        put("demand_requests", 0, 1, 2, value=-1.0),
        [("$.demand_requests[0][1][2]", "is -1.0; expected a finite number at least 0")],
    ),
    "PUE below 1": (put("pue", 0, 1, value=0.99), [("$.pue[0][1]", "at least 1")]),
    "one cycle": (
        put("cycles_of_concentration", 1, value=1.0),
        [("$.cycles_of_concentration[1]", "above 1")],
    ),
    "no cycles": (
        put("cycles_of_concentration", 0, value=0.5),
        [("$.cycles_of_concentration[0]", "is 0.5; expected a finite number above 1")],
    ),
    "negative WUE": (
        put("wue_l_per_kwh", 1, 1, value=-0.1),
        [("$.wue_l_per_kwh[1][1]", "is -0.1; expected a finite number at least 0, L per IT kWh")],
    ),
    "negative RTT": (put("rtt_s", 1, 0, value=-0.1), [("$.rtt_s[1][0]", "at least 0")]),
    "negative power": (
        put("profiles", 0, "levels", 0, "power_w", value=-1.0),
        [("$.profiles[0].levels[0].power_w", "is -1.0")],
    ),
    "no duration": (put("periods", "duration_s", 1, value=0.0), [("$.periods.duration_s[1]", "0")]),
    "probabilities below 1": (
        put("classes", 0, "prompt_tokens", "probabilities", value=[0.5, 0.4, 0.05]),
        [("$.classes[0].prompt_tokens.probabilities", "expected 1")],
    ),
    "negative probability": (
        put("classes", 0, "output_tokens", "probabilities", value=[-0.5, 1.5]),
        [("$.classes[0].output_tokens.probabilities[0]", "is -0.5")],
    ),
    "prompt beyond the prefill grid": (
        put("classes", 2, "prompt_tokens", "values", value=[32.0, 5000.0]),
        [
            ("$.classes[2].prompt_tokens.values", "8b in fast, 16 to 4096"),
            ("$.classes[2].prompt_tokens.values", "8b in thrifty, 16 to 4096"),
        ],
    ),
    "prompt below the prefill grid": (
        every(
            put("classes", 2, "prompt_tokens", "values", value=[1.0, 256.0]),
            put("profiles", 3, "prefill_tokens", value=[1.0, 512.0, 4096.0]),
        ),
        [("$.classes[2].prompt_tokens.values", "spans 1 to 256 tokens")],
    ),
    "TBT statistic not measured": (
        take("profiles", 2, "levels", 1, "itl_s", "p99"),
        [("$.classes[2].tbt_statistic", "'p99' is not measured at every level of 8b in fast")],
    ),
    "unknown statistic": (
        put("classes", 0, "ttft_statistic", value="p97"),
        [("$.classes[0].ttft_statistic", "is 'p97'")],
    ),
    "load levels out of order": (
        put("profiles", 0, "levels", 0, "requests_per_s", value=2.0),
        [("$.profiles[0].levels", "not strictly increasing")],
    ),
    # time
    "time without zone": (
        put("periods", "start", 0, value="2023-07-18T00:00"),
        [("$.periods.start[0]", "has no time zone")],
    ),
    "not a time": (
        put("periods", "start", 1, value="one o'clock"),
        [("$.periods.start[1]", "is not an ISO 8601 time")],
    ),
    "overlapping periods": (
        put("periods", "start", 1, value="2023-07-18T00:59Z"),
        [("$.periods.start[1]", "begins before the period before it ends")],
    ),
    "overlap across zones": (
        put("periods", "start", 1, value="2023-07-18T02:00+02:00"),
        [("$.periods.start[1]", "begins before the period before it ends")],
    ),
    # names
    "unknown axis": (
        put("pue", value={"axes": ["sites"], "values": [1.2, 1.2]}),
        [("$.pue.axes", "['sites']")],
    ),
    "axis of another array": (
        put("pue", value={"axes": ["origin"], "values": [1.2, 1.2]}),
        [("$.pue.axes", "out of ['period', 'site']")],
    ),
    "an axis twice": (
        put("pue", value={"axes": ["site", "site"], "values": [[1.2, 1.2]] * 2}),
        [("$.pue.axes", "different axes")],
    ),
    "axes that are no names": (
        put("pue", value={"axes": [["site"], {}], "values": [1.2, 1.2]}),
        [("$.pue.axes", "out of ['period', 'site']")],
    ),
    "a unit beside the axes": (
        put("pue", value={"axes": ["site"], "values": [1.2, 1.2], "unit": "1"}),
        [("$.pue", '"axes"')],
    ),
    "unknown model of a class": (
        put("classes", 1, "model", value="700b"),
        [("$.classes[1].model", "'700b' is not one of the models ['70b', '8b']")],
    ),
    "unknown names in a profile": (
        every(
            put("profiles", 0, "gpu_type", value="h200"),
            put("profiles", 0, "mode", value="turbo"),
            put("classes", 0, "work_per_request", value={"turbo": 1.0, "thrifty": 1.0}),
            put("classes", 1, "work_per_request", value={"turbo": 1.6, "thrifty": 1.8}),
        ),
        [
            ("$.profiles[0].gpu_type", "'h200' is not one of the gpu_types"),
            ("$.profiles[0].mode", "'turbo' is not one of the modes"),
        ],
    ),
    "unknown mode in work": (
        put("classes", 0, "work_per_request", "warp", value=1.0),
        [("$.classes[0].work_per_request", "'warp'")],
    ),
    "missing mode in work": (
        take("classes", 2, "work_per_request", "fast"),
        [("$.classes[2].work_per_request", "expected ['fast', 'thrifty']")],
    ),
    "no work": (
        put("classes", 2, "work_per_request", "fast", value=0.0),
        [("$.classes[2].work_per_request.fast", "is 0.0")],
    ),
    "budget on an unknown metric": (
        put("budgets", value=[budget("joy_kg")]),
        [("$.budgets[0].metric", "'joy_kg' is not a metric")],
    ),
    "budget on a report": (
        put("budgets", value=[budget("ttft_p95_s")]),
        [("$.budgets[0].metric", "ttft_p95_s is reported")],
    ),
    "budget over an unknown axis": (
        put("budgets", value=[budget("carbon_kg", axes=["class"], values=[1.0] * 3)]),
        [("$.budgets[0].limit", "has axes ['class'], expected some of ['period', 'site']")],
    ),
    "budget of wrong length": (
        put("budgets", value=[budget("carbon_kg", axes=["site"], values=[1.0] * 3)]),
        [("$.budgets[0].limit", "3 entries along site, expected 2")],
    ),
    "two budgets of one name": (
        put("budgets", value=[budget("carbon_kg"), budget("water_l")]),
        [("$.budgets", "['cap'] more than once")],
    ),
    "unmet requests of a site": (
        put("budgets", value=[budget("unmet_requests", axes=["site"], values=[1.0, 2.0])]),
        [("$.budgets[0].limit", "belongs to no site")],
    ),
    "objective of an unknown metric": (
        put("objective", value=term("joy_kg")),
        [("$.objective[0].terms[0].metric", "'joy_kg' is not a metric")],
    ),
    "objective of a report": (
        put("objective", value=term("carbon_total_kg")),
        [("$.objective[0].terms[0].metric", "carbon_total_kg is reported, it cannot steer")],
    ),
    "maximum of a mean TTFT": (
        put("objective", value=term("ttft_mean_s", over_sites="max")),
        [("$.objective[0].terms[0].over_sites", "a ratio of two decisions")],
    ),
    "mean of a mean TTFT": (
        put("objective", value=term("ttft_mean_s", over_sites="mean")),
        [("$.objective[0].terms[0].over_sites", "a ratio of two decisions")],
    ),
    "unknown aggregation": (
        put("objective", value=term("carbon_kg", over_sites="median")),
        [("$.objective[0].terms[0].over_sites", "is 'median'")],
    ),
    "reward for a maximum": (
        put("objective", value=term("carbon_kg", over_sites="max", weight=-1.0)),
        [("$.objective[0].terms[0].over_sites", "not convex")],
    ),
    "unmet demand for free": (
        every(
            put("classes", 0, "unmet_price_usd", value=0.01),
            put("objective", value=term("cost_usd")),
        ),
        [("$.objective[0].terms", "must weigh unmet_usd")],
    ),
    "unmet demand and a mean TTFT": (
        every(
            put("classes", 0, "unmet_price_usd", value=0.01),
            put("objective", 0, "terms", 1, "metric", value="unmet_usd"),
        ),
        [("$.objective[0].terms[2].over_sites", "with unmet demand")],
    ),
    # power boundaries
    "mixed boundaries": (
        put("profiles", 2, "power_boundary", value="facility"),
        [("$.profiles[2].power_boundary", "'facility' mixed with 'server'")],
    ),
    "unknown boundary": (
        put("profiles", 2, "power_boundary", value="rack"),
        [("$.profiles[2].power_boundary", "is 'rack'")],
    ),
    "gpu boundary without the host": (
        gpu_boundaries,
        [("$.profiles[2].host_adder_w", "is missing; a gpu boundary needs")],
    ),
    "host counted twice": (
        put("profiles", 0, "host_adder_w", value=300.0),
        [("$.profiles[0].host_adder_w", "double counts at boundary server")],
    ),
    # custom metrics
    "custom metric of nothing": (
        put("custom_metrics", value=[{"name": "noise", "unit": "dB"}]),
        [("$.custom_metrics[0]", "neither per_request nor per_instance_s")],
    ),
    "custom metric of a built-in name": (
        put(
            "custom_metrics",
            value=[{"name": "cost_usd", "unit": "USD", "per_request": {"axes": [], "values": 1.0}}],
        ),
        [("$.custom_metrics[0].name", "'cost_usd' is a built-in metric")],
    ),
    "custom metric with a fault, weighed": (
        every(
            put("custom_metrics", value=[{"name": "noise", "unit": "dB"}]),
            put("objective", value=term("noise")),
        ),
        [("$.custom_metrics[0]", "neither per_request nor per_instance_s")],
    ),
}


COUNTED: dict[str, tuple[Change, Expected]] = {
    "unknown load rule": (put("load_rule", value="at most"), [("$.load_rule", "is 'at most'")]),
    "unknown instance counts": (
        put("instance_counts", value="whole"),
        [("$.instance_counts", "is 'whole'")],
    ),
    "unknown request counts": (
        put("request_counts", value=True),
        [("$.request_counts", "is True")],
    ),
    # starts
    "a start longer than a period": (
        put("profiles", 0, "startup", "time_s", value=1801.0),
        [("$.profiles[0].startup.time_s", "is 1801; expected at most the shortest period, 1800 s")],
    ),
    "a start before its beginning": (
        put("profiles", 0, "startup", "time_s", value=-1.0),
        [("$.profiles[0].startup.time_s", "is -1")],
    ),
    "a start without energy": (
        take("profiles", 0, "startup", "energy_kwh"),
        [("$.profiles[0].startup.energy_kwh", "is missing")],
    ),
    "a start that gives energy": (
        put("profiles", 0, "startup", "energy_kwh", value=-0.5),
        [("$.profiles[0].startup.energy_kwh", "is -0.5")],
    ),
    "unknown field of a start": (
        put("profiles", 0, "startup", "power_w", value=1.0),
        [("$.profiles[0].startup.power_w", "is not a field")],
    ),
    "negative up-time": (
        put("profiles", 2, "min_up_s", value=-1.0),
        [("$.profiles[2].min_up_s", "is -1")],
    ),
    # numbers of instances
    "starts from nothing": (
        take("initial_instances"),
        [("$.initial_instances", "is missing; 70b in fast has a startup or a min_up_s")],
    ),
    "an up-time from nothing": (
        every(put("profiles", 0, "startup", value=None), put("initial_instances", value=None)),
        [("$.initial_instances", "is missing; 8b in fast has a startup or a min_up_s")],
    ),
    "a beginning of no starts": (
        every(take("profiles", 0, "startup"), take("profiles", 2, "min_up_s")),
        [("$.initial_instances", "no profile has a startup or a min_up_s")],
    ),
    "half an instance at the beginning": (
        put("initial_instances", 0, 1, 1, value=2.5),
        [("$.initial_instances[0][1][1]", "is 2.5; instance_counts integer needs whole")],
    ),
    "fewer than none at the beginning": (
        put("initial_instances", 0, 1, 1, value=-1.0),
        [("$.initial_instances[0][1][1]", "is -1.0; expected")],
    ),
    "an unknown number at the beginning": (
        put("initial_instances", 0, 1, 1, value=None),
        [("$.initial_instances[0][1][1]", "is None; expected")],
    ),
    "a beginning without GPUs": (
        put("gpus", value=[[[24.0, 0.0], [24.0, 32.0]]] * 2),
        [("$.initial_instances[0][1][1]", "is 2 for 8b in thrifty at oregon, where no profile")],
    ),
    "half an instance given": (
        every(*(put("fixed_instances", t, 1, 0, 0, value=1.5) for t in (0, 1))),
        [("$.fixed_instances[0][1][0][0]", "is 1.5; instance_counts integer needs whole numbers")],
    ),
    "fewer than none given": (
        put("fixed_instances", 1, 1, 0, 0, value=-2.0),
        [("$.fixed_instances[1][1][0][0]", "is -2.0; expected")],
    ),
    "another number within a block": (
        put("fixed_instances", 1, 1, 0, 0, value=3.0),
        [("$.fixed_instances[1][1][0][0]", "differs from the first period of its block")],
    ),
    "a number for a part of a block": (
        put("fixed_instances", 1, 1, 0, 0, value=None),
        [("$.fixed_instances[1][1][0][0]", "differs from the first period of its block")],
    ),
    "a number without GPUs": (
        put("gpus", value=[[[24.0, 24.0], [0.0, 32.0]]] * 2),
        [
            ("$.initial_instances[1][1][0]", "is 3 for 8b in fast at sweden, where no profile"),
            ("$.fixed_instances[0][1][0][0]", "is 2 for 70b in fast at sweden, where no profile"),
        ],
    ),
    "numbers over other axes": (
        put("fixed_instances", value={"axes": ["origin"], "values": [1.0, 1.0]}),
        [("$.fixed_instances.axes", "['origin'] is not a choice of different axes")],
    ),
    "numbers of one period": (
        take("fixed_instances", 1),
        [("$.fixed_instances", "has 1 entries along period, expected 2 (see $.periods)")],
    ),
    # blocks
    "blocks too short": (
        put("hold_periods", value=[1]),
        [("$.hold_periods", "adds up to 1, expected 2 periods")],
    ),
    "blocks too long": (
        put("hold_periods", value=[2, 1]),
        [("$.hold_periods", "adds up to 3, expected 2 periods")],
    ),
    "no blocks": (
        put("hold_periods", value=[]),
        [("$.hold_periods", "adds up to 0, expected 2 periods")],
    ),
    "an empty block": (put("hold_periods", value=[0, 2]), [("$.hold_periods[0]", "is 0")]),
    "half a block": (
        put("hold_periods", value=[1.5, 0.5]),
        [
            ("$.hold_periods[0]", "is 1.5"),
            ("$.hold_periods[1]", "is 0.5"),
        ],
    ),
    # limits
    "a limit over other axes": (
        put("instance_limits", 0, "limit", value={"axes": ["gpu_type"], "values": [1.0, 2.0]}),
        [("$.instance_limits[0].limit", "has axes ['gpu_type'], expected some of ['period', ")],
    ),
    "a limit over unknown axes": (
        put("instance_limits", 0, "limit", "axes", value=["rack"]),
        [("$.instance_limits[0].limit.axes", "['rack'] is not a choice")],
    ),
    "a limit of three sites": (
        put("instance_limits", 0, "limit", "values", value=[1.0, 2.0, 3.0]),
        [("$.instance_limits[0].limit", "has 3 entries along site, expected 2 (see $.sites)")],
    ),
    "a limit below none": (
        put("instance_limits", 0, "limit", "values", 0, value=-1.0),
        [("$.instance_limits[0].limit.values[0]", "is -1.0; expected")],
    ),
    "a limit without a name": (
        take("instance_limits", 0, "name"),
        [("$.instance_limits[0].name", "is missing")],
    ),
    "a limit twice": (
        put(
            "instance_limits",
            value=[{"name": "few", "limit": {"axes": [], "values": 9.0}}] * 2,
        ),
        [("$.instance_limits", "names ['few'] more than once")],
    ),
    # unlimited GPUs
    "whole instances without end": (
        put("gpus", 0, 0, 0, value=None),
        [("$.gpus", "is unlimited somewhere; load_rule at_most, whole or held instances")],
    ),
    # requests
    "half a request": (
        put("demand_requests", 1, 0, 2, value=0.5),
        [("$.demand_requests[1][0][2]", "is 0.5; whole requests need whole demand")],
    ),
    "no time to wait": (
        put("classes", 1, "deferral_limit_s", value=0.0),
        [("$.classes[1].deferral_limit_s", "is 0")],
    ),
    "time to wait as text": (
        put("classes", 1, "deferral_limit_s", value="1h"),
        [("$.classes[1].deferral_limit_s", "is '1h'")],
    ),
    "deferral over sites": (
        put("objective", value=term("deferral_request_s", over_sites="max")),
        [("$.objective[0].terms[0].over_sites", "deferral_request_s belongs to no site")],
    ),
    "deferral budgeted by site": (
        put("budgets", value=[budget("deferral_request_s", axes=["site"], values=[1.0, 2.0])]),
        [("$.budgets[0].limit", "deferral_request_s belongs to no site")],
    ),
    # sets with faults of their own
    "sites that are none, among numbers of instances": (
        put("sites", value=5),
        [("$.sites", "is 5")],
    ),
    "models that are none, among numbers of instances": (
        put("models", 0, "name", value=""),
        [("$.models[0].name", "is ''")],
    ),
    "modes that are none, among numbers of instances": (
        put("modes", value=["fast", ""]),
        [("$.modes[1]", "is ''")],
    ),
}
"""Faults of the document that counts instances and requests."""


@pytest.mark.parametrize("case", COUNTED)
def test_one_fault_of_counts(case: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """So are those in numbers of instances, starts, blocks, limits, whole requests, deferral."""
    change, expected = COUNTED[case]
    document = counted()
    change(document)
    assert_problems(refused(written(tmp_path, document), capsys), expected)


UNLIMITED: dict[str, Document] = {
    "at_most": {"load_rule": "at_most"},
    "whole": {"instance_counts": "integer"},
    "held": {"hold_periods": [1, 1]},
    "fixed": {"fixed_instances": {"axes": [], "values": 1.0}},
    "limited": {
        "instance_limits": [{"name": "few", "limit": {"axes": [], "values": 9.0}}],
    },
    "starting": {
        "initial_instances": {"axes": [], "values": 0.0},
        "profiles": [*tiny()["profiles"][:3], {**tiny()["profiles"][3], "min_up_s": 60.0}],
    },
}


@pytest.mark.parametrize("case", UNLIMITED)
def test_counting_needs_limits(
    case: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Where numbers of instances are decisions, GPUs without end are refused; else they are not."""
    document = tiny(**UNLIMITED[case])
    assert go.load(written(tmp_path, document)).name == "tiny"
    document["gpus"][1][0][1] = None
    ((place, message),) = refused(written(tmp_path, document), capsys)
    assert place in {"$.gpus", "$.fixed_instances", "$.instance_limits"}
    assert "limit" in message


def test_half_a_request_may_go_unmet(tmp_path: Path) -> None:
    """A part of a request is no fault where it need not be served."""
    document = counted(objective=term("unmet_usd"))
    document["demand_requests"][1][0][2] = 0.5
    document["classes"][2]["unmet_price_usd"] = 0.01
    assert go.load(written(tmp_path, document)).unmet_allowed


@pytest.mark.parametrize("case", FAULTS)
def test_one_fault(case: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A fault is reported at its place, in words that say what was expected, and nothing else."""
    change, expected = FAULTS[case]
    document = tiny()
    change(document)
    assert_problems(refused(written(tmp_path, document), capsys), expected)


def test_the_document_behind_the_faults_is_good(tmp_path: Path) -> None:
    """Without a fault the document loads: what is refused above is refused for its fault."""
    assert go.load(written(tmp_path, tiny())).name == "tiny"
    assert go.load(written(tmp_path, counted())).name == "tiny"


ALL_AT_ONCE: Expected = [
    ("$.colour", "is not a field"),
    ("$.periods.start[1]", "begins before"),
    ("$.profiles[3].power_boundary", "'facility' mixed with 'server'"),
    ("$.classes[1].egress_bytes_per_request", "is '3000'"),
    ("$.carbon_signal.kind", "is 'guess'"),
    ("$.demand_requests[1][1][0]", "is -1.0"),
    ("$.carbon_g_per_kwh[0][0]", "is nan"),
    ("$.pue[1][1]", "is 0.5"),
    ("$.cycles_of_concentration[0]", "is 1.0"),
    ("$.wue_l_per_kwh[0][1]", "is -0.3"),
    ("$.ewif_l_per_kwh", "1 entries along site"),
    ("$.rtt_s[0][1]", "is True"),
    ("$.objective[0].terms[0].metric", "carbon_total_kg is reported"),
    ("$.budgets[0].metric", "'joy_kg' is not a metric"),
]
"""What must be said of a document with fourteen faults."""


def test_all_faults_at_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Fourteen faults give fourteen lines, so that one round of editing can mend them all."""
    document = tiny(colour="green", objective=term("carbon_total_kg"), budgets=[budget("joy_kg")])
    every(
        put("periods", "start", 1, value="2023-07-18T00:30Z"),
        put("profiles", 3, "power_boundary", value="facility"),
        put("classes", 1, "egress_bytes_per_request", value="3000"),
        put("carbon_signal", "kind", value="guess"),
        put("demand_requests", 1, 1, 0, value=-1.0),
        put("carbon_g_per_kwh", 0, 0, value=float("nan")),
        put("pue", 1, 1, value=0.5),
        put("cycles_of_concentration", 0, value=1.0),
        put("wue_l_per_kwh", 0, 1, value=-0.3),
        put("ewif_l_per_kwh", value=[[2.4], [2.2]]),
        put("rtt_s", 0, 1, value=True),
    )(document)
    assert_problems(refused(written(tmp_path, document), capsys), ALL_AT_ONCE)


def test_many_bad_elements_are_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Of twelve bad elements five are shown and the rest counted."""
    document = tiny(demand_requests=[[[-1.0] * 3] * 2] * 2)
    found = refused(written(tmp_path, document), capsys)
    assert [path for path, _ in found[:5]] == [
        f"$.demand_requests[{t}][{o}][{k}]"
        for t, o, k in list(product(range(2), range(2), range(3)))[:5]
    ]
    assert found[5:] == [("$.demand_requests", "and 7 more elements like these")]


@pytest.mark.parametrize("command", ["info", "solve", "export", "check", "certify", "reweight"])
def test_every_command_refuses_alike(
    command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whichever command reads it, a bad instance is the same line and status 2."""
    path = written(tmp_path, tiny(pue=[[1.1, 1.2], [0.9, 1.1]]))
    more = {
        "export": ["--out", str(tmp_path / "model.mps")],
        "check": [str(tmp_path / "none.json")],
        "certify": [str(tmp_path / "none.json")],
        "reweight": ["--term", "carbon_kg=1", "--out", str(tmp_path / "other.json")],
    }.get(command, [])
    assert main([command, str(path), *more]) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    (line,) = shown.err.splitlines()
    assert line.startswith(f"greenopt: {path}: $.pue[1][0]: is 0.9; ")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["bad.json"]


# Documents with any fault


def places(inner: Any, path: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    """Path of every value inside a document, containers and leaves."""
    for key in inner if isinstance(inner, dict) else range(len(inner)):
        yield (*path, key)
        if isinstance(inner[key], dict | list):
            yield from places(inner[key], (*path, key))


PLACES = sorted(places(tiny()), key=lambda path: (len(path), str(path)))
COUNTED_PLACES = sorted(places(counted()), key=lambda path: (len(path), str(path)))
OBJECTS = [
    (),
    *(
        p
        for p in COUNTED_PLACES
        if isinstance(__import__("functools").reduce(lambda d, k: d[k], p, counted()), dict)
    ),
]
DOCUMENTS = {False: tiny, True: counted}
ANY_PLACE = st.one_of(
    st.tuples(st.just(False), st.sampled_from(PLACES)),
    st.tuples(st.just(True), st.sampled_from(COUNTED_PLACES)),
)
REPLACEMENTS = st.sampled_from(
    [
        None, True, False, 0, 1, -1, 0.5, -2.5, 1e308, 1e-308, 10**30, 10**400, float("nan"),
        float("inf"), float("-inf"), "", "x", "1", "a\nb", "é", "2023-07-18T00:00Z", [], {}, [[]],
        [None], [1.0], [1.0, 2.0], [[1.0, 2.0], [3.0, 4.0]], [["a"], {}], {"a": 1},
        {"axes": [], "values": 2.0}, {"axes": ["site"], "values": [2.0, 3.0]},
        {"axes": ["site"], "values": [[2.0], [3.0]]}, {"axes": None, "values": 1.0},
        {"axes": [{}], "values": 1.0}, {"axes": "site", "values": [2.0, 3.0]},
    ]
)  # fmt: skip
SCHEMA = jsonschema.Draft202012Validator(go.PlacementInstance.json_schema())


def parse_or_refuse(document: Document) -> go.PlacementInstance | None:
    """Parse; a refusal must name the source and a JSON path in every line."""
    try:
        return go.PlacementInstance.parse(document, "a file")
    except go.InstanceError as error:
        refusal = error
    lines = str(refusal).splitlines()
    assert len(lines) == len(refusal.problems) == len(set(refusal.problems)), lines
    for line in lines:
        assert re.match(r"a file: \$.*: \S", line), line
        assert "value error" not in line, line
    return None


@given(ANY_PLACE, REPLACEMENTS)
@PROPERTY
def test_any_replacement(place: tuple[bool, tuple[str | int, ...]], value: Any) -> None:
    """Anything in place of anything is read or refused; what is read is what the schema allows."""
    counts, path = place
    document = DOCUMENTS[counts]()
    put(*path, value=copy.deepcopy(value))(document)
    instance = parse_or_refuse(document)
    if instance is not None:
        assert SCHEMA.is_valid(document)
        again = go.PlacementInstance.parse(json.loads(json.dumps(instance.document())))
        assert again == instance


def test_any_deletion() -> None:
    """Without any one value the document is read, or refused as it should be."""
    for whole, paths in ((tiny, PLACES), (counted, COUNTED_PLACES)):
        read = []
        for path in paths:
            document = whole()
            take(*path)(document)
            instance = parse_or_refuse(document)
            if instance is not None:
                read.append(path)
                assert SCHEMA.is_valid(document), path
                assert go.PlacementInstance.parse(instance.document()) == instance, path
        assert ("classes", 0, "ttft_limit_s") in read
        assert ("profiles", 0, "levels", 0, "itl_s", "p50") in read
        assert len(read) < len(paths) / 3
    assert ("fixed_instances",) in read
    assert ("classes", 1, "deferral_limit_s") in read
    assert ("profiles", 0, "startup") in read


@given(st.sampled_from(OBJECTS), st.text(max_size=4).map(lambda text: f"_{text}"))
@settings(PROPERTY, max_examples=250)
def test_any_unknown_field(path: tuple[str | int, ...], name: str) -> None:
    """A field that no object has is refused wherever it stands, whatever its name holds."""
    document = counted()
    put(*path, name, value=1.0)(document)
    assert parse_or_refuse(document) is None


@given(
    st.lists(st.tuples(st.sampled_from(COUNTED_PLACES), REPLACEMENTS), min_size=2, max_size=5),
    st.booleans(),
)
@settings(PROPERTY, max_examples=500)
def test_any_replacements_together(
    changes: list[tuple[tuple[str | int, ...], Any]], counts: bool
) -> None:
    """Several faults together are no different."""
    document: Any = DOCUMENTS[counts]()
    for path, value in changes:
        try:
            put(*path, value=copy.deepcopy(value))(document)
        except (KeyError, IndexError, TypeError, AttributeError):
            continue  # an earlier change took that place away
    parse_or_refuse(document)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("name",), "\ud800"),
        (("\ud800",), 1.0),
        (("classes", 0, "work_per_request", "\udfff"), 1.0),
        (("a\nb\rc\u2028d",), 1.0),
        (("classes", 0, "work_per_request", "\x1b[31m\n"), -1.0),
    ],
)
def test_strange_characters(
    path: tuple[str | int, ...], value: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Half a character, a line break or a terminal code in the file does not break the lines."""
    document = tiny()
    put(*path, value=value)(document)
    file = written(tmp_path, document)
    assert main(["solve", str(file)]) == 2
    shown = capsys.readouterr().err
    (line,) = shown.splitlines()
    assert line.startswith(f"greenopt: {file}: $")
    assert line.isprintable()


# JSON Schema


@pytest.mark.parametrize(
    "file",
    [
        "quick.json",
        *(f"eglb-{n}.json.gz" for n in ("equitable", "min-price", "price-carbon", "total")),
    ],
)
def test_committed_instance_fits_the_schema(file: str) -> None:
    """Files of the collection are valid by the JSON Schema."""
    data = (INSTANCES / file).read_bytes()
    SCHEMA.validate(json.loads(gzip.decompress(data) if file.endswith(".gz") else data))


@pytest.mark.parametrize("feature", [None, *FEATURES])
def test_saved_instance_fits_the_schema(feature: str | None, tmp_path: Path) -> None:
    """So is everything the library writes, and what was given to it."""
    document = random_document(np.random.default_rng(5), **({feature: True} if feature else {}))
    SCHEMA.validate(document)
    go.PlacementInstance.parse(document).save(tmp_path / "saved.json")
    SCHEMA.validate(json.loads((tmp_path / "saved.json").read_text()))


def test_schema_is_a_schema() -> None:
    """It is valid by its own draft, and says which."""
    schema = go.PlacementInstance.json_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert schema["properties"]["pue"]["x-unit"] == "1"
    assert schema["properties"]["pue"]["x-axes"] == ["period", "site"]


@pytest.mark.parametrize(
    "case",
    [
        "no problem", "unknown problem", "version 2", "version as text", "version true",
        "unknown field", "unknown field in a class", "unknown field in a level", "missing field",
        "missing provenance", "empty name", "no objective", "no sites", "flat demand",
        "text for a number", "text for a number alone", "text for a year", "true for a number",
        "true for a number alone", "true for a year", "one for true", "null in a series",
        "null for a series", "an object for a series", "text for a series", "negative demand",
        "PUE below 1", "one cycle", "negative WUE", "negative power", "no duration",
        "unknown statistic", "unknown axis", "axis of another array", "unknown boundary",
        "unknown aggregation", "no work",
    ],
)  # fmt: skip
def test_schema_refuses(case: str) -> None:
    """Faults that a schema can see are invalid by it too."""
    document = tiny()
    FAULTS[case][0](document)
    assert not SCHEMA.is_valid(document)


@pytest.mark.parametrize(
    "case",
    [
        "unknown load rule", "unknown instance counts", "unknown request counts",
        "a start before its beginning", "a start without energy", "a start that gives energy",
        "unknown field of a start", "negative up-time", "fewer than none at the beginning",
        "an unknown number at the beginning", "fewer than none given", "numbers over other axes",
        "an empty block", "half a block", "a limit over unknown axes", "a limit without a name",
        "no time to wait", "time to wait as text",
    ],
)  # fmt: skip
def test_schema_refuses_counts(case: str) -> None:
    """So are those that a schema can see in what is counted."""
    document = counted()
    assert SCHEMA.is_valid(document)
    COUNTED[case][0](document)
    assert not SCHEMA.is_valid(document)


# There and back


def array_fields() -> dict[str, Quantity]:
    """Array fields of an instance and what is declared of each."""
    found = {}
    for name, info in go.PlacementInstance.model_fields.items():
        for part in info.metadata:
            if isinstance(part, Quantity) and part.axes is not None:
                found[name] = part
    return found


ARRAYS = array_fields()


def test_array_fields_are_all_there() -> None:
    """The tests below run over every array of the format."""
    assert set(ARRAYS) == {
        "demand_requests", "gpus", "carbon_g_per_kwh", "price_usd_per_mwh", "pue",
        "wue_l_per_kwh", "cycles_of_concentration", "ewif_l_per_kwh", "rtt_s", "last_mile_s",
        "egress_usd_per_gb", "gpu_usd_per_hour", "demand_charge_usd_per_kw",
        "facility_power_cap_w", "reachable", "initial_instances", "fixed_instances",
    }  # fmt: skip


@pytest.mark.parametrize("suffix", [".json", ".json.gz"])
@pytest.mark.parametrize("feature", [None, *FEATURES])
def test_round_trip(feature: str | None, suffix: str, tmp_path: Path) -> None:
    """Reading what was saved gives an equal instance of equal digest; saving it, equal bytes."""
    for seed in range(3):
        rng = np.random.default_rng(seed)
        document = random_document(rng, **({feature: True} if feature else {}))
        instance = go.PlacementInstance.parse(document)
        first, second = tmp_path / f"{seed}a{suffix}", tmp_path / f"{seed}b{suffix}"
        instance.save(first)
        again = go.load(first)
        again.save(second)
        assert again == instance
        assert again.sha256 == instance.sha256
        assert hash(again) == hash(instance)
        assert first.read_bytes() == second.read_bytes()
        for name in ARRAYS:
            a, b = getattr(instance, name), getattr(again, name)
            assert (a is None and b is None) or np.array_equal(a, b)


def subset_values(quantity: Quantity, axes: list[str]) -> Any:
    """Distinct allowed values over some axes of the hand-made instance."""
    sizes = {"class": 3}
    shape = [sizes.get(axis, 2) for axis in axes]
    if quantity.boolean:
        return np.ones(shape, dtype=bool).tolist()
    return (10.0 + np.arange(np.prod(shape, dtype=int)).reshape(shape)).tolist()


SUBSETS = [
    (name, [axis for axis, keep in zip(quantity.axes or (), chosen, strict=True) if keep])
    for name, quantity in ARRAYS.items()
    for chosen in product([False, True], repeat=len(quantity.axes or ()))
]


@pytest.mark.parametrize(
    ("name", "axes"), SUBSETS, ids=lambda v: v if isinstance(v, str) else ",".join(v)
)
def test_subsets_stay_subsets(name: str, axes: list[str], tmp_path: Path) -> None:
    """An array given over any of its axes, in any order, is read, broadcast, and written so."""
    quantity, full = ARRAYS[name], ARRAYS[name].axes or ()
    base = counted() if name == "initial_instances" else tiny()
    for order in (axes, axes[::-1]):
        values = subset_values(quantity, axes)
        given = np.array(values) if order == axes else np.array(values).transpose()
        instance = go.PlacementInstance.parse(
            base | {name: {"axes": order, "values": given.tolist()}}
        )
        array = getattr(instance, name)
        assert array.ndim == len(full)
        picked = array[tuple(slice(None) if axis in axes else -1 for axis in full)]
        assert picked.tolist() == values
        path = tmp_path / "subset.json"
        instance.save(path)
        saved = json.loads(path.read_text())[name]
        assert saved == (values if axes == list(full) else {"axes": axes, "values": values})
        assert go.load(path) == instance


def test_null_is_no_limit(tmp_path: Path) -> None:
    """What is not limited, or not given, is null in the file and infinite in memory."""
    document = tiny(
        gpus=[[[24.0, None], [None, 32.0]]] * 2,
        facility_power_cap_w={"axes": ["site"], "values": [None, 1e6]},
        budgets=[budget("carbon_kg", axes=["site"], values=[None, 5.0])],
    )
    instance = go.PlacementInstance.parse(document)
    assert instance.gpus[1].tolist() == [[24.0, np.inf], [np.inf, 32.0]]
    assert instance.budgets[0].limit.values.tolist() == [np.inf, 5.0]
    instance.save(tmp_path / "a.json")
    saved = json.loads((tmp_path / "a.json").read_text())
    for name in ("gpus", "facility_power_cap_w", "budgets"):
        assert saved[name] == document[name]
    instance = go.PlacementInstance.parse(counted())
    assert np.isfinite(instance.fixed_instances).sum() == 2
    assert instance.instance_limits[0].limit.values.tolist() == [9.0, np.inf]
    instance.save(tmp_path / "b.json")
    saved = json.loads((tmp_path / "b.json").read_text())
    for name in ("fixed_instances", "instance_limits"):
        assert saved[name] == counted()[name]


def test_numpy_arrays_are_taken_as_they_are() -> None:
    """Arrays in memory mean the same as lists, and later changes to them change nothing."""
    demand = np.array(tiny()["demand_requests"])
    gpus = np.array(tiny()["gpus"], dtype=int)
    instance = go.PlacementInstance.parse(tiny(demand_requests=demand, gpus=gpus))
    assert instance == go.PlacementInstance.parse(tiny())
    demand[:] = -1.0
    gpus[:] = 0
    assert instance == go.PlacementInstance.parse(tiny())


# Values


def test_replace_gives_a_new_instance() -> None:
    """A replaced field is the only difference; replacing it back restores the instance."""
    instance = go.PlacementInstance.parse(tiny())
    other = instance.replace(name="other", pue={"axes": [], "values": 1.5})
    assert instance.name == "tiny"
    assert instance.pue[0].tolist() == [1.12, 1.2]
    assert (other.name, other.pue.tolist()) == ("other", [[1.5, 1.5], [1.5, 1.5]])
    assert other != instance
    assert other.sha256 != instance.sha256
    assert other.replace(name="tiny", pue=instance.pue) == instance
    assert instance.replace(demand_requests=instance.demand_requests * 2) != instance


@pytest.mark.parametrize(
    ("changes", "place"),
    [
        ({"pue": [[0.5, 1.2], [1.1, 1.2]]}, "$.pue[0][0]"),
        ({"demand_requests": np.full((2, 2, 3), -1.0)}, "$.demand_requests[0][0][0]"),
        ({"sites": ["oregon"]}, "$.gpus"),
        ({"colour": "green"}, "$.colour"),
        ({"budgets": [budget("joy_kg")]}, "$.budgets[0].metric"),
        ({"schema_version": 2}, "$.schema_version"),
    ],
)
def test_replace_validates_anew(changes: Document, place: str) -> None:
    """A replacement that does not fit is refused like a file."""
    with pytest.raises(go.InstanceError) as caught:
        go.PlacementInstance.parse(tiny()).replace(**changes)
    assert place in [problem.path for problem in caught.value.problems]


@pytest.mark.parametrize("name", ARRAYS)
def test_arrays_are_read_only(name: str) -> None:
    """No element of an instance's array can be assigned, nor the array made writable in place."""
    document = random_document(
        np.random.default_rng(3), demand_charge=True, power_cap=True, mask=True
    )
    document["gpu_usd_per_hour"] = {"axes": [], "values": 1.0}
    if name.endswith("_instances"):
        document = counted()
    array = getattr(go.PlacementInstance.parse(document), name)
    assert not array.flags.writeable
    with pytest.raises(ValueError, match="read-only"):
        array[(0,) * array.ndim] = 1


def test_free_arrays_are_read_only() -> None:
    """Limits of budgets and coefficients of custom metrics cannot be assigned to either."""
    instance = go.PlacementInstance.parse(
        random_document(np.random.default_rng(3), budgets=True, custom=True)
    )
    found = [b.limit for b in instance.budgets]
    found += [c.per_request for c in instance.custom_metrics if c.per_request is not None]
    found += [c.per_instance_s for c in instance.custom_metrics if c.per_instance_s is not None]
    assert len(found) >= 3
    assert [array.values.flags.writeable for array in found] == [False] * len(found)


def test_fields_are_frozen() -> None:
    """No field can be set or deleted, at the top or inside."""
    instance = go.PlacementInstance.parse(tiny())
    for part, name in (
        (instance, "name"),
        (instance, "pue"),
        (instance, "colour"),
        (instance.classes[0], "ttft_limit_s"),
        (instance.profiles[0].levels[0], "power_w"),
        (instance.periods, "start"),
        (instance.objective[0].terms[0], "weight"),
    ):
        with pytest.raises(pydantic.ValidationError):
            setattr(part, name, 1.0)
        with pytest.raises((pydantic.ValidationError, AttributeError)):
            delattr(part, name)


def test_mappings_are_frozen() -> None:
    """Work per request and latencies by statistic are part of the value: read-only as well."""
    instance = go.PlacementInstance.parse(tiny())
    work: Any = instance.classes[0].work_per_request
    latencies: Any = instance.profiles[0].levels[0].itl_s
    for mapping, key in ((work, "fast"), (latencies, "mean")):
        with pytest.raises((TypeError, AttributeError)):
            mapping[key] = 99.0
    assert instance == go.PlacementInstance.parse(tiny())


def test_equality_and_hash() -> None:
    """Instances are values: equal content, equal hash; any difference, unequal."""
    a, b = (go.PlacementInstance.parse(tiny()) for _ in range(2))
    other = go.PlacementInstance.parse(tiny(pue=[[1.12, 1.2], [1.1, 1.2000001]]))
    assert a is not b
    assert a == b
    assert hash(a) == hash(b)
    assert len({a, b, other}) == 2
    assert a != other
    assert a != tiny()
    assert a != "tiny"
    assert re.fullmatch(r"[0-9a-f]{64}", a.sha256)


def test_order_of_fields_does_not_matter() -> None:
    """A file with its fields in another order is the same instance."""
    shuffled = dict(sorted(tiny().items(), reverse=True))
    assert go.PlacementInstance.parse(shuffled) == go.PlacementInstance.parse(tiny())


def whole(inner: Any) -> Any:
    """The same document with 3 for every 3.0."""
    if isinstance(inner, dict):
        return {key: whole(value) for key, value in inner.items()}
    if isinstance(inner, list):
        return [whole(value) for value in inner]
    return int(inner) if isinstance(inner, float) and inner.is_integer() else inner


def test_whole_numbers_may_be_written_as_such() -> None:
    """3 and 3.0 are one number: a file from another tool gives an equal instance."""
    instance = go.PlacementInstance.parse(whole(tiny()))
    assert instance == go.PlacementInstance.parse(tiny())
    assert instance.sha256 == go.PlacementInstance.parse(tiny()).sha256


# From pandas


def labels_of(document: Document, axis: str) -> list[str]:
    """Labels of one axis in a document."""
    members = document[AXIS_FIELDS[axis]]
    if axis == "period":
        return list(members["start"])
    return [m if isinstance(m, str) else m["name"] for m in members]


def frame_of(document: Document, name: str) -> pd.DataFrame:
    """The long frame of one full array of a document, rows in reversed order."""
    axes = list(ARRAYS[name].axes or ())
    index = product(*(labels_of(document, axis) for axis in axes))
    values = np.array(document[name]).ravel()
    rows = [(*labels, value) for labels, value in zip(index, values, strict=True)]
    return pd.DataFrame(rows[::-1], columns=[*axes, name])


def split(document: Document) -> tuple[Document, dict[str, pd.DataFrame]]:
    """A document without its arrays, and the arrays as frames."""
    frames = {name: frame_of(document, name) for name in ARRAYS if document.get(name) is not None}
    return {k: v for k, v in document.items() if k not in frames}, frames


def test_frames_give_the_same_instance() -> None:
    """Every array from a long frame with shuffled rows and columns: equal to the direct way."""
    rest, frames = split(tiny())
    assert len(frames) == 12
    direct = go.PlacementInstance.parse(tiny())
    assert go.PlacementInstance.from_frames(rest, **frames) == direct
    turned = {name: frame[frame.columns[::-1]] for name, frame in frames.items()}
    assert go.PlacementInstance.from_frames(rest, **turned) == direct


def test_frames_take_whole_numbers_masks_and_fewer_axes() -> None:
    """Integer and boolean columns count, and a frame without an axis is broadcast over it."""
    rest = {k: v for k, v in tiny().items() if k not in {"gpus", "pue"}}
    instance = go.PlacementInstance.from_frames(
        rest,
        gpus=pd.DataFrame({"gpu_type": ["a100", "h100"], "gpus": [32, 24]}),
        pue=pd.DataFrame({"pue": [1.25]}),
        reachable=pd.DataFrame({"site": ["sweden", "oregon"], "reachable": [True, False]}),
    )
    expected = go.PlacementInstance.parse(
        tiny(
            gpus={"axes": ["gpu_type"], "values": [24.0, 32.0]},
            pue={"axes": [], "values": 1.25},
            reachable={"axes": ["site"], "values": [False, True]},
        )
    )
    for name in ("gpus", "pue", "reachable"):
        assert np.array_equal(getattr(instance, name), getattr(expected, name))
    assert instance == expected


def pue_frame(**columns: Any) -> pd.DataFrame:
    """A good frame of PUE by site, with some columns replaced."""
    return pd.DataFrame({"site": ["oregon", "sweden"], "pue": [1.1, 1.2]} | columns)


BAD_FRAMES: dict[str, tuple[pd.DataFrame, str, str]] = {
    "a combination missing": (
        pd.DataFrame({"site": ["oregon"], "pue": [1.1]}),
        "$.pue",
        "['sweden'] stands 0 times",
    ),
    "a combination of two missing": (
        frame_of(tiny(), "pue").iloc[:-1],
        "$.pue",
        "['2023-07-18T00:00Z', 'oregon'] stands 0 times",
    ),
    "a combination twice": (
        pd.DataFrame({"site": ["oregon", "sweden", "sweden"], "pue": [1.1, 1.2, 1.2]}),
        "$.pue",
        "['sweden'] stands 2 times",
    ),
    "an unknown label": (
        pue_frame(site=["oregon", "norway"]),
        "$.pue",
        "'norway' is not a known site",
    ),
    "a missing label": (pue_frame(site=["oregon", None]), "$.pue", "is not a known site"),
    "no value column": (pue_frame().drop(columns="pue"), "$.pue", "has no column 'pue'"),
    "a column of another name": (
        pue_frame(colour=["red", "green"]),
        "$.pue",
        "column 'colour' is not one of the axes",
    ),
    "an axis of another array": (
        pue_frame(origin=["us", "europe"]),
        "$.pue",
        "column 'origin' is not one of the axes",
    ),
    "a value out of range": (pue_frame(pue=[1.1, 0.2]), "$.pue[1]", "is 0.2"),
    "a value missing": (pue_frame(pue=[1.1, float("nan")]), "$.pue[1]", "is nan"),
    "text for a number": (pue_frame(pue=[1.1, "1.2"]), "$.pue[1]", "is '1.2'"),
    "no rows": (pue_frame().iloc[:0], "$.pue", "['oregon'] stands 0 times"),
    "two rows and no axis": (pd.DataFrame({"pue": [1.1, 1.2]}), "$.pue", "2"),
    "no rows and no axis": (pd.DataFrame({"pue": []}), "$.pue", "0"),
}


@pytest.mark.parametrize("case", BAD_FRAMES)
def test_bad_frame(case: str) -> None:
    """A frame that does not cover its axes exactly once is refused, with the first label."""
    frame, path, words = BAD_FRAMES[case]
    rest = {k: v for k, v in tiny().items() if k != "pue"}
    with pytest.raises(go.InstanceError) as caught:
        go.PlacementInstance.from_frames(rest, pue=frame)
    ((place, message),) = caught.value.problems
    assert place == path
    assert words in message


@pytest.mark.parametrize("name", ["name", "classes", "colour"])
def test_frame_for_what_is_no_array(name: str) -> None:
    """Only arrays come from frames."""
    with pytest.raises(go.InstanceError, match="is not an array field"):
        go.PlacementInstance.from_frames(tiny(), **{name: pue_frame()})


def test_frames_and_other_faults_are_reported() -> None:
    """What is wrong with the rest of the document is said as it is for a file."""
    rest, frames = split(tiny())
    with pytest.raises(go.InstanceError) as caught:
        go.PlacementInstance.from_frames({**rest, "ewif_set": "", "price_basis": "spot"}, **frames)
    assert [p.path for p in caught.value.problems] == ["$.ewif_set", "$.price_basis"]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("sites", 5),
        ("sites", None),
        ("sites", "oregon"),
        ("sites", [["oregon"], "sweden"]),
        ("sites", [{}, {}]),
        ("periods", {"start": 5}),
        ("periods", []),
        ("classes", [{}]),
        ("classes", 5),
    ],
)
def test_frames_over_a_set_with_a_fault(field: str, value: Any) -> None:
    """Where a set itself is wrong the frames over it cannot be read: refused, no exception."""
    rest, frames = split(tiny())
    with pytest.raises(go.InstanceError):
        go.PlacementInstance.from_frames({**rest, field: value}, **frames)
    rest.pop(field)
    with pytest.raises(go.InstanceError):
        go.PlacementInstance.from_frames(rest, **frames)


@pytest.mark.parametrize("frame", [[1.1, 1.2], {"site": ["oregon"], "pue": [1.1]}, None])
def test_frame_that_is_none(frame: Any) -> None:
    """What is no frame is refused with the name of the array."""
    rest = {k: v for k, v in tiny().items() if k != "pue"}
    with pytest.raises((go.InstanceError, TypeError), match="pue"):
        go.PlacementInstance.from_frames(rest, pue=frame)


def test_frame_with_one_column_twice() -> None:
    """Two columns of one name are ambiguous."""
    rest = {k: v for k, v in tiny().items() if k != "pue"}
    for columns in (["site", "site", "pue"], ["site", "pue", "pue"]):
        rows = [["oregon", "oregon", 1.1], ["sweden", "sweden", 1.2]]
        if columns[1] == "pue":
            rows = [["oregon", 1.1, 1.1], ["sweden", 1.2, 1.2]]
        with pytest.raises(go.InstanceError) as caught:
            go.PlacementInstance.from_frames(rest, pue=pd.DataFrame(rows, columns=columns))
        (line,) = str(caught.value).splitlines()
        assert line.startswith("frames: $.pue: ")


# Interrupted writing


class HalfWriter:
    """A file that takes half of what it is given and is then interrupted."""

    def __init__(self, descriptor: int, mode: str) -> None:
        self.file = open(descriptor, mode)

    def __enter__(self) -> HalfWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()

    def write(self, data: bytes) -> None:
        """Write half and stop."""
        self.file.write(data[: len(data) // 2])
        self.file.flush()
        raise KeyboardInterrupt


def interrupt(monkeypatch: pytest.MonkeyPatch, where: str) -> None:
    """Make the next file to be written stop half-way, or just before it takes its name."""

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, where, HalfWriter if where == "fdopen" else stop)


WHERE = pytest.mark.parametrize("where", ["fdopen", "chmod", "replace"])


@WHERE
def test_interrupted_save_leaves_the_old_file(
    where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C while saving over a file: the old content stands, and nothing lies beside it."""
    path = tmp_path / "a.json"
    instance = go.PlacementInstance.parse(tiny())
    instance.save(path)
    before = path.read_bytes()
    with monkeypatch.context() as patched:
        interrupt(patched, where)
        with pytest.raises(KeyboardInterrupt):
            instance.replace(name="other").save(path)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]
    assert go.load(path) == instance


@WHERE
@pytest.mark.parametrize("suffix", [".json", ".json.gz"])
def test_interrupted_save_leaves_nothing_new(
    where: str, suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C while saving a new instance or solution: no file at all."""
    instance = go.PlacementInstance.parse(tiny())
    solution = go.solve(instance)
    for thing in (instance, solution):
        with monkeypatch.context() as patched:
            interrupt(patched, where)
            with pytest.raises(KeyboardInterrupt):
                thing.save(tmp_path / f"new{suffix}")
        assert list(tmp_path.iterdir()) == []


@WHERE
def test_interrupted_command(
    where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Ctrl-C while the command line writes: status 130, one line, no file, in every command."""
    path = tmp_path / "tiny.json"
    go.PlacementInstance.parse(tiny()).save(path)
    out = tmp_path / "out"
    out.mkdir()
    commands = [
        ["solve", str(path), "--out", str(out)],
        ["export", str(path), "--out", str(out / "model.mps")],
        ["reweight", str(path), "--term", "carbon_kg=1", "--out", str(out / "other.json")],
    ]
    for command in commands:
        with monkeypatch.context() as patched:
            interrupt(patched, where)
            assert main(command) == 130
        shown = capsys.readouterr()
        assert shown.out == ""
        assert shown.err.splitlines() == ["greenopt: interrupted; files are whole or not there"]
        assert list(out.iterdir()) == []


def test_full_disk_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """An error of the operating system while writing is a line and status 2, and no file."""
    path = tmp_path / "tiny.json"
    go.PlacementInstance.parse(tiny()).save(path)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device", "other.json")

    out = tmp_path / "out"
    out.mkdir()
    with monkeypatch.context() as patched:
        patched.setattr(os, "replace", full)
        assert (
            main(["reweight", str(path), "--term", "carbon_kg=1", "--out", str(out / "o.json")])
            == 2
        )
    (line,) = capsys.readouterr().err.splitlines()
    assert "No space left on device" in line
    assert list(out.iterdir()) == []


def test_saved_file_is_readable_by_others(tmp_path: Path) -> None:
    """Saving leaves ordinary permissions, not those of a temporary file."""
    plain, path = tmp_path / "plain", tmp_path / "a.json"
    plain.write_text("")
    go.PlacementInstance.parse(tiny()).save(path)
    assert path.stat().st_mode == plain.stat().st_mode
