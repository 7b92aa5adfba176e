"""The Mixtral gate: `g = softmax(TopK(z))`, renormalized over the selected experts (Jiang et al. 2024).

Section 2.1 of https://arxiv.org/abs/2401.04088. The auxiliary loss `N sum f_e P_e` at 0.02 is that of the
released model (`router_aux_loss_coef`), with P the softmax over all experts (Fedus et al. 2021, eq. 4).

With one expert per query the weight is `exp(z) / exp(z) = 1` for any z, so the task loss and the compute
penalty have no gradient, and only the auxiliary loss trains the gate. This is the gate as published;
`docs/k1_trap.md` measures the effect.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from envs import Outcomes
from experts.io.value_range import Count, NonNegative, Positive

from ...problems.routing.problem import RoutingProblem
from ...routing import Router, TopK
from ..hyperparameters import Hyperparameters
from ..method import Method, Run
from .gate_training import balance_loss, train_gate
from .mixture import expected_loss

__all__ = ["METHOD", "RULES", "SPACE", "MixtralGateHyperparameters", "fit"]

RULES = ("hard", "topk")


@dataclass(frozen=True, kw_only=True)
class MixtralGateHyperparameters(Hyperparameters):
    """Hyperparameters of the Mixtral gate.

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
    balance: NonNegative = 0.02
    epochs: Count = 60
    patience: Count = 12
    batch: Count = 64


SPACE = {
    "learning_rate": (1e-3, 3e-3, 1e-2),
    "weight_decay": (1e-4, 1e-2, 1e-1),
    "own_compute": (0.5, 1.0, 2.0, 4.0),
    "balance": (0.0, 0.02, 0.1, 0.3),
    "batch": (64, 256),
}


def fit(problem: RoutingProblem, hyperparameters: MixtralGateHyperparameters, run: Run) -> Router:
    """Train the gate; returns the router with the best validation utility."""
    compute_weight = hyperparameters.own_compute * problem.objective.compute_weight
    top = TopK(k=problem.rule.k)

    def loss(router: Router, outcomes: Outcomes, rows: Tensor, generator: torch.Generator) -> Tensor:
        logits, _ = router.logits(outcomes.features[rows])
        value = expected_loss(top.mixing(logits), outcomes, rows, compute_weight)
        experts = top.select(logits.detach()).experts
        return value + hyperparameters.balance * balance_loss(logits.softmax(dim=-1), experts)

    return train_gate(problem, hyperparameters, run, loss)


METHOD = Method(
    name="mixtral_gate",
    family="gate",
    fit=fit,
    hyperparameters=MixtralGateHyperparameters,
    space=SPACE,
    about="softmax over the top k experts (Jiang et al. 2024)",
    selections=RULES,
)
