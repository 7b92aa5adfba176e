"""REINFORCE over whole paths through the layers, with forward passes only.

Experts can be black boxes, quantized or remote. The baseline is the mean of the other rollouts of the same
sequences (leave one out; Kool et al. 2019, https://openreview.net/forum?id=r1lgTGL5DE). A choice at a layer
is credited with the reward of its token from that layer on and, through attention, with a discounted part of
the reward of later tokens. Experts run without gradients: only the routers' linear maps are differentiated.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from envs.token_moe import TokenMoEConfig, TokenMoECore
from experts.moe.token_pool import TokenPool

from ...problems.token_moe.layer_routers import LayerRouters
from ...routing import AdaptiveK
from .processes import processes
from .token_training import Fit, Training, train

__all__ = [
    "TokenReinforceHyperparameters",
    "later_layers",
    "later_tokens",
    "over_other_rollouts",
    "train_reinforce",
]


@dataclass(frozen=True, kw_only=True)
class TokenReinforceHyperparameters:
    """Hyperparameters of REINFORCE.

    Attributes:
        rollouts: rollouts per sequence, at least 2.
        discount: discount per token of the rewards of following tokens; 0 for a token's own reward only.
        entropy: entropy bonus, nats per nat.
    """

    rollouts: int = 4
    discount: float = 0.0
    entropy: float = 3e-3


def train_reinforce(
    pool: TokenPool,
    start: LayerRouters,
    training: Training,
    settings: TokenReinforceHyperparameters,
    config: TokenMoEConfig | None = None,
    *,
    score: Callable[[LayerRouters], float] | None = None,
) -> Fit:
    """Train routers by REINFORCE in `RouterRL/TokenMoE-v0`.

    Args:
        pool: frozen experts and text.
        start: routers to start from; their rule samples the actions.
        training: options of the training loop.
        settings: hyperparameters.
        config: penalties of the environment; `k` and `choose` follow the rule.
        score: validation score, lower is better; the mean loss if None.
    """
    choose = "some" if isinstance(start.rule, AdaptiveK) else "experts"
    config = replace(config or TokenMoEConfig(), k=start.rule.k, choose=choose)
    group, copies, several = config.sequences, settings.rollouts, processes()
    several.refuse("sequences", group, (1,))
    several.check(len(pool.parts["train"]), training.batch)
    core: list[TokenMoECore] = []

    def loss(routers: LayerRouters, rows: Tensor, generator: torch.Generator) -> Tensor:
        lanes = len(rows) // group
        if not core or core[0].lanes != lanes * copies:
            core[:] = [TokenMoECore(pool.tail, pool.parts["train"], config, lanes * copies)]
        x = core[0].start(rows[: lanes * group].reshape(lanes, group).repeat(copies, 1))
        every = torch.arange(int(several.total(torch.tensor(lanes))))  # the lanes of all processes
        log_probs: list[Tensor] = []
        rewards: list[Tensor] = []
        entropy = torch.zeros(())
        for layer in range(pool.tail.depth):
            z, rule = routers.logits(layer, x), routers.rules[layer]
            noise = rule.draw_noise((copies * len(every), *z.shape[1:]), generator)
            own = noise.unflatten(0, (copies, -1))[:, several.own(every)].reshape(z.shape)
            action = rule.sample(z.detach(), own)
            log_probs.append(rule.log_prob(z, action))
            entropy = entropy + rule.entropy(z).mean()
            selected = rule.choice(z.detach(), action)
            core[0].weigh = lambda layer, x, experts, weights=selected.weights: weights
            rewards.append(core[0].step(selected.experts).parts["token_reward"])
            x = core[0].observation()
        to_go = later_layers(torch.stack(rewards))  # [L, R B, M]
        to_go = later_tokens(to_go.reshape(*to_go.shape[:2], group, -1), settings.discount).flatten(2)
        advantage = over_other_rollouts(to_go.reshape(len(rewards), copies, lanes, -1))
        advantage = advantage / several.std(advantage).clamp(min=1e-6)
        score = torch.stack(log_probs).reshape(advantage.shape)
        return -(score * advantage).mean() * len(rewards) - settings.entropy * entropy

    return train(pool, start, training, loss, score=score)


def later_layers(reward: Tensor) -> Tensor:
    """Return sums of the rewards from each layer on, `G_l = r_l + G_{l+1}`, [L, ...] float.

    >>> later_layers(torch.tensor([1.0, 2.0, 4.0]))
    tensor([7., 6., 4.])
    """
    return reward.flip(0).cumsum(0).flip(0)


def over_other_rollouts(returns: Tensor) -> Tensor:
    """Return the advantage over the mean of the other rollouts of the same sequences, [L, R, ...] float.

    Args:
        returns: [L, R, ...] float, R rollouts, at least 2.

    >>> over_other_rollouts(torch.tensor([[3.0, 0.0, 6.0]]))
    tensor([[ 0.0000, -4.5000,  4.5000]])
    """
    others = (returns.sum(dim=1, keepdim=True) - returns) / (returns.shape[1] - 1)
    return returns - others


def later_tokens(reward: Tensor, discount: float) -> Tensor:
    """Return discounted sums of following rewards, `G_t = r_t + discount * G_{t+1}`, [..., T] float.

    >>> later_tokens(torch.tensor([1.0, 2.0, 4.0]), 0.5)
    tensor([3., 4., 4.])
    """
    if not discount:
        return reward
    total = reward.clone()
    for position in range(reward.shape[-1] - 2, -1, -1):
        total[..., position] += discount * total[..., position + 1]
    return total
