"""Explanations of routing instances without a plan: conflicts, amounts, relaxations, words."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from oracles.routing import (
    LLAMA,
    SLACK,
    Document,
    eligible,
    feasible,
    instances,
    limit,
    llama,
    open_pairs,
    plain,
    random_instance,
    rows,
)
from scipy.optimize import linprog

import greenopt as go
from greenopt.explaining import Clock, Relaxation, _Deletion, _Settings
from greenopt.problems.routing.formulation import Pairs
from greenopt.problems.routing.requirements import KINDS, closed_pairs, requirements

SMALL, MIDDLE, LARGE = LLAMA
Q0, Q1 = (5.0, 100.0, 200.0), (3.0, 400.0, 100.0)
RANDOM = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=True
)


def instance(**changes: Any) -> go.RoutingInstance:
    """Five queries of q0 and three of q1 on three Llama-2 models, of 300 and 500 tokens."""
    return go.RoutingInstance.parse(plain([Q0, Q1], **changes))


def solves(changes: Document) -> bool:
    """Whether the instance with these changes has a plan, as solver and checker see it."""
    solution = go.solve(instance(**changes), explain=False)
    assert solution.status in {go.Status.OPTIMAL, go.Status.INFEASIBLE}
    return bool(solution.status == go.Status.OPTIMAL)


def deployments(**changes: Any) -> list[Document]:
    """The three models with fields changed; a list gives each its own."""
    own = [
        {field: value[i] if isinstance(value, list) and len(value) == 3 else value
         for field, value in changes.items()}
        for i in range(3)
    ]  # fmt: skip
    return [llama(name, **fields) for name, fields in zip(LLAMA, own, strict=True)]


def limits(*given: Document) -> Document:
    """Limits as a change."""
    return {"limits": list(given)}


# A 7B query of q0 takes 17.84094 s and 0.004955817 h on its GPU, q1 8.6231 s and 0.002395306 h.
GPU_H = (5 * 17.84094 + 3 * 8.62310) / 3600

# By case: changes that make the instance; kinds of the conflict; changes under which a plan exists,
# each just enough; changes that are not quite enough; words.
Case = tuple[Document, set[str], list[Document], list[Document], list[str]]
CASES: dict[str, Case] = {
    "limit_upper": (
        limits(limit("gpus", "gpu_h", upper=0.01)),
        {"limit_upper", "demand"},
        [limits(limit("gpus", "gpu_h", upper=0.0319651))],
        [limits(limit("gpus", "gpu_h", upper=0.0319649))],
        [
            "limit gpus (gpu_h): 0.024779 GPU h are needed at least for 5 queries of q0; "
            "0.01 are there",
            "enough alone: limit gpus (gpu_h): 0.031965 instead of 0.01 GPU h",
            "least change in all: limit gpus (gpu_h): 0.031965 instead of 0.01 GPU h",
        ],
    ),
    "limit_lower": (
        limits(limit("used", "queries", [SMALL], lower=10.0)),
        {"limit_lower"},
        [limits(limit("used", "queries", [SMALL], lower=8.0))],
        [limits(limit("used", "queries", [SMALL], lower=9.0))],
        [
            "limit used (queries of llama-2-7b): at most 8 queries are possible; 10 are asked for",
            "enough alone: limit used (queries of llama-2-7b): 8 instead of 10 queries",
        ],
    ),
    "two limits": (  # q0 fits on neither: 0.0050 h a query on the 7B, 0.0085 h on the 13B
        limits(
            limit("x", "gpu_h", [SMALL], upper=0.005),
            limit("y", "gpu_h", [MIDDLE, LARGE], upper=0.006),
        ),
        {"limit_upper", "demand"},
        [
            limits(
                limit("x", "gpu_h", [SMALL], upper=0.0295698),
                limit("y", "gpu_h", [MIDDLE, LARGE], upper=0.006),
            ),
            {"count": [0.0, 1.0]},
        ],
        [
            limits(
                limit("x", "gpu_h", [SMALL], upper=0.0295696),
                limit("y", "gpu_h", [MIDDLE, LARGE], upper=0.006),
            )
        ],
        [
            "5 queries of q0: at most 1.71746 can be answered within limit x (gpu_h of llama-2-7b) "
            "and limit y (gpu_h of llama-2-13b and llama-2-70b)",
            "enough alone: limit x (gpu_h of llama-2-7b): 0.0295697 instead of 0.005 GPU h",
        ],
    ),
    "accuracy_floor": (  # four of q1 at most on the 70B: 3 q1, 1 q0; the others on the 13B
        {
            "accuracy_floor_percent": 64.0,
            **limits(limit("70b", "queries", [LARGE], upper=4.0)),
        },
        {"accuracy_floor", "limit_upper", "demand"},
        [
            {"accuracy_floor_percent": 60.988},
            limits(limit("70b", "queries", [LARGE], upper=8.0)),
        ],
        [
            {"accuracy_floor_percent": 60.9881},
            limits(limit("70b", "queries", [LARGE], upper=7.0)),
        ],
        [
            "5 queries of q0 reach at most 62.754 %, mean over tokens within limit 70b (queries of "
            "llama-2-70b); 64 % are asked for",
            "enough alone: accuracy floor: 60.988 instead of 64 %",
            "enough alone: limit 70b (queries of llama-2-70b): 8 instead of 4 queries",
            "accuracy floor is missed by 9,036 % token, a mean of at least 60.988 instead of 64 %",
        ],
    ),
    "allowed": (
        {"allowed": [[False] * 3, [True] * 3]},
        {"allowed", "demand"},
        [{"allowed": None}],
        [],
        [
            "5 queries of q0: llama-2-7b: not allowed; llama-2-13b: not allowed; "
            "llama-2-70b: not allowed",
            "enough alone: without the mask of q0 it is feasible",
            "5 of 5 queries of q0 cannot be answered: no deployment may",
        ],
    ),
    "max_context_tokens": (
        {"deployments": deployments(max_context_tokens=[400, 450, 480])},
        {"max_context_tokens", "demand"},
        [
            {"deployments": deployments(max_context_tokens=[500, 450, 480])},
            {"deployments": deployments(max_context_tokens=[400, 450, 500])},
        ],
        [{"deployments": deployments(max_context_tokens=[499, 499, 499])}],
        [
            "llama-2-7b: 500 tokens, its context is 400",
            "enough alone: context of llama-2-7b: 500 instead of 400 tokens",
            "enough alone: context of llama-2-70b: 500 instead of 480 tokens",
        ],
    ),
    "runtime_limit_s": (
        {"runtime_limit_s": [5.0, None]},
        {"runtime_limit_s", "demand"},
        [{"runtime_limit_s": [17.8409, None]}],
        [{"runtime_limit_s": [17.8408, None]}],
        [
            "llama-2-7b: run time 17.8409 s, the limit is 5 s",
            "enough alone: run time limit of q0: 17.8409 instead of 5 s",
        ],
    ),
    "accuracy_min_percent": (
        {"accuracy_min_percent": [0.0, 70.0]},
        {"accuracy_min_percent", "demand"},
        [{"accuracy_min_percent": [0.0, 64.52]}],
        [{"accuracy_min_percent": [0.0, 64.5201]}],
        [
            "llama-2-70b: accuracy 64.52 %, 70 % are asked for",
            "enough alone: least accuracy of q1: 64.52 instead of 70 %",
        ],
    ),
    "outside_range": (
        {"deployments": deployments(range_tokens_in=[[8.0, 200.0]] * 3)},
        {"outside_range", "demand"},
        [
            {"outside_range": "extrapolate"},
            {"deployments": deployments(range_tokens_in=[None, [8.0, 200.0], [8.0, 200.0]])},
        ],
        [],
        [
            "llama-2-7b: 400 tokens in and 100 out, measured were 8 to 200 in",
            "enough alone: without the measured range of llama-2-7b it is feasible",
        ],
    ),
    "whole_queries": (  # 300 or 500 tokens a query
        limits(limit("t", "tokens", [SMALL], lower=310.0, upper=490.0)),
        {"whole_queries", "limit_lower", "limit_upper"},
        [
            limits(limit("t", "tokens", [SMALL], lower=310.0, upper=500.0)),
            limits(limit("t", "tokens", [SMALL], lower=300.0, upper=490.0)),
        ],
        [
            limits(limit("t", "tokens", [SMALL], lower=310.0, upper=499.0)),
            limits(limit("t", "tokens", [SMALL], lower=301.0, upper=490.0)),
        ],
        [
            "limit t (tokens of llama-2-7b): 500 tokens are needed at least; 490 are there",
            "enough alone: limit t (tokens of llama-2-7b): 500 instead of 490 tokens",
            "enough alone: limit t (tokens of llama-2-7b): 300 instead of 310 tokens",
            "enough alone: without whole numbers of queries it is feasible",
        ],
    ),
    "fractions": (  # between 0.2 and 0.9 there is no whole number of queries
        limits(limit("t", "queries", [SMALL], lower=0.2, upper=0.9)),
        {"whole_queries", "limit_lower", "limit_upper"},
        [
            limits(limit("t", "queries", [SMALL], lower=0.2, upper=1.0)),
            limits(limit("t", "queries", [SMALL], lower=0.0, upper=0.9)),
        ],
        [limits(limit("t", "queries", [SMALL], lower=0.2, upper=0.99))],
        ["limit t (queries of llama-2-7b): 1 instead of 0.9 queries"],
    ),
    "all together": (  # q0 is too slow for the 70B, and the others hold too little
        {
            "runtime_limit_s": [40.0, None],
            **limits(limit("gpus", "gpu_h", [SMALL, MIDDLE], upper=0.001)),
        },
        {"runtime_limit_s", "limit_upper", "demand"},
        [
            {"runtime_limit_s": [148.175, None]},
            limits(limit("gpus", "gpu_h", [SMALL, MIDDLE], upper=0.0247791)),
        ],
        [
            {"runtime_limit_s": [148.17, None]},
            limits(limit("gpus", "gpu_h", [SMALL, MIDDLE], upper=0.0247789)),
        ],
        [
            "limit gpus (gpu_h of llama-2-7b and llama-2-13b): 0.024779 GPU h are needed at least "
            "for 5 queries of q0; 0.001 are there",
            "enough alone: run time limit of q0: 148.175 instead of 40 s",
            "enough alone: limit gpus (gpu_h of llama-2-7b and llama-2-13b): 0.0247791 instead of "
            "0.001 GPU h",
        ],
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_kind_by_hand(case: str) -> None:
    """The conflict is the known one, and what is said to be enough is, but nothing less."""
    changes, kinds, enough, short, words = CASES[case]
    found = go.explain(instance(**changes))
    assert found.infeasible
    assert found.irreducible
    assert {member.kind for member in found.conflict} == kinds
    text = "\n".join(found.sentences)
    for word in words:
        assert word in text, text
    assert not solves(changes)
    for fields in enough:
        assert solves({**changes, **fields}), fields
    for fields in short:
        assert not solves({**changes, **fields}), fields


def test_every_kind_is_tested_by_hand() -> None:
    """Each kind of requirement appears in some conflict above."""
    assert {kind for _, kinds, *_ in CASES.values() for kind in kinds} == set(KINDS)


def test_solve_tells_it() -> None:
    """An infeasible solve has the same sentences, with a bound of our own."""
    inst = instance(**CASES["limit_upper"][0])
    found, solution = go.explain(inst), go.solve(inst)
    assert solution.status == go.Status.INFEASIBLE
    assert solution.report["explanation"] == list(found.sentences)
    assert solution.report["least_relative_shortfall"]["bound_source"] == "own-dual"
    assert found.proof["value"] == pytest.approx(GPU_H / 0.01 - 1, rel=1e-5)


def test_a_plan_exists() -> None:
    """Nothing conflicts where a plan exists, whole numbers by search or by themselves."""
    for inst in (instance(), instance(**limits(limit("gpus", "gpu_h", upper=0.032)))):
        assert go.explain(inst).infeasible is False


def test_one_query_too_few_of_many_is_told() -> None:
    """Numbers of queries are exact, however large: one of ten million is a shortfall."""
    million = plain(
        [(1e7, 100.0, 200.0)], **limits(limit("all", "queries", [SMALL], lower=1e7 + 1))
    )
    found = go.explain(go.RoutingInstance.parse(million))
    assert found.infeasible
    assert "at most 10,000,000 queries are possible; 10,000,001 are" in found.sentences[0]


def test_kinds_without_queries_ask_for_nothing() -> None:
    """A kind that may go nowhere is no conflict while there are none of it."""
    inst = instance(count=[0.0, 3.0], allowed=[[False] * 3, [True] * 3])
    assert go.explain(inst).infeasible is False


def test_floor_where_tokens_depend_on_the_deployment() -> None:
    """The highest floor is found by asking again: it is that of the best of all plans."""
    tokens = [[200.0, 260.0, 150.0], [100.0, 90.0, 180.0]]
    only = limits(limit("70b", "queries", [LARGE], upper=4.0))
    for count in ([5.0, 3.0], [4.0, 7.0]):
        inst = instance(count=count, tokens_out=tokens, accuracy_floor_percent=64.0, **only)
        every = feasible(inst.replace(accuracy_floor_percent=None))
        total = every @ np.ones(3)
        assert (total == count).all()
        size = inst.tokens_in[:, None] + inst.tokens_out
        accuracy = np.array([LLAMA[name][2] for name in LLAMA])
        best = (np.einsum("pqk,qk,k->p", every, size, accuracy)
                / np.einsum("pqk,qk->p", every, size)).max()  # fmt: skip
        (alone,) = [r for r in go.explain(inst).relaxations
                    if r.alone and r.requirement == "accuracy_floor"]  # fmt: skip
        assert alone.amount is not None
        assert alone.smallest
        assert 64.0 - alone.amount == pytest.approx(best, rel=2e-6)
        assert 64.0 - alone.amount <= best * (1 + 1e-12)


# -- against every plan there is -------------------------------------------------------------------


def partial_plans(inst: go.RoutingInstance, must: Any) -> Any:
    """Every way to send whole queries anywhere, all of those kinds that must be answered."""
    n_deployments = len(inst.deployments)

    def ways(n: int, every: bool) -> list[tuple[int, ...]]:
        found = product(*(range(n + 1) for _ in range(n_deployments)))
        return [way for way in found if sum(way) == n or (not every and sum(way) < n)]

    each = [ways(int(n), bool(m)) for n, m in zip(inst.count, must, strict=True)]
    return np.array(list(product(*each)), dtype=float).reshape(-1, *open_pairs(inst).shape)


def only(inst: go.RoutingInstance, req: Any, standing: Any) -> tuple[go.RoutingInstance, Any, bool]:
    """The instance with what stands only, which kinds must be answered, and whether whole."""
    on: dict[str, Any] = {}
    for kind in KINDS:
        family = req.families.get(kind)
        codes = next(iter(family.codes.values()), np.zeros(1)) if family else np.zeros(0)
        on[kind] = codes[standing[family.slice]].astype(int) if family else codes.astype(int)
    of = {name: np.isin(np.arange(len(inst.queries)), on[name]) for name in (
        "allowed", "runtime_limit_s", "accuracy_min_percent", "demand")}  # fmt: skip
    own = [d.model_dump() for d in inst.deployments]
    for k, record in enumerate(own):
        if k not in on["max_context_tokens"]:
            record["max_context_tokens"] = None
        if k not in on["outside_range"]:
            record["range_tokens_in"] = record["range_tokens_out"] = None
    kept = []
    for number, record in enumerate(one.model_dump() for one in inst.limits):
        for side in ("lower", "upper"):
            if number not in on[f"limit_{side}"]:
                record[side] = None
        kept += [record] if record["lower"] is not None or record["upper"] is not None else []
    changes: Document = {"deployments": own, "limits": kept}
    if inst.allowed is not None:
        changes["allowed"] = inst.allowed | ~of["allowed"][:, None]
    if inst.runtime_limit_s is not None:
        changes["runtime_limit_s"] = np.where(of["runtime_limit_s"], inst.runtime_limit_s, np.inf)
    if inst.accuracy_min_percent is not None:
        least = np.where(of["accuracy_min_percent"], inst.accuracy_min_percent, 0.0)
        changes["accuracy_min_percent"] = least
    if not len(on["accuracy_floor"]):
        changes["accuracy_floor_percent"] = None
    whole = bool(len(on["whole_queries"])) or "whole_queries" not in req.families
    return inst.replace(**changes), of["demand"] | (inst.count == 0), whole


def can_hold(inst: go.RoutingInstance, req: Any, standing: Any) -> bool:
    """Whether requirements can hold together, by every plan or, without whole numbers, by scipy."""
    other, must, whole = only(inst, req, standing)
    asked, open_ = rows(other), open_pairs(other)
    if whole:
        every = partial_plans(other, must)
        every = every[(every[:, ~open_] == 0).all(axis=1)]
        for row in asked.values():
            value = np.einsum("pqk,qk->p", every, row.values)
            room = SLACK * np.maximum(np.einsum("pqk,qk->p", every, np.abs(row.values)), 1e-9)
            every = every[(value >= row.lower - room) & (value <= row.upper + room)]
        return bool(len(every))
    return _fractions_hold(inst, asked, open_, must)


def _fractions_hold(inst: go.RoutingInstance, asked: Any, open_: Any, must: Any) -> bool:
    """Whether the linear program has a point (sides of counts as the instance has them)."""
    shape = open_.shape
    sums = np.kron(np.eye(shape[0]), np.ones(shape[1]))
    left, right = [*sums[~must]], [*inst.count[~must]]
    sides = {f"limit {one.name}": (one.lower, one.upper) for one in inst.limits}
    for name, row in asked.items():
        given = sides.get(name, (0.0, None))
        size = max(np.abs(row.values).max(), 1e-12)
        for side, sign, bound in ((row.lower, -1, given[0]), (row.upper, 1, given[1])):
            if np.isfinite(side):
                left.append(sign * row.values.ravel() / size)
                right.append(sign * bound / size + 1e-9 * max(abs(bound) / size, 1.0))
    found = linprog(
        np.zeros(sums.shape[1]),
        np.array(left).reshape(-1, sums.shape[1]),
        np.array(right),
        sums[must],
        inst.count[must],
        [(0.0, None if flag else 0.0) for flag in open_.ravel()],
    )
    assert found.status in {0, 2}
    return bool(found.status == 0)


def tightened(inst: go.RoutingInstance, rng: np.random.Generator) -> go.RoutingInstance:
    """The instance with some sides moved inwards, and a higher floor if it has one."""
    own = [one.model_dump() for one in inst.limits]
    for record in own:
        by = float(rng.choice([0.0, 0.3, 0.8]))
        if record["upper"] is not None:
            record["upper"] -= by * abs(record["upper"])
        elif record["lower"] is not None:
            record["lower"] += by * abs(record["lower"])
    own = [one for one in own if one["lower"] is None or one["upper"] is None
           or one["lower"] <= one["upper"]]  # fmt: skip
    changes: Document = {"limits": own}
    if inst.accuracy_floor_percent is not None:
        changes["accuracy_floor_percent"] = inst.accuracy_floor_percent * float(rng.uniform(1, 1.3))
    return inst.replace(**changes)


def infeasible_instances(seeds: range) -> Iterator[go.RoutingInstance]:
    """Random instances without a plan."""
    names = ("accuracy", "ranges", "context", "allowed", "runtime_limit", "accuracy_min", "limits",
             "query_limits", "floor", "clip", "energy_table", "places", "prices")  # fmt: skip
    for seed in seeds:
        rng = np.random.default_rng(seed)
        on = {name: bool(rng.random() < 0.5) for name in names}
        inst = tightened(random_instance(rng, **on), rng)
        if not len(feasible(inst)):
            yield inst


def test_conflicts_are_irreducible() -> None:
    """No plan keeps a conflict; without any one member some plan keeps the rest."""
    kinds, count = set[str](), 0
    for inst in infeasible_instances(range(150)):
        req, count = requirements(inst), count + 1
        search = _Deletion(req, _Settings("highs", "in-process", 1, 0), Clock(60.0))
        assert search.begin()
        members = search.run()
        search.close()
        assert search.irreducible
        standing = np.zeros(req.size, dtype=bool)
        standing[np.concatenate(members)] = True
        assert not can_hold(inst, req, standing)
        for member in members:
            fewer = standing.copy()
            fewer[member] = False
            assert can_hold(inst, req, fewer), (inst.name, req.name(member))
        kinds |= {req.kind(member) for member in members}
        assert len(req.describe(members)) == len(members)
    assert count > 40
    assert len(kinds) >= 7, kinds


@given(instances(stages=False))
@RANDOM
def test_infeasible_is_what_no_plan_is(inst: go.RoutingInstance) -> None:
    """Instances are explained exactly where none of all plans keeps every row."""
    assert go.explain(inst).infeasible == (not len(feasible(inst)))


@given(instances(allowed=True, runtime_limit=True, accuracy=True, accuracy_min=True, ranges=True,
                 extrapolate=False, context=True))  # fmt: skip
@RANDOM
def test_rules_close_what_is_not_eligible(inst: go.RoutingInstance) -> None:
    """A pair is closed by some rule exactly where a query may not go; so is its column."""
    closed = closed_pairs(inst, Pairs(inst))
    shape = (len(inst.queries), len(inst.deployments))
    may = np.array([eligible(inst, q, k) for q, k in np.ndindex(shape)]).reshape(shape)
    assert (~np.any([where for where, _ in closed.values()], axis=0) == may).all()
    for where, amount in closed.values():
        assert (np.broadcast_to(amount, shape)[where] > 0).all()
    req = requirements(inst)
    upper = req.bounds(np.ones(req.size, dtype=bool)).column_upper
    there = inst.count > 0
    assert (upper.reshape(-1, shape[1]) == np.where(may, inst.count[:, None], 0.0)[there]).all()


def eased(inst: go.RoutingInstance, one: Relaxation, share: float) -> go.RoutingInstance | None:
    """The instance with a share of a relaxation applied; None for what is not a single number."""
    kind, _, rest = one.requirement.partition("[")
    names, amount = rest.removesuffix("]").split(", "), one.amount
    if amount is None or (kind in {"demand", "runtime_limit_s", "accuracy_min_percent"}
                          and names[0] not in inst.queries):  # fmt: skip
        return None
    amount *= share
    if kind in {"limit_lower", "limit_upper"}:
        own = [limit.model_dump() for limit in inst.limits]
        (record,) = [record for record in own if record["name"] == names[0]]
        side = kind.removeprefix("limit_")
        record[side] += amount if side == "upper" else -amount
        return inst.replace(limits=own)
    if kind == "accuracy_floor":
        assert inst.accuracy_floor_percent is not None
        return inst.replace(accuracy_floor_percent=inst.accuracy_floor_percent - amount)
    if kind == "max_context_tokens":
        own = [d.model_dump() for d in inst.deployments]
        (record,) = [record for record in own if record["name"] == names[0]]
        record["max_context_tokens"] = int(np.ceil(record["max_context_tokens"] + amount - 1e-6))
        return inst.replace(deployments=own) if share >= 1 else None
    q = inst.queries.index(names[0])
    if kind == "demand":
        count = inst.count.copy()
        count[q] -= np.ceil(amount - 1e-6) if share >= 1 else np.ceil(amount - 1e-6) - 1
        return inst.replace(count=count) if count.any() else None
    values = np.array(getattr(inst, kind))
    values[q] += amount if kind == "runtime_limit_s" else -amount
    return inst.replace(**{kind: values})


def test_relaxations_alone_are_enough_and_less_is_not() -> None:
    """Applied to the instance each gives a plan, and a thousandth less of it does not."""
    kinds: dict[str, int] = {}
    for inst in infeasible_instances(range(150, 330)):
        for one in go.explain(inst).relaxations:
            if not one.alone:
                continue
            other = eased(inst, one, 1 + 1e-9)
            if other is None:
                continue
            kind = one.requirement.partition("[")[0]
            kinds[kind] = kinds.get(kind, 0) + 1
            assert len(feasible(other)), (inst.name, one)
            less = eased(inst, one, 0.999)
            if one.smallest and less is not None:
                assert not len(feasible(less)), one
    assert set(kinds) >= {"limit_upper", "limit_lower", "accuracy_floor", "demand"}, kinds
    assert kinds.keys() & {"runtime_limit_s", "accuracy_min_percent", "max_context_tokens"}, kinds


# -- many kinds of queries -------------------------------------------------------------------------


def many(kinds: int, **changes: Any) -> go.RoutingInstance:
    """A workload of many kinds, one to three queries each, on the three models."""
    rng = np.random.default_rng(0)
    columns = (rng.integers(1, 4, kinds), rng.integers(8, 2000, kinds), rng.integers(8, 400, kinds))
    queries = [tuple(map(float, one)) for one in zip(*columns, strict=True)]
    return go.RoutingInstance.parse(plain(queries, negative_predictions="clip", **changes))


def test_many_kinds_are_told_as_one() -> None:
    """What all of a large workload needs is told for all of it, and is what it needs."""
    free = many(4000)
    hours = Pairs(free).gpu_h
    needed = float(free.count @ hours.min(axis=1))
    inst = free.replace(**limits(limit("gpus", "gpu_h", upper=0.9 * needed)))
    found = go.explain(inst)
    assert {member.kind for member in found.conflict} == {"limit_upper", "demand"}
    assert len(found.conflict) == 2
    assert found.irreducible
    assert found.runtime_s < 20
    assert found.proof["bound_source"] == "own-dual"
    (raised,) = [r for r in found.relaxations if r.alone and r.requirement == "limit_upper[gpus]"]
    assert raised.smallest
    assert raised.amount == pytest.approx(0.1 * needed, rel=1e-5)
    working = int((hours.min(axis=1) > 0).sum())  # the others take no time at all on some model
    assert f"{working:,} kinds of queries" in found.sentences[0]
    enough = inst.replace(**limits(limit("gpus", "gpu_h", upper=needed * (1 + 1e-9))))
    assert go.explain(enough).infeasible is False


def test_one_of_many_kinds_is_found() -> None:
    """A single kind that may go nowhere, and a few that share a place that is too small."""
    free = many(4000)
    open_ = np.ones((4000, 3), dtype=bool)
    open_[1234] = False
    found = go.explain(free.replace(allowed=open_))
    assert [member.name for member in found.conflict] == ["allowed[q1234]", "demand[q1234]"]
    open_[1234] = True
    few = np.arange(100, 104)
    open_[few, 1:] = False
    tokens = float((free.count * Pairs(free).tokens[:, 0])[few].sum())
    small = limits(limit("small", "tokens", [SMALL], upper=tokens - 1.0))
    found = go.explain(free.replace(allowed=open_, **small))
    own = {f"q{q}" for q in few}
    assert {m.where["query"] for m in found.conflict if m.kind == "demand"} == own
    assert {m.where["query"] for m in found.conflict if m.kind == "allowed"} == own
    assert f"{tokens:,.6g} tokens are needed at least" in found.sentences[0]


def test_one_of_many_that_may_go_nowhere_is_told() -> None:
    """Hundreds of kinds are too slow for any model, each for itself: one is told."""
    free = many(4000)
    longest = np.where(np.arange(4000) % 8 == 3, 1e-3, np.inf)
    slow = (Pairs(free).runtime_s > longest[:, None]).all(axis=1)
    found = go.explain(free.replace(runtime_limit_s=longest))
    assert [member.kind for member in found.conflict] == ["runtime_limit_s", "demand"]
    (kind,) = {member.where["query"] for member in found.conflict}
    assert slow[free.queries.index(kind)]
    assert found.proof["value"] == pytest.approx(slow.sum(), rel=1e-6)
    (least,) = [one for one in found.relaxations if not one.alone]
    assert least.amount == pytest.approx(free.count[slow].sum())
    assert f"{slow.sum()} kinds of queries that may go nowhere cannot" in least.text


def test_whole_amounts_of_many_kinds() -> None:
    """Among thousands of columns few are searched, and a bound proves how good that is."""
    free = many(1500)
    pairs = Pairs(free)
    tokens = pairs.tokens[:, 0]
    half = 0.31 * float(free.count @ tokens)
    shared = [limit(f"l{k}", "tokens", [name], upper=half) for k, name in enumerate(LLAMA)]
    found = go.explain(free.replace(limits=shared))
    (fewer,) = [r for r in found.relaxations if r.alone and r.requirement == "demand"]
    assert fewer.amount is not None
    assert fewer.smallest
    # The longest queries are left out, until the others fit; which they do but for a query's rest.
    each = np.sort(np.repeat(tokens, free.count.astype(int)))[::-1]
    needed = int(np.searchsorted(np.cumsum(each), each.sum() - 3 * half) + 1)
    assert needed <= fewer.amount <= needed + 1
    raised = [r.amount or 0.0 for r in found.relaxations if r.alone and r is not fewer]
    assert len(raised) == 3
    short = each.sum() - 3 * half
    assert all(short - 1e-6 <= amount <= short + 100 for amount in raised)  # tokens of a packing


def test_floor_and_capacity_of_many_kinds() -> None:
    """The floor that a capacity leaves is what a linear program over all pairs says."""
    free = many(3000)
    pairs = Pairs(free)
    hours, tokens = pairs.gpu_h, pairs.tokens
    cheap, dear = (float(free.count @ hours[:, k]) for k in (0, 2))
    upper = cheap + 0.3 * (dear - cheap)
    shared = limits(limit("gpus", "gpu_h", upper=upper))
    inst = free.replace(accuracy_floor_percent=64.0, **shared)
    found = go.explain(inst)
    assert {member.kind for member in found.conflict} == {"accuracy_floor", "limit_upper", "demand"}
    sums = np.kron(np.eye(3000), np.ones(3))
    best = linprog(
        -(pairs.accuracy_percent * tokens).ravel(), hours.reshape(1, -1), [upper], sums, free.count
    )
    mean = -best.fun / float(free.count @ tokens[:, 0])
    (alone,) = [r for r in found.relaxations if r.alone and r.requirement == "accuracy_floor"]
    assert alone.amount is not None
    assert 64.0 - alone.amount == pytest.approx(mean, abs=1e-3)
    assert 64.0 - alone.amount <= mean * (1 + 1e-9)
