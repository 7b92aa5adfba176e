"""A comparison on an environment as one self-contained HTML page: no network, no scripts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from experts.io.atomic import replacing

from ..problems.problem import Figure
from .env_view import columns_of
from .table_format import signed

__all__ = ["write_env_report"]


def write_env_report(results: dict[str, Any], figures: Sequence[Figure], path: Path) -> None:
    """Render the content of `results.json`, atomically.

    Args:
        results: what `compare_env` returns.
        figures: pictures; their SVG is placed as it is.
        path: the file to write.
    """
    loader = FileSystemLoader(Path(__file__).parent)
    pages = Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    parts = columns_of(results)
    cases: list[tuple[str, list[dict[str, Any]]]] = []
    for case in results["cases"]:
        rows = [row for row in results["summary"] if row["case"] == case["label"]]
        rows.sort(key=lambda row: (row["family"] != "bound", -row["utility_mean"]))
        cases.append((case["label"], [_shown(row, parts) for row in rows]))
    rivals = {
        found["method"]
        for row in results["summary"]
        if (found := row["paired_difference_to_rival"] or row["paired_difference_to_best_rival"])
    }
    page = pages.get_template("report.html.j2").render(
        results=results,
        cases=cases,
        parts=parts,
        figures=figures,
        rival=rivals.pop() if len(rivals) == 1 else None,
    )
    with replacing(path) as temporary:
        temporary.write_text(page, encoding="utf-8")


def _shown(row: dict[str, Any], parts: Sequence[str]) -> dict[str, Any]:
    low, high = row["utility_ci95"]
    found = row["paired_difference_to_rival"] or row["paired_difference_to_best_rival"]
    difference, outcome = "", ""
    if found is not None:
        below, above = found["ci95"]
        difference = f"{signed(found['mean'])} [{signed(below)}, {signed(above)}]"
        outcome = "win" if below > 0 else "loss" if above < 0 else ""
    values = [row.get(f"{name}_mean") for name in parts]
    return {
        "method": row["method"],
        "family": row["family"],
        "utility": f"{row['utility_mean']:.4f} [{low:.4f}, {high:.4f}]",
        "difference": difference,
        "outcome": outcome,
        "parts": ["" if value is None else f"{value:.4g}" for value in values],
    }
