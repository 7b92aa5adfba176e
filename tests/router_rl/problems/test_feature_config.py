"""Bounds of the options of features."""

from __future__ import annotations

import pytest

from experts import InputError
from router_rl.problems.feature_config import FeatureConfig


def test_n_grams_have_one_to_sixteen_terms() -> None:
    for lengths in ((1, 1), (1, 16), (16, 16)):
        assert FeatureConfig(ngram_range=lengths).ngram_range == lengths
    for lengths in ((0, 1), (0, 0), (1, 17)):
        with pytest.raises(InputError, match=r"features.ngram_range"):
            FeatureConfig(ngram_range=lengths)
