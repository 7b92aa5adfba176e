"""`monitor`: detect experts that have changed since the router was trained."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from rich.console import Group
from rich.table import Table
from rich.text import Text

from experts import InputError
from experts.io.value_range import Range

from .command import Command

__all__ = ["COMMAND", "monitor", "monitor_view"]


def monitor(
    run: Path | None = None,
    *,
    log: str,
    table: str | None = None,
    split: str = "validation",
    reference: Annotated[float, Range(0.0, 1.0, above=True, below=True)] = 0.5,
    false_alarms: Annotated[float, Range(0.0, 1.0, above=True, below=True)] = 0.01,
    allow_leakage: bool = False,
) -> dict[str, Any]:
    """Report experts whose outcomes changed: from the run's table, or else from the log's earlier part.

    Args:
        run: the run folder, or an exported router; needed with a table.
        log: decisions in chronological order (query_id, expert, quality, cost; propensity if known): a
            Parquet file, or the URL of a log of `serve`.
        table: the table that the router was trained on; null: the log is compared with its own earlier part.
        split: rows of the table with the expected outcomes.
        reference: without a table: fraction of the log, its beginning, that the rest is compared with.
        false_alarms: probability that a log without any change raises an alarm.
        allow_leakage: accept prompts that are in two splits; every output then says so.
    """
    from experts import DecisionLog

    from ..problems.drift import monitor as monitor_against
    from ..problems.drift import monitor_log
    from ..routing import Router
    from .log_source import log_file
    from .run_or_router import run_or_router

    trained = None if run is None else run_or_router(run)
    router = trained if trained is None or isinstance(trained, Router) else trained.router
    notes: tuple[str, ...] = ()
    if table is None:
        for name, value, default in (("split", split, "validation"), ("allow_leakage", allow_leakage, False)):
            if value != default:
                problem = "is about the rows of a table, and there is none"
                raise InputError(name, value, problem, "give --table")
        with log_file(log) as path:
            decisions = DecisionLog.read(path, None if router is None else router.experts)
        alarms = monitor_log(decisions, reference=reference, false_alarms=false_alarms)
    else:
        if router is None:
            fix = "give the run folder, or no --table"
            raise InputError("run", None, "is missing: the router selects the table's rows", fix)
        rows, weight = _expected(router, table, allow_leakage), None
        if [part.name for part in router.state] == ["compute_weight"]:
            if isinstance(trained, Router):
                fix = "give the run folder"
                raise InputError("run", str(run), "is an export, which does not hold the compute weight", fix)
            weight = None if trained is None else trained.objective.compute_weight
        with log_file(log) as path:
            decisions = DecisionLog.read(path, router.experts)
        alarms = monitor_against(
            router, rows.part(split), decisions, false_alarms=false_alarms, compute_weight=weight
        )
        notes = rows.notes
    return {
        **({} if run is None else {"run": str(run)}),
        "decisions": len(decisions),
        "false_alarms": false_alarms,
        "drift": [alarm.to_json() for alarm in alarms],
        "notes": list(notes),
    }


def _expected(router: Any, table: str, allow_leakage: bool) -> Any:
    """Return a table with the features that a router reads."""
    from experts import open_table

    from ..problems.prompt_features import featurised

    rows = open_table(table, allow_leakage=allow_leakage)
    return rows if rows.features is not None or router.text is None else featurised(rows, router.text)


def monitor_view(result: dict[str, Any]) -> Group:
    """Return the alarms, or the message that there are none."""
    rate = f"{result['false_alarms']:.1%}"
    summary = f"{result['decisions']} decisions; of logs without any change, {rate} raise an alarm"
    notes = [Text(f"Note: {note}", style="dim") for note in result["notes"]]
    if not result["drift"]:
        return Group("", Text("No drift."), Text(summary, style="dim"), *notes)
    table = Table(box=None, padding=(0, 1), pad_edge=False)
    for name in ("expert", "what", "expected", "seen", "since", "flagged"):
        table.add_column(name, justify="left" if name in ("expert", "what") else "right", overflow="fold")
    for alarm in result["drift"]:
        means = f"{alarm['expected']:.4g}", f"{alarm['seen']:.4g}", str(alarm["since"] + 1)
        table.add_row(alarm["expert"], alarm["kind"], *means, str(alarm["decision"]))
    advice = "Decisions are numbered from 1. Train again on outcomes from after the change."
    return Group("", Text("Drift:", style="yellow"), table, Text(advice), Text(summary, style="dim"), *notes)


COMMAND = Command(
    run=monitor,
    view=monitor_view,
    positional=(("run", Path, "a run folder of `train`, or an exported router"),),
)
