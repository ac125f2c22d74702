"""What is shown knows no problem: one with other axes, metrics, terms and plots is shown too."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from oracles import stub, tiny

import greenopt as go
from greenopt import plots
from greenopt.cli import main
from greenopt.describing import coefficient_spreads
from greenopt.errors import ModelError
from greenopt.problems import PROBLEMS, instance_class, part
from greenopt.showing import amount, showing, table, union

Run = Callable[..., tuple[int, list[str], list[str]]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """Run the command line: status, lines on standard output and on standard error."""

    def command(*arguments: str | Path) -> tuple[int, list[str], list[str]]:
        capsys.readouterr()
        try:
            status = main([str(argument) for argument in arguments])
        except SystemExit as end:  # argparse ends the process itself
            status = int(end.code or 0)
        shown = capsys.readouterr()
        return status, shown.out.splitlines(), shown.err.splitlines()

    return command


@pytest.fixture
def ten(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The stub problem is known, and this is the file of its instance."""
    stub.register(monkeypatch)
    stub.instance().save(tmp_path / "ten.json")
    return tmp_path / "ten.json"


@pytest.fixture
def placed(tmp_path: Path) -> Path:
    """A placement instance beside it."""
    go.PlacementInstance.parse(tiny.tiny()).save(tmp_path / "tiny.json")
    return tmp_path / "tiny.json"


# every problem


@pytest.mark.parametrize("problem", PROBLEMS)
def test_every_problem_shows_what_it_has(problem: str) -> None:
    """Metrics of tables exist, there is an overview, and every kind and direction is explained."""
    said, known = showing(problem), part(problem, "metrics").METRICS
    axis, columns = said.BREAKDOWN or ("", ())
    for metric, title, form in (*said.COLUMNS, *columns):
        assert metric in known
        assert title
        assert format(1234.5, form)
    assert columns == () or axis
    assert next(iter(said.PLOTS)) == "overview"
    assert all([*said.PLOTS.values(), *said.DIRECTIONS.values()])
    assert callable(part(problem, "plots").draw)


@pytest.mark.parametrize("problem", PROBLEMS)
def test_suffix_is_a_field_of_terms(problem: str) -> None:
    """What `reweight` writes behind a colon into is a field of the problem's terms."""
    suffix = showing(problem).TERM_SUFFIX
    terms = instance_class(problem).json_schema()["$defs"]["Term"]["properties"]
    assert suffix is None or suffix in terms


def test_tables_are_aligned() -> None:
    """The first column and those named stand to the left, others to the right."""
    lines = list(table(["a", "b", "status"], [["x", "1.5", "ok"], ["long", "20", "limit"]]))
    assert lines == ["a       b  status", "x     1.5  ok", "long   20  limit"]
    assert [amount(v) for v in (None, 0.123456, 9999.4, 10000.4)] == [
        "-",
        "0.1235",
        "9999",
        "10,000",
    ]


def test_terms_add_up_to_the_objective() -> None:
    """Of random instances, vectors of terms add up to the coefficients of each stage."""
    for seed in range(6):
        rng = np.random.default_rng(seed)
        document = tiny.random_document(rng, max_sites=True, lexicographic=bool(seed % 2))
        instance = go.PlacementInstance.parse(document)
        formulation = part("placement", "formulation").formulate(instance)
        for stage, own in zip(instance.objective, formulation.model.stages, strict=True):
            total = sum(formulation.term_vector(term) for term in stage.terms)
            assert total == pytest.approx(own.c, rel=1e-12, abs=1e-300)


# the stub problem


def test_solve_prints_its_tables(ten: Path, run: Run, tmp_path: Path) -> None:
    """Its columns, its breakdown along its own axis, and the same words of the proof."""
    status, out, _ = run("solve", ten, "--out", tmp_path / "out", "--plot")
    assert status == 0
    assert out[0].split() == [
        "instance",
        "status",
        "objective",
        "gap",
        "energy",
        "kWh",
        "time",
        "s",
    ]
    assert out[1].split()[:3] == ["ten", "optimal", "44.01"]  # 6/3 x (4 + 18) kWh + 10/1000
    assert out[1].split()[4] == "22.0"
    assert out[3:6] == [
        "deployment  items  energy kWh",
        "small           4         4.0",
        "large           6        18.0",
    ]
    assert any("bound 44.01 proved anew" in line for line in out)
    assert (tmp_path / "out" / "ten.png").read_bytes().startswith(b"\x89PNG")


def test_solve_prints_a_table_a_problem(ten: Path, placed: Path, run: Run) -> None:
    """Two problems are two tables, each with its own columns, in the order of the files."""
    status, out, _ = run("solve", placed, ten)
    assert status == 0
    heads = [line for line in out if line.startswith("instance")]
    assert "TTFT s" in heads[0]
    assert "TTFT s" not in heads[1]
    assert out[2:4] == ["", heads[1]]
    assert out[4].split()[:2] == ["ten", "optimal"]


def test_without_a_breakdown_there_is_one_table(
    ten: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A problem without a second table prints totals only."""
    monkeypatch.setattr(stub, "BREAKDOWN", None)
    status, out, _ = run("solve", ten)
    assert status == 0
    assert out[2] == ""
    assert out[3].startswith("ten: bound")


def test_nothing_to_break_down(ten: Path, run: Run, tmp_path: Path) -> None:
    """Without a plan the totals are hyphens and there is no second table."""
    stub.instance(most=[4.0, 5.0]).save(ten)
    status, out, _ = run("solve", ten, "--no-explain")
    assert status == 1
    assert out[1].split()[:5] == ["ten", "infeasible", "-", "-", "-"]
    assert not any(line.startswith("deployment") for line in out)


def test_info_tells_its_facts(ten: Path, run: Run) -> None:
    """Its facts of data and model, its series by its own axis, and its objective."""
    status, out, err = run("info", ten)
    assert (status, err) == (0, [])
    assert out[:4] == [
        "ten (stub): ten items",
        "  sets: 2 deployment",
        "  items: 10",
        "    to be sent",
    ]
    at = out.index("  open: 2")
    assert out[at - 2].split()[:2] == ["most", "4"]
    assert out[at - 1].split()[:4] == ["energy_kwh", "1", "2", "3"]
    assert out[at + 1].startswith("  model: 2 columns")
    assert "  minimise 6 energy_kwh + 1 items" in out
    (line,) = (line for line in out if "objective: " in line)
    assert "(energy_kwh)" not in line.split(" to ")[0]  # 1/1000 of an item is the smallest
    assert line.strip().startswith("objective: 2 (items) to 6 (energy_kwh)")


def test_ranges_without_terms() -> None:
    """Where a formulation tells no terms, the range of the objective names blocks of columns."""
    inst = stub.instance()
    model = stub.formulate(inst).model
    found = coefficient_spreads(inst, SimpleNamespace(model=model))["objective"]
    assert found == (2.001, 6.001, "sent", "sent")


def test_check_prints_its_notes(ten: Path, run: Run, tmp_path: Path) -> None:
    """The notes are told in the problem's words."""
    run("solve", ten, "--out", tmp_path)
    status, out, _ = run("check", ten, tmp_path / "ten.solution.json")
    assert status == 0
    assert out[1:] == ["  most items go to large"]
    status, out, err = run("check", ten, ten)
    assert (status, out) == (2, [])
    assert err == [f"greenopt: {ten}: $: is an instance file, expected a solution"]


def test_marginals_of_its_directions(ten: Path, placed: Path, run: Run) -> None:
    """Its own direction is told in its words; another problem's is refused, its own named."""
    status, out, _ = run("marginals", ten, "--of", "most")
    assert status == 0
    assert any(line.startswith("one more place: 1 of 2, those that change") for line in out)
    (line,) = (line for line in out if line.startswith("small"))
    assert line.split() == ["small", "-4", "-2", "6"]  # six items cost 1 kWh, not 3, weighed by 6/3
    for path, other, own in ((ten, "gpus", "most"), (placed, "most", "gpus")):
        status, out, err = run("marginals", path, "--of", other)
        assert (status, out) == (2, [])
        assert err[0].startswith(f"greenopt: no marginals of ['{other}']; known are [")
        assert own in err[0].split("known")[1]


def test_no_marginals_at_all(ten: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A problem without directions says so."""
    monkeypatch.setattr(stub, "DIRECTIONS", {})
    with pytest.raises(ModelError, match="stub has no marginals"):
        go.marginals(stub.instance())


def test_plots_are_its_own(ten: Path, placed: Path, run: Run, tmp_path: Path) -> None:
    """Its kinds are drawn by its own module, and another problem's refused with its own named."""
    inst = stub.instance()
    solution = go.solve(inst)
    drawn = plots.figure(inst, solution, "spiral")
    assert drawn.axes[0].get_title() == "spiral"
    assert [bar.get_height() for bar in drawn.axes[0].patches] == [4.0, 6.0]
    solution.save(tmp_path / "ten.solution.json")
    picture = tmp_path / "p.svg"
    arguments = ("plot", ten, tmp_path / "ten.solution.json", "--out", picture)
    assert run(*arguments) == (0, [f"ten: overview in {picture}"], [])
    picture.unlink()
    status, out, err = run(*arguments, "--kind", "flows")
    assert (status, out) == (2, [])
    assert err == ["greenopt: unknown kind 'flows' of plot; known are overview, spiral"]
    run("solve", placed, "--out", tmp_path)
    arguments = ("plot", placed, tmp_path / "tiny.solution.json", "--out", picture)
    status, out, err = run(*arguments, "--kind", "spiral")
    assert (status, out) == (2, [])
    assert "known are overview, flows" in err[0]
    assert not picture.exists()


def test_names_of_all_problems_are_accepted(ten: Path) -> None:
    """Unions keep the order of the problems, and of a name what the first one says."""
    kinds = union("PLOTS")
    assert list(kinds)[:5] == list(showing("placement").PLOTS)
    assert kinds["overview"] == showing("placement").PLOTS["overview"]
    assert "spiral" in kinds
    assert union("DIRECTIONS")["most"] == "one more place"


def test_reweight(ten: Path, run: Run, tmp_path: Path) -> None:
    """Plain terms are written; a word behind a colon is refused where no field takes it."""
    other = tmp_path / "other.json"
    assert run("reweight", ten, "--term", "items=2/4", "--out", other)[0] == 0
    (term,) = json.loads(other.read_text())["objective"][0]["terms"]
    assert (term["metric"], term["weight"], term["scale"]) == ("items", 2.0, 4.0)
    other.unlink()
    status, out, err = run("reweight", ten, "--term", "items=2:max", "--out", other)
    assert (status, out) == (2, [])
    assert err == [
        "greenopt: ten: terms of stub are METRIC=WEIGHT[/SCALE], without the :max of items"
    ]
    assert not other.exists()


def test_methods_and_schema(ten: Path, run: Run) -> None:
    """Both take the problem's name."""
    assert run("methods", "stub")[1][1].split()[0] == "exact"
    schema = json.loads("\n".join(run("schema", "stub")[1]))
    assert "items" in schema["properties"]


def test_frames_and_what_is_placements(ten: Path) -> None:
    """Metrics along its axis are a frame; weights and replicas are refused in one clear line."""
    solution = go.solve(stub.instance())
    frame = solution.to_frame("deployment")
    assert frame["deployment"].tolist() == ["small", "large"]
    assert frame["items"].tolist() == [4.0, 6.0]
    assert solution.to_frame("sent")["sent [items]"].tolist() == [4.0, 6.0]
    for ask in (solution.routing_weights, solution.replicas):
        with pytest.raises(
            ModelError, match=r"ten: \w+ is for plans of placement; this one is of stub"
        ):
            ask()
