"""The Switch gate: one expert per query, its output scaled by the gate's probability (Fedus et al. 2021).

Equation 2 of https://arxiv.org/abs/2101.03961 scales the selected expert's output, which is the gate's only
gradient. Here that output is the expert's log-probabilities, so a low gate probability flattens the
prediction, and the gate learns to select experts that are right. For tables without class probabilities, the
output is the expert's utility. Input jitter explores; the auxiliary loss `alpha N sum f_e P_e` (eq. 4)
balances the load; in training an expert takes at most `capacity_factor * B k / N` queries of a batch, and the
others have no gradient (section 2.2). With top-k selection each selected expert is scaled by its own
unnormalized probability.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from envs import Outcomes
from experts.io.value_range import Count, Fraction, NonNegative, Positive

from ...problems.routing.problem import RoutingProblem
from ...routing import Router
from ..hyperparameters import Hyperparameters
from ..method import Method, Run
from .gate_training import balance_loss, train_gate

__all__ = ["METHOD", "SPACE", "SwitchGateHyperparameters", "fit", "switch_loss", "within_capacity"]


@dataclass(frozen=True, kw_only=True)
class SwitchGateHyperparameters(Hyperparameters):
    """Hyperparameters of the Switch gate.

    Attributes:
        learning_rate: learning rate of AdamW.
        weight_decay: weight decay of AdamW.
        own_compute: compute weight in the gate's loss, as a multiple of the objective's.
        balance: coefficient alpha of the auxiliary load-balancing loss. With the paper's 0.01, a gate over
            frozen experts often collapses to one expert.
        own_load: added to alpha per unit of the objective's load weight.
        jitter: inputs are multiplied by uniform noise from 1 - jitter to 1 + jitter in training.
        capacity_factor: maximum queries of an expert per batch, as a multiple of its uniform share.
        epochs: maximum number of epochs.
        patience: validations without improvement before training stops.
        batch: queries per gradient step.
    """

    learning_rate: Positive = 1e-2
    weight_decay: NonNegative = 1e-2
    own_compute: NonNegative = 1.0
    balance: NonNegative = 0.3
    own_load: NonNegative = 2.0
    jitter: Fraction = 0.5
    capacity_factor: Positive = 2.0
    epochs: Count = 60
    patience: Count = 12
    batch: Count = 64


SPACE = {
    "learning_rate": (1e-3, 3e-3, 1e-2),
    "weight_decay": (1e-4, 1e-2, 1e-1),
    "own_compute": (0.5, 1.0, 2.0, 4.0),
    "balance": (0.01, 0.1, 0.3, 1.0),
    "own_load": (1.0, 2.0, 4.0, 8.0),
    "jitter": (0.01, 0.1, 0.5),
    "capacity_factor": (1.25, 2.0, 4.0),
    "batch": (64, 256),
}


def fit(problem: RoutingProblem, hyperparameters: SwitchGateHyperparameters, run: Run) -> Router:
    """Train the gate; returns the router with the best validation utility."""
    compute_weight = hyperparameters.own_compute * problem.objective.compute_weight
    strength = hyperparameters.balance + hyperparameters.own_load * problem.objective.load_weight

    def loss(router: Router, outcomes: Outcomes, rows: Tensor, generator: torch.Generator) -> Tensor:
        features = outcomes.features[rows]
        noise = torch.rand(features.shape, generator=generator, device=features.device)
        logits, _ = router.logits(features * (1.0 + hyperparameters.jitter * (2.0 * noise - 1.0)))
        probabilities = router.rule.probabilities(logits)
        experts = router.rule.select(logits.detach()).experts  # [B, k]
        valid = (experts < outcomes.experts).float()  # the id N means no expert
        accepted = within_capacity(experts, outcomes.experts, hyperparameters.capacity_factor) * valid
        selected = experts.clamp(max=outcomes.experts - 1)
        gate = probabilities.gather(-1, selected)
        compute = outcomes.compute[rows].gather(-1, selected)
        if outcomes.probabilities is None or outcomes.label is None:
            quality = outcomes.quality[rows].gather(-1, selected)
            value = -(gate * (quality - compute_weight * compute) * accepted).sum(dim=-1).mean()
        else:
            gates, labels = gate * accepted, outcomes.label[rows]
            task_loss = switch_loss(gates, outcomes.probabilities[rows], selected, labels)
            value = (task_loss + compute_weight * (gate * compute * accepted).sum(dim=-1)).mean()
        return value + strength * balance_loss(probabilities, experts)

    return train_gate(problem, hyperparameters, run, loss)


def switch_loss(gate: Tensor, probabilities: Tensor, experts: Tensor, label: Tensor) -> Tensor:
    """Return the cross-entropy of the selected experts' log-probabilities scaled by the gate, [B] float32.

    Args:
        gate: [B, k] float, probabilities of the selected experts, 0 if the expert is at capacity.
        probabilities: [B, N, C] float, class distribution of each expert.
        experts: [B, k] int64, selected experts.
        label: [B] int64, correct class.
    """
    classes = probabilities.shape[-1]
    selected = probabilities.gather(1, experts.unsqueeze(-1).expand(-1, -1, classes))
    scaled = gate.unsqueeze(-1) * (selected + 1e-3 / classes).log()
    return F.cross_entropy(scaled.sum(dim=1), label, reduction="none")


def within_capacity(experts: Tensor, total: int, factor: float) -> Tensor:
    """Return which selections are within an expert's capacity, first come first served.

    Args:
        experts: [B, k] int64, selected experts, in order of arrival.
        total: N.
        factor: the capacity is `ceil(factor * B k / N)` selections per expert.

    Returns:
        [B, k] float32, 1 if within capacity, else 0.

    >>> within_capacity(torch.tensor([[0], [0], [0], [1]]), 2, 1.0).squeeze(1)
    tensor([1., 1., 0., 1.])
    """
    capacity = -int(-factor * experts.numel() // total)
    taken = F.one_hot(experts.reshape(-1), total + 1).cumsum(dim=0)
    position = taken.gather(1, experts.reshape(-1, 1)).reshape(experts.shape)
    return (position <= capacity).float()


METHOD = Method(
    name="switch_gate",
    family="gate",
    fit=fit,
    hyperparameters=SwitchGateHyperparameters,
    space=SPACE,
    about="top-1 output times its probability (Fedus et al. 2021)",
)
