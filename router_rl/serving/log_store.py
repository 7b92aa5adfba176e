"""The decision log in a database: SQLite in WAL mode by default, PostgreSQL by its URL."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from sqlalchemy import create_engine, event, insert, select, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, NoSuchModuleError, SQLAlchemyError

from experts import InputError

from .log_tables import DECISIONS, DEPLOYMENTS, METADATA, OUTCOMES

__all__ = ["LogStore"]

_FIX = "use sqlite:///FILE.db or postgresql://user@host/name"
_WAIT_S = 5.0  # for a lock of another process


class LogStore:
    """Reads and writes the tables of a decision log; every method may be called from any thread.

    Args:
        url: of the database, as SQLAlchemy spells it.
        create: create the tables that do not exist; False for a log that must exist.

    Raises:
        InputError: the URL is wrong, or the database cannot be opened.
    """

    def __init__(self, url: str, *, create: bool = True) -> None:
        parsed = _parsed(url)
        self.name = parsed.render_as_string(hide_password=True)
        if not create and parsed.get_backend_name() == "sqlite" and not _exists(parsed):
            fix = "check the path, or give the log of a running `serve`"
            raise InputError("log", self.name, "no such file", fix)
        try:
            self._engine = create_engine(parsed, pool_pre_ping=parsed.get_backend_name() != "sqlite")
            if parsed.get_backend_name() == "sqlite":
                event.listen(self._engine, "connect", _set_up_sqlite)
            if create:
                METADATA.create_all(self._engine)
            else:
                with self._engine.connect() as connection:
                    connection.execute(select(DECISIONS.c.id).limit(1))
        except SQLAlchemyError as error:
            fix = "check the address, or give the log of a running `serve`"
            raise InputError("log", self.name, f"cannot be opened ({_reason(error)})", fix) from error
        except ImportError as error:
            fix = "pip install 'router-rl[serve]'"
            raise InputError("log", self.name, f"needs a driver ({error})", fix) from error

    def write(self, inserts: Sequence[Mapping[str, Any]], updates: Sequence[Mapping[str, Any]]) -> None:
        """Write decisions and changes of decisions in one transaction; rows that exist are left alone.

        Args:
            inserts: rows of `DECISIONS`, each with all of its columns.
            updates: `id` and the columns to change.

        Raises:
            SQLAlchemyError: nothing was written.
        """
        with self._engine.begin() as connection:
            if inserts:
                connection.execute(self._insert_new(DECISIONS), list(inserts))
            for row in updates:
                values = {name: value for name, value in row.items() if name != "id"}
                connection.execute(update(DECISIONS).where(DECISIONS.c.id == row["id"]).values(values))

    def attach(self, decision: str, score: float) -> bool:
        """Attach a score to a decision; a later score replaces it.

        Args:
            decision: id of the decision.
            score: 0 to 1.

        Returns:
            Whether the log has the decision. If not, nothing is written.
        """
        with self._engine.begin() as connection:
            known = select(DECISIONS.c.id).where(DECISIONS.c.id == decision)
            if connection.execute(known).first() is None:
                return False
            row = {"decision": decision, "score": score, "at": time.time()}
            statement = self._dialect().insert(OUTCOMES).values(row)
            connection.execute(statement.on_conflict_do_update(index_elements=["decision"], set_=row))
        return True

    def decisions(self, *, since: float = 0.0, newest: int | None = None) -> Iterator[dict[str, Any]]:
        """Yield decisions with their scores (`score`, None where there is none), oldest first.

        Args:
            since: seconds since 1970.
            newest: only so many of the newest; None: all.
        """
        columns = select(DECISIONS, OUTCOMES.c.score).outerjoin(
            OUTCOMES, OUTCOMES.c.decision == DECISIONS.c.id
        )
        chosen = columns.where(DECISIONS.c.at >= since)
        if newest is not None:
            ids = select(DECISIONS.c.id).order_by(DECISIONS.c.at.desc()).limit(newest)
            chosen = chosen.where(DECISIONS.c.id.in_(ids))
        with self._engine.connect().execution_options(yield_per=1000) as connection:
            for row in connection.execute(chosen.order_by(DECISIONS.c.at, DECISIONS.c.id)).mappings():
                yield dict(row)

    def deployments(self) -> list[dict[str, Any]]:
        """Return every start, promotion and rollback, oldest first."""
        with self._engine.connect() as connection:
            rows = connection.execute(select(DEPLOYMENTS).order_by(DEPLOYMENTS.c.number)).mappings()
            return [dict(row) for row in rows]

    def deployment(self) -> dict[str, Any] | None:
        """Return the newest deployment; None if there is none."""
        newest = select(DEPLOYMENTS).order_by(DEPLOYMENTS.c.number.desc()).limit(1)
        with self._engine.connect() as connection:
            row = connection.execute(newest).mappings().first()
        return None if row is None else dict(row)

    def deploy(self, row: Mapping[str, Any]) -> None:
        """Add a deployment.

        Args:
            row: columns of `DEPLOYMENTS` but its number and time.
        """
        with self._engine.begin() as connection:
            connection.execute(insert(DEPLOYMENTS).values(at=time.time(), **row))

    def close(self) -> None:
        """Close all connections."""
        self._engine.dispose()

    def _dialect(self) -> Any:
        return sqlite if self._engine.dialect.name == "sqlite" else postgresql

    def _insert_new(self, table: Any) -> Any:
        return self._dialect().insert(table).on_conflict_do_nothing(index_elements=["id"])


def _parsed(url: str) -> URL:
    try:
        parsed = make_url(url)
        parsed.get_dialect()
    except (ArgumentError, NoSuchModuleError, ValueError) as error:
        raise InputError("log", _without_password(url), "is no database URL", _FIX) from error
    except ImportError as error:
        fix = "pip install 'router-rl[serve]'"
        raise InputError("log", _without_password(url), f"needs a driver ({error})", fix) from error
    if parsed.get_backend_name() not in ("sqlite", "postgresql"):
        raise InputError("log", parsed.get_backend_name(), "is not SQLite or PostgreSQL", _FIX)
    if parsed.drivername == "postgresql":
        parsed = parsed.set(drivername="postgresql+psycopg")
    return parsed


def _exists(parsed: URL) -> bool:
    """Return whether an SQLite database is there; connecting would create its file."""
    return parsed.database is not None and Path(parsed.database).is_file()


def _without_password(url: str) -> str:
    return url.partition("@")[2] or url


def _set_up_sqlite(connection: Any, _: Any) -> None:
    """Let readers and one writer work at once; a committed row survives a kill of the process."""
    cursor = connection.cursor()
    cursor.execute("PRAGMA journal_mode=WAL")
    cursor.execute("PRAGMA synchronous=NORMAL")
    cursor.execute(f"PRAGMA busy_timeout={int(1000 * _WAIT_S)}")
    cursor.close()


def _reason(error: SQLAlchemyError) -> str:
    cause = getattr(error, "orig", None) or error
    return " ".join(str(cause).split())[:200]
