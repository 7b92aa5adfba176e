"""Read the routers, hidden states and utilities that `handover` is given."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from experts import InputError

from ..exports import layers_in
from ..exports.transformers import LayerRouter, read_layer_routers
from ..routing import Router, load_router

__all__ = ["numbered", "read_routers", "read_tensors", "utility_measure"]


def utility_measure(
    states: Sequence[Tensor], utility: Sequence[Tensor]
) -> Callable[[Sequence[Router]], float]:
    """Return a function that computes the mean utility of routers on held-out states (the last quarter).

    Args:
        states: hidden states [T, H] float of each layer.
        utility: utility [T, E] float of each expert on these states, of each layer.
    """

    def measure(routers: Sequence[Router]) -> float:
        total = 0.0
        for router, inputs, values in zip(routers, states, utility, strict=True):
            start = len(inputs) - max(1, round(0.25 * len(inputs)))
            routing = router(inputs[start:].float())
            utilities = values[start:].float().gather(1, routing.experts) * routing.weights
            total += float(utilities.sum(dim=1).mean())
        return total / len(routers)

    return measure


def read_routers(path: Path, field: str = "routers") -> list[LayerRouter]:
    """Return the router of each layer.

    Args:
        path: a folder of exported routers named layer-0, layer-1, ..., or a safetensors file.
        field: option of the path, for errors.

    Raises:
        InputError: the folder has no routers, or the file cannot be used.
    """
    if not path.is_dir():
        return read_layer_routers(path, field)
    folders = layers_in(path)
    if not folders:
        raise InputError(field, str(path), "has no layer-0, layer-1, ...", "export one router per layer")
    return [load_router(folder) for folder in folders.values()]


def numbered(
    field: str, path: Path, tensors: dict[str, Tensor], pattern: str, count: int | None
) -> list[Tensor]:
    """Return the tensors whose names match a pattern, in order of their number.

    Args:
        field: option of the file, for errors.
        path: the file, for errors.
        tensors: the tensors of the file by name.
        pattern: regular expression of the names, with one group: the number.
        count: how many there must be; None: any number.

    Raises:
        InputError: there are not `count` of them.
    """
    by_number = {
        int(m.group(1)): tensor for name, tensor in tensors.items() if (m := re.fullmatch(pattern, name))
    }
    if count is not None and len(by_number) != count:
        expected = pattern.replace(r"\.(\d+)", ".N")
        raise InputError(
            field, str(path), f"has {len(by_number)} {expected} for {count} routers", "give one per router"
        )
    return [by_number[number] for number in sorted(by_number)]


def read_tensors(field: str, path: Path) -> dict[str, Tensor]:
    """Return the tensors of a safetensors file by name.

    Args:
        field: option of the file, for errors.
        path: the file.

    Raises:
        InputError: it cannot be read.
    """
    if not path.is_file():  # to open a pipe would wait for its writer
        raise InputError(field, str(path), "is not a file", "give a safetensors file")
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise InputError(field, str(path), f"cannot be read ({error})", "give a safetensors file") from error
