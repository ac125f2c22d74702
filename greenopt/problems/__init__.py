"""The problems greenopt knows, each in a package of its own, loaded when used."""

from __future__ import annotations

from importlib import import_module
from types import ModuleType

PROBLEMS = ("placement",)
"""Names of the problems, as in the ``problem`` field of instance and solution files."""


def part(problem: str, name: str) -> ModuleType:
    """Module `name` (instance, formulation, check, certify) of a problem's package."""
    return import_module(f"greenopt.problems.{problem}.{name}")
