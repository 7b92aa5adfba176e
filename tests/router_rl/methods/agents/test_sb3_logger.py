"""Agents of Stable-Baselines3 leave no folder of logs in the system's folder of temporary files."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest

from envs import build_queueing
from experts import OutcomeTable
from router_rl import RoutingProblem, fit
from router_rl.bench.plain_ppo import PlainPPOHyperparameters
from router_rl.bench.plain_ppo import fit as fit_plain
from router_rl.bench.transitions import transitions_row
from router_rl.methods.method import Run
from router_rl.methods.sb3_any_env import PPOHyperparameters, train_ppo


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.delenv("SB3_LOGDIR", raising=False)
    return tmp_path


@pytest.mark.parametrize("method", ["ppo", "a2c", "dqn"])
def test_routing(temporary: Path, kinds: OutcomeTable, method: str) -> None:
    fit(method, RoutingProblem(kinds), hyperparameters={"decisions": 512})
    assert list(temporary.glob("SB3-*")) == []


def test_any_environment(temporary: Path) -> None:
    train_ppo(build_queueing("digits", 8), PPOHyperparameters(decisions=128, steps=8, batch=64), seed=0)
    assert list(temporary.glob("SB3-*")) == []


@pytest.mark.slow
def test_timings(temporary: Path, kinds: OutcomeTable) -> None:
    fit_plain(RoutingProblem(kinds), PlainPPOHyperparameters(decisions=2_048, n_steps=64), Run(seed=0))
    transitions_row("routing", kinds, repeats=1, seconds=0.01, lanes=8)
    assert list(temporary.glob("SB3-*")) == []
