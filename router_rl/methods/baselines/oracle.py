"""The oracle: the best experts for each query, given their outcomes. A bound, not a router."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import combinations

import numpy as np
import torch

from envs import Outcomes
from envs.reward import mixture, running
from experts import OutcomeTable

from ...problems.objective import Objective
from ...problems.problem import Case
from ...problems.routing.problem import RoutingProblem
from ...problems.routing.router_measurement import RouterMeasurement
from ..method import Bound

__all__ = ["ORACLE", "measure_oracle"]

_MAX_SETS = 5_000


def measure_oracle(
    table: OutcomeTable,
    objective: Objective,
    scale: float,
    sizes: Sequence[int],
    allowed: np.ndarray | None = None,
) -> RouterMeasurement:
    """Evaluate the best set of experts for every query; its utility excludes the load penalty.

    For single experts this is an upper bound on any router's utility, because load is only a cost. A larger
    set is worth the better of its equal-weight mixture and its best member (a mixture can put all its weight
    there). This is a bound in practice, although another weighting could be right where both are wrong. With
    more than 5,000 sets of one size, only the experts with the highest utility for each query are considered.

    Under a budget, the choices are the best that meet it on these rows, up to one row.

    Args:
        table: the rows.
        objective: weights of compute (and load, which is reported but not charged).
        scale: unit of compute, in the table's cost unit.
        sizes: numbers of experts that a decision can select.
        allowed: [N] bool, experts that can be selected; None for all.
    """
    if objective.budget is not None:
        return _within_budget(table, objective, scale, sizes, allowed)
    outcomes = Outcomes.of(table, scale)
    rows = torch.arange(len(table))
    best = torch.full((len(table),), float("-inf"))
    quality, compute = torch.zeros(len(table)), torch.zeros(len(table))
    run = torch.zeros((len(table), outcomes.experts))
    for experts in (each for size in sizes for each in _sets(outcomes, objective, size, allowed)):
        weights = torch.full(experts.shape, 1.0 / experts.shape[1])
        mixed, cost = mixture(outcomes, rows, experts, weights)
        reached = torch.maximum(mixed, outcomes.quality.gather(1, experts).amax(dim=1))
        utility = objective.utility(reached, cost, torch.zeros_like(cost))
        better = utility > best
        best = torch.where(better, utility, best)
        quality = torch.where(better, reached, quality)
        compute = torch.where(better, cost, compute)
        run = torch.where(better.unsqueeze(1), running(experts, outcomes.experts), run)
    share = run / run.sum(dim=-1, keepdim=True)
    return RouterMeasurement(
        parts={"quality": quality.numpy(), "compute": compute.numpy()},
        utility=best.numpy(),
        share=share.numpy(),
        window=objective.window,
        entropy=0.0,
        fallbacks=0,
    )


def _within_budget(
    table: OutcomeTable,
    objective: Objective,
    scale: float,
    sizes: Sequence[int],
    allowed: np.ndarray | None,
) -> RouterMeasurement:
    budget = objective.budget
    assert budget is not None

    def at(multiplier: float) -> RouterMeasurement:
        unconstrained = replace(objective, compute_weight=multiplier, budget=None)
        return measure_oracle(table, unconstrained, scale, sizes, allowed)

    low, high = 0.0, 1e3  # quality is at most 1, so at 1,000 the cheapest expert is selected
    above = below = at(low)
    if above.means()["compute"] > budget:
        below = at(high)
        for _ in range(30):
            middle = (low + high) / 2.0
            result = at(middle)
            if result.means()["compute"] > budget:
                low, above = middle, result
            else:
                high, below = middle, result
    # Between the two multipliers both choices of a row are equally good: switch rows while the budget lasts.
    spent = np.cumsum(above.compute - below.compute, dtype=np.float64) + below.compute.sum(dtype=np.float64)
    switched = spent <= budget * len(table)
    quality = np.where(switched, above.quality, below.quality)
    assert above.share is not None
    assert below.share is not None
    share = np.where(switched[:, None], above.share, below.share)
    return replace(
        below,
        parts={"quality": quality, "compute": np.where(switched, above.compute, below.compute)},
        utility=quality,
        share=share,
    )


def _sets(
    outcomes: Outcomes, objective: Objective, k: int, allowed: np.ndarray | None
) -> Iterator[torch.Tensor]:
    """Yield candidate sets of k experts, each [T, k], the cheapest first, so that ties go to the cheapest."""
    order = np.argsort(outcomes.compute.mean(dim=0).numpy(), kind="stable")
    if allowed is not None:
        order = order[allowed[order]]
    count = len(order)
    sets = 1
    for i in range(k):
        sets = sets * (count - i) // (i + 1)
    if sets <= _MAX_SETS:
        for members in combinations(order.tolist(), k):
            yield torch.tensor(members).expand(outcomes.queries, k)
        return
    single = objective.utility(outcomes.quality, outcomes.compute, torch.zeros_like(outcomes.compute))
    if allowed is not None:
        single = single.masked_fill(~torch.from_numpy(allowed), float("-inf"))
    yield single.sort(dim=1, descending=True, stable=True).indices[:, :k]


def _measure(problem: RoutingProblem, case: Case, split: str) -> RouterMeasurement:
    """Evaluate the oracle on the rows of a split, under the objective of a case."""
    assert case.objective is not None
    part = problem.with_objective(case.objective)
    rows = part.rows(split)
    sizes = part.rule.sizes(len(rows.experts))
    return measure_oracle(rows, case.objective, part.scale, sizes, part.affordable)


ORACLE = Bound(name="oracle", measure=_measure, about="the best experts of each query, given the outcomes")
