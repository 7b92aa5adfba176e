"""A small outcome table made by hand, for the tests of the environments."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from experts import OutcomeTable
from experts.moe.answer_pool import answer_pool
from experts.moe.token_pool import TokenPool


@pytest.fixture(scope="session")
def make_table() -> Callable[..., OutcomeTable]:
    """Return a function that makes a table of N experts, 3 features, 19 training queries and 4 others.

    With probabilities (over 3 classes), quality is 1 where an expert's likeliest class is the label; without,
    it is anything in [0, 1]. The most expensive expert is the last one.
    """

    def make(experts: int = 3, *, probabilities: bool = True, **changes: object) -> OutcomeTable:
        rng = np.random.default_rng(7)
        rows, fields = 23, {}
        quality = rng.random((rows, experts))
        if probabilities:
            distributions = rng.dirichlet(np.ones(3), size=(rows, experts))
            label = rng.integers(0, 3, rows)
            quality = (distributions.argmax(axis=2) == label[:, None]).astype(np.float32)
            fields = {"probabilities": distributions, "label": label}
        base = 10.0 ** np.arange(experts) / 7
        return OutcomeTable(
            **{
                "experts": [f"expert{e}" for e in range(experts)],
                "query_id": range(rows),
                "features": np.column_stack([np.arange(rows) / 4, rng.normal(size=rows), np.full(rows, 2.0)]),
                "quality": quality,
                "cost": base * (1 + (np.arange(rows)[:, None] % 3) / 10),
                "split": ["train"] * 19 + ["validation"] * 2 + ["test"] * 2,
                "cost_unit": "usd",
                "source": "made by hand",
                **fields,
                **changes,
            }
        )

    return make


@pytest.fixture(scope="session")
def asked_pool() -> TokenPool:
    """Return the packaged token-level pool with verified answers, with few problems."""
    return answer_pool(2, 2, 2)
