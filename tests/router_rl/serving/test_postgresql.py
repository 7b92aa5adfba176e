"""Three servers on one PostgreSQL log: no decision is lost or logged twice, and promotion reaches all."""

from __future__ import annotations

import hashlib
import itertools
import os
import runpy
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import create_engine, text

import train_router
from router_rl.serving import log_writer
from router_rl.serving.learner import Learner
from router_rl.serving.loaded_router import LoadedRouter
from router_rl.serving.log_store import LogStore
from router_rl.serving.serve_options import ServeOptions

ROOT = Path(__file__).resolve().parents[3]
# By path: the tests are no package.
check_upgrade = runpy.run_path(str(Path(__file__).with_name("test_log_upgrade.py")))["check_upgrade"]
PROGRAMS = sorted(Path("/usr/lib/postgresql").glob("*/bin"))


class Cluster:
    """A database server of this machine."""

    def __init__(self, folder: Path) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.url = f"postgresql://me@127.0.0.1:{port}/postgres"
        self._folder, self._data = folder, folder / "data"
        self._user: list[str] = []
        if os.getuid() == 0:  # which PostgreSQL refuses
            shutil.chown(folder, "postgres", "postgres")
            self._user = ["runuser", "-u", "postgres", "--"]
        self._options = f"-p {port} -k {folder} -h 127.0.0.1 -c fsync=off"
        words = ["initdb", "-D", self._data, "-U", "me", "-A", "trust", "-N"]
        subprocess.run(self._command(*words), check=True, capture_output=True, cwd="/")

    def start(self) -> None:
        words = ["pg_ctl", "-D", self._data, "-l", self._folder / "log", "-w", "-o", self._options, "start"]
        subprocess.run(self._command(*words), check=True, stdout=subprocess.DEVNULL, cwd="/")

    def stop(self) -> None:
        words = ["pg_ctl", "-D", self._data, "-m", "immediate", "stop"]
        done = subprocess.run(self._command(*words), check=False, capture_output=True, text=True, cwd="/")
        assert done.returncode == 0, done.stderr

    def _command(self, program: str, *words: str | Path) -> list[str | Path]:
        return [*self._user, PROGRAMS[-1] / program, *words]


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """Start a real database server on this machine."""
    if not PROGRAMS:
        pytest.skip("postgresql is not installed")
    # Not in pytest's folder, which belongs to this user alone.
    with tempfile.TemporaryDirectory(prefix="postgresql-") as folder:
        cluster = Cluster(Path(folder))
        cluster.start()
        try:
            yield cluster
        finally:
            cluster.stop()


@pytest.fixture
def database(cluster: Cluster, request: pytest.FixtureRequest) -> Iterator[str]:
    """Return the URL of an empty database."""
    name = "test_" + hashlib.sha256(request.node.name.encode()).hexdigest()[:8]
    engine = create_engine(
        cluster.url.replace("postgresql:", "postgresql+psycopg:"), isolation_level="AUTOCOMMIT"
    )
    with engine.connect() as connection:
        connection.execute(text(f"CREATE DATABASE {name}"))
    yield cluster.url.replace("/postgres", f"/{name}")
    engine.dispose()


@pytest.mark.slow
def test_three_processes_share_a_log(
    router: Path, models: Path, database: str, other_router: Path, tmp_path: Path
) -> None:
    """They start at once on an empty database; no decision is lost or logged twice; promotion reaches all."""
    ports = _free_ports(3)
    words = ["serve", "--router", str(router), "--models", str(models), "--log", database, "--poll-s", "0.1"]
    program = [sys.executable, str(ROOT / "train_router.py"), *words]
    with ExitStack() as stack:
        processes = [
            subprocess.Popen([*program, "--port", str(port)], stdout=subprocess.DEVNULL) for port in ports
        ]
        stack.callback(_ended, processes)
        clients = [
            stack.enter_context(httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30))
            for port in ports
        ]
        for client, process in zip(clients, processes, strict=True):
            _wait_for(client, process)
        decisions: list[str] = []

        def ask(first: int) -> None:
            for number in range(20):
                message = {"role": "user", "content": f"What is {number} plus {first}?"}
                body = {"messages": [message], "stream": number % 2 == 0}
                # A load balancer may send each request, and the outcome of it, to any process.
                with httpx.Client(base_url=clients[(first + number) % 3].base_url, timeout=30) as client:
                    got = client.post("/v1/chat/completions", json=body)
                    assert got.status_code == 200
                decision = got.headers["x-router-rl-decision"]
                decisions.append(decision)
                for score in (0.5, 1.0):
                    outcome = {"decision": decision, "score": score}
                    assert clients[first].post("/v1/outcomes", json=outcome).status_code == 200

        threads = [threading.Thread(target=ask, args=(first,)) for first in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        store = LogStore(database, create=False)
        stack.callback(store.close)
        rows = list(store.decisions())
        assert len(decisions) == 60
        assert sorted(row["id"] for row in rows) == sorted(decisions)
        assert {row["score"] for row in rows} == {1.0}
        assert {row["action"] for row in store.deployments()} == {"start"}
        _check_learned(store, LoadedRouter.of(router), 60)
        assert train_router.main(["promote", str(other_router), "--log", database]) == 0
        digest = LoadedRouter.of(other_router).digest
        deadline = time.monotonic() + 30
        while {client.get("/v1/status").json()["router"]["digest"] for client in clients} != {digest}:
            assert time.monotonic() < deadline
            time.sleep(0.05)


def _check_learned(store: LogStore, router: LoadedRouter, decisions: int) -> None:
    """Check that a learner knows every decision once, with its last score, and that its state is stored."""
    learner = Learner(store, ServeOptions(online="thompson"))
    learner.follow(router)
    learner.keep()
    assert learner.decisions() == decisions
    known = learner._known
    assert known is not None
    assert known.sums.score[:, 0].sum() == pytest.approx(float(decisions))
    again = Learner(store, ServeOptions(online="linucb"))
    assert again.follow(router) == 0
    assert again.decisions() == decisions


def test_scores_of_one_decision_from_many_servers_are_changes_in_order(
    serve: Callable[..., Any], database: str
) -> None:
    with serve(log=database) as running:
        decision = running.chat("What is 3 plus 4?").headers["x-router-rl-decision"]
        running.rows()
        stores = [LogStore(database) for _ in range(4)]

        def attach(at: int) -> None:
            for number in range(25):
                stores[at].attach(decision, (25 * at + number) / 100)

        threads = [threading.Thread(target=attach, args=(at,)) for at in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        store, pipeline = running.server.store, running.server.decider.live.router.pipeline
        changes = list(store.changes(pipeline, 0, store.newest_change()))
        assert len(changes) == 100
        assert changes[0]["before"] is None
        for earlier, later in itertools.pairwise(changes):
            assert later["before"] == earlier["score"]
        assert changes[-1]["score"] == running.rows()[0]["score"]
        for each in stores:
            each.close()


def test_a_database_that_goes_down_and_comes_back(
    serve: Callable[..., Any], cluster: Cluster, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log_writer, "_INSERT_TIMEOUT_S", 0.5)
    with serve(log=database) as running:
        expected = [running.chat("What is 3 plus 4?").headers["x-router-rl-decision"]]
        cluster.stop()
        try:
            for number in range(5):
                got = running.chat(f"What is {number} plus 4?")
                assert got.status_code == 200
                expected.append(got.headers["x-router-rl-decision"])
            assert running.http.get("/healthz").json()["log"] == "down"
            outcome = {"decision": expected[0], "score": 1.0}
            assert running.http.post("/v1/outcomes", json=outcome).status_code == 503
        finally:
            cluster.start()
        assert sorted(row["id"] for row in running.rows()) == sorted(expected)
        assert running.server.writer.lost == 0


def test_a_log_of_the_first_version(router: Path, database: str, tmp_path: Path) -> None:
    engine = create_engine(database.replace("postgresql:", "postgresql+psycopg:"))
    check_upgrade(engine, LoadedRouter.of(router), tmp_path)
    engine.dispose()


def test_a_text_that_the_database_cannot_store_is_cleaned(serve: Callable[..., Any], database: str) -> None:
    with serve(log=database, log_prompts=True) as running:
        got = running.chat("What is 3\0 plus 4?")
        assert got.status_code == 200
        rows = [row for row in running.rows() if row["id"] == got.headers["x-router-rl-decision"]]
        assert rows[0]["prompt"] == "What is 3 plus 4?"
        assert running.server.writer.lost == 0


def _free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [int(each.getsockname()[1]) for each in sockets]


def _wait_for(client: httpx.Client, process: subprocess.Popen[bytes]) -> None:
    while True:
        with suppress(httpx.TransportError):
            client.get("/healthz")
            return
        assert process.poll() is None
        time.sleep(0.1)


def _ended(processes: list[subprocess.Popen[bytes]]) -> None:
    for process in processes:
        process.terminate()
    for process in processes:
        process.wait(60)
