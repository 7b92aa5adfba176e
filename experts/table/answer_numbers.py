"""Which experts gave the same answer, from the columns `answer/<expert>`."""

from __future__ import annotations

import numpy as np

from .outcome_table import OutcomeTable

__all__ = ["answer_numbers"]


def answer_numbers(table: OutcomeTable) -> np.ndarray | None:
    """Return a number for every answer, equal within a row where two experts gave the same answer.

    Class probabilities come first: the answer is the most probable class. Otherwise answers are the texts of
    the columns `answer/<expert>`, compared without case and surrounding white space. A missing or empty
    answer is equal to no other.

    Args:
        table: T queries, N experts.

    Returns:
        [T, N] int64; None if the table has neither, or the answers of fewer than two experts.
    """
    if table.probabilities is not None:
        return table.probabilities.argmax(axis=2)
    if table.extra is None:
        return None
    named = {name: f"answer/{name}" for name in table.experts}
    known = [name for name in table.experts if named[name] in table.extra.column_names]
    if len(known) < 2:
        return None
    numbers = np.empty((len(table), len(table.experts)), dtype=np.int64)
    numbers[:] = -1 - np.arange(len(table.experts))  # a missing answer has a number of its own
    places: dict[str, int] = {}
    for expert, name in enumerate(table.experts):
        if name not in known:
            continue
        for row, answer in enumerate(table.extra[named[name]].to_pylist()):
            text = "" if answer is None else str(answer).strip().lower()
            if text:
                numbers[row, expert] = places.setdefault(text, len(places))
    return numbers
