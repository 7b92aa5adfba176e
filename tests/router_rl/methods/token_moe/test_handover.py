"""From a pool and its trained routers to a folder: stock transformers does what the tail does."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from experts.moe.token_pool import TokenPool
from router_rl.cli.handover_command import handover
from router_rl.exports.transformers import apply_patch
from router_rl.methods.token_moe.handover import foldable, gate_inputs, hand_over
from router_rl.methods.token_moe.token_reinforce import TokenReinforceHyperparameters, train_reinforce
from router_rl.methods.token_moe.token_ridge import RidgeHyperparameters, fit_ridge
from router_rl.methods.token_moe.token_training import Training
from router_rl.problems.token_moe.layer_routers import LayerRouters
from router_rl.problems.token_moe.token_measurement import measure
from router_rl.routing import AdaptiveK, Hard, RouterError, ScoredTopK, Selection, TopK


def ridge(pool: TokenPool, rule: Selection) -> LayerRouters:
    return fit_ridge(pool.tail, pool.parts["train"], RidgeHyperparameters(sweeps=1, penalty=1e-2), rule)


@torch.inference_mode()
def our_tokens(pool: TokenPool, routers: LayerRouters, prompt: torch.Tensor, count: int) -> list[int]:
    """Greedy decoding by the trunk, the tail and the routers; a whole forward for each token."""
    tokens = prompt
    for _ in range(count):
        hidden = pool.tail(pool.base.trunk(tokens), routers.choose)
        best = torch.nn.functional.linear(pool.tail.norm(hidden[:, -1]), pool.tail.head).argmax(dim=-1)
        tokens = torch.cat([tokens, best.unsqueeze(1)], dim=1)
    return tokens[0].tolist()


@pytest.mark.parametrize("rule", [Hard(), TopK(k=2)])
def test_trained_routers_run_in_stock_transformers(
    rule: Selection, micro_pool: TokenPool, tmp_path: Path
) -> None:
    import transformers

    start, distillation = foldable(micro_pool, ridge(micro_pool, rule))
    assert distillation.before is not None
    assert distillation.lost == pytest.approx(distillation.after - distillation.before)
    routers = start
    if rule.k == 1:  # what a learner makes of them still folds
        training = Training(learning_rate=1e-2, epochs=4, batch=3, checks=2)
        routers = train_reinforce(micro_pool, start, training, TokenReinforceHyperparameters()).routers
        assert not routers.scorers[0].weight.equal(start.scorers[0].weight)
    found = hand_over(micro_pool, routers, tmp_path / "mixture")
    assert found.layers == (1, 2)  # the first of three layers is dense
    assert found.experts_per_token == rule.k
    assert json.loads((tmp_path / "mixture" / "assembly.json").read_text())["experts"] == list(
        micro_pool.domains
    )
    assert [path.name for path in tmp_path.iterdir()] == ["mixture"]
    model: Any = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "mixture").eval()

    test = micro_pool.parts["test"]
    tokens = torch.from_numpy(test.tokens)
    with torch.inference_mode():
        logits = model(tokens[:, :-1]).logits
    loss = torch.nn.functional.cross_entropy(logits.transpose(1, 2), tokens[:, 1:], reduction="none")
    ours = torch.from_numpy(measure(micro_pool.tail, test, routers.choose).loss)
    torch.testing.assert_close(loss, ours, atol=1e-4, rtol=0)

    for prompt in tokens[::3, :4]:
        given = prompt.unsqueeze(0)
        with torch.inference_mode():
            written = model.generate(
                given,
                attention_mask=torch.ones_like(given),
                max_new_tokens=16,
                do_sample=False,
                eos_token_id=None,
            )
        assert written[0].tolist() == our_tokens(micro_pool, routers, given, 16)


@pytest.mark.parametrize("rule", [Hard(), ScoredTopK(k=2, score="sigmoid")])
def test_the_deepseek_form_runs_every_segment_of_the_chosen_experts(
    rule: Selection, micro_pool: TokenPool, wide_pool: TokenPool, tmp_path: Path
) -> None:
    """Experts with equal shared neurons: the loss is the tail's, as with whole experts."""
    import transformers

    routers, _ = foldable(micro_pool, ridge(micro_pool, rule))
    applied = hand_over(wide_pool, routers, tmp_path / "mixture", form="deepseek", segments=4, shared=1)
    assert (applied.experts_per_token, applied.warnings) == (3 * rule.k, ())
    assert applied.architecture == "Glm4MoeForCausalLM"
    model: Any = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "mixture").eval()
    test = micro_pool.parts["test"]
    tokens = torch.from_numpy(test.tokens)
    with torch.inference_mode():
        logits = model(tokens[:, :-1]).logits
    loss = torch.nn.functional.cross_entropy(logits.transpose(1, 2), tokens[:, 1:], reduction="none")
    ours = torch.from_numpy(measure(micro_pool.tail, test, routers.choose).loss)
    torch.testing.assert_close(loss, ours, atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    ("form", "rule", "message"),
    [
        ("deepseek", TopK(k=2), r"by softmax, the deepseek form by sigmoid: train them with ScoredTopK"),
        ("mixtral", ScoredTopK(k=2), r"by sigmoid, the mixtral form by softmax: train them with TopK"),
    ],
)
def test_a_rule_that_the_form_cannot_hold_leaves_nothing_behind(
    form: Any, rule: Selection, message: str, micro_pool: TokenPool, tmp_path: Path
) -> None:
    routers, _ = foldable(micro_pool, ridge(micro_pool, rule))
    with pytest.raises(RouterError, match=message):
        hand_over(micro_pool, routers, tmp_path / "mixture", form=form)
    assert list(tmp_path.iterdir()) == []


def test_a_mixture_whose_every_expert_runs_is_warned_about(micro_pool: TokenPool, tmp_path: Path) -> None:
    routers, _ = foldable(micro_pool, ridge(micro_pool, TopK(k=3)))
    applied = hand_over(micro_pool, routers, tmp_path / "mixture")
    (warning,) = applied.warnings
    assert warning.startswith("every token runs all 3 routed experts of each layer")
    assert applied.architecture == "Qwen2MoeForCausalLM"  # the first layer is dense


@pytest.mark.parametrize(
    ("form", "rule"), [("mixtral", TopK(k=2)), ("mixtral", Hard()), ("deepseek", ScoredTopK(k=2))]
)
def test_a_runs_file_is_handed_over_with_the_rule_it_was_trained_with(
    form: Any, rule: Selection, micro_pool: TokenPool, wide_pool: TokenPool, tmp_path: Path
) -> None:
    """The mixture runs another number of experts per token; the patch sets the trained one."""
    routers, _ = foldable(micro_pool, ridge(micro_pool, rule))
    routers.save(tmp_path / "run")
    other: Selection = ScoredTopK(k=1) if form == "deepseek" else TopK(k=3 - rule.k)
    elsewhere, _ = foldable(micro_pool, ridge(micro_pool, other))
    hand_over(wide_pool, elsewhere, tmp_path / "mixture", form=form)
    each = 3 if form == "deepseek" else 1  # segments of an expert that are routed
    found = handover(
        routers=tmp_path / "run" / "routers.safetensors", model=tmp_path / "mixture", out=tmp_path / "patch"
    )
    assert found["experts_per_token"] == each * rule.k
    assert (found["architecture"] == "Glm4MoeForCausalLM") == (form == "deepseek")
    assert found["warnings"] == []
    apply_patch(tmp_path / "patch", tmp_path / "mixture")
    config = json.loads((tmp_path / "mixture" / "config.json").read_text())
    assert config["num_experts_per_tok"] == each * rule.k


def test_a_file_of_version_1_takes_the_models_rule(micro_pool: TokenPool, tmp_path: Path) -> None:
    routers, _ = foldable(micro_pool, ridge(micro_pool, Hard()))
    hand_over(micro_pool, routers, tmp_path / "mixture")
    weights = {f"layers.{n}.weight": weight.contiguous() for n, (weight, _) in enumerate(routers.pairs())}
    save_file(weights, tmp_path / "routers.safetensors")
    found = handover(
        routers=tmp_path / "routers.safetensors", model=tmp_path / "mixture", out=tmp_path / "patch"
    )
    assert found["experts_per_token"] == 1


def test_what_the_gates_see(micro_pool: TokenPool) -> None:
    routers = ridge(micro_pool, Hard())
    sequences = micro_pool.parts["train"]
    seen = gate_inputs(micro_pool.tail, sequences, routers, batch=2)
    assert [tuple(x.shape) for x in seen] == [(len(sequences) * sequences.length, 16)] * 2
    _, first = micro_pool.tail.attend(0, sequences.states(torch.arange(len(sequences))))
    torch.testing.assert_close(seen[0], first.reshape(-1, 16), atol=1e-5, rtol=0)


def test_routers_that_do_not_fold_leave_nothing_behind(micro_pool: TokenPool, tmp_path: Path) -> None:
    with pytest.raises(RouterError, match="make routers without one by `foldable`"):
        hand_over(micro_pool, ridge(micro_pool, Hard()), tmp_path / "mixture")
    shy = LayerRouters(2, 16, AdaptiveK(k=2), micro_pool.domains)
    with pytest.raises(RouterError, match="adaptive_k selection does not fold"):
        hand_over(micro_pool, shy, tmp_path / "mixture")
    with pytest.raises(RouterError, match="do not support adaptive_k selection"):
        foldable(micro_pool, shy)
    assert list(tmp_path.iterdir()) == []
