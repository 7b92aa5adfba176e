"""Model servers as one router reads them: what rate-limited APIs and engines have in common."""

# ruff: noqa: B027 (servers override the events that change them)
from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from ..routing.policies.live_servers import times_of_answer
from ..routing.scorers.server_scorer import ServerConstants
from .loaded_router import LoadedRouter

__all__ = ["Call", "RequestTokens", "ServedServers", "ServersNow"]


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
        tokens: its tokens as they were estimated; None: they are not known.
        streamed: whether its first token is seen when it comes.
        first: when its first token came; None: it has not come, or was not seen.
    """

    expert: str
    arrived: float
    begins: float
    tokens: RequestTokens | None = None
    streamed: bool = False
    first: float | None = None


class ServersNow(NamedTuple):
    """What a router reads of the servers, one number for each of the N experts.

    Attributes:
        waiting: requests that wait.
        taken: requests at work.
        used: used share of each KV cache, or of the fullest rate limit.
        ahead: tokens of prompts that are not computed yet.
    """

    waiting: list[float]
    taken: list[float]
    used: list[float]
    ahead: list[float]


class ServedServers(ABC):
    """Model servers and their recent times, for one router. `now` is in seconds on the clock of the queues.

    Args:
        loaded: a router of model servers.
        constants: constants of its training.
    """

    def __init__(self, loaded: LoadedRouter, constants: ServerConstants) -> None:
        self.experts = loaded.experts
        self.constants = constants
        pairs = zip(constants.first, constants.token_s, strict=True)
        self._means: dict[str, tuple[float, ...]] = dict(zip(loaded.experts, pairs, strict=True))

    @abstractmethod
    def now(self, calls: Mapping[str, Collection[Call]], now: float) -> ServersNow:
        """Return what the router reads of the servers.

        Args:
            calls: the requests in flight, by expert; an expert without any can be missing.
            now: the time.
        """

    @abstractmethod
    def answered(
        self, call: Call, tokens: tuple[float, float], seconds: float, first_s: float | None, now: float
    ) -> None:
        """Record the times of an answer.

        Args:
            call: the request.
            tokens: of its prompt and its answer.
            seconds: from its arrival to the whole answer.
            first_s: from its arrival to the first token; None for an answer that was not streamed.
            now: the time.
        """

    def arrived(self) -> None:
        """Record the arrival of a request."""

    def wait_s(self, expert: str, tokens: RequestTokens, now: float) -> float | None:
        """Return the seconds until a request may be sent; None if these servers have no limits."""
        return None

    def sent(self, call: Call, now: float) -> None:
        """Record that a request, with its tokens, is sent at `call.begins`."""

    def gave_up(self, call: Call, now: float) -> None:
        """Record that a request ended before it was sent."""

    def first_token(self, call: Call) -> None:
        """Record the first token of a streamed answer, at `call.first`."""

    def recent(self) -> tuple[list[float], list[float]]:
        """Return the running means of the seconds to the first token, and per further token, [N] each."""
        means = [self._means[name] for name in self.experts]
        return [first for first, _ in means], [token for _, token in means]

    @property
    def slowdown(self) -> list[float]:
        """The running mean of the seconds per further token of each expert over those of training, [N]."""
        pairs = zip(self.recent()[1], self.constants.token_s, strict=True)
        return [mean / usual for mean, usual in pairs]

    def split_times(self, call: Call, tokens: float, seconds: float) -> tuple[float, float]:
        """Return the seconds to the first token, and per further token, of an answer that was not streamed.

        They have the ratio of the training's.

        Args:
            call: the request.
            tokens: of its answer.
            seconds: from its arrival to the whole answer.
        """
        expert, waited = self.experts.index(call.expert), call.begins - call.arrived
        usual = self.constants.first[expert], self.constants.token_s[expert]
        first, token = times_of_answer(max(seconds - waited, 0.0), tokens, *usual)
        return first + waited, token
