"""Digests tell data apart, and only data."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from experts import OutcomeTable
from router_rl.problems.data_digest import digest_of, rows_digest, table_digest


@pytest.fixture
def table() -> OutcomeTable:
    values = np.array([[1.0, np.nan], [0.5, 0.25]], dtype=np.float32)
    return OutcomeTable(
        experts=("a", "b"),
        query_id=range(2),
        features=np.eye(2),
        quality=values,
        cost=values,
        split=["train"] * 2,
    )


def test_a_missing_outcome_is_the_same_whichever_nan_it_is(table: OutcomeTable) -> None:
    other = table.quality.copy()
    other.view(np.uint32)[0, 1] |= 0x80000001
    changed = replace(table, quality=other)
    assert changed.quality.tobytes() != table.quality.tobytes()
    assert table_digest(changed) == table_digest(table)
    known = replace(table, quality=np.nan_to_num(table.quality), cost=np.nan_to_num(table.cost))
    assert table_digest(known) != table_digest(table)


def test_rows_are_told_apart_by_their_outcomes_not_their_features(table: OutcomeTable) -> None:
    assert rows_digest(replace(table, features=np.ones((2, 1)))) == rows_digest(table)
    assert rows_digest(table.take(np.array([1, 0]))) != rows_digest(table)
    assert rows_digest(replace(table, experts=("a", "c"))) != rows_digest(table)


def test_the_parts_of_a_digest_do_not_run_together() -> None:
    assert digest_of("a", "b") != digest_of("ab")
    assert digest_of(None) != digest_of("null")
    assert digest_of({"a": 1, "b": 2}) == digest_of({"b": 2, "a": 1})
    row = np.arange(4.0)
    assert digest_of(row) != digest_of(row.reshape(2, 2)) != digest_of(row.astype(np.float32))
