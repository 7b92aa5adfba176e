"""`export --verify MODEL`: in transformers here; vLLM and SGLang are in tests/runtimes."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

import train_router
from experts import InputError
from experts.moe import assemble
from router_rl.exports import export, export_layers, find_format, verify_layers
from router_rl.exports.transformers.swapped_run import run_swapped
from router_rl.exports.verify_layers import PYTHON, run_program, verify_in_transformers, verify_in_vllm
from router_rl.routing import LinearScorer, MLPScorer, Router, RouterError, TopK

NAMES = ["code", "german", "prose"]


@pytest.fixture(scope="module")
def mixture(family: tuple[Path, list[Any]]) -> Path:
    """Return the folder of a mixture of three experts in three layers."""
    folder, _ = family
    assemble(folder / "base", [folder / name for name in NAMES], folder / "verified", experts_per_token=2)
    return folder / "verified"


def made(kind: str = "mlp", seed: int = 0) -> list[Router]:
    torch.manual_seed(seed)
    scorers = [MLPScorer(32, 3, (8,)) if kind == "mlp" else LinearScorer(32, 3) for _ in range(3)]
    for scorer in scorers:
        torch.nn.init.normal_(scorer.get_parameter("weight" if kind == "linear" else "layers.0.weight"))
    return [Router(scorer, TopK(k=2), NAMES).eval() for scorer in scorers]


@pytest.mark.parametrize("kind", ["linear", "mlp"])
def test_in_transformers(kind: str, mixture: Path, tmp_path: Path) -> None:
    parities = export_layers(dict(enumerate(made(kind))), tmp_path / "out", "transformers", verify=mixture)
    assert all(parity.passed for parity in parities.values())
    assert sorted(path.name for path in (tmp_path / "out").glob("layer-*")) == [
        "layer-0",
        "layer-1",
        "layer-2",
    ]
    runtime = json.loads((tmp_path / "out" / "parity.json").read_text())["runtime"]
    assert runtime["name"] == "transformers"
    assert runtime["model"] == "verified"
    assert (runtime["tokens"], runtime["tokens_equal"]) == (240, 240)
    assert (runtime["decisions"], runtime["decisions_equal"]) == (960, 960)  # 5 x 64 tokens, 3 layers
    assert runtime["logits_max_error"] < 1e-5


def test_routers_that_decide_otherwise_are_refused(mixture: Path) -> None:
    others = iter(made(seed=1))

    def write(router: Router, folder: Path) -> None:
        find_format("transformers").write(next(others), folder)

    with pytest.raises(RouterError, match="the routers decide differently in transformers"):
        verify_in_transformers(write, mixture, made())


@pytest.mark.slow
def test_a_weight_of_sglang_that_is_no_number_is_refused(
    mixture: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reference = run_swapped(mixture, made())
    answers = [
        {"ids": ids[:64].tolist(), "weights": weights[:64].tolist()}
        for ids, weights in zip(reference.experts, reference.weights, strict=True)
    ]
    monkeypatch.setenv(PYTHON, "python")
    monkeypatch.setattr(verify_layers, "run_program", lambda *_: {"version": "1", "answers": answers})
    write = find_format("sglang").write
    assert verify_layers.verify_in_sglang(write, mixture, made())["passed"]
    answers[1]["weights"][0][0] = float("nan")
    with pytest.raises(RouterError, match="the routers decide differently in SGLang"):
        verify_layers.verify_in_sglang(write, mixture, made())


def test_without_the_runtime_it_is_the_contract_only(
    mixture: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv(PYTHON, raising=False)
    for layer, router in enumerate(made()):
        export(router, tmp_path / "routers" / f"layer-{layer}")
    for format in ("vllm", "sglang"):
        arguments = ["export", str(tmp_path / "routers"), "--out", str(tmp_path / format), "--json"]
        assert train_router.main([*arguments, "--format", format, "--verify", str(mixture)]) == 0
        runtime = json.loads(capsys.readouterr().out)["runtime"]
        assert runtime["name"] == "contract only"
        assert "is not installed here" in runtime["reason"]
        export(made()[0], tmp_path / f"one-{format}", format=format)
        assert (
            json.loads((tmp_path / f"one-{format}" / "parity.json").read_text())["runtime"] == "contract only"
        )


def test_what_cannot_be_verified(mixture: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="is not the folder of a model"):
        export(made()[0], tmp_path / "out", format="vllm", verify=tmp_path)
    with pytest.raises(RouterError, match="there are 1 routers but 3 layers have gates"):
        export(made()[0], tmp_path / "out", format="transformers", verify=mixture)
    monkeypatch.setenv(PYTHON, str(tmp_path / "absent"))
    with pytest.raises(InputError, match="cannot run"):
        verify_in_vllm(find_format("vllm").write, mixture, made())
    assert list(tmp_path.iterdir()) == []


def test_a_program_that_fails_is_one_line(tmp_path: Path) -> None:
    import sys

    run = partial(run_program, sys.executable, request={}, folder=tmp_path)
    with pytest.raises(RouterError, match=r"router_rl.exports.absent failed in .*No module named"):
        run("router_rl.exports.absent")
