"""What the tests of solvers share."""

from __future__ import annotations

from dataclasses import replace
from importlib.util import find_spec
from typing import Any

import pytest

from greenopt.solvers import SOLVERS


@pytest.fixture(autouse=True)
def _pyscipopt_where_needed(request: pytest.FixtureRequest) -> None:
    """Tests of scip-minlp need the extra that has it (the test extra does)."""
    parameters = getattr(getattr(request.node, "callspec", None), "params", {})
    if parameters.get("name") == "scip-minlp" and find_spec("pyscipopt") is None:
        pytest.skip("PySCIPOpt is not installed")


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Register a misbehaving solver and return its name."""

    def register(steps: str) -> str:
        info = replace(
            SOLVERS["scip-minlp"],
            name="fake",
            program="fake",
            package="fake",
            module="solvers.fake_backend",
            algorithm=steps,
        )
        monkeypatch.setitem(SOLVERS, "fake", info)
        return "fake"

    return register
