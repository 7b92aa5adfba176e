"""REINFORCE on device: each decision's reward-to-go against the other lanes that were asked the same query.

Williams 1992, https://doi.org/10.1007/BF00992696, with the leave-one-out baseline of Kool et al. 2019,
https://openreview.net/forum?id=r1lgTGL5DE. One step a rollout. A decision's own reward is all it reads.
"""

from __future__ import annotations

from dataclasses import dataclass

from ...problems.routing.problem import RoutingProblem
from ...routing import Router
from ..method import Method, Run
from .on_policy import Update, learn
from .rollout import Trajectory, leave_one_out, log_prob, logits_of, rewards_to_go

__all__ = ["METHOD", "SPACE", "ReinforceHyperparameters", "fit"]


@dataclass(frozen=True, kw_only=True)
class ReinforceHyperparameters:
    """Hyperparameters of REINFORCE.

    Attributes:
        learning_rate, weight_decay: of AdamW.
        entropy: utility per nat of the policy's entropy at the start; falls in a line to 0.
        smoothing: share of the reward that is the right class's probability in place of the 0/1 outcome.
        group: lanes that are asked the same queries; 1 asks each for one expert alone.
        lanes: decisions a rollout.
        discount: of later rewards in the window; read only where load is charged.
        decisions: the budget, decisions played.
        patience: measurements (one in 16,384 decisions) without a better one before stopping.
    """

    learning_rate: float = 1e-2
    weight_decay: float = 1e-2
    entropy: float = 0.03
    smoothing: float = 0.0
    group: int = 4
    lanes: int = 1024
    discount: float = 0.9
    decisions: int = 400_000
    patience: int = 10


SPACE = {
    "learning_rate": (3e-3, 1e-2, 3e-2),
    "weight_decay": (1e-4, 1e-2, 1e-1),
    "entropy": (0.0, 0.01, 0.03, 0.1),
    "smoothing": (0.0, 0.25, 0.5),
}


def fit(problem: RoutingProblem, hyperparameters: ReinforceHyperparameters, run: Run) -> Router:
    """Train a policy by what its own draws earn."""

    def ascent(update: Update, seen: Trajectory) -> None:
        returns = rewards_to_go(seen.reward, seen.last, hyperparameters.discount)
        advantage = leave_one_out(returns, hyperparameters.group)
        rule, outcomes = update.router.rule, update.payment.outcomes
        row = seen.row.reshape(-1, hyperparameters.group)
        logits = logits_of(update.router, outcomes, row, seen.counts.flatten(0, 1))
        action = seen.action.reshape(*row.shape, -1)
        score = log_prob(rule, logits, action).reshape(advantage.shape)
        update.ascend((score * advantage).mean() + update.entropy * rule.entropy(logits).mean())

    return learn(problem, hyperparameters, run, ascent)


METHOD = Method(
    name="reinforce",
    family="rl",
    fit=fit,
    hyperparameters=ReinforceHyperparameters,
    space=SPACE,
    about="score function with a leave-one-out baseline, on device",
)
