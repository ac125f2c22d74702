"""Small models with known answers, and random ones."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import sparse

from greenopt.model import Builder, Model, StageObjective

INF = np.inf


def model_of(
    c: Any,
    matrix: Any,
    lower: Any,
    upper: Any,
    low: Any,
    high: Any,
    integer: Any = False,
    q: Any = None,
) -> Model:
    """A model of one column block and one row block."""
    builder = Builder("small", {"i": (), "j": ()})
    n, m = len(c), len(lower)
    builder.add_columns("x", {"j": np.arange(n)}, low, high)
    builder.add_rows("row", {"i": np.arange(m)}, lower, upper)
    coo = sparse.coo_array(np.asarray(matrix, dtype=float).reshape(m, n))
    builder.add_entries(*coo.coords, coo.data)
    term = None if q is None else sparse.csr_array(np.asarray(q, dtype=float))
    model = builder.build([StageObjective(np.asarray(c, dtype=float), 0.0, term)])
    flags = np.broadcast_to(np.asarray(integer, dtype=bool), (n,)).copy()
    return Model(**{**model.__dict__, "integer": flags})


@dataclass(frozen=True)
class Case:
    """A small model and what is known of it.

    Attributes
    ----------
    name : str
        What is special about it.
    model : Model
        The model.
    status : str
        How a solve must end.
    objective : float
        Its optimum, worked out by hand.
    x : tuple or None
        Its optimal point, where there is only one.
    dual : tuple or None
        Its row multipliers, where there is only one set of them.
    """

    name: str
    model: Model
    status: str = "optimal"
    objective: float = 0.0
    x: tuple[float, ...] | None = None
    dual: tuple[float, ...] | None = None


CASES = (
    # -- linear programs
    Case("two columns, one row", model_of([-1, -2], [[1, 1]], [-INF], [4], 0, 3.0),
         objective=-7, x=(1, 3), dual=(-1,)),
    Case("at least", model_of([2, 3], [[1, 2], [2, 1]], [4, 4], [INF, INF], 0, INF),
         objective=2 * 4 / 3 + 3 * 4 / 3, x=(4 / 3, 4 / 3), dual=(4 / 3, 1 / 3)),
    Case("equality", model_of([1, 2], [[1, 1]], [3], [3], 0, 2.0),
         objective=4, x=(2, 1), dual=(2,)),
    Case("ranged row, lower side binds", model_of([1], [[2]], [3], [8], 0, 10.0),
         objective=1.5, x=(1.5,), dual=(0.5,)),
    Case("ranged row, upper side binds", model_of([-1], [[2]], [3], [8], 0, 10.0),
         objective=-4, x=(4,), dual=(-0.5,)),
    Case("ranged row, neither binds", model_of([1], [[2]], [-3], [8], 0, 10.0),
         objective=0, x=(0,), dual=(0,)),
    Case("free columns", model_of([1, 1], [[1, 2], [1, -1]], [2, -1], [INF, INF], -INF, INF),
         objective=1, x=(0, 1), dual=(2 / 3, 1 / 3)),
    Case("negative bounds", model_of([1, -1], [[1, 1]], [-5], [INF], [-4.0, -3.0], [-1.0, -2.0]),
         objective=-1, x=(-3, -2), dual=(1,)),
    Case("fixed column", model_of([1, 1], [[1, 1]], [5], [INF], [2.0, 0.0], [2.0, 9.0]),
         objective=5, x=(2, 3), dual=(1,)),
    Case("all columns fixed", model_of([1, 1], [[1, 1]], [2], [4], 1.5, 1.5),
         objective=3, x=(1.5, 1.5)),
    Case("degenerate", model_of([-1, -1], [[1, 0], [0, 1], [1, 1]], [-INF] * 3, [1, 1, 2], 0, INF),
         objective=-2, x=(1, 1)),
    Case("many optima", model_of([1, 1], [[1, 1]], [1], [INF], 0, 1.0), objective=1, dual=(1,)),
    Case("no objective", model_of([0, 0], [[1, 1]], [1], [2], 0, 1.0), objective=0),
    Case("no rows", model_of([1, -1, 0], np.zeros((0, 3)), [], [], -1.0, 2.0), objective=-3),
    Case("a row of zeros", model_of([1], [[0]], [-1], [1], 1.0, 2.0), objective=1, x=(1,)),
    Case("redundant equalities", model_of([1, 3], [[1, 1], [2, 2]], [2, 4], [2, 4], 0, 5.0),
         objective=2, x=(2, 0)),
    Case("sizes far apart", model_of([1e-6, 1e3], [[1, 1e6]], [2e6], [INF], 0, [1e6, 2.0]),
         objective=1001, x=(1e6, 1), dual=(1e-3,)),
    Case("no columns", model_of([], np.zeros((1, 0)), [0], [2], np.zeros(0), np.zeros(0)),
         objective=0),
    Case("infeasible rows", model_of([1, 1], [[1, 1], [1, 1]], [3, -INF], [INF, 2], 0, INF),
         "infeasible"),
    Case("infeasible bounds and row", model_of([1], [[1]], [2], [INF], 0, 1.0), "infeasible"),
    Case("infeasible without columns",
         model_of([], np.zeros((1, 0)), [1], [2], np.zeros(0), np.zeros(0)), "infeasible"),
    Case("infeasible or unbounded", model_of([-1, 0], [[1, -1], [0, 1], [0, 1]],
         [-INF, 2, -INF], [1, INF, 1], 0, INF), "infeasible"),
    Case("unbounded", model_of([-1, 0], [[1, -1]], [-INF], [1], 0, INF), "unbounded"),
    Case("unbounded free column", model_of([1], [[1]], [-INF], [1], -INF, INF), "unbounded"),
    # -- quadratic programs
    Case("nearest point", model_of([-2, -4], [[1, 1]], [-INF], [2], -9, 9.0, q=np.diag([2.0, 2.0])),
         objective=-4.5, x=(0.5, 1.5), dual=(-1,)),
    Case("quadratic with mixed terms",
         model_of([0, -3], [[1, 0]], [1], [INF], -9, 9.0, q=[[2, 1], [1, 2]]),
         objective=0, x=(1, 1), dual=(3,)),
    Case("semidefinite", model_of([0, 1], [[1, 1]], [1], [INF], 0, 9.0, q=[[1, 0], [0, 0]]),
         objective=0.5, x=(1, 0), dual=(1,)),
    Case("quadratic, inner optimum", model_of([-2], [[1]], [-5], [5], -9, 9.0, q=[[4]]),
         objective=-0.5, x=(0.5,), dual=(0,)),
    Case("quadratic, infeasible", model_of([1], [[1]], [20], [INF], 0, 9.0, q=[[1]]), "infeasible"),
    # -- integer programs
    Case("rounding up does not do", model_of([5, 4], [[6, 4], [1, 2]], [25, 7], [INF] * 2, 0, 9.0,
         True), objective=23, x=(3, 2)),
    Case("knapsack", model_of([-10, -13, -7], [[3, 4, 2]], [-INF], [6], 0, 1.0, True),
         objective=-20, x=(0, 1, 1)),
    Case("integer infeasible, relaxation feasible",
         model_of([1, 1], [[2, 2]], [1], [1], 0, 5.0, True), "infeasible"),
    Case("integer equality", model_of([1, 1], [[3, 5]], [7], [7], -4, 4.0, True),
         objective=1, x=(-1, 2)),
    Case("bounds between whole numbers", model_of([-1, 1], [[1, 1]], [0], [9], 0.5, 3.7, True),
         objective=-2, x=(3, 1)),
    Case("decimal coefficients",
         model_of([-0.3, -0.2], [[0.1, 0.07]], [-INF], [0.5], 0, 9.0, True),
         objective=-1.5, x=(5, 0)),
    Case("thirds", model_of([-1, -1], [[1 / 3, 1 / 7]], [-INF], [1], 0, 9.0, True),
         objective=-7, x=(0, 7)),
    Case("no whole number between bounds", model_of([1], [[1]], [0], [9], 0.2, 0.8, True),
         "infeasible"),
    Case("integers without rows", model_of([1, -1], np.zeros((0, 2)), [], [], -1.5, 2.5, True),
         objective=-3, x=(-1, 2)),
    Case("integer unbounded", model_of([-1, 0], [[1, -1]], [-INF], [1], 0, INF, True), "unbounded"),
    # -- mixed-integer programs
    Case("integer infeasible, relaxation unbounded",
         model_of([0, -1], [[2, 0], [0, -1]], [1, -INF], [1, 0], 0, [5, INF], [True, False]),
         "infeasible"),
    Case("fixed charge", model_of([1, 10], [[1, -5], [1, 0]], [-INF, 3], [0, INF], 0, [9.0, 1.0],
         [False, True]), objective=13, x=(3, 1)),
    Case("mixed infeasible", model_of([0, 0], [[2, 0], [1, 1]], [1, 1], [1, INF], 0, [3.0, 1.0],
         [True, False]), "infeasible"),
    Case("nearest whole point",
         model_of([-5, -3], [[1, 1]], [-INF], [3], 0, 9.0, True, q=np.diag([2.0, 2.0])),
         objective=-8, x=None),
    Case("mixed quadratic", model_of([-5, -2.5], [[1, 1]], [-INF], [9], 0, 9.0, [True, False],
         q=np.diag([2.0, 2.0])), objective=-6 - 1.5625),
)  # fmt: skip
"""Models with answers worked out by hand."""


KNAPSACK = model_of([-10, -13, -7], [[3, 4, 2]], [-INF], [6], 0, 1.0, True)
ROOM = model_of([-1, -1], [[1, 1]], [-INF], [4], 0, 2.0, True)
"""Feasible everywhere in its box; (2, 2) is optimal."""


def random_lp(seed: int) -> Model:
    """A small bounded LP with rows of every kind and coefficients of very different size."""
    rng = np.random.default_rng(seed)
    n, m = int(rng.integers(1, 8)), int(rng.integers(1, 6))
    matrix = rng.normal(size=(m, n)) * np.exp(rng.normal(0, 3, size=(m, 1)))
    x = rng.uniform(0, 1, n)
    body = matrix @ x
    kind = rng.integers(0, 4, m)
    room = np.abs(body) * 0.1
    lower = np.where(kind == 0, -np.inf, np.where(kind == 3, body, body - room))
    upper = np.where(kind == 1, np.inf, np.where(kind == 3, body, body + room))
    return model_of(rng.normal(size=n), matrix, lower, upper, 0.0, rng.uniform(1, 1e4, n))


def big_lp(seed: int, n: int = 3000) -> Model:
    """A feasible transport-like LP that takes a moment."""
    rng = np.random.default_rng(seed)
    places = 60
    matrix = np.zeros((places + n // places, n))
    for column in range(n):
        matrix[column % places, column] = 1.0
        matrix[places + column // places, column] = 1.0
    demand = rng.uniform(1, 5, n // places)
    supply = np.full(places, demand.sum() / places * 1.3)
    lower = np.concatenate([np.full(places, -INF), demand])
    upper = np.concatenate([supply, np.full(n // places, INF)])
    return model_of(rng.uniform(1, 9, n), matrix, lower, upper, 0.0, 50.0)


def market_split(seed: int, n: int = 40, m: int = 5) -> Model:
    """Equalities over binaries, of which no solver finds a solution soon."""
    rng = np.random.default_rng(seed)
    matrix = rng.integers(0, 100, size=(m, n))
    side = matrix.sum(axis=1) // 2
    return model_of(np.ones(n), matrix, side, side, 0, 1.0, True)
