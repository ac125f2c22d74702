"""Regressions: cases by which a reviewer once broke a solve, a check or a certificate."""

from __future__ import annotations

import copy
import json
import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import quick_path
from oracles.tiny import CORE_FEATURES, random_document, tiny

import greenopt as go
from greenopt.cli import main
from greenopt.problems.placement.certify import lower_bound
from greenopt.results import StageResult


def scarce(price_usd: float, gpus: float, *stages: dict[str, float]) -> go.PlacementInstance:
    """The quick instance with fewer GPUs and unmet demand at a price."""
    quick = go.load(quick_path())
    classes = [k.model_dump() | {"unmet_price_usd": price_usd} for k in quick.classes]
    objective = [
        {"terms": [{"metric": name, "weight": weight} for name, weight in stage.items()]}
        for stage in stages
    ]
    return quick.replace(classes=classes, gpus=quick.gpus * gpus, objective=objective)


@pytest.mark.parametrize("price_usd", [1e-2, 1.0, 1e4, 1e6])
@pytest.mark.parametrize("gpus", [1.0, 0.5, 0.3])
def test_penalties_of_every_size_are_solved_and_proved(price_usd: float, gpus: float) -> None:
    """A price of unmet demand far above all other costs neither stops the solver nor blurs it."""
    instance = scarce(price_usd, gpus, {"cost_usd": 1.0, "unmet_usd": 1.0})
    solution = go.solve(instance)
    assert solution.status == go.Status.OPTIMAL
    assert go.check(instance, solution).ok
    assert go.certify(instance, solution).optimal


@pytest.mark.parametrize("price_usd", [1.0, 1e4, 1e6])
def test_later_stages_keep_the_earlier_ones(price_usd: float) -> None:
    """Stage one stays within its tolerance beside a penalty a million times its size."""
    instance = scarce(price_usd, 1.0, {"cost_usd": 1.0, "unmet_usd": 1.0}, {"carbon_kg": 1.0})
    first = go.solve(instance.replace(objective=[instance.objective[0].model_dump()]))
    solution = go.solve(instance)
    assert solution.status == go.Status.OPTIMAL
    assert go.check(instance, solution).ok
    assert solution.metrics["cost_usd"] <= first.objective * (1 + 3e-6)
    assert solution.metrics["unmet_requests"] == pytest.approx(0.0, abs=1.0)


def test_infeasibility_beside_a_mean_ttft_budget_is_measured_right() -> None:
    """A slack TTFT budget changes nothing in the explanation of a carbon budget that is too low."""
    quick = go.load(quick_path())
    low = {"name": "low", "metric": "carbon_kg", "limit": {"axes": [], "values": 1000.0}}
    slack = {"name": "slack", "metric": "ttft_mean_s", "limit": {"axes": [], "values": 10.0}}
    alone = go.solve(quick.replace(budgets=[low]))
    both = go.solve(quick.replace(budgets=[low, slack]))
    assert alone.status == both.status == go.Status.INFEASIBLE
    assert alone.report["explanation"] == both.report["explanation"]


def test_certifier_refuses_what_overflows() -> None:
    """Multipliers of 1e300 prove nothing, least of all a bound above the optimum."""
    instance = go.PlacementInstance.parse(tiny())
    solution = go.solve(instance)
    huge = {
        name: replace(array, values=array.values + np.resize([1e300, -1e300], len(array.values)))
        for name, array in solution.marginals.items()
    }
    proved, _ = lower_bound(instance, 0, huge, [])
    assert proved <= solution.objective


def test_earlier_stage_claimed_below_its_bound_is_wrong() -> None:
    """An earlier objective that nobody can reach makes later bounds worthless; it is found out."""
    stages: list[dict[str, Any]] = [
        {"terms": [{"metric": "carbon_kg", "weight": 1.0}], "tolerance": 0.0},
        {"terms": [{"metric": "cost_usd", "weight": 1.0}]},
    ]
    instance = go.PlacementInstance.parse(tiny(objective=stages))
    solution = go.solve(instance)
    first = solution.stages[0]
    low = StageResult(
        first.objective * (1 - 1e-6), first.bound * (1 - 1e-6), "own-dual", first.marginals
    )
    certificate = go.certify(instance, replace(solution, stages=(low, solution.stages[1])))
    assert not certificate.ok


def test_optimal_with_a_wide_gap_fails_on_the_command_line(tmp_path: Path) -> None:
    """A file cannot call itself optimal by asking for a wide gap."""
    instance = go.PlacementInstance.parse(tiny())
    instance.save(tmp_path / "i.json")
    document = go.solve(instance).document()
    document = json.loads(json.dumps(document))
    document["report"]["gap_asked"] = 10.0
    stage = document["stages"][0]
    stage["bound"] *= 0.5
    stage["marginals"] = {}
    for name in ("bound", "gap", "gap_abs"):
        document.pop(name)
    (tmp_path / "s.json").write_text(json.dumps(document))
    files = [str(tmp_path / "i.json"), str(tmp_path / "s.json")]
    assert main(["certify", *files]) == 1


def test_plan_of_nan_is_no_plan() -> None:
    """Numbers that are none are violations, not agreement."""
    instance = go.PlacementInstance.parse(tiny())
    solution = go.solve(instance)
    empty = {
        name: replace(array, values=np.full(len(array.values), np.nan))
        for name, array in solution.decision.items()
    }
    assert not go.check(instance, replace(solution, decision=empty)).ok


@pytest.mark.parametrize("limit", [-1.0, 0.0, 1e-9])
def test_mean_ttft_budget_of_nothing_is_infeasible(limit: float) -> None:
    """A TTFT that nobody can have is infeasible, and the checker rejects a plan that ignores it."""
    plain = go.PlacementInstance.parse(tiny())
    budget = {"name": "now", "metric": "ttft_mean_s", "limit": {"axes": [], "values": limit}}
    instance = plain.replace(budgets=[budget])
    assert go.solve(instance).status == go.Status.INFEASIBLE
    plan = replace(go.solve(plain), instance_sha256=instance.sha256)
    assert any("budget now" in line for line in go.check(instance, plan).lines())


def test_tiny_demand_must_still_be_served() -> None:
    """Tolerances are relative: a millionth of a request is demand where it is all there is."""
    plain = go.PlacementInstance.parse(tiny())
    instance = plain.replace(demand_requests=plain.demand_requests * 1e-11)
    solution = go.solve(instance)
    assert solution.status == go.Status.OPTIMAL
    nothing = {
        name: replace(array, codes=array.codes[:, :0], values=array.values[:0])
        for name, array in solution.decision.items()
    }
    assert not go.check(instance, replace(solution, decision=nothing)).ok


def test_no_gpus_with_a_maximum_over_sites() -> None:
    """Nothing to run on: infeasible with demand, optimal at zero without."""
    objective = [{"terms": [{"metric": "carbon_kg", "weight": 1.0, "over_sites": "max"}]}]
    bare = go.PlacementInstance.parse(tiny(objective=objective, gpus={"axes": [], "values": 0.0}))
    assert go.solve(bare).status == go.Status.INFEASIBLE
    idle = bare.replace(demand_requests=bare.demand_requests * 0)
    solution = go.solve(idle)
    assert (solution.status, solution.objective) == (go.Status.OPTIMAL, 0.0)
    assert go.certify(idle, solution).optimal


def test_copies_keep_their_identity() -> None:
    """Copied, pickled and changed instances have the digest of their own content."""
    instance = go.PlacementInstance.parse(tiny())
    assert copy.deepcopy(instance) == copy.copy(instance) == instance
    again = pickle.loads(pickle.dumps(instance))
    assert again == instance
    assert not again.pue.flags.writeable
    assert instance.model_copy(update={"name": "other"}).sha256 != instance.sha256


def test_names_with_dollar_signs_are_drawn(tmp_path: Path) -> None:
    """Names are text in plots, not mathematics."""
    instance = go.PlacementInstance.parse(tiny(sites=["$x^$", "a_b"]))
    go.plot(instance, go.solve(instance), tmp_path / "p.png")
    assert (tmp_path / "p.png").stat().st_size > 1000


def test_two_files_of_one_name_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One solution must not be written over another in silence."""
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        go.PlacementInstance.parse(tiny()).save(tmp_path / folder / "x.json")
    files = [str(tmp_path / folder / "x.json") for folder in ("a", "b")]
    assert main(["solve", *files, "--out", str(tmp_path / "out")]) == 2
    assert "would both write x.solution.json" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("where", "field"),
    [
        ("classes", "ttft_statistic"),
        ("classes", "tbt_statistic"),
        ("gpu_types", "usable_memory_fraction"),
    ],
)
def test_a_quantity_is_not_given_its_meaning_in_silence(where: str, field: str) -> None:
    """A limit without its statistic, and a memory without its usable share, are refused."""
    document = copy.deepcopy(tiny())
    del document[where][0][field]
    with pytest.raises(go.InstanceError) as caught:
        go.PlacementInstance.parse(document)
    (problem,) = caught.value.problems
    assert problem.path == f"$.{where}[0].{field}"
    assert problem.message.startswith("is missing; ")


@pytest.mark.parametrize("seed", [4120, 4286])
def test_stray_requests_break_no_mean(seed: int) -> None:
    """A site serving 1e-14 requests is within any mean-TTFT budget, up to rounding."""
    rng = np.random.default_rng(seed)
    switches = {name: bool(rng.integers(2)) for name in CORE_FEATURES}
    switches["unlimited"] &= not switches["even"]
    boundary = ["gpu", "server", "facility"][rng.integers(3)]
    instance = go.PlacementInstance.parse(random_document(rng, boundary=boundary, **switches))
    solution = go.solve(instance, gap=1e-7)
    assert solution.status == go.Status.OPTIMAL, solution.report
    assert go.check(instance, solution).ok
