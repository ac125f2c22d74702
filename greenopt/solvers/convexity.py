"""Whether a quadratic term is convex: asked before any solver, since some answer regardless."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy import sparse
from scipy.sparse.csgraph import connected_components
from scipy.sparse.linalg import splu

from greenopt.errors import SolverError

CONVEXITY_TOLERANCE = 1e-9
"""Negative curvature up to this share of the largest curvature is taken for rounding."""

DENSE = 400
"""Largest connected part whose eigenvalues are computed densely."""


def refuse_nonconvex(q: Any) -> None:
    """Refuse a quadratic term that is not symmetric and positive semidefinite.

    Columns that no entry connects, however indirectly, are looked at apart.

    Raises
    ------
    SolverError
        With the most negative curvature where it is known.
    """
    q = sparse.csr_array(q)
    if not np.isfinite(q.data).all():
        raise SolverError("the quadratic term has a coefficient that is not finite")
    size = float(abs(q).max()) if q.nnz else 0.0
    if abs(q - q.T).max() > 1e-12 * size:
        raise SolverError("the quadratic term is not symmetric")
    _, part = connected_components(q, directed=False)
    count = np.bincount(part)
    alone = count[part] == 1
    if (q.diagonal()[alone] < -CONVEXITY_TOLERANCE * size).any():
        raise _nonconvex(float(q.diagonal()[alone].min()))
    order = np.argsort(part, kind="stable")
    for members in np.split(order, np.cumsum(count)[:-1]):
        if len(members) > 1:
            _refuse_part(sparse.csc_array(q[members][:, members]))


def _refuse_part(q: Any) -> None:
    room = CONVEXITY_TOLERANCE * float(abs(q).sum(axis=1).max())  # at least the largest eigenvalue
    if q.shape[0] <= DENSE:
        least = float(np.linalg.eigvalsh(q.toarray())[0])
        if least < -room:
            raise _nonconvex(least)
    elif not _is_positive(sparse.csc_array(q + room * sparse.eye_array(q.shape[0]))):
        raise _nonconvex(None)


def _is_positive(q: Any) -> bool:
    """Positive definite exactly if elimination along the diagonal meets positive pivots only."""
    try:
        factors = splu(
            q, permc_spec="MMD_AT_PLUS_A", diag_pivot_thresh=0.0, options={"SymmetricMode": True}
        )
    except RuntimeError:  # a pivot of zero
        return False
    straight = bool((factors.perm_r == factors.perm_c).all())
    return straight and bool((factors.U.diagonal() > 0).all())


def _nonconvex(least: float | None) -> SolverError:
    where = "" if least is None else f": its smallest eigenvalue is about {least:.3g}"
    return SolverError(
        f"the quadratic term is not convex{where}; no solver here proves optima of such models"
    )
