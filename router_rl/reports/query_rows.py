"""The table of single queries: what each was sent to, and what each expert would have got."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from .number_format import amount, number
from .results_table import cost_unit_named

__all__ = ["query_rows"]

_LONGEST = 300  # letters of a prompt


def query_rows(results: Mapping[str, Any]) -> dict[str, Any] | None:
    """What the template shows of single test queries; None where the results have none.

    Args:
        results: the content of `results.json`; its `queries` are {method, case, total, rows}, and a row is
            {id, prompt, group, choice (an expert's number), quality [N], cost [N]}.
    """
    queries: Mapping[str, Any] = results.get("queries") or {}
    if not queries.get("rows"):
        return None
    experts: Sequence[str] = results["problem"]["experts"]
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


def _row(row: Mapping[str, Any], experts: Sequence[str], factor: float) -> dict[str, Any]:
    chosen = row["choice"]
    outcomes = [
        {
            "expert": name,
            "quality": number(quality, 2),
            "cost": amount(factor * cost),
            "chosen": place == chosen,
        }
        for place, (name, quality, cost) in enumerate(zip(experts, row["quality"], row["cost"], strict=True))
    ]
    return {
        "prompt": _shortened(row["prompt"] or row["id"]),
        "group": row["group"],
        "expert": experts[chosen],
        "quality": outcomes[chosen]["quality"],
        "cost": outcomes[chosen]["cost"],
        "could": number(max(row["quality"]), 2),
        "outcomes": outcomes,
    }


def _shortened(text: str) -> str:
    return text if len(text) <= _LONGEST else text[: _LONGEST - 1] + "…"
