"""What many tests share."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def quick_path() -> Path:
    """The quick placement instance."""
    return ROOT / "instances" / "placement" / "quick.json"
