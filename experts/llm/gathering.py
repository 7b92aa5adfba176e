"""Concurrent requests to many models within their rate limits, with every reply journaled on arrival."""

from __future__ import annotations

import asyncio
import importlib
from collections.abc import Awaitable, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from ..io.errors import InputError
from ..io.progress import counting
from .asking import Client, Reply, Request
from .endpoints import Endpoint
from .journal import Journal
from .on_ray import ray_clients

__all__ = ["gather"]


def gather(
    requests: Sequence[Request],
    journal: Journal,
    *,
    concurrency: int,
    workers: int = 0,
    doing: str = "requesting answers",
    progress: bool = True,
) -> None:
    """Send the requests that the journal has no answer to, and journal each answer or failure on arrival.

    Requests to one model are sent in their order, independently of the other models.

    Args:
        requests: a request that occurs twice is sent once.
        journal: the answers so far.
        concurrency: the maximum number of open requests of each model.
        workers: Ray processes that send the requests; 0: this process.
        doing: the label of the progress bar.
        progress: show progress on stderr.

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
        return
    work = _gather(queues, journal, concurrency, workers, doing, progress)
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        asyncio.run(work)
    else:  # a notebook's loop cannot wait for a coroutine that it must run
        with ThreadPoolExecutor(1) as pool:
            pool.submit(asyncio.run, work).result()


async def _gather(
    queues: dict[str, list[Request]],
    journal: Journal,
    concurrency: int,
    workers: int,
    doing: str,
    progress: bool,
) -> None:
    refused: list[tuple[Endpoint, str]] = []
    endpoints = [requests[0].endpoint for requests in queues.values()]
    total = sum(map(len, queues.values()))
    with counting(doing, total, shown=progress) as advance:

        def keep(request: Request, reply: Reply) -> None:
            about = {"model": request.endpoint.name, "prompt": request.prompt}
            if reply.record is not None:
                journal.append(request.key, {**about, **reply.record})
            else:
                journal.fail(request.key, reply.failed, about)
            if reply.permanent:
                refused.append((request.endpoint, reply.failed))
            advance()

        if workers:
            with ray_clients(endpoints, workers) as ask:
                await _lanes(queues, ask, keep, lambda: bool(refused), concurrency)
        else:
            client = Client(endpoints)
            try:
                await _lanes(queues, client.ask, keep, lambda: bool(refused), concurrency)
            finally:
                await client.close()
    if refused:
        endpoint, reason = refused[0]
        fix = "correct the model list; answers so far are kept, and the same command resumes"
        raise InputError(f"models.{endpoint.name}", endpoint.model, f"refuses: {reason}", fix)


async def _lanes(
    queues: dict[str, list[Request]],
    ask: Callable[[Request], Awaitable[Reply]],
    keep: Callable[[Request, Reply], None],
    stopped: Callable[[], bool],
    concurrency: int,
) -> None:
    """Run several lanes for each model, each of which sends one request after another."""

    async def lane(requests: Iterator[Request], pace: _Pace) -> None:
        for request in requests:  # the lanes of a model share one iterator
            await pace.wait(request)
            if stopped():
                return
            keep(request, await ask(request))

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
