"""Outcomes of six experts in four regions, and of a new one that is good in the first region."""

from __future__ import annotations

import numpy as np

from router_rl.problems.newcomer import Answers, Newcomer, Pool, newcomer
from router_rl.problems.newcomer_prior import estimated_variances

__all__ = ["REGIONS", "ROWS", "after", "drawn"]

ROWS, REGIONS = 400, 4


def drawn(seed: int, skill: float = 1.0) -> tuple[Pool, np.ndarray]:
    """Return a pool of six experts, and the quality of a new one that is good in region 0."""
    rng = np.random.default_rng(seed)
    region = np.arange(ROWS) % REGIONS
    difficulty = rng.normal(size=(ROWS, 1))
    skills = rng.normal(size=(REGIONS, 6))[region]
    quality = (difficulty + 0.3 * rng.normal(size=(ROWS, 6)) < skills).astype(float)
    own = difficulty[:, 0] + 0.3 * rng.normal(size=ROWS) < np.where(region == 0, skill, -0.5)
    cost = np.tile([1.0, 2.0, 3.0, 4.0, 5.0, 6.0], (ROWS, 1)) * rng.uniform(0.5, 1.5, (ROWS, 1))
    return Pool(quality=quality, cost=cost, region=region, regions=REGIONS), own.astype(float)


def after(pool: Pool, own: np.ndarray, rows: np.ndarray) -> Newcomer:
    """Return the new expert after its answers to some rows; it costs ten times the first one."""
    variances = estimated_variances(pool.quality, pool.region, pool.regions).widened()
    return newcomer(pool, Answers(rows=rows, quality=own[rows], cost=pool.cost[rows, 0] * 10.0), variances)
