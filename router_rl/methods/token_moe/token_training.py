"""The loop that every learner of layer routers shares, so that none sees more text than another."""

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

__all__ = ["Fit", "Training", "train"]


@dataclass(frozen=True, kw_only=True)
class Training:
    """Settings of the loop.

    Attributes:
        learning_rate: of AdamW, falling to zero (cosine).
        passes: over the training sequences.
        batch: sequences a step.
        seed: of the order of the sequences, and of whatever is drawn.
        checks: number of validation measurements; the best router is kept.
        report: is passed (step, steps, what was measured) after each; None: nobody listens.
    """

    learning_rate: float = 3e-3
    passes: int = 4
    batch: int = 8
    seed: int = 0
    checks: int = 4
    report: Callable[[int, int, str], None] | None = None


@dataclass(frozen=True, eq=False, kw_only=True, slots=True)
class Fit:
    """A trained router.

    Attributes:
        routers: those of the best look at validation.
        validation: their score there: mean loss, nats, plus what they are charged for.
        curve: the score at the start and at each look.
        seconds: of training, without the looks.
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
        pool: the frozen experts and the text.
        start: the warm start.
        training: settings.
        loss: routers, rows [B] int64 of the training part and a generator to a scalar to descend.
        serve: how validation routes; `routers.choose` if None.
        score: what validation is judged by, lower is better; the mean loss if None.
        after: called after each step, for rules without a gradient.
    """
    routers = start.copy()
    optimizer = torch.optim.AdamW(routers.parameters(), lr=training.learning_rate, weight_decay=0.0)
    generator = torch.Generator().manual_seed(training.seed)
    sequences = pool.parts["train"]
    batches = [
        rows
        for _ in range(training.passes)
        for rows in torch.randperm(len(sequences), generator=generator).split(training.batch)
    ]
    looks = {round(len(batches) * (look + 1) / training.checks) for look in range(training.checks)}

    def judged() -> float:
        if score is not None:
            return score(routers)
        choose = routers.choose if serve is None else serve(routers)
        return float(measure(pool.tail, pool.parts["validation"], choose).loss.mean())

    curve = [judged()]
    best, kept = curve[0], {k: v.clone() for k, v in routers.state_dict().items()}
    seconds, begun = 0.0, time.perf_counter()
    for step, rows in enumerate(batches, 1):
        for group in optimizer.param_groups:
            group["lr"] = training.learning_rate * 0.5 * (1 + math.cos(math.pi * (step - 1) / len(batches)))
        value = loss(routers, rows, generator)
        if value.requires_grad:  # a renormalised top-1 gate has no gradient at all
            optimizer.zero_grad()
            value.backward()
            optimizer.step()
        if after is not None:
            after(routers)
        if step in looks:
            seconds += time.perf_counter() - begun
            curve.append(judged())
            if training.report is not None:
                training.report(step, len(batches), f"validation loss {curve[-1]:.4f} nats a token")
            if curve[-1] < best:
                best, kept = curve[-1], {k: v.clone() for k, v in routers.state_dict().items()}
            begun = time.perf_counter()
    routers.load_state_dict(kept)
    return Fit(routers=routers, validation=best, curve=curve, seconds=seconds)
