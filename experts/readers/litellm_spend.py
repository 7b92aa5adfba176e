"""Rows of LiteLLM's table LiteLLM_SpendLogs, as the proxy writes them for every request.

The schema is in `litellm/proxy/schema.prisma`, what the proxy writes in
`litellm/proxy/spend_tracking/spend_tracking_utils.py`. A row has no propensities and no scores.
"""

from __future__ import annotations

from .files import Record
from .outcome import number, text
from .served import LogReader, Served, seconds_of

__all__ = ["READER"]

_CHAT = (
    *("completion", "text_completion", "responses", "anthropic_messages", "generate_content"),
    *("generate_content_stream",),
)
_UNKNOWN = "unknown-model"  # a request for a model that the proxy does not have


def _read(row: Record, expert: str | None, place: str) -> Served | str:
    call = (text(row.get("call_type")) or "").lower()
    if call.rpartition(".")[2] not in (*_CHAT, *(f"a{name}" for name in _CHAT)):
        return f"no chat request ({call or 'no call_type'})"
    if (text(row.get("cache_hit")) or "").lower() == "true":
        return "answered from LiteLLM's cache"
    if expert is None or expert == _UNKNOWN:
        return "no model"
    start, end = (seconds_of(row, name, place) for name in ("startTime", "endTime"))
    if start is None:
        return "no startTime"
    latency = number(row, "request_duration_ms", place)
    seconds = latency / 1000.0 if latency is not None else None if end is None else end - start
    failed = (text(row.get("status")) or "success").lower() == "failure"
    tokens_in, tokens_out = (number(row, name, place) for name in ("prompt_tokens", "completion_tokens"))
    return Served(
        query=text(row.get("request_id")) or f"{expert} at {start}",
        expert=expert,
        at=start,
        status="failed" if failed else "ok",
        latency_s=None if seconds is None else max(seconds, 0.0),
        tokens_in=None if failed and not tokens_in else tokens_in,
        tokens_out=None if failed else tokens_out,
        cost=number(row, "spend", place),
        session=text(row.get("session_id")),
    )


READER = LogReader(
    read=_read,
    expert="model",
    about="rows of LiteLLM_SpendLogs, the proxy's table of requests",
    columns=frozenset({"request_id", "call_type", "spend", "startTime"}),
    lacks="propensities and scores",
)
