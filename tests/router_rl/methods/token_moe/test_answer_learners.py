"""The problem of verified answers: its utility, the methods that it takes, references, a run."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from experts import InputError
from router_rl import TokenMoEProblem
from router_rl.methods.fit import fit
from router_rl.methods.registry import find_method
from router_rl.methods.token_moe.answer_bounds import answers_by_label, best_of, constant, right_single
from router_rl.methods.token_moe.answer_learners import wrong_share
from router_rl.problems.token_moe.layer_routers import LayerRouters
from router_rl.problems.token_moe.problem import LayerPolicy
from router_rl.problems.token_moe.token_answers import answer
from router_rl.routing import Hard
from router_rl.studies.runs import train_run


@pytest.fixture(scope="module")
def problem() -> TokenMoEProblem:
    return TokenMoEProblem(pool="answers", train=12, validation=24, test=36, epochs=1)


def test_utility_is_the_right_answers(problem: TokenMoEProblem) -> None:
    part = problem.pool.parts["test"]
    assert len(part) == 36
    assert len(problem.pool.parts["validation"]) == len(problem.pool.parts["tuning"]) == 12
    found = problem.evaluate(LayerPolicy(choose=constant(1)), "test")
    np.testing.assert_array_equal(found.utility, answer(problem.pool, part, constant(1)).right)
    assert found.facts["right/sort"] > 0.9
    assert found.facts["right/reverse"] < 0.5
    assert found.facts["experts_run"] == 1.0
    assert found.shares.tolist() == [0.0, 1.0, 0.0, 0.0]
    assert found.facts["loss"] == pytest.approx(float(part.path_loss[:, 1].mean()), abs=1e-4)
    assert problem.describe().utility == "right answers"


def test_references_of_losses_are_refused_and_text_has_no_verifier(problem: TokenMoEProblem) -> None:
    for name in ("dense", "average", "oracle", "own_gates"):
        refuses = find_method("token_moe", name).refuses
        assert refuses is not None
        assert refuses(problem) is not None
    text = TokenMoEProblem(length=10, train=8, validation=4, test=4)
    for name in ("grpo", "warm_grpo", "right_answers"):
        refuses = find_method("token_moe", name).refuses
        assert refuses is not None
        assert refuses(problem) is None
        assert "problem.pool=answers" in str(refuses(text))
    label = find_method("token_moe", "label").refuses
    assert label is not None
    assert label(problem) is label(text) is None  # tasks and texts have experts of their names
    assert set(problem.included) == {"best_single", "random", "label"}
    with pytest.raises(InputError, match="grpo"):
        fit("grpo", text)


def test_the_label_is_the_bound_and_one_expert_is_right_on_a_task(problem: TokenMoEProblem) -> None:
    right = answers_by_label(problem.pool, "test")
    domain = problem.pool.parts["test"].domain[:, 0]
    each = [answer(problem.pool, problem.pool.parts["test"], constant(task)).right for task in range(3)]
    for task in range(3):
        np.testing.assert_array_equal(right[domain == task], each[task][domain == task])
    validation = problem.pool.parts["validation"]
    shares = [answer(problem.pool, validation, constant(expert)).right.mean() for expert in range(4)]
    assert right_single(problem.pool) == int(np.argmax(shares))


def test_more_generations_are_right_more_often_with_a_verifier(problem: TokenMoEProblem) -> None:
    tail = problem.pool.tail
    routers = LayerRouters(tail.depth, tail.hidden, Hard(), tail.names)  # all logits are equal
    one, most_of_one = best_of(problem.pool, "test", routers, 1, seed=0)
    many, most = best_of(problem.pool, "test", routers, 5, seed=0)
    greedy = answer(problem.pool, problem.pool.parts["test"], routers.choose).right
    np.testing.assert_array_equal(one, greedy)
    np.testing.assert_array_equal(most_of_one, greedy)
    assert (many >= one).all()
    assert (many >= most).all()


@pytest.mark.slow
def test_a_run_trains_the_routers_alone_and_stores_them(problem: TokenMoEProblem, tmp_path: Path) -> None:
    before = problem.pool.tail.fingerprint()
    settings = {"iterations": 2, "prompts": 4, "group": 4}
    policy = fit("grpo", problem, hyperparameters=settings)
    train_run(problem, "grpo", tmp_path / "run", hyperparameters=settings)
    assert problem.pool.tail.fingerprint() == before
    stored = load_file(tmp_path / "run" / "router" / "routers.safetensors")
    for layer, (weight, _) in enumerate(policy.routers.pairs()):
        assert torch.equal(stored[f"layers.{layer}.weight"], weight)
    score = wrong_share(problem.pool, "test")(policy.routers)
    assert score == pytest.approx(1.0 - float(problem.evaluate(policy, "test").utility.mean()))
