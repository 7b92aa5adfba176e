"""`monitor`: detect experts that have changed since the router was trained."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from rich.console import Group
from rich.table import Table
from rich.text import Text

from experts.io.value_range import Range

from .command import Command

__all__ = ["COMMAND", "monitor", "monitor_view"]


def monitor(
    run: Path,
    *,
    log: Path,
    table: str,
    split: str = "validation",
    false_alarms: Annotated[float, Range(0.0, 1.0, above=True, below=True)] = 0.01,
    allow_leakage: bool = False,
) -> dict[str, Any]:
    """Compare a log of live decisions with the run's table and report experts whose outcomes changed.

    Args:
        run: the run folder.
        log: a Parquet file of decisions in chronological order (query_id, expert, propensity, quality, cost).
        table: the table that the run was trained on.
        split: rows of the table with the expected outcomes.
        false_alarms: probability that a log without any change raises an alarm.
        allow_leakage: accept prompts that are in two splits; every output then says so.
    """
    from experts import DecisionLog, open_table

    from ..problems.prompt_features import featurised
    from ..studies.monitor import monitor as detect_drift
    from ..studies.runs import read_run

    trained = read_run(run)
    rows = open_table(table, allow_leakage=allow_leakage)
    if rows.features is None and trained.router.text is not None:
        rows = featurised(rows, trained.router.text)
    decisions = DecisionLog.read(log, trained.router.experts)
    conditioned = [part.name for part in trained.router.state] == ["compute_weight"]
    weight = trained.objective.compute_weight if conditioned else None
    alarms = detect_drift(
        trained.router, rows.part(split), decisions, false_alarms=false_alarms, compute_weight=weight
    )
    return {
        "run": str(run),
        "decisions": len(decisions),
        "false_alarms": false_alarms,
        "drift": [alarm.to_json() for alarm in alarms],
        "notes": list(rows.notes),
    }


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


COMMAND = Command(run=monitor, view=monitor_view, positional=(("run", Path, "a run folder of `train`"),))
