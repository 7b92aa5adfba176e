"""A language model of random weights, small enough to check by hand."""

from __future__ import annotations

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from experts.moe.base import Base

WORDS, HIDDEN, DEPTH = 23, 16, 2


def make_base(seed: int = 0, depth: int = DEPTH) -> Base:
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=WORDS,
        hidden_size=HIDDEN,
        intermediate_size=20,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
        initializer_range=0.2,
    )
    return Base(LlamaForCausalLM(config), depth, "random")


@pytest.fixture(scope="session")
def base() -> Base:
    return make_base()


@pytest.fixture(scope="session")
def ffns(base):
    """Three experts: the dense one with noise of their own."""
    generator = torch.Generator().manual_seed(1)
    return {
        name: [
            {part: w + 0.3 * torch.randn(w.shape, generator=generator) for part, w in layer.items()}
            for layer in base.dense()
        ]
        for name in ("one", "two", "three")
    }
