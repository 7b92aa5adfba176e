"""The Switch gate: one expert a query, its output scaled by the gate's probability (Fedus et al. 2021).

Equation 2 of https://arxiv.org/abs/2101.03961 scales the chosen expert's output, which is the gate's only
gradient; here that output is the expert's log-probabilities, so an unsure gate answers flatly and is drawn
towards experts that are right. Where a table has no class probabilities, the output is the chosen expert's
utility. Input jitter explores; the auxiliary loss `alpha N sum f_e P_e` (eq. 4) balances; an expert takes
at most `capacity_factor * B k / N` queries of a batch while training and the rest teach nothing (section
2.2). With top-k selection each chosen expert is scaled by its own unrenormalised probability.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from envs import Outcomes

from ...problems.routing.problem import RoutingProblem
from ...routing import Router
from ..method import Method, Run
from .gate_training import balance_loss, train_gate

__all__ = ["METHOD", "SPACE", "SwitchGateHyperparameters", "fit", "switch_loss", "within_capacity"]


@dataclass(frozen=True, kw_only=True)
class SwitchGateHyperparameters:
    """Hyperparameters of the Switch gate.

    Attributes:
        learning_rate: of AdamW.
        weight_decay: of AdamW.
        own_compute: the gate's own compute weight, as a multiple of the objective's.
        balance: alpha, the coefficient of the auxiliary load loss. The paper's 0.01 lets a gate over frozen
            experts settle on one of them early: with nothing to gain from training the others, it stays.
        own_load: what is added to alpha for each unit of the objective's load weight.
        jitter: inputs are multiplied by a number drawn from 1 +- this while training.
        capacity_factor: slots an expert has in a batch, as a multiple of its even share.
        epochs, patience, batch: of the training loop.
    """

    learning_rate: float = 1e-2
    weight_decay: float = 1e-2
    own_compute: float = 1.0
    balance: float = 0.3
    own_load: float = 2.0
    jitter: float = 0.5
    capacity_factor: float = 2.0
    epochs: int = 60
    patience: int = 12
    batch: int = 64


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
    """Train the gate."""
    compute_weight = hyperparameters.own_compute * problem.objective.compute_weight
    strength = hyperparameters.balance + hyperparameters.own_load * problem.objective.load_weight

    def loss(router: Router, outcomes: Outcomes, rows: Tensor, generator: torch.Generator) -> Tensor:
        features = outcomes.features[rows]
        noise = torch.rand(features.shape, generator=generator, device=features.device)
        logits, _ = router.logits(features * (1.0 + hyperparameters.jitter * (2.0 * noise - 1.0)))
        probabilities = router.rule.probabilities(logits)
        experts = router.rule.select(logits.detach()).experts  # [B, k]
        works = (experts < outcomes.experts).float()  # the id N is nobody
        taught = within_capacity(experts, outcomes.experts, hyperparameters.capacity_factor) * works
        chosen = experts.clamp(max=outcomes.experts - 1)
        gate = probabilities.gather(-1, chosen)
        compute = outcomes.compute[rows].gather(-1, chosen)
        if outcomes.probabilities is None or outcomes.label is None:
            quality = outcomes.quality[rows].gather(-1, chosen)
            value = -(gate * (quality - compute_weight * compute) * taught).sum(dim=-1).mean()
        else:
            task_loss = switch_loss(gate * taught, outcomes.probabilities[rows], chosen, outcomes.label[rows])
            value = (task_loss + compute_weight * (gate * compute * taught).sum(dim=-1)).mean()
        return value + strength * balance_loss(probabilities, experts)

    return train_gate(problem, hyperparameters, run, loss)


def switch_loss(gate: Tensor, probabilities: Tensor, experts: Tensor, label: Tensor) -> Tensor:
    """Cross-entropy of the chosen experts' log-probabilities scaled by the gate, [B] float32.

    Args:
        gate: [B, k] float, p of the chosen experts, 0 where one had no room.
        probabilities: [B, N, C] float, the class distribution of each expert.
        experts: [B, k] int64, the experts chosen.
        label: [B] int64.
    """
    classes = probabilities.shape[-1]
    chosen = probabilities.gather(1, experts.unsqueeze(-1).expand(-1, -1, classes))
    scaled = gate.unsqueeze(-1) * (chosen + 1e-3 / classes).log()
    return F.cross_entropy(scaled.sum(dim=1), label, reduction="none")


def within_capacity(experts: Tensor, total: int, factor: float) -> Tensor:
    """Which choices find room, first come first served.

    Args:
        experts: [B, k] int64, the experts chosen; row order is arrival order.
        total: N.
        factor: capacity is `ceil(factor * B k / N)` choices an expert.

    Returns:
        [B, k] float32, 1 where the expert still had room.

    >>> within_capacity(torch.tensor([[0], [0], [0], [1]]), 2, 1.0).squeeze(1)
    tensor([1., 1., 0., 1.])
    """
    capacity = -int(-factor * experts.numel() // total)
    taken = F.one_hot(experts.reshape(-1), total + 1).cumsum(dim=0)
    place = taken.gather(1, experts.reshape(-1, 1)).reshape(experts.shape)
    return (place <= capacity).float()


METHOD = Method(
    name="switch_gate",
    family="gate",
    fit=fit,
    hyperparameters=SwitchGateHyperparameters,
    space=SPACE,
    about="top-1 scaled by its probability (Fedus et al. 2021)",
)
