"""An outcome table with one more expert: its outcomes are measured on some queries and else estimated."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from experts import OutcomeTable

from .newcomer import Newcomer

__all__ = ["extended"]

_OPTIONAL = ("confidence", "tokens_in", "tokens_out", "latency_s")


def extended(table: OutcomeTable, expert: str, new: Newcomer) -> OutcomeTable:
    """Return the table with a new expert as the last one; its quality is the cautious estimate.

    Class probabilities are left out: those of the new expert are not known.

    Args:
        table: T queries, N experts.
        expert: name of the new expert.
        new: its outcomes on these queries.
    """
    measured = len(new.answers.rows)
    rest = len(table) - measured
    note = f"{expert}: quality and cost are measured on {measured} queries and estimated on {rest}"
    unknown = np.full((len(table), 1), np.nan, dtype=np.float32)
    optional = {name: getattr(table, name) for name in _OPTIONAL}
    return replace(
        table,
        probabilities=None,
        label=None,
        experts=(*table.experts, expert),
        quality=np.hstack([table.quality, new.cautious()[:, None]]),
        cost=np.hstack([table.cost, new.cost[:, None]]),
        notes=(*table.notes, note),
        **{name: np.hstack([value, unknown]) for name, value in optional.items() if value is not None},
    )
