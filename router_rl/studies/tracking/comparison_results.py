"""What trackers keep of a finished comparison: its summary as numbers by name, and its files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from experts.io.escaping import tag_part

from .tracked_values import cost_tag

__all__ = ["comparison_artefacts", "comparison_summary"]

_PARTS = ("utility", "quality", "compute")


def comparison_summary(results: Mapping[str, Any]) -> dict[str, float]:
    """Return `METHOD/CASE/NAME` of every method and case, on test rows: utility, quality, compute and cost.

    Args:
        results: content of `results.json`.
    """
    facts = results.get("table_facts") or {}
    cost = cost_tag(facts.get("cost_unit"), facts.get("compute_unit"))
    summary: dict[str, float] = {}
    for row in results["summary"]:
        place = f"{tag_part(row['method'])}/{tag_part(row['case'])}"
        for name in _PARTS:
            if row.get(f"{name}_mean") is not None:
                summary[f"{place}/{name}"] = row[f"{name}_mean"]
        if cost is not None and row.get("compute_mean") is not None:
            summary[f"{place}/{cost.name}"] = row["compute_mean"] * cost.per_compute
    return summary


def comparison_artefacts(results: Mapping[str, Any], folder: Path) -> list[Path]:
    """Return the report, the results, and the folder of the recommended router.

    Args:
        results: content of `results.json`.
        folder: folder of the comparison.
    """
    router = (results.get("recommendation") or {}).get("router")
    paths = [folder / "results.json", folder / "report.html"]
    return paths if router is None else [*paths, folder / router["folder"]]
