"""Solving again after an update: in place with `prepare`, against building everything anew.

Writes results/resolve.json, which the docs render. Run it as

    python benchmarks/resolve.py

Both sides end with the same product: a plan that is checked and proved. Beside them, the same
updates in a plain loop over HiGHS with arrays that are there already: `changeRowsBounds`,
`changeColsBounds` and `changeColsCost`, against `passModel`. Everything is measured in one process
and in turn, in CPU seconds: there is one thread at work and nothing to wait for, so they are the
seconds of a clock on a quiet machine, and still mean the same on a busy one. Machines differ, so
read the ratios.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from build_vs_solve import HERE, QUICK, finer, solver

import greenopt as go
from greenopt.problems.placement.formulation import formulate
from greenopt.solvers.highs import load_highspy
from greenopt.solvers.scaling import Scaled, scale

SPREAD = 0.05
"""Standard deviation of the logarithm of what an update multiplies each number with."""

UPDATES = {
    "demand": ("demand_requests",),
    "carbon, price": ("carbon_g_per_kwh", "price_usd_per_mwh"),
    "demand, carbon, price": ("demand_requests", "carbon_g_per_kwh", "price_usd_per_mwh"),
    "PUE, in coefficients": ("pue",),
}
"""Fields of each kind of update; the last one changes rows of a demand charge."""


def larger(instance: Any, count: int, rng: np.random.Generator) -> Any:
    """Repeat origins and sites up to a number of them, none quite like another."""
    origin, site = (np.arange(count) % len(instance.sets[axis]) for axis in ("origin", "site"))

    def near(array: Any) -> Any:
        return array * rng.uniform(0.9, 1.1, array.shape)

    document = {
        "name": f"{instance.name}-{count}x{count}",
        "origins": [f"{instance.origins[o]} {i}" for i, o in enumerate(origin)],
        "sites": [f"{instance.sites[s]} {i}" for i, s in enumerate(site)],
        "demand_requests": near(instance.demand_requests[:, origin]) * 0.9,
        "gpus": instance.gpus[:, site],
        "pue": 1 + near(instance.pue[:, site] - 1),
        "cycles_of_concentration": instance.cycles_of_concentration[site],
        "last_mile_s": instance.last_mile_s[origin],
    }
    for name in ("carbon_g_per_kwh", "price_usd_per_mwh", "wue_l_per_kwh", "ewif_l_per_kwh"):
        document[name] = near(getattr(instance, name)[:, site])
    for name in ("rtt_s", "egress_usd_per_gb"):
        document[name] = near(getattr(instance, name)[np.ix_(origin, site)])
    if instance.gpu_usd_per_hour is not None:
        document["gpu_usd_per_hour"] = instance.gpu_usd_per_hour[site]
    return instance.replace(**document)


def drawn(instance: Any, fields: tuple[str, ...], rng: np.random.Generator) -> dict[str, Any]:
    """Draw new values of some fields around those of an instance."""
    changes = {}
    for name in fields:
        array = getattr(instance, name)
        factor = np.exp(SPREAD * rng.standard_normal(array.shape))
        if name == "demand_requests":
            factor = np.minimum(factor, 1.1)  # what there are GPUs for
        changes[name] = 1 + (array - 1) * factor if name == "pue" else array * factor
    return changes


def timed(action: Callable[[], Any]) -> tuple[float, Any]:
    """CPU time of an action on all threads, s, and what it returns."""
    started = time.process_time()
    result = action()
    return time.process_time() - started, result


class PlainLoop:
    """HiGHS as a careful user drives it: arrays in, point out, nothing checked."""

    def __init__(self) -> None:
        self._highspy = load_highspy()
        self._kept: Any = None

    def anew(self, new: Scaled) -> Any:
        """Pass the whole model and solve it."""
        highspy, highs = self._highspy, self._highspy.Highs()
        for option, value in (
            ("output_flag", False), ("threads", 1), ("primal_feasibility_tolerance", 1e-9),
        ):  # fmt: skip
            highs.setOptionValue(option, value)
        lp = highspy.HighsLp()
        lp.num_row_, lp.num_col_ = new.matrix.shape
        lp.col_cost_, lp.col_lower_, lp.col_upper_ = new.c, new.column_lower, new.column_upper
        lp.row_lower_, lp.row_upper_ = new.row_lower, new.row_upper
        lp.a_matrix_.format_ = highspy.MatrixFormat.kColwise
        lp.a_matrix_.start_, lp.a_matrix_.index_ = new.matrix.indptr, new.matrix.indices
        lp.a_matrix_.value_ = new.matrix.data
        highs.passModel(lp)
        highs.run()
        return highs

    def begin(self, new: Scaled) -> None:
        """Keep a solved model."""
        self._kept = self.anew(new)

    def in_place(self, new: Scaled) -> Any:
        """Change costs and bounds of the kept model, and solve it from its last basis."""
        n_rows, n_columns = new.matrix.shape
        rows, columns = np.arange(n_rows, dtype=np.int32), np.arange(n_columns, dtype=np.int32)
        self._kept.changeColsCost(n_columns, columns, new.c)
        self._kept.changeColsBounds(n_columns, columns, new.column_lower, new.column_upper)
        self._kept.changeRowsBounds(n_rows, rows, new.row_lower, new.row_upper)
        self._kept.run()
        return self._kept


def measure(instance: Any, kind: str, repetitions: int, seed: int) -> list[Any]:
    """Measure one row: seconds and ratios of one kind of update."""
    rng = np.random.default_rng(seed)
    coefficients = "pue" in UPDATES[kind]
    if coefficients:
        charge = np.full(len(instance.sites), 10.0)
        instance = instance.replace(demand_charge_usd_per_kw=charge)
    times: dict[str, list[float]] = {"anew": [], "in place": [], "pass": [], "change": []}
    loop = PlainLoop()
    loop.begin(_scaled(instance))
    with go.prepare(instance) as prepared:
        prepared.solve()
        for _ in range(repetitions):
            changes = drawn(instance, UPDATES[kind], rng)

            def again(changes: dict[str, Any] = changes) -> Any:
                prepared.update(**changes)
                return prepared.solve()

            def fresh(changes: dict[str, Any] = changes) -> Any:
                return go.solve(instance.replace(**changes))

            seconds, there = timed(again)
            times["in place"].append(seconds)
            seconds, anew = timed(fresh)
            times["anew"].append(seconds)
            same = abs(there.objective - anew.objective) <= 1e-6 * abs(anew.objective)
            if not (there.report["in_place"] and there.status == anew.status == "optimal" and same):
                raise RuntimeError(f"{kind}: {there} in place, {anew} anew; {there.report}")
            if not coefficients:
                scaled = _scaled(prepared.instance)
                times["change"].append(timed(lambda new=scaled: loop.in_place(new))[0])
                times["pass"].append(timed(lambda new=scaled: loop.anew(new))[0])
    middle = {name: statistics.median(found) for name, found in times.items() if found}
    plain = round(middle["pass"] / middle["change"], 1) if "pass" in middle else "-"
    return [
        instance.name,
        kind,
        formulate(instance).model.matrix.shape[1],
        round(middle["anew"], 3),
        round(middle["in place"], 3),
        round(middle["anew"] / middle["in place"], 1),
        round(middle["pass"], 3) if "pass" in middle else "-",
        round(middle["change"], 3) if "change" in middle else "-",
        plain,
    ]


def _scaled(instance: Any) -> Scaled:
    model = formulate(instance).model
    return scale(model, model.stages[0].c)


def main() -> None:
    """Measure and write the results file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repetitions", type=int, default=7)
    parser.add_argument("--smoke", action="store_true", help="smallest size, nothing written")
    options = parser.parse_args()
    quick = go.load(QUICK)
    instances = [quick]
    if not options.smoke:
        wide = larger(quick, 15, np.random.default_rng(0))
        instances += [finer(quick, 4, 2), finer(wide, 3, 1)]
    rows = [
        measure(instance, kind, options.repetitions, seed)
        for instance in instances
        for seed, kind in enumerate(UPDATES)
    ]
    record = {
        "benchmark": "resolve",
        "what": "CPU seconds from an update to a checked and proved plan: `prepared.update` and "
        "`prepared.solve` in place against `go.solve` of the changed instance, and HiGHS alone "
        "with changed bounds and costs against HiGHS alone with the whole model passed again",
        "command": f"python benchmarks/resolve.py --repetitions {options.repetitions}",
        "date": datetime.date.today().isoformat(),
        "machine": {
            "cores": os.cpu_count(),
            "python": platform.python_version(),
            "highs": solver(),
        },
        "columns": [
            "instance",
            "update",
            "columns",
            "go.solve s",
            "in place s",
            "go.solve / in place",
            "HiGHS anew s",
            "HiGHS in place s",
            "HiGHS anew / in place",
        ],
        "rows": rows,
        "notes": [
            "An update multiplies each number of the fields named with a lognormal factor of "
            f"{SPREAD:.0%} spread, drawn anew in each repetition; the PUE's part above one.",
            "Instances: quick; quick with its hours cut into quarters, twice; quick with 15 "
            "origins and 15 sites, none quite like another, and its hours cut into thirds.",
            "The columns of HiGHS alone leave out building the arrays, checking the plan and "
            "proving the bound. It has no call for changed coefficients; greenopt passes the model "
            "and sets the last basis.",
            "A Pyomo persistent interface is not measured: the Pyomo statement holds plain "
            "numbers, and building it takes longer than everything here (see build_vs_solve).",
            "Medians over repetitions. One thread works, so CPU seconds are those of a clock on a "
            "machine with nothing else to do.",
        ],
    }
    print(json.dumps(record, indent=1))
    if not options.smoke:
        (HERE / "results").mkdir(exist_ok=True)
        (HERE / "results" / "resolve.json").write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
