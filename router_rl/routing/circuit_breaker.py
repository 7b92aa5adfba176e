"""Per-expert circuit breaker with exponential back-off, and exclusion for the time of a rate limit."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from .router import Router
from .router_error import RouterError

__all__ = ["CircuitBreaker"]


class CircuitBreaker:
    """Excludes experts that failed recently, or are rate limited, from routing; thread-safe.

    After a failure an expert backs off: it is excluded for `backoff_s` seconds, and twice as long after each
    further failure in a row. Then it may be chosen again. Failures while it backs off, of requests that were
    sent before, belong to the first one. A rate limit excludes it for the time that the
    server names (Retry-After), whatever other requests to it do.

    Args:
        router: whose experts these are.
        backoff_s: seconds that an expert is excluded after a first failure.
        max_backoff_s: the longest exclusion, in seconds.
        clock: a monotonic clock, in seconds.

    Raises:
        RouterError: a back-off is not positive, or exceeds the longest.
    """

    def __init__(
        self,
        router: Router,
        *,
        backoff_s: float = 10.0,
        max_backoff_s: float = 300.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if not 0.0 < backoff_s <= max_backoff_s:
            raise RouterError(
                f"backoff_s={backoff_s} must be above 0 and at most max_backoff_s={max_backoff_s}"
            )
        self._experts = {name: index for index, name in enumerate(router.experts)}
        self._allowed = _allowed(router)
        self._backoff_s, self._max_backoff_s, self._clock = backoff_s, max_backoff_s, clock
        self._until: dict[str, float] = {}
        self._failures: dict[str, int] = {}
        self._limited: dict[str, float] = {}
        self._lock = threading.Lock()

    def failed(self, expert: str) -> None:
        """Record a failure: the expert backs off, if it does not already.

        Raises:
            RouterError: the expert is unknown.
        """
        self._check(expert)
        with self._lock:
            if self._clock() < self._until.get(expert, float("-inf")):
                return
            failures = self._failures[expert] = self._failures.get(expert, 0) + 1
            backoff_s = min(self._backoff_s * 2.0 ** min(failures - 1, 60), self._max_backoff_s)
            self._until[expert] = self._clock() + backoff_s

    def succeeded(self, expert: str) -> None:
        """Record a success: earlier failures are forgotten.

        Raises:
            RouterError: the expert is unknown.
        """
        self._check(expert)
        with self._lock:
            self._until.pop(expert, None)
            self._failures.pop(expert, None)

    def limited(self, expert: str, seconds: float) -> None:
        """Record a rate limit: the expert is excluded for so long, and does not count as failed.

        Args:
            expert: its name.
            seconds: from now, as Retry-After has them.

        Raises:
            RouterError: the expert is unknown.
        """
        self._check(expert)
        with self._lock:
            self._limited[expert] = max(self._limited.get(expert, 0.0), self._clock() + seconds)

    def excluded(self) -> dict[str, str]:
        """Return the experts that are excluded now, with the reason: `rate limited` or `failed recently`."""
        with self._lock:
            now = self._clock()
            backing_off = {name: "failed recently" for name, until in self._until.items() if now < until}
            limited = {name: "rate limited" for name, until in self._limited.items() if now < until}
        return backing_off | limited

    def mask(self, exclude: Iterable[str] = (), router: Router | None = None) -> Tensor:
        """Which experts may be chosen: [N] bool, the `action_mask` of `Router.route`.

        Where no expert is left, those that back off may be chosen, then those that are rate limited, and as a
        last resort all experts, since a failing expert may still answer.

        Args:
            exclude: further experts to exclude, such as those that failed on this very query.
            router: another router of the same experts, whose allowed experts apply.

        Raises:
            RouterError: an expert is unknown.
        """
        exclude = set(exclude)
        for name in exclude:
            self._check(name)
        excluded, allowed = self.excluded(), self._allowed if router is None else _allowed(router)
        limited = {name for name, reason in excluded.items() if reason == "rate limited"}
        for barred in (set(excluded) | exclude, limited | exclude, exclude, set[str]()):
            may = [a and name not in barred for name, a in zip(self._experts, allowed, strict=True)]
            if any(may):
                break
        return torch.tensor(may)

    def _check(self, expert: str) -> None:
        if expert not in self._experts:
            raise RouterError(f"expert {expert!r} is unknown; the router's are {', '.join(self._experts)}")


def _allowed(router: Router) -> list[bool]:
    return [True] * len(router.experts) if router.allowed is None else router.allowed.tolist()
