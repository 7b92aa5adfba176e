"""Run a policy through episodes of the queueing environment and measure what it earns."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from envs import QueueingCore

from ..measure import Measurement
from ..problem import Policy

__all__ = ["QueueMeasurement", "measure_queues"]

_PERCENTILES = {"p50_s": 0.5, "p95_s": 0.95, "p99_s": 0.99}


@dataclass(frozen=True, kw_only=True, eq=False)
class QueueMeasurement:
    """One episode of W requests in each of B lanes.

    Attributes:
        utility: [B] float64, mean over the lane's requests.
        quality: [B] float64, mean over the lane's requests, in [0, 1].
        compute: [B] float64, mean over the lane's requests; 1 is a request of the most expensive expert.
        lateness: [B] float64, mean over the lane's requests, in deadlines times the request's value.
        overspend: [B] float64, compute above the episode's budget for each request.
        response_s: [B, W] float64, seconds from arrival to finish.
        missed: [B, W] bool, True where the response, or its first token, takes longer than its deadline.
        share: [B, N] float32, how the lane's requests divide among the experts; rows sum to 1.
        first_s: [B, W] float64, seconds from arrival to the first token; NaN for servers of queues.
    """

    utility: np.ndarray
    quality: np.ndarray
    compute: np.ndarray
    lateness: np.ndarray
    overspend: np.ndarray
    response_s: np.ndarray
    missed: np.ndarray
    share: np.ndarray
    first_s: np.ndarray

    def summary(self, *, budget: bool) -> Measurement:
        """Return one value per episode, and percentiles of the response time over all requests, in seconds.

        Args:
            budget: whether there is one, so that overspending is a part of the utility.
        """
        parts = {
            "quality": self.quality,
            "compute": self.compute,
            "missed": self.missed.mean(axis=1),
            "lateness": self.lateness,
        }
        if budget:
            parts["overspend"] = self.overspend
        seconds = np.quantile(self.response_s, list(_PERCENTILES.values()))
        facts = {name: float(value) for name, value in zip(_PERCENTILES, seconds, strict=True)}
        if not np.isnan(self.first_s).all():
            firsts = np.quantile(self.first_s, list(_PERCENTILES.values()))
            facts |= {f"first_{name}": float(value) for name, value in zip(_PERCENTILES, firsts, strict=True)}
        return Measurement(utility=self.utility, parts=parts, facts=facts, share=self.share)


@torch.inference_mode()
def measure_queues(core: QueueingCore, policy: Policy) -> QueueMeasurement:
    """Run one full episode in every lane.

    Args:
        core: B lanes at the start of their episodes.
        policy: observations [B, O] float32 to experts [B] int64.
    """
    earned = torch.zeros(core.lanes, dtype=torch.float64)
    parts: dict[str, Tensor] = {}
    window = core.config.window
    policy.start(core)
    for _ in range(window):
        step = core.step(policy.act(core.observation()))
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
        missed=core.missed().numpy(),
        share=means["share"].astype(np.float32),
        first_s=core.first_tokens().numpy(),
    )
