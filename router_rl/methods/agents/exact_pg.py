"""Exact policy gradient: ascends what the policy earns in expectation over its actions, with none drawn.

It starts from nothing; `warm_exact_pg` of `warm_start.py` ascends from a gate's weights. Where load is not
charged the training rows are walked in minibatches. Where it is, the router sees the window and is played,
and every action is credited with all it will cost the window: adding the share a to counts n after t of W
decisions, when the W - t - 1 to come divide as the mean share P, raises W times the window's load by

    2 N a . (n + (W - t - 1) P) / W  =  2 N (1 - 1/W) a . P  +  2 N a . (n - t P) / W

and by what is the same for every a (but for a . a / W, where actions differ in size). The first part is the
gradient of `N (1 - 1/W) sum_e P_e^2`, the load of a policy that sees nothing; the second pays for evening
out what chance has done to the window so far.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor

from envs import Outcomes

from ...problems.routing.problem import RoutingProblem
from ...problems.routing.router_measurement import RouterMeasurement
from ...routing import Router
from ..calibration import measure_within
from ..gates.gate_training import TrainingHyperparameters, train_gate
from ..method import Method, Run
from .expectation import Payment, expected
from .on_policy import PlayedHyperparameters, Update, learn
from .pid import PID
from .rollout import Trajectory, logits_of

__all__ = ["METHOD", "SPACE", "AscentHyperparameters", "ExactPGHyperparameters", "fit", "load_price"]


@dataclass(frozen=True, kw_only=True)
class ExactPGHyperparameters:
    """Hyperparameters of the exact policy gradient.

    Attributes:
        learning_rate: of AdamW.
        weight_decay: of AdamW.
        entropy: utility per nat of the policy's entropy; where load is charged it falls to 0.
        smoothing: share of the reward that is the right class's probability in place of the 0/1 outcome.
        epochs, patience, batch: of the training loop.
        group, lanes, decisions: of the play where load is charged, as for `reinforce`.
    """

    learning_rate: float = 3e-3
    weight_decay: float = 1e-2
    entropy: float = 0.01
    smoothing: float = 0.0
    epochs: int = 60
    patience: int = 12
    batch: int = 256
    group: int = 1
    lanes: int = 4096
    decisions: int = 400_000


SPACE = {
    "learning_rate": (1e-3, 3e-3, 1e-2),
    "weight_decay": (1e-4, 1e-2, 1e-1),
    "entropy": (0.0, 0.01, 0.03, 0.1),
    "smoothing": (0.0, 0.25, 0.5),
}


class AscentHyperparameters(PlayedHyperparameters, TrainingHyperparameters, Protocol):
    """What both ways of ascending read of a method's settings, a dataclass."""

    __dataclass_fields__: ClassVar[dict[str, Any]]


def fit(
    problem: RoutingProblem, hyperparameters: AscentHyperparameters, run: Run, start: Router | None = None
) -> Router:
    """Ascend the expected utility from a new router, or from `start`."""
    if problem.objective.budget is not None:
        return _fit_within(problem, hyperparameters, run, start)
    if problem.objective.load_weight:
        return _fit_windows(problem, hyperparameters, run, start)
    payment = Payment(problem.outcomes(), problem.objective.compute_weight, hyperparameters.smoothing)

    def loss(router: Router, outcomes: Outcomes, row: Tensor, generator: torch.Generator) -> Tensor:
        logits = router.scores(outcomes.features.index_select(0, row))
        earned, _, entropy = expected(router.rule, logits, payment, row, generator)
        return -(earned + hyperparameters.entropy * entropy).mean()

    return train_gate(problem, hyperparameters, run, loss, router=start)


def load_price(counts: Tensor, share: Tensor, window: int) -> Tensor:
    """What the counts so far add to the price of each expert, `2 N (n - t P) / W`; [B, N] float32.

    Args:
        counts: [B, N] float, n, decisions each expert has taken in the window.
        share: [N] float, P, how decisions divide on average.
        window: W.
    """
    return 2.0 * len(share) / window * (counts - counts.sum(dim=-1, keepdim=True) * share)


def _fit_within(
    problem: RoutingProblem, hyperparameters: AscentHyperparameters, run: Run, start: Router | None
) -> Router:
    """Ascend the Lagrangian of the budget; after each minibatch the controller sets the multiplier anew.

    The constraint is put as `E[compute] / B <= 1`, so that one set of gains suits every budget. The best
    epoch is the one of most validation quality once it is calibrated to the budget.
    """
    objective = problem.objective
    assert objective.budget is not None
    free = Payment(problem.outcomes(), 0.0, hyperparameters.smoothing)
    charged = replace(free, compute_weight=1.0)
    budget = objective.budget
    controller = PID(1.0, objective.compute_weight * budget).to(problem.device)

    def loss(router: Router, outcomes: Outcomes, row: Tensor, generator: torch.Generator) -> Tensor:
        logits = router.scores(outcomes.features.index_select(0, row))
        before = generator.get_state()
        earned, _, entropy = expected(router.rule, logits, free, row, generator)
        generator.set_state(before)  # the same draws, so that the difference is their compute
        quality = earned.mean()
        compute = quality - expected(router.rule, logits, charged, row, generator).utility.mean()
        multiplier = controller.update(compute / budget) / budget
        return multiplier * compute - quality - hyperparameters.entropy * entropy.mean()

    def judge(router: Router) -> RouterMeasurement:
        return measure_within(router, problem)

    # The multiplier has some way to go before quality rises: patience would run out first.
    hyperparameters = replace(hyperparameters, patience=hyperparameters.epochs)
    return train_gate(problem, hyperparameters, run, loss, router=start, extra=controller, judge=judge)


def _fit_windows(
    problem: RoutingProblem, hyperparameters: AscentHyperparameters, run: Run, start: Router | None
) -> Router:
    weight, window = problem.objective.load_weight, problem.objective.window
    static = len(problem.train.experts) * (1.0 - 1.0 / window)

    def ascent(update: Update, seen: Trajectory) -> None:
        rule, payment = update.router.rule, update.payment
        row, counts = seen.row.flatten(), seen.counts.flatten(0, 1)
        with torch.no_grad():
            mean = seen.share.mean(dim=(0, 1))
            price = load_price(counts * window, mean, window)
        order = torch.randperm(len(row), generator=update.generator, device=row.device)
        for part in order.split(hyperparameters.batch):
            alone = row[part].unsqueeze(1)  # groups of one
            logits = logits_of(update.router, payment.outcomes, alone, counts[part]).squeeze(1)
            earned, share, entropy = expected(rule, logits, payment, row[part], update.generator)
            load = (share * price[part]).sum(dim=-1).mean() + static * share.mean(dim=0).square().sum()
            value = earned.mean() - weight * load
            update.ascend(value + update.entropy * entropy.mean())

    return learn(problem, hyperparameters, run, ascent, start)


METHOD = Method(
    name="exact_pg",
    family="rl",
    fit=fit,
    hyperparameters=ExactPGHyperparameters,
    space=SPACE,
    about="all-action policy gradient on the expected utility",
    holds_budget=True,
)
