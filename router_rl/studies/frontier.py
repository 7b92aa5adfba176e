"""What a set of operating points is worth, in the routing literature's own numbers, with intervals.

A method has one operating point a compute weight (or price): what it spent and earned on every query. Two
routers mixed at random reach every point between them, so a method is judged by the upper hull of its
points, the cheapest expert alone among them. Intervals resample queries; all methods see the same resamples,
so differences are paired.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .metrics import aiq, apgr, upper_hull

__all__ = [
    "Points",
    "Ranking",
    "cost_saved",
    "cpt",
    "frontier_facts",
    "quality_gained",
    "ranking_facts",
    "resampled_means",
    "router_arena",
]

RESAMPLES = 1000
_ARENA_CHEAPEST, _ARENA_DEAREST = 0.0044, 200.0  # US dollars per 1,000 queries


@dataclass(frozen=True, eq=False, kw_only=True)
class Points:
    """P operating points on T queries.

    Attributes:
        cost, quality: [T, P] float; the mean over training seeds, where there are several.
    """

    cost: np.ndarray
    quality: np.ndarray


@dataclass(frozen=True, eq=False, kw_only=True)
class Ranking:
    """Two experts, and how much a router prefers the strong one.

    Attributes:
        weak, strong: [T] float, quality of each.
        score: [T] float.
    """

    weak: np.ndarray
    strong: np.ndarray
    score: np.ndarray


def cpt(weak: np.ndarray, strong: np.ndarray, score: np.ndarray, recovered: float) -> float | None:
    """Call-performance threshold: the least share of strong calls that recovers so much of the gap.

    Args:
        weak, strong: [T] float, quality of each expert.
        score: [T] float, queries are sent to the strong expert in this order.
        recovered: share of the gap between the two, such as 0.5 for CPT(50%).

    Returns:
        a share, or None where the strong expert is no better.

    Source: RouteLLM, Ong et al. 2024, section 3.2, https://arxiv.org/abs/2406.18665.

    >>> cpt(np.array([0, 0, 1, 1.0]), np.array([1, 1, 1, 1.0]), np.array([4, 3, 2, 1.0]), 0.5)
    0.25
    """
    gap = float(strong.mean(dtype=np.float64) - weak.mean(dtype=np.float64))
    if gap <= 0:
        return None
    gain = (strong - weak).astype(np.float64)[np.argsort(-score, kind="stable")]
    closed = np.concatenate([[0.0], np.cumsum(gain)]) / len(gain) / gap
    return float(np.argmax(closed >= recovered - 1e-12)) / len(gain)


def router_arena(
    quality: float, cost: float, cheapest: float = _ARENA_CHEAPEST, dearest: float = _ARENA_DEAREST
) -> float:
    """RouterArena's score `1.1 A C / (0.1 A + C)` of accuracy A and cost score C, both 0 to 1.

        C = (log2 c_max - log2 c) / (log2 c_max - log2 c_min), clipped to [0, 1]

    Args:
        quality: A.
        cost: c, US dollars per 1,000 queries.
        cheapest, dearest: c_min and c_max, the benchmark's own by default.

    Source: RouterArena, Lu et al. 2025, section 4, https://arxiv.org/abs/2510.00202.

    >>> round(router_arena(0.5, 200.0), 3), round(router_arena(0.5, 0.0044), 3)
    (0.0, 0.524)
    """
    place = (math.log2(dearest) - math.log2(max(cost, 1e-12))) / (math.log2(dearest) - math.log2(cheapest))
    score = min(max(place, 0.0), 1.0)
    return 1.1 * quality * score / (0.1 * quality + score) if quality > 0 and score > 0 else 0.0


def cost_saved(cost: np.ndarray, quality: np.ndarray, best_cost: float, best_quality: float) -> float | None:
    """Share of the best expert's cost that is saved at its quality, or None where the hull stays below it.

    Args:
        cost, quality: [P] float, operating points.
        best_cost, best_quality: of the best expert alone.

    >>> cost_saved(np.array([0.0, 1.0]), np.array([0.5, 0.9]), 2.0, 0.7)
    0.75
    """
    hull = upper_hull(cost, quality)
    if hull[-1, 1] < best_quality - 1e-12 or best_cost <= 0:
        return None
    return float(1.0 - np.interp(best_quality, hull[:, 1], hull[:, 0]) / best_cost)


def quality_gained(cost: np.ndarray, quality: np.ndarray, best_cost: float, best_quality: float) -> float:
    """Quality above the best expert's at its cost; negative where the hull lies below it.

    Args:
        cost, quality: [P] float, operating points.
        best_cost, best_quality: of the best expert alone.

    >>> quality_gained(np.array([0.0, 1.0, 3.0]), np.array([0.5, 0.7, 0.9]), 2.0, 0.75).__round__(6)
    0.05
    """
    hull = upper_hull(cost, quality)
    return float(np.interp(best_cost, hull[:, 0], hull[:, 1]) - best_quality)


def frontier_facts(
    methods: Mapping[str, Points],
    singles: Points,
    *,
    cost_unit: str = "unknown",
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> dict[str, dict[str, Any]]:
    """AIQ, AIQ above Zero, cost saved, quality gained and RouterArena score of each method, with intervals.

    The cheapest expert alone is added to every method's points; `zero_router` is all experts alone.

    Args:
        methods: by name.
        singles: the N experts alone, on the same queries.
        cost_unit: the RouterArena score needs `usd`.
        seed, resamples: of the bootstrap.
    """
    names = list(methods)
    parts = [singles.cost, singles.quality]
    for points in methods.values():
        parts += [points.cost, points.quality]
    rows: dict[str, list[dict[str, float | None]]] = {name: [] for name in names}
    for spent, earned, *own in resampled_means(parts, seed, resamples):
        zero = _aiq_of(spent, earned, spent, earned)
        for index, name in enumerate(names):
            cost, quality = own[2 * index], own[2 * index + 1]
            rows[name].append(_one(cost, quality, spent, earned, zero, cost_unit))
    return {
        name: {key: _told([row[key] for row in found]) for key in found[0]} for name, found in rows.items()
    }


def ranking_facts(
    rankings: Mapping[str, Sequence[Ranking]], seed: int = 0, resamples: int = RESAMPLES
) -> dict[str, dict[str, Any]]:
    """APGR, CPT(50%) and CPT(80%) of routers between two experts, with intervals.

    Args:
        rankings: by name, one a training seed, on the same queries; their mean is told. One whose scores
            are all equal ranks nothing, and has none.
        seed, resamples: of the bootstrap.
    """
    measures: dict[str, Callable[[np.ndarray, np.ndarray, np.ndarray], float | None]] = {
        "apgr": apgr,
        "cpt50": lambda weak, strong, score: cpt(weak, strong, score, 0.5),
        "cpt80": lambda weak, strong, score: cpt(weak, strong, score, 0.8),
    }
    facts: dict[str, dict[str, Any]] = {}
    for name, every in rankings.items():
        own = [one for one in every if np.ptp(one.score) > 0.0]
        values: dict[str, list[float | None]] = {key: [] for key in measures}
        orders = [np.argsort(-one.score, kind="stable") for one in own]
        for chosen in _draws(len(every[0].weak), seed, resamples):
            count = np.bincount(chosen, minlength=len(every[0].weak))
            # Drawn rows by falling score: sorting them again takes one pass.
            drawn = [order.repeat(count[order]) for order in orders]
            pairs = list(zip(own, drawn, strict=True))
            for key, measure in measures.items():
                found = [measure(one.weak[rows], one.strong[rows], one.score[rows]) for one, rows in pairs]
                known = [value for value in found if value is not None]
                values[key].append(float(np.mean(known)) if known else None)
        facts[name] = {key: _told(found) for key, found in values.items()}
    return facts


def resampled_means(
    parts: Sequence[np.ndarray], seed: int = 0, resamples: int = RESAMPLES
) -> Iterator[list[np.ndarray]]:
    """Column means of matrices [T, P] over all rows, and then over each bootstrap resample of the rows.

    Args:
        parts: with the same rows.
        seed, resamples: of the bootstrap; the same seed and rows give the same resamples.
    """
    rows = len(parts[0])
    wide = [np.asarray(part, dtype=np.float64) for part in parts]
    for chosen in _draws(rows, seed, resamples):
        share = np.bincount(chosen, minlength=rows) / rows
        yield [share @ part for part in wide]


def _draws(rows: int, seed: int, resamples: int) -> Iterator[np.ndarray]:
    """All row numbers, then resamples of them."""
    rng = np.random.default_rng(seed)
    yield np.arange(rows)
    for _ in range(resamples):
        yield rng.integers(0, rows, rows)


def _one(
    cost: np.ndarray,
    quality: np.ndarray,
    spent: np.ndarray,
    earned: np.ndarray,
    zero: float | None,
    cost_unit: str,
) -> dict[str, float | None]:
    """Every measure of one method's points [P] beside the experts alone [N]."""
    found = _aiq_of(cost, quality, spent, earned)
    best, cheapest = int(earned.argmax()), int(spent.argmin())
    with_cheapest = np.append(cost, spent[cheapest]), np.append(quality, earned[cheapest])
    arena = max(router_arena(q, 1000.0 * c) for c, q in zip(cost, quality, strict=True))
    return {
        "aiq": found,
        "aiq_above_zero": None if found is None or zero is None else found - zero,
        "cost_saved": cost_saved(*with_cheapest, spent[best], earned[best]),
        "quality_gained": quality_gained(*with_cheapest, spent[best], earned[best]),
        "router_arena": arena if cost_unit == "usd" else None,
    }


def _aiq_of(cost: np.ndarray, quality: np.ndarray, spent: np.ndarray, earned: np.ndarray) -> float | None:
    cheapest = int(spent.argmin())
    return aiq(
        np.append(cost, spent[cheapest]), np.append(quality, earned[cheapest]), spent.min(), spent.max()
    )


def _told(values: Sequence[float | None]) -> dict[str, Any] | None:
    """The first value with the 95% percentile interval of the others; None where over a tenth have none."""
    known = np.array([value for value in values[1:] if value is not None])
    if values[0] is None or len(known) < 0.9 * (len(values) - 1):
        return None
    low, high = np.quantile(known, [0.025, 0.975])
    return {"value": float(values[0]), "ci95": [float(low), float(high)]}
