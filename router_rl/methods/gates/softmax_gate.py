"""The softmax gate: a mixture with weights `g = softmax(z)`, trained on its task loss.

If the table has the class distribution of each expert, the loss is the mixture's negative log-likelihood
`-log sum_e g_e P_e(y)` (Jacobs, Jordan, Nowlan, Hinton 1991, eq. 1.3,
https://doi.org/10.1162/neco.1991.3.1.79), plus a compute penalty. Otherwise it is the cross-entropy to soft
targets `softmax(u / tau)` of each expert's utility u. In both cases the gate does not maximize the expected
utility: that would be the all-action policy gradient, which is RL.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from envs import Outcomes
from experts.io.value_range import Count, NonNegative, Positive

from ...problems.routing.problem import RoutingProblem
from ...routing import Router
from ..hyperparameters import Hyperparameters
from ..method import Method, Run
from .gate_training import balance_loss, train_gate

__all__ = ["METHOD", "SPACE", "SoftmaxGateHyperparameters", "fit", "mixture_loss", "soft_targets"]


@dataclass(frozen=True, kw_only=True)
class SoftmaxGateHyperparameters(Hyperparameters):
    """Hyperparameters of the softmax gate.

    Attributes:
        learning_rate: learning rate of AdamW.
        weight_decay: weight decay of AdamW.
        own_compute: compute weight in the gate's loss, as a multiple of the objective's.
        temperature: temperature tau of the soft targets, in utility (tables without class probabilities).
        balance: coefficient of the auxiliary load-balancing loss.
        own_load: added to `balance` per unit of the objective's load weight; at 2 the auxiliary loss has the
            same gradient as the load penalty.
        epochs: maximum number of epochs.
        patience: validations without improvement before training stops.
        batch: queries per gradient step.
    """

    learning_rate: Positive = 3e-3
    weight_decay: NonNegative = 1e-2
    own_compute: NonNegative = 1.0
    temperature: Positive = 0.2
    balance: NonNegative = 0.0
    own_load: NonNegative = 2.0
    epochs: Count = 60
    patience: Count = 12
    batch: Count = 256


SPACE = {
    "learning_rate": (1e-3, 3e-3, 1e-2),
    "weight_decay": (1e-4, 1e-2, 1e-1),
    "own_compute": (0.5, 1.0, 2.0, 4.0),
    "temperature": (0.05, 0.2, 0.5),
    "balance": (0.0, 1e-3, 1e-2, 1e-1),
    "own_load": (1.0, 2.0, 4.0, 8.0),
}


def fit(problem: RoutingProblem, hyperparameters: SoftmaxGateHyperparameters, run: Run) -> Router:
    """Train the gate; with top-k selection only the selected experts are mixed, as at inference."""
    compute_weight = hyperparameters.own_compute * problem.objective.compute_weight
    strength = hyperparameters.balance + hyperparameters.own_load * problem.objective.load_weight

    def loss(router: Router, outcomes: Outcomes, rows: Tensor, generator: torch.Generator) -> Tensor:
        logits = router.scores(outcomes.features.index_select(0, rows))
        probabilities = router.rule.probabilities(logits)
        experts = router.rule.select(logits.detach()).experts
        balance = strength * balance_loss(probabilities, experts)
        if outcomes.probabilities is None or outcomes.label is None:
            utility = outcomes.quality[rows] - compute_weight * outcomes.compute[rows]
            targets = soft_targets(utility, hyperparameters.temperature)
            return -(targets * probabilities.clamp(min=1e-12).log()).sum(dim=-1).mean() + balance
        task_loss = mixture_loss(
            router.rule.mixing(logits), outcomes.probabilities[rows], outcomes.label[rows]
        )
        compute = (probabilities * outcomes.compute[rows]).sum(dim=-1)
        return (task_loss + compute_weight * compute).mean() + balance

    return train_gate(problem, hyperparameters, run, loss)


def mixture_loss(mixing: Tensor, probabilities: Tensor, label: Tensor) -> Tensor:
    """Return the negative log-likelihood of a mixture, `-log sum_e g_e P_e(y)`, [B] float32.

    The weight missing to 1 goes to a uniform guess. A floor of a thousandth of the uniform guess limits the
    loss of one confident mistake.

    Args:
        mixing: [B, N] float, g; 0 for experts that do not run.
        probabilities: [B, N, C] float, class distribution of each expert.
        label: [B] int64, y.
    """
    count, classes = probabilities.shape[1:]
    likelihood = probabilities.gather(-1, label.reshape(-1, 1, 1).expand(-1, count, 1)).squeeze(-1)
    guess = 1.0 - mixing.sum(dim=-1)
    return -((mixing * likelihood).sum(dim=-1) + (guess + 1e-3) / classes).log()


def soft_targets(utility: Tensor, temperature: float) -> Tensor:
    """Return `softmax(u / tau)` [B, N] of utilities [B, N]; experts of equal utility get equal shares.

    >>> soft_targets(torch.tensor([[1.0, 1.0, 0.0]]), 0.1)[0, 0] > 0.49
    tensor(True)
    """
    return (utility / temperature).softmax(dim=-1)


METHOD = Method(
    name="softmax_gate",
    family="gate",
    fit=fit,
    hyperparameters=SoftmaxGateHyperparameters,
    space=SPACE,
    about="softmax mixture, task loss (Jacobs et al. 1991)",
    sparse=True,
)
