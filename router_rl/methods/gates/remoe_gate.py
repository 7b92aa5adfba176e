"""The ReMoE gate: `g = ReLU(z)`, sparse by an adaptive L1 penalty (Wang, Zhu and Chen 2025).

Every expert with a positive logit runs with that weight, so the gate is fully differentiable (section 3 of
https://arxiv.org/abs/2412.14711). The penalty's coefficient is multiplied by `alpha^sign(target - sparsity)`
after each step, with target `1 - k / N`. Each expert's penalty is weighted by its load, so that it also
balances the load. Weights are not normalized in training: they scale the experts' log-probabilities, as they
scale the experts' outputs in the paper. The router selects the k largest logits, with ReLU weights,
renormalized; under `adaptive_k` the logit of "no expert" corresponds to the zero of the ReLU.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from envs import Outcomes
from experts.io.value_range import Count, NonNegative, Positive

from ...problems.routing.problem import RoutingProblem
from ...routing import AdaptiveK, Router, ScoredTopK
from ..hyperparameters import Hyperparameters
from ..method import Method, Run
from .gate_training import train_gate
from .mixture import answers
from .switch_gate import switch_loss

__all__ = ["METHOD", "RULES", "SPACE", "ReMoEGateHyperparameters", "adapted", "fit", "weighted_l1"]

RULES = ("hard", "topk", "adaptive_k")


@dataclass(frozen=True, kw_only=True)
class ReMoEGateHyperparameters(Hyperparameters):
    """Hyperparameters of the ReMoE gate.

    Attributes:
        learning_rate: learning rate of AdamW.
        weight_decay: weight decay of AdamW.
        own_compute: compute weight in the gate's loss, as a multiple of the objective's.
        penalty: initial coefficient lambda_0 of the L1 penalty.
        alpha: factor that updates the coefficient at each step.
        start: initial bias of every expert's logit. Experts with a negative logit have no gradient, so all
            experts run at first (the paper's dense stage).
        epochs: maximum number of epochs.
        patience: validations without improvement before training stops.
        batch: queries per gradient step.
    """

    learning_rate: Positive = 1e-2
    weight_decay: NonNegative = 1e-2
    own_compute: NonNegative = 1.0
    penalty: NonNegative = 1e-8
    alpha: NonNegative = 1.2
    start: float = 1.0
    epochs: Count = 60
    patience: Count = 12
    batch: Count = 64


SPACE = {
    "learning_rate": (1e-3, 3e-3, 1e-2),
    "weight_decay": (1e-4, 1e-2, 1e-1),
    "own_compute": (0.5, 1.0, 2.0, 4.0),
    "penalty": (1e-8, 1e-4, 1e-2),
    "alpha": (1.05, 1.2),
    "start": (0.5, 1.0, 2.0),
    "batch": (64, 256),
}


def fit(problem: RoutingProblem, hyperparameters: ReMoEGateHyperparameters, run: Run) -> Router:
    """Train the gate; under `topk` the returned router's rule is `scored_topk` with ReLU scores."""
    count, k = len(problem.train.experts), problem.rule.k
    compute_weight = hyperparameters.own_compute * problem.objective.compute_weight
    state = _Penalty(hyperparameters.penalty)

    def loss(router: Router, outcomes: Outcomes, rows: Tensor, generator: torch.Generator) -> Tensor:
        logits, _ = router.logits(outcomes.features[rows])
        if isinstance(problem.rule, AdaptiveK):
            logits = logits[..., :-1] - logits[..., -1:]
        gate = logits.relu()
        all_experts = torch.arange(count, device=rows.device).expand(len(rows), -1)
        probabilities, label = answers(outcomes, rows)
        compute = (gate * outcomes.compute[rows]).sum(dim=-1)
        value = (switch_loss(gate, probabilities, all_experts, label) + compute_weight * compute).mean()
        value = value + state.coefficient * weighted_l1(gate, k)
        sparsity = (gate.detach() == 0).float().mean()
        state.coefficient = adapted(state.coefficient, sparsity, 1.0 - k / count, hyperparameters.alpha)
        return value

    serve = (lambda: ScoredTopK(k=k, score="relu")) if problem.rule.name == "topk" else None
    router = problem.new_router(run.seed)
    with torch.no_grad():
        # The last parameter is the output bias; the entry of "no expert", after the experts, stays.
        list(router.scorer.parameters())[-1][:count] += hyperparameters.start
    return train_gate(problem, hyperparameters, run, loss, router=router, extra=state, serve=serve)


def weighted_l1(gate: Tensor, k: int) -> Tensor:
    """Return the load-weighted L1 penalty, `mean_t sum_e f_e g_te`.

    `f_e = N / (k B) * queries that expert e runs on`.

    Args:
        gate: [B, N] float, non-negative; carries the gradient, its load does not.
        k: target number of experts per query.
    """
    rows, count = gate.shape
    load = (gate.detach() > 0).sum(dim=0) * count / (k * rows)
    return (load * gate).sum(dim=-1).mean()


def adapted(coefficient: Tensor, sparsity: Tensor, target: float, alpha: float) -> Tensor:
    """Return `coefficient * alpha^sign(target - sparsity)`: a larger penalty if too many experts run.

    Args:
        coefficient: scalar float, current coefficient.
        sparsity: scalar float, fraction of zero weights.
        target: target sparsity.
        alpha: update factor, above 1.

    >>> adapted(torch.tensor(1.0), torch.tensor(0.25), 0.5, 2.0)
    tensor(2.)
    """
    return coefficient * alpha ** (target - sparsity).sign()


class _Penalty(nn.Module):
    """The penalty's coefficient lambda, as a buffer because it has no gradient."""

    coefficient: Tensor

    def __init__(self, first: float) -> None:
        super().__init__()
        self.register_buffer("coefficient", torch.tensor(first))


METHOD = Method(
    name="remoe_gate",
    family="gate",
    fit=fit,
    hyperparameters=ReMoEGateHyperparameters,
    space=SPACE,
    about="ReLU weights, adaptive L1 penalty (Wang et al. 2025)",
    selections=RULES,
)
