"""Every tracker gets every value of every trial once, through its own library, also after a kill."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from joblib.externals.loky import get_reusable_executor
from tracking_stores import READERS, Stored

import train_router
from experts import InputError, OutcomeTable
from router_rl import Objective, RoutingProblem, Tracked, compare, fit
from router_rl.methods.checkpoint import Checkpoint
from router_rl.methods.training_loop import Snapshot
from router_rl.studies.runs import train_run

# SQLAlchemy 2.1 warns of options that MLflow uses; W&B leaves files to the garbage collector.
pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:.*noload.*"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

SHORT = {"epochs": 6, "patience": 6}
GATE = "softmax_gate/c=0.1/seed=0/trial=0"


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Path | None:
    """Return an empty SQLite store of MLflow, which takes seconds to make; None without MLflow."""
    if find_spec("mlflow") is None:
        return None
    from mlflow import MlflowClient

    folder = tmp_path_factory.mktemp("mlflow")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)  # where it keeps artefacts
        MlflowClient(f"sqlite:///{folder}/mlflow.db").search_experiments()
    return folder / "mlflow.db"


@pytest.fixture
def stores(tmp_path: Path, database: Path | None, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder with stores of MLflow and W&B, without servers."""
    get_reusable_executor().shutdown()  # processes of an earlier test have its variables
    if database is not None:
        shutil.copy(database, tmp_path / "mlflow.db")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    for name in ("CACHE", "DATA", "CONFIG"):
        monkeypatch.setenv(f"WANDB_{name}_DIR", str(tmp_path / "wandb"))
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.chdir(tmp_path)  # where MLflow keeps artefacts
    return tmp_path


def _installed(name: str) -> str:
    if find_spec(name) is None:
        pytest.skip(f"{name} is not installed")
    return name


@pytest.fixture(params=["tensorboard", "mlflow", "wandb"])
def tracker(request: pytest.FixtureRequest, stores: Path) -> str:
    """Return the name of each tracker."""
    return _installed(request.param)


@pytest.fixture
def problem(kinds: OutcomeTable) -> RoutingProblem:
    return RoutingProblem(replace(kinds, cost_unit="usd"), Objective(compute_weight=0.1))


class _Killed(Exception):
    pass


def _kill_after(snapshots: int) -> Callable[[Snapshot], None]:
    seen = 0

    def callback(snapshot: Snapshot) -> None:
        nonlocal seen
        seen += 1
        if seen > snapshots:
            raise _Killed

    return callback


def _train(problem: RoutingProblem, folder: Path, tracker: str, callback: Any = None) -> Stored:
    train_run(
        problem,
        "softmax_gate",
        Tracked(folder, tracker),
        hyperparameters=SHORT,
        callback=callback,
    )
    return READERS[tracker](folder)


def test_a_trial_is_logged_with_its_curve_and_its_results(
    problem: RoutingProblem, tmp_path: Path, tracker: str
) -> None:
    seen: list[Snapshot] = []
    stored = _train(problem, tmp_path / "run", tracker, seen.append)[GATE]
    for name in ("utility", "quality", "compute"):
        expected = [snapshot.validation.means()[name] for snapshot in seen if snapshot.validation is not None]
        assert [value for _, value in stored[f"validation/{name}"]] == pytest.approx(expected)
    steps = [round(1000 * snapshot.step / snapshot.total) for snapshot in seen]
    assert [step for step, _ in stored["validation/utility"]] == steps
    for (_, cost), (_, compute) in zip(
        stored["validation/usd_per_1000_queries"], stored["validation/compute"], strict=True
    ):
        assert cost == pytest.approx(1000 * compute * problem.scale)
    facts = json.loads((tmp_path / "run" / "run.json").read_text())
    for split in ("validation", "test"):
        (_, value), *rest = stored[f"final/compute weight 0.1/{split}_utility"]
        assert value == pytest.approx(facts[split]["utility"])
        assert rest == []
    assert stored["test/usd_per_1000_queries"][0][1] == pytest.approx(
        1000 * facts["test"]["compute"] * facts["compute_unit"]
    )


@pytest.mark.parametrize("checkpoints", [True, False])
def test_a_trial_that_is_killed_and_resumed_is_logged_once(
    problem: RoutingProblem, tmp_path: Path, tracker: str, monkeypatch: pytest.MonkeyPatch, checkpoints: bool
) -> None:
    monkeypatch.setattr(Checkpoint, "due", property(lambda _: checkpoints))
    with pytest.raises(_Killed):
        _train(problem, tmp_path / "run", tracker, _kill_after(3))
    resumed = _train(problem, tmp_path / "run", tracker)[GATE]
    whole = _train(problem, tmp_path / "whole", "tensorboard")[GATE]
    for name in [name for name in whole if not name.startswith(("final/", "test/"))]:
        assert [step for step, _ in resumed[name]] == [step for step, _ in whole[name]]
        assert [value for _, value in resumed[name]] == pytest.approx([value for _, value in whole[name]])
    assert len(resumed["test/utility"]) == 1
    assert len({step for step, _ in whole["validation/utility"]}) == len(whole["validation/utility"]) > 4
    assert not list((tmp_path / "run").rglob("logged.jsonl"))


def test_a_kill_before_the_trial_is_written_logs_it_once(
    problem: RoutingProblem, tmp_path: Path, tracker: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The tracker's run is finished, and the trial is not: it is fitted again."""
    with monkeypatch.context() as patch:
        patch.setattr("router_rl.studies.trial._write", lambda *_: (_ for _ in ()).throw(_Killed))
        with pytest.raises(_Killed):
            _train(problem, tmp_path / "run", tracker)
    resumed = _train(problem, tmp_path / "run", tracker)[GATE]
    assert len(resumed["test/utility"]) == 1
    steps = [step for step, _ in resumed["validation/utility"]]
    assert steps == sorted(set(steps))


@pytest.mark.parametrize("jobs", [1, 2])
def test_trials_are_logged_once_and_reused_ones_never_again(
    problem: RoutingProblem, tmp_path: Path, tracker: str, monkeypatch: pytest.MonkeyPatch, jobs: int
) -> None:
    if jobs == 2 and tracker != "mlflow":
        return  # the one whose processes share a file
    monkeypatch.setattr(RoutingProblem, "always", ("oracle", "random", "best_single"))
    folder = tmp_path / "study"

    def run() -> Stored:
        compare(problem, ["ridge"], seeds=2, n_trials=3, jobs=jobs, out=Tracked(folder, [tracker]))
        return READERS[tracker](folder)

    first = run()
    trials = {name for name in first if name.startswith("ridge/")}
    assert trials == {f"ridge/c=0.1/seed=0/trial={number}" for number in range(3)} | {
        name for name in trials if name.startswith("ridge/c=0.1/seed=1/")
    }
    assert len(trials) == 4
    assert all(len(first[name]["test/utility"]) == 1 for name in trials)
    files = sorted(folder.rglob("events*"))
    again = run()
    assert sorted(folder.rglob("events*")) == files  # not even written again
    assert {name: again[name] for name in trials} == {name: first[name] for name in trials}
    assert set(again) == set(first)


def test_the_whole_has_tags_artefacts_and_a_summary(
    problem: RoutingProblem, stores: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _installed("mlflow")
    from mlflow import MlflowClient

    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "mine")
    monkeypatch.setattr(RoutingProblem, "always", ("random", "best_single"))
    study = compare(problem, ["ridge"], seeds=1, n_trials=2, out=Tracked(stores / "study", "mlflow"))
    client = MlflowClient()
    runs = client.search_runs([client.get_experiment_by_name("mine").experiment_id])
    (whole,) = (run for run in runs if run.data.tags["job"] == "comparison")
    trials = [run for run in runs if run.data.tags["job"] == "trial"]
    assert {run.data.tags["mlflow.parentRunId"] for run in trials} == {whole.info.run_id}
    assert {run.data.params["penalty"] for run in trials} == {
        str(json.loads(path.read_text())["hyperparameters"]["penalty"])
        for path in (stores / "study").glob("trials/ridge-*/trial.json")
    }
    for run in runs:
        assert run.data.tags["problem"] == "routing"
        assert run.data.tags["digest"] == problem.digest()
    (row,) = (row for row in study.summary if row["method"] == "ridge")
    metrics = whole.data.metrics
    assert metrics["ridge/compute weight 0.1/utility"] == row["utility_mean"]
    assert metrics["ridge/compute weight 0.1/usd_per_1000_queries"] == pytest.approx(
        1000 * row["compute_mean"] * problem.scale
    )
    kept = {each.path for each in client.list_artifacts(whole.info.run_id)}
    assert {"results.json", "report.html", "router"} <= kept
    inside = {each.path for each in client.list_artifacts(whole.info.run_id, "router")}
    assert "router/router.json" in inside


def test_a_fit_is_logged_by_a_callback(problem: RoutingProblem, tmp_path: Path, tracker: str) -> None:
    tracked = Tracked(tmp_path / "fits", tracker)
    with tracked.log("mine", problem, method="softmax_gate") as callback:
        fit("softmax_gate", problem, hyperparameters=SHORT, callback=callback)
    assert len(READERS[tracker](tmp_path / "fits")["mine"]["validation/utility"]) > 4


def test_several_trackers_or_none(problem: RoutingProblem, tmp_path: Path) -> None:
    assert Tracked("a", "tensorboard, mlflow").names == ("tensorboard", "mlflow")
    train_run(problem, "ridge", Tracked(tmp_path / "none", ()))
    assert not (tmp_path / "none" / "tensorboard").exists()
    train_run(problem, "ridge", tmp_path / "default")
    assert set(READERS["tensorboard"](tmp_path / "default")) == {"ridge/c=0.1/seed=0/trial=0"}


def test_a_missing_library_is_one_line_before_anything_is_written(
    kinds: OutcomeTable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(
        "router_rl.studies.tracking.registry.TRACKERS",
        {"wandb": ("wandb_tracker", "WandbTracker", "no_such")},
    )
    kinds.write(tmp_path / "t.parquet")
    words = [
        "train",
        "--table",
        str(tmp_path / "t.parquet"),
        "--method",
        "ridge",
        "--out",
        str(tmp_path / "a"),
    ]
    for value, expected in (
        ("wandb", "track='wandb': no_such is not installed; pip install 'router-rl[track]'"),
        ("wanddb", "track='wanddb': unknown; did you mean 'wandb'?"),
    ):
        assert train_router.main([*words, "--track", value]) == 2
        error = capsys.readouterr().err
        assert expected in error
        assert len(error.splitlines()) == 1
    assert not (tmp_path / "a").exists()


def test_an_mlflow_store_that_cannot_be_reached_is_one_line_before_training(
    problem: RoutingProblem, stores: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _installed("mlflow")
    (stores / "file").write_text("")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{stores}/file/mlflow.db")
    _is_refused(problem, stores / "run", "mlflow", "check MLFLOW_TRACKING_URI")


def test_wandb_without_a_login_is_one_line_before_training(
    problem: RoutingProblem, stores: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _installed("wandb")
    import wandb

    monkeypatch.setenv("WANDB_MODE", "online")
    monkeypatch.setenv("NETRC", str(stores / "netrc"))
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    wandb.teardown()  # it reads the variables once in a process
    try:
        _is_refused(problem, stores / "run", "wandb", "wandb login")
    finally:
        wandb.teardown()


def _is_refused(problem: RoutingProblem, folder: Path, tracker: str, fix: str) -> None:
    with pytest.raises(InputError, match=fix) as error:
        train_run(problem, "ridge", Tracked(folder, tracker))
    assert "\n" not in str(error.value)
    assert not (folder / "trials").exists()
