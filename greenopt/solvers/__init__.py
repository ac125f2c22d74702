"""Solvers: arrays in, arrays out. None of them knows a problem."""

from __future__ import annotations

from greenopt.solvers.highs import HIGHS_SOLVERS, RawResult, Termination, solve_model

__all__ = ["HIGHS_SOLVERS", "RawResult", "Termination", "solve_model"]
