"""Small random mixtures of experts of stock transformers, with a tokenizer and text."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

__all__ = ["FORMS", "SIZES", "write_mixture", "write_texts"]

WORDS = 23
SIZES: dict[str, Any] = {"length": 10, "train": 12, "validation": 6, "test": 6, "mixed": 0.5}
_SMALL: dict[str, Any] = {
    "vocab_size": WORDS,
    "hidden_size": 16,
    "intermediate_size": 20,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "initializer_range": 0.3,
    "num_experts_per_tok": 2,
}
_LATENT = {"q_lora_rank": 8, "kv_lora_rank": 8, "qk_rope_head_dim": 4, "qk_nope_head_dim": 4, "v_head_dim": 4}
# Name of the configuration's class, and what it has beside the sizes.
FORMS: dict[str, tuple[str, dict[str, Any]]] = {
    "mixtral": ("MixtralConfig", {"num_local_experts": 4, "sliding_window": None}),
    "qwen2_moe": (
        "Qwen2MoeConfig",
        {
            "num_experts": 4,
            "moe_intermediate_size": 12,
            "shared_expert_intermediate_size": 8,
            "norm_topk_prob": True,
        },
    ),
    "olmoe": (
        "OlmoeConfig",
        {"num_experts": 6, "intermediate_size": 12, "norm_topk_prob": False, "clip_qkv": 1.5},
    ),
    "qwen3_moe": (
        "Qwen3MoeConfig",
        {"num_experts": 5, "moe_intermediate_size": 12, "head_dim": 4, "norm_topk_prob": True},
    ),
    "deepseek_v3": (
        "DeepseekV3Config",
        {
            **_LATENT,
            "n_routed_experts": 8,
            "moe_intermediate_size": 12,
            "num_key_value_heads": 4,
            "first_k_dense_replace": 1,
            "n_group": 4,
            "topk_group": 2,
            "routed_scaling_factor": 2.5,
            "num_experts_per_tok": 3,
        },
    ),
    "glm4_moe": (
        "Glm4MoeConfig",
        {
            "n_routed_experts": 4,
            "moe_intermediate_size": 12,
            "head_dim": 4,
            "first_k_dense_replace": 1,
            "n_group": 1,
            "topk_group": 1,
            "routed_scaling_factor": 1.5,
        },
    ),
}


def write_mixture(folder: Path, form: str, *, biases: bool = False, **more: Any) -> Path:
    """Write a random mixture with a tokenizer of 23 words; `more` changes its configuration.

    With `biases`, the experts of each layer have random selection biases.
    """
    import transformers
    from tokenizers import Tokenizer, models, pre_tokenizers

    kind, own = FORMS[form]
    config = getattr(transformers, kind)(**{**_SMALL, **own, **more})
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "experts" in name or ".gate." in name:
                weight.normal_(std=0.5)  # so that routing matters
        for name, buffer in model.named_buffers():
            if biases and name.endswith("e_score_correction_bias"):
                buffer.normal_(std=0.4)
    model.save_pretrained(folder)
    words: Any = Tokenizer(models.WordLevel({f"w{i}": i for i in range(WORDS)}, unk_token="w0"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    transformers.PreTrainedTokenizerFast(tokenizer_object=words).save_pretrained(folder)
    return folder


def write_texts(folder: Path, names: tuple[str, ...] = ("even", "odd")) -> Path:
    """Write counting in steps, one text for each name."""
    folder.mkdir()
    for number, name in enumerate(names):
        step = 2 + number
        texts = [" ".join(f"w{(s + step * i) % WORDS}" for i in range(24)) for s in range(WORDS)]
        lines = [json.dumps(f"{text} w{i}") for text in texts for i in range(4)]
        (folder / f"{name}.jsonl").write_text("\n".join(lines) + "\n")
    return folder
