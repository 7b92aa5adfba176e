"""The cascade as `train --env cascade` and `compare --env cascade` know it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from envs.cascade import CascadeCore

from ...exports.policy_files import write_policy
from ...problems.cascade.cascade_episodes import play
from ...problems.cascade.cascade_tree import trace, tree_figures
from ...problems.cascade.problem import DEFAULTS, CascadeProblem, cases_of, prepare
from ...problems.problem import Case, EnvKind, Played
from ..sb3_any_env import PPO_LANES, ppo_method
from .cascade_oracle import ORACLE, OracleMark, play_oracle
from .methods import METHODS, Policy

__all__ = ["CASCADE"]


def _play(problem: CascadeProblem, policy: Any, case: Case, split: str) -> Played:
    if isinstance(policy, OracleMark):
        return play_oracle(problem, case, split)
    return play(policy.actions, problem.rows[split], problem.config, case.values["compute_weight"])


def _write(policy: Any, folder: Path) -> bool:
    if policy.module is None:
        return False
    write_policy(policy.module, folder)
    return True


def _ppo_core(problem: CascadeProblem, case: Case, seed: int) -> CascadeCore:
    # An episode draws its compute weight, so one policy serves them all.
    return CascadeCore(problem.rows["train"], problem.config, PPO_LANES, seed=1_000_000 * (seed + 1))


_PPO = ppo_method(_ppo_core, lambda actions: Policy(actions=actions), _play, once=True)

CASCADE = EnvKind(
    name="cascade",
    environment="RouterRL/Cascade-v0",
    about="ask an expert, see how sure it is, ask another or answer",
    prepare=prepare,
    options=DEFAULTS,
    cases=cases_of,
    methods={**METHODS, _PPO.name: _PPO, ORACLE.name: ORACLE},
    always=("best_single", "random", "oracle"),
    play=_play,
    rival="thresholds",
    trace=trace,
    figures=tree_figures,
    write=_write,
)
