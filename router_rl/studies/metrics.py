"""Metrics of a set of operating points: hull, Zero frontier, AIQ, APGR."""

from __future__ import annotations

import numpy as np

__all__ = ["ALL", "SEVERAL", "aiq", "apgr", "busiest", "collapsed", "upper_hull"]

ALL = 0.98  # a share above this is (nearly) everything
SEVERAL = 0.9  # a largest share below this means that others matter


def upper_hull(cost: np.ndarray, quality: np.ndarray) -> np.ndarray:
    """Non-decreasing upper convex hull of points: [M, 2] float64 (cost, quality), by rising cost.

    Two routers mixed at random reach every point between them, so the hull is what a set of operating
    points can do at each cost (RouterBench, Hu et al. 2024, section 4, https://arxiv.org/abs/2403.12031).

    Args:
        cost: [P] float.
        quality: [P] float.

    >>> upper_hull(np.array([0.0, 1.0, 2.0, 3.0]), np.array([0.0, 0.9, 1.0, 0.5])).tolist()
    [[0.0, 0.0], [1.0, 0.9], [2.0, 1.0]]
    """
    hull: list[tuple[float, float]] = []
    for x, y in sorted(zip(map(float, cost), map(float, quality), strict=True), key=lambda p: (p[0], -p[1])):
        if hull and y <= hull[-1][1]:
            continue  # dearer (or as dear) and no better
        while len(hull) >= 2 and _below(hull[-1], hull[-2], (x, y)):
            hull.pop()
        hull.append((x, y))
    return np.array(hull, dtype=np.float64)


def aiq(cost: np.ndarray, quality: np.ndarray, lowest: float, highest: float) -> float | None:
    """Average improvement in quality: area under the upper hull from one cost to another, over that range.

    Costs below the cheapest point count as that point's quality only if the point is the cheapest expert,
    so give it among the points: every router can be told to use it alone.

    Args:
        cost, quality: [P] float, the operating points.
        lowest, highest: mean cost of the cheapest and of the dearest expert.

    Returns:
        a quality, or None where all experts cost the same.

    Source: RouterBench, Hu et al. 2024, eq. 2, https://arxiv.org/abs/2403.12031.
    """
    if highest <= lowest:
        return None
    hull = upper_hull(cost, quality)
    inside = hull[:, 0][(hull[:, 0] > lowest) & (hull[:, 0] < highest)]
    at = np.concatenate([[lowest], inside, [highest]])
    return float(np.trapezoid(np.interp(at, hull[:, 0], hull[:, 1]), at) / (highest - lowest))


def apgr(weak: np.ndarray, strong: np.ndarray, score: np.ndarray) -> float | None:
    """Average performance gap recovered: mean over the share of strong calls of the gap closed.

    Queries are sent to the strong expert in order of their score; with ties in a fixed order, a random
    score gives 0.5 in expectation, and an oracle can exceed 1.

    Args:
        weak, strong: [T] float, quality of each expert.
        score: [T] float, the router's preference for the strong one.

    Returns:
        a fraction, or None where the experts are equally good.

    Source: RouteLLM, Ong et al. 2024, eq. 7, https://arxiv.org/abs/2406.18665.
    """
    gap = float(strong.mean(dtype=np.float64) - weak.mean(dtype=np.float64))
    if gap <= 0:
        return None
    gain = (strong - weak).astype(np.float64)[np.argsort(-score, kind="stable")]
    recovered = np.concatenate([[0.0], np.cumsum(gain)]) / len(gain) / gap
    return float(np.trapezoid(recovered, dx=1.0 / len(gain)))


def collapsed(shares: np.ndarray, oracle_shares: np.ndarray, k: int = 1) -> bool:
    """Whether a router sends (nearly) everything to one expert where the oracle uses several.

    Args:
        shares: [N] of the router; they sum to 1.
        oracle_shares: [N] of the oracle.
        k: experts a decision runs; with more than one, the k largest shares count together.

    >>> collapsed(np.array([1.0, 0.0, 0.0]), np.array([0.5, 0.3, 0.2]))
    True
    >>> collapsed(np.array([1.0, 0.0, 0.0]), np.array([0.95, 0.05, 0.0]))
    False
    """
    return bool(busiest(shares, k) > ALL and busiest(oracle_shares, k) < SEVERAL)


def busiest(shares: np.ndarray, k: int) -> float:
    """Share of the work that the k busiest experts do."""
    return float(np.sort(shares)[-k:].sum())


def _below(point: tuple[float, float], left: tuple[float, float], right: tuple[float, float]) -> bool:
    """Whether a point lies on or below the line from left to right."""
    rise = (right[0] - left[0]) * (point[1] - left[1]) - (point[0] - left[0]) * (right[1] - left[1])
    return rise <= 0
