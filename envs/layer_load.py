"""Load of a mixture-of-experts layer over experts and devices, and the load penalty of each token.

The mean penalty over a lane's tokens is the layer's load.

Legend: B lanes, M tokens of a lane, N experts, D devices, k slots of a token.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from experts import InputError

__all__ = ["LoadRule", "apply_capacity", "token_penalties", "tokens_per_expert"]


@dataclass(frozen=True)
class LoadRule:
    """The definition of load.

    Attributes:
        kind: `share`, the squared coefficient of variation of the experts' (or devices') shares,
            `D sum f^2 - 1`; `tiles`, the tiles of the grouped matrix product over the fewest that hold as
            many rows, minus 1: `sum_e ceil(n_e / tile) / ceil(runs / tile) - 1`. With a placement, the tiles
            are those of the busiest device over an equal part of the fewest, because the other devices wait
            for it.
        tile: rows of a tile.
        placement: the device of each expert, numbered from 0; None for one device per expert (`share`) or one
            device for all experts (`tiles`).

    Raises:
        InputError: `kind` is unknown or `tile` is less than 1.
    """

    kind: Literal["share", "tiles"] = "share"
    tile: int = 128
    placement: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        if self.kind not in ("share", "tiles"):
            raise InputError("load.kind", self.kind, "unknown", "use share or tiles")
        if self.tile < 1:
            raise InputError("load.tile", self.tile, "not positive", "use 1 or more")

    def check(self, experts: int) -> None:
        """Raise InputError if the placement does not match N experts."""
        if self.placement is None:
            return
        if len(self.placement) != experts or sorted(set(self.placement)) != list(
            range(max(self.placement) + 1)
        ):
            problem = f"must be a list of {experts} devices, one per expert, numbered from 0 without a gap"
            raise InputError("load.placement", list(self.placement), problem, "change the list")


def tokens_per_expert(experts: Tensor, total: int) -> Tensor:
    """The tokens that each expert takes.

    Args:
        experts: [B, M, k] int64; the id N stands for no expert.
        total: N.

    Returns:
        [B, N] float32.
    """
    flat = experts.reshape(len(experts), -1)
    counts = torch.zeros((len(flat), total + 1), device=flat.device)
    return counts.scatter_add(1, flat, torch.ones(flat.shape, device=flat.device))[:, :total]


def token_penalties(rule: LoadRule, experts: Tensor, total: int) -> Tensor:
    """The load penalty of each token; its mean is the layer's load.

    Args:
        rule: the definition of load.
        experts: [B, M, k] int64, the experts that run; the id N stands for no expert.
        total: N.

    Returns:
        [B, M] float32.

    >>> experts = torch.tensor([[[0], [0], [0], [1]]])
    >>> token_penalties(LoadRule(), experts, 2)
    tensor([[ 0.5000,  0.5000,  0.5000, -0.5000]])
    >>> token_penalties(LoadRule("tiles", tile=2), experts, 2).mean()
    tensor(0.5000)
    """
    n = tokens_per_expert(experts, total)
    runs = n.sum(dim=1, keepdim=True).clamp(min=1.0)
    penalty = _by_share(rule, n, runs) if rule.kind == "share" else _by_tiles(rule, n, runs)
    padded = torch.cat([penalty, torch.zeros_like(penalty[:, :1])], dim=1)
    slots = padded.gather(1, experts.flatten(1)).reshape(experts.shape)
    return slots.sum(dim=-1) * experts.shape[1] / runs


def apply_capacity(experts: Tensor, total: int, capacity: float | None) -> Tensor:
    """Drop the tokens above each expert's capacity, first come first served.

    Args:
        experts: [B, M, k] int64; the id N stands for no expert.
        total: N.
        capacity: capacity factor: an expert takes `ceil(capacity * runs / N)` tokens in a lane; None for no
            bound.

    Returns:
        [B, M, k] int64, N where the token was dropped.

    Source: Switch Transformers, Fedus et al. 2021, eq. 3, https://arxiv.org/abs/2101.03961.

    >>> apply_capacity(torch.tensor([[[0], [0], [0], [1]]]), 2, 1.0).flatten().tolist()
    [0, 0, 2, 1]
    """
    if capacity is None:
        return experts
    flat = experts.flatten(1)
    taken = torch.nn.functional.one_hot(flat, total + 1).cumsum(dim=1)
    place = taken.gather(2, flat.unsqueeze(-1)).squeeze(-1)
    runs = (flat < total).sum(dim=1, keepdim=True)
    room = torch.ceil(capacity * runs / total - 1e-6)
    return torch.where(place <= room, flat, total).reshape(experts.shape)


def _by_share(rule: LoadRule, n: Tensor, runs: Tensor) -> Tensor:
    """`D f_d - 1` of each expert's device, [B, N]."""
    share = n / runs
    if rule.placement is None:
        return share * n.shape[1] - 1.0
    device = torch.tensor(rule.placement, device=n.device)
    devices = int(device.max()) + 1
    by_device = torch.zeros((len(n), devices), device=n.device).index_add(1, device, share)
    return by_device[:, device] * devices - 1.0


def _by_tiles(rule: LoadRule, n: Tensor, runs: Tensor) -> Tensor:
    """Tiles of each expert, divided among its tokens, over the fewest possible, minus 1; [B, N]."""
    tiles = torch.ceil(n / rule.tile)
    fewest = torch.ceil(runs / rule.tile)
    if rule.placement is not None:
        device = torch.tensor(rule.placement, device=n.device)
        devices = int(device.max()) + 1
        by_device = torch.zeros((len(n), devices), device=n.device).index_add(1, device, tiles)
        busiest = by_device.argmax(dim=1, keepdim=True)
        tiles = tiles * (device == busiest)
        fewest = torch.ceil(fewest / devices)
    return tiles / n.clamp(min=1.0) * runs / fewest - 1.0
