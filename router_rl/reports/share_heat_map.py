"""Which expert answers which group of queries, as a heat map with a menu of the methods."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from .drawing import ROW, Drawing, drawing, picked
from .heat_map import heat_map

__all__ = ["share_heat_map"]


def share_heat_map(
    shares: Mapping[str, Any] | None, experts: Sequence[str], first: Sequence[str]
) -> Drawing | None:
    """The heat map; None where no shares are known.

    Args:
        shares: `shares_by_group` of `results.json`: {case, groups, methods: {name: [G][N]}}.
        experts: N names.
        first: methods in the order of the menu; others follow.
    """
    by_method: Mapping[str, Any] = (shares or {}).get("methods") or {}
    if shares is None or not by_method:
        return None
    groups = shares.get("groups") or ["all"]
    methods = [name for name in dict.fromkeys([*first, *by_method]) if name in by_method]
    rows = [
        {"method": name, "group": group, "share": row}
        for name in methods
        for group, row in zip(groups, by_method[name], strict=False)
    ]
    menu = picked("picked_method", "Method", methods)
    chart = heat_map(rows, experts, "group", "expert", [menu], "datum.method === picked_method")
    table = [
        (row["method"], row["group"], *("" if share is None else f"{share:.1%}" for share in row["share"]))
        for row in rows
    ]
    return drawing(
        chart,
        "Share of each group's test queries that each expert answers",
        ("Method", "Group", *experts),
        table,
        height=ROW * len(experts),
    )
