"""PPO on device: thousands of decisions a rollout, the group as baseline, no critic, no host copies.

Schulman et al. 2017, eq. 7, https://arxiv.org/abs/1707.06347; the baseline is the group's, as in Shao et al.
2024 (section 4.1, https://arxiv.org/abs/2402.03300) but leaving the decision itself out and not dividing by
the group's deviation. A decision's own reward is all it reads.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ...problems.routing.problem import RoutingProblem
from ...routing import Router
from ..method import Method, Run
from .on_policy import Update, learn
from .rollout import Trajectory, leave_one_out, log_prob, logits_of, rewards_to_go

__all__ = ["METHOD", "SPACE", "RouterPPOHyperparameters", "clipped", "fit"]


@dataclass(frozen=True, kw_only=True)
class RouterPPOHyperparameters:
    """Hyperparameters; names as for `ReinforceHyperparameters`.

    Attributes:
        clip: how far the probability ratio may leave 1.
        reuse: passes over a rollout.
        minibatches: steps in a pass.
    """

    learning_rate: float = 3e-3
    weight_decay: float = 1e-2
    entropy: float = 0.03
    smoothing: float = 0.0
    clip: float = 0.2
    reuse: int = 2
    minibatches: int = 4
    group: int = 4
    lanes: int = 2048
    discount: float = 0.9
    decisions: int = 400_000
    patience: int = 10


SPACE = {
    "learning_rate": (1e-3, 3e-3, 1e-2),
    "weight_decay": (1e-4, 1e-2, 1e-1),
    "entropy": (0.0, 0.01, 0.03, 0.1),
    "smoothing": (0.0, 0.25, 0.5),
}


def fit(problem: RoutingProblem, hyperparameters: RouterPPOHyperparameters, run: Run) -> Router:
    """Train a policy by what its own draws earn, reusing each rollout within the clip."""

    def ascent(update: Update, seen: Trajectory) -> None:
        returns = rewards_to_go(seen.reward, seen.last, hyperparameters.discount)
        shape = (
            -1,
            hyperparameters.group,
        )  # whole groups go together, so that each query is scored once a step
        advantage = leave_one_out(returns, hyperparameters.group).reshape(shape)
        row, old, rule = seen.row.reshape(shape), seen.log_prob.reshape(shape), update.router.rule
        counts = seen.counts.reshape(*row.shape, -1)
        action = seen.action.reshape(*row.shape, -1)
        for _ in range(hyperparameters.reuse):
            order = torch.randperm(len(row), generator=update.generator, device=row.device)
            for part in order.chunk(hyperparameters.minibatches):
                seen_by = counts[part].flatten(0, 1) if update.router.state else counts
                logits = logits_of(update.router, update.payment.outcomes, row[part], seen_by)
                ratio = (log_prob(rule, logits, action[part]) - old[part]).exp()
                gain = clipped(ratio, advantage[part], hyperparameters.clip).mean()
                update.ascend(gain + update.entropy * rule.entropy(logits).mean())

    return learn(problem, hyperparameters, run, ascent)


def clipped(ratio: Tensor, advantage: Tensor, clip: float) -> Tensor:
    """PPO's surrogate `min(r A, clip(r, 1 - eps, 1 + eps) A)`, elementwise (eq. 7)."""
    return torch.minimum(ratio * advantage, ratio.clamp(1.0 - clip, 1.0 + clip) * advantage)


METHOD = Method(
    name="router_ppo",
    family="rl",
    fit=fit,
    hyperparameters=RouterPPOHyperparameters,
    space=SPACE,
    about="clipped surrogate with a group baseline, on device",
)
