"""Writer of branched experts as folders for `assemble`: the whole base, and each expert's trained tensors."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor

from ..io.atomic import replacing
from ..io.errors import InputError
from ..io.escaping import file_name
from .frozen_base import Base

__all__ = ["write_donors"]


def write_donors(
    base: Base,
    experts: Mapping[str, Sequence[Mapping[str, Tensor]]],
    folder: Path | str,
    tokenizer: Any = None,
) -> tuple[Path, list[Path]]:
    """Write a base and its branched experts.

    A base that was read from GGUF, which transformers cannot save, is written with its weights in memory.

    Args:
        base: the ancestor.
        experts: name -> one FFN state for each of the base's last layers, as `branch` returns them.
        folder: the parent of the new folders, `base` and one of each expert's name.
        tokenizer: a transformers tokenizer, saved with the base; None: none.

    Returns:
        The base's folder, and the experts' folders in their order.

    Raises:
        InputError: an expert's name is `base`, or no name of a folder.
    """
    home = Path(folder)
    for name in experts:
        if name == "base" or file_name(name) != name:
            raise InputError("experts", name, "cannot be a folder's name here", "rename the expert")
    state = {name: tensor.detach().contiguous() for name, tensor in base.model.state_dict().items()}
    config: Any = copy.deepcopy(base.model.config)
    if hasattr(config, "quantization_config"):
        del config.quantization_config  # of the GGUF file
    if config.tie_word_embeddings:
        state.pop("lm_head.weight", None)
    config.dtype = next(iter(state.values())).dtype
    _write(home / "base", config, state)
    if tokenizer is not None:
        tokenizer.save_pretrained(home / "base")
    for name, layers in experts.items():
        trained = {
            f"model.layers.{base.below + layer}.mlp.{part}.weight": weight.detach().contiguous()
            for layer, parts in enumerate(layers)
            for part, weight in parts.items()
        }
        _write(home / name, config, trained)
    return home / "base", [home / name for name in experts]


def _write(folder: Path, config: Any, tensors: Mapping[str, Tensor]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    config.save_pretrained(folder)
    with replacing(folder / "model.safetensors") as temporary:
        save_file(dict(tensors), temporary, metadata={"format": "pt"})
