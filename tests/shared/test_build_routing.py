"""The builder of routing instances reproduces its files, and they hold what they promise."""

from __future__ import annotations

import csv
import importlib.util
import sys
from collections import Counter
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import scipy.sparse as sp
from conftest import ROOT, shared
from scipy.optimize import linprog

from greenopt.problems.routing.instance import RoutingInstance

FOLDER = ROOT / "instances" / "routing"
LICENCES = (ROOT / "instances" / "LICENSE.md").read_text()
SIZES = {
    "alpaca-500.json": (500, 481, 3),
    "alpaca-500-zeta0.json": (500, 481, 3),
    "alpaca-500-zeta1.json": (500, 481, 3),
    "alpaca-52k.json.gz": (52_002, 481, 3),
    "alpaca-52k-capacity.json.gz": (52_002, 481, 7),
    "azure-conv-modern.json.gz": (19_365, 14_026, 5),
    "azure-code-modern.json.gz": (8_819, 7_981, 5),
    "hybrid-llama2.json": (500, 481, 3),
    "legacy-chat.json": (19_366, 623, 65),
}
"""Queries, kinds of queries and deployments of each file."""
ALPACA = (1_125_669, 8_460_614, 160_504_458)
"""Tokens in, tokens out and their products over Alpaca's 52,002 queries."""
LAW = ("per_token_in", "per_token_out", "per_product")


@cache
def script() -> ModuleType:
    """The build script; its folder of data has to be there."""
    shared("data")
    spec = importlib.util.spec_from_file_location("build_routing", FOLDER / "build_routing.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["build_routing"] = module
    spec.loader.exec_module(module)
    return module


@cache
def committed(file: str) -> RoutingInstance:
    """A committed instance."""
    return RoutingInstance.read(FOLDER / file)


def sums(instance: RoutingInstance) -> np.ndarray:
    """Tokens in, tokens out of the first deployment, and their products, over all queries."""
    tokens_in, tokens_out = instance.tokens_in, instance.tokens_out[:, 0]
    return instance.count @ np.column_stack([tokens_in, tokens_out, tokens_in * tokens_out])


def by_laws(instance: RoutingInstance, what: str) -> np.ndarray:
    """Energy (J) or run time (s) of a query of each kind on each deployment."""
    tokens_in, tokens_out = instance.tokens_in[:, None], instance.tokens_out
    laws = [getattr(deployment, what) for deployment in instance.deployments]
    a, b, c = (np.array([getattr(one, name) for one in laws]) for name in LAW)
    return np.asarray(a * tokens_in + b * tokens_out + c * tokens_in * tokens_out)


def relaxed(
    instance: RoutingInstance, cost: np.ndarray, rows: list[Any], sides: list[float]
) -> Any:
    """Least cost of a division of the queries, in fractions, under rows <= sides."""
    kinds, deployments = cost.shape
    return linprog(
        cost.ravel(),
        A_ub=np.array([np.broadcast_to(row, cost.shape).ravel() for row in rows]),
        b_ub=sides,
        A_eq=sp.kron(sp.eye_array(kinds), np.ones((1, deployments)), format="csr"),
        b_eq=instance.count,
    )


def energy_against_accuracy(instance: RoutingInstance, energy_j: np.ndarray) -> np.ndarray:
    """Cost of a query: the published objective, each part over its largest value."""
    (stage,) = instance.objective
    zeta, accuracy_weight = (term.weight for term in stage.terms)
    assert accuracy_weight == pytest.approx(zeta - 1)
    percent = np.array([deployment.accuracy_percent for deployment in instance.deployments])
    accuracy = percent * (instance.tokens_in[:, None] + instance.tokens_out)
    return np.asarray(zeta * energy_j / energy_j.max() - (1 - zeta) * accuracy / accuracy.max())


@pytest.mark.parametrize("file", SIZES)
def test_committed_files_are_reproduced(file: str, tmp_path: Path) -> None:
    """Re-running the script gives the committed instance, byte for byte."""
    name = file.removesuffix(".gz").removesuffix(".json")
    script().main(["--name", name, "--out", str(tmp_path)])
    assert [path.name for path in tmp_path.iterdir()] == [file]
    assert (tmp_path / file).read_bytes() == (FOLDER / file).read_bytes()


def test_every_file_is_listed() -> None:
    """The folder holds the files that the script makes, none of them large."""
    files = {path.name: path for path in FOLDER.glob("*.json*") if path.name != "best_known.json"}
    assert set(files) == set(SIZES) == set(script().BUILDERS)
    assert max(path.stat().st_size for path in files.values()) < 200_000


@pytest.mark.parametrize("file", SIZES)
def test_sizes_are_those_promised(file: str) -> None:
    """As many queries, kinds and deployments as the documentation says."""
    instance = committed(file)
    assert file.startswith(instance.name)
    found = (instance.count.sum(), len(instance.queries), len(instance.deployments))
    assert found == SIZES[file]
    assert instance.label


@pytest.mark.parametrize("file", SIZES)
def test_sources_and_licences_are_listed(file: str) -> None:
    """Each source stands in the licence file with its licence and attribution."""
    provenance = committed(file).provenance
    assert provenance.data_licence in LICENCES
    for source in provenance.sources:
        row = f"| {source.name} | {source.licence} | {source.attribution} |"
        assert row in LICENCES, source.name


def test_alpaca_500_is_the_count_table_of_its_source() -> None:
    """Counts of equal pairs are those of the source, whose sums are the published ones."""
    with (shared("data") / "wilkins/alpaca_500_tokens.csv").open() as file:
        rows = [(int(row["tokens_in"]), int(row["tokens_out"])) for row in csv.DictReader(file)]
    instance = committed("alpaca-500.json")
    pairs = zip(instance.tokens_in, instance.tokens_out[:, 0], strict=True)
    assert dict(zip(pairs, instance.count, strict=True)) == Counter(rows)
    assert sums(instance).tolist() == [9985, 77514, 1489989]


@pytest.mark.parametrize(
    ("file", "objective", "counts"),
    [
        ("alpaca-500-zeta0.json", -116.969487, [1, 1, 498]),
        ("alpaca-500.json", -42.322440, [1, 496, 3]),
        ("alpaca-500-zeta1.json", 9.198963, [498, 1, 1]),
    ],
)
def test_alpaca_500_has_the_reference_optimum(
    file: str, objective: float, counts: list[int]
) -> None:
    """A linear program of its own finds the optimum that is on record for the same 500 queries."""
    instance = committed(file)
    cost = energy_against_accuracy(instance, by_laws(instance, "energy"))
    assert all((limit.metric, limit.lower) == ("queries", 1) for limit in instance.limits)
    result = relaxed(instance, cost, list(-np.eye(3)), [-1.0] * 3)
    assert result.fun == pytest.approx(objective, abs=1e-6)
    assert result.x.reshape(cost.shape).sum(axis=0) == pytest.approx(counts)


@pytest.mark.parametrize("file", ["alpaca-52k.json.gz", "alpaca-52k-capacity.json.gz"])
def test_token_sums_of_all_of_alpaca_are_exact(file: str) -> None:
    """The resample has Alpaca's sums to the token, with the measured pairs and no others."""
    instance = committed(file)
    assert sums(instance).tolist() == list(ALPACA)
    assert instance.queries == committed("alpaca-500.json").queries


def test_resample_stays_close_to_the_measured_frequencies() -> None:
    """Pairs keep their weights on the whole: half of them within 20 %, all within a factor of 9."""
    few, many = committed("alpaca-500.json"), committed("alpaca-52k.json.gz")
    ratio = (many.count / many.count.sum()) / (few.count / few.count.sum())
    assert np.mean(np.abs(ratio - 1) < 0.2) > 0.5
    assert 1 / 9 < ratio.min() <= ratio.max() < 9


def test_single_models_have_the_published_totals() -> None:
    """All queries on one model take the kWh and mean seconds of the authors' simulation."""
    instance = committed("alpaca-52k.json.gz")
    kwh = instance.count @ by_laws(instance, "energy") / 3.6e6
    mean_s = instance.count @ by_laws(instance, "runtime") / 52_002
    assert kwh == pytest.approx([74.770, 132.753, 985.157], abs=6e-4)
    assert mean_s == pytest.approx([13.7010, 23.3968, 115.3744], abs=6e-5)
    with (shared("data") / "wilkins/simulation_results.csv").open() as file:
        published = {float(row["Total Energy (kWh)"]) for row in csv.DictReader(file)}
    for value in kwh:
        assert min(abs(value - other) for other in published) < 1e-6 * value


def test_least_shares_are_those_of_the_code() -> None:
    """0.25 x share of the accelerators x queries, rounded up."""
    limits = committed("alpaca-52k.json.gz").limits
    assert [limit.lower for limit in limits] == [651, 2601, 9751]
    assert all(limit.metric == "queries" and limit.upper is None for limit in limits)


def test_gpus_of_the_best_models_are_used_up() -> None:
    """The capacities can be kept, and four of them cost something."""
    instance = committed("alpaca-52k-capacity.json.gz")
    assert instance.negative_predictions == "clip"
    energy_j, runtime_s = (by_laws(instance, what).clip(min=0) for what in ("energy", "runtime"))
    gpus = np.array([deployment.gpus for deployment in instance.deployments])
    rows = list((gpus * runtime_s / 3600) * np.eye(7)[:, None, :])
    sides = [limit.upper or 0.0 for limit in instance.limits]
    assert sides == pytest.approx([24 * 10_000 / 3600] * 7)
    result = relaxed(instance, energy_against_accuracy(instance, energy_j), rows, sides)
    assert result.status == 0
    priced = {
        deployment.name
        for deployment, price in zip(instance.deployments, result.ineqlin.marginals, strict=True)
        if price < -1e-3
    }
    assert priced == {"Llama-2 7B", "Llama-2 13B", "Mistral-7B", "Mixtral-8x7B"}


@pytest.mark.parametrize(
    ("file", "dropped"), [("azure-conv-modern.json.gz", 1), ("azure-code-modern.json.gz", 0)]
)
def test_azure_instances_hold_the_trace(file: str, dropped: int) -> None:
    """All requests of the trace but those with longer prompts, whose number the rules tell."""
    instance = committed(file)
    trace = (
        script()
        .sys.modules["routing_measured"]
        .requests_of(shared("data"), "conv" if "conv" in file else "code")
    )
    kept = [pair for pair in trace if pair[0] <= 8192]
    assert len(trace) - len(kept) == dropped
    assert f"are dropped: {dropped}." in " ".join(instance.provenance.rules)
    expected = np.array([[i, o, i * o] for i, o in kept]).sum(axis=0)
    assert sums(instance).tolist() == expected.tolist()


@pytest.mark.parametrize("file", ["azure-conv-modern.json.gz", "azure-code-modern.json.gz"])
def test_azure_instances_have_real_trade_offs(file: str) -> None:
    """Every query may go somewhere, the floor and a pool of GPUs have a price, three are used."""
    instance = committed(file)
    energy_j, runtime_s = (by_laws(instance, what) for what in ("energy", "runtime"))
    assert instance.runtime_limit_s is not None
    eligible = runtime_s <= instance.runtime_limit_s[:, None]
    assert eligible.any(axis=1).all()
    assert not eligible.all()

    def of(name: str) -> np.ndarray:
        return np.array([getattr(deployment, name) for deployment in instance.deployments])

    facility_kwh = of("pue") * (energy_j + of("host_w") * runtime_s / of("concurrency")) / 3.6e6
    values = {
        "energy_facility_kwh": facility_kwh,
        "carbon_kg": facility_kwh * of("carbon_g_per_kwh") / 1000,
        "cost_usd": facility_kwh * of("price_usd_per_kwh"),
        "runtime_s": runtime_s,
    }
    (stage,) = instance.objective
    cost = sum(term.weight * values[term.metric] / term.scale for term in stage.terms)
    reference = [d.name for d in instance.deployments].index("Llama 3.1 70B on H100")
    for term in stage.terms:
        whole = float(instance.count @ values[term.metric][:, reference])
        assert term.scale == pytest.approx(whole, rel=1e-5)
    tokens = instance.tokens_in[:, None] + instance.tokens_out
    floor = instance.accuracy_floor_percent or 0.0
    rows = [-tokens * (of("accuracy_percent") - floor)]
    names = [deployment.name for deployment in instance.deployments]
    for limit in instance.limits:
        among = np.isin(names, limit.deployments)
        rows.append(among * of("gpus") * runtime_s / of("concurrency") / 3600)
    cost = np.where(eligible, cost, 1e3)
    sides = [0.0, *(limit.upper or 0.0 for limit in instance.limits)]
    result = relaxed(instance, cost, rows, sides)
    assert result.status == 0
    assert result.fun < 1e3
    worth = np.array(sides) * result.ineqlin.marginals / result.fun
    assert result.ineqlin.marginals[0] < 0
    assert worth[1:].min() < -5e-4
    used = result.x.reshape(cost.shape).sum(axis=0) > 100
    assert used.sum() >= 3


def test_modern_laws_are_those_of_the_measurements() -> None:
    """Llama 3.1 70B on H100: energy per request over tokens, TPOT, prefill by Splitwise's TP4."""
    instance = committed("azure-conv-modern.json.gz")
    (own,) = [d for d in instance.deployments if d.name == "Llama 3.1 70B on H100"]
    assert own.energy is not None
    assert own.runtime is not None
    assert own.energy.per_token_out == pytest.approx(443.2108658477833 / 462.212, rel=1e-5)
    assert own.runtime.per_token_out == pytest.approx(0.10070925436814969, rel=1e-5)
    lengths = np.array([512, 1024, 2048, 4096, 8192])
    prefill_ms = [59.717, 105.611606, 200.680661, 463.455048, 953.581633]
    per_token_s = np.median(np.array(prefill_ms) / lengths) / 1000 * 70.6 / 70
    assert own.runtime.per_token_in == pytest.approx(128 * per_token_s, rel=1e-5)
    assert own.energy.per_token_in == pytest.approx(4 * 700 * per_token_s, rel=1e-5)
    assert own.host_w == pytest.approx(4 * 150, rel=1e-5)
    assert own.concurrency == 128
    assert (own.gpus, own.pue, own.accuracy_percent) == (4, 1.12, 83.6)


def test_hybrid_passes_through_the_measured_points() -> None:
    """The interpolation gives the sweeps back, and Alpaca's longest answers are not the M1's."""
    module = script().sys.modules["routing_wilkins"]
    for system, column in (("M1 Pro", 0), ("A100", 1)):
        for tokens, at in (("tokens_in", 0), ("tokens_out", 1)):
            for point in module.SWEEPS[system][tokens]:
                query = [np.array([32.0]), np.array([32.0])]
                query[at] = np.array([float(point[0])])
                for value in (1, 2):
                    found = module.on_machines(*query, value)[0, column]
                    assert found == pytest.approx(point[value], rel=0.02), (system, point)
    instance = committed("hybrid-llama2.json")
    assert instance.allowed is not None
    assert (instance.allowed[:, 0] == (instance.tokens_out[:, 0] <= 512)).all()
    assert instance.allowed[:, 1:].all()
    assert instance.boundary == "server"
    assert instance.energy_j is not None
    assert instance.runtime_s is not None
    assert (instance.energy_j[:, 2] > instance.energy_j[:, 1]).all()
    assert (instance.runtime_s[:, 2] > instance.runtime_s[:, 1]).all()


def test_hybrid_divides_short_from_long_answers() -> None:
    """At its zeta the laptop takes some of the queries by itself, all with short answers."""
    instance = committed("hybrid-llama2.json")
    assert instance.energy_j is not None
    assert instance.runtime_s is not None
    (stage,) = instance.objective
    energy, runtime = (term.weight for term in stage.terms)
    cost = energy * instance.energy_j / instance.energy_j.max()
    cost = cost + runtime * instance.runtime_s / instance.runtime_s.max()
    best = cost[:, :2].argmin(axis=1)
    assert 100 < instance.count[best == 0].sum() < 150
    assert instance.tokens_out[best == 0, 0].max() < 128


def test_legacy_laws_give_the_measured_response_back() -> None:
    """A response of the measured mean length takes the measured energy and time."""
    instance = committed("legacy-chat.json")
    folder = shared("data") / "mlenergy_legacy"
    with (folder / "score.csv").open() as file:
        scores = {row["model"]: row for row in csv.DictReader(file)}
    measured = {}
    for gpu_type in ("A100", "A40", "V100"):
        with (folder / f"{gpu_type}_chat.csv").open() as file:
            measured |= {(row["model"], gpu_type): row for row in csv.DictReader(file)}
    assert {(d.model, d.gpu_type) for d in instance.deployments} == set(measured)
    for own in instance.deployments:
        row, score = measured[own.model, own.gpu_type], scores[own.model]
        length = float(row["response_length"])
        assert own.energy is not None
        assert own.runtime is not None
        assert own.energy.per_token_out * length == pytest.approx(float(row["energy"]), rel=1e-5)
        assert own.runtime.per_token_out * length == pytest.approx(float(row["latency"]), rel=1e-5)
        mean = np.mean([float(score[name]) for name in ("arc", "hellaswag", "truthfulqa")])
        assert own.accuracy_percent == pytest.approx(mean, rel=1e-5)


def test_a_name_that_no_one_builds_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    """The command names the instances there are."""
    with pytest.raises(SystemExit):
        script().main(["--name", "alpaca-501"])
    assert "alpaca-52k-capacity" in capsys.readouterr().err
