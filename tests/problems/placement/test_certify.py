"""The certifier proves right bounds without a solver and rejects wrong ones."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles.tiny import FEATURES, random_document, tiny

import greenopt as go
from greenopt.labelled import LabelledArray
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


WHOLE = ("whole_instances", "whole_requests", "even")
LINEAR = tuple(f for f in FEATURES if f not in (*WHOLE, "unlimited"))
"""Every feature but those whose relaxation is not the problem itself."""


def switches(names: tuple[str, ...]) -> st.SearchStrategy[dict[str, bool]]:
    """Any choice of features."""
    return st.fixed_dictionaries({name: st.booleans() for name in names})


def disturbed(
    marginals: dict[str, LabelledArray], rng: np.random.Generator, spread: float
) -> dict[str, LabelledArray]:
    """Multipliers with noise of any sign on every row there can be, not only on those that bind."""
    found = {}
    for name, array in marginals.items():
        size = np.abs(array.values).max(initial=0.0) or 1.0
        noise = size * spread * rng.standard_normal(array.shape) * (rng.random(array.shape) < 0.5)
        found[name] = LabelledArray.from_dense(
            name, array.unit, array.labels, array.dense() + noise
        )
    return found


@given(st.integers(0, 10**6), st.floats(-3, 3), switches((*LINEAR, *WHOLE[:2])))
@settings(max_examples=60, deadline=None, derandomize=True)
def test_any_multipliers_of_counts_give_a_bound(
    seed: int, spread: float, features: dict[str, bool]
) -> None:
    """Nor do any multipliers of starts, blocks, limits and deferral prove more than the optimum."""
    rng = np.random.default_rng(seed)
    instance = go.PlacementInstance.parse(
        random_document(rng, **features | {"lexicographic": False})
    )
    solution = go.solve(instance, time_limit=2)  # any plan is worth at least the optimum
    objective = solution.objective
    if objective is None:
        return
    for factor in (0.0, 0.01, 1.0):
        marginals = disturbed(solution.marginals, rng, factor * spread)
        for dropped in (None, *marginals):
            rest = {name: array for name, array in marginals.items() if name != dropped}
            proved, size = lower_bound(instance, 0, rest, [])
            room = 1e-9 * max(1.0, abs(objective), size if np.isfinite(size) else 0.0)
            assert proved <= objective + room


@given(st.integers(0, 10**6), switches(LINEAR))
@settings(max_examples=60, deadline=None, derandomize=True)
def test_counts_are_proved_tightly(seed: int, features: dict[str, bool]) -> None:
    """With continuous counts the bound is the objective, stage by stage, whatever the features.

    Where waiting is a curve, an earlier stage leaves the gap of its pieces, which the row that
    keeps its value hands on.
    """
    rng = np.random.default_rng(seed)
    instance = go.PlacementInstance.parse(random_document(rng, **features))
    solution = go.solve(instance)
    if solution.objective is None:
        return
    certificate = go.certify(instance, solution)
    assert certificate.ok
    assert certificate.optimal or (instance.waiting_is_curved and len(solution.stages) > 1)


@pytest.mark.parametrize("seed", range(12))
def test_relaxation_of_whole_counts_is_proved(seed: int) -> None:
    """With whole counts the bound is that of the relaxation, or more where it rounds bounds."""
    from greenopt.problems.placement.formulation import formulate
    from greenopt.solvers import solve_model

    rng = np.random.default_rng(seed)
    features = {f: bool(rng.random() < 0.4) for f in LINEAR}
    features["queue"] &= not features["at_most"]  # else the relaxation has chords for curves
    document = random_document(
        rng, **features | {"whole_instances": True, "whole_requests": seed % 2 == 0}
    )
    instance = go.PlacementInstance.parse(document)
    solution = go.solve(instance, time_limit=2)
    if solution.objective is None:
        return
    model = formulate(instance).model
    relaxed = solve_model(model, 0, relax=True)
    assert relaxed.x is not None
    value = float(model.stages[0].c @ relaxed.x)
    proved, size = lower_bound(instance, 0, solution.stages[0].marginals, [])
    assert proved >= value - 1e-6 * max(1.0, abs(value))
    assert proved <= solution.stages[0].objective + 1e-9 * size
    assert go.certify(instance, solution).ok


ROWS = {
    "running": "startup",
    "start": "startup",
    "min_up": "min_up",
    "startup_wait": "startup",
    "startup_share": "startup",
    "instance_limit": "instance_limits",
    "load": "at_most",
}


@pytest.mark.parametrize("name", ROWS)
def test_tampered_multipliers_of_counts_prove_less(name: str) -> None:
    """Rows of each kind bind somewhere, and where they do, a changed multiplier proves less."""
    weakened = 0
    for seed in range(40):
        rng = np.random.default_rng(seed)
        instance = go.PlacementInstance.parse(random_document(rng, **{ROWS[name]: True}))
        solution = go.solve(instance)
        if solution.objective is None:
            continue
        worse = {
            own: replace(array, values=array.values * 1.5) if own.split(".")[0] == name else array
            for own, array in solution.marginals.items()
        }
        claimed, _ = lower_bound(instance, 0, solution.marginals, [])
        proved, _ = lower_bound(instance, 0, worse, [])
        assert proved <= claimed + 1e-9 * max(1.0, abs(claimed))
        weakened += proved < claimed - 1e-9 * max(1.0, abs(claimed))
    assert weakened >= 3


def test_multipliers_of_other_blocks_are_refused() -> None:
    """Multipliers by block must be of the instance's blocks."""
    document = random_document(np.random.default_rng(1), startup=True, blocks=True)
    instance = go.PlacementInstance.parse(document)
    solution = go.solve(instance)
    start = solution.marginals["start"]
    labels = {**start.labels, "block": ("elsewhere",)}
    wrong = LabelledArray.from_dense("start", start.unit, labels, start.dense()[:1])
    with pytest.raises(go.SolutionError, match=r"marginals\.start"):
        lower_bound(instance, 0, {"start": wrong}, [])


def test_deferral_needs_no_multipliers_of_demand() -> None:
    """The cheapest period that a request may wait for prices it, whatever the file says."""
    proved = 0
    for seed in range(20):
        rng = np.random.default_rng(seed)
        instance = go.PlacementInstance.parse(random_document(rng, deferral=True))
        solution = go.solve(instance)
        if solution.objective is None:
            continue
        rest = {n: a for n, a in solution.marginals.items() if n not in {"demand", "deadline"}}
        bound, _ = lower_bound(instance, 0, rest, [])
        assert bound == pytest.approx(solution.objective, rel=1e-6)
        proved += 1
    assert proved > 10


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
