"""Calls servers of the OpenAI protocol without LiteLLM: their answers need no translation."""

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
_IDLE_S = 4.0  # that a connection is kept; uvicorn, and so vLLM, closes it after 5
_REST_S = 0.1  # after the last event, a stream has so much time to end, or its connection is not used again
_MOST_SAID = 2_000  # characters of an error that are kept


class StatusError(RuntimeError):
    """A server answered with an error.

    Args:
        status_code: of the response.
        reason: what the server said.
        response: with its headers.
    """

    def __init__(self, status_code: int, reason: str, response: aiohttp.ClientResponse) -> None:
        super().__init__(f"{status_code}: {reason}")
        self.status_code, self.response = status_code, response


def speaks_openai(endpoint: Endpoint, options: Sequence[str]) -> bool:
    """Return whether a model is called directly: its server speaks the OpenAI protocol, at an `http` address.

    Servers behind TLS or a proxy are left to LiteLLM, which has settings for both.

    Args:
        endpoint: the model.
        options: names of OpenAI's parameters; LiteLLM must read any other option.
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
            fields: of the request.

        Raises:
            TimeoutError: there is no whole answer within the model's `timeout`.
            StatusError: the server answered with an error.
            FaultyAnswerError: the answer is not one.
            ClientError: the connection failed.
        """
        limit = aiohttp.ClientTimeout(total=self._endpoints[expert].timeout)
        async with self._sent(expert, fields, limit) as response:
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
            fields: of the request.

        Raises:
            TimeoutError: for the model's `timeout`, there are no bytes, or no whole chunk.
            StatusError: the server answered with an error.
            FaultyAnswerError: a chunk is not one, or the stream ends before the answer.
            ClientError: the connection failed.
        """
        timeout = self._endpoints[expert].timeout
        limit = aiohttp.ClientTimeout(total=None, sock_connect=timeout, sock_read=timeout)
        async with self._sent(expert, {**fields, "stream": True}, limit) as response:
            if response.status != 200 or response.content_type == "application/json":
                content = await asyncio.wait_for(response.read(), timeout)
                _check_status(response, content)
                _object(content)
                raise FaultyAnswerError("the server's response is no stream")
            events, finished, last = EventStream(), False, time.monotonic()
            async for piece in response.content.iter_any():
                for data in events.read(piece):
                    if data == b"[DONE]":
                        await _rest(response)
                        return
                    chunk = _object(data)
                    finished = finished or _is_finished(chunk)
                    yield chunk
                    last = time.monotonic()  # the client may have been slow
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

    def _sent(self, expert: str, fields: dict[str, Any], limit: aiohttp.ClientTimeout) -> Any:
        """Return the context manager of a response."""
        session = self._session
        if session is None:  # made in the event loop of the requests
            session = self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=_IDLE_S),
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
    """Raise the error of a response, with the server's reason."""
    if response.status != 200:
        reason = content[:_MOST_SAID].decode("utf-8", "replace")
        with suppress(ValueError, KeyError, TypeError, RecursionError):  # where it says it as OpenAI does
            reason = str(json.loads(content)["error"]["message"])[:_MOST_SAID]
        raise StatusError(response.status, reason, response)


def _object(content: bytes) -> dict[str, Any]:
    """Return a JSON object with checked `choices`.

    Raises:
        FaultyAnswerError: the content is none, or an error.
    """
    try:
        read = _JSON.decode(content.decode())
    except (ValueError, RecursionError) as error:
        raise FaultyAnswerError(f"the server's response is not JSON ({str(error)[:100]})") from error
    if not isinstance(read, dict):
        raise FaultyAnswerError("the server's response is no JSON object")
    answer = cast("dict[str, Any]", read)
    if answer.get("error"):
        raise FaultyAnswerError(f"the server's response is an error: {str(answer['error'])[:_MOST_SAID]}")
    choices: Any = answer.get("choices") or []
    if not isinstance(choices, list) or not all(isinstance(each, dict) for each in choices):
        raise FaultyAnswerError("the choices of the server's response are no list of objects")
    return answer


def _no_number(name: str) -> None:
    raise ValueError(f"{name} is no number of JSON")


_JSON = json.JSONDecoder(parse_constant=_no_number)  # NaN could not be passed on


def _is_finished(chunk: dict[str, Any]) -> bool:
    return any(choice.get("finish_reason") for choice in chunk.get("choices") or [])


async def _rest(response: aiohttp.ClientResponse) -> None:
    """Read the end of a stream after its last event, so that its connection can be used again."""
    with suppress(asyncio.TimeoutError, aiohttp.ClientError):
        if not response.content.at_eof():
            await asyncio.wait_for(response.content.readany(), _REST_S)
