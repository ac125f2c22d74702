"""What the tests of solvers share."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from greenopt.solvers import SOLVERS


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
