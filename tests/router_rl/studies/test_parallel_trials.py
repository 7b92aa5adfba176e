"""Parallel trials give the same results, and each process computes a value that the problem caches once."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from environment_tables import made_cascade

from router_rl import Objective, compare
from router_rl.problems.cascade.problem import CascadeProblem

METHODS = ["lookahead"]  # one fit per case; each needs the beliefs


def _counted(log: Path) -> CascadeProblem:
    """Return a cascade problem that appends the process and the key of each computed value to a file."""

    class Counted(CascadeProblem):
        def cached(self, key: Any, make: Callable[[], Any]) -> Any:
            def made() -> Any:
                with log.open("a", encoding="utf-8") as file:
                    file.write(f"{os.getpid()} {key}\n")
                return make()

            return CascadeProblem.cached(self, key, made)

    weights = [Objective(compute_weight=weight) for weight in (0.05, 0.1, 0.2)]
    return Counted(made_cascade(rows=100), weights, max_experts=2)


def _beliefs(log: Path) -> Counter[tuple[int, str]]:
    """Return how often each process fitted the beliefs of a seed."""
    lines = [line.split(" ", 1) for line in log.read_text(encoding="utf-8").splitlines()]
    return Counter((int(process), key) for process, key in lines if key.startswith("('data'"))


def _numbers(study: Any) -> list[dict[str, Any]]:
    timed = ("fit_seconds", "router")
    return [
        {name: value for name, value in row.items() if name not in timed} for row in study.results["rows"]
    ]


@pytest.mark.slow
def test_each_process_fits_the_beliefs_once(tmp_path: Path) -> None:
    """Two processes run three trials, so one of them runs two."""
    one, two = tmp_path / "one.log", tmp_path / "two.log"
    alone = compare(_counted(one), METHODS, seeds=1, n_trials=1, jobs=1, out=tmp_path / "one")
    assert _beliefs(one) == {(os.getpid(), "('data', 0)"): 1}

    parallel = compare(_counted(two), METHODS, seeds=1, n_trials=1, jobs=2, out=tmp_path / "two")
    fits = _beliefs(two)
    assert set(fits.values()) == {1}
    processes = {process for process, _ in fits}
    assert len(processes) <= 2
    assert os.getpid() not in processes
    assert _numbers(parallel) == _numbers(alone)


@pytest.mark.slow
def test_another_problem_in_the_same_processes_has_its_own_values(tmp_path: Path) -> None:
    """The processes of the first comparison are used again: other rows, other beliefs."""
    found = []
    for seed in (0, 1):
        problem = CascadeProblem(made_cascade(rows=100, seed=seed), Objective(compute_weight=0.1))
        parallel = compare(problem, METHODS, seeds=1, n_trials=1, jobs=2)
        alone = compare(problem, METHODS, seeds=1, n_trials=1)
        assert _numbers(parallel) == _numbers(alone)
        found.append(_numbers(parallel))
    assert found[0] != found[1]
