"""Supervised pretraining of one classifier."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional

from ..io.errors import InputError

__all__ = ["Recipe", "train_classifier"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Recipe:
    """Training hyperparameters of a classifier.

    Args:
        epochs: number of epochs.
        batch_size: examples per gradient step.
        learning_rate: of AdamW at the start; it decreases to zero (cosine).
        weight_decay: of AdamW.

    Raises:
        InputError: a value is too small.
    """

    epochs: int = 30
    batch_size: int = 64
    learning_rate: float = 3e-3
    weight_decay: float = 1e-3

    def __post_init__(self) -> None:
        for field, lowest in (
            ("epochs", 1),
            ("batch_size", 1),
            ("learning_rate", 1e-12),
            ("weight_decay", 0.0),
        ):
            if not getattr(self, field) >= lowest:
                raise InputError(
                    f"Recipe.{field}", getattr(self, field), "too small", f"give {lowest} or more"
                )


def train_classifier(
    module: nn.Module,
    draw: Callable[[torch.Generator], torch.Tensor],
    labels: torch.Tensor,
    recipe: Recipe,
    *,
    seed: int,
    on_epoch: Callable[[int, float], None] | None = None,
) -> nn.Module:
    """Train a classifier by cross-entropy, and set it to evaluation mode.

    Args:
        module: maps inputs [B, ...] to logits [B, C]; trained in place.
        draw: returns the inputs [T, ...] of one epoch, which can have new noise in each.
        labels: [T] int64.
        recipe: hyperparameters.
        seed: of the order of examples and of `draw`.
        on_epoch: a callback with the number of finished epochs and the epoch's mean loss.

    Returns:
        The module.
    """
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW(
        module.parameters(), lr=recipe.learning_rate, weight_decay=recipe.weight_decay
    )
    steps = recipe.epochs * -(-len(labels) // recipe.batch_size)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    module.train()
    for epoch in range(recipe.epochs):
        inputs, total = draw(generator), 0.0
        for rows in torch.randperm(len(labels), generator=generator).split(recipe.batch_size):
            optimizer.zero_grad(set_to_none=True)
            loss = functional.cross_entropy(module(inputs[rows]), labels[rows])
            loss.backward()
            optimizer.step()
            schedule.step()
            total += float(loss.detach()) * len(rows)
        if on_epoch is not None:
            on_epoch(epoch + 1, total / len(labels))
    return module.eval()
