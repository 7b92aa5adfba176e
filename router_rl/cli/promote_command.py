"""`promote`: let running servers serve another router."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from experts.io.value_range import Range

from .command import Command
from .serve_extra import serve_extra

__all__ = ["COMMAND", "promote"]


def promote(
    router: Path,
    *,
    log: str = "sqlite:///decisions.db",
    fraction: Annotated[float, Range(0.0, 1.0, above=True)] = 1.0,
) -> dict[str, Any]:
    """Serve another router from now on, for all requests or a fraction of them; no request is dropped.

    Every server of the log takes it within seconds. `rollback` returns to the previous router.

    Args:
        router: folder of the router; every server must be able to read it.
        log: URL of the servers' decision log.
        fraction: share of the requests that it decides, such as 0.1 for a canary.
    """
    with serve_extra("promote"):
        from ..serving.deployments import promote as promote_router
        from ..serving.log_store import opened_log

    with opened_log(log) as store:
        return promote_router(store, router, fraction)


COMMAND = Command(run=promote, positional=(("router", Path, "folder of the router to serve"),), writes=())
