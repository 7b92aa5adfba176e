"""Simple baselines, constants and the oracle of a table, as operating points on the test rows of a fold."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from experts import OutcomeTable
from router_rl.problems.out_of_fold import OutOfFold

FLOORS = ("group", "text ridge", "ridge+group")
CONSTANTS = ("best single", "random")
_STRENGTH = 5.0  # pseudo-rows that shrink a group's mean to the mean over all groups


class Played(NamedTuple):
    """What a method did on T test rows at P trade-offs.

    Attributes:
        cost, quality: [T, P].
        score: [T], how much it prefers the strong of two experts.
    """

    cost: np.ndarray
    quality: np.ndarray
    score: np.ndarray


def floor(
    part: OutcomeTable, predictions: OutOfFold, name: str, strong: int, grid: Sequence[float]
) -> Played:
    """Choices of a simple baseline: predicted quality minus a compute weight times predicted cost.

    Args:
        part: table with a split.
        predictions: out-of-fold predictions among the features: the text's first, the group's last.
        name: one of FLOORS.
        strong: the expert that preferences are about.
        grid: compute weights, in units of quality per mean cost of the most expensive expert.
    """
    assert part.features is not None
    test = part.part("test")
    assert test.features is not None
    text, group = (test.features[:, list(predictions.columns[which])] for which in (0, -1))
    mean, by_group = _mean_cost(part, test)
    quality, cost = {
        "group": (group, by_group),
        "text ridge": (text, mean),
        "ridge+group": ((text + group) / 2.0, (mean + by_group) / 2.0),
    }[name]
    scale = mean[0].max()
    chosen = [(quality - weight * cost / scale).argmax(axis=1) for weight in grid]
    other = 1 - strong if quality.shape[1] == 2 else 0
    return Played(*_outcomes(test, chosen), quality[:, strong] - quality[:, other])


def constant(part: OutcomeTable, name: str) -> Played:
    """The expert that is best on the rows that are not test rows, or a random one."""
    test = part.part("test")
    if name == "random":
        cost, quality = (values.mean(axis=1, keepdims=True) for values in (test.cost, test.quality))
        return Played(cost, quality, np.zeros(len(test)))
    best = int(part.quality[part.split != "test"].mean(axis=0, dtype=float).argmax())
    return Played(*_outcomes(test, [np.full(len(test), best)]), np.zeros(len(test)))


def oracle(part: OutcomeTable, grid: Sequence[float]) -> Played:
    """The best choice for each row, which uses the outcomes: an upper bound."""
    test = part.part("test")
    scale = test.cost.mean(axis=0, dtype=float).max()
    chosen = [(test.quality - max(weight, 1e-6) * test.cost / scale).argmax(axis=1) for weight in grid]
    return Played(*_outcomes(test, chosen), np.zeros(len(test)))


def _outcomes(test: OutcomeTable, chosen: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    row = np.arange(len(test))
    cost, quality = (
        np.stack([values[row, choice] for choice in chosen], axis=1) for values in (test.cost, test.quality)
    )
    return cost, quality


def _mean_cost(part: OutcomeTable, test: OutcomeTable) -> tuple[np.ndarray, np.ndarray]:
    """Mean cost of each expert, and its mean on the row's group, shrunk to the former: twice [T, N]."""
    known = part.take(part.split != "test")
    overall = known.cost.mean(axis=0, dtype=float)
    mean = np.tile(overall, (len(test), 1))
    assert known.group is not None
    assert test.group is not None
    by_group = mean.copy()
    for name in np.unique(known.group.astype(str)):
        own = known.cost[known.group.astype(str) == name]
        drawn = (own.sum(axis=0, dtype=float) + _STRENGTH * overall) / (len(own) + _STRENGTH)
        by_group[test.group.astype(str) == name] = drawn
    return mean, by_group
