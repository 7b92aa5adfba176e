"""Seconds of `router_ppo` and of Stable-Baselines3's PPO to the same validation utility, without a cut-off.

    python benchmarks/ppo_speed.py --decisions 10000000

SB3's PPO trains for `--decisions` environment steps. The utility to reach is the highest that it measured,
whenever that was; `router_ppo` trains with its defaults until it reaches it. Both measure the validation rows
every 4,096 decisions, and the time counts. Prints Markdown. Run it on an otherwise idle machine.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from statistics import median

import jsonargparse
import torch

from experts import open_table
from router_rl.bench.learner_clock import seconds_to_reach
from router_rl.bench.learners import BASELINES, LEARNERS, Learner
from router_rl.methods.method import Run
from router_rl.methods.training_loop import Snapshot
from router_rl.problems.routing.problem import RoutingProblem

_EVERY = 4096  # decisions between two measurements
_OURS = "router_ppo"


def main(
    decisions: int = 10_000_000,
    table: str = "digits",
    baselines: Sequence[str] = BASELINES,
    seeds: int = 3,
    limit: float = 600.0,
) -> None:
    """Train and print.

    Args:
        decisions: environment steps of SB3's PPO.
        table: name of an embedded source.
        baselines: `sb3_ppo` (its defaults) and `sb3_ppo_large` (one update on each large rollout).
        seeds: number of training seeds.
        limit: seconds after which `router_ppo` is stopped.
    """
    torch.set_num_threads(1)
    learners = {each.name: each for each in LEARNERS}
    problem = RoutingProblem(open_table(table))
    for name in (*baselines, _OURS):  # what loads at the first use is not timed
        _best(replace(learners[name], decisions=1), problem, 0, 2 * _EVERY)
    print(f"{table}, one thread, {decisions:,} steps of SB3's PPO.\n")
    print("| baseline | seed | its best utility | its s | at step | router_ppo, s | ratio |")
    print("|---|---:|---:|---:|---:|---:|---:|", flush=True)
    for name in baselines:
        ratios: list[float] = []
        for seed in range(seeds):
            best, seconds, step = _best(learners[name], problem, seed, decisions)
            ours = seconds_to_reach(
                learners[_OURS], problem, best, validate_every=_EVERY, limit=limit, seed=seed
            )
            ratios.append(seconds / ours)
            reached = f"{ours:.3f} | {ratios[-1]:.0f}" if math.isfinite(ours) else "not reached | 0"
            print(f"| {name} | {seed} | {best:.4f} | {seconds:.1f} | {step:,} | {reached} |", flush=True)
        print(f"| {name} | median | | | | | {median(ratios):.0f} |", flush=True)


class _Enough(Exception):
    pass


def _best(learner: Learner, problem: RoutingProblem, seed: int, decisions: int) -> tuple[float, float, int]:
    """Train; return the highest validation utility, and the seconds and decisions until it was measured."""
    start = time.perf_counter()
    best, seconds, at = -math.inf, 0.0, 0

    def callback(snapshot: Snapshot) -> None:
        nonlocal best, seconds, at
        if snapshot.step and snapshot.best > best:
            best, seconds, at = snapshot.best, time.perf_counter() - start, snapshot.step
        if snapshot.step >= decisions:
            raise _Enough

    with suppress(_Enough):
        run = Run(seed=seed, callback=callback, validate_every=_EVERY)
        learner.fit(problem, learner.hyperparameters(problem, None), run)
    return best, seconds, at


if __name__ == "__main__":
    jsonargparse.auto_cli(main)
