"""Stable-Baselines3's PPO learns an environment whose best action is known, and serves every problem."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from environment_tables import made_cascade, topics

from envs import build_caching, build_cascade, build_queueing
from router_rl import Objective
from router_rl.methods.method import Run
from router_rl.methods.registry import find_method
from router_rl.methods.sb3_any_env import PPOHyperparameters, fit_amortized, fit_case, train_ppo
from router_rl.methods.sb3_dqn import DQNHyperparameters, fit_dqn
from router_rl.problems.caching.problem import CachingProblem
from router_rl.problems.cascade.problem import CascadeProblem
from router_rl.problems.session.problem import SessionProblem

FEW = PPOHyperparameters(decisions=512, steps=4, batch=64)


def test_it_learns_which_expert_to_ask():
    """One expert is asked and answers: the reward is its quality minus its cost, which the features tell."""
    core = build_queueing("digits", 32, load=0.05, lateness_weight=0.0, compute_weight=1.0, window=16)
    hyperparameters = PPOHyperparameters(decisions=6_144, steps=32, learning_rate=5e-3, discount=0.0)
    policy = train_ppo(core, hyperparameters, seed=0)
    core.reset(7)
    actions = policy.act(core.observation())
    assert actions.dtype == torch.int64
    assert actions.shape == (32,)
    cheap = core.outcomes.compute.mean(dim=0) < 0.5
    assert cheap[actions].float().mean() > 0.9  # the most expensive expert costs more than it can earn


@pytest.mark.parametrize("build", [build_caching, build_cascade])
def test_its_actions_are_those_of_the_environment(build):
    core = build("digits", 8)
    policy = train_ppo(core, PPOHyperparameters(decisions=256, steps=16, batch=64), seed=1)
    core.reset(0)
    for _ in range(4):
        step = core.step(policy.act(core.observation()))
        core.clear(step.terminated)


def test_one_fit_serves_all_cases_of_a_cascade_and_one_case_of_the_others():
    assert find_method("cascade", "ppo").amortizes
    assert not find_method("caching", "ppo").amortizes
    assert not find_method("queueing", "ppo").amortizes


def test_it_measures_on_validation_without_changing_what_it_learns():
    problem = CascadeProblem(made_cascade(), [Objective(compute_weight=weight) for weight in (0.05, 0.2)])
    snapshots = []
    one = fit_amortized(problem, FEW, Run(seed=3, callback=snapshots.append))
    other = fit_amortized(problem, FEW, Run(seed=3))
    for case in problem.cases:
        found, expected = (problem.evaluate(policy, "test", case).utility for policy in (one, other))
        np.testing.assert_array_equal(found, expected)
    assert [snapshot.step for snapshot in snapshots] == [256, 512]
    rows = int((problem.table.split == "validation").sum())
    assert all(snapshot.validation.utility.shape == (rows,) for snapshot in snapshots)


def test_a_case_is_trained_in_its_own_core():
    problem = CachingProblem(topics(), resident_shares=(0.5, 1.0), window=8, episodes=2)
    case = problem.cases[0]
    policy = fit_case(problem.at(case), FEW, Run(seed=0))
    assert policy.env.venv.core.config.gpu_share == 0.5
    assert policy.env.venv.core.lanes == 64
    assert problem.evaluate(policy, "test", case).utility.shape == (2,)


@pytest.mark.slow
def test_dqn_learns_which_expert_is_right_and_reports_its_progress():
    """One expert is always right, the others never: the greedy policy sends every turn to it."""
    table = topics()
    table = replace(table, quality=np.tile([0.0, 0.0, 1.0, 0.0], (len(table), 1)))
    problem = SessionProblem(table, Objective(compute_weight=0.05), episodes=3, window=16, turns=4.0)
    snapshots = []
    few = DQNHyperparameters(decisions=3_200, lanes=16, batch=64, target_every=320, discount=0.5)
    policy = fit_dqn(problem, few, Run(seed=0, callback=snapshots.append))
    measured = problem.evaluate(policy, "test")
    assert measured.means()["quality"] > 0.95
    again = fit_dqn(problem, few, Run(seed=0))
    np.testing.assert_array_equal(problem.evaluate(again, "test").utility, measured.utility)
    assert [each.total for each in snapshots] == [3_200] * len(snapshots)
    assert len(snapshots) >= 16
    assert snapshots[-1].step <= 3_200
