"""Experts with a common ancestor: copies of a base's last FFNs, each trained on the text of one domain.

Branch-Train-MiX (Sukhbaatar et al. 2024, section 2, https://arxiv.org/abs/2403.07816), with one difference:
only the FFNs of the last layers are trained. The trunk, attention and norms are the base's, so the trunk's
output is computed once and experts can be mixed layer by layer.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..io.errors import InputError
from .expert_ffn import PARTS
from .frozen_base import Base
from .segments import mean
from .tail import Tail

__all__ = ["BranchRecipe", "average", "branch"]


@dataclass(frozen=True, kw_only=True)
class BranchRecipe:
    """Training hyperparameters of an expert.

    Attributes:
        learning_rate: maximum of AdamW's; it warms up over a tenth of the steps and decays to 0 (cosine).
        epochs: over the domain's training sequences.
        batch: sequences per gradient step.
        seed: of the order.

    Raises:
        InputError: a value is not positive.
    """

    learning_rate: float = 1e-3
    epochs: int = 1
    batch: int = 2
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("learning_rate", "epochs", "batch"):
            if not getattr(self, name) > 0:
                raise InputError(name, getattr(self, name), "is not positive", "use a number above 0")


def branch(
    base: Base,
    hidden: Tensor,
    targets: Tensor,
    recipe: BranchRecipe,
    *,
    dtype: torch.dtype = torch.float32,
    on_step: Callable[[float], None] | None = None,
) -> list[dict[str, Tensor]]:
    """Train one expert and return its FFNs.

    Args:
        base: the ancestor.
        hidden: [S, T, H] float32, trunk states of the domain's training text.
        targets: [S, T] int64, the next tokens; negative ones have no loss, as a prompt's in fine-tuning.
        recipe: hyperparameters.
        dtype: of the matrix products; weights and their updates are float32.
        on_step: a callback with the loss of every step, in nats per token.

    Returns:
        One FFN state per layer, as `Tail` takes them, float32.
    """
    dense = base.dense()
    # A tail needs two experts; neither is run, only the frozen parts are.
    tail = base.tail({"new": dense, "old": dense}, torch.float32)
    learned = [
        {part: weight.clone().requires_grad_(True) for part, weight in layer.items()} for layer in dense
    ]
    weights = [weight for layer in learned for weight in layer.values()]
    optimizer = torch.optim.AdamW(weights, lr=recipe.learning_rate, weight_decay=0.0)
    steps = recipe.epochs * -(-len(hidden) // recipe.batch)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _schedule(step / steps))
    generator = torch.Generator().manual_seed(recipe.seed)
    for _ in range(recipe.epochs):
        for rows in torch.randperm(len(hidden), generator=generator).split(recipe.batch):
            with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
                loss = _loss(tail, learned, hidden[rows], targets[rows])
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(weights, 1.0)
            optimizer.step()
            schedule.step()
            if on_step is not None:
                on_step(float(loss.detach()))
    return [{part: weight.detach() for part, weight in layer.items()} for layer in learned]


def average(experts: Sequence[Sequence[Mapping[str, Tensor]]]) -> list[dict[str, Tensor]]:
    """Return the uniform mean of several experts' weights, a strong baseline of the size of one expert.

    Args:
        experts: one list of FFN states per expert, as `branch` returns them.

    Returns:
        One FFN state per layer.

    Source:
        Model soups, Wortsman et al. 2022, https://arxiv.org/abs/2203.05482.
    """
    layers: list[dict[str, Tensor]] = []
    for layer in range(len(experts[0])):
        ffns = [states[layer] for states in experts]  # once each: they may be read from a file
        layers.append({part: mean(ffn[part] for ffn in ffns) for part in PARTS})
    return layers


def _schedule(done: float) -> float:
    """The learning rate relative to its maximum after a fraction of all steps."""
    return 0.1 + 9.0 * done if done < 0.1 else 0.5 * (1.0 + math.cos(math.pi * (done - 0.1) / 0.9))


def _loss(tail: Tail, learned: list[dict[str, Tensor]], hidden: Tensor, targets: Tensor) -> Tensor:
    """Mean loss with the trained FFNs; the tail provides the frozen parts."""
    functional = torch.nn.functional
    for layer, ffn in enumerate(learned):
        hidden, x = tail.attend(layer, hidden)
        opened = functional.silu(functional.linear(x, ffn["gate_proj"]))
        opened = opened * functional.linear(x, ffn["up_proj"])
        hidden = hidden + functional.linear(opened, ffn["down_proj"]).float()
    counted = targets >= 0
    return tail.loss(hidden[counted], targets[counted]).mean()
