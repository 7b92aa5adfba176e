"""The writer: many rows in one transaction, fail open while the log is down, and no row twice."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from typing import Any

from sqlalchemy.exc import DataError, OperationalError

from router_rl.serving.log_writer import LogWriter


class Database:
    """Stores rows, unless it is down; refuses the row `bad`."""

    def __init__(self) -> None:
        self.rows: list[str] = []
        self.batches: list[int] = []
        self.down = threading.Event()
        self.slow = 0.0

    def write(self, inserts: list[Any], updates: list[Any]) -> None:
        if self.down.is_set():
            raise OperationalError("insert", {}, OSError("disk full"))
        if any(row["id"] == "bad" for row in inserts):
            raise DataError("insert", {}, ValueError("a NUL"))
        time.sleep(self.slow)
        self.batches.append(len(inserts) + len(updates))
        self.rows += [row["id"] for row in inserts]


def _until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_an_insert_returns_once_it_is_stored_and_many_share_a_transaction() -> None:
    database = Database()
    database.slow = 0.02
    writer = LogWriter(database.write, 1000)

    async def insert_all() -> list[bool]:
        return await asyncio.gather(*(writer.insert({"id": str(number)}) for number in range(200)))

    assert asyncio.run(insert_all()) == [True] * 200
    assert sorted(database.rows, key=int) == [str(number) for number in range(200)]
    assert len(database.batches) < 20
    assert writer.close() == 0


def test_while_the_log_is_down_requests_go_on_and_rows_are_stored_later() -> None:
    database = Database()
    writer = LogWriter(database.write, 3)
    database.down.set()
    writer.update({"id": "first"})
    _until(lambda: bool(writer.down))
    assert "disk full" in writer.down
    stored = [asyncio.run(writer.insert({"id": str(number)})) for number in range(4)]
    assert stored == [False] * 4
    assert writer.lost == 2  # the buffer holds the update and two rows
    database.down.clear()
    _until(lambda: writer.waiting == 0)
    assert database.rows == ["0", "1"]
    assert not writer.down
    assert writer.close() == 0


def test_a_row_that_the_database_refuses_does_not_stop_the_others() -> None:
    database = Database()
    database.down.set()
    writer = LogWriter(database.write, 100)
    writer.update({"id": "first"})
    _until(lambda: bool(writer.down))
    for name in ("a", "bad", "b"):
        asyncio.run(writer.insert({"id": name}))
    database.down.clear()
    _until(lambda: writer.waiting == 0)
    assert database.rows == ["a", "b"]
    assert writer.lost == 1
    assert writer.close() == 0
