"""A gate tuned on right answers: what is kept, and which loss trains it."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from experts.moe.token_pool import Problems, TokenPool
from router_rl.methods.token_moe.answer_learners import wrong_share
from router_rl.methods.token_moe.backprop import GATES
from router_rl.methods.token_moe.right_answers import (
    RightAnswersHyperparameters,
    answer_loss,
    right_answers,
    train_on_right_answers,
)
from router_rl.methods.token_moe.token_training import Training
from router_rl.problems.token_moe.layer_routers import LayerRouters
from router_rl.problems.token_moe.token_answers import prompts_of
from router_rl.routing import Hard

ANSWER = 2


def pool_with(pool: TokenPool, accepted: int) -> TokenPool:
    """Return a pool whose verifier accepts answers with a first token below a number."""

    def verify(prompts: Tensor, answers: Tensor) -> Tensor:
        return (answers[:, 0] < accepted).float()

    return replace(pool, problems=Problems(answer=ANSWER, verify=verify))


def even_routers(pool: TokenPool) -> LayerRouters:
    routers = LayerRouters(pool.tail.depth, pool.tail.hidden, Hard(), pool.tail.names)
    with torch.no_grad():
        for parameter in routers.parameters():
            parameter.normal_(std=0.1, generator=torch.Generator().manual_seed(1))
    return routers


def test_only_right_answers_are_kept_one_for_a_prompt(micro_pool: TokenPool) -> None:
    routers = even_routers(micro_pool)
    pool = pool_with(micro_pool, 12)
    found = right_answers(pool, routers, 8, seed=0, batch=4)
    assert 0 < len(found.targets) <= 6
    assert (found.targets[:, -ANSWER] < 12).all()
    assert (found.targets[:, -ANSWER:] >= 0).all()
    assert (found.targets[:, :-ANSWER] < 0).all()  # the prompts are not learned
    prompts = prompts_of(pool, pool.parts["train"], torch.arange(6)).tokens
    states = pool.base.trunk(prompts)
    same = [(states - row[: states.shape[1]]).abs().amax(dim=(1, 2)) < 1e-5 for row in found.hidden]
    kept = torch.stack(same)
    assert (kept.sum(dim=1) == 1).all()
    assert int(kept.any(dim=0).sum()) == len(kept)
    assert len(right_answers(pool_with(micro_pool, 0), routers, 2, seed=0).targets) == 0
    assert len(right_answers(pool_with(micro_pool, 23), routers, 2, seed=0).targets) == 6


@pytest.mark.parametrize("name", ["soft_gate", "straight_through"])
def test_the_loss_is_that_of_the_answers_alone(micro_pool: TokenPool, name: str) -> None:
    pool, routers = pool_with(micro_pool, 23), even_routers(micro_pool)
    part, tail, gate = pool.parts["train"], pool.tail, GATES[name]
    rows = torch.arange(6)
    hidden, targets = part.states(rows), part.targets(rows)

    def dense(layer: int, x: Tensor) -> tuple[Tensor, Tensor]:
        weights = gate.mixes(routers.logits(layer, x), torch.zeros(3))
        return torch.arange(3).expand(*x.shape[:-1], -1), weights

    expected = tail.loss(tail(hidden, dense), targets)[:, -ANSWER:].mean()
    targets[:, :-ANSWER] = -100
    found = answer_loss(pool, routers, gate, hidden, targets)
    torch.testing.assert_close(found, expected)
    found.backward()
    assert all(p.grad is not None and bool(p.grad.abs().max() > 0) for p in routers.parameters())


def test_only_the_gate_is_tuned(micro_pool: TokenPool) -> None:
    pool, start = pool_with(micro_pool, 12), even_routers(micro_pool)
    before, first = pool.tail.fingerprint(), [p.clone() for p in start.parameters()]
    score = wrong_share(pool, "train")
    settings = RightAnswersHyperparameters(learning_rate=0.1, rounds=2, epochs=6)
    fit = train_on_right_answers(pool, start, Training(batch=3, checks=2), settings, score)
    assert fit.validation == score(fit.routers) <= score(start)
    assert pool.tail.fingerprint() == before
    assert all(torch.equal(a, b) for a, b in zip(first, start.parameters(), strict=True))


def test_a_gate_that_finds_nothing_stays(micro_pool: TokenPool) -> None:
    pool, start = pool_with(micro_pool, 0), even_routers(micro_pool)
    settings = RightAnswersHyperparameters(soften=1.0, rounds=1)
    fit = train_on_right_answers(pool, start, Training(), settings, wrong_share(pool))
    assert fit.validation == 1.0
    assert all(torch.equal(a, b) for a, b in zip(fit.routers.parameters(), start.parameters(), strict=True))
