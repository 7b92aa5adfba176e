"""A comparison with a tuning budget: as many trials for every method, resumable, equal with several jobs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import toy_methods
import tuning_toys
from toy_methods import FITS, SKILL, disagreeing_table

from experts import InputError
from router_rl import Objective, RoutingProblem, TuneBudget, compare
from router_rl.methods.method import Method
from router_rl.methods.registry import find_method
from router_rl.studies import trial_fit
from router_rl.studies.sweep import Sweep
from router_rl.studies.trial import TrialResult
from router_rl.studies.tuning import optuna_extra


@pytest.fixture(autouse=True)
def _toys() -> Iterator[None]:
    with toy_methods.installed(), tuning_toys.installed():
        yield


def _swept(
    folder: Path, names: list[str], trials: int, seeds: int = 1, jobs: int = 1
) -> tuple[list[TrialResult], list[Any]]:
    progress: list[tuple[int, int]] = []
    sweep = Sweep(
        problem=RoutingProblem(disagreeing_table(), Objective(compute_weight=0.1)),
        folder=folder,
        tracked=None,
        jobs=jobs,
        seeds=seeds,
        n_trials=TuneBudget(trials),
        progress=lambda done, total, _: progress.append((done, total)),
    )
    methods = [find_method("routing", name) for name in names]
    return sweep.run([each for each in methods if isinstance(each, Method)]), progress


def test_every_method_gets_the_same_trials_and_the_best_on_tuning_rows_wins(tmp_path: Path) -> None:
    """The defaults are the first trial; a method without a search space has one trial."""
    names = ["toy_curve", "toy_fixed", "toy_rl_one"]
    results, progress = _swept(tmp_path, names, trials=12, seeds=2)
    found = Counter(path.name.rpartition("-")[0] for path in tmp_path.iterdir())
    assert found == {"toy_curve": 12 + 1, "toy_fixed": 1 + 1, "toy_rl_one": 1 + 1}  # one refit each
    assert tuning_toys.FITS[0][0] == 0.5
    best = results[0].trial.hyperparameters
    drawn = [skill for skill, _ in tuning_toys.FITS]
    assert best.skill == max(drawn, key=lambda skill: SKILL["tuning"][round(5 * skill)])
    assert [(each.trial.method, each.trial.seed) for each in results[:3]] == [(name, 0) for name in names]
    assert progress[-1] == (17, 17)


def test_an_interrupted_search_goes_on_with_its_finished_trials(tmp_path: Path) -> None:
    whole, _ = _swept(tmp_path / "whole", ["toy_curve"], trials=6)

    def stop(skill: float) -> None:
        if len(tuning_toys.FITS) == 4:
            raise KeyboardInterrupt

    with tuning_toys.installed(stop), pytest.raises(KeyboardInterrupt):
        _swept(tmp_path / "out", ["toy_curve"], trials=6)
    tuning_toys.FITS.clear()
    rest, _ = _swept(tmp_path / "out", ["toy_curve"], trials=6)
    assert len(tuning_toys.FITS) == 3
    assert rest[0].trial == whole[0].trial
    assert rest[0].validation_utility == whole[0].validation_utility


def test_a_fit_that_fails_ends_its_trial_only(tmp_path: Path) -> None:
    def fail(skill: float) -> None:
        if skill < 0.5:
            raise ArithmeticError(f"no skill {skill}")

    with tuning_toys.installed(fail), pytest.warns(UserWarning, match=r"toy_curve: \d of 6 trials failed"):
        results, _ = _swept(tmp_path / "some", ["toy_curve"], trials=6)
    assert results[0].trial.hyperparameters.skill >= 0.5

    numbers = iter(range(99))

    def fail_by_number(skill: float) -> None:
        number = next(numbers)
        if number in (1, 2):
            raise ArithmeticError(f"failure {number}")

    said = "toy_curve: 2 of 6 trials failed, the last because failure 2"
    with tuning_toys.installed(fail_by_number), pytest.warns(UserWarning, match=said):
        _swept(tmp_path / "numbered", ["toy_curve"], trials=6)

    def fail_always(skill: float) -> None:
        raise ArithmeticError("never a skill")

    with tuning_toys.installed(fail_always), pytest.raises(ArithmeticError, match="never a skill"):
        _swept(tmp_path / "all", ["toy_curve"], trials=3)


def test_a_method_starts_from_the_best_of_the_searches(tmp_path: Path) -> None:
    """The first gate at expert b is best on tuning rows; the method that starts from it is fitted once."""
    results, _ = _swept(tmp_path, ["toy_warm", "toy_gate_one", "toy_gate_two"], trials=5)
    by_method = {each.trial.method: each.trial.hyperparameters for each in results}
    assert by_method["toy_gate_one"].expert == 1
    assert by_method["toy_warm"].gate == "toy_gate_one"
    assert by_method["toy_warm"].gate_hyperparameters.expert == 1
    assert Counter(name for name, _, _ in FITS) == {"toy_gate_one": 2, "toy_gate_two": 2, "toy_warm": 1}


@pytest.mark.slow
def test_results_are_the_same_with_several_jobs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def numbers(jobs: int, folder: str) -> list[Any]:
        results, _ = _swept(tmp_path / folder, ["ridge", "knn"], trials=3, jobs=jobs)
        return [(each.trial, each.validation_utility, each.cases[0].test.means()) for each in results]

    alone = numbers(1, "one")
    assert numbers(2, "two") == alone
    monkeypatch.setattr(trial_fit, "fit_method", lambda *_: pytest.fail("something was fitted again"))
    assert numbers(1, "two") == alone


def test_a_comparison_says_how_it_searched() -> None:
    problem = RoutingProblem(disagreeing_table(), Objective(compute_weight=0.1))
    results = compare(problem, ["toy_curve"], seeds=1, n_trials=TuneBudget(3)).results
    assert results["n_trials"] == 3
    assert any("3 trials of Optuna's TPESampler (seed 0)" in note for note in results["notes"])


def test_what_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    problem = RoutingProblem(disagreeing_table(), Objective(compute_weight=0.1))
    with pytest.raises(InputError, match="trials=0"):
        TuneBudget(0)
    monkeypatch.setattr(optuna_extra, "find_spec", lambda _: None)
    with pytest.raises(InputError, match="tune_budget=3: optuna is not installed; pip install"):
        compare(problem, ["ridge"], n_trials=TuneBudget(3))
