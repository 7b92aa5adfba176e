"""Requests sent by the workers of a Ray cluster."""

from __future__ import annotations

import importlib
import itertools
import os
from collections.abc import Awaitable, Callable, Generator, Sequence
from contextlib import contextmanager
from typing import Any

from ..io.errors import InputError
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
    try:
        ray: Any = importlib.import_module("ray")
    except ImportError as error:
        fix = "pip install 'router-rl[scale]', or use workers 0 for this process"
        raise InputError("ray", None, f"cannot be imported ({error})", fix) from error
    started = not ray.is_initialized()
    if started:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        ray.init(include_dashboard=False if "RAY_ADDRESS" not in os.environ else None, log_to_driver=False)
    remote = ray.remote(Client).options(
        num_cpus=0,  # it only waits for replies
        max_restarts=-1,
        max_task_retries=-1,
        max_concurrency=1000,  # the caller limits the concurrency
        scheduling_strategy="SPREAD",
    )
    try:
        clients = itertools.cycle([remote.remote(list(endpoints)) for _ in range(workers)])

        async def ask(request: Request) -> Reply:
            try:
                return await next(clients).ask.remote(request)
            except ray.exceptions.RayError as error:
                problem = f"a worker cannot send requests ({' '.join(str(error).split())[:500]})"
                fix = "install this package and LiteLLM on the workers, and set the keys there"
                raise InputError("workers", workers, problem, fix) from error

        yield ask
    finally:
        if started:
            ray.shutdown()
