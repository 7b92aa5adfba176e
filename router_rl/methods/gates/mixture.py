"""What a sparse gate's mixture is worth: its task loss, and the compute it asks for.

The task loss is the negative log-likelihood of the mixture (`softmax_gate.mixture_loss`). A table without
class probabilities is read as one of two classes, right and wrong: an expert of quality q answers rightly
with probability q, and right is what is wanted; an estimate of q is brought into [0, 1]. So every gate has
one loss on every table, and none climbs the expected utility itself.
"""

from __future__ import annotations

import torch
from torch import Tensor

from envs import Outcomes

from .softmax_gate import mixture_loss

__all__ = ["answers", "at", "expected_loss", "learning_k", "squared_variation"]


def answers(outcomes: Outcomes, rows: Tensor) -> tuple[Tensor, Tensor]:
    """Class distribution of every expert [B, N, C] float32 and the class that is right [B] int64.

    Args:
        outcomes: the table.
        rows: [B] int64, row numbers.
    """
    if outcomes.probabilities is None or outcomes.label is None:
        quality = outcomes.quality[rows].clamp(0.0, 1.0)
        return torch.stack([quality, 1.0 - quality], dim=-1), torch.zeros_like(rows)
    return outcomes.probabilities[rows], outcomes.label[rows]


def expected_loss(mixing: Tensor, outcomes: Outcomes, rows: Tensor, compute_weight: float) -> Tensor:
    """Mean over a batch of `-log sum_e g_e P_e(y) + w sum_e g_e c_e`, scalar.

    Args:
        mixing: [B, N] float, g, 0 for experts that do not run; rows sum to at most 1.
        outcomes: the table.
        rows: [B] int64, row numbers.
        compute_weight: w, the gate's own.
    """
    compute = (mixing * outcomes.compute[rows]).sum(dim=-1)
    return (mixture_loss(mixing, *answers(outcomes, rows)) + compute_weight * compute).mean()


def at(values: Tensor, experts: Tensor) -> Tensor:
    """Values [B, N] at the experts chosen [B, k], 0 elsewhere; the gradient goes to those alone.

    >>> at(torch.tensor([[0.5, 0.3, 0.2]]), torch.tensor([[2, 0]]))
    tensor([[0.5000, 0.0000, 0.2000]])
    """
    return torch.zeros_like(values).scatter(-1, experts, values.gather(-1, experts))


def learning_k(k: int, experts: int) -> int:
    """Experts that a gate with renormalised weights keeps while it learns: k, but 2 at least.

    The weight of a single one is always 1 and passes no gradient, so its papers keep several. A router that
    serves one expert then takes the first of the two.
    """
    return min(max(k, 2), experts)


def squared_variation(values: Tensor) -> Tensor:
    """Squared coefficient of variation of [N] values, `var / mean^2`, scalar; 0 where all are alike.

    >>> squared_variation(torch.tensor([1.0, 3.0]))
    tensor(0.2500)
    """
    return values.var(unbiased=False) / values.mean().square().clamp(min=1e-10)
