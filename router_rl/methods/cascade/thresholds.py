"""Threshold cascades: ask experts in a fixed order and stop at the first answer that is likely enough right.

Every order of up to three experts is tried with every pair of thresholds on a grid, and with two rules for
the answer: the last one, or the most likely of those asked. What a stage earns depends on the earlier
thresholds only through the queries that reach it, so the utility of all pairs of thresholds is a table of
prefix sums, exact on the grid.

Source: Chen, Zaharia, Zou 2023, FrugalGPT, section 3 (LLM cascade), https://arxiv.org/abs/2305.05176. There a
learned scorer judges the answer; here the calibrated belief that all cascade methods share does.

Legend: T queries, N experts, G thresholds.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import permutations
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from envs import Core, reward

from ...problems.cascade.problem import CascadeProblem
from ...routing.policies.cascade_beliefs import Beliefs
from ...routing.policies.cascade_policy import CascadeView
from ..method import Method, NoHyperparameters, Run
from .by_weight import PolicyByWeight

__all__ = [
    "METHOD",
    "ThresholdCascade",
    "ThresholdTable",
    "fit",
    "permitted_orders",
    "threshold_grid",
    "threshold_tables",
    "tuned_cascades",
]

_GRID = 40
_MAX_ORDER = 3


class ThresholdTable(NamedTuple):
    """Mean quality and compute [G, G] of an order by its two thresholds."""

    order: tuple[int, ...]
    most_likely: bool
    quality: np.ndarray
    compute: np.ndarray


@dataclass(frozen=True, kw_only=True)
class ThresholdCascade:
    """A tuned cascade.

    Attributes:
        beliefs: the probability that each expert is right.
        order: the experts as they are asked, three or as many as there are.
        stops: log-odds at which each but the last one stops it; -inf: always.
        most_likely: return the most likely of the answers, not the last one.
        utility: mean on the rows it was tuned on.
    """

    beliefs: Beliefs
    order: tuple[int, ...]
    stops: tuple[float, ...]
    most_likely: bool
    utility: float

    def start(self, core: Core) -> None:
        """Do nothing: the policy has no state."""

    def act(self, observation: Tensor) -> Tensor:
        """Return actions [T] int64 of the environment for observations [T, O] float32."""
        view = CascadeView.of(observation, self.beliefs.sizes[1])
        prior = self.beliefs.prior(view.features)
        return self.choose(view, prior, self.beliefs.posterior(prior, view.confidence))

    def choose(self, view: CascadeView, prior: Tensor, posterior: Tensor) -> Tensor:
        """Return actions [T] int64 for beliefs [T, N], which are log-odds."""
        experts = self.beliefs.sizes[1]
        score = self.beliefs.settled(posterior, view.asked, view.agree)
        place = torch.tensor(self.order)
        asked, ordered = view.asked[:, place], score[:, place]
        stage = asked.sum(dim=-1)  # how many of the order were asked
        last = (stage - 1).clamp(min=0).unsqueeze(-1)
        known = ordered.masked_fill(~asked, -torch.inf)
        answer = known.argmax(dim=-1, keepdim=True) if self.most_likely else last
        reached = known.gather(-1, answer).squeeze(-1)
        stops = torch.tensor([torch.inf, *self.stops, -torch.inf])[stage]
        ask = place[stage.clamp(max=len(self.order) - 1)]
        asks = (stage == 0) | (reached < stops)
        return torch.where(asks, ask, place[answer.squeeze(-1)] + experts)


def fit(problem: CascadeProblem, hyperparameters: NoHyperparameters | None, run: Run) -> PolicyByWeight:
    """Tune a cascade at every compute weight of the problem, by cross-fitted beliefs."""
    data = problem.data(run.seed)
    score, quality, compute = (
        part.double().numpy() for part in (data.fitted.posterior, data.quality, data.compute)
    )
    grid = threshold_grid(score)
    moves = data.moves.double().numpy() if problem.agreement_beliefs else None
    max_experts, after = problem.options.max_experts, data.table.after
    tables = threshold_tables(score, quality, compute, grid, max_experts, moves=moves, after=after)
    cascades = tuned_cascades(tables, grid, data.fitted.beliefs, problem.weights)
    return PolicyByWeight(weights=torch.tensor(problem.weights), policies=tuple(cascades))


def tuned_cascades(
    tables: Iterator[ThresholdTable], grid: np.ndarray, beliefs: Beliefs, weights: Sequence[float]
) -> list[ThresholdCascade]:
    """Return the best order and thresholds at each compute weight; the first in a tie.

    Args:
        tables: of `threshold_tables`; they are read one at a time, for there are many with many experts.
        grid: [G] the thresholds.
        beliefs: of the cascades.
        weights: utility per unit of compute.
    """
    best: list[ThresholdCascade | None] = [None] * len(weights)
    for table in tables:
        for place, weight in enumerate(weights):
            parts = {"quality": table.quality, "compute": table.compute}
            utility = reward.utility(parts, {"compute": weight})
            highest = float(utility.max())
            current = best[place]
            if current is not None and highest <= current.utility:
                continue
            first, second = np.unravel_index(utility.argmax(), utility.shape)
            best[place] = ThresholdCascade(
                beliefs=beliefs,
                order=table.order,
                stops=(float(grid[first]), float(grid[second]))[: len(table.order) - 1],
                most_likely=table.most_likely,
                utility=highest,
            )
    return [cascade for cascade in best if cascade is not None]


def threshold_grid(score: np.ndarray) -> np.ndarray:
    """Return the thresholds [G] float64: -inf, quantiles of scores [T, N], and inf."""
    inner = np.unique(np.quantile(score, np.linspace(0.0, 1.0, _GRID)))
    return np.concatenate([[-np.inf], inner, [np.inf]])


def threshold_tables(
    score: np.ndarray,
    quality: np.ndarray,
    compute: np.ndarray,
    grid: np.ndarray,
    max_experts: int = _MAX_ORDER,
    *,
    moves: np.ndarray | None = None,
    after: Tensor | None = None,
) -> Iterator[ThresholdTable]:
    """Return mean quality and compute of every order of experts with every pair of thresholds.

    Shorter cascades are among them: with a threshold of -inf a stage is the last.

    Args:
        score: [T, N] float64 log-odds that an expert is right, once it was asked.
        quality, compute: [T, N] float64.
        grid: [G] float64, rising.
        max_experts: maximum number of experts asked; above 3 it changes nothing.
        moves: [T, N, N] float64, how far the answer of a pair's first expert moves the second's log-odds;
            None: not at all.
        after: [N] int64, the expert that must be asked before each, -1 for none; None: none for all.
    """
    experts = quality.shape[1]
    for order in permitted_orders(experts, min(_MAX_ORDER, max_experts, experts), after):
        place = list(order)
        scores, answers, spent = score[:, place], quality[:, place], compute[:, place].cumsum(axis=1)
        if moves is not None:
            yield from _settled_tables(order, scores, answers, spent, grid, moves[:, place][:, :, place])
            continue
        yield ThresholdTable(order, False, *_by_thresholds(scores, answers, spent, grid))
        highest = scores.copy()
        given = answers.copy()
        for stage in range(1, len(order)):
            kept = highest[:, stage - 1] >= scores[:, stage]
            highest[:, stage] = np.where(kept, highest[:, stage - 1], scores[:, stage])
            given[:, stage] = np.where(kept, given[:, stage - 1], answers[:, stage])
        yield ThresholdTable(order, True, *_by_thresholds(highest, given, spent, grid))


def permitted_orders(experts: int, size: int, after: Tensor | None) -> Iterator[tuple[int, ...]]:
    """Yield all orders of some experts, each follow-up after the expert that it follows.

    Args:
        experts: N.
        size: number of experts in an order.
        after: [N] int64, as for `threshold_tables`.
    """
    before = [-1] * experts if after is None else after.tolist()
    for order in permutations(range(experts), size):
        if all(before[each] < 0 or before[each] in order[:place] for place, each in enumerate(order)):
            yield order


def _settled_tables(
    order: tuple[int, ...],
    score: np.ndarray,
    quality: np.ndarray,
    spent: np.ndarray,
    grid: np.ndarray,
    moves: np.ndarray,
) -> Iterator[ThresholdTable]:
    """Return both tables of an order where answers move each other's log-odds, `moves` [T, L, L]."""
    settled = [score[:, :1]]  # of each stage, the log-odds of the answers so far
    for stage in range(1, len(order)):
        known = np.concatenate([settled[-1], score[:, stage : stage + 1]], axis=1)
        known[:, :stage] += moves[:, stage, :stage]
        known[:, stage] += moves[:, :stage, stage].sum(axis=1)
        settled.append(known)
    last = np.stack([known[:, -1] for known in settled], axis=1)
    yield ThresholdTable(order, False, *_by_thresholds(last, quality, spent, grid))
    best = [known.argmax(axis=1) for known in settled]
    rows = np.arange(len(score))
    highest = np.stack([known[rows, place] for known, place in zip(settled, best, strict=True)], axis=1)
    given = np.stack([quality[rows, place] for place in best], axis=1)
    yield ThresholdTable(order, True, *_by_thresholds(highest, given, spent, grid))


def _by_thresholds(
    score: np.ndarray, quality: np.ndarray, spent: np.ndarray, grid: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return mean quality and compute [G, G] of stopping where the score first reaches the threshold.

    Args:
        score: [T, L] of the answer that each stage would give, L 1 to 3 (a third one's is not read).
        quality: [T, L] of that answer.
        spent: [T, L] compute up to that stage.
        grid: [G] float64, rising.
    """
    rows, size = len(score), len(grid)
    if score.shape[1] == 1:  # the first expert is the last, whatever the thresholds
        return np.full((size, size), quality.mean()), np.full((size, size), spent.mean())
    # The first `above` thresholds stop a query; the others do not.
    above = np.searchsorted(grid, score[:, :2], side="right")
    pairs = above[:, 0] * (size + 1) + above[:, 1]
    if score.shape[1] == 2:  # with two experts the second one is the last, whatever its threshold
        pairs = above[:, 0] * (size + 1) + size

    def not_stopped(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return sums over the queries that pass the first threshold [G], and both [G, G]."""
        counts = np.bincount(pairs, weights=values, minlength=(size + 1) ** 2).reshape(size + 1, size + 1)
        passed = counts.cumsum(axis=0)
        return passed.sum(axis=1)[:size], passed.cumsum(axis=1)[:size, :size]

    tables: list[np.ndarray] = []
    for part in (quality, spent):
        first, _ = not_stopped(part[:, 0])
        second, beyond = not_stopped(part[:, 1])
        total = (part[:, 0].sum(dtype=np.float64) - first + second)[:, None]
        if score.shape[1] > 2:
            total = total - beyond + not_stopped(part[:, 2])[1]
        tables.append(np.broadcast_to(total, (size, size)) / rows)
    return tables[0], tables[1]


METHOD = Method(
    name="thresholds",
    family="baseline",
    fit=fit,
    about="tuned orders and thresholds (FrugalGPT, Chen et al. 2023)",
    amortizes=True,
)
