"""The Instance base: reading, writing, schema version, provenance, JSON Schema.

An instance is an immutable pydantic model. Its fields are the one attribute table: name, type,
unit, default and meaning stand there once and feed validation, the JSON Schema and the docs.
Arrays are fields annotated with a `Quantity`; in a file they are nested lists over the documented
axes, or ``{"axes": [...], "values": ...}`` over any subset of them, broadcast over the rest.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from typing import Any, ClassVar, Self

import numpy as np
from pydantic import (
    Field,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    ValidationError,
    ValidationInfo,
)
from pydantic_core import CoreSchema, core_schema

from greenopt.errors import InstanceError, Problem
from greenopt.files import read_json, write_json
from greenopt.validation import FrozenDict, Part, Positive, Text, line_errors, problems_of

AXIS_FIELDS = {
    "period": "periods",
    "origin": "origins",
    "class": "classes",
    "site": "sites",
    "mode": "modes",
    "level": "levels",
    "model": "models",
    "gpu_type": "gpu_types",
    "query": "queries",
    "deployment": "deployments",
}
"""Name of the field that lists the members of each axis."""


def labels(members: Any) -> tuple[str, ...]:
    """Names of the members of a set field: strings, objects with a name, or periods."""
    if hasattr(members, "start"):
        return tuple(members.start)
    return tuple(member if isinstance(member, str) else member.name for member in members)


@dataclass(frozen=True)
class Quantity:
    """Annotation of an array field: its axes, unit and range.

    Parameters
    ----------
    axes : tuple of str or None
        Full axis order. None leaves the axes free (an `AxisArray` inside a list, whose owner
        checks the shape).
    unit : str
        Unit of every element.
    minimum, above : float, optional
        Smallest value allowed, value to exceed.
    boolean : bool
        True for masks.
    null : float, optional
        What a JSON ``null`` element means (for example infinity: no limit); refused when None.
    optional : bool
        Whether the whole field may be null.
    """

    axes: tuple[str, ...] | None
    unit: str
    minimum: float | None = None
    above: float | None = None
    boolean: bool = False
    null: float | None = None
    optional: bool = False

    def expectation(self) -> str:
        """What an element must be, in words."""
        if self.boolean:
            return "expected true or false"
        limits = [
            f"at least {self.minimum:g}" if self.minimum is not None else "",
            f"above {self.above:g}" if self.above is not None else "",
        ]
        limit = " and ".join(filter(None, limits))
        unit = "" if self.unit == "1" else f", {self.unit}"
        return f"expected a finite number{' ' + limit if limit else ''}{unit}"

    def __get_pydantic_core_schema__(self, _: Any, __: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.with_info_plain_validator_function(
            self._validate,
            serialization=core_schema.plain_serializer_function_ser_schema(self._encode),
        )

    def __get_pydantic_json_schema__(
        self, _: CoreSchema, __: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        element: dict[str, Any] = {"type": "boolean" if self.boolean else "number"}
        bounds = {"minimum": self.minimum, "exclusiveMinimum": self.above}
        element |= {key: value for key, value in bounds.items() if value is not None}
        if self.null is not None:
            element = {"anyOf": [element, {"type": "null"}]}
        nested = [element]
        for _axis in self.axes or ():
            nested.append({"type": "array", "items": nested[-1]})
        subset = {
            "type": "object",
            "required": ["axes", "values"],
            "additionalProperties": False,
            "properties": {
                "axes": {"type": "array", "items": {"enum": list(self.axes or AXIS_FIELDS)}},
                "values": {"anyOf": nested if self.axes else [element, {"type": "array"}]},
            },
        }
        forms: list[dict[str, Any]] = [subset]
        if self.axes:
            forms.append(nested[-1])
        if self.optional:
            forms.append({"type": "null"})
        return {"anyOf": forms, "x-axes": list(self.axes or []), "x-unit": self.unit}

    def _validate(self, value: Any, info: ValidationInfo) -> Any:
        given: tuple[str, ...]
        nested: Any
        prefix: tuple[str, ...]
        if value is None and self.optional:
            return None
        if isinstance(value, np.ndarray) and self.axes is not None:
            given, nested, prefix = self.axes, value, ()
        elif isinstance(value, AxisArray):
            given, nested, prefix = value.axes, value.values, ()
        elif self.axes is not None and _is_frame(value):
            data = info.data or {}
            if any(AXIS_FIELDS[axis] not in data for axis in self.axes):
                return np.zeros((1,) * len(self.axes))  # the set's own fault is reported
            members = {axis: labels(data[AXIS_FIELDS[axis]]) for axis in self.axes}
            given, nested = _read_frame(value, info.field_name or "", self.axes, members)
            prefix = ()
        elif isinstance(value, Mapping):
            given, nested = self._subset(value)
            prefix = ("values",)
        elif self.axes is not None:
            given, nested, prefix = self.axes, value, ()
        else:
            raise line_errors([((), 'expected {"axes": [...], "values": ...}')])
        array = self._numbers(nested, given, prefix)
        if self.axes is None:
            array.flags.writeable = False
            return AxisArray(given, array)
        return self._full(array, given, prefix, info.data or {})

    def _subset(self, value: Mapping[str, Any]) -> tuple[tuple[str, ...], Any]:
        if set(value) != {"axes", "values"} or not isinstance(value["axes"], list | tuple):
            raise line_errors([((), 'expected nested lists or {"axes": [...], "values": ...}')])
        allowed = self.axes if self.axes is not None else tuple(AXIS_FIELDS)
        given = tuple(value["axes"])
        if any(axis not in allowed for axis in given) or len(set(given)) != len(given):
            message = f"{list(given)} is not a choice of different axes out of {list(allowed)}"
            raise line_errors([(("axes",), message)])
        return given, value["values"]

    def _numbers(self, nested: Any, axes: tuple[str, ...], prefix: tuple[str, ...]) -> np.ndarray:
        """Nested lists as an array, or every element that is not what it should be."""
        kinds = "b" if self.boolean else "fiu"
        if (
            isinstance(nested, np.ndarray)
            and nested.ndim == len(axes)
            and nested.dtype.kind in kinds
        ):
            return self._numbers_of_array(nested, prefix)
        try:
            array = np.array(nested, dtype=object)
        except ValueError:
            array = np.empty(0, dtype=object)
        if array.ndim != len(axes):
            raise line_errors([(prefix, self._shape_message(nested, axes))])
        flat = array.ravel()
        bad = [i for i, element in enumerate(flat) if not self._is_element(element)]
        if not bad:
            if self.boolean:
                return np.asarray(array.astype(bool))
            numbers = np.array([self.null if x is None else x for x in flat], dtype=float)
            given = np.array([x is not None for x in flat], dtype=bool)
            bad = list(np.flatnonzero(given & ~self._in_range(numbers)))
            if not bad:
                return numbers.reshape(array.shape)
        raise line_errors(self._bad_elements(array, bad, prefix))

    def _numbers_of_array(self, given: np.ndarray, prefix: tuple[str, ...]) -> np.ndarray:
        """A copy of an array of numbers, judged as a whole; infinity may stand for null.

        What is repeated along an axis stays stored once.
        """
        repeated = (n > 1 and step == 0 for n, step in zip(given.shape, given.strides, strict=True))
        small = given[tuple(slice(0, 1) if flag else slice(None) for flag in repeated)]
        numbers = small.astype(bool if self.boolean else float)
        if not self.boolean:
            bad = np.flatnonzero(~(self._in_range(numbers) | (numbers == self.null)))
            if len(bad):
                raise line_errors(self._bad_elements(small.astype(object), list(bad), prefix))
        return np.broadcast_to(numbers, given.shape)

    def _is_element(self, element: Any) -> bool:
        if element is None:
            return self.null is not None
        if isinstance(element, bool | np.bool_):
            return self.boolean
        if self.boolean or not isinstance(element, int | float | np.integer | np.floating):
            return False
        try:
            float(element)
        except OverflowError:
            return False
        return True

    def _bad_elements(
        self, array: np.ndarray, bad: Sequence[int], prefix: tuple[str, ...]
    ) -> list[tuple[tuple[int | str, ...], str]]:
        found: list[tuple[tuple[int | str, ...], str]] = []
        for position in bad[:5]:
            at = tuple(int(i) for i in np.unravel_index(position, array.shape))
            shown = repr(array.ravel()[position])
            shown = shown if len(shown) <= 60 else shown[:57] + "..."
            found.append(((*prefix, *at), f"is {shown}; {self.expectation()}"))
        if len(bad) > len(found):
            found.append((prefix, f"and {len(bad) - len(found)} more elements like these"))
        return found

    def _in_range(self, numbers: np.ndarray) -> Any:
        good = np.isfinite(numbers)
        if self.minimum is not None:
            good = good & (numbers >= self.minimum)
        if self.above is not None:
            good = good & (numbers > self.above)
        return good

    def _shape_message(self, nested: Any, axes: tuple[str, ...]) -> str:
        got = f"a {type(nested).__name__}" if not isinstance(nested, list | np.ndarray) else "lists"
        what = "true or false" if self.boolean else "numbers"
        if not axes:
            return f"got {got}, expected one of {what}"
        depth = "lists of " * (len(axes) - 1)
        uniform = '{"axes": [], "values": 1.0}'
        return (
            f"got {got}, expected {depth}lists of {what} over {', '.join(axes)}, equally long; "
            f"one value for all is written {uniform}"
        )

    def _full(
        self,
        array: np.ndarray,
        given: tuple[str, ...],
        prefix: tuple[str, ...],
        data: Mapping[str, Any],
    ) -> np.ndarray:
        """Check lengths against the sets, then broadcast to the full axis order, read-only."""
        assert self.axes is not None
        wrong = shape_problems(array, given, data)
        if wrong:
            raise line_errors([(prefix, text) for text in wrong])
        own = dict(zip(given, array.shape, strict=True))  # where the set itself is at fault
        sizes = [
            len(labels(data[field])) if (field := AXIS_FIELDS[axis]) in data else own.get(axis, 1)
            for axis in self.axes
        ]
        return broadcast(array, given, self.axes, sizes)

    def _encode(self, value: Any) -> Any:
        if value is None:
            return None
        if isinstance(value, AxisArray):
            return {"axes": list(value.axes), "values": self._nested(value.values)}
        assert self.axes is not None
        kept = [i for i in range(value.ndim) if value.strides[i] != 0 or value.shape[i] == 1]
        small = value[tuple(slice(None) if i in kept else 0 for i in range(value.ndim))]
        if len(kept) == value.ndim:
            return self._nested(small)
        return {"axes": [self.axes[i] for i in kept], "values": self._nested(small)}

    def _nested(self, array: np.ndarray) -> Any:
        if self.null is None:
            return np.asarray(array).tolist()
        boxed = np.array(array, dtype=object)
        boxed[array == self.null] = None
        return boxed.tolist()


@dataclass(frozen=True, eq=False)
class AxisArray:
    """An array over named axes, to be broadcast over the others."""

    axes: tuple[str, ...]
    values: np.ndarray

    def over(self, axes: Sequence[str], sizes: Sequence[int]) -> np.ndarray:
        """The array broadcast to `axes` in that order."""
        return broadcast(self.values, self.axes, axes, sizes)


def broadcast(
    array: np.ndarray, given: Sequence[str], axes: Sequence[str], sizes: Sequence[int]
) -> np.ndarray:
    """Reorder `array` from `given` to `axes` and repeat it over the missing ones, read-only."""
    order = sorted(range(len(given)), key=lambda i: axes.index(given[i]))
    placed = np.transpose(array, order)
    shape = [n if axis in given else 1 for axis, n in zip(axes, sizes, strict=True)]
    result = np.broadcast_to(placed.reshape(shape), sizes)
    result.flags.writeable = False
    return result


def shape_problems(array: np.ndarray, axes: Sequence[str], data: Mapping[str, Any]) -> list[str]:
    """Compare an array's lengths with the sets that are known so far."""
    problems = []
    for axis, length in zip(axes, array.shape, strict=True):
        field = AXIS_FIELDS[axis]
        if field in data and length != (size := len(labels(data[field]))):
            problems.append(f"has {length} entries along {axis}, expected {size} (see $.{field})")
    return problems


class Periods(Part):
    """Time intervals named by their start, of any length, in order and not overlapping."""

    start: tuple[Text, ...] = Field(min_length=1)
    """Start of each period, ISO 8601 with a zone (``2023-07-18T00:00Z``)."""

    duration_s: tuple[Positive, ...] = Field(min_length=1)
    """Length of each period, s."""

    def model_post_init(self, _: Any) -> None:
        """Check zones, order and lengths, all at once."""
        found: list[tuple[tuple[int | str, ...], str]] = []
        moments: list[float | None] = []
        for i, text in enumerate(self.start):
            moments.append(None)
            try:
                moment = datetime.fromisoformat(text)
            except ValueError:
                found.append((("start", i), f"{text!r} is not an ISO 8601 time"))
                continue
            if moment.tzinfo is None:
                expected = "expected an offset such as Z"
                found.append((("start", i), f"{text!r} has no time zone; {expected}"))
                continue
            moments[-1] = moment.timestamp()
        if len(self.duration_s) != len(self.start):
            n, m = len(self.duration_s), len(self.start)
            found.append((("duration_s",), f"has {n} entries, expected {m} as in start"))
        for i, (a, b, d) in enumerate(zip(moments, moments[1:], self.duration_s, strict=False)):
            if a is not None and b is not None and b < a + d - 1e-6:
                found.append((("start", i + 1), f"{self.start[i + 1]!r} begins before the period "
                              f"before it ends"))  # fmt: skip
        if found:
            raise line_errors(found)

    @cached_property
    def begin_s(self) -> Any:
        """Moment at which each period begins, s since 1970, shape (periods,)."""
        return np.array([datetime.fromisoformat(text).timestamp() for text in self.start])


class Source(Part):
    """Where data came from and under which licence."""

    name: Text
    """What it is and who publishes it."""

    licence: Text
    """SPDX identifier, or ``LicenseRef-...`` with the terms in `note`."""

    attribution: Text
    """The line to print when the data is used."""

    url: str = ""
    """Address, repository and commit."""

    note: str = ""
    """What was taken and how it was changed."""


class Provenance(Part):
    """How the instance was made."""

    description: Text
    """What the instance is."""

    builder: Text
    """The script or function that made it."""

    data_licence: Text
    """SPDX licence of the instance's data as a whole."""

    sources: tuple[Source, ...]
    """Every source, with licence and attribution."""

    rules: tuple[str, ...] = ()
    """Every modelling choice made on the way, one sentence each."""


class Instance(Part):
    """Base class of the five problems' instances.

    Instances are values: immutable, compared by content, readable from and writable to a
    versioned, self-describing JSON file.
    """

    problem: str
    """Name of the problem."""

    title: ClassVar[str]
    """What the problem is called in words."""

    short_names: ClassVar[Mapping[str, str]] = {}
    """Fields by the short names that updates may use."""

    @cached_property
    def sets(self) -> Mapping[str, tuple[str, ...]]:
        """Labels of every axis that this instance has."""
        return FrozenDict(
            (axis, labels(getattr(self, field)))
            for axis, field in AXIS_FIELDS.items()
            if field in type(self).model_fields
        )

    @classmethod
    def parse(cls, document: Mapping[str, Any], source: str = "instance") -> Self:
        """Build an instance from a document (the content of a file as Python objects).

        Parameters
        ----------
        document : mapping
            As in the JSON file; arrays may be NumPy arrays.
        source : str
            Named in error messages.

        Raises
        ------
        InstanceError
            With every problem found, each with its JSON path.
        """
        try:
            return cls.model_validate(dict(document))
        except ValidationError as error:
            raise InstanceError(source, list(problems_of(error))) from None

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> Self:
        """Read an instance file (``.json`` or ``.json.gz``)."""
        return cls.parse(read_json(path, InstanceError), str(path))

    @classmethod
    def from_frames(cls, document: Mapping[str, Any], **frames: Any) -> Self:
        """Build an instance with arrays taken from pandas frames.

        Parameters
        ----------
        document : mapping
            Everything that is not an array over sets: names, sets, profiles, objective.
        **frames : pandas.DataFrame
            One long frame per array field: a column for each of its axes (or fewer, to
            broadcast) holding labels, and a column named like the field holding values.

        Raises
        ------
        InstanceError
            If a column is missing, a label unknown, or a combination is missing or twice there.
        """
        quantities = {
            name
            for name, info in cls.model_fields.items()
            if any(isinstance(m, Quantity) for m in info.metadata)
        }
        problems = [
            Problem(f"$.{name}", "is not an array field of this instance")
            if name not in quantities
            else Problem(f"$.{name}", f"is a {type(frame).__name__}, expected a pandas frame")
            for name, frame in frames.items()
            if name not in quantities or not _is_frame(frame)
        ]
        if problems:
            raise InstanceError("frames", problems)
        return cls.parse({**document, **frames}, "frames")

    def document(self) -> dict[str, Any]:
        """The instance as the content of its file."""
        return self.model_dump(mode="python", exclude_defaults=False)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the instance file, whole or not at all; ``.gz`` compresses."""
        write_json(path, self.document())

    def replace(self, **changes: Any) -> Self:
        """A copy with some fields changed; they and how they fit the others are validated.

        Raises
        ------
        InstanceError
            With every problem found.
        """
        own = {name: getattr(self, name) for name in self.model_fields_set}
        return self.parse({**own, **changes}, f"{type(self).__name__}.replace")

    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, _: Any = None) -> Self:
        return self  # immutable

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self).parse, (self.document(),)

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        """Copy with changes, validated anew; the same as `replace`."""
        return self.replace(**(update or {}))

    @cached_property
    def sha256(self) -> str:
        """Digest of the content: the same numbers give the same digest, however they are stored.

        Fields at their default are left out, so that fields added later change no digest.
        """
        fields = {name: getattr(self, name) for name in type(self).model_fields}
        arrays = {n: v for n, v in fields.items() if isinstance(v, np.ndarray)}
        rest = self.model_dump(mode="python", exclude=set(arrays), exclude_defaults=True)
        digest = hashlib.sha256(_canonical_json(rest).encode())
        for name, array in sorted(arrays.items()):
            numbers = array if array.dtype == bool else array.astype("<f8") + 0.0  # -0.0 is 0.0
            digest.update(f"{name}{array.shape}".encode() + numbers.tobytes())
        return digest.hexdigest()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, type(self)) and self.sha256 == other.sha256

    def __hash__(self) -> int:
        return hash(self.sha256)

    @classmethod
    def json_schema(cls) -> dict[str, Any]:
        """JSON Schema (draft 2020-12) of the file format."""
        schema = cls.model_json_schema()
        return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}

    def __repr__(self) -> str:
        sizes = ", ".join(f"{len(members)} {axis}" for axis, members in self.sets.items())
        return f"<{type(self).__name__} {getattr(self, 'name', '')!r}: {sizes}>"

    __str__ = __repr__


def _canonical_json(document: Mapping[str, Any]) -> str:
    return json.dumps(document, sort_keys=True, allow_nan=False, default=_plain)


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return list(value)
    raise TypeError(f"cannot write {type(value).__name__}")


def _read_frame(
    frame: Any, name: str, allowed: Sequence[str], members: Mapping[str, Sequence[str]]
) -> tuple[tuple[str, ...], Any]:
    """Axes and values of a long frame: label columns, and a value column called `name`."""
    columns = list(frame.columns)
    axes = tuple(column for column in columns if column != name)
    if len(set(columns)) != len(columns):
        raise line_errors([((), f"the frame names a column twice: {columns}")])
    if name not in columns:
        raise line_errors([((), f"the frame has no column {name!r}, only {columns}")])
    if unknown := [axis for axis in axes if axis not in allowed]:
        text = f"column {unknown[0]!r} is not one of the axes {list(allowed)}"
        raise line_errors([((), text)])
    sizes = [len(members[axis]) for axis in axes]
    places = np.zeros(len(frame), dtype=np.int64)
    for axis, size in zip(axes, sizes, strict=True):
        number = {label: i for i, label in enumerate(members[axis])}
        codes = [number.get(label, -1) if isinstance(label, str) else -1 for label in frame[axis]]
        if -1 in codes:
            unknown_label = frame[axis].iloc[codes.index(-1)]
            raise line_errors([((), f"{unknown_label!r} is not a known {axis}")])
        places = places * size + np.array(codes, dtype=np.int64)
    counts = np.bincount(places, minlength=math.prod(sizes))
    if (counts != 1).any():
        first = int(np.flatnonzero(counts != 1)[0])
        at = [int(i) for i in np.unravel_index(first, sizes)] if axes else []
        place = [members[axis][i] for axis, i in zip(axes, at, strict=True)]
        text = f"{place} stands {counts[first]} times in the frame, expected once"
        raise line_errors([((), text)])
    values = np.empty(len(frame), dtype=object)
    values[places] = frame[name].to_numpy(dtype=object)
    return axes, values.reshape(sizes)


def _is_frame(value: Any) -> bool:
    return hasattr(value, "columns") and hasattr(value, "iloc")
