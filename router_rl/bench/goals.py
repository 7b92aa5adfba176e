"""What the measurements were meant to show, and whether they do."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .learners import ON_DEVICE

__all__ = ["Goal", "goals_of"]


@dataclass(frozen=True, kw_only=True)
class Goal:
    """A ratio that was to be at least a target.

    Attributes:
        goal: in words.
        target: the bound.
        found: the ratio; None where it could not be measured.
        at_least: the ratio is itself only a lower bound, its denominator having met the time limit.
        met: whether the goal is met; a ratio that could not be measured does not meet it.
    """

    goal: str
    target: float
    found: float | None
    at_least: bool
    met: bool


def goals_of(table: Mapping[str, Any]) -> list[Goal]:
    """The goals of one table at one number of threads.

    Args:
        table: an entry of `tables` in the JSON of `bench`.
    """
    pace = {row["learner"]: row["median"] for row in table["pace"]}
    reach = {row["learner"]: row for row in table["reach"]}
    speedups = [reach[name]["speedup"] for name in ON_DEVICE if reach[name]["speedup"] is not None]
    lower = reach["router_ppo"]["at_least"]
    sweep = table["sweep"]["gate_s"] / table["sweep"]["warm_to_best_s"]
    return [
        _goal("best on-device learner over SB3 PPO, seconds", 100.0, max(speedups, default=None), lower),
        _goal("router_ppo over SB3 PPO, seconds", 40.0, reach["router_ppo"]["speedup"], lower),
        _goal("exact_pg over the bare loop, decisions/s", 0.8, pace["exact_pg"] / pace["bare"]),
        _goal("softmax gate's sweep over warm_exact_pg to its best, seconds", 1.0, sweep),
    ]


def _goal(goal: str, target: float, found: float | None, at_least: bool = False) -> Goal:
    met = found is not None and found >= target
    return Goal(goal=goal, target=target, found=found, at_least=at_least, met=met)
