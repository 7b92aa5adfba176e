"""The straight-through gate: sparse selection in the forward pass, dense gradient in the backward pass.

DenseMixer (Yao et al. 2025, https://fengyao.notion.site/moe-posttraining) runs every expert in training,
outputs the selected ones, and passes the gradient to the gate as if all were mixed: `g = p +
stop_gradient(sparse - p)`, the straight-through estimator of Bengio, Leonard and Courville 2013, section 4
(https://arxiv.org/abs/1308.3432). The outcomes of frozen experts are known, so running all experts is free
here.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from envs import Outcomes
from experts.io.value_range import Count, NonNegative, Positive

from ...problems.routing.problem import RoutingProblem
from ...routing import Router, Selection
from ...routing.selection.topk import scattered
from ..hyperparameters import Hyperparameters
from ..method import Method, Run
from .gate_training import balance_loss, train_gate
from .mixture import expected_loss

__all__ = ["METHOD", "RULES", "SPACE", "StraightThroughGateHyperparameters", "fit", "straight_through"]

# Soft selection is not sparse: there this gate is the softmax gate.
RULES = ("hard", "topk", "hierarchical", "adaptive_k", "expert_choice")


@dataclass(frozen=True, kw_only=True)
class StraightThroughGateHyperparameters(Hyperparameters):
    """Hyperparameters of the straight-through gate.

    Attributes:
        learning_rate: learning rate of AdamW.
        weight_decay: weight decay of AdamW.
        own_compute: compute weight in the gate's loss, as a multiple of the objective's.
        balance: coefficient of the auxiliary load-balancing loss.
        epochs: maximum number of epochs.
        patience: validations without improvement before training stops.
        batch: queries per gradient step.
    """

    learning_rate: Positive = 1e-2
    weight_decay: NonNegative = 1e-2
    own_compute: NonNegative = 1.0
    balance: NonNegative = 0.0
    epochs: Count = 60
    patience: Count = 12
    batch: Count = 64


SPACE = {
    "learning_rate": (1e-3, 3e-3, 1e-2),
    "weight_decay": (1e-4, 1e-2, 1e-1),
    "own_compute": (0.5, 1.0, 2.0, 4.0),
    "balance": (0.0, 1e-3, 1e-2, 1e-1),
    "batch": (64, 256),
}


def fit(problem: RoutingProblem, hyperparameters: StraightThroughGateHyperparameters, run: Run) -> Router:
    """Train the gate; returns the router with the best validation utility."""
    compute_weight = hyperparameters.own_compute * problem.objective.compute_weight

    def loss(router: Router, outcomes: Outcomes, rows: Tensor, generator: torch.Generator) -> Tensor:
        logits, _ = router.logits(outcomes.features[rows])
        value = expected_loss(straight_through(router.rule, logits), outcomes, rows, compute_weight)
        experts = router.rule.select(logits.detach()).experts
        return value + hyperparameters.balance * balance_loss(router.rule.probabilities(logits), experts)

    return train_gate(problem, hyperparameters, run, loss)


def straight_through(rule: Selection, logits: Tensor) -> Tensor:
    """Return the rule's sparse weights with the gradient of the dense ones, [B, N] float32.

    Args:
        rule: selection rule.
        logits: [B, outputs] float.
    """
    dense = rule.probabilities(logits)
    sparse = scattered(dense.shape[-1], rule.select(logits.detach()))
    return dense + (sparse - dense).detach()


METHOD = Method(
    name="straight_through_gate",
    family="gate",
    fit=fit,
    hyperparameters=StraightThroughGateHyperparameters,
    space=SPACE,
    about="sparse selection, dense gradient (Yao et al. 2025)",
    selections=RULES,
)
