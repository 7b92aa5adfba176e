"""The posterior from sums is that of Bayesian regression; a replaced score leaves no trace."""

from __future__ import annotations

import numpy as np
import pytest

from router_rl.serving.linear_posterior import (
    add_scores,
    empty_sums,
    inputs_of,
    posterior_of,
    predicted_utility,
)

ROWS, WIDTH, EXPERTS = 60, 4, 3
FIRST = np.full(ROWS, np.nan)


@pytest.fixture
def data() -> tuple[np.ndarray, ...]:
    rng = np.random.default_rng(0)
    features = rng.normal(3.0, [1.0, 0.1, 10.0, 0.0], (ROWS, WIDTH))
    logits = rng.normal(0.5, 0.2, ROWS)
    expert = rng.integers(0, EXPERTS, ROWS)
    return features, logits, expert, rng.random(ROWS), 1e-3 * rng.random(ROWS)


def test_it_is_the_regression_of_every_expert(data: tuple[np.ndarray, ...]) -> None:
    features, logits, expert, score, cost = data
    z = inputs_of(features, logits)
    found = posterior_of(add_scores(empty_sums(EXPERTS, WIDTH), expert, z, score, FIRST, cost), 100.0, 2.0)
    deviation = features.std(axis=0)
    scale = np.where(deviation > 0, 1.0 / np.where(deviation > 0, deviation, 1.0), 0.0)
    x = (features - features.mean(axis=0)) * scale  # the slow twin: rows, not sums
    at, at_logits = features[0] + 0.5 * deviation, np.array([0.1, 0.2, 0.3])
    mean, spread = predicted_utility(found, at, at_logits)
    for one in range(EXPERTS):
        rows = inputs_of(x, logits)[expert == one]
        target = (score - 100.0 * cost - logits)[expert == one]
        precision = rows.T @ rows + 2.0 * np.eye(WIDTH + 2)
        weights = np.linalg.solve(precision, rows.T @ target)
        query = np.concatenate([[1.0], (at - features.mean(axis=0)) * scale, [at_logits[one]]])
        assert mean[one] == pytest.approx(at_logits[one] + query @ weights)
        assert spread[one] ** 2 == pytest.approx(query @ np.linalg.solve(precision, query))


def test_it_starts_as_the_router() -> None:
    start = posterior_of(empty_sums(EXPERTS, WIDTH), 100.0, 10.0)
    logits = np.array([0.3, 0.9, 0.1])
    mean, deviation = predicted_utility(start, np.ones(WIDTH), logits)
    assert mean.tolist() == logits.tolist()
    assert (deviation > 0).all()


def test_a_replaced_score_leaves_no_trace(data: tuple[np.ndarray, ...]) -> None:
    features, logits, expert, score, cost = data
    z = inputs_of(features, logits)
    wanted = add_scores(empty_sums(EXPERTS, WIDTH), expert, z, score, FIRST, cost)
    wrong = add_scores(empty_sums(EXPERTS, WIDTH), expert, z, 1.0 - score, FIRST, cost)
    mended = add_scores(wrong, expert, z, score, 1.0 - score, cost)
    for name in ("outer", "score", "cost"):
        assert getattr(mended, name) == pytest.approx(getattr(wanted, name))
    assert wanted.decisions.sum() == mended.decisions.sum() == ROWS
    assert wrong.score != pytest.approx(wanted.score)


def test_parts_add_up_to_the_whole(data: tuple[np.ndarray, ...]) -> None:
    features, logits, expert, score, cost = data
    z = inputs_of(features, logits)
    start = empty_sums(EXPERTS, WIDTH)
    whole = add_scores(start, expert, z, score, FIRST, cost)
    part = start
    for rows in np.array_split(np.random.default_rng(1).permutation(ROWS), 7):
        part = add_scores(part, expert[rows], z[rows], score[rows], FIRST[rows], cost[rows])
    assert part.outer == pytest.approx(whole.outer)
    assert part.score == pytest.approx(whole.score)
    assert not start.outer.any()


def test_features_far_from_all_decisions_are_clipped(data: tuple[np.ndarray, ...]) -> None:
    features, logits, expert, score, cost = data
    z = inputs_of(features, logits)
    found = posterior_of(add_scores(empty_sums(EXPERTS, WIDTH), expert, z, score, FIRST, cost), 0.0, 1.0)
    far, farther = (predicted_utility(found, np.full(WIDTH, value), np.zeros(3)) for value in (1e3, 1e9))
    assert far[0].tolist() == farther[0].tolist()
    assert np.isfinite(farther[1]).all()
