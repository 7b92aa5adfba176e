"""The stock transformers architecture of an assembled mixture, and its configuration."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from ..io.errors import InputError
from .huggingface import transformers_library

__all__ = ["EMPTY_SHARED_WIDTH", "Form", "configuration"]

Form = Literal["mixtral", "deepseek"]

EMPTY_SHARED_WIDTH = 8
"""Width of the all-zero shared expert in an architecture that requires one."""

_COMMON = (
    *("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads"),
    *("hidden_act", "max_position_embeddings", "initializer_range", "rms_norm_eps", "tie_word_embeddings"),
    *("attention_dropout", "bos_token_id", "eos_token_id", "pad_token_id"),
)


def configuration(
    base: Any,
    form: Form,
    *,
    moe_layers: Sequence[int],
    experts: int,
    experts_per_token: int,
    segments: int,
    shared: int,
) -> Any:
    """Return the configuration of a mixture, of a class in transformers.

    `mixtral` becomes Mixtral, Qwen3-MoE for Qwen3, and Qwen2-MoE for Qwen2 and for a Llama with dense layers,
    because it has plain attention and allows dense layers. `deepseek` becomes GLM-4-MoE: DeepSeek-V3's gate
    and shared experts with Llama's attention, with or without biases and query-key norms.

    Args:
        base: the dense models' configuration.
        form: `mixtral` or `deepseek`.
        moe_layers: layers with a mixture; for `deepseek` the last ones.
        experts: N, the number of donors.
        experts_per_token: K, donors that a token runs, counted in neurons.
        segments: m, segments of an FFN; for `deepseek`.
        shared: K_s, segments that every token runs; for `deepseek`.

    Returns:
        A transformers configuration.

    Raises:
        InputError: the base has a feature that the architecture lacks.
    """
    fields = {name: getattr(base, name) for name in _COMMON}
    fields["head_dim"] = getattr(base, "head_dim", None) or base.hidden_size // base.num_attention_heads
    fields["rope_parameters"] = dict(base.rope_parameters)
    fields["dtype"] = base.dtype
    kind, own = (
        _deepseek(base, moe_layers, experts, experts_per_token, segments, shared)
        if form == "deepseek"
        else _mixtral(base, moe_layers, experts, experts_per_token)
    )
    _check_attention(base, kind)
    library = transformers_library()
    config = library.CONFIG_MAPPING[kind](**{**fields, **own})
    if kind == "glm4_moe":
        config.rope_parameters["partial_rotary_factor"] = 1.0
    config.architectures = [library.MODEL_FOR_CAUSAL_LM_MAPPING[type(config)].__name__]
    return config


def _mixtral(
    base: Any, layers: Sequence[int], experts: int, experts_per_token: int
) -> tuple[str, dict[str, Any]]:
    size = base.intermediate_size
    if base.model_type in ("llama", "mistral") and len(layers) == base.num_hidden_layers:
        window = getattr(base, "sliding_window", None)
        return "mixtral", {
            "intermediate_size": size,
            "sliding_window": window,
            "num_local_experts": experts,
            "num_experts_per_tok": experts_per_token,
        }
    own = {
        "intermediate_size": size,
        "moe_intermediate_size": size,
        "num_experts": experts,
        "num_experts_per_tok": experts_per_token,
        "norm_topk_prob": True,
        "decoder_sparse_step": 1,
        "mlp_only_layers": [layer for layer in range(base.num_hidden_layers) if layer not in set(layers)],
    }
    if base.model_type == "qwen3":
        return "qwen3_moe", {**own, "attention_bias": base.attention_bias}
    biased = base.model_type == "qwen2"
    return "qwen2_moe", {**own, "qkv_bias": biased, "shared_expert_intermediate_size": EMPTY_SHARED_WIDTH}


def _deepseek(
    base: Any, layers: Sequence[int], experts: int, experts_per_token: int, segments: int, shared: int
) -> tuple[str, dict[str, Any]]:
    own = segments - shared  # routed segments of one donor
    return "glm4_moe", {
        "intermediate_size": base.intermediate_size,
        "moe_intermediate_size": base.intermediate_size // segments,
        "n_routed_experts": experts * own,
        "n_shared_experts": shared,
        "num_experts_per_tok": experts_per_token * own,
        "first_k_dense_replace": layers[0],
        "norm_topk_prob": True,
        # A donor's segments have normalised weights of 1 / own each, so the sum is scaled by own.
        "routed_scaling_factor": float(own),
        "n_group": 1,
        "topk_group": 1,
        "attention_bias": base.model_type == "qwen2",
        "use_qk_norm": base.model_type == "qwen3",
        "num_mtp_layers": 0,
    }


def _check_attention(base: Any, kind: str) -> None:
    """Refuse a base with features that the target's attention or FFNs lack."""
    slides = getattr(base, "sliding_window", None)
    if (
        slides
        and base.model_type == "mistral"
        and kind != "mixtral"
        and slides < base.max_position_embeddings
    ):
        raise InputError(
            "base",
            f"sliding_window {slides}",
            f"{kind} has full attention only",
            "set it to null in config.json",
        )
    if base.model_type in ("qwen2", "qwen3") and slides:
        raise InputError(
            "base",
            f"sliding_window {slides}",
            f"{kind} has no sliding-window layers",
            "set use_sliding_window to false",
        )
    if getattr(base, "mlp_bias", False):
        raise InputError("base", "mlp_bias", f"experts of {kind} have no bias", "use a base without it")
    if getattr(base, "attention_bias", False) and kind != "qwen3_moe":
        raise InputError(
            "base",
            "attention_bias",
            f"{kind} has no bias on every attention projection",
            "use a base without it",
        )
