"""A small dense model whose last layers can be given experts."""

from __future__ import annotations

import pytest
import torch

from experts.moe.frozen_base import Base


@pytest.fixture(scope="session")
def base() -> Base:
    """Return a dense model whose last two of three layers can be given experts."""
    import transformers

    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=23,
        hidden_size=16,
        intermediate_size=20,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
        initializer_range=0.2,
    )
    return Base(transformers.LlamaForCausalLM(config), 2, "random")


@pytest.fixture(scope="session")
def ffns(base: Base) -> dict[str, list[dict[str, torch.Tensor]]]:
    """Return three experts: the dense one with noise of their own."""
    generator = torch.Generator().manual_seed(1)
    return {
        name: [
            {part: w + 0.3 * torch.randn(w.shape, generator=generator) for part, w in layer.items()}
            for layer in base.dense()
        ]
        for name in ("one", "two", "three")
    }
