"""Selection from precomputed logits, for the two-launch baseline of `gpu.py`. Needs triton."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from router_rl.routing.kernels import GateRule
from router_rl.routing.kernels.triton_kernels import _expert_of, _select
from router_rl.routing.kernels.triton_path import shape_of

__all__ = ["select"]


@triton.jit
def select_kernel(
    logits, correction, weights_out, experts_out, fallback_out, rows, scale, FALLBACK: tl.constexpr,
    E: tl.constexpr, K: tl.constexpr, KP: tl.constexpr, G: tl.constexpr, GP: tl.constexpr, SP: tl.constexpr,
    KEPT: tl.constexpr, JUDGED: tl.constexpr, SIGMOID: tl.constexpr, RENORMALISE: tl.constexpr,
    CORRECTED: tl.constexpr, BT: tl.constexpr, EP: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0) * BT + tl.arange(0, BT)
    column = tl.arange(0, EP)
    ids, exists = _expert_of(column, E, G, SP)
    cell = row.to(tl.int64)[:, None] * E + ids[None, :]
    z = tl.load(logits + cell, mask=(row < rows)[:, None] & exists[None, :], other=0.0)
    _select(
        z, row, rows, column, ids, exists, correction, correction, weights_out, experts_out, logits,
        fallback_out, scale, FALLBACK, E, K, KP, G, GP, SP, KEPT, JUDGED, SIGMOID, RENORMALISE, CORRECTED,
        False, False, BT, EP,
    )  # fmt: skip


def select(logits: Tensor, correction: Tensor | None, rule: GateRule) -> tuple[Tensor, Tensor, Tensor]:
    """Weights [T, k] float32, experts [T, k] int32 and fallback [T] uint8 of logits [T, E] float32."""
    T, E = logits.shape
    weights = logits.new_empty((T, rule.k))
    experts = logits.new_empty((T, rule.k), dtype=torch.int32)
    fallback = logits.new_empty((T,), dtype=torch.uint8)
    shape = shape_of(T, torch.bfloat16, torch.bfloat16, E, rule)
    names = set(select_kernel.arg_names)
    constants = {name: value for name, value in shape.constants.items() if name in names}
    constants |= {"BT": max(1, 2048 // shape.padded), "CORRECTED": correction is not None}
    select_kernel[(triton.cdiv(T, constants["BT"]),)](
        logits, logits if correction is None else correction, weights, experts, fallback, T, rule.scale,
        **constants, num_warps=4,
    )  # fmt: skip
    return weights, experts, fallback
