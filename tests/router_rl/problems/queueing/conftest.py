"""A table of two experts: a slow one that is right, and a fast one that is right half of the time."""

from __future__ import annotations

import numpy as np
import pytest

from experts import OutcomeTable


@pytest.fixture(scope="session")
def table() -> OutcomeTable:
    rng = np.random.default_rng(0)
    rows = 80
    features = rng.normal(size=(rows, 3)).astype(np.float32)
    return OutcomeTable(
        experts=["slow", "fast"],
        query_id=range(rows),
        features=features,
        quality=np.column_stack([np.ones(rows), features[:, 0] > 0]),
        cost=np.array([[4.0, 1.0]] * rows),
        latency_s=rng.exponential(1.0, (rows, 2)) * [1.0, 0.2] + 1e-3,
        split=["train"] * 40 + ["validation"] * 20 + ["test"] * 20,
    )
