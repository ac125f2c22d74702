"""Parts of instances that the builders share: neutral values, plain services, checked arguments."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, NamedTuple

import numpy as np

from greenopt.errors import InstanceError, Problem

ZERO: Mapping[str, Any] = {"axes": [], "values": 0.0}
ONE: Mapping[str, Any] = {"axes": [], "values": 1.0}
NO_TOKENS: Mapping[str, Any] = {"values": (0.0,), "probabilities": (1.0,)}


class Argument(NamedTuple):
    """An array that a builder takes: what it is called, over what, and what it may hold."""

    name: str
    values: Any
    axes: Mapping[str, int | None]
    """Length along each axis; None takes any but 0."""

    minimum: float | None = None
    unknown: bool = False
    """Whether elements may be NaN."""


def arrays(source: str, *arguments: Argument) -> list[np.ndarray]:
    """Arguments as arrays of floats, or every one that is not what it should be.

    Raises
    ------
    InstanceError
        Named after `source`, a line for each problem.
    """
    read = [_array(argument) for argument in arguments]
    problems = [problem for _, problem in read if problem is not None]
    if problems:
        raise InstanceError(source, problems)
    return [values for values, _ in read]


_PLURAL = {"class": "classes"}


def _array(argument: Argument) -> tuple[np.ndarray, Problem | None]:
    def refuse(message: str) -> tuple[np.ndarray, Problem]:
        return np.empty(0), Problem(argument.name, message)

    try:
        values = np.array(argument.values, dtype=float)
    except (TypeError, ValueError):
        return refuse(f"does not hold numbers over {', '.join(argument.axes)}")
    wanted = tuple(argument.axes.values())
    fits = values.ndim == len(wanted) and values.size > 0
    if not fits or any(n not in (None, m) for n, m in zip(wanted, values.shape, strict=True)):
        axes = ", ".join(
            k if n is None else f"{n} {_PLURAL.get(k, k + 's')}" for k, n in argument.axes.items()
        )
        return refuse(f"has the shape {values.shape}, expected ({axes})")
    good = np.isfinite(values) | (argument.unknown & np.isnan(values))
    expected = "a finite number"
    if argument.minimum is not None:
        good &= np.isnan(values) | (values >= argument.minimum)
        expected += f" of at least {argument.minimum:g}"
    if not good.all():
        at = tuple(int(i) for i in np.argwhere(~good)[0])
        shown = ", ".join(f"{axis} {i}" for axis, i in zip(argument.axes, at, strict=True))
        return refuse(f"is {values[at]:g} at {shown or 'its only place'}; expected {expected}")
    return values, None


def periods(start: str, count: int, seconds: float, source: str) -> dict[str, Any]:
    """Consecutive periods of one length, the first at an ISO 8601 time with a zone."""
    stamps = (time_of(start, source) + timedelta(seconds=seconds * i) for i in range(count))
    return {"start": tuple(map(stamp, stamps)), "duration_s": (float(seconds),) * count}


def time_of(start: str, source: str) -> datetime:
    """Read an ISO 8601 time."""
    try:
        return datetime.fromisoformat(start)
    except ValueError:
        problem = Problem("start", f"{start!r} is not an ISO 8601 time")
        raise InstanceError(source, [problem]) from None


def stamp(moment: datetime) -> str:
    """A time as instances write it."""
    return moment.isoformat(timespec="minutes").replace("+00:00", "Z")


def provenance(given: Mapping[str, Any], rules: Sequence[str]) -> dict[str, Any]:
    """The data's provenance, with the builder's modelling rules appended."""
    return {**given, "rules": (*given.get("rules", ()), *rules)}


def published(description: str, builder: str, source: Mapping[str, str]) -> dict[str, Any]:
    """Provenance of a single published source."""
    return {
        "description": description,
        "builder": f"greenopt.problems.placement.builders.{builder}",
        "data_licence": source["licence"],
        "sources": (dict(source),),
    }


def neutral() -> dict[str, Any]:
    """Fields that a published problem does not have, at values that do nothing."""
    return {
        "problem": "placement",
        "schema_version": 1,
        "pue": ONE,
        "cycles_of_concentration": {"axes": [], "values": 6.0},
        "ewif_l_per_kwh": ZERO,
        "wue_l_per_kwh": ZERO,
        "price_usd_per_mwh": ZERO,
        "price_basis": "wholesale",
        "rtt_s": ZERO,
        "last_mile_s": ZERO,
        "egress_usd_per_gb": ZERO,
        "wue_basis": {"kind": "given", "note": "0: not in the published problem"},
        "ewif_set": "none: not in the published problem",
    }


def gpu_type(name: str) -> dict[str, Any]:
    """Hardware without memory or embodied carbon; the lifetime of a year has no effect."""
    return {"name": name, "memory_bytes": None, "embodied_kg": 0.0, "lifetime_s": 31536000.0}


def model(name: str) -> dict[str, Any]:
    """A model whose KV memory is not modelled."""
    return {"name": name, "weight_bytes": None, "kv_bytes_per_token": None}


def profile(
    model: str,
    mode: str,
    gpu_type: str,
    gpus: float = 1.0,
    *,
    requests_per_s: float,
    power_w: float = 0.0,
    ttft_s: float = 0.0,
    tbt_s: float = 0.0,
) -> dict[str, Any]:
    """One level at the facility boundary, with a prefill time whatever the prompt."""
    level = {
        "requests_per_s": requests_per_s,
        "power_w": power_w,
        "itl_s": {"mean": tbt_s},
        "prefill_s": (ttft_s, ttft_s),
    }
    return {
        "model": model,
        "mode": mode,
        "gpu_type": gpu_type,
        "gpus_per_instance": gpus,
        "power_boundary": "facility",
        "prefill_tokens": (0.0, 1.0),
        "levels": (level,),
    }


def request_class(name: str, model: str, modes: Sequence[str], **limits: Any) -> dict[str, Any]:
    """A class of requests that are the profile's reference requests in every mode."""
    return {
        "name": name,
        "model": model,
        "prompt_tokens": NO_TOKENS,
        "output_tokens": NO_TOKENS,
        "work_per_request": dict.fromkeys(modes, 1.0),
        "egress_bytes_per_request": 0.0,
        **limits,
    }


def service(
    model_name: str,
    mode: str,
    hardware: str,
    request: str,
    level: Mapping[str, float],
    **limits: Any,
) -> dict[str, Any]:
    """One model, mode, kind of hardware, profile and class: a server that takes requests."""
    return {
        "modes": (mode,),
        "models": (model(model_name),),
        "gpu_types": (gpu_type(hardware),),
        "profiles": (profile(model_name, mode, hardware, **level),),
        "classes": (request_class(request, model_name, [mode], **limits),),
    }


def each(values: Any, count: int) -> Any:
    """One value for all as a value for each."""
    return values if np.ndim(values) else [values] * count
