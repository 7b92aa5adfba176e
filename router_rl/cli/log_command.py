"""`log`: export the decision log of `serve`."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from experts.io.value_range import NonNegative

from .command import Command
from .serve_extra import serve_extra

__all__ = ["COMMAND", "log"]


def log(
    action: Literal["export"],
    *,
    out: Path,
    log: str = "sqlite:///decisions.db",
    since: NonNegative = 0.0,
) -> dict[str, Any]:
    """Write the scored decisions of a log to a Parquet file, for `train`, `evaluate` and `monitor --log`.

    Args:
        action: export.
        out: output Parquet file.
        log: URL of the decision log.
        since: only decisions since this time, in seconds since 1970.
    """
    with serve_extra("log"):
        from ..serving.log_export import export_log
        from ..serving.log_store import opened_log

    del action
    with opened_log(log) as store:
        return export_log(store, out, since=since)


COMMAND = Command(run=log, positional=(("action", Literal["export"], "export"),))
