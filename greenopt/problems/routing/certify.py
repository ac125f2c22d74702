"""Routing bounds proved from the instance and given multipliers, by weak duality, no solver.

Builds the coefficients of formulations/routing.md itself, shares no code with the formulation or
the checker, and repairs the multipliers first: those with a wrong sign, or that are no finite
number, count as zero. Those of demand are not even read, because the best ones are known: the
cheapest deployment for a query at the prices of everything else. Whatever comes in, what comes out
is a bound.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from greenopt.errors import InstanceError, Problem, SolutionError
from greenopt.labelled import LabelledArray
from greenopt.physics.energy import J_PER_KWH, S_PER_H
from greenopt.problems.routing.instance import Deployment, Limit, RoutingInstance, Term, TokenLaw

Marginals = Mapping[str, LabelledArray]

EQUAL = 1e-9
"""Relative slack of comparisons with data; a number this close to a whole one is whole."""

Combination = dict[str, float]
"""Weights of what a query is: itself, tokens, energy, run time, accuracy times tokens."""


def lower_bound(
    instance: RoutingInstance, stage: int, marginals: Marginals, earlier: Sequence[float]
) -> tuple[float, float]:
    """Prove a lower bound on one stage of the objective.

    Parameters
    ----------
    instance : RoutingInstance
        The problem; that numbers of queries are whole is used for the sides of limits on them, and
        nowhere else, so the bound is that of the linear relaxation.
    stage : int
        Which stage.
    marginals : mapping of str to LabelledArray
        Row multipliers: "limit" over ("limit",), by the names of the limits in their order, each
        per unit of its metric; "accuracy_floor" and "stage_0", "stage_1", ... over no axis. Missing
        ones count as zero.
    earlier : sequence of float
        Values of the earlier stages, which later ones may worsen by their tolerance.

    Returns
    -------
    bound : float
        The bound; minus infinity if the multipliers overflow, plus infinity if some query may go
        nowhere.
    size : float
        Sum of the absolute terms of the bound, to which its rounding is relative.

    Raises
    ------
    SolutionError
        If a multiplier array is over other axes or labels than the instance's.
    InstanceError
        If a term of the objective is normalised by a number that is not above 0.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        return _Certifier(instance, stage, marginals, earlier).bound()


class _Certifier:
    def __init__(
        self, inst: RoutingInstance, stage: int, marginals: Marginals, earlier: Sequence[float]
    ) -> None:
        self.inst, self.stage, self.given = inst, stage, marginals
        some = inst.count > 0
        self.kinds: Any = slice(None) if some.all() else np.flatnonzero(some)
        self.count = inst.count[self.kinds]
        self.row_terms: list[float] = []
        self.prices: list[Combination] = [{} for _ in inst.deployments]
        self._price_stages(earlier)
        self._price_limits()
        self._price_floor()

    def bound(self) -> tuple[float, float]:
        cheapest = np.full(len(self.count), np.inf)
        for k in range(len(self.inst.deployments)):
            np.minimum(cheapest, self._price_of_queries(k), out=cheapest)
        total = self.count * cheapest
        bound = float(total.sum()) + sum(self.row_terms)
        size = float(np.abs(total).sum()) + sum(map(abs, self.row_terms))
        nowhere = bool((cheapest == np.inf).any())
        if np.isnan(bound) or (np.isinf(size) and not nowhere):
            return -np.inf, size  # overflow proves nothing
        return bound, size

    def _multipliers(self, name: str, labels: Mapping[str, tuple[str, ...]]) -> Any:
        """A row's multipliers as a dense array, zero where none is given or it is not finite."""
        array = self.given.get(name)
        if array is None:
            return np.zeros([len(members) for members in labels.values()])
        if dict(array.labels) != dict(labels):
            text = f"is not over {list(labels)} of this instance"
            path = f"$.stages[{self.stage}].marginals.{name}"
            raise SolutionError("solution", [Problem(path, text)])
        dense = array.dense()
        return np.where(np.isfinite(dense), dense, 0.0)

    # -- prices ------------------------------------------------------------------------------------

    def _add_price(
        self, metric: str, price: float, deployments: Sequence[str] | None = None
    ) -> None:
        """Charge what queries add to a metric, on some deployments or all."""
        for d, prices in zip(self.inst.deployments, self.prices, strict=True):
            if deployments is None or d.name in deployments:
                for what, weight in self._combination(metric, d).items():
                    prices[what] = prices.get(what, 0.0) + price * weight

    def _price_stages(self, earlier: Sequence[float]) -> None:
        """The stage's own terms, and those of earlier stages at the multipliers of their rows."""
        factors = {self.stage: 1.0}
        for number, value in enumerate(earlier):
            multiplier = float(self._multipliers(f"stage_{number}", {}))
            if multiplier < 0:
                tolerance = self.inst.objective[number].tolerance
                self.row_terms.append(multiplier * (value + tolerance * max(abs(value), 1.0)))
                factors[number] = -multiplier
        for number, factor in factors.items():
            for t, term in enumerate(self.inst.objective[number].terms):
                if term.weight != 0:
                    shift, size = self._normal(term, f"$.objective[{number}].terms[{t}]")
                    price = factor * term.weight / size / term.scale
                    self._add_price(term.metric, price)
                    self._add_price("queries", -price * shift)

    def _normal(self, term: Term, path: str) -> tuple[float, float]:
        """What is taken off a metric, and what it is divided by."""
        if term.normalisation == "none":
            return 0.0, 1.0
        least, most = np.inf, -np.inf
        for k, d in enumerate(self.inst.deployments):
            values = self._combined(self._combination(term.metric, d), self._queries(k))
            least, most = min(least, float(values.min())), max(most, float(values.max()))
        shift = least if term.normalisation == "range" else 0.0
        if not most - shift > 0:
            text = f"{term.normalisation!r} of {term.metric} is {most - shift:g}; expected above 0"
            raise InstanceError(self.inst.name, [Problem(f"{path}.normalisation", text)])
        return shift, most - shift

    def _price_limits(self) -> None:
        names = tuple(limit.name for limit in self.inst.limits)
        given = self._multipliers("limit", {"limit": names})
        for limit, multiplier in zip(self.inst.limits, map(float, given), strict=True):
            side = _side(limit, multiplier)
            if side is not None:
                self.row_terms.append(multiplier * side)
                self._add_price(limit.metric, -multiplier, limit.deployments)

    def _price_floor(self) -> None:
        floor = self.inst.accuracy_floor_percent
        multiplier = max(float(self._multipliers("accuracy_floor", {})), 0.0)
        if floor is not None:
            self._add_price("accuracy_percent_tokens", -multiplier)
            self._add_price("tokens", multiplier * floor)

    # -- queries on a deployment -------------------------------------------------------------------

    def _combination(self, metric: str, d: Deployment) -> Combination:
        """A metric of a query as a combination of what the query is on a deployment."""
        per_j = 1.0 / J_PER_KWH
        if metric in {"queries", "tokens_in", "tokens_out", "runtime_s", "accuracy_percent_tokens"}:
            return {metric: 1.0}
        if metric == "tokens":
            return {"tokens_in": 1.0, "tokens_out": 1.0}
        if metric == "energy_kwh":
            return {"energy_j": per_j}
        gpu_h = d.gpus / d.concurrency / S_PER_H
        usd_per_s = gpu_h * (d.gpu_usd_per_hour or 0.0)
        if metric in {"gpu_h", "cost_gpu_usd"}:
            return {"runtime_s": gpu_h if metric == "gpu_h" else usd_per_s}
        factor = per_j
        if metric != "energy_it_kwh":
            factor *= d.pue or 1.0
        if metric == "carbon_kg":
            factor *= (d.carbon_g_per_kwh or 0.0) / 1000
        if metric in {"cost_energy_usd", "cost_usd"}:
            factor *= d.price_usd_per_kwh or 0.0
        host_w = (d.host_w or 0.0) / d.concurrency if self.inst.boundary == "gpu" else 0.0
        rent = usd_per_s if metric == "cost_usd" else 0.0
        return {"energy_j": factor, "runtime_s": factor * host_w + rent}

    def _queries(self, k: int) -> dict[str, Any]:
        """What a query of each kind is on one deployment."""
        inst, d = self.inst, self.inst.deployments[k]
        tokens_in, tokens_out = inst.tokens_in[self.kinds], inst.tokens_out[self.kinds, k]
        found = {"queries": 1.0, "tokens_in": tokens_in, "tokens_out": tokens_out}
        for what, table, law in (
            ("energy_j", inst.energy_j, d.energy),
            ("runtime_s", inst.runtime_s, d.runtime),
        ):
            if law is None:
                assert table is not None
                found[what] = table[self.kinds, k]
            else:
                found[what] = self._by_law(law, tokens_in, tokens_out)
        if inst.accuracy_percent is not None:
            found["accuracy_percent"] = inst.accuracy_percent[self.kinds, k]
        elif d.accuracy_percent is not None:
            found["accuracy_percent"] = d.accuracy_percent
        if "accuracy_percent" in found:
            tokens = tokens_in + tokens_out
            found["accuracy_percent_tokens"] = found["accuracy_percent"] * tokens
        return found

    def _by_law(self, law: TokenLaw, tokens_in: Any, tokens_out: Any) -> Any:
        said = law.per_product * tokens_in * tokens_out
        said += law.per_token_in * tokens_in
        said += law.per_token_out * tokens_out
        if self.inst.negative_predictions == "clip":
            np.maximum(said, 0.0, out=said)
        return said

    def _combined(self, weights: Combination, queries: Mapping[str, Any]) -> Any:
        total = np.zeros(len(self.count))
        for what, weight in weights.items():
            total += weight * queries[what]
        return total

    def _price_of_queries(self, k: int) -> Any:
        """Price of a query of each kind on one deployment; infinite where it may not go."""
        queries = self._queries(k)
        total = self._combined(self.prices[k], queries)
        total[~np.isfinite(total)] = -np.inf  # overflow proves nothing
        total[~self._may_go(k, queries)] = np.inf
        return total

    def _may_go(self, k: int, queries: Mapping[str, Any]) -> Any:
        """Which kinds may go to a deployment."""
        inst, d = self.inst, self.inst.deployments[k]
        may = np.ones(len(self.count), dtype=bool)
        if inst.allowed is not None:
            may &= inst.allowed[self.kinds, k]
        if d.max_context_tokens is not None:
            context = d.max_context_tokens * (1 + EQUAL)
            may &= queries["tokens_in"] + queries["tokens_out"] <= context
        if inst.runtime_limit_s is not None:
            may &= queries["runtime_s"] <= inst.runtime_limit_s[self.kinds] * (1 + EQUAL)
        if inst.accuracy_min_percent is not None:
            asked = inst.accuracy_min_percent[self.kinds] * (1 - EQUAL)
            may &= queries["accuracy_percent"] >= asked
        if inst.outside_range == "forbid":
            for what in ("tokens_in", "tokens_out"):
                ends = getattr(d, f"range_{what}")
                if ends is not None:
                    may &= queries[what] >= ends[0] * (1 - EQUAL)
                    may &= queries[what] <= ends[1] * (1 + EQUAL)
        return may


def _side(limit: Limit, multiplier: float) -> float | None:
    """The side that a multiplier leans on, if it is there; whole for numbers of queries."""
    side = limit.lower if multiplier > 0 else limit.upper
    if multiplier == 0 or side is None:
        return None
    if limit.metric != "queries":
        return side
    if abs(side - round(side)) <= EQUAL * max(abs(side), 1.0):
        return float(round(side))
    return float(math.ceil(side) if multiplier > 0 else math.floor(side))
