"""Costs of a language model by its configuration: built on the meta device, without weights."""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from ..io.errors import InputError
from .huggingface import read_configuration, transformers_library

__all__ = ["ModelCosts", "model_costs"]

# Bits per parameter, and the names of quantised parameters: all linear layers, or routed experts only.
_QUANTISED = {
    "fp8": (8.0, r"_proj(_with_mqa)?\.weight$|\.experts\."),
    "mxfp4": (4.25, r"\.experts\..*_proj$"),  # with a scale of 8 bits for 32 numbers
}


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelCosts:
    """The costs of one language model.

    Attributes:
        model_type: the architecture's name in transformers.
        layers: number of decoder layers.
        moe_layers: number of layers with routed experts.
        experts_per_layer: routed experts of such a layer; 0 if there are none.
        experts_per_token: routed experts that a token runs in such a layer.
        shared_parameters: of shared experts, in all layers.
        parameters: of the whole model; tied ones count once.
        active_parameters: that a token uses, with embeddings.
        active_parameters_without_embedding: the same without the input embedding, which is a lookup.
        context: tokens of the context in the two figures that follow.
        flops_per_token: floating-point operations of a forward pass for one token; a multiply-add counts as
            2. Matrix products and attention are counted, elementwise operations are not.
        attention_flops_per_token: the part of `flops_per_token` for attention scores and values.
        bytes: of all parameters as stored.
        expert_bytes_resident: of the routed experts of all layers.
        expert_bytes_moved: of the routed experts that a single token runs and reads from memory.
        dtype: of stored parameters, and their quantisation.
    """

    model_type: str
    layers: int
    moe_layers: int
    experts_per_layer: int
    experts_per_token: int
    shared_parameters: int
    parameters: int
    active_parameters: int
    active_parameters_without_embedding: int
    context: int
    flops_per_token: float
    attention_flops_per_token: float
    bytes: int
    expert_bytes_resident: int
    expert_bytes_moved: int
    dtype: str

    def to_json(self) -> dict[str, Any]:
        """Return the costs as a dictionary."""
        return asdict(self)


def model_costs(config: Any, *, context: int = 4096) -> ModelCosts:
    """Return the costs of a causal language model.

    Args:
        config: a transformers configuration, or what `read_configuration` reads: a model's folder, its
            config.json, or the name of a published model.
        context: tokens that a token attends to, at least 1; sliding windows limit it.

    Raises:
        InputError: the configuration cannot be read or is not that of a causal language model.
    """
    if context < 1:
        raise InputError("context", context, "is not positive", "use 1 or more tokens")
    if isinstance(config, str | Path):
        config = read_configuration(config)
    model = _empty(config)
    sizes = {name: parameter.numel() for name, parameter in model.named_parameters()}
    routed = {name for name in sizes if ".experts." in name}
    counts = _experts_per_layer(model, routed)
    # No supported architecture has layers with different numbers of experts.
    assert len(set(counts.values())) <= 1, counts
    experts = next(iter(counts.values()), 0)
    per_token = int(config.num_experts_per_tok) if experts else 0
    total = sum(sizes.values())
    in_experts = sum(sizes[name] for name in routed)
    active = total - in_experts + _share(in_experts, per_token, experts)
    embedding = model.get_input_embeddings().weight
    tied = model.get_output_embeddings().weight is embedding  # the head multiplies with a tied embedding
    looked_up = 0 if tied else embedding.numel()
    # Vectors (norms, biases) are elementwise; a routed bias has a second dimension for the experts.
    matrices = {
        name for name, weight in model.named_parameters() if weight.ndim > 1 and not name.endswith("bias")
    }
    products = sum(sizes[name] for name in matrices - routed) - looked_up
    products += _share(sum(sizes[name] for name in matrices & routed), per_token, experts)
    attention = float(sum(_attention(config, layer, context) for layer in range(config.num_hidden_layers)))
    stored, dtype = _storage(config, {name: p.element_size() for name, p in model.named_parameters()})
    resident = sum(round(sizes[name] * stored[name]) for name in routed)
    return ModelCosts(
        model_type=str(config.model_type),
        layers=int(config.num_hidden_layers),
        moe_layers=len(counts),
        experts_per_layer=experts,
        experts_per_token=per_token,
        shared_parameters=sum(size for name, size in sizes.items() if ".shared_expert" in name),
        parameters=total,
        active_parameters=active,
        active_parameters_without_embedding=active - embedding.numel(),
        context=context,
        flops_per_token=2.0 * products + attention,
        attention_flops_per_token=attention,
        bytes=sum(round(sizes[name] * stored[name]) for name in sizes),
        expert_bytes_resident=resident,
        expert_bytes_moved=_share(resident, per_token, experts),
        dtype=dtype,
    )


def _empty(config: Any) -> Any:
    library = transformers_library()
    if type(config) not in library.MODEL_FOR_CAUSAL_LM_MAPPING:
        raise InputError(
            "model_type", config.model_type, "is not a causal language model", "use one that generates text"
        )
    with torch.device("meta"):
        return library.AutoModelForCausalLM.from_config(config)


def _experts_per_layer(model: Any, routed: set[str]) -> dict[str, int]:
    """The number of routed experts by the name of their module."""
    counts: dict[str, int] = {}
    for name in sorted(routed):
        holder, _, rest = name.partition(".experts.")
        number = re.match(r"(\d+)\.", rest)  # a list of modules; otherwise one tensor of all experts
        count = int(number.group(1)) + 1 if number else int(model.get_parameter(name).shape[0])
        counts[holder] = max(counts.get(holder, 0), count)
    return counts


def _share(size: int, per_token: int, experts: int) -> int:
    return size * per_token // experts if experts else 0


def _attention(config: Any, layer: int, context: int) -> int:
    """FLOPs of one token's attention scores and values in a layer."""
    kinds = getattr(config, "layer_types", None)
    window = getattr(config, "sliding_window", None)
    slides = kinds[layer] == "sliding_attention" if kinds else _always_slides(config)
    attended = min(context, window) if window and slides else context
    heads = config.num_attention_heads
    if getattr(config, "kv_lora_rank", None):  # latent attention, keys and values expanded
        width = config.qk_nope_head_dim + config.qk_rope_head_dim + config.v_head_dim
    else:
        width = 2 * (getattr(config, "head_dim", None) or config.hidden_size // heads)
    return 2 * attended * heads * width


def _always_slides(config: Any) -> bool:
    return config.model_type in ("mistral", "mixtral")


def _storage(config: Any, plain: dict[str, int]) -> tuple[dict[str, float], str]:
    """Bytes per number of each parameter, and the name of the format."""
    dtype = getattr(config, "dtype", None)
    width = torch.empty(0, dtype=dtype, device="meta").element_size() if dtype is not None else 0
    stored = {name: float(width or size) for name, size in plain.items()}
    name = str(dtype or torch.get_default_dtype()).removeprefix("torch.")
    method = (getattr(config, "quantization_config", None) or {}).get("quant_method")
    if method is None:
        return stored, name
    if method not in _QUANTISED:
        return stored, f"{name} ({method} is not counted)"
    bits, where = _QUANTISED[method]
    for parameter in stored:
        if re.search(where, parameter):
            stored[parameter] = bits / 8
    return stored, f"{name} and {method}"
