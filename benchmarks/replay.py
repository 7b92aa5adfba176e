"""Checks that routers earn, called as the README says, what `compare` reports.

    python benchmarks/replay.py FOLDER
    python benchmarks/replay.py FOLDER --methods ridge,priced_pg --weights 0.1

FOLDER holds Parquet outcome tables with `prompt` and `fold`. Folds 0 and 1 train, 2 validates and 3 tests;
fold 4 is not read. Each method is compared on each table, its router is loaded from its folder with
`router_rl.routing.load` and called with prompts (and groups, if it says that they are an input), and its
utility is computed from the table alone: `quality - compute_weight * cost / unit`, where the unit is the mean
cost of the most expensive expert on the training rows. A router with conditions is called without state at
the weight that it serves by default, and with `at` at the others. Prints Markdown. The exit status is 1 if a
mean utility differs by more than 1e-5. Every method of routing, unless `--methods` names some.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jsonargparse
import numpy as np
import torch

from experts import OutcomeTable
from router_rl import Objective, RoutingProblem, compare
from router_rl.methods.method import Method
from router_rl.methods.registry import find_method, method_names
from router_rl.routing import Router, load

__all__ = ["TOLERANCE", "Replay", "by_fold", "replays"]

TOLERANCE = 1e-5  # utilities are means of float32 numbers


@dataclass(frozen=True, kw_only=True)
class Replay:
    """One router, called as the README says.

    Attributes:
        method: its name.
        case: label of the case.
        seed: training seed.
        inputs: what its file says that a call must give.
        listed: what `results.json` says that it reads.
        reported: mean utility on test rows in `results.json`.
        earned: the same, by calls of the loaded router.
    """

    method: str
    case: str
    seed: int
    inputs: tuple[str, ...]
    listed: tuple[str, ...]
    reported: float
    earned: float

    @property
    def agrees(self) -> bool:
        """Whether both utilities are equal, to rounding, and the inputs are those listed."""
        return abs(self.reported - self.earned) <= TOLERANCE and self.inputs == self.listed


def replays(
    table: OutcomeTable,
    methods: Sequence[str],
    weights: Sequence[float],
    *,
    folder: Path,
    features: Any = None,
    alone: bool = False,
) -> Iterator[Replay]:
    """Compare methods on a table of prompts, and call every router that they saved.

    Args:
        table: with prompts and a split.
        methods: names.
        weights: compute weights.
        folder: of the comparison.
        features: a `FeatureConfig`; the default if None.
        alone: leave out the methods that `compare` adds to every comparison.
    """
    changes = {} if features is None else {"features": features}
    problem = RoutingProblem(table, [Objective(compute_weight=weight) for weight in weights], **changes)
    if alone:
        problem.always = ()  # type: ignore[misc]
    results = compare(problem, methods, seeds=1, n_trials=1, out=folder).results
    listed: Mapping[str, Any] = results["inputs"]
    for row in results["rows"]:
        if row["split"] != "test" or row["router"] is None:
            continue
        router = load(folder / row["router"])
        assert isinstance(router, Router)
        served = weights[(len(weights) - 1) // 2]  # by a router with conditions, unless it is given another
        earned = _earned(router, table, row["compute_weight"], row["seed"], served)
        yield Replay(
            method=row["method"],
            case=row["case"],
            seed=row["seed"],
            inputs=router.inputs,
            listed=tuple(listed["methods"].get(row["method"], listed["shared"])),
            reported=row["utility"],
            earned=earned,
        )


def by_fold(table: OutcomeTable) -> OutcomeTable:
    """Return a table's folds 0 to 3 with the split of the benchmark."""
    assert table.fold is not None
    kept = table.take(np.flatnonzero(table.fold < 4))
    return replace(kept, split=np.array(["train", "train", "validation", "test"])[kept.fold])


def _earned(router: Router, table: OutcomeTable, weight: float, seed: int, served: float) -> float:
    """Mean utility of a router on test rows, one expert per row, by prompts and the table's columns."""
    train, test = table.split == "train", np.flatnonzero(table.split == "test")
    cost = table.cost.astype(np.float64)
    unit = cost[train].mean(axis=0).max()
    if router.conditions and weight != served:
        router = router.at(compute_weight=weight)
    assert table.prompt is not None
    prompts = [str(table.prompt[row]) for row in test]
    groups: list[str] | None = None
    if "group" in router.inputs:
        assert table.group is not None
        groups = [str(table.group[row]) for row in test]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)  # of a router that draws at random
        experts = router.route(prompts, groups).experts
    if not router.stochastic:  # row by row as in one batch
        for place in range(0, len(test), max(1, len(test) // 20)):
            one = router.route(prompts[place], None if groups is None else groups[place])
            assert one.experts.equal(experts[place : place + 1]), "a row routes otherwise in a batch"
    chosen = experts[:, 0].numpy()
    return float((table.quality[test, chosen] - weight * cost[test, chosen] / unit).mean())


def main(folder: Path, methods: str = "", weights: str = "0.02,0.1,0.4") -> None:
    """Print one line per router; exits with status 1 if one differs.

    Args:
        folder: folder of the tables.
        methods: comma-separated; empty for all.
        weights: comma-separated compute weights.
    """
    every = [name for name in method_names("routing") if isinstance(find_method("routing", name), Method)]
    selected = methods.split(",") if methods else every
    compute_weights = [float(weight) for weight in weights.split(",")]
    wrong = 0
    print("| table | method | case | inputs | reported | earned | |\n|---|---|---|---|---:|---:|---|")
    for path in sorted(folder.glob("*.parquet")):
        if path.name.startswith("trace_"):
            continue
        table = by_fold(OutcomeTable.read(path))
        with tempfile.TemporaryDirectory() as out:
            for one in replays(table, selected, compute_weights, folder=Path(out)):
                wrong += not one.agrees
                print(
                    f"| {path.stem} | {one.method} | {one.case} | {', '.join(one.inputs)} | "
                    f"{one.reported:.6f} | {one.earned:.6f} | {'' if one.agrees else 'differs'} |",
                    flush=True,
                )
    if wrong:
        sys.exit(1)


if __name__ == "__main__":
    jsonargparse.auto_cli(main, as_positional=True)
