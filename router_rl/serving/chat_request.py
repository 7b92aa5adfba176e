"""A request to `/v1/chat/completions`: the fields that routing reads are checked, the others passed on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, cast

__all__ = [
    "AUTO",
    "CHARACTERS_PER_TOKEN",
    "NO_DEADLINES",
    "BadRequestError",
    "ChatRequest",
    "Deadlines",
    "deadlines_of",
    "estimated_tokens",
    "last_prompt",
    "read_outcome",
    "text_length",
]

AUTO = "auto"  # the model name with which the router chooses
CHARACTERS_PER_TOKEN = 4  # for estimates of tokens before a model counts them
_MIN_REMAINING = 0.1  # of its deadline: what a request has left at least when another expert is called


class BadRequestError(ValueError):
    """A request that is not valid.

    Args:
        parameter: name of the field that is wrong.
        problem: what is wrong with it.
    """

    def __init__(self, parameter: str, problem: str) -> None:
        super().__init__(f"{parameter}: {problem}")
        self.parameter = parameter


class Deadlines(NamedTuple):
    """Seconds from now until a request is late; None where the request does not say.

    Attributes:
        last: until the whole answer is late.
        first: until the first token is late.
    """

    last: float | None = None
    first: float | None = None

    def after(self, seconds: float) -> Deadlines:
        """Return what is left of the deadlines after some seconds, at least a tenth of each."""
        left = [None if each is None else max(each - seconds, _MIN_REMAINING * each) for each in self]
        return Deadlines(*left)


NO_DEADLINES = Deadlines()


@dataclass(frozen=True, kw_only=True)
class ChatRequest:
    """A chat completion.

    Attributes:
        model: `auto`, or the name of an expert.
        prompt: text of the last user message, which the router reads.
        messages: the messages as the client sent them.
        stream: whether the answer is streamed.
        wants_usage: whether a streamed answer ends with its token counts.
        group: task or subject of the prompt, from the field `group` of `metadata`.
        session: name of the conversation, from the field `session` of `metadata`.
        deadlines: when the request is late, from `deadline_s` and `first_deadline_s` of `metadata`.
        rest: all other fields, such as `tools` or `temperature`.
    """

    model: str
    prompt: str
    messages: list[dict[str, Any]]
    stream: bool = False
    wants_usage: bool = False
    group: str | None = None
    session: str | None = None
    deadlines: Deadlines = NO_DEADLINES
    rest: Mapping[str, Any] = field(default_factory=dict[str, Any])

    @classmethod
    def of(cls, body: Any) -> ChatRequest:
        """Read the body of a request.

        Args:
            body: the JSON value.

        Raises:
            BadRequestError: a field that routing reads is missing or has the wrong type.
        """
        if not isinstance(body, dict):
            raise BadRequestError("body", "is not a JSON object")
        fields = dict(cast("dict[str, Any]", body))
        model, messages = fields.pop("model", AUTO), fields.pop("messages", None)
        if not isinstance(model, str):
            raise BadRequestError("model", "is not a string")
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
            deadlines=deadlines_of(cast("dict[str, Any]", metadata)),
            rest=fields,
        )


def last_prompt(messages: Any) -> str:
    """Return the text of the last user message; routers are trained on such prompts.

    Args:
        messages: messages of a request; a content is a string, or a list of parts with texts and images.

    Raises:
        BadRequestError: there is no user message, or an entry is not a message.
    """
    if not isinstance(messages, list) or not messages:
        raise BadRequestError("messages", "is not a list of messages")
    entries = cast("list[Any]", messages)
    if not all(isinstance(entry, dict) for entry in entries):
        raise BadRequestError("messages", "has an entry that is not an object")
    for message in reversed(cast("list[dict[str, Any]]", entries)):
        content: Any = message.get("content")
        if message.get("role") != "user":
            continue
        if isinstance(content, str):
            return content
        texts = _texts(content)
        if texts is None:
            raise BadRequestError("messages", "the last user message has no content")
        return "\n".join(texts)
    raise BadRequestError("messages", "has no message with the role user")


def text_length(message: Mapping[str, Any]) -> int:
    """Return the characters of a message's texts, without images and sounds.

    Args:
        message: its content is a string, or a list of parts; anything else has no text.

    >>> text_length({"role": "user", "content": [{"type": "text", "text": "four"}, {"type": "image_url"}]})
    4
    """
    content: Any = message.get("content")
    parts = cast("list[Any]", content) if isinstance(content, list) else [content]
    texts = [cast("dict[str, Any]", part).get("text") if isinstance(part, dict) else part for part in parts]
    return sum(len(text) for text in texts if isinstance(text, str))


def estimated_tokens(messages: Sequence[Mapping[str, Any]]) -> float:
    """Return the estimated tokens of messages, 4 characters per token.

    Args:
        messages: of a request.
    """
    return sum(map(text_length, messages)) / CHARACTERS_PER_TOKEN


def deadlines_of(metadata: Mapping[str, Any]) -> Deadlines:
    """Return the deadlines of a request.

    Args:
        metadata: metadata of the request; `deadline_s` and `first_deadline_s` are numbers or their strings
            (OpenAI's clients send strings).

    Raises:
        BadRequestError: one of them is not a number above 0.
    """
    return Deadlines(_seconds(metadata, "deadline_s"), _seconds(metadata, "first_deadline_s"))


def read_outcome(body: dict[str, Any]) -> tuple[str, float]:
    """Read the body of a request to `/v1/outcomes`.

    Args:
        body: JSON object with `decision`, and `score` (0 to 1) or `thumb` (up or down).

    Returns:
        the id of the decision, and its score from 0 to 1.

    Raises:
        BadRequestError: a field is missing or has the wrong type.
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
    """Return the texts of a list of content parts; None if the value is not such a list."""
    parts = cast("list[Any]", content) if isinstance(content, list) else []
    objects = [cast("dict[str, Any]", part) for part in parts if isinstance(part, dict)]
    texts: list[Any] = [part.get("text") for part in objects if part.get("type") == "text"]
    if not parts or len(objects) < len(parts) or not all(isinstance(text, str) for text in texts):
        return None
    return texts


def _text(metadata: Mapping[str, Any], name: str) -> str | None:
    value = metadata.get(name)
    if value is not None and not isinstance(value, str):
        raise BadRequestError(f"metadata.{name}", "is not a string")
    return value


def _seconds(metadata: Mapping[str, Any], name: str) -> float | None:
    """Return a number of seconds above 0; None if the metadata has none."""
    value = metadata.get(name)
    if value is None:
        return None
    try:
        seconds = float(value) if isinstance(value, str | int | float) else 0.0
    except (ValueError, OverflowError):
        seconds = 0.0
    if isinstance(value, bool) or not 0.0 < seconds < float("inf"):
        raise BadRequestError(f"metadata.{name}", "is not a number of seconds above 0")
    return seconds
