"""Exported policies play whole episodes on live state, without gymnasium, as the greedy policy does."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from envs import CachingConfig, CascadeConfig, CascadeCore
from envs.caching import CachingCore, CachingTable
from envs.cascade import CascadeTable
from experts import OutcomeTable
from router_rl.exports.policy_files import write_policy
from router_rl.exports.safetensors import write
from router_rl.methods.queueing.index_router import index_router
from router_rl.problems.queueing.problem import QueueingProblem
from router_rl.routing.policies.caching_policy import CachingPolicy
from router_rl.routing.policies.cascade_beliefs import Beliefs
from router_rl.routing.policies.cascade_policy import CascadePolicy

ROOT = Path(__file__).resolve().parents[3]
NAMES, WIDTH = ["a", "b", "c", "d"], 3

# What is served: torch and the exported folder, nothing that trained it.
PROGRAM = """
import importlib.abc, json, sys

class Blocker(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("gymnasium", "stable_baselines3", "envs", "experts", "sklearn"):
            raise ImportError(f"{name} is blocked")

sys.meta_path.insert(0, Blocker())
import torch
from router_rl.routing import LiveQueues, load

folder, told = sys.argv[1], json.load(open(sys.argv[2]))
found = []
if told["kind"] == "queueing":
    queues = LiveQueues(load(folder), **told["made"])
    for step in told["steps"]:
        step["features"] = torch.tensor(step["features"])
        compute = step.pop("compute")
        found.append(queues.route(**step).experts[0].tolist())
        queues.used(compute)
else:
    policy = load(folder)
    for step in told["steps"]:
        given = {name: torch.tensor(value) for name, value in step.items()}
        step = policy.decide(policy.observe(**given))
        found.append([step[0].tolist(), step[1].tolist()])
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def table():
    rng = np.random.default_rng(0)
    rows = 120
    topic = rng.integers(0, 4, rows)
    return OutcomeTable(
        experts=NAMES,
        query_id=range(rows),
        features=rng.normal(size=(rows, WIDTH)),
        quality=rng.random((rows, 4)) < 0.3 + 0.5 * (np.arange(4) == topic[:, None]),
        cost=np.array([[1.0, 2.0, 4.0, 8.0]] * rows),
        probabilities=rng.dirichlet(np.ones(3), (rows, 4)),
        label=rng.integers(0, 3, rows),
        latency_s=rng.exponential(1.0, (rows, 4)) + 1e-3,
        group=topic.astype(str),
        split=np.repeat(["train", "validation", "test"], rows // 3),
    )


def beliefs(seed):
    made = Beliefs(WIDTH, len(NAMES), 2, 8)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in made.parameters():
            weight.normal_(generator=generator)
    return made.requires_grad_(False)


def served(folder, told):
    """The actions of a process that has the exported policy and the live state alone."""
    path = folder / "told.json"
    path.write_text(json.dumps(told))
    words = [sys.executable, "-c", PROGRAM, str(folder / "policy"), str(path)]
    done = subprocess.run(words, capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.slow
def test_cascade(table, tmp_path):
    outcomes = CascadeTable.of(table, 8.0)
    policy = CascadePolicy(NAMES, WIDTH, 3, outcomes.price.tolist(), beliefs(0), members=2, hidden=8)
    generator = torch.Generator().manual_seed(1)
    policy.initialise(generator).requires_grad_(False).last.normal_(0.0, 0.2, generator=generator)
    write_policy(policy, tmp_path / "policy")
    rows, weight = torch.arange(len(table)), 0.1
    core = CascadeCore(outcomes, CascadeConfig(), len(rows))
    seen = core.begin(rows, weight)
    answers = torch.from_numpy(table.probabilities.argmax(axis=2))
    going, steps, played = torch.ones(len(rows), dtype=torch.bool), [], []
    while going.any():
        asked = core.state.called
        steps.append(
            {
                "features": outcomes.outcomes.features.tolist(),
                "confidence": outcomes.confidence.masked_fill(~asked, float("nan")).tolist(),
                "answers": answers.masked_fill(~asked, -1).tolist(),
                "compute_weight": weight,
            }
        )
        action, _ = policy.actions(seen)
        played.append((going.clone(), action))
        going &= ~core.step(action).terminated
        seen = core.observation()
    assert len(steps) > 2  # some ask on
    found = served(tmp_path, {"kind": "cascade", "steps": steps})
    for (going, action), (ask, answer) in zip(played, found, strict=True):
        own = torch.where(torch.tensor(ask) >= 0, torch.tensor(ask), torch.tensor(answer) + 4)
        assert own[going].equal(action[going])


@pytest.mark.slow
def test_caching(table, tmp_path):
    config = CachingConfig(gpu_share=0.5, host_share=0.75, wait_weight=1.0, window=96)
    outcomes = CachingTable.of(table, 8.0, config)
    reload = torch.stack(config.profile.seconds(outcomes.size)).tolist()
    policy = CachingPolicy(NAMES, WIDTH, [0.01, 0.02, 0.04, 0.08], reload, beliefs(0), beliefs(1))
    policy.requires_grad_(False)
    policy.answer.copy_(torch.tensor([1.0, -0.4, 0.02, 0.01, 0.03, 0.01, 0.2, 1.5]))
    policy.keep.copy_(torch.tensor([0.4, 1.0, 0.1, -0.1, 0.8]))
    write_policy(policy, tmp_path / "policy")
    core = CachingCore(outcomes, config, 2, seed=3)
    idle, uses = torch.full((2, 4), float("inf")), torch.zeros(2, 4)
    steps, played = [], []
    for _ in range(config.window):
        state, seen = core.state, core.observation()
        action, _ = policy.actions(seen)
        live = (
            outcomes.outcomes.features[state.row],
            state.resident,
            seen[:, -16:-12],
            state.host,
            idle,
            uses,
        )
        names = ("features", "resident", "waits", "host", "idle", "uses")
        steps.append({name: part.tolist() for name, part in zip(names, live, strict=True)})
        played.append(action.T.tolist())
        core.step(action)
        chosen = torch.nn.functional.one_hot(action[:, 0], 4).bool()
        idle, uses = torch.where(chosen, 1.0, idle + 1.0), 0.95 * uses + chosen
    assert len({step[0][0] for step in played}) > 1
    assert served(tmp_path, {"kind": "caching", "steps": steps}) == played


@pytest.mark.slow
def test_queueing(table, tmp_path):
    problem = QueueingProblem(
        table, loads=1.1, window=96, deadlines=(2.0, 5.0), values=(2.0, 1.0), budget=0.3
    )
    router = index_router(problem)
    generator = torch.Generator().manual_seed(0)
    router.scorer.weights.copy_(torch.tensor([1.0, 0.1, 0.5, 0.1, 0.02, 0.3]))
    router.scorer.prices.normal_(0.0, 0.05, generator=generator)
    write(router, tmp_path / "policy")
    core = problem.core("test", problem.case, lanes=1, seed=5)
    steps, played = [], []
    for _ in range(96):
        seen = core.observation()
        expert = router(seen[:, :WIDTH], seen[:, WIDTH:]).experts[:, 0]
        waiting, taken, down = seen[0, WIDTH:-6].reshape(3, 4).tolist()
        at = core.state.step
        steps.append(
            {
                "features": seen[0, :WIDTH].tolist(),
                "now": float(core.now),
                "waiting": waiting,
                "taken": taken,
                "down": down,
                "deadline_s": float(core.state.episodes.deadline[0, at]),
                "value": float(core.state.episodes.value[0, at]),
            }
        )
        played.append(expert.tolist())
        steps[-1]["compute"] = float(core.step(expert).parts["compute"])
    assert len({one[0] for one in played}) > 1
    made = {"budget": 0.3, "requests": 96}
    assert served(tmp_path, {"kind": "queueing", "made": made, "steps": steps}) == played
