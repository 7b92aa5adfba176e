"""Small tables made by hand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from experts import OutcomeTable


@pytest.fixture(scope="session")
def columns() -> Callable[..., dict[str, Any]]:
    """Return a function that makes the fields of a small valid table, with some of them replaced."""

    def make(rows: int = 6, **changes: Any) -> dict[str, Any]:
        rng = np.random.default_rng(0)
        probabilities = rng.dirichlet(np.ones(3), size=(rows, 2)).astype(np.float32)
        fields: dict[str, Any] = {
            "experts": ("small", "large-4.5"),
            "query_id": np.array([f"q{i}" for i in range(rows)], dtype=object),
            "features": rng.normal(size=(rows, 4)).astype(np.float32),
            "quality": rng.random((rows, 2)).astype(np.float32),
            "cost": np.tile(np.float32([1, 10]), (rows, 1)),
            "split": np.array([("train", "validation", "test")[i % 3] for i in range(rows)]),
            "cost_unit": "usd",
            "source": "made up",
            "prompt": np.array([f"question {i}" for i in range(rows)], dtype=object),
            "group": np.array([f"g{i % 2}" for i in range(rows)], dtype=object),
            "fold": np.arange(rows) % 5,
            "confidence": probabilities.max(axis=2),
            "tokens_out": np.where(np.arange(2 * rows).reshape(rows, 2) == 1, np.nan, 7).astype(np.float32),
            "latency_s": np.full((rows, 2), 0.25, dtype=np.float32),
            "probabilities": probabilities,
            "label": np.arange(rows) % 3,
            "extra": pa.table({"metric": ["f1"] * rows, "cost/unlisted": list(range(rows))}),
            "notes": ("made by a test",),
        }
        return {**fields, **changes}

    return make


@pytest.fixture(scope="session")
def table(columns: Callable[..., dict[str, Any]]) -> OutcomeTable:
    """Return a small valid table with every field."""
    return OutcomeTable(**columns())
