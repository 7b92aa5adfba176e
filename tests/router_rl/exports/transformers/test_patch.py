"""Routers written into folders, which stock transformers then runs as our own forward does."""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from experts import InputError
from router_rl.exports import safetensors as export_format
from router_rl.exports.transformers import apply_patch, extract_patch, write_patch, write_routers
from router_rl.routing import Hard, MLPScorer, Router, RouterError, ScoredTopK, TopK

Make = Callable[..., list[Router]]
PROMPT = torch.tensor([[5, 17, 3, 60, 22, 9]])


class OurMixture(nn.Module):
    """A layer's mixture by the definition: `sum_e g_e E_e(x)`, a token at a time."""

    def __init__(self, router: Router, networks: Sequence[nn.Module]) -> None:
        super().__init__()
        self.router, self.networks = router, list(networks)

    def forward(self, hidden: Tensor) -> Tensor:
        flat = hidden.reshape(-1, hidden.shape[-1])
        routing = self.router(flat)
        out = torch.zeros_like(flat)
        for token, (experts, weights) in enumerate(zip(routing.experts, routing.weights, strict=True)):
            for expert, weight in zip(experts.tolist(), weights, strict=True):
                out[token] += weight * self.networks[expert](flat[token : token + 1])[0]
        return out.reshape(hidden.shape)


def our_model(family: tuple[Path, list[Any]], routers: Sequence[Router]) -> Any:
    """The base with our mixture of the donors' networks in each layer: no mixture architecture's code."""
    _, (base, *donors) = family
    model = copy.deepcopy(base)
    for at, layer in enumerate(model.model.layers):
        layer.mlp = OurMixture(routers[at], [donor.model.layers[at].mlp for donor in donors])
    return model


@torch.inference_mode()
def our_tokens(model: Any, count: int) -> list[int]:
    """Greedy decoding without a cache, a whole forward for each token."""
    tokens = PROMPT
    for _ in range(count):
        best = model(tokens, use_cache=False).logits[0, -1].argmax()
        tokens = torch.cat([tokens, best.reshape(1, 1)], dim=1)
    return tokens[0].tolist()


def stock(folder: Path) -> Any:
    import transformers

    model, found = transformers.AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
    assert not any(found.values()), found
    return model.eval()


def generated(folder: Path, count: int) -> list[int]:
    model = stock(folder)
    with torch.inference_mode():
        found = model.generate(
            PROMPT,
            attention_mask=torch.ones_like(PROMPT),
            max_new_tokens=count,
            do_sample=False,
            eos_token_id=None,
        )
    return found[0].tolist()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("form", "rule"),
    [
        ("mixtral", Hard()),
        ("mixtral", TopK(k=2)),
        ("deepseek", Hard()),
        ("deepseek", ScoredTopK(k=2, score="sigmoid")),
        ("deepseek", ScoredTopK(k=1, score="sigmoid", bias=(0.0, 0.2, -0.1))),
    ],
)
def test_generate_gives_the_tokens_of_our_own_forward(
    form: str,
    rule: Any,
    family: tuple[Path, list[Any]],
    mixtures: dict[str, Path],
    linear_routers: Make,
    tmp_path: Path,
) -> None:
    routers = linear_routers(rule, scale=0.3)
    found = write_routers(routers, mixtures[form], tmp_path / "model")
    assert found.layers == (0, 1, 2)
    assert found.dtype == "float32"
    assert found.largest_rounding == 0.0
    ours = our_model(family, routers)
    with torch.inference_mode():
        expected = ours(PROMPT).logits
        torch.testing.assert_close(stock(tmp_path / "model")(PROMPT).logits, expected, atol=2e-5, rtol=0)
    assert generated(tmp_path / "model", 24) == our_tokens(ours, 24)
    # The routers matter: the assembly's random gates give other tokens.
    assert generated(mixtures[form], 24) != our_tokens(ours, 24)


def test_a_sigmoid_keeps_the_order_of_large_logits(
    family: tuple[Path, list[Any]], mixtures: dict[str, Path], linear_routers: Make, tmp_path: Path
) -> None:
    """Logits of hundreds, which a sigmoid cannot tell apart."""
    routers = linear_routers(Hard(), scale=50.0)
    write_routers(routers, mixtures["deepseek"], tmp_path / "model")
    with torch.inference_mode():
        expected = our_model(family, routers)(PROMPT).logits
        torch.testing.assert_close(stock(tmp_path / "model")(PROMPT).logits, expected, atol=2e-5, rtol=0)


def test_a_norm_of_the_routers_own_folds(
    family: tuple[Path, list[Any]], mixtures: dict[str, Path], tmp_path: Path
) -> None:
    """Routers trained on the hidden state of unit RMS, times a gain of their own instead of the layer's."""
    _, (base, *_) = family
    gains = [torch.rand(32) + 0.2 for _ in range(3)]
    weights = [torch.randn(3, 32) for _ in range(3)]
    write_routers([(w, None) for w in weights], mixtures["mixtral"], tmp_path / "model", norm_gains=gains)
    x = torch.randn(40, 32)
    unit = x * torch.rsqrt(x.square().mean(dim=-1, keepdim=True) + base.config.rms_norm_eps)
    model = stock(tmp_path / "model")
    for at, layer in enumerate(model.model.layers):
        with torch.inference_mode():
            found = layer.mlp.gate(layer.post_attention_layernorm(x))[0]
        torch.testing.assert_close(found, (unit * gains[at]) @ weights[at].T, atol=1e-4, rtol=1e-4)
    with pytest.raises(RouterError, match=r"norm gain of layer 0 is \[31\]"):
        write_patch(
            [(w, None) for w in weights], mixtures["mixtral"], tmp_path / "p", norm_gains=[gains[0][:31]] * 3
        )
    with pytest.raises(RouterError, match="2 norm gains for 3 routers"):
        write_patch([(w, None) for w in weights], mixtures["mixtral"], tmp_path / "p", norm_gains=gains[:2])


def test_a_norm_that_loses_what_the_router_needs_is_refused(
    mixtures: dict[str, Path], tmp_path: Path
) -> None:
    model = tmp_path / "model"
    shutil.copytree(mixtures["mixtral"], model)
    path = model / "model-00003-of-00005.safetensors"
    tensors = load_file(path)
    tensors["model.layers.1.post_attention_layernorm.weight"][4] = 0.0
    save_file(tensors, path, metadata={"format": "pt"})
    gain = torch.ones(32)
    routers = [(torch.randn(3, 32), None)] * 3
    with pytest.raises(RouterError, match="layer 1 has a gain of 0 for 1 inputs"):
        write_patch(routers, model, tmp_path / "patch", norm_gains=[gain] * 3)
    gain[4] = 0.0
    write_patch(routers, model, tmp_path / "patch", norm_gains=[gain] * 3)


def test_a_patch_is_small_applies_in_place_and_can_be_undone(
    mixtures: dict[str, Path], linear_routers: Make, tmp_path: Path
) -> None:
    model = tmp_path / "model"
    shutil.copytree(mixtures["mixtral"], model)
    before = {path.name: path.read_bytes() for path in model.iterdir()}
    undo = extract_patch(model, tmp_path / "undo")
    patch = write_patch(linear_routers(Hard()), model, tmp_path / "patch")
    assert {path.name: path.read_bytes() for path in model.iterdir()} == before
    assert (patch / "router_patch.safetensors").stat().st_size < 3 * 3 * 32 * 4 + 500
    assert json.loads((patch / "router_patch.json").read_text())["experts_per_token"] == 1
    apply_patch(patch, model)
    assert json.loads((model / "config.json").read_text())["num_experts_per_tok"] == 1
    changed = {path.name for path in model.iterdir() if before.get(path.name) != path.read_bytes()}
    assert changed == {"config.json", "router_patch.json", "model-00005-of-00005.safetensors"}
    once = {path.name: path.read_bytes() for path in model.iterdir()}
    apply_patch(patch, model)  # again: what a stopped run would do
    assert {path.name: path.read_bytes() for path in model.iterdir()} == once
    apply_patch(undo, model)
    after = {path.name: path.read_bytes() for path in model.iterdir() if path.name in before}
    assert json.loads(after.pop("config.json")) == json.loads(before.pop("config.json"))
    assert after == before


def test_gates_in_bfloat16_are_rounded_and_told(
    mixtures: dict[str, Path], linear_routers: Make, tmp_path: Path
) -> None:
    """A model that others saved: one file, gates among everything else, all in bfloat16."""
    model = stock(mixtures["mixtral"]).bfloat16()
    model.save_pretrained(tmp_path / "model")
    names_before = load_file(tmp_path / "model" / "model.safetensors")
    routers = linear_routers()
    found = write_routers(routers, tmp_path / "model")
    assert found.dtype == "bfloat16"
    assert 0 < found.largest_rounding < 0.02
    after = load_file(tmp_path / "model" / "model.safetensors")
    assert set(after) == set(names_before)
    for name, tensor in after.items():
        if "gate.weight" in name:
            layer = int(name.split(".")[2])
            assert tensor.equal(routers[layer].folded().scorer.weight.bfloat16())
        else:
            assert tensor.equal(names_before[name])


def test_a_patch_for_other_weights_is_refused(
    mixtures: dict[str, Path], linear_routers: Make, tmp_path: Path
) -> None:
    patch = write_patch(linear_routers(), mixtures["mixtral"], tmp_path / "patch")
    other = tmp_path / "other"
    shutil.copytree(mixtures["mixtral"], other)
    path = other / "model-00002-of-00005.safetensors"
    tensors = load_file(path)
    tensors["model.layers.0.self_attn.q_proj.weight"][0, 0] += 1e-3
    save_file(tensors, path, metadata={"format": "pt"})
    before = {path.name: path.read_bytes() for path in other.iterdir()}
    with pytest.raises(InputError, match=r"was made for the weights \w{12}, the model has \w{12}"):
        apply_patch(patch, other)
    with pytest.raises(InputError, match="was made for mixtral but the model is glm4_moe"):
        apply_patch(patch, mixtures["deepseek"])
    assert {path.name: path.read_bytes() for path in other.iterdir()} == before
    with pytest.raises(InputError, match=r"out=.*exists"):
        apply_patch(patch, mixtures["mixtral"], other)


def test_patches_that_cannot_be_used(mixtures: dict[str, Path], linear_routers: Make, tmp_path: Path) -> None:
    model = mixtures["mixtral"]
    patch = write_patch(linear_routers(), model, tmp_path / "patch")
    description = json.loads((patch / "router_patch.json").read_text())
    weights = patch / "router_patch.safetensors"
    content = weights.read_bytes()
    weights.write_bytes(content[:-1] + b"x")
    with pytest.raises(InputError, match="was changed after it was written"):
        apply_patch(patch, model, tmp_path / "out")
    weights.write_bytes(content)
    (patch / "router_patch.json").write_text(json.dumps({**description, "schema_version": 9}))
    with pytest.raises(InputError, match="schema version 9"):
        apply_patch(patch, model, tmp_path / "out")
    (patch / "router_patch.json").write_text("{")
    with pytest.raises(InputError, match="is damaged"):
        apply_patch(patch, model, tmp_path / "out")
    with pytest.raises(InputError, match="is not a patch"):
        apply_patch(tmp_path, model, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_stop_in_between_leaves_no_half_copy(
    mixtures: dict[str, Path], linear_routers: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from router_rl.exports.transformers import patch as module

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "replace_tensors", stop)
    with pytest.raises(KeyboardInterrupt):
        write_routers(linear_routers(), mixtures["mixtral"], tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_routers_that_do_not_fit(mixtures: dict[str, Path], linear_routers: Make, tmp_path: Path) -> None:
    def refused(message: str, routers: list[Any], form: str = "mixtral") -> None:
        with pytest.raises(RouterError, match=message):
            write_patch(routers, mixtures[form], tmp_path / "patch")
        assert not (tmp_path / "patch").exists()

    refused("2 routers but 3 layers", linear_routers()[:2])
    refused("has 4 experts but the model's layers have 3", linear_routers(experts=4))
    refused("takes 31 features but the hidden state has 32", [(torch.zeros(3, 31), None)] * 3)
    refused("a MLPScorer does not fold.*distil it", [Router(MLPScorer(32, 3), Hard(), ["a", "b", "c"])] * 3)
    refused("have no bias on their logits.*distil it", [(torch.randn(3, 32), torch.randn(3))] * 3)
    refused(
        "weights experts by softmax but Glm4MoeForCausalLM by sigmoid.*ScoredTopK",
        linear_routers(TopK(k=2)),
        "deepseek",
    )
    refused("weights experts by sigmoid but MixtralForCausalLM by softmax", linear_routers(ScoredTopK(k=2)))
    refused("no selection bias", linear_routers(ScoredTopK(k=1, bias=(0.0, 1.0, 0.0))))
    refused("2 of 3 groups", linear_routers(ScoredTopK(k=1, groups=3, kept=2)), "deepseek")
    mixed = [*linear_routers(Hard())[:2], linear_routers(TopK(k=2))[2]]
    refused("layers run 1, 2 experts per token", mixed)


def test_one_bias_for_all_changes_nothing(
    mixtures: dict[str, Path], linear_routers: Make, tmp_path: Path
) -> None:
    weight = torch.randn(3, 32)
    write_patch([(weight, torch.full((3,), 0.7))] * 3, mixtures["mixtral"], tmp_path / "patch")
    found = load_file(tmp_path / "patch" / "router_patch.safetensors")
    assert found["model.layers.0.block_sparse_moe.gate.weight"].equal(weight)
    routers = linear_routers(ScoredTopK(k=2, score="sigmoid"))
    with torch.no_grad():
        routers[1].scorer.bias.fill_(0.7)
    with pytest.raises(RouterError, match="no bias"):  # under a sigmoid it changes the weights
        write_patch(routers, mixtures["deepseek"], tmp_path / "patch")


def test_gates_that_do_not_renormalise_are_refused(
    mixtures: dict[str, Path], linear_routers: Make, tmp_path: Path
) -> None:
    model = tmp_path / "model"
    shutil.copytree(mixtures["deepseek"], model)
    fields = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps({**fields, "norm_topk_prob": False}))
    with pytest.raises(RouterError, match="norm_topk_prob is false"):
        write_patch(linear_routers(Hard()), model, tmp_path / "patch")


def test_the_biases_of_gpt_oss(tmp_path: Path) -> None:
    """An architecture whose gates do have a bias, and whose experts are single tensors on disk."""
    import transformers

    sizes = {"hidden_size": 32, "intermediate_size": 16, "head_dim": 8, "vocab_size": 64}
    counts = {
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "num_local_experts": 4,
    }
    config = transformers.GptOssConfig(**sizes, **counts, num_experts_per_tok=2, pad_token_id=0)
    transformers.AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / "model")
    routers = [(torch.randn(4, 32), torch.randn(4)) for _ in range(2)]
    write_routers(routers, tmp_path / "model")
    model = stock(tmp_path / "model")
    for layer, (weight, bias) in zip(model.model.layers, routers, strict=True):
        assert layer.mlp.router.weight.equal(weight)
        assert layer.mlp.router.bias.equal(bias)


def test_the_commands(
    mixtures: dict[str, Path], linear_routers: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import train_router

    def said(*arguments: str | Path) -> dict[str, Any]:
        assert train_router.main([*map(str, arguments), "--json"]) == 0, capsys.readouterr().err
        return json.loads(capsys.readouterr().out)

    model, patch = tmp_path / "model", tmp_path / "patch"
    shutil.copytree(mixtures["mixtral"], model)
    routers = linear_routers(Hard())
    for layer, router in enumerate(routers):
        export_format.write(router, tmp_path / "routers" / f"layer-{layer}")
    found = said("handover", "--routers", tmp_path / "routers", "--model", model, "--out", patch)
    assert found["layers"] == 3
    found = said("patch", patch, "--model", model, "--undo", tmp_path / "undo")
    assert found["experts_per_token"] == 1
    assert stock(model).model.layers[1].mlp.gate.weight.equal(routers[1].folded().scorer.weight)
    assert said("patch", tmp_path / "undo", "--model", model)["experts_per_token"] == 2

    save_file({f"layers.{n}.weight": torch.randn(3, 32) for n in range(3)}, tmp_path / "plain.safetensors")
    said("handover", "--routers", tmp_path / "plain.safetensors", "--model", model, "--out", patch)

    # A network does not fold; asked for, it is imitated and the price is printed.
    for layer in range(3):
        network = Router(MLPScorer(32, 3, (8,)), Hard(), ["a", "b", "c"])
        export_format.write(network, tmp_path / "networks" / f"layer-{layer}")
    arguments = ["handover", "--routers", tmp_path / "networks", "--model", model, "--out", patch]
    assert train_router.main(list(map(str, arguments))) == 2
    assert "does not fold" in capsys.readouterr().err
    states = {f"layers.{n}": torch.randn(400, 32) for n in range(3)}
    save_file(
        {**states, **{f"utility.{n}": torch.rand(400, 3) for n in range(3)}}, tmp_path / "seen.safetensors"
    )
    found = said(*arguments, "--distil", tmp_path / "seen.safetensors")
    assert set(found["agreement"]) == {"layer 0", "layer 1", "layer 2"}
    assert found["utility_lost"] == pytest.approx(found["utility_before"] - found["utility_after"])
    for wrong, message in (
        (["--routers", tmp_path / "nowhere"], "is not a file"),
        (["--routers", tmp_path / "model"], "has no layer-0"),
        (["--routers", tmp_path / "seen.safetensors"], "has no layers.N.weight"),
        (["--distil", tmp_path / "plain.safetensors"], "has 0 layers.N for 3 routers"),
    ):
        assert train_router.main(list(map(str, [*arguments, *wrong]))) == 2
        assert message in capsys.readouterr().err
