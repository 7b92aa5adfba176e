"""Queues of the models: requests in flight, arrivals, and the state for routers of queues and servers."""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from collections.abc import Callable, Collection, Generator, Iterable, Mapping
from contextlib import contextmanager
from typing import Any
from weakref import WeakKeyDictionary

from torch import Tensor

from experts import InputError

from ..routing.policies.live_queues import ArrivalGaps, queue_constants, queue_state
from ..routing.policies.live_servers import limits_apis, server_constants, server_state
from ..routing.policies.network_scorer import network_policy_of
from .adapted_router import AdaptedRouter
from .chat_request import Deadlines
from .engine_metrics import EngineLoad
from .loaded_router import LoadedRouter
from .served_apis import ApiLimits, ServedApis
from .served_engines import ServedEngines
from .served_servers import Call, RequestTokens, ServedServers

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
    """Records requests in flight and arrivals, and computes the state of routers of queues and servers.

    It is thread-safe.

    Args:
        replicas: number of requests that a model processes concurrently, by name; for models that are not
            listed, the number from the router's training.
        deadline_s: seconds until a request is late; None: 2 mean service times of the router.
        clock: a monotonic clock, in seconds.
        limits: rate limits of the models, by name, for routers of APIs.
        metrics: names of the models whose engines report their load, for routers of engines.
        first_deadline_s: seconds until the first token of a request is late; None: it has no deadline.
    """

    def __init__(
        self,
        replicas: Mapping[str, int] | None = None,
        deadline_s: float | None = None,
        clock: Callable[[], float] = time.monotonic,
        *,
        limits: Mapping[str, ApiLimits] | None = None,
        metrics: Collection[str] = (),
        first_deadline_s: float | None = None,
    ) -> None:
        self._replicas, self._limits = dict(replicas or {}), dict(limits or {})
        self._metrics = frozenset(metrics)
        self._deadline_s, self._first_deadline_s, self._clock = deadline_s, first_deadline_s, clock
        self._calls: defaultdict[str, set[Call]] = defaultdict(set)
        self._gaps = ArrivalGaps()
        self._adapted: WeakKeyDictionary[LoadedRouter, AdaptedRouter] = WeakKeyDictionary()
        self._servers: WeakKeyDictionary[LoadedRouter, ServedServers] = WeakKeyDictionary()
        self._loads: dict[str, tuple[EngineLoad, float]] = {}
        self._lock = threading.Lock()

    def arrived(self) -> None:
        """Record the arrival of a request, before its decision."""
        with self._lock:
            self._gaps.arrived(self._clock())
            for each in self._servers.values():
                each.arrived()

    @contextmanager
    def request(self, expert: str) -> Generator[Call, None, None]:
        """Count a request as in flight until the context ends; yields the record of it.

        Args:
            expert: name of the model that the request is sent to.
        """
        with self._lock:
            now = self._clock()
            call = Call(expert, now, now)
            self._calls[expert].add(call)
        try:
            yield call
        finally:
            with self._lock:
                self._calls[expert].discard(call)
                now = self._clock()
                for each in self._servers.values() if call.begins > now else ():
                    each.gave_up(call, now)

    def wait_s(self, loaded: LoadedRouter, expert: str, tokens: RequestTokens) -> float | None:
        """Return the seconds until a router's token buckets have room; None if it has none.

        Args:
            loaded: the live router.
            expert: name of the model.
            tokens: of the request.
        """
        servers = self.servers(loaded)
        if servers is None:
            return None
        with self._lock:
            return servers.wait_s(expert, tokens, self._clock())

    def sent(self, call: Call, tokens: RequestTokens, wait_s: float, *, streamed: bool = False) -> None:
        """Record the tokens of a request, and take from the token buckets what it needs.

        Args:
            call: the request in flight.
            tokens: of the request.
            wait_s: seconds from now until it is sent to its model.
            streamed: whether its first token is seen.
        """
        with self._lock:
            now = self._clock()
            call.tokens, call.begins, call.streamed = tokens, now + wait_s, streamed
            for each in self._servers.values():
                each.sent(call, now)

    def first_token(self, call: Call) -> None:
        """Record the first token of a streamed answer.

        Args:
            call: the request.
        """
        with self._lock:
            call.first = self._clock()
            for each in self._servers.values():
                each.first_token(call)

    def answered(
        self, call: Call, tokens: tuple[float, float], seconds: float, first_s: float | None
    ) -> None:
        """Record the times and the tokens of an answer.

        Args:
            call: the request.
            tokens: of its prompt and its answer.
            seconds: from its arrival to the whole answer.
            first_s: from its arrival to the first token; None for an answer that was not streamed.
        """
        with self._lock:
            for each in self._servers.values():
                each.answered(call, tokens, seconds, first_s, self._clock())

    def reported(self, expert: str, load: EngineLoad, asked: float) -> None:
        """Record the load that an engine reports.

        Args:
            expert: name of the model.
            load: of its engine.
            asked: when it was asked for it, on the clock of the queues.
        """
        with self._lock:
            self._loads[expert] = load, asked

    def in_flight(self, expert: str) -> int:
        """Return the number of requests that were sent to a model and have no answer yet."""
        with self._lock:
            return len(self._calls[expert])

    def waiting(self, loaded: LoadedRouter, expert: str) -> int | None:
        """Return the number of requests that wait at a model, or for its limits; None if it is unknown.

        Args:
            loaded: the live router.
            expert: name of the model.
        """
        servers = self.servers(loaded)
        if servers is not None:
            if expert not in servers.experts:
                return None
            with self._lock:
                waiting = servers.now(self._calls, self._clock()).waiting
            return round(waiting[servers.experts.index(expert)])
        replicas = self.replicas(loaded, expert)
        return None if replicas is None else waiting_and_taken(self.in_flight(expert), replicas)[0]

    def check(self, routers: Iterable[LoadedRouter]) -> None:
        """Check what the model list says against the training of the routers; begin to record buckets.

        Args:
            routers: those that serve.

        Raises:
            InputError: a model of a router of APIs has no rate limit, one of a router of engines no metrics,
                or one of a network policy has other replicas than in the training.
        """
        for loaded in routers:
            self._check_replicas(loaded)
            self._check_servers(loaded)
            self.servers(loaded)

    def servers(self, loaded: LoadedRouter) -> ServedServers | None:
        """Return the servers as a router of model servers reads them; None for any other router.

        Args:
            loaded: the router.
        """
        constants = server_constants(loaded.router)
        if constants is None:
            return None
        with self._lock:
            if loaded not in self._servers:
                if limits_apis(constants):
                    servers = ServedApis(loaded, constants, self._limits, self._clock())
                else:
                    servers = ServedEngines(loaded, constants, self._loads)
                self._servers[loaded] = servers
            return self._servers[loaded]

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
                waiting_and_taken(len(self._calls[name]), replicas, adapted.batch)
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

    def server_state(
        self, servers: ServedServers, down: Collection[str], deadlines: Deadlines, tokens: float
    ) -> Tensor:
        """Return the current state for a router of model servers, [1, 7 N + 8] float32.

        Args:
            servers: the servers as the router reads them.
            down: names of the experts that are down.
            deadlines: of the request; None where the default applies.
            tokens: of the request's prompt.
        """
        with self._lock:
            current, names = servers.now(self._calls, self._clock()), servers.experts
            queues = queue_state(
                names,
                waiting=current.waiting,
                taken=current.taken,
                down=[name in down for name in names],
                deadline_s=deadlines.last or self.deadline_s(servers),
                gaps=self._gaps.means(servers.constants.gap),
            )
            first, token = servers.recent()
            return server_state(
                names,
                queues,
                used=current.used,
                ahead=current.ahead,
                recent_first=first,
                recent_token=token,
                tokens=tokens,
                first_deadline_s=deadlines.first or self._first_deadline_s,
            )

    def deadline_s(self, reader: AdaptedRouter | ServedServers) -> float:
        """Return the default deadline: seconds until a request is late.

        Args:
            reader: the router, or the servers as it reads them.
        """
        return self._deadline_s or _DEADLINE * reader.constants.mean_service

    def arrivals(self, loaded: LoadedRouter) -> dict[str, Any] | None:
        """Return arrival rate, deadline and slowdowns as JSON; None if the router reads no queues.

        Args:
            loaded: the live router.
        """
        reader = self.adapted(loaded) or self.servers(loaded)
        if reader is None:
            return None
        with self._lock:
            _, slow = self._gaps.means(reader.constants.gap)
            slowdown = reader.slowdown
        return {
            "per_second": 1.0 / max(slow, 1e-9),
            "deadline_s": self.deadline_s(reader),
            "slowdown": dict(zip(loaded.experts, slowdown, strict=True)),
        }

    def _check_replicas(self, loaded: LoadedRouter) -> None:
        """Check that the models of a network policy have the replicas of its training; it cannot adapt."""
        constants = queue_constants(loaded.router)
        if constants is None or network_policy_of(loaded.router) is None:
            return
        for name, trained in zip(loaded.experts, constants.replicas, strict=True):
            listed = self._replicas.get(name, trained)
            if listed != trained:
                problem = f"is not the {trained} of the training, and a network policy cannot adapt"
                fix = "leave it out, or train with --problem.replicas"
                raise InputError(f"models.{name}.replicas", listed, problem, fix)

    def _check_servers(self, loaded: LoadedRouter) -> None:
        """Check that the models of a router of APIs have limits, and those of one of engines metrics."""
        constants = server_constants(loaded.router)
        if constants is None:
            return
        for name in loaded.experts:
            if limits_apis(constants) and not any(self._limits.get(name, ())):
                problem = "is missing, but the router was trained on rate-limited APIs"
                fix = "give the limits of its training, also input_per_minute and output_per_minute"
                raise InputError(f"models.{name}.requests_per_minute", None, problem, fix)
            if not limits_apis(constants) and name not in self._metrics:
                problem = "is missing, but the router was trained on engines (--problem.servers continuous)"
                fix = "give the address of its Prometheus metrics, such as http://localhost:8000/metrics"
                raise InputError(f"models.{name}.metrics", None, problem, fix)
