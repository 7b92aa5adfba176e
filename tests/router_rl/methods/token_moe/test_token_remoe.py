"""The ReMoE gate of tokens: what runs, how it starts, and how the penalty follows the sparsity."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from trained_on_processes import start_of

from experts.moe.token_pool import TokenPool
from router_rl.methods.token_moe import token_remoe
from router_rl.methods.token_moe.token_remoe import dense_stage, served, shares, train_remoe
from router_rl.methods.token_moe.token_training import Training
from router_rl.problems.token_moe.token_measurement import measure
from router_rl.routing import Hard

TRAINING = Training(learning_rate=3e-2, epochs=30, batch=3, checks=10)


def test_shares_by_hand() -> None:
    z = torch.tensor([[3.0, -1.0, 1.0], [-2.0, -1.0, -1.0]], requires_grad=True)
    found = shares(z)
    torch.testing.assert_close(found, torch.tensor([[0.75, 0.0, 0.25], [0.0, 1.0, 0.0]]))
    found[0, 0].backward()
    assert z.grad is not None
    # d(a / (a + b)) = b / (a + b)^2 and -a / (a + b)^2; an expert that does not run has no gradient.
    torch.testing.assert_close(z.grad[0], torch.tensor([1.0 / 16.0, 0.0, -3.0 / 16.0]))
    assert z.grad[1].eq(0.0).all()


def test_tokens_run_the_experts_of_positive_logit(micro_pool: TokenPool) -> None:
    routers = start_of(micro_pool, Hard())
    x = torch.randn(2, 5, micro_pool.tail.hidden)
    z = routers.logits(1, x)
    experts, weights = served(routers)(1, x)
    runs = experts < micro_pool.tail.experts
    assert runs.sum(dim=-1).equal((z > 0).sum(dim=-1).clamp(min=1))
    torch.testing.assert_close(weights.sum(dim=-1), torch.ones(2, 5))
    assert weights[~runs].eq(0.0).all()
    assert experts[..., 0].equal(z.argmax(dim=-1))


def test_the_dense_stage_runs_nearly_all_experts_in_the_order_of_the_start(micro_pool: TokenPool) -> None:
    tail, start = micro_pool.tail, start_of(micro_pool, Hard())
    routers = dense_stage(micro_pool, start)
    found = measure(tail, micro_pool.parts["train"], served(routers))
    assert found.compute > 2.5
    x = tail.attend(0, micro_pool.parts["train"].states(torch.arange(4)))[1]
    assert routers.logits(0, x).argsort(dim=-1).equal(start.logits(0, x).argsort(dim=-1))
    mean = float(routers.logits(0, x).detach().mean())
    assert mean == pytest.approx(1.0 / tail.experts, abs=0.1)


def test_it_learns_and_becomes_sparse(micro_pool: TokenPool) -> None:
    start = dense_stage(micro_pool, start_of(micro_pool, Hard()))
    fit = train_remoe(micro_pool, start, 1, TRAINING)
    before, after = (
        measure(micro_pool.tail, micro_pool.parts["train"], served(each)) for each in (start, fit.routers)
    )
    assert after.compute < 1.5 < before.compute
    assert after.loss.mean() < before.loss.mean() - 0.1


@pytest.mark.parametrize(("sparsity", "factor"), [(0.0, 1.2), (1.0, 1.0 / 1.2)])
def test_the_penalty_rises_where_too_many_experts_run(
    micro_pool: TokenPool, monkeypatch: pytest.MonkeyPatch, sparsity: float, factor: float
) -> None:
    coefficients: list[float] = []

    def one_step(pool: TokenPool, start: Any, training: Training, loss: Any, **given: Any) -> None:
        with torch.no_grad():
            for scorer in start.scorers:
                scorer.weight.zero_()
                scorer.bias.fill_(1.0 - 2.0 * sparsity)
        loss(start, torch.arange(3), torch.Generator())
        coefficients.append(float(given["moved"]["penalty"]))
        given["after"](start)
        coefficients.append(float(given["moved"]["penalty"]))

    monkeypatch.setattr(token_remoe, "train", one_step)
    train_remoe(micro_pool, start_of(micro_pool, Hard()), 1, TRAINING)
    assert coefficients[1] / coefficients[0] == pytest.approx(factor)


def test_the_penalty_is_weighted_by_load(micro_pool: TokenPool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two experts of three run on all tokens, with weights 1 and 3: f = (3, 3, 0) for k = 1."""
    values: list[float] = []

    def one_step(pool: TokenPool, start: Any, training: Training, loss: Any, **given: Any) -> None:
        with torch.no_grad():
            for scorer in start.scorers:
                scorer.weight.zero_()
                scorer.bias.copy_(torch.tensor([1.0, 3.0, -1.0]))
        for coefficient in (0.0, 1.0):
            given["moved"]["penalty"].fill_(coefficient)
            values.append(loss(start, torch.arange(3), torch.Generator()).item())

    monkeypatch.setattr(token_remoe, "train", one_step)
    train_remoe(micro_pool, start_of(micro_pool, Hard()), 1, TRAINING)
    assert values[1] - values[0] == pytest.approx(3.0 * 1.0 + 3.0 * 3.0, rel=1e-4)
