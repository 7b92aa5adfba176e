"""REINFORCE on device, with a leave-one-out baseline over lanes that receive the same query.

Williams 1992, https://doi.org/10.1007/BF00992696; baseline of Kool et al. 2019,
https://openreview.net/forum?id=r1lgTGL5DE. One gradient step per rollout. The learner reads only the reward
of the selected experts.
"""

from __future__ import annotations

from dataclasses import dataclass

from experts.io.value_range import Count, Fraction, NonNegative, Positive, Size

from ...problems.routing.problem import RoutingProblem
from ...routing import Router
from ..hyperparameters import Hyperparameters
from ..method import Method, Run
from .on_policy import Update, learn
from .rollout import Trajectory, leave_one_out, log_prob, logits_of, rewards_to_go

__all__ = ["METHOD", "SPACE", "ReinforceHyperparameters", "fit"]


@dataclass(frozen=True, kw_only=True)
class ReinforceHyperparameters(Hyperparameters):
    """Hyperparameters of REINFORCE.

    Attributes:
        learning_rate: learning rate of AdamW.
        weight_decay: weight decay of AdamW.
        entropy: initial entropy bonus, utility per nat; decays linearly to 0.
        smoothing: share of the reward given by the correct class's probability instead of 0/1 correctness.
        group: lanes that receive the same queries; with 1, each query is answered once per rollout.
        lanes: decisions per rollout (twice as many if load is charged).
        discount: discount of later rewards in the window; used only if load is charged.
        decisions: total number of training decisions.
        patience: validations without improvement before training stops (one every 16,384 decisions).
    """

    learning_rate: Positive = 1e-2
    weight_decay: NonNegative = 1e-2
    entropy: NonNegative = 0.03
    smoothing: Fraction = 0.0
    group: Count = 4
    lanes: Size = 1024
    discount: Fraction = 0.9
    decisions: Count = 400_000
    patience: Count = 10


SPACE = {
    "learning_rate": (3e-3, 1e-2, 3e-2),
    "weight_decay": (1e-4, 1e-2, 1e-1),
    "entropy": (0.0, 0.01, 0.03, 0.1),
    "smoothing": (0.0, 0.25, 0.5),
}


def fit(problem: RoutingProblem, hyperparameters: ReinforceHyperparameters, run: Run) -> Router:
    """Train a policy by REINFORCE with a leave-one-out baseline.

    Args:
        problem: training and validation rows, objective and selection rule.
        hyperparameters: of REINFORCE and its optimizer.
        run: seed, callback and checkpoint.

    Returns:
        the router with the best validation utility, in evaluation mode.
    """

    def ascent(update: Update, trajectory: Trajectory) -> None:
        returns = rewards_to_go(trajectory.reward, trajectory.last, hyperparameters.discount)
        advantage = leave_one_out(returns, hyperparameters.group)
        rule, outcomes = update.router.rule, update.rewards.outcomes
        row = trajectory.row.reshape(-1, hyperparameters.group)
        logits = logits_of(update.router, outcomes, row, trajectory.counts.flatten(0, 1))
        action = trajectory.action.reshape(*row.shape, -1)
        score = log_prob(rule, logits, action).reshape(advantage.shape)
        update.ascend((score * advantage).mean() + update.entropy * rule.entropy(logits).mean())

    return learn(problem, hyperparameters, run, ascent)


METHOD = Method(
    name="reinforce",
    family="rl",
    fit=fit,
    hyperparameters=ReinforceHyperparameters,
    space=SPACE,
    about="REINFORCE with a leave-one-out baseline, on device",
)
