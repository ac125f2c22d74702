"""Solvers: arrays in, arrays out. None of them knows a problem."""

from __future__ import annotations

from greenopt.solvers.available import available
from greenopt.solvers.oneshot import solve_model
from greenopt.solvers.registry import SOLVERS, SolverInfo, find
from greenopt.solvers.session import Session
from greenopt.solvers.task import Basis, RawResult, StartReport, Termination, grace_s

HIGHS_SOLVERS = tuple(name for name, info in SOLVERS.items() if info.program == "highs")
"""Names of the algorithms of HiGHS."""

__all__ = [
    "HIGHS_SOLVERS",
    "SOLVERS",
    "Basis",
    "RawResult",
    "Session",
    "SolverInfo",
    "StartReport",
    "Termination",
    "available",
    "find",
    "grace_s",
    "solve_model",
]
