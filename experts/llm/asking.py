"""Ask one model one thing, through LiteLLM, and say what came of it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from .endpoints import Endpoint
from .lite import lite

__all__ = ["Asker", "Reply", "Request", "litellm_parameters"]

# Wrong key, no such model: nothing asked of it will be answered. (403 may be about one prompt alone.)
_HOPELESS = (401, 404)


@dataclass(frozen=True, slots=True)
class Request:
    """One prompt for one model.

    Attributes:
        endpoint: whom to ask.
        prompt: what.
    """

    endpoint: Endpoint
    prompt: str

    @property
    def key(self) -> str:
        """A digest of what the answer depends on: not where the model is served, nor at what price."""
        asked = self.endpoint
        parts = [asked.name, asked.model, asked.max_tokens, asked.options, self.prompt]
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class Reply:
    """What came of a request, after all attempts.

    Attributes:
        record: of an answer: `answer` (text), `finish_reason`, `tokens_in`, `tokens_out`, `tokens_reported`
            (False where the server did not say and LiteLLM counted), `latency_s` of the attempt that
            succeeded, and `response`, all that the server said. None where there is no answer.
        failed: why there is none.
        hopeless: asking this model again would fail the same way.
    """

    record: dict[str, Any] | None
    failed: str = ""
    hopeless: bool = False


class Asker:
    """Asks models; retries are LiteLLM's.

    Args:
        endpoints: who can be asked.
    """

    def __init__(self, endpoints: Sequence[Endpoint]) -> None:
        self._litellm = litellm = lite()
        deployments = [
            {"model_name": each.name, "litellm_params": litellm_parameters(each)} for each in endpoints
        ]
        # Each model is one deployment: putting it aside after failures would only fail what comes next.
        self._router = litellm.Router(model_list=deployments, disable_cooldowns=True)

    async def ask(self, request: Request) -> Reply:
        """Ask, wait, and try again as often as the endpoint says."""
        try:
            response = await self._router.acompletion(
                model=request.endpoint.name,
                messages=[{"role": "user", "content": request.prompt}],
                num_retries=request.endpoint.retries,
            )
            return Reply(_record(self._litellm, request, response))
        except Exception as error:  # whatever it is, it is the reason why this answer is missing
            reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
            return Reply(None, reason[:500], getattr(error, "status_code", None) in _HOPELESS)

    async def close(self) -> None:
        """Close the connections that LiteLLM keeps open; in the event loop that asked."""
        await self._litellm.close_litellm_async_clients()
        self._litellm.in_memory_llm_clients_cache.flush_cache()  # or it would hand out closed ones


def litellm_parameters(endpoint: Endpoint) -> dict[str, Any]:
    """The `litellm_params` of a deployment in LiteLLM's router."""
    given = {
        "api_base": endpoint.api_base,
        "api_key": endpoint.key(),
        "max_tokens": endpoint.max_tokens,
    }
    return {
        **endpoint.options,
        "model": endpoint.model,
        "timeout": endpoint.timeout,
        "max_retries": 0,  # LiteLLM's router retries, not also its client
        **{name: value for name, value in given.items() if value is not None},
    }


def _record(litellm: Any, request: Request, response: Any) -> dict[str, Any]:
    if not response.choices:
        raise ValueError("the server's answer holds no choices")
    choice = response.choices[0]
    answer = choice.message.content or ""
    tokens_in, tokens_out = response.usage.prompt_tokens, response.usage.completion_tokens
    reported = bool(tokens_in or tokens_out)
    if not reported:  # some servers do not say; 0 would make their answers look free
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
