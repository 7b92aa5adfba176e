"""Adapt a queue router to the replicas of the model list and the measured speeds of the models."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from ..routing.policies.live_queues import adapted_queues, predicted_service, queue_constants
from ..routing.scorers.queue_scorer import QueueConstants
from .loaded_router import LoadedRouter

__all__ = ["AdaptedRouter"]

_PRIOR = 5.0  # the service times of the training data count as this many answers
_DISCOUNT = 0.98  # of the measured times, per answer
_CHANGE = 1.1  # the router is updated if a speed changes by this factor


class AdaptedRouter:
    """A queue router with the current service times of its models.

    A model's slowdown is the sum of its measured seconds divided by the sum of the predicted seconds; recent
    answers count more. Only answers that did not wait for other requests are measured.

    Args:
        loaded: a queue router.
        constants: constants of its training.
        replicas: [N], number of requests that each model processes concurrently.
    """

    def __init__(self, loaded: LoadedRouter, constants: QueueConstants, replicas: Sequence[int]) -> None:
        self.replicas = tuple(replicas)
        self.batch = constants.batch
        self._trained = loaded.router
        self._measured = [_PRIOR * seconds for seconds in constants.service]
        self._predicted = list(self._measured)
        self._in_use = [1.0 for _ in replicas]
        self.current = self._adapted(loaded)

    @property
    def constants(self) -> QueueConstants:
        """The constants of the current router, in seconds."""
        constants = queue_constants(self.current.router)
        assert constants is not None
        return constants

    @property
    def slowdown(self) -> list[float]:
        """Measured seconds of each expert divided by the predicted seconds, [N]."""
        pairs = zip(self._measured, self._predicted, strict=True)
        return [measured / predicted for measured, predicted in pairs]

    def predicted(self, features: torch.Tensor, expert: int) -> float:
        """Return the seconds that the trained router predicts for an expert's answer.

        Args:
            features: [D] float.
            expert: id of the expert.
        """
        return float(predicted_service(self._trained, features.unsqueeze(0))[0, expert])

    def measured(self, expert: int, seconds: float, predicted: float) -> None:
        """Record the latency of an answer that did not wait for other requests.

        Args:
            expert: id of the expert.
            seconds: latency of the answer.
            predicted: latency that was predicted, in seconds.
        """
        self._measured[expert] = _DISCOUNT * self._measured[expert] + seconds
        self._predicted[expert] = _DISCOUNT * self._predicted[expert] + predicted
        pairs = zip(self.slowdown, self._in_use, strict=True)
        if any(not 1.0 / _CHANGE < now / used < _CHANGE for now, used in pairs):
            self._in_use = self.slowdown
            self.current = self._adapted(self.current)

    def _adapted(self, loaded: LoadedRouter) -> LoadedRouter:
        return replace(loaded, router=adapted_queues(self._trained, self.replicas, self._in_use))
