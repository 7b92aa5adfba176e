"""Trials on a Ray cluster of two nodes equal local ones, also if a worker, node or driver is killed."""

from __future__ import annotations

import importlib.util
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from slow_problem import METHODS, numbers, seen, slow_problem

from router_rl import Jobs, SearchOptions, TuneBudget, compare, tune
from router_rl.studies.tuning import study_run

ROOT = Path(__file__).resolve().parents[4]
pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(900),  # half a minute of idle cores each
    pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="ray is not installed"),
    # Ray's own, of its processes and pipes.
    pytest.mark.filterwarnings(
        "ignore::ResourceWarning", "ignore::FutureWarning", "ignore::DeprecationWarning"
    ),
]

DRIVER = """
import signal, sys
from pathlib import Path
from slow_problem import METHODS, slow_problem
from router_rl import Jobs, compare
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
out = Path(sys.argv[1])
study = compare(slow_problem(out.parent / "journal", float(sys.argv[2])), METHODS, seeds=2, n_trials=2,
                jobs=Jobs(2, "ray"), out=out)
print("reused", study.reused)
"""


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """Two nodes of one CPU each; the workers find the code of this checkout."""
    import ray
    from ray.cluster_utils import Cluster

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("RAY_worker_niceness", "0")  # on a busy machine, its workers would start for minutes
        patch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), str(ROOT / "tests")]))
        made = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
        made.add_node(num_cpus=1)
        patch.setenv("RAY_ADDRESS", made.address)
        # The connection stays open, so that all comparisons here use the same worker processes.
        ray.init(log_to_driver=False, logging_level="warning")
        yield made
        ray.shutdown()
        made.shutdown()


@pytest.fixture(autouse=True)
def _no_charts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(study_run, "write_tuning_charts", lambda *_: None)
    monkeypatch.setattr("router_rl.studies.compare.write_report", lambda *_: None)


@pytest.fixture(scope="module")
def local() -> list[dict[str, Any]]:
    """The numbers of the comparison on this machine."""
    return numbers(compare(slow_problem(), METHODS, seeds=2, n_trials=2))


def _after(journal: Path, fits: int, act: Callable[[], None]) -> threading.Thread:
    """Act once so many fits are measured."""

    def wait() -> None:
        deadline = time.monotonic() + 200
        while len(seen(journal)) < fits and time.monotonic() < deadline:
            time.sleep(0.02)
        act()

    thread = threading.Thread(target=wait)
    thread.start()
    return thread


def _compared(folder: Path, seconds: float = 0.0, n_trials: Any = 2) -> Any:
    problem = slow_problem(folder / "journal", seconds)
    return compare(problem, METHODS, seeds=2, n_trials=n_trials, jobs=Jobs(2, "ray"), out=folder / "out")


def test_results_are_the_local_ones_on_both_nodes(cluster, local, tmp_path: Path) -> None:
    assert numbers(_compared(tmp_path, 0.1)) == local
    assert len(set(seen(tmp_path / "journal"))) >= 2  # a process for each CPU


def test_another_problem_has_its_own_results(cluster, tmp_path: Path) -> None:
    found = []
    for weight in (0.1, 0.2):
        here = compare(slow_problem(weights=(weight,)), ["ridge"], seeds=1, n_trials=1)
        away = compare(slow_problem(weights=(weight,)), ["ridge"], seeds=1, n_trials=1, jobs=Jobs(2, "ray"))
        assert numbers(away) == numbers(here)
        found.append(numbers(away))
    assert found[0] != found[1]


def test_a_killed_worker_costs_its_trial(cluster, local, tmp_path: Path) -> None:
    journal = tmp_path / "journal"
    killer = _after(journal, 5, lambda: os.kill(seen(journal)[-1], signal.SIGKILL))
    study = _compared(tmp_path, 0.2)
    killer.join()
    assert numbers(study) == local
    trials = len(list((tmp_path / "out" / "trials").glob("*/trial.json")))
    assert len(seen(journal)) == trials + 1  # the killed one was measured twice


def test_a_search_of_the_same_size_for_every_method(cluster, tmp_path: Path) -> None:
    here = compare(slow_problem(), METHODS, seeds=2, n_trials=TuneBudget(3))
    assert numbers(_compared(tmp_path, n_trials=TuneBudget(3))) == numbers(here)


def test_tune_with_a_killed_worker(cluster, tmp_path: Path) -> None:
    options = SearchOptions(sampler="RandomSampler", pruner="NopPruner")
    journal = tmp_path / "journal"
    here = tune(slow_problem(), "softmax_gate", tmp_path / "here", n_trials=8, options=options)
    killer = _after(journal, 3, lambda: os.kill(seen(journal)[-1], signal.SIGKILL))
    away = tune(
        slow_problem(journal, 0.5),
        "softmax_gate",
        tmp_path / "away",
        n_trials=8,
        options=options,
        jobs=Jobs(2, "ray"),
    )
    killer.join()
    assert away.facts["counts"]["complete"] == 8
    drawn = [
        sorted(
            (str(each["parameters"]), each["validation_utility"])
            for each in tuned.facts["trials"]
            if each["state"] == "complete"
        )
        for tuned in (here, away)
    ]
    assert drawn[0] == drawn[1]
    assert not list((tmp_path / "away").rglob("trials/*"))


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_a_killed_driver_keeps_finished_trials(cluster, local, tmp_path: Path, how: signal.Signals) -> None:
    driver = [sys.executable, "-c", DRIVER, str(tmp_path / "out")]
    first = subprocess.Popen([*driver, "0.5"], cwd=tmp_path, stderr=subprocess.PIPE)
    _after(tmp_path / "journal", 6, lambda: first.send_signal(how)).join()
    first.communicate(timeout=60)
    assert first.returncode != 0
    kept = {path: path.stat().st_mtime_ns for path in (tmp_path / "out" / "trials").glob("*/trial.json")}
    assert len(kept) >= 3
    second = subprocess.run([*driver, "0"], cwd=tmp_path, capture_output=True, text=True, timeout=200)
    assert int(second.stdout.removeprefix("reused ")) > 0, second.stderr
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    trials = len(list((tmp_path / "out" / "trials").glob("*/trial.json")))
    # Measured twice: the two that ran. The second driver also measured the bound in two cases.
    assert trials + 2 <= len(seen(tmp_path / "journal")) <= trials + 4
    assert numbers(compare(slow_problem(), METHODS, seeds=2, n_trials=2, out=tmp_path / "out")) == local
    assert sorted(path.name for path in tmp_path.iterdir()) == ["journal", "out"]


def test_a_killed_node_costs_its_trial(cluster, local, tmp_path: Path) -> None:
    """The last test: the cluster has one node after it."""
    journal = tmp_path / "journal"
    (node,) = cluster.worker_nodes
    killer = _after(journal, 4, lambda: cluster.remove_node(node, allow_graceful=False))
    study = _compared(tmp_path, 0.3)
    killer.join()
    assert numbers(study) == local
    trials = len(list((tmp_path / "out" / "trials").glob("*/trial.json")))
    assert trials <= len(seen(journal)) <= trials + 1
