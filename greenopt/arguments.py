"""Numbers that callers give, refused with their name, value and what was expected."""

from __future__ import annotations

import math
import operator
from typing import Any

from greenopt.errors import ModelError

MOST_THREADS = 256
LARGEST_SEED = 2**31 - 1


def time_limit_s(value: Any) -> float:
    """A time limit, s; None and infinity are none.

    Raises
    ------
    ModelError
        For anything but a number above 0.
    """
    if value is None:
        return math.inf
    if not _is_real(value) or not value > 0:
        raise ModelError(f"time_limit is {value!r}; expected a number above 0 s")
    return float(value)


def relative_gap(value: Any) -> float:
    """A relative gap.

    Raises
    ------
    ModelError
        For anything but a finite number of at least 0.
    """
    if not _is_real(value) or not 0 <= value < math.inf:
        raise ModelError(f"gap is {value!r}; expected a finite number of at least 0")
    return float(value)


def whole(name: str, value: Any, low: int, high: int) -> int:
    """A whole number within limits.

    Raises
    ------
    ModelError
        For anything else.
    """
    try:
        number = operator.index(value)
    except TypeError:
        number = low - 1
    if isinstance(value, bool) or not low <= number <= high:
        raise ModelError(f"{name} is {value!r}; expected a whole number from {low} to {high}")
    return number


def seed(value: Any) -> int:
    """A seed that every solver takes."""
    return whole("seed", value, 0, LARGEST_SEED)


def threads(value: Any) -> int:
    """A number of threads."""
    return whole("threads", value, 1, MOST_THREADS)


def _is_real(value: Any) -> bool:
    if isinstance(value, bool):
        return False
    try:
        return not math.isnan(value)
    except TypeError:
        return False
