"""Rows of result files, one at a time: Parquet, CSV, JSON Lines and JSON arrays, gzipped or not.

Pickles are refused by their name and by their first bytes, because opening one runs arbitrary code.
"""

from __future__ import annotations

import csv
import gzip
import json
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO, cast

import pyarrow as pa
import pyarrow.parquet as pq

from ..io.errors import InputError

__all__ = ["Record", "records", "result_files"]

Record = dict[str, Any]

_KINDS = (".parquet", ".csv", ".tsv", ".jsonl", ".ndjson", ".json")
_PICKLES = (".pkl", ".pickle", ".pt", ".joblib", ".npy")
_BATCH = 1024  # rows of Parquet read at a time
_AHEAD = 1 << 16  # characters of JSON read at a time


def result_files(path: Path) -> list[Path]:
    """Return the result files of a folder and its subfolders, sorted, or the file itself.

    Args:
        path: a file or a folder.

    Raises:
        InputError: the path does not exist, or holds no file of a known kind.
    """
    if path.is_file():
        _refuse_pickle(path)
        return [path]
    if not path.is_dir():
        raise InputError("input", str(path), "no such file or folder", "give results or a folder of them")
    files = sorted(file for file in path.rglob("*") if file.is_file() and _kind(file) in _KINDS)
    if not files:
        for file in sorted(path.rglob("*")):
            _refuse_pickle(file)
        raise InputError("input", str(path), "holds no result files", f"give {', '.join(_KINDS)} files")
    return files


def records(path: Path) -> Iterator[Record]:
    """Yield the rows of a file as dictionaries, without loading the whole file.

    Args:
        path: a Parquet, CSV, TSV, JSON Lines or JSON file, gzipped or not.

    Raises:
        InputError: the file is a pickle, of an unknown kind, or invalid; names the line if it is known.
    """
    _refuse_pickle(path)
    try:
        yield from _rows(path)
    except (UnicodeDecodeError, gzip.BadGzipFile, EOFError, zlib.error) as error:
        fix = "save it as UTF-8, and compress it again if it is compressed"
        raise InputError("input", str(path), f"cannot be read ({error})", fix) from error


def _rows(path: Path) -> Iterator[Record]:
    kind = _kind(path)
    if kind == ".parquet":
        yield from _parquet(path)
    elif kind in (".csv", ".tsv"):
        yield from _csv(path, "\t" if kind == ".tsv" else ",")
    elif kind in (".jsonl", ".ndjson"):
        yield from _json_lines(path)
    elif kind == ".json":
        yield from _json(path)
    else:
        raise InputError("input", str(path), f"is of an unknown kind {kind!r}", f"give {', '.join(_KINDS)}")


def _kind(path: Path) -> str:
    return (path.with_suffix("") if path.suffix == ".gz" else path).suffix.lower()


def _refuse_pickle(path: Path) -> None:
    if not path.is_file():
        return
    with path.open("rb") as stream:
        start = stream.read(2)
    # Protocol 2 and later begin with 0x80 and their number.
    if _kind(path) in _PICKLES or (
        start[:1] == b"\x80" and start[1:] in (b"\x02", b"\x03", b"\x04", b"\x05")
    ):
        raise InputError(
            "input",
            str(path),
            "is a pickle; opening one runs arbitrary code, so pickles are not read",
            'convert it where you trust it: pandas.read_pickle("x.pkl").to_parquet("x.parquet")',
        )


def _parquet(path: Path) -> Iterator[Record]:
    try:
        with pq.ParquetFile(path) as file:
            # Answers are long and not used, so they are not decoded.
            names = [name for name in file.schema_arrow.names if not name.endswith("|model_response")]
            for batch in file.iter_batches(batch_size=_BATCH, columns=names):
                yield from batch.to_pylist()
    except (pa.ArrowException, OSError) as error:
        raise InputError(
            "input", str(path), f"is not a readable Parquet file ({error})", "write it again"
        ) from error


def _open(path: Path) -> TextIO:
    if path.suffix == ".gz":
        return cast(TextIO, gzip.open(path, "rt", encoding="utf-8", newline=""))
    return path.open(encoding="utf-8-sig", newline="")


def _csv(path: Path, separator: str) -> Iterator[Record]:
    csv.field_size_limit(sys.maxsize)  # an answer can be longer than the default limit of 128 kB
    with _open(path) as stream:
        rows = csv.DictReader(stream, delimiter=separator)
        try:
            for row in rows:
                if None in row:
                    problem = f"line {rows.line_num} has more values than the header has names"
                    raise InputError("input", str(path), problem, "quote values that hold separators")
                yield row
        except csv.Error as error:
            problem = f"line {rows.line_num} cannot be read ({error})"
            raise InputError("input", str(path), problem, "save it as UTF-8 CSV") from error


def _json_lines(path: Path) -> Iterator[Record]:
    with _open(path) as stream:
        for number, line in enumerate(stream, start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except ValueError as error:
                problem = f"line {number} is not JSON ({error})"
                raise InputError("input", str(path), problem, "write one JSON object a line") from error
            yield _object(row, path, f"line {number}")


def _json(path: Path) -> Iterator[Record]:
    """Yield the entries of an array; memory holds one entry and what was read ahead."""
    decoder, number = json.JSONDecoder(), 0
    with _open(path) as stream:
        text = stream.read(_AHEAD).lstrip()
        if not text.startswith("["):
            raise InputError(
                "input", str(path), "is not an array", "write an array of objects, or JSON Lines"
            )
        text = text[1:].lstrip()
        while not text.startswith("]"):
            number += 1
            while (value := _first_value(decoder, text)) is None:
                ahead = stream.read(max(_AHEAD, len(text)))
                if not ahead:
                    fix = "write an array of objects"
                    raise InputError("input", str(path), f"is not JSON from entry {number} on", fix)
                text = (text + ahead).lstrip()
            row, text = value
            yield _object(row, path, f"entry {number}")


def _first_value(decoder: json.JSONDecoder, text: str) -> tuple[Any, str] | None:
    """The first value of a text and the text after it; None if the value is incomplete."""
    try:
        value, end = decoder.raw_decode(text)
    except json.JSONDecodeError:
        return None
    rest = text[end:].lstrip()
    if rest.startswith(","):
        rest = rest[1:].lstrip()
        return (value, rest) if rest else None
    return (value, rest) if rest.startswith("]") else None


def _object(row: Any, path: Path, place: str) -> Record:
    if not isinstance(row, dict):
        raise InputError("input", str(path), f"{place} is not an object", "write one JSON object a row")
    return cast(Record, row)
