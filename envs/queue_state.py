"""Where the lanes of the queueing process stand."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .queue_episodes import Episodes
from .queueing_config import QueueingConfig

__all__ = ["QueueState", "empty_queues", "flat", "mapped"]


class QueueState(NamedTuple):
    """Where B lanes stand. Times are float64 seconds since the episode began; `up` is on the experts' clocks.

    Attributes:
        seed, episode: [B] int64, the lane's stream, and the episodes it has begun.
        step: [B] int64, requests sent in this episode.
        episodes: what the episode will bring: W + 1 requests and the outages.
        up: [B, N], the experts' clocks now.
        free: [B, N, C], when each replica has done what it was given (`up`).
        starts: [B, N, W + 4], when each request sent to an expert begins (`up`), in order; else infinite.
        sent, begun: [B, N] int64, requests sent to it, and those of them that have begun.
        open_size: [B, N] int64, requests in the batch that still takes more; 0 if there is none.
        open_work: [B, N], its longest request's service.
        open_finish: [B, N], when it would be done (`up`).
        members: [B, N, batch] int64, its requests.
        finish: [B, W + 1], when each request is done; the last column is for nobody.
        gaps: [B, 2], running means of the time between arrivals, fast and slow.
        spent: [B], compute used.
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
    """Lanes at the start of episodes.

    Args:
        seed, episode: [B] int64.
        episodes: what they will bring.
        replicas: [N] int64; an expert's row of `free` is infinite where it has fewer than others.
        config: of the process.
        gap: mean seconds between arrivals, where the running means begin.
        room: columns of `starts` beyond the requests.
    """
    lanes, experts, width = len(seed), len(replicas), int(replicas.max())
    times = torch.zeros((lanes, experts), dtype=torch.float64, device=seed.device)
    whole = torch.zeros((lanes, experts), dtype=torch.int64, device=seed.device)
    absent = torch.arange(width, device=seed.device) >= replicas.unsqueeze(-1)
    finish = times.new_full((lanes, config.window + 1), float("nan"))
    finish[:, config.window] = 0.0  # nobody is never late
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
    """The tensors of a nest of tuples."""
    return [state] if isinstance(state, Tensor) else [leaf for part in state for leaf in flat(part)]


def mapped(state: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """A nest of named tuples with every tensor changed."""
    if isinstance(state, Tensor):
        return change(state)
    return type(state)(*(mapped(part, change) for part in state))
