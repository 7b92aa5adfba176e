"""Small dense models with random weights, saved as folders."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from experts.moe.base import Base


@pytest.fixture(scope="session")
def dense() -> Callable[..., Any]:
    """Return a function that makes a dense model, near another one if asked, and saves it."""

    def make(
        folder: Path, kind: str = "llama", *, near: Any = None, only_ffn: bool = True, **fields: Any
    ) -> Any:
        import transformers

        fields = {"num_hidden_layers": 3, "vocab_size": 64, **fields}
        sizes = {
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
        }
        if kind == "qwen3":
            sizes["head_dim"] = 16
        config = transformers.CONFIG_MAPPING[kind](
            **{"pad_token_id": 0, "max_position_embeddings": 64, **sizes, **fields}
        )
        model = transformers.AutoModelForCausalLM.from_config(config).eval()
        # A hash of a string would differ from run to run.
        generator = torch.Generator().manual_seed(sum(map(ord, folder.name)))
        with torch.no_grad():
            if near is not None:
                model.load_state_dict(near.state_dict())
            for name, parameter in model.named_parameters():
                noise = torch.randn(parameter.shape, generator=generator)
                if near is None:
                    parameter.copy_(0.2 * noise if parameter.ndim > 1 else parameter + 0.1 * noise)
                elif ".mlp." in name:  # every fourth neuron stays as it was
                    noise.movedim(1 if "down" in name else 0, 0)[::4] = 0.0
                    parameter.add_(0.1 * noise)
                elif not only_ffn:
                    parameter.add_(0.1 * noise)
        model.save_pretrained(folder)
        return model

    return make


@pytest.fixture(scope="session")
def family(dense: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Any]]:
    """Return a folder with `base` and three donors of other feed-forward networks, and the four models.

    The donors agree with the base in a quarter of the neurons.
    """
    folder = tmp_path_factory.mktemp("family")
    base = dense(folder / "base")
    return folder, [base, *(dense(folder / name, near=base) for name in ("code", "german", "prose"))]


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
