"""Writes mixtures of experts with random weights in GGUF files, in the forms of llama.cpp's architectures."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np

__all__ = ["BLOCKS", "EXPERTS", "HIDDEN", "write_mixture"]

HIDDEN, INNER, WORDS, HEADS = 32, 64, 64, 2
EXPERTS = {"llama": 4, "qwen2moe": 4, "qwen3moe": 4, "gpt-oss": 4, "glm4moe": 6}
BLOCKS = {"llama": (0, 1), "qwen2moe": (0, 1), "qwen3moe": (0, 1), "gpt-oss": (0, 1), "glm4moe": (1, 2)}


def write_mixture(path: Path, architecture: str, kind: gguf.GGMLQuantizationType) -> None:
    """Write a model that llama.cpp loads.

    Args:
        path: of the file.
        architecture: its name in llama.cpp.
        kind: of its large matrices, such as Q8_0.
    """
    random = np.random.default_rng(0)
    writer = gguf.GGUFWriter(path, architecture)
    blocks, experts = BLOCKS[architecture], EXPERTS[architecture]
    writer.add_block_count(blocks[-1] + 1)
    writer.add_context_length(8192)
    writer.add_embedding_length(HIDDEN)
    writer.add_feed_forward_length(INNER)
    writer.add_expert_feed_forward_length(INNER)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(HEADS)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_vocab_size(WORDS)
    writer.add_expert_count(experts)
    writer.add_expert_used_count(2)
    writer.add_tokenizer_model("none")
    writer.add_sliding_window(8192)
    if architecture == "glm4moe":
        writer.add_leading_dense_block_count(blocks[0])
        writer.add_expert_shared_count(1)
        writer.add_expert_weights_norm(True)
        writer.add_expert_weights_scale(3.0)  # one donor's three segments
        writer.add_expert_gating_func(gguf.ExpertGatingFuncType.SIGMOID)
    if architecture == "qwen2moe":
        writer.add_expert_shared_feed_forward_length(INNER)

    def add(name: str, *shape: int, exact: bool = False) -> None:
        values = random.normal(size=shape).astype(np.float32)
        values = values / shape[-1] ** 0.5 if len(shape) > 1 else 1.0 + 0.1 * values
        if exact or len(shape) == 1:
            writer.add_tensor(name, values)
        else:
            writer.add_tensor(name, gguf.quantize(values, kind), raw_dtype=kind)

    add("token_embd.weight", WORDS, HIDDEN)
    add("output_norm.weight", HIDDEN)
    add("output.weight", WORDS, HIDDEN)
    for block in range(blocks[-1] + 1):
        at = f"blk.{block}"
        add(f"{at}.attn_norm.weight", HIDDEN)
        other = "post_attention_norm" if architecture in ("glm4moe", "gpt-oss") else "ffn_norm"
        add(f"{at}.{other}.weight", HIDDEN)
        for part in ("q", "k", "v", "output"):
            add(f"{at}.attn_{part}.weight", HIDDEN, HIDDEN)
        if architecture == "qwen3moe":
            add(f"{at}.attn_q_norm.weight", HIDDEN // HEADS)
            add(f"{at}.attn_k_norm.weight", HIDDEN // HEADS)
        if architecture == "gpt-oss":
            add(f"{at}.attn_sinks.weight", HEADS)
            add(f"{at}.attn_output.bias", HIDDEN)
            add(f"{at}.ffn_gate_inp.bias", experts)
            for part, size in (("gate", INNER), ("up", INNER), ("down", HIDDEN)):
                add(f"{at}.ffn_{part}_exps.bias", experts, size, exact=True)
        if block not in blocks:
            for part, shape in (
                ("gate", (INNER, HIDDEN)),
                ("up", (INNER, HIDDEN)),
                ("down", (HIDDEN, INNER)),
            ):
                add(f"{at}.ffn_{part}.weight", *shape)
            continue
        add(f"{at}.ffn_gate_inp.weight", experts, HIDDEN, exact=True)
        for part, shape in (("gate", (INNER, HIDDEN)), ("up", (INNER, HIDDEN)), ("down", (HIDDEN, INNER))):
            add(f"{at}.ffn_{part}_exps.weight", experts, *shape)
            if architecture in ("glm4moe", "qwen2moe"):
                add(f"{at}.ffn_{part}_shexp.weight", *shape)
        if architecture == "glm4moe":
            add(f"{at}.exp_probs_b.bias", experts)
        if architecture == "qwen2moe":
            add(f"{at}.ffn_gate_inp_shexp.weight", HIDDEN)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
