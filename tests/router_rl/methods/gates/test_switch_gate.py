"""The Switch gate's loss and capacity, by hand."""

from __future__ import annotations

import math

import pytest
import torch

from router_rl.methods.gates.switch_gate import switch_loss, within_capacity


def test_loss_by_hand() -> None:
    # One expert with p = .5 and P = (.8, .2): logits .5 log P, so softmax is sqrt(P) normalised.
    gate, experts = torch.tensor([[0.5]]), torch.tensor([[0]])
    probabilities = torch.tensor([[[0.8, 0.2], [0.0, 1.0]]])
    root = [math.sqrt(0.8005), math.sqrt(0.2005)]  # with the floor of 1e-3 / 2
    found = switch_loss(gate, probabilities, experts, torch.tensor([0]))
    assert float(found) == pytest.approx(-math.log(root[0] / sum(root)), rel=1e-5)


@pytest.mark.parametrize(("label", "sign"), [(0, -1), (1, 1)])
def test_the_gate_is_drawn_to_an_expert_that_is_right(label: int, sign: int) -> None:
    gate = torch.tensor([[0.5]], requires_grad=True)
    switch_loss(
        gate, torch.tensor([[[0.9, 0.1]]]), torch.tensor([[0]]), torch.tensor([label])
    ).sum().backward()
    assert math.copysign(1, float(gate.grad)) == sign


def test_a_dropped_query_teaches_nothing() -> None:
    gate = torch.tensor([[0.0]], requires_grad=True)
    loss = switch_loss(gate * 0.0, torch.tensor([[[0.9, 0.1]]]), torch.tensor([[0]]), torch.tensor([0]))
    assert float(loss.detach()) == pytest.approx(math.log(2))
    loss.sum().backward()
    assert float(gate.grad) == 0.0


def test_capacity_is_first_come_first_served() -> None:
    experts = torch.tensor([[0, 1], [0, 2], [0, 1], [2, 0]])
    # 8 choices, 4 experts, factor 1: two choices an expert
    expected = torch.tensor([[1.0, 1.0], [1.0, 1.0], [0.0, 1.0], [1.0, 0.0]])
    torch.testing.assert_close(within_capacity(experts, 4, 1.0), expected)
    assert within_capacity(experts, 4, 2.0).all()


@pytest.mark.parametrize("factor", [0.5, 1.0, 1.25, 3.0])
def test_capacity_is_never_exceeded(factor: float) -> None:
    experts = torch.randint(0, 5, (64, 2), generator=torch.Generator().manual_seed(1))
    taken = within_capacity(experts, 5, factor)
    counts = torch.zeros(5).scatter_add(0, experts.reshape(-1), taken.reshape(-1))
    assert counts.max() <= math.ceil(factor * 128 / 5)
