"""The loss that sparse gates share, by hand, and its helpers."""

from __future__ import annotations

import math

import pytest
import torch

from envs import Outcomes
from router_rl.methods.gates.mixture import answers, at, expected_loss, learning_k, squared_variation

QUALITY = torch.tensor([[1.0, 0.0], [0.4, 0.6]])
COMPUTE = torch.tensor([[0.1, 1.0], [0.1, 1.0]])
FEATURES = torch.zeros(2, 1)


def table(**more: torch.Tensor) -> Outcomes:
    return Outcomes(features=FEATURES, quality=QUALITY, compute=COMPUTE, **more)


def test_with_class_probabilities_by_hand() -> None:
    probabilities = torch.tensor([[[0.8, 0.2], [0.4, 0.6]], [[0.5, 0.5], [0.5, 0.5]]])
    outcomes = table(probabilities=probabilities, label=torch.tensor([0, 1]))
    loss = expected_loss(torch.tensor([[0.25, 0.75]]), outcomes, torch.tensor([0]), 2.0)
    # P(y) = .25 * .8 + .75 * .4 = .5 and a floor of .0005; compute .025 + .75, twice
    assert float(loss) == pytest.approx(-math.log(0.5005) + 2 * 0.775, rel=1e-6)


def test_without_them_quality_is_the_chance_of_being_right() -> None:
    probabilities, label = answers(table(), torch.tensor([1]))
    torch.testing.assert_close(probabilities, torch.tensor([[[0.4, 0.6], [0.6, 0.4]]]))
    assert label.tolist() == [0]
    loss = expected_loss(torch.tensor([[0.5, 0.0]]), table(), torch.tensor([1]), 0.0)
    # half on an expert right with .4, half on nobody, who guesses between two
    assert float(loss) == pytest.approx(-math.log(0.2 + 0.25 + 0.0005), rel=1e-6)


def test_it_is_not_the_expected_utility() -> None:
    logits = torch.tensor([[0.2, -0.1]], requires_grad=True)
    loss = expected_loss(logits.softmax(dim=-1), table(), torch.tensor([1]), 0.0)
    (gradient,) = torch.autograd.grad(loss, logits)
    (policy,) = torch.autograd.grad(-(logits.softmax(dim=-1) * QUALITY[1]).sum(), logits)
    assert not torch.allclose(gradient, policy, rtol=0.1)


def test_only_the_chosen_are_weighed_and_taught() -> None:
    values = torch.tensor([[0.5, 0.3, 0.2]], requires_grad=True)
    dense = at(values, torch.tensor([[1]]))
    assert dense.tolist() == [[0.0, pytest.approx(0.3), 0.0]]
    dense.sum().backward()
    assert values.grad.tolist() == [[0.0, 1.0, 0.0]]


def test_a_renormalising_gate_learns_with_two() -> None:
    assert [learning_k(k, 4) for k in (1, 2, 4)] == [2, 2, 4]
    assert learning_k(1, 1) == 1


def test_squared_variation_by_hand() -> None:
    # mean 2, variance (1 + 0 + 1) / 3
    assert float(squared_variation(torch.tensor([1.0, 2.0, 3.0]))) == pytest.approx(2 / 3 / 4)
    assert float(squared_variation(torch.zeros(3))) == 0.0
