"""Write trained routers into a copy of a mixture-of-experts model in a GGUF file, for llama.cpp."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ...routing import RouterError
from ..transformers.stock_gate import Gate, LayerRouter, fold
from .gguf_model import GgufModel, copy_with_gates, read_gguf_model

__all__ = ["PatchedGguf", "gates_for", "patch_gguf"]

_OTHERWISE = "distil it (export --distil): llama.cpp has no other gate"


@dataclass(frozen=True, kw_only=True)
class PatchedGguf:
    """The result of patching a GGUF file.

    Attributes:
        model: path of the file that was written.
        architecture: name in llama.cpp, such as `llama` for Mixtral.
        layers: blocks whose gates were written.
        experts_per_token: routed experts per token.
        changed_bytes: size of the gates. No other byte changes except the number of experts per token.
        warnings: warnings to read before running the model.
    """

    model: str
    architecture: str
    layers: tuple[int, ...]
    experts_per_token: int
    changed_bytes: int
    warnings: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return the fields as a dictionary."""
        return asdict(self)


def gates_for(model: GgufModel, routers: Sequence[LayerRouter | Gate]) -> dict[int, Gate]:
    """Fold routers into gates for a model.

    Args:
        model: the mixture that the routers were trained on.
        routers: one for each block that has a gate, in order; or the gates that they were folded into.

    Returns:
        the gates by block.

    Raises:
        RouterError: a router does not fold into this model's gates, or the blocks differ in their experts per
            token.
    """
    if len(routers) != len(model.layers):
        raise RouterError(
            f"{len(model.layers)} blocks of {model.path.name} have gates, but there are {len(routers)} "
            "routers; give one for each block"
        )
    folded = [
        router if isinstance(router, Gate) else fold(router, otherwise=_OTHERWISE) for router in routers
    ]
    gates = {layer: model.host.take(gate) for layer, gate in zip(model.layers, folded, strict=True)}
    ks = {gate.k for gate in gates.values()}
    if len(ks) > 1:
        raise RouterError(f"layers run {', '.join(sorted(map(str, ks)))} experts per token; use one number")
    return gates


def patch_gguf(routers: Sequence[LayerRouter | Gate], model: Path | str, out: Path | str) -> PatchedGguf:
    """Write a copy of a GGUF model whose gates are trained routers.

    Args:
        routers: one for each block that has a gate, in order.
        model: GGUF file of the mixture that they were trained on; it is not changed.
        out: the file to write. If the same copy exists, nothing is written; another file is not replaced.

    Returns:
        a description of the copy.

    Raises:
        InputError: the model cannot be read, or `out` is another file or cannot be written.
        RouterError: a router does not fold into this model's gates.
    """
    target, out = read_gguf_model(Path(model)), Path(out)
    gates = gates_for(target, routers)
    tensors = target.tensors(gates)
    k = next(iter(gates.values())).k or target.host.k
    messages = target.host.warnings(k)
    if not copy_with_gates(target, out, tensors, k):
        messages = ("the copy already has these routers; nothing was changed", *messages)
    return PatchedGguf(
        model=str(out),
        architecture=target.host.architecture,
        layers=target.layers,
        experts_per_token=k,
        changed_bytes=sum(tensor.nbytes for tensor in tensors.values()),
        warnings=messages,
    )
