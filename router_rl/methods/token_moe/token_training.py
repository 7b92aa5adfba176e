"""Training loop of all layer-router methods, so that all have the same schedule, validations and text."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from experts.moe.token_pool import TokenPool

from ...problems.token_moe.layer_routers import LayerRouters
from ...problems.token_moe.token_measurement import Choose, measure
from ..checkpoint import Checkpoint
from ..training_loop import optimizer_state, restore_optimizer
from .processes import processes

__all__ = ["Fit", "Step", "Training", "batches_of", "mean_loss", "take_steps", "train"]

Step = Callable[[int, torch.optim.Optimizer], str]
"""Takes a step, given its number from 1. Returns the message of a validation, with {} for its score."""


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
        checkpoint: stores the state of the fit, so that it can resume.
    """

    learning_rate: float = 3e-3
    epochs: int = 4
    batch: int = 8
    seed: int = 0
    checks: int = 4
    report: Callable[[int, int, str], None] | None = None
    checkpoint: Checkpoint = field(default_factory=lambda: Checkpoint(None, {}))


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
    moved: Mapping[str, Tensor] | None = None,
) -> Fit:
    """Train a copy of some routers on the text.

    Args:
        pool: frozen experts and text.
        start: routers to start from.
        training: options of the loop.
        loss: maps routers, training rows [B] int64 and a random generator to a scalar loss, a mean over the
            rows. With several processes they are this process's share of a batch.
        serve: maps routers to the choice in validation; `routers.choose` if None.
        score: validation score, lower is better; the mean loss if None.
        after: is called after each step, for updates without a gradient.
        moved: tensors that `after` changes in place, by name.
    """
    routers, several = start.copy(), processes()
    generator = torch.Generator().manual_seed(training.seed)
    batches = batches_of(pool, training, generator)

    def step(number: int, optimizer: torch.optim.Optimizer) -> str:
        own = several.own(batches[number - 1])
        value = loss(routers, own, generator)
        if value.requires_grad:  # a renormalised top-1 gate has no gradient at all
            optimizer.zero_grad()
            value.backward()
            several.sum_gradients(routers, several.weight(len(own)))
            optimizer.step()
        if after is not None:
            after(routers)
        return "validation loss {:.4f} nats per token"

    score = mean_loss(pool, serve) if score is None else score
    return take_steps(routers, training, len(batches), step, score, generator, moved=moved)


def batches_of(pool: TokenPool, training: Training, generator: torch.Generator) -> list[Tensor]:
    """Return the training rows [B] int64 of each step, in a random order in each epoch."""
    sequences = len(pool.parts["train"])
    return [
        rows
        for _ in range(training.epochs)
        for rows in torch.randperm(sequences, generator=generator).split(training.batch)
    ]


def mean_loss(
    pool: TokenPool, serve: Callable[[LayerRouters], Choose] | None = None, price: float = 0.0
) -> Callable[[LayerRouters], float]:
    """Return a score of routers: the mean loss on validation text, plus the price, nats per token.

    Args:
        pool: frozen experts and text.
        serve: maps routers to the choice; `routers.choose` if None.
        price: of each expert beyond the first, nats per token.
    """

    def score(routers: LayerRouters) -> float:
        choose = routers.choose if serve is None else serve(routers)
        measured = measure(pool.tail, pool.parts["validation"], choose)
        return float(measured.loss.mean()) + price * (measured.compute - 1.0)

    return score


def take_steps(
    routers: LayerRouters,
    training: Training,
    steps: int,
    step: Step,
    score: Callable[[LayerRouters], float],
    generator: torch.Generator,
    *,
    moved: Mapping[str, Tensor] | None = None,
) -> Fit:
    """Train routers in place, and load their best weights on validation.

    Args:
        routers: to train.
        training: learning rate, number of validations, report and checkpoint.
        steps: number of steps.
        step: takes one.
        score: validation score, lower is better.
        generator: the one that the steps draw from.
        moved: tensors that the steps change in place besides the routers' weights, by name; in the end they
            are those of the best weights too.
    """
    optimizer = torch.optim.AdamW(routers.parameters(), lr=training.learning_rate, weight_decay=0.0)
    validations = {round(steps * (check + 1) / training.checks) for check in range(training.checks)}
    several, moved = processes(), moved or {}
    saved = training.checkpoint.load()
    several.wait()  # until all have read it
    if saved is None:
        done, seconds, curve = 0, 0.0, [score(routers)]
        best, kept, kept_moved = curve[0], _copied(routers.state_dict()), _copied(moved)
    else:
        done, seconds, curve = saved["step"], saved["seconds"], saved["curve"]
        best, kept, kept_moved = saved["best"], saved["kept"], saved["kept_moved"]
        routers.load_state_dict(saved["routers"])
        restore_optimizer(optimizer, saved["optimizer"])
        generator.set_state(saved["generator"])
        for name, tensor in moved.items():
            tensor.copy_(saved["moved"][name])
    for number in range(done + 1, steps + 1):
        begun = time.perf_counter()
        for group in optimizer.param_groups:
            group["lr"] = training.learning_rate * 0.5 * (1 + math.cos(math.pi * (number - 1) / steps))
        message = step(number, optimizer)
        seconds += time.perf_counter() - begun
        if number in validations:
            curve.append(score(routers))
            if training.report is not None:
                training.report(number, steps, message.format(curve[-1]))
            if curve[-1] < best:
                best, kept, kept_moved = curve[-1], _copied(routers.state_dict()), _copied(moved)
        if training.checkpoint.due and several.rank == 0:
            training.checkpoint.save(
                {
                    "step": number,
                    "seconds": seconds,
                    "curve": curve,
                    "best": best,
                    "kept": kept,
                    "kept_moved": kept_moved,
                    "routers": routers.state_dict(),
                    "optimizer": optimizer_state(optimizer),
                    "generator": generator.get_state(),
                    "moved": dict(moved),
                }
            )
    routers.load_state_dict(kept)
    for name, tensor in moved.items():
        tensor.copy_(kept_moved[name])
    return Fit(routers=routers, validation=best, curve=curve, seconds=seconds)


def _copied(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in tensors.items()}
