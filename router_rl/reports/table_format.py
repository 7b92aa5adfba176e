"""What tables of methods have in common wherever they are printed: families, daggers, the best, signs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

__all__ = ["FAMILIES", "best_of", "footnote", "marked", "signed"]

FAMILIES = {"rl": "RL", "gate": "gate", "baseline": "baseline", "bound": "bound"}
_DAGGER = "\N{DAGGER}"


def marked(row: dict[str, Any]) -> str:
    """A method's name, with a dagger if it is told more than the features of a query.

    Args:
        row: of the `summary` in `results.json`.

    >>> marked({"method": "group_label", "sees": ["group"]})
    'group_label †'
    """
    return f"{row['method']} {_DAGGER}" if row.get("sees") else row["method"]


def footnote(summary: Sequence[dict[str, Any]]) -> str | None:
    """What the dagger means, or None where no method has one.

    >>> footnote([{"method": "group_label", "sees": ["group"]}, {"method": "ppo", "sees": []}])
    "† told each query's group as well, which the others do not see, so no rival of theirs: group_label."
    """
    seen = {row["method"]: row["sees"] for row in summary if row.get("sees")}
    if not seen:
        return None
    columns = " and ".join(dict.fromkeys(name for names in seen.values() for name in names))
    return (
        f"{_DAGGER} told each query's {columns} as well, which the others do not see, so no rival of "
        f"theirs: {', '.join(seen)}."
    )


def best_of(rows: Sequence[dict[str, Any]]) -> str | None:
    """The method with the highest utility among those that could be used and see what all see.

    Args:
        rows: of the `summary`, all under one objective.
    """
    fair = [
        row
        for row in rows
        if row["family"] != "bound" and not row.get("sees") and row["utility_mean"] is not None
    ]
    return max(fair, key=lambda row: row["utility_mean"])["method"] if fair else None


def signed(value: float, digits: int = 4) -> str:
    """A difference with its sign; what rounds to nothing is +0, never -0.

    >>> signed(0.00012), signed(-0.00012), signed(-0.00001)
    ('+0.0001', '-0.0001', '+0.0000')
    """
    return f"{round(value, digits) + 0.0:+.{digits}f}"
