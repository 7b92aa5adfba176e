"""Load over a window of decisions: the counts of a window, and each decision's marginal load penalty.

Pure functions; the routing environment, the agents that roll it out and the evaluation all call them.

Legend: T queries, B lanes, N experts, W decisions of a window.
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["clear_windows", "count_decision", "load_penalty", "penalties_in_order"]


def load_penalty(counts: Tensor, decisions: Tensor, share: Tensor, window: int) -> Tensor:
    """The load that one decision adds to its window.

    The load of a window of W decisions with shares `f_e` is the squared coefficient of variation
    `N sum_e f_e^2 - 1`: 0 if uniform, N - 1 if one expert takes everything. With counts `n_e` after t
    decisions, `Phi_t = (N sum_e n_e^2 - t^2) / W` is 0 at the start and W times the load at the end. Each
    decision pays its increment

        Phi_{t+1} - Phi_t = (N (2 n . a + a . a) - (2 t + 1)) / W

    so the mean penalty over a full window is exactly its load, and each decision pays for its own effect.

    Args:
        counts: [..., N] float32, decisions that each expert took in the window so far.
        decisions: [...] float32, t, their number.
        share: [..., N] float32, how this decision divides among the experts; rows sum to 1.
        window: W.

    Returns:
        [...] float32.
    """
    experts = counts.shape[-1]
    own = (share * (2.0 * counts + share)).sum(dim=-1)
    return (experts * own - (2.0 * decisions + 1.0)) / window


def count_decision(counts: Tensor, decisions: Tensor, share: Tensor) -> tuple[Tensor, Tensor]:
    """The counts [B, N] and the number of decisions [B] after one more decision of this share [B, N]."""
    return counts + share, decisions + 1.0


def clear_windows(counts: Tensor, decisions: Tensor, finished: Tensor) -> tuple[Tensor, Tensor]:
    """The counts [B, N] and the number of decisions [B], set to 0 where `finished` [B] bool is True."""
    keep = (~finished).float()
    return counts * keep.unsqueeze(-1), decisions * keep


def penalties_in_order(share: Tensor, window: int) -> Tensor:
    """The load penalty of each of T decisions in consecutive windows of W; the last window may be shorter.

    Args:
        share: [T, N] float32, how each decision divides among the experts, in the order of the decisions.
        window: W; T if it is larger.

    Returns:
        [T] float32.

    >>> penalties_in_order(torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]]), 2)
    tensor([0.5000, 1.5000, 0.5000])
    """
    queries, experts = share.shape
    window = min(window, queries)
    lanes = -(-queries // window)
    padded = torch.zeros(lanes * window, experts, device=share.device)
    padded[:queries] = share
    padded = padded.reshape(lanes, window, experts)
    before = padded.cumsum(dim=1) - padded
    decisions = torch.arange(window, device=share.device, dtype=torch.float32).expand(lanes, -1)
    return load_penalty(before, decisions, padded, window).reshape(-1)[:queries]
