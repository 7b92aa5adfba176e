"""The loop every learned gate trains in: minibatches, AdamW, early stopping on validation utility."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor, nn

from envs import Outcomes

from ...problems.routing.problem import RoutingProblem
from ...routing import Router, Selection
from ..method import Run
from ..training_loop import EarlyStopping, Judge, adamw, optimizer_state, restore_optimizer

__all__ = ["GateLoss", "TrainingHyperparameters", "balance_loss", "train_gate"]

GateLoss = Callable[[Router, Outcomes, Tensor, torch.Generator], Tensor]


class TrainingHyperparameters(Protocol):
    """The part of a gate's settings that the loop reads."""

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
    judge: Judge | None = None,
) -> Router:
    """Minimise a gate's loss over the training rows.

    Args:
        problem: rows, objective, rule and scorer.
        hyperparameters: learning rate, weight decay, epochs, patience (epochs without a better validation
            utility) and batch (queries a step).
        run: seed, watch and checkpoint.
        loss: mean loss of a batch of row numbers [B] int64, given the router and a generator.
        router: what to start from; a new router of the problem if None.
        extra: what a gate has while it trains and not after: parameters (noise) are trained with the
            router's, buffers (a bias that follows the load) the loss moves itself, once a step.
        serve: the rule to measure, keep and return the router with, as it stands; the problem's own if None.
        judge: measures the router after every epoch; under the problem's objective if None.

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
    stopping = EarlyStopping(problem, hyperparameters.patience, run.callback, judge)
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
    period = run.validate_every or outcomes.queries
    seen, measured = epoch * outcomes.queries, epoch * outcomes.queries
    losses: list[Tensor] = []  # of the batches since the last measurement, times their rows
    while epoch < hyperparameters.epochs:
        epoch += 1
        order = torch.randperm(outcomes.queries, generator=generator, device=problem.device)
        for rows in order.split(hyperparameters.batch):
            value = loss(router, outcomes, rows, generator)
            optimizer.zero_grad(set_to_none=True)
            value.backward()
            optimizer.step()
            losses.append(value.detach() * len(rows))
            before, seen = seen, seen + len(rows)
            if before // period == seen // period:
                continue
            mean, measured = float(torch.stack(losses).sum()) / (seen - measured), seen
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
    """`N sum_e f_e P_e`: 1 if uniform, N if collapsed (Fedus et al. 2021, eq. 4, with k choices a row).

    Args:
        probabilities: [B, N] float, the gate's softmax; carries the gradient.
        experts: [B, k] int64, the experts chosen; carries none.

    Source: Switch Transformers, https://arxiv.org/abs/2101.03961.
    """
    count = probabilities.shape[-1]
    counts = torch.bincount(experts.reshape(-1), minlength=count + 1)[:count]  # the id N is nobody
    fraction = counts / counts.sum()
    return count * (fraction * probabilities.mean(dim=0)).sum()
