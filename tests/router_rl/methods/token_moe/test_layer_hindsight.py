"""The hindsight route: against a slow twin that runs every candidate from the first layer."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from experts.moe.token_pool import TokenPool
from router_rl import TokenMoEProblem
from router_rl.methods.registry import find_method
from router_rl.methods.token_moe.layer_hindsight import layer_hindsight


def full_pass(pool: TokenPool, part: str, row: int, route: Tensor) -> Tensor:
    """The losses [T] of one sequence with a route [L, T]."""
    sequences, rows = pool.parts[part], torch.tensor([row])

    def choose(layer: int, x: Tensor) -> tuple[Tensor, Tensor]:
        return route[layer].reshape(1, -1, 1), torch.ones(1, x.shape[1], 1)

    with torch.no_grad():
        hidden = pool.tail(sequences.states(rows), choose)
        return pool.tail.loss(hidden, sequences.targets(rows))[0]


def slow_twin(pool: TokenPool, part: str, row: int) -> tuple[Tensor, Tensor]:
    """The losses [T] of the first route and of the last."""
    route = torch.from_numpy(pool.parts[part].path_loss[row]).argmin(dim=0).repeat(pool.tail.depth, 1)
    begun = loss = full_pass(pool, part, row, route)
    for layer in range(pool.tail.depth):
        tried = []
        for expert in range(pool.tail.experts):
            candidate = route.clone()
            candidate[layer] = expert
            tried.append(full_pass(pool, part, row, candidate).tolist())
        new = route.clone()
        for token in range(len(loss)):
            new[layer, token] = min(range(pool.tail.experts), key=lambda expert: tried[expert][token])
        if full_pass(pool, part, row, new).mean() < loss.mean():
            route, loss = new, full_pass(pool, part, row, new)
    return begun, loss


def test_it_equals_the_slow_twin_and_is_never_worse_than_the_best_path(micro_pool: TokenPool) -> None:
    better = 0
    for part in ("train", "validation", "test"):
        found = layer_hindsight(micro_pool, part, batch=4)
        for row in range(len(found)):
            begun, loss = slow_twin(micro_pool, part, row)
            np.testing.assert_allclose(found[row], loss.numpy(), atol=2e-4)
            assert found[row].mean() <= begun.mean() + 1e-5
            better += int(found[row].mean() < begun.mean() - 1e-4)
    assert better  # routes that change between layers are found


def test_it_is_a_bound_of_text_with_measured_paths() -> None:
    bound = find_method("token_moe", "layer_oracle")
    text = TokenMoEProblem(length=10, train=8, validation=4, test=4)
    assert bound.refusal(text) is None
    found = bound.measure(text, text.case, "test").utility  # type: ignore[union-attr]
    assert found.mean() == pytest.approx(-layer_hindsight(text.pool, "test").mean(), abs=1e-6)
    answers = TokenMoEProblem(pool="answers", train=6, validation=6, test=6)
    assert "right answers" in str(bound.refusal(answers))
    tree = TokenMoEProblem(length=10, train=8, validation=4, test=4, select="hierarchical")
    assert "hierarchical" in str(bound.refusal(tree))
