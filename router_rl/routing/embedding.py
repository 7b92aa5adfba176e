"""Sentence embeddings as features: a transformers model's folder, or an ONNX file with its tokenizer.

The only part of the inference floor that needs more than torch, and only for routers that use it:
`transformers` for a folder, `onnxruntime` and `tokenizers` for an ONNX file. Nothing is downloaded.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .router_error import RouterError

__all__ = ["Embedding"]

_BATCH = 32

# Prompts to token states [T, L, width] and mask [T, L].
Encoder = Callable[[Sequence[str]], tuple[Tensor, Tensor]]


class Embedding:
    """Columns of prompts: the mean of the token states, scaled to length 1 (Reimers & Gurevych 2019).

    Args:
        path: a folder with a transformers model and tokenizer, or an `.onnx` file with `tokenizer.json`
            beside it. In an export the path is relative to its folder; `within` resolves it.
        size: width of the states.
        max_tokens: tokens of a prompt that are read; the rest is truncated.

    Raises:
        RouterError: a size is negative, or there are no tokens to read.

    Source: Sentence-BERT, section 3, https://arxiv.org/abs/1908.10084.
    """

    def __init__(self, *, path: str | Path, size: int, max_tokens: int = 256) -> None:
        if size < 0 or max_tokens < 1:
            raise RouterError(f"Embedding: size={size} and max_tokens={max_tokens} must be 0 and 1 or more")
        self.path = Path(path)
        self.size = size
        self.max_tokens = max_tokens

    def within(self, folder: Path) -> None:
        """Resolve the path within a folder, which it must not leave.

        Raises:
            RouterError: the path is absolute or leads out of the folder.
        """
        if self.path.is_absolute() or ".." in self.path.parts:
            raise RouterError(f"the embedding model {str(self.path)!r} is outside {folder}; export again")
        self.path = folder / self.path

    def __call__(self, prompts: Sequence[str], groups: Sequence[str] | None) -> Tensor:
        """Columns [T, size] float32."""
        parts: list[Tensor] = []
        for start in range(0, len(prompts), _BATCH):
            states, mask = self._encoder(prompts[start : start + _BATCH])
            weight = mask.unsqueeze(-1).float()
            mean = (states.float() * weight).sum(dim=1) / weight.sum(dim=1).clamp(min=1.0)
            parts.append(mean / mean.norm(dim=-1, keepdim=True).clamp(min=1e-12))
        return torch.cat(parts) if parts else torch.zeros(0, self.size)

    def spec(self) -> dict[str, Any]:
        """The part as JSON."""
        return {"kind": "embedding", "path": str(self.path), "size": self.size, "max_tokens": self.max_tokens}

    def tensors(self) -> dict[str, Tensor]:
        """No tensors: the model stays in its own files."""
        return {}

    @cached_property
    def _encoder(self) -> Encoder:
        if self.path.suffix == ".onnx":
            return _onnx(self.path, self.max_tokens)
        return _transformers(self.path, self.max_tokens)


def _transformers(folder: Path, max_tokens: int) -> Encoder:
    if not (folder / "config.json").is_file():
        raise RouterError(f"{folder} lacks config.json; give a model's folder or an .onnx file")
    transformers: Any = _imported("transformers", "router-rl[llm]")
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)
    model = transformers.AutoModel.from_pretrained(folder, local_files_only=True, use_safetensors=True).eval()
    # A longer prompt than the model has positions for would raise.
    max_tokens = min(max_tokens, getattr(model.config, "max_position_embeddings", None) or max_tokens)

    def encode(prompts: Sequence[str]) -> tuple[Tensor, Tensor]:
        inputs = tokenizer(
            list(prompts), padding=True, truncation=True, max_length=max_tokens, return_tensors="pt"
        )
        with torch.inference_mode():
            return model(**inputs).last_hidden_state, inputs["attention_mask"]

    return encode


def _onnx(path: Path, max_tokens: int) -> Encoder:
    tokenizer_file = path.with_name("tokenizer.json")
    for file in (path, tokenizer_file):
        if not file.is_file():
            raise RouterError(f"{file} is missing; put the model and its tokenizer.json into one folder")
    runtime: Any = _imported("onnxruntime", "router-rl[embedding]")
    tokenizers: Any = _imported("tokenizers", "router-rl[embedding]")
    session = runtime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    names = {given.name for given in session.get_inputs()}
    tokenizer = tokenizers.Tokenizer.from_file(str(tokenizer_file))
    tokenizer.enable_padding()
    tokenizer.enable_truncation(max_length=max_tokens)

    def encode(prompts: Sequence[str]) -> tuple[Tensor, Tensor]:
        encodings = tokenizer.encode_batch(list(prompts))
        mask = torch.tensor([each.attention_mask for each in encodings])
        ids = torch.tensor([each.ids for each in encodings])
        inputs = {"input_ids": ids, "attention_mask": mask, "token_type_ids": torch.zeros_like(ids)}
        feed = {name: value.numpy() for name, value in inputs.items() if name in names}
        return torch.from_numpy(session.run(None, feed)[0]), mask

    return encode


def _imported(module: str, install: str) -> Any:
    try:
        return import_module(module)
    except ImportError as error:
        raise RouterError(f"sentence embeddings need {module}; pip install '{install}'") from error
