"""The expert-choice gate: in training every expert selects its top queries of the batch (Zhou et al. 2022).

`S = softmax(z)`; expert e selects the `ceil(c B / N)` rows with the largest S_te, with weight S_te, not
renormalized (eq. 1-2 of https://arxiv.org/abs/2202.09368). Load is balanced by construction, so there is no
auxiliary loss. A row that no expert selects gets a uniform guess. Under the rule `expert_choice` experts also
select queries at inference; under `hard` and `topk`, where requests are answered one by one, a query goes to
its largest scores.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from envs import Outcomes
from experts.io.value_range import Count, NonNegative, Positive

from ...problems.routing.problem import RoutingProblem
from ...routing import Router
from ...routing.selection.expert_choice import taken
from ..hyperparameters import Hyperparameters
from ..method import Method, Run
from .gate_training import train_gate
from .mixture import expected_loss

__all__ = ["METHOD", "RULES", "SPACE", "ExpertChoiceGateHyperparameters", "fit"]

RULES = ("hard", "topk", "expert_choice")


@dataclass(frozen=True, kw_only=True)
class ExpertChoiceGateHyperparameters(Hyperparameters):
    """Hyperparameters of the expert-choice gate.

    Attributes:
        learning_rate: learning rate of AdamW.
        weight_decay: weight decay of AdamW.
        own_compute: compute weight in the gate's loss, as a multiple of the objective's.
        capacity_factor: mean number of experts per query in training (c).
        epochs: maximum number of epochs.
        patience: validations without improvement before training stops.
        batch: queries per gradient step.
    """

    learning_rate: Positive = 1e-2
    weight_decay: NonNegative = 1e-2
    own_compute: NonNegative = 1.0
    capacity_factor: Positive = 2.0
    epochs: Count = 60
    patience: Count = 12
    batch: Count = 64


SPACE = {
    "learning_rate": (1e-3, 3e-3, 1e-2),
    "weight_decay": (1e-4, 1e-2, 1e-1),
    "own_compute": (0.5, 1.0, 2.0, 4.0),
    "capacity_factor": (1.0, 1.5, 2.0, 3.0),
    "batch": (64, 256),
}


def fit(problem: RoutingProblem, hyperparameters: ExpertChoiceGateHyperparameters, run: Run) -> Router:
    """Train the gate; returns the router with the best validation utility."""
    compute_weight = hyperparameters.own_compute * problem.objective.compute_weight

    def loss(router: Router, outcomes: Outcomes, rows: Tensor, generator: torch.Generator) -> Tensor:
        logits, _ = router.logits(outcomes.features[rows])
        scores = logits.softmax(dim=-1)
        mixing = scores * taken(scores.detach(), hyperparameters.capacity_factor)
        return expected_loss(mixing, outcomes, rows, compute_weight)

    return train_gate(problem, hyperparameters, run, loss)


METHOD = Method(
    name="expert_choice_gate",
    family="gate",
    fit=fit,
    hyperparameters=ExpertChoiceGateHyperparameters,
    space=SPACE,
    about="experts select queries in training (Zhou et al. 2022)",
    selections=RULES,
)
