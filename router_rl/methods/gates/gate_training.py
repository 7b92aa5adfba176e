"""Training loop of the learned gates: minibatches, AdamW, early stopping on validation utility."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor, nn

from envs import Outcomes

from ...problems.routing.problem import RoutingProblem
from ...routing import Router, Selection
from ..method import Run
from ..row_order import row_order
from ..training_loop import EarlyStopping, Evaluator, adamw, descend, optimizer_state, restore_optimizer

__all__ = ["GateLoss", "TrainingHyperparameters", "balance_loss", "train_gate"]

GateLoss = Callable[[Router, Outcomes, Tensor, torch.Generator], Tensor]


class TrainingHyperparameters(Protocol):
    """The hyperparameters that the training loop reads."""

    @property
    def learning_rate(self) -> float: ...
    @property
    def weight_decay(self) -> float: ...
    @property
    def epochs(self) -> int: ...
    @property
    def patience(self) -> int: ...
    @property
    def batch(self) -> int: ...


def train_gate(
    problem: RoutingProblem,
    hyperparameters: TrainingHyperparameters,
    run: Run,
    loss: GateLoss,
    *,
    router: Router | None = None,
    extra: nn.Module | None = None,
    serve: Callable[[], Selection] | None = None,
    evaluate: Evaluator | None = None,
) -> Router:
    """Minimize a gate's loss over the training rows.

    Args:
        problem: rows, objective, selection rule and scorer.
        hyperparameters: learning rate, weight decay, epochs, patience (validations without improvement) and
            batch (queries per gradient step).
        run: seed, callback and checkpoint.
        loss: mean loss of a batch of row numbers [B] int64, given the router and a random generator.
        router: router to start from; a new one if None.
        extra: module that is used in training only. Its parameters (noise) are trained with the router's; its
            buffers (a load-balancing bias) are updated by the loss, once per step.
        serve: returns the current selection rule to validate and return; the problem's rule if None.
        evaluate: evaluates the router; on the validation rows under the problem's objective if None.

    Returns:
        the router with the best weights on validation, in evaluation mode.
    """
    router = problem.new_router(run.seed) if router is None else router
    if problem.compile:
        router.scorer.compile()
    outcomes = problem.outcomes()
    extra = nn.Module() if extra is None else extra.to(problem.device)
    trained = [*router.parameters(), *extra.parameters()]
    optimizer = adamw(trained, hyperparameters.learning_rate, hyperparameters.weight_decay)
    generator = torch.Generator(device=problem.device).manual_seed(run.seed)
    stopping = EarlyStopping(problem, hyperparameters.patience, run.callback, evaluate)
    epoch = 0
    saved = run.checkpoint.load()
    if saved is None:
        _set_rule(router, serve)
        stopping.update(router, 0, hyperparameters.epochs)
    else:
        epoch = saved["epoch"]
        router.load_state_dict(saved["router"])
        extra.load_state_dict(saved["extra"])
        restore_optimizer(optimizer, saved["optimizer"])
        generator.set_state(saved["generator"])
        stopping.load_state_dict(saved["stopping"])
    columns = (outcomes.features, outcomes.quality, outcomes.compute)
    row_bytes = 4 * sum(each.shape[1] for each in columns)
    period = run.validate_every or outcomes.queries
    processed, measured = epoch * outcomes.queries, epoch * outcomes.queries
    losses: list[Tensor] = []  # of the batches since the last validation, times their rows
    while epoch < hyperparameters.epochs:
        epoch += 1
        order = row_order(outcomes.queries, row_bytes, generator)
        for rows in order.split(hyperparameters.batch):
            value = loss(router, outcomes, rows, generator)
            descend(optimizer, value)
            losses.append(value.detach() * len(rows))
            before, processed = processed, processed + len(rows)
            if before // period == processed // period:
                continue
            mean, measured = float(torch.stack(losses).sum()) / (processed - measured), processed
            losses.clear()
            _set_rule(router, serve)
            if stopping.update(router, epoch, hyperparameters.epochs, {"loss": mean}):
                return stopping.best(router)
        if run.checkpoint.due:
            run.checkpoint.save(
                {
                    "epoch": epoch,
                    "router": router.state_dict(),
                    "extra": extra.state_dict(),
                    "optimizer": optimizer_state(optimizer),
                    "generator": generator.get_state(),
                    "stopping": stopping.state_dict(),
                }
            )
    return stopping.best(router)


def _set_rule(router: Router, serve: Callable[[], Selection] | None) -> None:
    if serve is not None:
        router.rule = serve()


def balance_loss(probabilities: Tensor, experts: Tensor) -> Tensor:
    """Return the auxiliary load-balancing loss, `N sum_e f_e P_e`: 1 if uniform, N if collapsed.

    Fedus et al. 2021, eq. 4, with k experts per row.

    Args:
        probabilities: [B, N] float, the gate's softmax; carries the gradient.
        experts: [B, k] int64, selected experts; carries no gradient. The id N means no expert.

    Returns:
        scalar float.

    Source: Switch Transformers, https://arxiv.org/abs/2101.03961.
    """
    count = probabilities.shape[-1]
    counts = torch.bincount(experts.reshape(-1), minlength=count + 1)[:count]  # the id N means no expert
    fraction = counts / counts.sum()
    return count * (fraction * probabilities.mean(dim=0)).sum()
