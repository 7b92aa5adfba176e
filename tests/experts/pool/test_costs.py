from __future__ import annotations

import pytest
import torch
from torch import nn

from experts import InputError
from experts.pool.costs import profile


def test_a_perceptron_by_hand():
    found = profile(nn.Sequential(nn.Linear(64, 24), nn.ReLU(), nn.Linear(24, 10)), torch.zeros(7, 64))
    assert found.parameters == 64 * 24 + 24 + 24 * 10 + 10
    assert found.flops_per_item == 2 * (64 * 24 + 24 * 10)
    assert found.resident_bytes == 4 * found.parameters
    assert 0 < found.latency_s < 1


def test_a_convolution_by_hand():
    found = profile(nn.Conv2d(1, 8, 3, stride=2, padding=1), torch.zeros(2, 1, 28, 28))
    assert found.flops_per_item == 2 * 14 * 14 * 8 * 9


def test_buffers_are_resident_but_not_parameters():
    found = profile(nn.BatchNorm1d(5).eval(), torch.zeros(1, 5))
    assert found.parameters == 10
    assert found.resident_bytes == 4 * 20 + 8


@pytest.mark.parametrize("example", [torch.zeros(()), torch.zeros(0, 3)])
def test_an_empty_example_is_an_error(example):
    with pytest.raises(InputError, match="has no items"):
        profile(nn.Linear(3, 3), example)
