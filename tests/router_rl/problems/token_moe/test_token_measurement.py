"""Measures of layer routers, worked by hand."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from experts.moe.token_pool import TokenPool
from router_rl.problems.token_moe.token_measurement import flips


def test_flips_are_a_share_of_the_first_choices(micro_pool: TokenPool) -> None:
    """The sign of an input decides, and only inputs above 0 are disturbed."""
    seen: list[Tensor] = []

    def choose(layer: int, x: Tensor) -> tuple[Tensor, Tensor]:
        experts = (x[..., :1] > 0).long()
        return experts, torch.ones(experts.shape)

    def disturb(x: Tensor) -> Tensor:
        seen.append(x[..., 0].flatten())
        return -x.abs()

    found = flips(micro_pool.tail, micro_pool.parts["test"], choose, disturb, batch=4)
    changed = torch.cat(seen) > 0
    assert len(changed) == 2 * 6 * 10  # layers, sequences, tokens
    assert 0.1 < float(changed.double().mean()) < 0.9
    assert found == pytest.approx(float(changed.double().mean()))
