"""Exact policy gradient: maximizes the policy's expected utility over all actions, without sampling actions.

`exact_pg` starts from random weights; `warm_exact_pg` (`warm_start.py`) starts from a trained gate. Without
a load penalty, training iterates over minibatches of the training rows. With a load penalty, the router
observes the window and training uses rollouts. Every action is then charged for its full effect on the load
of the window. Adding the share a to the counts n after t of W decisions, when the remaining W - t - 1 divide
on average as the mean share P, raises W times the window's load by

    2 N a . (n + (W - t - 1) P) / W  =  2 N (1 - 1/W) a . P  +  2 N a . (n - t P) / W

plus a term that is equal for all a (except a . a / W, if actions differ in size). The first part is the
gradient of `N (1 - 1/W) sum_e P_e^2`, the load of a policy that does not observe the window. The second part
rewards evening out the imbalance that the window has accumulated by chance.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor

from envs import Outcomes
from experts.io.value_range import Count, Fraction, NonNegative, Positive, Size

from ...problems.routing.problem import RoutingProblem
from ...problems.routing.router_measurement import RouterMeasurement
from ...routing import Router
from ..calibration import measure_within
from ..gates.gate_training import TrainingHyperparameters, train_gate
from ..hyperparameters import Hyperparameters
from ..method import Method, Run
from .expectation import RewardTable, expected_utility
from .on_policy import RolloutHyperparameters, Update, learn
from .pid import PID
from .rollout import Trajectory, logits_of

__all__ = ["METHOD", "SPACE", "AscentHyperparameters", "ExactPGHyperparameters", "fit", "load_price"]


@dataclass(frozen=True, kw_only=True)
class ExactPGHyperparameters(Hyperparameters):
    """Hyperparameters of the exact policy gradient.

    Attributes:
        learning_rate: learning rate of AdamW.
        weight_decay: weight decay of AdamW.
        entropy: entropy bonus, utility per nat; decays linearly to 0 if load is charged.
        smoothing: share of the reward given by the correct class's probability instead of 0/1 correctness.
        epochs: maximum number of epochs (not used if load is charged).
        patience: validations without improvement before training stops.
        batch: queries per gradient step.
        group: lanes that receive the same queries (used if load is charged).
        lanes: half the decisions per rollout (used if load is charged).
        decisions: total number of training decisions (used if load is charged).
    """

    learning_rate: Positive = 3e-3
    weight_decay: NonNegative = 1e-2
    entropy: NonNegative = 0.01
    smoothing: Fraction = 0.0
    epochs: Count = 60
    patience: Count = 12
    batch: Count = 256
    group: Count = 1
    lanes: Size = 4096
    decisions: Count = 400_000


SPACE = {
    "learning_rate": (1e-3, 3e-3, 1e-2),
    "weight_decay": (1e-4, 1e-2, 1e-1),
    "entropy": (0.0, 0.01, 0.03, 0.1),
    "smoothing": (0.0, 0.25, 0.5),
}


class AscentHyperparameters(RolloutHyperparameters, TrainingHyperparameters, Protocol):
    """The hyperparameters that both training loops read; a dataclass."""

    __dataclass_fields__: ClassVar[dict[str, Any]]


def fit(
    problem: RoutingProblem, hyperparameters: AscentHyperparameters, run: Run, start: Router | None = None
) -> Router:
    """Maximize the expected utility of a router by gradient ascent.

    Args:
        problem: training and validation rows, objective and selection rule.
        hyperparameters: of `exact_pg` or `warm_exact_pg`.
        run: seed, callback and checkpoint.
        start: router to start from; a new one if None.

    Returns:
        the router with the best validation utility, in evaluation mode.
    """
    if problem.objective.budget is not None:
        return _fit_within_budget(problem, hyperparameters, run, start)
    if problem.objective.load_weight:
        return _fit_windows(problem, hyperparameters, run, start)
    rewards = RewardTable(problem.outcomes(), problem.objective.compute_weight, hyperparameters.smoothing)

    def loss(router: Router, outcomes: Outcomes, row: Tensor, generator: torch.Generator) -> Tensor:
        logits = router.scores(outcomes.features.index_select(0, row))
        earned, _, entropy = expected_utility(router.rule, logits, rewards, row, generator)
        return -(earned + hyperparameters.entropy * entropy).mean()

    return train_gate(problem, hyperparameters, run, loss, router=start)


def load_price(counts: Tensor, share: Tensor, window: int) -> Tensor:
    """Return the extra load cost of each expert given the counts so far, `2 N (n - t P) / W`.

    Args:
        counts: [B, N] float, n, decisions that each expert has received in the window.
        share: [N] float, P, mean share of the decisions that each expert receives.
        window: W, decisions per window.

    Returns:
        [B, N] float32, in units of W times the window's load.
    """
    return 2.0 * len(share) / window * (counts - counts.sum(dim=-1, keepdim=True) * share)


def _fit_within_budget(
    problem: RoutingProblem, hyperparameters: AscentHyperparameters, run: Run, start: Router | None
) -> Router:
    """Minimize the Lagrangian of the budget constraint; a PID controller updates the multiplier at each step.

    The constraint is normalized to `E[compute] / B <= 1`, so that one set of gains suits every budget. The
    best epoch is the one with the highest validation quality after calibration to the budget.
    """
    objective = problem.objective
    assert objective.budget is not None
    free = RewardTable(problem.outcomes(), 0.0, hyperparameters.smoothing)
    charged = replace(free, compute_weight=1.0)
    budget = objective.budget
    controller = PID(1.0, objective.compute_weight * budget).to(problem.device)

    def loss(router: Router, outcomes: Outcomes, row: Tensor, generator: torch.Generator) -> Tensor:
        logits = router.scores(outcomes.features.index_select(0, row))
        before = generator.get_state()
        earned, _, entropy = expected_utility(router.rule, logits, free, row, generator)
        generator.set_state(before)  # reuse the samples, so that the difference is exactly their compute
        quality = earned.mean()
        compute = quality - expected_utility(router.rule, logits, charged, row, generator).utility.mean()
        multiplier = controller.update(compute / budget) / budget
        return multiplier * compute - quality - hyperparameters.entropy * entropy.mean()

    def evaluate(router: Router) -> RouterMeasurement:
        return measure_within(router, problem)

    # Quality rises only after the multiplier has converged; with patience, training would stop before.
    hyperparameters = replace(hyperparameters, patience=hyperparameters.epochs)
    return train_gate(problem, hyperparameters, run, loss, router=start, extra=controller, evaluate=evaluate)


def _fit_windows(
    problem: RoutingProblem, hyperparameters: AscentHyperparameters, run: Run, start: Router | None
) -> Router:
    weight, window = problem.objective.load_weight, problem.objective.window
    static = len(problem.train.experts) * (1.0 - 1.0 / window)

    def ascent(update: Update, trajectory: Trajectory) -> None:
        rule, rewards = update.router.rule, update.rewards
        row, counts = trajectory.row.flatten(), trajectory.counts.flatten(0, 1)
        with torch.no_grad():
            mean = trajectory.share.mean(dim=(0, 1))
            price = load_price(counts * window, mean, window)
        order = torch.randperm(len(row), generator=update.generator, device=row.device)
        for part in order.split(hyperparameters.batch):
            single = row[part].unsqueeze(1)  # groups of one
            logits = logits_of(update.router, rewards.outcomes, single, counts[part]).squeeze(1)
            earned, share, entropy = expected_utility(rule, logits, rewards, row[part], update.generator)
            load = (share * price[part]).sum(dim=-1).mean() + static * share.mean(dim=0).square().sum()
            value = earned.mean() - weight * load
            update.ascend(value + update.entropy * entropy.mean())

    return learn(problem, hyperparameters, run, ascent, start)


METHOD = Method(
    name="exact_pg",
    family="rl",
    full_information=True,
    fit=fit,
    hyperparameters=ExactPGHyperparameters,
    space=SPACE,
    about="policy gradient, exact over experts, on known outcomes",
    sparse=True,
    holds_budget=True,
)
