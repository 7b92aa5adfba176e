"""A linear router becomes the tensors of llama.cpp's gate, and nothing else does."""

from __future__ import annotations

from pathlib import Path

import gguf
import pytest
import torch

from router_rl.exports import export
from router_rl.exports.gguf import tensors
from router_rl.routing import RouterError


@pytest.mark.parametrize("rule", ["hard", "top2", "softmax", "deepseek"])
def test_every_rule_that_llama_cpp_has(made, tmp_path: Path, rule: str) -> None:
    parity = export(made("linear", rule), tmp_path / "out", format="gguf")
    assert parity.passed
    assert parity.index_agreement == 1.0


def test_names_shapes_and_keys(made, tmp_path: Path) -> None:
    router = made("linear", "deepseek")
    export(router, tmp_path / "out", format="gguf")
    reader = gguf.GGUFReader(tmp_path / "out" / "router.gguf")
    found = {tensor.name: tensor for tensor in reader.tensors}
    name = gguf.TENSOR_NAMES[gguf.MODEL_TENSOR.FFN_GATE_INP].format(bid=0)
    bias = gguf.TENSOR_NAMES[gguf.MODEL_TENSOR.FFN_EXP_PROBS_B].format(bid=0)
    assert set(found) == {f"{name}.weight", f"{name}.bias", f"{bias}.bias"}
    assert found[f"{name}.weight"].shape.tolist() == [4, 6]  # ggml counts the innermost first
    assert all(tensor.tensor_type == gguf.GGMLQuantizationType.F32 for tensor in reader.tensors)
    torch.testing.assert_close(torch.tensor(found[f"{bias}.bias"].data), torch.tensor(router.rule.bias))
    keys = {name.removeprefix("router."): field.contents() for name, field in reader.fields.items()}
    assert (keys["expert_count"], keys["expert_used_count"], keys["expert_gating_func"]) == (6, 2, 2)
    assert (keys["expert_group_count"], keys["expert_group_used_count"]) == (3, 2)
    assert keys["expert_weights_norm"] is True
    assert keys["expert_names"] == list(router.experts)
    assert set(tensors(router, layer=7)) == {n.replace("blk.0", "blk.7") for n in found}


@pytest.mark.parametrize(
    ("kind", "rule", "what"),
    [
        ("mlp", "top2", "a MLPScorer"),
        ("linear", "soft", "soft selection"),
        ("linear", "tree", "hierarchical selection"),
        ("linear", "adaptive", "adaptive_k selection"),
        ("linear", "remoe", "scored_topk selection"),
    ],
)
def test_what_does_not_fold_says_what_to_do(made, tmp_path: Path, kind: str, rule: str, what: str) -> None:
    with pytest.raises(RouterError, match=rf"{what} does not fold .*; export it as a module .* or distil it"):
        export(made(kind, rule), tmp_path / "out", format="gguf")
    assert list(tmp_path.iterdir()) == []
