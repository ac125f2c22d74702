"""FREESH windows that only whole instances make infeasible, explained and verified otherwise."""

from __future__ import annotations

from itertools import combinations
from typing import Any

import numpy as np
import pytest
from conftest import shared

import greenopt as go
from greenopt.explaining import Explanation
from greenopt.problems.placement.builders import freesh_folder

WINDOWS = (27, 32, 34)
OTHER = "scip"


@pytest.fixture(scope="module", params=WINDOWS)
def case(request: pytest.FixtureRequest) -> tuple[go.PlacementInstance, Explanation]:
    """A window with its explanation."""
    folder = shared("data/peers/freesh")
    instance = freesh_folder(folder, windows=[request.param], name=f"freesh-{request.param}")
    return instance, go.explain(instance)


def feasible(instance: go.PlacementInstance) -> bool:
    """Whether another solver finds a plan, which passes its check."""
    solution = go.solve(instance, solver=OTHER, bound=False)
    assert solution.status in {go.Status.OPTIMAL, go.Status.FEASIBLE, go.Status.INFEASIBLE}
    return solution.status != go.Status.INFEASIBLE


def only(instance: go.PlacementInstance, conflict: list[Any]) -> go.PlacementInstance:
    """The instance with nothing required but the members of a conflict."""
    sets = instance.sets
    kinds = {member.kind for member in conflict}
    demand = np.zeros_like(instance.demand_requests)
    gpus = np.full_like(instance.gpus, 1000.0)
    for member in conflict:
        at = {axis: sets[axis].index(label) for axis, label in member.where.items()}
        if member.kind == "demand":
            place = at["period"], at["origin"], at["class"]
            demand[place] = instance.demand_requests[place]
        if member.kind == "gpus":
            place = at["period"], at["site"], at["gpu_type"]
            gpus[place] = instance.gpus[place]
    assert kinds <= {"demand", "gpus", "hold", "whole_instances"}
    free = {"ttft_limit_s": None, "tbt_limit_s": None}
    return instance.replace(
        demand_requests=demand,
        gpus=gpus,
        classes=[{**k.model_dump(), **free} for k in instance.classes],
        reachable=None,
        instance_limits=(),
        hold_periods=instance.hold_periods if "hold" in kinds else None,
        instance_counts="integer" if "whole_instances" in kinds else "continuous",
    )


def test_conflict_is_irreducible(case: tuple[go.PlacementInstance, Explanation]) -> None:
    """What is named conflicts by itself; any member dropped, SCIP finds a plan."""
    instance, found = case
    assert found.infeasible
    assert found.irreducible
    assert "whole_instances" in {member.kind for member in found.conflict}
    assert not feasible(only(instance, list(found.conflict)))
    for fewer in combinations(found.conflict, len(found.conflict) - 1):
        assert feasible(only(instance, list(fewer)))


def test_relaxation_is_feasible(case: tuple[go.PlacementInstance, Explanation]) -> None:
    """Numbers of instances that need not be whole give a plan: no linear certificate exists."""
    instance, found = case
    assert go.solve(instance).status == go.Status.INFEASIBLE
    assert go.solve(instance.replace(instance_counts="continuous")).status == go.Status.OPTIMAL
    assert found.proof["bound_source"] == "tree"
    assert any("without whole numbers of instances" in line for line in found.sentences)


def test_gpus_alone_by_enumeration(case: tuple[go.PlacementInstance, Explanation]) -> None:
    """One GPU fewer than is named leaves no plan, and what is named gives one."""
    instance, found = case
    sets = instance.sets
    alone = [r for r in found.relaxations if r.alone and r.requirement.startswith("gpus[")]
    assert alone
    for relaxation in alone:
        inside = relaxation.requirement.removeprefix("gpus[").removesuffix("]").split(", ")
        site, gpu_type = inside[-2:]
        s, h = sets["site"].index(site), sets["gpu_type"].index(gpu_type)
        assert relaxation.amount is not None
        for more, ok in ((relaxation.amount, True), (relaxation.amount - 1.0, False)):
            gpus = instance.gpus.copy()
            gpus[:, s, h] += more
            assert feasible(instance.replace(gpus=gpus)) == ok


def test_least_demand_by_enumeration(case: tuple[go.PlacementInstance, Explanation]) -> None:
    """The least relative demand given up is right: a request fewer given up leaves no plan."""
    instance, found = case
    least = [r for r in found.relaxations if not r.alone]
    assert len(least) == 1  # one class in one period
    assert least[0].amount is not None
    (member,) = [
        m for m in found.conflict if m.kind == "demand" and m.where["class"] in least[0].text[:9]
    ]
    sets = instance.sets
    t, k = (sets[axis].index(member.where[axis]) for axis in ("period", "class"))
    for fewer, ok in ((least[0].amount, True), (least[0].amount - 1.0, False)):
        demand = instance.demand_requests.copy()
        demand[t, 0, k] -= fewer
        assert feasible(instance.replace(demand_requests=demand)) == ok
