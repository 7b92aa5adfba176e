"""Patched models in llama.cpp itself, against the same models that call the trained routers."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import gguf
import pytest
import torch
from torch import Tensor

import train_router
from experts import InputError
from router_rl.exports import export, export_layers
from router_rl.exports import gguf as gguf_format
from router_rl.exports.llama_cpp import gguf_parity, gguf_patch, patch_gguf
from router_rl.exports.llama_cpp.gguf_model import GgufModel, copy_with_gates, read_gguf_model
from router_rl.exports.llama_cpp.gguf_parity import verify_gguf
from router_rl.exports.llama_cpp.llama_runtime import GateTap, LlamaCpp, llama_cpp_version
from router_rl.exports.transformers import Gate
from router_rl.routing import Hard, Router, RouterError, ScoredTopK, Selection, TopK

pytestmark = pytest.mark.usefixtures("llama_cpp")

BIASED = ScoredTopK(k=2, score="sigmoid", bias=(0.3, 0.0, -0.3, 0.0, 0.1, 0.0))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("architecture", "kind", "rule", "options"),
    [
        ("llama", "F32", TopK(k=2), {}),
        ("llama", "F32", Hard(), {}),
        ("llama", "Q8_0", TopK(k=3), {}),
        ("qwen3moe", "F16", TopK(k=2), {}),
        ("gpt-oss", "F32", TopK(k=2), {"bias": True}),
        ("glm4moe", "F32", BIASED, {}),
        ("glm4moe", "F32", Hard(), {"experts": 2}),
        ("glm4moe", "Q8_0", ScoredTopK(k=3, score="sigmoid"), {}),
    ],
)
def test_every_form_decides_as_the_router(
    mixtures: Callable[..., Path],
    routers: Callable[..., list[Router]],
    architecture: str,
    kind: str,
    rule: Selection,
    options: dict[str, bool | int],
) -> None:
    parity = verify_gguf(routers(architecture, rule, **options), mixtures(architecture, kind))
    assert parity.passed, parity
    assert (parity.prompts, parity.tokens, parity.tokens_equal) == (5, 240, 240)
    assert parity.decisions == parity.decisions_equal > 600
    assert parity.logits_max_error < (2e-5 if kind == "F32" else 5e-3)
    assert parity.tolerance == (1e-4 if kind == "F32" else 1e-2)
    assert (parity.name, parity.version) == ("llama.cpp", llama_cpp_version())


@pytest.mark.slow
def test_an_export_is_verified_in_a_model(
    mixtures: Callable[..., Path],
    routers: Callable[..., list[Router]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    trained = dict(enumerate(routers("gpt-oss", TopK(k=2), bias=True)))
    with pytest.raises(RouterError, match="only in gpt-oss models"):
        export_layers(trained, tmp_path / "out", verify=mixtures("llama"))
    export_layers(trained, tmp_path / "out", verify=mixtures("gpt-oss"))
    runtime = json.loads((tmp_path / "out" / "parity.json").read_text())["runtime"]
    assert (runtime["name"], runtime["model"], runtime["passed"]) == ("llama.cpp", "gpt-oss-F32.gguf", True)

    for layer, router in enumerate(routers("llama", TopK(k=2))):
        export(router, tmp_path / "routers" / f"layer-{layer}")
    arguments = ["export", str(tmp_path / "routers"), "--out", str(tmp_path / "command"), "--format", "gguf"]
    assert train_router.main([*arguments, "--json"]) == 0
    assert json.loads((tmp_path / "command" / "parity.json").read_text())["runtime"] == "contract only"
    capsys.readouterr()
    assert train_router.main([*arguments, "--verify", str(mixtures("llama")), "--json"]) == 0
    written = json.loads(capsys.readouterr().out)["runtime"]
    assert written["tokens_equal"] == written["tokens"] == 240

    monkeypatch.setattr(gguf_format, "is_installed", lambda: False)
    export_layers(trained, tmp_path / "out", verify=mixtures("gpt-oss"))
    runtime = json.loads((tmp_path / "out" / "parity.json").read_text())["runtime"]
    assert runtime == {"name": "contract only", "reason": "llama.cpp is not installed"}
    with pytest.raises(InputError, match=r"verify='.*': onnx cannot run a router in a model"):
        export(trained[0], tmp_path / "onnx", format="onnx", verify=mixtures("llama"))


def test_an_export_that_decides_otherwise_there_is_not_written(
    mixtures: Callable[..., Path],
    routers: Callable[..., list[Router]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    original = gguf_patch.copy_with_gates
    halved = {"blk.0.ffn_gate_inp.weight": 0.5}
    monkeypatch.setattr(
        gguf_patch,
        "copy_with_gates",
        lambda model, out, gates, k: original(
            model, out, {name: gate * halved.get(name, 1.0) for name, gate in gates.items()}, k
        ),
    )
    trained = dict(enumerate(routers("llama", TopK(k=2))))
    with pytest.raises(RouterError, match=r"the router decides differently in llama.cpp: .*'passed': False"):
        export_layers(trained, tmp_path / "out", verify=mixtures("llama"))
    assert list(tmp_path.iterdir()) == []


def test_a_wrong_gate_is_noticed(
    mixtures: Callable[..., Path], routers: Callable[..., list[Router]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two experts of one block are swapped in the file, or it has another number of experts per token."""
    original = gguf_patch.copy_with_gates

    def swapped(model: GgufModel, out: Path, gates: dict[str, Tensor], k: int) -> None:
        name = "blk.1.ffn_gate_inp.weight"
        original(model, out, {**gates, name: gates[name][[1, 0, 2, 3]]}, k)

    monkeypatch.setattr(gguf_patch, "copy_with_gates", swapped)
    parity = verify_gguf(routers("llama", TopK(k=2)), mixtures("llama"))
    assert not parity.passed
    assert parity.decisions_equal < parity.decisions
    assert parity.tokens_equal < parity.tokens
    monkeypatch.setattr(gguf_patch, "copy_with_gates", lambda *args: original(*args[:3], 2))
    with pytest.raises(AssertionError):
        verify_gguf(routers("llama", TopK(k=3)), mixtures("llama"))


@pytest.mark.slow
@pytest.mark.parametrize("rows", [1, 4097])
def test_any_number_of_tokens(
    mixtures: Callable[..., Path], routers: Callable[..., list[Router]], tmp_path: Path, rows: int
) -> None:
    trained = routers("llama", TopK(k=2))
    patch_gguf(trained, mixtures("llama"), tmp_path / "new.gguf")
    tap = GateTap(4, 2)
    with LlamaCpp(tmp_path / "new.gguf", context=8192, tap=tap) as model:
        logits = model.logits([token % model.tokens for token in range(rows)])
        with pytest.raises(InputError, match=r"llama\.cpp rejects this batch"):
            model.logits([])
    assert logits.shape == (rows, 64)
    assert logits.isfinite().all()
    for block, router in enumerate(trained):
        (ids,) = tap.ids[block]
        assert ids.shape == (rows, 2)
        assert ids.equal(router(tap.inputs[block][0]).experts)


def test_a_token_that_is_not_finite_stays_so(
    mixtures: Callable[..., Path], routers: Callable[..., list[Router]], tmp_path: Path
) -> None:
    """llama.cpp has no fallback: the batch becomes NaN, and its gates choose the first experts."""
    patch_gguf(routers("llama", TopK(k=2)), mixtures("llama"), tmp_path / "new.gguf")
    reader = gguf.GGUFReader(tmp_path / "new.gguf", "r+")
    next(tensor for tensor in reader.tensors if tensor.name == "token_embd.weight").data[7] = float("nan")
    reader.data.flush()
    tap = GateTap(4, 2)
    with LlamaCpp(tmp_path / "new.gguf", tap=tap) as model:
        before = model.logits([3, 4])
        assert model.logits([3, 4, 7]).isnan().all()
        assert model.logits([3, 4]).equal(before)
    assert before.isfinite().all()
    assert tap.ids[0][1].tolist() == [[0, 1]] * 3


def test_a_dead_expert_is_barred_by_its_selection_bias(
    mixtures: Callable[..., Path], routers: Callable[..., list[Router]], tmp_path: Path
) -> None:
    """llama.cpp has no mask, but a DeepSeek form's selection bias of minus infinity is one."""
    target = read_gguf_model(mixtures("glm4moe"))
    barred = torch.tensor([0.0, float("-inf"), 0.0, 0.0, 0.0, 0.0])
    gates = {block: target.gate(block) for block in target.layers}
    dead = {
        block: Gate(weight=gate.weight, selection_bias=barred, k=2, score="sigmoid")
        for block, gate in gates.items()
    }
    chosen: list[set[int]] = []
    for name, each in (("all", gates), ("dead", dead)):
        copy_with_gates(target, tmp_path / name, target.tensors(each), 2)
        tap = GateTap(6, 2)
        with LlamaCpp(tmp_path / name, tap=tap) as model:
            assert model.logits(list(range(64))).isfinite().all()
        chosen.append({int(expert) for ids in tap.ids.values() for expert in torch.cat(ids).flatten()})
    assert chosen == [{0, 1, 2, 3, 4, 5}, {0, 2, 3, 4, 5}]
    scorer = routers("glm4moe", BIASED)[0].scorer
    router = Router(scorer, BIASED, [f"e{n}" for n in range(6)], allowed=[*[True] * 5, False])
    with pytest.raises(RouterError, match="a router that excludes experts does not fold"):
        patch_gguf([router, router], mixtures("glm4moe"), tmp_path / "new.gguf")


def test_a_patched_model_runs_the_same_graph(
    mixtures: Callable[..., Path], routers: Callable[..., list[Router]], tmp_path: Path
) -> None:
    """So routers cost no time: node by node, only which experts are chosen differs."""

    class Names(GateTap):
        def wants(self, name: str) -> bool:
            nodes.append(name)
            return False

    graphs: list[list[str]] = []
    patch_gguf(routers("llama", TopK(k=2)), mixtures("llama"), tmp_path / "new.gguf")
    for path in (mixtures("llama"), tmp_path / "new.gguf"):
        nodes: list[str] = []
        with LlamaCpp(path, tap=Names(4, 2)) as model:
            model.logits([1, 2, 3])
        graphs.append(nodes)
    assert graphs[0] == graphs[1]
    assert len(graphs[0]) > 50


def test_qwen2_moe_does_not_renormalise(mixtures: Callable[..., Path]) -> None:
    """Its weights are a softmax over all experts, which is why no router is written into it."""
    tap = GateTap(4, 2)
    with LlamaCpp(mixtures("qwen2moe"), tap=tap) as model:
        model.logits([1, 2, 3])
    assert len(tap.ids[0][0]) == 3
    assert tap.weights == {}


def test_what_llama_cpp_cannot_load_is_one_line(mixtures: Callable[..., Path], tmp_path: Path) -> None:
    (tmp_path / "cut.gguf").write_bytes(mixtures("llama").read_bytes()[:-5000])
    with pytest.raises(
        InputError, match=r"cut.gguf': llama.cpp cannot load it \(.*; give another file"
    ) as caught:
        LlamaCpp(tmp_path / "cut.gguf")
    assert "\n" not in str(caught.value)


def test_a_weight_that_is_no_number_does_not_pass(
    mixtures: Callable[..., Path], routers: Callable[..., list[Router]], monkeypatch: pytest.MonkeyPatch
) -> None:
    original = gguf_parity._by_id
    monkeypatch.setattr(gguf_parity, "_by_id", lambda ids, weights: original(ids, weights * float("nan")))
    assert not verify_gguf(routers("llama", TopK(k=2)), mixtures("llama")).passed
