"""PPO on tokens: critic, advantages and clipped loss, against obvious loops; and PPO of Stable-Baselines3."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge
from torch import Tensor

from envs.token_moe import TokenMoEConfig, TokenMoECore
from experts import InputError
from experts.moe.token_pool import TokenPool
from router_rl import TokenMoEProblem, compare
from router_rl.methods.method import Run
from router_rl.methods.registry import find_method
from router_rl.methods.token_moe import token_ppo
from router_rl.methods.token_moe.processes import Processes
from router_rl.methods.token_moe.token_ppo import (
    TokenPPOHyperparameters,
    TokenRollout,
    fitted_values,
    ppo_loss,
    roll_out,
    train_ppo,
)
from router_rl.methods.token_moe.token_sb3 import LONGEST
from router_rl.methods.token_moe.token_training import Training
from router_rl.problems.token_moe.layer_routers import LayerRouters
from router_rl.routing import Hard, Selection, TopK

TRAINING = Training(epochs=6, batch=3, checks=2)
SHORT: dict[str, Any] = {"length": 12, "train": 24, "validation": 8, "test": 8, "epochs": 1}


def routers_of(pool: TokenPool, rule: Selection | None = None, seed: int = 1) -> LayerRouters:
    routers = LayerRouters(pool.tail.depth, pool.tail.hidden, rule or Hard(), pool.tail.names)
    with torch.no_grad():
        for parameter in routers.parameters():
            parameter.normal_(std=0.3, generator=torch.Generator().manual_seed(seed))
    return routers


def test_a_rollout_replays_to_the_same_rewards_and_probabilities(micro_pool: TokenPool) -> None:
    routers, rows = routers_of(micro_pool), torch.tensor([0, 3, 3])
    config = TokenMoEConfig(compute_weight=0.1, load_weight=0.2)
    core = TokenMoECore(micro_pool.tail, micro_pool.parts["train"], config, len(rows))
    rollout = roll_out(core, routers, rows, torch.Generator().manual_seed(0))
    again = TokenMoECore(micro_pool.tail, micro_pool.parts["train"], config, len(rows))
    x = again.start(rows.unsqueeze(1))
    for layer in range(micro_pool.tail.depth):
        torch.testing.assert_close(rollout.x[layer], x.flatten(0, 1))
        experts = rollout.action[layer].reshape(3, -1, 1)
        expected = routers.logits(layer, x).log_softmax(dim=-1).gather(-1, experts)
        torch.testing.assert_close(rollout.log_prob[layer], expected.flatten())
        reward = again.step(experts).parts["token_reward"]
        torch.testing.assert_close(rollout.reward[layer], reward.flatten())
        x = again.observation()
    choices = rollout.action[0].reshape(3, -1)
    assert not torch.equal(choices[1], choices[2])  # two rollouts of one sequence draw their own noise


def test_the_critic_is_the_ridge_regression_of_each_layer() -> None:
    generator = torch.Generator().manual_seed(0)
    x, returns = torch.randn(2, 50, 4, generator=generator), torch.randn(2, 50, generator=generator)
    weight = fitted_values(x, returns)
    for layer in range(2):
        inputs = np.column_stack([x[layer].numpy(), np.ones(50)])  # the intercept is penalised, too
        slow = Ridge(alpha=1e-2 * 50, fit_intercept=False).fit(inputs, returns[layer].numpy())
        np.testing.assert_allclose(weight[layer], slow.coef_, atol=1e-5)


def test_advantages_are_generalised_over_the_layers_and_standardised() -> None:
    generator = torch.Generator().manual_seed(0)
    x, reward = torch.randn(3, 5, 2, generator=generator), torch.randn(3, 5, generator=generator)
    rollout = TokenRollout(x, torch.zeros(3, 5, dtype=torch.int64), torch.zeros(3, 5), reward)
    weight = torch.randn(3, 3, generator=generator)
    advantage, returns = token_ppo._advantages(rollout, weight, 0.5)
    value = [x[layer] @ weight[layer, :2] + weight[layer, 2] for layer in range(3)]
    last = reward[2] - value[2]
    middle = reward[1] + value[2] - value[1] + 0.5 * last
    first = reward[0] + value[1] - value[0] + 0.5 * middle
    slow = torch.stack([first, middle, last])
    torch.testing.assert_close(returns, slow + torch.stack(value))
    torch.testing.assert_close(advantage, (slow - slow.mean()) / slow.std())


def slow_loss(
    routers: LayerRouters, rollout: TokenRollout, advantage: Tensor, settings: TokenPPOHyperparameters
) -> Tensor:
    """The loss token by token."""
    total = torch.zeros(())
    count = rollout.x.shape[1]
    for layer in range(len(rollout.x)):
        for token in range(count):
            z = routers.logits(layer, rollout.x[layer, token]).log_softmax(dim=-1)
            ratio = (z[rollout.action[layer, token]] - rollout.log_prob[layer, token]).exp()
            a = advantage[layer, token]
            bounded = ratio.clamp(1 - settings.clip, 1 + settings.clip)
            total = total - torch.minimum(ratio * a, bounded * a) / count
            total = total + settings.entropy * (z.exp() * z).sum() / count
    return total


def test_the_loss_is_the_clipped_objective_and_the_entropy_bonus(micro_pool: TokenPool) -> None:
    before, routers = routers_of(micro_pool), routers_of(micro_pool, seed=2)
    core = TokenMoECore(micro_pool.tail, micro_pool.parts["train"], TokenMoEConfig(), 2)
    rollout = roll_out(core, before, torch.tensor([0, 3]), torch.Generator().manual_seed(0))
    advantage = torch.randn(rollout.reward.shape, generator=torch.Generator().manual_seed(3))
    settings = TokenPPOHyperparameters(entropy=0.3)
    weights = list(routers.parameters())
    fast, slow = (
        torch.autograd.grad(loss(routers, rollout, advantage, settings), weights)
        for loss in (ppo_loss, slow_loss)
    )
    torch.testing.assert_close(fast, slow, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("rule", [Hard(), TopK(k=2)])
def test_the_training_loss_falls(micro_pool: TokenPool, rule: Selection) -> None:
    seen = replace(micro_pool, parts={**micro_pool.parts, "validation": micro_pool.parts["train"]})
    start = LayerRouters(micro_pool.tail.depth, micro_pool.tail.hidden, rule, micro_pool.tail.names)
    training = Training(epochs=40, batch=6, checks=4, learning_rate=0.03)
    fit = train_ppo(seen, start, training, TokenPPOHyperparameters())
    assert fit.validation < fit.curve[0] - 0.1


def test_without_updates_of_the_critic_the_fit_differs(
    micro_pool: TokenPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    start, settings = routers_of(micro_pool), TokenPPOHyperparameters()
    whole = train_ppo(micro_pool, start, TRAINING, settings)
    monkeypatch.setattr(token_ppo, "fitted_values", lambda x, returns: torch.zeros(len(x), x.shape[2] + 1))
    without = train_ppo(micro_pool, start, TRAINING, settings)
    assert without.curve != whole.curve


def test_several_processes_are_refused(micro_pool: TokenPool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(token_ppo, "processes", lambda: Processes(rank=0, size=2))
    with pytest.raises(InputError, match="cannot be trained on 2 processes"):
        train_ppo(micro_pool, routers_of(micro_pool), TRAINING, TokenPPOHyperparameters())


def test_sb3_refuses_long_sequences_and_two_experts() -> None:
    method = find_method("token_moe", "ppo")
    long = method.refusal(TokenMoEProblem(**{**SHORT, "length": LONGEST + 1}))
    assert "at most 32 tokens, not 33" in str(long)
    assert "one expert per token" in str(method.refusal(TokenMoEProblem(**SHORT, experts_per_token=2)))
    assert method.refusal(TokenMoEProblem(**SHORT)) is None


def test_sb3_selects_the_experts_of_a_sequence_at_once() -> None:
    """The measured loss is that of the agent's own greedy actions in the environment."""
    problem, method = TokenMoEProblem(**SHORT), find_method("token_moe", "ppo")
    hyperparameters = method.hyperparameters(decisions=2_048, steps=8)
    snapshots: list[Any] = []
    policy = method.fit(problem, hyperparameters, Run(seed=0, callback=snapshots.append))
    assert [each.validation is not None for each in snapshots].count(True) == 4
    part = problem.pool.parts["test"]
    core = TokenMoECore(problem.pool.tail, part, TokenMoEConfig(), len(part))
    x = core.start(torch.arange(len(part)).unsqueeze(1))
    for layer in range(problem.pool.tail.depth):
        experts, weights = policy.choose(layer, x)
        assert experts.shape == weights.shape == (len(part), 12, 1)
        reward = core.step(experts).reward
        x = core.observation()
    expected = part.dense_loss.mean(axis=1) - reward.numpy()
    np.testing.assert_allclose(-problem.evaluate(policy, "test").utility, expected, atol=1e-5)


@pytest.mark.slow
def test_it_stands_in_a_comparison() -> None:
    problem = TokenMoEProblem(**SHORT)
    found = compare(problem, ["router_ppo"], seeds=2, n_trials=1).results
    mean = {row["method"]: row["utility_mean"] for row in found["summary"]}
    assert mean["router_ppo"] > mean["random"]
