"""The reward: the utility of its parts, and quality and compute of the experts that a decision runs.

Legend: B lanes, T queries, N experts, k experts a decision, C classes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from .outcomes import Outcomes

__all__ = ["expert_utility", "mixture", "running", "shares", "utility"]

Value = TypeVar("Value", float, np.ndarray, Tensor)


def utility(parts: Mapping[str, Value], weights: Mapping[str, float | Value]) -> Value:
    """Quality minus the weighted costs: `quality - sum_i weight_i * part_i`.

    This is the only place where a utility is computed. The costs are subtracted in the order of `weights`, so
    that equal arguments give equal bits.

    Args:
        parts: by name; `quality`, or `nats` (a loss, which counts as -quality), and every part that has a
            weight. Parts without a weight are ignored. All have one shape, or shapes that broadcast.
        weights: utility per unit of each part that costs something; a number, or one for each entry.

    Returns:
        utility, in the shape of the parts.

    >>> round(utility({"quality": 1.0, "compute": 0.5, "load": 2.0}, {"compute": 0.2, "load": 0.1}), 6)
    0.7
    >>> utility({"nats": 2.5, "compute": 1.0}, {"compute": 0.5})
    -3.0
    """
    total = parts["quality"] if "quality" in parts else -parts["nats"]
    for name, weight in weights.items():
        total = total - weight * parts[name]
    return total


def expert_utility(outcomes: Outcomes, compute_weight: float) -> Tensor:
    """Utility of each single expert on each query, without load.

    Args:
        outcomes: the table.
        compute_weight: utility per unit of compute.

    Returns:
        [T, N] float32.
    """
    parts = {"quality": outcomes.quality, "compute": outcomes.compute}
    return utility(parts, {"compute": compute_weight})


def running(experts: Tensor, total: int) -> Tensor:
    """The experts that run, as zeros and ones.

    Args:
        experts: [..., k] int64 ids; a repeated id runs once, and the id N stands for no expert.
        total: N.

    Returns:
        [..., N] float32.
    """
    mask = torch.zeros((*experts.shape[:-1], total + 1), device=experts.device)
    return mask.scatter(-1, experts, 1.0)[..., :total]


def shares(experts: Tensor, total: int) -> Tensor:
    """How a decision divides among the experts that run.

    Args:
        experts: [..., k] int64 ids, as for `running`.
        total: N.

    Returns:
        [..., N] float32; rows sum to 1, or to 0 where no expert runs.
    """
    run = running(experts, total)
    if experts.shape[-1] == 1:
        return run
    return run / run.sum(dim=-1, keepdim=True).clamp(min=1.0)


def mixture(outcomes: Outcomes, row: Tensor, experts: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """Quality and compute of running a weighted set of experts on queries.

    One expert has its own quality. Several experts have the quality of their mixture. If the table has class
    probabilities, that is 1 where the largest entry of `sum_j w_j P_j` is the label, else 0. Otherwise it is
    the weighted mean of their qualities (the expected quality of an answer drawn by weight). Compute is
    summed over the experts that run. Smoothed outcomes (`Outcomes.smoothed`) give part of the quality for the
    mixture's probability of the label.

    Args:
        outcomes: the table.
        row: [B] int64, the queries.
        experts: [B, k] int64; a repeated id runs once and keeps both weights, the id N stands for no expert.
        weights: [B, k] float32, rows sum to 1; 0 where there is no expert.

    Returns:
        quality [B] and compute [B], float32.
    """
    if experts.shape[-1] == 1:
        expert = experts.squeeze(-1)
        runs = expert < outcomes.experts
        place = row * outcomes.experts + expert * runs  # flat: much faster than rows, then columns
        columns = (outcomes.quality, outcomes.compute)
        quality, compute = (column.reshape(-1).index_select(0, place) * runs for column in columns)
        return quality, compute
    run = running(experts, outcomes.experts)
    compute = (run * outcomes.compute[row]).sum(dim=-1)
    answered = run.amax(dim=-1)
    experts = experts.clamp(max=outcomes.experts - 1)  # the id N has weight 0, so any valid id can replace it
    if outcomes.probabilities is None or outcomes.label is None:
        return (outcomes.quality[row].gather(-1, experts) * weights).sum(dim=-1) * answered, compute
    classes = outcomes.probabilities.shape[-1]
    probabilities = outcomes.probabilities[row].gather(1, experts.unsqueeze(-1).expand(-1, -1, classes))
    mixed = (probabilities * weights.unsqueeze(-1)).sum(dim=1)
    label = outcomes.label[row]
    quality = (mixed.argmax(dim=-1) == label).float()
    if outcomes.smoothing:
        quality = torch.lerp(quality, mixed.gather(-1, label.unsqueeze(-1)).squeeze(-1), outcomes.smoothing)
    return quality * answered, compute
