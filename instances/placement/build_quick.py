"""Build quick.json: eight sites on one real day, three request classes, two GPU types.

    python instances/placement/build_quick.py

Every choice that is not a figure of a source stands in `RULES` and goes into the instance.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from greenopt.datasets import read_rtt
from greenopt.physics.energy import S_PER_H
from greenopt.problems.placement.instance import PlacementInstance

HERE = Path(__file__).resolve().parent
sys.path.append(str(HERE.parent))

from composing import (  # noqa: E402
    BYTES_PER_TOKEN,
    CYCLES,
    DATA,
    SOURCES,
    bins,
    gpu_document,
    home_level,
    home_plan_metrics,
    host_adder_w,
    levels,
    model_document,
    operating_points,
    prefill_curve,
    pue,
    rounded,
    rounded_all,
    rtt_within_region_s,
    scaled_wue_l_per_kwh,
    weighted,
    work,
)

DAY = "2023-07-18"
GPUS = {
    "Virginia": (320, 800),
    "California": (240, 400),
    "Texas": (240, 480),
    "London": (120, 320),
    "Frankfurt": (160, 400),
    "Tokyo": (200, 400),
    "Sydney": (80, 320),
    "Sao Paulo": (40, 480),
}
"""H100 and A100 GPUs at each site (ours)."""
SITES = tuple(GPUS)
AWS_TEXAS = "us-east-1-dwf-1"
LAST_MILE_S = 0.010
PEAK_UTILISATION = 0.6
DEMAND_MODEL, DEMAND_DAY = "language/m-large", 10

MODELS: dict[str, dict[str, Any]] = {
    "llama-3.1-70b": {"parameters": 70.6e9, "layers": 80, "kv_heads": 8, "head_dimension": 128},
    "llama-3.1-8b": {"parameters": 8.03e9, "layers": 32, "kv_heads": 8, "head_dimension": 128},
}
MODES: dict[str, dict[str, Any]] = {
    "h100": {"gpu": "H100-80GB", "ml_energy": "NVIDIA H100 80GB HBM3", "prefill": ("h100-80gb", 4)},
    "a100": {"gpu": "A100-40GB", "ml_energy": "NVIDIA A100-SXM4-40GB", "prefill": ("a100-80gb", 8)},
}
"""GPU type, name at ML.ENERGY, and the hardware and tensor parallelism of the prefill curve."""
ML_ENERGY_V2 = {
    "llama-3.1-70b": "meta-llama/Meta-Llama-3.1-70B-Instruct",
    "llama-3.1-8b": "meta-llama/Meta-Llama-3.1-8B-Instruct",
}
ML_ENERGY_V3 = {
    "llama-3.1-70b": "meta-llama/Llama-3.1-70B-Instruct",
    "llama-3.1-8b": "meta-llama/Llama-3.1-8B-Instruct",
}
TENSOR_PARALLEL = {
    ("llama-3.1-70b", "h100"): 4,
    ("llama-3.1-70b", "a100"): 8,
    ("llama-3.1-8b", "h100"): 1,
    ("llama-3.1-8b", "a100"): 1,
}
MEMORY_BYTES = {"H100-80GB": 80e9, "A100-40GB": 40e9}
CLASSES: dict[str, dict[str, Any]] = {
    "chat": {
        "model": "llama-3.1-70b",
        "share": 0.5,
        "sized_on": "h100",
        "ttft_limit_s": 0.7,
        "tbt_limit_s": 0.18,
    },
    "code": {
        "model": "llama-3.1-70b",
        "share": 0.3,
        "sized_on": "a100",
        "ttft_limit_s": 1.4,
        "tbt_limit_s": 0.25,
    },
    "summarise": {
        "model": "llama-3.1-8b",
        "share": 0.2,
        "sized_on": "a100",
        "ttft_limit_s": 5.0,
        "tbt_limit_s": 0.3,
    },
}
"""Model, share of requests, mode in which the total demand is sized, latency limits."""
TRACES = {
    "chat": ("AzureLLMInferenceTrace_conv_2023.csv.gz", "ContextTokens", "GeneratedTokens"),
    "code": ("AzureLLMInferenceTrace_code_2023.csv.gz", "ContextTokens", "GeneratedTokens"),
    "summarise": (
        "vidur_arxiv_summarization_lengths.csv.gz",
        "num_prefill_tokens",
        "num_decode_tokens",
    ),
}
RULES = (
    f"The day is {DAY}, a Tuesday, in 24 UTC hours; no value of any series is missing on it.",
    "Every site is also an origin of requests.",
    "Carbon intensity, price and wet bulb are those of the grid, price and weather zones of "
    "shared/data/site_crosswalk.csv; Virginia's weather point is Philadelphia, its price the "
    "real-time price of the Dominion zone, the other prices are day-ahead or spot prices, and Sao "
    "Paulo's is at the regulatory floor.",
    "PUE is 1.12 at every site (Azure GreenSKU parameters).",
    "WUE is the wet-bulb polynomial at 3 cycles of concentration (floor 0), times one factor for "
    "all sites that makes the mean over 2023 and the eight sites 0.569 L/kWh (EcoLogits, OpenAI); "
    "the same cycles split the make-up into evaporation and blowdown.",
    "EWIF is one annual figure per country: WaterWise factors (hydro 17 L/kWh) on the generation "
    "mix of Our World in Data.",
    "Round trips are the GCP matrix, sending region = origin; within a region it is blank, and the "
    "median of the AWS matrix diagonal stands there.",
    f"The last mile is {LAST_MILE_S} s at every origin: our assumption, no source.",
    "Egress is AWS's inter-region list price by sending region, 0 within a region; Texas is the "
    "Local Zone us-east-1-dwf-1 (Dallas). The GCP and Azure tables do not hold all eight sites.",
    f"A response is {BYTES_PER_TOKEN} bytes per output token: our assumption.",
    "Levels are the ML.ENERGY v2 chat measurements: requests_per_s = token throughput / average "
    "output tokens, power_w = energy per request x requests_per_s at the GPU boundary, mean "
    "inter-token latency = average TPOT. A reference request is ML.ENERGY's average chat request. "
    "Newer serving software is faster: ML.ENERGY v3 has the 70B model on H100 at batch 64 with "
    "about three times the throughput at twice the power; v2 is used because it states a licence.",
    "A measurement is kept if |average batch / (throughput x TPOT) - 1| <= 0.2: beyond that "
    "requests wait in a queue and the batch is no operating point. Of the kept ones, in order of "
    "latency, those that do not raise requests_per_s are dropped as dominated.",
    "There is no idle level: instances that serve nothing are switched off and draw no power.",
    "The host adder is 150 W per GPU: EcoLogits' 1.2 kW server over its 8 GPUs.",
    "Percentiles of inter-token latency are the mean times one ratio per model, the median over "
    "batch sizes of measured percentile / (batch / throughput) in ML.ENERGY v3 on H100, used for "
    "both GPU types; only these fitted ratios come from that source.",
    "Prefill of the 70B model is Splitwise's llama2-70b at batch 1, median by prompt length, made "
    "non-decreasing: H100 TP4 for mode h100, and A100-80GB TP8 as a proxy of the 40 GB card for "
    "mode a100. It is the same at every level. From 128 tokens down to 1 it is held constant.",
    "Prefill of the 8B model is not measured: it is the 70B curve times the ratio of parameters "
    "times the ratio of GPUs (work proportional to parameters; our model).",
    "Token lengths are 100 bins of equal probability, each at its mean (so that a p95 "
    "lies between the trace's 94th and 95th percentile), of the Azure 2023 "
    "conversation (chat) and code traces and of Vidur's arXiv lengths (summarise), prompts and "
    "outputs apart; requests with prompts above 8192 tokens, outside the prefill curve, are "
    "dropped (one of chat).",
    "Work of a request = mean output / ML.ENERGY's mean output + requests_per_s of the highest "
    "level x mean prefill time: the prefill occupies the instance alone, on top of a decode share "
    "that already holds the reference's own prefill. Our model, conservative.",
    "Weights take 2 bytes per parameter (70.6e9 and 8.03e9); KV cache per token follows the public "
    "model configurations in 2 bytes per value; memory is 80e9 and 40e9 bytes per GPU, 0.9 usable.",
    "Embodied carbon per GPU is 273 kg plus an eighth of a 5700 kg server, over 3 years "
    "(EcoLogits), for both GPU types; it is reported, not steered by.",
    "Latency limits, at the 95th percentile, are ours: TTFT 0.7, 1.4, 5 s and time between tokens "
    "0.18, 0.25, 0.3 s for chat, code and summarise.",
    "chat and code are served by the 70B model, summarise by the 8B model; they make up 0.5, 0.3 "
    "and 0.2 of the requests of every hour and origin: our assumption.",
    "The course of demand is ServeGen's language/m-large on day 11 of its trace (hourly mean; the "
    "weekday is not stated; its first hour holds the end of a burst), read as local time and "
    "shifted to each origin's nautical time zone round(longitude / 15).",
    "Every origin has the same number of requests in the day: our assumption.",
    "Demand is scaled so that in the busiest hour 0.6 of all GPUs are busy when chat runs in mode "
    "h100 and code and summarise in mode a100, each at its highest level eligible at home; then it "
    "is rounded to whole requests.",
    "Sites hold 40 to 320 H100 and 320 to 800 A100 GPUs, in servers of 8: our assumption.",
    "Scales of the objective are the metrics of a reference plan: every origin is served at home, "
    "its nearest site, in mode h100 at the highest eligible level of each class, without regard to "
    "capacity; 6 significant digits. The four weights are equal.",
    "All figures are rounded to 6 significant digits.",
)

QUICK_SOURCES: tuple[Mapping[str, str], ...] = (
    {
        "name": "Electricity Maps, hourly carbon intensity 2023 (life cycle, consumption)",
        "licence": "ODbL-1.0",
        "attribution": "Contains information from Electricity Maps (electricitymaps.com), made "
        "available under the Open Database License (ODbL) 1.0",
        "url": "https://github.com/HewlettPackard/sustain-cluster @293fbd152dae",
        "note": "data/carbon_intensity, eight zones, one day; values unchanged",
    },
    {
        "name": "Wholesale electricity prices 2023 collected by SustainCluster",
        "licence": "LicenseRef-market-operators",
        "attribution": "Prices: PJM, CAISO, ERCOT, RTE eco2mix, JEPX, AEMO, CCEE; collected by "
        "HewlettPackard/sustain-cluster (MIT)",
        "url": "https://github.com/HewlettPackard/sustain-cluster @293fbd152dae",
        "note": "data/electricity_prices/processed, time stamps and currencies rebuilt, USD at "
        "fixed rates; the repository is MIT, each market operator has terms of its own",
    },
    SOURCES["weather"],
    SOURCES["water"],
    SOURCES["mix"],
    SOURCES["ecologits"],
    SOURCES["greensku"],
    SOURCES["azure traces"],
    {
        "name": "GCP inter-region round-trip times, SMU AT&T Center",
        "licence": "Apache-2.0",
        "attribution": "umassos/decarbonization-potential (Apache-2.0)",
        "url": "https://github.com/umassos/decarbonization-potential @3493a63016bd",
        "note": "shared_data/raw_gcp_latency.csv, eight regions, ms to s",
    },
    SOURCES["aws latency"],
    {
        "name": "AWS inter-region transfer list prices collected by SustainCluster",
        "licence": "MIT",
        "attribution": "HewlettPackard/sustain-cluster (MIT), AWS list prices",
        "url": "https://github.com/HewlettPackard/sustain-cluster @293fbd152dae",
        "note": "data/network_cost, eight regions",
    },
    {
        "name": "ML.ENERGY Leaderboard v2, Llama 3.1 chat on A100 and H100",
        "licence": "Apache-2.0",
        "attribution": "ML.ENERGY Leaderboard, ml-energy/leaderboard (Apache-2.0)",
        "url": "https://github.com/ml-energy/leaderboard",
        "note": "throughput, energy per request and TPOT by batch size",
    },
    {
        "name": "ML.ENERGY Leaderboard v3, Llama 3.1 chat on H100",
        "licence": "LicenseRef-none-stated",
        "attribution": "The ML.ENERGY Benchmark, NeurIPS Datasets and Benchmarks 2025",
        "url": "https://github.com/ml-energy/leaderboard @0cd52dab897c",
        "note": "no licence stated: only fitted ratios of latency percentiles to the mean enter",
    },
    SOURCES["splitwise"],
    SOURCES["vidur"],
    SOURCES["servegen"],
    {
        "name": "Llama 3.1 model configurations",
        "licence": "LicenseRef-Llama-3.1-Community",
        "attribution": "Meta, Llama 3.1 model cards",
        "url": "https://huggingface.co/meta-llama",
        "note": "figures only: parameters, layers, KV heads, head dimension",
    },
)


def main(arguments: Sequence[str] | None = None) -> None:
    """Write the instance."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=DATA, help="folder of the real data")
    parser.add_argument("--out", type=Path, default=HERE, help="folder to write to")
    options = parser.parse_args(arguments)
    if not options.data.is_dir():
        parser.error(f"there is no folder {options.data}; name the real data's with --data")
    options.out.mkdir(parents=True, exist_ok=True)
    build(options.data).save(options.out / "quick.json")


def build(data: Path) -> PlacementInstance:
    """Build the instance: a draft of relative demand, then demand to scale, then the objective."""
    places = pd.read_csv(data / "site_crosswalk.csv", index_col="site").loc[list(SITES)]
    shape = demand_shape(data, places)
    draft = PlacementInstance.parse(
        {
            "problem": "placement",
            "schema_version": 1,
            "name": "quick",
            "provenance": provenance(),
            "periods": {
                "start": [f"{DAY}T{hour:02d}:00Z" for hour in range(24)],
                "duration_s": [S_PER_H] * 24,
            },
            "origins": SITES,
            "sites": SITES,
            "modes": tuple(MODES),
            **service(data),
            **grid(data, places),
            **network(data, places),
            "demand_requests": shape,
            "gpus": {
                "axes": ["site", "gpu_type"],
                "values": [[*map(float, n)] for n in GPUS.values()],
            },
            "objective": ({"terms": [{"metric": "carbon_kg", "weight": 1.0}]},),
        },
        "draft",
    )
    busy_gpu_s = PEAK_UTILISATION * S_PER_H * float(draft.gpus[0].sum())
    factor = busy_gpu_s / gpu_s_per_request(draft) / shape.sum(axis=(1, 2)).max()
    scaled = draft.replace(demand_requests=np.round(shape * factor))
    return scaled.replace(objective=weighted(home_plan_metrics(scaled, "h100")))


def provenance() -> dict[str, Any]:
    """Provenance of the instance."""
    return {
        "description": "Eight cloud regions on five continents over one real day: "
        "chat, code and summarisation requests on H100 and A100 GPUs, four objectives",
        "builder": "instances/placement/build_quick.py",
        "data_licence": "ODbL-1.0 AND LicenseRef-market-operators",
        "sources": QUICK_SOURCES,
        "rules": RULES,
    }


# Grid, weather, network


def grid(data: Path, places: pd.DataFrame) -> dict[str, Any]:
    """Carbon, price, water and PUE of the sites on the day."""
    carbon = series(data / "carbon/em_ci_lca_g_per_kwh_2023.csv.gz", places["em_zone"])
    price = series(data / "prices/price_usd_per_mwh_2023.csv.gz", places["price_zone"])
    ewif = [rounded(value) for value in places["ewif_annual_owid"]]
    return {
        "carbon_signal": {
            "kind": "average",
            "scope": "life-cycle",
            "basis": "consumption",
            "provider": "Electricity Maps",
            "year": 2023,
        },
        "carbon_g_per_kwh": rounded_all(of_day(carbon)),
        "price_basis": "wholesale",
        "price_usd_per_mwh": rounded_all(of_day(price)),
        "pue": {"axes": [], "values": pue(data)},
        "wue_basis": {
            "kind": "scaled to annual mean",
            "note": "mean over 2023 and the eight sites 0.569 L/kWh (EcoLogits 0.11.3, OpenAI)",
        },
        "wue_l_per_kwh": rounded_all(of_day(wue(data, places))),
        "cycles_of_concentration": {"axes": [], "values": CYCLES},
        "ewif_set": "WaterWise factors (hydro 17 L/kWh) on the annual mix of Our World in Data",
        "ewif_l_per_kwh": {"axes": ["site"], "values": ewif},
    }


def wue(data: Path, places: pd.DataFrame) -> pd.DataFrame:
    """On-site make-up of the sites over the year, L/kWh, scaled to the operator's mean."""
    path = data / "water/wetbulb_c_openmeteo_16zones_2021_2024.csv.gz"
    wet_bulb = series(path, places["weather_openmeteo"])
    wet_bulb = wet_bulb[wet_bulb.index.str.startswith(DAY[:4])]
    scaled = scaled_wue_l_per_kwh(data, wet_bulb.to_numpy())
    return pd.DataFrame(scaled, index=wet_bulb.index)


def series(path: Path, zones: pd.Series) -> pd.DataFrame:
    """Hourly series of the sites' zones."""
    return pd.read_csv(path, index_col="datetime_utc")[list(zones)]


def of_day(frame: pd.DataFrame) -> np.ndarray:
    """Return the 24 rows of the day."""
    values = frame[frame.index.str.startswith(DAY)].to_numpy(dtype=float)
    if values.shape != (24, len(SITES)) or np.isnan(values).any():
        raise ValueError(f"{DAY} is not complete in a series of {list(frame.columns)}")
    return values


def network(data: Path, places: pd.DataFrame) -> dict[str, Any]:
    """Round trips and transfer prices between the regions."""
    gcp = read_rtt(data / "latency/gcp_rtt_ms_matrix.csv", missing="allow")
    rtt_s = gcp.select(places["gcp"], places["gcp"]).seconds.copy()
    np.fill_diagonal(rtt_s, rtt_within_region_s(data))
    regions = places["aws"].fillna(AWS_TEXAS)
    table = pd.read_csv(data / "prices/network_transfer_usd_per_gb_aws.csv", index_col=0)
    from_to = table.loc[regions, regions].to_numpy(dtype=float)
    return {
        "rtt_s": rounded_all(rtt_s),
        "last_mile_s": {"axes": [], "values": LAST_MILE_S},
        "egress_usd_per_gb": from_to.T,  # (origin, site): what the site sends to the origin
    }


# Models, profiles, classes


def service(data: Path) -> dict[str, Any]:
    """Models, GPUs, profiles and classes."""
    profiles = {pair: profile(data, *pair) for pair in TENSOR_PARALLEL}
    return {
        "models": [model_document(name, **figures) for name, figures in MODELS.items()],
        "gpu_types": [gpu_document(data, *figures) for figures in MEMORY_BYTES.items()],
        "profiles": [document for document, _ in profiles.values()],
        "classes": [request_class(data, name, profiles) for name in CLASSES],
    }


def profile(data: Path, model: str, mode: str) -> tuple[dict[str, Any], float]:
    """Profile of a model in a mode, and the output tokens of its reference request."""
    gpus = TENSOR_PARALLEL[model, mode]
    points = operating_points(data, ML_ENERGY_V2[model], MODES[mode]["ml_energy"], gpus)
    hardware, parallel = MODES[mode]["prefill"]
    size = MODELS[model]["parameters"] / MODELS["llama-3.1-70b"]["parameters"]
    tokens, seconds = prefill_curve(data, hardware, parallel, size * parallel / gpus)
    document = {
        "model": model,
        "mode": mode,
        "gpu_type": MODES[mode]["gpu"],
        "gpus_per_instance": float(gpus),
        "power_boundary": "gpu",
        "host_adder_w": host_adder_w(data, gpus),
        "prefill_tokens": tokens,
        "levels": levels(points, itl_ratios(data, model), seconds),
    }
    return document, float(points.output_tokens.mean())


def itl_ratios(data: Path, model: str) -> dict[str, float]:
    """Percentiles of inter-token latency over its mean, medians over batch sizes on H100."""
    table = pd.read_csv(data / "power/mlenergy_v3_llm.csv")
    ours = (table["model_id"] == ML_ENERGY_V3[model]) & (table["gpu_model"] == "H100")
    rows = table[ours]
    mean_ms = 1000 * rows["avg_batch_size"] / rows["output_throughput_tokens_per_sec"]
    measured = {"p50": "median", "p90": "p90", "p95": "p95", "p99": "p99"}
    ratios = {p: float((rows[f"{c}_itl_ms"] / mean_ms).median()) for p, c in measured.items()}
    return {"mean": 1.0, **ratios}


def request_class(
    data: Path, name: str, profiles: Mapping[tuple[str, str], tuple[dict[str, Any], float]]
) -> dict[str, Any]:
    """Build a request class: lengths from its trace, work in reference requests, limits."""
    chosen = CLASSES[name]
    file, prompt_column, output_column = TRACES[name]
    trace = pd.read_csv(data / "traces" / file)
    own = {mode: profiles[chosen["model"], mode] for mode in MODES}
    longest = min(document["prefill_tokens"][-1] for document, _ in own.values())
    trace = trace[trace[prompt_column] <= longest]
    prompt, output = bins(trace[prompt_column]), bins(trace[output_column])
    return {
        "name": name,
        "model": chosen["model"],
        "prompt_tokens": prompt.model_dump(),
        "output_tokens": output.model_dump(),
        "work_per_request": {
            mode: rounded(work(document, reference_output, prompt, output))
            for mode, (document, reference_output) in own.items()
        },
        "egress_bytes_per_request": rounded(BYTES_PER_TOKEN * output.mean),
        "ttft_limit_s": chosen["ttft_limit_s"],
        "ttft_statistic": "p95",
        "tbt_limit_s": chosen["tbt_limit_s"],
        "tbt_statistic": "p95",
    }


# Demand and the reference plan


def demand_shape(data: Path, places: pd.DataFrame) -> np.ndarray:
    """Relative demand by period, origin and class; every origin's day adds up to 1."""
    rates = pd.read_csv(data / "traces/servegen_rate_10min.csv.gz")
    rates = rates[(rates["model"] == DEMAND_MODEL) & (rates["t_s"] // 86400 == DEMAND_DAY)]
    local = rates.groupby(rates["t_s"] % 86400 // 3600)["req_per_s"].mean().to_numpy(dtype=float)
    offsets = [round(longitude / 15) for longitude in places["lon"]]
    hours = np.array([np.roll(local / local.sum(), -offset) for offset in offsets])
    shares = np.array([chosen["share"] for chosen in CLASSES.values()])
    shape: np.ndarray = hours.T[:, :, None] * shares
    return shape


def gpu_s_per_request(instance: PlacementInstance) -> float:
    """GPU seconds of a mean request when each class runs in the mode it is sized on."""
    total = 0.0
    for i, k in enumerate(instance.classes):
        mode = CLASSES[k.name]["sized_on"]
        p, level = home_level(instance, i, mode)
        instance_s = k.work_per_request[mode] / level.requests_per_s
        total += CLASSES[k.name]["share"] * p.gpus_per_instance * instance_s
    return total


if __name__ == "__main__":
    main()
