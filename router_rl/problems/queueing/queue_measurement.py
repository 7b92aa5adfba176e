"""Play policies through the queueing process and measure what they earn."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from envs import QueueingCore

from ...routing import Router

__all__ = ["Act", "QueueMeasurement", "act_of", "play_queues"]

Act = Callable[[QueueingCore, Tensor], Tensor]
"""Expert ids [B] int64, given the core and what it shows [B, D + S]."""


@dataclass(frozen=True, kw_only=True, eq=False)
class QueueMeasurement:
    """One episode in each of B lanes.

    Attributes:
        utility, quality, compute, lateness, overspend: [B] float64, means over the lane's requests;
            `lateness` is in deadlines and counts value.
        response_s: [B, W] float64 seconds from arrival to finish.
        missed: [B, W] bool, where that is over the deadline.
        shares: [N] float64, of all requests.
    """

    utility: np.ndarray
    quality: np.ndarray
    compute: np.ndarray
    lateness: np.ndarray
    overspend: np.ndarray
    response_s: np.ndarray
    missed: np.ndarray
    shares: np.ndarray

    def means(self) -> dict[str, float]:
        """Utility and its parts, the seconds of the middle and the slowest requests, and the missed share."""
        names = ("utility", "quality", "compute", "lateness", "overspend")
        found = {name: float(getattr(self, name).mean()) for name in names}
        slow = np.quantile(self.response_s, [0.5, 0.95, 0.99])
        found |= {name: float(value) for name, value in zip(("p50_s", "p95_s", "p99_s"), slow, strict=True)}
        return found | {"missed": float(self.missed.mean())}


def act_of(router: Router) -> Act:
    """A router's choices."""

    def act(core: QueueingCore, seen: Tensor) -> Tensor:
        features, state = seen[:, : router.features], seen[:, router.features :]
        return router(features, state if router.state else None).experts[:, 0]

    return act


@torch.inference_mode()
def play_queues(core: QueueingCore, act: Act) -> QueueMeasurement:
    """Play the episodes that stand at their beginning to their end."""
    earned = torch.zeros(core.lanes, dtype=torch.float64)
    parts: dict[str, Tensor] = {}
    window = core.config.window
    for _ in range(window):
        step = core.step(act(core, core.observation()))
        earned += step.reward.double()
        for name, part in step.parts.items():
            parts[name] = parts.get(name, torch.zeros(())) + part.double()
    response = core.responses()
    means = {name: (part / window).numpy() for name, part in parts.items()}
    return QueueMeasurement(
        utility=(earned / window).numpy(),
        quality=means["quality"],
        compute=means["compute"],
        lateness=means["lateness"],
        overspend=means["overspend"],
        response_s=response.numpy(),
        missed=(response > core.state.episodes.deadline[:, :window]).numpy(),
        shares=means["share"].mean(axis=0),
    )
