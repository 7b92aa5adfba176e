"""Routes of a forward pass: recorded, replayed, saved, and refused where they do not fit."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from experts import InputError
from router_rl.exports.transformers import Routes, record_routes, replay_routes
from router_rl.routing import RouterError

SIZES = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "num_experts_per_tok": 2,
    "pad_token_id": 0,
    "max_position_embeddings": 256,
}
FORMS: dict[str, dict[str, Any]] = {
    "mixtral": {"num_local_experts": 16},
    "qwen3_moe": {"num_experts": 16, "moe_intermediate_size": 64, "norm_topk_prob": True, "head_dim": 16},
    "glm4_moe": {"n_routed_experts": 16, "moe_intermediate_size": 64, "first_k_dense_replace": 0}
    | {"routed_scaling_factor": 2.0, "n_group": 1, "topk_group": 1, "n_shared_experts": 1},
}


def model_of(form: str, **fields: Any) -> Any:
    import transformers

    torch.manual_seed(0)
    config = transformers.CONFIG_MAPPING[form](**{**SIZES, **FORMS[form], **fields})
    model = transformers.AutoModelForCausalLM.from_config(config).eval()
    for name, parameter in model.named_parameters():
        if name.endswith(("gate.weight", "experts.down_proj")):
            nn.init.normal_(parameter, std=0.5)  # experts that differ
    return model


def tokens_of(sequences: int, length: int) -> Tensor:
    return torch.randint(1, 64, (sequences, length), generator=torch.Generator().manual_seed(1))


def log_probabilities(model: Any, tokens: Tensor) -> Tensor:
    """Of each token but the first: [B, L - 1]."""
    logits = model(tokens[:, :-1], use_cache=False).logits.float().log_softmax(dim=-1)
    return logits.gather(-1, tokens[:, 1:, None]).squeeze(-1)


@pytest.mark.parametrize("form", FORMS)
@torch.no_grad()
def test_replay_of_own_routes_changes_nothing(form: str) -> None:
    model, tokens = model_of(form), tokens_of(3, 9)
    with record_routes(model) as recorder:
        free = model(tokens).logits
    routes = recorder.routes
    assert routes.experts.shape == (3, 3, 9, 2)
    with replay_routes(model, routes):
        torch.testing.assert_close(model(tokens).logits, free)
    assert model(tokens).logits.equal(free)  # no hook is left


@pytest.mark.parametrize("form", FORMS)
@torch.no_grad()
def test_replay_runs_the_recorded_experts_with_the_models_own_weights(form: str) -> None:
    model, tokens = model_of(form), tokens_of(2, 5)
    other = torch.randint(0, 16, (3, 2, 5, 2), generator=torch.Generator().manual_seed(2))
    seen: list[tuple[Tensor, ...]] = []
    gate = model.model.layers[1].mlp.gate
    with replay_routes(model, Routes(other)):
        hook = gate.register_forward_hook(lambda _gate, _inputs, outputs: seen.append(outputs))
        model(tokens)
        hook.remove()
    logits, weights, experts = seen[0]
    assert experts.equal(other[1].reshape(-1, 2))
    for row in range(10):  # the slow twin: one token at a time
        score = torch.sigmoid if form == "glm4_moe" else (lambda values: values.exp())
        chosen = [float(score(logits[row, int(expert)].double())) for expert in experts[row]]
        scale = 2.0 if form == "glm4_moe" else 1.0
        expected = torch.tensor([scale * value / sum(chosen) for value in chosen])
        torch.testing.assert_close(weights[row], expected, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_generated_routes_are_replayed_in_one_pass_and_token_by_token() -> None:
    model, prompt = model_of("mixtral"), tokens_of(2, 4)
    greedy: Any = {"max_new_tokens": 6, "do_sample": False, "pad_token_id": 0, "eos_token_id": None}
    with record_routes(model) as recorder:
        tokens = model.generate(prompt, **greedy)
    routes = recorder.routes
    assert routes.experts.shape == (3, 2, 9, 2)  # the last token is never run
    with replay_routes(model, routes), record_routes(model) as again:
        model(tokens[:, :-1])
    with replay_routes(model, routes):
        repeated = model.generate(
            prompt, max_new_tokens=6, do_sample=False, pad_token_id=0, eos_token_id=None
        )
    assert repeated.equal(tokens)
    with record_routes(model) as free:
        model(tokens[:, :-1])
    assert free.routes.experts.sort(dim=-1).values.equal(routes.experts.sort(dim=-1).values)
    assert again.routes.experts.equal(routes.experts)


@torch.no_grad()
def test_two_precisions_agree_with_replay_where_free_routing_flips_experts() -> None:
    engine = model_of("mixtral").bfloat16()
    trainer, tokens = copy.deepcopy(engine).float(), tokens_of(8, 64)
    with record_routes(engine) as recorder:
        rollout = log_probabilities(engine, tokens)
    with record_routes(trainer) as own:
        free = (log_probabilities(trainer, tokens) - rollout).abs()
    with replay_routes(trainer, recorder.routes):
        replayed = (log_probabilities(trainer, tokens) - rollout).abs()
    ours, theirs = own.routes.experts.sort(dim=-1).values, recorder.routes.experts.sort(dim=-1).values
    flipped = (ours != theirs).any(dim=-1).any(dim=0)
    assert 10 < int(flipped.sum()) < flipped.numel() // 2
    assert float(replayed.max()) < 0.5 * float(free.max())
    assert float(replayed[flipped].mean()) < 0.5 * float(free[flipped].mean())


def test_gradients_reach_the_gate_through_the_weights() -> None:
    model, tokens = model_of("qwen3_moe"), tokens_of(2, 6)
    other = torch.stack([torch.arange(0, 24).reshape(2, 6, 2) % 16] * 3)
    with replay_routes(model, Routes(other)):
        log_probabilities(model, torch.cat([tokens, tokens[:, :1]], dim=1)).sum().backward()
    for layer in model.model.layers:
        assert float(layer.mlp.gate.weight.grad.abs().max()) > 0.0


def test_routes_of_vllm_and_of_a_file(tmp_path: Any) -> None:
    recorded = np.arange(5 * 3 * 2, dtype=np.int32).reshape(5, 3, 2)
    routes = Routes.of_vllm(recorded)
    assert routes.experts.shape == (3, 1, 5, 2)
    assert routes.experts[1, 0, 4].tolist() == recorded[4, 1].tolist()
    routes.save(tmp_path / "routes.safetensors")
    assert Routes.load(tmp_path / "routes.safetensors").experts.equal(routes.experts)
    with pytest.raises(RouterError, match=r"vLLM records \[tokens, layers, k\] integers, not \[3, 2\]"):
        Routes.of_vllm(recorded[0])
    (tmp_path / "text").write_text("no routes")
    with pytest.raises(InputError, match="does not hold routes"):
        Routes.load(tmp_path / "text")


@pytest.mark.parametrize(
    ("shape", "highest", "message"),
    [
        ((2, 2, 5, 2), 16, "the routes have 2 layers, but 3 layers have gates"),
        ((3, 2, 5, 2), 99, "but the model has experts 0 to 15"),
        ((3, 1, 5, 2), 16, "of 1 sequences of 5 tokens; the model runs 2 sequences"),
        ((3, 2, 4, 2), 16, "of 2 sequences of 4 tokens; the model runs 2 sequences, tokens 0 to 4"),
    ],
)
def test_routes_that_do_not_fit_are_refused(shape: tuple[int, ...], highest: int, message: str) -> None:
    model = model_of("mixtral")
    routes = Routes(torch.arange(int(np.prod(shape))).reshape(shape) % highest)
    before = {name: len(module._forward_hooks) for name, module in model.named_modules()}
    with pytest.raises(RouterError, match=message), replay_routes(model, routes):
        model(tokens_of(2, 5))
    assert {name: len(module._forward_hooks) for name, module in model.named_modules()} == before


def test_weights_that_are_not_a_stock_gates_are_refused() -> None:
    model = model_of("mixtral")
    gate = model.model.layers[0].mlp.gate
    gate.register_forward_hook(lambda _gate, _inputs, outputs: (outputs[0], outputs[1] * 0.5, outputs[2]))
    with record_routes(model) as recorder:
        model(tokens_of(2, 5))
    with (
        pytest.raises(RouterError, match="are not the normalised scores"),
        replay_routes(model, recorder.routes),
    ):
        model(tokens_of(2, 5))


def test_nothing_recorded_and_gradient_checkpointing_are_errors() -> None:
    model = model_of("mixtral")
    with record_routes(model) as recorder, pytest.raises(RouterError, match="no routes were recorded"):
        _ = recorder.routes
    with record_routes(model) as recorder:
        model(tokens_of(2, 5))
        model(tokens_of(3, 5))
    with pytest.raises(RouterError, match="different numbers of sequences"):
        _ = recorder.routes
    with record_routes(model), pytest.raises(RouterError, match="switch gradient checkpointing off"):
        model.model.layers[0].mlp.gate(torch.zeros(5, 32))
