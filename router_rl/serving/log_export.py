"""Export of the decision log as Parquet, which `train`, `evaluate` and `monitor --log` read."""

from __future__ import annotations

import contextlib
import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from experts import InputError
from experts.io.atomic import replacing

from ..routing.storage import stored_text_digest
from .log_row import of_one_pipeline
from .log_store import LogStore

__all__ = ["export_log"]


def export_log(store: LogStore, out: Path, *, since: float = 0.0) -> dict[str, Any]:
    """Write every decision: query_id, expert, propensity, quality, cost, features, times, status and more.

    Nothing can be learned from decisions without a score, without a propensity (the client named the expert),
    without an answer or without a cost (the server was killed during a stream), nor from those whose features
    another text pipeline made than that of the newest: they are counted, and their features are null. They
    still tell when requests arrived, how long experts took and when they failed.

    Args:
        store: the log.
        out: the Parquet file.
        since: seconds since 1970.

    Returns:
        how many decisions were written, how many of them are of use for learning, and how many are not for
        which reason.

    Raises:
        InputError: the log is empty, or the file cannot be written.
    """
    left_out = Counter[str]()
    every: list[dict[str, Any]] = []
    rows: list[dict[str, Any]] = []
    for row in store.decisions(since=since):
        every.append(row)
        reason = _reason_to_leave_out(row)
        left_out[reason] += 1
        if not reason:
            rows.append(row)
    del left_out[""]
    kept = of_one_pipeline(rows)
    left_out["features of another text pipeline"] = len(rows) - len(kept)
    rows = kept
    if not every:
        fix = "send requests to `serve`, or give an earlier --since"
        raise InputError("log", store.name, "has no decision to export", fix)
    router = _folder_of(rows[-1], store.deployments()) if rows else None
    _write(every, {row["id"] for row in rows}, out, router, rows[-1]["pipeline"] if rows else None)
    return {
        "log": store.name,
        "written": str(out),
        "decisions": len(every),
        "for_learning": len(rows),
        "not_for_learning": {reason: count for reason, count in left_out.items() if count},
    }


def _folder_of(row: dict[str, Any], deployments: Sequence[dict[str, Any]]) -> str | None:
    """Return the newest router that was served and makes the features of a decision; None if it is gone."""
    for deployment in reversed(deployments):
        for which in ("", "previous_"):  # a canary does not make the features
            folder, digest = deployment[f"{which}folder"], deployment[f"{which}digest"]
            if folder is None:
                continue
            if row["pipeline"] is None and row["router"] == digest:
                return str(folder)
            with contextlib.suppress(OSError):
                if row["pipeline"] == stored_text_digest(Path(folder)):
                    return str(folder)
    return None


def _reason_to_leave_out(row: dict[str, Any]) -> str:
    if row["status"] == "failed":
        return "no answer"
    if row["propensity"] is None:
        return "no propensity"
    if row["score"] is None:
        return "no score"
    return "no cost" if row["cost_usd"] is None else ""


def _write(
    rows: list[dict[str, Any]], learned: set[str], out: Path, router: str | None, pipeline: str | None
) -> None:
    columns: dict[str, Any] = {
        "query_id": [row["prompt_hash"] for row in rows],
        "decision": [row["id"] for row in rows],
        "expert": [row["expert"] for row in rows],
        "propensity": pa.array([row["propensity"] for row in rows], pa.float64()),
        "quality": pa.array([row["score"] for row in rows], pa.float64()),
        "cost": pa.array([row["cost_usd"] for row in rows], pa.float64()),
        "at": pa.array([row["at"] for row in rows], pa.float64()),
        "latency_s": pa.array([row["latency_s"] for row in rows], pa.float64()),
        "tokens_in": pa.array([row["tokens_in"] for row in rows], pa.int64()),
        "tokens_out": pa.array([row["tokens_out"] for row in rows], pa.int64()),
        "status": [row["status"] for row in rows],
        "previous": pa.array([row["previous"] for row in rows], pa.string()),
        "router": [row["router"] for row in rows],
        "session": pa.array([row["session"] for row in rows], pa.string()),
        "prompt": pa.array([row["prompt"] for row in rows], pa.string()),
    }
    features = [row["features"] if row["id"] in learned else None for row in rows]
    width = next((len(one) // 4 for one in features if one is not None), 0)
    if width:
        blank = bytes(4 * width)
        values = np.frombuffer(b"".join(one or blank for one in features), dtype="<f4")
        unknown = pa.array([one is None for one in features])
        columns["features"] = pa.FixedSizeListArray.from_arrays(pa.array(values), width, mask=unknown)
    named = [row for row in rows if row["propensities"]]
    experts = list(named[-1]["propensities"]) if named else sorted({row["expert"] for row in rows})
    facts = {"experts": experts, "router": router, "pipeline": pipeline, "cost_unit": "usd"}
    metadata = {b"router_rl": json.dumps(facts).encode()}
    with replacing(out) as temporary:
        pq.write_table(pa.table(columns).replace_schema_metadata(metadata), temporary)
