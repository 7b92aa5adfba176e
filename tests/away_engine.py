"""A stand-in for a cluster: jobs run one after another, on copies, as on machines without these files."""

from __future__ import annotations

import pickle
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import pytest

from router_rl.studies.engines.registry import ENGINES

__all__ = ["RUNS", "installed", "opened"]

RUNS: list[tuple[str, tuple[Any, ...]]] = []
"""Name of the work and arguments of every job since `installed`."""


class _AwayEngine:
    shares_folder = False
    has_one_machine = False

    def __init__(self, shared: Any) -> None:
        self._shared = pickle.dumps(shared)

    def results(
        self, work: Any, jobs: Mapping[Any, tuple[Any, ...]], lost: Any = None
    ) -> Iterator[tuple[Any, Any]]:
        for key in reversed(list(jobs)):  # jobs do not end in their order
            RUNS.append((work.__name__, jobs[key]))
            found = work(pickle.loads(self._shared), *pickle.loads(pickle.dumps(jobs[key])))
            yield key, pickle.loads(pickle.dumps(found))

    def stop(self) -> None:
        RUNS.append(("stop", ()))


@contextmanager
def opened(shared: Any, jobs: int) -> Iterator[_AwayEngine]:
    """Yield the engine."""
    yield _AwayEngine(shared)


@contextmanager
def installed() -> Iterator[None]:
    """Add the engine `away` to the registry."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(ENGINES, "away", "away_engine:opened")
        RUNS.clear()
        yield
