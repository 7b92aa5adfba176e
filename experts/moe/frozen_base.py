"""The dense language model under a mixture, split into a frozen trunk and its last layers.

It is read from a folder of a Llama, Mistral or Qwen model that `AutoModelForCausalLM` reads, or from a folder
with one GGUF file (needs the packages gguf and accelerate).
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
from ..io.printable import one_line_of
from .huggingface import transformers_library
from .padding import attention_mask, positions
from .shared_experts import shared_experts
from .tail import Tail, ffn_weights

__all__ = ["Base", "load_base", "load_tokenizer"]

_GGUF_NEEDS = ("gguf", "accelerate")
_LOCAL = {"local_files_only": True, "trust_remote_code": False}


class Base:
    """A frozen dense model whose last layers can have experts.

    Args:
        model: a causal language model of transformers.
        depth: L, the number of last layers with experts.
        name: of the model, for reports.

    Raises:
        InputError: the model has fewer layers, or another architecture.
    """

    def __init__(self, model: nn.Module, depth: int, name: str) -> None:
        inner: Any = getattr(model, "model", None)
        if inner is None or not hasattr(inner, "layers") or not hasattr(inner, "rotary_emb"):
            raise InputError("base", name, "has another architecture", "use a Llama, Mistral or Qwen model")
        if not 1 <= depth <= len(inner.layers):
            raise InputError("layers", depth, f"{name} has {len(inner.layers)}", "use 1 or more of them")
        self.name = name
        self.depth = depth
        self.model = model.eval().requires_grad_(False)
        self.inner = inner

    @property
    def below(self) -> int:
        """The number of layers of the trunk."""
        return len(self.inner.layers) - self.depth

    def dense(self) -> list[dict[str, Tensor]]:
        """Return the model's own FFNs in its last layers, one state per layer."""
        return [ffn_weights(layer) for layer in self.inner.layers[self.below :]]

    def trunk(
        self,
        tokens: Tensor,
        dtype: torch.dtype = torch.float32,
        cache: Any = None,
        first: int = 0,
        start: Tensor | None = None,
    ) -> Tensor:
        """Return the trunk states, the input of the last layers.

        Args:
            tokens: [S, T] int64.
            dtype: of the matrix products (autocast).
            cache: transformers' cache of keys and values, which this call extends; None: no cache. With
                earlier tokens in it, T must be 1.
            first: position of the first token, padding included.
            start: [S] int64, padding in front of each sequence; None: none.

        Returns:
            [S, T, H] float32.
        """
        places = positions(start, first, tokens.shape[1])
        mask = attention_mask(start, first, tokens.shape[1])
        # By position, because the name of the cache's argument depends on the version of transformers.
        kept = () if cache is None else (None, cache)  # after the positions, which the rotary embedding has
        with torch.no_grad(), torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
            hidden = self.inner.embed_tokens(tokens)
            rotary = self.inner.rotary_emb(hidden, position_ids=places)
            for layer in self.inner.layers[: self.below]:
                hidden = layer(hidden, mask, *kept, position_embeddings=rotary)
        return hidden.float()

    def tail(
        self,
        experts: Mapping[str, Sequence[Mapping[str, Tensor]]],
        dtype: torch.dtype = torch.float32,
        offload: Path | None = None,
    ) -> Tail:
        """Return a copy of the last layers with experts.

        Args:
            experts: name -> one FFN state per layer, as `Tail` takes them.
            dtype: of the matrix products.
            offload: folder for the experts' weights; None: they stay in memory.
        """
        head: Any = self.model.get_output_embeddings()  # type: ignore[operator]
        routed = self.inner.layers[self.below :]
        layers = copy.deepcopy(routed, {id(layer.mlp): layer.mlp for layer in routed})  # without the FFNs
        shared = [copy.deepcopy(module) for layer in routed if (module := shared_experts(layer)) is not None]
        norm, rotary = copy.deepcopy(self.inner.norm), copy.deepcopy(self.inner.rotary_emb)
        parts = (layers, norm, head.weight, rotary, experts)
        return Tail(*parts, shared=shared, dtype=dtype, offload=offload)


def load_base(folder: Path | str, depth: int) -> Base:
    """Load a model from a folder, frozen and in float32; nothing is downloaded, unpickled or run from it.

    Args:
        folder: with config.json and weights in safetensors, or one `*.gguf` file.
        depth: L, the number of last layers with experts.

    Raises:
        InputError: there is no model, or transformers (for GGUF also gguf and accelerate) is not installed.
    """
    folder = _folder(folder)
    library, gguf = transformers_library(), _gguf(folder)
    options: dict[str, Any] = gguf or {"use_safetensors": True}
    try:
        model: Any = library.AutoModelForCausalLM.from_pretrained(
            folder, dtype=torch.float32, **_LOCAL, **options
        )
    except Exception as error:  # each architecture raises others for a damaged configuration or file
        raise _no_model(folder, error) from error
    return Base(model, depth, folder.name)


def load_tokenizer(folder: Path | str) -> Any:
    """Return the tokenizer of a model's folder.

    Args:
        folder: of the model.

    Raises:
        InputError: there is no tokenizer, or it is damaged.
    """
    folder = _folder(folder)
    library, gguf = transformers_library(), _gguf(folder)
    try:
        return library.AutoTokenizer.from_pretrained(folder, **_LOCAL, **gguf)
    except Exception as error:
        raise _no_model(folder, error) from error


def _folder(folder: Path | str) -> Path:
    if not Path(folder).is_dir():  # transformers would take it for a name on a server
        raise InputError("base", str(folder), "is not a folder", "give a folder with config.json and weights")
    return Path(folder)


def _no_model(folder: Path, error: Exception) -> InputError:
    reason = one_line_of(str(error))[:200] or type(error).__name__
    fix = "give a folder with config.json, weights in safetensors and a tokenizer"
    return InputError("base", str(folder), f"holds no model that can be read ({reason})", fix)


def _gguf(folder: Path) -> dict[str, str]:
    files = sorted(folder.glob("*.gguf")) if not (folder / "config.json").exists() else []
    if not files:
        return {}
    missing = [name for name in _GGUF_NEEDS if find_spec(name) is None]
    if missing:
        problem = f"is a GGUF file, which needs {' and '.join(missing)}"
        raise InputError("base", str(folder), problem, f"pip install {' '.join(missing)}")
    return {"gguf_file": files[0].name}
