"""Exports as the plugins of vLLM and SGLang read and call them; tests/runtimes runs both."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from router_rl.exports import export
from router_rl.exports.served_layers import VARIABLE, ServedRouters, layers_with_experts, served_routers
from router_rl.exports.vllm_plugin import register

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def folder(made, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with exports for layers 1 and 3."""
    folder = tmp_path_factory.mktemp("served")
    for layer, kind in ((1, "mlp"), (3, "linear")):
        export(made(kind, "top2"), folder / f"layer-{layer}", format="vllm")
    return folder


def test_a_layer_routes_by_the_export_of_its_number(made, folder: Path) -> None:
    routers = ServedRouters(folder)
    hidden = torch.randn(9, 4)
    for layer, kind in ((1, "mlp"), (3, "linear")):
        folder_of = routers.folder_of(layer, [1, 3])
        served = routers.layer(folder_of, segments=1, scale=1.0, device=CPU)
        weights, ids = served(hidden, torch.zeros(9, 6), 2, True)
        with torch.no_grad():
            expected = made(kind, "top2")(hidden)
        assert ids.long().equal(expected.experts)
        torch.testing.assert_close(weights, expected.weights, atol=1e-5, rtol=1e-5)


def test_a_single_export_routes_every_layer(folder: Path) -> None:
    routers = ServedRouters(folder / "layer-1")
    assert [routers.folder_of(number, [0, 7]) for number in (0, 7)] == [folder / "layer-1"] * 2


def test_exports_are_named_by_the_layer_or_in_order(made, folder: Path, tmp_path: Path) -> None:
    for layer in (0, 1):
        export(made("mlp", "top2"), tmp_path / f"layer-{layer}", format="vllm")
    assert ServedRouters(tmp_path).folder_of(3, [1, 3]) == tmp_path / "layer-1"
    assert ServedRouters(tmp_path).folder_of(1, [0, 1]) == tmp_path / "layer-1"
    assert ServedRouters(folder).folder_of(3, [1, 3]) == folder / "layer-3"
    for layers in ([1], [0, 1], [1, 2, 3]):
        with pytest.raises(
            ValueError, match=r"N = 1, 3, but the model's layers with experts are .*; give one for"
        ):
            ServedRouters(folder).folder_of(1, layers)


def test_layers_with_experts() -> None:
    """As the models of transformers place them."""
    for fields, layers in (
        ({}, [0, 1, 2, 3, 4, 5]),
        ({"mlp_only_layers": [0, 5], "decoder_sparse_step": 1}, [1, 2, 3, 4]),
        ({"decoder_sparse_step": 2}, [1, 3, 5]),
        ({"first_k_dense_replace": 3, "moe_layer_freq": 1}, [3, 4, 5]),
        ({"first_k_dense_replace": 1, "moe_layer_freq": 2}, [2, 4]),
        ({"moe_layer_freq": [0, 1, 1, 0, 1, 1]}, [1, 2, 4, 5]),
    ):
        assert layers_with_experts(SimpleNamespace(num_hidden_layers=6, **fields)) == layers


@pytest.mark.parametrize("scale", [1.0, 3.0])
def test_an_expert_that_was_cut_runs_all_its_segments(folder: Path, scale: float) -> None:
    """The weights sum to the model's scale, which the router or the runtime multiplies them by."""
    routers = ServedRouters(folder)
    assert routers.segments(folder / "layer-1", 18, 3.0) == 3
    served = routers.layer(folder / "layer-1", segments=3, scale=scale, device=CPU)
    hidden = torch.randn(5, 4)
    weights, ids = served(hidden, torch.zeros(5, 18), 6, True)
    own_weights, own_ids, _ = served.router.choose(hidden)
    assert ids.dtype == torch.int32
    assert ids.tolist() == [
        [3 * expert + part for expert in row for part in range(3)] for row in own_ids.tolist()
    ]
    torch.testing.assert_close(weights, own_weights.repeat_interleave(3, dim=-1) * scale / 3.0)


@pytest.mark.parametrize("segments", [1, 2])
def test_slots_that_no_row_uses_run_no_expert(made, tmp_path: Path, segments: int) -> None:
    """And what is left is contiguous: vLLM's kernel on a CPU does not look at strides."""
    router = made("mlp", "adaptive")
    export(router, tmp_path / "out", format="vllm")
    routers = ServedRouters(tmp_path / "out")
    served = routers.layer(tmp_path / "out", segments=segments, scale=1.0, device=CPU, trims=True)
    hidden = torch.randn(300, 4)
    with torch.no_grad():
        used = (router(hidden).experts < 6).sum(dim=1)
    sizes = set()
    for most in (1, 2, 3):
        rows = hidden[used <= most]
        weights, ids = served(rows, torch.zeros(len(rows), 6 * segments), 3, True)
        assert weights.is_contiguous()
        assert ids.is_contiguous()
        sizes.add(ids.shape[1])
        assert weights.shape == ids.shape == (len(rows), segments * int(used[used <= most].max()))
        torch.testing.assert_close(weights.sum(dim=1), torch.ones(len(rows)))
    assert len(sizes) > 1
    assert served(hidden[:0], torch.zeros(0, 6 * segments), 3, True)[1].shape == (0, 3 * segments)


def test_dead_experts_and_fallbacks_are_shown(folder: Path) -> None:
    served = ServedRouters(folder).layer(folder / "layer-1", segments=1, scale=1.0, device=CPU)
    hidden = torch.randn(50, 4)
    hidden[0, 0] = float("nan")
    served.set_alive([True, True, True, False, True, True])
    _, ids = served(hidden, torch.zeros(50, 6), 2, True)
    assert 3 not in ids[1:].flatten().tolist()
    assert served.status() == {
        "experts": list(served.router.names),
        "alive": [True, True, True, False, True, True],
        "fallbacks": 1,
    }
    with pytest.raises(ValueError, match="alive has 2 values, but the router has 6 experts"):
        served.set_alive([True, False])


def test_a_model_of_bfloat16_gets_a_router_of_float32(made, tmp_path: Path) -> None:
    """vLLM builds a model with its type as torch's default, which would round the biases of a rule."""
    export(made("linear", "deepseek"), tmp_path / "out", format="vllm")
    usual = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    try:
        served = ServedRouters(tmp_path / "out").layer(tmp_path / "out", segments=1, scale=1.0, device=CPU)
        assert torch.get_default_dtype() == torch.bfloat16
    finally:
        torch.set_default_dtype(usual)
    assert {value.dtype for value in (served.router.bias, served.router.only)} == {torch.float32}


def test_what_does_not_fit_is_named(made, folder: Path, tmp_path: Path) -> None:
    routers = ServedRouters(folder)
    for experts, scale in ((8, 1.0), (12, 1.0), (12, 3.0)):
        with pytest.raises(ValueError, match=f"routes to 6 experts, but the model's layer has {experts}"):
            routers.segments(folder / "layer-1", experts, scale)
    served = routers.layer(folder / "layer-1", segments=1, scale=1.0, device=CPU)
    with pytest.raises(ValueError, match="the router is for 6 experts, the layer has 12"):
        served(torch.zeros(1, 4), torch.zeros(1, 12), 2, True)
    with pytest.raises(ValueError, match=r"has neither router.json nor layer-0"):
        ServedRouters(tmp_path)
    export(made("mlp", "top2", state=True), tmp_path / "state")
    with pytest.raises(ValueError, match="is not a router of hidden states; export it with --format vllm"):
        ServedRouters(tmp_path / "state").layer(tmp_path / "state", segments=1, scale=1.0, device=CPU)


def test_the_digest_changes_with_a_router(made, folder: Path, tmp_path: Path) -> None:
    export(made("mlp", "top2"), tmp_path / "layer-1", format="vllm")
    export(made("linear", "top2"), tmp_path / "layer-3", format="vllm")
    assert ServedRouters(tmp_path).digest() == ServedRouters(folder).digest()
    export(made("linear", "hard"), tmp_path / "layer-3", format="vllm")
    assert ServedRouters(tmp_path).digest() != ServedRouters(folder).digest()


def test_without_the_variable_nothing_happens(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    assert served_routers() is None
    register()
    assert "vllm" not in sys.modules
    monkeypatch.setenv(VARIABLE, str(folder))
    assert sorted(served_routers().layers) == [1, 3]  # type: ignore[union-attr]


@pytest.mark.slow
def test_the_plugin_needs_torch_alone() -> None:
    """A serving environment has no Gymnasium; `pip install --no-deps router-rl` is enough there."""
    code = (
        "import sys, router_rl.exports.vllm_plugin; "
        "names = {'experts', 'envs', 'gymnasium', 'stable_baselines3', 'pyarrow', 'scipy', 'safetensors'}; "
        "print(sorted(names & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120
    )
    assert done.stdout.strip() == "[]"
