"""Training loop of all layer-router methods, so that all see the same amount of text."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from experts.moe.token_pool import TokenPool

from ...problems.token_moe.layer_routers import LayerRouters
from ...problems.token_moe.token_measurement import Choose, measure
from .processes import processes

__all__ = ["Fit", "Training", "train"]


@dataclass(frozen=True, kw_only=True)
class Training:
    """Options of the training loop.

    Attributes:
        learning_rate: initial learning rate of AdamW; decays to zero (cosine).
        epochs: epochs over the training sequences.
        batch: sequences per gradient step.
        seed: random seed.
        checks: number of validations; the best routers are kept.
        report: is called with (step, steps, message) after each validation; None disables it.
    """

    learning_rate: float = 3e-3
    epochs: int = 4
    batch: int = 8
    seed: int = 0
    checks: int = 4
    report: Callable[[int, int, str], None] | None = None


@dataclass(frozen=True, eq=False, kw_only=True, slots=True)
class Fit:
    """Result of training.

    Attributes:
        routers: routers with the best validation score.
        validation: their validation score: mean loss in nats, plus penalties.
        curve: score at the start and at each validation.
        seconds: duration of training, without validation.
    """

    routers: LayerRouters
    validation: float
    curve: list[float]
    seconds: float


def train(
    pool: TokenPool,
    start: LayerRouters,
    training: Training,
    loss: Callable[[LayerRouters, Tensor, torch.Generator], Tensor],
    *,
    serve: Callable[[LayerRouters], Choose] | None = None,
    score: Callable[[LayerRouters], float] | None = None,
    after: Callable[[LayerRouters], None] | None = None,
) -> Fit:
    """Train a copy of some routers.

    Args:
        pool: frozen experts and text.
        start: routers to start from.
        training: options of the loop.
        loss: maps routers, training rows [B] int64 and a random generator to a scalar loss, a mean over the
            rows. With several processes they are this process's share of a batch.
        serve: maps routers to the choice in validation; `routers.choose` if None.
        score: validation score, lower is better; the mean loss if None.
        after: is called after each step, for updates without a gradient.
    """
    routers = start.copy()
    optimizer = torch.optim.AdamW(routers.parameters(), lr=training.learning_rate, weight_decay=0.0)
    generator = torch.Generator().manual_seed(training.seed)
    sequences = pool.parts["train"]
    batches = [
        rows
        for _ in range(training.epochs)
        for rows in torch.randperm(len(sequences), generator=generator).split(training.batch)
    ]
    several = processes()
    validations = {round(len(batches) * (check + 1) / training.checks) for check in range(training.checks)}

    def validate() -> float:
        if score is not None:
            return score(routers)
        choose = routers.choose if serve is None else serve(routers)
        return float(measure(pool.tail, pool.parts["validation"], choose).loss.mean())

    curve = [validate()]
    best, kept = curve[0], {k: v.clone() for k, v in routers.state_dict().items()}
    seconds, begun = 0.0, time.perf_counter()
    for step, rows in enumerate(batches, 1):
        for group in optimizer.param_groups:
            group["lr"] = training.learning_rate * 0.5 * (1 + math.cos(math.pi * (step - 1) / len(batches)))
        own = several.own(rows)
        value = loss(routers, own, generator)
        if value.requires_grad:  # a renormalised top-1 gate has no gradient at all
            optimizer.zero_grad()
            value.backward()
            several.sum_gradients(routers, several.weight(len(own)))
            optimizer.step()
        if after is not None:
            after(routers)
        if step in validations:
            seconds += time.perf_counter() - begun
            curve.append(validate())
            if training.report is not None:
                training.report(step, len(batches), f"validation loss {curve[-1]:.4f} nats per token")
            if curve[-1] < best:
                best, kept = curve[-1], {k: v.clone() for k, v in routers.state_dict().items()}
            begun = time.perf_counter()
    routers.load_state_dict(kept)
    return Fit(routers=routers, validation=best, curve=curve, seconds=seconds)
