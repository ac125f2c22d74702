"""Build the FREESH instances: every other 30-minute window of the published day.

    python instances/placement-freesh/build_freesh.py
    python instances/placement-freesh/build_freesh.py --windows 1 3 --out /tmp

Windows are numbered from 0 to 47.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from greenopt.errors import InputError
from greenopt.problems.placement.builders import freesh_folder

HERE = Path(__file__).resolve().parent
DATA = HERE.parents[2] / "shared" / "data" / "peers" / "freesh"


def main(arguments: Sequence[str] | None = None) -> None:
    """Write the instances."""
    options = _parser().parse_args(arguments)
    options.out.mkdir(parents=True, exist_ok=True)
    for window in options.windows:
        name = f"freesh-{window:02d}"
        freesh_folder(options.data, windows=[window], name=name).save(options.out / f"{name}.json")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=DATA, help="folder of tables and series")
    parser.add_argument("--out", type=Path, default=HERE, help="folder to write to")
    parser.add_argument("--windows", type=int, nargs="+", default=range(0, 48, 2), help="0 to 47")
    return parser


if __name__ == "__main__":
    try:
        main()
    except InputError as error:
        sys.exit(str(error))
