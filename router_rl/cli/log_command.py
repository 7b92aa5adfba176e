"""`log`: export the decision log of `serve`, or import the log of another server."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from rich.console import Group
from rich.table import Table
from rich.text import Text

from experts import InputError
from experts.io.printable import printable
from experts.io.value_range import NonNegative

from .command import Command
from .serve_extra import serve_extra

__all__ = ["COMMAND", "log", "log_view"]

_URL = "sqlite:///decisions.db"


def log(
    action: Literal["export", "import"],
    source: Path | None = None,
    *,
    out: Path,
    log: str = _URL,
    since: NonNegative = 0.0,
    format: str = "auto",
    expert_column: str | None = None,
) -> dict[str, Any]:
    """Write a decision log as Parquet, for `train`, `evaluate`, `compare` and `monitor --log`.

    Args:
        action: export the log of `serve`, or import the log of another server.
        source: import: a Parquet, CSV, JSON Lines or JSON file, or a folder of them.
        out: output Parquet file.
        log: export: URL of the decision log.
        since: export: only decisions since this time, in seconds since 1970.
        format: import: litellm (rows of LiteLLM_SpendLogs) or vsr_replay (records of vLLM Semantic Router);
            auto: detected from the first row.
        expert_column: import: column that names the expert, such as model_group; null: model (litellm) or
            selected_model (vsr_replay).
    """
    if action == "import":
        from experts.readers.log_importing import import_log

        if source is None:
            raise InputError("source", None, "is missing", "give the file to import")
        for name, value, default in (("log", log, _URL), ("since", since, 0.0)):
            if value != default:
                raise InputError(name, value, "is about the export", "leave it out")
        return import_log(source, out, format_name=format, expert_column=expert_column)
    given = {"source": source, "format": None if format == "auto" else format, "expert_column": expert_column}
    for name, value in given.items():
        if value is not None:
            raise InputError(name, str(value), "is about the import", "leave it out, or write `log import`")
    with serve_extra("log"):
        from ..serving.log_export import export_log
        from ..serving.log_store import opened_log

    with opened_log(log) as store:
        return export_log(store, out, since=since)


def log_view(result: dict[str, Any]) -> Group:
    """Return how many decisions were written, and what they are good for."""
    lines = [f"{result['decisions']} decisions written to {printable(result['written'])}"]
    if "experts" not in result:
        reasons = "".join(f", {count} have {why}" for why, count in result["not_for_learning"].items())
        lines.append(f"Routers can be estimated and trained from {result['for_learning']} of them{reasons}.")
        lines.append("Arrivals, latencies and failures are those of all of them.")
        return Group(*(Text(line) for line in lines))
    table = Table(box=None, padding=(0, 1), pad_edge=False)
    table.add_column("expert", overflow="fold")
    for name in ("decisions", "failed", "US$/1k", "mean s", "median s", "quality"):
        table.add_column(name, justify="right")
    for name, one in result["experts"].items():
        cost = None if one["cost"] is None else 1000.0 * one["cost"]
        numbers = (cost, one["latency_s"], one["median_latency_s"], one["quality"])
        shown = ("-" if number is None else f"{number:.3g}" for number in numbers)
        table.add_row(Text(printable(name)), str(one["decisions"]), str(one["failed"]), *shown)
    left_out = [f"{count} rows left out: {printable(why)}" for why, count in result["left_out"].items()]
    lacks = (
        f"Such a log has no {result['lacks']}: it gives arrivals, service times and failures "
        "(`--env queueing`), and `monitor` reads it. "
        "To estimate or train routers, log by `serve --explore 0.1`."
    )
    lines.append(f"{result['format']}, {result['seconds'] / 3600.0:.3g} hours")
    return Group(*(Text(line) for line in lines), "", table, "", *(Text(each) for each in (*left_out, lacks)))


COMMAND = Command(
    run=log,
    view=log_view,
    positional=(
        ("action", Literal["export", "import"], "export or import"),
        ("source", Path, "import: the log, a Parquet, CSV, JSON Lines or JSON file, or a folder of them"),
    ),
)
