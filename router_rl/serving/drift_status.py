"""Drift of the live models: quality or cost that changed since the first half of the router's decisions."""

from __future__ import annotations

from typing import Any

import numpy as np
from sqlalchemy.exc import SQLAlchemyError

from experts import DecisionLog, InputError

from ..problems.drift import monitor_log
from .loaded_router import LoadedRouter
from .log_store import LogStore

__all__ = ["drift_status"]

_NEWEST = 2_000  # number of decisions that are read
_FALSE_ALARMS = 0.01  # probability of any alarm without drift


def drift_status(store: LogStore, router: LoadedRouter) -> dict[str, Any]:
    """Return the models that drifted, as JSON; see `monitor_log`.

    Only the router's own decisions are compared: another router gives each model other prompts.

    Args:
        store: the decision log.
        router: the live router.

    Returns:
        `decisions`, their number, and `alarms`; or `problem`, the reason why drift is not known.
    """
    try:
        rows = [row for row in store.decisions(newest=_NEWEST) if row["router"] == router.digest]
    except SQLAlchemyError:
        return {"decisions": 0, "problem": "the log cannot be read now"}
    try:
        alarms = monitor_log(_log_of(rows, router.experts), false_alarms=_FALSE_ALARMS)
    except InputError:
        return {"decisions": len(rows), "problem": "too few decisions of this router"}
    return {"decisions": len(rows), "alarms": [alarm.to_json() for alarm in alarms]}


def _log_of(rows: list[dict[str, Any]], experts: tuple[str, ...]) -> DecisionLog:
    ids = {name: index for index, name in enumerate(experts)}

    def numbers(name: str) -> np.ndarray:
        return np.array([np.nan if row[name] is None else row[name] for row in rows], dtype=np.float64)

    return DecisionLog(
        experts=experts,
        query_id=np.array([row["id"] for row in rows], dtype=object),
        action=np.array([ids[row["expert"]] for row in rows], dtype=np.int64),
        propensity=numbers("propensity"),
        quality=numbers("score"),
        cost=numbers("cost_usd"),
        cost_unit="usd",
    )
