"""What pages make of recorded runs: spreads over days, changes in percent, parts of a saving."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from itertools import combinations
from pathlib import Path
from typing import Any, NamedTuple

Run = dict[str, Any]


class Spread(NamedTuple):
    """Mean, least and largest of some numbers."""

    mean: float
    low: float
    high: float


def spread(values: Iterable[float]) -> Spread:
    """Mean, least and largest."""
    numbers = [*values]
    return Spread(math.fsum(numbers) / len(numbers), min(numbers), max(numbers))


def read(path: Path) -> tuple[dict[str, Any], list[Run]]:
    """A recorded benchmark, and its runs by column."""
    record = json.loads(path.read_text(encoding="utf-8"))
    return record, [dict(zip(record["columns"], row, strict=True)) for row in record["runs"]]


def percent(value: float, reference: float) -> float:
    """Change against a reference, %."""
    return 100 * (value / reference - 1)


def shapley(worth: Mapping[frozenset[str], float]) -> dict[str, float]:
    """Part of each player in what all together are worth more than none (Shapley, 1953).

    Parameters
    ----------
    worth : mapping of frozenset of str to float
        Of every set of players, the empty one included.

    Returns
    -------
    dict of str to float
        Mean over all orders of what a player adds; together ``worth[all] - worth[none]``.
    """
    players = max(worth, key=len)
    n = len(players)
    parts = {}
    for player in sorted(players):
        others = players - {player}
        parts[player] = math.fsum(
            (worth[frozenset(before) | {player}] - worth[frozenset(before)])
            / (n * math.comb(n - 1, size))
            for size in range(n)
            for before in combinations(sorted(others), size)
        )
    return parts


def saved_by(day: Mapping[str, Run], parts: Mapping[str, str], quantity: str) -> dict[str, float]:
    """Parts of the saving of the balanced optimum against the naive plan, in units of a quantity.

    Parameters
    ----------
    day : mapping of str to Run
        Runs of one instance by method; a mix is called after its naive choices.
    parts : mapping of str to str
        Naive choices in the order of such names, and the decision each takes away.
    quantity : str
        A column.
    """
    naive = day[", ".join(parts)][quantity]
    worth = {}
    for n in range(len(parts) + 1):
        for chosen in combinations(parts, n):
            optimised = frozenset(parts[name] for name in parts if name not in chosen)
            worth[optimised] = naive - day[", ".join(chosen) or "balanced"][quantity]
    return shapley(worth)
