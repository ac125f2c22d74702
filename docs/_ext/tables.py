"""Tables that say what the code says: attributes, metrics, public names, benchmarks."""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import tomllib
import types
import typing
from collections.abc import Iterable, Sequence
from functools import cached_property
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

from pydantic import BaseModel
from sphinx.pycode import ModuleAnalyzer

import greenopt
from greenopt import cli
from greenopt.instance import Quantity
from greenopt.problems import PROBLEMS, instance_class, part
from greenopt.solvers import SOLVERS
from greenopt.validation import (
    Fraction,
    NonNegative,
    Number,
    Positive,
    Text,
    Whole,
    WholePositive,
)

METHODS = (types.FunctionType, classmethod, property, cached_property)
FIELD_MODULES = ("greenopt.instance", *(f"greenopt.problems.{p}.instance" for p in PROBLEMS))

_WORDS = {
    id(float): "number",
    id(Number): "number",
    id(Positive): "number above 0",
    id(NonNegative): "number of at least 0",
    id(Fraction): "number above 0, at most 1",
    id(Text): "text",
    id(str): "text",
    id(int): "whole number",
    id(Whole): "whole number",
    id(WholePositive): "whole number above 0",
    id(types.NoneType): "null",
}
_UNITS = (
    ("gpus_per_instance", "GPUs"),
    ("work_per_request", "reference requests"),
    ("_bytes_per_token", "bytes per token"),
    ("_bytes_per_request", "bytes per request"),
    ("_per_s", "1/s"),
    ("_g_per_kwh", "g CO2e/kWh"),
    ("_usd_per_kwh", "USD/kWh"),
    ("_usd_per_hour", "USD/h"),
    ("_percent", "%"),
    ("_bytes", "bytes"),
    ("_kg", "kg CO2e"),
    ("_usd", "USD"),
    ("_tokens", "tokens"),
    ("_w", "W"),
    ("_s", "s"),
)
"""Units that the names of fields spell out."""


def write_all(root: Path, out: Path) -> None:
    """Write every table."""
    for problem in PROBLEMS:
        cls = instance_class(problem)
        write(out / f"attributes_{problem}.md", attributes(cls))
        write(out / f"metrics_{problem}.md", metrics(problem))
        write(out / f"{problem}.schema.json", json.dumps(cls.json_schema(), indent=1))
    write(out / "public_names.rst", public_names())
    for name in FIELD_MODULES:
        write(out / f"{name}.rst", classes_with_fields(name))
    write(out / "command_line.md", command_line())
    write(out / "solvers.md", solvers())
    write(out / "traps.md", traps())
    write(out / "benchmarks.md", benchmarks(root / "benchmarks" / "results"))
    compare_dependencies(root)


def write(path: Path, text: str) -> None:
    """Write a file unless it holds the text already, so that unchanged pages are not rebuilt."""
    if not path.exists() or path.read_text(encoding="utf-8") != text:
        path.write_text(text, encoding="utf-8")


def table(head: Sequence[str], rows: Iterable[Sequence[str]], right_from: int = 99) -> str:
    """Format a Markdown table; columns from `right_from` on are aligned to the right."""
    rule = ["---:" if i >= right_from else "---" for i in range(len(head))]
    lines = [head, rule, *rows]
    cells = ([cell.replace("|", "\\|").replace("\n", " ") for cell in line] for line in lines)
    return "".join(f"| {' | '.join(line)} |\n" for line in cells)


def attributes(cls: type[BaseModel]) -> str:
    """Fields of a class, and below it of every class it is made of."""
    todo, done = [cls], []
    while todo:
        part = todo.pop(0)
        done.append(part)
        hints = typing.get_type_hints(part, include_extras=True)
        for name in part.model_fields:
            todo += [c for c in _classes_in(hints[name]) if c not in done and c not in todo]
    return "\n".join(f"## {part.__name__}\n\n{_summary(part)}\n\n{_fields(part)}" for part in done)


def _summary(obj: Any) -> str:
    return (obj.__doc__ or "").strip().split("\n")[0]


def _classes_in(hint: Any) -> list[type[BaseModel]]:
    if isinstance(hint, type) and issubclass(hint, BaseModel):
        return [hint]
    return [found for inner in get_args(hint) for found in _classes_in(inner)]


def _fields(cls: type[BaseModel]) -> str:
    hints = typing.get_type_hints(cls, include_extras=True)
    rows = []
    for name, info in cls.model_fields.items():
        quantity = next((m for m in info.metadata if isinstance(m, Quantity)), None)
        own = info.get_default(call_default_factory=True)
        default = "required" if info.is_required() else f"`{_json(own)}`"
        kind = _array(quantity) if quantity else _type(hints[name])
        meaning = " ".join((info.description or "").split())
        rows.append((f"`{name}`", kind, _axes(quantity), _unit(name, quantity), default, meaning))
    return table(("field", "type", "axes", "unit", "default", "meaning"), rows)


def _json(value: Any) -> str:
    return json.dumps(list(value) if isinstance(value, tuple) else value)


def _type(hint: Any) -> str:
    """Name a type annotation in words."""
    if id(hint) in _WORDS:
        return _WORDS[id(hint)]
    origin, inner = get_origin(hint), get_args(hint)
    if origin is Annotated:
        return _type(inner[0])
    if origin is tuple:
        return f"list of {_type(inner[0])}"
    if origin is dict:
        return f"object: {_type(inner[0])} to {_type(inner[1])}"
    if origin is Literal:
        return " or ".join(f"`{_json(value)}`" for value in inner)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(map(_type, inner))
    if isinstance(hint, type) and issubclass(hint, BaseModel):
        return f"[{hint.__name__}](#{hint.__name__.lower()})"
    raise TypeError(f"no words for the type {hint!r}; add them to _WORDS")


def _array(quantity: Quantity) -> str:
    words = quantity.expectation().removeprefix("expected ").removesuffix(f", {quantity.unit}")
    words = words.replace("a finite number", "numbers")
    words += " or null" if quantity.null is not None else ""
    return f"array of {words}" + (", or null" if quantity.optional else "")


def _axes(quantity: Quantity | None) -> str:
    if quantity is None:
        return ""
    return "chosen in the file" if quantity.axes is None else ", ".join(quantity.axes)


def _unit(name: str, quantity: Quantity | None) -> str:
    if quantity:
        return "" if quantity.boolean else quantity.unit
    return next((unit for suffix, unit in _UNITS if name.endswith(suffix)), "")


def metrics(problem: str) -> str:
    """Every built-in metric of a problem; of one with budgets, what they may be over."""
    module = part(problem, "metrics")
    budgets = hasattr(module, "SITELESS")
    limit = "budget" if budgets else "limit"
    use = {"additive": f"objective, {limit}", "mean": f"objective (total), {limit}"}
    rows = []
    for metric in module.METRICS.values():
        over = [_budget_over(metric, module)] if budgets else []
        used = use.get(metric.kind, metric.kind)
        rows.append((f"`{metric.name}`", metric.unit, used, *over, _meaning(metric)))
    over = ["budget over"] if budgets else []
    return table(("metric", "unit", "may be used in", *over, "meaning"), rows)


def _budget_over(metric: Any, module: Any) -> str:
    if metric.kind == "report":
        return ""
    period = metric.name not in module.PERIODLESS
    scopes = (
        "total",
        "site" if metric.name not in module.SITELESS else "",
        "period" if period else "period without demand charge",
    )
    return ", ".join(filter(None, scopes))


def _meaning(metric: Any) -> str:
    """What a metric is, of which it is the sum, and which fields it needs."""
    meaning: str = metric.meaning
    for words, names in (
        ("sum of", getattr(metric, "parts", ())),
        ("needs", getattr(metric, "needs", ())),
    ):
        if names:
            meaning += f" ({words} {', '.join(f'`{name}`' for name in names)})"
    return meaning


def solvers() -> str:
    """Every solver, and what it can do."""
    rows = [
        (
            f"`{s.name}`",
            s.about,
            "yes" if s.continuous else "no",
            {"none": "no", "pure": "if all columns are", "mixed": "yes"}[s.integer],
            {"none": "no", "continuous": "without integers", "mixed": "yes"}[s.quadratic],
            *("yes" if can else "no" for can in (s.duals, s.start, s.incumbents, s.session)),
            s.home,
            f"`{s.package}`",
        )
        for s in SOLVERS.values()
    ]
    head = ("solver", "what", "continuous", "integer", "convex quadratic", "multipliers",
            "uses a start", "tells better points", "keeps a model", "runs", "package")  # fmt: skip
    return table(head, rows)


def traps() -> str:
    """What the code says of errors of HiGHS that were measured."""
    said = ModuleAnalyzer.for_module("greenopt.solvers.highs").find_attr_docs()
    lines = [
        f"- {' '.join(' '.join(said['', name]).split())}"
        for name in ("MINIMUM_VERSION", "SEARCH_TOLERANCE")
    ]
    return "\n".join(lines) + "\n"


def public_names() -> str:
    """Names in `greenopt.__all__`, each with a link to where it is documented."""
    lines = [".. list-table::", "   :widths: 25 75", ""]
    for name in greenopt.__all__:
        obj = getattr(greenopt, name)
        if isinstance(obj, str):
            link, text = f"``{name}``", "Version of the package."
        else:
            link = f":py:obj:`{name} <{obj.__module__}.{obj.__qualname__}>`"
            text = _summary(obj)
        lines += [f"   * - {link}", f"     - {text}"]
    return "\n".join(lines) + "\n"


def classes_with_fields(module: str) -> str:
    """Autodoc directives for a module whose classes' fields stand in the attribute table."""
    blocks = []
    for name, obj in vars(import_module(module)).items():
        if name.startswith("_") or getattr(obj, "__module__", "") != module:
            continue
        if isinstance(obj, types.FunctionType):
            blocks.append(f".. autofunction:: {module}.{name}\n")
        elif isinstance(obj, type):
            own = [m for m in vars(obj) if m[0] != "_" and isinstance(vars(obj)[m], METHODS)]
            members = f"   :members: {', '.join(own)}\n" if own else ""
            blocks.append(f".. autoclass:: {module}.{name}\n{members}")
    return "\n".join(blocks)


def command_line() -> str:
    """Help texts of the command line and of every command it lists."""
    whole = _help()
    commands = re.findall(r"^    (\w+) ", whole, flags=re.MULTILINE)
    texts = [f"## greenopt {name}\n\n```text\n{_help(name)}```\n" for name in commands]
    return "\n".join((f"```text\n{whole}```\n", *texts))


def _help(*command: str) -> str:
    before = dict(os.environ)
    os.environ.update(COLUMNS="96", NO_COLOR="1")
    try:
        with contextlib.redirect_stdout(io.StringIO()) as printed, contextlib.suppress(SystemExit):
            cli.main([*command, "--help"])
    finally:
        os.environ.clear()
        os.environ.update(before)
    return printed.getvalue()


def benchmarks(folder: Path) -> str:
    """Recorded results, one section a file."""
    files = sorted(folder.glob("*.json")) if folder.is_dir() else []
    if not files:
        return "No results have been recorded yet.\n"
    return "\n".join(_benchmark(json.loads(path.read_text(encoding="utf-8"))) for path in files)


def _benchmark(record: dict[str, Any]) -> str:
    machine = "; ".join(f"{key}: {_cell(value)}" for key, value in record["machine"].items())
    facts = f"Recorded {record['date']} by `{record['command']}` on: {machine}."
    if "page" in record:  # which aggregates the runs
        there = f"{record['what']}: tables on [a page of their own]({record['page']})."
        return f"## {record['benchmark']}\n\n{there}\n\n{facts}\n"
    rows = [[_cell(value) for value in row] for row in record["rows"]]
    notes = "\n".join(f"- {note}" for note in record.get("notes", []))
    parts = (f"## {record['benchmark']}", record["what"], table(record["columns"], rows, 1).strip())
    return "\n\n".join((*parts, facts, notes)) + "\n"


def _cell(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def compare_dependencies(root: Path) -> None:
    """Refuse a dependencies page that misses a requirement of pyproject.toml, or has one more.

    Raises
    ------
    ValueError
        Naming them.
    """
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    every = [project["dependencies"], *project["optional-dependencies"].values()]
    needed = {re.split(r"[<>=!~\[ ]", line)[0] for lines in every for line in lines}
    page = (root / "docs" / "dependencies.md").read_text(encoding="utf-8")
    described = set(re.findall(r"^\| `([\w.-]+)` \|", page, flags=re.MULTILINE))
    if needed != described:
        missing, extra = sorted(needed - described), sorted(described - needed)
        raise ValueError(f"docs/dependencies.md lacks {missing} and has {extra} too many")
