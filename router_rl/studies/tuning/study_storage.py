"""The Optuna study of a search, in a database: SQLite, PostgreSQL, or in memory."""

from __future__ import annotations

import os
import time
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import optuna
from optuna.exceptions import StorageInternalError
from optuna.storages import RDBStorage
from sqlalchemy import create_engine, event, inspect
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, SQLAlchemyError

from experts import InputError

from .seeded_sampler import SeededSampler, new_pruner
from .trial_states import queue_again
from .tune_options import SearchOptions

__all__ = ["StudyStorage", "study_in_memory"]

_IDENTITY = "router_rl"  # attribute of a study
_FIX = "use sqlite:///FILE.db or postgresql://user@host/name"
_LOCK_S = 60  # for a lock of another process
_HEARTBEAT_S, _GRACE_S = 60, 180  # a worker of a database server that is silent for so long is dead
_STARTS = 5  # workers that make the tables of an empty database at once disturb each other


class StudyStorage:
    """A database with studies, as a context manager that closes its connections.

    Args:
        url: of the database, as SQLAlchemy spells it.

    Attributes:
        name: the URL without its password.

    Raises:
        InputError: the URL is wrong.
    """

    def __init__(self, url: str) -> None:
        self._url = _parsed(url)
        self.name = self._url.render_as_string(hide_password=True)
        self._open: list[RDBStorage] = []

    def __enter__(self) -> StudyStorage:
        return self

    def __exit__(self, *_: object) -> None:
        """Close the connections."""
        self.close()

    def close(self) -> None:
        """Close the connections of this thread."""
        for storage in self._open:
            storage.remove_session()
            storage.engine.dispose()
        self._open.clear()

    @property
    def exists(self) -> bool:
        """Whether opening it makes no file."""
        return self._url.get_backend_name() != "sqlite" or os.path.exists(self._url.database or "")

    def opened(self, study_name: str, options: SearchOptions, identity: Mapping[str, Any]) -> optuna.Study:
        """Return a study, which is made if it does not exist.

        Args:
            study_name: its name.
            options: names the sampler, its seed, and the pruner.
            identity: everything that a trial's result depends on besides the hyperparameters, as JSON.

        Raises:
            InputError: the database cannot be opened, or the study is of another search.
        """
        with self.reported():
            study = self._made(study_name, options)
            kept: Mapping[str, Any] | None = study.user_attrs.get(_IDENTITY)
            if kept is None and not study.get_trials(deepcopy=False):
                study.set_user_attr(_IDENTITY, dict(identity))
                return study
        self._check(study_name, kept, identity)
        return study

    def check(self, study_name: str, identity: Mapping[str, Any]) -> None:
        """Check that a study is of this search, if it exists; nothing is written to an existing file.

        Args:
            study_name: its name.
            identity: as for `opened`.

        Raises:
            InputError: the database cannot be opened, or the study is of another search.
        """
        if self._url.get_backend_name() == "sqlite":
            self._check_file(Path(self._url.database or ""))
        if not self.exists:
            return
        with self.reported():
            engine = create_engine(self._url)
            try:
                is_new = not inspect(engine).has_table("studies")  # of Optuna
            finally:
                engine.dispose()
            if is_new:
                return
            storage = self._storage()
            if study_name not in {study.study_name for study in storage.get_all_studies()}:
                return
            study = optuna.load_study(study_name=study_name, storage=storage)
            kept, is_empty = study.user_attrs.get(_IDENTITY), not study.get_trials(deepcopy=False)
        if kept is not None or not is_empty:
            self._check(study_name, kept, identity)

    def _check_file(self, path: Path) -> None:
        """Raise InputError if a file cannot be made, or is no file."""
        if path.exists() and not path.is_file():
            raise InputError("storage", self.name, "is not a file", _FIX)
        if not path.exists() and not os.access(path.absolute().parent, os.W_OK):
            reason = f"cannot be made: {str(path.parent)!r} is not a folder that you can write to"
            raise InputError("storage", self.name, reason, "make the folder, or give another path")

    @contextmanager
    def reported(self) -> Generator[None, None, None]:
        """Turn the database's errors into one of the option.

        Raises:
            InputError: the database cannot be read or written.
        """
        try:
            yield
        except (SQLAlchemyError, StorageInternalError) as error:
            cause = error.__cause__ if isinstance(error, StorageInternalError) else error
            fix = "check the address; the same command goes on with the study"
            reason = f"cannot be used ({_reason(cause or error)})"
            raise InputError("storage", self.name, reason, fix) from error
        except ImportError as error:
            raise InputError("storage", self.name, f"needs a driver ({error})", _FIX) from error
        except RuntimeError as error:
            if type(error) is not RuntimeError or "version" not in str(error):
                raise
            fix = "use another database, or the release of Optuna that wrote it"
            raise InputError("storage", self.name, _reason(error), fix) from error

    def _made(self, study_name: str, options: SearchOptions) -> optuna.Study:
        return optuna.create_study(
            study_name=study_name,
            storage=self._storage(),
            sampler=SeededSampler(options.sampler, options.seed),
            pruner=new_pruner(options.pruner),
            direction="maximize",
            load_if_exists=True,
        )

    def _storage(self) -> RDBStorage:
        """Open the database, again if another process makes its tables at the same time."""
        for attempt in range(_STARTS):
            try:
                storage = self._connected()
            except (SQLAlchemyError, StorageInternalError):
                if attempt == _STARTS - 1 or not self.exists:
                    raise
                time.sleep(0.2 * (attempt + 1))
            else:
                self._open.append(storage)
                return storage
        raise AssertionError

    def _connected(self) -> RDBStorage:
        url = self._url.render_as_string(hide_password=False)
        if self._url.get_backend_name() == "sqlite":
            storage = RDBStorage(url, engine_kwargs={"connect_args": {"timeout": _LOCK_S}})
            _lock_transactions(storage)
            return storage
        return RDBStorage(
            url,
            engine_kwargs={"pool_pre_ping": True},
            heartbeat_interval=_HEARTBEAT_S,
            grace_period=_GRACE_S,
            heartbeat_stale_trial_callback=queue_again,
        )

    def _check(self, study_name: str, kept: Mapping[str, Any] | None, identity: Mapping[str, Any]) -> None:
        if kept is None:
            reason = f"{self.name} has a study of this name that this toolkit did not write"
            raise InputError("study_name", study_name, reason, "use another name")
        names = sorted({*kept, *identity})
        changed = [name for name in names if kept.get(name) != identity.get(name)]
        if changed:
            reason = f"{self.name} has a study of this name with another {', '.join(changed)}"
            raise InputError("study_name", study_name, reason, "use another name, or that study's options")


def _lock_transactions(storage: RDBStorage) -> None:
    """Make every transaction of SQLite lock the file at its start.

    Optuna reads the state of a waiting trial and then sets it. SQLite has no row locks, so without this two
    processes can both start the trial.

    Source: https://docs.sqlalchemy.org/en/20/dialects/sqlite.html (transactions)
    """

    def begin_by_hand(connection: Any, _record: Any) -> None:
        connection.isolation_level = None

    event.listen(storage.engine, "connect", begin_by_hand)
    event.listen(storage.engine, "begin", lambda connection: connection.exec_driver_sql("BEGIN IMMEDIATE"))
    storage.remove_session()
    storage.engine.dispose()  # connections from before the listeners


def study_in_memory(options: SearchOptions) -> optuna.Study:
    """Return a new study that is not stored.

    Args:
        options: names the sampler, its seed, and the pruner.
    """
    return optuna.create_study(
        sampler=SeededSampler(options.sampler, options.seed),
        pruner=new_pruner(options.pruner),
        direction="maximize",
    )


def _parsed(url: str) -> URL:
    """Return a URL with the driver that `pip install 'router-rl[tune]'` installs."""
    hidden = url.partition("@")[2] or url  # without a password
    if not url.isprintable():
        raise InputError("storage", hidden, "holds a character that cannot be printed", _FIX)
    try:
        parsed = make_url(url)
        backend = parsed.get_backend_name()
    except (ArgumentError, ValueError) as error:
        raise InputError("storage", hidden, "is no database URL", _FIX) from error
    if backend not in ("sqlite", "postgresql"):
        raise InputError("storage", backend, "is not SQLite or PostgreSQL", _FIX)
    if backend == "sqlite" and parsed.database in (None, "", ":memory:"):
        raise InputError("storage", hidden, "names no file", _FIX)
    return parsed.set(drivername="postgresql+psycopg") if parsed.drivername == "postgresql" else parsed


def _reason(error: BaseException) -> str:
    cause = getattr(error, "orig", None) or error
    return " ".join(str(cause).split())[:200]
