"""The same collection from several workers of a Ray cluster, one of which is killed."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import threading
import time
from pathlib import Path

import pytest

from experts import InputError
from experts.llm import collect_answers
from experts.llm.collecting import CollectOptions

needs_ray = pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="ray is not installed")


@pytest.fixture
def cluster(monkeypatch):
    """A cluster of this machine alone."""
    import ray

    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    ray.init(num_cpus=1, _node_ip_address="127.0.0.1", include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


def workers_of(process: int) -> list[int]:
    """The ids of the Ray workers that ask, below a process."""
    parents, titles = {}, {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            status = (folder / "stat").read_text()
            titles[int(folder.name)] = (folder / "cmdline").read_bytes()
        except OSError:  # it ended while we looked
            continue
        parents[int(folder.name)] = int(status.rpartition(")")[2].split()[1])
    below = {process}
    for _ in range(4):
        below |= {child for child, parent in parents.items() if parent in below}
    return sorted(worker for worker in below if titles.get(worker, b"").startswith(b"ray::Client"))


@pytest.mark.slow
@needs_ray
def test_a_worker_that_dies_costs_nothing_that_had_arrived(
    cluster, server, write_models, write_prompts, tmp_path
):
    server.seconds = 0.15
    killed: list[int] = []
    finished: set[tuple[str, str]] = set()
    journal = tmp_path / "table.parquet.journal.jsonl"

    def kill_one() -> None:
        deadline = time.monotonic() + 100
        while sum(server.answered.values()) < 24 and time.monotonic() < deadline:
            time.sleep(0.02)
        # What stands in the journal before the kill must not be asked for after it.
        for line in journal.read_text().splitlines():
            record = json.loads(line)["record"]
            finished.add((record["model"], record["prompt"]))
        workers = workers_of(os.getpid())
        assert len(workers) == 3
        killed.append(workers[0])
        server.requests.clear()
        os.kill(workers[0], signal.SIGKILL)

    killer = threading.Thread(target=kill_one)
    killer.start()
    found = collect_answers(
        write_models(timeout=20),
        write_prompts(36, {3: "500", 9: "garbage"}),
        tmp_path / "table.parquet",
        scorer="numeric",
        workers=3,
        concurrency=6,
        progress=False,
    )
    killer.join()
    assert len(killed) == 1
    assert len(finished) >= 12
    assert found.table.quality.shape == (36, 2)
    assert found.table.quality[:, 1].tolist() == [1.0] * 36
    asked_after = {(body["model"], body["messages"][-1]["content"]) for body in server.requests}
    assert not asked_after & finished
    # At most what was on its way, six of each model, was asked anew.
    assert sum(server.answered.values()) <= 72 + 12
    assert len(journal.read_text().splitlines()) == 72


def test_says_what_to_install(monkeypatch, server, write_models, write_prompts, tmp_path):
    monkeypatch.setitem(__import__("sys").modules, "ray", None)
    with pytest.raises(InputError, match=r"workers=1: ray is not installed.*router-rl\[scale\]"):
        collect_answers(write_models(), write_prompts(1), tmp_path / "t.parquet", scorer="numeric", workers=1)
    assert server.requests == []


def test_the_engine_says_where_requests_are_sent_from():
    assert CollectOptions().ray_workers == 0
    assert CollectOptions(engine="local").ray_workers == 0
    with pytest.raises(InputError, match=r"workers=2: are of Ray, and --engine is local"):
        CollectOptions(engine="local", workers=2)
    with pytest.raises(InputError, match=r"engine='dask'"):
        CollectOptions(engine="dask")


@needs_ray
def test_workers_are_of_ray():
    assert CollectOptions(engine="ray").ray_workers == 1
    assert CollectOptions(engine="ray", workers=3).ray_workers == 3
    assert CollectOptions(workers=3).ray_workers == 3
