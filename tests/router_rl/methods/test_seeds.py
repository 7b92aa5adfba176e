"""The seed of a run reaches the initial weights, the order of the data and the streams of environments."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from environment_tables import made_cascade, topics
from routing_methods import METHODS

from envs import Core
from experts import OutcomeTable
from router_rl import (
    CachingProblem,
    CascadeProblem,
    Objective,
    QueueingProblem,
    RoutingProblem,
    SessionProblem,
)
from router_rl.methods import sb3_any_env
from router_rl.methods.agents import on_policy
from router_rl.methods.agents.on_policy import Update
from router_rl.methods.agents.rollout import Trajectory
from router_rl.methods.cascade.cascade_training import METHODS as CASCADE_METHODS
from router_rl.methods.cascade.cascade_training import ExactPGHyperparameters
from router_rl.methods.method import Run
from router_rl.methods.queueing import index_rule, rollout_iteration
from router_rl.methods.sb3_any_env import PPOHyperparameters
from router_rl.problems.cascade import beliefs
from router_rl.problems.problem import Problem
from router_rl.routing import Router

STARTED = ("softmax_gate", "em_gate", "switch_gate", "deepseek_v3_gate", "exact_pg", "reinforce")
SHUFFLED = (
    *("softmax_gate", "noisy_topk_gate", "switch_gate", "deepseek_v2_gate", "deepseek_v3_gate"),
    *("sinkhorn_gate", "straight_through_gate", "exact_pg", "reinforce", "router_ppo", "conditioned_pg"),
    *("ppo", "a2c", "linucb", "thompson"),
)
SHORT = {"decisions": 256, "lanes": 64, "epochs": 1, "batch": 16, "minibatch": 64, "steps": 4}


def _fit(problem: RoutingProblem, name: str, seed: int) -> torch.Tensor:
    """Return the weights of a short fit."""
    method = METHODS[name]
    known = method.hyperparameters.__dataclass_fields__
    hyperparameters = method.configure({key: value for key, value in SHORT.items() if key in known})
    router = method.fit(problem, hyperparameters, Run(seed=seed, validate_every=64))
    return torch.cat([weight.detach().flatten() for weight in router.parameters()])


@pytest.fixture
def problem(kinds: OutcomeTable) -> RoutingProblem:
    rows = np.flatnonzero(np.arange(len(kinds)) % 3 == 0)
    return RoutingProblem(kinds.take(rows), Objective(compute_weight=0.05))


@pytest.mark.parametrize("name", STARTED)
def test_kills_initial_weights_of_every_seed_with_seed_0(
    problem: RoutingProblem, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    seeds: set[int] = set()
    new_router = RoutingProblem.new_router

    def record(problem: RoutingProblem, seed: int, **options: Any) -> Router:
        seeds.add(seed)
        return new_router(problem, seed, **options)

    monkeypatch.setattr(RoutingProblem, "new_router", record)
    _fit(problem, name, seed=5)
    assert seeds == {5}


@pytest.mark.parametrize("name", SHUFFLED)
def test_kills_data_streams_that_ignore_the_seed(
    problem: RoutingProblem, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All fits start from the same weights, so that only the data (and noise) can differ."""
    new_router = RoutingProblem.new_router

    def always_equal(problem: RoutingProblem, seed: int, **options: Any) -> Router:
        return new_router(problem, 0, **options)

    monkeypatch.setattr(RoutingProblem, "new_router", always_equal)
    zero, again, one = (_fit(problem, name, seed) for seed in (0, 0, 1))
    assert zero.equal(again)
    assert not zero.equal(one)


def test_kills_rollouts_that_ignore_the_seed(problem: RoutingProblem) -> None:
    """Queries and the noise of the actions get the seed of the run."""
    hyperparameters = METHODS["reinforce"].configure({"decisions": 64, "lanes": 64})
    rows: list[torch.Tensor] = []
    noise: list[int] = []

    def record(update: Update, rollout: Trajectory) -> None:
        rows.append(rollout.row)
        noise.append(update.generator.initial_seed())

    start = problem.new_router(0)
    for seed in (0, 1):
        on_policy.learn(problem, hyperparameters, Run(seed=seed), record, start)
    assert not rows[0].equal(rows[1])
    assert noise == [0, 1]


CORES: dict[str, Callable[[], Problem]] = {
    "cascade": lambda: CascadeProblem(made_cascade(rows=60), Objective(compute_weight=0.1)),
    "queueing": lambda: QueueingProblem(topics(), loads=(0.8,), episodes=2, window=16),
    "caching": lambda: CachingProblem(topics(), resident_shares=(0.5,), episodes=2, window=16),
    "session": lambda: SessionProblem(topics(), Objective(compute_weight=0.1), episodes=2, window=16),
}


@pytest.fixture
def _rough_beliefs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(beliefs, "_EPOCHS", 1)
    monkeypatch.setattr(beliefs, "_EXCHANGES", 1)


def _observation(core: Core) -> torch.Tensor:
    return core.observation()


@pytest.mark.usefixtures("_rough_beliefs")
@pytest.mark.parametrize("name", ["routing", *CORES])
def test_kills_environments_that_ignore_the_seed(name: str, problem: RoutingProblem) -> None:
    """Lane i of seed s has the stream s + i."""
    made: Any = problem if name == "routing" else CORES[name]()
    zero, one, far = (_observation(made.core("train", made.case, lanes=6, seed=seed)) for seed in (0, 1, 100))
    assert zero[1:].equal(one[:-1])
    assert not zero.equal(far)


@pytest.mark.usefixtures("_rough_beliefs")
@pytest.mark.parametrize("fit", ["fit_case", "fit_amortized"])
def test_kills_ppo_that_ignores_the_seed(fit: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights and actions get the seed of the run, and no query stream serves two seeds."""
    passed: list[tuple[int, set[int]]] = []

    def record(core: Core, hyperparameters: PPOHyperparameters, seed: int, report: Any) -> None:
        passed.append((seed, set(core.state.seed.tolist())))

    monkeypatch.setattr(sb3_any_env, "train_ppo", record)
    cascade = CORES["cascade"]()
    for seed in (0, 3):
        getattr(sb3_any_env, fit)(cascade, PPOHyperparameters(), Run(seed=seed))
    assert [seed for seed, _ in passed] == [0, 3]
    assert not passed[0][1] & passed[1][1]


def test_kills_an_index_rule_that_ignores_the_seed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Candidates differ between seeds, and the training episodes of an iteration do too."""
    draws: list[torch.Tensor] = []
    seeds: list[list[int]] = []

    def record(problem: Any, router: Router, each: torch.Tensor, split: str, lanes: int, seed: int) -> Any:
        if split == "train":
            draws.append(each)
            seeds[-1].append(seed)
        return torch.arange(float(len(each)))

    monkeypatch.setattr(index_rule, "_utility", record)
    queueing: Any = CORES["queueing"]()
    hyperparameters = index_rule.IndexHyperparameters(candidates=16, iterations=1)
    for seed in (0, 5):
        seeds.append([])
        index_rule.fit_index(queueing, hyperparameters, seed)
    assert not draws[0].equal(draws[2])
    assert not set(seeds[0]) & set(seeds[1])
    assert len(set(seeds[0])) == 2


def test_kills_rollout_iteration_that_ignores_the_seed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each iteration of each seed visits states of streams of its own."""

    class Stop(Exception):
        pass

    seeds: list[int] = []

    def record(problem: Any, scorer: Any, hyperparameters: Any, seed: int) -> Any:
        seeds.append(seed)
        raise Stop

    monkeypatch.setattr(rollout_iteration, "_fork_states", record)
    queueing: Any = CORES["queueing"]()
    for seed in (0, 1):
        start = index_rule.index_router(queueing)
        with pytest.raises(Stop):
            rollout_iteration.fit_rollouts(
                queueing, rollout_iteration.RolloutHyperparameters(), Run(seed=seed), start
            )
    assert abs(seeds[0] - seeds[1]) >= 1_000


@pytest.mark.usefixtures("_rough_beliefs")
def test_kills_cascade_learners_that_ignore_the_seed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The beliefs get the seed, and with the beliefs of one seed the policies still differ."""
    (method,) = (each for each in CASCADE_METHODS if each.name == "exact_pg")
    hyperparameters = ExactPGHyperparameters(steps=1, members=1, hidden=4, pool=2)
    cascade: Any = CORES["cascade"]()
    assert not cascade.data(0).fitted.fold.equal(cascade.data(1).fitted.fold)
    seeds: list[int] = []
    data = cascade.data(0)
    monkeypatch.setattr(CascadeProblem, "data", lambda problem, seed: seeds.append(seed) or data)
    zero, one = (method.fit(cascade, hyperparameters, Run(seed=seed)).module for seed in (0, 1))
    assert seeds == [0, 1]
    weights = (torch.cat([part.flatten() for part in policy.parameters()]) for policy in (zero, one))
    assert not torch.equal(*weights)
