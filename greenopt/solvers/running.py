"""Where a solver runs, and running it there."""

from __future__ import annotations

import logging
import sys
from dataclasses import replace
from importlib import import_module
from typing import Any

from greenopt.errors import SolverError
from greenopt.solvers.registry import SolverInfo
from greenopt.solvers.remote import WorkerLost, pool
from greenopt.solvers.task import Answer, Line, Task, Termination

ISOLATIONS = ("auto", "in-process", "worker")
"""What can be asked for; "auto" is the process of the caller where that is possible and safe."""

CLASHES = {"highspy": "ortools", "ortools": "highspy"}
"""Packages of which a process can load only the first: both bring a library libhighs.so.1."""

log = logging.getLogger("greenopt.solver")

_told: set[str] = set()


def log_line() -> Line:
    """A line that passes a solver's log on to Python's."""
    return Line(log.debug)


def verbose() -> bool:
    """Whether anybody reads the solvers' logs."""
    return log.isEnabledFor(logging.DEBUG)


def runs_in_worker(info: SolverInfo, isolation: str, must_stop: bool = False) -> bool:
    """Whether a solver runs in a process of its own.

    Parameters
    ----------
    info : SolverInfo
        Which.
    isolation : str
        One of `ISOLATIONS`.
    must_stop : bool
        Whether the run must be one that can be killed.

    Raises
    ------
    SolverError
        If the calling process is asked for but cannot be used.
    """
    if isolation not in ISOLATIONS:
        raise SolverError(f"unknown isolation {isolation!r}; known are {', '.join(ISOLATIONS)}")
    other = CLASHES.get(info.package)
    blocked = other in sys.modules and info.package not in sys.modules
    if isolation == "in-process":
        if blocked:
            raise SolverError(
                f"{info.name} cannot run in this process: {other} is loaded here, and both bring "
                "a library libhighs.so.1; use isolation='worker' or 'auto'"
            )
        return False
    if isolation == "worker" or info.home == "worker":
        return True
    if blocked and info.package not in _told:
        _told.add(info.package)
        log.info(
            "this process has loaded %s, which cannot share it with %s: %s runs in a worker "
            "process",
            other, info.package, info.name,
        )  # fmt: skip
    return blocked or must_stop


def execute(info: SolverInfo, task: Task, remote: bool, line: Line) -> Answer:
    """Run a backend once, here or in a worker.

    A worker that is lost is an answer: a limit if it was killed for overrunning, else an error.
    """
    if not remote:
        return _at_limit(backend(info).solve(task, line), task)
    worker = pool.borrow(info.module)
    try:
        answer = worker.call(line, task.time_limit_s, "solve", task)
        return _at_limit(replace(answer, version=worker.version), task)
    except WorkerLost as lost:
        return lost_answer(lost, worker.version)
    finally:
        pool.give_back(worker)


def _at_limit(answer: Answer, task: Task) -> Answer:
    """A run that greenopt stopped because it overran its limit ended at its limit."""
    if answer.termination == Termination.INTERRUPTED and answer.runtime_s >= task.time_limit_s:
        return replace(answer, termination=Termination.LIMIT, message="stopped at the time limit")
    return answer


def lost_answer(lost: WorkerLost, version: str) -> Answer:
    """What a worker that did not answer amounts to."""
    ending = Termination.LIMIT if lost.overdue else Termination.ERROR
    return Answer(ending, message=str(lost), version=version)


def backend(info: SolverInfo) -> Any:
    """The module that runs a solver in the process that imports it."""
    return import_module(info.module)
