"""One request as another server's log states it, and the readers of such logs."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any, NamedTuple

import pyarrow as pa

from ..io.errors import InputError
from .files import Record

__all__ = ["LogReader", "Served", "seconds_of"]

_BELOW_MICROSECONDS = re.compile(r"(\.\d{6})\d+")
_WITH_ZONE = re.compile(r"(?:[zZ]|[+-]\d\d(?::?\d\d)?)$")


class Served(NamedTuple):
    """One request to one expert; None for what the log does not state.

    Attributes:
        query: id of the request.
        expert: name of the expert that answered, or should have.
        at: seconds since 1970 at which the expert was asked.
        status: `ok`, `failed`, `cut`, `gone` or `started`.
        latency_s: seconds until the whole answer.
        tokens_in: tokens of the prompt.
        tokens_out: tokens of the answer.
        cost: in the log's currency.
        quality: 0 to 1.
        session: the conversation.
    """

    query: str
    expert: str
    at: float
    status: str
    latency_s: float | None = None
    tokens_in: float | None = None
    tokens_out: float | None = None
    cost: float | None = None
    quality: float | None = None
    session: str | None = None


@dataclass(frozen=True, kw_only=True)
class LogReader:
    """The format of another server's log.

    Attributes:
        read: maps a row, the name of its expert and its place (file and number, for errors) to the request,
            or to the reason why the row is left out.
        expert: column that names the expert.
        about: a one-line description.
        columns: columns by which a row of this format is detected.
        lacks: what such a log does not have, and what this means.
    """

    read: Callable[[Record, str | None, str], Served | str]
    expert: str
    about: str
    columns: frozenset[str]
    lacks: str


def seconds_of(row: Record, name: str, place: str) -> float | None:
    """Return a time in seconds since 1970, or None if it is missing; a time without a zone is UTC.

    Args:
        row: the row.
        name: its column: a text such as `2026-08-22T10:00:00Z`, a time of Parquet, or seconds.
        place: the file and row number, for the error.

    Raises:
        InputError: the value is not a time.

    >>> seconds_of({"at": "1970-01-01 00:00:01.5+00"}, "at", "row 0")
    1.5
    """
    value: Any = row.get(name)
    if value is None or value != value or (isinstance(value, str) and not value.strip()):
        return None
    if isinstance(value, datetime):
        return (value if value.tzinfo else value.replace(tzinfo=timezone.utc)).timestamp()
    if isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    text = _BELOW_MICROSECONDS.sub(r"\1", str(value).strip())
    try:
        zone = "UTC" if _WITH_ZONE.search(text) and ":" in text else None
        parsed: Any = pa.scalar(text).cast(pa.timestamp("us", tz=zone))
    except pa.ArrowInvalid as error:
        raise InputError(name, value, f"{place}: is not a time", "write 2026-08-22T10:00:00Z") from error
    return parsed.value / 1e6
