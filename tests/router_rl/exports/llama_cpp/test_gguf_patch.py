"""A copy of a GGUF model differs from it in its gates alone, and what does not fit is refused."""

from __future__ import annotations

import os
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch

import train_router
from experts import InputError
from router_rl.exports import export, export_layers
from router_rl.exports.llama_cpp import patch_gguf
from router_rl.exports.llama_cpp.gguf_model import read_gguf_model
from router_rl.routing import Hard, Router, RouterError, ScoredTopK, TopK

SIGMOID = ScoredTopK(k=2, score="sigmoid")


def contents(path: Path) -> dict[str, bytes]:
    return {tensor.name: tensor.data.tobytes() for tensor in gguf.GGUFReader(path).tensors}


@pytest.mark.parametrize("kind", ["F32", "F16", "Q8_0"])
@pytest.mark.parametrize(("architecture", "rule"), [("llama", TopK(k=3)), ("glm4moe", SIGMOID)])
def test_only_the_gates_change(
    mixtures: Callable[..., Path],
    routers: Callable[..., list[Router]],
    tmp_path: Path,
    architecture: str,
    rule: TopK | ScoredTopK,
    kind: str,
) -> None:
    model, out = mixtures(architecture, kind), tmp_path / "new.gguf"
    before = model.read_bytes()
    trained = routers(architecture, rule)
    done = patch_gguf(trained, model, out)
    assert model.read_bytes() == before
    assert out.stat().st_size == len(before)
    old, new = contents(model), contents(out)
    changed = {name for name in old if old[name] != new[name]}
    gates = {f"blk.{block}.ffn_gate_inp.weight" for block in done.layers}
    biases = (
        {f"blk.{block}.exp_probs_b.bias" for block in done.layers} if architecture == "glm4moe" else set()
    )
    assert changed == gates | biases
    for block, router in zip(done.layers, trained, strict=True):
        weight = router.scorer.get_parameter("weight").detach().numpy()
        assert new[f"blk.{block}.ffn_gate_inp.weight"] == weight.tobytes()
        assert not biases or not any(new[f"blk.{block}.exp_probs_b.bias"])
    values = [
        {name: field.contents() for name, field in gguf.GGUFReader(path).fields.items()}
        for path in (model, out)
    ]
    key = f"{architecture}.expert_used_count"
    assert {name for name in values[0] if values[0][name] != values[1][name]} == (
        {key} if rule.k != 2 else set()
    )
    assert values[1][key] == rule.k == done.experts_per_token
    read = read_gguf_model(out)
    assert torch.equal(read.gate(done.layers[0]).weight, trained[0].scorer.get_parameter("weight").detach())


def test_a_donors_router_runs_all_its_segments(
    mixtures: Callable[..., Path], routers: Callable[..., list[Router]], tmp_path: Path
) -> None:
    """Six experts are the segments of two donors, whose weights the file scales by three."""
    done = patch_gguf(routers("glm4moe", Hard(), experts=2), mixtures("glm4moe"), tmp_path / "new.gguf")
    gate = read_gguf_model(tmp_path / "new.gguf").gate(1)
    assert (done.experts_per_token, gate.k) == (3, 3)
    assert torch.equal(gate.weight[0::3], gate.weight[2::3])
    assert not torch.equal(gate.weight[0], gate.weight[3])


def test_the_file_is_never_in_memory(
    mixtures: Callable[..., Path], routers: Callable[..., list[Router]], tmp_path: Path
) -> None:
    """A file of 64 MB more, with a hole at its end, is copied with less than 2 MB of memory."""
    large = tmp_path / "large.gguf"
    large.write_bytes(mixtures("llama").read_bytes())
    os.truncate(large, large.stat().st_size + (64 << 20))
    patch_gguf(routers("llama", Hard()), large, tmp_path / "first.gguf")  # imports what it needs
    tracemalloc.start()
    try:
        patch_gguf(routers("llama", Hard()), large, tmp_path / "new.gguf")
        highest = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert (tmp_path / "new.gguf").stat().st_size > 64 << 20
    assert highest < 2 << 20


def test_a_router_with_a_bias_fits_gpt_oss_alone(
    mixtures: Callable[..., Path], routers: Callable[..., list[Router]], tmp_path: Path
) -> None:
    with pytest.raises(RouterError, match="the gates of llama have no bias on their logits"):
        patch_gguf(routers("llama", TopK(k=2), bias=True), mixtures("llama"), tmp_path / "new.gguf")
    assert list(tmp_path.iterdir()) == []
    trained = routers("gpt-oss", TopK(k=2), bias=True)
    patch_gguf(trained, mixtures("gpt-oss"), tmp_path / "new.gguf")
    bias = read_gguf_model(tmp_path / "new.gguf").gate(1).bias
    assert bias is not None
    assert torch.equal(bias, trained[1].scorer.get_parameter("bias").detach())


@pytest.mark.parametrize(
    ("architecture", "rule", "error", "message"),
    [
        ("llama", SIGMOID, RouterError, "weights experts by sigmoid but llama by softmax"),
        ("glm4moe", TopK(k=2), RouterError, "weights experts by softmax but glm4moe by sigmoid"),
        ("llama", ScoredTopK(k=2, score="softmax", bias=(0.1, 0, 0, 0)), RouterError, "no selection bias"),
        ("qwen2moe", TopK(k=2), InputError, "llama.cpp does not renormalise its weights, but a router does"),
    ],
)
def test_what_llama_cpp_would_compute_differently_is_refused(
    mixtures: Callable[..., Path],
    routers: Callable[..., list[Router]],
    tmp_path: Path,
    architecture: str,
    rule: TopK | ScoredTopK,
    error: type[Exception],
    message: str,
) -> None:
    with pytest.raises(error, match=message):
        patch_gguf(routers(architecture, rule), mixtures(architecture), tmp_path / "new.gguf")
    assert list(tmp_path.iterdir()) == []


def test_other_sizes_and_other_files_are_refused(
    mixtures: Callable[..., Path], routers: Callable[..., list[Router]], tmp_path: Path
) -> None:
    model, trained = mixtures("llama"), routers("llama", TopK(k=2))
    out = tmp_path / "new.gguf"
    with pytest.raises(RouterError, match=r"2 blocks of llama-F32.gguf have gates, but there are 1 routers"):
        patch_gguf(trained[:1], model, out)
    with pytest.raises(RouterError, match=r"the router has 6 experts but the model's layers have 4"):
        patch_gguf(routers("llama", TopK(k=2), experts=6), model, out)
    for content in (b"", b"GGUF", model.read_bytes()[:4000], os.urandom(4096)):
        (tmp_path / "damaged.gguf").write_bytes(content)
        with pytest.raises(InputError, match=r"damaged.gguf': cannot be read as GGUF") as caught:
            patch_gguf(trained, tmp_path / "damaged.gguf", out)
        assert "\n" not in str(caught.value)
    (tmp_path / "damaged.gguf").unlink()
    writer = gguf.GGUFWriter(tmp_path / "bert.gguf", "bert")
    writer.add_tensor("a", np.zeros(4, dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(InputError, match=r"has the architecture 'bert'; give one of deepseek2, .*llama"):
        patch_gguf(trained, tmp_path / "bert.gguf", out)
    patch_gguf(trained, model, out)
    written = out.stat()
    assert "nothing was changed" in patch_gguf(trained, model, out).warnings[0]
    assert out.stat().st_mtime_ns == written.st_mtime_ns
    for place in (out.stat().st_size - 1, 3000):  # the last byte; one of the first tensor's
        content = bytearray(out.read_bytes())
        content[place] ^= 1
        out.write_bytes(content)
        with pytest.raises(InputError, match=r"new.gguf': exists"):
            patch_gguf(trained, model, out)
        content[place] ^= 1
        out.write_bytes(content)
    with pytest.raises(InputError, match=r"new.gguf': exists"):
        patch_gguf(routers("llama", Hard()), model, out)
    out.write_text("mine")
    with pytest.raises(InputError, match=r"out='.*new.gguf': exists; choose another file"):
        patch_gguf(trained, model, out)
    assert out.read_text() == "mine"
    assert {path.name for path in tmp_path.iterdir()} == {"bert.gguf", "new.gguf"}


def test_a_killed_copy_leaves_nothing(
    mixtures: Callable[..., Path],
    routers: Callable[..., list[Router]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(gguf, "quantize", stop)
    with pytest.raises(KeyboardInterrupt):
        patch_gguf(routers("llama", TopK(k=2)), mixtures("llama"), tmp_path / "new.gguf")
    assert list(tmp_path.iterdir()) == []


def test_the_command_takes_every_form_of_routers(
    mixtures: Callable[..., Path],
    routers: Callable[..., list[Router]],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    trained = routers("llama", TopK(k=2))
    for layer, router in enumerate(trained):
        export(router, tmp_path / "layers" / f"layer-{layer}")
    export_layers(dict(enumerate(trained)), tmp_path / "gguf")
    model = str(mixtures("llama"))
    for name in ("layers", "gguf"):
        arguments = [
            "patch",
            "--gguf",
            model,
            "--router",
            str(tmp_path / name),
            "--out",
            str(tmp_path / f"{name}.x"),
        ]
        assert train_router.main(arguments) == 0
        assert max(map(len, capsys.readouterr().out.splitlines()[1:])) <= 80
    assert (tmp_path / "layers.x").read_bytes() == (tmp_path / "gguf.x").read_bytes()

    def refused(*words: str) -> str:
        assert train_router.main(["patch", *words]) == 2
        return capsys.readouterr().err

    assert "router=None: is missing" in refused("--gguf", model, "--out", "x")
    assert "out=None: is missing" in refused("--gguf", model, "--router", str(tmp_path / "gguf"))
    assert "undo='u': is not used with --gguf" in refused("--gguf", model, "--undo", "u")
    assert "give the model as --gguf" in refused("--router", str(tmp_path / "gguf"))
    assert "model=None: is missing" in refused()
    single = ["--gguf", model, "--router", str(tmp_path / "layers" / "layer-0"), "--out", str(tmp_path / "y")]
    assert "2 blocks of llama-F32.gguf have gates" in refused(*single)


@pytest.mark.parametrize(("gating", "score"), [(None, "softmax"), (1, "softmax"), (2, "sigmoid")])
def test_a_deepseek_file_without_a_score_has_softmax(tmp_path: Path, gating: int | None, score: str) -> None:
    """As in llama.cpp's `src/models/deepseek2.cpp`: files of DeepSeek-V2 do not have the key."""
    writer = gguf.GGUFWriter(tmp_path / "model.gguf", "deepseek2")
    writer.add_block_count(1)
    writer.add_expert_used_count(1)
    writer.add_expert_weights_norm(True)
    if gating is not None:
        writer.add_expert_gating_func(gguf.ExpertGatingFuncType(gating))
    writer.add_tensor("blk.0.ffn_gate_inp.weight", np.ones((2, 32), dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    assert read_gguf_model(tmp_path / "model.gguf").host.layout.score == score
