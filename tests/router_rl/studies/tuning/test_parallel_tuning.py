"""Workers on one storage: processes of one command, and commands on one PostgreSQL database."""

from __future__ import annotations

import os
import runpy
import signal
import tempfile
import threading
import time
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from pathlib import Path
from types import SimpleNamespace

import optuna
import pytest
import tuning_toys
from optuna.trial import TrialState
from toy_methods import disagreeing_table
from tuning_toys import NAME, problem_of_toys

from experts import InputError
from router_rl import Objective, RoutingProblem, SearchOptions, tune
from router_rl.studies.tuning import parallel_search, study_run, study_storage
from router_rl.studies.tuning.study_storage import StudyStorage

# By path: the tests are no package.
SERVING = runpy.run_path(str(Path(__file__).parents[2] / "serving" / "test_postgresql.py"))


@pytest.fixture(autouse=True)
def _no_charts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(study_run, "write_tuning_charts", lambda *_: None)


@pytest.fixture
def server() -> Iterator[str]:
    """Start a real database server on this machine, and return the URL of its database."""
    if not SERVING["PROGRAMS"]:
        pytest.skip("postgresql is not installed")
    # Not in pytest's folder, which belongs to this user alone.
    with tempfile.TemporaryDirectory(prefix="postgresql-") as folder:
        cluster = SERVING["Cluster"](Path(folder))
        cluster.start()
        try:
            yield cluster.url
        finally:
            cluster.stop()


def _stored(url: str, name: str) -> list[optuna.trial.FrozenTrial]:
    """Return the trials of a study, as Optuna reads them."""
    storage = optuna.storages.RDBStorage(url)
    trials = optuna.load_study(study_name=name, storage=storage).trials
    storage.remove_session()
    storage.engine.dispose()
    return trials


@pytest.mark.slow
def test_two_processes_of_one_command(tmp_path: Path) -> None:
    problem = RoutingProblem(disagreeing_table(), Objective(compute_weight=0.1))
    progress: list[tuple[int, int]] = []
    tuned = tune(
        problem,
        "ridge",
        tmp_path / "out",
        n_trials=5,
        jobs=2,
        progress=lambda done, total, _: progress.append((done, total)),
    )
    assert tuned.facts["counts"]["complete"] + tuned.facts["counts"]["pruned"] == 5
    assert [done for done, _ in progress] == [1, 2, 3, 4, 5]
    drawn = [str(trial["parameters"]) for trial in tuned.facts["trials"]]
    assert len(set(drawn)) == 5  # the processes do not draw equal numbers
    assert len(_stored(f"sqlite:///{tmp_path / 'out' / 'study.db'}", "routing-ridge")) == 5


def test_a_waiting_trial_is_started_once(tmp_path: Path) -> None:
    """Four workers of one file reach for the same trials at the same time."""
    url = f"sqlite:///{tmp_path / 'study.db'}"
    with ExitStack() as stack:
        stores = [stack.enter_context(StudyStorage(url)) for _ in range(4)]
        studies = [store.opened("race", SearchOptions(), {"data": "same"}) for store in stores]
        for value in range(25):
            studies[0].enqueue_trial({"x": value})
        ids = [trial._trial_id for trial in studies[0].get_trials(deepcopy=False)]
        barrier = threading.Barrier(len(studies))

        def start(study: optuna.Study) -> list[bool]:
            started = []
            for trial in ids:
                barrier.wait()
                started.append(study._storage.set_trial_state_values(trial, TrialState.RUNNING))
            return started

        with ThreadPoolExecutor(len(studies)) as pool:
            started = list(pool.map(start, studies))
    assert [sum(each) for each in zip(*started, strict=True)] == [1] * len(ids)


def test_a_worker_opens_a_study_once_and_closes_the_one_before(tmp_path: Path) -> None:
    one, other = (
        SimpleNamespace(
            storage=f"sqlite:///{tmp_path / name}.db",
            study_name="study",
            options=SearchOptions(),
            identity={"data": name},
        )
        for name in ("one", "other")
    )
    study = parallel_search._opened(one)
    assert parallel_search._opened(one) is study
    ((_, storage, _),) = parallel_search._OPEN
    assert storage._open
    assert parallel_search._opened(other) is not study
    assert not storage._open
    assert [each[0] for each in parallel_search._OPEN] == [other]


@pytest.mark.slow
def test_two_commands_on_postgresql(tmp_path: Path, server: str) -> None:
    """They start at once on an empty database, and do exactly as many trials as one would."""
    options = SearchOptions(pruner="NopPruner", storage=server)
    with warnings.catch_warnings(), tuning_toys.installed():
        warnings.simplefilter("ignore", DeprecationWarning)  # of a fork beside threads
        children = []
        for name in ("one", "two"):
            child = os.fork()
            if child == 0:
                status = 1
                try:
                    tune(problem_of_toys(), NAME, tmp_path / name, n_trials=8, options=options)
                    status = 0
                finally:
                    os._exit(status)
            children.append(child)
        assert [os.waitpid(child, 0)[1] for child in children] == [0, 0]
        facts = tune(problem_of_toys(), NAME, tmp_path / "one", n_trials=8, options=options).facts
        assert not tuning_toys.FITS  # the children did all
    assert (facts["counts"]["complete"], facts["counts"]["running"]) == (8, 0)
    assert facts["storage"].startswith("postgresql+psycopg://me@127.0.0.1:")
    workers = {
        trial.user_attrs["worker"]
        for trial in _stored(server.replace("postgresql:", "postgresql+psycopg:"), f"routing-{NAME}")
        if trial.state == optuna.trial.TrialState.COMPLETE
    }
    assert len(workers) == 2


@pytest.mark.slow
def test_another_worker_runs_the_trial_of_a_killed_one(
    tmp_path: Path, server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its heartbeat ends, so that the trial is stale; the worker that goes on has another folder."""
    monkeypatch.setattr(study_storage, "_HEARTBEAT_S", 1)
    monkeypatch.setattr(study_storage, "_GRACE_S", 2)
    options = SearchOptions(pruner="NopPruner", storage=server)
    url = server.replace("postgresql:", "postgresql+psycopg:")
    psycopg = pytest.importorskip("psycopg")

    def wait(skill: float) -> None:
        if len(tuning_toys.FITS) == 3:
            time.sleep(120)

    def states() -> list[str]:
        with psycopg.connect(server) as connection, suppress(psycopg.errors.UndefinedTable):
            query = "SELECT state FROM trials ORDER BY trial_id"
            return [str(state) for (state,) in connection.execute(query).fetchall()]
        return []  # there are no tables yet

    with warnings.catch_warnings(), tuning_toys.installed(wait):
        warnings.simplefilter("ignore", DeprecationWarning)  # of a fork beside threads
        child = os.fork()
        if child == 0:
            tune(problem_of_toys(), NAME, tmp_path / "one", n_trials=4, options=options)
            os._exit(0)
        deadline = time.monotonic() + 60
        while states() != ["COMPLETE", "COMPLETE", "RUNNING"]:
            assert time.monotonic() < deadline
            time.sleep(0.2)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        time.sleep(4)  # longer than the grace period
    lost = _stored(url, f"routing-{NAME}")[2]
    with tuning_toys.installed():
        facts = tune(problem_of_toys(), NAME, tmp_path / "two", n_trials=4, options=options).facts
        assert len(tuning_toys.FITS) == 2
    assert (facts["counts"]["complete"], facts["counts"]["running"]) == (4, 0)
    trials = _stored(url, f"routing-{NAME}")
    assert trials[2].state == TrialState.FAIL
    again = [trial.params for trial in trials[3:] if trial.state == TrialState.COMPLETE]
    assert lost.params in again


def test_a_server_that_is_not_there_is_an_error_without_the_password(tmp_path: Path) -> None:
    options = SearchOptions(storage="postgresql://me:secret@127.0.0.1:1/name")
    with tuning_toys.installed(), pytest.raises(InputError, match=r"storage=.*cannot be used") as error:
        tune(problem_of_toys(), NAME, tmp_path / "out", n_trials=1, options=options)
    assert "secret" not in str(error.value)
    assert not (tmp_path / "out").exists()
