"""Routing on-line: policies against the offline optimum of the same stream, and their waits.

Writes results/routing_online.json, every single run, which docs/routing/online.md aggregates. Run
it as

    python benchmarks/routing_online.py

It needs the committed instances of Alpaca only, and takes about ten minutes. Arrivals, instances
and horizon are those of G. Wilkins' thesis; seeds, prediction errors and limits are ours.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from build_vs_solve import HERE
from placement_days import short, smoke_asked, write

import greenopt as go
from greenopt.problems.routing import online

INSTANCES = HERE.parent / "instances" / "routing"
STREAMED = ("alpaca-52k", "alpaca-52k-capacity")
"""Instances with limits: least shares of queries, and GPU-hours of each model."""

HORIZON_S = 10_000.0
SERVERS = (800, 3_200, 3_000)
"""Instances of Llama-2 7B, 13B and 70B: 16,000 A100 by shares 0.05, 0.2, 0.75 and 1, 1, 4 each."""

GPUS_PER_MODEL = 24
"""GPUs of each model of the instance with capacities."""

SEEDS = range(5)
ZETAS = tuple(round(0.1 * i, 1) for i in range(11))
UTILISATION = 0.9
"""Of the instances that the offline optimum would need, in the study of queues."""

QUEUE_WEIGHTS = (0.0, 1e-4, 1e-3, 1e-2, 1e-1)
LOADS = (0.5, 0.7, 0.8, 0.9, 0.95, 1.05)
POOLS = (1, 10, 100)
"""Instances behind one queue."""

PUBLISHED: Mapping[str, Sequence[Any]] = {
    "source": "G. Wilkins, grantwilkins/energy-inference, plots/routing/simulation_results.csv",
    "label": "batch 1, no KV cache",
    "columns": ("policy", "energy_kwh", "accuracy_percent", "queries", "wait_s"),
    "rows": (
        ("Llama-2 7B only", 74.770, 50.97, (52002, 0, 0), None),
        ("Llama-2 13B only", 132.753, 55.69, (0, 52002, 0), None),
        ("Llama-2 70B only", 985.157, 64.52, (0, 0, 52002), None),
        ("round robin", 396.883, 57.050, (17334, 17334, 17334), 11.1),
        ("random", 397.098, 57.041, (17473, 17237, 17292), 8.0),
        ("on-line, zeta 0", 832.857, 62.913, (295, 8549, 43158), 184.7),
        ("on-line, zeta 0.1", 792.309, 62.521, (5, 11789, 40208), 180.2),
        ("on-line, zeta 0.2", 865.572, 63.278, (0, 7461, 44541), 235.3),
        ("on-line, zeta 0.3", 804.257, 62.653, (0, 10814, 41188), 159.6),
        ("on-line, zeta 0.4", 808.040, 62.692, (1, 10482, 41519), 192.7),
        ("on-line, zeta 0.5", 154.737, 53.815, (26133, 21148, 4721), 246.8),
        ("on-line, zeta 0.6", 74.844, 50.983, (51790, 126, 86), 1062.5),
        ("on-line, zeta 0.7", 74.770, 50.971, (51998, 2, 2), 1080.9),
        ("on-line, zeta 0.8 to 1", 74.770, 50.97, (52002, 0, 0), 1080.9),
    ),
}
"""Published simulation of 52,002 Alpaca queries, Llama-2 on A100-40GB; figures cited."""

COLUMNS = (
    "study",
    "instance",
    "zeta",
    "prediction_error",
    "seed",
    "policy",
    "weight",
    "servers",
    "objective",
    "optimum_status",
    "bound",
    "bound_source",
    "gap",
    "gap_abs",
    "violations",
    "checked",
    "bound_proved",
    "queries",
    "energy_kwh",
    "accuracy_percent",
    "runtime_mean_s",
    "utilisation",
    "wait_md1_s",
    "wait_mg1_s",
    "wait_s",
    "wait_p95_s",
    "overloaded",
    "runtime_s",
)


class Case:
    """One instance with its offline optimum, and where its queries arrive."""

    def __init__(self, study: str, instance: Any, servers: Sequence[int], zeta: Any = None) -> None:
        self.study, self.instance, self.zeta = study, instance, zeta
        self.servers = dict(zip(instance.sets["deployment"], servers, strict=True))
        self.optimum = go.solve(instance, time_limit=300.0)
        self.proved = bool(go.certify(instance, self.optimum).ok)

    def run(
        self,
        policy: Any,
        seed: int = 0,
        error: float = 0.0,
        horizon_s: float = HORIZON_S,
        name: str | None = None,
    ) -> list[Any]:
        """One row."""
        made = online.stream(
            self.instance,
            horizon_s=horizon_s,
            instances=self.servers,
            seed=seed,
            prediction_error=error,
        )
        run = online.simulate(self.instance, made, policy, optimum=self.optimum)
        busiest = max(run.waits, key=lambda wait: wait.utilisation or 0.0)
        found = {
            "study": self.study,
            "instance": self.instance.name,
            "zeta": self.zeta,
            "prediction_error": error,
            "seed": seed,
            "policy": name or run.policy,
            "weight": run.settings.get("weight"),
            "servers": [*self.servers.values()],
            "objective": run.objective,
            "optimum_status": run.optimum["status"],
            "bound": run.bound,
            "bound_source": run.optimum["bound_source"],
            "gap": run.gap,
            "gap_abs": run.gap_abs,
            "violations": len(run.violations),
            "checked": go.check(self.instance, run.plan).ok,
            "bound_proved": self.proved,
            "queries": [int(n) for n in run.metrics_by["deployment"]["queries"]],
            **{m: run.metrics[m] for m in ("energy_kwh", "accuracy_percent", "runtime_mean_s")},
            "utilisation": busiest.utilisation,
            "wait_md1_s": run.wait_md1_s,
            "wait_mg1_s": busiest.mg1_s if len(run.waits) == 1 else None,
            "wait_s": run.wait_simulated_s,
            "wait_p95_s": float(np.quantile(run.wait_s, 0.95)),
            "overloaded": [*run.overloaded],
            "runtime_s": run.runtime_s,
        }
        print(self.study, run, f"{run.runtime_s:.1f} s", file=sys.stderr)
        return [short(found[column]) for column in COLUMNS]


def load(name: str) -> Any:
    """A committed instance."""
    return go.load(INSTANCES / f"{name}.json.gz")


def at_zeta(instance: Any, zeta: float) -> Any:
    """The instance without its limits at another weight of energy, as in the published runs."""
    (stage,) = instance.document()["objective"]
    weights = {"energy_kwh": zeta, "accuracy_percent_tokens": zeta - 1.0}
    terms = [{**term, "weight": weights[term["metric"]]} for term in stage["terms"]]
    name = f"{instance.name}, zeta {zeta:g}, no limits"
    return instance.replace(name=name, limits=[], objective=[{"terms": terms}])


def only(instance: Any, k: int) -> Any:
    """The instance with one of its deployments, without limits."""
    deployment = instance.document()["deployments"][k]
    return instance.replace(
        name=f"{instance.name}, {deployment['name']} only",
        deployments=[deployment],
        tokens_out={"axes": ["query"], "values": instance.tokens_out[:, k].tolist()},
        limits=[],
    )


def servers_of(instance: Any) -> tuple[int, ...]:
    """Instances of every deployment."""
    if len(instance.deployments) == len(SERVERS):
        return SERVERS
    return tuple(GPUS_PER_MODEL // d.gpus for d in instance.deployments)


def errors(smoke: bool) -> Iterator[list[Any]]:
    """Every policy as predictions get worse."""
    for name in STREAMED[:1] if smoke else STREAMED:
        instance = load(name)
        case = Case("errors", instance, servers_of(instance))
        for error in online.ERRORS[:2] if smoke else online.ERRORS:
            for seed in SEEDS[:1] if smoke else SEEDS:
                yield from (case.run(policy, seed, error) for policy in online.POLICIES)


def zetas(smoke: bool) -> Iterator[list[Any]]:
    """The greedy rules and the controls without limits, beside the published runs."""
    for zeta in ZETAS[:1] if smoke else ZETAS:
        case = Case("zeta", at_zeta(load(STREAMED[0]), zeta), SERVERS, zeta)
        policies = ["cheapest", "cheapest-short-queue"]
        policies += ["round-robin", "random"] if zeta == ZETAS[0] else []
        yield from map(case.run, policies)
    for k in range(1 if smoke else len(SERVERS)):
        alone = Case("zeta", only(load(STREAMED[0]), k), SERVERS[k : k + 1])
        yield alone.run("cheapest", name=f"{alone.instance.deployments[0].name} only")


def queues(smoke: bool) -> Iterator[list[Any]]:
    """Few instances: what a weight of queues does to waits and to the gap."""
    instance = load(STREAMED[0])
    busy = np.array(go.solve(instance).metrics_by["deployment"]["runtime_s"]) / HORIZON_S
    case = Case("queues", instance, [max(1, math.ceil(n / UTILISATION)) for n in busy])
    for weight in QUEUE_WEIGHTS[-1:] if smoke else QUEUE_WEIGHTS:
        yield case.run(online.CheapestShortQueue(weight))
    for policy in () if smoke else ("dual-price", "random"):
        yield case.run(policy)


def waits(smoke: bool) -> Iterator[list[Any]]:
    """One model: the formula, and queues in front of 1, 10 and 100 instances."""
    for pool in POOLS[:1] if smoke else POOLS:
        case = Case("waits", only(load(STREAMED[0]), 1), [pool])
        total = float(case.optimum.metrics["runtime_s"] or 0.0)
        for load_of_each in LOADS[:1] if smoke else LOADS:
            yield case.run("cheapest", horizon_s=total / pool / load_of_each)


def main() -> None:
    """Measure and write the results file."""
    smoke = smoke_asked(__doc__)
    rows = [row for study in (errors, zetas, queues, waits) for row in study(smoke)]
    record = {
        "what": "Queries sent on-line by policies against the offline optimum of the same stream, "
        "with predicted lengths and waits, every run",
        "page": "routing/online.md",
        "horizon_s": HORIZON_S,
        "label": load(STREAMED[0]).label,
        "policies": [*online.POLICIES],
        "instances": {name: load(name).provenance.rules for name in STREAMED},
        "attribution": [s.attribution for s in load(STREAMED[0]).provenance.sources],
        "published": PUBLISHED,
        "columns": COLUMNS,
    }
    write("routing_online", record, rows, smoke)


if __name__ == "__main__":
    main()
