"""One request to one model through LiteLLM, and its reply."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from .endpoints import Endpoint
from .lite import lite

__all__ = ["Client", "Reply", "Request", "litellm_parameters"]

# Wrong key, or no such model: every request to it fails. (403 can concern a single prompt.)
_PERMANENT = (401, 404)


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
    """The result of a request after all attempts.

    Attributes:
        record: `answer` (text), `finish_reason`, `tokens_in`, `tokens_out`, `tokens_reported` (False if the
            server did not report them and LiteLLM counted), `latency_s` of the successful attempt, and
            `response`, the server's whole response; None if there is no answer.
        failed: the reason why there is no answer.
        permanent: every request to this model fails for this reason.
    """

    record: dict[str, Any] | None
    failed: str = ""
    permanent: bool = False


class Client:
    """Sends requests to models through LiteLLM, which also retries them.

    Args:
        endpoints: the models.
    """

    def __init__(self, endpoints: Sequence[Endpoint]) -> None:
        self._litellm = litellm = lite()
        deployments = [
            {"model_name": each.name, "litellm_params": litellm_parameters(each)} for each in endpoints
        ]
        # Each model has one deployment, so a cooldown after failures would only fail the next requests.
        self._router = litellm.Router(model_list=deployments, disable_cooldowns=True)

    async def ask(self, request: Request) -> Reply:
        """Send a request and return its reply, after up to `retries` more attempts.

        Args:
            request: to one of the client's models.
        """
        try:
            response = await self._router.acompletion(
                model=request.endpoint.name,
                messages=[{"role": "user", "content": request.prompt}],
                num_retries=request.endpoint.retries,
            )
            return Reply(_record(self._litellm, request, response))
        except Exception as error:  # any error is the reason why this answer is missing
            reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
            return Reply(None, reason[:500], getattr(error, "status_code", None) in _PERMANENT)

    async def close(self) -> None:
        """Close LiteLLM's connections; call it in the event loop of the requests."""
        await self._litellm.close_litellm_async_clients()
        self._litellm.in_memory_llm_clients_cache.flush_cache()  # the cache would return closed clients


def litellm_parameters(endpoint: Endpoint) -> dict[str, Any]:
    """Return the `litellm_params` of a deployment in LiteLLM's router.

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
        "max_retries": 0,  # LiteLLM's router retries, so its client must not
        **{name: value for name, value in optional.items() if value is not None},
    }


def _record(litellm: Any, request: Request, response: Any) -> dict[str, Any]:
    if not response.choices:
        raise ValueError("the server's response has no choices")
    choice = response.choices[0]
    answer = choice.message.content or ""
    tokens_in, tokens_out = response.usage.prompt_tokens, response.usage.completion_tokens
    reported = bool(tokens_in or tokens_out)
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
