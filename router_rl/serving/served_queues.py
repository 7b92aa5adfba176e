"""Queues of the models in this server: requests in flight, arrivals, and the state for queue routers."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Collection, Generator, Mapping
from contextlib import contextmanager
from typing import Any
from weakref import WeakKeyDictionary

from torch import Tensor

from ..routing.policies.live_queues import ArrivalGaps, queue_constants, queue_state
from .adapted_router import AdaptedRouter
from .loaded_router import LoadedRouter

__all__ = ["ServedQueues", "waiting_and_taken"]

_DEADLINE = 2.0  # mean service times, as `--problem.deadlines` has by default


def waiting_and_taken(in_flight: int, replicas: int, batch: int = 1) -> tuple[int, int]:
    """Return the number of requests that wait at a model, and the number of its busy replicas.

    Args:
        in_flight: requests that were sent to the model and have no answer yet.
        replicas: number of batches that the model processes concurrently.
        batch: number of requests in a batch.

    >>> waiting_and_taken(5, replicas=2)
    (3, 2)
    """
    return max(0, in_flight - replicas * batch), min(in_flight, replicas)


class ServedQueues:
    """Counts requests in flight and arrivals, and computes a queue router's state; thread-safe.

    Args:
        replicas: number of requests that a model processes concurrently, by name; for models that are not
            listed, the number from the router's training.
        deadline_s: seconds until a request is late; None: 2 mean service times of the router.
        clock: a monotonic clock, in seconds.
    """

    def __init__(
        self,
        replicas: Mapping[str, int] | None = None,
        deadline_s: float | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._replicas = dict(replicas or {})
        self._deadline_s, self._clock = deadline_s, clock
        self._in_flight: Counter[str] = Counter()
        self._gaps = ArrivalGaps()
        self._adapted: WeakKeyDictionary[LoadedRouter, AdaptedRouter] = WeakKeyDictionary()
        self._lock = threading.Lock()

    def arrived(self) -> None:
        """Record the arrival of a request, before its decision."""
        with self._lock:
            self._gaps.arrived(self._clock())

    @contextmanager
    def request(self, expert: str) -> Generator[None, None, None]:
        """Count a request as in flight until the context ends.

        Args:
            expert: name of the model that the request is sent to.
        """
        with self._lock:
            self._in_flight[expert] += 1
        try:
            yield
        finally:
            with self._lock:
                self._in_flight[expert] -= 1

    def in_flight(self, expert: str) -> int:
        """Return the number of requests that were sent to a model and have no answer yet."""
        return self._in_flight[expert]

    def adapted(self, loaded: LoadedRouter) -> AdaptedRouter | None:
        """Return a queue router adapted to these queues; None if the router does not read queues.

        Args:
            loaded: the router.
        """
        constants = queue_constants(loaded.router)
        if constants is None:
            return None
        with self._lock:
            if loaded not in self._adapted:
                pairs = zip(loaded.experts, constants.replicas, strict=True)
                replicas = [self._replicas.get(name, trained) for name, trained in pairs]
                self._adapted[loaded] = AdaptedRouter(loaded, constants, replicas)
            return self._adapted[loaded]

    def replicas(self, loaded: LoadedRouter, expert: str) -> int | None:
        """Return the number of requests that a model processes concurrently; None if it is unknown.

        Args:
            loaded: the live router.
            expert: name of the model.
        """
        adapted = self.adapted(loaded)
        if adapted is None or expert not in loaded.experts:
            return self._replicas.get(expert)
        return adapted.replicas[loaded.experts.index(expert)] * adapted.batch

    def state(self, adapted: AdaptedRouter, down: Collection[str], deadline_s: float | None) -> Tensor:
        """Return the current state for a queue router, [1, 3 N + 6] float32.

        Args:
            adapted: the router.
            down: names of the experts that are down.
            deadline_s: seconds until the request is late; None: the default deadline.
        """
        experts = adapted.current.experts
        with self._lock:
            queues = [
                waiting_and_taken(self._in_flight[name], replicas, adapted.batch)
                for name, replicas in zip(experts, adapted.replicas, strict=True)
            ]
            gaps = self._gaps.means(adapted.constants.gap)
        return queue_state(
            experts,
            waiting=[waiting for waiting, _ in queues],
            taken=[taken for _, taken in queues],
            down=[name in down for name in experts],
            deadline_s=deadline_s or self.deadline_s(adapted),
            gaps=gaps,
        )

    def deadline_s(self, adapted: AdaptedRouter) -> float:
        """Return the default deadline: seconds until a request is late.

        Args:
            adapted: the router.
        """
        return self._deadline_s or _DEADLINE * adapted.constants.mean_service

    def arrivals(self, loaded: LoadedRouter) -> dict[str, Any] | None:
        """Return arrival rate, deadline and slowdowns as JSON; None if the router does not read queues.

        Args:
            loaded: the live router.
        """
        adapted = self.adapted(loaded)
        if adapted is None:
            return None
        with self._lock:
            _, slow = self._gaps.means(adapted.constants.gap)
        return {
            "per_second": 1.0 / max(slow, 1e-9),
            "deadline_s": self.deadline_s(adapted),
            "slowdown": dict(zip(loaded.experts, adapted.slowdown, strict=True)),
        }
