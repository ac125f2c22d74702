"""The problems greenopt knows, each in a package of its own, loaded when used."""

from __future__ import annotations

from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from greenopt.instance import Instance

PROBLEMS = {
    "placement": "PlacementInstance",
    "routing": "RoutingInstance",
}
"""Names of the problems, as in the ``problem`` field of files, and their instance classes."""


def part(problem: str, name: str) -> ModuleType:
    """Module `name` (instance, formulation, check, showing, ...) of a problem's package."""
    return import_module(f"greenopt.problems.{problem}.{name}")


def instance_class(problem: str) -> type[Instance]:
    """Instance class of a problem."""
    found: type[Instance] = getattr(part(problem, "instance"), PROBLEMS[problem])
    return found
