"""Trials whose workers do not see the output folder: equal results, stored here, resumed here."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import away_engine
import pytest
from toy_methods import disagreeing_table

from router_rl import Jobs, Objective, RoutingProblem, SearchOptions, TuneBudget, compare, tune
from router_rl.studies import sweep
from router_rl.studies.compare import Study
from router_rl.studies.trial_parcel import packed_trial
from router_rl.studies.tuning import study_run

METHODS = ["ridge"]
ALWAYS = ("best_single", "oracle")


@pytest.fixture(autouse=True)
def _away(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(RoutingProblem, "always", ALWAYS)
    monkeypatch.setattr(study_run, "write_tuning_charts", lambda *_: None)
    monkeypatch.setattr("router_rl.studies.compare.write_report", lambda *_: None)
    with away_engine.installed():
        yield


def _problem(cost: tuple[float, ...] = (1.0,) * 6) -> RoutingProblem:
    return RoutingProblem(disagreeing_table(cost), [Objective(compute_weight=each) for each in (0.1, 0.3)])


def _compared(
    out: Path,
    engine: str,
    *,
    n_trials: Any = 2,
    cost: tuple[float, ...] = (1.0,) * 6,
    methods: Sequence[str] = METHODS,
) -> Study:
    jobs = Jobs(2, engine) if engine != "local" else 1
    return compare(_problem(cost), methods, seeds=2, n_trials=n_trials, jobs=jobs, out=out)


def _numbers(study: Study) -> list[dict[str, Any]]:
    timed = ("fit_seconds", "router")
    rows = study.results["rows"]
    return [{name: value for name, value in row.items() if name not in timed} for row in rows]


def _logged(folder: Path) -> list[tuple[str, str, int, float]]:
    """Run, tag, step and value of all that TensorBoard has, without times."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = []
    for file in sorted(folder.rglob("events.*")):
        events = EventAccumulator(str(file))
        events.Reload()
        run = str(file.parent.relative_to(folder))
        for tag in events.Tags()["scalars"]:
            if "second" not in tag:
                found += [(run, tag, each.step, each.value) for each in events.Scalars(tag)]
    return sorted(found)


@pytest.mark.slow
def test_results_files_and_logs_are_those_of_local_trials(tmp_path: Path) -> None:
    methods = ["softmax_gate", "ridge"]
    here = _compared(tmp_path / "here", "local", methods=methods)
    away = _compared(tmp_path / "away", "away", methods=methods)
    assert _numbers(away) == _numbers(here)
    trials = [sorted((tmp_path / name / "trials").rglob("*")) for name in ("here", "away")]
    names = [[str(path.relative_to(tmp_path / name)) for path in paths] for name, paths in
             zip(("here", "away"), trials, strict=True)]  # fmt: skip
    assert names[0] == names[1]
    assert {work for work, _ in away_engine.RUNS} == {"_packed"}
    for one, other in zip(*trials, strict=True):
        if one.name == "measured.safetensors":
            assert one.read_bytes() == other.read_bytes()
    logged = _logged(tmp_path / "here" / "tensorboard")
    assert logged
    assert _logged(tmp_path / "away" / "tensorboard") == logged


def test_finished_trials_are_reused_by_either_engine(tmp_path: Path) -> None:
    first = _compared(tmp_path, "away")
    jobs = len(away_engine.RUNS)
    assert first.reused == 0
    gone = sorted((tmp_path / "trials").glob("*/trial.json"))[0]
    kept = len(list((tmp_path / "trials").glob("*/trial.json"))) - 1
    gone.unlink()
    second = _compared(tmp_path, "away")
    assert len(away_engine.RUNS) == jobs + 1
    assert _numbers(second) == _numbers(first)
    assert 0 < second.reused <= kept
    third = _compared(tmp_path, "local")
    assert _numbers(third) == _numbers(first)
    assert third.reused == second.reused + 1


def test_what_an_interrupted_fit_left_is_replaced(tmp_path: Path) -> None:
    study = _compared(tmp_path, "local")
    for path in sorted((tmp_path / "trials").glob("*/trial.json")):
        path.unlink()
        (path.parent / "checkpoint.safetensors").write_bytes(b"old")
        (path.parent / "logged.jsonl").write_text("old\n")
        (path.parent / "router").mkdir(exist_ok=True)
        (path.parent / "router" / "old").write_text("old")
    again = _compared(tmp_path, "away")
    assert _numbers(again) == _numbers(study)
    left = {path.name for path in (tmp_path / "trials").rglob("*")}
    assert not left & {"checkpoint.safetensors", "logged.jsonl", "old"}


def test_trials_of_other_data_are_not_reused(tmp_path: Path) -> None:
    """The same methods, cases and seeds on another table, in the same folder."""
    other = (1.0, 0.2, 0.7, 0.4, 0.9, 0.1)
    one = _compared(tmp_path / "away", "away")
    two = _compared(tmp_path / "away", "away", cost=other)
    assert two.reused == 0
    assert _numbers(two) != _numbers(one)
    assert _numbers(two) == _numbers(_compared(tmp_path / "here", "local", cost=other))


def test_a_result_of_another_trial_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def mixed(shared: Any, trial: Any) -> Any:
        other = [each for (_, (each,)) in away_engine.RUNS if each != trial]
        return packed_trial((other or [trial])[0], shared.problem, shared.digest, None)

    monkeypatch.setattr(sweep, "_packed", mixed)
    with pytest.raises(AssertionError, match="came for"):
        _compared(tmp_path, "away")


def test_the_same_budget_of_trials(tmp_path: Path) -> None:
    """Each trial of a search is a job of its own, so that a lost worker costs one trial."""
    pytest.importorskip("optuna")
    here = _compared(tmp_path / "here", "local", n_trials=TuneBudget(3))
    away = _compared(tmp_path / "away", "away", n_trials=TuneBudget(3))
    assert _numbers(away) == _numbers(here)
    stored = [len(list((tmp_path / name / "trials").glob("*/trial.json"))) for name in ("here", "away")]
    assert stored[0] == stored[1] == len(away_engine.RUNS)
    again = _compared(tmp_path / "away", "away", n_trials=TuneBudget(3))
    assert _numbers(again) == _numbers(here)
    assert len(away_engine.RUNS) == stored[0]


def test_an_error_of_a_trial_stops_the_search(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("optuna")

    def fails(shared: Any, trial: Any) -> Any:
        raise TypeError("our own mistake")

    monkeypatch.setattr(sweep, "_packed", fails)
    with pytest.raises(TypeError, match="our own mistake"):
        _compared(tmp_path, "away", n_trials=TuneBudget(3))
    assert ("stop", ()) in away_engine.RUNS


def test_tune_writes_nothing_to_the_folder_from_afar(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("optuna")
    options = SearchOptions(sampler="RandomSampler", pruner="NopPruner")
    here = tune(_problem(), "ridge", tmp_path / "here", n_trials=5, options=options)
    monkeypatch.setattr(away_engine._AwayEngine, "has_one_machine", True)
    away = tune(_problem(), "ridge", tmp_path / "away", n_trials=5, options=options, jobs=Jobs(2, "away"))
    keep = ("state", "validation_utility", "parameters")
    trials = [
        [{name: each[name] for name in keep} for each in tuned.facts["trials"]] for tuned in (here, away)
    ]
    assert trials[0] == trials[1]
    assert away.best == here.best
    assert [work for work, _ in away_engine.RUNS] == ["_away"] * 5
    logged = _logged(tmp_path / "here" / "tensorboard")
    assert logged
    assert _logged(tmp_path / "away" / "tensorboard") == logged


def test_a_file_is_no_storage_for_other_machines(tmp_path: Path) -> None:
    pytest.importorskip("optuna")
    with pytest.raises(ValueError, match=r"storage=.*other machines cannot use; use postgresql"):
        tune(_problem(), "ridge", tmp_path / "out", n_trials=2, jobs=Jobs(2, "away"))
    assert away_engine.RUNS == []


def test_what_a_trial_stores_is_said_to_be_new(tmp_path: Path) -> None:
    """`trial.json` has the identity of its folder, whoever wrote it."""
    _compared(tmp_path, "away")
    for path in (tmp_path / "trials").glob("*/trial.json"):
        facts = json.loads(path.read_text())
        assert path.parent.name.startswith(facts["method"])


def test_the_trial_of_a_lost_worker_runs_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker dies while it fits: the trial that it began is drawn again, and no other is lost or added."""
    pytest.importorskip("optuna")
    from router_rl.studies.tuning import parallel_search, tuning_worker

    options = SearchOptions(sampler="RandomSampler", pruner="NopPruner")
    here = tune(_problem(), "ridge", tmp_path / "here", n_trials=5, options=options)
    run = away_engine._AwayEngine.results

    class DiesError(BaseException):
        pass

    def dies(*_: Any) -> float:
        raise DiesError

    def loses(self: Any, work: Any, jobs: Any, lost: Any) -> Any:
        for number, key in enumerate(jobs):
            if number in (0, 2):  # the first has the defaults, which no sampler draws
                with monkeypatch.context() as patch:
                    patch.setattr(tuning_worker, "_fitted_value", dies)
                    with pytest.raises(DiesError):
                        list(run(self, work, {key: jobs[key]}))
                lost(key)
            yield from run(self, work, {key: jobs[key]})

    monkeypatch.setattr(away_engine._AwayEngine, "has_one_machine", True)
    monkeypatch.setattr(away_engine._AwayEngine, "results", loses)
    away = tune(_problem(), "ridge", tmp_path / "away", n_trials=5, options=options, jobs=Jobs(2, "away"))
    assert away.facts["counts"]["complete"] == 5
    ended = [
        [
            (each["parameters"], each["validation_utility"])
            for each in tuned.facts["trials"]
            if each["state"] == "complete"
        ]
        for tuned in (here, away)
    ]
    assert sorted(map(str, ended[0])) == sorted(map(str, ended[1]))
    assert len(parallel_search._OPEN) == 1


def test_trial_json_is_written_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A command that is killed while it stores a trial leaves a trial that is not finished."""
    from router_rl.studies import trial_parcel

    written: list[Path] = []

    def replacing(target: Path) -> Any:
        written.append(target)
        return real(target)

    real = trial_parcel.replacing
    monkeypatch.setattr(trial_parcel, "replacing", replacing)
    _compared(tmp_path, "away")
    folders = {path.parents[len(path.relative_to(tmp_path / "trials").parts) - 2] for path in written}
    for folder in folders:
        own = [path for path in written if folder in path.parents]
        assert [path.name for path in own].index("trial.json") == len(own) - 1 > 0
