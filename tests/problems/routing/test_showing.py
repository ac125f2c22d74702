"""What is shown of routing instances and plans: tables, facts, objective, notes, the label."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT
from oracles.routing import limit, plain, small, small_document, term

import greenopt as go
from greenopt.cli import main
from greenopt.describing import describe
from greenopt.problems.routing import showing
from greenopt.problems.routing.instance import RoutingInstance

Run = Callable[..., tuple[int, list[str]]]

LABEL = "batch 1, without KV cache"


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """Run the command line: status and lines on standard output."""

    def command(*arguments: str | Path) -> tuple[int, list[str]]:
        capsys.readouterr()
        status = main([str(argument) for argument in arguments])
        return status, capsys.readouterr().out.splitlines()

    return command


def facts(instance: RoutingInstance) -> list[str]:
    """Every line that facts tell of an instance."""
    lines = (fact.text(fact.of(instance)).splitlines() for fact in showing.FACTS.values())
    return [line for own in lines for line in own]


def lines_of(text: str) -> list[str]:
    """Words of the lines."""
    return [" ".join(line.split()) for line in text.splitlines()]


# solve


def test_solve_prints_what_an_instance_has(run: Run, tmp_path: Path) -> None:
    """Metrics that lack data are hyphens, in both tables; the label stands below them."""
    path = tmp_path / "plain.json"
    instance = RoutingInstance.parse(plain([(3, 20, 100), (2, 100, 90)], label=LABEL))
    instance.save(path)
    status, out = run("solve", path)
    assert status == 0
    plan = go.solve(instance)
    head, totals, blank, second, *rows = out
    assert head.split()[4:] == "energy kWh carbon kg cost USD accuracy % run time s time s".split()
    assert blank == ""
    energy, accuracy, mean = (
        plan.metrics[name] for name in ("energy_kwh", "accuracy_percent", "runtime_mean_s")
    )
    expected = [f"{energy:,.4f}", "-", "-", f"{accuracy:.2f}", f"{mean:.2f}"]
    assert totals.split()[4:9] == expected
    assert second.split()[:4] == ["deployment", "queries", "energy", "kWh"]
    assert rows[0].split()[:5] == ["llama-2-7b", "5", f"{energy:,.4f}", "-", "-"]
    assert rows[1].split() == ["llama-2-13b", "0", "0.0000", "-", "-", "-", "-"]
    assert f"plain: measurements: {LABEL}" in out


def test_every_labelled_instance_of_a_table_is_named(run: Run, tmp_path: Path) -> None:
    """Of several instances in one table each has its own line, and one without a label none."""
    for name, label in (("a", "batch 1"), ("b", "batch 64"), ("c", "")):
        document = plain([(1, 20, 100)], name=name, label=label)
        RoutingInstance.parse(document).save(tmp_path / f"{name}.json")
    _, out = run("solve", tmp_path)
    found = [line for line in out if "measurements" in line]
    assert found == ["a: measurements: batch 1", "b: measurements: batch 64"]


def test_all_metrics_are_shown(run: Run, tmp_path: Path) -> None:
    """Where everything is known there is no hyphen."""
    path = tmp_path / "small.json"
    small(accuracy_floor_percent=None, limits=[]).save(path)
    _, out = run("solve", path)
    assert "-" not in out[1].split()[4:]


# info


def test_info_tells_facts(run: Run, tmp_path: Path) -> None:
    """Label, queries, tokens, deployments, limits and the floor stand in `greenopt info`."""
    path = tmp_path / "small.json"
    small().save(path)
    status, out = run("info", path)
    assert status == 0
    told = lines_of("\n".join(out))
    for line in (
        f"measurements: {LABEL}; energy of GPUs only",
        "queries: 13 of 5 kinds",
        "tokens: 10,700 in (20 to 3000 a query), 2,496 to 2,666 out by deployment (8 to 500 a "
        "query)",
        "limit '7b is used': queries of llama-2-7b at least 1",
        "limit 'a100': gpu_h of all deployments at most 1.6",
        "limit 'small models': tokens of llama-2-7b and llama-2-13b at least 2000 and at most 9000",
        "accuracy: at least 58 %, mean over tokens",
        "whole numbers of queries: by search",
        "objective, stage 1: minimise 0.5 x energy_kwh/largest - 0.5 x "
        "accuracy_percent_tokens/largest",
        "objective, stage 2: minimise 1 x cost_usd/1 + 0.1 x (runtime_s - smallest)/range/2",
    ):
        assert line in told
    (row,) = (line for line in told if line.startswith("llama-2-13b llama-2-13b"))
    assert row == "llama-2-13b llama-2-13b 1 a100-40 - - 1 55.69 3000 90 1.2 50 0.12 1.5"
    (row,) = (line for line in told if line.startswith("llama-2-7b llama-2-7b"))
    assert row.startswith("llama-2-7b llama-2-7b 1 a100-40 8 to 2048 8 to 2048 1 50.97 - 90")


def test_facts_are_counted_by_hand() -> None:
    """Kinds without queries count nowhere, and tokens are those of all queries."""
    instance = RoutingInstance.parse(plain([(3, 20, 100), (0, 9000, 1), (2, 100, 10)]))
    found = describe(instance)
    assert found["queries"] == {"total": 5.0, "kinds": 2}
    assert found["tokens"]["in"] == {"total": 260.0, "min": 20.0, "max": 100.0}
    assert found["tokens"]["out"]["llama-2-7b"] == {"total": 320.0, "min": 10.0, "max": 100.0}
    assert found["whole"] == "vertices"
    assert (found["limits"], found["accuracy_floor_percent"]) == ([], None)
    assert json.loads(json.dumps(found, allow_nan=False)) is not None
    told = facts(instance)
    assert "tokens: 260 in (20 to 100 a query), 320 out (10 to 100 a query)" in told
    assert told[0] == "measurements: no label says how they were made; energy of GPUs only"


def test_columns_that_nobody_has_are_left_out() -> None:
    """A deployment table without data of hosts and electricity does not show them."""
    told = facts(RoutingInstance.parse(plain([(1, 20, 100)])))
    (head,) = (line for line in told if line.startswith("deployments"))
    assert "accuracy %" in head
    assert not any(title in head for title in ("PUE", "host", "context", "USD"))


def test_many_deployments_of_a_limit_are_counted() -> None:
    """More than three deployments of a limit are not named."""
    instance = go.load(ROOT / "instances" / "routing" / "legacy-chat.json")
    (line,) = (line for line in facts(instance) if "'A40 hours'" in line)
    own = next(one for one in instance.limits if one.name == "A40 hours")
    assert line.endswith(f"gpu_h of {len(own.deployments)} deployments at most 16")


@pytest.mark.parametrize(
    ("own", "text"),
    [
        (term("energy_kwh", 1.0), "1 x energy_kwh/1"),
        (term("energy_kwh", 0.5, "largest"), "0.5 x energy_kwh/largest"),
        (term("energy_kwh", 2.0, "largest", 3.0), "2 x energy_kwh/largest/3"),
        (term("energy_kwh", 2.0, "range"), "2 x (energy_kwh - smallest)/range"),
    ],
)
def test_terms(own: dict[str, Any], text: str) -> None:
    """A term tells weight, normalisation and scale."""
    instance = RoutingInstance.parse(plain([(1, 20, 100)], objective=[{"terms": [own]}]))
    assert list(showing.objective(instance)) == [f"objective, stage 1: minimise {text}"]


# check, reweight


def test_check_prints_notes(run: Run, tmp_path: Path) -> None:
    """Queries beyond what was measured, and laws below zero, are told with where and how many."""
    path = tmp_path / "far.json"
    deployments = small_document()["deployments"][:1]
    document = plain([(3, 3000, 1), (1, 20, 100)], name="far", deployments=deployments,
                     outside_range="extrapolate")  # fmt: skip
    RoutingInstance.parse(document).save(path)
    run("solve", path, "--out", tmp_path)
    status, out = run("check", path, tmp_path / "far.solution.json")
    assert status == 0
    assert lines_of("\n".join(out[1:])) == [
        "tokens of 3 queries (75.0%) lie outside the measured ranges: llama-2-7b 3",
        "laws say less than nothing, which is kept: of the energy of 3 queries, of the run time of "
        "3",
    ]


def test_notes_of_nothing() -> None:
    """Without findings there are no lines."""
    assert list(showing.notes({})) == []


def test_reweight_writes_the_normalisation(run: Run, tmp_path: Path) -> None:
    """The word behind the colon of a term is its normalisation."""
    path, other = tmp_path / "plain.json", tmp_path / "other.json"
    limits = [limit("few", "queries", ["llama-2-7b"], upper=1.0)]
    RoutingInstance.parse(plain([(3, 20, 100)], limits=limits)).save(path)
    arguments = ("--term", "energy_kwh=0.5:largest", "--term", "accuracy_percent_tokens=-0.5:range")
    assert run("reweight", path, *arguments, "--out", other)[0] == 0
    (stage,) = go.load(other).objective
    assert [t.normalisation for t in stage.terms] == ["largest", "range"]
    assert [t.weight for t in stage.terms] == [0.5, -0.5]
