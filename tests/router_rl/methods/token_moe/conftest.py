"""A pool whose experts can be cut into segments without a change of their outputs."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch

from experts.moe.expert_ffn import PARTS
from experts.moe.frozen_base import Base
from experts.moe.tail import Tail
from experts.moe.token_pool import TokenPool


@pytest.fixture(scope="session")
def wide_pool(micro_pool: TokenPool) -> TokenPool:
    """Return the micro pool with FFNs of 32 neurons, of which 12 are 0 in every expert.

    Four segments divide the FFNs, and the shared segment consists of neurons that are 0.
    """
    base = micro_pool.base
    wide = copy.deepcopy(base.model)
    wide.config.intermediate_size = 32
    grown = {
        name: [_grown(micro_pool.tail, layer, expert) for layer in range(2)]
        for expert, name in enumerate(micro_pool.domains)
    }
    for layer in wide.model.layers:
        for part in PARTS:
            linear = getattr(layer.mlp, part)
            linear.weight = torch.nn.Parameter(_padded(linear.weight, part), requires_grad=False)
    roomy = Base(wide, 2, "wide")
    return replace(micro_pool, base=roomy, tail=roomy.tail(grown))


def _padded(weight: torch.Tensor, part: str) -> torch.Tensor:
    return torch.nn.functional.pad(weight, (0, 12) if part == "down_proj" else (0, 0, 0, 12))


def _grown(tail: Tail, layer: int, expert: int) -> dict[str, torch.Tensor]:
    return {part: _padded(weight, part) for part, weight in tail.ffn(layer, expert).weights().items()}
