"""The DeepSeek-V3 gate: chosen by sigmoid score + bias, weighed by score, balanced by the bias.

`s = sigmoid(z)`; the k largest of `s + b` are chosen and weigh `s_e / sum of the chosen s` (section 2.1.2,
eq. 13-16 of https://arxiv.org/abs/2412.19437). After each step b_e falls by gamma where an expert had more
than its share and rises where it had less, without a gradient (Wang et al. 2024,
https://arxiv.org/abs/2408.15664, algorithm 1); a tiny sequence-wise term (eq. 17-20) adds to it, a batch
being the sequence here. With groups, those with the largest sum of their top 2 are kept. The renormalised
weight of a single expert is always 1, so the gate keeps at least two while training, whatever it serves.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from envs import Outcomes

from ...problems.routing.problem import RoutingProblem
from ...routing import Router, ScoredTopK, TopK
from ...routing.selection.topk import scattered
from ..method import Method, Run
from .gate_training import balance_loss, train_gate
from .mixture import expected_loss, learning_k

__all__ = ["METHOD", "RULES", "SPACE", "DeepSeekV3GateHyperparameters", "fit", "moved_bias"]

RULES = ("hard", "topk")


@dataclass(frozen=True, kw_only=True)
class DeepSeekV3GateHyperparameters:
    """Hyperparameters of the DeepSeek-V3 gate.

    Attributes:
        learning_rate: of AdamW.
        weight_decay: of AdamW.
        own_compute: the gate's own compute weight, as a multiple of the objective's.
        gamma: the bias update speed, in units of score.
        balance: alpha, of the sequence-wise term.
        groups: of experts; must divide their number.
        kept: groups a query may be sent to.
        epochs, patience, batch: of the training loop.
    """

    learning_rate: float = 1e-2
    weight_decay: float = 1e-2
    own_compute: float = 1.0
    gamma: float = 1e-3
    balance: float = 1e-4
    groups: int = 1
    kept: int = 1
    epochs: int = 60
    patience: int = 12
    batch: int = 64


SPACE = {
    "learning_rate": (1e-3, 3e-3, 1e-2),
    "weight_decay": (1e-4, 1e-2, 1e-1),
    "own_compute": (0.5, 1.0, 2.0, 4.0),
    "gamma": (0.0, 1e-3, 1e-2),
    "balance": (0.0, 1e-4, 1e-2),
    "batch": (64, 256),
}


def fit(problem: RoutingProblem, hyperparameters: DeepSeekV3GateHyperparameters, run: Run) -> Router:
    """Train the gate; it returns a router whose rule is `scored_topk` with the learned bias."""
    count = len(problem.train.experts)
    compute_weight = hyperparameters.own_compute * problem.objective.compute_weight
    served = ScoredTopK(
        k=problem.rule.k, score="sigmoid", groups=hyperparameters.groups, kept=hyperparameters.kept
    )
    learned = replace(served, k=learning_k(served.k, count))
    learned.check(count)
    bare = TopK(k=learned.k)
    state = _Bias(count)

    def loss(router: Router, outcomes: Outcomes, rows: Tensor, generator: torch.Generator) -> Tensor:
        logits, _ = router.logits(outcomes.features[rows])
        choice = replace(learned, bias=state.values()).select(logits)
        value = expected_loss(scattered(count, choice), outcomes, rows, compute_weight)
        scores = logits.sigmoid()
        shares = scores / scores.sum(dim=-1, keepdim=True)
        # The sequence-wise term counts the choice by the bare scores (eq. 18).
        value = value + hyperparameters.balance * balance_loss(shares, bare.select(scores.detach()).experts)
        state.bias.copy_(moved_bias(state.bias, choice.experts, hyperparameters.gamma))
        return value

    def serve() -> ScoredTopK:
        return replace(served, bias=state.values())

    return train_gate(problem, hyperparameters, run, loss, extra=state, serve=serve)


def moved_bias(bias: Tensor, experts: Tensor, gamma: float) -> Tensor:
    """`b + gamma sign(mean load - load)`, [N] float32.

    Args:
        bias: [N] float32.
        experts: [B, k] int64, the experts chosen with it.
        gamma: the step.

    >>> moved_bias(torch.zeros(3), torch.tensor([[0, 1], [0, 2], [0, 1]]), 0.5)
    tensor([-0.5000,  0.0000,  0.5000])
    """
    load = torch.bincount(experts.reshape(-1), minlength=len(bias)).float()
    return bias + gamma * (load.mean() - load).sign()


class _Bias(nn.Module):
    """b [N] float32: a buffer, since no gradient reaches it."""

    bias: Tensor

    def __init__(self, experts: int) -> None:
        super().__init__()
        self.register_buffer("bias", torch.zeros(experts))

    def values(self) -> tuple[float, ...]:
        """The bias as the rule carries it."""
        return tuple(self.bias.tolist())


METHOD = Method(
    name="deepseek_v3_gate",
    family="gate",
    fit=fit,
    hyperparameters=DeepSeekV3GateHyperparameters,
    space=SPACE,
    about="sigmoid scores balanced by a bias (DeepSeek-AI 2024)",
    selections=RULES,
)
