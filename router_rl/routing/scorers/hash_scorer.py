"""The hash scorer: a fixed pseudo-random order of the experts for every query (Roller et al. 2021).

The hash of a query is `h = sum_d m_d * bits(x_d)` modulo 2^64, with bits the signed int32 that holds the
float32 (minus zero counts as zero) and m odd random multipliers (multiply-add hashing, Dietzfelbinger 1996).
Expert e scores the top 24 bits of `mix(h + (e + 1) * golden)` over 2^24, with mix the finaliser of
splitmix64 (Steele et al. 2014, https://doi.org/10.1145/2660193.2660195). The largest score wins, so every
expert is first, second, ... equally often, and taking one away moves only its own queries (rendezvous
hashing, Thaler and Ravishankar 1998). All in int64, which wraps: the same on every device and after export.

Source: Hash Layers for Large Sparse Models, https://arxiv.org/abs/2106.04426; theirs hashes a token's id.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from .scorer import Scorer

__all__ = ["HashScorer"]

# The constants of splitmix64 as signed numbers.
_GOLDEN = 0x9E3779B97F4A7C15 - 2**64
_FIRST = 0xBF58476D1CE4E5B9 - 2**64
_SECOND = 0x94D049BB133111EB - 2**64


class HashScorer(Scorer):
    """Pseudo-random scores in [0, 1) of the bits of each query.

    Args:
        inputs: D.
        experts: logits that the selection rule takes.
        pool: experts of the pool that are hashed; `experts` if None.
    """

    kind: ClassVar[str] = "hash"
    unsupported: ClassVar[Mapping[str, str]] = {
        "onnx": "a hash router reads the bits of its features, which ONNX cannot; export it as pt2"
    }
    multipliers: Tensor

    def __init__(self, inputs: int, experts: int, pool: int | None = None) -> None:
        super().__init__(inputs, experts)
        self.pool = experts if pool is None else pool
        self.register_buffer("multipliers", torch.ones(inputs, dtype=torch.int64))
        # A logit is the largest of the hashes times these: an expert's own, or the best of its group.
        # Not `torch.eye`: on the meta device, where files are checked, it imports torch.compile for seconds.
        self.lift = nn.Parameter(torch.zeros(self.pool, experts).fill_diagonal_(1.0), requires_grad=False)

    def draw(self, seed: int) -> None:
        """Draw the multipliers: odd int64 numbers."""
        generator = torch.Generator().manual_seed(seed)
        drawn = torch.randint(-(2**62), 2**62, (self.inputs,), generator=generator)
        self.multipliers.copy_(2 * drawn + 1)

    def forward(self, x: Tensor) -> Tensor:
        """Logits [T, experts] float32 of inputs [T, D]."""
        x = x.float()
        bits = torch.where(x == 0, 0.0, x).view(torch.int32).long()
        key = (bits * self.multipliers).sum(dim=-1, keepdim=True)
        number = torch.arange(1, self.pool + 1, device=x.device)
        score = _shifted(_mix(key + number * _GOLDEN), 40).float() / 2**24  # 24 bits: exact in float32
        return (score.unsqueeze(-1) * self.lift).amax(dim=1)

    def spec(self) -> dict[str, Any]:
        """The scorer's shape as JSON."""
        return {"kind": self.kind, "inputs": self.inputs, "experts": self.experts, "pool": self.pool}


def _mix(key: Tensor) -> Tensor:
    """splitmix64's finaliser of int64 keys: every bit of the result depends on every bit of the key."""
    key = (key ^ _shifted(key, 30)) * _FIRST
    key = (key ^ _shifted(key, 27)) * _SECOND
    return key ^ _shifted(key, 31)


def _shifted(key: Tensor, bits: int) -> Tensor:
    """Shift right, filling with zeros; int64 alone would fill with the sign."""
    return (key >> bits) & ((1 << (64 - bits)) - 1)
