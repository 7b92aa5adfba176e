"""Writes decisions to the log in the background: many in one transaction, and kept while the log is down."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

from sqlalchemy.exc import DataError, IntegrityError, SQLAlchemyError

__all__ = ["LogWriter"]

# `insert` or `update`, the row, and what is called once it is stored.
_Waiting = tuple[str, Mapping[str, Any], Callable[[], None] | None]

_AGAIN_S = 0.5  # between two attempts to write while the log is down
_MOST = 500  # rows of a transaction
_PATIENCE_S = 2.0  # a request waits this long for its decision to be stored, then goes on without


class LogWriter:
    """One thread that commits decisions; `insert` returns once its decision is stored.

    While the log cannot be written, decisions stay in a bounded buffer, requests do not wait for them, and
    the thread tries again. Once the buffer is full, further decisions are lost and counted.

    Args:
        write: writes rows in one transaction, see `LogStore.write`; raises where it cannot.
        buffer: the most decisions that are kept.

    Attributes:
        down: why the log cannot be written; empty while it can.
        lost: decisions that the buffer had no room for, or that the database refused.
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
        """Rows that are not stored yet."""
        return len(self._waiting)

    async def insert(self, row: Mapping[str, Any]) -> bool:
        """Store a decision.

        Args:
            row: all columns of a decision.

        Returns:
            Whether it is stored now; False if it waits for the log, or was lost.
        """
        return await self.is_stored(self.begin(row))

    def begin(self, row: Mapping[str, Any]) -> asyncio.Future[None] | None:
        """Start to store a decision; nothing waits for it until `is_stored` is called.

        Args:
            row: all columns of a decision.

        Returns:
            what is done once it is stored; None while the log is down, or if it was lost.
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
            stored: of `begin`.
        """
        if stored is None:
            return False
        if stored.done():
            return True
        try:
            await asyncio.wait_for(stored, _PATIENCE_S)
        except (TimeoutError, asyncio.TimeoutError):
            return False
        return True

    def update(self, row: Mapping[str, Any]) -> None:
        """Change a decision later; nothing waits for it.

        Args:
            row: `id` and the columns to change.
        """
        self._add("update", row, None)

    def close(self, seconds: float = 5.0) -> int:
        """Store what is waiting, for at most so many seconds; return how many rows could not be stored."""
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
                batch = [self._waiting[at] for at in range(min(_MOST, len(self._waiting)))]
            try:
                self._store(batch)
            except (SQLAlchemyError, OSError) as error:
                self.down = " ".join(str(getattr(error, "orig", None) or error).split())[:200]
                if self._closing.wait(_AGAIN_S):
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
        """Write a batch; if the database refuses a value, write row by row without the refused ones."""
        parts = [[row for kind, row, _ in batch if kind == wanted] for wanted in ("insert", "update")]
        try:
            self._write(*parts)
        except (DataError, IntegrityError):
            if len(batch) == 1:
                self.lost += batch[0][0] == "insert"
                return
            for each in batch:
                self._store([each])
