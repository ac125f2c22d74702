"""Build quick.json: eight sites on one real day, three request classes, two GPU types.

    python instances/placement/build_quick.py

Every choice that is not a figure of a source stands in `RULES` and goes into the instance.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from greenopt.physics.carbon import operational_kg
from greenopt.physics.energy import S_PER_H, energy_kwh, it_and_facility_power_w
from greenopt.physics.kv_cache import batch_by_littles_law, kv_bytes_per_token, kv_capacity_bytes
from greenopt.physics.latency import prefill_s
from greenopt.physics.water import make_up_wue_l_per_kwh, scale_to_mean
from greenopt.problems.placement.instance import (
    Distribution,
    Level,
    PlacementInstance,
    Profile,
    RequestClass,
)

HERE = Path(__file__).resolve().parent
DATA = HERE.parents[2] / "shared" / "data"

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
CYCLES = 3.0
WUE_PROVIDER = "openai"
LAST_MILE_S = 0.010
BINS = 100
BYTES_PER_TOKEN = 4
PEAK_UTILISATION = 0.6
LITTLE_TOLERANCE = 0.2
DEMAND_MODEL, DEMAND_DAY = "language/m-large", 10

MODELS = {
    "llama-3.1-70b": {"parameters": 70.6e9, "layers": 80, "kv_heads": 8, "head_dimension": 128},
    "llama-3.1-8b": {"parameters": 8.03e9, "layers": 32, "kv_heads": 8, "head_dimension": 128},
}
MODES = {
    "h100": {"gpu": "H100-80GB", "ml_energy": "NVIDIA H100 80GB HBM3", "prefill": ("h100-80gb", 4)},
    "a100": {"gpu": "A100-40GB", "ml_energy": "NVIDIA A100-SXM4-40GB", "prefill": ("a100-80gb", 8)},
}
"""GPU type, name at ML.ENERGY, and the hardware and tensor parallelism of the prefill curve."""
ML_ENERGY = {"llama-3.1-70b": "3.1-70B-Instruct", "llama-3.1-8b": "3.1-8B-Instruct"}
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
METRICS = ("carbon_kg", "water_l", "cost_usd", "ttft_mean_s")

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

SOURCES: tuple[dict[str, str], ...] = (
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
    {
        "name": "Open-Meteo historical weather 2023 collected by SustainCluster",
        "licence": "CC-BY-4.0",
        "attribution": "Weather data by Open-Meteo.com (CC BY 4.0), collected by "
        "HewlettPackard/sustain-cluster (MIT)",
        "url": "https://github.com/HewlettPackard/sustain-cluster @293fbd152dae",
        "note": "wet bulb derived from temperature and humidity by Stull (2011), then WUE",
    },
    {
        "name": "WUE polynomial and water factors by fuel of WaterWise",
        "licence": "Apache-2.0",
        "attribution": "LukeJYK/PPoPP25_WaterWise (arXiv 2501.17944)",
        "url": "https://github.com/LukeJYK/PPoPP25_WaterWise @b6ce67a7a545",
        "note": "data/source_ci_ewif.json and the polynomial with 3 cycles of concentration",
    },
    {
        "name": "Electricity mix by country, Our World in Data through CodeCarbon",
        "licence": "CC-BY-4.0",
        "attribution": "Our World in Data (CC BY 4.0), in CodeCarbon 3.3.2 (MIT)",
        "url": "https://pypi.org/project/codecarbon/3.3.2",
        "note": "mix of each country times the WaterWise factors: annual EWIF",
    },
    {
        "name": "EcoLogits constants: provider WUE, server power, embodied carbon",
        "licence": "MPL-2.0",
        "attribution": "EcoLogits (GenAI Impact), release 0.11.3",
        "url": "https://pypi.org/project/ecologits/0.11.3",
        "note": "figures only: WUE 0.569 L/kWh, 1.2 kW, 273 kg, 5700 kg, 8 GPUs, 3 years",
    },
    {
        "name": "Azure GreenSKU framework parameters",
        "licence": "CC-BY-4.0",
        "attribution": "Microsoft Azure, AzurePublicDataset (CC BY 4.0)",
        "url": "https://github.com/Azure/AzurePublicDataset @b469a113cedc",
        "note": "analysis/GreenSKU-Framework/data/params.yaml: PUE 1.12",
    },
    {
        "name": "Azure LLM inference traces 2023, conversation and code",
        "licence": "CC-BY-4.0",
        "attribution": "Microsoft Azure, AzurePublicDataset (CC BY 4.0)",
        "url": "https://github.com/Azure/AzurePublicDataset @b469a113cedc",
        "note": "token lengths as 20 bin means",
    },
    {
        "name": "GCP inter-region round-trip times, SMU AT&T Center",
        "licence": "Apache-2.0",
        "attribution": "umassos/decarbonization-potential (Apache-2.0)",
        "url": "https://github.com/umassos/decarbonization-potential @3493a63016bd",
        "note": "shared_data/raw_gcp_latency.csv, eight regions, ms to s",
    },
    {
        "name": "AWS round-trip times, cloudping.co, median of one year to May 2025",
        "licence": "Apache-2.0",
        "attribution": "cloudping.co through oaustegard/oaustegard.github.io (Apache-2.0)",
        "url": "https://github.com/oaustegard/oaustegard.github.io @a6d652c87263",
        "note": "median of the diagonal, the round trip within a region",
    },
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
    {
        "name": "Splitwise performance model",
        "licence": "MIT",
        "attribution": "Mutinifni/splitwise-sim (MIT), Patel et al., ISCA 2024",
        "url": "https://github.com/Mutinifni/splitwise-sim @8f99e7d",
        "note": "data/perf_model.csv: median prefill time by prompt length, llama2-70b, batch 1",
    },
    {
        "name": "Vidur processed traces, arXiv summarisation",
        "licence": "MIT",
        "attribution": "microsoft/vidur (MIT)",
        "url": "https://github.com/microsoft/vidur @7d47513363ec",
        "note": "token lengths as 20 bin means",
    },
    {
        "name": "ServeGen, Alibaba Cloud model serving rates",
        "licence": "Apache-2.0",
        "attribution": "alibaba/ServeGen (Apache-2.0)",
        "url": "https://github.com/alibaba/ServeGen @f891d1189eb3",
        "note": "course of one day of language/m-large",
    },
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
    scales = home_plan_metrics(scaled)
    terms = [{"metric": m, "weight": 1.0, "scale": rounded(scales[m])} for m in METRICS]
    return scaled.replace(objective=({"terms": terms},))


def provenance() -> dict[str, Any]:
    """Provenance of the instance."""
    return {
        "description": "Eight cloud regions on five continents over one real day: "
        "chat, code and summarisation requests on H100 and A100 GPUs, four objectives",
        "builder": "instances/placement/build_quick.py",
        "data_licence": "ODbL-1.0 AND LicenseRef-market-operators",
        "sources": SOURCES,
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
    raw = make_up_wue_l_per_kwh(wet_bulb.to_numpy(), unit="C", cycles_of_concentration=CYCLES)
    operators = pd.read_csv(data / "water/ecologits_provider_pue_wue.csv", index_col="provider")
    mean = float(operators["wue_min_l_per_kwh"].loc[WUE_PROVIDER])
    return pd.DataFrame(scale_to_mean(raw, mean), index=wet_bulb.index)


def pue(data: Path) -> float:
    """Read Azure's PUE from the GreenSKU parameters."""
    lines = (data / "power/greensku/params.yaml").read_text().splitlines()
    return float(next(line for line in lines if line.startswith("PUE:")).split()[1])


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
    gcp = pd.read_csv(data / "latency/gcp_rtt_ms_matrix.csv", index_col="sending_region")
    aws = pd.read_csv(data / "latency/aws_p50_rtt_ms_matrix_2025-05.csv", index_col="from")
    rtt_ms = gcp.loc[places["gcp"], places["gcp"]].to_numpy(dtype=float)
    np.fill_diagonal(rtt_ms, np.median(np.diag(aws.to_numpy())))
    regions = places["aws"].fillna(AWS_TEXAS)
    table = pd.read_csv(data / "prices/network_transfer_usd_per_gb_aws.csv", index_col=0)
    from_to = table.loc[regions, regions].to_numpy(dtype=float)
    return {
        "rtt_s": rounded_all(rtt_ms / 1000),
        "last_mile_s": {"axes": [], "values": LAST_MILE_S},
        "egress_usd_per_gb": from_to.T,  # (origin, site): what the site sends to the origin
    }


# Models, profiles, classes


def service(data: Path) -> dict[str, Any]:
    """Models, GPUs, profiles and classes."""
    profiles = {pair: profile(data, *pair) for pair in TENSOR_PARALLEL}
    constants = ecologits(data)
    per_gpu = constants["SERVER_EMBODIED_IMPACT_GWP"] / constants["SERVER_GPUS"]
    return {
        "models": [
            {
                "name": name,
                "weight_bytes": 2 * m["parameters"],
                "kv_bytes_per_token": kv_bytes_per_token(
                    int(m["layers"]), int(m["kv_heads"]), int(m["head_dimension"])
                ),
            }
            for name, m in MODELS.items()
        ],
        "gpu_types": [
            {
                "name": name,
                "memory_bytes": memory,
                "usable_memory_fraction": 0.9,
                "embodied_kg": constants["GPU_EMBODIED_IMPACT_GWP"] + per_gpu,
                "lifetime_s": constants["HARDWARE_LIFESPAN"],
            }
            for name, memory in MEMORY_BYTES.items()
        ],
        "profiles": [document for document, _ in profiles.values()],
        "classes": [request_class(data, name, profiles) for name in CLASSES],
    }


def ecologits(data: Path) -> dict[str, float]:
    """Read the constants of EcoLogits; a product of numbers is multiplied out."""
    lines = (data / "power/ecologits_llm_constants.txt").read_text().splitlines()
    pairs = (line.partition("#")[0].split("=") for line in lines if "=" in line)
    return {
        name.strip(): float(np.prod([float(factor) for factor in value.split("*")]))
        for name, value in pairs
    }


def profile(data: Path, model: str, mode: str) -> tuple[dict[str, Any], float]:
    """Profile of a model in a mode, and the output tokens of its reference request."""
    kept = measurements(data, model, mode)
    tokens, seconds = prefill_curve(data, model, mode)
    ratios = itl_ratios(data, model)
    constants = ecologits(data)
    gpus = TENSOR_PARALLEL[model, mode]
    levels = [
        {
            "requests_per_s": rounded(rate),
            "power_w": rounded(power_w),
            "itl_s": {name: rounded(itl_s * ratio) for name, ratio in ratios.items()},
            "prefill_s": seconds,
        }
        for rate, power_w, itl_s in kept[["rate", "power_w", "itl_s"]].to_numpy(dtype=float)
    ]
    document = {
        "model": model,
        "mode": mode,
        "gpu_type": MODES[mode]["gpu"],
        "gpus_per_instance": float(gpus),
        "power_boundary": "gpu",
        "host_adder_w": gpus * 1000 * constants["SERVER_POWER"] / constants["SERVER_GPUS"],
        "prefill_tokens": tokens,
        "levels": levels,
    }
    return document, float(kept["out"].mean())


def measurements(data: Path, model: str, mode: str) -> pd.DataFrame:
    """ML.ENERGY's operating points without queueing, dominated ones dropped, by latency."""
    table = pd.read_csv(data / "power/mlenergy_v2_llm.csv").rename(
        columns={
            "Energy/req (J)": "energy_j",
            "Avg TPOT (s)": "itl_s",
            "Token tput (tok/s)": "tokens_per_s",
            "Avg Output Tokens": "out",
            "Avg BS (reqs)": "batch",
        }
    )
    ours = (
        table["Model"].str.endswith(ML_ENERGY[model])
        & (table["GPU"] == MODES[mode]["ml_energy"])
        & (table["TP"] == TENSOR_PARALLEL[model, mode])
        & (table["task"] == "llm_text_generation/chat")
    )
    little = table["batch"] / batch_by_littles_law(table["tokens_per_s"], table["itl_s"])
    kept = table[ours & ((little - 1).abs() <= LITTLE_TOLERANCE)].sort_values("itl_s")
    kept = kept.assign(rate=kept["tokens_per_s"] / kept["out"])
    kept = kept.assign(power_w=kept["energy_j"] * kept["rate"])
    best = kept["rate"].cummax().shift(fill_value=0)
    return pd.DataFrame(kept[kept["rate"] > best])


def itl_ratios(data: Path, model: str) -> dict[str, float]:
    """Percentiles of inter-token latency over its mean, medians over batch sizes on H100."""
    table = pd.read_csv(data / "power/mlenergy_v3_llm.csv")
    ours = table["model_id"].str.endswith(ML_ENERGY[model]) & (table["gpu_model"] == "H100")
    rows = table[ours]
    mean_ms = 1000 * rows["avg_batch_size"] / rows["output_throughput_tokens_per_sec"]
    measured = {"p50": "median", "p90": "p90", "p95": "p95", "p99": "p99"}
    ratios = {p: float((rows[f"{c}_itl_ms"] / mean_ms).median()) for p, c in measured.items()}
    return {"mean": 1.0, **ratios}


def prefill_curve(data: Path, model: str, mode: str) -> tuple[list[float], list[float]]:
    """Prompt lengths and prefill times, s."""
    hardware, parallel = MODES[mode]["prefill"]
    table = pd.read_csv(data / "power/splitwise_perf_model.csv")
    ours = (
        (table["model"] == "llama2-70b")
        & (table["hardware"] == hardware)
        & (table["tensor_parallel"] == parallel)
        & (table["batch_size"] == 1)
    )
    curve = table[ours].groupby("prompt_size")["prompt_time"].median().cummax() / 1000
    work = MODELS[model]["parameters"] / MODELS["llama-3.1-70b"]["parameters"]
    seconds = curve.to_numpy() * work * int(parallel) / TENSOR_PARALLEL[model, mode]
    tokens = [1.0, *(float(n) for n in curve.index)]
    return tokens, [rounded(value) for value in (seconds[0], *seconds)]


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


def bins(lengths: pd.Series) -> Distribution:
    """Token lengths as bins of equal probability at their means."""
    parts = np.array_split(np.sort(lengths.to_numpy(dtype=float)), BINS)
    values = tuple(rounded(part.mean()) for part in parts)
    return Distribution(values=values, probabilities=(1 / BINS,) * BINS)


def work(
    document: Mapping[str, Any], reference_output: float, prompt: Distribution, output: Distribution
) -> float:
    """Work of one request in reference requests: its decoding and its prefill."""
    highest = Level.model_validate(document["levels"][-1])
    times = prefill_s(prompt.values, document["prefill_tokens"], highest.prefill_s)
    prefill_mean_s = float(np.dot(times, prompt.probabilities))
    return output.mean / reference_output + highest.requests_per_s * prefill_mean_s


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


def home_level(instance: PlacementInstance, k: RequestClass, mode: str) -> tuple[Profile, Level]:
    """Profile and highest level on which a class may run at its origin's own site."""
    (p,) = [p for p in instance.profiles if (p.model, p.mode) == (k.model, mode)]
    home_s = float(np.diag(instance.rtt_s).max() + instance.last_mile_s.max())
    fit = [level for level in p.levels if eligible(instance, k, p, level, home_s)]
    return p, fit[-1]


def eligible(
    instance: PlacementInstance, k: RequestClass, p: Profile, level: Level, network_s: float
) -> bool:
    """Whether a class may run at a level, `network_s` away: latency limits and KV memory."""
    (model,) = [m for m in instance.models if m.name == k.model]
    (gpu,) = [g for g in instance.gpu_types if g.name == p.gpu_type]
    tail = float(prefill_s(k.prompt_tokens.statistic("p95"), p.prefill_tokens, level.prefill_s))
    in_time = network_s + tail <= (k.ttft_limit_s or np.inf)
    even = level.itl_s["p95"] <= (k.tbt_limit_s or np.inf)
    residence_s = prefill_mean_s(k, p, level) + k.output_tokens.mean * level.itl_s["mean"]
    rate = level.requests_per_s / k.work_per_request[p.mode]
    tokens = batch_by_littles_law(rate, residence_s) * (k.prompt_tokens.mean + k.output_tokens.mean)
    room = kv_capacity_bytes(
        p.gpus_per_instance, gpu.memory_bytes, gpu.usable_memory_fraction, model.weight_bytes
    )
    return bool(in_time and even and tokens * model.kv_bytes_per_token <= room)


def prefill_mean_s(k: RequestClass, p: Profile, level: Level) -> float:
    """Mean prefill time of a class, s."""
    times = prefill_s(k.prompt_tokens.values, p.prefill_tokens, level.prefill_s)
    return float(np.dot(times, k.prompt_tokens.probabilities))


def gpu_s_per_request(instance: PlacementInstance) -> float:
    """GPU seconds of a mean request when each class runs in the mode it is sized on."""
    total = 0.0
    for k in instance.classes:
        mode = CLASSES[k.name]["sized_on"]
        p, level = home_level(instance, k, mode)
        instance_s = k.work_per_request[mode] / level.requests_per_s
        total += CLASSES[k.name]["share"] * p.gpus_per_instance * instance_s
    return total


def home_plan_metrics(instance: PlacementInstance) -> dict[str, float]:
    """Metrics when every origin is served at home in mode h100 at the highest eligible level."""
    demand = instance.demand_requests
    it_kwh, facility_kwh = np.zeros(demand.shape[:2]), np.zeros(demand.shape[:2])
    ttft_s = egress_usd = 0.0
    network_s = np.diag(instance.rtt_s) + instance.last_mile_s
    for i, k in enumerate(instance.classes):
        p, level = home_level(instance, k, "h100")
        busy_s = demand[:, :, i] * k.work_per_request["h100"] / level.requests_per_s
        powers_w = it_and_facility_power_w(
            level.power_w, p.power_boundary, instance.pue, p.host_adder_w
        )
        it_kwh += energy_kwh(powers_w[0], busy_s)
        facility_kwh += energy_kwh(powers_w[1], busy_s)
        ttft_s += float((demand[:, :, i] * (network_s + prefill_mean_s(k, p, level))).sum())
        gb = demand[:, :, i].sum(axis=0) * k.egress_bytes_per_request / 1e9
        egress_usd += float(gb @ np.diag(instance.egress_usd_per_gb))
    water_l = it_kwh * instance.wue_l_per_kwh + facility_kwh * instance.ewif_l_per_kwh
    energy_usd = facility_kwh * instance.price_usd_per_mwh / 1000
    return {
        "carbon_kg": float(operational_kg(facility_kwh, instance.carbon_g_per_kwh).sum()),
        "water_l": float(water_l.sum()),
        "cost_usd": float(energy_usd.sum()) + egress_usd,
        "ttft_mean_s": ttft_s / float(demand.sum()),
    }


def rounded(value: Any) -> float:
    """Round a number to 6 significant digits."""
    return float(f"{float(value):.6g}")


def rounded_all(values: np.ndarray) -> np.ndarray:
    """Round an array to 6 significant digits."""
    return np.array([rounded(value) for value in values.ravel()]).reshape(values.shape)


if __name__ == "__main__":
    main()
