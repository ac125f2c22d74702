"""Rules that place requests without looking at the whole objective: what others would do.

A rule says where requests go; how many instances run there, at which levels and in which modes is
then decided by the instance's own objective, the same step for every rule. All limits of the
instance hold: what does not fit goes where the rule likes it next best. Named after mechanisms.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Self

import numpy as np
from scipy import sparse

from greenopt.labelled import FloatArray, LabelledArray
from greenopt.model import Block, Model
from greenopt.problems.placement.formulation import Formulation
from greenopt.problems.placement.instance import PlacementInstance
from greenopt.problems.placement.queueing import Pieces, chords
from greenopt.ruling import Rule

RULES: dict[str, str] = {
    "nearest": "every request to the site with the shortest round trip",
    "cheapest": "every request to the site where a server kWh costs least (price times PUE)",
    "greenest": "every request to the site where a server kWh emits least (carbon times PUE)",
    "least-water": "every request to the site where a server kWh takes least water (WUE plus PUE "
    "times EWIF)",
    "round-robin": "every site the same share of every origin's requests",
    "throughput-first": "every request to the instances that serve most per GPU at full load",
}
"""Rules by name, and what they do."""


class Ruled(Formulation):
    """The model of one instance, with what a rule minimises before the objective comes.

    Parameters
    ----------
    instance : PlacementInstance
        What to formulate.
    wanted : sequence of str
        Keys of `RULES`, or "first-mode" and "full-load", in order of precedence. "first-mode"
        uses modes in the order of the instance, the next one when the one before is full;
        "full-load" runs instances at their highest level only.
    pieces : callable
        As for `Statement`.
    """

    def __init__(
        self,
        instance: PlacementInstance,
        *wanted: str,
        pieces: Callable[[FloatArray], Pieces] = chords,
    ) -> None:
        super().__init__(instance, pieces=pieces)
        self._wanted = wanted
        if "full-load" in wanted:
            self.model = self._full_load()
        self._group = self._period
        if "round-robin" in wanted:
            self._add_excess()
        served = [self._served()] if instance.unmet_allowed else []
        self.rules = served + [self._rule(name) for name in wanted if name != "full-load"]

    def with_pieces(self, pieces: Pieces) -> Self:
        """The same rules with other pieces of the curves of waiting."""
        return type(self)(self.instance, *self._wanted, pieces=lambda _: pieces)

    def below(self) -> None:
        """None: rules are followed on chords, and `follow` makes them finer."""
        return None

    def _served(self) -> Rule:
        """Before any rule, as many requests are served as can be: nobody is left to save."""
        cost = np.zeros(self.model.matrix.shape[1])
        cost[self.model.columns["unmet"].slice] = 1.0
        return Rule(cost, self._group)

    def marginals_of(self, model: Model, row_dual: FloatArray) -> dict[str, LabelledArray]:
        """None: multipliers of a rule's model prove nothing about the instance."""
        return {}

    def _rule(self, name: str) -> Rule:
        cost = np.zeros(self.model.matrix.shape[1])
        if name == "round-robin":  # as little as can be above equal shares
            cost[self.model.columns["above_share"].slice] = 1.0
        else:
            cost[self._flow.slice] = _COSTS[name](self)
        return Rule(cost, self._group)

    def _full_load(self) -> Model:
        """The model without instances below their highest level."""
        highest = np.array([len(service.profile.levels) - 1 for service in self.services])
        lower = self._run.codes["level"] < highest[self._run_service]
        upper = self.model.column_upper.copy()
        upper[self._run.slice][lower] = 0.0
        return replace(self.model, column_upper=upper)

    def _add_excess(self) -> None:
        """Columns for what (period, origin, class, site) has above an equal share of its requests.

        Shares are of the sites that can be reached.
        """
        inst, f = self.instance, self._flow.codes
        axes = ("period", "origin", "class", "site")
        shape = [len(inst.sets[axis]) for axis in axes]
        # A class that may wait is shared out over the horizon, not period by period.
        waits = np.array([k.deferral_limit_s is not None for k in inst.classes])
        at = {**f, "period": np.where(waits[f["class"]], 0, f["period"])}
        keys, cell = np.unique(
            np.ravel_multi_index([at[axis] for axis in axes], shape), return_inverse=True
        )
        codes = dict(zip(axes, np.unravel_index(keys, shape), strict=True))
        requests = np.where(waits, inst.demand_requests.sum(axis=0), inst.demand_requests)
        demand = requests[codes["period"], codes["origin"], codes["class"]]
        sites = np.bincount(keys // shape[-1])[keys // shape[-1]]  # that the class can reach
        self.model = _with_excess(self.model, self._flow, codes, cell, demand / sites, 2 * demand)
        self._group = np.append(self._period, codes["period"])

    def _per_site(self, grid: FloatArray) -> FloatArray:
        return np.asarray(grid[self._flow.codes["period"], self._flow.codes["site"]])

    def _gpu_s(self) -> FloatArray:
        """GPU time of a request at full load."""
        rate = np.array([service.profile.levels[-1].requests_per_s for service in self.services])
        p = self._flow_service
        work = self._work[self._flow.codes["class"], p] * self._gpus[p]
        return np.asarray(np.divide(work, rate[p], out=np.zeros_like(work), where=rate[p] > 0))

    def _round_trip_s(self) -> FloatArray:
        f = self._flow.codes
        return np.asarray(self.instance.rtt_s[f["origin"], f["site"]])


_COSTS: dict[str, Callable[[Ruled], FloatArray]] = {
    "nearest": Ruled._round_trip_s,
    "cheapest": lambda of: of._per_site(of.instance.price_usd_per_mwh * of.instance.pue),
    "greenest": lambda of: of._per_site(of.instance.carbon_g_per_kwh * of.instance.pue),
    "least-water": lambda of: of._per_site(
        of.instance.wue_l_per_kwh + of.instance.pue * of.instance.ewif_l_per_kwh
    ),
    "throughput-first": Ruled._gpu_s,
    "first-mode": lambda of: of._flow.codes["mode"].astype(float),
}
"""What a request costs a rule."""


def _with_excess(
    model: Model,
    flow: Block,
    codes: dict[str, np.ndarray],
    cell: np.ndarray,
    share: FloatArray,
    most: FloatArray,
) -> Model:
    """A model with columns for the flow of each cell above its share."""
    n_rows, n_columns = model.matrix.shape
    n = len(share)
    flows = sparse.csr_array((np.ones(flow.size), (cell, flow.positions)), shape=(n, n_columns))
    matrix = sparse.block_array([[model.matrix, None], [flows, -sparse.eye_array(n)]], format="csr")
    stages = tuple(replace(s, c=np.append(s.c, np.zeros(n))) for s in model.stages)
    return replace(
        model,
        columns={**model.columns, "above_share": Block("above_share", codes, n_columns, n)},
        rows={**model.rows, "above_share": Block("above_share", codes, n_rows, n)},
        matrix=matrix,
        row_lower=np.append(model.row_lower, np.full(n, -np.inf)),
        row_upper=np.append(model.row_upper, share),
        column_lower=np.append(model.column_lower, np.zeros(n)),
        column_upper=np.append(model.column_upper, most),
        integer=np.append(model.integer, np.zeros(n, dtype=bool)),
        stages=stages,
    )


def formulate(instance: PlacementInstance, rule: str) -> Ruled:
    """Build the model of an instance with one rule's wishes."""
    return Ruled(instance, rule)
