"""Ask many models many things at once, at the pace each allows, and keep every answer as it comes."""

from __future__ import annotations

import asyncio
import importlib
from collections.abc import Awaitable, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from ..io.errors import InputError
from ..io.progress import counting
from .asking import Asker, Reply, Request
from .endpoints import Endpoint
from .journal import Journal
from .on_ray import ray_askers

__all__ = ["gather"]


def gather(
    requests: Sequence[Request],
    journal: Journal,
    *,
    concurrency: int,
    workers: int = 0,
    doing: str = "asking",
    progress: bool = True,
) -> None:
    """Ask what the journal has no answer to, and keep each answer, or why there is none, as it comes.

    Requests are asked in their order, those of one model independently of the others'.

    Args:
        requests: what to ask; the same one twice is asked once.
        journal: what was answered.
        concurrency: answers waited for at once, of each model.
        workers: processes on Ray that ask; 0: this one.
        doing: a few words beside the progress bar.
        progress: show progress on stderr.

    Raises:
        InputError: a model refuses everybody (wrong key, no such model): what was asked by then is kept.
    """
    waiting: dict[str, list[Request]] = {}
    seen: set[str] = set()
    for request in requests:
        if request.key not in journal and request.key not in seen:
            seen.add(request.key)
            waiting.setdefault(request.endpoint.name, []).append(request)
    if not seen:
        return
    work = _gather(waiting, journal, concurrency, workers, doing, progress)
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        asyncio.run(work)
    else:  # a notebook's: it cannot wait for us and run us
        with ThreadPoolExecutor(1) as pool:
            pool.submit(asyncio.run, work).result()


async def _gather(
    waiting: dict[str, list[Request]],
    journal: Journal,
    concurrency: int,
    workers: int,
    doing: str,
    progress: bool,
) -> None:
    refused: list[tuple[Endpoint, str]] = []
    endpoints = [requests[0].endpoint for requests in waiting.values()]
    total = sum(map(len, waiting.values()))
    with counting(doing, total, shown=progress) as advance:

        def keep(request: Request, reply: Reply) -> None:
            asked = {"model": request.endpoint.name, "prompt": request.prompt}
            if reply.record is not None:
                journal.append(request.key, {**asked, **reply.record})
            else:
                journal.fail(request.key, reply.failed, asked)
            if reply.hopeless:
                refused.append((request.endpoint, reply.failed))
            advance()

        if workers:
            with ray_askers(endpoints, workers) as ask:
                await _lanes(waiting, ask, keep, lambda: bool(refused), concurrency)
        else:
            asker = Asker(endpoints)
            try:
                await _lanes(waiting, asker.ask, keep, lambda: bool(refused), concurrency)
            finally:
                await asker.close()
    if refused:
        endpoint, reason = refused[0]
        fix = "correct the model list; answers so far are kept, and the same command goes on"
        raise InputError(f"models.{endpoint.name}", endpoint.model, f"refuses: {reason}", fix)


async def _lanes(
    waiting: dict[str, list[Request]],
    ask: Callable[[Request], Awaitable[Reply]],
    keep: Callable[[Request, Reply], None],
    stopped: Callable[[], bool],
    concurrency: int,
) -> None:
    """For each model a number of lanes, each of which asks one request after another."""

    async def lane(requests: Iterator[Request], pace: _Pace) -> None:
        for request in requests:  # one iterator for all lanes of a model: each takes the next
            await pace.wait(request)
            if stopped():
                return
            keep(request, await ask(request))

    lanes: list[asyncio.Task[None]] = []
    for requests in waiting.values():
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
    """Keeps to one model's requests and tokens a minute, across all lanes."""

    def __init__(self, endpoint: Endpoint) -> None:
        limiter: Any = importlib.import_module("aiolimiter").AsyncLimiter
        requests, tokens = endpoint.requests_per_minute, endpoint.tokens_per_minute
        # Evenly spaced: a bucket of a minute's requests would let out twice as many in its first minute.
        self._requests = None if requests is None else limiter(1, 60.0 / requests)
        self._tokens = None if tokens is None else limiter(tokens, 60.0)
        self._longest = endpoint.max_tokens or 0

    async def wait(self, request: Request) -> None:
        """Wait until the request may be sent."""
        if self._tokens is not None:
            estimate = len(request.prompt) / 4 + self._longest
            await self._tokens.acquire(min(estimate, self._tokens.max_rate))
        if self._requests is not None:
            await self._requests.acquire()
