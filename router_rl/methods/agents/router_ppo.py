"""PPO on device: large rollouts, a group baseline instead of a critic, no copies to the host.

Schulman et al. 2017, eq. 7, https://arxiv.org/abs/1707.06347. The baseline is the mean of the group, as in
Shao et al. 2024 (section 4.1, https://arxiv.org/abs/2402.03300), but it excludes the decision itself and is
not divided by the group's standard deviation. The learner reads only the reward of the selected experts.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from experts.io.value_range import Count, Fraction, NonNegative, Positive, Size

from ...problems.routing.problem import RoutingProblem
from ...routing import Router
from ..hyperparameters import Hyperparameters
from ..method import Method, Run
from .on_policy import Update, learn
from .rollout import Trajectory, leave_one_out, log_prob, logits_of, rewards_to_go

__all__ = ["METHOD", "SPACE", "RouterPPOHyperparameters", "clipped", "fit"]


@dataclass(frozen=True, kw_only=True)
class RouterPPOHyperparameters(Hyperparameters):
    """Hyperparameters of on-device PPO.

    Attributes:
        learning_rate: learning rate of AdamW.
        weight_decay: weight decay of AdamW.
        entropy: initial entropy bonus, utility per nat; decays linearly to 0.
        smoothing: share of the reward given by the correct class's probability instead of 0/1 correctness.
        clip: clip range of the probability ratio.
        reuse: epochs over each rollout.
        minibatches: minibatches per epoch.
        group: lanes that receive the same queries; with 1, each query is answered once per rollout.
        lanes: decisions per rollout (twice as many if load is charged).
        discount: discount of later rewards in the window; used only if load is charged.
        decisions: total number of training decisions.
        patience: validations without improvement before training stops (one every 16,384 decisions).
    """

    learning_rate: Positive = 3e-3
    weight_decay: NonNegative = 1e-2
    entropy: NonNegative = 0.03
    smoothing: Fraction = 0.0
    clip: Positive = 0.2
    reuse: Count = 2
    minibatches: Count = 4
    group: Count = 4
    lanes: Size = 2048
    discount: Fraction = 0.9
    decisions: Count = 400_000
    patience: Count = 10


SPACE = {
    "learning_rate": (1e-3, 3e-3, 1e-2),
    "weight_decay": (1e-4, 1e-2, 1e-1),
    "entropy": (0.0, 0.01, 0.03, 0.1),
    "smoothing": (0.0, 0.25, 0.5),
}


def fit(problem: RoutingProblem, hyperparameters: RouterPPOHyperparameters, run: Run) -> Router:
    """Train a policy by PPO with a group baseline.

    Args:
        problem: training and validation rows, objective and selection rule.
        hyperparameters: of PPO and its optimizer.
        run: seed, callback and checkpoint.

    Returns:
        the router with the best validation utility, in evaluation mode.
    """

    def ascent(update: Update, trajectory: Trajectory) -> None:
        returns = rewards_to_go(trajectory.reward, trajectory.last, hyperparameters.discount)
        shape = (-1, hyperparameters.group)  # minibatches hold whole groups, so that a query is scored once
        advantage = leave_one_out(returns, hyperparameters.group).reshape(shape)
        row, old, rule = trajectory.row.reshape(shape), trajectory.log_prob.reshape(shape), update.router.rule
        counts = trajectory.counts.reshape(*row.shape, -1)
        action = trajectory.action.reshape(*row.shape, -1)
        for _ in range(hyperparameters.reuse):
            order = torch.randperm(len(row), generator=update.generator, device=row.device)
            for part in order.chunk(hyperparameters.minibatches):
                observed = counts[part].flatten(0, 1) if update.router.state else counts
                logits = logits_of(update.router, update.rewards.outcomes, row[part], observed)
                ratio = (log_prob(rule, logits, action[part]) - old[part]).exp()
                gain = clipped(ratio, advantage[part], hyperparameters.clip).mean()
                update.ascend(gain + update.entropy * rule.entropy(logits).mean())

    return learn(problem, hyperparameters, run, ascent)


def clipped(ratio: Tensor, advantage: Tensor, clip: float) -> Tensor:
    """Return PPO's clipped surrogate, `min(r A, clip(r, 1 - eps, 1 + eps) A)`, elementwise (eq. 7).

    Args:
        ratio: float, probability ratio of the new to the old policy.
        advantage: float, of the same shape.
        clip: eps.
    """
    return torch.minimum(ratio * advantage, ratio.clamp(1.0 - clip, 1.0 + clip) * advantage)


METHOD = Method(
    name="router_ppo",
    family="rl",
    fit=fit,
    hyperparameters=RouterPPOHyperparameters,
    space=SPACE,
    about="PPO with a group baseline instead of a critic, on device",
)
