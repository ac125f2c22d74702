"""Sphinx configuration: Markdown pages, an API reference from docstrings, generated tables."""

from __future__ import annotations

import inspect
import itertools
import re
import sys
from pathlib import Path
from typing import Any

from pydantic import BaseModel

import greenopt
from greenopt.describing import WIDE
from greenopt.problems.placement import eligibility, queueing
from greenopt.problems.routing import formulation as routing
from greenopt.solvers import decomposing, points, sifting
from greenopt.solvers.highs import (
    DUAL_TOLERANCE,
    MINIMUM_VERSION,
    PRIMAL_TOLERANCE,
    SEARCH_TOLERANCE,
)
from greenopt.solvers.task import LEAST_GRACE_S, RELATIVE_GRACE
from greenopt.solving import (
    CHECK_TOLERANCE,
    EXPLANATION_LIMIT_S,
    NUMERICAL_FLOOR,
    REFINED_SEARCHES,
    REFINEMENTS,
    solve,
)

HERE = Path(__file__).resolve().parent

project = "greenopt"
author = "The greenopt authors"
copyright = author
release = version = greenopt.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.mathjax", "sphinx.ext.napoleon"]
exclude_patterns = ["_build", "_generated", "_ext"]
default_role = "py:obj"

myst_enable_extensions = ["colon_fence", "deflist", "dollarmath", "substitution"]
myst_heading_anchors = 3
myst_substitutions = {
    "check_tolerance": f"{CHECK_TOLERANCE:g}",
    "gap": f"{inspect.signature(solve).parameters['gap'].default:g}",
    "floor": f"{NUMERICAL_FLOOR:g}",
    "primal_tolerance": f"{PRIMAL_TOLERANCE:g}",
    "dual_tolerance": f"{DUAL_TOLERANCE:g}",
    "highs_version": ".".join(map(str, MINIMUM_VERSION)),
    "slack": f"{eligibility.SLACK:g}",
    "search_tolerance": f"{SEARCH_TOLERANCE:g}",
    "feasibility": f"{points.FEASIBILITY:g}",
    "least_grace": f"{LEAST_GRACE_S:g}",
    "relative_grace": f"{RELATIVE_GRACE:.0%}",
    "explanation_limit": f"{EXPLANATION_LIMIT_S:g}",
    "wide": f"{WIDE:.0e}",
    "refinements": f"{REFINEMENTS}",
    "refined_searches": f"{REFINED_SEARCHES}",
    "intervals": f"{queueing.INTERVALS}",
    "dense_share": f"{decomposing.DENSE:.1%}",
    "least_dense": f"{decomposing.LEAST_DENSE}",
    "most_coupling": f"{decomposing.MOST_COUPLING}",
    "largest_share": f"{decomposing.LARGEST_SHARE:.0%}",
    "least_columns": f"{decomposing.LEAST_COLUMNS:,}",
    "group_share": f"{sifting.DENSE:.1%}",
    "group_least": f"{sifting.LEAST_DENSE}",
    "most_sifted": f"{sifting.MOST_COUPLING}",
    "many_pairs": f"{routing.MANY_COLUMNS:,}",
}
"""Numbers that pages quote, taken from the code."""

autodoc_member_order = "bysource"
autodoc_type_aliases = {name: name for name in ("FloatArray", "IntArray", "Statistic")}
autodoc_typehints_format = "short"
napoleon_google_docstring = False
napoleon_use_ivar = True
napoleon_use_rtype = False

html_theme = "furo"
html_title = f"greenopt {release}"
html_copy_source = False


def _generate(app: Any) -> None:
    """Write the tables and figures that pages include."""
    sys.path[:0] = [str(HERE / "_ext"), str(HERE.parent / "benchmarks")]
    import compared
    import example
    import explained
    import fitted
    import onlined
    import plotted
    import routed
    import ruled
    import sensitivity
    import tables
    import waiting
    import whole
    import world

    out = HERE / "_generated"
    out.mkdir(exist_ok=True)
    tables.write_all(HERE.parent, out)
    example.write_all(HERE.parent, out)
    explained.write_all(HERE.parent, out)
    whole.write_all(HERE.parent, out)
    plotted.write_all(HERE.parent, out)
    compared.write_all(HERE.parent, out)
    sensitivity.write_all(HERE.parent, out)
    waiting.write_all(HERE.parent, out)
    ruled.write_all(HERE.parent, out)
    routed.write_all(HERE.parent, out)
    onlined.write_all(HERE.parent, out)
    world.write_all(HERE.parent, out)
    fitted.write_all(HERE.parent, out)


def _prepare_docstring(
    app: Any, what: str, name: str, obj: Any, options: Any, lines: list[str]
) -> None:
    """Spare napoleon what it misreads: colons in one-line docstrings, attributes named together.

    Every problem has a class `Formulation`; its own modules mean that one.
    """
    if problem := re.match(r"greenopt\.problems\.\w+\.", name):
        own = f" : ~{problem[0]}formulation.Formulation"
        lines[:] = [re.sub(r" : Formulation$", own, line) for line in lines]
    if what in ("attribute", "data", "property"):
        lines[:0] = ["..", ""]  # an empty comment
        return
    for at in reversed(range(len(lines))):
        if found := re.fullmatch(r"(\w+(?:, \w+)+) : (.+)", lines[at]):
            below = itertools.takewhile(lambda line: line.startswith(" "), lines[at + 1 :])
            meaning = list(below)
            each = [[f"{one} : {found[2]}", *meaning] for one in found[1].split(", ")]
            lines[at : at + 1 + len(meaning)] = itertools.chain.from_iterable(each)


def _find_public_name(app: Any, env: Any, node: Any, contnode: Any) -> Any:
    """Lead `check`, `Solution.load` or `greenopt.load` to where the name is defined."""
    first, *rest = node.get("reftarget", "").removeprefix("greenopt.").split(".")
    if first not in greenopt.__all__ or first.startswith("_"):
        return None
    obj = getattr(greenopt, first)
    target = ".".join((obj.__module__, obj.__qualname__, *rest))
    domain = env.get_domain("py")
    return domain.resolve_xref(env, node["refdoc"], app.builder, "obj", target, node, contnode)


def _skip_tuple_field(app: Any, what: str, name: str, obj: Any, skip: bool, options: Any) -> Any:
    """Leave out the fields of named tuples: their class describes them."""
    return True if type(obj).__name__ == "_tuplegetter" else None


def _shorten_signature(
    app: Any, what: str, name: str, obj: Any, options: Any, signature: Any, returned: Any
) -> Any:
    """Drop the fields of classes that have an attribute table, and unwrap names of array types."""
    if what == "class" and issubclass(obj, BaseModel):
        return "", None
    wrapped = r"TypeAliasForwardRef\('(\w+)'\)"
    return tuple(text and re.sub(wrapped, r"\1", text) for text in (signature, returned))


def setup(app: Any) -> dict[str, bool]:
    """Connect the hooks."""
    app.connect("builder-inited", _generate)
    app.connect("autodoc-process-docstring", _prepare_docstring, priority=100)
    app.connect("missing-reference", _find_public_name)
    app.connect("autodoc-skip-member", _skip_tuple_field)
    app.connect("autodoc-process-signature", _shorten_signature)
    return {"parallel_read_safe": True}
