"""The compact table of the documents: every method once, its utility in every case, and the rival."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

from benchmark_scripts import benchmark

from router_rl.reports.results_table import references_of
from router_rl.reports.table_format import signed

overview = benchmark("overview").overview

REPORTS = Path(__file__).resolve().parents[1] / "router_rl" / "reports"
SAMPLES = runpy.run_path(str(REPORTS / "test_html_report.py"))  # made-up results


def test_the_cells_are_those_of_the_results() -> None:
    results: dict[str, Any] = SAMPLES["sample_results"](SAMPLES["METHODS"])
    lines = overview(results)
    cases = [case["label"] for case in results["cases"]]
    rows = {line.split(" | ")[0].strip("| "): line.strip("| ").split(" | ") for line in lines if "| " in line}
    (reference,) = references_of(results)[:1]
    assert len(cases) > 1
    for row in results["summary"]:
        cell = rows[row["method"]][2 + cases.index(row["case"])].strip(" |")
        assert cell.startswith(f"{row['utility_mean']:.4f}")
        difference = row[reference.field]
        if reference.holds(row):
            assert cell.endswith("(rival)")
        elif difference is not None:
            assert f"({signed(difference['mean'])}, " in cell
            low, high = difference["ci95"]
            assert ("▲" in cell, "▼" in cell) == (low > 0, high < 0)
    for sentence in results["verdict"]:
        assert f"- {sentence}" in lines
