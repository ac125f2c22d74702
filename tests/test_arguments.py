"""Numbers that callers give: refused by name, with the value and what was expected."""

from __future__ import annotations

from typing import Any

import pytest
from conftest import ROOT

import greenopt as go

QUICK = ROOT / "instances" / "placement" / "quick.json"

BAD = [
    ({"time_limit": float("nan")}, "time_limit is nan"),
    ({"time_limit": 0}, "time_limit is 0"),
    ({"time_limit": "3"}, "time_limit is '3'"),
    ({"time_limit": True}, "time_limit is True"),
    ({"gap": float("nan")}, "gap is nan"),
    ({"gap": -1e-9}, "gap is -1e-09"),
    ({"gap": float("inf")}, "gap is inf"),
    ({"gap": "x"}, "gap is 'x'"),
    ({"gap": None}, "gap is None"),
    ({"seed": -1}, "seed is -1"),
    ({"seed": 1.5}, "seed is 1.5"),
    ({"seed": 2**40}, "seed is 1099511627776"),
    ({"threads": 0}, "threads is 0"),
    ({"threads": "2"}, "threads is '2'"),
    ({"threads": 10**6}, "threads is 1000000"),
    ({"start": "x"}, "start is a str"),
    ({"solver": "gurobi"}, "unknown solver 'gurobi'"),
    ({"isolation": "cloud"}, "unknown isolation 'cloud'"),
]


@pytest.mark.parametrize(("given", "words"), BAD, ids=lambda value: str(value)[:40])
def test_bad_argument_of_solve(given: dict[str, Any], words: str) -> None:
    """No solver sees a number that makes no sense."""
    with pytest.raises(go.GreenoptError, match=words.replace("(", r"\(")) as caught:
        go.solve(go.load(QUICK), **given)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("given", "words"), [b for b in BAD if next(iter(b[0])) not in ("time_limit", "start")],
    ids=lambda value: str(value)[:40],
)  # fmt: skip
def test_bad_argument_of_prepare(given: dict[str, Any], words: str) -> None:
    """The same before anything is prepared."""
    with pytest.raises(go.GreenoptError, match=words), go.prepare(go.load(QUICK), **given) as ready:
        ready.solve()


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (("running", "flow"), "array 'running' is not over"),
        (("flow", "instances"), "array 'flow' is not over"),
        (("foo", "flow"), "none of its arrays"),
    ],
)
def test_malformed_start_is_refused_in_the_report(names: tuple[str, str], words: str) -> None:
    """Arrays under a wrong name are no start, and no crash."""
    instance = go.load(QUICK).replace(hold_periods=[12, 12])
    plan = go.solve(instance)
    again = go.solve(instance, start={names[0]: plan.array(names[1])})
    assert again.status == "optimal"
    assert not again.report["start"]["accepted"]
    assert words in again.report["start"]["reason"]


def test_infinite_time_limit_is_none() -> None:
    """Infinity is no limit."""
    assert go.solve(go.load(QUICK), time_limit=float("inf")).status == "optimal"
