"""What all routing instances are put together from: workloads, laws, limits, sources."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from greenopt.problems.routing.instance import RoutingInstance

sys.path.append(str(Path(__file__).resolve().parents[1]))

from composing import SOURCES

Pair = tuple[int, int]

THESIS_SOURCE: Mapping[str, str] = {
    "name": "Energy-inference: token laws, accuracies and measured points",
    "licence": "LicenseRef-none-stated",
    "attribution": "Wilkins, Keshav, Mortier: Offline Energy-Optimal LLM Serving (HotCarbon'24, "
    "arXiv 2407.04014) and Hybrid Heterogeneous Clusters (e-Energy'24, arXiv 2407.00010); "
    "G. Wilkins, MPhil thesis, Cambridge",
    "url": "https://github.com/grantwilkins/energy-inference @5c2cfa4",
    "note": "no licence stated: figures are cited",
}
AZURE_SOURCE: Mapping[str, str] = {
    **SOURCES["azure traces"],
    "note": "one of the two traces of 16 November 2023, tokens in and out, as counts of equal "
    "queries; times are not used",
}
"""Sources that instances of more than one kind use."""


def parse(name: str, provenance: Mapping[str, Any], **fields: Any) -> RoutingInstance:
    """Make an instance of what was put together."""
    document = {
        "problem": "routing",
        "schema_version": 1,
        "name": name,
        "provenance": {"builder": "instances/routing/build_routing.py", **provenance},
        **fields,
    }
    return RoutingInstance.parse(document, name)


def counted(pairs: Iterable[Pair]) -> dict[Pair, int]:
    """Count table of equal queries, in the order of their tokens."""
    return dict(sorted(Counter(pairs).items()))


def workload(table: Mapping[Pair, int]) -> dict[str, Any]:
    """Fields of a workload: kinds named by their tokens in and out."""
    return {
        "queries": [f"{tokens_in}+{tokens_out}" for tokens_in, tokens_out in table],
        "count": list(table.values()),
        "tokens_in": [tokens_in for tokens_in, _ in table],
        "tokens_out": over_queries([tokens_out for _, tokens_out in table]),
    }


def over_queries(values: Sequence[float]) -> dict[str, Any]:
    """Values that are the same for all deployments."""
    return {"axes": ["query"], "values": values}


def law(per_token_in: float, per_token_out: float, per_product: float = 0.0) -> dict[str, float]:
    """Token law without intercept."""
    return {
        "per_token_in": per_token_in,
        "per_token_out": per_token_out,
        "per_product": per_product,
    }


def every_one_used(deployments: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Limits by which each deployment answers at least one query."""
    return [
        {
            "name": f"{deployment['name']} is used",
            "metric": "queries",
            "deployments": [deployment["name"]],
            "lower": 1.0,
        }
        for deployment in deployments
    ]


def gpu_pool(
    deployments: Sequence[Mapping[str, Any]], gpu_type: str, gpu_h: float
) -> dict[str, Any]:
    """Limit on the GPU hours of all deployments on one type of GPU."""
    return {
        "name": f"{gpu_type} hours",
        "metric": "gpu_h",
        "deployments": [d["name"] for d in deployments if d["gpu_type"] == gpu_type],
        "upper": gpu_h,
    }


def weighed(*terms: tuple[str, float], normalisation: str = "none") -> list[dict[str, Any]]:
    """Objective of one stage from metrics and weights."""
    documents = [
        {"metric": metric, "weight": weight, "normalisation": normalisation}
        for metric, weight in terms
    ]
    return [{"terms": documents}]
