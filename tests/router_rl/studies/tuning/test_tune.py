"""A search: what it reads, how it resumes, what it prunes, and what it refuses."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sqlite3
import time
import warnings
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
import pytest
import tuning_toys
from toy_methods import SKILL
from tuning_toys import FITS, NAME, STEPS, problem_of_toys

from experts import InputError
from router_rl import RoutingProblem, SearchOptions, tune
from router_rl.studies.tuning import study_run, tuning_worker
from router_rl.studies.tuning.tune_options import PRUNERS, SAMPLERS

EMPTY = Path()  # set by a fixture
NO_PRUNING = SearchOptions(pruner="NopPruner")


@pytest.fixture(scope="module")
def empty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a database with Optuna's tables, which take a quarter of a second to make."""
    path = tmp_path_factory.mktemp("optuna") / "empty.db"
    storage = optuna.storages.RDBStorage(f"sqlite:///{path}")
    storage.remove_session()
    storage.engine.dispose()
    return path


@pytest.fixture(autouse=True)
def _toys(monkeypatch: pytest.MonkeyPatch, empty: Path) -> Iterator[None]:
    monkeypatch.setitem(globals(), "EMPTY", empty)
    monkeypatch.setattr(study_run, "write_tuning_charts", lambda *_: None)  # half a second each
    with tuning_toys.installed():
        yield


def _tune(out: Path, n_trials: int, options: SearchOptions = NO_PRUNING, **given: Any) -> dict[str, Any]:
    """Tune the toy, in a database beside the folder unless the options name another."""
    if options.storage is None:
        database = out.with_name(f"{out.name}.db")
        if not database.exists():
            shutil.copy(EMPTY, database)
        options = replace(options, storage=f"sqlite:///{database}")
    return tune(problem_of_toys(), NAME, out, n_trials=n_trials, options=options, **given).facts


@pytest.fixture(scope="module")
def whole(empty: Path, tmp_path_factory: pytest.TempPathFactory) -> list[tuple[Any, ...]]:
    """Return the trials of a search that nothing interrupts; one with fewer trials begins like it."""
    folder = tmp_path_factory.mktemp("whole")
    shutil.copy(empty, folder / "study.db")
    options = replace(NO_PRUNING, storage=f"sqlite:///{folder / 'study.db'}")
    with tuning_toys.installed():
        return _trials(tune(problem_of_toys(), NAME, folder / "out", n_trials=12, options=options).facts)


def _trials(facts: dict[str, Any]) -> list[tuple[Any, ...]]:
    return [(each["state"], each["parameters"], each["validation_utility"]) for each in facts["trials"]]


def test_the_best_on_tuning_rows_and_no_test_row_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Expert b is the best on tuning rows, and the worst on test rows."""
    splits: list[str] = []
    evaluate = RoutingProblem.evaluate

    def watched(self: Any, policy: Any, split: str, *rest: Any, **named: Any) -> Any:
        splits.append(split)
        return evaluate(self, policy, split, *rest, **named)

    monkeypatch.setattr(RoutingProblem, "evaluate", watched)
    tuned = tune(problem_of_toys(), NAME, tmp_path / "out", n_trials=20, options=NO_PRUNING)
    assert round(5 * tuned.best.skill) == 1
    assert tuned.validation_utility == pytest.approx(SKILL["tuning"][1] - 0.1)
    assert set(splits) == {"tuning"}
    assert tuned.facts["trials"][0]["parameters"] == {"skill": 0.5}  # the defaults
    assert tuned.facts["default_utility"] == tuned.facts["trials"][0]["validation_utility"]
    written = json.loads((tmp_path / "out" / "tuning.json").read_text())
    assert written.pop("checksum")
    assert written == tuned.facts


def test_a_search_in_parts_is_the_search_at_once(tmp_path: Path, whole: list[tuple[Any, ...]]) -> None:
    first = _tune(tmp_path / "out", 5)
    assert _trials(first) == whole[:5]
    rest = _tune(tmp_path / "out", 12)
    assert _trials(rest) == whole
    assert len(FITS) == 12
    assert (first["counts"]["reused"], rest["counts"]["reused"]) == (0, 5)
    assert _trials(_tune(tmp_path / "out", 12)) == whole
    assert len(FITS) == 12
    assert len({str(parameters) for _, parameters, _ in whole}) == 12


@pytest.mark.slow
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_each_sampler_draws_other_values_after_a_resume(tmp_path: Path, sampler: str) -> None:
    options = SearchOptions(pruner="NopPruner", sampler=sampler)
    _tune(tmp_path / "out", 2, options)
    trials = _trials(_tune(tmp_path / "out", 4, options))
    assert len({str(parameters) for _, parameters, _ in trials}) >= 3  # QMC's second point is the default


@pytest.mark.slow
@pytest.mark.parametrize("pruner", PRUNERS)
def test_worse_trials_are_pruned_on_validation(tmp_path: Path, pruner: str) -> None:
    facts = _tune(tmp_path / "out", 10, SearchOptions(pruner=pruner, sampler="RandomSampler"))
    short = [skill for skill, steps in FITS if steps < STEPS]
    assert facts["counts"]["pruned"] == len(short)
    if pruner == "NopPruner":
        assert not short
    else:
        assert short
        assert max(skill for skill, _ in FITS) not in short
        # Step 0 is not reported: a fit that is pruned at once has seen the second validation.
        assert min(steps for _, steps in FITS) >= 1
    states = [each["state"] for each in facts["trials"]]
    assert len(states) == 10
    assert all(
        (each["validation_utility"] is None) == (each["state"] == "pruned") for each in facts["trials"]
    )


def test_equal_hyperparameters_are_fitted_once(tmp_path: Path) -> None:
    facts = _tune(tmp_path / "out", 6, space={"skill": [0.5, 0.2]})
    assert len(FITS) == 2
    assert facts["counts"]["repeated"] == 4
    assert facts["counts"]["complete"] == 6


def test_a_trial_that_fails_counts_and_says_why(tmp_path: Path) -> None:
    def fail(skill: float) -> None:
        if skill > 0.5:
            raise RuntimeError("the loss is\nnan")

    with tuning_toys.installed(fail):
        facts = _tune(tmp_path / "out", 10)
    failed = [skill for skill, _ in FITS if skill > 0.5]
    assert 0 < facts["counts"]["failed"] == len(failed) < 10
    assert facts["counts"]["complete"] == 10 - len(failed)
    assert facts["errors"] == ["the loss is nan"]


def test_when_every_trial_fails_the_search_ends_early(tmp_path: Path) -> None:
    def fail(skill: float) -> None:
        raise InputError("k", 3, "is too large", "use 2")

    with (
        tuning_toys.installed(fail),
        pytest.raises(InputError, match=r"every trial failed.*k=3: is too large"),
    ):
        _tune(tmp_path / "out", 10)
    assert len(FITS) <= 3


@pytest.mark.slow
def test_a_tracker_that_fails_is_no_failed_trial(tmp_path: Path) -> None:
    def fail(skill: float) -> None:
        raise InputError("track", "mlflow", "failed", "start it")

    with tuning_toys.installed(fail), pytest.raises(InputError, match=r"^track='mlflow': failed; start it"):
        _tune(tmp_path / "out", 5)
    assert len(FITS) == 1
    assert _tune(tmp_path / "out", 1)["counts"]["failed"] == 0


def test_an_error_of_ours_is_not_a_failed_trial(tmp_path: Path) -> None:
    def fail(skill: float) -> None:
        raise KeyError("a bug")

    with tuning_toys.installed(fail), pytest.raises(KeyError):
        _tune(tmp_path / "out", 3)


@pytest.mark.parametrize("at", [0, 2])
def test_an_interrupted_trial_runs_again(tmp_path: Path, at: int, whole: list[tuple[Any, ...]]) -> None:
    """A kill in a fit loses that fit only; what comes after it is as without the kill."""

    class Killed(BaseException):
        pass

    def kill(skill: float) -> None:
        if len(FITS) == at + 1:
            raise Killed

    with tuning_toys.installed(kill), pytest.raises(Killed):
        _tune(tmp_path / "out", 4)
    resumed = _tune(tmp_path / "out", 4)
    assert _trials(resumed) == whole[:4]
    assert resumed["counts"]["running"] == 0
    assert not (tmp_path / "out" / "trials").exists()


def test_ctrl_c_runs_the_trial_again(tmp_path: Path, whole: list[tuple[Any, ...]]) -> None:
    def stop(skill: float) -> None:
        raise KeyboardInterrupt

    with tuning_toys.installed(stop), pytest.raises(KeyboardInterrupt):
        _tune(tmp_path / "out", 3)
    assert _trials(_tune(tmp_path / "out", 3)) == whole[:3]


def test_kill_9_loses_no_finished_trial(tmp_path: Path, whole: list[tuple[Any, ...]]) -> None:
    """The process is killed in its fourth fit: the three before stay as they are, to the second."""
    out, database = tmp_path / "out", tmp_path / "study.db"
    options = SearchOptions(pruner="NopPruner", storage=f"sqlite:///{database}")

    def wait(skill: float) -> None:
        if len(FITS) == 4:
            time.sleep(60)

    def finished() -> list[tuple[Any, ...]]:
        with closing(sqlite3.connect(database)) as connection:
            query = "SELECT number, state, datetime_complete FROM trials WHERE state = 'COMPLETE'"
            return connection.execute(query).fetchall()

    with warnings.catch_warnings(), tuning_toys.installed(wait):
        warnings.simplefilter("ignore", DeprecationWarning)  # of a fork beside threads
        child = os.fork()
        if child == 0:
            _tune(out, 6, options)
            os._exit(0)
    deadline = time.monotonic() + 60
    while not database.exists() or not _has(finished) or len(finished()) < 3:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    before = finished()
    assert len(before) == 3
    facts = _tune(out, 6, options)
    assert finished()[:3] == before
    assert facts["counts"]["reused"] == 3
    assert _trials(facts) == whole[:6]


def _has(finished: Any) -> bool:
    """Return whether the tables exist."""
    try:
        finished()
    except sqlite3.OperationalError:
        return False
    return True


def test_another_folder_goes_on_with_the_study_in_one_storage(
    tmp_path: Path, whole: list[tuple[Any, ...]]
) -> None:
    options = SearchOptions(pruner="NopPruner", storage=f"sqlite:///{tmp_path / 'study.db'}")
    _tune(tmp_path / "one", 3, options)
    facts = _tune(tmp_path / "two", 5, options)
    assert facts["counts"]["complete"] == 5
    assert _trials(facts) == whole[:5]


def test_a_trial_too_many_of_two_workers_does_not_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both see that one trial is missing, and both begin one: the second ends without a fit."""
    options = SearchOptions(pruner="NopPruner", storage=f"sqlite:///{tmp_path / 'study.db'}")
    _tune(tmp_path / "one", 3, options)
    fitted, counted, calls = len(FITS), tuning_worker.counted, []

    def late(trials: Any) -> Any:
        calls.append(len(trials))
        return counted(trials)[:2] if len(calls) == 1 else counted(trials)

    monkeypatch.setattr(tuning_worker, "counted", late)
    facts = _tune(tmp_path / "two", 3, options)
    assert calls[:2] == [3, 4]  # a fourth trial was begun
    assert len(FITS) == fitted
    assert facts["counts"]["complete"] == 3
    assert facts["counts"]["failed"] == facts["counts"]["running"] == 0


def test_what_is_refused(tmp_path: Path) -> None:
    tune(problem_of_toys(), NAME, tmp_path / "out", n_trials=2, options=NO_PRUNING)
    storage = f"sqlite:///{tmp_path / 'out' / 'study.db'}"
    own = optuna.storages.RDBStorage(storage)
    optuna.create_study(storage=own, study_name="own").add_trial(optuna.create_trial(value=1.0))
    own.engine.dispose()
    (tmp_path / "junk.db").write_bytes(b"SQLite format 3\0" + b"junk" * 1000)
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "best.yaml").write_text("mine")

    def refused(out: str, message: str, method: str = NAME, seed: int = 0, **given: Any) -> None:
        space = given.pop("space", None)
        before = sorted(tmp_path.rglob("*"))
        problem = problem_of_toys(seed)
        with pytest.raises(InputError, match=message):
            tune(
                problem,
                method,
                tmp_path / out,
                n_trials=2,
                options=SearchOptions(**{"pruner": "NopPruner", **given}),
                space=space,
            )
        assert sorted(tmp_path.rglob("*")) == before

    refused("out", "belongs to a search with another cases", seed=1)
    refused("out", "belongs to a search with another space", space={"skill": [0.1, 0.2]})
    refused("out", "belongs to a search with another storage", storage=storage)
    refused("new", "study_name='own'.*this toolkit did not write", storage=storage, study_name="own")
    refused("new", "study_name='routing-toy_curve'.*another cases", storage=storage, seed=1)
    refused("taken", r"out=.*did not write \(best.yaml\)")
    refused("new", "storage=.*cannot be used", storage=f"sqlite:///{tmp_path / 'junk.db'}")
    refused("new", "storage='study.db': is no database URL", storage="study.db")
    refused("new", "storage='mysql': is not SQLite or PostgreSQL", storage="mysql://me:secret@host/name")
    refused("new", "storage=.*cannot be made", storage=f"sqlite:///{tmp_path / 'none' / 'study.db'}")
    refused("new", "storage=.*names no file", storage="sqlite://")
    refused("new", "sampler='CmaEsSampler': unknown", sampler="CmaEsSampler")
    refused("new", "pruner='Median': unknown; did you mean 'MedianPruner'", pruner="Median")
    refused("new", "method='toy_fixed': has no hyperparameter to search", method="toy_fixed")
    refused("new", "space.skil='skil': unknown", space={"skil": 1})
    refused("new", "method='oracle': is a bound", method="oracle")


def test_a_budget_of_the_objective_and_pruning_do_not_mix(tmp_path: Path) -> None:
    """Bisection refits with other compute weights, whose curves are not to be compared."""
    problem = problem_of_toys()
    problem = problem.with_objective(replace(problem.objective, budget=1.0))
    facts = tune(problem, NAME, tmp_path / "out", n_trials=9).facts
    assert facts["counts"]["complete"] == 9
