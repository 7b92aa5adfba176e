"""Which model of the list each expert of a router calls, and the request that is sent to it.

An expert calls the model of its name. A cascade policy has follow-ups, too: `a#2` is another sample of the
model `a`, and `a?v` asks the verifier `v` about the answer of `a`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from experts import InputError
from experts.llm.endpoints import Endpoint, ModelList, check_endpoints, prices_of
from experts.llm.judging import grade_in, grading_prompt
from experts.table.follow_ups import Call, call_of
from experts.table.prices import Price

from ..routing.policies.cascade_router import cascade_policy_of
from .chat_request import ChatRequest
from .loaded_router import LoadedRouter

__all__ = ["CalledModels", "NoVerdictError", "calls_of", "text_of"]


class NoVerdictError(ValueError):
    """A verifier's reply has no verdict; the model works, so it does not back off."""


def calls_of(router: LoadedRouter) -> dict[str, Call]:
    """Return the call that each expert of a router stands for, by name.

    Args:
        router: the router; only cascade policies have follow-ups.
    """
    names = router.experts if cascade_policy_of(router.router) is not None else ()
    return {name: call_of(name, names) for name in router.experts}


def text_of(answer: Mapping[str, Any]) -> str | None:
    """Return the text of a chat completion; None if it has none, such as one that calls tools."""
    text: Any = (answer["choices"][0].get("message") or {}).get("content")
    return text if isinstance(text, str) else None


class CalledModels:
    """The models of a list, and what a router's experts call of them.

    Args:
        listed: the model list.
        router: the router that serves; others must have the same experts.

    Attributes:
        models: prices of the models that clients can name, by name.
        prices: prices of the models, and of the router's experts.
        endpoints: the models and the verifiers.

    Raises:
        InputError: a key or a price is missing, a verifier is not in the list, or a model that is sampled
            again has no temperature above 0.
    """

    def __init__(self, listed: ModelList, router: LoadedRouter) -> None:
        self._calls = calls_of(router)
        self._verifiers = {each.endpoint.name: each for each in listed.verifiers}
        used = {call.model for call in self._calls.values() if call.verifies is not None}
        verifiers = [each.endpoint for each in listed.verifiers if each.endpoint.name in used]
        self._named = {each.name: each for each in listed.endpoints}
        for name, call in self._calls.items():
            self._check(name, call)
        self.endpoints = (*listed.endpoints, *verifiers)
        check_endpoints(self.endpoints)
        priced = prices_of(self.endpoints).prices
        self.models = {name: priced[name] for name in self._named}
        experts = {name: priced[call.model] for name, call in self._calls.items() if call.model in priced}
        self.prices: dict[str, Price] = {**self.models, **experts}

    def call(self, expert: str) -> Call:
        """Return the call of an expert, or of a model that the client named."""
        return self._calls.get(expert) or Call(expert)

    def request(
        self, expert: str, request: ChatRequest, answers: Mapping[str, dict[str, Any]]
    ) -> ChatRequest:
        """Return the request that is sent to an expert's model.

        Args:
            expert: its name.
            request: the client's request. A further sample is drawn at the client's temperature if that is
                above 0, else at the model's, with a random seed of its own.
            answers: complete answers so far, by expert.
        """
        call = self.call(expert)
        if call.verifies is not None:
            prompt = self._verification(call, request, answers)
            content = [{"role": "user", "content": prompt}]
            request = replace(request, prompt=prompt, messages=content, stream=False, rest={})
        if call.sample == 1:
            return request
        endpoint, rest = self._endpoint(call), dict(request.rest)
        temperature = rest.get("temperature")
        if not isinstance(temperature, int | float) or temperature <= 0:
            rest.pop("temperature", None)
        seed = rest.get("seed", None if endpoint is None else endpoint.options.get("seed"))
        if isinstance(seed, int):
            rest["seed"] = seed + call.sample - 1
        return replace(request, rest=rest)

    def verdict(self, expert: str, answer: Mapping[str, Any]) -> float | None:
        """Return the verdict of a verifier in [0, 1]; None if the expert is not a verifier.

        Args:
            expert: its name.
            answer: its complete answer.

        Raises:
            NoVerdictError: the verifier's reply has no number from 0 to its scale.
        """
        call = self.call(expert)
        if call.verifies is None:
            return None
        verdict = grade_in(text_of(answer) or "", self._verifiers[call.model].scale)
        if verdict is None:
            raise NoVerdictError("the reply has no verdict")
        return verdict

    def answered_by(self, expert: str) -> str:
        """Return the expert that wrote an answer: for a verifier, the one whose answer it verified."""
        verifies = self.call(expert).verifies
        return expert if verifies is None else self.answered_by(verifies)

    def _verification(self, call: Call, request: ChatRequest, answers: Mapping[str, dict[str, Any]]) -> str:
        assert call.verifies is not None
        answer = text_of(answers[self.answered_by(call.verifies)])
        return grading_prompt(self._verifiers[call.model], request.prompt, answer or "")

    def _check(self, name: str, call: Call) -> None:
        """Check that a follow-up can be called; `check_live` checks first answers."""
        if call.verifies is not None and call.model not in self._verifiers:
            known = ", ".join(self._verifiers) or "none"
            problem = f"is called by the router's {name}, and is no verifier of the model list ({known})"
            raise InputError("verifiers", call.model, problem, "add it under `verifiers:`")
        if call.sample == 1:
            return
        endpoint = self._endpoint(call)
        if endpoint is not None and not endpoint.is_random:
            problem = f"must be above 0: the router's {name} asks the model for another sample"
            fix = "write options: {temperature: 0.7}, as in training"
            field = f"models.{call.model}.options.temperature"
            raise InputError(field, endpoint.options.get("temperature"), problem, fix)

    def _endpoint(self, call: Call) -> Endpoint | None:
        """Return the model of a call; None where the list does not have it."""
        if call.verifies is not None:
            return self._verifiers[call.model].endpoint
        return self._named.get(call.model)
