"""A sweep selects on tuning rows: two gates, two settings each, and other rows that rank them in reverse."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
import toy_methods
from toy_methods import FITS, disagreeing_table

from router_rl import Objective, RoutingProblem
from router_rl.methods.method import Method
from router_rl.methods.registry import find_method
from router_rl.studies.sweep import Sweep
from router_rl.studies.trial import TrialResult

GATES = ["toy_gate_one", "toy_gate_two"]


@pytest.fixture(autouse=True)
def _toys() -> Iterator[None]:
    with toy_methods.installed():
        yield


def _sweep(
    names: Sequence[str],
    folder: Path,
    *,
    seeds: int = 1,
    n_trials: int = 2,
    weights: Sequence[float] = (0.1,),
    cost: tuple[float, ...] = (1.0,) * 6,
) -> list[TrialResult]:
    problem = RoutingProblem(disagreeing_table(cost), [Objective(compute_weight=each) for each in weights])
    sweep = Sweep(problem=problem, folder=folder, tracked=None, jobs=1, seeds=seeds, n_trials=n_trials)
    methods = [find_method("routing", name) for name in names]
    return sweep.run([method for method in methods if isinstance(method, Method)])


def _experts(results: Sequence[TrialResult], method: str) -> list[int]:
    return [each.trial.hyperparameters.expert for each in results if each.trial.method == method]


def test_kills_hyperparameters_that_are_worst_or_best_on_test_or_first_or_last(tmp_path: Path) -> None:
    """Tuning rows prefer the last trial of the first gate and the first of the second; other rows do not."""
    results = _sweep(GATES, tmp_path)
    assert _experts(results, "toy_gate_one") == [1]
    assert _experts(results, "toy_gate_two") == [3]


def test_kills_refits_with_other_hyperparameters_than_the_chosen(tmp_path: Path) -> None:
    assert _experts(_sweep(GATES, tmp_path, seeds=3), "toy_gate_one") == [1, 1, 1]


def test_kills_a_search_that_fits_fewer_trials(tmp_path: Path) -> None:
    _sweep(GATES, tmp_path)
    assert sorted(hyperparameters.expert for _, hyperparameters, _ in FITS) == [0, 1, 2, 3]


def test_kills_warm_start_from_the_worst_gate_or_the_best_on_test(tmp_path: Path) -> None:
    """The first gate at expert b is best on tuning rows (0.8), and worst on test rows (0.15)."""
    results = _sweep(["toy_warm", *GATES], tmp_path, seeds=2)
    warm = [each.trial.hyperparameters for each in results if each.trial.method == "toy_warm"]
    assert [each.gate for each in warm] == ["toy_gate_one"] * 2
    assert [each.gate_hyperparameters.expert for each in warm] == [1, 1]


def test_kills_warm_start_from_the_start_of_the_best_seed(tmp_path: Path) -> None:
    """The seeded gate is best with seed 1 (0.8), and worse than the second gate (0.6) on average."""
    results = _sweep(["toy_warm", "toy_seeded_gate", "toy_gate_two"], tmp_path, seeds=2)
    (warm, *_) = [each.trial.hyperparameters for each in results if each.trial.method == "toy_warm"]
    assert warm.gate == "toy_gate_two"


def test_kills_warm_start_from_the_best_gate_of_another_case(tmp_path: Path) -> None:
    """Experts c and d cost a tenth of a and b: at compute weight 0.5 the second gate is the best one."""
    results = _sweep(["toy_warm", *GATES], tmp_path, weights=(0.1, 0.5), cost=(1.0, 1.0, 0.1, 0.1, 1.0, 1.0))
    gates = {
        each.trial.case.values["compute_weight"]: each.trial.hyperparameters.gate
        for each in results
        if each.trial.method == "toy_warm" and each.trial.case is not None
    }
    assert gates == {0.1: "toy_gate_one", 0.5: "toy_gate_two"}


def test_kills_warm_start_from_an_rl_method(tmp_path: Path) -> None:
    """The RL method (expert e) is better on tuning rows than the gate with its default (expert a)."""
    results = _sweep(["toy_warm", "toy_gate_one", "toy_rl_one"], tmp_path, n_trials=1)
    (warm,) = [each.trial.hyperparameters for each in results if each.trial.method == "toy_warm"]
    assert warm.gate == "toy_gate_one"


def test_kills_every_seed_0(tmp_path: Path) -> None:
    results = _sweep(["toy_seeded"], tmp_path, seeds=4)
    assert [each.trial.seed for each in results] == [0, 1, 2, 3]
    assert [seed for _, _, seed in FITS] == [0, 1, 2, 3]
    utility = [each.cases[0].test.means()["utility"] for each in results]
    assert utility == pytest.approx([value - 0.1 for value in toy_methods.SKILL["test"][:4]])


def test_trials_of_this_machine_run_in_the_engine_not_in_threads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Sweep, "_in_threads", lambda *_: pytest.fail("a thread was asked"))
    assert _experts(_sweep(["toy_gate_one"], tmp_path), "toy_gate_one") == [1]
