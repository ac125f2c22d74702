"""Random small integer programs against trying every point, for every solver of integers.

GREENOPT_ENUMERATIONS sets how many (1,000 a solver by default).
"""

from __future__ import annotations

import os

import numpy as np
import pytest
from solvers.models import model_of

from greenopt.model import Model
from greenopt.solvers import SOLVERS, solve_model

COUNT = int(os.environ.get("GREENOPT_ENUMERATIONS", "1000"))
STEP = 250
"""Programs a test, so that a failure is found again quickly."""

SEARCHERS = ("highs", "cp-sat", "scip", "scip-minlp")


def random_program(seed: int, mixed: bool) -> Model:
    """Two to five integer columns, sometimes a continuous one; rows of every kind."""
    rng = np.random.default_rng(seed)
    n, m = int(rng.integers(2, 6)), int(rng.integers(1, 5))
    scale = rng.choice([1.0, 0.5, 0.1, 1 / 3, 1e3])
    matrix = rng.integers(-5, 6, size=(m, n)) * scale
    matrix[rng.random(size=(m, n)) < 0.25] = 0.0
    low = rng.integers(-2, 1, n).astype(float)
    high = low + rng.integers(0, 4, n)
    body = matrix @ rng.integers(low, high, endpoint=True)
    body += scale * rng.integers(-2, 3, m) * (rng.random(m) < 0.3)
    kind = rng.integers(0, 4, m)
    room = scale * rng.integers(0, 4, m)
    lower = np.where(kind == 0, -np.inf, np.where(kind == 3, body, body - room))
    upper = np.where(kind == 1, np.inf, np.where(kind == 3, body, body + room))
    c = rng.integers(-9, 10, n) * rng.choice([1.0, 0.01, 0.7])
    integer = np.ones(n, dtype=bool)
    if mixed and rng.random() < 0.5:
        integer[-1] = False
    return model_of(c, matrix, lower, upper, low, high, integer)


def optimum(model: Model) -> float:
    """The least objective over every point; infinity without any.

    Integers are tried out. The one continuous column, if there is one, goes to the better end of
    the interval that the rows leave it.
    """
    whole = np.flatnonzero(model.integer)
    ranges = [np.arange(model.column_lower[j], model.column_upper[j] + 1) for j in whole]
    grid = np.array(np.meshgrid(*ranges, indexing="ij")).reshape(len(whole), -1)
    dense, c = model.matrix.toarray(), model.stages[0].c
    body, value = dense[:, whole] @ grid, c[whole] @ grid
    slack = 1e-9 * np.maximum(1.0, np.abs(dense).max(initial=1.0))
    lower = model.row_lower[:, None] - slack - body
    upper = model.row_upper[:, None] + slack - body
    good = np.ones(grid.shape[1], dtype=bool)
    if model.integer.all():
        good &= (lower <= 0).all(axis=0) & (upper >= 0).all(axis=0)
        return float(value[good].min(initial=np.inf))
    a = dense[:, -1]
    good &= (lower[a == 0] <= 0).all(axis=0) & (upper[a == 0] >= 0).all(axis=0)
    ends = [(bound[a != 0] / a[a != 0, None]) for bound in (lower, upper)]
    least = np.minimum(*ends).max(axis=0, initial=model.column_lower[-1])
    most = np.maximum(*ends).min(axis=0, initial=model.column_upper[-1])
    good &= least <= most + slack
    value = value + c[-1] * np.where(c[-1] > 0, least, most)
    return float(value[good].min(initial=np.inf))


HARD = (2839, 3250, 3604, 5075)
"""Seeds of programs with a side like 5e-17, which a scaling by sides once blew up."""


@pytest.mark.parametrize("name", SEARCHERS)
@pytest.mark.parametrize("first", [HARD[0], *range(0, COUNT, STEP)])
def test_small_programs_against_enumeration(first: int, name: str) -> None:
    """Status, value and bound are those of trying every point (the trap of HiGHS 1.14)."""
    mixed = SOLVERS[name].integer == "mixed"
    for seed in HARD if first in HARD else range(first, min(first + STEP, COUNT)):
        model = random_program(seed, mixed)
        best = optimum(model)
        raw = solve_model(model, solver=name, gap=0.0)
        if best == np.inf:
            assert raw.termination == "infeasible", (seed, raw.message)
            continue
        assert raw.termination == "optimal", (seed, raw.message)
        assert raw.x is not None
        room = 1e-6 * max(1.0, abs(best))
        assert model.stages[0].value(raw.x) == pytest.approx(best, abs=room), seed
        assert raw.tree_bound == pytest.approx(best, abs=room), seed


def test_enumeration_finds_the_known_answers() -> None:
    """The oracle itself, on programs worked out by hand."""
    inf = np.inf
    knapsack = model_of([-10, -13, -7], [[3, 4, 2]], [-inf], [6], 0, 1.0, True)
    fixed_charge = model_of(
        [10, 1], [[-5, 1], [0, 1]], [-inf, 3], [0, inf], 0.0, [1.0, 9.0], [True, False]
    )
    split = model_of([1, 1], [[2, 2]], [1], [1], 0, 5.0, True)
    assert optimum(knapsack) == -20
    assert optimum(fixed_charge) == pytest.approx(13)
    assert optimum(split) == inf
