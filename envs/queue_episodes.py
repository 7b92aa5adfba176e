"""The requests and outages of a queueing episode, drawn when it begins."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from .outages import Outages, draw_outages
from .queueing_config import QueueingConfig
from .stream import query_rows

__all__ = ["Episodes", "draw_episodes"]

_STEPS = 1 << 52
_ROWS, _OFFSETS, _CLASSES, _OUTAGES = (purpose << 44 for purpose in range(4))


class Episodes(NamedTuple):
    """W + 1 requests in each of B lanes: W to send, and one for the final observation.

    Attributes:
        arrival: [B, W + 1] float64 seconds, the first at 0.
        row: [B, W + 1] int64, the queries.
        deadline: [B, W + 1] float64 seconds from arrival.
        value: [B, W + 1] float64, of each request.
        outages: of every expert, [B, N, K].
    """

    arrival: Tensor
    row: Tensor
    deadline: Tensor
    value: Tensor
    outages: Outages


def draw_episodes(
    seed: Tensor,
    episode: Tensor,
    gaps: Tensor,
    queries: int,
    experts: int,
    config: QueueingConfig,
    unit: float,
) -> Episodes:
    """Draw episodes, a function of each lane's seed and its number of episodes only.

    Args:
        seed, episode: [B] int64.
        gaps: [M] float64 seconds between arrivals; an episode uses a stretch that wraps around.
        queries: T.
        experts: N.
        config: the options.
        unit: seconds, the unit of deadlines and outages.
    """
    device, requests = seed.device, config.window + 1
    place = torch.arange(requests, device=device)
    drawn = (episode * requests).unsqueeze(-1) + place
    seeds = seed.unsqueeze(-1)
    offset = query_rows(seed, episode + _OFFSETS, len(gaps))
    between = gaps[(offset.unsqueeze(-1) + place) % len(gaps)]
    between[:, 0] = 0.0
    chance = query_rows(seeds, drawn + _CLASSES, _STEPS).double() / _STEPS
    bounds = torch.tensor(config.class_shares, dtype=torch.float64, device=device).cumsum(0)[:-1]
    of_class = torch.bucketize(chance, bounds, right=True)
    arrival = between.cumsum(dim=-1)
    return Episodes(
        arrival=arrival,
        row=query_rows(seeds, drawn + _ROWS, queries),
        deadline=torch.tensor(config.deadlines, dtype=torch.float64, device=device)[of_class] * unit,
        value=torch.tensor(config.values, dtype=torch.float64, device=device)[of_class],
        outages=_outages(seed, episode, experts, float(gaps.mean()) * requests, config, unit),
    )


def _outages(
    seed: Tensor, episode: Tensor, experts: int, seconds: float, config: QueueingConfig, unit: float
) -> Outages:
    """Enough outages for twice the expected length of an episode; after them an expert stays up."""
    if not config.mean_up:
        never = torch.zeros((len(seed), experts, 0), dtype=torch.float64, device=seed.device)
        return Outages.of(never, never)
    up, repair = config.mean_up * unit, config.mean_repair * unit
    count = 4 + int(2 * seconds / (up + repair))
    return draw_outages(seed, episode * (experts * count * 2) + _OUTAGES, experts, count, up, repair)
