"""A complete answer in the form of a stream, in the OpenAI format."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Any

__all__ = ["as_chunks"]


async def as_chunks(whole: dict[str, Any], *, wants_usage: bool) -> AsyncGenerator[dict[str, Any], None]:
    """Yield a chat completion as the chunks of a stream.

    Args:
        whole: the complete answer.
        wants_usage: whether the stream ends with the token counts.
    """
    shared = {**whole, "object": "chat.completion.chunk"}
    usage = shared.pop("usage", None)
    choices: list[dict[str, Any]] = []
    for choice in whole["choices"]:
        delta: dict[str, Any] = dict(choice.get("message") or {})
        if delta.get("tool_calls"):
            delta["tool_calls"] = [{"index": at, **call} for at, call in enumerate(delta["tool_calls"])]
        rest = {name: value for name, value in choice.items() if name != "message"}
        choices.append({**rest, "delta": delta})
    yield {**shared, "choices": choices}
    if wants_usage and usage is not None:
        yield {**shared, "choices": [], "usage": usage}
