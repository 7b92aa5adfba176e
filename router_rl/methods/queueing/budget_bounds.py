"""Bounds under a budget over time: what no policy can exceed, and what pacing alone can add.

Both are dual. For every price `m` of compute from 0 to `overspend_weight`, and every policy,

    utility = earned - overspend_weight * max(0, compute - budget) <= earned - m * (compute - budget),

per request of an episode, where `earned` is the utility without overspending. So the right side bounds the
budgeted problem by one with a fixed price of compute and no budget.

- `budget_relaxation` maximises the right side by request: outcomes, costs and service times are known, no
  request waits and no expert is down. The least over `m` is the value of the linear program in which a
  request may be divided among the experts. No policy has a higher utility in an episode.
- `budget_mixture` maximises it over the tuned paced rule with its pace replaced by fixed compute weights. The
  least over `m` is the best mixture of these weights that keeps to the budget only on average over all
  episodes. It bounds every policy that decides no better than the rule at a fixed price of compute: what is
  left between the paced rule and it is all that a better use of the remaining budget can add. A policy that
  sees queues or qualities better may exceed it.

Source: Balseiro, Gur 2019, Learning in repeated auctions with budgets, section 2 (the dual of pacing),
https://doi.org/10.1287/mnsc.2018.3174.

Legend: B episodes, W requests of an episode, N experts, K compute weights.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from envs.queue_servers import QueueServers

from ...problems.measure import Measurement
from ...problems.problem import Case
from ...problems.queueing.problem import QueueingProblem
from ..method import Bound
from .index_router import scorer_of, with_weights
from .index_rule import ALL_TERMS, tuned_index
from .weight_search import IndexHyperparameters

__all__ = ["BOUNDS", "Dual", "dual_mixture", "dual_prices", "measure_mixture", "measure_relaxation"]

_HALVINGS = 50
_WEIGHTS = (0.0, *(0.1 * 2.0**step for step in range(-4, 7)))


class Dual(NamedTuple):
    """The least dual value of a mixture.

    Attributes:
        price: of compute, in utility.
        share: [K] float64, the mixture; sums to 1.
        value: the value, in utility.
    """

    price: float
    share: np.ndarray
    value: float


def dual_prices(earned: Tensor, compute: Tensor, budget: float, highest: float) -> Tensor:
    """Return the price [B] float64 of compute with the least dual value, each request taking its best expert.

    Args:
        earned: [B, W, N] float64, utility of each request at each expert, without overspending.
        compute: [B, W, N] float64.
        budget: compute of a request, on average over an episode.
        highest: the highest price, utility per unit of compute above the budget.
    """
    low = torch.zeros(len(earned), dtype=torch.float64)
    high = torch.full_like(low, highest)

    def spends(price: Tensor) -> Tensor:
        best = (earned - price[:, None, None] * compute).argmax(dim=-1, keepdim=True)
        return compute.gather(-1, best).squeeze(-1).mean(dim=-1) > budget

    low_is_best = ~spends(low)
    for _ in range(_HALVINGS):
        middle = (low + high) / 2.0
        over = spends(middle)
        low, high = torch.where(over, middle, low), torch.where(over, high, middle)
    return torch.where(low_is_best, 0.0, high)


def dual_mixture(earned: np.ndarray, compute: np.ndarray, budget: float, highest: float) -> Dual:
    """Return the least dual value over the prices, and the mixture that has it.

    The value is convex and piecewise linear in the price, so that it is least at an end or where two rows
    are equal.

    Args:
        earned: [K] float64, mean utility without overspending.
        compute: [K] float64, mean compute.
        budget: compute of a request, on average over all episodes.
        highest: the highest price.
    """
    gain = earned[:, None] - earned
    extra = compute[:, None] - compute
    slopes = gain[extra != 0.0] / extra[extra != 0.0]
    prices = np.concatenate([[0.0, highest], slopes[(slopes > 0.0) & (slopes < highest)]])
    values = (earned - prices[:, None] * (compute - budget)).max(axis=1)
    price, value = float(prices[values.argmin()]), float(values.min())
    best = np.flatnonzero(earned - price * (compute - budget) >= value - 1e-9)
    share = np.zeros(len(earned))
    low, high = best[compute[best].argmin()], best[compute[best].argmax()]
    span = compute[high] - compute[low]
    above = 0.0 if span <= 0.0 else float(np.clip((budget - compute[low]) / span, 0.0, 1.0))
    share[low] += 1.0 - above
    share[high] += above
    return Dual(price, share, value)


def measure_relaxation(problem: QueueingProblem, case: Case, split: str) -> Measurement:
    """Return the value of the linear relaxation of each episode, and the parts of its decisions.

    Args:
        problem: with a budget and queues.
        case: its load.
        split: `validation`, `tuning` or `test`.
    """
    core = problem.evaluation_core(split, case)
    config, window = core.config, core.config.window
    assert isinstance(core.servers, QueueServers)
    assert config.budget is not None
    row = core.state.episodes.row[:, :window]
    value, deadline = (
        part[:, :window].double().unsqueeze(-1)
        for part in (core.state.episodes.value, core.state.episodes.deadline)
    )
    quality, compute = (part.double()[row] for part in (core.outcomes.quality, core.outcomes.compute))
    service = core.servers.service[row]
    late = value * (service - deadline).clamp(min=0.0) / deadline
    missed = (service > deadline).double()
    earned = value * quality - config.compute_weight * compute
    earned = earned - config.lateness_weight * late - config.miss_weight * value * missed
    price = dual_prices(earned, compute, config.budget, config.overspend_weight)
    charged = earned - price[:, None, None] * (compute - config.budget)
    best = charged.argmax(dim=-1, keepdim=True)
    parts = {"quality": quality, "compute": compute, "missed": missed, "lateness": late}
    means = {name: part.gather(-1, best).squeeze(-1).mean(dim=1).numpy() for name, part in parts.items()}
    seconds = np.quantile(service.gather(-1, best).numpy(), (0.5, 0.95, 0.99))
    chosen = torch.nn.functional.one_hot(best.squeeze(-1), core.experts).float()
    return Measurement(
        utility=charged.amax(dim=-1).mean(dim=1).numpy(),
        parts={**means, "overspend": np.maximum(means["compute"] - config.budget, 0.0)},
        facts=dict(zip(("p50_s", "p95_s", "p99_s"), map(float, seconds), strict=True)),
        share=chosen.mean(dim=1).numpy(),
    )


def measure_mixture(problem: QueueingProblem, case: Case, split: str, *, seed: int = 0) -> Measurement:
    """Return the dual value of the best mixture of fixed compute weights, and the mixture's parts.

    Args:
        problem: with a budget.
        case: its load.
        split: `validation`, `tuning` or `test`.
        seed: of the search for the rule's other weights.
    """
    only = problem.at(case)
    config = only.config
    assert config.budget is not None
    rule = tuned_index(only, IndexHyperparameters(), seed, ALL_TERMS)
    scorer = scorer_of(rule)
    tuned = dict(zip(scorer.term_names, scorer.weights.tolist(), strict=True))
    measured: list[Measurement] = []
    for weight in _WEIGHTS:
        weights = {**tuned, "compute": weight, "pace": 0.0}
        measured.append(only.evaluate(with_weights(rule, weights), split, only.case))
    compute = np.stack([each.parts["compute"] for each in measured])
    over = np.stack([each.parts["overspend"] for each in measured])
    earned = np.stack([each.utility for each in measured]) + config.overspend_weight * over
    dual = dual_mixture(earned.mean(axis=1), compute.mean(axis=1), config.budget, config.overspend_weight)

    def mixed(values: np.ndarray) -> np.ndarray:
        return np.tensordot(dual.share, values, axes=1)

    parts = {name: mixed(np.stack([each.parts[name] for each in measured])) for name in measured[0].parts}
    facts = {
        name: float(mixed(np.array([each.facts[name] for each in measured]))) for name in measured[0].facts
    }
    shares = np.stack([each.share for each in measured if each.share is not None])
    return Measurement(
        utility=mixed(earned - dual.price * (compute - config.budget)),
        parts=parts,
        facts=facts,
        share=mixed(shares).astype(np.float32),
    )


def _without_budget(problem: QueueingProblem) -> str | None:
    return None if problem.options.budget is not None else "is a bound under a budget: give --problem.budget"


def _not_of_queues(problem: QueueingProblem) -> str | None:
    if problem.lengths is not None:
        return "is a bound for queues, whose service times do not depend on other requests"
    return _without_budget(problem)


BOUNDS = (
    Bound(
        name="budget_relaxation",
        measure=measure_relaxation,
        about="linear relaxation without waits: no policy has more",
        refuses=_not_of_queues,
    ),
    Bound(
        name="budget_mixture",
        measure=measure_mixture,
        about="fixed weights within the mean budget: most of pacing",
        refuses=_without_budget,
    ),
)
