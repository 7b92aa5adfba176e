"""Tables for cascades: the hand-solved one, and a made one with agreement."""

from __future__ import annotations

import numpy as np
import pytest

from experts import OutcomeTable


@pytest.fixture(scope="session")
def solved() -> OutcomeTable:
    """Return the hand-solved case many times over: at weight .5 the best earns .65.

    A cheap expert (compute .2) is right on half the queries and sure (.9) just there, else unsure (.1); a
    dear one (compute 1) is always right. Ask the cheap one, answer if it is sure, else ask the dear one:
    -.1 + (1 + 1 - .5) / 2 = .65; the dear one alone earns .5, the cheap one .4.
    """
    right = np.tile([1, 0, 1, 0], 60)
    return OutcomeTable(
        experts=["cheap", "dear"],
        query_id=range(240),
        features=np.ones((240, 1)),
        quality=np.column_stack([right, np.ones(240)]),
        cost=np.tile([0.1, 0.5], (240, 1)),
        confidence=np.column_stack([np.where(right, 0.9, 0.1), np.full(240, 0.8)]),
        split=["train"] * 120 + ["validation"] * 60 + ["test"] * 60,
    )


@pytest.fixture(scope="session")
def made() -> OutcomeTable:
    """Return 4 experts of different skill over 3 classes, surer where right; features tell a little."""
    rng = np.random.default_rng(3)
    rows, skill = 400, np.array([0.5, 0.6, 0.7, 0.9])
    label = rng.integers(0, 3, rows)
    logits = rng.normal(size=(rows, 4, 3))
    logits[np.arange(rows), :, label] += 3.0 * skill - 0.5
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=2, keepdims=True)
    return OutcomeTable(
        experts=["a", "b", "c", "d"],
        query_id=range(rows),
        features=np.column_stack([logits.max(axis=(1, 2)), rng.normal(size=rows)]),
        quality=probabilities.argmax(axis=2) == label[:, None],
        cost=np.tile([0.1, 0.2, 0.4, 1.0], (rows, 1)),
        confidence=probabilities.max(axis=2),
        probabilities=probabilities,
        label=label,
        split=["train"] * 240 + ["validation"] * 80 + ["test"] * 80,
    )
