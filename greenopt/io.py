"""Opening files by what they say they are, and models for other tools."""

from __future__ import annotations

import os
from collections.abc import Sequence
from importlib import import_module
from typing import Any

from greenopt.errors import InstanceError, Problem
from greenopt.files import read_json
from greenopt.instance import Instance
from greenopt.model import Model
from greenopt.problems import PROBLEMS, instance_class, part
from greenopt.results import Solution


def load(path: str | os.PathLike[str]) -> Any:
    """Read an instance file of any problem.

    Parameters
    ----------
    path : path-like
        A ``.json`` or ``.json.gz`` file with a ``problem`` field.

    Returns
    -------
    Instance
        Of the problem's own class, for example `PlacementInstance`.

    Raises
    ------
    InstanceError
        With every problem found in the file, each with its JSON path.
    """
    document = read_json(path, InstanceError)
    if document.get("kind") == "solution":
        text = "is a solution file, expected an instance"
        raise InstanceError(str(path), [Problem("$", text)])
    if "problem" not in document:
        text = f"is missing, expected one of {list(PROBLEMS)}"
        raise InstanceError(str(path), [Problem("$.problem", text)])
    problem = document["problem"]
    if not isinstance(problem, str) or problem not in PROBLEMS:
        text = f"is {problem!r}, expected one of {list(PROBLEMS)}"
        raise InstanceError(str(path), [Problem("$.problem", text)])
    return instance_class(problem).parse(document, str(path))


def load_solution(path: str | os.PathLike[str]) -> Solution:
    """Read a solution file (see `Solution.load`)."""
    return Solution.load(path)


def to_model(instance: Instance) -> Model:
    """The instance as sparse arrays with named blocks."""
    model: Model = part(instance.problem, "formulation").formulate(instance).model
    return model


def to_pyomo(instance: Instance, stage: int = 0, fixed: Sequence[float] = ()) -> Any:
    """The instance as the Pyomo model of ``greenopt.formulations``, to extend and solve.

    Parameters
    ----------
    instance : Instance
        The problem.
    stage : int
        Stage of the objective.
    fixed : sequence of float
        Values of the earlier stages, which this one may worsen by their tolerance only.

    Returns
    -------
    pyomo.environ.ConcreteModel
        Readable and slow on purpose: meant for side constraints, study, and checking. It is not
        scaled: costs per request are small, so ask the solver for a dual tolerance of 1e-10.
    """
    return import_module(f"greenopt.formulations.{instance.problem}").build(instance, stage, fixed)
