"""While the log cannot be written, requests are answered; what waits is bounded, counted and stored later."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pytest

from experts import InputError
from router_rl.serving import log_store, log_writer
from router_rl.serving.log_store import LogStore, opened_log

PLUS = "What is 3 plus 4?"


@pytest.fixture
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wait a moment, not seconds, for a lock and for a commit."""
    monkeypatch.setattr(log_store, "_BUSY_TIMEOUT_S", 0.05)
    monkeypatch.setattr(log_writer, "_INSERT_TIMEOUT_S", 0.3)
    monkeypatch.setattr(log_writer, "_RETRY_S", 0.05)


def _metric(running: Any, name: str) -> float:
    lines = running.http.get("/metrics").text.splitlines()
    return next(float(line.split()[-1]) for line in lines if line.startswith(f"{name} "))


def _drained(running: Any, expected: set[str]) -> None:
    """Wait until the log has what waited, each decision once, and says that it is up."""
    ids = [row["id"] for row in running.rows()]
    assert len(ids) == len(set(ids))
    assert set(ids) == expected
    deadline = time.monotonic() + 20
    while running.http.get("/healthz").json()["log"] != "ok":
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert _metric(running, "router_rl_log_waiting") == 0


@pytest.mark.usefixtures("_impatient")
def test_a_database_that_another_program_locks(serve: Callable[..., Any], tmp_path: Path) -> None:
    with serve(buffer=4) as running:
        first = running.chat(PLUS).headers["x-router-rl-decision"]
        with closing(sqlite3.connect(tmp_path / "log.db")) as other:
            other.execute("BEGIN IMMEDIATE")
            waiting = [running.chat(PLUS) for _ in range(7)]
            assert [got.status_code for got in waiting] == [200] * 7
            assert running.http.get("/healthz").json() == {"status": "ok", "log": "down"}
            assert "locked" in running.http.get("/v1/status").json()["log"]["down"]
            assert _metric(running, "router_rl_log_waiting") == 4
            assert _metric(running, "router_rl_log_lost") == 3
            outcome = {"decision": first, "score": 1.0}
            assert running.http.post("/v1/outcomes", json=outcome).status_code == 503
            other.rollback()
        kept = [got.headers["x-router-rl-decision"] for got in waiting[:4]]
        _drained(running, {first, *kept})
        assert running.http.post("/v1/outcomes", json=outcome).status_code == 200


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """Mount a real file system of one megabyte."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = sys.platform == "linux" and os.geteuid() == 0
    if mounted:
        command = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
        mounted = subprocess.run(command, check=False, capture_output=True).returncode == 0
    if not mounted:
        pytest.skip("a file system cannot be mounted")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.usefixtures("_impatient")
def test_a_disk_that_is_full(serve: Callable[..., Any], small_disk: Path) -> None:
    with serve(log=f"sqlite:///{small_disk}/log.db") as running:
        expected = {running.chat(PLUS).headers["x-router-rl-decision"]}
        filler = small_disk / "filler"
        with filler.open("wb", buffering=0) as file, suppress(OSError):  # until no space is left
            while True:
                file.write(bytes(4096))
        for _ in range(40):  # pages that the log has already take some rows
            got = running.chat(PLUS)
            assert got.status_code == 200
            expected.add(got.headers["x-router-rl-decision"])
        assert "full" in running.http.get("/v1/status").json()["log"]["down"]
        assert _metric(running, "router_rl_log_waiting") > 0
        filler.unlink()
        _drained(running, expected)
        assert running.server.writer.lost == 0


@pytest.mark.parametrize("change", [(b"CREATE TABLE", b"CREATE \xcaABLE"), (b"NOT NULL", b"NOT \xcaULL")])
def test_a_schema_that_is_no_text_is_an_error_of_the_log(tmp_path: Path, change: tuple[bytes, bytes]) -> None:
    path = tmp_path / "decisions.db"
    LogStore(f"sqlite:///{path}").close()
    whole = path.read_bytes()
    assert change[0] in whole
    path.write_bytes(whole.replace(*change))
    with pytest.raises(InputError, match="cannot be opened"), opened_log(f"sqlite:///{path}"):
        pass
