"""GRPO of the routers alone, on the verifier's reward for answers that the frozen experts generate.

A prompt is answered several times with sampled routes. The advantage of a generation is its reward relative
to the others of its prompt, and every choice of the generation has it. The loss replays the routes: it
scores the choices that earned the reward on the gates' inputs that they were made from. Experts are frozen,
so these inputs do not depend on the routers' update: no expert runs in the loss, forward or backward.

Source: Shao et al. 2024, https://arxiv.org/abs/2402.03300: eq. 3 (clipped objective), section 4.1.2 (outcome
advantages). Differences: the actions are experts, not tokens; the KL divergence to the starting routers is
exact (a sum over experts), where eq. 4 estimates it; a group without a difference has advantage 0. Routing
replay: Zheng et al. 2025, https://arxiv.org/abs/2507.18071, section 5.3.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Annotated

import torch
from torch import Tensor

from experts.io.value_range import Count, NonNegative, Positive, Range
from experts.moe.decoding import greedy, sampled
from experts.moe.token_pool import TokenPool

from ...problems.token_moe.layer_routers import LayerRouters
from ...routing import Hard
from ..hyperparameters import Hyperparameters
from .answer_rollouts import Routed, roll_out, softened
from .processes import Processes, processes
from .token_training import Fit, Training, take_steps

__all__ = [
    "GrpoHyperparameters",
    "clipped",
    "group_advantages",
    "kl_to",
    "replay_loss",
    "train_grpo",
]

_CLIP = 0.2


@dataclass(frozen=True, kw_only=True)
class GrpoHyperparameters(Hyperparameters):
    """Hyperparameters of GRPO.

    Attributes:
        learning_rate: of AdamW.
        group: generations of a prompt, at least 2.
        prompts: prompts per iteration.
        iterations: rollouts of a batch of prompts, each followed by updates.
        updates: gradient steps on each batch.
        kl: weight of the KL divergence to the starting routers, reward per nat.
        together: whether the choices of a generation share their noise, and so change together. A choice is
            then credited with the reward when similar choices are made everywhere; its probability is the
            same.
        soften: divides the starting routers' logits, for exploration; at least 1. With several experts per
            token it is not used, because their weights would change.
        temperature: of the answers' tokens in training; 0: greedy.
        compute_weight: reward per expert and token-layer, at least 0.
        load_weight: reward per unit of load, at least 0.
    """

    learning_rate: Positive = 1e-1
    group: Annotated[int, Range(2)] = 24
    prompts: Count = 8
    iterations: Count = 120
    updates: Count = 2
    kl: NonNegative = 1e-1
    together: bool = True
    soften: Annotated[float, Range(1.0)] = 4.0
    temperature: NonNegative = 0.0
    compute_weight: NonNegative = 0.0
    load_weight: NonNegative = 0.0


def group_advantages(reward: Tensor) -> Tensor:
    """Return the rewards of each prompt, centred and scaled by their standard deviation, [B, G] float32.

    Args:
        reward: [B, G] float, the G generations of B prompts.

    Returns:
        `(r_i - mean(r)) / std(r)`; 0 where all rewards of a prompt are equal.

    Source:
        Shao et al. 2024, section 4.1.2.

    >>> group_advantages(torch.tensor([[1.0, 0.0, 0.0, 1.0], [1.0, 1.0, 1.0, 1.0]]))
    tensor([[ 1., -1., -1.,  1.],
            [ 0.,  0.,  0.,  0.]])
    """
    centred = reward - reward.mean(dim=1, keepdim=True)
    scale = centred.square().mean(dim=1, keepdim=True).sqrt()
    return torch.where(scale > 1e-6, centred / scale.clamp(min=1e-6), torch.zeros_like(centred))


def clipped(log_prob: Tensor, old: Tensor, advantage: Tensor, clip: float = _CLIP) -> Tensor:
    """Return the clipped objective of each choice: `min(rho A, clip(rho, 1 - eps, 1 + eps) A)`.

    Args:
        log_prob: [...] float32, of the replayed choices under the routers.
        old: [...] float32, under the routers that made them.
        advantage: broadcasts to them.
        clip: eps.

    Source:
        Shao et al. 2024, eq. 3.
    """
    ratio = (log_prob - old).exp()
    return torch.minimum(ratio * advantage, ratio.clamp(1.0 - clip, 1.0 + clip) * advantage)


def kl_to(z: Tensor, start: Tensor) -> Tensor:
    """Return `KL(softmax(z) || softmax(start))` of logits [..., N], [...] float32, nats."""
    log_p, log_q = z.log_softmax(dim=-1), start.log_softmax(dim=-1)
    return (log_p.exp() * (log_p - log_q)).sum(dim=-1)


def train_grpo(
    pool: TokenPool,
    start: LayerRouters,
    training: Training,
    settings: GrpoHyperparameters,
    score: Callable[[LayerRouters], float],
) -> Fit:
    """Train routers on the rewards of generated answers.

    Args:
        pool: frozen experts, and problems.
        start: routers to start from, and to stay near.
        training: seed, number of validations, report and checkpoint; its other fields are not used.
        settings: hyperparameters.
        score: validation score, lower is better.
    """
    soften = settings.soften if isinstance(start.rule, Hard) else 1.0
    routers, anchor = softened(start, soften), softened(start, soften)
    generator = torch.Generator().manual_seed(training.seed)
    draw = sampled(generator, settings.temperature) if settings.temperature else greedy
    weights = {"compute": settings.compute_weight, "load": settings.load_weight}
    several = processes()
    several.refuse("method.temperature", settings.temperature, (0.0,))
    several.refuse("method.load_weight", settings.load_weight, (0.0,))
    several.refuse("method.together", settings.together, (True,))
    rows = _prompts(len(pool.parts["train"]), settings.prompts, settings.iterations, generator)

    def step(number: int, optimizer: torch.optim.Optimizer) -> str:
        each = several.own(rows[number - 1]).repeat_interleave(settings.group)
        among = None if several.size == 1 else _own_generations(several, settings)
        made = roll_out(
            pool, routers, each, draw, generator, weights, together=settings.together, among=among
        )
        advantage = group_advantages(made.reward.reshape(-1, settings.group)).flatten()
        old = [_log_prob(routers, layer, made.routed).detach() for layer in range(pool.tail.depth)]
        for _ in range(settings.updates):
            loss = replay_loss(routers, anchor, made.routed, old, advantage, settings.kl)
            optimizer.zero_grad()
            loss.backward()
            several.sum_gradients(routers, several.weight(made.routed.tokens_run))
            optimizer.step()
        return f"wrong on validation {{:.3f}}, right in training {made.right.mean():.3f}"

    training = replace(training, learning_rate=settings.learning_rate)
    return take_steps(routers, training, settings.iterations, step, score, generator)


def replay_loss(
    routers: LayerRouters,
    anchor: LayerRouters,
    made: Routed,
    old: list[Tensor],
    advantage: Tensor,
    kl: float,
) -> Tensor:
    """Return minus the mean objective of the replayed choices, plus the weighted KL divergence.

    Args:
        routers: to train.
        anchor: the starting routers.
        made: the generations.
        old: [R, T] float32 for each layer, log-probabilities of the choices when they were made.
        advantage: [R] float32.
        kl: weight of the divergence.
    """
    loss = torch.zeros(())
    for layer, x in enumerate(made.x):
        z = routers.logits(layer, x)
        log_prob = routers.rules[layer].log_prob(z, made.actions[layer])
        loss = loss - made.mean(clipped(log_prob, old[layer], advantage.unsqueeze(-1)))
        if kl:
            with torch.no_grad():
                first = anchor.logits(layer, x)
            loss = loss + kl * made.mean(kl_to(z, first))
    return loss / len(made.x)


def _own_generations(several: Processes, settings: GrpoHyperparameters) -> Tensor:
    """Which generations of a batch are this process's, [prompts * group] bool."""
    own = torch.zeros(settings.prompts, dtype=torch.bool)
    own[several.own(torch.arange(settings.prompts))] = True
    return own.repeat_interleave(settings.group)


def _log_prob(routers: LayerRouters, layer: int, made: Routed) -> Tensor:
    z = routers.logits(layer, made.x[layer])
    return routers.rules[layer].log_prob(z, made.actions[layer])


def _prompts(count: int, batch: int, steps: int, generator: torch.Generator) -> Tensor:
    """Rows [steps, B] int64: random orders of all prompts, one after the other."""
    orders = -(-steps * batch // count)
    flat = torch.cat([torch.randperm(count, generator=generator) for _ in range(orders)])
    return flat[: steps * batch].reshape(steps, batch)
