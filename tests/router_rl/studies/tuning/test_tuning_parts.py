"""Parts of a search: its pruners, the importances of hyperparameters, and what a fit reports to a pruner."""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import optuna
import pytest

from experts import InputError
from router_rl import tune
from router_rl.methods.training_loop import CurvePoint, Snapshot
from router_rl.studies.tuning.optuna_extra import quiet_optuna
from router_rl.studies.tuning.seeded_sampler import SeededSampler, new_pruner
from router_rl.studies.tuning.study_storage import _reason
from router_rl.studies.tuning.tune_options import PRUNERS, SAMPLERS
from router_rl.studies.tuning.tuning_results import _importance
from router_rl.studies.tuning.tuning_worker import _Reports


@pytest.mark.parametrize("name", PRUNERS)
def test_a_pruner_is_of_the_class_that_was_asked_for(name: str) -> None:
    assert type(new_pruner(name)).__name__ == name


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_sampler_is_of_the_class_that_was_asked_for(name: str) -> None:
    with quiet_optuna():
        assert type(SeededSampler(name, 0)._at(3)).__name__ == name


def test_a_search_has_at_least_one_trial(tmp_path: Path) -> None:
    problem: Any = None  # not read
    with pytest.raises(InputError, match=r"n_trials=0: is below 1; use 1 or more"):
        tune(problem, "ridge", tmp_path, n_trials=0)


def test_the_reason_of_a_database_error_is_the_driver_s_on_one_line() -> None:
    error: Any = RuntimeError("(driver) text [SQL: ...]")
    assert _reason(error) == "(driver) text [SQL: ...]"
    error.orig = ValueError("no   such\ntable")
    assert _reason(error) == "no such table"
    assert _reason(ValueError("x" * 300)) == "x" * 200


def finished(values: list[float]) -> tuple[optuna.Study, list[Any]]:
    """Return a study whose trials differ in `x`, their value, and in `y`, which has no effect."""
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    distributions = {name: optuna.distributions.FloatDistribution(0.0, 1.0) for name in "xy"}
    for number, value in enumerate(values):
        study.add_trial(
            optuna.trial.create_trial(
                params={"x": value, "y": (number % 3) / 2}, distributions=distributions, value=value
            )
        )
    return study, study.get_trials()


def test_importances_need_ten_trials_of_several_values() -> None:
    ten = [number / 10 for number in range(10)]
    assert _importance(*finished(ten[:9])) == {}
    assert _importance(*finished([0.5] * 12)) == {}
    shares = _importance(*finished(ten))
    assert shares["x"] > shares["y"]


class _Trial:
    """Keeps what is reported, and prunes from a step on."""

    def __init__(self, prune_at: int = 99) -> None:
        self.reported: list[tuple[float, int]] = []
        self.prune_at = prune_at

    def report(self, value: float, step: int) -> None:
        self.reported.append((value, step))

    def should_prune(self) -> bool:
        return self.reported[-1][1] >= self.prune_at


def snapshot(step: int, utilities: list[float] | None = None, utility: float | None = None) -> Snapshot:
    """Return a snapshot with a curve from step 0, or with one validation."""
    curve = tuple(CurvePoint(at, each, 0.0, 0.5) for at, each in enumerate(utilities or []))
    validation: Any = None if utility is None else SimpleNamespace(means=lambda: {"utility": utility})
    return Snapshot(step=step, total=9, validation=validation, best=0.0, curve=curve)


def test_each_validation_of_a_curve_but_the_start_is_reported_once() -> None:
    trial: Any = _Trial()
    reports = _Reports(trial)
    reports(snapshot(1, [0.9, 0.1]))
    reports(snapshot(1, [0.9, 0.1]))
    reports(snapshot(3, [0.9, 0.1, math.nan, 0.3]))
    assert trial.reported == [(0.1, 0), (0.3, 2)]


def test_without_a_curve_each_validation_but_the_start_is_reported() -> None:
    trial: Any = _Trial()
    reports = _Reports(trial)
    for step, utility in ((0, 0.9), (1, 0.1), (2, None), (3, 0.2)):
        reports(snapshot(step, utility=utility))
    assert trial.reported == [(0.1, 0), (0.2, 1)]


def test_a_trial_is_pruned_by_what_is_new() -> None:
    trial: Any = _Trial(prune_at=1)
    reports = _Reports(trial)
    reports(snapshot(1, [0.9, 0.1]))
    with pytest.raises(optuna.TrialPruned):
        reports(snapshot(2, [0.9, 0.1, 0.2]))
    reports(snapshot(2, [0.9, 0.1, 0.2]))  # nothing new
