"""Engines map keyed jobs to results: on this machine, and on a stand-in for Ray whose workers can be lost."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from typing import Any

import pytest

from experts import InputError
from router_rl import Jobs
from router_rl.studies.engines import engine as seam
from router_rl.studies.engines.local_engine import local_engine
from router_rl.studies.engines.ray_engine import _is_missing_code, _RayEngine
from router_rl.studies.engines.registry import opened_engine


class _RayError(Exception):
    pass


class _RayTaskError(_RayError):
    def __init__(self, cause: BaseException) -> None:
        super().__init__(f"ray::_in_task() {cause!r}")
        self.cause = cause


class _TaskCancelledError(_RayError):
    pass


class _RuntimeEnvSetupError(_RayError):
    pass


class _Exceptions:
    RayError = _RayError
    RayTaskError = _RayTaskError
    TaskCancelledError = _TaskCancelledError
    RuntimeEnvSetupError = _RuntimeEnvSetupError


class _Ray:
    """Tasks run when they are waited for, the last one first; `loses` says whether an attempt is lost."""

    exceptions = _Exceptions

    def __init__(self, loses: Callable[[tuple[Any, ...], int], bool] = lambda *_: False) -> None:
        self.loses, self.puts, self.most, self.cancelled = loses, 0, 0, 0
        self.attempts: dict[tuple[Any, ...], int] = {}
        self.open: list[Any] = []
        self.calls: dict[Any, Any] = {}

    def put(self, value: Any) -> Any:
        self.puts += 1
        return [value]

    def remote(self, function: Any) -> Any:
        ray = self

        class Task:
            def options(self, **options: Any) -> Any:
                assert options == {"num_cpus": 1, "max_retries": 0}
                return self

            def remote(self, *call: Any) -> Any:
                task = object()
                ray.calls[task] = (function, call)
                ray.open.append(task)
                ray.most = max(ray.most, len(ray.open))
                return task

        return Task()

    def wait(self, tasks: Any, num_returns: int) -> Any:
        assert num_returns == 1
        return [tasks[-1]], tasks[:-1]

    def get(self, task: Any) -> Any:
        if isinstance(task, list):
            return task[0]
        self.open.remove(task)
        function, call = self.calls[task]
        arguments = call[-1]
        self.attempts[arguments] = self.attempts.get(arguments, 0) + 1
        if self.loses(arguments, self.attempts[arguments]):
            raise _RayError("the node died")
        try:
            return function(*call)
        except Exception as error:
            raise _RayTaskError(error) from error

    def cancel(self, task: Any, force: bool) -> None:
        assert force
        self.cancelled += 1
        self.open.remove(task)


def _square(shared: int, number: int) -> int:
    if number < 0:
        raise ArithmeticError(f"{number} is negative")
    return shared * number * number


JOBS = {f"job {number}": (number,) for number in range(7)}
SQUARES = {f"job {number}": 3 * number * number for number in range(7)}


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> _Ray:
    """A stand-in that the task imports as `ray`."""
    ray = _Ray()
    monkeypatch.setitem(sys.modules, "ray", ray)
    return ray


def test_local_jobs_in_this_process() -> None:
    with local_engine(3, 1) as engine:
        assert dict(engine.results(_square, JOBS)) == SQUARES


@pytest.mark.slow
def test_local_jobs_in_processes() -> None:
    with local_engine(3, 2) as engine:
        assert dict(engine.results(_square, JOBS)) == SQUARES
    with local_engine(5, 2) as engine:  # the same processes: another value
        assert dict(engine.results(_square, JOBS))["job 2"] == 20


def test_tasks_have_the_results_of_their_keys(stand_in: _Ray) -> None:
    engine = _RayEngine(stand_in, 3, 2)
    assert dict(engine.results(_square, JOBS)) == SQUARES
    assert stand_in.most == 2
    assert stand_in.puts == 1
    assert dict(engine.results(_square, {"more": (9,)})) == {"more": 243}
    assert stand_in.puts == 1  # the value goes to the object store once


def test_another_engine_has_another_value(stand_in: _Ray) -> None:
    """A worker process keeps one value, of the engine that it works for."""
    assert dict(_RayEngine(stand_in, 3, 2).results(_square, JOBS)) == SQUARES
    assert dict(_RayEngine(stand_in, 5, 2).results(_square, JOBS))["job 2"] == 20
    assert len(seam._kept) == 1


def test_a_lost_worker_costs_its_own_job(stand_in: _Ray) -> None:
    stand_in.loses = lambda arguments, attempt: arguments in ((2,), (5,)) and attempt < 3
    lost: list[Any] = []
    engine = _RayEngine(stand_in, 3, 3)
    assert dict(engine.results(_square, JOBS, lost.append)) == SQUARES
    assert sorted(lost) == ["job 2", "job 2", "job 5", "job 5"]
    assert stand_in.attempts == {(number,): 3 if number in (2, 5) else 1 for number in range(7)}


def test_a_job_that_always_loses_its_worker_is_an_error(stand_in: _Ray) -> None:
    stand_in.loses = lambda arguments, attempt: arguments == (2,)
    engine = _RayEngine(stand_in, 3, 3)
    with pytest.raises(InputError, match=r"engine='ray': 5 workers with the same job were lost.*died"):
        dict(engine.results(_square, JOBS))
    assert stand_in.open == []


def test_an_error_of_a_job_is_raised_and_stops_the_others(stand_in: _Ray) -> None:
    engine = _RayEngine(stand_in, 3, 3)
    with pytest.raises(ArithmeticError, match="-1 is negative"):
        dict(engine.results(_square, {**JOBS, "bad": (-1,)}))
    assert stand_in.open == []
    assert stand_in.attempts[(-1,)] == 1


def test_a_stopped_engine_cancels_and_takes_no_job(stand_in: _Ray) -> None:
    engine = _RayEngine(stand_in, 3, 2)
    found = engine.results(_square, JOBS)
    next(found)
    engine.stop()
    assert stand_in.open == []
    with pytest.raises(RuntimeError, match="stopped"):
        dict(engine.results(_square, JOBS))


def test_a_worker_without_the_code_is_an_error_of_the_option(stand_in: _Ray) -> None:
    def missing(shared: int, number: int) -> int:
        raise ModuleNotFoundError("No module named 'router_rl'")

    with pytest.raises(InputError, match=r"engine='ray': a worker cannot run jobs.*router_rl"):
        dict(_RayEngine(stand_in, 3, 2).results(missing, JOBS))


def test_a_worker_with_another_release_is_an_error(stand_in: _Ray) -> None:
    engine = _RayEngine(stand_in, 3, 2)
    engine._releases = {**engine._releases, "numpy": "0.1"}
    with pytest.raises(InputError, match=r"engine='ray': the worker on .* has numpy .* for 0\.1; install"):
        dict(engine.results(_square, JOBS))


def test_wrong_jobs() -> None:
    with pytest.raises(InputError, match="jobs=0: is below 1"):
        Jobs(0)
    with pytest.raises(InputError, match=r"engine='dask'.*local, ray"):
        Jobs(1, "dask")
    assert Jobs.of(3) == Jobs(3, "local")


def test_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    from experts.io import ray_cluster

    monkeypatch.setattr(ray_cluster, "find_spec", lambda _: None)
    with pytest.raises(
        InputError, match=r"engine='ray': ray is not installed; pip install 'router-rl\[scale\]'"
    ):
        Jobs(2, "ray")


@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="ray is not installed")
@pytest.mark.parametrize("address", ["127.0.0.1:1", "ray://127.0.0.1:1", "[::1]:1"])
def test_a_cluster_that_is_not_there_is_an_error_at_once(
    monkeypatch: pytest.MonkeyPatch, address: str
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", address)
    with (
        pytest.raises(InputError, match=r"RAY_ADDRESS=.*:1': cannot be reached .*; give the address"),
        opened_engine("ray", 3, 2),
    ):
        pass


def test_one_job_or_one_task_runs_in_this_process() -> None:
    """Such work need not be pickled."""
    here = []

    def work(shared: Any, number: int) -> int:
        here.append(shared)
        return number + 1

    for jobs, tasks in ((2, {"a": (1,)}), (1, {"a": (1,), "b": (2,)})):
        with local_engine("shared", jobs) as engine:
            assert dict(engine.results(work, tasks)) == {key: first + 1 for key, (first,) in tasks.items()}
    assert here == ["shared"] * 3


def test_a_worker_lacks_code_if_an_import_fails_there() -> None:
    assert _is_missing_code(ImportError("cannot import name 'x'"))
    assert _is_missing_code(RuntimeError("ModuleNotFoundError: No module named 'x'"))
    assert not _is_missing_code(RuntimeError("out of memory"))
