"""Rounded experts, and the losses along their paths."""

from __future__ import annotations

import pytest
import torch

from experts import InputError
from experts.moe.quantise import quantised_pool, rounded
from experts.moe.token_pool import TokenPool


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_a_row_has_as_many_levels_as_its_bits_allow(bits):
    weight = torch.randn(5, 400, generator=torch.Generator().manual_seed(0))
    found = rounded(weight, bits)
    scale = weight.abs().amax(dim=1, keepdim=True) / (2 ** (bits - 1) - 1)
    levels = found / scale
    torch.testing.assert_close(levels, levels.round(), atol=1e-4, rtol=0)
    assert levels.abs().max() <= 2 ** (bits - 1) - 1 + 1e-4
    assert ((found - weight).abs() <= scale / 2 + 1e-6).all()
    torch.testing.assert_close(rounded(found, bits), found)  # nothing is left to round


def test_zero_rows_and_dtypes_stay():
    weight = torch.zeros(2, 3, dtype=torch.bfloat16)
    assert rounded(weight, 4).equal(weight)
    with pytest.raises(InputError, match="bits"):
        rounded(weight, 1)


def test_paths_are_those_of_the_rounded_experts(micro_pool: TokenPool):
    found = quantised_pool(micro_pool, 3, batch=2)
    assert found.name.endswith("3 bits")
    assert found.tail.up.equal(rounded(micro_pool.tail.up, 3))
    assert not found.tail.up.equal(micro_pool.tail.up)
    test = found.parts["test"]
    rows = torch.arange(len(test))
    slow = found.tail.loss(found.tail.along(test.states(rows), 1), test.targets(rows))
    torch.testing.assert_close(torch.from_numpy(test.path_loss[:, 1]), slow, atol=1e-5, rtol=0)
    assert not (test.path_loss == micro_pool.parts["test"].path_loss).all()
