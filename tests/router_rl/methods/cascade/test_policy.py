"""The learner reaches the optimum, and the exported policy with live state acts as the environment's."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch

from envs import CascadeConfig, CascadeCore
from router_rl.exports.policy_files import write_policy
from router_rl.methods.cascade.cascade_training import CascadeHyperparameters, fit_cascade, greedy_utility
from router_rl.problems.cascade.cascade_data import CascadeData
from router_rl.problems.cascade.cascade_episodes import play
from router_rl.routing import RouterError
from router_rl.routing.policies.policy_storage import load_policy

FEW = CascadeHyperparameters(steps=40, members=2, hidden=16)


@pytest.fixture(scope="module")
def data(made):
    return CascadeData.of(made)


@pytest.fixture(scope="module")
def policy(data):
    return fit_cascade(data, 3, (0.1, 0.4), FEW, 0)[0]


@pytest.mark.parametrize("learner", ["gradient", "regression"])
def test_the_learner_reaches_the_hand_solved_optimum(solved, learner):
    data = CascadeData.of(solved)
    settings = CascadeHyperparameters(steps=240, members=1, learner=learner, learning_rate=1e-2, batch=32)
    for seed in range(2):
        found, held = fit_cascade(data, 3, (0.5,), settings, seed)
        assert held == pytest.approx(0.65, abs=0.01)
        earned = play(lambda seen, p=found: p.actions(seen)[0], data.table, CascadeConfig(), 0.5)
        assert earned.means()["utility"] == pytest.approx(0.65, abs=0.005)


def test_greedy_utility_is_what_the_environment_pays(data, policy):
    # With the beliefs of new rows in place of those out of fold, both see the same.
    features = data.table.outcomes.features
    prior = policy.beliefs.prior(features)
    data.fitted.prior.copy_(prior)
    data.fitted.posterior.copy_(policy.beliefs.posterior(prior, data.table.confidence))
    found = greedy_utility(policy, data, torch.arange(len(features)), 0.1)
    earned = play(lambda seen: policy.actions(seen)[0], data.table, CascadeConfig(), 0.1)
    np.testing.assert_allclose(found.numpy(), earned.utility, atol=1e-6)


def test_live_state_acts_as_the_environment(made, data, policy, tmp_path):
    write_policy(policy, tmp_path / "policy")
    live = load_policy(tmp_path / "policy")
    table, rows, weight = data.table, torch.arange(200), 0.1
    core = CascadeCore(table, CascadeConfig(), len(rows))
    core.begin(rows, weight)
    answers = torch.from_numpy(made.probabilities.argmax(axis=2))[rows]
    confidence = torch.full((len(rows), 4), float("nan"))
    going = torch.ones(len(rows), dtype=torch.bool)
    asked_twice = 0
    for _ in range(4):
        seen = live.observe(
            table.outcomes.features[rows],
            confidence,
            torch.where(confidence.isnan(), -1, answers),
            compute_weight=weight,
        )
        assert seen[going].equal(core.observation()[going])
        expected, _ = policy.actions(core.observation())
        step = live.decide(seen)
        assert torch.where(step.ask >= 0, step.ask, step.answer + 4)[going].equal(expected[going])
        asks = going & (step.ask >= 0)
        confidence[asks, step.ask[asks]] = table.confidence[rows[asks], step.ask[asks]]
        asked_twice += int(asks.sum())
        going = going & ~core.step(expected).terminated
    assert not going.any()
    assert asked_twice > len(rows)  # some ask on


def test_dead_experts_and_the_limit_are_masked(policy):
    features = torch.zeros(3, 2)
    confidence = torch.full((3, 4), float("nan"))
    alive = torch.tensor([False, False, True, False]).expand(3, -1)
    step = policy.decide(policy.observe(features, confidence, compute_weight=0.1, may_ask=alive))
    assert step.ask.tolist() == [2, 2, 2]
    confidence[:, :3] = 0.4
    step = policy.decide(policy.observe(features, confidence, compute_weight=0.0))
    assert (step.ask == -1).all()
    assert (step.answer < 3).all()


def test_a_row_that_is_not_finite_takes_the_fallback(policy):
    features = torch.tensor([[float("nan"), 0.0], [0.0, float("inf")], [0.0, 0.0]])
    confidence = torch.full((3, 4), float("nan"))
    confidence[1, 2] = 0.5
    step = policy.decide(policy.observe(features, confidence, compute_weight=0.1))
    assert step.fallback.tolist() == [True, True, False]
    assert step.ask[0] == 0  # the cheapest
    assert step.answer[1] == 2


def test_shapes_and_files_are_checked(policy, tmp_path):
    with pytest.raises(RouterError, match=r"features must be \[T, 2\]"):
        policy.observe(torch.zeros(2, 3), torch.zeros(2, 4), compute_weight=0.1)
    with pytest.raises(RouterError, match="no readable policy"):
        load_policy(tmp_path)
    write_policy(policy, tmp_path / "p")
    weights = tmp_path / "p" / "policy.safetensors"
    weights.write_bytes(weights.read_bytes()[:-4] + b"\0\0\0\1")
    with pytest.raises(RouterError, match="not from one export"):
        load_policy(tmp_path / "p")


def test_the_exported_policy_needs_torch_alone(policy, tmp_path):
    write_policy(policy, tmp_path / "p")
    code = (
        "import sys, torch\n"
        "from router_rl.routing.policies.policy_storage import load_policy\n"
        f"p = load_policy({str(tmp_path / 'p')!r})\n"
        "seen = p.observe(torch.zeros(1, 2), torch.full((1, 4), float('nan')), compute_weight=.1)\n"
        "print(int(p.decide(seen).ask), [m for m in ('gymnasium', 'envs', 'experts', 'safetensors') if m in "
        "sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip().endswith("[]")
