"""Caching as `train --env caching` and `compare --env caching` know it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from envs.caching import CachingCore

from ...exports.policy_files import write_policy
from ...problems.caching.cache_episodes import play_served
from ...problems.caching.memory_curve import memory_curve
from ...problems.caching.problem import DEFAULTS, CachingProblem, cases_of, prepare
from ...problems.problem import Case, EnvKind, Figure, Played, Row, Traces
from ..sb3_any_env import PPO_LANES, ppo_method
from .cache_rules import CachedPolicy
from .methods import METHODS

__all__ = ["CACHING"]

_SEEDS = {"validation": 600_000, "test": 800_000}
_SHOWN = 96  # requests of the residency figure


def _core(problem: CachingProblem, case: Case, split: str, lanes: int) -> CachingCore:
    share = case.values["resident_share"]
    return CachingCore(problem.rows[share, split], problem.configs[share], lanes, seed=_SEEDS[split])


def _play(problem: CachingProblem, policy: CachedPolicy, case: Case, split: str) -> Played:
    core = _core(problem, case, split, problem.episodes)
    return play_served(policy.begin(core), core)[0]


def _trace(problem: CachingProblem, policy: CachedPolicy, case: Case) -> dict[str, Any]:
    """Who was resident and who answered in the first requests of one test episode."""
    core = _core(problem, case, "test", 1)
    _, resident, answered = play_served(policy.begin(core), core)
    return {
        "case": case.label,
        "experts": list(problem.names),
        "resident": [held[0].int().tolist() for held in resident[:_SHOWN]],
        "answered": [int(one[0]) for one in answered[:_SHOWN]],
    }


def _figures(traces: Traces, summary: Sequence[Row]) -> list[Figure]:
    note = "One test episode, request after request. Light: in GPU memory; dark: the one that answers."
    over_time = [
        Figure(f"Residency over time: {name}, {found['case']}", note, _drawn(found))
        for name, found in traces.items()
    ]
    return [*memory_curve(summary), *over_time]


def _drawn(found: Mapping[str, Any]) -> str:
    cell, row, left = 7, 16, 170
    width, height = left + cell * len(found["answered"]), row * len(found["experts"]) + 4
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" role="img">'
    ]
    for expert, name in enumerate(found["experts"]):
        y = row * expert
        parts.append(f'<text x="0" y="{y + 12}">{escape(name)}</text>')
        for at, held in enumerate(found["resident"]):
            answers = found["answered"][at] == expert
            if held[expert] or answers:
                colour = "#2563ab" if answers else "#4c8dd655"
                parts.append(
                    f'<rect x="{left + cell * at}" y="{y + 1}" width="{cell - 1}" height="{row - 3}" '
                    f'fill="{colour}"/>'
                )
    return "".join([*parts, "</svg>"])


def _write(policy: CachedPolicy, folder: Path) -> bool:
    if policy.module is None:
        return False
    write_policy(policy.module, folder)
    return True


def _ppo_core(problem: CachingProblem, case: Case, seed: int) -> CachingCore:
    share = case.values["resident_share"]
    return CachingCore(
        problem.rows[share, "train"], problem.configs[share], PPO_LANES, seed=1_000_000 * (seed + 1)
    )


_PPO = ppo_method(_ppo_core, lambda actions: CachedPolicy(begin=lambda core: actions), _play)

CACHING = EnvKind(
    name="caching",
    environment="RouterRL/Caching-v0",
    about="not all experts fit in memory: whom to ask, load and drop",
    prepare=prepare,
    options=DEFAULTS,
    cases=cases_of,
    methods={**METHODS, _PPO.name: _PPO},
    always=("lru", "belady"),
    play=_play,
    trace=_trace,
    figures=_figures,
    write=_write,
)
