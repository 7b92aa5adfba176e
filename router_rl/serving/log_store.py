"""The decision log in a database: SQLite in WAL mode by default, or PostgreSQL by its URL."""

from __future__ import annotations

import os
import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import groupby
from json import JSONDecodeError
from typing import Any

from sqlalchemy import (
    Float,
    String,
    and_,
    bindparam,
    create_engine,
    event,
    exists,
    func,
    insert,
    not_,
    null,
    or_,
    select,
    update,
)
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, NoSuchModuleError, NoSuchTableError, SQLAlchemyError

from experts import InputError

from .log_tables import CHANGES, DECISIONS, DEPLOYMENTS, LEARNED, METADATA, OUTCOMES
from .log_upgrade import columns_of, make_tables

__all__ = ["LogStore", "opened_log"]

_FIX_OPEN = "check the address, or give the log of a running `serve`"
_FIX = "use sqlite:///FILE.db or postgresql://user@host/name"
_BUSY_TIMEOUT_S = 5.0  # wait for a lock of another process
_CHANGE_LOCK = 7_265_636  # advisory lock of PostgreSQL: changes are numbered in commit order

_IS_KNOWN = select(DECISIONS.c.id).where(DECISIONS.c.id == bindparam("of"))
_UPDATE = update(DECISIONS).where(DECISIONS.c.id == bindparam("of"))  # the columns are those of the rows

# Inserts a change of a score in one statement, so that no other change comes in between. A score that is sent
# again is not a change.
_CHANGE = insert(CHANGES).from_select(
    ["decision", "before", "score"],
    select(
        bindparam("of", type_=String),
        select(OUTCOMES.c.score).where(OUTCOMES.c.decision == bindparam("of")).scalar_subquery(),
        bindparam("new", type_=Float),
    ).where(
        not_(exists().where(OUTCOMES.c.decision == bindparam("of"), OUTCOMES.c.score == bindparam("new")))
    ),
)


class LogStore:
    """Reads and writes the tables of a decision log; all methods are thread-safe.

    Every method raises `SQLAlchemyError` if the database cannot be used, and has then changed nothing.

    Args:
        url: SQLAlchemy URL of the database.
        create: create the tables that do not exist; False if the log must exist.

    Raises:
        InputError: the URL is wrong, or the database cannot be opened.
    """

    def __init__(self, url: str, *, create: bool = True) -> None:
        parsed = _parsed(url)
        self.name = parsed.render_as_string(hide_password=True)
        is_sqlite = parsed.get_backend_name() == "sqlite"
        if is_sqlite and not create and not os.path.isfile(parsed.database or ""):
            raise InputError("log", self.name, "does not exist", _FIX_OPEN)
        try:
            self._engine = create_engine(parsed, pool_pre_ping=not is_sqlite)
            if is_sqlite:
                event.listen(self._engine, "connect", _create_sqlite if create else _set_up_sqlite)
            if create:
                make_tables(self._engine, METADATA)
            self._columns = columns_of(self._engine, DECISIONS)
        except NoSuchTableError as error:
            self._engine.dispose()
            raise InputError("log", self.name, "has no table of decisions", _FIX_OPEN) from error
        except (SQLAlchemyError, UnicodeDecodeError) as error:  # SQLite's message quotes a damaged schema
            raise InputError("log", self.name, f"cannot be opened ({_reason(error)})", _FIX_OPEN) from error
        except ImportError as error:
            fix = "pip install 'router-rl[serve]'"
            raise InputError("log", self.name, f"needs a driver ({error})", fix) from error
        attach = self._dialect().insert(OUTCOMES)
        new = {"score": attach.excluded.score, "at": attach.excluded.at}
        self._attach = attach.on_conflict_do_update(index_elements=["decision"], set_=new)

    def write(self, inserts: Sequence[Mapping[str, Any]], updates: Sequence[Mapping[str, Any]]) -> None:
        """Insert and update decisions in one transaction; rows that exist are not inserted again.

        Args:
            inserts: rows of `DECISIONS`, each with all columns.
            updates: `id` and the columns to change.

        Raises:
            SQLAlchemyError: nothing was written.
        """
        with self._engine.begin() as connection:
            if inserts:
                connection.execute(self._insert_new(DECISIONS), list(inserts))
            for _, alike in groupby(updates, key=set):  # of the same columns: one statement
                rows = [{("of" if name == "id" else name): row[name] for name in row} for row in alike]
                connection.execute(_UPDATE, rows)

    def attach(self, decision: str, score: float) -> bool:
        """Attach a score to a decision; a later score replaces it.

        Args:
            decision: id of the decision.
            score: 0 to 1.

        Returns:
            Whether the log has the decision. If not, nothing is written.
        """
        with self._engine.begin() as connection:
            if connection.execute(_IS_KNOWN, {"of": decision}).first() is None:
                return False
            if self._engine.dialect.name == "postgresql":
                connection.execute(select(func.pg_advisory_xact_lock(_CHANGE_LOCK)))
            connection.execute(_CHANGE, {"of": decision, "new": score})
            connection.execute(self._attach, {"decision": decision, "score": score, "at": time.time()})
        return True

    def decisions(self, *, since: float = 0.0, newest: int | None = None) -> Iterator[dict[str, Any]]:
        """Yield decisions with their `score` (None if there is none), oldest first.

        Args:
            since: earliest time, seconds since 1970.
            newest: yield only this many of the newest; None: all.
        """
        # A log of an earlier version may lack columns.
        columns = [
            column if column.name in self._columns else null().label(column.name)
            for column in DECISIONS.columns
        ]
        joined = DECISIONS.outerjoin(OUTCOMES, OUTCOMES.c.decision == DECISIONS.c.id)
        query = select(*columns, OUTCOMES.c.score).select_from(joined).where(DECISIONS.c.at >= since)
        if newest is not None:
            ids = select(DECISIONS.c.id).order_by(DECISIONS.c.at.desc()).limit(newest)
            query = query.where(DECISIONS.c.id.in_(ids))
        with self._engine.connect().execution_options(yield_per=1000) as connection:
            for row in connection.execute(query.order_by(DECISIONS.c.at, DECISIONS.c.id)).mappings():
                yield dict(row)

    def newest_change(self) -> int:
        """Return the number of the newest change of a score; 0 if there is none."""
        with self._engine.connect() as connection:
            return connection.execute(select(func.max(CHANGES.c.number))).scalar() or 0

    def changes(
        self, pipeline: str, after: int, upto: int, waiting: Sequence[int] = ()
    ) -> Iterator[dict[str, Any]]:
        """Yield changes of scores in order: number, before, score; expert, features, cost_usd of decisions.

        Args:
            pipeline: digest of the text pipeline that computed the features.
            after: number before the first change.
            upto: number of the last change.
            waiting: numbers of earlier changes to yield too.
        """
        of = DECISIONS.c
        new = and_(CHANGES.c.number > after, CHANGES.c.number <= upto)
        query = (
            select(CHANGES.c.number, CHANGES.c.before, CHANGES.c.score, of.expert, of.features, of.cost_usd)
            .join(DECISIONS, of.id == CHANGES.c.decision)
            .where(of.pipeline == pipeline, or_(new, CHANGES.c.number.in_(waiting)))
            .order_by(CHANGES.c.number)
        )
        with self._engine.connect().execution_options(yield_per=1000) as connection:
            for row in connection.execute(query).mappings():
                yield dict(row)

    def learned(self, router: str) -> tuple[int, bytes] | None:
        """Return the newest change in an online learner's stored state, and the state; None if there is none.

        Args:
            router: digest of the router that the learner started from.
        """
        query = select(LEARNED.c.number, LEARNED.c.state).where(LEARNED.c.router == router)
        with self._engine.connect() as connection:
            row = connection.execute(query).first()
        return None if row is None else (row.number, row.state)

    def keep_learned(self, router: str, number: int, state: bytes) -> None:
        """Store the state of an online learner, unless the log has a newer one.

        Args:
            router: digest of the router that the learner started from.
            number: number of the newest change in the state.
            state: content of a safetensors file.
        """
        row = {"router": router, "number": number, "state": state}
        statement = self._dialect().insert(LEARNED).values(row)
        newer = statement.on_conflict_do_update(
            index_elements=["router"], set_=row, where=LEARNED.c.number < number
        )
        with self._engine.begin() as connection:
            connection.execute(newer)

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
            row: columns of `DEPLOYMENTS` except `number` and `at`.
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


@contextmanager
def opened_log(url: str) -> Generator[LogStore, None, None]:
    """Open the log of a server for a command, and close it.

    Args:
        url: SQLAlchemy URL of the database.

    Raises:
        InputError: the log does not exist, or cannot be read or written.
    """
    store = LogStore(url, create=False)
    try:
        yield store
    except (SQLAlchemyError, JSONDecodeError) as error:
        raise InputError("log", store.name, f"cannot be used ({_reason(error)})", _FIX_OPEN) from error
    finally:
        store.close()


def _parsed(url: str) -> URL:
    if not url.isprintable():
        raise InputError("log", _without_password(url), "has a character that cannot be printed", _FIX)
    try:
        parsed = make_url(url)
        parsed.get_dialect()
    except (ArgumentError, NoSuchModuleError, ValueError) as error:
        raise InputError("log", _without_password(url), "is not a database URL", _FIX) from error
    except ImportError as error:
        fix = "pip install 'router-rl[serve]'"
        raise InputError("log", _without_password(url), f"needs a driver ({error})", fix) from error
    if parsed.get_backend_name() not in ("sqlite", "postgresql"):
        raise InputError("log", parsed.get_backend_name(), "is not SQLite or PostgreSQL", _FIX)
    if parsed.drivername == "postgresql":
        parsed = parsed.set(drivername="postgresql+psycopg")
    return parsed


def _without_password(url: str) -> str:
    return url.rpartition("@")[2]  # a password may have an @


def _set_up_sqlite(connection: Any, _: Any) -> None:
    """Wait for locks of other processes; committed rows survive if the process is killed."""
    cursor = connection.cursor()
    cursor.execute(f"PRAGMA busy_timeout={int(1000 * _BUSY_TIMEOUT_S)}")
    cursor.execute("PRAGMA synchronous=NORMAL")
    cursor.close()


def _create_sqlite(connection: Any, record: Any) -> None:
    """Also use WAL mode: readers and one writer do not block each other."""
    _set_up_sqlite(connection, record)
    cursor = connection.cursor()
    cursor.execute("PRAGMA journal_mode=WAL")
    cursor.close()


def _reason(error: Exception) -> str:
    cause = getattr(error, "orig", None) or error
    return " ".join(str(cause).split())[:200]
