"""The parts of the reward: quality of the chosen mixture, compute, and each decision's share of the load.

Legend: B lanes, N experts, k chosen, C classes, W window.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .outcomes import Outcomes

__all__ = ["load_charge", "mixture", "running", "shares"]


def running(experts: Tensor, total: int) -> Tensor:
    """Which experts run: [..., k] int64 ids to [..., N] float32 zeros and ones.

    A repeated id runs once; the id N is nobody.
    """
    mask = torch.zeros((*experts.shape[:-1], total + 1), device=experts.device)
    return mask.scatter(-1, experts, 1.0)[..., :total]


def shares(experts: Tensor, total: int) -> Tensor:
    """How a decision divides among the experts that run: [..., N] float32, rows sum to 1 (0 if none runs)."""
    run = running(experts, total)
    return run / run.sum(dim=-1, keepdim=True).clamp(min=1.0)


def mixture(outcomes: Outcomes, row: Tensor, experts: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """Quality and compute of running a weighted set of experts on queries.

    One expert gives its own quality. Several give their mixture: where the table has class probabilities,
    1 if the largest entry of `sum_j w_j P_j` is the label, else 0; otherwise the weighted mean of their
    qualities (the expected quality of an answer drawn by weight). Compute is the sum over those that run.

    Args:
        outcomes: the table.
        row: [B] int64, the queries.
        experts: [B, k] int64; a repeated id runs once and keeps both weights, the id N is nobody.
        weights: [B, k] float32, rows sum to 1; 0 for nobody.

    Returns:
        quality [B] and compute [B], float32.
    """
    if experts.shape[-1] == 1:
        return (
            outcomes.quality[row].gather(-1, experts).squeeze(-1),
            outcomes.compute[row].gather(-1, experts).squeeze(-1),
        )
    run = running(experts, outcomes.experts)
    compute = (run * outcomes.compute[row]).sum(dim=-1)
    answered = run.amax(dim=-1)
    experts = experts.clamp(max=outcomes.experts - 1)  # nobody weighs 0, whoever stands for nobody here
    if outcomes.probabilities is None or outcomes.label is None:
        return (outcomes.quality[row].gather(-1, experts) * weights).sum(dim=-1) * answered, compute
    classes = outcomes.probabilities.shape[-1]
    chosen = outcomes.probabilities[row].gather(1, experts.unsqueeze(-1).expand(-1, -1, classes))
    answer = (chosen * weights.unsqueeze(-1)).sum(dim=1).argmax(dim=-1)
    return (answer == outcomes.label[row]).float() * answered, compute


def load_charge(counts: Tensor, decisions: Tensor, share: Tensor, window: int) -> Tensor:
    """What a decision adds to the load of its window.

    The load of a window of W decisions with shares `f_e` is the squared coefficient of variation
    `N sum_e f_e^2 - 1`: 0 if uniform, N - 1 if one expert takes everything. With counts `n_e` after t
    decisions, `Phi_t = (N sum_e n_e^2 - t^2) / W` is 0 at the start and W times the load at the end, so
    charging each decision its increment

        Phi_{t+1} - Phi_t = (N (2 n . a + a . a) - (2 t + 1)) / W

    makes the mean charge over a full window its load exactly, while each decision pays for its own effect.

    Args:
        counts: [..., N] float32, decisions each expert has taken in the window so far.
        decisions: [...] float32, t, their number.
        share: [..., N] float32, how this decision divides among the experts; rows sum to 1.
        window: W.

    Returns:
        [...] float32.
    """
    experts = counts.shape[-1]
    own = (share * (2.0 * counts + share)).sum(dim=-1)
    return (experts * own - (2.0 * decisions + 1.0)) / window
