"""Read the linear routers of several layers, with their selection rule, from one safetensors file.

The file has `layers.N.weight` [E, H] and, if the router has a bias, `layers.N.bias` [E]. Its metadata has
`select`, the JSON of the selection rule, or a list of one rule for each layer, and `experts`, the JSON list
of the experts' names. Without this metadata (version 1) the model that receives the routers sets the rule.
`LayerRouters.save` writes such files.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from experts import InputError

from ...routing import LinearScorer, Router, selection_from_spec
from .stock_gate import LayerRouter

__all__ = ["read_layer_routers"]


def read_layer_routers(path: Path | str, field: str = "routers") -> list[LayerRouter]:
    """Read the routers of a file, in the order of their layers.

    Args:
        path: path of the safetensors file.
        field: name of the option, for errors.

    Returns:
        `Router`s with their selection rule if the file has one, else (weight, bias) pairs.

    Raises:
        InputError: the file cannot be read or has no such tensors.
        RouterError: the rule is unknown or does not fit the weights.
    """
    if not Path(path).is_file():  # opening a pipe would wait for its writer
        raise InputError(field, str(path), "is not a file", "give a safetensors file")
    try:
        with safe_open(path, framework="pt") as file:
            handle: Any = file
            metadata: dict[str, str] = handle.metadata() or {}
            tensors: dict[str, Tensor] = {name: handle.get_tensor(name) for name in handle.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise InputError(field, str(path), f"cannot be read ({error})", "give a safetensors file") from error
    layers = sorted(
        int(m.group(1)) for name in tensors if (m := re.fullmatch(r"layers\.(\d+)\.weight", name))
    )
    if not layers:
        raise InputError(field, str(path), "has no layers.N.weight", "write one weight [E, H] per layer")
    pairs = [(tensors[f"layers.{n}.weight"], tensors.get(f"layers.{n}.bias")) for n in layers]
    if "select" not in metadata:
        return list(pairs)
    specs: Any = json.loads(metadata["select"])
    specs = [specs] * len(pairs) if isinstance(specs, dict) else specs
    if not isinstance(specs, list) or len(specs) != len(pairs) or not all(type(s) is dict for s in specs):
        problem = f"has selection rules of another number of layers than its {len(pairs)}"
        raise InputError(field, str(path), problem, "train the routers again")
    rules = [selection_from_spec(spec) for spec in specs]
    names = json.loads(metadata.get("experts", "[]")) or [str(n) for n in range(len(pairs[0][0]))]
    routers: list[LayerRouter] = []
    for (weight, bias), rule in zip(pairs, rules, strict=True):
        scorer = LinearScorer(weight.shape[1], weight.shape[0])
        with torch.no_grad():
            scorer.weight.copy_(weight)
            if bias is not None:
                scorer.bias.copy_(bias)
        routers.append(Router(scorer, rule, names).eval())
    return routers
