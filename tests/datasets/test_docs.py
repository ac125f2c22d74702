"""The page on reading data: its files are read as it says."""

from __future__ import annotations

import doctest
import re
from pathlib import Path

import pytest
from conftest import ROOT

PAGE = ROOT / "docs" / "datasets.md"


def test_examples_print_what_the_page_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every file of the page is written, every example run, every output compared."""
    text = PAGE.read_text()
    files = re.findall(r"^`([\w.]+)`\n\n```text\n(.*?)^```$", text, re.M | re.S)
    examples = re.findall(r"^```pycon\n(.*?)^```$", text, re.M | re.S)
    assert len(files) == text.count("```text")
    assert len(examples) == text.count("```pycon") > 10
    for name, content in files:
        (tmp_path / name).write_text(content)
    monkeypatch.chdir(tmp_path)
    test = doctest.DocTestParser().get_doctest("\n".join(examples), {}, PAGE.name, None, 0)
    runner = doctest.DocTestRunner(verbose=False)
    said: list[str] = []
    failed, attempted = runner.run(test, out=said.append)
    assert attempted > 30
    assert failed == 0, "".join(said)
