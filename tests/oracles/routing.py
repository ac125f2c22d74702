"""Small routing instances for tests, and what every plan of a tiny one is worth, pair by pair.

`small` is made by hand, `instances` are random. The functions below them state the formulation page
once more, in plain numbers and loops, and `optimum` tries every plan.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import product
from typing import Any

import numpy as np
from hypothesis import strategies as st

from greenopt.labelled import LabelledArray
from greenopt.problems.routing.instance import PAIR, RoutingInstance
from greenopt.problems.routing.metrics import METRICS

Document = dict[str, Any]

SLACK = 1e-9
"""Relative slack of comparisons with data."""

LLAMA = {
    "llama-2-7b": ([-3.894991, 31.522735, 0.042712], [-0.010021, 0.083515, 0.000107], 50.97, 1),
    "llama-2-13b": ([-6.794323, 56.008311, 0.072861], [-0.017357, 0.142605, 0.000185], 55.69, 1),
    "llama-2-70b": ([-12.0294, 414.8197, 0.3145], [-0.031204, 0.703173, 0.000533], 64.52, 4),
}
"""Energy and run time by tokens, accuracy and GPUs (grantwilkins/EASLI @8887c48, coefficients)."""


def law(coefficients: list[float]) -> Document:
    """A law of tokens as in a file."""
    return dict(zip(("per_token_in", "per_token_out", "per_product"), coefficients, strict=True))


def llama(name: str, **changes: Any) -> Document:
    """A Llama-2 deployment with its published laws and nothing else."""
    energy, runtime, accuracy, gpus = LLAMA[name]
    return {
        "name": name,
        "model": name,
        "gpu_type": "a100-40",
        "gpus": gpus,
        "energy": law(energy),
        "runtime": law(runtime),
        "accuracy_percent": accuracy,
        **changes,
    }


def provenance(name: str) -> Document:
    """Of an instance that is made here."""
    return {
        "description": f"{name}, for tests",
        "builder": "tests/oracles/routing.py",
        "data_licence": "MIT",
        "sources": [{"name": "us", "licence": "MIT", "attribution": "The greenopt authors"}],
    }


def limit(
    name: str,
    metric: str,
    deployments: list[str] | None = None,
    lower: float | None = None,
    upper: float | None = None,
) -> Document:
    """A limit as in a file."""
    return {
        "name": name,
        "metric": metric,
        "deployments": deployments,
        "lower": lower,
        "upper": upper,
    }


def term(metric: str, weight: float, normalisation: str = "none", scale: float = 1.0) -> Document:
    """A term of an objective as in a file."""
    return {"metric": metric, "weight": weight, "normalisation": normalisation, "scale": scale}


def plain(queries: list[tuple[float, float, float]], **changes: Any) -> Document:
    """The three Llama-2 models and queries (count, tokens in, tokens out), energy to minimise."""
    count, tokens_in, tokens_out = (list(column) for column in zip(*queries, strict=True))
    return {
        "problem": "routing",
        "schema_version": 1,
        "name": "plain",
        "provenance": provenance("plain"),
        "queries": [f"q{i}" for i in range(len(queries))],
        "deployments": [llama(name) for name in LLAMA],
        "boundary": "gpu",
        "negative_predictions": "keep",
        "count": count,
        "tokens_in": tokens_in,
        "tokens_out": {"axes": ["query"], "values": tokens_out},
        "objective": [{"terms": [term("energy_kwh", 1.0)]}],
        **changes,
    }


def small_document(**changes: Any) -> Document:
    """Five kinds of queries, the three Llama-2 models, and every optional field but the tables.

    Each rule of eligibility forbids something: chat on the 70B takes too long, code needs more
    accuracy than the 7B has, the long document is outside the ranges of the 7B and exceeds the
    context of the 13B, labels may not go to the 70B. The laws predict negative energy and run time
    for labels on the 7B and the 13B, which are clipped. One limit on queries has a fraction.
    """
    every = {"gpu_usd_per_hour": 1.5, "pue": 1.2, "price_usd_per_kwh": 0.12}
    measured = {"range_tokens_in": [8.0, 2048.0], "range_tokens_out": [8.0, 2048.0]}
    names = list(LLAMA)
    return {
        "problem": "routing",
        "schema_version": 1,
        "name": "small",
        "provenance": provenance("small"),
        "label": "batch 1, without KV cache",
        "queries": ["chat", "summary", "code", "label", "document"],
        "deployments": [
            llama(names[0], **every, **measured, host_w=90.0, carbon_g_per_kwh=300.0),
            llama(names[1], **every, host_w=90.0, carbon_g_per_kwh=50.0, max_context_tokens=3000),
            llama(
                names[2],
                **{**every, "pue": 1.1, "price_usd_per_kwh": 0.08},
                range_tokens_in=[8.0, 4096.0],
                range_tokens_out=[8.0, 4096.0],
                host_w=360.0,
                carbon_g_per_kwh=50.0,
                max_context_tokens=4096,
            ),
        ],
        "boundary": "gpu",
        "negative_predictions": "clip",
        "outside_range": "forbid",
        "count": [5.0, 2.0, 3.0, 2.0, 1.0],
        "tokens_in": [20.0, 1500.0, 200.0, 2000.0, 3000.0],
        "tokens_out": [
            [150.0, 160.0, 170.0],
            [100.0, 110.0, 90.0],
            [400.0, 380.0, 350.0],
            [8.0, 8.0, 8.0],
            [500.0, 450.0, 400.0],
        ],
        "allowed": [[True] * 3, [True] * 3, [True] * 3, [True, True, False], [True] * 3],
        "runtime_limit_s": [60.0, None, None, None, None],
        "accuracy_min_percent": [0.0, 0.0, 52.0, 0.0, 0.0],
        "limits": [
            limit("7b is used", "queries", [names[0]], lower=1.0),
            limit("70b at most", "queries", [names[2]], upper=3.9),
            limit("a100", "gpu_h", None, upper=1.6),
            limit("carbon", "carbon_kg", None, upper=0.024),
            limit("small models", "tokens", names[:2], lower=2000.0, upper=9000.0),
        ],
        "accuracy_floor_percent": 58.0,
        "objective": [
            {
                "terms": [
                    term("energy_kwh", 0.5, "largest"),
                    term("accuracy_percent_tokens", -0.5, "largest"),
                ],
                "tolerance": 0.01,
            },
            {"terms": [term("cost_usd", 1.0), term("runtime_s", 0.1, "range", scale=2.0)]},
        ],
        **changes,
    }


def small(**changes: Any) -> RoutingInstance:
    """`small_document` with some fields changed, as an instance."""
    return RoutingInstance.parse(small_document(**changes))


def assigned(instance: RoutingInstance, plan: Any) -> dict[str, LabelledArray]:
    """A decision from numbers of queries by (query, deployment): a dense array or a mapping."""
    dense = np.zeros((len(instance.queries), len(instance.deployments)))
    if isinstance(plan, Mapping):
        for at, number in plan.items():
            dense[at] = number
    else:
        dense[:] = plan
    labels = {axis: instance.sets[axis] for axis in PAIR}
    return {"assigned": LabelledArray.from_dense("assigned", "queries", labels, dense)}


# -- random instances ------------------------------------------------------------------------------

FEATURES = (
    "energy_table",
    "runtime_table",
    "accuracy",
    "accuracy_table",
    "server",
    "batched",
    "clip",
    "ranges",
    "extrapolate",
    "context",
    "places",
    "prices",
    "allowed",
    "runtime_limit",
    "accuracy_min",
    "limits",
    "query_limits",
    "floor",
    "stages",
)
"""Switches of `random_instance`."""


@st.composite
def instances(draw: st.DrawFn, **fixed: bool) -> RoutingInstance:
    """Random tiny instances: at most three kinds of queries, three of each, three deployments.

    Some have no plan.

    Parameters
    ----------
    **fixed
        Features of `FEATURES` that are on (or off) in every instance; the rest are drawn.
    """
    features = {
        name: fixed[name] if name in fixed else draw(st.booleans(), label=name) for name in FEATURES
    }
    seed = draw(st.integers(0, 10**6), label="seed")
    return random_instance(np.random.default_rng(seed), **features)


def random_instance(rng: np.random.Generator, **on: bool) -> RoutingInstance:
    """A random tiny instance with the features of `FEATURES` that are on."""
    base = RoutingInstance.parse(_random_document(rng, on))
    steered: Document = {}
    if on.get("limits") or on.get("query_limits"):
        steered["limits"] = _random_limits(base, rng, on)
    if on.get("floor") and base.has_metric("accuracy_percent"):
        near = _of_random_plan(base, rng, "accuracy_percent_tokens")
        tokens = _of_random_plan(base, rng, "tokens")
        steered["accuracy_floor_percent"] = float(rng.uniform(0.6, 1.0) * near / max(tokens, 1.0))
    stages = 2 if on.get("stages") else 1
    steered["objective"] = [_random_stage(base, rng) for _ in range(stages)]
    return base.replace(**steered)


def _random_document(rng: np.random.Generator, on: Mapping[str, bool]) -> Document:
    queries, deployments = int(rng.integers(1, 4)), int(rng.integers(1, 4))
    pairs = (queries, deployments)
    count = rng.integers(0, 4, queries).astype(float)
    count[rng.integers(queries)] += 1.0
    accuracy = bool(on.get("accuracy"))
    document = {
        **plain([(1.0, 1.0, 1.0)]),
        "name": "random",
        "queries": [f"q{i}" for i in range(queries)],
        "deployments": [_random_deployment(rng, on, i) for i in range(deployments)],
        "boundary": "server" if on.get("server") else "gpu",
        "negative_predictions": "clip" if on.get("clip") else "keep",
        "outside_range": "extrapolate" if on.get("extrapolate") else "forbid",
        "count": count,
        "tokens_in": rng.integers(0, 60, queries) * 40.0,
        "tokens_out": rng.integers(0, 60, pairs) * 10.0,
    }
    if on.get("energy_table"):
        document["energy_j"] = np.round(rng.uniform(-100, 5000, pairs))
    if on.get("runtime_table"):
        document["runtime_s"] = np.round(rng.uniform(-1, 50, pairs), 1)
    if accuracy and on.get("accuracy_table"):
        document["accuracy_percent"] = np.round(rng.uniform(30, 90, pairs))
    if on.get("allowed"):
        document["allowed"] = rng.random(pairs) < 0.9
    if on.get("runtime_limit"):
        chosen = rng.choice([20.0, 60.0, np.inf], queries)
        document["runtime_limit_s"] = chosen
    if accuracy and on.get("accuracy_min"):
        document["accuracy_min_percent"] = rng.choice([0.0, 0.0, 40.0, 55.0], queries)
    return document


def _random_deployment(rng: np.random.Generator, on: Mapping[str, bool], number: int) -> Document:
    own = {
        "name": f"k{number}",
        "model": f"m{rng.integers(2)}",
        "gpu_type": str(rng.choice(["a100", "h100"])),
        "gpus": int(rng.choice([1, 2, 4])),
    }
    if on.get("batched") and rng.random() < 0.8:
        own["concurrency"] = float(rng.choice([1.0, 7.5, 64.0]))
    if not on.get("energy_table"):
        own["energy"] = law([-rng.uniform(0, 9), rng.uniform(1, 60), rng.uniform(0, 0.1)])
    if not on.get("runtime_table"):
        own["runtime"] = law([-rng.uniform(0, 0.02), rng.uniform(0.01, 0.2), rng.uniform(0, 3e-4)])
    if on.get("accuracy") and not on.get("accuracy_table"):
        own["accuracy_percent"] = float(rng.choice([40.0, 55.0, 60.0, 70.5]))
    if on.get("ranges") and rng.random() < 0.8:
        own["range_tokens_in"] = [float(rng.choice([0.0, 200.0])), 2000.0]
    if on.get("ranges") and rng.random() < 0.5:
        own["range_tokens_out"] = [
            float(rng.choice([10.0, 60.0])),
            float(rng.choice([500.0, 580.0])),
        ]
    if on.get("context") and rng.random() < 0.8:
        own["max_context_tokens"] = int(rng.choice([2000, 2600]))
    if on.get("places"):
        own |= {"pue": float(rng.uniform(1.0, 1.5)), "carbon_g_per_kwh": float(rng.uniform(0, 500))}
        own |= {"host_w": float(rng.uniform(0, 400))}
    if on.get("prices"):
        own |= {"price_usd_per_kwh": float(rng.uniform(-0.02, 0.3))}
        own |= {"gpu_usd_per_hour": float(rng.uniform(0, 4))} if rng.random() < 0.7 else {}
    return own


def additive(instance: RoutingInstance) -> list[str]:
    """Metrics of an instance that may be weighed and limited."""
    return [name for name in instance.metrics if METRICS[name].kind == "additive"]


def _random_limits(
    inst: RoutingInstance, rng: np.random.Generator, on: Mapping[str, bool]
) -> list[Document]:
    """Limits near what random plans need, so that many bind and few leave no plan."""
    names = [d.name for d in inst.deployments]
    metrics = (["queries"] * 2 if on.get("query_limits") else []) + (
        list(rng.choice(additive(inst), 2)) if on.get("limits") else []
    )
    found = []
    for i, metric in enumerate(metrics):
        some = [name for name in names if rng.random() < 0.6]
        only = [names.index(name) for name in some] or None
        near = _of_random_plan(inst, rng, str(metric), only)
        room = abs(near) * rng.choice([0.0, 0.2, 0.5], 2)
        sides = [("lower", float(near - room[0])), ("upper", float(near + room[1]))]
        kept = dict(sides if rng.random() < 0.2 else [sides[rng.integers(2)]])
        found.append({**limit(f"l{i}", str(metric), some or None), **kept})
    return found


def _of_random_plan(
    inst: RoutingInstance, rng: np.random.Generator, metric: str, only: list[int] | None = None
) -> float:
    """Value of a metric, on some deployments, of queries sent anywhere they may go."""
    total = 0.0
    for q, n in enumerate(inst.count):
        places = [k for k in range(len(inst.deployments)) if eligible(inst, q, k)]
        for _ in range(int(n) if places else 0):
            k = int(rng.choice(places))
            total += coefficient(inst, metric, q, k) if only is None or k in only else 0.0
    return total


def _random_stage(inst: RoutingInstance, rng: np.random.Generator) -> Document:
    terms = []
    for metric in rng.choice(additive(inst), int(rng.integers(1, 4))):
        most = np.abs(table(inst, str(metric))).max()
        some = [w for w in ("largest", "range") if _normal(inst, str(metric), w)[1] > 1e-9 * most]
        weight, scale = float(rng.uniform(-1, 3)), float(rng.choice([0.5, 1.0, 10.0]))
        terms.append(term(str(metric), weight, str(rng.choice(["none", *some])), scale))
    return {"terms": terms, "tolerance": float(rng.choice([0.0, 0.01, 0.1]))}


# -- the page once more, pair by pair --------------------------------------------------------------


def _said(inst: RoutingInstance, what: str, table: Any, q: int, k: int) -> float:
    """Energy or run time of a query, from the table or the law."""
    if table is not None:
        return float(table[q, k])
    own = getattr(inst.deployments[k], what)
    tokens_in, tokens_out = float(inst.tokens_in[q]), float(inst.tokens_out[q, k])
    value = (
        own.per_token_in * tokens_in
        + own.per_token_out * tokens_out
        + own.per_product * tokens_in * tokens_out
    )
    return max(value, 0.0) if inst.negative_predictions == "clip" else value


def runtime(inst: RoutingInstance, q: int, k: int) -> float:
    """Run time of a query, s."""
    return _said(inst, "runtime", inst.runtime_s, q, k)


def accuracy(inst: RoutingInstance, q: int, k: int) -> float:
    """Accuracy of the answer, %."""
    if inst.accuracy_percent is not None:
        return float(inst.accuracy_percent[q, k])
    return float(inst.deployments[k].accuracy_percent or 0.0)


def coefficient(inst: RoutingInstance, metric: str, q: int, k: int) -> float:
    """What one query adds to a metric."""
    d = inst.deployments[k]
    into, out = float(inst.tokens_in[q]), float(inst.tokens_out[q, k])
    joule, seconds = _said(inst, "energy", inst.energy_j, q, k), runtime(inst, q, k)
    host = d.host_w if inst.boundary == "gpu" else 0.0
    share = seconds / d.concurrency
    it = np.nan if host is None else (joule + host * share) / 3.6e6
    facility = it * (np.nan if d.pue is None else d.pue)
    carbon = np.nan if d.carbon_g_per_kwh is None else d.carbon_g_per_kwh
    electricity = facility * (np.nan if d.price_usd_per_kwh is None else d.price_usd_per_kwh)
    rent = d.gpus * share / 3600.0 * (d.gpu_usd_per_hour or 0.0)
    return {
        "queries": 1.0,
        "tokens_in": into,
        "tokens_out": out,
        "tokens": into + out,
        "energy_kwh": joule / 3.6e6,
        "runtime_s": seconds,
        "gpu_h": d.gpus * share / 3600.0,
        "accuracy_percent_tokens": accuracy(inst, q, k) * (into + out),
        "energy_it_kwh": it,
        "energy_facility_kwh": facility,
        "carbon_kg": facility * carbon / 1e3,
        "cost_energy_usd": electricity,
        "cost_gpu_usd": rent,
        "cost_usd": electricity + rent,
    }[metric]


def eligible(inst: RoutingInstance, q: int, k: int) -> bool:
    """Whether a query may go to a deployment."""
    d = inst.deployments[k]
    into, out = float(inst.tokens_in[q]), float(inst.tokens_out[q, k])
    context, longest, asked = d.max_context_tokens, inst.runtime_limit_s, inst.accuracy_min_percent
    ends = [(into, d.range_tokens_in), (out, d.range_tokens_out)]
    measured = all(
        end is None or end[0] * (1 - SLACK) <= tokens <= end[1] * (1 + SLACK)
        for tokens, end in ends
    )
    return bool(
        (inst.allowed is None or inst.allowed[q, k])
        and (context is None or into + out <= context * (1 + SLACK))
        and (longest is None or runtime(inst, q, k) <= longest[q] * (1 + SLACK))
        and (asked is None or accuracy(inst, q, k) >= asked[q] * (1 - SLACK))
        and (measured or inst.outside_range == "extrapolate")
    )


def table(inst: RoutingInstance, metric: str) -> Any:
    """Coefficients of a metric by (query, deployment)."""
    shape = (len(inst.queries), len(inst.deployments))
    return np.array([coefficient(inst, metric, q, k) for q, k in np.ndindex(shape)]).reshape(shape)


def open_pairs(inst: RoutingInstance) -> Any:
    """Eligible pairs by (query, deployment)."""
    shape = (len(inst.queries), len(inst.deployments))
    return np.array([eligible(inst, q, k) for q, k in np.ndindex(shape)]).reshape(shape)


def _normal(inst: RoutingInstance, metric: str, normalisation: str) -> tuple[float, float]:
    """Shift and size of a metric."""
    values = table(inst, metric)[inst.count > 0]
    if normalisation == "none":
        return 0.0, 1.0
    least, largest = float(values.min()), float(values.max())
    return (0.0, largest) if normalisation == "largest" else (least, largest - least)


def objective(inst: RoutingInstance, stage: int) -> Any:
    """Coefficients of a stage by (query, deployment)."""
    total = np.zeros((len(inst.queries), len(inst.deployments)))
    for one in inst.objective[stage].terms:
        shift, size = _normal(inst, one.metric, one.normalisation)
        total += one.weight * (table(inst, one.metric) - shift) / (size * one.scale)
    return total


class Row:
    """One limiting row: lower <= sum of values times queries <= upper."""

    def __init__(self, values: Any, lower: float | None, upper: float | None) -> None:
        self.values = values
        self.lower = -np.inf if lower is None else lower
        self.upper = np.inf if upper is None else upper


def rows(inst: RoutingInstance) -> dict[str, Row]:
    """Limits as "limit NAME", and "accuracy_floor"; sides of limits on queries are whole."""
    found = {}
    for one in inst.limits:
        values = table(inst, one.metric)
        if one.deployments is not None:
            values = values * [d.name in one.deployments for d in inst.deployments]
        lower, upper = one.lower, one.upper
        if one.metric == "queries":
            lower = None if lower is None else np.ceil(lower - SLACK)
            upper = None if upper is None else np.floor(upper + SLACK)
        found[f"limit {one.name}"] = Row(values, lower, upper)
    if inst.accuracy_floor_percent is not None:
        tokens = table(inst, "tokens")
        values = table(inst, "accuracy_percent_tokens") - inst.accuracy_floor_percent * tokens
        found["accuracy_floor"] = Row(values, 0.0, None)
    return found


def plans(inst: RoutingInstance) -> Any:
    """Every way to send whole queries to eligible deployments, shape (plans, query, deployment)."""
    allowed = open_pairs(inst)
    ways = [_shares(int(n), row) for n, row in zip(inst.count, allowed, strict=True)]
    every = [np.array(choice) for choice in product(*ways)]
    return np.array(every).reshape(-1, *allowed.shape)


def _shares(n: int, open_to: Any) -> list[tuple[float, ...]]:
    """Every way to split n queries over the deployments that are open."""
    ways = product(*(range(n + 1) if flag else (0,) for flag in open_to))
    return [tuple(map(float, way)) for way in ways if sum(way) == n]


def feasible(inst: RoutingInstance) -> Any:
    """Every plan that keeps to all rows, shape (plans, query, deployment)."""
    every = plans(inst)
    for row in rows(inst).values():
        value = np.einsum("pqk,qk->p", every, row.values)
        room = SLACK * np.maximum(np.einsum("pqk,qk->p", every, np.abs(row.values)), 1e-9)
        every = every[(value >= row.lower - room) & (value <= row.upper + room)]
    return every


def optimum(inst: RoutingInstance) -> list[float] | None:
    """Value of each stage at the optimum of them in order; None where there is no plan.

    The value of a stage is its own best one; later stages may worsen it within its tolerance.
    """
    every, best = feasible(inst), []
    for number, stage in enumerate(inst.objective):
        if not len(every):
            return None
        value = np.einsum("pqk,qk->p", every, objective(inst, number))
        best.append(float(value.min()))
        every = every[value <= best[-1] + stage.tolerance * max(abs(best[-1]), 1.0) + 1e-9]
    return best
