"""A backend that misbehaves on request: its algorithm says how."""

from __future__ import annotations

import os
import signal
import sys
import time

import numpy as np

from greenopt.solvers.task import Answer, Line, Task, Termination


def version() -> str:
    """A version like others."""
    return "1.2.3"


def solve(task: Task, line: Line) -> Answer:
    """Misbehave. The first incumbent, where there is one, puts every column at its upper bound."""
    steps = task.algorithm.split()
    if "chatter" in steps:
        sys.stdout.write("what a solver prints must not disturb the pipe\n")
        sys.stdout.flush()
        os.write(1, b"nor what it writes past Python")
    if "improve" in steps:
        line.improve(task.scaled.column_upper.copy())
    if "log" in steps and task.verbose:
        line.log("a line of the solver's log")
    if "refuse-to-stop" in steps:
        time.sleep(60)
    if "sleep" in steps:
        stopped: list[bool] = []
        line.stop = lambda: stopped.append(True)
        while not stopped:
            time.sleep(0.01)
        return Answer(Termination.INTERRUPTED, message="stopped")
    if "exit" in steps:
        sys.stderr.write("the last words\n")
        sys.stderr.flush()
        os._exit(3)
    if "killed" in steps:
        os.kill(os.getpid(), signal.SIGKILL)
    if "raise" in steps:
        raise ValueError("out of its mind")
    if "memory" in steps:
        raise MemoryError
    if "infeasible" in steps:
        return Answer(Termination.INFEASIBLE, message="Infeasible")
    if "nothing" in steps:
        return Answer(Termination.LIMIT, message="Limit")
    x = np.full(len(task.scaled.c), float(steps[-1]))
    bound = float("inf") if "bound" in steps else -np.inf
    return Answer(Termination.OPTIMAL, x, None, bound, "Optimal")
