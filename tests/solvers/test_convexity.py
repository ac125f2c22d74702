"""Convexity is asked before any solver."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import sparse
from solvers.models import INF, model_of

from greenopt.errors import SolverError
from greenopt.solvers import SOLVERS, Session, solve_model
from greenopt.solvers.convexity import DENSE, refuse_nonconvex


@pytest.mark.parametrize("name", [n for n, i in SOLVERS.items() if i.quadratic != "none"])
def test_indefinite_objective_is_refused(name: str) -> None:
    """HiGHS calls a saddle 'Optimal' (-60 where -90 is possible); nobody gets to see it."""
    model = model_of([0, 0], [[1, 1]], [-INF], [9], -5.0, 5.0, q=[[2, 4], [4, 2]])
    with pytest.raises(SolverError, match="not convex: its smallest eigenvalue is about -2"):
        solve_model(model, solver=name)
    with pytest.raises(SolverError, match=r"not convex|keeps no model"):
        Session(model, solver=name)


def test_sides_of_convexity() -> None:
    """Negative diagonals, asymmetry and infinities are refused; rounding is forgiven."""
    for q, words in (
        ([[-1.0]], "not convex"),
        ([[1, 2], [0, 1]], "not symmetric"),
        ([[np.inf]], "not finite"),
        (np.diag([1.0, 1.0, -1e-3]), "not convex"),
    ):
        with pytest.raises(SolverError, match=words):
            refuse_nonconvex(sparse.csr_array(np.asarray(q, dtype=float)))
    refuse_nonconvex(sparse.csr_array((3, 3)))
    refuse_nonconvex(sparse.csr_array(np.array([[1.0, 1.0], [1.0, 1.0 - 1e-12]])))


@pytest.mark.parametrize("size", [2, 30, DENSE + 50])
@pytest.mark.parametrize("seed", range(4))
def test_against_all_eigenvalues(seed: int, size: int) -> None:
    """Sums of squares pass, and fail once they are lowered below zero, in parts of any size."""
    rng = np.random.default_rng(seed)
    factor = sparse.random_array((size, size // 2 + 1), density=min(1.0, 4 / size), rng=rng)
    path = sparse.diags_array([np.ones(size), -np.ones(size - 1)], offsets=[0, 1])  # connects all
    square = factor @ factor.T + path.T @ path
    least, most = np.linalg.eigvalsh(square.toarray())[[0, -1]]
    refuse_nonconvex(square)
    refuse_nonconvex(square - least * sparse.eye_array(size))
    with pytest.raises(SolverError, match="not convex"):
        refuse_nonconvex(square - (least + 1e-4 * most) * sparse.eye_array(size))


def test_two_parts_are_looked_at_apart() -> None:
    """One bad part among many good ones is found."""
    good = sparse.csr_array(np.array([[2.0, 1.0], [1.0, 2.0]]))
    bad = sparse.csr_array(np.array([[1.0, 2.0], [2.0, 1.0]]))
    refuse_nonconvex(sparse.block_diag([good] * 50))
    with pytest.raises(SolverError, match="about -1"):
        refuse_nonconvex(sparse.block_diag([good] * 25 + [bad] + [good] * 25))
