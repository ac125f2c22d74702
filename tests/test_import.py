"""What importing greenopt costs, and that every public name is what it should be."""

from __future__ import annotations

import inspect
import json
import os
import pkgutil
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import greenopt as go

REPOSITORY = Path(__file__).resolve().parents[1]
HEAVY = ("scipy", "highspy", "pyomo", "matplotlib", "pandas", "ortools", "jsonschema")
FUNCTIONS = (
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
)


def fresh(code: str) -> Any:
    """Run code in a new interpreter, away from the checkout; it prints JSON."""
    run = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        cwd=os.path.abspath(os.sep),
    )
    assert run.stderr == ""
    return json.loads(run.stdout)


def seconds(statement: str) -> float:
    """Fastest of five fresh interpreters at a statement."""
    code = (
        f"import json, time; t = time.perf_counter(); {statement}; "
        "print(json.dumps(time.perf_counter() - t))"
    )
    return min(float(fresh(code)) for _ in range(5))


def loaded_after(statement: str) -> set[str]:
    """Top-level packages in memory after a statement in a fresh interpreter."""
    code = f"import json, sys; {statement}; print(json.dumps(sorted(sys.modules)))"
    return {name.partition(".")[0] for name in fresh(code)}


def submodules() -> list[str]:
    """Every module of the package, and the formulations that the build maps into it.

    Without ``__main__``, which is there to be run.
    """
    found = [m.name for m in pkgutil.walk_packages(go.__path__, "greenopt.")]
    formulations = import_module("greenopt.formulations")
    found += [
        m.name for m in pkgutil.walk_packages(formulations.__path__, "greenopt.formulations.")
    ]
    return sorted({*found, "greenopt.formulations"} - {"greenopt.__main__"})


def test_import_loads_nothing_heavy() -> None:
    """A fresh `import greenopt` leaves solvers, plots and frames alone."""
    assert loaded_after("import greenopt").isdisjoint(HEAVY)


def test_import_costs_little_more_than_numpy() -> None:
    """A fresh `import greenopt` is done within 0.2 s of a fresh `import numpy`."""
    assert seconds("import greenopt") <= seconds("import numpy") + 0.2


def test_asking_for_help_loads_nothing_heavy() -> None:
    """The command line builds its parser without arrays, instances, solvers, plots or frames."""
    code = (
        "import contextlib, io, greenopt.cli\n"
        "with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(SystemExit):\n"
        "    greenopt.cli.main(['--help'])\n"
        "import json, sys\nprint(json.dumps(sorted(sys.modules)))"
    )
    loaded = {name.partition(".")[0] for name in fresh(code)}
    assert loaded.isdisjoint({*HEAVY, "numpy", "pydantic"})


def test_reading_an_instance_needs_no_solver() -> None:
    """Loading and validating imports neither a solver nor a modelling language nor a plotter."""
    path = REPOSITORY / "instances" / "placement" / "quick.json"
    loaded = loaded_after(f"import greenopt; greenopt.PlacementInstance.read({str(path)!r})")
    assert "pydantic" in loaded
    assert loaded.isdisjoint({"highspy", "pyomo", "matplotlib", "pandas"})


def test_solving_needs_no_pyomo_plots_or_frames() -> None:
    """The fast path from file to checked and certified solution stays clear of them."""
    path = REPOSITORY / "instances" / "placement" / "quick.json"
    code = (
        f"import greenopt as go; i = go.load({str(path)!r}); s = go.solve(i); "
        "assert go.check(i, s).ok; assert go.certify(i, s).ok"
    )
    loaded = loaded_after(code)
    assert "highspy" in loaded
    assert loaded.isdisjoint({"pyomo", "matplotlib", "pandas"})


def test_all_is_sorted_complete_and_what_dir_says() -> None:
    """`__all__` has no doubles, and completion offers it."""
    assert len(set(go.__all__)) == len(go.__all__)
    assert set(go.__all__) <= set(dir(go))
    assert set(FUNCTIONS) <= set(go.__all__)


@pytest.mark.parametrize("name", submodules())
def test_submodule_imports(name: str) -> None:
    """Every module can be imported and says what it is for."""
    module = import_module(name)
    assert isinstance(module, ModuleType)
    assert module.__doc__


@pytest.mark.parametrize("name", go.__all__)
def test_public_name_is_of_the_right_kind(name: str) -> None:
    """After importing every submodule too, no module hides a public function or class."""
    for module in submodules():
        import_module(module)
    value = getattr(go, name)
    if name == "__version__":
        assert isinstance(value, str)
    elif name[0].isupper():
        assert inspect.isclass(value)
        assert value.__name__ == name
    else:
        assert inspect.isfunction(value)
        assert value.__name__ == name
        assert name in FUNCTIONS
    assert name == "__version__" or value.__doc__


@pytest.mark.parametrize("module", ["checking", "solving", "cli"])
def test_module_does_not_hide_functions(module: str) -> None:
    """A function stays a function when its module is imported first, in a fresh interpreter."""
    code = (
        f"import json, greenopt.{module}, greenopt as go; "
        f"print(json.dumps([callable(getattr(go, n)) for n in {FUNCTIONS!r}]))"
    )
    assert fresh(code) == [True] * len(FUNCTIONS)


def test_unknown_name_is_an_attribute_error() -> None:
    """A misspelt public name is reported as Python reports it."""
    with pytest.raises(AttributeError, match="'slove'"):
        _ = go.slove


def test_errors_are_one_family() -> None:
    """Everything raised on purpose can be caught at once, and input errors are ValueErrors."""
    for name in ("InputError", "InstanceError", "ModelError", "SolutionError", "SolverError"):
        assert issubclass(getattr(go, name), go.GreenoptError)
    assert issubclass(go.InstanceError, go.InputError)
    assert issubclass(go.SolutionError, go.InputError)
    assert issubclass(go.InputError, ValueError)
