"""Rate limits of the model list: requests and tokens per minute of each model."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence

from experts.llm.endpoints import Endpoint

from .chat_request import ChatRequest, estimated_tokens
from .served_servers import RequestTokens

__all__ = ["OverLimitError", "RateLimits"]

_MINUTE = 60.0


class OverLimitError(RuntimeError):
    """A request would wait for a model's rate limit longer than the model's `timeout`."""


class RateLimits:
    """Computes when a request may be sent to a model.

    At most `requests_per_minute` requests and `tokens_per_minute` tokens are sent in any 60 seconds. Bursts
    within these limits are allowed, unlike in `collect`, so that served requests do not wait needlessly.

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
        """Reserve the earliest time for a request.

        Args:
            expert: name of the model.
            request: the request.

        Returns:
            seconds until the request may be sent, and until another one like it may be sent; 0 means now.

        Raises:
            OverLimitError: the wait is longer than the model's `timeout`; nothing is reserved.
        """
        now, tokens = self._clock(), self.tokens(expert, request)
        used = [
            (windows[expert], amount)
            for windows, amount in (
                (self._requests, 1.0),
                (self._tokens, tokens.prompt + (tokens.most or 0.0)),
            )
            if expert in windows
        ]
        if not used:
            return 0.0, 0.0
        at = max(window.earliest(now, amount) for window, amount in used)
        self.check(expert, at - now)
        for window, amount in used:
            window.add(at, amount)
        another = max(window.earliest(now, amount) for window, amount in used)
        return at - now, another - now

    def check(self, expert: str, wait_s: float) -> None:
        """Check that a model's `timeout` allows a request to wait.

        Args:
            expert: name of the model.
            wait_s: seconds until the request may be sent.

        Raises:
            OverLimitError: the wait is longer than the model's `timeout`.
        """
        if wait_s > self._endpoints[expert].timeout:
            raise OverLimitError(f"the rate limit of the model list is reached for {wait_s:.0f} s")

    def tokens(self, expert: str, request: ChatRequest) -> RequestTokens:
        """Return the tokens of a request and its maximum answer, estimated as in `collect`.

        Args:
            expert: name of the model.
            request: the request.
        """
        requested = request.rest.get("max_completion_tokens") or request.rest.get("max_tokens")
        limits = [requested, self._endpoints[expert].max_tokens]
        most = min((limit for limit in limits if isinstance(limit, int)), default=None)
        return RequestTokens(estimated_tokens(request.messages), most=most)


class _Window:
    """A sliding window over the amounts that were sent or are reserved.

    Args:
        limit: maximum sum of the amounts in a window.
        seconds: length of the window.
    """

    def __init__(self, limit: float, seconds: float) -> None:
        self._limit, self._seconds = limit, seconds
        self._sent: deque[tuple[float, float]] = deque()  # times and amounts, in order
        self._sum = 0.0

    def earliest(self, now: float, amount: float) -> float:
        """Return the earliest time, from `now` on, at which an amount may be sent after all others."""
        while self._sent and self._sent[0][0] <= now - self._seconds:
            self._sum -= self._sent.popleft()[1]
        at = max(now, self._sent[-1][0]) if self._sent else now
        excess = self._sum + min(amount, self._limit) - self._limit
        for sent_at, sent_amount in self._sent:
            if excess <= 0.0:
                break
            excess -= sent_amount
            at = max(at, sent_at + self._seconds)
        return at

    def add(self, at: float, amount: float) -> None:
        """Record an amount that is sent at time `at`."""
        self._sent.append((at, min(amount, self._limit)))
        self._sum += min(amount, self._limit)


def _windows(endpoints: Sequence[Endpoint], field: str) -> dict[str, _Window]:
    """Return the windows of the models with a limit; a limit below 1 per minute becomes 1 per longer time."""
    limits = {each.name: getattr(each, field) for each in endpoints if getattr(each, field) is not None}
    return {name: _Window(max(limit, 1.0), _MINUTE * max(1.0, 1.0 / limit)) for name, limit in limits.items()}
