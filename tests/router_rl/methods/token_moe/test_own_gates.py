"""The gates of an existing mixture, trained in place: from the folder to the patched folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from mixture_folders import SIZES, write_mixture, write_texts

from experts import InputError
from router_rl import TokenMoEProblem, compare
from router_rl.cli.handover_command import handover
from router_rl.cli.patch_command import patch
from router_rl.methods.token_moe.own_gates import own_gates
from router_rl.studies.runs import train_run


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_texts(tmp_path_factory.mktemp("mixture") / "texts")


def _loss(folder: Path, problem: TokenMoEProblem) -> float:
    """The mean loss of the test text in transformers."""
    import transformers

    model: Any = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    tokens = torch.from_numpy(problem.pool.parts["test"].tokens)
    with torch.inference_mode():
        logits = model(tokens[:, :-1]).logits
    return float(torch.nn.functional.cross_entropy(logits.transpose(1, 2), tokens[:, 1:]))


@pytest.mark.parametrize(
    ("form", "method"),
    [
        ("mixtral", "softmax_gate"),
        ("mixtral", "reinforce"),
        ("deepseek_v3", "softmax_gate"),
        ("glm4_moe", "reinforce"),
        ("qwen2_moe", "softmax_gate"),
        ("qwen3_moe", "softmax_gate"),
    ],
)
def test_trained_gates_do_in_transformers_what_they_did_here(
    texts: Path, tmp_path: Path, form: str, method: str
) -> None:
    model = write_mixture(tmp_path / "model", form)
    problem = TokenMoEProblem(model=str(model), texts=str(texts), epochs=4, **SIZES)
    run = train_run(problem, method, tmp_path / "run", hyperparameters={"learning_rate": 0.03})
    before = _loss(model, problem)
    trained = tmp_path / "run" / "router" / "routers.safetensors"
    handover(routers=trained, model=model, out=tmp_path / "patch")
    patch(patch=tmp_path / "patch", model=model, undo=tmp_path / "undo")
    assert run.facts["test"]["utility"] == pytest.approx(-_loss(model, problem), abs=1e-4)
    assert run.facts["test"]["utility"] != pytest.approx(-before, abs=1e-6)
    patch(patch=tmp_path / "undo", model=model)
    assert _loss(model, problem) == pytest.approx(before)


def test_a_comparison_has_the_gates_that_the_model_came_with(texts: Path, tmp_path: Path) -> None:
    model = write_mixture(tmp_path / "model", "mixtral")
    problem = TokenMoEProblem(model=str(model), texts=str(texts), epochs=1, **SIZES)
    results = compare(problem, ["softmax_gate"], seeds=1, n_trials=1).results
    rows = {row["method"]: row for row in results["summary"]}
    assert set(rows) == {"softmax_gate", "own_gates", "random", "uniform"}
    stock = -float(problem.pool.parts["test"].dense_loss.mean())
    assert rows["own_gates"]["utility_mean"] == pytest.approx(stock, abs=1e-4)
    assert rows["own_gates"]["experts_run_mean"] == 2.0
    assert problem.case.label == "two experts per token"


def test_training_starts_from_them(texts: Path, tmp_path: Path) -> None:
    model = write_mixture(tmp_path / "model", "qwen3_moe")
    problem = TokenMoEProblem(model=str(model), texts=str(texts), **SIZES)
    gates = problem.pool.gates
    assert gates is not None
    for (weight, bias), own in zip(own_gates(problem).pairs(), gates.weights, strict=True):
        np.testing.assert_allclose(weight.numpy(), own.numpy(), atol=1e-6)
        assert bias is not None
        assert not bias.any()


def test_methods_for_experts_with_a_common_ancestor_are_refused(texts: Path, tmp_path: Path) -> None:
    model = write_mixture(tmp_path / "model", "mixtral")
    problem = TokenMoEProblem(model=str(model), texts=str(texts), **SIZES)
    with pytest.raises(InputError, match=r"joint.*needs experts with a common ancestor"):
        train_run(problem, "joint", tmp_path / "run")
    with pytest.raises(InputError, match=r"methods=.*dense.*needs experts with a common ancestor"):
        compare(problem, ["dense"], seeds=1)
    with pytest.raises(InputError, match=r"own_gates.*needs problem\.model"):
        train_run(TokenMoEProblem(length=8, train=6, validation=4, test=6), "own_gates", tmp_path / "tiny")


@pytest.mark.parametrize(
    ("given", "match"),
    [
        ({"base": "base"}, r"problem\.base=.*model's own"),
        ({"experts_per_token": 2}, r"problem\.experts_per_token=.*model's own"),
        ({"score": "sigmoid"}, r"problem\.score=.*model's own"),
        ({"texts": None}, r"problem\.texts.*is missing"),
        ({"model": "nowhere"}, r"problem\.model=.*is not a folder"),
    ],
)
def test_mistakes_are_named(texts: Path, given: dict[str, Any], match: str) -> None:
    options: dict[str, Any] = {"model": "model", "texts": str(texts), **SIZES, **given}
    with pytest.raises(InputError, match=match):
        TokenMoEProblem(**options)
