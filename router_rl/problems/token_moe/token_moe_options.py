"""Options of the token-level problem."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

from experts.io.checked_options import CheckedOptions
from experts.io.value_range import Count, Fraction, NonNegative, Range, Size

__all__ = ["TokenMoEOptions"]

_PerToken = Annotated[int, Range(1, 2)]


@dataclass(frozen=True, kw_only=True)
class TokenMoEOptions(CheckedOptions):
    """Options of `TokenMoEProblem`.

    Attributes:
        pool: packaged experts to use where base, experts, texts and model are null: `tiny`, text of six
            domains; `answers`, problems of three tasks whose answers are verified. The utility of `answers`
            is the share of right answers; `length` and `mixed` have no effect on it.
        model: folder of an existing mixture of experts, in transformers format, whose own gates are trained;
            null: the mixture of base and experts.
        base: folder of the dense language model that the experts were fine-tuned from, in transformers
            format; null, without experts, model and texts, uses a packaged pool.
        experts: folders of the fine-tuned models, or of LoRA adapters of the base.
        texts: folder of NAME.jsonl files, one document per line; the utility is minus the loss.
        prompts: file of prompts in place of texts, in Parquet, CSV or JSON Lines: `prompt`, as the model
            reads it, `reference`, the right answer, and optionally `group` and `split`. The utility is the
            score of the answers that the routed experts generate.
        scorer: how an answer is scored: `exact_match`, `numeric`, `multiple_choice`, or `module:function`
            for a Python function of prompt, reference and answer that returns 0 to 1.
        answer_tokens: maximum number of tokens of an answer; null: those of the longest reference.
        dtype: of the matrix products with the weights of base and experts; bfloat16 is several times faster
            on processors that have it.
        keep: folder that caches the measured outcomes for the next run; null: none.
        offload: keep the experts' weights in files in `keep`, from which they are read while an expert runs;
            for experts that do not fit into memory together.
        experts_per_token: 1, 2 or [1, 2], one case each; a model has its own number.
        select: `topk`, the best experts; `hierarchical`, one expert, one level of a tree after the other;
            `adaptive_k`, one expert or more, at most `experts_per_token`.
        expert_price: of each expert of adaptive_k beyond the first, in nats per token; the utility is minus
            the loss minus this price.
        tree: tree of hierarchical selection, such as {"language": ["french"], "coding": ["c", "python"]};
            null: that of the packaged pool.
        score: weights two experts by the softmax or the sigmoid of their logits, renormalized: `softmax` for
            a mixture in Mixtral's form, `sigmoid` for one in DeepSeek's form; a model has its own.
        length: tokens per sequence; for prompts the maximum, answer included.
        train: number of training sequences; for prompts the maximum.
        validation: number of validation sequences.
        test: number of test sequences.
        mixed: share of the sequences that join documents of several texts.
        epochs: epochs over the training sequences.
        batch: sequences per gradient step.
    """

    prefix: ClassVar[str] = "problem"

    pool: Literal["tiny", "answers"] = "tiny"
    model: str | None = None
    base: str | None = None
    experts: tuple[str, ...] | str = ()
    texts: str | None = None
    prompts: str | None = None
    scorer: str = "exact_match"
    answer_tokens: Count | None = None
    dtype: Literal["float32", "bfloat16"] = "float32"
    keep: str | None = None
    offload: bool = False
    experts_per_token: tuple[_PerToken, ...] | _PerToken = (1,)
    select: Literal["topk", "hierarchical", "adaptive_k"] = "topk"
    expert_price: NonNegative = 0.0
    tree: dict[str, Any] | None = None
    score: Literal["softmax", "sigmoid"] = "softmax"
    length: Size = 128
    train: Size = 192
    validation: Size = 48
    test: Size = 96
    mixed: Fraction = 0.25
    epochs: Count = 4
    batch: Count = 8
