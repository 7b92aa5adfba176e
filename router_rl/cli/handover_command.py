"""`handover`: trained routers of a mixture-of-experts model as a patch for it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from experts import InputError

if TYPE_CHECKING:
    from ..exports.transformers import LayerRouter
    from ..routing import Router

__all__ = ["handover"]


def handover(
    *, routers: Path, model: Path, out: Path, distil: Path | None = None, temperature: float = 1.0
) -> dict[str, Any]:
    """Fold a mixture's trained routers into stock gates and write them as a patch of a few MB.

    Args:
        routers: a folder of exported routers named layer-0, layer-1, ..., or a safetensors file with
            layers.N.weight [E, H] and, where there are any, layers.N.bias [E].
        model: the folder of the mixture they were trained on; it is not changed.
        out: the patch's folder.
        distil: imitate routers that do not fold by linear ones, on the hidden states layers.N [T, H] of this
            safetensors file; utility.N [T, E], each expert's worth on each, gives the utility lost.
        temperature: what the logits are divided by.
    """
    from ..exports.transformers import distil as imitate
    from ..exports.transformers import host_of_folder, write_patch
    from ..routing import Router

    found = _read(routers)
    facts: dict[str, Any] = {}
    if distil is not None:
        if not all(isinstance(router, Router) for router in found):
            raise InputError("distil", str(distil), "weights and biases are linear already", "leave it out")
        teachers = [router for router in found if isinstance(router, Router)]
        tensors = _tensors("distil", distil)
        states = _numbered("distil", distil, tensors, r"layers\.(\d+)", len(found))
        utility = _numbered("distil", distil, tensors, r"utility\.(\d+)", None)
        measure = None if not utility else _measure(states, utility)
        result = imitate(teachers, states, measure=measure)
        found = list(result.routers)
        layers = host_of_folder(model)[0].layers
        names = [f"layer {layer}" for layer in layers]
        facts = {
            "agreement": dict(zip(names, result.agreement, strict=False)),
            "held_out": result.held_out,
        }
        if result.before is not None and result.after is not None:
            facts["utility_before"], facts["utility_after"] = result.before, result.after
            facts["utility_lost"] = result.before - result.after
    folder = write_patch(found, model, out, temperature=temperature)
    size = (folder / "router_patch.safetensors").stat().st_size
    return {"patch": str(folder), "layers": len(found), "bytes": size, **facts}


def _measure(states: Sequence[Tensor], utility: Sequence[Tensor]) -> Any:
    """The mean worth of what routers choose, over the states that were not fitted to (the last quarter)."""

    def measure(routers: Sequence[Router]) -> float:
        total = 0.0
        for router, seen, worth in zip(routers, states, utility, strict=True):
            start = len(seen) - max(1, round(0.25 * len(seen)))
            routing = router(seen[start:].float())
            earned = worth[start:].float().gather(1, routing.experts) * routing.weights
            total += float(earned.sum(dim=1).mean())
        return total / len(routers)

    return measure


def _read(path: Path) -> list[LayerRouter]:
    from ..exports import layers_in
    from ..routing import load

    if path.is_dir():
        found = layers_in(path)
        if not found:
            raise InputError(
                "routers", str(path), "has no layer-0, layer-1, ...", "export one router a layer"
            )
        return [load(folder) for folder in found.values()]
    tensors = _tensors("routers", path)
    weights = _numbered("routers", path, tensors, r"layers\.(\d+)\.weight", None)
    if not weights:
        raise InputError("routers", str(path), "has no layers.N.weight", "write one weight [E, H] a layer")
    numbers = sorted(int(name.split(".")[1]) for name in tensors if name.endswith(".weight"))
    return [(weight, tensors.get(f"layers.{n}.bias")) for n, weight in zip(numbers, weights, strict=True)]


def _numbered(
    field: str, path: Path, tensors: dict[str, Tensor], pattern: str, count: int | None
) -> list[Tensor]:
    """The tensors of this pattern by rising number; as many as there must be."""
    found = {
        int(m.group(1)): tensor for name, tensor in tensors.items() if (m := re.fullmatch(pattern, name))
    }
    if count is not None and len(found) != count:
        wanted = pattern.replace(r"\.(\d+)", ".N")
        raise InputError(
            field, str(path), f"has {len(found)} {wanted} for {count} routers", "give one a router"
        )
    return [found[number] for number in sorted(found)]


def _tensors(field: str, path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise InputError(field, str(path), f"cannot be read ({error})", "give a safetensors file") from error
