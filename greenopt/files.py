"""Reading and writing JSON so that nothing is lost: whole files or none, errors with a place."""

from __future__ import annotations

import errno
import gzip
import json
import os
import tempfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from greenopt.errors import InputError, Problem


def write_bytes_atomically(path: str | os.PathLike[str], data: bytes) -> None:
    """Write a file so that an interruption leaves the old file or the new one, never half."""
    target = Path(path)
    if not target.parent.is_dir():
        raise FileNotFoundError(errno.ENOENT, "there is no such folder", str(target.parent))
    handle, temporary = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(data)
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(temporary, 0o666 & ~umask)  # mkstemp makes private files; this one is the user's
        os.replace(temporary, target)
    except BaseException:
        os.unlink(temporary)
        raise


def write_json(path: str | os.PathLike[str], document: Any) -> None:
    """Write a JSON object, a line a field, gzip-compressed when the name ends in ``.gz``."""
    data = _laid_out(document).encode()
    if str(path).endswith(".gz"):
        data = gzip.compress(data, mtime=0)
    write_bytes_atomically(path, data)


def _laid_out(document: Mapping[str, Any]) -> str:
    """JSON to read and to compare: a line a field, a line a member of a list of objects."""

    def compact(value: Any) -> str:
        return json.dumps(value, allow_nan=False)

    lines = []
    for key, value in document.items():
        if isinstance(value, list | tuple) and value and isinstance(value[0], dict):
            members = ",\n  ".join(map(compact, value))
            lines.append(f"{compact(key)}: [\n  {members}\n ]")
        else:
            lines.append(f"{compact(key)}: {compact(value)}")
    return "{\n " + ",\n ".join(lines) + "\n}\n"


def read_json(path: str | os.PathLike[str], error: type[InputError]) -> dict[str, Any]:
    """Read a JSON object, reporting anything unreadable as `error` with one clear line.

    Raises
    ------
    InputError
        (of the class given) if the file is missing, not gzip, not UTF-8, truncated, not JSON,
        not an object, or names a key twice.
    """

    def refuse(message: str) -> InputError:
        return error(str(path), [Problem("$", message)])

    try:
        data = Path(path).read_bytes()
        if data[:2] == b"\x1f\x8b":
            data = gzip.decompress(data)
        document = json.loads(data.decode("utf-8"), object_pairs_hook=_object_without_duplicates)
    except (OSError, EOFError, zlib.error) as problem:
        reason = getattr(problem, "strerror", None) or str(problem)
        raise refuse(f"cannot be read: {reason}") from None
    except UnicodeDecodeError as problem:
        raise refuse(f"is not UTF-8 text (byte {problem.start})") from None
    except json.JSONDecodeError as problem:
        raise refuse(
            f"is not valid JSON: {problem.msg} at line {problem.lineno}, column {problem.colno}"
        ) from None
    except RecursionError:
        raise refuse("is nested too deeply to be an instance or a solution") from None
    except ValueError as problem:  # _object_without_duplicates
        raise refuse(str(problem)) from None
    if not isinstance(document, dict):
        raise refuse(f"holds a {type(document).__name__}, expected a JSON object")
    return document


def _object_without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        names = [name for name, _ in pairs]
        twice = sorted({name for name in names if names.count(name) > 1})
        raise ValueError(f"names {', '.join(map(repr, twice))} twice in one object")
    return result
