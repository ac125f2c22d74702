"""Rules that route queries without looking at the whole: what others would do.

All limits of the instance hold: what does not fit goes where the rule likes it next best, and lower
limits that are not met in the end are met by the moves that cost the rule least.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import permutations

import numpy as np
from scipy import sparse

from greenopt.labelled import FloatArray, IntArray
from greenopt.model import StageObjective
from greenopt.problems.routing.formulation import Formulation
from greenopt.solving import Run

RULES: dict[str, str] = {
    "own-best": "every query to the deployment that costs it least, in the order of the instance, "
    "while there is room (Algorithm 1 of arXiv 2407.04014 without queues)",
    "round-robin": "one query after the other to one deployment after the other",
    "random": "every query to any deployment, by the seed",
    "one-coefficient": "counts that are best when every query costs a deployment the same, "
    "any assignment with these counts (what the published code computes)",
    "threshold": "queries up to a number of input tokens, output tokens or their product to one "
    "deployment, the others to another one: the best such rule (arXiv 2407.00010)",
}
"""Rules by name, and what they do."""

ENOUGH = 1e-9
"""Relative slack of sides of limits."""


def decide(formulation: Formulation, rule: str, run: Run) -> FloatArray | None:
    """Columns of a rule's plan; None where the rule finds none that keeps the limits.

    Parameters
    ----------
    formulation : Formulation
        Of the instance.
    rule : str
        One of `RULES`.
    run : Run
        The solve, with its seed.
    """
    if rule == "one-coefficient":
        return _one_coefficient(formulation, run)
    if rule == "threshold":
        return _threshold(formulation)
    columns = _Columns(formulation)
    n = len(columns.c)
    if rule == "own-best":
        return columns.filled(columns.c)
    if rule == "random":
        order = np.random.default_rng(run.settings.seed)
        return columns.filled(order.random(n), spread=True)
    return columns.filled(np.zeros(n), spread=True)


def _one_coefficient(formulation: Formulation, run: Run) -> FloatArray | None:
    """The optimum of the model in which all queries cost a deployment the same."""
    model, deployment = formulation.model, formulation.deployment_of_column
    own = formulation.instance.count[formulation.query_of_column]
    n = np.bincount(deployment, own)
    each = np.bincount(deployment, own * model.stages[0].c) / np.maximum(n, 1.0)
    stage = StageObjective(each[deployment], 0.0)
    return run.solve_stage(replace(model, stages=(stage,)), 0).x


def _threshold(formulation: Formulation) -> FloatArray | None:
    """The best split of the workload in two by a number of tokens."""
    inst, model = formulation.instance, formulation.model
    query, deployment = formulation.query_of_column, formulation.deployment_of_column
    shape = (len(inst.queries), len(inst.deployments))
    cost = np.full(shape, np.inf)
    cost[query, deployment] = model.stages[0].c
    cost[inst.count == 0] = 0.0
    with np.errstate(invalid="ignore"):
        cost = np.where(inst.count[:, None] > 0, cost * inst.count[:, None], 0.0)
    tokens_out = inst.tokens_out.mean(axis=1)
    best, plan = np.inf, None
    for tokens in (inst.tokens_in, tokens_out, inst.tokens_in * tokens_out):
        order = np.argsort(tokens, kind="stable")
        ends = np.append(np.diff(tokens[order]) > 0, True)  # equal queries are not told apart
        for below, above in permutations(range(shape[1]), 2):
            first, rest = np.cumsum(cost[order, below]), cost[order, above]
            total = first + np.append(np.cumsum(rest[::-1])[::-1][1:], 0.0)
            total[~ends] = np.inf
            at = int(np.argmin(total))
            if total[at] < best:
                best = float(total[at])
                plan = np.full(shape[0], above)
                plan[order[: at + 1]] = below
    if plan is None:
        return None
    return np.where(deployment == plan[query], inst.count[query], 0.0)


class _Columns:
    """The columns of a model, kind by kind, and the limits they use up."""

    def __init__(self, formulation: Formulation) -> None:
        model, inst = formulation.model, formulation.instance
        self.c = model.stages[0].c
        self._query, self._n = formulation.query_of_column, len(inst.deployments)
        self._deployment = formulation.deployment_of_column
        self._count = inst.count
        own = np.arange(model.rows["demand"].size, model.matrix.shape[0])
        self._use = sparse.csc_array(model.matrix[own])
        self._lower, self._upper = model.row_lower[own], model.row_upper[own]
        self._start = np.searchsorted(self._query, np.arange(len(inst.queries) + 1))

    def filled(self, liked: FloatArray, spread: bool = False) -> FloatArray | None:
        """Send every query where it is liked best (the least value) and there is room.

        Parameters
        ----------
        liked : ndarray, shape (n_columns,)
            The less the better.
        spread : bool
            Take one deployment after the other, so that the queries of a kind are spread.
        """
        x = np.zeros(len(self.c))
        room = self._upper.copy()
        turn = 0
        for kind in np.flatnonzero(self._count):
            own = np.arange(self._start[kind], self._start[kind + 1])
            left = float(self._count[kind])
            if spread:
                turn = self._dealt(own, left, liked, turn, x, room)
                left -= float(x[own].sum())
            else:
                for column in own[np.argsort(liked[own], kind="stable")]:
                    left -= self._put(int(column), left, x, room)
            if left > 0:
                return None
        return self._lifted(x, liked)

    def _dealt(
        self,
        own: IntArray,
        left: float,
        liked: FloatArray,
        turn: int,
        x: FloatArray,
        room: FloatArray,
    ) -> int:
        """Deal a kind's queries out, from the deployment whose turn it is; whose turn is next."""
        place = (self._deployment[own] - turn) % self._n
        order = own[np.lexsort([place, liked[own]])]
        open_ = list(map(int, order))
        while left > 0 and open_:
            share = max(np.floor(left / len(open_)), 1.0)
            for column in list(open_):
                put = self._put(column, min(share, left), x, room)
                left -= put
                if put < min(share, left + put):
                    open_.remove(column)
                if left <= 0:
                    return int(self._deployment[column] + 1) % self._n
        return turn

    def _put(self, column: int, most: float, x: FloatArray, room: FloatArray) -> float:
        """Send as many queries to a column as fit; how many."""
        begin, end = self._use.indptr[column : column + 2]
        rows, use = self._use.indices[begin:end], self._use.data[begin:end]
        taking = use > 0
        with np.errstate(invalid="ignore"):
            fits = room[rows[taking]] / use[taking]
        put = float(max(min(most, np.floor(fits.min(initial=np.inf) * (1 + ENOUGH))), 0.0))
        x[column] += put
        room[rows] -= put * use
        return put

    def _lifted(self, x: FloatArray, liked: FloatArray) -> FloatArray | None:
        """Move queries until lower limits are met; None if moves do not meet them."""
        for row in np.flatnonzero(np.isfinite(self._lower)):
            use = np.asarray(self._use[[row]].todense()).ravel()
            slack = ENOUGH * max(abs(self._lower[row]), 1.0)
            short = self._lower[row] - float(use @ x)
            if short <= slack:
                continue
            for source, target, gain in self._moves(x, liked, use):
                short -= gain * self._moved(x, source, target, np.ceil(short / gain))
                if short <= slack:
                    break
            else:
                return None
        return x

    def _moves(
        self, x: FloatArray, liked: FloatArray, use: FloatArray
    ) -> Iterator[tuple[int, int, float]]:
        """Moves that gain on a row, those that cost the rule least per unit gained first.

        Returns
        -------
        iterator of (int, int, float)
            Column to take a query from, column to put it to, and what that gains.
        """
        sources, targets = [], []
        for column in np.flatnonzero(x > 0):
            kind = self._query[column]
            others = np.arange(self._start[kind], self._start[kind + 1])
            good = others[use[others] > use[column]]
            sources.append(np.full(len(good), column))
            targets.append(good)
        source, target = np.concatenate(sources), np.concatenate(targets)
        gain = use[target] - use[source]
        order = np.argsort((liked[target] - liked[source]) / gain, kind="stable")
        for at in order:
            yield int(source[at]), int(target[at]), float(gain[at])

    def _moved(self, x: FloatArray, source: int, target: int, most: float) -> float:
        """Move as many queries as other limits let, and there are; how many."""
        activity = self._use @ x
        amount = min(float(x[source]), most)
        while amount >= 1 and not self._may_move(activity, source, target, amount):
            amount = np.floor(amount / 2)
        x[source] -= amount
        x[target] += amount
        return float(amount)

    def _may_move(
        self, activity: FloatArray, source: int, target: int, amount: float = 1.0
    ) -> bool:
        """Whether a move keeps the limits that hold."""
        delta = amount * (self._use[:, [target]] - self._use[:, [source]]).todense().ravel()
        after = activity + delta
        room = ENOUGH * np.maximum(np.abs(activity), 1.0)
        above = (after > self._upper + room) & (delta > 0)
        below = (after < self._lower - room) & (delta < 0)
        return not (above | below).any()
