"""How often the interval of a shadow router's estimate holds its true value.

    python benchmarks/shadow_coverage.py FOLDER --seeds 20

The loop of docs/serve.md, without HTTP, once for each seed: train a router on a few rows of a table, decide
1,000 requests with exploration and log them with their outcomes, export the log, and train another router,
the candidate, from it alone. Decider, log (SQLite) and export are those of `serve`. Then draw many logs in
which the candidate decides beside the first router, of 1,000, 300 and 100 requests, and estimate the
candidate from each, as `serve --shadow` does. Requests are rows of the table, drawn with replacement from
those that the first router was not trained on, so the means over these rows are the candidate's true
utility, quality and cost. FOLDER holds the Parquet tables. Prints Markdown; an interrupted run resumes.
"""

from __future__ import annotations

import json
import tempfile
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import jsonargparse
import numpy as np
from joblib import Parallel, delayed
from rich.console import Console

from experts import DecisionLog, OutcomeTable
from experts.io.atomic import write_json
from experts.table.prices import Price
from experts.table.splitting import split_by_key, split_keys
from router_rl import Objective, RoutingProblem, export, fit
from router_rl.problems.log_table import estimated_table, logged_text
from router_rl.serving.chat_request import ChatRequest
from router_rl.serving.decider import Decider
from router_rl.serving.deployments import started_with
from router_rl.serving.exploration import epsilon_greedy_propensities
from router_rl.serving.learner import Learner
from router_rl.serving.live_routers import Live
from router_rl.serving.loaded_router import LoadedRouter
from router_rl.serving.log_export import export_log
from router_rl.serving.log_row import LogRows
from router_rl.serving.log_store import LogStore
from router_rl.serving.shadow_estimate import estimate_of

EXPERTS = ("gemma-2-9b-it", "qwen2.5-7b-instruct", "llama-3.3-nemotron-super-49b-v1")
COMPUTE_WEIGHT = 0.1
SIZES = (1_000, 300, 100)  # requests of a log
PARTS = ("utility", "quality", "cost_usd")
ESTIMATES = {"dr": "doubly robust", "snips": "self-normalized", "ips": "inverse propensity"}


class Story:
    """One seed of the loop.

    Args:
        table: the requests.
        seed: of the rows and the exploration.
        folder: for the log and the routers.
        trained: rows that the first router is trained on.
    """

    def __init__(self, table: OutcomeTable, seed: int, folder: Path, trained: int = 300) -> None:
        assert table.prompt is not None
        self.table, self.folder, self.prompts = table, folder, [str(prompt) for prompt in table.prompt]
        self.rng = np.random.default_rng(seed)
        order = self.rng.permutation(len(table))
        self.pool = order[trained:]
        self.cost_weight = COMPUTE_WEIGHT / float(table.cost.mean(axis=0).max())
        self.store = LogStore(f"sqlite:///{folder}/log.db")
        self.rows = LogRows(b"key")
        self.prices = {name: Price(input=1.0, output=1.0) for name in table.experts}
        problem = RoutingProblem(table.take(order[:trained]), Objective(compute_weight=COMPUTE_WEIGHT))
        export(fit("ridge", problem, seed=seed), folder / "first", rows=problem)
        self.live = started_with(self.store, LoadedRouter.of(folder / "first"))
        text = self.live.router.router.text
        assert text is not None
        self.features = text([self.prompts[row] for row in self.pool])

    def serve(self, requests: int, explore: float, live: Live, learner: Learner | None = None) -> np.ndarray:
        """Decide requests, and log them with their outcomes; return the utility [requests] of the choices."""
        decider = Decider(live, self.prices, explore=explore)
        decider.learner = learner
        decider.reseed(int(self.rng.integers(1 << 31)))
        logged, scores, utility = list[dict[str, Any]](), list[tuple[str, float]](), list[float]()
        for row in self.rng.choice(self.pool, requests):
            prompt = self.prompts[row]
            decision = decider.decide(prompt)
            expert = self.table.experts.index(decision.expert)
            request = ChatRequest(model="auto", prompt=prompt, messages=[])
            made = self.rows.row(uuid.uuid4().hex, request, decision.expert, decision)
            cost, quality = float(self.table.cost[row, expert]), float(self.table.quality[row, expert])
            logged.append({**made, "status": "ok", "cost_usd": cost})
            scores.append((made["id"], quality))
            utility.append(quality - self.cost_weight * cost)
        self.store.write(logged, [])
        for decision_id, score in scores:
            self.store.attach(decision_id, score)
        return np.array(utility)

    def learned(self, seed: int) -> LoadedRouter:
        """Export the log, and train a router from it alone."""
        export_log(self.store, self.folder / "log.parquet")
        log = DecisionLog.read(self.folder / "log.parquet")
        problem = RoutingProblem(estimated_table(log), Objective(compute_weight=COMPUTE_WEIGHT))
        problem.text = logged_text(log)
        export(fit("ridge", problem, seed=seed, n_trials=3), self.folder / "better", rows=problem)
        return LoadedRouter.of(self.folder / "better")

    def choices(self, router: LoadedRouter) -> np.ndarray:
        """The router's expert for every row that requests are drawn from, [R] int64."""
        assert router.pipeline == self.live.router.pipeline  # the features are the same
        return router.router(self.features).experts[:, 0].numpy()

    def truth(self, chosen: np.ndarray) -> dict[str, float]:
        """The means of choices [R] over all rows that requests are drawn from."""
        quality = float(self.table.quality[self.pool, chosen].mean(dtype=np.float64))
        cost = float(self.table.cost[self.pool, chosen].mean(dtype=np.float64))
        return {"utility": quality - self.cost_weight * cost, "quality": quality, "cost_usd": cost}

    def estimate(self, size: int, explore: float, first: np.ndarray, chosen: np.ndarray) -> dict[str, Any]:
        """Estimates of a candidate from a new log of the first router; `first`, `chosen`: choices [R]."""
        names = self.table.experts
        everywhere = [True] * len(names)
        rows, choices = list[dict[str, Any]](), list[str]()
        for at in self.rng.integers(0, len(self.pool), size):
            chances = epsilon_greedy_propensities(int(first[at]), everywhere, explore)
            expert = int(self.rng.choice(len(names), p=chances))
            row = self.pool[at]
            rows.append(
                {
                    "expert": names[expert],
                    "propensity": float(chances[expert]),
                    "features": self.features[at].numpy().astype("<f4").tobytes(),
                    "score": float(self.table.quality[row, expert]),
                    "cost_usd": float(self.table.cost[row, expert]),
                }
            )
            choices.append(names[int(chosen[at])])
        found = estimate_of(rows, choices, names, self.cost_weight)
        return {
            "effective": found["utility"]["effective_sample_size"],
            **{part: found[part] for part in PARTS},
        }


def of_experts(table: OutcomeTable, experts: Sequence[str]) -> OutcomeTable:
    """The prompts and outcomes of some experts, split by prompt."""
    columns = [table.experts.index(name) for name in experts]
    assert table.prompt is not None
    return OutcomeTable(
        experts=tuple(experts),
        query_id=table.query_id,
        features=None,
        prompt=table.prompt,
        quality=table.quality[:, columns],
        cost=table.cost[:, columns],
        cost_unit=table.cost_unit,
        split=split_by_key(split_keys(table.prompt, table.query_id), 0),
        source=table.source,
    )


def play(table: OutcomeTable, seed: int, requests: int, explore: float, logs: int) -> dict[str, Any]:
    """Truths of one seed, and estimates from logs of each length."""
    with tempfile.TemporaryDirectory() as folder:
        story = Story(table, seed, Path(folder))
        story.serve(requests, explore, story.live)
        better = story.learned(seed)
        first, chosen = story.choices(story.live.router), story.choices(better)
        estimates = {
            size: [story.estimate(size, explore, first, chosen) for _ in range(logs)] for size in SIZES
        }
        truths = {"first": story.truth(first), "better": story.truth(chosen)}
        story.store.close()
    return {"estimates": estimates, **truths}


def row_of(size: str, name: str, found: Sequence[dict[str, Any]]) -> str:
    """The row of one estimate from logs of one length."""
    pairs = [(each["better"], estimate) for each in found for estimate in each["estimates"][size]]

    def ends(part: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        low, high = np.array([estimate[part][name]["ci95"] for _, estimate in pairs]).T
        return np.array([truth[part] for truth, _ in pairs]), low, high

    covered = [f"{((low <= truth) & (truth <= high)).mean():.1%}" for truth, low, high in map(ends, PARTS)]
    truth, low, high = ends("utility")
    off = np.array([estimate["utility"][name]["mean"] for _, estimate in pairs]) - truth
    error = 1.96 * float(off.std(ddof=1)) / len(off) ** 0.5
    effective = np.mean([estimate["effective"] for _, estimate in pairs])
    return (
        f"| {size} | {effective:.0f} | {len(pairs):,} | {ESTIMATES[name]} | {' | '.join(covered)} | "
        f"{(high - low).mean():.3f} | {off.mean():+.4f} ± {error:.4f} |"
    )


def main(
    data: Path,
    table: str = "llmrouter_pool9",
    experts: tuple[str, ...] = EXPERTS,
    seeds: int = 20,
    requests: int = 1_000,
    explore: float = 0.3,
    out: Path = Path("runs/shadow_coverage"),
    logs: int = 20,
    jobs: int = 1,
) -> None:
    """Print the table.

    Args:
        data: folder of the tables.
        table: file name without `.parquet`.
        experts: names of the experts.
        seeds: how often the loop is played.
        requests: that the candidate is trained on.
        explore: probability of a uniformly random expert.
        out: folder for the result of each seed.
        logs: how many of each length for a candidate.
        jobs: processes.
    """
    err = Console(stderr=True)
    rows = of_experts(OutcomeTable.read(data / f"{table}.parquet", progress=False), experts)

    def played(seed: int) -> dict[str, Any]:
        path = out / f"{table}-{requests}-{explore:g}-{logs}-{seed}.json"
        if not path.exists():
            write_json(path, play(rows, seed, requests, explore, logs))
        return json.loads(path.read_text())

    found: list[dict[str, Any]] = []
    for each in Parallel(jobs, return_as="generator")(delayed(played)(seed) for seed in range(seeds)):
        found.append(cast("dict[str, Any]", each))
        err.print(f"{len(found)} of {seeds}", row_of(str(SIZES[0]), "dr", found))
    print("| decisions | effective | logs | estimate | utility | quality | cost | width | bias |")
    print("|---:|---:|---:|---|---:|---:|---:|---:|---:|")
    for size in SIZES:
        for name in ESTIMATES:
            print(row_of(str(size), name, found))
    first, better = (np.array([each[name]["utility"] for each in found]) for name in ("first", "better"))
    gain = better - first
    error = 1.96 * float(gain.std(ddof=1)) / seeds**0.5 if seeds > 1 else float("nan")
    print(
        f"\nTrue utility: {first.mean():.4f} of the first router, {better.mean():.4f} of the candidate "
        f"({gain.mean():+.4f} ± {error:.4f}; better in {(gain > 0).sum()} of {seeds} seeds)."
    )


if __name__ == "__main__":
    jsonargparse.auto_cli(main, as_positional=True)
