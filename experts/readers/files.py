"""Rows of result files, one at a time: Parquet, CSV, JSON Lines and JSON arrays, gzipped or not.

Pickles are recognised by name and by first bytes, and refused, because opening one runs arbitrary code.
"""

from __future__ import annotations

import csv
import gzip
import json
import os
import reprlib
import stat
import sys
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TextIO, cast

from ..io.errors import InputError
from ..table.parquet_file import opened_parquet

__all__ = ["Record", "distinct_names", "records", "result_files"]

Record = dict[str, Any]

_KINDS = (".parquet", ".csv", ".tsv", ".jsonl", ".ndjson", ".json")
_PICKLES = (".pkl", ".pickle", ".pt", ".joblib", ".npy")
_BATCH = 1024  # rows of Parquet read at a time
_AHEAD = 1 << 16  # characters of JSON read at a time


def result_files(path: Path, field: str = "source") -> list[Path]:
    """Return the result files of a folder and its subfolders, sorted, or the file itself.

    Args:
        path: a file or a folder.
        field: the option that names it, for the error.

    Raises:
        InputError: the path does not exist, or holds no file of a known kind.
    """
    try:
        if not path.is_dir():
            _check_regular(path, field)
            _refuse_pickle(path, field)
            return [path]
        below = sorted(file for file in path.rglob("*") if file.is_file())
        files = [file for file in below if _kind(file) in _KINDS]
        if not files:
            for file in below:
                _refuse_pickle(file, field)
            raise InputError(field, str(path), "holds no result files", f"give {', '.join(_KINDS)} files")
    except OSError as error:
        raise _unreadable(path, field, error, "give results or a folder of them") from error
    return files


def distinct_names(files: Sequence[Path], name: Callable[[Path], str]) -> dict[Path, str]:
    """Return a distinct name of each file: its own, or its path below their common folder if files share it.

    Args:
        files: result files.
        name: a file's own name, such as its stem.

    >>> distinct_names([Path("a/x.csv"), Path("b/x.csv"), Path("b/y.csv")], lambda file: file.stem).values()
    dict_values(['a/x.csv', 'b/x.csv', 'y'])
    """
    counts = Counter(map(name, files))
    common = os.path.commonpath([file.parent for file in files]) if files else ""
    return {
        file: name(file) if counts[name(file)] == 1 else Path(os.path.relpath(file, common or ".")).as_posix()
        for file in files
    }


def records(path: Path, field: str = "source") -> Iterator[Record]:
    """Yield the rows of a file as dictionaries, without loading the whole file.

    Args:
        path: a Parquet, CSV, TSV, JSON Lines or JSON file, gzipped or not.
        field: the option that names the file, for the error.

    Raises:
        InputError: the file is a pickle, of an unknown kind, or invalid; names the line if it is known.
    """
    try:
        _check_regular(path, field)
        _refuse_pickle(path, field)
        yield from _rows(path, field)
    except (UnicodeDecodeError, EOFError, zlib.error, OSError) as error:
        raise _unreadable(
            path, field, error, "save it as UTF-8, and compress it again if it is compressed"
        ) from error
    except RecursionError as error:
        raise InputError(field, str(path), "is nested too deeply", "write one flat object a row") from error


def _rows(path: Path, field: str) -> Iterator[Record]:
    kind = _kind(path)
    if kind == ".parquet":
        yield from _parquet(path, field)
    elif kind in (".csv", ".tsv"):
        yield from _csv(path, field, "\t" if kind == ".tsv" else ",")
    elif kind in (".jsonl", ".ndjson"):
        yield from _json_lines(path, field)
    elif kind == ".json":
        yield from _json(path, field)
    else:
        raise InputError(field, str(path), f"is of an unknown kind {kind!r}", f"give {', '.join(_KINDS)}")


def _kind(path: Path) -> str:
    return (path.with_suffix("") if path.suffix == ".gz" else path).suffix.lower()


def _check_regular(path: Path, field: str) -> None:
    try:
        mode = path.stat().st_mode
    except (FileNotFoundError, ValueError) as error:  # ValueError: a NUL character in the name
        fix = "give results or a folder of them"
        raise InputError(field, str(path), "no such file or folder", fix) from error
    if not stat.S_ISREG(mode):
        raise InputError(field, str(path), "is not a regular file", f"give a {', '.join(_KINDS)} file")


def _unreadable(path: Path, field: str, error: Exception, fix: str) -> InputError:
    reason = getattr(error, "strerror", None) or str(error)
    return InputError(field, str(path), f"cannot be read ({' '.join(reason.split())})", fix)


def _refuse_pickle(path: Path, field: str) -> None:
    with path.open("rb") as stream:
        start = stream.read(2)
    # Protocol 2 and later begin with 0x80 and their number.
    if _kind(path) in _PICKLES or (
        start[:1] == b"\x80" and start[1:] in (b"\x02", b"\x03", b"\x04", b"\x05")
    ):
        raise InputError(
            field,
            str(path),
            "is a pickle; opening one runs arbitrary code, so pickles are not read",
            'convert it where you trust it: pandas.read_pickle("x.pkl").to_parquet("x.parquet")',
        )


def _check_distinct(path: Path, field: str, names: Sequence[str], place: str) -> None:
    """Check that no column occurs twice; columns without a name, as of an index, may."""
    for name, count in Counter(names).items():
        if count > 1 and name:
            problem = f"{place} has the column {reprlib.repr(name)} {count} times"
            raise InputError(field, str(path), problem, "rename or drop one of them")


def _parquet(path: Path, field: str) -> Iterator[Record]:
    with opened_parquet(field, path, "give a Parquet file") as file:
        # Answers are long and not used, so they are not decoded.
        names = [name for name in file.schema_arrow.names if not name.endswith("|model_response")]
        for batch in file.iter_batches(batch_size=_BATCH, columns=names):
            yield from batch.to_pylist()


def _open(path: Path) -> TextIO:
    if path.suffix == ".gz":
        return cast(TextIO, gzip.open(path, "rt", encoding="utf-8-sig", newline=""))
    return path.open(encoding="utf-8-sig", newline="")


def _csv(path: Path, field: str, separator: str) -> Iterator[Record]:
    csv.field_size_limit(sys.maxsize)  # an answer can be longer than the default limit of 128 kB
    with _open(path) as stream:
        # Strict, because a quote that is never closed would swallow the rows after it.
        rows = csv.reader(stream, delimiter=separator, strict=True)
        try:
            names = next(rows, [])
            _check_distinct(path, field, names, "the header")
            for row in rows:
                if not row:
                    continue
                if len(row) != len(names):
                    more = "more" if len(row) > len(names) else "fewer"
                    problem = f"line {rows.line_num} has {more} values than the header has names"
                    raise InputError(field, str(path), problem, "quote values that hold separators")
                yield dict(zip(names, row, strict=True))
        except csv.Error as error:
            problem = f"line {rows.line_num} cannot be read ({error})"
            raise InputError(field, str(path), problem, "save it as UTF-8 CSV") from error


def _json_lines(path: Path, field: str) -> Iterator[Record]:
    with _open(path) as stream:
        for number, line in enumerate(stream, start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line, object_pairs_hook=_distinct)
            except ValueError as error:
                problem = f"line {number} is not JSON ({error})"
                raise InputError(field, str(path), problem, "write one JSON object a line") from error
            yield _object(row, path, field, f"line {number}")


def _json(path: Path, field: str) -> Iterator[Record]:
    """Yield the entries of an array; memory holds one entry and what was read ahead."""
    decoder, number = json.JSONDecoder(object_pairs_hook=_distinct), 0
    with _open(path) as stream:
        text = stream.read(_AHEAD).lstrip()
        if not text.startswith("["):
            raise InputError(field, str(path), "is not an array", "write an array of objects, or JSON Lines")
        text = text[1:].lstrip()
        while not text.startswith("]"):
            number += 1
            while (value := _first_value(decoder, text, path, field, number)) is None:
                ahead = stream.read(max(_AHEAD, len(text)))
                if not ahead:
                    fix = "write an array of objects"
                    raise InputError(field, str(path), f"is not JSON from entry {number} on", fix)
                text = (text + ahead).lstrip()
            row, text = value
            yield _object(row, path, field, f"entry {number}")
        if text[1:].strip() or stream.read(_AHEAD).strip():
            raise InputError(field, str(path), "goes on after its array", "write one array of objects")


def _first_value(
    decoder: json.JSONDecoder, text: str, path: Path, field: str, number: int
) -> tuple[Any, str] | None:
    """The first value of a text and the text after it; None if the value is incomplete."""
    try:
        value, end = decoder.raw_decode(text)
    except json.JSONDecodeError:
        return None
    except ValueError as error:  # a key that occurs twice, or a number of thousands of digits
        fix = "write an array of objects"
        raise InputError(field, str(path), f"entry {number} is not JSON ({error})", fix) from error
    rest = text[end:].lstrip()
    if rest.startswith(","):
        rest = rest[1:].lstrip()
        return (value, rest) if rest else None
    return (value, rest) if rest.startswith("]") else None


def _distinct(pairs: list[tuple[str, Any]]) -> Record:
    value = dict(pairs)
    if len(value) != len(pairs):
        (name, count), *_ = Counter(name for name, _ in pairs).most_common(1)
        raise ValueError(f"it has the key {reprlib.repr(name)} {count} times")
    return value


def _object(row: Any, path: Path, field: str, place: str) -> Record:
    if not isinstance(row, dict):
        raise InputError(field, str(path), f"{place} is not an object", "write one JSON object a row")
    return cast(Record, row)
