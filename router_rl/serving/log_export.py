"""Export of the decision log as Parquet, which `evaluate --log` and `monitor --log` read."""

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
    """Write the scored decisions: query_id, expert, propensity, quality, cost, features, and more.

    Decisions without a score, without a propensity (the client named the expert), without an answer or
    without a cost (the server was killed during a stream) are counted and left out, and so are those whose
    features another text pipeline made than that of the newest.

    Args:
        store: the log.
        out: the Parquet file.
        since: seconds since 1970.

    Returns:
        how many decisions were written, and how many left out for which reason.

    Raises:
        InputError: no decision is left, or the file cannot be written.
    """
    left_out = Counter[str]()
    rows: list[dict[str, Any]] = []
    for row in store.decisions(since=since):
        reason = _reason_to_leave_out(row)
        left_out[reason] += 1
        if not reason:
            rows.append(row)
    del left_out[""]
    kept = of_one_pipeline(rows)
    left_out["features of another text pipeline"] = len(rows) - len(kept)
    rows = kept
    if not rows:
        counts = ", ".join(f"{count} with {reason}" for reason, count in left_out.items() if count)
        fix = "post scores to /v1/outcomes"
        raise InputError("log", store.name, f"has no decision to export ({counts or 'it is empty'})", fix)
    _write(rows, out, _folder_of(rows[-1], store.deployments()))
    return {
        "log": store.name,
        "out": str(out),
        "decisions": len(rows),
        "left_out": {reason: count for reason, count in left_out.items() if count},
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


def _write(rows: list[dict[str, Any]], out: Path, router: str | None) -> None:
    features = np.stack([np.frombuffer(row["features"], dtype="<f4") for row in rows])
    columns: dict[str, Any] = {
        "query_id": [row["prompt_hash"] for row in rows],
        "decision": [row["id"] for row in rows],
        "expert": [row["expert"] for row in rows],
        "propensity": pa.array([row["propensity"] for row in rows], pa.float64()),
        "quality": pa.array([row["score"] for row in rows], pa.float64()),
        "cost": pa.array([row["cost_usd"] for row in rows], pa.float64()),
        "features": pa.FixedSizeListArray.from_arrays(pa.array(features.ravel()), features.shape[1]),
        "at": pa.array([row["at"] for row in rows], pa.float64()),
        "latency_s": pa.array([row["latency_s"] for row in rows], pa.float64()),
        "tokens_in": pa.array([row["tokens_in"] for row in rows], pa.int64()),
        "tokens_out": pa.array([row["tokens_out"] for row in rows], pa.int64()),
        "router": [row["router"] for row in rows],
        "session": pa.array([row["session"] for row in rows], pa.string()),
        "prompt": pa.array([row["prompt"] for row in rows], pa.string()),
    }
    facts = {
        "experts": list(rows[-1]["propensities"]),
        "router": router,
        "pipeline": rows[-1]["pipeline"],
    }
    metadata = {b"router_rl": json.dumps(facts).encode()}
    with replacing(out) as temporary:
        pq.write_table(pa.table(columns).replace_schema_metadata(metadata), temporary)
