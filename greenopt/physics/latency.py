"""Time to first token and its distribution."""

from __future__ import annotations

from typing import Any

import numpy as np


def prefill_s(prompt_tokens: Any, grid_tokens: Any, grid_s: Any) -> Any:
    """Prefill time by linear interpolation of a measured curve.

    Raises
    ------
    ValueError
        If a prompt lies outside the measured grid: no silent extrapolation.
    """
    tokens = np.asarray(prompt_tokens, dtype=float)
    grid = np.asarray(grid_tokens, dtype=float)
    if tokens.size and (tokens.min() < grid[0] or tokens.max() > grid[-1]):
        raise ValueError(
            f"prompt of {tokens.min():g} to {tokens.max():g} tokens outside the measured "
            f"{grid[0]:g} to {grid[-1]:g}"
        )
    return np.interp(tokens, grid, np.asarray(grid_s, dtype=float))


def quantile(values: Any, weights: Any, q: float) -> float:
    """Smallest value whose cumulated weight reaches the share `q` of the total (0 < q <= 1)."""
    values, weights = np.ravel(values), np.ravel(weights)
    order = np.argsort(values, kind="stable")
    cumulated = np.cumsum(weights[order])
    # A share reached up to rounding counts as reached.
    position = np.searchsorted(cumulated, q * cumulated[-1] * (1 - 1e-12))
    return float(values[order][min(int(position), len(values) - 1)])
