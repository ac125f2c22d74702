"""greenopt: provably optimal placement, sizing and routing of LLM serving.

Public names are loaded when first used, so that ``import greenopt`` costs little.
"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from greenopt._version import __version__

_folder = Path(__file__).resolve().parent.parent / "formulations"
if (_folder / "placement.py").exists():
    import sys

    from greenopt._checkout import FormulationsFinder

    sys.meta_path.append(FormulationsFinder(_folder))

if TYPE_CHECKING:
    from greenopt import datasets as datasets
    from greenopt import fitting as fitting
    from greenopt.certifying import Certificate, StageCertificate, certify
    from greenopt.checking import CheckReport, check
    from greenopt.errors import (
        GreenoptError,
        InputError,
        InstanceError,
        ModelError,
        SolutionError,
        SolverError,
    )
    from greenopt.explaining import Explanation, explain
    from greenopt.io import load, load_solution, to_pyomo
    from greenopt.labelled import LabelledArray
    from greenopt.plots import plot
    from greenopt.preparing import Prepared, prepare
    from greenopt.problems.placement.instance import PlacementInstance
    from greenopt.problems.routing.instance import RoutingInstance
    from greenopt.ranging import Marginal, Marginals, marginals
    from greenopt.results import Solution, StageResult, Status
    from greenopt.solving import solve

_HOME = {
    "Certificate": "certifying",
    "CheckReport": "checking",
    "Explanation": "explaining",
    "GreenoptError": "errors",
    "InputError": "errors",
    "InstanceError": "errors",
    "LabelledArray": "labelled",
    "Marginal": "ranging",
    "Marginals": "ranging",
    "ModelError": "errors",
    "PlacementInstance": "problems.placement.instance",
    "Prepared": "preparing",
    "RoutingInstance": "problems.routing.instance",
    "Solution": "results",
    "SolutionError": "errors",
    "SolverError": "errors",
    "StageCertificate": "certifying",
    "StageResult": "results",
    "Status": "results",
    "certify": "certifying",
    "check": "checking",
    "explain": "explaining",
    "load": "io",
    "load_solution": "io",
    "marginals": "ranging",
    "plot": "plots",
    "prepare": "preparing",
    "solve": "solving",
    "to_pyomo": "io",
}

__all__ = [
    "Certificate",
    "CheckReport",
    "Explanation",
    "GreenoptError",
    "InputError",
    "InstanceError",
    "LabelledArray",
    "Marginal",
    "Marginals",
    "ModelError",
    "PlacementInstance",
    "Prepared",
    "RoutingInstance",
    "Solution",
    "SolutionError",
    "SolverError",
    "StageCertificate",
    "StageResult",
    "Status",
    "__version__",
    "certify",
    "check",
    "explain",
    "load",
    "load_solution",
    "marginals",
    "plot",
    "prepare",
    "solve",
    "to_pyomo",
]


_PACKAGES = ("datasets", "fitting")


def __getattr__(name: str) -> Any:
    if name in _PACKAGES:
        return import_module(f"greenopt.{name}")
    if name not in _HOME:
        raise AttributeError(f"module 'greenopt' has no attribute {name!r}")
    value = getattr(import_module(f"greenopt.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return [*__all__, *_PACKAGES]
