"""The committed instances: provenance, licences, best known values."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from conftest import ROOT

import greenopt as go

FILES = sorted(
    path
    for path in (ROOT / "instances").glob("*/*.json*")
    if path.name != "best_known.json" and path.parent.name != "placement-world"
)
"""Instances; those of the size of the world have tests of their own."""
LICENCES = (ROOT / "instances" / "LICENSE.md").read_text()


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_sources_and_licences_are_listed(path: Path) -> None:
    """Every instance names its sources, and the licence file lists each source and licence."""
    provenance = go.load(path).provenance
    assert provenance.sources
    assert provenance.data_licence in LICENCES
    for source in provenance.sources:
        assert source.licence in LICENCES, source.licence
        assert source.name in LICENCES, source.name


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_best_known_value_is_reached_and_proved(path: Path) -> None:
    """The solver reaches the recorded optimum, and proves it unless numbers are whole."""
    known = json.loads((path.parent / "best_known.json").read_text())
    instance = go.load(path)
    best = known[path.name.removesuffix(".gz").removesuffix(".json")]
    assert best["sha256"] == instance.sha256
    # Where whole numbers were searched for up to a gap, another plan within it is as good.
    asked = re.search(r"gap (\S+) asked for", best["proof"])
    gap = float(asked[1]) if asked else 1e-6
    solution = go.solve(instance, gap=gap)
    assert solution.status == best["status"]
    if solution.status == go.Status.INFEASIBLE:
        return
    near = gap if asked else 1e-8
    assert solution.objective == pytest.approx(best["objective"], rel=near)
    assert go.check(instance, solution).ok
    certificate = go.certify(instance, solution, gap=gap)
    assert certificate.optimal or (certificate.ok and solution.bound_source == "tree")
