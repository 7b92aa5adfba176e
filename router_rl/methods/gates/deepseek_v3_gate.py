"""The DeepSeek-V3 gate: sigmoid scores, selection by score plus bias, auxiliary-loss-free load balancing.

`s = sigmoid(z)`; the k largest of `s + b` are selected, with weights `s_e / sum of the selected s` (section
2.1.2, eq. 13-16 of https://arxiv.org/abs/2412.19437). After each step b_e decreases by gamma if expert e is
overloaded and increases if it is underloaded, without a gradient (Wang et al. 2024,
https://arxiv.org/abs/2408.15664, algorithm 1). A small sequence-wise balance loss is added (eq. 17-20), with
a batch as the sequence. With groups, those with the largest sum of their top 2 are kept. The renormalized
weight of a single expert is always 1, so the gate selects at least two experts in training, whatever the
selection rule at inference.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from envs import Outcomes
from experts.io.value_range import Count, NonNegative, Positive

from ...problems.routing.problem import RoutingProblem
from ...routing import Router, ScoredTopK, TopK
from ...routing.selection.topk import scattered
from ..hyperparameters import Hyperparameters
from ..method import Method, Run
from .gate_training import balance_loss, train_gate
from .mixture import expected_loss, learning_k

__all__ = ["METHOD", "RULES", "SPACE", "DeepSeekV3GateHyperparameters", "fit", "moved_bias"]

RULES = ("hard", "topk")


@dataclass(frozen=True, kw_only=True)
class DeepSeekV3GateHyperparameters(Hyperparameters):
    """Hyperparameters of the DeepSeek-V3 gate.

    Attributes:
        learning_rate: learning rate of AdamW.
        weight_decay: weight decay of AdamW.
        own_compute: compute weight in the gate's loss, as a multiple of the objective's.
        gamma: update speed of the bias, in units of score.
        balance: coefficient alpha of the sequence-wise balance loss.
        groups: number of expert groups; must divide the number of experts.
        kept: number of groups that a query can be sent to.
        epochs: maximum number of epochs.
        patience: validations without improvement before training stops.
        batch: queries per gradient step.
    """

    learning_rate: Positive = 1e-2
    weight_decay: NonNegative = 1e-2
    own_compute: NonNegative = 1.0
    gamma: NonNegative = 1e-3
    balance: NonNegative = 1e-4
    groups: Count = 1
    kept: Count = 1
    epochs: Count = 60
    patience: Count = 12
    batch: Count = 64


SPACE = {
    "learning_rate": (1e-3, 3e-3, 1e-2),
    "weight_decay": (1e-4, 1e-2, 1e-1),
    "own_compute": (0.5, 1.0, 2.0, 4.0),
    "gamma": (0.0, 1e-3, 1e-2),
    "balance": (0.0, 1e-4, 1e-2),
    "batch": (64, 256),
}


def fit(problem: RoutingProblem, hyperparameters: DeepSeekV3GateHyperparameters, run: Run) -> Router:
    """Train the gate; the returned router's rule is `scored_topk` with the learned bias."""
    count = len(problem.train.experts)
    compute_weight = hyperparameters.own_compute * problem.objective.compute_weight
    served = ScoredTopK(
        k=problem.rule.k, score="sigmoid", groups=hyperparameters.groups, kept=hyperparameters.kept
    )
    learned = replace(served, k=learning_k(served.k, count))
    learned.check(count)
    unbiased = TopK(k=learned.k)
    state = _Bias(count)

    def loss(router: Router, outcomes: Outcomes, rows: Tensor, generator: torch.Generator) -> Tensor:
        logits, _ = router.logits(outcomes.features[rows])
        choice = replace(learned, bias=state.values()).select(logits)
        value = expected_loss(scattered(count, choice), outcomes, rows, compute_weight)
        scores = logits.sigmoid()
        shares = scores / scores.sum(dim=-1, keepdim=True)
        # The sequence-wise term counts the experts selected by the unbiased scores (eq. 18).
        value = value + hyperparameters.balance * balance_loss(
            shares, unbiased.select(scores.detach()).experts
        )
        state.bias.copy_(moved_bias(state.bias, choice.experts, hyperparameters.gamma))
        return value

    def serve() -> ScoredTopK:
        return replace(served, bias=state.values())

    return train_gate(problem, hyperparameters, run, loss, extra=state, serve=serve)


def moved_bias(bias: Tensor, experts: Tensor, gamma: float) -> Tensor:
    """Return the updated bias, `b + gamma sign(mean load - load)`, [N] float32.

    Args:
        bias: [N] float32.
        experts: [B, k] int64, experts selected with this bias.
        gamma: update speed.

    >>> moved_bias(torch.zeros(3), torch.tensor([[0, 1], [0, 2], [0, 1]]), 0.5)
    tensor([-0.5000,  0.0000,  0.5000])
    """
    load = torch.bincount(experts.reshape(-1), minlength=len(bias)).float()
    return bias + gamma * (load.mean() - load).sign()


class _Bias(nn.Module):
    """The bias b [N] float32, as a buffer because it has no gradient."""

    bias: Tensor

    def __init__(self, experts: int) -> None:
        super().__init__()
        self.register_buffer("bias", torch.zeros(experts))

    def values(self) -> tuple[float, ...]:
        """Return the bias in the format of the rule."""
        return tuple(self.bias.tolist())


METHOD = Method(
    name="deepseek_v3_gate",
    family="gate",
    fit=fit,
    hyperparameters=DeepSeekV3GateHyperparameters,
    space=SPACE,
    about="sigmoid scores, load-balancing bias (DeepSeek-AI 2024)",
    selections=RULES,
)
