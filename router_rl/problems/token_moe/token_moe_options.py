"""Options of the token-level problem."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

__all__ = ["TokenMoEOptions"]


@dataclass(frozen=True, kw_only=True)
class TokenMoEOptions:
    """Options of `TokenMoEProblem`.

    Attributes:
        base: folder of the dense language model that the experts were fine-tuned from, in transformers
            format; null, without experts and texts, uses the packaged tiny pool.
        experts: folders of the fine-tuned models.
        texts: folder of NAME.jsonl files, one document per line.
        keep: folder that caches the measured outcomes for the next run; null: none.
        experts_per_token: 1, 2 or [1, 2], one case each.
        score: weights two experts by the softmax or the sigmoid of their logits, renormalized: `softmax` for
            a mixture in Mixtral's form, `sigmoid` for one in DeepSeek's form.
        length: tokens per sequence.
        train: number of training sequences.
        validation: number of validation sequences.
        test: number of test sequences.
        mixed: share of the sequences that join documents of several texts.
        epochs: epochs over the training sequences.
        batch: sequences per gradient step.
    """

    base: str | None = None
    experts: tuple[str, ...] | str = ()
    texts: str | None = None
    keep: str | None = None
    experts_per_token: tuple[int, ...] | int = (1,)
    score: Literal["softmax", "sigmoid"] = "softmax"
    length: int = 128
    train: int = 192
    validation: int = 48
    test: int = 96
    mixed: float = 0.25
    epochs: int = 4
    batch: int = 8
