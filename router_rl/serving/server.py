"""Build a server from its options: router, models, decision log and counters."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from sqlalchemy.exc import SQLAlchemyError

from experts import InputError
from experts.llm.endpoints import read_models
from experts.llm.scoring import READERS

from .answering import Answering
from .called_models import CalledModels
from .counters import Counters
from .decider import Decider
from .deployments import started_with
from .drift_status import drift_status
from .learner import Learner
from .live_routers import Live
from .loaded_router import LoadedRouter
from .log_row import LogRows, hash_key
from .log_store import LogStore
from .log_writer import LogWriter
from .rate_limits import RateLimits
from .serve_options import ServeOptions
from .served_apis import ApiLimits
from .served_queues import ServedQueues
from .sessions import Sessions
from .shadow_estimate import shadow_estimate
from .upstream import Upstream

__all__ = ["Server"]

_ESTIMATE_S = 10.0  # an estimate of the shadow router is cached this long
_DRIFT_S = 60.0  # and the drift of the models this long


class Server:
    """The state that the HTTP endpoints use.

    Args:
        router: folder of the router.
        models: YAML list of the models, as `collect` reads it.
        options: options of `serve`.

    Raises:
        InputError: a file, the log or a key cannot be used.
    """

    def __init__(self, router: Path, models: Path, options: ServeOptions) -> None:
        self.options = options
        listed = read_models(models)
        self.keys = _keys(options.api_key_env)
        loaded = LoadedRouter.of(router)
        called = CalledModels(listed, loaded)
        self.prices = called.models
        self.metrics = {each.name: each.metrics for each in called.endpoints if each.metrics is not None}
        shadow = None if options.shadow is None else LoadedRouter.of(options.shadow, "shadow")
        self.rows = LogRows(hash_key(options.hash_key_env), prompts=options.log_prompts)
        self.decider = Decider(
            Live(loaded, shadow=shadow),
            called.prices,
            explore=options.explore,
            temperature=options.explore_temperature,
            extra_usd=options.explore_extra_usd,
            queues=ServedQueues(
                {each.name: each.replicas for each in called.endpoints if each.replicas},
                options.deadline_s,
                limits={each.name: ApiLimits.of(each) for each in called.endpoints},
                metrics=self.metrics,
                first_deadline_s=options.first_deadline_s,
            ),
            sessions=Sessions(options.sticky, options.sticky_s),
            compute_weight=options.compute_weight,
        )
        self.counters = Counters(self.prices, called.prices)
        self.upstream = Upstream(called.endpoints)
        self.store = LogStore(options.log)  # last, so that invalid options create no log
        live = started_with(self.store, loaded)
        self.decider.replace(Live(live.router, live.canary, live.fraction, shadow))
        self.learner = None if options.online is None else Learner(self.store, options)
        if self.learner is not None:
            self.learner.follow(live.router)
            self.decider.learner = self.learner
        self.writer = LogWriter(self.store.write, options.buffer)
        limits = RateLimits(called.endpoints)
        self.answering = Answering(
            self.decider,
            self.upstream,
            self.writer,
            self.rows,
            called,
            self.counters,
            limits,
            READERS[options.answers],
        )
        self.last_change = ""
        self._cached: dict[str, tuple[float, str, dict[str, Any] | None]] = {}

    def attach(self, decision: str, score: float) -> bool:
        """Attach a score to a decision; see `LogStore.attach`.

        Args:
            decision: id of the decision.
            score: 0 to 1.

        Raises:
            SQLAlchemyError: the log cannot be written now.
        """
        return self.store.attach(decision, score)

    def learn(self) -> None:
        """Update the online learner, if there is one, from the log.

        Raises:
            InputError: the learner cannot start from a promoted router, which then decides without it.
            SQLAlchemyError: the log cannot be read now.
        """
        if self.learner is not None:
            self.learner.follow(self.decider.live.router)

    def status(self) -> dict[str, Any]:
        """Return the data of the live page, as JSON."""
        live = self.decider.live
        estimate, drift = self._estimate(live), self._drift(live)
        return {
            **self.counters.summary(),
            "queues": self.decider.queue_status(),
            "arrivals": self.decider.queues.arrivals(live.router),
            "router": {"folder": live.router.folder.name, "digest": live.router.digest},
            "canary": None
            if live.canary is None
            else {"folder": live.canary.folder.name, "fraction": live.fraction},
            "shadow": estimate,
            "drift": drift,
            "explore": self.options.explore,
            "online": None
            if self.learner is None
            else {"method": self.learner.name, "decisions": self.learner.decisions()},
            "log": {
                "down": self.writer.down,
                "waiting": self.writer.waiting,
                "lost": self.writer.lost,
            },
        }

    def _estimate(self, live: Live) -> dict[str, Any] | None:
        """Return the estimates of the shadow router; None without one."""
        if live.shadow is None:
            return None
        weight = self.options.cost_weight
        return self._cache(
            "shadow", live.shadow.digest, _ESTIMATE_S, lambda: shadow_estimate(self.store, live, weight)
        )

    def _drift(self, live: Live) -> dict[str, Any] | None:
        """Return the drift of the models; None if an online learner changes which prompts each one gets."""
        if self.learner is not None:
            return None
        router = live.router
        return self._cache("drift", router.digest, _DRIFT_S, lambda: drift_status(self.store, router))

    def _cache(
        self, name: str, digest: str, seconds: float, compute: Callable[[], dict[str, Any] | None]
    ) -> dict[str, Any] | None:
        """Return a result about a router that is at most some seconds old."""
        known = self._cached.get(name)
        if known is None or known[1] != digest or time.monotonic() - known[0] > seconds:
            known = self._cached[name] = (time.monotonic(), digest, compute())
        return known[2]

    def close(self) -> None:
        """Write the rows that wait for the log and the learner's state, and close the log."""
        self.writer.close()
        if self.learner is not None:
            with suppress(SQLAlchemyError):  # the next start learns again from the log
                self.learner.keep()
        self.store.close()


def _keys(variable: str | None) -> tuple[str, ...]:
    """Return the keys of clients from the environment."""
    if variable is None:
        return ()
    keys = tuple(key.strip() for key in os.environ.get(variable, "").split(",") if key.strip())
    if not keys:
        raise InputError("serve.api_key_env", variable, "is not set in the environment", "export it first")
    return keys
