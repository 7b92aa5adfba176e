"""Online learner: linear posteriors of the experts' utilities, updated from the outcomes in the log.

Its state depends only on the log: a restarted server, and all servers of one log, have the same state.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.numpy import load, save

from experts import InputError

from .linear_posterior import (
    LinearPosterior,
    Sums,
    add_scores,
    empty_sums,
    inputs_of,
    posterior_of,
    predicted_utility,
)
from .loaded_router import LoadedRouter, Ranking
from .log_store import LogStore
from .serve_options import ServeOptions

__all__ = ["Learner"]

_MASKED = -1e4  # logits of masked experts are at most this
_BATCH = 1_000  # changes that are processed at a time
_KEEP_EVERY = 10_000  # changes between two stored states
_MAX_WAITING = 1_000  # changes that wait for the cost of their decision


@dataclass(frozen=True, eq=False)
class _Known:
    """The state of the learner on top of one router.

    Attributes:
        router: digest of the router.
        sums: sums over the scored decisions.
        number: number of the newest change of the log in the sums.
        waiting: numbers of earlier changes that are not in the sums, since their decision has no cost yet.
        posterior: posterior given the sums.
    """

    router: str
    sums: Sums
    number: int
    waiting: tuple[int, ...]
    posterior: LinearPosterior


class Learner:
    """Ranks experts by their learned utilities, on top of the served router.

    `follow` must be called by one thread at a time; `ranked` is thread-safe.

    Args:
        store: the decision log.
        options: the method, cost weight, scale and penalty.
    """

    def __init__(self, store: LogStore, options: ServeOptions) -> None:
        self._store, self._options = store, options
        self._known: _Known | None = None
        self._kept = 0  # number of the newest change in the stored state

    @property
    def name(self) -> str:
        """`linucb` or `thompson`."""
        return str(self._options.online)

    def decisions(self) -> int:
        """Return the number of scored decisions that were learned."""
        return 0 if self._known is None else round(self._known.sums.decisions.sum())

    def check(self, router: LoadedRouter) -> None:
        """Check that a learner can start from a router.

        Raises:
            InputError: the router does not have one logit per expert, or reads more than the prompt's
                features.
        """
        rule, experts = router.router.rule, len(router.experts)
        if router.router.state or rule.outputs(experts) != experts:
            problem = "does not have one logit per expert that depends only on the prompt"
            fix = "start from a router of the routing problem with hard selection"
            raise InputError("serve.online", str(router.folder), problem, fix)

    def follow(self, router: LoadedRouter) -> int:
        """Learn from all new outcomes in the log.

        Args:
            router: the served router. If it changed, the learner starts again from its stored state.

        Returns:
            the number of new changes.

        Raises:
            InputError: the learner cannot start from the router.
            SQLAlchemyError: the log cannot be read now; the state does not change.
        """
        known = self._known
        if known is None or known.router != router.digest:
            self.check(router)
            known = self._stored(router)
            self._kept = known.number
        upto = self._store.newest_change()
        if upto == known.number and not known.waiting:
            self._known = known
            return 0
        changes = self._store.changes(router.pipeline, known.number, upto, known.waiting)
        sums, waiting, count = known.sums, list[int](), 0
        while rows := list(islice(changes, _BATCH)):
            waiting += [row["number"] for row in rows if row["cost_usd"] is None]
            rows = [row for row in rows if row["cost_usd"] is not None]
            sums = _with(sums, rows, router)
            count += len(rows)
        self._known = replace(
            known,
            sums=sums,
            number=upto,
            waiting=tuple(waiting[-_MAX_WAITING:]),
            posterior=self._posterior(sums) if count or self._known is not known else known.posterior,
        )
        if upto - self._kept >= _KEEP_EVERY:
            self.keep()
        return count

    def keep(self) -> None:
        """Store the state in the log, for a fast start.

        Raises:
            SQLAlchemyError: the log cannot be written now.
        """
        known = self._known
        if known is None or known.number == self._kept:
            return
        tensors = {
            "outer": known.sums.outer,
            "score": known.sums.score,
            "cost": known.sums.cost,
            "waiting": np.array(known.waiting, dtype=np.int64),
        }
        self._store.keep_learned(known.router, known.number, save(tensors))
        self._kept = known.number

    def ranked(self, router: LoadedRouter, ranking: Ranking) -> Ranking:
        """Return the ranking by learned utilities; the router's own ranking if nothing was learned for it.

        Args:
            router: the served router.
            ranking: the router's ranking of the experts for a prompt.
        """
        known = self._known
        may = ranking.scores > _MASKED
        if known is None or known.router != router.digest or not may.any():
            return ranking
        if not np.isfinite(ranking.features).all():
            return ranking
        logits = np.where(may, ranking.scores, 0.0)
        mean, deviation = predicted_utility(known.posterior, ranking.features, logits)
        deviation = self._options.online_scale * deviation
        if self.name == "linucb":
            mean, deviation = mean + deviation, None
        scores = np.where(may, mean, -np.inf)
        return Ranking(int(scores.argmax()), scores.astype(np.float32), ranking.features, deviation)

    def _posterior(self, sums: Sums) -> LinearPosterior:
        return posterior_of(sums, self._options.cost_weight, self._options.online_penalty)

    def _stored(self, router: LoadedRouter) -> _Known:
        """Return the stored state for a router; an empty state if there is none that fits."""
        sums, number, waiting = empty_sums(len(router.experts), router.router.features), 0, ()
        stored = self._store.learned(router.digest)
        if stored is not None:
            with suppress(SafetensorError, KeyError):  # a damaged state is learned again from the log
                tensors = load(stored[1])
                loaded = Sums(tensors["outer"], tensors["score"], tensors["cost"])
                if loaded.outer.shape == sums.outer.shape and loaded.score.shape == loaded.cost.shape:
                    sums, number, waiting = loaded, stored[0], tuple(tensors["waiting"].tolist())
        return _Known(router.digest, sums, number, waiting, self._posterior(sums))


def _with(sums: Sums, rows: list[dict[str, Any]], router: LoadedRouter) -> Sums:
    """Return the sums with changes of scores; all their decisions have costs."""
    ids = {name: index for index, name in enumerate(router.experts)}
    width = 4 * router.router.features
    rows = [row for row in rows if row["expert"] in ids and len(row["features"]) == width]
    if not rows:
        return sums
    features = np.stack([np.frombuffer(row["features"], dtype="<f4") for row in rows])
    expert = np.array([ids[row["expert"]] for row in rows])
    with torch.inference_mode():
        logits = router.router.scorer(torch.from_numpy(features.copy())).numpy()
    z = inputs_of(features, logits[np.arange(len(rows)), expert])
    score = np.array([row["score"] for row in rows])
    before = np.array([np.nan if row["before"] is None else row["before"] for row in rows])
    return add_scores(sums, expert, z, score, before, np.array([row["cost_usd"] for row in rows]))
