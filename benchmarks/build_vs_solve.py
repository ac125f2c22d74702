"""Building the placement model against solving it, at 10^4 and 10^5 flow variables.

Writes results/build_vs_solve.json, which the docs render. Run it as

    python benchmarks/build_vs_solve.py

The instances are `quick` with each hour cut into equal parts: the same series and classes, more
periods. Figures are medians over repetitions in one process; machines differ, so read the ratios.
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
from pathlib import Path
from typing import Any

import greenopt as go
from greenopt.formulations import placement as pyomo_placement
from greenopt.problems.placement.formulation import formulate
from greenopt.solvers import solve_model

HERE = Path(__file__).parent
QUICK = HERE.parent / "instances" / "placement" / "quick.json"
PER_PERIOD = ("demand_requests", "gpus", "carbon_g_per_kwh", "price_usd_per_mwh", "pue")
PER_PERIOD += ("wue_l_per_kwh", "ewif_l_per_kwh")


def finer(instance: Any, parts: int, days: int) -> Any:
    """Cut every period of an instance into equal parts, and repeat it for several days."""
    start = datetime.datetime.fromisoformat(instance.periods.start[0])
    step = instance.periods.duration_s[0] / parts
    count = len(instance.periods.start) * parts * days
    changes: dict[str, Any] = {
        "name": f"{instance.name}-{count}-periods",
        "periods": {
            "start": [
                (start + datetime.timedelta(seconds=step * i)).isoformat() for i in range(count)
            ],
            "duration_s": [step] * count,
        },
    }
    for name in PER_PERIOD:
        series = getattr(instance, name).repeat(parts, axis=0)
        series = (
            series.reshape(1, *series.shape).repeat(days, axis=0).reshape(-1, *series.shape[1:])
        )
        changes[name] = series / parts if name == "demand_requests" else series
    return instance.replace(**changes)


def median_s(action: Callable[[], Any], repetitions: int) -> float:
    """Median wall time of an action, s."""
    times = []
    for _ in range(repetitions):
        started = time.perf_counter()
        action()
        times.append(time.perf_counter() - started)
    return statistics.median(times)


def measure(instance: Any, repetitions: int) -> list[Any]:
    """Measure one row: size, seconds by phase, ratios."""
    model = formulate(instance).model
    build = median_s(lambda: formulate(instance), repetitions)
    solve = statistics.median(solve_model(model).runtime_s for _ in range(repetitions))
    pyomo = median_s(lambda: pyomo_placement.build(instance), 1)
    return [
        model.columns["flow"].size,
        model.matrix.shape[1],
        model.matrix.shape[0],
        model.matrix.nnz,
        round(build, 4),
        round(solve, 3),
        round(pyomo, 2),
        round(100 * build / solve, 2),
        round(pyomo / build, 0),
    ]


def main() -> None:
    """Measure and write the results file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--smoke", action="store_true", help="smallest size, nothing written")
    options = parser.parse_args()
    quick = go.load(QUICK)
    sizes = [(1, 1)] if options.smoke else [(1, 1), (4, 1), (4, 3)]
    rows = [measure(finer(quick, parts, days), options.repetitions) for parts, days in sizes]
    record = {
        "benchmark": "build_vs_solve",
        "what": "Seconds to build the placement model against seconds HiGHS takes to solve it, "
        "and against building the Pyomo statement",
        "command": f"python benchmarks/build_vs_solve.py --repetitions {options.repetitions}",
        "date": datetime.date.today().isoformat(),
        "machine": {
            "cores": os.cpu_count(),
            "python": platform.python_version(),
            "highs": solver(),
        },
        "columns": [
            "flow variables",
            "columns",
            "rows",
            "coefficients",
            "build s",
            "HiGHS s",
            "Pyomo build s",
            "build / HiGHS %",
            "Pyomo build / build",
        ],
        "rows": rows,
        "notes": [
            "Instances: quick with its hours cut into quarters (second row) and repeated for three "
            "days (third row).",
            "Medians over repetitions; the Pyomo statement is built once.",
        ],
    }
    print(json.dumps(record, indent=1))
    if not options.smoke:
        (HERE / "results").mkdir(exist_ok=True)
        (HERE / "results" / "build_vs_solve.json").write_text(json.dumps(record, indent=1) + "\n")


def solver() -> str:
    """Return HiGHS's version."""
    from greenopt.solvers.highs import load_highspy

    return str(load_highspy().Highs().version())


if __name__ == "__main__":
    main()
