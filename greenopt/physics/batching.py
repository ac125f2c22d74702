"""Requests served together: energy of a token, time between tokens, and the largest batch.

The laws are e(b) = e∞ + c1/b for the energy of an output token, ITL(b) = α + β b for the time
between output tokens, and P(b) = P0 + p log2 b for the power, at b requests decoded together.
Energy falls and time rises in b: the limit on time decides, or the demand does. The forms are ours,
tried on measurements (`greenopt.fitting.batch_laws`).
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from greenopt.physics._refusing import refuse_negative


def energy_per_token_j(batch: Any, e_inf_j: Any, c1_j: Any) -> Any:
    """Energy of an output token, J: e∞ + c1/b."""
    return e_inf_j + c1_j / np.asarray(batch, dtype=float)


def itl_s(batch: Any, alpha_s: Any, beta_s: Any) -> Any:
    """Time between output tokens, s: α + β b."""
    return alpha_s + beta_s * np.asarray(batch, dtype=float)


def power_w(batch: Any, p0_w: Any, p_w_per_doubling: Any) -> Any:
    """Power of an instance, W: P0 + p log2 b."""
    return p0_w + p_w_per_doubling * np.log2(np.asarray(batch, dtype=float))


def output_tokens_per_s(batch: Any, alpha_s: Any, beta_s: Any) -> Any:
    """Output tokens of an instance per second, b/ITL(b); it approaches 1/β."""
    return np.asarray(batch, dtype=float) / itl_s(batch, alpha_s, beta_s)


def largest_batch(limit_s: float, alpha_s: float, beta_s: float) -> float:
    """Most requests together so that the time between tokens is within a limit.

    ⌊(limit - α)/β⌋, corrected by one where rounding of the quotient made it wrong.

    Returns
    -------
    float
        A whole number; 0 where not even one request meets the limit, infinity where every number
        does.

    Raises
    ------
    ValueError
        For an argument that is negative or NaN, and for α or β that are infinite.
    """
    refuse_negative(alpha_s=alpha_s, beta_s=beta_s)
    if not limit_s >= 0:
        raise ValueError(f"limit_s is {limit_s!r}; expected a number of at least 0")
    if alpha_s + beta_s > limit_s:
        return 0.0
    if beta_s == 0 or limit_s == math.inf:
        return math.inf
    batch = math.floor((limit_s - alpha_s) / beta_s)
    if alpha_s + beta_s * (batch + 1) <= limit_s:
        return float(batch + 1)
    return float(batch - (alpha_s + beta_s * batch > limit_s))


def batch_of_demand(
    requests_per_s: float, output_tokens: float, alpha_s: float, beta_s: float
) -> float:
    """Mean number of requests decoded together under a demand, by Little's law.

    b = λ out ITL(b), so that b = λ out α / (1 - λ out β): an instance cannot serve more than 1/β
    output tokens per second.

    Parameters
    ----------
    requests_per_s, output_tokens : float
        Requests of one instance per second, and output tokens of a request.
    alpha_s, beta_s : float
        The law of the time between tokens, s.

    Returns
    -------
    float
        Not a whole number in general; infinity where the demand is too much.

    Raises
    ------
    ValueError
        For an argument that is negative, infinite or NaN.
    """
    refuse_negative(
        requests_per_s=requests_per_s, output_tokens=output_tokens, alpha_s=alpha_s, beta_s=beta_s
    )
    tokens_per_s = requests_per_s * output_tokens
    spare = 1 - tokens_per_s * beta_s
    return tokens_per_s * alpha_s / spare if spare > 0 else math.inf
