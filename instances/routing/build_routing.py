"""Build the routing instances: Alpaca over Llama-2, Azure's traces over Llama 3.1, and others.

    python instances/routing/build_routing.py
    python instances/routing/build_routing.py --name azure-code-modern --out DIR

Every choice that is not a figure of a source stands in the modules beside this script, among the
rules, and goes into the instances.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

from greenopt.errors import GreenoptError
from greenopt.problems.routing.instance import RoutingInstance

HERE = Path(__file__).resolve().parent
sys.path += [str(HERE), str(HERE.parent)]

from composing import DATA  # noqa: E402
from routing_measured import legacy_chat, modern  # noqa: E402
from routing_wilkins import alpaca_52k, alpaca_52k_capacity, alpaca_500, hybrid  # noqa: E402

BUILDERS: Mapping[str, Callable[[Path, str], RoutingInstance]] = {
    "alpaca-500.json": partial(alpaca_500, zeta=0.5),
    "alpaca-500-zeta0.json": partial(alpaca_500, zeta=0.0),
    "alpaca-500-zeta1.json": partial(alpaca_500, zeta=1.0),
    "alpaca-52k.json.gz": alpaca_52k,
    "alpaca-52k-capacity.json.gz": alpaca_52k_capacity,
    "azure-conv-modern.json.gz": modern,
    "azure-code-modern.json.gz": modern,
    "hybrid-llama2.json": hybrid,
    "legacy-chat.json": legacy_chat,
}
"""What makes each file, from the folder of the real data and the instance's name."""


def name_of(file: str) -> str:
    """Name of the instance in a file."""
    return file.removesuffix(".gz").removesuffix(".json")


def main(arguments: Sequence[str] | None = None) -> None:
    """Write the instances."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    names = [name_of(file) for file in BUILDERS]
    parser.add_argument("--name", choices=names, help="build this one (default: all)")
    parser.add_argument("--data", type=Path, default=DATA, help="folder of the real data")
    parser.add_argument("--out", type=Path, default=HERE, help="folder to write to")
    options = parser.parse_args(arguments)
    if not options.data.is_dir():
        parser.error(f"there is no folder {options.data}; name the real data's with --data")
    options.out.mkdir(parents=True, exist_ok=True)
    for file, build in BUILDERS.items():
        if options.name in (None, name_of(file)):
            build(options.data, name_of(file)).save(options.out / file)


if __name__ == "__main__":
    try:
        main()
    except GreenoptError as error:
        sys.exit(str(error))
