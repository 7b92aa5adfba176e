"""The weights of a LoRA adapter merged into its base: W + scale B A, one tensor at a time.

Reads the folders that PEFT writes, `adapter_config.json` and `adapter_model.safetensors`, without PEFT. The
scale is `lora_alpha / r`, or `lora_alpha / sqrt(r)` with `use_rslora` (LoRA: Hu et al. 2021, section 4.1,
https://arxiv.org/abs/2106.09685; rsLoRA: Kalajdzievski 2023, eq. 5, https://arxiv.org/abs/2312.03732).
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from ..io.errors import InputError
from ..io.json_file import read_small_file
from .model_files import Checkpoint

__all__ = ["ADAPTER_FILES", "CONFIGURATION", "AdaptedWeights"]

CONFIGURATION = "adapter_config.json"
_WEIGHTS = "adapter_model.safetensors"
ADAPTER_FILES = (CONFIGURATION, _WEIGHTS)
_KEY = re.compile(r"base_model\.model\.(?P<module>.+)\.lora_(?P<part>[AB])\.weight")
# Fields that change the merged weights in other ways, and the values that do not.
_PLAIN: dict[str, tuple[Any, ...]] = {
    "peft_type": ("LORA",),
    "use_dora": (False, None),
    "fan_in_fan_out": (False, None),
    "bias": ("none", None),
    "lora_bias": (False, None),
    "modules_to_save": (None, []),
    "layer_replication": (None, []),
}


class AdaptedWeights:
    """The tensors of a base that an adapter changes, merged.

    Args:
        folder: of the adapter.
        base: the base's tensors.
        field: name of the option, for errors.

    Attributes:
        folder: of the adapter.
        shapes: of the changed tensors by name.

    Raises:
        InputError: a file is missing or damaged, the adapter is none of plain LoRA, or does not fit the base.
    """

    def __init__(self, folder: Path, base: Checkpoint, field: str = "experts") -> None:
        self.folder = folder
        self._base = base
        self._config = _read_configuration(folder, field)
        self._factors = _read_factors(folder, field)
        self.shapes: dict[str, tuple[int, ...]] = {}
        for name, (first, second) in self._factors.items():
            shape = (second.shape[0], first.shape[1])
            if base.shapes.get(name) != shape or first.shape[0] != second.shape[1]:
                problem = f"adapts {name} as {list(shape)}, which the base has as {base.shapes.get(name)}"
                raise InputError(field, str(folder), problem, "use an adapter that was trained on the base")
            self.shapes[name] = shape

    def __contains__(self, name: object) -> bool:
        """Return whether the adapter changes a tensor."""
        return name in self._factors

    def tensor(self, name: str) -> Tensor:
        """Return a changed tensor, merged in float32, in the base's dtype.

        Args:
            name: of the tensor.
        """
        first, second = self._factors[name]
        weight = self._base.tensor(name)
        merged = weight.float() + self._scale(name, first.shape[0]) * (second.float() @ first.float())
        return merged.to(weight.dtype)

    def factors(self, name: str) -> tuple[Tensor, Tensor]:
        """Return the factors of a changed tensor: A [r, in], and B [out, r] times the scale, float32.

        Args:
            name: of the tensor.
        """
        first, second = self._factors[name]
        return first.float(), self._scale(name, first.shape[0]) * second.float()

    def _scale(self, name: str, rank: int) -> float:
        module = name.removesuffix(".weight")
        alpha = next(
            (
                float(value)
                for pattern, value in (self._config.get("alpha_pattern") or {}).items()
                if re.fullmatch(rf"(.*\.)?({pattern})", module)
            ),
            float(self._config["lora_alpha"]),
        )
        return alpha / (rank**0.5 if self._config.get("use_rslora") else rank)


def _read_configuration(folder: Path, field: str) -> dict[str, Any]:
    fix = "give an adapter's folder, as PEFT saves it"
    try:
        config = json.loads(read_small_file(field, folder / CONFIGURATION, fix=fix))
        float(config["lora_alpha"])
    except InputError:
        raise
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        problem = f"{CONFIGURATION} is not an adapter's configuration"
        raise InputError(field, str(folder), problem, fix) from error
    for name, plain in _PLAIN.items():
        if config.get(name) not in plain:
            problem = f"is an adapter with {name} {config.get(name)!r}; merging it is not supported"
            raise InputError(field, str(folder), problem, "merge it with PEFT, and give the merged model")
    return dict(config)


def _read_factors(folder: Path, field: str) -> dict[str, tuple[Tensor, Tensor]]:
    """The factors A [r, in] and B [out, r] of each changed tensor."""
    try:
        state = load_file(folder / _WEIGHTS)
    except (OSError, SafetensorError) as error:
        problem = f"{_WEIGHTS} cannot be read ({error})"
        raise InputError(field, str(folder), problem, "copy the adapter again") from error
    parts: dict[str, dict[str, Tensor]] = {}
    for key, tensor in state.items():
        match = _KEY.fullmatch(key)
        if match is None or tensor.ndim != 2 or not bool(tensor.isfinite().all()):
            problem = f"has the tensor {key}, which is none of a linear layer's finite LoRA factors"
            raise InputError(field, str(folder), problem, "merge it with PEFT, and give the merged model")
        parts.setdefault(f"{match['module']}.weight", {})[match["part"]] = tensor
    whole = {name: (both["A"], both["B"]) for name, both in parts.items() if len(both) == 2}
    if not parts or len(whole) < len(parts):
        problem = f"has {len(whole)} whole pairs of LoRA factors of {len(parts)}"
        raise InputError(field, str(folder), problem, "copy the adapter again")
    return whole
