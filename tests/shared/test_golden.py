"""The published optima of eGLB and FREESH, and two eGLB weightings of our own."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.sparse as sp
from conftest import ROOT, shared
from scipy.optimize import linprog

import greenopt as go
from greenopt.cli import main
from greenopt.problems.placement.builders import freesh_folder

INSTANCES = ROOT / "instances" / "placement"

FILES = {
    "equitable": "eglb-equitable.json.gz",
    "min_price": "eglb-min-price.json.gz",
    "price_carbon": "eglb-price-carbon.json.gz",
    "total": "eglb-total.json.gz",
}

FREESH = ROOT / "instances" / "placement-freesh"
MORE_FREESH = {
    1: 14789610760.894718,
    3: 16580152749.96809,
    5: 13512099721.13005,
    25: 16462310516.004036,
    27: None,
    29: 26185059706.06615,
}
"""Published optima of windows outside the golden file (resource_allocation_results_beta2.csv)."""


def solved(path: Path, capsys: pytest.CaptureFixture[str], *options: str) -> dict[str, Any]:
    """Record that the command line prints of one instance solved with gap 0."""
    capsys.readouterr()
    status = main(["solve", str(path), "--gap", "0", "--json", *options])
    shown = capsys.readouterr()
    assert status == 0, shown.err
    (line,) = shown.out.splitlines()
    record: dict[str, Any] = json.loads(line)
    assert record["status"] == "optimal"
    assert record["bound"] == pytest.approx(record["objective"], rel=1e-9)
    return record


def published_model(price: float, water: float, carbon: float, aggregate: str) -> float:
    """Optimum of eGLB as the paper states it, from the CSV alone.

    Variables x[t, i, j]: load of gateway j served at site i in hour t, in MW; a site takes 1 MW.
    USD/MWh, L/kWh and kg/kWh make the weights USD, USD/m3 and USD/t; phi is the largest site or
    the mean of the ten.
    """
    with shared("data/peers/eglb/eglb_457h_10sites.csv").open() as file:
        rows = list(csv.DictReader(file))
    sites = [name.partition("|")[0] for name in rows[0] if name.endswith("|price_usd_per_mwh")]
    series = {
        name: np.array([[float(row[f"{site}|{name}"]) for site in sites] for row in rows])
        for name in ("price_usd_per_mwh", "water_l_per_kwh", "carbon_kg_per_kwh")
    }
    load = np.array([float(row["load_fraction"]) for row in rows])
    hours, n, gateways = len(rows), len(sites), 10
    assert (hours, n) == (457, 10)
    shape = (hours, n, gateways)
    t, i, j = np.indices(shape).reshape(3, -1)
    columns, ones = np.arange(t.size), np.ones(t.size)
    capacity = sp.csr_array((ones, (t * n + i, columns)), shape=(hours * n, t.size))
    serve = sp.csr_array((ones, (t * gateways + j, columns)), shape=(hours * gateways, t.size))
    usd, water_of, carbon_of = (
        np.broadcast_to(values[:, :, None], shape).ravel() for values in series.values()
    )
    cost = price * usd
    if aggregate == "mean":
        cost = cost + (water * water_of + carbon * carbon_of) / n
        found = linprog(cost, capacity, np.ones(hours * n), serve, np.repeat(load, gateways))
    else:
        by_site = [
            sp.csr_array((values, (i, columns)), shape=(n, t.size))
            for values in (water_of, carbon_of)
        ]
        tops = sp.kron(sp.eye_array(2), -np.ones((n, 1)))
        found = linprog(
            np.concatenate([cost, [water, carbon]]),
            sp.vstack(
                [
                    sp.hstack([capacity, sp.csr_array((hours * n, 2))]),
                    sp.hstack([sp.vstack(by_site), tops]),
                ],
                format="csr",
            ),
            np.concatenate([np.ones(hours * n), np.zeros(2 * n)]),
            sp.hstack([serve, sp.csr_array((hours * gateways, 2))], format="csr"),
            np.repeat(load, gateways),
        )
    assert found.status == 0, found.message
    return float(found.fun)


@pytest.mark.parametrize("case", FILES)
def test_published_optimum(case: str, capsys: pytest.CaptureFixture[str]) -> None:
    """The command line reaches the optimum the authors printed, to 1e-8."""
    golden = json.loads(shared("golden/eglb.json").read_text())
    (published,) = [c for c in golden["cases"] if c["name"] == case]
    record = solved(INSTANCES / FILES[case], capsys)
    assert record["objective"] == pytest.approx(published["optimum"], rel=1e-8)


def test_every_golden_case_is_tested() -> None:
    """A case added to the golden file needs an instance here."""
    golden = json.loads(shared("golden/eglb.json").read_text())
    assert {c["name"] for c in golden["cases"]} == set(FILES)


@pytest.mark.parametrize(
    ("price", "water", "carbon", "aggregate"), [(1.0, 600.0, 500.0, "mean"), (0.5, 90, 2500, "max")]
)
def test_further_weighting(
    price: float,
    water: float,
    carbon: float,
    aggregate: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Reweighted and solved by the command line: the optimum of an LP straight from the CSV."""
    expected = published_model(price, water, carbon, aggregate)
    other = tmp_path / "other.json.gz"
    terms = [
        f"cost_usd={price}",
        f"water_l={water}/1000:{aggregate}",
        f"carbon_kg={carbon}/1000:{aggregate}",
    ]
    options = [option for term in terms for option in ("--term", term)]
    source = INSTANCES / FILES["total"]
    assert main(["reweight", str(source), *options, "--out", str(other)]) == 0
    record = solved(other, capsys)
    assert record["objective"] == pytest.approx(expected, rel=1e-8)


def test_golden_solution_survives_check_and_certify(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The hardest case is saved, checked and certified from its files alone."""
    source = INSTANCES / FILES["equitable"]
    record = solved(source, capsys, "--out", str(tmp_path))
    assert main(["check", str(source), record["solution"]]) == 0
    assert main(["certify", str(source), record["solution"], "--json"]) == 0
    certificate = json.loads(capsys.readouterr().out.splitlines()[-1])
    (stage,) = certificate["stages"]
    assert stage["kind"] == "proved"
    assert stage["proved_bound"] == pytest.approx(record["objective"], rel=1e-8)


def is_published(solution: go.Solution, optimum: float | None) -> bool:
    """Whether a solution is the published optimum, or infeasible where that is published."""
    if optimum is None:
        return solution.status == go.Status.INFEASIBLE
    close = solution.objective == pytest.approx(optimum, rel=1e-9)
    return solution.status == go.Status.OPTIMAL and close


@pytest.mark.parametrize("solver", ["highs", "scip"])
@pytest.mark.parametrize("window", range(0, 48, 2))
def test_freesh_window_has_its_published_optimum(window: int, solver: str) -> None:
    """Every even window, from its committed file, with both solvers."""
    if solver == "scip":
        pytest.importorskip("pyscipopt")
    golden = json.loads(shared("golden/freesh_windows.json").read_text())["optimum"]
    instance = go.load(FREESH / f"freesh-{window:02d}.json")
    solution = go.solve(instance, solver=solver, gap=0.0)
    assert is_published(solution, golden[str(window)])
    assert golden[str(window)] is None or go.check(instance, solution).ok


def test_every_golden_window_is_tested() -> None:
    """A window added to the golden file needs a test here."""
    golden = json.loads(shared("golden/freesh_windows.json").read_text())["optimum"]
    assert set(golden) == {str(window) for window in range(0, 48, 2)}


@pytest.mark.parametrize("window", MORE_FREESH)
def test_freesh_window_from_the_tables(window: int) -> None:
    """Windows without a committed file, built from the published tables."""
    instance = freesh_folder(shared("data/peers/freesh"), windows=[window])
    assert is_published(go.solve(instance, gap=0.0), MORE_FREESH[window])


def test_freesh_windows_of_one_instance_add_up() -> None:
    """Several windows in one instance are planned independently of each other."""
    golden = json.loads(shared("golden/freesh_windows.json").read_text())["optimum"]
    instance = freesh_folder(shared("data/peers/freesh"), windows=[0, 2, 36])
    assert instance.hold_periods == (6, 6, 6)
    solution = go.solve(instance, gap=0.0)
    expected = sum(golden[window] for window in ("0", "2", "36"))
    assert solution.objective == pytest.approx(expected, rel=1e-9)
