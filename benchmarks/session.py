"""Sessions with prompt caches: where switching models pays, and who finds it.

    python benchmarks/session.py --out runs/session
    python benchmarks/session.py --parts '[real]' --data FOLDER

Prints Markdown, in parts:

- `map`: for conversations of several lengths, price ratios and quality gaps, what the best rule without a
  switch earns, what the best tuned rule earns, and what a planner that knows the whole conversation would
  earn with the same predictions;
- `compare`: all methods where there is room;
- `real`: recorded conversations and a table of language models with list prices; FOLDER holds
  `zeroeval_pool27.parquet` and `trace_mooncake_conversation.parquet`.

The table of the first two has two models and two topics: a small model that is right with probability .9 on
one topic and .9 minus the gap on the other, and a large one that is right with probability .9 on both.
Features tell the topic with some noise.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonargparse
import numpy as np
import torch
from real_tables import split_by_fold
from rich.console import Console

from experts import OutcomeTable
from router_rl import Objective, SessionProblem, compare
from router_rl.methods.session.session_planner import measure_plan
from router_rl.methods.session.session_rules import RULES, tuned_rule
from router_rl.problems.feature_config import FeatureConfig
from router_rl.reports.markdown import markdown
from router_rl.reports.terminal import progress_of

# Median turns, and price of the large model over that of the small one.
CELLS = ((4.0, 5.0), (33.0, 2.0), (33.0, 5.0), (33.0, 20.0), (100.0, 5.0))
GAPS = (0.6, 0.3, 0.1)  # of quality on the hard topic
STAYS = ("best_single", "sticky")
LEARNERS = ("rollout_iteration", "router_ppo", "reinforce", "ppo", "dqn")
WEIGHT = 0.2  # what a turn of the most expensive model costs, in utility
# US$ per million input tokens (the providers' lists, July 2024 to February 2025).
POOL = {"gpt-4o-mini-2024-07-18": 0.15, "deepseek-v2.5-0908": 0.14, "claude-3-5-sonnet-20241022": 3.0}


def main(
    out: Path = Path("runs/session"),
    parts: tuple[str, ...] = ("map", "compare"),
    data: Path | None = None,
    methods: tuple[str, ...] = (*RULES, *LEARNERS, "planner", "dynamic_programming"),
    seeds: int = 5,
    n_trials: int = 1,
    episodes: int = 32,
    window: int = 128,
) -> None:
    """Measure.

    Args:
        out: folder for the reports, JSON and finished fits of `compare`.
        parts: some of `map`, `compare` and `real`.
        data: folder of the recorded tables and traces.
        methods: of `compare`, see `train_router.py list`.
        seeds: training seeds of `compare`.
        n_trials: hyperparameter settings for each method of `compare`, chosen on tuning rows.
        episodes: of `map` and `real`; `compare` has 48 of 256 turns.
        window: turns of an episode of `map` and `real`.
    """
    torch.set_num_threads(1)
    console = Console(stderr=True)
    if "map" in parts:
        table(_map({"window": window, "episodes": episodes}), console)
    if "real" in parts:
        assert data is not None, "give --data"
        table(_real(data, {"window": window, "episodes": episodes}), console)
    if "compare" in parts:
        problem = SessionProblem(two_models(0.6), Objective(compute_weight=WEIGHT), prices=(1.0, 5.0))
        with progress_of("fits of sessions", console) as progress:
            results = compare(
                problem, list(methods), seeds=seeds, n_trials=n_trials, out=out, progress=progress
            ).results
        print(markdown(results, "Agent-like conversations, price ratio 5, quality gap .6"), flush=True)


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


def table(rows: Iterable[tuple[str, SessionProblem]], console: Console) -> None:
    """Print a row for each problem: what is earned without a switch, by the best rule, and by a planner."""
    print(
        "| conversations | without a switch | best rule | difference (95% CI) | planner | best rule's name |"
    )
    print("|---|---:|---:|---:|---:|---|")
    for label, problem in rows:
        known = {name: _utility(problem, name, "validation").mean() for name in RULES}
        stays, best = (max(names, key=lambda name: known[name]) for names in (STAYS, RULES))
        fixed, switches = (_utility(problem, name, "test") for name in (stays, best))
        gain = switches - fixed
        error = 1.96 * gain.std(ddof=1) / len(gain) ** 0.5
        plan = measure_plan(problem, problem.case, "test", outcomes=False).utility.mean()
        console.print(label)
        print(
            f"| {label} | {fixed.mean():.4f} | {switches.mean():.4f} "
            f"| {gain.mean():+.4f} ({gain.mean() - error:+.4f} to {gain.mean() + error:+.4f}) "
            f"| {plan:.4f} | `{best}` |",
            flush=True,
        )


def _map(fixed: dict[str, Any]) -> Iterable[tuple[str, SessionProblem]]:
    for gap in GAPS:
        problem = SessionProblem(two_models(gap), Objective(compute_weight=WEIGHT), **fixed)
        for turns, ratio in CELLS:
            label = f"{turns:g} turns, prices 1 to {ratio:g}, gap {gap:g}"
            yield label, problem.changed(turns=turns, prices=(1.0, ratio))


def _real(data: Path, fixed: dict[str, Any]) -> Iterable[tuple[str, SessionProblem]]:
    whole = split_by_fold(OutcomeTable.read(data / "zeroeval_pool27.parquet"))
    at = [whole.experts.index(name) for name in POOL]
    columns = {name: getattr(whole, name) for name in ("tokens_in", "tokens_out")}
    pool = replace(
        whole,
        experts=tuple(POOL),
        quality=whole.quality[:, at],
        cost=whole.cost[:, at],
        **{name: None if value is None else value[:, at] for name, value in columns.items()},
    )
    options: dict[str, Any] = {"prices": tuple(POOL.values()), **fixed}
    objective = Objective(compute_weight=WEIGHT)
    trace = str(data / "trace_mooncake_conversation.parquet")
    recorded = SessionProblem(
        pool, objective, sessions=trace, features=FeatureConfig(dimensions=16), **options
    )
    generated = SessionProblem(recorded.table, objective, **options)  # with the features of the other
    for name, problem in (("Mooncake", recorded), ("agent-like", generated)):
        for persistence in (0.9, 0.5):
            yield f"{name}, topics persist with {persistence:g}", problem.changed(persistence=persistence)


def _utility(problem: SessionProblem, name: str, split: str) -> np.ndarray:
    return problem.evaluate(tuned_rule(problem, name), split).utility


if __name__ == "__main__":
    jsonargparse.auto_cli(main)
