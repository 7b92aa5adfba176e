"""Lists the comparisons whose numbers must not change, and the expected differences."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

__all__ = ["COMPARISONS", "DEMO", "EXPECTED", "FILES", "Comparison", "words_of"]

FILES = "FILES/"
"""Placeholder, in a value, of the folder of `golden_tables.write_files`."""

EXPECTED: dict[str, str] = {}
"""Reasons for differences, by pattern (as in `fnmatch`) of `comparison/method/case/seed/split/part`.

The part of a row that only one tree has is `row`.
"""


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """One run of `compare`, independent of the command line's version. One setting is tried per method.

    Attributes:
        name: of the comparison in reports and in the committed file.
        methods: names; `compare` adds the ones that it always runs. Empty for the demo.
        env: the problem.
        table: a file of `golden_tables.write_files` without its suffix, an embedded source, or None.
        compute_weights: of `routing` and `cascade`.
        objective: other fields of the objective.
        problem: fields of the problem, such as the selection rule or an environment's options.
        seeds: training seeds.
        quick: the methods that the test runs; empty if the comparison is too slow for a test.
    """

    name: str
    methods: tuple[str, ...]
    env: str = "routing"
    table: str | None = "topics"
    compute_weights: tuple[float, ...] = ()
    objective: Mapping[str, Any] = field(default_factory=dict)
    problem: Mapping[str, Any] = field(default_factory=dict)
    seeds: int = 2
    quick: tuple[str, ...] = ()


_GATES = (
    "softmax_gate",
    "noisy_topk_gate",
    "switch_gate",
    "mixtral_gate",
    "deepseek_v2_gate",
    "deepseek_v3_gate",
    "expert_choice_gate",
    "sinkhorn_gate",
    "straight_through_gate",
    "remoe_gate",
    "em_gate",
)
_AGENTS = ("reinforce", "router_ppo", "exact_pg", "warm_exact_pg", "conditioned_pg", "priced_pg")
_BUDGET = ("exact_pg", "warm_exact_pg", "conditioned_pg", "priced_pg")
_LOAD = ("reinforce", "router_ppo", "exact_pg", "warm_exact_pg", "conditioned_pg", "a2c")
_BASELINES = ("ridge", "centroid", "knn", "group_label", "linucb", "thompson", "hash")
_CASCADE = ("exact_pg", "fitted_q", "thresholds", "automix", "lookahead", "softmax_gate", "warm_exact_pg")
_QUEUEING = (
    "rollout_iteration",
    "index_rule_late",
    "index_rule_paced",
    "index_rule",
    "least_wait",
    "shortest_queue",
    "power_of_two",
    "round_robin",
    "static_gate",
    "softmax_gate",
)
_CACHING = ("cross_entropy", "lru", "lfu", "pinned", "bonus", "index", "foresight", "belady")
_TOKEN_MOE = (
    "joint",
    "outcome_table",
    "reinforce",
    "softmax_gate",
    "straight_through",
    "ridge",
    "uniform",
)
_RULES = ("exact_pg", "reinforce", "warm_exact_pg", *_GATES, "ridge", "knn", "linucb")

DEMO = Comparison(name="demo", methods=(), table=None)

COMPARISONS: tuple[Comparison, ...] = (
    Comparison(
        name="routing",
        methods=(*_AGENTS, *_GATES, *_BASELINES),
        compute_weights=(0.05, 0.3),
        quick=("exact_pg", "softmax_gate", "switch_gate", "ridge", "knn", "linucb"),
    ),
    Comparison(name="sb3", methods=("ppo", "a2c", "dqn"), compute_weights=(0.1,), seeds=1),
    Comparison(
        name="digits",
        methods=("exact_pg", "warm_exact_pg", "conditioned_pg", *_GATES[:3], *_BASELINES),
        table="digits",
        compute_weights=(0.02, 0.1, 0.4),
        seeds=1,
    ),
    Comparison(
        name="pair",
        methods=("exact_pg", "warm_exact_pg", "softmax_gate", "ridge"),
        table="pair",
        compute_weights=(0.02, 0.1, 0.4),
    ),
    Comparison(
        name="bandit",
        methods=(*_AGENTS, "softmax_gate", "switch_gate", "em_gate", *_BASELINES),
        compute_weights=(0.1,),
        problem={"feedback": "bandit", "log.epsilon": 0.5},
    ),
    Comparison(
        name="budget",
        methods=(*_BUDGET, "softmax_gate", "switch_gate", "ridge", "knn"),
        objective={"budget": 0.35},
    ),
    Comparison(
        name="limit",
        methods=("exact_pg", "warm_exact_pg", "softmax_gate", "ridge"),
        compute_weights=(0.05, 0.2),
        objective={"limit": 0.5},
    ),
    Comparison(
        name="load",
        methods=(*_LOAD, "softmax_gate", "switch_gate", "deepseek_v3_gate", "ridge", "linucb"),
        compute_weights=(0.1,),
        objective={"load_weight": 0.1, "window": 32},
        seeds=1,
    ),
    Comparison(
        name="topk",
        methods=_RULES,
        compute_weights=(0.1,),
        problem={"select": "topk", "k": 2},
        seeds=1,
    ),
    Comparison(name="soft", methods=_RULES, compute_weights=(0.1,), problem={"select": "soft"}, seeds=1),
    Comparison(
        name="adaptive_k",
        methods=_RULES,
        compute_weights=(0.1,),
        problem={"select": "adaptive_k", "k": 3},
        seeds=1,
    ),
    Comparison(
        name="hierarchical",
        methods=_RULES,
        compute_weights=(0.1,),
        problem={"select": "hierarchical"},
        seeds=1,
    ),
    Comparison(
        name="expert_choice",
        methods=_RULES,
        compute_weights=(0.1,),
        problem={"select": "expert_choice"},
        seeds=1,
    ),
    Comparison(
        name="prompts",
        methods=("exact_pg", "warm_exact_pg", "softmax_gate", "ridge", "knn"),
        table="prompts",
        compute_weights=(0.05, 0.3),
        problem={"features.group": True},
    ),
    Comparison(
        name="hashed_prompts",
        methods=("exact_pg", "softmax_gate", "ridge"),
        table="prompts",
        compute_weights=(0.1,),
        problem={
            "features.text": "hashed",
            "features.analyser": "char_wb",
            "features.dimensions": 16,
            "features.group": True,
        },
        seeds=1,
    ),
    Comparison(
        name="cascade",
        methods=_CASCADE,
        env="cascade",
        table="three",
        compute_weights=(0.05, 0.2),
        problem={"limit": 2},
        quick=("thresholds", "automix", "lookahead", "softmax_gate"),
    ),
    Comparison(
        name="cascade_without_query",
        methods=(*_CASCADE, "ppo"),
        env="cascade",
        table="three",
        compute_weights=(0.05, 0.2),
        problem={"limit": 3, "features": False},
        seeds=1,
    ),
    Comparison(
        name="queueing",
        methods=_QUEUEING,
        env="queueing",
        problem={"loads": [0.5, 0.9], "episodes": 4, "window": 40},
    ),
    Comparison(
        name="queueing_budget",
        methods=(*_QUEUEING, "ppo"),
        env="queueing",
        problem={
            "arrivals": f"{FILES}trace.parquet",
            "loads": [0.8],
            "episodes": 4,
            "window": 40,
            "batch": 2,
            "replicas": [1, 2, 1, 1],
            "deadlines": [1.0, 4.0],
            "values": [2.0, 1.0],
            "shares": [1.0, 3.0],
            "miss_weight": 0.1,
            "mean_up": 60.0,
            "budget": 0.4,
        },
        seeds=1,
    ),
    Comparison(
        name="caching",
        methods=_CACHING,
        env="caching",
        problem={"resident": [0.5, 0.75], "episodes": 4, "window": 48, "wait_weight": 2.0},
    ),
    Comparison(
        name="caching_ppo",
        methods=("ppo",),
        env="caching",
        table="three",
        problem={"resident": [0.7], "episodes": 4, "window": 48},
        seeds=1,
    ),
    Comparison(
        name="token_moe",
        methods=_TOKEN_MOE,
        env="token_moe",
        table=None,
        problem={
            "experts_per_token": [1, 2],
            "length": 16,
            "train": 24,
            "validation": 12,
            "test": 12,
            "passes": 2,
        },
    ),
)


def words_of(tree: Path, one: Comparison, files: Path, out: Path) -> list[str]:
    """Return the arguments of `train_router.py`, with the option names of a tree.

    Args:
        tree: root of the repository; version 1 has a folder `router_rl/evaluation`.
        one: the comparison.
        files: folder of `golden_tables.write_files`.
        out: folder for `results.json`.
    """
    old = (tree / "router_rl" / "evaluation").is_dir()
    if one is DEMO:
        return ["demo", "--out", str(out), "--jobs", "1", *([] if old else ["--n-trials", "3"])]
    made = None if one.table is None else files / f"{one.table}.parquet"
    table = {} if made is None else {"table": str(made) if made.exists() else one.table}
    options = table | (_version1(one) if old else _version2(one))
    options |= {"out": str(out), "methods": ",".join(one.methods), "seeds": one.seeds}
    return ["compare", *(f"--{name}={_written(value, files)}" for name, value in options.items())]


def _version1(one: Comparison) -> dict[str, Any]:
    """Options of version 1: `--tries`, `--options.X` for an environment, all others at the top."""
    weights = {"compute_weights": ",".join(map(str, one.compute_weights))} if one.compute_weights else {}
    if one.env == "routing":
        return {"tries": 1, **weights, **one.objective, **one.problem}
    problem = dict(one.problem)
    if one.compute_weights:
        problem["compute_weights"] = list(one.compute_weights)
    return {"env": one.env, "tries": 1, **{f"options.{name}": value for name, value in problem.items()}}


def _version2(one: Comparison) -> dict[str, Any]:
    """Options of version 2: `--n-trials`, `--problem.X`, `--objective.X`, and `--compute-weights` for all."""
    weights = {"compute-weights": ",".join(map(str, one.compute_weights))} if one.compute_weights else {}
    new = _CASCADE_NAMES if one.env == "cascade" else _NAMES
    objective = {f"objective.{_NAMES.get(name, name)}": value for name, value in one.objective.items()}
    problem = {f"problem.{new.get(name, name)}": value for name, value in one.problem.items()}
    return {"env": one.env, "n-trials": 1, **weights, **objective, **problem}


# Options that version 2 names otherwise.
_NAMES = {
    "limit": "max_cost",
    "features.analyser": "features.analyzer",
    "resident": "resident_shares",
    "passes": "epochs",
}
_CASCADE_NAMES = {"limit": "max_experts", "features": "use_features"}


def _written(value: Any, files: Path) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return text.replace(FILES, f"{files}/")
