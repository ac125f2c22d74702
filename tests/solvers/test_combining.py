"""Groups under a few coupling rows, combined from plans: against HiGHS on the whole program."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy import sparse

from greenopt.model import Block, Model, StageObjective, dual_bound
from greenopt.solvers import Session, Termination
from greenopt.solvers import combining as module
from greenopt.solvers.combining import Combining, core, groups_of


def program(rng: np.random.Generator, n_groups: int = 60) -> Model:
    """Random groups of two to five columns, three coupling rows, a free column for each."""
    sizes = rng.integers(2, 6, n_groups)
    group, n = np.repeat(np.arange(n_groups), sizes), int(sizes.sum())
    amount = rng.integers(1, 5, n_groups).astype(float)
    choice = sparse.csr_array((np.ones(n), (group, np.arange(n))), shape=(n_groups, n))
    loads = rng.uniform(-1, 4, (3, n))
    near = loads @ (amount / sizes)[group]
    matrix = sparse.block_array([[choice, None], [loads, -np.eye(3)]], format="csr")
    matrix = sparse.csr_array(matrix, shape=(n_groups + 3, n + 3))
    upper = np.append((near + rng.choice([-0.9, -0.3, 0.2], 3) * np.abs(near))[:2], np.inf)
    freed = rng.random(n_groups) < 0.2
    return Model(
        "groups", {}, {"x": Block("x", {}, 0, n + 3)}, {"r": Block("r", {}, 0, n_groups + 3)},
        matrix,
        np.append(np.where(freed, 0.0, amount), [-np.inf, -np.inf, near[2]]),
        np.append(amount, upper),
        np.zeros(n + 3),
        np.append(np.where(rng.random(n) < 0.1, 0.0, amount[group]), rng.uniform(0, 20, 3)),
        np.zeros(n + 3, dtype=bool),
        (StageObjective(np.append(rng.uniform(-1, 3, n), rng.uniform(0, 5, 3)), 0.0),),
    )  # fmt: skip


def made(model: Model) -> Combining:
    """The program as groups."""
    groups = groups_of(model)
    assert groups is not None
    return Combining(model, groups)


def test_random_programs() -> None:
    """Value, point, bound and infeasibility are those of HiGHS."""
    seen = dict.fromkeys((Termination.OPTIMAL, Termination.INFEASIBLE), 0)
    for seed in range(60):
        model = program(np.random.default_rng(seed))
        c = model.stages[0].c
        with Session(model) as session:
            theirs = session.solve(30.0)
        ours = made(model).solve(30.0)
        assert ours.termination == theirs.termination
        seen[ours.termination] += 1
        if theirs.x is None:
            continue
        assert ours.x is not None
        assert ours.row_dual is not None
        value, size = float(c @ theirs.x), float(np.abs(c) @ theirs.x)
        assert "plans" in ours.message  # and not solved whole
        assert c @ ours.x == pytest.approx(value, abs=1e-6 * size)
        assert dual_bound(model, c, ours.row_dual) == pytest.approx(value, abs=1e-6 * size)
        activity = model.matrix @ ours.x
        assert (activity >= model.row_lower - 1e-7).all()
        assert (activity <= model.row_upper + 1e-7).all()
        assert (ours.x >= 0).all()
        assert (ours.x <= model.column_upper + 1e-9).all()
    assert min(seen.values()) >= 10, seen


def test_changes_in_place() -> None:
    """Other sides give what a new program with them gives."""
    model = program(np.random.default_rng(3))
    other = replace(model, row_upper=model.row_upper + np.append(np.zeros(60), np.full(3, 1e3)))
    own = made(model)
    assert own.solve(30.0).termination == Termination.INFEASIBLE
    own.change(
        row_lower=other.row_lower, row_upper=other.row_upper, column_upper=other.column_upper
    )
    changed, new = own.solve(30.0), made(other).solve(30.0)
    assert changed.x is not None
    assert new.x is not None
    assert model.stages[0].c @ changed.x == pytest.approx(float(model.stages[0].c @ new.x))


def test_a_group_that_is_all_closed() -> None:
    """It makes a program infeasible exactly if it asks for something."""
    model = program(np.random.default_rng(5))
    loose = model.row_upper + np.append(np.zeros(60), np.full(3, 1e3))
    first = sparse.csr_array(model.matrix)[[0]].indices
    upper = model.column_upper.copy()
    upper[first] = 0.0
    for asked, ended in ((1.0, Termination.INFEASIBLE), (0.0, Termination.OPTIMAL)):
        lower = model.row_lower.copy()
        lower[0], lower[-1] = asked, -np.inf
        raw = made(replace(model, row_lower=lower, row_upper=loose, column_upper=upper)).solve(9.0)
        assert raw.termination == ended


def test_what_is_not_made_of_groups() -> None:
    """A column in two choice rows, lower bounds of columns, and coupling rows only."""
    model = program(np.random.default_rng(7))
    twice = sparse.vstack([model.matrix[[0]], model.matrix], format="csr")
    rows = {"row_lower": np.append(0.0, model.row_lower)}
    rows["row_upper"] = np.append(5.0, model.row_upper)
    assert groups_of(replace(model, matrix=twice, **rows)) is None
    assert groups_of(replace(model, column_lower=np.full_like(model.column_lower, 0.1))) is None
    assert groups_of(replace(model, matrix=sparse.csr_array(2.0 * model.matrix))) is None


def test_solved_whole_where_it_does_not_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    """Columns that cannot take their whole group, or too few rounds: HiGHS has the last word."""
    model = program(np.random.default_rng(11))
    model = replace(model, row_upper=model.row_upper + np.append(np.zeros(60), np.full(3, 1e2)))
    half = replace(model, column_upper=0.9 * model.column_upper)
    with Session(half) as session:
        theirs = session.solve(30.0)
    ours = made(half).solve(30.0)
    assert ours.termination == theirs.termination
    assert "plans" not in ours.message
    monkeypatch.setattr(module, "MOST_ROUNDS", 0)
    assert "plans" not in made(model).solve(30.0).message


def test_the_core_of_a_search() -> None:
    """Its best point is one of the whole program; with all columns in it, it is the best of all."""
    compared = 0
    for seed in range(12):
        model = program(np.random.default_rng(seed))
        integer = np.append(np.ones(len(model.integer) - 3, dtype=bool), np.zeros(3, dtype=bool))
        whole, c = replace(model, integer=integer), model.stages[0].c
        with Session(whole) as session:
            best = session.solve(30.0)
        relaxed, groups = made(model).solve(30.0), groups_of(model)
        if best.x is None or relaxed.x is None or relaxed.row_dual is None:
            continue
        assert groups is not None
        for count in (20, len(c)):
            part = core(whole, groups, relaxed.x, relaxed.row_dual, count)
            with Session(part.model) as session:
                raw = session.solve(30.0)
            if raw.x is None:
                continue
            x = part.whole(raw.x)
            activity = model.matrix @ x
            assert (activity >= model.row_lower - 1e-6).all()
            assert (activity <= model.row_upper + 1e-6).all()
            assert (x[integer] == np.round(x[integer])).all()
            assert c @ x >= c @ best.x - 1e-6 * (np.abs(c) @ best.x)
            if count == len(c) and not (relaxed.x[-3:] > 0).any():
                compared += 1
                assert c @ x == pytest.approx(float(c @ best.x), rel=1e-5)
        assert len(core(whole, groups, relaxed.x, relaxed.row_dual, 5).columns) < len(c) / 2
    assert compared >= 2
