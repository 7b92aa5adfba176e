"""`import`: convert measured results to an outcome table."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from rich.console import Group
from rich.table import Table
from rich.text import Text

from experts import import_results

from .command import Command

__all__ = ["COMMAND", "import_", "import_view"]


def import_(
    source: Path,
    *,
    out: Path,
    format: str = "auto",
    prices: str | None = None,
    on: str | None = None,
    cost_unit: str | None = None,
    metric: str | None = None,
    full_marks: float = 1.0,
    missing: Literal["rows", "experts"] = "rows",
    drop_leaks: bool = False,
    seed: int = 0,
) -> dict[str, Any]:
    """Convert your own results or public benchmarks to an outcome table, and report problems in the data.

    Args:
        source: a Parquet, CSV, JSON Lines or JSON file, or a folder of them.
        out: output Parquet file.
        format: wide, long, routellm, routerbench, llmrouter, lm-eval; auto: detected from the first row.
        prices: litellm, or a YAML table of US dollars per million tokens; costs are then computed from
            tokens.
        on: date of the prices, such as 2024-07-01; the latest if null.
        cost_unit: unit of the costs in the source: usd, flops or seconds.
        metric: the score to use if there are several, such as acc_norm.
        full_marks: maximum score in the source, such as 10 or 100.
        missing: rows: drop queries without all experts; experts: drop experts without all queries.
        drop_leaks: drop training and validation rows whose prompt is also in the test rows.
        seed: random seed of the split, if the source has none.
    """
    report = import_results(
        source,
        out,
        format=format,
        prices=prices,
        on=on,
        cost_unit=cost_unit,
        metric=metric,
        full_marks=full_marks,
        missing=missing,
        drop_leaks=drop_leaks,
        seed=seed,
    )
    return {
        "table": str(out),
        "format": report.format,
        "cost_unit": report.cost_unit,
        "queries": report.queries,
        "kept": report.kept,
        "dropped": report.dropped,
        "experts": report.experts,
        "best_single_quality": report.best_single,
        "oracle_quality": report.oracle,
        "findings": [finding.to_json() for finding in report.findings],
        "notes": list(report.notes),
    }


def import_view(result: dict[str, Any]) -> Group:
    """Return what was read and kept, each expert's quality and cost, and the findings."""
    dropped = "".join(f", {count} left out: {reason}" for reason, count in result["dropped"].items())
    kept = f"{result['kept']} of {result['queries']} queries ({result['format']}){dropped}"
    experts = Table(box=None, padding=(0, 1), pad_edge=False)
    experts.add_column("expert", overflow="fold")
    experts.add_column("quality", justify="right")
    unit = result["cost_unit"]
    experts.add_column("cost per query" if unit == "unknown" else f"{unit} per query", justify="right")
    for name, one in sorted(result["experts"].items(), key=lambda item: -item[1]["quality"]):
        experts.add_row(name, f"{one['quality']:.4f}", f"{one['cost']:.4g}")
    gain = (
        f"Best single expert: {result['best_single_quality']:.4f}; oracle (best expert on each query): "
        f"{result['oracle_quality']:.4f}. The difference is the most that routing can gain."
    )
    findings = [Text(f"Check: {finding['message']}", style="yellow") for finding in result["findings"]]
    leaks = any(finding["kind"] == "leakage" for finding in result["findings"])
    advice = ["Import again with --drop-leaks, or read the table with --allow-leakage."] if leaks else []
    if unit == "unknown":
        advice.append("The unit of the costs is unknown; if it is US dollars, give --cost-unit usd.")
    hints = [Text(sentence, style="yellow") for sentence in advice]
    notes = [Text(f"Note: {note}", style="dim") for note in result["notes"]]
    return Group("", Text(kept), "", experts, "", Text(gain), *findings, *hints, *notes)


COMMAND = Command(
    run=import_,
    view=import_view,
    positional=(("source", Path, "results: a Parquet, CSV, JSON Lines or JSON file, or a folder of them"),),
)
