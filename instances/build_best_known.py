"""Write best_known.json beside every folder of instances: optimum, bound, and how it was proved.

Run it from anywhere after an instance was added or rebuilt:

    python instances/build_best_known.py
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import greenopt as go

HERE = Path(__file__).parent


def record(path: Path) -> dict[str, Any]:
    """Solve one instance as far as double precision goes, check it and prove its bound.

    Raises
    ------
    SystemExit
        If the plan fails its check or the bound is not proved: then nothing is written.
    """
    instance = go.load(path)
    solution = go.solve(instance, gap=0.0)
    certificate = go.certify(instance, solution)
    if not (go.check(instance, solution).ok and certificate.optimal):
        raise SystemExit(f"{path}: {solution.status}, {certificate}")
    return {
        "sha256": instance.sha256,
        "status": str(solution.status),
        "objective": solution.objective,
        "bound": certificate.stages[-1].proved_bound,
        "proof": "weak duality from the solution's marginals, evaluated by greenopt.certify",
        "found_by": f"{solution.method} with HiGHS {solution.versions['highs']}",
    }


def main() -> None:
    """Rewrite the best known values of every folder."""
    for folder in sorted(path for path in HERE.iterdir() if path.is_dir()):
        files = sorted(folder.glob("*.json*"))
        known = {
            path.name.removesuffix(".gz").removesuffix(".json"): record(path)
            for path in files
            if path.name != "best_known.json"
        }
        (folder / "best_known.json").write_text(json.dumps(known, indent=1) + "\n")
        print(f"{folder.name}: {len(known)} instances")


if __name__ == "__main__":
    main()
