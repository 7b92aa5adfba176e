"""Which router serves: starts, promotions, canaries and rollbacks, in the log that all processes share."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from experts import InputError
from experts.io.progress import say

from .decider import Decider, Live
from .loaded_router import LoadedRouter
from .log_store import LogStore

__all__ = ["follow", "promote", "rollback", "started_with"]


def started_with(store: LogStore, router: LoadedRouter) -> Live:
    """Return what a server that is started with a router serves.

    It is the router, unless another one was promoted in its place in this log: then a restart goes on with
    that one. A start with a router of other files is a new start.

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
    """Serve another router from now on, for all or for a fraction of the requests (a canary).

    Running servers take it within seconds, between two decisions. A router that serves so already is left as
    it is, so that a command which was interrupted can be given again.

    Args:
        store: the decision log of the servers.
        folder: of the router; every server must be able to read it.
        fraction: of the requests, above 0 and at most 1.

    Returns:
        the newest deployment.

    Raises:
        InputError: no server has started with this log, or the router has other experts.
    """
    current, router = _current(store), LoadedRouter.of(folder)
    if (current["folder"], current["digest"], current["fraction"]) == (
        str(router.folder),
        router.digest,
        fraction,
    ):
        say(f"{router.folder} serves already")
        return _shown(current)
    serving = LoadedRouter.of(current["previous_folder" if current["action"] == "canary" else "folder"])
    if router.experts != serving.experts:
        problem = f"has the experts {', '.join(router.experts)}"
        raise InputError("router", str(folder), problem, f"use a router of {', '.join(serving.experts)}")
    row = _row("promote" if fraction == 1.0 else "canary", router, serving, fraction)
    store.deploy(row)
    return row


def rollback(store: LogStore) -> dict[str, Any]:
    """Serve the router again that served before the last promotion or canary.

    After a rollback, another one changes nothing.

    Args:
        store: the decision log of the servers.

    Returns:
        the newest deployment.

    Raises:
        InputError: nothing was promoted, or the earlier router cannot be loaded.
    """
    current = _current(store)
    if current["action"] == "rollback":
        say("rolled back already: nothing was promoted since")
        return _shown(current)
    if current["previous_folder"] is None:
        problem = "has no earlier router to return to"
        raise InputError("log", store.name, problem, "promote a router instead")
    row = _row(
        "rollback", LoadedRouter.of(current["previous_folder"]), LoadedRouter.of(current["folder"]), 1.0
    )
    store.deploy(row)
    return row


def follow(decider: Decider, row: Mapping[str, Any] | None) -> str:
    """Let a server take the newest deployment; return what changed, or an empty text.

    Args:
        decider: of the server.
        row: the newest deployment.

    Raises:
        InputError: the router cannot be loaded; the server goes on with the one that it has.
    """
    if row is None:
        return ""
    live = decider.live
    fraction = row["fraction"] if row["action"] == "canary" else 0.0
    now = (live.router.digest, None if live.canary is None else live.canary.digest, live.fraction)
    if row["action"] == "canary":
        wanted = (row["previous_digest"], row["digest"], fraction)
    else:
        wanted = (row["digest"], None, 0.0)
    if now == wanted:
        return ""
    known = {each.digest: each for each in (live.router, live.canary, live.shadow) if each is not None}
    new = _live_of(row, known)
    decider.replace(Live(new.router, new.canary, new.fraction, live.shadow))
    return f"{row['action']}: {row['folder']}"


def _live_of(row: Mapping[str, Any], known: Mapping[str, LoadedRouter]) -> Live:
    """Return the routers of a deployment; those that are loaded already are used."""
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
        raise InputError("log", store.name, "has no server", fix)
    return row


def _shown(row: Mapping[str, Any]) -> dict[str, Any]:
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
