"""`assemble`: merge dense models of one ancestor into a mixture of experts."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from experts import InputError
from experts.io.checked_options import CheckedOptions
from experts.io.value_range import Count, Seed

from .command import Command
from .values import integers_in, names_in

__all__ = ["COMMAND", "MixtureOptions", "assemble"]


@dataclass(frozen=True, kw_only=True)
class MixtureOptions(CheckedOptions):
    """The form of the mixture.

    Attributes:
        form: mixtral (softmax gate, whole experts) or deepseek (sigmoid gate, segments, shared experts).
        layers: layers that become mixtures: differing, all, or numbers such as 22,23.
        experts_per_token: experts per token.
        segments: number of segments per FFN in the deepseek form.
        shared: number of segments that always run in that form.
        trunk: attention, embeddings and dense layers: those of the base, or the average of the donors'.
        seed: random seed of the gates, which stay random until trained ones are written.
    """

    form: Literal["mixtral", "deepseek"] = "mixtral"
    layers: str = "differing"
    experts_per_token: Count = 2
    segments: Count = 4
    shared: Count = 1
    trunk: Literal["base", "average"] = "base"
    seed: Seed = 0


def assemble(*, base: Path, experts: list[str] | str, out: Path, mixture: MixtureOptions) -> dict[str, Any]:
    """Assemble dense models of one ancestor into a mixture of experts that stock transformers loads.

    Args:
        base: folder of the ancestor, of Llama, Mistral, Qwen2 or Qwen3 architecture.
        experts: folders of models fine-tuned from it, or of LoRA adapters of it, comma-separated.
        out: output folder; an earlier assembly in it is replaced.
        mixture: the form of the mixture.
    """
    from experts.moe import assemble as assemble_experts
    from experts.moe.model_costs import model_costs

    options: dict[str, Any] = asdict(mixture)
    if mixture.layers not in ("differing", "all"):
        layers = options["layers"] = integers_in("layers", mixture.layers, "22,23")
        if len(set(layers)) < len(layers):
            raise InputError("layers", mixture.layers, "has a layer twice", "give each layer once")
    for name in ("segments", "shared"):
        if mixture.form == "mixtral" and options[name] != getattr(MixtureOptions, name):
            reason = "is of the deepseek form"
            raise InputError(name, options[name], reason, "leave it out, or give --form deepseek")
    assembled = assemble_experts(base, names_in("experts", experts), out, **options)
    costs = model_costs(out)
    notes = ["the gates are random; train routers and write them into the folder"]
    if assembled.dropped_layers:
        numbers = ", ".join(map(str, assembled.dropped_layers))
        notes.append(f"the experts also differ in layers {numbers}, which are those of the {assembled.trunk}")
    return {
        "model": str(out),
        "architecture": assembled.model_type,
        "experts": list(assembled.experts),
        "mixture_layers": f"{len(assembled.moe_layers)} of {costs.layers}",
        "experts_per_layer": costs.experts_per_layer,
        "experts_per_token": costs.experts_per_token,
        "parameters": costs.parameters,
        "active_parameters": costs.active_parameters,
        "trunk_distance": assembled.trunk_distance,
        "notes": notes,
    }


COMMAND = Command(run=assemble)
