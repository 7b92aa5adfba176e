"""Replay records of vLLM Semantic Router, one for every routing decision.

In vllm-project/semantic-router, `src/semantic-router/pkg/routerreplay/store/store.go` has the record, and
`pkg/routerruntime/learning_outcome.go` the verdicts of outcomes. A record has no propensities.
"""

from __future__ import annotations

import json
from typing import Any

from ..io.errors import InputError
from .files import Record
from .outcome import number, text
from .served import LogReader, Served, seconds_of

__all__ = ["READER"]

# Whether the model was good enough; `overprovisioned` says that a cheaper one would have been.
_QUALITY = {"good_fit": 1.0, "overprovisioned": 1.0, "underpowered": 0.0, "failed": 0.0}
_STATUS = {"completed": "ok", "failed": "failed", "aborted": "gone", "in_progress": "started"}


def _read(row: Record, expert: str | None, place: str) -> Served | str:
    if row.get("from_cache") in (True, "true", "True", "t"):
        return "answered from the semantic cache"
    if expert is None:
        return "no model"
    at = seconds_of(row, "timestamp", place)
    if at is None:
        return "no timestamp"
    milliseconds, ended = number(row, "duration_ms", place), seconds_of(row, "ended_at", place)
    seconds = milliseconds / 1000.0 if milliseconds else None if ended is None else ended - at
    return Served(
        query=text(row.get("id")) or text(row.get("request_id")) or f"{expert} at {at}",
        expert=expert,
        at=at,
        status=_status(row, place),
        latency_s=None if seconds is None else max(seconds, 0.0),
        tokens_in=number(row, "prompt_tokens", place),
        tokens_out=number(row, "completion_tokens", place),
        cost=number(row, "actual_cost", place),
        quality=_quality(row, place),
        session=text(row.get("session_id")) or text(row.get("conversation_id")),
    )


def _status(row: Record, place: str) -> str:
    """Return the status by the lifecycle; records of older releases have the HTTP status alone."""
    state = text(row.get("lifecycle_state"))
    if state in _STATUS:
        return _STATUS[state]
    code = number(row, "response_status", place) or 0.0
    return "failed" if code >= 400 else "ok" if code else "started"


def _quality(row: Record, place: str) -> float | None:
    """Return the quality that the newest outcome about the model says; None without one."""
    outcomes: Any = row.get("outcomes")
    try:
        listed = json.loads(outcomes) if isinstance(outcomes, str) and outcomes.strip() else outcomes
    except ValueError as error:
        raise InputError("outcomes", outcomes, f"{place}: is not JSON", "export it as JSON") from error
    if not isinstance(listed, list):
        return None
    about_model = [each for each in listed if isinstance(each, dict) and each.get("target") == "model"]
    verdicts = [each.get("verdict") for each in sorted(about_model, key=_time)]
    return next((_QUALITY[each] for each in reversed(verdicts) if each in _QUALITY), None)


def _time(outcome: Record) -> float:
    return seconds_of(outcome, "timestamp", "outcomes") or 0.0


READER = LogReader(
    read=_read,
    expert="selected_model",
    about="replay records of vLLM Semantic Router",
    columns=frozenset({"timestamp", "turn_index", "signals"}),
    lacks="propensities",
)
