"""Instances of routing: a workload of queries and the deployments that can answer them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from pydantic import Field, ValidationInfo, field_validator, model_validator

from greenopt.instance import Instance, Provenance, Quantity, labels
from greenopt.labelled import BoolArray, FloatArray
from greenopt.problems.routing.metrics import METRICS
from greenopt.validation import (
    NonNegative,
    NotBoolean,
    Number,
    Part,
    Positive,
    Text,
    WholePositive,
    line_errors,
)

Found = list[tuple[tuple[int | str, ...], str]]
Normalisation = Literal["none", "largest", "range"]
PAIR = ("query", "deployment")
LARGEST_COUNT = 2.0**53
LARGEST_TOKENS = 1e12
TABLES = {"energy": "energy_j", "runtime": "runtime_s", "accuracy_percent": "accuracy_percent"}
"""What a deployment says by itself, and the table that says it instead for all of them."""


class TokenLaw(Part):
    """A quantity as a function of input and output tokens, without intercept (eqs 5.1, 5.2)."""

    per_token_in: Number
    """Per input token, J or s."""

    per_token_out: Number
    """Per output token, J or s."""

    per_product: Number
    """Per product of input and output tokens, J or s."""


class Deployment(Part):
    """A model served on given hardware."""

    name: Text
    """Name of the deployment."""

    model: Text
    """Name of the model."""

    gpu_type: Text
    """Kind of accelerator (or machine) it runs on."""

    gpus: WholePositive
    """GPUs of one instance."""

    concurrency: Positive = 1.0
    """Queries that an instance answers at the same time (its batch), as measured; each takes this
    share of the instance while it runs."""

    energy: TokenLaw | None = None
    """Energy of a query, J; null where the table energy_j gives it."""

    runtime: TokenLaw | None = None
    """Run time of a query, s; null where the table runtime_s gives it."""

    range_tokens_in: tuple[NonNegative, NonNegative] | None = None
    """Smallest and largest number of input tokens that the laws were fitted on; null if unknown."""

    range_tokens_out: tuple[NonNegative, NonNegative] | None = None
    """Smallest and largest number of output tokens; null if unknown."""

    accuracy_percent: NonNegative | None = None
    """Accuracy of the model's answers, %; null if unknown or given by the table."""

    max_context_tokens: WholePositive | None = None
    """Most tokens of a query, input and output together; null is no limit."""

    host_w: NonNegative | None = None
    """Power of the rest of the server while an instance answers, W; only for energy at the boundary
    "gpu". Null leaves server energy unknown."""

    pue: Annotated[Number, Field(ge=1)] | None = None
    """Power usage effectiveness where it stands; null leaves facility energy unknown."""

    carbon_g_per_kwh: Number | None = None
    """Carbon intensity of its electricity, g CO2e/kWh; null leaves carbon unknown."""

    price_usd_per_kwh: Number | None = None
    """Price of its electricity, USD/kWh; null leaves cost unknown."""

    gpu_usd_per_hour: NonNegative | None = None
    """Price of a GPU hour, USD; null charges none."""

    @model_validator(mode="after")
    def _ranges_rise(self) -> Deployment:
        found: Found = []
        for name in ("range_tokens_in", "range_tokens_out"):
            ends = getattr(self, name)
            if ends is not None and ends[0] > ends[1]:
                found.append(((name,), f"is {list(ends)}; expected the smaller number first"))
        if found:
            raise line_errors(found)
        return self


class Limit(Part):
    """Limits on a metric, summed over some of the deployments."""

    name: Text
    """Name of the limit, used in prices and explanations."""

    metric: Text
    """An additive metric."""

    deployments: tuple[Text, ...] | None = None
    """Which deployments together; null is all of them."""

    lower: Number | None = None
    """Least value, in the metric's unit; null is no limit."""

    upper: Number | None = None
    """Largest value, in the metric's unit; null is no limit."""

    @model_validator(mode="after")
    def _limits_something(self) -> Limit:
        if self.lower is None and self.upper is None:
            raise line_errors([((), "has neither a lower nor an upper limit")])
        if self.lower is not None and self.upper is not None and self.lower > self.upper:
            text = f"is {self.lower:g}, above the upper limit {self.upper:g}"
            raise line_errors([(("lower",), text)])
        return self


class Term(Part):
    """One metric in an objective: weight x (value - shift) / (size x scale) of every query."""

    metric: Text
    """An additive metric."""

    weight: Number
    """Weight; 0 keeps the term out, a negative one (accuracy) asks for more."""

    scale: Positive = 1.0
    """Value that counts as 1, after the normalisation."""

    normalisation: Normalisation = "none"
    """Divide a query's value by nothing, by the largest one ("largest"), or take the smallest off
    and divide by the range ("range"), over all queries and deployments."""


class Stage(Part):
    """One stage of a (lexicographic) objective: a weighted sum to minimise."""

    terms: tuple[Term, ...] = Field(min_length=1)
    """Terms of the sum."""

    tolerance: NonNegative = 1e-6
    """Relative worsening of this stage that later stages may use."""


class RoutingInstance(Instance):
    """Offline partition of a workload over deployments (arXiv 2407.04014, eqs 3.5 to 3.8).

    Arrays are NumPy arrays over their full axes, read-only. See the formulation page for how the
    fields enter, and `RoutingInstance.parse` for errors.
    """

    title: ClassVar[str] = "Energy-optimal routing of a workload over models and machines"

    problem: Literal["routing"]
    """Always "routing"."""

    schema_version: Annotated[Literal[1], NotBoolean]
    """Version of this format."""

    name: Text
    """Name of the instance."""

    provenance: Provenance
    """Where everything came from."""

    label: str = ""
    """How the measurements were made, to be printed with every figure ("batch 1, no KV cache")."""

    queries: tuple[Text, ...] = Field(min_length=1)
    """Kinds of queries; queries that agree in everything are one kind."""

    deployments: tuple[Deployment, ...] = Field(min_length=1)
    """Models on hardware."""

    boundary: Literal["gpu", "server"]
    """What the measured energy covers: accelerators only, or the whole server."""

    negative_predictions: Literal["keep", "clip"]
    """Whether negative predictions of the laws are kept as published, or clipped at 0."""

    outside_range: Literal["forbid", "extrapolate"] = "forbid"
    """Whether a query outside the measured range of a deployment may go there."""

    count: Annotated[FloatArray, Quantity(("query",), "queries", minimum=0)]
    """Number of queries of each kind, whole."""

    tokens_in: Annotated[FloatArray, Quantity(("query",), "tokens", minimum=0)]
    """Input tokens of a query."""

    tokens_out: Annotated[FloatArray, Quantity(PAIR, "tokens", minimum=0)]
    """Output tokens of a query, which may depend on the model."""

    energy_j: Annotated[FloatArray | None, Quantity(PAIR, "J", optional=True)] = Field(
        default=None, validate_default=True
    )
    """Energy of a query; null where the deployments' laws give it."""

    runtime_s: Annotated[FloatArray | None, Quantity(PAIR, "s", optional=True)] = Field(
        default=None, validate_default=True
    )
    """Run time of a query; null where the deployments' laws give it."""

    accuracy_percent: Annotated[
        FloatArray | None, Quantity(PAIR, "%", minimum=0, optional=True)
    ] = Field(default=None, validate_default=True)
    """Accuracy of the answer to a query; null where the deployments give it, or nobody."""

    allowed: Annotated[
        BoolArray | None, Quantity(PAIR, "true or false", boolean=True, optional=True)
    ] = None
    """Where a query may go; null allows all."""

    runtime_limit_s: Annotated[
        FloatArray | None, Quantity(("query",), "s", minimum=0, null=float("inf"), optional=True)
    ] = None
    """Largest run time of a query; null entries do not limit."""

    accuracy_min_percent: Annotated[
        FloatArray | None, Quantity(("query",), "%", minimum=0, optional=True)
    ] = Field(default=None, validate_default=True)
    """Least accuracy that a query asks for; null asks for none."""

    limits: tuple[Limit, ...] = ()
    """Limits on metrics over deployments: counts, capacities, budgets."""

    accuracy_floor_percent: NonNegative | None = Field(default=None, validate_default=True)
    """Least accuracy, mean over all tokens; null is none."""

    objective: tuple[Stage, ...] = Field(min_length=1)
    """Stages to minimise in order."""

    @field_validator("queries", "deployments", "limits")
    @classmethod
    def _names_differ(cls, value: Any) -> Any:
        twice = [name for name, n in Counter(labels(value)).items() if n > 1]
        if twice:
            raise line_errors([((), f"names {twice[:5]} more than once")])
        return value

    @field_validator("count")
    @classmethod
    def _count_whole(cls, value: FloatArray) -> FloatArray:
        bad = np.flatnonzero((value != np.round(value)) | (value > LARGEST_COUNT))
        if len(bad):
            first = int(bad[0])
            text = f"is {float(value[first])!r}; expected a whole number of queries"
            raise line_errors([((first,), text)])
        if not value.any():
            raise line_errors([((), "is 0 everywhere; there is nothing to route")])
        return value

    @field_validator("tokens_in", "tokens_out")
    @classmethod
    def _tokens_sensible(cls, value: FloatArray) -> FloatArray:
        bad = np.argwhere(value > LARGEST_TOKENS)
        if len(bad):
            at = tuple(int(i) for i in bad[0])
            text = f"is {float(value[at])!r}; expected at most {LARGEST_TOKENS:g} tokens"
            raise line_errors([(at, text)])
        return value

    @field_validator("energy_j", "runtime_s", "accuracy_percent")
    @classmethod
    def _said_once(cls, value: Any, info: ValidationInfo) -> Any:
        own = next(name for name, table in TABLES.items() if table == info.field_name)
        given = [d.name for d in info.data.get("deployments", ()) if getattr(d, own) is not None]
        every = len(info.data.get("deployments", ()))
        if value is not None and given:
            text = f"is given, and deployment {given[0]!r} has its own {own}; say it once"
            raise line_errors([((), text)])
        if value is None and len(given) < every and (own != "accuracy_percent" or given):
            lacking = next(d.name for d in info.data["deployments"] if getattr(d, own) is None)
            raise line_errors([((), f"is missing, and deployment {lacking!r} has no {own}")])
        return value

    @field_validator("accuracy_min_percent", "accuracy_floor_percent")
    @classmethod
    def _accuracy_known(cls, value: Any, info: ValidationInfo) -> Any:
        if value is not None and not _knows(info.data, "accuracy_percent"):
            text = "is given, but accuracy_percent is known of no deployment"
            raise line_errors([((), text)])
        return value

    @field_validator("limits")
    @classmethod
    def _limits_fit(cls, value: tuple[Limit, ...], info: ValidationInfo) -> tuple[Limit, ...]:
        found: Found = []
        known = labels(info.data.get("deployments", ()))
        for i, limit in enumerate(value):
            if text := _metric_problem(limit.metric, info.data):
                found.append(((i, "metric"), text))
            named = limit.deployments or ()
            unknown = [name for name in named if name not in known]
            if "deployments" in info.data and unknown:
                text = f"{unknown[0]!r} is not one of the deployments {list(known)}"
                found.append(((i, "deployments"), text))
            if limit.deployments is not None and len(set(named)) != max(len(named), 1):
                found.append(((i, "deployments"), "names none, or one twice"))
        if found:
            raise line_errors(found)
        return value

    @field_validator("objective")
    @classmethod
    def _objective_fits(cls, value: tuple[Stage, ...], info: ValidationInfo) -> tuple[Stage, ...]:
        found: Found = [
            ((s, "terms", t, "metric"), text)
            for s, stage in enumerate(value)
            for t, term in enumerate(stage.terms)
            if (text := _metric_problem(term.metric, info.data))
        ]
        if found:
            raise line_errors(found)
        return value

    def has_metric(self, name: str) -> bool:
        """Whether every deployment has what a metric needs."""
        return name in METRICS and not _lacking(name, self.__dict__)

    @property
    def metrics(self) -> tuple[str, ...]:
        """Metrics that exist in this instance, in the order of the table."""
        return tuple(name for name in METRICS if self.has_metric(name))


def _knows(data: Mapping[str, Any], field: str) -> bool:
    """Whether a field is known of every deployment."""
    if field == "accuracy_percent" and data.get("accuracy_percent") is not None:
        return True
    if field == "host_w" and data.get("boundary") == "server":
        return True
    return all(getattr(d, field) is not None for d in data.get("deployments", ()))


def _lacking(metric: str, data: Mapping[str, Any]) -> list[str]:
    """Fields that a metric needs and not every deployment has."""
    return [field for field in METRICS[metric].needs if not _knows(data, field)]


def _additive(data: Mapping[str, Any]) -> Iterable[str]:
    return (n for n, m in METRICS.items() if m.kind == "additive" and not _lacking(n, data))


def _metric_problem(name: str, data: Mapping[str, Any]) -> str | None:
    """Why a metric can neither be weighed nor limited; None if it can."""
    if name not in METRICS:
        return f"{name!r} is not one of the metrics {list(_additive(data))}"
    if METRICS[name].kind != "additive":
        return f"{name} is a mean and only reported; expected one of {list(_additive(data))}"
    if lacking := _lacking(name, data):
        return f"{name} needs {' and '.join(lacking)} of every deployment"
    return None
