"""Concurrent requests to many models within their rate limits, with every reply journaled on arrival."""

from __future__ import annotations

import asyncio
import importlib
from collections.abc import Awaitable, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from typing import Any

from ..io.errors import InputError
from ..io.progress import counting
from .asking import Client, Reply, Request
from .attempts import attempted
from .endpoints import Endpoint
from .journal import Journal
from .on_ray import ray_clients
from .spending import Spending

__all__ = ["gather"]


def gather(
    requests: Sequence[Request],
    journal: Journal,
    *,
    concurrency: int,
    workers: int = 0,
    spending: Spending | None = None,
    doing: str = "requesting answers",
    progress: bool = True,
) -> list[Request]:
    """Send the requests that the journal has no answer to, and journal each answer or failure on arrival.

    Requests to one model are sent in their order, independently of the other models.

    Args:
        requests: a request that occurs twice is sent once.
        journal: the answers so far.
        concurrency: the maximum number of open requests of each model.
        workers: Ray processes that send the requests; 0: this process.
        spending: admits attempts within a cost cap; None: no cap. Requests that it does not admit are not
            sent, and not journaled.
        doing: the label of the progress bar.
        progress: show progress on stderr.

    Returns:
        The requests that did not fit under the cost cap.

    Raises:
        InputError: a model refuses every request (wrong key, no such model); the answers so far are kept.
    """
    queues: dict[str, list[Request]] = {}
    keys: set[str] = set()
    for request in requests:
        if request.key not in journal and request.key not in keys:
            keys.add(request.key)
            queues.setdefault(request.endpoint.name, []).append(request)
    if not keys:
        return []
    spending = spending or Spending(None, {})
    work = _gather(queues, journal, spending, concurrency, workers, doing, progress)
    # A notebook's loop cannot wait for a coroutine that it must run.
    with ThreadPoolExecutor(1) if _in_a_loop() else nullcontext() as pool:
        return asyncio.run(work) if pool is None else pool.submit(asyncio.run, work).result()


def _in_a_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


async def _gather(
    queues: dict[str, list[Request]],
    journal: Journal,
    spending: Spending,
    concurrency: int,
    workers: int,
    doing: str,
    progress: bool,
) -> list[Request]:
    refused: list[tuple[Endpoint, str]] = []
    ended: set[str] = set()
    endpoints = [requests[0].endpoint for requests in queues.values()]
    total = sum(map(len, queues.values()))
    with counting(doing, total, shown=progress) as advance:

        def keep(request: Request, reply: Reply, cost: float) -> None:
            about = {"model": request.endpoint.name, "prompt": request.prompt}
            usd = None if spending.price(request) is None else cost
            if reply.record is not None:
                journal.append(request.key, {**about, **reply.record}, usd)
            else:
                journal.fail(request.key, reply.failed, about, usd)
            ended.add(request.key)
            if reply.permanent:
                refused.append((request.endpoint, reply.failed))
            advance()

        if workers:
            with ray_clients(endpoints, workers) as ask:
                await _lanes(queues, ask, keep, lambda: bool(refused), spending, concurrency)
        else:
            client = Client(endpoints)
            try:
                await _lanes(queues, client.ask, keep, lambda: bool(refused), spending, concurrency)
            finally:
                await client.close()
    if refused:
        endpoint, reason = refused[0]
        fix = "correct the model list; answers so far are kept, and the same command resumes"
        raise InputError(f"models.{endpoint.name}", endpoint.model, f"refuses: {reason}", fix)
    return [each for requests in queues.values() for each in requests if each.key not in ended]


async def _lanes(
    queues: dict[str, list[Request]],
    ask: Callable[[Request], Awaitable[Reply]],
    keep: Callable[[Request, Reply, float], None],
    stopped: Callable[[], bool],
    spending: Spending,
    concurrency: int,
) -> None:
    """Run several concurrent lanes for each model; a lane sends one request after another."""

    async def lane(requests: Iterator[Request], pace: _Pace) -> None:
        for request in requests:  # the lanes of a model share one iterator
            await pace.wait(request)
            if stopped():
                return
            result = await attempted(request, ask, spending)
            if result is None:
                return
            keep(request, *result)

    lanes: list[asyncio.Task[None]] = []
    for requests in queues.values():
        shared, pace = iter(requests), _Pace(requests[0].endpoint)
        for _ in range(min(concurrency, len(requests))):
            lanes.append(asyncio.create_task(lane(shared, pace)))
    try:
        await asyncio.gather(*lanes)
    finally:
        for task in lanes:
            task.cancel()
        await asyncio.gather(*lanes, return_exceptions=True)


class _Pace:
    """Rate limits of one model, across its lanes: requests and tokens per minute."""

    def __init__(self, endpoint: Endpoint) -> None:
        limiter: Any = importlib.import_module("aiolimiter").AsyncLimiter
        requests, tokens = endpoint.requests_per_minute, endpoint.tokens_per_minute
        # Evenly spaced: a bucket of a minute's requests would allow twice as many in the first minute.
        self._requests = None if requests is None else limiter(1, 60.0 / requests)
        self._tokens = None if tokens is None else limiter(tokens, 60.0)
        self._max_tokens = endpoint.max_tokens or 0

    async def wait(self, request: Request) -> None:
        """Wait until the rate limits allow the request."""
        if self._tokens is not None:
            estimate = len(request.prompt) / 4 + self._max_tokens
            await self._tokens.acquire(min(estimate, self._tokens.max_rate))
        if self._requests is not None:
            await self._requests.acquire()
