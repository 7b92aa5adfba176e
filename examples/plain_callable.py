"""Serve a router from plain Python: the best healthy model answers, and the next best when it fails.

    python examples/plain_callable.py ROUTER MODELS.yaml "What is 2 + 2?"

ROUTER is an exported router that reads prompts, MODELS.yaml the model list that its table was collected with.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from typing import NamedTuple

import httpx
from openai import OpenAI

from experts.llm import Endpoint, read_models
from router_rl.routing import CircuitBreaker, Router, load_router


class Answer(NamedTuple):
    expert: str
    text: str


def routed(
    router: Router, models: Mapping[str, Callable[[str], str]], breaker: CircuitBreaker | None = None
) -> Callable[[str], Answer]:
    """Return a function that answers a prompt; any number of threads may call it.

    Args:
        router: reads prompts.
        models: of each expert the function that asks it; it raises what it likes where there is no answer.
        breaker: excludes experts that failed recently; shared by all callers that serve these models.
    """
    breaker = CircuitBreaker(router) if breaker is None else breaker

    def answer(prompt: str) -> Answer:
        failed: dict[str, Exception] = {}
        while len(failed) < len(models):
            routing = router.route(prompt, action_mask=breaker.mask(exclude=failed))
            expert = router.experts[int(routing.experts[0, 0])]
            if expert in failed:  # every allowed expert failed
                break
            try:
                text = models[expert](prompt)
            except Exception as error:
                failed[expert] = error
                breaker.failed(expert)
            else:
                breaker.succeeded(expert)
                return Answer(expert, text)
        reasons = "; ".join(f"{name}: {error!r}" for name, error in failed.items())
        raise RuntimeError(f"no model answered ({reasons})")

    return answer


def openai_models(path: str, http: httpx.Client) -> dict[str, Callable[[str], str]]:
    """Return functions that ask the OpenAI-compatible models of a list, once each: then the next is asked."""

    def asker(endpoint: Endpoint) -> Callable[[str], str]:
        client = OpenAI(
            base_url=endpoint.api_base,
            api_key=endpoint.key(),  # None: OPENAI_API_KEY
            timeout=endpoint.timeout,
            max_retries=0,
            http_client=http,
        )
        name = endpoint.model.removeprefix("openai/")

        def ask(prompt: str) -> str:
            asked = [{"role": "user", "content": prompt}]
            return client.chat.completions.create(model=name, messages=asked).choices[0].message.content or ""

        return ask

    return {endpoint.name: asker(endpoint) for endpoint in read_models(path).endpoints}


if __name__ == "__main__":
    with httpx.Client() as http:
        answer = routed(load_router(sys.argv[1]), openai_models(sys.argv[2], http))
        for prompt in sys.argv[3:]:
            found = answer(prompt)
            print(f"{found.expert}: {found.text}")
