"""The model of a routing instance whose queries and limits may grow, for marginals.

Where whole numbers are found by search (any limit but on nested numbers of queries, a floor, or
stages) they are relaxed: held, nothing could change at all. The rates are then those of the linear
program, whose objective is the bound that is proved, and not those of the plan. Where they come by
themselves nothing is relaxed.
"""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

import numpy as np
from scipy import sparse

from greenopt.labelled import FloatArray
from greenopt.model import Block, Directions, Model
from greenopt.problems.routing.formulation import Formulation
from greenopt.problems.routing.instance import RoutingInstance

METRICS = ("energy_kwh", "carbon_kg", "cost_usd", "runtime_s", "accuracy_percent_tokens")


class Growing(Formulation):
    """The model of one instance, with the directions in which its right-hand sides may grow.

    What normalises the terms of the objective stays as it is: the largest value or the range over
    the kinds of queries that there are now.

    Attributes
    ----------
    metrics : tuple of str
        Those of `METRICS` that the instance has, and the mean run time.
    relaxed : bool
        Whether whole numbers are relaxed.
    """

    sums: ClassVar = {"runtime_mean_s": "runtime_s"}
    count = "queries"

    def __init__(self, instance: RoutingInstance) -> None:
        super().__init__(instance)
        own = tuple(name for name in METRICS if instance.has_metric(name))
        self.metrics = (*own, *self.sums)
        self.relaxed = self.model.is_integer
        self.model = replace(self.model, integer=np.zeros_like(self.model.integer))

    def mean_in(self, stage: int) -> FloatArray:
        """No part of an objective is a mean."""
        return np.zeros(self.model.matrix.shape[1])

    def directions(self) -> dict[str, Directions]:
        """Changes of right-hand sides: one more query of a kind, one more unit of a limit.

        Both sides of a limit move. An instance without limits has only queries.
        """
        rows, sets = self.model.rows, self.model.labels
        demand, limit = rows["demand"], rows.get("limit")
        found = {"demand": self._along(demand, "query", sets["query"], 1.0)}
        if limit is not None:
            found["limits"] = self._along(limit, "limit", sets["limit"], 0.0, "unit")
        return found

    def _along(
        self, block: Block, axis: str, labels: tuple[str, ...], count: float, unit: str = "query"
    ) -> Directions:
        """One more of every row of a block."""
        at = np.arange(block.size)
        shape = (self.model.matrix.shape[0], block.size)
        rows = sparse.csc_array((np.ones(block.size), (block.positions, at)), shape=shape)
        return Directions(unit, {axis: labels}, at[None], rows, np.full(block.size, count))

    def for_marginals(self, x: FloatArray | None = None) -> Model:
        """The linear program whose right-hand sides may grow, without bounds that rows imply."""
        return replace(self.model, column_upper=np.full_like(self.model.column_upper, np.inf))


def formulate(instance: RoutingInstance) -> Growing:
    """Build the model of an instance."""
    return Growing(instance)
