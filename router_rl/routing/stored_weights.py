"""Checks of stored weights: their sizes before memory is allocated, and that they are finite."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .router_error import RouterError

__all__ = ["check_finite", "check_sizes"]


def check_sizes(
    build: Callable[[], nn.Module], spec: Mapping[str, Any], tensors: Mapping[str, Tensor], path: Path
) -> None:
    """Check that a description and its weights are of the same sizes, without allocating any.

    Args:
        build: makes the module that the description is of; it is made without memory (torch's meta device).
        spec: the description; a network of more layers than there are tensors is not built.
        tensors: of the file, by name.
        path: the description's file, for the error.

    Raises:
        RouterError: a tensor is missing, unknown, or of another shape; names the first.
    """
    stored = path.with_suffix(".safetensors")
    part: Any = spec
    while isinstance(part, Mapping):
        layers = part.get("hidden")
        if isinstance(layers, list) and len(layers) > len(tensors):
            sizes = f"{len(tensors)} tensors for {len(layers)} hidden layers"
            raise RouterError(f"{stored.name} does not fit {path.name}: {sizes}")
        sizes = [part.get("inputs", 1), part.get("experts", 1), *layers] if isinstance(layers, list) else []
        if any(isinstance(size, int) and size < 1 for size in sizes):
            raise RouterError(
                f"{path.name}: inputs, experts and hidden widths must be 1 or more, not {sizes}"
            )
        part = part.get("base")
    with torch.device("meta"):
        module = build()
    needed = {name: tensor.dtype for name, tensor in module.state_dict().items()}
    try:
        module.load_state_dict(dict(tensors), assign=True)
    except RuntimeError as error:
        lines = str(error).splitlines()  # the first line only says that there are errors
        reason = lines[min(1, len(lines) - 1)].strip().rstrip(".")
        raise RouterError(f"{stored.name} does not fit {path.name}: {reason}") from error
    for name, tensor in module.state_dict().items():
        if tensor.dtype != needed[name]:
            raise RouterError(f"{stored.name}: {name} is {tensor.dtype}, not {needed[name]}")


def check_finite(module: nn.Module, stored: Path) -> None:
    """Check that loaded weights are finite.

    A module may name parameters whose values may be infinite in `may_be_infinite`.

    Args:
        module: with its weights.
        stored: the weights' file, for the error.

    Raises:
        RouterError: a weight is not finite; names its tensor.
    """
    for prefix, part in module.named_modules():
        infinite = getattr(part, "may_be_infinite", ())
        for name, tensor in (*part.named_parameters(recurse=False), *part.named_buffers(recurse=False)):
            wrong = tensor.isnan() if name in infinite else ~tensor.isfinite()
            if bool(wrong.any()):
                full = f"{prefix}.{name}" if prefix else name
                raise RouterError(f"{stored}: {full} holds numbers that are not finite; export again")
