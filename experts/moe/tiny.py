"""A pool small enough to come with the package: experts of a byte-level Llama, for tests and first tries.

One expert for each of six domains, and the base's own FFN as a general one. Hidden size 48, six layers, the
last three with experts; under a megabyte, made by `tiny_pretrain.py` on the text of `tiny_text.py`. It needs
transformers, and nothing is downloaded.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from torch import Tensor, nn

from .branch import average
from .frozen_base import Base
from .huggingface import transformers_library
from .sequences import Sequences, measure_sequences
from .texts import pure_and_mixed
from .tiny_text import DOMAINS, TREE, WORDS, token_rows
from .token_pool import GENERAL, TokenPool, read_ffns

__all__ = ["DEPTH", "LENGTH", "WEIGHTS", "tiny_base", "tiny_model", "tiny_pool"]

WEIGHTS = Path(__file__).with_name("tiny_base.safetensors")
DEPTH, LENGTH = 3, 128
_SEGMENTS, _RESERVE = 2, 16
_FIRST = {"train": 0, "validation": 20_000, "test": 40_000}  # the documents of each part


def tiny_model() -> nn.Module:
    """The base's architecture with random weights.

    Raises:
        InputError: transformers is missing.
    """
    library = transformers_library()
    config: Any = library.LlamaConfig(
        vocab_size=WORDS,
        hidden_size=48,
        intermediate_size=96,
        num_hidden_layers=6,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=None,
    )
    return library.LlamaForCausalLM(config)


def tiny_base(state: Mapping[str, Tensor] | None = None) -> Base:
    """The frozen base; with the packaged weights, or with those given."""
    model = tiny_model()
    stored = load_file(WEIGHTS) if state is None else dict(state)
    known = {name: tensor.float() for name, tensor in stored.items()}
    known.setdefault("lm_head.weight", known["model.embed_tokens.weight"])
    model.load_state_dict(known)
    return Base(model, DEPTH, "tiny")


@lru_cache(maxsize=4)
def tiny_pool(pure: int = 16, mixed: int = 32, length: int = LENGTH) -> TokenPool:
    """The pool with freshly made text.

    Args:
        pure: sequences of each domain in each part.
        mixed: sequences in each part that change their domain.
        length: T.
    """
    base = tiny_base()
    experts = read_ffns(WEIGHTS.with_name("tiny_experts.safetensors"), DOMAINS)
    tail, mean = base.tail({**experts, GENERAL: base.dense()}), average(list(experts.values()))

    def part(first: int) -> Sequences:
        rows = {d: token_rows(name, first, pure + _RESERVE, length) for d, name in enumerate(DOMAINS)}
        tokens, domain = pure_and_mixed(rows, pure, mixed, _SEGMENTS, seed=first)
        return measure_sequences(base, tail, tokens, domain, batch=64, shown=False)

    return TokenPool(
        name="tiny",
        base=base,
        tail=tail,
        average=base.tail({"average": mean, "same": mean}),
        domains=DOMAINS,
        tree=TREE,
        parts={name: part(first) for name, first in _FIRST.items()},
    )
