"""Options of the features that are computed from prompts."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from experts import InputError
from experts.io.checked_options import CheckedOptions
from experts.io.value_range import Count, Range

__all__ = ["FeatureConfig"]

_Length = Annotated[int, Range(1, 16)]  # of n-grams


@dataclass(frozen=True, kw_only=True)
class FeatureConfig(CheckedOptions):
    """Features to compute from prompts.

    Attributes:
        text: `tfidf`, `hashed` (stores no vocabulary), or `none`.
        analyzer: n-grams of words (`word`), of characters inside words (`char_wb`), or `both`: words, and one
            to three characters, which capture digits, symbols and endings.
        ngram_range: smallest and largest n of the n-grams.
        max_features: maximum number of terms; for `hashed`, the number of columns.
        min_df: minimum document frequency, in training rows.
        dimensions: number of topics (components of the truncated SVD); 0 for none.
        out_of_fold: add out-of-fold predictions of each expert's quality (stacking).
        group: the row's group is an input of the router, which every call must then give.
        infer_group: infer the group from the prompt, as features; for tables whose experts differ by group.
        length: add the length of the prompt.
        embedding: folder of a transformers model, or an ONNX file; null for none.
    """

    prefix: ClassVar[str] = "problem.features"

    text: Literal["tfidf", "hashed", "none"] = "tfidf"
    analyzer: Literal["word", "char_wb", "both"] = "word"
    ngram_range: tuple[_Length, _Length] = (1, 2)
    max_features: Annotated[int, Range(2, 10_000_000)] = 30_000
    min_df: Count = 2
    dimensions: Annotated[int, Range(0, 65_536)] = 64
    out_of_fold: bool = True
    group: bool = False
    infer_group: bool = False
    length: bool = True
    embedding: Path | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.ngram_range[0] > self.ngram_range[1]:
            reason = "is not 1 <= n <= m"
            raise InputError("problem.features.ngram_range", list(self.ngram_range), reason, "use [1, 2]")
        if self.infer_group and (self.group or self.text == "none"):
            reason = "has no use where the group is an input" if self.group else "needs n-grams"
            fix = "leave one of group and infer_group out" if self.group else "use text tfidf or hashed"
            raise InputError("problem.features.infer_group", True, reason, fix)
