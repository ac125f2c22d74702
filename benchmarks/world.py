"""The committed instances of the size of the world: solved to their gap, checked and proved.

Writes results/world.json, which the docs render. Run it as

    python benchmarks/world.py

Each row is one instance and one solver, in one process, one after the other, single-threaded.
Machines differ and this one may be shared, so read the times as orders of magnitude and compare
rows of one run. `certify` proves bounds without a solver; that of an instance with whole numbers
is claimed by a search tree.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import time
from pathlib import Path
from typing import Any

from build_vs_solve import solver as solver_version

import greenopt as go
from greenopt.io import to_model

HERE = Path(__file__).resolve().parent
FOLDER = HERE.parent / "instances" / "placement-world"

RUNS: tuple[tuple[str, str, float, float], ...] = (
    ("world-day", "highs", 1e-6, 120),
    ("world-day", "decomposition", 1e-6, 120),
    ("world-day-budgets", "highs", 1e-6, 120),
    ("world-day-budgets", "decomposition", 1e-6, 120),
    ("world-day-30-budgets", "highs", 1e-6, 120),
    ("world-day-30-budgets", "decomposition", 1e-6, 120),
    ("world-day-integer", "highs", 5e-3, 120),
    ("world-day-deferrable", "highs", 1e-6, 120),
    ("world-day-equity", "highs", 1e-6, 120),
    ("world-day-equity", "decomposition", 1e-6, 120),
    ("world-day-residency", "highs", 1e-6, 120),
    ("world-week", "highs", 1e-6, 600),
    ("world-week", "decomposition", 1e-6, 600),
    ("world-week-budgets", "highs", 1e-6, 600),
    ("world-week-budgets", "decomposition", 1e-6, 600),
)
"""Instance, solver, relative gap and time limit in s."""

COLUMNS = (
    "instance", "flow columns", "solver", "status", "gap asked", "gap", "solve s", "certify s",
    "check", "certificate",
)  # fmt: skip


def run(name: str, solver: str, gap: float, limit_s: float) -> list[Any]:
    """One row."""
    instance = go.load(FOLDER / f"{name}.json.gz")
    started = time.perf_counter()
    solution = go.solve(instance, solver=solver, gap=gap, time_limit=limit_s)
    solved_s = time.perf_counter() - started
    flows = to_model(instance).columns["flow"].size
    row: list[Any] = [name, flows, solver, str(solution.status), gap, solution.gap]
    if not solution.decision:
        return [*row, round(solved_s, 2), None, "no plan", "no plan"]
    checked = go.check(instance, solution).ok
    started = time.perf_counter()
    proof = go.certify(instance, solution, gap=gap)
    certified_s = time.perf_counter() - started
    claimed = "bound claimed by the search" if proof.ok else "not proved"
    proved = "bound proved" if proof.optimal else claimed
    return [
        *row, round(solved_s, 2), round(certified_s, 2), "passed" if checked else "failed", proved,
    ]  # fmt: skip


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--smoke", action="store_true", help="the two smallest rows only")
    parser.add_argument("--repetitions", type=int, default=1, help="of every row; the best counts")
    parser.add_argument("--out", type=Path, default=HERE / "results" / "world.json")
    options = parser.parse_args()
    rows = []
    for wanted in RUNS[:2] if options.smoke else RUNS:
        again = [run(*wanted) for _ in range(options.repetitions)]
        rows.append(min(again, key=lambda row: row[COLUMNS.index("solve s")]))
        print(*rows[-1], flush=True)
    record = {
        "benchmark": "world",
        "what": "Instances of the size of the world, solved, checked and certified. One flow "
        "column is a request class of an origin in a period at a site and mode.",
        "columns": COLUMNS,
        "rows": rows,
        "command": "python benchmarks/world.py",
        "date": datetime.date.today().isoformat(),
        "machine": {
            "cores": os.cpu_count(),
            "python": platform.python_version(),
            "highs": solver_version(),
        },
        "notes": [
            "Solve s is the wall time of `go.solve`: build, solve, decode and check; 600 s is the "
            "limit of a week, 120 s of a day.",
            "A bound proved is one that `go.certify` recomputes from the instance and the "
            "multipliers without a solver; that of whole instances is claimed by HiGHS's search.",
        ],
    }
    if not options.smoke:
        options.out.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
