"""PPO from a rule: it starts as the rule, keeps it unless validation is better, and is exported with it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from environment_tables import made_cascade, topics

from experts import OutcomeTable
from router_rl import CachingProblem, Objective, QueueingProblem, SessionProblem
from router_rl.exports.policy_files import write_policy
from router_rl.methods.agents.env_training import new_policy
from router_rl.methods.checkpoint import Checkpoint
from router_rl.methods.method import Run
from router_rl.methods.registry import find_method
from router_rl.problems.problem import Problem
from router_rl.routing import RouterError, load
from router_rl.routing.policies.network_policy import NetworkPolicy

FEW = {"lanes": 4, "steps": 8, "hidden": 8, "decisions": 320, "epochs": 1, "minibatches": 1}


def queues(tmp_path: Path) -> Problem:
    return QueueingProblem(made_cascade(rows=100), loads=(0.9,), window=8, episodes=4)


def caches(tmp_path: Path) -> Problem:
    return CachingProblem(topics(), episodes=4, window=12, resident_shares=(0.5,))


def sessions(tmp_path: Path) -> Problem:
    rng = np.random.default_rng(0)
    hard = rng.integers(0, 2, 200)
    table = OutcomeTable(
        experts=["small", "large"],
        query_id=range(200),
        features=(hard + 0.3 * rng.normal(size=200))[:, None],
        quality=rng.random((200, 2)) < np.column_stack([0.9 - 0.6 * hard, np.full(200, 0.9)]),
        cost=np.tile([0.2, 1.0], (200, 1)),
        group=hard.astype(str),
        split=np.repeat(["train", "validation", "test"], [100, 50, 50]),
    )
    objective = Objective(compute_weight=0.2)
    return SessionProblem(table, objective, prices=(1.0, 5.0), window=16, episodes=4)


PROBLEMS = {"queueing": queues, "caching": caches, "session": sessions}


@pytest.fixture(params=PROBLEMS)
def problem(request: pytest.FixtureRequest, tmp_path: Path) -> Problem:
    return PROBLEMS[request.param](tmp_path)


def rule_of(problem: Problem) -> Any:
    """The method that the residual corrects: the search, or the rule of sessions that its fit names."""
    return find_method(problem.name, "cross_entropy" if problem.name != "session" else "refill_index")


def learned(problem: Problem, run: Run, **changes: Any) -> NetworkPolicy:
    method = find_method(problem.name, "residual_ppo")
    module = method.fit(problem, method.configure({**FEW, **changes}), run).module
    assert isinstance(module, NetworkPolicy)
    return module


def test_without_learning_it_acts_as_the_rule_and_says_so(problem: Problem) -> None:
    """With a learning rate near 0 nothing is better on validation: its utility is the rule's to the bit."""
    run = Run(seed=3)
    policy = learned(problem, run, learning_rate=1e-12)
    name = run.facts["equals_start"]
    rule = find_method(problem.name, name)
    start = rule.fit(problem, rule.hyperparameters(), Run(seed=3))
    for split in ("validation", "test"):
        own, theirs = (problem.evaluate(each, split).utility for each in (policy, start))
        np.testing.assert_array_equal(own, theirs)


def test_it_is_never_worse_than_the_rule_on_validation(problem: Problem) -> None:
    """A learning rate that ruins the policy returns the rule."""
    run = Run(seed=0)
    policy = learned(problem, run, learning_rate=10.0)
    rule = find_method(problem.name, run.facts.get("equals_start") or rule_of(problem).name)
    start = rule.fit(problem, rule.hyperparameters(), Run(seed=0))
    own, theirs = (problem.evaluate(each, "validation").means()["utility"] for each in (policy, start))
    assert own >= theirs


def test_the_export_acts_as_the_policy(problem: Problem, tmp_path: Path) -> None:
    """A trained correction and its rule come back from the file, to the bit."""
    policy = learned(problem, Run(seed=0), learning_rate=1e-2)
    with torch.no_grad():  # validation may have returned the rule
        policy.layers[-1].weight.normal_(generator=torch.Generator().manual_seed(0))
    write_policy(policy, tmp_path / "policy")
    again = load(tmp_path / "policy")
    observation = torch.rand(200, policy.observation_size, generator=torch.Generator().manual_seed(1))
    assert torch.equal(again.act(observation), policy.act(observation))
    assert torch.equal(again(observation), policy(observation))
    rule = policy.rule
    assert rule is not None
    policy.rule = None
    torch.testing.assert_close(
        again(observation),
        (policy(observation) + 10.0 * rule(observation)).masked_fill(~policy.valid(observation), -1e9),
    )


def test_a_stopped_run_ends_as_an_unstopped_one(tmp_path: Path) -> None:
    problem = queues(tmp_path)
    whole = learned(problem, Run(seed=1), learning_rate=1e-2)

    def stop(snapshot: Any) -> None:
        if snapshot.step >= 160:
            raise InterruptedError

    path = tmp_path / "checkpoint"
    with pytest.raises(InterruptedError):
        learned(
            problem,
            Run(seed=1, callback=stop, checkpoint=Checkpoint(path, {}, seconds=0.0)),
            learning_rate=1e-2,
        )
    resumed = learned(problem, Run(seed=1, checkpoint=Checkpoint(path, {}, seconds=0.0)), learning_rate=1e-2)
    for name, value in whole.state_dict().items():
        assert value.equal(resumed.state_dict()[name]), name


def test_the_rules_scores_choose_what_the_rule_does(tmp_path: Path) -> None:
    """Scores of every action, against the decisions of the policies, on observations of the environment."""
    for made in (caches, sessions):
        problem = made(tmp_path)
        rule: Any = problem.policy(problem.case)  # type: ignore[attr-defined]
        generator = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for parameter in rule.parameters():
                parameter.normal_(generator=generator)
        core = problem.core("train", problem.case, lanes=64, seed=0)  # type: ignore[attr-defined]
        for _ in range(5):
            observation = core.observation()
            scores, actions = rule(observation), rule.act(observation)
            if made is sessions:
                assert torch.equal(scores.argmax(dim=-1), actions)
            else:
                answers, victims = scores.split(len(rule.experts), dim=-1)
                assert torch.equal(answers.argmax(dim=-1), actions[:, 0])
                absent = (
                    observation[:, rule.features :][:, : len(rule.experts)].gather(1, actions[:, :1]) == 0
                )
                needed = absent.squeeze(1)  # else nothing is evicted
                assert torch.equal(victims.argmax(dim=-1)[needed], actions[needed, 1])
            core.step(actions)


def test_a_rule_of_other_observations_is_refused(tmp_path: Path) -> None:
    problem = sessions(tmp_path)
    core = problem.core("train", problem.case, lanes=2, seed=0)  # type: ignore[attr-defined]
    policy, rule = new_policy(problem, core, 8, 0), problem.policy(problem.case)  # type: ignore[attr-defined]
    policy.follow(rule, 10.0)
    spec = policy.spec()
    assert NetworkPolicy.from_spec(spec).spec() == spec
    with pytest.raises(RouterError, match="does not fit"):
        NetworkPolicy.from_spec({**spec, "observation_size": spec["observation_size"] + 1})
    with pytest.raises(RouterError, match="does not fit"):
        NetworkPolicy.from_spec({**spec, "inverse_temperature": 0.0})
    with pytest.raises(RouterError, match="hidden"):
        NetworkPolicy.from_spec({**spec, "rule": {**spec["rule"], "hidden": "wide"}})
    with pytest.raises(RouterError, match="unknown"):
        NetworkPolicy.from_spec({**spec, "rule": {"kind": "oracle"}})


def test_it_is_rl_from_rewards_with_the_search_space_of_ppo() -> None:
    for name in PROBLEMS:
        method = find_method(name, "residual_ppo")
        assert method.family == "rl"
        assert not method.full_information
        assert set(find_method(name, "router_ppo").space) < set(method.space)


def test_an_expert_that_never_answers_has_the_lowest_score(tmp_path: Path) -> None:
    problem = caches(tmp_path)
    assert isinstance(problem, CachingProblem)
    rule = problem.policy(problem.case)
    rule.allowed[0] = False
    scores = rule(torch.rand(5, rule.observation_size))
    assert scores.shape == (5, 2 * len(rule.experts))
    assert (scores[:, 0] == -1e9).all()
