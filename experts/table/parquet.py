"""Outcome tables as Parquet: column names, metadata, and features that stay on disk."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ..io.atomic import replacing
from ..io.errors import InputError
from ..io.json_types import parse_json
from .feature_column import is_list, read_features
from .outcome_columns import read_outcomes
from .parquet_columns import check_numbers, text_column, whole_column
from .parquet_file import opened_parquet
from .splitting import LEAKAGE

__all__ = ["SCHEMA_VERSION", "read_columns", "write_table"]

SCHEMA_VERSION = 1
_METADATA_KEY = b"router_rl"
_TEXTS = ("query_id", "prompt", "group", "split")
_PER_EXPERT = ("quality", "cost", "confidence", "tokens_in", "tokens_out", "latency_s")
_CHUNK = 16_384  # rows written together


def read_columns(path: Path, *, progress: bool = True, field: str = "table") -> dict[str, Any]:
    """Return the fields of an OutcomeTable from a Parquet file; without a `split` column there is no `split`.

    Args:
        path: the file.
        progress: show progress on stderr.
        field: name of the option, for errors.

    Raises:
        InputError: the file does not exist or is not Parquet, or a column is missing or invalid.
    """
    fix = "give a Parquet file; for a source's name use experts.open_table"
    with opened_parquet(field, path, fix) as file:
        schema = file.schema_arrow
        stored = _metadata(path, schema.metadata)
        experts = _experts(path, schema.names, stored.get("experts"), field)
        if file.metadata.num_rows == 0:
            raise InputError(field, str(path), "has no rows", "collect at least one query")
        features = read_features(file, path, progress=progress) if "features" in schema.names else None
        outcomes = {
            kind: read_outcomes(file, path, kind, experts, progress=progress)
            for kind in _PER_EXPERT
            if any(f"{kind}/{expert}" in schema.names for expert in experts)
        }
        apart = {"features", *(f"{kind}/{expert}" for kind in outcomes for expert in experts)}
        table = file.read(columns=[name for name in schema.names if name not in apart])
        table.validate(full=True)  # text that is not UTF-8, and the like, fails later otherwise
        return _columns(path, table, experts, stored, features) | outcomes


def _columns(
    path: Path,
    table: pa.Table,
    experts: tuple[str, ...],
    stored: dict[str, Any],
    features: np.ndarray | None,
) -> dict[str, Any]:
    """Return the fields of an OutcomeTable from the columns of a file that are no outcomes."""
    columns: dict[str, Any] = {
        "experts": experts,
        "features": features,
        "cost_unit": stored.get("cost_unit", "unknown"),
        "source": stored.get("source", path.name),
        # A file cannot disable the leakage check: only the caller who reads it can.
        "notes": tuple(note for note in stored.get("notes", ()) if not note.startswith(LEAKAGE)),
    }
    known = {*_TEXTS, "fold", "label", "features"}
    for name in _TEXTS:
        if name in table.column_names:
            columns[name] = text_column(name, table[name], path)
    if "fold" in table.column_names:
        columns["fold"] = whole_column("fold", table["fold"], path)
    if all(f"probabilities/{expert}" in table.column_names for expert in experts):
        names = [f"probabilities/{expert}" for expert in experts]
        known.update(names)
        columns["probabilities"] = _probabilities(table, names)
        if "label" in table.column_names:
            columns["label"] = whole_column("label", table["label"], path)
    else:  # a `label` without probabilities is an unknown column
        known.remove("label")
    unknown = [name for name in table.column_names if name not in known]
    columns["extra"] = table.select(unknown).replace_schema_metadata() if unknown else None
    return columns


def write_table(path: Path, columns: dict[str, Any]) -> None:
    """Write the fields of an OutcomeTable as Parquet, atomically and in chunks of rows.

    Args:
        path: the file.
        columns: every field of the table by name.
    """
    experts: tuple[str, ...] = columns["experts"]
    stored = {
        "schema_version": SCHEMA_VERSION,
        "cost_unit": columns["cost_unit"],
        "experts": list(experts),
        "source": columns["source"],
        "notes": list(columns["notes"]),
    }
    rows = len(columns["query_id"])
    with replacing(path) as temporary:
        writer: pq.ParquetWriter | None = None
        try:
            for start in range(0, rows, _CHUNK):
                chunk = _chunk(columns, experts, slice(start, start + _CHUNK))
                if writer is None:
                    schema = chunk.schema.with_metadata({_METADATA_KEY: json.dumps(stored).encode()})
                    writer = pq.ParquetWriter(temporary, schema, compression="zstd")
                writer.write_table(chunk.replace_schema_metadata(writer.schema.metadata))
        finally:
            if writer is not None:
                writer.close()


def _metadata(path: Path, metadata: dict[bytes, bytes] | None) -> dict[str, Any]:
    raw = (metadata or {}).get(_METADATA_KEY)
    if raw is None:
        return {}
    try:
        content: Any = parse_json(raw)
    except ValueError as error:
        raise InputError("router_rl", str(path), f"is not JSON ({error})", "write the table again") from error
    if not isinstance(content, dict) or not _is_version(content.get("schema_version")):
        version = content.get("schema_version") if isinstance(content, dict) else content
        problem = f"{path}: this version reads schema_version {SCHEMA_VERSION}"
        raise InputError("schema_version", version, problem, "upgrade, or write the table again")
    for key, kind in (("experts", "names"), ("notes", "sentences")):
        listed: Any = content.get(key, [])
        if not isinstance(listed, list) or not all(isinstance(item, str) for item in listed):
            raise InputError(key, listed, f"{path}: should be a list of {kind}", "write the table again")
    for key in ("source", "cost_unit"):
        if not isinstance(content.get(key, ""), str):
            raise InputError(key, content[key], f"{path}: should be a text", "write the table again")
    return content


def _is_version(value: Any) -> bool:
    return type(value) is int and value == SCHEMA_VERSION


def _experts(path: Path, names: list[str], stored: Any, field: str) -> tuple[str, ...]:
    """Return the experts in the order of the metadata, or of the columns if the metadata has none."""
    kinds = ("quality/", "cost/")
    named = [name.split("/", 1)[1] for kind in kinds for name in names if name.startswith(kind)]
    experts = tuple(str(name) for name in (named if stored is None else stored))
    experts = tuple(dict.fromkeys(experts)) if stored is None else experts
    if not experts:
        problem = "has no quality/<expert> column"
        raise InputError(field, str(path), problem, "add quality/<expert> and cost/<expert>")
    for expert in experts:
        for kind in kinds:
            if f"{kind}{expert}" not in names:
                raise InputError(
                    f"{kind}{expert}", None, f"{path}: the column is missing", "add it or drop the expert"
                )
    if "query_id" not in names:
        raise InputError("query_id", None, f"{path}: the column is missing", "add a distinct id a row")
    return experts


def _probabilities(table: pa.Table, names: list[str]) -> np.ndarray:
    stacked: list[np.ndarray] = []
    for name in names:
        check_numbers(name, table[name].type)
        column: Any = table[name].combine_chunks()
        sizes = pc.call_function("list_value_length", [column]) if is_list(column.type) else None
        if sizes is None or column.null_count or len(set(sizes.to_pylist())) != 1:
            raise InputError(
                name, str(column.type), "is not one list of C values a row", "store C floats a row"
            )
        flat = pc.fill_null(pc.cast(column.flatten(), pa.float32(), safe=False), float("nan"))
        stacked.append(flat.to_numpy(zero_copy_only=False).reshape(len(column), -1))
    if len({values.shape for values in stacked}) != 1:
        counts = [values.shape[1] for values in stacked]
        raise InputError("probabilities", counts, "experts differ in classes", "store the same C for all")
    return np.stack(stacked, axis=1)


def _chunk(columns: dict[str, Any], experts: tuple[str, ...], rows: slice) -> pa.Table:
    arrays: dict[str, Any] = {}
    for name in _TEXTS:
        if columns[name] is not None:
            arrays[name] = pa.array(columns[name][rows].tolist(), type=pa.string())
    for name in ("fold", "label"):
        if columns[name] is not None:
            arrays[name] = pa.array(columns[name][rows])
    if columns["features"] is not None:
        arrays["features"] = _fixed(columns["features"][rows])
    for kind in _PER_EXPERT:
        if columns[kind] is not None:
            for i, expert in enumerate(experts):
                values = columns[kind][rows, i]
                arrays[f"{kind}/{expert}"] = pa.array(values, mask=np.isnan(values))
    if columns["probabilities"] is not None:
        for i, expert in enumerate(experts):
            arrays[f"probabilities/{expert}"] = _fixed(columns["probabilities"][rows, i])
    if columns["extra"] is not None:
        part = columns["extra"].slice(rows.start, rows.stop - rows.start)
        arrays.update({name: part[name] for name in part.column_names if name not in arrays})
    return pa.table(arrays)


def _fixed(values: np.ndarray) -> pa.FixedSizeListArray:
    flat = pa.array(np.ascontiguousarray(values).reshape(-1))
    return pa.FixedSizeListArray.from_arrays(flat, values.shape[1])
