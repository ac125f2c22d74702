"""What validation of files shares: strict types, immutable parts, errors with JSON paths."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from typing import Annotated, Any, NoReturn, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationError,
)
from pydantic_core import InitErrorDetails, PydanticCustomError

from greenopt.errors import Problem

Number = Annotated[float, Field(strict=True, allow_inf_nan=False)]
Positive = Annotated[float, Field(strict=True, allow_inf_nan=False, gt=0)]
NonNegative = Annotated[float, Field(strict=True, allow_inf_nan=False, ge=0)]
Fraction = Annotated[float, Field(strict=True, allow_inf_nan=False, gt=0, le=1)]
Whole = Annotated[int, Field(strict=True)]
WholePositive = Annotated[int, Field(strict=True, gt=0)]
Text = Annotated[str, StringConstraints(strict=True, min_length=1)]


def _no_boolean(value: Any) -> Any:
    if isinstance(value, bool):  # in Python True equals 1, in a file it does not
        raise line_errors([((), f"is {value}; expected a number")])
    return value


NotBoolean = BeforeValidator(_no_boolean)

K = TypeVar("K")
V = TypeVar("V")


class FrozenDict(dict[K, V]):
    """A dictionary that cannot be changed once made; it pickles and copies like any other."""

    def _refuse(self, *_: Any, **__: Any) -> NoReturn:
        raise TypeError("this mapping belongs to an immutable object")

    __setitem__ = __delitem__ = __ior__ = _refuse
    clear = pop = popitem = setdefault = update = _refuse

    def __reduce__(self) -> tuple[Any, ...]:
        return FrozenDict, (dict(self),)


Table = Annotated[dict[K, V], AfterValidator(FrozenDict)]


class Part(BaseModel):
    """Base of everything inside a file: immutable, no unknown fields."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", arbitrary_types_allowed=True, use_attribute_docstrings=True
    )


def element_path(index: Sequence[int | str]) -> str:
    """JSON-path suffix of a nested position: ``[3][1]`` for numbers, ``.name`` for keys.

    Keys that are not plain words are quoted, so that a path is always one readable line.
    """
    return "".join(
        f".{part}" if isinstance(part, str) and _PLAIN_KEY.fullmatch(part) else f"[{_quoted(part)}]"
        for part in index
    )


_PLAIN_KEY = re.compile(r"[\w.-]+")


def _quoted(part: int | str) -> str:
    return str(part) if isinstance(part, int) else json.dumps(part)


def line_errors(found: Sequence[tuple[tuple[int | str, ...], str]]) -> ValidationError:
    """Bundle several located problems so that pydantic reports each at its own place."""
    return ValidationError.from_exception_data(
        "greenopt",
        [
            InitErrorDetails(
                type=PydanticCustomError("greenopt", "{text}", {"text": text}), loc=loc, input=None
            )
            for loc, text in found
        ],
    )


def problems_of(error: ValidationError) -> Iterator[Problem]:
    """Say each of pydantic's findings in one line, with its JSON path."""
    lines = error.errors(include_url=False)
    for line in lines:
        if line["type"] == "too_short" and _has_inner(lines, line["loc"]):
            continue  # pydantic counts only the members that are valid
        kind, loc = line["type"], [p for p in line["loc"] if not _is_branch(p)]
        path = "$" + element_path(loc)
        if kind == "greenopt":
            yield Problem(path, line["msg"])
        elif kind == "extra_forbidden":
            yield Problem(path, "is not a field of this format (misspelt, or of another version)")
        elif kind == "missing":
            yield Problem(path, "is missing")
        else:
            shown = repr(line["input"])
            shown = shown if len(shown) <= 60 else shown[:57] + "..."
            message = line["msg"][0].lower() + line["msg"][1:].replace("tuple", "list")
            yield Problem(path, f"is {shown}; {message.replace('input should be', 'expected')}")


def _has_inner(lines: Sequence[Any], loc: tuple[int | str, ...]) -> bool:
    return any(len(o["loc"]) > len(loc) and o["loc"][: len(loc)] == loc for o in lines)


def _is_branch(part: int | str) -> bool:
    """Pydantic names the branch of a union in the location; it is not in the file."""
    return isinstance(part, str) and ("[" in part or part in {"float", "str", "int", "none"})
