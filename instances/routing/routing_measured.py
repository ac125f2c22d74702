"""Instances of real lengths over measured models: Llama 3.1, and the first open chat models."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from composing import SOURCES, host_adder_w, measurements, prefill_curve, pue, rounded
from routing_parts import (
    AZURE_SOURCE,
    Pair,
    counted,
    gpu_pool,
    law,
    parse,
    weighed,
    workload,
)

from greenopt.datasets import read_azure_trace
from greenopt.physics.energy import J_PER_KWH
from greenopt.problems.routing.instance import RoutingInstance

BATCH = 128
LONGEST_PROMPT = 8192
SHORTEST_OF_SLOPE = 512
HORIZON_H = 0.25
LIMIT_S, LIMIT_S_PER_TOKEN = 120.0, 0.1
TASK = "llm_text_generation/chat"
REFERENCE = "Llama 3.1 70B on H100"
WEIGHTS = {"energy_facility_kwh": 1.0, "carbon_kg": 2.0, "cost_usd": 1.0, "runtime_s": 1.0}


class Model(NamedTuple):
    """A model: parameters, name at ML.ENERGY, and accuracies, %."""

    parameters: float
    ml_energy: str
    mmlu: float
    human_eval: float


class Hardware(NamedTuple):
    """A type of GPU: names at ML.ENERGY and Splitwise, prefill power of one, W, and its site."""

    ml_energy: str
    splitwise: str
    prefill_w: float
    site: str


class Served(NamedTuple):
    """A model on GPUs, and the tensor parallelism of the prefill curve that is scaled for it."""

    model: str
    gpu_type: str
    gpus: int
    curve_gpus: int


class Workload(NamedTuple):
    """A trace: its file, what it is, accuracy figure, least mean accuracy, GPUs of each type."""

    trace: str
    what: str
    accuracy: str
    floor_percent: float
    gpus: Mapping[str, int]


MODELS = {
    "Llama 3.1 8B": Model(8.03e9, "meta-llama/Meta-Llama-3.1-8B-Instruct", 69.4, 72.6),
    "Llama 3.1 70B": Model(70.6e9, "meta-llama/Meta-Llama-3.1-70B-Instruct", 83.6, 80.5),
    "Llama 3.1 405B": Model(405e9, "meta-llama/Meta-Llama-3.1-405B-Instruct", 87.3, 89.0),
}
HARDWARE = {
    "A100-40GB": Hardware("NVIDIA A100-SXM4-40GB", "a100-80gb", 400.0, "Ontario"),
    "H100-80GB": Hardware("NVIDIA H100 80GB HBM3", "h100-80gb", 700.0, "Virginia"),
}
SERVED = (
    Served("Llama 3.1 8B", "A100-40GB", 1, 2),
    Served("Llama 3.1 70B", "A100-40GB", 8, 8),
    Served("Llama 3.1 8B", "H100-80GB", 1, 2),
    Served("Llama 3.1 70B", "H100-80GB", 4, 4),
    Served("Llama 3.1 405B", "H100-80GB", 16, 8),
)
WORKLOADS = {
    "azure-conv-modern": Workload(
        "conv", "conversation", "mmlu", 82.0, {"A100-40GB": 16, "H100-80GB": 16}
    ),
    "azure-code-modern": Workload(
        "code", "code", "human_eval", 81.0, {"A100-40GB": 8, "H100-80GB": 16}
    ),
}
BENCHMARKS = {"mmlu": "MMLU (5 shots, macro average)", "human_eval": "HumanEval (pass@1)"}

LEGACY_GPUS = {"A100": 16, "A40": 16, "V100": 16}
LEGACY_FLOOR_PERCENT = 60.0
LEGACY_LIMIT_S = 20.0

MODERN_SOURCES: tuple[Mapping[str, str], ...] = (
    AZURE_SOURCE,
    {
        "name": "ML.ENERGY Leaderboard v2, Llama 3.1 chat on A100 and H100",
        "licence": "Apache-2.0",
        "attribution": "ML.ENERGY Leaderboard, ml-energy/leaderboard (Apache-2.0)",
        "url": "https://github.com/ml-energy/leaderboard",
        "note": "energy per request, tokens and TPOT of the rows with at most 128 requests at once",
    },
    {
        **SOURCES["splitwise"],
        "note": "data/perf_model.csv: median prefill time by prompt length, llama2-70b, batch 1; "
        "configs/power_model: power of a GPU in prefill, 400 and 700 W",
    },
    {
        "name": "Llama 3.1 model card, benchmark scores",
        "licence": "LicenseRef-Llama-3.1-Community",
        "attribution": "Meta, Llama 3.1 model card, instruction tuned models",
        "url": "https://github.com/meta-llama/llama-models models/llama3_1/MODEL_CARD.md",
        "note": "figures only: MMLU or HumanEval of the three models, and their parameters",
    },
    {
        "name": "Electricity Maps, annual mean carbon intensity 2023 of Ontario and Virginia",
        "licence": "ODbL-1.0",
        "attribution": "Contains information from Electricity Maps (electricitymaps.com), made "
        "available under the Open Database License (ODbL) 1.0",
        "url": "https://github.com/HewlettPackard/sustain-cluster @293fbd152dae",
        "note": "two figures: annual means of the zones CA-ON and US-MIDA-PJM (life cycle, "
        "consumption)",
    },
    {
        "name": "Wholesale electricity prices, annual means 2023 of Ontario and Virginia",
        "licence": "LicenseRef-market-operators",
        "attribution": "Prices: IESO, PJM; collected by HewlettPackard/sustain-cluster (MIT)",
        "url": "https://github.com/HewlettPackard/sustain-cluster @293fbd152dae",
        "note": "two figures; the repository is MIT, each market operator has terms of its own",
    },
    {**SOURCES["ecologits"], "note": "figures only: 1.2 kW for a server of 8 GPUs"},
    SOURCES["greensku"],
)
LEGACY_SOURCES: tuple[Mapping[str, str], ...] = (
    {
        "name": "ML.ENERGY legacy leaderboard, chat on A100, A40 and V100",
        "licence": "Apache-2.0",
        "attribution": "ML.ENERGY Leaderboard, ml-energy/leaderboard (Apache-2.0)",
        "url": "https://github.com/ml-energy/leaderboard @c814c36c078b",
        "note": "data/legacy: energy, latency and length of the mean response; ARC, HellaSwag, "
        "TruthfulQA",
    },
    {**AZURE_SOURCE, "note": "tokens out of the conversation trace, as counts of equal queries"},
)


# Llama 3.1


def modern(data: Path, name: str) -> RoutingInstance:
    """A trace of one hour over Llama 3.1 on two types of GPU."""
    chosen = WORKLOADS[name]
    requests = requests_of(data, chosen.trace)
    table = counted(pair for pair in requests if pair[0] <= LONGEST_PROMPT)
    models = [deployment(data, served, chosen.accuracy) for served in SERVED]
    pools = [gpu_pool(models, gpu_type, gpus * HORIZON_H) for gpu_type, gpus in chosen.gpus.items()]
    scales = reference_metrics(table, next(m for m in models if m["name"] == REFERENCE))
    terms = [
        {"metric": metric, "weight": weight, "scale": scales[metric]}
        for metric, weight in WEIGHTS.items()
    ]
    return parse(
        name,
        {
            "description": f"Azure's {chosen.what} trace of 2023 over Llama 3.1 8B, 70B and 405B "
            "on A100 in Ontario and H100 in Virginia",
            "data_licence": "CC-BY-4.0 AND Apache-2.0",
            "sources": MODERN_SOURCES,
            "rules": modern_rules(chosen, len(requests) - sum(table.values())),
        },
        label=f"{BATCH} requests at once (ML.ENERGY v2)",
        **workload(table),
        deployments=models,
        boundary="gpu",
        negative_predictions="keep",
        outside_range="forbid",
        runtime_limit_s=[rounded(LIMIT_S + LIMIT_S_PER_TOKEN * out) for _, out in table],
        limits=pools,
        accuracy_floor_percent=chosen.floor_percent,
        objective=[{"terms": terms}],
    )


def deployment(data: Path, served: Served, accuracy: str) -> dict[str, Any]:
    """A model on GPUs: laws of one query in a full batch, and the electricity of the site."""
    model, hardware = MODELS[served.model], HARDWARE[served.gpu_type]
    (energy_j,), (itl_s,) = decoding(data, model, hardware, served.gpus)
    prefill_s = prefill_s_per_token(data, served)
    place = pd.read_csv(data / "site_crosswalk.csv", index_col="site").loc[hardware.site]
    return {
        "name": f"{served.model} on {served.gpu_type[:4]}",
        "model": served.model,
        "gpu_type": served.gpu_type,
        "gpus": served.gpus,
        "concurrency": float(BATCH),
        "energy": law(rounded(served.gpus * hardware.prefill_w * prefill_s), rounded(energy_j)),
        "runtime": law(rounded(BATCH * prefill_s), rounded(itl_s)),
        "range_tokens_in": (1, LONGEST_PROMPT),
        "accuracy_percent": getattr(model, accuracy),
        "host_w": rounded(host_adder_w(data, served.gpus)),
        "pue": pue(data),
        "carbon_g_per_kwh": float(place["ci_lca_2023"]),
        "price_usd_per_kwh": rounded(place["price_usd_2023"] / 1000),
    }


def decoding(
    data: Path, model: Model, hardware: Hardware, gpus: int
) -> tuple[np.ndarray, np.ndarray]:
    """Energy per output token, J, and time between tokens, s, of the measurement at the batch."""
    ours = measurements(data).select(
        model=model.ml_energy, gpu=hardware.ml_energy, gpus=gpus, task=TASK, batch_limit=BATCH
    )
    energy_j = ours.column("energy_per_request_j") / ours.column("output_tokens_mean")
    return energy_j, ours.column("itl_mean_s")


def prefill_s_per_token(data: Path, served: Served) -> float:
    """Prefill time of an input token alone on an instance, s, scaled from Splitwise's curve."""
    scale = MODELS[served.model].parameters / 70e9 * served.curve_gpus / served.gpus
    splitwise = HARDWARE[served.gpu_type].splitwise
    tokens, seconds = prefill_curve(data, splitwise, served.curve_gpus, scale)
    per_token = [s / n for n, s in zip(tokens, seconds, strict=True) if n >= SHORTEST_OF_SLOPE]
    return float(np.median(per_token))


def reference_metrics(table: Mapping[Pair, int], model: Mapping[str, Any]) -> dict[str, float]:
    """Metrics when one model answers every query."""
    count = np.array(list(table.values()))
    tokens_in, tokens_out = np.array(list(table)).T
    energy_j, runtime_s = (
        float(count @ (tokens_in * one["per_token_in"] + tokens_out * one["per_token_out"]))
        for one in (model["energy"], model["runtime"])
    )
    facility_kwh = model["pue"] * (energy_j + model["host_w"] * runtime_s / BATCH) / J_PER_KWH
    metrics = {
        "energy_facility_kwh": facility_kwh,
        "carbon_kg": facility_kwh * model["carbon_g_per_kwh"] / 1000,
        "cost_usd": facility_kwh * model["price_usd_per_kwh"],
        "runtime_s": runtime_s,
    }
    return {metric: rounded(value) for metric, value in metrics.items()}


def modern_rules(chosen: Workload, dropped: int) -> tuple[str, ...]:
    """Every choice that is not a figure of a source."""
    pools = " and ".join(f"{gpus} {gpu_type}" for gpu_type, gpus in chosen.gpus.items())
    return (
        f"Queries are the requests of the Azure 2023 {chosen.what} trace with the tokens that its "
        "own models generated, for all models. Equal queries are one kind.",
        f"Requests with prompts above {LONGEST_PROMPT} tokens, outside the prefill curve, are "
        f"dropped: {dropped}. No law knows a range of outputs.",
        f"Every instance serves {BATCH} requests at once, the smallest number that ML.ENERGY v2 "
        "measured for all five of model and GPUs (chat). Llama 3.1 405B was measured on 16 H100 "
        "only.",
        "Energy of an output token is ML.ENERGY's energy per request over its mean output, at the "
        "GPU boundary; prefill comes on top, although that figure holds the reference's own: our "
        "model, conservative.",
        "Prefill time of an input token is the median over prompts of 512 to 8192 tokens of "
        "Splitwise's prefill time per token of llama2-70b at batch 1, times the ratio of "
        "parameters to 70e9 and of GPUs (work proportional to parameters; our model): A100-80GB "
        "TP8 for 70B and TP2 for 8B (as a proxy of the 40 GB card), H100 TP4, TP2 and TP8 for 70B, "
        "8B and 405B. Shorter prompts take as much per token.",
        "Prefill power is Splitwise's 400 W per A100 and 700 W per H100.",
        f"The run time of a query is that of a full batch of {BATCH} queries like it: their "
        f"prefills one after another, then their outputs together at ML.ENERGY's mean TPOT. Each "
        f"takes 1/{BATCH} of the instance meanwhile. Our model, in accord with Little's law.",
        "The host adder is EcoLogits' 1.2 kW per server of 8 GPUs.",
        f"{pools} work for {HORIZON_H * 60:g} minutes: our assumption. Numbers of instances are "
        "not decided.",
        "A100 stand in Ontario and H100 in Virginia, so that the slower ones are the cleaner: our "
        "assumption. Carbon intensity (Electricity Maps: average, life cycle, consumption) and "
        "wholesale price are annual means of 2023; GPU hours have no price.",
        "PUE is 1.12 (Azure GreenSKU parameters).",
        f"Accuracy is {BENCHMARKS[chosen.accuracy]} in Meta's model card of the instruction tuned "
        "models, whatever the query: a benchmark is no measure of an answer.",
        f"The run time of a query is at most {LIMIT_S:g} s plus {LIMIT_S_PER_TOKEN:g} s per output "
        f"token, mean accuracy over tokens at least {chosen.floor_percent:g} %: ours.",
        f"Scales of the objective are the metrics when {REFERENCE} answers every query; 6 "
        "significant digits. Carbon counts twice, the others once.",
    )


def requests_of(data: Path, trace: str) -> list[Pair]:
    """Tokens in and out of a trace's requests."""
    found = read_azure_trace(data / f"traces/AzureLLMInferenceTrace_{trace}_2023.csv.gz")
    pairs = zip(found.prompt_tokens.tolist(), found.output_tokens.tolist(), strict=True)
    return [(int(tokens_in), int(tokens_out)) for tokens_in, tokens_out in pairs]


# The first open chat models


def legacy_chat(data: Path, name: str) -> RoutingInstance:
    """Answers of the lengths of Azure's conversations by 23 models on three types of GPU."""
    models = legacy_deployments(data)
    table = counted((0, tokens_out) for _, tokens_out in requests_of(data, "conv"))
    fields = workload(table)
    return parse(
        name,
        {
            "description": "Answers of the lengths of Azure's conversation trace of 2023 by the "
            "first open chat models on A100, A40 and V100",
            "data_licence": "Apache-2.0 AND CC-BY-4.0",
            "sources": LEGACY_SOURCES,
            "rules": LEGACY_RULES,
        },
        label="batch 1 (ML.ENERGY, 2023)",
        **{**fields, "queries": [str(out) for _, out in table]},
        deployments=models,
        boundary="gpu",
        negative_predictions="keep",
        outside_range="forbid",
        runtime_limit_s={"axes": [], "values": LEGACY_LIMIT_S},
        limits=[gpu_pool(models, gpu_type, float(n)) for gpu_type, n in LEGACY_GPUS.items()],
        accuracy_floor_percent=LEGACY_FLOOR_PERCENT,
        objective=weighed(("energy_kwh", 1.0)),
    )


def legacy_deployments(data: Path) -> list[dict[str, Any]]:
    """Every model on every type of GPU that it was measured on."""
    folder = data / "mlenergy_legacy"
    scores = pd.read_csv(folder / "score.csv", index_col="model").mean(axis=1)
    found: list[dict[str, Any]] = []
    for gpu_type in LEGACY_GPUS:
        table = pd.read_csv(folder / f"{gpu_type}_chat.csv", index_col="model")
        found += [
            {
                "name": f"{model.split('/')[1]} on {gpu_type}",
                "model": model,
                "gpu_type": gpu_type,
                "gpus": 1,
                "energy": law(0.0, rounded(row["energy"] / row["response_length"])),
                "runtime": law(0.0, rounded(row["latency"] / row["response_length"])),
                "accuracy_percent": rounded(scores[model]),
            }
            for model, row in table.iterrows()
        ]
    return found


LEGACY_RULES = (
    "A query is an answer of the length of one in the Azure 2023 conversation trace, for all "
    "models. Its prompt counts 0 tokens: the measured energy and latency of a response hold those "
    "of its prompt, whose length is not published, and most prompts of the trace would exceed what "
    "these models can read.",
    "Energy and run time of an output token are those of the mean response over its length, at "
    "batch 1; answers longer than the measured ones are taken to cost as much per token. The model "
    "is proportional to tokens: our model.",
    "Every model runs on one GPU: our reading, since the table does not say.",
    "Accuracy is the mean of ARC, HellaSwag and TruthfulQA as published, whatever the query.",
    "16 GPUs of each type for an hour, at most 20 s per answer, a mean accuracy over tokens of at "
    "least 60 %: ours. Least energy of the GPUs is asked for.",
)
