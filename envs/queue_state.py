"""The state of the queueing environment."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .queue_episodes import Episodes
from .queueing_config import QueueingConfig

__all__ = ["QueueState", "empty_queues", "flat", "mapped"]


class QueueState(NamedTuple):
    """The state of B lanes. Times are float64 seconds since the episode began; `up` marks seconds of uptime.

    Attributes:
        seed, episode: [B] int64, the random stream of each lane, and the episodes that it has begun.
        step: [B] int64, requests sent in this episode.
        episodes: W + 1 requests and the outages of the episode.
        up: [B, N], uptime of the experts now.
        free: [B, N, C], when each replica finishes its work (`up`).
        starts: [B, N, W + 4], when each request sent to the expert begins (`up`), in order; else infinite.
        sent, begun: [B, N] int64, requests sent to the expert, and those that have begun.
        open_size: [B, N] int64, requests in the batch that is not yet full; 0 if there is none.
        open_work: [B, N], service time of its longest request.
        open_finish: [B, N], when it would finish (`up`).
        members: [B, N, batch] int64, its requests.
        finish: [B, W + 1], when each request finishes; the last column is for no request.
        gaps: [B, 2], running means of the time between arrivals, fast and slow.
        spent: [B], compute used in the episode.
    """

    seed: Tensor
    episode: Tensor
    step: Tensor
    episodes: Episodes
    up: Tensor
    free: Tensor
    starts: Tensor
    sent: Tensor
    begun: Tensor
    open_size: Tensor
    open_work: Tensor
    open_finish: Tensor
    members: Tensor
    finish: Tensor
    gaps: Tensor
    spent: Tensor


def empty_queues(
    seed: Tensor,
    episode: Tensor,
    episodes: Episodes,
    replicas: Tensor,
    config: QueueingConfig,
    gap: float,
    room: int,
) -> QueueState:
    """The state at the start of episodes.

    Args:
        seed, episode: [B] int64.
        episodes: their requests and outages.
        replicas: [N] int64; an expert's row of `free` is infinite where it has fewer than others.
        config: the options.
        gap: mean seconds between arrivals, the initial running means.
        room: columns of `starts` beyond the requests.
    """
    lanes, experts, width = len(seed), len(replicas), int(replicas.max())
    times = torch.zeros((lanes, experts), dtype=torch.float64, device=seed.device)
    whole = torch.zeros((lanes, experts), dtype=torch.int64, device=seed.device)
    absent = torch.arange(width, device=seed.device) >= replicas.unsqueeze(-1)
    finish = times.new_full((lanes, config.window + 1), float("nan"))
    finish[:, config.window] = 0.0  # no request is never late
    return QueueState(
        seed=seed.clone(),
        episode=episode.clone(),
        step=torch.zeros_like(seed),
        episodes=episodes,
        up=times.clone(),
        free=times.unsqueeze(-1).repeat(1, 1, width).masked_fill(absent, float("inf")),
        starts=times.new_full((lanes, experts, config.window + room), float("inf")),
        sent=whole.clone(),
        begun=whole.clone(),
        open_size=whole.clone(),
        open_work=times.clone(),
        open_finish=times.clone(),
        members=whole.unsqueeze(-1).repeat(1, 1, config.batch),
        finish=finish,
        gaps=times.new_full((lanes, 2), gap),
        spent=times.new_zeros(lanes),
    )


def flat(state: Any) -> Sequence[Tensor]:
    """The tensors of nested tuples, in order."""
    return [state] if isinstance(state, Tensor) else [leaf for part in state for leaf in flat(part)]


def mapped(state: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """Nested named tuples with `change` applied to every tensor."""
    if isinstance(state, Tensor):
        return change(state)
    return type(state)(*(mapped(part, change) for part in state))
