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
from router_rl.exports import export
from router_rl.exports.transformers import read_layer_routers
from router_rl.methods.token_moe.backprop import selection_biases
from router_rl.methods.token_moe.expert_mixtures import sparse_mix
from router_rl.methods.token_moe.handover import routers_of
from router_rl.methods.token_moe.own_gates import own_gates
from router_rl.methods.token_moe.token_gates import gate_of
from router_rl.routing import RouterError
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


_RAW = {"norm_topk_prob": False}


@pytest.mark.parametrize(
    ("form", "more", "method"),
    [
        ("mixtral", {}, "softmax_gate"),
        ("mixtral", {}, "reinforce"),
        ("deepseek_v3", {}, "softmax_gate"),
        ("glm4_moe", {}, "reinforce"),
        ("qwen2_moe", {}, "softmax_gate"),
        ("qwen3_moe", {}, "softmax_gate"),
        ("olmoe", {}, "softmax_gate"),
        ("olmoe", {}, "reinforce"),
        ("qwen2_moe", {**_RAW, "num_experts_per_tok": 1}, "softmax_gate"),
        ("deepseek_v3", {"biases": True}, "softmax_gate"),
        ("deepseek_v3", {"biases": True, **_RAW}, "reinforce"),
        ("glm4_moe", {"biases": True}, "reinforce"),
    ],
)
def test_trained_gates_do_in_transformers_what_they_did_here(
    texts: Path, tmp_path: Path, form: str, more: dict[str, Any], method: str
) -> None:
    model = write_mixture(tmp_path / "model", form, **more)
    files = {path.name: path.read_bytes() for path in model.iterdir()}
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
    assert {path.name: path.read_bytes() for path in model.iterdir()} == files


@pytest.mark.parametrize(
    ("form", "more"),
    [
        ("mixtral", {}),
        ("olmoe", {}),
        ("olmoe", {"norm_topk_prob": True}),
        ("qwen2_moe", {**_RAW, "num_experts_per_tok": 1}),
        ("deepseek_v3", {"biases": True}),
        ("deepseek_v3", {"biases": True, **_RAW}),
        ("glm4_moe", {"biases": True}),
    ],
)
def test_the_gradient_of_a_gate_is_that_of_transformers(
    texts: Path, tmp_path: Path, form: str, more: dict[str, Any]
) -> None:
    import transformers

    model = write_mixture(tmp_path / "model", form, **more)
    problem = TokenMoEProblem(model=str(model), texts=str(texts), **SIZES)
    part, tail, routers, gate = (
        problem.pool.parts["train"],
        problem.pool.tail,
        own_gates(problem),
        gate_of(problem),
    )
    rows, biases = torch.arange(len(part)), selection_biases(routers)
    hidden = part.states(rows)
    for layer in range(tail.depth):
        hidden, x = tail.attend(layer, hidden)
        hidden = hidden + sparse_mix(tail, layer, x, gate.mixes(routers.logits(layer, x), biases[layer]))
    tail.loss(hidden, part.targets(rows)).mean().backward()
    stock: Any = transformers.AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32).eval()
    stock.requires_grad_(False)
    names = [
        f"model.layers.{stock.config.num_hidden_layers - tail.depth + k}.mlp.gate" for k in range(tail.depth)
    ]
    weights = [stock.get_submodule(name).weight.requires_grad_(True) for name in names]
    tokens = torch.from_numpy(part.tokens)
    logits = stock(tokens[:, :-1]).logits.transpose(1, 2)
    torch.nn.functional.cross_entropy(logits, tokens[:, 1:]).backward()
    for scorer, weight in zip(routers.scorers, weights, strict=True):
        ours: Any = scorer
        assert float(weight.grad.abs().max()) > 1e-4
        torch.testing.assert_close(ours.weight.grad, weight.grad, atol=2e-5, rtol=2e-3)


def test_any_router_does_in_transformers_what_it_does_here(texts: Path, tmp_path: Path) -> None:
    """One expert per token, chosen with selection biases that differ from layer to layer."""
    model = write_mixture(tmp_path / "model", "glm4_moe", biases=True, num_experts_per_tok=1)
    problem = TokenMoEProblem(model=str(model), texts=str(texts), **SIZES)
    routers = own_gates(problem)
    with torch.no_grad():
        for parameter in routers.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    utility = float(problem.evaluate(routers, "test").utility.mean())
    routers.save(tmp_path)
    handover(routers=tmp_path / "routers.safetensors", model=model, out=tmp_path / "patch")
    before = _loss(model, problem)
    patch(patch=tmp_path / "patch", model=model)
    assert utility == pytest.approx(-_loss(model, problem), abs=1e-4)
    assert utility != pytest.approx(-before, abs=1e-3)
    unbiased = routers.copy(problem.selection)
    assert float(problem.evaluate(unbiased, "test").utility.mean()) != pytest.approx(utility, abs=1e-3)


def test_a_router_without_normalised_weights_is_refused_by_other_models(texts: Path, tmp_path: Path) -> None:
    model = write_mixture(tmp_path / "model", "qwen3_moe", **_RAW)
    problem = TokenMoEProblem(model=str(model), texts=str(texts), **SIZES)
    own_gates(problem).save(tmp_path)
    other = write_mixture(tmp_path / "other", "qwen3_moe")
    with pytest.raises(RouterError, match="renormalise the weights of a token's experts, but the router"):
        handover(routers=tmp_path / "routers.safetensors", model=other, out=tmp_path / "patch")
    (router, *_) = routers_of(own_gates(problem))
    with pytest.raises(RouterError, match="weights that sum to 1"):
        export(router, tmp_path / "gguf", format="gguf")


def test_routers_whose_layers_have_other_biases_are_stored(texts: Path, tmp_path: Path) -> None:
    model = write_mixture(tmp_path / "model", "glm4_moe", biases=True)
    problem = TokenMoEProblem(model=str(model), texts=str(texts), **SIZES)
    routers = own_gates(problem)
    assert routers.rules[0] != routers.rules[1]
    routers.save(tmp_path)
    read: Any = read_layer_routers(tmp_path / "routers.safetensors")
    assert tuple(router.rule for router in read) == routers.rules == problem.selections
    assert routers.copy().rules == routers.rules


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
