"""Routing to language model servers: learned policies and tuned rules on engines and rate-limited APIs.

    python benchmarks/model_servers.py FOLDER --out runs/model_servers

FOLDER holds `zeroeval_pool27.parquet`, `trace_azure2023_conv.parquet`, `trace_azure2023_code.parquet` and
`trace_mooncake_conversation.parquet`. Outcomes are those of four models of ZeroEval; arrivals and the lengths
of prompts and answers are those of the traces; servers are simulated, with published constants. The first
half of an Azure trace trains, the next eighth validates, the eighth after it selects the strongest rival, the
last quarter tests; queries differ too. Each fitted policy is also tested on the last quarter of the Mooncake
trace, on which nothing is fitted or selected. Prints Markdown; an interrupted run resumes.

`trace_mooncake_synthetic.parquet` is sealed (docs/benchmarks/sealed.md): with `--open_sealed true` it takes
the place of Azure's trace.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonargparse
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from queueing import SEALED, zeroeval

from envs.traces import open_arrivals
from experts import OutcomeTable
from experts.io.atomic import replacing, write_json
from experts.llm.server_options import ApiOptions, ContinuousOptions
from router_rl import Objective, QueueingProblem, fit
from router_rl.methods.queueing.price_search import PriceHyperparameters
from router_rl.methods.queueing.weight_search import IndexHyperparameters
from router_rl.methods.registry import find_method
from router_rl.problems.feature_config import FeatureConfig
from router_rl.problems.statistics import interval, paired_difference

CONV, CODE = "trace_azure2023_conv.parquet", "trace_azure2023_code.parquet"
POOL = (
    *("gpt-4o-mini-2024-07-18", "claude-3-5-sonnet-20241022", "gemini-1.5-flash"),
    "Meta-Llama-3.1-8B-Instruct",
)
# The second engine has the constants of Llama-3.3-70B on four H100, the others those of Llama-3.1-8B on an
# A100. Caches and seats are assumed and small, so that an episode fills them.
ENGINES = ContinuousOptions(
    step_s=(0.016442, 0.012601, 0.016442, 0.016442),
    sequence_s=(18.21e-6, 66.84e-6, 18.21e-6, 18.21e-6),
    prefill_s=(47.84e-6, 76.42e-6, 47.84e-6, 47.84e-6),
    context_s=(80e-9, 31e-9, 80e-9, 80e-9),
    kv_tokens=24_000,
    max_seqs=16,
)
# Anthropic's first tier: the second API has the limits of Sonnet, the others those of Haiku.
APIS: dict[str, Any] = {
    "input_per_minute": (50_000.0, 30_000.0, 50_000.0, 50_000.0),
    "output_per_minute": (10_000.0, 8_000.0, 10_000.0, 10_000.0),
    "burst_s": 10.0,
}
CLASSES: dict[str, Any] = {
    "deadlines": (1.0, 6.0),
    "first_deadlines": (0.1, 2.0),
    "values": (2.0, 0.5),
    "shares": (0.3, 0.7),
}
SCENARIOS: dict[str, dict[str, Any]] = {
    "api_limits": {"servers": "api", "arrivals": CONV, "loads": 0.9},
    "engines_load": {"servers": "continuous", "arrivals": CONV, "loads": 0.95},
    "api_failures": {
        "servers": "api",
        "arrivals": CONV,
        "loads": 0.8,
        "api": ApiOptions(**APIS, failure_rate=0.073, straggler_rate=0.05),
        "mean_up": 20.0,
        "mean_repair": 5.0,
    },
    "engines_classes": {"servers": "continuous", "arrivals": CONV, "loads": 0.95, **CLASSES},
    "api_classes": {"servers": "api", "arrivals": CONV, "loads": 0.9, **CLASSES},
    "engines_failures": {
        "servers": "continuous",
        "arrivals": CONV,
        "loads": 0.8,
        "mean_up": 20.0,
        "mean_repair": 5.0,
    },
    "api_bursts": {"servers": "api", "arrivals": CODE, "loads": 0.5},
}
_INDEX = {"candidates": 16, "lanes": 6, "validation_lanes": 48}
_SHORT = {"index": IndexHyperparameters(**_INDEX)}
_PRICES: dict[str, Any] = {
    **_SHORT,
    "population": 32,
    "elite": 8,
    "generations": 8,
    "lanes": 6,
    "validation_lanes": 64,
}
METHODS: dict[str, dict[str, Any] | None] = {
    "rollout_iteration": {
        **_SHORT,
        "states": 2_048,
        "horizon": 32,
        "experts": 4,
        "lanes": 128,
        "validation_lanes": 192,
    },
    "router_ppo": {"decisions": 200_000},
    "reinforce": {"decisions": 200_000},
    "ppo": {"decisions": 200_000},
    "residual_ppo": {"decisions": 200_000, "rule": PriceHyperparameters(**_PRICES)},
    "cross_entropy": _PRICES,
    "index_rule_late": _INDEX,
    "index_rule_learned": _INDEX,
    "latency_tuned": _INDEX,
    "llmd_tuned": _INDEX,
    "litellm_tuned": _INDEX,
    "predicted_latency": None,
    **dict.fromkeys(("least_finish", "vllm_balancer", "llmd", "least_busy", "usage_based")),
    **dict.fromkeys(("latency_based", "latency_aware", "cost_based", "random", "best_single")),
}
# The learners on device charge a request on an engine when it is sent, which simulates the engines to the end
# after each step. So they have more lanes and shorter rollouts there: as many decisions in less time.
_WIDE: dict[str, Any] = {"lanes": 128, "steps": 16}
ON_ENGINES = {
    name: {**(METHODS[name] or {}), **_WIDE} for name in ("router_ppo", "reinforce", "residual_ppo")
}
_SEEDED = ("predicted_latency", "random", *(name for name, values in METHODS.items() if values))


def main(
    data: Path,
    out: Path = Path("runs/model_servers"),
    only: tuple[str, ...] = (),
    methods: tuple[str, ...] = tuple(METHODS),
    seeds: int = 5,
    episodes: int = 64,
    window: int = 128,
    open_sealed: bool = False,
) -> None:
    """Fit and test every method in every scenario.

    Args:
        data: folder of the table and the traces.
        out: folder of the results.
        only: scenarios; all if empty.
        methods: names of methods.
        seeds: training seeds for each method.
        episodes: of `window` requests each, on validation and on test.
        window: requests of an episode, which begins with idle servers.
        open_sealed: the arrivals of the sealed trace; note it in docs/benchmarks/sealed.md.
    """
    out.mkdir(parents=True, exist_ok=True)
    table = zeroeval(data, POOL)
    mooncake = out / "mooncake.parquet"
    _mooncake(data, mooncake)
    overview: list[str] = []
    for name in only or tuple(SCENARIOS):
        scenario = {**SCENARIOS[name], **({"arrivals": SEALED} if open_sealed else {})}
        problem, other = _problems(table, data, mooncake, scenario, episodes, window)
        results: dict[str, list[dict[str, Any]]] = {method: [] for method in methods}
        for seed in range(seeds):
            for method in methods:
                if seed == 0 or method in _SEEDED:
                    path = out / (f"{name}_sealed" if open_sealed else name) / f"{method}_{seed}.json"
                    results[method].append(_result(problem, other, method, seed, path))
        overview += _print(name, results, seeds, "sealed" if open_sealed else "Azure")
    print("\n".join([*_HEAD, *overview]))


def _problems(
    table: OutcomeTable, data: Path, mooncake: Path, scenario: dict[str, Any], episodes: int, window: int
) -> tuple[QueueingProblem, QueueingProblem]:
    """The problem on the Azure trace, and the same tested on the Mooncake trace."""
    options: dict[str, Any] = {
        "first_deadlines": (0.3,),
        "miss_weight": 0.25,
        "continuous": ENGINES,
        "api": ApiOptions(**APIS),
        "features": FeatureConfig(dimensions=16),
        "episodes": episodes,
        "window": window,
        **scenario,
        "arrivals": str(data / scenario["arrivals"]),
    }
    objective = Objective(compute_weight=0.1)
    same = QueueingProblem(table, objective, **options)
    return same, QueueingProblem(table, objective, **options, test_arrivals=str(mooncake))


def _result(
    problem: QueueingProblem, other: QueueingProblem, method: str, seed: int, path: Path
) -> dict[str, Any]:
    """The utilities and means of a fitted method, from its file if it was fitted before."""
    if path.exists():
        return json.loads(path.read_text(encoding="utf-8"))
    engines = ON_ENGINES if problem.config.servers == "continuous" else {}
    policy = fit(method, problem, seed=seed, hyperparameters=engines.get(method, METHODS.get(method)))
    measured = {
        "tuning": problem.evaluate(policy, "tuning"),
        "test": problem.evaluate(policy, "test"),
        "mooncake": other.evaluate(policy, "test"),
    }
    result = {
        split: {"utility": each.utility.tolist(), "means": each.means()} for split, each in measured.items()
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, result)
    return result


_HEAD = [
    "### Overview",
    "",
    "| scenario | trace | policy | utility | strongest rival | its utility | difference | 95% CI | missed "
    "| is |",
    "|---|---|---|---:|---|---:|---:|---:|---:|---|",
]


def _print(name: str, results: dict[str, list[dict[str, Any]]], seeds: int, source: str) -> list[str]:
    """Print the tables of a scenario that trains on the trace `source`; return its lines of the overview."""

    def utility(method: str, split: str) -> np.ndarray:
        rows = np.array([each[split]["utility"] for each in results[method]])
        return np.repeat(rows, seeds, axis=0) if len(rows) == 1 else rows

    family = {method: find_method("queueing", method).family for method in results}
    rivals = [method for method in results if family[method] != "rl"]
    strongest = max(rivals, key=lambda method: utility(method, "tuning").mean())
    lines: list[str] = []
    for split, trace in (("test", source), ("mooncake", "Mooncake")):
        print(f"### {name}, {trace}\n")
        print(
            f"| method | family | utility | 95% CI | minus {strongest} | 95% CI | quality | compute "
            "| missed ",
            end="",
        )
        print("| lateness | p50_s | p95_s | first_p95_s |\n|---|---|---:|---:|---:|---:" + "|---:" * 7 + "|")
        for method in sorted(results, key=lambda method: -utility(method, split).mean()):
            own = interval(utility(method, split))
            gap = paired_difference(utility(method, split), utility(strongest, split))
            columns = ("quality", "compute", "missed", "lateness", "p50_s", "p95_s", "first_p95_s")
            means = [np.mean([each[split]["means"][key] for each in results[method]]) for key in columns]
            values = " | ".join(f"{value:.3g}" for value in means)
            print(
                f"| {method} | {family[method]} | {own.mean:.4f} | {own.low:.4f} to {own.high:.4f} "
                f"| {gap.mean:+.4f} | {gap.low:+.4f} to {gap.high:+.4f} | {values} |"
            )
            if family[method] == "rl":
                verdict = (
                    "better" if gap.low > 0 else "worse" if gap.high < 0 else "no significant difference"
                )
                missed = [
                    np.mean([each[split]["means"]["missed"] for each in results[which]])
                    for which in (strongest, method)
                ]
                lines.append(
                    f"| {name} | {trace} | {method} | {own.mean:.4f} | {strongest} "
                    f"| {utility(strongest, split).mean():.4f} | {gap.mean:+.4f} "
                    f"| {gap.low:+.4f} to {gap.high:+.4f} | {missed[0]:.3f} → {missed[1]:.3f} | {verdict} |"
                )
        print(flush=True)
    return lines


def _mooncake(data: Path, path: Path) -> None:
    """The trace whose stamps are rounded to 3 s, spread over them."""
    trace = open_arrivals(data / "trace_mooncake_conversation.parquet").jittered(3.0)
    assert trace.tokens is not None
    columns = {
        "arrival_s": trace.arrival_s,
        "tokens_in": trace.tokens[:, 0],
        "tokens_out": trace.tokens[:, 1],
    }
    with replacing(path) as temporary:
        pq.write_table(pa.table(columns), temporary)


if __name__ == "__main__":
    jsonargparse.auto_cli(main)
