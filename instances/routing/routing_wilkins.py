"""Instances of the two papers of Wilkins et al.: Alpaca over Llama-2 models, and over machines.

The laws are those of batch 1 without a KV cache, and not those of today's serving.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from composing import rounded
from routing_parts import THESIS_SOURCE, counted, every_one_used, law, parse, weighed, workload

from greenopt.physics.energy import S_PER_H
from greenopt.problems.routing.instance import RoutingInstance

LABEL = "batch 1, no KV cache"
GPU = "A100-40GB"
MEASURED_TOKENS = (8, 2048)

EASLI_LLAMA_2: Mapping[str, Mapping[str, Any]] = {
    "Llama-2 7B": {
        "gpus": 1,
        "accuracy_percent": 50.97,
        "energy": law(-3.894991, 31.522735, 0.042712),
        "runtime": law(-0.010021, 0.083515, 0.000107),
    },
    "Llama-2 13B": {
        "gpus": 1,
        "accuracy_percent": 55.69,
        "energy": law(-6.794323, 56.008311, 0.072861),
        "runtime": law(-0.017357, 0.142605, 0.000185),
    },
    "Llama-2 70B": {
        "gpus": 4,
        "accuracy_percent": 64.52,
        "energy": law(-12.0294, 414.8197, 0.3145),
        "runtime": law(-0.031204, 0.703173, 0.000533),
    },
}
"""EASLI's routing/coefficients.json, J and s by tokens."""
ALL_SEVEN: Mapping[str, Mapping[str, Any]] = {
    "Falcon-7B": {
        "gpus": 1,
        "accuracy_percent": 44.17,
        "energy": law(-8.81, 41.28, 8.91e-2),
        "runtime": law(-2.45e-2, 1.07e-1, 2.42e-4),
    },
    "Falcon-40B": {
        "gpus": 3,
        "accuracy_percent": 58.07,
        "energy": law(-20.76, 197.37, 2.35e-1),
        "runtime": law(-3.61e-2, 3.62e-1, 4.02e-4),
    },
    "Llama-2 7B": {
        "gpus": 1,
        "accuracy_percent": 50.97,
        "energy": law(-3.89, 31.52, 4.27e-2),
        "runtime": law(-1.00e-2, 8.35e-2, 1.07e-4),
    },
    "Llama-2 13B": {
        "gpus": 1,
        "accuracy_percent": 55.69,
        "energy": law(-6.79, 56.01, 7.29e-2),
        "runtime": law(-1.74e-2, 1.43e-1, 1.85e-4),
    },
    "Llama-2 70B": {
        "gpus": 4,
        "accuracy_percent": 64.52,
        "energy": law(-12.03, 414.82, 3.15e-1),
        "runtime": law(-3.12e-2, 7.03e-1, 5.33e-4),
    },
    "Mistral-7B": {
        "gpus": 1,
        "accuracy_percent": 60.97,
        "energy": law(-3.12, 31.69, 3.53e-2),
        "runtime": law(-7.80e-3, 8.10e-2, 8.763e-5),
    },
    "Mixtral-8x7B": {
        "gpus": 3,
        "accuracy_percent": 68.47,
        "energy": law(-8.48, 105.54, 9.86e-2),
        "runtime": law(-1.34e-2, 2.96e-1, 1.50e-4),
    },
}
"""Tables 4.1 and 5.2 of the thesis, J and s by tokens."""
SHARES = {"Llama-2 7B": 0.05, "Llama-2 13B": 0.20, "Llama-2 70B": 0.75}
"""Share of the accelerators of each model, in EASLI."""
LEAST_OF_SHARE = 0.25
ALPACA = (52_002, 1_125_669, 8_460_614, 160_504_458)
"""Queries, tokens in, tokens out and their product, summed over all of Alpaca."""
RESIDUAL_UNITS = np.array([600, 60, 1])
"""What a token in, a token out and a unit of their product weigh when a residual is judged."""
GPUS_PER_MODEL = 24
HORIZON_S = 10_000.0

SWEEPS: Mapping[str, Mapping[str, Sequence[tuple[int, float, float]]]] = {
    "M1 Pro": {
        "tokens_in": (
            (8, 97.8, 9.47),
            (32, 158.1, 11.5),
            (128, 426.0, 25.0),
            (512, 1384.0, 71.0),
            (2048, 5921.0, 347.0),
        ),
        "tokens_out": (
            (8, 27.5, 4.45),
            (32, 158.0, 11.5),
            (128, 1088.0, 61.0),
            (512, 12031.0, 715.0),
        ),
    },
    "A100": {
        "tokens_in": (
            (8, 141.0, 0.95),
            (32, 166.0, 0.96),
            (128, 257.0, 0.96),
            (512, 652.0, 1.70),
            (2048, 2498.0, 6.36),
        ),
        "tokens_out": (
            (8, 39.5, 0.24),
            (32, 163.0, 0.96),
            (128, 803.0, 3.9),
            (512, 6000.0, 19.0),
            (2048, 78525.0, 208.0),
            (4096, 354015.0, 1304.0),
        ),
    },
    "V100": {"tokens_in": ((8, 752.0, 6.7), (2048, 24680.0, 103.0))},
}
"""Tokens, J of the whole machine and s: inputs at 32 tokens out, outputs at 32 tokens in."""
AT_TOKENS = 32
M1_LONGEST_OUTPUT = 512
HYBRID_ZETA = 0.95

EASLI_SOURCE: Mapping[str, str] = {
    "name": "EASLI: token laws and Alpaca token lengths",
    "licence": "LicenseRef-none-stated",
    "attribution": "G. Wilkins, EASLI; Wilkins, Keshav, Mortier: Offline Energy-Optimal LLM "
    "Serving (HotCarbon'24, arXiv 2407.04014)",
    "url": "https://github.com/grantwilkins/EASLI @8887c48",
    "note": "no licence stated: figures are cited. From "
    "energy-measurements/vllm-Llama-2-7b-chat-hf-1.csv only how often each pair of tokens in and "
    "out occurs among its first 500 rows; the file itself is not passed on",
}
EASLI_LAWS = (
    "Energy and run time follow the full-precision coefficients of EASLI's "
    "routing/coefficients.json; accuracy is the model's average on the Open LLM Leaderboard."
)
LLAMA_2_GPUS = (
    "An instance takes the least number of A100 of 40 GB that EASLI states: 1, 1 and 4; its laws "
    "are used for it."
)
OF_500 = (
    "Queries are the first 500 of EASLI's Alpaca run: tokens of the prompt, and tokens that "
    "Llama-2 7B generated (column 10 of the file), used for all models. Equal queries are one kind."
)
MEASURED = (
    "The laws were fitted by least squares without intercept to GPU energy and run time at batch "
    "1 without a KV cache, on a grid of 8 to 2048 tokens; energy per token is about ten times that "
    "of serving with a cache."
)
KEPT = (
    "As published, laws are used below 8 tokens too, and predictions below 0 (long prompts with "
    "tiny outputs) are kept."
)
ACCURACY_OBJECTIVE = (
    "The objective is zeta x energy - (1 - zeta) x accuracy x tokens, each divided by its largest "
    "value over all queries and models, as in the thesis; the authors' code takes the range "
    "instead, at which the same zeta means something else. zeta is "
)


def alpaca_500(data: Path, name: str, zeta: float) -> RoutingInstance:
    """500 Alpaca queries over three Llama-2 models, each of which is used."""
    models = deployments(EASLI_LLAMA_2)
    rules = (
        OF_500,
        EASLI_LAWS,
        LLAMA_2_GPUS,
        MEASURED,
        KEPT,
        "Every model answers at least one query (eq. 3.6 of the thesis).",
        f"{ACCURACY_OBJECTIVE}{zeta:g}.",
    )
    return parse(
        name,
        provenance("500 queries over three Llama-2 models", (EASLI_SOURCE, THESIS_SOURCE), rules),
        **measured_before(counted(tokens_of_500(data)), models),
        negative_predictions="keep",
        limits=every_one_used(models),
        objective=energy_and_accuracy(zeta),
    )


def alpaca_52k(data: Path, name: str) -> RoutingInstance:
    """All of Alpaca's queries over three Llama-2 models, with least shares of the queries."""
    models = deployments(EASLI_LLAMA_2)
    limits = [
        {
            "name": f"share of {model}",
            "metric": "queries",
            "deployments": [model],
            "lower": float(math.ceil(LEAST_OF_SHARE * share * ALPACA[0])),
        }
        for model, share in SHARES.items()
    ]
    rules = (
        *rules_of_resample(),
        EASLI_LAWS,
        LLAMA_2_GPUS,
        MEASURED,
        KEPT,
        f"Each model answers at least {LEAST_OF_SHARE:g} x its share of the accelerators (0.05, "
        "0.2, 0.75) of all queries, rounded up, as in the authors' code, which has no upper "
        "limits either.",
        f"{ACCURACY_OBJECTIVE}0.5.",
    )
    return parse(
        name,
        provenance(
            "52,002 queries over three Llama-2 models", (EASLI_SOURCE, THESIS_SOURCE), rules
        ),
        **measured_before(resampled(tokens_of_500(data)), models),
        negative_predictions="keep",
        limits=limits,
        objective=energy_and_accuracy(0.5),
    )


def alpaca_52k_capacity(data: Path, name: str) -> RoutingInstance:
    """All of Alpaca's queries over seven models whose GPUs are few."""
    models = deployments(ALL_SEVEN)
    limits = [
        {
            "name": f"GPUs of {model}",
            "metric": "gpu_h",
            "deployments": [model],
            "upper": GPUS_PER_MODEL * HORIZON_S / S_PER_H,
        }
        for model in ALL_SEVEN
    ]
    rules = (
        *rules_of_resample(),
        "Energy and run time follow the coefficients of the thesis' Table 5.2, in which the last "
        "one of Mistral-7B's run time is a misprint (8.10e-2); it is 8.763e-5 by the same fit to "
        "the same measurements. Accuracy is the Open LLM Leaderboard's average in Table 4.1.",
        "An instance takes the A100 of 40 GB of Table 4.1: 1, 3, 1, 1, 4, 1, 3.",
        MEASURED,
        "Laws are used below 8 tokens too. Predictions below 0 are clipped, since a negative run "
        "time would make capacity out of nothing.",
        f"Each model has {GPUS_PER_MODEL} GPUs (a multiple of 1, 3 and 4) for {HORIZON_S:g} s, the "
        "horizon of the thesis' on-line run: our assumption. It makes a generalised assignment "
        "problem of the partition.",
        f"{ACCURACY_OBJECTIVE}0.5.",
    )
    return parse(
        name,
        provenance(
            "52,002 queries over seven models with GPU capacities",
            (EASLI_SOURCE, THESIS_SOURCE),
            rules,
        ),
        **measured_before(resampled(tokens_of_500(data)), models),
        negative_predictions="clip",
        limits=limits,
        objective=energy_and_accuracy(0.5),
    )


def measured_before(
    table: Mapping[tuple[int, int], int], models: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    """Fields of a workload over models by the laws of batch 1."""
    return {
        "label": LABEL,
        **workload(table),
        "deployments": models,
        "boundary": "gpu",
        "outside_range": "extrapolate",
    }


def deployments(models: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Models on A100 of 40 GB, with the ranges in which they were measured."""
    return [
        {
            "name": model,
            "model": model,
            "gpu_type": GPU,
            "range_tokens_in": MEASURED_TOKENS,
            "range_tokens_out": MEASURED_TOKENS,
            **figures,
        }
        for model, figures in models.items()
    ]


def energy_and_accuracy(zeta: float) -> list[dict[str, Any]]:
    """Objective of eq. 3.5."""
    terms = (("energy_kwh", zeta), ("accuracy_percent_tokens", zeta - 1.0))
    return weighed(*terms, normalisation="largest")


def provenance(
    description: str, sources: Sequence[Mapping[str, str]], rules: Sequence[str]
) -> dict[str, Any]:
    """Provenance of an instance of figures that are cited."""
    return {
        "description": f"Alpaca, {description}",
        "data_licence": "LicenseRef-none-stated",
        "sources": sources,
        "rules": rules,
    }


# Alpaca's queries


def tokens_of_500(data: Path) -> list[tuple[int, int]]:
    """Tokens in and out of the 500 queries."""
    with (data / "wilkins/alpaca_500_tokens.csv").open() as file:
        return [(int(row["tokens_in"]), int(row["tokens_out"])) for row in csv.DictReader(file)]


def rules_of_resample() -> tuple[str, ...]:
    """How 52,002 queries were made from 500."""
    queries, tokens_in, tokens_out, products = ALPACA
    return (
        f"Alpaca's {queries:,} queries are not given one by one. Their sums follow exactly from "
        "the published single-model totals (three equations in three unknowns): "
        f"{tokens_in:,} tokens in, {tokens_out:,} tokens out, {products:,} for their products.",
        f"The {queries:,} queries here have the token pairs of the first 500 rows of EASLI's "
        "Alpaca run, and just these sums. Among all weights of the pairs with these means, those "
        "closest to the measured frequencies in relative entropy are taken and rounded to whole "
        "queries by largest remainders; then single queries are moved from one pair to another, "
        "the move first that leaves the least residual, until two moves repair the sums exactly. "
        "There is no randomness.",
    )


def resampled(tokens: Sequence[tuple[int, int]]) -> dict[tuple[int, int], int]:
    """Whole numbers of the measured pairs that add up to all of Alpaca's sums."""
    table = counted(tokens)
    pairs = np.array(list(table))
    sums = np.column_stack([np.ones(len(pairs), dtype=int), pairs, pairs.prod(axis=1)])
    counts = largest_remainders(tilted(np.array(list(table.values())), sums), ALPACA[0])
    residual = np.array(ALPACA[1:]) - counts @ sums[:, 1:]
    for origin, goal in moves(sums[:, 1:], residual):
        counts[origin] -= 1
        counts[goal] += 1
    if (counts < 0).any() or tuple(counts @ sums) != ALPACA:
        raise ValueError(f"the sums are {tuple(counts @ sums)}, expected {ALPACA}")
    return dict(zip(table, counts.tolist(), strict=True))


def tilted(frequencies: np.ndarray, sums: np.ndarray) -> np.ndarray:
    """Weights closest to the frequencies in relative entropy that have Alpaca's sums, by Newton."""
    largest = sums.max(axis=0)
    columns, goal = sums / largest, np.array(ALPACA) / largest
    start = frequencies * (ALPACA[0] / frequencies.sum())
    prices = np.zeros(len(goal))
    for _ in range(50):
        weights = start * np.exp(columns @ prices)
        step = np.linalg.solve(columns.T @ (weights[:, None] * columns), goal - weights @ columns)
        prices += step
        if np.abs(step).max() < 1e-12:
            break
    return np.asarray(start * np.exp(columns @ prices))


def largest_remainders(weights: np.ndarray, total: int) -> np.ndarray:
    """Round weights to whole numbers that add up to a total."""
    counts = np.floor(weights).astype(int)
    order = np.argsort(counts - weights, kind="stable")
    counts[order[: total - counts.sum()]] += 1
    return counts


def moves(sums: np.ndarray, residual: np.ndarray) -> list[tuple[int, int]]:
    """Moves of single queries between pairs that add up to a residual."""
    n = len(sums)
    change = (sums[None, :, :] - sums[:, None, :]).reshape(n * n, -1)
    found: list[tuple[int, int]] = []
    while (two := two_moves(change, residual)) is None:
        left = np.abs(residual - change) @ RESIDUAL_UNITS
        best = int(left.argmin())
        if left[best] >= np.abs(residual) @ RESIDUAL_UNITS:
            raise ValueError(f"a residual of {residual} cannot be repaired")
        found.append(divmod(best, n))
        residual = residual - change[best]
    return [*found, *(divmod(move, n) for move in two)]


def two_moves(change: np.ndarray, residual: np.ndarray) -> tuple[int, int] | None:
    """Return the first two moves that make up for a residual together, if there are any."""
    spans = 4 * (np.abs(change).max(axis=0) + np.abs(residual)) + 1
    weights = np.array([spans[1] * spans[2], spans[2], 1])
    keys, wanted = change @ weights, (residual - change) @ weights
    order = np.argsort(keys, kind="stable")
    at = np.minimum(np.searchsorted(keys, wanted, sorter=order), len(keys) - 1)
    hits = np.flatnonzero(keys[order[at]] == wanted)
    return (int(hits[0]), int(order[at[hits[0]]])) if len(hits) else None


# Machines


def hybrid(data: Path, name: str) -> RoutingInstance:
    """500 Alpaca queries for Llama-2 7B over three machines, each of which is used."""
    table = counted(tokens_of_500(data))
    machines = [
        {"name": system, "model": "Llama-2 7B", "gpu_type": system, "gpus": 1, **ranges(system)}
        for system in SWEEPS
    ]
    tokens_in, tokens_out = np.array(list(table), dtype=float).T
    energy_j, runtime_s = (on_machines(tokens_in, tokens_out, column) for column in (1, 2))
    allowed = np.ones(energy_j.shape, dtype=bool)
    allowed[:, list(SWEEPS).index("M1 Pro")] = tokens_out <= M1_LONGEST_OUTPUT
    rules = (
        OF_500,
        "Energy is that of the whole machine, CPU and GPU, and not of what stands around it. It "
        "was measured in two sweeps: tokens in at 32 tokens out, and tokens out at 32 tokens in.",
        "Energy and run time at other tokens = (value of the output sweep) x (value of the input "
        "sweep) / (its value at 32 tokens in), each sweep piecewise linear in the logarithms of "
        "tokens and value, with the end pieces continued: our interpolation, exact on the sweeps; "
        "most Alpaca prompts lie near 32 tokens.",
        "The V100 was measured at two points of the input sweep only. It takes what the A100 takes "
        "times the ratio of the two there, interpolated in the same way, at all outputs: our "
        "assumption. The A100 is better in both energy and time everywhere.",
        "The M1 Pro answers with at most 512 tokens, the longest that was measured.",
        "GPUs of an instance are not stated beside the measured points; 1 stands there.",
        "Every system answers at least one query (eq. 3.6 of the thesis).",
        "The objective is zeta x energy + (1 - zeta) x run time, each divided by its largest "
        f"value over all queries and systems, forbidden ones too. zeta is {HYBRID_ZETA:g}, at "
        "which the M1 Pro takes about a quarter of the queries; at 0.5 the A100 takes all but two.",
    )
    return parse(
        name,
        provenance("500 queries over three machines", (EASLI_SOURCE, THESIS_SOURCE), rules),
        label=LABEL,
        **workload(table),
        deployments=machines,
        boundary="server",
        negative_predictions="keep",
        outside_range="extrapolate",
        energy_j=energy_j,
        runtime_s=runtime_s,
        allowed=allowed,
        limits=every_one_used(machines),
        objective=weighed(
            ("energy_kwh", HYBRID_ZETA),
            ("runtime_s", round(1 - HYBRID_ZETA, 9)),
            normalisation="largest",
        ),
    )


def ranges(system: str) -> dict[str, tuple[int, int]]:
    """Return the ranges of tokens in which a system was measured."""
    sweeps = SWEEPS[system].items()
    return {f"range_{tokens}": (points[0][0], points[-1][0]) for tokens, points in sweeps}


def on_machines(tokens_in: np.ndarray, tokens_out: np.ndarray, column: int) -> np.ndarray:
    """Energy (column 1, J) or run time (column 2, s) of queries on the machines."""
    of: dict[str, np.ndarray] = {}
    for system in ("M1 Pro", "A100"):
        inputs, outputs = (SWEEPS[system][tokens] for tokens in ("tokens_in", "tokens_out"))
        of[system] = interpolated(tokens_out, outputs, column) * (
            interpolated(tokens_in, inputs, column)
            / interpolated(np.array([AT_TOKENS]), inputs, column)
        )
    a100 = {point[0]: point[column] for point in SWEEPS["A100"]["tokens_in"]}
    ratios = [(p[0], p[column] / a100[p[0]]) for p in SWEEPS["V100"]["tokens_in"]]
    of["V100"] = of["A100"] * interpolated(tokens_in, ratios, 1)
    return np.array([[rounded(of[system][q]) for system in SWEEPS] for q in range(len(tokens_in))])


def interpolated(tokens: np.ndarray, points: Sequence[Sequence[float]], column: int) -> np.ndarray:
    """Values piecewise linear in the logarithms, with the end pieces continued."""
    at, value = (np.log([point[i] for point in points]) for i in (0, column))
    piece = np.clip(np.searchsorted(at, np.log(tokens)) - 1, 0, len(at) - 2)
    slope = np.diff(value)[piece] / np.diff(at)[piece]
    return np.asarray(np.exp(value[piece] + slope * (np.log(tokens) - at[piece])))
