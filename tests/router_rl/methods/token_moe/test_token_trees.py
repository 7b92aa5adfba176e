"""Hierarchical selection of the experts of tokens: every method of `problem.select=hierarchical`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from experts import InputError
from experts.moe.tiny_text import TREE
from experts.moe.token_pool import TokenPool
from router_rl import TokenMoEProblem
from router_rl.methods.method import Run
from router_rl.methods.registry import find_method, methods_of
from router_rl.methods.token_moe.backprop import Gate, gate_of_tree, joint, train_gate
from router_rl.methods.token_moe.closed_form_start import closed_form_start
from router_rl.methods.token_moe.token_training import Training
from router_rl.problems.token_moe.layer_routers import LayerRouters
from router_rl.problems.token_moe.token_measurement import Choose, measure
from router_rl.routing import Hierarchical

SIZES: dict[str, Any] = {"length": 24, "train": 14, "validation": 14, "test": 14, "epochs": 2}
NAMED = {"formal": ["calc", "records", "markup"], "other": ["alban", "bergish", "corvian", "general"]}


@pytest.fixture(scope="module")
def problem() -> TokenMoEProblem:
    return TokenMoEProblem(select="hierarchical", **SIZES)


def test_the_tree_is_the_pools_or_the_given_one(problem: TokenMoEProblem) -> None:
    assert problem.selection == Hierarchical(tree=TREE)
    given = TokenMoEProblem(select="hierarchical", tree=NAMED, **SIZES)
    assert given.selection == Hierarchical(tree=("root", (("formal", (3, 4, 5)), ("other", (0, 1, 2, 6)))))
    flat = TokenMoEProblem(**SIZES)
    assert len({each.digest() for each in (problem, given, flat)}) == 3


def test_a_gate_of_a_tree_has_the_products_along_its_paths() -> None:
    rule = Hierarchical(tree=("root", (2, ("pair", (0, 1)))))  # branches: 2, pair, 0, 1
    z = torch.randn(5, 4)
    first, second = z[:, :2].softmax(-1), z[:, 2:].softmax(-1)
    slow = torch.stack([first[:, 1] * second[:, 0], first[:, 1] * second[:, 1], first[:, 0]], dim=-1)
    torch.testing.assert_close(gate_of_tree(rule).mixes(z, torch.zeros(3)), slow)
    flat = Hierarchical(tree=("root", (0, 1, 2)))
    torch.testing.assert_close(gate_of_tree(flat).mixes(z[:, :3], torch.zeros(3)), z[:, :3].softmax(-1))


@pytest.mark.parametrize(
    "name", ["softmax_gate", "joint", "outcome_table", "reinforce", "router_ppo", "ridge"]
)
def test_methods_train_routers_that_follow_the_tree(problem: TokenMoEProblem, name: str) -> None:
    method = find_method("token_moe", name)
    start = closed_form_start(problem)
    policy = method.fit(problem, method.hyperparameters(), Run(seed=0))
    rule = problem.selection
    assert policy.routers.rules == (rule,) * problem.pool.tail.depth
    x = torch.randn(3, 5, problem.pool.tail.hidden)
    z = policy.routers.logits(1, x)
    assert z.shape[-1] == rule.outputs(7) == 9
    experts, weights = policy.choose(1, x)
    assert torch.equal(experts, rule.select(z).experts)
    assert bool((weights == 1.0).all())
    scores = [problem.evaluate(each, "validation").utility.mean() for each in (policy, start)]
    assert scores[0] >= scores[1]
    assert problem.evaluate(policy, "test").facts["experts_run"] == 1.0


@pytest.mark.parametrize("made", [gate_of_tree, lambda rule: joint(gate_of_tree(rule))])
def test_gates_of_trees_learn(micro_pool: TokenPool, made: Callable[[Hierarchical], Gate]) -> None:
    rule = Hierarchical(tree=("all", (0, ("larger", (1, 2)))))
    start = LayerRouters(micro_pool.tail.depth, micro_pool.tail.hidden, rule, micro_pool.tail.names)
    training = Training(learning_rate=3e-2, epochs=30, batch=3, checks=3)
    fit, serve = train_gate(micro_pool, start, made(rule), training)

    def loss(choose: Choose) -> float:
        return float(measure(micro_pool.tail, micro_pool.parts["train"], choose).loss.mean())

    assert loss(serve(fit.routers)) < loss(serve(start)) - 0.05
    x = torch.randn(4, micro_pool.tail.hidden)
    assert torch.equal(serve(fit.routers)(0, x)[0], fit.routers.choose(0, x)[0])


@pytest.mark.parametrize("name", ["straight_through", "switch_gate", "remoe_gate", "arrow", "phatgoose"])
def test_methods_without_a_tree_are_refused(problem: TokenMoEProblem, name: str) -> None:
    with pytest.raises(InputError, match="selects the best experts, not by hierarchical"):
        methods_of(problem, [name])


@pytest.mark.parametrize(
    ("given", "match"),
    [
        ({"tree": NAMED}, r"problem\.tree.*select topk does not use it"),
        (
            {"select": "hierarchical", "experts_per_token": 2},
            r"experts_per_token.*one expert per token",
        ),
        ({"select": "hierarchical", "tree": {"a": ["calc"]}}, r"problem\.tree.*'alban' 0 times"),
        ({"select": "hierarchical", "pool": "answers"}, r"problem\.tree.*these experts have no tree"),
    ],
)
def test_trees_that_do_not_fit_are_refused(given: dict[str, Any], match: str) -> None:
    with pytest.raises(InputError, match=match):
        TokenMoEProblem(**{**SIZES, **given})
