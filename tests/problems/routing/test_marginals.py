"""Marginals of routing: one more query, one more unit of a limit; against solving again."""

from __future__ import annotations

import csv
import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from oracles.routing import (
    FEATURES,
    LLAMA,
    coefficient,
    limit,
    plain,
    random_instance,
    table,
    term,
)

import greenopt as go
from greenopt import ranging
from greenopt.errors import NoOptimumError
from greenopt.model import Model
from greenopt.problems.routing.marginals import METRICS, Growing, formulate
from greenopt.solvers import RawResult, solve_model

SMALL, MIDDLE, LARGE = LLAMA
ROOT = Path(__file__).parents[3]
JOULES = [{"terms": [term("energy_kwh", 1.0, scale=1 / 3.6e6)]}]


def instance(queries: list[tuple[float, float, float]], **changes: Any) -> go.RoutingInstance:
    """The three Llama-2 models, energy in joules to minimise."""
    return go.RoutingInstance.parse(plain(queries, **{"objective": JOULES, **changes}))


def one(m: go.Marginals, of: str, **where: str) -> dict[str, float | bool]:
    """What one more of something does."""
    return m[of].at(**where)


# -- by hand ---------------------------------------------------------------------------------------


def test_a_query_goes_to_the_cheapest_model() -> None:
    """Nothing limits the 7B, so that one more query costs what it takes there, however many."""
    inst = instance([(5.0, 100.0, 200.0), (3.0, 400.0, 100.0)])
    m = go.marginals(inst)
    own = one(m, "demand", query="q0")
    assert own["objective"] == pytest.approx(3.6e6 * coefficient(inst, "energy_kwh", 0, 0))
    assert own["energy_kwh"] == pytest.approx(coefficient(inst, "energy_kwh", 0, 0))
    seconds = [coefficient(inst, "runtime_s", q, 0) for q in (0, 1)]
    assert own["runtime_s"] == pytest.approx(seconds[0])
    mean = (5 * seconds[0] + 3 * seconds[1]) / 8
    assert own["runtime_mean_s"] == pytest.approx((seconds[0] - mean) / 8)
    assert own["accuracy_percent_tokens"] == pytest.approx(300 * 50.97)
    assert own["valid_up_to"] == np.inf
    assert not m.integers_fixed
    assert not m.integers_relaxed
    assert list(m.of) == ["demand"]  # there are no limits


def test_a_limit_on_numbers() -> None:
    """One more on the 7B takes a query from the 13B; full, one more query goes to the 13B."""
    inst = instance([(5.0, 100.0, 200.0)], limits=[limit("few", "queries", [SMALL], upper=3.0)])
    m = go.marginals(inst)
    joule = 3.6e6 * table(inst, "energy_kwh")[0]
    own = one(m, "limits", limit="few")
    assert own["objective"] == pytest.approx(joule[0] - joule[1])
    assert own["valid_up_to"] == pytest.approx(2.0)  # then all are there
    assert one(m, "demand", query="q0")["objective"] == pytest.approx(joule[1])
    assert one(m, "demand", query="q0")["valid_up_to"] == np.inf
    assert not m.integers_relaxed
    assert m["limits"].unit == "unit"
    assert m["demand"].unit == "query"


def test_both_sides_of_a_limit_move() -> None:
    """A model that has to answer one query has to answer two: one of them leaves the cheapest."""
    used = limit("used", "queries", [LARGE], lower=1.0, upper=1.0)
    inst = instance([(5.0, 100.0, 200.0)], limits=[used])
    joule = 3.6e6 * table(inst, "energy_kwh")[0]
    own = one(go.marginals(inst), "limits", limit="used")
    assert own["objective"] == pytest.approx(joule[2] - joule[0])
    assert own["valid_up_to"] == pytest.approx(4.0)


def test_a_capacity_is_relaxed_and_it_is_said() -> None:
    """A GPU hour more takes a fraction of a query from the 13B: the rates are the relaxation's."""
    gpus = limit("gpus", "gpu_h", [SMALL], upper=0.0125)  # two and a half queries
    inst = instance([(5.0, 100.0, 200.0)], limits=[gpus])
    m = go.marginals(inst)
    assert m.integers_relaxed
    assert not m.integers_fixed
    assert "whole numbers relaxed" in repr(m)
    joule, hours = 3.6e6 * table(inst, "energy_kwh")[0], coefficient(inst, "gpu_h", 0, 0)
    assert one(m, "limits", limit="gpus")["objective"] == pytest.approx(
        (joule[0] - joule[1]) / hours
    )
    fraction = 0.0125 / hours
    assert m.objective == pytest.approx(fraction * joule[0] + (5 - fraction) * joule[1])
    assert m.objective < (go.solve(inst).objective or 0.0)


def test_no_room_is_infinite() -> None:
    """Where all that is allowed is full no plan answers one more, and one more place is taken."""
    inst = instance([(5.0, 100.0, 200.0)], limits=[limit("all", "queries", upper=5.0)])
    m = go.marginals(inst)
    assert one(m, "demand", query="q0")["objective"] == np.inf
    assert one(m, "demand", query="q0")["valid_up_to"] == 0
    assert one(m, "limits", limit="all")["objective"] == pytest.approx(0.0, abs=1e-9)


def test_the_first_query_of_a_kind() -> None:
    """A kind of which there is none yet costs what its first query costs."""
    inst = instance([(5.0, 100.0, 200.0), (0.0, 400.0, 100.0)])
    own = one(go.marginals(inst), "demand", query="q1")
    assert own["objective"] == pytest.approx(3.6e6 * coefficient(inst, "energy_kwh", 1, 0))


def test_metrics_that_the_instance_has() -> None:
    """Carbon and cost only where they are known; anything additive may be asked for."""
    bare = instance([(5.0, 100.0, 200.0)])
    assert formulate(bare).metrics == (
        "energy_kwh", "runtime_s", "accuracy_percent_tokens", "runtime_mean_s")  # fmt: skip
    places = random_instance(np.random.default_rng(1), places=True, prices=True, accuracy=True)
    assert formulate(places).metrics == (*METRICS, "runtime_mean_s")
    m = go.marginals(bare, metrics=["gpu_h", "tokens"])
    assert one(m, "demand", query="q0")["tokens"] == pytest.approx(300.0)
    for wrong in ("carbon_kg", "accuracy_percent", "joy"):
        with pytest.raises(go.ModelError, match="not an additive metric"):
            go.marginals(bare, metrics=wrong)
    with pytest.raises(go.ModelError, match="no marginals of"):
        go.marginals(bare, of="limits")


def test_no_plan_is_refused() -> None:
    """An instance without a plan has no marginals."""
    inst = instance([(5.0, 100.0, 200.0)], limits=[limit("few", "queries", upper=4.0)])
    with pytest.raises(NoOptimumError, match="plain: "):
        go.marginals(inst)


def test_files_say_what_is_relaxed(tmp_path: Path) -> None:
    """JSON and table hold the directions, and that whole numbers were relaxed."""
    inst = instance(
        [(5.0, 100.0, 200.0)], limits=[limit("gpus", "gpu_h", [SMALL], upper=0.0125)]
    )  # fmt: skip
    m = go.marginals(inst)
    m.save(tmp_path / "m.json")
    document = json.loads((tmp_path / "m.json").read_text())
    assert document["integers_relaxed"] is True
    assert document["sets"] == {"query": ["q0"], "limit": ["gpus"]}
    m.save(tmp_path / "m.csv")
    with (tmp_path / "m.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert [(row["of"], row["query"], row["limit"]) for row in rows] == [
        ("demand", "q0", ""), ("limits", "", "gpus")]  # fmt: skip
    assert {row["integers_relaxed"] for row in rows} == {"True"}


def test_the_published_instance() -> None:
    """The 7B is forced to answer one query: a second one costs what it gives up elsewhere."""
    inst = go.load(ROOT / "instances/routing/alpaca-500.json")
    m = go.marginals(inst)
    assert not m.integers_relaxed
    assert m.objective == pytest.approx(go.solve(inst).objective, rel=1e-9)
    rate = m["limits"].rates["objective"]
    assert (rate >= -1e-12).all()  # to force more never gains
    used = [limit.model_dump() for limit in inst.limits]
    for number, record in enumerate(used):
        more = [{**other, "lower": other["lower"] + (other is record)} for other in used]
        again = go.solve(inst.replace(limits=more), bound=False).objective
        assert again is not None
        assert m["limits"].valid_up_to[number] >= 1
        assert again - m.objective == pytest.approx(rate[number], abs=1e-9)


# -- by solving again ------------------------------------------------------------------------------


def _stepped(inst: go.RoutingInstance, kind: str, place: int, step: float) -> Growing:
    """The model of the instance with more of one thing, fractions of a query too."""
    growing = formulate(inst)
    rows = growing.directions()[kind].rows[:, [place]].toarray().ravel() * step
    model = growing.for_marginals()
    growing.model = replace(
        model, row_lower=model.row_lower + rows, row_upper=model.row_upper + rows
    )
    return growing


def _replaced(inst: go.RoutingInstance, kind: str, place: int) -> go.RoutingInstance:
    """The instance with one more query of a kind, or unit of a limit."""
    if kind == "demand":
        count = np.array(inst.count)
        count[place] += 1
        return inst.replace(count=count)
    own = [one.model_dump() for one in inst.limits]
    for side in ("lower", "upper"):
        if own[place][side] is not None:
            own[place][side] += 1.0
    return inst.replace(limits=own)


def _last_stage(model: Model) -> tuple[RawResult, float]:
    """Solve all stages as linear programs, each kept within its tolerance."""
    for number, stage in enumerate(model.stages):
        raw = solve_model(model, number, dual_tolerance=1e-9)
        if raw.x is None:
            return raw, np.nan
        value = float(stage.c @ raw.x)
        model = model.with_row(f"s{number}", stage.c, value + stage.tolerance * max(abs(value), 1))
    return raw, value


def _compare(inst: go.RoutingInstance) -> tuple[int, int]:
    """All marginals of a tiny instance against models solved again; directions, degenerate ones."""
    growing = formulate(inst)
    vectors = ranging._vectors(growing, growing.metrics[:-1])
    try:
        optimum = ranging._Optimum(growing, None, 0, time.perf_counter() + 60)
    except go.ModelError:
        return 0, 0
    seen = degenerate = 0
    with optimum:
        for kind, directions in growing.directions().items():
            m = optimum.marginal(directions, vectors)
            degenerate += int(m.degenerate.sum())
            for place in range(m.valid_up_to.size):
                rates = {name: float(rate[place]) for name, rate in m.rates.items()}
                reach, seen = float(m.valid_up_to[place]), seen + 1
                assert not np.isnan(rates["objective"])
                steps = [1.0] if reach == 0 else [min(1.0, 0.98 * reach)]
                steps += [0.98 * reach] if 0 < reach < np.inf else []
                for step in steps:
                    after = _stepped(inst, kind, place, step)
                    raw, value = _last_stage(after.model)
                    where = f"{inst.sha256} {kind} {place} by {step} of {reach}"
                    assert (raw.x is None) == np.isinf(rates["objective"]), where
                    if raw.x is None:
                        continue
                    rises = rates["objective"] * step
                    slack = 1e-7 * max(1, abs(optimum.value)) + 1e-6 * abs(rises)
                    assert value - optimum.value == pytest.approx(rises, abs=slack), where
                    for name in set(vectors) - set(m.tied):
                        before = float(vectors[name] @ optimum.x)
                        slack = 1e-5 * max(1, abs(before), abs(rates[name] * step))
                        found = float(vectors[name] @ raw.x) - before
                        assert found == pytest.approx(rates[name] * step, abs=slack), (name, where)
    return seen, degenerate


@pytest.mark.parametrize("feature", FEATURES)
def test_every_feature_against_solving_again(feature: str) -> None:
    """Objective and metrics after a step within the range are what the rates say."""
    seen = sum(
        _compare(random_instance(np.random.default_rng(seed), **{feature: True}))[0]
        for seed in range(4)
    )
    assert seen


def test_mixed_features_against_solving_again() -> None:
    """The same with several features at once; some vertices among them are degenerate."""
    seen = degenerate = 0
    for seed in range(100, 140):
        rng = np.random.default_rng(seed)
        on = {name: bool(rng.random() < 0.4) for name in FEATURES}
        more = _compare(random_instance(rng, **on))
        seen, degenerate = seen + more[0], degenerate + more[1]
    assert seen > 50
    assert degenerate > 5


def test_whole_queries_against_solving_the_instance_again() -> None:
    """Where whole numbers come by themselves, a whole step gives what `solve` finds afterwards."""
    seen = 0
    for seed in range(40):
        rng = np.random.default_rng(seed)
        on = {name: bool(rng.random() < 0.5) for name in FEATURES}
        on |= {"limits": False, "floor": False, "stages": False, "query_limits": True}
        inst = random_instance(rng, **on)
        if formulate(inst).relaxed or go.solve(inst, explain=False).status != go.Status.OPTIMAL:
            continue
        m = go.marginals(inst)
        for kind, own in m.of.items():
            for place in range(own.valid_up_to.size):
                if kind == "demand" and inst.count[place] == 0:
                    continue  # its first query may change what normalises the objective
                again = go.solve(_replaced(inst, kind, place), bound=False, explain=False)
                rate = float(own.rates["objective"][place])
                assert (again.objective is None) == np.isinf(rate)
                if again.objective is None or own.valid_up_to[place] < 1:
                    continue
                seen += 1
                slack = 1e-7 * max(1.0, abs(m.objective))
                assert again.objective - m.objective == pytest.approx(rate, abs=slack)
    assert seen > 40
