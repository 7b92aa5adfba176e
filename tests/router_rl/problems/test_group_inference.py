"""The classifier of the group: calibrated, out of fold, blind to held-out outcomes."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import log_softmax, softmax

from router_rl.problems.cross_fitting import folds_of
from router_rl.problems.feature_config import FeatureConfig
from router_rl.problems.group_classifier import fit_temperature
from router_rl.problems.group_inference import FittedInference, fit_inferred_group, shrunken_quality
from router_rl.problems.ngram_matrix import NgramMatrix

FOLD = np.arange(60) // 3 % 5
WORDS = ("red rose", "blue sea", "grey ash")


def fitted(quality: np.ndarray, labels: list[str] | None = None) -> FittedInference:
    """The classifier of 60 prompts, a fifth of which has the words of another group."""
    rng = np.random.default_rng(0)
    noisy = [(row + (rng.random() < 0.2)) % 3 for row in range(60)]
    texts = [f"{WORDS[word]} {row}" for row, word in enumerate(noisy)]
    labels = [WORDS[row % 3] for row in range(60)] if labels is None else labels
    config = FeatureConfig(min_df=1)
    found = fit_inferred_group(NgramMatrix.of(texts, config), labels, quality, folds_of(FOLD))
    assert found is not None
    return found


def test_the_temperature_is_the_one_that_the_labels_were_drawn_at() -> None:
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(20_000, 3)) * 4.0
    chance = softmax(logits / 2.5, axis=1)
    index = (rng.random((20_000, 1)) > chance.cumsum(axis=1)).sum(axis=1)
    assert fit_temperature(logits, index) == pytest.approx(2.5, rel=0.05)


def test_out_of_fold_probabilities_are_calibrated() -> None:
    """No other temperature makes the labels more likely, and rows are not as sure as they are in fold."""
    found = fitted(np.ones((60, 2)))
    probability = found.columns[:, :3]
    index = np.arange(60) % 3
    order = np.argsort(np.argsort(WORDS))[index]
    logits = np.log(probability)
    likelihood = [
        log_softmax(logits * factor, axis=1)[np.arange(60), order].mean() for factor in (0.9, 1.0, 1.1)
    ]
    assert likelihood[1] == max(likelihood)
    assert 0.6 < probability.max(axis=1).mean() < 0.95


def test_the_experts_means_by_hand() -> None:
    quality = np.array([[1.0], [0.0], [1.0]])
    means = shrunken_quality(quality, np.array([0, 0, 1]), 2)
    overall = 2 / 3
    assert means[:, 0].tolist() == pytest.approx([(1 + 5 * overall) / 7, (1 + 5 * overall) / 6, overall])


def test_columns_of_a_row_do_not_depend_on_its_own_outcome() -> None:
    quality = np.random.default_rng(1).random((60, 2))
    before = fitted(quality)
    flipped = quality.copy()
    flipped[FOLD == 2] = 1.0 - flipped[FOLD == 2]
    after = fitted(flipped)
    np.testing.assert_allclose(after.columns[FOLD == 2], before.columns[FOLD == 2])
    changed = np.abs(after.columns - before.columns)[FOLD != 2, 3:]
    assert (changed > 1e-6).all()  # other folds have read these outcomes
    # With fold 2 held out, no row has read them.
    np.testing.assert_allclose(after.without[2], before.without[2])
    for fold in (0, 1, 3, 4):
        assert not np.allclose(after.without[fold][FOLD != 2], before.without[fold][FOLD != 2])


def test_the_means_of_a_row_come_from_the_other_folds() -> None:
    quality = np.random.default_rng(1).random((60, 2))
    found = fitted(quality)
    names = sorted(WORDS)
    index = np.array([names.index(WORDS[row % 3]) for row in range(60)])
    rest = FOLD != 3
    means = shrunken_quality(quality[rest], index[rest], 3)[:-1]
    np.testing.assert_allclose(found.columns[FOLD == 3, 3:], found.columns[FOLD == 3, :3] @ means)
    rest &= FOLD != 1
    means = shrunken_quality(quality[rest], index[rest], 3)[:-1]
    np.testing.assert_allclose(found.without[1][FOLD == 3], found.columns[FOLD == 3, :3] @ means)


def test_a_group_that_a_fold_lacks_has_no_probability_there() -> None:
    labels = [WORDS[row % 3] for row in range(60)]
    labels[int(np.flatnonzero(FOLD == 0)[0])] = "rare"
    found = fitted(np.ones((60, 1)), labels)
    rare = found.part.labels.index("rare")
    assert found.columns[FOLD == 0, rare].max() < 1e-6
    assert found.columns[FOLD == 1, rare].max() > 1e-6
    np.testing.assert_allclose(found.columns[:, :4].sum(axis=1), 1.0)


def test_one_group_is_not_inferred() -> None:
    config = FeatureConfig(min_df=1)
    matrix = NgramMatrix.of(["a word", "two words"], config)
    assert fit_inferred_group(matrix, ["x", "x"], np.ones((2, 1)), folds_of(np.array([0, 1]))) is None
