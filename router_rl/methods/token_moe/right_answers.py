"""A gate tuned on right answers: sample, keep what the verifier accepts, and train on its cross-entropy.

Generations with sampled routes are kept if they are right. The gate is then trained by backpropagation
through the experts on the loss of the kept answers' tokens, given their prompts; the loss of the prompts is
left out. This is repeated from the tuned gate.

Source: rejection sampling fine-tuning, Yuan et al. 2023, https://arxiv.org/abs/2308.01825; repeated as in
STaR, Zelikman et al. 2022, https://arxiv.org/abs/2203.14465. Difference: only the gate is trained.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Annotated, Literal

import numpy as np
import torch
from torch import Tensor

from experts.io.value_range import Count, Positive, Range
from experts.moe.decoding import greedy
from experts.moe.padding import answer_lengths
from experts.moe.token_pool import TokenPool

from ...problems.token_moe.layer_routers import LayerRouters
from ...problems.token_moe.token_answers import prompts_of
from ..checkpoint import Checkpoint
from ..hyperparameters import Hyperparameters
from .answer_rollouts import roll_out, softened
from .backprop import GATES, Gate
from .token_training import Fit, Training, train

__all__ = ["RightAnswersHyperparameters", "answer_loss", "right_answers", "train_on_right_answers"]

_NO_TARGET = -100
_RIGHT = 0.5  # the score of a right answer, at least


@dataclass(frozen=True, kw_only=True)
class RightAnswersHyperparameters(Hyperparameters):
    """Hyperparameters of a gate tuned on right answers.

    Attributes:
        learning_rate: initial learning rate of AdamW; decays to zero (cosine).
        gate: how the gate mixes experts in training.
        group: generations of a prompt in each round.
        together: whether the choices of a generation share their noise, and so change together.
        soften: divides the starting gate's logits, for exploration; at least 1.
        rounds: of sampling and training.
        epochs: over the prompts with a right answer, in each round.
    """

    learning_rate: Positive = 1e-2
    gate: Literal["soft_gate", "straight_through"] = "straight_through"
    group: Count = 8
    together: bool = True
    soften: Annotated[float, Range(1.0)] = 1.0
    rounds: Count = 3
    epochs: Count = 4


@dataclass(frozen=True, eq=False, kw_only=True)
class RightAnswers:
    """Right answers that a gate gave, one for a prompt.

    Attributes:
        hidden: [B, T, H] float32, trunk states of prompts and answers.
        targets: [B, T] int64, the next tokens of the answers; negative elsewhere.
    """

    hidden: Tensor
    targets: Tensor


def right_answers(
    pool: TokenPool, routers: LayerRouters, group: int, seed: int, *, together: bool = True, batch: int = 16
) -> RightAnswers:
    """Generate answers to the training prompts, and return a right one of each prompt that has any.

    An answer with a score of at least 0.5 is right; of several, the one with the highest score is kept.

    Args:
        pool: of problems.
        routers: sample the routes.
        group: generations of a prompt.
        seed: of the routes.
        together: whether the choices of a generation share their noise.
        batch: prompts per call.
    """
    problems, sequences = pool.problems, pool.parts["train"]
    assert problems is not None
    generator, texts = torch.Generator().manual_seed(seed), list[tuple[Tensor, int]]()
    for rows in torch.arange(len(sequences)).split(batch):
        each = rows.repeat_interleave(group)
        made = roll_out(pool, routers, each, greedy, generator, {}, together=together)
        right = made.right.reshape(-1, group)
        tokens = made.routed.tokens.reshape(len(rows), group, -1)
        first = tokens[torch.arange(len(rows)), right.argmax(dim=1)]
        lengths = answer_lengths(first, problems.end)
        prompts, start = prompts_of(pool, sequences, rows)
        for row in (right.amax(dim=1) >= _RIGHT).nonzero().flatten().tolist():
            own = prompts[row, 0 if start is None else int(start[row]) :]
            texts.append((torch.cat([own, first[row, : lengths[row]]]), len(own)))
    longest = max((len(text) for text, _ in texts), default=1)
    inputs = torch.full((len(texts), longest - 1), problems.pad)
    targets = torch.full_like(inputs, _NO_TARGET)
    for row, (text, prompt) in enumerate(texts):  # padding after a text changes nothing before it
        inputs[row, : len(text) - 1] = text[:-1]
        targets[row, prompt - 1 : len(text) - 1] = text[prompt:]
    hidden = torch.zeros(0) if not texts else pool.base.trunk(inputs)
    return RightAnswers(hidden=hidden, targets=targets)


def answer_loss(
    pool: TokenPool, routers: LayerRouters, gate: Gate, hidden: Tensor, targets: Tensor
) -> Tensor:
    """Return the mean loss of the answers' tokens under the gate's mixture, nats.

    Args:
        pool: of problems.
        routers: of the gate.
        gate: how it mixes.
        hidden: [B, T, H] float32, trunk states of prompts and answers.
        targets: [B, T] int64, the next tokens of the answers; negative elsewhere.
    """
    tail, none = pool.tail, torch.zeros(pool.tail.experts)
    for layer in range(tail.depth):
        hidden, x = tail.attend(layer, hidden)
        hidden = hidden + gate.mixture(tail, layer, x, gate.mixes(routers.logits(layer, x), none))
    answers = targets >= 0
    return tail.loss(hidden[answers], targets[answers]).mean()


def train_on_right_answers(
    pool: TokenPool,
    start: LayerRouters,
    training: Training,
    settings: RightAnswersHyperparameters,
    score: Callable[[LayerRouters], float],
) -> Fit:
    """Tune a gate on the answers that it finds.

    Args:
        pool: frozen experts, and problems.
        start: routers to start from.
        training: seed, batch, number of validations and report; learning rate and epochs are the settings'.
            Its checkpoint is not used.
        settings: hyperparameters.
        score: validation score, lower is better.
    """
    gate = GATES[settings.gate]
    no_checkpoint = Checkpoint(None, {})  # a round is not a whole fit
    training = replace(
        training,
        learning_rate=settings.learning_rate,
        epochs=settings.epochs,
        checkpoint=no_checkpoint,
    )
    fit = Fit(routers=softened(start, settings.soften), validation=score(start), curve=[], seconds=0.0)
    for number in range(settings.rounds):
        seed = training.seed * settings.rounds + number
        begun = time.perf_counter()
        kept = right_answers(pool, fit.routers, settings.group, seed, together=settings.together)
        seconds = fit.seconds + time.perf_counter() - begun
        if len(kept.targets) == 0:
            break
        few = replace(
            pool, parts={**pool.parts, "train": pool.parts["train"].take(np.arange(len(kept.targets)))}
        )

        def loss(
            routers: LayerRouters, rows: Tensor, generator: torch.Generator, kept: RightAnswers = kept
        ) -> Tensor:
            return answer_loss(pool, routers, gate, kept.hidden[rows], kept.targets[rows])

        tuned = train(few, fit.routers, replace(training, seed=seed), loss, score=score)
        fit = replace(tuned, curve=fit.curve + tuned.curve, seconds=seconds + tuned.seconds)
    return fit
