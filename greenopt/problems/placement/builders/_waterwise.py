"""WaterWise: jobs of one minute placed by carbon and water (arXiv 2501.17944)."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike

from greenopt.datasets._tables import (
    AnyPath,
    is_finite,
    read_column,
    read_list,
)
from greenopt.errors import InputError, InstanceError, Problem
from greenopt.files import read_json
from greenopt.physics.water import make_up_wue_l_per_kwh
from greenopt.problems.placement.builders import _parts
from greenopt.problems.placement.builders._parts import Argument
from greenopt.problems.placement.instance import PlacementInstance

WATERWISE_REGIONS = ("zurich", "madrid", "oregon", "milan", "mumbai")
"""The published regions, in the order of the published program."""

WATERWISE_WSF: Mapping[str, float] = {
    "zurich": 0.065, "madrid": 0.4325, "oregon": 0.579, "milan": 0.2981, "mumbai": 0.6649,
}  # fmt: skip
"""Published water scarcity factors (data/region_mix_2023.json)."""

WATERWISE_APPS = (
    "black", "cache", "canneal", "dedup", "graph",
    "memory", "serving", "media", "netdedup", "swaptions",
)  # fmt: skip
"""The published applications, taken here as those of the traces app1 to app10, in this order."""

WATERWISE_EMBODIED_G_PER_S = 1633982 / (4 * 365 * 86400)
"""Published embodied carbon of a busy server: 1633982 g over four years, g/s."""

WATERWISE_EMBODIED_L_PER_S = 2 * 1633982 / 747 / (4 * 365 * 86400)
"""Published embodied water of a busy server, L/s."""

WATERWISE_START = "2024-01-01T00:00Z"
"""Where minute 0 is put; the published series name no day."""

WATERWISE_CARBON_SIGNAL: Mapping[str, Any] = {
    "kind": "average",
    "scope": "life-cycle",
    "basis": "consumption",
    "provider": "Electricity Maps through LukeJYK/PPoPP25_WaterWise; its kind is not stated",
    "year": 2023,
}
"""What the published carbon intensity probably is; its year is not stated."""

WATERWISE_SOURCE: Mapping[str, str] = {
    "name": "WaterWise: traces, profiles, transfer times, carbon and water of five regions",
    "licence": "Apache-2.0",
    "attribution": "WaterWise: Co-optimizing Carbon- and Water-Footprint Toward Environmentally "
    "Sustainable Cloud Computing (arXiv 2501.17944), data from LukeJYK/PPoPP25_WaterWise",
    "url": "https://github.com/LukeJYK/PPoPP25_WaterWise @b6ce67a",
    "note": "Job counts are from the Google Borg and Alibaba traces, carbon and water factors from "
    "Electricity Maps, wet bulbs from meteologix.com, each under terms of its own.",
}
"""Where the published WaterWise data came from."""

ToleranceRule = Literal["hard", "dropped", "penalised"]

_RULES = (
    "A job is an origin with one request; a region is a site with its free nodes, each an instance "
    "that serves up to one job in the minute (load_rule at_most); jobs and nodes are whole.",
    "Round trips hold the transfer times.",
    "score is the published one; job_carbon_g and job_water_l are its parts before normalisation.",
    "Jobs differ in energy, which levels cannot: power and energy of nodes are 0, and carbon and "
    "water count by job in the custom metrics.",
    "Prices, PUE, embodied carbon of GPUs and egress are not in the published problem, or are "
    "contained in the custom metrics.",
)
_TOLERANCE_RULES: Mapping[str, str] = {
    "hard": "A job may not go where its transfer takes tolerance x its run time or longer.",
    "dropped": "Every job may go anywhere; the published slack of all pairs is a constant: "
    "tolerance_excess of a job adds up over all regions, wherever it goes.",
    "penalised": "Every job may go anywhere, at a penalty for its own excess over the tolerance.",
}


def waterwise(
    energy_kwh: ArrayLike,
    run_time_s: ArrayLike,
    transfer_s: ArrayLike,
    carbon_g_per_kwh: ArrayLike,
    water_l_per_kwh: ArrayLike,
    free_nodes: ArrayLike,
    *,
    regions: Sequence[str] = WATERWISE_REGIONS,
    jobs: Sequence[str] | None = None,
    waited_s: ArrayLike | None = None,
    history: ArrayLike | None = None,
    lambda_carbon: float = 0.5,
    lambda_history: float = 0.1,
    tolerance: float = 0.5,
    tolerance_rule: ToleranceRule = "hard",
    penalty: float = 10.0,
    embodied_g_per_s: float = WATERWISE_EMBODIED_G_PER_S,
    embodied_l_per_s: float = WATERWISE_EMBODIED_L_PER_S,
    start: str = WATERWISE_START,
    name: str = "waterwise",
    provenance: Mapping[str, Any] | None = None,
    carbon_signal: Mapping[str, Any] = WATERWISE_CARBON_SIGNAL,
) -> PlacementInstance:
    r"""Placement of one minute's jobs in WaterWise (arXiv 2501.17944).

    Job :math:`m` takes :math:`E_m` kWh and :math:`T_m` s and goes to one region :math:`n`:

    .. math::

        &\min\sum_{m,n}score_{mn}x_{mn}\quad\text{s.t.}\quad\sum_nx_{mn}=1,\quad
        \sum_mx_{mn}\le free_n,\quad x_{mn}\in\{0,1\},\\
        &score_{mn}=\lambda\frac{carbon_{mn}}{\max_n carbon_{mn}}
        +(1-\lambda)\frac{water_{mn}}{\max_n water_{mn}}+\lambda_{ref}\,hist_n,\\
        &carbon_{mn}=E_mCI_n+e_cT_m,\qquad water_{mn}=E_mWI_n+e_wT_m,

    with maxima over all regions, also full ones. With :math:`\rho_{mn}=transfer_{mn}/T_m` and
    :math:`\bar\rho` the tolerance, `tolerance_rule` says what a transfer that takes too long does:

    - "hard": :math:`x_{mn}=0` where :math:`\rho_{mn}\ge\bar\rho`. The published first attempt.
    - "dropped": nothing, and the constant :math:`10\sum_{mn}\max(0,\rho_{mn}-\bar\rho)` is added.
      This is what the published second attempt does where the first is infeasible, since its
      slacks are tied to no :math:`x`.
    - "penalised": :math:`10\max(0,\rho_{mn}-\bar\rho)` is added to :math:`score_{mn}`, which is
      probably what was meant.

    If there are more jobs than free nodes, the most urgent are kept (`waterwise_urgency`).

    Parameters
    ----------
    energy_kwh : array of float, (jobs,)
        Energy of each job, kWh.
    run_time_s : array of float, (jobs,)
        Run time of each job, s.
    transfer_s : array of float, (jobs, regions)
        Time to bring each job from its home to each region, s.
    carbon_g_per_kwh : array of float, (regions,)
        Carbon intensity, g/kWh.
    water_l_per_kwh : array of float, (regions,)
        Water intensity with scarcity, L/kWh, as of `waterwise_water_intensity`.
    free_nodes : int or array of int, (regions,)
        Free nodes of each region.
    regions : sequence of str
        Names of the regions.
    jobs : sequence of str, optional
        Names of the jobs, by default job 1, job 2, ...
    waited_s : array of float, (jobs,), optional
        Time that each job has waited, s, by default 0; only the queue looks at it.
    history : array of float, (regions,), optional
        Mean score of recent jobs in each region, NaN where there were none
        (`waterwise_history`); by default none anywhere.
    lambda_carbon : float
        Weight of carbon, 0.5; water has the rest.
    lambda_history : float
        Weight of the history, 0.1.
    tolerance : float
        Transfer time over run time that is too long, 0.5.
    tolerance_rule : {"hard", "dropped", "penalised"}
        See above.
    penalty : float
        Price of a unit of excess over the tolerance, 10.
    embodied_g_per_s, embodied_l_per_s : float
        Embodied carbon (g/s) and water (L/s) of a busy server.
    start : str
        Start of the minute, ISO 8601 with a zone.
    name : str
        Name of the instance.
    provenance : mapping, optional
        Provenance of the data, by default that of the published data; rules are appended.
    carbon_signal : mapping
        What the carbon intensity means.

    Returns
    -------
    PlacementInstance
        With an origin for each job that is kept, and the custom metrics ``score``,
        ``job_carbon_g``, ``job_water_l`` and, unless "hard", ``tolerance_excess``.

    Raises
    ------
    InstanceError
        If an array does not fit, no node is free, or a job has no run time or no positive carbon
        or water anywhere, which leaves its score undefined.
    """
    n, m = len(regions), int(np.size(energy_kwh))
    by_job, by_region, by_both = {"job": m}, {"region": n}, {"job": m, "region": n}
    nowhere = np.full(n, np.nan)
    energy, seconds, waited, transfer, ci, wi, free, recent = _parts.arrays(
        name,
        Argument("energy_kwh", energy_kwh, by_job, minimum=0),
        Argument("run_time_s", run_time_s, by_job, minimum=0),
        Argument("waited_s", np.zeros(m) if waited_s is None else waited_s, by_job, minimum=0),
        Argument("transfer_s", transfer_s, by_both, minimum=0),
        Argument("carbon_g_per_kwh", carbon_g_per_kwh, by_region),
        Argument("water_l_per_kwh", water_l_per_kwh, by_region),
        Argument("free_nodes", _parts.each(free_nodes, n), by_region, minimum=0),
        Argument("history", nowhere if history is None else history, by_region, unknown=True),
    )
    named = [f"job {i + 1}" for i in range(m)] if jobs is None else list(jobs)
    carbon = energy[:, None] * ci + embodied_g_per_s * seconds[:, None]
    water = energy[:, None] * wi + embodied_l_per_s * seconds[:, None]
    _refuse(name, named, m, seconds, carbon, water, free)
    score = (
        lambda_carbon * carbon / carbon.max(axis=1, keepdims=True)
        + (1 - lambda_carbon) * water / water.max(axis=1, keepdims=True)
        + lambda_history * np.nan_to_num(recent)
    )
    ratio = transfer / seconds[:, None]
    kept = np.arange(m)
    if m > free.sum():
        urgency = waterwise_urgency(seconds, transfer, free, waited, tolerance)
        kept = np.sort(np.argsort(urgency, kind="stable")[: int(free.sum())])
    metrics, terms, reachable = _tolerated(tolerance_rule, ratio[kept], tolerance, penalty, name)
    rules = [*_RULES, _TOLERANCE_RULES[tolerance_rule]]
    if len(kept) < m:
        rules.append(f"{len(kept)} of {m} jobs are kept, the most urgent; the others wait.")
    return PlacementInstance.parse(
        {
            **_parts.neutral(),
            **_parts.service("jobs", "node", "node", "job", {"requests_per_s": 1 / 60}),
            "name": name,
            "provenance": _parts.provenance(
                _published() if provenance is None else provenance, rules
            ),
            "periods": _parts.periods(start, 1, 60, name),
            "origins": tuple(named[i] for i in kept),
            "sites": tuple(regions),
            "carbon_signal": dict(carbon_signal),
            "load_rule": "at_most",
            "instance_counts": "integer",
            "request_counts": "integer",
            "demand_requests": _parts.ONE,
            "gpus": {"axes": ["site"], "values": free},
            "carbon_g_per_kwh": {"axes": ["site"], "values": ci},
            "rtt_s": transfer[kept],
            "reachable": reachable,
            "custom_metrics": (
                _of_jobs("score", "1", score[kept]),
                _of_jobs("job_carbon_g", "g CO2e", carbon[kept]),
                _of_jobs("job_water_l", "L with scarcity", water[kept]),
                *metrics,
            ),
            "objective": ({"terms": ({"metric": "score", "weight": 1.0}, *terms)},),
        },
        name,
    )


def waterwise_water_intensity(
    wet_bulb_c: ArrayLike,
    ewif_l_per_kwh: ArrayLike,
    wsf: ArrayLike,
    *,
    pue: float = 1.2,
    cycles_of_concentration: float = 3.0,
) -> np.ndarray:
    r"""Water intensity of WaterWise, :math:`(WUE+PUE\cdot EWIF)(1+WSF)`.

    Parameters
    ----------
    wet_bulb_c : array of float
        Wet-bulb temperature, °C; the published polynomial takes it in °F and has no floor.
    ewif_l_per_kwh : array of float
        Water of electricity, L/kWh.
    wsf : array of float
        Water scarcity factor.
    pue : float
        Power usage effectiveness, 1.2.
    cycles_of_concentration : float
        Cooling-tower cycles, 3.

    Returns
    -------
    array of float
        L/kWh, weighted by scarcity.
    """
    wue = make_up_wue_l_per_kwh(
        wet_bulb_c, unit="C", cycles_of_concentration=cycles_of_concentration, floor=-np.inf
    )
    result: np.ndarray = (wue + pue * np.asarray(ewif_l_per_kwh)) * (1 + np.asarray(wsf))
    return result


def waterwise_urgency(
    run_time_s: ArrayLike,
    transfer_s: ArrayLike,
    free_nodes: ArrayLike,
    waited_s: ArrayLike,
    tolerance: float = 0.5,
) -> np.ndarray:
    """Urgency of WaterWise's queue, s; the smallest goes first, ties in the order of the jobs.

    Tolerance x run time - mean transfer time over the regions with a free node - time waited.

    Parameters
    ----------
    run_time_s, waited_s : array of float, (jobs,)
        Run time and time waited, s.
    transfer_s : array of float, (jobs, regions)
        Transfer times, s.
    free_nodes : array of int, (regions,)
        Free nodes; at least one region has some.
    tolerance : float
        Transfer time over run time that is too long, 0.5.

    Returns
    -------
    array of float, (jobs,)
        Urgency, s.
    """
    means = np.asarray(transfer_s, dtype=float)[:, np.asarray(free_nodes) > 0].mean(axis=1)
    urgency: np.ndarray = tolerance * np.asarray(run_time_s) - means - np.asarray(waited_s)
    return urgency


def waterwise_history(
    minutes: Sequence[Mapping[str, Sequence[float]]],
    *,
    regions: Sequence[str] = WATERWISE_REGIONS,
    window: int = 10,
) -> np.ndarray:
    """Mean score of recent jobs in each region, as WaterWise's program keeps it.

    The program appends a minute's record once for every job placed in it and looks at the last
    `window` entries, so that a busy minute alone fills the window, and counts a minute as often as
    it stands there.

    Parameters
    ----------
    minutes : sequence of mapping
        For each minute, oldest first, the scores (without history) of the jobs in each region.
    regions : sequence of str
        Names of the regions.
    window : int
        Number of entries, 10.

    Returns
    -------
    array of float, (regions,)
        Mean score, NaN for regions without a job.
    """
    entries = [minute for minute in minutes for jobs in minute.values() for _ in jobs][-window:]
    scores = [[x for entry in entries for x in entry.get(region, ())] for region in regions]
    return np.array([np.mean(found) if found else np.nan for found in scores])


def waterwise_folder(
    folder: AnyPath,
    minute: int,
    *,
    trace: str = "borg",
    regions: Sequence[str] = WATERWISE_REGIONS,
    apps: Sequence[str] = WATERWISE_APPS,
    homes: Sequence[str] | None = None,
    seed: int = 40,
    free_nodes: ArrayLike = 35,
    wsf: Mapping[str, float] = WATERWISE_WSF,
    pue: float = 1.2,
    cycles_of_concentration: float = 3.0,
    wet_bulb_hours: Mapping[str, int] | None = None,
    start: str = WATERWISE_START,
    **options: Any,
) -> PlacementInstance:
    """Read the jobs that arrive in one minute from WaterWise's repository.

    A simulation also has jobs that wait from before, nodes that are still busy and a history of
    scores: give those by `free_nodes` and `history`, and use `waterwise` for jobs that wait.

    Parameters
    ----------
    folder : path
        With ``data/ci/REGION.txt`` (g/kWh), ``data/ewif/REGION.txt`` (L/kWh) and
        ``data/wet_bulb/REGION.txt`` (°C), a number a line and hour; ``data/transfer.json``
        (application, home, region: s); ``TRACE_trace/appK_instances.csv`` (jobs in each minute, one
        a line, no header) and ``profile_data/APP_energy.json`` and ``APP_time.json`` (lists of
        measured J and s, whose means are used).
    minute : int
        The minute, counted from 0; its hour is minute // 60.
    trace : str
        "borg" or "alibaba".
    regions : sequence of str
        Names of the regions.
    apps : sequence of str
        Application of the traces app1, app2, ...; the published program takes them in the order in
        which the operating system lists the files, so this order is an assumption.
    homes : sequence of str, optional
        Home region of each job, in the order of the traces. By default as published: an equal share
        of the jobs for each of zurich, milan, madrid, oregon and mumbai, the rest for the last,
        shuffled with `seed`.
    seed : int
        Seed of that shuffle, 40, the same in every minute.
    free_nodes : int or array of int, (regions,)
        Free nodes of each region, 35.
    wsf : mapping of str to float
        Water scarcity factor of each region.
    pue, cycles_of_concentration : float
        As in `waterwise_water_intensity`.
    wet_bulb_hours : mapping of str to int, optional
        Hours between wet-bulb values where not 1; by default 3 for mumbai.
    start : str
        Start of minute 0, ISO 8601 with a zone.
    **options
        As in `waterwise`, without jobs and waited_s.

    Returns
    -------
    PlacementInstance
        The instance.

    Raises
    ------
    InputError
        With file and row of what is missing or no number, or if no job arrives in the minute.
    """
    here, hour = Path(folder), minute // 60
    steps = {"mumbai": 3} if wet_bulb_hours is None else wet_bulb_hours
    ci, ewif = (
        [_at(here / "data" / kind / f"{region}.txt", hour) for region in regions]
        for kind in ("ci", "ewif")
    )
    bulbs = [
        _at(here / "data" / "wet_bulb" / f"{region}.txt", hour // steps.get(region, 1))
        for region in regions
    ]
    traces = [here / f"{trace}_trace" / f"app{k + 1}_instances.csv" for k in range(len(apps))]
    arriving = [
        app for app, path in zip(apps, traces, strict=True) for _ in range(_count(path, minute))
    ]
    if unknown := [region for region in regions if region not in wsf]:
        raise InputError("wsf", [Problem(region, "has no scarcity factor") for region in unknown])
    if not arriving:
        text = f"no job arrives in minute {minute}"
        raise InputError(str(traces[0].parent), [Problem("traces", text)])
    at_home = _published_homes(len(arriving), seed) if homes is None else list(homes)
    if len(at_home) != len(arriving):
        text = f"has {len(at_home)} regions, expected one for each of {len(arriving)} jobs"
        raise InputError("homes", [Problem("length", text)])
    profiles = {app: [_mean(here, app, kind) for kind in ("energy", "time")] for app in arriving}
    path = here / "data" / "transfer.json"
    placed = list(zip(arriving, at_home, strict=True))
    transfer = _transfer(path, placed, regions)
    first = _parts.time_of(start, "waterwise_folder")
    return waterwise(
        [profiles[app][0] / 3.6e6 for app in arriving],
        [profiles[app][1] for app in arriving],
        transfer,
        ci,
        waterwise_water_intensity(
            bulbs,
            ewif,
            [wsf[region] for region in regions],
            pue=pue,
            cycles_of_concentration=cycles_of_concentration,
        ),
        free_nodes,
        regions=regions,
        jobs=[f"{i + 1} {app} from {home}" for i, (app, home) in enumerate(placed)],
        start=_parts.stamp(first + timedelta(minutes=minute)),
        **options,
    )


def _refuse(
    source: str,
    named: list[str],
    count: int,
    seconds: np.ndarray,
    carbon: np.ndarray,
    water: np.ndarray,
    free: np.ndarray,
) -> None:
    """Refuse names that do not fit, jobs without a score, and nodes that are none or not whole."""
    problems = []
    if len(named) != count:
        problems.append(Problem("jobs", f"has {len(named)} names, expected {count}"))
    for what, values in (
        ("run_time_s", seconds),
        ("carbon", carbon.max(axis=1)),
        ("water", water.max(axis=1)),
    ):
        if (values <= 0).any():
            job = int(np.argmax(values <= 0))
            text = f"of job {job} is {values[job]:g} at most; its score needs a positive one"
            problems.append(Problem(what, text))
    if (free != np.round(free)).any() or free.sum() < 1:
        problems.append(
            Problem("free_nodes", "are not whole numbers, at least one of them above 0")
        )
    if problems:
        raise InstanceError(source, problems)


def _tolerated(
    rule: str, ratio: np.ndarray, tolerance: float, penalty: float, source: str
) -> tuple[list[dict[str, Any]], list[dict[str, Any]], dict[str, Any] | None]:
    """What a tolerance rule adds: metrics, terms, and the mask of places to go."""
    if rule not in _TOLERANCE_RULES:
        text = f"is {rule!r}; expected one of {list(_TOLERANCE_RULES)}"
        raise InstanceError(source, [Problem("tolerance_rule", text)])
    if rule == "hard":
        return [], [], {"axes": ["origin", "site"], "values": ratio < tolerance}
    excess = np.maximum(0.0, ratio - tolerance)
    counted = excess.sum(axis=1) if rule == "dropped" else excess
    term = {"metric": "tolerance_excess", "weight": penalty}
    return [_of_jobs("tolerance_excess", "1", counted)], [term], None


def _of_jobs(name: str, unit: str, values: np.ndarray) -> dict[str, Any]:
    """A custom metric on jobs, by region where the values are."""
    axes = ["origin", "site"][: values.ndim]
    return {"name": name, "unit": unit, "per_request": {"axes": axes, "values": values}}


def _at(path: Path, row: int) -> float:
    """One value of a series."""
    series = read_column(path)
    if not 0 <= row < len(series):
        text = f"has {len(series)} rows, row {row + 1} is asked for"
        raise InputError(str(path), [Problem("file", text)])
    return float(series[row])


def _count(path: Path, minute: int) -> int:
    """Jobs of one application in one minute."""
    value = _at(path, minute)
    if value < 0 or value != int(value):
        text = f"is {value:g}; expected a number of jobs"
        raise InputError(str(path), [Problem(f"row {minute + 1}", text)])
    return int(value)


def _mean(folder: Path, app: str, kind: str) -> float:
    """Mean of an application's measured runs."""
    return float(read_list(folder / "profile_data" / f"{app}_{kind}.json").mean())


def _published_homes(count: int, seed: int) -> list[str]:
    """Home regions as the published program draws them."""
    order = ("zurich", "milan", "madrid", "oregon", "mumbai")
    share = count // len(order)
    homes = [home for home in order[:-1] for _ in range(share)]
    homes += [order[-1]] * (count - len(homes))
    random.Random(seed).shuffle(homes)
    return homes[::-1]


def _transfer(
    path: Path, jobs: Sequence[tuple[str, str]], regions: Sequence[str]
) -> list[list[float]]:
    """Transfer times of jobs, given as application and home."""
    table = read_json(path, InputError)
    wanted = [(app, home, region) for app, home in jobs for region in regions]
    found = {key: _nested(table, key) for key in wanted}
    problems = [
        Problem("$." + ".".join(key), f"is {value!r}; expected seconds")
        for key, value in found.items()
        if not is_finite(value)
    ]
    if problems:
        raise InputError(str(path), problems)
    return [[found[app, home, region] for region in regions] for app, home in jobs]


def _nested(table: Any, keys: Sequence[str]) -> Any:
    for key in keys:
        table = table.get(key) if isinstance(table, Mapping) else None
    return table


def _published() -> dict[str, Any]:
    text = "Parallel jobs of one minute to the free nodes of five regions"
    return _parts.published(text, "waterwise", WATERWISE_SOURCE)
