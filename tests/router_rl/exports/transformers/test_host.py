"""Every architecture whose gates are known: what is written is what its gates compute."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from experts import InputError
from experts.moe.layout import LAYOUTS
from router_rl.exports.transformers import host_of_folder, host_of_model, swap_routers, write_routers
from router_rl.routing import LinearScorer, Router, ScoredTopK, Selection, TopK, UnnormalisedTopK

SIZES = {
    "hidden_size": 32,
    "intermediate_size": 16,
    "moe_intermediate_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "head_dim": 8,
    "vocab_size": 64,
    "pad_token_id": 0,
    "num_experts_per_tok": 3,
    "norm_topk_prob": True,
}
SIGMOID = {
    "n_routed_experts": 4,
    "n_shared_experts": 1,
    "first_k_dense_replace": 0,
    "n_group": 1,
    "topk_group": 1,
}
LATENT = {"q_lora_rank": 8, "kv_lora_rank": 8, "qk_nope_head_dim": 8, "qk_rope_head_dim": 8, "v_head_dim": 8}
OWN: dict[str, dict[str, Any]] = {
    "mixtral": {"num_local_experts": 4},
    "olmoe": {"num_experts": 4},
    "qwen2_moe": {"num_experts": 4, "shared_expert_intermediate_size": 16},
    "qwen3_moe": {"num_experts": 4},
    "gpt_oss": {"num_local_experts": 4},
    "deepseek_v3": {**SIGMOID, **LATENT, "routed_scaling_factor": 2.5, "head_dim": 8},
    "glm4_moe": {**SIGMOID, "first_k_dense_replace": 1},
    "dots1": SIGMOID,
    "solar_open": SIGMOID,
}


def test_every_layout_is_tried() -> None:
    assert set(OWN) == set(LAYOUTS)


RAW = ("olmoe", "qwen2_moe", "qwen3_moe", "deepseek_v3", "glm4_moe")  # may leave weights unnormalised


@pytest.mark.parametrize(
    ("kind", "normalised"), [*((kind, True) for kind in sorted(LAYOUTS)), *((kind, False) for kind in RAW)]
)
def test_the_gates_compute_what_the_routers_do(kind: str, normalised: bool, tmp_path: Path) -> None:
    import transformers

    torch.manual_seed(1)
    config = transformers.CONFIG_MAPPING[kind](**{**SIZES, **OWN[kind], "norm_topk_prob": normalised})
    model = transformers.AutoModelForCausalLM.from_config(config).eval()
    model.save_pretrained(tmp_path / "model")
    layout = LAYOUTS[kind]
    host, weights = host_of_folder(tmp_path / "model")
    assert all(layout.gate_weight(layer) in weights for layer in host.layers)
    if layout.parts:
        assert all(name in weights for name in layout.expert(host.layers[-1], 3))
    assert host_of_model(model).layers == host.layers == ((1,) if kind == "glm4_moe" else (0, 1))
    sigmoid = layout.score == "sigmoid"
    rule: Selection = ScoredTopK(k=2, bias=(0.0, 0.3, -0.3, 0.1)) if sigmoid else TopK(k=2)
    if not normalised:
        rule = UnnormalisedTopK(k=2, score=layout.score, bias=getattr(rule, "bias", ()))
    routers = []
    for _ in host.layers:
        scorer = LinearScorer(32, 4)
        torch.nn.init.normal_(scorer.weight)
        if layout.bias:
            torch.nn.init.normal_(scorer.bias)
        routers.append(Router(scorer, rule, ["a", "b", "c", "d"]).eval())

    write_routers(routers, tmp_path / "model", tmp_path / "written")
    written = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "written").eval()
    assert written.config.num_experts_per_tok == 2
    x = torch.randn(9, 32)
    for router, layer in zip(routers, host.layers, strict=True):
        with torch.inference_mode():
            _, scores, experts = written.get_submodule(layout.gate_module(layer))(x)
            expected = router(x)
        order = experts.argsort(dim=1), expected.experts.argsort(dim=1)
        assert experts.gather(1, order[0]).equal(expected.experts.gather(1, order[1]))
        scale = getattr(config, "routed_scaling_factor", 1.0)
        found = scores.gather(1, order[0]) / scale
        torch.testing.assert_close(found, expected.weights.gather(1, order[1]), atol=1e-6, rtol=1e-5)

    swapped = swap_routers(model, routers)
    assert swapped.folded == host.layers
    assert (swapped.auxiliary_loss is None) == sigmoid
    tokens = torch.randint(1, 64, (2, 7))
    with torch.inference_mode():
        assert model(tokens).logits.equal(written(tokens).logits)


def test_models_that_are_no_hosts(dense: Any, tmp_path: Path) -> None:
    model = dense(tmp_path / "dense")
    with pytest.raises(InputError, match="model_type='llama'"):
        host_of_folder(tmp_path / "dense")
    with pytest.raises(InputError, match="model_type='llama'"):
        host_of_model(model)
