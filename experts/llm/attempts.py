"""The attempts of a request: repeated with growing waits, each within the cost cap."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable

from .asking import Reply, Request
from .spending import Spending

__all__ = ["attempted", "obeyed", "wait_before"]

_FIRST, _LONGEST = 0.5, 8.0  # seconds of the waits before jitter
_JITTER = 0.75  # seconds
_OBEYED = 60.0  # seconds: a longer Retry-After is not followed


async def attempted(
    request: Request, ask: Callable[[Request], Awaitable[Reply]], spending: Spending
) -> tuple[Reply, float] | None:
    """Send a request until it is answered, at most `retries` times after the first attempt.

    Args:
        request: to a model.
        ask: sends the request once.
        spending: admits each attempt, and counts its cost.

    Returns:
        The last attempt's reply, and US dollars of all attempts, those without an answer at their highest
        possible cost. None if the cost cap admits no attempt.
    """
    usd, reply = 0.0, None
    for attempt in range(request.endpoint.retries + 1):
        if not await spending.admit(request):
            break
        try:
            reply = await ask(request)
        except BaseException:
            spending.settle(request, None)
            raise
        usd += spending.settle(request, reply)
        if reply.record is not None or not reply.again or attempt == request.endpoint.retries:
            break
        await asyncio.sleep(wait_before(attempt, reply.wait_s))
    return None if reply is None else (reply, usd)


def wait_before(attempt: int, asked: float | None) -> float:
    """Return the seconds to wait before the next attempt.

    Args:
        attempt: number of the one that failed, from 0.
        asked: the server's Retry-After in seconds; None if it sent none.
    """
    wait = obeyed(asked)
    return (min(_FIRST * 2.0**attempt, _LONGEST) if wait is None else wait) + _JITTER * random.random()


def obeyed(asked: float | None) -> float | None:
    """Return a server's Retry-After in seconds, or None if it is 0, in the past or above a minute.

    Args:
        asked: seconds; None if the server sent none.

    >>> obeyed(7.0), obeyed(61.0), obeyed(-1.0)
    (7.0, None, None)
    """
    return asked if asked is not None and 0.0 < asked <= _OBEYED else None
