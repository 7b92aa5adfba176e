"""A linear router becomes the tensors of llama.cpp's gate, and nothing else does."""

from __future__ import annotations

import json
from pathlib import Path

import gguf
import pytest
import torch
from safetensors.torch import save_file

import train_router
from experts import InputError
from router_rl.exports import export, export_layers
from router_rl.exports.gguf import load, read_gates, tensors, write_layers
from router_rl.routing import RouterError, TopK


@pytest.mark.parametrize("rule", ["hard", "top2", "softmax", "deepseek"])
def test_every_rule_that_llama_cpp_has(made, tmp_path: Path, rule: str) -> None:
    parity = export(made("linear", rule, bias=False), tmp_path / "out", format="gguf")
    assert parity.passed
    assert parity.index_agreement == 1.0


def test_names_shapes_and_keys(made, tmp_path: Path) -> None:
    router = made("linear", "deepseek", bias=False)
    export(router, tmp_path / "out", format="gguf")
    reader = gguf.GGUFReader(tmp_path / "out" / "router.gguf")
    found = {tensor.name: tensor for tensor in reader.tensors}
    name = gguf.TENSOR_NAMES[gguf.MODEL_TENSOR.FFN_GATE_INP].format(bid=0)
    bias = gguf.TENSOR_NAMES[gguf.MODEL_TENSOR.FFN_EXP_PROBS_B].format(bid=0)
    assert set(found) == {f"{name}.weight", f"{bias}.bias"}
    assert found[f"{name}.weight"].shape.tolist() == [4, 6]  # ggml counts the innermost first
    assert all(tensor.tensor_type == gguf.GGMLQuantizationType.F32 for tensor in reader.tensors)
    torch.testing.assert_close(torch.tensor(found[f"{bias}.bias"].data), torch.tensor(router.rule.bias))
    keys = {name.removeprefix("router."): field.contents() for name, field in reader.fields.items()}
    assert (keys["expert_count"], keys["expert_used_count"], keys["expert_gating_func"]) == (6, 2, 2)
    assert (keys["expert_group_count"], keys["expert_group_used_count"]) == (3, 2)
    assert keys["expert_weights_norm"] is True
    assert keys["expert_names"] == list(router.experts)
    assert set(tensors(router, layer=7)) == {n.replace("blk.0", "blk.7") for n in found}


def test_layers_of_a_stack(made, tmp_path: Path) -> None:
    """Each layer's own tensors, read by the package gguf, and one set of keys."""
    routers = {
        3: made("linear", "deepseek", bias=False),
        5: made("linear", "deepseek", bias=False),
        4: made("linear", "deepseek", bias=False),
    }
    for layer, router in routers.items():
        with torch.no_grad():
            router.scorer.weight.mul_(layer)
    found = export_layers(routers, tmp_path / "out")
    assert list(found) == [3, 4, 5]
    assert all(parity.passed for parity in found.values())
    reader = gguf.GGUFReader(tmp_path / "out" / "router.gguf")
    read = {tensor.name: torch.tensor(tensor.data) for tensor in reader.tensors}
    assert set(read) == {name for layer, router in routers.items() for name in tensors(router, layer)}
    for layer, router in routers.items():
        for name, value in tensors(router, layer).items():
            assert read[name].equal(value)
    assert not read["blk.3.ffn_gate_inp.weight"].equal(read["blk.5.ffn_gate_inp.weight"])
    assert reader.get_field("router.block_count").contents() == 6
    written = json.loads((tmp_path / "out" / "parity.json").read_text())
    assert [written["layers"][str(layer)]["passed"] for layer in (3, 4, 5)] == [True] * 3
    assert "blk.N: 3, 4, 5" in (tmp_path / "out" / "README.md").read_text()


def test_layers_of_two_forms_are_refused(made, tmp_path: Path) -> None:
    with pytest.raises(RouterError, match=r"the router of layer 2 differs from that of layer 0"):
        export_layers(
            {0: made("linear", "top2", bias=False), 2: made("linear", "hard", bias=False)}, tmp_path / "out"
        )
    with pytest.raises(InputError, match="has no router"):
        export_layers({}, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_the_command_takes_a_router_a_layer(made, tmp_path: Path, capsys) -> None:
    for layer in (0, 7):
        export(made("linear", bias=False), tmp_path / "routers" / f"layer-{layer}")
    arguments = ["export", str(tmp_path / "routers"), "--out", str(tmp_path / "out"), "--json"]
    assert train_router.main([*arguments, "--format", "gguf"]) == 0
    assert list(json.loads(capsys.readouterr().out)["layers"]) == ["layer 0", "layer 7"]
    assert train_router.main([*arguments[:-1], "--format", "gguf"]) == 0  # as text
    reader = gguf.GGUFReader(tmp_path / "out" / "router.gguf")
    assert {tensor.name.split(".")[1] for tensor in reader.tensors} == {"0", "7"}
    capsys.readouterr()
    assert train_router.main([*arguments, "--format", "onnx"]) == 2
    assert "use vllm, sglang, transformers or gguf" in capsys.readouterr().err


def test_the_command_takes_the_file_of_a_token_moe(tmp_path: Path, capsys) -> None:
    weights = {f"layers.{layer}.weight": torch.randn(3, 4) for layer in range(2)}
    rule = {"select": json.dumps(TopK(k=2).spec()), "experts": json.dumps(["a", "b", "c"])}
    save_file(weights, tmp_path / "routers.safetensors", metadata=rule)
    arguments = ["export", str(tmp_path / "routers.safetensors"), "--out", str(tmp_path / "out")]
    assert train_router.main([*arguments, "--format", "gguf"]) == 0
    gates = read_gates(tmp_path / "out")
    assert gates[1].weight.equal(weights["layers.1.weight"])
    assert (list(gates), gates[0].k) == ([0, 1], 2)
    save_file(weights, tmp_path / "routers.safetensors")
    capsys.readouterr()
    assert train_router.main([*arguments, "--format", "gguf"]) == 2
    assert "does not say how its routers select experts" in capsys.readouterr().err


def test_a_bias_is_refused_unless_the_model_reads_it(made, tmp_path: Path) -> None:
    """Written beside a Mixtral's weights it could not be loaded, and left out it would change the choice."""
    for router in (made("linear"), made("linear", "deepseek")):
        with pytest.raises(RouterError, match=r"layer 0 has a bias, .* gpt-oss .*: train it without"):
            export(router, tmp_path / "out", format="gguf")
    with pytest.raises(RouterError, match="layer 7 has a bias"):
        export_layers({3: made("linear", bias=False), 7: made("linear")}, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []
    router = made("linear")
    write_layers({0: router}, tmp_path, "gpt-oss")
    gate = read_gates(tmp_path)[0]
    assert gate.bias is not None
    torch.testing.assert_close(gate.bias, router.folded().scorer.bias.detach())
    features = torch.randn(7, 4)
    assert load(tmp_path)(features).experts.equal(router(features).experts)


@pytest.mark.parametrize("content", [b"", b"GGUF", b"no gguf at all" * 9])
def test_a_damaged_file_is_one_line(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "router.gguf").write_bytes(content)
    with pytest.raises(InputError, match=r"router='.*router.gguf': cannot be read as GGUF") as caught:
        read_gates(tmp_path)
    assert "\n" not in str(caught.value)
    with pytest.raises(InputError, match="is not a file"):
        read_gates(tmp_path / "nowhere")


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
