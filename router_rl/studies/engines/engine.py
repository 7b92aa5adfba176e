"""An engine: maps keyed jobs to their results as they finish.

Every job is a call of one function with a shared value, which travels to a worker process once, and with the
job's own arguments. A new engine is one file and one line in `registry.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping
from typing import Any, Protocol

import torch

__all__ = ["Engine", "Key", "Lost", "Work", "call_kept"]

Key = Hashable
Work = Callable[..., Any]
Lost = Callable[[Key], None]

_kept: dict[str, Any] = {}
"""In a worker process: the shared value of its engine, by the engine's token; never more than one."""


class Engine(Protocol):
    """Runs jobs in worker processes, on one thread each.

    Attributes:
        shares_folder: whether the workers write to the files of this process. If not, results travel, and
            this process stores them.
        has_one_machine: whether all workers run on this machine.
    """

    @property
    def shares_folder(self) -> bool:
        """Whether workers write to the files of this process."""
        ...

    @property
    def has_one_machine(self) -> bool:
        """Whether all workers run on this machine."""
        ...

    def results(
        self, work: Work, jobs: Mapping[Any, tuple[Any, ...]], lost: Lost | None = None
    ) -> Iterator[tuple[Any, Any]]:
        """Yield the key and the result of each job as it finishes; jobs that run are stopped on an error.

        Args:
            work: a function of a module, of the shared value and the job's arguments.
            jobs: the arguments of each job, by its key.
            lost: is called with the key of a job whose worker was lost, before the job is run again.

        Raises:
            Exception: what a job raised.
        """
        ...

    def stop(self) -> None:
        """Stop all jobs; threads that wait for results get an error."""
        ...


def call_kept(token: str, shared: Callable[[], Any], work: Work, arguments: tuple[Any, ...]) -> Any:
    """Return the result of a job, in a worker process on one thread.

    Every job may bring a copy of the shared value, whose caches are empty. The process keeps the first copy
    for all jobs of the engine, so that it computes each value that is cached once.

    Args:
        token: of the engine.
        shared: returns a copy of the shared value.
        work: see `Engine.results`.
        arguments: of the job.
    """
    torch.set_num_threads(1)
    if token not in _kept:
        _kept.clear()
        _kept[token] = shared()
    return work(_kept[token], *arguments)
