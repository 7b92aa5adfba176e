"""Tables of the decision log, for SQLite and PostgreSQL."""

from __future__ import annotations

from sqlalchemy import (
    JSON,
    Boolean,
    Column,
    Float,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
)

__all__ = ["CHANGES", "DECISIONS", "DEPLOYMENTS", "LEARNED", "METADATA", "OUTCOMES"]

METADATA = MetaData()

# One row per attempt to answer a request: the decision, its propensities and its result.
DECISIONS = Table(
    "router_rl_decisions",
    METADATA,
    Column("id", String(32), primary_key=True),
    Column("at", Float, nullable=False),  # seconds since 1970
    Column("router", String(80), nullable=False),  # digest of the router that decided
    Column("requested", Text, nullable=False),  # the request's model: `auto`, or the name of an expert
    Column("expert", Text, nullable=False),
    Column("propensity", Float),  # of the expert; null if the client named it
    Column("propensities", JSON),  # of all experts, by name
    Column("previous", String(32)),  # the attempt that failed before this one
    Column("session", Text),
    Column("status", String(16), nullable=False),  # started, ok, failed, cut, gone (the client left)
    Column("error", Text),
    Column("streamed", Boolean, nullable=False),
    Column("tokens_in", Integer),
    Column("tokens_out", Integer),
    Column("cost_usd", Float),
    Column("latency_s", Float),
    Column("first_token_s", Float),
    Column("prompt", Text),  # only with --log-prompts
    Column("prompt_hash", String(64)),
    Column("features", LargeBinary),  # float32, little-endian
    Column("pipeline", String(80)),  # digest of the text pipeline that computed the features
    Column("shadow_router", String(80)),
    Column("shadow_expert", Text),
    Index("router_rl_decisions_at", "at"),
)

# Scores arrive after their decisions, but possibly before the decision is written.
OUTCOMES = Table(
    "router_rl_outcomes",
    METADATA,
    Column("decision", String(32), primary_key=True),
    Column("score", Float, nullable=False),  # 0 to 1
    Column("at", Float, nullable=False),
)

# Every score that was attached or replaced, in commit order; online learners read this table.
CHANGES = Table(
    "router_rl_changes",
    METADATA,
    Column("number", Integer, primary_key=True, autoincrement=True),
    Column("decision", String(32), nullable=False),
    Column("before", Float),  # the score that is replaced; null for the first
    Column("score", Float, nullable=False),
    sqlite_autoincrement=True,  # numbers are never reused
)

# State of an online learner, so that it need not read the whole log at each start.
LEARNED = Table(
    "router_rl_learned",
    METADATA,
    Column("router", String(80), primary_key=True),
    Column("number", Integer, nullable=False),  # the newest change that the state includes
    Column("state", LargeBinary, nullable=False),  # safetensors
)

# Deployments of routers: every start, promotion, canary and rollback; the newest is the last.
DEPLOYMENTS = Table(
    "router_rl_deployments",
    METADATA,
    Column("number", Integer, primary_key=True, autoincrement=True),
    Column("at", Float, nullable=False),
    Column("action", String(16), nullable=False),  # start, promote, canary, rollback
    Column("folder", Text, nullable=False),
    Column("digest", String(80), nullable=False),
    Column("previous_folder", Text),  # the router that a rollback returns to, or that runs with a canary
    Column("previous_digest", String(80)),
    Column("fraction", Float, nullable=False),  # fraction of the requests that the router decides
)
