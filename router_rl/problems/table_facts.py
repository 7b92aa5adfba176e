"""Facts about an outcome table for the description of a problem."""

from __future__ import annotations

from typing import Any

from experts import OutcomeTable
from experts.table.splitting import SPLITS

__all__ = ["table_facts"]


def table_facts(table: OutcomeTable, scale: float) -> dict[str, Any]:
    """Return the size of a table and its units, as JSON.

    Args:
        table: with a split.
        scale: unit of compute, in the table's cost unit.
    """
    return {
        "queries": {name: int((table.split == name).sum()) for name in SPLITS},
        "features": 0 if table.features is None else int(table.features.shape[1]),
        "cost_unit": table.cost_unit,
        "compute_unit": scale,
    }
