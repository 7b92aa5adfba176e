"""The oracle: the best experts for each query, chosen knowing their outcomes. A bound, not a router."""

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

_MOST_SETS = 5_000


def measure_oracle(
    table: OutcomeTable,
    objective: Objective,
    scale: float,
    sizes: Sequence[int],
    allowed: np.ndarray | None = None,
) -> RouterMeasurement:
    """Measure the best set of experts for every query; its utility is not charged for load.

    For single experts this is an upper bound on any router's utility, since load only ever costs. A larger
    set is worth the better of its equal-weight mixture and its best member (a mixture can put all its
    weight there): a bound in practice, though some other weighting may be right where both are wrong.
    Past 5,000 sets of one size, only the experts best by utility for each query are looked at.

    Args:
        table: the rows.
        objective: weights of compute (and load, reported but not charged).
        scale: the unit of compute, in the table's cost unit.
        sizes: how many experts a decision may run.
        allowed: [N] bool, the experts that may run; None for all.

    Under a budget the choices are the best that meet it on these very rows, to within one of them.
    """
    if objective.budget is not None:
        return _within(table, objective, scale, sizes, allowed)
    outcomes = Outcomes.of(table, scale)
    rows = torch.arange(len(table))
    best = torch.full((len(table),), float("-inf"))
    quality, compute = torch.zeros(len(table)), torch.zeros(len(table))
    run = torch.zeros((len(table), outcomes.experts))
    for chosen in (found for size in sizes for found in _sets(outcomes, objective, size, allowed)):
        weights = torch.full(chosen.shape, 1.0 / chosen.shape[1])
        mixed, cost = mixture(outcomes, rows, chosen, weights)
        reached = torch.maximum(mixed, outcomes.quality.gather(1, chosen).amax(dim=1))
        utility = objective.utility(reached, cost, torch.zeros_like(cost))
        better = utility > best
        best = torch.where(better, utility, best)
        quality = torch.where(better, reached, quality)
        compute = torch.where(better, cost, compute)
        run = torch.where(better.unsqueeze(1), running(chosen, outcomes.experts), run)
    share = run / run.sum(dim=-1, keepdim=True)
    return RouterMeasurement(
        parts={"quality": quality.numpy(), "compute": compute.numpy()},
        utility=best.numpy(),
        share=share.numpy(),
        window=objective.window,
        entropy=0.0,
        fallbacks=0,
    )


def _within(
    table: OutcomeTable,
    objective: Objective,
    scale: float,
    sizes: Sequence[int],
    allowed: np.ndarray | None,
) -> RouterMeasurement:
    budget = objective.budget
    assert budget is not None

    def at(multiplier: float) -> RouterMeasurement:
        priced = replace(objective, compute_weight=multiplier, budget=None)
        return measure_oracle(table, priced, scale, sizes, allowed)

    low, high = 0.0, 1e3  # quality is at most 1, so at 1,000 the cheapest is chosen
    over = found = at(low)
    if over.means()["compute"] > budget:
        found = at(high)
        for _ in range(30):
            middle = (low + high) / 2.0
            tried = at(middle)
            if tried.means()["compute"] > budget:
                low, over = middle, tried
            else:
                high, found = middle, tried
    # At the multiplier between the two, both choices of a row are as good: rows change while budget lasts.
    spent = np.cumsum(over.compute - found.compute, dtype=np.float64) + found.compute.sum(dtype=np.float64)
    change = spent <= budget * len(table)
    quality = np.where(change, over.quality, found.quality)
    assert over.share is not None
    assert found.share is not None
    share = np.where(change[:, None], over.share, found.share)
    return replace(
        found,
        parts={"quality": quality, "compute": np.where(change, over.compute, found.compute)},
        utility=quality,
        share=share,
    )


def _sets(
    outcomes: Outcomes, objective: Objective, k: int, allowed: np.ndarray | None
) -> Iterator[torch.Tensor]:
    """Sets of k experts to try, each [T, k]; the cheapest first, so that ties go to the cheapest."""
    order = np.argsort(outcomes.compute.mean(dim=0).numpy(), kind="stable")
    if allowed is not None:
        order = order[allowed[order]]
    count = len(order)
    sets = 1
    for i in range(k):
        sets = sets * (count - i) // (i + 1)
    if sets <= _MOST_SETS:
        for members in combinations(order.tolist(), k):
            yield torch.tensor(members).expand(outcomes.queries, k)
        return
    alone = objective.utility(outcomes.quality, outcomes.compute, torch.zeros_like(outcomes.compute))
    if allowed is not None:
        alone = alone.masked_fill(~torch.from_numpy(allowed), float("-inf"))
    yield alone.sort(dim=1, descending=True, stable=True).indices[:, :k]


def _measure(problem: RoutingProblem, case: Case, split: str) -> RouterMeasurement:
    """The oracle on the rows of a split, under the objective of a case."""
    assert case.objective is not None
    part = problem.with_objective(case.objective)
    rows = part.rows(split)
    sizes = part.rule.sizes(len(rows.experts))
    return measure_oracle(rows, case.objective, part.scale, sizes, part.affordable)


ORACLE = Bound(name="oracle", measure=_measure, about="the best experts of each query, knowing the outcomes")
