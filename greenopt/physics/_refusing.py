"""Arguments that a formula has no meaning for."""

from __future__ import annotations

import math


def refuse_negative(**values: float) -> None:
    """Refuse numbers below 0, infinite or NaN.

    Raises
    ------
    ValueError
        Naming the first of them.
    """
    for name, value in values.items():
        if not 0 <= value < math.inf:
            raise ValueError(f"{name} is {value!r}; expected a finite number of at least 0")
