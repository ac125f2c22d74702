"""A second solver asked for a bound that a search only claims."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT
from oracles.tiny import random_document

import greenopt as go
from greenopt.cli import main

WINDOW = ROOT / "instances" / "placement-freesh" / "freesh-12.json"


def with_bound(solution: go.Solution, bound: float) -> go.Solution:
    """The same plan with another claim."""
    last = replace(solution.stages[-1], bound=bound, bound_source="tree")
    return replace(solution, stages=(*solution.stages[:-1], last))


def test_claim_is_reproved_by_another_program() -> None:
    """SCIP finds the bound that HiGHS claims."""
    instance = go.load(WINDOW)
    certificate = go.certify(instance, go.solve(instance), reprove="scip")
    assert certificate.ok
    assert certificate.stages[-1].kind == "claimed (tree), also by scip"
    assert certificate.confirmed
    assert not certificate.optimal


def test_command_says_what_is_proved_and_what_is_claimed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A claim alone is not proof (status 1); confirmed by another program it counts (status 0)."""
    saved = str(tmp_path / "plan.json")
    go.solve(go.load(WINDOW)).save(saved)
    assert main(["certify", str(WINDOW), saved]) == 1
    assert "a search's bound is a claim" in capsys.readouterr().out
    assert main(["certify", str(WINDOW), saved, "--reprove", "scip"]) == 0
    assert "ok: optimal to the gap by two solvers' searches" in capsys.readouterr().out


def test_a_proved_bound_needs_no_second_opinion() -> None:
    """The other solver is not asked where weak duality proves the bound, and it says so."""
    instance = go.load(ROOT / "instances" / "placement" / "quick.json")
    certificate = go.certify(instance, go.solve(instance), reprove="scip")
    assert certificate.optimal
    assert "was not asked" in certificate.stages[-1].second_opinion


def test_false_claim_is_found_out() -> None:
    """A plan that is not best, claimed to be, is refuted by a better one."""
    instance = go.load(WINDOW)
    best = go.solve(instance)
    worse = instance.replace(
        objective=[{"terms": [{"metric": "carbon_operational_kg", "weight": -3.6e9}]}]
    )
    plan = go.solve(worse)
    value = -float(plan.objective or 0.0)
    assert value > 1.01 * float(best.objective or 0.0)
    stage = replace(best.stages[-1], objective=value, bound=value, bound_source="tree")
    claimed = replace(best, decision=plan.decision, stages=(stage,))
    assert go.certify(instance, claimed).ok  # without a second opinion it is only a claim
    certificate = go.certify(instance, claimed, reprove="scip")
    assert not certificate.ok
    assert certificate.stages[-1].kind == "wrong"


@pytest.mark.parametrize("seed", [0, 7, 21])
@pytest.mark.parametrize("gap", [1e-2, 1e-6])
def test_last_stage_is_judged_at_what_the_plan_reached(seed: int, gap: float) -> None:
    """Another solver's earlier stages may differ within the gap; that refutes nothing."""
    document = random_document(
        np.random.default_rng(seed), lexicographic=True, whole_instances=True, at_most=True
    )
    instance = go.PlacementInstance.parse(document)
    solution = go.solve(instance, gap=gap, time_limit=20)
    assert len(solution.stages) == len(instance.objective)
    assert solution.bound_source == "tree"
    certificate = go.certify(instance, solution, gap=gap, reprove="scip", time_limit=20)
    assert certificate.ok, certificate


def test_same_program_is_no_second_opinion() -> None:
    """HiGHS is not asked about HiGHS, nor SCIP about SCIP."""
    instance = go.load(WINDOW)
    solution = go.solve(instance)
    with pytest.raises(go.ModelError, match="one program"):
        go.certify(instance, solution, reprove="highs-ipm")
    with pytest.raises(go.SolverError, match="unknown solver"):
        go.certify(instance, solution, reprove="gurobi")
    by_scip = go.solve(instance, solver="scip")
    with pytest.raises(go.ModelError, match="one program"):
        go.certify(instance, by_scip, reprove="scip-minlp")
