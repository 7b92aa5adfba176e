"""Requests sent by the workers of a Ray cluster."""

from __future__ import annotations

import itertools
from collections.abc import Awaitable, Callable, Generator, Sequence
from contextlib import contextmanager

from ..io.errors import InputError
from ..io.ray_cluster import ray_cluster
from .asking import Client, Reply, Request
from .endpoints import Endpoint

__all__ = ["ray_clients"]


@contextmanager
def ray_clients(
    endpoints: Sequence[Endpoint], workers: int
) -> Generator[Callable[[Request], Awaitable[Reply]], None, None]:
    """Yield a function that sends requests from the workers in turn.

    Ray restarts a worker that dies and repeats its open requests; replies that have arrived are kept.

    Args:
        endpoints: the models; the workers' environment must hold their keys.
        workers: number of processes, on the cluster of `RAY_ADDRESS` or on a local one started here.

    Raises:
        InputError: Ray is not installed.
    """
    with ray_cluster(instead="use workers 0 for this process") as ray:
        remote = ray.remote(Client).options(
            num_cpus=0,  # it only waits for replies
            max_restarts=-1,
            max_task_retries=-1,
            max_concurrency=1000,  # the caller limits the concurrency
            scheduling_strategy="SPREAD",
        )
        clients = itertools.cycle([remote.remote(list(endpoints)) for _ in range(workers)])

        async def ask(request: Request) -> Reply:
            try:
                return await next(clients).ask.remote(request)
            except ray.exceptions.RayError as error:
                problem = f"a worker cannot send requests ({' '.join(str(error).split())[:500]})"
                fix = "install this package and LiteLLM on the workers, and set the keys there"
                raise InputError("workers", workers, problem, fix) from error

        yield ask
