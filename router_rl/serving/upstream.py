"""Call the experts, directly or through LiteLLM, with or without streaming, with a timeout."""

from __future__ import annotations

import asyncio
import contextlib
import warnings
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import Any, cast

from experts.llm.asking import litellm_parameters
from experts.llm.endpoints import Endpoint
from experts.llm.lite import lite

from .chat_request import ChatRequest
from .openai_servers import OpenAIServers, speaks_openai

__all__ = ["Upstream", "tokens_of"]

# Parameters of OpenAI's chat completions that are passed to the models. Others are dropped, since LiteLLM
# could interpret them itself (addresses, keys, callbacks).
_PASSED = (
    *("audio", "frequency_penalty", "function_call", "functions", "logit_bias", "logprobs", "max_tokens"),
    *("max_completion_tokens", "modalities", "n", "parallel_tool_calls", "prediction", "presence_penalty"),
    *("reasoning_effort", "response_format", "seed", "stop", "temperature", "tool_choice", "tools"),
    *("top_logprobs", "top_p", "user", "verbosity"),
)


class Upstream:
    """Sends requests to the models of a list.

    Args:
        endpoints: the models.

    Raises:
        InputError: LiteLLM is not installed, or the environment lacks a key.
    """

    def __init__(self, endpoints: Sequence[Endpoint]) -> None:
        self._litellm = lite()
        self._litellm.drop_params = True  # a parameter that one provider does not have
        self._endpoints = {each.name: each for each in endpoints}
        self._parameters = {each.name: litellm_parameters(each) for each in endpoints}
        self._direct = OpenAIServers([each for each in endpoints if speaks_openai(each, _PASSED)])

    async def warm_up(self) -> None:
        """Make LiteLLM import the modules of its first call, so that no request waits for it."""
        call = {
            "model": next(iter(self._endpoints.values())).model,
            "messages": [{"role": "user", "content": ""}],
            "mock_response": "ready",
            "api_key": "none",
        }
        with warnings.catch_warnings(), contextlib.suppress(Exception):
            warnings.simplefilter("ignore")  # warnings of the imports
            await self._litellm.acompletion(**call)
            async for chunk in await self._litellm.acompletion(**call, stream=True):
                chunk.model_dump(mode="json", exclude_none=True)

    async def answer(self, expert: str, request: ChatRequest) -> dict[str, Any]:
        """Return the complete answer of an expert, in the OpenAI format.

        Args:
            expert: name of the model.
            request: the request.

        Raises:
            TimeoutError: the answer is not complete within the model's `timeout`.
            Exception: any other failure; `experts.llm.asking.failure_of` classifies it.
        """
        if expert in self._direct:
            return await self._direct.answer(expert, self._fields(expert, request))
        call = self._litellm.acompletion(**self._arguments(expert, request))
        response = await asyncio.wait_for(call, self._endpoints[expert].timeout)
        answer: dict[str, Any] = response.model_dump(mode="json", exclude_none=True)
        if not answer.get("choices"):
            raise ValueError("the response has no choices")
        return answer

    async def stream(self, expert: str, request: ChatRequest) -> AsyncGenerator[dict[str, Any], None]:
        """Yield the chunks of an expert's answer, in the OpenAI format; the last one has token counts.

        Args:
            expert: name of the model.
            request: the request.

        Raises:
            TimeoutError: the next chunk does not arrive within the model's `timeout`.
            Exception: as for `answer`.
        """
        timeout = self._endpoints[expert].timeout
        options = {"stream": True, "stream_options": {"include_usage": True}}
        if expert in self._direct:
            fields = {**self._fields(expert, request), **options}
            async with aclosing(self._direct.stream(expert, fields)) as direct:
                async for chunk in direct:
                    yield chunk
            return
        call = self._litellm.acompletion(**self._arguments(expert, request), **options)
        chunks = await asyncio.wait_for(call, timeout)
        try:
            while True:
                try:
                    chunk = await asyncio.wait_for(anext(chunks), timeout)
                except StopAsyncIteration:
                    return
                yield chunk.model_dump(mode="json", exclude_none=True)
        finally:
            with contextlib.suppress(Exception):
                await chunks.aclose()

    def count(self, expert: str, text: str) -> int:
        """Return the number of tokens of a text, for model servers that do not report it."""
        text = text.encode("utf-8", "replace").decode()  # half a surrogate pair is no text
        return int(self._litellm.token_counter(model=self._endpoints[expert].model, text=text))

    async def close(self) -> None:
        """Close the connections."""
        await self._direct.close()
        await self._litellm.close_litellm_async_clients()
        self._litellm.in_memory_llm_clients_cache.flush_cache()

    def _arguments(self, expert: str, request: ChatRequest) -> dict[str, Any]:
        """Return the arguments of LiteLLM."""
        return {**self._parameters[expert], "no-log": True, **self._passed(expert, request)}

    def _fields(self, expert: str, request: ChatRequest) -> dict[str, Any]:
        """Return the fields of a request of the OpenAI protocol."""
        endpoint = self._endpoints[expert]
        limits = {} if endpoint.max_tokens is None else {"max_tokens": endpoint.max_tokens}
        return {**endpoint.options, **limits, **self._passed(expert, request)}

    def _passed(self, expert: str, request: ChatRequest) -> dict[str, Any]:
        """Return what is passed of a request, within the limit on tokens."""
        passed = {name: value for name, value in request.rest.items() if name in _PASSED}
        limit = self._endpoints[expert].max_tokens
        for name in ("max_tokens", "max_completion_tokens"):
            if limit is not None and isinstance(passed.get(name), int):
                passed[name] = min(passed[name], limit)
        if "max_completion_tokens" in passed and "max_tokens" not in passed:
            passed["max_tokens"] = passed.pop("max_completion_tokens")  # the model list may set max_tokens
        return {**passed, "messages": request.messages}


def tokens_of(answer: dict[str, Any]) -> tuple[int, int] | None:
    """Return the numbers of prompt and answer tokens; None if the answer does not have them.

    Args:
        answer: an answer, or the last chunk of a stream.
    """
    usage: Any = answer.get("usage")
    if not isinstance(usage, dict):
        return None
    fields = cast("dict[str, Any]", usage)
    counts: list[Any] = [fields.get(name) for name in ("prompt_tokens", "completion_tokens")]
    if not all(isinstance(count, int) and count >= 0 for count in counts) or not any(counts):
        return None
    return counts[0], counts[1]
