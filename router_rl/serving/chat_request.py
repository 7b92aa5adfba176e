"""A request to `/v1/chat/completions`, checked as far as routing reads it; the rest is passed through."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, cast

__all__ = ["AUTO", "BadRequestError", "ChatRequest", "deadline_of", "last_prompt", "scored"]

AUTO = "auto"  # the model that stands for the router's choice


class BadRequestError(ValueError):
    """A request that cannot be served as it is.

    Args:
        parameter: what is wrong with the request.
        problem: why.
    """

    def __init__(self, parameter: str, problem: str) -> None:
        super().__init__(f"{parameter}: {problem}")
        self.parameter = parameter


@dataclass(frozen=True, kw_only=True)
class ChatRequest:
    """A chat completion.

    Attributes:
        model: `auto`, or the name of an expert.
        prompt: text of the last message of the user, which the router reads.
        messages: as the client sent them.
        stream: whether the answer is streamed.
        wants_usage: whether a streamed answer ends with its token counts.
        group: task or subject of the prompt, from the field `group` of `metadata`.
        session: name of the conversation, from the field `session` of `metadata`.
        deadline_s: seconds until the request is late, from the field `deadline_s` of `metadata`.
        rest: every other field, such as `tools` or `temperature`.
    """

    model: str
    prompt: str
    messages: list[dict[str, Any]]
    stream: bool = False
    wants_usage: bool = False
    group: str | None = None
    session: str | None = None
    deadline_s: float | None = None
    rest: Mapping[str, Any] = field(default_factory=dict[str, Any])

    @classmethod
    def of(cls, body: Any) -> ChatRequest:
        """Read the body of a request.

        Args:
            body: JSON.

        Raises:
            BadRequestError: a field that routing reads is missing or of another type.
        """
        if not isinstance(body, dict):
            raise BadRequestError("body", "is not a JSON object")
        fields = dict(cast("dict[str, Any]", body))
        model, messages = fields.pop("model", AUTO), fields.pop("messages", None)
        if not isinstance(model, str):
            raise BadRequestError("model", "is not a text")
        stream = fields.pop("stream", None) or False
        if not isinstance(stream, bool):
            raise BadRequestError("stream", "is not true or false")
        options = fields.pop("stream_options", None) or {}
        if not isinstance(options, dict):
            raise BadRequestError("stream_options", "is not an object")
        metadata = fields.get("metadata") or {}
        if not isinstance(metadata, dict):
            raise BadRequestError("metadata", "is not an object")
        fields.pop("metadata", None)  # for this server, not for the models
        return cls(
            model=model,
            prompt=last_prompt(messages),
            messages=cast("list[dict[str, Any]]", messages),
            stream=stream,
            wants_usage=cast("dict[str, Any]", options).get("include_usage") is True,
            group=_text(cast("dict[str, Any]", metadata), "group"),
            session=_text(cast("dict[str, Any]", metadata), "session"),
            deadline_s=deadline_of(cast("dict[str, Any]", metadata)),
            rest=fields,
        )


def last_prompt(messages: Any) -> str:
    """Return the text of the last message of the user, which is what routers are trained on.

    Args:
        messages: of a request; a content is a text, or a list of parts with texts and images.

    Raises:
        BadRequestError: there is no such message.
    """
    if not isinstance(messages, list) or not messages:
        raise BadRequestError("messages", "is not a list of messages")
    for message in reversed(cast("list[Any]", messages)):
        if not isinstance(message, dict):
            raise BadRequestError("messages", "holds an entry that is not an object")
        content: Any = cast("dict[str, Any]", message).get("content")
        if cast("dict[str, Any]", message).get("role") != "user":
            continue
        if isinstance(content, str):
            return content
        texts = _texts(content)
        if texts is None:
            raise BadRequestError("messages", "the last message of the user has no content")
        return "\n".join(texts)
    raise BadRequestError("messages", "has no message of the role user")


def deadline_of(metadata: Mapping[str, Any]) -> float | None:
    """Return the seconds until a request is late; None if its metadata do not say.

    Args:
        metadata: `deadline_s` is a number or, since OpenAI's clients send texts, its text.

    Raises:
        BadRequestError: it is no number above 0.
    """
    value = metadata.get("deadline_s")
    if value is None:
        return None
    try:
        seconds = float(value) if isinstance(value, str | int | float) else 0.0
    except (ValueError, OverflowError):
        seconds = 0.0
    if isinstance(value, bool) or not 0.0 < seconds < float("inf"):
        raise BadRequestError("metadata.deadline_s", "is not a number of seconds above 0")
    return seconds


def scored(body: dict[str, Any]) -> tuple[str, float]:
    """Return the decision and its score, which is a number from 0 to 1 or a thumb.

    Args:
        body: of a request to `/v1/outcomes`.

    Raises:
        BadRequestError: a field is missing or of another type.
    """
    decision, score, thumb = (body.get(name) for name in ("decision", "score", "thumb"))
    if not isinstance(decision, str) or not decision:
        raise BadRequestError("decision", "is not the id of a decision")
    if (score is None) == (thumb is None):
        raise BadRequestError("score", "give score (0 to 1) or thumb (up or down)")
    if thumb is not None:
        if thumb not in ("up", "down"):
            raise BadRequestError("thumb", "is neither up nor down")
        return decision, float(thumb == "up")
    if isinstance(score, bool) or not isinstance(score, int | float) or not 0.0 <= score <= 1.0:
        raise BadRequestError("score", "is not a number from 0 to 1")
    return decision, float(score)


def _texts(content: Any) -> list[str] | None:
    """Return the texts of a list of parts; None if it is none."""
    parts = cast("list[Any]", content) if isinstance(content, list) else []
    objects = [cast("dict[str, Any]", part) for part in parts if isinstance(part, dict)]
    texts: list[Any] = [part.get("text") for part in objects if part.get("type") == "text"]
    if not parts or len(objects) < len(parts) or not all(isinstance(text, str) for text in texts):
        return None
    return texts


def _text(metadata: Mapping[str, Any], name: str) -> str | None:
    value = metadata.get(name)
    if value is not None and not isinstance(value, str):
        raise BadRequestError(f"metadata.{name}", "is not a text")
    return value
