"""Speed targets of the training methods, and whether a benchmark meets them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .learners import ON_DEVICE

__all__ = ["Goal", "goals_of"]


@dataclass(frozen=True, kw_only=True)
class Goal:
    """A ratio with a target.

    Attributes:
        goal: what is divided by what.
        target: the ratio must be at least this.
        ratio: as measured; None where it could not be measured.
        at_least: the ratio is a lower bound, because the baseline ran into the time limit.
        met: whether the ratio reaches the target; False where it could not be measured.
    """

    goal: str
    target: float
    ratio: float | None
    at_least: bool
    met: bool


def goals_of(table: Mapping[str, Any]) -> list[Goal]:
    """The goals of one outcome table at one number of threads.

    Args:
        table: an entry of `tables` in the JSON of `bench`.
    """
    throughput = {row["learner"]: row["median"] for row in table["throughput"]}
    reach = {row["learner"]: row for row in table["time_to_reference"]}
    speedups = [reach[name]["speedup"] for name in ON_DEVICE if reach[name]["speedup"] is not None]
    best = max(speedups, default=None)
    lower = reach["router_ppo"]["at_least"]
    sweep = table["sweep"]["gate_s"] / table["sweep"]["warm_to_best_s"]
    return [
        _goal("SB3 PPO / best on-device method, seconds to reference", 100, best, lower),
        _goal("SB3 PPO / router_ppo, seconds to reference", 100, reach["router_ppo"]["speedup"], lower),
        _goal("exact_pg / bare loop, decisions per second", 0.9, throughput["exact_pg"] / throughput["bare"]),
        _goal("softmax_gate's trials / warm_exact_pg to its best, seconds", 1, sweep),
    ]


def _goal(goal: str, target: float, ratio: float | None, at_least: bool = False) -> Goal:
    met = ratio is not None and ratio >= target
    return Goal(goal=goal, target=target, ratio=ratio, at_least=at_least, met=met)
