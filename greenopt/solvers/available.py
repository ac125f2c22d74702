"""Which solvers can be used here."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from greenopt.errors import SolverError
from greenopt.solvers.registry import SOLVERS
from greenopt.solvers.remote import pool
from greenopt.solvers.running import runs_in_worker


def available() -> list[dict[str, Any]]:
    """Every solver: whether it can be used, its version, where it would run, what it can do.

    Each package is loaded in a worker, so that the answer is about this machine, not about what is
    installed on paper, and so that this process stays free to load either side of a clash.
    """
    found = {info.module: _version(info.module) for info in SOLVERS.values()}
    return [
        {
            **asdict(info),
            "usable": found[info.module][0] is not None,
            "version": found[info.module][0],
            "reason": found[info.module][1],
            "where": "worker" if runs_in_worker(info, "auto") else "in-process",
        }
        for info in SOLVERS.values()
    ]


def _version(module: str) -> tuple[str | None, str]:
    """The version, or why there is none."""
    try:
        worker = pool.borrow(module)
    except SolverError as error:
        return None, str(error)
    pool.give_back(worker)
    return worker.version, ""
