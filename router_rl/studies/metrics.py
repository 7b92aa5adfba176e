"""Metrics of operating points: upper hull, AIQ, APGR, and the collapse criterion."""

from __future__ import annotations

import numpy as np

__all__ = ["ALL", "SEVERAL", "aiq", "apgr", "busiest", "collapsed", "upper_hull"]

ALL = 0.98  # a share above this counts as all queries
SEVERAL = 0.9  # below this largest share, several experts are used


def upper_hull(cost: np.ndarray, quality: np.ndarray) -> np.ndarray:
    """Return the non-decreasing upper convex hull of points, [M, 2] float64 (cost, quality), sorted by cost.

    Mixing two routers at random reaches every point between them, so the hull is the best quality at each
    cost (RouterBench, Hu et al. 2024, section 4, https://arxiv.org/abs/2403.12031).

    Args:
        cost: [P] float.
        quality: [P] float.

    >>> upper_hull(np.array([0.0, 1.0, 2.0, 3.0]), np.array([0.0, 0.9, 1.0, 0.5])).tolist()
    [[0.0, 0.0], [1.0, 0.9], [2.0, 1.0]]
    """
    hull: list[tuple[float, float]] = []
    for x, y in sorted(zip(map(float, cost), map(float, quality), strict=True), key=lambda p: (p[0], -p[1])):
        if hull and y <= hull[-1][1]:
            continue  # more expensive (or as expensive) and not better
        while len(hull) >= 2 and _below(hull[-1], hull[-2], (x, y)):
            hull.pop()
        hull.append((x, y))
    return np.array(hull, dtype=np.float64)


def aiq(cost: np.ndarray, quality: np.ndarray, lowest: float, highest: float) -> float | None:
    """Return the average improvement in quality (AIQ): mean height of the upper hull between two costs.

    Costs below the cheapest point get that point's quality. Include the cheapest expert among the points,
    because every router can be set to use it only.

    Args:
        cost: [P] float, cost of the operating points.
        quality: [P] float, their quality.
        lowest: mean cost of the cheapest expert.
        highest: mean cost of the most expensive expert.

    Returns:
        a quality, or None if all experts cost the same.

    Source: RouterBench, Hu et al. 2024, eq. 2, https://arxiv.org/abs/2403.12031.
    """
    if highest <= lowest:
        return None
    hull = upper_hull(cost, quality)
    inside = hull[:, 0][(hull[:, 0] > lowest) & (hull[:, 0] < highest)]
    at = np.concatenate([[lowest], inside, [highest]])
    return float(np.trapezoid(np.interp(at, hull[:, 0], hull[:, 1]), at) / (highest - lowest))


def apgr(weak: np.ndarray, strong: np.ndarray, score: np.ndarray) -> float | None:
    """Return the average performance gap recovered: the mean recovered gap over all shares of strong calls.

    Queries go to the strong expert in descending order of the score. A random score gives 0.5 in expectation,
    and an oracle can exceed 1.

    Args:
        weak: [T] float, quality of the weak expert.
        strong: [T] float, quality of the strong expert.
        score: [T] float, the router's preference for the strong expert; ties keep the row order.

    Returns:
        a fraction, or None if the strong expert is not better.

    Source: RouteLLM, Ong et al. 2024, eq. 7, https://arxiv.org/abs/2406.18665.
    """
    gap = float(strong.mean(dtype=np.float64) - weak.mean(dtype=np.float64))
    if gap <= 0:
        return None
    gain = (strong - weak).astype(np.float64)[np.argsort(-score, kind="stable")]
    recovered = np.concatenate([[0.0], np.cumsum(gain)]) / len(gain) / gap
    return float(np.trapezoid(recovered, dx=1.0 / len(gain)))


def collapsed(shares: np.ndarray, oracle_shares: np.ndarray, k: int = 1) -> bool:
    """Return whether a router sends (nearly) all queries to one expert while the oracle uses several.

    Args:
        shares: [N] float, the router's shares; they sum to 1.
        oracle_shares: [N] float, the oracle's shares.
        k: experts per decision; with more than one, the k largest shares are added.

    >>> collapsed(np.array([1.0, 0.0, 0.0]), np.array([0.5, 0.3, 0.2]))
    True
    >>> collapsed(np.array([1.0, 0.0, 0.0]), np.array([0.95, 0.05, 0.0]))
    False
    """
    return bool(busiest(shares, k) > ALL and busiest(oracle_shares, k) < SEVERAL)


def busiest(shares: np.ndarray, k: int) -> float:
    """Return the sum of the k largest shares."""
    return float(np.sort(shares)[-k:].sum())


def _below(point: tuple[float, float], left: tuple[float, float], right: tuple[float, float]) -> bool:
    """Return whether a point lies on or below the line from left to right."""
    rise = (right[0] - left[0]) * (point[1] - left[1]) - (point[0] - left[0]) * (right[1] - left[1])
    return rise <= 0
