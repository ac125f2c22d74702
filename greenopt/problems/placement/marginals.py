"""The model of a placement instance whose demand and GPUs may grow, for marginals."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
from scipy import sparse

from greenopt.labelled import FloatArray, IntArray
from greenopt.model import Block, Directions, Model
from greenopt.problems.placement.eligibility import SLACK
from greenopt.problems.placement.formulation import Formulation
from greenopt.problems.placement.instance import PlacementInstance


class Growing(Formulation):
    """The model of one instance, with the directions in which its right-hand sides may grow."""

    metrics = ("carbon_kg", "cost_usd", "water_l", "ttft_request_s", "ttft_mean_s")
    sums: ClassVar = {"ttft_mean_s": "ttft_request_s"}
    count = "requests"

    def mean_in(self, stage: int) -> FloatArray:
        """The part of a stage's objective that is a mean over all demand."""
        terms = self.instance.objective[stage].terms
        weight = sum(t.weight / t.scale for t in terms if t.metric == "ttft_mean_s")
        if not weight:
            return np.zeros(self.model.matrix.shape[1])
        return float(weight) * self._vector("ttft_mean_s")

    def directions(self) -> dict[str, Directions]:
        """Changes of right-hand sides: one more request, one more GPU, one more in every period."""
        sets, n_rows = self.instance.sets, self.model.matrix.shape[0]
        demand = self.model.rows["demand"]
        d = tuple(demand.codes.values())
        columns, rows = [np.arange(demand.size)], [demand.positions]
        if deadline := self.model.rows.get("deadline"):
            request, limit = self._held_back(demand, deadline)
            columns.append(request)
            rows.append(limit)
        requests = _unit_entries(rows, columns, (n_rows, demand.size))
        gpus = self.model.rows["gpus"]
        at_all_times, place = np.unique(
            np.array([gpus.codes["site"], gpus.codes["gpu_type"]]), axis=1, return_inverse=True
        )
        period_gpus = _unit_entries([gpus.positions], [np.arange(gpus.size)], (n_rows, gpus.size))
        shape = (n_rows, at_all_times.shape[1])
        always = _unit_entries([gpus.positions], [place.ravel()], shape)

        def of(axes: tuple[str, ...]) -> dict[str, tuple[str, ...]]:
            return {axis: sets[axis] for axis in axes}

        return {
            "demand": Directions(
                "request", of(("period", "origin", "class")), np.array(d), requests,
                np.ones(demand.size),
            ),
            "gpus": Directions(
                "GPU", of(("period", "site", "gpu_type")), np.array([*gpus.codes.values()]),
                period_gpus, np.zeros(gpus.size),
            ),
            "gpus_always": Directions(
                "GPU", of(("site", "gpu_type")), at_all_times, always, np.zeros(shape[1])
            ),
        }  # fmt: skip

    def _held_back(self, demand: Block, deadline: Block) -> tuple[IntArray, IntArray]:
        """Each request beside the limits of what may be held back that one more of it raises.

        Returns
        -------
        ndarray of int, ndarray of int
            Position among the demand rows, and row of the model: a pair for every end of a period
            until which a request may wait.
        """
        sets, begin = self.instance.sets, self.instance.periods.begin_s
        shape = [len(sets[axis]) for axis in ("period", "origin", "class")]
        request, limit = np.full(shape, -1), np.full(shape, -1)
        request[tuple(demand.codes.values())] = np.arange(demand.size)
        limit[tuple(deadline.codes.values())] = deadline.positions
        found = []
        for k in np.unique(deadline.codes["class"]):
            longest = (self.instance.classes[k].deferral_limit_s or 0.0) * (1 + SLACK)
            wait = begin[1:] - begin[:-1, None]  # until the next period begins, by arrival
            arrival, end = np.nonzero((wait > 0) & (wait <= longest))
            found.append((request[arrival, :, k].ravel(), limit[end, :, k].ravel()))
        return np.concatenate([one for one, _ in found]), np.concatenate([row for _, row in found])

    def for_marginals(self, x: FloatArray | None = None) -> Model:
        """The linear program whose right-hand sides may grow, whole numbers held at those of `x`.

        Upper bounds that rows imply are left out, since they are made for the demand and the GPUs
        there are. Where an even balance has chosen a level, only GPUs and demand limit it.
        """
        model = self.model
        lower, upper = model.column_lower.copy(), model.column_upper.copy()
        given = np.zeros(len(upper), dtype=bool)
        if self.instance.fixed_instances is not None:
            given[self._running.slice] = self._running_given
        upper[(lower == 0) & ~given] = np.inf
        if largest := model.columns.get("site_max"):
            lower[largest.slice], upper[largest.slice] = -np.inf, np.inf
        row_upper = model.row_upper.copy()
        if x is not None:
            lower[model.integer] = upper[model.integer] = np.round(x[model.integer])
        if used := model.columns.get("used"):
            upper[self._run.slice] = np.where(lower[used.slice] > 0, np.inf, 0.0)
            row_upper[model.rows["level_used"].slice] = np.inf
        return replace(
            model,
            column_lower=lower,
            column_upper=upper,
            row_upper=row_upper,
            integer=np.zeros_like(model.integer),
        )


def _unit_entries(rows: list[IntArray], columns: list[IntArray], shape: tuple[int, int]) -> Any:
    at = (np.concatenate(rows), np.concatenate(columns))
    return sparse.csc_array((np.ones(len(at[0])), at), shape=shape)


def formulate(instance: PlacementInstance) -> Growing:
    """Build the model of an instance, with the columns of every profile at every site.

    Curves of waiting are in pieces as fine as the optimum needs.
    """
    from greenopt.solving import Run, Settings

    growing = Growing(instance, everywhere=True)
    return Run(instance, Settings(explain=False)).refined(growing)[0] if growing.curved else growing
