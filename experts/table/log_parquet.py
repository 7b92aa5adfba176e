"""Decision logs as Parquet files: their columns, and the facts in their metadata."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypedDict

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ..io.atomic import replacing
from ..io.errors import InputError, unknown_name
from ..io.json_types import check_type, parse_json
from .feature_column import list_column, read_features
from .parquet_columns import float_column, number_column, text_column
from .parquet_file import opened_parquet

__all__ = ["NUMBERS", "TEXTS", "read_log", "write_log"]

NUMBERS = ("at", "latency_s", "tokens_in", "tokens_out")
TEXTS = ("status", "session", "previous", "prompt")
_LEARNED = ("propensity", "quality", "cost")
_REQUIRED = ("query_id", "expert")
_FIX = "give a Parquet file of `log export` or `log import`"


class _Facts(TypedDict, total=False):
    """The metadata of a log."""

    experts: list[str]
    router: str | None
    pipeline: str | None
    cost_unit: str


def read_log(path: Path, experts: Sequence[str] | None = None) -> dict[str, Any]:
    """Return the fields of a `DecisionLog` from a file; missing numbers are NaN, missing texts None.

    Args:
        path: the file.
        experts: the N names in the order of their ids; None: those of the file's metadata, else the names in
            the column `expert`, sorted. In a log with propensities, decisions without one that are on other
            experts are left out: their clients named the expert.

    Raises:
        InputError: the file does not exist, is not Parquet, lacks a column, or names an unknown expert.
    """
    with opened_parquet("log", path, _FIX) as file:
        names = file.schema_arrow.names
        for name in _REQUIRED:
            if name not in names:
                raise InputError(name, None, f"{path}: the column is missing", "add it to the log")
        if file.metadata.num_rows == 0:
            raise InputError("log", str(path), "has no decisions", "log at least one")
        facts = _facts((file.schema_arrow.metadata or {}).get(b"router_rl"))
        own = [name for name in (*_LEARNED, *NUMBERS, *TEXTS) if name in names]
        table = file.read(columns=[*_REQUIRED, *own])
        table.validate(full=True)
        values: dict[str, Any] = {name: np.full(len(table), np.nan, dtype=np.float32) for name in _LEARNED}
        for name in own:
            column = table[name]
            if name in TEXTS:
                values[name] = _texts(name, column, path)
            else:
                values[name] = (float_column if name in _LEARNED else number_column)(name, column)
        if "features" in names:
            values["features"] = read_features(file, path, progress=False, nullable=True)
        required = {name: text_column(name, table[name], path) for name in _REQUIRED}
    for name, column in required.items():
        for row, value in enumerate(column):
            if value is None or value != value:
                fix = "fill it in or drop the row"
                raise InputError(name, None, f"row {row} is missing in {path}", fix)
    chosen = [str(name) for name in required["expert"]]
    order = list(experts or facts.get("experts") or sorted(set(chosen)))
    ids = {name: index for index, name in enumerate(order)}
    # Requests can name an expert that the router does not know.
    without = np.isnan(values["propensity"])
    skipped = without & (not without.all())
    for name, skip in zip(chosen, skipped, strict=True):
        if name not in ids and not skip:
            raise unknown_name("expert", name, order)
    kept = np.array([name in ids for name in chosen])
    fields = {
        "query_id": np.array([str(name) for name in required["query_id"]], dtype=object),
        "action": np.array([ids.get(name, -1) for name in chosen], dtype=np.int64),
        **values,
    }
    if not kept.all():
        fields = {name: column[kept] for name, column in fields.items()}
    return {
        "experts": tuple(order),
        "cost_unit": facts.get("cost_unit", "unknown"),
        "router": facts.get("router"),
        "pipeline": facts.get("pipeline"),
        **fields,
    }


def write_log(
    path: Path,
    experts: Sequence[str],
    columns: Mapping[str, np.ndarray],
    cost_unit: str = "unknown",
    router: str | None = None,
    pipeline: str | None = None,
) -> None:
    """Write the columns of a decision log, atomically.

    Args:
        path: the file.
        experts: the N names in the order of their ids.
        columns: arrays by field of `DecisionLog`; `action` becomes the column `expert`.
        cost_unit: unit of the costs.
        router: folder of the router that served, if it is known.
        pipeline: digest of its text pipeline, if it is known.
    """
    written: dict[str, Any] = {}
    for name, values in columns.items():
        if name == "action":
            written["expert"] = pa.array([experts[action] for action in values])
        elif name in ("query_id", *TEXTS):
            written[name] = pa.array(values.tolist(), type=pa.string())
        elif name == "features":
            missing: Any = np.isnan(values).all(axis=1)
            if not missing.all():
                written[name] = list_column(values, missing)
        else:
            written[name] = pa.array(values, from_pandas=True)  # NaN is missing
    facts: _Facts = {
        "experts": list(experts),
        "router": router,
        "pipeline": pipeline,
        "cost_unit": cost_unit,
    }
    table = pa.table(written).replace_schema_metadata({b"router_rl": json.dumps(facts).encode()})
    with replacing(path) as temporary:
        pq.write_table(table, temporary, compression="zstd")


def _texts(name: str, column: pa.ChunkedArray, path: Path) -> np.ndarray:
    """Return a column of texts, [T] str, None where it is missing."""
    if pa.types.is_null(column.type):
        return np.full(len(column), None, dtype=object)
    values = np.empty(len(column), dtype=object)
    for row, value in enumerate(text_column(name, column, path)):
        values[row] = None if value is None or value != value else str(value)
    return values


def _facts(metadata: bytes | None) -> _Facts:
    """Return the metadata of a log; none if it is of another origin."""
    try:
        facts = parse_json(metadata or b"{}")
        check_type(facts, _Facts, "")
    except ValueError:
        return {}
    return facts
