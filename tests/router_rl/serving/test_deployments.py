"""Promotion, canary and rollback: running servers take them, no request is dropped, a restart goes on."""

from __future__ import annotations

import shutil
import sqlite3
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import train_router
from experts import InputError
from experts.table.prices import Price
from router_rl.serving.decider import Decider
from router_rl.serving.deployments import follow, promote, rollback, started_with
from router_rl.serving.live_routers import Live
from router_rl.serving.loaded_router import LoadedRouter
from router_rl.serving.log_store import LogStore
from router_rl.serving.serve_options import ServeOptions
from router_rl.serving.server import Server

PLUS = "What is 3 plus 4?"


def _until(running: Any, digest: str) -> None:
    deadline = time.monotonic() + 20
    while running.server.decider.live.router.digest != digest:
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_promoted_router_serves_without_a_dropped_request(
    serve: Callable[..., Any], router: Path, other_router: Path, tmp_path: Path
) -> None:
    other = LoadedRouter.of(other_router)
    answered: list[tuple[int, str]] = []
    stop = threading.Event()
    with serve() as running:

        def ask() -> None:
            while not stop.is_set():
                got = running.chat(PLUS)
                answered.append((got.status_code, got.headers["x-router-rl-expert"]))

        asking = threading.Thread(target=ask)
        asking.start()
        log = f"sqlite:///{tmp_path}/log.db"
        assert train_router.main(["promote", str(other_router), "--log", log]) == 0
        _until(running, other.digest)
        seen = len(answered)
        while len(answered) < seen + 5:
            time.sleep(0.01)
        assert answered[-1] == (200, "large")
        assert train_router.main(["rollback", "--log", log]) == 0
        _until(running, LoadedRouter.of(router).digest)
        seen = len(answered)
        while len(answered) < seen + 5:
            time.sleep(0.01)
        stop.set()
        asking.join()
        rows = running.rows()
        actions = [row["action"] for row in running.server.store.deployments()]
    assert {status for status, _ in answered} == {200}
    assert answered[-1] == (200, "small")
    assert len(rows) == len(answered)
    assert {row["router"] for row in rows} == {other.digest, LoadedRouter.of(router).digest}
    assert actions == ["start", "promote", "rollback"]


def test_a_canary_decides_its_fraction(serve: Callable[..., Any], other_router: Path, tmp_path: Path) -> None:
    with serve() as running:
        store = running.server.store
        promote(store, other_router, 0.25)
        deadline = time.monotonic() + 20
        while running.server.decider.live.canary is None:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        propensities = running.server.decider.decide(PLUS).propensities
        assert propensities == {"small": 0.75, "large": 0.25}
        rollback(store)
        while running.server.decider.live.canary is not None:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        assert running.server.decider.decide(PLUS).propensities == {"small": 1.0, "large": 0.0}


def test_a_restart_goes_on_with_the_promoted_router(
    router: Path, other_router: Path, make_router: Callable[..., Path], tmp_path: Path
) -> None:
    store = LogStore(f"sqlite:///{tmp_path}/log.db")
    first, other = LoadedRouter.of(router), LoadedRouter.of(other_router)
    assert started_with(store, first).router is first
    promote(store, other_router)
    assert started_with(store, first).router.digest == other.digest
    assert started_with(store, other).router is other  # another router on the command line is a new start
    assert [row["action"] for row in store.deployments()] == ["start", "promote", "start"]
    store.close()


def test_a_restart_goes_on_with_a_canary_and_refuses_files_that_changed(
    router: Path, other_router: Path, tmp_path: Path
) -> None:
    store, folder = LogStore(f"sqlite:///{tmp_path}/log.db"), tmp_path / "promoted"
    first, other = LoadedRouter.of(router), LoadedRouter.of(other_router)
    started_with(store, first)
    shutil.copytree(other_router, folder)
    promote(store, folder)
    promoted = store.deployment()
    promote(store, router, 0.25)  # the canary beside the promoted router
    live = started_with(store, first)
    assert (live.router.digest, live.canary, live.fraction) == (other.digest, first, 0.25)
    shutil.rmtree(folder)
    shutil.copytree(router, folder)
    with pytest.raises(InputError, match="its files changed; promote it again"):
        started_with(store, first)
    decider = Decider(Live(first), dict.fromkeys(first.experts, Price(input=1.0, output=1.0)))
    assert "its files changed" in follow(decider, promoted)
    assert decider.live.router is first
    store.close()


def test_a_command_that_is_given_twice_changes_nothing_more(
    router: Path, other_router: Path, tmp_path: Path
) -> None:
    """As after an interruption: else a second promotion would make a rollback return to the same router."""
    store = LogStore(f"sqlite:///{tmp_path}/log.db")
    started_with(store, LoadedRouter.of(router))
    assert promote(store, other_router, 0.1) == promote(store, other_router, 0.1)
    assert promote(store, other_router) == promote(store, other_router)
    assert rollback(store) == rollback(store)
    assert [row["action"] for row in store.deployments()] == ["start", "canary", "promote", "rollback"]
    assert store.deployments()[-1]["folder"] == str(router)
    store.close()


def test_a_server_that_is_refused_leaves_no_log(router: Path, models: Path, tmp_path: Path) -> None:
    models.write_text(models.read_text().replace("large", "huge"))
    options = ServeOptions(log=f"sqlite:///{tmp_path}/log.db")
    with pytest.raises(InputError, match="has the expert large, which is not in the model list"):
        Server(router, models, options)
    assert not (tmp_path / "log.db").exists()


def test_mistakes_are_named(router: Path, tmp_path: Path) -> None:
    empty = LogStore(f"sqlite:///{tmp_path}/log.db")
    with pytest.raises(InputError, match="has no deployment; start `serve` with this log first"):
        promote(empty, router)
    started_with(empty, LoadedRouter.of(router))
    with pytest.raises(InputError, match="has no earlier router"):
        rollback(empty)
    with pytest.raises(InputError, match="is not a database URL"):
        LogStore("decisions.db")
    with pytest.raises(InputError, match="log='mysql': is not SQLite or PostgreSQL"):
        LogStore("mysql://host/name")
    with pytest.raises(InputError, match="cannot be opened"):
        LogStore(f"sqlite:///{tmp_path}/no/such/folder/log.db")
    with pytest.raises(InputError, match="does not exist"):
        LogStore(f"sqlite:///{tmp_path}/new.db", create=False)
    assert not (tmp_path / "new.db").exists()
    sqlite3.connect(tmp_path / "another.db").close()
    (tmp_path / "another.db").touch()
    with pytest.raises(InputError, match="has no table of decisions"):
        LogStore(f"sqlite:///{tmp_path}/another.db", create=False)
    with pytest.raises(InputError) as error:
        LogStore("postgresql://user:secret-word@127.0.0.1:1/none")
    assert "secret-word" not in str(error.value)
    empty.close()
