"""Trained routers written into a copy of a mixture-of-experts model in a GGUF file, for llama.cpp."""

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
    """What a patch of a GGUF file changed.

    Attributes:
        model: the file that was written.
        architecture: its name in llama.cpp, such as `llama` for Mixtral.
        layers: blocks whose gates were written.
        experts_per_token: routed experts per token.
        changed_bytes: size of the gates; every other byte is that of the model, but for the number of experts
            per token.
        warnings: what a user should know before running the model.
    """

    model: str
    architecture: str
    layers: tuple[int, ...]
    experts_per_token: int
    changed_bytes: int
    warnings: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """As a plain dictionary."""
        return asdict(self)


def gates_for(model: GgufModel, routers: Sequence[LayerRouter | Gate]) -> dict[int, Gate]:
    """Return the gates of a model, by block, that compute what routers do.

    Args:
        model: the mixture that the routers were trained on.
        routers: one for each block that has a gate, in order; or gates that they were folded into.

    Raises:
        RouterError: a router does not fold into this model's gates, or the blocks differ in their experts per
            token.
    """
    if len(routers) != len(model.layers):
        raise RouterError(
            f"{len(model.layers)} blocks of {model.path.name} have gates, but the number of routers is "
            f"{len(routers)}; give one each"
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
        out: the file to write. The same copy may be there; another file is not replaced.

    Returns:
        what was written.

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
