"""The model of a placement instance, and the way back from its columns and rows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Self

import numpy as np
from scipy import sparse

from greenopt.labelled import FloatArray, IntArray, LabelledArray
from greenopt.model import Model, clipped
from greenopt.problems.placement.eligibility import SLACK
from greenopt.problems.placement.instance import FLOW_AXES, PlacementInstance
from greenopt.problems.placement.metrics import METRICS
from greenopt.problems.placement.queueing import Pieces, closer, tangents, touching
from greenopt.problems.placement.statement import Statement

ROW_UNITS = {
    "demand": "request",
    "deadline": "request",
    "whole": "request",
    "running": "instance",
    "start": "instance",
    "min_up": "instance",
    "startup_share": "request",
    "startup_wait": "reference request",
    "gpus": "GPU",
    "power_cap": "W",
    "filled": "instance",
    "peak": "kW",
    "site_max": "unit of the metric",
    "one_level": "group",
    "level_used": "instance",
}
"""What one unit of each row's right-hand side is."""
_OF_BLOCKS = {"running": "instances", "starts": "instances", "startup_waits": "requests"}
"""Columns that stand for blocks of periods, and their unit."""


class Formulation(Statement):
    """The model of one instance, with plans and prices read from it and written to it."""

    suits: str | None = None
    """The solver that suits the model, where the default is left to choose."""

    def decode(self, x: FloatArray) -> dict[str, LabelledArray]:
        """The decision in the problem's own terms: flow by level, running instances, unmet.

        The flow of a group is spread over its levels in proportion to the load they serve, the
        same for every class: latency does not tell the levels of a group apart.
        """
        x = self._tight(np.maximum(x, 0.0))
        result = {
            "flow": self._flow_by_level(x),
            "instances": self.model.pick(self._run, "instances", x),
        }
        for name in ("unmet", "deferred"):
            if block := self.model.columns.get(name):
                result[name] = self.model.pick(block, "requests", x)
        for name, unit in _OF_BLOCKS.items():
            if block := self.model.columns.get(name):
                result[name] = self._by_period(self.model.pick(block, unit, x))
        return result

    def _tight(self, x: FloatArray) -> FloatArray:
        """Waits and starts that cost nothing, brought down to what the rows ask for."""
        costs = np.any([stage.c != 0 for stage in self.model.stages], axis=0)
        free = np.array([service.profile.startup is None for service in self.services])
        for name, rows in (("startup_waits", "startup_wait"), ("starts", "start")):
            block = self.model.columns.get(name)
            if block is None or costs[block.slice].any():
                continue
            # A start with a startup is a part of what its instances do, not to be taken off.
            may = np.ones(block.size, bool) if name != "starts" else free[self._start_service]
            value, rest = x[block.slice], x.copy()
            rest[block.slice] = 0.0
            row_block = self.model.rows[rows]
            own = self.model.matrix[row_block.slice]
            entries = sparse.csc_array(own[:, block.slice])  # one a column
            need = np.maximum(own @ rest - self.model.row_upper[row_block.slice], 0.0)
            have = -(entries @ value)
            share = np.divide(need, have, out=np.ones_like(need), where=have > need)
            rest[block.slice] = np.where(may, value * share[entries.indices], value)
            x = rest
        return x

    def _by_period(self, array: LabelledArray) -> LabelledArray:
        """Numbers of blocks by period: `running` in every period, others in the first."""
        block, *others = array.codes
        if array.name == "running":
            at, period = np.nonzero(block[:, None] == self._block)
        else:
            at, period = np.arange(len(block)), self._block_begin[block]
        codes = np.array([period, *(code[at] for code in others)])
        labels = {"period": self.instance.sets["period"], **dict(list(array.labels.items())[1:])}
        return LabelledArray(array.name, array.unit, labels, codes, array.values[at])

    def misfit(self, decision: Mapping[str, LabelledArray]) -> str:
        """Say why arrays are no plan of this instance, nor a part of one; nothing if they are."""
        known = {
            name: tuple({"block": "period", "group": "level"}.get(axis, axis) for axis in own.codes)
            for name, own in self.model.columns.items()
        }
        if not set(decision) & set(known):
            return f"none of its arrays {sorted(decision)} belongs to this plan"
        for name in sorted(set(decision) & set(known)):
            axes, labels = known[name], getattr(decision[name], "labels", None)
            if labels is None or tuple(labels) != axes:
                return f"array {name!r} is not over {list(axes)}"
            if any(labels[axis] != self.instance.sets[axis] for axis in axes):
                return f"array {name!r} has other labels than this instance"
        return ""

    def encode(self, decision: Mapping[str, LabelledArray]) -> FloatArray:
        """Columns of a plan, the inverse of `decode`; NaN for what it does not say.

        Parameters
        ----------
        decision : mapping of str to LabelledArray
            Any of the arrays of a plan of this instance.

        Returns
        -------
        ndarray, shape (n_columns,)
        """
        x = np.full(self.model.matrix.shape[1], np.nan)
        for name, array in decision.items():
            block = self.model.columns.get(name)
            if block is None:
                continue
            if name == "flow":
                x[block.slice] = self._flow_of_groups(array)
                continue
            dense = array.dense()
            place = dict(block.codes)
            if "block" in place:
                place = {"period": self._block_begin[place.pop("block")], **place}
            x[block.slice] = dense[tuple(place[axis] for axis in array.axes)]
        self._complete(x)
        return x

    def _flow_of_groups(self, array: LabelledArray) -> FloatArray:
        """Flows by level added up over the levels of each group."""
        dense = array.dense()
        f = self._flow.codes
        result = np.zeros(self._flow.size)
        for service in self.services:
            for level, group in enumerate(service.group):
                here = np.flatnonzero((self._flow_service == service.index) & (f["group"] == group))
                result[here] += dense[(*(f[axis][here] for axis in FLOW_AXES), level)]
        return result

    def _complete(self, x: FloatArray) -> None:
        """Fill in columns that follow from the others: whole flows, levels used, maxima."""
        columns = self.model.columns
        if "filled" in columns:
            x[columns["filled"].slice] = self._filled_of(x)
        if "whole_flow" in columns and not np.isnan(x[self._flow.slice]).any():
            flow = x[self._flow.slice][self._spread]
            x[columns["whole_flow"].slice] = np.bincount(self._whole_of_spread, flow)
        if "used" in columns:
            run = x[self._run.slice]  # what rounding has left at a level does not use it
            x[columns["used"].slice] = np.where(
                np.isnan(run), np.nan, run > SLACK * self._run_upper
            )
        for name, rows in (("peak_kw", "peak"), ("site_max", "site_max")):
            if name not in columns:
                continue
            own, block = columns[name], self.model.rows[rows]
            x[own.slice] = 0.0
            value = self.model.matrix[block.slice] @ x
            key = [block.codes[axis] for axis in own.codes]
            grid = np.full([len(self.model.labels[axis]) for axis in own.codes], -np.inf)
            np.maximum.at(grid, tuple(key), value)
            x[own.slice] = grid[tuple(own.codes.values())]

    def _filled_of(self, x: FloatArray) -> FloatArray:
        """Instances by utilisation, of flows and instances: at the two points around theirs."""
        run, pieces = x[self._run.slice][self._curve_run], self.pieces
        load = self.model.rows["load"]
        own = self.model.matrix[load.slice][:, self._flow.slice] @ x[self._flow.slice]
        work = own[self._load_row_of_run[self._curve_run]]
        served = self._run_duration_s[self._curve_run] * run
        busy = work * self._service_s[self._run_service[self._curve_run]]
        with np.errstate(divide="ignore", invalid="ignore"):
            u = np.where(run > 0, busy / served, np.where(np.isnan(run), np.nan, 0.0))
        most = pieces.utilisation[pieces.last]
        u = np.minimum(u, most)[pieces.curve]
        # The weight of a point falls linearly to 0 at its neighbours.
        at = pieces.utilisation
        before, after = np.roll(at, 1), np.roll(at, -1)
        with np.errstate(divide="ignore", invalid="ignore"):
            rising, falling = (u - before) / (at - before), (after - u) / (after - at)
        rising[pieces.number == 0] = 1.0
        falling[pieces.last] = 1.0
        weight = np.clip(np.minimum(rising, falling), 0.0, 1.0)
        return np.asarray(weight * run[pieces.curve])

    # -- waiting along curves ----------------------------------------------------------------------

    def proving(self, model: Model, stage: int, row_dual: FloatArray) -> FloatArray:
        """Row multipliers that prove a bound of the true curves of waiting, not of their chords.

        Those of `filled` rows are replaced by what the tangent that touches takes from an instance.

        Parameters
        ----------
        model : Model
            This formulation's model, perhaps with rows that keep earlier stages.
        stage : int
            Whose objective.
        row_dual : ndarray, shape (n_rows,)
            Multipliers of its rows.
        """
        if not self.curved:
            return row_dual
        dual = row_dual.copy()
        dual[model.rows["filled"].slice] = self._touching(model, stage, row_dual)[1]
        return dual

    def with_pieces(self, pieces: Pieces) -> Self:
        """The same with other pieces of the curves of waiting."""
        return type(self)(self.instance, self._everywhere, self._apart, lambda _: pieces)

    def finer(self, x: FloatArray, model: Model, stage: int, row_dual: FloatArray) -> Self:
        """The formulation with points near a plan's and where the tangents of multipliers touch."""
        at, value = self._touching(model, stage, row_dual)
        useful = np.flatnonzero(value < 0)
        pieces = closer(self.pieces, useful, at[useful])
        return self.with_pieces(closer(pieces, *self._in_use(x, self.pieces)))

    def around(self, x: FloatArray, below: bool = False) -> Self:
        """The formulation with points at and near the utilisations of a plan, maybe of `below`."""
        used = self._in_use(x, tangents(self.pieces) if below else self.pieces)
        return self.with_pieces(closer(self.pieces, *used))

    def _in_use(self, x: FloatArray, pieces: Pieces) -> tuple[IntArray, FloatArray]:
        """Curves on which instances serve, and their utilisation."""
        filled = np.maximum(x[self._filled.start :][: len(pieces.curve)], 0.0)
        n = len(self._curve_run)
        run = np.bincount(pieces.curve, filled, n)
        busy = np.bincount(pieces.curve, filled * pieces.utilisation, n)
        used = np.flatnonzero(busy > 0)
        return used, busy[used] / run[used]

    def below(self) -> Self | None:
        """A formulation with tangents for chords, if waiting is a curve: a relaxation."""
        return self.with_pieces(tangents(self.pieces)) if self.curved else None

    def _touching(
        self, model: Model, stage: int, row_dual: FloatArray
    ) -> tuple[FloatArray, FloatArray]:
        """Utilisation at which each curve is cheapest at given prices, and the price there."""
        filled, load = self._filled, model.rows["load"]
        others = clipped(model, row_dual)
        served = np.minimum(others[load.slice], 0.0)[self._load_row_of_run[self._curve_run]]
        others[load.slice] = others[model.rows["filled"].slice] = 0.0
        reduced = model.stages[stage].c - model.matrix.T @ others
        end = self.pieces.last  # the price of waiting shows where there is some
        price = reduced[filled.slice][end] / self.pieces.waiting[end]
        seconds = self._run_duration_s[self._curve_run]
        reward = -served * seconds / self._service_s[self._run_service[self._curve_run]]
        return touching(np.maximum(price, 0.0), reward, self.pieces.utilisation[end])

    def _flow_by_level(self, x: FloatArray) -> LabelledArray:
        f, sets = self._flow.codes, self.instance.sets
        value, share = x[self._flow.slice], self._share_of_group(x)
        codes, amounts = [], []
        for service in self.services:
            for level, group in enumerate(service.group):
                here = np.flatnonzero(
                    (self._flow_service == service.index) & (f["group"] == group) & (value > 0)
                )
                part = value[here] * share[f["period"][here], f["site"][here], service.index, level]
                kept = here[part > 0]
                codes.append(
                    np.array([*(f[a][kept] for a in FLOW_AXES), np.full(len(kept), level)])
                )
                amounts.append(part[part > 0])
        axes = (*FLOW_AXES, "level")
        every, total = np.concatenate(codes, axis=1), np.concatenate(amounts)
        order = np.lexsort(every[::-1])
        labels = {axis: sets[axis] for axis in axes}
        return LabelledArray("flow", "requests", labels, every[:, order], total[order])

    def _share_of_group(self, x: FloatArray) -> FloatArray:
        """Share of its group's load that each level serves, by period, site, profile, level."""
        c = self._run.codes
        served = x[self._run.slice] * self._served_per_run
        by_group = np.bincount(self._load_row_of_run, served)[self._load_row_of_run]
        sets = self.instance.sets
        shape = (len(sets["period"]), len(sets["site"]), len(self.services), len(sets["level"]))
        table = np.zeros(shape)
        table[c["period"], c["site"], self._run_service, c["level"]] = np.divide(
            served, by_group, out=np.zeros_like(served), where=served > 0
        )
        return table

    def metric_vector(self, name: str) -> FloatArray:
        """Coefficients of a metric over the model's columns.

        Raises
        ------
        KeyError
            If it is not a linear metric of the instance.
        """
        own = {metric.name for metric in self.instance.custom_metrics}
        if name not in own and METRICS[name].kind == "report":
            raise KeyError(name)
        return self._vector(name)

    def marginals_of(self, model: Model, row_dual: FloatArray) -> dict[str, LabelledArray]:
        """Row multipliers by name; those of `load` rows by level, as the plain statement has them.

        Where a mask forbids flows, ``reachable`` is what it costs at the margin: how much the
        objective would fall for one request of a period, origin and class that it let go.

        Parameters
        ----------
        model : Model
            This formulation's model, perhaps with rows that keep earlier stages.
        row_dual : ndarray, shape (n_rows,)
            Multipliers of its rows.
        """
        result: dict[str, LabelledArray] = {}
        for name, block in model.rows.items():
            if name == "budget":
                result |= self._by_budget(row_dual, "objective per {}")
            elif name == "instance_limit":
                result |= self._by_instance_limit(row_dual, "objective per instance")
            elif not block.codes:  # the row that keeps an earlier stage
                codes = np.zeros((0, 1), dtype=np.int64)
                unit = "objective per unit of the stage"
                result[name] = LabelledArray(name, unit, {}, codes, row_dual[block.slice])
            elif name != "load":
                result[name] = self.model.pick(block, f"objective per {ROW_UNITS[name]}", row_dual)
        load = row_dual[self.model.rows["load"].slice][self._load_row_of_run]
        by_run = np.zeros(self.model.matrix.shape[1])
        by_run[self._run.slice] = load
        result["load"] = self.model.pick(
            self._run, "objective per reference request", by_run, name="load"
        )
        if self.instance.reachable is not None:
            result["reachable"] = self._price_of_mask(model, row_dual)
        return result

    def _price_of_mask(self, model: Model, row_dual: FloatArray) -> LabelledArray:
        """How much cheaper the forbidden flows would be, at the prices of everything else.

        Work has no price of its own where nothing runs; there it is what the cheapest instance
        would cost.

        Parameters
        ----------
        model : Model
            With rows that keep earlier stages.
        row_dual : ndarray
            Multipliers of its rows.
        """
        free = Formulation(self.instance.replace(reachable=None))
        dual = np.zeros(free.model.matrix.shape[0])
        for name, block in free.model.rows.items():
            given = model.rows.get(name)  # other flows may need other rows to be whole
            if name not in {"load", "filled"} and given and given.size == block.size:
                dual[block.slice] = row_dual[given.slice]
        stage = len([name for name in model.rows if name.startswith("stage_")])
        cost = free.model.stages[stage].c
        for number in range(stage):
            of_stage = row_dual[model.rows[f"stage_{number}"].start]
            cost = cost - of_stage * free.model.stages[number].c
        price = free.price_of_work(cost - free.model.matrix.T @ dual)
        f = free._flow.codes
        assert self.instance.reachable is not None
        closed = ~self.instance.reachable[tuple(f[axis] for axis in FLOW_AXES)]
        axes = ("period", "origin", "class")
        gain = np.zeros([len(self.instance.sets[axis]) for axis in axes])
        np.maximum.at(gain, tuple(f[axis][closed] for axis in axes), -price[closed])
        labels = {axis: self.instance.sets[axis] for axis in axes}
        return LabelledArray.from_dense("reachable", "objective per request", labels, gain)

    def price_of_work(self, reduced: FloatArray) -> FloatArray:
        """Prices of flows, each with the work of the cheapest instances that may do it.

        Parameters
        ----------
        reduced : ndarray, shape (n_columns,)
            Prices of columns without `load` and `filled` rows.
        """
        run = reduced[self._run.slice]
        served = self._served_per_run
        each = np.divide(run, served, out=np.full_like(run, np.inf), where=served > 0)
        if self.curved:
            at, u = self._filled_run, self.pieces.utilisation
            work = self._run_duration_s[at] * u / self._service_s[self._run_service[at]]
            cost = run[at] + reduced[self._filled.slice]
            every = np.divide(cost, work, out=np.full_like(cost, np.inf), where=work > 0)
            each[self._curve_run] = np.inf
            np.minimum.at(each, at, every)
        load = self.model.rows["load"]
        cheapest = np.full(load.size, np.inf)
        np.minimum.at(cheapest, self._load_row_of_run, each)
        if self.instance.load_rule == "at_most":
            cheapest = np.maximum(cheapest, 0.0)
        own = self.model.matrix[load.slice][:, self._flow.slice].tocoo()
        price = reduced[self._flow.slice].copy()
        np.add.at(price, own.col, own.data * cheapest[own.row])
        return price

    def _by_budget(self, row_values: FloatArray, unit: str) -> dict[str, LabelledArray]:
        """Values on budget rows, one array a budget over the axes its limit has.

        A mean-TTFT budget is a row in request-seconds, so its values are too.
        """
        block = self.model.rows["budget"]
        values, sets = row_values[block.slice], self.instance.sets
        result = {}
        for b, budget in enumerate(self.instance.budgets):
            rows = np.flatnonzero((block.codes["budget"] == b) & (values != 0))
            axes = [str(a) for a in ("period", "site") if a in budget.limit.axes]
            codes = np.array([block.codes[axis][rows] for axis in axes], dtype=np.int64)
            name = f"budget.{budget.name}"
            labels = {axis: sets[axis] for axis in axes}
            own = unit.format(self._budget_unit(budget.metric))
            result[name] = LabelledArray(
                name, own, labels, codes.reshape(len(axes), len(rows)), values[rows]
            )
        return result

    def _by_instance_limit(self, row_values: FloatArray, unit: str) -> dict[str, LabelledArray]:
        """Values on rows of instance limits, one array a limit over blocks and the axes it has."""
        block, labels = self.model.rows["instance_limit"], self.model.labels
        values, result = row_values[block.slice], {}
        for i, own in enumerate(self.instance.instance_limits):
            rows = np.flatnonzero((block.codes["limit"] == i) & (values != 0))
            axes = ["block", *(a for a in ("site", "model", "mode") if a in own.limit.axes)]
            codes = np.array([block.codes[axis][rows] for axis in axes], dtype=np.int64)
            name = f"instance_limit.{own.name}"
            result[name] = LabelledArray(
                name, unit, {a: labels[a] for a in axes}, codes.reshape(len(axes), -1), values[rows]
            )
        return result

    def _budget_unit(self, metric: str) -> str:
        if metric == "ttft_mean_s":
            return "request s"
        custom = {own.name: own.unit for own in self.instance.custom_metrics}
        return custom[metric] if metric in custom else METRICS[metric].unit


def formulate(instance: PlacementInstance) -> Formulation:
    """Build the model of an instance."""
    return Formulation(instance)
