"""The byte-level Llama of the packaged pools: hidden size 48, read from weights stored as float16."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from torch import Tensor, nn

from .frozen_base import Base
from .huggingface import transformers_library

__all__ = ["byte_base", "byte_model"]


def byte_model(words: int, layers: int, longest: int) -> nn.Module:
    """Return the architecture with random weights.

    Args:
        words: size of the vocabulary.
        layers: number of decoder layers.
        longest: tokens of the longest sequence.

    Raises:
        InputError: transformers is not installed.
    """
    library = transformers_library()
    config: Any = library.LlamaConfig(
        vocab_size=words,
        hidden_size=48,
        intermediate_size=96,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=longest,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=None,
    )
    return library.LlamaForCausalLM(config)


def byte_base(model: nn.Module, weights: Path | Mapping[str, Tensor], depth: int, name: str) -> Base:
    """Return the frozen base of a model.

    Args:
        model: of `byte_model`.
        weights: by name, or a safetensors file.
        depth: last layers with experts.
        name: of the base.
    """
    stored = load_file(weights) if isinstance(weights, Path) else dict(weights)
    full = {key: tensor.float() for key, tensor in stored.items()}
    full.setdefault("lm_head.weight", full["model.embed_tokens.weight"])
    model.load_state_dict(full)
    return Base(model, depth, name)
