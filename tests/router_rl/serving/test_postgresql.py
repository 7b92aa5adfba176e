"""Three servers on one PostgreSQL log: no decision is lost or logged twice, and promotion reaches all."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from router_rl.serving.deployments import promote
from router_rl.serving.loaded_router import LoadedRouter

PROGRAMS = sorted(Path("/usr/lib/postgresql").glob("*/bin"))


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Start a real database server on this machine, and return its URL."""
    if not PROGRAMS:
        pytest.skip("postgresql is not installed")
    bin_folder, folder = PROGRAMS[-1], tmp_path_factory.mktemp("postgresql")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    user = []
    if os.getuid() == 0:  # which PostgreSQL refuses
        shutil.chown(folder, "postgres", "postgres")
        for parent in (*folder.parents,)[:3]:
            parent.chmod(parent.stat().st_mode | 0o011)
        user = ["runuser", "-u", "postgres", "--"]
    data = folder / "data"
    quiet = {"check": True, "capture_output": True, "cwd": "/"}
    subprocess.run([*user, bin_folder / "initdb", "-D", data, "-U", "me", "-A", "trust", "-N"], **quiet)
    options = f"-p {port} -k {folder} -h 127.0.0.1 -c fsync=off"
    start = [*user, bin_folder / "pg_ctl", "-D", data, "-l", folder / "log", "-w", "-o", options, "start"]
    subprocess.run(start, check=True, stdout=subprocess.DEVNULL, cwd="/")
    try:
        yield f"postgresql://me@127.0.0.1:{port}/postgres"
    finally:
        stop = [*user, bin_folder / "pg_ctl", "-D", data, "-m", "immediate", "stop"]
        done = subprocess.run(stop, check=False, capture_output=True, text=True, cwd="/")
        assert done.returncode == 0, done.stderr


def test_three_servers_share_a_log(serve: Callable[..., Any], database: str, other_router: Path) -> None:
    with ExitStack() as started:
        servers = [started.enter_context(serve(log=database)) for _ in range(3)]
        decisions: list[str] = []

        def ask(running: Any) -> None:
            for number in range(20):
                got = running.chat(f"What is {number} plus 4?")
                decision = got.headers["x-router-rl-decision"]
                decisions.append(decision)
                # The outcome of a decision may be sent to any server.
                server = servers[number % 3]
                body = {"decision": decision, "score": 1.0}
                assert server.http.post("/v1/outcomes", json=body).status_code == 200

        threads = [threading.Thread(target=ask, args=(running,)) for running in servers]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        rows = servers[0].rows()
        assert sorted(row["id"] for row in rows) == sorted(decisions)
        assert len(decisions) == 60
        assert {row["score"] for row in rows} == {1.0}
        assert [row["action"] for row in servers[0].server.store.deployments()] == ["start"]
        promote(servers[0].server.store, other_router)
        digest = LoadedRouter.of(other_router).digest
        deadline = time.monotonic() + 30
        while {running.server.decider.live.router.digest for running in servers} != {digest}:
            assert time.monotonic() < deadline
            time.sleep(0.02)


def test_a_text_that_the_database_cannot_store_is_cleaned(serve: Callable[..., Any], database: str) -> None:
    with serve(log=database, log_prompts=True) as running:
        got = running.chat("What is 3\0 plus 4?")
        assert got.status_code == 200
        rows = [row for row in running.rows() if row["id"] == got.headers["x-router-rl-decision"]]
        assert rows[0]["prompt"] == "What is 3 plus 4?"
        assert running.server.writer.lost == 0
