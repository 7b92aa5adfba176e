"""The requests and outages of a queueing episode, drawn when it begins."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from .outages import Outages, draw_outages
from .queueing_config import QueueingConfig
from .request_lengths import Lengths
from .stream import query_rows

__all__ = ["Episodes", "Traffic", "draw_episodes"]

_STEPS = 1 << 52
_ROWS, _OFFSETS, _CLASSES, _OUTAGES, _LUCK = (purpose << 44 for purpose in range(5))


class Traffic(NamedTuple):
    """Requests as they arrive.

    Attributes:
        gaps: [M] float64 seconds between arrivals; an episode uses a stretch that wraps around.
        lengths: of prompts and answers; None for servers that do not use them.
    """

    gaps: Tensor
    lengths: Lengths | None


class Episodes(NamedTuple):
    """W + 1 requests in each of B lanes: W to send, and one for the final observation.

    Attributes:
        arrival: [B, W + 1] float64 seconds, the first at 0.
        row: [B, W + 1] int64, the queries.
        deadline: [B, W + 1] float64 seconds from arrival.
        value: [B, W + 1] float64, of each request.
        outages: of every expert, [B, N, K].
        first_deadline: [B, W + 1] float64 seconds from arrival to the first token; infinite if there is none.
        tokens: [B, W + 1, N, 2] float64, tokens of the prompt and of each expert's answer; [B, W + 1, 0, 2]
            for servers that do not use them.
        luck: [B, W + 1, N, 2] float64 in (0, 1), of failures and stragglers; [B, W + 1, 0, 2] without them.
    """

    arrival: Tensor
    row: Tensor
    deadline: Tensor
    value: Tensor
    outages: Outages
    first_deadline: Tensor
    tokens: Tensor
    luck: Tensor


def draw_episodes(
    seed: Tensor,
    episode: Tensor,
    traffic: Traffic,
    queries: int,
    experts: int,
    config: QueueingConfig,
    unit: float,
) -> Episodes:
    """Draw episodes, a function of each lane's seed and its number of episodes only.

    Args:
        seed, episode: [B] int64.
        traffic: gaps and lengths.
        queries: T.
        experts: N.
        config: the options.
        unit: seconds, the unit of deadlines and outages.
    """
    gaps, lengths = traffic
    device, requests = seed.device, config.window + 1
    place = torch.arange(requests, device=device)
    drawn = (episode * requests).unsqueeze(-1) + place
    seeds = seed.unsqueeze(-1)
    offset = query_rows(seed, episode + _OFFSETS, len(gaps))
    position = (offset.unsqueeze(-1) + place) % len(gaps)
    between = gaps[position]
    between[:, 0] = 0.0
    chance = query_rows(seeds, drawn + _CLASSES, _STEPS).double() / _STEPS
    bounds = torch.tensor(config.class_shares, dtype=torch.float64, device=device).cumsum(0)[:-1]
    of_class = torch.bucketize(chance, bounds, right=True)
    arrival = between.cumsum(dim=-1)
    row = query_rows(seeds, drawn + _ROWS, queries)
    first = torch.tensor(config.first_deadlines or [float("inf")] * len(config.deadlines), device=device)
    none = arrival.new_zeros((*arrival.shape, 0, 2))
    return Episodes(
        arrival=arrival,
        row=row,
        deadline=torch.tensor(config.deadlines, dtype=torch.float64, device=device)[of_class] * unit,
        value=torch.tensor(config.values, dtype=torch.float64, device=device)[of_class],
        outages=_outages(seed, episode, experts, float(gaps.mean()) * requests, config, unit),
        first_deadline=first.double()[of_class] * unit,
        tokens=none if lengths is None else lengths.of_requests(row, position),
        luck=_luck(seed, drawn, experts) if config.servers == "api" else none,
    )


def _luck(seed: Tensor, drawn: Tensor, experts: int) -> Tensor:
    """Uniform numbers for each request and expert, [B, W + 1, N, 2] float64."""
    place = torch.arange(2 * experts, device=seed.device)
    counter = drawn.unsqueeze(-1) * (2 * experts) + place + _LUCK
    steps = query_rows(seed.reshape(-1, 1, 1), counter, _STEPS)
    return ((steps.double() + 0.5) / _STEPS).unflatten(-1, (experts, 2))


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
