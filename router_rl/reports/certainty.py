"""How certain a recommendation is, in words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["certainty_of"]


def certainty_of(recommendation: Mapping[str, Any]) -> list[str]:
    """Return sentences on the expected regret and on the rows that would settle the choice.

    Args:
        recommendation: of `results.json`; those of earlier releases lack these numbers.

    >>> certainty_of({"expected_regret": 0.0021, "rows_to_settle": 0, "alternative": {"method": "knn"}})
    ['Expected regret of this choice: 0.0021 utility. The difference to knn is significant.']
    """
    regret, rows = recommendation.get("expected_regret"), recommendation.get("rows_to_settle")
    sentences: list[str] = []
    if regret is not None:
        sentences.append(f"Expected regret of this choice: {regret:.4f} utility.")
    other = recommendation.get("alternative")
    if other is not None and rows is not None:
        settled = f"About {rows:,} more test rows would settle the difference to {other['method']}."
        sentences.append(settled if rows else f"The difference to {other['method']} is significant.")
    return [" ".join(sentences)] if sentences else []
