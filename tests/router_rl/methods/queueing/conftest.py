"""A table of three experts: the better, the slower and the more expensive."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from experts import OutcomeTable


def three_experts(rows: int = 160, seed: int = 0) -> OutcomeTable:
    """Half of the rows for training, a quarter for validation, a quarter for test."""
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(rows, 2)).astype(np.float32)
    skill = np.array([0.4, 0.6, 0.9]) + 0.1 * features[:, :1]
    return OutcomeTable(
        experts=["small", "middle", "large"],
        query_id=range(rows),
        features=features,
        quality=skill.clip(0, 1),
        cost=np.array([[1.0, 2.0, 4.0]] * rows),
        latency_s=rng.exponential(1.0, (rows, 3)) * [0.5, 1.0, 2.0] + 1e-3,
        split=["train"] * (rows // 2) + ["validation"] * (rows // 4) + ["test"] * (rows // 4),
    )


@pytest.fixture(scope="session")
def make_table() -> Callable[..., OutcomeTable]:
    return three_experts


@pytest.fixture(scope="session")
def table() -> OutcomeTable:
    return three_experts()
