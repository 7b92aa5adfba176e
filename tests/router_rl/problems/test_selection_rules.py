"""From names to rules, and every rule through every way of learning."""

from __future__ import annotations

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import check_env
from routing_methods import METHODS
from stable_baselines3.common.env_checker import check_env as check_env_sb3

import envs
from envs.routing import SHARPNESS
from experts import InputError, OutcomeTable
from router_rl import Objective, check_router, fit
from router_rl.problems.routing.problem import RoutingProblem
from router_rl.problems.routing.router_measurement import measure
from router_rl.problems.selection_rules import RULES, grow_tree, named_tree, selection
from router_rl.routing import SELECTIONS, Hierarchical

OBJECTIVE = Objective(compute_weight=0.05)
SHORT = {  # by method
    **{name: {"decisions": 40_000, "lanes": 64} for name in ("a2c", "ppo")},
    **{name: {"decisions": 100_000} for name in ("router_ppo", "reinforce")},
    "warm_exact_pg": {"epochs": 10, "folds": 2},
}
GATES = [name for name, method in METHODS.items() if method.family == "gate"]


def test_users_ask_for_rules_that_can_be_loaded(kinds: OutcomeTable) -> None:
    assert set(RULES) < set(SELECTIONS)
    with pytest.raises(InputError, match="select='scored_topk': unknown"):
        selection("scored_topk", kinds)


LEARNERS = ["a2c", "ppo", "reinforce", "router_ppo", "exact_pg", "warm_exact_pg"]
BASELINES = [
    name for name, method in METHODS.items() if method.family == "baseline" and name != "best_single"
]


# `methods/test_registry.py` trains every method with hard and topk.
OTHER_RULES = [rule for rule in RULES if rule not in ("hard", "topk")]


@pytest.mark.slow
@pytest.mark.parametrize("select", OTHER_RULES)
@pytest.mark.parametrize("method", [*LEARNERS, *GATES, *BASELINES])
def test_every_rule_is_learned_both_ways(kinds: OutcomeTable, select: str, method: str) -> None:
    settings = SHORT.get(method)
    if not METHODS[method].learns(selection(select, kinds)):
        with pytest.raises(InputError, match="does not support"):
            fit(method, RoutingProblem(kinds, OBJECTIVE, select=select))
        return
    router = fit(method, RoutingProblem(kinds, OBJECTIVE, select=select), hyperparameters=settings)
    check_router(router, torch.tensor(kinds.features))
    rule = selection(select, kinds)
    scale = RoutingProblem(kinds, OBJECTIVE, rule).scale
    quality = measure(router, kinds.part("test"), OBJECTIVE, scale).means()["quality"]
    assert quality > (0.85 if method not in ("hash", "random", "zero_router") else 0.2)


@pytest.mark.slow
def test_adaptive_k_asks_one_where_one_is_enough(kinds: OutcomeTable) -> None:
    router = fit(
        "ppo",
        RoutingProblem(kinds, Objective(compute_weight=1.0), select="adaptive_k", k=3),
        hyperparameters=SHORT["ppo"],
    )
    experts = router(torch.tensor(kinds.part("test").features)).experts
    assert float((experts < 4).sum(dim=1).float().mean()) < 1.5


def test_a_tree_of_names() -> None:
    tree = named_tree({"prose": "a", "coding": {"script": ["b", "d"], "c": ["c"]}}, ["a", "b", "c", "d"])
    rule = Hierarchical(tree=tree)
    rule.check(4)
    assert rule.branches == ("prose", "coding", "0", "script", "c", "1", "3", "2")
    with pytest.raises(InputError, match="tree='pyhton': unknown; did you mean 'python'"):
        named_tree({"coding": ["pyhton"]}, ["python", "c"])


def test_a_tree_grown_from_outcomes_groups_experts_that_are_right_together(kinds: OutcomeTable) -> None:
    quality = np.repeat(kinds.quality[:, :2], 2, axis=1)
    fields = {name: getattr(kinds, name) for name in kinds.__dataclass_fields__}
    twins = OutcomeTable(**{**fields, "quality": quality, "probabilities": None, "label": None})
    assert grow_tree(twins) == ("root", (("group-0", (0, 1)), ("group-1", (2, 3))))
    Hierarchical(tree=grow_tree(kinds)).check(4)


def test_two_experts_make_no_tree(kinds: OutcomeTable) -> None:
    fields = {name: getattr(kinds, name) for name in kinds.__dataclass_fields__}
    changed = {"experts": ("a", "b"), "quality": kinds.quality[:, :2], "cost": kinds.cost[:, :2]}
    pair = OutcomeTable(**{**fields, **changed, "probabilities": None, "label": None})
    with pytest.raises(InputError, match="needs three experts or more"):
        grow_tree(pair)


@pytest.mark.parametrize("choose", ["some", "weights"])
def test_the_environment_of_each_kind_of_action_passes_both_checkers(
    kinds: OutcomeTable, choose: str
) -> None:
    env = gymnasium.make("RouterRL/Routing-v0", table=kinds, k=2, choose=choose, window=16)
    check_env(env.unwrapped)
    check_env_sb3(env)


def test_nobody_alone_answers_nothing_and_costs_nothing(kinds: OutcomeTable) -> None:
    env = gymnasium.make("RouterRL/Routing-v0", table=kinds, k=2, choose="some", load_weight=0.0)
    env.reset(seed=0)
    _, reward, _, _, parts = env.step(np.array([4, 4]))
    assert (reward, parts["quality"], parts["compute"]) == (0.0, 0.0, 0.0)
    assert parts["share"].tolist() == [0.0] * 4


def test_one_expert_and_nobody_is_one_expert(kinds: OutcomeTable) -> None:
    some = gymnasium.make("RouterRL/Routing-v0", table=kinds, k=2, choose="some")
    hard = gymnasium.make("RouterRL/Routing-v0", table=kinds, k=1)
    some.reset(seed=3)
    hard.reset(seed=3)
    for expert in (0, 1, 2, 3):
        assert some.step(np.array([expert, 4]))[1] == pytest.approx(hard.step(expert)[1])


def test_weights_are_a_softmax_of_the_action(kinds: OutcomeTable) -> None:
    core = envs.build_routing(kinds, 1, choose="weights")
    row = int(core.state.row)
    action = torch.tensor([[0.2, -0.1, 0.0, 0.3]])
    weights = (SHARPNESS * action).softmax(dim=-1)[0]
    mixture = (weights[:, None] * core.outcomes.probabilities[row]).sum(dim=0)
    step = core.step(action)
    assert float(step.parts["quality"]) == float(mixture.argmax() == core.outcomes.label[row])
    torch.testing.assert_close(step.parts["compute"], core.outcomes.compute[row].sum()[None])
    assert step.parts["share"].tolist() == [[0.25] * 4]
