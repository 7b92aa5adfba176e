"""A log that the first version made opens, keeps its rows, and takes new ones."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from first_log import insert_first, make_first_log
from sqlalchemy import Engine, create_engine, inspect

from experts.table.prices import Price
from router_rl.serving.chat_request import ChatRequest
from router_rl.serving.decider import Decider
from router_rl.serving.live_routers import Live
from router_rl.serving.loaded_router import LoadedRouter
from router_rl.serving.log_export import export_log
from router_rl.serving.log_row import LogRows
from router_rl.serving.log_store import LogStore

PRICES = {"small": Price(input=0.1, output=0.4), "large": Price(input=2.0, output=8.0)}
NEW = {"pipeline"}  # columns that the first version did not have


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    engine = create_engine(f"sqlite:///{tmp_path}/log.db")
    yield engine
    engine.dispose()


def decided(router: LoadedRouter, name: str) -> dict[str, Any]:
    """Return a whole row of today."""
    decision = Decider(Live(router), PRICES, explore=0.5).decide("What is 3 plus 4?")
    request = ChatRequest(model="auto", prompt="What is 3 plus 4?", messages=[])
    return LogRows(b"key").row(name, request, decision.expert, decision) | {"status": "ok", "cost_usd": 1e-4}


def make_log(engine: Engine, router: LoadedRouter) -> None:
    """Make a log of the first version with a start and a scored decision."""
    make_first_log(engine)
    row = {name: value for name, value in decided(router, "old").items() if name not in NEW}
    insert_first(engine, "router_rl_decisions", row | {"propensities": json.dumps(row["propensities"])})
    insert_first(engine, "router_rl_outcomes", {"decision": "old", "score": 1.0, "at": 1.0})
    start = {
        "at": 1.0,
        "action": "start",
        "folder": str(router.folder),
        "digest": router.digest,
        "fraction": 1.0,
    }
    insert_first(engine, "router_rl_deployments", start)


def columns(engine: Engine) -> set[str]:
    return {column["name"] for column in inspect(engine).get_columns("router_rl_decisions")}


def check_upgrade(engine: Engine, router: LoadedRouter, tmp_path: Path) -> None:
    """Read, export, upgrade and write the log."""
    url = engine.url.render_as_string(hide_password=False)
    make_log(engine, router)
    with closing(LogStore(url, create=False)) as store:
        (row,) = store.decisions()
        assert (row["id"], row["score"], row["pipeline"]) == ("old", 1.0, None)
        assert export_log(store, tmp_path / "log.parquet")["for_learning"] == 1
    facts = json.loads(pq.read_schema(tmp_path / "log.parquet").metadata[b"router_rl"])
    assert facts["router"] == str(router.folder)
    assert not NEW & columns(engine)  # a reader changes nothing
    opened = [threading.Thread(target=lambda: LogStore(url).close()) for _ in range(3)]
    for thread in opened:
        thread.start()
    for thread in opened:
        thread.join()
    assert columns(engine) >= NEW
    with closing(LogStore(url)) as store:
        store.write([decided(router, "new")], [])
        store.attach("new", 0.5)
        old, new = sorted(store.decisions(), key=lambda row: row["id"], reverse=True)
        assert (old["pipeline"], new["pipeline"]) == (None, router.pipeline)
        assert export_log(store, tmp_path / "log.parquet")["for_learning"] == 2  # of one router


def test_a_log_of_the_first_version(engine: Engine, router: Path, tmp_path: Path) -> None:
    check_upgrade(engine, LoadedRouter.of(router), tmp_path)


def test_decisions_of_another_router_of_the_first_version_are_left_out(
    engine: Engine, router: Path, other_router: Path, tmp_path: Path
) -> None:
    """Nothing says which text pipeline made their features."""
    make_log(engine, LoadedRouter.of(other_router))
    with closing(LogStore(str(engine.url))) as store:
        store.write([decided(LoadedRouter.of(router), "new")], [])
        store.attach("new", 0.5)
        exported = export_log(store, tmp_path / "log.parquet")
    assert exported["for_learning"] == 1
    assert exported["not_for_learning"] == {"features of another text pipeline": 1}
