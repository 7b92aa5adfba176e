"""The dense language model under a mixture: loaded, split into a frozen trunk and its last layers.

Any folder that `AutoModelForCausalLM` reads in Llama, Mistral or Qwen form will do, or a folder with one
GGUF file (needs the packages gguf and accelerate).
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..io.errors import InputError
from .huggingface import transformers_library
from .tail import Tail, ffn_weights

__all__ = ["Base", "load_base", "load_tokenizer"]

_GGUF_NEEDS = ("gguf", "accelerate")


class Base:
    """A frozen dense model whose last layers can be given experts.

    Args:
        model: a causal language model of transformers.
        depth: L, how many of its last layers are to have experts.
        name: where it came from, for the records.

    Raises:
        InputError: the model has fewer layers, or is of another form.
    """

    def __init__(self, model: nn.Module, depth: int, name: str) -> None:
        inner: Any = getattr(model, "model", None)
        if inner is None or not hasattr(inner, "layers") or not hasattr(inner, "rotary_emb"):
            raise InputError("base", name, "is of another form", "use a Llama, Mistral or Qwen form")
        if not 1 <= depth <= len(inner.layers):
            raise InputError("layers", depth, f"{name} has {len(inner.layers)}", "use 1 or more of them")
        self.name = name
        self.depth = depth
        self.model = model.eval().requires_grad_(False)
        self.inner = inner

    @property
    def below(self) -> int:
        """How many layers the trunk has."""
        return len(self.inner.layers) - self.depth

    def dense(self) -> list[dict[str, Tensor]]:
        """The model's own FFNs in its last layers, one state a layer."""
        return [ffn_weights(layer) for layer in self.inner.layers[self.below :]]

    def trunk(self, tokens: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
        """What enters the last layers.

        Args:
            tokens: [S, T] int64.
            dtype: of the matrix products (autocast).

        Returns:
            [S, T, H] float32.
        """
        places = torch.arange(tokens.shape[1]).unsqueeze(0)
        with torch.no_grad(), torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
            hidden = self.inner.embed_tokens(tokens)
            around = self.inner.rotary_emb(hidden, position_ids=places)
            for layer in self.inner.layers[: self.below]:
                hidden = layer(hidden, position_embeddings=around, attention_mask=None)
        return hidden.float()

    def tail(
        self, experts: Mapping[str, Sequence[Mapping[str, Tensor]]], dtype: torch.dtype = torch.float32
    ) -> Tail:
        """The last layers with these experts; shares no weights with the model."""
        head: Any = self.model.get_output_embeddings()  # type: ignore[operator]
        layers = copy.deepcopy(self.inner.layers[self.below :])
        norm = copy.deepcopy(self.inner.norm)
        return Tail(layers, norm, head.weight, copy.deepcopy(self.inner.rotary_emb), experts, dtype=dtype)


def load_base(folder: Path | str, depth: int) -> Base:
    """Load a model from a folder, frozen, float32.

    Args:
        folder: holds config.json and weights, or one `*.gguf` file.
        depth: L, how many of its last layers are to have experts.

    Raises:
        InputError: no such model, or transformers (for GGUF also gguf and accelerate) is missing.
    """
    folder = Path(folder)
    library, gguf = transformers_library(), _gguf(folder)
    try:
        model: Any = library.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, **gguf)
    except (OSError, ValueError) as error:
        raise InputError(
            "base", str(folder), f"no model there ({error})", "give a folder with config.json and weights"
        ) from error
    return Base(model, depth, folder.name)


def load_tokenizer(folder: Path | str) -> Any:
    """The tokenizer beside the model."""
    return transformers_library().AutoTokenizer.from_pretrained(Path(folder), **_gguf(Path(folder)))


def _gguf(folder: Path) -> dict[str, str]:
    files = sorted(folder.glob("*.gguf")) if not (folder / "config.json").exists() else []
    if not files:
        return {}
    missing = [name for name in _GGUF_NEEDS if find_spec(name) is None]
    if missing:
        found = f"a GGUF file, which {' and '.join(missing)} would read"
        raise InputError("base", str(folder), found, f"pip install {' '.join(missing)}")
    return {"gguf_file": files[0].name}
