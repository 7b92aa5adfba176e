"""GRPO from a trained gate: the gates it can start from, what it keeps, and its start in a comparison."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from experts import InputError
from router_rl import TokenMoEProblem, compare
from router_rl.methods.method import Method, Run
from router_rl.methods.registry import find_method
from router_rl.methods.token_moe.right_answers import RightAnswersHyperparameters
from router_rl.methods.token_moe.warm_grpo import WarmGrpoHyperparameters, fit, from_gate
from router_rl.problems.token_moe.problem import LayerPolicy

QUICK = {"iterations": 2, "prompts": 4, "group": 4}


@pytest.fixture(scope="module")
def problem() -> TokenMoEProblem:
    return TokenMoEProblem(pool="answers", train=12, validation=24, test=36, epochs=1)


def weights(policy: LayerPolicy) -> list[torch.Tensor]:
    assert policy.routers is not None
    return [weight for weight, _ in policy.routers.pairs()]


def alone(problem: TokenMoEProblem, name: str, values: Any, seed: int) -> LayerPolicy:
    method = find_method("token_moe", name)
    assert isinstance(method, Method)
    policy: LayerPolicy = method.fit(problem, values, Run(seed=seed))
    return policy


@pytest.mark.parametrize("name", ["right_answers", "straight_through", "softmax_gate"])
def test_without_progress_the_result_is_the_start(problem: TokenMoEProblem, name: str) -> None:
    given: dict[str, Any] = {"learning_rate": 1e-2} | ({"rounds": 1, "group": 2} if name[0] == "r" else {})
    settings = WarmGrpoHyperparameters(start=name, start_hyperparameters=given, learning_rate=1e-12, **QUICK)
    run = Run(seed=3)
    found = fit(problem, settings, run)
    method = find_method("token_moe", name)
    assert isinstance(method, Method)
    expected = alone(problem, name, method.configure(given), seed=3)
    assert all(torch.equal(one, two) for one, two in zip(weights(found), weights(expected), strict=True))
    assert run.facts["equals_start"] == name


def test_a_better_policy_replaces_the_start(
    problem: TokenMoEProblem, monkeypatch: pytest.MonkeyPatch
) -> None:
    scores = iter([0.5, 0.4, 0.4, 0.4])  # the start's, and those of the checkpoints
    monkeypatch.setattr(
        "router_rl.methods.token_moe.warm_grpo.wrong_share", lambda pool: lambda routers: next(scores)
    )
    settings = WarmGrpoHyperparameters(start="softmax_gate", learning_rate=0.1, **QUICK)
    run = Run(seed=0)
    found = fit(problem, settings, run)
    start = alone(problem, "softmax_gate", find_defaults("softmax_gate"), seed=0)
    assert not all(torch.equal(one, two) for one, two in zip(weights(found), weights(start), strict=True))
    assert "equals_start" not in run.facts


def find_defaults(name: str) -> Any:
    method = find_method("token_moe", name)
    assert isinstance(method, Method)
    return method.hyperparameters()


def test_it_starts_from_gates_with_routers_of_the_same_rule() -> None:
    settings, values = WarmGrpoHyperparameters(kl=0.2), RightAnswersHyperparameters(rounds=1)
    started = from_gate(settings, "right_answers", values)
    assert started == WarmGrpoHyperparameters(kl=0.2, start="right_answers", start_hyperparameters=values)
    for name in ("best_single", "ridge", "switch_gate", "remoe_gate", "grpo"):
        assert from_gate(settings, name, None) is None


def test_hyperparameters_of_another_method_are_refused(problem: TokenMoEProblem) -> None:
    settings = WarmGrpoHyperparameters(
        start="softmax_gate", start_hyperparameters=RightAnswersHyperparameters()
    )
    with pytest.raises(InputError, match=r"method\.start_hyperparameters.*softmax_gate"):
        fit(problem, settings, Run(seed=0))
    with pytest.raises(InputError, match="rounds"):
        fit(
            problem, WarmGrpoHyperparameters(start="softmax_gate", start_hyperparameters={"rounds": 2}), Run()
        )
    with pytest.raises(InputError, match="start"):
        WarmGrpoHyperparameters(start="grpo")  # type: ignore[arg-type]


@pytest.mark.slow
def test_a_comparison_starts_it_from_the_best_gate_on_validation(
    problem: TokenMoEProblem, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(WarmGrpoHyperparameters.__init__.__kwdefaults__, "iterations", 2)
    study = compare(problem, ["warm_grpo", "softmax_gate", "straight_through"], seeds=1, n_trials=2)
    rows = [row for row in study.results["rows"] if row["split"] == "validation"]
    gates = {row["method"]: row for row in rows if row["family"] == "gate"}
    best = max(gates.values(), key=lambda row: row["utility"])
    (warm,) = [row for row in rows if row["method"] == "warm_grpo"]
    assert warm["hyperparameters"]["start"] == best["method"]
    assert warm["hyperparameters"]["start_hyperparameters"] == best["hyperparameters"]
