"""The rate limits that the model list states: requests and tokens of each model in any minute."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence

from experts.llm.endpoints import Endpoint

from .chat_request import ChatRequest

__all__ = ["OverLimitError", "RateLimits"]

_MINUTE = 60.0
_CHARACTERS_PER_TOKEN = 4


class OverLimitError(RuntimeError):
    """A model's rate limit has no room for a request within the model's `timeout`."""


class RateLimits:
    """Says when a request may be sent to a model.

    At most `requests_per_minute` requests, and `tokens_per_minute` tokens, are sent in any 60 seconds. Bursts
    are allowed within that, unlike in `collect`: requests that are served do not wait without need.

    Args:
        endpoints: the models.
        clock: a monotonic clock, in seconds.
    """

    def __init__(self, endpoints: Sequence[Endpoint], clock: Callable[[], float] = time.monotonic) -> None:
        self._endpoints = {each.name: each for each in endpoints}
        self._requests = _windows(endpoints, "requests_per_minute")
        self._tokens = _windows(endpoints, "tokens_per_minute")
        self._clock = clock

    def take(self, expert: str, request: ChatRequest) -> tuple[float, float]:
        """Reserve the next free moment for a request.

        Args:
            expert: name of the model.
            request: for the model.

        Returns:
            seconds until it may be sent, and until another one like it may be sent; 0 for at once.

        Raises:
            OverLimitError: the first number is above the model's `timeout`; nothing is reserved.
        """
        now, endpoint = self._clock(), self._endpoints[expert]
        used = [
            (windows[expert], amount)
            for windows, amount in ((self._requests, 1.0), (self._tokens, _tokens(endpoint, request)))
            if expert in windows
        ]
        if not used:
            return 0.0, 0.0
        at = max(window.earliest(now, amount) for window, amount in used)
        if at - now > endpoint.timeout:
            raise OverLimitError(f"the rate limit of the model list has no room for {at - now:.0f} s")
        for window, amount in used:
            window.add(at, amount)
        another = max(window.earliest(now, amount) for window, amount in used)
        return at - now, another - now


class _Window:
    """What was sent, or will be, in the last seconds.

    Args:
        limit: the largest sum of amounts.
        seconds: in which it is counted.
    """

    def __init__(self, limit: float, seconds: float) -> None:
        self._limit, self._seconds = limit, seconds
        self._sent: deque[tuple[float, float]] = deque()  # times and amounts, in order
        self._sum = 0.0

    def earliest(self, now: float, amount: float) -> float:
        """Return the first time, from now on, at which an amount may be sent after all others."""
        while self._sent and self._sent[0][0] <= now - self._seconds:
            self._sum -= self._sent.popleft()[1]
        at = max(now, self._sent[-1][0]) if self._sent else now
        excess = self._sum + min(amount, self._limit) - self._limit
        for sent, its_amount in self._sent:
            if excess <= 0.0:
                break
            excess -= its_amount
            at = max(at, sent + self._seconds)
        return at

    def add(self, at: float, amount: float) -> None:
        """Record an amount that is sent at a time."""
        self._sent.append((at, min(amount, self._limit)))
        self._sum += min(amount, self._limit)


def _windows(endpoints: Sequence[Endpoint], field: str) -> dict[str, _Window]:
    """Return the windows of the models that have a limit; one below 1 a minute is 1 in more seconds."""
    limits = {each.name: getattr(each, field) for each in endpoints if getattr(each, field) is not None}
    return {name: _Window(max(limit, 1.0), _MINUTE * max(1.0, 1.0 / limit)) for name, limit in limits.items()}


def _tokens(endpoint: Endpoint, request: ChatRequest) -> float:
    """Return the tokens of a request and its longest answer, estimated as `collect` does."""
    contents = [message.get("content") for message in request.messages]
    parts = [part for content in contents for part in (content if isinstance(content, list) else [content])]
    texts = [part.get("text") if isinstance(part, dict) else part for part in parts]
    characters = sum(len(text) for text in texts if isinstance(text, str))
    most = request.rest.get("max_completion_tokens") or request.rest.get("max_tokens")
    limits = [limit for limit in (most, endpoint.max_tokens) if isinstance(limit, int)]
    return characters / _CHARACTERS_PER_TOKEN + (min(limits) if limits else 0)
