"""Let a router choose the deployment inside LiteLLM, whose retries, cooldowns and limits stay as they are.

    python examples/litellm_strategy.py ROUTER MODELS.yaml "What is 2 + 2?"

LiteLLM calls the model group `auto`; each expert of the router is one or more deployments in it. A deployment
that LiteLLM lets cool down is masked, and the next best is chosen, also between the attempts of one request.
"""

from __future__ import annotations

import os
import random
import sys
from collections.abc import Iterable, Sequence
from typing import Any

os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")  # prices from the package, not a download

import litellm
from litellm.types.router import CustomRoutingStrategyBase

from experts.llm import litellm_parameters, read_models
from router_rl.routing import CircuitBreaker, Router, load_router


class RoutedStrategy(CustomRoutingStrategyBase):
    """LiteLLM's custom routing strategy by one of our routers.

    Args:
        routing: our router; it reads prompts.
        serving: LiteLLM's router, which knows who cools down.
        deployments: its model list; `model_info` holds a distinct `id` and the `expert` that is served.
    """

    def __init__(
        self, routing: Router, serving: litellm.Router, deployments: Sequence[dict[str, Any]]
    ) -> None:
        self._routing = routing
        self._breaker = CircuitBreaker(routing)
        self._cooldowns = serving.health().cooldowns
        self._deployments = list(deployments)
        self._ids = [deployment["model_info"]["id"] for deployment in deployments]

    async def async_get_available_deployment(
        self, model: str, messages: Any = None, *rest: Any, **more: Any
    ) -> Any:
        cooling = await self._cooldowns.async_get_active_cooldowns(self._ids, parent_otel_span=None)
        return self._choose(messages, {name for name, _ in cooling})

    def get_available_deployment(self, model: str, messages: Any = None, *rest: Any, **more: Any) -> Any:
        cooling = self._cooldowns.get_active_cooldowns(self._ids, parent_otel_span=None)
        return self._choose(messages, {name for name, _ in cooling})

    def _choose(self, messages: Any, cooling: Iterable[str]) -> dict[str, Any]:
        up = [each for each in self._deployments if each["model_info"]["id"] not in cooling]
        served = {each["model_info"]["expert"] for each in up}
        mask = self._breaker.mask(exclude=[name for name in self._routing.experts if name not in served])
        routing = self._routing.route(last_prompt(messages), action_mask=mask)
        expert = self._routing.experts[int(routing.experts[0, 0])]
        of_expert = [each for each in self._deployments if each["model_info"]["expert"] == expert]
        return random.choice([each for each in of_expert if each in up] or of_expert)


def last_prompt(messages: Any) -> str:
    """The text of the last message of the user: what the router was trained on."""
    content = next(message["content"] for message in reversed(messages) if message["role"] == "user")
    if isinstance(content, str):
        return content
    return "\n".join(part["text"] for part in content if part.get("type") == "text")


def routed_litellm(routing: Router, models: str, **settings: Any) -> litellm.Router:
    """Return a LiteLLM router whose model `auto` is chosen by ours.

    Args:
        routing: our router; it reads prompts.
        models: the YAML model list that its table was collected with.
        settings: of `litellm.Router`.
    """
    deployments = [
        {
            "model_name": "auto",
            "litellm_params": litellm_parameters(endpoint),
            "model_info": {"id": endpoint.name, "expert": endpoint.name},
        }
        for endpoint in read_models(models).endpoints
    ]
    # After one failure a deployment cools down, so that the retry goes to the next best.
    chosen = {"num_retries": 2, "allowed_fails": 0, "cooldown_time": 30, **settings}
    serving = litellm.Router(model_list=deployments, **chosen)
    serving.register_plugin(RoutedStrategy(routing, serving, deployments))
    return serving


if __name__ == "__main__":
    serving = routed_litellm(load_router(sys.argv[1]), sys.argv[2])
    for prompt in sys.argv[3:]:
        response = serving.completion(model="auto", messages=[{"role": "user", "content": prompt}])
        print(f"{response.model}: {response.choices[0].message.content}")
