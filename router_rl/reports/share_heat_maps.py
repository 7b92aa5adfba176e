"""Which expert answers which group of queries, as heat maps of the report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

__all__ = ["heat_maps"]

HEAT_LEVELS = 10
"""The strongest colour of the style sheet."""


def heat_maps(
    shares: Mapping[str, Any] | None, experts: Sequence[str], leading: set[str]
) -> dict[str, Any] | None:
    """Each method's shares with a level of colour, relative to the largest share of any method; or None.

    Args:
        shares: `shares_by_group` of `results.json`: {case, groups, methods: {name: [G][N]}}.
        experts: N names.
        leading: methods that are shown without a click.
    """
    methods: Mapping[str, Any] = (shares or {}).get("methods") or {}
    if shares is None or not methods:
        return None
    largest = max((share or 0.0 for rows in methods.values() for row in rows for share in row), default=0.0)

    def level(share: float | None) -> int:
        return round(HEAT_LEVELS * (share or 0.0) / largest) if largest else 0

    groups = shares.get("groups") or ["all"]
    maps = [
        {
            "method": name,
            "leading": name in leading or not leading,
            "rows": [
                (group, [(share, level(share)) for share in row])
                for group, row in zip(groups, rows, strict=False)
            ],
        }
        for name, rows in sorted(methods.items(), key=lambda item: item[0] not in leading)
    ]
    upright = len(experts) <= 6 and max(map(len, experts), default=0) <= 12
    lead = len([one for one in maps if one["leading"]])
    others = lead if lead < len(maps) else 0  # where the maps that do not lead begin
    return {
        "case": shares.get("case") or "",
        "others": others,
        "maps": maps,
        "largest": largest,
        "experts": experts,
        "upright": upright,
    }
