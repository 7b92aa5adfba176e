"""GRPO of routers: advantages, clipping, replay of routes, and learning with frozen experts."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from experts.moe.decoding import generate, greedy
from experts.moe.frozen_base import Base
from experts.moe.padding import Prompts
from experts.moe.token_pool import Problems, TokenPool
from router_rl.methods.token_moe.answer_bounds import constant
from router_rl.methods.token_moe.answer_learners import wrong_share
from router_rl.methods.token_moe.answer_rollouts import Routed, roll_out, routed
from router_rl.methods.token_moe.grpo import (
    GrpoHyperparameters,
    clipped,
    group_advantages,
    kl_to,
    replay_loss,
    train_grpo,
)
from router_rl.methods.token_moe.token_training import Training
from router_rl.problems.token_moe.layer_routers import LayerRouters
from router_rl.problems.token_moe.token_answers import answer, prompts_of
from router_rl.routing import Hard, Selection, TopK

ANSWER = 3


@pytest.fixture(scope="module")
def pool(micro_pool: TokenPool) -> TokenPool:
    """Return the micro pool with problems that its second expert answers right, whatever their domain."""
    prompts = torch.cat([torch.from_numpy(part.tokens[:, :-ANSWER]) for part in micro_pool.parts.values()])
    answers = generate(micro_pool.base, micro_pool.tail, Prompts(prompts), ANSWER, constant(1))
    right = {tuple(prompt): tokens for prompt, tokens in zip(prompts.tolist(), answers, strict=True)}

    def verify(prompts: Tensor, answers: Tensor) -> Tensor:
        wanted = torch.stack([right[tuple(prompt)] for prompt in prompts.tolist()])
        return (answers == wanted).all(dim=1).float()

    return replace(micro_pool, problems=Problems(answer=ANSWER, verify=verify))


def routers_of(pool: TokenPool, seed: int, rule: Selection | None = None, scale: float = 1.0) -> LayerRouters:
    made = LayerRouters(pool.tail.depth, pool.tail.hidden, rule or Hard(), pool.tail.names)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.normal_(std=scale, generator=torch.Generator().manual_seed(seed))
    return made


def rolled(pool: TokenPool, routers: LayerRouters, seed: int = 0) -> Routed:
    rows = torch.arange(6).repeat_interleave(2)
    prompts = prompts_of(pool, pool.parts["train"], rows)
    return routed(pool, routers, prompts, greedy, torch.Generator().manual_seed(seed))


def test_advantages_are_standardised_within_a_prompt() -> None:
    found = group_advantages(torch.tensor([[2.0, 0.0, 1.0], [5.0, 5.0, 5.0]]))
    torch.testing.assert_close(found[0], torch.tensor([1.0, -1.0, 0.0]) * 1.5**0.5)
    assert found[1].tolist() == [0.0, 0.0, 0.0]


@pytest.mark.parametrize(
    ("ratio", "advantage", "value", "slope"),
    [
        (1.1, 1.0, 1.1, 1.1),  # inside: the gradient of the ratio
        (1.5, 1.0, 1.2, 0.0),  # a good choice is already likely enough
        (0.5, 1.0, 0.5, 0.5),
        (0.5, -1.0, -0.8, 0.0),  # a bad choice is already unlikely enough
        (1.5, -1.0, -1.5, -1.5),
    ],
)
def test_the_objective_is_clipped(ratio: float, advantage: float, value: float, slope: float) -> None:
    log_prob = torch.tensor(ratio).log().requires_grad_(True)
    found = clipped(log_prob, torch.tensor(0.0), torch.tensor(advantage))
    found.backward()
    assert found.item() == pytest.approx(value)
    assert log_prob.grad is not None
    assert log_prob.grad.item() == pytest.approx(slope)


def test_the_divergence_is_that_of_torch() -> None:
    generator = torch.Generator().manual_seed(0)
    z, start = torch.randn(2, 5, 4, generator=generator)
    expected = torch.nn.functional.kl_div(
        start.log_softmax(-1), z.log_softmax(-1), log_target=True, reduction="none"
    ).sum(-1)
    torch.testing.assert_close(kl_to(z, start), expected)
    assert float(kl_to(z, z).abs().max()) < 1e-6


@pytest.mark.parametrize("rule", [Hard(), TopK(k=2)])
def test_replayed_routes_give_the_same_inputs_and_answers(pool: TokenPool, rule: Selection) -> None:
    """One pass over prompt and answer along the kept routes repeats what was done token by token."""
    routers = routers_of(pool, 1, rule)
    made = rolled(pool, routers)
    rows = torch.arange(6).repeat_interleave(2)
    text = torch.cat([prompts_of(pool, pool.parts["train"], rows).tokens, made.tokens], dim=1)

    def again(layer: int, x: Tensor) -> tuple[Tensor, Tensor]:
        torch.testing.assert_close(x, made.x[layer], atol=1e-4, rtol=1e-4)
        return made.experts[layer], rule.weigh(routers.logits(layer, x), made.actions[layer])

    with torch.no_grad():
        hidden = pool.tail(pool.base.trunk(text[:, :-1]), again)
        tokens = pool.tail.logits(hidden[:, -ANSWER:]).argmax(dim=-1)
    assert torch.equal(tokens, made.tokens)
    assert len(torch.unique(made.experts[0, :, -1])) > 1


def test_the_loss_is_the_policy_gradient_of_the_kept_choices(pool: TokenPool) -> None:
    """At the routers that made them, its gradient is that of `-A log pi`, summed choice by choice."""
    routers, anchor = routers_of(pool, 1), routers_of(pool, 2)
    made = rolled(pool, routers)
    advantage = torch.linspace(-1.0, 1.0, made.x.shape[1])
    old = [
        routers.rule.log_prob(routers.logits(k, x), made.actions[k]).detach() for k, x in enumerate(made.x)
    ]
    replay_loss(routers, anchor, made, old, advantage, kl=0.3).backward()
    fast = [parameter.grad.clone() for parameter in routers.parameters() if parameter.grad is not None]
    routers.zero_grad()
    total, choices = torch.zeros(()), 0
    for layer in range(made.x.shape[0]):
        for r in range(made.x.shape[1]):
            for t in range(made.x.shape[2]):
                z = routers.logits(layer, made.x[layer, r, t][None])[0].log_softmax(-1)
                q = anchor.logits(layer, made.x[layer, r, t][None])[0].log_softmax(-1).detach()
                chosen = int(made.experts[layer, r, t, 0])
                total = total - advantage[r] * z[chosen] + 0.3 * (z.exp() * (z - q)).sum()
                choices += 1
    (total / choices).backward()
    slow = [parameter.grad for parameter in routers.parameters() if parameter.grad is not None]
    assert len(fast) == len(slow) == 4
    for one, two in zip(fast, slow, strict=True):
        torch.testing.assert_close(one, two, atol=1e-6, rtol=1e-4)


def test_the_reward_is_right_answers_minus_weighted_compute_and_load(pool: TokenPool) -> None:
    routers, rows = routers_of(pool, 1), torch.arange(6)

    def made(**weights: float) -> Tensor:
        found = roll_out(pool, routers, rows, greedy, torch.Generator().manual_seed(0), weights)
        prompts = prompts_of(pool, pool.parts["train"], rows).tokens
        assert pool.problems is not None
        assert torch.equal(found.right, pool.problems.verify(prompts, found.routed.tokens))
        return found.reward - found.right

    assert made().tolist() == [0.0] * 6
    torch.testing.assert_close(made(compute=0.25), torch.full((6,), -0.25))  # one expert a token and layer
    found = roll_out(pool, routers, rows, greedy, torch.Generator().manual_seed(0), {})
    loads = []
    for layer in found.routed.experts.flatten(1):
        share = torch.bincount(layer, minlength=3) / len(layer)
        loads.append(3 * float(share.square().sum()) - 1)
    assert float(made(load=2.0).mean()) == pytest.approx(-2.0 * sum(loads) / len(loads), abs=1e-5)


@pytest.mark.parametrize(("rows", "read"), [([2, 2, 2, 0, 0, 0, 0, 0, 0], 3), ([1, 0, 1, 1], 4)])
def test_neighbours_of_one_prompt_share_its_pass_through_the_trunk(
    pool: TokenPool, monkeypatch: pytest.MonkeyPatch, rows: list[int], read: int
) -> None:
    routers, first, trunk = routers_of(pool, 1), list[int](), Base.trunk

    def watched(self: Base, tokens: Tensor, *others: Any, **named: Any) -> Tensor:
        first.append(len(tokens))
        return trunk(self, tokens, *others, **named)

    monkeypatch.setattr(Base, "trunk", watched)
    each = torch.tensor(rows, dtype=torch.int64)
    made = roll_out(pool, routers, each, greedy, torch.Generator().manual_seed(0), {})
    assert first[0] == read
    prompts, generator = prompts_of(pool, pool.parts["train"], each), torch.Generator().manual_seed(0)
    wanted = routed(pool, routers, prompts, greedy, generator)
    torch.testing.assert_close(made.routed.x, wanted.x)
    assert torch.equal(made.routed.experts, wanted.experts)


def test_only_the_routers_learn_and_they_answer_more_right(pool: TokenPool) -> None:
    start = routers_of(pool, 3, scale=0.1)
    tail, base = pool.tail.fingerprint(), [p.clone() for p in pool.base.model.parameters()]
    first = [parameter.clone() for parameter in start.parameters()]
    score = wrong_share(pool, "train")
    settings = GrpoHyperparameters(prompts=6, group=16, iterations=12, updates=2, kl=0.0)
    fit = train_grpo(pool, start, Training(checks=4), settings, score)
    assert fit.validation <= score(start) - 0.3
    assert score(fit.routers) == fit.validation
    assert pool.tail.fingerprint() == tail
    assert all(torch.equal(a, b) for a, b in zip(base, pool.base.model.parameters(), strict=True))
    assert all(torch.equal(a, b) for a, b in zip(first, start.parameters(), strict=True))
    again = train_grpo(pool, start, Training(checks=4), settings, score)
    assert again.curve == fit.curve


def test_the_divergence_keeps_the_routers_near_their_start(pool: TokenPool) -> None:
    start = routers_of(pool, 3, scale=0.1)
    x = torch.cat([each.flatten(0, 1) for each in rolled(pool, start).x])

    def moved(kl: float) -> float:
        settings = GrpoHyperparameters(prompts=6, group=8, iterations=6, kl=kl)
        routers = train_grpo(
            pool, start, Training(checks=1), settings, lambda routers: 0.0 - kl_of(routers)
        ).routers
        return kl_of(routers)

    def kl_of(routers: LayerRouters) -> float:
        with torch.no_grad():
            return float(kl_to(routers.logits(0, x), start.logits(0, x)).mean())

    assert moved(100.0) < 0.2 * moved(0.0)


def test_answers_do_not_depend_on_the_batch(pool: TokenPool) -> None:
    routers = routers_of(pool, 1)
    part = pool.parts["test"]
    one, many = (answer(pool, part, routers.choose, batch=size) for size in (1, 128))
    assert torch.equal(one.tokens, many.tokens)
    assert one.share.sum(axis=1).tolist() == pytest.approx([1.0] * len(part))
    assert one.compute.tolist() == [1.0] * len(part)
