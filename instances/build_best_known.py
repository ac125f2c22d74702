"""Write best_known.json beside every folder of instances: optimum, bound, and how it was proved.

Run it from anywhere after an instance was added or rebuilt:

    python instances/build_best_known.py
    python instances/build_best_known.py placement-freesh
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import greenopt as go

HERE = Path(__file__).parent
GAPS = {
    "world-day-integer": 5e-3,
    "alpaca-52k-capacity": 1e-6,
    "azure-conv-modern": 1e-6,
    "azure-code-modern": 1e-4,
    "legacy-chat": 1e-5,
}
"""Gaps asked for, where a search tree goes no further in a sensible time; else 0."""
SOLVERS = {"world-week-budgets": "decomposition"}
"""Solvers that suit an instance better than HiGHS alone."""
TIME_LIMIT_S = 3600.0


def record(path: Path) -> dict[str, Any]:
    """Solve one instance, in general as far as double precision goes, check it, prove its bound.

    Raises
    ------
    SystemExit
        If the plan fails its check, or the bound of an instance without whole numbers is not
        proved: then nothing is written.
    """
    instance = go.load(path)
    gap = GAPS.get(instance.name, 0.0)
    solver = SOLVERS.get(instance.name, "highs")
    solution = go.solve(instance, solver=solver, gap=gap, time_limit=TIME_LIMIT_S)
    known: dict[str, Any] = {
        "sha256": instance.sha256,
        "status": str(solution.status),
        "objective": solution.objective,
        "found_by": f"{solution.method} with {_words(solution.solver)} "
        f"{solution.versions['highs']}",
    }
    if solution.status == go.Status.INFEASIBLE:
        return known | {"bound": None, "proof": "none: HiGHS finds no plan"}
    certificate = go.certify(instance, solution, gap=max(gap, 1e-6))
    if not (go.check(instance, solution).ok and certificate.ok):
        raise SystemExit(f"{path}: {solution.status}, {certificate}")
    if solution.bound_source == "tree":
        proof = "HiGHS's search tree, not proved anew" + (f"; gap {gap:g} asked for" if gap else "")
        return known | {"bound": solution.bound, "proof": proof}
    if not certificate.optimal:
        raise SystemExit(f"{path}: {solution.status}, {certificate}")
    proof = "weak duality from the solution's marginals, evaluated by greenopt.certify"
    proof += f"; gap {gap:g} asked for" if gap else ""
    return known | {"bound": certificate.stages[-1].proved_bound, "proof": proof}


def _words(solver: str) -> str:
    return "HiGHS" if solver == "highs" else f"{solver} and HiGHS"


def main(names: Sequence[str]) -> None:
    """Rewrite the best known values of the folders named, or of all."""
    for folder in sorted(path for path in HERE.iterdir() if path.is_dir()):
        if names and folder.name not in names:
            continue
        files = sorted(folder.glob("*.json*"))
        known = {
            path.name.removesuffix(".gz").removesuffix(".json"): record(path)
            for path in files
            if path.name != "best_known.json"
        }
        (folder / "best_known.json").write_text(json.dumps(known, indent=1) + "\n")
        print(f"{folder.name}: {len(known)} instances")


if __name__ == "__main__":
    main(sys.argv[1:])
