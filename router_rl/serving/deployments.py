"""Deploy routers to running servers: starts, promotions, canaries and rollbacks, stored in the shared log."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from experts import InputError
from experts.io.progress import say

from .decider import Decider
from .live_routers import Live
from .loaded_router import LoadedRouter
from .log_store import LogStore

__all__ = ["follow", "promote", "rollback", "started_with"]


def started_with(store: LogStore, router: LoadedRouter) -> Live:
    """Return the routers that a server serves at its start.

    A restart with the same router serves the router that was promoted in its place, if there is one. A start
    with other router files serves those.

    Args:
        store: the decision log.
        router: the router of the command line.

    Raises:
        InputError: the promoted router cannot be loaded.
    """
    rows = store.deployments()
    start = next((row for row in reversed(rows) if row["action"] == "start"), None)
    if start is not None and start["digest"] == router.digest:
        return _live_of(rows[-1], {router.digest: router})
    store.deploy(_row("start", router, None, 1.0))
    return Live(router)


def promote(store: LogStore, folder: Path | str, fraction: float = 1.0) -> dict[str, Any]:
    """Serve another router from now on, for all requests or for a fraction of them (a canary).

    Running servers switch within seconds, between two decisions. If the router already serves this fraction,
    nothing changes, so that an interrupted command can be repeated.

    Args:
        store: the decision log of the servers.
        folder: folder of the router; every server must be able to read it.
        fraction: fraction of the requests, above 0 and at most 1.

    Returns:
        the newest deployment.

    Raises:
        InputError: no server has started with this log, the router has other experts, or it cannot be loaded.
    """
    current, router = _current(store), LoadedRouter.of(folder)
    if (current["folder"], current["digest"], current["fraction"]) == (
        str(router.folder),
        router.digest,
        fraction,
    ):
        say(f"{router.folder} already serves")
        return _result_of(current)
    serving = LoadedRouter.of(current["previous_folder" if current["action"] == "canary" else "folder"])
    if router.experts != serving.experts:
        problem = f"has the experts {', '.join(router.experts)}"
        raise InputError("router", str(folder), problem, f"use a router of {', '.join(serving.experts)}")
    row = _row("promote" if fraction == 1.0 else "canary", router, serving, fraction)
    store.deploy(row)
    return row


def rollback(store: LogStore) -> dict[str, Any]:
    """Serve the router from before the last promotion or canary again.

    A second rollback changes nothing.

    Args:
        store: the decision log of the servers.

    Returns:
        the newest deployment.

    Raises:
        InputError: nothing was promoted, or the earlier router cannot be loaded.
    """
    current = _current(store)
    if current["action"] == "rollback":
        say("already rolled back: nothing was promoted since")
        return _result_of(current)
    if current["previous_folder"] is None:
        problem = "has no earlier router to return to"
        raise InputError("log", store.name, problem, "promote a router instead")
    row = _row(
        "rollback", LoadedRouter.of(current["previous_folder"]), LoadedRouter.of(current["folder"]), 1.0
    )
    store.deploy(row)
    return row


def follow(decider: Decider, row: Mapping[str, Any] | None) -> str:
    """Apply the newest deployment to a server.

    Args:
        decider: the server's decider.
        row: the newest deployment; None if there is none.

    Returns:
        a message about the change; empty if nothing changed. A router that cannot be served leaves the
        current one in place, and the message says why.
    """
    if row is None:
        return ""
    live = decider.live
    fraction = row["fraction"] if row["action"] == "canary" else 0.0
    current = (live.router.digest, None if live.canary is None else live.canary.digest, live.fraction)
    if row["action"] == "canary":
        target = (row["previous_digest"], row["digest"], fraction)
    else:
        target = (row["digest"], None, 0.0)
    if current == target:
        return ""
    known = {each.digest: each for each in (live.router, live.canary, live.shadow) if each is not None}
    try:
        new = _live_of(row, known)
        decider.replace(Live(new.router, new.canary, new.fraction, live.shadow))
    except InputError as error:
        return f"not changed: {error}"
    return f"{row['action']}: {row['folder']}"


def _live_of(row: Mapping[str, Any], known: Mapping[str, LoadedRouter]) -> Live:
    """Return the routers of a deployment; routers in `known` are not loaded again."""
    router = _loaded(row["folder"], row["digest"], known)
    if row["action"] != "canary":
        return Live(router)
    return Live(_loaded(row["previous_folder"], row["previous_digest"], known), router, row["fraction"])


def _loaded(folder: str, digest: str, known: Mapping[str, LoadedRouter]) -> LoadedRouter:
    router = known.get(digest) or LoadedRouter.of(folder)
    if router.digest != digest:
        problem = "is not the router that was promoted: its files changed"
        raise InputError("router", folder, problem, "promote it again")
    return router


def _current(store: LogStore) -> dict[str, Any]:
    row = store.deployment()
    if row is None:
        fix = "start `serve` with this log first"
        raise InputError("log", store.name, "has no deployment", fix)
    return row


def _result_of(row: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in row.items() if name not in ("number", "at")}


def _row(action: str, router: LoadedRouter, previous: LoadedRouter | None, fraction: float) -> dict[str, Any]:
    return {
        "action": action,
        "folder": str(router.folder),
        "digest": router.digest,
        "previous_folder": None if previous is None else str(previous.folder),
        "previous_digest": None if previous is None else previous.digest,
        "fraction": fraction,
    }
