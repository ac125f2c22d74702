"""What many tests share."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


def quick_path() -> Path:
    """The quick placement instance."""
    return ROOT / "instances" / "placement" / "quick.json"


def shared(name: str) -> Path:
    """Path of data beside the repository; without it the test is skipped, in CI it fails."""
    path = ROOT.parent / "shared" / name
    if not path.exists():
        (pytest.fail if os.environ.get("CI") else pytest.skip)(f"{path} is not there")
    return path
