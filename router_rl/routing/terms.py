"""N-gram features of prompts, with torch and the standard library alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from math import log
from typing import Any

import torch
from torch import Tensor

from .ngrams import analyser as terms_of
from .ngrams import hashed_column
from .router_error import RouterError

__all__ = ["Terms"]


class Terms:
    """Weighted counts of n-grams, scaled to length 1 and projected: `x = (w / |w|) P + o`.

    With a vocabulary a term that occurs n times has the weight `idf n`, or `idf (1 + log n)` where counts are
    sublinear (TF-IDF, Salton & Buckley 1988, as scikit-learn's TfidfVectorizer); without one its column is
    its hash and its weight +-n (scikit-learn's HashingVectorizer).

    Args:
        analyser: `word` or `char_wb`.
        ngram_range: the smallest and the largest n.
        projection: P [V, size] float32.
        offset: o [size] float32.
        vocabulary: V terms in the order of the rows of P; None: terms are hashed into V columns.
        idf: [V] float32, where there is a vocabulary.
        sublinear_tf: whether a count n becomes 1 + log n.
        out_of_fold: how many columns at the end predict the experts' quality.

    Raises:
        RouterError: the sizes do not fit each other.
    """

    def __init__(
        self,
        *,
        analyser: str,
        ngram_range: Sequence[int],
        projection: Tensor,
        offset: Tensor,
        vocabulary: Sequence[str] | None = None,
        idf: Tensor | None = None,
        sublinear_tf: bool = False,
        out_of_fold: int = 0,
    ) -> None:
        self.out_of_fold = out_of_fold
        self.analyser = analyser
        if len(ngram_range) != 2:
            raise RouterError(f"ngram_range={list(ngram_range)} must be the smallest and the largest n")
        self.ngram_range = (int(ngram_range[0]), int(ngram_range[1]))
        self.projection, self.offset, self.idf = projection, offset, idf
        self.vocabulary = None if vocabulary is None else list(vocabulary)
        self.sublinear_tf = sublinear_tf
        if projection.dim() != 2 or 0 in projection.shape or offset.shape != projection.shape[1:]:
            raise RouterError(
                f"a projection [V, size] needs an offset [size], not {list(projection.shape)} and "
                f"{list(offset.shape)}"
            )
        self.size = projection.shape[1]
        if not 0 <= out_of_fold <= self.size:
            raise RouterError(f"out_of_fold={out_of_fold} of {self.size} columns; use 0 to {self.size}")
        rows = len(projection)
        fits = idf is None or idf.shape == (rows,)
        fits = fits and (vocabulary is None) == (idf is None)
        if not fits or (vocabulary is not None and len(vocabulary) != rows):
            raise RouterError(
                f"a vocabulary needs {rows} terms with an idf each, one a row of the projection"
            )
        self._columns = {term: column for column, term in enumerate(self.vocabulary or ())}
        self._idf: list[float] = [] if idf is None else idf.tolist()
        self._terms = terms_of(self.analyser, *self.ngram_range)

    def __call__(self, prompts: Sequence[str], groups: Sequence[str] | None) -> Tensor:
        """Columns [T, size] float32."""
        columns: list[int] = []
        values: list[float] = []
        starts: list[int] = []
        for prompt in prompts:
            starts.append(len(columns))
            weights = self._weights(prompt)
            length = sum(weight * weight for weight in weights.values()) ** 0.5 or 1.0
            columns += weights
            values += [weight / length for weight in weights.values()]
        if not columns:
            return self.offset.expand(len(prompts), -1).clone()
        bag = torch.nn.functional.embedding_bag(
            torch.tensor(columns),
            self.projection,
            torch.tensor(starts),
            mode="sum",
            per_sample_weights=torch.tensor(values, dtype=torch.float32),
        )
        return bag + self.offset

    def _weights(self, prompt: str) -> dict[int, float]:
        """Weight of each column that the prompt's terms fall into."""
        counts = Counter(self._terms(prompt))
        if self.vocabulary is None:
            weights: dict[int, float] = {}
            rows = len(self.projection)
            for term, count in counts.items():
                column, sign = hashed_column(term, rows)
                weights[column] = weights.get(column, 0.0) + sign * count
            return weights
        columns, idf = self._columns, self._idf
        known = [(columns[term], count) for term, count in counts.items() if term in columns]
        if self.sublinear_tf:
            return {column: idf[column] * (1.0 + log(count)) for column, count in known}
        return {column: idf[column] * count for column, count in known}

    def spec(self) -> dict[str, Any]:
        """The part without its tensors, as JSON."""
        return {
            "kind": "terms",
            "analyser": self.analyser,
            "ngram_range": list(self.ngram_range),
            "sublinear_tf": self.sublinear_tf,
            "out_of_fold": self.out_of_fold,
            "vocabulary": self.vocabulary,
        }

    def tensors(self) -> dict[str, Tensor]:
        """The fitted tensors by name."""
        idf = {} if self.idf is None else {"idf": self.idf}
        return {"projection": self.projection, "offset": self.offset, **idf}
