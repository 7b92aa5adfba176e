"""Follow-ups: columns of an outcome table that ask again for an answer, or have it verified.

A further sample of the expert `a` is the column of outcomes `a#2` (then `a#3`, ...): its own answer, quality,
confidence and cost. A verifier `v` of the answer of `a` is the column `a?v`: the answer and the quality of
`a`, what `v` thinks of it as the confidence, and the cost of verifying. A cascade can ask a follow-up only
after the column that it follows.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from ..io.errors import InputError
from .outcome_table import OutcomeTable

__all__ = ["Call", "call_of", "followed_by", "verified", "without_follow_ups"]


class Call(NamedTuple):
    """The call of a model that a column of outcomes stands for.

    Attributes:
        model: name of the model: the expert itself, the expert that is sampled again, or the verifier.
        sample: 1 for a first answer or verdict, 2 and more for further samples.
        verifies: the column whose answer the model is asked about; None: it answers the query.
    """

    model: str
    sample: int = 1
    verifies: str | None = None


def call_of(name: str, experts: Collection[str]) -> Call:
    """Return the call that a column stands for.

    Args:
        name: of the column.
        experts: names of all columns; `a#k` and `a?v` are follow-ups if `a` is among them.

    >>> call_of("small#2", ["small", "small#2"])
    Call(model='small', sample=2, verifies=None)
    >>> call_of("small?check", ["small", "small?check"])
    Call(model='check', sample=1, verifies='small')
    """
    first, _, number = name.rpartition("#")
    if _is_sample(number) and first in experts:
        return call_of(first, experts)._replace(sample=int(number))
    verifiable, mark, verifier = name.partition("?")
    if mark and verifiable in experts:
        return Call(verifier, verifies=verifiable)
    return Call(name)


def followed_by(experts: Sequence[str]) -> tuple[int, ...]:
    """Return the index of the column that each column follows, -1 for an expert's first answer.

    Args:
        experts: N names; `a#k` and `a?v` are follow-ups if `a` is a name, too.

    Raises:
        InputError: a follow-up stands before an expert's first answer.
    """
    places = {name: place for place, name in enumerate(experts)}
    after: list[int] = []
    for name in experts:
        first, _, number = name.rpartition("#")
        verifiable, mark, _ = name.partition("?")
        if _is_sample(number) and first in places:
            after.append(places.get(f"{first}#{int(number) - 1}", places[first]))
        elif mark and verifiable in places:
            after.append(places[verifiable])
        else:
            after.append(-1)
    first_answers = [place for place, before in enumerate(after) if before < 0]
    if first_answers and first_answers != list(range(len(first_answers))):
        late = next(experts[place] for at, place in enumerate(first_answers) if place != at)
        raise InputError(
            "experts", late, "stands after a follow-up", "put further samples and verifiers last"
        )
    return tuple(after)


def without_follow_ups(table: OutcomeTable) -> OutcomeTable:
    """Return the table with the experts' first answers alone.

    Args:
        table: with follow-ups or without.
    """
    kept = [place for place, before in enumerate(followed_by(table.experts)) if before < 0]
    if len(kept) == len(table.experts):
        return table
    per_expert = ("quality", "cost", "confidence", "tokens_in", "tokens_out", "latency_s", "probabilities")
    arrays = {name: getattr(table, name) for name in per_expert}
    return replace(
        table,
        experts=tuple(table.experts[place] for place in kept),
        **{name: array[:, kept] for name, array in arrays.items() if array is not None},
    )


def verified(
    table: OutcomeTable, verifiers: Sequence[str], *, answers: Sequence[str] | None = None, cost: float = 1.0
) -> OutcomeTable:
    """Return the table with a column for every verifier of every answer.

    What a verifier thinks of an answer is the class probability that it gives to it.

    Args:
        table: with class probabilities.
        verifiers: names of experts that verify.
        answers: names of the experts whose first answers are verified; None: all but the verifier's own.
        cost: of verifying, as a multiple of the verifier's own cost.

    Raises:
        InputError: a verifier is unknown, or the table has no class probabilities.
    """
    if table.probabilities is None:
        raise InputError("table", table.source, "has no class probabilities", "add probabilities/<expert>")
    if unknown := sorted({*verifiers, *(answers or ())} - set(table.experts)):
        raise InputError("verifiers", unknown[0], "is no expert of the table", "name experts of the table")
    rows = np.arange(len(table))
    confidence = table.confidence
    confidence = table.probabilities.max(axis=2) if confidence is None else confidence
    names, places, beliefs, costs = list(table.experts), list(range(len(table.experts))), [], []
    for place, before in enumerate(followed_by(table.experts)):
        for verifier in verifiers:
            judge = table.experts.index(verifier)
            if before >= 0 or judge == place or (answers is not None and table.experts[place] not in answers):
                continue
            names.append(f"{table.experts[place]}?{verifier}")
            places.append(place)
            answer = table.probabilities[:, place].argmax(axis=1)
            beliefs.append(table.probabilities[rows, judge, answer])
            costs.append(cost * table.cost[:, judge])
    copied = ("quality", "probabilities", "tokens_in", "tokens_out", "latency_s")
    arrays = {name: getattr(table, name) for name in copied}
    return replace(
        table,
        experts=tuple(names),
        confidence=np.column_stack([confidence, *beliefs]),
        cost=np.column_stack([table.cost, *costs]),
        **{name: array[:, places] for name, array in arrays.items() if array is not None},
    )


def _is_sample(number: str) -> bool:
    return number.isdecimal() and int(number) >= 2
