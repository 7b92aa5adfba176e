"""Read a JSON file that this toolkit wrote; a file that is damaged or of another kind is a one-line error."""

from __future__ import annotations

import hashlib
import json
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .errors import InputError
from .json_types import MAX_BYTES, check_type, parse_json

__all__ = ["read_json", "read_small_file", "sealed"]

_CHECKSUM = "checksum"


def read_json(field: str, path: Path | str, schema: Any, *, fix: str) -> Any:
    """Return the content of a JSON file, checked against a type and, where it has one, its checksum.

    Args:
        field: what the user gave, for the error.
        path: a regular file.
        schema: a type as `check_type` takes it, such as a TypedDict.
        fix: what to do about a file that cannot be used, such as `train again`.

    Raises:
        InputError: the file is missing, too large or not JSON, was changed after it was written, or a field
            of it is missing or of another type; names the file and the field.
    """
    content = read_small_file(field, path, fix=fix)
    try:
        value = parse_json(content)
        if isinstance(value, dict) and _CHECKSUM in value:
            checksum = value.pop(_CHECKSUM)
            if checksum != _checksum(value):
                raise ValueError("it was changed after it was written: its checksum is of other content")
        check_type(value, schema, "")
    except ValueError as error:
        raise InputError(field, str(path), f"cannot be used: {error}", fix) from error
    return value


def sealed(content: Mapping[str, Any]) -> dict[str, Any]:
    """Return the content of a JSON file with its checksum, which `read_json` checks.

    Args:
        content: what `json.dumps` takes.
    """
    plain = json.loads(json.dumps(content, allow_nan=False))  # as it is read: keys are texts
    return {**plain, _CHECKSUM: _checksum(plain)}


def read_small_file(field: str, path: Path | str, *, fix: str) -> bytes:
    """Return the bytes of a regular file of at most `MAX_BYTES`; its size is checked before it is read.

    Args:
        field: what the user gave, for the error.
        path: the file.
        fix: what to do about a file that cannot be read.

    Raises:
        InputError: the file is missing, is no regular file, is too large or cannot be read.
    """
    path = Path(path)
    problem = f"has more than {MAX_BYTES} bytes"
    try:
        about = path.stat()
        if not stat.S_ISREG(about.st_mode):
            problem = "is not a file"
        elif about.st_size <= MAX_BYTES:
            return path.read_bytes()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise InputError(field, str(path), f"cannot be read ({reason})", fix) from error
    raise InputError(field, str(path), problem, fix)


def _checksum(content: Mapping[str, Any]) -> str:
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return "sha256:" + hashlib.sha256(text.encode()).hexdigest()
