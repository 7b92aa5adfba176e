"""Call servers of the OpenAI protocol directly: their answers need no translation by LiteLLM."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import suppress
from typing import Any, cast
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import aiohttp

from experts.llm.asking import FaultyAnswerError
from experts.llm.endpoints import Endpoint

from .event_stream import EventStream

__all__ = ["OpenAIServers", "StatusError", "speaks_openai"]

_PROVIDERS = ("openai", "hosted_vllm")  # of LiteLLM, for servers of the OpenAI protocol
_KEEPALIVE_S = 4.0  # of an idle connection; uvicorn, and so vLLM, closes it after 5
_END_S = 0.1  # maximum wait for the end of a stream after its last event; later, its connection is closed
_MAX_REASON = 2_000  # characters of a server's error message that are kept


class StatusError(RuntimeError):
    """A server answered with an error status.

    Args:
        status_code: status of the response.
        reason: the server's error message.
        response: the response, with its headers.
    """

    def __init__(self, status_code: int, reason: str, response: aiohttp.ClientResponse) -> None:
        super().__init__(f"{status_code}: {reason}")
        self.status_code, self.response = status_code, response


def speaks_openai(endpoint: Endpoint, options: Sequence[str]) -> bool:
    """Return whether a model is called directly: its server speaks the OpenAI protocol, at an `http` address.

    LiteLLM calls servers behind TLS or a proxy, since it has settings for both.

    Args:
        endpoint: the model.
        options: names of the parameters of the OpenAI protocol; LiteLLM calls a model with any other option.
    """
    provider, _, model = endpoint.model.partition("/")
    address = urlsplit(endpoint.api_base or "")
    plain = provider in _PROVIDERS and not model.startswith("responses/") and address.scheme == "http"
    if not plain or not set(endpoint.options) <= set(options):
        return False
    return "http" not in getproxies() or bool(proxy_bypass(address.hostname or ""))


class OpenAIServers:
    """Sends requests to models that speak the OpenAI protocol.

    Args:
        endpoints: the models; see `speaks_openai`.
    """

    def __init__(self, endpoints: Sequence[Endpoint]) -> None:
        self._endpoints = {each.name: each for each in endpoints}
        self._headers = {
            each.name: {"authorization": f"Bearer {each.key()}", "content-type": "application/json"}
            for each in endpoints
        }
        self._session: aiohttp.ClientSession | None = None

    def __contains__(self, expert: str) -> bool:
        """Return whether a model is one of these."""
        return expert in self._endpoints

    async def answer(self, expert: str, fields: dict[str, Any]) -> dict[str, Any]:
        """Return the whole answer of a model.

        Args:
            expert: name of the model.
            fields: fields of the request, as JSON.

        Raises:
            TimeoutError: the answer is not complete within the model's `timeout`.
            StatusError: the server answered with an error.
            FaultyAnswerError: the response is not a chat completion.
            ClientError: the connection failed.
        """
        limit = aiohttp.ClientTimeout(total=self._endpoints[expert].timeout)
        async with self._send(expert, fields, limit) as response:
            content = await response.read()
            _check_status(response, content)
        answer = _object(content)
        choices = answer.get("choices")
        if not choices or not all(isinstance(each.get("message"), dict) for each in choices):
            raise FaultyAnswerError("the server's response has no choices")
        return answer

    async def stream(self, expert: str, fields: dict[str, Any]) -> AsyncGenerator[dict[str, Any], None]:
        """Yield the chunks of a model's answer.

        Args:
            expert: name of the model.
            fields: fields of the request, as JSON.

        Raises:
            TimeoutError: no headers, or no complete chunk, arrive within the model's `timeout`.
            StatusError: the server answered with an error.
            FaultyAnswerError: a chunk is malformed, or the stream ends before the answer is complete.
            ClientError: the connection failed.
        """
        timeout = self._endpoints[expert].timeout
        limit = aiohttp.ClientTimeout(total=None, sock_connect=timeout, sock_read=timeout)
        # Each read has a limit, so that a server which sends its headers slowly needs one in total.
        begun = asyncio.wait_for(self._send(expert, {**fields, "stream": True}, limit), timeout)
        async with await begun as response:
            if response.status != 200 or response.content_type == "application/json":
                content = await asyncio.wait_for(response.read(), timeout)
                _check_status(response, content)
                _object(content)
                raise FaultyAnswerError("the server's response is no stream")
            events, finished, last = EventStream(), False, time.monotonic()
            async for piece in response.content.iter_any():
                for data in events.read(piece):
                    if data == b"[DONE]":
                        await _read_end(response)
                        return
                    chunk = _object(data)
                    finished = finished or _is_finished(chunk)
                    yield chunk
                    last = time.monotonic()  # time in which the client was slow does not count
                if time.monotonic() - last > timeout:
                    raise asyncio.TimeoutError("no whole chunk")
            for data in events.end():
                if data != b"[DONE]":
                    yield _object(data)
                finished = True
            if not finished:
                raise FaultyAnswerError("the stream ends before the answer")

    async def close(self) -> None:
        """Close the connections."""
        if self._session is not None:
            await self._session.close()
        self._session = None

    def _send(self, expert: str, fields: dict[str, Any], limit: aiohttp.ClientTimeout) -> Any:
        """Send a request; return its response, to be awaited or entered as a context."""
        session = self._session
        if session is None:  # created inside the event loop of the requests
            session = self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=_KEEPALIVE_S),
                cookie_jar=aiohttp.DummyCookieJar(),
            )
        endpoint = self._endpoints[expert]
        assert endpoint.api_base is not None
        return session.post(
            f"{endpoint.api_base.rstrip('/')}/chat/completions",
            data=json.dumps({"model": endpoint.model.partition("/")[2], **fields}).encode(),
            headers=self._headers[expert],
            timeout=limit,
            allow_redirects=False,
        )


def _check_status(response: aiohttp.ClientResponse, content: bytes) -> None:
    """Raise StatusError, with the server's message, unless the status is 200."""
    if response.status != 200:
        reason = content[:_MAX_REASON].decode("utf-8", "replace")
        with suppress(ValueError, KeyError, TypeError, RecursionError):  # a message in OpenAI's format
            reason = str(json.loads(content)["error"]["message"])[:_MAX_REASON]
        raise StatusError(response.status, reason, response)


def _object(content: bytes) -> dict[str, Any]:
    """Parse a JSON object and check its `choices`.

    Raises:
        FaultyAnswerError: the content is not such an object, or describes an error.
    """
    try:
        read = _JSON.decode(content.decode())
    except (ValueError, RecursionError) as error:
        raise FaultyAnswerError(f"the server's response is not JSON ({str(error)[:100]})") from error
    if not isinstance(read, dict):
        raise FaultyAnswerError("the server's response is no JSON object")
    answer = cast("dict[str, Any]", read)
    if answer.get("error"):
        raise FaultyAnswerError(f"the server's response is an error: {str(answer['error'])[:_MAX_REASON]}")
    choices: Any = answer.get("choices") or []
    if not isinstance(choices, list) or not all(isinstance(each, dict) for each in choices):
        raise FaultyAnswerError("the choices of the server's response are no list of objects")
    return answer


def _no_number(name: str) -> None:
    raise ValueError(f"{name} is no number of JSON")


_JSON = json.JSONDecoder(parse_constant=_no_number)  # clients cannot parse NaN


def _is_finished(chunk: dict[str, Any]) -> bool:
    return any(choice.get("finish_reason") for choice in chunk.get("choices") or [])


async def _read_end(response: aiohttp.ClientResponse) -> None:
    """Read the end of a stream after its last event, so that its connection can be reused."""
    with suppress(asyncio.TimeoutError, aiohttp.ClientError):
        if not response.content.at_eof():
            await asyncio.wait_for(response.content.readany(), _END_S)
