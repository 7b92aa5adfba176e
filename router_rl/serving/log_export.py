"""Export the decision log as Parquet, which `train`, `evaluate` and `monitor --log` read."""

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
from experts.table.feature_column import list_column

from ..routing.storage import stored_text_digest
from .log_row import of_one_pipeline
from .log_store import LogStore

__all__ = ["export_log"]


def export_log(store: LogStore, out: Path, *, since: float = 0.0) -> dict[str, Any]:
    """Write every decision: query_id, expert, propensity, quality, cost, features, times, status and more.

    Some decisions cannot be used for learning: those without a score, a propensity (the client named the
    expert), an answer or a cost (the server was killed during a stream), and those whose features come from
    another text pipeline than the newest decision's. They are counted, and their features are null. They
    still have arrival times, latencies and failures.

    Args:
        store: the log.
        out: the Parquet file.
        since: earliest time, seconds since 1970.

    Returns:
        the number of decisions written, the number that can be used for learning, and the number of the
        others by reason.

    Raises:
        InputError: the log is empty, or the file cannot be written.
    """
    excluded = Counter[str]()
    decisions: list[dict[str, Any]] = []
    complete: list[dict[str, Any]] = []
    for row in store.decisions(since=since):
        decisions.append(row)
        reason = _reason_to_exclude(row)
        excluded[reason] += 1
        if not reason:
            complete.append(row)
    del excluded[""]
    rows = of_one_pipeline(complete)
    excluded["features of another text pipeline"] = len(complete) - len(rows)
    if not decisions:
        fix = "send requests to `serve`, or give an earlier --since"
        raise InputError("log", store.name, "has no decision to export", fix)
    router = _folder_of(rows[-1], store.deployments()) if rows else None
    _write(decisions, {row["id"] for row in rows}, out, router, rows[-1]["pipeline"] if rows else None)
    return {
        "log": store.name,
        "written": str(out),
        "decisions": len(decisions),
        "for_learning": len(rows),
        "not_for_learning": {reason: count for reason, count in excluded.items() if count},
    }


def _folder_of(row: dict[str, Any], deployments: Sequence[dict[str, Any]]) -> str | None:
    """Return the newest deployed router with a decision's text pipeline; None if none still exists."""
    for deployment in reversed(deployments):
        folder = str(deployment["folder"])
        if row["pipeline"] is None and row["router"] == deployment["digest"]:
            return folder
        with contextlib.suppress(OSError):
            if row["pipeline"] == stored_text_digest(Path(folder)):
                return folder
    return None


def _reason_to_exclude(row: dict[str, Any]) -> str:
    if row["status"] == "failed":
        return "no answer"
    if row["propensity"] is None:
        return "no propensity"
    if row["score"] is None:
        return "no score"
    return "no cost" if row["cost_usd"] is None else ""


def _write(
    rows: list[dict[str, Any]], usable: set[str], out: Path, router: str | None, pipeline: str | None
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
    features = [row["features"] if row["id"] in usable else None for row in rows]
    width = next((len(each) // 4 for each in features if each is not None), 0)
    if width:
        blank = bytes(4 * width)
        values = np.frombuffer(b"".join(each or blank for each in features), dtype="<f4")
        missing = np.array([each is None for each in features])
        columns["features"] = list_column(values.reshape(-1, width), missing)
    routed = [row for row in rows if row["propensities"]]
    experts = list(routed[-1]["propensities"]) if routed else sorted({row["expert"] for row in rows})
    facts = {"experts": experts, "router": router, "pipeline": pipeline, "cost_unit": "usd"}
    metadata = {b"router_rl": json.dumps(facts).encode()}
    with replacing(out) as temporary:
        pq.write_table(pa.table(columns).replace_schema_metadata(metadata), temporary)
