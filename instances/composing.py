"""What the builders of instances from real series share: measurements, service, reference plan.

Everything here reads the real data beside the repository; `SOURCES` says where it comes from.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from greenopt.datasets import Measurements, read_energy_measurements, read_rtt
from greenopt.physics.carbon import operational_kg
from greenopt.physics.energy import energy_kwh, it_and_facility_power_w
from greenopt.physics.kv_cache import batch_by_littles_law, kv_bytes_per_token
from greenopt.physics.latency import prefill_s
from greenopt.physics.queueing import mean_wait_s
from greenopt.physics.water import make_up_wue_l_per_kwh, scale_to_mean
from greenopt.problems.placement.eligibility import services
from greenopt.problems.placement.instance import Distribution, Level, PlacementInstance, Profile

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
BYTES_PER_TOKEN = 4
BINS = 100
LITTLE_TOLERANCE = 0.2
CYCLES = 3.0
WUE_PROVIDER = "openai"

SOURCES: Mapping[str, Mapping[str, str]] = {
    "weather": {
        "name": "Open-Meteo historical weather 2023 collected by SustainCluster",
        "licence": "CC-BY-4.0",
        "attribution": "Weather data by Open-Meteo.com (CC BY 4.0), collected by "
        "HewlettPackard/sustain-cluster (MIT)",
        "url": "https://github.com/HewlettPackard/sustain-cluster @293fbd152dae",
        "note": "wet bulb derived from temperature and humidity by Stull (2011), then WUE",
    },
    "water": {
        "name": "WUE polynomial and water factors by fuel of WaterWise",
        "licence": "Apache-2.0",
        "attribution": "LukeJYK/PPoPP25_WaterWise (arXiv 2501.17944)",
        "url": "https://github.com/LukeJYK/PPoPP25_WaterWise @b6ce67a7a545",
        "note": "data/source_ci_ewif.json and the polynomial with 3 cycles of concentration",
    },
    "mix": {
        "name": "Electricity mix by country, Our World in Data through CodeCarbon",
        "licence": "CC-BY-4.0",
        "attribution": "Our World in Data (CC BY 4.0), in CodeCarbon 3.3.2 (MIT)",
        "url": "https://pypi.org/project/codecarbon/3.3.2",
        "note": "mix of each country times the WaterWise factors: annual EWIF",
    },
    "ecologits": {
        "name": "EcoLogits constants: provider WUE, server power, embodied carbon",
        "licence": "MPL-2.0",
        "attribution": "EcoLogits (GenAI Impact), release 0.11.3",
        "url": "https://pypi.org/project/ecologits/0.11.3",
        "note": "figures only: WUE 0.569 L/kWh, 1.2 kW, 273 kg, 5700 kg, 8 GPUs, 3 years",
    },
    "greensku": {
        "name": "Azure GreenSKU framework parameters",
        "licence": "CC-BY-4.0",
        "attribution": "Microsoft Azure, AzurePublicDataset (CC BY 4.0)",
        "url": "https://github.com/Azure/AzurePublicDataset @b469a113cedc",
        "note": "analysis/GreenSKU-Framework/data/params.yaml: PUE 1.12",
    },
    "azure traces": {
        "name": "Azure LLM inference traces 2023, conversation and code",
        "licence": "CC-BY-4.0",
        "attribution": "Microsoft Azure, AzurePublicDataset (CC BY 4.0)",
        "url": "https://github.com/Azure/AzurePublicDataset @b469a113cedc",
        "note": "token lengths as 20 bin means",
    },
    "aws latency": {
        "name": "AWS round-trip times, cloudping.co, median of one year to May 2025",
        "licence": "Apache-2.0",
        "attribution": "cloudping.co through oaustegard/oaustegard.github.io (Apache-2.0)",
        "url": "https://github.com/oaustegard/oaustegard.github.io @a6d652c87263",
        "note": "median of the diagonal, the round trip within a region",
    },
    "splitwise": {
        "name": "Splitwise performance model",
        "licence": "MIT",
        "attribution": "Mutinifni/splitwise-sim (MIT), Patel et al., ISCA 2024",
        "url": "https://github.com/Mutinifni/splitwise-sim @8f99e7d",
        "note": "data/perf_model.csv: median prefill time by prompt length, llama2-70b, batch 1",
    },
    "vidur": {
        "name": "Vidur processed traces, arXiv summarisation",
        "licence": "MIT",
        "attribution": "microsoft/vidur (MIT)",
        "url": "https://github.com/microsoft/vidur @7d47513363ec",
        "note": "token lengths as 20 bin means",
    },
    "servegen": {
        "name": "ServeGen, Alibaba Cloud model serving rates",
        "licence": "Apache-2.0",
        "attribution": "alibaba/ServeGen (Apache-2.0)",
        "url": "https://github.com/alibaba/ServeGen @f891d1189eb3",
        "note": "course of one day of language/m-large",
    },
}
"""Sources that more than one builder uses."""


# Constants of files


@cache
def ecologits(data: Path) -> Mapping[str, float]:
    """Read the constants of EcoLogits; a product of numbers is multiplied out."""
    lines = (data / "power/ecologits_llm_constants.txt").read_text().splitlines()
    pairs = (line.partition("#")[0].split("=") for line in lines if "=" in line)
    return {
        name.strip(): float(np.prod([float(factor) for factor in value.split("*")]))
        for name, value in pairs
    }


def pue(data: Path) -> float:
    """Read Azure's PUE from the GreenSKU parameters."""
    lines = (data / "power/greensku/params.yaml").read_text().splitlines()
    return float(next(line for line in lines if line.startswith("PUE:")).split()[1])


def operators_wue_l_per_kwh(data: Path) -> float:
    """Annual mean WUE of the operator, L/kWh."""
    operators = pd.read_csv(data / "water/ecologits_provider_pue_wue.csv", index_col="provider")
    return float(operators["wue_min_l_per_kwh"].loc[WUE_PROVIDER])


def scaled_wue_l_per_kwh(data: Path, wet_bulb_c: np.ndarray) -> np.ndarray:
    """On-site make-up from the wet bulbs of a year and all sites, at the operator's mean."""
    scaled: np.ndarray = scale_to_mean(raw_wue_l_per_kwh(wet_bulb_c), operators_wue_l_per_kwh(data))
    return scaled


def raw_wue_l_per_kwh(wet_bulb_c: np.ndarray) -> np.ndarray:
    """On-site make-up by the wet-bulb polynomial, L/kWh."""
    raw: np.ndarray = make_up_wue_l_per_kwh(wet_bulb_c, unit="C", cycles_of_concentration=CYCLES)
    return raw


def rtt_within_region_s(data: Path) -> float:
    """Round trip within a region: the median of AWS's diagonal, s."""
    aws = read_rtt(data / "latency/aws_p50_rtt_ms_matrix_2025-05.csv")
    return float(np.median(np.diag(aws.seconds)))


# Models, GPUs, profiles, classes


def model_document(
    name: str, *, parameters: float, layers: int, kv_heads: int, head_dimension: int
) -> dict[str, Any]:
    """Model in 2 bytes per parameter and per value of the KV cache."""
    per_token = kv_bytes_per_token(layers, kv_heads, head_dimension)
    return {"name": name, "weight_bytes": 2 * parameters, "kv_bytes_per_token": per_token}


def gpu_document(data: Path, name: str, memory_bytes: float) -> dict[str, Any]:
    """GPU type with its share of the server's embodied carbon."""
    constants = ecologits(data)
    per_gpu = constants["SERVER_EMBODIED_IMPACT_GWP"] / constants["SERVER_GPUS"]
    return {
        "name": name,
        "memory_bytes": memory_bytes,
        "usable_memory_fraction": 0.9,
        "embodied_kg": constants["GPU_EMBODIED_IMPACT_GWP"] + per_gpu,
        "lifetime_s": constants["HARDWARE_LIFESPAN"],
    }


def host_adder_w(data: Path, gpus: float) -> float:
    """Power of the rest of the server for a number of GPUs, W."""
    constants = ecologits(data)
    return gpus * 1000 * constants["SERVER_POWER"] / constants["SERVER_GPUS"]


class OperatingPoints(NamedTuple):
    """Measured operating points of one instance in order of latency, each array over them."""

    requests_per_s: np.ndarray
    power_w: np.ndarray
    itl_s: np.ndarray
    output_tokens: np.ndarray


def operating_points(data: Path, model: str, gpu: str, gpus: int) -> OperatingPoints:
    """ML.ENERGY's chat measurements without queueing, dominated ones dropped, by latency."""
    task = "llm_text_generation/chat"
    ours = measurements(data).select(model=model, gpu=gpu, gpus=gpus, task=task)
    columns = {name: ours.column(name) for name in MEASURED}
    batch, tokens_per_s = ours.column("batch"), ours.column("output_tokens_per_s")
    little = batch / batch_by_littles_law(tokens_per_s, columns["itl_mean_s"])
    kept = np.flatnonzero(np.abs(little - 1) <= LITTLE_TOLERANCE)
    kept = kept[np.argsort(columns["itl_mean_s"][kept], kind="stable")]
    rate = columns["requests_per_s"][kept]
    before = np.concatenate([[0.0], np.maximum.accumulate(rate)[:-1]])
    kept = kept[rate > before]
    return OperatingPoints(*(columns[name][kept] for name in MEASURED))


MEASURED = ("requests_per_s", "power_w", "itl_mean_s", "output_tokens_mean")


@cache
def measurements(data: Path) -> Measurements:
    """ML.ENERGY's measurements, version 2."""
    return read_energy_measurements(data / "power/mlenergy_v2_llm.csv")


def prefill_curve(
    data: Path, hardware: str, gpus: int, factor: float
) -> tuple[list[float], list[float]]:
    """Prompt lengths, and Splitwise's median prefill times of llama2-70b times a factor, s."""
    table = pd.read_csv(data / "power/splitwise_perf_model.csv")
    ours = (
        (table["model"] == "llama2-70b")
        & (table["hardware"] == hardware)
        & (table["tensor_parallel"] == gpus)
        & (table["batch_size"] == 1)
    )
    curve = table[ours].groupby("prompt_size")["prompt_time"].median().cummax() / 1000
    seconds = curve.to_numpy() * factor
    tokens = [1.0, *(float(n) for n in curve.index)]
    return tokens, [rounded(value) for value in (seconds[0], *seconds)]


def levels(
    points: OperatingPoints, itl_ratios: Mapping[str, float], seconds: Sequence[float]
) -> list[dict[str, Any]]:
    """Levels from operating points, statistics of latency as ratios to its mean."""
    return [
        {
            "requests_per_s": rounded(rate),
            "power_w": rounded(power_w),
            "itl_s": {name: rounded(itl_s * ratio) for name, ratio in itl_ratios.items()},
            "prefill_s": seconds,
        }
        for rate, power_w, itl_s, _ in zip(*points, strict=True)
    ]


def bins(lengths: Any) -> Distribution:
    """Token lengths as bins of equal probability at their means."""
    parts = np.array_split(np.sort(np.asarray(lengths, dtype=float)), BINS)
    values = tuple(rounded(part.mean()) for part in parts)
    return Distribution(values=values, probabilities=(1 / BINS,) * BINS)


def work(
    document: Mapping[str, Any], reference_output: float, prompt: Distribution, output: Distribution
) -> float:
    """Work of one request in reference requests: its decoding and its prefill."""
    highest = Level.model_validate(document["levels"][-1])
    prefill_mean_s = mean_prefill_s(prompt, document["prefill_tokens"], highest.prefill_s)
    return output.mean / reference_output + highest.requests_per_s * prefill_mean_s


def mean_prefill_s(
    prompt: Distribution, tokens: Sequence[float], seconds: Sequence[float]
) -> float:
    """Mean prefill time of prompts, s."""
    return float(np.dot(prefill_s(prompt.values, tokens, seconds), prompt.probabilities))


# The reference plan


def home_level(instance: PlacementInstance, k: int, mode: str) -> tuple[Profile, Level]:
    """Profile and highest level on which a class may run at each origin's nearest site."""
    model = instance.classes[k].model
    (own,) = [s for s in services(instance) if (s.profile.model, s.profile.mode) == (model, mode)]
    at_home = own.eligible[list(own.classes).index(k)][:, *home(instance)].all(axis=1)
    return own.profile, own.profile.levels[int(np.flatnonzero(at_home)[-1])]


def home(instance: PlacementInstance) -> tuple[np.ndarray, np.ndarray]:
    """Origins, and the nearest site of each."""
    return np.arange(len(instance.origins)), instance.rtt_s.argmin(axis=1)


def home_plan_metrics(instance: PlacementInstance, mode: str) -> dict[str, float]:
    """Metrics when every origin is served at its nearest site at the highest eligible level."""
    demand, here = instance.demand_requests, home(instance)
    at_site = np.zeros((len(instance.origins), len(instance.sites)))
    at_site[here] = 1.0
    it_kwh, facility_kwh = np.zeros((2, len(demand), len(instance.sites)))
    ttft_s = egress_usd = 0.0
    network_s = instance.rtt_s[here] + instance.last_mile_s
    for i, k in enumerate(instance.classes):
        p, level = home_level(instance, i, mode)
        per_request = k.work_per_request[mode]
        busy_s = demand[:, :, i] @ at_site * per_request / level.requests_per_s
        powers_w = it_and_facility_power_w(
            level.power_w, p.power_boundary, instance.pue, p.host_adder_w
        )
        it_kwh += energy_kwh(powers_w[0], busy_s)
        facility_kwh += energy_kwh(powers_w[1], busy_s)
        serving_s = mean_prefill_s(k.prompt_tokens, p.prefill_tokens, level.prefill_s)
        if p.queue:
            full, service_s = level.requests_per_s * p.queue.service_s, p.queue.service_s
            serving_s += mean_wait_s(
                full, per_request * service_s, p.queue.service_cv2, p.queue.arrival_cv2
            )
        ttft_s += float((demand[:, :, i] * (network_s + serving_s)).sum())
        gb = demand[:, :, i].sum(axis=0) * k.egress_bytes_per_request / 1e9
        egress_usd += float(gb @ instance.egress_usd_per_gb[here])
    water_l = it_kwh * instance.wue_l_per_kwh + facility_kwh * instance.ewif_l_per_kwh
    energy_usd = facility_kwh * instance.price_usd_per_mwh / 1000
    return {
        "carbon_kg": float(operational_kg(facility_kwh, instance.carbon_g_per_kwh).sum()),
        "water_l": float(water_l.sum()),
        "cost_usd": float(energy_usd.sum()) + egress_usd,
        "ttft_mean_s": ttft_s / float(demand.sum()),
    }


def weighted(scales: Mapping[str, float]) -> tuple[dict[str, Any], ...]:
    """Objective of equally weighted metrics, each over its scale."""
    terms = [{"metric": m, "weight": 1.0, "scale": rounded(v)} for m, v in scales.items()]
    return ({"terms": terms},)


def rounded(value: Any) -> float:
    """Round a number to 6 significant digits."""
    return float(f"{float(value):.6g}")


def rounded_all(values: np.ndarray) -> np.ndarray:
    """Round an array to 6 significant digits."""
    return np.array([rounded(value) for value in values.ravel()]).reshape(values.shape)
