"""Sessions with prompt caches: where switching models pays, and who finds it.

    python benchmarks/session.py map
    python benchmarks/session.py compare --out runs/session

`map` prints, for conversations of several lengths, price ratios and quality gaps, what the best rule without a
switch earns, what the best tuned rule earns, and what a planner that knows the whole conversation would earn
with the same predictions. `compare` compares the methods where there is room. Prints Markdown.

The table has two models and two topics: a small model that is right with probability .9 on one topic and .9
minus the gap on the other, and a large one that is right with probability .9 on both. Features tell the topic
with some noise.
"""

from __future__ import annotations

from itertools import product
from pathlib import Path
from typing import Any

import jsonargparse
import numpy as np
import torch
from rich.console import Console

from experts import OutcomeTable
from router_rl import Objective, SessionProblem, compare
from router_rl.methods.session.session_planner import measure_plan
from router_rl.methods.session.session_rules import RULES, tuned_rule
from router_rl.reports.markdown import markdown
from router_rl.reports.terminal import progress_of

LENGTHS = (4.0, 33.0, 100.0)  # median turns
RATIOS = (2.0, 5.0, 20.0)  # price of the large model over that of the small one
GAPS = (0.1, 0.3, 0.6)  # of quality on the hard topic
STAYS = ("best_single", "sticky")


def two_models(gap: float, rows: int = 2_000, noise: float = 0.3, seed: int = 0) -> OutcomeTable:
    """Return a table of a small and a large model on an easy and a hard topic.

    Args:
        gap: by how much the small model is worse on the hard topic.
        rows: T.
        noise: standard deviation of the feature that tells the topic, which is 0 or 1.
        seed: random seed.
    """
    rng = np.random.default_rng(seed)
    hard = rng.integers(0, 2, rows)
    chance = np.column_stack([0.9 - gap * hard, np.full(rows, 0.9)])
    return OutcomeTable(
        experts=["small", "large"],
        query_id=range(rows),
        features=np.column_stack([hard + noise * rng.normal(size=rows), rng.normal(size=rows)]),
        quality=rng.random((rows, 2)) < chance,
        cost=np.tile([0.2, 1.0], (rows, 1)),
        group=hard.astype(str),
        split=rng.permutation(np.repeat(["train", "validation", "test"], [rows // 2, rows // 4, rows // 4])),
        source="two models, two topics",
    )


def room(weight: float = 0.2, persistence: float = 0.9, window: int = 128, episodes: int = 32) -> None:
    """Print the map.

    Args:
        weight: compute weight: what a turn of the large model costs.
        persistence: probability that a turn keeps its topic.
        window: turns of an episode.
        episodes: of validation and of test.
    """
    torch.set_num_threads(1)
    console = Console(stderr=True)
    print(
        "| turns | price ratio | quality gap | without a switch | best rule | difference | planner | best |"
    )
    print("|---:|---:|---:|---:|---:|---:|---:|---|")
    for gap, turns, ratio in product(GAPS, LENGTHS, RATIOS):
        problem = SessionProblem(
            two_models(gap),
            Objective(compute_weight=weight),
            turns=turns,
            prices=(1.0, ratio),
            persistence=persistence,
            window=window,
            episodes=episodes,
        )
        earned = {
            name: {split: _utility(problem, name, split) for split in ("validation", "test")}
            for name in RULES
        }

        def best(names: Any, earned: Any = earned) -> tuple[str, np.ndarray]:
            name = max(names, key=lambda one: earned[one]["validation"].mean())
            return name, earned[name]["test"]

        _, stays = best(STAYS)
        name, switches = best(RULES)
        plan = measure_plan(problem, problem.case, "test", outcomes=False).utility
        error = 1.96 * (switches - stays).std(ddof=1) / len(stays) ** 0.5
        console.print(f"{turns:g} turns, ratio {ratio:g}, gap {gap:g}")
        print(
            f"| {turns:g} | {ratio:g} | {gap:g} | {stays.mean():.4f} | {switches.mean():.4f} "
            f"| {(switches - stays).mean():+.4f} ± {error:.4f} | {plan.mean():.4f} | `{name}` |",
            flush=True,
        )


def _utility(problem: SessionProblem, name: str, split: str) -> np.ndarray:
    return problem.evaluate(tuned_rule(problem, name), split).utility


def study(
    out: Path = Path("runs/session"),
    methods: tuple[str, ...] = (*RULES, "rollout_iteration", "router_ppo", "reinforce", "planner"),
    seeds: int = 5,
    n_trials: int = 1,
    episodes: int = 48,
    decisions: int = 100_000,
) -> None:
    """Compare where there is room: agent-like conversations, price ratio 5, quality gap .6.

    Args:
        out: folder for reports, JSON and finished fits.
        methods: see `train_router.py list`.
        seeds: training seeds.
        n_trials: hyperparameter settings for each method, chosen on validation.
        episodes: of 256 turns each, on validation and on test.
        decisions: not used by rules.
    """
    torch.set_num_threads(1)
    problem = SessionProblem(
        two_models(0.6), Objective(compute_weight=0.2), prices=(1.0, 5.0), episodes=episodes
    )
    with progress_of("fits of sessions", Console(stderr=True)) as progress:
        results = compare(
            problem, list(methods), seeds=seeds, n_trials=n_trials, out=out, progress=progress
        ).results
    print(markdown(results, "Agent-like conversations"), flush=True)


if __name__ == "__main__":
    jsonargparse.auto_cli({"map": room, "compare": study})
