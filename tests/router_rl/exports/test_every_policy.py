"""Every method's exported policy acts as the trained one, in a process without what trained it.

Methods are those of the registry: a new one is exported here, or is listed as one that has nothing to export.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from environment_tables import made_cascade, topics

from experts.llm.server_options import ContinuousOptions
from router_rl import CachingProblem, CascadeProblem, Objective, QueueingProblem, SessionProblem
from router_rl.exports import export
from router_rl.methods.fit import fit
from router_rl.methods.method import Bound
from router_rl.methods.queueing.weight_search import IndexHyperparameters
from router_rl.methods.registry import METHODS, find_method, method_names
from router_rl.routing import POLICIES, Router

ROOT = Path(__file__).resolve().parents[3]
LANES, STEPS = 12, 24

# What is served: torch and the exported folders, nothing that trained them.
PROGRAM = """
import importlib.abc, json, sys

class Blocker(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("gymnasium", "stable_baselines3", "envs", "experts", "sklearn"):
            raise ImportError(f"{name} is blocked")

sys.meta_path.insert(0, Blocker())
from pathlib import Path
import torch
from router_rl.routing import Router, load

torch.set_num_threads(1)
found = {}
for folder in sorted(path for path in Path(sys.argv[1]).iterdir() if path.is_dir()):
    policy = load(folder)
    seen = torch.load(folder.with_suffix(".pt"), weights_only=True)
    if isinstance(policy, Router):
        size = policy.features
        state = seen[:, size:] if policy.state else None
        actions = policy(seen[:, :size], state).experts[:, 0]
    else:
        actions = policy.act(seen)
    found[folder.name] = actions.tolist()
print(json.dumps(found))
"""

_INDEX = {"candidates": 4, "lanes": 2, "validation_lanes": 4, "iterations": 1}
_NETWORK = {"steps": 20, "members": 2, "hidden": 16}
_DECISIONS: dict[str, dict[str, Any]] = {
    "ppo": {"decisions": 512, "steps": 16, "batch": 64},
    "router_ppo": {"decisions": 512, "lanes": 8, "steps": 16},
    "reinforce": {"decisions": 512, "lanes": 8, "steps": 8},
}
_QUICK: dict[str, dict[str, dict[str, Any]]] = {
    "queueing": {
        **_DECISIONS,
        **dict.fromkeys(("index_rule", "index_rule_late", "index_rule_paced"), _INDEX),
        **dict.fromkeys(("llmd_tuned", "litellm_tuned", "latency_tuned"), _INDEX),
        "cross_entropy": {
            "index": IndexHyperparameters(**_INDEX),
            "population": 6,
            "elite": 2,
            "generations": 4,
            "lanes": 2,
            "validation_lanes": 4,
            "deviation": 0.1,
        },
        "rollout_iteration": {
            "index": IndexHyperparameters(**_INDEX),
            "iterations": 1,
            "states": 64,
            "horizon": 8,
            "experts": 2,
            "lanes": 16,
            "validation_lanes": 4,
            "guard": 0.0,
        },
        "softmax_gate": {"epochs": 2},
    },
    "cascade": {
        **_DECISIONS,
        **dict.fromkeys(("exact_pg", "guarded_pg", "fitted_q"), _NETWORK),
        "softmax_gate": {"epochs": 2},
        "warm_exact_pg": {"epochs": 2},
    },
    "session": {
        **_DECISIONS,
        "dqn": {"decisions": 512, "lanes": 8, "batch": 16},
        "rollout_iteration": {
            "iterations": 1,
            "lanes": 8,
            "times": 2,
            "horizon": 4,
            "epochs": 2,
            "validation_lanes": 4,
            "guard": 0.0,
        },
    },
    "caching": {
        **_DECISIONS,
        "cross_entropy": {"population": 4, "elite": 2, "generations": 2, "streams": 2},
    },
}
"""Hyperparameters of short fits; a method that is not named is fitted with its defaults."""

_SERVER_RULES = (
    *("least_finish", "vllm_balancer", "llmd", "least_busy", "usage_based", "latency_based", "cost_based"),
    *("latency_aware", "llmd_tuned", "litellm_tuned", "predicted_latency", "latency_tuned"),
)
NOT_EXPORTED = {
    "queueing": {"power_of_two", "round_robin", "random", "ppo", *_SERVER_RULES},
    "cascade": {
        *("thresholds", "automix", "lookahead", "cascade_routing", "adaptive_consistency", "beliefs"),
        "ppo",
    },
    "session": {"ppo", "dqn"},
    "caching": {"ppo"},
}
"""Methods whose policies have no form that inference code loads: some rules, and those of SB3."""


@cache
def problem_of(name: str) -> Any:
    weight = Objective(compute_weight=0.1)
    timed = replace(topics(), latency_s=np.random.default_rng(0).exponential(1.0, (240, 4)) + 1e-3)
    if name == "queueing":
        options = {"deadlines": (2.0, 5.0), "values": (2.0, 1.0), "shares": (0.5, 0.5), "budget": 0.8}
        return QueueingProblem(timed, weight, loads=0.9, window=48, episodes=3, mean_up=20.0, **options)
    if name == "queueing, engines":
        engines = ContinuousOptions(kv_tokens=4_000, max_seqs=4)
        rng = np.random.default_rng(1)
        tokens = {"tokens_in": rng.integers(1, 900, (240, 4)), "tokens_out": rng.integers(1, 90, (240, 4))}
        options = {"first_deadlines": (0.3,), "miss_weight": 0.25, "continuous": engines}
        counted = replace(timed, **tokens)
        return QueueingProblem(
            counted, weight, servers="continuous", loads=0.9, window=48, episodes=3, **options
        )
    if name == "cascade":
        return CascadeProblem(made_cascade(), weight)
    if name == "session":
        return SessionProblem(topics(), weight, episodes=3, window=24, turns=6.0, prices=(1.0, 2.0, 3.0, 5.0))
    return CachingProblem(topics(), weight, window=48, episodes=2, resident_shares=(0.5,))


def exported_form(policy: Any) -> Any:
    """Return what `export` writes of a fitted policy; None if there is nothing."""
    form = policy if isinstance(policy, (Router, *POLICIES.values())) else getattr(policy, "module", None)
    return form if isinstance(form, (Router, *POLICIES.values())) else None


def played(problem: Any, policy: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Return observations of a run and the trained policy's actions; odd lanes act at random."""
    acting = problem._policy(policy) if isinstance(problem, CascadeProblem) else policy
    core = problem.core("test", problem.case, lanes=LANES, seed=3)
    generator = torch.Generator().manual_seed(0)
    acting.start(core) if hasattr(acting, "start") else None
    seen, done = [], []
    for _ in range(STEPS):
        observation = core.observation()
        with torch.inference_mode():
            actions = acting.act(observation)
        seen.append(observation.clone())
        done.append(actions.clone())
        if actions.ndim == 1:
            valid = getattr(core, "action_mask", lambda: torch.ones(LANES, core.experts))().float()
            drawn = torch.multinomial(valid, 1, generator=generator).squeeze(1)
            actions = torch.where(torch.arange(LANES) % 2 == 0, actions, drawn)
        core.clear(core.step(actions).terminated)
    return torch.cat(seen), torch.cat(done)


def compared(problem: Any, policy: Any, seen: torch.Tensor, actions: torch.Tensor) -> torch.Tensor:
    """Return the rows [T] bool on which the exported form decides what the trained policy did."""
    if isinstance(problem, CascadeProblem) and isinstance(policy, Router):
        return actions < len(problem.experts)  # afterwards it returns that expert's answer
    return torch.ones(len(seen), dtype=torch.bool)


@pytest.mark.slow
@pytest.mark.parametrize("setting", ["queueing", "queueing, engines", "cascade", "session", "caching"])
def test_every_exported_policy_plays_as_trained(setting: str, tmp_path: Path) -> None:
    problem, name = problem_of(setting), setting.partition(",")[0]
    expected: dict[str, list[Any]] = {}
    rows: dict[str, torch.Tensor] = {}
    nothing = set[str]()
    for method in method_names(name):
        found = find_method(name, method)
        if isinstance(found, Bound) or found.refusal(problem) is not None:
            continue
        policy = fit(method, problem, hyperparameters=_QUICK[name].get(method))
        form = exported_form(policy)
        if form is None:
            nothing.add(method)
            continue
        seen, actions = played(problem, policy)
        export(form, tmp_path / method, rows=problem)
        if isinstance(form, Router) and form.stochastic:
            shutil.rmtree(tmp_path / method)  # draws at random each time
            continue
        torch.save(seen, tmp_path / f"{method}.pt")
        rows[method] = compared(problem, form, seen, actions)
        expected[method] = actions.tolist()
    assert nothing == NOT_EXPORTED[name] & (nothing | set(expected))
    words = [sys.executable, "-c", PROGRAM, str(tmp_path)]
    done = subprocess.run(words, capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    loaded = json.loads(done.stdout)
    assert set(loaded) == set(expected)
    for method, actions in expected.items():
        kept = rows[method]
        assert int(kept.sum()) > LANES
        differs = (torch.tensor(loaded[method])[kept] != torch.tensor(actions)[kept]).sum()
        assert not int(differs), f"{method}: {int(differs)} of {int(kept.sum())} actions differ"
    varied = [method for method in expected if len({json.dumps(each) for each in expected[method]}) > 1]
    assert {"router_ppo", "reinforce"} & set(varied)


def test_every_method_of_the_registry_is_exported_or_listed() -> None:
    for name, listed in NOT_EXPORTED.items():
        assert listed <= set(method_names(name))
        assert set(_QUICK[name]) <= set(method_names(name))
    tested = {f"{name}.{method}" for name in NOT_EXPORTED for method in method_names(name)}
    others = {entry for entry in METHODS if entry.partition(".")[0] not in ("routing", "token_moe")}
    assert others == tested  # a new problem with policies joins `problem_of`
