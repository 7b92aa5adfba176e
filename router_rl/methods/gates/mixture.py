"""Task loss and compute penalty of a sparse mixture, shared by the gates.

The task loss is the negative log-likelihood of the mixture (`softmax_gate.mixture_loss`). A table without
class probabilities is treated as a two-class problem, right and wrong: an expert of quality q is right with
probability q (clamped to [0, 1]). So every gate has one loss on every table, and none maximizes the expected
utility directly.
"""

from __future__ import annotations

import torch
from torch import Tensor

from envs import Outcomes

from .softmax_gate import mixture_loss

__all__ = ["answers", "at", "expected_loss", "learning_k", "squared_variation"]


def answers(outcomes: Outcomes, rows: Tensor) -> tuple[Tensor, Tensor]:
    """Return the class distribution of every expert, [B, N, C] float32, and the correct class, [B] int64.

    Args:
        outcomes: the table.
        rows: [B] int64, row numbers.
    """
    if outcomes.probabilities is None or outcomes.label is None:
        quality = outcomes.quality[rows].clamp(0.0, 1.0)
        return torch.stack([quality, 1.0 - quality], dim=-1), torch.zeros_like(rows)
    return outcomes.probabilities[rows], outcomes.label[rows]


def expected_loss(mixing: Tensor, outcomes: Outcomes, rows: Tensor, compute_weight: float) -> Tensor:
    """Return the mean over a batch of `-log sum_e g_e P_e(y) + w sum_e g_e c_e`, a scalar.

    Args:
        mixing: [B, N] float, weights g, 0 for experts that do not run; rows sum to at most 1.
        outcomes: the table.
        rows: [B] int64, row numbers.
        compute_weight: w, compute weight in the gate's loss.
    """
    compute = (mixing * outcomes.compute[rows]).sum(dim=-1)
    return (mixture_loss(mixing, *answers(outcomes, rows)) + compute_weight * compute).mean()


def at(values: Tensor, experts: Tensor) -> Tensor:
    """Return the values [B, N] of the selected experts [B, k], others 0; gradients pass to the selected ones.

    >>> at(torch.tensor([[0.5, 0.3, 0.2]]), torch.tensor([[2, 0]]))
    tensor([[0.5000, 0.0000, 0.2000]])
    """
    return torch.zeros_like(values).scatter(-1, experts, values.gather(-1, experts))


def learning_k(k: int, experts: int) -> int:
    """Return how many experts a gate with renormalized weights selects in training: k, but at least 2.

    The weight of a single expert is always 1 and has no gradient, so the papers select several. A router that
    selects one expert at inference takes the first of the two.

    Args:
        k: experts per query at inference.
        experts: number of experts.
    """
    return min(max(k, 2), experts)


def squared_variation(values: Tensor) -> Tensor:
    """Return the squared coefficient of variation of [N] values, `var / mean^2`; 0 if all are equal.

    >>> squared_variation(torch.tensor([1.0, 3.0]))
    tensor(0.2500)
    """
    return values.var(unbiased=False) / values.mean().square().clamp(min=1e-10)
