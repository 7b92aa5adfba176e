"""Write decisions to the log in the background, in batches; keep them in memory while the log is down."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

from sqlalchemy.exc import DataError, IntegrityError, SQLAlchemyError

__all__ = ["LogWriter"]

# `insert` or `update`, the row, and a callback that runs once the row is stored.
_Waiting = tuple[str, Mapping[str, Any], Callable[[], None] | None]

_RETRY_S = 0.5  # between two attempts to write while the log is down
_MAX_ROWS = 500  # of a transaction
_INSERT_TIMEOUT_S = 2.0  # a request waits at most this long for its decision to be stored


class LogWriter:
    """A thread that commits decisions; `insert` returns once its decision is stored.

    While the log cannot be written, decisions stay in a bounded buffer, requests do not wait for them, and
    the thread retries. Once the buffer is full, further decisions are lost and counted.

    Args:
        write: writes rows in one transaction, see `LogStore.write`; raises an error if it cannot.
        buffer: maximum number of rows in memory.

    Attributes:
        down: reason why the log cannot be written; empty if it can.
        lost: number of decisions that did not fit into the buffer, or that the database rejected.
    """

    def __init__(self, write: Callable[[list[Any], list[Any]], None], buffer: int) -> None:
        self.down = ""
        self.lost = 0
        self._write, self._buffer = write, buffer
        self._waiting: deque[_Waiting] = deque()
        self._changed = threading.Condition()
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="decision-log", daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> int:
        """Number of rows that are not stored yet."""
        return len(self._waiting)

    async def insert(self, row: Mapping[str, Any]) -> bool:
        """Store a decision.

        Args:
            row: all columns of a decision.

        Returns:
            Whether it is stored; False if it still waits for the log, or was lost.
        """
        return await self.is_stored(self.begin(row))

    def begin(self, row: Mapping[str, Any]) -> asyncio.Future[None] | None:
        """Start to store a decision, without waiting; `is_stored` waits.

        Args:
            row: all columns of a decision.

        Returns:
            a future that completes when the decision is stored; None if the log is down or the buffer full.
        """
        loop = asyncio.get_running_loop()
        stored: asyncio.Future[None] = loop.create_future()

        def done() -> None:
            with contextlib.suppress(RuntimeError):  # the loop has ended
                loop.call_soon_threadsafe(lambda: stored.done() or stored.set_result(None))

        return None if not self._add("insert", row, done) or self.down else stored

    async def is_stored(self, stored: asyncio.Future[None] | None) -> bool:
        """Wait until a decision is stored, for a limited time; return whether it is.

        Args:
            stored: the future that `begin` returned.
        """
        if stored is None:
            return False
        if stored.done():
            return True
        try:
            await asyncio.wait_for(stored, _INSERT_TIMEOUT_S)
        except (TimeoutError, asyncio.TimeoutError):
            return False
        return True

    def update(self, row: Mapping[str, Any]) -> None:
        """Update a decision in the background.

        Args:
            row: `id` and the columns to change.
        """
        self._add("update", row, None)

    def close(self, seconds: float = 5.0) -> int:
        """Store the waiting rows and stop the thread.

        Args:
            seconds: maximum time to wait.

        Returns:
            the number of rows that are not stored.
        """
        self._closing.set()
        with self._changed:
            self._changed.notify()
        self._thread.join(seconds)
        return self.waiting

    def _add(self, kind: str, row: Mapping[str, Any], done: Callable[[], None] | None) -> bool:
        with self._changed:
            if len(self._waiting) >= self._buffer:
                self.lost += kind == "insert"
                return False
            self._waiting.append((kind, row, done))
            self._changed.notify()
        return True

    def _run(self) -> None:
        while True:
            with self._changed:
                while not self._waiting and not self._closing.is_set():
                    self._changed.wait()
                if not self._waiting:
                    return
                batch = [self._waiting[at] for at in range(min(_MAX_ROWS, len(self._waiting)))]
            try:
                self._store(batch)
            except (SQLAlchemyError, OSError) as error:
                self.down = " ".join(str(getattr(error, "orig", None) or error).split())[:200]
                if self._closing.wait(_RETRY_S):
                    return
                continue
            self.down = ""
            with self._changed:
                for _ in batch:
                    self._waiting.popleft()
            for _, _, done in batch:
                if done is not None:
                    done()

    def _store(self, batch: list[_Waiting]) -> None:
        """Write a batch; if the database rejects a value, write row by row and skip the rejected rows."""
        inserts, updates = (
            [row for kind, row, _ in batch if kind == operation] for operation in ("insert", "update")
        )
        try:
            self._write(inserts, updates)
        except (DataError, IntegrityError):
            if len(batch) == 1:
                self.lost += batch[0][0] == "insert"
                return
            for each in batch:
                self._store([each])
