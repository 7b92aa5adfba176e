"""What keeps the exact policy gradient from overfitting: one change at a time, on test rows.

    python benchmarks/ablations.py

The base is `warm_exact_pg` from the softmax gate, with a high learning rate, and the policy is returned even
if it is not better than the gate. Hyperparameters are not tuned here: every row has those of the base, except
the ones that it changes. Differences are paired over queries and seeds. Prints Markdown.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import jsonargparse
import numpy as np
from rich.console import Console
from sklearn.linear_model import RidgeCV
from sklearn.model_selection import KFold, cross_val_predict

from experts import OutcomeTable, open_table
from router_rl import Objective
from router_rl.methods.fit import learnable
from router_rl.methods.method import Run
from router_rl.problems.routing.problem import RoutingProblem
from router_rl.problems.routing.router_measurement import measure
from router_rl.problems.routing.routing_options import ScorerConfig
from router_rl.problems.statistics import interval
from router_rl.reports.table_format import signed
from router_rl.reports.terminal import progress_of
from router_rl.routing import Hard

WEIGHTS = (0.02, 0.4)
BASE = {
    "learning_rate": 1e-3,
    "smoothing": 0.0,
    "epochs": 40,
    "patience": 12,
    "folds": 0,
    "caution": -1e9,
}


@dataclass(frozen=True)
class Row:
    """A change to the base.

    Attributes:
        name: what the table calls it.
        method: that is fitted.
        hyperparameters: changed ones.
        change: to the problem.
    """

    name: str
    method: str = "warm_exact_pg"
    hyperparameters: tuple[tuple[str, float], ...] = ()
    change: Callable[[RoutingProblem], RoutingProblem] = lambda problem: problem


def validated_on_training_rows(problem: RoutingProblem) -> RoutingProblem:
    """No early stopping: the checkpoint kept is the best on the training rows."""
    return problem.replaced(validation=problem.train)


def linear(problem: RoutingProblem) -> RoutingProblem:
    """A linear scorer."""
    return problem.replaced(scorer=ScorerConfig(kind="linear"))


GUARDED = (("learning_rate", 3e-4), ("folds", 5), ("caution", 1.0))
ROWS = (
    Row("warm start from the gate (base)"),
    Row("gate only", "softmax_gate"),
    Row("from random weights", "exact_pg"),
    Row("checkpoint by training rows", change=validated_on_training_rows),
    Row("from random weights, checkpoint by training rows", "exact_pg", change=validated_on_training_rows),
    Row("reward a quarter probability", hyperparameters=(("smoothing", 0.25),)),
    Row("reward all probability", hyperparameters=(("smoothing", 1.0),)),
    Row("no entropy bonus", hyperparameters=(("entropy", 0.0),)),
    Row("entropy bonus 0.1", hyperparameters=(("entropy", 0.1),)),
    Row("no weight decay", hyperparameters=(("weight_decay", 0.0),)),
    Row("weight decay 1", hyperparameters=(("weight_decay", 1.0),)),
    Row("linear scorer", change=linear),
    Row("low learning rate", hyperparameters=(("learning_rate", 3e-4),)),
    Row("low learning rate, kept only if better by one standard error", hyperparameters=GUARDED),
)
CALIBRATED = "features: cross-fitted estimates of each expert's quality"


def main(tables: tuple[str, ...] = ("digits", "fashion-mnist"), seeds: int = 5) -> None:
    """Fit every row on every table.

    Args:
        tables: embedded sources or Parquet paths with features.
        seeds: training seeds.
    """
    for name in tables:
        table = open_table(name)
        print(f"### {name}\n\n{seeds} seeds; difference to the base with its 95% CI.\n")
        print("| change | " + " | ".join(f"utility at {c:g} | minus base" for c in WEIGHTS) + " |")
        print("|---|" + "---:|---:|" * len(WEIGHTS))
        with progress_of(f"fits of {name}", Console(stderr=True)) as progress:
            total = (len(ROWS) + 1) * len(WEIGHTS) * seeds
            done = iter(range(1, total + 1))
            base: list[np.ndarray] = []
            for row in (*ROWS, Row(CALIBRATED)):
                rows = estimates(table) if row.name == CALIBRATED else table
                cells = [row.name]
                for at, weight in enumerate(WEIGHTS):
                    utility = np.stack(list(_utilities(rows, row, weight, seeds)))
                    for _ in range(seeds):
                        progress(next(done), total, row.name)
                    if len(base) < len(WEIGHTS):
                        base.append(utility)
                    gain = interval(utility - base[at])
                    cells += [
                        f"{utility.mean():.4f}",
                        f"{signed(gain.mean)} ({signed(gain.low)} to {signed(gain.high)})",
                    ]
                print(f"| {' | '.join(cells)} |", flush=True)
        print()


def estimates(table: OutcomeTable) -> OutcomeTable:
    """The table with N features: ridge estimates of every expert's quality, cross-fitted on training rows."""
    assert table.features is not None
    train = table.split == "train"
    model = RidgeCV(alphas=np.logspace(-1, 5, 13))
    found = model.fit(table.features[train], table.quality[train]).predict(table.features)
    folds = KFold(5, shuffle=True, random_state=0)  # rows may stand in order of their groups
    found[train] = cross_val_predict(model, table.features[train], table.quality[train], cv=folds)
    return replace(table, features=found.astype(np.float32))


def _utilities(table: OutcomeTable, row: Row, weight: float, seeds: int) -> Iterator[np.ndarray]:
    problem = row.change(RoutingProblem(table, Objective(compute_weight=weight), Hard()))
    method = learnable(row.method, problem)
    base = BASE if row.method == "warm_exact_pg" else {}
    hyperparameters = method.configure({**base, **dict(row.hyperparameters)})
    for seed in range(seeds):
        router = method.fit(problem, hyperparameters, Run(seed=seed))
        yield measure(router, table.part("test"), problem.objective, problem.scale).utility


if __name__ == "__main__":
    jsonargparse.auto_cli(main)
