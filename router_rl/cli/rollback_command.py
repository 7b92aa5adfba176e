"""`rollback`: let running servers return to the previous router."""

from __future__ import annotations

from typing import Any

from .command import Command
from .serve_extra import serve_extra

__all__ = ["COMMAND", "rollback"]


def rollback(*, log: str = "sqlite:///decisions.db") -> dict[str, Any]:
    """Serve the previous router again, as before the last promotion or canary.

    Args:
        log: URL of the servers' decision log.
    """
    with serve_extra("rollback"):
        from ..serving.deployments import rollback as roll_back
        from ..serving.log_store import opened_log

    with opened_log(log) as store:
        return roll_back(store)


COMMAND = Command(run=rollback, writes=())
