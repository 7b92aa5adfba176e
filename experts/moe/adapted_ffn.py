"""A feed-forward network with several LoRA adapters, of which each token runs those that a router selected.

The base's matrices are kept once. An adapter e adds a product of two thin matrices to each of them:

    E_e(x) = down_e(silu(gate_e(x)) * up_e(x)),    each of the three: W x + scale B_e (A_e x)

which is the FFN with the merged weights `W + scale B_e A_e` (Hu et al. 2021, section 4.1,
https://arxiv.org/abs/2106.09685). The base's part of gate and up is computed once for all experts of a token.

Legend: T tokens, N adapters, H hidden size, I intermediate size, r rank, k experts per token.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["AdaptedFFN", "Factors"]

Factors = Mapping[str, "tuple[Tensor, Tensor]"]
"""The factors A [r, in] and scale B [out, r] of an adapter, by projection; one that it leaves is missing."""

_PARTS = ("gate_proj", "up_proj", "down_proj")


class AdaptedFFN(nn.Module):
    """The base's FFN with N adapters.

    Args:
        ffn: a transformers FFN with `gate_proj`, `up_proj`, `down_proj` and `act_fn`; not copied.
        adapters: the factors of each adapter.
    """

    def __init__(self, ffn: nn.Module, adapters: Sequence[Factors]) -> None:
        super().__init__()
        self.ffn = ffn
        self.count = len(adapters)
        for part in _PARTS:
            linear: Any = getattr(ffn, part)
            for expert, factors in enumerate(adapters):
                if part in factors:
                    first, second = (factor.to(linear.weight) for factor in factors[part])
                    self.register_buffer(f"{part}_{expert}_a", first)
                    self.register_buffer(f"{part}_{expert}_b", second)

    def forward(self, x: Tensor, experts: Tensor, weights: Tensor) -> Tensor:
        """Return `sum_j w_j E_{e_j}(x)`.

        Args:
            x: [T, H].
            experts: [T, k] int64; the id N stands for no expert.
            weights: [T, k] float.

        Returns:
            [T, H], in the dtype of x.
        """
        ffn: Any = self.ffn
        opened, raised = ffn.gate_proj(x), ffn.up_proj(x)
        flat, parts = experts.reshape(-1), weights.reshape(-1)
        mixed = torch.zeros_like(x)
        for expert in range(self.count):
            slots = (flat == expert).nonzero().squeeze(-1)
            if len(slots) == 0:
                continue
            rows = slots // experts.shape[-1]
            own = x[rows]
            inner = ffn.act_fn(opened[rows] + self._added("gate_proj", expert, own))
            inner = inner * (raised[rows] + self._added("up_proj", expert, own))
            out = ffn.down_proj(inner) + self._added("down_proj", expert, inner)
            mixed = mixed.index_add(0, rows, out * parts[slots].unsqueeze(-1).to(out.dtype))
        return mixed

    def _added(self, part: str, expert: int, x: Tensor) -> Tensor | float:
        """What an adapter adds to a projection of x [R, in]: [R, out], or 0."""
        first = getattr(self, f"{part}_{expert}_a", None)
        return 0.0 if first is None else F.linear(F.linear(x, first), getattr(self, f"{part}_{expert}_b"))
