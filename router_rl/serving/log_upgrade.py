"""Create the tables of a log, and add missing columns to tables of an earlier version."""

from __future__ import annotations

from sqlalchemy import Connection, Engine, MetaData, Table, inspect, text

__all__ = ["columns_of", "make_tables"]

_LOCK = 7_243_160_418  # advisory lock of PostgreSQL, for servers that start at the same time


def make_tables(engine: Engine, metadata: MetaData) -> None:
    """Create the tables that do not exist, and add the columns that a table of an earlier version lacks.

    New columns are null in existing rows. Processes that start at the same time wait for each other.

    Args:
        engine: SQLAlchemy engine of the database.
        metadata: the tables.

    Raises:
        SQLAlchemyError: the tables cannot be changed.
    """
    with engine.begin() as connection:
        if engine.dialect.name == "sqlite":
            connection.exec_driver_sql("BEGIN IMMEDIATE")  # else Python's driver begins at the first INSERT
        else:
            connection.execute(text(f"SELECT pg_advisory_xact_lock({_LOCK})"))
        metadata.create_all(connection)
        for table in metadata.sorted_tables:
            _add_columns(connection, table)


def columns_of(engine: Engine, table: Table) -> frozenset[str]:
    """Return the names of the columns that a table has in the database.

    Args:
        engine: SQLAlchemy engine of the database.
        table: the table.

    Raises:
        SQLAlchemyError: the table does not exist, or the database cannot be read.
    """
    return frozenset(column["name"] for column in inspect(engine).get_columns(table.name))


def _add_columns(connection: Connection, table: Table) -> None:
    existing = {column["name"] for column in inspect(connection).get_columns(table.name)}
    for column in table.columns:
        if column.name not in existing:
            assert column.nullable  # existing rows have no value
            kind = column.type.compile(connection.dialect)
            connection.execute(text(f"ALTER TABLE {table.name} ADD COLUMN {column.name} {kind}"))
