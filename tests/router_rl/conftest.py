"""A small table whose best router is known, and beliefs that are fitted once for equal rows."""

from __future__ import annotations

import copy
import hashlib
import importlib
from collections.abc import Iterator

import numpy as np
import pytest
from torch import Tensor

from experts import OutcomeTable
from router_rl.problems.caching import problem as caching
from router_rl.problems.cascade import beliefs, cascade_data
from router_rl.problems.routing.problem import RoutingProblem

COST = np.array([1.0, 2.0, 4.0, 10.0], dtype=np.float32)


def make_table(queries: int = 600, seed: int = 0, *, probabilities: bool = True) -> OutcomeTable:
    """Four experts, four kinds of query told apart by noisy features: expert e is right on kind e.

    The dearest expert is right on every kind with probability .6, so it is the best single one.
    """
    rng = np.random.default_rng(seed)
    kind = np.arange(queries) % 4
    features = np.eye(4, dtype=np.float32)[kind] + rng.normal(0, 0.15, (queries, 4)).astype(np.float32)
    right = np.eye(4, dtype=bool)[kind]
    right[:, 3] |= rng.random(queries) < 0.6
    label = rng.integers(0, 3, queries)
    chance = np.full((queries, 4, 3), 0.05, dtype=np.float32)
    answer = np.where(right, label[:, None], (label[:, None] + 1) % 3)
    np.put_along_axis(chance, answer[:, :, None], 0.9, axis=2)
    return OutcomeTable(
        experts=("red", "green", "blue", "grey"),
        query_id=np.array([f"q{i}" for i in range(queries)], dtype=object),
        features=features,
        quality=right.astype(np.float32),
        cost=np.tile(COST, (queries, 1)),
        split=np.array(["train", "train", "train", "validation", "test"])[rng.integers(0, 5, queries)],
        cost_unit="flops",
        source="four kinds",
        group=np.array(["red", "green", "blue", "grey"], dtype=object)[kind],
        probabilities=chance if probabilities else None,
        label=label if probabilities else None,
    )


@pytest.fixture(scope="session")
def kinds() -> OutcomeTable:
    """The table with class probabilities."""
    return make_table()


@pytest.fixture(scope="session")
def kinds_without_probabilities() -> OutcomeTable:
    """The table as a log of language models would be: qualities and costs only."""
    return make_table(probabilities=False)


@pytest.fixture(scope="session", autouse=True)
def _fitted_once() -> Iterator[None]:
    """Fit the beliefs of equal rows once a worker: many problems of a few tables are made.

    `problems/cascade/test_beliefs.py` calls the function itself.
    """
    kept: dict[str, beliefs.FittedBeliefs] = {}

    def fit_beliefs(
        features: Tensor, confidence: Tensor, quality: Tensor, seed: int, same: Tensor | None = None
    ) -> beliefs.FittedBeliefs:
        sizes = (seed, beliefs._EPOCHS, beliefs._EXCHANGES, features.shape, quality.shape)
        digest = hashlib.sha256(repr(sizes).encode())
        for part in (features, confidence, quality, same):
            digest.update(b"" if part is None else part.numpy().tobytes())
        name = digest.hexdigest()
        if name not in kept:
            kept[name] = beliefs.fit_beliefs(features, confidence, quality, seed, same)
        return copy.deepcopy(kept[name])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(caching, "fit_beliefs", fit_beliefs)
        patch.setattr(cascade_data, "fit_beliefs", fit_beliefs)
        yield


@pytest.fixture
def few_rules(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave the strong simple rules out of comparisons, where they make no difference."""
    monkeypatch.setattr(RoutingProblem, "always", ("oracle", "random", "best_single"))


@pytest.fixture
def no_report(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out a comparison's page, a second of work, where only its other files are looked at."""
    monkeypatch.setattr(importlib.import_module("router_rl.studies.compare"), "write_report", lambda *_: None)
