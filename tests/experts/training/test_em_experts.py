"""The M-steps of experts: exact ones by hand, a network's never downhill."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import nn

from experts.training import LinearGaussianExpert, LogisticExpert, NetworkExpert


def test_weighted_least_squares_by_hand():
    # Weights 1, 1, 2 at x = 0, 1, 2, y = 0, 2, 2: means 5/4 and 3/2, so the slope is
    # (2 + 2 * 4 - 4 * 15/8) / (1 + 2 * 4 - 4 * 25/16) = 2.5 / 2.75.
    x = torch.tensor([[0.0], [1.0], [2.0]], dtype=torch.float64)
    y = torch.tensor([[0.0], [2.0], [2.0]], dtype=torch.float64)
    weight = torch.tensor([1.0, 1.0, 2.0], dtype=torch.float64)
    expert = LinearGaussianExpert(1)
    expert.maximise(x, y, weight)
    slope = 2.5 / 2.75
    intercept = 1.5 - slope * 1.25
    assert expert.weights.tolist()[0] == pytest.approx([slope, intercept])
    residuals = [0 - intercept, 2 - slope - intercept, 2 - 2 * slope - intercept]
    variance = (residuals[0] ** 2 + residuals[1] ** 2 + 2 * residuals[2] ** 2) / 4
    assert expert.variance == pytest.approx(variance)
    expected = -0.5 * (residuals[0] ** 2 / variance + math.log(2 * math.pi * variance))
    assert float(expert.log_likelihood(x, y)[0]) == pytest.approx(expected)


def test_an_expert_responsible_for_nothing_stays_as_it_is():
    x, y = torch.ones(3, 2, dtype=torch.float64), torch.ones(3, 1, dtype=torch.float64)
    expert = LinearGaussianExpert(2)
    expert.maximise(x, y, torch.zeros(3, dtype=torch.float64))
    assert (expert.weights == 0).all()
    assert expert.variance == 1.0
    classifier = LogisticExpert(2, 3)
    classifier.maximise(x, torch.tensor([0, 1, 2]), torch.zeros(3, dtype=torch.float64))
    assert (classifier.weights == 0).all()


def test_a_single_row_leaves_the_min_variance():
    expert = LinearGaussianExpert(1, min_variance=1e-4)
    expert.maximise(
        torch.ones(2, 1, dtype=torch.float64),
        torch.tensor([[5.0], [9.0]], dtype=torch.float64),
        torch.tensor([1.0, 0.0], dtype=torch.float64),
    )
    assert expert.variance == 1e-4


@pytest.mark.parametrize("learning_rate", [1e-2, 10.0])
def test_a_networks_step_never_lowers_its_objective(learning_rate):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(80, 3, generator=generator, dtype=torch.float64)
    y = (x[:, 0] > 0).long()
    weight = torch.rand(80, generator=generator, dtype=torch.float64)
    torch.manual_seed(0)
    expert = NetworkExpert(nn.Linear(3, 2), learning_rate=learning_rate, ridge=0.1)
    found = []
    for _ in range(12):
        expert.maximise(x, y, weight)
        found.append(float((weight * expert.log_likelihood(x, y)).sum()) - expert.penalty())
    assert all(b >= a for a, b in itertools.pairwise(found))
    assert found[-1] > found[0]
