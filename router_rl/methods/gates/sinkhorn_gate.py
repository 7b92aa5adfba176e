"""The Sinkhorn gate: a balanced transport plan selects experts in training (S-BASE, Clark et al. 2022).

BASE (Lewis et al. 2021, https://arxiv.org/abs/2103.16716) assigns the same number of queries to every expert.
S-BASE relaxes the assignment to entropic optimal transport, solved by Sinkhorn iterations on the logits
(section 3.1 and appendix B of https://arxiv.org/abs/2202.01169). The plan has no gradient: it selects the
experts, and their weights are those of the plain softmax. At inference the largest logits are selected.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from envs import Outcomes
from experts.io.value_range import Count, NonNegative, Positive

from ...problems.routing.problem import RoutingProblem
from ...routing import Router
from ...routing.selection.topk import largest
from ..hyperparameters import Hyperparameters
from ..method import Method, Run
from .gate_training import train_gate
from .mixture import at, expected_loss

__all__ = ["METHOD", "RULES", "SPACE", "SinkhornGateHyperparameters", "fit", "transport_plan"]

RULES = ("hard", "topk")


@dataclass(frozen=True, kw_only=True)
class SinkhornGateHyperparameters(Hyperparameters):
    """Hyperparameters of the Sinkhorn gate.

    Attributes:
        learning_rate: learning rate of AdamW.
        weight_decay: weight decay of AdamW.
        own_compute: compute weight in the gate's loss, as a multiple of the objective's.
        temperature: temperature of the transport plan, in logits; as it approaches 0 the plan becomes BASE's.
        iterations: number of Sinkhorn iterations.
        epochs: maximum number of epochs.
        patience: validations without improvement before training stops.
        batch: queries per gradient step.
    """

    learning_rate: Positive = 1e-2
    weight_decay: NonNegative = 1e-2
    own_compute: NonNegative = 1.0
    temperature: Positive = 1.0
    iterations: Count = 10
    epochs: Count = 60
    patience: Count = 12
    batch: Count = 64


SPACE = {
    "learning_rate": (1e-3, 3e-3, 1e-2),
    "weight_decay": (1e-4, 1e-2, 1e-1),
    "own_compute": (0.5, 1.0, 2.0, 4.0),
    "temperature": (0.1, 0.3, 1.0),
    "batch": (64, 256),
}


def fit(problem: RoutingProblem, hyperparameters: SinkhornGateHyperparameters, run: Run) -> Router:
    """Train the gate; returns the router with the best validation utility."""
    compute_weight = hyperparameters.own_compute * problem.objective.compute_weight

    def loss(router: Router, outcomes: Outcomes, rows: Tensor, generator: torch.Generator) -> Tensor:
        logits, _ = router.logits(outcomes.features[rows])
        plan = transport_plan(logits.detach(), hyperparameters.temperature, hyperparameters.iterations)
        mixing = at(logits.softmax(dim=-1), largest(plan, problem.rule.k))
        return expected_loss(mixing, outcomes, rows, compute_weight)

    return train_gate(problem, hyperparameters, run, loss)


def transport_plan(logits: Tensor, temperature: float, iterations: int) -> Tensor:
    """Return the transport plan `exp(z / temperature + u_t + v_e)`: rows sum to 1, columns to B / N.

    Columns are normalized first and rows last, so that row sums are exact and column sums approximate.

    Args:
        logits: [B, N] float, z.
        temperature: positive.
        iterations: number of Sinkhorn iterations.

    Returns:
        [B, N] float32.
    """
    rows, count = logits.shape
    log_plan = logits.float() / temperature
    for _ in range(iterations):
        log_plan = log_plan - log_plan.logsumexp(dim=0, keepdim=True) + math.log(max(rows, 1) / count)
        log_plan = log_plan - log_plan.logsumexp(dim=1, keepdim=True)
    return log_plan.exp()


METHOD = Method(
    name="sinkhorn_gate",
    family="gate",
    fit=fit,
    hyperparameters=SinkhornGateHyperparameters,
    space=SPACE,
    about="balanced transport plan in training (Clark et al. 2022)",
    selections=RULES,
)
