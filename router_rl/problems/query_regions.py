"""Regions of a table's queries: its groups, or clusters of its features."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
from sklearn.cluster import KMeans
from sklearn.exceptions import ConvergenceWarning

from experts import OutcomeTable

__all__ = ["query_regions"]

_CLUSTERS = 8
_ROWS = 50  # of a cluster, at least on average


def query_regions(table: OutcomeTable, features: np.ndarray, seed: int = 0) -> tuple[np.ndarray, int]:
    """Return the region of each query, [T] int64, and the number of regions G.

    Args:
        table: T queries, with or without groups.
        features: [T, D] float, clustered by k-means if there are no groups.
        seed: random seed of the clusters.
    """
    if table.group is not None:
        labels, region = np.unique(table.group.astype(str), return_inverse=True)
        return region.astype(np.int64), len(labels)
    deviation = features.std(axis=0, dtype=np.float64)
    points = (features - features.mean(axis=0)) / np.where(deviation > 1e-6, deviation, np.inf)
    clusters = max(1, min(_CLUSTERS, len(table) // _ROWS))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # fewer distinct points than clusters
        means: Any = KMeans(n_clusters=clusters, n_init="auto", random_state=seed).fit(points)
    present, region = np.unique(means.labels_, return_inverse=True)
    return region.astype(np.int64), len(present)
