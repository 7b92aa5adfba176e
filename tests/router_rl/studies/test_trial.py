"""A trial measures each split on its own rows, and its seed reaches the fit and the evaluation."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import toy_methods
from toy_methods import FITS, ToyHyperparameters, disagreeing_table, skill

from router_rl import Objective, RoutingProblem
from router_rl.methods.method import NoHyperparameters
from router_rl.studies.trial import CaseResult, Trial, run_trial


@pytest.fixture(autouse=True)
def _toys() -> Iterator[None]:
    with toy_methods.installed():
        yield


@pytest.fixture
def problem() -> RoutingProblem:
    return RoutingProblem(disagreeing_table(), Objective(compute_weight=0.1))


def _trial(method: str, seed: int = 0, **changes: int) -> Trial:
    hyperparameters = NoHyperparameters() if method == "random" else ToyHyperparameters(**changes)
    return Trial(method=method, hyperparameters=hyperparameters, case=None, seed=seed)


def _by_split(problem: RoutingProblem, folder: Path) -> CaseResult:
    """The router that sends training rows to a, validation rows to b, tuning rows to c and test rows to d."""
    return run_trial(_trial("toy_by_split"), problem, folder).cases[0]


def test_kills_validation_measured_on_test_rows(problem: RoutingProblem, tmp_path: Path) -> None:
    """Nor is it measured on the validation rows, which fits read."""
    result = _by_split(problem, tmp_path)
    assert result.validation["utility"] == pytest.approx(skill("tuning", 2, 0.1))
    assert result.validation["quality"] == pytest.approx(skill("tuning", 2, 0.0))
    assert result.validation_shares is not None
    assert result.validation_shares.tolist() == [0.0, 0.0, 1.0, 0.0, 0.0, 0.0]


def test_kills_test_measured_on_other_rows(problem: RoutingProblem, tmp_path: Path) -> None:
    result = _by_split(problem, tmp_path)
    np.testing.assert_allclose(result.test.utility, problem.table.part("test").quality[:, 3] - 0.1, atol=1e-6)
    assert result.test.shares.tolist() == [0.0, 0.0, 0.0, 1.0, 0.0, 0.0]


def test_kills_training_utility_measured_on_other_rows(problem: RoutingProblem, tmp_path: Path) -> None:
    assert _by_split(problem, tmp_path).train_utility == pytest.approx(skill("train", 0, 0.1))


def test_kills_trials_ranked_by_test_utility(problem: RoutingProblem, tmp_path: Path) -> None:
    result = run_trial(_trial("toy_by_split"), problem, tmp_path)
    assert result.validation_utility == pytest.approx(skill("tuning", 2, 0.1))


def test_kills_a_fit_of_every_seed_with_seed_0(problem: RoutingProblem, tmp_path: Path) -> None:
    results = [run_trial(_trial("toy_seeded", seed), problem, tmp_path) for seed in (0, 1, 3)]
    assert [seed for _, _, seed in FITS] == [0, 1, 3]
    for result in results:
        expected = skill("test", result.trial.seed, 0.1)
        assert result.cases[0].test.means()["utility"] == pytest.approx(expected)


def test_kills_an_evaluation_of_every_seed_with_seed_0(problem: RoutingProblem, tmp_path: Path) -> None:
    zero, one = (run_trial(_trial("random", seed), problem, tmp_path).cases[0] for seed in (0, 1))
    assert zero.test.utility.tolist() != one.test.utility.tolist()
    assert zero.validation["utility"] != one.validation["utility"]
