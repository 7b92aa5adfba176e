"""The trials of a benchmark have the same results on either engine, and finished ones are read."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import away_engine
import pytest
from benchmark_scripts import benchmark
from toy_methods import disagreeing_table

from router_rl import Jobs, Objective, RoutingProblem
from router_rl.methods.fit import learnable
from router_rl.studies.trial import Trial, TrialResult


@pytest.fixture(autouse=True)
def _away() -> Iterator[None]:
    with away_engine.installed():
        yield


def _run(folder: Path, jobs: Jobs) -> list[TrialResult]:
    trials: list[Any] = []
    for weight in (0.1, 0.5):
        problem = RoutingProblem(disagreeing_table(), Objective(compute_weight=weight))
        for each in learnable("ridge", problem).candidates(2):
            trials.append((Trial(method="ridge", hyperparameters=each, case=problem.case, seed=0), problem))
    done: list[TrialResult] = []
    results = benchmark("parallel_trials").run_trials(trials, folder, jobs=jobs, on_trial=done.append)
    assert [result.trial for result in results] == [trial for trial, _ in trials]
    assert {result.folder for result in done} == {result.folder for result in results}
    return results


def test_trials_of_two_problems_on_either_engine(tmp_path: Path) -> None:
    here = [each.cases[0].test.utility.tolist() for each in _run(tmp_path / "here", Jobs(1))]
    away = _run(tmp_path / "away", Jobs(2, "away"))
    assert [each.cases[0].test.utility.tolist() for each in away] == here
    assert len(away_engine.RUNS) == 4
    again = _run(tmp_path / "away", Jobs(2, "away"))
    assert [each.cases[0].test.utility.tolist() for each in again] == here
    assert len(away_engine.RUNS) == 4
    assert all(each.reused for each in again)
