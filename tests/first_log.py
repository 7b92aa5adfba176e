"""A decision log as the first version of `serve` made it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqlalchemy import Engine, text

__all__ = ["insert_first", "make_first_log"]

_TABLES = (
    """
    CREATE TABLE router_rl_decisions (
        id VARCHAR(32) NOT NULL, at FLOAT NOT NULL, router VARCHAR(80) NOT NULL, requested TEXT NOT NULL,
        expert TEXT NOT NULL, propensity FLOAT, propensities JSON, previous VARCHAR(32), session TEXT,
        status VARCHAR(16) NOT NULL, error TEXT, streamed BOOLEAN NOT NULL, tokens_in INTEGER,
        tokens_out INTEGER, cost_usd FLOAT, latency_s FLOAT, first_token_s FLOAT, prompt TEXT,
        prompt_hash VARCHAR(64), features BLOB, shadow_router VARCHAR(80), shadow_expert TEXT,
        PRIMARY KEY (id)
    )
    """,
    "CREATE INDEX router_rl_decisions_at ON router_rl_decisions (at)",
    """
    CREATE TABLE router_rl_outcomes (
        decision VARCHAR(32) NOT NULL, score FLOAT NOT NULL, at FLOAT NOT NULL, PRIMARY KEY (decision)
    )
    """,
    """
    CREATE TABLE router_rl_deployments (
        number INTEGER NOT NULL, at FLOAT NOT NULL, action VARCHAR(16) NOT NULL, folder TEXT NOT NULL,
        digest VARCHAR(80) NOT NULL, previous_folder TEXT, previous_digest VARCHAR(80),
        fraction FLOAT NOT NULL, PRIMARY KEY (number)
    )
    """,
)


def make_first_log(engine: Engine) -> None:
    """Make the tables.

    Args:
        engine: of an empty database, SQLite or PostgreSQL.
    """
    with engine.begin() as connection:
        for statement in _TABLES:
            if engine.dialect.name == "postgresql":
                statement = statement.replace("BLOB", "BYTEA").replace("number INTEGER", "number SERIAL")
            connection.execute(text(statement))


def insert_first(engine: Engine, table: str, row: Mapping[str, Any]) -> None:
    """Insert a row.

    Args:
        engine: of the database.
        table: name of the table.
        row: value by column.
    """
    names = ", ".join(row)
    with engine.begin() as connection:
        connection.execute(text(f"INSERT INTO {table} ({names}) VALUES (:{', :'.join(row)})"), dict(row))
