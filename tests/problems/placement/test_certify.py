"""The certifier proves right bounds without a solver and rejects wrong ones."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles.tiny import random_document, tiny

import greenopt as go
from greenopt.problems.placement.certify import lower_bound


@pytest.fixture(scope="module")
def solved() -> tuple[go.PlacementInstance, go.Solution]:
    """The hand-made instance, solved."""
    instance = go.PlacementInstance.parse(tiny())
    return instance, go.solve(instance)


def test_optimality_is_proved(solved: tuple[go.PlacementInstance, go.Solution]) -> None:
    """The multipliers of an exact solution prove its objective to rounding."""
    certificate = go.certify(*solved)
    assert certificate.ok
    assert certificate.optimal
    assert certificate.stages[0].proved_gap is not None
    assert certificate.stages[0].proved_gap < 1e-9


def test_no_solver_is_loaded() -> None:
    """Certifying a saved solution imports neither HiGHS nor Pyomo nor scipy's optimisers."""
    code = (
        "import sys, greenopt as go\n"
        "inst = go.load(sys.argv[1]); sol = go.load_solution(sys.argv[2])\n"
        "assert go.certify(inst, sol).optimal and go.check(inst, sol).ok\n"
        "bad = {'highspy', 'pyomo', 'scipy.optimize'} & set(sys.modules)\n"
        "assert not bad, bad\n"
    )
    from pathlib import Path
    from tempfile import TemporaryDirectory

    with TemporaryDirectory() as folder:
        instance = go.PlacementInstance.parse(tiny())
        files = [str(Path(folder) / name) for name in ("i.json", "s.json")]
        instance.save(files[0])
        go.solve(instance).save(files[1])
        subprocess.run([sys.executable, "-c", code, *files], check=True)


@pytest.mark.parametrize("factor", [1 + 1e-7, 1.001, 2.0])
def test_wrong_bound_is_rejected(
    factor: float, solved: tuple[go.PlacementInstance, go.Solution]
) -> None:
    """A bound claimed above what the multipliers prove is called wrong."""
    instance, solution = solved
    stage = replace(solution.stages[0], bound=solution.stages[0].bound * factor)
    certificate = go.certify(instance, replace(solution, stages=(stage,)))
    assert not certificate.ok
    assert certificate.stages[0].kind == "wrong"


@pytest.mark.parametrize("name", ["load", "gpus"])
def test_tampered_multipliers_prove_less(
    name: str, solved: tuple[go.PlacementInstance, go.Solution]
) -> None:
    """Multipliers that were changed still give a bound, but a weaker one, so the claim falls."""
    instance, solution = solved
    stage = solution.stages[0]
    array = stage.marginals[name]
    assert array.values.any()
    worse = {**stage.marginals, name: replace(array, values=array.values * 1.5)}
    certificate = go.certify(instance, replace(solution, stages=(replace(stage, marginals=worse),)))
    assert not certificate.ok
    assert certificate.stages[0].proved_bound is not None
    assert certificate.stages[0].proved_bound < stage.bound


@given(st.integers(0, 10**6), st.floats(-3, 3), st.booleans(), st.booleans(), st.booleans())
@settings(max_examples=60, deadline=None, derandomize=True)
def test_any_multipliers_give_a_bound(
    seed: int, spread: float, budgets: bool, charge: bool, maxima: bool
) -> None:
    """Weak duality: whatever the multipliers, what is proved never exceeds the optimum."""
    rng = np.random.default_rng(seed)
    document = random_document(
        rng, budgets=budgets, demand_charge=charge, max_sites=maxima, power_cap=True, unmet=True
    )
    instance = go.PlacementInstance.parse(document)
    solution = go.solve(instance)
    if solution.objective is None:
        return
    noisy = {
        name: replace(
            array, values=array.values * (1 + spread * rng.standard_normal(len(array.values)))
        )
        for name, array in solution.marginals.items()
    }
    for marginals in (noisy, {}):
        proved, _ = lower_bound(instance, 0, marginals, [])
        assert proved <= solution.objective + 1e-9 * max(1.0, abs(solution.objective))


def test_lexicographic_stages_are_proved_one_by_one() -> None:
    """Each stage has a certificate of its own, under the rows that keep the earlier ones."""
    stages = [
        {"terms": [{"metric": "carbon_kg", "weight": 1.0}], "tolerance": 0.01},
        {"terms": [{"metric": "cost_usd", "weight": 1.0}], "tolerance": 0.01},
        {"terms": [{"metric": "ttft_mean_s", "weight": 1.0}]},
    ]
    instance = go.PlacementInstance.parse(tiny(objective=stages))
    solution = go.solve(instance)
    certificate = go.certify(instance, solution)
    assert certificate.optimal
    assert len(certificate.stages) == 3
    carbon_only = go.solve(instance.replace(objective=stages[:1]))
    assert solution.metrics["carbon_kg"] <= 1.01 * carbon_only.metrics["carbon_kg"] * (1 + 1e-9)


def test_tree_bound_is_labelled_a_claim() -> None:
    """With binaries the relaxation is proved, and a higher tree bound is only claimed."""
    kinds = set()
    for seed in range(12):
        rng = np.random.default_rng(seed)
        instance = go.PlacementInstance.parse(random_document(rng, even=True))
        solution = go.solve(instance)
        if solution.objective is None:
            continue
        certificate = go.certify(instance, solution)
        assert certificate.ok
        stage = certificate.stages[0]
        assert stage.proved_bound is not None
        assert stage.proved_bound <= solution.objective * (1 + 1e-9) + 1e-9
        kinds.add(stage.kind)
        assert (stage.kind == "claimed (tree)") == (
            stage.claimed_bound > stage.proved_bound + 1e-6 * max(1.0, abs(solution.objective))
        )
    assert "claimed (tree)" in kinds
