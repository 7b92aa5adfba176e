"""`handover`: write trained routers as a patch of a mixture, or beside the LoRA adapters that they select."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from experts import InputError
from experts.io.value_range import Positive

from .command import Command
from .values import names_in

__all__ = ["COMMAND", "handover"]


def handover(
    *,
    routers: Path,
    model: Path,
    out: Path,
    distil: Path | None = None,
    temperature: Positive = 1.0,
    adapters: list[str] | str | None = None,
) -> dict[str, Any]:
    """Fold a mixture's trained routers into stock gates and write them as a patch of a few MB.

    Args:
        routers: folder of exported routers named layer-0, layer-1, ..., or a routers.safetensors with
            layers.N.weight [E, H] and optionally layers.N.bias [E].
        model: folder of the mixture that they were trained on, or with adapters of the base; not changed.
        out: output folder of the patch.
        distil: safetensors file of hidden states layers.N [T, H], to distill routers that cannot be folded
            into linear ones; with utility.N [T, E], the utility of each expert on each state, the loss is
            reported.
        temperature: divides the logits.
        adapters: folders of the base's LoRA adapters that they were trained on, comma-separated: writes
            adapters and routers as one folder, and merges nothing.
    """
    if adapters is not None:
        for name, value, default in (("distil", distil, None), ("temperature", temperature, 1.0)):
            if value != default:
                raise InputError(name, value, "has no effect with adapters", "leave it out")
        from ..exports.transformers import write_adapter_router

        folders = [Path(each) for each in names_in("adapters", adapters)]
        for folder in folders:
            if not folder.is_dir():
                raise InputError("adapters", str(folder), "is not a folder", "give folders of LoRA adapters")
        return write_adapter_router(routers, model, folders, out).to_json()
    from ..exports.transformers import distil as distilled
    from ..exports.transformers import host_of_folder, write_patch
    from ..routing import Router
    from .handover_files import numbered, read_routers, read_tensors, utility_measure

    layers = read_routers(routers)
    host = host_of_folder(model)[0]
    facts: dict[str, Any] = {}
    if distil is not None:
        if not all(isinstance(router, Router) for router in layers):
            raise InputError("distil", str(distil), "the routers are already linear", "leave it out")
        teachers = [router for router in layers if isinstance(router, Router)]
        tensors = read_tensors("distil", distil)
        states = numbered("distil", distil, tensors, r"layers\.(\d+)", len(layers))
        utility = numbered("distil", distil, tensors, r"utility\.(\d+)", None)
        measure = None if not utility else utility_measure(states, utility)
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


COMMAND = Command(run=handover)
