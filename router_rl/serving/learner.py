"""An online learner: linear posteriors of the experts' utilities that follow the outcomes in the log.

What it knows depends on the log alone: a restart after a kill, and every server of the log, get the same.
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
    added,
    inputs_of,
    no_sums,
    posterior_of,
    predicted_utility,
)
from .loaded_router import LoadedRouter, Ranking
from .log_store import LogStore
from .serve_options import ServeOptions

__all__ = ["Learner"]

_MASKED = -1e4  # logits of experts that may not be chosen are at most this
_BATCH = 1_000  # changes that are added at once
_KEEP = 10_000  # changes between two stored states
_MOST_WAITING = 1_000  # changes that wait for the cost of their decision


@dataclass(frozen=True, eq=False)
class _Known:
    """What was learned on top of one router.

    Attributes:
        router: its digest.
        sums: over the scored decisions.
        number: the newest change of the log that is in the sums.
        waiting: earlier changes that are not, because their decision has no cost yet.
        posterior: of the sums.
    """

    router: str
    sums: Sums
    number: int
    waiting: tuple[int, ...]
    posterior: LinearPosterior


class Learner:
    """Ranks experts by what it learned, on top of the served router.

    `follow` is called by one thread at a time, `ranked` by any.

    Args:
        store: the decision log.
        options: which learner, its cost weight, scale and penalty.
    """

    def __init__(self, store: LogStore, options: ServeOptions) -> None:
        self._store, self._options = store, options
        self._known: _Known | None = None
        self._kept = 0

    @property
    def name(self) -> str:
        """`linucb` or `thompson`."""
        return str(self._options.online)

    def decisions(self) -> int:
        """Return the number of scored decisions that it knows."""
        return 0 if self._known is None else round(self._known.sums.decisions.sum())

    def check(self, router: LoadedRouter) -> None:
        """Check that a learner can start from a router.

        Raises:
            InputError: its logits are not one for each expert, or it reads more than the prompt's features.
        """
        rule, experts = router.router.rule, len(router.experts)
        if router.router.state or rule.outputs(experts) != experts:
            problem = "has no logit for each expert that depends on the prompt alone"
            fix = "start from a router of the routing problem with hard selection"
            raise InputError("serve.online", str(router.folder), problem, fix)

    def follow(self, router: LoadedRouter) -> int:
        """Learn from every outcome that the log has by now; return how many changes were new.

        Args:
            router: the served router. For another one than before, the whole log is read again.

        Raises:
            InputError: the learner cannot start from the router.
            SQLAlchemyError: the log cannot be read now; what is known stays.
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
            waiting=tuple(waiting[-_MOST_WAITING:]),
            posterior=self._posterior(sums) if count or self._known is not known else known.posterior,
        )
        if upto - self._kept >= _KEEP:
            self.keep()
        return count

    def keep(self) -> None:
        """Store what is known in the log, for a fast start.

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
        """Return the ranking by what was learned; the router's own where nothing is known of this router.

        Args:
            router: the served router.
            ranking: its ranking of the experts for a prompt.
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
        """Return the stored state of a router; nothing known where there is none that fits."""
        sums, number, waiting = no_sums(len(router.experts), router.router.features), 0, ()
        stored = self._store.learned(router.digest)
        if stored is not None:
            with suppress(SafetensorError, KeyError):  # else all is learned again from the log
                tensors = load(stored[1])
                read = Sums(tensors["outer"], tensors["score"], tensors["cost"])
                if read.outer.shape == sums.outer.shape and read.score.shape == read.cost.shape:
                    sums, number, waiting = read, stored[0], tuple(tensors["waiting"].tolist())
        return _Known(router.digest, sums, number, waiting, self._posterior(sums))


def _with(sums: Sums, rows: list[dict[str, Any]], router: LoadedRouter) -> Sums:
    """Return the sums with changes of scores, whose decisions have costs."""
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
    return added(sums, expert, z, score, before, np.array([row["cost_usd"] for row in rows]))
