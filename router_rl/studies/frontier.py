"""Metrics of cost-quality frontiers from the routing literature, with bootstrap confidence intervals.

A method has one operating point per compute weight (or price): its cost and quality on every query. Mixing
two routers at random reaches every point between them, so a method is evaluated by the upper convex hull of
its points and the cheapest expert. Intervals resample queries; all methods use the same resamples, so
differences are paired. An interval is the estimate plus or minus 1.96 bootstrap standard errors: a hull
selects the luckiest points of each resample, so a percentile interval may not even contain the estimate.
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
    "aiq_differences",
    "cost_saved",
    "cpt",
    "frontier_facts",
    "quality_gained",
    "ranking_facts",
    "resampled_means",
    "router_arena",
]

RESAMPLES = 1000
_ARENA_CHEAPEST, _ARENA_MOST_EXPENSIVE = 0.0044, 200.0  # US dollars per 1,000 queries


@dataclass(frozen=True, eq=False, kw_only=True)
class Points:
    """P operating points on T queries.

    Attributes:
        cost: [T, P] float, mean over training seeds.
        quality: [T, P] float, mean over training seeds.
    """

    cost: np.ndarray
    quality: np.ndarray


@dataclass(frozen=True, eq=False, kw_only=True)
class Ranking:
    """A router's preference between two experts on T queries.

    Attributes:
        weak: [T] float, quality of the weak expert.
        strong: [T] float, quality of the strong expert.
        score: [T] float, preference for the strong expert.
    """

    weak: np.ndarray
    strong: np.ndarray
    score: np.ndarray


def cpt(weak: np.ndarray, strong: np.ndarray, score: np.ndarray, recovered: float) -> float | None:
    """Return the call-performance threshold: the least share of strong calls that recovers a gap share.

    Args:
        weak: [T] float, quality of the weak expert.
        strong: [T] float, quality of the strong expert.
        score: [T] float; queries go to the strong expert in descending order of it.
        recovered: share of the quality gap to recover, such as 0.5 for CPT(50%).

    Returns:
        a share, or None if the strong expert is not better.

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
    quality: float,
    cost: float,
    cheapest: float = _ARENA_CHEAPEST,
    most_expensive: float = _ARENA_MOST_EXPENSIVE,
) -> float:
    """Return RouterArena's score `1.1 A C / (0.1 A + C)` of accuracy A and cost score C, from 0 to 1.

        C = (log2 c_max - log2 c) / (log2 c_max - log2 c_min), clipped to [0, 1]

    Args:
        quality: A, accuracy from 0 to 1.
        cost: c, US dollars per 1,000 queries.
        cheapest: c_min, US dollars per 1,000 queries; the benchmark's own by default.
        most_expensive: c_max, likewise.

    Source: RouterArena, Lu et al. 2025, section 4, https://arxiv.org/abs/2510.00202.

    >>> round(router_arena(0.5, 200.0), 3), round(router_arena(0.5, 0.0044), 3)
    (0.0, 0.524)
    """
    span = math.log2(most_expensive) - math.log2(cheapest)
    score = min(max((math.log2(most_expensive) - math.log2(max(cost, 1e-12))) / span, 0.0), 1.0)
    return 1.1 * quality * score / (0.1 * quality + score) if quality > 0 and score > 0 else 0.0


def cost_saved(cost: np.ndarray, quality: np.ndarray, best_cost: float, best_quality: float) -> float | None:
    """Return the share of the best expert's cost saved at equal quality; None if the hull is below it.

    Args:
        cost: [P] float, cost of the operating points.
        quality: [P] float, their quality.
        best_cost: cost of the best single expert.
        best_quality: its quality.

    >>> cost_saved(np.array([0.0, 1.0]), np.array([0.5, 0.9]), 2.0, 0.7)
    0.75
    """
    hull = upper_hull(cost, quality)
    if hull[-1, 1] < best_quality - 1e-12 or best_cost <= 0:
        return None
    return float(1.0 - np.interp(best_quality, hull[:, 1], hull[:, 0]) / best_cost)


def quality_gained(cost: np.ndarray, quality: np.ndarray, best_cost: float, best_quality: float) -> float:
    """Return the quality gained over the best expert at equal cost; negative if the hull is below it.

    Args:
        cost: [P] float, cost of the operating points.
        quality: [P] float, their quality.
        best_cost: cost of the best single expert.
        best_quality: its quality.

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
    """Return AIQ, AIQ above the zero router, cost saved, quality gained and RouterArena score of each method.

    The cheapest expert is added to every method's points; `zero_router` is the hull of the single experts.

    Args:
        methods: operating points by name.
        singles: the N single experts, on the same queries.
        cost_unit: unit of the cost; the RouterArena score needs `usd`.
        seed: seed of the bootstrap.
        resamples: number of bootstrap resamples.

    Returns:
        value and 95% CI by method and metric.
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
        name: {key: _with_interval([row[key] for row in own]) for key in own[0]} for name, own in rows.items()
    }


def aiq_differences(
    methods: Mapping[str, Points],
    rival: str,
    singles: Points,
    *,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> dict[str, dict[str, Any] | None]:
    """Return the AIQ of each method minus the rival's, with a paired 95% CI.

    Args:
        methods: operating points by name, the same number for every method.
        rival: one of the names.
        singles: the N single experts, on the same queries.
        seed: seed of the bootstrap.
        resamples: number of bootstrap resamples.

    Returns:
        value and 95% CI by method; None for the rival, and for all if the experts cost the same.
    """
    names = list(methods)
    parts = [singles.cost, singles.quality]
    for points in methods.values():
        parts += [points.cost, points.quality]
    differences: dict[str, list[float | None]] = {name: [] for name in names}
    for spent, earned, *own in resampled_means(parts, seed, resamples):
        aiqs = [_aiq_of(own[2 * at], own[2 * at + 1], spent, earned) for at in range(len(names))]
        other = aiqs[names.index(rival)]
        for name, value in zip(names, aiqs, strict=True):
            differences[name].append(None if value is None or other is None else value - other)
    return {name: None if name == rival else _with_interval(values) for name, values in differences.items()}


def ranking_facts(
    rankings: Mapping[str, Sequence[Ranking]], seed: int = 0, resamples: int = RESAMPLES
) -> dict[str, dict[str, Any]]:
    """Return APGR, CPT(50%) and CPT(80%) of routers between two experts, with 95% CI.

    Args:
        rankings: by name, one per training seed, on the same queries; the values are averaged over seeds. A
            ranking with equal scores throughout is ignored.
        seed: seed of the bootstrap.
        resamples: number of bootstrap resamples.
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
        for rows in _row_samples(len(every[0].weak), seed, resamples):
            count = np.bincount(rows, minlength=len(every[0].weak))
            # Resampled rows in descending order of score: sorting them again is then linear.
            resampled = [order.repeat(count[order]) for order in orders]
            pairs = list(zip(own, resampled, strict=True))
            for key, measure in measures.items():
                each = [measure(one.weak[rows], one.strong[rows], one.score[rows]) for one, rows in pairs]
                known = [value for value in each if value is not None]
                values[key].append(float(np.mean(known)) if known else None)
        facts[name] = {key: _with_interval(each) for key, each in values.items()}
    return facts


def resampled_means(
    parts: Sequence[np.ndarray], seed: int = 0, resamples: int = RESAMPLES
) -> Iterator[list[np.ndarray]]:
    """Yield the column means of matrices [T, P] over all rows, then over each bootstrap sample of rows.

    Args:
        parts: matrices with the same rows.
        seed: seed of the bootstrap; the same seed and number of rows give the same resamples.
        resamples: number of bootstrap resamples.
    """
    rows = len(parts[0])
    wide = [np.asarray(part, dtype=np.float64) for part in parts]
    for sample in _row_samples(rows, seed, resamples):
        share = np.bincount(sample, minlength=rows) / rows
        yield [share @ part for part in wide]


def _row_samples(rows: int, seed: int, resamples: int) -> Iterator[np.ndarray]:
    """Yield all row numbers, then bootstrap samples of them."""
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
    """Return all metrics of one method's points [P], given the single experts [N]."""
    own = _aiq_of(cost, quality, spent, earned)
    best, cheapest = int(earned.argmax()), int(spent.argmin())
    with_cheapest = np.append(cost, spent[cheapest]), np.append(quality, earned[cheapest])
    arena = max(router_arena(q, 1000.0 * c) for c, q in zip(cost, quality, strict=True))
    if own is None or zero is None:  # all experts cost the same, so nothing can be saved
        above = saved = gained = saved_of_most_expensive = None
    else:
        above = own - zero
        saved = cost_saved(*with_cheapest, spent[best], earned[best])
        gained = quality_gained(*with_cheapest, spent[best], earned[best])
        most = int(spent.argmax())
        saved_of_most_expensive = cost_saved(*with_cheapest, spent[most], earned[most])
    return {
        "aiq": own,
        "aiq_above_zero": above,
        "cost_saved": saved,
        "cost_saved_most_expensive": saved_of_most_expensive,
        "quality_gained": gained,
        "router_arena": arena if cost_unit == "usd" else None,
    }


def _aiq_of(cost: np.ndarray, quality: np.ndarray, spent: np.ndarray, earned: np.ndarray) -> float | None:
    cheapest = int(spent.argmin())
    return aiq(
        np.append(cost, spent[cheapest]), np.append(quality, earned[cheapest]), spent.min(), spent.max()
    )


def _with_interval(values: Sequence[float | None]) -> dict[str, Any] | None:
    """Return the first value ± 1.96 standard deviations of the others; None if over 10% are None.

    The standard normal interval of Efron and Tibshirani 1993, section 13.3.
    """
    known = np.array([value for value in values[1:] if value is not None])
    if values[0] is None or len(known) < 0.9 * (len(values) - 1):
        return None
    value, half = float(values[0]), float(1.96 * known.std(ddof=1)) if len(known) > 1 else 0.0
    return {"value": value, "ci95": [value - half, value + half]}
