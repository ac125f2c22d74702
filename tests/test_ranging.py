"""Marginals: by hand, by solving again, and where they end."""

from __future__ import annotations

import copy
import csv
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import quick_path
from oracles import tiny as oracle
from oracles.tiny import FEATURES, Document, random_document
from scipy import sparse

import greenopt as go
from greenopt import ranging
from greenopt.cli import main
from greenopt.errors import NoOptimumError
from greenopt.model import Model
from greenopt.problems.placement.marginals import Growing, formulate
from greenopt.solvers import RawResult, solve_model

HOUR = "2023-07-18T00:00Z"
CHAT = {"origin": "us", "class": "chat"}


def small(
    demand: list[float],
    gpus: list[list[float]],
    *,
    levels: tuple[tuple[float, float], ...] = ((1.0, 300.0),),
    carbon: tuple[float, ...] = (1000.0,),
    price: tuple[float, ...] = (100.0,),
    rtt: tuple[float, ...] = (0.1,),
    metric: str = "carbon_kg",
    profile: Document | None = None,
    chat: Document | None = None,
    carbon_by_period: list[list[float]] | None = None,
    **fields: Any,
) -> go.PlacementInstance:
    """One class, one GPU an instance, hours, no overheads; a request takes 0.3 Wh/3.6 at level 0.

    Parameters
    ----------
    demand : list of float
        Requests by period.
    gpus : list of list of float
        By period and site.
    levels : tuple of (requests per s, W)
        Of the one profile.
    carbon, price, rtt : tuple of float
        By site: g/kWh, USD/MWh, s.
    metric : str
        What is minimised.
    profile, chat : dict, optional
        Further fields of the profile and the class.
    carbon_by_period : list of list of float, optional
        In place of `carbon`, g/kWh.
    **fields
        Further fields of the document.
    """
    document = copy.deepcopy(oracle.tiny())
    n, sites = len(demand), [f"site{i}" for i in range(len(rtt))]
    by_site = (n, len(sites))
    own = oracle._profile("8b", "fast", "h100", 1.0, [
        oracle._level(rate, watts, 0.01, [0.0, 0.0, 0.0]) for rate, watts in levels
    ])  # fmt: skip
    document["classes"] = [
        {
            "name": "chat",
            "model": "8b",
            "prompt_tokens": {"values": [32.0], "probabilities": [1.0]},
            "output_tokens": {"values": [60.0], "probabilities": [1.0]},
            "work_per_request": {"fast": 1.0},
            "egress_bytes_per_request": 0.0,
            **(chat or {}),
        }
    ]
    document |= {
        "periods": {
            "start": [f"2023-07-18T{t:02}:00Z" for t in range(n)],
            "duration_s": [3600.0] * n,
        },
        "origins": ["us"],
        "sites": sites,
        "modes": ["fast"],
        "models": [{"name": "8b", "weight_bytes": None, "kv_bytes_per_token": None}],
        "gpu_types": [oracle._gpu_type("h100", 170.0)],
        "profiles": [{**own, **(profile or {})}],
        "demand_requests": [[[d]] for d in demand],
        "gpus": [[[g] for g in row] for row in gpus],
        "carbon_g_per_kwh": carbon_by_period or np.broadcast_to(carbon, by_site).tolist(),
        "price_usd_per_mwh": np.broadcast_to(price, by_site).tolist(),
        "pue": np.ones(by_site).tolist(),
        "wue_l_per_kwh": np.zeros(by_site).tolist(),
        "cycles_of_concentration": [5.0] * len(sites),
        "ewif_l_per_kwh": np.zeros(by_site).tolist(),
        "rtt_s": [list(rtt)],
        "last_mile_s": [0.0],
        "egress_usd_per_gb": [[0.0] * len(sites)],
        "gpu_usd_per_hour": [[0.0]] * len(sites),
        "objective": [{"terms": [{"metric": metric, "weight": 1.0}]}],
        **fields,
    }
    return go.PlacementInstance.parse(document)


def request(m: go.Marginals, period: int = 0) -> dict[str, float | bool]:
    """What one more request of a period does."""
    return m["demand"].at(period=f"2023-07-18T{period:02}:00Z", **CHAT)


def gpu(m: go.Marginals, site: str = "site0", period: int = 0) -> dict[str, float | bool]:
    """What one more GPU of a period does."""
    when = f"2023-07-18T{period:02}:00Z"
    return m["gpus"].at(period=when, site=site, gpu_type="h100")


STEEP = ((1.0, 300.0), (2.0, 800.0))
"""Two levels: a request takes 0.3 kWh/3600 at the lower and 0.8 kWh/7200 at the higher."""


# -- by hand -----------------------------------------------------------------------------------


def test_two_levels_at_one_site() -> None:
    """Both GPUs are in use: a request moves 1/3600 instances up a level, a GPU moves one down."""
    m = go.marginals(small([10800.0], [[2.0]], levels=STEEP))
    one = request(m)
    assert m.objective == pytest.approx(1.1)
    assert not m.integers_fixed
    assert one["objective"] == pytest.approx(0.5 / 3600)
    assert one["carbon_kg"] == pytest.approx(0.5 / 3600)
    assert one["cost_usd"] == pytest.approx(0.05 / 3600)
    assert one["ttft_request_s"] == pytest.approx(0.1)
    assert one["ttft_mean_s"] == pytest.approx(0.0, abs=1e-15)
    assert one["valid_up_to"] == pytest.approx(3600)
    assert gpu(m)["carbon_kg"] == pytest.approx(-0.2)
    assert gpu(m)["valid_up_to"] == pytest.approx(1.0)
    assert not one["degenerate"]
    assert not gpu(m)["degenerate"]


def test_a_gpu_moves_load_between_sites() -> None:
    """A GPU at the clean, distant site takes 3600 requests from the dirty one nearby."""
    m = go.marginals(small([7200.0], [[1.0, 10.0]], carbon=(100.0, 1000.0), rtt=(0.2, 0.05)))
    one = gpu(m)
    assert one["carbon_kg"] == pytest.approx(-0.3 * 0.9)
    assert one["ttft_request_s"] == pytest.approx(3600 * 0.15)
    assert one["ttft_mean_s"] == pytest.approx(3600 * 0.15 / 7200)
    assert one["valid_up_to"] == pytest.approx(1.0)
    assert gpu(m, "site1")["carbon_kg"] == 0
    assert request(m)["carbon_kg"] == pytest.approx(0.3 / 3600)
    # Mean of 0.125 s; the next request has 0.05 s.
    assert request(m)["ttft_mean_s"] == pytest.approx((0.05 - 0.125) / 7200)
    always = m["gpus_always"].at(site="site0", gpu_type="h100")
    assert always == one


def test_a_budget_that_binds() -> None:
    """More of the clean, dear site than the request needs: the budget has to be kept."""
    inst = small(
        [7200.0],
        [[20.0, 10.0]],
        carbon=(100.0, 1000.0),
        price=(200.0, 50.0),
        rtt=(0.1, 0.1),
        metric="cost_usd",
        budgets=[
            {"name": "cap", "metric": "carbon_kg", "limit": {"axes": [], "values": 0.33}}
        ],
    )  # fmt: skip
    one, kwh = request(go.marginals(inst)), 0.3 / 3600
    assert one["cost_usd"] == pytest.approx(kwh * (0.2 * 10 / 9 - 0.05 / 9))
    assert one["carbon_kg"] == pytest.approx(0.0, abs=1e-15)
    assert one["valid_up_to"] == pytest.approx(9 * 3600)  # then nothing is left at the dirty site


def test_deferral() -> None:
    """One more request of the dirty hour waits for the clean one, as long as that has room."""
    inst = small(
        [5400.0, 0.0],
        [[2.0, 2.0]] * 2,
        carbon_by_period=[[1000.0, 1000.0], [100.0, 1000.0]],
        rtt=(0.1, 0.1),
        chat={"deferral_limit_s": 3600.0},
    )
    metrics = ("carbon_kg", "deferral_request_s")
    m = go.marginals(inst, metrics=metrics)
    assert request(m)["carbon_kg"] == pytest.approx(0.1 * 0.3 / 3600)
    assert request(m)["deferral_request_s"] == pytest.approx(3600.0)
    assert request(m)["valid_up_to"] == pytest.approx(1800.0)
    full = inst.replace(gpus=[[[2.0], [2.0]], [[1.0], [0.0]]])
    one = gpu(go.marginals(full, metrics=metrics), period=1)
    assert one["carbon_kg"] == pytest.approx(-0.3 * 0.9)
    assert one["valid_up_to"] == pytest.approx(0.5)


def test_a_start() -> None:
    """A tenth of the hour goes into starting: 3240 requests need one start, and a tenth waits."""
    inst = small(
        [3240.0],
        [[2.0]],
        profile={"startup": {"time_s": 360.0, "energy_kwh": 0.1}},
        initial_instances=[[[0.0]]],
    )
    one = request(go.marginals(inst, metrics=["carbon_kg", "starts", "ttft_startup_request_s"]))
    assert one["starts"] == pytest.approx(1 / 3240)
    assert one["carbon_kg"] == pytest.approx(0.3 / 3600 + 0.1 / 3240)
    assert one["ttft_startup_request_s"] == pytest.approx(36.0)
    assert one["valid_up_to"] == pytest.approx(3240.0)


def test_stages() -> None:
    """Carbon first; a tenth more, of at least 1 kg, may be spent on the dirty, cheap site."""
    inst = small(
        [10800.0],
        [[20.0, 20.0]],
        carbon=(1000.0, 2000.0),
        price=(200.0, 50.0),
        rtt=(0.1, 0.1),
        objective=[
            {"terms": [{"metric": "carbon_kg", "weight": 1.0}], "tolerance": 0.1},
            {"terms": [{"metric": "cost_usd", "weight": 1.0}]},
        ],
    )
    m = go.marginals(inst)
    # 0.9 kg are needed, 1 kg may be: 0.1 kWh at the second site, as long as 0.1 kg is the tenth.
    assert m.objective == pytest.approx(0.8 * 0.2 + 0.1 * 0.05)
    assert request(m)["cost_usd"] == pytest.approx(0.2 * 0.3 / 3600)
    assert request(m)["carbon_kg"] == pytest.approx(0.3 / 3600)
    assert request(m)["valid_up_to"] == pytest.approx(1200)


def test_whole_numbers_are_held_and_it_is_said() -> None:
    """With two whole instances a request moves them up a level, and a GPU nobody may start."""
    inst = small([10800.0], [[2.0]], levels=STEEP, instance_counts="integer")
    m = go.marginals(inst)
    assert m.integers_fixed
    assert request(m)["carbon_kg"] == pytest.approx(0.5 / 3600)
    assert gpu(m)["carbon_kg"] == 0
    again = go.marginals(inst, go.solve(inst))
    assert again.objective == m.objective


def test_numbers_of_a_worse_plan_are_held_too() -> None:
    """A plan need not be optimal: two instances are held although three would do better."""
    inst = small([10800.0], [[4.0]], levels=STEEP, instance_counts="integer")
    worse = inst.replace(gpus=[[[2.0]]])
    plan = go.solve(worse)
    claimed = go.Solution(**{**plan.__dict__, "instance_sha256": inst.sha256})
    m = go.marginals(inst, claimed)
    assert m.objective == pytest.approx(1.1)
    assert go.marginals(inst).objective == pytest.approx(0.9)


# -- where rates end ---------------------------------------------------------------------------


def test_a_degenerate_vertex() -> None:
    """The demand fills both GPUs at the lower level exactly: up costs more, a GPU is of no use."""
    m = go.marginals(small([7200.0], [[2.0]], levels=STEEP))
    assert request(m)["carbon_kg"] == pytest.approx(0.5 / 3600)
    assert request(m)["valid_up_to"] == pytest.approx(7200)
    assert gpu(m)["carbon_kg"] == pytest.approx(0.0, abs=1e-12)
    assert request(m)["degenerate"] != gpu(m)["degenerate"]  # one basis cannot serve both


def test_a_degenerate_vertex_of_a_later_stage() -> None:
    """Stages before the last one are looked beyond too."""
    stages = [{"terms": [{"metric": name, "weight": 1.0}]} for name in ("carbon_kg", "cost_usd")]
    m = go.marginals(small([7200.0], [[2.0]], levels=STEEP, objective=stages))
    assert request(m)["carbon_kg"] == pytest.approx(0.5 / 3600, rel=1e-5)
    assert request(m)["valid_up_to"] > 0
    assert gpu(m)["carbon_kg"] == pytest.approx(0.0, abs=1e-5)


def test_no_demand_at_all() -> None:
    """The first request is served at the lower level; a mean has nothing to average."""
    m = go.marginals(small([0.0], [[2.0]], levels=STEEP))
    assert request(m)["carbon_kg"] == pytest.approx(0.3 / 3600)
    assert request(m)["valid_up_to"] == pytest.approx(7200)
    assert np.isnan(request(m)["ttft_mean_s"])


def test_no_room_is_infinite() -> None:
    """All GPUs are full at the higher level: no plan serves more."""
    m = go.marginals(small([14400.0], [[2.0]], levels=STEEP))
    one = request(m)
    assert one["carbon_kg"] == one["objective"] == np.inf
    assert one["valid_up_to"] == 0
    assert gpu(m)["carbon_kg"] == pytest.approx(-0.2)


def test_a_site_without_gpus() -> None:
    """The first GPU of a site has a worth like any other."""
    m = go.marginals(small([3600.0], [[0.0, 1.0]], carbon=(100.0, 1000.0), rtt=(0.1, 0.1)))
    assert gpu(m)["carbon_kg"] == pytest.approx(-0.27)
    assert gpu(m)["valid_up_to"] == pytest.approx(1.0)


def test_unlimited_gpus_are_worth_nothing() -> None:
    """Where there is no limit, one more changes nothing, however many."""
    inst = small([3600.0], [[1.0]])
    m = go.marginals(inst.replace(gpus=[[[None]]]))
    assert gpu(m) == {**dict.fromkeys(["objective", *Growing.metrics], 0.0),
                      "valid_up_to": np.inf, "degenerate": False}  # fmt: skip
    assert request(m)["carbon_kg"] == pytest.approx(0.3 / 3600)
    assert request(m)["valid_up_to"] == np.inf


def test_no_time_left_is_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is not resolved in time is NaN, the rest is there."""
    monkeypatch.setattr(ranging._Stage, "_basis_for", lambda *_: None)
    m = go.marginals(small([7200.0], [[2.0]], levels=STEEP))
    unknown, known = sorted((request(m), gpu(m)), key=lambda one: not one["degenerate"])
    assert np.isnan([unknown["objective"], unknown["carbon_kg"], unknown["valid_up_to"]]).all()
    assert np.isfinite(known["carbon_kg"])


def test_ties_are_named() -> None:
    """Two sites are equally clean, not equally dear: what a request costs is not determined."""
    tied = {"carbon": (500.0, 500.0), "price": (200.0, 50.0)}
    m = go.marginals(small([3600.0], [[4.0, 4.0]], rtt=(0.1, 0.1), **tied))
    assert m["demand"].tied == ("cost_usd",)
    alone = go.marginals(small([3600.0], [[4.0, 4.0]], rtt=(0.1, 0.1), price=(200.0, 50.0)),
                         metrics="carbon_kg")  # fmt: skip
    assert alone["demand"].tied == ()


# -- by solving again --------------------------------------------------------------------------


def _stepped(inst: go.PlacementInstance, kind: str, place: Any, step: float) -> Any:
    """The instance with more of one thing."""
    if kind == "demand":
        demand = np.array(inst.demand_requests)
        demand[tuple(place)] += step
        return inst.replace(demand_requests=demand)
    gpus = np.array(inst.gpus)
    gpus[tuple(place) if kind == "gpus" else (slice(None), *place)] += step
    return inst.replace(gpus=np.where(np.isinf(gpus), None, gpus).tolist())


def _last_stage(model: Model) -> tuple[RawResult, float]:
    """Solve all stages of a continuous model, each kept within its tolerance."""
    for number, stage in enumerate(model.stages):
        raw = solve_model(model, number, dual_tolerance=1e-9)
        if raw.x is None:
            break
        value = float(stage.c @ raw.x)
        model = model.with_row(f"s{number}", stage.c, value + stage.tolerance * max(abs(value), 1))
    return raw, value if raw.x is not None else np.nan


def _steps(inst: go.PlacementInstance, kind: str, reach: float) -> list[float]:
    """A small step and one of nearly the whole range; a mean in the objective bends on the way."""
    if reach == 0:
        return [1.0]
    if inst.request_counts == "integer" and kind == "demand":
        return [1.0] if reach >= 1 else []
    bends = any(t.metric == "ttft_mean_s" for stage in inst.objective for t in stage.terms)
    small = min(1.0, reach)
    return [small] if bends or np.isinf(reach) else [small, 0.98 * reach]


def _compare(inst: go.PlacementInstance, rng: np.random.Generator) -> int:
    """Marginals of some directions against models solved again; how many were degenerate."""
    formulation = formulate(inst)
    whole = None
    if formulation.model.is_integer:
        plan = go.solve(inst, bound=False, time_limit=10)
        if not plan.decision:
            return 0
        whole = formulation.encode(plan.decision)
    metrics = ("carbon_kg", "cost_usd", "water_l", "ttft_request_s")
    vectors = ranging._vectors(formulation, metrics)
    try:
        optimum = ranging._Optimum(formulation, whole, 0, time.perf_counter() + 60)
    except go.ModelError:
        assert go.solve(inst).status != "optimal"
        return 0
    degenerate = 0
    with optimum:
        for kind, directions in formulation.directions().items():
            count = directions.codes.shape[1]
            if not count:
                continue
            m = optimum.marginal(directions, vectors)
            for j in rng.choice(count, min(count, 2), replace=False):
                place = tuple(directions.codes[:, j])
                degenerate += bool(m.degenerate[place])
                assert not np.isnan(m.rates["objective"][place])
                for step in _steps(inst, kind, float(m.valid_up_to[place])):
                    other = formulate(_stepped(inst, kind, place, step))
                    raw, value = _last_stage(other.for_marginals(whole))
                    where = f"{kind} {place} by {step} of {m.valid_up_to[place]}"
                    assert (raw.x is None) == np.isinf(m.rates["objective"][place]), where
                    if raw.x is None:
                        continue
                    rises = m.rates["objective"][place] * step
                    slack = 1e-7 * max(1, abs(optimum.value)) + 1e-6 * abs(rises)
                    assert value - optimum.value == pytest.approx(rises, abs=slack), where
                    for name in set(metrics) - set(m.tied):
                        before = float(formulation.metric_vector(name) @ optimum.x)
                        after = float(other.metric_vector(name) @ raw.x)
                        expected = m.rates[name][place] * step
                        slack = 1e-5 * max(1, abs(before), abs(expected))
                        assert after - before == pytest.approx(expected, abs=slack), (name, where)
    return degenerate


@pytest.mark.parametrize("feature", FEATURES)
@pytest.mark.parametrize("seed", range(2))
def test_every_feature_against_solving_again(feature: str, seed: int) -> None:
    """Objective and metrics after a step within the range are what the rates say."""
    document = random_document(np.random.default_rng(seed), **{feature: True})
    _compare(go.PlacementInstance.parse(document), np.random.default_rng(seed))


def test_mixed_features_against_solving_again() -> None:
    """The same with several features at once; some vertices among them are degenerate."""
    degenerate = 0
    for seed in range(100, 120):
        rng = np.random.default_rng(seed)
        features = {name: True for name in FEATURES if rng.random() < 0.25}
        document = random_document(np.random.default_rng(seed), **features)
        degenerate += _compare(go.PlacementInstance.parse(document), rng)
    assert degenerate > 5


def test_a_degenerate_random_instance() -> None:
    """Where zero demand left rounding on rows that hold with equality, a cone had no bound."""
    document = random_document(np.random.default_rng(45), deferral=True)
    for own in go.marginals(go.PlacementInstance.parse(document)).of.values():
        assert not np.isnan(own.rates["objective"]).any()


def test_the_objective_is_that_of_solve() -> None:
    """The basis belongs to the optimum that `solve` proves."""
    inst = go.load(quick_path())
    m = go.marginals(inst, of="gpus_always", metrics="carbon_kg")
    assert m.objective == pytest.approx(go.solve(inst).objective, rel=1e-9)
    assert list(m.of) == ["gpus_always"]
    assert list(m["gpus_always"].rates) == ["objective", "carbon_kg"]


def test_multipliers_and_marginals_agree_where_no_mean_is_diluted() -> None:
    """A nondegenerate direction's rate of the objective is its row's multiplier."""
    inst = small([10800.0], [[2.0]], levels=STEEP)
    price = go.solve(inst).marginals
    m = go.marginals(inst)
    assert price["demand"].values[0] == pytest.approx(request(m)["objective"])
    assert price["gpus"].values[0] == pytest.approx(gpu(m)["objective"])


# -- the blocks of a basis ---------------------------------------------------------------------


def test_blocks_take_right_hand_sides_together(monkeypatch: pytest.MonkeyPatch) -> None:
    """Packed right-hand sides give what each gives alone, also those over several blocks."""
    monkeypatch.setattr(ranging, "CHUNK", 3)
    rng = np.random.default_rng(1)
    blocks = [np.eye(n) * n + rng.random((n, n)) for n in (1, 4, 2, 7, 3)]
    matrix = sparse.block_diag(blocks, format="csc")
    order = rng.permutation(matrix.shape[0])
    matrix = sparse.csc_array(matrix)[order][:, rng.permutation(matrix.shape[0])]
    right = sparse.csc_array(rng.random((matrix.shape[0], 40)) * (rng.random((17, 40)) < 0.08))
    expected = np.linalg.solve(matrix.toarray(), right.toarray())
    seen = np.zeros(40, dtype=int)
    for some, found in ranging._Inverse(matrix).solve_sparse(right):
        seen[some] += 1
        np.testing.assert_allclose(found.toarray(), expected[:, some], atol=1e-12)
    assert (seen == 1).all()


# -- inputs ------------------------------------------------------------------------------------


def test_wrong_inputs_are_refused() -> None:
    """One line each, before anything is solved."""
    inst = small([10800.0], [[2.0]], levels=STEEP)
    for wrong, text in (
        ({"of": "gpu"}, "no marginals of"),
        ({"metrics": ["joy"]}, "'joy' is not an additive metric"),
        ({"metrics": "carbon_total_kg"}, "not an additive metric"),
        ({"time_limit": 0.0}, "time_limit is"),
        ({"time_limit": float("nan")}, "time_limit is"),
    ):
        with pytest.raises(go.ModelError, match=text):
            go.marginals(inst, **wrong)  # type: ignore[arg-type]
    with pytest.raises(go.ModelError, match="expected an instance, got a str"):
        go.marginals("quick.json")  # type: ignore[arg-type]
    assert go.marginals(inst, of=[]).of == {}


def test_another_solution_is_refused() -> None:
    """Also for an instance without whole numbers, where the plan is not needed."""
    inst, other = small([10800.0], [[2.0]], levels=STEEP), small([1.0], [[2.0]])
    with pytest.raises(go.SolutionError, match="of another instance"):
        go.marginals(inst, go.solve(other))


def test_no_optimum_is_refused() -> None:
    """An instance without a plan has no marginals, whole numbers or not."""
    for counts in ("continuous", "integer"):
        inst = small([99999.0], [[2.0]], levels=STEEP, instance_counts=counts)
        with pytest.raises(NoOptimumError, match="tiny: "):
            go.marginals(inst)


def test_no_time_at_all_is_refused() -> None:
    """A millionth of a second solves nothing."""
    with pytest.raises(NoOptimumError, match="tiny: no marginals"):
        go.marginals(small([10800.0], [[2.0]], levels=STEEP), time_limit=1e-6)


def test_a_plan_must_say_every_whole_number() -> None:
    """What is missing is not guessed."""
    inst = small([10800.0], [[2.0]], levels=STEEP, instance_counts="integer")
    plan = go.solve(inst)
    rest = {name: array for name, array in plan.decision.items() if name != "running"}
    with pytest.raises(go.SolutionError, match="every whole number"):
        go.marginals(inst, go.Solution(**{**plan.__dict__, "decision": rest}))


def test_places_that_do_not_exist() -> None:
    """The axes or labels there are, are named."""
    m = go.marginals(small([10800.0], [[2.0]], levels=STEEP))
    with pytest.raises(KeyError, match="expected a label for each of"):
        m["demand"].at(period=HOUR)
    with pytest.raises(KeyError, match="there are"):
        m["gpus"].at(period=HOUR, site="mars", gpu_type="h100")
    with pytest.raises(KeyError, match="gpus_always"):
        m["water"]


# -- files, frames, the command ----------------------------------------------------------------


def test_files(tmp_path: Path) -> None:
    """JSON has nothing that is no JSON; the table has every direction of every kind."""
    m = go.marginals(small([14400.0], [[2.0]], levels=STEEP))
    m.save(tmp_path / "m.json")
    document = json.loads((tmp_path / "m.json").read_text())
    assert document["kind"] == "marginals"
    assert document["integers_fixed"] is False
    assert document["sets"]["class"] == ["chat"]
    demand = document["of"]["demand"]
    assert demand["rates"]["carbon_kg"] == [[[None]]]
    assert demand["valid_up_to"] == [[[0.0]]]
    assert document["of"]["gpus"]["rates"]["carbon_kg"] == [[[pytest.approx(-0.2)]]]
    m.save(tmp_path / "m.csv")
    with (tmp_path / "m.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert [row["of"] for row in rows] == ["demand", "gpus", "gpus_always"]
    assert float(rows[0]["carbon_kg"]) == np.inf
    assert float(rows[1]["carbon_kg"]) == m["gpus"].rates["carbon_kg"][0, 0, 0]
    assert (rows[1]["site"], rows[1]["origin"], rows[1]["unit"]) == ("site0", "", "GPU")


def test_frames() -> None:
    """A row a direction, a column an axis, rate, range and flag."""
    pytest.importorskip("pandas")
    m = go.marginals(small([7200.0], [[1.0, 10.0]], carbon=(100.0, 1000.0), rtt=(0.2, 0.05)))
    frame = m["gpus"].to_frame()
    assert list(frame["site"]) == ["site0", "site1"]
    assert frame["carbon_kg per GPU"][0] == pytest.approx(-0.27)
    assert list(frame.columns[-2:]) == ["valid_up_to", "degenerate"]


def _run(capsys: pytest.CaptureFixture[str], *arguments: Any) -> tuple[int, str, str]:
    capsys.readouterr()
    status = main([str(a) for a in arguments])
    shown = capsys.readouterr()
    return status, shown.out, shown.err


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It prints the largest ones, and writes all of them."""
    path, out = tmp_path / "i.json", tmp_path / "m.csv"
    small([7200.0], [[1.0, 10.0]], carbon=(100.0, 1000.0), rtt=(0.2, 0.05)).save(path)
    status, text, _ = _run(
        capsys, "marginals", path, "--of", "gpus", "--metric", "carbon_kg", "--out", out
    )
    assert status == 0
    assert "carbon_kg per GPU" in text
    assert "site0" in text
    assert "-0.27" in text
    assert "valid up to, GPUs" in text
    assert "site1" not in text  # nothing changes there
    assert len(out.read_text().splitlines()) == 3


def test_the_command_says_what_ends_and_what_is_held(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """No plan, whole numbers, and a plan from a file."""
    path, plan = tmp_path / "i.json", tmp_path / "s.json"
    inst = small([14400.0], [[2.0]], levels=STEEP, instance_counts="integer")
    inst.save(path)
    go.solve(inst).save(plan)
    status, text, _ = _run(capsys, "marginals", path, plan, "--of", "demand", "--top", "1")
    assert status == 0
    assert "no plan" in text
    assert "whole numbers are held" in text
    other = tmp_path / "o.json"
    small([1.0], [[2.0]]).save(other)
    status, _, error = _run(capsys, "marginals", other, plan)
    assert status == 2
    assert "another instance" in error
    status, _, error = _run(capsys, "marginals", other, "--metric", "joy")
    assert status == 2
    assert "'joy'" in error


def test_the_command_where_there_is_no_plan(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Infeasible is an answer, not a wrong use."""
    path = tmp_path / "i.json"
    for counts in ("continuous", "integer"):
        small([99999.0], [[2.0]], levels=STEEP, instance_counts=counts).save(path)
        status, text, error = _run(capsys, "marginals", path, "--json")
        assert (status, text) == (1, "")
        assert error.startswith("greenopt: tiny: ")
        assert "nfeasible" in error


def test_the_command_prints_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One object, the same as in the file; rates without end are null."""
    path, out = tmp_path / "i.json", tmp_path / "m.json"
    small([14400.0], [[2.0]], levels=STEEP).save(path)
    status, text, error = _run(capsys, "marginals", path, "--json", "--out", out)
    assert (status, error) == (0, "")
    (line,) = text.splitlines()
    assert json.loads(line) == json.loads(out.read_text())
    assert json.loads(line)["of"]["demand"]["rates"]["carbon_kg"] == [[[None]]]
