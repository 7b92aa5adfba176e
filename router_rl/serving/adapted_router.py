"""A queue router that follows the replicas of the model list and the measured speeds of the models."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from ..routing.policies.live_queues import adapted_queues, predicted_service, queue_constants
from ..routing.scorers.queue_scorer import QueueConstants
from .loaded_router import LoadedRouter

__all__ = ["AdaptedRouter"]

_PRIOR = 5.0  # answers that the times of the training count as
_MEMORY = 0.98  # discount of the measured times, per answer
_CHANGE = 1.1  # the router changes where a speed differs by this factor from the one in use


class AdaptedRouter:
    """A queue router with the times that its models take now.

    A model's slowdown is the sum of its measured seconds over the sum of the predicted ones; recent answers
    count more. Only answers that did not wait for other requests are measured.

    Args:
        loaded: a router that reads queues.
        constants: of its training.
        replicas: [N], requests that each model works on at once.
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
        """Those of the router as it is now, in seconds."""
        constants = queue_constants(self.current.router)
        assert constants is not None
        return constants

    @property
    def slowdown(self) -> list[float]:
        """Measured seconds of each expert over those of the training, [N]."""
        return [one / other for one, other in zip(self._measured, self._predicted, strict=True)]

    def predicted(self, features: torch.Tensor, expert: int) -> float:
        """Return the seconds that the trained router predicts for an expert's answer.

        Args:
            features: [D] float.
            expert: its id.
        """
        return float(predicted_service(self._trained, features.unsqueeze(0))[0, expert])

    def measured(self, expert: int, seconds: float, predicted: float) -> None:
        """Record an answer that did not wait.

        Args:
            expert: its id.
            seconds: that it took.
            predicted: seconds that were predicted.
        """
        self._measured[expert] = _MEMORY * self._measured[expert] + seconds
        self._predicted[expert] = _MEMORY * self._predicted[expert] + predicted
        pairs = zip(self.slowdown, self._in_use, strict=True)
        if any(not 1.0 / _CHANGE < now / used < _CHANGE for now, used in pairs):
            self._in_use = self.slowdown
            self.current = self._adapted(self.current)

    def _adapted(self, loaded: LoadedRouter) -> LoadedRouter:
        return replace(loaded, router=adapted_queues(self._trained, self.replicas, self._in_use))
