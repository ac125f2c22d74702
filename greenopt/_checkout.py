"""In a checkout, greenopt.formulations is the folder beside the package, as the build maps it."""

from __future__ import annotations

from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import spec_from_file_location
from pathlib import Path
from typing import Any

NAME = "greenopt.formulations"


class FormulationsFinder(MetaPathFinder):
    """Finds `greenopt.formulations` in a checkout whose package is imported in place."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def find_spec(self, name: str, *_: Any) -> ModuleSpec | None:
        """Answer for the one package; its modules are found the usual way."""
        if name != NAME:
            return None
        place = [str(self.folder)]
        return spec_from_file_location(
            name, self.folder / "__init__.py", submodule_search_locations=place
        )
