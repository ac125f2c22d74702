"""The placement instance: sets, series, service profiles, limits, objective."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches
from functools import cached_property
from itertools import pairwise
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from pydantic import Field, ValidationInfo, field_validator, model_validator

from greenopt.instance import (
    AXIS_FIELDS,
    AxisArray,
    Instance,
    Periods,
    Provenance,
    Quantity,
    labels,
    shape_problems,
)
from greenopt.labelled import BoolArray, FloatArray
from greenopt.physics.energy import PowerBoundary
from greenopt.physics.latency import quantile
from greenopt.problems.placement.metrics import METRICS, PERIODLESS, SITELESS, leaves
from greenopt.validation import (
    Fraction,
    FrozenDict,
    NonNegative,
    NotBoolean,
    Number,
    Part,
    Positive,
    Table,
    Text,
    Whole,
    WholePositive,
    line_errors,
)

Statistic = Literal["mean", "p50", "p90", "p95", "p99", "max"]
Found = list[tuple[tuple[int | str, ...], str]]
FLOW_AXES = ("period", "origin", "class", "site", "mode")
INSTANCE_AXES = ("period", "site", "model", "mode", "level")
RUNNING_AXES = ("period", "site", "model", "mode")


class Distribution(Part):
    """A discrete distribution of token counts."""

    values: tuple[NonNegative, ...] = Field(min_length=1)
    """Token counts, in increasing order."""

    probabilities: tuple[NonNegative, ...] = Field(min_length=1)
    """Probability of each, adding up to 1."""

    @model_validator(mode="after")
    def _consistent(self) -> Distribution:
        if len(self.values) != len(self.probabilities):
            n, m = len(self.probabilities), len(self.values)
            raise line_errors([(("probabilities",), f"has {n} entries, expected {m} as values")])
        if list(self.values) != sorted(self.values):
            raise line_errors([(("values",), "is not in increasing order")])
        if abs(sum(self.probabilities) - 1) > 1e-9:
            total = sum(self.probabilities)
            raise line_errors([(("probabilities",), f"adds up to {total!r}, expected 1")])
        return self

    @cached_property
    def mean(self) -> float:
        """Expected token count."""
        return float(np.dot(self.values, self.probabilities))

    def statistic(self, name: Statistic) -> float:
        """The mean, a percentile or the maximum."""
        if name == "mean":
            return self.mean
        q = 1.0 if name == "max" else float(name[1:]) / 100
        return quantile(self.values, self.probabilities, q)


class LanguageModel(Part):
    """A model that is served. Classes of one model share its instances."""

    name: Text
    """Name of the model."""

    weight_bytes: NonNegative | None
    """Bytes of weights on one instance; null if KV memory is not modelled."""

    kv_bytes_per_token: Positive | None
    """KV-cache bytes of one token; null if KV memory is not modelled."""


class GpuType(Part):
    """A kind of accelerator."""

    name: Text
    """Name of the GPU type."""

    memory_bytes: Positive | None
    """Memory of one GPU, bytes; null if KV memory is not modelled."""

    usable_memory_fraction: Fraction = 1.0
    """Share of the memory that weights and KV cache may fill; to be given with memory_bytes."""

    embodied_kg: NonNegative
    """Manufacturing carbon of one GPU with its share of the server, kg CO2e."""

    lifetime_s: Positive
    """Service life over which embodied carbon is spread, s."""

    @model_validator(mode="after")
    def _stated(self) -> GpuType:
        _state_with(self, "memory_bytes", "usable_memory_fraction", "how much of it may be used")
        return self


class Level(Part):
    """A measured operating point of one instance: what it serves, draws, and how fast it is."""

    requests_per_s: NonNegative
    """Load an instance at this level serves, in reference requests per second; 0 is idle."""

    power_w: NonNegative
    """Power of one instance at the profile's boundary, W."""

    itl_s: Table[Statistic, NonNegative]
    """Inter-token latency by statistic (mean, p50, p90, p95, p99, max), s."""

    prefill_s: tuple[NonNegative, ...]
    """Prefill time at each of the profile's prefill_tokens, s, non-decreasing."""


class Startup(Part):
    """What switching one instance on takes."""

    time_s: NonNegative
    """Time from the start until it serves, s; at most the shortest period."""

    energy_kwh: NonNegative
    """Energy of one start at the profile's power boundary, kWh; a gpu boundary adds the host's."""


class Queue(Part):
    """Where requests wait for an instance that works on one at a time."""

    service_s: Positive
    """Time a reference request occupies its instance, s (say, at its prefill)."""

    service_cv2: NonNegative
    """Squared coefficient of variation of these times: 0 fixed, 1 exponential."""

    arrival_cv2: NonNegative
    """Squared coefficient of variation of times between arrivals at an instance: 1 Poisson."""


class Profile(Part):
    """How one model runs in one mode: hardware and its measured load levels."""

    model: Text
    """A member of models."""

    mode: Text
    """A member of modes."""

    gpu_type: Text
    """A member of gpu_types."""

    gpus_per_instance: Positive
    """GPUs of one instance (tensor parallelism)."""

    power_boundary: PowerBoundary
    """What the measured power covers: gpu, server or facility; one for the whole instance."""

    host_adder_w: NonNegative | None = None
    """Power of the rest of the server per instance, W; required for, and only for, gpu."""

    prefill_tokens: tuple[NonNegative, ...] = Field(min_length=2)
    """Prompt lengths of the prefill curve, increasing; classes must lie within them."""

    levels: tuple[Level, ...] = Field(min_length=1)
    """Load levels in order of strictly increasing requests_per_s."""

    startup: Startup | None = None
    """Time and energy of starting an instance; null starts it at once and for nothing."""

    min_up_s: NonNegative = 0.0
    """Time an instance runs at least, once started, s."""

    queue: Queue | None = None
    """Where requests wait; null charges no waiting."""

    @property
    def starts(self) -> bool:
        """Whether it matters when an instance is started."""
        return self.startup is not None or self.min_up_s > 0

    @model_validator(mode="after")
    def _consistent(self) -> Profile:
        found: Found = []
        if self.power_boundary == "gpu" and self.host_adder_w is None:
            found.append((("host_adder_w",), "is missing; a gpu boundary needs the host's power"))
        if self.power_boundary != "gpu" and self.host_adder_w is not None:
            found.append((("host_adder_w",), f"double counts at boundary {self.power_boundary}"))
        if not _increasing(self.prefill_tokens):
            found.append((("prefill_tokens",), "is not strictly increasing"))
        if not _increasing([level.requests_per_s for level in self.levels]):
            found.append((("levels",), "requests_per_s is not strictly increasing"))
        for i, level in enumerate(self.levels):
            n, m = len(level.prefill_s), len(self.prefill_tokens)
            if n != m:
                text = f"has {n} entries, expected {m} as in prefill_tokens"
                found.append((("levels", i, "prefill_s"), text))
            if list(level.prefill_s) != sorted(level.prefill_s):
                found.append((("levels", i, "prefill_s"), "falls with the prompt length"))
            if self.queue and level.requests_per_s * self.queue.service_s >= 1:
                text = f"is {level.requests_per_s:g}; an instance that takes "
                text += f"{self.queue.service_s:g} s a request serves less than "
                text += f"{1 / self.queue.service_s:g}"
                found.append((("levels", i, "requests_per_s"), text))
        if found:
            raise line_errors(found)
        return self


class RequestClass(Part):
    """Requests of one kind: model, lengths, limits."""

    name: Text
    """Name of the class."""

    model: Text
    """The model that serves it, a member of models."""

    prompt_tokens: Distribution
    """Distribution of prompt lengths."""

    output_tokens: Distribution
    """Distribution of output lengths."""

    work_per_request: Table[Text, Positive]
    """For each mode of the model: work of one request in reference requests of the profile."""

    egress_bytes_per_request: NonNegative
    """Bytes sent from site to origin per request."""

    ttft_limit_s: Positive | None = None
    """Largest RTT + last mile + prefill allowed, s; null for no limit."""

    ttft_statistic: Statistic = "mean"
    """Which statistic over prompt lengths must be within ttft_limit_s; to be given with it."""

    tbt_limit_s: Positive | None = None
    """Largest time between tokens allowed, s; null for no limit."""

    tbt_statistic: Statistic = "mean"
    """Which of the level's itl_s must be within tbt_limit_s; to be given with it."""

    unmet_price_usd: NonNegative | None = None
    """Price of a request not served, USD; null forbids unmet demand."""

    deferral_limit_s: Positive | None = None
    """Longest a request may be held back until the period that serves it begins, counted from the
    beginning of its own, s; null serves it in its own period."""

    @model_validator(mode="after")
    def _stated(self) -> RequestClass:
        _state_with(self, "ttft_limit_s", "ttft_statistic", "which statistic it limits")
        _state_with(self, "tbt_limit_s", "tbt_statistic", "which statistic it limits")
        return self


class CarbonSignal(Part):
    """What the carbon intensity means; one for all sites."""

    kind: Literal["average", "marginal"]
    """Average or marginal."""

    scope: Literal["direct", "life-cycle"]
    """Direct emissions or life cycle."""

    basis: Literal["consumption", "production"]
    """Consumption-based (flow-traced) or production-based."""

    provider: Text
    """Who computed it."""

    year: Whole
    """Year of the series."""


class WueBasis(Part):
    """What the on-site water series is."""

    kind: Literal["raw polynomial", "scaled to annual mean", "given"]
    """Raw curve of wet bulb, curve scaled to a sourced mean, or as given by its source."""

    note: Text
    """Source of the mean or of the series."""


class Location(Part):
    """A place on the map."""

    latitude_deg: Annotated[Number, Field(ge=-90, le=90)]
    """Degrees north."""

    longitude_deg: Annotated[Number, Field(ge=-180, le=180)]
    """Degrees east."""


class CustomMetric(Part):
    """A metric of the user's: coefficients on flows and on running instances."""

    name: Text
    """Name, different from every built-in metric."""

    unit: Text
    """Unit of the metric."""

    per_request: Annotated[
        AxisArray | None, Quantity(None, "units of the metric per request", optional=True)
    ] = None
    """Coefficient of a served request over any of period, origin, class, site, mode."""

    per_instance_s: Annotated[
        AxisArray | None,
        Quantity(None, "units of the metric per instance and second", optional=True),
    ] = None
    """Coefficient of a running instance and second over any of period, site, model, mode, level."""


class Term(Part):
    """One metric in an objective: weight x metric / scale."""

    metric: Text
    """An additive built-in metric, ttft_mean_s, or a custom metric."""

    weight: Number
    """Weight; 0 keeps the term out."""

    scale: Positive = 1.0
    """Normalisation frozen in the instance: the metric's value that counts as 1."""

    over_sites: Literal["sum", "mean", "max"] = "sum"
    """Total, mean over all sites of the set, or largest site total."""


class Stage(Part):
    """One stage of a (lexicographic) objective: a weighted sum to minimise."""

    terms: tuple[Term, ...] = Field(min_length=1)
    """Terms of the sum."""

    tolerance: NonNegative = 1e-6
    """Relative worsening of this stage that later stages may use."""


class Budget(Part):
    """An upper limit on a metric."""

    name: Text
    """Name of the budget, used in prices and explanations."""

    metric: Text
    """An additive metric, a custom metric, or ttft_mean_s."""

    limit: Annotated[AxisArray, Quantity(None, "units of the metric", null=float("inf"))]
    """Limit over any of period and site (no axes: the total); null entries do not limit."""


class InstanceLimit(Part):
    """An upper limit on the number of running instances."""

    name: Text
    """Name of the limit, used in prices and explanations."""

    limit: Annotated[AxisArray, Quantity(None, "instances", minimum=0, null=float("inf"))]
    """Limit over any of period, site, model and mode, in every period; null entries are none."""


def _state_with(part: Part, field: str, other: str, what: str) -> None:
    """Refuse a quantity without the one that gives it its meaning."""
    if getattr(part, field) is not None and other not in part.model_fields_set:
        raise line_errors([((other,), f"is missing; {field} needs {what}")])


def _increasing(values: Sequence[float]) -> bool:
    return all(a < b for a, b in pairwise(values))


def _duplicates(names: Iterable[str]) -> list[str]:
    return sorted(name for name, count in Counter(names).items() if count > 1)


def _unknown(name: str, members: Iterable[str], what: str) -> str | None:
    known = list(members)
    return None if name in known else f"{name!r} is not one of the {what} {known}"


_PS = ("period", "site")
_SNM = ("site", "model", "mode")


class PlacementInstance(Instance):
    """Geo-distributed placement of LLM requests (MARLIN's problem, arXiv 2605.13496; our model).

    Arrays are NumPy arrays over their full axes, read-only. See the formulation page for how the
    fields enter, and `PlacementInstance.parse` for errors.
    """

    title: ClassVar[str] = "Geo-distributed request placement"
    short_names: ClassVar[Mapping[str, str]] = {"demand": "demand_requests"}

    problem: Literal["placement"]
    """Always "placement"."""

    schema_version: Annotated[Literal[1], NotBoolean]
    """Version of this format."""

    name: Text
    """Name of the instance."""

    provenance: Provenance
    """Where everything came from."""

    periods: Periods
    """Time intervals."""

    origins: tuple[Text, ...] = Field(min_length=1)
    """Where requests come from."""

    sites: tuple[Text, ...] = Field(min_length=1)
    """Where GPUs stand."""

    modes: tuple[Text, ...] = Field(min_length=1)
    """Serving modes: names of hardware and configuration choices."""

    models: tuple[LanguageModel, ...] = Field(min_length=1)
    """Models served."""

    gpu_types: tuple[GpuType, ...] = Field(min_length=1)
    """Kinds of GPU."""

    profiles: tuple[Profile, ...] = Field(min_length=1)
    """One profile for each model and mode that exists."""

    classes: tuple[RequestClass, ...] = Field(min_length=1)
    """Request classes."""

    carbon_signal: CarbonSignal
    """Meaning of carbon_g_per_kwh."""

    wue_basis: WueBasis
    """Meaning of wue_l_per_kwh."""

    ewif_set: Text
    """Factor set behind ewif_l_per_kwh, by name; the sets disagree on hydro power."""

    price_basis: Literal["wholesale", "tariff"]
    """Meaning of price_usd_per_mwh."""

    embodied_charge: Literal["installed", "running"] = "installed"
    """Embodied carbon of installed GPUs (reported, never steering) or of running ones."""

    balance: Literal["packed", "even"] = "packed"
    """Instances at any levels, or all instances of a model and mode at a site at one level."""

    load_rule: Literal["exact", "at_most"] = "exact"
    """An instance at a level serves exactly that load, or up to that load at the same power."""

    instance_counts: Literal["continuous", "integer"] = "continuous"
    """Whether numbers of running instances are whole."""

    request_counts: Literal["continuous", "integer"] = "continuous"
    """Whether numbers of requests of an origin, class, site and mode are whole."""

    hold_periods: tuple[WholePositive, ...] | None = None
    """Lengths of the blocks of consecutive periods over which numbers of running instances are
    held, adding up to the number of periods; null lets them change in every period."""

    demand_requests: Annotated[
        FloatArray, Quantity(("period", "origin", "class"), "requests in the period", minimum=0)
    ]
    """Requests arriving in each period."""

    gpus: Annotated[
        FloatArray, Quantity(("period", "site", "gpu_type"), "GPUs", minimum=0, null=float("inf"))
    ]
    """GPUs available; null entries are unlimited."""

    carbon_g_per_kwh: Annotated[FloatArray, Quantity(_PS, "g CO2e/kWh")]
    """Carbon intensity of electricity; may be negative when marginal."""

    price_usd_per_mwh: Annotated[FloatArray, Quantity(_PS, "USD/MWh")]
    """Electricity price; may be negative."""

    pue: Annotated[FloatArray, Quantity(_PS, "1", minimum=1)]
    """Power usage effectiveness: facility power over server power."""

    wue_l_per_kwh: Annotated[FloatArray, Quantity(_PS, "L per IT kWh", minimum=0)]
    """On-site make-up water per server kWh (blowdown included)."""

    cycles_of_concentration: Annotated[FloatArray, Quantity(("site",), "1", above=1)]
    """Cooling-tower cycles s: evaporation is (s-1)/s of the make-up, blowdown 1/s."""

    ewif_l_per_kwh: Annotated[FloatArray, Quantity(_PS, "L per facility kWh", minimum=0)]
    """Water consumed per kWh of electricity generated."""

    rtt_s: Annotated[FloatArray, Quantity(("origin", "site"), "s", minimum=0)]
    """Median round-trip time between regions."""

    last_mile_s: Annotated[FloatArray, Quantity(("origin",), "s", minimum=0)]
    """Round trip between user and origin region, added to rtt_s."""

    egress_usd_per_gb: Annotated[FloatArray, Quantity(("origin", "site"), "USD/GB", minimum=0)]
    """Price of a GB sent from site to origin."""

    gpu_usd_per_hour: Annotated[
        FloatArray | None,
        Quantity(("site", "gpu_type"), "USD per GPU hour", minimum=0, optional=True),
    ] = None
    """GPU-hour price of running instances; null charges none."""

    demand_charge_usd_per_kw: Annotated[
        FloatArray | None,
        Quantity(("site",), "USD/kW of the horizon's peak", minimum=0, optional=True),
    ] = None
    """Demand charge on the site's peak facility power over the horizon; null charges none."""

    facility_power_cap_w: Annotated[
        FloatArray | None, Quantity(_PS, "W", minimum=0, null=float("inf"), optional=True)
    ] = None
    """Largest facility power of running instances; null is unlimited."""

    reachable: Annotated[
        BoolArray | None, Quantity(FLOW_AXES, "true or false", boolean=True, optional=True)
    ] = None
    """Mask of allowed flows over any subset of the axes (residency, peering); null allows all."""

    locations: Table[Text, Location] | None = None
    """Where origins and sites are, by name, for maps only; null draws none."""

    initial_instances: Annotated[
        FloatArray | None, Quantity(_SNM, "instances", minimum=0, optional=True)
    ] = Field(default=None, validate_default=True)
    """Instances running before the first period, long enough to be stopped; required when a profile
    has a startup or a min_up_s."""

    fixed_instances: Annotated[
        FloatArray | None,
        Quantity(("period", *_SNM), "instances", minimum=0, null=float("inf"), optional=True),
    ] = None
    """Numbers of running instances that are given; null entries are decided."""

    instance_limits: tuple[InstanceLimit, ...] = ()
    """Upper limits on numbers of running instances."""

    custom_metrics: tuple[CustomMetric, ...] = ()
    """Further metrics."""

    objective: tuple[Stage, ...] = Field(min_length=1)
    """Stages minimised in order; one stage is a weighted sum."""

    budgets: tuple[Budget, ...] = ()
    """Upper limits on metrics."""

    @field_validator(
        "origins",
        "sites",
        "modes",
        "models",
        "gpu_types",
        "classes",
        "instance_limits",
        "custom_metrics",
    )
    @classmethod
    def _unique(cls, value: Any) -> Any:
        if twice := _duplicates(labels(value)):
            raise line_errors([((), f"names {twice} more than once")])
        return value

    @field_validator("profiles")
    @classmethod
    def _profiles_fit(cls, value: tuple[Profile, ...], info: ValidationInfo) -> Any:
        found: Found = []
        for i, profile in enumerate(value):
            for field in ("model", "mode", "gpu_type"):
                if (many := AXIS_FIELDS[field]) in info.data:
                    text = _unknown(getattr(profile, field), labels(info.data[many]), many)
                    if text:
                        found.append(((i, field), text))
            first = value[0].power_boundary
            if profile.startup and "periods" in info.data:
                shortest = min(info.data["periods"].duration_s)
                if profile.startup.time_s > shortest:
                    text = f"is {profile.startup.time_s:g}; expected at most the shortest period, "
                    found.append(((i, "startup", "time_s"), text + f"{shortest:g} s"))
            if profile.power_boundary != first:
                text = f"{profile.power_boundary!r} mixed with {first!r}; one boundary per instance"
                found.append(((i, "power_boundary"), text))
        if twice := _duplicates(f"{p.model} in {p.mode}" for p in value):
            found.append(((), f"has more than one profile for {twice}"))
        if found:
            raise line_errors(found)
        return value

    @field_validator("classes")
    @classmethod
    def _classes_fit(cls, value: tuple[RequestClass, ...], info: ValidationInfo) -> Any:
        found: Found = []
        profiles = info.data.get("profiles", ())
        for i, k in enumerate(value):
            if "models" in info.data and (
                text := _unknown(k.model, labels(info.data["models"]), "models")
            ):
                found.append(((i, "model"), text))
                continue
            own = [p for p in profiles if p.model == k.model]
            if profiles and not own:
                found.append(((i, "model"), f"{k.model!r} has no profile"))
            if own and set(k.work_per_request) != {p.mode for p in own}:
                text = f"names modes {sorted(k.work_per_request)}, expected "
                text += f"{sorted(p.mode for p in own)}, the modes of {k.model}"
                found.append(((i, "work_per_request"), text))
            found += [((i, *loc), text) for p in own for loc, text in _class_against_profile(k, p)]
            found += [((i, "model"), text) for text in _memory_problems(k, own, info.data)]
            found += [((i, *loc), text) for loc, text in _queue_problems(k, value, own)]
        if found:
            raise line_errors(found)
        return value

    @field_validator("locations")
    @classmethod
    def _locations_are_known(cls, value: Any, info: ValidationInfo) -> Any:
        if value is None or not {"origins", "sites"} <= set(info.data):
            return value
        places = (*info.data["origins"], *info.data["sites"])
        found: Found = [
            ((name,), "is neither an origin nor a site") for name in value if name not in places
        ]
        if missing := sorted(set(places) - set(value)):
            found.append(((), f"has no entry for {missing}"))
        if found:
            raise line_errors(found)
        return value

    @field_validator("hold_periods")
    @classmethod
    def _blocks_cover_periods(cls, value: Any, info: ValidationInfo) -> Any:
        if value is not None and "periods" in info.data:
            count = len(info.data["periods"].start)
            if sum(value) != count:
                raise line_errors([((), f"adds up to {sum(value)}, expected {count} periods")])
        return value

    @field_validator("demand_requests")
    @classmethod
    def _whole_demand(cls, value: FloatArray, info: ValidationInfo) -> FloatArray:
        classes = info.data.get("classes", ())
        if info.data.get("request_counts") != "integer" or value.shape[2] != len(classes):
            return value
        met = np.array([k.unmet_price_usd is None for k in classes])
        broken = np.argwhere((value != np.round(value)) & met)
        if len(broken):
            at = tuple(int(i) for i in broken[0])
            text = f"is {value[at]:g}; whole requests need whole demand, or an unmet_price_usd"
            raise line_errors([(at, text)])
        return value

    @field_validator("initial_instances", "fixed_instances")
    @classmethod
    def _instances_can_run(cls, value: Any, info: ValidationInfo) -> Any:
        if value is None or not {"profiles", "gpus", "gpu_types", *_SNM_FIELDS} <= set(info.data):
            return value
        found: Found = []
        given = value if value.ndim == 4 else value[None]
        can = _can_run(info.data, given.shape[1:])
        wrong = np.argwhere((given > 0) & np.isfinite(given) & ~can)
        if len(wrong):
            at = tuple(int(i) for i in wrong[0])
            names = [labels(info.data[f])[i] for f, i in zip(_SNM_FIELDS, at[1:], strict=True)]
            text = f"is {given[at]:g} for {names[1]} in {names[2]} at {names[0]}, where no profile "
            found.append((at[4 - value.ndim :], text + "has GPUs"))
        if info.data.get("instance_counts") == "integer":
            broken = np.argwhere(np.isfinite(value) & (value != np.round(value)))
            for position in broken[:1]:
                at = tuple(int(i) for i in position)
                found.append((at, f"is {value[at]:g}; instance_counts integer needs whole numbers"))
        if found:
            raise line_errors(found)
        return value

    @field_validator("initial_instances")
    @classmethod
    def _starts_need_a_beginning(cls, value: Any, info: ValidationInfo) -> Any:
        starting = [p for p in info.data.get("profiles", ()) if p.starts]
        if value is None and starting:
            name = f"{starting[0].model} in {starting[0].mode}"
            text = f"is missing; {name} has a startup or a min_up_s, which needs what runs before"
            raise line_errors([((), text)])
        if value is not None and info.data.get("profiles") and not starting:
            text = "is given, but no profile has a startup or a min_up_s that it would matter to"
            raise line_errors([((), text)])
        return value

    @field_validator("fixed_instances")
    @classmethod
    def _fixed_over_blocks(cls, value: Any, info: ValidationInfo) -> Any:
        held = info.data.get("hold_periods")
        if value is None or held is None or sum(held) != len(value):
            return value
        first = np.repeat(np.cumsum([0, *held[:-1]]), held)
        differing = np.argwhere(value != value[first])
        if len(differing):
            at = tuple(int(i) for i in differing[0])
            raise line_errors([(at, "differs from the first period of its block of hold_periods")])
        return value

    @field_validator("fixed_instances", "instance_limits")
    @classmethod
    def _counts_need_limits(cls, value: Any, info: ValidationInfo) -> Any:
        if value is not None and len(value) and np.isinf(info.data.get("gpus", 0.0)).any():
            raise line_errors([((), "counts instances, which needs a limit on GPUs everywhere")])
        return value

    @field_validator("instance_limits")
    @classmethod
    def _instance_limits_fit(
        cls, value: tuple[InstanceLimit, ...], info: ValidationInfo
    ) -> tuple[InstanceLimit, ...]:
        found: Found = []
        for i, one in enumerate(value):
            found += _axis_problems(one.limit, RUNNING_AXES, info.data, (i, "limit"))
        if found:
            raise line_errors(found)
        return value

    @field_validator("custom_metrics")
    @classmethod
    def _custom_metrics_fit(cls, value: tuple[CustomMetric, ...], info: ValidationInfo) -> Any:
        found: Found = []
        for i, metric in enumerate(value):
            if metric.name in METRICS:
                found.append(((i, "name"), f"{metric.name!r} is a built-in metric"))
            if metric.per_request is None and metric.per_instance_s is None:
                found.append(((i,), "has neither per_request nor per_instance_s"))
            for field, allowed in (("per_request", FLOW_AXES), ("per_instance_s", INSTANCE_AXES)):
                array: AxisArray | None = getattr(metric, field)
                if array is not None:
                    found += _axis_problems(array, allowed, info.data, (i, field))
        if found:
            raise line_errors(found)
        return value

    @field_validator("budgets")
    @classmethod
    def _budgets_fit(cls, value: tuple[Budget, ...], info: ValidationInfo) -> Any:
        found: Found = []
        custom = _custom_names(info.data)
        charged = info.data.get("demand_charge_usd_per_kw") is not None
        for i, budget in enumerate(value):
            if text := _metric_problem(budget.metric, custom):
                found.append(((i, "metric"), text))
            found += _axis_problems(budget.limit, _PS, info.data, (i, "limit"))
            if budget.metric in SITELESS and "site" in budget.limit.axes:
                found.append(((i, "limit"), f"{budget.metric} belongs to no site"))
            if charged and budget.metric in PERIODLESS and "period" in budget.limit.axes:
                text = "the demand charge belongs to no single period; budget a component instead"
                found.append(((i, "limit"), text))
        if twice := _duplicates(labels(value)):
            found.append(((), f"names {twice} more than once"))
        if found:
            raise line_errors(found)
        return value

    @field_validator("objective")
    @classmethod
    def _objective_fits(cls, value: tuple[Stage, ...], info: ValidationInfo) -> Any:
        found: Found = []
        custom = _custom_names(info.data)
        unmet = any(k.unmet_price_usd is not None for k in info.data.get("classes", ()))
        charged = info.data.get("demand_charge_usd_per_kw") is not None
        curved = info.data.get("load_rule") == "at_most"
        curved = curved and any(p.queue for p in info.data.get("profiles", ()))
        for s, stage in enumerate(value):
            for t, term in enumerate(stage.terms):
                at = (s, "terms", t)
                if text := _metric_problem(term.metric, custom):
                    found.append(((*at, "metric"), text))
                elif text := _aggregation_problem(term, unmet):
                    found.append(((*at, "over_sites"), text))
                elif term.weight < 0 and charged and term.metric in PERIODLESS:
                    text = "a negative weight on the demand charge's peak is not convex"
                    found.append(((*at, "weight"), text))
                elif term.weight < 0 and curved and _waits(term.metric):
                    text = "a negative weight on waiting in queues is not convex"
                    found.append(((*at, "weight"), text))
                elif term.metric == "ttft_mean_s" and not np.any(
                    info.data.get("demand_requests", 1)
                ):
                    found.append(((*at, "metric"), "there is no demand to take a mean over"))
        weighed = {t.metric for t in value[0].terms if t.weight > 0}
        if unmet and not weighed & {"unmet_usd", "unmet_requests"}:
            text = "a class allows unmet demand at a price, so the first stage must weigh "
            found.append(((0, "terms"), text + "unmet_usd (else serving nobody is best)"))
        if found:
            raise line_errors(found)
        return value

    @field_validator("gpus")
    @classmethod
    def _even_needs_limits(cls, value: FloatArray, info: ValidationInfo) -> FloatArray:
        idle = any(p.levels[0].requests_per_s == 0 for p in info.data.get("profiles", ()))
        if info.data.get("balance") == "even" and idle and np.isinf(value).any():
            text = "is unlimited somewhere; an even balance with an idle level needs a limit"
            raise line_errors([((), text)])
        counted = info.data.get("instance_counts") == "integer" or info.data.get("hold_periods")
        counted = counted or any(p.starts for p in info.data.get("profiles", ()))
        if (counted or info.data.get("load_rule") == "at_most") and np.isinf(value).any():
            text = "is unlimited somewhere; load_rule at_most, whole or held instances and starts "
            raise line_errors([((), text + "need a limit")])
        return value

    @cached_property
    def sets(self) -> Mapping[str, tuple[str, ...]]:
        """Labels of every axis."""
        deepest = max(len(profile.levels) for profile in self.profiles)
        return FrozenDict({**super().sets, "level": tuple(str(i) for i in range(deepest))})

    @cached_property
    def unmet_allowed(self) -> bool:
        """Whether any class may go unserved at a price."""
        return any(k.unmet_price_usd is not None for k in self.classes)

    @cached_property
    def counts_instances(self) -> bool:
        """Whether the number of running instances is a decision of its own beside their levels."""
        return bool(
            self.instance_counts == "integer"
            or self.hold_periods
            or self.fixed_instances is not None
            or self.instance_limits
            or any(p.starts for p in self.profiles)
        )

    @cached_property
    def waiting_is_curved(self) -> bool:
        """Whether waiting is a curve: instances at a level may serve less than their load."""
        return self.load_rule == "at_most" and any(p.queue for p in self.profiles)

    @property
    def blocks(self) -> tuple[int, ...]:
        """Lengths of the blocks over which numbers of running instances are held."""
        return self.hold_periods or (1,) * len(self.periods.start)


_SNM_FIELDS = ("sites", "models", "modes")


def _can_run(data: Mapping[str, Any], shape: tuple[int, ...]) -> Any:
    """Where a profile and, in some period, GPUs of its type exist, by site, model and mode."""
    can = np.zeros(shape, dtype=bool)
    models, modes, types = (list(labels(data[f])) for f in ("models", "modes", "gpu_types"))
    for p in data["profiles"]:
        held = data["gpus"][:, :, types.index(p.gpu_type)].max(axis=0) > 0
        can[:, models.index(p.model), modes.index(p.mode)] = held
    return can


def _class_against_profile(k: RequestClass, p: Profile) -> Found:
    found: Found = []
    low, high = p.prefill_tokens[0], p.prefill_tokens[-1]
    if k.prompt_tokens.values[0] < low or k.prompt_tokens.values[-1] > high:
        text = f"spans {k.prompt_tokens.values[0]:g} to {k.prompt_tokens.values[-1]:g} tokens, "
        text += f"outside the prefill curve of {p.model} in {p.mode}, {low:g} to {high:g}"
        found.append((("prompt_tokens", "values"), text))
    if k.tbt_limit_s is not None and any(k.tbt_statistic not in v.itl_s for v in p.levels):
        text = f"{k.tbt_statistic!r} is not measured at every level of {p.model} in {p.mode}"
        found.append((("tbt_statistic",), text))
    return found


def _queue_problems(k: RequestClass, classes: Sequence[RequestClass], own: list[Profile]) -> Found:
    """Requests that wait together are homogeneous in work; no limit on a maximum holds."""
    found: Found = []
    first = next(other for other in classes if other.model == k.model)
    for p in own:
        if p.queue is None:
            continue
        if k.ttft_limit_s is not None and k.ttft_statistic == "max":
            text = f"'max' has no bound where requests wait: {p.model} in {p.mode} has a queue"
            found.append((("ttft_statistic",), text))
        work, same = (one.work_per_request.get(p.mode) for one in (k, first))
        if work is not None and same is not None and work != same:
            text = f"is {work:g} for {p.mode}, but {same:g} for {first.name}; what waits in "
            text += f"one queue is of equal work: give {k.name} a model, so instances, of its own"
            found.append((("work_per_request",), text))
    return found


def _memory_problems(k: RequestClass, own: list[Profile], data: Mapping[str, Any]) -> list[str]:
    """Little's law needs the mean inter-token latency wherever KV memory is modelled."""
    sized = {
        n.name for n in data.get("models", ()) if None not in (n.weight_bytes, n.kv_bytes_per_token)
    }
    known = {h.name for h in data.get("gpu_types", ()) if h.memory_bytes is not None}
    return [
        f"KV memory of {p.model} in {p.mode} is modelled, which needs itl_s.mean at every level"
        for p in own
        if k.model in sized and p.gpu_type in known and any("mean" not in v.itl_s for v in p.levels)
    ]


def _axis_problems(
    array: AxisArray, allowed: Sequence[str], data: Mapping[str, Any], at: tuple[int | str, ...]
) -> Found:
    if wrong := [axis for axis in array.axes if axis not in allowed]:
        return [(at, f"has axes {wrong}, expected some of {list(allowed)}")]
    if "level" in array.axes and "profiles" in data:
        levels = [str(i) for i in range(max(len(p.levels) for p in data["profiles"]))]
        data = {**data, "levels": levels}
    return [(at, text) for text in shape_problems(array.values, array.axes, data)]


def _waits(metric: str) -> bool:
    return metric == "ttft_mean_s" or "ttft_queue_request_s" in leaves(metric)


def _custom_names(data: Mapping[str, Any]) -> tuple[str, ...] | None:
    """Names of the custom metrics, None where their field is at fault itself."""
    return labels(data["custom_metrics"]) if "custom_metrics" in data else None


def _metric_problem(name: str, custom: Sequence[str] | None) -> str | None:
    if name not in METRICS:
        if custom is None or name in custom:
            return None
        usable = [m.name for m in METRICS.values() if m.kind != "report"] + list(custom)
        near = get_close_matches(name, usable, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"known are {sorted(usable)}"
        return f"{name!r} is not a metric; {hint}"
    if METRICS[name].kind == "report":
        hint = "carbon_kg" if name.startswith("carbon") else "ttft_mean_s or ttft_request_s"
        return f"{name} is reported, it cannot steer or be limited; use {hint}"
    return None


def _aggregation_problem(term: Term, unmet: bool) -> str | None:
    if term.metric == "ttft_mean_s":
        if term.over_sites != "sum":
            return (
                "a mean TTFT per site is a ratio of two decisions and has no linear max or mean "
                "over sites; budget it per site, or weigh ttft_request_s"
            )
        if unmet:
            return (
                "with unmet demand the mean TTFT is a ratio of two decisions; "
                "weigh ttft_request_s, or budget ttft_mean_s"
            )
    if term.metric in SITELESS and term.over_sites != "sum":
        return f"{term.metric} belongs to no site; use sum"
    if term.over_sites == "max" and term.weight < 0:
        return "a negative weight on a maximum is not convex"
    return None
