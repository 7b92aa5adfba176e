"""Measures of layer routers, worked by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from experts.moe.token_pool import TokenPool
from router_rl.problems.token_moe.token_measurement import Measured, flips


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


def test_tiles_are_compared_with_the_fewest_for_as_many_rows() -> None:
    """Twelve tokens of one batch: 5 and 7 rows are two tiles of 4 each, and three would hold them."""
    experts = np.array([0] * 5 + [1] * 7, dtype=np.int16).reshape(1, 4, 3, 1)
    found = Measured(loss=np.zeros((4, 3), dtype=np.float32), experts=experts, seconds=1.0, total=2)
    assert found.tiles(4, tile=4) == pytest.approx(4 / 3)
    order = np.random.default_rng(0).permutation(4)
    ratios = []
    for rows in (order[:2], order[2:]):
        first = int((experts[0, rows] == 0).sum())
        ratios.append((-(-first // 4) + -(-(6 - first) // 4)) / 2)
    assert found.tiles(2, tile=4) == pytest.approx(np.mean(ratios))
