"""The DeepSeek-V2 gate: softmax scores, group-limited top-k, unnormalized weights (DeepSeek-AI 2024).

`g_e = p_e` for the k selected experts, not renormalized, among the M devices (here: groups of experts) with
the highest scores (section 2.2, eq. 20-22 of https://arxiv.org/abs/2405.04434). Three auxiliary losses
balance the load of experts (eq. 23-25), of devices (eq. 26-28) and of communication (eq. 29-31). In training,
the weight missing to 1 goes to a uniform guess, in place of the paper's shared experts and residual stream;
the paper's scaling factor is left out. With one group the last two losses are constant.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from envs import Outcomes
from experts.io.value_range import Count, NonNegative, Positive

from ...problems.routing.problem import RoutingProblem
from ...routing import Router, ScoredTopK
from ..hyperparameters import Hyperparameters
from ..method import Method, Run
from .gate_training import balance_loss, train_gate
from .mixture import at, expected_loss

__all__ = [
    "METHOD",
    "RULES",
    "SPACE",
    "DeepSeekV2GateHyperparameters",
    "communication_loss",
    "device_loss",
    "fit",
]

RULES = ("hard", "topk")


@dataclass(frozen=True, kw_only=True)
class DeepSeekV2GateHyperparameters(Hyperparameters):
    """Hyperparameters of the DeepSeek-V2 gate.

    Attributes:
        learning_rate: learning rate of AdamW.
        weight_decay: weight decay of AdamW.
        own_compute: compute weight in the gate's loss, as a multiple of the objective's.
        balance: coefficient alpha_1 of the expert-level balance loss.
        device_balance: coefficient alpha_2 of the device-level balance loss.
        communication_balance: coefficient alpha_3 of the communication balance loss.
        groups: number of expert groups (devices) D; must divide the number of experts.
        kept: number of groups M that a query can be sent to.
        epochs: maximum number of epochs.
        patience: validations without improvement before training stops.
        batch: queries per gradient step.
    """

    learning_rate: Positive = 1e-2
    weight_decay: NonNegative = 1e-2
    own_compute: NonNegative = 1.0
    balance: NonNegative = 0.003
    device_balance: NonNegative = 0.05
    communication_balance: NonNegative = 0.02
    groups: Count = 1
    kept: Count = 1
    epochs: Count = 60
    patience: Count = 12
    batch: Count = 64


SPACE = {
    "learning_rate": (1e-3, 3e-3, 1e-2),
    "weight_decay": (1e-4, 1e-2, 1e-1),
    "own_compute": (0.5, 1.0, 2.0, 4.0),
    "balance": (0.0, 0.003, 0.03, 0.3),
    "batch": (64, 256),
}


def fit(problem: RoutingProblem, hyperparameters: DeepSeekV2GateHyperparameters, run: Run) -> Router:
    """Train the gate; with several groups the returned router's rule is `scored_topk`."""
    compute_weight = hyperparameters.own_compute * problem.objective.compute_weight
    groups, kept = hyperparameters.groups, hyperparameters.kept
    rule = ScoredTopK(k=problem.rule.k, score="softmax", groups=groups, kept=kept, judged_by=1)
    rule.check(len(problem.train.experts))

    def loss(router: Router, outcomes: Outcomes, rows: Tensor, generator: torch.Generator) -> Tensor:
        logits, _ = router.logits(outcomes.features[rows])
        probabilities = logits.softmax(dim=-1)
        experts = rule.select(logits.detach()).experts
        value = expected_loss(at(probabilities, experts), outcomes, rows, compute_weight)
        value = value + hyperparameters.balance * balance_loss(probabilities, experts)
        value = value + hyperparameters.device_balance * device_loss(probabilities, experts, groups)
        return value + hyperparameters.communication_balance * communication_loss(
            probabilities, experts, groups, kept
        )

    return train_gate(problem, hyperparameters, run, loss, serve=(lambda: rule) if groups > 1 else None)


def device_loss(probabilities: Tensor, experts: Tensor, groups: int) -> Tensor:
    """Return the device-level balance loss, `sum_i f'_i P'_i`: 1 if devices are evenly loaded (eq. 26-28).

    `f'_i` is the mean of `f_e = N / (k T) count_e` over a device's experts and `P'_i` the sum of their P.

    Args:
        probabilities: [B, N] float; carries the gradient.
        experts: [B, k] int64, selected experts.
        groups: number of devices, each with N / groups consecutive experts.
    """
    count = probabilities.shape[-1]
    counts = torch.bincount(experts.reshape(-1), minlength=count).float()
    fraction = (counts * count / experts.numel()).reshape(groups, -1).mean(dim=-1)
    return (fraction * probabilities.mean(dim=0).reshape(groups, -1).sum(dim=-1)).sum()


def communication_loss(probabilities: Tensor, experts: Tensor, groups: int, kept: int) -> Tensor:
    """Return the communication balance loss, `sum_i f''_i P''_i` (eq. 29-31).

    `f''_i = D / (M T) * queries sent to device i`.

    Args:
        probabilities: [B, N] float; carries the gradient.
        experts: [B, k] int64, selected experts.
        groups: D, number of devices.
        kept: M, number of devices that a query can be sent to.
    """
    rows, count = probabilities.shape
    device = experts // (count // groups)
    sent = probabilities.new_zeros((rows, groups)).scatter(-1, device, 1.0)
    fraction = sent.sum(dim=0) * groups / (kept * rows)
    return (fraction * probabilities.mean(dim=0).reshape(groups, -1).sum(dim=-1)).sum()


METHOD = Method(
    name="deepseek_v2_gate",
    family="gate",
    fit=fit,
    hyperparameters=DeepSeekV2GateHyperparameters,
    space=SPACE,
    about="softmax scores, group-limited top-k (DeepSeek-AI 2024)",
    selections=RULES,
)
