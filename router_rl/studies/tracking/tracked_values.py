"""The values that trackers log, with equal names for all methods."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from experts.io.escaping import tag_part

from ...methods.training_loop import Snapshot
from ...problems.load import share_entropy

__all__ = ["FINAL_STEP", "CostTag", "Logged", "Results", "cost_tag", "cost_tag_of", "logged", "summary_of"]

Results = Mapping[str, Mapping[str, Mapping[str, float]]]
"""Means by name, by split (one is `test`, except in `tune`), by label of the case."""

FINAL_STEP = 1000
"""The step of final results; steps of trials are thousandths of the fit."""

_QUERIES = 1000


@dataclass(frozen=True, kw_only=True)
class CostTag:
    """How compute is logged in the unit that a user pays in, such as `usd_per_1000_queries`.

    Attributes:
        name: with the unit.
        per_compute: cost of 1,000 queries whose compute is 1.
    """

    name: str
    per_compute: float


def cost_tag(unit: str | None, scale: float | None) -> CostTag | None:
    """Return how compute is logged in its unit; None if it has no unit, or an unknown one.

    Args:
        unit: cost unit of the table.
        scale: cost of a compute of 1, in this unit.
    """
    if scale is None or unit in (None, "unknown"):
        return None
    return CostTag(name=f"{unit}_per_{_QUERIES}_queries", per_compute=_QUERIES * scale)


def cost_tag_of(problem: Any) -> CostTag | None:
    """Return how the compute of a problem is logged in its unit; None if it has none.

    Args:
        problem: any problem.
    """
    unit = None if problem.table is None else problem.table.cost_unit
    return cost_tag(unit, getattr(problem, "scale", None))


@dataclass(frozen=True, kw_only=True)
class Logged:
    """What one snapshot logs.

    Attributes:
        step: completed part of the fit, in thousandths.
        scalars: numbers by name.
        counts: for each name, how often each of 0, 1, ... occurs.
    """

    step: int
    scalars: Mapping[str, float]
    counts: Mapping[str, Sequence[int]]


def logged(snapshot: Snapshot, cost: CostTag | None) -> Logged:
    """Return the values of a snapshot.

    Args:
        snapshot: progress of a fit.
        cost: how compute is logged in its unit; None: normalised only.
    """
    step = round(FINAL_STEP * snapshot.step / max(snapshot.total, 1))
    scalars = {f"training/{tag_part(name)}": value for name, value in snapshot.training.items()}
    validation = snapshot.validation
    if validation is None:
        return Logged(step=step, scalars=scalars, counts={})
    scalars |= {f"validation/{name}": value for name, value in _means(validation.means(), cost).items()}
    if not math.isnan(snapshot.best):
        scalars["validation/best_utility"] = snapshot.best
    if validation.share is None:
        return Logged(step=step, scalars=scalars, counts={})
    shares = validation.shares
    scalars["validation/share_entropy"] = share_entropy(shares)
    scalars["validation/largest_share"] = float(shares.max())
    counts = np.count_nonzero(validation.share > 0, axis=0).tolist()
    return Logged(step=step, scalars=scalars, counts={"validation/experts": counts})


def summary_of(results: Results, cost: CostTag | None) -> dict[str, float]:
    """Return the final results: `final/CASE/SPLIT_NAME`, and `test/NAME` of the first case.

    Args:
        results: means of every case.
        cost: how compute is logged in its unit; None: normalised only.
    """
    final = {
        f"final/{tag_part(case)}/{tag_part(split)}_{name}": value
        for case, splits in results.items()
        for split, means in splits.items()
        for name, value in _means(means, cost).items()
    }
    first = next(iter(results.values()))
    return final | {f"test/{name}": value for name, value in _means(first.get("test", {}), cost).items()}


def _means(means: Mapping[str, float], cost: CostTag | None) -> dict[str, float]:
    """Return means by safe names, with the cost in its unit beside compute."""
    named: dict[str, float] = {}
    for name, value in means.items():
        named[tag_part(name)] = value
        if name == "compute" and cost is not None:
            named[cost.name] = value * cost.per_compute
    return named
