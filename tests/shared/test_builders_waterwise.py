"""WaterWise instances against the published program, stated independently."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from oracles.peers import waterwise_optimum, waterwise_score

import greenopt as go
from greenopt.errors import InputError, InstanceError
from greenopt.problems.placement.builders import (
    WATERWISE_EMBODIED_G_PER_S,
    WATERWISE_EMBODIED_L_PER_S,
    WATERWISE_REGIONS,
    WATERWISE_WSF,
    waterwise,
    waterwise_folder,
    waterwise_history,
    waterwise_urgency,
    waterwise_water_intensity,
)

RULES = ("hard", "dropped", "penalised")
REGIONS = list(WATERWISE_REGIONS)


def data(seed: int, jobs: int = 30, nodes: int = 9) -> dict[str, Any]:
    """Random jobs; some transfers take too long, some regions are full or have no history."""
    random, n = np.random.default_rng(seed), len(REGIONS)
    history = random.uniform(0.3, 1, n)
    history[random.random(n) < 0.3] = np.nan
    return {
        "energy_kwh": random.uniform(0.0005, 0.01, jobs),
        "run_time_s": random.uniform(20, 250, jobs),
        "transfer_s": random.uniform(0, 60, (jobs, n)) * (random.random((jobs, n)) < 0.8),
        "carbon_g_per_kwh": random.uniform(20, 700, n),
        "water_l_per_kwh": random.uniform(2, 25, n),
        "free_nodes": random.integers(0, nodes, n).astype(float),
        "history": history,
    }


def expected(given: dict[str, Any], rule: str, kept: Any = slice(None), **options: Any) -> Any:
    """Optimum of the published program for some of the jobs."""
    names = ("energy_kwh", "run_time_s", "carbon_g_per_kwh", "water_l_per_kwh", "history")
    score = waterwise_score(*(given[name] for name in names))
    ratio = given["transfer_s"] / given["run_time_s"][:, None]
    return waterwise_optimum(score[kept], ratio[kept], given["free_nodes"], rule, **options)


def roomy(seed: int) -> dict[str, Any]:
    """Random jobs for which there are enough nodes, or two more."""
    given = data(seed)
    free = given["free_nodes"]
    free[-1 if free[-1] else free.argmax()] += max(0, 30 + seed % 3 - free.sum())
    return given


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("seed", range(12))
def test_minutes_have_the_optimum_of_the_published_program(seed: int, rule: Any) -> None:
    """For every tolerance rule; infeasible by its masks where the program is."""
    given = roomy(seed)
    best = expected(given, rule)
    solution = go.solve(waterwise(**given, tolerance_rule=rule), gap=0.0)
    if best is None:
        assert solution.status == go.Status.INFEASIBLE
    else:
        assert solution.objective == pytest.approx(best, rel=1e-9)


def test_hard_and_other_rules_differ() -> None:
    """The random cases hold minutes that the masks make infeasible, and rules of other optima."""
    best = {rule: [expected(roomy(seed), rule) for seed in range(12)] for rule in RULES}
    assert 0 < sum(value is None for value in best["hard"]) < 12
    assert all(a > b for a, b in zip(best["dropped"], best["penalised"], strict=True))


def test_dropped_is_the_program_without_masks_plus_a_constant() -> None:
    """The published slacks are tied to no placement: they change the value and not the plan."""
    given = roomy(1)
    ratio = given["transfer_s"] / given["run_time_s"][:, None]
    constant = 10 * np.maximum(0, ratio - 0.5).sum()
    dropped = go.solve(waterwise(**given, tolerance_rule="dropped"), gap=0.0)
    free = go.solve(waterwise(**given, tolerance=1e9), gap=0.0)
    assert constant > 1
    assert dropped.objective == pytest.approx(free.objective + constant, rel=1e-9)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("seed", range(20))
def test_relaxation_is_whole(seed: int, rule: str) -> None:
    """The matrix is totally unimodular: fractions of jobs never do better."""
    given = roomy(seed)
    whole, relaxed = expected(given, rule), expected(given, rule, whole=False)
    assert (whole is None) == (relaxed is None)
    assert whole is None or relaxed == pytest.approx(whole, rel=1e-9)
    if whole is not None and seed < 3:
        loose = waterwise(**given, tolerance_rule=rule).replace(
            instance_counts="continuous", request_counts="continuous"
        )
        solution = go.solve(loose, gap=0.0)
        assert solution.objective == pytest.approx(whole, rel=1e-9)
        assert go.certify(loose, solution).optimal


@pytest.mark.parametrize("solver", ["scip", "cp-sat"])
def test_other_solvers_find_the_same_optimum(solver: str) -> None:
    """All variables are whole numbers, so that CP-SAT can solve it too."""
    pytest.importorskip({"scip": "pyscipopt", "cp-sat": "ortools"}[solver])
    given = roomy(1)
    instance = waterwise(**given, tolerance_rule="penalised")
    best = expected(given, "penalised")
    assert go.solve(instance, solver=solver).objective == pytest.approx(best, rel=1e-6)


@pytest.mark.parametrize("seed", range(6))
def test_too_many_jobs_leave_the_most_urgent(seed: int) -> None:
    """By tolerance x run time - mean transfer to regions with free nodes - time waited."""
    given = data(seed, jobs=40, nodes=4)
    waited = np.random.default_rng(seed).choice([0.0, 60.0, 120.0], 40)
    open_ = given["free_nodes"] > 0
    urgency = [
        0.5 * given["run_time_s"][m] - given["transfer_s"][m][open_].mean() - waited[m]
        for m in range(40)
    ]
    kept = sorted(sorted(range(40), key=lambda m: urgency[m])[: int(given["free_nodes"].sum())])
    instance = waterwise(**given, waited_s=waited, tolerance_rule="dropped")
    assert instance.origins == tuple(f"job {m + 1}" for m in kept)
    best = expected(given, "dropped", kept)
    assert go.solve(instance, gap=0.0).objective == pytest.approx(best, rel=1e-9)
    assert f"{len(kept)} of 40 jobs are kept" in instance.provenance.rules[-1]


def test_equal_urgency_keeps_the_order_of_the_jobs() -> None:
    """Jobs that are alike stay in the order they came in."""
    alike = waterwise_urgency(np.ones(4), np.ones((4, 2)), [0, 3], np.zeros(4))
    assert alike.tolist() == [-0.5] * 4
    instance = waterwise(
        np.ones(4), np.ones(4), np.zeros((4, 2)), [1, 2], [1, 2], [0, 3], regions=["a", "b"]
    )
    assert instance.origins == ("job 1", "job 2", "job 3")


def test_transfer_of_exactly_the_tolerance_is_too_long() -> None:
    """Equality is forbidden, as published."""
    given = [[1.0], [100.0], [[50.0, 49.9]], [1.0, 2.0], [1.0, 2.0], 1]
    mask = waterwise(*given, regions=["a", "b"]).reachable[0, 0, 0, :, 0]
    assert mask.tolist() == [False, True]


def test_maximum_is_over_full_and_forbidden_regions_too() -> None:
    """A region without nodes or out of reach still scales the score."""
    given = [[1.0], [100.0], [[0.0, 99.0, 0.0]], [100.0, 400.0, 200.0], [1.0, 1.0, 4.0], [1, 1, 0]]
    instance = waterwise(
        *given, regions=["a", "b", "c"], embodied_g_per_s=0, embodied_l_per_s=0, lambda_carbon=0.25
    )
    assert go.solve(instance).objective == pytest.approx(0.25 * 100 / 400 + 0.75 * 1 / 4)


def test_metrics_tell_carbon_and_water() -> None:
    """The parts of the score are reported before normalisation."""
    given = [[0.01], [100.0], [[0.0]], [300.0], [5.0], 1]
    found = go.solve(waterwise(*given, regions=["a"])).metrics
    assert found["job_carbon_g"] == pytest.approx(3 + 1633982 / 126144000 * 100)
    assert found["job_water_l"] == pytest.approx(0.05 + 2 * 1633982 / 747 / 126144000 * 100)
    assert found["score"] == pytest.approx(1)


def test_embodied_rates_are_the_published_ones() -> None:
    """The rounded figures of the dossier."""
    assert pytest.approx(0.0129533, rel=1e-5) == WATERWISE_EMBODIED_G_PER_S
    assert pytest.approx(3.46809e-5, rel=1e-5) == WATERWISE_EMBODIED_L_PER_S


def test_water_intensity_by_hand() -> None:
    """20 °C is 68 °F: the polynomial with s = 3 gives 5.5589 L/kWh; it has no floor when cold."""
    found = waterwise_water_intensity([20.0, -20.0], [4.0, 0.0], [0.5, 0.0])
    assert found[0] == pytest.approx((5.5589 + 1.2 * 4) * 1.5, rel=1e-4)
    assert found[1] < -10


def test_history_counts_a_minute_once_for_each_of_its_jobs() -> None:
    """The window is over entries: a minute of three jobs fills three of them."""
    minutes = [
        {"a": [0.9]},
        {"a": [0.5, 0.7], "b": [0.4]},
        {"b": [0.8]},
    ]
    assert waterwise_history(minutes, regions=["a", "b", "c"], window=3).tolist() == pytest.approx(
        [(0.5 + 0.7) * 2 / 4, (0.4 * 2 + 0.8) / 3, np.nan], nan_ok=True
    )
    whole = waterwise_history(minutes, regions=["a", "b"])
    assert whole.tolist() == pytest.approx([(0.9 + 3 * 1.2) / 7, (3 * 0.4 + 0.8) / 4])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"energy_kwh": [-1.0] * 30}, "energy_kwh: is -1 at job 0; expected a finite number of at"),
        ({"run_time_s": [0.0] * 30}, "run_time_s: of job 0 is 0 at most; its score needs"),
        ({"transfer_s": [[1.0] * 4] * 30}, "transfer_s: has the shape (30, 4), expected (30 jobs,"),
        ({"carbon_g_per_kwh": ["x"] * 5}, "carbon_g_per_kwh: does not hold numbers over region"),
        ({"carbon_g_per_kwh": [-1e9] * 5}, "carbon: of job 0 is -"),
        ({"water_l_per_kwh": [np.nan] * 5}, "water_l_per_kwh: is nan at region 0"),
        ({"free_nodes": 0}, "free_nodes: are not whole numbers, at least one of them above 0"),
        ({"free_nodes": [1.5] * 5}, "free_nodes: are not whole numbers"),
        ({"jobs": ["a"]}, "jobs: has 1 names, expected 30"),
        ({"jobs": ["a"] * 30}, "$.origins: names ['a'] more than once"),
        ({"tolerance_rule": "soft"}, "tolerance_rule: is 'soft'; expected one of ['hard',"),
        ({"history": [1.0]}, "history: has the shape (1,), expected (5 regions)"),
        ({"energy_kwh": []}, "energy_kwh: has the shape (0,), expected (0 jobs)"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(change: dict[str, Any], message: str) -> None:
    """Each mistake is named by argument and place."""
    with pytest.raises(InstanceError) as caught:
        waterwise(**{**roomy(0), **change})
    assert message in str(caught.value)


def written(folder: Path) -> Path:
    """The published form, with two applications."""
    for part in ("data/ci", "data/ewif", "data/wet_bulb", "borg_trace", "profile_data"):
        (folder / part).mkdir(parents=True)
    for i, region in enumerate(REGIONS):
        for kind, base in (("ci", 100.0), ("ewif", 1.0), ("wet_bulb", 10.0)):
            rows = [f"{base + i + hour / 10}" for hour in range(4)]
            (folder / "data" / kind / f"{region}.txt").write_text("\n".join(rows) + "\n")
    transfer = {
        app: {a: {b: float(4 * abs(i - j) + k) for j, b in enumerate(REGIONS)} for i, a in
              enumerate(REGIONS)}
        for k, app in enumerate(("black", "cache"))
    }  # fmt: skip
    (folder / "data" / "transfer.json").write_text(json.dumps(transfer))
    for k, app in enumerate(("black", "cache")):
        counts = [0] * 130
        counts[125] = 6 + k
        rows = "\n".join(map(str, counts))
        (folder / "borg_trace" / f"app{k + 1}_instances.csv").write_text(rows)
        for kind, values in (("energy", [7200.0, 10800.0]), ("time", [50.0, 70.0 + 20 * k])):
            (folder / "profile_data" / f"{app}_{kind}.json").write_text(json.dumps(values))
    return folder


APPS = ("black", "cache")


def test_folder_builds_the_minute_of_its_files(tmp_path: Path) -> None:
    """Hours, the three-hourly wet bulb, mean profiles and transfers by application and home."""
    homes = [REGIONS[i % 5] for i in range(13)]
    instance = waterwise_folder(written(tmp_path), 125, apps=APPS, homes=homes)
    home = np.array([i % 5 for i in range(13)])
    app = np.array([0] * 6 + [1] * 7)
    region = np.arange(5)
    bulbs = 10 + region + np.where(np.array(REGIONS) == "mumbai", 0, 2) / 10
    fahrenheit = bulbs * 9 / 5 + 32
    wue = 1.5 * (6e-5 * fahrenheit**3 - 0.01 * fahrenheit**2 + 0.61 * fahrenheit - 10.4)
    scarcity = np.array([WATERWISE_WSF[name] for name in REGIONS])
    given = {
        "energy_kwh": np.full(13, 0.0025),
        "run_time_s": np.array([60.0, 70.0])[app],
        "transfer_s": 4.0 * np.abs(home[:, None] - region) + app[:, None],
        "carbon_g_per_kwh": 100.2 + region,
        "water_l_per_kwh": (wue + 1.2 * (1.2 + region)) * (1 + scarcity),
        "free_nodes": np.full(5, 35.0),
        "history": None,
    }
    assert instance.rtt_s.tolist() == given["transfer_s"].tolist()
    assert instance.origins[:2] == ("1 black from zurich", "2 black from madrid")
    assert instance.periods.start == ("2024-01-01T02:05Z",)
    best = expected(given, "hard")
    assert go.solve(instance, gap=0.0).objective == pytest.approx(best, rel=1e-9)


def test_homes_are_drawn_as_published(tmp_path: Path) -> None:
    """Equal shares, the rest for mumbai, the same shuffle for the same seed."""
    folder = written(tmp_path)
    names = [name.split()[-1] for name in waterwise_folder(folder, 125, apps=APPS).origins]
    assert {home: names.count(home) for home in REGIONS} == {
        "zurich": 2, "milan": 2, "madrid": 2, "oregon": 2, "mumbai": 5,
    }  # fmt: skip
    again = waterwise_folder(folder, 125, apps=APPS, seed=41)
    assert again.origins != waterwise_folder(folder, 125, apps=APPS, seed=40).origins


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("data/ci/milan.txt", "1\n", "milan.txt: file: has 1 rows, row 3 is asked for"),
        ("data/ci/milan.txt", "1\n2\nx\n", "milan.txt: row 3: is 'x'; expected a number"),
        ("data/ewif/oregon.txt", "", "oregon.txt: file: has no numbers"),
        ("data/wet_bulb/mumbai.txt", "1,2\n", "mumbai.txt: row 1: is '1,2'; expected a number"),
        ("data/transfer.json", "[]", "transfer.json: $: holds a list"),
        ("data/transfer.json", "{}", "transfer.json: $.black."),
        ("profile_data/cache_time.json", "[1, null]", "$[1]: is None; expected a number"),
        ("profile_data/cache_time.json", "{}", "cache_time.json: $: is not a list of numbers"),
        ("profile_data/cache_time.json", "[", "cache_time.json: $: is not valid JSON"),
        ("borg_trace/app1_instances.csv", "0\n" * 125 + "-1\n", "row 126: is -1; expected a numb"),
    ],
)
def test_folder_errors_name_their_place(tmp_path: Path, file: str, text: str, message: str) -> None:
    """File and row of a mistake."""
    (written(tmp_path) / file).write_text(text)
    with pytest.raises(InputError) as caught:
        waterwise_folder(tmp_path, 125, apps=APPS)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("minute", "options", "message"),
    [
        (3, {}, "no job arrives in minute 3"),
        (999, {}, "row 17 is asked for"),
        (125, {"homes": ["zurich"]}, "homes: length: has 1 regions, expected one for each of 13"),
        (125, {"wsf": {}}, "wsf: zurich: has no scarcity factor"),
        (125, {"homes": ["atlantis"] * 13}, "$.black.atlantis.zurich: is None; expected seconds"),
        (125, {"start": "x"}, "'x' is not an ISO 8601 time"),
        (125, {"trace": "alibaba"}, "alibaba_trace/app1_instances.csv: file: cannot be read"),
    ],
)
def test_folder_options_that_do_not_fit_are_refused(
    tmp_path: Path, minute: int, options: dict[str, Any], message: str
) -> None:
    """Minutes without jobs or data, and names that are not known."""
    with pytest.raises(InputError) as caught:
        waterwise_folder(written(tmp_path), minute, apps=APPS, **options)
    assert message in str(caught.value)
