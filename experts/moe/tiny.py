"""A packaged token-level pool: experts of a byte-level Llama under a megabyte, for tests and first runs.

It has one expert for each of six domains, and the base's own FFN as a general expert. The model has hidden
size 48 and six layers, the last three with experts. `tiny_pretrain.py` trained it on the text of
`tiny_text.py`. It needs transformers and downloads nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path

from torch import Tensor, nn

from ..io.errors import InputError
from .branch import average
from .byte_model import byte_base, byte_model
from .frozen_base import Base
from .sequences import Sequences, measure_sequences
from .texts import pure_and_mixed
from .tiny_text import DOMAINS, TREE, WORDS, token_rows
from .token_pool import GENERAL, TokenPool, read_ffns

__all__ = ["DEPTH", "LENGTH", "WEIGHTS", "tiny_base", "tiny_model", "tiny_pool"]

WEIGHTS = Path(__file__).with_name("tiny_base.safetensors")
DEPTH, LENGTH = 3, 128
_SEGMENTS, _RESERVE = 2, 16
_LONGEST = 512  # tokens of a sequence; every document is longer
_FIRST = {"train": 0, "validation": 20_000, "test": 40_000}  # the documents of each part


def tiny_model() -> nn.Module:
    """Return the base's architecture with random weights.

    Raises:
        InputError: transformers is not installed.
    """
    return byte_model(WORDS, layers=6, longest=_LONGEST)


def tiny_base(state: Mapping[str, Tensor] | None = None) -> Base:
    """Return the frozen base.

    Args:
        state: its weights by name; None: the packaged ones.

    Raises:
        InputError: transformers is not installed.
    """
    return byte_base(tiny_model(), WEIGHTS if state is None else state, DEPTH, "tiny")


@lru_cache(maxsize=4)
def tiny_pool(pure: int = 16, mixed: int = 32, length: int = LENGTH) -> TokenPool:
    """Return the pool with generated text.

    Args:
        pure: sequences of each domain in each part.
        mixed: sequences in each part that change their domain.
        length: T, 1 to 512.

    Raises:
        InputError: the length is out of range, or transformers is not installed.
    """
    if not 1 <= length <= _LONGEST:
        problem = f"the packaged model reads sequences of 1 to {_LONGEST} tokens"
        raise InputError("problem.length", length, problem, f"use {_LONGEST} or less, or models of your own")
    base = tiny_base()
    experts = read_ffns(WEIGHTS.with_name("tiny_experts.safetensors"), DOMAINS)
    tail, mean = base.tail({**experts, GENERAL: base.dense()}), average(list(experts.values()))

    def part(first: int) -> Sequences:
        rows = {d: token_rows(name, first, pure + _RESERVE, length) for d, name in enumerate(DOMAINS)}
        tokens, domain = pure_and_mixed(rows, pure, mixed, _SEGMENTS, seed=first)
        return measure_sequences(base, tail, tokens, domain, batch=64, doing=None)

    return TokenPool(
        name="tiny",
        base=base,
        tail=tail,
        average=base.tail({"average": mean, "same": mean}),
        domains=DOMAINS,
        tree=TREE,
        parts={name: part(first) for name, first in _FIRST.items()},
    )
