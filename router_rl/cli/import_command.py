"""`import`: results that others measured, as an outcome table."""

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
    """Turn results of your own or of public benchmarks into an outcome table, and say what is odd about them.

    Args:
        source: a Parquet, CSV, JSON Lines or JSON file, or a folder of them.
        out: the Parquet file to write.
        format: wide, long, routellm, routerbench, llmrouter, lm-eval; auto: as the first row shows.
        prices: litellm, or a YAML table of US dollars per million tokens; costs then come from tokens.
        on: the day whose prices count, such as 2024-07-01; the latest if null.
        cost_unit: of costs that the source states: usd, flops or seconds.
        metric: the score to take where there are several, such as acc_norm.
        full_marks: what the source calls perfect, such as 10 or 100.
        missing: rows: leave out queries that lack an expert; experts: leave out experts that lack a query.
        drop_leaks: leave out training and validation rows whose prompt is a test row's.
        seed: of the split that is made where the source has none.
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


def import_view(found: dict[str, Any]) -> Group:
    """What was read and kept, each expert's quality and cost, and what to look at."""
    dropped = "".join(f", {count} left out: {reason}" for reason, count in found["dropped"].items())
    kept = f"{found['kept']} of {found['queries']} queries ({found['format']}){dropped}"
    experts = Table(box=None, padding=(0, 1), pad_edge=False)
    experts.add_column("expert", overflow="fold")
    experts.add_column("quality", justify="right")
    unit = found["cost_unit"]
    experts.add_column("cost a query" if unit == "unknown" else f"{unit} a query", justify="right")
    for name, one in sorted(found["experts"].items(), key=lambda item: -item[1]["quality"]):
        experts.add_row(name, f"{one['quality']:.4f}", f"{one['cost']:.4g}")
    gain = (
        f"Best expert alone {found['best_single_quality']:.4f}; the best expert on each query "
        f"{found['oracle_quality']:.4f}: what a router could gain lies between."
    )
    odd = [Text(f"Look at: {finding['message']}", style="yellow") for finding in found["findings"]]
    leaks = any(finding["kind"] == "leakage" for finding in found["findings"])
    advice = ["Import again with --drop-leaks, or read the table with --allow-leakage."] if leaks else []
    if unit == "unknown":
        advice.append("The unit of the costs is not known; if it is dollars, say --cost-unit usd.")
    told = [Text(sentence, style="yellow") for sentence in advice]
    notes = [Text(f"Note: {note}", style="dim") for note in found["notes"]]
    return Group("", Text(kept), "", experts, "", Text(gain), *odd, *told, *notes)


COMMAND = Command(
    run=import_,
    view=import_view,
    positional=(("source", Path, "results: a Parquet, CSV, JSON Lines or JSON file, or a folder of them"),),
)
