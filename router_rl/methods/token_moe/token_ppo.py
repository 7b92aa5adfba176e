"""PPO of layer routers in `RouterRL/TokenMoE-v0`: one policy per layer, shared by all tokens, with a critic.

An update plays the layers once with sampled routes, and then takes several gradient steps on these choices.
The critic of a layer is linear in the gate's input, and is fitted to the returns by ridge regression after
each update, as the linear baseline of Duan et al. 2016 (https://arxiv.org/abs/1604.06778, section 4) is.
Experts run without gradients.

Source: Schulman et al. 2017, eq. 7, https://arxiv.org/abs/1707.06347; advantages: Schulman et al. 2016,
eq. 16, https://arxiv.org/abs/1506.02438. An episode is as long as the mixture is deep: nothing is discounted.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from envs.token_moe import TokenMoEConfig, TokenMoECore
from experts.moe.token_pool import TokenPool

from ...problems.token_moe.layer_routers import LayerRouters
from ..agents.env_rollout import advantages
from .grpo import clipped
from .processes import processes
from .token_training import Fit, Training, batches_of, mean_loss, take_steps

__all__ = ["TokenPPOHyperparameters", "TokenRollout", "fitted_values", "ppo_loss", "roll_out", "train_ppo"]

_RIDGE = 1e-2  # penalty of the critic, per row


@dataclass(frozen=True, kw_only=True)
class TokenPPOHyperparameters:
    """Hyperparameters of PPO on tokens.

    Attributes:
        rollouts: rollouts per sequence.
        updates: gradient steps on each rollout.
        trace: lambda of the advantages.
        clip: clip range of the probability ratio.
        entropy: entropy bonus, nats per nat.
    """

    rollouts: int = 4
    updates: int = 4
    trace: float = 0.95
    clip: float = 0.2
    entropy: float = 3e-3


class TokenRollout(NamedTuple):
    """Sampled choices of M tokens at L layers.

    Attributes:
        x: [L, M, H] float32, gate inputs.
        action: [L, M, ...] int64, as the selection rule samples them.
        log_prob: [L, M] float32, under the routers that made them.
        reward: [L, M] float32.
    """

    x: Tensor
    action: Tensor
    log_prob: Tensor
    reward: Tensor


def train_ppo(
    pool: TokenPool,
    start: LayerRouters,
    training: Training,
    settings: TokenPPOHyperparameters,
    config: TokenMoEConfig | None = None,
    score: Callable[[LayerRouters], float] | None = None,
) -> Fit:
    """Train routers by PPO.

    Args:
        pool: frozen experts and text.
        start: routers to start from; their rule samples the actions.
        training: options of the training loop; a step is one update.
        settings: hyperparameters.
        config: reward and action of the environment; `k` experts of each token and no price if None.
        score: validation score, lower is better; the mean loss if None.

    Raises:
        InputError: training runs on several processes.
    """
    processes().refuse("method", "router_ppo", ("reinforce",))
    routers, generator = start.copy(), torch.Generator().manual_seed(training.seed)
    batches = batches_of(pool, training, generator)
    config = config or TokenMoEConfig(k=start.rule.k)
    weight = torch.zeros(pool.tail.depth, pool.tail.hidden + 1)  # of the critic

    def step(number: int, optimizer: torch.optim.Optimizer) -> str:
        rows = batches[number - 1].repeat(settings.rollouts)
        core = TokenMoECore(pool.tail, pool.parts["train"], config, len(rows))
        rollout = roll_out(core, routers, rows, generator)
        advantage, returns = _advantages(rollout, weight, settings.trace)
        for _ in range(settings.updates):
            optimizer.zero_grad()
            ppo_loss(routers, rollout, advantage, settings).backward()
            optimizer.step()
        weight.copy_(fitted_values(rollout.x, returns))
        return "validation loss {:.4f} nats per token"

    score = score or mean_loss(pool)
    return take_steps(routers, training, len(batches), step, score, generator, moved={"critic": weight})


@torch.no_grad()
def roll_out(
    core: TokenMoECore, routers: LayerRouters, rows: Tensor, generator: torch.Generator
) -> TokenRollout:
    """Play the layers once on sequences rows [B] int64, one a lane."""
    x = core.start(rows.unsqueeze(1))
    steps: list[TokenRollout] = []
    for layer, rule in enumerate(routers.rules):
        z = routers.logits(layer, x)
        action = rule.sample(z, rule.draw_noise(z.shape, generator))
        selected = rule.choice(z, action)
        core.weigh = lambda layer, x, experts, weights=selected.weights: weights
        reward = core.step(selected.experts).parts["token_reward"]
        steps.append(TokenRollout(x, action, rule.log_prob(z, action), reward))
        x = core.observation()
    return TokenRollout(*(torch.stack(column).flatten(1, 2) for column in zip(*steps, strict=True)))


def ppo_loss(
    routers: LayerRouters, rollout: TokenRollout, advantage: Tensor, settings: TokenPPOHyperparameters
) -> Tensor:
    """Return minus the clipped objective and the entropy bonus, summed over layers, [] float32.

    Args:
        routers: to differentiate.
        rollout: their earlier choices.
        advantage: [L, M] float32.
        settings: clip range and entropy bonus.
    """
    loss = torch.zeros(())
    for layer, rule in enumerate(routers.rules):
        z = routers.logits(layer, rollout.x[layer])
        log_prob = rule.log_prob(z, rollout.action[layer])
        gain = clipped(log_prob, rollout.log_prob[layer], advantage[layer], settings.clip).mean()
        loss = loss - gain - settings.entropy * rule.entropy(z).mean()
    return loss


def fitted_values(x: Tensor, returns: Tensor) -> Tensor:
    """Return the weights [L, H + 1] float32 of each layer's critic, the intercept last (ridge regression).

    Args:
        x: [L, M, H] float32, gate inputs.
        returns: [L, M] float32.
    """
    inputs = _with_intercept(x).double()
    gram = inputs.transpose(1, 2) @ inputs
    gram = gram + _RIDGE * x.shape[1] * torch.eye(inputs.shape[-1], dtype=torch.float64)
    target = inputs.transpose(1, 2) @ returns.double().unsqueeze(-1)
    return torch.linalg.solve(gram, target).squeeze(-1).float()


def _advantages(rollout: TokenRollout, weight: Tensor, trace: float) -> tuple[Tensor, Tensor]:
    """Standardised advantages and returns, [L, M] each; the value after the last layer is 0."""
    value = (_with_intercept(rollout.x) * weight.unsqueeze(1)).sum(dim=-1)
    value = torch.cat([value, torch.zeros_like(value[:1])])
    last = torch.zeros_like(rollout.reward, dtype=torch.bool)
    last[-1] = True
    advantage, returns = advantages(rollout.reward, value, last, discount=1.0, trace=trace)
    return (advantage - advantage.mean()) / advantage.std().clamp(min=1e-6), returns


def _with_intercept(x: Tensor) -> Tensor:
    return torch.cat([x, torch.ones_like(x[..., :1])], dim=-1)
