"""The rate-limited APIs behind the models, as one router of APIs reads them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from experts.llm.endpoints import Endpoint

from ..routing.policies.live_servers import (
    Buckets,
    full_buckets,
    seconds_until_room,
    times_of_answer,
    updated_means,
    used_share,
    usual_answer,
    with_taken,
)
from ..routing.scorers.server_scorer import ServerConstants
from .loaded_router import LoadedRouter

__all__ = ["ApiLimits", "Call", "RequestTokens", "ServedApis"]


class ApiLimits(NamedTuple):
    """Limits of a model, each in a minute; None for none.

    Attributes:
        requests: number of requests.
        prompt: tokens of prompts.
        answer: tokens of answers.
        both: tokens of prompts and answers together.
    """

    requests: float | None = None
    prompt: float | None = None
    answer: float | None = None
    both: float | None = None

    @classmethod
    def of(cls, endpoint: Endpoint) -> ApiLimits:
        """Return the limits of a model of the list."""
        tokens = (endpoint.input_per_minute, endpoint.output_per_minute, endpoint.tokens_per_minute)
        return cls(endpoint.requests_per_minute, *tokens)


class RequestTokens(NamedTuple):
    """Tokens of a request before it is answered.

    Attributes:
        prompt: tokens of the prompt.
        answer: tokens of the answer; None: those of a usual answer in the training.
        most: maximum tokens of the answer; None: no maximum.
    """

    prompt: float
    answer: float | None = None
    most: float | None = None


@dataclass(eq=False)
class Call:
    """A request in flight.

    Attributes:
        expert: name of the model.
        arrived: when it was routed to the model, seconds on the clock of the queues.
        begins: when it is sent to the model; later than now while it waits for a rate limit.
        tokens: its tokens as they were estimated; None: it took nothing from the buckets.
    """

    expert: str
    arrived: float
    begins: float
    tokens: RequestTokens | None = None


class ServedApis:
    """Token buckets and recent times of the APIs, for one router.

    Args:
        loaded: a router of APIs.
        constants: constants of its training.
        limits: limits of the models, by name.
        now: seconds on the clock of the queues.
    """

    def __init__(
        self, loaded: LoadedRouter, constants: ServerConstants, limits: Mapping[str, ApiLimits], now: float
    ) -> None:
        self.experts = loaded.experts
        self.constants = constants
        self._buckets: dict[str, Buckets] = {
            name: full_buckets(limits.get(name, ApiLimits()), burst_s, now)
            for name, burst_s in zip(loaded.experts, constants.refill_s, strict=True)
        }
        pairs = zip(constants.first, constants.token_s, strict=True)
        self._means: dict[str, tuple[float, ...]] = dict(zip(loaded.experts, pairs, strict=True))
        self._finished: dict[str, list[tuple[float, float]]] = {name: [] for name in loaded.experts}

    def arrived(self) -> None:
        """Update the running means with the requests that finished since the last arrival."""
        for name, times in self._finished.items():
            self._means[name] = updated_means(self._means[name], times)
            times.clear()

    def wait_s(self, expert: str, tokens: RequestTokens, now: float) -> float:
        """Return the seconds until the buckets of a model have room for a request.

        Args:
            expert: name of the model.
            tokens: of the request.
            now: seconds on the clock of the queues.
        """
        if expert not in self._buckets:
            return 0.0
        return seconds_until_room(self._buckets[expert], self._need(expert, tokens), now)

    def sent(self, call: Call, now: float) -> None:
        """Take from the buckets what a request needs.

        Args:
            call: the request, with its tokens.
            now: seconds on the clock of the queues.
        """
        if call.expert in self._buckets and call.tokens is not None:
            need = self._need(call.expert, call.tokens)
            self._buckets[call.expert] = with_taken(self._buckets[call.expert], need, now)

    def gave_up(self, call: Call, now: float) -> None:
        """Give back to the buckets what a request took that ended before it was sent.

        Args:
            call: the request.
            now: seconds on the clock of the queues.
        """
        if call.expert in self._buckets and call.tokens is not None:
            need = [-amount for amount in self._need(call.expert, call.tokens)]
            self._buckets[call.expert] = with_taken(self._buckets[call.expert], need, now)

    def answered(
        self, call: Call, tokens: tuple[float, float], seconds: float, first_s: float | None, now: float
    ) -> None:
        """Record the times of an answer, and correct what its request took by its true number of tokens.

        Args:
            call: the request.
            tokens: of its prompt and its answer.
            seconds: from its arrival to the whole answer.
            first_s: from its arrival to the first token; None for an answer that was not streamed.
            now: seconds on the clock of the queues.
        """
        name = call.expert
        if name not in self._buckets:
            return
        expert = self.experts.index(name)
        if call.tokens is not None:
            taken, true = self._need(name, call.tokens), self._need(name, RequestTokens(*tokens))
            more = [needed - had for needed, had in zip(true, taken, strict=True)]
            self._buckets[name] = with_taken(self._buckets[name], more, now)
        waited = call.begins - call.arrived
        if first_s is None:
            usual = self.constants.first[expert], self.constants.token_s[expert]
            first, token = times_of_answer(max(seconds - waited, 0.0), tokens[1], *usual)
            first += waited
        else:
            first, token = first_s, self._means[name][1]  # one token shows no time of a further one
            if tokens[1] > 1:
                token = max(seconds - first_s, 0.0) / (tokens[1] - 1.0)
        self._finished[name].append((first, token))

    def used(self, now: float) -> list[float]:
        """Return the used share of each expert's fullest limit, [N].

        Args:
            now: seconds on the clock of the queues.
        """
        return [used_share(self._buckets[name], now) for name in self.experts]

    def recent(self) -> tuple[list[float], list[float]]:
        """Return the running means of the seconds to the first token, and per further token, [N] each."""
        means = [self._means[name] for name in self.experts]
        return [first for first, _ in means], [token for _, token in means]

    @property
    def slowdown(self) -> list[float]:
        """The running mean of the seconds per further token of each expert over those of training, [N]."""
        return [
            self._means[name][1] / usual
            for name, usual in zip(self.experts, self.constants.token_s, strict=True)
        ]

    def _need(self, expert: str, tokens: RequestTokens) -> tuple[float, ...]:
        """Return what a request takes from each bucket."""
        answer = tokens.answer
        if answer is None:
            answer = usual_answer(self.constants, self.experts.index(expert))
            answer = answer if tokens.most is None else min(answer, tokens.most)
        return 1.0, tokens.prompt, answer, tokens.prompt + answer
