"""Failures and recoveries as a change of clock: an expert's uptime stops while it is down.

In uptime, queues do not depend on failures. So the finish of a job has a closed form: its start plus its
service in uptime, converted back to wall time. Interrupted work continues after the outage.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from .stream import query_rows

__all__ = ["Outages", "draw_outages", "is_down", "uptime", "wall_time"]

_STEPS = 1 << 52


class Outages(NamedTuple):
    """The outages of an episode, K for each expert, in order; K can be 0.

    Attributes:
        fails: [..., K] float64 seconds, when it goes down.
        returns: [..., K] float64 seconds, when it recovers; before the next failure.
        lost: [..., K + 1] float64 seconds of downtime before each outage, and in total.
        stops: [..., K + 1] float64 seconds of uptime at each failure; the last is infinite.
    """

    fails: Tensor
    returns: Tensor
    lost: Tensor
    stops: Tensor

    @classmethod
    def of(cls, fails: Tensor, returns: Tensor) -> Outages:
        """Outages from the times of failures and recoveries, [..., K] float64 seconds each."""
        spells = (returns - fails).cumsum(dim=-1)
        lost = torch.cat([torch.zeros_like(fails.sum(dim=-1, keepdim=True)), spells], dim=-1)
        never = torch.full_like(lost[..., :1], float("inf"))
        return cls(fails, returns, lost, torch.cat([fails - lost[..., :-1], never], dim=-1))


def draw_outages(
    seed: Tensor, counter: Tensor, experts: int, count: int, up: float, repair: float
) -> Outages:
    """Outages with exponential times up and down, a function of the seed and the counter only.

    Args:
        seed: [B] int64, the random streams.
        counter: [B] int64, where the numbers begin in the stream.
        experts: N.
        count: K, outages of each expert; after the last one it stays up.
        up, repair: mean seconds up and down.

    Returns:
        outages [B, N, K].
    """
    place = torch.arange(experts * count * 2, device=seed.device)
    drawn = query_rows(seed.unsqueeze(-1), counter.unsqueeze(-1) + place, _STEPS)
    spells = -((drawn.double() + 0.5) / _STEPS).log().reshape(len(seed), experts, count, 2)
    changes = (spells * torch.tensor([up, repair], dtype=torch.float64, device=seed.device)).flatten(-2)
    changes = changes.cumsum(dim=-1).reshape(len(seed), experts, count, 2)
    return Outages.of(changes[..., 0].contiguous(), changes[..., 1].contiguous())


def uptime(outages: Outages, time: Tensor) -> Tensor:
    """Uptime of an expert at wall times [...], [...] float64 seconds (outages [..., K])."""
    if not outages.fails.shape[-1]:
        return time
    over = (outages.returns <= time.unsqueeze(-1)).sum(dim=-1, keepdim=True)
    up = time - outages.lost.gather(-1, over).squeeze(-1)
    return torch.minimum(up, outages.stops.gather(-1, over).squeeze(-1))


def wall_time(outages: Outages, up: Tensor) -> Tensor:
    """First wall time at which an expert reaches an uptime, [...] float64 seconds: inverse of `uptime`."""
    if not outages.fails.shape[-1]:
        return up
    before = (outages.stops < up.unsqueeze(-1)).sum(dim=-1, keepdim=True)
    return up + outages.lost.gather(-1, before).squeeze(-1)


def is_down(outages: Outages, time: Tensor) -> Tensor:
    """Whether an expert is down at wall times [...], [...] bool."""
    time = time.unsqueeze(-1)
    return ((outages.fails <= time) & (time < outages.returns)).any(dim=-1)
