"""Where solvers run: clashing packages, limits that are kept, workers that hang or die."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from solvers.models import CASES, INF, KNAPSACK, ROOM, Case, big_lp, market_split, model_of

from greenopt.cli import main
from greenopt.errors import SolverError
from greenopt.solvers import SOLVERS, available, grace_s, interrupting, oneshot, solve_model
from greenopt.solvers.interrupting import beside
from greenopt.solvers.remote import Worker, pool
from greenopt.solvers.running import execute


def run(code: str, *flags: str) -> Any:
    """What a program prints as JSON, in a fresh interpreter."""
    text = f"import sys\nsys.path[:0] = {sys.path!r}\n" + textwrap.dedent(code)
    done = subprocess.run(
        [sys.executable, *flags, "-c", text], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return json.loads(done.stdout)


# -- clashing packages ----------------------------------------------------------------------------


def test_highs_first_then_or_tools() -> None:
    """With highspy in the process, HiGHS runs there and OR-Tools in a worker."""
    found = run("""
        import json, highspy
        from greenopt.solvers import solve_model
        from solvers.models import KNAPSACK
        print(json.dumps([
            (r.where, r.program, KNAPSACK.stages[0].value(r.x))
            for r in (solve_model(KNAPSACK, solver=s) for s in ("highs", "cp-sat", "scip"))
        ]))
        """)
    expected = [
        ["in-process", "highs", -20],
        ["worker", "ortools", -20],
        ["worker", "ortools", -20],
    ]
    assert found == expected


def test_or_tools_first_then_highs() -> None:
    """With OR-Tools in the process, HiGHS goes to a worker, with one line in the log."""
    found = run("""
        import json, logging
        from ortools.linear_solver import pywraplp
        from ortools.sat.python import cp_model
        lines = []
        class Keep(logging.Handler):
            def emit(self, record): lines.append(record.getMessage())
        logging.getLogger("greenopt.solver").addHandler(Keep())
        logging.getLogger("greenopt.solver").setLevel(logging.INFO)
        from greenopt.errors import SolverError
        from greenopt.solvers import Session, solve_model
        from solvers.models import KNAPSACK
        found = [
            (r.where, KNAPSACK.stages[0].value(r.x))
            for r in (solve_model(KNAPSACK, solver=s) for s in ("highs", "highs", "scip", "cp-sat"))
        ]
        with Session(KNAPSACK) as session:
            found.append((session.solve().where, -20))
        here = solve_model(KNAPSACK, solver="cp-sat", isolation="in-process")
        found.append((here.where, KNAPSACK.stages[0].value(here.x)))
        try:
            solve_model(KNAPSACK, isolation="in-process")
        except SolverError as error:
            refused = str(error)
        solver = pywraplp.Solver.CreateSolver("GLOP")
        x = solver.NumVar(0, 3, "x")
        solver.Maximize(x)
        solver.Solve()
        print(json.dumps([found, lines, refused, x.solution_value()]))
        """)
    results, lines, refused, own = found
    assert results == [["worker", -20]] * 5 + [["in-process", -20]]
    assert len(lines) == 1
    assert "ortools" in lines[0]
    assert "worker" in lines[0]
    assert "isolation='worker'" in refused
    assert own == 3


def test_script_without_main_guard(tmp_path: Path) -> None:
    """A worker does not import the caller's script again, so nothing runs twice."""
    script = tmp_path / "schedule.py"
    script.write_text(
        f"import sys; sys.path[:0] = {sys.path!r}\n"
        "from greenopt.solvers import solve_model\n"
        "from solvers.models import KNAPSACK\n"
        "print('once')\n"
        "print(solve_model(KNAPSACK, solver='cp-sat').termination)\n"
        "print(solve_model(KNAPSACK, time_limit_s=20.0).where)\n"
    )
    done = subprocess.run(
        [sys.executable, str(script)], capture_output=True, text=True, timeout=60, cwd=tmp_path
    )
    assert done.stderr == ""
    assert done.stdout.split() == ["once", "optimal", "worker"]


def test_forked_child_uses_workers_of_its_own() -> None:
    """After a fork, parent and child both solve on, each in its own worker."""
    found = run(
        """
        import json, os
        from greenopt.solvers import Session, solve_model
        from solvers.models import KNAPSACK
        session = Session(KNAPSACK, isolation="worker")
        before = session.solve().termination
        solve_model(KNAPSACK, solver="cp-sat")
        child = os.fork()
        if child == 0:
            ok = solve_model(KNAPSACK, solver="cp-sat").termination == "optimal"
            again = session.solve()
            ok = ok and again.termination == "optimal" and bool(again.notes)
            os._exit(0 if ok else 1)
        _, status = os.waitpid(child, 0)
        after = [solve_model(KNAPSACK, solver="cp-sat").termination, session.solve().termination]
        print(json.dumps([before, os.waitstatus_to_exitcode(status), *after]))
        """,
        "-W",
        "ignore::DeprecationWarning",
    )
    assert found == ["optimal", 0, "optimal", "optimal"]


def test_workers_end_with_the_process() -> None:
    """Nothing is left behind, even when the process is killed."""
    code = textwrap.dedent(f"""
        import os, signal, sys
        sys.path[:0] = {sys.path!r}
        from greenopt.solvers.remote import Worker
        worker = Worker("solvers.fake_backend")
        print(worker._process.pid, flush=True)
        os.kill(os.getpid(), signal.SIGKILL)
        """)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == -signal.SIGKILL
    pid = int(done.stdout)
    for _ in range(100):
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
        except FileNotFoundError:
            return
        if state == "Z":  # ended; whoever adopted it has yet to notice
            return
        time.sleep(0.05)
    pytest.fail("the worker outlives its parent")


# -- limits ---------------------------------------------------------------------------------------


def test_mixed_integer_runs_with_a_limit_can_be_killed() -> None:
    """HiGHS goes to a worker exactly when a mixed-integer model has a finite limit."""
    lp = CASES[0].model
    assert solve_model(KNAPSACK).where == "in-process"
    assert solve_model(lp, time_limit_s=60.0).where == "in-process"
    assert solve_model(KNAPSACK, time_limit_s=60.0).where == "worker"
    assert solve_model(KNAPSACK, time_limit_s=60.0, isolation="in-process").where == "in-process"
    assert solve_model(lp, isolation="worker").where == "worker"


def test_limit_is_not_cumulative() -> None:
    """Runs under one limit each get all of it, in one session and in one worker."""
    from greenopt.solvers import Session

    model, spent, limit = big_lp(1), 0.0, 0.25
    rng = np.random.default_rng(1)
    for isolation in ("in-process", "worker"):
        with Session(model, isolation=isolation) as session:
            session.solve()
            while spent < 2 * limit:
                session.change(c=rng.uniform(1, 9, len(model.integer)))
                raw = session.solve(time_limit_s=limit)
                assert raw.termination == "optimal"
                spent += max(raw.runtime_s, 0.005)
        spent = 0.0


@pytest.mark.parametrize("name", ["highs", "scip", "scip-minlp", "cp-sat"])
def test_limit_without_a_point(name: str) -> None:
    """A search that found nothing in time says so, and has no point (PySCIPOpt has zeros)."""
    started = time.perf_counter()
    raw = solve_model(market_split(1), solver=name, time_limit_s=0.5)
    assert raw.termination == "limit", raw.message
    assert raw.x is None
    assert raw.tree_bound <= 40
    assert time.perf_counter() - started < 0.5 + grace_s(0.5) + 2.0


def test_hanging_worker_is_killed_and_its_best_point_returned(fake: Any) -> None:
    """Half a grace after the limit it is asked to stop, after a whole one it is killed."""
    name = fake("improve refuse-to-stop")
    solve_model(ROOM, solver=fake("2"))  # so that a worker is there
    fake("improve refuse-to-stop")
    started = time.perf_counter()
    raw = solve_model(ROOM, solver=name, time_limit_s=0.3)
    elapsed = time.perf_counter() - started
    assert raw.termination == "limit"
    assert raw.x == pytest.approx([2, 2])
    assert "killed" in raw.message
    assert 0.3 <= elapsed < 0.3 + grace_s(0.3) + 0.7
    assert solve_model(ROOM, solver=fake("2")).termination == "optimal"


def test_worker_is_asked_to_stop_first(fake: Any) -> None:
    """A solver that heeds the request keeps its worker."""
    solve_model(ROOM, solver=fake("2"))
    workers = list(pool._idle["solvers.fake_backend"])
    raw = solve_model(ROOM, solver=fake("improve sleep"), time_limit_s=0.1)
    assert raw.termination == "interrupted"
    assert raw.x == pytest.approx([2, 2])
    assert all(worker.alive for worker in workers)


def test_ctrl_c_while_a_worker_solves(fake: Any) -> None:
    """Ctrl-C is heard at once; the solve is killed, and the next one works."""
    name = fake("refuse-to-stop")
    timer = threading.Timer(0.7, lambda: os.kill(os.getpid(), signal.SIGINT))
    started = time.perf_counter()
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        solve_model(ROOM, solver=name)
    assert time.perf_counter() - started < 5.0
    assert solve_model(ROOM, solver=fake("2")).termination == "optimal"


def test_ctrl_c_while_highs_solves_in_process() -> None:
    """HiGHS beside the main thread stops too."""
    timer = threading.Timer(0.5, lambda: os.kill(os.getpid(), signal.SIGINT))
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        solve_model(market_split(2))


@pytest.mark.parametrize("name", ["scip", "cp-sat", "scip-minlp"])
def test_ctrl_c_while_others_solve_in_process(name: str) -> None:
    """No limit, Ctrl-C after a second: heard soon, nothing printed, a clean end of the process."""
    found = run(f"""
        import json, os, signal, threading, time
        from greenopt.solvers import solve_model
        from solvers.models import KNAPSACK, market_split
        first = solve_model(KNAPSACK, solver={name!r}, isolation="in-process").termination
        threading.Timer(1.0, lambda: os.kill(os.getpid(), signal.SIGINT)).start()
        started = time.perf_counter()
        try:
            ending = solve_model(market_split(2), solver={name!r}, isolation="in-process").message
        except KeyboardInterrupt:
            ending = "interrupted"
        elapsed = time.perf_counter() - started
        again = solve_model(KNAPSACK, solver={name!r}, isolation="in-process").termination
        print(json.dumps([first, ending, elapsed, again]))
        """)
    first, ending, elapsed, again = found
    assert (first, ending, again) == ("optimal", "interrupted", "optimal")
    assert 0.9 < elapsed < 5.0


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_a_run_beside_the_main_thread_passes_on_what_it_raises(
    error: type[BaseException], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Answers and errors come back; a run that does not stop when asked is left alone."""
    released, asked = threading.Event(), list[bool]()
    monkeypatch.setattr(interrupting, "PATIENCE_S", 0.1)

    def fail() -> None:
        raise error("from inside")

    assert beside(lambda: 7, None) == 7
    with pytest.raises(error, match="from inside"):
        beside(fail, None)
    threading.Timer(0.3, lambda: os.kill(os.getpid(), signal.SIGINT)).start()
    with pytest.raises(KeyboardInterrupt):
        beside(released.wait, lambda: asked.append(True))
    released.set()
    assert asked == [True]


def test_repair_keeps_to_the_time_limit(fake: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The linear program after rounding has what is left of the limit, at least a second."""
    assert oneshot.repair_limit_s(INF) == oneshot.REPAIR_LIMIT_S
    assert oneshot.repair_limit_s(0.0) == oneshot.LEAST_REPAIR_S
    limits: list[float] = []

    def watched(info: Any, task: Any, *rest: Any) -> Any:
        limits.append(task.time_limit_s)
        return execute(info, task, *rest)

    monkeypatch.setattr(oneshot, "execute", watched)
    model = model_of([1, 1], [[1e4, -1e4]], [0], [0], 0, 3.0, [True, False])
    assert solve_model(model, solver=fake("1.9999995"), time_limit_s=7.0).termination == "optimal"
    assert len(limits) == 1
    assert 1.0 <= limits[0] <= 7.0


# -- workers that die, solvers that lie -----------------------------------------------------------


@pytest.mark.parametrize(
    ("steps", "words"),
    [
        ("exit", "ended with exit status 3: the last words"),
        ("killed", "was ended by SIGKILL"),
        ("raise", "ValueError: out of its mind"),
        ("memory", "out of memory"),
    ],
)
def test_dying_worker_is_a_result(fake: Any, steps: str, words: str) -> None:
    """No hang, no traceback: an error with its cause and the last incumbent; then life goes on."""
    raw = solve_model(ROOM, solver=fake(steps))
    assert raw.termination == "error"
    assert words in raw.message
    assert raw.x is None
    assert raw.version == "1.2.3"
    best = solve_model(ROOM, solver=fake(f"improve {steps}"))
    assert best.termination == "error"
    assert best.x == pytest.approx([2, 2])
    assert solve_model(ROOM, solver=fake("chatter 2")).termination == "optimal"


def test_idle_worker_that_died_is_replaced(fake: Any) -> None:
    """A worker killed while nobody used it is noticed."""
    solve_model(ROOM, solver=fake("2"))
    for worker in pool._idle["solvers.fake_backend"]:
        os.kill(worker._process.pid, signal.SIGKILL)
        worker._process.wait()
    assert solve_model(ROOM, solver=fake("2")).termination == "optimal"


def test_worker_that_cannot_start_is_explained() -> None:
    """A missing backend is a solver error with its reason."""
    with pytest.raises(SolverError, match=r"No module named 'solvers\.nowhere'"):
        Worker("solvers.nowhere")


@pytest.mark.parametrize(
    ("steps", "model", "words"),
    [
        ("7", ROOM, "column x[j=0] is off by 5"),
        ("-1", ROOM, "column x[j=0] is off by 1"),
        ("1.5", ROOM, "column x[j=0] = 1.5 is not whole"),
        ("1", KNAPSACK, "row row[i=0] is off by 3 (9 beyond its bound 6)"),
        ("nan", ROOM, "not finite"),
        ("bound 2", ROOM, "its bound inf is above its own point"),
    ],
)
def test_claims_that_do_not_hold(fake: Any, steps: str, model: Any, words: str) -> None:
    """'Optimal' with a point that is not feasible, or below its own bound: both stories told."""
    raw = solve_model(model, solver=fake(steps))
    assert raw.termination == "error"
    assert "claims 'Optimal', but" in raw.message
    assert words in raw.message
    assert (raw.x is None) == ("bound" not in steps)
    assert raw.tree_bound == -INF


def test_the_same_fault_is_told_once(fake: Any) -> None:
    """Its last better point is the one it claims to be optimal: one fault."""
    raw = solve_model(KNAPSACK, solver=fake("improve 1"))
    assert raw.message.count("row row[i=0] is off by 3") == 1


def test_integers_are_whole(fake: Any) -> None:
    """Values within rounding of whole numbers are returned whole."""
    raw = solve_model(ROOM, solver=fake("1.9999999"))
    assert raw.x is not None
    assert (raw.x == 2.0).all()


def test_rounding_takes_the_continuous_part_along(fake: Any) -> None:
    """Where rounding an integer breaks a row, its continuous part is found anew."""
    model = model_of([1, 1], [[1e4, -1e4]], [0], [0], 0, 3.0, [True, False])
    raw = solve_model(model, solver=fake("1.9999995"))
    assert raw.termination == "optimal"
    assert raw.x == pytest.approx([2, 2], abs=1e-12)


@pytest.mark.parametrize("isolation", ["in-process", "worker"])
def test_rough_points_of_searches_are_polished(isolation: str) -> None:
    """A search may be rough; what is returned holds as exactly as a linear program's optimum."""
    rng = np.random.default_rng(5)
    for _ in range(10):
        n = 8
        matrix = np.vstack([rng.uniform(0.1, 1, (3, n)), np.eye(n)[: n // 2] - np.eye(n)[n // 2 :]])
        lower = np.concatenate([rng.uniform(3, 6, 3), np.full(n // 2, -INF)])
        upper = np.concatenate([np.full(3, INF), rng.uniform(0, 1, n // 2)])
        whole = np.arange(n) < n // 2
        model = model_of(rng.uniform(1, 2, n), matrix, lower, upper, 0.0, 9.0, whole)
        raw = solve_model(model, isolation=isolation)
        assert raw.x is not None
        assert (raw.x[whole] == np.round(raw.x[whole])).all()
        activity = model.matrix @ raw.x
        assert (activity >= model.row_lower - 1e-7).all()
        assert (activity <= model.row_upper + 1e-7).all()


def test_wrong_infeasible_is_not_called_proved(fake: Any) -> None:
    """An instance that a solver wrongly calls infeasible ends as a contradiction, not as proved."""
    from conftest import quick_path

    import greenopt as go

    solution = go.solve(go.load(quick_path()), solver=fake("infeasible"))
    assert solution.status == "error"
    assert solution.report["contradiction"]["solver"] == "infeasible"


def test_unusable_solver_is_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without PySCIPOpt, scip-minlp says how to get it."""
    from greenopt.solvers import scip

    monkeypatch.setitem(sys.modules, "pyscipopt", None)
    with pytest.raises(SolverError, match=r"pip install 'greenopt\[minlp\]'"):
        scip.load_pyscipopt()


def test_old_or_tools_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """OR-Tools older than what the tests run against is not used."""
    code = """
        import json
        from greenopt.solvers import or_tools
        or_tools.MINIMUM_VERSION = (99, 0)
        try:
            or_tools.version()
        except Exception as error:
            print(json.dumps(str(error)))
        """
    assert "greenopt needs 99.0" in run(code)


# -- threads, logs, lists -------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["highs", "cp-sat", "scip"])
def test_threads_solve_at_once(name: str) -> None:
    """Several threads get their own answers, each from a process of its own or in this one."""
    cases = [c for c in CASES if c.model.integer.all() and c.model.integer.size and c.x]
    cases = [c for c in cases if c.model.stages[0].q is None]
    wrong: list[str] = []

    def work(case: Case) -> None:
        for _ in range(5):
            raw = solve_model(case.model, solver=name, gap=0.0)
            if raw.x is None or abs(case.model.stages[0].value(raw.x) - case.objective) > 1e-6:
                wrong.append(f"{case.name}: {raw.message}")

    threads = [threading.Thread(target=work, args=(case,)) for case in cases[:3]]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not wrong


def test_number_of_threads_may_change() -> None:
    """HiGHS's scheduler is made for one number of threads; runs with others work all the same."""
    ends: list[str] = []

    def work() -> None:
        ends.extend(solve_model(KNAPSACK, threads=n).termination for n in (1, 2, 1))

    work()
    thread = threading.Thread(target=work)
    thread.start()
    thread.join(60)
    assert ends == ["optimal"] * 6


@pytest.mark.parametrize("name", SOLVERS)
def test_logs_go_to_logging(
    name: str, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    """A solver's log is at level DEBUG of greenopt.solver, and nothing is printed."""
    model = KNAPSACK if SOLVERS[name].integer == "pure" else CASES[1].model
    with caplog.at_level(logging.DEBUG, "greenopt.solver"):
        solve_model(model, solver=name)
    lines = [r for r in caplog.records if r.name == "greenopt.solver"]
    assert len(lines) > (0 if name == "highs-pdlp" else 3)  # which only prints, so it is silenced
    assert capfd.readouterr() == ("", "")


def test_list_of_solvers(capsys: pytest.CaptureFixture[str]) -> None:
    """`greenopt solvers` lists each with version, place and abilities, also as JSON."""
    assert main(["solvers"]) == 0
    table = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in table[1:]] == list(SOLVERS)
    assert main(["solvers", "--json"]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["name"] for line in lines] == list(SOLVERS)
    assert all(line["usable"] and line["version"] for line in lines)
    assert {line["name"] for line in lines if line["where"] == "in-process"} == {
        name for name, info in SOLVERS.items() if info.package == "highspy"
    }


def test_list_says_why_not(fake: Any, capsys: pytest.CaptureFixture[str]) -> None:
    """A solver that cannot be loaded is listed with the reason."""
    fake("2")
    SOLVERS["fake"] = replace(SOLVERS["fake"], module="solvers.nowhere")
    (entry,) = [s for s in available() if s["name"] == "fake"]
    assert not entry["usable"]
    assert "solvers.nowhere" in entry["reason"]
    assert main(["solvers"]) == 0
    assert "not usable: fake: " in capsys.readouterr().out


def test_command_line_runs_where_it_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    """`--isolation worker` and another solver give the same optimum."""
    from conftest import quick_path

    objectives = []
    for arguments in (["--isolation", "worker"], ["--solver", "glop"]):
        assert main(["solve", str(quick_path()), "--json", *arguments]) == 0
        objectives.append(json.loads(capsys.readouterr().out)["objective"])
    assert objectives[0] == pytest.approx(objectives[1], rel=1e-8)
