"""One or two experts for each token, at a price: `problem.select=adaptive_k`."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from envs.token_moe import TokenMoEConfig, TokenMoECore
from experts import InputError
from experts.moe.token_pool import TokenPool
from router_rl import TokenMoEProblem
from router_rl.methods.method import Run
from router_rl.methods.registry import find_method, methods_of
from router_rl.methods.token_moe import token_ppo, token_reinforce
from router_rl.methods.token_moe.closed_form_start import closed_form_start
from router_rl.methods.token_moe.threshold_gate import above
from router_rl.methods.token_moe.token_fit import LearningRate
from router_rl.methods.token_moe.token_reinforce import TokenReinforceHyperparameters, train_reinforce
from router_rl.methods.token_moe.token_training import Training, mean_loss
from router_rl.problems.token_moe.layer_routers import LayerRouters
from router_rl.problems.token_moe.problem import LayerPolicy
from router_rl.problems.token_moe.token_measurement import Choose, measure
from router_rl.routing import AdaptiveK, Hard, TopK

SIZES: dict[str, Any] = {"length": 24, "train": 14, "validation": 14, "test": 14, "epochs": 2}
ADAPTIVE: dict[str, Any] = {"select": "adaptive_k", "experts_per_token": 2, "expert_price": 0.02}


@pytest.fixture(scope="module")
def problem() -> TokenMoEProblem:
    return TokenMoEProblem(**ADAPTIVE, **SIZES)


def second_where(experts: int, wanted: float) -> Choose:
    """Return a choice of expert 0, and of expert 1 as well for tokens whose first input is above `wanted`."""

    def choose(layer: int, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        both = x[..., :1] > wanted
        second = torch.where(both, 1, experts)
        weights = torch.where(both, 0.5, torch.tensor([1.0, 0.0]))
        return torch.cat([torch.zeros_like(second), second], dim=-1), weights

    return choose


def test_the_utility_charges_experts_beyond_the_first(problem: TokenMoEProblem) -> None:
    choose = second_where(7, 0.1)
    measured = measure(problem.pool.tail, problem.pool.parts["test"], choose)
    slow = [
        -float(measured.loss[s].mean()) - 0.02 * float((measured.experts[:, s, :, 1] < 7).mean())
        for s in range(len(measured.loss))
    ]
    found = problem.evaluate(LayerPolicy(choose=choose), "test")
    np.testing.assert_allclose(found.utility, slow, atol=1e-6)
    assert 1.2 < found.facts["experts_run"] < 1.8
    free = TokenMoEProblem(select="adaptive_k", experts_per_token=2, **SIZES)
    assert free.evaluate(LayerPolicy(choose=choose), "test").utility.mean() > found.utility.mean() + 0.004
    assert free.digest() != problem.digest()
    core = problem.core("train", problem.case, lanes=1, seed=0)
    assert (core.config.choose, core.config.k, core.config.compute_weight) == ("some", 2, 0.02)


def test_the_score_of_validation_has_the_price_too(problem: TokenMoEProblem) -> None:
    start = closed_form_start(problem)
    assert start.rule == AdaptiveK(k=2)
    found = problem.evaluate(start, "validation")
    assert mean_loss(problem.pool, price=0.02)(start) == pytest.approx(-float(found.utility.mean()), abs=1e-5)


@pytest.mark.parametrize("threshold", [0.0, 0.4, 0.45, 1.0])
def test_a_threshold_drops_second_experts(problem: TokenMoEProblem, threshold: float) -> None:
    routers = closed_form_start(problem, Hard()).copy(TopK(k=2))
    x = 8 * torch.randn(2, 9, problem.pool.tail.hidden)
    experts, weights = above(routers, threshold)(1, x)
    both, shares = routers.choose(1, x)
    for s in range(2):
        for t in range(9):
            if float(shares[s, t, 1]) >= threshold:
                assert experts[s, t].tolist() == both[s, t].tolist()
                assert torch.equal(weights[s, t], shares[s, t])
            else:
                assert experts[s, t].tolist() == [int(both[s, t, 0]), 7]
                assert weights[s, t].tolist() == [1.0, 0.0]
    assert bool((experts[..., 1] < 7).all()) == (threshold == 0.0)


def test_a_second_expert_at_the_threshold_runs(problem: TokenMoEProblem) -> None:
    tail = problem.pool.tail
    routers = LayerRouters(tail.depth, tail.hidden, TopK(k=2), tail.names)  # weights of one half
    for scorer in routers.scorers:
        for parameter in scorer.parameters():
            torch.nn.init.zeros_(parameter)
    assert above(routers, 0.5)(0, torch.zeros(3, tail.hidden))[0].tolist() == [[0, 1]] * 3


@pytest.mark.parametrize("name", ["reinforce", "router_ppo"])
def test_learners_pay_the_price(problem: TokenMoEProblem, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    configs: list[TokenMoEConfig] = []

    class Watched(TokenMoECore):
        def __init__(self, tail: Any, sequences: Any, config: TokenMoEConfig, *others: Any) -> None:
            configs.append(config)
            super().__init__(tail, sequences, config, *others)

    learner = {"reinforce": token_reinforce, "router_ppo": token_ppo}[name]
    monkeypatch.setattr(learner, "TokenMoECore", Watched)
    find_method("token_moe", name).fit(problem, LearningRate(), Run(seed=0))
    assert {(config.choose, config.k, config.compute_weight) for config in configs} == {("some", 2, 0.02)}


@pytest.mark.parametrize("name", ["reinforce", "router_ppo", "threshold_gate", "ridge"])
def test_methods_run_one_or_two_experts(problem: TokenMoEProblem, name: str) -> None:
    method = find_method("token_moe", name)
    policy = method.fit(problem, method.hyperparameters(), Run(seed=0))
    assert 1.0 <= problem.evaluate(policy, "test").facts["experts_run"] <= 2.0
    if name in ("reinforce", "router_ppo"):
        start = problem.evaluate(closed_form_start(problem), "validation").utility.mean()
        assert problem.evaluate(policy, "validation").utility.mean() >= start


def test_the_price_decides_how_many_experts_run(micro_pool: TokenPool) -> None:
    rule, runs = AdaptiveK(k=2), []
    start = LayerRouters(micro_pool.tail.depth, micro_pool.tail.hidden, rule, micro_pool.tail.names)
    for price in (0.0, 2.0):
        training = Training(learning_rate=3e-2, epochs=20, batch=3, checks=1)
        config = TokenMoEConfig(compute_weight=price)
        settings = TokenReinforceHyperparameters()
        last: list[float] = []

        def score(routers: LayerRouters, last: list[float] = last) -> float:
            last.append(measure(micro_pool.tail, micro_pool.parts["train"], routers.choose).compute)
            return -float(len(last))  # the last routers are kept

        train_reinforce(micro_pool, start, training, settings, config, score=score)
        runs.append(last[-1])
    assert runs[1] < 1.05 < 1.3 < runs[0]


@pytest.mark.parametrize("name", ["joint", "outcome_table", "softmax_gate", "straight_through", "arrow"])
def test_methods_of_a_fixed_number_are_refused(problem: TokenMoEProblem, name: str) -> None:
    with pytest.raises(InputError, match=r"fixed number of experts|not by adaptive_k"):
        methods_of(problem, [name])
    with pytest.raises(InputError, match="is for select adaptive_k"):
        methods_of(TokenMoEProblem(**SIZES), ["threshold_gate"])


@pytest.mark.parametrize(
    ("given", "match"),
    [
        ({"expert_price": 0.1}, r"problem\.expert_price.*select topk does not use it"),
        ({"select": "adaptive_k"}, r"problem\.experts_per_token.*at most two experts per token"),
        ({**ADAPTIVE, "score": "sigmoid"}, r"problem\.select.*weighted by softmax"),
        ({**ADAPTIVE, "expert_price": -1.0}, r"problem\.expert_price"),
    ],
)
def test_options_that_do_not_go_together_are_refused(given: dict[str, Any], match: str) -> None:
    with pytest.raises(InputError, match=match):
        TokenMoEProblem(**{**SIZES, **given})
