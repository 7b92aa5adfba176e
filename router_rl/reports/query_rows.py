"""The table of single queries: where each is sent, and each expert's quality and cost on it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .number_format import NOTHING, amount, number
from .results_table import cost_unit_named

__all__ = ["query_rows"]


def query_rows(results: Mapping[str, Any]) -> dict[str, Any] | None:
    """What the template shows of single test queries; None where the results have none.

    Args:
        results: the content of `results.json`; its `queries` are {method, case, total, rows}, and a row is
            {id, prompt, group, experts (numbers of those that answered), quality, cost, each_quality [N],
            each_cost [N]}; see `studies.query_section`.
    """
    queries: Mapping[str, Any] = results.get("queries") or {}
    if not queries.get("rows"):
        return None
    experts: list[str] = results["problem"]["experts"]
    unit = cost_unit_named((results.get("table_facts") or {}).get("cost_unit"))
    factor = 1.0 if unit is None else unit.per_compute
    rows = [_row(row, experts, factor) for row in queries["rows"]]
    return {
        "method": queries["method"],
        "case": queries["case"],
        "total": queries["total"],
        "cost_label": "cost" if unit is None else unit.label,
        "has_group": any(row["group"] for row in rows),
        "rows": rows,
    }


def _row(row: Mapping[str, Any], experts: list[str], factor: float) -> dict[str, Any]:
    outcomes = [
        {
            "expert": name,
            "quality": number(quality, 2),
            "cost": amount(factor * cost),
            "chosen": i in row["experts"],
        }
        for i, (name, quality, cost) in enumerate(
            zip(experts, row["each_quality"], row["each_cost"], strict=True)
        )
    ]
    return {
        "prompt": row["prompt"] or row["id"],
        "group": row["group"],
        "experts": ", ".join(experts[i] for i in row["experts"]) or NOTHING,
        "quality": number(row["quality"], 2),
        "cost": amount(factor * row["cost"]),
        "best_quality": number(max(row["each_quality"]), 2),
        "outcomes": outcomes,
    }
