"""A pool for token-level routing: experts with a common ancestor, the tree of their domains, and text.

On disk: `experts.safetensors` (the FFNs of every expert and of their average), one folder of sequences a
part, and `pool.json`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from ..io.atomic import replacing
from ..io.errors import InputError
from .frozen_base import Base
from .sequences import Sequences
from .tail import Tail

__all__ = ["GENERAL", "TokenPool", "read_ffns", "write_ffns"]

GENERAL = "general"  # the name of the expert that is the base's own FFN

Ffns = dict[str, list[dict[str, Tensor]]]


@dataclass(frozen=True, eq=False, kw_only=True, slots=True)
class TokenPool:
    """Frozen experts and the text to route.

    Args:
        name: of the pool.
        base: the ancestor.
        tail: the last layers with one expert a domain, and after them those of no domain, such as the
            base's own FFN (a general expert, as in Branch-Train-MiX).
        average: the same layers with the plain mean of the experts' weights, in both slots.
        domains: their names; expert e is of domain e.
        tree: of the experts: (name, children), a child being an expert's id or again (name, children).
        parts: `train`, `validation` and `test` sequences.
    """

    name: str
    base: Base
    tail: Tail
    average: Tail
    domains: tuple[str, ...]
    tree: Any
    parts: Mapping[str, Sequences]

    def __post_init__(self) -> None:
        missing = {"train", "validation", "test"} - set(self.parts)
        if missing:
            raise InputError("parts", sorted(self.parts), f"lacks {sorted(missing)}", "measure them too")
        if self.tail.names[: len(self.domains)] != self.domains:
            raise InputError("domains", self.domains, f"the experts are {self.tail.names}", "name them alike")


def write_ffns(path: Path | str, experts: Mapping[str, Sequence[Mapping[str, Tensor]]], **notes: Any) -> None:
    """Write FFNs to one safetensors file, atomically; `notes` stand in its metadata as JSON."""
    state = {
        f"{name}.{layer}.{part}": weight.detach().contiguous().clone()
        for name, layers in experts.items()
        for layer, weights in enumerate(layers)
        for part, weight in weights.items()
    }
    settings = json.dumps({"schema_version": 1, "experts": list(experts), **notes})
    with replacing(path) as temporary:
        save_file(state, temporary, metadata={"router_rl": settings})


def read_ffns(path: Path | str, names: Sequence[str] | None = None) -> Ffns:
    """Read FFNs as float32.

    Args:
        path: what `write_ffns` wrote.
        names: the experts wanted, in this order; all, sorted, if None.

    Raises:
        InputError: the file or an expert is missing.
    """
    if not Path(path).is_file():
        raise InputError("experts", str(path), "no such file", "train the experts first")
    state = load_file(path)
    found = sorted({key.split(".")[0] for key in state})
    wanted = found if names is None else list(names)
    unknown = [name for name in wanted if name not in found]
    if unknown:
        raise InputError("experts", unknown, f"{path} holds {', '.join(found)}", "train them first")
    ffns: Ffns = {}
    for name in wanted:
        depth = len({key.split(".")[1] for key in state if key.startswith(f"{name}.")})
        ffns[name] = [
            {
                part: state[f"{name}.{layer}.{part}"].to(torch.float32)
                for part in ("gate_proj", "up_proj", "down_proj")
            }
            for layer in range(depth)
        ]
    return ffns
