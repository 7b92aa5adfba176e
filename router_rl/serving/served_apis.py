"""The rate-limited APIs behind the models, as one router of APIs reads them."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import NamedTuple

from experts.llm.endpoints import Endpoint

from ..routing.policies.live_servers import (
    Buckets,
    full_buckets,
    seconds_until_room,
    updated_means,
    used_share,
    usual_answer,
    with_taken,
)
from ..routing.scorers.server_scorer import ServerConstants
from .loaded_router import LoadedRouter
from .served_servers import Call, RequestTokens, ServedServers, ServersNow

__all__ = ["ApiLimits", "ServedApis"]


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


class ServedApis(ServedServers):
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
        super().__init__(loaded, constants)
        self._buckets: dict[str, Buckets] = {
            name: full_buckets(limits.get(name, ApiLimits()), burst_s, now)
            for name, burst_s in zip(loaded.experts, constants.refill_s, strict=True)
        }
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

        See `ServedServers.answered`.
        """
        name = call.expert
        if name not in self._buckets:
            return
        if call.tokens is not None:
            taken, true = self._need(name, call.tokens), self._need(name, RequestTokens(*tokens))
            more = [needed - had for needed, had in zip(true, taken, strict=True)]
            self._buckets[name] = with_taken(self._buckets[name], more, now)
        if first_s is None:
            first, token = self.split_times(call, tokens[1], seconds)
        else:
            first, token = first_s, self._means[name][1]  # one token shows no time of a further one
            if tokens[1] > 1:
                token = max(seconds - first_s, 0.0) / (tokens[1] - 1.0)
        self._finished[name].append((first, token))

    def now(self, calls: Mapping[str, Collection[Call]], now: float) -> ServersNow:
        """Return the requests that wait for a limit and the others, and the used share of the fullest limit.

        See `ServedServers.now`.
        """
        waiting = [sum(call.begins > now for call in calls.get(name, ())) for name in self.experts]
        everyone = [len(calls.get(name, ())) for name in self.experts]
        return ServersNow(
            waiting=[float(count) for count in waiting],
            taken=[float(total - count) for total, count in zip(everyone, waiting, strict=True)],
            used=[used_share(self._buckets[name], now) for name in self.experts],
            ahead=[0.0] * len(everyone),  # an API has no queue of prompts
        )

    def _need(self, expert: str, tokens: RequestTokens) -> tuple[float, ...]:
        """Return what a request takes from each bucket."""
        answer = tokens.answer
        if answer is None:
            answer = usual_answer(self.constants, self.experts.index(expert))
            answer = answer if tokens.most is None else min(answer, tokens.most)
        return 1.0, tokens.prompt, answer, tokens.prompt + answer
