"""Weighted n-gram counts of the training prompts, as a sparse matrix."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from sklearn.feature_extraction.text import HashingVectorizer, TfidfVectorizer

from experts import InputError

from .feature_config import FeatureConfig

__all__ = ["NgramMatrix"]


class NgramMatrix(NamedTuple):
    """N-grams of M training prompts.

    Attributes:
        x: [M, V] sparse float64, rows of length 1.
        vocabulary: V terms; None: terms are hashed into V columns.
        idf: [V] float32, where there is a vocabulary.
        config: the analyser and its ranges.
    """

    x: Any
    vocabulary: list[str] | None
    idf: torch.Tensor | None
    config: FeatureConfig

    @classmethod
    def of(cls, prompts: Sequence[str], config: FeatureConfig) -> NgramMatrix:
        """Count the n-grams of prompts.

        Args:
            prompts: M texts.
            config: with `text` tfidf or hashed, and one analyser.

        Raises:
            InputError: there are no terms.
        """
        options: Any = {"analyzer": config.analyzer, "ngram_range": config.ngram_range}
        if config.text == "hashed":
            return cls(
                HashingVectorizer(**options, n_features=config.max_features).transform(prompts),
                None,
                None,
                config,
            )
        tfidf: Any = TfidfVectorizer(
            **options,
            min_df=min(config.min_df, len(prompts)),
            max_features=config.max_features,
            sublinear_tf=True,
            dtype=np.float64,
        )
        try:
            x = tfidf.fit_transform(prompts)
        except ValueError as error:
            raise InputError(
                "features.text", "tfidf", f"has no terms ({error})", "use hashed or none"
            ) from error
        vocabulary = [str(term) for term in tfidf.get_feature_names_out()]
        return cls(x, vocabulary, torch.tensor(tfidf.idf_, dtype=torch.float32), config)

    @property
    def settings(self) -> dict[str, Any]:
        """The n-grams, as arguments of `Terms`; `idf` is another one."""
        return {
            "analyser": self.config.analyzer,
            "ngram_range": self.config.ngram_range,
            "vocabulary": self.vocabulary,
            "sublinear_tf": self.vocabulary is not None,
        }
