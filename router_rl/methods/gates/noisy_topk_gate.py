"""The noisy top-k gate: logits with learned noise, top k, softmax (Shazeer et al. 2017).

`H = z + eps softplus(x W_noise)` and `g = softmax(KeepTopK(H, k))` (eq. 3-5 of
https://arxiv.org/abs/1701.06538). Two losses of weight 0.01 balance the load: the squared coefficient of
variation of the importance `sum_t g_te` (eq. 6-7) and of the load, a smooth estimate of the number of queries
of each expert (appendix A, eq. 8-11). There is no noise at inference. As in the paper, training uses k > 1,
because a single weight is always 1.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from envs import Outcomes
from experts.io.value_range import Count, NonNegative, Positive

from ...problems.routing.problem import RoutingProblem
from ...routing import Router, TopK
from ..hyperparameters import Hyperparameters
from ..method import Method, Run
from .gate_training import train_gate
from .mixture import expected_loss, learning_k, squared_variation

__all__ = ["METHOD", "RULES", "SPACE", "NoisyTopKGateHyperparameters", "fit", "load_probability"]

RULES = ("hard", "topk")


@dataclass(frozen=True, kw_only=True)
class NoisyTopKGateHyperparameters(Hyperparameters):
    """Hyperparameters of the noisy top-k gate.

    Attributes:
        learning_rate: learning rate of AdamW.
        weight_decay: weight decay of AdamW.
        own_compute: compute weight in the gate's loss, as a multiple of the objective's.
        importance: coefficient of the importance loss.
        load: coefficient of the load loss.
        epochs: maximum number of epochs.
        patience: validations without improvement before training stops.
        batch: queries per gradient step.
    """

    learning_rate: Positive = 1e-2
    weight_decay: NonNegative = 1e-2
    own_compute: NonNegative = 1.0
    importance: NonNegative = 0.01
    load: NonNegative = 0.01
    epochs: Count = 60
    patience: Count = 12
    batch: Count = 64


SPACE = {
    "learning_rate": (1e-3, 3e-3, 1e-2),
    "weight_decay": (1e-4, 1e-2, 1e-1),
    "own_compute": (0.5, 1.0, 2.0, 4.0),
    "importance": (0.0, 0.01, 0.1),
    "load": (0.0, 0.01, 0.1),
    "batch": (64, 256),
}


def fit(problem: RoutingProblem, hyperparameters: NoisyTopKGateHyperparameters, run: Run) -> Router:
    """Train the gate; returns the router with the best validation utility."""
    compute_weight = hyperparameters.own_compute * problem.objective.compute_weight
    kept = learning_k(problem.rule.k, len(problem.train.experts))
    top = TopK(k=kept)
    noise = _Noise(problem)

    def loss(router: Router, outcomes: Outcomes, rows: Tensor, generator: torch.Generator) -> Tensor:
        features = outcomes.features[rows]
        clean, _ = router.logits(features)
        spread = noise(features)
        normal = torch.randn(clean.shape, generator=generator, device=clean.device)
        noisy = clean + normal * spread
        mixing = top.mixing(noisy)
        importance = squared_variation(mixing.sum(dim=0))
        load = squared_variation(load_probability(clean, noisy, spread, kept).sum(dim=0))
        value = expected_loss(mixing, outcomes, rows, compute_weight)
        return value + hyperparameters.importance * importance + hyperparameters.load * load

    return train_gate(problem, hyperparameters, run, loss, extra=noise)


def load_probability(clean: Tensor, noisy: Tensor, spread: Tensor, k: int) -> Tensor:
    """Return the probability that an expert is selected if its own noise is resampled (appendix A, eq. 8-9).

    `P = Phi((z_e - the k-th largest of H without e) / softplus(x W_noise)_e)`.

    Args:
        clean: [B, N] float, z.
        noisy: [B, N] float, H.
        spread: [B, N] float, standard deviation of the noise, positive.
        k: experts selected; if k = N, all probabilities are 1.

    Returns:
        [B, N] float.
    """
    if k >= clean.shape[-1]:
        return torch.ones_like(clean)
    best = noisy.sort(dim=-1, descending=True).values[..., : k + 1]
    last, next_best = best[..., k - 1 : k], best[..., k : k + 1]
    # For an expert that is selected, the k-th largest of the others is the first one not selected.
    threshold = torch.where(noisy >= last, next_best, last)
    return torch.special.ndtr((clean - threshold) / spread)


class _Noise(nn.Module):
    """`softplus(x W_noise)` of the standardised features; W_noise is initialized to 0 (appendix A)."""

    shift: Tensor
    scale: Tensor

    def __init__(self, problem: RoutingProblem) -> None:
        super().__init__()
        scorer = problem.new_router(0, kind="linear").scorer
        self.register_buffer("shift", scorer.get_buffer("shift"))
        self.register_buffer("scale", scorer.get_buffer("scale"))
        self.weight = nn.Parameter(torch.zeros(len(problem.train.experts), len(scorer.get_buffer("shift"))))

    def forward(self, features: Tensor) -> Tensor:
        """Return the standard deviations [B, N] of the noise for features [B, D]."""
        # The floor keeps the quotient in the load loss finite when the learned noise vanishes.
        return F.softplus(F.linear((features - self.shift) * self.scale, self.weight)) + 1e-2


METHOD = Method(
    name="noisy_topk_gate",
    family="gate",
    fit=fit,
    hyperparameters=NoisyTopKGateHyperparameters,
    space=SPACE,
    about="top k of noisy logits (Shazeer et al. 2017)",
    selections=RULES,
)
