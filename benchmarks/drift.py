"""What a router loses when its experts change, and what detects it: two snapshots of GPT-3.5 and GPT-4.

    python benchmarks/drift.py FOLDER/llmdrift_math.parquet

The table is LLMDrift's (Chen, Zaharia, Zou 2023, https://arxiv.org/abs/2307.09009). Two slots, `gpt-4` and
`gpt-3.5`. Routers are trained on 500 queries answered in March 2023. Then 1,000 others arrive; after 500 of
them, both slots change to the June snapshots. Each method observes only the outcome of the expert that it
chose, and chooses at random for one query in twenty. Regret is to a router trained on the June outcomes of
the same 500 training queries.

- frozen: the March router.
- bandit: LinUCB's posterior of the March outcomes, updated after every 25 decisions and discounted by a fifth
  each time; it chooses the expert with the highest upper confidence bound.
- bandit without discount: the same, but old evidence keeps its weight.
- retrained after the alarm: the March router until the monitor alarms; then both slots answer the next 100
  queries, at the cost of both, and a new router is trained on these.

Prints Markdown: one row for each method, one column for each hundred decisions, mean of the seeds with 95% CI
over seeds and queries.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonargparse
import numpy as np
import torch
from conditioned_fit import fit_for_weights

from experts import DecisionLog, OutcomeTable
from router_rl import Objective, ScorerConfig
from router_rl.methods.baselines.bandit import Posterior
from router_rl.methods.fit import learnable
from router_rl.methods.method import Run
from router_rl.problems.drift import monitor
from router_rl.problems.out_of_fold import OutOfFold
from router_rl.problems.prompt_features import FeatureConfig, featurised, with_features
from router_rl.problems.routing.problem import RoutingProblem
from router_rl.problems.statistics import interval
from router_rl.reports.table_format import signed
from router_rl.routing import Hard, Router

SLOTS = {"gpt-4": ("gpt-4-0314", "gpt-4-0613"), "gpt-3.5": ("gpt-3.5-turbo-0301", "gpt-3.5-turbo-0613")}
TRAINING, CHANGE, LIVE = 500, 500, 1000
EXPLORE, BATCH, SAMPLE = 0.05, 25, 100
WINDOW = 100


def main(path: Path, seeds: int = 5, compute_weight: float = 0.1, method: str = "priced_pg") -> None:
    """Run the stream and print.

    Args:
        path: llmdrift_math.parquet.
        seeds: orders of the queries.
        compute_weight: of the utility; compute 1 is the mean cost of GPT-4 in March.
        method: of the routers that are trained.
    """
    torch.set_num_threads(1)
    whole = OutcomeTable.read(path, progress=False)
    objective = Objective(compute_weight=compute_weight)
    earned: dict[str, list[np.ndarray]] = {}
    alarms: list[tuple[int, list[str]]] = []
    for seed in range(seeds):
        stream = _Stream(whole, seed, objective, method)
        alarms.append(stream.alarm())
        for name, play in stream.players(alarms[-1][0]).items():
            earned.setdefault(name, []).append(play())
    print(_shown(earned, alarms, objective), flush=True)


class _Stream:
    """The queries of one seed, in order, at both dates."""

    def __init__(self, whole: OutcomeTable, seed: int, objective: Objective, method: str) -> None:
        self.seed, self.objective, self.method = seed, objective, method
        order = np.random.default_rng(seed).permutation(len(whole))[: TRAINING + LIVE]
        split = np.where(np.arange(len(order)) < TRAINING, "train", "test").astype("U10")
        split[: TRAINING // 5] = "validation"
        march, june = (self._dated(whole.take(order), split, date) for date in (0, 1))
        march, text, predictions = with_features(march, FeatureConfig(dimensions=8, group=True))
        assert text is not None
        self.text, self.march = text, march
        june_own, _, june_predictions = with_features(june, FeatureConfig(dimensions=8, group=True))
        assert march.features is not None
        assert june_own.features is not None
        self.scale = float(march.cost[split == "train"].mean(axis=0, dtype=float).max())
        self.frozen = self._train(march, predictions)
        self.best = self._train(june_own, june_predictions)
        self.best_features = june_own.features[TRAINING:]
        live = slice(TRAINING, TRAINING + LIVE)
        late = (np.arange(LIVE) >= CHANGE)[:, None]
        self.quality = np.where(late, june.quality[live], march.quality[live]).astype(float)
        self.cost = np.where(late, june.cost[live], march.cost[live]).astype(float)
        self.utility = self.quality - objective.compute_weight * self.cost / self.scale
        self.features = march.features[live]
        self.queries = march.take(np.arange(TRAINING, TRAINING + LIVE))
        self.coin = np.random.default_rng([seed, 1]).random((LIVE, 2))

    def _dated(self, rows: OutcomeTable, split: np.ndarray, date: int) -> OutcomeTable:
        columns = [rows.experts.index(names[date]) for names in SLOTS.values()]
        return OutcomeTable(
            experts=tuple(SLOTS),
            query_id=rows.query_id,
            features=None,
            quality=rows.quality[:, columns],
            cost=rows.cost[:, columns],
            split=split,
            prompt=rows.prompt,
            group=rows.group,
        )

    def _train(self, table: OutcomeTable, predictions: OutOfFold | None) -> Router:
        shape = ScorerConfig(kind="linear")
        problem = RoutingProblem(table, self.objective, Hard(), scorer=shape, out_of_fold=predictions)
        problem = problem.replaced(scale=self.scale)
        method, run = learnable(self.method, problem), Run(seed=self.seed)
        hyperparameters = method.hyperparameters()
        if not method.amortizes:
            return method.fit(problem, hyperparameters, run)
        weight = self.objective.compute_weight
        return fit_for_weights(method, problem, hyperparameters, [weight], run).at(compute_weight=weight)

    def choices(self, router: Router, features: np.ndarray) -> np.ndarray:
        """The expert that a router chooses for each query [T], without exploration."""
        with torch.inference_mode():
            return router(torch.tensor(features)).experts[:, 0].numpy()

    def explored(self, choice: np.ndarray, first: int = 0) -> np.ndarray:
        """Choices with one in twenty drawn at random; the draws are the same for every method."""
        coin = self.coin[first : first + len(choice)]
        return np.where(coin[:, 0] < EXPLORE, (coin[:, 1] * 2).astype(int), choice)

    def alarm(self) -> tuple[int, list[str]]:
        """The first alarmed decision on the frozen router's log (LIVE if there is none), and the alarms."""
        choice = self.choices(self.frozen, self.features)
        action = self.explored(choice)
        row = np.arange(LIVE)
        log = DecisionLog(
            experts=tuple(SLOTS),
            query_id=self.queries.query_id,
            action=action,
            propensity=np.where(action == choice, 1 - EXPLORE / 2, EXPLORE / 2),
            quality=self.quality[row, action],
            cost=self.cost[row, action],
        )
        known = self.march.take(np.arange(TRAINING))
        found = monitor(self.frozen, known, log)
        lines = [f"{alarm.expert} {alarm.kind} at {alarm.decision}" for alarm in found]
        return (found[0].decision if found else LIVE), lines

    def players(self, alarm: int) -> dict[str, Callable[[], np.ndarray]]:
        """Each method by name; calling it gives its utility on every live query [LIVE]."""
        row = np.arange(LIVE)
        frozen = self.explored(self.choices(self.frozen, self.features))
        best = self.choices(self.best, self.best_features)
        march = self.choices(self.frozen, self.features)
        known = np.where(row < CHANGE, march, best)
        return {
            "trained on June": lambda: self.utility[row, self.explored(known)],
            "frozen": lambda: self.utility[row, frozen],
            "bandit": lambda: self._bandit(0.8),
            "bandit without discount": lambda: self._bandit(1.0),
            "retrained after the alarm": lambda: self._retrained(alarm, frozen),
        }

    def _bandit(self, keep: float) -> np.ndarray:
        assert self.march.features is not None
        known = self.march.features[:TRAINING]
        mean, deviation = known.mean(axis=0), np.maximum(known.std(axis=0), 1e-6)

        def inputs(features: np.ndarray) -> torch.Tensor:
            scaled = (features - mean) / deviation
            return torch.tensor(np.hstack([scaled, np.ones((len(features), 1))]), dtype=torch.float64)

        penalty = 10.0
        posterior = Posterior(2, known.shape[1] + 1, penalty, torch.device("cpu"))
        past = self.march.quality[:TRAINING] - self.objective.compute_weight * (
            self.march.cost[:TRAINING] / self.scale
        )
        both = torch.ones(TRAINING, 2, dtype=torch.bool)
        posterior.update(inputs(known), both, torch.tensor(past, dtype=torch.float64))
        prior = torch.eye(known.shape[1] + 1, dtype=torch.float64) * penalty
        earned = np.empty(LIVE)
        for start in range(0, LIVE, BATCH):
            x = inputs(self.features[start : start + BATCH])
            expected, spread = posterior.predict(x)
            action = self.explored((expected + 0.25 * spread).argmax(dim=1).numpy(), start)
            got = self.utility[start + np.arange(len(action)), action]
            earned[start : start + BATCH] = got
            if keep < 1.0:  # the evidence is discounted, the penalty is not
                evidence = torch.linalg.inv(posterior.covariance)
                towards = (evidence @ posterior.mean.unsqueeze(-1)) * keep
                posterior.covariance = torch.linalg.inv(keep * (evidence - prior) + prior)
                posterior.mean = (posterior.covariance @ towards).squeeze(-1)
            observed = torch.nn.functional.one_hot(torch.tensor(action), 2).bool()
            utility = torch.tensor(got).unsqueeze(1).expand(-1, 2)
            posterior.update(x, observed, utility)
        return earned

    def _retrained(self, alarm: int, frozen: np.ndarray) -> np.ndarray:
        row = np.arange(LIVE)
        earned = self.utility[row, frozen].copy()
        end = alarm + SAMPLE
        if end >= LIVE:
            return earned
        sample = np.arange(alarm, end)
        paid = self.objective.compute_weight * self.cost[sample] / self.scale
        # Both experts are called, and the answer of the router's own choice is served.
        earned[sample] = self.quality[sample, frozen[sample]] - paid.sum(axis=1)
        fresh = replace(
            self.queries.take(sample),
            features=None,
            quality=self.quality[sample],
            cost=self.cost[sample],
            split=np.where(np.arange(SAMPLE) < SAMPLE // 4, "validation", "train").astype("U10"),
        )
        made, text, predictions = with_features(fresh, FeatureConfig(dimensions=8, group=True))
        assert text is not None
        router = self._train(made, predictions)
        later = featurised(replace(self.queries, features=None), text).features
        assert later is not None
        choice = self.explored(self.choices(router, later))
        earned[end:] = self.utility[row, choice][end:]
        return earned


def _shown(earned: dict[str, list[np.ndarray]], alarms: list[Any], objective: Objective) -> str:
    best = np.stack(earned["trained on June"])
    heads = [f"{start}-{start + WINDOW}" for start in range(0, LIVE - CHANGE, WINDOW)]
    lines = [
        f"Regret per decision, compute weight {objective.compute_weight:g}, {len(best)} seeds.",
        "",
        f"| method | before | {' | '.join(heads)} | all after |",
        "|---|" + "---:|" * (len(heads) + 2),
    ]
    for name, runs in earned.items():
        gap = best - np.stack(runs)
        parts = [
            gap[:, :CHANGE],
            *(gap[:, CHANGE + s : CHANGE + s + WINDOW] for s in range(0, LIVE - CHANGE, WINDOW)),
        ]
        cells = [signed(part.mean(), 3) for part in parts]
        whole = interval(gap[:, CHANGE:])
        mean, low, high = (signed(value, 3) for value in (whole.mean, whole.low, whole.high))
        lines.append(f"| {name} | {' | '.join(cells)} | {mean} ({low} to {high}) |")
    lines.append(f"\nMonitor with 1% false alarms; the experts change after decision {CHANGE}:\n")
    lines += [f"- seed {seed}: {'; '.join(found) or 'no alarm'}" for seed, (_, found) in enumerate(alarms)]
    return "\n".join(lines)


if __name__ == "__main__":
    jsonargparse.auto_cli(main)
