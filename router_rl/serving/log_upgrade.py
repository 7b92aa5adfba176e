"""The tables of a log are made, and those of an earlier version get the columns that they lack."""

from __future__ import annotations

from sqlalchemy import Connection, Engine, MetaData, Table, inspect, text

__all__ = ["columns_of", "make_tables"]

_LOCK = 7_243_160_418  # of PostgreSQL, for the servers that start at the same time


def make_tables(engine: Engine, metadata: MetaData) -> None:
    """Create the tables that do not exist, and add the columns that a table of an earlier version lacks.

    New columns are null in the rows that are there. Processes that start at once wait for each other.

    Args:
        engine: of the database.
        metadata: the tables.

    Raises:
        SQLAlchemyError: the tables cannot be changed.
    """
    with engine.begin() as connection:
        if engine.dialect.name == "sqlite":
            connection.exec_driver_sql("BEGIN IMMEDIATE")  # Python's driver begins with the first INSERT only
        else:
            connection.execute(text(f"SELECT pg_advisory_xact_lock({_LOCK})"))
        metadata.create_all(connection)
        for table in metadata.sorted_tables:
            _add_columns(connection, table)


def columns_of(engine: Engine, table: Table) -> frozenset[str]:
    """Return the names of the columns that a table has in the database.

    Args:
        engine: of the database.
        table: the table.

    Raises:
        SQLAlchemyError: the table does not exist, or the database cannot be read.
    """
    return frozenset(column["name"] for column in inspect(engine).get_columns(table.name))


def _add_columns(connection: Connection, table: Table) -> None:
    there = {column["name"] for column in inspect(connection).get_columns(table.name)}
    for column in table.columns:
        if column.name not in there:
            assert column.nullable  # rows of an earlier version have no value
            kind = column.type.compile(connection.dialect)
            connection.execute(text(f"ALTER TABLE {table.name} ADD COLUMN {column.name} {kind}"))
