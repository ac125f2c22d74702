"""The README says what happens."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT

README = (ROOT / "README.md").read_text()


def test_python_example_runs(tmp_path: Path) -> None:
    """The Python block runs as it stands, from the repository's root."""
    (code,) = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    code = code.replace('sol.save("', f'sol.save("{tmp_path}/')
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)
    assert (tmp_path / "quick.solution.json").exists()


def test_printed_table_is_the_real_one(capsys: pytest.CaptureFixture[str]) -> None:
    """The row of figures in the README is what the command prints, times apart."""
    from greenopt.cli import main

    assert main(["solve", str(ROOT / "instances" / "placement" / "quick.json")]) == 0
    (printed,) = re.findall(r"^quick +optimal.*$", capsys.readouterr().out, flags=re.MULTILINE)
    (shown,) = re.findall(r"^quick +optimal.*$", README, flags=re.MULTILINE)
    # gap and time depend on the machine's rounding and speed
    figures = [[*row.split()[:3], *row.split()[4:-1]] for row in (printed, shown)]
    assert figures[0] == figures[1]
