"""The oracle: the best experts for each query, chosen knowing their outcomes. A bound, not a router."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import torch

from envs import Outcomes
from envs.reward import mixture, running
from experts import OutcomeTable

from ..evaluation.measure import Measurement, charges
from ..objective import Objective

__all__ = ["measure_oracle"]

_MOST_SETS = 5_000


def measure_oracle(table: OutcomeTable, objective: Objective, scale: float, k: int) -> Measurement:
    """Measure the best choice of k experts for every query; its utility is not charged for load.

    For k = 1 this is an upper bound on any router's utility, since load only ever costs. For k > 1 each
    set is worth the better of its equal-weight mixture and its best member (a mixture can put all its
    weight there): a bound in practice, though some other weighting may be right where both are wrong.
    Past 5,000 sets of k experts, only the sets of the k best-by-utility experts of each query are looked at.

    Args:
        table: the rows.
        objective: weights of compute (and load, reported but not charged).
        scale: the unit of compute, in the table's cost unit.
        k: experts a decision runs.
    """
    outcomes = Outcomes.of(table, scale)
    rows = torch.arange(len(table))
    best = torch.full((len(table),), float("-inf"))
    quality, compute = torch.zeros(len(table)), torch.zeros(len(table))
    experts = torch.zeros((len(table), k), dtype=torch.int64)
    for chosen in _sets(outcomes, objective, k):
        weights = torch.full(chosen.shape, 1.0 / k)
        mixed, cost = mixture(outcomes, rows, chosen, weights)
        reached = torch.maximum(mixed, outcomes.quality.gather(1, chosen).amax(dim=1))
        utility = objective.utility(reached, cost, torch.zeros_like(cost))
        better = utility > best
        best = torch.where(better, utility, best)
        quality = torch.where(better, reached, quality)
        compute = torch.where(better, cost, compute)
        experts = torch.where(better.unsqueeze(1), chosen, experts)
    share = running(experts, outcomes.experts) / k
    return Measurement(
        quality=quality.numpy(),
        compute=compute.numpy(),
        load=charges(share, objective.window).numpy(),
        utility=best.numpy(),
        share=share.numpy(),
        entropy=0.0,
        fallbacks=0,
    )


def _sets(outcomes: Outcomes, objective: Objective, k: int):
    """Sets of k experts to try, each [T, k]; the cheapest first, so that ties go to the cheapest."""
    order = np.argsort(outcomes.compute.mean(dim=0).numpy(), kind="stable")
    count = len(order)
    sets = 1
    for i in range(k):
        sets = sets * (count - i) // (i + 1)
    if sets <= _MOST_SETS:
        for members in combinations(order.tolist(), k):
            yield torch.tensor(members).expand(outcomes.queries, k)
        return
    alone = objective.utility(outcomes.quality, outcomes.compute, torch.zeros_like(outcomes.compute))
    yield alone.sort(dim=1, descending=True, stable=True).indices[:, :k]
