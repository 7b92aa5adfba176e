"""Regions of queries: the groups, or clusters that do not depend on the scale of a feature."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from experts import OutcomeTable
from router_rl.problems.query_regions import query_regions


def made(rows: int) -> tuple[OutcomeTable, np.ndarray]:
    rng = np.random.default_rng(0)
    part = np.arange(rows) % 2
    features = np.stack([part + 0.01 * rng.normal(size=rows), 1e5 * rng.normal(size=rows), np.ones(rows)], 1)
    table = OutcomeTable(
        experts=("a", "b"),
        query_id=np.arange(rows).astype(str),
        features=features,
        group=np.where(part == 1, "odd", "even"),
        quality=np.zeros((rows, 2)),
        cost=np.ones((rows, 2)),
        split=np.full(rows, "train"),
    )
    return table, part


def test_groups_are_regions() -> None:
    table, part = made(10)
    region, regions = query_regions(table, np.zeros((10, 1)))
    assert regions == 2
    np.testing.assert_array_equal(region, part)


def test_without_groups_the_features_are_clustered() -> None:
    table, part = made(1000)
    assert table.features is not None
    region, regions = query_regions(replace(table, group=None), table.features)
    assert regions == 8
    assert np.bincount(region).min() > 0
    # No cluster mixes the two parts, although the other feature is 100,000 times as wide.
    assert max(min(part[region == each].mean(), 1 - part[region == each].mean()) for each in range(8)) == 0.0
    few, one = query_regions(replace(table.take(np.arange(40)), group=None), table.features[:40])
    assert one == 1
    assert not few.any()
