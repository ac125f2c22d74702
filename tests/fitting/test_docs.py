"""The page on fits: its examples print what it says."""

from __future__ import annotations

import doctest
import re

import pytest
from conftest import ROOT

PAGE = ROOT / "docs" / "fits.md"


def test_examples_print_what_the_page_says(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every example is run from the repository's root, in order, and every output compared."""
    text = PAGE.read_text()
    examples = re.findall(r"^```pycon\n(.*?)^```$", text, re.M | re.S)
    assert len(examples) == text.count("```pycon") >= 8
    monkeypatch.chdir(ROOT)
    test = doctest.DocTestParser().get_doctest("\n".join(examples), {}, PAGE.name, None, 0)
    runner = doctest.DocTestRunner(verbose=False, optionflags=doctest.ELLIPSIS)
    said: list[str] = []
    failed, attempted = runner.run(test, out=said.append)
    assert attempted >= 25
    assert failed == 0, "".join(said)
