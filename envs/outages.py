"""Failures and recoveries as a change of clock: an expert's own clock stands still while it is down.

On that clock queues know nothing of failures, so a job's finish is found in closed form: start plus service
on the expert's clock, read back on everybody's. Work that an outage interrupts goes on after it.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from .stream import query_rows

__all__ = ["Outages", "clock", "draw_outages", "is_down", "wall"]

_STEPS = 1 << 52


class Outages(NamedTuple):
    """The outages ahead, K for each expert, in order; K may be 0.

    Attributes:
        fails: [..., K] float64 seconds, when it goes down.
        returns: [..., K] float64 seconds, when it is up again; before the next failure.
        lost: [..., K + 1] float64 seconds of being down before each outage, and in all.
        stops: [..., K + 1] float64 seconds, each failure on the expert's own clock; the last is infinite.
    """

    fails: Tensor
    returns: Tensor
    lost: Tensor
    stops: Tensor

    @classmethod
    def of(cls, fails: Tensor, returns: Tensor) -> Outages:
        """Outages from their times."""
        spells = (returns - fails).cumsum(dim=-1)
        lost = torch.cat([torch.zeros_like(fails.sum(dim=-1, keepdim=True)), spells], dim=-1)
        never = torch.full_like(lost[..., :1], float("inf"))
        return cls(fails, returns, lost, torch.cat([fails - lost[..., :-1], never], dim=-1))


def draw_outages(
    seed: Tensor, counter: Tensor, experts: int, count: int, up: float, repair: float
) -> Outages:
    """Outages whose spells up and down are exponential, a function of the seed and the counter alone.

    Args:
        seed: [B] int64, the lanes' streams.
        counter: [B] int64, where in the stream they begin.
        experts: N.
        count: K, outages drawn for each expert; after the last it stays up.
        up, repair: mean seconds of a spell.

    Returns:
        outages [B, N, K].
    """
    place = torch.arange(experts * count * 2, device=seed.device)
    drawn = query_rows(seed.unsqueeze(-1), counter.unsqueeze(-1) + place, _STEPS)
    spells = -((drawn.double() + 0.5) / _STEPS).log().reshape(len(seed), experts, count, 2)
    changes = (spells * torch.tensor([up, repair], dtype=torch.float64, device=seed.device)).flatten(-2)
    changes = changes.cumsum(dim=-1).reshape(len(seed), experts, count, 2)
    return Outages.of(changes[..., 0].contiguous(), changes[..., 1].contiguous())


def clock(outages: Outages, time: Tensor) -> Tensor:
    """Seconds an expert has been up by a time: [...] float64 of times [...] (outages [..., K])."""
    if not outages.fails.shape[-1]:
        return time
    over = (outages.returns <= time.unsqueeze(-1)).sum(dim=-1, keepdim=True)
    up = time - outages.lost.gather(-1, over).squeeze(-1)
    return torch.minimum(up, outages.stops.gather(-1, over).squeeze(-1))


def wall(outages: Outages, up: Tensor) -> Tensor:
    """The first time at which an expert has been up for so many seconds: the inverse of `clock`."""
    if not outages.fails.shape[-1]:
        return up
    before = (outages.stops < up.unsqueeze(-1)).sum(dim=-1, keepdim=True)
    return up + outages.lost.gather(-1, before).squeeze(-1)


def is_down(outages: Outages, time: Tensor) -> Tensor:
    """Whether an expert is down: [...] bool of times [...]."""
    time = time.unsqueeze(-1)
    return ((outages.fails <= time) & (time < outages.returns)).any(dim=-1)
