"""What a router earns and saves compared with one expert for every query, and how sure that is."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from experts import OutcomeTable

from ..problems.statistics import Interval, paired_difference
from .entry import Group
from .frontier import resampled_means

__all__ = ["Singles", "compared_with_expert", "expected_regret", "parts_of", "rows_to_settle"]

_RESAMPLES = 1000


@dataclass(frozen=True, eq=False, kw_only=True)
class Singles:
    """Every expert's outcomes if it answers every query.

    Attributes:
        names: names of the N experts.
        tuning_quality: [N] float64, mean quality on the tuning rows.
        tuning_cost: [N] float64, mean cost of a query there, in the table's unit.
        quality: [T, N] float, quality on the test rows.
        cost: [T, N] float, cost on the test rows.
        cost_unit: unit of the costs.
    """

    names: tuple[str, ...]
    tuning_quality: np.ndarray
    tuning_cost: np.ndarray
    quality: np.ndarray
    cost: np.ndarray
    cost_unit: str = "unknown"

    @classmethod
    def of(cls, table: OutcomeTable) -> Singles:
        """Return the outcomes of a table with a split."""
        tuning, test = table.part("tuning"), table.part("test")
        return cls(
            names=tuple(table.experts),
            tuning_quality=tuning.quality.mean(axis=0, dtype=np.float64),
            tuning_cost=tuning.cost.mean(axis=0, dtype=np.float64),
            quality=test.quality,
            cost=test.cost,
            cost_unit=table.cost_unit,
        )

    @property
    def best(self) -> int:
        """Index of the expert with the highest mean quality on the tuning rows."""
        return int(self.tuning_quality.argmax())

    @property
    def most_expensive(self) -> int:
        """Index of the expert with the highest mean cost on the tuning rows."""
        return int(self.tuning_cost.argmax())


def compared_with_expert(
    quality: np.ndarray, cost: np.ndarray, singles: Singles, expert: int
) -> dict[str, Any]:
    """Compare a router with one expert for every query, on test rows.

    Args:
        quality: [S, T] float, quality of the router with each seed.
        cost: [S, T] float, its cost in the table's unit.
        singles: the experts.
        expert: index of the expert.

    Returns:
        the expert's name, the paired difference of quality, and the share of the expert's cost that is saved
        (negative if the router costs more), each with its 95% CI; a saving of None if the expert is free.
    """
    single = np.broadcast_to(singles.quality[:, expert], quality.shape)
    difference = paired_difference(np.asarray(quality, dtype=np.float64), single)
    return {
        "expert": singles.names[expert],
        "quality_difference": difference.to_json(),
        "cost_saved": _saved(cost.mean(axis=0), singles.cost[:, expert]),
    }


def expected_regret(utilities: Sequence[np.ndarray], shipped: int, seed: int = 0) -> float:
    """Return the expected loss of utility because another candidate may be better than the shipped one.

    It is the mean over bootstrap resamples of the queries of the highest mean utility of any candidate minus
    the mean utility of the shipped one. The highest of several noisy means is too high, so it is a cautious
    number.

    Args:
        utilities: [T] float for each candidate, mean over seeds.
        shipped: index of the shipped candidate.
        seed: random seed of the bootstrap.

    >>> expected_regret([np.array([0.5, 0.5]), np.array([0.25, 0.25])], shipped=1)
    0.25
    """
    stacked = np.stack(utilities, axis=1)
    means = [each[0] for each in resampled_means([stacked], seed, _RESAMPLES)][1:]
    return float(np.mean([row.max() - row[shipped] for row in means]))


def rows_to_settle(difference: Interval, rows: int) -> int | None:
    """Return how many more test rows a significant difference would need, if it stayed as measured.

    The width of an interval falls with the square root of the number of rows.

    Args:
        difference: as measured on the test rows.
        rows: number of test rows.

    Returns:
        0 if the difference is significant already; None if it is 0.

    >>> rows_to_settle(Interval(0.01, -0.01, 0.03), 100), rows_to_settle(Interval(0.02, 0.01, 0.03), 100)
    (300, 0)
    """
    half = (difference.high - difference.low) / 2.0
    if difference.mean == 0.0:
        return None
    return max(0, math.ceil(rows * (half / abs(difference.mean)) ** 2 - 1e-9) - rows)


def parts_of(group: Group, name: str) -> np.ndarray | None:
    """Return one part of the test measurements of a method's seeds, [S, T]; None if it has none."""
    if any(name not in entry.test.parts for entry in group):
        return None
    return np.stack([entry.test.parts[name] for entry in group])


def _saved(cost: np.ndarray, single: np.ndarray) -> dict[str, Any] | None:
    if float(single.mean(dtype=np.float64)) <= 0.0:
        return None
    both = np.stack([cost, single], axis=1).astype(np.float64)
    means = [row[0] for row in resampled_means([both], 0, _RESAMPLES)]
    shares = np.array([1.0 - mean[0] / mean[1] for mean in means if mean[1] > 0.0])
    low, high = np.percentile(shares[1:], [2.5, 97.5])
    return {"share": float(shares[0]), "ci95": [float(low), float(high)]}
