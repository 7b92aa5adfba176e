"""Threshold cascades: ask experts in a fixed order, stop when an answer is sure enough.

Every order of up to three experts is tried with every pair of thresholds on a grid, with and without
answering by the surest of those asked. What a stage earns depends on the thresholds before it only through
which queries arrive, so the utility of all pairs of an order is a table of prefix sums, exact on the grid.

Source: Chen, Zaharia, Zou 2023, FrugalGPT, section 3 (LLM cascade), https://arxiv.org/abs/2305.05176. There a
learned scorer judges the answer; here it is the calibrated belief that all cascades share.

Legend: T queries, N experts, G thresholds.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import permutations
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ...routing.policies.cascade_beliefs import Beliefs
from ...routing.policies.cascade_policy import CascadeView

__all__ = ["ThresholdCascade", "best_thresholds", "threshold_tables"]

_GRID = 40
_LONGEST = 3


class _Table(NamedTuple):
    """Mean quality and compute [G, G] of an order by its two thresholds."""

    order: tuple[int, ...]
    surest: bool
    quality: np.ndarray
    compute: np.ndarray


@dataclass(frozen=True, kw_only=True)
class ThresholdCascade:
    """A tuned cascade.

    Attributes:
        beliefs: what judges the answers.
        order: three experts as they are asked, or as many as there are.
        stops: log-odds at which each but the last stops it; -inf: always.
        surest: answer with the surest of those asked, not the last.
        utility: mean on the rows it was tuned on.
    """

    beliefs: Beliefs
    order: tuple[int, ...]
    stops: tuple[float, ...]
    surest: bool
    utility: float

    def actions(self, observation: Tensor) -> Tensor:
        """Actions [T] int64 of the environment."""
        experts = self.beliefs.sizes[1]
        view = CascadeView.of(observation, experts)
        score = self.beliefs.posterior(self.beliefs.prior(view.features), view.confidence)
        place = torch.tensor(self.order)
        asked, ordered = view.asked[:, place], score[:, place]
        stage = asked.sum(dim=-1)  # how many of the order have answered
        last = (stage - 1).clamp(min=0).unsqueeze(-1)
        known = ordered.masked_fill(~asked, -torch.inf)
        answer = known.argmax(dim=-1, keepdim=True) if self.surest else last
        judged = known.gather(-1, answer).squeeze(-1)
        stops = torch.tensor([torch.inf, *self.stops, -torch.inf])[stage]
        ask = place[stage.clamp(max=len(self.order) - 1)]
        go_on = (stage == 0) | (judged < stops)
        return torch.where(go_on, ask, place[answer.squeeze(-1)] + experts)


def best_thresholds(
    tables: list[_Table], grid: np.ndarray, beliefs: Beliefs, weight: float
) -> ThresholdCascade:
    """The best order and thresholds at a compute weight, of `threshold_tables`."""
    utility = [table.quality - weight * table.compute for table in tables]
    best = max(range(len(tables)), key=lambda index: utility[index].max())
    first, second = np.unravel_index(utility[best].argmax(), utility[best].shape)
    table = tables[best]
    stops = (float(grid[first]), float(grid[second]))[: len(table.order) - 1]
    found = float(utility[best].max())
    return ThresholdCascade(
        beliefs=beliefs, order=table.order, stops=stops, surest=table.surest, utility=found
    )


def threshold_tables(
    score: np.ndarray, quality: np.ndarray, compute: np.ndarray
) -> tuple[list[_Table], np.ndarray]:
    """What every order earns and costs with every pair of thresholds, and the thresholds [G].

    Shorter cascades are among them: with a threshold of -inf a stage is the last.

    Args:
        score: [T, N] log-odds that an expert is right, once it has answered.
        quality, compute: [T, N].
    """
    inner = np.unique(np.quantile(score, np.linspace(0.0, 1.0, _GRID)))
    grid = np.concatenate([[-np.inf], inner, [np.inf]])
    return list(_tables(score, quality, compute, grid)), grid


def _tables(
    score: np.ndarray, quality: np.ndarray, compute: np.ndarray, grid: np.ndarray
) -> Iterator[_Table]:
    experts = quality.shape[1]
    for order in permutations(range(experts), min(_LONGEST, experts)):
        place = list(order)
        scores, answers, spent = score[:, place], quality[:, place], compute[:, place].cumsum(axis=1)
        yield _Table(order, False, *_by_thresholds(scores, answers, spent, grid))
        surest = scores.copy()
        given = answers.copy()
        for stage in range(1, len(order)):
            kept = surest[:, stage - 1] >= scores[:, stage]
            surest[:, stage] = np.where(kept, surest[:, stage - 1], scores[:, stage])
            given[:, stage] = np.where(kept, given[:, stage - 1], answers[:, stage])
        yield _Table(order, True, *_by_thresholds(surest, given, spent, grid))


def _by_thresholds(
    score: np.ndarray, quality: np.ndarray, spent: np.ndarray, grid: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Mean quality and compute [G, G] of stopping at the first stage whose score reaches its threshold.

    Args:
        score: [T, L] of the answer that each stage would give, L 2 or 3 (a third's is not read).
        quality: [T, L] of that answer.
        spent: [T, L] compute up to that stage.
    """
    rows, size = len(score), len(grid)
    # The first `above` thresholds stop a query; the others let it go on.
    above = np.searchsorted(grid, score[:, :2], side="right")
    pairs = above[:, 0] * (size + 1) + above[:, 1]
    if score.shape[1] == 2:  # with two experts the second is the last whatever its threshold
        pairs = above[:, 0] * (size + 1) + size

    def going_on(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Sums over the queries that pass the first threshold [G], and both [G, G]."""
        counts = np.bincount(pairs, weights=values, minlength=(size + 1) ** 2).reshape(size + 1, size + 1)
        passed = counts.cumsum(axis=0)
        return passed.sum(axis=1)[:size], passed.cumsum(axis=1)[:size, :size]

    found: list[np.ndarray] = []
    for part in (quality, spent):
        first, _ = going_on(part[:, 0])
        second, beyond = going_on(part[:, 1])
        total = (part[:, 0].sum(dtype=np.float64) - first + second)[:, None]
        if score.shape[1] > 2:
            total = total - beyond + going_on(part[:, 2])[1]
        found.append(np.broadcast_to(total, (size, size)) / rows)
    return found[0], found[1]
