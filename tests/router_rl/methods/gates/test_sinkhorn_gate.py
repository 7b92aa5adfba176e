"""The Sinkhorn gate's plan: by hand, its margins, and its limits."""

from __future__ import annotations

import math

import pytest
import torch

from router_rl.methods.gates.sinkhorn_gate import transport_plan
from router_rl.routing.selection.topk import largest


def test_two_by_two_by_hand() -> None:
    # Scaling rows and columns keeps the cross ratio 8 * 2 / (1 * 1) = 16 = (s / (1 - s))^2, so s = 4/5.
    plan = transport_plan(torch.tensor([[8.0, 1.0], [1.0, 2.0]]).log(), 1.0, 50)
    torch.testing.assert_close(plan, torch.tensor([[0.8, 0.2], [0.2, 0.8]]))


def test_columns_are_normalized_before_rows() -> None:
    # Columns to 1: (8/9, 1/3), (1/9, 2/3). Then rows: 8/11 to 3/11 and 1/7 to 6/7.
    plan = transport_plan(torch.tensor([[8.0, 1.0], [1.0, 2.0]]).log(), 1.0, 1)
    torch.testing.assert_close(plan, torch.tensor([[8 / 11, 3 / 11], [1 / 7, 6 / 7]]))


@pytest.mark.parametrize(("rows", "count"), [(1, 3), (7, 7), (64, 5), (5, 1)])
def test_margins(rows: int, count: int) -> None:
    logits = torch.randn(rows, count, generator=torch.Generator().manual_seed(0))
    plan = transport_plan(logits, 1.0, 200)
    torch.testing.assert_close(plan.sum(dim=1), torch.ones(rows))
    torch.testing.assert_close(plan.sum(dim=0), torch.full((count,), rows / count), atol=1e-3, rtol=1e-3)


def test_a_cold_plan_is_the_balanced_assignment() -> None:
    # All prefer the first expert; the two that lose least by it go to the second.
    logits = torch.tensor([[3.0, 0.0], [3.0, 1.0], [3.0, 2.0], [3.0, 2.5]])
    plan = transport_plan(logits, 0.05, 300)
    assert largest(plan, 1).squeeze(1).tolist() == [0, 0, 1, 1]
    assert logits.argmax(dim=1).tolist() == [0, 0, 0, 0]


def test_one_experts_advantage_on_all_queries_does_not_move_the_plan() -> None:
    logits = torch.randn(20, 4, generator=torch.Generator().manual_seed(1))
    moved = logits + torch.tensor([5.0, 0.0, -3.0, 0.0])
    one, two = transport_plan(logits, 1.0, 300), transport_plan(moved, 1.0, 300)
    torch.testing.assert_close(one, two, atol=1e-4, rtol=1e-3)


def test_no_rows() -> None:
    assert transport_plan(torch.zeros(0, 3), 1.0, 5).shape == (0, 3)
    assert math.isfinite(float(transport_plan(1e4 * torch.randn(6, 3), 1.0, 5).sum()))
