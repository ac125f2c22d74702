"""Pages of the docs whose examples print what they say."""

from __future__ import annotations

import doctest
import re
from typing import Any

import pytest
from conftest import ROOT


@pytest.mark.parametrize(
    ("page", "least"),
    [("placement/queues.md", 12), ("placement/rules.md", 8), ("placement/world.md", 9),
     ("solvers.md", 5), ("routing/online.md", 20)],
)  # fmt: skip
def test_examples_print_what_the_page_says(
    page: str, least: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every example is run from the repository's root, in order, and every output compared."""
    text = (ROOT / "docs" / page).read_text()
    examples = re.findall(r"^```pycon\n(.*?)^```$", text, re.M | re.S)
    assert len(examples) == text.count("```pycon") > 0
    monkeypatch.chdir(ROOT)
    names: dict[str, Any] = {}
    if "import greenopt" not in examples[0]:  # the page begins with a block of code
        (code,) = re.findall(r"^```python\n(.*?)^```$", text, re.M | re.S)
        exec(code, names)
    test = doctest.DocTestParser().get_doctest("\n".join(examples), names, page, None, 0)
    runner = doctest.DocTestRunner(verbose=False, optionflags=doctest.ELLIPSIS)
    said: list[str] = []
    failed, attempted = runner.run(test, out=said.append)
    assert attempted >= least
    assert failed == 0, "".join(said)
