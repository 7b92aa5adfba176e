"""Assembled mixtures, loaded by stock transformers, against the dense models they are made of."""

from __future__ import annotations

import json
import shutil
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from experts import InputError
from experts.moe import Checkpoint, assemble
from experts.moe.model_files import CheckpointWriter

TOKENS = torch.randint(1, 64, (2, 9), generator=torch.Generator().manual_seed(1))


def load(folder: Path) -> Any:
    """The model, which must take every tensor of the folder and miss none."""
    import transformers

    model, found = transformers.AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
    assert not any(found.values()), found
    return model.eval()


@torch.inference_mode()
def logits(model: Any) -> Tensor:
    return model(TOKENS).logits


@pytest.mark.parametrize("form", ["mixtral", "deepseek"])
@pytest.mark.parametrize(
    ("kind", "fields", "layers", "architecture"),
    [
        ("llama", {}, "all", "mixtral"),
        ("llama", {"tie_word_embeddings": True}, [1, 2], "qwen2_moe"),
        ("mistral", {"sliding_window": None}, "all", "mixtral"),
        ("qwen2", {}, "all", "qwen2_moe"),
        ("qwen3", {}, [2], "qwen3_moe"),
    ],
)
def test_equal_donors_are_the_dense_model(
    form: Any, kind: str, fields: dict[str, Any], layers: Any, architecture: str, dense: Any, tmp_path: Path
) -> None:
    model = dense(tmp_path / "base", kind, **fields)
    found = assemble(tmp_path / "base", [tmp_path / "base"] * 3, tmp_path / "moe", form=form, layers=layers)
    assert found.model_type == (architecture if form == "mixtral" else "glm4_moe")
    assert found.experts == ("base", "base-2", "base-3")
    mixture, expected = load(tmp_path / "moe"), logits(model)
    assert json.loads((tmp_path / "moe" / "config.json").read_text())["architectures"] == [
        type(mixture).__name__
    ]
    scale = float(expected.abs().max())
    torch.testing.assert_close(logits(mixture) / scale, expected / scale, atol=1e-6, rtol=0)


def test_a_window_is_kept_or_refused(dense: Any, tmp_path: Path) -> None:
    base = tmp_path / "base"
    model = dense(base, "mistral", sliding_window=4)
    assemble(base, [base, base], tmp_path / "moe", layers="all")
    torch.testing.assert_close(logits(load(tmp_path / "moe")), logits(model), atol=1e-5, rtol=0)
    for options in ({"form": "deepseek", "layers": "all"}, {"layers": [1]}):
        with pytest.raises(InputError, match=r"sliding_window 4.*has full attention only"):
            assemble(base, [base, base], tmp_path / "other", **options)


@pytest.mark.parametrize("form", ["mixtral", "deepseek"])
def test_one_expert_a_token_is_that_donor(form: Any, family: tuple[Path, list[Any]], tmp_path: Path) -> None:
    """Also in segments, since the shared quarter of the neurons is the one in which the donors agree."""
    folder, (_, *donors) = family
    experts = [folder / name for name in ("code", "german", "prose")]
    assemble(folder / "base", experts, tmp_path / "moe", form=form, experts_per_token=1, segments=4, shared=1)
    mixture = load(tmp_path / "moe")
    own = 3 if form == "deepseek" else 1
    for layer in mixture.model.layers:
        layer.mlp.gate.register_forward_pre_hook(lambda _, inputs: (torch.ones_like(inputs[0]),))
    for expert, donor in enumerate(donors):
        for layer in mixture.model.layers:
            with torch.no_grad():
                layer.mlp.gate.weight.zero_()
                layer.mlp.gate.weight[expert * own : (expert + 1) * own, 0] = 1.0
        torch.testing.assert_close(logits(mixture), logits(donor), atol=1e-5, rtol=0)


@pytest.mark.parametrize("form", ["mixtral", "deepseek"])
def test_all_experts_with_equal_weight_are_the_mean_of_the_donors(
    form: Any, family: tuple[Path, list[Any]], tmp_path: Path
) -> None:
    folder, (_, *donors) = family
    experts = [folder / name for name in ("code", "german", "prose")]
    assemble(folder / "base", experts, tmp_path / "moe", form=form, experts_per_token=3, segments=8, shared=2)
    x = torch.randn(1, 5, 32)
    for layer, found in enumerate(load(tmp_path / "moe").model.layers):
        expected = sum(donor.model.layers[layer].mlp(x) for donor in donors) / 3
        with torch.no_grad():
            found.mlp.gate.weight.zero_()
            torch.testing.assert_close(found.mlp(x), expected, atol=1e-5, rtol=0)


def test_the_trunk_is_the_bases_or_the_average(
    family: tuple[Path, list[Any]], dense: Any, tmp_path: Path
) -> None:
    folder, (base, *_) = family
    moved = [dense(tmp_path / name, near=base, only_ffn=False) for name in ("left", "right")]
    experts = [tmp_path / "left", tmp_path / "right"]
    found = assemble(folder / "base", experts, tmp_path / "base-trunk")
    assert 0.1 < found.trunk_distance["left"] < 0.9
    mixture = load(tmp_path / "base-trunk")
    assert mixture.lm_head.weight.equal(base.lm_head.weight)
    assert mixture.model.layers[1].self_attn.q_proj.weight.equal(base.model.layers[1].self_attn.q_proj.weight)
    assemble(folder / "base", experts, tmp_path / "average", trunk="average")
    mixture = load(tmp_path / "average")
    for name in ("lm_head.weight", "model.layers.1.self_attn.q_proj.weight", "model.norm.weight"):
        middle = sum(model.get_parameter(name) for model in moved) / 2
        torch.testing.assert_close(mixture.get_parameter(name), middle, atol=1e-6, rtol=0)


def test_layers_in_which_donors_agree_stay_dense(dense: Any, tmp_path: Path) -> None:
    """Donors may hold only what was trained: here the last two layers' networks."""
    base = dense(tmp_path / "base", num_hidden_layers=4)
    experts = []
    for name in ("left", "right"):
        donor = dense(tmp_path / name, near=base, num_hidden_layers=4)
        tensors = load_file(tmp_path / name / "model.safetensors")
        held = {
            key: value
            for key, value in tensors.items()
            if key.startswith(("model.layers.2.mlp", "model.layers.3.mlp"))
        }
        assert len(held) == 6
        save_file(held, tmp_path / name / "model.safetensors")
        experts.append(donor)
    for form, architecture in (("mixtral", "qwen2_moe"), ("deepseek", "glm4_moe")):
        found = assemble(
            tmp_path / "base", [tmp_path / "left", tmp_path / "right"], tmp_path / form, form=form
        )
        assert found.moe_layers == (2, 3)
        assert found.dropped_layers == ()
        assert found.model_type == architecture
        assert found.trunk_distance == {"left": 0.0, "right": 0.0}
        mixture = load(tmp_path / form)
        assert mixture.model.layers[1].mlp.up_proj.weight.equal(base.model.layers[1].mlp.up_proj.weight)
        if form == "mixtral":
            down = mixture.model.layers[3].mlp.experts.down_proj[1]
            assert down.equal(experts[1].model.layers[3].mlp.down_proj.weight)


def test_one_layer_is_in_memory(dense: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bytes read and still alive, at their highest, against those of one layer of all donors."""
    base = dense(tmp_path / "base", num_hidden_layers=12, vocab_size=16)
    experts = []
    for name in ("a", "b", "c"):
        dense(tmp_path / name, near=base, num_hidden_layers=12, vocab_size=16)
        experts.append(tmp_path / name)
    alive: dict[int, int] = {}
    highest, read, count = 0, 0, 0
    original = Checkpoint.tensor

    def counted(self: Checkpoint, name: str) -> Tensor:
        nonlocal highest, read, count
        tensor = original(self, name)
        size, count = tensor.numel() * 4, count + 1
        alive[count] = size
        weakref.finalize(tensor, alive.pop, count)
        read += size
        highest = max(highest, sum(alive.values()))
        return tensor

    files: list[int] = []
    write = CheckpointWriter.write

    def noted(self: CheckpointWriter, tensors: dict[str, Tensor]) -> None:
        files.append(sum(tensor.numel() * 4 for tensor in tensors.values()))
        write(self, tensors)

    monkeypatch.setattr(Checkpoint, "tensor", counted)
    monkeypatch.setattr(CheckpointWriter, "write", noted)
    ffn = 4 * 3 * 32 * 64
    layer = 4 * sum(p.numel() for p in base.model.layers[0].parameters()) - ffn
    for form in ("mixtral", "deepseek"):
        highest, read = 0, 0
        assemble(tmp_path / "base", experts, tmp_path / form, form=form)
        assert read > 12 * 3 * ffn
        # The last tensor of a layer may live while the next layer's first is read.
        assert highest <= layer + 3 * ffn + max(layer, ffn), (form, highest)
        assert max(files) <= layer + 3 * ffn


def test_the_folder_is_whole(family: tuple[Path, list[Any]], tmp_path: Path) -> None:
    folder, _ = family
    base = tmp_path / "base"
    shutil.copytree(folder / "base", base)
    (base / "tokenizer.json").write_text('{"model": {"vocab": {"a": 0}}}')
    (base / "tokenizer_config.json").write_text("{}")
    out = tmp_path / "deep" / "moe"
    found = assemble(base, [folder / "code", folder / "prose"], out, seed=3)
    names = {path.name for path in out.iterdir()}
    assert {"config.json", "tokenizer.json", "tokenizer_config.json", "generation_config.json"} <= names
    assert json.loads((out / "assembly.json").read_text()) == json.loads(json.dumps(found.to_json()))
    assert [path.name for path in out.parent.iterdir()] == ["moe"]
    gates = load_file(out / "model-00005-of-00005.safetensors")
    assert set(gates) == {f"model.layers.{layer}.block_sparse_moe.gate.weight" for layer in range(3)}
    # The same seed gives the same gates, another one others; a folder with other files is not replaced.
    assemble(base, [folder / "code", folder / "prose"], out, seed=3)
    again = load_file(out / "model-00005-of-00005.safetensors")
    assert all(gates[name].equal(again[name]) for name in gates)
    (out / "notes.txt").touch()
    with pytest.raises(InputError, match=r"did not write \(notes.txt\)"):
        assemble(base, [folder / "code", folder / "prose"], out)


def test_a_failure_leaves_the_earlier_assembly(
    family: tuple[Path, list[Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, _ = family
    experts = [folder / "code", folder / "prose"]
    assemble(folder / "base", experts, tmp_path / "moe")
    before = {path.name: path.read_bytes() for path in (tmp_path / "moe").iterdir()}

    def fail(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(CheckpointWriter, "finish", fail)
    with pytest.raises(KeyboardInterrupt):
        assemble(folder / "base", experts, tmp_path / "moe", form="deepseek")
    assert {path.name: path.read_bytes() for path in (tmp_path / "moe").iterdir()} == before
    assert [path.name for path in tmp_path.iterdir()] == ["moe"]


def test_donors_that_do_not_fit(family: tuple[Path, list[Any]], dense: Any, tmp_path: Path) -> None:
    folder, _ = family
    good = folder / "code"

    def refused(donor: Path, message: str) -> None:
        with pytest.raises(InputError, match=message):
            assemble(folder / "base", [good, donor], tmp_path / "out")
        assert not (tmp_path / "out").exists()

    dense(tmp_path / "wide", hidden_size=64, intermediate_size=128)
    refused(
        tmp_path / "wide", r"experts='.*wide': differs from the base in hidden_size \(64, the base has 32\)"
    )
    dense(tmp_path / "other-form", "mistral")
    refused(tmp_path / "other-form", r"model_type \(mistral, the base has llama\)")
    dense(tmp_path / "stranger")
    refused(tmp_path / "stranger", r"has no common ancestor with the base \(cosine -?0\.0\d")
    shutil.copytree(good, tmp_path / "extra")
    tensors = load_file(good / "model.safetensors")
    save_file(
        {**tensors, "model.layers.0.mlp.extra": torch.zeros(2)}, tmp_path / "extra" / "model.safetensors"
    )
    refused(tmp_path / "extra", r"tensor model\.layers\.0\.mlp\.extra \(\[2\], the base has None\)")
    refused(tmp_path / "nowhere", "is not a folder")
    # Tokenizers are compared where both have one.
    for name, vocabulary in (("base", {"a": 0}), ("spoken", {"b": 0})):
        source = folder / "base" if name == "base" else good
        shutil.copytree(source, tmp_path / "told" / name)
        (tmp_path / "told" / name / "tokenizer.json").write_text(json.dumps({"model": {"vocab": vocabulary}}))
    with pytest.raises(InputError, match=r"tokenizer\.json \(model\)"):
        assemble(tmp_path / "told" / "base", [good, tmp_path / "told" / "spoken"], tmp_path / "out")


def test_options_that_do_not_fit(family: tuple[Path, list[Any]], dense: Any, tmp_path: Path) -> None:
    folder, _ = family
    experts = [folder / "code", folder / "prose"]

    def refused(
        message: str, experts: list[Path] = experts, base: Path = folder / "base", **options: Any
    ) -> None:
        with pytest.raises(InputError, match=message):
            assemble(base, experts, tmp_path / "out", **options)

    refused("did you mean 'mixtral'", form="mixtrall")
    refused("did you mean 'average'", trunk="averages")
    refused("needs two or more", experts=experts[:1])
    refused("experts_per_token=3: there are 2 experts", experts_per_token=3)
    refused("segments=5: does not divide 64 neurons", form="deepseek", segments=5)
    refused("segments=16: gives 4 neurons", form="deepseek", segments=16)
    refused("shared=4", form="deepseek", segments=4, shared=4)
    refused("there are 3 layers", layers=[3])
    refused("use 0 to 2", form="deepseek", layers=[0])
    refused("layers='some'", layers="some")
    refused("FFNs are all equal", experts=[experts[0], experts[0]])
    assemble(folder / "base", experts, tmp_path / "moe")
    refused("has the architecture mixtral", base=tmp_path / "moe")
    dense(tmp_path / "biased", mlp_bias=True)
    refused("mlp_bias", base=tmp_path / "biased", experts=[tmp_path / "biased"] * 2, layers="all")


def test_the_command(
    family: tuple[Path, list[Any]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import train_router

    folder, _ = family
    experts = ",".join(str(folder / name) for name in ("code", "german", "prose"))
    arguments = [
        "assemble",
        "--base",
        str(folder / "base"),
        "--experts",
        experts,
        "--out",
        str(tmp_path / "moe"),
    ]
    assert train_router.main([*arguments, "--form", "deepseek", "--layers", "1,2", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["architecture"] == "glm4_moe"
    assert found["experts_per_layer"] == 9
    assert found["experts_per_token"] == 6
    assert found["mixture_layers"] == "2 of 3"
    assert "also differ in layers 0" in found["notes"][1]
    assert train_router.main(arguments) == 0
    assert max(map(len, capsys.readouterr().out.splitlines()[:-1])) <= 80
    assert train_router.main([*arguments, "--layers", "first"]) == 2
    assert "whole numbers" in capsys.readouterr().err
