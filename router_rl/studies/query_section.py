"""Single test queries of `results.json`: where a router sends each, and what each expert would have got."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ..problems.problem import Problem
from .entry import Groups

__all__ = ["query_section"]

_ROWS = 100
_LETTERS = 300  # of a prompt


def query_section(
    groups: Groups, problem: Problem, recommendation: Mapping[str, Any] | None
) -> dict[str, Any] | None:
    """Return the section; None for a problem that decides something else than the rows of a table.

    The router is the recommended one, or that of the best method where one expert is recommended.

    Args:
        groups: entries by method and case label, ordered by seed.
        problem: the problem.
        recommendation: the recommendation of `results.json`.
    """
    table, scale = problem.table, getattr(problem, "scale", None)
    recommended = recommendation or {}
    method = recommended.get("best_method" if recommended.get("expert") else "method", "")
    group = groups.get((method, recommended.get("case", "")))
    if table is None or scale is None or group is None:
        return None
    seed = (recommended.get("router") or {}).get("seed")
    test, entry = table.part("test"), next((each for each in group if each.seed == seed), group[0])
    share, parts = entry.test.share, entry.test.parts
    if share is None or share.shape != test.quality.shape or not {"quality", "compute"} <= set(parts):
        return None
    rows = sorted({round(at) for at in np.linspace(0, len(test) - 1, min(_ROWS, len(test)))})
    return {
        "method": entry.method,
        "case": entry.case.label,
        "seed": entry.seed,
        "total": len(test),
        "rows": [
            {
                "id": str(test.query_id[row]),
                "prompt": None if test.prompt is None else _shortened(str(test.prompt[row])),
                "group": None if test.group is None else str(test.group[row]),
                "experts": [int(expert) for expert in np.flatnonzero(share[row])],
                "quality": float(parts["quality"][row]),
                "cost": float(parts["compute"][row] * scale),
                "each_quality": [float(value) for value in test.quality[row]],
                "each_cost": [float(value) for value in test.cost[row]],
            }
            for row in rows
        ],
    }


def _shortened(prompt: str) -> str:
    return prompt if len(prompt) <= _LETTERS else prompt[: _LETTERS - 1] + "…"
