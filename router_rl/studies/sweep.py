"""The fits of a comparison: settings tried with one seed, the best of them fitted with the others."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any

import joblib
import torch

from experts import OutcomeTable

from ..methods.registry import METHODS
from ..problems.objective import Objective
from ..problems.routing.problem import Task
from .conditioned import fold_result
from .trial import Cell, CellResult, run_cell

__all__ = ["Progress", "Work", "fit_all", "serves_all"]

Progress = Callable[[int, int, str], None]


@dataclass(frozen=True, kw_only=True)
class Work:
    """What every fit of a comparison shares."""

    task: Task
    test: OutcomeTable
    folder: Path
    digest: str
    tensorboard: Path | None
    jobs: int

    def run(self, cells: Sequence[Cell], progress: Callable[[CellResult], None]) -> list[CellResult]:
        """Run cells, in parallel processes if there are several jobs; results in the cells' order."""
        if self.jobs == 1 or len(cells) == 1:
            results = []
            for cell in cells:
                results.append(self._one(cell))
                progress(results[-1])
            return results
        found: dict[int, CellResult] = {}
        with joblib.parallel_config("loky", n_jobs=self.jobs, inner_max_num_threads=1):
            pool: Any = joblib.Parallel(return_as="generator_unordered")
            for index, result in pool(joblib.delayed(self._numbered)(i, c) for i, c in enumerate(cells)):
                found[index] = result
                progress(result)
        return [found[index] for index in range(len(cells))]

    def _numbered(self, index: int, cell: Cell) -> tuple[int, CellResult]:
        torch.set_num_threads(1)
        return index, self._one(cell)

    def _one(self, cell: Cell) -> CellResult:
        return run_cell(
            cell, self.task, self.test, self.folder, digest=self.digest, tensorboard=self.tensorboard
        )


def fit_all(
    work: Work,
    names: Sequence[str],
    objectives: Sequence[Objective],
    seeds: int,
    tries: int,
    progress: Progress | None,
) -> list[CellResult]:
    """Fit every method; those that improve a gate come last, and start from the one that validation picks."""
    tell = _Tally(progress)
    candidates = {
        (name, objective): _candidates(name, objectives, tries)
        for objective in objectives
        for name in names
        if not serves_all(name, objectives) or objective == objectives[0]
    }
    tell.total = sum(len(found) + seeds - 1 for found in candidates.values())
    improving = {name: find for name in names if (find := METHODS[name].improving) is not None}
    first = {key: found for key, found in candidates.items() if key[0] not in improving}
    results = _fit(work, first, objectives, seeds, tell)
    second = {key: found for key, found in candidates.items() if key[0] in improving}
    for (name, objective), found in second.items():
        gate = _best_gate(results, objective)
        if gate is not None:
            started = [improving[name](settings, gate.method, gate.settings) for settings in found]
            second[name, objective] = list(dict.fromkeys(started))
            tell.total -= len(found) - len(second[name, objective])
    return [*results, *_fit(work, second, objectives, seeds, tell)]


@dataclass
class _Tally:
    """Counts finished fits for whoever watches."""

    progress: Progress | None
    total: int = 0
    done: int = 0

    def __call__(self, result: CellResult) -> None:
        self.done += 1
        if self.progress is not None:
            self.progress(self.done, self.total, f"{result.cell.method}, seed {result.cell.seed}")


def _fit(
    work: Work,
    candidates: Mapping[tuple[str, Objective], Sequence[Any]],
    objectives: Sequence[Objective],
    seeds: int,
    tell: Callable[[CellResult], None],
) -> list[CellResult]:
    """Try settings with seed 0, then fit the best of each method and objective with the other seeds.

    A method that serves all objectives with one fit is fitted under the first, its settings chosen by the
    mean over all, and its seconds shared out among them.
    """

    def spread(result: CellResult) -> list[CellResult]:
        if not serves_all(result.cell.method, objectives):
            return [result]
        shared = replace(result, seconds=result.seconds / len(objectives))
        return [fold_result(shared, objective, work.task, work.test) for objective in objectives]

    first = [
        Cell(method=name, settings=settings, objective=objective, seed=0)
        for (name, objective), found in candidates.items()
        for settings in found
    ]
    best: dict[tuple[str, Objective], tuple[float, CellResult]] = {}
    for result in work.run(first, tell):
        group = (result.cell.method, result.cell.objective)
        value = fmean(part.validation["utility"] for part in spread(result))
        if group not in best or value > best[group][0]:
            best[group] = (value, result)
    rest = [replace(result.cell, seed=seed) for _, result in best.values() for seed in range(1, seeds)]
    found = [*(result for _, result in best.values()), *(work.run(rest, tell) if rest else [])]
    return [part for result in found for part in spread(result)]


def _best_gate(results: Sequence[CellResult], objective: Objective) -> Cell | None:
    """The gate of the highest mean on validation."""
    gates: dict[str, list[CellResult]] = {}
    for result in results:
        if result.cell.objective == objective and METHODS[result.cell.method].family == "gate":
            gates.setdefault(result.cell.method, []).append(result)
    if not gates:
        return None
    return max(gates.values(), key=lambda found: fmean(r.validation["utility"] for r in found))[0].cell


def serves_all(name: str, objectives: Sequence[Objective]) -> bool:
    """Whether one fit of the method serves all objectives; under a budget it is fitted for that."""
    return METHODS[name].over is not None and objectives[0].budget is None


def _candidates(name: str, objectives: Sequence[Objective], tries: int) -> list[Any]:
    """The settings to try."""
    method = METHODS[name]
    found = method.candidates(tries)
    over = method.over
    return found if over is None or objectives[0].budget is not None else [over(s, objectives) for s in found]
