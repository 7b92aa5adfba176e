"""The data of a figure: the queues of one test episode over time under a policy."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from envs import QueueingCore

from ..problem import Case, FigureData, Policy

__all__ = ["queue_timeline"]

_REQUESTS = 256


@torch.inference_mode()
def queue_timeline(core: QueueingCore, policy: Policy, experts: Sequence[str], case: Case) -> FigureData:
    """Return the number of requests at each expert at the first arrivals of an episode.

    Args:
        core: one lane at the start of its episode.
        policy: observations [1, D + 3 N + 6] float32 to experts [1] int64.
        experts: their names, N of them.
        case: the core's case.

    Returns:
        A figure of the form `queue_timeline` with the data `experts` (names), `case` (its label) and `seen`:
        for each arrival its `second`, `jobs` [N] (requests that wait, and replicas at work) and `down` [N].
    """
    features, count = core.outcomes.features.shape[1], core.experts
    moments: list[dict[str, Any]] = []
    policy.start(core)
    for _ in range(min(_REQUESTS, core.config.window)):
        observation = core.observation()
        waiting, busy, down = observation[0, features : features + 3 * count].reshape(3, count)
        moments.append(
            {"second": float(core.now), "jobs": (waiting + busy).tolist(), "down": down.bool().tolist()}
        )
        core.step(policy.act(observation))
    note = (
        f"One test episode at {case.label}, its first {len(moments)} requests: the requests at each expert, "
        "waiting or at work, when each request arrives. Grey: the expert is down. All methods get the same "
        "requests."
    )
    data = {"experts": list(experts), "case": case.label, "seen": moments}
    return FigureData(form="queue_timeline", title="Queues over time", note=note, data=data)
