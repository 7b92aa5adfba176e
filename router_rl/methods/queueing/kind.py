"""The queueing environment as `train --env queueing` and `compare --env queueing` know it."""

from __future__ import annotations

from pathlib import Path

import torch

from envs import QueueingCore

from ...exports.safetensors import write
from ...problems.problem import Case, EnvKind, Played
from ...problems.queueing.problem import DEFAULTS, QueueProblem, cases_of, prepare
from ...problems.queueing.queue_measurement import play_queues
from ...problems.queueing.queue_timeline import timeline_figures, trace
from ..sb3_any_env import PPO_LANES, ppo_method
from .methods import METHODS
from .queue_rules import QueuePolicy

__all__ = ["QUEUEING"]

_SEEDS = {"validation": 700_000, "test": 800_000}


@torch.inference_mode()
def _play(problem: QueueProblem, policy: QueuePolicy, case: Case, split: str) -> Played:
    """Play the episodes; utilities and parts are means over the requests of each."""
    load = case.values["load"]
    if (load, split) in policy.played:
        return policy.played[load, split]
    core = problem.tasks[load].core(split, problem.episodes, seed=_SEEDS[split])
    found = play_queues(core, policy.begin())
    facts = {name: value for name, value in found.means().items() if name.startswith("p")}
    parts = {"quality": found.quality, "compute": found.compute, "missed": found.missed.mean(axis=1)}
    parts |= {"lateness": found.lateness}
    if core.config.budget is not None:
        parts["overspend"] = found.overspend
    policy.played[load, split] = Played(utility=found.utility, parts=parts, facts=facts)
    return policy.played[load, split]


def _write(policy: QueuePolicy, folder: Path) -> bool:
    if policy.router is None:
        return False
    write(policy.router, folder)
    return True


def _ppo_core(problem: QueueProblem, case: Case, seed: int) -> QueueingCore:
    return problem.tasks[case.values["load"]].core("train", PPO_LANES, seed=1_000_000 * (seed + 1))


_PPO = ppo_method(
    _ppo_core, lambda actions: QueuePolicy(begin=lambda: lambda core, seen: actions(seen)), _play
)

QUEUEING = EnvKind(
    name="queueing",
    environment="RouterRL/Queueing-v0",
    about="send each request to an expert's queue",
    prepare=prepare,
    options=DEFAULTS,
    cases=cases_of,
    methods={**METHODS, _PPO.name: _PPO},
    always=("random", "best_single"),
    play=_play,
    rival="index_rule_late",
    trace=trace,
    figures=timeline_figures,
    write=_write,
)
