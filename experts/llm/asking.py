"""One attempt of a request to one model through LiteLLM, and its reply."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import reprlib
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from types import NoneType
from typing import Any

from .endpoints import Endpoint
from .key_hiding import without_keys
from .lite import lite

__all__ = [
    "Client",
    "FaultyAnswerError",
    "Reply",
    "Request",
    "check_record",
    "failure_of",
    "litellm_parameters",
]

# Wrong key, or no such model: every request to it fails. (403 can concern a single prompt.)
_PERMANENT = (401, 404)
_AGAIN = (408, 409, 429)  # and 5xx
_MOST_TOKENS = 2**31  # a count above is a mistake of the server
_FIELDS: dict[str, tuple[type, ...]] = {
    "answer": (str,),
    "finish_reason": (str, NoneType),
    "tokens_in": (int,),
    "tokens_out": (int,),
    "latency_s": (int, float, NoneType),
}


class FaultyAnswerError(ValueError):
    """A server answered 200 with something that is no answer; the request is repeated."""


@dataclass(frozen=True, slots=True)
class Request:
    """One prompt for one model.

    Attributes:
        endpoint: the model.
        prompt: the user message.
    """

    endpoint: Endpoint
    prompt: str

    @property
    def key(self) -> str:
        """A digest of what the answer depends on; it excludes the server's address and the price."""
        model = self.endpoint
        parts = [model.name, model.model, model.max_tokens, model.options, self.prompt]
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class Reply:
    """The result of an attempt, or of a request after all its attempts.

    Attributes:
        record: `answer` (text), `finish_reason`, `tokens_in`, `tokens_out`, `tokens_reported` (False if the
            server did not report them and LiteLLM counted), `latency_s` of the successful attempt, and
            `response`, the server's whole response; None if there is no answer.
        failed: the reason why there is no answer.
        permanent: every request to this model fails for this reason.
        again: another attempt may succeed.
        wait_s: seconds that the server asks to wait before it; None if it does not say.
        charged: the provider may charge for the attempt although there is no answer.
    """

    record: dict[str, Any] | None
    failed: str = ""
    permanent: bool = False
    again: bool = False
    wait_s: float | None = None
    charged: bool = False


class Client:
    """Sends requests to models through LiteLLM, one attempt at a time.

    Args:
        endpoints: the models.
    """

    def __init__(self, endpoints: Sequence[Endpoint]) -> None:
        self._litellm = lite()
        self._parameters = {each.name: litellm_parameters(each) for each in endpoints}
        self._ready: asyncio.Task[None] | None = None

    async def ask(self, request: Request) -> Reply:
        """Send a request once and return its reply, within the endpoint's `timeout` in total.

        Args:
            request: to one of the client's models.
        """
        if self._ready is None:
            self._ready = asyncio.create_task(self._prepare(request.endpoint.model))
        await self._ready
        seconds = request.endpoint.timeout
        call = self._litellm.acompletion(
            messages=[{"role": "user", "content": request.prompt}],
            **self._parameters[request.endpoint.name],
        )
        try:
            # LiteLLM's own timeout bounds each read, so that a server which sends slowly is never cut off.
            response = await asyncio.wait_for(call, seconds)
            return Reply(_record(self._litellm, request, response))
        except (TimeoutError, asyncio.TimeoutError):
            reason = f"Timeout: no complete answer within {seconds:g} s"
            return Reply(None, reason, again=True, charged=True)
        except Exception as error:  # any error is the reason why this answer is missing
            return failure_of(error)

    async def _prepare(self, model: str) -> None:
        """Let LiteLLM import what its first call needs, which is no part of an attempt's time."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the imports
            with contextlib.suppress(Exception):  # the first attempt says what is wrong
                message = {"role": "user", "content": ""}
                await self._litellm.acompletion(
                    model=model, messages=[message], mock_response="ready", api_key="none"
                )

    async def close(self) -> None:
        """Close LiteLLM's connections; call it in the event loop of the requests."""
        await self._litellm.close_litellm_async_clients()
        self._litellm.in_memory_llm_clients_cache.flush_cache()  # the cache would return closed clients


def litellm_parameters(endpoint: Endpoint) -> dict[str, Any]:
    """Return the `litellm_params` of a deployment in LiteLLM's router, which are also those of a call.

    Args:
        endpoint: the model.

    Raises:
        InputError: the environment has no variable of the endpoint's `api_key_env`.
    """
    optional = {
        "api_base": endpoint.api_base,
        "api_key": endpoint.key(),
        "max_tokens": endpoint.max_tokens,
    }
    return {
        **endpoint.options,
        "model": endpoint.model,
        "timeout": endpoint.timeout,
        "max_retries": 0,  # retries are those of `attempts`, so the client must not retry
        **{name: value for name, value in optional.items() if value is not None},
    }


def check_record(record: Mapping[str, Any]) -> None:
    """Check the record of an answer from a journal.

    Args:
        record: see `Reply`.

    Raises:
        ValueError: a field is missing or of another type; names it.
    """
    for name, kinds in _FIELDS.items():
        value = record.get(name)
        if name not in record or not isinstance(value, kinds) or isinstance(value, bool):
            raise ValueError(f"{name} is {reprlib.repr(value)}" if name in record else f"it has no {name}")
        if isinstance(value, int | float) and not 0 <= value < _MOST_TOKENS:
            raise ValueError(f"{name} is {reprlib.repr(value)}, out of range")


def failure_of(error: Exception) -> Reply:
    """Return the reply of a failed attempt.

    Args:
        error: what LiteLLM raised.
    """
    causes = list(_causes(error))
    responses = [
        getattr(each, "response", None) for each in causes if type(each).__name__ == "HTTPStatusError"
    ]
    status: Any = getattr(responses[0], "status_code", None) if responses else None
    stated: Any = getattr(error, "status_code", None)
    # LiteLLM raises a plain exception for an error that the body of a reply of status 200 holds.
    in_body = any(type(each) is Exception and hasattr(each, "status_code") for each in causes)
    faulty = isinstance(error, FaultyAnswerError) or (status is None and in_body)
    unsent = any(type(each).__name__ in ("ConnectError", "ConnectTimeout") for each in causes)
    known = stated if status is None else status
    refused = isinstance(known, int) and 400 <= known < 500 and known not in _AGAIN and not faulty
    name = FaultyAnswerError.__name__ if faulty else type(error).__name__
    return Reply(
        None,
        without_keys(f"{name}: {' '.join(str(error).split())}")[:500],
        permanent=refused and known in _PERMANENT,
        again=not refused,
        wait_s=_retry_after(causes),
        charged=not (refused or unsent or (status is not None and status not in (408, 504))),
    )


def _causes(error: BaseException) -> Iterator[BaseException]:
    """An error and what it was raised from, down to the first."""
    seen: set[int] = set()
    each: BaseException | None = error
    while each is not None and id(each) not in seen:
        seen.add(id(each))
        yield each
        each = each.__cause__ or each.__context__


def _retry_after(causes: Sequence[BaseException]) -> float | None:
    """The server's Retry-After in seconds, which is a number or a date."""
    for each in causes:
        headers: Any = getattr(getattr(each, "response", None), "headers", None) or {}
        value = headers.get("retry-after")
        if value is None:
            continue
        try:
            return float(value)
        except ValueError:
            try:
                return parsedate_to_datetime(value).timestamp() - time.time()
            except (TypeError, ValueError):
                return None
    return None


def _record(litellm: Any, request: Request, response: Any) -> dict[str, Any]:
    if not response.choices:
        raise FaultyAnswerError("the server's response has no choices")
    choice = response.choices[0]
    answer = choice.message.content or ""
    usage: Any = getattr(response, "usage", None)
    counts = [getattr(usage, name, None) or 0 for name in ("prompt_tokens", "completion_tokens")]
    if not all(isinstance(count, int) and 0 <= count < _MOST_TOKENS for count in counts):
        raise FaultyAnswerError(f"the server's response counts {counts[0]} and {counts[1]} tokens")
    reported = any(counts)
    if reported and not all((counts[0], counts[1] or not answer)):
        raise FaultyAnswerError(f"the server's response counts tokens of one part only: {counts}")
    tokens_in, tokens_out = counts
    if not reported:  # some servers do not report tokens, and 0 would make their answers free
        model = request.endpoint.model
        tokens_in = litellm.token_counter(model=model, text=request.prompt)
        tokens_out = litellm.token_counter(model=model, text=answer)
    milliseconds = getattr(response, "_response_ms", None)
    return {
        "answer": answer,
        "finish_reason": choice.finish_reason,
        "tokens_in": tokens_in,
        "tokens_out": tokens_out,
        "tokens_reported": reported,
        "latency_s": None if milliseconds is None else milliseconds / 1000,
        "response": response.model_dump(mode="json"),
    }
