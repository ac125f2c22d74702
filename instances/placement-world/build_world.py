"""Build placement instances of the size of the world: 15 sites, days or weeks of real series.

    python instances/placement-world/build_world.py
    python instances/placement-world/build_world.py --type world-day --date 2022-11-08 --out DIR
    python instances/placement-world/build_world.py --type world-day-budgets --family --out DIR

Without a type the committed files are written again. `build` makes one instance in memory. Every
choice that is not a figure of a source is told by `RULES`, `rules_of_choices` and `rules_of_kind`,
and goes into the instance.
"""

from __future__ import annotations

import argparse
import datetime as dt
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple
from zoneinfo import ZoneInfo

import numpy as np
import pandas as pd
import scipy.sparse as sp
from scipy.optimize import linprog

import greenopt as go
from greenopt.datasets import (
    Trace,
    read_azure_trace,
    read_carbon,
    read_prices,
    read_rtt,
    read_servegen_rates,
    read_trace,
    read_wet_bulb,
)
from greenopt.errors import GreenoptError, InputError, Problem
from greenopt.physics.energy import S_PER_H
from greenopt.physics.latency import prefill_s
from greenopt.problems.placement.eligibility import services
from greenopt.problems.placement.instance import Distribution, PlacementInstance

HERE = Path(__file__).resolve().parent
sys.path += [str(HERE), str(HERE.parent)]

from composing import (  # noqa: E402
    BYTES_PER_TOKEN,
    CYCLES,
    DATA,
    bins,
    gpu_document,
    home_plan_metrics,
    host_adder_w,
    levels,
    mean_prefill_s,
    model_document,
    operating_points,
    prefill_curve,
    pue,
    raw_wue_l_per_kwh,
    rounded,
    rounded_all,
    rtt_within_region_s,
    scaled_wue_l_per_kwh,
    weighted,
    work,
)
from world_rules import COMMON_SOURCES, LAST_MILE_S, REN_SOURCE, RULES  # noqa: E402


class Choices(NamedTuple):
    """What can be chosen about an instance of any kind."""

    date: str = "2023-07-18"
    utilisation: float = 0.5
    step_min: int = 15
    ewif: str = "waterwise"
    wue: str = "scaled"
    embodied: str = "installed"


class Kind(NamedTuple):
    """What sets a type of instance apart."""

    what: str
    days: int = 1
    origins: int = 15
    budgets: bool = False


KINDS: Mapping[str, Kind] = {
    "world-day": Kind("four equally weighted metrics"),
    "world-day-budgets": Kind("cost under budgets on carbon, water and TTFT", budgets=True),
    "world-day-30-budgets": Kind(
        "cost under budgets on carbon, water and TTFT", origins=30, budgets=True
    ),
    "world-day-integer": Kind("four equally weighted metrics, whole instances held for an hour"),
    "world-day-deferrable": Kind("four equally weighted metrics, summaries may wait six hours"),
    "world-day-equity": Kind("cost and the largest site totals of carbon and water"),
    "world-day-residency": Kind("four equally weighted metrics, requests bound to jurisdictions"),
    "world-week": Kind("four equally weighted metrics", days=7, origins=30),
    "world-week-budgets": Kind(
        "cost under budgets on carbon, water and TTFT", days=7, origins=30, budgets=True
    ),
}
DEFAULT = Choices()
FAMILY_DATES = (
    "2022-02-15",
    "2022-04-12",
    "2022-06-14",
    "2022-08-16",
    "2022-10-18",
    "2022-12-13",
    "2023-02-14",
    "2023-04-18",
    "2023-07-18",
    "2023-10-17",
)
FAMILY_UTILISATIONS = (0.3, 0.5, 0.7)
STEPS_MIN = (15, 60)
EMBODIED = ("installed", "running")
SERIES_BEGIN = dt.date(2022, 1, 1)
FIRST_DAY, LAST_DAY = dt.date(2022, 1, 22), dt.date(2023, 12, 31)


class Place(NamedTuple):
    """Where requests come from."""

    azure: str
    zone: str
    weight: float


ORIGINS: Mapping[str, Place] = {
    "Virginia": Place("East US", "America/New_York", 5),
    "California": Place("West US", "America/Los_Angeles", 4),
    "Texas": Place("South Central US", "America/Chicago", 4),
    "Ontario": Place("Canada Central", "America/Toronto", 2),
    "Sao Paulo": Place("Brazil South", "America/Sao_Paulo", 3),
    "London": Place("UK South", "Europe/London", 3),
    "Paris": Place("France Central", "Europe/Paris", 2),
    "Frankfurt": Place("Germany West Central", "Europe/Berlin", 3),
    "Mumbai": Place("Central India", "Asia/Kolkata", 5),
    "Tokyo": Place("Japan East", "Asia/Tokyo", 5),
    "Seoul": Place("Korea Central", "Asia/Seoul", 3),
    "Singapore": Place("Southeast Asia", "Asia/Singapore", 2),
    "Sydney": Place("Australia East", "Australia/Sydney", 2),
    "Melbourne": Place("Australia Southeast", "Australia/Melbourne", 1),
    "Johannesburg": Place("South Africa North", "Africa/Johannesburg", 1),
    "Chicago": Place("North Central US", "America/Chicago", 3),
    "Seattle": Place("West US 2", "America/Los_Angeles", 2),
    "Mexico City": Place("Mexico Central", "America/Mexico_City", 2),
    "Dublin": Place("North Europe", "Europe/Dublin", 1),
    "Amsterdam": Place("West Europe", "Europe/Amsterdam", 2),
    "Milan": Place("Italy North", "Europe/Rome", 2),
    "Zurich": Place("Switzerland North", "Europe/Zurich", 1),
    "Stockholm": Place("Sweden Central", "Europe/Stockholm", 1),
    "Warsaw": Place("Poland Central", "Europe/Warsaw", 1),
    "Dubai": Place("UAE North", "Asia/Dubai", 1),
    "Tel Aviv": Place("Israel Central", "Asia/Jerusalem", 1),
    "Hong Kong": Place("East Asia", "Asia/Hong_Kong", 2),
    "Osaka": Place("Japan West", "Asia/Tokyo", 2),
    "Chennai": Place("South India", "Asia/Kolkata", 3),
    "Auckland": Place("New Zealand North", "Pacific/Auckland", 1),
}
"""Azure region, time zone and weight in the demand (ours) of each origin; sites come first."""
GPUS = {
    "Virginia": (96, 320),
    "California": (64, 256),
    "Texas": (64, 256),
    "Ontario": (32, 128),
    "Sao Paulo": (24, 128),
    "London": (48, 192),
    "Paris": (40, 160),
    "Frankfurt": (48, 192),
    "Mumbai": (80, 320),
    "Tokyo": (64, 256),
    "Seoul": (32, 160),
    "Singapore": (32, 160),
    "Sydney": (24, 128),
    "Melbourne": (16, 96),
    "Johannesburg": (16, 96),
}
"""H100 and A100 GPUs at each site (ours)."""
SITES = tuple(GPUS)
MEAN_OF = {"Paris": ("London", "Frankfurt")}
"""Sites without weather in the data, and those whose mean wet bulb stands there (ours)."""
JURISDICTIONS = (
    ("London", "Paris", "Frankfurt"),
    ("Mumbai",),
    ("Sydney", "Melbourne"),
)
"""Origins of each are served at its sites only (ours)."""
EGRESS_LIKE = {"UK South": "West Europe"}
"""Regions that the price table lacks, and those whose row stands there."""
LEAST_WORTH = 1e-6
LONGEST_PROMPT = 8192
RATE_STEP_S = 600.0
S_PER_DAY = 24 * S_PER_H

MODELS: dict[str, dict[str, Any]] = {
    "gemma-2-27b": {"parameters": 27.2e9, "layers": 46, "kv_heads": 16, "head_dimension": 128},
    "gemma-2-9b": {"parameters": 9.24e9, "layers": 42, "kv_heads": 8, "head_dimension": 256},
}
ML_ENERGY = {"gemma-2-27b": "google/gemma-2-27b-it", "gemma-2-9b": "google/gemma-2-9b-it"}
LLAMA_2_70B = 70e9


class Gpu(NamedTuple):
    """A GPU type: memory and idle power (Splitwise), names in other sources."""

    memory_bytes: float
    idle_w: float
    ml_energy: str
    splitwise: str


GPU_TYPES = {
    "H100-80GB": Gpu(85899345920, 75, "NVIDIA H100 80GB HBM3", "h100-80gb"),
    "A100-40GB": Gpu(42949672960, 63, "NVIDIA A100-SXM4-40GB", "a100-80gb"),
}


class Serving(NamedTuple):
    """Hardware of a model in a mode."""

    gpu_type: str
    gpus: int
    curve_gpus: int


PROFILES = {
    ("gemma-2-27b", "h100"): Serving("H100-80GB", 2, 2),
    ("gemma-2-27b", "a100"): Serving("A100-40GB", 2, 2),
    ("gemma-2-27b", "a100-wide"): Serving("A100-40GB", 4, 4),
    ("gemma-2-9b", "h100"): Serving("H100-80GB", 1, 2),
    ("gemma-2-9b", "a100"): Serving("A100-40GB", 1, 2),
    ("gemma-2-9b", "a100-wide"): Serving("A100-40GB", 2, 2),
}
"""GPU type, GPUs of an instance, and GPUs of the prefill curve it is taken from."""
MODES = ("h100", "a100", "a100-wide")


class Class(NamedTuple):
    """A request class: model, share of requests, limits, lengths, course of demand."""

    model: str
    share: float
    ttft_limit_s: float
    tbt_limit_s: float
    trace: str
    columns: tuple[str, str] | None
    course: str


CLASSES = {
    "chat": Class(
        "gemma-2-27b",
        0.6,
        2.0,
        0.2,
        "AzureLLMInferenceTrace_conv_2023.csv.gz",
        None,
        "language/m-small",
    ),
    "summarise": Class(
        "gemma-2-9b",
        0.4,
        5.0,
        0.3,
        "vidur_arxiv_summarization_lengths.csv.gz",
        ("num_prefill_tokens", "num_decode_tokens"),
        "language/m-large",
    ),
}
COURSE_DAYS = {1: (6, 7), 7: (0, 7)}
"""First and end of the days of the course of demand, counted from 0, by days of the instance."""
DEFERRAL_LIMIT_S = 6.0 * S_PER_H
EQUITY_USD = {"water_l": 60 / 1000, "carbon_kg": 1500 / 1000}
BUDGETED = ("carbon_kg", "water_l", "ttft_mean_s")
CHEAPEST = {"cost_usd": 1.0, "ttft_request_s": 1e-7}
"""Weights of the plan of least cost; among plans of equal cost the fastest counts."""
OVER_PERIODS = (
    "gpus",
    "carbon_g_per_kwh",
    "price_usd_per_mwh",
    "pue",
    "wue_l_per_kwh",
    "ewif_l_per_kwh",
)

EWIF = {
    "waterwise": (
        "ewif_annual_owid",
        "WaterWise factors (hydro 17 L/kWh) on the annual mix of Our World in Data",
    ),
    "ren": (
        "ewif_annual_ren",
        "Ren factors (hydro 0 L/kWh) on the annual mix of Our World in Data",
    ),
}


def build(
    kind: str,
    *,
    date: str = DEFAULT.date,
    utilisation: float = DEFAULT.utilisation,
    step_min: int = DEFAULT.step_min,
    ewif: str = DEFAULT.ewif,
    wue: str = DEFAULT.wue,
    embodied: str = DEFAULT.embodied,
    data: Path = DATA,
) -> PlacementInstance:
    """Build one instance.

    Parameters
    ----------
    kind : str
        One of `KINDS`.
    date : str
        First UTC day, ``YYYY-MM-DD``, from 2022-01-22; the last day is 2023-12-31.
    utilisation : float
        Demand of the busiest period over the most that all GPUs together could serve of it, above
        0 and at most 1. Beyond 0.7 not every kind is feasible.
    step_min : {15, 60}
        Length of a period, min.
    ewif : {"waterwise", "ren"}
        Factor set of the water in electricity.
    wue : {"scaled", "raw"}
        On-site water scaled to an operator's mean, or as the polynomial gives it.
    embodied : {"installed", "running"}
        Embodied carbon of installed GPUs (reported) or charged to running ones.
    data : Path
        Folder of the real data.

    Raises
    ------
    InputError
        If a choice is none of these, or a series is incomplete on the days.
    """
    choices = Choices(date, utilisation, step_min, ewif, wue, embodied)
    refuse_unknown(kind, choices)
    chosen = KINDS[kind]
    window = Window(first_day(date, chosen.days), chosen.days, step_min)
    origins = tuple(ORIGINS)[: chosen.origins]
    offered = usable_service(data)
    draft = PlacementInstance.parse(
        {
            **frame(data, window, origins, choices),
            **offered,
            "name": name(kind, choices),
            "provenance": provenance(kind, window, choices),
            "embodied_charge": embodied,
            "demand_requests": demand_requests(data, window, origins, utilisation),
            **special_fields(kind, window, origins, offered),
        },
        kind,
    )
    if chosen.budgets:
        return draft.replace(budgets=budgets(draft))
    if kind == "world-day-equity":
        return draft.replace(objective=equity())
    return draft.replace(objective=weighted(home_plan_metrics(draft, "h100")))


def refuse_unknown(kind: str, choices: Choices) -> None:
    """Refuse what the builder does not know, all at once."""
    known = {
        "kind": (kind, [*KINDS]),
        "step_min": (choices.step_min, STEPS_MIN),
        "ewif": (choices.ewif, [*EWIF]),
        "wue": (choices.wue, [*WUE_BASIS]),
        "embodied": (choices.embodied, EMBODIED),
    }
    problems = [
        Problem(field, f"is {value!r}, expected one of {options}")
        for field, (value, options) in known.items()
        if value not in options
    ]
    if not 0 < choices.utilisation <= 1:
        text = f"is {choices.utilisation!r}, expected a number above 0 and at most 1"
        problems.append(Problem("utilisation", text))
    if problems:
        raise InputError("build_world", problems)


def frame(data: Path, window: Window, origins: Sequence[str], choices: Choices) -> dict[str, Any]:
    """What all kinds have in common beside service, demand and objective."""
    return {
        "problem": "placement",
        "schema_version": 1,
        "name": "draft",
        "provenance": provenance("world-day", window, choices),
        "periods": {"start": window.starts, "duration_s": [window.step_s] * window.count},
        "origins": origins,
        "sites": SITES,
        "modes": MODES,
        **grid(data, window, choices),
        **network(data, origins),
        "locations": locations(data, origins),
        "demand_requests": {"axes": [], "values": 1.0},
        "gpus": {
            "axes": ["site", "gpu_type"],
            "values": [[*map(float, counts)] for counts in GPUS.values()],
        },
        "objective": ({"terms": [{"metric": "cost_usd", "weight": 1.0}]},),
    }


def name(kind: str, choices: Choices) -> str:
    """Name of an instance: its kind, and the choices that are not the default."""
    words = Choices("{}", "u{}", "{}min", "{}", "{}", "{}")
    shown = [
        str(word).format(choice)
        for word, choice, default in zip(words, choices, DEFAULT, strict=True)
        if choice != default
    ]
    return "-".join([kind, *shown])


def special_fields(
    kind: str, window: Window, origins: Sequence[str], offered: Mapping[str, Any]
) -> dict[str, Any]:
    """Fields that set a kind apart, beside its objective and budgets."""
    if kind == "world-day-integer":
        resting = [with_idle_level(profile) for profile in offered["profiles"]]
        blocks = [window.per_hour] * 24
        return {"profiles": resting, "instance_counts": "integer", "hold_periods": blocks}
    if kind == "world-day-deferrable":
        chat, summarise = offered["classes"]
        return {"classes": [chat, {**summarise, "deferral_limit_s": DEFERRAL_LIMIT_S}]}
    if kind == "world-day-residency":
        mask = [[may_serve(origin, site) for site in SITES] for origin in origins]
        return {"reachable": {"axes": ["origin", "site"], "values": mask}}
    return {}


def with_idle_level(profile: Mapping[str, Any]) -> dict[str, Any]:
    """Profile whose instances may also stand by, at the latencies of the lowest level."""
    power_w = profile["gpus_per_instance"] * GPU_TYPES[profile["gpu_type"]].idle_w
    resting = {**profile["levels"][0], "requests_per_s": 0.0, "power_w": power_w}
    return {**profile, "levels": [resting, *profile["levels"]]}


def may_serve(origin: str, site: str) -> bool:
    """Whether a site may serve an origin: those of a jurisdiction are served within it."""
    return all(site in group for group in JURISDICTIONS if origin in group)


def equity() -> tuple[dict[str, Any], ...]:
    """Cost, and prices on the largest site totals of carbon and water."""
    terms: list[dict[str, Any]] = [{"metric": "cost_usd", "weight": 1.0}]
    terms += [
        {"metric": metric, "weight": price, "over_sites": "max"}
        for metric, price in EQUITY_USD.items()
    ]
    return ({"terms": terms},)


# Time


class Window(NamedTuple):
    """Consecutive UTC days in periods of equal length."""

    first: dt.date
    days: int
    step_min: int

    @property
    def step_s(self) -> int:
        """Length of a period, s."""
        return 60 * self.step_min

    @property
    def per_hour(self) -> int:
        """Periods in an hour."""
        return 60 // self.step_min

    @property
    def count(self) -> int:
        """Number of periods."""
        return self.days * 24 * self.per_hour

    @property
    def midnight(self) -> datetime:
        """Start of the first day."""
        return datetime(self.first.year, self.first.month, self.first.day, tzinfo=UTC)

    @property
    def begins(self) -> list[datetime]:
        """Start of every period."""
        return [self.midnight + timedelta(minutes=self.step_min * i) for i in range(self.count)]

    @property
    def starts(self) -> list[str]:
        """Start of every period as the instance has it."""
        return [f"{begin:%Y-%m-%dT%H:%MZ}" for begin in self.begins]

    @property
    def hours(self) -> list[str]:
        """Start of every hour as the series have it."""
        return [f"{begin:%Y-%m-%dT%H:%MZ}" for begin in self.begins if begin.minute == 0]


def first_day(text: str, days: int) -> dt.date:
    """Read a date and check that the days from it lie where all series exist."""
    try:
        day = dt.date.fromisoformat(text)
    except ValueError:
        raise InputError("date", [Problem(text, "is no date; expected YYYY-MM-DD")]) from None
    if day < FIRST_DAY or day + timedelta(days=days - 1) > LAST_DAY:
        expected = f"expected {days} days within {FIRST_DAY} to {LAST_DAY}"
        why = "GB prices begin on 2022-01-21T23:00Z and FR carbon ends with 2023"
        raise InputError("date", [Problem(text, f"{expected}: {why}")])
    return day


# Grid, weather, network


@cache
def places(data: Path) -> pd.DataFrame:
    """Grid, price and weather zones of the sites."""
    return pd.read_csv(data / "site_crosswalk.csv", index_col="site").loc[list(SITES)]


def grid(data: Path, window: Window, choices: Choices) -> dict[str, Any]:
    """Carbon, price, water and PUE of the sites; what is hourly is held over its periods."""
    column, factors = EWIF[choices.ewif]
    ewif_l_per_kwh = [rounded(value) for value in places(data)[column]]
    return {
        "carbon_signal": {
            "kind": "average",
            "scope": "life-cycle",
            "basis": "consumption",
            "provider": "Electricity Maps",
            "year": window.first.year,
        },
        "carbon_g_per_kwh": carbon(data).held(window),
        "price_basis": "wholesale",
        "price_usd_per_mwh": price(data).held(window),
        "pue": {"axes": [], "values": pue(data)},
        "wue_basis": WUE_BASIS[choices.wue],
        "wue_l_per_kwh": on_site_water(data, choices.wue).held(window),
        "cycles_of_concentration": {"axes": [], "values": CYCLES},
        "ewif_set": factors,
        "ewif_l_per_kwh": {"axes": ["site"], "values": ewif_l_per_kwh},
    }


WUE_BASIS = {
    "scaled": {
        "kind": "scaled to annual mean",
        "note": "mean over 2022, 2023 and the 15 sites 0.569 L/kWh (EcoLogits 0.11.3, OpenAI)",
    },
    "raw": {"kind": "raw polynomial", "note": "wet-bulb polynomial at 3 cycles, floor 0"},
}


class Hourly(NamedTuple):
    """Hourly series of the sites from the beginning of 2022 to the end of 2023."""

    what: str
    columns: Sequence[str]
    values: np.ndarray

    def held(self, window: Window) -> np.ndarray:
        """Values of the window's hours, each held over its periods.

        Raises
        ------
        InputError
            With every column that misses an hour.
        """
        begin = (window.first - SERIES_BEGIN).days * 24
        values = self.values[begin : begin + 24 * window.days]
        lacking = {
            column: [window.hours[i] for i in np.flatnonzero(gaps)]
            for column, gaps in zip(self.columns, np.isnan(values).T, strict=True)
            if gaps.any()
        }
        if lacking:
            problems = [
                Problem(column, f"lacks {len(hours)} hours from {hours[0]} to {hours[-1]}")
                for column, hours in lacking.items()
            ]
            raise InputError(self.what, problems)
        return np.repeat(rounded_all(values), window.per_hour, axis=0)


@cache
def carbon(data: Path) -> Hourly:
    """Carbon intensity of the sites, g CO2e/kWh."""
    zones = [*places(data)["em_zone"]]
    files = [data / f"carbon/em_ci_lca_g_per_kwh_{year}.csv.gz" for year in (2022, 2023)]
    read = [read_carbon(path, columns=zones, missing="allow").values for path in files]
    return Hourly("carbon intensity", zones, np.vstack(read))


@cache
def price(data: Path) -> Hourly:
    """Electricity price of the sites, USD/MWh."""
    zones = [*places(data)["price_zone"]]
    files = [data / f"prices/price_usd_per_mwh_{year}.csv.gz" for year in (2022, 2023)]
    read = [read_prices(path, columns=zones, missing="allow").values for path in files]
    return Hourly("electricity price", zones, np.vstack(read))


@cache
def on_site_water(data: Path, wue: str) -> Hourly:
    """On-site make-up of the sites, L/kWh, from the wet bulb at each or nearby."""
    zones = places(data)["weather_openmeteo"].dropna()
    read = read_wet_bulb(
        data / "water/wetbulb_c_openmeteo_16zones_2021_2024.csv.gz",
        columns=[*zones],
        missing="allow",
        start="2022-01-01T00:00Z",
        end="2024-01-01T00:00Z",
    )
    near = [[zones[name] for name in MEAN_OF.get(site, (site,))] for site in SITES]
    wet_bulb_c = np.stack([read.select(names).values.mean(axis=1) for names in near], axis=1)
    convert = {"scaled": partial(scaled_wue_l_per_kwh, data), "raw": raw_wue_l_per_kwh}[wue]
    return Hourly("wet bulb", SITES, convert(wet_bulb_c))


def network(data: Path, origins: Sequence[str]) -> dict[str, Any]:
    """Round trips and transfer prices between the regions."""
    here, there = ([ORIGINS[name].azure for name in names] for names in (origins, SITES))
    azure = read_rtt(data / "latency/azure_p50_rtt_ms_matrix.csv", missing="allow")
    rtt_s = azure.select(here, there).seconds.copy()
    np.fill_diagonal(rtt_s, rtt_within_region_s(data))
    table = pd.read_csv(data / "prices/network_transfer_usd_per_gb_azure.csv", index_col=0)
    usd = [[egress_usd_per_gb(table, site, origin) for site in there] for origin in here]
    return {
        "rtt_s": rounded_all(rtt_s),
        "last_mile_s": {"axes": [], "values": LAST_MILE_S},
        "egress_usd_per_gb": usd,
    }


def locations(data: Path, origins: Sequence[str]) -> dict[str, Any]:
    """Coordinates of the Azure region of each place, for maps."""
    table = pd.read_csv(data / "latency" / "azure_region_coords.csv").set_index("displayName")
    at = table.loc[[ORIGINS[origin].azure for origin in origins], ["lat", "lon"]].to_numpy()
    return {
        origin: {"latitude_deg": float(lat), "longitude_deg": float(lon)}
        for origin, (lat, lon) in zip(origins, at, strict=True)
    }


def egress_usd_per_gb(table: pd.DataFrame, sender: str, receiver: str) -> float:
    """List price of a GB between regions; one that is not listed is the sender's most common."""
    if sender == receiver:
        return 0.0
    row = table.loc[EGRESS_LIKE.get(sender, sender)]
    listed = float(row.get(receiver, 0.0))
    return listed or float(row.mode().iloc[0])


# Models, profiles, classes


@cache
def usable_service(data: Path) -> dict[str, Any]:
    """Models, GPUs, classes, and profiles with the levels that all may use everywhere."""
    measured = service(data)
    window = Window(dt.date.fromisoformat(DEFAULT.date), 1, 60)
    draft = {**frame(data, window, tuple(ORIGINS), DEFAULT), **measured}
    profiles = [
        {**profile, "levels": [profile["levels"][i] for i in np.flatnonzero(usable)]}
        for profile, one in zip(
            measured["profiles"], services(PlacementInstance.parse(draft, "draft")), strict=True
        )
        for usable in one.eligible.all(axis=(2, 3))
    ]
    return {**measured, "profiles": profiles}


def service(data: Path) -> dict[str, Any]:
    """Models, GPUs, profiles with all measured levels, and classes."""
    lengths = {name: token_lengths(data, chosen) for name, chosen in CLASSES.items()}
    profiles, works = {}, {}
    for name, chosen in CLASSES.items():
        for mode in MODES:
            profiles[chosen.model, mode], works[name, mode] = profile(
                data, chosen.model, mode, *lengths[name]
            )
    return {
        "models": [model_document(model, **figures) for model, figures in MODELS.items()],
        "gpu_types": [
            gpu_document(data, gpu, figures.memory_bytes) for gpu, figures in GPU_TYPES.items()
        ],
        "profiles": [*profiles.values()],
        "classes": [
            request_class(name, *lengths[name], {mode: works[name, mode] for mode in MODES})
            for name in CLASSES
        ],
    }


def token_lengths(data: Path, chosen: Class) -> tuple[Distribution, Distribution]:
    """Prompt and output lengths of a class from its trace."""
    requests = trace(data, chosen)
    short = requests.prompt_tokens <= LONGEST_PROMPT
    return bins(requests.prompt_tokens[short]), bins(requests.output_tokens[short])


@cache
def trace(data: Path, chosen: Class) -> Trace:
    """Trace of a class."""
    path = data / "traces" / chosen.trace
    if chosen.columns is None:
        return read_azure_trace(path)
    prompt, output = chosen.columns
    return read_trace(path, time=None, prompt_tokens=prompt, output_tokens=output)


def profile(
    data: Path, model: str, mode: str, prompt: Distribution, output: Distribution
) -> tuple[dict[str, Any], float]:
    """Profile of a model in a mode with its queue, and the work of a request of its class."""
    hardware = PROFILES[model, mode]
    gpu = GPU_TYPES[hardware.gpu_type]
    points = operating_points(data, ML_ENERGY[model], gpu.ml_energy, hardware.gpus)
    size = MODELS[model]["parameters"] / LLAMA_2_70B
    fewer = hardware.curve_gpus / hardware.gpus
    tokens, seconds = prefill_curve(data, gpu.splitwise, hardware.curve_gpus, size * fewer)
    document = {
        "model": model,
        "mode": mode,
        "gpu_type": hardware.gpu_type,
        "gpus_per_instance": float(hardware.gpus),
        "power_boundary": "gpu",
        "host_adder_w": host_adder_w(data, hardware.gpus),
        "prefill_tokens": tokens,
        "levels": levels(points, {"mean": 1.0}, seconds),
    }
    per_request = rounded(work(document, float(points.output_tokens.mean()), prompt, output))
    mean_s = mean_prefill_s(prompt, tokens, seconds)
    times_s = prefill_s(prompt.values, tokens, seconds)
    document["queue"] = {
        "service_s": rounded(mean_s / per_request),
        "service_cv2": rounded(np.dot(times_s**2, prompt.probabilities) / mean_s**2 - 1),
        "arrival_cv2": rounded(trace(data, CLASSES["chat"]).interarrival_cv2()),
    }
    return document, per_request


def request_class(
    name: str, prompt: Distribution, output: Distribution, per_request: Mapping[str, float]
) -> dict[str, Any]:
    """Request class: lengths, work in reference requests, limits."""
    chosen = CLASSES[name]
    return {
        "name": name,
        "model": chosen.model,
        "prompt_tokens": prompt.model_dump(),
        "output_tokens": output.model_dump(),
        "work_per_request": per_request,
        "egress_bytes_per_request": rounded(BYTES_PER_TOKEN * output.mean),
        "ttft_limit_s": chosen.ttft_limit_s,
        "ttft_statistic": "p95",
        "tbt_limit_s": chosen.tbt_limit_s,
        "tbt_statistic": "mean",
    }


# Demand


def demand_requests(
    data: Path, window: Window, origins: Sequence[str], utilisation: float
) -> np.ndarray:
    """Whole requests by period, origin and class; the busiest period has the utilisation."""
    weights = np.array([ORIGINS[name].weight for name in origins])
    shape = np.stack(
        [
            chosen.share * weights * course(data, chosen.course, window, origins)
            for chosen in CLASSES.values()
        ],
        axis=2,
    )
    most = busy_share(data, shape.sum(axis=1)).max()
    return np.round(shape * window.step_s * utilisation / most)


def course(data: Path, model: str, window: Window, origins: Sequence[str]) -> np.ndarray:
    """Rate by period and origin at the origin's local time, relative to the mean of the course."""
    rate = rates(data, model, *COURSE_DAYS[window.days])
    cycle_s = RATE_STEP_S * len(rate)
    until = np.concatenate([[0.0], np.cumsum(rate / rate.mean())]) * RATE_STEP_S
    begin = np.array(
        [[local_s(moment, window, name) for name in origins] for moment in window.begins]
    )

    def served(time_s: np.ndarray) -> np.ndarray:
        rounds, rest = np.divmod(time_s, cycle_s)
        return rounds * cycle_s + np.interp(rest, np.arange(len(until)) * RATE_STEP_S, until)

    relative: np.ndarray = (served(begin + window.step_s) - served(begin)) / window.step_s
    return relative


def local_s(moment: datetime, window: Window, origin: str) -> float:
    """Local time at an origin, in seconds from midnight of the window's first date."""
    offset = moment.astimezone(ZoneInfo(ORIGINS[origin].zone)).utcoffset()
    return (moment - window.midnight + (offset or timedelta())).total_seconds()


@cache
def rates(data: Path, model: str, first: int, end: int) -> np.ndarray:
    """Rates of a model on some days of the trace, by 10 minutes."""
    table = read_servegen_rates(data / "traces/servegen_rate_10min.csv.gz")
    begin_s, rate = table.of(model)
    rate = rate[(begin_s >= first * S_PER_DAY) & (begin_s < end * S_PER_DAY)]
    if np.isnan(rate).any():
        raise InputError(table.source, [Problem(model, f"has an outage in days {first} to {end}")])
    return rate


def busy_share(data: Path, per_s: np.ndarray) -> np.ndarray:
    """Least share of all GPUs, all sites as one, that serves requests/s by period and class."""
    offered = usable_service(data)
    profiles = {(profile["model"], profile["mode"]): profile for profile in offered["profiles"]}
    use = np.zeros((len(GPU_TYPES), len(CLASSES), len(MODES)))  # GPU seconds of a request
    for i, k in enumerate(offered["classes"]):
        for j, mode in enumerate(MODES):
            own = profiles[k["model"], mode]
            busy_s = k["work_per_request"][mode] / own["levels"][-1]["requests_per_s"]
            use[[*GPU_TYPES].index(own["gpu_type"]), i, j] = own["gpus_per_instance"] * busy_s
    gpus = np.sum([*GPUS.values()], axis=0)
    fit = np.column_stack([use.reshape(len(gpus), -1), -gpus])
    serve = np.kron(np.eye(len(CLASSES)), np.ones(len(MODES)))
    serve = np.column_stack([serve, np.zeros(len(CLASSES))])
    each = sp.eye_array(len(per_s))
    cost = np.zeros((len(per_s), fit.shape[1]))
    cost[:, -1] = 1.0
    found = linprog(
        cost.ravel(),
        sp.kron(each, fit),
        np.zeros(len(per_s) * len(gpus)),
        sp.kron(each, serve),
        per_s.ravel(),
    )
    share: np.ndarray = found.x.reshape(cost.shape)[:, -1]
    return share


# Budgets


def budgets(instance: PlacementInstance) -> tuple[dict[str, Any], ...]:
    """Limits of every day, together; found on the day in hours, the same up to peaks within one."""
    days = each_day_in_hours(instance)
    requests = [float(day.demand_requests.sum()) for day in days]
    limits = np.array([day_limits(day) for day in days])
    together = (limits[:, 0].sum(), limits[:, 1].sum(), np.average(limits[:, 2], weights=requests))
    return limited(dict(zip(BUDGETED, together, strict=True)))


def day_limits(day: PlacementInstance) -> tuple[float, ...]:
    """Limits on carbon, water and TTFT that all raise the least cost.

    Those of carbon and water are half way from the least that can be reached to what the plan of
    least cost has; the one of TTFT is half way between the same, both under the former limits.
    """
    cheapest = optimum(day, CHEAPEST)
    limits = {
        metric: (optimum(day, {metric: 1.0})[metric] + cheapest[metric]) / 2
        for metric in ("carbon_kg", "water_l")
    }
    bound = day.replace(budgets=limited(limits))
    fastest, slow = (optimum(bound, weights) for weights in ({"ttft_mean_s": 1.0}, CHEAPEST))
    return (*limits.values(), (fastest["ttft_mean_s"] + slow["ttft_mean_s"]) / 2)


def optimum(instance: PlacementInstance, weights: Mapping[str, float]) -> Mapping[str, float]:
    """Metrics of a plan with the least weighted sum."""
    terms = [{"metric": metric, "weight": weight} for metric, weight in weights.items()]
    return go.solve(instance.replace(objective=({"terms": terms},))).metrics


def limited(limits: Mapping[str, float]) -> tuple[dict[str, Any], ...]:
    """Budgets on totals."""
    return tuple(
        {"name": metric, "metric": metric, "limit": {"axes": [], "values": rounded(limit)}}
        for metric, limit in limits.items()
    )


def each_day_in_hours(instance: PlacementInstance) -> list[PlacementInstance]:
    """The days of an instance in hours: demand is added up, what is held stays."""
    per_hour = round(S_PER_H / instance.periods.duration_s[0])
    demand = instance.demand_requests
    hourly = demand.reshape(-1, per_hour, *demand.shape[1:]).sum(axis=1)
    return [
        instance.replace(
            periods={"start": instance.periods.start[at], "duration_s": [S_PER_H] * 24},
            demand_requests=hourly[begin : begin + 24],
            **{name: getattr(instance, name)[at] for name in OVER_PERIODS},
        )
        for begin in range(0, len(hourly), 24)
        for at in [slice(begin * per_hour, (begin + 24) * per_hour, per_hour)]
    ]


# Provenance


def provenance(kind: str, window: Window, choices: Choices) -> dict[str, Any]:
    """Provenance of an instance."""
    chosen = KINDS[kind]
    days = "one real day" if chosen.days == 1 else "seven real days"
    what = f"{len(SITES)} sites and {chosen.origins} origins over {days} in periods of "
    what += f"{window.step_min} min, two models in three modes; {chosen.what}"
    return {
        "description": what,
        "builder": "instances/placement-world/build_world.py",
        "data_licence": "ODbL-1.0 AND LicenseRef-market-operators",
        "sources": [*COMMON_SOURCES, *([REN_SOURCE] if choices.ewif == "ren" else [])],
        "rules": [
            *rules_of_choices(kind, window, choices),
            *RULES,
            *rules_of_kind(kind),
            "All figures are rounded to 6 significant digits.",
        ],
    }


def rules_of_choices(kind: str, window: Window, choices: Choices) -> list[str]:
    """What the choices, the horizon and the origins mean."""
    chosen = KINDS[kind]
    names = tuple(ORIGINS)[: chosen.origins]
    last = window.first + timedelta(days=chosen.days - 1)
    span = f"day is {window.first}" if chosen.days == 1 else f"days are {window.first} to {last}"
    first, end = COURSE_DAYS[chosen.days]
    course = f"day {end}" if end - first == 1 else f"days {first + 1} to {end}"
    regions = ", ".join(f"{place} ({ORIGINS[place].azure})" for place in names)
    weights = ", ".join(f"{place} {ORIGINS[place].weight:g}" for place in names)
    wue = {
        "scaled": "times one factor for all sites that makes the mean over 2022, 2023 and the 15 "
        "sites 0.569 L/kWh (EcoLogits, OpenAI)",
        "raw": "as it comes, which is above what operators report",
    }
    ewif = {
        "waterwise": "WaterWise factors (hydro 17 L/kWh)",
        "ren": "the factors of Ren et al. (hydro 0 L/kWh)",
    }
    embodied = {
        "installed": "of all installed GPUs it is reported, not steered by",
        "running": "it is charged to GPUs for the time in which they run",
    }
    return [
        f"The {span} in UTC, in periods of {window.step_min} min; the carbon signal's year is "
        "that of the first.",
        f"Requests come from {len(names)} cities, each with its Azure region: {regions}; sites are "
        "the first 15.",
        "The shares of the origins in the demand are weights of our own, a rough sense of the "
        f"size of each market without a source: {weights}.",
        "The course of demand is ServeGen's language/m-small for chat and language/m-large for "
        f"summarise on {course} of the trace (10-minute rates, averaged over each period; no "
        "outage of the trace lies there), relative to its mean. It is read as local time: each "
        "origin follows it by its own clock (IANA time zone), around and around.",
        f"Utilisation is {choices.utilisation:g}: demand is scaled so that in the busiest period "
        f"{choices.utilisation:g} of all GPUs would do if they stood at one place and ran at their "
        "highest levels, in the best division of classes over modes; then it is rounded to whole "
        "requests.",
        "WUE is the wet-bulb polynomial at 3 cycles of concentration (floor 0), "
        f"{wue[choices.wue]}; the same cycles split the make-up into evaporation and blowdown.",
        f"EWIF is one annual figure per country: {ewif[choices.ewif]} on the generation mix of Our "
        "World in Data.",
        "Embodied carbon per GPU is 273 kg plus an eighth of a 5700 kg server, over 3 years "
        f"(EcoLogits), for both GPU types; {embodied[choices.embodied]}.",
    ]


def rules_of_kind(kind: str) -> list[str]:
    """What sets a kind apart."""
    found = []
    if kind == "world-day-integer":
        found.append(
            "Numbers of instances are whole and held for an hour. An instance may stand by: an "
            "idle level draws 63 W per A100 and 75 W per H100 (idle power of Splitwise's "
            "simulator, for the A100-80GB) beside the host's; switching on and off takes nothing."
        )
    if kind == "world-day-deferrable":
        found.append("Summaries may be held back for up to 6 hours, at no price: our assumption.")
    if kind == "world-day-residency":
        groups = "; ".join(", ".join(group) for group in JURISDICTIONS)
        found.append(
            "Requests of these origins are served at sites of their own group only, ours, after "
            "the practice of keeping data in a jurisdiction (EU and UK, India, Australia): "
            f"{groups}. All other origins may use every site, and every site may serve them."
        )
    if kind == "world-day-equity":
        found.append(
            "The objective is cost plus 60 USD/m3 on the largest site total of water and 1500 "
            "USD/t on that of carbon, the prices of eGLB's equitable case (arXiv 2307.05494)."
        )
    elif KINDS[kind].budgets:
        found.append(
            "Cost is minimised under budgets on the totals of carbon, water and mean TTFT. Those "
            "on carbon and water lie half way between the least that can be reached and what the "
            "plan of least cost has; the one on TTFT lies half way between the same, both under "
            "the other two. They are found day by day in periods of an hour (plans of least cost "
            "pay 1e-7 USD per request-second of TTFT to break ties), then added up; TTFT is "
            "weighted by requests."
        )
    else:
        found.append(
            "Scales of the objective are the metrics of a reference plan: every origin is served "
            "at its nearest site in mode h100 at the highest level, without regard to capacity, "
            "operational carbon alone. The four weights are equal."
        )
    return found


# Command line


def main(arguments: Sequence[str] | None = None) -> None:
    """Write instances."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--type", choices=KINDS, help="type of instance (default: all)")
    parser.add_argument("--date", default=DEFAULT.date, help="first UTC day, YYYY-MM-DD")
    parser.add_argument("--utilisation", type=float, default=DEFAULT.utilisation)
    parser.add_argument("--step-min", type=int, choices=STEPS_MIN, default=DEFAULT.step_min)
    parser.add_argument("--ewif", choices=EWIF, default=DEFAULT.ewif)
    parser.add_argument("--wue", choices=WUE_BASIS, default=DEFAULT.wue)
    parser.add_argument("--embodied", choices=EMBODIED, default=DEFAULT.embodied)
    parser.add_argument(
        "--family", action="store_true", help="ten dates at three utilisations, in --out"
    )
    parser.add_argument("--data", type=Path, default=DATA, help="folder of the real data")
    parser.add_argument("--out", type=Path, default=HERE, help="folder to write to")
    options = parser.parse_args(arguments)
    if not options.data.is_dir():
        parser.error(f"there is no folder {options.data}; name the real data's with --data")
    if options.family and options.out == HERE:
        parser.error("--family writes many files; name a folder with --out")
    options.out.mkdir(parents=True, exist_ok=True)
    chosen = {field: getattr(options, field) for field in Choices._fields}
    members = [
        {**chosen, "date": date, "utilisation": utilisation}
        for date in (FAMILY_DATES if options.family else [options.date])
        for utilisation in (FAMILY_UTILISATIONS if options.family else [options.utilisation])
    ]
    for kind in [options.type] if options.type else KINDS:
        for member in members:
            instance = build(kind, **member, data=options.data)
            refuse_slack_budgets(instance)
            instance.save(options.out / f"{instance.name}.json.gz")


def refuse_slack_budgets(instance: PlacementInstance) -> None:
    """Solve an instance and refuse it if a budget has no price.

    Raises
    ------
    InputError
        With every such budget.
    """
    if not instance.budgets:
        return
    solution = go.solve(instance)
    prices = {name: float(solution.marginals[f"budget.{name}"].dense()) for name in BUDGETED}
    worth = {**prices, "ttft_mean_s": prices["ttft_mean_s"] * instance.demand_requests.sum()}
    slack = [
        Problem(f"budget {budget.name}", "has no price; expected one that raises the cost")
        for budget in instance.budgets
        if abs(worth[budget.name]) * budget.limit.values.item() < LEAST_WORTH * solution.objective
    ]
    if slack:
        raise InputError(instance.name, slack)


if __name__ == "__main__":
    try:
        main()
    except GreenoptError as error:
        sys.exit(str(error))
