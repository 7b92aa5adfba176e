"""Floors, constants and the oracle of a table, as operating points on the test rows of a fold."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from experts import OutcomeTable
from router_rl.problems.out_of_fold import Readouts

FLOORS = ("group", "text ridge", "ridge+group")
CONSTANTS = ("best single", "random")
_STRENGTH = 5.0  # rows that the mean over all groups counts for


class Played(NamedTuple):
    """What a method did on T test rows at P trade-offs.

    Attributes:
        cost, quality: [T, P].
        score: [T], how much it prefers the strong of two experts.
    """

    cost: np.ndarray
    quality: np.ndarray
    score: np.ndarray


def floor(part: OutcomeTable, readouts: Readouts, name: str, strong: int, grid: Sequence[float]) -> Played:
    """A floor's choices: what it thinks an expert is worth, less a price times what it thinks it costs.

    Args:
        part: table with a split.
        readouts: of which the first is the text's, the last the group's.
        name: one of FLOORS.
        strong: the expert that preferences are about.
        grid: prices, in units of quality for the dearest expert's mean cost.
    """
    assert part.features is not None
    test = part.part("test")
    assert test.features is not None
    text, group = (test.features[:, list(readouts.columns[which])] for which in (0, -1))
    mean, by_group = _mean_cost(part, test)
    said, price = {
        "group": (group, by_group),
        "text ridge": (text, mean),
        "ridge+group": ((text + group) / 2.0, (mean + by_group) / 2.0),
    }[name]
    scale = mean[0].max()
    chosen = [(said - weight * price / scale).argmax(axis=1) for weight in grid]
    other = 1 - strong if said.shape[1] == 2 else 0
    return Played(*_outcomes(test, chosen), said[:, strong] - said[:, other])


def constant(part: OutcomeTable, name: str) -> Played:
    """The expert that is best on the rows that are not test rows; or any at random."""
    test = part.part("test")
    if name == "random":
        cost, quality = (values.mean(axis=1, keepdims=True) for values in (test.cost, test.quality))
        return Played(cost, quality, np.zeros(len(test)))
    best = int(part.quality[part.split != "test"].mean(axis=0, dtype=float).argmax())
    return Played(*_outcomes(test, [np.full(len(test), best)]), np.zeros(len(test)))


def oracle(part: OutcomeTable, grid: Sequence[float]) -> Played:
    """The best choice for each row; nobody can know it."""
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
    """Mean cost of each expert, and on the row's group, drawn to the former: twice [T, N]."""
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
