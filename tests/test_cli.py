"""The command line: what it prints, what it writes, and how it ends."""

from __future__ import annotations

import contextlib
import copy
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import highspy
import jsonschema
import numpy as np
import pytest
from oracles import tiny as oracle
from oracles.tiny import Document, random_document

import greenopt as go
from greenopt.cli import main
from greenopt.io import to_model
from greenopt.problems import PROBLEMS

INSTANCES = Path(__file__).resolve().parents[1] / "instances" / "placement"
QUICK = INSTANCES / "quick.json"

KEYS = [
    "instance", "problem", "method", "solver", "status", "objective", "bound", "bound_source",
    "gap", "gap_abs", "metrics", "runtime_s", "bound_runtime_s", "solution",
]  # fmt: skip
"""Keys of the record with --json, as the design states them."""


def tiny(**overrides: Any) -> Document:
    """The hand-made document, sharing nothing with any other."""
    return copy.deepcopy(oracle.tiny(**overrides))


def scarce(name: str = "scarce") -> Document:
    """The hand-made document with demand of one class, origin and period beyond all GPUs."""
    document = tiny(name=name)
    document["demand_requests"][1][0][2] = 1e9
    return document


def saved(folder: Path, document: Document) -> Path:
    """An instance file named like the instance."""
    path = folder / f"{document['name']}.json"
    go.PlacementInstance.parse(document).save(path)
    return path


class Ended(NamedTuple):
    """How a command ended: exit status, lines on standard output and on standard error."""

    status: int
    out: list[str]
    err: list[str]


Run = Callable[..., Ended]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """Run the command line in this process."""

    def command(*arguments: str | Path) -> Ended:
        capsys.readouterr()
        try:
            status = main([str(argument) for argument in arguments])
        except SystemExit as end:  # argparse ends the process itself
            status = end.code if isinstance(end.code, int) else -1
        shown = capsys.readouterr()
        assert "Traceback" not in shown.err
        return Ended(status, shown.out.splitlines(), shown.err.splitlines())

    return command


def process(arguments: Sequence[str | Path], **options: Any) -> subprocess.Popen[str]:
    """Start the command line in a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "greenopt.cli", *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )


def ended(arguments: Sequence[str | Path]) -> Ended:
    """Run the command line in a process of its own to its end."""
    with process(arguments) as child:
        out, err = child.communicate(timeout=60)
    return Ended(child.returncode, out.splitlines(), err.splitlines())


def without_times(record: dict[str, Any]) -> dict[str, Any]:
    """A record without what differs from run to run."""
    return {k: v for k, v in record.items() if k not in {"runtime_s", "bound_runtime_s"}}


# solve


def test_solve_prints_a_table(run: Run) -> None:
    """The quick instance: one row of totals, a row a site, and how the bound is proved."""
    status, out, err = run("solve", QUICK)
    assert status == 0
    solution = go.solve(go.load(QUICK))
    head, row = out[0].split(), out[1].split()
    assert head[:4] == ["instance", "status", "objective", "gap"]
    assert row[:2] == ["quick", "optimal"]
    assert float(row[2]) == pytest.approx(solution.objective, rel=1e-8)
    assert float(row[3]) <= 1e-6
    for place, metric in zip(range(4, 8), ("energy_kwh", "carbon_kg", "water_l", "cost_usd"),
                             strict=True):  # fmt: skip
        shown = float(row[place].replace(",", ""))
        assert shown == pytest.approx(solution.metrics[metric], rel=1e-3)
    by_site = solution.metrics_by["site"]
    table = out[out.index("") + 2 :]
    for i, site in enumerate(solution.sets["site"]):
        assert table[i].startswith(site)
        requests, energy = table[i].removeprefix(site).split()[:2]
        assert float(requests.replace(",", "")) == pytest.approx(by_site["requests"][i], abs=0.51)
        assert float(energy.replace(",", "")) == pytest.approx(by_site["energy_kwh"][i], abs=0.51)
    assert any("proved anew from the solution's prices" in line for line in out)
    assert [line for line in err if not line.startswith("greenopt: ")] == []
    assert len({len(line) for line in out[:2]}) == 1


def test_solve_json(run: Run, tmp_path: Path) -> None:
    """One object a line with exactly the documented keys, and nothing else on standard output."""
    a, b = saved(tmp_path, tiny(name="a")), saved(tmp_path, tiny(name="b"))
    status, out, err = run("solve", a, QUICK, b, "--json")
    assert status == 0
    records = [json.loads(line) for line in out]
    assert [record["instance"] for record in records] == ["a", "quick", "b"]
    for record in records:
        assert list(record) == KEYS
        assert (record["problem"], record["method"], record["solver"]) == (
            "placement",
            "exact",
            "highs",
        )
        assert record["status"] == "optimal"
        assert record["bound_source"] == "own-dual"
        assert record["gap"] <= 1e-6
        assert abs(record["gap_abs"]) <= 1e-6 * abs(record["objective"])
        assert record["metrics"]["carbon_kg"] > 0
        assert record["runtime_s"] > 0
        assert record["bound_runtime_s"] == 0
        assert record["solution"] is None
    assert err == []


def test_solve_writes_solutions(run: Run, tmp_path: Path) -> None:
    """With --out each solution is saved under the instance's file name and named in the record."""
    path, out = saved(tmp_path, tiny()), tmp_path / "made" / "here"
    status, lines, _ = run("solve", path, "--json", "--out", out)
    assert status == 0
    (record,) = map(json.loads, lines)
    assert record["solution"] == str(out / "tiny.solution.json")
    solution = go.load_solution(record["solution"])
    assert go.check(go.load(path), solution).ok
    assert without_times(record) == without_times(
        {**solution.summary(), "solution": record["solution"]}
    )
    assert [p.name for p in out.iterdir()] == ["tiny.solution.json"]


def test_solve_plots(run: Run, tmp_path: Path) -> None:
    """With --plot there is a picture beside the solution, and the table says where."""
    path = saved(tmp_path, tiny())
    status, lines, _ = run("solve", path, "--out", tmp_path, "--plot")
    assert status == 0
    assert (tmp_path / "tiny.png").read_bytes().startswith(b"\x89PNG\r\n")
    assert f"tiny: plot in {tmp_path / 'tiny.png'}" in lines
    assert f"tiny: solution in {tmp_path / 'tiny.solution.json'}" in lines


def test_solve_a_folder(run: Run, tmp_path: Path) -> None:
    """A folder means the instances in it, by name; solutions and bounds are passed over."""
    for name in ("b", "a"):
        saved(tmp_path, tiny(name=name))
    go.PlacementInstance.parse(tiny(name="c")).save(tmp_path / "c.json.gz")
    (tmp_path / "best_known.json").write_text("{}")
    (tmp_path / "notes.txt").write_text("not an instance")
    assert run("solve", tmp_path / "a.json", "--out", tmp_path).status == 0
    status, out, _ = run("solve", tmp_path, "--json")
    assert status == 0
    assert [json.loads(line)["instance"] for line in out] == ["a", "b", "c"]


def test_solve_an_empty_folder(run: Run, tmp_path: Path) -> None:
    """A folder without instances is unusable input, in one line."""
    (tmp_path / "notes.txt").write_text("not an instance")
    status, out, err = run("solve", tmp_path)
    assert (status, out) == (2, [])
    (line,) = err
    assert str(tmp_path) in line
    assert "no instance files" in line


def test_several_instances_are_one_table(run: Run, tmp_path: Path) -> None:
    """Two instances: one head, two rows, columns aligned."""
    paths = [saved(tmp_path, tiny(name=name)) for name in ("a", "a-longer-name")]
    status, out, _ = run("solve", *paths)
    assert status == 0
    assert out[0].startswith("instance ")
    assert [line.split()[0] for line in out[1:3]] == ["a", "a-longer-name"]
    assert len({line.index("optimal") for line in out[1:3]}) == 1


def test_a_bad_file_does_not_stop_the_others(run: Run, tmp_path: Path) -> None:
    """Good instances are solved, the bad one is one line on standard error, and the status 2."""
    good = saved(tmp_path, tiny(name="good"))
    bad = tmp_path / "bad.json"
    bad.write_text("{")
    status, out, err = run("solve", bad, good, "--json")
    assert status == 2
    assert [json.loads(line)["instance"] for line in out] == ["good"]
    assert [line for line in err if "bad.json: $: is not valid JSON" in line] == err
    assert len(err) == 1


def test_jobs_give_the_same_results(tmp_path: Path) -> None:
    """Two processes give the records of one, in the same order, in spite of a bad file."""
    bad = tmp_path / "bad.json"
    bad.write_text("{")
    paths = [QUICK, bad, saved(tmp_path, tiny()), saved(tmp_path, scarce())]
    one, two = (ended(["solve", *paths, "--json", "--jobs", jobs]) for jobs in ("1", "2"))
    assert one.status == two.status == 2
    records = [[without_times(json.loads(line)) for line in end.out] for end in (one, two)]
    assert records[0] == records[1]
    assert [record["instance"] for record in records[0]] == ["quick", "tiny", "scarce"]
    assert one.err == two.err
    assert "Traceback" not in "".join(one.err)


def test_runs_repeat_bit_for_bit(run: Run, tmp_path: Path) -> None:
    """Solving twice gives the same record and the same plan."""
    records, decisions = [], []
    for folder in ("a", "b"):
        _, (line,), _ = run("solve", QUICK, "--json", "--out", tmp_path / folder, "--seed", "3")
        record = json.loads(line)
        document = json.loads(Path(record.pop("solution")).read_text())
        records.append(without_times(record))
        decisions.append((document["decision"], document["stages"]))
    assert records[0] == records[1]
    assert decisions[0] == decisions[1]


# Infeasible, unbounded, limits, wrong usage


def test_infeasible_is_explained(run: Run, tmp_path: Path) -> None:
    """Status 1, no objective, and which requests cannot be served, by period, class and origin."""
    status, out, err = run("solve", saved(tmp_path, scarce()), "--json")
    assert status == 1
    (record,) = map(json.loads, out)
    assert list(record) == KEYS
    assert record["status"] == "infeasible"
    assert (record["objective"], record["bound"], record["gap"]) == (None, None, None)
    assert record["bound_source"] == "none"
    assert record["metrics"] == {}
    found = [line for line in err if "2023-07-18T01:00Z" in line and "assist" in line]
    assert found
    assert all("from us" in line for line in found)
    assert not any("chat" in line or "summary" in line for line in err)
    table = run("solve", saved(tmp_path, scarce()))
    assert table.status == 1
    assert "infeasible" in table.out[1].split()


def test_infeasible_without_any_gpu(run: Run, tmp_path: Path) -> None:
    """No GPU anywhere: infeasible, with every class named, not an error of the solver."""
    path = saved(tmp_path, tiny(gpus={"axes": ["gpu_type"], "values": [0.0, 0.0]}))
    status, out, err = run("solve", path, "--json")
    assert status == 1
    assert json.loads(out[0])["status"] == "infeasible"
    for name in ("chat", "summary", "assist"):
        assert any(name in line.split() for line in err)


def test_infeasible_budget_is_named(run: Run, tmp_path: Path) -> None:
    """A budget that cannot be kept is named in the explanation."""
    cap = {"name": "sunshine", "metric": "carbon_kg", "limit": {"axes": [], "values": 0.01}}
    status, _, err = run("solve", saved(tmp_path, tiny(budgets=[cap])))
    assert status == 1
    assert any("sunshine" in line for line in err)


def test_unlimited_rewards_are_unbounded(run: Run, tmp_path: Path) -> None:
    """Negative carbon and idle instances without a limit: unbounded, not an exception."""
    document = tiny(
        name="endless",
        gpus={"axes": ["gpu_type"], "values": [None, None]},
        carbon_g_per_kwh={"axes": [], "values": -100.0},
        objective=[{"terms": [{"metric": "carbon_kg", "weight": 1.0}]}],
    )
    for profile in document["profiles"]:
        profile["levels"].insert(0, {**profile["levels"][0], "requests_per_s": 0.0})
    status, out, _ = run("solve", saved(tmp_path, document), "--json")
    assert status == 1
    (record,) = map(json.loads, out)
    assert record["status"] == "unbounded"
    assert record["objective"] is None


def test_time_limit_that_is_too_short(run: Run) -> None:
    """Nothing found in time is status "limit", exit 1, and no claim of a bound."""
    status, out, _ = run("solve", QUICK, "--json", "--time-limit", "1e-6")
    assert status == 1
    (record,) = map(json.loads, out)
    assert record["status"] in {"limit", "feasible"}
    if record["status"] == "limit":
        assert (record["objective"], record["bound"]) == (None, None)


def test_time_limit_that_suffices(run: Run) -> None:
    """A limit that is not reached changes nothing."""
    status, out, _ = run("solve", QUICK, "--json", "--time-limit", "60")
    assert status == 0
    objective = go.solve(go.load(QUICK)).objective
    assert json.loads(out[0])["objective"] == pytest.approx(objective, rel=1e-9)


@pytest.mark.parametrize(
    ("options", "word"),
    [
        (["--solver", "gurobi"], "'gurobi'"),
        (["--solver", ""], "unknown solver"),
        (["--method", "magic"], "'magic'"),
        (["--solver", "gurobi", "--jobs", "2"], "'gurobi'"),
    ],
)
def test_unknown_names_are_one_line(
    options: list[str], word: str, run: Run, tmp_path: Path
) -> None:
    """An unknown solver or method: status 2, one line that names it, and nothing on stdout."""
    paths = [saved(tmp_path, tiny(name=name)) for name in ("a", "b")]
    status, out, err = run("solve", *paths, *options)
    assert (status, out) == (2, [])
    (line,) = err
    assert line.startswith("greenopt: unknown")
    assert word in line
    assert "known are" in line


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["solve"],
        ["dissolve"],
        ["solve", "x.json", "--time-limit", "0"],
        ["solve", "x.json", "--time-limit", "-1"],
        ["solve", "x.json", "--time-limit", "nan"],
        ["solve", "x.json", "--time-limit", "soon"],
        ["solve", "x.json", "--gap", "-1e-6"],
        ["solve", "x.json", "--gap", "inf"],
        ["solve", "x.json", "--jobs", "0"],
        ["solve", "x.json", "--jobs", "1.5"],
        ["solve", "x.json", "--colour"],
        ["check", "x.json"],
        ["export", "x.json"],
        ["export", "x.json", "--format", "xls", "--out", "y"],
        ["reweight", "x.json", "--out", "y"],
        ["reweight", "x.json", "--term", "carbon_kg", "--out", "y"],
        ["reweight", "x.json", "--term", "carbon_kg=much", "--out", "y"],
        ["reweight", "x.json", "--term", "carbon_kg=1/x", "--out", "y"],
        ["schema"],
    ],
)
def test_wrong_usage(arguments: list[str], run: Run) -> None:
    """Wrong usage ends with status 2 and a usage line on standard error."""
    status, out, err = run(*arguments)
    assert (status, out) == (2, [])
    assert err[0].startswith("usage: greenopt")
    assert "error: " in err[-1]


def test_help_and_version(run: Run) -> None:
    """Help names every command; the version is the package's."""
    status, out, _ = run("--help")
    assert status == 0
    for command in ("solve", "check", "certify", "info", "plot", "export", "schema", "reweight"):
        assert any(line.strip().startswith(command) for line in out)
    assert run("--version") == (0, [f"greenopt {go.__version__}"], [])


def test_module_and_exit_status_of_the_process(tmp_path: Path) -> None:
    """Status 0, 1 and 2 are those of the process; `python -m greenopt.cli` is the command."""
    good, poor = saved(tmp_path, tiny()), saved(tmp_path, scarce())
    assert ended(["solve", good, "--json"]).status == 0
    assert ended(["solve", poor, "--json"]).status == 1
    end = ended(["solve", tmp_path / "none.json"])
    assert end.status == 2
    assert end.err == [
        f"greenopt: {tmp_path / 'none.json'}: $: cannot be read: No such file or directory"
    ]


@pytest.mark.parametrize("solver", ["highs", "highs-simplex", "highs-ipm", "highs-pdlp"])
def test_every_solver_reaches_the_optimum(solver: str, run: Run, tmp_path: Path) -> None:
    """All solver names work and agree, to what a first-order method promises."""
    path = saved(tmp_path, tiny())
    status, out, _ = run("solve", path, "--json", "--solver", solver, "--gap", "1e-4")
    (record,) = map(json.loads, out)
    assert record["solver"] == solver
    assert status == 0
    expected = go.solve(go.load(path), gap=0).objective
    assert record["objective"] == pytest.approx(expected, rel=2e-4)


def test_integer_model_and_its_bound(run: Run, tmp_path: Path) -> None:
    """An even balance is a MILP: its relaxation bound is timed apart, and can be left out."""
    document = tiny(balance="even", objective=[{"terms": [{"metric": "cost_usd", "weight": 1.0}]}])
    path = saved(tmp_path, document)
    status, out, _ = run("solve", path, "--json")
    with_bound = json.loads(out[0])
    assert status == 0
    assert with_bound["bound_runtime_s"] > 0
    status, out, _ = run("solve", path, "--json", "--no-bound")
    without = json.loads(out[0])
    assert status == 0
    assert without["bound_runtime_s"] == 0
    assert without["bound_source"] == "tree"
    assert without["objective"] == pytest.approx(with_bound["objective"], rel=1e-6)


def test_nothing_to_serve(run: Run, tmp_path: Path) -> None:
    """No demand at all: optimal at zero, no mean TTFT, and even the picture can be drawn."""
    document = tiny(
        demand_requests={"axes": [], "values": 0.0},
        objective=[{"terms": [{"metric": "cost_usd", "weight": 1.0}]}],
    )
    path = saved(tmp_path, document)
    status, out, _ = run("solve", path, "--json", "--out", tmp_path / "out")
    assert status == 0
    record = json.loads(out[0])
    assert (record["objective"], record["metrics"]["requests"]) == (0.0, 0.0)
    assert record["metrics"]["ttft_mean_s"] is None
    assert run("check", path, record["solution"]).status == 0
    assert run("certify", path, record["solution"]).status == 0
    status, out, err = run("solve", path, "--out", tmp_path / "out", "--plot")
    assert status == 0
    assert out[1].split()[:2] == ["tiny", "optimal"]
    assert all(line.startswith("greenopt: ") for line in err)


def test_reader_that_goes_away() -> None:
    """`greenopt schema placement | head -1`: no message, and one of the documented statuses."""
    with process(["schema", "placement"]) as child:
        assert child.stdout is not None
        assert child.stderr is not None
        child.stdout.close()
        err = child.stderr.read()
        status = child.wait(timeout=60)
    assert err == ""
    assert status in {0, 1, 2}


# check and certify


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Document]:
    """The hand-made instance's file, and its solution as a document."""
    folder = tmp_path_factory.mktemp("plan")
    path = saved(folder, tiny())
    solution = go.solve(go.load(path))
    return path, json.loads(json.dumps(solution.document()))


def tampered(folder: Path, document: Document) -> Path:
    """A solution file of a changed document, its top in line with its last stage."""
    for name in ("objective", "bound", "bound_source", "gap", "gap_abs"):
        del document[name]
    path = folder / "tampered.solution.json"
    path.write_text(json.dumps(document))
    return path


def test_check_and_certify_accept(plan: Any, run: Run, tmp_path: Path) -> None:
    """The solution as it was saved is checked and certified."""
    path, document = plan[0], copy.deepcopy(plan[1])
    file = tampered(tmp_path, document)
    status, out, err = run("check", path, file)
    assert (status, err) == (0, [])
    assert out[0].startswith("ok")
    status, out, err = run("certify", path, file)
    assert (status, err) == (0, [])
    assert out[-1] == "ok"
    assert "proved" in out[0]


def test_check_and_certify_in_json(plan: Any, run: Run, tmp_path: Path) -> None:
    """With --json: one object, with the recomputed metrics or the proved bounds."""
    path, document = plan[0], copy.deepcopy(plan[1])
    file = tampered(tmp_path, document)
    _, (line,), _ = run("check", path, file, "--json")
    report = json.loads(line)
    assert report["ok"] is True
    assert report["findings"] == []
    assert report["objective"] == pytest.approx(plan[1]["objective"], rel=1e-9)
    assert set(report["metrics"]) == set(document["metrics"])
    _, (line,), _ = run("certify", path, file, "--json")
    certificate = json.loads(line)
    assert certificate["ok"] is True
    assert certificate["optimal"] is True
    (stage,) = certificate["stages"]
    assert stage["proved_bound"] == pytest.approx(plan[1]["bound"], rel=1e-9)


def move_flow(document: Document) -> None:
    """Serve the requests of one entry at the other site without moving instances."""
    flow = document["decision"]["flow"]
    axes = [flow["codes"][axis] for axis in flow["axes"]]
    taken = set(zip(*axes, strict=True))
    for i, (t, o, k, s, m, level) in enumerate(zip(*axes, strict=True)):
        if (t, o, k, 1 - s, m, level) not in taken:
            flow["codes"]["site"][i] = 1 - s
            return
    raise AssertionError("every entry has its mirror image")


def drop_demand(document: Document) -> None:
    """Leave the requests of one entry unserved."""
    flow = document["decision"]["flow"]
    for codes in (*flow["codes"].values(), flow["values"]):
        del codes[0]


def too_few_instances(document: Document) -> None:
    """Run nine of ten instances."""
    run_ = document["decision"]["instances"]
    run_["values"] = [0.9 * value for value in run_["values"]]


def too_many_instances(document: Document) -> None:
    """Run four times as many instances, beyond the GPUs there are."""
    run_ = document["decision"]["instances"]
    run_["values"] = [4 * value for value in run_["values"]]


def wrong_metric(document: Document) -> None:
    """Report 1 % less carbon than the plan has."""
    document["metrics"]["carbon_kg"] *= 0.99


def wrong_metric_by_site(document: Document) -> None:
    """Report less water at one site."""
    document["metrics_by"]["site"]["water_l"][0] *= 0.99


def missing_metric(document: Document) -> None:
    """Report no cost at all."""
    del document["metrics"]["cost_usd"]


def invented_metric(document: Document) -> None:
    """Report something the instance does not know."""
    document["metrics"]["joy_kg"] = 1.0


def wrong_objective(document: Document) -> None:
    """Report a better objective than the plan has."""
    document["stages"][0]["objective"] *= 0.99


def raised_bound(document: Document) -> None:
    """Claim a bound above the plan's objective."""
    document["stages"][0]["bound"] *= 1.01


def negative_flow(document: Document) -> None:
    """Serve minus one request."""
    document["decision"]["flow"]["values"][0] = -1.0


def unmet_demand(document: Document) -> None:
    """Turn requests away although every class forbids it."""
    drop_demand(document)
    document["decision"]["unmet"] = {
        "unit": "requests",
        "axes": ["period", "origin", "class"],
        "codes": {"period": [0], "origin": [0], "class": [0]},
        "values": [24000.0],
    }


def no_stages(document: Document) -> None:
    """Leave out the objective."""
    document["stages"] = []


def lowered_bound(document: Document) -> None:
    """Claim optimality with a bound that leaves a gap."""
    document["stages"][0]["bound"] *= 0.9


REJECTED = {
    move_flow: "load",
    drop_demand: "demand",
    too_few_instances: "load",
    too_many_instances: "GPUs",
    wrong_metric: "carbon_kg",
    wrong_metric_by_site: "metrics_by.site.water_l",
    missing_metric: "cost_usd",
    invented_metric: "joy_kg",
    wrong_objective: "objective",
    raised_bound: "bound",
    negative_flow: "non-negativity",
    unmet_demand: "unmet demand is forbidden",
    no_stages: "stages",
    lowered_bound: "gap",
}


@pytest.mark.parametrize("change", REJECTED, ids=lambda change: change.__name__)
def test_check_rejects(
    change: Callable[[Document], None], plan: Any, run: Run, tmp_path: Path
) -> None:
    """A tampered plan or report is status 1, and what is wrong is said."""
    path, document = plan[0], copy.deepcopy(plan[1])
    change(document)
    file = tampered(tmp_path, document)
    status, out, err = run("check", path, file)
    assert (status, err) == (1, [])
    assert out[0] == "NOT ok"
    assert any(REJECTED[change] in line for line in out[1:]), out
    status, (line,), _ = run("check", path, file, "--json")
    assert status == 1
    assert json.loads(line)["ok"] is False


@pytest.mark.parametrize("factor", [1.01, 1.0 + 1e-6])
def test_certify_rejects_a_raised_bound(factor: float, plan: Any, run: Run, tmp_path: Path) -> None:
    """A bound above what weak duality gives is wrong, however little above."""
    path, document = plan[0], copy.deepcopy(plan[1])
    document["stages"][0]["bound"] *= factor
    status, out, _ = run("certify", path, tampered(tmp_path, document))
    assert status == 1
    assert "NOT ok" in out[-1]


def without_marginals(marginals: Document) -> Document:
    """No multipliers at all."""
    return {}


def turned_marginals(marginals: Document) -> Document:
    """The multipliers of load with their signs turned."""
    load = marginals["load"]
    return {**marginals, "load": {**load, "values": [-value for value in load["values"]]}}


@pytest.mark.parametrize("change", [without_marginals, turned_marginals])
def test_certify_needs_the_marginals(
    change: Callable[[Document], Document], plan: Any, run: Run, tmp_path: Path
) -> None:
    """Without multipliers, or with nonsense for them, the claimed bound is not proved."""
    path, document = plan[0], copy.deepcopy(plan[1])
    document["stages"][0]["marginals"] = change(document["stages"][0]["marginals"])
    status, out, _ = run("certify", path, tampered(tmp_path, document))
    assert status == 1
    assert "NOT ok" in out[-1]


@pytest.mark.parametrize("command", ["check", "certify"])
@pytest.mark.parametrize("where", ["top", "stage", "both"])
def test_bound_raised_in_the_file(
    where: str, command: str, plan: Any, run: Run, tmp_path: Path
) -> None:
    """A bound edited in the file, gaps left as they were: readable but wrong, so status 1."""
    path, document = plan[0], copy.deepcopy(plan[1])
    if where != "stage":
        document["bound"] *= 1.01
    if where != "top":
        document["stages"][0]["bound"] *= 1.01
    file = tmp_path / "raised.json"
    file.write_text(json.dumps(document))
    status, out, err = run(command, path, file)
    assert status == 1
    assert "bound" in " ".join([*out, *err])


def test_certify_accepts_a_lower_bound(plan: Any, run: Run, tmp_path: Path) -> None:
    """A bound that claims less than can be proved is true."""
    path, document = plan[0], copy.deepcopy(plan[1])
    lowered_bound(document)
    assert run("certify", path, tampered(tmp_path, document)).status == 0


def test_budget_broken_in_another_instance(run: Run, tmp_path: Path) -> None:
    """A plan that breaks a budget is rejected: the plan of the instance without it."""
    free = go.solve(go.PlacementInstance.parse(tiny()))
    carbon = free.metrics["carbon_kg"]
    assert carbon is not None
    cap = {"name": "sun", "metric": "carbon_kg", "limit": {"axes": [], "values": 0.9 * carbon}}
    path = saved(tmp_path, tiny(budgets=[cap]))
    document = json.loads(json.dumps(free.document()))
    document["instance_sha256"] = go.load(path).sha256
    status, out, _ = run("check", path, tampered(tmp_path, document))
    assert status == 1
    assert any("budget sun" in line for line in out)


@pytest.mark.parametrize("command", ["check", "certify"])
def test_solution_of_another_instance(command: str, plan: Any, run: Run, tmp_path: Path) -> None:
    """A solution of another instance is no input at all: status 2, one line."""
    other = saved(tmp_path, tiny(name="other"))
    status, out, err = run(command, other, tampered(tmp_path, copy.deepcopy(plan[1])))
    assert (status, out) == (2, [])
    (line,) = err
    assert "$.instance_sha256: is of another instance ('tiny'" in line


@pytest.mark.parametrize("command", ["check", "certify"])
def test_solution_without_a_plan(command: str, run: Run, tmp_path: Path) -> None:
    """An infeasible solution has nothing to check or certify: status 1, and said so."""
    path = saved(tmp_path, scarce())
    assert run("solve", path, "--out", tmp_path).status == 1
    status, out, err = run(command, path, tmp_path / "scarce.solution.json")
    assert (status, err) == (1, [])
    assert "no plan" in " ".join(out)


@pytest.mark.parametrize("command", ["check", "certify"])
def test_unreadable_solution(command: str, plan: Any, run: Run, tmp_path: Path) -> None:
    """A broken solution file is status 2, one line with its name and path."""
    file = tmp_path / "broken.json"
    file.write_text(json.dumps(plan[1])[:-5])
    status, out, err = run(command, plan[0], file)
    assert (status, out) == (2, [])
    (line,) = err
    assert line.startswith(f"greenopt: {file}: $: is not valid JSON")


@pytest.mark.parametrize("command", ["check", "certify"])
def test_marginals_over_other_axes(command: str, plan: Any, run: Run, tmp_path: Path) -> None:
    """Multipliers over the wrong axes end in a status and a line, not in an exception."""
    path, document = plan[0], copy.deepcopy(plan[1])
    gpus = document["stages"][0]["marginals"]["gpus"]
    gpus.update(axes=["site"], codes={"site": [0]}, values=[-1.0])
    status, _, err = run(command, path, tampered(tmp_path, document))
    assert status in ({0} if command == "check" else {1, 2})
    assert len(err) == (1 if status == 2 else 0)


# info, schema, export, reweight


def test_info(run: Run, tmp_path: Path) -> None:
    """Sets, size of the model, digest, licence and every source."""
    status, out, err = run("info", QUICK)
    quick = go.load(QUICK)
    model = to_model(quick)
    assert (status, err) == (0, [])
    text = "\n".join(out)
    assert "24 period" in text
    assert "8 site" in text
    assert f"{model.matrix.shape[1]} columns" in text
    assert f"{model.matrix.shape[0]} rows" in text
    assert quick.sha256 in text
    assert quick.provenance.data_licence in text
    for source in quick.provenance.sources:
        assert source.name in text
        assert source.attribution in text
    paths = [saved(tmp_path, tiny(name=name)) for name in ("a", "b")]
    status, out, _ = run("info", *paths)
    assert status == 0
    assert [line.split()[0] for line in out if not line.startswith(" ")] == ["a", "b"]


def test_info_tells_ranges(run: Run, tmp_path: Path) -> None:
    """Time, demand and every series with its unit; what is negative or unlimited is counted."""
    document = tiny(
        price_usd_per_mwh=[[-5.0, 61.0], [35.0, 74.0]],
        gpus=[[[24.0, None], [24.0, 32.0]], [[24.0, 24.0], [16.0, 32.0]]],
        budgets=[{"name": "cap", "metric": "water_l", "limit": {"axes": [], "values": 9e6}}],
    )
    status, out, err = run("info", saved(tmp_path, document))
    assert (status, err) == (0, [])
    lines = {line.split()[0]: " ".join(line.split()[1:]) for line in out}
    assert lines["time:"] == (
        "2023-07-18T00:00Z to 2023-07-18T01:30:00Z, 2 periods of 1800 to 3600 s"
    )
    total = np.array(document["demand_requests"]).sum(axis=(0, 1))
    expected = f"{total.sum():,.0f} requests (chat {total[0]:,.0f}, summary {total[1]:,.0f}, "
    assert lines["demand:"].startswith(expected)
    assert lines["price_usd_per_mwh"] == "-5 48 74 USD/MWh 1 of 4 negative"
    assert lines["gpus"] == "16 24 32 GPUs 1 of 8 null"
    assert lines["carbon_g_per_kwh"] == "22 167.5 340 g CO2e/kWh"
    assert lines["budgets.cap.limit"].startswith("9,000,000 9,000,000")
    assert any("70b in fast 3 in 2" in line for line in out)  # its first two levels are one group
    assert any("no independent parts of 2000 columns or more" in line for line in out)


def test_info_json(run: Run, tmp_path: Path) -> None:
    """One object an instance a line, with the numbers of the arrays and of the model."""
    paths = [saved(tmp_path, tiny(name=name)) for name in ("a", "b")]
    status, out, err = run("info", QUICK, *paths, "--json")
    assert (status, err) == (0, [])
    records = [json.loads(line) for line in out]
    assert [record["instance"] for record in records] == ["quick", "a", "b"]
    quick, record = go.load(QUICK), records[0]
    model = to_model(quick)
    assert record["sha256"] == quick.sha256
    assert record["sets"] == {axis: len(members) for axis, members in quick.sets.items()}
    assert record["demand_requests"]["total"] == pytest.approx(quick.demand_requests.sum())
    for name in ("carbon_g_per_kwh", "rtt_s", "cycles_of_concentration", "gpus"):
        values, own = getattr(quick, name), record["series"][name]
        assert (own["min"], own["max"]) == (values.min(), values.max())
        assert own["median"] == pytest.approx(np.median(values))
    assert record["model"]["columns"] == sum(record["model"]["column_blocks"].values())
    assert record["model"]["coefficients"] == model.matrix.nnz
    size = np.abs(model.matrix.data)
    found = record["coefficients"]["matrix"]
    assert (found["smallest"], found["largest"]) == (size[size > 0].min(), size.max())
    cost = np.abs(model.stages[0].c)
    assert record["coefficients"]["objective"]["ratio"] == pytest.approx(
        cost.max() / cost[cost > 0].min()
    )
    assert record["structure"]["parts"] > 1
    assert record["warnings"] == []


def test_info_warns_of_wide_ranges(run: Run, tmp_path: Path) -> None:
    """More than 1e8 between coefficients: the metrics, or the blocks, and the status stays 0."""
    terms = [
        {"metric": "cost_usd", "weight": 1.0},
        {"metric": "carbon_kg", "weight": 1.0, "scale": 1e-12},
    ]
    heavy = {"name": "heavy", "unit": "grain", "per_request": {"axes": [], "values": 1e12}}
    wide = [
        tiny(name="terms", objective=[{"terms": terms}]),
        tiny(
            name="blocks",
            custom_metrics=[heavy],
            budgets=[{"name": "b", "metric": "heavy", "limit": {"axes": [], "values": 1e21}}],
        ),
    ]
    status, out, err = run("info", *(saved(tmp_path, document) for document in wide))
    assert status == 0
    (objective,) = (line for line in err if "coefficients of objective " in line)
    assert objective.startswith("greenopt: terms: ")
    assert "in cost_usd to " in objective
    assert "in carbon_kg, more than 1e+08" in objective
    assert "weight and scale" in objective
    (matrix,) = (line for line in err if "coefficients of matrix " in line)
    assert matrix.startswith("greenopt: blocks: ")
    assert "1e+12 in budget x flow" in matrix
    assert "units" in matrix
    (side,) = (line for line in err if "right-hand sides" in line)
    assert "to 1e+21 in budget" in side
    assert len(err) == 3
    assert "coefficients of" not in "".join(out)


def test_info_suggests_decomposition(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A large linear program that a budget holds together is one for decomposition; no other."""
    document = json.loads(QUICK.read_text())
    limit = {"name": "total", "metric": "cost_usd", "limit": {"axes": [], "values": 2e3}}
    document |= {"name": "coupled", "budgets": [limit]}
    path = saved(tmp_path, document)
    _, out, _ = run("info", path)
    (line,) = (line for line in out if "structure: " in line)
    assert "independent parts" in line
    assert "without its dense rows (1 budget)" in line
    assert "decomposition" not in line
    monkeypatch.setattr("greenopt.describing.LARGE_COLUMNS", 10_000)
    _, out, _ = run("info", path)
    assert any("--solver decomposition suits it" in line for line in out)
    whole = saved(tmp_path, document | {"name": "whole", "instance_counts": "integer"})
    _, out, _ = run("info", whole)
    assert not any("decomposition suits" in line for line in out)


def test_info_of_odd_instances(run: Run, tmp_path: Path) -> None:
    """GPUs without limit and series of zeros have no range, and nothing breaks."""
    document = tiny(
        gpus={"axes": [], "values": None},
        demand_requests={"axes": [], "values": 0.0},
        carbon_g_per_kwh={"axes": [], "values": 0.0},
        objective=[{"terms": [{"metric": "carbon_kg", "weight": 1.0}]}],
    )
    path = saved(tmp_path, document)
    status, out, err = run("info", path)
    assert (status, err) == (0, [])
    lines = {line.split()[0]: " ".join(line.split()[1:]) for line in out}
    assert lines["gpus"] == "- - - GPUs 8 of 8 null"
    assert lines["carbon_g_per_kwh"] == "0 0 0 g CO2e/kWh"
    assert "    objective: none" in out
    status, out, _ = run("info", path, "--json")
    assert status == 0
    assert json.loads(out[0])["coefficients"]["objective"] is None


@pytest.mark.parametrize("seed", range(12))
def test_info_of_random_instances(seed: int, run: Run, tmp_path: Path) -> None:
    """Whatever features an instance has, it is described, as text and as JSON."""
    rng = np.random.default_rng(seed)
    on = {name: bool(rng.random() < 0.4) for name in oracle.FEATURES}
    path = saved(tmp_path, random_document(rng, **on) | {"name": "random"})
    status, out, _ = run("info", path)
    assert status == 0
    assert out[0].startswith("random (placement)")
    status, out, _ = run("info", path, "--json")
    record = json.loads(out[0])
    model = to_model(go.load(path))
    assert (record["model"]["columns"], record["model"]["rows"]) == model.matrix.shape[::-1]


# plot


@pytest.mark.parametrize("kind", ["overview", "sources", "utilisation", "marginal_carbon"])
def test_plot(kind: str, run: Run, tmp_path: Path) -> None:
    """A picture of the kind asked for, where it was asked for, and a line that says so."""
    path = saved(tmp_path, tiny())
    assert run("solve", path, "--out", tmp_path).status == 0
    solution, picture = tmp_path / "tiny.solution.json", tmp_path / "picture.svg"
    status, out, err = run("plot", path, solution, "--kind", kind, "--out", picture)
    assert (status, err) == (0, [])
    assert out == [f"tiny: {kind} in {picture}"]
    assert picture.read_text().startswith("<?xml")
    go.plot(go.load(path), go.load_solution(solution), tmp_path / "again.svg", kind)
    assert picture.read_bytes() == (tmp_path / "again.svg").read_bytes()


def test_plot_refused(run: Run, tmp_path: Path) -> None:
    """What cannot be drawn is one line and status 2; no optimum in time is status 1."""
    path = saved(tmp_path, tiny())
    assert run("solve", path, "--out", tmp_path).status == 0
    solution, picture = tmp_path / "tiny.solution.json", tmp_path / "picture.png"
    for words, *arguments in (
        ("$.locations is missing", path, solution, "--kind", "flows", "--out", picture),
        ("one of .png, .svg, .pdf", path, solution, "--out", tmp_path / "picture.bmp"),
        ("there is no such folder", path, solution, "--out", tmp_path / "none" / "p.png"),
        ("cannot be read", path, tmp_path / "none.json", "--out", picture),
        ("another instance", saved(tmp_path, tiny(name="b")), solution, "--out", picture),
    ):
        status, out, err = run("plot", *arguments)
        assert (status, out) == (2, [])
        assert len(err) == 1
        assert words in err[0]
    assert run("plot", path, solution, "--kind", "pie", "--out", picture).status == 2
    assert run("plot", path, solution).status == 2
    arguments = ("--kind", "marginal_carbon", "--time-limit", "1e-9", "--out", picture)
    status, out, err = run("plot", path, solution, *arguments)
    assert (status, out) == (1, [])
    assert "no time left" in err[0]
    assert not picture.exists()


def test_schema(run: Run) -> None:
    """A valid JSON Schema of the current draft, which the quick instance fits."""
    status, out, err = run("schema", "placement")
    assert (status, err) == (0, [])
    schema = json.loads("\n".join(out))
    jsonschema.Draft202012Validator.check_schema(schema)
    assert schema == go.PlacementInstance.json_schema()
    jsonschema.validate(json.loads(QUICK.read_text()), schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({}, schema)


def test_schema_of_an_unknown_problem(run: Run) -> None:
    """A problem that does not exist is status 2, one line that names those that do."""
    status, out, err = run("schema", "knapsack")
    assert (status, out) == (2, [])
    known = ", ".join(PROBLEMS)
    assert err == [f"greenopt: unknown problem 'knapsack'; known are {known}"]


def objective_of(file: Path) -> float:
    """Optimum of a model file by HiGHS alone."""
    highs = highspy.Highs()
    highs.silent()
    assert highs.readModel(str(file)) == highspy.HighsStatus.kOk
    highs.setOptionValue("mip_rel_gap", 1e-9)
    highs.run()
    assert highs.getModelStatus() == highspy.HighsModelStatus.kOptimal
    return float(highs.getInfo().objective_function_value)


EXPORTED: dict[str, Callable[[], Document]] = {
    "tiny": tiny,
    "milp": lambda: tiny(name="milp", balance="even"),
    "budgets": lambda: {
        **random_document(np.random.default_rng(11), power_cap=True, max_sites=True, mask=True),
        "name": "budgets",
    },
}


@pytest.mark.parametrize("kind", ["mps", "lp"])
@pytest.mark.parametrize("case", EXPORTED)
def test_export_solved_by_another_hand(case: str, kind: str, run: Run, tmp_path: Path) -> None:
    """The exported file, read and solved anew, has the optimum of `solve`."""
    path, file = saved(tmp_path, EXPORTED[case]()), tmp_path / f"model.{kind}"
    assert run("export", path, "--format", kind, "--out", file) == (0, [], [])
    expected = go.solve(go.load(path), gap=0)
    assert expected.status == "optimal"
    assert objective_of(file) == pytest.approx(expected.objective, rel=1e-6)
    text = file.read_text()
    assert re.search(r"\bflow_period0_origin0_", text)
    assert re.search(r"\bdemand_period0_origin0_class0\b", text)


def test_export_of_quick_as_mps(run: Run, tmp_path: Path) -> None:
    """MPS is the default, and the quick instance survives the way through the file."""
    file = tmp_path / "quick.mps"
    assert run("export", QUICK, "--out", file).status == 0
    expected = go.solve(go.load(QUICK)).objective
    assert objective_of(file) == pytest.approx(expected, rel=1e-6)
    assert [p.name for p in tmp_path.iterdir()] == ["quick.mps"]


def test_export_to_nowhere(run: Run, tmp_path: Path) -> None:
    """A folder that does not exist is one line and status 2."""
    status, out, err = run("export", QUICK, "--out", tmp_path / "none" / "quick.mps")
    assert (status, out) == (2, [])
    (line,) = err
    assert str(tmp_path / "none") in line
    assert list(tmp_path.iterdir()) == []


def test_reweight_then_solve(run: Run, tmp_path: Path) -> None:
    """Another objective: the same instance otherwise, solved to the optimum of those weights."""
    path, other = saved(tmp_path, tiny()), tmp_path / "other.json"
    terms = ["--term", "carbon_kg=2/4", "--term", "cost_usd=0.5", "--term", "water_l=1/1000:max"]
    assert run("reweight", path, *terms, "--out", other) == (0, [], [])
    changed = go.load(other)
    assert changed.name == "tiny-reweighted"
    found = [(t.metric, t.weight, t.scale, t.over_sites) for t in changed.objective[0].terms]
    assert found == [
        ("carbon_kg", 2.0, 4.0, "sum"),
        ("cost_usd", 0.5, 1.0, "sum"),
        ("water_l", 1.0, 1000.0, "max"),
    ]
    original = go.load(path)
    assert changed.replace(name="tiny", objective=original.document()["objective"]) == original
    status, out, _ = run("solve", other, "--json")
    assert status == 0
    record = json.loads(out[0])
    direct = go.solve(changed)
    assert direct.metrics["carbon_kg"] is not None
    assert direct.metrics["cost_usd"] is not None
    value = 0.5 * direct.metrics["carbon_kg"] + 0.5 * direct.metrics["cost_usd"]
    value += max(direct.metrics_by["site"]["water_l"]) / 1000
    assert record["objective"] == pytest.approx(value, rel=1e-7)
    assert record["objective"] == pytest.approx(direct.objective, rel=1e-9)


def test_reweight_changes_what_is_best(run: Run, tmp_path: Path) -> None:
    """Each single objective reaches the least of its metric among three."""
    metrics = ("carbon_kg", "water_l", "cost_usd")
    found = {}
    for metric in metrics:
        other = tmp_path / f"{metric}.json"
        options = ["--term", f"{metric}=1", "--name", metric, "--out", other]
        assert run("reweight", QUICK, *options).status == 0
        _, out, _ = run("solve", other, "--json")
        record = json.loads(out[0])
        assert record["instance"] == metric
        assert record["objective"] == pytest.approx(record["metrics"][metric], rel=1e-9)
        found[metric] = record["metrics"]
    for metric in metrics:
        assert all(found[metric][metric] <= found[o][metric] * (1 + 1e-9) for o in metrics)
        assert any(found[metric][metric] < found[o][metric] * (1 - 1e-3) for o in metrics)


@pytest.mark.parametrize(
    ("term", "place"),
    [
        ("joy_kg=1", "$.objective[0].terms[0].metric"),
        ("ttft_mean_s=1:max", "$.objective[0].terms[0].over_sites"),
        ("carbon_kg=1:median", "$.objective[0].terms[0].over_sites"),
        ("carbon_kg=1/0", "$.objective[0].terms[0].scale"),
        ("carbon_kg=nan", "$.objective[0].terms[0].weight"),
        ("carbon_total_kg=1", "$.objective[0].terms[0].metric"),
    ],
)
def test_reweight_refuses(term: str, place: str, run: Run, tmp_path: Path) -> None:
    """An objective that cannot be is refused with its place, and nothing is written."""
    path, other = saved(tmp_path, tiny()), tmp_path / "other.json"
    status, out, err = run("reweight", path, "--term", term, "--out", other)
    assert (status, out) == (2, [])
    (line,) = err
    assert place in line
    assert not other.exists()


# Ctrl-C


def tiled(days: int) -> go.PlacementInstance:
    """The quick day repeated, with budgets over the whole that couple the days."""
    quick = go.load(QUICK)
    totals = go.solve(quick).metrics
    first = datetime.fromisoformat(quick.periods.start[0])
    hours = range(days * len(quick.periods.start))
    carbon, ttft = totals["carbon_kg"], totals["ttft_mean_s"]
    series = (
        "demand_requests", "gpus", "carbon_g_per_kwh", "price_usd_per_mwh", "pue",
        "wue_l_per_kwh", "ewif_l_per_kwh",
    )  # fmt: skip
    return quick.replace(
        name="long",
        periods={
            "start": [(first + timedelta(hours=hour)).isoformat() for hour in hours],
            "duration_s": quick.periods.duration_s * days,
        },
        budgets=[
            {
                "name": "carbon",
                "metric": "carbon_kg",
                "limit": {"axes": [], "values": 0.97 * days * carbon},
            },
            {
                "name": "ttft",
                "metric": "ttft_mean_s",
                "limit": {"axes": [], "values": 0.97 * ttft},
            },
        ],
        **{name: np.concatenate([getattr(quick, name)] * days) for name in series},
    )


@pytest.mark.parametrize("jobs", ["1", "2"])
def test_interrupted_solve_leaves_whole_files(jobs: str, tmp_path: Path) -> None:
    """Ctrl-C while HiGHS works on 1e5 flows: soon status 130, one line, no half-written file."""
    instance = tiled(20)
    assert to_model(instance).columns["flow"].size >= 100_000
    paths = [QUICK, tmp_path / "long.json", tmp_path / "longer.json"]
    for path in paths[1:]:
        instance.save(path)
    out = tmp_path / "out"
    command = ["solve", *paths, "--json", "--jobs", jobs, "--out", out]
    with process(command, start_new_session=True) as child:
        try:
            assert child.stdout is not None
            first = json.loads(child.stdout.readline())  # quick is done, the long ones begin
            time.sleep(0.5)
            assert child.poll() is None
            pressed = time.monotonic()
            os.killpg(child.pid, signal.SIGINT)  # as a terminal does, to all processes
            rest, err = child.communicate(timeout=60)
            waited = time.monotonic() - pressed
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)
    assert child.returncode == 130
    assert rest == ""
    assert err.splitlines() == ["greenopt: interrupted; files are whole or not there"]
    assert waited < 6
    assert [p.name for p in out.iterdir()] == ["quick.solution.json"]
    assert go.load_solution(first["solution"]).status == "optimal"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["long.json", "longer.json", "out"]
