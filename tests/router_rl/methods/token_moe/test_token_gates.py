"""The gates of token-level routing serve what they trained, and the bias is that of the best weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from experts.moe.token_pool import TokenPool
from router_rl import TokenMoEProblem
from router_rl.methods.method import Run
from router_rl.methods.registry import find_method
from router_rl.methods.token_moe.backprop import GATES, train_gate
from router_rl.methods.token_moe.token_training import Training, take_steps
from router_rl.problems.token_moe import problem as token_moe
from router_rl.problems.token_moe.layer_routers import LayerRouters
from router_rl.problems.token_moe.problem import LayerPolicy
from router_rl.routing import Hard, ScoredTopK, TopK, UnnormalisedTopK

HIDDEN = 16


@pytest.fixture
def problem_of(monkeypatch: pytest.MonkeyPatch, micro_pool: TokenPool) -> Any:
    monkeypatch.setattr(token_moe, "open_pool", lambda options: (micro_pool, micro_pool.domains))
    return lambda **changes: TokenMoEProblem(**changes)


def fitted(problem: Any, name: str) -> LayerPolicy:
    method = find_method("token_moe", name)
    policy = method.fit(problem, method.hyperparameters(learning_rate=0.1), Run(seed=0))
    assert isinstance(policy, LayerPolicy)
    return policy


def test_switch_scales_its_expert_by_the_probability(problem_of: Any) -> None:
    problem = problem_of()
    routers = fitted(problem, "switch_gate").routers
    assert routers is not None
    assert routers.rules == (UnnormalisedTopK(k=1),) * problem.pool.tail.depth
    x = torch.randn(5, HIDDEN)
    experts, weights = routers.choose(0, x)
    p = routers.logits(0, x).softmax(dim=-1)
    assert torch.equal(experts, p.argmax(dim=-1, keepdim=True))
    torch.testing.assert_close(weights, p.amax(dim=-1, keepdim=True))


def test_the_bias_of_deepseek_v3_is_in_the_rules_that_are_served(problem_of: Any) -> None:
    """The exported rules choose as the gate did in training, and the bias does not weight."""
    problem, scores = problem_of(experts_per_token=2), iter(range(9, 0, -1))  # each better than the last
    fit, serve = train_gate(
        problem.pool,
        LayerRouters(problem.pool.tail.depth, HIDDEN, TopK(k=2), problem.experts),
        GATES["deepseek_v3_top2"],
        Training(epochs=3, batch=2, checks=3, learning_rate=0.1),
        score=lambda choose: float(next(scores)),
    )
    assert all(isinstance(rule, ScoredTopK) and any(rule.bias) for rule in fit.routers.rules)
    x = torch.randn(7, HIDDEN)
    for layer in range(problem.pool.tail.depth):
        ours, theirs = fit.routers.choose(layer, x), serve(fit.routers)(layer, x)
        assert torch.equal(ours[0], theirs[0])
        torch.testing.assert_close(ours[1], theirs[1])
        score = fit.routers.logits(layer, x).sigmoid().gather(-1, ours[0])
        torch.testing.assert_close(ours[1], score / score.sum(dim=-1, keepdim=True))


@pytest.mark.parametrize(("name", "count"), [("switch_gate", 2), ("deepseek_v3_gate", 1)])
def test_a_gate_of_another_number_of_experts_is_refused(problem_of: Any, name: str, count: int) -> None:
    refuses = find_method("token_moe", name).refuses
    assert refuses is not None
    said = refuses(problem_of(experts_per_token=count))
    assert said is not None
    assert f"not {count}" in said
    assert refuses(problem_of(experts_per_token=3 - count)) is None


def test_tensors_that_the_steps_move_go_back_to_the_best_weights() -> None:
    """Validation is best after the first of three steps: weights and bias are those of that step."""
    routers, moved = LayerRouters(1, HIDDEN, Hard(), ("a", "b")), {"bias": torch.zeros(2)}
    scores = iter([9.0, 1.0, 2.0, 3.0])

    def step(number: int, optimizer: torch.optim.Optimizer) -> str:
        moved["bias"].fill_(float(number))
        with torch.no_grad():
            for parameter in routers.parameters():
                parameter.fill_(float(number))
        return "{}"

    fit = take_steps(
        routers,
        Training(checks=3),
        3,
        step,
        lambda routers: next(scores),
        torch.Generator().manual_seed(0),
        moved=moved,
    )
    assert fit.validation == 1.0
    assert moved["bias"].tolist() == [1.0, 1.0]
    assert all(bool((parameter == 1.0).all()) for parameter in fit.routers.parameters())


def test_the_label_is_a_bound_and_keeps_the_whole_gain(problem_of: Any) -> None:
    problem = problem_of()
    assert "label" in problem.included
    found = find_method("token_moe", "label").measure(problem, problem.case, "test")
    part = problem.pool.parts["test"]
    pure = np.flatnonzero(~part.mixed)
    matching = part.path_loss[pure, part.domain[pure, 0]].mean(axis=1)
    np.testing.assert_allclose(-found.utility[pure], matching, atol=1e-5)
    assert found.facts["gain_kept"] == pytest.approx(1.0, abs=1e-4)
    base = LayerPolicy(known=lambda split: problem.pool.parts[split].dense_loss)
    assert problem.evaluate(base, "test").facts["gain_kept"] == pytest.approx(0.0, abs=1e-6)


def test_texts_without_an_expert_have_no_label(
    monkeypatch: pytest.MonkeyPatch, micro_pool: TokenPool, tmp_path: Path
) -> None:
    names = (*micro_pool.domains, "other")
    monkeypatch.setattr(token_moe, "open_pool", lambda options: (micro_pool, names))
    problem = TokenMoEProblem()
    assert "label" not in problem.included
    refuses = find_method("token_moe", "label").refuses
    assert refuses is not None
    assert "names are those of experts" in str(refuses(problem))
