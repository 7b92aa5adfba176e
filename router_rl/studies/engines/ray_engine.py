"""Jobs as tasks of a Ray cluster, that of `RAY_ADDRESS` or one on this machine.

A task takes one CPU. The shared value goes through Ray's object store once, and each worker process reads it
once. A worker or node that is lost costs the jobs that it ran: they run again elsewhere.
"""

from __future__ import annotations

import platform
import socket
import uuid
from collections import Counter
from collections.abc import Generator, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from importlib.metadata import version
from typing import Any

from experts import InputError
from experts.io.ray_cluster import ray_cluster

from .engine import Engine, Lost, Work, call_kept

__all__ = ["ray_engine"]

_ATTEMPTS = 5  # of one job, whose workers are lost
_COMPARED = ("router-rl", "torch", "numpy", "scikit-learn")  # releases that numbers depend on
_FIX = "install the same releases on every node"


@contextmanager
def ray_engine(shared: Any, jobs: int) -> Generator[Engine, None, None]:
    """Yield an engine of a Ray cluster.

    Args:
        shared: the value that every job gets.
        jobs: number of tasks at a time.

    Raises:
        InputError: Ray is not installed, or the cluster cannot be reached.
    """
    with ray_cluster(jobs, instead="use --engine local") as ray:
        engine = _RayEngine(ray, shared, jobs)
        try:
            yield engine
        finally:
            engine.stop()


class _RayEngine:
    shares_folder = False

    def __init__(self, ray: Any, shared: Any, jobs: int) -> None:
        self._ray, self._jobs = ray, jobs
        self._token, self._shared = uuid.uuid4().hex, ray.put(shared)
        # Lost jobs are run again here, where their keys are known.
        self._task = ray.remote(_in_task).options(num_cpus=1, max_retries=0)
        self._releases = _releases()
        self._open: set[Any] = set()
        self._stopped = False

    @property
    def has_one_machine(self) -> bool:
        """Whether every node of the cluster is this machine."""
        alive = [node for node in self._ray.nodes() if node["Alive"]]
        return {node["NodeManagerHostname"] for node in alive} <= {socket.gethostname()}

    def results(
        self, work: Work, jobs: Mapping[Any, tuple[Any, ...]], lost: Lost | None = None
    ) -> Iterator[tuple[Any, Any]]:
        """Yield the key and the result of each job as it finishes; a job whose worker is lost runs again."""
        waiting, running = list(reversed(jobs)), dict[Any, Any]()
        losses = Counter[Any]()
        try:
            while waiting or running:
                while waiting and len(running) < self._jobs:
                    key = waiting.pop()
                    # In a list, Ray passes the reference itself: the worker reads the value once.
                    call = (self._releases, self._token, [self._shared], work, jobs[key])
                    if self._stopped:
                        raise RuntimeError("the engine was stopped")
                    task = self._task.remote(*call)
                    running[task] = key
                    self._open.add(task)
                (task,), _ = self._ray.wait(list(running), num_returns=1)
                key = running.pop(task)
                self._open.discard(task)
                try:
                    result = self._ray.get(task)
                except self._ray.exceptions.RayError as error:
                    losses[key] += 1
                    self._check_lost(error, losses[key])
                    if lost is not None:
                        lost(key)
                    waiting.append(key)
                else:
                    yield key, result
        finally:
            self._cancel(list(running))

    def stop(self) -> None:
        """Stop all jobs; threads that wait for results get an error."""
        self._stopped = True
        self._cancel(list(self._open))

    def _cancel(self, tasks: Iterable[Any]) -> None:
        for task in tasks:
            if task in self._open:
                self._open.discard(task)
                self._ray.cancel(task, force=True)

    def _check_lost(self, error: Any, losses: int) -> None:
        """Raise the error of a job, unless its worker was lost and it may run again."""
        errors = self._ray.exceptions
        if isinstance(error, errors.RayTaskError):
            cause = error.cause
            if isinstance(cause, Exception) and not _is_missing_code(cause):
                raise cause from error
        is_lost = not isinstance(
            error, errors.RayTaskError | errors.TaskCancelledError | errors.RuntimeEnvSetupError
        )
        if is_lost and losses < _ATTEMPTS and not _is_missing_code(error):
            return
        reason = " ".join(str(error).split())[-400:]
        if is_lost and not _is_missing_code(error):
            problem = f"{losses} workers with the same job were lost, the last because {reason}"
            fix = "give fewer --jobs, or nodes with more memory; finished trials are kept"
            raise InputError("engine", "ray", problem, fix) from error
        raise InputError("engine", "ray", f"a worker cannot run jobs ({reason})", _FIX) from error


def _is_missing_code(error: BaseException) -> bool:
    return isinstance(error, ImportError) or "No module named" in str(error)


def _releases() -> dict[str, str]:
    return {"Python": platform.python_version(), **{name: version(name) for name in _COMPARED}}


def _in_task(
    releases: Mapping[str, str], token: str, shared: list[Any], work: Work, arguments: tuple[Any, ...]
) -> Any:
    """Return the result of a job, in a worker of the cluster.

    Raises:
        InputError: the worker has other releases than the process that wants the result.
    """
    own = _releases()
    other = [f"{name} {own[name]} for {releases[name]}" for name in own if own[name] != releases[name]]
    if other:
        node = socket.gethostname()
        raise InputError("engine", "ray", f"the worker on {node} has {', '.join(other)}", _FIX)
    import ray

    read: Any = partial(ray.get, shared[0])
    return call_kept(token, read, work, arguments)
