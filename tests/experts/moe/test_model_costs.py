"""Configurations of published models against the figures their makers publish."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from experts import InputError
from experts.moe.huggingface import KNOWN, read_configuration
from experts.moe.model_costs import ModelCosts, model_costs

# Parameters and active parameters in billions, as published to the digits given: in the papers (Jiang et al.
# 2024; Dai et al. 2024; DeepSeek-AI 2024, twice), on model cards (Qwen, Llama, Mistral, SmolLM2, GLM-4.5).
PUBLISHED = {
    "llama-3.1-8b": (8.03, 8.03),
    "mistral-7b": (7.24, 7.24),
    "qwen3-8b": (8.2, 8.2),
    "smollm2-135m": (0.135, 0.135),
    "mixtral-8x7b": (46.7, 12.9),
    "mixtral-8x22b": (141, 39),
    "qwen1.5-moe-a2.7b": (14.3, 2.7),
    "qwen2-57b-a14b": (57.4, 14),
    "qwen3-30b-a3b": (30.5, 3.3),
    "deepseek-moe-16b": (16.4, 2.8),
    "deepseek-v2": (236, 21),
    "deepseek-v3": (671, 37),
    "glm-4.5-air": (106, 12),
    "glm-4.5": (355, 32),
    "gpt-oss-20b": (20.91, 3.61),
    "gpt-oss-120b": (116.83, 5.13),
}
# Counted without the input embedding, as their makers do.
WITHOUT_EMBEDDING = ("gpt-oss-20b", "gpt-oss-120b")
# Rounded by their makers: the 355 B hold the multi-token prediction layer, which text does not need.
LOOSE = {"glm-4.5": 0.06, "glm-4.5-air": 0.12}

# Layers with experts, all layers, experts, experts a token.
SHAPES = {
    "mixtral-8x7b": (32, 32, 8, 2),
    "qwen3-30b-a3b": (48, 48, 128, 8),
    "deepseek-moe-16b": (27, 28, 64, 6),
    "deepseek-v2": (59, 60, 160, 6),
    "deepseek-v3": (58, 61, 256, 8),
    "gpt-oss-20b": (24, 24, 32, 4),
    "glm-4.5": (89, 92, 160, 8),
    "llama-3.1-8b": (0, 32, 0, 0),
}


def test_every_known_model_has_a_published_figure() -> None:
    assert set(KNOWN) == set(PUBLISHED)


@pytest.mark.parametrize("name", KNOWN)
def test_published_figures(name: str) -> None:
    found = model_costs(name)
    parameters, active = PUBLISHED[name]
    counted = (
        found.active_parameters_without_embedding if name in WITHOUT_EMBEDDING else found.active_parameters
    )
    assert found.parameters / 1e9 == pytest.approx(parameters, rel=0.012)
    assert counted / 1e9 == pytest.approx(active, rel=LOOSE.get(name, 0.025))
    if name in SHAPES:
        shape = (found.moe_layers, found.layers, found.experts_per_layer, found.experts_per_token)
        assert shape == SHAPES[name]


def test_mixtral_by_hand() -> None:
    found = model_costs("mixtral-8x7b", context=1)
    expert = 3 * 4096 * 14336
    others = 32 * (2 * 4096 * 4096 + 2 * 4096 * 1024 + 8 * 4096 + 2 * 4096) + 2 * 32000 * 4096 + 4096
    assert found.parameters == 32 * 8 * expert + others
    assert found.active_parameters == 32 * 2 * expert + others
    assert found.expert_bytes_resident == 2 * 32 * 8 * expert
    assert found.expert_bytes_moved == 2 * 32 * 2 * expert
    norms = (2 * 32 + 1) * 4096
    attention = 32 * 2 * 2 * 4096
    assert found.attention_flops_per_token == attention
    assert found.flops_per_token == 2 * (found.active_parameters - norms - 32000 * 4096) + attention


def test_shared_experts_are_always_active() -> None:
    found = model_costs("deepseek-moe-16b")
    assert found.model_type == "deepseek"
    assert found.shared_parameters == 27 * 2 * 3 * 2048 * 1408


def test_quantised_bytes() -> None:
    # The files of openai/gpt-oss-120b are 65.2 GB; DeepSeek-V3's own weights (671 B, without the layer that
    # predicts a second token) take a byte each but for embeddings, head and gates.
    assert model_costs("gpt-oss-120b").bytes / 1e9 == pytest.approx(65.2, rel=0.01)
    assert model_costs("deepseek-v3").bytes / 1e9 == pytest.approx(673, rel=0.01)
    assert model_costs("deepseek-v3").dtype == "bfloat16 and fp8"


@pytest.mark.parametrize(
    "kind", ["llama", "qwen3", "mixtral", "qwen2_moe", "deepseek_v3", "gpt_oss", "glm4_moe"]
)
@pytest.mark.parametrize("tied", [False, True])
def test_flops_are_those_of_a_forward_pass(kind: str, tied: bool) -> None:
    """Against PyTorch's counter on a small model that runs; both count the causal mask's upper half."""
    import transformers

    sizes = {
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2 if kind != "deepseek_v3" else 4,
        "vocab_size": 64,
        "tie_word_embeddings": tied,
        "pad_token_id": 0,
        "attn_implementation": "eager",
        "experts_implementation": "eager",
    }
    moe = {"num_experts_per_tok": 2, "moe_intermediate_size": 24, "first_k_dense_replace": 1}
    latent = {
        "q_lora_rank": 8,
        "kv_lora_rank": 8,
        "qk_nope_head_dim": 8,
        "qk_rope_head_dim": 4,
        "v_head_dim": 6,
    }
    own = {
        "mixtral": {"num_local_experts": 4},
        "qwen2_moe": {"num_experts": 4, **moe, "shared_expert_intermediate_size": 16},
        "deepseek_v3": {"n_routed_experts": 4, "n_group": 1, "topk_group": 1, **moe, **latent},
        "gpt_oss": {"num_local_experts": 4, "num_experts_per_tok": 2, "head_dim": 8, "sliding_window": 3},
        "glm4_moe": {"n_routed_experts": 4, **moe},
        "qwen3": {"head_dim": 8},
    }.get(kind, {})
    config = transformers.CONFIG_MAPPING[kind](**sizes, **own)
    model = transformers.AutoModelForCausalLM.from_config(config).eval()
    tokens = torch.randint(1, 64, (1, 5))
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        model(tokens, use_cache=False)
    found = model_costs(config, context=5)
    attention = found.attention_flops_per_token
    if kind == "gpt_oss":  # eager attention masks what a kernel with a window skips
        attention = 2 * 2 * 2 * 5 * 4 * 8
    expected = 5 * (found.flops_per_token - found.attention_flops_per_token + attention)
    assert counter.get_total_flops() == pytest.approx(expected)


def test_sliding_windows_cut_attention() -> None:
    def attention(name: str, context: int) -> float:
        return model_costs(name, context=context).attention_flops_per_token

    assert attention("mistral-7b", 8192) == attention("mistral-7b", 4096)
    assert attention("gpt-oss-20b", 256) == 1.5 * attention("gpt-oss-20b", 128)  # every other layer slides
    assert attention("mixtral-8x7b", 8192) == 2 * attention("mixtral-8x7b", 4096)


def test_a_folder_and_a_file(tmp_path) -> None:
    fields = {"model_type": "mistral", "hidden_size": 32, "num_hidden_layers": 1, "auto_map": {"a": "b"}}
    fields |= {"num_attention_heads": 4, "num_key_value_heads": 4, "intermediate_size": 8, "vocab_size": 16}
    (tmp_path / "config.json").write_text(json.dumps(fields))
    found = model_costs(tmp_path)
    assert isinstance(found, ModelCosts)
    assert found == model_costs(str(tmp_path / "config.json"))
    assert found.dtype == "float32"


def test_configurations_that_cannot_be_used(tmp_path, monkeypatch) -> None:
    with pytest.raises(InputError, match="did you mean 'mixtral-8x7b'"):
        read_configuration("mixtral-8x7")
    with pytest.raises(InputError, match=r"has no config\.json"):
        read_configuration(tmp_path)
    path = tmp_path / "config.json"
    for text in ("{", "[]", "{}"):
        path.write_text(text)
        with pytest.raises(InputError, match="not a model's configuration"):
            read_configuration(path)
    path.write_text('{"model_type": "mixtrall"}')
    with pytest.raises(InputError, match="did you mean 'mixtral'"):
        read_configuration(path)
    for name, value in [
        *(("hidden_size", value) for value in ("wide", -1, 0, 1.5, True, 10**30, [[8]])),
        *(("num_hidden_layers", 1e9), ("num_local_experts", "x"), ("intermediate_size", [8, -1])),
    ]:
        path.write_text(json.dumps({"model_type": "mixtral", name: value}))
        with pytest.raises(
            InputError, match=f"config.json': has {name} .*no whole number from . to"
        ) as caught:
            read_configuration(path)
        assert "\n" not in str(caught.value)
    path.write_text('{"model_type": "mixtral", "num_local_experts": 0, "intermediate_size": 8}')
    assert read_configuration(path).num_local_experts == 0  # as dense models say it
    path.write_text('{"model_type": "mixtral", "rms_norm_eps": "small"}')
    with pytest.raises(InputError, match=r"is not a mixtral model .*rms_norm_eps"):
        read_configuration(path)
    path.write_text("[" * 200_000)
    with pytest.raises(InputError, match=r"config.json': is not a model's configuration"):
        read_configuration(path)
    path.write_text('{"model_type": "vit"}')
    with pytest.raises(InputError, match="not a causal language model"):
        model_costs(path)
    with pytest.raises(InputError, match="context=0"):
        model_costs("mixtral-8x7b", context=0)
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(InputError, match=r"pip install 'router-rl\[llm\]'"):
        read_configuration("mixtral-8x7b")


@pytest.mark.slow
def test_importing_the_costs_does_not_import_transformers() -> None:
    code = "import sys, experts.moe.model_costs; print('transformers' in sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "False"
