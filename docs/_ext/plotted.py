"""Every kind of plot, and what `greenopt info` prints, for the quick instance."""

from __future__ import annotations

from pathlib import Path

from example import _run
from tables import write

import greenopt as go
from greenopt.problems.placement.showing import PLOTS

CITIES = {
    "Virginia": (39.05, -77.49),
    "California": (37.77, -122.42),
    "Texas": (32.78, -96.80),
    "London": (51.51, -0.13),
    "Frankfurt": (50.11, 8.68),
    "Tokyo": (35.68, 139.69),
    "Sydney": (-33.87, 151.21),
    "Sao Paulo": (-23.56, -46.64),
}
"""Latitude and longitude of the cities that the regions of `quick` stand for, degrees."""


def write_all(root: Path, out: Path) -> None:
    """Draw every kind, and keep the text of `greenopt info`."""
    quick = root / "instances" / "placement" / "quick.json"
    places = {name: {"latitude_deg": a, "longitude_deg": b} for name, (a, b) in CITIES.items()}
    inst = go.load(quick).replace(locations=places)
    solution = go.solve(inst)
    for kind in PLOTS:
        go.plot(inst, solution, out / f"plot_{kind}.png", kind)
    lines = _run(["info", str(quick)]).splitlines(keepends=True)
    shown = [line for line in lines if not line.startswith(("  rule: ", "  source: "))]
    write(out / "info.txt", "".join(shown))
