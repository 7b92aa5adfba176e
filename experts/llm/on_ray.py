"""Ask from the workers of a Ray cluster, in place of this process."""

from __future__ import annotations

import importlib
import itertools
import os
from collections.abc import Awaitable, Callable, Generator, Sequence
from contextlib import contextmanager
from typing import Any

from ..io.errors import InputError
from .asking import Asker, Reply, Request
from .endpoints import Endpoint

__all__ = ["ray_askers"]


@contextmanager
def ray_askers(
    endpoints: Sequence[Endpoint], workers: int
) -> Generator[Callable[[Request], Awaitable[Reply]], None, None]:
    """Yield a function that asks from one worker after the other.

    A worker that dies is started again by Ray, which asks anew what it was asking: answers that had arrived
    here are not asked for again.

    Args:
        endpoints: who can be asked; the workers' environment must hold their keys.
        workers: how many processes ask, on the cluster that `RAY_ADDRESS` names, or on one started here.

    Raises:
        InputError: ray is not installed.
    """
    try:
        ray: Any = importlib.import_module("ray")
    except ImportError as error:
        fix = "pip install 'router-rl[scale]', or ask from this process with workers 0"
        raise InputError("ray", None, f"cannot be imported ({error})", fix) from error
    started = not ray.is_initialized()
    if started:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        ray.init(include_dashboard=False if "RAY_ADDRESS" not in os.environ else None, log_to_driver=False)
    remote = ray.remote(Asker).options(
        num_cpus=0,  # it waits for answers: as many fit a machine as there are
        max_restarts=-1,
        max_task_retries=-1,
        max_concurrency=1000,  # how many are asked at once is settled by whoever asks
        scheduling_strategy="SPREAD",
    )
    try:
        asking = itertools.cycle([remote.remote(list(endpoints)) for _ in range(workers)])

        async def ask(request: Request) -> Reply:
            try:
                return await next(asking).ask.remote(request)
            except ray.exceptions.RayError as error:
                problem = f"a worker cannot ask ({' '.join(str(error).split())[:500]})"
                fix = "have the workers' machines hold this package, LiteLLM and the keys"
                raise InputError("workers", workers, problem, fix) from error

        yield ask
    finally:
        if started:
            ray.shutdown()
