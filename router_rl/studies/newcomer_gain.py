"""What a new expert is expected to add to a router: utility, quality and cost on test rows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ..problems.newcomer import Newcomer
from ..problems.routing.router_measurement import RouterMeasurement
from ..problems.statistics import Interval

__all__ = ["Gain", "expected_gain"]

_TWO_SIDED = 1.96  # of a normal distribution, 95%


@dataclass(frozen=True, kw_only=True)
class Gain:
    """The router with the new expert, compared with the one before, per query.

    Attributes:
        utility: difference of utility.
        share: fraction of the queries that go to the new expert.
        quality: mean quality before and after.
        cost: mean cost before and after, in the table's unit.
    """

    utility: Interval
    share: float
    quality: tuple[float, float]
    cost: tuple[float, float]

    def to_json(self) -> dict[str, Any]:
        """Return the gain as JSON."""
        return {
            "utility": self.utility.to_json(),
            "share": self.share,
            "quality": list(self.quality),
            "cost": list(self.cost),
        }


def expected_gain(
    before: RouterMeasurement,
    after: RouterMeasurement,
    scales: tuple[float, float],
    new: Newcomer,
    rows: np.ndarray,
) -> Gain:
    """Compare two routers on the same rows, with the expected outcomes of the new expert.

    The interval covers the uncertainty about the new expert's quality, the same on all rows, and the choice
    of the rows. Outcomes that are estimates vary less than true ones, so that part is a lower bound.

    Args:
        before: router of the existing experts.
        after: router that may use the new expert, the last one; its quality is the cautious estimate.
        scales: unit of compute of each measurement, in the table's cost unit.
        new: what is known about the new expert.
        rows: [S] int64, the rows that were measured, in the same order.
    """
    assert after.share is not None
    used = after.share[:, -1].astype(np.float64)
    quality = after.quality + used * new.lowered()[rows]
    difference = after.utility + used * new.lowered()[rows] - before.utility
    estimated = used * ~np.isin(rows, new.answers.rows)
    spread = estimated @ new.x[rows] / len(rows)
    variance = difference.var() / len(rows) + spread @ new.known.covariance @ spread
    mean, half = float(difference.mean()), _TWO_SIDED * float(np.sqrt(variance))
    costs = [
        each.compute.mean(dtype=np.float64) * unit for each, unit in zip((before, after), scales, strict=True)
    ]
    return Gain(
        utility=Interval(mean, mean - half, mean + half),
        share=float(used.mean()),
        quality=(float(before.quality.mean(dtype=np.float64)), float(quality.mean())),
        cost=(float(costs[0]), float(costs[1])),
    )
