"""The explanation on the page about explanations, made when the page is built."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

from tables import table, write

import greenopt as go

LIMIT_S = 0.5
"""The TTFT limit of chat in the example."""


def write_all(root: Path, out: Path) -> None:
    """Explain the quick instance with a limit that it cannot keep."""
    quick = go.load(root / "instances" / "placement" / "quick.json")
    classes = [
        {**k.model_dump(), **({"ttft_limit_s": LIMIT_S} if k.name == "chat" else {})}
        for k in quick.classes
    ]
    found = go.explain(quick.replace(classes=classes))
    write(out / "explained.txt", "\n".join(found.sentences) + "\n")
    rows = [(f"`{member.kind}`", member.text) for member in found.conflict]
    write(out / "explained_conflict.md", table(("kind", "text"), rows))
    first = json.dumps(asdict(found.conflict[0]), indent=2)
    write(out / "explained_member.json", first + "\n")
