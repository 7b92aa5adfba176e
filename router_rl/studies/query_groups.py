"""Groups of the test queries in a report: those of the table, or clusters of the features."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from sklearn.cluster import KMeans
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from experts import OutcomeTable

__all__ = ["QueryGroups", "query_groups"]

_SHOWN = 24
_CLUSTERS = 8
_FITTED = 2_000  # training rows that the clusters are fitted to
_LETTERS = 40  # of a cluster's name


@dataclass(frozen=True, kw_only=True, eq=False)
class QueryGroups:
    """Groups of T queries.

    Attributes:
        names: of the groups, at most 24.
        labels: [T] str, each query's group, which may be none of the names.
        clustered: whether the groups are clusters of the features.
    """

    names: list[str]
    labels: np.ndarray
    clustered: bool


def query_groups(table: OutcomeTable) -> QueryGroups:
    """Return the groups of the test rows; one group of all where there is too little to cluster.

    Args:
        table: rows of all splits.
    """
    test, train = table.part("test"), table.part("train")
    if test.group is not None:
        labels = test.group.astype(str)
        return QueryGroups(names=sorted(set(labels))[:_SHOWN], labels=labels, clustered=False)
    if test.features is not None and train.features is not None and len(test) > _CLUSTERS:
        rows = train.features[:_FITTED]
        if len(np.unique(rows, axis=0)) > _CLUSTERS:
            return _clusters(test, test.features, rows)
    return QueryGroups(names=["all"], labels=np.full(len(test), "all"), clustered=False)


def _clusters(test: OutcomeTable, features: np.ndarray, rows: np.ndarray) -> QueryGroups:
    """Return clusters by falling size, each named after its most central query."""
    model = make_pipeline(StandardScaler(), KMeans(_CLUSTERS, n_init="auto", random_state=0)).fit(rows)
    distances = model.transform(features)
    nearest = distances.argmin(axis=1)
    counts = np.bincount(nearest, minlength=_CLUSTERS)
    texts = test.query_id if test.prompt is None else test.prompt
    names = np.full(_CLUSTERS, "", dtype=object)
    order = [cluster for cluster in np.argsort(-counts, kind="stable") if counts[cluster]]
    for place, cluster in enumerate(order, 1):
        text = " ".join(str(texts[distances[:, cluster].argmin()]).split())
        names[cluster] = f"{place}: {text if len(text) <= _LETTERS else text[: _LETTERS - 1] + '…'}"
    return QueryGroups(
        names=[str(names[cluster]) for cluster in order], labels=names[nearest], clustered=True
    )
