"""`import`: convert measured results to an outcome table."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich.console import Group
from rich.table import Table
from rich.text import Text

from experts import InputError
from experts.io.atomic import replacing, writable_file
from experts.io.printable import printable
from experts.readers.importing import ImportOptions, expert_names, import_results
from experts.table.missing_outcomes import missing_text
from experts.table.price_template import price_template

from .command import Command

__all__ = ["COMMAND", "import_", "import_view"]


def import_(
    source: Path, *, out: Path | None = None, print_prices: bool = False, options: ImportOptions
) -> dict[str, Any]:
    """Convert your own results or public benchmarks to an outcome table, and report problems in the data.

    Args:
        source: a Parquet, CSV, JSON Lines or JSON file, or a folder of them.
        out: output Parquet file; with --print-prices, the YAML file to write.
        print_prices: print a table of prices to fill in for --prices, with the names of the experts, and
            convert nothing. With --out, write it to that file.
        options: how the results are read.
    """
    if print_prices:
        return _price_table(source, out, options)
    if out is None:
        raise InputError("out", None, "is missing", "give --out table.parquet")
    report = import_results(source, out, options=options)
    return {
        "table": str(out),
        "format": report.format,
        "cost_unit": report.cost_unit,
        "queries": report.queries,
        "kept": report.kept,
        "dropped": report.dropped,
        "missing": report.missing,
        "experts": report.experts,
        "best_single_quality": report.best_single,
        "oracle_quality": report.oracle,
        "findings": [finding.to_json() for finding in report.findings],
        "notes": list(report.notes),
    }


def _price_table(source: Path, out: Path | None, options: ImportOptions) -> dict[str, Any]:
    """Return the table of prices of the experts of some results, and write it to a file if one is given."""
    table, unpriced = price_template(expert_names(source, options=options))
    if out is not None:
        with replacing(writable_file("out", out)) as temporary:
            temporary.write_text(table, encoding="utf-8")
    return {"prices": table, "unpriced": list(unpriced), "written": None if out is None else str(out)}


def import_view(result: dict[str, Any]) -> Group:
    """Return what was read and kept, each expert's quality and cost, and the findings."""
    if "unpriced" in result:
        if result["written"] is None:
            return Group(Text(result["prices"], no_wrap=True, overflow="ignore", end=""))
        missing = len(result["unpriced"])
        return Group(Text(f"Fill in the prices of {missing} experts in {printable(result['written'])}"))
    dropped = "".join(f", {count} left out: {reason}" for reason, count in result["dropped"].items())
    kept = f"{result['kept']} of {result['queries']} queries ({result['format']}){dropped}"
    if result["missing"]:
        kept += f"; {missing_text(result['missing'], result['kept'] * len(result['experts']))}"
    experts = Table(box=None, padding=(0, 1), pad_edge=False)
    experts.add_column("expert", overflow="fold")
    experts.add_column("quality", justify="right")
    unit = result["cost_unit"]
    experts.add_column("cost per query" if unit == "unknown" else f"{unit} per query", justify="right")
    for name, one in sorted(result["experts"].items(), key=lambda item: -item[1]["quality"]):
        experts.add_row(Text(printable(name)), f"{one['quality']:.4f}", f"{one['cost']:.4g}")
    gain = (
        f"Best single expert: {result['best_single_quality']:.4f}; oracle (best expert on each query): "
        f"{result['oracle_quality']:.4f}. The difference is the most that routing can gain."
    )
    findings = [
        Text(f"Check: {printable(finding['message'])}", style="yellow") for finding in result["findings"]
    ]
    leaks = any(finding["kind"] == "leakage" for finding in result["findings"])
    advice = ["Import again with --drop-leaks, or read the table with --allow-leakage."] if leaks else []
    if unit == "unknown":
        advice.append("The unit of the costs is unknown; if it is US dollars, give --cost-unit usd.")
    hints = [Text(sentence, style="yellow") for sentence in advice]
    notes = [Text(f"Note: {printable(note)}", style="dim") for note in result["notes"]]
    return Group("", Text(kept), "", experts, "", Text(gain), *findings, *hints, *notes)


COMMAND = Command(
    run=import_,
    view=import_view,
    documents=("prices",),
    positional=(("source", Path, "results: a Parquet, CSV, JSON Lines or JSON file, or a folder of them"),),
)
