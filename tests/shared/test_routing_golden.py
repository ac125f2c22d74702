"""The reference instance of energy-optimal routing: 500 Alpaca queries over three Llama-2 models.

Coefficients, accuracies and shares: grantwilkins/EASLI @8887c48, `routing/coefficients.json`; the
problem: arXiv 2407.04014, equations 3.5 to 3.8. The optima stand in the owners' dossier, computed
there from the same queries; the paper's own figures are those of a program with a known mistake.
"""

from __future__ import annotations

import csv
from typing import Any, NamedTuple

import numpy as np
import pytest
from conftest import shared
from pyomo.contrib.solver.common.factory import SolverFactory
from scipy.optimize import Bounds, LinearConstraint, milp

import greenopt as go
from greenopt.certifying import certify
from greenopt.formulations import routing as pyomo_routing

ENERGY = [
    [-3.894991, 31.522735, 0.042712],
    [-6.794323, 56.008311, 0.072861],
    [-12.0294, 414.8197, 0.3145],
]
RUNTIME = [
    [-0.010021, 0.083515, 0.000107],
    [-0.017357, 0.142605, 0.000185],
    [-0.031204, 0.703173, 0.000533],
]
ACCURACY = [50.97, 55.69, 64.52]
MODELS = ["Llama-2 7B", "Llama-2 13B", "Llama-2 70B"]
GPUS = [1, 1, 4]
SHARES = [0.05, 0.20, 0.75]
LAW = ("per_token_in", "per_token_out", "per_product")
ZETAS = [0.0, 0.5, 1.0]
NORMALISATIONS = ["largest", "range"]


class Optimum(NamedTuple):
    """An optimum of the dossier."""

    objective: float
    counts: list[int]
    kwh: float
    accuracy_percent: float


OPTIMA = {
    0.0: Optimum(-116.969487, [1, 1, 498], 9.0270, 64.516),
    0.5: Optimum(-42.322440, [1, 496, 3], 1.2179, 55.699),
    1.0: Optimum(9.198963, [498, 1, 1], 0.6856, 50.977),
}

LIMITS: dict[str, list[tuple[float, float]]] = {
    "used": [(1, 500)] * 3,
    "least": [(max(1, 0.25 * 500 * share), 500) for share in SHARES],
    "capped": [(max(1, 0.25 * 500 * share), 500 * share) for share in SHARES],
}
"""Smallest and largest numbers of queries of the models."""


@pytest.fixture(scope="module")
def tokens() -> np.ndarray:
    """Input and output tokens of the queries, after a look at their totals."""
    with shared("data/wilkins/alpaca_500_tokens.csv").open() as file:
        rows = [[int(row["tokens_in"]), int(row["tokens_out"])] for row in csv.DictReader(file)]
    found = np.array(rows)
    assert found.shape == (500, 2)
    assert [*found.sum(axis=0), found.prod(axis=1).sum()] == [9985, 77514, 1489989]
    return found


def instance(
    tokens: np.ndarray,
    zeta: float = 0.5,
    normalisation: str = "largest",
    sides: str = "used",
    **changes: Any,
) -> go.RoutingInstance:
    """The reference instance with a weight of energy, a normalisation and limits on counts."""
    document = {
        "problem": "routing",
        "schema_version": 1,
        "name": "alpaca-500",
        "provenance": {
            "description": "500 Alpaca queries on three Llama-2 models.",
            "builder": "tests",
            "data_licence": "CC0-1.0",
            "sources": [],
        },
        "queries": [f"query {number}" for number in range(len(tokens))],
        "deployments": [
            {
                "name": model,
                "model": model,
                "gpu_type": "A100 40 GB",
                "gpus": gpus,
                "energy": dict(zip(LAW, energy, strict=True)),
                "runtime": dict(zip(LAW, runtime, strict=True)),
                "accuracy_percent": accuracy,
            }
            for model, gpus, energy, runtime, accuracy in zip(
                MODELS, GPUS, ENERGY, RUNTIME, ACCURACY, strict=True
            )
        ],
        "boundary": "gpu",
        "negative_predictions": "keep",
        "outside_range": "extrapolate",
        "count": [1] * len(tokens),
        "tokens_in": tokens[:, 0].tolist(),
        "tokens_out": {"axes": ["query"], "values": tokens[:, 1].tolist()},
        "limits": [
            {
                "name": f"queries of {model}",
                "metric": "queries",
                "deployments": [model],
                "lower": lower,
                "upper": upper,
            }
            for model, (lower, upper) in zip(MODELS, LIMITS[sides], strict=True)
        ],
        "objective": [stage(zeta, normalisation)],
    }
    return go.RoutingInstance.parse({**document, **changes})


def stage(zeta: float, normalisation: str) -> dict[str, Any]:
    """The published objective."""
    terms = [("energy_kwh", zeta), ("accuracy_percent_tokens", zeta - 1)]
    return {
        "terms": [
            {"metric": metric, "weight": weight, "normalisation": normalisation}
            for metric, weight in terms
        ]
    }


class ByScipy:
    """The partition written down from the paper alone, a 0-1 variable for each query and model."""

    def __init__(self, tokens: np.ndarray) -> None:
        tau_in, tau_out = tokens.T.astype(float)
        powers = np.stack([tau_in, tau_out, tau_in * tau_out])
        self.energy_j = (np.array(ENERGY) @ powers).T
        self.accuracy = np.outer(tau_in + tau_out, ACCURACY)

    def value(self, zeta: float, normalisation: str, sides: str) -> float:
        """The optimum."""
        cost = zeta * scaled(self.energy_j, normalisation)
        cost -= (1 - zeta) * scaled(self.accuracy, normalisation)
        return float((self.best(cost, sides) * cost).sum())

    def best(self, cost: np.ndarray, sides: str, most_accuracy: float | None = None) -> np.ndarray:
        """The cheapest partition, of no less than an accuracy where one is given."""
        n, k = cost.shape
        once = np.kron(np.eye(n), np.ones(k))
        counts = np.tile(np.eye(k), n)
        least, most = np.array(LIMITS[sides]).T
        rows = [LinearConstraint(once, 1, 1), LinearConstraint(counts, least, most)]
        if most_accuracy is not None:
            rows.append(LinearConstraint(self.accuracy.reshape(1, -1), most_accuracy, np.inf))
        found = milp(
            cost.ravel(),
            integrality=np.ones(n * k),
            bounds=Bounds(0, 1),
            constraints=rows,
            options={"mip_rel_gap": 0.0},
        )
        assert found.status == 0, found.message
        return np.round(found.x).reshape(n, k)


def scaled(values: np.ndarray, normalisation: str) -> np.ndarray:
    """Values as shares of the largest, or between the smallest and the largest."""
    low = values.min() if normalisation == "range" else 0.0
    return (values - low) / (values.max() - low)


def by_pyomo(instance: go.RoutingInstance) -> float:
    """Optimum of the readable statement by HiGHS."""
    result = SolverFactory("highs").solve(
        pyomo_routing.build(instance), load_solutions=False, rel_gap=1e-9
    )
    return float(result.incumbent_objective)


def counts(solution: go.Solution) -> list[float]:
    """Queries of each model."""
    return solution.array("assigned").total_over("deployment").tolist()


@pytest.mark.parametrize("model", range(3))
def test_energy_of_one_model(tokens: np.ndarray, model: int) -> None:
    """All queries on one model take its coefficients times the totals."""
    allowed = {"axes": ["deployment"], "values": [k == model for k in range(3)]}
    solution = go.solve(instance(tokens, limits=[], allowed=allowed))
    totals = np.array([9985, 77514, 1489989])
    joules = float(np.array(ENERGY[model]) @ totals)
    assert solution.metrics["energy_kwh"] == pytest.approx(joules / 3.6e6, rel=1e-12)
    seconds = float(np.array(RUNTIME[model]) @ totals)
    assert solution.metrics["runtime_s"] == pytest.approx(seconds, rel=1e-12)
    assert solution.metrics["accuracy_percent"] == pytest.approx(ACCURACY[model], rel=1e-12)


@pytest.mark.parametrize("zeta", ZETAS)
def test_optimum(tokens: np.ndarray, zeta: float) -> None:
    """The dossier's values to all digits; the energy where only one partition is best."""
    own = instance(tokens, zeta)
    solution = go.solve(own, gap=0)
    optimum = OPTIMA[zeta]
    assert solution.status == go.Status.OPTIMAL
    assert solution.objective == pytest.approx(optimum.objective, abs=1e-6)
    assert solution.bound == pytest.approx(optimum.objective, abs=1e-6)
    assert counts(solution) == optimum.counts
    metrics = solution.metrics
    assert metrics["accuracy_percent"] == pytest.approx(optimum.accuracy_percent, abs=6e-4)
    if zeta > 0:
        assert metrics["energy_kwh"] == pytest.approx(optimum.kwh, abs=6e-5)
    assert go.check(own, solution).ok
    assert certify(own, solution).ok


def test_energy_between_ties(tokens: np.ndarray) -> None:
    """Without a weight of energy, queries of equal length tie: all that may be used is stated."""
    ours = ByScipy(tokens)
    best = (ours.best(-ours.accuracy, "used") * ours.accuracy).sum()
    least, most = (
        (ours.best(sign * ours.energy_j, "used", best - 0.01) * ours.energy_j).sum() / 3.6e6
        for sign in (1, -1)
    )
    assert least < most - 1e-5
    assert least - 6e-5 <= OPTIMA[0.0].kwh <= most + 6e-5
    single = go.solve(instance(tokens, 0.0), gap=0)
    assert least - 1e-9 <= single.metrics["energy_kwh"] <= most + 1e-9
    energy = {"terms": [{"metric": "energy_kwh", "weight": 1}]}
    first = {**stage(0.0, "largest"), "tolerance": 1e-9}
    both = go.solve(instance(tokens, objective=[first, energy]), gap=1e-9)
    assert both.status == go.Status.OPTIMAL
    assert both.objective == pytest.approx(least, rel=1e-7)
    assert both.stages[0].objective == pytest.approx(OPTIMA[0.0].objective, abs=1e-6)


@pytest.mark.parametrize("normalisation", NORMALISATIONS)
@pytest.mark.parametrize("sides", LIMITS)
@pytest.mark.parametrize("zeta", ZETAS)
def test_variants(tokens: np.ndarray, zeta: float, sides: str, normalisation: str) -> None:
    """Three ways to the same optimum, with the models' shares as least and largest counts."""
    own = instance(tokens, zeta, normalisation, sides)
    solution = go.solve(own, gap=0)
    assert solution.status == go.Status.OPTIMAL
    expected = ByScipy(tokens).value(zeta, normalisation, sides)
    assert solution.objective == pytest.approx(expected, abs=1e-6)
    assert by_pyomo(own) == pytest.approx(expected, abs=1e-6)
    assert go.check(own, solution).ok
    assert certify(own, solution).ok
    least, most = np.array(LIMITS[sides]).T
    assert np.all(counts(solution) >= least)
    assert np.all(counts(solution) <= most)


def test_tight_caps_leave_only_who_goes_where(tokens: np.ndarray) -> None:
    """Where shares fix the counts, a plan is better than the mean over who goes where."""
    own = instance(tokens, 0.5, sides="capped")
    solution = go.solve(own, gap=0)
    assert counts(solution) == [25, 100, 375]
    ours = ByScipy(tokens)
    cost = 0.5 * (scaled(ours.energy_j, "largest") - scaled(ours.accuracy, "largest"))
    assert solution.objective < float(cost.sum(axis=0) @ SHARES)


def test_equal_queries_are_one_kind(tokens: np.ndarray) -> None:
    """The 481 different queries with their counts have the optimum of all 500."""
    kinds, count = np.unique(tokens, axis=0, return_counts=True)
    assert len(kinds) == 481
    merged = go.solve(instance(kinds, sides="capped", count=count.tolist()), gap=0)
    apart = go.solve(instance(tokens, sides="capped"), gap=0)
    assert merged.objective == pytest.approx(apart.objective, abs=1e-9)
