"""Stable-Baselines3's PPO learns an environment where the best choice is plain, and plays all three."""

from __future__ import annotations

import pytest
import torch

from envs import build_caching, build_cascade, build_queueing
from router_rl.methods import sb3_any_env as ppo
from router_rl.methods.environments import KINDS
from router_rl.methods.sb3_any_env import PPOHyperparameters, fit_ppo


def test_it_learns_whom_to_ask():
    """One expert is asked and answers: the reward is its quality, which the features tell."""
    core = build_queueing("digits", 32, load=0.05, lateness_weight=0.0, compute_weight=1.0, window=16)
    actions = fit_ppo(
        core, PPOHyperparameters(decisions=6_144, steps=32, learning_rate=5e-3, discount=0.0), seed=0
    )
    core.reset(7)
    chosen = actions(core.observation())
    assert chosen.dtype == torch.int64
    assert chosen.shape == (32,)
    cheap = core.outcomes.compute.mean(dim=0) < 0.5
    assert cheap[chosen].float().mean() > 0.9  # the dear expert costs more than it can earn


@pytest.mark.parametrize("build", [build_caching, build_cascade])
def test_its_actions_are_those_of_the_environment(build):
    core = build("digits", 8)
    actions = fit_ppo(core, PPOHyperparameters(decisions=256, steps=16, batch=64), seed=1)
    core.reset(0)
    for _ in range(4):
        step = core.step(actions(core.observation()))
        core.clear(step.terminated)


def test_every_environment_of_whole_models_has_it_with_settings_chosen_on_validation(monkeypatch):
    few = [PPOHyperparameters(decisions=64, steps=1, batch=32, learning_rate=rate) for rate in (1e-3, 1e-4)]
    monkeypatch.setattr(ppo, "_TRIES", tuple(few))
    assert all("ppo" in kind.methods for name, kind in KINDS.items() if name != "token_moe")
    kind = KINDS["caching"]
    problem = kind.prepare("digits", {**kind.options, "resident": (0.5, 1.0), "window": 8, "episodes": 2})
    cases = kind.cases(problem)
    told = []
    policies = kind.methods["ppo"].fit(
        problem, cases, 0, 2, lambda done, total, what: told.append((done, total))
    )
    assert len(policies) == 2
    assert told[-1] == (256, 256)
    assert kind.play(problem, policies[0], cases[0], "test").utility.shape == (2,)
