"""Build the eGLB instances from the published data of ten sites.

    python instances/placement/build_eglb.py
    python instances/placement/build_eglb.py --name eglb-water --price 1 --water 600 --carbon 0

Without ``--name`` the four weightings of the authors' notebook are written; with it, the one given.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from greenopt.errors import InputError
from greenopt.problems.placement.builders import eglb_csv

HERE = Path(__file__).resolve().parent
DATA = HERE.parents[2] / "shared" / "data" / "peers" / "eglb" / "eglb_457h_10sites.csv"

PUBLISHED: dict[str, dict[str, Any]] = {
    "eglb-equitable": {"price": 1.0, "water": 60.0, "carbon": 1500.0, "over_sites": "max"},
    "eglb-min-price": {"price": 1.0, "water": 0.0, "carbon": 0.0, "over_sites": "mean"},
    "eglb-price-carbon": {"price": 1.0, "water": 0.0, "carbon": 6000.0, "over_sites": "mean"},
    "eglb-total": {"price": 1.0, "water": 300.0, "carbon": 3000.0, "over_sites": "mean"},
}
"""Weights and aggregates of the cases in the authors' quick_demo.ipynb, USD, USD/m3, USD/t."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Write the instances."""
    options = _parser().parse_args(arguments)
    chosen = PUBLISHED
    if options.name:
        fields = ("price", "water", "carbon", "over_sites")
        chosen = {options.name: {field: getattr(options, field) for field in fields}}
    for name, weights in chosen.items():
        options.out.mkdir(parents=True, exist_ok=True)
        eglb_csv(options.data, name=name, **weights).save(options.out / f"{name}.json.gz")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=DATA, help="the wide CSV table")
    parser.add_argument("--out", type=Path, default=HERE, help="folder to write to")
    parser.add_argument("--name", help="write one further weighting under this name")
    parser.add_argument("--price", type=float, default=1.0, help="weight of cost, 1")
    parser.add_argument("--water", type=float, default=60.0, help="weight of water, USD/m3")
    parser.add_argument("--carbon", type=float, default=1500.0, help="weight of carbon, USD/t")
    parser.add_argument("--over-sites", choices=("max", "mean"), default="max")
    return parser


if __name__ == "__main__":
    try:
        main()
    except InputError as error:
        sys.exit(str(error))
