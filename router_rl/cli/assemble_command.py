"""`assemble`: dense models of one ancestor become a mixture of experts."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from .command import Command
from .values import integers_in, names_in

__all__ = ["COMMAND", "assemble"]


def assemble(
    *,
    base: Path,
    experts: list[str] | str,
    out: Path,
    form: Literal["mixtral", "deepseek"] = "mixtral",
    layers: str = "differing",
    experts_per_token: int = 2,
    segments: int = 4,
    shared: int = 1,
    trunk: Literal["base", "average"] = "base",
    seed: int = 0,
) -> dict[str, Any]:
    """Assemble dense models of one ancestor into a mixture of experts that stock transformers loads.

    Args:
        base: the ancestor's folder, of Llama, Mistral, Qwen2 or Qwen3 form.
        experts: folders of models fine-tuned from it, commas between.
        out: the folder to write; an earlier assembly in it is replaced.
        form: mixtral (softmax gate, whole experts) or deepseek (sigmoid gate, segments, shared experts).
        layers: which become mixtures: differing, all, or numbers such as 22,23.
        experts_per_token: how many of the donors a token runs.
        segments: into how many the deepseek form cuts an FFN.
        shared: how many of the segments run always there.
        trunk: attention, embeddings and dense layers of the base, or the donors' average.
        seed: of the gates, which are random until trained ones are written.
    """
    from experts.moe import assemble as assemble_experts
    from experts.moe.model_costs import model_costs

    wanted = layers if layers in ("differing", "all") else integers_in("layers", layers, "22,23")
    found = assemble_experts(
        base,
        names_in(experts),
        out,
        form=form,
        layers=wanted,  # pyright: ignore[reportArgumentType]
        experts_per_token=experts_per_token,
        segments=segments,
        shared=shared,
        trunk=trunk,
        seed=seed,
    )
    costs = model_costs(out)
    notes = ["the gates are random: train routers and write them into the folder"]
    if found.dropped_layers:
        numbers = ", ".join(map(str, found.dropped_layers))
        notes.append(f"the experts differ in layers {numbers} too, which stay as the {found.trunk} has them")
    return {
        "model": str(out),
        "architecture": found.model_type,
        "experts": list(found.experts),
        "mixture_layers": f"{len(found.moe_layers)} of {costs.layers}",
        "experts_per_layer": costs.experts_per_layer,
        "experts_per_token": costs.experts_per_token,
        "parameters": costs.parameters,
        "active_parameters": costs.active_parameters,
        "trunk_distance": found.trunk_distance,
        "notes": notes,
    }


COMMAND = Command(run=assemble)
