"""Credit of token-level REINFORCE: forward in time, over the other rollouts; and the loss it makes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from envs.token_moe import TokenMoECore
from experts.moe.token_pool import TokenPool
from router_rl.methods.token_moe import token_reinforce
from router_rl.methods.token_moe.token_reinforce import (
    TokenReinforceHyperparameters,
    later_layers,
    later_tokens,
    over_other_rollouts,
    train_reinforce,
)
from router_rl.methods.token_moe.token_training import Training
from router_rl.problems.token_moe.layer_routers import LayerRouters
from router_rl.routing import Hard

ROLLOUTS = 3


def test_a_choice_is_credited_with_later_layers_not_earlier_ones() -> None:
    reward = torch.tensor([[[1.0, 10.0]], [[2.0, 20.0]], [[4.0, 40.0]]])
    assert later_layers(reward).flatten().tolist() == [7.0, 70.0, 6.0, 60.0, 4.0, 40.0]


def test_a_choice_is_credited_with_later_tokens_not_earlier_ones() -> None:
    reward = torch.tensor([[[1.0, 2.0, 4.0]], [[8.0, 0.0, 0.0]]])  # tokens are the last axis
    assert later_tokens(reward, 0.5).tolist() == [[[3.0, 4.0, 4.0]], [[8.0, 0.0, 0.0]]]


def test_the_baseline_is_the_mean_of_the_other_rollouts() -> None:
    returns = torch.tensor([[[3.0, 1.0], [0.0, 1.0], [6.0, 1.0]]])
    assert over_other_rollouts(returns).tolist() == [[[0.0, 0.0], [-4.5, 0.0], [4.5, 0.0]]]


class _Step:
    """A step of a core that pays given rewards."""

    def __init__(self, reward: Tensor) -> None:
        self.parts = {"token_reward": reward}


def _loss(pool: TokenPool, monkeypatch: pytest.MonkeyPatch, entropy: float) -> dict[str, Any]:
    """One loss of the learner, with what it sampled and was paid at each layer."""
    tail = pool.tail
    start = LayerRouters(tail.depth, tail.hidden, Hard(), tail.names)
    with torch.no_grad():
        for parameter in start.parameters():
            parameter.normal_(generator=torch.Generator().manual_seed(1))
    kept: dict[str, Any] = {"rewards": [], "log_probs": [], "entropies": [], "start": start}
    step, rewards = TokenMoECore.step, torch.Generator().manual_seed(2)

    def paid(core: TokenMoECore, experts: Tensor) -> _Step:
        layer = len(kept["rewards"])
        z = start.logits(layer, core.observation()).log_softmax(dim=-1)
        kept["log_probs"].append(z.gather(-1, experts).squeeze(-1))
        kept["entropies"].append(-(z.exp() * z).sum(dim=-1).mean())
        own = step(core, experts).parts["token_reward"]
        kept["rewards"].append(torch.randn(own.shape, generator=rewards))
        return _Step(kept["rewards"][-1])

    def watch(pool: TokenPool, start: LayerRouters, training: Training, loss: Any, **_: Any) -> None:
        kept["loss"] = loss(start, torch.arange(2), torch.Generator().manual_seed(0))

    monkeypatch.setattr(TokenMoECore, "step", paid)
    monkeypatch.setattr(token_reinforce, "train", watch)
    settings = TokenReinforceHyperparameters(rollouts=ROLLOUTS, entropy=entropy)
    train_reinforce(pool, start, Training(), settings)
    return kept


def test_the_gradient_is_the_score_times_the_advantage_of_what_follows(
    micro_pool: TokenPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = _loss(micro_pool, monkeypatch, entropy=0.0)
    depth = len(kept["rewards"])
    rewards = torch.stack(kept["rewards"]).reshape(depth, ROLLOUTS, -1)
    score = torch.stack(kept["log_probs"]).reshape(depth, ROLLOUTS, -1)
    advantage = torch.zeros_like(rewards)
    for layer in range(depth):
        for rollout in range(ROLLOUTS):
            own = rewards[layer:, rollout].sum(dim=0)
            others = [rewards[layer:, other].sum(dim=0) for other in range(ROLLOUTS) if other != rollout]
            advantage[layer, rollout] = own - torch.stack(others).mean(dim=0)
    advantage = advantage / advantage.std()
    expected = -(score * advantage).sum(dim=0).mean()
    weights = list(kept["start"].parameters())
    found, slow = (torch.autograd.grad(value, weights) for value in (kept["loss"], expected))
    torch.testing.assert_close(found, slow, rtol=1e-4, atol=1e-6)


def test_the_entropy_bonus_lowers_the_loss(micro_pool: TokenPool, monkeypatch: pytest.MonkeyPatch) -> None:
    without = _loss(micro_pool, monkeypatch, entropy=0.0)["loss"]
    monkeypatch.undo()
    bonus = _loss(micro_pool, monkeypatch, entropy=0.5)
    torch.testing.assert_close(without - bonus["loss"], 0.5 * torch.stack(bonus["entropies"]).sum())
