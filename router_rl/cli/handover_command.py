"""`handover`: write trained routers of a mixture-of-experts model as a patch."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from experts import InputError

if TYPE_CHECKING:
    from ..exports.transformers import LayerRouter
    from ..routing import Router

from .command import Command

__all__ = ["COMMAND", "handover"]


def handover(
    *, routers: Path, model: Path, out: Path, distil: Path | None = None, temperature: float = 1.0
) -> dict[str, Any]:
    """Fold a mixture's trained routers into stock gates and write them as a patch of a few MB.

    Args:
        routers: folder of exported routers named layer-0, layer-1, ..., or a routers.safetensors with
            layers.N.weight [E, H] and optionally layers.N.bias [E].
        model: folder of the mixture that they were trained on; it is not changed.
        out: output folder of the patch.
        distil: safetensors file of hidden states layers.N [T, H], to distill routers that cannot be folded
            into linear ones; with utility.N [T, E], the utility of each expert on each state, the loss is
            reported.
        temperature: divides the logits.
    """
    from ..exports.transformers import distil as distilled
    from ..exports.transformers import host_of_folder, write_patch
    from ..routing import Router

    layers = _read(routers)
    host = host_of_folder(model)[0]
    facts: dict[str, Any] = {}
    if distil is not None:
        if not all(isinstance(router, Router) for router in layers):
            raise InputError("distil", str(distil), "the routers are already linear", "leave it out")
        teachers = [router for router in layers if isinstance(router, Router)]
        tensors = _tensors("distil", distil)
        states = _numbered("distil", distil, tensors, r"layers\.(\d+)", len(layers))
        utility = _numbered("distil", distil, tensors, r"utility\.(\d+)", None)
        measure = None if not utility else _measure(states, utility)
        result = distilled(teachers, states, measure=measure)
        layers = list(result.routers)
        names = [f"layer {layer}" for layer in host.layers]
        facts = {
            "agreement": dict(zip(names, result.agreement, strict=False)),
            "held_out": result.held_out,
        }
        if result.before is not None and result.after is not None:
            facts["utility_before"], facts["utility_after"] = result.before, result.after
            facts["utility_lost"] = result.before - result.after
    folder = write_patch(layers, model, out, temperature=temperature)
    written = json.loads((folder / "router_patch.json").read_text(encoding="utf-8"))
    return {
        "patch": str(folder),
        "architecture": host.architecture,
        "layers": len(layers),
        "experts_per_token": written["experts_per_token"],
        "bytes": (folder / "router_patch.safetensors").stat().st_size,
        "warnings": list(host.warnings(written["experts_per_token"])),
        **facts,
    }


def _measure(states: Sequence[Tensor], utility: Sequence[Tensor]) -> Any:
    """Return a function that computes the mean utility of routers on held-out states (the last quarter)."""

    def measure(routers: Sequence[Router]) -> float:
        total = 0.0
        for router, inputs, values in zip(routers, states, utility, strict=True):
            start = len(inputs) - max(1, round(0.25 * len(inputs)))
            routing = router(inputs[start:].float())
            utilities = values[start:].float().gather(1, routing.experts) * routing.weights
            total += float(utilities.sum(dim=1).mean())
        return total / len(routers)

    return measure


def _read(path: Path) -> list[LayerRouter]:
    from ..exports import layers_in
    from ..exports.transformers import read_layer_routers
    from ..routing import load_router

    if not path.is_dir():
        return read_layer_routers(path)
    folders = layers_in(path)
    if not folders:
        raise InputError("routers", str(path), "has no layer-0, layer-1, ...", "export one router per layer")
    return [load_router(folder) for folder in folders.values()]


def _numbered(
    field: str, path: Path, tensors: dict[str, Tensor], pattern: str, count: int | None
) -> list[Tensor]:
    """Return the tensors whose names match a pattern, in order of their number.

    Raises:
        InputError: there are not `count` of them.
    """
    numbered = {
        int(m.group(1)): tensor for name, tensor in tensors.items() if (m := re.fullmatch(pattern, name))
    }
    if count is not None and len(numbered) != count:
        expected = pattern.replace(r"\.(\d+)", ".N")
        raise InputError(
            field, str(path), f"has {len(numbered)} {expected} for {count} routers", "give one per router"
        )
    return [numbered[number] for number in sorted(numbered)]


def _tensors(field: str, path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise InputError(field, str(path), f"cannot be read ({error})", "give a safetensors file") from error


COMMAND = Command(run=handover)
