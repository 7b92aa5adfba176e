"""The learners reach the optimum, and the exported policy with live state acts as in the environment."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch

from experts import InputError
from router_rl.exports.policy_files import write_policy
from router_rl.methods.cascade.cascade_training import (
    CascadeHyperparameters,
    ExactPGHyperparameters,
    fit_exact_pg,
    fit_fitted_q,
    greedy_utility,
)
from router_rl.methods.method import Run
from router_rl.problems.cascade.cascade_episodes import measure_episodes
from router_rl.routing import RouterError, load

FEW = ExactPGHyperparameters(steps=40, members=2, hidden=16)
SOLVED = {"steps": 240, "members": 1, "learning_rate": 1e-2, "batch": 32}


@pytest.fixture(scope="module")
def data(made):
    return made.data(0)


@pytest.fixture(scope="module")
def policy(made):
    return fit_exact_pg(made, FEW, Run(seed=0)).module


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fit", "hyperparameters"),
    [
        (fit_exact_pg, ExactPGHyperparameters(**SOLVED)),
        (fit_fitted_q, CascadeHyperparameters(**SOLVED)),
    ],
)
def test_the_learners_reach_the_optimum_solved_by_hand(solved, fit, hyperparameters):
    for seed in range(2):
        held_out = []
        run = Run(seed=seed, callback=lambda snapshot, kept=held_out: kept.append(snapshot))
        found = fit(solved, hyperparameters, run)
        for split in ("validation", "test"):
            utility = solved.evaluate(found, split).means()["utility"]
            assert utility == pytest.approx(0.65, abs=0.005)
        assert held_out[-1].best == pytest.approx(0.65, abs=0.05)
        assert held_out[-1].step == held_out[-1].total == hyperparameters.steps


def test_greedy_utility_is_what_the_environment_pays(made, data, policy):
    # With the beliefs of new rows in place of the out-of-fold ones, both observe the same.
    features = data.table.outcomes.features
    prior = policy.beliefs.prior(features)
    kept = data.fitted.prior.clone(), data.fitted.posterior.clone()
    data.fitted.prior.copy_(prior)
    data.fitted.posterior.copy_(policy.beliefs.posterior(prior, data.table.confidence))
    found = greedy_utility(policy, data, torch.arange(len(features)), 0.1)
    data.fitted.prior.copy_(kept[0])
    data.fitted.posterior.copy_(kept[1])
    measured = measure_episodes(policy, data.table, made.config, 0.1)
    np.testing.assert_allclose(found.numpy(), measured.utility, atol=1e-6)


def test_live_state_acts_as_the_environment(made, policy, tmp_path):
    write_policy(policy, tmp_path / "policy")
    live = load(tmp_path / "policy")
    rows, weight = torch.arange(80), 0.1
    core = made.core("test", None, lanes=len(rows), seed=0)
    core.begin(rows, weight)
    test = made.table.part("test")
    answers = torch.from_numpy(test.probabilities.argmax(axis=2))
    confidence = torch.full((len(rows), 4), float("nan"))
    running = torch.ones(len(rows), dtype=torch.bool)
    calls = 0
    for _ in range(4):
        observation = live.observe(
            core.table.outcomes.features[rows],
            confidence,
            torch.where(confidence.isnan(), -1, answers),
            compute_weight=weight,
        )
        assert observation[running].equal(core.observation()[running])
        expected = policy.act(core.observation())
        step = live.decide(observation)
        assert torch.where(step.ask >= 0, step.ask, step.answer + 4)[running].equal(expected[running])
        asks = running & (step.ask >= 0)
        confidence[asks, step.ask[asks]] = core.table.confidence[rows[asks], step.ask[asks]]
        calls += int(asks.sum())
        running = running & ~core.step(expected).terminated
    assert not running.any()
    assert calls > len(rows)  # some queries ask a second expert


def test_experts_that_are_down_and_the_maximum_are_masked(policy):
    features = torch.zeros(3, 2)
    confidence = torch.full((3, 4), float("nan"))
    up = torch.tensor([False, False, True, False]).expand(3, -1)
    step = policy.decide(policy.observe(features, confidence, compute_weight=0.1, may_ask=up))
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


def test_shapes_and_hyperparameters_are_checked(policy):
    with pytest.raises(RouterError, match=r"features must be \[T, 2\]"):
        policy.observe(torch.zeros(2, 3), torch.zeros(2, 4), compute_weight=0.1)
    with pytest.raises(InputError, match=r"method.members=6"):
        ExactPGHyperparameters(members=6)
    with pytest.raises(InputError, match=r"method.max_weight=0.1: is below min_weight"):
        CascadeHyperparameters(min_weight=0.2, max_weight=0.1)
    with pytest.raises(InputError, match=r"method.steps=0: is out of range; use a whole number from 1"):
        CascadeHyperparameters(steps=0)


@pytest.mark.slow
def test_the_exported_policy_needs_torch_alone(policy, tmp_path):
    write_policy(policy, tmp_path / "p")
    code = (
        "import sys, torch\n"
        "from router_rl.routing import load\n"
        f"p = load({str(tmp_path / 'p')!r})\n"
        "o = p.observe(torch.zeros(1, 2), torch.full((1, 4), float('nan')), compute_weight=.1)\n"
        "print(int(p.decide(o).ask), [m for m in ('gymnasium', 'envs', 'experts', 'safetensors') if m in "
        "sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip().endswith("[]")
