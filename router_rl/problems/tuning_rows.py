"""Rows that select hyperparameters and methods: half of the validation rows, which no fit reads.

Fits use the validation rows for early stopping, calibration and the like. A utility measured on the same
rows is too high, most of all for the fits that used them most. So problems divide the validation rows: fits
read the split `validation`, comparisons select on the split `tuning`.
"""

from __future__ import annotations

import numpy as np

from experts import InputError, OutcomeTable
from experts.table.splitting import split_by_key, split_keys

__all__ = ["with_tuning_rows"]


def with_tuning_rows(table: OutcomeTable) -> OutcomeTable:
    """Return the table with half of its validation rows in the split `tuning`.

    Equal prompts stay in one split. A table that has the split `tuning` is returned unchanged.

    Args:
        table: with a split.

    Raises:
        InputError: there are fewer than two distinct validation prompts (or rows, without prompts).
    """
    if (table.split == "tuning").any():
        return table
    rows = np.flatnonzero(table.split == "validation")
    keys = split_keys(None if table.prompt is None else table.prompt[rows], table.query_id[rows])
    half = split_by_key(keys, 0, {"validation": 0.5, "tuning": 0.5})
    if len(set(half)) < 2:
        reason = f"has {len(rows)} validation rows; half of them must select hyperparameters"
        raise InputError("table", table.source, reason, "add validation rows with other prompts")
    split = table.split.copy()
    split[rows] = half
    return table.with_split(split)
