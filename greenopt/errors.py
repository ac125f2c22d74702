"""Exceptions: every user mistake becomes one of these, with the place and the expectation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple


class Problem(NamedTuple):
    """One thing that is wrong in an input: where (a JSON path) and what."""

    path: str
    message: str

    def __str__(self) -> str:
        return f"{self.path}: {self.message}"


class GreenoptError(Exception):
    """Base class of every error greenopt raises on purpose."""


class InputError(GreenoptError, ValueError):
    """A file or document that cannot be used, with all its problems at once.

    Parameters
    ----------
    source : str
        File name, or a description of where the document came from.
    problems : sequence of Problem
        Every problem found, each with its JSON path.
    """

    def __init__(self, source: str, problems: Sequence[Problem]) -> None:
        self.source = source
        self.problems = tuple(problems)
        super().__init__("\n".join(f"{source}: {problem}" for problem in self.problems))


class InstanceError(InputError):
    """An instance that is not valid."""


class SolutionError(InputError):
    """A solution file that is not valid, or does not belong to the instance."""


class ModelError(GreenoptError, ValueError):
    """A request the formulation cannot honour, with the reason and the alternative."""


class NoOptimumError(ModelError):
    """A question about an optimum where there is none, or none was found in time."""


class SolverError(GreenoptError, RuntimeError):
    """A solver that is missing, too old, or failed."""
