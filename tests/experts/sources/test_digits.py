"""The embedded default: real scans, honest experts, and something to route."""

from __future__ import annotations

import time

import numpy as np
import pytest

from experts import InputError, open_table
from experts.sources import open_source
from experts.sources.conditions import conditions

NAMES = list(conditions(noise=0, patch=1))


@pytest.fixture(scope="module")
def digits():
    return open_table("digits", progress=False)


@pytest.mark.slow
def test_the_second_read_is_instant_and_equal(digits):
    start = time.perf_counter()
    again = open_table("digits", progress=False)
    assert time.perf_counter() - start < 2
    np.testing.assert_array_equal(again.quality, digits.quality)
    np.testing.assert_array_equal(again.features, digits.features)


def test_its_shape(digits):
    assert len(digits) == 5 * 1079
    assert digits.features.shape == (5395, 64)
    assert digits.probabilities.shape == (5395, 7, 10)
    assert digits.cost_unit == "flops"
    assert sorted(set(digits.group)) == sorted(NAMES)
    assert digits.notes == ()
    shares = [len(digits.part(name)) / len(digits) for name in ("train", "validation", "test")]
    np.testing.assert_allclose(shares, [0.6, 0.2, 0.2], atol=0.002)


def test_outcomes_follow_from_the_probabilities(digits):
    right = digits.probabilities.argmax(2) == digits.label[:, None]
    np.testing.assert_array_equal(digits.quality, right)
    np.testing.assert_array_equal(digits.confidence, digits.probabilities.max(2))


def test_no_image_straddles_splits_or_was_seen_in_pretraining(digits):
    base = np.array(digits.extra["base"])
    parts = [set(base[digits.split == name]) for name in ("train", "validation", "test")]
    assert sum(map(len, parts)) == len(set.union(*parts))
    images = open_source("digits").images(0)
    assert set(images.base.tolist()) == set().union(*parts)
    assert len(images.pretraining) + len(images.queries) == 1797
    pretraining = {image.numpy().tobytes() for image in images.pretraining}
    assert not any(image.numpy().tobytes() in pretraining for image in images.queries)


def test_it_is_worth_routing(digits):
    test = digits.part("test")
    accuracy = test.quality.mean(axis=0)
    oracle = test.quality.max(axis=1).mean()
    assert oracle >= accuracy.max() + 0.05
    assert test.experts[int(accuracy.argmax())] == "expensive-generalist"
    assert 0.8 <= accuracy.max() <= 0.92
    home = [
        test.quality[test.group == name, test.experts.index(f"{name}-specialist")].mean() for name in NAMES
    ]
    known_condition = float(np.mean(home))
    assert known_condition >= accuracy.max() + 0.03  # the gain is no luck of seven guesses: a rule reaches it
    cost = dict(zip(test.experts, test.cost[0], strict=True))
    assert cost["expensive-generalist"] == max(cost.values()) == 2 * (64 * 256 + 256 * 128 + 128 * 10)
    assert cost["cheap-generalist"] == min(cost.values()) == 2 * (64 * 24 + 24 * 10)


def test_another_seed_divides_otherwise():
    source = open_source("digits")
    assert source.digest(0) != source.digest(1)
    assert not source.images(0).base.equal(source.images(1).base)


def test_the_pool_is_loaded_and_answers_as_the_table_says(digits):
    source = open_source("digits")
    pool, queries = source.pool(0, progress=False), source.queries(0)
    before = pool.fingerprint()
    probabilities = pool.run(queries.inputs[:300]).softmax(-1).numpy()
    np.testing.assert_allclose(probabilities, digits.probabilities[:300], atol=1e-5)
    assert pool.fingerprint() == before == source.pool(0, progress=False).fingerprint()
    assert pool.names == digits.experts


def test_it_takes_no_argument():
    with pytest.raises(InputError, match="digits='x': takes no argument"):
        open_table("digits:x")
