"""Jobs in processes of this machine, by joblib; a single job or process is this process."""

from __future__ import annotations

import uuid
from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import joblib

from .engine import Engine, Lost, Work, call_kept

__all__ = ["local_engine"]


@contextmanager
def local_engine(shared: Any, jobs: int) -> Generator[Engine, None, None]:
    """Yield an engine of this machine.

    Args:
        shared: the value that every job gets.
        jobs: number of processes.
    """
    yield _LocalEngine(shared, jobs)


class _LocalEngine:
    shares_folder = True
    has_one_machine = True

    def __init__(self, shared: Any, jobs: int) -> None:
        self._shared, self._jobs, self._token = shared, jobs, uuid.uuid4().hex

    def results(
        self, work: Work, jobs: Mapping[Any, tuple[Any, ...]], lost: Lost | None = None
    ) -> Iterator[tuple[Any, Any]]:
        """Yield the key and the result of each job as it finishes; a lost worker is an error of joblib."""
        if self._jobs == 1 or len(jobs) <= 1:
            for key, arguments in jobs.items():
                yield key, work(self._shared, *arguments)
            return
        with joblib.parallel_config("loky", n_jobs=self._jobs, inner_max_num_threads=1):
            pool: Any = joblib.Parallel(return_as="generator_unordered")
            call = joblib.delayed(_in_worker)
            yield from pool(call(self._token, self._shared, work, key, jobs[key]) for key in jobs)

    def stop(self) -> None:
        """Do nothing: no thread waits for a local job."""


def _in_worker(token: str, shared: Any, work: Work, key: Any, arguments: tuple[Any, ...]) -> tuple[Any, Any]:
    return key, call_kept(token, lambda: shared, work, arguments)
