"""The expert-choice gate: who takes what, by hand, and what a query nobody takes teaches."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from envs import Outcomes
from router_rl.methods.gates.mixture import expected_loss
from router_rl.routing.selection.expert_choice import taken

SHARE = torch.tensor([[0.9, 0.1], [0.6, 0.4], [0.7, 0.3], [0.2, 0.8]])


def test_by_hand() -> None:
    # Two queries an expert: rows 0 and 2 for the first, 3 and 1 for the second.
    assert taken(SHARE, 1.0).tolist() == [[1, 0], [0, 1], [1, 0], [0, 1]]
    # One query an expert: rows 1 and 2 are nobody's. Two experts a query: everybody takes everything.
    assert taken(SHARE, 0.5).tolist() == [[1, 0], [0, 0], [0, 0], [0, 1]]
    assert taken(SHARE, 2.0).all()
    assert taken(SHARE[:0], 1.0).shape == (0, 2)


@pytest.mark.parametrize("capacity", [0.5, 1.0, 1.3, 2.0])
def test_load_is_balanced_by_construction(capacity: float) -> None:
    share = torch.rand(37, 5, generator=torch.Generator().manual_seed(0))
    assert taken(share, capacity).sum(dim=0).tolist() == [math.ceil(37 * capacity / 5)] * 5


def test_loss_by_hand(table_of: Callable[[Tensor], Outcomes]) -> None:
    share = SHARE.clone().requires_grad_()
    outcomes = table_of(torch.tensor([[1.0, 0.0], [1.0, 0.0], [1.0, 0.0], [1.0, 0.0]]))
    mixing = share * taken(SHARE, 0.5)
    loss = expected_loss(mixing, outcomes, torch.arange(4), 0.0)
    # Row 0: .9 right and .1 * 1/2 of nobody; rows 1 and 2: nobody; row 3: .8 wrong and .2 * 1/2 of nobody.
    likelihood = [0.95, 0.5, 0.5, 0.1]
    expected = -sum(math.log(value + 0.0005) for value in likelihood) / 4
    assert float(loss.detach()) == pytest.approx(expected, rel=1e-5)
    loss.backward()
    assert share.grad[1].tolist() == [0.0, 0.0]
    assert share.grad[0, 0] < 0 < share.grad[3, 1]
