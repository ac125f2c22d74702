"""Fits of the measurements beside the repository: coefficients, intervals, quality.

Writes results/fits.json, which the docs render. Run it as

    python benchmarks/fits.py

It needs the real data in ../shared. Only coefficients and figures of quality are written: some of
the measurements state no licence, and none of their rows is in the record.
"""

from __future__ import annotations

import argparse
import datetime
import json
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from greenopt import datasets, fitting

HERE = Path(__file__).resolve().parent
DATA = HERE.parent.parent / "shared" / "data"


def token_rows() -> list[dict[str, Any]]:
    """Laws of tokens of the seven models: as published, and ours."""
    path = DATA / "wilkins" / "measurements_a100_40gb.csv"
    measured = datasets.read_token_measurements(path, gpu="A100 40GB")
    rows = []
    for quantity in ("energy_j", "runtime_s"):
        published = fitting.tokens_by_model(measured, quantity)
        physical = fitting.tokens_by_model(measured, quantity, physical=True, relative=True)
        for served, fit in published.items():
            rows.append({"model": served.model, "gpus": served.gpus, **of(fit)})
            rows[-1]["below_zero"] = int(np.count_nonzero(fit.predicted < 0))
            rows[-1]["physical"] = of(physical[served])
    return rows


def clock_rows() -> list[dict[str, Any]]:
    """Laws of clocks of the V100, with the best clock by measurement and by the law."""
    rows = []
    for requests in (1, 64):
        path = DATA / "dvfs" / f"v100_mistral7b_{requests}req.csv"
        laws = fitting.frequency_laws(datasets.read_frequency_measurements(path))
        for workload, each in laws.items():
            best = each.law_best()
            assert best is not None  # there is no limit to miss
            rows.append({
                "workload": workload, "requests": requests, "power": of(each.power),
                "time": of(each.time), "measured": each.measured_best()._asdict(),
                "law": best._asdict(),
            })  # fmt: skip
    return rows


def batch_rows() -> list[dict[str, Any]]:
    """Laws of batches of the chats of ML.ENERGY v2."""
    path = DATA / "power" / "mlenergy_v2_llm.csv"
    measured = datasets.read_energy_measurements(path).select(task="llm_text_generation/chat")
    return [
        {**served._asdict(), "energy": of(each.energy), "itl": of(each.itl["mean"]),
         "power": of(each.power)}
        for served, each in fitting.batch_laws(measured).items()
    ]  # fmt: skip


def of(fit: fitting.Fit) -> dict[str, Any]:
    """What is recorded of a fit: no measured point."""
    plain = ("unit", "n", "r2", "r2_kind", "mape_percent", "level", "label", "boundary")
    found = {name: getattr(fit, name) for name in plain}
    coefficients = {name: [value, *fit.intervals[name]] for name, value in fit.coefficients.items()}
    return {**found, "coefficients": coefficients, "valid": dict(fit.valid)}


def laid_out(value: Any) -> str:
    """JSON, a line a row."""
    if not isinstance(value, list):
        return json.dumps(value)
    return "[\n  " + ",\n  ".join(map(json.dumps, value)) + "\n ]"


def main() -> None:
    """Fit and write the results file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--smoke", action="store_true", help="fit, but write nothing")
    options = parser.parse_args()
    record = {
        "benchmark": "fits",
        "what": "Laws of energy, power and time fitted to public measurements",
        "page": "fits.md",
        "command": "python benchmarks/fits.py",
        "date": datetime.date.today().isoformat(),
        "machine": {name: version(name) for name in ("numpy", "scipy", "statsmodels")},
        "tokens": token_rows(),
        "clocks": clock_rows(),
        "batches": batch_rows(),
    }
    lines = ",\n".join(f' "{key}": {laid_out(value)}' for key, value in record.items())
    print(f"{{\n{lines}\n}}")
    if not options.smoke:
        path = HERE / "results" / "fits.json"
        path.write_text(f"{{\n{lines}\n}}\n", encoding="utf-8")


if __name__ == "__main__":
    main()
